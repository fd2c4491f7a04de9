"""Published tensors under our names: nothing missing, nothing left over, counts as published."""

import pytest
import torch

from tests.goldens.networks import CAMERAS, generator_config, golden_arrays, map_state, state_listing
from tests.goldens.recipe import value
from tests.goldens.reference import SPECS, discriminator_shapes, generator_shapes
from training.networks.discriminator import TimeAwareDiscriminators
from training.networks.generator import Generator
from training.published.state_dict import map_discriminator_name, map_generator_name

CONFIGS = ["faceforensics", "mead", "taichi"]
CONSTANT = ("resample_filter", "alpha")


def empty_generator(config):
    with torch.device("meta"):
        return Generator(**generator_config(SPECS[config], CAMERAS.get(config)))


def empty_discriminators(config):
    with torch.device("meta"):
        return TimeAwareDiscriminators(resolution=SPECS[config].resolution)


def empty_state(listing):
    return {name: torch.empty(shape, device="meta") for name, shape in listing.items()}


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("config", CONFIGS)
class TestPublishedModels:
    def test_generator(self, config):
        generator, listing = empty_generator(config), state_listing(config)
        mapped = map_state(empty_state(listing["G"]), generator, map_generator_name)
        assert {k: v.shape for k, v in mapped.items()} == {k: v.shape for k, v in generator.state_dict().items()}
        # One to one, apart from constants.
        assert len(mapped) == sum(not name.endswith(CONSTANT) for name in listing["G"])
        assert generator.num_ws == listing["num_ws"]

    def test_discriminators(self, config):
        discriminators, listing = empty_discriminators(config), state_listing(config)
        mapped = map_state(empty_state(listing["D"]), discriminators, map_discriminator_name)
        assert {k: v.shape for k, v in mapped.items()} == {k: v.shape for k, v in discriminators.state_dict().items()}
        assert len(mapped) == sum(not name.endswith(CONSTANT) for name in listing["D"])

    def test_parameter_counts(self, config):
        generator, published = empty_generator(config), state_listing(config)["parameters"]
        assert count(generator) == published["G"]
        assert count(generator.mapping) == published["G_mapping"]
        assert count(generator.motion) == published["motion_generator"]
        assert count(generator.foreground) + count(generator.motion) == published["fg_nerf"]
        assert count(generator.background) == published["bg_nerf"]
        assert count(generator.upsampler) == published["upsampler"]
        discriminators = empty_discriminators(config)
        assert count(discriminators.video) == published["videoD"]
        assert count(discriminators.image) == published["imageD"]

    def test_the_reference_knows_the_same_tensors(self, config):
        """So that it can be trusted with other sizes."""

        def variable(listing):
            return {name: tuple(shape) for name, shape in listing.items() if not name.endswith(CONSTANT)}

        listing, resolution = state_listing(config), SPECS[config].resolution
        assert generator_shapes(SPECS[config]) == variable(listing["G"])
        video = discriminator_shapes("videoD", resolution=resolution, img_channels=7)
        image = discriminator_shapes("imageD", resolution=resolution, img_channels=3)
        assert video | image == variable(listing["D"])


def test_values_arrive_where_they_belong():
    """A weight is a matrix here, and the values are those of its own name."""
    generator = Generator(**generator_config(SPECS["mead"]))
    shapes = generator_shapes(SPECS["mead"])
    state = {name: torch.from_numpy(value(name, shape)) for name, shape in shapes.items()}
    mapped = map_state(state, generator, map_generator_name)
    for published, ours in (
        ("synthesis.fg_nerf.fc_in.weight", "foreground.layers.0.weight"),
        ("synthesis.fg_nerf.blocks.6.affine.bias", "foreground.layers.7.affine.bias"),
        ("synthesis.fg_nerf.motion_generator.motion_mlp.0.weight", "motion.layers.0.weight"),
        ("synthesis.fg_nerf.motion_generator.motion_mlp.1.weight", "motion.output.weight"),
        ("synthesis.bg_nerf.blocks.2.weight", "background.layers.3.weight"),
        ("synthesis.b128.conv0.adapter.1.weight", "upsampler.blocks.128.conv0.upsampling.expand.weight"),
        ("synthesis.b256.torgb.affine.weight", "upsampler.blocks.256.rgb.linear.affine.weight"),
        ("synthesis.b64.conv1.w_avg", "upsampler.blocks.64.conv1.magnitude.mean_square"),
        ("mapping.fc7.bias", "mapping.layers.7.bias"),
    ):
        assert torch.equal(mapped[ours].flatten(), state[published].flatten()), published


def test_deeper_motion_networks():
    inside = "synthesis.fg_nerf.motion_generator.motion_mlp"
    assert map_generator_name(f"{inside}.1.weight", motion_layers=3) == "motion.layers.1.weight"
    assert map_generator_name(f"{inside}.2.bias", motion_layers=3) == "motion.output.bias"


def test_constants_and_strangers():
    assert map_generator_name("synthesis.alpha") is None
    assert map_generator_name("synthesis.b64.conv0.resample_filter") is None
    assert map_generator_name("synthesis.b64.conv0.noise_strength") is None
    assert map_discriminator_name("videoD.alpha") is None
    assert map_discriminator_name("audioD.b4.out.bias") is None


def test_what_does_not_fit_is_named():
    generator, state = empty_generator("taichi"), empty_state(state_listing("taichi")["G"])
    with pytest.raises(ValueError, match=r"1 left over .*'synthesis.b64.conv0.noise_strength'"):
        map_state(state | {"synthesis.b64.conv0.noise_strength": torch.zeros([])}, generator, map_generator_name)
    with pytest.raises(ValueError, match=r"1 missing .*'mapping.layers.3.bias'"):
        map_state({k: v for k, v in state.items() if k != "mapping.fc3.bias"}, generator, map_generator_name)
    with pytest.raises(
        ValueError, match=r"mapping.fc3.bias has shape \[511\], but mapping.layers.3.bias needs \[512\]"
    ):
        map_state(state | {"mapping.fc3.bias": torch.zeros(511)}, generator, map_generator_name)
    # Tensors of a larger model: two blocks here, three there.
    with pytest.raises(ValueError, match="left over .*b256"):
        map_state(
            empty_state(state_listing("faceforensics")["G"] | state_listing("taichi")["G"]),
            generator,
            map_generator_name,
        )


def test_the_recipe_s_shortcut():
    """Constants have no value; running means are positive."""
    assert value("synthesis.b64.resample_filter", [4, 4]) is None
    assert value("synthesis.alpha", []) == 0
    assert value("synthesis.b64.conv0.w_avg", []) > 0.5
    goldens = golden_arrays("network_taichi.npz")
    before = torch.from_numpy(value("synthesis.b64.conv0.w_avg", []))
    assert float(before) == pytest.approx(float(goldens["train_tape3000/after/synthesis.b64.conv0.w_avg"]), abs=0.01)
