"""Whole frames against the formulas written out (tests/goldens/reference): every option, in double precision."""

import dataclasses

import pytest
import torch

from renderer.cameras import CameraPrior
from tests.goldens import reference
from tests.goldens.checks import assert_near
from tests.goldens.networks import CAMERAS, SMALL, build_generator, doubled_state, paper_generator
from tests.goldens.reference import SPECS, Spec, generator_shapes
from tests.streams import Recorder, Tape
from torch_utils.rng import RandomStream
from training.published.state_dict import map_generator_name

# The paper's three models, made small, and every ablation alone and with others.
VARIANTS = {
    "faceforensics": SMALL,
    "mead": dataclasses.replace(SMALL, view=False, upsampling="pixelshuffle"),
    "taichi": dataclasses.replace(SMALL, resolution=16, features=12),
    "no background": dataclasses.replace(SMALL, background=False),
    "no motion": dataclasses.replace(SMALL, motion=None),
    "motion concatenated": dataclasses.replace(SMALL, motion="concat"),
    "motion of content": dataclasses.replace(SMALL, motion_content=True, motion_blocks=3),
    "raw time": dataclasses.replace(SMALL, motion=None, time_input="raw"),
    "encoded time": dataclasses.replace(SMALL, motion=None, time_input="encoded"),
    "masked blend": dataclasses.replace(SMALL, static="mask"),
    "equal blend": dataclasses.replace(SMALL, static="equal", view=False),
    "all at once": dataclasses.replace(
        SMALL, motion="concat", time_input="encoded", static="mask", background=False, upsampling="pixelshuffle"
    ),
    "single pass": dataclasses.replace(SMALL, importance=0),
    "few channels, clamped": dataclasses.replace(SMALL, max_channels=12, clamp=0.3),
    "clamped pixelshuffle": dataclasses.replace(SMALL, clamp=0.3, upsampling="pixelshuffle"),
}
CAMERA_SEED = 0


def random_inputs(spec: Spec, batch=2):
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "ws": normal(batch, spec.num_ws, spec.w_dim),
        "z_motion": normal(batch, spec.motion_dim),
        "z_bg": normal(batch, spec.code_dim),
        "times": torch.tensor([[0.1, 0.7], [0.3, 1.0]], dtype=torch.float64)[:batch],
    }


def random_cameras(batch=2):
    return CameraPrior().sample(batch, RandomStream(CAMERA_SEED))


def compare(output, expected, names, **limits):
    for name in names:
        assert_near(getattr(output, name), expected[name], **limits)


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_evaluation(variant):
    spec = VARIANTS[variant]
    inputs, cameras = random_inputs(spec), random_cameras()
    state = doubled_state(generator_shapes(spec))
    expected = reference.synthesize(state, spec, **inputs, cam2world=cameras.cam2world.double(), fov=18)
    generator = build_generator(spec)
    assert generator.num_ws == spec.num_ws
    compare(
        generator.double().synthesize(**inputs, cameras=cameras),
        expected, ("image", "image_raw", "opacity"), relative=1e-10,
    )  # fmt: skip
    # Single precision loses some: fine samples near an edge of a bin move.
    single = {name: value.float() for name, value in inputs.items()}
    compare(generator.float().synthesize(**single, cameras=cameras), expected, ("image", "image_raw"), relative=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_training_mode(variant):
    """Random depths and densities, the NeRF-path loss, the running means after both passes."""
    spec = VARIANTS[variant]
    inputs, cameras, stream = random_inputs(spec), random_cameras(), Recorder(3, torch.float64)
    generator = build_generator(spec).double().train()
    output = generator.synthesize(**inputs, cameras=cameras, stream=stream, path_loss=True)
    state = doubled_state(generator_shapes(spec))
    expected = reference.synthesize(
        state,
        spec,
        **inputs,
        cam2world=cameras.cam2world.double(),
        fov=18,
        draws=stream.draws,
        training=True,
        path=True,
    )
    compare(output, expected, ("image", "image_raw", "opacity", "path_loss"), relative=1e-10)
    buffers = dict(generator.named_buffers())
    assert len(expected["magnitudes"]) == 2 * len(spec.block_resolutions())
    for name, value in expected["magnitudes"].items():
        assert_near(buffers[map_generator_name(name)], value, relative=1e-6)  # row norms are taken in single precision
        assert abs(float(value - state[name])) > 1e-6, "the passes changed it"


@pytest.mark.parametrize("variant", ["faceforensics", "mead", "no background", "all at once", "clamped pixelshuffle"])
def test_gradients(variant):
    """Of the image and the path loss, for every parameter and every code."""
    spec = VARIANTS[variant]
    inputs, cameras, stream = random_inputs(spec, batch=1), random_cameras(1), Recorder(3, torch.float64)
    inputs = {name: value.requires_grad_(name != "times") for name, value in inputs.items()}
    generator = build_generator(spec).double().train()

    def scalar(image, path_loss):
        weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(5), dtype=image.dtype)
        return (image * weights).sum() + path_loss.sum()

    output = generator.synthesize(**inputs, cameras=cameras, stream=stream, path_loss=True)
    used = ["ws", "z_motion", "z_bg"] if spec.background else ["ws", "z_motion"]
    parameters = {name: p for name, p in generator.named_parameters() if not name.startswith("mapping.")}
    variables = [inputs[name] for name in used]
    actual = torch.autograd.grad(scalar(output.image, output.path_loss), variables + list(parameters.values()))

    state = {name: value.requires_grad_() for name, value in doubled_state(generator_shapes(spec)).items()}
    expected = reference.synthesize(
        state,
        spec,
        **inputs,
        cam2world=cameras.cam2world.double(),
        fov=18,
        draws=stream.draws,
        training=True,
        path=True,
    )
    names = [name for name in state if not name.startswith("mapping.") and not name.endswith("w_avg")]
    if spec.static != "none":
        # Only the codes: these names are not translated.
        names, actual = [], actual[: len(used)]
    wanted = torch.autograd.grad(
        scalar(expected["image"], expected["path_loss"]), variables + [state[name] for name in names]
    )
    assert len(names) in (0, len(parameters))
    for name, gradient, value in zip(used, actual, wanted):
        assert value.any(), name
        assert_near(gradient, value, relative=1e-8)
    by_name = dict(zip(parameters, actual[len(used) :]))
    for name, value in zip(names, wanted[len(used) :]):
        assert_near(by_name[map_generator_name(name)].flatten(), value.flatten(), relative=1e-8)


