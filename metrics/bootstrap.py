"""How much a value would vary with other samples: bootstrap intervals.

Samples are drawn again from those at hand, with replacement (Efron, 1979), and the metric is computed anew. The
interval is the value ± 1.96 standard deviations of these. Percentiles of the resampled values would not do: a Fréchet
distance grows when samples are repeated, so that the whole resampled distribution lies above the value.

The interval is about the choice of samples alone. It does not cover the bias that a Fréchet distance of few samples
has, nor the choice of the data set or another training.
"""

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["LEVEL", "bootstrap_interval", "mean_interval"]

LEVEL = 0.95
DEVIATIONS = 1.959963984540054  # of a normal distribution, for that level


def bootstrap_interval(
    value: float,
    statistic: Callable[..., float],
    *,
    sizes: Sequence[int | None],
    replicates: int,
    seed: int = 0,
    progress: Callable[[range], Sequence[int]] = lambda steps: steps,
) -> tuple[float, float]:
    """The interval around `value`.

    Args:
        value: The statistic of the samples themselves.
        statistic: Called with an array of drawn rows for every set (None for one that is not drawn from).
        sizes: Samples of each set; None for a set that is complete, so that there is nothing to draw.
        replicates: Resamplings, at least 2.
        seed: Of the draws.
        progress: Wraps the loop, for a progress bar.

    Raises:
        ValueError: Fewer than 2 replicates.
    """
    if replicates < 2:
        raise ValueError(f"A bootstrap needs at least 2 resamplings, got {replicates}.")
    random = np.random.RandomState(seed)
    values = []
    for _ in progress(range(replicates)):
        values.append(statistic(*(None if n is None else np.sort(random.randint(n, size=n)) for n in sizes)))
    reach = DEVIATIONS * float(np.std(values, ddof=1))
    return value - reach, value + reach


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """The interval of a mean; here the bootstrap has a closed form, the standard error."""
    reach = DEVIATIONS * float(np.std(values)) / np.sqrt(len(values))
    mean = float(np.mean(values))
    return mean - reach, mean + reach
