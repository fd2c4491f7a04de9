"""The native upfirdn2d against the reference: shapes, types, layouts, derivatives, choice of implementation."""

import itertools

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from tests.torch_utils.native import ELEMENT_TYPES, needs_compiler
from torch_utils import custom_ops
from torch_utils.ops import upfirdn2d as module
from torch_utils.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upfirdn2d_ref, upsample2d

TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
LAYOUTS = {"planar": torch.contiguous_format, "channels_last": torch.channels_last}


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_native(x, f, **arguments):
    """Values of the native operator against those of the reference in double precision."""
    y = upfirdn2d(x, f, impl="cpu", **arguments)
    expected = upfirdn2d(x.double(), f, impl="ref", **arguments)
    assert y.dtype == x.dtype and y.shape == expected.shape
    scale = float(expected.abs().max()) if expected.numel() else 0
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=TOLERANCE[x.dtype] * scale + 1e-30)
    return y


@needs_compiler
@pytest.mark.parametrize("seed", range(150))
def test_random_arguments(seed):
    random = np.random.default_rng(seed)
    channels = int(random.choice([1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 40]))
    x = draw(2, channels, *random.integers(1, 21, 2).tolist(), seed=seed)
    x = x.to(ELEMENT_TYPES[seed % 4]).contiguous(memory_format=list(LAYOUTS.values())[seed // 4 % 2])
    kind = ("vector", "matrix", "product")[seed // 8 % 3]
    f = draw(*random.integers(1, 25, 2).tolist(), seed=seed + 1)
    f = f[0] if kind == "vector" else torch.outer(f[:, 0], f[0]) if kind == "product" else f
    arguments = {
        "up": random.integers(1, 5, 2).tolist(),
        "down": random.integers(1, 5, 2).tolist(),
        "padding": (random.integers(-2, 9, 4) + 12 * (f.shape[0] > 12)).tolist(),
        "flip_filter": bool(seed % 3),
        "gain": 1.5,
    }
    try:
        upfirdn2d(x.double(), f, impl="ref", **arguments)
    except ValueError as error:
        with pytest.raises(ValueError, match="does not fit"):
            upfirdn2d(x, f, impl="cpu", **arguments)
        assert "does not fit" in str(error)
        return
    assert_native(x, f, **arguments)


@needs_compiler
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3, 16])
@pytest.mark.parametrize("size", [(1, 1), (1, 70), (70, 1), (37, 1100)])
def test_typical_uses(size, channels, layout):
    """One pixel, one row, one column, and rows of more than a tile in bands of more than one task."""
    x = draw(2, channels, *size).float().contiguous(memory_format=LAYOUTS[layout])
    f = setup_filter([1, 3, 3, 1])
    for wrapper in (filter2d, upsample2d, downsample2d):
        y, expected = wrapper(x, f, padding=1, impl="cpu"), wrapper(x, f, padding=1, impl="ref")
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-5)
        # The layout of single pixels is ambiguous.
        assert y.is_contiguous(memory_format=LAYOUTS[layout]) or size == (1, 1)


@needs_compiler
@pytest.mark.parametrize("width", [301, 304])
def test_results_too_large_for_caches(width):
    """Large results bypass the caches, in whole vectors and at their ends."""
    x = draw(1, 20, 350, width).float().contiguous(memory_format=torch.channels_last)
    assert x.numel() * 4 > 2**23
    assert_native(x, setup_filter([1, 3, 3, 1]), padding=[2, 1, 2, 1])
    assert_native(x[:, :, 7:], setup_filter([1, 2, 3]), up=[2, 1], padding=1)


@needs_compiler
def test_any_strides():
    base = draw(4, 6, 18, 20).float()
    f = setup_filter([1, 2, 4, 3])
    for x in (
        base[::2],
        base[:, ::3, 1:, 2:],
        base.transpose(2, 3),
        base.permute(0, 2, 3, 1),
        base[:, :1].expand(-1, 6, -1, -1),
        base.flip(3),
    ):
        assert_native(x, f, up=2, down=[1, 2], padding=2)


