"""The output files of a camera path."""

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from dnnlib import UserError
from renderer.depth_files import read_depth_png
from renderer.output_writer import OutputVideos

FILES = {"fps": 8, "near": 0.8, "far": 1.2}
SIZES = dict.fromkeys(("rgb", "depth", "opacity"), (8, 8))


def maps(depth, size=8):
    return {
        "rgb": torch.full([3, size, size], 0.5),
        "depth": torch.full([1, size // 2, size // 2], depth),
        "opacity": torch.ones(1, size // 2, size // 2),
    }


def write(stem, depths, **files):
    with OutputVideos(str(stem), ["rgb", "depth", "opacity"], **FILES, **files) as videos:
        for depth in depths:
            videos.add(maps(depth), sizes=SIZES)
    return videos.paths


def test_a_video_for_each_output_and_their_frames(tmp_path):
    paths = write(tmp_path / "a", [0.9, 1.0, 1.1], save_frames=True)
    assert paths == [str(tmp_path / name) for name in ("a.mp4", "a_depth.mp4", "a_opacity.mp4")]
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    frames = [f"{folder}/000{i}.png" for folder in ("a", "a_depth", "a_opacity") for i in range(3)]
    assert names == sorted(["a.mp4", "a_depth.mp4", "a_opacity.mp4", "a_depth/depth.json", *frames])
    for i, depth in enumerate((0.9, 1.0, 1.1)):
        assert np.allclose(read_depth_png(tmp_path / "a_depth" / f"000{i}.png"), np.full((4, 4), depth), atol=4e-6)
    assert np.asarray(Image.open(tmp_path / "a" / "0000.png")).shape == (8, 8, 3)
    assert np.asarray(Image.open(tmp_path / "a_opacity" / "0000.png")).min() == 255
    for path in paths:
        reader = imageio_ffmpeg.read_frames(path)
        assert next(reader)["size"] == (8, 8) and len(list(reader)) == 3


def test_depth_is_white_at_the_near_end_of_the_volume(tmp_path):
    _, path, _ = write(tmp_path / "a", [0.9])  # a quarter of the way
    reader = imageio_ffmpeg.read_frames(path)
    next(reader)
    assert np.frombuffer(next(reader), np.uint8).astype(int) == pytest.approx(191, abs=3)


def test_outputs_may_have_sizes_of_their_own(tmp_path):
    with OutputVideos(str(tmp_path / "a"), ["rgb", "depth"], **FILES) as videos:
        videos.add(maps(1.0), sizes={"rgb": (8, 8), "depth": (16, 16)})
    assert [next(imageio_ffmpeg.read_frames(path))["size"] for path in videos.paths] == [(8, 8), (16, 16)]


def test_frames_of_a_longer_video_are_removed(tmp_path):
    write(tmp_path / "a", [0.9, 1.0, 1.1], save_frames=True)
    write(tmp_path / "a", [0.9], save_frames=True)
    assert sorted(path.name for path in (tmp_path / "a_depth").iterdir()) == ["0000.png", "depth.json"]
    assert [path.name for path in (tmp_path / "a_opacity").iterdir()] == ["0000.png"]


def test_a_folder_in_the_way_is_named_before_anything_is_written(tmp_path):
    (tmp_path / "a_depth.mp4").mkdir()
    with pytest.raises(UserError, match="Cannot write .*a_depth.mp4: it is a folder; move it, or choose another"):
        OutputVideos(str(tmp_path / "a"), ["rgb", "depth"], **FILES)
    assert [path.name for path in tmp_path.iterdir()] == ["a_depth.mp4"]


@pytest.mark.parametrize("save_frames", [False, True])
def test_an_error_leaves_nothing(tmp_path, save_frames):
    files = {**FILES, "save_frames": save_frames}
    with pytest.raises(KeyError), OutputVideos(str(tmp_path / "a"), ["rgb", "depth"], **files) as videos:
        videos.add(maps(1.0), sizes=SIZES)
        videos.add({"rgb": maps(1.0)["rgb"]}, sizes=SIZES)
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_the_frames_of_an_earlier_video(tmp_path):
    write(tmp_path / "a", [0.9, 1.0, 1.1], save_frames=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(KeyError):
        with OutputVideos(str(tmp_path / "a"), ["rgb", "depth"], **FILES, save_frames=True) as videos:
            videos.add(maps(0.85), sizes=SIZES)
            videos.add({"rgb": maps(1.0)["rgb"]}, sizes=SIZES)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
