"""The order of items: one endless sequence for any number of processes and workers.

It is made of seeded permutations of the whole dataset, one after another. With `world_size` processes, its item k goes
to process k mod world_size. So an epoch holds every item exactly once over all processes, and a single number, the
items consumed so far, is the whole state: a run that continues from it, even with another number of processes or
workers, gets the items it would have got.
"""

import numbers
from collections.abc import Iterator

import numpy as np

from training.data.dataset import check_counts, check_seed, random_block

__all__ = ["InfiniteSampler"]

KEY_ORDER = 3  # use of a seed; see training.data.dataset


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
