"""The upsampler: measured layers, the magnitude EMA, the pointwise route, sizes."""

import pytest
import torch

from tests.goldens.checks import assert_near
from tests.goldens.networks import golden_arrays
from torch_utils.ops.fused_mlp import has_fused_mlp
from torch_utils.ops.point_linear import point_linear
from training.networks.activation_checkpoint import Replayed
from training.networks.cpu_inference import FusedBlock, FusedNetworks, _video
from training.networks.upsampler import (
    UPSAMPLINGS,
    MagnitudeEMA,
    ShuffleUpsampling,
    Upsampler,
    UpsamplerLayer,
    _sum_of_squares,
    interleave,
)
from training.published.state_dict import map_generator_name

GOLDENS = golden_arrays("units.npz")
LAYERS = ["nn_cat_up2", "nn_cat_up1", "pixelshuffle_up2", "pixelshuffle_up1"]


def measured_layer(name):
    mode, up = name.rsplit("_up", 1)
    layer = UpsamplerLayer(
        in_features=8, out_features=12, w_dim=16, clamp=256, beta=0.999, upsampling=mode if up == "2" else None
    )
    prefix, inside, ours = f"synthlayer/{name}/param/", "synthesis.b64.conv0.", "upsampler.blocks.64.conv0."
    state = {
        map_generator_name(inside + key.removeprefix(prefix)).removeprefix(ours): value
        for key, value in GOLDENS.items()
        if key.startswith(prefix)
    }
    layer.load_state_dict({key: value.flatten(1) if value.ndim == 4 else value for key, value in state.items()})
    return layer.eval()


@torch.no_grad()
def apply(layer, x, *, upsample=True):
    """Images [N, 8, H, W] of N videos to images."""
    weights = layer.modulate(GOLDENS["synthlayer/w"])
    return layer(x.movedim(1, -1)[:, None], weights, Replayed(), upsample=upsample)[:, 0].movedim(-1, 1)


@pytest.mark.parametrize("name", LAYERS)
class TestMeasured:
    def test_evaluation(self, name):
        layer, x = measured_layer(name), GOLDENS[f"synthlayer/{name}/x"]
        before = layer.magnitude.mean_square.clone()
        assert_near(apply(layer, x), GOLDENS[f"synthlayer/{name}/y"])
        assert torch.equal(layer.magnitude.mean_square, before)

    def test_without_upsampling(self, name):
        layer, x = measured_layer(name), GOLDENS[f"synthlayer/{name}/x"]
        assert_near(apply(layer, x, upsample=False), GOLDENS[f"synthlayer/{name}/y_skip_up"])

    def test_training(self, name):
        """The mean is updated first, with all videos, and used then."""
        layer, x = measured_layer(name).train(), GOLDENS[f"synthlayer/{name}/x"]
        assert_near(apply(layer, x), GOLDENS[f"synthlayer/{name}/y_train"])
        assert_near(layer.magnitude.mean_square, GOLDENS[f"synthlayer/{name}/w_avg_after_train"], relative=1e-6)


