"""Statistics of features: Fréchet distance (FID, FVD), kernel distance (KID, KVD), precision and recall, Inception
score, and the similarity of frames.

Fréchet distance. Between the Gaussians N(μ, Σ) and N(μ', Σ') its square is ‖μ − μ'‖² + tr(Σ + Σ' − 2 (ΣΣ')^½) (Dowson
and Landau, 1982; for images Heusel et al., 2017, for videos Unterthiner et al., 2018). The matrix square root of ΣΣ' is
ill-conditioned if a covariance is singular, as it always is with fewer samples than features. Only its trace is needed:
for any factors Σ = AAᵀ and Σ' = BBᵀ the eigenvalues of ΣΣ' are the squared singular values of AᵀB, so that tr (ΣΣ')^½
is the sum of these singular values. Their errors are proportional to the largest one, and there is no division.

Kernel distance. The squared maximum mean discrepancy, unbiased, with the cubic polynomial kernel k(x, y) = (x·y / D +
1)³ in D dimensions (Bińkowski et al., 2018, for images; Unterthiner et al., 2018, for videos). Unlike the Fréchet
distance, its expectation does not depend on the number of samples; an estimate may be negative.

Precision and recall (Kynkäänniemi et al., 2019). The manifold of a set is the union of balls around its samples, each
with the distance of the sample's k-th nearest neighbour as its radius. Precision is the share of generated samples in
the manifold of the real ones, recall the share of real samples in the manifold of the generated ones.

Inception score (Salimans et al., 2016). exp E_x KL(p(c|x) ‖ p(c)), the mean over splits of the images. With the entropy
H, E_x KL = H(mean p) − mean H(p): only sums over images are needed, so that memory stays small.

Frame similarity. The mean cosine of the features over all pairs of different frames (time steps of a video, or views of
one time step). With features of a face recognition network it is the identity consistency of the literature. Features
of an untrained network have a large common mean, so the mean over all frames of the set is subtracted first; frames of
different videos then have a cosine of about 0.
"""

import math

import numpy as np

__all__ = [
    "FeatureMoments",
    "KernelDistance",
    "SPLITS",
    "SUBSETS",
    "SUBSET_SIZE",
    "are_probabilities",
    "frame_similarity",
    "frechet_distance",
    "frechet_distance_of_features",
    "inception_score",
    "inside_manifold",
    "kernel_influences",
    "neighbour_radii",
    "polynomial_kernel",
    "subset_distances",
]

BLOCK = 1024  # rows converted to float64 at a time, to bound memory
ROUNDING = 1e-3  # tolerated error of a covariance, or of a sum of probabilities: far above rounding errors


def _matrix(features: np.ndarray) -> np.ndarray:
    """Features as an array of numbers [N, D]; a memory map is not read."""
    try:
        features = np.asarray(features)
    except (TypeError, RuntimeError) as error:  # on a GPU, with gradients, or of a type that NumPy lacks
        raise ValueError("Features must be an array; for a tensor: tensor.detach().float().cpu().numpy().") from error
    if features.ndim != 2 or features.shape[1] == 0 or features.dtype.kind not in "fiu":
        raise ValueError(f"Features must be numbers [N, D], got {features.dtype} {list(features.shape)}.")
    return features


