"""Intervals: their width against the spread over truly independent samples."""

from functools import partial

import numpy as np
import pytest

from metrics.distances import KernelDistance, frechet_distance_of_features, subset_distances
from metrics.metric_functions import STATISTICS, Statistic, bootstrap_interval, mean_interval
from metrics.registry import METRICS, find_metric


def reach(interval):
    return (interval[1] - interval[0]) / 2


def test_a_single_value_has_no_interval():
    assert mean_interval(np.ones(1)) is None


def test_mean_interval_is_the_bootstrap_of_a_mean():
    values = np.random.default_rng(0).exponential(size=300)
    low, high = mean_interval(values)
    assert (low + high) / 2 == pytest.approx(values.mean())
    assert reach((low, high)) == pytest.approx(1.96 * values.std() / np.sqrt(300), rel=1e-4)
    drawn = bootstrap_interval(values.mean(), lambda rows: values[rows].mean(), sizes=(300,), replicates=2000)
    assert reach(drawn) == pytest.approx(reach((low, high)), rel=0.06)


def draws(random):
    return random.standard_normal([400, 4]), 1.5 * random.standard_normal([400, 4]) + 0.5


@pytest.mark.parametrize("metric", ["frechet", "kernel"])
def test_width_is_the_spread_of_independent_samples(metric):
    random = np.random.default_rng(1)

    def value(x, y):
        return frechet_distance_of_features(x, y) if metric == "frechet" else KernelDistance(x, y).value()

    spread = np.std([value(*draws(random)) for _ in range(150)])
    reaches = []
    for _ in range(4):
        x, y = draws(random)
        if metric == "frechet":
            statistic = lambda i, j, x=x, y=y: value(x[i], y[j])  # noqa: E731
        else:
            statistic = KernelDistance(x, y).resampled
        reaches.append(reach(bootstrap_interval(value(x, y), statistic, sizes=(400, 400), replicates=60)))
    assert np.mean(reaches) == pytest.approx(1.96 * spread, rel=0.2)


def test_subsets_of_all_generated_samples_vary_with_their_choice():
    """Of 300 generated and 300 real samples, every subset is the same."""
    random, metric = np.random.default_rng(2), find_metric("kid1k_full")
    real, fake = draws(random)
    real, fake = real[:300], fake[:300]
    measured = STATISTICS["kernel_subsets"](real, fake, metric, 100)
    spread = np.std([KernelDistance(real, draws(random)[1][:300]).value() for _ in range(100)])
    assert measured.value == pytest.approx(KernelDistance(real, fake).value())
    assert reach(measured.interval) == pytest.approx(1.96 * spread, rel=0.35)
    assert measured.further == {"subsets": 100}


@pytest.mark.parametrize("reals, count", [(60, 61), (60, 90), (60, 400), (600, 90), (600, 400), (600, 600)])
def test_intervals_of_overlapping_subsets_are_those_of_independent_samples(reals, count, monkeypatch):
    """Subsets of 60 of all samples, for fixed real ones; of 61 generated samples, nearly all are in every subset."""
    monkeypatch.setattr("metrics.metric_functions.subset_distances", partial(subset_distances, size=60))
    random, metric = np.random.default_rng(5), find_metric("kid1k_full")
    real = random.normal(size=[reals, 4])

    def measured():
        return STATISTICS["kernel_subsets"](real, random.normal(0.3, 1, size=[count, 4]), metric, 100)

    found = [measured() for _ in range(60)]
    spread = np.std([one.value for one in found])
    assert np.mean([reach(one.interval) for one in found]) == pytest.approx(1.96 * spread, rel=0.2)


def test_the_variance_of_few_samples_is_unbiased(monkeypatch):
    """With 4 of small spread, the distance varies with −2 mean k(x, y) almost alone: its variance is 4 / 4 var k(x, y).

    Real ones of equal number, so that every subset is the same.
    """
    monkeypatch.setattr("metrics.metric_functions.subset_distances", partial(subset_distances, subsets=2))
    random, metric = np.random.default_rng(8), find_metric("kid1k_full")
    real = np.full([4, 1], 50.0)

    def fake(count):
        return random.uniform(-0.01, 0.01, size=[count, 1])

    variances = [reach(STATISTICS["kernel_subsets"](real, fake(4), metric, 100).interval) ** 2 for _ in range(1000)]
    expected = np.var((50 * fake(1_000_000) + 1) ** 3)
    assert np.mean(variances) == pytest.approx(1.96**2 * expected, rel=0.1)


