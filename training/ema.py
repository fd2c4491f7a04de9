"""The moving average of the generator that is shown, evaluated and saved (Karras et al. 2018, section 4).

    weights of the average ← lerp(weights, weights of the average, beta),    beta = ½ ^ (videos of the step / half-life)

The half-life is given in thousands of videos (kimg). With a ramp-up it is at most `ramp` times what was seen so far, so
that the average does not drag along the random initial weights.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch

from torch_utils import distributed

__all__ = ["GeneratorEMA", "RunningMeans"]


class GeneratorEMA:
    """Keeps `average` (a copy of `source`, made by the caller) as the moving average of `source`.

    Args:
        source: The network that is trained.
        average: A network of the same structure; its parameters and buffers are overwritten.
        half_life_kimg: Half-life in thousands of videos; 0 copies the weights at every step.
        ramp: Largest half-life as a fraction of the videos seen so far; None for no ramp-up.
    """

    def __init__(
        self,
        *,
        source: torch.nn.Module,
        average: torch.nn.Module,
        half_life_kimg: float,
        ramp: float | None,
    ):
        if half_life_kimg < 0:
            raise ValueError(f"spec.ema must be 0 or more (kimg), got {half_life_kimg}.")
        if ramp is not None and ramp <= 0:
            raise ValueError(f"spec.ramp must be positive, or null for no ramp-up, got {ramp}.")
        self.source = source
        self.average = average
        self.half_life = half_life_kimg * 1000
        self.ramp = ramp

    def beta(self, *, cur_nimg: int, batch: int) -> float:
        """The weight of the old average in a step of `batch` videos after `cur_nimg` were seen."""
        half_life = self.half_life if self.ramp is None else min(self.half_life, cur_nimg * self.ramp)
        return 0.5 ** (batch / max(half_life, 1e-8))

    @torch.no_grad()
    def update(self, *, cur_nimg: int, batch: int) -> None:
        """Average the parameters, copy the buffers (they are averages already)."""
        weight = 1 - self.beta(cur_nimg=cur_nimg, batch=batch)
        for average, value in zip(self.average.parameters(), self.source.parameters()):
            average.lerp_(value, weight)
        for average, value in zip(self.average.buffers(), self.source.buffers()):
            average.copy_(value)


# ----------------------------------------------------------------------------------------------------------------------
# Running means that the passes of a phase move: of styles, activations and path lengths.
#
# Every pass nudges them towards what it saw. All passes of a phase, on whatever process, start from the same values,
# and the phase leaves the mean of where they ended: as the means move linearly, that is where one pass over the whole
# batch would have left them. So it makes no difference how a batch is divided into processes and micro-batches: the
# gradients are the same, too.


Part = TypeVar("Part")


class RunningMeans:
    """The tensors are read and written in place; they must be of floating point."""

    def __init__(self, tensors: Sequence[torch.Tensor]):
        self._tensors = list(tensors)

    def over(self, parts: Sequence[Part]) -> Iterator[Part]:
        """The parts of a batch, one after another; to be iterated to the end, on all processes."""
        if len(parts) == 1:
            yield parts[0]
        else:
            start = [tensor.clone() for tensor in self._tensors]
            ends = [torch.zeros_like(tensor) for tensor in self._tensors]
            for part in parts:
                self._set(start)
                yield part
                for end, tensor in zip(ends, self._tensors):
                    end += tensor.detach() / len(parts)
            self._set(ends)
        distributed.average(self._tensors)

    def _set(self, values: list[torch.Tensor]) -> None:
        with torch.no_grad():
            for tensor, value in zip(self._tensors, values):
                tensor.copy_(value)
