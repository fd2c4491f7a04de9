"""Training statistics: means and standard deviations of reported values, reduced over processes once per tick.

`report` may be called anywhere in an iteration: it updates three numbers per name (count, sum, sum of squares) on the
value's own device and never synchronises with it. `reduce` sums them over the processes and resets them.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from torch_utils import distributed

__all__ = ["Moments", "Statistics"]


class Moments(NamedTuple):
    """Mean, standard deviation and count of the reported values."""

    mean: float
    std: float
    count: int


class Statistics:
    """Named running statistics; one object per training process, no global state."""

    def __init__(self):
        # Name -> [count, sum, sum of squares], float64, on the value's device. The tensors persist and change in place:
        # CUDA graphs write into them.
        self._sums: dict[str, torch.Tensor] = {}
        self._reported: set[str] = set()  # names since the last `reduce`

    @torch.no_grad()
    def report(self, name: str, value: torch.Tensor | float) -> None:
        """Add a value, or every element of a tensor of values. An empty tensor adds nothing."""
        value = torch.as_tensor(value).detach().double()
        self._reported.add(name)
        sums = self._sums.get(name)
        if sums is None:
            sums = self._sums[name] = torch.zeros(3, dtype=torch.float64, device=value.device)
        elif sums.device != value.device:  # restored from a file
            sums = self._sums[name] = sums.to(value.device)
        sums[0] += value.numel()
        sums[1] += value.sum()
        sums[2] += value.square().sum()

    def mark(self, names: Iterable[str]) -> None:
        """Note that values with these names were added by a replayed CUDA graph, in which `report` was recorded."""
        self._reported.update(names)

    @contextlib.contextmanager
    def watch(self) -> Iterator[set[str]]:
        """Context that collects the names reported within, without counting them: CUDA graphs only record there."""
        before, self._reported = self._reported, set()
        try:
            yield self._reported
        finally:
            self._reported = before

    def reduce(self) -> dict[str, Moments]:
        """Statistics of all values reported by all processes since the last call, by name; resets them."""
        own = {name: self._sums[name].to("cpu", copy=True) for name in self._reported}
        for name in self._reported:
            self._sums[name].zero_()
        self._reported.clear()
        totals: dict[str, torch.Tensor] = {}
        for part in distributed.all_gather_objects(own):
            for name, sums in part.items():
                totals[name] = totals[name] + sums if name in totals else sums
        return {name: _moments(*totals[name].tolist()) for name in sorted(totals)}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Sums since the last `reduce`, so that a resumed run reports the same as an uninterrupted one."""
        return {name: self._sums[name].to("cpu", copy=True) for name in sorted(self._reported)}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.load_state_dicts([state])

    def load_state_dicts(self, states: list[dict[str, torch.Tensor]], *, main: bool = True) -> None:
        """Load the sums of a different number of processes: the main process takes all of them."""
        self._sums = {}
        for state in states if main else []:
            for name, sums in state.items():
                self._sums[name] = self._sums[name] + sums if name in self._sums else sums.clone()
        self._reported = set(self._sums)


def _moments(count: float, total: float, squares: float) -> Moments:
    if count == 0:
        return Moments(mean=math.nan, std=math.nan, count=0)
    mean = total / count
    variance = squares / count - mean**2
    # Rounding can make the variance of equal values negative.
    std = math.sqrt(max(variance, 0.0)) if math.isfinite(variance) else math.nan
    return Moments(mean=mean, std=std, count=int(count))
