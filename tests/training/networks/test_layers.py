"""Dense and modulated layers: measured values, the formulas, initial values, derivatives."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from tests.goldens.checks import assert_near
from tests.goldens.networks import golden_arrays
from torch_utils.ops.point_linear import lrelu_, point_linear
from training.networks.layers import (
    FullyConnected,
    ModulatedLinear,
    PointLinear,
    normalize_second_moment,
    positional_encoding,
)

GOLDENS = golden_arrays("units.npz")


def load(layer, group):
    """Fill a layer with the parameters of a measured one; convolution weights [O, I, 1, 1] become matrices."""
    prefix = f"{group}/param/"
    state = {key.removeprefix(prefix): value for key, value in GOLDENS.items() if key.startswith(prefix)}
    state.setdefault("bias", torch.zeros(len(state["weight"])))
    layer.load_state_dict({k: v.flatten(1) if v.ndim == 4 else v for k, v in state.items()})
    return layer


def rows(images):
    """[N, C, H, W] to [N, H · W, C]."""
    return images.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("octaves, key", [(10, "L10"), (4, "L4")])
def test_measured_encoding(octaves, key):
    assert_near(positional_encoding(GOLDENS["posenc/p"], octaves), GOLDENS[f"posenc/{key}"])


def test_measured_encoding_of_four_coordinates():
    assert_near(positional_encoding(GOLDENS["posenc/p4"], 10), GOLDENS["posenc/p4_L10"])


def test_encoding_of_simple_points():
    encoded = positional_encoding(torch.tensor([0.0, 0.5], dtype=torch.float64), 2)
    # sin πp, cos πp, sin 2πp, cos 2πp, each of both coordinates
    assert_near(encoded, torch.tensor([0.0, 1, 1, 0, 0, 0, 1, -1]), absolute=1e-12)


@pytest.mark.parametrize(
    "key, arguments",
    [
        ("linear", {}),
        ("lrelu", {"act": "lrelu"}),
        ("lrelu_lr0.01", {"act": "lrelu", "lr_multiplier": 0.01}),
        ("nobias", {}),
    ],
)
def test_measured_dense_layers(key, arguments):
    layer = load(FullyConnected(in_features=6, out_features=5, **arguments), f"fc/{key}")
    assert_near(layer(GOLDENS["fc/x"]), GOLDENS[f"fc/{key}/y"])


def test_measured_pointwise_layer():
    layer = load(PointLinear(in_features=4, out_features=6), "conv2dlayer/k1_linear")
    assert_near(layer(rows(GOLDENS["conv2dlayer/x"])), rows(GOLDENS["conv2dlayer/k1_linear/y"]))


def test_measured_modulated_layer():
    """The layer of the fields: demodulated, leaky ReLU. Two videos of two frames."""
    layer = load(ModulatedLinear(in_features=8, out_features=12, w_dim=16), "style2")
    weight, bias = layer.modulate(GOLDENS["synthlayer/w"])
    x = rows(GOLDENS["torgb/x"]).unflatten(0, (2, 2)).flatten(1, 2)
    y = lrelu_(point_linear(x, weight, bias))
    assert_near(y, rows(GOLDENS["style2/y"]).unflatten(0, (2, 2)).flatten(1, 2))


def test_measured_colour_layer():
    """Not demodulated, no activation."""
    layer = load(ModulatedLinear(in_features=8, out_features=3, w_dim=16, demodulate=False), "torgb")
    weight, bias = layer.modulate(GOLDENS["synthlayer/w"])
    x = rows(GOLDENS["torgb/x"]).unflatten(0, (2, 2)).flatten(1, 2)
    assert_near(point_linear(x, weight, bias), rows(GOLDENS["torgb/y"]).unflatten(0, (2, 2)).flatten(1, 2))


@pytest.mark.parametrize("group, rectified", [("torgb_raw", False), ("style2_raw", True)])
def test_measured_plain_layers(group, rectified):
    """Those of the background field."""
    y = point_linear(rows(GOLDENS["torgb/x"]), GOLDENS[f"{group}/param/weight"], GOLDENS[f"{group}/param/bias"])
    assert_near(y.relu() if rectified else y, rows(GOLDENS[f"{group}/y"]))


def test_second_moment():
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 1, 10, 100, 0])[:, None]
    y = normalize_second_moment(x)
    assert_near(y.square().mean(dim=1), torch.tensor([1.0, 1, 1, 1, 0]), absolute=1e-4)
    assert_near(y[2] * x[2].square().mean().sqrt(), x[2])


def test_modulation_formula():
    layer = ModulatedLinear(in_features=3, out_features=2, w_dim=4).double()
    w = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([0.5, -1]))
    modulated_weight, bias = layer.modulate(w)
    for video in range(2):
        style = layer.affine.weight @ w[video] / math.sqrt(4) + 1
        for out in range(2):
            scaled = layer.weight[out] * style
            expected = scaled / (scaled.square().sum() + 1e-8).sqrt() * math.sqrt(2)
            assert_near(modulated_weight[video, out], expected, relative=1e-12)
    assert_near(bias, layer.bias * math.sqrt(2))


def test_initial_values():
    """N(0, 1) / lr weights, biases as given (used as bias · lr), styles that start at one, zero biases."""
    torch.manual_seed(0)
    dense = FullyConnected(in_features=256, out_features=256, lr_multiplier=0.01, bias_init=1)
    assert dense.weight.std().item() == pytest.approx(100, rel=0.02)
    assert dense.bias.tolist() == [1] * 256
    assert_near(dense(torch.zeros(1, 256)), torch.full([1, 256], 0.01))
    modulated = ModulatedLinear(in_features=256, out_features=256, w_dim=8)
    assert modulated.weight.std().item() == pytest.approx(1, rel=0.02)
    assert modulated.affine.bias.tolist() == [1] * 256
    assert not modulated.bias.any() and not PointLinear(in_features=3, out_features=4).bias.any()
    # A dense layer keeps the variance of its input.
    x = torch.randn(1000, 256, generator=torch.Generator().manual_seed(0))
    y = FullyConnected(in_features=256, out_features=64)(x)
    assert y.std().item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("points, width", [(1, 4), (63, 8), (200, 16), (300, 7)])
@pytest.mark.parametrize("batch", [1, 3])
def test_point_linear(points, width, batch):
    """All routes of the product: few and many points, one weight or one per video, with and without bias."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, points, 12, generator=generator)
    shared = torch.randn(width, 12, generator=generator)
    own = torch.randn(batch, width, 12, generator=generator)
    bias = torch.randn(width, generator=generator)
    for weight, expected in ((shared, x @ shared.T), (own, torch.einsum("bpi,boi->bpo", x, own))):
        assert_near(point_linear(x, weight), expected)
        assert_near(point_linear(x, weight, bias), expected + bias)
        assert_near(point_linear(x, weight, bias, act="relu"), (expected + bias).relu())
        bent = torch.nn.functional.leaky_relu(expected + bias, 0.2)
        assert_near(point_linear(x, weight, bias, act="lrelu"), bent)
        assert_near(point_linear(x, weight, bias, act="lrelu", clamp=0.7), bent.clamp(-0.7, 0.7))
    # Rows that are not contiguous, as a transposed image's.
    strided = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert_near(point_linear(strided, shared, bias), x @ shared.T + bias)