def _pair(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of features of equal width."""
    x, y = _matrix(x), _matrix(y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"The two sets must have features of equal width, got {x.shape[1]} and {y.shape[1]}.")
    return x, y


def _finite(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ValueError("There are features that are not finite.")
    return values


# ----------------------------------------------------------------------------------------------------------------------
# Fréchet distance


class FeatureMoments:
    """Streaming mean and covariance in float64.

    Batches are merged by their means and scatter matrices (Chan, Golub and LeVeque, 1983), which does not cancel where
    the mean is large compared with the spread.

    Attributes:
        count: Number of rows so far.
    """

    def __init__(self, width: int):
        self.count = 0
        self._mean = np.zeros(width)
        self._scatter = np.zeros([width, width])

    def update(self, features: np.ndarray) -> None:
        """Add rows [N, width].

        Raises:
            ValueError: Rows of another width, or values that are not finite.
        """
        features = _matrix(features)
        if features.shape[1] != len(self._mean):
            raise ValueError(f"Features must be [N, {len(self._mean)}], got {list(features.shape)}.")
        for start in range(0, len(features), BLOCK):
            rows = features[start : start + BLOCK].astype(np.float64)
            mean = _finite(rows.mean(axis=0))
            rows -= mean
            self._merge(len(rows), mean, rows.T @ rows)

    def _merge(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        total = self.count + count
        shift = mean - self._mean
        self._scatter += scatter + np.outer(shift, shift) * (self.count * count / total)
        self._mean += shift * (count / total)
        self.count = total

    @property
    def mean(self) -> np.ndarray:
        """[width]

        Raises:
            ValueError: There are no rows yet.
        """
        self._require_rows()
        return self._mean.copy()

    @property
    def covariance(self) -> np.ndarray:
        """[width, width], biased: divided by the count.

        Raises:
            ValueError: There are no rows yet.
        """
        self._require_rows()
        return self._scatter / self.count

    def _require_rows(self) -> None:
        if self.count == 0:
            raise ValueError("There are no features yet, so that their moments are not defined.")


def frechet_distance(mean1: np.ndarray, covariance1: np.ndarray, mean2: np.ndarray, covariance2: np.ndarray) -> float:
    """Squared Fréchet distance between two Gaussians; covariances may be singular.

    Args:
        mean1, mean2: [D]
        covariance1, covariance2: [D, D], symmetric and positive semi-definite up to rounding.

    Raises:
        ValueError: Shapes that do not match, values that are not finite, or a matrix that cannot be a covariance.
    """
    mean1, covariance1, mean2, covariance2 = (
        np.asarray(x, dtype=np.float64) for x in (mean1, covariance1, mean2, covariance2)
    )
    width = mean1.size
    if not mean1.shape == mean2.shape == (width,) or not covariance1.shape == covariance2.shape == (width, width):
        raise ValueError("The two Gaussians must have equally many dimensions.")
    if not all(np.isfinite(x).all() for x in (mean1, covariance1, mean2, covariance2)):
        raise ValueError("There are moments that are not finite.")
    for covariance in (covariance1, covariance2):
        if not np.allclose(covariance, covariance.T, rtol=0, atol=ROUNDING * np.abs(covariance).max(initial=0)):
            raise ValueError("A covariance is not symmetric.")
    difference = mean1 - mean2
    cross = np.linalg.svd(_factor(covariance1).T @ _factor(covariance2), compute_uv=False).sum()
    distance = difference @ difference + np.trace(covariance1) + np.trace(covariance2) - 2 * cross
    return max(float(distance), 0.0)  # rounding may bring a distance of zero below it


def _factor(covariance: np.ndarray) -> np.ndarray:
    """A [D, rank] with AAᵀ the covariance.

    Eigenvalues below the rounding error of the largest one are taken as zero; their square roots would be far above
    rounding errors.
    """
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    if values[0] < -ROUNDING * max(values[-1], ROUNDING):
        raise ValueError(f"A covariance has a negative eigenvalue, {values[0]:.3g}: no covariance can have one.")
    kept = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return vectors[:, kept] * np.sqrt(values[kept])


def frechet_distance_of_features(features1: np.ndarray, features2: np.ndarray) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features, [N1, D] and [N2, D].

    Raises:
        ValueError: Fewer than two rows on a side, which have no spread; other shapes, values that are not finite.
    """
    moments = []
    for features in _pair(features1, features2):
        if len(features) < 2:
            raise ValueError(f"A Gaussian is fitted to two or more features, got {len(features)}.")
        part = FeatureMoments(features.shape[1])
        part.update(features)
        moments += [part.mean, part.covariance]
    return frechet_distance(*moments)


# ----------------------------------------------------------------------------------------------------------------------
# Kernel distance

SUBSETS = 100
SUBSET_SIZE = 1000


def polynomial_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x·y / D + 1)³ for all pairs of rows [N, D] and [M, D], float64 [N, M]."""
    return (x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1) ** 3


class KernelDistance:
    """MMD² = mean k(x, x') + mean k(y, y') − 2 mean k(x, y) over pairs of different samples, and its resamplings.

    Kernel values are computed once. In a resampling every row counts as often as it was drawn, and pairs of a row with
    its own copies are left out, as they would pass for samples that agree perfectly.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray):
        """Compute the kernel values of features x [N, D] and y [M, D].

        Raises:
            ValueError: Fewer than two rows on a side, different widths, values that are not finite.
        """
        x, y = _pair(x, y)
        if len(x) < 2 or len(y) < 2:
            raise ValueError(f"A kernel distance needs two samples on each side, got {len(x)} and {len(y)}.")
        self._xx, self._yy, self._xy = (_finite(polynomial_kernel(*pair)) for pair in ((x, x), (y, y), (x, y)))
        np.fill_diagonal(self._xx, 0)
        np.fill_diagonal(self._yy, 0)

    def value(self) -> float:
        n, m = self._xy.shape
        within = self._xx.sum() / (n * (n - 1)) + self._yy.sum() / (m * (m - 1))
        return float(within - 2 * self._xy.mean())

    def resampled(self, rows_x: np.ndarray, rows_y: np.ndarray) -> float:
        """The value for rows drawn with replacement; NaN if those of a side are all the same row."""
        n, m = self._xy.shape
        u, v = (np.bincount(rows, minlength=k).astype(np.float64) for rows, k in ((rows_x, n), (rows_y, m)))
        # Pairs of draws of different rows: n² − Σ u² rather than n (n − 1).
        pairs_x, pairs_y = n * n - u @ u, m * m - v @ v
        if not pairs_x or not pairs_y:
            return math.nan
        within = u @ self._xx @ u / pairs_x + v @ self._yy @ v / pairs_y
        return float(within - 2 * (u @ self._xy @ v) / (n * m))


