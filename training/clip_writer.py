"""Writing the frames of a video into one or more folders."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterable

from PIL import Image

__all__ = ["IMAGE_FORMATS", "Cut"]

# Options of Pillow's writers, by suffix. PNG: its default takes 2.5 times as long for files that are 5 % smaller. JPEG
# without chroma subsampling: colours keep their resolution.
IMAGE_FORMATS = {"png": {"compress_level": 3}, "jpg": {"quality": 95, "subsampling": 0}}


@dataclasses.dataclass(frozen=True)
class Cut:
    """How a video is cut: a piece of `length` frames every `step` frames; one piece if there is no length."""

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
        """Whether a piece is long enough and shows more than the one before."""
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
                    _share(first, file)
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


def _share(file: str, other: str) -> None:
    """Give a file a second name, or a copy where the file system has no hard links (or no more of them)."""
    try:
        os.link(file, other)
    except OSError:
        shutil.copyfile(file, other)
