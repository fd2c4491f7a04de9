"""Stored videos as one side of an evaluation: a dataset, or generated videos as folders of frames or video files.

The evaluated clips depend on the lengths of the videos only: the sufficiently long videos, in a seeded random order,
contribute one clip each at a random offset; if these are too few, each contributes another one at another offset. So no
clip is used twice, and with at least as many videos as clips every clip is from a different video.
"""

import bisect
import hashlib
import os
import posixpath
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image

from dnnlib import UserError
from dnnlib.downloads import sha256_of
from renderer.depth_files import SCALE_FILE
from renderer.outputs import OUTPUTS, output_stem
from training.data.annotations import (
    WITHOUT,
    frame_notes,
    label_vector,
    read_labels,
    store_manifest,
    store_stride,
)
from training.data.dataset import check_counts, random_block
from training.data.frame_store import FrameStore, Video
from training.data.images import fit_square, image_size
from training.data.video_decoder import Remarks, decode_video, describe_remarks
from training.data.video_probe import BrokenVideo
from training.inference.layouts import shows_several

__all__ = ["StoredLabels", "StoredVideos", "choose_windows"]

SEED = 42
KEY_ORDER, KEY_OFFSETS, KEY_IMAGES, KEY_LABELS = 11, 12, 13, 14  # parts of the random key; see training.data.dataset
UNKNOWN_SIZE = 256  # pixels, where no frame can be read; an error of `read` where it is needed
LEAST_SIZE = 8  # pixels; networks of features have no output for less
LOOKED_AT = 64  # videos of a dataset whose first frame is opened for its size
SETTLED = 2.0  # seconds; a file changed more recently may change again with the same time stamps


def choose_windows(lengths: Sequence[int], *, window: int, count: int, seed: int = SEED) -> list[tuple[int, int]]:
    """(video, first frame) of at most `count` distinct windows of `window` frames; see the top of this file."""
    long_enough = [video for video, length in enumerate(lengths) if length >= window]
    # Each of these gives a clip in the first turn: no others are reached.
    order = [long_enough[i] for i in _permutation(len(long_enough), seed, KEY_ORDER)[:count]]
    offsets = {v: _permutation(lengths[v] - window + 1, seed, KEY_OFFSETS, v) for v in order}
    chosen: list[tuple[int, int]] = []
    for turn in range(max((len(o) for o in offsets.values()), default=0)):
        chosen += [(video, int(offsets[video][turn])) for video in order if turn < len(offsets[video])]
        if len(chosen) >= count:
            break
    return chosen[:count]


def _permutation(n: int, seed: int, use: int, video: int = 0) -> np.ndarray:
    return np.argsort(random_block(seed, use, index=video).random(n), kind="stable")


