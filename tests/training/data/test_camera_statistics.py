"""The camera prior that fits the poses of a dataset."""

import math

import numpy as np
import pytest

from renderer.cameras import CameraPrior, camera_angles
from torch_utils.rng import RandomStream
from training.data.camera_statistics import (
    camera_percentiles,
    describe_cameras,
    fit_prior,
    in_one_turn,
    mirrored_outside,
    outside_prior,
)

RANGES = {"yaw": (-0.3, 0.5), "pitch": (1.45, 1.6)}


def sampled(distribution, n=4000):
    """Angles of cameras that the prior of training samples."""
    prior = CameraPrior(**RANGES, distribution=distribution)
    return camera_angles(prior.sample(n, RandomStream(0))).numpy().astype(float)


@pytest.mark.parametrize("distribution", ["gaussian", "uniform"])
def test_a_prior_is_found_from_its_samples(distribution):
    fitted = fit_prior(sampled(distribution))
    assert fitted.distribution == distribution
    assert fitted.yaw == pytest.approx(RANGES["yaw"], abs=0.02)
    assert fitted.pitch == pytest.approx(RANGES["pitch"], abs=0.005)
    CameraPrior(yaw=fitted.yaw, pitch=fitted.pitch, distribution=fitted.distribution)
    assert outside_prior(sampled(distribution), **RANGES, distribution=distribution) is None


def test_one_camera_is_fitted_too():
    fitted = fit_prior(np.array([[0.1, 1.5]]))
    assert fitted.yaw == pytest.approx((0.1, 0.1)) and fitted.pitch == pytest.approx((1.5, 1.5))


def test_a_constant_pitch_says_nothing_about_the_distribution():
    """Of 101 equal numbers in single precision, the mean differs from each."""
    angles = np.stack([np.linspace(-1, 1, 101), np.full(101, 1.57)], axis=1).astype(np.float32)
    assert fit_prior(angles).distribution == fit_prior(angles.astype(float)).distribution == "uniform"


def test_percentiles_and_options_are_printed():
    angles = np.stack([np.linspace(-1, 1, 201), np.full(201, 1.5)], axis=1)
    head, yaw, pitch, fitting = describe_cameras(angles)
    assert head.split() == ["percentile", "1", "5", "25", "50", "75", "95", "99"]
    assert yaw.split() == ["cameras", "yaw", "-0.980", "-0.900", "-0.500", "0.000", "0.500", "0.900", "0.980"]
    assert set(pitch.split()[2:]) == {"1.500"}
    assert fitting.split() == [
        "fitting",
        "model.generator.camera.yaw=[-0.990,0.990]",
        "model.generator.camera.pitch=[1.500,1.500]",
        "model.generator.camera.distribution=uniform",
    ]
    assert describe_cameras(angles[:3])[-1].startswith("note      3 cameras are too few")
    assert describe_cameras(np.repeat(angles[:3], 20, axis=0))[-1].startswith("note      3 cameras are too few")


def test_cameras_outside_of_a_prior():
    angles = sampled("gaussian")
    note = outside_prior(angles, yaw=(-0.1, 0.1), pitch=RANGES["pitch"], distribution="gaussian")
    assert note.startswith("The data's cameras lie outside of what model.generator.camera samples (gaussian): yaw ")
    assert "outside of -0.25 to 0.25" in note and "pitch 1" not in note.partition("would fit")[0]
    assert "model.generator.camera.yaw=[-0.3" in note
    shifted = angles + [0, 0.5]
    assert "pitch" in outside_prior(shifted, **RANGES, distribution="gaussian").partition("would fit")[0]
    degrees = np.degrees(angles)
    assert outside_prior(degrees, **RANGES, distribution="gaussian") is not None
    assert outside_prior(angles + [2 * math.pi, 0], **RANGES, distribution="gaussian") is None  # a whole turn


def test_cameras_in_degrees_are_named_and_fit_no_prior():
    degrees = np.degrees(sampled("gaussian", 50))
    *_, last = describe_cameras(degrees)
    assert last == "note      50 of 50 have angles beyond a whole turn: radians are wanted, not degrees."
    note = outside_prior(degrees, **RANGES, distribution="gaussian")
    assert note.endswith("50 of 50 have angles beyond a whole turn: radians are wanted, not degrees.")
    assert outside_prior(degrees, **RANGES, distribution="gaussian", mirror=True).endswith(
        ". 50 of 50 have angles beyond a whole turn: radians are wanted, not degrees."
    )


ELEVATIONS = (
    "The data's cameras have pitches of -0.22 to 0.12, but pitch is 0 from above and π/2 on the horizon; these look "
    "like elevations: give π/2 − elevation."
)


