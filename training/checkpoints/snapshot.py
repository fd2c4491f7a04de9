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

import contextlib
import importlib
import numbers
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.parametrize import type_before_parametrizations

from dnnlib import UserError, is_number, one_line
from torch_utils.caller_settings import without_defaults
from torch_utils.memory import explain_loading, is_out_of_memory
from training.checkpoints.archive import VERSION, is_pickle, read_archive, save_archive
from training.checkpoints.snapshot_files import LATEST, keep_as_latest, latest_snapshot, snapshot_name
from training.networks.discriminator import TimeAwareDiscriminators
from training.networks.generator import Generator

__all__ = [
    "SNAPSHOT_FORMAT",
    "average_generator",
    "check_class",
    "check_rebuilt",
    "check_state",
    "checkpoint_file",
    "load_average_generator",
    "load_snapshot",
    "load_state",
    "network_class",
    "own_class",
    "same_class",
    "save_snapshot",
    "snapshot_progress",
    "stored_discriminators",
]

SNAPSHOT_FORMAT = "video-3d-gan/network-snapshot"
KINDS: dict[str, type[torch.nn.Module]] = {"generator": Generator, "discriminator": TimeAwareDiscriminators}
#: Attributes of networks that are states or hints of the moment, not parts of the function.
STATES = ("activation_checkpointing", "config", "half_precision", "label_examples", "one_hot_labels", "training")
MODULE_ATTRIBUTES = frozenset(vars(torch.nn.Module()))  # PyTorch's own: parameters, hooks, …
MAX_NUMBER = 1 << 16  # no whole number among the arguments of a network is larger


# ----------------------------------------------------------------------------------------------------------------------
# Loading weights


def check_state(
    module: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    what: str,
    source: object,
    besides: Collection[str] = (),
) -> None:
    """Compare the names and shapes of tensors with those of a network, which may be on the meta device.

    Args:
        what: The network, for messages: 'the generator'.
        source: Origin of the tensors, for messages.
        besides: Names that `state` need not have.

    Raises:
        UserError: Tensors are missing, left over or of another shape; the message names them.
    """
    problems = _problems(module, state, besides)
    if problems:
        raise UserError(
            f"{source} does not fit {what}: {_first(problems)}. Use the model, resolution and options that it was "
            "trained with."
        )


def check_rebuilt(network: torch.nn.Module, *, what: str, fresh: bool = False) -> None:
    """Refuse to save a network that its `config` would not rebuild identically.

    Args:
        what: The network, for messages: 'the generator'.
        fresh: It has just been built, so that private attributes are no caches yet, and are compared, too.

    Raises:
        UserError: It has other tensors, parts (layers, cameras, render settings, …) or numbers in them; the message
            names them. Values of tensors outside of `state_dict()` are not compared, only their shapes.
    """
    with torch.device("meta"):
        again = _build(type_before_parametrizations(network), network.config, what=what, source="the config")
    if fresh:  # perhaps without values, on the device meta
        shapes, others = ({name: x.shape for name, x in one.state_dict().items()} for one in (network, again))
        problems = [] if shapes == others else ["its tensors differ"]
    else:
        problems = _problems(again, network.state_dict(), ())
    modules = dict(again.named_modules())
    for path, module in network.named_modules():
        other = modules.get(path)
        if other is None:  # its tensors are left over; without any it changes nothing, unless it parametrizes a weight
            if "parametrizations" in path.split("."):
                problems.append(f"{path} is left over")
            continue
        own = type_before_parametrizations(module)
        if own is not type_before_parametrizations(other):  # PyTorch makes a class for each parametrized module
            problems.append(f"{path} is another class")
        foreign = not own.__module__.startswith(("training.", "torch."))  # a class of the user's own
        for name, value in vars(module).items():
            if name in MODULE_ATTRIBUTES or name in STATES or name not in vars(other):
                continue
            rebuilt = vars(other)[name]
            cache = not fresh and (name.startswith("_") or (foreign and rebuilt is None))
            if not cache and not _equal(value, rebuilt):
                problems.append(f"{path}.{name} differs".lstrip("."))
    if problems:
        raise UserError(
            f"{what} cannot be saved, since its config would rebuild a different network: {_first(problems)}. Change "
            "the config as well, remove parametrizations, or derive a class of your own."
        )


