"""Running means that the passes of a phase move: of styles, activations and path lengths.

Every pass nudges them towards what it saw. All passes of a phase, on whatever process, start from the same values, and
the phase leaves the mean of where they ended: as the means move linearly, that is where one pass over the whole batch
would have left them. So it makes no difference how a batch is divided into processes and micro-batches: the gradients
are the same, too.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch

from torch_utils import distributed

__all__ = ["RunningMeans"]

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
