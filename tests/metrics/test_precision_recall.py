"""Precision and recall: brute force, closed forms, and rows of metrics."""

import dataclasses
import math

import numpy as np
import pytest

from dnnlib import UserError
from metrics import distances
from metrics.distances import inside_manifold, neighbour_radii
from metrics.evaluator import Evaluator, require_samples
from metrics.metric_functions import STATISTICS, mean_interval
from metrics.random_features import RandomFeatures
from metrics.registry import METRICS, find_metric
from metrics.results import row_summary
from tests.metrics.memory_videos import MemoryVideos
from tests.metrics.synthetic import noisy, waves


def brute_force(real, fake, neighbours):
    """Sums over all pairs, as in the paper's definition."""

    def distance(x, y):
        return math.sqrt(sum((a - b) ** 2 for a, b in zip(x.tolist(), y.tolist())))

    def share(points, support):
        radii = [
            sorted(distance(x, y) for j, y in enumerate(support) if j != i)[neighbours - 1]
            for i, x in enumerate(support)
        ]
        return sum(any(distance(p, x) <= r for x, r in zip(support, radii)) for p in points) / len(points)

    return share(fake, real), share(real, fake)


@pytest.mark.parametrize("neighbours", [1, 3])
@pytest.mark.parametrize("block", [4, 1024])
def test_brute_force(monkeypatch, neighbours, block):
    monkeypatch.setattr(distances, "BLOCK", block)
    random = np.random.RandomState(0)
    real = random.standard_normal([30, 2]).astype(np.float32)
    fake = (0.7 * random.standard_normal([23, 2]) + [2.5, 0]).astype(np.float32)
    precise = inside_manifold(fake, real, neighbour_radii(real, neighbours=neighbours))
    recalled = inside_manifold(real, fake, neighbour_radii(fake, neighbours=neighbours))
    expected = brute_force(real, fake, neighbours)
    assert (precise.mean(), recalled.mean()) == pytest.approx(expected)
    assert all(0 < share < 1 for share in expected)


def test_radii_on_a_line():
    line = np.arange(10.0, dtype=np.float32)[:, None]
    assert neighbour_radii(line, neighbours=3).tolist() == [9, 4, 4, 4, 4, 4, 4, 4, 4, 9]
    assert neighbour_radii(line[[0, 0, 0, 0, 5]], neighbours=3).tolist() == [0, 0, 0, 0, 25]  # copies are neighbours
    with pytest.raises(ValueError, match="3 nearest neighbours need more than 3 samples, not 3"):
        neighbour_radii(line[:3], neighbours=3)


def measure(real, fake, replicates=2):
    return STATISTICS["precision_recall"](real, fake, METRICS["rpr64k3_16f"], replicates)


def test_closed_forms():
    """The same samples; sets far apart; a few modes of many; a set that is wider than the real one."""
    random = np.random.RandomState(1)
    modes = 100 * np.arange(4)[:, None, None] + random.uniform(size=[4, 20, 3])
    real = modes.reshape(80, 3)
    same = measure(real, real)
    assert (same.value, same.further["recall"]) == (1, 1) and same.interval == (1, 1)
    apart = measure(real, real + 1000)
    assert (apart.value, apart.further["recall"]) == (0, 0)
    dropped = measure(real, modes[:1].reshape(20, 3))
    assert (dropped.value, dropped.further["recall"]) == (1, 0.25)  # three of four modes are missing
    wide = measure(real[:40], real)
    assert (wide.value, wide.further["recall"]) == (0.5, 1)  # half of the generated samples belong to no real mode
    p = np.array([1.0] * 40 + [0.0] * 40)
    assert wide.interval == pytest.approx(mean_interval(p)) and wide.further["recall_interval"] == [1, 1]
    assert measure(real, real, replicates=0).interval is None


@pytest.mark.parametrize("offset", [0, 100])
def test_sets_of_copies_in_another_order_are_the_same(offset):
    """Rounding must not put a copy outside of a ball of radius 0."""
    random = np.random.RandomState(0)
    real = offset + np.repeat(random.standard_normal([20, 400]), 5, axis=0)
    fake = real[random.permutation(100)]
    same = measure(real, fake)
    assert (same.value, same.further["recall"]) == (1, 1)
    other = measure(real, fake + 1e-3)  # not a copy, though near one
    assert (other.value, other.further["recall"]) == (0, 0)


def test_at_most_so_many_real_samples(monkeypatch):
    monkeypatch.setattr("metrics.metric_functions.MOST_REAL", 30)
    features = np.random.RandomState(2).standard_normal([80, 3])
    found = measure(features, features)
    assert found.further["recall"] == 1 and found.value < 1  # the manifold of 30 does not hold all 80


def test_too_few_samples():
    with pytest.raises(UserError, match="rpr64k3_16f needs at least 4 real clips, there are 3"):
        require_samples(find_metric("rpr64k3_16f"), range(3), "real")
    require_samples(find_metric("rpr64k3_16f"), range(4), "real")


def test_too_few_samples_for_a_measure_of_ones_own(monkeypatch):
    monkeypatch.setitem(STATISTICS, "precision_recall", dataclasses.replace(STATISTICS["precision_recall"], least=6))
    with pytest.raises(UserError) as error:
        require_samples(find_metric("rpr64k3_16f"), range(5), "real")
    assert str(error.value) == "rpr64k3_16f needs at least 6 real clips, there are 5."


def test_a_row():
    real, fake = waves(24), noisy(waves(20, seed=3), 8)
    row = Evaluator(fake=MemoryVideos(fake), real=MemoryVideos(real)).evaluate("rpr64k3_16f")
    features = [RandomFeatures()(clips).numpy() for clips in (real, fake)]
    assert (row["value"], row["recall"]) == pytest.approx(brute_force(*features, 3))
    assert row["higher_is_better"] is None and row["protocol"]["measure"] == "precision_recall"
    assert row["figures"] == ["precision", "recall"]
    summary = row_summary(row)
    assert summary.startswith(f"rpr64k3_16f precision {row['value']:.4g} (95 %: ") and ", recall " in summary


def test_the_names():
    full, clips = METRICS["pr50k3_full"], METRICS["pr2048k3_16f"]
    assert (full.network, full.samples, full.count, full.better) == ("vgg16", "images", 50_000, "")
    assert (clips.network, clips.samples, clips.count, clips.frames) == ("i3d", "clips", 2048, 16)
