"""--check finds what is wrong with a dataset; --preview shows it."""

import io
import json
import math
import shutil
import sys
import tarfile

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dnnlib import UserError
from training.data.webdataset_files import Member, Sample
from training.dataset_tool.__main__ import main, prepare
from training.dataset_tool.validate import check_dataset, write_preview


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("source")
    for video in range(3):
        folder = root / "train" / f"v{video}"
        folder.mkdir(parents=True)
        for frame in range(8):
            Image.new("RGB", (12, 10), (100 * video, 30 * frame, 0)).save(folder / f"{frame:03d}.png")
    (root / "dataset.json").write_text(json.dumps({"labels": [[f"train/v{v}", v] for v in range(3)]}))
    return root


@pytest.fixture
def dataset(source, tmp_path):
    prepare(source=str(source), out=str(tmp_path / "set"), resolution=8, nframes=4)
    return tmp_path / "set"


def frame(dataset, video=1, number=2):
    return dataset / "videos" / f"train-v{video}_0000" / f"{number:06d}.png"


@pytest.mark.parametrize("shape", ["folder", "zip", "shards"])
@pytest.mark.parametrize("workers", [1, 2])
def test_sound(source, tmp_path, shape, workers):
    out = str(tmp_path / ("set.zip" if shape == "zip" else "set"))
    prepare(source=str(source), out=out, resolution=8, nframes=4, shape=shape, shard_clips=4)
    report = check_dataset(out, workers=workers)
    assert report.problems == [] and report.sizes == {(8, 8): 24}
    assert (report.frames, report.clips, report.short, report.nframes) == (24, 6, 0, 4)
    assert report.videos == (6 if shape == "shards" else 3)  # in shards, clips are all there is
    assert report.lines()[-1] == "sound     no problems"


def test_problems_are_found(dataset):
    frame(dataset, 0, 3).write_bytes(b"")
    frame(dataset, 1, 2).unlink()
    Image.new("RGB", (9, 8)).save(frame(dataset, 2, 0))
    shutil.copytree(dataset / "videos" / "train-v0_0000", dataset / "videos" / "extra")
    frame(dataset, 0, 3).with_name("x.txt").write_text("")
    problems = "\n".join(check_dataset(str(dataset)).problems)
    for part in (
        "Cannot read the frame",
        "train-v0_0000/000003.png",
        "'videos/train-v1_0000' has 8 frames in manifest.json, but 7 of its frames are there",
        "'videos/train-v2_0000' has frames of different sizes: 9×8, 8×8",
        "manifest.json says 8×8 pixels",
        "no label for 1 of 4 videos",
    ):
        assert part in problems, part
    shutil.rmtree(dataset / "videos" / "train-v2_0000")
    assert "it is not there" in "\n".join(check_dataset(str(dataset)).problems)


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"nframes": None}, "manifest.json is damaged: it has no valid nframes"),
        ({"nframes": 0}, "manifest.json is damaged: it has no valid nframes"),
        (
            {"videos": [{"path": "x"}]},
            "manifest.json is damaged: its videos cannot be compared with those that are there",
        ),
        (
            {"videos": [{"path": "x", "frames": math.inf}]},
            "manifest.json is damaged: its videos cannot be compared with those that are there",
        ),
        ({"videos": 3}, "manifest.json is damaged: its videos cannot be compared with those that are there"),
    ],
)
def test_a_damaged_manifest_is_a_problem(dataset, change, problem):
    file = dataset / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert check_dataset(str(dataset)).problems == [problem]


@pytest.mark.parametrize("content", ["", "{"])
def test_a_manifest_that_cannot_be_read_is_a_problem(dataset, content):
    (dataset / "manifest.json").write_text(content)
    (problem,) = check_dataset(str(dataset)).problems
    assert "manifest.json' is damaged (" in problem


def test_clips_without_a_camera_beside_others_with_one(source, tmp_path):
    labelled = shutil.copytree(source, tmp_path / "source")
    cameras = [[f"train/v{v}", [0.1, 1.5]] for v in range(3)]
    (labelled / "dataset.json").write_text(json.dumps({"cameras": cameras}))
    prepare(source=str(labelled), out=str(tmp_path / "set"), resolution=8, nframes=4, shape="shards")
    shard = tmp_path / "set" / "shard-000000.tar"
    assert check_dataset(str(tmp_path / "set")).problems == []
    data = shard.read_bytes()
    shard.write_bytes(data.replace(b'"camera"', b'"kamera"', 1))
    assert check_dataset(str(tmp_path / "set")).problems == [
        "1 of 6 clips have no camera, or none that is [yaw, pitch] in radians"
    ]


