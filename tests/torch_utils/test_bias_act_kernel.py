"""The CUDA kernel of bias_act, its actual source, run on the CPU: values, index arithmetic, launch geometry."""

import ctypes
import mmap

import pytest
import torch

from tests.torch_utils.native import ELEMENT_TYPES, Emulated, address, needs_compiler
from torch_utils.ops.bias_act import ACTIVATIONS, bias_act

pytestmark = needs_compiler
FORWARD, GRADIENT_FROM_OUTPUT, GRADIENT, CURVATURE = range(4)
PIECEWISE_LINEAR = ("linear", "relu", "lrelu")
BLOCK = 1024  # elements of a block
GUARD = 64  # elements before and after a result, which must stay as they are


class Arguments(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "b", "dy", "ddx", "out")),
        *((name, ctypes.c_int64) for name in ("count", "channels", "inner")),
        *((name, ctypes.c_double) for name in ("alpha", "gain", "limit")),
        *((name, ctypes.c_int) for name in ("type", "act", "operation")),
    ]


@pytest.fixture(scope="module")
def kernel():
    return Emulated("bias_act")


def launch(kernel, operation, x, b=None, dy=None, ddx=None, *, act, inner=1, gain=1.0, clamp=None):
    """One operation on dense tensors in the order of memory; checks that nothing around the result is written."""
    memory = torch.full([x.numel() + 2 * GUARD], 7.0, dtype=x.dtype)
    out = memory[GUARD : GUARD + x.numel()]
    arguments = Arguments(
        *(address(t).value for t in (x, b, dy, ddx, out)),
        x.numel(),
        1 if b is None else b.numel(),
        inner,
        0.2,
        gain,
        float("nan") if clamp is None else clamp,
        ELEMENT_TYPES.index(x.dtype),
        list(ACTIVATIONS).index(act),
        operation,
    )
    kernel.launch(ctypes.byref(arguments), None)
    assert (memory[:GUARD] == 7).all() and (memory[GUARD + x.numel() :] == 7).all()
    return out.view(x.shape)


def draw(*shape, dtype=torch.float64, seed=0):
    x = 2 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (x + 0.05 * x.sign()).to(dtype)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("shape", [(1,), (1, 1), (2, 3, 5, 7), (1, BLOCK), (3, 1025), (1, 1023), (0, 3), (4, 5, 300)])
def test_shapes(kernel, shape, backwards):
    x, b = draw(*shape), draw(shape[min(1, len(shape) - 1)], seed=1)
    dim = min(1, len(shape) - 1)
    kernel.only_blocks(backwards=backwards)
    inner = max(x.stride(dim), 1)
    y = launch(kernel, FORWARD, x, b, act="lrelu", inner=inner, gain=1.5, clamp=2.0)
    torch.testing.assert_close(y, bias_act(x, b, dim=dim, act="lrelu", gain=1.5, clamp=2.0, impl="ref"))
    kernel.only_blocks()


