"""3x3 convolutions on the CPU: Winograd products against the definition in double precision, in all derivatives."""

import concurrent.futures

import pytest
import torch
import torch.nn.functional as F

from tests.torch_utils.native import needs_compiler
from torch_utils import custom_ops
from torch_utils.ops import conv3x3
from torch_utils.ops.conv3x3 import convolve, filtered_convolve
from torch_utils.ops.upfirdn2d import upfirdn2d
from torch_utils.ops.weight_gradients import no_weight_gradients

pytestmark = needs_compiler

#: images, inputs, outputs, height, width; stride.
SHAPES = [
    ((2, 32, 64, 34, 32), 1),
    ((1, 96, 32, 6, 300), 1),
    ((3, 64, 32, 33, 19), 2),
    ((1, 32, 96, 34, 40), 2),  # the last row and column reach no result
]
CASES = pytest.mark.parametrize("shape, stride", SHAPES, ids=str)


def make(shape, stride, seed=0):
    """Images in channels_last, weight, and cotangents of results, all random, small integers included exactly."""
    generator = torch.Generator().manual_seed(seed)
    n, inputs, outputs, height, width = shape
    x = torch.randn(n, inputs, height, width, generator=generator).contiguous(memory_format=torch.channels_last)
    w = torch.randn(outputs, inputs, 3, 3, generator=generator)
    size = (height, width) if stride == 1 else ((height - 1) // 2, (width - 1) // 2)
    return x, w, torch.randn(n, outputs, *size, generator=generator)


def options(stride):
    return {"stride": stride, "padding": (1, 1) if stride == 1 else (0, 0)}


def first_and_second(function, x, w, cotangent):
    """Results, both gradients, and the gradients of a scalar of these: of R1's kind, with every input's part."""
    x, w, cotangent = (t.clone().requires_grad_() for t in (x, w, cotangent))
    y = function(x, w)
    first = torch.autograd.grad(y, (x, w), cotangent, create_graph=True)
    score = first[0].square().sum() + first[1].square().sum() * 1e-3 + (first[0] * x.detach()).sum()
    return [y, *first, *torch.autograd.grad(score, (x, w, cotangent))]


@CASES
def test_values_and_derivatives_are_those_of_the_definition(shape, stride, monkeypatch):
    x, w, cotangent = make(shape, stride)
    calls = []
    load = custom_ops.load
    monkeypatch.setattr(custom_ops, "load", lambda *key: calls.append(key) or load(*key))
    actual = first_and_second(lambda x, w: convolve(x, w, **options(stride)), x, w, cotangent)
    assert ("winograd", "cpu") in calls
    expected = first_and_second(
        lambda x, w: F.conv2d(x, w, **options(stride)), x.double(), w.double(), cotangent.double()
    )
    for one, other in zip(actual, expected, strict=True):
        assert one.shape == other.shape and one.dtype == torch.float32
        assert float((one.detach().double() - other.detach()).norm()) < 2e-6 * float(other.detach().norm())


def test_rounding_is_not_worse_than_that_of_the_convolution_library():
    x, w, _ = make((1, 128, 128, 64, 64), 1)
    exact = F.conv2d(x.double(), w.double(), padding=1)
    errors = [float((y.double() - exact).norm()) for y in (convolve(x, w, padding=(1, 1)), F.conv2d(x, w, padding=1))]
    assert 0 < errors[0] < 1.5 * errors[1]


@CASES
def test_results_do_not_depend_on_the_number_of_threads(shape, stride):
    before, outcomes = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            x, w, cotangent = make(shape, stride)
            x.requires_grad_()
            w.requires_grad_()
            y = convolve(x, w, **options(stride))
            # Those of PyTorch's own convolution are not promised to be equal.
            outcomes.append(
                torch.autograd.grad(y, (w, x) if stride == 1 else w, cotangent) + ((y,) if stride == 1 else ())
            )
        finally:
            torch.set_num_threads(before)
    for other in outcomes[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outcomes[0], other, strict=True))


