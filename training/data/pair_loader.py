"""Endless iterator of batches of pairs that worker processes prefetch, whatever happens to these.

A worker that dies, finds no space in shared memory for its batch, or cannot make its socket, is replaced, and its
batches are prepared again.
"""

import contextlib
import functools
import multiprocessing
import multiprocessing.reduction
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch

from dnnlib import UserError, one_line
from dnnlib.processes import explain_start

__all__ = ["LostBatch", "PairBatch", "PairLoader", "empty_batch", "load_batches"]

RESTARTS = 3  # restarts of the workers without STEADY batches in between
STEADY = 50
MEMORY_RESTARTS = 1  # likewise for lack of shared memory: one restart frees all of it, more would not help
PATIENCE = 12.0  # seconds for the end of workers that were asked to end

# Errors of PyTorch's loader when one of its processes or threads has ended.
DEAD_WORKER = re.compile(
    r"DataLoader worker.* (exited unexpectedly|killed by signal)|Pin memory thread exited|Too many open files",
    re.DOTALL,
)


class PairBatch(NamedTuple):
    """A batch of items: frames uint8 [B, 2, 3, H, W]; dt float32 [B]; c float32 [B, item_c_dim]."""

    frames: torch.Tensor
    dt: torch.Tensor
    c: torch.Tensor


def empty_batch(dataset: Any, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Memory for the parts of a PairBatch, which items are decoded into.

    Args:
        dataset: With the attributes `resolution` and `item_c_dim`.
    """
    frames = np.empty([count, 2, 3, dataset.resolution, dataset.resolution], dtype=np.uint8)
    return frames, np.empty(count, dtype=np.float32), np.empty([count, dataset.item_c_dim], dtype=np.float32)


class LostBatch(RuntimeError):
    """Placeholder for a worker's batch that could not be moved to shared memory."""


class PairLoader:
    """Endless iterator of PairBatch.

    Attributes:
        position: Items that all processes together have consumed, without the batches that workers have prefetched.
            `make_loader(..., position=loader.position)` continues with the next batch.
        unreadable: Number of read errors of this process: items that were replaced.
        problem: Message of the last read error.
    """

    def __init__(self, *, start: Callable[[int], Iterator], position: int, step: int):
        self.position = position
        self.unreadable = 0
        self.problem = ""
        self._start = start  # position → batches and read errors from there on
        self._step = step  # items per batch over all processes
        self._batches: Iterator | None = None  # started by the first wait
        self._workers: set = set()
        self._ready: tuple[PairBatch | None, list[str]] | None = None
        self._stuck = False  # waiting for a batch, or interrupted while waiting
        self._restarts = 0  # without STEADY batches in between
        self._steady = 0  # batches since the last one

    def __iter__(self) -> "PairLoader":
        return self

    def __next__(self) -> PairBatch:
        """The next batch; raises what `wait` raises."""
        self.wait()
        batch, problems = self._ready
        self._ready = None
        self.unreadable += len(problems)
        self.problem = problems[-1] if problems else self.problem
        self.position += self._step
        return batch

    def wait(self, interrupts: Callable[[], AbstractContextManager] = contextlib.nullcontext) -> None:
        """Wait for the next batch.

        Args:
            interrupts: Context of each attempt, whose exceptions end the wait, for instance StopSignal.interrupts.
                Workers are started and ended outside of it: nobody would know those that are half started.

        Raises:
            UserError: An item and all its replacements are unreadable; or workers die again and again.
        """
        if self._ready is None:
            self._stuck = True
            self._ready = self._take(interrupts)
            self._stuck = False
        batch, problems = self._ready
        if batch is None:
            self.close()
            self._batches = None  # the next attempt reads the same items again: they may be back
            raise UserError(problems[-1])

    def close(self) -> None:
        """End the workers."""
        if self._stuck:  # workers may not react to the loader's request to end
            self._kill()
        last, self._ready, self._batches = [self._batches], None, iter(())
        if self._workers:
            # The loader asks them to end and waits briefly. It takes a lock for that, which a killed worker may
            # have held, and would then wait for ever: not in this thread.
            asking = threading.Thread(target=last.clear, name="end of data workers", daemon=True)
            asking.start()
            asking.join(PATIENCE)
        self._kill()
        self._workers, self._stuck = set(), False

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()  # no effect on ended workers

    def _take(self, interrupts: Callable[[], AbstractContextManager]) -> tuple[PairBatch | None, list[str]]:
        """The next batch of the workers, or of this process if there are none."""
        while True:
            try:
                if self._batches is None:
                    self._begin()
                with interrupts():
                    batch = next(self._batches)
                if isinstance(batch, LostBatch):
                    raise batch
                break
            except (RuntimeError, EOFError, OSError) as error:
                # EOFError, OSError: a batch was ready, but its memory is gone with its worker.
                lost = isinstance(error, LostBatch) or DEAD_WORKER.search(str(error)) is not None
                if not (lost if isinstance(error, RuntimeError) else self._workers):
                    raise
                reason, memory = one_line(error), isinstance(error, LostBatch)
            # After the error is gone, whose frames keep the loader's iterator.
            self._restart(reason, memory=memory)
        self._steady += 1
        return batch

    def _restart(self, reason: str, *, memory: bool) -> None:
        """Close the workers, so that the next attempt starts new ones.

        Args:
            memory: There was no room in shared memory.

        Raises:
            UserError: Too many restarts in a row; the message gives the last error.
        """
        self._restarts = 1 if self._steady > STEADY else self._restarts + 1
        self._steady = 0
        self.close()
        self._batches = None
        if self._restarts > (MEMORY_RESTARTS if memory else RESTARTS):
            raise UserError(
                f"Data workers have ended unexpectedly {self._restarts} times in a row (is the memory full, or "
                "/dev/shm?); use fewer of them with workers=, or none with workers=0. The last time: "
                f"{reason}"
            )
        print(f"A data worker has ended unexpectedly; the workers are started again ({reason}).")

    def _begin(self) -> None:
        """Start the workers at the present position."""
        before = set(multiprocessing.active_children())
        try:
            with explain_start("Data workers", advice="use fewer of them with workers=, or none with workers=0"):
                self._batches = self._start(self.position)
        finally:  # some may run when another one cannot be started
            self._workers |= set(multiprocessing.active_children()) - before
        if self._workers and threading.current_thread() is threading.main_thread():
            # When a worker dies, PyTorch's handler would raise anywhere in the program, for instance in the middle of a
            # step. The loader also detects a dead worker while it waits for a batch.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def load_batches(
    dataset: torch.utils.data.Dataset, *, workers: int, pin_memory: bool, batch_sampler: Iterable | None = None
) -> Iterator:
    """Batches of a dataset with their read errors, prefetched by workers.

    Args:
        batch_sampler: The keys of the batches; None for an iterable dataset, whose items are batches.

    Raises:
        OSError: Shared memory has no space for the workers' locks.
    """
    # Create and drop the queues of the workers: a loader that fails there leaks processes.
    _ = [multiprocessing.Queue() for _ in range(workers + 2)] if workers else []
    loader = torch.utils.data.DataLoader(
        dataset,
        **({"batch_size": None} if batch_sampler is None else {"batch_sampler": batch_sampler}),
        num_workers=workers,
        collate_fn=_share_batch,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_stop_signals,
        generator=torch.Generator(),  # the default advances the global one, against reproducibility
    )
    return iter(loader)


