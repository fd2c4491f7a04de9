"""Distances of loss curves, worked out by hand."""

import pytest
from click.testing import CliRunner

from benchmarks import precision


def test_distances_of_curves():
    runs = {
        (kind, seed): dict.fromkeys(precision.CURVES, [value, value + 1])
        for kind, seed, value in (("float32", 0, 0), ("float32", 1, 3), ("bf16", 0, 0.5), ("bf16", 1, 3.5))
    }
    row = precision.compare(runs, range(2))["Loss/D/loss"]
    assert row["precisions"] == pytest.approx(0.5) and row["seeds"] == pytest.approx(3)
    assert row["float32"] == pytest.approx(2) and row["bf16_last"] == pytest.approx(3)
    assert precision.show({"Loss/D/loss": row}).splitlines()[2] == "| D/loss | 2 | 2.5 | 2.5 | 3 | 0.5 | 3 |"


def test_a_curve_without_points_is_refused_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr(precision, "loss_curves", None)
    result = CliRunner().invoke(precision.main, ["--windows", "0"])
    assert result.exit_code == 2 and "Invalid value for '--windows': 0 is not in the range x>=1." in result.output
