"""The paper's generators against measurements of the original system: evaluation and training mode, whole networks."""

import numpy as np
import pytest
import torch

from renderer.cameras import Cameras, camera_rays, pixel_centers
from renderer.volume_rendering import march_background, march_foreground
from tests.goldens.checks import assert_near
from tests.goldens.evaluation import CASES, EVALUATION, case_generator, case_inputs, evaluate
from tests.goldens.networks import golden_arrays, paper_generator
from tests.goldens.subsets import NUM_RAYS, at_pixels, chosen
from tests.streams import Tape, constant_stream
from training.published.state_dict import map_generator_name

# In training mode the original differs from itself by up to 5e-3: random samples may fall into another bin.
TRAINING = {"relative": 0, "absolute": 1e-2, "mean": 1e-4}


@pytest.fixture(scope="module", params=["faceforensics", "taichi"])
def config(request):
    return request.param


@pytest.fixture(scope="module")
def goldens(config):
    return golden_arrays(f"network_{config}.npz")


def assert_images(images, goldens, key, limits):
    assert_near(at_pixels(images), goldens[f"{key}/pixels"], **limits)
    assert_near(images.double().mean(dim=(2, 3)), goldens[f"{key}/mean"], relative=0, absolute=limits["mean"])
    spread = images.double().std(dim=(2, 3), correction=0)
    assert_near(spread, goldens[f"{key}/std"], relative=0, absolute=limits["mean"])


@torch.no_grad()
def test_mapping(config, goldens):
    mapping, z = paper_generator(config).mapping, goldens["mapping/z"]
    assert_near(mapping(z)[:, 0], goldens["mapping/ws_psi1"])
    assert_near(mapping(z, truncation_psi=0.7)[:, 0], goldens["mapping/ws_psi0.7"])
    cut = mapping(z, truncation_psi=0.7, truncation_cutoff=4)
    assert_near(cut[:, [0, 3, 4, -1]], goldens["mapping/ws_psi0.7_cutoff4"])
    assert cut.shape[1] == int(goldens["mapping/num_ws"])


@torch.no_grad()
def test_motion(config, goldens):
    times = goldens["inputs/Ts"].reshape(1, -1)
    vectors = paper_generator(config).motion(goldens["inputs/z_motion"], times)
    assert_near(vectors[0], goldens["motion/out"])


@pytest.mark.parametrize("case", CASES)
def test_frames(config, goldens, case):
    output = evaluate(config, case)
    assert output.path_loss is None
    assert_images(output.image[0], goldens, f"eval_{case}/img", EVALUATION)
    assert_images(output.image_raw[0], goldens, f"eval_{case}/img_nerf", EVALUATION)
    transmittance = 1 - output.opacity[0].flatten(1)[:, chosen(1024, NUM_RAYS)]
    assert_near(transmittance, goldens[f"eval_{case}/bg_lambda"], **EVALUATION)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_ray_weights(config, goldens, case):
    generator, inputs = case_generator(config, case), case_inputs(config, case)
    origins, directions = camera_rays(inputs["cameras"], pixel_centers(32)[chosen(1024, NUM_RAYS)])
    times, field = inputs["times"], generator.foreground
    weights = field.modulate(inputs["ws"][:, : field.num_ws])
    field = field.condition(weights, times=times, motion=generator.motion(inputs["z_motion"], times))
    foreground = march_foreground(
        field, origins, directions, generator.settings, num_frames=times.shape[1], last_opaque=False
    )
    assert_near(foreground.sorted_along_ray()[1][0], goldens[f"eval_{case}/fg_weights"], **EVALUATION)
    background_field = generator.background.condition(inputs["z_bg"])
    background = march_background(background_field, origins, directions, generator.settings)
    frames = len(goldens[f"eval_{case}/bg_weights"])
    assert_near(background.weights.expand(frames, -1, -1), goldens[f"eval_{case}/bg_weights"])


# Recorded draws of training mode, in order; the first was of no use.
RECORDED = [
    None, "render/path_offset", "render/depth", "render/density", "render/importance", "render/density_fine",
    "render/background_depth", "render/background_density",
]  # fmt: skip


def recorded_draws(log):
    """Draw i comes from a generator with seed 3000 + i; of draws per frame the first two rows were used."""
    draws = {}
    for i, entry in enumerate(log):
        _, kind, shape = str(entry).split(":")
        random, shape = np.random.RandomState(3000 + i), [int(n) for n in shape.strip("()").split(",") if n]
        if RECORDED[i]:
            values = random.randn(*shape) if "randn" in kind else random.rand(*shape)
            draws[RECORDED[i]] = values.astype(np.float32)[:2]
    return draws


@torch.no_grad()
@pytest.mark.parametrize("run", ["train_tape3000", "train_half"])
def test_training_mode(config, goldens, run):
    """Two videos of two frames with random depths and densities, and the NeRF-path loss."""
    generator = paper_generator(config).train()
    stream = Tape(recorded_draws(goldens["train_tape3000/log"])) if run == "train_tape3000" else constant_stream()
    output = generator.synthesize(
        generator.mapping(goldens["train/inputs/z"]),
        z_motion=goldens["train/inputs/z_motion"],
        z_bg=goldens["train/inputs/z_bg"][0],
        times=goldens["train/inputs/Ts"].reshape(2, 2),
        cameras=Cameras(cam2world=goldens["train/inputs/world"], fov=torch.full([2], 18.0)),
        stream=stream,
        path_loss=True,
    )
    images = output.image.flatten(0, 1)
    # Stored every second or fourth pixel only.
    stride = {"train_tape3000": 2, "train_half": 4}[run]
    assert_images(images[:, :, ::stride, ::stride], goldens, f"{run}/img", TRAINING)
    assert_images(output.image_raw.flatten(0, 1), goldens, f"{run}/img_nerf", TRAINING)
    assert_near(output.path_loss.flatten(), goldens[f"{run}/reg_loss"].flatten(), relative=5e-4)
    if run == "train_tape3000":
        transmittance = 1 - output.opacity.flatten(0, 1).flatten(1)[:, chosen(1024, NUM_RAYS)]
        assert_near(transmittance, goldens[f"{run}/bg_lambda"], **TRAINING)
        buffers = dict(generator.named_buffers())
        after = {key: value for key, value in goldens.items() if key.startswith(f"{run}/after/")}
        assert len(after) == 2 * len(generator.upsampler.blocks)
        for key, value in after.items():
            assert_near(buffers[map_generator_name(key.split("/after/")[1])], value)