@pytest.mark.parametrize("shape", ["folder", "shards"])
def test_cameras_count_once_for_every_clip(source, tmp_path, shape):
    """As often as training shows them: a long video has many clips, and one that is too short has none."""
    lengths = {"v0": 8, "v1": 3, "v2": 4}
    for video, length in lengths.items():
        folder = shutil.copytree(source / "train" / video, tmp_path / "source" / video)
        for number in range(length, 8):
            (folder / f"{number:03d}.png").unlink()
    entries = {"cameras": [[f"v{v}", [v / 10, 1.5]] for v in range(3)], "labels": [[f"v{v}", v] for v in range(3)]}
    (tmp_path / "source" / "dataset.json").write_text(json.dumps(entries))
    whole = tmp_path / "source"
    if shape == "shards":
        prepare(source=str(whole), out=str(tmp_path / "set"), resolution=8, nframes=4, shape=shape)
    report = check_dataset(str(whole if shape == "folder" else tmp_path / "set"), nframes=4)
    assert sorted(float(yaw) for yaw, _ in report.cameras) == pytest.approx([0, 0, 0.2])
    assert any("no video in use for 1 of 3 classes, e.g. class 1" in note for note in report.notes) == (
        shape == "folder"
    )


def test_cameras_in_degrees_beside_clips_of_other_programs(source, tmp_path):
    """Without a manifest nothing else says that there are cameras."""
    labelled = shutil.copytree(source, tmp_path / "source")
    (labelled / "dataset.json").write_text(json.dumps({"cameras": [[f"train/v{v}", [1.25, 1.5]] for v in range(3)]}))
    prepare(source=str(labelled), out=str(tmp_path / "set"), resolution=8, nframes=4, shape="shards")
    shard = tmp_path / "set" / "shard-000000.tar"
    assert shard.read_bytes().count(b"[1.25, 1.5]") == 6
    shard.write_bytes(shard.read_bytes().replace(b"[1.25, 1.5]", b"[30.0, 90 ]"))
    shard = shard.rename(tmp_path / "alone.tar")
    assert check_dataset(str(shard)).problems == [
        "6 of 6 clips have no camera, or none that is [yaw, pitch] in radians"
    ]


@pytest.mark.parametrize("content", [{"label": [["train/v0", 0]]}, [["train/v0", 0]], [], None, 3])
def test_a_file_of_neither_labels_nor_cameras(source, tmp_path, content):
    copy = shutil.copytree(source, tmp_path / "copy")
    (copy / "dataset.json").write_text(json.dumps(content))
    assert check_dataset(str(copy), nframes=8).problems == [
        f"Cannot use '{copy}/dataset.json' (ValueError: neither labels nor cameras); it must be "
        '{"labels": [["path/of/video", label], …]}.'
    ]


def test_classes_that_are_counted_from_1(source, tmp_path):
    copy = shutil.copytree(source, tmp_path / "copy")
    (copy / "dataset.json").write_text(json.dumps({"labels": [[f"train/v{v}", 1 + v] for v in range(3)]}))
    (note,) = [note for note in check_dataset(str(copy)).notes if "classes" in note]
    assert "no video in use for 1 of 4 classes, e.g. class 0, and nothing is learnt for" in note


def test_a_folder_of_anything(source, tmp_path):
    report = check_dataset(str(source), nframes=8)
    assert (report.videos, report.short, report.clips, report.problems) == (3, 0, 3, [])
    assert "labels of length 3 for every video" in report.notes
    with pytest.raises(UserError, match="There is no file or folder"):
        check_dataset(str(tmp_path / "nothing"))


def test_a_dataset_without_clips(source, tmp_path):
    problem = "all videos are shorter than nframes={}: use longer videos or a smaller nframes"
    report = check_dataset(str(source), nframes=9)
    assert (report.videos, report.short, report.clips, report.problems) == (3, 3, 0, [problem.format(9)])
    result = CliRunner().invoke(main, ["--check", str(source), "--workers", "1"], standalone_mode=False)
    assert isinstance(result.exception, UserError) and "has 1 problem(s), listed above" in str(result.exception)
    for shape in ("folder", "shards"):
        out = tmp_path / shape
        prepare(source=str(source), out=str(out), resolution=8, nframes=8, shape=shape)
        content = json.loads((out / "manifest.json").read_text())
        assert content["nframes"] == 8
        (out / "manifest.json").write_text(json.dumps(content | {"nframes": 9}))
        assert check_dataset(str(out)).problems == [problem.format(9)], shape


def test_shards_that_do_not_fit_their_index(source, tmp_path):
    prepare(source=str(source), out=str(tmp_path / "set"), resolution=8, nframes=4, shape="shards", shard_clips=4)
    (tmp_path / "set" / "shard-000001.tar").write_bytes(b"\0" * 10240)
    report = check_dataset(str(tmp_path / "set"))
    assert "has 0 clips, 2 are listed" in report.problems[-1]
    assert len(report.problems) == 1 or sys.version_info < (3, 11)  # then empty headers are an error, too


@pytest.mark.parametrize("length", [0, 100, 400])
def test_a_shard_that_is_cut_off_at_a_header(source, tmp_path, length):
    """In its last clip: only the end of the archive is missing."""
    prepare(source=str(source), out=str(tmp_path / "set"), resolution=8, nframes=4, shape="shards", shard_clips=4)
    shard = tmp_path / "set" / "shard-000000.tar"
    with tarfile.open(shard) as archive:
        place = archive.getmembers()[-2].offset  # the last frame; the last member is the .json
    shard.write_bytes(shard.read_bytes()[: place + length])
    assert check_dataset(str(tmp_path / "set")).problems == [
        f"Cannot read the shard '{shard}' (unexpected end of data): replace it.",
        f"'{shard}' has 3 clips, 4 are listed",
    ]


