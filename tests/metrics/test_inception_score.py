"""The Inception score against its definition and known values."""

import numpy as np
import pytest

from metrics.distances import inception_score
from metrics.metric_functions import STATISTICS
from metrics.registry import METRICS


def by_definition(p, splits):
    scores = []
    for part in np.array_split(p.astype(np.float64), splits):
        mean = part.mean(axis=0)
        scores.append(np.exp(np.mean([np.sum(row * (np.log(row) - np.log(mean))) for row in part])))
    return np.mean(scores)


def test_definition():
    p = np.random.default_rng(0).dirichlet(np.full(7, 0.5), size=2500).astype(np.float32)
    for splits in (1, 10):
        assert inception_score(p, splits=splits) == pytest.approx(by_definition(p, splits), rel=1e-6)
    rows = np.random.RandomState(0).randint(2500, size=2500)
    assert inception_score(p, rows=rows) == pytest.approx(by_definition(p[rows], 10), rel=1e-6)


def test_the_order_of_frames_does_not_matter():
    """Consecutive frames of videos are much alike: splits of them would hold few classes each."""
    p = np.repeat(np.eye(40), 50, axis=0)  # 40 videos of 50 frames, each of a class of its own
    assert inception_score(p) == pytest.approx(4)
    measured = STATISTICS["inception_score"](None, p, METRICS["is1k"], 20)
    assert measured.value > 35
    assert measured.interval[0] <= measured.value <= measured.interval[1]


def test_known_values():
    assert inception_score(np.full([100, 8], 1 / 8)) == pytest.approx(1)  # says nothing
    assert inception_score(np.tile(np.eye(8), [50, 1])) == pytest.approx(8)  # certain, and all classes alike
    assert inception_score(np.eye(8)[np.zeros(40, dtype=int)]) == pytest.approx(1)  # one class only
    assert inception_score(np.eye(4)[:3], splits=10) == pytest.approx(1)  # fewer images than splits
