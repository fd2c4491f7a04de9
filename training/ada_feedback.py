"""The feedback loop of adaptive augmentation: the discriminator's answers to real videos set the augmentation's p."""

import torch

from torch_utils import distributed
from torch_utils.statistics import Statistics
from training.augment import AdaAugment, AdaController

__all__ = ["AdaFeedback"]

INTERVAL = 4  # iterations between adjustments (Karras et al. 2020, "Limited Data", section 3)
SIGNS = "Loss/signs/real"


class AdaFeedback:
    """Stands between the loss and its statistics, picks the signs of D(real) out of the reports, and adapts p.

    The only moment of an iteration where the host waits for the device is its adjustment, every fourth time.

    Args:
        augment: Its p is set.
        controller: The rule by which p changes.
        statistics: Where everything is reported to in the end.
    """

    def __init__(
        self,
        *,
        augment: AdaAugment,
        controller: AdaController,
        statistics: Statistics,
        device: torch.device | str,
    ):
        self.augment = augment
        self.controller = controller
        self.statistics = statistics
        self._signs = torch.zeros(2, dtype=torch.float64, device=device)  # sum and number since the last adjustment
        self.augment.p.fill_(controller.p)

    @torch.no_grad()
    def report(self, name: str, value: torch.Tensor) -> None:
        """As Statistics.report."""
        if name == SIGNS:
            self._signs[0] += value.sum()
            self._signs[1] += value.numel()
        self.statistics.report(name, value)

    def update(self, *, iteration: int, batch: int) -> None:
        """Adjust p if it is time to; to be called after each iteration, with the number of iterations so far.

        Args:
            batch: Videos per iteration, over all processes.
        """
        if iteration % INTERVAL:
            return
        total, count = distributed.all_reduce_sum(self._signs).tolist()
        self._signs.zero_()
        mean = total / count if count else float("nan")
        self.augment.p.fill_(self.controller.update(mean, batch * INTERVAL))

    def state_dict(self) -> dict:
        return {"controller": self.controller.state_dict(), "signs": self._signs}

    def load_state_dict(self, state: dict) -> None:
        self.load_state_dicts([state])

    def load_state_dicts(self, states: list[dict], *, main: bool = True) -> None:
        """Take over from another number of processes; what they had summed up goes to the main one."""
        self.controller.load_state_dict(states[0]["controller"])  # the same on all processes
        self._signs.zero_()
        for state in states if main else []:
            self._signs += state["signs"].to(self._signs.device)
