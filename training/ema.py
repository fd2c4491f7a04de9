"""The moving average of the generator that is shown, evaluated and saved (Karras et al. 2018, section 4).

    weights of the average ← lerp(weights, weights of the average, beta),    beta = ½ ^ (videos of the step / half-life)

The half-life is given in thousands of videos (kimg). With a ramp-up it is at most `ramp` times what was seen so far, so
that the average does not drag along the random initial weights.
"""

import torch

__all__ = ["GeneratorEMA"]


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