class StoredVideos:
    """Folders of frames in a folder or zip or, where there are none, video files.

    Args:
        path: The folder or zip.
        resolution: Frames are cropped to the central square and resized to this width, as in training; None: the width
            of the smallest video, so that none is enlarged.
        frame_stride: Keep every n-th frame of a video; the stride that dataset_tool applied already counts.
        generated: True for videos of generate.py: its other outputs beside the images, such as depth, are left out, and
            videos that are not square, such as stereo pairs, are noted, as are grids and sheets. A dataset of
            dataset_tool has none.

    Attributes:
        resolution: Width of the frames in pixels.
        prepared: True if the dataset tool wrote them, with the frames that training keeps.
        notes: Remarks for the user.
        origin: Name and frame stride, for the rows of metrics that use these as the real videos.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        resolution: int | None,
        frame_stride: int = 1,
        generated: bool = False,
    ):
        """List the videos. Video files are decoded once to count their frames.

        Raises:
            UserError: There are no videos, or they cannot be read, or an argument is out of range, or no resolution is
                given and a video has less than 8 pixels.
        """
        check_counts(frame_stride=frame_stride, **({} if resolution is None else {"resolution": resolution}))
        self._store = FrameStore(path)
        self.origin = {"real_name": os.path.basename(os.path.abspath(path)), "frame_stride": frame_stride}
        self._store.refuse_runs()
        manifest = store_manifest(self._store)
        self.prepared = manifest is not None
        self._stride = store_stride(self._store, manifest, frame_stride)
        self._videos = self._store.videos
        self._movies = [] if self._videos or self._store.is_file else self._store.movies
        self.notes: list[str] = []
        rendered = generated and manifest is None
        if rendered:
            self._leave_out_maps()
        self._fingerprints: dict[str, str] = {}  # hash of the content, by the files' times and sizes; see fingerprint
        if self._movies:
            counts = [self._count_frames(movie) for movie in self._movies]
            remarks = describe_remarks(remark for _, remark, _ in counts)
            left_out = (self._store.doubled_movies(), self._store.dangling)
            remarks += [f"{note}." for note in left_out if note is not None]
            self.notes += [f"'{self._store.path}': {line}" for line in remarks]
            lengths = [frames for frames, _, _ in counts]
            sizes = {movie: size for movie, (_, _, size) in zip(self._movies, counts)}
        else:
            self._store.require_videos()
            lengths = [len(video) for video in self._videos]
            # The first frame of every video is opened only where it is needed: datasets have many.
            step = 1 if rendered or resolution is None else -(-len(self._videos) // LOOKED_AT)
            sizes = {video.path: self._first_size(video) for video in self._videos[::step]}
        widths = {name: min(size) for name, size in sizes.items() if min(size) > 0}
        self.resolution = resolution or self._common_width(widths)
        if not self._movies:
            self.notes += frame_notes(self._store, manifest, self.resolution)
        if manifest is None:
            self._note_enlarged(widths, total=len(lengths))
        if rendered:
            self._note_shapes(sizes)
        self._lengths = [-(-length // self._stride) for length in lengths]
        if not generated and manifest is None and (maps := self._maps()):
            self.notes.append(
                f"'{self._store.path}': {len(maps)} of {len(lengths)} videos, such as {maps[0]}, are measured as "
                "images but seem to be outputs of generate.py other than rgb: move them elsewhere, or in Python give "
                "generated=True."
            )

    def clips(self, *, count: int, frames: int, subsample: int = 1) -> "StoredClips":
        """At most `count` clips: every `subsample`-th of `frames` consecutive frames.

        Raises:
            UserError: All videos are shorter.
        """
        windows = choose_windows(self._lengths, window=frames, count=count)
        if not windows:
            raise UserError(
                f"All videos in '{self._store.path}' are shorter than {frames} frames: the longest has "
                f"{max(self._lengths)}{f', keeping one frame in {self._stride}' if self._stride > 1 else ''}. "
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
        raise UserError(
            "Views of one time step can only be rendered by a generator: give a snapshot instead of videos."
        )

    def pairs(self, *, count: int) -> None:
        raise UserError("Depth can only be rendered by a generator: give a snapshot instead of videos.")

    # ------------------------------------------------------------------------------------------------------------------

    def labels(self, *, otherwise: str = WITHOUT["labels"]) -> "StoredLabels":
        """The labels of the videos.

        Args:
            otherwise: What to do without labels, for the error.

        Raises:
            UserError: There are no labels, or they do not fit the videos; or these are video files, which have none.
        """
        self._store.require_videos()
        classes, c_dim = read_labels(self._store, self._videos, otherwise=otherwise)
        return StoredLabels([label_vector(label, c_dim) for label in classes], self._lengths)

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
            images = (self._store.read_frame(self._videos[video], frame * self._stride) for frame in frames)
            found = [fit_square(image, self.resolution) for image in images]
        return np.stack(found)

    def _stems(self) -> list[str]:
        """The names of the videos without suffixes."""
        return [video.path for video in self._videos] or [os.path.splitext(movie)[0] for movie in self._movies]

    def _maps(self) -> list[str]:
        """The names of outputs of generate.py that are not images, beside others or with a scale of depths."""
        there = set(stems := self._stems())

        def is_map(stem: str) -> bool:
            base, _, name = stem.rpartition("_")
            others = {output_stem(base, other) for other in OUTPUTS if other != name}
            if name in OUTPUTS and name != "rgb" and not there.isdisjoint(others):
                return True
            return not self._store.is_file and os.path.exists(os.path.join(self._store.path, stem, SCALE_FILE))

        return [stem for stem in stems if is_map(stem)]

    def _leave_out_maps(self) -> None:
        """Leave out the outputs of generate.py that are not images, with a note.

        Raises:
            UserError: There are no images.
        """
        stems = self._stems()
        left_out = self._maps()
        if not left_out:
            [ending, *others] = {stem.rpartition("_")[2] for stem in stems} or {""}
            if not others and ending in OUTPUTS and ending != "rgb":
                self.notes.append(
                    f"'{self._store.path}': the names of all videos end in _{ending}; if they are that output of "
                    "generate.py, they are no images, and distances to real videos mean nothing."
                )
            return
        if len(left_out) == len(stems):
            raise UserError(
                f"'{self._store.path}' holds outputs of generate.py other than rgb ({left_out[0]}) but no images: "
                "render them with rgb among the --outputs."
            )
        maps = set(left_out)
        self._videos = [video for video in self._videos if video.path not in maps]
        self._movies = [movie for movie in self._movies if os.path.splitext(movie)[0] not in maps]
        self.notes.append(
            f"'{self._store.path}': {len(left_out)} of {len(stems)} videos, such as {left_out[0]}, are left out: they "
            "are outputs of generate.py other than rgb."
        )

    def _common_width(self, widths: Mapping[str, int]) -> int:
        """The width of the smallest video, with a note if others are larger.

        Args:
            widths: Width in pixels of the central square of each video by its name.

        Raises:
            UserError: It is too small to be measured.
        """
        if not widths:
            return UNKNOWN_SIZE
        name = min(widths, key=widths.__getitem__)
        least, most = widths[name], max(widths.values())
        if least < LEAST_SIZE:
            raise UserError(
                f"'{self._store.path}': frames of {name} have {least}×{least} pixels, too few to be measured: remove "
                f"it, or choose a --resolution (in Python resolution=) of at least {LEAST_SIZE}, which enlarges it."
            )
        if least < most:
            self.notes.append(
                f"'{self._store.path}': videos of {least} to {most} pixels are all measured at {least}×{least}, the "
                f"size of {name}: remove the small ones, or choose another --resolution (in Python resolution=)."
            )
        return least

    def _note_enlarged(self, widths: Mapping[str, int], *, total: int) -> None:
        """Note videos that are smaller than the resolution.

        Args:
            widths: See `_common_width`; of some of the videos.
            total: Number of all videos.
        """
        small = {name: width for name, width in widths.items() if width < self.resolution}
        if not small:
            return
        name = min(small, key=small.__getitem__)
        least, size = small[name], self.resolution
        looked_at = "" if len(widths) == total else " looked at"
        some = f" {len(small)} of {len(widths)} videos{looked_at} are smaller, such as {name}."
        self.notes.append(
            f"'{self._store.path}': frames of {least}×{least} pixels are enlarged to {size}×{size}, which changes "
            f"values: measure at a resolution of {least}, or use larger videos.{'' if len(small) == total else some}"
        )

    def _note_shapes(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        """Note videos that are not square, since only their middle is measured, and square ones that show several.

        A generator's frames are square: others are mostly stereo pairs, grids and comparisons beside its videos.

        Args:
            sizes: (width, height) in pixels of each video by its name.
        """
        others = [(name, width, height) for name, (width, height) in sizes.items() if width != height]
        if others:
            name, width, height = others[0]
            self.notes.append(
                f"'{self._store.path}': {len(others)} of {len(sizes)} videos, such as {name} ({width}×{height} "
                "pixels), are not square: only their middle is measured; stereo pairs and grids do not belong here."
            )
        several = [name for name, (w, h) in sizes.items() if w == h and shows_several(os.path.basename(name))]
        if several:
            self.notes.append(
                f"'{self._store.path}': {len(several)} of {len(sizes)} videos, such as {several[0]}, are named like "
                "grids and sheets of generate.py: several videos in one, measured as one; they do not belong here."
            )

    def _first_size(self, video: Video) -> tuple[int, int]:
        """(width, height) of the first frame; (0, 0) if it is unreadable, an error of `read` where it is needed."""
        try:
            return image_size(self._store.frame_bytes(video, 0))
        except Exception:  # decoders raise any exception for damaged data
            return 0, 0

    def _count_frames(self, movie: str) -> tuple[int, Remarks, tuple[int, int]]:
        """Number of frames, remarks (see decode_video), and (width, height)."""
        images, count, size = self._decode(movie), 0, (0, 0)
        while True:
            try:
                size = next(images).size
            except StopIteration as end:
                return count, end.value, size
            count += 1

    def _decode(self, movie: str) -> Generator[Image.Image, None, Remarks]:
        try:
            return (yield from decode_video(os.path.join(self._store.path, movie)))
        except BrokenVideo as error:
            raise UserError(f"{error} {error.advice}.") from error

    def fingerprint(self, used: Iterable[tuple[int, Sequence[int]]]) -> str:
        """Hash of the content: names and lengths of all videos, and every byte of the files that are used.

        Names are relative to the folder that all videos share, so it is the same for a folder and a zip that holds it.
        Files are hashed in full: no part of one vouches for the rest (BMP has no checksum, JPEG and WebP need not
        change in length), and modification times can be preserved. Files are read again only if their sizes or time
        stamps have changed.
        """
        by_video: dict[int, set[int]] = {}
        for video, frames in used:
            by_video.setdefault(video, set()).update(frame * self._stride for frame in frames)
        chosen = sorted(by_video.items())
        files = [self._file(video, frame) for video, frames in chosen for frame in sorted(frames)]
        stamp, newest = hashlib.sha256(repr(chosen).encode()), 0
        try:
            for file in dict.fromkeys(files):
                status = os.stat(file)
                newest = max(newest, status.st_mtime_ns, status.st_ctime_ns)
                state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                stamp.update(repr((file, state)).encode())
            if stamp.hexdigest() not in self._fingerprints or newest > (time.time() - SETTLED) * 1e9:
                self._fingerprints[stamp.hexdigest()] = self._hash(chosen)
        except OSError as error:
            raise UserError(
                f"Cannot read '{error.filename or self._store.path}': {error.strerror or error}."
            ) from error
        return self._fingerprints[stamp.hexdigest()]

    def _hash(self, chosen: list[tuple[int, set[int]]]) -> str:
        paths = _below_shared_folder([video.path for video in self._videos] or self._movies)
        state = hashlib.sha256(repr([self._stride, self._lengths, paths]).encode())
        for video in self._videos:
            names = [self._store.frame_name(video, index) for index in range(len(video))]
            state.update(repr(names).encode())
        for video, frames in chosen:
            if self._movies:
                state.update(f"{video} {sha256_of(self._file(video, 0))}\n".encode())
                continue
            for frame in sorted(frames):
                digest = hashlib.sha256(self._store.frame_bytes(self._videos[video], frame)).hexdigest()
                state.update(f"{video} {frame} {digest}\n".encode())
        return state.hexdigest()

    def _file(self, video: int, frame: int) -> str:
        """The file that holds a frame; `frame` counts before the stride."""
        if self._store.is_file:
            return self._store.path
        if self._movies:
            return os.path.join(self._store.path, self._movies[video])
        entry = self._videos[video]
        return os.path.join(self._store.path, entry.path, self._store.frame_name(entry, frame))


def _below_shared_folder(paths: Sequence[str]) -> list[str]:
    """Paths with forward slashes, relative to the deepest folder that holds all of them."""
    shared = posixpath.commonpath([posixpath.dirname(path) for path in paths])
    return [posixpath.relpath(path, shared) if shared else path for path in paths]


class StoredLabels:
    """Labels for generated videos by their index, with the frequencies of the real samples that they are compared with.

    Frames get the label of a random real frame. Clips get the labels of the real clips, in their order (whose
    frequencies differ from those of frames, as long videos do not contribute more clips).

    Args:
        labels: Label of each video, float32 [c_dim].
        lengths: Frames of each video.
    """

    def __init__(self, labels: Sequence[np.ndarray], lengths: Sequence[int]):
        self._labels, self._lengths = labels, lengths
        self._ends = np.cumsum(lengths)

    def __call__(self, index: int) -> np.ndarray:
        number = np.random.SeedSequence([SEED, KEY_LABELS, index]).generate_state(1, np.uint64)[0]
        frame = int(number % np.uint64(self._ends[-1]))
        return self._labels[bisect.bisect_right(self._ends, frame)]

    def of_clips(self, *, count: int, frames: int) -> Callable[[int], np.ndarray]:
        """The labels of generated clips; the labels of frames if no real video is long enough for a clip."""
        windows = choose_windows(self._lengths, window=frames, count=count)
        if not windows:
            return self
        return lambda index: self._labels[windows[index % len(windows)][0]]


class StoredClips:
    """Clips of stored videos, as samples for metrics.

    Args:
        videos: The stored videos.
        chosen: (video, frames) of each clip.
        short: Number of videos that are too short for a clip.
    """

    def __init__(self, videos: StoredVideos, chosen: list[tuple[int, list[int]]], *, short: int):
        self._videos, self._chosen, self._short = videos, chosen, short

    def __len__(self) -> int:
        return len(self._chosen)

    def load(self, indices: Sequence[int]) -> torch.Tensor:
        """Clips uint8 [N, 3, T, H, W]."""
        wanted: dict[int, set[int]] = {}  # each video is read once: of a video file, all frames before are decoded
        for video, frames in (self._chosen[i] for i in indices):
            wanted.setdefault(video, set()).update(frames)
        found = {
            video: dict(zip(sorted(frames), self._videos.read(video, sorted(frames)), strict=True))
            for video, frames in wanted.items()
        }
        clips = np.stack(
            [[found[video][frame] for frame in frames] for video, frames in map(self._chosen.__getitem__, indices)]
        )
        return torch.from_numpy(clips).transpose(1, 2).contiguous()

    def key(self) -> str | None:
        """Hash of the content; None if a frame cannot be read, which `load` tells on all processes."""
        try:
            content = self._videos.fingerprint(self._chosen)
        except UserError:
            return None
        return hashlib.sha256(repr((content, self._videos.resolution, self._chosen)).encode()).hexdigest()

    def describe(self) -> dict:
        return {
            "from": "files",
            "resolution": self._videos.resolution,
            "num_videos": len({video for video, _ in self._chosen}),
            "num_short_videos": self._short,
        }
