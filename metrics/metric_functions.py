"""Values and confidence intervals of metrics from features: the table STATISTICS, by the name in the registry.

It does not import PyTorch, so that result files are read without it.

Confidence intervals are bootstrap intervals: samples are resampled with replacement (Efron, 1979), and the metric is
recomputed. The interval is the value ± 1.96 standard deviations of the recomputed values. Percentiles of these would
not do: a Fréchet distance grows when samples are repeated, so that the whole resampled distribution lies above the
value. The interval covers the choice of samples only, not the bias of a Fréchet distance of few samples, the choice of
the dataset, or the variation between trainings. Means and kernel distances of subsets have a closed form instead.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from metrics.distances import (
    BLOCK,
    FeatureMoments,
    KernelDistance,
    frame_similarity,
    frechet_distance,
    inception_score,
    inside_manifold,
    kernel_influences,
    neighbour_radii,
    subset_distances,
)
from metrics.registry import NEIGHBOURS, Metric

__all__ = ["STATISTICS", "Measured", "Statistic", "bootstrap_interval", "mean_interval", "use_of_real"]


# ----------------------------------------------------------------------------------------------------------------------
# Bootstrap intervals

DEVIATIONS = 1.959963984540054  # of a normal distribution, on both sides of 95 % of it


def bootstrap_interval(
    value: float,
    statistic: Callable[..., float],
    *,
    sizes: Sequence[int | None],
    replicates: int,
) -> tuple[float, float]:
    """Bootstrap interval around `value`.

    Args:
        value: The statistic of the original samples.
        statistic: Called with an array of resampled rows per set (None for a set that is not resampled). Returns NaN
            where it is undefined; these resamplings are ignored.
        sizes: Samples of each set; None for a complete set, which is not resampled.
        replicates: Resamplings, at least 2.

    Raises:
        ValueError: Fewer than 2 replicates.
    """
    if replicates < 2:
        raise ValueError(f"A bootstrap needs at least 2 resamplings, got {replicates}.")
    random = np.random.RandomState(0)
    values = []
    for _ in tqdm(range(replicates), desc="bootstrap", disable=None, leave=False):
        values.append(statistic(*(None if n is None else np.sort(random.randint(n, size=n)) for n in sizes)))
    reach = DEVIATIONS * float(np.nanstd(values, ddof=1))
    return value - reach, value + reach


def mean_interval(values: np.ndarray) -> tuple[float, float] | None:
    """Interval of a mean, for which the bootstrap has a closed form: the standard error. None for a single value."""
    if len(values) < 2:
        return None
    reach = DEVIATIONS * float(np.std(values)) / np.sqrt(len(values))
    mean = float(np.mean(values))
    return mean - reach, mean + reach


# ----------------------------------------------------------------------------------------------------------------------
# Measures

WIDE = 512  # with more features than this, a resampling takes minutes on a CPU
WIDE_REPLICATES = 10


@dataclasses.dataclass(frozen=True)
class Measured:
    """A value, its 95 % interval (None if not requested), and further entries of the row."""

    value: float
    interval: tuple[float, float] | None = None
    further: dict[str, Any] = dataclasses.field(default_factory=dict)


def _frechet(real: np.ndarray, fake: np.ndarray, metric: Metric, replicates: int) -> Measured:
    real_moments, fake_moments = _moments(real), _moments(fake)
    value = frechet_distance(*real_moments, *fake_moments)
    if real.shape[1] > WIDE:
        replicates = min(replicates, WIDE_REPLICATES)
    if not replicates:
        return Measured(value)

    def statistic(real_rows: np.ndarray | None, fake_rows: np.ndarray) -> float:
        of_real = real_moments if real_rows is None else _moments(real, real_rows)
        return frechet_distance(*of_real, *_moments(fake, fake_rows))

    # The real frames are the complete dataset, the real clips are a sample.
    sizes = (None if metric.samples == "images" else len(real), len(fake))
    low, high = bootstrap_interval(value, statistic, sizes=sizes, replicates=replicates)
    return Measured(value, (max(low, 0.0), high), {"replicates": replicates})


def _moments(features: np.ndarray, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the rows, read from disk a block at a time."""
    moments = FeatureMoments(features.shape[1])
    for start in range(0, len(features), BLOCK):
        some = slice(start, start + BLOCK)
        moments.update(features[some] if rows is None else features[rows[some]])
    return moments.mean, moments.covariance


def _kernel(real: np.ndarray, fake: np.ndarray, metric: Metric, replicates: int) -> Measured:
    distance = KernelDistance(real, fake)
    value = distance.value()
    if not replicates:
        return Measured(value)
    interval = bootstrap_interval(value, distance.resampled, sizes=(len(real), len(fake)), replicates=replicates)
    return Measured(value, interval, {"replicates": replicates})


INFLUENCES = 2000  # generated frames whose spread stands for that of all
OTHERS = 50_000  # real and generated frames with which these are compared, which takes about as long as the subsets


def _kernel_subsets(real: np.ndarray, fake: np.ndarray, metric: Metric, replicates: int) -> Measured:
    values = subset_distances(real, fake)
    value, further = float(values.mean()), {"subsets": len(values)}
    if not replicates:
        return Measured(value, None, further)
    # The real frames are the complete dataset: the value varies with the generated frames and with the subsets.
    others = _at_most(OTHERS, fake)
    influences = kernel_influences(_at_most(OTHERS, real), others, _rows(INFLUENCES, others))
    variance = 4 * np.var(influences, ddof=1) / len(fake) + np.var(values, ddof=1) / len(values)
    reach = DEVIATIONS * float(np.sqrt(variance))
    return Measured(value, (value - reach, value + reach), further)


