"""Loader of published checkpoints: pickles of the original system, read without executing anything in them.

Such a file is a dictionary of networks G, D and G_ema, each stored as its attributes together with the Python source
that the original's loader executes. Here (a) a restricted unpickler reads the file as plain data, (b) constructor
arguments become this program's configuration, (c) tensors get this program's names, every one accounted for. Other
commands take such a file wherever they take a snapshot: `training.checkpoints.snapshot` calls `read_published`.
"""

import mmap
import os
from pathlib import Path
from typing import Any

import torch

from dnnlib import UserError, format_bytes, one_line
from training.networks.discriminator import TimeAwareDiscriminators
from training.networks.generator import Generator
from training.published.config import discriminator_config, generator_config
from training.published.modules import PublishedModule
from training.published.pickle_values import Budget, UnreadablePickle, printable
from training.published.safe_unpickler import read_pickle
from training.published.state_dict import (
    map_discriminator_name,
    map_generator_name,
    match_names,
    published_discriminator_name,
    published_generator_name,
    take_state,
)
from training.published.tensors import TensorData, allowed_globals

__all__ = ["build_on_meta", "parse_published", "read_published"]

MAX_BYTES = 8 << 30  # the published files have a quarter of a gigabyte
MAX_KIMG = 1e9


def read_published(path: str | os.PathLike, *, average_only: bool = False) -> dict[str, Any]:
    """The content of a published checkpoint, in the form of a snapshot except for format and version.

    Args:
        average_only: Read only the moving-average generator; the other entries are then missing.

    Raises:
        UserError: The file is damaged, holds something else, or a network with options that have no counterpart.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise UserError(f"{path} has {format_bytes(size)}; no published checkpoint is that large.")
            # Memory-mapped: networks that are not needed are never read.
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    try:
        return parse_published(data, average_only=average_only)
    except UnreadablePickle as error:
        raise UserError(f"{path} {one_line(error)}") from error


def parse_published(data: memoryview, *, average_only: bool = False) -> dict[str, Any]:
    """`read_published` for the bytes of a file.

    Raises:
        UnreadablePickle: See `read_published`; the message continues after the file's name.
    """
    budget = Budget(nested=len(data))
    tree, end = read_pickle(data, allowed=allowed_globals(budget), budget=budget)
    if end != len(data):
        raise UnreadablePickle(f"goes on for {len(data) - end} bytes after its end; download it again.")
    if type(tree) is not dict or "G_ema" not in tree:
        raise UnreadablePickle(
            f"is a Python pickle without a network G_ema ({_summary(tree)}); it is not a checkpoint."
        )
    average = _module(tree, "G_ema")
    _check_family(average)
    tensors = _tensors(average, len(data))
    config = generator_config(average, tensors)
    generator = build_on_meta(Generator, config, "generator")
    num_ws = average.attribute("num_ws")
    if num_ws != generator.num_ws:
        raise UnreadablePickle(f"describes a generator of {generator.num_ws} styles, but says it has {num_ws}.")
    content: dict[str, Any] = {
        "generator": {"config": config, "ema": _generator_state(generator, tensors, "G_ema")},
        "augment": None,
        "dataset": _dataset(tree.get("training_set_kwargs"), config),
        "progress": {"cur_nimg": _videos_shown(average), "tick": 0, "iteration": 0},
    }
    if average_only:
        return content
    content["generator"]["state"] = _generator_state(generator, _tensors(_module(tree, "G"), len(data)), "G")
    module = _module(tree, "D")
    config, tensors = discriminator_config(module), _tensors(module, len(data))
    discriminator = build_on_meta(TimeAwareDiscriminators, config, "discriminator")
    state = _take(discriminator, tensors, map_discriminator_name, published_discriminator_name, "discriminators (D)")
    return content | {"discriminator": {"config": config, "state": state}}


def _module(tree: dict[str, Any], name: str) -> PublishedModule:
    return PublishedModule(tree.get(name), name)


def _summary(tree: Any) -> str:
    if type(tree) is not dict:
        return f"it holds a {type(tree).__name__}"
    names = ", ".join(printable(str(key), 20) for key in list(tree)[:5] if type(key) is str)
    return f"it holds {names or 'nothing'}"


def _check_family(generator: PublishedModule) -> None:
    """Refuse pickles of StyleGAN2 and its relatives, which have the same format."""
    synthesis = generator.child("synthesis")
    if synthesis is None or synthesis.child("fg_nerf") is None:
        kind = "a generator without a synthesis network" if synthesis is None else printable(synthesis.class_name, 40)
        raise UnreadablePickle(
            f"is an image pickle of StyleGAN2 or a relative of it ({kind}): it has no 3D field, and this program "
            "renders only 3D video generators."
        )


def _tensors(module: PublishedModule, available: int) -> dict[str, TensorData]:
    tensors = module.tensors()
    if sum(tensor.nbytes for tensor in tensors.values()) > available:
        raise UnreadablePickle(f"holds fewer bytes than the tensors of '{module.path}' have; it is malicious.")
    return tensors


def build_on_meta(kind: type, config: dict[str, Any], what: str) -> Any:
    """The network on the meta device, so that no memory is allocated for the sizes that a file claims."""
    try:
        with torch.device("meta"):
            return kind(**config)
    except (TypeError, ValueError, KeyError, RuntimeError, ArithmeticError) as error:
        about = printable(one_line(error), 300)
        raise UnreadablePickle(f"describes a {what} that cannot be built: {about}") from error


def _generator_state(generator: Generator, tensors: dict[str, TensorData], name: str) -> dict[str, torch.Tensor]:
    motion = {} if generator.motion is None else {"motion_layers": len(generator.motion.layers) + 1}
    return _take(
        generator,
        tensors,
        lambda published: map_generator_name(published, **motion),
        lambda ours: published_generator_name(ours, **motion),
        f"generator ({name})",
    )


def _take(network, tensors: dict[str, TensorData], rename, restore, what: str) -> dict[str, torch.Tensor]:
    try:
        matched = match_names({name: tensor.shape for name, tensor in tensors.items()}, network, rename, restore)
    except ValueError as error:
        raise UnreadablePickle(f"does not fit the {what} that it describes: {error}") from error
    return take_state(matched, {name: tensors[name].read().float() for name in matched.values()}, network)


def _videos_shown(generator: PublishedModule) -> int:
    """Progress of the training in videos; the original stores it on the synthesis network, in thousands."""
    synthesis = generator.child("synthesis")
    kimg = None if synthesis is None else synthesis.attribute("steps")
    return round(kimg * 1000) if type(kimg) in (int, float) and 0 <= kimg <= MAX_KIMG else 0


def _dataset(arguments: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Description of the training data, without paths as in our own snapshots."""
    arguments = arguments if type(arguments) is dict else {}
    known = {"c_dim": config["c_dim"], "resolution": config["resolution"]}
    if type(arguments.get("path")) is str:
        known["name"] = printable(arguments["path"].rstrip("/").rpartition("/")[2])
    for name, ours, kind in (("nframes", "nframes", int), ("xflip", "mirror", bool), ("max_size", "num_videos", int)):
        if type(arguments.get(name)) is kind:
            known[ours] = arguments[name]
    return known
