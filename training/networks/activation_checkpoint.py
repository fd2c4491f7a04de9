"""Activation checkpointing of parts of the generator (Chen et al. 2016).

Only the inputs of a part are kept, and the backward pass runs it again. The second run is bit-identical: parts use no
random numbers, and statistics of their inputs that move running means (the upsampler's magnitude EMA) are replayed from
the first run.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

__all__ = ["CheckpointedField", "Replayed", "checkpointed"]


def checkpointed(function: Callable, *arguments: Any) -> Any:
    """function(*arguments), twice differentiable, without keeping its activations."""
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)


class CheckpointedField:
    """A field (see `renderer.volume_rendering`) whose points are evaluated again for the backward pass."""

    def __init__(self, field):
        self.field = field
        self.project = field.project

    def __call__(self, points: torch.Tensor, directions: torch.Tensor):
        return checkpointed(self.field, points, directions)

    def raw_density(self, points: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        if not hasattr(self.field, "raw_density"):  # see `renderer.volume_rendering.Fields`
            return self(points, directions)[0]
        return checkpointed(self.field.raw_density, points, directions)


class Replayed:
    """Statistics measured in the first run of a part and replayed in later runs."""

    def __init__(self):
        self._values: list[torch.Tensor] = []
        self._next = 0

    def begin(self) -> None:
        """Start of a run."""
        self._next = 0

    def value(self, measure: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The next statistic of this run, measured if this is the first."""
        if self._next == len(self._values):
            self._values.append(measure())
        self._next += 1
        return self._values[self._next - 1]
