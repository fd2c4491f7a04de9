"""Argument checks: numbers, tensors, devices, random streams.

A wrong type or value raises a ValueError of one line: which argument, what is allowed, and what was given. Checks read
types, shapes and devices only, unless stated otherwise, so that they never wait for a GPU.
"""

import math
import numbers
import random
import reprlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dnnlib import one_line

__all__ = [
    "Shaped",
    "check_floats",
    "check_images",
    "check_network",
    "check_number",
    "check_placement",
    "check_range",
    "check_stream",
    "check_tensors",
    "is_list",
    "shown",
    "whole_number",
]

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
PLAIN = (type(None), str, bytes, numbers.Number, list, tuple, range, set, dict)  # shown by value

#: A tensor and its dimensions: numbers, or letters that stand for one size wherever they occur.
Shaped = tuple[Any, Sequence[int | str]]


def check_number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, inclusive: bool = False
) -> None:
    """Refuse all but finite numbers between two bounds, which are themselves allowed if `inclusive`.

    Numbers are those of Python and NumPy, and tensors without dimensions.
    """
    number = _scalar(value)
    fits = isinstance(number, (int, float)) and not isinstance(number, bool)
    fits = fits and abs(number) <= sys.float_info.max and (low < number < high or (inclusive and number in (low, high)))
    if fits:
        return
    if math.isinf(low) and math.isinf(high):
        allowed = "a finite number"
    elif math.isinf(high):
        allowed = f"a finite number {'of at least' if inclusive else 'above'} {low:g}"
    else:
        allowed = f"a number from {low:g} to {high:g}" if inclusive else f"a number between {low:.5g} and {high:.5g}"
    raise ValueError(f"{name} must be {allowed}, got {shown(value)}.")


def whole_number(name: str, value: Any, *, low: int | None = None) -> int:
    """The value as an int; refuses all but integers (of Python, NumPy or a tensor) of at least `low`."""
    number = _scalar(value)
    whole = isinstance(number, int) and not isinstance(number, bool)
    if not whole or (low is not None and number < low):
        bound = "" if low is None else f" of at least {low}"
        raise ValueError(f"{name} must be a whole number{bound}, got {shown(value)}.")
    return int(number)


def is_list(value: Any) -> bool:
    """True for a sequence or an array [N] of values. A string is one value."""
    return (isinstance(value, Sequence) and not isinstance(value, (str, bytes))) or getattr(value, "ndim", 0) == 1


def check_tensors(tensors: Mapping[str, Shaped], *, device: torch.device | None = None, finite: bool = False) -> None:
    """Refuse all but tensors of the given shapes, as others might silently broadcast.

    Args:
        tensors: Tensors and shapes by name, in the order in which letters and names of sizes get their values. Letters
            must be above 0.
        device: Required device; None: the same for all.
        finite: Also check the values, which waits for the GPU.
    """
    sizes: dict[str, int] = {}
    for name, (value, dims) in tensors.items():
        shape = f"[{', '.join(map(str, dims))}]"
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{name} must be a tensor {shape}, got {shown(value)}.")
        if value.layout != torch.strided or value.is_complex():  # an imaginary part would be dropped
            raise ValueError(f"{name} must be a dense tensor of real numbers {shape}.")
        # A letter without a size yet takes any above 0, a name (background_dim) any: a network may have no such code.
        wanted = [
            sizes.get(d, max(n, int(len(d) == 1))) if isinstance(d, str) else d for d, n in zip(dims, value.shape)
        ]
        if value.ndim != len(dims) or list(value.shape) != wanted:
            known = [f"{dim} = {sizes[dim]}" for dim in dims if dim in sizes]
            raise ValueError(
                f"{name} must be {shape}{' with ' if known else ''}{', '.join(known)}, got {list(value.shape)}."
            )
        sizes |= {dim: size for dim, size in zip(dims, value.shape) if isinstance(dim, str)}
        device = value.device if device is None else device
        if value.device != device:
            raise ValueError(f"{name} is on {value.device} instead of {device}; move it with .to('{device}').")
        if finite and not value.isfinite().all():
            raise ValueError(f"{name} must be finite; it holds nan or inf.")


