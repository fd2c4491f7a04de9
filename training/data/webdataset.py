"""Streaming of training items from shards (training.data.webdataset_files), for datasets larger than a disk.

Shards are read sequentially. In every epoch a seeded permutation of the shards is split into partitions, one for each
worker of each process; a partition mixes the clips of its shards with a seeded shuffle buffer. So

* every clip is used exactly once in an epoch (a partition enters the next epoch on its own),
* the two frames of a clip depend on (seed, epoch, clip) alone, as in training.data.dataset,
* with the same numbers of processes and workers a run gets the same items, also after an interruption: the order of a
  partition is computed from the sizes of the shards, without reading them, so that a continued run starts with the
  first shard that it still needs and exactly the next item. With other numbers it continues at the same position of
  another order.

The buffer holds only the encoded bytes of the two frames of an item, which are decoded when the item leaves it.
"""

import hashlib
import itertools
import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from dnnlib import UserError, one_line
from training.data.annotations import (
    MAX_CLASSES,
    angles_vector,
    enlarged_frames,
    label_vector,
    mirrored,
    remaining_stride,
    stored_stride,
)
from training.data.dataset import (
    KEY_PAIRS,
    VideoPair,
    check_counts,
    check_seed,
    describe_clips,
    pair_distance,
    random_block,
    sample_pair,
)
from training.data.frame_store import stored_path
from training.data.images import decode_image, fit_square
from training.data.webdataset_files import Sample, open_shards, read_samples

__all__ = ["EncodedPair", "ShardPairDataset"]

# Uses of a seed; see training.data.dataset.
KEY_SHARDS = 16
KEY_BUFFER = 17
KEY_FLIPS = 18

BUFFER = 512  # items in the shuffle buffer of a partition


class EncodedPair(NamedTuple):
    """A clip's item of an epoch, as it is kept in the shuffle buffer."""

    where: str  # the clip, for messages
    images: list[tuple[str, bytes]]  # names and contents of the two frames
    dt: float
    flip: bool
    about: dict[str, Any]  # the clip's label and camera


