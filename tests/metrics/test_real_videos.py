"""Videos on disk as one side of an evaluation: choice of clips, pixels, and the cache key."""

import io
import json
import os
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dnnlib import UserError
from metrics import real_videos
from metrics.real_videos import KEY_OFFSETS, KEY_ORDER, SEED, StoredVideos, choose_windows
from renderer.output_writer import OutputVideos
from renderer.outputs import CHANNELS, OUTPUTS
from renderer.video import VideoWriter
from tests.training.data.movies import run_ffmpeg
from training.data import frame_index
from training.data.dataset import VideoPairDataset, random_block
from training.data.frame_store import FrameStore, UnreadableFrame
from training.data.images import fit_square

MAPS = OUTPUTS[1:]  # all but the image


def write_videos(root: Path, lengths, *, size: int = 16) -> Path:
    """Videos whose frame t of video v has the grey level 10 v + t, `root/set/v/t.png`."""
    for video, length in enumerate(lengths):
        folder = root / "set" / f"{video}"
        folder.mkdir(parents=True)
        for frame in range(length):
            Image.new("RGB", (size, size), (10 * video + frame,) * 3).save(folder / f"{frame:03d}.png")
    return root


def levels(clips, indices=None):
    """The grey levels of clips that are flat, [N][T]."""
    loaded = clips.load(range(len(clips)) if indices is None else indices)
    assert loaded.dtype == torch.uint8 and loaded.ndim == 5 and loaded.shape[1] == 3
    assert torch.equal(loaded, loaded[:, :1, :, :1, :1].expand_as(loaded))
    return loaded[:, 0, :, 0, 0].tolist()


def test_windows():
    lengths = [3, 10, 4, 6]
    chosen = choose_windows(lengths, window=4, count=100)
    assert len(chosen) == 7 + 1 + 3  # all there are
    assert len(set(chosen)) == len(chosen)
    assert all(0 <= start <= lengths[video] - 4 for video, start in chosen)
    assert {video for video, _ in chosen[:3]} == {1, 2, 3}  # every video once before any one again
    assert choose_windows(lengths, window=4, count=5) == chosen[:5]
    assert choose_windows(lengths, window=11, count=5) == []
    assert choose_windows(lengths, window=4, count=100, seed=1) != chosen


def test_windows_of_a_choice_are_the_first_of_all():
    """Offsets are drawn for the videos that are reached only, which changes no window."""
    random = np.random.default_rng(0)
    for _ in range(50):
        lengths = random.integers(1, 30, size=random.integers(1, 40)).tolist()
        window = int(random.integers(1, 20))
        everything = choose_windows(lengths, window=window, count=10**6)
        # Turn after turn, a window of each video that has another one.
        order = random_order([v for v, length in enumerate(lengths) if length >= window], SEED, KEY_ORDER)
        offsets = {v: random_order(range(lengths[v] - window + 1), SEED, KEY_OFFSETS, v) for v in order}
        turns = range(max(lengths))
        assert everything == [(v, offsets[v][turn]) for turn in turns for v in order if turn < len(offsets[v])]
        for count in (1, 2, len(order), len(order) + 1, 100):
            assert choose_windows(lengths, window=window, count=count) == everything[:count]


def random_order(values, seed, use, video=0):
    numbers = random_block(seed, use, index=video).random(len(values))
    return [value for _, value in sorted(zip(numbers.tolist(), values))]


def test_only_the_videos_that_are_reached_have_offsets(monkeypatch):
    drawn = []
    permutation = real_videos._permutation
    monkeypatch.setattr(real_videos, "_permutation", lambda n, *key: drawn.append(n) or permutation(n, *key))
    assert len(choose_windows([20] * 1000, window=5, count=3)) == 3
    assert drawn == [1000, 16, 16, 16]


def test_offsets_are_random():
    starts = [start for _, start in choose_windows([20] * 400, window=5, count=400)]
    counts = np.bincount(starts, minlength=16)
    assert len(counts) == 16 and counts.min() > 5 and counts.max() < 60  # 25 each on average


