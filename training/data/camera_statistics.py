"""Distribution of the cameras of a dataset, and the camera prior of training that fits it.

The discriminator compares real and generated images as they are, so a generator whose prior (`model.generator.camera`)
differs from the poses in the data has to distort the scene.
"""

import dataclasses

import numpy as np
from scipy.special import ndtr, ndtri

from training.data.annotations import mirrored

__all__ = [
    "FittedPrior",
    "camera_percentiles",
    "describe_cameras",
    "fit_prior",
    "in_one_turn",
    "mirrored_outside",
    "outside_prior",
]

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
FEW = 30  # cameras; fewer do not show a distribution
TRIMMED = 0.5  # percent at each end that a uniform range leaves out
GAUSSIAN_REACH = 2.5  # standard deviations within which a Gaussian prior has 98.8 % of its cameras
TOLERATED = 0.05  # fraction of cameras outside the prior that is tolerated
ONE_CAMERA = 0.25  # of all clips, at most, if others have cameras of their own
UNSEEN = 0.5  # fraction of the prior outside the cameras that is tolerated
MARGIN = 0.02  # radians: a prior this much wider than the cameras is as good as theirs
NARROWER = 0.9  # factor on the standard deviation below which yaws are shifted by whole turns
NAMES = ("yaw", "pitch")


@dataclasses.dataclass(frozen=True)
class FittedPrior:
    """The arguments of `renderer.cameras.CameraPrior` that fit: ranges (low, high) in radians, and the distribution."""

    yaw: tuple[float, float]
    pitch: tuple[float, float]
    distribution: str

    def overrides(self) -> str:
        """As options of run_train.py."""
        ranges = [f"model.generator.camera.{name}=[{low:.3f},{high:.3f}]" for name, (low, high) in
                  (("yaw", self.yaw), ("pitch", self.pitch))]  # fmt: skip
        return " ".join([*ranges, f"model.generator.camera.distribution={self.distribution}"])


def in_one_turn(angles: np.ndarray) -> np.ndarray:
    """Cameras [n, 2] with yaw in -π…π, or in 0…2π, where that brings them closer together.

    Whole turns make no difference to a camera. A yaw of -0.1 may be given as 6.18, which is not a wide range.
    """
    yaw = angles[:, 0]
    best = min(((yaw + np.pi) % (2 * np.pi) - np.pi, yaw % (2 * np.pi)), key=np.std)
    if _beyond_a_turn(angles) or best.std() >= NARROWER * yaw.std():
        return angles
    return np.stack([best, angles[:, 1]], axis=1)


def _beyond_a_turn(angles: np.ndarray) -> str:
    """A sentence about cameras that look like degrees, or an empty one."""
    beyond = int((np.abs(angles) > 2 * np.pi + 1e-3).any(axis=1).sum())
    return (
        f"{beyond} of {len(angles)} have angles beyond a whole turn: radians are wanted, not degrees." if beyond else ""
    )


def _elevations(angles: np.ndarray) -> str:
    """A sentence about cameras whose pitch looks like an elevation above the horizon, or an empty one."""
    pitch = angles[:, 1]
    below, steep = pitch < -1e-3, np.abs(pitch) > np.pi / 2 + 1e-3
    # A few cameras may be beyond the upper pole, and one may have many clips; elevations never exceed π/2.
    one = len(np.unique(pitch[below])) == 1 < len(np.unique(pitch)) and below.mean() < ONE_CAMERA
    if one or below.mean() <= TOLERATED or steep.mean() > TOLERATED:
        return ""
    return (
        f"The data's cameras have pitches of {pitch.min():.2f} to {pitch.max():.2f}, but pitch is 0 from above and π/2 "
        "on the horizon; these look like elevations: give π/2 − elevation."
    )


def fit_prior(angles: np.ndarray) -> FittedPrior:
    """The prior that fits cameras [n, 2] (yaw and pitch) in radians best.

    The range of a Gaussian prior is the mean of the data plus and minus one standard deviation. Yaw and pitch share one
    of two distributions: the one with the smaller sum of Kolmogorov-Smirnov distances.
    """
    angles = in_one_turn(angles.astype(float))
    mean, deviation = angles.mean(axis=0), angles.std(axis=0)
    low, high = np.percentile(angles, [TRIMMED, 100 - TRIMMED], axis=0)
    gaussian = list(zip((mean - deviation).tolist(), (mean + deviation).tolist()))
    uniform = list(zip(low.tolist(), high.tolist()))
    spread = [k for k in range(2) if deviation[k] > 1e-6]  # for a constant angle both distributions are the same
    distances = {
        "gaussian": sum(_distance(angles[:, k], _normal_cdf(mean[k], deviation[k])) for k in spread),
        "uniform": sum(_distance(angles[:, k], _uniform_cdf(low[k], high[k])) for k in spread),
    }
    name = min(distances, key=distances.get)
    yaw, pitch = gaussian if name == "gaussian" else uniform
    return FittedPrior(yaw=yaw, pitch=pitch, distribution=name)


