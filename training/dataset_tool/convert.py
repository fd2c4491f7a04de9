"""Conversion of videos to folders of square frames, on several cores at once.

Each video is converted by one worker; its decoder (ffmpeg) is a separate process.
"""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from PIL import Image

from dnnlib import UserError, link_or_copy, one_line
from dnnlib.processes import begin_worker, explain_start
from training.data.crops import Clip, Crop, CropPlan, UnfitBoxes
from training.data.images import cut_square
from training.data.names import join_path
from training.data.video_decoder import decode_video
from training.data.video_probe import BrokenVideo, probe_video
from training.dataset_tool.source_videos import Source, SourceSet, valid_unicode
from training.dataset_tool.staging import folder_size

__all__ = ["Cut", "IMAGE_FORMATS", "Conversion", "convert_video", "convert_videos", "source_frames"]


# ----------------------------------------------------------------------------------------------------------------------
# Writing the frames of a video into one or more folders.


# Options of Pillow's writers, by suffix. PNG: the default takes 2.5 times as long for files that are 5 % smaller. JPEG:
# without chroma subsampling, colours keep their resolution.
IMAGE_FORMATS = {"png": {"compress_level": 3}, "jpg": {"quality": 95, "subsampling": 0}}


@dataclasses.dataclass(frozen=True)
class Cut:
    """Cut of a video into pieces of `length` frames every `step` frames; one piece if there is no length."""

    length: int | None
    step: int | None
    shortest: int

    def pieces_of(self, frame: int) -> range:
        """Numbers of the pieces that hold a frame."""
        if self.length is None:
            return range(1)
        return range(max(0, -((self.length - 1 - frame) // self.step)), frame // self.step + 1)

    def span(self, piece: int, total: int) -> tuple[int, int]:
        """First frame of a piece and the one after its last, in a video of `total` frames."""
        if self.length is None:
            return 0, total
        start = piece * self.step
        return start, min(start + self.length, total)

    def wanted(self, piece: int, total: int) -> bool:
        """True for a piece that is long enough and shows more than the one before."""
        start, stop = self.span(piece, total)
        return stop - start >= self.shortest and (piece == 0 or self.span(piece - 1, total)[1] < total)


class PieceWriter:
    """The pieces of one video, or of one clip of it, in the folders base_0000, base_0001, …

    Args:
        cut: Lengths of the pieces.
        base: Path of the folders, without their number.
        suffix: Suffix of the files; see IMAGE_FORMATS.
        first: Number of the first frame in file names.
    """

    def __init__(self, cut: Cut, *, base: str, suffix: str, first: int = 0):
        self._cut, self._base, self._suffix, self._first = cut, base, suffix, first
        self.total = 0  # frames so far

    def add(self, frame: Image.Image) -> None:
        """Write the next frame, as it is, to all pieces that hold it."""
        first = None
        for piece in self._cut.pieces_of(self.total):
            folder = f"{self._base}_{piece:04d}"
            os.makedirs(folder, exist_ok=True)
            file = os.path.join(folder, f"{self._first + self.total:06d}.{self._suffix}")
            if first is None:
                frame.save(file, **IMAGE_FORMATS[self._suffix])
                first = file
            else:
                link_or_copy(first, file)
        self.total += 1

    def finish(self) -> list[tuple[str, int, int]]:
        """Remove unwanted pieces; returns name, first frame and end of the others, counted from the first frame."""
        kept = []
        for piece in range(self._cut.pieces_of(self.total - 1).stop if self.total else 0):
            folder = f"{self._base}_{piece:04d}"
            start, stop = self._cut.span(piece, self.total)
            if self._cut.wanted(piece, self.total):
                kept.append((os.path.basename(folder), start, stop))
            elif os.path.isdir(folder):
                shutil.rmtree(folder)
        return kept


# ----------------------------------------------------------------------------------------------------------------------


POLL = 0.25  # seconds between looks at the workers' progress
SUBMITTED = 4  # videos per worker: each look takes time for all of them


@dataclasses.dataclass(frozen=True)
class Conversion:
    """Conversion of a video: size, stride, cut and crop of its frames."""

    resolution: int
    stride: int  # keep every n-th frame
    max_frames: int | None  # after the stride
    cut: Cut
    crop: Crop
    suffix: str  # of the images; see training.dataset_tool.convert


class Stopped(Exception):
    """Another worker has failed: the conversion of this video is abandoned."""


def convert_video(
    source: Source,
    *,
    among: SourceSet,
    conversion: Conversion,
    folder: str,
    on_frame: Callable[[], None],
    threads: int | None = None,
) -> dict[str, Any]:
    """Write the pieces of a video to folders in `folder`.

    Args:
        source: The video.
        among: The set that it comes from.
        folder: An existing folder.
        on_frame: Called after each frame.
        threads: Threads of its decoder.

    Returns:
        The video's record: name, source, stamp, fps (before the stride), size (of its frames), crop (the smallest
        square: left, top, side), remarks (see decode_video), frames (after the stride), pieces (name and frames of
        each), cameras (yaw and pitch of each piece of clips, None without; else empty), bytes (of all).

    Raises:
        BrokenVideo: It cannot be decoded to its end, or does not suit the crop.
    """
    record = {"name": source.name, "source": valid_unicode(source.path), "stamp": among.stamp(source), "fps": None}
    record.update(size=None, crop=None, remarks={})
    parts = _parts(source, among, conversion, folder)
    stride, limit, total = conversion.stride, conversion.max_frames, 0
    in_clips = parts[0].clip is not None
    if in_clips:
        last = max(part.span.stop for part in parts)
        limit = min(last, limit or last)
    found = source_frames(  # once for all clips
        source, among=among, folder=folder, about=record, stride=stride, max_frames=limit, threads=threads
    )
    with contextlib.closing(found) as frames:
        for number, frame in enumerate(frames):
            record["size"] = record["size"] or list(frame.size)
            for part in parts:
                if number in part.span:
                    position = number * stride - part.first
                    square, roll = part.plan.square(position, frame.size), part.plan.roll(position)
                    crop = [round(float(x), 2) for x in square]
                    record["crop"] = min(record["crop"] or crop, crop, key=lambda found: found[2])
                    part.writer.add(cut_square(frame, square, conversion.resolution, roll=roll))
            total = number + 1
            on_frame()
    if in_clips and total < limit:
        raise UnfitBoxes(
            f"The clips in the file of boxes need {(limit - 1) * stride + 1} frames of "
            f"'{valid_unicode(source.path)}', which has fewer."
        )
    if not in_clips and total != limit:
        parts[0].plan.check_length(total * stride)
    pieces, cameras = [], []
    for part in parts:
        for name, start, stop in part.writer.finish():
            pieces.append([name, stop - start])
            if part.clip is not None:
                offset = part.span.start * stride - part.first
                cameras.append(part.clip.camera_of(range(offset + start * stride, offset + (stop - 1) * stride + 1)))
    size = sum(folder_size(os.path.join(folder, name)) for name, _ in pieces)
    return {**record, "frames": total, "pieces": pieces, "cameras": cameras, "bytes": size}


@dataclasses.dataclass(frozen=True)
class Part:
    """A video, or a clip of it with boxes of its own, and the writer of its pieces."""

    plan: CropPlan
    writer: PieceWriter
    first: int  # number of its first frame in the source
    span: range  # numbers of its frames after the stride
    clip: Clip | None


def _parts(source: Source, among: SourceSet, conversion: Conversion, folder: str) -> list[Part]:
    """The clips that the file of boxes has for a video; without any, the whole video."""
    crop, stride = conversion.crop, conversion.stride

    def part(name: str, plan: CropPlan, first: int, stop: int, clip: Clip | None) -> Part:
        span = range(-(-first // stride), -(-stop // stride))  # those that a stride over the whole video keeps
        base = os.path.join(folder, name)
        writer = PieceWriter(conversion.cut, base=base, suffix=conversion.suffix, first=span.start)
        return Part(plan=plan, writer=writer, first=first, span=span, clip=clip)

    clips = crop.clips_of(source.path)
    if clips is None:
        return [part(source.name, crop.plan(source.path), 0, sys.maxsize, None)]
    return [
        part(among.clip_name(source, number), crop.clip_plan(source.path, clip), clip.first, clip.stop, clip)
        for number, clip in enumerate(clips)
    ]


def source_frames(
    source: Source,
    *,
    among: SourceSet,
    folder: str,
    about: dict[str, Any],
    stride: int = 1,
    max_frames: int | None = None,
    threads: int | None = None,
) -> Iterator[Image.Image]:
    """The frames of a video, upright, RGB, at their original size, and at the rate of the set.

    Args:
        source: The video.
        among: The set that it comes from.
        folder: Folder for a temporary file.
        about: Receives fps, if it is known, and remarks (see decode_video) as plain data.
        stride: Keep every n-th frame.
        max_frames: Largest number of frames, after the stride; None for all.
        threads: Threads of its decoder.

    Raises:
        BrokenVideo: It cannot be decoded to its end.
    """
    if source.video is not None:
        stop = None if max_frames is None else max_frames * stride
        for index in range(len(source.video))[:stop:stride]:
            try:
                yield among.store.read_frame(source.video, index)
            except UserError as error:
                raise BrokenVideo(str(error)) from error
        return
    with contextlib.ExitStack() as stack:
        zipped = among.store is not None and among.store.is_file
        if zipped:  # most formats need a seekable file
            suffix = os.path.splitext(source.path)[1]
            file = stack.enter_context(tempfile.NamedTemporaryFile(dir=folder, prefix=".movie-", suffix=suffix)).name
            try:
                data = among.store.read_bytes(source.path)
            except OSError as error:
                raise BrokenVideo(f"Cannot read '{valid_unicode(source.path)}' in the zip ({error}).") from error
            with open(file, "wb") as stream:
                stream.write(data)
        else:
            file = among.file_of(source)
        about["fps"] = probe_video(file).fps if among.fps is None else among.fps
        frames = decode_video(file, fps=among.fps, stride=stride, limit=max_frames, threads=threads)
        try:
            about["remarks"] = (yield from stack.enter_context(contextlib.closing(frames))).noted()
        except BrokenVideo as error:
            if not zipped:
                raise
            name = valid_unicode(join_path(among.store.path, source.path))
            raise type(error)(str(error).replace(file, name)) from error


# ----------------------------------------------------------------------------------------------------------------------
# Many at once


def convert_videos(
    sources: list[Source],
    *,
    among: SourceSet,
    conversion: Conversion,
    folder: str,
    workers: int,
    on_frames: Callable[[int], None],
) -> Iterator[tuple[Source, dict[str, Any] | BrokenVideo]]:
    """Convert videos; yields each with its record, or with its error, as soon as it is done.

    Args:
        workers: Processes; with one, this process converts them.
        on_frames: Called with the number of frames that were written since the last call.

    Raises:
        UserError: A process was killed, or cannot be started.
    """
    workers = min(workers, len(sources))
    if workers <= 1:
        for source in sources:
            try:
                record = convert_video(
                    source, among=among, conversion=conversion, folder=folder, on_frame=lambda: on_frames(1)
                )
                yield source, record
            except BrokenVideo as error:
                yield source, error
        return
    context = multiprocessing.get_context("spawn")  # inherits no state of this process
    with explain_start():
        counter, stop = context.Value("q", 0), context.Event()
        executor = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_start_worker, initargs=(among, conversion, folder, counter, stop)
        )
    seen, waiting, pending = 0, iter(sources), {}
    try:
        while True:
            for source in itertools.islice(waiting, SUBMITTED * workers - len(pending)):
                with explain_start():
                    pending[executor.submit(_work, source)] = source
            if not pending:
                break
            done, _ = wait(pending, timeout=POLL, return_when=FIRST_COMPLETED)
            count = counter.value
            on_frames(count - seen)
            seen = count
            for future in done:
                yield pending.pop(future), future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "A worker process has ended unexpectedly (is the memory full?): repeat the command to go on, with fewer "
            "--workers."
        ) from error
    finally:
        stop.set()
        executor.shutdown(wait=True, cancel_futures=True)


def _start_worker(among: SourceSet, conversion: Conversion, folder: str, counter: Any, stop: Any) -> None:
    global _shared
    _shared = (among, conversion, folder, counter, stop)
    begin_worker()


def _work(source: Source) -> dict[str, Any] | BrokenVideo:
    among, conversion, folder, counter, stop = _shared

    def on_frame() -> None:
        if stop.is_set():
            raise Stopped
        with counter.get_lock():
            counter.value += 1

    try:
        return convert_video(source, among=among, conversion=conversion, folder=folder, on_frame=on_frame, threads=1)
    except BrokenVideo as error:
        return type(error)(one_line(error))  # without its causes, which may not pickle