def test_clips(tmp_path):
    videos = StoredVideos(write_videos(tmp_path, [3, 10, 4, 6]), resolution=16)
    clips = videos.clips(count=6, frames=4)
    assert len(clips) == 6
    for video, first in zip(range(6), levels(clips)):
        assert first == list(range(first[0], first[0] + 4)), video
    expected = [[10 * v + start + t for t in range(4)] for v, start in choose_windows([3, 10, 4, 6], window=4, count=6)]
    assert levels(clips) == expected and levels(clips, [4, 1]) == [expected[4], expected[1]]
    about = clips.describe()
    assert about["num_short_videos"] == 1 and about["num_videos"] == 3 and about["resolution"] == 16


def write_outputs(folder, name, outputs, *, level, save_frames):
    """Four frames as generate.py writes them."""
    with OutputVideos(str(folder / name), outputs, fps=8, near=1, far=2, save_frames=save_frames) as videos:
        maps = {output: torch.full([CHANNELS[output], 16, 16], level / 127.5 - 1) for output in outputs}
        for _ in range(4):
            videos.add(maps, sizes=dict.fromkeys(outputs, (16, 16)))


@pytest.mark.parametrize("save_frames", [False, True])
def test_depth_and_other_outputs_are_no_generated_videos(tmp_path, save_frames):
    for seed in range(2):
        write_outputs(tmp_path, f"yaw_seed{seed}", OUTPUTS, level=60 + 100 * seed, save_frames=save_frames)
    videos = StoredVideos(tmp_path, resolution=16, generated=True)
    clips = videos.clips(count=10, frames=4)
    found = clips.load(range(len(clips)))[:, 0, :, 0, 0].int()
    assert (found[found[:, 0].argsort()] - torch.tensor([[60] * 4, [160] * 4])).abs().max() <= 3
    assert videos.notes[0] == (
        f"'{tmp_path}': {2 * len(MAPS)} of {2 * len(OUTPUTS)} videos, such as yaw_seed0_{min(MAPS)}, are left out: "
        "they are outputs of generate.py other than rgb."
    )
    assert len(videos.images(count=None)) == 8 and len(clips.key()) == 64
    everything = StoredVideos(tmp_path, resolution=16)  # of a dataset, all that training takes
    assert len(everything.clips(count=99, frames=4)) == 2 * len(OUTPUTS)
    assert everything.notes[-1] == (
        f"'{tmp_path}': {2 * len(MAPS)} of {2 * len(OUTPUTS)} videos, such as yaw_seed0_{min(MAPS)}, are measured as "
        "images but seem to be outputs of generate.py other than rgb: move them elsewhere, or in Python give "
        "generated=True."
    )


def test_depth_alone_is_no_generated_video(tmp_path):
    write_outputs(tmp_path, "a", ["depth"], level=1.5, save_frames=True)
    with pytest.raises(
        UserError, match=r"^'.*' holds outputs of generate.py other than rgb \(a_depth\) but no images: render them"
    ):
        StoredVideos(tmp_path, resolution=16, generated=True)
    write_outputs(tmp_path, "b_depth", ["rgb"], level=90, save_frames=True)  # a name of the user's own
    videos = StoredVideos(tmp_path, resolution=16, generated=True)
    assert len(videos.clips(count=9, frames=4)) == 1 and videos.notes[0].startswith(f"'{tmp_path}': 1 of 2 videos, ")


@pytest.mark.parametrize("save_frames", [False, True])
def test_outputs_without_images_are_no_generated_videos(tmp_path, save_frames):
    write_outputs(tmp_path, "a", ["depth", "normal"], level=1.5, save_frames=save_frames)
    with pytest.raises(UserError) as error:
        StoredVideos(tmp_path, resolution=16, generated=True)
    assert str(error.value) == (
        f"'{tmp_path}' holds outputs of generate.py other than rgb (a_depth) but no images: render them with rgb among "
        "the --outputs."
    )
    write_outputs(tmp_path, "b", ["rgb"], level=90, save_frames=save_frames)
    videos = StoredVideos(tmp_path, resolution=16, generated=True)
    assert len(videos.clips(count=9, frames=4)) == 1 and videos.notes[0].startswith(f"'{tmp_path}': 2 of 3 videos, ")


@pytest.mark.parametrize("output", MAPS)
def test_a_single_output_without_images_is_told(tmp_path, output):
    """It cannot be told from videos that somebody has named like this."""
    for number in (0, 1):
        write_outputs(tmp_path, f"yaw_seed{number}", [output], level=1.5, save_frames=False)
    [note] = StoredVideos(tmp_path, resolution=16, generated=True).notes
    assert note == (
        f"'{tmp_path}': the names of all videos end in _{output}; if they are that output of generate.py, they are no "
        "images, and distances to real videos mean nothing."
    )
    assert StoredVideos(tmp_path, resolution=16).notes == []


