"""The reference rasteriser against closed forms."""

import math

import pytest
import torch

from renderer.cameras import CameraPrior
from renderer.splats import rasteriser
from renderer.splats.gaussians import Gaussians
from renderer.splats.rasteriser import rasterise
from training.inference.splats import psnr

SIZE = 64
FRONT = CameraPrior().at()  # at (1, 0, 0), x of the picture along y, its y along z; 18 degrees
FOCAL = SIZE / 2 / math.tan(math.radians(9))  # pixels


def one(mean, scale, *, opacity=0.8, colour=(1.0, 0.5, 0.25), rotation=(1.0, 0, 0, 0)):
    values = [torch.tensor([value]) for value in (mean, colour)]
    return Gaussians(*values, torch.tensor([opacity]), torch.tensor([scale]), torch.tensor([rotation]))


def stack(*parts):
    names = ("means", "colours", "opacities", "scales", "rotations")
    return Gaussians(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def closed_form(center, variances, opacity):
    """Opacities [SIZE, SIZE] of a Gaussian around a pixel position with variances along x and y."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    squares = (columns - center[0]) ** 2 / variances[0] + (rows - center[1]) ** 2 / variances[1]
    alpha = opacity * torch.exp(-squares / 2)
    return torch.where(alpha >= 1 / 255, alpha, 0)


def test_one_gaussian_is_its_closed_form():
    image, transmittance = rasterise(one((0.0, 0.02, -0.03), (0.005, 0.01, 0.02)), FRONT, SIZE)
    # At depth 1, where the projection is F / depth; to the right of the centre and below it. The closed form includes
    # the term x² s_x², which the perspective adds along the ray.
    center = (31.5 + FOCAL * 0.02, 31.5 + FOCAL * 0.03)
    spread = [(FOCAL * s) ** 2 + (FOCAL * x * 0.005) ** 2 + 0.3 for s, x in ((0.01, 0.02), (0.02, 0.03))]
    alpha = closed_form(center, spread, 0.8)
    assert float(alpha.max()) > 0.75 and (alpha == 0).any()
    # The product of both terms, the covariance of the two directions, is left out: 0.8 % of the variances at most.
    torch.testing.assert_close(1 - transmittance, alpha, atol=6e-3, rtol=0)
    torch.testing.assert_close(image, (1 - transmittance)[..., None] * torch.tensor([1.0, 0.5, 0.25]))


def test_one_gaussian_on_the_axis_is_exact_at_any_distance_and_angle():
    camera = CameraPrior().at_angles(0.7, 1.2, 0.8)
    for depth in (0.5, 0.8, 1.4):
        mean = tuple((camera.cam2world[0, :3, 3] * (1 - depth / 0.8)).tolist())
        _, transmittance = rasterise(one(mean, (0.01, 0.01, 0.01)), camera, SIZE)
        variance = (FOCAL * 0.01 / depth) ** 2 + 0.3
        torch.testing.assert_close(
            1 - transmittance, closed_form((31.5, 31.5), (variance, variance), 0.8), atol=1e-4, rtol=0
        )


def test_a_turned_gaussian_lies_along_the_turned_axis():
    # A rod along y turned by 45 degrees about x, from the picture's x towards up (z).
    half = math.radians(45) / 2
    rod = one((0.0, 0.0, 0.0), (0.001, 0.04, 0.001), rotation=(math.cos(half), math.sin(half), 0.0, 0.0))
    alpha = 1 - rasterise(rod, FRONT, SIZE)[1]
    along = 0.8 * math.exp(-2 * 7.5**2 / (2 * ((FOCAL * 0.04) ** 2 + 0.3)))  # at (7.5, 7.5) pixels from the middle
    assert [alpha[24, 39].item(), alpha[39, 24].item()] == pytest.approx([along] * 2, abs=1e-3)
    assert alpha[24, 24] == 0 and alpha[39, 39] == 0


@pytest.mark.parametrize("pairs", [1, 1 << 22])  # rows one at a time, and all at once
def test_the_nearer_gaussian_covers_the_other_whatever_their_order(pairs, monkeypatch):
    monkeypatch.setattr(rasteriser, "PAIRS", pairs)
    near = one((0.1, 0.0, 0.0), (0.05, 0.05, 0.05), opacity=0.75, colour=(1.0, 0.0, 0.0))
    far = one((-0.1, 0.0, 0.0), (0.05, 0.05, 0.05), opacity=0.5, colour=(0.0, 1.0, 0.0))
    results = [rasterise(both, FRONT, SIZE) for both in (stack(near, far), stack(far, near))]
    torch.testing.assert_close(results[0], results[1])
    image, transmittance = results[0]
    singles = [1 - rasterise(single, FRONT, SIZE)[1] for single in (near, far)]
    torch.testing.assert_close(image[..., 0], singles[0])
    torch.testing.assert_close(image[..., 1], (1 - singles[0]) * singles[1])
    torch.testing.assert_close(transmittance, (1 - singles[0]) * (1 - singles[1]))
    assert image[32, 32].tolist() == pytest.approx([0.75, 0.125, 0], abs=2e-3)


def test_faint_gaussians_those_behind_the_camera_and_negative_colours_do_not_show():
    nothing = [one((0.0, 0.0, 0.0), (0.1, 0.1, 0.1), opacity=0.003), one((1.5, 0.0, 0.0), (0.1, 0.1, 0.1))]
    image, transmittance = rasterise(stack(*nothing), FRONT, SIZE)
    assert (image == 0).all() and (transmittance == 1).all()
    image, _ = rasterise(one((0.0, 0.0, 0.0), (0.1, 0.1, 0.1), colour=(-1.0, 2.0, 0.0)), FRONT, SIZE)
    assert image.min() == 0 and float(image[32, 32, 1]) == pytest.approx(1.6, abs=1e-3)


def test_opacity_is_clipped():
    _, transmittance = rasterise(one((0.0, 0.0, 0.0), (0.1, 0.1, 0.1), opacity=1.0), FRONT, SIZE)
    assert float(transmittance.min()) == pytest.approx(0.01, rel=1e-4)


def test_psnr():
    assert psnr(torch.zeros(4), torch.full([4], 0.1)) == pytest.approx(20, abs=1e-5)
    assert psnr(torch.zeros(4), torch.full([4], -3.0)) == 100
