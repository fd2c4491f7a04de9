"""Properties of every generator: frames, batches, scenes, gradients."""

import dataclasses

import pytest
import torch
from torch.autograd import gradcheck

from tests.goldens.checks import assert_near
from tests.goldens.networks import SMALL, build_generator, generator_config
from tests.goldens.small_inputs import ABLATIONS, TIMES, cameras, codes
from torch_utils.rng import RandomStream
from training.inference.frame_renderer import FrameRenderer
from training.networks.generator import Generator


def select(inputs, videos):
    return {name: value[videos] for name, value in inputs.items()}


@torch.no_grad()
def test_shapes_and_ranges(generator):
    output = generator.synthesize(**codes(), times=TIMES, cameras=cameras())
    assert output.image.shape == (2, 3, 3, 32, 32)
    assert output.image_raw.shape == (2, 3, 3, 8, 8)
    assert output.depth.shape == output.opacity.shape == (2, 3, 8, 8)
    assert output.path_loss is None
    assert ((output.opacity >= 0) & (output.opacity <= 1 + 1e-6)).all()
    # The expected depth is a mean of depths inside the volume, as far as the ray ends there.
    assert (output.depth >= 0.88 * output.opacity - 1e-5).all() and (output.depth <= 1.12 * output.opacity + 1e-5).all()


