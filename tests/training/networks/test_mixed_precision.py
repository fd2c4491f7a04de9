"""Half precision: only in its layers, bfloat16 only in the main phases and near float32, float16 only with a clamp."""

import pytest
import torch

from dnnlib import UserError
from tests.goldens.networks import build_generator
from tests.goldens.small_losses import PHASES, SPEC, gradients, make_loss, real_batch
from torch_utils.rng import RandomStream
from training.inference.frame_renderer import FrameRenderer
from training.launch.build import build_networks
from training.launch.config import compose_options
from training.launch.option_rules import check_values
from training.networks.discriminator import ConvLayer, Discriminator
from training.networks.mixed_precision import HalfPrecision, half_precision
from training.networks.upsampler import Upsampler, UpsamplerBlock


def run(phase, *, bfloat16):
    """Gradients and the types of the results of all modules."""
    loss, generator, discriminators, reports = make_loss(bfloat16=bfloat16)
    for block in generator.modules():
        if isinstance(block, UpsamplerBlock):
            block.fp16 = True
    types = set()
    for network in (generator, discriminators):
        for module in network.modules():
            module.register_forward_hook(lambda _, __, result: types.update(x.dtype for x in tensors(result)))
    loss.accumulate(phase, batch=real_batch(), gain=1.0, stream=RandomStream(3))
    return gradients(generator) | gradients(discriminators), types, reports


def tensors(result):
    if isinstance(result, torch.Tensor):
        return [result]
    return [x for part in result for x in tensors(part)] if isinstance(result, (tuple, list)) else []


@pytest.mark.parametrize("phase", PHASES)
def test_which_phases_take_it_and_how_far_gradients_move(phase):
    full, types, _ = run(phase, bfloat16=False)
    assert types == {torch.float32}
    half, types, reports = run(phase, bfloat16=True)
    assert full.keys() == half.keys() and all(g.dtype == torch.float32 for g in half.values())
    if phase in ("Greg", "Dreg"):
        assert types == {torch.float32}
        assert all(torch.equal(half[name], gradient) for name, gradient in full.items())
        return
    assert types == {torch.float32, torch.bfloat16}
    one, other = (torch.cat([g[name].flatten() for name in full]) for g in (half, full))
    assert 0 < float((one - other).norm()) < 0.05 * float(other.norm())
    assert float(torch.nn.functional.cosine_similarity(one, other, dim=0)) > 0.999
    assert not reports["Progress/nonfinite_losses"]


@pytest.mark.parametrize("phase", PHASES)
def test_types_of_the_phases_on_a_gpu(phase):
    """float16 in all phases; with the option bfloat16 in the main ones and float32 in the others."""
    cuda = torch.device("cuda")
    for option, expected in ((False, torch.float16), (True, torch.bfloat16 if phase.endswith("main") else None)):
        loss, generator, discriminators, _ = make_loss(bfloat16=option)
        seen = set()
        block = next(m for m in generator.modules() if isinstance(m, UpsamplerBlock))
        # Greg runs no discriminator, Dreg no generator.
        for module in (block, discriminators.video, discriminators.image):
            half = module.half_precision
            half.clamped = True
            module.register_forward_hook(lambda *_, half=half, seen=seen: seen.add(half.type(cuda, torch.float32)))
        loss.accumulate(phase, batch=real_batch(), gain=1.0, stream=RandomStream(3))
        assert seen == {expected}


@pytest.mark.parametrize("clamped", [True, False])
def test_types_on_devices(clamped):
    """The device's own, the chosen one, and the device's own again after a mistake."""
    half, module = HalfPrecision(clamped=clamped), torch.nn.Identity()
    cpu, cuda, meta = (torch.device(name) for name in ("cpu", "cuda", "meta"))
    module.half_precision = half
    own, full = torch.float16 if clamped else None, torch.float32
    assert half.type(cpu, full) is None and half.type(cuda, full) == own
    with pytest.raises(ZeroDivisionError), half_precision(torch.bfloat16, module):
        assert half.type(cpu, full) == half.type(cuda, full) == torch.bfloat16 and half.type(meta, full) is None
        raise ZeroDivisionError
    with half_precision(torch.float32, module):
        assert half.type(cpu, full) is half.type(cuda, full) is None
        with half_precision(torch.bfloat16, module):
            assert half.type(cpu, full) == torch.bfloat16
        assert half.type(cuda, full) is None, "as outside"
    assert half.type(cpu, full) is None and half.type(cuda, full) == own and half.type(meta, full) is None
    for full in (torch.float64, torch.bfloat16, torch.float16):  # a type that the weights were given on purpose
        assert half.type(cuda, full) is None


