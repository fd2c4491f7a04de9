"""`python -m benchmarks.gpu`: every stage in miniature on a CPU, processes with time limits, the report."""

import dataclasses
import importlib
import json
import math

import pytest
import torch
from click.testing import CliRunner

from benchmarks.gpu import runner
from benchmarks.gpu.__main__ import chosen, main
from benchmarks.gpu.record import Bench, Record, largest, precision, seconds_per_call
from benchmarks.gpu.report import page, write_report
from benchmarks.gpu.runner import run_stages
from benchmarks.gpu.stages import STAGES, Stage
from dnnlib import UserError

CPU = torch.device("cpu")


def run(name, folder):
    """Results of one stage in miniature, in this process."""
    bench = Bench(
        device=CPU, tiny=True, seconds=600, folder=folder, scratch=folder, record=Record(folder / "result.json")
    )
    module, function = STAGES[name].function.split(":")
    getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function)(bench)
    return json.loads((folder / "result.json").read_text())


LONG = ("goldens", "operators", "training")
OTHERS = ("environment", "metrics")  # run by the test of the command


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in STAGES if n not in OTHERS],
)
def test_a_stage_in_miniature(tmp_path, name):
    result = run(name, tmp_path)
    assert result["failures"] == [] and result["headline"]
    tables = result["tables"]
    if name == "operators":
        assert result["figures"]["finite differences in float64 (gradcheck, gradgradcheck)"] == "11 of 11 passed"
        assert len([rows for title, rows in tables.items() if title.startswith("Relative error")][0]) == 6
    if name == "goldens":
        assert result["headline"].startswith("float32: 1 of 1 frames and 1 of 1 phases within the tests' bounds")
    if name == "phases":
        ((title, rows),) = tables.items()
        assert title.startswith("Phases, 4 videos") and {row["precision"] for row in rows} == {"float32", "TF32 + bf16"}
        assert all(row["videos_per_second"] > 0 and row["Dreg"].endswith(" ms") for row in rows)
    if name == "synchronisation":
        assert len(tables["Waits"]) == 11 and {row["first"] for row in tables["Waits"]} == {"none"}
    if name == "training":
        (row,) = tables["Training of the small model on synthetic heads, 32 videos a step"]
        assert row["videos_per_second"] > 0 and math.isfinite(row["Loss/D/loss"])
        assert (tmp_path / "samples_32.png").stat().st_size > 1000


def test_the_command_runs_stages_in_processes_and_writes_a_report(monkeypatch, tmp_path):
    for name in OTHERS:  # time limits that a busy machine keeps
        monkeypatch.setitem(STAGES, name, dataclasses.replace(STAGES[name], limit=600))
    words = ["--device", "cpu", "--out", str(tmp_path / "out"), "--only", "metrics,environment", "--minutes", "20"]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["environment", "metrics"] and len(lines) == 3
    assert lines[1].endswith("features differ by 0.0e+00, the distance by 0.0e+00")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["environment"]["figures"]["torch"] == torch.__version__
    assert "| Machine | done |" in (tmp_path / "out" / "report.md").read_text()


def test_without_a_gpu_there_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(main, ["--out", str(tmp_path / "out")])
    assert result.exit_code == 2 and not (tmp_path / "out").exists()
    assert result.output.startswith("There is no CUDA device") and result.output.count("\n") == 1


def test_an_unknown_stage_is_refused():
    assert chosen(("metrics", "data,operators")) == ["operators", "data", "metrics"]
    with pytest.raises(UserError, match="--only: there is no stage 'phase'; did you mean phases"):
        chosen(("phase",))


def test_a_hang_and_a_crash_do_not_stop_the_others(monkeypatch, tmp_path):
    monkeypatch.setitem(STAGES, "crash", Stage("Crash", "none:none", 600))
    monkeypatch.setitem(STAGES, "hang", Stage("Hang", "none:none", 0.1))
    monkeypatch.setitem(STAGES, "late", Stage("Late", "none:none", 60, least=1e6))
    told = []
    results = run_stages(
        ["hang", "crash", "late"], device="cpu", seconds=1000, folder=tmp_path, tiny=True,
        tell=lambda name, result: told.append(name),
    )  # fmt: skip
    assert told == list(results) == ["hang", "crash", "late"]
    assert results["hang"]["status"] == "out of time"
    assert results["hang"]["failures"][0]["reason"] == "ended after its time limit of 0 s"
    # The stage is known to this process only.
    assert results["crash"]["status"] == "crashed" and "KeyError: 'crash'" in results["crash"]["failures"][0]["reason"]
    assert results["late"] == runner._empty("skipped", "no time was left")


def test_failures_are_recorded_with_their_place(tmp_path):
    record = Record(tmp_path / "result.json")
    with record.attempt("a product"):
        torch.ones(2, 3) @ torch.ones(2, 3)
    record.row("Times", ms=0.123456, rate=math.nan)
    record.figure("error", math.inf)
    content = json.loads((tmp_path / "result.json").read_text())
    (failure,) = content["failures"]
    assert failure["what"] == "a product" and "test_gpu.py" in failure["reason"] and "RuntimeError" in failure["reason"]
    assert content["tables"]["Times"] == [{"ms": 0.1235, "rate": "nan"}] and content["figures"] == {"error": "inf"}


def test_an_error_that_is_no_number_is_the_largest():
    assert largest([0.5, 2.0, 1.0]) == 2 and largest([]) == 0
    assert all(math.isnan(largest(values)) for values in ([math.nan, 1.0], [1.0, math.nan]))


def test_the_report_is_a_page(tmp_path):
    result = runner._empty("failures", "9 frames/s") | {
        "wall": 3.4, "figures": {"copy": "2 | 3"}, "tables": {"Times": [{"a_b": 1.5, "c": None}, {"c": "x"}]},
        "failures": [{"what": "a frame", "reason": "off"}],
    }  # fmt: skip
    text = page({"rendering": result}, pictures=["rendering.png"])
    assert "| Rendering, FaceForensics 256² | failures | 3 | 9 frames/s |" in text and "| copy | 2 / 3 |" in text
    assert "Times:\n\n| a b | c |\n| :-- | --: |\n| 1.5 |  |\n|  | x |" in text
    assert "**Failed: a frame**\n\n```\noff\n```" in text and "](rendering.png)" in text
    write_report(tmp_path, {"rendering": result})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]


def test_times_and_precision():
    calls = []
    assert seconds_per_call(lambda: calls.append(1), CPU, rounds=4, warm_up=2) >= 0 and len(calls) == 6
    before = torch.backends.cudnn.allow_tf32
    with precision(tf32=not before):
        assert torch.backends.cudnn.allow_tf32 is not before
    assert torch.backends.cudnn.allow_tf32 is before
