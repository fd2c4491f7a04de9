"""The order of real items, for any number of processes and workers, and where a run stands in it.

There is one endless sequence: seeded permutations of the whole set, one after another. With `world_size` processes,
item k of it goes to process k mod world_size. So an epoch holds every item exactly once over all processes, whatever
the sizes; and a single number, the items consumed so far, is the whole state: a run that continues from it, even with
another number of processes or workers, sees the items it would have seen.
"""

import signal
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from dnnlib import UserError
from training.dataset import VideoPair, VideoPairDataset

__all__ = ["InfiniteSampler", "PairBatch", "PairLoader", "collate", "make_loader"]

KEY_ORDER = 3  # word of the random key; see training.dataset


class PairBatch(NamedTuple):
    """A batch of items: frames uint8 [B, 2, 3, H, W]; dt float32 [B]; c float32 [B, c_dim]."""

    frames: torch.Tensor
    dt: torch.Tensor
    c: torch.Tensor


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


def collate(items: list[VideoPair | UserError]) -> PairBatch | UserError:
    """Stack items into a batch; if one of them is an error, that error is the batch."""
    for item in items:
        if isinstance(item, UserError):
            return item
    return PairBatch(*(torch.stack(parts) for parts in zip(*items)))


class PairLoader:
    """Endless iterator of PairBatch.

    Attributes:
        position: Items that all processes together have consumed, counting batches handed out, not those that workers
            have prepared ahead. `make_loader(..., position=loader.position)` goes on with the next batch.
    """

    def __init__(self, *, loader: torch.utils.data.DataLoader, position: int, step: int):
        self.position = position
        self._step = step  # items per batch over all processes
        self._batches = iter(loader)

    def __iter__(self) -> "PairLoader":
        return self

    def __next__(self) -> PairBatch:
        """The next batch.

        Raises:
            UserError: A frame of it cannot be read.
        """
        batch = next(self._batches)
        if isinstance(batch, UserError):
            raise batch
        self.position += self._step
        return batch

    def close(self) -> None:
        """End the workers."""
        self._batches = iter(())


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
    sampler = InfiniteSampler(dataset_size=len(dataset), rank=rank, world_size=world_size, seed=seed, position=position)
    loader = torch.utils.data.DataLoader(
        _ErrorsAsItems(dataset),
        batch_sampler=_Batches(sampler, batch_size),
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=_quiet_worker,
        generator=torch.Generator(),  # else it would draw from the global one and disturb a run's reproducibility
    )
    return PairLoader(loader=loader, position=position, step=batch_size * world_size)


class _Batches:
    def __init__(self, sampler: InfiniteSampler, batch_size: int):
        assert batch_size > 0
        self.sampler = sampler
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        stream = iter(self.sampler)
        while True:
            yield [next(stream) for _ in range(self.batch_size)]


class _ErrorsAsItems(torch.utils.data.Dataset):
    """Hands a user's error on as an item: raised in a worker it would arrive as a page of traceback."""

    def __init__(self, dataset: VideoPairDataset):
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> VideoPair | UserError:
        try:
            return self.dataset[key]
        except UserError as error:
            return UserError(str(error))  # without its causes, which may not pickle


def _quiet_worker(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle; it ends its workers