def write_plain(folder, name, width, height, *, frames=4, movies):
    """Grey frames as a movie or as PNG files."""
    image = torch.full([3, height, width], 90, dtype=torch.uint8)
    if movies:
        with VideoWriter(folder / f"{name}.mp4", fps=8) as writer:
            for _ in range(frames):
                writer.add(image)
        return
    (folder / name).mkdir()
    for frame in range(frames):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / name / f"{frame}.png")


@pytest.mark.parametrize("movies", [False, True])
def test_stereo_pairs_among_generated_videos_are_told(tmp_path, movies):
    for name, width in (("yaw_seed0", 16), ("yaw_seed0_stereo", 32), ("yaw_seed1", 16), ("yaw_seed1_stereo", 32)):
        write_plain(tmp_path, name, width, 16, movies=movies)
    videos = StoredVideos(tmp_path, resolution=16, generated=True)
    assert videos.notes == [
        f"'{tmp_path}': 2 of 4 videos, such as yaw_seed0_stereo{'.mp4' if movies else ''} (32×16 pixels), are not "
        "square: only their middle is measured; stereo pairs and grids do not belong here."
    ]
    assert len(videos.clips(count=9, frames=4)) == 4  # other programs generate videos of any shape
    assert StoredVideos(tmp_path, resolution=16).notes == []  # cut as in training


@pytest.mark.parametrize("movies", [False, True])
def test_square_generated_videos_of_any_size_are_not_told(tmp_path, movies):
    write_plain(tmp_path, "a", 16, 16, movies=movies)
    write_plain(tmp_path, "b", 32, 32, movies=movies)
    assert StoredVideos(tmp_path, resolution=16, generated=True).notes == []


@pytest.mark.parametrize("movies", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "front_grid_seed0000-0001_motion0002-0003",
        "front_inverse_sheet_seed0000-0003_motion0000-0003",
        "own-path_sheet2_interpolate-z_seed0000-0003_motion0000-0003",
        "path-my-path_sheet_codes-a+codes-b_motion-a+motion-b",
    ],
)
def test_square_grids_and_sheets_among_generated_videos_are_told(tmp_path, movies, name):
    for seed in range(3):
        write_plain(tmp_path, f"front_seed000{seed}_motion000{seed}", 16, 16, movies=movies)
    write_plain(tmp_path, "front_codes-my_sheet_1_motion-my_sheet_1", 16, 16, movies=movies)  # a file of codes' name
    write_plain(tmp_path, name, 32, 32, movies=movies)
    assert StoredVideos(tmp_path, resolution=16, generated=True).notes == [
        f"'{tmp_path}': 1 of 5 videos, such as {name}{'.mp4' if movies else ''}, are named like grids and sheets of "
        "generate.py: several videos in one, measured as one; they do not belong here."
    ]
    assert StoredVideos(tmp_path, resolution=16).notes == []


def test_sizes_of_frames_are_read_from_their_headers(tmp_path, monkeypatch):
    """To decode a frame of every video would take longer than many metrics."""
    write_plain(tmp_path, "a", 32, 16, movies=False)
    monkeypatch.setattr(FrameStore, "read_frame", None)
    [note] = StoredVideos(tmp_path, resolution=16, generated=True).notes
    assert note.startswith(f"'{tmp_path}': 1 of 1 videos, such as a (32×16 pixels), are not square:")


def test_a_frame_whose_size_is_unknown_is_an_error_only_where_it_is_needed(tmp_path):
    write_plain(tmp_path, "a", 32, 16, movies=False)
    (tmp_path / "a" / "0.png").write_bytes(b"damaged")
    videos = StoredVideos(tmp_path, resolution=16, generated=True)
    assert videos.notes == []
    with pytest.raises(UnreadableFrame):
        videos.clips(count=1, frames=4).load([0])


