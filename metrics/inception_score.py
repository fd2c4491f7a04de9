"""Inception score (Salimans et al., 2016): exp E_x KL(p(c|x) ‖ p(c)), the mean over splits of the images.

With H the entropy, E_x KL = H(mean p) − mean H(p); only sums over images are needed, so nothing large is kept.
"""

import numpy as np

__all__ = ["SPLITS", "inception_score"]

SPLITS = 10
BLOCK = 1024


def inception_score(probabilities: np.ndarray, *, splits: int = SPLITS, rows: np.ndarray | None = None) -> float:
    """Mean over consecutive splits of exp(mean KL of a class distribution to the split's mean distribution).

    Args:
        probabilities: [N, classes], rows sum to one; may lie on the disk.
        splits: Number of parts, fewer if there are fewer images.
        rows: Use these rows instead of all, for a resampling.
    """
    rows = np.arange(len(probabilities)) if rows is None else rows
    scores = []
    for part in np.array_split(rows, min(splits, len(rows))):
        total, negative_entropy = np.zeros(probabilities.shape[1]), 0.0
        for start in range(0, len(part), BLOCK):
            p = np.asarray(probabilities[part[start : start + BLOCK]], dtype=np.float64)
            total += p.sum(axis=0)
            negative_entropy += _sum_p_log_p(p)
        mean = total / len(part)
        scores.append(np.exp(negative_entropy / len(part) - _sum_p_log_p(mean)))
    return float(np.mean(scores))


def _sum_p_log_p(p: np.ndarray) -> float:
    return float((p * np.log(np.maximum(p, np.finfo(np.float64).tiny))).sum())  # 0 log 0 = 0