@needs_compiler
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0)])
def test_nothing_in(shape):
    f = setup_filter([1, 3, 3, 1])
    for impl, dtype in itertools.product(("cpu", "ref"), (torch.float32, torch.float64)):
        x = torch.zeros(shape, dtype=dtype, requires_grad=True)
        y = upfirdn2d(x, f, up=2, padding=4, impl=impl)
        sizes = [2 * size + 8 - 4 + 1 for size in shape[2:]]
        assert list(y.shape) == [*shape[:2], *sizes] and not y.any()
        y.sum().backward()
        assert x.grad.shape == x.shape


@pytest.mark.parametrize("impl", [pytest.param("cpu", marks=needs_compiler), "ref"])
@pytest.mark.parametrize("padding", [[-9, 12, 0, 0], [12, -9, 0, 0], [1, 1, -30, 40], [1, 1, 40, -30], [-7, 9, 0, 0]])
@pytest.mark.parametrize("up", [1, 3])
def test_images_cropped_away(up, padding, impl):
    """Crops beyond the image leave padding, which is zeros, however the cropped sides are filled up again."""
    x = draw(1, 2, 5, 5 if up == 1 else 3).requires_grad_()
    f = draw(3, 3, seed=1)
    y = upfirdn2d(x, f, up=up, padding=padding, impl=impl)
    before, after = padding[2:] if abs(padding[0]) < 2 else padding[:2]
    size = x.shape[2 if abs(padding[0]) < 2 else 3]
    seen = before > -((size - 1) * up + 1) and after > -size * up
    assert y.any() == seen
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert dx.any() == seen


@needs_compiler
@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize(
    "shape,padding",
    [
        ((2, 33, 8, 1), [9, -3, 0, 0]),
        ((1, 512, 8, 8), [40, 0, 0, 0]),
        ((1, 1, 8, 8), [9000, 0, 0, 0]),
        ((1, 1, 8, 8), [0, 9000, 0, 0]),
        ((1, 33, 8, 8), [0, 0, 300, 300]),
    ],
)
def test_padding_wider_than_a_tile(shape, padding, layout):
    x = draw(*shape).float().contiguous(memory_format=LAYOUTS[layout])
    assert_native(x, draw(1, 3, seed=1), padding=padding)


@needs_compiler
def test_numbers_of_threads_give_the_same_bits():
    x = draw(3, 32, 70, 33).float()
    threads = torch.get_num_threads()
    try:
        for memory_format, up in itertools.product(LAYOUTS.values(), (1, 2)):
            results = []
            for number in (1, 3):
                torch.set_num_threads(number)
                y = upfirdn2d(x.contiguous(memory_format=memory_format), setup_filter([1, 3, 3, 1]), up=up, impl="cpu")
                results.append(y)
            assert torch.equal(*results)
    finally:
        torch.set_num_threads(threads)


@needs_compiler
def test_special_values_stay_where_they_are():
    x = torch.zeros(1, 20, 9, 9)
    x[0, 3, 4, 4], x[0, 5, 4, 4] = torch.inf, torch.nan
    y = upfirdn2d(x, torch.ones(3, 3), padding=1, impl="cpu")
    inside = torch.zeros(9, 9, dtype=torch.bool)
    inside[3:6, 3:6] = True
    assert torch.equal(y[0, 3].isinf(), inside) and torch.equal(y[0, 5].isnan(), inside)
    assert not y[0, [0, 1, 2, 4, 6]].any()


ARGUMENTS = [
    {"padding": [2, 1, 2, 1]},
    {"up": 2, "padding": [2, 1, 3, 1], "flip_filter": True},
    {"down": 2, "padding": [1, 2, 0, 1], "gain": 3.0},
    {"up": [2, 3], "down": [3, 2], "padding": [-1, 2, 3, -2]},
]


@pytest.mark.parametrize("impl", [pytest.param("cpu", marks=needs_compiler), "ref"])
@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_derivatives(arguments, separable, impl):
    f = setup_filter([1.0, 2, 3, 5], separable=separable)
    if not separable:
        f = f + draw(4, 4).float()
    for memory_format in LAYOUTS.values():
        x = draw(1, 2, 5, 4).contiguous(memory_format=memory_format).requires_grad_()
        assert gradcheck(lambda x: upfirdn2d(x, f, impl=impl, **arguments), [x])
        assert gradgradcheck(lambda x: upfirdn2d(x, f, impl=impl, **arguments).square(), [x])


