"""Pairs of frames of real clips, and the time between them.

A video is cut into consecutive clips of `nframes` frames. The two frames of a clip that an item shows are a function of
(seed, epoch, index) alone, without state, so any number of workers gives the same items. Only these two are decoded.

The pair of a clip of n frames is ⌊n·Beta(2,1)⌋ and ⌊n·Beta(1,2)⌋ (clamped to n−1), sorted, with Δt = (f1 − f0)/(n − 1):
two samples from opposite ends, so that the discriminator sees enough long intervals (Bahmani et al., "3D-Aware Video
Generation", 2023; the sampling is that of DIGAN, Yu et al., 2022).
"""

import hashlib
import math
import numbers
import os
from typing import Any, NamedTuple

import numpy as np
import torch

from dnnlib import UserError, one_line
from training.data.annotations import (
    describe_unused_classes,
    frame_notes,
    label_vector,
    mirrored,
    notes_on_unmatched,
    read_cameras,
    read_labels,
    store_manifest,
    store_stride,
    stored_stride,
)
from training.data.frame_store import FrameStore
from training.data.images import fit_square

__all__ = [
    "KEY_PAIRS",
    "KEY_SUBSET",
    "VideoPair",
    "VideoPairDataset",
    "check_counts",
    "check_seed",
    "check_shards",
    "describe_clips",
    "num_shards",
    "pair_distance",
    "random_block",
    "sample_pair",
]


# ----------------------------------------------------------------------------------------------------------------------
# Clip sampling


# Uses of a seed, the second half of the random key: no two uses of one seed share their random numbers.
KEY_PAIRS = 1
KEY_SUBSET = 2

EXAMPLES, EXAMPLE_NUMBERS = 64, 8192  # limits of the labels in a dataset's description: labels, numbers in all


class VideoPair(NamedTuple):
    """A training item: frames uint8 [2, 3, H, W]; dt float32 [], 0…1; c float32, label and, if used, yaw and pitch."""

    frames: torch.Tensor
    dt: torch.Tensor
    c: torch.Tensor


def random_block(seed: int, use: int, *, epoch: int = 0, index: int = 0) -> np.random.Generator:
    """The random generator of a seed (0 ≤ seed < 2⁶⁴), a use, an epoch and an index."""
    # Philox is counter-based: a block of numbers per counter. Sampling advances the lowest word of the counter.
    key = np.array([seed, use], dtype=np.uint64)  # of a list with large seeds, NumPy would make inexact floats
    return np.random.Generator(np.random.Philox(key=key, counter=[0, index, epoch, 0]))


def sample_pair(generator: np.random.Generator, nframes: int) -> tuple[int, int]:
    """The two frames f0 ≤ f1 of a clip, sampled with `generator`."""
    late, early = generator.random(2)
    # Beta(2,1) has the distribution function x², Beta(1,2) has 1 − (1−x)²; these are their inverses.
    positions = (math.sqrt(late), 1 - math.sqrt(1 - early))
    f0, f1 = sorted(min(int(nframes * x), nframes - 1) for x in positions)
    return f0, f1


def describe_clips(data: Any) -> dict[str, Any]:
    """The part of a dataset's description that all kinds of datasets share: its name, and the form of its items."""
    names = ("name", "resolution", "nframes", "frame_stride", "mirror", "c_dim")
    # None marks one-hot classes, which descriptions of earlier versions do not tell from label vectors.
    examples = {"label_examples": _label_examples(data) if data.numeric_labels else None} if data.c_dim else {}
    # A stride of 1 keeps all frames that the dataset tool has kept.
    source = {} if data.source_stride == data.frame_stride else {"source_stride": data.source_stride}
    return {name: getattr(data, name) for name in names} | source | examples