class ShardPairDataset:
    """Pairs of frames from tar files of clips.

    From a clip that is longer than `nframes` (after the stride), every epoch samples one window of `nframes` frames.

    Attributes:
        name: Name of the folder or the file.
        resolution, nframes, frame_stride, mirror: As given.
        source_stride: As for VideoPairDataset.
        c_dim: Length of a label, 0 without labels.
        numeric_labels: Labels are lists of numbers, not classes.
        item_c_dim: Length of an item's c: the label and, if they are used, the camera's angles.
        num_clips: Clips in use.
        num_shards: Tar files.
        num_short_videos: 0; for the interface of VideoPairDataset.
        notes: Messages for the user about shards that the index lists and that are missing, and about frames that are
            smaller than the resolution.
    """

    num_short_videos = 0

    def __init__(
        self,
        *,
        path: str | os.PathLike,
        resolution: int,
        nframes: int = 16,
        frame_stride: int = 1,  # as for VideoPairDataset
        mirror: bool = False,  # flip every clip left to right in every second epoch
        use_labels: bool = False,
        use_cameras: bool = False,  # append the angles of a clip's camera to its label
        seed: int = 0,
        buffer: int = BUFFER,
    ):
        """Find the shards and read the first clip.

        Raises:
            UserError: Shards are missing or empty, or their clips are too short, or they have no labels or cameras
                although these are used.
        """
        check_counts(resolution=resolution, nframes=nframes, frame_stride=frame_stride)
        self.resolution = resolution
        self.nframes = nframes
        self.frame_stride = frame_stride
        self.mirror = mirror
        self._path = stored_path(path)
        self._seed = check_seed(seed)
        self._buffer = buffer
        self._shards = open_shards(path)
        self._step = remaining_stride(self._shards.manifest, frame_stride, path=self._path)
        self.source_stride = self._step * stored_stride(self._shards.manifest)
        self._first = np.concatenate([[0], np.cumsum(self._shards.counts)])  # index of each shard's first clip
        self.name = os.path.basename(os.path.abspath(path)).partition("-{")[0].removesuffix(".tar")
        self.num_clips = int(self._first[-1])
        self.num_shards = len(self._shards.urls)
        self.notes = []
        if self._shards.missing:
            first, total = self._shards.missing[0], self.num_shards + len(self._shards.missing)
            self.notes.append(
                f"{len(self._shards.missing)} of {total} shards in index.json are not there, e.g. '{first}'."
            )
        enlarged = enlarged_frames(self._shards.manifest, resolution)
        self.notes += [] if enlarged is None else [f"'{self._path}': {enlarged}"]
        self.c_dim = 0
        if use_labels:
            self.c_dim = (self._shards.manifest or {}).get("c_dim", 0)
            if type(self.c_dim) is not int or not 0 < self.c_dim <= MAX_CLASSES:
                raise UserError(f"Labels are wanted but the manifest.json beside '{self._path}' lists none.")
        self._use_cameras = use_cameras
        if use_cameras and not (self._shards.manifest or {}).get("cameras"):
            raise UserError(
                f"Cameras are wanted but the manifest.json beside '{self._path}' lists none; train without "
                "camera_condition."
            )
        self.item_c_dim = self.c_dim + (2 if use_cameras else 0)
        first = next(read_samples(self._shards.urls[0]), None)
        self._check_length(first)
        if use_cameras:
            self._angles(first.about.get("camera"))
        self.numeric_labels = self.c_dim > 0 and isinstance(first.about.get("label"), list)

    def cameras(self) -> np.ndarray | None:
        """Percentiles 0 to 100 of the clips' yaw and pitch, [101, 2] in radians.

        The dataset tool writes them; the cameras themselves lie beside the clips in the tar files. None if they are not
        used, or are unknown, as those of a damaged entry are.
        """
        known = (self._shards.manifest or {}).get("camera_percentiles")
        angles = [angles_vector(pair) for pair in known] if self._use_cameras and isinstance(known, list) else []
        return np.stack(angles) if angles and all(pair is not None for pair in angles) else None

    def describe(self) -> dict[str, Any]:
        """Description of the dataset in plain types, without paths, for logs and checkpoints."""
        return {**describe_clips(self), "num_shards": self.num_shards, "num_clips": self.num_clips}

    def fingerprint(self) -> dict[str, str]:
        """As for `training.data.dataset.VideoPairDataset`; labels are in the shards."""
        digest = hashlib.sha256()
        for url, count in zip(self._shards.urls, self._shards.counts, strict=True):
            size = os.path.getsize(url) if os.path.isfile(url) else None  # web servers are not asked for it
            digest.update(f"{os.path.basename(url)} {count} {size}\n".encode("utf-8", "surrogateescape"))
        return {"files": digest.hexdigest()[:32]}

    def example_frames(self, count: int, *, seed: int) -> torch.Tensor:
        """First frames of the first clips, for previews: uint8 [count, 3, H, W].

        The seed has no effect: reading clips at random places of the shards would be slow.
        """
        return torch.stack([item.frames[0] for item in self.first_clips(count)])

    def example_labels(self, count: int, *, seed: int) -> torch.Tensor:
        """The labels of the same clips: float32 [count, c_dim]."""
        return torch.stack([item.c[: self.c_dim] for item in self.first_clips(count)])

    def first_clips(self, count: int) -> list[VideoPair]:
        """The first clips that can be read, repeated if there are fewer than `count`, with the frames of epoch 0.

        Raises:
            UserError: There is none.
        """
        found = list(itertools.islice(self._every_clip(), count))
        return [found[index % len(found)] for index in range(count)]

    # ------------------------------------------------------------------------------------------------------------------
    # Order

    def partition(self, number: int, *, partitions: int, skip: int = 0) -> Iterator[EncodedPair | UserError]:
        """The endless items of a partition after the first `skip`; a UserError stands for an unreadable item."""
        for epoch in itertools.count():
            shards = self.partition_shards(number, partitions=partitions, epoch=epoch)
            total = sum(self._shards.counts[shard] for shard in shards)
            if skip >= total:
                skip -= total
                continue
            yield from self._partition_epoch(shards, number, epoch, skip)
            skip = 0

    def partition_shards(self, number: int, *, partitions: int, epoch: int) -> list[int]:
        """The shards of a partition in an epoch, in reading order."""
        draws = random_block(self._seed, KEY_SHARDS, epoch=epoch).random(self.num_shards)
        return np.argsort(draws, kind="stable")[number::partitions].tolist()

    def partition_order(self, shards: list[int], number: int, epoch: int) -> np.ndarray:
        """The order in which a partition yields its clips in an epoch, as places in reading order: int64 [clips].

        The shuffle buffer is filled in reading order; each step yields a random clip of it.
        """
        total = sum(self._shards.counts[shard] for shard in shards)
        draws = random_block(self._seed, KEY_BUFFER, epoch=epoch, index=number).random(total)
        held = list(range(min(self._buffer, total)))
        order = np.empty(total, dtype=np.int64)
        for place, draw in enumerate(draws.tolist()):
            chosen = int(draw * len(held))
            order[place] = held[chosen]
            following = place + self._buffer
            if following < total:
                held[chosen] = following
            else:
                held[chosen] = held[-1]
                held.pop()
        return order

    def _partition_epoch(
        self, shards: list[int], number: int, epoch: int, skip: int
    ) -> Iterator[EncodedPair | UserError]:
        order = self.partition_order(shards, number, epoch)[skip:]
        wanted = np.zeros(sum(self._shards.counts[shard] for shard in shards), dtype=bool)
        wanted[order] = True
        reading = self._read(shards, wanted, epoch)
        held: dict[int, EncodedPair | UserError] = {}
        for place in order.tolist():
            while place not in held:
                read, item = next(reading)
                held[read] = item
            yield held.pop(place)

    def _read(self, shards: list[int], wanted: np.ndarray, epoch: int) -> Iterator[tuple[int, EncodedPair | UserError]]:
        """The items of the wanted clips, by place; shards without a wanted clip are not read."""
        start = 0
        for shard in shards:
            url, count = self._shards.urls[shard], self._shards.counts[shard]
            if wanted[start : start + count].any():
                place = start
                try:
                    for sample in itertools.islice(read_samples(url), count):
                        if wanted[place]:
                            yield place, self._take(sample, shard, place - start, epoch)
                        place += 1
                    missing = f"The shard '{url}' has fewer clips than the {count} that it is listed with."
                except UserError as error:
                    missing = str(error)
                for rest in range(place, start + count):
                    if wanted[rest]:
                        yield rest, UserError(missing)
            start += count

    # ------------------------------------------------------------------------------------------------------------------
    # Items

    def decode(self, item: EncodedPair | UserError) -> VideoPair:
        """The frames, Δt and c of an item.

        Raises:
            UserError: It is one, or a frame, label or camera cannot be read.
        """
        frames = np.empty([2, 3, self.resolution, self.resolution], dtype=np.uint8)
        dt, c = self.decode_into(frames, item)
        return VideoPair(torch.from_numpy(frames), torch.tensor(dt), torch.from_numpy(c))

    def decode_into(self, frames: np.ndarray, item: EncodedPair | UserError) -> tuple[np.float32, np.ndarray]:
        """Decode an item into given memory; see `training.data.dataset.VideoPairDataset.read_into`."""
        if isinstance(item, UserError):
            raise item
        first, second = item.images
        for out, (name, data) in zip(frames, [first] if first[0] == second[0] else [first, second]):
            try:
                fit_square(decode_image(data), self.resolution, out=out[:, :, ::-1] if item.flip else out)
            except MemoryError:
                raise
            except Exception as error:  # decoders raise any exception for damaged data
                raise UserError(f"Cannot read the frame {name} of the clip {item.where} ({error}).") from error
        if first[0] == second[0]:  # the same frame, decoded once
            frames[1] = frames[0]
        c = self._label(item.about.get("label"))
        if self._use_cameras:
            angles = self._angles(item.about.get("camera"))
            c = np.concatenate([c, mirrored(angles) if item.flip else angles])
        return np.float32(item.dt), c

    def _take(self, sample: Sample, shard: int, number: int, epoch: int) -> EncodedPair | UserError:
        """A sample's item in this epoch, or an error."""
        clip = int(self._first[shard]) + number
        try:
            self._check_length(sample)
        except UserError as error:
            return error
        block = random_block(self._seed, KEY_PAIRS, epoch=epoch, index=clip)
        f0, f1 = sample_pair(block, self.nframes)
        windows = -(-len(sample) // self._step) // self.nframes
        start = int(block.random() * windows) * self.nframes
        try:
            frames = [sample.image((start + frame) * self._step) for frame in (f0, f1)]
        except OSError as error:
            return UserError(f"Cannot read the shard '{self._shards.urls[shard]}' ({one_line(error)}): replace it.")
        flip = False
        if self.mirror:
            coin = random_block(self._seed, KEY_FLIPS, index=clip).random() < 0.5
            flip = coin != (epoch % 2 == 1)
        where = f"{sample.key} in {os.path.basename(self._shards.urls[shard])}"
        return EncodedPair(where, frames, pair_distance(f0, f1, self.nframes), flip, sample.about)

    def _label(self, label: Any) -> np.ndarray:
        if self.c_dim == 0:
            return np.zeros(0, dtype=np.float32)
        try:
            vector = label_vector(label, self.c_dim)
            if vector.shape != (self.c_dim,) or not np.isfinite(vector).all():
                raise ValueError("another length, or numbers that are not finite")
        except (ValueError, TypeError, IndexError, OverflowError) as error:
            raise UserError(f"A clip of '{self._path}' has no label of length {self.c_dim}: {label!r:.60}.") from error
        return vector

    def _angles(self, camera: Any) -> np.ndarray:
        angles = angles_vector(camera)
        if angles is None:
            raise UserError(f"A clip of '{self._path}' has no camera [yaw, pitch] in radians: {camera!r:.60}.")
        return angles

    def _check_length(self, sample: Sample | None) -> None:
        there = 0 if sample is None else math.ceil(len(sample) / self._step)
        if there < self.nframes:
            kept = f" (keeping one frame in {self._step})" if self._step > 1 else ""
            frames = "1 frame" if there == 1 else f"{there} frames"
            advice = "Use longer clips or a smaller nframes."
            if sample is not None and len(sample) == 1:  # most likely named as in a folder of frames
                advice += " Frames of one clip are named <clip>.000.png, <clip>.001.png, … (docs/datasets.md)."
            raise UserError(
                f"The clips in '{self._path}' are shorter than nframes={self.nframes}: the clip "
                f"'{sample.key if sample else ''}' has {frames}{kept}. {advice}"
            )

    def _every_clip(self) -> Iterator[VideoPair]:
        """All clips that can be read.

        Raises:
            UserError: There is none.
        """
        found, problem = False, None
        for shard, count in enumerate(self._shards.counts):
            for _, item in self._read([shard], np.ones(count, dtype=bool), 0):
                try:
                    yield self.decode(item)
                    found = True
                except UserError as error:
                    problem = problem or error
        if not found and problem is not None:
            raise problem
