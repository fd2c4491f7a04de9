"""The CUDA kernels of volume compositing, their actual source, run on the CPU: values, geometry, index arithmetic."""

import ctypes
import mmap

import pytest
import torch

from tests.torch_utils.native import ELEMENT_TYPES, address, load_emulated, needs_compiler
from torch_utils.ops.composite import ray_weights_ref

pytestmark = needs_compiler
SUM, DOTS, OUTER = range(3)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


class RayArguments(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("rays", ctypes.c_int64),
        ("samples", ctypes.c_int64),
        ("last_opaque", ctypes.c_bool),
        *((name, ctypes.c_void_p) for name in ("density", "deltas", "attenuation", "weights", "transmittance")),
        *((name, ctypes.c_void_p) for name in ("grad_weights", "grad_transmittance", "grad_density", "grad_deltas")),
    ]


class ProductArguments(ctypes.Structure):
    _fields_ = [
        ("product", ctypes.c_int),
        ("type", ctypes.c_int),
        *((name, ctypes.c_int64) for name in ("rays", "samples", "channels")),
        *((name, ctypes.c_void_p) for name in ("weights", "features", "rows")),
    ]


@pytest.fixture(scope="module")
def library():
    library = load_emulated("composite")
    for name in ("composite_rays_launch", "composite_product_launch"):
        getattr(library, name).restype = ctypes.c_char_p
    yield library
    only_blocks(library)


def only_blocks(library, first=0, count=2**63 - 1, backwards=False):
    library.emulate_settings(ctypes.c_int64(first), ctypes.c_int64(count), int(backwards))


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("last_opaque", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("count, samples", [(1, 1), (1, 2), (127, 4), (128, 5), (300, 28)])
def test_weights_and_their_gradients(library, count, samples, dtype, last_opaque, backwards):
    only_blocks(library, backwards=backwards)
    density = (5 * draw(count, samples, dtype=dtype)).relu().requires_grad_()
    deltas = draw(count, samples - 1, dtype=dtype, seed=1).abs().requires_grad_()
    grads = [draw(count, samples, dtype=dtype, seed=2), draw(count, dtype=dtype, seed=3)]
    expected = ray_weights_ref(density, deltas, last_opaque=last_opaque)
    wanted = torch.autograd.grad(expected, [density, deltas], grads)

    results = [torch.full_like(x, torch.nan) for x in (density, grads[1], density, deltas)]
    inputs = address(density).value, address(deltas).value, None
    arguments = RayArguments(ELEMENT_TYPES.index(dtype), count, samples, last_opaque, *inputs)
    arguments.weights, arguments.transmittance = (address(x).value for x in results[:2])
    assert library.composite_rays_launch(ctypes.byref(arguments), None) is None
    arguments.grad_weights, arguments.grad_transmittance = (address(x).value for x in grads)
    arguments.grad_density, arguments.grad_deltas = (address(x).value for x in results[2:])
    assert library.composite_rays_launch(ctypes.byref(arguments), None) is None
    for actual, value in zip(results, [*expected, *wanted]):
        scale = float(value.detach().abs().max()) if value.numel() else 0
        torch.testing.assert_close(actual, value.detach(), rtol=0, atol=2 * TOLERANCE[dtype] * max(scale, 1))

    arguments.grad_deltas = None  # not wanted
    again = torch.full_like(density, torch.nan)
    arguments.grad_density = address(again).value
    assert library.composite_rays_launch(ctypes.byref(arguments), None) is None
    assert torch.equal(again, results[2])


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("dtype", ELEMENT_TYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 31), (7, 9, 32), (2, 28, 259)])
def test_products(library, shape, dtype, backwards):
    only_blocks(library, backwards=backwards)
    count, samples, channels = shape
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    weights = draw(count, samples, dtype=compute)
    features, rows = draw(*shape, dtype=dtype, seed=1), draw(count, channels, dtype=dtype, seed=2)
    expected = {
        SUM: torch.einsum("rs,rsc->rc", weights.double(), features.double()),
        DOTS: torch.einsum("rc,rsc->rs", rows.double(), features.double()),
        OUTER: torch.einsum("rs,rc->rsc", weights.double(), rows.double()),
    }
    for product, wanted in expected.items():
        factors = {"weights": weights, "features": features, "rows": rows}
        result = ("rows", "weights", "features")[product]
        factors[result] = torch.full_like(factors[result], torch.nan)
        arguments = ProductArguments(product, ELEMENT_TYPES.index(dtype), *shape)
        for name, x in factors.items():
            setattr(arguments, name, address(x).value)
        assert library.composite_product_launch(ctypes.byref(arguments), None) is None
        scale = float(wanted.abs().max())
        torch.testing.assert_close(factors[result].double(), wanted, rtol=0, atol=2 * TOLERANCE[dtype] * scale)


def huge(elements, dtype):
    """Zeros that take memory only where they are touched."""
    size = torch.empty(0, dtype=dtype).element_size() * elements
    no_reserve = 0x4000  # MAP_NORESERVE of Linux, which Python names from 3.13 on
    return torch.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve), dtype=dtype)


@pytest.mark.parametrize("product", [SUM, DOTS, OUTER])
def test_more_than_2_to_the_31_elements(library, product):
    """The last block of features with more than 2^31 elements; all others are left out."""
    shape = count, samples, channels = 600_000, 28, 131
    features = huge(count * samples * channels, torch.float16)
    assert len(features) > 2**31
    weights, rows = huge(count * samples, torch.float32), huge(count * channels, torch.float16)
    views = {"weights": weights.view(count, samples), "features": features.view(shape), "rows": rows.view(count, -1)}
    for i, x in enumerate(views.values()):
        x[-3:] = draw(*x[-3:].shape, dtype=x.dtype, seed=i)
    last = {name: x[-3:].double() for name, x in views.items()}
    arguments = ProductArguments(product, 2, *shape, *(address(x).value for x in (weights, features, rows)))
    elements = {SUM: count * channels, DOTS: count * samples, OUTER: count * samples * channels}[product]
    per_block = 8 if product == DOTS else 128
    blocks = -(-elements // per_block)
    only_blocks(library, blocks - 1, 1)
    assert library.composite_product_launch(ctypes.byref(arguments), None) is None
    result = views[("rows", "weights", "features")[product]].reshape(-1)
    written = elements - (blocks - 1) * per_block
    expected = {
        SUM: torch.einsum("rs,rsc->rc", last["weights"], last["features"]),
        DOTS: torch.einsum("rc,rsc->rs", last["rows"], last["features"]),
        OUTER: torch.einsum("rs,rc->rsc", last["weights"], last["rows"]),
    }[product].reshape(-1)[-written:]
    torch.testing.assert_close(result[-written:].double(), expected, rtol=2e-3, atol=2e-2)


def test_limits(library):
    arguments = RayArguments(0, 2**39, 3)
    assert b"too many rays" in library.composite_rays_launch(ctypes.byref(arguments), None)
    assert library.composite_rays_launch(ctypes.byref(RayArguments(0, 0, 3)), None) is None
    assert b"unknown element type" in library.composite_product_launch(ctypes.byref(ProductArguments(0, 9)), None)
