"""Activation checkpointing (Chen et al. 2016): parts of the generator keep their inputs only, and their backward pass
runs them again.

The second run gives the same values to the bit: parts draw no random numbers, and what they measure of their inputs
(the upsampler's magnitudes, which move running means) is replayed from the first run.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

__all__ = ["CheckpointedField", "Replayed", "checkpointed"]


def checkpointed(function: Callable, *arguments: Any) -> Any:
    """function(*arguments), differentiable twice, with nothing kept of what happens inside."""
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)


class CheckpointedField:
    """A field (see `renderer.volume_rendering`) whose points are evaluated again for the backward pass."""

    def __init__(self, field):
        self.field = field
        self.project = field.project

    def __call__(self, points: torch.Tensor, directions: torch.Tensor):
        return checkpointed(self.field, points, directions)


class Replayed:
    """Values that the first run of a part measures and that later runs are given."""

    def __init__(self):
        self._values: list[torch.Tensor] = []
        self._next = 0

    def begin(self) -> None:
        """Start of a run."""
        self._next = 0

    def value(self, measure: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The run's next value."""
        if self._next == len(self._values):
            self._values.append(measure())
        self._next += 1
        return self._values[self._next - 1]
