"""Conversions of many videos: crops, formats, several at once, going on after an interruption, and bad input."""

import errno
import hashlib
import json
import math
import multiprocessing
import multiprocessing.synchronize
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from concurrent.futures import Future
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dnnlib import UserError
from tests.training.data.movies import gray, run_ffmpeg, write_movie
from tests.training.tiny import write_frames
from training.data.crops import Crop, read_boxes
from training.data.dataset import VideoPairDataset
from training.data.frame_store import FrameStore
from training.data.images import decode_image
from training.data.video_decoder import decode_video
from training.data.video_probe import probe_video
from training.data.webdataset_files import read_samples
from training.dataset_tool import __main__ as dataset_tool
from training.dataset_tool import convert
from training.dataset_tool.__main__ import main, prepare, read_manifest
from training.dataset_tool.faces.detection_run import kept_detections
from training.dataset_tool.staging import Unfinished


@pytest.fixture(scope="module")
def movies(tmp_path_factory):
    """Five short videos in a folder."""
    folder = tmp_path_factory.mktemp("movies")
    write_movie(folder / "a.mp4", frames=6, size=(32, 24))
    for name in "bcde":
        os.link(folder / "a.mp4", folder / f"{name}.mp4")
    return folder


OPTIONS = dict(resolution=8, nframes=4)


def tree(folder):
    """Every file with its content."""
    return {
        os.path.relpath(os.path.join(base, name), folder): open(os.path.join(base, name), "rb").read()
        for base, _, names in os.walk(folder)
        for name in names
    }


def prepare_frames(source, out, **options):
    return prepare(source=str(source), out=str(out), **{**OPTIONS, **options})


# ----------------------------------------------------------------------------------------------------------------------
# Options


def test_crop_follows_boxes(tmp_path):
    """A bright square wanders over a dark picture; the crop keeps it in its middle."""
    generator_x = [4 * frame + 10 for frame in range(12)]
    folder = tmp_path / "frames" / "v"
    folder.mkdir(parents=True)
    for frame, x in enumerate(generator_x):
        pixels = np.zeros([40, 80, 3], dtype=np.uint8)
        pixels[15:25, x - 5 : x + 5] = 200
        Image.fromarray(pixels).save(folder / f"{frame:03d}.png")
    (tmp_path / "boxes.json").write_text(json.dumps({"v": [[x - 5, 15, x + 5, 25] for x in generator_x]}))
    boxes = read_boxes(str(tmp_path / "boxes.json"), scale=2, smoothing=0)
    manifest = prepare_frames(tmp_path / "frames", tmp_path / "out", crop=Crop(boxes=boxes), resolution=10, stride=2)
    clip = VideoPairDataset(path=tmp_path / "out", resolution=10, nframes=6).clip(0)
    assert (clip[:, :, 4:6, 4:6] > 180).all() and (clip[:, :, :, 0] < 40).all() and (clip[:, :, :, -1] < 40).all()
    assert manifest["sources"] == [{"source": "v", "fps": None, "size": [80, 40], "crop": [0, 10, 20], "frames": 6}]
    assert manifest["crop"]["kind"] == "boxes" and manifest["stride"] == 2


def test_boxes_and_cameras_of_a_clip_count_from_its_first_frame(tmp_path):
    """Of the frames 3 to 10 of a ramp, 4, 6, 8 and 10 are kept: entries 1, 3, 5 and 7 of the clip."""
    folder = tmp_path / "frames" / "v"
    folder.mkdir(parents=True)
    ramp = np.tile(3 * np.arange(64, dtype=np.uint8)[:, None], (16, 1, 3))
    for frame in range(12):
        Image.fromarray(ramp).save(folder / f"{frame:03d}.png")
    boxes = [[4 * entry, 2, 4 * entry + 10, 12] for entry in range(8)]
    clip = {"first": 3, "frames": 8, "box": boxes, "camera": [[entry / 10, 1.5] for entry in range(8)]}
    (tmp_path / "boxes.json").write_text(json.dumps({"v": [clip]}))
    crop = Crop(boxes=read_boxes(str(tmp_path / "boxes.json"), scale=1, smoothing=0))
    prepare_frames(tmp_path / "frames", tmp_path / "out", crop=crop, resolution=10, stride=2)
    frames = VideoPairDataset(path=tmp_path / "out", resolution=10, nframes=4).clip(0).double()
    expected = [3 * (4 * entry + 4.5) for entry in (1, 3, 5, 7)]
    assert frames.mean(dim=(1, 2, 3)).tolist() == pytest.approx(expected, abs=1)
    content = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert content == {"cameras": [["videos/v_000_0000", [0.4, 1.5]]]}  # the median over the entries 1 to 7


def test_videos_without_boxes_stop_or_are_left_out(movies, tmp_path):
    (tmp_path / "boxes.json").write_text(json.dumps({"b.mp4": [0, 0, 10, 10], "c.mp4": [[0, 0, 10, 10]] * 3}))
    crop = Crop(boxes=read_boxes(str(tmp_path / "boxes.json"), scale=1, smoothing=0))
    advice = "Correct the file of --boxes, remove the video, or use --skip-broken."
    with pytest.raises(UserError) as error:
        prepare_frames(movies, tmp_path / "out", crop=crop)
    assert str(error.value) == f"The file of boxes has none for 'a.mp4'. {advice}"
    with pytest.raises(
        UserError, match="^The file of boxes has 3 boxes for 'c.mp4', which has more frames. Correct the"
    ):
        prepare_frames(movies / "c.mp4", tmp_path / "out", crop=crop)
    manifest = prepare_frames(movies, tmp_path / "out", crop=crop, skip_broken=True)
    assert [entry["source"] for entry in manifest["videos"]] == ["b.mp4"]
    assert [entry["source"] for entry in manifest["skipped"]] == ["a.mp4", "c.mp4", "d.mp4", "e.mp4"]


def test_clips_beyond_the_end_of_a_video(movies, tmp_path):
    """With a stride of 2 frames 0, 2, …, 8 are kept: 9 frames suffice."""
    (tmp_path / "boxes.json").write_text('{"a.mp4": [{"first": 0, "frames": 9, "box": [0, 0, 8, 8]}]}')
    crop = Crop(boxes=read_boxes(str(tmp_path / "boxes.json"), scale=1.0, smoothing=0.0))
    with pytest.raises(UserError) as error:
        prepare_frames(movies / "a.mp4", tmp_path / "out", crop=crop, stride=2)
    assert str(error.value) == (
        "The clips in the file of boxes need 9 frames of 'a.mp4', which has fewer. Correct the file of --boxes, remove "
        "the video, or use --skip-broken."
    )


def test_jpeg(movies, tmp_path):
    prepare_frames(movies, tmp_path / "out", image="jpg")
    file = tmp_path / "out" / "videos" / "a_0000" / "000005.jpg"
    with Image.open(file) as image:
        assert image.format == "JPEG" and abs(np.asarray(image).astype(int) - gray(5)).max() <= 3


