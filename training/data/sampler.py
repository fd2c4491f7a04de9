"""The order of real items, for any number of processes and workers, and where a run stands in it.

There is one endless sequence: seeded permutations of the whole set, one after another. With `world_size` processes,
item k of it goes to process k mod world_size. So an epoch holds every item exactly once over all processes, whatever
the sizes; and a single number, the items consumed so far, is the whole state: a run that continues from it, even with
another number of processes or workers, sees the items it would have seen.

An item that cannot be read is replaced by another one, drawn by the same rules, and counted. A worker that dies, or has
no room in shared memory for its batch, is replaced too: what it was to deliver is prepared again.
"""

import multiprocessing
import re
import signal
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from dnnlib import UserError, one_line
from training.data.dataset import VideoPairDataset, random_block

__all__ = [
    "InfiniteSampler",
    "LostBatch",
    "PairBatch",
    "PairLoader",
    "hand_over",
    "make_loader",
    "quiet_worker",
    "try_queues",
]

# Words of the random key; see training.data.dataset.
KEY_ORDER = 3
KEY_REPLACEMENTS = 4

REPLACEMENTS = 15  # how many other items are tried for one that cannot be read
RESTARTS = 3  # how often workers are started again without STEADY batches in between
STEADY = 50
ROOM_RESTARTS = 1  # likewise, for lack of shared memory: a restart frees all of it, so more of them would not help

# What the loader raises when one of its processes or threads is gone, or cannot be heard any more.
DEAD_WORKER = re.compile(
    r"DataLoader worker.* (exited unexpectedly|killed by signal)|Pin memory thread exited|Too many open files",
    re.DOTALL,
)


class PairBatch(NamedTuple):
    """A batch of items: frames uint8 [B, 2, 3, H, W]; dt float32 [B]; c float32 [B, item_c_dim]."""

    frames: torch.Tensor
    dt: torch.Tensor
    c: torch.Tensor


class LostBatch(RuntimeError):
    """A worker's batch that could not be handed over; comes in its place."""


class InfiniteSampler:
    """Endless stream of (epoch, index) for one process. Iterating starts at `position` every time."""

    def __init__(
        self,
        *,
        dataset_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        position: int = 0,  # items consumed so far by all processes together
    ):
        assert dataset_size > 0 and 0 <= rank < world_size and position >= 0
        self.dataset_size = dataset_size
        self.rank = rank
        self.world_size = world_size
        self.position = position
        self._seed = seed % 2**64

    def permutation(self, epoch: int) -> np.ndarray:
        """The order of the items in an epoch, int64 [dataset_size]."""
        generator = np.random.Generator(np.random.Philox(key=[self._seed, KEY_ORDER], counter=[0, 0, epoch, 0]))
        # Sorting random numbers, because numpy promises less about the stream of its own permutation().
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
        position: Items that all processes together have consumed, counting batches handed out, not those that workers
            have prepared ahead. `make_loader(..., position=loader.position)` goes on with the next batch.
        unreadable: Items of this process that could not be read since it was started, and were replaced.
        problem: What was wrong with the last one of these.
    """

    def __init__(self, *, start: Callable[[int], Iterator], position: int, step: int):
        self.position = position
        self.unreadable = 0
        self.problem = ""
        self._start = start  # position → batches and problems from there
        self._step = step  # items per batch over all processes
        self._batches: Iterator | None = None  # not started yet: no process waits for one that may never train
        self._workers: set = set()
        self._ready: tuple[PairBatch | None, list[str]] | None = None
        self._stuck = False  # waiting, or left while it did
        self._restarts = 0  # without STEADY batches in between
        self._steady = 0  # batches since the last one

    def __iter__(self) -> "PairLoader":
        return self

    def __next__(self) -> PairBatch:
        """The next batch.

        Raises:
            UserError: An item of it cannot be read, nor any of those that were tried in its place; or workers die
                again and again.
        """
        self.wait()
        batch, problems = self._ready
        self._ready = None
        self.unreadable += len(problems)
        self.problem = problems[-1] if problems else self.problem
        if batch is None:
            raise UserError(f"{problems[0]} So were {REPLACEMENTS} others that were tried in its place.")
        self.position += self._step
        return batch

    def wait(self, check: Callable[[], None] = lambda: None) -> None:
        """Wait until the next batch is there.

        Args:
            check: Called before every wait; what it raises ends the waiting.

        Raises:
            UserError: Workers die again and again.
        """
        if self._ready is None:
            self._stuck = True
            self._ready = self._take(check)
            self._stuck = False

    def close(self) -> None:
        """End the workers."""
        if self._stuck:  # they may not hear what the loader tells them
            self._kill()
        self._ready, self._batches = None, iter(())  # the loader tells them to end and waits for a moment
        self._kill()
        self._workers, self._stuck = set(), False

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()  # does nothing to those that have ended

    def _take(self, check: Callable[[], None]) -> tuple[PairBatch | None, list[str]]:
        """What the workers have ready, or this process makes."""
        while True:
            check()
            try:
                if self._batches is None:
                    self._begin()
                batch = next(self._batches)
                if isinstance(batch, LostBatch):
                    raise batch
                break
            except (RuntimeError, EOFError, OSError) as error:
                # The latter two: a batch was ready, but its memory has gone with the worker that made it.
                lost = isinstance(error, LostBatch) or DEAD_WORKER.search(str(error)) is not None
                if not (lost if isinstance(error, RuntimeError) else self._workers):
                    raise
                self._restart(error)
        self._steady += 1
        return batch

    def _restart(self, error: Exception) -> None:
        """Let the workers be started again, unless that was of no use.

        Raises:
            UserError: It was of no use; says what was wrong.
        """
        self._restarts = 1 if self._steady > STEADY else self._restarts + 1
        self._steady = 0
        self.close()
        self._batches = None
        if self._restarts > (ROOM_RESTARTS if isinstance(error, LostBatch) else RESTARTS):
            raise UserError(
                f"Data workers have ended unexpectedly {self._restarts} times in a row (is the memory full, or "
                "/dev/shm?); use fewer of them with workers=, or none with workers=0. The last time: "
                f"{one_line(error)}"
            )
        print(f"A data worker has ended unexpectedly; the workers are started again ({one_line(error)}).")

    def _begin(self) -> None:
        before = set(multiprocessing.active_children())
        try:
            self._batches = self._start(self.position)
        except OSError as error:  # their locks live in shared memory
            raise UserError(
                f"Data workers cannot be started ({error.strerror or error}; is the memory full, or /dev/shm, or is it "
                "missing?); use fewer of them with workers=, or none with workers=0."
            ) from error
        self._workers = set(multiprocessing.active_children()) - before
        if self._workers and threading.current_thread() is threading.main_thread():
            # The loader installs a handler that raises its error wherever the program stands when a worker dies, in
            # the middle of a step for instance. It notices a dead worker also when it waits for its batch.
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
        dataset: Where the items come from.
        batch_size: Items per batch of this process.
        workers: Processes that decode ahead; 0 decodes when asked. The items do not depend on it.
        position: Items consumed so far by all processes together.
        rank, world_size: This process and how many there are.
        seed: Of the order.
        pin_memory: Put batches where a CUDA device fetches them faster.
    """

    def start(position: int) -> Iterator:
        try_queues(workers)
        sampler = InfiniteSampler(
            dataset_size=len(dataset), rank=rank, world_size=world_size, seed=seed, position=position
        )
        loader = torch.utils.data.DataLoader(
            _Replacing(dataset, seed=seed),
            batch_sampler=_Batches(sampler, batch_size),
            num_workers=workers,
            collate_fn=hand_over,
            pin_memory=pin_memory,
            worker_init_fn=quiet_worker,
            generator=torch.Generator(),  # else it would draw from the global one and disturb a run's reproducibility
        )
        return iter(loader)

    return PairLoader(start=start, position=position, step=batch_size * world_size)


