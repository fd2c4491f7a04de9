"""Multiples of the original's time are corrected by how fast the machine is in this run."""

import pytest

from benchmarks import calibration
from benchmarks.calibration import (
    ORIGINAL_ITERATION,
    ORIGINAL_PHASES,
    ORIGINAL_RENDER,
    REFERENCE_SECONDS,
    Calibration,
    Times,
    time_rounds,
)


@pytest.fixture
def instant(monkeypatch):
    monkeypatch.setattr(calibration, "_products", lambda: dict.fromkeys(REFERENCE_SECONDS, lambda: None))


def test_a_multiple_is_corrected_by_the_products_of_the_same_run(instant):
    measured = Calibration()
    matmul, convolution = REFERENCE_SECONDS
    measured.seconds = {matmul: [0.2, 9.0, 0.1], convolution: [0.32, 0.32, 0.0]}  # medians: 2 and 8 times as long
    assert measured.slowness == pytest.approx(4)
    frame = ORIGINAL_RENDER["frame 256"]
    assert frame.wall == 0.63
    # Where this machine is four times slower, the same speed as the original's is four times as fast a program.
    assert measured.multiple(frame, 0.63) == pytest.approx(4)
    assert measured.multiple(frame, 0.063) == pytest.approx(40)


def test_iterations_weigh_phases_as_they_occur():
    assert ORIGINAL_ITERATION[256, 2].wall == pytest.approx(33.1 + 13.2 / 4 + 25.1 + 23.1 / 16)
    assert ORIGINAL_ITERATION[64, 1].cpu == pytest.approx(8.3 + 9.5 / 4 + 6.6 + 6.1 / 16)
    assert ORIGINAL_ITERATION[256, 2].peak == 12.4e9
    assert all(tuple(phases) == ("Gmain", "Greg", "Dmain", "Dreg") for phases in ORIGINAL_PHASES.values())


def test_rounds_alternate_and_medians_count(instant):
    calls = []
    measured = Calibration()
    times = time_rounds(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, calibration=measured
    )
    assert calls == ["a", "b"] * 4  # once to warm up
    assert all(len(values) == 3 for values in measured.seconds.values())
    assert set(times) == {"a", "b"} and all(len(t.walls) == len(t.cpus) == 3 for t in times.values())
    assert Times([1.0, 5.0, 2.0], [3.0, 1.0, 2.0]).wall == 2 and Times([1.0], [3.0]).report()["cpu"] == 3


def test_the_products_are_those_of_the_original_timing():
    shapes = [tuple(run().shape) for run in calibration._products().values()]
    assert shapes == [(2048, 2048), (2, 128, 128, 128)]
