"""Linear layers on points and MLPs, in all derivatives."""

import pytest
import torch

import torch_utils.ops.point_linear as operator
from tests.torch_utils.native import needs_compiler
from torch_utils.custom_ops import no_weight_gradients
from torch_utils.ops.point_linear import PointLayer, point_linear, point_mlp


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
        assert float((one.detach().double() - other.detach()).norm()) <= 2e-6 * float(other.detach().norm())


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


# ----------------------------------------------------------------------------------------------------------------------
# MLPs: the native operator against layer after layer in double precision.

VIDEOS, FRAMES, POINTS = 2, 3, 840


def example(*, shared: bool, view: bool, clamp: float | None = None, one_weight: bool = False):
    """An MLP in the form of the foreground's: inputs, layers, and the tensors that gradients are taken of.

    Args:
        shared: The frames share the inputs; the biases of the second layer differ.
        view: With a head whose bias differs between runs of points, and a layer on it.
    """
    generator = torch.Generator().manual_seed(1)

    def leaf(*shape, scale=1.0):
        tensors.append((torch.randn(*shape, generator=generator) * scale).requires_grad_())
        return tensors[-1]

    def weight(outputs, inputs):
        return leaf(*(() if one_weight else (VIDEOS,)), outputs, inputs, scale=inputs**-0.5)

    tensors: list[torch.Tensor] = []
    x = leaf(VIDEOS, 1 if shared else FRAMES, POINTS, 27)
    layers = [
        PointLayer(weight(40, 27), leaf(40), slope=0.2, clamp=clamp),
        PointLayer(weight(40, 40), leaf(VIDEOS, FRAMES, 1, 40), slope=0.2, clamp=clamp, source=0),
        PointLayer(weight(72, 40), leaf(VIDEOS, 1, 1, 72), slope=0.0, source=1),
        PointLayer(weight(1, 72), leaf(1), source=2),
    ]
    if view:
        layers.append(PointLayer(weight(33, 72), leaf(VIDEOS, 1, POINTS // 12, 33), slope=0.01, source=2))
        layers.append(PointLayer(weight(3, 33), None, source=4))
    return x, layers, tensors


def in_double(x, layers, tensors):
    copies = {id(t): t.detach().double().requires_grad_() for t in tensors}
    doubles = [
        PointLayer(copies[id(y.weight)], None if y.bias is None else copies[id(y.bias)], y.slope, y.clamp, y.source)
        for y in layers
    ]
    return copies[id(x)], doubles, [copies[id(t)] for t in tensors]


def all_derivatives(x, layers, tensors, *, keep):
    """The results, gradients of a function of them, and gradients of a function of these gradients."""
    results = point_mlp(x, layers, frames=FRAMES, keep=keep)
    ramps = [torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y) for y in results]
    value = sum((y * ramp + y.square() / 4).sum() for y, ramp in zip(results, ramps, strict=True))
    first = torch.autograd.grad(value, tensors, retain_graph=True, allow_unused=True)
    again = torch.autograd.grad(value, tensors, create_graph=True, allow_unused=True)
    score = sum(g.square().sum() for g in again if g is not None)
    return [*results, *first, *again, *torch.autograd.grad(score, tensors, allow_unused=True)]


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "options, keep",
    [
        ({"shared": True, "view": False}, [2, 3]),
        ({"shared": True, "view": True}, [3, 2, 5]),
        ({"shared": False, "view": True}, [3, 2, 5]),
        ({"shared": True, "view": True, "one_weight": True}, [5, 0, 1]),
        ({"shared": False, "view": False, "clamp": 1e6}, [1]),
    ],
)
def test_an_mlp_is_its_layers_in_all_derivatives(options, keep, threads):
    problem, before = example(**options), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        actual = all_derivatives(*problem, keep=keep)
    finally:
        torch.set_num_threads(before)
    expected = all_derivatives(*in_double(*problem), keep=keep)
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        if one is None or other is None:  # not reached by a gradient, or a mask's second derivative
            assert (one is None or not one.any()) and (other is None or not other.any())
            continue
        assert one.dtype == torch.float32 and one.shape == other.shape
        assert float((one.detach().double() - other.detach()).norm()) <= 2e-6 * float(other.detach().norm())


@needs_compiler
def test_results_and_gradients_do_not_depend_on_the_number_of_threads_or_on_what_is_kept():
    x, layers, tensors = example(shared=True, view=True)
    outcomes, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            results = point_mlp(x, layers, frames=FRAMES, keep=[5, 3])
            with torch.no_grad():  # nothing but these two is stored
                alone = point_mlp(x, layers, frames=FRAMES, keep=[5, 3])
            gradients = torch.autograd.grad(results[0].sum() + results[1].square().sum(), tensors)
        finally:
            torch.set_num_threads(before)
        assert all(torch.equal(a, b) for a, b in zip(results, alone, strict=True))
        outcomes.append([*results, *gradients])
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))


