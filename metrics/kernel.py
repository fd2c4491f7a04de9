"""Kernel distance: the squared maximum mean discrepancy of two sets of features, without bias.

The kernel is the cubic polynomial k(x, y) = (x·y / D + 1)³ in D dimensions (Bińkowski et al., 2018, for images;
Unterthiner et al., 2018, for videos). Unlike a Fréchet distance the estimate does not depend on the number of samples
in expectation; it may be negative.
"""

import numpy as np

__all__ = ["SUBSETS", "SUBSET_SIZE", "KernelDistance", "polynomial_kernel", "subset_distances"]

SUBSETS = 100
SUBSET_SIZE = 1000


def polynomial_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x·y / D + 1)³ for all pairs of rows [N, D] and [M, D], float64 [N, M]."""
    return (x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1) ** 3


class KernelDistance:
    """MMD² = mean k(x, x') + mean k(y, y') − 2 mean k(x, y) over pairs of different samples, and its resamplings.

    The kernel values are computed once. For a resampling every row counts as often as it was drawn, and pairs of the
    same row are left out, or its copies would look like samples that agree perfectly.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray):
        """Args: x [N, D] and y [M, D], at least two rows each."""
        if len(x) < 2 or len(y) < 2:
            raise ValueError(f"A kernel distance needs two samples on each side, got {len(x)} and {len(y)}.")
        self._xx, self._yy, self._xy = polynomial_kernel(x, x), polynomial_kernel(y, y), polynomial_kernel(x, y)
        np.fill_diagonal(self._xx, 0)
        np.fill_diagonal(self._yy, 0)

    def value(self) -> float:
        n, m = self._xy.shape
        within = self._xx.sum() / (n * (n - 1)) + self._yy.sum() / (m * (m - 1))
        return float(within - 2 * self._xy.mean())

    def resampled(self, rows_x: np.ndarray, rows_y: np.ndarray) -> float:
        """The value for rows drawn with replacement."""
        n, m = self._xy.shape
        u, v = (np.bincount(rows, minlength=k).astype(np.float64) for rows, k in ((rows_x, n), (rows_y, m)))
        # Pairs of draws of different rows: n² − Σ u² rather than n (n − 1).
        within = u @ self._xx @ u / (n * n - u @ u) + v @ self._yy @ v / (m * m - v @ v)
        return float(within - 2 * (u @ self._xy @ v) / (n * m))


def subset_distances(
    x: np.ndarray, y: np.ndarray, *, subsets: int = SUBSETS, size: int = SUBSET_SIZE, seed: int = 0
) -> np.ndarray:
    """Kernel distances of random subsets, float64 [subsets]; their mean is the distance of large sets.

    Args:
        x, y: Features [N, D] and [M, D], possibly on the disk: only the rows of a subset are read.
        size: Rows of a subset, fewer if a set is smaller.
    """
    random = np.random.RandomState(seed)
    size = min(size, len(x), len(y))
    values = []
    for _ in range(subsets):
        parts = [np.asarray(z[np.sort(random.permutation(len(z))[:size])]) for z in (x, y)]
        values.append(KernelDistance(*parts).value())
    return np.array(values)
