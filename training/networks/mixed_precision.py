"""Mixed precision: the type of the layers that run in half precision.

On a GPU it is float16, as published: the upsampler's blocks and the discriminators' highest resolutions, in all phases
(`fp16_min_resolution`, `fp16_resolutions`). On a CPU it is bfloat16 in the same layers, as an option and in the main
phases only: the gradient penalties (path lengths, R1) square differences below the resolution of its 8 bits.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

__all__ = ["HalfPrecision", "bfloat16_on_cpu"]


class HalfPrecision:
    """The type of a module's half-precision layers on a device.

    Attributes:
        on_cpu: Use bfloat16 on a CPU; see `bfloat16_on_cpu`.
    """

    on_cpu = False

    def type(self, device: torch.device) -> torch.dtype | None:
        """float16, bfloat16, or None for full precision."""
        if device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if self.on_cpu and device.type == "cpu" else None


@contextlib.contextmanager
def bfloat16_on_cpu(*networks: nn.Module) -> Iterator[None]:
    """Within, the networks' half-precision layers use bfloat16 on a CPU."""
    settings = (getattr(m, "half_precision", None) for network in networks for m in network.modules())
    switches = [setting for setting in settings if isinstance(setting, HalfPrecision)]
    for switch in switches:
        switch.on_cpu = True
    try:
        yield
    finally:
        for switch in switches:
            switch.on_cpu = False
