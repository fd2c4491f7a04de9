"""Shards: every clip once, the same items as from folders, exact continuation, and damaged files."""

import bz2
import gzip
import http.server
import io
import itertools
import json
import lzma
import os
import re
import shutil
import sys
import tarfile
import threading
import types

import numpy as np
import pytest
import torch
from PIL import Image

import run_train
from dnnlib import UserError
from tests.training.tiny import OVERRIDES, write_frames
from training.checkpoints.training_state import read_state
from training.data import annotations, webdataset_files
from training.data.annotations import SHARDS_FORMAT
from training.data.dataset import VideoPairDataset
from training.data.loader import build_dataset
from training.data.webdataset import ShardPairDataset
from training.data.webdataset_loader import _Stream, make_shard_loader
from training.dataset_tool.archives import pack_shards
from training.dataset_tool.validate import check_dataset
from training.launch.config import compose_options

pytest.importorskip("webdataset")

NFRAMES = 4


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """23 videos of one clip; red is the video, green the frame."""
    root = tmp_path_factory.mktemp("frames")
    labels = []
    for video in range(23):
        folder = root / "videos" / f"v{video:02d}"
        folder.mkdir(parents=True)
        for frame in range(NFRAMES):
            pixels = np.zeros([4, 4, 3], dtype=np.uint8)
            pixels[:] = (10 * video, 40 * frame, 0)
            pixels[:, 2:, 2] = 255  # tells left from right
            Image.fromarray(pixels).save(folder / f"{frame}.png")
        labels.append([f"videos/v{video:02d}", video % 3])
    (root / "dataset.json").write_text(json.dumps({"labels": labels}))
    return root


@pytest.fixture(scope="module")
def shards(frames, tmp_path_factory):
    """Eight shards, the last one smaller."""
    out = tmp_path_factory.mktemp("packed") / "set"
    pack_shards(str(frames), str(out), manifest={"format": SHARDS_FORMAT, "nframes": NFRAMES}, clips_per_shard=3)
    return out


def copy_of(shards, folder, *, index=True):
    folder.mkdir()
    for file in shards.iterdir():
        if file.suffix == ".tar" or index:
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def stream(shards, **options):
    return ShardPairDataset(**{"path": shards, "resolution": 4, "nframes": NFRAMES, "buffer": 5, **options})


def build(path, **changed):
    """The dataset that a training with these options reads."""
    options = dict(data=path, resolution=4, nframes=4, frame_stride=1, mirror=False, cond=False, camera_condition=False)
    return build_dataset({**options, "seed": 0, "subset": None, **changed})


def images_of(sample):
    return [sample.image(index) for index in range(len(sample))]


def pairs_of(data, partition=0, partitions=1):
    return map(data.decode, data.partition(partition, partitions=partitions))


