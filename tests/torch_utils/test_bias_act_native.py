"""The native bias_act against the reference: values, layouts, derivatives of first and second order."""

import itertools
from unittest import mock

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from tests.torch_utils.native import needs_compiler
from torch_utils.custom_ops import no_weight_gradients
from torch_utils.ops import bias_act_native, point_linear_ref
from torch_utils.ops.bias_act import ACTIVATIONS, bias_act, bias_act_ref

pytestmark = needs_compiler
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def draw(*shape, dtype=torch.float64, seed=0):
    x = 2 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (x + 0.05 * x.sign()).to(dtype)  # kinks of activations are at 0


def both(x, b=None, **arguments):
    return bias_act(x, b, impl="cpu", **arguments), bias_act(x, b, impl="ref", **arguments)


# Long runs, short runs, single elements of a channel; around the sizes at which loops change; empty.
@pytest.mark.parametrize(
    "shape, dim",
    [
        ((2, 3, 9, 7), 1),
        ((2, 3, 1, 64), 1),
        ((1, 2, 3, 21), 1),
        ((3, 1, 65, 255), 1),
        ((2, 2, 129, 257), 1),  # a channel of more than one task
        ((300, 257), 1),
        ((70000, 3), 1),  # more than one task of patterns
        ((5, 1000), 0),
        ((4, 5, 6), -1),
        ((7,), 0),
        ((1, 1, 1, 1), 1),
        ((0, 4, 2), 1),
        ((2, 4, 0), 1),
        ((2, 0, 3), 1),
    ],
)
@pytest.mark.parametrize("act", ["linear", "lrelu", "swish"])
def test_shapes(shape, dim, act):
    for dtype in (torch.float64, torch.float32):
        x, b = draw(*shape, dtype=dtype), draw(shape[dim], dtype=dtype, seed=1)
        y, expected = both(x, b, dim=dim, act=act, clamp=3.0)
        torch.testing.assert_close(y, expected, rtol=TOLERANCE[x.dtype], atol=TOLERANCE[x.dtype])
        results = []
        for impl in ("cpu", "ref"):
            leaves = x.clone().requires_grad_(), b.clone().requires_grad_()
            y = bias_act(*leaves, dim=dim, act=act, clamp=3.0, impl=impl)
            results.append(torch.autograd.grad(y, leaves, draw(*shape, dtype=x.dtype, seed=2)))
        for native, reference in zip(*results):
            assert native.shape == reference.shape
            torch.testing.assert_close(native, reference, rtol=1e-4, atol=20 * TOLERANCE[x.dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_types_gains_and_clamps(act, dtype):
    x, b = draw(4, 6, 5, 13, dtype=dtype), draw(6, dtype=dtype, seed=1)
    for gain, clamp, bias in itertools.product((None, 0.7, -1.3), (None, 0.0, 0.9), (None, b)):
        y = bias_act(x, bias, act=act, gain=gain, clamp=clamp, impl="cpu")
        expected = bias_act(x.double(), None if bias is None else bias.double(), act=act, gain=gain, clamp=clamp)
        assert y.dtype == dtype
        torch.testing.assert_close(y.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("alpha", [0.0, 0.3, -0.5])
def test_slope(alpha):
    x = draw(3, 5).requires_grad_()
    y, expected = both(x, act="lrelu", alpha=alpha, gain=2.0)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(*(torch.autograd.grad(r.sum(), x)[0] for r in (y, expected)))


LAYOUTS = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "permuted": lambda x: x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
    "every second column": lambda x: torch.stack([x, x], dim=-1).flatten(-2)[..., ::2],
    "expanded": lambda x: x[:, :, :1].expand(-1, -1, 8, -1),
    "reversed channels": lambda x: x.flip(1).transpose(0, 1).contiguous().transpose(0, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("gradient_layout", ["same", "contiguous", "expanded"])
def test_layouts(layout, gradient_layout):
    x = LAYOUTS[layout](draw(3, 4, 8, 6)).requires_grad_()
    b = draw(4, seed=1).requires_grad_()
    y, expected = both(x, b, act="lrelu", clamp=2.0)
    torch.testing.assert_close(y, expected)
    if layout in ("channels_last", "permuted", "reversed channels"):
        assert y.stride() == x.stride()
    dy = {
        "same": torch.empty_like(x).copy_(draw(*x.shape, seed=2)),
        "contiguous": draw(*x.shape, seed=2).contiguous(),
        "expanded": torch.ones(1, 1, 1, 1, dtype=x.dtype).expand_as(x),
    }[gradient_layout].detach()
    for native, reference in zip(*(torch.autograd.grad(r, (x, b), dy) for r in (y, expected))):
        torch.testing.assert_close(native, reference)


@pytest.mark.parametrize("clamp", [None, 0.6])
@pytest.mark.parametrize("gain", [1.3, -0.8])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_derivatives(act, gain, clamp):
    x, b = draw(2, 3, 2, 2).requires_grad_(), (draw(3, seed=1) / 100).requires_grad_()

    def function(*inputs):
        return bias_act(*inputs, act=act, gain=gain, clamp=clamp, impl="cpu")

    for inputs in ((x,), (x, b), (x.detach(), b)):
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_second_derivatives_equal_the_reference(act):
    """As R1 takes them: the squared norm of a gradient, differentiated with respect to everything."""
    results = []
    for impl in ("cpu", "ref"):
        x, b = draw(3, 5, 4, 4).requires_grad_(), draw(5, seed=1).requires_grad_()
        y = bias_act(x, b, act=act, clamp=1.5, impl=impl)
        dx, db = torch.autograd.grad((y * draw(*x.shape, seed=2)).sum(), (x, b), create_graph=True)
        penalty = dx.square().sum() + db.square().sum() + (dx * y).sum()
        results.append(torch.autograd.grad(penalty, (x, b), allow_unused=True))
    for native, reference in zip(*results):
        torch.testing.assert_close(native, reference)


@pytest.mark.parametrize("act", ["lrelu", "swish"])
def test_the_gradient_of_the_bias_can_be_left_out_of_first_derivatives(act):
    x, b = draw(3, 5, 4, 4).requires_grad_(), draw(5, seed=1).requires_grad_()
    with no_weight_gradients():
        y = bias_act(x, b, act=act, impl="cpu")
        (alone,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    expected, _ = torch.autograd.grad(bias_act(x, b, act=act, impl="cpu").sum(), (x, b), create_graph=True)
    assert torch.equal(alone, expected)
    if act == "swish":  # higher derivatives are complete
        (db,) = torch.autograd.grad(alone.square().sum(), b)
        torch.testing.assert_close(db, torch.autograd.grad(expected.square().sum(), b)[0])
    with no_weight_gradients(), pytest.raises(RuntimeError, match="not have been used|not to have been used"):
        torch.autograd.grad(bias_act(x, b, act=act, impl="cpu").sum(), b)


def test_third_derivatives_of_smooth_activations_are_refused_by_name():
    x = draw(4, 3).requires_grad_()
    y = bias_act(x, act="tanh", impl="cpu")
    for _ in range(2):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="impl='ref'"):
        torch.autograd.grad(y.sum(), x)


def test_not_a_number_and_infinity():
    x = torch.tensor([[float("nan"), float("inf"), -float("inf"), 0.0, -0.0]])
    for act, clamp in itertools.product(ACTIVATIONS, (None, 2.0)):
        y, expected = both(x, torch.zeros(5), act=act, clamp=clamp)
        torch.testing.assert_close(y, expected, equal_nan=True)


def test_results_do_not_depend_on_the_number_of_threads():
    x, dy = draw(5, 7, 130, 140, dtype=torch.float32), draw(5, 7, 130, 140, dtype=torch.float32, seed=2)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for layout in (torch.contiguous_format, torch.channels_last):
                b = torch.ones(7, requires_grad=True)
                y = bias_act(x.contiguous(memory_format=layout), b, act="lrelu", impl="cpu")
                results.append(torch.autograd.grad(y, b, dy)[0])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result, results[i % 2]) for i, result in enumerate(results))


def test_sums_over_many_elements_are_accurate():
    x, b = torch.full((1, 2, 1100, 1000), 0.1), torch.zeros(2, requires_grad=True)
    for layout in (torch.contiguous_format, torch.channels_last):
        y = bias_act(x.contiguous(memory_format=layout), b, act="linear", gain=1.0, clamp=5, impl="cpu")
        (db,) = torch.autograd.grad(y, b, x)
        torch.testing.assert_close(db, torch.full([2], 110000.0), rtol=1e-6, atol=0)


def test_no_gradient_where_none_is_asked_for():
    x, b = draw(2, 3), draw(3).requires_grad_()
    with torch.no_grad():
        assert not bias_act(x, b, impl="cpu").requires_grad
    y = bias_act(x, b.detach(), impl="cpu")
    assert not y.requires_grad and y.grad_fn is None
    (db,) = torch.autograd.grad(bias_act(x, b, impl="cpu").sum(), b)
    assert db.tolist() == [2, 2, 2]


def test_auto_takes_the_native_operator_for_large_tensors(monkeypatch):
    """The native operator is chosen in float32 with gradients, and always in bfloat16."""
    chosen = []
    monkeypatch.setattr("torch_utils.ops.bias_act.bias_act_native.apply", lambda *_, **__: chosen.append("native"))
    monkeypatch.setattr("torch_utils.ops.bias_act.bias_act_ref", lambda *_, **__: chosen.append("ref"))
    large = torch.zeros(32, 64, 16, 16).requires_grad_()
    bias_act(large, act="lrelu", clamp=256)
    bias_act(large, act="lrelu")
    bias_act(large, act="tanh", clamp=256)
    bias_act(large[:1, :63], act="lrelu", clamp=256)
    bias_act(large.double(), act="lrelu", clamp=256)
    with torch.no_grad():
        bias_act(large, act="lrelu", clamp=256)
    assert chosen == ["native", "native", "ref", "ref", "ref", "ref"]
    chosen.clear()
    half = large.detach().bfloat16()
    bias_act(half, act="lrelu", clamp=256)
    bias_act(half.requires_grad_(), act="lrelu", clamp=256)
    bias_act(half, act="lrelu")
    bias_act(half[:1, :63], act="lrelu", clamp=256)
    assert chosen == ["native", "native", "native", "ref"]


def test_mistakes():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="unknown implementation 'gpu'; choose one of auto, ref, cpu, cuda"):
        bias_act(x, impl="gpu")
    with pytest.raises(RuntimeError, match="impl='cuda' cannot take tensors on cpu"):
        bias_act(x, impl="cuda")
    with pytest.raises(RuntimeError, match="impl='cpu' cannot take tensors on meta"):
        bias_act(x.to("meta"), impl="cpu")
    with pytest.raises(ValueError, match="must be a tensor of floats, not torch.int32"):
        bias_act(torch.zeros(2, 3, dtype=torch.int32), impl="cpu")
    assert bias_act_ref(x, act="linear", alpha=0.0, gain=1.0) is x


@pytest.mark.parametrize("act, clamp", [("lrelu", None), ("lrelu", 1.0), ("relu", 0.7)])
def test_point_layers_have_the_same_derivatives_natively(act, clamp, monkeypatch):
    """Of first and second order, as path length regularisation takes them."""
    tensors = [draw(2, 700, 48, dtype=torch.float32), draw(32, 48, dtype=torch.float32, seed=1) / 7]
    tensors.append(draw(32, dtype=torch.float32, seed=2) / 4)
    results = []
    spy = mock.Mock(wraps=bias_act_native.gradient_from_result)
    monkeypatch.setattr(bias_act_native, "gradient_from_result", spy)
    for native in (True, False):
        monkeypatch.setattr(point_linear_ref, "NATIVE_MIN_SIZE", 1 if native else 1 << 40)
        leaves = [t.clone().requires_grad_() for t in tensors]
        y = point_linear_ref.point_linear_ref(*leaves, act=act, clamp=clamp)
        first = torch.autograd.grad(y, leaves, draw(2, 700, 32, dtype=torch.float32, seed=3), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves[1:], allow_unused=True)
        results.append([*first, *(g for g in second if g is not None)])
    assert spy.call_count == 1
    assert len(results[0]) == len(results[1]) >= 4
    for native, reference in zip(*results):
        torch.testing.assert_close(native, reference, rtol=1e-4, atol=1e-4 * reference.abs().max().item())