def test_every_so_manieth_frame(tmp_path):
    root = write_videos(tmp_path, [9, 8])
    (clip,) = levels(StoredVideos(root, resolution=16).clips(count=1, frames=8, subsample=3))
    assert np.diff(clip).tolist() == [3, 3]
    slow = StoredVideos(root, resolution=16, frame_stride=2)
    assert sorted(levels(slow.clips(count=9, frames=4))) == [[0, 2, 4, 6], [2, 4, 6, 8], [10, 12, 14, 16]]
    assert slow.clips(count=9, frames=5).describe()["num_short_videos"] == 1


def test_images(tmp_path):
    videos = StoredVideos(write_videos(tmp_path, [3, 1, 4]), resolution=16)
    everything = [0, 1, 2, 10, 20, 21, 22, 23]
    assert sum(levels(videos.images(count=None)), []) == everything
    some = sum(levels(videos.images(count=5)), [])
    assert len(set(some)) == 5 and set(some) < set(everything)


def test_frames_are_prepared_as_in_training(tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, [30, 50, 3]).astype(np.uint8)
    for frame in range(2):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "a" / f"{frame}.png")
    loaded = StoredVideos(tmp_path, resolution=8).clips(count=1, frames=2).load([0])
    expected = torch.from_numpy(fit_square(Image.fromarray(pixels), 8))
    assert torch.equal(loaded[0, :, 0], expected) and torch.equal(loaded[0, :, 1], expected)


def test_video_files(tmp_path):
    for video, length in enumerate([5, 3]):
        with VideoWriter(tmp_path / f"{video}.mp4", fps=8, crf=0) as writer:
            for frame in range(length):
                writer.add(torch.full([3, 16, 16], 60 * video + 20 * frame, dtype=torch.uint8))
    videos = StoredVideos(tmp_path, resolution=16)
    assert len(videos.images(count=None)) == 8
    clips = videos.clips(count=10, frames=4)
    loaded = clips.load(range(len(clips)))[:, 0, :, 0, 0].int()
    assert len(clips) == 2 and clips.describe()["num_short_videos"] == 1
    order = loaded[:, 0].argsort()
    expected = torch.tensor([[0, 20, 40, 60], [20, 40, 60, 80]])
    assert (loaded[order] - expected).abs().max() <= 3  # colours are converted there and back
    (frame,) = videos.images(count=None).load([6])[0, 0, 0, 0, :1].tolist()
    assert abs(frame - 80) <= 3
    every = videos.images(count=None).load([6, 0, 2, 2])[:, 0, 0, 0, 0].tolist()  # in any order, twice
    assert np.abs(np.subtract(every, [80, 0, 40, 40])).max() <= 3
    before = clips.key()
    (tmp_path / "1.mp4").write_bytes((tmp_path / "0.mp4").read_bytes())
    assert StoredVideos(tmp_path, resolution=16).clips(count=10, frames=4).key() != before


def test_every_so_manieth_frame_of_a_video_file(tmp_path):
    with VideoWriter(tmp_path / "0.mp4", fps=8, crf=0) as writer:
        for frame in range(8):
            writer.add(torch.full([3, 16, 16], 30 * frame, dtype=torch.uint8))
    images = StoredVideos(tmp_path, resolution=16, frame_stride=3).images(count=None)
    found = images.load(range(len(images)))[:, 0, 0, 0, 0].int()
    assert len(images) == 3 and (found - torch.tensor([0, 90, 180])).abs().max() <= 3


def test_a_video_file_is_decoded_once_for_the_frames_of_a_batch(tmp_path, monkeypatch):
    with VideoWriter(tmp_path / "0.mp4", fps=8, crf=0) as writer:
        for frame in range(12):
            writer.add(torch.full([3, 16, 16], 20 * frame, dtype=torch.uint8))
    videos, decode, calls = StoredVideos(tmp_path, resolution=16), real_videos.decode_video, []
    monkeypatch.setattr(real_videos, "decode_video", lambda path: calls.append(path) or decode(path))
    found = videos.images(count=None).load(range(12))[:, 0, 0, 0, 0].numpy().astype(int)
    assert len(calls) == 1 and np.abs(found - 20 * np.arange(12)).max() <= 3


