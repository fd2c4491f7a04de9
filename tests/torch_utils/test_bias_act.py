"""Bias and activation: measured values, layouts, derivatives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from torch_utils.ops.bias_act import ACTIVATIONS, bias_act

GOLDENS = np.load(Path(__file__).parents[1] / "data" / "operators.npz")


def golden(key):
    return torch.from_numpy(GOLDENS[f"bias_act/{key}"])


@pytest.mark.parametrize("with_gradient", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_measured_values(act, memory_format, with_gradient):
    x = golden("x").contiguous(memory_format=memory_format).requires_grad_(with_gradient)
    b = golden("b")
    for arguments, key in (
        ({"b": b}, "default"),
        ({"b": b, "gain": 1.7, "clamp": 0.9}, "gain1.7_clamp0.9"),
        ({"alpha": 0.3}, "nobias_alpha0.3"),
    ):
        y = bias_act(x, act=act, **arguments)
        torch.testing.assert_close(y.detach(), golden(f"{act}/{key}"), rtol=1e-6, atol=1e-6)
        assert y.is_contiguous(memory_format=memory_format)
        assert y.requires_grad == with_gradient


@pytest.mark.parametrize("dim, bias", [(1, "b"), (0, "b3"), (-1, "b"), (-2, "b3")])
def test_bias_dimension(dim, bias):
    y = bias_act(golden("x2"), golden(bias), dim=dim, act="lrelu")
    torch.testing.assert_close(y, golden(f"lrelu/2d_dim{dim % 2}"), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("gain", [None, 1.0, -1.5])
def test_input_is_never_modified_and_gradient_mode_does_not_matter(act, bias, gain):
    x = golden("x").clone()
    kept = x.clone()
    b = golden("b") if bias else None
    with torch.no_grad():
        y = bias_act(x, b, act=act, gain=gain, clamp=0.5)
    assert torch.equal(x, kept)
    leaf = x.clone().requires_grad_()
    assert torch.equal(bias_act(leaf, b, act=act, gain=gain, clamp=0.5), y)
    assert torch.equal(leaf, kept)


def test_negative_gain_keeps_the_order_of_activation_and_gain():
    x = torch.tensor([[-1.0, 2.0]])
    assert bias_act(x, act="relu", gain=-3).tolist() == [[0, -6]]
    torch.testing.assert_close(bias_act(x, act="lrelu", gain=-3, alpha=0.5), torch.tensor([[1.5, -6.0]]))


@pytest.mark.parametrize("clamp", [None, 0.6])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_derivatives(act, bias, clamp):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=generator)
    x = (x + 0.05 * x.sign()).requires_grad_()  # no kinks within the finite differences
    inputs = [x]
    if bias:
        inputs.append((0.01 * torch.randn(3, dtype=torch.float64, generator=generator)).requires_grad_())

    def function(*inputs):
        return bias_act(*inputs, act=act, gain=1.3, clamp=clamp)

    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def test_half_precision_bias_follows_the_input():
    y = bias_act(torch.ones(1, 2, dtype=torch.float16), torch.tensor([1.0, -2.0]))
    assert y.dtype == torch.float16 and y.tolist() == [[2, -1]]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"act": "gelu"}, "unknown activation 'gelu'"),
        ({"b": torch.zeros(3)}, r"shape \[3\] does not fit dimension 1"),
        ({"b": torch.zeros(4), "dim": 7}, "dimension 7"),
        ({"clamp": -1}, "clamp must be a finite number of at least 0, got -1"),
        ({"clamp": "1"}, "clamp must be a finite number of at least 0, got '1'"),
        ({"gain": "2"}, "gain must be a finite number, got '2'"),
        ({"b": [0.0] * 4}, "the bias must be a tensor"),
        ({"x": torch.zeros(2, 4, dtype=torch.uint8)}, "must be a tensor of floats, not torch.uint8"),
        ({"x": [[0.0] * 4]}, "must be a tensor of floats, not"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(ValueError, match=message):
        bias_act(**({"x": torch.zeros(2, 4)} | arguments))
