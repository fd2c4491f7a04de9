"""Real training items: two frames of a short clip and the time between them.

A video is cut into consecutive clips of `nframes` frames. An item of clip i in epoch e is the pair of frames
⌊n·Beta(2,1)⌋ and ⌊n·Beta(1,2)⌋ (clamped to n−1), sorted, with Δt = (f1 − f0)/(n − 1): two draws from opposite ends, so
that long intervals are as common as the discriminator needs them (Bahmani et al., "3D-Aware Video Generation", 2023;
the sampling is that of DIGAN, Yu et al., 2022). Only these two frames are decoded.

The draws are a function of (seed, epoch, index) alone: no state, so any number of workers gives the same items.
"""

import json
import math
import os
import posixpath
from typing import Any, NamedTuple

import numpy as np
import torch

from dnnlib import UserError
from training.frame_store import FrameStore, Video, fit_square
from training.manifest import MANIFEST, parse_manifest, remaining_stride

__all__ = ["VideoPair", "VideoPairDataset"]

# Words of the random key beside the seed, so that no two uses of one seed share their numbers.
KEY_PAIRS = 1
KEY_SUBSET = 2

MAX_NUMBER = float(np.finfo(np.float32).max)
MAX_CLASSES = 65536  # a label is a vector of that length; larger numbers are identifiers, not classes


class VideoPair(NamedTuple):
    """One item: frames uint8 [2, 3, H, W]; dt float32 [], 0…1; c float32 [c_dim]."""

    frames: torch.Tensor
    dt: torch.Tensor
    c: torch.Tensor