def check_floats(name: str, value: torch.Tensor, meaning: str) -> None:
    """Refuse integers, such as pixels of 0 to 255, where values are expected."""
    if not value.is_floating_point():
        raise ValueError(f"{name} must be floats {meaning}, got {str(value.dtype).removeprefix('torch.')}.")


def check_range(name: str, value: torch.Tensor, low: float, high: float, meaning: str) -> None:
    """Refuse values out of a range, and NaN. On a CPU only: elsewhere, reading them would wait for the device."""
    if value.device.type != "cpu" or torch.compiler.is_compiling():
        return
    smallest, largest = value.detach().aminmax()
    least, most = smallest.item(), largest.item()
    if not (low <= least and most <= high):
        raise ValueError(f"{name} must be {meaning}, got {least:g} to {most:g}.")


def check_images(name: str, value: Any, what: str, *, ndim: int, channels: int | None = None) -> None:
    """Refuse all but tensors of floats with `ndim` dimensions, the third from last of them the channels.

    Pixels of 0 to 255 are refused, too: integer arithmetic would wrap around.

    Args:
        what: The dimensions, for the message.
        channels: Number of channels; None for any.
    """
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{name} must be a tensor {what}, not {shown(value)}")
    if value.ndim != ndim or channels not in (None, value.shape[-3]):
        raise ValueError(f"{name} must be {what}, not {list(value.shape)}")
    if not value.is_floating_point():
        raise ValueError(f"{name} must be floats, not {str(value.dtype).removeprefix('torch.')}")


def check_placement(device: Any, dtype: Any) -> None:
    """Refuse a device that cannot be used here, and a type that networks cannot have."""
    if dtype not in FLOATS:
        given = dtype if isinstance(dtype, torch.dtype) else shown(dtype)
        raise ValueError(f"dtype must be {', '.join(map(str, FLOATS[:-1]))} or {FLOATS[-1]}, got {given}.")
    try:
        torch.empty(0, device=device, dtype=torch.float64)  # of cameras; Apple's MPS has none
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device {shown(str(device))} cannot be used here: {one_line(error)[:200]}") from error


def check_stream(stream: Any, *, optional: bool = False, device: torch.device | None = None) -> None:
    """Refuse all but random streams (on a device), for example a seed or a generator of PyTorch, NumPy or Python."""
    # Those of NumPy and Python have another `uniform`. PyTorch's compiler cannot trace their classes.
    others = (np.random.Generator, np.random.RandomState, random.Random) if not torch.compiler.is_compiling() else ()
    if isinstance(stream, others) or (not hasattr(stream, "uniform") and not (optional and stream is None)):
        allowed = "a torch_utils.rng.RandomStream" + (" or None" if optional else "")
        raise ValueError(f"stream must be {allowed}, got {shown(stream)}.")
    own = getattr(stream, "device", None)
    if None not in (own, device) and (own.type != device.type or own.index not in (None, device.index)):
        raise ValueError(f"stream is on {own} instead of {device}; make it with RandomStream(seed, '{device}').")


def check_network(name: str, network: Any, method: str, *, such_as: str = "G.network") -> None:
    """Refuse what lacks a network's method, such as an object of the Python interface that holds the network."""
    if not hasattr(network, method):
        raise ValueError(f"{name} must be a network, such as {such_as}, got {shown(network)}.")


def _scalar(value: Any) -> Any:
    """NumPy scalars and tensors without dimensions as Python numbers; other values unchanged."""
    return value.item() if isinstance(value, (torch.Tensor, np.ndarray, np.generic)) and value.ndim == 0 else value


def shown(value: Any) -> str:
    """A value for a message, short and in one line; arrays by shape, other objects by type."""
    value = _scalar(value)
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return f"{type(value).__name__} {list(value.shape)}"
    return one_line(reprlib.repr(value)) if isinstance(value, PLAIN) else type(value).__name__
