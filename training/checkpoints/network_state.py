"""Networks from their stored arguments (`config`) and tensors (`state_dict()`), and comparisons with these."""

import numbers
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.parametrize import type_before_parametrizations

from dnnlib import UserError, one_line
from torch_utils.caller_settings import without_defaults
from torch_utils.memory import explain_loading, is_out_of_memory

__all__ = [
    "MAX_NUMBER",
    "build_network",
    "check_rebuilt",
    "check_state",
    "large_numbers",
    "load_state",
    "restore_network",
]

#: Attributes of networks that are states or hints of the moment, not parts of the function.
STATES = ("activation_checkpointing", "config", "half_precision", "label_examples", "one_hot_labels", "training")
MODULE_ATTRIBUTES = frozenset(vars(torch.nn.Module()))  # PyTorch's own: parameters, hooks, …
MAX_NUMBER = 1 << 16  # no whole number among the arguments of a network is larger


def build_network(built: type, config: Any, *, what: str, source: object) -> Any:
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


def restore_network(
    built: type,
    config: Any,
    state: Mapping[str, torch.Tensor],
    *,
    kind: str,
    source: str | os.PathLike,
    device: torch.device | str,
) -> Any:
    """A network with its tensors, in evaluation mode and without gradients.

    Raises:
        UserError: The arguments or the tensors do not fit the class `built`, a tensor has values that are not finite,
            or the memory is full.
    """
    what = f"the {kind} that it describes"
    with explain_loading(source), without_defaults():
        with torch.device("meta"):  # compare the claimed sizes with the tensors before memory is allocated
            check_state(build_network(built, config, what=f"a {kind}", source=source), state, what=what, source=source)
        network = build_network(built, config, what=f"a {kind}", source=source)
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


def load_state(module: torch.nn.Module, state: Mapping[str, torch.Tensor], *, what: str, source: object) -> None:
    """Copy tensors into a network after `check_state`."""
    check_state(module, state, what=what, source=source)
    module.load_state_dict(dict(state))


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
        again = build_network(type_before_parametrizations(network), network.config, what=what, source="the config")
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


def large_numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Name and value of whole numbers beyond `MAX_NUMBER`: as sizes, they would fill the memory."""
    for name, argument in config.items():
        values = argument if isinstance(argument, Mapping) else {"": argument}
        for key, value in values.items():
            if isinstance(value, int) and abs(value) > MAX_NUMBER:
                yield f"{name}.{key}".rstrip("."), value


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


def _first(problems: Sequence[str]) -> str:
    return "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")


def _form(value: Any) -> str:
    """Description of a file's entry where a tensor is expected: its shape, or what it is instead."""
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    dense = value.layout == torch.strided and not value.is_meta and not value.is_complex()
    return _shape(value) if dense else "not a dense tensor of real numbers"


def _shape(tensor: torch.Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a scalar"
