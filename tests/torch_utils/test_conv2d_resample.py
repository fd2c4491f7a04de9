"""Convolution with resampling: measured values, the literal definition, derivatives."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.conv2d_resample import conv2d_resample
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d

GOLDENS = np.load(Path(__file__).parents[1] / "data" / "operators.npz")


def golden(key):
    return torch.from_numpy(GOLDENS[key])


def assert_close(y, expected):
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("flip_weight", [False, True])
@pytest.mark.parametrize("up, down", [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_measured_values(kernel, up, down, flip_weight):
    y = conv2d_resample(
        golden("conv2d_resample/x"),
        golden(f"conv2d_resample/w{kernel}"),
        f=setup_filter([1, 3, 3, 1]),
        up=up,
        down=down,
        padding=kernel // 2,
        flip_weight=flip_weight,
    )
    assert_close(y, golden(f"conv2d_resample/w{kernel}_up{up}_down{down}_flipweight{int(flip_weight)}"))


@pytest.mark.parametrize(
    "name, kernel, resampling, activation",
    [
        ("k1_linear", 1, {}, {}),
        ("k3_lrelu_down2_clamp", 3, {"down": 2}, {"act": "lrelu", "clamp": 1}),
        # The upsampling layers of StyleGAN2 are convolutions, the others correlations.
        ("k3_up2", 3, {"up": 2, "flip_weight": False}, {"act": "lrelu"}),
    ],
)
def test_measured_layers(name, kernel, resampling, activation):
    x = golden("conv2dlayer/x")
    w = golden(f"conv2dlayer/{name}/param/weight") / math.sqrt(x.shape[1] * kernel**2)
    x = conv2d_resample(x, w, f=setup_filter([1, 3, 3, 1]), padding=kernel // 2, **resampling)
    y = bias_act(x, golden(f"conv2dlayer/{name}/param/bias"), **activation)
    assert_close(y, golden(f"conv2dlayer/{name}/y"))


def literal(x, w, f, up, down, padding, groups, flip_weight):
    """Upsample, pad and filter, then convolve, then drop pixels."""
    if f is None or up == down == 1:
        f = torch.ones(1, 1, dtype=x.dtype)
    taps = f.shape[0]
    before = after = 0
    if up > 1:  # the filter is centred on the pixels of the input ...
        before, after = before + (taps + up - 1) // 2, after + (taps - up) // 2
    if down > 1:  # ... and on those of the output
        before, after = before + (taps - down + 1) // 2, after + (taps - down) // 2
    x0, x1, y0, y1 = padding
    x = upfirdn2d(x, f, up=up, padding=[x0 + before, x1 + after, y0 + before, y1 + after], gain=up**2)
    x = F.conv2d(x, w if flip_weight else w.flip([2, 3]), groups=groups)
    return x[:, :, ::down, ::down]


@pytest.mark.parametrize("seed", range(40))
def test_against_the_literal_definition(seed):
    random = np.random.default_rng(seed)
    groups = int(random.choice([1, 2]))
    kernel = random.choice([1, 1, 2, 3, 5], 2) if seed % 2 else [1, 1]
    x = torch.from_numpy(random.standard_normal([2, 4, 9, 8]))
    w = torch.from_numpy(random.standard_normal([6, 4 // groups, *kernel]))
    f = torch.from_numpy(random.standard_normal([4, 4])) if random.integers(3) else None
    up, down = [(1, 1), (2, 1), (1, 2), (2, 2), (3, 1), (1, 3)][random.integers(6)]
    padding = random.integers(0, 4, 4).tolist()
    flip_weight = bool(random.integers(2))
    y = conv2d_resample(x, w, f=f, up=up, down=down, padding=padding, groups=groups, flip_weight=flip_weight)
    expected = literal(x, w, f, up, down, padding, groups, flip_weight)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("up, down", [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_derivatives(kernel, up, down):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, generator=generator).requires_grad_()
    w = torch.randn(2, 2, kernel, kernel, dtype=torch.float64, generator=generator).requires_grad_()

    def function(x, w):
        return conv2d_resample(x, w, f=setup_filter([1, 3, 3, 1]), up=up, down=down, padding=kernel // 2)

    assert gradcheck(function, [x, w])
    assert gradgradcheck(function, [x, w])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"w": torch.zeros(2, 3, 1, 1)}, "do not fit"),
        ({"x": torch.zeros(4, 5, 5)}, "do not fit"),
        ({"groups": 3}, "do not fit"),
        ({"up": 0}, "at least 1"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(ValueError, match=message):
        conv2d_resample(**({"x": torch.zeros(1, 4, 5, 5), "w": torch.zeros(2, 4, 1, 1)} | arguments))
