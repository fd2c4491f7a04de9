"""Writing the frames of a video into one or more folders, and making a folder that is never half there."""

import contextlib
import dataclasses
import itertools
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator

from PIL import Image
from tqdm import tqdm

from dnnlib import UserError
from training.frame_store import fit_square

__all__ = ["Cut", "new_folder"]


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
        self, frames: Iterable[Image.Image], *, base: str, resolution: int, bar: tqdm
    ) -> tuple[int, list[tuple[str, int]]]:
        """Write a video's pieces to the folders base_0000, base_0001, …

        Returns:
            The number of frames, and name and length of every piece that was kept.
        """
        total = 0
        for frame in frames:
            first = None
            for piece in self.pieces_of(total):
                folder = f"{base}_{piece:04d}"
                os.makedirs(folder, exist_ok=True)
                file = os.path.join(folder, f"{total:06d}.png")
                if first is None:
                    Image.fromarray(fit_square(frame, resolution).transpose(1, 2, 0)).save(file)
                    first = file
                else:
                    _share(first, file)
            total += 1
            bar.update()
        kept = []
        for piece in range(self.pieces_of(total - 1).stop if total else 0):
            folder = f"{base}_{piece:04d}"
            start, stop = self.span(piece, total)
            if self.wanted(piece, total):
                kept.append((os.path.basename(folder), stop - start))
            else:
                shutil.rmtree(folder)
        return total, kept

    def remove(self, base: str) -> None:
        """Remove whatever pieces there are."""
        for piece in itertools.count():
            folder = f"{base}_{piece:04d}"
            if not os.path.isdir(folder):
                return
            shutil.rmtree(folder)


def _share(file: str, other: str) -> None:
    """Give a file a second name, or a copy where the file system has no hard links (or no more of them)."""
    try:
        os.link(file, other)
    except OSError:
        shutil.copyfile(file, other)


@contextlib.contextmanager
def new_folder(out: str) -> Iterator[str]:
    """A folder next to `out` that takes its place when the block ends without an error, and else vanishes."""
    parent, name = os.path.split(out)
    folder = os.path.join(parent, f".{name[:200]}.{secrets.token_hex(4)}.tmp")
    old = f"{folder}.old"
    try:
        os.makedirs(folder)
        yield folder
        os.sync()  # one flush for all the small files, before the name that promises they are complete
        if os.path.isdir(out):
            os.rename(out, old)
        try:
            os.rename(folder, out)
        except OSError:
            if os.path.isdir(old):
                os.rename(old, out)
            raise
    except OSError as error:
        raise UserError(
            f"Cannot write '{out}': {error.strerror or error}; free some space or choose another."
        ) from error
    finally:
        for leftover in (folder, old):
            shutil.rmtree(leftover, ignore_errors=True)