@pytest.mark.parametrize("act, clamp", [("linear", None), ("relu", None), ("lrelu", None), ("lrelu", 0.8)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_derivatives_of_many_points(with_bias, act, clamp):
    """First and second derivatives of the route for many points, which is for single precision alone."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(1, 100, 9, generator=generator), torch.randn(10, 9, generator=generator)]
    inputs += [torch.randn(10, generator=generator)] if with_bias else []
    direction = torch.randn(1, 100, 10, generator=generator)

    def derivatives(dtype):
        leaves = [x.to(dtype).requires_grad_() for x in inputs]
        if dtype == torch.float32:
            y = point_linear(*leaves, act=act, clamp=clamp)
        else:
            y = torch.nn.functional.linear(*leaves)
            y = y if act == "linear" else torch.nn.functional.leaky_relu(y, {"relu": 0.0, "lrelu": 0.2}[act])
            y = y if clamp is None else y.clamp(-clamp, clamp)
        first = torch.autograd.grad((y * direction.to(dtype)).pow(2).sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        return [y, *first, *second]

    for actual, expected in zip(derivatives(torch.float32), derivatives(torch.float64)):
        assert_near(actual, expected, relative=1e-5)


def test_leaky_relu():
    x = torch.tensor([-5.0, -1, 0, 1, 5])
    assert_near(lrelu_(x.clone()), torch.tensor([-1, -0.2, 0, 1, 5]))
    assert_near(lrelu_(x.clone(), 0.5), torch.tensor([-0.5, -0.2, 0, 0.5, 0.5]))
    tracked = x.clone().requires_grad_()
    lrelu_(tracked * 1, 2.0).sum().backward()
    assert_near(tracked.grad, torch.tensor([0.2, 0.2, 0.2, 1, 0]))


@pytest.mark.parametrize("demodulate", [True, False])
def test_derivatives_of_modulation(demodulate):
    torch.manual_seed(0)
    layer = ModulatedLinear(in_features=3, out_features=2, w_dim=4, demodulate=demodulate).double()
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(2, 4, generator=generator, dtype=torch.float64).requires_grad_()
    x = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64).requires_grad_()

    def function(w, x):
        y = point_linear(x, *layer.modulate(w))
        return lrelu_(y) if demodulate else y

    assert gradcheck(function, [w, x])
    assert gradgradcheck(function, [w, x])


def test_derivatives_of_dense_layers():
    generator = torch.Generator().manual_seed(0)
    for arguments in ({}, {"act": "lrelu", "lr_multiplier": 0.5}):
        layer = FullyConnected(in_features=3, out_features=4, **arguments).double()
        x = torch.randn(5, 3, generator=generator, dtype=torch.float64).requires_grad_()
        assert gradcheck(layer, [x])
        assert gradgradcheck(layer, [x])