def test_the_interval_of_many_samples_follows_from_some(monkeypatch):
    x, y = draws(np.random.default_rng(6))
    complete = reach(STATISTICS["kernel_subsets"](x, y, find_metric("kid1k_full"), 100).interval)
    monkeypatch.setattr("metrics.metric_functions.OTHERS", 300)
    monkeypatch.setattr("metrics.metric_functions.INFLUENCES", 200)
    partly = reach(STATISTICS["kernel_subsets"](x, y, find_metric("kid1k_full"), 100).interval)
    assert partly != complete and partly == pytest.approx(complete, rel=0.2)


@pytest.mark.parametrize("name, real", [("fid1k_full", None), ("fvd64_16f", 30)])
def test_all_real_frames_are_complete_and_real_clips_a_sample(name, real, monkeypatch):
    seen = []

    def interval(value, statistic, *, sizes, replicates):
        seen.append((sizes, replicates))
        return value, value

    monkeypatch.setattr("metrics.metric_functions.bootstrap_interval", interval)
    x, y = draws(np.random.default_rng(3))
    STATISTICS["frechet"](x[:30], y[:20], find_metric(name), 5)
    assert seen == [((real, 20), 5)]


def test_the_interval_of_a_distance_ends_at_zero():
    x = draws(np.random.default_rng(4))[0][:20]
    measured = STATISTICS["frechet"](x, x, find_metric("fvd64_16f"), 5)
    assert measured.value == pytest.approx(0, abs=1e-9)
    assert measured.interval[0] == 0 < measured.interval[1]  # though resampled sets differ


def test_blocks_of_rows_change_nothing(monkeypatch):
    x, y = draws(np.random.default_rng(5))
    x, y, metric = x[:50], y[:41], find_metric("fvd64_16f")
    whole = STATISTICS["frechet"](x, y, metric, 4)
    assert whole.value == pytest.approx(frechet_distance_of_features(x, y))
    for module in ("metrics.metric_functions", "metrics.distances"):
        monkeypatch.setattr(f"{module}.BLOCK", 16)
        parts = STATISTICS["frechet"](x, y, metric, 4)
        assert (parts.value, *parts.interval) == pytest.approx((whole.value, *whole.interval), rel=1e-9)


def test_a_complete_set_is_not_drawn_from():
    seen = []

    def statistic(real, fake):
        seen.append((real, len(fake), fake.max() < 7))
        return float(len(seen))

    interval = bootstrap_interval(5.0, statistic, sizes=(None, 7), replicates=3)
    assert seen == [(None, 7, True)] * 3
    assert interval == pytest.approx((5 - 1.96, 5 + 1.96), abs=1e-3)  # of 1, 2, 3 the standard deviation is 1


def test_reproducible():
    values = np.arange(20.0)
    intervals = [bootstrap_interval(0, lambda r: values[r].mean(), sizes=(20,), replicates=5) for _ in range(2)]
    assert intervals[0] == intervals[1]
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap_interval(0, lambda r: 0.0, sizes=(20,), replicates=1)


@pytest.mark.parametrize("name", STATISTICS)
def test_entries_of_statistics_are_those_of_the_table(name):
    """Resamplings, the second figure, the real value of what is no comparison, and the fewest samples."""
    metric = next(metric for metric in METRICS.values() if metric.statistic == name)
    entry, width = STATISTICS[name], 1 if name == "mean" else 48
    real, fake = np.random.RandomState(0).uniform(0.1, 1, size=[2, 6, width])
    if name == "inception_score":
        real, fake = None, fake / fake.sum(axis=1, keepdims=True)
    further = entry(real, fake, metric, 4).further
    assert ("replicates" in further) == entry.resampled
    assert {f"{figure}{end}" for figure in entry.figures[1:] for end in ("", "_interval")} <= set(further)
    assert ("real" in further) != entry.compares

    def value(count):
        return entry(*(None if side is None else side[:count] for side in (real, fake)), metric, 0).value

    assert np.isfinite(value(entry.least))
    if entry.least > Statistic.least:  # every statistic asks for two, as one sample has no spread
        with pytest.raises(ValueError):
            value(entry.least - 1)
