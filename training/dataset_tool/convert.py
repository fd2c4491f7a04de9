"""Conversion of videos to folders of square frames, on several cores at once.

Each video is converted by one worker; its decoder (ffmpeg) is a separate process.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from PIL import Image

from dnnlib import UserError, link_or_copy, one_line
from dnnlib.processes import begin_worker
from training.data.crops import Clip, Crop, UnfitBoxes
from training.data.images import cut_square
from training.data.video_decoder import BrokenVideo, decode_video, probe_video
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

    def write(
        self, frames: Iterable[Image.Image], *, base: str, suffix: str, on_frame: Callable[[], None]
    ) -> tuple[int, list[tuple[str, int]]]:
        """Write a video's pieces to the folders base_0000, base_0001, …

        Args:
            frames: Frames as they are to be written.
            base: Path of the folders, without their number.
            suffix: Suffix of the files; see IMAGE_FORMATS.
            on_frame: Called after each frame.

        Returns:
            The number of frames, and name and length of every piece that was kept.
        """
        writer = PieceWriter(self, base=base, suffix=suffix)
        for frame in frames:
            writer.add(frame)
            on_frame()
        return writer.total, [(name, stop - start) for name, start, stop in writer.finish()]


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
        The video's record: name, source, stamp, fps (of the source), size (of its frames), crop (the first frame's
        square: left, top, side), remarks (see decode_video), frames (after the stride), pieces (name and frames of
        each), cameras (yaw and pitch of each piece of clips, None without; else empty), bytes (of all).

    Raises:
        BrokenVideo: It cannot be decoded to its end, or does not suit the crop.
    """
    record = {"name": source.name, "source": valid_unicode(source.path), "stamp": among.stamp(source), "fps": None}
    record.update(size=None, crop=None, remarks={})
    clips = conversion.crop.clips_of(source.path)
    if clips is not None:
        return _convert_clips(clips, source, among, conversion, record, folder, on_frame, threads)
    plan = conversion.crop.plan(source.path)

    def squares() -> Iterator[Image.Image]:
        for number, frame in enumerate(_used_frames(source, among, conversion, record, folder, threads)):
            square = plan.square(number * conversion.stride, frame.size)
            if number == 0:
                record.update(size=list(frame.size), crop=[round(float(x), 2) for x in square])
            yield cut_square(frame, square, conversion.resolution)
        if number + 1 != conversion.max_frames:
            plan.check_length((number + 1) * conversion.stride)

    with contextlib.closing(squares()) as frames:
        total, pieces = conversion.cut.write(
            frames, base=os.path.join(folder, source.name), suffix=conversion.suffix, on_frame=on_frame
        )
    size = sum(folder_size(os.path.join(folder, name)) for name, _ in pieces)
    return {**record, "frames": total, "pieces": [list(piece) for piece in pieces], "cameras": [], "bytes": size}


def _convert_clips(
    clips: list[Clip],
    source: Source,
    among: SourceSet,
    conversion: Conversion,
    record: dict[str, Any],
    folder: str,
    on_frame: Callable[[], None],
    threads: int | None,
) -> dict[str, Any]:
    """convert_video for a video whose clips have boxes of their own: its frames are read once for all of them."""
    stride, total = conversion.stride, 0
    plans = [conversion.crop.clip_plan(source.path, clip) for clip in clips]
    # A clip has those of its frames that a stride over the whole video keeps.
    spans = [range(-(-clip.first // stride), -(-clip.stop // stride)) for clip in clips]
    last = max((span.stop for span in spans), default=0)
    conversion = dataclasses.replace(conversion, max_frames=min(last, conversion.max_frames or last))
    writers = [
        PieceWriter(
            conversion.cut,
            base=os.path.join(folder, among.clip_name(source, number)),
            suffix=conversion.suffix,
            first=span.start,
        )
        for number, span in enumerate(spans)
    ]
    with contextlib.closing(_used_frames(source, among, conversion, record, folder, threads)) as frames:
        for number, frame in enumerate(frames):
            record["size"] = record["size"] or list(frame.size)
            for clip, plan, span, writer in zip(clips, plans, spans, writers):
                if number in span:
                    position = number * stride - clip.first
                    square, roll = plan.square(position, frame.size), plan.roll(position)
                    record["crop"] = record["crop"] or [round(float(x), 2) for x in square]
                    writer.add(cut_square(frame, square, conversion.resolution, roll=roll))
            total = number + 1
            on_frame()
    if total < conversion.max_frames:
        raise UnfitBoxes(
            f"The clips in the file of boxes need {conversion.max_frames * stride} frames of "
            f"'{valid_unicode(source.path)}', which has fewer."
        )
    pieces, cameras = [], []
    for clip, span, writer in zip(clips, spans, writers):
        for name, start, stop in writer.finish():
            pieces.append([name, stop - start])
            offset = span.start * stride - clip.first
            cameras.append(clip.camera_of(range(offset + start * stride, offset + (stop - 1) * stride + 1)))
    size = sum(folder_size(os.path.join(folder, name)) for name, _ in pieces)
    return {**record, "frames": total, "pieces": pieces, "cameras": cameras, "bytes": size}


def _used_frames(
    source: Source,
    among: SourceSet,
    conversion: Conversion,
    record: dict[str, Any],
    folder: str,
    threads: int | None,
) -> Iterator[Image.Image]:
    return source_frames(
        source,
        among=among,
        folder=folder,
        about=record,
        stride=conversion.stride,
        max_frames=conversion.max_frames,
        threads=threads,
    )


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
    """The frames of a video, upright, RGB, at their original size.

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
        if among.store is not None and among.store.is_zip:  # most formats need a seekable file
            file = stack.enter_context(tempfile.NamedTemporaryFile(dir=folder, prefix=".movie-")).name
            try:
                data = among.store.read_bytes(source.path)
            except OSError as error:
                raise BrokenVideo(f"Cannot read '{valid_unicode(source.path)}' in the zip ({error}).") from error
            with open(file, "wb") as stream:
                stream.write(data)
        else:
            file = among.file_of(source)
        about["fps"] = probe_video(file).fps
        frames = decode_video(file, stride=stride, limit=max_frames, threads=threads)
        about["remarks"] = (yield from stack.enter_context(contextlib.closing(frames))).noted()


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
    counter, stop = context.Value("q", 0), context.Event()
    executor = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(among, conversion, folder, counter, stop)
    )
    seen = 0
    try:
        pending = {executor.submit(_work, source): source for source in sources}
        while pending:
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
