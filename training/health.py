"""Whether a training is sound: only what is should overwrite what was saved before.

Half precision gives a non-finite gradient now and then; the guard replaces it, and nothing is lost. When it happens
step after step, training has broken down, and once a weight or a running mean is not finite it cannot recover.
"""

from collections.abc import Iterable
from pathlib import Path

import torch

from dnnlib import UserError
from training.phases import GradientGuard

__all__ = ["Health"]

SUSPICIOUS = 4  # steps of a phase in a row with non-finite gradients after which nothing is saved until a good one


class Health:
    """Looks at weights and gradients between iterations.

    Args:
        tensors: Named weights and running means.
        guard: Of the gradients.
        limit: Steps of a phase in a row with non-finite gradients that mean the end.
        folder: Of the run, for messages.
    """

    def __init__(self, *, tensors: Iterable[tuple[str, torch.Tensor]], guard: GradientGuard, limit: int, folder: Path):
        self._tensors = {name: tensor for name, tensor in tensors if tensor.is_floating_point()}
        self._guard = guard
        self._limit = limit
        self._folder = folder

    def check(self, *, cur_nimg: int) -> str | None:
        """What speaks against saving the training as it is now; None if nothing does. Waits for the device.

        Raises:
            UserError: The training has broken down.
        """
        streak, longest = self._guard.streak(), self._guard.longest_streak()
        finite = torch.stack([tensor.isfinite().all() for tensor in self._tensors.values()]).tolist()
        broken = [name for name, good in zip(self._tensors, finite) if not good]
        if broken:
            reason = f"{len(broken)} of its tensors are not finite any more ({', '.join(broken[:3])})"
        elif longest >= self._limit:
            reason = f"{longest} steps of a phase in a row had non-finite gradients (spec.nonfinite_limit)"
        elif streak >= SUSPICIOUS:
            return f"the last {streak} steps of a phase had non-finite gradients"
        else:
            return None
        raise UserError(
            f"Training has broken down at {cur_nimg / 1000:g} kimg: {reason}. The snapshots and the state in "
            f"{self._folder} are from before. Continue with resume_run= and fp32=true, or start anew from a snapshot "
            "with resume=, with a lower spec.lrate or a higher spec.gamma."
        )