@needs_compiler
def test_clamped_results_pass_no_gradients():
    x, layers, tensors = example(shared=False, view=False, clamp=0.5)
    (y,) = point_mlp(x, layers, frames=FRAMES, keep=[0])
    assert float(y.detach().abs().max()) == 0.5
    gradient = torch.autograd.grad(y.sum(), tensors[2])[0]  # of the first bias
    slopes = torch.where(y > 0, 1.0, 0.2) * (y.abs() < 0.5)
    torch.testing.assert_close(gradient, slopes.sum(dim=(0, 1, 2)), rtol=1e-5, atol=0)


@needs_compiler
def test_weights_get_no_gradients_where_only_those_of_inputs_are_wanted(monkeypatch):
    generator = torch.Generator().manual_seed(0)  # of whole numbers, whose sums are exact
    x, weight = (torch.randint(-3, 4, shape, generator=generator).float() for shape in ((1, 100, 16), (24, 16)))
    y = point_linear(x.requires_grad_(), weight.requires_grad_())
    monkeypatch.setattr(operator, "_weight_gradient", None)  # must not be called
    with no_weight_gradients():
        (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    monkeypatch.undo()
    (second,) = torch.autograd.grad(gradient.square().sum(), weight)
    assert torch.equal(second, 2 * 100 * weight.detach().sum(dim=0).expand(24, -1))


@pytest.mark.parametrize("bias", [None, torch.ones(16)], ids=["no bias", "a bias"])
def test_slopes_of_any_size_without_the_native_operator(monkeypatch, bias):
    """As in the view-dependent colour head with a single ray."""
    monkeypatch.setattr(operator, "_library", lambda x: None)
    x, weight = (
        torch.linspace(-1, 1, n).sin().reshape(shape) for n, shape in ((1600, (1, 1, 100, 16)), (256, (16, 16)))
    )
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.to(dtype).requires_grad_() for t in (x, weight)]
        layer = PointLayer(leaves[1], None if bias is None else bias.to(dtype), slope=0.01)
        (y,) = point_mlp(leaves[0], [layer], frames=1, keep=[0])
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)


def test_layers_that_do_not_fit_are_errors():
    w = torch.zeros(40, 40)
    x = torch.zeros(1, 1, 64, 40)
    with pytest.raises(ValueError, match="layer 1 of the MLP takes results of layer -1"):
        point_mlp(x, [PointLayer(w), PointLayer(w)], frames=1, keep=[1])
    split = PointLayer(w, torch.zeros(1, 2, 1, 40), source=0)
    with pytest.raises(ValueError, match="layer 2 of the MLP takes results of layer 0, which the frames share"):
        point_mlp(x, [PointLayer(w), split, PointLayer(w, source=0)], frames=2, keep=[2])


def test_linear_layers_take_no_clamp():
    layer = PointLayer(torch.zeros(40, 40), clamp=0.5)
    with pytest.raises(ValueError, match="layer 0 of the MLP is linear, so it cannot have a clamp, 0.5"):
        point_mlp(torch.zeros(1, 1, 64, 40), [layer], frames=1, keep=[0])


def test_without_features_only_the_bias_remains():
    y = point_linear(torch.zeros(2, 100, 0), torch.zeros(8, 0), torch.arange(8.0))
    torch.testing.assert_close(y, torch.arange(8.0).expand(2, 100, 8), rtol=0, atol=0)


def test_layers_of_any_width_feed_others():
    x = torch.randn(2, 1, 100, 5, generator=torch.Generator().manual_seed(0))
    first, second = torch.ones(3, 5), torch.full((70, 3), 2.0)
    y, z = point_mlp(x, [PointLayer(first), PointLayer(second, source=0)], frames=1, keep=[0, 1])
    torch.testing.assert_close(y, x.sum(dim=-1, keepdim=True).expand(-1, -1, -1, 3))
    torch.testing.assert_close(z, 6 * x.sum(dim=-1, keepdim=True).expand(-1, -1, -1, 70))
