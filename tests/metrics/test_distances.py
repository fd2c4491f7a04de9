"""Moments against NumPy, the Fréchet distance against closed forms and scipy.linalg.sqrtm."""

import numpy as np
import pytest
import scipy.linalg

from metrics.distances import (
    FeatureMoments,
    KernelDistance,
    frechet_distance,
    frechet_distance_of_features,
    inception_score,
    inside_manifold,
    neighbour_radii,
    subset_distances,
)


def random_covariance(random, width, rank=None):
    factor = random.standard_normal([width, rank or 2 * width])
    return factor @ factor.T / factor.shape[1]


def by_sqrtm(mean1, covariance1, mean2, covariance2):
    root = scipy.linalg.sqrtm(covariance1 @ covariance2).real
    return np.square(mean1 - mean2).sum() + np.trace(covariance1 + covariance2 - 2 * root)


@pytest.mark.parametrize("batches", [[500], [1, 2, 497], [100] * 5, [0, 7, 493]])
def test_moments_are_those_of_numpy(batches):
    features = (np.random.default_rng(0).standard_normal([500, 20]) * 3 + 100).astype(np.float32)
    moments = FeatureMoments(20)
    for rows in np.split(features, np.cumsum(batches)[:-1]):
        moments.update(rows)
    exact = features.astype(np.float64)
    assert moments.count == 500 and moments.mean.dtype == moments.covariance.dtype == np.float64
    np.testing.assert_allclose(moments.mean, exact.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.covariance, np.cov(exact, rowvar=False, bias=True), rtol=1e-12, atol=1e-12)


def test_moments_do_not_cancel():
    """A spread of 1e-4 around 1e6: sums of squares in float64 would lose it."""
    features = 1e6 + 1e-4 * np.random.default_rng(2).standard_normal([3000, 2])
    moments = FeatureMoments(2)
    for rows in np.split(features, 30):
        moments.update(rows)
    np.testing.assert_allclose(moments.covariance, np.cov(features, rowvar=False, bias=True), rtol=1e-3, atol=1e-11)


def test_moments_object_to_nonsense():
    moments = FeatureMoments(3)
    with pytest.raises(ValueError, match=r"must be \[N, 3\], got \[2, 4\]"):
        moments.update(np.zeros([2, 4]))
    with pytest.raises(ValueError, match="not finite"):
        moments.update(np.array([[0, np.nan, 0]]))
    with pytest.raises(ValueError, match="no features"):
        _ = moments.mean
    assert moments.count == 0


def test_one_dimension():
    """(μ − μ')² + (σ − σ')²"""
    assert frechet_distance([1.0], [[4.0]], [3.5], [[9.0]]) == pytest.approx(2.5**2 + 1, rel=1e-14)


def test_commuting_covariances():
    """Same eigenvectors: ‖μ − μ'‖² + Σ (√λ − √λ')²"""
    random = np.random.default_rng(3)
    axes = np.linalg.qr(random.standard_normal([6, 6]))[0]
    values1, values2 = np.array([0, 0, 1, 2, 3, 9.0]), np.array([0, 5, 0, 2, 1e-8, 1.0])
    mean1, mean2 = random.standard_normal([2, 6])
    covariance1, covariance2 = ((axes * values) @ axes.T for values in (values1, values2))
    expected = np.square(mean1 - mean2).sum() + np.square(np.sqrt(values1) - np.sqrt(values2)).sum()
    assert frechet_distance(mean1, covariance1, mean2, covariance2) == pytest.approx(expected, rel=1e-12)


def test_two_dimensions_that_do_not_commute():
    """tr (ΣΣ')^½ = √(tr ΣΣ' + 2 √(det ΣΣ')) for 2 × 2 matrices."""
    covariance1, covariance2 = np.array([[2, 0.7], [0.7, 1]]), np.array([[1, -0.4], [-0.4, 3]])
    product = covariance1 @ covariance2
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = np.trace(covariance1) + np.trace(covariance2) - 2 * root
    assert frechet_distance(np.zeros(2), covariance1, np.zeros(2), covariance2) == pytest.approx(expected, rel=1e-13)