@pytest.mark.parametrize("impl", [pytest.param("cpu", marks=needs_compiler), "ref"])
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_three_derivatives_are_those_of_pytorch(arguments, impl):
    """Against the reference differentiated by PyTorch itself."""
    f = draw(3, 4, seed=1)
    pairs = {key: (value, value) if isinstance(value, int) else tuple(value) for key, value in arguments.items()
             if key in ("up", "down", "padding")}  # fmt: skip
    results = []
    for function, settings in ((upfirdn2d, arguments | {"impl": impl}), (upfirdn2d_ref, arguments | pairs)):
        x = draw(2, 3, 6, 5).requires_grad_()
        g = x
        for _ in range(3):
            (g,) = torch.autograd.grad(function(g.tanh(), f, **settings).square().sum(), x, create_graph=True)
        results.append(g)
    torch.testing.assert_close(*results)


def test_filters_get_no_gradient():
    x, f = draw(1, 1, 4, 4).requires_grad_(), torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    y = upfirdn2d(x, f)
    assert torch.autograd.grad(y.sum(), [x, f], allow_unused=True)[1] is None


def test_mistaken_choices(monkeypatch):
    x = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match="unknown implementation 'gpu'"):
        upfirdn2d(x, None, impl="gpu")
    with pytest.raises(RuntimeError, match="impl='cuda' cannot take images on cpu"):
        upfirdn2d(x, None, impl="cuda")
    with pytest.raises(RuntimeError, match="impl='cpu' cannot take images on meta"):
        upfirdn2d(x.to("meta"), None, impl="cpu")


@pytest.mark.parametrize(
    "shape, dtype, native",
    [
        ((2, 64, 16, 16), torch.float32, True),
        ((9, 64, 32, 32), torch.float32, False),
        ((2, 3, 32, 32), torch.float32, True),
        ((2, 7, 32, 32), torch.float32, True),
        ((32, 7, 64, 64), torch.float32, False),
        ((2, 64, 16, 16), torch.float16, True),
        ((1, 3, 8, 8), torch.float32, False),
        ((2, 64, 16, 16), torch.float64, True),
        ((1, 3, 8, 8), torch.float64, False),
        ((2, 64, 16, 16), torch.bfloat16, False),
        ((2, 4, 32, 32), torch.bfloat16, True),
        ((2, 7, 32, 32), torch.bfloat16, False),
        ((1, 3, 8, 8), torch.bfloat16, False),
    ],
)
def test_automatic_choice(monkeypatch, shape, dtype, native):
    asked = []
    monkeypatch.setattr(custom_ops, "load", lambda *names: asked.append(names))
    y = module.upfirdn2d(torch.zeros(shape, dtype=dtype), torch.ones(1, 1))  # by the reference: nothing is loaded
    assert y.shape == shape and asked == ([("upfirdn2d", "cpu")] if native else [])


@pytest.mark.parametrize("dtype, native", [(torch.bfloat16, True), (torch.float32, False)])
def test_upsampling_of_large_images_of_many_channels_is_native_in_bfloat16(monkeypatch, dtype, native):
    """Also where it is the gradient of a downsampling."""
    asked = []
    monkeypatch.setattr(custom_ops, "load", lambda *names: asked.append(names))
    x, expected = torch.ones(9, 64, 64, 64, dtype=dtype, requires_grad=True), [("upfirdn2d", "cpu")] * native
    module.upfirdn2d(x.detach(), torch.ones(2, 2), up=2, padding=[1, 0, 1, 0])
    assert asked == expected
    asked.clear()
    y = module.upfirdn2d(x, torch.ones(2, 2), down=2)
    assert not asked
    y.sum().backward()
    assert asked == expected and x.grad.eq(1).all()


@needs_compiler
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_largest_filters(layout):
    x = draw(1, 3, 20, 30).float().contiguous(memory_format=LAYOUTS[layout])
    assert_native(x, draw(24, 24, seed=1), up=2, down=3, padding=12)
    assert_native(x, draw(24, seed=1), padding=12, flip_filter=True)