def test_a_clip_of_a_shard_that_has_lost_a_frame(source, tmp_path):
    prepare(source=str(source), out=str(tmp_path / "set"), resolution=8, nframes=4, shape="shards", shard_clips=4)
    shard = tmp_path / "set" / "shard-000000.tar"
    with tarfile.open(shard) as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive]
    with tarfile.open(shard, "w") as archive:
        for member, data in members[1:]:
            archive.addfile(member, io.BytesIO(data))
    assert check_dataset(str(tmp_path / "set")).problems == [f"'{shard}' has 1 clip(s) of fewer than 4 frames"]


@pytest.mark.parametrize("empty", [1, 2])
def test_clips_of_shards_without_images(tmp_path, empty):
    """As in tar files of videos, clip.mp4 beside clip.json."""
    shard, sheet = tmp_path / "clips.tar", tmp_path / "sheet.png"
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 0, 0)).save(picture, format="PNG")
    with tarfile.open(shard, "w") as archive:
        for number, name in enumerate("ab"):
            member = tarfile.TarInfo(f"{name}.mp4" if number < empty else f"{name}.0.png")
            member.size = len(picture.getvalue())
            archive.addfile(member, io.BytesIO(picture.getvalue()))
    assert check_dataset(str(shard)).problems == [
        f"'{shard}' has {empty} clip(s) without images (.png, .jpg, .jpeg, .webp, .bmp, .tif, .tiff)"
    ]
    if empty == 2:
        with pytest.raises(UserError) as caught:
            write_preview(str(shard), str(sheet))
        assert str(caught.value) == f"'{shard}' has no clip with images to show." and not sheet.exists()
    else:
        write_preview(str(shard), str(sheet))
        assert Image.open(sheet).getpixel((0, 0)) == (200, 0, 0)


def test_frames_of_shards_are_read_once_or_when_shown(source, tmp_path, monkeypatch):
    prepare(source=str(source), out=str(tmp_path / "set"), resolution=8, nframes=8, shape="shards")
    reads, read = [], Member.read
    monkeypatch.setattr(Member, "read", lambda member: reads.append(member) or read(member))
    check_dataset(str(tmp_path / "set"), workers=1)
    assert len(reads) == len(set(reads)) >= 24
    reads.clear()
    monkeypatch.setattr("training.dataset_tool.validate.SHEET", (3, 2))
    write_preview(str(tmp_path / "set"), str(tmp_path / "sheet.png"))
    assert 0 < len(reads) <= 3 * 3  # two frames and the .json of three clips


def test_a_full_memory_is_no_problem_of_a_frame(source, tmp_path, monkeypatch):
    prepare(source=str(source), out=str(tmp_path / "set"), resolution=8, nframes=8, shape="shards")

    def read(sample, index):
        raise MemoryError

    monkeypatch.setattr(Sample, "image", read)
    with pytest.raises(MemoryError):
        check_dataset(str(tmp_path / "set"), workers=1)


def test_frames_that_go_missing_while_shards_are_checked(source, tmp_path, monkeypatch):
    prepare(source=str(source), out=str(tmp_path / "set"), resolution=8, nframes=8, shape="shards")

    def gone(sample, index):
        raise OSError("the file is gone")

    monkeypatch.setattr(Sample, "image", gone)
    problems = check_dataset(str(tmp_path / "set"), workers=1).problems
    assert len(problems) == 24 and all("Cannot read the frame" in problem for problem in problems)
    write_preview(str(tmp_path / "set"), str(tmp_path / "sheet.png"))  # red, as for other damage
    assert Image.open(tmp_path / "sheet.png").getpixel((0, 0)) == (255, 0, 0)


def test_command(dataset, tmp_path):
    arguments = ["--check", str(dataset), "--workers", "1", "--preview", str(tmp_path / "sheet.png")]
    result = CliRunner().invoke(main, arguments, standalone_mode=False)
    assert result.exception is None and "videos    3, of which 0 are shorter than a clip" in result.output
    assert Image.open(tmp_path / "sheet.png").size == (64, 24)
    frame(dataset).write_bytes(b"")
    result = CliRunner().invoke(main, arguments, standalone_mode=False)
    assert isinstance(result.exception, UserError) and "problem(s), listed above" in str(result.exception)
    assert "problem   Cannot read the frame" in result.output


@pytest.mark.parametrize("shape", ["folder", "shards"])
def test_preview_shows_videos_in_rows_and_time_in_columns(source, tmp_path, shape):
    prepare(source=str(source), out=str(tmp_path / "set"), resolution=8, nframes=8, shape=shape)
    write_preview(str(tmp_path / "set"), str(tmp_path / "sheet.png"))
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))[::8, ::8]
    assert pixels.shape == (3, 8, 3) and sorted(pixels[:, 0, 0]) == [0, 100, 200]
    assert (pixels[:, :, 0] == pixels[:, :1, 0]).all() and (pixels[:, :, 1] == 30 * np.arange(8)).all()
