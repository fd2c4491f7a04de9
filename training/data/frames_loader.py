"""Batches of pairs from folders and zips of frames, in the order of InfiniteSampler.

An unreadable item is replaced by another one, chosen by its random key, and counted.
"""

from collections.abc import Iterator

import torch

from dnnlib import UserError
from training.data.dataset import VideoPairDataset, check_counts, check_seed, random_block
from training.data.pair_loader import PairBatch, PairLoader, empty_batch, load_batches
from training.data.sampler import InfiniteSampler

__all__ = ["make_loader"]

KEY_REPLACEMENTS = 4  # use of a seed; see training.data.dataset
REPLACEMENTS = 15  # items that are tried in place of an unreadable one


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
