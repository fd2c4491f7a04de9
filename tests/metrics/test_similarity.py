"""Similarity of frames, against cosines of all pairs."""

import itertools

import numpy as np
import pytest

from metrics.distances import frame_similarity
from metrics.metric_functions import STATISTICS
from metrics.registry import METRICS


def by_pairs(features):
    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    return [np.mean([cosine(a, b) for a, b in itertools.combinations(clip, 2)]) for clip in features]


def test_against_all_pairs():
    features = np.random.default_rng(0).standard_normal([4, 5, 8]) + 0.5
    np.testing.assert_allclose(frame_similarity(features, centre=False), by_pairs(features), rtol=1e-12)
    centred = features - features.reshape(-1, 8).mean(axis=0)
    np.testing.assert_allclose(frame_similarity(features, centre=True), by_pairs(centred), rtol=1e-12)


def test_real_videos_are_measured_alike():
    random = np.random.default_rng(2)
    real, fake = random.standard_normal([3, 16 * 8]) + 1, random.standard_normal([4, 16 * 8]) - 0.5
    measured = STATISTICS["similarity"](real, fake, METRICS["ridentity32_16f"], 0)
    assert measured.value == pytest.approx(np.mean(frame_similarity(fake.reshape(4, 16, 8), centre=True)))
    assert measured.further["real"] == pytest.approx(np.mean(frame_similarity(real.reshape(3, 16, 8), centre=True)))


def test_known_cases():
    random = np.random.default_rng(1)
    constant = np.repeat(random.standard_normal([30, 1, 16]), 6, axis=1) + 50
    np.testing.assert_allclose(frame_similarity(constant, centre=True), 1)
    unrelated = random.standard_normal([300, 6, 64]) + 50
    assert abs(frame_similarity(unrelated, centre=True).mean()) < 0.01
    assert frame_similarity(unrelated, centre=False).mean() > 0.99  # why a common mean must go
    changing = constant + np.linspace(0, 1, 6)[:, None] * random.standard_normal([30, 1, 16])
    middle = frame_similarity(changing, centre=True).mean()
    assert 0.3 < middle < 0.99
    opposite = np.array([[[1.0, 0.0], [-1.0, 0.0]]])
    assert frame_similarity(opposite, centre=False) == pytest.approx([-1])


def test_where_nothing_differs():
    """Centred features are zero: they have no cosine, and must not count as frames that oppose each other."""
    assert frame_similarity(np.full([5, 16, 8], 0.1, dtype=np.float32), centre=True) == pytest.approx([0] * 5)
    one_zero = np.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]])  # one pair of three agrees
    assert frame_similarity(one_zero, centre=False) == pytest.approx([1 / 3])


def test_too_few_frames():
    with pytest.raises(ValueError, match="at least two frames"):
        frame_similarity(np.zeros([3, 1, 4]), centre=False)