def _label_examples(data: Any) -> list[list[float]]:
    """Labels of some items, for commands that need labels like those of the data; as short decimals of float32."""
    count = min(EXAMPLES, max(1, EXAMPLE_NUMBERS // data.c_dim))
    return [[float(str(number)) for number in label.numpy()] for label in data.example_labels(count, seed=0)]


def check_counts(**counts: Any) -> None:
    """Refuse everything but positive integers: half a frame would only fail in a worker.

    Raises:
        UserError: One of them is something else.
    """
    for name, count in counts.items():
        if not (isinstance(count, numbers.Integral) and count >= 1):
            raise UserError(f"{name} must be a whole number of at least 1, got {one_line(f'{count!r:.60}')}.")


def num_shards(dataset: Any) -> int | None:
    """The number of shards of a dataset of tar files; None for another one."""
    return getattr(dataset, "num_shards", None)


def check_shards(dataset: Any, processes: int) -> None:
    """Raise a UserError if there are fewer shards than processes; other datasets can be split among any number."""
    count = num_shards(dataset)
    if count is not None and count < processes:
        shards = "1 shard" if count == 1 else f"{count} shards"
        raise UserError(
            f"{shards} cannot be split over {processes} processes: use fewer (gpus=), or write more and smaller shards "
            "(--shard-clips)."
        )


def check_seed(seed: Any) -> int:
    """The seed of random_block for any integer, also one of NumPy; refuses everything else.

    Raises:
        UserError: It is something else.
    """
    if not isinstance(seed, numbers.Integral):
        raise UserError(f"seed must be a whole number, got {one_line(f'{seed!r:.60}')}.")
    return int(seed) % 2**64


def pair_distance(f0: int, f1: int, nframes: int) -> float:
    """Δt of two frames of a clip: 0 for the same frame, 1 for the first and the last."""
    return (f1 - f0) / max(nframes - 1, 1)


# ----------------------------------------------------------------------------------------------------------------------
# Folders of frames


class VideoPairDataset(torch.utils.data.Dataset):
    """Pairs of frames from `root/…/video/frame.{png,jpg,jpeg,webp,bmp,tif,tiff}` or a zip with that layout.

    Videos and frames are in natural order of their names (the plain order where numbers are zero-padded). Frames are
    centre-cropped to a square and resized with anti-aliasing. Labels come from `dataset.json` in the root,
    `{"labels": [["split/video_0", label], …]}`, one per video folder: class numbers (become one-hot) or lists of
    numbers. So do cameras, `{"cameras": [["split/video_0", [yaw, pitch]], …]}`; see training.data.annotations.

    Attributes:
        name: Name of the folder or zip.
        resolution, nframes, frame_stride, mirror: As given.
        source_stride: The frame stride, counted before the dataset tool left any frames out.
        c_dim: Length of a label, 0 without labels.
        numeric_labels: Labels are lists of numbers, not classes.
        item_c_dim: Length of an item's c: the label and, if they are used, the camera's angles.
        num_videos: Videos with at least one clip in use.
        num_short_videos: Videos left out because they are shorter than a clip.
        notes: Messages for the user about entries in dataset.json and manifest.json without a video, about images and
            zip entries outside of videos, about frames that are there twice, and about frames that are smaller than
            the resolution.
        num_clips: Clips in use, not counting mirrored ones.
    """

    def __init__(
        self,
        *,
        path: str | os.PathLike,
        resolution: int,
        nframes: int = 16,
        frame_stride: int = 1,  # keep every n-th frame of a video, counted before the dataset tool left any out
        mirror: bool = False,  # add every clip flipped left to right
        use_labels: bool = False,
        use_cameras: bool = False,  # append the angles of a video's camera to its label
        subset: int | None = None,  # largest number of clips, chosen by the seed; None for all
        seed: int = 0,
    ):
        """List the frames without decoding any.

        Raises:
            UserError: There are no frames, or all videos are too short, or the labels or cameras do not fit the videos,
                or an argument is out of range.
        """
        check_counts(resolution=resolution, nframes=nframes, frame_stride=frame_stride)
        if subset is not None:
            check_counts(subset=subset)
        self.resolution = resolution
        self.nframes = nframes
        self.frame_stride = frame_stride
        self.mirror = mirror
        self._seed = check_seed(seed)

        self._store = FrameStore(path)
        self._store.require_videos()
        self.name = os.path.basename(os.path.abspath(path))
        if self._store.is_file:
            self.name = os.path.splitext(self.name)[0]
        self._videos = self._store.videos
        manifest = store_manifest(self._store)
        self._step = store_stride(self._store, manifest, frame_stride)
        self.source_stride = self._step * stored_stride(manifest)
        lengths = -(-np.array([len(video) for video in self._videos]) // self._step)
        counts = lengths // nframes
        self.num_short_videos = int((counts == 0).sum())
        if not counts.any():
            longest = lengths.max()
            kept = f" (keeping one frame in {self._step})" if self._step > 1 else ""
            raise UserError(
                f"All videos in '{path}' are shorter than nframes={nframes}: the longest has {longest} "
                f"frames{kept}. Use longer videos or a smaller nframes."
            )
        self._clip_video = np.repeat(np.arange(len(counts)), counts)  # [clips]
        before = np.repeat(np.cumsum(counts) - counts, counts)
        self._clip_start = (np.arange(len(before)) - before) * nframes  # [clips]
        if subset is not None and subset < len(self._clip_video):
            order = np.argsort(random_block(self._seed, KEY_SUBSET).random(len(self._clip_video)), kind="stable")
            chosen = np.sort(order[:subset])
            self._clip_video, self._clip_start = self._clip_video[chosen], self._clip_start[chosen]
        self.num_clips = len(self._clip_video)
        self.num_videos = len(np.unique(self._clip_video))
        self._labels, self.c_dim = read_labels(self._store, self._videos) if use_labels else (None, 0)
        self._cameras = read_cameras(self._store, self._videos) if use_cameras else None
        self.item_c_dim = self.c_dim + (2 if use_cameras else 0)
        self.numeric_labels = self._labels is not None and self._labels.ndim > 1
        kinds = [kind for kind, used in (("labels", use_labels), ("cameras", use_cameras)) if used]
        self.notes = notes_on_unmatched(self._store, self._videos, kinds)
        if self._labels is not None:
            unused = describe_unused_classes(self._labels[self._clip_video], self.c_dim)
            self.notes += [] if unused is None else [unused]
        self.notes += frame_notes(self._store, manifest, resolution)

    def __len__(self) -> int:
        return self.num_clips * (2 if self.mirror else 1)

    def __getitem__(self, key: int | tuple[int, int]) -> VideoPair:
        """The pair of a clip.

        Args:
            key: (epoch, index), or an index alone for epoch 0. The frames of a clip differ from epoch to epoch: a
                DataLoader with a sampler of its own shows the same ones again and again, one with `InfiniteSampler`
                of training.data.sampler does not.
        """
        frames = np.empty([2, 3, self.resolution, self.resolution], dtype=np.uint8)
        dt, c = self.read_into(frames, key if isinstance(key, tuple) else (0, key))
        return VideoPair(torch.from_numpy(frames), torch.tensor(dt), torch.from_numpy(c))

    def read_into(self, frames: np.ndarray, key: tuple[int, int]) -> tuple[np.float32, np.ndarray]:
        """Decode an item into given memory, which saves collating a batch.

        Args:
            frames: uint8 [2, 3, resolution, resolution]; its content is undefined if the item cannot be read.
            key: (epoch, index).

        Returns:
            Δt and c of the item: float32 [] and [item_c_dim].

        Raises:
            UserError: A frame cannot be read.
        """
        epoch, index = key
        clip, flip = self._locate(index)
        f0, f1 = self.pair_indices(epoch=epoch, index=index)
        self._frame(clip, f0, flip, out=frames[0])
        if f1 == f0:
            frames[1] = frames[0]
        else:
            self._frame(clip, f1, flip, out=frames[1])
        c = self.label(index)
        if self._cameras is not None:
            angles = self._cameras[self._clip_video[clip]]
            c = np.concatenate([c, mirrored(angles) if flip else angles])
        return np.float32(pair_distance(f0, f1, self.nframes)), c

    def pair_indices(self, *, epoch: int, index: int) -> tuple[int, int]:
        """The two frames f0 ≤ f1 of clip `index` in an epoch."""
        return sample_pair(random_block(self._seed, KEY_PAIRS, epoch=epoch, index=index), self.nframes)

    def clip(self, index: int) -> torch.Tensor:
        """All frames of a clip, uint8 [nframes, 3, H, W]."""
        clip, flip = self._locate(index)
        frames = np.empty([self.nframes, 3, self.resolution, self.resolution], dtype=np.uint8)
        for frame in range(self.nframes):
            self._frame(clip, frame, flip, out=frames[frame])
        return torch.from_numpy(frames)

    def label(self, index: int) -> np.ndarray:
        """The label of a clip's video, float32 [c_dim]."""
        clip, _ = self._locate(index)
        if self._labels is None:
            return np.zeros(0, dtype=np.float32)
        return label_vector(self._labels[self._clip_video[clip]], self.c_dim)

    def cameras(self) -> np.ndarray | None:
        """Yaw and pitch of the videos of all clips, float32 [num_clips, 2] in radians; None if they are not used."""
        return None if self._cameras is None else self._cameras[self._clip_video]

    def example_frames(self, count: int, *, seed: int) -> torch.Tensor:
        """First frames of randomly chosen items, for previews: uint8 [count, 3, H, W]. Unreadable ones are red."""
        frames = torch.zeros([count, 3, self.resolution, self.resolution], dtype=torch.uint8)
        for frame, index in zip(frames, self._examples(count, seed)):
            try:
                frame.copy_(self[0, index].frames[0])
            except UserError:  # such items are replaced and counted in training
                frame[0] = 255
        return frames

    def example_labels(self, count: int, *, seed: int) -> torch.Tensor:
        """The labels of the same items: float32 [count, c_dim]."""
        return torch.from_numpy(np.stack([self.label(index) for index in self._examples(count, seed)]))

    def _examples(self, count: int, seed: int) -> list[int]:
        return np.random.RandomState(check_seed(seed) % 2**32).randint(len(self), size=count).tolist()

    def describe(self) -> dict[str, Any]:
        """Description of the dataset in plain types, without paths, for logs and checkpoints."""
        counts = {name: getattr(self, name) for name in ("num_videos", "num_short_videos", "num_clips")}
        return {**describe_clips(self), **counts, "num_frames": self.num_clips * self.nframes}

    def fingerprint(self) -> dict[str, str]:
        """Hashes by which a continued run detects other data with the same counts.

        `files`: names and sizes, see `FrameStore.fingerprint`; `labels`: the labels and cameras in use, if any.
        """
        used = [values[self._clip_video] for values in (self._labels, self._cameras) if values is not None]
        labels = hashlib.sha256(b"".join(np.ascontiguousarray(values).tobytes() for values in used)).hexdigest()[:32]
        return {"files": self._store.fingerprint(), **({"labels": labels} if used else {})}

    def _locate(self, index: int) -> tuple[int, bool]:
        """Clip number, and True if the clip is mirrored."""
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of a dataset of {len(self)}")
        return index % self.num_clips, index >= self.num_clips

    def _frame(self, clip: int, frame: int, flip: bool, *, out: np.ndarray) -> None:
        video = self._videos[self._clip_video[clip]]
        image = self._store.read_frame(video, (int(self._clip_start[clip]) + frame) * self._step)
        fit_square(image, self.resolution, out=out[:, :, ::-1] if flip else out)