def test_frames_that_cannot_be_read_have_no_key_and_are_named_when_they_are_loaded(tmp_path):
    """The key is made on one process, and others wait for it."""
    root = write_videos(tmp_path / "data", [3, 5])
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, file.relative_to(root))
    content = bytearray((tmp_path / "set.zip").read_bytes())
    content[content.index(b"IDAT") + 8] ^= 1
    (tmp_path / "set.zip").write_bytes(content)
    gone = StoredVideos(root, resolution=16)
    (root / "set" / "1" / "002.png").unlink()
    for videos, name in ((StoredVideos(tmp_path / "set.zip", resolution=16), "set/0/000.png"), (gone, "set/1/002.png")):
        images = videos.images(count=None)
        assert images.key() is None
        with pytest.raises(UnreadableFrame, match=name):
            images.load(range(len(images)))


def test_mistakes(tmp_path):
    root = write_videos(tmp_path / "data", [3, 5])
    videos = StoredVideos(root, resolution=16)
    with pytest.raises(UserError, match="shorter than 16 frames: the longest has 5. Choose a metric of shorter clips"):
        videos.clips(count=4, frames=16)
    with pytest.raises(UserError, match=r"the longest has 3, keeping one frame in 2\. Choose"):
        StoredVideos(root, resolution=16, frame_stride=2).clips(count=4, frames=4)
    with pytest.raises(UserError, match="only be rendered by a generator"):
        videos.views(count=4, views=5)
    with pytest.raises(UserError, match="only be rendered by a generator"):
        videos.pairs(count=4)
    with pytest.raises(UserError, match=r"^path must be that of stored videos, got None\.$"):
        StoredVideos(None, resolution=16)
    with pytest.raises(UserError, match=r"^resolution must be a whole number of at least 1, got '16'\.$"):
        StoredVideos(root, resolution="16")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        StoredVideos(tmp_path / "empty", resolution=16)
    (tmp_path / "movies").mkdir()
    (tmp_path / "movies" / "a.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match="a.mp4.*Repair or remove it"):
        StoredVideos(tmp_path / "movies", resolution=16)


# ----------------------------------------------------------------------------------------------------------------------
# The key of the content


def key(root, *, resolution=16, frames=4, frame_stride=1, count=10):
    return StoredVideos(root, resolution=resolution, frame_stride=frame_stride).clips(count=count, frames=frames).key()


@pytest.fixture
def root(tmp_path):
    return write_videos(tmp_path / "data", [6, 7])


def test_same_content_same_key(root, tmp_path):
    shutil.copytree(root, tmp_path / "copy")  # elsewhere, with other times
    assert key(root) == key(root) == key(tmp_path / "copy")
    assert len({key(root), key(root, resolution=8), key(root, frames=3), key(root, count=2)}) == 4
    assert key(root, frames=3) != key(root, frames=3, frame_stride=2)


def test_editing_one_frame_changes_the_key(root):
    before = key(root)
    frame = root / "set" / "1" / "003.png"
    size = frame.stat().st_size
    pixels = np.array(Image.open(frame))
    pixels[5, 5] += 1
    Image.fromarray(pixels).save(frame)
    assert key(root) != before
    Image.new("RGB", (16, 16), (200, 200, 200)).save(frame)
    assert frame.stat().st_size == size  # of a flat picture the file is as long as before
    assert key(root) != before
    Image.new("RGB", (16, 16), (13, 13, 13)).save(frame)
    assert key(root) == before


def change_in_place(path: Path, *, keep_time: bool) -> None:
    """Other bytes in the middle of each third of a file, none near its ends and its middle; its size stays."""
    status, data = path.stat(), bytearray(path.read_bytes())
    for place in (len(data) // 3, 2 * len(data) // 3):
        data[place] ^= 0xFF
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size


@pytest.mark.parametrize("keep_time", [False, True])
@pytest.mark.parametrize("suffix", ["bmp", "png", "jpg", "webp"])
def test_any_byte_of_a_frame_changes_the_key(suffix, keep_time, tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, [64, 64, 3]).astype(np.uint8)
    for frame in range(4):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "a" / f"{frame}.{suffix}")
    videos = StoredVideos(tmp_path, resolution=16)
    before = videos.clips(count=1, frames=4).key()
    change_in_place(tmp_path / "a" / f"2.{suffix}", keep_time=keep_time)
    assert key(tmp_path, count=1) != before
    assert videos.clips(count=1, frames=4).key() != before  # also where the old one is remembered


def test_changed_bmp_pixels_change_the_key_in_folders_and_zips(tmp_path):
    """Frames after a colour correction: equal names and sizes, and no checksum in them."""
    keys = []
    for level in (10, 200):
        for frame in range(4):
            (tmp_path / "data" / "a").mkdir(parents=True, exist_ok=True)
            image = Image.new("RGB", (64, 64), (50, 50, 50))
            image.paste((level,) * 3, (20, 20, 30, 30))
            image.save(tmp_path / "data" / "a" / f"{frame}.bmp")
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for frame in range(4):
                archive.write(tmp_path / "data" / "a" / f"{frame}.bmp", f"a/{frame}.bmp")
        os.utime(tmp_path / "set.zip", (1, 1))
        keys += [key(tmp_path / "data"), key(tmp_path / "set.zip")]
    assert len(set(keys)) == 2 and keys[0] == keys[1]  # the pictures count, not where they lie


def test_any_byte_of_a_video_file_changes_the_key(tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, [4, 64, 64, 3]).astype(np.uint8)
    (tmp_path / "raw").write_bytes(pixels.tobytes())
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "64x64", "-i", tmp_path / "raw"]
    (tmp_path / "movies").mkdir()
    run_ffmpeg(*source, "-c:v", "rawvideo", tmp_path / "movies" / "a.avi")
    before = key(tmp_path / "movies")
    change_in_place(tmp_path / "movies" / "a.avi", keep_time=True)
    assert key(tmp_path / "movies") != before