@pytest.mark.parametrize("name", list(dataset_tool.PRESETS))
def test_presets(name, movies, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(dataset_tool, "prepare", lambda **options: seen.update(options) or pytest.skip.Exception)
    CliRunner().invoke(main, [str(movies), str(tmp_path / "out"), "--preset", name])
    expected = {"taichi": (128, 4)}.get(name, (256, 1))
    assert (seen["resolution"], seen["stride"], seen["nframes"]) == (*expected, 16)
    CliRunner().invoke(main, [str(movies), str(tmp_path / "out"), "--preset", name, "--resolution", "64"])
    assert (seen["resolution"], seen["stride"]) == (64, expected[1])  # what is said counts


def test_stride_of_the_tool_counts_in_training(movies, tmp_path):
    """TaiChi: the tool keeps every 4th frame, and the model wants every 4th frame: none is dropped twice."""
    prepare_frames(movies, tmp_path / "out", nframes=3, stride=2)
    for frame_stride in (1, 2):
        assert (
            VideoPairDataset(path=tmp_path / "out", resolution=8, nframes=3, frame_stride=frame_stride).num_clips == 5
        )
    assert VideoPairDataset(path=tmp_path / "out", resolution=8, nframes=1, frame_stride=4).num_clips == 10
    with pytest.raises(UserError, match="frame_stride=3.*--frame-stride 2"):
        VideoPairDataset(path=tmp_path / "out", resolution=8, nframes=1, frame_stride=3)


def test_a_clip_that_is_enlarged_after_one_that_is_not(movies, tmp_path):
    clips = [{"first": k, "frames": 4, "box": [0, 0, side, side]} for k, side in ((0, 12), (2, 6))]
    (tmp_path / "boxes.json").write_text(json.dumps({"a.mp4": clips}))
    crop = Crop(boxes=read_boxes(str(tmp_path / "boxes.json"), scale=1.0, smoothing=0.0))
    manifest = prepare_frames(movies / "a.mp4", tmp_path / "out", crop=crop, resolution=8)
    assert manifest["sources"][0]["crop"] == [0, 0, 6]
    assert "1 video(s) were enlarged: their smallest square has fewer than 8 pixels." in dataset_tool.notes(manifest)


def test_clips_with_and_without_a_camera(movies, tmp_path):
    clips = [{"first": k, "frames": 4, "box": [0, 0, 8, 8]} for k in (0, 2)]
    clips[1]["camera"] = [0.1, 1.5]
    (tmp_path / "boxes.json").write_text(json.dumps({"a.mp4": clips}))
    boxes = read_boxes(str(tmp_path / "boxes.json"), scale=1.0, smoothing=0.0)
    prepare_frames(movies / "a.mp4", tmp_path / "out", crop=Crop(boxes=boxes))
    assert sorted(os.listdir(tmp_path / "out" / "videos")) == ["a_000_0000", "a_001_0000"]
    content = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert content == {"cameras": [["videos/a_001_0000", [0.1, 1.5]]]}
    (note,) = read_manifest(tmp_path / "out")["unmatched"]
    assert note == "1 of 2 folders have no camera in the file of boxes, e.g. 'videos/a_000_0000'."


def test_tar_files_need_a_camera_for_all_clips_or_none(movies, tmp_path):
    clip = {"first": 0, "frames": 4, "box": [0, 0, 8, 8]}
    with_camera = clip | {"camera": [0.1, 1.5]}
    for number, boxes in enumerate(({"a.mp4": [clip, with_camera]}, {"a.mp4": [with_camera], "b.mp4": [0, 0, 8, 8]})):
        (tmp_path / "boxes.json").write_text(json.dumps(boxes))
        crop = Crop(boxes=read_boxes(str(tmp_path / "boxes.json"), scale=1.0, smoothing=0.0))
        source = movies / "a.mp4"
        if number == 1:
            (source := tmp_path / "source").mkdir()
            for name in boxes:
                os.link(movies / name, source / name)
        with pytest.raises(UserError, match=f"'{[*boxes][-1]}' has no camera in the file of boxes"):
            prepare_frames(source, tmp_path / "out", crop=crop, shape="shards")
        assert not [name for name in os.listdir(tmp_path) if "out" in name]


def test_a_clip_and_a_video_of_its_name(movies, tmp_path):
    (source := tmp_path / "source").mkdir()
    for name in ("a.mp4", "A_000.mp4"):
        os.link(movies / "a.mp4", source / name)
    clips = [{"first": k, "frames": 4, "box": [0, 0, 8, 8]} for k in (0, 2)]
    (tmp_path / "boxes.json").write_text(json.dumps({"a.mp4": clips, "A_000.mp4": [0, 0, 8, 8]}))
    prepare_frames(
        source, tmp_path / "out", crop=Crop(boxes=read_boxes(str(tmp_path / "boxes.json"), scale=1.0, smoothing=0))
    )
    assert sorted(os.listdir(tmp_path / "out" / "videos")) == ["A_000_0000", "a_000-clip_0000", "a_001_0000"]


def test_cameras_of_the_source_stay_where_clips_have_none(movies, tmp_path):
    (source := tmp_path / "source").mkdir()
    os.link(movies / "a.mp4", source / "a.mp4")
    (source / "dataset.json").write_text('{"cameras": {"a.mp4": [0.2, 1.6]}}')
    (tmp_path / "boxes.json").write_text('{"a.mp4": [{"first": 0, "frames": 4, "box": [0, 0, 8, 8]}]}')
    boxes = read_boxes(str(tmp_path / "boxes.json"), scale=1.0, smoothing=0.0)
    prepare_frames(source, tmp_path / "out", crop=Crop(boxes=boxes))
    content = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert content == {"cameras": [["videos/a_000_0000", [0.2, 1.6]]]}


@pytest.mark.parametrize(
    "content, message",
    [
        ({"labels": {"a.mp4": 0}}, "no label for 1 of 2 videos, e.g. 'b.mp4'.* or remove all labels"),
        ({"cameras": {"a.mp4": [0, 1.5]}}, "no camera for 1 of 2 videos, e.g. 'b.mp4'.* or remove all cameras"),
    ],
)
def test_tar_files_need_entries_of_all_videos_before_anything_is_converted(movies, tmp_path, content, message):
    (source := tmp_path / "source").mkdir()
    for name in ("a.mp4", "b.mp4"):
        os.link(movies / name, source / name)
    (source / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{source}/dataset.json.*{message}|{message}.*{source}/dataset.json"):
        prepare_frames(source, tmp_path / "out", shape="shards")
    assert os.listdir(tmp_path) == ["source"]
    prepare_frames(source, tmp_path / "out")


CLASSES = "The labels in '{}' must be all integers or all lists of numbers of one length."
HUGE = 10**399


@pytest.mark.parametrize("kind, entry, message", [
    ("labels", math.nan, CLASSES),
    ("labels", "0", CLASSES),
    ("labels", 0.0, CLASSES),
    ("labels", True, CLASSES),
    ("labels", [0.5], CLASSES),
    ("labels", -1, "The classes in '{}' run from -1 to 1: number them 0, 1, 2, … (at most 65536)."),
    ("labels", HUGE, f"The classes in '{{}}' run from 1 to {HUGE}: number them 0, 1, 2, … (at most 65536)."),
    ("cameras", [math.nan, 1], "The camera of 'b.mp4' in '{}' must be [yaw, pitch] in radians, not [nan, 1]."),
    ("cameras", ["0.1", 1], "The camera of 'b.mp4' in '{}' must be [yaw, pitch] in radians, not ['0.1', 1]."),
    ("cameras", [0, 1, 2], "The camera of 'b.mp4' in '{}' must be [yaw, pitch] in radians, not [0, 1, 2]."),
    ("cameras", None, "The camera of 'b.mp4' in '{}' must be [yaw, pitch] in radians, not None."),
])  # fmt: skip
@pytest.mark.parametrize("zipped", [False, True])
def test_invalid_labels_and_cameras_are_refused_before_anything_is_converted(
    movies, tmp_path, kind, entry, message, zipped
):
    (source := tmp_path / "source").mkdir()
    for name in ("a.mp4", "b.mp4"):
        os.link(movies / name, source / name)
    entries = {"a.mp4": 1 if kind == "labels" else [0, 1.5], "b.mp4": entry}
    (source / "dataset.json").write_text(json.dumps({kind: entries}))
    if zipped:
        source = shutil.make_archive(tmp_path / "set", "zip", source)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UserError) as error:
        prepare_frames(source, tmp_path / "out")
    assert str(error.value) == message.format(f"{source}/dataset.json")
    assert sorted(os.listdir(tmp_path)) == before


def test_entries_of_other_videos_may_be_anything(movies, tmp_path):
    """They are not carried over; a path that is no valid Unicode is named in the manifest."""
    (source := tmp_path / "source").mkdir()
    os.link(movies / "a.mp4", source / "a.mp4")
    (source / "dataset.json").write_text(json.dumps({"labels": {"\ud800": "x", "a.mp4": 0}}))
    manifest = prepare_frames(source, tmp_path / "out")
    assert manifest["unmatched"] == [r"1 of 2 labels are for none of the videos, e.g. '\ud800'."]
    assert json.loads((tmp_path / "out" / "dataset.json").read_text()) == {"labels": [["videos/a_0000", 0]]}


def test_a_mount_point_is_refused_before_anything_is_converted(movies, tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == str(tmp_path / "disk"))
    with pytest.raises(UserError, match="is a mount point.*: choose a folder in it"):
        prepare_frames(movies / "a.mp4", tmp_path / "disk")
    assert os.listdir(tmp_path) == ["disk"]
    prepare_frames(movies / "a.mp4", tmp_path / "disk" / "out")


@pytest.mark.parametrize("out", ["", ".", "..", "below/.."])
def test_the_working_folder_is_never_replaced(movies, tmp_path, monkeypatch, out):
    """Not even where the tool has made it: commands that follow would have none."""
    prepare_frames(movies / "a.mp4", tmp_path / "here")
    (tmp_path / "here" / "below").mkdir()
    monkeypatch.chdir(tmp_path / "here" / "below" if out == ".." else tmp_path / "here")
    before = tree(tmp_path)
    with pytest.raises(UserError) as error:
        prepare(source=str(movies / "a.mp4"), out=out, **OPTIONS, overwrite=True)
    assert str(error.value) == (
        f"'{tmp_path / 'here'}' is the working folder or holds it, which cannot be replaced: choose another one."
    )
    assert tree(tmp_path) == before


def test_a_zip_is_not_named_as_a_tar_file(movies, tmp_path):
    with pytest.raises(UserError) as error:
        prepare_frames(movies / "a.mp4", tmp_path / "out.TAR", shape="zip")
    assert str(error.value) == (
        f"'{tmp_path / 'out.TAR'}' would be read as a tar file: give a name in .zip, or --format shards and a folder."
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("change", [{"nframes": 7}, {"crop": Crop(rectangle=(0, 0, 99, 99))}])
def test_folders_made_for_a_dataset_that_there_is_not_are_removed(movies, tmp_path, change):
    (tmp_path / "old").mkdir()
    with pytest.raises(UserError, match="gives no clips|rectangle"):
        prepare_frames(movies / "a.mp4", tmp_path / "old" / "new" / "newer" / "out", **change)
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]


def test_a_stride_counts_wherever_the_manifest_lies(movies, tmp_path):
    """Else frames would be left out twice: in a zip of the folder itself, above it, and in its folder of videos."""
    prepare_frames(movies / "a.mp4", tmp_path / "up" / "out", nframes=2, stride=2)
    shutil.make_archive(str(tmp_path / "up"), "zip", tmp_path / "up")
    options = dict(resolution=8, nframes=2)
    for path in (tmp_path / "up", tmp_path / "up.zip", tmp_path / "up" / "out" / "videos"):
        with pytest.raises(UserError, match="dataset '.*/out', which was made with --frame-stride 2"):
            VideoPairDataset(path=path, frame_stride=2, **options)
        assert len(VideoPairDataset(path=path, **options)) == len(
            VideoPairDataset(path=tmp_path / "up" / "out", frame_stride=2, **options)
        )


@pytest.mark.parametrize("shape", ["folder", "zip"])
def test_a_dataset_that_is_converted_again_keeps_its_stride(tmp_path, shape):
    """Training counts frames of the first source: else it would leave out frames a second time."""
    frames = tmp_path / "source" / "videos" / "a"
    frames.mkdir(parents=True)
    for number in range(24):
        Image.new("RGB", (32, 32), (10 * number,) * 3).save(frames / f"{number:02d}.png")
    first = tmp_path / ("first.zip" if shape == "zip" else "first")
    prepare_frames(tmp_path / "source", first, nframes=2, stride=2, resolution=16, shape=shape)
    for again, kept in ((1, 2), (3, 6)):
        out = tmp_path / f"again{again}"
        assert prepare_frames(first, out, nframes=2, stride=again)["stride"] == kept
        data = VideoPairDataset(path=out, resolution=8, nframes=2, frame_stride=6)
        assert [int(data.clip(clip)[frame, 0, 0, 0]) for clip in range(2) for frame in range(2)] == [0, 60, 120, 180]
        assert "source_stride" not in data.describe()  # it is frame_stride
        everything = VideoPairDataset(path=out, resolution=8, nframes=2).describe()
        assert (everything["frame_stride"], everything["source_stride"]) == (1, kept)
        with pytest.raises(UserError, match=f"frame_stride=4.*--frame-stride {kept}" if kept == 6 else "shorter"):
            VideoPairDataset(path=out, resolution=8, nframes=9, frame_stride=4)


def test_frames_of_a_dataset_are_not_converted_without_their_stride(movies, tmp_path):
    prepare_frames(movies / "a.mp4", tmp_path / "up" / "out", nframes=2, stride=2)
    for path in (tmp_path / "up", tmp_path / "up" / "out" / "videos"):
        with pytest.raises(UserError, match="dataset '.*/out', which was made with --frame-stride 2: use that folder"):
            prepare_frames(path, tmp_path / "again", nframes=2)
    assert sorted(os.listdir(tmp_path)) == ["up"]
    manifest = tmp_path / "up" / "out" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-30])  # the stride may be in what is lost
    for path in (tmp_path / "up", tmp_path / "up" / "out" / "videos", tmp_path / "up" / "out"):
        with pytest.raises(UserError, match=f"^'{manifest}' is damaged "):
            prepare_frames(path, tmp_path / "again", nframes=2)
        with pytest.raises(UserError, match=f"^'{manifest}' is damaged "):
            VideoPairDataset(path=path, frame_stride=2, resolution=8, nframes=2)


