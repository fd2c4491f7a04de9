"""Videos on the disk as one side of an evaluation: a data set, or generated videos as folders of frames or as files.

Which clips are measured is a function of the videos' lengths alone: the videos that are long enough, in a random order,
give one clip each at a random offset; while that is not enough, each gives another one at another offset. So no clip
is taken twice, and with at least as many videos as clips every clip is from a video of its own. The order is seeded.
"""

import bisect
import hashlib
import os
import zipfile
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from dnnlib import UserError
from training.frame_store import FrameStore, fit_square
from training.manifest import MANIFEST, parse_manifest, remaining_stride
from training.video_reader import BrokenVideo, decode_video

__all__ = ["StoredVideos", "choose_windows"]

SEED = 42
KEY_ORDER, KEY_OFFSETS, KEY_IMAGES = 11, 12, 13  # words of the random key; see training.dataset
SAMPLED_BYTES = 256  # from the beginning, the middle and the end of a file


def choose_windows(lengths: Sequence[int], *, window: int, count: int, seed: int = SEED) -> list[tuple[int, int]]:
    """(video, first frame) of at most `count` different windows of so many frames; see the top of this file."""
    long_enough = [video for video, length in enumerate(lengths) if length >= window]
    order = [long_enough[i] for i in _permutation(len(long_enough), seed, KEY_ORDER)]
    offsets = {v: _permutation(lengths[v] - window + 1, seed, KEY_OFFSETS, v) for v in order}
    chosen: list[tuple[int, int]] = []
    for turn in range(max((len(o) for o in offsets.values()), default=0)):
        chosen += [(video, int(offsets[video][turn])) for video in order if turn < len(offsets[video])]
        if len(chosen) >= count:
            break
    return chosen[:count]


def _permutation(n: int, seed: int, use: int, video: int = 0) -> np.ndarray:
    generator = np.random.Generator(np.random.Philox(key=[seed, use], counter=[0, video, 0, 0]))
    return np.argsort(generator.random(n), kind="stable")


