"""Rendering is measured as it is done, and compared with the figure that belongs to it."""

import json

import pytest
from click.testing import CliRunner

from benchmarks import calibration, rendering
from benchmarks.calibration import ORIGINAL_RENDER, REFERENCE_SECONDS


@pytest.fixture(autouse=True)
def calibrated(monkeypatch):
    """Calibration products that take no time; and as long as the original's, or twice."""
    monkeypatch.setattr(calibration, "_products", lambda: dict.fromkeys(REFERENCE_SECONDS, lambda: None))
    monkeypatch.setattr(calibration.Calibration, "slowness", 2.0)


def test_a_quick_run(tmp_path):
    words = ["--quick", "--rounds", "1", "--no-process", "--json", str(tmp_path / "r.json")]
    result = CliRunner().invoke(rendering.main, words, catch_exceptions=False)
    assert result.exit_code == 0
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert list(rows) == ["frame, small 32², float32", "loop, small 32², float32"]
    frame, loop = rows.values()
    assert (
        loop["limit_seconds"] == pytest.approx(16 * frame["limit_seconds"]) and loop["seconds"] > frame["seconds"] > 0
    )
    assert frame["fraction_of_limit"] == pytest.approx(frame["limit_seconds"] / frame["seconds"])
    assert "multiple" not in frame  # the original was not timed with this model
    assert all(f"| {name} |" in result.output for name in rows)


def test_multiples_are_those_of_the_figure(monkeypatch):
    monkeypatch.setattr(rendering, "MODELS", {"faceforensics 256²": (rendering.work.QUICK, "frame 256")})
    ran = []

    def run(words):
        ran.append(words)
        return {"seconds": 4.0, "cpu_seconds": 6.0, "peak": 1e9}

    monkeypatch.setattr(rendering, "run_process", run)
    rows = rendering.measure(rounds=1)["rows"]
    command = rows["command, faceforensics 256², float32"]
    assert command["multiple"] == pytest.approx(2 * ORIGINAL_RENDER["command"].wall / 4) and command["peak"] == 1e9
    loop, frame = (rows[f"{name}, faceforensics 256², float32"] for name in ("loop", "frame"))
    assert loop["multiple"] == pytest.approx(2 * ORIGINAL_RENDER["command"].wall / loop["seconds"])
    assert frame["multiple"] == pytest.approx(2 * ORIGINAL_RENDER["frame 256"].wall / frame["seconds"])
    assert [words[-3] for words in ran] == ["16", "1"] and all("--precision" not in words for words in ran)
    assert "multiple" not in rows["command for one frame, faceforensics 256², float32"]


def test_a_process_is_measured_or_its_failure_said():
    figures = rendering.run_process(["--help"])
    assert figures["seconds"] > 0 and figures["cpu_seconds"] > 0 and figures["peak"] > 1e6
    with pytest.raises(RuntimeError, match="generate.py failed: .*--network_pkl"):
        rendering.run_process(["--outdir", "x"])
