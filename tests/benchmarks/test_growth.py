"""Growth: counts follow the size exactly where they must, the table and the exponent are arithmetic."""

import json

import pytest
from click.testing import CliRunner

from benchmarks import growth
from benchmarks.growth import AXES, Axis, Point, exponent, table
from dnnlib import UserError


def point(value, size, seconds, count=1.0):
    return Point(value=value, size=size, seconds=seconds, multiply_adds=count)


def test_products_of_videos_and_frames_grow_in_proportion():
    for name in ("render-videos", "render-frames"):
        one, two = growth.growth(AXES[name], rounds=1, quick=True)
        assert (one.value, two.value) == (1, 2)
        # What belongs to the network alone, or to the video alone, is prepared once.
        assert 1.98 * one.multiply_adds < two.multiply_adds <= 2 * one.multiply_adds
        assert one.seconds > 0 and one.rate == 2 * one.multiply_adds / one.seconds


def test_each_sample_costs_as_much_as_the_last():
    """Of a frame: what is not per sample (upsampler, background) is the same for both values."""
    four, eight = growth.growth(AXES["render-samples"], rounds=1, quick=True)
    rays, width, multiplier = 16 * 16, 64, 2  # sampling_multiplier of the small model
    # Per sample: four layers (encoded position 24, width 64), density, features and colours.
    layers = 24 * width + 3 * width * width + width
    per_sample = (eight.multiply_adds - four.multiply_adds) / (rays * 2 * multiplier * (8 - 4))
    assert per_sample >= layers and per_sample < 1.5 * layers


def test_an_iteration_weighs_its_phases(monkeypatch):
    monkeypatch.setattr(growth.work, "training", lambda *_, **__: {"a": (lambda: None, 1.0), "b": (lambda: None, 0.25)})
    found = next(growth.growth(Axis("train", "n", (1,), (1,), float), rounds=1, quick=True))
    assert set(found.parts) == {"a", "b"}
    assert found.seconds == pytest.approx(found.parts["a"] + found.parts["b"] / 4)


def test_the_exponent_is_the_slope():
    assert exponent([point(n, n, 3 * n**1.5) for n in (1, 2, 4, 8)]) == pytest.approx(1.5)
    assert exponent([point(n, n * n, 7.0) for n in (1, 2, 4)]) == pytest.approx(0)


def test_the_table_says_what_grew_by_how_much():
    axis = Axis("render", "pixels per side", (64, 128), (1, 2), float)
    lines = table(axis, [point(64, 1, 0.5, 1e9), point(128, 4, 1.0, 3e9)]).splitlines()
    assert lines[2] == "| 64 | 0.5 | 1 G | 4 |  |  |  |"
    assert lines[3] == "| 128 | 1 | 3 G | 6 | 3.00 | 2.00 | 4.00 |"


def test_the_command_writes_figures_and_plots(tmp_path):
    words = ["--quick", "--rounds", "1", "--only", "render-frames", "--json", str(tmp_path / "g.json")]
    result = CliRunner().invoke(growth.main, [*words, "--plots", str(tmp_path / "plots")], catch_exceptions=False)
    assert result.exit_code == 0 and "| frames of a video |" in result.output
    points = json.loads((tmp_path / "g.json").read_text())["axes"]["render-frames"]["points"]
    assert [p["value"] for p in points] == [1, 2]
    assert (tmp_path / "plots" / "growth-render-frames.png").stat().st_size > 1000
    with pytest.raises(UserError, match="no axis 'depth'"):
        CliRunner().invoke(growth.main, ["--only", "depth"], catch_exceptions=False)


def test_every_axis_runs_what_it_says():
    assert {axis.what for axis in AXES.values()} == {"render", "train", "synthesize"}
    for name, axis in AXES.items():
        assert axis.videos + axis.frames <= 1, name
        assert len(axis.values) >= 3 and len(axis.quick) == 2
        varied = axis.videos or axis.frames or any("{" in option for option in axis.options)
        assert varied, name