class _Batches:
    def __init__(self, sampler: InfiniteSampler, batch_size: int):
        assert batch_size > 0
        self.sampler = sampler
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        stream = iter(self.sampler)
        while True:
            yield [next(stream) for _ in range(self.batch_size)]


class _Replacing(torch.utils.data.Dataset):
    """Batches with what was wrong on the way to them: an item that cannot be read is replaced by another of its epoch.

    Which one depends on the seed, the epoch and the item alone. A mistake of the data does not leave as an exception:
    raised in a worker it would arrive as a page of traceback. Instead of a batch that cannot be had there is None.
    """

    def __init__(self, dataset: VideoPairDataset, *, seed: int):
        self.dataset = dataset
        self._seed = seed % 2**64

    def __getitems__(self, keys: list[tuple[int, int]]) -> tuple[PairBatch | None, list[str]]:
        data, problems = self.dataset, []
        frames = np.empty([len(keys), 2, 3, data.resolution, data.resolution], dtype=np.uint8)
        dt, c = np.empty(len(keys), dtype=np.float32), np.empty([len(keys), data.item_c_dim], dtype=np.float32)
        for place, key in enumerate(keys):
            for tried in self._candidates(key):
                try:
                    dt[place], c[place] = data.read_into(frames[place], tried)
                    break
                except UserError as error:
                    if tried == key:  # the others are counted when it is their turn
                        problems.append(str(error))
            else:
                return None, problems
        return PairBatch(*map(torch.from_numpy, (frames, dt, c))), problems

    def _candidates(self, key: tuple[int, int]) -> Iterator[tuple[int, int]]:
        yield key
        epoch, index = key
        generator = random_block(self._seed, KEY_REPLACEMENTS, epoch=epoch, index=index)
        for other in generator.integers(len(self.dataset), size=REPLACEMENTS):
            if other != index:
                yield epoch, int(other)


def hand_over(
    made: tuple[PairBatch | None, list[str]],
) -> tuple[PairBatch | None, list[str]] | LostBatch:
    """In a worker, move a batch to where the main process can read it; elsewhere do nothing.

    Left to the loader, that would happen in a thread of its own, whose failure the main process never hears of: it
    would wait for the batch for ever.
    """
    if made[0] is not None and torch.utils.data.get_worker_info() is not None:
        try:
            for tensor in made[0]:
                tensor.share_memory_()
        except (RuntimeError, OSError) as error:
            return LostBatch(f"no room in shared memory for a batch: {one_line(error)}")
    return made


def try_queues(workers: int) -> None:
    """Make and drop as many queues as a loader of so many workers needs, which leaves a mess when it cannot.

    Raises:
        OSError: Their locks find no room in shared memory.
    """
    _ = [multiprocessing.Queue() for _ in range(workers + 2)] if workers else []


def quiet_worker(worker: int) -> None:
    """Let a worker ignore requests to stop."""
    # They are the main process's to handle, which ends its workers; until then it may need another batch. Schedulers
    # and terminals send them to every process of a group.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
