"""Volume compositing: native operators against the reference and closed forms, derivatives, errors."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from tests.torch_utils.native import needs_compiler
from torch_utils import custom_ops
from torch_utils.ops import composite as module
from torch_utils.ops.composite import product_by_logarithms, ray_weights, ray_weights_ref, weighted_sum

TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
NATIVE = pytest.param("cpu", marks=needs_compiler)


def rays(*shape, channels=3, dtype=torch.float64, seed=0):
    """Densities [*shape], many of them zero, step lengths, and features."""
    generator = torch.Generator().manual_seed(seed)
    density = (10 * torch.randn(shape, generator=generator, dtype=torch.float64)).relu()
    deltas = torch.rand([*shape[:-1], shape[-1] - 1], generator=generator, dtype=torch.float64)
    features = torch.randn([*shape, channels], generator=generator, dtype=torch.float64)
    return density.to(dtype), deltas.to(dtype), features.to(dtype)


def composite(density, deltas, features, *, last_opaque, impl="auto"):
    """Weighted sums of the features [..., C], weights [..., S] and transmittance [...]."""
    weights, transmittance = ray_weights(density, deltas, last_opaque=last_opaque, impl=impl)
    return weighted_sum(weights, features, impl=impl), weights, transmittance


@needs_compiler
@pytest.mark.parametrize("last_opaque", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("channels", [1, 3, 16, 131, 259])
@pytest.mark.parametrize("shape", [(1,), (2,), (1, 1), (5, 4), (2, 3, 7), (3, 1, 200, 28)])
def test_values(shape, channels, dtype, last_opaque):
    density, deltas, features = rays(*shape, channels=channels, dtype=dtype)
    results = composite(density, deltas, features, last_opaque=last_opaque, impl="cpu")
    expected = composite(density.double(), deltas.double(), features.double(), last_opaque=last_opaque, impl="ref")
    for actual, wanted in zip(results, expected):
        assert actual.dtype == dtype and actual.shape == wanted.shape
        torch.testing.assert_close(actual.double(), wanted, rtol=0, atol=8 * TOLERANCE[dtype])


@needs_compiler
@pytest.mark.parametrize("shape, channels", [((0, 4), 3), ((2, 0, 4), 3), ((3, 4), 0)])
def test_nothing_in(shape, channels):
    density, deltas, features = (x.requires_grad_() for x in rays(*shape, channels=channels))
    results = composite(density, deltas, features, last_opaque=True, impl="cpu")
    expected = composite(density, deltas, features, last_opaque=True, impl="ref")
    for actual, wanted in zip(results, expected):
        assert torch.equal(actual, wanted)
    gradients = torch.autograd.grad(sum(x.sum() for x in results), [density, deltas, features])
    assert [g.shape for g in gradients] == [density.shape, deltas.shape, features.shape]


@needs_compiler
def test_any_strides_and_shared_steps():
    density, deltas, features = rays(6, 4, 5, channels=8)
    for d, s, f in (
        (density[::2], deltas[1::2], features[::2]),
        (density.transpose(0, 1), deltas.transpose(0, 1), features.transpose(0, 1)),
        (density, deltas[:, :1], features[..., ::2]),
        (density, deltas[0, 0], features[:1].expand(6, -1, -1, -1)),
        (density[..., 1:], deltas[..., ::2][..., :1].expand(-1, -1, 3), features[..., 1:, :]),
    ):
        results = composite(d, s, f, last_opaque=False, impl="cpu")
        for actual, wanted in zip(results, composite(d, s, f, last_opaque=False, impl="ref")):
            torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("impl", [NATIVE, "ref"])
def test_homogeneous_medium(impl):
    """Beer–Lambert law; the composite of a constant is one minus the transmittance."""
    density, deltas = torch.full([50], 0.7, dtype=torch.float64), torch.full([49], 0.05, dtype=torch.float64)
    features = torch.full([50, 1], 3.0, dtype=torch.float64)
    results = composite(density, deltas, features, last_opaque=False, impl=impl)
    through = math.exp(-0.7 * 0.05 * 49)
    assert results[2].item() == pytest.approx(through, rel=1e-8)
    assert results[0].item() == pytest.approx(3 * (1 - through), rel=1e-8)
    assert composite(density, deltas, features, last_opaque=True, impl=impl)[0].item() == pytest.approx(3, rel=1e-8)


@pytest.mark.parametrize("impl", [NATIVE, "ref"])
@pytest.mark.parametrize("value", [0.0, 1e-30, 1e4, 1e30])
def test_gradients_at_extreme_densities(value, impl):
    """Behind opaque samples the transmittance underflows; gradients stay finite."""
    density = torch.full([3, 12], value).requires_grad_()
    features = torch.ones(3, 12, 2).requires_grad_()
    results = composite(density, torch.full([11], 0.1), features, last_opaque=True, impl=impl)
    gradients = torch.autograd.grad(sum((x * x).sum() for x in results), [density, features])
    assert all(g.isfinite().all() for g in gradients)
    assert results[0].mean().item() == pytest.approx(1)


@pytest.mark.parametrize("impl", [NATIVE, "ref"])
@pytest.mark.parametrize("last_opaque", [True, False])
def test_derivatives(last_opaque, impl):
    density, deltas, features = (x.requires_grad_() for x in rays(3, 2, 5))
    density = (density.detach() + 0.1).requires_grad_()
    shared = deltas.detach()[:, :1].requires_grad_()

    def function(*arguments):
        return composite(*arguments, last_opaque=last_opaque, impl=impl)

    for inputs in ([density, deltas, features], [density, shared, features]):
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)
    fixed = deltas.detach()  # as the renderer has it
    assert gradgradcheck(lambda d, f: function(d, fixed, f), [density, features])


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradients_of_other_types(dtype):
    density, deltas, features = rays(40, 14, channels=35, dtype=dtype)
    weight, gradients = torch.randn(40, 35, generator=torch.Generator().manual_seed(1)).to(dtype), []
    for impl, kind in (("cpu", dtype), ("ref", torch.float64)):
        leaves = [density.to(kind).requires_grad_(), features.to(kind).requires_grad_()]
        rows, weights, left = composite(leaves[0], deltas.to(kind), leaves[1], last_opaque=False, impl=impl)
        total = (rows.double() * weight).sum() + weights.double().square().sum() + left.double().sum()
        gradients.append(torch.autograd.grad(total, leaves))
    for actual, wanted in zip(*gradients):
        assert actual.dtype == dtype
        scale = float(wanted.abs().max())
        torch.testing.assert_close(actual.double(), wanted, rtol=0, atol=10 * TOLERANCE[dtype] * scale)


@needs_compiler
def test_numbers_of_threads_give_the_same_bits():
    density, deltas, features = rays(3000, 14, channels=33, dtype=torch.float32)
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            d, f = density.clone().requires_grad_(), features.clone().requires_grad_()
            rows, weights, _ = composite(d, deltas, f, last_opaque=True, impl="cpu")
            results.append([rows, weights, *torch.autograd.grad((rows * rows).sum(), [d, f])])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_automatic_choice(monkeypatch):
    """On the CPU, 'auto' is native only for large sums with gradients: weights and inference stay with PyTorch."""
    asked = []
    monkeypatch.setattr(custom_ops, "load", lambda *names: asked.append(names))
    monkeypatch.setattr(module, "NATIVE_MIN_SIZE", 60)
    density, deltas, features = rays(5, 4)
    composite(density.requires_grad_(), deltas, features[:, :, :2], last_opaque=True)
    with torch.no_grad():
        composite(density, deltas, features, last_opaque=True)
    assert asked == []
    composite(density, deltas, features, last_opaque=True)
    assert asked == [("composite", "cpu")]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: ray_weights(x, x, last_opaque=True), r"\[4, 5\] and \[4, 5\]"),
        (lambda x: ray_weights(x[0], x[:, 1:], last_opaque=True), "are needed"),
        (lambda x: ray_weights(torch.tensor(1.0), x, last_opaque=True), "are needed"),
        (lambda x: weighted_sum(x, x), "weights"),
        (lambda x: weighted_sum(x, x[..., None, :].expand(4, 6, 5)), "weights"),
        (lambda x: ray_weights(x, x[:, 1:], last_opaque=True, impl="gpu"), "unknown implementation"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(4, 5))


def test_unavailable_implementations():
    x = torch.zeros(4, 5)
    with pytest.raises(RuntimeError, match="cannot take tensors on cpu"):
        ray_weights(x, x[:, 1:], last_opaque=True, impl="cuda")
    with pytest.raises(RuntimeError, match="cannot take tensors on meta"):
        weighted_sum(x.to("meta"), x[..., None].to("meta"), impl="cpu")


def test_reference_is_the_formula():
    density, deltas, _ = rays(6)
    weights, left = ray_weights_ref(density, deltas, last_opaque=True)
    through = 1.0
    for i in range(6):
        alpha = 1 - math.exp(-float(density[i] * deltas[i])) if i < 5 else 1.0
        assert weights[i].item() == pytest.approx(alpha * through, rel=1e-12, abs=1e-300)
        if i < 5:
            through *= 1 - alpha + 1e-10
    assert left.item() == pytest.approx(through, rel=1e-12)


def test_products_by_logarithms():
    light = torch.rand(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.9 + 1e-10
    light[0, 3] = 1e-10  # behind an opaque sample
    torch.testing.assert_close(product_by_logarithms(light), torch.cumprod(light, dim=-1), rtol=1e-12, atol=0)
    assert gradcheck(product_by_logarithms, light[1:].clone().requires_grad_())
    assert gradgradcheck(product_by_logarithms, light[1:].clone().requires_grad_())
