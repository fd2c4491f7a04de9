"""Listed and existing entries (labels, cameras, boxes, videos, shards): nothing is dropped without a word."""

import json
import os
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dnnlib import UserError
from tests.training.tiny import make_plan, write_frames
from training.data.dataset import VideoPairDataset
from training.data.webdataset import ShardPairDataset
from training.dataset_tool.__main__ import main, prepare
from training.dataset_tool.validate import check_dataset

VIDEOS = ["train/a", "train/b"]


@pytest.fixture
def source(tmp_path):
    """Two videos of five frames each."""
    for video in VIDEOS:
        folder = tmp_path / "source" / video
        folder.mkdir(parents=True)
        for frame in range(5):
            Image.new("RGB", (8, 8), (40 * frame,) * 3).save(folder / f"{frame:04d}.png")
    return tmp_path / "source"


def listing(source, **content):
    (source / "dataset.json").write_text(json.dumps(content))


def convert(source, *options):
    """Exit code, output and error output of the tool; OUT lies beside the source."""
    arguments = [str(source), str(source.parent / "out"), "--resolution", "8", "--nframes", "4", "--workers", "1"]
    result = CliRunner().invoke(main, [*arguments, *options], standalone_mode=False)
    return result.exception, result.stderr


def written(source):
    file = source.parent / "out" / "dataset.json"
    return json.loads(file.read_text()) if file.exists() else None


# ----------------------------------------------------------------------------------------------------------------------
# Labels and cameras in the tool


@pytest.mark.parametrize("form", ["{}/{:04d}.png", "./{}/{:04d}.png", ".\\{}\\{:04d}.png"])
@pytest.mark.parametrize("kind, value", [("labels", 0), ("cameras", [0.1, 1.5])])
def test_entries_per_frame_are_refused(source, form, kind, value):
    listing(source, **{kind: [[form.format(video, frame), value] for video in VIDEOS for frame in range(5)]})
    error, _ = convert(source)
    assert isinstance(error, UserError) and "\n" not in str(error)
    assert f"10 of 10 {kind} are for none of the videos, e.g. 'train/a/0000.png'. 10 are for single frames" in str(
        error
    )
    assert "The videos are called e.g. 'train/a': repair or remove the file" in str(error)
    assert os.listdir(source.parent) == ["source"]


def test_entries_of_other_videos_only_are_refused(source):
    listing(source, labels=[["a", 0], ["b", 1]])
    error, _ = convert(source)
    assert isinstance(error, UserError) and "2 of 2 labels are for none of the videos, e.g. 'a'." in str(error)


def test_some_without_a_partner_are_counted(source):
    listing(source, labels=[["./train/a", 1], ["test/x", 0], ["train/b/0000.png", 0]], cameras=[["train\\b", [0, 1]]])
    error, notes = convert(source)
    assert error is None
    assert "1 of 2 videos have no labels, e.g. 'train/b'." in notes
    assert "1 of 2 videos have no cameras, e.g. 'train/a'." in notes
    assert "2 of 3 labels are for none of the videos, e.g. 'test/x'. 1 are for single frames" in notes
    assert written(source) == {"labels": [["videos/train-a_0000", 1]], "cameras": [["videos/train-b_0000", [0, 1]]]}


def test_paths_in_other_forms_find_their_videos(source):
    listing(source, labels=[[".\\train\\a", 1], ["train//b/", 0]])
    error, notes = convert(source)
    assert error is None and notes == ""
    assert written(source)["labels"] == [["videos/train-a_0000", 1], ["videos/train-b_0000", 0]]


def test_two_labels_for_one_video_are_refused(source):
    listing(source, labels=[["train/a", 0], ["./train/a", 1], ["train/b", 0]])
    error, _ = convert(source)
    assert isinstance(error, UserError) and "gives the video 'train/a' two different labels" in str(error)