def test_zip_and_shards_hold_what_the_folder_holds(movies, tmp_path):
    (labels := tmp_path / "movies").mkdir()
    for movie in movies.iterdir():
        os.link(movie, labels / movie.name)
    (labels / "dataset.json").write_text(json.dumps({"labels": [[f"{n}.mp4", i] for i, n in enumerate("abcde")]}))
    prepare_frames(labels, tmp_path / "folder")
    prepare_frames(labels, tmp_path / "set.zip", shape="zip")
    prepare_frames(labels, tmp_path / "shards", shape="shards", shard_clips=2)
    assert sorted(os.listdir(tmp_path)) == ["folder", "movies", "set.zip", "shards"]
    files = tree(tmp_path / "folder")
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        assert {info.filename: archive.read(info) for info in archive.infolist()} == files
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    assert read_manifest(tmp_path / "set.zip") == read_manifest(tmp_path / "folder")
    shards = [f"{tmp_path}/shards/shard-{k:06d}.tar" for k in range(3)]
    samples = [sample for shard in shards for sample in read_samples(shard)]
    found = {
        f"{s.about['video']}/{s.about['first'] + k:06d}.png": s.image(k)[1] for s in samples for k in range(len(s))
    }
    assert len(samples) == 5 and found == {name: files[name] for name in found} and len(found) == 20
    assert {s.about["video"][7]: s.about["label"] for s in samples} == dict(zip("abcde", range(5)))
    with pytest.raises(UserError, match=r"set\.zip' is there already: use --overwrite"):
        prepare_frames(labels, tmp_path / "set.zip", shape="zip")
    prepare_frames(labels, tmp_path / "set.zip", shape="zip", resolution=4, overwrite=True)
    assert read_manifest(tmp_path / "set.zip")["resolution"] == 4


