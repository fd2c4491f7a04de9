"""Twice differentiable bilinear sampling."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from torch_utils.ops.grid_sample import grid_sample


def random_case(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(2, 3, 5, 6, dtype=dtype, generator=generator)
    grid = (torch.rand(2, 4, 7, 2, dtype=dtype, generator=generator) * 2 - 1) * 1.4  # some of it outside
    return image, grid


def test_values_at_and_between_pixels():
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
    # The centres of two pixels are at +-0.5; the image ends at +-1, and half a pixel further out it is zero.
    points = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [0.0, 0.5], [0.0, 0.0], [1.0, 0.5], [1.5, 0.5]])
    values = grid_sample(image, points[None, None])
    torch.testing.assert_close(values.flatten(), torch.tensor([1.0, 2.0, 3.5, 2.5, 2.0, 0.0]))


def test_both_ways_agree_with_pytorch():
    image, grid = random_case()
    image.requires_grad_()
    expected = F.grid_sample(image, grid, align_corners=False)
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (expected_gradient,) = torch.autograd.grad(expected, image, cotangent)
    for sampled_grid in (grid, grid.clone().requires_grad_()):  # the latter takes the route through gathering
        y = grid_sample(image, sampled_grid)
        (gradient,) = torch.autograd.grad(y, image, cotangent)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-5)


def test_pixels_beyond_the_integers_of_float32():
    width = 5001
    image = torch.arange(width, dtype=torch.float32).expand(1, 1, width, width)
    columns = torch.tensor([4001.0, 4003.0, 4999.0])
    grid = torch.stack([(columns + 0.5) * (2 / width) - 1, torch.full((3,), 1 - 1 / width)], dim=-1)[None, None]
    values = grid_sample(image, grid.requires_grad_())  # through gathering
    torch.testing.assert_close(values.flatten(), columns, rtol=0, atol=0.01)


def test_gradient_of_the_grid_agrees_with_pytorch():
    image, grid = random_case(torch.float64)
    grid.requires_grad_()
    (expected,) = torch.autograd.grad(F.grid_sample(image, grid, align_corners=False).square().sum(), grid)
    (gradient,) = torch.autograd.grad(grid_sample(image, grid).square().sum(), grid)
    torch.testing.assert_close(gradient, expected)


def test_derivatives():
    image, grid = random_case(torch.float64)
    image.requires_grad_()
    assert gradcheck(lambda image: grid_sample(image, grid), [image])
    assert gradgradcheck(lambda image: grid_sample(image, grid).pow(3), [image], fast_mode=True)
    grid.requires_grad_()
    assert gradcheck(grid_sample, [image, grid])
    assert gradgradcheck(grid_sample, [image, grid], fast_mode=True)


def test_no_graph_without_need():
    image, grid = random_case()
    assert not grid_sample(image, grid).requires_grad
    with torch.no_grad():
        assert not grid_sample(image.requires_grad_(), grid).requires_grad


@pytest.mark.parametrize(
    "image, grid", [((1, 5, 5), (1, 2, 2, 2)), ((2, 1, 5, 5), (1, 2, 2, 2)), ((1, 1, 5, 5), (1, 2, 2, 3))]
)
def test_mistakes(image, grid):
    with pytest.raises(ValueError, match="grid_sample"):
        grid_sample(torch.zeros(image), torch.zeros(grid))
