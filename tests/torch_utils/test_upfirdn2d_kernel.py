"""The CUDA kernel of upfirdn2d, its actual source, run on the CPU: values, index arithmetic, launch geometry."""

import ctypes
import mmap

import numpy as np
import pytest
import torch

from tests.torch_utils.native import ELEMENT_TYPES, Emulated, address, needs_compiler
from torch_utils.ops.upfirdn2d import upfirdn2d

pytestmark = needs_compiler
GUARD = 64  # elements before and after a result, which must stay as they are
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


class Axis(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("input", "output", "taps", "up", "down", "pad")]


class Arguments(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("x", "y", "f")),
        ("flip", ctypes.c_bool),
        ("gain", ctypes.c_double),
        ("images", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("columns", Axis),
        ("rows", Axis),
    ]


@pytest.fixture(scope="module")
def kernel():
    emulated = Emulated("upfirdn2d")
    yield emulated
    emulated.only_blocks()


def axis(size, taps, up, down, before, after):
    return Axis(size, (size * up + before + after - taps) // down + 1, taps, up, down, before)


def launch(kernel, x, f, *, up=(1, 1), down=(1, 1), padding=(0, 0, 0, 0), flip_filter=False, gain=1.0):
    """One pass over images in either memory format with a matrix; nothing around the result may be written."""
    planar = x.is_contiguous()
    n, c, h, w = x.shape
    f = f.to(torch.float64 if x.dtype == torch.float64 else torch.float32).contiguous()
    columns = axis(h, f.shape[0], up[1], down[1], *padding[2:])
    rows = axis(w, f.shape[1], up[0], down[0], *padding[:2])
    count = n * c * columns.output * rows.output
    memory = torch.full([count + 2 * GUARD], 7.0, dtype=x.dtype)
    out = memory[GUARD : GUARD + count]
    arguments = Arguments(
        ELEMENT_TYPES.index(x.dtype), *(address(t).value for t in (x, out, f)), flip_filter, gain,
        *((n * c, 1) if planar else (n, c)), columns, rows,
    )  # fmt: skip
    kernel.launch(ctypes.byref(arguments), None)
    assert (memory[:GUARD] == 7).all() and (memory[GUARD + count :] == 7).all()
    if planar:
        return out.view(n, c, columns.output, rows.output)
    return out.view(n, columns.output, rows.output, c).permute(0, 3, 1, 2)


def check(kernel, x, f, **arguments):
    y = launch(kernel, x, f, **arguments)
    expected = upfirdn2d(x.double(), f, impl="ref", **arguments)
    scale = float(expected.abs().max())
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=TOLERANCE[x.dtype] * scale + 1e-30)


