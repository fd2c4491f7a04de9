"""3x3 convolutions on the CPU: Winograd products against the definition in double precision, in all derivatives."""

import concurrent.futures

import pytest
import torch
import torch.nn.functional as F

from tests.torch_utils.native import needs_compiler
from torch_utils import custom_ops
from torch_utils.custom_ops import no_weight_gradients
from torch_utils.ops import conv3x3
from torch_utils.ops.conv3x3 import convolve, filtered_convolve
from torch_utils.ops.fused_mlp import has_fused_mlp
from torch_utils.ops.upfirdn2d import upfirdn2d

pytestmark = needs_compiler

#: images, inputs, outputs, height, width; stride.
SHAPES = [
    ((2, 32, 64, 36, 32), 1),
    ((1, 64, 160, 64, 72), 1),  # more tiles than are held at a time
    ((1, 288, 32, 8, 4), 1),  # more inputs than are added up at a time
    ((3, 64, 32, 33, 17), 2),
    ((1, 32, 160, 34, 90), 2),  # the last row and column reach no result
    ((1, 32, 32, 9, 529), 2),
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


def native(x, w, stride=1):
    return convolve(x, w, **options(stride), impl="cpu")


def first_and_second(function, x, w, cotangent):
    """Results, both gradients, and the gradients of a scalar of these: of R1's kind, with every input's part."""
    x, w, cotangent = (t.clone().requires_grad_() for t in (x, w, cotangent))
    y = function(x, w)
    first = torch.autograd.grad(y, (x, w), cotangent, create_graph=True)
    score = first[0].square().sum() + first[1].square().sum() * 1e-3 + (first[0] * x.detach()).sum()
    return [y, *first, *torch.autograd.grad(score, (x, w, cotangent))]


@CASES
def test_values_and_derivatives_are_those_of_the_definition(shape, stride):
    x, w, cotangent = make(shape, stride)
    actual = first_and_second(lambda x, w: native(x, w, stride), x, w, cotangent)
    expected = first_and_second(
        lambda x, w: F.conv2d(x, w, **options(stride)), x.double(), w.double(), cotangent.double()
    )
    for one, other in zip(actual, expected, strict=True):
        assert one.shape == other.shape and one.dtype == torch.float32
        assert float((one.detach().double() - other.detach()).norm()) < 2e-6 * float(other.detach().norm())


@CASES
def test_images_of_bfloat16_are_multiplied_in_float32(shape, stride):
    """Only results are rounded to bfloat16, whichever implementation computes them."""
    # With stride 2 PyTorch computes most of it, and rounds sums, too, where no instruction multiplies bfloat16. A
    # training with precision=bf16 says so there.
    if stride == 2 and not has_fused_mlp(torch.device("cpu"), "bfloat16"):
        pytest.skip("the processor does not multiply bfloat16")
    x, w, cotangent = (t.to(torch.bfloat16, memory_format=torch.preserve_format) for t in make(shape, stride))

    def derivatives(x, w, cotangent):
        x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
        y = native(x, w, stride)
        return y, *torch.autograd.grad(y, (x, w), cotangent)

    actual, expected = derivatives(x, w, cotangent), derivatives(x.float(), w.float(), cotangent.float())
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == torch.bfloat16 and one.shape == other.shape
        # Sums in another order differ by a rounding of the last of eight bits, here and there.
        rounded = other.bfloat16()
        torch.testing.assert_close(one.float(), rounded.float(), rtol=2**-7, atol=1e-3)
        assert (one != rounded).float().mean() < 0.005


def test_bfloat16_keeps_what_is_no_number():
    x, w, cotangent = (t.bfloat16() for t in make((1, 32, 32, 8, 8), 1))
    x = x.contiguous(memory_format=torch.channels_last)
    x[0, 3, 1, 1] = torch.nan
    y = native(x, w.requires_grad_())
    assert y[0, :, 0:3, 0:3].isnan().all() and y[0, :, 4:, 4:].isfinite().all()
    (gradient,) = torch.autograd.grad(y, w, cotangent)
    assert gradient[:, 3].isnan().all() and gradient[:, 4:].isfinite().all()
    with pytest.raises(RuntimeError, match="of another type"):
        native(x, w.float())


@pytest.mark.parametrize("channels, factor", [(512, 1.5), (128, 2.5)])
def test_rounding_errors_have_the_size_of_those_of_the_convolution_library(channels, factor):
    """White noise, as in docs/operators.md. With more channels the library's sums are longer, and its errors larger."""
    x, w, _ = make((1, channels, channels, 32, 32), 1)
    exact = F.conv2d(x.double(), w.double(), padding=1)
    errors = [float((y.double() - exact).norm() / exact.norm()) for y in (native(x, w), F.conv2d(x, w, padding=1))]
    assert 0 < errors[0] < min(factor * errors[1], 2e-6)


@pytest.mark.parametrize("channels", [512, 128])
def test_rounding_errors_with_stride_2(channels):
    """Up to 1.4 times those of the library forward, 2.4 times in the image's gradient, measured."""
    x, w, cotangent = make((1, channels, channels, 33, 33), 2)
    errors = []
    for convolution, dtype in ((native, torch.float32), (F.conv2d, torch.float32), (F.conv2d, torch.float64)):
        image = x.to(dtype).requires_grad_()
        y = convolution(image, w.to(dtype), stride=2)
        errors.append((y.detach(), torch.autograd.grad(y, image, cotangent.to(dtype))[0]))
    exact = errors.pop()
    own, library = ([float((a - b).norm() / b.norm()) for a, b in zip(found, exact)] for found in errors)
    assert own[0] < 1.8 * library[0] and own[1] < 3 * library[1]


def test_no_value_is_far_off():
    """Single values: with the usual points of Winograd's algorithm the largest error is four times as large."""
    x, w, _ = make((1, 512, 64, 48, 48), 1)
    exact = F.conv2d(x.double(), w.double(), padding=1)
    assert float((native(x, w).double() - exact).abs().max()) < 2.5e-5 * float(exact.square().mean().sqrt())


@CASES
def test_results_do_not_depend_on_the_number_of_threads(shape, stride):
    before, outcomes = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            x, w, cotangent = make(shape, stride)
            x.requires_grad_()
            w.requires_grad_()
            y = native(x, w, stride)
            # PyTorch's own convolution does not promise equal results.
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
    y = native(x.contiguous(memory_format=torch.channels_last), w)
    expected = torch.zeros(32, 32)
    expected[:2, :2] = expected[-2:, -2:] = 1
    torch.testing.assert_close(y[0], expected.expand(32, 32, 32), rtol=0, atol=1e-6)
    assert not y[0, :, 8:24].any(), "what is far from all pixels that are not zero"
    assert y.is_contiguous(memory_format=torch.channels_last)


BASE = {
    "n": 1, "inputs": 64, "outputs": 64, "size": 32, "stride": 1, "padding": (1, 1), "dtype": torch.float32,
    "layout": torch.channels_last, "groups": 1, "kernel": 3, "learns": True,
}  # fmt: skip
STRIDED = BASE | {"stride": 2, "padding": (0, 0), "size": 33}


@pytest.mark.parametrize(
    "taken, case",
    [
        (True, BASE), (True, BASE | {"learns": False}), (True, BASE | {"n": 8, "size": 8}),
        (True, BASE | {"outputs": 128, "inputs": 32}),
        (True, BASE | {"dtype": torch.bfloat16}), (False, BASE | {"dtype": torch.bfloat16, "tiles": True}),
        (True, BASE | {"tiles": True}),
        (False, BASE | {"n": 4, "size": 8}),  # few pixels
        (False, BASE | {"inputs": 32}),  # few channels
        *((False, BASE | change) for change in (
            {"inputs": 80}, {"outputs": 80}, {"size": 34}, {"dtype": torch.float64}, {"dtype": torch.float16},
            {"layout": torch.contiguous_format}, {"padding": (0, 0)}, {"groups": 2}, {"kernel": 5},
        )),
        (True, STRIDED | {"inputs": 256, "outputs": 512}), (True, STRIDED | {"size": 257}),
        (True, STRIDED), (True, STRIDED | {"learns": False}), (False, STRIDED | {"inputs": 32}),
        (False, STRIDED | {"size": 253}),  # results of 126 pixels
        (False, STRIDED | {"size": 257, "padding": (1, 1)}),
        (True, STRIDED | {"size": 257, "dtype": torch.bfloat16}), (False, STRIDED | {"dtype": torch.bfloat16}),
        (False, STRIDED | {"size": 257, "dtype": torch.bfloat16, "learns": False}),
        (False, STRIDED | {"size": 257, "dtype": torch.bfloat16, "tiles": True}),
    ],
    ids=str,
)  # fmt: skip
def test_who_computes_by_default(taken, case, monkeypatch):
    """The native operators where they measured faster, PyTorch everywhere else."""
    asked, load = [], custom_ops.load
    monkeypatch.setattr(custom_ops, "load", lambda *key: asked.append(key) or load(*key))
    monkeypatch.setattr(conv3x3, "multiplies_tiles", lambda: case.get("tiles", False))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(case["n"], case["inputs"], case["size"], case["size"], generator=generator)
    x = x.to(case["dtype"], memory_format=case["layout"])
    shape = (case["outputs"], case["inputs"] // case["groups"], case["kernel"], case["kernel"])
    w = torch.randn(shape, generator=generator).to(case["dtype"]).requires_grad_(case["learns"])
    arguments = {key: case[key] for key in ("stride", "padding", "groups")}
    y = convolve(x, w, **arguments)
    assert asked == [("winograd", "cpu")] * taken
    expected = F.conv2d(x, w, **arguments)
    if not taken:
        assert torch.equal(y, expected)
    assert torch.equal(convolve(x, w, **arguments, impl="ref"), expected)


@pytest.mark.parametrize("padding", [(2, 2, 2, 2), (1, 3, 0, -4)], ids=str)
def test_filtered_convolutions_are_those_of_filtered_images(padding):
    x, w, _ = make((2, 32, 64, 32, 32), 1)
    f = torch.arange(12.0).view(3, 4)  # of no symmetry

    def filtered(x, w, convolution):
        return convolution(upfirdn2d(x, f.to(x.dtype), padding=padding), w, stride=2)

    generator = torch.Generator().manual_seed(1)
    cotangent = torch.randn(filtered(x, w, F.conv2d).shape, generator=generator)
    actual = first_and_second(
        lambda x, w: filtered_convolve(x, w, f, padding=padding, stride=2, groups=1, impl="cpu"), x, w, cotangent
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
        filtered_convolve(x, w, torch.ones(4, 4), padding=(2, 2, 2, 2), stride=2, groups=1, impl="cpu")
    assert len(kept) == 3 and x.data_ptr() in kept and w.data_ptr() in kept


def test_gradients_of_weights_can_be_left_out_of_first_derivatives():
    x, w, cotangent = make((1, 32, 32, 36, 36), 1)
    x.requires_grad_()
    w.requires_grad_()
    with no_weight_gradients():
        y = native(x, w)
        (alone,) = torch.autograd.grad(y, x, cotangent, create_graph=True)
    assert torch.autograd.grad(alone.sum(), w, retain_graph=True)[0].abs().sum() > 0
    expected = torch.autograd.grad(native(x, w), (x, w), cotangent)
    assert torch.equal(alone, expected[0])
    with no_weight_gradients(), pytest.raises(RuntimeError, match="not have been used|not to have been used"):
        torch.autograd.grad(native(x, w), w, cotangent)


def test_without_a_compiler_it_is_the_convolution_of_pytorch(monkeypatch):
    monkeypatch.setattr(custom_ops, "load", lambda *_: None)
    x, w, _ = make((1, 64, 64, 32, 32), 1)
    assert torch.equal(convolve(x, w, padding=(1, 1)), F.conv2d(x, w, padding=1))


def test_nan_and_infinity_are_not_lost():
    x, w, _ = make((1, 32, 32, 32, 32), 1)
    x[0, 3, 9, 9] = torch.nan
    y = native(x, w)
    assert y[0, :, 8:11, 8:11].isnan().all()


def test_implementations_by_name(monkeypatch):
    """'cpu' is native also where 'auto' is not, 'ref' never; unsupported inputs raise an error."""
    x, w, _ = make((1, 32, 32, 8, 8), 1)
    expected = F.conv2d(x, w, padding=1)
    asked, require = [], custom_ops.require
    monkeypatch.setattr(custom_ops, "require", lambda *key: asked.append(key) or require(*key))
    torch.testing.assert_close(convolve(x, w, padding=(1, 1), impl="cpu"), expected, rtol=1e-5, atol=1e-4)
    assert asked == [("winograd", "cpu")]
    large, w, _ = make((1, 64, 64, 64, 64), 1)
    monkeypatch.setattr(custom_ops, "load", lambda *_: pytest.fail("the native operator was asked for"))
    assert torch.equal(convolve(large, w, padding=(1, 1), impl="ref"), F.conv2d(large, w, padding=1))
    with pytest.raises(RuntimeError, match=r"of 32 channels.*; not images \[1, 64, 64, 64\] .*, of another type"):
        convolve(large.double(), w.double(), padding=(1, 1), impl="cpu")
    with pytest.raises(ValueError, match="unknown implementation 'cuda'; choose one of auto, ref, cpu"):
        convolve(large, w, padding=(1, 1), impl="cuda")
    with pytest.raises(RuntimeError, match=r"not images \[1, 64, 64, 64\] .* stride=2, padding=\(0, 0\)"):
        convolve(large, w, stride=2, impl="cpu")


@pytest.mark.parametrize("stride", [1, 2])
def test_no_images_at_all(stride):
    x, w, cotangent = (t.requires_grad_() for t in make((0, 32, 64, 33 - stride % 2, 33 - stride % 2), stride))
    y = native(x, w, stride)
    assert y.shape == cotangent.shape
    assert not torch.autograd.grad(y, w, cotangent)[0].any()


def test_weights_of_any_layout():
    x, w, cotangent = make((1, 32, 64, 32, 32), 1)
    x.requires_grad_()
    expected = torch.autograd.grad(native(x, w), x, cotangent)[0]
    strided = torch.stack([w, w], dim=-1)[..., 0]
    for other in (w.contiguous(memory_format=torch.channels_last), strided):
        y = native(x, other)
        assert torch.equal(torch.autograd.grad(y, x, cotangent)[0], expected)


def test_layers_of_different_sizes_in_turns():
    """Convolutions of different sizes share scratch memory."""
    results = {}
    for shape, stride in [*SHAPES, *SHAPES[::-1]]:
        x, w, cotangent = (t.requires_grad_() for t in make(shape, stride))
        y = native(x, w, stride)
        grads = torch.autograd.grad(y, (x, w), cotangent)
        for one, other in zip((y, *grads), results.setdefault((shape, stride), (y, *grads)), strict=True):
            assert torch.equal(one, other)


def test_two_callers_at_once():
    """Every calling thread has scratch memory of its own."""
    cases = [make(shape, stride, seed)[:2] for seed in range(4) for shape, stride in SHAPES[:2]]
    expected = [native(x, w) for x, w in cases]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        for _ in range(5):
            results = threads.map(lambda case: native(*case), cases)
            assert all(torch.equal(one, other) for one, other in zip(results, expected, strict=True))