class StoredVideos:
    """Folders of frames below a folder or in a zip, or, where there are none, video files.

    Args:
        path: The folder or zip.
        resolution: Frames are cropped to the centre square and resized to it, as in training.
        frame_stride: Keep every so-many-th frame of a video; those that dataset_tool has left out already count.

    Attributes:
        resolution: Of the frames.
        num_videos: How many there are.
    """

    def __init__(self, path: str | os.PathLike, *, resolution: int, frame_stride: int = 1):
        """List the videos. Video files are decoded once to count their frames.

        Raises:
            UserError: There are none, or they cannot be read.
        """
        self.resolution = resolution
        self._store = FrameStore(path)
        manifest = parse_manifest(self._store.read_bytes(MANIFEST))
        self._stride = remaining_stride(manifest, frame_stride, path=self._store.path)
        self._movies = [] if self._store.videos or self._store.is_zip else self._store.movies
        if self._movies:
            self._lengths = [-(-sum(1 for _ in self._decode(movie)) // self._stride) for movie in self._movies]
        else:
            self._store.require_videos()
            self._lengths = [-(-len(video) // self._stride) for video in self._store.videos]
        self.num_videos = len(self._lengths)

    def clips(self, *, count: int, frames: int, subsample: int = 1) -> "StoredClips":
        """At most `count` clips: every `subsample`-th of `frames` consecutive frames.

        Raises:
            UserError: All videos are shorter.
        """
        windows = choose_windows(self._lengths, window=frames, count=count)
        if not windows:
            raise UserError(
                f"All videos in '{self._store.path}' are shorter than {frames} frames: the longest has "
                f"{max(self._lengths)}{f', keeping every {self._stride}.' if self._stride > 1 else ''}. "
                "Choose a metric of shorter clips, or use longer videos."
            )
        steps = range(0, frames, subsample)
        short = sum(length < frames for length in self._lengths)
        return StoredClips(self, [(v, [start + s for s in steps]) for v, start in windows], short=short)

    def images(self, *, count: int | None) -> "StoredClips":
        """At most `count` frames, chosen at random, as clips of one frame; None: all."""
        ends = np.cumsum(self._lengths)
        chosen = range(int(ends[-1]))
        if count is not None and count < len(chosen):
            chosen = np.sort(_permutation(len(chosen), SEED, KEY_IMAGES)[:count]).tolist()
        where = [(bisect.bisect_right(ends, i), i) for i in chosen]
        return StoredClips(self, [(v, [int(i - ends[v] + self._lengths[v])]) for v, i in where], short=0)

    def views(self, *, count: int, views: int) -> None:
        raise UserError("Views of one moment can be rendered by a generator only: give a snapshot instead of videos.")

    def pairs(self, *, count: int) -> None:
        raise UserError("Depth can be rendered by a generator only: give a snapshot instead of videos.")

    # ------------------------------------------------------------------------------------------------------------------

    def read(self, video: int, frames: Sequence[int]) -> np.ndarray:
        """Frames of a video in increasing order, uint8 [T, 3, H, W]."""
        if self._movies:
            wanted = {frame * self._stride for frame in frames}
            found = []
            for number, image in enumerate(self._decode(self._movies[video])):
                if number in wanted:
                    found.append(fit_square(image, self.resolution))
                if len(found) == len(frames):
                    break
        else:
            images = (self._store.read_frame(self._store.videos[video], frame * self._stride) for frame in frames)
            found = [fit_square(image, self.resolution) for image in images]
        return np.stack(found)

    def _decode(self, movie: str) -> Iterable:
        try:
            yield from decode_video(os.path.join(self._store.path, movie))
        except BrokenVideo as error:
            raise UserError(f"{error} Repair or remove it.") from error

    def fingerprint(self, used: Iterable[tuple[int, Sequence[int]]]) -> str:
        """What identifies the content: names and sizes of all files, and bytes of those that are used.

        In a zip the checksums that it holds. In a folder the beginning, middle and end of a file: image files end with
        or contain checksums of their content, or change in length with it.
        """
        state = hashlib.sha256(repr([self._stride, self._lengths]).encode())
        if self._store.is_zip:
            with zipfile.ZipFile(self._store.path) as archive:
                for info in archive.infolist():
                    state.update(repr((info.filename, info.file_size, info.CRC)).encode())
            return state.hexdigest()
        for video in range(self.num_videos):
            for name in [self._movies[video]] if self._movies else self._frame_names(video):
                state.update(repr((name, self._size(name))).encode())
        by_video: dict[int, set[int]] = {}
        for video, frames in used:
            by_video.setdefault(video, set()).update(frames)
        for video, frames in sorted(by_video.items()):
            names = [self._movies[video]] if self._movies else self._frame_names(video)[:: self._stride]
            for name in names if self._movies else [names[frame] for frame in sorted(frames)]:
                state.update(self._sampled_bytes(name))
        return state.hexdigest()

    def _frame_names(self, video: int) -> list[str]:
        """Paths of all frames of a video, relative to the root."""
        entry = self._store.videos[video]
        return [f"{entry.path}/{self._store.frame_name(entry, index)}" for index in range(len(entry))]

    def _size(self, name: str) -> int:
        try:
            return os.path.getsize(os.path.join(self._store.path, name))
        except OSError as error:
            raise UserError(f"Cannot read '{self._store.path}/{name}': {error.strerror}.") from error

    def _sampled_bytes(self, name: str) -> bytes:
        try:
            with open(os.path.join(self._store.path, name), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                parts = []
                for start in (0, (size - SAMPLED_BYTES) // 2, size - SAMPLED_BYTES):
                    file.seek(max(start, 0))
                    parts.append(file.read(SAMPLED_BYTES))
                return b"".join(parts)
        except OSError as error:
            raise UserError(f"Cannot read '{self._store.path}/{name}': {error.strerror}.") from error


class StoredClips:
    """Chosen frames of videos: samples for metrics.

    Args:
        videos: Where the frames are.
        chosen: (video, frames) of each clip.
        short: Number of videos that were too short to be chosen from.
    """

    def __init__(self, videos: StoredVideos, chosen: list[tuple[int, list[int]]], *, short: int):
        self._videos, self._chosen, self._short = videos, chosen, short

    def __len__(self) -> int:
        return len(self._chosen)

    def load(self, indices: Sequence[int]) -> torch.Tensor:
        """Clips uint8 [N, 3, T, H, W]."""
        clips = np.stack([self._videos.read(*self._chosen[i]) for i in indices])
        return torch.from_numpy(clips).transpose(1, 2).contiguous()

    def key(self) -> str:
        content = self._videos.fingerprint(self._chosen)
        return hashlib.sha256(repr((content, self._videos.resolution, self._chosen)).encode()).hexdigest()

    def describe(self) -> dict:
        return {
            "from": "files",
            "resolution": self._videos.resolution,
            "num_videos": len({video for video, _ in self._chosen}),
            "num_short_videos": self._short,
        }