def test_files_are_not_read_again_as_long_as_nothing_touches_them(root, monkeypatch):
    monkeypatch.setattr(real_videos, "SETTLED", 0.0)
    clips = StoredVideos(root, resolution=16).clips(count=10, frames=4)
    reads, original = [], FrameStore.frame_bytes
    monkeypatch.setattr(FrameStore, "frame_bytes", lambda *arguments: reads.append(1) or original(*arguments))
    before = clips.key()
    assert clips.key() == before and len(reads) == 13
    os.utime(root / "set" / "0" / "000.png", (1, 1))
    assert clips.key() == before and len(reads) == 26


def test_a_change_that_keeps_size_and_modification_time_is_noticed(root, monkeypatch):
    monkeypatch.setattr(real_videos, "SETTLED", 0.0)
    clips = StoredVideos(root, resolution=16).clips(count=10, frames=4)
    before = clips.key()
    time.sleep(0.02)  # for another status change time, which has a resolution of milliseconds
    change_in_place(root / "set" / "1" / "003.png", keep_time=True)
    assert clips.key() != before


def test_a_storage_of_ones_own_is_a_listing_and_the_bytes_of_a_frame(tmp_path, monkeypatch):
    """As docs/extending.md says: training reads the frames, and features of real videos are cached by their content."""
    clips, path = np.random.RandomState(0).randint(0, 256, [3, 4, 16, 16, 3], np.uint8), tmp_path / "clips.npy"
    np.save(path, clips)

    def list_arrays(path):
        videos, frames = np.load(path, mmap_mode="r").shape[:2]
        return frame_index._listing({f"{i}": [f"{t}.png" for t in range(frames)] for i in range(videos)}, movies=[])

    def frame_bytes(store, video, index):
        buffer = io.BytesIO()
        Image.fromarray(np.load(store.path, mmap_mode="r")[int(video.path), index]).save(buffer, "png")
        return buffer.getvalue()

    monkeypatch.setattr("training.data.frame_store.list_files", list_arrays)
    monkeypatch.setattr(FrameStore, "frame_bytes", frame_bytes)
    dataset = VideoPairDataset(path=path, resolution=16, nframes=4)
    assert (dataset.name, len(dataset), dataset.notes) == ("clips", 3, [])
    assert np.array_equal(dataset.clip(1), clips[1].transpose(0, 3, 1, 2))
    real = StoredVideos(path, resolution=16)
    measured = real.clips(count=3, frames=4)
    assert sorted(map(bytes, measured.load(range(3)).numpy())) == sorted(map(bytes, clips.transpose(0, 4, 1, 2, 3)))
    key = measured.key()
    assert len(key) == 64 and real.notes == []
    clips[2, 3, 0, 0] ^= 1
    np.save(path, clips)
    assert StoredVideos(path, resolution=16).clips(count=3, frames=4).key() != key


