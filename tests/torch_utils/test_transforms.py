"""Operators within the transforms of torch.func and with forward-mode derivatives."""

import functools

import pytest
import torch
from torch.autograd import forward_ad

from torch_utils import custom_ops
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.composite import ray_weights, weighted_sum
from torch_utils.ops.conv2d_resample import conv2d_resample
from torch_utils.ops.grid_sample import grid_sample
from torch_utils.ops.point_linear import PointLayer, point_linear, point_mlp
from torch_utils.ops.upfirdn2d import setup_filter, upsample2d
from training.augment.diffaugment import shift_by_index


@functools.cache  # vmap allows no random numbers within
def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


F = setup_filter([1, 3, 3, 1])
LAYERS = [PointLayer(rand(32, 16), rand(32), slope=0.2), PointLayer(rand(16, 32), source=0)]
# Functions of tensors of sizes that native operators take, and one such tensor.
FUNCTIONS = {
    "point_linear": (lambda x: point_linear(x, rand(16, 16), rand(16), act="lrelu", clamp=20.0), (2, 4096, 16)),
    "point_linear of each": (lambda x: point_linear(x, rand(len(x), 16, 16), rand(len(x), 16)), (2, 4096, 16)),
    "point_mlp": (lambda x: point_mlp(x, LAYERS, frames=1, keep=[1])[0], (2, 1, 2048, 16)),
    "bias_act": (lambda x: bias_act(x, rand(16), act="lrelu", clamp=1.0), (2, 16, 32, 32)),
    "upsample2d": (lambda x: upsample2d(x, F), (2, 3, 64, 64)),
    "conv2d_resample": (lambda x: conv2d_resample(x, rand(64, 64, 3, 3), f=F, down=2, padding=1), (2, 64, 32, 32)),
    "grid_sample": (lambda x: grid_sample(x, rand(len(x), 16, 16, 2).tanh()), (2, 3, 32, 32)),
    "ray_weights": (lambda x: ray_weights(x.square(), torch.arange(7.0), last_opaque=False)[0], (2, 64, 8)),
    "weighted_sum": (lambda x: weighted_sum(torch.ones(1, 64, 64).softmax(-1), x), (16, 64, 64, 64)),
    "shift_by_index": (lambda x: shift_by_index(x, torch.tensor([1, -2]), torch.tensor([0, 1])), (2, 1, 3, 16, 16)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_and_forward_derivatives(name):
    function, shape = FUNCTIONS[name]
    x, direction = rand(*shape, seed=1), rand(*shape, seed=2)

    def value(x):
        return function(x).square().sum()

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(value(leaf), leaf)
    close = {"rtol": 1e-4, "atol": 1e-4 * float(expected.abs().max())}
    torch.testing.assert_close(torch.func.grad(value)(x), expected, **close)
    slope = (expected.double() * direction).sum()
    _, along = torch.func.jvp(value, (x,), (direction,))
    assert float(along) == pytest.approx(float(slope), rel=1e-3)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(value(forward_ad.make_dual(x, direction))).tangent
    assert tangent is not None, "native operators drop it, and the derivative seems to be zero"
    assert float(tangent) == pytest.approx(float(slope), rel=1e-3)


@pytest.mark.parametrize("name", ["point_linear", "bias_act", "upsample2d", "conv2d_resample", "grid_sample"])
def test_vmap(name):
    function, shape = FUNCTIONS[name]
    x = rand(3, *shape, seed=1)
    expected = torch.stack([function(one) for one in x])
    torch.testing.assert_close(torch.func.vmap(function)(x), expected, rtol=1e-4, atol=1e-4)


def test_the_state_ends_with_the_transform():
    seen = []
    torch.func.grad(lambda x: (seen.append(custom_ops.transformed()), x)[1])(torch.ones([]))
    with forward_ad.dual_level():
        seen.append(custom_ops.transformed())
    assert seen == [True, True] and not custom_ops.transformed()
