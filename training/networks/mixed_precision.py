"""Mixed precision: the type of the layers that run in half precision.

These layers are the upsampler's blocks and the discriminators' highest resolutions (`fp16_min_resolution`,
`fp16_resolutions`). On a GPU they run in float16 in all phases, as published, if their activations are clamped: the
largest float16 is 65504, which activations without a clamp may exceed. On a CPU they run in float32.

bfloat16 is an option on both devices, in the main phases only. It has the range of float32 and needs no clamp, but only
8 bits of precision, and the gradient penalties (path length, R1) square differences smaller than that: with the option
their phases run in float32.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from torch_utils.argument_checks import check_network

__all__ = ["HalfPrecision", "half_precision", "multiplies_bfloat16"]

AMPERE = (8, 0)  # compute capability of NVIDIA's first GPUs with bfloat16 matrix products


def multiplies_bfloat16(device: torch.device) -> bool:
    """True for a GPU with bfloat16 matrix products."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= AMPERE


class HalfPrecision:
    """The type of a module's half-precision layers on a device.

    Args:
        clamped: The layers' activations are clamped.

    Attributes:
        chosen: Type on CPUs and GPUs, float32 included; None for the device's own. See `half_precision`.
    """

    def __init__(self, *, clamped: bool):
        self.clamped = clamped
        self.chosen: torch.dtype | None = None

    def type(self, device: torch.device, full: torch.dtype) -> torch.dtype | None:
        """float16, bfloat16, or None for full precision, that is, for the type `full` of the weights.

        Weights of a type other than float32 have it on purpose (`load_generator(…, dtype=torch.float64)`).
        """
        if device.type not in ("cpu", "cuda") or full != torch.float32:
            return None
        if self.chosen is not None:
            return None if self.chosen == torch.float32 else self.chosen
        return torch.float16 if device.type == "cuda" and self.clamped else None


@contextlib.contextmanager
def half_precision(dtype: torch.dtype, *networks: nn.Module) -> Iterator[None]:
    """Context in which the networks' half-precision layers use bfloat16 or float32, on CPUs and GPUs.

    Raises:
        ValueError: Another type, or an argument that is not a network.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype must be torch.bfloat16 or torch.float32, got {dtype!r:.60}.")
    for network in networks:
        check_network("network", network, "modules")
    settings = (getattr(m, "half_precision", None) for network in networks for m in network.modules())
    switches = [setting for setting in settings if isinstance(setting, HalfPrecision)]
    before = [switch.chosen for switch in switches]
    for switch in switches:
        switch.chosen = dtype
    try:
        yield
    finally:
        for switch, chosen in zip(switches, before, strict=True):
            switch.chosen = chosen