def _share_batch(
    result: tuple[PairBatch | None, list[str]],
) -> tuple[PairBatch | None, list[str]] | LostBatch:
    """In a worker, move a batch to shared memory; in the main process do nothing.

    The loader would do so in a thread, whose errors never reach the main process: it would wait for the batch forever.
    """
    if result[0] is not None and torch.utils.data.get_worker_info() is not None:
        try:
            _open_socket()
        except OSError as error:
            return LostBatch(
                "no socket can be made in the folder for temporary files, set TMPDIR to one that can be written to and "
                f"has a short path: {one_line(error)}"
            )
        try:
            for tensor in result[0]:
                tensor.share_memory_()
        except (RuntimeError, OSError) as error:
            return LostBatch(f"no room in shared memory for a batch: {one_line(error)}")
    return result


@functools.cache
def _open_socket() -> None:
    """Make the socket through which a worker sends batches, as the thread does with the first one.

    Raises:
        OSError: The folder for temporary files, where it lies, is gone, or its path is longer than that of a socket.
    """
    with open(os.devnull, "rb") as file:
        multiprocessing.reduction.DupFd(file.fileno())  # would send this file; one descriptor stays open


def _ignore_stop_signals(worker: int) -> None:
    """Ignore stop signals in a worker."""
    # Schedulers and terminals send signals to every process of a group. The main process handles them and ends its
    # workers; until then it may need another batch.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
