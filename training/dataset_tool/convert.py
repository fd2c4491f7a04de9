"""Conversion of videos to folders of square frames, on several cores at once.

A video is one worker's; its decoder (ffmpeg) is a process of its own beside it.
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
from training.data.crops import Crop, cut_square
from training.data.video_decoder import BrokenVideo, decode_video, probe_video
from training.dataset_tool.source_videos import Source, SourceSet, valid_unicode
from training.dataset_tool.staging import folder_size

__all__ = ["Cut", "IMAGE_FORMATS", "Conversion", "convert_video", "convert_videos"]


# ----------------------------------------------------------------------------------------------------------------------
# Writing the frames of a video into one or more folders.


# Options of Pillow's writers, by suffix. PNG: its default takes 2.5 times as long for files that are 5 % smaller. JPEG
# without chroma subsampling: colours keep their resolution.
IMAGE_FORMATS = {"png": {"compress_level": 3}, "jpg": {"quality": 95, "subsampling": 0}}


@dataclasses.dataclass(frozen=True)
class Cut:
    """Cut of a video: a piece of `length` frames every `step` frames; one piece if there is no length."""

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
            frames: As they are to be written.
            base: Path of the folders, without their number.
            suffix: Of the files; see IMAGE_FORMATS.
            on_frame: Called after each frame.

        Returns:
            The number of frames, and name and length of every piece that was kept.
        """
        total = 0
        for frame in frames:
            first = None
            for piece in self.pieces_of(total):
                folder = f"{base}_{piece:04d}"
                os.makedirs(folder, exist_ok=True)
                file = os.path.join(folder, f"{total:06d}.{suffix}")
                if first is None:
                    frame.save(file, **IMAGE_FORMATS[suffix])
                    first = file
                else:
                    link_or_copy(first, file)
            total += 1
            on_frame()
        kept = []
        for piece in range(self.pieces_of(total - 1).stop if total else 0):
            folder = f"{base}_{piece:04d}"
            start, stop = self.span(piece, total)
            if self.wanted(piece, total):
                kept.append((os.path.basename(folder), stop - start))
            elif os.path.isdir(folder):
                shutil.rmtree(folder)
        return total, kept


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
        among: Where it is from.
        folder: Exists.
        on_frame: Called after each frame.
        threads: For its decoder.

    Returns:
        The video's record: name, source, stamp, fps (of the source), size (of its frames), crop (the first frame's
        square: left, top, side), warnings (see decode_video), frames (after the stride), pieces (name and frames of
        each), bytes (of all).

    Raises:
        BrokenVideo: It cannot be decoded to its end, or does not suit the crop.
    """
    record = {"name": source.name, "source": valid_unicode(source.path), "stamp": among.stamp(source), "fps": None}
    record.update(size=None, crop=None, warnings=0)
    plan = conversion.crop.plan(source.path)

    def squares() -> Iterator[Image.Image]:
        for number, frame in enumerate(_frames(source, among, conversion, record, folder, threads)):
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
    return {**record, "frames": total, "pieces": [list(piece) for piece in pieces], "bytes": size}


def _frames(
    source: Source,
    among: SourceSet,
    conversion: Conversion,
    record: dict[str, Any],
    folder: str,
    threads: int | None,
) -> Iterator[Image.Image]:
    """The frames in use, RGB, as large as they are."""
    if source.video is not None:
        stop = None if conversion.max_frames is None else conversion.max_frames * conversion.stride
        for index in range(len(source.video))[: stop : conversion.stride]:
            try:
                yield among.store.read_frame(source.video, index)
            except UserError as error:
                raise BrokenVideo(str(error)) from error
        return
    with contextlib.ExitStack() as stack:
        if among.store is not None and among.store.is_zip:  # most formats need a file that can be searched
            file = stack.enter_context(tempfile.NamedTemporaryFile(dir=folder, prefix=".movie-")).name
            try:
                data = among.store.read_bytes(source.path)
            except OSError as error:
                raise BrokenVideo(f"Cannot read '{valid_unicode(source.path)}' in the zip ({error}).") from error
            with open(file, "wb") as stream:
                stream.write(data)
        else:
            file = among.file_of(source)
        info = probe_video(file)
        record["fps"] = info.fps
        frames = decode_video(file, stride=conversion.stride, limit=conversion.max_frames, threads=threads)
        record["warnings"] = yield from stack.enter_context(contextlib.closing(frames))


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
    """Convert videos; yields each with its record, or what is wrong with it, as soon as it is done.

    Args:
        workers: Processes; with one, this process does it.
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
    context = multiprocessing.get_context("spawn")  # nothing of this process can get in the way
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
        return BrokenVideo(one_line(error))  # without its causes, which may not pickle