@pytest.mark.parametrize("seed", range(48))
def test_random_arguments(kernel, seed):
    random = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    # Factors that have kernels of their own, and others.
    up, down = [((1, 1), (1, 1)), ((2, 2), (1, 1)), ((1, 1), (2, 2)), ((3, 2), (2, 5))][seed % 4]
    shape = [2, int(random.choice([1, 3, 8])), *random.integers(1, 14, 2).tolist()]
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(ELEMENT_TYPES[seed // 4 % 4])
    x = x.contiguous(memory_format=torch.channels_last if seed // 16 % 2 else torch.contiguous_format)
    f = torch.randn(random.integers(1, 25, 2).tolist(), generator=generator, dtype=torch.float64)
    padding = (random.integers(-1, 5, 4) + np.repeat(f.shape[::-1], 2) // 2).tolist()
    kernel.only_blocks(backwards=bool(seed % 3))
    check(kernel, x, f, up=up, down=down, padding=padding, flip_filter=bool(seed % 2), gain=1.5)


@pytest.mark.parametrize("channels, size", [(1, (1, 1)), (1, (9, 64)), (1, (3, 65)), (5, (4, 13)), (64, (5, 2))])
def test_sizes_around_those_of_blocks(kernel, channels, size):
    x = torch.randn(3, channels, *size, generator=torch.Generator().manual_seed(0))
    kernel.only_blocks()
    for memory_format in (torch.contiguous_format, torch.channels_last):
        check(kernel, x.contiguous(memory_format=memory_format), torch.ones(3, 3), padding=(1, 1, 1, 1))


@pytest.mark.parametrize("first", [0, 65535 - 64])
def test_more_images_than_a_grid_is_deep(kernel, first):
    """The first and the last blocks, of an image each; those of images 0 and 1 go on to the two beyond the grid."""
    x = torch.arange(1, 65538.0)
    kernel.only_blocks(first, 64)
    y = launch(kernel, x.view(1, -1, 1, 1), torch.full([1, 1], 2.0)).flatten()
    kernel.only_blocks()
    run = torch.arange(65537) % 65535
    run = (run >= first) & (run < first + 64)
    assert int(run.sum()) == (66 if first == 0 else 64)
    assert torch.equal(y[run], 2 * x[run]) and (y[~run] == 7).all()


def huge(elements):
    """Halves, all zero, that take memory only where they are touched."""
    no_reserve = 0x4000  # MAP_NORESERVE of Linux, which Python names from 3.13 on
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    return torch.frombuffer(mmap.mmap(-1, 2 * elements, flags=flags), dtype=torch.float16)


@pytest.mark.parametrize("channels, height, width", [(1, 40000, 60000), (3, 30011, 30000), (2**31 + 100, 1, 3)])
def test_more_than_2_to_the_31_elements(kernel, channels, height, width):
    """The last block of a result of more than 2^31 elements; all others are left out."""
    x, y = huge(height * width * channels), huge(height * width * channels)
    assert len(x) > 2**31
    image = x.view(height, width, channels)
    last = image[-3:, -3:, -5:]
    last.copy_(torch.randn(last.shape, generator=torch.Generator().manual_seed(0)))
    f = torch.tensor([[0.5, 1.0, 2.0]]) * torch.tensor([[1.0], [3.0], [0.25]])
    arguments = Arguments(
        2, address(x).value, address(y).value, address(f).value, True, 1.0, 1, channels,
        axis(height, 3, 1, 1, 1, 1), axis(width, 3, 1, 1, 1, 1),
    )  # fmt: skip
    blocks = -(-width * channels // 64), min(-(-height // 4), 65535)
    kernel.only_blocks(blocks[0] * blocks[1] - 1, 1)
    kernel.launch(ctypes.byref(arguments), None)
    corner = image[-3:, -4:, -5:].permute(2, 0, 1)[None].double()
    expected = upfirdn2d(corner, f, padding=[0, 1, 1, 1], flip_filter=True, impl="ref")[0].permute(1, 2, 0)
    pixels = 2 if channels > 1 else 3
    rows = (height - 1) % 4 + 1
    actual = y.view(height, width, channels)[-min(rows, 2) :, -pixels:, -5:]
    if channels > 64:
        expected, actual = expected[:, -1:], actual[:, -1:]  # the last block is part of one pixel
    torch.testing.assert_close(actual.double(), expected[-min(rows, 2) :, -actual.shape[1] :], rtol=1e-3, atol=2e-3)
    assert actual.any()


def test_limits(kernel):
    """A launch beyond the limits is an error, not a wrong result."""
    arguments = Arguments(images=1, channels=2**38, columns=axis(4, 1, 1, 1, 0, 0), rows=axis(4, 1, 1, 1, 0, 0))
    with pytest.raises(RuntimeError, match="rows are too long"):
        kernel.launch(ctypes.byref(arguments), None)
    large = axis(200, 120, 1, 1, 0, 0)
    with pytest.raises(RuntimeError, match="too many taps"):
        kernel.launch(ctypes.byref(Arguments(images=1, channels=1, columns=large, rows=large)), None)
    with pytest.raises(RuntimeError, match="unknown element type"):
        kernel.launch(ctypes.byref(Arguments(type=9)), None)