@pytest.mark.parametrize("upsampling", ["nn_cat", "pixelshuffle"])
def test_second_derivatives(upsampling):
    """Gradients of a path length for every parameter. Single precision takes other routes, so that as well.

    A single pass: the positions of importance samples jump where precision decides about a bin.
    """
    spec = dataclasses.replace(SMALL, importance=0, upsampling=upsampling, layers=3)
    inputs, cameras = random_inputs(spec, batch=1), random_cameras(1)
    inputs["ws"].requires_grad_()

    def length(image, ws):
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(5)).to(image.dtype)
        (gradient,) = torch.autograd.grad((image * noise).sum(), ws, create_graph=True)
        return gradient.square().sum().sqrt()

    state = {name: value.requires_grad_() for name, value in doubled_state(generator_shapes(spec)).items()}
    expected = reference.synthesize(state, spec, **inputs, cam2world=cameras.cam2world.double(), fov=18)
    names = [name for name in state if not name.startswith("mapping.") and not name.endswith("w_avg")]
    wanted = torch.autograd.grad(
        length(expected["image"], inputs["ws"]), [state[name] for name in names], allow_unused=True
    )
    wanted = {map_generator_name(name): value for name, value in zip(names, wanted)}
    largest = max(float(value.abs().max()) for value in wanted.values() if value is not None)
    for dtype, relative in ((torch.float64, 1e-8), (torch.float32, 1e-3)):
        generator = build_generator(spec).to(dtype)
        cast = {name: value.detach().to(dtype).requires_grad_(name == "ws") for name, value in inputs.items()}
        image = generator.synthesize(**cast, cameras=cameras).image
        parameters = {name: p for name, p in generator.named_parameters() if not name.startswith("mapping.")}
        actual = torch.autograd.grad(length(image, cast["ws"]), list(parameters.values()), allow_unused=True)
        for (name, p), gradient in zip(parameters.items(), actual):
            value = torch.zeros_like(p) if wanted[name] is None else wanted[name].reshape(p.shape)
            gradient = torch.zeros_like(p) if gradient is None else gradient
            assert_near(gradient, value, relative=relative, absolute=relative * 1e-2 * largest)


# MEAD's model at full size: the others are compared with measurements there.


@torch.no_grad()
def test_paper_size_in_evaluation():
    spec, generator, prior = SPECS["mead"], paper_generator("mead"), CameraPrior(**CAMERAS["mead"])
    cameras = prior.at(0.2, 0.7)
    inputs = random_inputs(spec, batch=1)
    inputs |= {"ws": generator.mapping(inputs["ws"][:, 0].float()).double(), "times": torch.tensor([[0.4]]).double()}
    expected = reference.synthesize(
        doubled_state(generator_shapes(spec)), spec, **inputs, cam2world=cameras.cam2world.double(), fov=prior.fov
    )
    single = {name: value.float() for name, value in inputs.items()}
    output = generator.synthesize(**single, cameras=cameras)
    compare(output, expected, ("image", "image_raw"), relative=0, absolute=5e-4, mean=2e-5)
    compare(generator.double().synthesize(**inputs, cameras=cameras), expected, ("image", "image_raw"), relative=1e-9)


@torch.no_grad()
def test_paper_size_in_training_mode():
    spec, generator = SPECS["mead"], paper_generator("mead").double().train()
    prior = CameraPrior(**CAMERAS["mead"])
    cameras, stream = prior.sample(1, RandomStream(0)), Recorder(4, torch.float64)
    inputs = random_inputs(spec, batch=1)
    inputs["times"] = inputs["times"][:, :1]
    output = generator.synthesize(**inputs, cameras=cameras, stream=stream, path_loss=True)
    expected = reference.synthesize(
        doubled_state(generator_shapes(spec)), spec, **inputs, cam2world=cameras.cam2world.double(), fov=12,
        draws=stream.draws, training=True, path=True,
    )  # fmt: skip
    compare(output, expected, ("image", "image_raw", "opacity", "path_loss"), relative=1e-9)
    # Single precision, same draws.
    single = paper_generator("mead").train()
    inputs = {name: value.float() for name, value in inputs.items()}
    tape = Tape({name: value.float() for name, value in stream.draws.items()})
    output = single.synthesize(**inputs, cameras=cameras, stream=tape, path_loss=True)
    compare(output, expected, ("image", "image_raw"), relative=0, absolute=1e-2, mean=1e-4)
    compare(output, expected, ("path_loss",), relative=5e-4)