class VideoPairDataset(torch.utils.data.Dataset):
    """Pairs of frames from `root/…/video/frame.{png,jpg,jpeg,webp,bmp}` or a zip with that layout.

    Videos and frames are in natural order of their names (the plain order where numbers are zero-padded). Frames are
    centre-cropped to a square and resized with anti-aliasing. Labels come from `dataset.json` in the root,
    `{"labels": [["split/video_0", label], …]}`, one per video folder: class numbers (become one-hot) or lists of
    numbers.

    Attributes:
        name: Of the folder or zip.
        resolution, nframes, frame_stride, mirror: As given.
        c_dim: Length of a label, 0 without labels.
        num_videos: Videos that have at least one clip in use.
        num_short_videos: Videos left out because they are shorter than a clip.
        num_clips: Clips in use, not counting mirrored ones.
    """

    def __init__(
        self,
        *,
        path: str | os.PathLike,
        resolution: int,
        nframes: int = 16,
        frame_stride: int = 1,  # keep every so-many-th frame of a video, counted before the dataset tool left any out
        mirror: bool = False,  # add every clip flipped left to right
        use_labels: bool = False,
        subset: int | None = None,  # at most so many clips, chosen by the seed
        seed: int = 0,
    ):
        """List the frames; nothing is decoded yet.

        Raises:
            UserError: There are no frames, or all videos are too short, or the labels do not fit the videos, or an
                argument is out of range.
        """
        for key, value in dict(
            resolution=resolution, nframes=nframes, frame_stride=frame_stride, subset=subset
        ).items():
            if value is not None and value < 1:
                raise UserError(f"{key} must be at least 1, got {value}.")
        self.resolution = resolution
        self.nframes = nframes
        self.frame_stride = frame_stride
        self.mirror = mirror
        self._seed = seed % 2**64

        self._store = FrameStore(path)
        self._store.require_videos()
        self.name = os.path.basename(os.path.abspath(path))
        if self._store.is_zip:
            self.name = os.path.splitext(self.name)[0]
        self._videos = self._store.videos
        manifest = parse_manifest(self._store.read_bytes(MANIFEST))
        self._step = remaining_stride(manifest, frame_stride, path=self._store.path)
        lengths = -(-np.array([len(video) for video in self._videos]) // self._step)
        counts = lengths // nframes
        self.num_short_videos = int((counts == 0).sum())
        if not counts.any():
            longest = lengths.max()
            kept = f" (keeping every {self._step}. frame)" if self._step > 1 else ""
            raise UserError(
                f"All videos in '{path}' are shorter than nframes={nframes}: the longest has {longest} "
                f"frames{kept}. Use longer videos or a smaller nframes."
            )
        self._clip_video = np.repeat(np.arange(len(counts)), counts)  # [clips]
        before = np.repeat(np.cumsum(counts) - counts, counts)
        self._clip_start = (np.arange(len(before)) - before) * nframes  # [clips]
        if subset is not None and subset < len(self._clip_video):
            order = np.argsort(self._generator(KEY_SUBSET).random(len(self._clip_video)), kind="stable")
            chosen = np.sort(order[:subset])
            self._clip_video, self._clip_start = self._clip_video[chosen], self._clip_start[chosen]
        self.num_clips = len(self._clip_video)
        self.num_videos = len(np.unique(self._clip_video))
        self._labels, self.c_dim = _read_labels(self._store, self._videos) if use_labels else (None, 0)

    def __len__(self) -> int:
        return self.num_clips * (2 if self.mirror else 1)

    def __getitem__(self, key: int | tuple[int, int]) -> VideoPair:
        """The pair of a clip.

        Args:
            key: (epoch, index), or an index alone for epoch 0. The frames of a clip differ from epoch to epoch.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        clip, flip = self._locate(index)
        f0, f1 = self.pair_indices(epoch=epoch, index=index)
        frames = np.empty([2, 3, self.resolution, self.resolution], dtype=np.uint8)
        self._frame(clip, f0, flip, out=frames[0])
        if f1 == f0:
            frames[1] = frames[0]
        else:
            self._frame(clip, f1, flip, out=frames[1])
        dt = np.float32((f1 - f0) / max(self.nframes - 1, 1))
        return VideoPair(torch.from_numpy(frames), torch.tensor(dt), torch.from_numpy(self.label(index)))

    def pair_indices(self, *, epoch: int, index: int) -> tuple[int, int]:
        """Which two frames of clip `index` the item of that epoch shows, f0 ≤ f1."""
        late, early = self._generator(KEY_PAIRS, epoch, index).random(2)
        # Beta(2,1) has the distribution function x², Beta(1,2) has 1 − (1−x)²; these are their inverses.
        drawn = (math.sqrt(late), 1 - math.sqrt(1 - early))
        f0, f1 = sorted(min(int(self.nframes * x), self.nframes - 1) for x in drawn)
        return f0, f1

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
        label = self._labels[self._clip_video[clip]]
        if self._labels.ndim == 2:
            return label.copy()
        one_hot = np.zeros(self.c_dim, dtype=np.float32)
        one_hot[label] = 1
        return one_hot

    def describe(self) -> dict[str, Any]:
        """What this dataset is, in plain types, for logs and checkpoints; holds no paths."""
        return {
            "name": self.name,
            "resolution": self.resolution,
            "nframes": self.nframes,
            "frame_stride": self.frame_stride,
            "mirror": self.mirror,
            "c_dim": self.c_dim,
            "num_videos": self.num_videos,
            "num_short_videos": self.num_short_videos,
            "num_clips": self.num_clips,
            "num_frames": self.num_clips * self.nframes,
        }

    def _locate(self, index: int) -> tuple[int, bool]:
        """Clip number and whether it is mirrored."""
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of a dataset of {len(self)}")
        return index % self.num_clips, index >= self.num_clips

    def _frame(self, clip: int, frame: int, flip: bool, *, out: np.ndarray) -> None:
        video = self._videos[self._clip_video[clip]]
        image = self._store.read_frame(video, (int(self._clip_start[clip]) + frame) * self._step)
        fit_square(image, self.resolution, out=out[:, :, ::-1] if flip else out)

    def _generator(self, use: int, epoch: int = 0, index: int = 0) -> np.random.Generator:
        # Philox is made for this: a block of numbers per counter. Drawing advances the lowest word of the counter.
        return np.random.Generator(np.random.Philox(key=[self._seed, use], counter=[0, index, epoch, 0]))


# ----------------------------------------------------------------------------------------------------------------------
# Labels


def _read_labels(store: FrameStore, videos: list[Video]) -> tuple[np.ndarray, int]:
    """Labels in the order of the videos: int64 [videos] classes or float32 [videos, c_dim]; and c_dim."""
    file = posixpath.join(store.path, "dataset.json")
    form = 'it must be {"labels": [["path/of/video", label], …]}'
    data = store.read_bytes("dataset.json")
    if data is None:
        raise UserError(f"Labels are wanted but there is no '{file}'; {form}. Or train without labels.")
    try:
        entries = json.loads(data)["labels"]
        if not isinstance(entries, list):
            raise TypeError("no list of labels")
        pairs = [(posixpath.normpath(str(path).replace("\\", "/")), label) for path, label in entries]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"Cannot use '{file}' ({type(error).__name__}: {error}); {form}.") from error
    labels = {}
    for path, label in pairs:
        if labels.setdefault(path, label) != label:
            raise UserError(f"'{file}' gives the video '{path}' two different labels; remove one.")
    missing = [video.path for video in videos if video.path not in labels]
    if missing:
        raise UserError(
            f"'{file}' has no label for {len(missing)} of {len(videos)} videos, e.g. '{missing[0]}'; add them "
            "(paths relative to the folder of dataset.json) or train without labels."
        )
    return _to_array(labels, videos, file)


def _to_array(labels: dict[str, Any], videos: list[Video], file: str) -> tuple[np.ndarray, int]:
    # The size of a label comes from the whole file, so that it is the same for every part of the videos.
    if all(type(label) is int for label in labels.values()):  # type(), because True is an instance of int
        classes = min(labels.values()), max(labels.values())
        if classes[0] < 0 or classes[1] >= MAX_CLASSES:
            raise UserError(
                f"The classes in '{file}' run from {classes[0]} to {classes[1]}: number them 0, 1, 2, … "
                f"(at most {MAX_CLASSES})."
            )
        return np.array([labels[video.path] for video in videos], dtype=np.int64), classes[1] + 1
    lengths = {len(label) if isinstance(label, list) else 0 for label in labels.values()}
    if 0 in lengths or len(lengths) > 1:
        raise UserError(f"The labels in '{file}' must be all whole numbers or all lists of numbers of one length.")
    numbers = [x for label in labels.values() for x in label]
    # A string that looks like a number is a mistake in the file too.
    if not all(type(x) in (int, float) and abs(x) < MAX_NUMBER for x in numbers):
        raise UserError(f"The labels in '{file}' hold something that is not a finite number.")
    return np.array([labels[video.path] for video in videos], dtype=np.float32), lengths.pop()
