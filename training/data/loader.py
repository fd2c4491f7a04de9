"""Real data of a training run, built from its options: folders of frames, or tar files of clips."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from dnnlib import UserError
from training.data.dataset import VideoPairDataset, check_counts
from training.data.sampler import PairBatch, PairLoader, empty_batch, load_batches, make_loader
from training.data.webdataset import EncodedPair, ShardPairDataset
from training.data.webdataset_files import is_shards

__all__ = ["PairDataset", "build_dataset", "build_loader", "check_shards", "make_shard_loader"]

WORKERS_PER_GPU = 3  # with workers=null, the default


# ----------------------------------------------------------------------------------------------------------------------
# Batches from shards: each worker of each process has its own partition (training.data.webdataset)


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


def check_shards(dataset: Any, processes: int) -> None:
    """Raise a UserError if there are fewer shards than processes; other datasets can be split among any number."""
    if isinstance(dataset, ShardPairDataset) and dataset.num_shards < processes:
        shards = "1 shard" if dataset.num_shards == 1 else f"{dataset.num_shards} shards"
        raise UserError(
            f"{shards} cannot be split over {processes} processes: use fewer (gpus=), or write more and smaller shards "
            "(--shard-clips)."
        )


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
    """Batches of shards; the arguments are those of training.data.sampler.make_loader.

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


# ----------------------------------------------------------------------------------------------------------------------
# Datasets and loaders from options


PairDataset = VideoPairDataset | ShardPairDataset


def build_dataset(options: Mapping[str, Any]) -> PairDataset:
    """The dataset of real videos: folders of frames, or tar files of clips.

    Raises:
        UserError: There is no data, or it does not fit the options.
    """
    shared = {
        "path": options["data"],
        "resolution": options["resolution"],
        "nframes": options["nframes"],
        "frame_stride": options["frame_stride"],
        "mirror": options["mirror"],
        "use_labels": options["cond"],
        "use_cameras": options["camera_condition"],
        "seed": options["seed"],
    }
    if not is_shards(options["data"]):
        return VideoPairDataset(**shared, subset=options["subset"])
    if options["subset"] is not None:
        raise UserError("subset= does not go with tar files: give fewer of them, e.g. data='faces-{000..003}.tar'.")
    return ShardPairDataset(**shared)


def build_loader(
    options: Mapping[str, Any],
    *,
    dataset: PairDataset,
    position: int,
    rank: int,
    world_size: int,
    pin_memory: bool,
) -> PairLoader:
    """Batches of real data for one process.

    Args:
        position: Videos that all processes together have consumed.
        pin_memory: See training.data.sampler.make_loader; true on a GPU.
    """
    workers = options["workers"]
    if workers is None:  # not stored with the run, which may continue on another device
        workers = WORKERS_PER_GPU if pin_memory else 0  # a CPU that trains has no time to decode ahead
    shared = {
        "batch_size": options["spec"]["mb"] // world_size,
        "workers": workers,
        "position": position,
        "rank": rank,
        "world_size": world_size,
        "pin_memory": pin_memory,
    }
    if isinstance(dataset, ShardPairDataset):
        return make_shard_loader(dataset, **shared)
    return make_loader(dataset, **shared, seed=options["seed"])
