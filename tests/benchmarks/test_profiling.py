"""A profile names the dearest operations first and leaves a trace that viewers can read."""

import json

import torch

from benchmarks.profiling import Operation, profile_to, show


def test_the_dearest_operation_comes_first(tmp_path):
    a, small = torch.ones(600, 600), torch.ones(4)
    calls = []

    def work():
        calls.append(1)
        for _ in range(5):
            a @ a
        small + 1

    trace = tmp_path / "traces" / "work.json"
    found = profile_to(trace, work)
    assert len(calls) == 2  # once to warm up
    assert found[0].name == "aten::mm" and found[0].calls == 5 and found[0].share > 0.5
    assert found == sorted(found, key=lambda o: -o.seconds) and len(found) <= 10
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"aten::mm", "aten::add"} <= names


def test_the_table():
    text = show("step", [Operation("aten::mm", 0.25, 0.5, 3)])
    assert text.splitlines()[2] == "| `aten::mm` | 0.25 | 50.0% | 3 |"
