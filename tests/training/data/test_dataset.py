"""Real items: which frames, which pixels, which labels, and what mistakes are answered with."""

import json
import multiprocessing
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dnnlib import UserError
from training.data.dataset import KEY_PAIRS, VideoPairDataset, random_block
from training.data.frame_store import FrameStore


def colour(video, frame):
    """A colour that tells video and frame apart."""
    return (10 * video + 5, 3 * frame, 200)


def write_video(folder, *, video, frames, size=(8, 8), name="frame_{:03d}.png"):
    os.makedirs(folder)
    for frame in range(frames):
        Image.new("RGB", size, colour(video, frame)).save(os.path.join(folder, name.format(frame)))


def write_set(root, lengths, **options):
    for video, frames in enumerate(lengths):
        write_video(os.path.join(root, "train", f"video_{video}"), video=video, frames=frames, **options)
    return str(root)


def make_zip(folder, path, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for base, _, names in os.walk(folder):
            archive.write(base, os.path.relpath(base, folder))  # folders have entries of their own in many zips
            for name in names:
                file = os.path.join(base, name)
                archive.write(file, os.path.relpath(file, folder))
    return str(path)


def identity(clip):
    """(video, frame) of every frame of a clip made by write_video."""
    assert (clip == clip[:, :, :1, :1]).all()
    return [((int(r) - 5) // 10, int(g) // 3) for r, g, _ in clip[:, :, 0, 0]]


# ----------------------------------------------------------------------------------------------------------------------
# Which clips


def test_clips_are_consecutive_and_do_not_overlap(tmp_path):
    data = VideoPairDataset(path=write_set(tmp_path, [9, 3, 4]), resolution=4, nframes=4)
    clips = [identity(data.clip(i)) for i in range(len(data))]
    assert clips == [[(0, f) for f in range(4)], [(0, f) for f in range(4, 8)], [(2, f) for f in range(4)]]
    assert (data.num_clips, data.num_videos, data.num_short_videos) == (3, 2, 1)
    assert data.clip(0).dtype == torch.uint8 and data.clip(0).shape == (4, 3, 4, 4)


def test_frame_stride_skips_frames_before_cutting(tmp_path):
    data = VideoPairDataset(path=write_set(tmp_path, [13]), resolution=4, nframes=2, frame_stride=3)
    clips = [identity(data.clip(i)) for i in range(len(data))]
    assert clips == [[(0, 0), (0, 3)], [(0, 6), (0, 9)]]


@pytest.mark.parametrize("depth", ["", "train", "a/b/c"])
def test_depth_does_not_matter(tmp_path, depth):
    write_video(tmp_path / depth / "x", video=3, frames=2)
    write_video(tmp_path / depth / "y", video=4, frames=2)
    data = VideoPairDataset(path=tmp_path, resolution=4, nframes=2)
    assert [identity(data.clip(i)) for i in range(2)] == [[(3, 0), (3, 1)], [(4, 0), (4, 1)]]


def test_names_mean_nothing(tmp_path):
    """Neither what folders are called, nor suffixes on folders, nor other files; only a leading dot hides."""
    root = tmp_path / "taichi_ffhq.zip"
    for number, name in enumerate(["clip.png", "movie.mp4/sky", "val/__a"]):
        write_video(root / name, video=number, frames=2)
    write_video(root / ".thumbnails" / "v", video=9, frames=2)
    (root / "clip.png" / "._frame_000.png").write_bytes(b"resource fork")
    (root / "clip.png" / "notes.txt").write_text("hello")
    Image.new("RGB", (8, 8)).save(root / "preview.png")
    data = VideoPairDataset(path=root, resolution=4, nframes=2)
    assert [identity(data.clip(i)) for i in range(len(data))] == [[(n, 0), (n, 1)] for n in range(3)]
    assert data.name == "taichi_ffhq.zip"


def test_numbers_in_names_order_frames_and_videos(tmp_path):
    write_video(tmp_path / "v10", video=1, frames=12, name="img{}.png")
    write_video(tmp_path / "v9", video=0, frames=12, name="img{}.png")
    data = VideoPairDataset(path=tmp_path, resolution=4, nframes=12)
    assert [identity(data.clip(i)) for i in range(2)] == [[(v, f) for f in range(12)] for v in range(2)]


def test_links_are_followed_but_not_in_circles(tmp_path):
    write_video(tmp_path / "elsewhere" / "v", video=1, frames=2)
    root = tmp_path / "root"
    (root / "train").mkdir(parents=True)
    (root / "train" / "v").symlink_to(tmp_path / "elsewhere" / "v")
    (root / "train" / "loop").symlink_to(root)
    assert [video.path for video in FrameStore(root).videos] == ["train/v"]


def test_circles_of_several_links_end(tmp_path):
    for name in ("a", "b"):
        write_video(tmp_path / name / "v", video=1, frames=2)
    (tmp_path / "a" / "x").symlink_to("../b")
    (tmp_path / "b" / "y").symlink_to("../a")
    (tmp_path / "self").symlink_to("self")
    store = FrameStore(tmp_path)
    assert [video.path for video in store.videos] == ["a/v", "a/x/v", "b/v", "b/y/v"]
    assert store.dangling == "the link 'self' leads nowhere: its videos are left out"


def test_subset_is_a_seeded_choice(tmp_path):
    path = write_set(tmp_path, [40])

    def chosen(**options):
        data = VideoPairDataset(path=path, resolution=4, nframes=2, **options)
        return [identity(data.clip(i))[0][1] for i in range(data.num_clips)]

    everything = chosen()
    assert chosen(subset=99) == everything and len(everything) == 20
    few = chosen(subset=5, seed=1)
    assert len(set(few)) == 5 and set(few) <= set(everything) and few == sorted(few)
    assert chosen(subset=5, seed=1) == few != chosen(subset=5, seed=2)
    counted = VideoPairDataset(path=path, resolution=4, nframes=2, subset=5, mirror=True)
    assert len(counted) == 10 and counted.num_clips == 5


# ----------------------------------------------------------------------------------------------------------------------
# Which pair


def test_pair_indices_are_distributed_as_sorted_beta_draws(tmp_path):
    n = 16
    data = VideoPairDataset(path=write_set(tmp_path, [n], size=(1, 1)), resolution=1, nframes=n, seed=3)
    edges = np.arange(n + 1) / n
    late = np.diff(edges**2)  # P(⌊n·Beta(2,1)⌋ = i): the density of Beta(2,1) is 2x
    early = np.diff(2 * edges - edges**2)  # that of Beta(1,2) is 2(1−x)
    expected = np.zeros([n, n])
    for i in range(n):
        for j in range(n):
            expected[min(i, j), max(i, j)] += late[i] * early[j]
    count = 30000
    found = np.zeros([n, n])
    for draw in range(count):
        found[data.pair_indices(epoch=draw, index=0)] += 1
    deviation = np.abs(found / count - expected) / np.sqrt(expected * (1 - expected) / count + 1e-12)
    assert deviation.max() < 4.5  # standard deviations, over 136 cells
    chi2 = ((found - count * expected) ** 2 / np.where(expected > 0, count * expected, 1)).sum()
    assert 85 < chi2 < 200  # 135 degrees of freedom: 135 ± 16


def test_item_shows_the_two_frames_and_their_distance(tmp_path):
    data = VideoPairDataset(path=write_set(tmp_path, [5, 5]), resolution=4, nframes=5)
    seen = set()
    for epoch in range(30):
        for index in range(2):
            f0, f1 = data.pair_indices(epoch=epoch, index=index)
            item = data[epoch, index]
            assert identity(item.frames) == [(index, f0), (index, f1)]
            assert f0 <= f1 and item.dt == torch.tensor((f1 - f0) / 4)
            assert item.frames.dtype == torch.uint8 and item.frames.shape == (2, 3, 4, 4)
            assert item.dt.dtype == torch.float32 and item.dt.shape == ()
            assert item.c.dtype == torch.float32 and item.c.shape == (0,)
            seen.add((f0, f1))
    assert {f1 - f0 for f0, f1 in seen} == {0, 1, 2, 3, 4}


def test_only_the_shown_frames_are_decoded(tmp_path, monkeypatch):
    data = VideoPairDataset(path=write_set(tmp_path, [16]), resolution=4)
    read = []
    original = FrameStore.read_frame
    monkeypatch.setattr(FrameStore, "read_frame", lambda self, v, i: read.append(i) or original(self, v, i))
    for epoch in range(40):
        read.clear()
        data[epoch, 0]
        f0, f1 = data.pair_indices(epoch=epoch, index=0)
        assert read == ([f0] if f0 == f1 else [f0, f1])


def test_draws_depend_on_seed_epoch_and_index_alone(tmp_path):
    path = write_set(tmp_path, [16, 16])
    data = VideoPairDataset(path=path, resolution=4, seed=7)

    def pairs(dataset, **fixed):
        keys = ["epoch", "index"]
        free = next(key for key in keys if key not in fixed)
        return [dataset.pair_indices(**{free: number}, **fixed) for number in range(50)]

    first = pairs(data, index=0)
    torch.manual_seed(99)
    np.random.seed(99)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    again = VideoPairDataset(path=path, resolution=4, seed=7)
    again[0, 1]
    assert pairs(again, index=0) == first
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()
    others = [pairs(data, index=1), pairs(data, epoch=0), pairs(VideoPairDataset(path=path, resolution=4), index=0)]
    assert all(other != first for other in others)
    assert torch.equal(data[0].frames, data[0, 0].frames)  # an index alone means epoch 0


def test_single_images_count_as_clips_of_one_frame(tmp_path):
    data = VideoPairDataset(path=write_set(tmp_path, [3]), resolution=4, nframes=1)
    assert len(data) == 3 and identity(data[5, 2].frames) == [(0, 2), (0, 2)] and data[5, 2].dt == 0


def test_mirror_adds_every_clip_flipped(tmp_path):
    folder = tmp_path / "a" / "v"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for frame in range(8):
        Image.fromarray(rng.integers(0, 256, [6, 6, 3], dtype=np.uint8)).save(folder / f"{frame}.png")
    data = VideoPairDataset(path=tmp_path, resolution=6, nframes=4, mirror=True)
    assert len(data) == 4 and data.num_clips == 2
    for index in range(2):
        assert torch.equal(data.clip(index + 2), data.clip(index).flip(-1))
        assert not torch.equal(data.clip(index + 2), data.clip(index))
        f0, f1 = data.pair_indices(epoch=1, index=index + 2)
        assert torch.equal(data[1, index + 2].frames, data.clip(index).flip(-1)[[f0, f1]])
    with pytest.raises(IndexError):
        data[4]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_equals_folder(tmp_path, compression):
    path = write_set(tmp_path / "set", [6, 4])
    labels = {"labels": [["train/video_0", 1], ["train/video_1", 0]]}
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(labels))
    options = dict(resolution=3, nframes=2, mirror=True, use_labels=True)
    folder = VideoPairDataset(path=path, **options)
    zipped = VideoPairDataset(path=make_zip(path, tmp_path / "set.zip", compression), **options)
    assert folder.describe() == zipped.describe() and folder.name == "set"
    for dataset in (zipped, pickle.loads(pickle.dumps(zipped))):  # workers may get a pickled copy
        for index in range(len(folder)):
            assert all(torch.equal(a, b) for a, b in zip(folder[2, index], dataset[2, index]))


def test_forked_workers_do_not_move_the_file_position_of_their_parent(tmp_path):
    path = write_set(tmp_path / "set", [4, 4])
    for video in range(2):  # enough to lie further apart than the reader's buffer reaches
        (tmp_path / "set" / "train" / f"video_{video}" / "notes.txt").write_bytes(bytes(100_000))
    path = make_zip(path, tmp_path / "set.zip")
    data = VideoPairDataset(path=path, resolution=4, nframes=4)
    data.clip(0)
    descriptor = data._store._open_zip()
    before = os.lseek(descriptor, 0, os.SEEK_CUR)
    worker = multiprocessing.get_context("fork").Process(target=data.clip, args=(1,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0 and os.lseek(descriptor, 0, os.SEEK_CUR) == before


def test_describe_is_plain_and_holds_no_paths(tmp_path):
    data = VideoPairDataset(path=write_set(tmp_path / "faces", [9, 2]), resolution=4, nframes=4, mirror=True)
    described = data.describe()
    assert json.loads(json.dumps(described)) == described
    assert described == {
        "name": "faces",
        "resolution": 4,
        "nframes": 4,
        "frame_stride": 1,
        "mirror": True,
        "c_dim": 0,
        "num_videos": 1,
        "num_short_videos": 1,
        "num_clips": 2,
        "num_frames": 8,
    }


# ----------------------------------------------------------------------------------------------------------------------
# Pixels


def gray16():
    return Image.fromarray(np.full([2, 2], 257 * 100, dtype=np.uint16))


def palette():
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return image


@pytest.mark.parametrize(
    "image, suffix, expected",
    [
        (Image.new("L", (2, 2), 90), "png", (90, 90, 90)),
        (gray16(), "png", (100, 100, 100)),
        (Image.new("1", (2, 2), 1), "png", (255, 255, 255)),
        (palette(), "png", (10, 20, 30)),
        (palette(), "bmp", (10, 20, 30)),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 255)), "png", (10, 20, 30)),
        (Image.new("RGBA", (2, 2), (200, 100, 50, 0)), "png", (0, 0, 0)),
        (Image.new("RGBA", (2, 2), (200, 100, 50, 51)), "png", (40, 20, 10)),
        (Image.new("LA", (2, 2), (200, 51)), "png", (40, 40, 40)),
        (Image.new("RGB", (2, 2), (10, 20, 30)), "webp", (10, 20, 30)),
        (Image.new("CMYK", (2, 2), (0, 0, 0, 255)), "jpg", (0, 0, 0)),
        (Image.new("RGB", (2, 2), (10, 20, 30)), "tif", (10, 20, 30)),
        (Image.new("I;16", (2, 2), 257 * 90), "tiff", (90, 90, 90)),
        (Image.new("RGBA", (2, 2), (200, 100, 50, 51)), "TIF", (40, 20, 10)),
    ],
)
def test_every_kind_of_image_becomes_rgb(tmp_path, image, suffix, expected):
    folder = tmp_path / "a" / "v"
    folder.mkdir(parents=True)
    image.save(folder / f"0.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    pixels = VideoPairDataset(path=tmp_path, resolution=2, nframes=1).clip(0)[0]
    assert (pixels - torch.tensor(expected)[:, None, None]).abs().max() == 0


@pytest.mark.parametrize(
    "image, message",
    [
        (Image.new("F", (2, 2), 0.5), "floating-point values"),
        (Image.new("I", (2, 2), 70000), "more than 16 bits"),
        (Image.new("I", (2, 2), 90), "more than 16 bits"),  # 90 of 255, or of 65535?
    ],
)
def test_images_without_a_scale_are_refused(tmp_path, image, message):
    folder = tmp_path / "a" / "v"
    folder.mkdir(parents=True)
    image.save(folder / "0.tif")
    with pytest.raises(UserError, match=f"a/v/0.tif.*{message}"):
        VideoPairDataset(path=tmp_path, resolution=2, nframes=1).clip(0)


@pytest.mark.parametrize("suffix", ["tif", "png", "webp"])
def test_files_of_several_images_are_refused(tmp_path, suffix):
    folder = tmp_path / "a" / "v"
    folder.mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(
        folder / f"0.{suffix}", save_all=True, append_images=[Image.new("RGB", (2, 2), (200, 0, 0))]
    )
    with pytest.raises(UserError, match=f"a/v/0.{suffix}.*holds 2 images"):
        VideoPairDataset(path=tmp_path, resolution=2, nframes=1).clip(0)


def test_of_a_photo_with_previews_the_photo_is_taken(tmp_path):
    folder = tmp_path / "a" / "v"
    folder.mkdir(parents=True)
    photo, preview = Image.new("RGB", (8, 8), (90, 90, 90)), Image.new("RGB", (8, 8))
    photo.save(folder / "0.jpg", format="MPO", save_all=True, append_images=[preview])
    pixels = VideoPairDataset(path=tmp_path, resolution=8, nframes=1).clip(0)
    assert (pixels.int() - 90).abs().max() <= 1


# ----------------------------------------------------------------------------------------------------------------------
# Labels


def labelled(tmp_path, labels, lengths=(2, 4, 1), **options):
    write_set(tmp_path / "set", lengths)
    content = labels if isinstance(labels, str) else json.dumps({"labels": labels})
    (tmp_path / "set" / "dataset.json").write_text(content)
    return VideoPairDataset(path=tmp_path / "set", resolution=2, nframes=2, use_labels=True, **options)


def test_classes_become_one_hot(tmp_path):
    entries = [["train/video_0/", 1], ["train\\video_1", 0], ["./train/video_2", 3], ["gone", 2]]
    data = labelled(tmp_path, entries, mirror=True)
    assert data.c_dim == 4
    assert [data[0, i].c.tolist() for i in range(3)] == [[0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert [data[0, i].c.tolist() for i in range(3, 6)] == [[0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert data[0, 0].c.dtype == torch.float32 and data.label(1).tolist() == [1, 0, 0, 0]


def test_vectors_stay(tmp_path):
    data = labelled(tmp_path, [["train/video_0", [0.5, 1]], ["train/video_1", [2, -1]], ["train/video_2", [0, 0]]])
    assert data.c_dim == 2 and data[3, 0].c.tolist() == [0.5, 1] and data[3, 2].c.tolist() == [2, -1]
    data.label(0)[:] = 9
    assert data.label(0).tolist() == [0.5, 1]  # a caller's change stays the caller's


def test_examples_of_labels_that_are_numbers_are_described(tmp_path):
    labels = [[0.1, 1], [2, -1], [0, 0]]
    entries = [[f"train/video_{k}", label] for k, label in enumerate(labels)]
    examples = labelled(tmp_path, entries, lengths=(2, 2, 2)).describe()["label_examples"]
    assert len(examples) == 64 and {tuple(row) for row in examples} == {tuple(label) for label in labels}
    wide = labelled(tmp_path / "wide", [[path, [1] * 5000] for path, _ in entries]).describe()["label_examples"]
    assert len(wide) == 1, "a model's config.json has room for some"
    classes = labelled(tmp_path / "classes", [[path, k] for k, (path, _) in enumerate(entries)])
    assert classes.describe()["label_examples"] is None and not classes.numeric_labels


def test_classes_without_a_video_are_noted(tmp_path):
    entries = [["train/video_0", 1], ["train/video_1", 2], ["train/video_2", 3]]  # counted from 1; 2 is too short
    (note,) = labelled(tmp_path, entries).notes
    assert note.startswith("dataset.json: there is no video in use for 2 of 4 classes, e.g. class 0, ")
    assert labelled(tmp_path / "from_0", [[path, k - 1] for path, k in entries], lengths=(2, 2, 2)).notes == []


V = ["train/video_0", "train/video_1"]


@pytest.mark.parametrize(
    "labels, message",
    [
        ([[V[0], 0]], "no label for 1 of 2 videos, e.g. 'train/video_1'"),
        ([], "no label for 2 of 2 videos"),
        ([[V[0], 0], [V[1], 0], [V[1], 1]], "'train/video_1' two different labels"),
        ([V[0], V[1]], "TypeError: 'train/video_0' is not a pair"),
        ([[V[0], 0], [V[1], -1]], "run from -1 to 0"),
        ([[V[0], 0], [V[1], 10**12]], "number them 0, 1, 2"),
        ([[V[0], 0], [V[1], [1.0]]], "all integers or all lists"),
        ([[V[0], [1, 2]], [V[1], [1.0]]], "all integers or all lists"),
        ([[V[0], True], [V[1], False]], "all integers or all lists"),
        ([[V[0], 0.5], [V[1], 1]], "all integers or all lists"),
        ([[V[0], "happy"], [V[1], "sad"]], "all integers or all lists"),
        ([[V[0], []], [V[1], []]], "all integers or all lists"),
        ([[V[0], ["1"]], [V[1], [1]]], "not a finite number"),
        ([[V[0], [float("nan")]], [V[1], [1]]], "not a finite number"),
        ([[V[0], [1e300]], [V[1], [1]]], "not a finite number"),
        ([[V[0], float("nan")], [V[1], 1]], "all integers or all lists"),
        ([[V[0]]], "Cannot use"),
        ("{", "Cannot use"),
        ('{"labels": null}', "Cannot use"),
        ('{"labels": {"train/video_0": 0, "train/video_0": 1}}', "'train/video_0' is given twice, with different"),
        ('{"labels": {"train/video_0": NaN, "train/video_1": 1}}', "all integers or all lists"),
        ('{"labels": [["train/video_0", 0]], "labels": []}', "'labels' is given twice, with different values"),
        ('{"classes": []}', "Cannot use"),
        ('["labels"]', "Cannot use"),
    ],
)
def test_wrong_labels(tmp_path, labels, message):
    with pytest.raises(UserError) as error:
        labelled(tmp_path, labels, lengths=(2, 2))
    assert message in str(error.value) and "dataset.json" in str(error.value) and "\n" not in str(error.value)


def test_a_wrong_file_is_named_once(tmp_path):
    with pytest.raises(UserError) as error:
        labelled(tmp_path, [[V[0], 0], [V[0], 1]], lengths=(2,))
    assert str(error.value).count("dataset.json") == 1


@pytest.mark.parametrize("name", ["dataset.json", "manifest.json"])
def test_files_that_cannot_be_read_are_named(tmp_path, name):
    path = Path(write_set(tmp_path / "set", [2]))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.write(path / "train/video_0/frame_000.png", "train/video_0/frame_000.png")
        archive.writestr(name, "{}", compress_type=zipfile.ZIP_LZMA)
    (path / name).mkdir()
    for place, reason in ((path, "directory"), (tmp_path / "set.zip", "compressed in another way")):
        with pytest.raises(UserError, match=f"Cannot read '.*{name}' .*{reason}.*: repair or remove it"):
            VideoPairDataset(path=place, resolution=2, nframes=1, use_labels=True)


@pytest.mark.parametrize("content", ["", '{"format": "square-video-frames", "stri'])
def test_a_damaged_manifest_is_not_passed_over(tmp_path, content):
    path = Path(write_set(tmp_path, [2]))
    (path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json' is damaged .*: restore it or remove it"):
        VideoPairDataset(path=path, resolution=2, nframes=2)


def test_names_in_another_form_of_unicode_are_the_same(tmp_path):
    """macOS and some archivers write accents as characters of their own."""
    composed, separate = "vid\u00e9o", "vide\u0301o"
    write_video(tmp_path / "train" / separate, video=1, frames=2)
    content = {"labels": [[f"train/{composed}", [0, 1]]], "cameras": {f"train/{composed}": [0.1, 1.5]}}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    videos = [{"path": f"train/{composed}", "frames": 2}]
    (tmp_path / "manifest.json").write_text(json.dumps({"format": "square-video-frames", "videos": videos}))
    data = VideoPairDataset(path=tmp_path, resolution=2, nframes=2, use_labels=True, use_cameras=True)
    assert data[0, 0].c.tolist() == pytest.approx([0, 1, 0.1, 1.5]) and data.notes == []


@pytest.mark.parametrize("labels, cameras", [(False, False), (True, False), (False, True), (True, True)])
def test_a_fingerprint_holds_the_labels_and_cameras_in_use(tmp_path, labels, cameras):
    path = write_set(tmp_path, [2, 2])

    def fingerprint(label, yaw):
        angles = {"train/video_0": [yaw, 1.5], "train/video_1": [0.2, 1.5]}
        content = {"labels": {"train/video_0": label, "train/video_1": 1}, "cameras": angles}
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        data = VideoPairDataset(path=path, resolution=2, nframes=2, use_labels=labels, use_cameras=cameras)
        return data.fingerprint()

    before = fingerprint(0, 0.1)
    assert (fingerprint(1, 0.1) != before, fingerprint(0, 0.3) != before) == (labels, cameras)


def test_labels_wanted_but_absent(tmp_path):
    path = write_set(tmp_path, [2])
    with pytest.raises(UserError, match=r"no '.*dataset\.json'; it must be .* Or train without labels"):
        VideoPairDataset(path=path, resolution=2, nframes=2, use_labels=True)


def test_labels_are_ignored_unless_wanted(tmp_path):
    write_set(tmp_path, [2])
    (tmp_path / "dataset.json").write_text("broken")
    assert VideoPairDataset(path=tmp_path, resolution=2, nframes=2).c_dim == 0


# ----------------------------------------------------------------------------------------------------------------------
# Mistakes


def failure(path, **options):
    with pytest.raises(UserError) as error:
        VideoPairDataset(**{"path": path, "resolution": 4, **options})
    assert "\n" not in str(error.value)
    return str(error.value)


def test_no_such_path(tmp_path):
    message = failure(tmp_path / "nowhere")
    assert "There is no file or folder" in message and "nowhere" in message


def test_neither_folder_nor_zip(tmp_path):
    (tmp_path / "set.zip").write_bytes(b"not a zip")
    assert "neither a folder nor a zip" in failure(tmp_path / "set.zip")


def test_no_images(tmp_path):
    (tmp_path / "train" / "video_0").mkdir(parents=True)
    (tmp_path / "train" / "video_0" / "frame.txt").write_text("")
    assert "holds no images" in failure(tmp_path)


def test_empty_zip(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no images" in failure(make_zip(tmp_path / "empty", tmp_path / "set.zip"))


def test_archives_are_not_opened(tmp_path):
    (tmp_path / "parts").mkdir()
    for name in ("part_2.ZIP", "part_1.tar.gz"):
        (tmp_path / "parts" / name).write_bytes(b"")
    for path in (tmp_path / "parts", make_zip(tmp_path / "parts", tmp_path / "set.zip")):
        assert "; archives (part_1.tar.gz) have to be unpacked: expected one folder" in failure(path)


def test_images_without_folders(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    assert failure(tmp_path) == (
        f"The images lie directly in '{tmp_path}': put the frames of each video into a folder of their own (single "
        f"images, for nframes=1, all into one), e.g. {tmp_path}/videos/video_0/0.png."
    )


def test_encoded_videos(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.MP4").write_bytes(b"")
    message = failure(tmp_path)
    assert "train/a.MP4" in message and "python -m training.dataset_tool" in message


def test_too_short(tmp_path):
    path = write_set(tmp_path, [5, 15])
    message = failure(path)
    assert "shorter than nframes=16" in message and "longest has 15 frames" in message
    assert "longest has 4 frames (keeping one frame in 4)" in failure(path, frame_stride=4)


@pytest.mark.parametrize("key", ["resolution", "nframes", "frame_stride", "subset"])
def test_numbers_below_one(tmp_path, key):
    data = write_set(tmp_path, [2])
    assert f"{key} must be a whole number of at least 1, got 0" in failure(data, **{key: 0})
    assert f"{key} must be a whole number of at least 1, got 1.5" in failure(data, **{key: 1.5})


def test_arguments_of_another_type(tmp_path):
    data = write_set(tmp_path, [2])
    for key in ("resolution", "nframes", "frame_stride"):
        assert failure(data, **{key: None}) == f"{key} must be a whole number of at least 1, got None."
    assert failure(data, subset="3") == "subset must be a whole number of at least 1, got '3'."
    for path in (None, 3, [data]):
        assert failure(path).startswith("path must be that of stored videos, got ")


def test_large_and_negative_seeds_differ():
    """Seeds beyond int64, which negative ones become, are used to the last bit."""
    seeds = (2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1)
    assert len({tuple(random_block(seed, KEY_PAIRS).random(2)) for seed in seeds}) == 5
    assert random_block(3, 1, epoch=2, index=5).random() == 0.9352908084474866


def test_a_seed_is_a_number(tmp_path):
    path = write_set(tmp_path, [2, 8])
    assert failure(path, seed="3") == "seed must be a whole number, got '3'."
    for seed in (np.int64(7), np.int8(-3)):
        one, same = (VideoPairDataset(path=path, resolution=4, nframes=2, seed=s) for s in (seed, int(seed)))
        assert [one.pair_indices(epoch=e, index=1) for e in range(9)] == [
            same.pair_indices(epoch=e, index=1) for e in range(9)
        ]
        assert torch.equal(one.example_frames(5, seed=seed), one.example_frames(5, seed=int(seed)))


@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_frame_is_named(tmp_path, zipped):
    write_set(tmp_path / "set", [2, 2])
    file = tmp_path / "set" / "train" / "video_1" / "frame_001.png"
    whole = (tmp_path / "set" / "train" / "video_0" / "frame_001.png").read_bytes()
    path = str(tmp_path / "set")
    for content in (b"", b"hello", whole[: len(whole) // 2]):
        file.write_bytes(content)
        where = make_zip(path, tmp_path / "set.zip") if zipped else path
        data = VideoPairDataset(path=where, resolution=4, nframes=2)
        assert identity(data.clip(0)) == [(0, 0), (0, 1)]
        with pytest.raises(UserError, match=r"Cannot read the frame '.*train/video_1/frame_001\.png'"):
            data.clip(1)


def test_previews_leave_out_what_cannot_be_read(tmp_path):
    path = write_set(tmp_path, [1, 1])
    data = VideoPairDataset(path=path, resolution=4, nframes=1)
    whole = data.example_frames(8, seed=0)
    (Path(path) / "train" / "video_1" / "frame_000.png").write_bytes(b"")
    frames = data.example_frames(8, seed=0)
    broken = [index for index in range(8) if tuple(whole[index, :, 0, 0].tolist()) == colour(1, 0)]
    assert 0 < len(broken) < 8
    for index in range(8):
        expected = (255, 0, 0) if index in broken else colour(0, 0)
        assert tuple(frames[index, :, 2, 2].tolist()) == expected


def test_images_outside_of_folders_are_counted(tmp_path):
    path = write_set(tmp_path, [2])
    Image.new("RGB", (2, 2)).save(tmp_path / "loose.png")
    (note,) = VideoPairDataset(path=path, resolution=2, nframes=2).notes
    assert note.endswith("': 1 images lie outside of any video folder and are left out.")


def test_vanished_frame_is_named(tmp_path):
    data = VideoPairDataset(path=write_set(tmp_path, [1]), resolution=4, nframes=1)
    os.remove(tmp_path / "train" / "video_0" / "frame_000.png")
    with pytest.raises(UserError, match=r"frame_000\.png' \(it has vanished"):
        data[0]