def videos_of(batch):
    return [int(v) // 10 for v in batch.frames[:, 0, 0, 0, 0]]


def take(loader, count):
    taken = [next(loader) for _ in range(count)]
    loader.close()
    return taken


def same(one, other):
    return len(one) == len(other) > 0 and all(torch.equal(a, b) for x, y in zip(one, other) for a, b in zip(x, y))


# ----------------------------------------------------------------------------------------------------------------------
# What is in them


def test_clips_are_written_once_with_their_frames_in_order(shards):
    seen = []
    for file in sorted(shards.glob("*.tar")):
        with tarfile.open(file) as archive:
            names = archive.getnames()
            assert len(set(names)) == len(names) and all("/" not in name for name in names)
        for sample in webdataset_files.read_samples(str(file)):
            with_pixels = [np.asarray(Image.open(io.BytesIO(data)))[0, 0] for _, data in images_of(sample)]
            assert [int(green) // 40 for _, green, _ in with_pixels] == list(range(NFRAMES))
            video = int(with_pixels[0][0]) // 10
            assert sample.about == {"video": f"videos/v{video:02d}", "first": 0, "label": video % 3}
            seen.append(video)
    assert sorted(seen) == list(range(23)) and seen != list(range(23))  # mixed
    index = json.loads((shards / "index.json").read_text())
    assert [entry["nsamples"] for entry in index["shardlist"]] == [3] * 7 + [2]


def test_packing_gives_the_same_bytes_again(frames, shards, tmp_path):
    manifest = {"format": SHARDS_FORMAT, "nframes": NFRAMES}
    pack_shards(str(frames), str(tmp_path / "again"), manifest=manifest, clips_per_shard=3)
    for file in shards.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_long_videos_become_several_clips(tmp_path):
    folder = tmp_path / "frames" / "v"
    folder.mkdir(parents=True)
    for frame in range(11):
        Image.new("RGB", (2, 2), (0, 10 * frame, 0)).save(folder / f"{frame}.png")
    manifest = {"format": SHARDS_FORMAT, "nframes": NFRAMES}
    pack_shards(str(tmp_path / "frames"), str(tmp_path / "out"), manifest=manifest, clips_per_shard=9)
    samples = list(webdataset_files.read_samples(str(tmp_path / "out" / "shard-000000.tar")))
    assert sorted(sample.about["first"] for sample in samples) == [0, 4] and manifest["num_clips"] == 2


# ----------------------------------------------------------------------------------------------------------------------
# Items


def test_an_epoch_holds_every_clip_once_whatever_the_lanes(shards):
    for partitions in (1, 3, 8):
        data = stream(shards)
        for epoch in range(3):
            chosen = [data.partition_shards(i, partitions=partitions, epoch=epoch) for i in range(partitions)]
            assert sorted(itertools.chain(*chosen)) == list(range(8))
        found = []
        for partition in range(partitions):
            total = sum(3 - (s == 7) for s in data.partition_shards(partition, partitions=partitions, epoch=0))
            items = itertools.islice(pairs_of(data, partition, partitions), total)
            found += [int(item.frames[0, 0, 0, 0]) // 10 for item in items]
        assert sorted(found) == list(range(23))


def test_the_order_is_what_a_buffer_gives(shards):
    """Nothing leaves before it was read: place k of the order can hold clip k + buffer − 1 at most."""
    data = stream(shards, buffer=5)
    order = data.partition_order(list(range(8)), 0, 0)
    assert sorted(order) == list(range(23)) and all(clip <= place + 4 for place, clip in enumerate(order))
    assert list(order) != sorted(order)
    assert list(stream(shards, buffer=1).partition_order(list(range(8)), 0, 0)) == list(range(23))
    first = np.array([data.partition_order(list(range(8)), 0, epoch)[0] for epoch in range(500)])
    assert np.abs(np.bincount(first, minlength=5) / 500 - 0.2).max() < 0.08  # each of the first five


def test_items_are_pairs_of_one_clip_with_their_distance_and_label(shards):
    data = stream(shards, use_labels=True)
    assert data.c_dim == 3 and data.num_clips == 23
    seen = set()
    for item in itertools.islice(pairs_of(data), 200):
        video, f0, f1 = int(item.frames[0, 0, 0, 0]) // 10, *(int(g) // 40 for g in item.frames[:, 1, 0, 0])
        assert int(item.frames[1, 0, 0, 0]) // 10 == video and f0 <= f1
        assert item.dt == torch.tensor((f1 - f0) / 3) and item.c.tolist() == [float(k == video % 3) for k in range(3)]
        assert item.frames.dtype == torch.uint8 and item.frames.shape == (2, 3, 4, 4)
        seen.add((f0, f1))
    assert {f1 - f0 for f0, f1 in seen} == {0, 1, 2, 3}
    assert data.describe()["label_examples"] is None


def test_labels_that_are_numbers_are_described(tmp_path, frames):
    shutil.copytree(frames, tmp_path / "frames")
    labels = [[f"videos/v{video:02d}", [0.1 * video, -1]] for video in range(23)]
    (tmp_path / "frames" / "dataset.json").write_text(json.dumps({"labels": labels}))
    manifest = {"format": SHARDS_FORMAT, "nframes": NFRAMES}
    pack_shards(str(tmp_path / "frames"), str(tmp_path / "out"), manifest=manifest, clips_per_shard=9)
    examples = stream(tmp_path / "out", use_labels=True).describe()["label_examples"]
    assert np.unique(examples, axis=0) == pytest.approx(np.array([label for _, label in labels]))


def test_pairs_do_not_depend_on_lanes(shards):
    def pairs(partitions):
        data = stream(shards)
        found = {}
        for partition in range(partitions):
            total = sum(3 - (s == 7) for s in data.partition_shards(partition, partitions=partitions, epoch=0))
            for item in itertools.islice(pairs_of(data, partition, partitions), total):
                found[int(item.frames[0, 0, 0, 0])] = item.frames[:, 1, 0, 0].tolist()
        return found

    assert pairs(1) == pairs(4) and len(pairs(1)) == 23


def test_mirror_flips_every_clip_in_one_of_two_epochs(shards):
    items = list(itertools.islice(pairs_of(stream(shards, mirror=True)), 46))
    flips = [
        {int(item.frames[0, 0, 0, 0]): bool(item.frames[0, 2, 0, 0] == 255) for item in epoch}
        for epoch in (items[:23], items[23:])
    ]
    assert len(flips[0]) == 23 and all(flips[0][video] != flips[1][video] for video in flips[0])
    assert 4 < sum(flips[0].values()) < 19
    unflipped = itertools.islice(pairs_of(stream(shards)), 46)
    assert not any(bool(i.frames[0, 2, 0, 0] == 255) for i in unflipped)


def test_every_part_of_a_longer_clip_is_used(shards):
    seen = set()
    for item in itertools.islice(pairs_of(stream(shards, nframes=2)), 300):
        seen.add(tuple(int(g) // 40 for g in item.frames[:, 1, 0, 0]))
    assert seen == {(0, 0), (0, 1), (1, 1), (2, 2), (2, 3), (3, 3)}
    strided = pairs_of(stream(shards, nframes=2, frame_stride=2))
    strided = {tuple(int(g) // 40 for g in item.frames[:, 1, 0, 0]) for item in itertools.islice(strided, 100)}
    assert strided == {(0, 0), (0, 2), (2, 2)}


# ----------------------------------------------------------------------------------------------------------------------
# Loading


@pytest.mark.parametrize("workers", [0, 2])
def test_continuing_is_exact(shards, workers):
    options = dict(batch_size=2, workers=workers)
    reference = take(make_shard_loader(stream(shards), **options), 30)
    for done in (1, 7, 29) if workers else (1, 5, 7, 12, 24, 29):
        rest = make_shard_loader(stream(shards), position=2 * done, **options)
        assert same(reference[done:], take(rest, 30 - done)), done


def test_continuing_reads_only_the_shards_that_are_needed(shards, monkeypatch):
    read = []
    original = webdataset_files.read_samples
    monkeypatch.setattr("training.data.webdataset.read_samples", lambda url: read.append(url) or original(url))
    data = stream(shards, buffer=2)
    read.clear()
    next(data.partition(0, partitions=1, skip=20))
    assert len(read) <= 2


def test_processes_share_an_epoch(shards):
    options = dict(batch_size=1, world_size=4)
    found = []
    for rank in range(4):
        data = stream(shards)
        total = sum(3 - (s == 7) for s in data.partition_shards(rank, partitions=4, epoch=0))
        found += [v for batch in take(make_shard_loader(data, rank=rank, **options), total) for v in videos_of(batch)]
    assert sorted(found) == list(range(23))


def test_workers_of_processes_share_an_epoch(shards, monkeypatch):
    """Every worker of every process has clips of its own."""
    found = []
    for rank, worker in itertools.product(range(2), range(3)):
        monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda w=worker: types.SimpleNamespace(id=w))
        data, place = stream(shards), 3 * rank + worker
        batches = iter(_Stream(data, batch_size=1, partitions=3, rank=rank, world_size=2, batches=0))
        total = sum(3 - (s == 7) for s in data.partition_shards(place, partitions=6, epoch=0))
        found += [v for batch, _ in itertools.islice(batches, total) for v in videos_of(batch)]
    assert sorted(found) == list(range(23))


def test_continuing_with_several_processes_is_exact(shards):
    options = dict(batch_size=2, rank=1, world_size=2)
    reference = take(make_shard_loader(stream(shards), **options), 8)
    rest = make_shard_loader(stream(shards), position=3 * 2 * 2, **options)
    assert same(reference[3:], take(rest, 5))


def test_position_counts_all_processes(shards):
    loader = make_shard_loader(stream(shards), batch_size=2, rank=1, world_size=3, position=12)
    take(loader, 2)
    assert loader.position == 12 + 2 * 2 * 3


def test_too_few_shards(shards):
    data = stream(shards)
    with pytest.raises(UserError, match="8 shards cannot be split over 9 processes"):
        make_shard_loader(data, batch_size=1, world_size=9)
    assert len(take(make_shard_loader(data, batch_size=2, workers=3, rank=2, world_size=7), 2)) == 2


def test_global_random_state_is_left_alone(shards):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    take(make_shard_loader(stream(shards), batch_size=2), 5)
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()


# ----------------------------------------------------------------------------------------------------------------------
# Finding them


def test_braces_single_files_and_folders(shards, tmp_path):
    assert stream(shards).num_clips == 23
    some = stream(f"{shards}/shard-{{000002..000004}}.tar")
    assert (some.num_shards, some.num_clips, some.name) == (3, 9, "shard")
    assert stream(shards / "shard-000007.tar").describe() == {
        **{"name": "shard-000007", "resolution": 4, "nframes": 4, "frame_stride": 1, "mirror": False, "c_dim": 0},
        **{"num_shards": 1, "num_clips": 2},
    }


def test_shards_of_several_folders_have_indices_of_their_own(shards, tmp_path):
    copy_of(shards, tmp_path / "one")
    two = copy_of(shards, tmp_path / "two")
    (two / "shard-000000.tar").write_bytes((two / "shard-000007.tar").read_bytes())  # two clips, as the index says
    listed = json.loads((two / "index.json").read_text())
    listed["shardlist"][0]["nsamples"] = 2
    (two / "index.json").write_text(json.dumps(listed))
    for order, counts in (("one,two", [3, 2]), ("two,one", [2, 3])):
        assert webdataset_files.open_shards(f"{tmp_path}/{{{order}}}/shard-000000.tar").counts == counts
    manifest = json.loads((two / "manifest.json").read_text())
    (two / "manifest.json").write_text(json.dumps(manifest | {"stride": 3}))
    differ = failure(f"{tmp_path}/{{one,two}}/shard-000000.tar")
    assert "the folders' manifest.json differ in 'stride': train on shards that agree in it" in differ


def test_compressed_shards_are_counted(shards, tmp_path):
    content = (shards / "shard-000007.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(gzip.compress(content))
    assert stream(tmp_path / "a.tar").num_clips == 2
    (tmp_path / "b.tar").write_bytes(gzip.compress(content)[:-200])
    assert "Cannot read the shard" in failure(tmp_path / "b.tar")


def test_a_first_member_with_a_name_like_the_start_of_a_compressed_file(shards, tmp_path, monkeypatch):
    file = tmp_path / "a.tar"
    with tarfile.open(file, "w") as archive:
        for name in ("BZh9.0.png", "BZh9.1.png"):
            archive.addfile(tarfile.TarInfo(name))
    monkeypatch.setattr(webdataset_files, "_package_members", None)  # reads compressed ones
    [sample] = webdataset_files.read_samples(str(file))
    assert (sample.key, len(sample)) == ("BZh9", 2)
    for compress in (bz2.compress, gzip.compress, lzma.compress):
        (tmp_path / "b.tar").write_bytes(compress(file.read_bytes()))
        assert webdataset_files._is_compressed(tmp_path / "b.tar")


def test_foreign_shards_are_counted_once(shards, tmp_path, monkeypatch, cache):
    folder = copy_of(shards, tmp_path / "foreign", index=False)
    assert stream(folder / "shard-{000000..000007}.tar").num_clips == 23
    assert len(os.listdir(cache / "video-3d-gan" / "shards")) == 8
    monkeypatch.setattr(webdataset_files.tarfile, "open", None)  # it must not be needed again
    assert webdataset_files.open_shards(str(folder / "shard-{000000..000007}.tar")).counts == [3] * 7 + [2]


@pytest.mark.parametrize("folder", ["", "clips.2/", "./"])
def test_members_that_are_no_frames_are_not_counted(shards, tmp_path, folder):
    """Files that macOS puts beside every other one, and metadata: the clips are those without them."""
    with tarfile.open(shards / "shard-000000.tar") as clean, tarfile.open(tmp_path / "a.tar", "w") as archive:
        for member in clean:
            for name in (f"{folder}._{member.name}", f"__meta__/{member.name}", folder + member.name):
                info = tarfile.TarInfo(name)
                info.size = member.size
                archive.addfile(info, clean.extractfile(member))
    data = stream(tmp_path / "a.tar")
    assert data.num_clips == 3
    assert torch.equal(data.example_frames(3, seed=0), stream(shards / "shard-000000.tar").example_frames(3, seed=0))


def test_options_choose_the_kind_of_dataset(shards, frames):
    assert isinstance(build(str(shards)), ShardPairDataset)
    assert isinstance(build(str(frames), subset=3), VideoPairDataset)
    with pytest.raises(UserError, match="subset= does not go with tar files"):
        build(str(shards), subset=3)


def test_over_http(shards):
    handler = lambda *a: http.server.SimpleHTTPRequestHandler(*a, directory=str(shards))  # noqa: E731
    http.server.SimpleHTTPRequestHandler.log_message = lambda *a: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/shard-{{000000..000007}}.tar"
        here = take(make_shard_loader(stream(shards), batch_size=4), 6)
        there = take(make_shard_loader(stream(url), batch_size=4), 6)
        assert same(here, there)
        server.shutdown()


# ----------------------------------------------------------------------------------------------------------------------
# Mistakes


def failure(path, **options):
    with pytest.raises(UserError) as error:
        stream(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_mistakes(shards, tmp_path):
    assert "no shard" in failure(tmp_path / "a-{0..2}.tar") and "(3 of 3 missing)" in failure(tmp_path / "a-{0..2}.tar")
    assert "shorter than nframes=16: the clip '" in failure(shards, nframes=16)
    assert "2 frames (keeping one frame in 2)" in failure(shards, nframes=3, frame_stride=2)
    assert "nframes must be a whole number of at least 1" in failure(shards, nframes=0)
    assert failure(None) == "path must be that of stored videos, got None."
    assert "neither a file nor an http" in failure("pipe:cat a.tar")
    assert "manifest.json beside" in failure(
        copy_of(shards, tmp_path / "x", index=False) / "shard-000000.tar", use_labels=True
    )
    (tmp_path / "bad.tar").write_bytes(b"no tar file")
    assert "Cannot read the shard" in failure(tmp_path / "bad.tar")
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    assert "has no samples" in failure(tmp_path / "empty.tar")


def test_a_tar_of_a_folder_of_frames_says_how_frames_are_named(frames, tmp_path):
    """There the frames of a clip share a folder; each would be a clip of its own."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(frames / "videos" / "v00", "v00")
    assert failure(tmp_path / "a.tar") == (
        f"The clips in '{tmp_path / 'a.tar'}' are shorter than nframes=4: the clip 'v00/0' has 1 frame. Use longer "
        "clips or a smaller nframes. Frames of one clip are named <clip>.000.png, <clip>.001.png, … (docs/datasets.md)."
    )


@pytest.mark.parametrize("content", ["", "{", b"\xff", '{"format": "square-video-cl'], ids=repr)
def test_a_damaged_manifest_beside_shards(shards, tmp_path, content):
    """What it says about left out frames is lost; it is not as if there were none."""
    folder = copy_of(shards, tmp_path / "set")
    (folder / "manifest.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    for path in (folder, folder / "shard-000000.tar", f"{folder}/shard-{{000000..000007}}.tar"):
        for read in (stream, check_dataset, build):
            with pytest.raises(
                UserError, match=rf"^'{folder}/manifest.json' is damaged \(.+\): restore it or remove it.$"
            ):
                read(str(path))


def test_files_beside_shards_that_cannot_be_read(shards, tmp_path):
    for name in ("manifest.json", "index.json"):
        folder = copy_of(shards, tmp_path / name)
        (folder / name).unlink()
        (folder / name).mkdir()
        assert failure(folder) == f"Cannot read '{folder}/{name}' (Is a directory): repair or remove it."


@pytest.mark.parametrize(
    "entry",
    [{"url": 5, "nsamples": 3}, {"url": "a.tar", "nsamples": -3}, {"url": "a.tar"}, {"url": "", "nsamples": 1}, 7],
)
def test_an_index_with_an_invalid_entry(shards, tmp_path, entry):
    folder = copy_of(shards, tmp_path / "set")
    listed = json.loads((folder / "index.json").read_text())["shardlist"]
    (folder / "index.json").write_text(json.dumps({"shardlist": [*listed, entry]}))
    assert failure(folder) == (
        f"'{folder}/index.json' must give the url and nsamples of each shard, got {entry!r}: correct or remove it."
    )


def test_an_index_that_is_damaged_or_another_file(shards, tmp_path):
    folder = copy_of(shards, tmp_path / "set")
    (folder / "index.json").write_text('{"shardlist": [{"url": "shard-00')
    assert re.fullmatch(f"'{folder}/index.json' is damaged \\(.+\\): restore it or remove it.", failure(folder))
    for content in ("[]", "{}", "null", '{"shardlist": 3}'):
        (folder / "index.json").write_text(content)
        assert stream(folder).num_clips == 23  # counted


LABELS_THAT_ARE_NONE = [-1, 3, True, [0, float("nan"), 0], [1, 0], [10**400, 0, 0], "1"]


@pytest.mark.parametrize("label", LABELS_THAT_ARE_NONE, ids=lambda label: f"{label!r:.20}")
def test_labels_that_are_none(shards, tmp_path, label):
    folder = copy_of(shards, tmp_path / "set")
    for file in folder.glob("*.tar"):
        members = []
        with tarfile.open(file) as archive:
            for member in archive:
                data = archive.extractfile(member).read()
                if member.name.endswith(".json"):
                    data = json.dumps({**json.loads(data), "label": label}).encode()
                    member.size = len(data)
                members.append((member, data))
        with tarfile.open(file, "w") as archive:
            for member, data in members:
                archive.addfile(member, io.BytesIO(data))
    with pytest.raises(UserError, match=re.escape(f"has no label of length 3: {label!r:.60}.")):
        take(make_shard_loader(stream(folder, use_labels=True), batch_size=4), 1)


@pytest.mark.parametrize(
    "address, reason",
    [
        ("http://127.0.0.1:x/a.tar", "nonnumeric port"),
        ("http://here there/a.tar", "control characters"),
        ("http://[::1/a.tar", "Invalid IPv6"),
        ("http://127.0.0.1:1/a.tar", "refused"),
        ("http:///a.tar", "no host"),
    ],
)
def test_addresses_that_are_none_or_do_not_answer(address, reason):
    assert f"Cannot fetch '{address.removesuffix('a.tar')}index.json'" in failure(address)
    assert reason in failure(address)


def test_a_server_that_fails_is_not_taken_for_one_without_a_manifest(shards, tmp_path):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(shards))

        def do_GET(self):
            return self.send_error(503) if self.path.endswith("manifest.json") else super().do_GET()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        message = failure(f"http://127.0.0.1:{server.server_port}/shard-000000.tar")
        server.shutdown()
    assert "manifest.json' (HTTP Error 503" in message


def test_braces_that_do_not_close():
    assert "Unbalanced braces" in failure("faces-{000..003.tar")


def test_without_the_package(shards, tmp_path, monkeypatch):
    import importlib

    def missing(name, *_):
        raise ImportError(name)

    compressed = tmp_path / "a.tar"
    compressed.write_bytes(gzip.compress((shards / "shard-000007.tar").read_bytes()))
    expected = stream(shards).example_frames(3, seed=0)
    monkeypatch.setattr(importlib, "import_module", missing)
    assert torch.equal(stream(shards).example_frames(3, seed=0), expected)  # local files do not need it
    assert stream(shards / "shard-000007.tar").num_clips == 2  # neither does a single one
    for content in (b"", bytes(1024), b"<html>Not found</html>" * 99):  # damaged, not compressed
        (tmp_path / "b.tar").write_bytes(content)
        reason = "has no samples" if content and not any(content) else "("  # zeros end an archive
        assert f"he shard '{tmp_path / 'b.tar'}' {reason}" in failure(tmp_path / "b.tar")
    for needed in (compressed, shards / "shard-{000000..000007}.tar"):
        assert failure(needed) == (
            "Remote or compressed tar files, and several given in braces, need the package webdataset: "
            "pip install webdataset."
        )


def test_seeds_are_whole_numbers(shards):
    with pytest.raises(UserError, match="^seed must be a whole number, got '0'"):
        stream(shards, seed="0")
    for seed in (np.int64(7), np.int8(-3)):
        same_items = (take(make_shard_loader(stream(shards, seed=s), batch_size=4), 8) for s in (seed, int(seed)))
        assert same(*same_items)


def test_a_cut_off_shard_is_named_and_training_goes_on(shards, tmp_path):
    folder = copy_of(shards, tmp_path / "cut")
    file = folder / "shard-000003.tar"
    file.write_bytes(file.read_bytes()[:2000])
    loader = make_shard_loader(stream(folder), batch_size=23)
    batch = next(loader)
    assert loader.unreadable in (2, 3) and "shard-000003.tar" in loader.problem
    assert len(batch.frames) == 23 and len(set(videos_of(batch))) == 23 - loader.unreadable


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("length", [0, 100, 400])  # bytes that are left of the header of a frame
def test_a_shard_that_is_cut_off_at_a_header_is_damaged(shards, tmp_path, length, compressed):
    """tarfile takes the cut for the end of the archive. The clip before it is left out too: it may have lost frames."""
    folder = copy_of(shards, tmp_path / "cut")
    file = folder / "shard-000003.tar"
    with tarfile.open(file) as archive:
        place = archive.getmembers()[7].offset  # the third frame of the second of three clips
    cut = file.read_bytes()[: place + length]
    file.write_bytes(gzip.compress(cut) if compressed else cut)
    damaged = f"Cannot read the shard '{file}' (unexpected end of data): replace it."
    loader = make_shard_loader(stream(folder), batch_size=23)
    batch = next(loader)
    assert (loader.unreadable, loader.problem) == (2, damaged)
    assert len(set(videos_of(batch))) == 21
    (folder / "index.json").unlink()
    assert failure(folder) == damaged


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_a_damaged_shard_are_replaced(shards, tmp_path, workers):
    """By the first clips that can be read; the order of all others stays."""
    whole = take(make_shard_loader(stream(shards, buffer=1), batch_size=1, workers=workers), 46)
    folder = copy_of(shards, tmp_path / "cut")
    for name in ("shard-000002.tar", "shard-000005.tar"):
        (folder / name).write_bytes((folder / name).read_bytes()[:700])
    data = stream(folder, buffer=1)
    [first] = data.first_clips(1)
    loader = make_shard_loader(data, batch_size=1, workers=workers)
    taken = take(loader, 46)
    replaced = [k for k in range(46) if not same(whole[k : k + 1], taken[k : k + 1])]
    assert len(replaced) == loader.unreadable == 12 and "Cannot read the shard" in loader.problem
    assert all(torch.equal(taken[k].frames[0], first.frames) for k in replaced)
    rest = make_shard_loader(stream(folder, buffer=1), batch_size=1, workers=workers, position=20)
    assert same(taken[20:], take(rest, 26))


def test_nothing_can_be_read(shards, tmp_path):
    folder = copy_of(shards, tmp_path / "cut")
    data = stream(folder)
    for file in folder.glob("*.tar"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match=r"Cannot read the shard .*: replace it\. No other clip can be read either\."):
        next(make_shard_loader(data, batch_size=2))


def test_previews_leave_out_what_cannot_be_read(shards, tmp_path):
    whole = stream(copy_of(shards, tmp_path / "x"))
    frames = whole.example_frames(6, seed=0)
    first = tmp_path / "x" / "shard-000000.tar"
    data = bytearray(first.read_bytes())
    with tarfile.open(first) as archive:
        members = archive.getmembers()
    for member in members[:4]:  # frames of the first of three clips
        data[member.offset_data : member.offset_data + 8] = bytes(8)
    first.write_bytes(data[: members[11].offset + 100])  # the third one is cut off
    assert torch.equal(whole.example_frames(4, seed=0), frames[[1, 3, 4, 5]])
    for file in (tmp_path / "x").glob("*.tar"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match="Cannot read the shard"):
        whole.example_frames(1, seed=0)


def test_a_damaged_frame_is_named(shards, tmp_path):
    folder = copy_of(shards, tmp_path / "damaged")
    file = folder / "shard-000000.tar"
    data = file.read_bytes()
    file.write_bytes(data.replace(b"IDAT", b"IDAX"))
    loader = make_shard_loader(stream(folder, use_labels=True), batch_size=23)
    batch = next(loader)
    assert loader.unreadable == 3 and "Cannot read the frame" in loader.problem
    assert "shard-000000.tar" in loader.problem
    videos = videos_of(batch)
    replacement = max(videos, key=videos.count)
    rows = [k for k in range(23) if videos[k] == replacement]
    assert len(rows) == 4 and len(set(videos)) == 20
    for part in batch:
        assert all(torch.equal(part[k], part[rows[0]]) for k in rows)
    assert batch.c[rows[0]].argmax() == replacement % 3


# ----------------------------------------------------------------------------------------------------------------------
# Training


def test_training_continues_exactly(tmp_path, monkeypatch):
    """Two halves of a run give the weights of a whole one."""
    data = write_frames(tmp_path / "frames")
    manifest = {"format": SHARDS_FORMAT, "nframes": 4}
    pack_shards(str(data), str(tmp_path / "set"), manifest=manifest, clips_per_shard=2)

    def train(*words):
        monkeypatch.setattr(sys, "argv", ["run_train.py", *words])
        run_train.main()

    words = [f"data={tmp_path}/set/shard-{{000000..000001}}.tar", *OVERRIDES, "imgsnap=1"]
    train(f"outdir={tmp_path / 'whole'}", *words, "kimg=0.016")
    train(f"outdir={tmp_path / 'parts'}", *words, "kimg=0.008")
    train(f"outdir={tmp_path / 'parts'}", "resume_run=0", "kimg=0.016")
    folders = [next((tmp_path / name).iterdir()) for name in ("whole", "parts")]
    assert (folders[0] / "reals.png").exists() and folders[0].name.startswith("00000-shard-stylenerf_small")
    one, other = (read_state(folder)["modules"] for folder in folders)
    for module, entry in one.items():
        for name, value in entry.items():
            assert torch.equal(value, other[module][name]), (module, name)


def test_braces_that_the_shell_has_replaced():
    with pytest.raises(UserError, match="data= is given 2 times: put a name with braces in quotes"):
        compose_options(["outdir=x", "data=a-000.tar", "data=a-001.tar"])
    assert compose_options(["outdir=x", "data=a-{000..001}.tar"])["data"] == "a-{000..001}.tar"


def package_members(file):
    """Names and contents of an intact tar file's members as the package webdataset reads them."""
    iterators = pytest.importorskip("webdataset").tariterators
    opened = iterators.tar_file_expander(iterators.url_opener([{"url": str(file)}]), eof_value=None)
    return [(member["fname"], member["data"]) for member in opened]


def contents(members):
    """Names and contents of members, until an error: "error"."""
    found = []
    try:
        for name, data in members:
            found.append((name, data if isinstance(data, bytes) else data.read()))
    except (OSError, tarfile.TarError):
        found.append("error")
    return found


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_local_members_are_those_of_the_package(kind, tmp_path):
    """Headers that are parsed here, and all that are left to tarfile: long names, folders, links."""
    file = tmp_path / "a.tar"
    names = ["a.0.png", "a.1.PNG", "a.json", "__meta__/b.png", "__x__", "é/b.0.png", f"{'n' * 96}.png", "no_suffix"]
    names += [f"{'d' * 60}/{'e' * 60}.0.png", "c.0.png", "empty.0.png"]
    with tarfile.open(file, "w", format=kind) as archive:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 0 if name.startswith("empty") else 600 * number + 1
            archive.addfile(info, io.BytesIO(bytes([number]) * info.size))
            for other_type in (tarfile.DIRTYPE, tarfile.SYMTYPE):
                other = tarfile.TarInfo(f"other{number}.png")
                other.type, other.linkname = other_type, "a.0.png"
                archive.addfile(other)
    found = package_members(file)
    assert len(found) == len(names) - 2
    for read in (webdataset_files._local_members, webdataset_files._package_members):
        assert contents(read(str(file))) == found


def test_members_after_damage_are_not_read(shards, tmp_path):
    """The header of the second member is damaged, or cut off, as may be its content, or what follows that."""
    data, file = sorted(shards.glob("*.tar"))[0].read_bytes(), tmp_path / "a.tar"
    second = data.index(b"ustar", 512) - 257
    damaged = [(1, data[: second + length]) for length in (0, 100, 262, 300, 345, 512, 520)] + [
        (2, data[: second + 700])
    ]
    damaged += [(1, data[: second + at] + b"?" + data[second + at + 1 :]) for at in (0, 125, 150, 156, 345)]
    whole = package_members(sorted(shards.glob("*.tar"))[0])
    for count, content in damaged:
        file.write_bytes(content)
        for read in (webdataset_files._local_members, webdataset_files._package_members):
            assert contents(read(str(file))) == [*whole[:count], "error"]


NAMES = ["a.0.png", "a.10.png", "a.9.PNG", "a.json", "no_suffix", "a.txt", "b.0.png", ".hidden.png", "d.1/b.0.png"]
NAMES += ["d.1/._b.1.png", "d.1/b.1.png", "d/.x/c.png", "d/.x/c.b.a.jpg", "x..png", "x.", ".y/z.png", "a.11.png"]


def test_samples_are_grouped_as_by_the_package(tmp_path):
    file = tmp_path / "a.tar"
    with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in NAMES:
            content = b"{}" if name.endswith("json") else name.encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    visible = [name for name in NAMES if not name.rpartition("/")[2].startswith(".")]
    iterators = pytest.importorskip("webdataset").tariterators
    grouped = iterators.group_by_keys({"fname": name, "data": name.encode(), "__url__": ""} for name in visible)
    expected = [
        (sample["__key__"], {key: value for key, value in sample.items() if key.endswith(("png", "jpg"))})
        for sample in grouped
    ]
    samples = list(webdataset_files.read_samples(str(file)))
    assert [(sample.key, dict(images_of(sample))) for sample in samples] == expected
    assert [name for name, _ in samples[0].frames] == ["0.png", "9.png", "10.png"]
    (tmp_path / "b.tar").write_bytes(gzip.compress(file.read_bytes()))  # by the package from here on
    assert [(s.key, images_of(s)) for s in webdataset_files.read_samples(str(tmp_path / "b.tar"))] == [
        (s.key, images_of(s)) for s in samples
    ]
    assert webdataset_files._count_members(str(file)) == len(samples) == 7


def test_two_members_of_one_name(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a.0.png"))
        archive.addfile(tarfile.TarInfo("a.0.PNG"))
    with pytest.raises(UserError, match=r"Cannot read the shard '.*a\.tar' \(it has two members 'a\.0\.PNG'\)"):
        list(webdataset_files.read_samples(str(tmp_path / "a.tar")))


def test_a_description_that_is_nested_too_deeply(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("a.json")
        info.size = 100_000
        archive.addfile(info, io.BytesIO(b"[" * info.size))
    with pytest.raises(UserError, match=r"Cannot read the shard '.*a\.tar' \(.*recursion.*\): replace it\."):
        list(webdataset_files.read_samples(str(tmp_path / "a.tar")))


def test_contents_stay_in_the_file_until_they_are_asked_for(shards):
    samples = list(webdataset_files.read_samples(str(sorted(shards.glob("*.tar"))[0])))
    assert all(isinstance(data, webdataset_files.Member) for _, data in samples[1].frames)


def test_a_shard_that_shrinks_while_it_is_read(shards, tmp_path):
    file = tmp_path / "a.tar"
    file.write_bytes(sorted(shards.glob("*.tar"))[0].read_bytes())
    sample = next(webdataset_files.read_samples(str(file)))
    file.write_bytes(b"")
    with pytest.raises(OSError, match=r"a\.tar has become shorter"):
        sample.image(1)


def test_a_folder_of_frames_may_be_called_tar(tmp_path):
    (tmp_path / "faces.tar").mkdir()
    assert not annotations.is_shards(tmp_path / "faces.tar")
    assert annotations.is_shards(tmp_path / "others.tar")
