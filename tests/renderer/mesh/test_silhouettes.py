"""The matching level, against fields of known silhouettes."""

import math

import numpy as np
import pytest
import torch

from renderer.cameras import CameraPrior, camera_rays, pixel_centers
from renderer.mesh.silhouettes import agreement, matching_level, peak_densities

PRIOR = CameraPrior(yaw=(-0.3, 0.3))
CAMERAS = PRIOR.at(yaw=[0.0, 0.5, 1.0])
NEAR, FAR, SIZE = 0.8, 1.2, 24


def closest_approach(cameras) -> torch.Tensor:
    """Distance of the rays from the origin [N, SIZE, SIZE]."""
    origins, directions = camera_rays(cameras, pixel_centers(SIZE))
    unit = torch.nn.functional.normalize(directions, dim=-1)
    return torch.linalg.cross(origins.expand_as(unit), unit).norm(dim=-1).unflatten(1, (SIZE, SIZE))


def test_peaks_are_the_highest_densities_of_the_rays():
    peaks = peak_densities(lambda p: torch.exp(-p.norm(dim=-1) * 20), CAMERAS, SIZE, near=NEAR, far=FAR)
    torch.testing.assert_close(peaks, torch.exp(-closest_approach(CAMERAS) * 20), atol=0.002, rtol=0.02)


def test_of_fog_the_level_is_the_density_at_the_outline():
    """A ball of fog, thinner outwards: the rays that are half opaque pass within 0.07 of its middle."""
    distance = closest_approach(CAMERAS)
    peaks = torch.exp(-distance * 20)
    opacities = torch.sigmoid((0.07 - distance) * 300)
    level = matching_level([peaks], [opacities], sharp=1000.0)
    assert level == pytest.approx(math.exp(-0.07 * 20), rel=0.08)
    assert agreement(peaks, opacities > 0.5, torch.tensor([level])).item() > 0.99


def test_of_walls_the_level_is_the_one_asked_for_within_what_they_allow():
    mask = closest_approach(CAMERAS) < 0.07
    peaks = torch.where(mask, 80.0, 0.5)
    for sharp, expected in ((10.0, 10.0), (500.0, 80.0), (0.01, 0.5)):
        assert matching_level([peaks], [mask.float()], sharp=sharp) == pytest.approx(expected, rel=0.06)


def test_several_moments_count_alike():
    near = torch.tensor([[[8.0, 2.0, 1.0]]])
    opacities = torch.tensor([[[0.9, 0.9, 0.1]]])
    assert 1 <= matching_level([near], [opacities], sharp=1.5) < 2
    # Twice the density shows the same outline at levels 2 to 4: no level suits all pixels of both, and 2 suits most.
    both = matching_level([near, near * 2], [opacities, opacities], sharp=1.5)
    assert agreement(torch.cat([near, near * 2]), torch.cat([opacities] * 2) > 0.5, torch.tensor([both])) > 0.8
    assert matching_level([near], [opacities * 0.5], sharp=1.5) is None
    assert matching_level([near * 0], [opacities], sharp=1.5) is None


def test_agreement():
    peaks, masks = torch.tensor([[[3.0, 1.0]], [[0.0, 0.0]]]), torch.tensor([[[True, True]], [[False, False]]])
    scores = agreement(peaks, masks, torch.tensor([0.5, 2.0, 5.0]))
    np.testing.assert_allclose(scores, [1.0, 0.75, 0.5])