@pytest.mark.parametrize("content", [{"labels": None}, {"labels": None, "cameras": None}, {"labels": []}, {}])
def test_no_labels_are_no_labels(source, content):
    listing(source, **content)
    for options in ([], ["--format", "shards", "--overwrite"]):
        error, notes = convert(source, *options)
        assert error is None and notes == "" and written(source) is None


def test_null_beside_the_other_kind(source):
    listing(source, labels=None, cameras=[[video, [0, 1]] for video in VIDEOS])
    assert convert(source)[0] is None and list(written(source)) == ["cameras"]


# ----------------------------------------------------------------------------------------------------------------------
# Where they are read


def test_null_is_read_as_none(source):
    listing(source, labels=None, cameras=None)
    report = check_dataset(str(source), nframes=4)
    assert report.problems == [] and not any("label" in note for note in report.notes)
    for kind, options in (("labels", {"use_labels": True}), ("cameras", {"use_cameras": True})):
        with pytest.raises(UserError, match=rf"Cannot use '.*dataset\.json' \(its {kind} are null.*Or train without"):
            VideoPairDataset(path=source, resolution=8, nframes=4, **options)
    assert VideoPairDataset(path=source, resolution=8, nframes=4).notes == []


def test_a_file_of_the_other_kind_is_named(source):
    listing(source, cameras=[[video, [0, 1]] for video in VIDEOS])
    with pytest.raises(UserError, match=r"dataset\.json' \(it has no labels\); it must be .*Or train without labels"):
        VideoPairDataset(path=source, resolution=8, nframes=4, use_labels=True)


def test_readers_count_entries_without_a_video(source):
    listing(source, labels=[["train/a", 0], ["train/b", 1], ["train/c", 1]])
    note = "dataset.json: 1 of 3 labels are for none of the videos, e.g. 'train/c'."
    assert VideoPairDataset(path=source, resolution=8, nframes=4, use_labels=True).notes == [note]
    assert VideoPairDataset(path=source, resolution=8, nframes=4).notes == []  # they are not used
    report = check_dataset(str(source), nframes=4)
    assert report.problems == [] and note in report.notes


def test_a_training_prints_what_has_no_partner(tmp_path):
    write_frames(tmp_path / "data")
    videos = sorted(f"{path.parent.name}/{path.name}" for path in (tmp_path / "data").glob("*/*"))
    listing(tmp_path / "data", labels=[[video, 0] for video in [*videos, "train/gone"]])
    note = f"dataset.json: 1 of {len(videos) + 1} labels are for none of the videos, e.g. 'train/gone'."
    assert note in make_plan(tmp_path, "cond=true").notes


def test_readers_say_that_entries_are_for_frames(source):
    listing(source, labels=[[f"{video}/{frame:04d}.png", 0] for video in VIDEOS for frame in range(5)])
    with pytest.raises(UserError, match=r"no label for 2 of 2 videos.* 10 are for single frames, but one for each"):
        VideoPairDataset(path=source, resolution=8, nframes=4, use_labels=True)


def test_videos_that_the_manifest_lists_and_that_are_gone(source, tmp_path):
    prepare(source=str(source), out=str(tmp_path / "out"), resolution=8, nframes=4)
    assert VideoPairDataset(path=tmp_path / "out", resolution=8, nframes=4).notes == []
    shutil.rmtree(tmp_path / "out" / "videos" / "train-b_0000")
    expected = (
        f"'{tmp_path / 'out'}': 1 of 2 videos in manifest.json are missing, or frames of them, e.g. "
        "'videos/train-b_0000'."
    )
    assert VideoPairDataset(path=tmp_path / "out", resolution=8, nframes=4).notes == [expected]