def subset_distances(x: np.ndarray, y: np.ndarray, *, subsets: int = SUBSETS, size: int = SUBSET_SIZE) -> np.ndarray:
    """Kernel distances of random subsets, float64 [subsets]; their mean estimates the distance of large sets.

    Args:
        x, y: Features [N, D] and [M, D], possibly memory maps: only the rows of a subset are read.
        size: Rows of a subset, fewer if a set is smaller.

    Raises:
        ValueError: No subset; see also `KernelDistance`.
    """
    if subsets < 1 or size < 2:
        raise ValueError(f"subsets must be 1 or more and their size 2 or more, got {subsets} of {size}.")
    x, y = _pair(x, y)
    random = np.random.RandomState(0)
    size = min(size, len(x), len(y))
    values = []
    for _ in range(subsets):
        parts = [np.asarray(z[np.sort(random.permutation(len(z))[:size])]) for z in (x, y)]
        values.append(KernelDistance(*parts).value())
    return np.array(values)


def kernel_influences(x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """mean k(y, y') − mean k(x, y) over all x and all other y', for some y: float64 [R].

    The distance of features x [N, D] and M independent features y varies with the choice of the latter by a variance of
    4 / M times that of these values (the first term of Hoeffding's decomposition of U-statistics).

    Args:
        x, y: Features [N, D] and [M, D], possibly memory maps, which are read a block at a time.
        rows: Indices of the features y.

    Raises:
        ValueError: Values that are not finite.
    """
    x, y = _pair(x, y)
    some = np.asarray(y[rows])

    def sums(features: np.ndarray) -> np.ndarray:
        starts = range(0, len(features), BLOCK)
        return sum(polynomial_kernel(some, features[start : start + BLOCK]).sum(axis=1) for start in starts)

    itself = (np.square(some, dtype=np.float64).mean(axis=1) + 1) ** 3
    return _finite((sums(y) - itself) / (len(y) - 1) - sums(x) / len(x))


# ----------------------------------------------------------------------------------------------------------------------
# Precision and recall


def neighbour_radii(features: np.ndarray, *, neighbours: int) -> np.ndarray:
    """Squared distances of samples [N, D] to their k-th nearest neighbours among the others, float64 [N].

    Raises:
        ValueError: Too few samples, values that are not finite.
    """
    features = _matrix(features)
    if neighbours < 1:
        raise ValueError(f"neighbours must be 1 or more, got {neighbours}.")
    if len(features) <= neighbours:
        raise ValueError(f"{neighbours} nearest neighbours need more than {neighbours} samples, not {len(features)}.")
    radii = []
    for start in range(0, len(features), BLOCK):
        rows = features[start : start + BLOCK]
        nearest = np.full([len(rows), neighbours], np.inf)
        for other in range(0, len(features), BLOCK):
            distances = _squared_distances(rows, features[other : other + BLOCK])
            if other == start:
                np.fill_diagonal(distances, np.inf)  # a sample is not its own neighbour
            nearest = np.partition(np.concatenate([nearest, distances], axis=1), neighbours - 1)[:, :neighbours]
        radii.append(nearest.max(axis=1))
    return np.concatenate(radii)


def inside_manifold(points: np.ndarray, features: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """True [M] for points [M, D] in a ball around any of the features [N, D], of squared radii [N].

    Raises:
        ValueError: Shapes that do not match, values that are not finite.
    """
    points, features = _pair(points, features)
    if np.shape(radii) != (len(features),):
        raise ValueError(f"radii must be [{len(features)}], one for each of the features, got {list(np.shape(radii))}.")
    inside = np.zeros(len(points), dtype=bool)
    for start in range(0, len(points), BLOCK):
        rows = points[start : start + BLOCK]
        for other in range(0, len(features), BLOCK):
            distances = _squared_distances(rows, features[other : other + BLOCK])
            inside[start : start + BLOCK] |= (distances <= radii[other : other + BLOCK]).any(axis=1)
    return inside


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared distances of all pairs of rows [N, D] and [M, D], float64 [N, M]; 0 if rows differ by rounding only.

    Copies of a sample have balls of radius 0, which must hold the other copies.
    """
    x, y = (_finite(np.asarray(z, dtype=np.float64)) for z in (x, y))
    squares = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1)
    distances = squares - 2 * (x @ y.T)
    return np.where(distances > x.shape[1] * np.finfo(np.float64).eps * squares, distances, 0)


# ----------------------------------------------------------------------------------------------------------------------
# Inception score

SPLITS = 10


def inception_score(probabilities: np.ndarray, *, splits: int = SPLITS, rows: np.ndarray | None = None) -> float:
    """Mean over consecutive splits of exp(mean KL of a class distribution to the split's mean distribution).

    Args:
        probabilities: [N, classes], rows sum to one; may be a memory map.
        splits: Number of parts, fewer if there are fewer images.
        rows: Use these rows instead of all, for a resampling.

    Raises:
        ValueError: No splits, no images, or rows that are not probabilities, such as logits.
    """
    probabilities = _matrix(probabilities)
    if splits < 1 or not len(probabilities):
        raise ValueError(f"A score needs splits >= 1 of one image or more, got {splits} of {len(probabilities)}.")
    rows = np.arange(len(probabilities)) if rows is None else rows
    scores = []
    for part in np.array_split(rows, min(splits, len(rows))):
        total, negative_entropy = np.zeros(probabilities.shape[1]), 0.0
        for start in range(0, len(part), BLOCK):
            p = np.asarray(probabilities[part[start : start + BLOCK]], dtype=np.float64)
            if not are_probabilities(p):
                raise ValueError("Probabilities must be 0 or more, rows sum to one; for logits, take the softmax.")
            total += p.sum(axis=0)
            negative_entropy += _sum_p_log_p(p)
        mean = total / len(part)
        scores.append(np.exp(negative_entropy / len(part) - _sum_p_log_p(mean)))
    return float(np.mean(scores))


def are_probabilities(p: np.ndarray) -> bool:
    """True if the rows [N, classes] are probabilities, up to rounding."""
    return bool((p >= 0).all()) and np.allclose(p.sum(axis=1), 1, rtol=0, atol=ROUNDING)


def _sum_p_log_p(p: np.ndarray) -> float:
    return float((p * np.log(np.maximum(p, np.finfo(np.float64).tiny))).sum())  # 0 log 0 = 0


# ----------------------------------------------------------------------------------------------------------------------
# Similarity of frames


def frame_similarity(features: np.ndarray, *, centre: bool) -> np.ndarray:
    """Mean cosine of different frames, float64 [N]; 0 if the features are zero.

    Args:
        features: [N, T, D], T at least 2.
        centre: Subtract the mean over all frames of all clips first.
    """
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 3 or features.shape[1] < 2:
        raise ValueError(f"Features must be [N, T, D] with at least two frames, got {list(features.shape)}.")
    frames = features.shape[1]
    if centre:
        features = features - features.mean(axis=(0, 1))
    features = features / np.maximum(np.linalg.norm(features, axis=2, keepdims=True), 1e-12)
    # The squared norm of the sum contains every pair twice, and the squared norms of all frames. These are one, or zero
    # for features equal to the mean: subtracting ones would give a set in which nothing differs negative cosines.
    alone = np.square(features).sum(axis=(1, 2))
    return (np.square(features.sum(axis=1)).sum(axis=1) - alone) / (frames * (frames - 1))