@pytest.mark.parametrize("words, clamped", [([], False), (["model=stylenerf_faceforensics"], True)])
def test_float16_is_for_models_with_a_clamp(words, clamped):
    """Activations of the small model, which has none, may exceed the range of float16."""
    networks = build_networks(compose_options(["outdir=.", "data=.", *words]), c_dim=0, device="meta")
    settings = [m.half_precision for network in networks for m in network.modules() if hasattr(m, "half_precision")]
    assert len(settings) >= 3 and {setting.clamped for setting in settings} == {clamped}


def test_what_float16_is_too_small_for():
    """A layer's result of 70 000: infinite without a clamp."""
    layer = ConvLayer(in_channels=7, out_channels=4, kernel_size=1, clamp=None)
    layer.bias.data.fill_(7e4)
    x = torch.ones(1, 7, 8, 8)
    assert layer(x).isfinite().all() and layer(x.bfloat16()).isfinite().all()
    assert layer(x.half()).isinf().all()


@pytest.mark.parametrize(
    "words, expected",
    [
        (["precision=bf16", "fp32=true"], "precision=bf16 asks for half precision and fp32=true forbids it"),
        (["precision=half"], "precision must be one of float32, bf16, got 'half'"),
    ],
)
def test_options_that_contradict(words, expected):
    with pytest.raises(UserError, match=expected):
        check_values(compose_options(["outdir=.", "data=.", *words]))
    check_values(compose_options(["outdir=.", "data=.", words[0].replace("half", "float32")]))


@torch.no_grad()
def test_frames_on_a_gpu_take_bfloat16_in_the_layers_of_half_precision():
    """As there: without fused MLPs, in the upsampler's blocks from a resolution up, and only while a frame is made."""
    generator = build_generator(SPEC).eval().requires_grad_(False)
    block = list(generator.upsampler.blocks.values())[-1]
    block.fp16, types = True, set()
    block.conv1.register_forward_hook(lambda _, __, result: types.add(result.dtype))
    random = torch.Generator().manual_seed(0)
    ws, z_motion, z_bg = (
        torch.randn(1, size, generator=random)
        for size in (generator.w_dim, generator.motion_dim, generator.background_dim)
    )
    renderer = FrameRenderer(generator, ws[:, None].expand(-1, generator.num_ws, -1), z_motion=z_motion, z_bg=z_bg)
    renderer._weights.fused = None
    exact = renderer.render(0.5, generator.camera_prior.at())
    renderer._layers = torch.bfloat16
    rounded = renderer.render(0.5, generator.camera_prior.at())
    assert types == {torch.float32, torch.bfloat16} and rounded.dtype == torch.float32
    assert 0 < float((rounded - exact).abs().max()) < 0.05 * float(exact.abs().max())
    assert block.half_precision.chosen is None


def test_which_resolutions_take_it():
    network, types = Discriminator(resolution=32, img_channels=3, channel_base=0.01, fp16_resolutions=2), []
    for block in network.blocks.values():
        block.conv1.register_forward_hook(lambda _, __, y: types.append(y.dtype))
    with half_precision(torch.bfloat16, network):
        network(torch.zeros(1, 3, 32, 32))
    assert types == [torch.bfloat16, torch.bfloat16, torch.float32]
    sizes = {"in_resolution": 8, "resolution": 64, "in_features": 8, "w_dim": 8, "channel_base": 0.01}
    upsampler = Upsampler(**sizes, fp16_min_resolution=32)
    assert [block.fp16 for block in upsampler.blocks.values()] == [False, True, True]