@torch.no_grad()
def test_rendering_is_deterministic_without_a_stream(generator):
    first, again = (generator.synthesize(**codes(), times=TIMES, cameras=cameras()).image for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("loss", ["path_loss", "distortion"])
def test_losses_along_rays_need_a_stream(generator, loss):
    with pytest.raises(ValueError, match="^path_loss and distortion need a stream"):
        generator.synthesize(**codes(), times=TIMES, cameras=cameras(), **{loss: True})


@torch.no_grad()
def test_the_stream_decides(generator):
    def image(seed):
        return generator.synthesize(**codes(), times=TIMES, cameras=cameras(), stream=RandomStream(seed)).image

    assert torch.equal(image(1), image(1))
    assert not torch.allclose(image(1), image(2))


@torch.no_grad()
def test_global_randomness_is_left_alone(generator):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    generator.synthesize(**codes(), times=TIMES, cameras=cameras(), stream=RandomStream(0), path_loss=True)
    assert torch.equal(torch.get_rng_state(), state)


@torch.no_grad()
def test_frames_of_one_time_are_identical(generator):
    for stream in (None, RandomStream(0)):
        image = generator.synthesize(**codes(), times=TIMES, cameras=cameras(), stream=stream).image
        assert torch.equal(image[0, 1], image[0, 2])
        assert torch.equal(image[1, 0], image[1, 2])
        assert (image[0, 0] - image[0, 1]).abs().max() > 0.01


@torch.no_grad()
def test_a_frame_does_not_depend_on_its_neighbours(generator):
    together = generator.synthesize(**codes(), times=TIMES, cameras=cameras()).image
    for t in range(3):
        alone = generator.synthesize(**codes(), times=TIMES[:, t : t + 1], cameras=cameras()).image
        assert_near(alone[:, 0], together[:, t], absolute=2e-5)


@torch.no_grad()
def test_a_video_does_not_depend_on_its_neighbours(generator):
    inputs, views = codes(), cameras()
    together = generator.synthesize(**inputs, times=TIMES, cameras=views)
    for video in range(2):
        part = slice(video, video + 1)
        alone = generator.synthesize(**select(inputs, part), times=TIMES[part], cameras=views[part])
        for name in ("image", "image_raw", "depth", "opacity"):
            assert_near(getattr(alone, name)[0], getattr(together, name)[video], absolute=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_ray_chunks_change_nothing(generator, chunk):
    whole = generator.synthesize(**codes(), times=TIMES, cameras=cameras())
    chunked = generator.synthesize(**codes(), times=TIMES, cameras=cameras(), ray_chunk=chunk)
    for name in ("image", "image_raw", "depth", "opacity"):
        assert_near(getattr(chunked, name), getattr(whole, name), absolute=1e-5)


@torch.no_grad()
def test_ray_chunks_share_the_draws():
    generator = build_generator(SMALL).train()
    arguments = codes() | {"times": TIMES[:, :2], "cameras": cameras()}
    whole = generator.synthesize(**arguments, stream=RandomStream(0))
    chunked = build_generator(SMALL).train().synthesize(**arguments, stream=RandomStream(0), ray_chunk=10)
    assert_near(chunked.image, whole.image, absolute=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("variant", ABLATIONS)
def test_scenes_show_the_same(variant):
    spec = dataclasses.replace(SMALL, **ABLATIONS[variant])
    generator, inputs = build_generator(spec), codes(spec)
    scene = FrameRenderer(generator, **inputs, ray_chunk=20)
    for seed, times in ((0, [0.3, 0.8]), (0, [0.0, 0.1]), (1, [1.0, 0.1])):  # the background is kept, then renewed
        expected = generator.synthesize(**inputs, times=torch.tensor(times)[:, None], cameras=cameras(seed=seed))
        image = scene.render(torch.tensor(times), cameras(seed=seed))
        assert image.shape == (2, 3, 32, 32)
        assert_near(image, expected.image[:, 0], absolute=2e-5)
        output = scene.output(torch.tensor(times), cameras(seed=seed))
        assert_near(output.depth, expected.depth, absolute=2e-5)
        assert_near(output.opacity, expected.opacity, absolute=2e-5)
    single = scene.render(0.4, cameras())
    assert_near(single, scene.render(torch.tensor([0.4, 0.4]), cameras()), absolute=0)


def test_scenes_need_evaluation_mode():
    generator = build_generator(SMALL).train()
    with pytest.raises(ValueError, match="evaluation mode"):
        FrameRenderer(generator, **codes())


def test_scenes_keep_no_graph(generator):
    assert not FrameRenderer(generator, **codes()).render(0.5, cameras()).requires_grad


def test_magnitudes_change_in_training_only():
    generator = build_generator(SMALL)

    def magnitudes():
        return torch.stack([value.clone() for name, value in generator.named_buffers() if "mean_square" in name])

    arguments = codes() | {"times": TIMES, "cameras": cameras()}
    before = magnitudes()
    with torch.no_grad():
        generator.synthesize(**arguments, stream=RandomStream(0), path_loss=True)
        assert torch.equal(magnitudes(), before)
        generator.train().synthesize(**arguments, stream=RandomStream(0))
        once = magnitudes()
        assert (once != before).all()
        generator.synthesize(**arguments, stream=RandomStream(0), path_loss=True)
    assert (magnitudes() != once).all()


def test_evaluation_keeps_gradients_for_inversion(generator):
    inputs = {name: value.requires_grad_() for name, value in codes().items()}
    image = generator.synthesize(**inputs, times=TIMES, cameras=cameras()).image
    for name, gradient in zip(inputs, torch.autograd.grad(image.square().sum(), list(inputs.values()))):
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("variant", ["paper", "no view directions", "pixelshuffle", "masked blend", "concatenated"])
def test_derivatives(variant):
    """Against finite differences, of a random direction in the space of the codes, the times and the styles.

    A single pass, as the positions of importance samples are no function to be differentiated.
    """
    spec = dataclasses.replace(
        SMALL, **(ABLATIONS[variant] | {"importance": 0}), resolution=8, volume=4, lattice=2, channels=64
    )
    generator = build_generator(spec).double()
    inputs = {name: value.double().requires_grad_() for name, value in codes(spec, batch=1).items()}
    times = torch.tensor([[0.3, 0.8]], dtype=torch.float64, requires_grad=True)

    def function(ws, z_motion, z_bg, times):
        output = generator.synthesize(ws, z_motion=z_motion, z_bg=z_bg, times=times, cameras=cameras(1))
        return output.image, output.depth

    assert gradcheck(function, [*inputs.values(), times], fast_mode=True, atol=1e-4)


def test_second_derivatives(generator):
    """As path length regularisation needs them."""
    inputs = codes()
    inputs["ws"].requires_grad_()
    image = generator.synthesize(**inputs, times=TIMES, cameras=cameras()).image
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((image * noise).sum(), inputs["ws"], create_graph=True)
    parameters = [p for name, p in generator.named_parameters() if "affine.weight" in name]
    for second in torch.autograd.grad(gradient.square().sum(), parameters):
        assert second.isfinite().all() and second.abs().max() > 0


def test_initial_networks_are_well_scaled():
    """At the start of training pixels are of order one and the volume is neither empty nor opaque everywhere."""
    torch.manual_seed(0)
    generator = Generator(**generator_config(dataclasses.replace(SMALL, width=64, channels=2048, w_dim=64))).eval()
    with torch.no_grad():
        z = torch.randn(4, SMALL.z_dim, generator=torch.Generator().manual_seed(0))
        inputs = codes(batch=4) | {"ws": generator.mapping(z)}
        output = generator.synthesize(**inputs, times=torch.tensor([[0.0, 1.0]] * 4), cameras=cameras(4))
    assert 0.05 < float(output.image.std()) < 5
    assert float(output.opacity.std()) > 0.001