def test_shards_that_the_index_lists_and_that_are_gone(source, tmp_path):
    pytest.importorskip("webdataset")
    options = dict(resolution=8, nframes=4, shape="shards", shard_clips=1)
    prepare(source=str(source), out=str(tmp_path / "out"), **options)
    assert ShardPairDataset(path=tmp_path / "out", resolution=8, nframes=4).notes == []
    os.unlink(tmp_path / "out" / "shard-000001.tar")
    (note,) = ShardPairDataset(path=tmp_path / "out", resolution=8, nframes=4).notes
    assert note == "1 of 2 shards in index.json are not there, e.g. 'shard-000001.tar'."
    assert (
        "the shard 'shard-000001.tar' is in index.json, but it is not there"
        in check_dataset(str(tmp_path / "out")).problems
    )
    chosen = tmp_path / "out" / "shard-000000.tar"
    assert ShardPairDataset(path=chosen, resolution=8, nframes=4).notes == []  # what is left out is left out


# ----------------------------------------------------------------------------------------------------------------------
# Boxes


def boxes(source, text):
    file = source.parent / "boxes.json"
    file.write_text(text if isinstance(text, str) else json.dumps(text))
    return "--boxes", str(file)


def test_boxes_for_no_video_are_counted(source):
    box = [0, 0, 4, 4]
    options = boxes(source, {"./train/a": box, "train\\b": [box] * 5, "train/c": box, "train/a/0001.png": box})
    error, notes = convert(source, *options)
    assert error is None
    assert "2 of 4 boxes are for none of the videos, e.g. 'train/c'. 1 are for single frames" in notes


@pytest.mark.parametrize("count, stride, limit, most", [
    (5, 1, None, None), (6, 1, None, 5), (6, 2, None, None), (7, 2, None, 6), (6, 1, 4, None), (6, 1, 9, 5),
])  # fmt: skip
def test_boxes_for_more_frames_than_there_are(source, count, stride, limit, most):
    """Then they were made for another version of the video, and are shifted somewhere."""
    options = boxes(source, {video: [[0, 0, 4, 4]] * count for video in VIDEOS})
    limited = ["--max-frames", str(limit)] if limit else []
    error, _ = convert(source, *options, "--frame-stride", str(stride), "--nframes", "2", *limited)
    if most is None:
        assert error is None
    else:
        assert isinstance(error, UserError)
        assert f"has {count} boxes for 'train/a', which has no more than {most} frame(s)" in str(error)


@pytest.mark.parametrize("first", ["train/a", "./train/a"])
def test_boxes_given_twice(source, first):
    text = f'{{"{first}": [0, 0, 4, 4], "train/a": [0, 0, 2, 2], "train/b": [0, 0, 4, 4]}}'
    error, _ = convert(source, *boxes(source, text))
    assert isinstance(error, UserError) and "has boxes for the video 'train/a' twice; remove one" in str(error)


def test_a_box_for_every_frame_is_that_of_the_frame(source):
    lists = {video: [[frame, 0, frame + 3, 3] for frame in range(5)] for video in VIDEOS}
    ramp = np.tile(np.arange(8, dtype=np.uint8)[None, :, None] * 20, (8, 1, 3))
    for video in VIDEOS:
        for frame in range(5):
            Image.fromarray(ramp).save(source / video / f"{frame:04d}.png")
    error, _ = convert(source, *boxes(source, lists), "--box-scale", "1", "--box-smoothing", "0", "--resolution", "3")
    assert error is None
    clip = VideoPairDataset(path=source.parent / "out", resolution=3, nframes=4).clip(0)
    assert clip[:, 0, 0].tolist() == [[20 * (frame + k) for k in range(3)] for frame in range(4)]


@pytest.mark.parametrize("shape", ["folder", "zip", "shards"])
def test_frames_that_are_smaller_than_the_resolution(source, tmp_path, shape):
    if shape == "shards":
        pytest.importorskip("webdataset")
    out = str(tmp_path / ("out.zip" if shape == "zip" else "out"))
    prepare(source=str(source), out=out, resolution=8, nframes=4, shape=shape)
    dataset = ShardPairDataset if shape == "shards" else VideoPairDataset
    expected = f"'{out}': frames of 8×8 pixels are enlarged to 16×16: convert the videos with --resolution 16 for more "
    assert dataset(path=out, resolution=16, nframes=4).notes == [expected + "detail."]
    assert dataset(path=out, resolution=4, nframes=4).notes == []