@pytest.mark.parametrize("dtype", ELEMENT_TYPES)
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_operations(kernel, act, dtype):
    """Value, gradient and the gradient's derivatives of every activation against autograd in double precision."""
    tolerance = {torch.float64: 1e-12, torch.float32: 3e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    x, b, dy, ddx = (draw(*s, dtype=dtype, seed=i) for i, s in enumerate([(3, 5, 6), (5,), (3, 5, 6), (3, 5, 6)]))
    for gain, clamp in ((1.0, None), (0.8, 0.875), (-1.2, 0.875)):
        arguments = {"act": act, "inner": 6, "gain": gain, "clamp": clamp}
        x64, b64, dy64 = (t.double().requires_grad_() for t in (x, b, dy))
        y64 = bias_act(x64, b64, act=act, gain=gain, clamp=clamp, impl="ref")
        (dx64,) = torch.autograd.grad(y64, x64, dy64, create_graph=True)
        (ddy64,) = torch.autograd.grad(dx64, dy64, ddx.double(), retain_graph=True)
        checks = [
            (launch(kernel, FORWARD, x, b, **arguments), y64),
            (launch(kernel, GRADIENT, x, b, dy, **arguments), dx64),
            (launch(kernel, GRADIENT, x, b, ddx, **arguments), ddy64),
        ]
        if act in PIECEWISE_LINEAR:
            if gain > 0:
                y = y64.detach().to(dtype)
                checks.append((launch(kernel, GRADIENT_FROM_OUTPUT, y, None, dy, **arguments), dx64))
        else:
            (dx_dx64,) = torch.autograd.grad(dx64, x64, ddx.double())
            checks.append((launch(kernel, CURVATURE, x, b, dy, ddx, **arguments), dx_dx64))
        for result, expected in checks:
            scale = max(1.0, expected.abs().max().item())
            torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", ELEMENT_TYPES)
def test_a_clamp_that_the_type_does_not_hold(kernel, dtype):
    """A clamped y is rounded when stored, but the gradient can still tell that it was clamped."""
    x = torch.tensor([2.0, -2.0, 0.5], dtype=dtype)
    y = launch(kernel, FORWARD, x, act="linear", clamp=0.9)
    torch.testing.assert_close(y, torch.tensor([0.9, -0.9, 0.5], dtype=dtype), rtol=0, atol=0)
    dx = launch(kernel, GRADIENT_FROM_OUTPUT, y, None, torch.ones_like(y), act="linear", clamp=0.9)
    assert dx.tolist() == [0, 0, 1]


def test_two_bytes_to_float_and_back(kernel):
    """All 65536 numbers of either type, and floats between them."""
    for dtype in (torch.float16, torch.bfloat16):
        every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
        for gain in (1.0, 3.0, 1 / 3, 2.0**-9, 1.7e4):
            y = launch(kernel, FORWARD, every, act="linear", gain=gain)
            expected = (every.float() * torch.tensor(gain)).to(dtype)
            torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)


def huge(elements, dtype):
    """A tensor of zeros that takes memory only where it is touched."""
    size = torch.empty(0, dtype=dtype).element_size() * elements
    no_reserve = 0x4000  # MAP_NORESERVE of Linux, which Python names from 3.13 on
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    return torch.frombuffer(mmap.mmap(-1, size, flags=flags), dtype=dtype)


@pytest.mark.parametrize("above", [-BLOCK - 3, 5, 3 * BLOCK + 77])
def test_more_than_2_to_the_31_elements(kernel, above):
    """The last blocks of tensors around 2^31 elements; all others are left out."""
    count, inner, channels = 2**31 + above, 3, 5
    x, out = huge(count, torch.float16), huge(count, torch.float16)
    tail = 3 * BLOCK
    x[-tail:] = draw(tail, dtype=torch.float16)
    b = draw(channels, dtype=torch.float16, seed=1)
    blocks = -(-count // BLOCK)
    arguments = Arguments(address(x).value, address(b).value, None, None, address(out).value, count, channels, inner)
    arguments.gain, arguments.limit, arguments.type, arguments.act = 1.0, float("nan"), 2, 0
    kernel.only_blocks(blocks - 3, 3)
    kernel.launch(ctypes.byref(arguments), None)
    kernel.only_blocks()
    start = (blocks - 3) * BLOCK
    channel = torch.arange(start, count) // inner % channels
    torch.testing.assert_close(out[start:], x[start:] + b[channel], rtol=1e-3, atol=1e-3)
    assert out[start - 8 : start].eq(0).all()


def test_too_many_elements_are_refused(kernel):
    arguments = Arguments(count=2**31 * BLOCK, channels=1, inner=1)
    with pytest.raises(RuntimeError, match="too many elements"):
        kernel.launch(ctypes.byref(arguments), None)


@pytest.mark.parametrize("act", ["tanh", "sigmoid", "elu", "softplus"])
def test_functions_of_floats_are_accurate(kernel, act):
    """Over their whole range, near 0 and where they overflow: to a few units in the last place."""
    x = torch.cat([torch.linspace(-110, 110, 40001), torch.linspace(-0.1, 0.1, 2001), torch.tensor([-1e30, 1e30])])
    expected = bias_act(x.double(), act=act, impl="ref")
    y = launch(kernel, FORWARD, x, act=act)
    normal = expected.abs() > 2.0**-120  # smaller floats have fewer digits
    torch.testing.assert_close(y[normal].double(), expected[normal], rtol=6e-7, atol=0)
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-5)