@pytest.mark.parametrize("pitch", [(1.42, 1.73), (-0.3, 0.3)])
def test_elevations_are_named_and_fit_no_prior(pitch):
    """Even if the prior consists of elevations, too."""
    angles = np.stack([np.linspace(-0.6, 0.6, 9), np.linspace(-0.22, 0.12, 9)], axis=1)
    assert outside_prior(angles, yaw=(-0.6, 0.6), pitch=pitch, distribution="uniform") == ELEVATIONS
    assert describe_cameras(angles)[-1] == f"note      {ELEVATIONS}"
    assert "fitting" not in " ".join(describe_cameras(angles))
    level = np.stack([np.linspace(-0.6, 0.6, 100), np.linspace(1.4, 1.7, 100)], axis=1)
    level[50, 1] = -0.01  # one over the pole, as an angle of a camera that looks straight down
    assert describe_cameras(level)[-1].startswith("fitting ")
    note = outside_prior(level, yaw=(-0.1, 0.1), pitch=(1.3, 1.8), distribution="uniform")
    assert note.startswith("The data's cameras lie outside") and "elevations" not in note
    steep = np.stack([np.linspace(-0.6, 0.6, 15), np.linspace(0.3, 1.5, 15)], axis=1)
    steep[7, 1] = -0.01
    assert describe_cameras(steep)[-2].startswith("fitting ")
    for same in (steep, np.concatenate([steep, steep * [-1, 1]]), np.repeat(steep, 3, axis=0)):
        assert outside_prior(same, yaw=(-0.6, 0.6), pitch=(0, 1.57), distribution="gaussian") is None
    from_two_heights = np.stack([np.linspace(-0.6, 0.6, 40), np.repeat([-0.2, 0.3], 20)], axis=1)
    assert "look like elevations" in describe_cameras(from_two_heights)[-1]
    from_one_height = np.stack([angles[:, 0], np.full(9, -0.22)], axis=1)
    assert "look like elevations" in describe_cameras(from_one_height)[-1]
    from_below = level + [0, 1.4]
    assert outside_prior(from_below, yaw=(-0.6, 0.6), pitch=(2.7, 3.2), distribution="uniform") is None
    turned = level - [0, 2 * math.pi]
    assert outside_prior(turned, yaw=(-0.6, 0.6), pitch=(1.3, 1.8), distribution="uniform") is None
    poles = np.stack([angles[:, 0], np.linspace(0, math.pi, 9)], axis=1).astype(np.float32)
    assert outside_prior(poles, yaw=(-0.6, 0.6), pitch=(0, math.pi), distribution="uniform") is None


@pytest.mark.parametrize("distribution", ["gaussian", "uniform"])
def test_a_prior_that_is_much_wider_than_the_cameras(distribution):
    narrow = np.stack([np.linspace(-0.1, 0.1, 101), np.linspace(1.45, 1.6, 101)], axis=1)
    wide = {"yaw": (-0.6, 0.6), "pitch": RANGES["pitch"], "distribution": distribution}
    share = {"gaussian": 84, "uniform": 80}[distribution]
    assert outside_prior(narrow, **wide) == (
        f"What model.generator.camera samples ({distribution}) is much wider than the data's cameras: yaw -0.10 to "
        f"0.10 (1 to 99 %), {share}% of the samples outside. This would fit: {fit_prior(narrow).overrides()}"
    )
    behind = narrow + [math.pi, 0]
    assert outside_prior(behind, **wide | {"yaw": (math.pi - 0.6, math.pi + 0.6)}) is not None
    assert outside_prior(behind, **wide | {"yaw": (math.pi - 0.1, math.pi + 0.1)}) is None
    assert outside_prior(narrow[::4], **wide) is None  # too few
    assert outside_prior(np.tile(narrow[:1], [100, 1]), **wide) is None  # clips of one video
    assert outside_prior(camera_percentiles(narrow[::4]), **wide) is None
    assert outside_prior(narrow[:29], **wide | {"yaw": (-0.7, 0.7)}, mirror=True) is None
    both = outside_prior(narrow + [0, 1], **wide)
    assert "lie outside of what" in both and "much wider" in both and both.count("This would fit: ") == 1


def test_cameras_drawn_from_a_prior_are_as_wide():
    for distribution in ("gaussian", "uniform"):
        for yaw in ((-0.6, 0.6), (-math.pi, math.pi), (0, 2 * math.pi), (0.3, 0.3)):
            ranges = {"yaw": yaw, "pitch": (1.4, 1.7), "distribution": distribution}
            angles = camera_angles(CameraPrior(**ranges).sample(400, RandomStream(1))).numpy()
            assert outside_prior(angles, **ranges) is None


@pytest.mark.parametrize(
    "yaw, gaussian, uniform",
    [
        ((-0.6, 0.6), 0.012, 0.0),
        ((-0.58, 0.6), 0.012, 0.017),
        ((0.1, 0.6), 0.618, 1.0),
        ((0.0, 2 * math.pi), 0.0, 0.0),  # all of a turn
        ((math.pi - 0.2, math.pi + 0.2), 0.012, 0.0),  # symmetric around the back
    ],
)
def test_mirror_images_that_a_prior_does_not_have(yaw, gaussian, uniform):
    assert mirrored_outside(yaw, "gaussian") == pytest.approx(gaussian, abs=2e-3)
    assert mirrored_outside(yaw, "uniform") == pytest.approx(uniform, abs=2e-3)


def test_a_yaw_that_is_given_in_another_turn_is_no_wide_range():
    """-0.1 as 6.18, and cameras around the back of the head as -3.1 and 3.1."""
    angles = sampled("uniform")
    given = np.stack([angles[:, 0] % (2 * math.pi), angles[:, 1]], axis=1)
    assert fit_prior(given).yaw == pytest.approx(RANGES["yaw"], abs=0.02)
    assert describe_cameras(given)[-1] == describe_cameras(angles)[-1]
    behind = np.stack([angles[:, 0] % (2 * math.pi) - math.pi, angles[:, 1]], axis=1)
    assert fit_prior(behind).yaw == pytest.approx((math.pi - 0.3, math.pi + 0.5), abs=0.02)
    around = np.stack([np.linspace(-math.pi, math.pi, 500), angles[:500, 1]], axis=1)
    assert np.array_equal(in_one_turn(around), around)  # all of a turn stays as it is given
