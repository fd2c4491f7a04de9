"""Phases of training are measured in processes of their own, compared as they occur, and their products counted."""

import json
from collections import Counter

import pytest
from click.testing import CliRunner

from benchmarks import calibration, training
from benchmarks.calibration import ORIGINAL_ITERATION, ORIGINAL_PHASES, REFERENCE_SECONDS
from benchmarks.library_routes import Limit, TimedProduct
from benchmarks.processes import in_fresh_process, peak_memory
from benchmarks.products import MatrixProduct

SECONDS = {"Gmain": 4.0, "Greg": 2.0, "Dmain": 6.0, "Dreg": 8.0}


@pytest.fixture
def figures(monkeypatch):
    """Phases that take `SECONDS`, products of a nanosecond per multiply-add, a machine as fast as the original's."""
    monkeypatch.setattr(calibration, "_products", lambda: dict.fromkeys(REFERENCE_SECONDS, lambda: None))
    monkeypatch.setattr(calibration.Calibration, "slowness", 1.0)
    monkeypatch.setattr(
        training,
        "in_fresh_process",
        lambda _, options, name, *__: {"seconds": SECONDS[name], "cpu_seconds": 2 * SECONDS[name], "memory": 5e9},
    )
    counts = {name: (Counter({MatrixProduct(1, 1000, 1000, 1000): int(t)}), 1.0) for name, t in SECONDS.items()}
    monkeypatch.setattr(training.work, "count_products", lambda *_, **__: counts)
    monkeypatch.setattr(
        training,
        "time_products",
        lambda found, **_: Limit([TimedProduct(p, n, p.multiply_adds / 1e9, "") for p, n in found.items()]),
    )


def test_an_iteration_is_its_phases_as_they_occur(figures, tmp_path):
    file = tmp_path / "t.json"
    result = CliRunner().invoke(training.main, ["--resolution", "64", "--json", str(file)], catch_exceptions=False)
    rows = json.loads(file.read_text())["rows"]
    assert rows["iteration"]["seconds"] == 4 + 2 / 4 + 6 + 8 / 16
    assert rows["iteration"]["cpu_seconds"] == 2 * rows["iteration"]["seconds"]
    assert rows["Gmain"]["multiple"] == pytest.approx(ORIGINAL_PHASES[64, 2]["Gmain"].wall / 4)
    assert rows["iteration"]["multiple"] == pytest.approx(ORIGINAL_ITERATION[64, 2].wall / 11)
    assert rows["iteration"]["memory_of_original"] == pytest.approx(5 / 8)
    assert {row["fraction_of_limit"] for row in rows.values()} == {1.0}  # a second for every 10⁹ multiply-adds
    assert rows["Dmain"]["multiply_adds"] == 6e9 and rows["iteration"]["multiply_adds"] == 11e9
    assert "| iteration | 11 | 22 |" in result.output


def test_other_models_and_sizes_have_no_original(figures):
    options = training.compose(["spec=small", "model=stylenerf_small"])
    rows = training.measure(options, videos=4, limit=False)["rows"]
    assert all("multiple" not in row and "fraction_of_limit" not in row for row in rows.values())


def test_a_phase_is_really_run():
    options = training.compose(["spec=small", "model=stylenerf_small"])
    found = training.measure_phase(options, "Greg", 2, 1, 1)
    assert found["seconds"] > 0 and found["memory"] > 1e8


def test_a_fresh_process_has_a_memory_of_its_own():
    memory = in_fresh_process(peak_memory)
    assert 1e6 < memory < peak_memory()