def camera_percentiles(angles: np.ndarray) -> np.ndarray:
    """The percentiles 0 to 100 of yaw and of pitch, [101, 2], of cameras [n, 2].

    Their statistics are those of the cameras to a hundredth, and no angles lie between those of the cameras, so that
    few remain few. `outside_prior` uses them for clips in tar files, which are not all read before training.
    """
    return np.percentile(angles.astype(float), np.arange(101), axis=0, method="inverted_cdf")


def describe_cameras(angles: np.ndarray) -> list[str]:
    """Lines on the distribution of cameras [n, 2] in radians: percentiles, and the prior that fits."""
    angles = in_one_turn(angles)
    lines = [f"          {'percentile':>10}" + "".join(f"{p:>8}" for p in PERCENTILES)]
    for k, name in enumerate(NAMES):
        values = np.percentile(angles[:, k], PERCENTILES)
        lines.append(f"cameras   {name:>10}" + "".join(f"{value:>8.3f}" for value in values))
    if misread := _beyond_a_turn(angles) or _elevations(angles):
        return [*lines, f"note      {misread}"]
    lines.append(f"fitting   {fit_prior(angles).overrides()}")
    if (different := len(np.unique(angles, axis=0))) < FEW:  # one may have many clips
        lines.append(f"note      {different} cameras are too few for a distribution: take the range as a first guess")
    return lines


def outside_prior(
    angles: np.ndarray,
    *,
    yaw: tuple[float, float],
    pitch: tuple[float, float],
    distribution: str,
    mirror: bool = False,
) -> str | None:
    """One line if too many cameras lie outside the range of a prior, or most of the prior outside theirs; else None.

    The discriminators can tell cameras that only real videos have, or only generated ones, by their labels alone.

    Args:
        angles: [n, 2] yaw and pitch in radians of cameras, or their percentiles.
        yaw, pitch, distribution: The prior's, see `renderer.cameras.CameraPrior`.
        mirror: Add the mirror image of every camera, which makes them no more.
    """
    if elevations := _elevations(angles):
        return elevations
    outside, unseen, degrees = [], [], _beyond_a_turn(angles)
    # A camera may have many clips; rows of percentiles are no cameras, but their angles are.
    many = max(len(np.unique(values)) for values in angles.T) >= FEW
    angles = in_one_turn(np.concatenate([angles, mirrored(angles)]) if mirror else angles)
    for name, values, (low, high) in zip(NAMES, angles.T, (yaw, pitch)):
        middle, half = _reach(low, high, distribution)
        share = _share_beyond(values, middle, half)
        first, fifth, last_but_five, last = np.percentile(values, [1, 5, 95, 99])
        if share > TOLERATED:
            outside.append(
                f"{name} {fifth:.2f} to {last_but_five:.2f} (5 to 95 %), {share:.0%} outside of {middle - half:.2f} to "
                f"{middle + half:.2f}"
            )
            continue
        share = _share_beyond(_quantiles(low, high, distribution), (first + last) / 2, (last - first) / 2 + MARGIN)
        if share > UNSEEN and many:
            unseen.append(f"{name} {first:.2f} to {last:.2f} (1 to 99 %), {share:.0%} of the samples outside")
    sentences = []
    if outside:
        sentences.append(
            f"The data's cameras lie outside of what model.generator.camera samples ({distribution}): "
            f"{'; '.join(outside)}."
        )
    if unseen:
        sentences.append(
            f"What model.generator.camera samples ({distribution}) is much wider than the data's cameras: "
            f"{'; '.join(unseen)}."
        )
    if not sentences:
        return None
    return " ".join([*sentences, degrees or f"This would fit: {fit_prior(angles).overrides()}"])


def mirrored_outside(yaw: tuple[float, float], distribution: str) -> float:
    """Fraction of a prior's cameras whose mirror images, at the opposite yaw, lie outside of its range."""
    return _share_beyond(-_quantiles(*yaw, distribution), *_reach(*yaw, distribution))


def _reach(low: float, high: float, distribution: str) -> tuple[float, float]:
    """Middle and half width of the range of a prior's samples."""
    return (low + high) / 2, (high - low) / 2 * (GAUSSIAN_REACH if distribution == "gaussian" else 1)


def _quantiles(low: float, high: float, distribution: str) -> np.ndarray:
    """A thousand angles that are distributed as a prior's samples."""
    fractions = (np.arange(1000) + 0.5) / 1000
    if distribution == "gaussian":
        return (low + high) / 2 + (high - low) / 2 * ndtri(fractions)
    return low + (high - low) * fractions


def _share_beyond(values: np.ndarray, middle: float, half: float) -> float:
    """Fraction of angles that are farther than `half` from the middle; whole turns make no difference."""
    away = np.abs((values - middle + np.pi) % (2 * np.pi) - np.pi)
    return float((away > half + 1e-6).mean())


def _distance(values: np.ndarray, cdf) -> float:
    """Kolmogorov-Smirnov distance between values and a distribution."""
    values = np.sort(values)
    expected, n = cdf(values), len(values)
    steps = np.arange(n + 1) / n
    return float(max((steps[1:] - expected).max(), (expected - steps[:-1]).max()))


def _normal_cdf(mean: float, deviation: float):
    return lambda x: ndtr((x - mean) / deviation)


def _uniform_cdf(low: float, high: float):
    return lambda x: np.clip((x - low) / max(high - low, 1e-9), 0, 1)
