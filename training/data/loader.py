"""Real data of a training run, built from its options: folders of frames, or tar files of clips."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from dnnlib import UserError
from training.data.annotations import is_shards
from training.data.dataset import VideoPairDataset, num_shards

if TYPE_CHECKING:
    from training.data.pair_loader import PairLoader
    from training.data.webdataset import ShardPairDataset

__all__ = ["PairDataset", "build_dataset", "build_loader"]

WORKERS_PER_GPU = 3  # with workers=null, the default

PairDataset: TypeAlias = "VideoPairDataset | ShardPairDataset"


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
    from training.data.webdataset import ShardPairDataset  # rarely needed

    return ShardPairDataset(**shared)


def build_loader(
    options: Mapping[str, Any],
    *,
    dataset: PairDataset,
    position: int,
    rank: int,
    world_size: int,
    pin_memory: bool,
) -> "PairLoader":
    """Batches of real data for one process.

    Args:
        position: Videos that all processes together have consumed.
        pin_memory: See training.data.frames_loader.make_loader; true on a GPU.
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
    # Imported here: a dry run loads nothing, and few datasets are tar files.
    if num_shards(dataset) is None:
        from training.data.frames_loader import make_loader

        return make_loader(dataset, **shared, seed=options["seed"])
    from training.data.webdataset_loader import make_shard_loader

    return make_shard_loader(dataset, **shared)
