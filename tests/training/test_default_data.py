"""Training without data=: the drawn heads are made once, kept in the cache, and used."""

import os

import pytest

from dnnlib import UserError
from tests.training.tiny import WORDS
from training import default_data
from training.options import plan


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(default_data, "VIDEOS", 2)
    monkeypatch.setattr(default_data, "FRAMES", 4)
    return tmp_path / "cache"


def test_it_is_made_once_and_trained_on(cache, tmp_path):
    words = [f"outdir={tmp_path / 'runs'}", *WORDS]
    job = plan(words)
    assert job.dataset.num_videos == 2 and job.dataset.describe()["num_frames"] == 8
    assert os.path.commonpath([job.options["data"], cache]) == str(cache)
    assert any("No data= was given" in note for note in job.notes)
    written = {path: path.stat().st_mtime_ns for path in cache.rglob("*.png")}
    again = plan(words)
    assert again.options["data"] == job.options["data"]
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.png")} == written


def test_other_cameras_and_sizes_are_other_sets(cache, tmp_path):
    options = plan([f"outdir={tmp_path / 'runs'}", *WORDS]).options
    keys = {default_data.default_recipe(options).key()}
    options["model"]["generator"]["camera"] = dict(options["model"]["generator"]["camera"], yaw=[-0.6, 0.6])
    keys.add(default_data.default_recipe(options).key())
    options["resolution"] = 32
    keys.add(default_data.default_recipe(options).key())
    options["resolution"] = 64
    keys.add(default_data.default_recipe(options).key())
    options["resolution"] = 256  # drawn at 64 and enlarged
    keys.add(default_data.default_recipe(options).key())
    assert len(keys) == 4


def test_mistakes_are_found_before_anything_is_drawn(cache, tmp_path):
    words = [f"outdir={tmp_path / 'runs'}", *WORDS, "model.generator.camera.fov=-3"]
    with pytest.raises(UserError, match="fov must lie between 0 and 180"):
        plan(words)
    assert not cache.exists()
