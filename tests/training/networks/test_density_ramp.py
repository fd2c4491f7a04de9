"""The factor of the density that grows in training: its course, what it multiplies, and where it is kept."""

import copy

import pytest
import torch

from dnnlib import UserError
from tests.cpu_inference import needs_bfloat16
from tests.goldens.networks import SMALL, build_generator, generator_config
from tests.small_network import save_small_network
from training.checkpoints.snapshot import load_average_generator
from training.ema import GeneratorEMA
from training.inference.frame_renderer import FrameRenderer
from training.launch.build import build_networks
from training.launch.config import compose_options
from training.networks.density import DensityRamp
from training.networks.fields import is_density_scale
from training.networks.generator import Generator

RAMP = {"factor": 3, "start": 2, "end": 6}
PRIOR = {"peak": 25, "radius": 0.04, "center": [0.02, -0.03, 0.05]}


def generator_with(ramp, *, scale=1.0, static="none", prior=PRIOR):
    """The small generator of the other tests with a prior and a ramp; `scale` multiplies its density head."""
    config = generator_config(SMALL)
    config["foreground"] |= {"density_ramp": ramp, "density_prior": prior, "static": static}
    generator = Generator(**config).eval()
    state = build_generator(SMALL).state_dict()
    generator.load_state_dict(generator.state_dict() | {k: v for k, v in state.items() if static == "none"})
    with torch.no_grad():
        for name in ("weight", "bias"):
            if static == "none":
                getattr(generator.foreground.density, name).mul_(scale)
    return generator


def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def field_values(generator):
    """Raw density and features at some points, of two videos at two times."""
    times = torch.tensor([[0.1, 0.9], [0.3, 0.4]])
    ws = generator.mapping(rand(2, generator.z_dim, seed=1))
    motion = generator.motion_vectors(ws, rand(2, generator.motion_dim, seed=2), times)
    z_bg = rand(2, generator.background_dim, seed=3)
    field = generator.condition(generator.modulate(ws), times=times, motion=motion, z_bg=z_bg).foreground
    return field(rand(2, 2, 5, 3, 3, seed=4) / 10, torch.nn.functional.normalize(rand(2, 5, 3, seed=5), dim=-1))


@pytest.mark.parametrize(
    "static, fields", [("none", ["foreground"]), ("mask", ["foreground.dynamic", "foreground.static"])]
)
def test_the_buffer_in_a_state(static, fields):
    state = generator_with(RAMP, static=static).state_dict()
    assert [name for name in state if is_density_scale(name)] == [f"{field}.density_scale" for field in fields]
    assert not is_density_scale("foreground.own_density_scale")  # of a class of the user's own


def test_the_course():
    ramp = DensityRamp(**RAMP)
    for kimg, factor in ((0, 1), (2, 1), (3, 1.5), (5, 2.5), (6, 3), (100, 3)):
        assert ramp(kimg) == factor


def test_it_never_falls():
    """A training that starts from the weights of another one (resume=) counts its videos from 0."""
    generator = generator_with(RAMP)
    for kimg, factor in ((0, 1), (4, 2), (0, 2), (3, 2), (9, 3), (0, 3)):
        generator.set_progress(kimg)
        assert generator.foreground.density_scale.item() == factor


@pytest.mark.parametrize("prior", [PRIOR, None])
def test_it_multiplies_density_and_prior(prior):
    """Nothing else, and the gradients, too."""
    one, other = generator_with(None, prior=prior), generator_with(RAMP, prior=prior)
    (density, features), (raised, same) = field_values(one), field_values(other)
    assert torch.equal(raised, density)  # before its start
    other.set_progress(4)
    raised, same = field_values(other)
    torch.testing.assert_close(raised, 2 * density, rtol=1e-5, atol=1e-5)
    for a, b in zip(features, same, strict=True):
        assert torch.equal(a, b)
    for values in (density, raised):
        values.sum().backward()
    for name in ("weight", "bias"):
        plain, scaled = (getattr(g.foreground.density, name).grad for g in (one, other))
        assert plain.abs().max() > 0
        torch.testing.assert_close(scaled, 2 * plain, rtol=1e-5, atol=1e-6)
    assert other.foreground.density_scale.grad is None


def test_both_fields_of_a_blend_have_it():
    one, other = generator_with(None, static="equal"), generator_with(RAMP, static="equal")
    other.load_state_dict(other.state_dict() | one.state_dict())
    other.set_progress(6)
    torch.testing.assert_close(field_values(other)[0], 3 * field_values(one)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=needs_bfloat16)])
def test_rendering_has_it(precision):
    """Through the operators of inference: as with a head and a prior of twice the density, and not as without."""
    twice = {**PRIOR, "peak": 2 * PRIOR["peak"]}
    generators = generator_with(RAMP), generator_with(None, scale=2.0, prior=twice), generator_with(None)
    generators[0].set_progress(4)
    frames = []
    for generator in generators:
        generator.requires_grad_(False)
        ws = generator.mapping(rand(1, generator.z_dim, seed=1))
        codes = {"z_motion": rand(1, generator.motion_dim, seed=2), "z_bg": rand(1, generator.background_dim, seed=3)}
        renderer = FrameRenderer(generator, ws, precision=precision, **codes)
        frames.append(renderer.output(0.5, generator.camera_prior.at(0.3, 0.8)))
    for name in ("image", "depth", "opacity"):
        raised, double, plain = (getattr(frame, name) for frame in frames)
        torch.testing.assert_close(raised, double, rtol=1e-4, atol=1e-4)
        assert (raised - plain).abs().max() > 1e-3, name


def test_the_moving_average_and_snapshots_keep_it(tmp_path):
    generator = generator_with(RAMP)
    average = copy.deepcopy(generator)
    generator.set_progress(5)
    GeneratorEMA(source=generator, average=average, half_life_kimg=1, ramp=None).update(cur_nimg=5000, batch=4)
    assert average.foreground.density_scale.item() == 2.5
    save_small_network(tmp_path, average)
    loaded = load_average_generator(tmp_path)
    assert loaded.foreground.density_scale.item() == 2.5 and loaded.foreground.density_ramp == DensityRamp(**RAMP)


@pytest.mark.parametrize(
    "value, message",
    [
        ("{factor:4,start:4}", " lacks end."),
        ("{factor:4,start:4,stop:16}", " has no 'stop'; its keys are factor, start, end."),
        ("{factor:0.5,start:4,end:16}", ".factor must be a number of at least 1, got 0.5."),
        ("{factor:much,start:4,end:16}", ".factor must be a number of at least 1, got 'much'."),
        ("{factor:4,start:-1,end:16}", ".start must be a number of at least 0, got -1."),
        ("{factor:4,start:4,end:4}", ".end must be a number above its start, got 4."),
        ("4", " must be null or {factor, start, end}, got 4."),
    ],
)
def test_values_that_it_cannot_have(value, message):
    options = compose_options(["model=stylenerf_mead", f"model.generator.foreground.density_ramp={value}"])
    with pytest.raises(UserError) as caught:
        build_networks(options, c_dim=0, device="meta")
    assert str(caught.value) == f"model.generator: foreground.density_ramp{message}"