def _rows(count: int, features: np.ndarray) -> np.ndarray:
    """Indices of `count` random features, or of all if these are fewer."""
    return np.sort(np.random.RandomState(0).permutation(len(features))[:count])


def _at_most(count: int, features: np.ndarray) -> np.ndarray:
    """At most `count` features, chosen at random."""
    return features if len(features) <= count else features[_rows(count, features)]


MOST_REAL = 200_000  # real samples of a manifold, as in StyleGAN2: the cost grows with the square


def _precision_recall(real: np.ndarray, fake: np.ndarray, metric: Metric, replicates: int) -> Measured:
    """Precision, and recall as a further entry; their intervals are the standard errors of shares, for fixed manifolds.

    Resampled sets would contain copies, which make neighbours' distances zero.
    """
    real = _at_most(MOST_REAL, real)
    precise = inside_manifold(fake, real, neighbour_radii(real, neighbours=NEIGHBOURS))
    recalled = inside_manifold(real, fake, neighbour_radii(fake, neighbours=NEIGHBOURS))
    further: dict[str, Any] = {"recall": float(recalled.mean())}
    if replicates and (interval := mean_interval(recalled)) is not None:
        further["recall_interval"] = list(interval)
    return Measured(float(precise.mean()), mean_interval(precise) if replicates else None, further)


def _inception_score(real: None, fake: np.ndarray, metric: Metric, replicates: int) -> Measured:
    shuffle = np.random.RandomState(1).permutation
    # Splits are random samples of all frames: consecutive frames of stored videos are much alike.
    value = inception_score(fake, rows=shuffle(len(fake)))
    if not replicates:
        return Measured(value)
    replicates = min(replicates, WIDE_REPLICATES)

    def statistic(rows: np.ndarray) -> float:
        return inception_score(fake, rows=shuffle(rows))  # sorted rows would put copies into the same split

    interval = bootstrap_interval(value, statistic, sizes=(len(fake),), replicates=replicates)
    return Measured(value, interval, {"replicates": replicates})


def _mean(real: np.ndarray | None, fake: np.ndarray, metric: Metric, replicates: int) -> Measured:
    """Mean of the first column; means of further columns and of the real samples as further entries."""
    columns = _COLUMNS.get(metric.network, ())
    assert fake.shape[1] == max(len(columns), 1), f"_COLUMNS must name the {fake.shape[1]} columns of {metric.network}"
    measured = fake[np.isfinite(fake[:, 0])]
    further: dict[str, Any] = {"num_measured": len(measured)}
    if len(measured) == 0:
        return Measured(float("nan"), None, further)
    for column, name in enumerate(columns):
        further[name] = float(measured[:, column].mean(dtype=np.float64))
    if real is not None:
        further["real"] = float(real[:, 0].mean(dtype=np.float64))
    values = measured[:, 0].astype(np.float64)
    return Measured(float(values.mean()), mean_interval(values) if replicates else None, further)


# Names of the columns, where there is more than one.
_COLUMNS = {"warping": ("error", "error_without_warping", "compared")}


def _similarity(real: np.ndarray | None, fake: np.ndarray, metric: Metric, replicates: int) -> Measured:
    frames = VIEWS if metric.samples == "views" else metric.frames
    centre = metric.network == "random_frames"

    def similarities(features: np.ndarray) -> np.ndarray:
        return frame_similarity(np.asarray(features).reshape(len(features), frames, -1), centre=centre)

    values = similarities(fake)
    further = {} if real is None else {"real": float(similarities(real).mean())}
    return Measured(float(values.mean()), mean_interval(values) if replicates else None, further)


VIEWS = 5  # cameras per time step, of the metrics whose samples are views


@dataclasses.dataclass(frozen=True)
class Statistic:
    """A statistic: its function, and what other files have to know of it.

    Attributes:
        function: Called with the features of the real and of the generated samples (memory maps [N, D], real ones None
            where the metric does not use them), the metric, and the number of resamplings.
        least: Samples of each side without which it has no value.
        resampled: Its interval takes resamplings, whose number is the further entry `replicates`.
        compares: It compares real with generated samples; it does not measure each side alone.
        figures: Names of its two figures, of which higher is better: the value, and a further entry, whose interval is
            the entry `<name>_interval`. Empty if the value is all.
    """

    function: Callable[[Any, np.ndarray, Metric, int], Measured]
    least: int = 2
    resampled: bool = False
    compares: bool = True
    figures: tuple[()] | tuple[str, str] = ()

    def __call__(self, real: Any, fake: np.ndarray, metric: Metric, replicates: int) -> Measured:
        return self.function(real, fake, metric, replicates)


STATISTICS = {
    "frechet": Statistic(_frechet, resampled=True),
    "kernel": Statistic(_kernel, resampled=True),
    "kernel_subsets": Statistic(_kernel_subsets),
    "precision_recall": Statistic(_precision_recall, least=NEIGHBOURS + 1, figures=("precision", "recall")),
    "inception_score": Statistic(_inception_score, resampled=True),
    "mean": Statistic(_mean, compares=False),
    "similarity": Statistic(_similarity, compares=False),
}


def use_of_real(metric: Metric) -> str:
    """What a metric does with real videos, if it uses them."""
    compares = STATISTICS[metric.statistic].compares
    return f"{metric.name} {'compares with real videos' if compares else 'measures real videos, too'}"