def test_lines():
    """Rank one, uu' and vv': the root of the product has the trace |u·v|; orthogonal lines do not see each other."""
    random = np.random.default_rng(4)
    u, v = random.standard_normal([2, 50])
    zero = np.zeros(50)
    expected = u @ u + v @ v - 2 * abs(u @ v)
    assert frechet_distance(zero, np.outer(u, u), zero, np.outer(v, v)) == pytest.approx(expected, rel=1e-12)
    v -= u * (u @ v) / (u @ u)
    assert frechet_distance(zero, np.outer(u, u), zero, np.outer(v, v)) == pytest.approx(u @ u + v @ v, rel=1e-12)


@pytest.mark.parametrize("width", [2, 10, 60])
def test_regular_covariances_against_sqrtm(width):
    random = np.random.default_rng(width)
    gaussians = [
        f() for _ in range(2) for f in (lambda: random.standard_normal(width), lambda: random_covariance(random, width))
    ]
    assert frechet_distance(*gaussians) == pytest.approx(by_sqrtm(*gaussians), rel=1e-9)


def test_fewer_samples_than_features():
    """Singular covariances, against sqrtm of the regular matrix X'ᵀY Yᵀ'X of the samples' size with the same trace."""
    random = np.random.default_rng(5)
    x, y = random.standard_normal([12, 80]), 0.5 * random.standard_normal([15, 80]) + 1
    xc, yc = x - x.mean(axis=0), y - y.mean(axis=0)
    cross = xc @ yc.T / np.sqrt(len(x) * len(y))
    root = scipy.linalg.sqrtm(cross @ cross.T + 1e-15 * np.eye(12)).real
    expected = np.square(x.mean(axis=0) - y.mean(axis=0)).sum() - 2 * np.trace(root)
    expected += np.square(xc).sum() / len(x) + np.square(yc).sum() / len(y)
    assert frechet_distance_of_features(x, y) == pytest.approx(expected, rel=1e-8)


def test_equal_sets_and_symmetry():
    random = np.random.default_rng(6)
    x, y = random.standard_normal([30, 100]), random.standard_normal([200, 100])
    assert frechet_distance_of_features(x, x) < 1e-10 * 100
    assert frechet_distance_of_features(x, x[::-1]) < 1e-10 * 100
    assert frechet_distance_of_features(x, y) == pytest.approx(frechet_distance_of_features(y, x), rel=1e-12)
    assert frechet_distance_of_features(y, y + 2) == pytest.approx(400, rel=1e-12)  # 100 coordinates, each 2 apart
    assert frechet_distance_of_features(y, 3 * (y - y.mean(axis=0)) + y.mean(axis=0)) == pytest.approx(
        4 * np.trace(np.cov(y, rowvar=False, bias=True)), rel=1e-12
    )


def test_objections():
    zero, one = np.zeros(2), np.eye(2)
    with pytest.raises(ValueError, match="equally many dimensions"):
        frechet_distance(zero, one, np.zeros(3), np.eye(3))
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(zero, one, zero + np.inf, one)
    with pytest.raises(ValueError, match=r"\[N, D\]"):
        frechet_distance_of_features(zero, one)


def test_values_that_are_no_features_are_refused():
    features = np.random.RandomState(0).standard_normal([8, 3])
    spoilt = features.copy()
    spoilt[0, 0] = np.nan
    radii = neighbour_radii(features, neighbours=3)
    for call in (
        lambda: KernelDistance(spoilt, features),
        lambda: neighbour_radii(spoilt, neighbours=3),
        lambda: inside_manifold(spoilt, features, radii),
    ):
        with pytest.raises(ValueError, match="not finite"):
            call()
    with pytest.raises(ValueError, match="equal width, got 3 and 2"):
        frechet_distance_of_features(features, features[:, :2])
    with pytest.raises(ValueError, match="two or more features, got 1"):
        frechet_distance_of_features(features[:1], features)
    with pytest.raises(ValueError, match=r"radii must be \[8\]"):
        inside_manifold(features, features, radii[:1])
    with pytest.raises(ValueError, match="rows sum to one; for logits, take the softmax"):
        inception_score(features)
    with pytest.raises(ValueError, match="size 2 or more, got 0 of 5"):
        subset_distances(features, features, subsets=0, size=5)


def test_what_is_no_covariance_is_refused():
    zero = np.zeros(2)
    with pytest.raises(ValueError, match="not symmetric"):
        frechet_distance(zero, np.array([[1, 5], [0, 1]]), zero, np.eye(2))
    with pytest.raises(ValueError, match="negative eigenvalue, -1"):
        frechet_distance(zero, np.diag([1, -1]), zero, np.eye(2))