def test_magnitude():
    magnitude = MagnitudeEMA(beta=0.75)
    assert float(magnitude.mean_square) == 1
    x = torch.cat([torch.full([1, 2, 3], 2.0), torch.full([3, 2, 3], 4.0)])  # mean of squares 13
    assert magnitude.gain().item() == 1
    assert magnitude.update(x).item() == pytest.approx((0.75 + 0.25 * 13) ** -0.5)
    assert float(magnitude.mean_square) == pytest.approx(4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sums_of_squares_on_a_gpu_are_those_on_a_cpu(dtype):
    """There, a norm that takes half precision without a copy, and tensors of any size."""
    x = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    norm = torch.linalg.vector_norm(x, dtype=torch.float32).square()
    assert float(_sum_of_squares(x, torch.float32)) == pytest.approx(float(norm), rel=1e-6)
    large = torch.empty(8, 2, 2**14, 2**14, dtype=dtype, device="meta")  # more than 2³¹ elements
    total = _sum_of_squares(large, torch.float32)
    assert total.shape == () and total.dtype == torch.float32
    assert MagnitudeEMA(beta=0.9).to("meta").update(large).shape == ()


def test_the_gain_survives_a_later_update():
    """A second pass in the same step updates the buffer; the first pass's gradient uses the first value."""
    layer = measured_layer("nn_cat_up1").train()
    x = torch.randn(1, 1, 4, 4, 8, generator=torch.Generator().manual_seed(0))

    def gradient(again):
        state = {k: v.clone() for k, v in layer.state_dict().items()}
        weights = layer.modulate(GOLDENS["synthlayer/w"][:1])
        y = layer(x, weights, Replayed())
        if again:
            layer(100 * x, weights, Replayed())
        (result,) = torch.autograd.grad(y.square().sum(), layer.linear.weight)
        layer.load_state_dict(state)
        return result

    assert torch.equal(gradient(False), gradient(True))


def small_upsampler(**arguments):
    torch.manual_seed(0)
    defaults = {"in_resolution": 4, "resolution": 16, "in_features": 8, "w_dim": 6, "channel_base": 0.01}
    return Upsampler(**(defaults | arguments))


def test_channels_and_styles():
    upsampler = Upsampler(in_resolution=32, resolution=256, in_features=256, w_dim=8)
    widths = {r: tuple(block.conv1.linear.weight.shape) for r, block in upsampler.blocks.items()}
    assert widths == {"64": (512, 512), "128": (256, 256), "256": (128, 128)}
    assert upsampler.num_ws == 7
    narrow = Upsampler(in_resolution=32, resolution=128, in_features=16, w_dim=8, channel_base=0.5, channel_max=200)
    assert [block.conv1.linear.weight.shape[0] for block in narrow.blocks.values()] == [200, 128]
    assert narrow.num_ws == 5


@torch.no_grad()
def test_a_block_s_colours_share_the_next_block_s_style():
    upsampler = small_upsampler().eval()
    generator = torch.Generator().manual_seed(0)
    x, image = torch.randn(1, 1, 4, 4, 8, generator=generator), torch.randn(1, 1, 4, 4, 3, generator=generator)
    ws = torch.randn(1, 5, 6, generator=generator)
    whole = upsampler(x, image, upsampler.modulate(ws))
    for index in range(5):
        other = ws.clone()
        other[:, index] += 1
        changed = upsampler(x, image, upsampler.modulate(other))
        assert not torch.allclose(changed, whole), f"style {index} is of use"
    weights, (first, second) = upsampler.modulate(ws), upsampler.blocks.values()
    for (block, layer), module, index in (((0, 2), first.rgb, 2), ((1, 0), second.conv0, 2), ((1, 2), second.rgb, 4)):
        assert torch.equal(weights[block][layer][0], module.modulate(ws[:, index])[0])


@pytest.mark.parametrize("mode", ["nn_cat", "pixelshuffle"])
@pytest.mark.parametrize("channel_base", [0.0625, 0.03])  # 64 and 32 channels; 30 and 15
@pytest.mark.parametrize("route", ["native", "strips of eight rows", "one strip"])
def test_fused_blocks_equal_the_layers(mode, channel_base, route, monkeypatch):
    """Frames rendered without gradients go through row by row or in strips of rows; with gradients as a whole."""
    if route != "native":
        monkeypatch.setattr("training.networks.cpu_inference.has_fused_mlp", lambda device, precision: False)
        monkeypatch.setattr("training.networks.cpu_inference.STRIP_SIZE", 1 if "eight" in route else 1 << 22)
    elif not has_fused_mlp(torch.device("cpu")):
        pytest.skip("no native operators (no C++ compiler)")
    sizes = {"in_resolution": 16, "resolution": 64, "channel_base": channel_base}
    upsampler = small_upsampler(mode=mode, conv_clamp=1.5, **sizes).eval()
    generator = torch.Generator().manual_seed(0)
    x, image = torch.randn(2, 2, 16, 16, 8, generator=generator), torch.randn(2, 2, 16, 16, 3, generator=generator)
    for parameter in upsampler.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator) / 4
    ws = torch.randn(2, 5, 6, generator=generator)
    whole = upsampler(x, image, upsampler.modulate(ws))
    assert whole.requires_grad and whole.shape == (2, 2, 64, 64, 3)
    with torch.no_grad():
        weights = upsampler.modulate(ws)
        blocks = [FusedBlock(block, _video(own, 0)) for block, own in upsampler.blocks_up_to(None, weights)]
        assert all(block.native == (route == "native") for block in blocks)
        y = FusedNetworks(upsampler, weights).upsample(x, image)
    assert_near(y, whole, relative=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["nn_cat", "pixelshuffle"])
