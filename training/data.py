"""The real data of a training run, built from its options: folders of frames, or tar files of clips."""

from collections.abc import Mapping
from typing import Any

from dnnlib import UserError
from training.dataset import VideoPairDataset
from training.sampler import PairLoader, make_loader
from training.shard_files import is_shards
from training.shard_loader import make_shard_loader
from training.shards import ShardPairDataset

__all__ = ["PairDataset", "build_dataset", "build_loader"]

PairDataset = VideoPairDataset | ShardPairDataset


def build_dataset(options: Mapping[str, Any]) -> PairDataset:
    """The real data: folders of frames, or tar files of clips.

    Raises:
        UserError: There is none, or it does not suit the options.
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
        pin_memory: See training.sampler.make_loader.
    """
    shared = {
        "batch_size": options["spec"]["mb"] // world_size,
        "workers": options["workers"],
        "position": position,
        "rank": rank,
        "world_size": world_size,
        "pin_memory": pin_memory,
    }
    if isinstance(dataset, ShardPairDataset):
        return make_shard_loader(dataset, **shared)
    return make_loader(dataset, **shared, seed=options["seed"])
