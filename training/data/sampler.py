"""Infinite sampler and loader of real items, for any number of processes and workers.

The order is one endless sequence: seeded permutations of the whole dataset, one after another. With `world_size`
processes, its item k goes to process k mod world_size. So an epoch holds every item exactly once over all processes,
and a single number, the items consumed so far, is the whole state: a run that continues from it, even with another
number of processes or workers, gets the items it would have got.

An unreadable item is replaced by another one, chosen by its random key, and counted. A worker that dies, finds no
space in shared memory for its batch, or cannot make its socket, is also replaced, and its batches are prepared again.
"""

import contextlib
import functools
import multiprocessing
import multiprocessing.reduction
import numbers
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch

from dnnlib import UserError, one_line
from dnnlib.processes import explain_start
from training.data.dataset import VideoPairDataset, check_counts, check_seed, random_block

__all__ = [
    "InfiniteSampler",
    "LostBatch",
    "PairBatch",
    "PairLoader",
    "empty_batch",
    "load_batches",
    "make_loader",
]

# Uses of a seed; see training.data.dataset.
KEY_ORDER = 3
KEY_REPLACEMENTS = 4

REPLACEMENTS = 15  # items that are tried in place of an unreadable one
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


class InfiniteSampler:
    """Endless sequence of (epoch, index) for one process. Iterating starts at `position` every time.

    Raises:
        ValueError: The dataset is empty, or a number is not a whole one in its range.
    """

    def __init__(
        self,
        *,
        dataset_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        position: int = 0,  # items consumed so far by all processes together
    ):
        check_counts(dataset_size=dataset_size, world_size=world_size)
        if not (isinstance(rank, numbers.Integral) and 0 <= rank < world_size):
            raise ValueError(f"rank must be a whole number from 0 to {world_size - 1}, got {rank!r:.60}.")
        if not (isinstance(position, numbers.Integral) and position >= 0):
            raise ValueError(f"position must be a whole number of at least 0, got {position!r:.60}.")
        self.dataset_size = dataset_size
        self.rank = rank
        self.world_size = world_size
        self.position = position
        self._seed = check_seed(seed)

    def permutation(self, epoch: int) -> np.ndarray:
        """The order of the items in an epoch, int64 [dataset_size]."""
        generator = random_block(self._seed, KEY_ORDER, epoch=epoch)
        # Sorting random numbers, because numpy does not guarantee the result of permutation() across versions.
        return np.argsort(generator.random(self.dataset_size), kind="stable")

    def __iter__(self) -> Iterator[tuple[int, int]]:
        current, order = -1, None
        place = self.position + self.rank
        while True:
            epoch, offset = divmod(place, self.dataset_size)
            if epoch != current:
                current, order = epoch, self.permutation(epoch)
            yield epoch, int(order[offset])
            place += self.world_size


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


def make_loader(
    dataset: VideoPairDataset,
    *,
    batch_size: int,
    workers: int = 0,
    position: int = 0,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
    pin_memory: bool = False,
) -> PairLoader:
    """Batches of a dataset in the order of InfiniteSampler.

    Args:
        dataset: Source of the items.
        batch_size: Items per batch of this process.
        workers: Processes that prefetch batches; 0 decodes in this process. The items do not depend on it.
        position: Items consumed so far by all processes together.
        rank, world_size: Index of this process, number of processes.
        seed: Seed of the order.
        pin_memory: Page-locked batches, for faster copies to a CUDA device.

    Raises:
        UserError: A batch without items, or no processes.
    """
    check_counts(batch_size=batch_size, world_size=world_size)

    def start(position: int) -> Iterator:
        sampler = InfiniteSampler(
            dataset_size=len(dataset), rank=rank, world_size=world_size, seed=seed, position=position
        )
        tolerant, batches = _FaultTolerantDataset(dataset, seed=seed), _BatchSampler(sampler, batch_size)
        return load_batches(tolerant, workers=workers, pin_memory=pin_memory, batch_sampler=batches)

    return PairLoader(start=start, position=position, step=batch_size * world_size)


class _BatchSampler:
    """Batches of consecutive keys of a sampler."""

    def __init__(self, sampler: InfiniteSampler, batch_size: int):
        assert batch_size > 0
        self.sampler = sampler
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        stream = iter(self.sampler)
        while True:
            yield [next(stream) for _ in range(self.batch_size)]


class _FaultTolerantDataset(torch.utils.data.Dataset):
    """Batches and their read errors: an unreadable item is replaced by another of its epoch.

    The replacement depends on the seed, the epoch and the item alone. Read errors are returned, not raised: a worker's
    exception would arrive as a page of traceback. If all replacements fail, the batch is None.
    """

    def __init__(self, dataset: VideoPairDataset, *, seed: int):
        self.dataset = dataset
        self._seed = check_seed(seed)

    def __getitems__(self, keys: list[tuple[int, int]]) -> tuple[PairBatch | None, list[str]]:
        data, problems = self.dataset, []
        frames, dt, c = empty_batch(data, len(keys))
        for place, key in enumerate(keys):
            for tried in self._candidates(key):
                try:
                    dt[place], c[place] = data.read_into(frames[place], tried)
                    break
                except UserError as error:
                    if tried == key:  # unreadable replacements count in their own batches
                        problems.append(str(error))
            else:
                problems[-1] += f" The {REPLACEMENTS} others tried in its place failed too."
                return None, problems
        return PairBatch(*map(torch.from_numpy, (frames, dt, c))), problems

    def _candidates(self, key: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """The item itself, then its replacements."""
        yield key
        epoch, index = key
        generator = random_block(self._seed, KEY_REPLACEMENTS, epoch=epoch, index=index)
        for other in generator.integers(len(self.dataset), size=REPLACEMENTS):
            if other != index:
                yield epoch, int(other)


def load_batches(
    dataset: torch.utils.data.Dataset, *, workers: int, pin_memory: bool, batch_sampler: _BatchSampler | None = None
) -> Iterator:
    """Batches of a dataset with their read errors, prefetched by workers; see `make_loader`.

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
