"""Source videos of the dataset tool: video files, folders of frames, or a zip of either."""

import dataclasses
import functools
import hashlib
import itertools
import os
import re
from typing import Any

from dnnlib import UserError
from training.data.annotations import (
    KINDS,
    check_entries,
    describe_unmatched,
    list_entries,
    parse_annotations,
    source_stride,
)
from training.data.frame_store import FrameStore, Video
from training.data.names import ANNOTATIONS, join_path, listed_path
from training.data.video_probe import is_video_file

__all__ = ["Source", "SourceSet", "find_sources", "valid_unicode"]

UNSUITABLE = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')  # in file names of some operating system
NO_BYTES = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # surrogates that stand for no byte of a name, as JSON may hold
NAME_BYTES = 180  # file names are limited to 255 bytes, and a number and a suffix follow


def valid_unicode(text: str) -> str:
    """A file name as valid Unicode: bytes that are not UTF-8 become \\xNN, other lone surrogates \\uNNNN."""
    text = NO_BYTES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@dataclasses.dataclass(frozen=True)
class Source:
    """One source video.

    Attributes:
        name: Unique name for its folders.
        path: Path relative to the root, with forward slashes.
        video: Its frames if it is a folder of frames; None for an encoded video.
    """

    name: str
    path: str
    video: Video | None = None


@dataclasses.dataclass(frozen=True)
class SourceSet:
    """Source videos of one file, folder or zip.

    Attributes:
        root: The video file itself, or the folder or zip that the paths are relative to.
        sources: In natural order.
        entries: 'labels' and 'cameras' of dataset.json, if it exists, each by listed_path.
        store: The frames; None for a single file.
        stride: Stride of the frames in a dataset of this tool, which may have left some out.
        fps: Frames per second to which the videos are resampled; None for their own.
    """

    root: str
    sources: list[Source]
    entries: dict[str, dict[str, Any]]
    store: FrameStore | None
    stride: int = 1
    fps: float | None = None

    def file_of(self, source: Source) -> str:
        """Path of an encoded video that is a file of its own."""
        return self.root if self.store is None else os.path.join(self.root, source.path)

    def clip_name(self, source: Source, number: int) -> str:
        """Unique name for the folders of a clip."""
        name = f"{source.name}_{number:03d}"
        while name.casefold() in self._names:  # 'a' has a clip 0, and another video is called 'a_000'
            name += "-clip"
        return name

    @functools.cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(source.name.casefold() for source in self.sources)

    def stamp(self, source: Source) -> str:
        """Digest of a video's file sizes and times (mtime, ctime), which changes with the video, and of the rate."""
        if self.store is not None and self.store.is_file:
            files = [self.root]
        elif source.video is None:
            files = [self.file_of(source)]
        else:
            folder = os.path.join(self.root, source.video.path)
            files = [os.path.join(folder, self.store.frame_name(source.video, i)) for i in range(len(source.video))]
        digest = hashlib.sha256(b"" if self.fps is None else f"{self.fps} frames per second\0".encode())
        for file in files:
            try:
                status = os.stat(file)
                times = f"{status.st_mtime_ns}\0{status.st_ctime_ns}"
                digest.update(f"{valid_unicode(file)}\0{status.st_size}\0{times}\0".encode())
            except OSError:  # reading the file raises the error
                digest.update(b"?")
        return digest.hexdigest()[:32]


def find_sources(path: str, *, fps: float | None = None) -> SourceSet:
    """Find the source videos of a path.

    Args:
        path: A video file, or a folder or zip.
        fps: Frames per second to which the videos are resampled; None for their own.

    Raises:
        UserError: There are no videos, or a file of another kind; or a dataset.json that cannot be read, whose labels
            or cameras are all for something else, or with an invalid one; or frames of a dataset of this tool whose
            stride is unknown; or folders of frames, which have no time stamps, to be resampled.
    """
    names: set[str] = set()
    if is_video_file(path):
        file = os.path.basename(path)
        return SourceSet(
            root=path, sources=[Source(_unique(_stem(file), names), file)], entries={}, store=None, fps=fps
        )
    store = FrameStore(path)
    if not store.movies:
        store.require_videos()
    if fps is not None and len(store.videos):
        folder = valid_unicode(join_path(store.path, store.videos[0].path))
        raise UserError(
            f"--fps: '{folder}' is a folder of frames, whose frame rate is unknown: leave --fps out, or use "
            "--frame-stride, or give videos only."
        )
    sources = [Source(_unique(_stem(movie), names), movie) for movie in store.movies]
    sources += [Source(_unique(video.path, names), video.path, video) for video in store.videos]
    file = f"{path}/{ANNOTATIONS}"
    try:
        content = parse_annotations(store.root_file(ANNOTATIONS))
        there = [kind for kind in KINDS if content.get(kind) is not None]
        entries = {kind: list_entries(content[kind], kind, file=file) for kind in there}
    except UserError:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"Cannot use the labels in '{file}' ({error}): repair or remove it.") from error
    paths = {listed_path(source.path) for source in sources}
    for kind, by_path in entries.items():
        if by_path and paths.isdisjoint(by_path):
            raise UserError(
                f"Cannot use the {kind} in '{file}': {describe_unmatched(by_path, paths, kind)} The videos are called "
                f"e.g. '{valid_unicode(sources[0].path)}': repair or remove the file."
            )
        check_entries({name: entry for name, entry in by_path.items() if name in paths}, kind, file=file)
    return SourceSet(root=path, sources=sources, entries=entries, store=store, stride=source_stride(store), fps=fps)


def _stem(path: str) -> str:
    return os.path.splitext(path)[0]


def _unique(path: str, names: set[str]) -> str:
    """A unique name for the folders of a video, valid on every file system, including case-insensitive ones."""
    name = UNSUITABLE.sub("_", valid_unicode(path.replace("/", "-")))
    name = name.encode()[:NAME_BYTES].decode(errors="ignore")
    if not name or name.startswith((".", "-")):  # hidden, or taken for an option
        name = f"_{name[1:]}"
    candidate = name
    for number in itertools.count(2):
        if candidate.casefold() not in names:
            names.add(candidate.casefold())
            return candidate
        candidate = f"{name}-{number}"
