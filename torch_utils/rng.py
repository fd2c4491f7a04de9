"""Explicit random streams: every random draw is a named call on a stream object.

PyTorch's global generator is never used. The name of a draw gives its purpose: the default stream ignores it; recorded
or constant streams (in tests, or to reproduce the draws of another program) look values up by it.
"""

from collections.abc import Sequence

import torch

from torch_utils.argument_checks import whole_number

__all__ = ["RandomStream"]


class RandomStream:
    """Source of random tensors with its own generator.

    Args:
        seed: Any 64-bit integer; the same seed gives the same sequence on the same device type.
        device: Device of the tensors.

    Raises:
        ValueError: The seed is not a 64-bit integer.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.generator = torch.Generator(device=self.device)
        number = whole_number("seed", seed)  # a fraction would be dropped
        if not -(2**63) <= number < 2**64:
            raise ValueError(f"seed must have 64 bits, got {number}.")
        self.generator.manual_seed(number)

    def uniform(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """Uniform numbers in [0, 1), float32."""
        return torch.rand(tuple(shape), generator=self.generator, device=self.device, dtype=torch.float32)

    def normal(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """Standard normal numbers, float32."""
        return torch.randn(tuple(shape), generator=self.generator, device=self.device, dtype=torch.float32)

    def integers(self, name: str, low: int, high: int, shape: Sequence[int]) -> torch.Tensor:
        """Uniform integers in [low, high), int64."""
        return torch.randint(low, high, tuple(shape), generator=self.generator, device=self.device)

    def beta(self, name: str, a: int, b: int, shape: Sequence[int]) -> torch.Tensor:
        """Beta(2, 1) or Beta(1, 2) by inverting its closed-form CDF (x² and 1 − (1−x)²), float32."""
        u = self.uniform(name, shape)
        if (a, b) == (2, 1):
            return u.sqrt()
        if (a, b) == (1, 2):
            return 1 - (1 - u).sqrt()
        raise ValueError(f"Beta({a}, {b}) has no sampler here: only (2, 1) and (1, 2) are used by the method.")

    def state_dict(self) -> dict:
        """State of the generator, in tensors only, as weights-only checkpoints require."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        self.generator.set_state(state["generator"].cpu())
