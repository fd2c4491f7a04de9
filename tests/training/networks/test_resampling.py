"""Resampling of feature rows: against the FIR operators on images, against explicit neighbours."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from tests.goldens.checks import assert_near
from tests.goldens.reference import fir
from tests.goldens.reference.upsampler import corner_neighbours, doubled, nearest
from torch_utils.ops.upfirdn2d import filter2d, setup_filter, upsample2d
from training.networks.upsampler import blur, blur_nearest, corner_means, interleave, upsample_image

SHAPES = [(1, 4, 4, 3), (2, 5, 7, 4), (1, 1, 3, 2), (1, 16, 16, 40)]


def random_rows(shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def images(rows):
    return rows.movedim(-1, 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_blur(shape, dtype):
    x = random_rows(shape, dtype)
    y = blur(x)
    expected = torch.stack([fir(image.double()) for image in images(x)])
    assert y.shape == x.shape and y.dtype == dtype
    assert_near(images(y), expected, relative=1e-6 if dtype == torch.float32 else 1e-12)
    assert_near(images(y), filter2d(images(x), setup_filter([1, 3, 3, 1])), relative=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_blurred_nearest_neighbour(shape, dtype):
    x = random_rows(shape, dtype)
    y = blur_nearest(x)
    expected = torch.stack([fir(nearest(image.double())) for image in images(x)])
    assert y.dtype == dtype
    assert_near(images(y), expected, relative=1e-6 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_upsampling(shape):
    x = random_rows(shape)
    expected = torch.stack([doubled(image) for image in images(x)])
    assert_near(images(upsample_image(x)), expected, relative=1e-12)
    assert_near(images(upsample_image(x)), upsample2d(images(x), setup_filter([1, 3, 3, 1])), relative=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_corner_means(shape):
    own, neighbours = random_rows(shape), random_rows(shape).flip(0, 1)
    expected = torch.stack([nearest(a) + corner_neighbours(b) for a, b in zip(images(own), images(neighbours))])
    assert_near(images(corner_means(own, neighbours)), expected, relative=1e-12)


def test_interleave():
    corners = random_rows((2, 3, 4, 2, 2, 5))
    y = interleave(corners)
    for row in range(6):
        for column in range(8):
            expected = corners[:, row // 2, column // 2, row % 2, column % 2]
            assert torch.equal(y[:, row, column], expected)


@pytest.mark.parametrize("function", [blur, blur_nearest, upsample_image])
def test_derivatives(function):
    x = random_rows((1, 3, 4, 2)).requires_grad_()
    assert gradcheck(function, [x])
    assert gradgradcheck(function, [x])


def test_weights_first_used_in_inference_serve_training():
    rows = random_rows((1, 4, 4, 13))  # a width of its own
    with torch.inference_mode():
        expected = blur(rows)
    tracked = rows.clone().requires_grad_()
    y = blur(tracked)
    y.sum().backward()
    assert torch.equal(y, expected) and tracked.grad.any()