def _equal(one: Any, other: Any, depth: int = 8) -> bool:
    """Equality of two attributes of networks as far as they consist of plain values; tensors may have none (meta).

    Args:
        depth: Levels of containers and objects that are compared, since objects may refer to one another.
    """
    if one is other or depth == 0:
        return True
    if isinstance(one, numbers.Number) and isinstance(other, numbers.Number):
        return bool(one == other or (one != one and other != other))
    if isinstance(one, Sequence) and isinstance(other, Sequence) and not isinstance(one, (str, bytes)):
        # A list equals a tuple: config.json holds lists only.
        return len(one) == len(other) and all(_equal(a, b, depth - 1) for a, b in zip(one, other, strict=True))
    if type_before_parametrizations(one) is not type_before_parametrizations(other):
        return False
    if isinstance(one, (str, bytes, set, frozenset, type, np.generic, torch.dtype)):
        return bool(one == other)
    if isinstance(one, (torch.Tensor, np.ndarray)):
        unknown = isinstance(one, torch.Tensor) and (one.is_meta or other.is_meta)
        return one.shape == other.shape and (unknown or _equal(one.tolist(), other.tolist()))
    if isinstance(one, torch.nn.Module):
        return True  # a part of the network, which is compared by itself
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key], depth - 1) for key in one)
    # Priors, encodings, settings and other objects; private attributes and those of one of them may be caches.
    held, own = (getattr(value, "__dict__", {}) for value in (one, other))
    return all(_equal(held[key], own[key], depth - 1) for key in held.keys() & own.keys() if not key.startswith("_"))


def _first(problems: Sequence[str]) -> str:
    return "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")


def _problems(module: torch.nn.Module, state: Mapping[str, torch.Tensor], besides: Collection[str]) -> list[str]:
    """Differences between the tensors of a network, which may be on the meta device, and those of a state."""
    from training.published.pickle_values import printable

    own = module.state_dict()
    problems = [f"{name} is missing" for name in own if name not in state and name not in besides]
    problems += [f"{printable(str(name))} is left over" for name in state if name not in own]
    problems += [
        f"{name} is {_form(state[name])} instead of {_shape(own[name])}"
        for name in own
        if name in state and _form(state[name]) != _shape(own[name])
    ]
    return problems


def load_state(module: torch.nn.Module, state: Mapping[str, torch.Tensor], *, what: str, source: object) -> None:
    """Copy tensors into a network after `check_state`."""
    check_state(module, state, what=what, source=source)
    module.load_state_dict(dict(state))


def _form(value: Any) -> str:
    """Description of a file's entry where a tensor is expected: its shape, or what it is instead."""
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    dense = value.layout == torch.strided and not value.is_meta and not value.is_complex()
    return _shape(value) if dense else "not a dense tensor of real numbers"


