"""Training without data=: the synthetic heads are made once, kept in the cache, and used."""

import json
import os
import re

import pytest

import run_train
from dnnlib import UserError
from tests.training.tiny import OVERRIDES
from training.launch import default_data
from training.launch.validate import plan


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(default_data, "VIDEOS", 2)
    monkeypatch.setattr(default_data, "FRAMES", 4)
    monkeypatch.setattr(default_data, "cores", lambda: 1)  # no processes for two videos
    return tmp_path / "cache"


def test_it_is_made_once_and_trained_on(cache, tmp_path, monkeypatch):
    """Metrics look a second time, once the data are known."""
    monkeypatch.setattr(default_data, "FRAMES", 16)
    words = [f"outdir={tmp_path / 'runs'}", *OVERRIDES]
    job = plan(words)
    assert job.dataset.num_videos == 2 and job.dataset.describe()["num_frames"] == 32
    assert os.path.commonpath([job.options["data"], cache]) == str(cache)
    assert any("No data= was given" in note for note in job.notes)
    written = {path: path.stat().st_mtime_ns for path in cache.rglob("*.png")}
    looks, look = [], run_train.metric_inputs
    monkeypatch.setattr(run_train, "metric_inputs", lambda options: looks.append(options["data"]) or look(options))
    folder = run_train.train([*words, "kimg=0.004", "imgsnap=null", "metrics=flicker32_16f"])
    assert looks == [None, job.options["data"]]
    (row,) = map(json.loads, (folder / "metric-flicker32_16f.jsonl").read_text().splitlines())
    assert row["real_name"] == os.path.basename(job.options["data"])
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.png")} == written


def test_other_cameras_and_sizes_are_other_sets(cache, tmp_path):
    options = plan([f"outdir={tmp_path / 'runs'}", *OVERRIDES]).options
    keys = {default_data.default_config(options).key()}
    options["model"]["generator"]["camera"] = dict(options["model"]["generator"]["camera"], yaw=[-0.3, 0.3])
    keys.add(default_data.default_config(options).key())
    options["resolution"] = 32
    keys.add(default_data.default_config(options).key())
    options["resolution"] = 64
    keys.add(default_data.default_config(options).key())
    options["resolution"] = 256  # drawn at 64 and enlarged
    keys.add(default_data.default_config(options).key())
    assert len(keys) == 4


def test_mistakes_are_found_before_anything_is_drawn(cache, tmp_path):
    words = [f"outdir={tmp_path / 'runs'}", *OVERRIDES, "model.generator.camera.fov=-3"]
    with pytest.raises(UserError, match="camera.fov must be a number between 0 and 180, got -3"):
        plan(words)
    assert not cache.exists()


def test_cameras_too_far_away_are_found_before_anything_is_drawn(cache, tmp_path):
    words = [f"outdir={tmp_path / 'runs'}", *OVERRIDES, "model.generator.camera.radius=[4,4]"]
    message = (
        "model.generator: camera.radius: synthetic heads are seen from at most 3.8 scene units, got 4. Synthetic heads "
        "have the same cameras: give data= for cameras of another kind."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        plan(words)
    assert not cache.exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (["cond=true"], "cond=true needs labels, which synthetic heads do not have"),
        (["aug=ada", "augpipe=all"], "unknown augmentation pipeline 'all'"),
        (["resume=/nowhere.pkl"], "no file /nowhere.pkl"),
    ],
)
def test_so_are_mistakes_that_the_data_do_not_come_into(words, message, cache, tmp_path):
    with pytest.raises(UserError, match=message):
        plan([f"outdir={tmp_path / 'runs'}", *OVERRIDES, *words])
    assert not cache.exists()


def test_missing_detectors_are_told_before_anything_is_drawn(cache, tmp_path):
    seen = []

    def inspect(options):
        seen.append(options["data"])
        raise UserError("there is no detector")

    with pytest.raises(UserError, match="there is no detector"):
        plan([f"outdir={tmp_path / 'runs'}", *OVERRIDES], inspect=inspect)
    assert seen == [None] and not cache.exists()


@pytest.mark.parametrize("words", [[], ["frame_stride=2", "nframes=3", "mirror=true"], ["subset=1", "resolution=32"]])
def test_a_dry_run_describes_what_would_be_drawn(words, cache, tmp_path):
    words = [f"outdir={tmp_path / 'runs'}", *OVERRIDES, *words]
    dry = plan([*words, "dry_run=true"])
    assert not cache.exists() and not (tmp_path / "runs").exists()
    (note,) = dry.notes
    frames, side = max(4, dry.options["nframes"] * dry.options["frame_stride"]), dry.options["resolution"]
    assert f"2 videos of {frames} frames with {side}×{side} pixels" in note and dry.options["data"] in note
    made = plan(words)
    assert (made.dataset.describe(), made.description) == (dry.dataset.describe(), dry.description)
    assert plan([*words, "dry_run=true"]).notes == made.notes  # it is there now


def test_how_long_drawing_takes_is_said_before(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(default_data, "cores", lambda: 2)

    def draw(folder, config):
        assert "512 videos of 16 frames with 32×32 pixels" in (out := capsys.readouterr().out)
        assert "about 2m 35s on 2 cores, about 40.0 MiB" in out
        raise UserError("drawn")

    monkeypatch.setattr(default_data, "make_dataset", draw)
    with pytest.raises(UserError, match="drawn"):
        plan([f"outdir={tmp_path / 'runs'}"])


def test_no_place_for_it(cache, tmp_path):
    cache.write_text("", encoding="utf-8")  # a file where a folder should be
    with pytest.raises(
        UserError, match="Cannot use the cache folder .*: give data=, or set XDG_CACHE_HOME to a folder"
    ):
        plan([f"outdir={tmp_path / 'runs'}", *OVERRIDES])
