"""Kernel distances against sums over all pairs, written out."""

import numpy as np
import pytest

from metrics.distances import KernelDistance, kernel_influences, polynomial_kernel, subset_distances
from metrics.metric_functions import STATISTICS
from metrics.registry import METRICS


def brute_force(x, y):
    """Unbiased MMD² by loops; rows are pairs of an identity and a vector, pairs of one identity are left out."""

    def mean(rows, others):
        values = []
        for i, a in rows:
            for j, b in others:
                if rows is not others or i != j:
                    values.append((float(a @ b) / len(a) + 1) ** 3)
        return sum(values) / len(values)

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


@pytest.fixture(scope="module")
def sets():
    random = np.random.default_rng(0)
    return random.standard_normal([9, 5]).astype(np.float32), random.standard_normal([12, 5]).astype(np.float32) + 0.3


def test_kernel():
    x, y = np.array([[1.0, 2.0]]), np.array([[3.0, -1.0], [0.0, 4.0]])
    assert polynomial_kernel(x, y).tolist() == [[(1 / 2 + 1) ** 3, (8 / 2 + 1) ** 3]]


def test_against_brute_force(sets):
    x, y = sets
    expected = brute_force(list(enumerate(x)), list(enumerate(y)))
    assert KernelDistance(x, y).value() == pytest.approx(expected, rel=1e-6)
    assert KernelDistance(y, x).value() == pytest.approx(expected, rel=1e-6)


def test_a_resampling_leaves_out_pairs_of_copies(sets):
    x, y = sets
    random = np.random.RandomState(1)
    rows_x, rows_y = random.randint(len(x), size=len(x)), random.randint(len(y), size=len(y))
    assert len(set(rows_x)) < len(x)
    expected = brute_force([(i, x[i]) for i in rows_x], [(i, y[i]) for i in rows_y])
    distance = KernelDistance(x, y)
    assert distance.resampled(rows_x, rows_y) == pytest.approx(expected, rel=1e-6)
    assert distance.resampled(np.arange(len(x)), np.arange(len(y))) == pytest.approx(distance.value(), rel=1e-12)


def test_the_interval_of_very_few_samples():
    """A resampling that draws one row alone has no pairs of different rows."""
    random = np.random.RandomState(2)
    x, y = random.standard_normal([2, 5]), random.standard_normal([3, 5])
    assert np.isnan(KernelDistance(x, y).resampled(np.array([1, 1]), np.arange(3)))
    measured = STATISTICS["kernel"](x, y, METRICS["kvd64_16f"], 50)
    low, high = measured.interval
    assert low < measured.value < high and high - low < 100


def test_no_bias():
    """Sets from one distribution: the mean over many draws is zero, well within the spread of single draws."""
    random = np.random.default_rng(2)
    values = [KernelDistance(*random.standard_normal([2, 20, 8])).value() for _ in range(400)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 20 and np.min(values) < 0


def test_subsets(sets):
    x, y = sets
    whole = subset_distances(x, y[:9], subsets=3, size=9)
    np.testing.assert_allclose(whole, KernelDistance(x, y[:9]).value(), rtol=1e-12)
    some = subset_distances(x, y, subsets=2000, size=5)
    assert some.shape == (2000,) and len(set(some)) > 1000
    # Every pair is in as many subsets as any other, so that the mean is that of the sets.
    assert some.mean() == pytest.approx(KernelDistance(x, y).value(), abs=4 * some.std() / np.sqrt(2000))
    assert np.array_equal(some, subset_distances(x, y, subsets=2000, size=5))


def test_influences_against_brute_force(sets, monkeypatch):
    x, y = sets
    monkeypatch.setattr("metrics.distances.BLOCK", 4)
    found = kernel_influences(x, y, np.array([1, 5, 11]))
    for influence, row in zip(found, (1, 5, 11), strict=True):
        others = [float(y[row] @ other / 5 + 1) ** 3 for i, other in enumerate(y) if i != row]
        real = [float(y[row] @ other / 5 + 1) ** 3 for other in x]
        assert influence == pytest.approx(np.mean(others) - np.mean(real), rel=1e-5)


def test_too_few():
    with pytest.raises(ValueError, match="two samples on each side, got 1 and 3"):
        KernelDistance(np.zeros([1, 2]), np.zeros([3, 2]))
