"""Distributed feature extraction into a NumPy file.

Sample i is always in batch i // batch_size, and batches are assigned to processes in turn, so that the rows and their
order do not depend on the number of processes. Only one batch per process is in memory; the rows are written to a NumPy
file, which is read as a memory map.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from dnnlib import UserError, atomic_write
from torch_utils import distributed

__all__ = ["Samples", "compute_features", "open_features"]


class Samples(Protocol):
    """Indexed samples. An index gives the same sample on every process."""

    def __len__(self) -> int: ...

    def load(self, indices: Sequence[int]) -> Any:
        """A batch: clips uint8 [N, 3, T, H, W], or pairs of views."""

    def key(self) -> str | None:
        """Cache key of the content; None for samples that are not cached."""

    def describe(self) -> dict:
        """Plain data for the result file."""


def compute_features(samples: Samples, network: Any, path: Path, *, batch_size: int, title: str = "") -> None:
    """Write the features of all samples to `path`, float32 [len(samples), width]; must be called on all processes.

    The file appears when it is complete. Only the main process writes.

    Args:
        samples, network: See Samples and metrics.feature_extractors.
        path: The file, .npy.
        batch_size: Samples per batch of a process.
        title: Title of the progress bar.

    Raises:
        UserError: A sample cannot be read, or the network does not fit; raised on all processes.
    """
    batches = [range(i, min(i + batch_size, len(samples))) for i in range(0, len(samples), batch_size)]
    rank, world = distributed.rank(), distributed.world_size()
    bar = tqdm(total=len(samples), desc=title, unit="", disable=None if rank == 0 else True, leave=False)
    width = None
    with bar, atomic_write(path) if rank == 0 else contextlib.nullcontext() as file:
        for first in range(0, len(batches), world):
            part: np.ndarray | UserError | None = None
            if first + rank < len(batches):
                try:
                    part = network(samples.load(batches[first + rank])).numpy()
                except UserError as error:  # passed on, or the other processes would wait
                    part = UserError(str(error))
            for rows in distributed.all_gather_objects(part):
                if isinstance(rows, UserError):
                    raise rows
                if rows is None:
                    continue
                if width is None:
                    width = rows.shape[1]
                    if rank == 0:
                        header = {"descr": "<f4", "fortran_order": False, "shape": (len(samples), width)}
                        np.lib.format.write_array_header_1_0(file, header)
                assert rows.shape[1] == width
                if rank == 0:
                    file.write(rows.astype("<f4").tobytes())
                bar.update(len(rows))


def open_features(path: Path) -> np.ndarray:
    """The features in a file, as a memory map.

    A damaged file may raise almost any exception.
    """
    return np.lib.format.open_memmap(path, mode="r")
