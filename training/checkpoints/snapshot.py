"""Network snapshots: the networks of a training run, for rendering, transfer and evaluation, in one archive:

    format, version     of the archive (training.checkpoints.archive)
    generator           config (arguments of Generator), state, ema (the moving average, which is rendered);
                        class (dotted name) if it is not this program's Generator
    discriminator       config (arguments of TimeAwareDiscriminators), state; class, as for the generator
    augment             config and state of the adaptive augmentation, or None
    dataset             description of the training data
    progress            cur_nimg (videos shown so far), tick, iteration, planned (False: written on a stop)

The file is a torch archive, `.pt`, under the names of training.checkpoints.snapshot_files.

Networks are rebuilt from the stored arguments. Opening a file never imports code that it names: a network of a user's
own class is built only if the caller gives the class, or the environment variable GENERATOR_CLASS (DISCRIMINATOR_CLASS)
names it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dnnlib import UserError, is_number
from torch_utils.memory import explain_loading
from training.checkpoints.archive import VERSION, is_pickle, read_archive, save_archive
from training.checkpoints.network_classes import own_class, stored_class
from training.checkpoints.network_state import restore_network
from training.checkpoints.snapshot_files import LATEST, keep_as_latest, latest_snapshot, snapshot_name
from training.networks.discriminator import TimeAwareDiscriminators
from training.networks.generator import Generator

__all__ = [
    "SNAPSHOT_FORMAT",
    "average_generator",
    "checkpoint_file",
    "load_average_generator",
    "load_snapshot",
    "save_snapshot",
    "snapshot_progress",
    "stored_discriminators",
]

SNAPSHOT_FORMAT = "video-3d-gan/network-snapshot"


def save_snapshot(
    folder: str | os.PathLike,
    *,
    generator: torch.nn.Module,
    generator_ema: torch.nn.Module,
    discriminator: torch.nn.Module,
    augment: torch.nn.Module | None,
    dataset: Mapping[str, Any],
    progress: Mapping[str, int],
    numbered: bool = True,
) -> Path:
    """Write `network-snapshot-<kimg>.pt` and link `latest-network-snapshot.pt` to it; returns the former.

    A latest snapshot under the name of earlier versions is deleted, because it is no longer the latest.

    Args:
        numbered: False writes and returns `latest-network-snapshot.pt` only.
    """
    path = Path(folder) / (snapshot_name(progress["cur_nimg"]) if numbered else LATEST)
    content = {
        "format": SNAPSHOT_FORMAT,
        "version": VERSION,
        "generator": {
            "config": generator.config,
            "state": generator.state_dict(),
            "ema": generator_ema.state_dict(),
            **own_class(generator),
        },
        "discriminator": {
            "config": discriminator.config,
            "state": discriminator.state_dict(),
            **own_class(discriminator),
        },
        "augment": None if augment is None else {"config": augment.config, "state": augment.state_dict()},
        "dataset": dataset,
        "progress": progress,
    }
    save_archive(path, content)
    keep_as_latest(path)
    return path


def checkpoint_file(source: str | os.PathLike) -> Path:
    """The file that holds the generator of a checkpoint: see `load_snapshot`, also for errors."""
    from training.checkpoints.pretrained import MODEL, is_pretrained
    from training.checkpoints.sources import local_checkpoint

    path = local_checkpoint(source)
    try:
        if is_pretrained(path):
            return path / MODEL
        return latest_snapshot(path) if path.is_dir() else path
    except PermissionError as error:  # of a folder above it
        raise UserError(f"Cannot read {error.filename or path}: you have no permission.") from error


def load_snapshot(path: str | os.PathLike, *, average_only: bool = False) -> dict:
    """The content of a snapshot (see the top of this file), or of a published checkpoint in the same form.

    Args:
        path: The file, a run folder (its newest snapshot), a folder of `training.checkpoints.pretrained`, or a remote
            source, see `training.checkpoints.sources`.
        average_only: Only `generator.ema` is needed; the other states may be missing in the result.

    Raises:
        UserError: See `read_archive`; or the snapshot is incomplete, or cannot be downloaded.
    """
    # Imported only where something is loaded: most trainings start from scratch.
    from training.checkpoints.pretrained import MODEL, is_pretrained, read_pretrained

    path = checkpoint_file(path)
    if path.name == MODEL and is_pretrained(path.parent):
        return _described(read_pretrained(path.parent, average_only=average_only))
    if is_pickle(path):
        from training.published.loader import read_published

        with explain_loading(path):
            return _described(read_published(path, average_only=average_only))
    part = ("generator", "ema") if average_only else ()
    content = read_archive(path, format=SNAPSHOT_FORMAT, what="a network snapshot", part=part)
    for name, parts in (("generator", ("config", "state", "ema")), ("discriminator", ("config", "state"))):
        entry = content.get(name)
        missing = [part for part in parts if not isinstance(entry, dict) or not isinstance(entry.get(part), dict)]
        if missing:
            raise UserError(f"{path} is not a complete network snapshot: it has no {name}.{missing[0]}.")
    return _described(content)


def snapshot_progress(path: str | os.PathLike) -> Mapping[str, int]:
    """The progress stored in a snapshot (or a run folder's newest one); empty if the file is missing or damaged."""
    try:
        return load_snapshot(path, average_only=True)["progress"]
    except UserError:
        return {}


def _described(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a snapshot in whatever form, with descriptions of data and progress, which may be empty.

    The latter holds numbers only, which readers divide; a damaged entry counts as missing.
    """
    about = {name: value if isinstance(value := content.get(name), dict) else {} for name in ("dataset", "progress")}
    about["progress"] = {
        name: value for name, value in about["progress"].items() if isinstance(value, bool) or is_number(value)
    }
    return {"format": SNAPSHOT_FORMAT, "version": VERSION} | dict(content) | about


def load_average_generator(
    path: str | os.PathLike,
    *,
    device: torch.device | str = "cpu",
    generator_class: type[torch.nn.Module] | None = None,
) -> Generator:
    """The moving-average generator of a snapshot (or of a run folder's newest one), ready for rendering.

    It is in evaluation mode and its parameters require no gradients. Only its own tensors are read from the disk.

    Args:
        generator_class: A user's own class, which the snapshot must name; takes the place of GENERATOR_CLASS.

    Raises:
        UserError: The file is missing, is something else, does not fit, or names a class that was not asked for; or
            the memory is full.
    """
    content = load_snapshot(path, average_only=True)
    return average_generator(content, source=path, device=device, generator_class=generator_class)


def average_generator(
    content: Mapping[str, Any],
    *,
    source: str | os.PathLike,
    device: torch.device | str = "cpu",
    generator_class: type[torch.nn.Module] | None = None,
) -> Generator:
    """The moving-average generator of a snapshot's content, ready for rendering.

    Args:
        content: Result of `load_snapshot`.
        source: Its file, for messages.

    Raises:
        UserError: See `load_average_generator`; or the labels of its data do not fit it.
    """
    built = stored_class("generator", content["generator"].get("class"), generator_class, source=source)
    config, state = content["generator"]["config"], content["generator"]["ema"]
    generator = restore_network(built, config, state, kind="generator", source=source, device=device)
    generator.label_examples = _label_examples(content["dataset"], generator, source=source)
    generator.one_hot_labels = generator.c_dim > 0 and content["dataset"].get("label_examples", ()) is None
    return generator


def _label_examples(dataset: Mapping[str, Any], generator: Generator, *, source: object) -> torch.Tensor | None:
    """`Generator.label_examples` from the description of the dataset."""
    listed = dataset.get("label_examples")
    if listed is None:
        return None
    try:
        examples = torch.tensor(listed, dtype=torch.float32, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError):
        examples = torch.zeros(0)
    if examples.ndim != 2 or examples.shape[1] != generator.c_dim or not len(examples) or not examples.isfinite().all():
        raise UserError(f"{source}: dataset.label_examples are not labels of {generator.c_dim} numbers: it is damaged.")
    return examples


def stored_discriminators(
    content: Mapping[str, Any],
    *,
    source: str | os.PathLike,
    device: torch.device | str = "cpu",
    discriminator_class: type[torch.nn.Module] | None = None,
) -> TimeAwareDiscriminators:
    """The discriminators of a snapshot's content, in evaluation mode.

    Args:
        content: Complete result of `load_snapshot`.
        source: Its file, for messages.
        discriminator_class: A user's own class, which the snapshot must name; takes the place of DISCRIMINATOR_CLASS.

    Raises:
        UserError: They do not fit, or are of a class that was not asked for; or the memory is full.
    """
    entry = content["discriminator"]
    built = stored_class("discriminator", entry.get("class"), discriminator_class, source=source)
    return restore_network(built, entry["config"], entry["state"], kind="discriminator", source=source, device=device)