def test_zeros_lie_outside_the_image():
    x, w = torch.zeros(1, 32, 32, 32), torch.ones(32, 32, 3, 3)
    x[0, 5, 0, 0] = x[0, 7, 31, 31] = 1
    y = convolve(x.contiguous(memory_format=torch.channels_last), w, padding=(1, 1))
    expected = torch.zeros(32, 32)
    expected[:2, :2] = expected[-2:, -2:] = 1
    assert torch.equal(y[0], expected.expand(32, 32, 32))
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "change",
    [
        {"channels": 48}, {"size": 33}, {"size": 16}, {"dtype": torch.float64}, {"dtype": torch.bfloat16},
        {"layout": torch.contiguous_format}, {"padding": (0, 0)}, {"groups": 2}, {"kernel": 5},
    ],
    ids=str,
)  # fmt: skip
def test_everything_else_is_left_to_pytorch(change, monkeypatch):
    monkeypatch.setattr(custom_ops, "load", lambda *_: pytest.fail("the native operator was asked for"))
    case = {
        "channels": 32, "size": 32, "dtype": torch.float32, "layout": torch.channels_last, "padding": (1, 1),
        "groups": 1, "kernel": 3,
    } | change  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    channels, size, kernel = case["channels"], case["size"], case["kernel"]
    x = torch.randn(1, channels, size, size, generator=generator).to(case["dtype"], memory_format=case["layout"])
    w = torch.randn(channels, channels // case["groups"], kernel, kernel, generator=generator).to(case["dtype"])
    y = convolve(x, w, padding=case["padding"], groups=case["groups"])
    assert torch.equal(y, F.conv2d(x, w, padding=case["padding"], groups=case["groups"]))


@pytest.mark.parametrize("padding", [(2, 2, 2, 2), (1, 3, 0, -1)], ids=str)
def test_filtered_convolutions_are_those_of_filtered_images(padding):
    x, w, _ = make((2, 32, 64, 34, 32), 1)
    f = torch.arange(12.0).view(3, 4)  # of no symmetry

    def filtered(x, w, convolution):
        return convolution(upfirdn2d(x, f.to(x.dtype), padding=padding), w, stride=2)

    generator = torch.Generator().manual_seed(1)
    cotangent = torch.randn(filtered(x, w, F.conv2d).shape, generator=generator)
    actual = first_and_second(
        lambda x, w: filtered_convolve(x, w, f, padding=padding, stride=2, groups=1), x, w, cotangent
    )
    expected = first_and_second(lambda x, w: filtered(x, w, F.conv2d), x.double(), w.double(), cotangent.double())
    for one, other in zip(actual, expected, strict=True):
        assert one.shape == other.shape
        assert float((one.detach().double() - other.detach()).norm()) < 2e-6 * float(other.detach().norm())


def test_filtered_images_are_not_kept():
    x, w, _ = make((1, 32, 32, 64, 64), 1)
    x.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        filtered_convolve(x, w, torch.ones(4, 4), padding=(2, 2, 2, 2), stride=2, groups=1)
    assert len(kept) == 3 and x.data_ptr() in kept and w.data_ptr() in kept


def test_gradients_of_weights_can_be_left_out_of_first_derivatives():
    x, w, cotangent = make((1, 32, 32, 34, 34), 1)
    x.requires_grad_()
    w.requires_grad_()
    with no_weight_gradients():
        y = convolve(x, w, padding=(1, 1))
        (alone,) = torch.autograd.grad(y, x, cotangent, create_graph=True)
    assert torch.autograd.grad(alone.sum(), w, retain_graph=True)[0].abs().sum() > 0
    expected = torch.autograd.grad(convolve(x, w, padding=(1, 1)), (x, w), cotangent)
    assert torch.equal(alone, expected[0])
    with no_weight_gradients(), pytest.raises(RuntimeError, match="not have been used|not to have been used"):
        torch.autograd.grad(convolve(x, w, padding=(1, 1)), w, cotangent)


def test_a_strided_convolution_without_gradients_is_left_to_pytorch(monkeypatch):
    monkeypatch.setattr(custom_ops, "load", lambda *_: pytest.fail("the native operator was asked for"))
    x, w, _ = make((1, 32, 32, 65, 65), 2)
    assert torch.equal(convolve(x, w, stride=2), F.conv2d(x, w, stride=2))


def test_without_a_compiler_it_is_the_convolution_of_pytorch(monkeypatch):
    monkeypatch.setattr(custom_ops, "load", lambda *_: None)
    x, w, _ = make((1, 32, 32, 32, 32), 1)
    assert torch.equal(convolve(x, w, padding=(1, 1)), F.conv2d(x, w, padding=1))
    assert conv3x3.MIN_PIXELS <= 32 * 32


def test_nan_and_infinity_are_not_lost():
    x, w, _ = make((1, 32, 32, 32, 32), 1)
    x[0, 3, 9, 9] = torch.nan
    y = convolve(x, w, padding=(1, 1))
    assert y[0, :, 8:11, 8:11].isnan().all()


def test_implementations_by_name(monkeypatch):
    """'cpu' also where 'auto' would not, 'ref' never; what the native operator cannot do is said."""
    x, w, _ = make((1, 32, 32, 8, 8), 1)
    expected = F.conv2d(x, w, padding=1)
    asked, require = [], custom_ops.require
    monkeypatch.setattr(custom_ops, "require", lambda *key: asked.append(key) or require(*key))
    torch.testing.assert_close(convolve(x, w, padding=(1, 1), impl="cpu"), expected, rtol=1e-5, atol=1e-4)
    assert asked == [("winograd", "cpu")]
    large, w, _ = make((1, 32, 32, 64, 64), 1)
    monkeypatch.setattr(custom_ops, "load", lambda *_: pytest.fail("the native operator was asked for"))
    assert torch.equal(convolve(large, w, padding=(1, 1), impl="ref"), F.conv2d(large, w, padding=1))
    with pytest.raises(RuntimeError, match=r"multiples of 32 channels.*; not torch.float64 \[1, 32, 64, 64\] on cpu"):
        convolve(large.double(), w.double(), padding=(1, 1), impl="cpu")
    with pytest.raises(ValueError, match="unknown implementation 'cuda'; choose one of auto, ref, cpu"):
        convolve(large, w, padding=(1, 1), impl="cuda")


def test_weights_of_any_layout():
    x, w, cotangent = make((1, 32, 64, 32, 32), 1)
    x.requires_grad_()
    expected = torch.autograd.grad(convolve(x, w, padding=(1, 1)), x, cotangent)[0]
    strided = torch.stack([w, w], dim=-1)[..., 0]
    for other in (w.contiguous(memory_format=torch.channels_last), strided):
        y = convolve(x, other, padding=(1, 1))
        assert torch.equal(torch.autograd.grad(y, x, cotangent)[0], expected)


def test_layers_of_different_sizes_in_turns():
    """They share scratch memory."""
    results = {}
    for shape, stride in [*SHAPES, *SHAPES[::-1]]:
        x, w, cotangent = (t.requires_grad_() for t in make(shape, stride))
        y = convolve(x, w, **options(stride))
        grads = torch.autograd.grad(y, (x, w), cotangent)
        for one, other in zip((y, *grads), results.setdefault((shape, stride), (y, *grads)), strict=True):
            assert torch.equal(one, other)


def test_two_callers_at_once():
    """Every calling thread has scratch memory of its own."""
    cases = [make(shape, stride, seed)[:2] for seed in range(4) for shape, stride in SHAPES[:2]]
    expected = [convolve(x, w, padding=(1, 1), impl="cpu") for x, w in cases]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        for _ in range(5):
            results = threads.map(lambda case: convolve(*case, padding=(1, 1), impl="cpu"), cases)
            assert all(torch.equal(one, other) for one, other in zip(results, expected, strict=True))
