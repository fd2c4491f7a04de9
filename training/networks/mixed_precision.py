"""Half precision: which passes, networks and layers take it.

On a GPU it is float16, as published: the upsampler's blocks and the discriminators' highest resolutions, in all phases
(`fp16_min_resolution`, `fp16_resolutions`). On a CPU it is bfloat16, off unless asked for, in the same layers, and only
in the main phases: penalties of gradients (path lengths, R1) square differences that its 8 bits would drown.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

__all__ = ["HalfPrecision", "bfloat16_on_cpu"]


class HalfPrecision:
    """Of a module with layers in half precision: their type, by device.

    Attributes:
        on_cpu: Whether a CPU takes bfloat16 now; see `bfloat16_on_cpu`.
    """

    on_cpu = False

    def type(self, device: torch.device) -> torch.dtype | None:
        """float16, bfloat16, or None for full precision."""
        if device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if self.on_cpu and device.type == "cpu" else None


@contextlib.contextmanager
def bfloat16_on_cpu(*networks: nn.Module) -> Iterator[None]:
    """Within, the networks' layers of half precision take bfloat16 where they run on a CPU."""
    settings = (getattr(m, "half_precision", None) for network in networks for m in network.modules())
    switches = [setting for setting in settings if isinstance(setting, HalfPrecision)]
    for switch in switches:
        switch.on_cpu = True
    try:
        yield
    finally:
        for switch in switches:
            switch.on_cpu = False