def test_a_foreign_zip_is_not_overwritten(movies, tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("precious", b"")
    with pytest.raises(UserError, match="was not made by this tool"):
        prepare_frames(movies, tmp_path / "set.zip", shape="zip", overwrite=True)


def test_zip_of_videos(movies, tmp_path):
    with zipfile.ZipFile(tmp_path / "movies.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(movies / "a.mp4", "deep/a.mp4")
    manifest = prepare_frames(tmp_path / "movies.zip", tmp_path / "out")
    assert [entry["source"] for entry in manifest["videos"]] == ["deep/a.mp4"]
    prepare_frames(movies / "a.mp4", tmp_path / "direct")
    assert tree(tmp_path / "out" / "videos" / "deep-a_0000") == tree(tmp_path / "direct" / "videos" / "a_0000")


# ----------------------------------------------------------------------------------------------------------------------
# Several at once, and interruptions


def test_workers_change_nothing(movies, tmp_path):
    prepare_frames(movies, tmp_path / "one")
    prepare_frames(movies, tmp_path / "two", workers=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_what_another_tool_has_begun_is_kept(movies, tmp_path):
    """Both tools make OUT in a folder of the same name, so that one waits for the other."""
    (tmp_path / ".out.unfinished" / "videos").mkdir(parents=True)
    (tmp_path / ".out.unfinished" / "synthetic.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds an unfinished set of `python -m training.synthetic`: repeat that"):
        prepare_frames(movies, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / ".out.unfinished")) == ["synthetic.json", "videos"]
    assert len(prepare_frames(movies, tmp_path / "out", overwrite=True)["videos"]) == 5


def test_an_interrupted_conversion_goes_on(movies, tmp_path, monkeypatch):
    prepare_frames(movies, tmp_path / "whole")
    done = []
    original = convert.convert_video

    def until_c(source, **options):
        if source.name == "c":
            options["on_frame"] = lambda: (_ for _ in ()).throw(KeyboardInterrupt)  # in the middle of the video
        done.append(source.name)
        return original(source, **options)

    monkeypatch.setattr(convert, "convert_video", until_c)
    with pytest.raises(KeyboardInterrupt):
        prepare_frames(movies, tmp_path / "out")
    assert done == ["a", "b", "c"] and not (tmp_path / "out").exists()
    assert (tmp_path / ".out.unfinished" / "work" / "c_0000" / "000000.png").exists()

    monkeypatch.setattr(convert, "convert_video", lambda source, **o: done.append(source.name) or original(source, **o))
    done.clear()
    manifest = prepare_frames(movies, tmp_path / "out")
    assert done == ["c", "d", "e"]
    assert tree(tmp_path / "out") == tree(tmp_path / "whole") and not (tmp_path / ".out.unfinished").exists()
    assert len(manifest["videos"]) == 5


def interrupted(movies, out, monkeypatch, *, after=2, **options):
    """A conversion that ends after so many videos."""
    original, count = convert.convert_video, []

    def some(source, **arguments):
        count.append(source)
        if len(count) > after:
            raise KeyboardInterrupt
        return original(source, **arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(convert, "convert_video", some)
        prepare_frames(movies, out, **options)


def converted(monkeypatch):
    """The list of videos that are converted from now on."""
    done, original = [], convert.convert_video
    monkeypatch.setattr(convert, "convert_video", lambda source, **o: done.append(source.name) or original(source, **o))
    return done


def test_damaged_leftovers_are_made_again(movies, tmp_path, monkeypatch):
    interrupted(movies, tmp_path / "out", monkeypatch, after=3)
    videos = tmp_path / ".out.unfinished" / "data" / "videos"
    (videos / "a_0000" / "000002.png").write_bytes(b"")  # as after a power failure
    (videos / "b_0000" / "000002.png").unlink()
    (videos / "x_0000").mkdir()
    done = converted(monkeypatch)
    prepare_frames(movies, tmp_path / "out")
    assert done == ["a", "b", "d", "e"]
    prepare_frames(movies, tmp_path / "whole")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_videos_that_have_changed_are_made_again(movies, tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    for name in "abcd":
        (source / f"{name}.mp4").write_bytes((movies / "a.mp4").read_bytes())
    interrupted(source, tmp_path / "out", monkeypatch, after=3)
    os.utime(source / "b.mp4", (1, 1))
    (source / "c.mp4").unlink()
    done = converted(monkeypatch)
    prepare_frames(source, tmp_path / "out")
    assert done == ["b", "d"] and sorted(os.listdir(tmp_path / "out" / "videos")) == ["a_0000", "b_0000", "d_0000"]


def test_other_options_do_not_go_on(movies, tmp_path, monkeypatch):
    interrupted(movies, tmp_path / "out", monkeypatch)
    with pytest.raises(UserError, match="unfinished dataset made with resolution 8, not 16: repeat that command"):
        prepare_frames(movies, tmp_path / "out", resolution=16)
    done = converted(monkeypatch)
    prepare_frames(movies, tmp_path / "out", resolution=16, overwrite=True)
    assert done == list("abcde") and read_manifest(tmp_path / "out")["resolution"] == 16


def test_another_crop_is_told_in_words_of_the_option(movies, tmp_path, monkeypatch):
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({f"{name}.mp4": [0, 0, 10, 10] for name in "abcde"}))
    crops = {
        "--crop centre": Crop(),
        "--crop 0,0,20,10": Crop(rectangle=(0, 0, 20, 10)),
        f"boxes {hashlib.sha256(boxes.read_bytes()).hexdigest()[:8]}… --box-scale 1.5 --box-smoothing 0": Crop(
            boxes=read_boxes(str(boxes), scale=1.5, smoothing=0)
        ),
    }
    words = list(crops)
    for made, now in zip(words, words[1:] + words[:1]):
        interrupted(movies, tmp_path / "out", monkeypatch, crop=crops[made])
        with pytest.raises(UserError) as error:
            prepare_frames(movies, tmp_path / "out", crop=crops[now])
        assert f"' holds an unfinished dataset made with {made}, not {now}: repeat that command" in str(error.value)
        shutil.rmtree(tmp_path / ".out.unfinished")
    interrupted(movies, tmp_path / "out", monkeypatch)
    with pytest.raises(UserError, match="made with max_frames none, not 5: repeat"):
        prepare_frames(movies, tmp_path / "out", max_frames=5)


def test_frames_in_gif_files_are_read_as_videos(tmp_path):
    (tmp_path / "source" / "a").mkdir(parents=True)
    for frame in range(3):
        Image.new("RGB", (16, 16), (frame, 0, 0)).save(tmp_path / "source" / "a" / f"{frame}.gif")
    with pytest.raises(UserError) as error:
        prepare_frames(tmp_path / "source", tmp_path / "out")
    assert str(error.value) == (
        f"'{tmp_path / 'source'}' gives no clips: the longest video has 1 frames, nframes is 4. GIF files are read as "
        "videos, also a/0.gif: save frames as PNG, in a folder for each video."
    )


def test_broken_video_among_good_ones_is_left_out_later(movies, tmp_path, monkeypatch):
    """Finished videos are kept."""
    source = tmp_path / "source"
    source.mkdir()
    for name in "ab":
        os.link(movies / "a.mp4", source / f"{name}.mp4")
    (source / "z.mp4").write_bytes(b"nothing")
    with pytest.raises(UserError, match="z.mp4"):
        prepare_frames(source, tmp_path / "out")
    done = converted(monkeypatch)
    assert len(prepare_frames(source, tmp_path / "out", skip_broken=True)["skipped"]) == 1
    assert done == ["z"]


def test_killed_at_any_moment(movies, tmp_path):
    """kill -9 with two workers, then again without interruption."""
    prepare_frames(movies, tmp_path / "whole")
    command = [sys.executable, "-m", "training.dataset_tool", str(movies), str(tmp_path / "out"), "--workers", "2"]
    command += ["--resolution", "8", "--nframes", "4"]
    environment = {**os.environ, "PYTHONPATH": str(Path(dataset_tool.__file__).parents[2])}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    records = tmp_path / ".out.unfinished" / "records"
    limit = time.time() + 60
    while time.time() < limit and not (records.is_dir() and any(records.iterdir())) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not (tmp_path / "out").exists():  # it was not too fast for us
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_two_processes_do_not_write_the_same(movies, tmp_path):
    growing = Unfinished(str(tmp_path / "out"))
    with growing.opened({"a": 1}, restart=False):
        growing.keep({"name": "x", "pieces": [], "bytes": 0})
        with pytest.raises(UserError, match="Another process is making"):
            prepare_frames(movies, tmp_path / "out")


def test_a_worker_that_dies_is_one_line(movies, tmp_path):
    """The memory is full, say."""
    with pytest.raises(UserError, match="worker process has ended unexpectedly"):
        for _ in convert.convert_videos(
            [Suicide(name, f"{name}.mp4") for name in "ab"],
            among=convert.SourceSet(root="", sources=[], entries={}, store=None),
            conversion=None,
            folder=str(tmp_path),
            workers=2,
            on_frames=lambda count: None,
        ):
            pass


def test_workers_that_cannot_be_started_are_one_line(movies, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", full)  # as with a /dev/shm that is full
    with pytest.raises(UserError, match=r"^Worker processes cannot be started \(No space left .*/dev/shm.*--workers 1"):
        prepare_frames(movies, tmp_path / "out", workers=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["漢" * 82, "a" * 250], ids=["wide", "plain"])
def test_long_names_of_datasets(tmp_path, name):
    one, other = (Unfinished(str(tmp_path / f"{name}{letter}")) for letter in "ab")
    assert one.folder != other.folder
    with one.opened({"a": 1}, restart=False):
        (folder,) = tmp_path.iterdir()
        assert str(folder) == one.folder and re.fullmatch(rf"\.{name[0]}+-[0-9a-f]{{16}}\.unfinished", folder.name)
    with kept_detections(f"{tmp_path}/{name}a") as one, kept_detections(f"{tmp_path}/{name}b") as other:
        assert os.path.isdir(one) and os.path.isdir(other)


def test_few_videos_at_a_time_are_handed_to_the_workers(monkeypatch):
    """Waiting takes time for each of them, and there may be a million."""
    pending = []

    class Executor:
        def __init__(self, *_, **__):
            pass

        def submit(self, _, source):
            future = Future()
            future.set_result({"name": source.name})
            return future

        def shutdown(self, **_):
            pass

    def wait_for_one(futures, **_):
        pending.append(len(futures))
        return {next(iter(futures))}, set()

    monkeypatch.setattr(convert, "ProcessPoolExecutor", Executor)
    monkeypatch.setattr(convert, "wait", wait_for_one)
    sources = [convert.Source(str(number), f"{number}.mp4") for number in range(30)]
    found = list(
        convert.convert_videos(sources, among=None, conversion=None, folder="", workers=2, on_frames=lambda count: None)
    )
    assert found == [(source, {"name": source.name}) for source in sources]
    assert pending == [8] * 23 + [7, 6, 5, 4, 3, 2, 1]


class Suicide(convert.Source):
    def __reduce__(self):
        return end_process, ()


def end_process():
    if multiprocessing.parent_process() is not None:
        os._exit(9)


# ----------------------------------------------------------------------------------------------------------------------
# Bad and odd input


def test_empty_and_corrupt_videos(movies, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    os.link(movies / "a.mp4", source / "good.mp4")
    (source / "empty.mp4").write_bytes(b"")
    (source / "text.avi").write_bytes(b"hello")
    run_ffmpeg("-f", "lavfi", "-i", "anullsrc=d=0.2", source / "sound.mp4")
    (source / "cut.mp4").write_bytes((movies / "a.mp4").read_bytes()[:600])
    arguments = [str(source), str(tmp_path / "out"), "--nframes", "4", "--resolution", "8", "--skip-broken"]
    result = CliRunner().invoke(main, [*arguments, "--workers", "1"], catch_exceptions=False)
    assert result.exit_code == 0 and "4 video(s) were left out." in result.output
    for name in ("empty.mp4", "text.avi", "sound.mp4", "cut.mp4"):
        assert f"left out {name}: Cannot decode" in result.output
    assert [entry["source"] for entry in read_manifest(tmp_path / "out")["videos"]] == ["good.mp4"]


def zip_with_a_cut_movie(movies, file):
    """good.mp4 and cut.mp4 in the folder clips of a zip; returns the name of the second one in messages."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(movies / "a.mp4", "clips/good.mp4")
        archive.writestr("clips/cut.mp4", (movies / "a.mp4").read_bytes()[:600])
    return f"{file}/clips/cut.mp4"


def test_broken_videos_in_a_zip_are_named(movies, tmp_path):
    """Not the temporary files that they are decoded from."""
    source = tmp_path / "set.zip"
    name = zip_with_a_cut_movie(movies, source)
    for workers in (1, 2):
        with pytest.raises(UserError) as error:
            prepare_frames(source, tmp_path / "out", workers=workers)
        assert str(error.value).startswith(f"Cannot decode '{name}' beyond frame 0 (")
        assert str(error.value).endswith("). Repair or remove it, or use --skip-broken.")
        assert ".movie-" not in str(error.value)
    for workers in (1, 2):
        manifest = prepare_frames(source, tmp_path / f"out{workers}", workers=workers, skip_broken=True)
        [skipped] = manifest["skipped"]
        assert skipped["source"] == "clips/cut.mp4"
        assert skipped["reason"].startswith(f"Cannot decode '{name}' beyond frame 0 (")
        assert [video["source"] for video in manifest["videos"]] == ["clips/good.mp4"]


def test_no_video_can_be_decoded(movies, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.mp4").write_bytes((movies / "a.mp4").read_bytes()[:600])
    with pytest.raises(UserError) as error:
        prepare_frames(tmp_path / "source", tmp_path / "out", skip_broken=True)
    assert str(error.value).startswith(
        f"'{tmp_path}/source' gives no clips: 1 video(s) are left out, e.g. 'a.mp4': Cannot decode "
        f"'{tmp_path}/source/a.mp4' beyond frame 0 ("
    )
    assert re.search(r"[^.]\)\.$", str(error.value))


@pytest.mark.parametrize(
    "clip, limit, reason",
    [
        (
            {"first": 2, "frames": 4},
            5,
            " among the first 5 of its video (--max-frames). Use longer clips, a larger "
            "--max-frames, or a smaller --nframes or --stride.",
        ),
        ({"first": 3, "frames": 3}, None, ". Use longer clips, or a smaller --nframes or --stride."),
    ],
)
def test_clips_of_boxes_that_are_too_short(movies, tmp_path, clip, limit, reason):
    crop = boxes_crop(tmp_path, {"a.mp4": [{**clip, "box": [0, 0, 8, 8]}]})
    for faces, clips in ((None, "clip of these videos in the file of boxes"), ({}, "clip that was found")):
        with pytest.raises(UserError) as error:
            prepare_frames(movies / "a.mp4", tmp_path / "out", crop=crop, max_frames=limit, faces=faces)
        assert str(error.value) == f"'{movies}/a.mp4' gives no clips: no {clips} has 4 frames{reason}"


def boxes_crop(tmp_path, boxes):
    """A crop by boxes, which are the content of a file."""
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    return Crop(boxes=read_boxes(str(tmp_path / "boxes.json"), scale=1.0, smoothing=0.0))


def test_reasons_why_there_are_no_clips_are_those_of_these_videos(movies, tmp_path):
    """The file of boxes may have long clips of other videos, and a stride shortens clips and videos."""
    (tmp_path / "source").mkdir()
    for name in "ab":
        os.link(movies / "a.mp4", tmp_path / "source" / f"{name}.mp4")
    box, end = [0, 0, 8, 8], "or a smaller --nframes or --stride."
    long, late = {"first": 0, "frames": 6, "box": box}, {"first": 3, "frames": 3, "box": box}
    clips = "no clip of these videos in the file of boxes has"
    cases = [
        ({"a.mp4": box, "b.mp4": box, "c.mp4": [long]}, dict(nframes=7),
         f"the longest video has 6 frames, nframes is 7. Use longer videos, {end}"),
        ({"a.mp4": box, "b.mp4": box}, dict(stride=2),
         f"the longest video has 3 frames after --stride 2, nframes is 4. Use longer videos, {end}"),
        ({"a.mp4": [long], "b.mp4": [late]}, dict(stride=2),
         f"{clips} 4 frames after --stride 2. Use longer clips, {end}"),
        ({"a.mp4": box, "b.mp4": [late]}, dict(nframes=8),
         f"{clips} 8 frames; the longest other video has 6 frames, nframes is 8. Use longer clips, longer videos, "
         f"{end}"),
    ]  # fmt: skip
    for number, (boxes, options, reason) in enumerate(cases):
        with pytest.raises(UserError) as error:
            prepare_frames(tmp_path / "source", tmp_path / f"out{number}", crop=boxes_crop(tmp_path, boxes), **options)
        assert str(error.value) == f"'{tmp_path}/source' gives no clips: {reason}"
    manifest = prepare_frames(
        tmp_path / "source", tmp_path / "out", crop=boxes_crop(tmp_path, {"a.mp4": box, "b.mp4": [late]})
    )
    assert manifest["skipped"] == [{"source": "b.mp4", "reason": "no clip has 4 frames"}]
    manifest = prepare_frames(
        tmp_path / "source", tmp_path / "thin", nframes=3, stride=2,
        crop=boxes_crop(tmp_path, {"a.mp4": box, "b.mp4": [late]}),
    )  # fmt: skip
    assert manifest["skipped"] == [{"source": "b.mp4", "reason": "no clip has 3 frames after --stride 2"}]


def lossless(path, pixels, pixel_format):
    """Frames [N, H, W, C] as a lossless video of that pixel format."""
    count, height, width = pixels.shape[:3]
    raw = {1: "gray", 3: "rgb24", 4: "rgba"}[pixels.shape[3]]
    process = subprocess.Popen(
        [
            imageio_ffmpeg.get_ffmpeg_exe(),
            "-v",
            "error",
            "-y",
            "-f",
            "rawvideo",
            "-pix_fmt",
            raw,
            "-s",
            f"{width}x{height}",
        ]
        + ["-i", "-", "-c:v", "ffv1", "-pix_fmt", pixel_format, str(path)],
        stdin=subprocess.PIPE,
    )
    process.communicate(pixels.tobytes())
    assert process.returncode == 0
    return str(path)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 2), (33, 17)])
def test_odd_sizes(tmp_path, size):
    pixels = np.full([4, size[1], size[0], 3], 100, dtype=np.uint8)
    movie = lossless(tmp_path / "odd.mkv", pixels, "gbrp")
    assert [frame.size for frame in decode_video(movie)] == [size] * 4
    prepare_frames(movie, tmp_path / "out")
    assert (VideoPairDataset(path=tmp_path / "out", resolution=8, nframes=4).clip(0) == 100).all()


@pytest.mark.parametrize("pixel_format", ["gray", "gray10le", "gray16le", "gbrp16le", "yuv444p10le", "rgb48le"])
def test_gray_and_deep_videos(tmp_path, pixel_format):
    levels = np.array([0, 60, 128, 255], dtype=np.uint8)
    pixels = np.tile(levels[:, None, None, None], (1, 8, 8, 1 if pixel_format.startswith("gray") else 3))
    movie = lossless(tmp_path / "deep.mkv", pixels, pixel_format)
    frames = [np.asarray(frame).astype(int) for frame in decode_video(movie)]
    assert [f.shape for f in frames] == [(8, 8, 3)] * 4
    assert np.abs(np.stack(frames) - levels[:, None, None, None]).max() <= 1


def test_transparent_videos_are_put_over_black(tmp_path):
    pixels = np.full([4, 8, 8, 4], 200, dtype=np.uint8)
    pixels[:, :, :4, 3] = 0
    pixels[:, :, 4:, 3] = 255
    movie = lossless(tmp_path / "alpha.mkv", pixels, "bgra")
    assert probe_video(movie).alpha
    prepare_frames(movie, tmp_path / "out")
    clip = VideoPairDataset(path=tmp_path / "out", resolution=8, nframes=4).clip(0)
    assert (clip[..., :4] == 0).all() and (clip[..., 4:].int() - 200).abs().max() <= 1


def test_probe(movies, tmp_path):
    assert probe_video(str(movies / "a.mp4")).fps == 10 and not probe_video(str(movies / "a.mp4")).alpha
    (tmp_path / "x.mp4").write_bytes(b"")
    assert probe_video(str(tmp_path / "x.mp4")).fps is None


def test_rotated_video_is_cropped_as_it_is_shown(movies, tmp_path):
    run_ffmpeg("-display_rotation", "90", "-i", movies / "a.mp4", "-c", "copy", tmp_path / "turned.mp4")
    manifest = prepare_frames(tmp_path / "turned.mp4", tmp_path / "out", crop=Crop(rectangle=(0, 0, 24, 32)))
    assert manifest["sources"][0]["size"] == [24, 32] and manifest["sources"][0]["crop"] == [0, 4, 24]


def test_symbolic_links(movies, tmp_path):
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "linked.mp4").symlink_to(movies / "a.mp4")
    (source / "dangling.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (source / "sub" / "circle").symlink_to(source)
    manifest = prepare_frames(source, tmp_path / "out", skip_broken=True)
    assert [entry["source"] for entry in manifest["videos"]] == ["linked.mp4"]
    assert [entry["source"] for entry in manifest["skipped"]] == ["dangling.mp4"]


def test_zip_members_with_names_that_lead_elsewhere(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for frame in range(4):
            Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / "x.png")
            data = (tmp_path / "x.png").read_bytes()
            for folder in ("good/v", "../../evil", "/etc/evil", "C:/evil", "a//b", "..\\evil"):
                info = zipfile.ZipInfo("x")
                info.filename = f"{folder}/{frame}.png"
                archive.writestr(info, data)
        link = zipfile.ZipInfo("good/v/9.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    (tmp_path / "x.png").unlink()
    store = FrameStore(tmp_path / "evil.zip")
    assert [len(video) for video in store.videos] == [4, 4, 4]
    assert [video.path for video in store.videos] == ["C:/evil", "a/b", "good/v"] and store.unsafe == 13
    arguments = [str(tmp_path / "evil.zip"), str(tmp_path / "out"), "--nframes", "4", "--resolution", "4"]
    result = CliRunner().invoke(main, [*arguments, "--workers", "1"], catch_exceptions=False)
    assert "13 entries of the zip are left out: they are links, or their names lead out of it" in result.output
    assert sorted(os.listdir(tmp_path)) == ["evil.zip", "out"] and sorted(os.listdir(tmp_path / "out/videos")) == [
        "C_-evil_0000",
        "a-b_0000",
        "good-v_0000",
    ]


def test_names_that_are_no_utf8(movies, tmp_path):
    source = os.fsencode(tmp_path / "source")
    os.makedirs(source + b"/d\xe9j\xe0")
    os.link(movies / "a.mp4", source + b"/d\xe9j\xe0/b\xff.mp4")
    frames = source + b"/vid\xe9o"
    os.makedirs(frames)
    for frame in range(4):
        Image.new("RGB", (8, 8), (gray(frame),) * 3).save(os.fsdecode(frames + b"/fr\xe4me%d.png" % frame))
    manifest = prepare_frames(tmp_path / "source", tmp_path / "out")
    assert sorted(entry["source"] for entry in manifest["videos"]) == ["d\\xe9j\\xe0/b\\xff.mp4", "vid\\xe9o"]
    assert sorted(os.listdir(tmp_path / "out" / "videos")) == ["d_xe9j_xe0-b_xff_0000", "vid_xe9o_0000"]
    assert VideoPairDataset(path=tmp_path / "out", resolution=8, nframes=4).num_clips == 2
    raw = VideoPairDataset(path=tmp_path / "source", resolution=8, nframes=4)
    assert [int(v) for v in raw.clip(0)[:, 0, 0, 0]] == [gray(frame) for frame in range(4)]


def test_awkward_names_become_plain_ones(movies, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    names = ["-rf.mp4", "new\nline.mp4", "a:b?.mp4", "ö" * 120 + ".mp4", "ö" * 119 + "x.mp4", "Clip.mp4", "clip.mp4"]
    for name in names:
        os.link(movies / "a.mp4", source / name)
    manifest = prepare_frames(source, tmp_path / "out")
    made = sorted(os.listdir(tmp_path / "out" / "videos"))
    # Some file systems take Clip and clip for the same.
    assert len(made) == len({name.casefold() for name in made}) == 7 == len(manifest["videos"])
    assert {"_rf_0000", "new_line_0000", "a_b__0000"} <= set(made) and all(len(m.encode()) < 200 for m in made)


def test_no_video_is_named_like_a_file_that_is_hidden(movies, tmp_path):
    os.link(movies / "a.mp4", tmp_path / ".hidden.mp4")
    prepare_frames(tmp_path / ".hidden.mp4", tmp_path / "out")
    assert VideoPairDataset(path=tmp_path / "out", resolution=8, nframes=4).num_clips == 1


def test_files_of_the_source_without_use_are_told(movies, tmp_path):
    source = tmp_path / "source"
    write_frames(source / "set")
    os.link(movies / "a.mp4", source / "a.mp4")  # used
    (source / "disk").symlink_to(tmp_path / "nowhere")
    (source / "set" / "split" / "video_0" / "9.heic").write_bytes(b"")
    (source / "more.zip").write_bytes(b"")
    (source / "b.unknown").write_bytes(b"")
    (source / "set" / "dataset.json").write_text('{"labels": [["split/video_0", 0]]}')
    for frame in range(4):
        shutil.copy(
            source / "set" / "split" / "video_1" / f"{frame}.png", source / "set/split/video_1" / f"{frame}.PNG"
        )
    arguments = [str(source), str(tmp_path / "out"), "--nframes", "4", "--resolution", "8", "--workers", "1"]
    output = CliRunner().invoke(main, arguments, catch_exceptions=False).output.splitlines()
    assert output[:-1] == [
        "1 images of other formats than .png .jpg .jpeg .webp .bmp .tif .tiff are left out: convert them.",
        "1 archives (.zip) are left out: unpack them if they hold videos.",
        "1 files of unknown kinds (.unknown) are left out: if they are videos, give each a usual suffix, such as .mp4 "
        "or .mkv.",
        "4 frames have the name of another one with another suffix, such as 'set/split/video_1/0.PNG' and '0.png', and "
        "all of them are used: if they show the same, remove one of each.",
        "the link 'disk' leads nowhere: its videos are left out.",
        f"The dataset.json in '{source}/set' is not used, only one in the root would be: give that folder itself, or a "
        "zip of its content.",
    ]


def test_different_frame_rates_are_noted(movies, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    os.link(movies / "a.mp4", source / "a.mp4")
    for name, rate, noted in (("b.mp4", "10.9", False), ("c.mp4", "25", True)):
        run_ffmpeg("-r", rate, "-i", movies / "a.mp4", "-crf", "1", source / name)
        arguments = [str(source), str(tmp_path / f"out-{name}"), "--resolution", "8", "--nframes", "4"]
        output = CliRunner().invoke(main, arguments, catch_exceptions=False).output
        assert ("The videos have 10 to 25 frames per second, and clips" in output) == noted
        assert ("faster in some of them. Resample all to one rate: --fps 10.\n" in output) == noted


# Of the videos in the fixture `rates`: the frames at 10 per second, by their numbers in the source.
AT_TEN = {"25.mp4": [0, 2, 5, 7, 10, 12], "60.mkv": [0, 6, 12], "uneven.mp4": [0, 3, 6, 9, 10, 15]}


@pytest.fixture(scope="module")
def rates(tmp_path_factory):
    """Videos of 25, 60 and 30 frames per second; the last one without frames 11 to 14."""
    base, folder = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("rates")
    movie = write_movie(base / "a.mp4", frames=18, size=(32, 24))
    uneven = "select='not(between(n,11,14))'"
    plans = [("25.mp4", 25, 15, "null"), ("60.mkv", 60, 18, "null"), ("uneven.mp4", 30, 18, uneven)]
    for name, rate, count, vf in plans:
        options = ["-vf", f"trim=end_frame={count},{vf}", "-fps_mode", "passthrough", "-c:v", "libx264", "-crf", "1"]
        run_ffmpeg("-r", rate, "-i", movie, *options, folder / name)
    return folder


def grays(images):
    return [round((float(np.asarray(image).mean()) - gray(0)) / (gray(1) - gray(0))) for image in images]


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("shape", ["folder", "zip", "shards"])
def test_videos_of_several_rates_get_one(rates, tmp_path, shape, workers):
    out = tmp_path / "out"
    arguments = [str(rates), str(out), "--fps", "10", "--resolution", "8", "--nframes", "3", "--format", shape]
    arguments += ["--workers", workers]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.stderr == "3 video(s) of 25 to 60 frames per second were resampled.\n"
    manifest = json.loads((out / "manifest.json").read_text()) if shape == "shards" else read_manifest(out)
    assert manifest["fps"] == 10 and [entry["fps"] for entry in manifest["sources"]] == [10] * 3
    assert [entry["frames"] for entry in manifest["sources"]] == [6, 3, 6]
    assert [remark["rate"] for remark in manifest["remarks"]] == [25, 60, pytest.approx(30, abs=0.01)]
    if shape == "shards":
        samples = read_samples(str(out / "shard-000000.tar"))
        found = sorted(grays(decode_image(sample.image(k)[1]) for k in range(3)) for sample in samples)
        assert found == sorted(shown[k : k + 3] for shown in AT_TEN.values() for k in range(0, len(shown), 3))
    else:
        store = FrameStore(out)
        found = [grays(store.read_frame(video, k) for k in range(len(video))) for video in store.videos]
        assert found == list(AT_TEN.values())
    assert CliRunner().invoke(main, ["--check", str(out), "--workers", "1"]).exit_code == 0
    assert "3 video(s) in 3 folder(s), 5 clips of 3 frames, 8²" in result.stdout


def test_a_stride_counts_resampled_frames(rates, tmp_path):
    prepare(source=str(rates), out=str(tmp_path / "out"), resolution=8, nframes=2, fps=10, stride=2, max_frames=2)
    store = FrameStore(tmp_path / "out")
    found = [grays(store.read_frame(video, k) for k in range(len(video))) for video in store.videos]
    assert found == [shown[::2][:2] for shown in AT_TEN.values()]
    with pytest.raises(UserError, match="the longest video has 3 frames at --fps 10 after --stride 2, nframes is 4"):
        prepare(source=str(rates), out=str(tmp_path / "long"), resolution=8, nframes=4, fps=10, stride=2)


@pytest.mark.parametrize("zipped", [False, True])
def test_slower_videos_are_refused_or_left_out(rates, tmp_path, zipped):
    source = rates
    if zipped:
        source = tmp_path / "source.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for file in sorted(rates.iterdir()):
                archive.write(file, file.name)
    options = {"source": str(source), "out": str(tmp_path / "out"), "fps": 27, **OPTIONS}
    reason = f"'{source}/25.mp4' has 25 frames per second: for 27, frames between them would have to be invented."
    with pytest.raises(UserError) as raised:
        prepare(**options)
    assert str(raised.value) == f"{reason} Give a lower --fps or none, remove the video, or use --skip-broken."
    manifest = prepare(**options, skip_broken=True)
    assert manifest["skipped"] == [{"source": "25.mp4", "reason": reason}] and len(manifest["sources"]) == 2


@pytest.mark.parametrize("fps", [0, -1, math.nan, math.inf, 1001, True, "25"])
def test_rates_that_are_no_rates(rates, tmp_path, fps):
    with pytest.raises(UserError) as raised:
        prepare(source=str(rates), out=str(tmp_path / "out"), fps=fps, **OPTIONS)
    assert str(raised.value) == f"fps must be a number from 0.01 to 1000, got {fps!r}."


def test_folders_of_frames_have_no_rate(tmp_path):
    write_frames(tmp_path / "data", videos=2, frames=9)
    with pytest.raises(UserError) as raised:
        prepare(source=str(tmp_path / "data"), out=str(tmp_path / "out"), fps=10, **OPTIONS)
    first = FrameStore(tmp_path / "data").videos[0].path
    assert str(raised.value) == (
        f"--fps: '{tmp_path}/data/{first}' is a folder of frames, whose frame rate is unknown: leave --fps out, or use "
        "--frame-stride, or give videos only."
    )
    assert os.listdir(tmp_path) == ["data"]


def test_an_interrupted_conversion_goes_on_at_its_rate_only(movies, tmp_path, monkeypatch):
    interrupted(movies, tmp_path / "out", monkeypatch, fps=5, nframes=2)
    for fps, word in ((None, "none"), (4, "4")):
        with pytest.raises(UserError, match=rf"an unfinished dataset made with fps 5, not {word}: repeat that"):
            prepare_frames(movies, tmp_path / "out", fps=fps, nframes=2)
    done = converted(monkeypatch)
    prepare_frames(movies, tmp_path / "out", fps=5.0, nframes=2)
    assert done == ["c", "d", "e"]


def test_a_conversion_of_a_version_without_rates_goes_on(movies, tmp_path, monkeypatch):
    interrupted(movies, tmp_path / "out", monkeypatch)
    file = tmp_path / ".out.unfinished" / "settings.json"
    settings = json.loads(file.read_text())
    assert settings.pop("fps") is None
    file.write_text(json.dumps(settings))
    done = converted(monkeypatch)
    prepare_frames(movies, tmp_path / "out")
    assert done == ["c", "d", "e"]


def test_boxes_of_another_rate_are_refused(rates, tmp_path):
    def result(entry, fps):
        file = tmp_path / "boxes.json"
        file.write_text(json.dumps({"25.mp4": entry}))
        options = {"source": str(rates / "25.mp4"), "out": str(tmp_path / "out"), "overwrite": True, **OPTIONS}
        try:
            crop = Crop(boxes=read_boxes(str(file), scale=1, smoothing=0))
            return prepare(**options, crop=crop, fps=fps)["videos"]
        except UserError as error:
            return str(error)

    box = [4, 4, 20, 20]
    clip = {"first": 1, "frames": 5, "box": [box] * 5}
    own = (
        "The file of boxes counts the frames of '25.mp4' itself, not those of --fps 10: leave --fps out, or give clips "
        'with "fps": 10.'
    )
    assert result([clip], 10) == result([box] * 15, 10) == own
    at_ten = "The file of boxes counts frames of '25.mp4' at 10 per second: use --fps 10."
    assert result([clip | {"fps": 10}], None) == result([clip | {"fps": 10}], 12.5) == at_ten
    (video,) = result([clip | {"fps": 10}], 10)
    assert video["frames"] == 5
    store = FrameStore(tmp_path / "out")
    assert grays(store.read_frame(store.videos[0], k) for k in range(5)) == AT_TEN["25.mp4"][1:]
    assert result(box, 10)[0]["frames"] == 6
    assert result([clip | {"fps": 30000 / 3001}], 9.99667)[0]["frames"] == 5  # as the message says it
    assert "'25.mp4, clip 0': fps must be a number of frames per second, got 0." in result([clip | {"fps": 0}], 10)


def test_small_videos_are_enlarged_and_that_is_said(movies, tmp_path):
    arguments = [str(movies), str(tmp_path / "out"), "--nframes", "4", "--resolution", "32", "--workers", "1"]
    assert "5 video(s) were enlarged" in CliRunner().invoke(main, arguments, catch_exceptions=False).output


def test_wrong_commands(movies, tmp_path):
    def message(*arguments):
        result = CliRunner().invoke(main, [str(a) for a in arguments], standalone_mode=False)
        assert isinstance(result.exception, UserError) and not (tmp_path / "out").exists()
        return str(result.exception)

    out = tmp_path / "out"
    assert "Give a SOURCE and an OUT" in message(movies)
    assert "takes no SOURCE" in message(movies, out, "--check", out)
    assert "give one of them" in message(movies, out, "--crop", "0,0,9,9", "--boxes", "x.json")
    assert "--crop nonsense" in message(movies, out, "--crop", "nonsense")
    assert "Cannot read the boxes" in message(movies, out, "--boxes", tmp_path / "none.json")
    for workers in ("1", "2"):
        assert re.fullmatch(
            r"The rectangle 30,0,9,9 is not inside the frames of '[abc]\.mp4', which have 32×24 pixels\. Give another "
            r"--crop, or use --skip-broken\.",
            message(movies, out, "--crop", "30,0,9,9", "--workers", workers),
        )