def test_files_that_have_just_changed_are_read_again(root, monkeypatch):
    """Another change within the resolution of the time stamps would leave no trace in them."""
    monkeypatch.setattr(real_videos, "SETTLED", 3600.0)
    clips = StoredVideos(root, resolution=16).clips(count=10, frames=4)
    reads, original = [], FrameStore.frame_bytes
    monkeypatch.setattr(FrameStore, "frame_bytes", lambda *arguments: reads.append(1) or original(*arguments))
    assert clips.key() == clips.key() and len(reads) == 26


def test_videos_that_the_manifest_lists_and_that_are_gone_are_told(root):
    videos = [{"path": "set/0", "frames": 6}, {"path": "set/1", "frames": 8}, {"path": "set/2", "frames": 8}]
    (root / "manifest.json").write_text(json.dumps({"format": "square-video-frames", "videos": videos}))
    (note,) = StoredVideos(root, resolution=16).notes
    assert note == f"'{root}': 2 of 3 videos in manifest.json are missing, or frames of them, e.g. 'set/1'."


def test_files_that_are_not_measured_are_told(root):
    (root / "set" / "0" / "999.avif").write_bytes(b"")
    (root / "more.mp4").write_bytes(b"")
    other, movies = StoredVideos(root, resolution=16).notes
    assert other.startswith(f"'{root}': 1 images of other formats than .png ") and other.endswith("convert them.")
    assert movies.startswith(f"'{root}': 1 encoded videos (more.mp4) are left out: ")


def test_links_that_lead_nowhere_are_told(root, tmp_path):
    movies = tmp_path / "movies"
    movies.mkdir()
    with VideoWriter(movies / "a.mp4", fps=8) as writer:
        writer.add(torch.zeros([3, 16, 16], dtype=torch.uint8))
    for folder in (root, movies):
        (folder / "disk").symlink_to(tmp_path / "nowhere")
        expected = f"'{folder}': the link 'disk' leads nowhere: its videos are left out."
        assert StoredVideos(folder, resolution=16).notes == [expected]


def test_frames_that_are_smaller_than_the_resolution_are_told(root):
    """The detail that enlarging cannot restore is a distance that no generator can make up for."""
    (root / "manifest.json").write_text(json.dumps({"format": "square-video-frames", "resolution": 12, "videos": []}))
    (note,) = StoredVideos(root, resolution=16).notes
    assert note.startswith(f"'{root}': frames of 12×12 pixels are enlarged to 16×16: ")
    assert StoredVideos(root, resolution=12).notes == []


@pytest.mark.parametrize("movies", [False, True])
def test_plain_videos_that_are_smaller_than_the_resolution_are_told(tmp_path, movies):
    write_plain(tmp_path, "a", 20, 16, movies=movies)
    for generated in (False, True):
        *others, note = StoredVideos(tmp_path, resolution=24, generated=generated).notes
        found = note if not generated else others[0]  # the last one says that they are not square
        assert found == (
            f"'{tmp_path}': frames of 16×16 pixels are enlarged to 24×24, which changes values: measure at a "
            "resolution of 16, or use larger videos."
        )


@pytest.mark.parametrize("movies", [False, True])
def test_small_videos_among_large_ones_are_told(tmp_path, movies):
    for name, size in (("a", 32), ("b", 24), ("c", 16), ("d", 16)):
        write_plain(tmp_path, name, size, size, movies=movies)
    for generated in (False, True):
        assert StoredVideos(tmp_path, resolution=32, generated=generated).notes == [
            f"'{tmp_path}': frames of 16×16 pixels are enlarged to 32×32, which changes values: measure at a "
            f"resolution of 16, or use larger videos. 3 of 4 videos are smaller, such as c{'.mp4' if movies else ''}."
        ]
    assert StoredVideos(tmp_path, resolution=16).notes == []


def test_the_sizes_of_some_of_many_videos_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(real_videos, "LOOKED_AT", 2)
    opened, first_size = [], StoredVideos._first_size
    monkeypatch.setattr(StoredVideos, "_first_size", lambda self, v: opened.append(v.path) or first_size(self, v))
    for name, size in (("a", 32), ("b", 24), ("c", 16)):
        write_plain(tmp_path, name, size, size, movies=False)
    (note,) = StoredVideos(tmp_path, resolution=32).notes
    assert note.endswith(" 1 of 2 videos looked at are smaller, such as c.") and opened == ["a", "c"]