def _shape(tensor: torch.Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a scalar"


def _build(built: type, config: Any, *, what: str, source: object) -> Any:
    """A network from the arguments stored in a snapshot.

    Raises:
        UserError: The arguments are not those of the class `built`.
        RuntimeError: The memory is full.
    """
    try:
        for _, value in large_numbers(config):
            raise ValueError(f"an argument is {value}.")
        with torch.random.fork_rng(devices=[]):  # does not advance the caller's random numbers
            return built(**config)
    except (TypeError, ValueError, KeyError, RuntimeError, ArithmeticError) as error:
        if is_out_of_memory(error):
            raise
        from training.published.pickle_values import printable

        about = printable(one_line(error), 300)
        raise UserError(f"{source} describes {what} that cannot be built: {about}") from error


def large_numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Name and value of whole numbers beyond `MAX_NUMBER`: as sizes, they would fill the memory."""
    for name, argument in config.items():
        values = argument if isinstance(argument, Mapping) else {"": argument}
        for key, value in values.items():
            if isinstance(value, int) and abs(value) > MAX_NUMBER:
                yield f"{name}.{key}".rstrip("."), value


# ----------------------------------------------------------------------------------------------------------------------
# Classes of a user's own


def class_name(network: type) -> str:
    """'module.Class', for `network_class`."""
    return f"{network.__module__}.{network.__qualname__}"


def network_class(name: str) -> type[torch.nn.Module]:
    """A network's class by its dotted name; its module may be in the working folder.

    This runs the module: `name` must come from the user (options, conf/), not from a file of unknown origin.

    Raises:
        ValueError: There is no such class, or it is not a torch.nn.Module.
    """
    with contextlib.suppress(OSError):  # a working folder that has been deleted
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # last, so that no file there hides a module of the program
    module, _, attribute = str(name).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"there is no class {name} ({one_line(error)}).") from error
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        raise ValueError(f"{name} is not a torch.nn.Module.")
    return found


def same_class(one: str | None, other: str | None) -> bool:
    """True if two dotted names may be of one class: in a script that is run, its module is called __main__.

    Args:
        one, other: The names; None for the class of this program.
    """
    if one is None or other is None:
        return one is other
    pairs = ((one, other), (other, one))
    return one == other or any(a.startswith("__main__.") and b.endswith(a.removeprefix("__main__")) for a, b in pairs)


def own_class(network: torch.nn.Module) -> dict[str, str]:
    """The entry `class` of a snapshot; empty for a class of this program."""
    own = type_before_parametrizations(network)
    return {} if own in KINDS.values() else {"class": class_name(own)}


def _stored_class(
    kind: str, name: str | None, given: type[torch.nn.Module] | None, *, source: object
) -> type[torch.nn.Module]:
    """The class to build for a network ('generator', 'discriminator') of class `name`, if it was asked for.

    Args:
        name: As stored; None for the class of this program.
        given: The caller's class.
    """
    if name is None:
        return KINDS[kind]
    from training.published.pickle_values import printable

    variable, stored = f"{kind.upper()}_CLASS", str(name)
    if given is not None:
        if same_class(class_name(given), stored):
            return given
        raise UserError(
            f"{source} holds a {kind} of another class, {printable(stored)}, than {kind}_class, {class_name(given)}."
        )
    asked = os.environ.get(variable)
    if asked is not None and same_class(asked, stored):
        try:
            return network_class(asked)
        except ValueError as error:
            raise UserError(f"{variable}: {error}") from error
    script = " (with the name of its module in place of __main__)" if stored.startswith("__main__.") else ""
    raise UserError(
        f"{source} holds a {kind} of another class, {printable(stored)}. Its code is run only if asked for: set "
        f"the environment variable {variable} to this name{script} if you trust it (in Python: give {kind}_class)."
    )


def check_class(kind: str, network: torch.nn.Module, given: type | None, *, source: object) -> None:
    """Raise a ValueError if a snapshot's network is of this program's class and another one was `given`."""
    own = type_before_parametrizations(network)
    if given not in (None, own):
        raise ValueError(f"{kind}_class is {class_name(given)}, but {source} holds a {class_name(own)}; leave it out.")


# ----------------------------------------------------------------------------------------------------------------------
# Snapshots


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
    built = _stored_class("generator", content["generator"].get("class"), generator_class, source=source)
    config, state = content["generator"]["config"], content["generator"]["ema"]
    generator = _loaded(built, config, state, kind="generator", source=source, device=device)
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
    built = _stored_class("discriminator", entry.get("class"), discriminator_class, source=source)
    return _loaded(built, entry["config"], entry["state"], kind="discriminator", source=source, device=device)


def _loaded(
    built: type,
    config: Any,
    state: Mapping[str, torch.Tensor],
    *,
    kind: str,
    source: str | os.PathLike,
    device: torch.device | str,
) -> Any:
    """A network with its tensors, in evaluation mode and without gradients."""
    what = f"the {kind} that it describes"
    with explain_loading(source), without_defaults():
        with torch.device("meta"):  # compare the claimed sizes with the tensors before memory is allocated
            check_state(_build(built, config, what=f"a {kind}", source=source), state, what=what, source=source)
        network = _build(built, config, what=f"a {kind}", source=source)
        # The default type is one of all threads: if another one has changed it meanwhile, values would be rounded.
        for name, tensor in network.state_dict(keep_vars=True).items():
            if name in state and tensor.dtype in (torch.float16, torch.bfloat16) and tensor.dtype != state[name].dtype:
                tensor.data = tensor.data.float()
        load_state(network, state, what=what, source=source)
        network.eval().requires_grad_(False)
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point() and not tensor.isfinite().all():  # images would silently be black
                raise UserError(
                    f"{source}: {name} of the {kind} holds nan or inf, its training has diverged: take another."
                )
        return network.to(device)
