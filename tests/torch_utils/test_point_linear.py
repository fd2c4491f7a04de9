"""Dense layers on points, in all derivatives: one thread multiplies matrices, several use convolutions."""

import pytest
import torch

from torch_utils.ops.point_linear import point_linear


def derivatives(x, weight, bias, cotangent, *, clamp):
    """The result, its gradients, and the gradients of a scalar of these with respect to everything."""
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias, cotangent)]
    y = point_linear(*leaves[:3], act="lrelu", clamp=clamp)
    first = torch.autograd.grad(y, leaves[:3], leaves[3], create_graph=True)
    ramps = [torch.linspace(-1, 1, g.numel(), dtype=g.dtype).view_as(g) for g in first]
    score = sum((g * ramp + g.square()).sum() for g, ramp in zip(first, ramps, strict=True))
    return [y.detach(), *(g.detach() for g in first), *torch.autograd.grad(score, leaves, allow_unused=True)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shared", [True, False], ids=["one weight", "a weight per video"])
@pytest.mark.parametrize("clamp", [None, 100.0, 2.0])
def test_derivatives_are_those_of_double_precision(threads, shared, clamp):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 700, 24, generator=generator)
    weight = torch.randn(*([] if shared else [2]), 40, 24, generator=generator)
    bias, cotangent = torch.randn(40, generator=generator), torch.randn(2, 700, 40, generator=generator)
    inputs, before = (x, weight, bias, cotangent), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        actual = derivatives(*inputs, clamp=clamp)
    finally:
        torch.set_num_threads(before)
    expected = derivatives(*(t.double() for t in inputs), clamp=clamp)
    for one, other in zip(actual, expected, strict=True):
        if one is None:  # the bias decides nothing but the branch
            assert other.count_nonzero() == 0
            continue
        assert one.dtype == torch.float32 and one.shape == other.shape
        assert float((one.double() - other).norm()) <= 2e-6 * float(other.norm())


@pytest.mark.parametrize("worst", [-3.0, 3.0, 0.5])
def test_values_are_clamped_wherever_they_lie(worst):
    x = torch.zeros(1, 100, 8, requires_grad=True)
    with torch.no_grad():
        x[0, 57, 3] = worst
    y = point_linear(x, torch.eye(8), act="lrelu", clamp=0.5)
    assert y[0, 57, 3] == (0.5 if worst > 0 else -0.5) and (y != 0).sum() == 1


def test_what_is_no_number_stays():
    x = torch.zeros(1, 100, 8)
    x[0, 57, 3] = torch.nan
    y = point_linear(x.requires_grad_(), torch.eye(8), act="lrelu", clamp=0.5)
    assert y[0, 57].isnan().all() and y.isnan().sum() == 8
