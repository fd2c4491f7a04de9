"""The generator's options: what each ablation changes, labels, configurations, mistakes."""

import dataclasses
import json

import pytest
import torch

from tests.goldens.checks import assert_near
from tests.goldens.networks import SMALL, build_generator, generator_config
from tests.goldens.small_inputs import ABLATIONS, TIMES, cameras, codes
from torch_utils.rng import RandomStream
from training.networks.generator import Generator


@torch.no_grad()
@pytest.mark.parametrize("variant", ABLATIONS)
def test_what_time_and_codes_change(variant):
    """Each code acts through its own network, and not at all without it."""
    spec = dataclasses.replace(SMALL, **ABLATIONS[variant])
    generator, inputs = build_generator(spec), codes(spec)

    def image(**changes):
        arguments = inputs | {"times": torch.tensor([[0.2], [0.2]]), "cameras": cameras()} | changes
        return generator.synthesize(**arguments).image

    still = image()
    moves = spec.motion is not None or spec.time_input != "none"
    later = (image(times=torch.tensor([[0.9], [0.2]])) - still).abs().amax(dim=(1, 2, 3, 4))
    assert (later[0] > 1e-3) == moves
    assert later[1] < 1e-6, "the other video stands still"
    moved = (image(z_motion=-inputs["z_motion"]) - still).abs().max()
    assert (moved > 1e-3) == (spec.motion is not None)
    elsewhere = (image(z_bg=-inputs["z_bg"]) - still).abs().max()
    assert (elsewhere > 1e-5) == spec.background
    for layer in range(spec.num_ws):
        ws = inputs["ws"].clone()
        ws[:, layer] += 1
        assert (image(ws=ws) - still).abs().max() > 1e-5, f"style {layer} is of use"


@torch.no_grad()
def test_without_a_background_rays_end_in_the_foreground():
    """All light comes from the foreground: colours are a mean of the samples', wherever the density is low."""
    spec = dataclasses.replace(SMALL, background=False)
    generator = build_generator(spec)
    generator.foreground.density.bias.fill_(-1e4)  # empty space
    output = generator.synthesize(**codes(spec), times=TIMES, cameras=cameras())
    assert_near(output.opacity, torch.zeros(2, 3, 8, 8))
    assert_near(output.depth, torch.full([2, 3, 8, 8], 1.12), absolute=1e-4)  # all weight on the last sample
    assert output.image_raw.abs().max() > 0.01
    with_background = build_generator(SMALL)
    with_background.foreground.density.bias.fill_(-1e4)
    output = with_background.synthesize(**codes(), times=TIMES, cameras=cameras())
    assert_near(output.depth, torch.zeros(2, 3, 8, 8), absolute=1e-6)


def test_the_blend_is_a_mean_of_two_fields():
    """With equal weights the density is the mean of both: no dynamic density leaves half of the static one."""
    spec = dataclasses.replace(SMALL, static="equal")
    generator, single = build_generator(spec), build_generator(dataclasses.replace(SMALL, motion=None))
    single.load_state_dict(
        {
            name: generator.state_dict()[name.replace("foreground.", "foreground.static.")]
            for name in single.state_dict()
        }
    )
    with torch.no_grad():
        for field in (generator.foreground.dynamic, generator.foreground.static):
            for head in (field.density, field.features):
                head.weight.zero_()
            field.density.bias.fill_(8.0)
        single.foreground.density.weight.zero_()
        single.foreground.density.bias.fill_(4.0)
        generator.foreground.dynamic.density.bias.fill_(0.0)
        arguments = codes() | {"times": TIMES, "cameras": cameras()}
        blended, static = generator.synthesize(**arguments).opacity, single.synthesize(**arguments).opacity
    assert_near(blended, static, absolute=1e-5)


@pytest.mark.parametrize("variant", ABLATIONS)
def test_every_parameter_is_trained(variant):
    """Forward and backward with everything on, at the start of training."""
    spec = dataclasses.replace(SMALL, **ABLATIONS[variant])
    torch.manual_seed(0)
    generator = Generator(**generator_config(spec)).train()
    inputs = codes(spec)
    ws = generator.mapping(torch.randn(2, spec.z_dim, generator=torch.Generator().manual_seed(0)), update_w_avg=True)
    output = generator.synthesize(
        **(inputs | {"ws": ws}), times=TIMES, cameras=cameras(), stream=RandomStream(0), path_loss=True
    )
    assert output.path_loss.shape == (2, 3) and output.path_loss.isfinite().all()
    (output.image.square().mean() + output.path_loss.mean()).backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@torch.no_grad()
def test_labels():
    spec = dataclasses.replace(SMALL, c_dim=3)
    generator = build_generator(spec)
    z = torch.randn(2, spec.z_dim, generator=torch.Generator().manual_seed(0))
    one, two = (generator.mapping(z, torch.eye(3)[[label, label]]) for label in (0, 1))
    assert (one - two).abs().max() > 0.01
    with pytest.raises(ValueError, match=r"labels c must be \[B, 3\]"):
        generator.mapping(z)


@torch.no_grad()
@pytest.mark.parametrize("variant", ABLATIONS)
def test_the_configuration_rebuilds_the_generator(variant):
    spec = dataclasses.replace(SMALL, **ABLATIONS[variant])
    generator = build_generator(spec)
    again = Generator(**json.loads(json.dumps(generator.config))).eval()
    again.load_state_dict(generator.state_dict())
    assert json.dumps(again.config) == json.dumps(generator.config)
    arguments = codes(spec) | {"times": TIMES, "cameras": cameras()}
    assert torch.equal(again.synthesize(**arguments).image, generator.synthesize(**arguments).image)


def test_defaults_are_the_faceforensics_model():
    with torch.device("meta"):
        generator = Generator(resolution=256)
    assert generator.num_ws == 17
    assert sum(p.numel() for p in generator.parameters()) == 5369837
    assert generator.camera_prior.fov == 18 and generator.camera_prior.yaw == (-0.8, 0.8)
    settings = dataclasses.asdict(generator.settings)
    assert settings == {
        "resolution": 32, "num_samples": 14, "num_importance": 14, "num_background": 4, "near": 0.88, "far": 1.12,
        "background_start": 0.5, "path_lattice": 16, "sampling_multiplier": 1,
    }  # fmt: skip


@pytest.mark.parametrize("part", ["mapping", "motion", "foreground", "background", "upsampler", "camera", "rendering"])
def test_unknown_options_are_named(part):
    config = generator_config(SMALL)
    config[part] = config[part] | {"colour": 1}
    with pytest.raises((TypeError, ValueError), match="colour"):
        Generator(**config)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"motion": {"combine": "multiply"}}, "motion.combine.*multiply"),
        ({"rendering": {"path_lattice": 12}}, "path_lattice.*256.*12"),
        ({"resolution": 200, "rendering": {"path_lattice": 8}}, "power of two.*200"),
        ({"resolution": 32}, r"above the volume rendered 32 \(rendering.resolution, a power of two as well\), got 32"),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        Generator(**({"resolution": 256} | changes))
