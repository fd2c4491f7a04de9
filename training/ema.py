"""Exponential moving average of the generator (Karras et al. 2018, appendix A.1), and running means over a batch.

    G_ema ← lerp(G, G_ema, beta),    beta = ½ ^ (videos of the step / half-life)

G_ema is rendered, evaluated and saved. The half-life is given in thousands of videos (kimg). With a ramp-up it is at
most `ramp` times the number of videos so far, so that random initial weights fade sooner. With `resume=` the snapshot's
average is kept, as a ramp-up would overwrite it within a few steps; it ramps up only where growing loses blocks of the
upsampler, whose image has to be learnt anew.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from torch_utils import distributed
from torch_utils.argument_checks import check_network, check_number

__all__ = ["GeneratorEMA", "RunningMeans", "complete_ema"]


class GeneratorEMA:
    """Moving average of a network: `average`, a copy made by the caller, follows `source`.

    Args:
        source: The network in training.
        average: A network of the same structure; its parameters and buffers are overwritten.
        half_life_kimg: Half-life in thousands of videos; 0 copies the weights at every step.
        ramp: Largest half-life as a fraction of the videos so far; None for no ramp-up.
        ramps_up: False: no ramp-up, whatever `ramp` is. Part of the training state.

    Raises:
        ValueError: No networks, or a half-life or a fraction that is not a number in its range.
    """

    def __init__(
        self,
        *,
        source: torch.nn.Module,
        average: torch.nn.Module,
        half_life_kimg: float,
        ramp: float | None,
        ramps_up: bool = True,
    ):
        for name, network in (("source", source), ("average", average)):
            check_network(name, network, "parameters")
        check_number("half_life_kimg", half_life_kimg, 0, inclusive=True)
        if ramp is not None:
            check_number("ramp", ramp, 0)
        self.source = source
        self.average = average
        self.half_life = half_life_kimg * 1000
        self.ramp = ramp
        self.ramps_up = ramps_up

    def beta(self, *, cur_nimg: int, batch: int) -> float:
        """Decay of the average in a step of `batch` videos, after `cur_nimg` videos."""
        ramp = self.ramp if self.ramps_up else None
        half_life = self.half_life if ramp is None else min(self.half_life, cur_nimg * ramp)
        return 0.5 ** (batch / max(half_life, 1e-8))

    @torch.no_grad()
    def update(self, *, cur_nimg: int, batch: int) -> None:
        """Average the parameters, copy the buffers (they are averages already)."""
        average_all = get_ema_multi_avg_fn(self.beta(cur_nimg=cur_nimg, batch=batch))  # few kernels on a GPU
        average_all(list(self.average.parameters()), list(self.source.parameters()), 0)
        for average, value in zip(self.average.buffers(), self.source.buffers()):
            average.copy_(value)

    def state_dict(self) -> dict[str, bool]:
        return {"ramps_up": self.ramps_up}

    def load_state_dict(self, state: Mapping[str, bool]) -> None:
        self.ramps_up = state["ramps_up"]


def complete_ema(shared: dict, *, resume: str | None) -> None:
    """Complete the state of a run of an earlier version: with `resume=` none ramped up, not even after growing.

    Args:
        shared: The part of its training state that all processes share.
        resume: The snapshot that it began from; None for none.
    """
    shared.setdefault("ema", {"ramps_up": resume is None})


Part = TypeVar("Part")


class RunningMeans:
    """Running means over a divided batch: of styles, activation magnitudes and path lengths.

    Every pass of a phase moves these tensors towards its own micro-batch. Here all passes, on every process, start from
    the same values, and afterwards the means of their end values are written. As the updates are linear, these equal
    those of one pass over the whole batch, however it is divided. The gradients do not depend on the order of the
    passes or on the processes that run them. They depend slightly on the passes' size, because the means that a pass
    uses include its own micro-batch.

    Args:
        tensors: Floating-point tensors, read and written in place.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]):
        self._tensors = list(tensors)

    def over(self, parts: Sequence[Part]) -> Iterator[Part]:
        """Iterate over the parts of a batch; all processes must iterate to the end."""
        if len(parts) == 1:
            yield parts[0]
        else:
            # Every part starts from the same values; their end values are averaged.
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
