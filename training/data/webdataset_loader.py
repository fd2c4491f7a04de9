"""Batches of clips from shards. Each worker of each process has its own partition (training.data.webdataset)."""

import itertools
from collections.abc import Iterator, Sequence

import torch

from dnnlib import UserError
from training.data.dataset import check_counts, check_shards
from training.data.pair_loader import PairBatch, PairLoader, empty_batch, load_batches
from training.data.webdataset import EncodedPair, ShardPairDataset

__all__ = ["make_shard_loader"]


class _Stream(torch.utils.data.IterableDataset):
    """Batches of one process, each from one of its partitions in turn."""

    def __init__(
        self, dataset: ShardPairDataset, *, batch_size: int, partitions: int, rank: int, world_size: int, batches: int
    ):
        self._dataset = dataset
        self._batch_size = batch_size
        self._partitions = partitions
        self._rank = rank
        self._world_size = world_size
        self._batches = batches  # consumed so far by this process

    def __iter__(self) -> Iterator[tuple[PairBatch | None, list[str]]]:
        worker = torch.utils.data.get_worker_info()
        # The loader takes its first batch from its first worker, which therefore gets the next partition.
        partition = (self._batches + (0 if worker is None else worker.id)) % self._partitions
        consumed = (self._batches - partition + self._partitions - 1) // self._partitions
        items = self._dataset.partition(
            self._rank * self._partitions + partition,
            partitions=self._world_size * self._partitions,
            skip=consumed * self._batch_size,
        )
        while True:
            batch, problems = self._decoded(list(itertools.islice(items, self._batch_size)))
            if batch is None:  # all clips of a damaged shard
                try:
                    clips = self._dataset.first_clips(self._batch_size)
                    batch = PairBatch(*(torch.stack(parts) for parts in zip(*clips)))
                except UserError:
                    problems[-1] += " No other clip can be read either."
            yield batch, problems

    def _decoded(self, items: Sequence[EncodedPair | UserError]) -> tuple[PairBatch | None, list[str]]:
        """A batch, with unreadable items replaced by the first readable one (None if there is none), and the errors."""
        parts = frames, dt, c = empty_batch(self._dataset, len(items))
        readable, unreadable, problems = [], [], []
        for place, item in enumerate(items):
            try:
                dt[place], c[place] = self._dataset.decode_into(frames[place], item)
                readable.append(place)
            except UserError as error:
                unreadable.append(place)
                problems.append(str(error))
        if not readable:
            return None, problems
        for part in parts:
            part[unreadable] = part[readable[0]]
        return PairBatch(*map(torch.from_numpy, parts)), problems


def make_shard_loader(
    dataset: ShardPairDataset,
    *,
    batch_size: int,
    workers: int = 0,
    position: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> PairLoader:
    """Batches of shards; the arguments are those of training.data.frames_loader.make_loader.

    At most one worker per shard is used.

    Raises:
        UserError: There are fewer shards than processes, a batch without items, or no processes.
    """
    check_counts(batch_size=batch_size, world_size=world_size)
    check_shards(dataset, world_size)
    workers = min(workers, dataset.num_shards // world_size)

    def start(position: int) -> Iterator:
        stream = _Stream(
            dataset,
            batch_size=batch_size,
            partitions=max(workers, 1),
            rank=rank,
            world_size=world_size,
            batches=position // (batch_size * world_size),
        )
        return load_batches(stream, workers=workers, pin_memory=pin_memory)

    return PairLoader(start=start, position=position, step=batch_size * world_size)
