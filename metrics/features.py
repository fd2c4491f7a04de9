"""Distributed feature extraction into a NumPy file.

Sample i is always in batch i // batch_size, and batches are assigned to processes in turn, so that the rows and their
order do not depend on the number of processes. Only one batch per process is in memory; the rows are written to a NumPy
file, which is read as a memory map. The SHA-256 of all this follows at the end of the file, where NumPy ignores it: a
cached file may be damaged after years on a disk, and wrong features would give a plausible, wrong distance.
"""

import contextlib
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from dnnlib import UserError, atomic_write
from torch_utils import distributed

__all__ = ["Samples", "compute_features", "holds_features", "open_features"]

CHUNK = 1 << 20  # bytes that are hashed at a time


class Samples(Protocol):
    """Indexed samples. An index gives the same sample on every process."""

    def __len__(self) -> int: ...

    def load(self, indices: Sequence[int]) -> Any:
        """A batch: clips uint8 [N, 3, T, H, W], or pairs of views."""

    def key(self) -> str | None:
        """Cache key of the content; None for samples that are not cached."""

    def describe(self) -> dict:
        """Plain data for the result file."""


def compute_features(samples: Samples, networks: Mapping[Path, Any], *, batch_size: int, title: str = "") -> None:
    """Write the features of all samples in each network to a file, float32 [len(samples), width].

    Every sample is loaded once. The files appear when they are complete. Must be called on all processes; only the main
    process writes.

    Args:
        samples: See Samples.
        networks: See metrics.feature_extractors; by file, .npy, in the same order on all processes.
        batch_size: Samples per batch of a process.
        title: Title of the progress bar.

    Raises:
        UserError: A sample cannot be read, or a network does not fit; raised on all processes.
    """
    batches = [range(i, min(i + batch_size, len(samples))) for i in range(0, len(samples), batch_size)]
    rank, world = distributed.rank(), distributed.world_size()
    bar = tqdm(total=len(samples), desc=title, unit="", disable=None if rank == 0 else True, leave=False)
    with bar, contextlib.ExitStack() as stack:
        files = [_FeatureFile(stack.enter_context(atomic_write(path)), len(samples)) for path in networks if rank == 0]
        for first in range(0, len(batches), world):
            part: list[np.ndarray] | UserError | None = None
            if first + rank < len(batches):
                try:
                    loaded = samples.load(batches[first + rank])
                    part = [network(loaded).numpy() for network in networks.values()]
                except UserError as error:  # passed on, or the other processes would wait
                    part = type(error)(str(error))
            for found in distributed.all_gather_objects(part):
                if isinstance(found, UserError):
                    raise found
                if found is None:
                    continue
                for file, rows in zip(files, found):
                    file.add(rows)
                bar.update(len(found[0]))
        for file in files:
            file.finish()


class _FeatureFile:
    """A file of features that is being written.

    Args:
        file: The opened file.
        count: Number of samples.
    """

    def __init__(self, file: Any, count: int):
        self._file, self._count, self._width, self._digest = file, count, 0, hashlib.sha256()

    def add(self, rows: np.ndarray) -> None:
        """Append features [N, width]."""
        if not self._width:
            self._width, header = rows.shape[1], io.BytesIO()
            entries = {"descr": "<f4", "fortran_order": False, "shape": (self._count, self._width)}
            np.lib.format.write_array_header_1_0(header, entries)
            self._write(header.getvalue())
        assert rows.shape[1] == self._width
        self._write(rows.astype("<f4").tobytes())

    def finish(self) -> None:
        """Append the checksum."""
        self._file.write(self._digest.digest())

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)


def open_features(path: Path) -> np.ndarray:
    """The features in a file of `compute_features`, as a memory map."""
    return np.lib.format.open_memmap(path, mode="r")


def holds_features(path: Path, count: int) -> bool:
    """True if there is a file of `compute_features` with `count` rows whose checksum is right."""
    try:
        size = os.path.getsize(path) - hashlib.sha256().digest_size
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while size > 0 and (data := file.read(min(size, CHUNK))):
                digest.update(data)
                size -= len(data)
            return file.read() == digest.digest() and len(open_features(path)) == count
    except Exception:  # NumPy's reader raises almost any exception for a file that something else has written
        return False