def test_colours_are_clamped(mode):
    """Two contributions of at most the clamp, on a black image."""
    x, image, ws = torch.full([1, 1, 4, 4, 8], 1e4), torch.zeros(1, 1, 4, 4, 3), torch.ones(1, 5, 6)
    for clamp in (None, 0.25):
        upsampler = small_upsampler(mode=mode, conv_clamp=clamp).eval()
        y = upsampler(x, image, upsampler.modulate(ws))
        colours = upsampler.pointwise(x.flatten(1, 3), torch.zeros(1, 16, 3), upsampler.modulate(ws))
        for values in (y, colours):
            assert float(values.abs().max()) > 100 if clamp is None else 0 < float(values.abs().max()) <= 0.5 + 1e-6


@torch.no_grad()
def test_pointwise_layers_do_not_mix_points():
    upsampler = small_upsampler().eval()
    generator = torch.Generator().manual_seed(0)
    points, rgb = torch.randn(2, 30, 8, generator=generator), torch.randn(2, 30, 3, generator=generator)
    weights = upsampler.modulate(torch.randn(2, 5, 6, generator=generator))
    whole = upsampler.pointwise(points, rgb, weights)
    order = torch.randperm(30, generator=generator)
    shuffled = upsampler.pointwise(points[:, order], rgb[:, order], weights)
    assert_near(shuffled, whole[:, order])
    assert whole.shape == (2, 30, 3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"mode": "bicubic"}, "upsampler.mode.*bicubic"),
        ({"resolution": 4}, "power of two above.*4"),
        ({"resolution": 24}, "power of two.*24"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(ValueError, match=message):
        small_upsampler(**arguments)


class SharpUpsampling(ShuffleUpsampling):
    """Without the blur, as a mode of one's own may be."""

    def forward(self, x, scaled, bias, gain):
        reduce, reduce_bias, expand, expand_bias = scaled
        hidden = point_linear(x.flatten(1, 2), reduce, reduce_bias, act="lrelu")
        corners = point_linear(hidden, expand, expand_bias).view(*x.shape[:3], 2, 2, -1)
        return interleave(corners + gain * x[:, :, :, None, None, :]) + bias


def test_a_mode_that_the_native_operator_does_not_know_is_rendered_as_it_is_trained(monkeypatch):
    """By its modules (test_cpu_inference.py), not by the formula of another mode with weights of the same shapes."""
    monkeypatch.setitem(UPSAMPLINGS, "sharp", SharpUpsampling)
    sharp, shuffled = (small_upsampler(mode=mode).eval() for mode in ("sharp", "pixelshuffle"))
    with torch.no_grad():
        assert not FusedNetworks(sharp, sharp.modulate(torch.ones(1, sharp.num_ws, 6))).replaces(sharp)
        assert FusedNetworks(shuffled, shuffled.modulate(torch.ones(1, shuffled.num_ws, 6))).replaces(shuffled)