@pytest.mark.parametrize("movies", [False, True])
def test_the_resolution_of_the_videos(tmp_path, movies):
    suffix = ".mp4" if movies else ""
    for name, size in (("a", 32), ("b", 16), ("c", 24)):
        write_plain(tmp_path, name, size, size, movies=movies)
    for generated in (False, True):
        videos = StoredVideos(tmp_path, resolution=None, generated=generated)
        assert videos.resolution == 16 and videos.notes == [
            f"'{tmp_path}': videos of 16 to 32 pixels are all measured at 16×16, the size of b{suffix}: remove the "
            "small ones, or choose another --resolution (in Python resolution=)."
        ]
        assert videos.clips(count=3, frames=4).load([0, 1, 2]).shape == (3, 3, 4, 16, 16)
    write_plain(tmp_path, "d", 6, 4, movies=movies)
    with pytest.raises(UserError) as caught:
        StoredVideos(tmp_path, resolution=None)
    assert str(caught.value) == (
        f"'{tmp_path}': frames of d{suffix} have 4×4 pixels, too few to be measured: remove it, or choose a "
        "--resolution (in Python resolution=) of at least 8, which enlarges it."
    )


@pytest.mark.parametrize("movies", [False, True])
def test_videos_of_one_size_need_no_note(tmp_path, movies):
    write_plain(tmp_path, "a", 24, 24, movies=movies)
    write_plain(tmp_path, "b", 32, 24, movies=movies)  # of which the middle is measured
    videos = StoredVideos(tmp_path, resolution=None)
    assert videos.resolution == 24 and videos.notes == []


def test_videos_that_are_there_twice_are_told(tmp_path):
    for name in ("a.mp4", "a.webm", "b.mp4"):
        with VideoWriter(tmp_path / name, fps=8) as writer:
            writer.add(torch.zeros([3, 16, 16], dtype=torch.uint8))
    (note,) = StoredVideos(tmp_path, resolution=16).notes
    assert note.startswith(f"'{tmp_path}': 1 encoded videos have the name of another video except for the suffix, ")
    assert "'a.mp4' and 'a.webm', and all of them are used: " in note and note.endswith("remove one of each.")


@pytest.mark.parametrize("change", ["add", "remove", "rename"])
def test_other_files_change_the_key(root, change):
    before, frame = key(root), root / "set" / "0" / "005.png"
    if change == "add":
        shutil.copy(frame, frame.with_name("006.png"))
    elif change == "remove":
        frame.unlink()
    else:
        frame.rename(frame.with_name("005b.png"))
    assert key(root) != before


def test_zip(root, tmp_path):
    def pack(name):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path in sorted(root.rglob("*.png")):
                archive.write(path, path.relative_to(root))
        return tmp_path / name

    one = pack("one.zip")
    assert key(one) == key(pack("two.zip"))
    clips = [StoredVideos(path, resolution=16).clips(count=10, frames=4) for path in (root, one)]
    assert levels(clips[0]) == levels(clips[1])
    assert clips[0].key() == clips[1].key()
    Image.new("RGB", (16, 16), (99, 99, 99)).save(root / "set" / "1" / "003.png")
    assert key(pack("three.zip")) != key(one)


@pytest.mark.parametrize("loose", [False, True])
def test_an_enclosing_folder_changes_no_key(root, tmp_path, loose):
    """`zip -r data.zip data` puts every name below data/."""
    if loose:  # a video that holds the folder of the others
        Image.new("RGB", (16, 16)).save(root / "set" / "000.png")
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for path in sorted(root.rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path))
    assert StoredVideos(tmp_path / "data.zip", resolution=16).clips(count=10, frames=4).describe()["num_videos"] == 2
    assert key(tmp_path / "data.zip") == key(root)
    assert key(root / "set") == key(root) or loose  # the loose frame is then no video
    (root / "set" / "1").rename(root / "set" / "2")
    assert key(tmp_path / "data.zip") != key(root)


def test_a_folder_around_video_files_changes_no_key(tmp_path):
    for name in ("a", "b"):
        write_plain(tmp_path, name, 16, 16, movies=True)
    before = key(tmp_path)
    (tmp_path / "inner").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).rename(tmp_path / "inner" / name)
    assert key(tmp_path) == before
    (tmp_path / "inner" / "a.mp4").rename(tmp_path / "a.mp4")
    assert key(tmp_path) != before
