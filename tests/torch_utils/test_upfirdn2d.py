"""FIR resampling: measured values, a literal transcription of the definition, derivatives."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

GOLDENS = np.load(Path(__file__).parents[1] / "data" / "operators.npz")


def golden(key):
    return torch.from_numpy(GOLDENS[key])


def parse_case(text):
    """ "filter=NAME up=2 padding=[1, 2] ..." -> (filter, keyword arguments)."""
    entries = dict(re.findall(r"(\w+)=(\[.*?\]|\S+)", text))
    name = entries.pop("filter")
    f = None if name == "none" else golden(f"upfirdn2d/filter/{name}")
    return f, {key: json.loads(value) for key, value in entries.items()}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("flip_filter", [False, True])
@pytest.mark.parametrize("index, case", list(enumerate(GOLDENS["upfirdn2d/cases"].tolist())))
def test_measured_values(index, case, flip_filter, memory_format):
    f, arguments = parse_case(case)
    x = golden("upfirdn2d/x").contiguous(memory_format=memory_format)
    y = upfirdn2d(x, f, flip_filter=flip_filter, **arguments)
    expected = golden(f"upfirdn2d/case{index}_flip{int(flip_filter)}")
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def test_measured_wrappers():
    x, f = golden("upfirdn2d/x"), golden("upfirdn2d/filter/f1331")
    torch.testing.assert_close(filter2d(x, f), golden("upfirdn2d/filter2d"), rtol=0, atol=1e-6)
    torch.testing.assert_close(upsample2d(x, f), golden("upfirdn2d/upsample2d"), rtol=0, atol=1e-6)
    even = x[:, :, :8, :10]
    torch.testing.assert_close(downsample2d(even, f), golden("upfirdn2d/downsample2d"), rtol=0, atol=1e-6)


def test_measured_filters():
    matrix = torch.arange(1, 13).reshape(3, 4)
    for f, name in (
        (setup_filter([1, 3, 3, 1]), "f1331"),
        (setup_filter([1, 3, 3, 1], separable=True), "f1331_sep"),
        (setup_filter([1, 2, 1]), "f121"),
        (setup_filter(matrix), "f2d"),
        (setup_filter(range(1, 9)), "f8"),
        (setup_filter(matrix, gain=2, flip_filter=True), "f1331_gain2_flip"),
    ):
        torch.testing.assert_close(f, golden(f"upfirdn2d/filter/{name}"), rtol=1e-6, atol=0)
    assert setup_filter(None).tolist() == [[1]]
    assert setup_filter([2, 2], normalize=False).tolist() == [[4, 4], [4, 4]]


def literal(x, f, up, down, padding, flip_filter, gain):
    """The definition step by step, with loops. up, down: (x, y); f: matrix."""
    n, c, h, w = x.shape
    f = f if flip_filter else np.flip(f, (0, 1))
    upsampled = np.zeros([n, c, h * up[1], w * up[0]])
    upsampled[:, :, :: up[1], :: up[0]] = x
    x0, x1, y0, y1 = padding
    margin = np.pad(upsampled, [(0, 0), (0, 0), (max(y0, 0), max(y1, 0)), (max(x0, 0), max(x1, 0))])
    padded = margin[:, :, max(-y0, 0) : margin.shape[2] - max(-y1, 0), max(-x0, 0) : margin.shape[3] - max(-x1, 0)]
    height, width = padded.shape[2] - f.shape[0] + 1, padded.shape[3] - f.shape[1] + 1
    filtered = np.zeros([n, c, height, width])
    for i in range(height):
        for j in range(width):
            filtered[:, :, i, j] = (padded[:, :, i : i + f.shape[0], j : j + f.shape[1]] * f).sum((2, 3))
    return filtered[:, :, :: down[1], :: down[0]] * gain


@pytest.mark.parametrize("seed", range(60))
def test_against_the_literal_definition(seed):
    random = np.random.default_rng(seed)
    x = random.standard_normal([2, 3, random.integers(8, 12), random.integers(8, 12)])
    up, down = random.integers(1, 4, [2, 2]).tolist()
    padding = random.integers(-2, 5, 4).tolist()
    separable = bool(random.integers(2))
    f = random.standard_normal(random.integers(1, 6, 1 if separable else 2))
    flip_filter = bool(random.integers(2))
    matrix = np.outer(f, f) if separable else f
    expected = literal(x, matrix, up, down, padding, flip_filter, 1.5)
    y = upfirdn2d(
        torch.from_numpy(x),
        torch.from_numpy(f),
        up=up,
        down=down,
        padding=padding,
        flip_filter=flip_filter,
        gain=1.5,
    )
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-10, atol=1e-10)


def test_vector_and_matrix_filters_agree():
    x = golden("upfirdn2d/x")
    vector = setup_filter(range(1, 11))
    assert vector.ndim == 1
    for wrapper in (filter2d, upsample2d, downsample2d):
        torch.testing.assert_close(wrapper(x, vector), wrapper(x, torch.outer(vector, vector)), rtol=1e-5, atol=1e-6)


def test_sizes_and_brightness_of_the_wrappers():
    x = torch.ones(1, 1, 16, 12)
    f = setup_filter([1, 3, 3, 1])
    for y, size in (
        (filter2d(x, f), (16, 12)),
        (upsample2d(x, f), (32, 24)),
        (upsample2d(x, f, up=[1, 2]), (32, 12)),
        (downsample2d(x, f), (8, 6)),
        (downsample2d(x, f, down=[2, 1]), (16, 6)),
    ):
        assert y.shape[2:] == size
        torch.testing.assert_close(y[:, :, 3:-3, 3:-3], torch.ones_like(y[:, :, 3:-3, 3:-3]))


def test_typical_uses_keep_channels_last():
    x = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    f = setup_filter([1, 3, 3, 1])
    for wrapper in (filter2d, upsample2d, downsample2d):
        assert wrapper(x, f).is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(wrapper(x, f), wrapper(x.contiguous(), f))


def test_measured_derivatives_behind_an_activation():
    x = golden("grad/x").requires_grad_()
    y = bias_act(upsample2d(x, setup_filter([1, 3, 3, 1])), act="lrelu", clamp=2)
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    (ddx,) = torch.autograd.grad(dx.square().sum(), x)
    for value, key in ((dx, "grad/dx_of_sum_y2"), (ddx, "grad/dx_of_sum_dx2")):
        expected = golden(key)
        torch.testing.assert_close(value.detach(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": [2, 1, 2, 1]},
        {"up": 2, "padding": [2, 1, 2, 1]},
        {"down": 2, "padding": 1},
        {"up": 2, "down": [3, 2], "padding": [-1, 2, 3, 0]},
    ],
)
@pytest.mark.parametrize("separable", [False, True])
def test_derivatives(arguments, separable):
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    f = setup_filter([1.0, 2, 3, 5], separable=separable)
    assert gradcheck(lambda x: upfirdn2d(x, f, **arguments), [x])
    assert gradgradcheck(lambda x: upfirdn2d(x, f, **arguments).square(), [x])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"x": torch.zeros(3, 4, 4)}, r"must be \[N, C, H, W\]"),
        ({"x": torch.zeros(1, 1, 4, 4, dtype=torch.uint8)}, "images must be floats, not uint8"),
        ({"x": np.zeros([1, 1, 4, 4])}, r"images must be a tensor \[N, C, H, W\], not ndarray"),
        ({"up": 0}, "up must be a whole number of at least 1, got 0"),
        ({"up": 1.5}, "up must be a whole number or a pair"),
        ({"down": [1, 0]}, "down must be a whole number of at least 1, got 0"),
        ({"padding": [1, 2, 3]}, "padding must be"),
        ({"padding": "same"}, "padding must be a number, a pair or four numbers, not 'same'"),
        ({"gain": "2"}, "gain must be a finite number, got '2'"),
        ({"f": [1, 3, 3, 1]}, r"made by setup_filter, not \[1, 3, 3, 1\]"),
        ({"f": torch.ones(2, 2, 2)}, "must be a vector or a matrix"),
        ({"f": torch.ones(9)}, "does not fit into an image"),
        ({"padding": -2, "f": torch.ones(1)}, "does not fit into an image"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(ValueError, match=message):
        upfirdn2d(**({"x": torch.zeros(1, 1, 4, 4), "f": torch.ones(3)} | arguments))


@pytest.mark.parametrize(
    "f, arguments", [([], {}), ("box", {}), (torch.ones(1, 1, 1), {}), (torch.ones(2, 2), {"separable": True})]
)
def test_mistaken_filters(f, arguments):
    with pytest.raises(ValueError, match="setup_filter"):
        setup_filter(f, **arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_agrees_with_cpu():
    x = golden("upfirdn2d/x")
    for case in GOLDENS["upfirdn2d/cases"].tolist():
        f, arguments = parse_case(case)
        y = upfirdn2d(x.cuda(), None if f is None else f.cuda(), **arguments)
        torch.testing.assert_close(y.cpu(), upfirdn2d(x, f, **arguments), rtol=1e-3, atol=1e-3)  # TF32
