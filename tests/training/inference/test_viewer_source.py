"""Views of a generator by seeds."""

import dataclasses
import math

import pytest
import torch

from renderer.trajectory_files import PathCamera
from renderer.viewer.views import LatentSelection, ViewRequest
from tests.goldens.networks import SMALL, build_generator
from training.inference.frame_renderer import FrameRenderer
from training.inference.interpolation import slerp
from training.inference.latents import generator_latents, seed_latents
from training.inference.viewer_source import KEPT_RENDERERS, GeneratorViews
from training.networks.generator import Generator

CAMERA = PathCamera(0.1, math.pi / 2, 1.0, 18.0, 0.25)


@pytest.fixture
def views(generator):
    return GeneratorViews(generator)


def request(codes=None, layers="both", width=32, camera=CAMERA):
    return ViewRequest(codes or LatentSelection(), camera, layers, width)


def latents(seed, motion_seed):
    return seed_latents(
        seed, motion_seed, z_dim=SMALL.z_dim, motion_dim=SMALL.motion_dim, background_dim=SMALL.code_dim
    )


def test_what_the_source_says_about_itself(views):
    assert views.widths == (8, 16, 32) and views.depth_range == (0.88, 1.12)
    assert views.num_classes == 0 and views.has_background
    assert views.num_layers == build_generator(SMALL).num_ws


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (True, True)),
        ({"motion": None}, (False, False)),
        ({"motion": None, "time_input": "raw"}, (False, True)),
        ({"motion": None, "time_input": "raw", "static": "equal"}, (False, True)),
        ({"motion": None, "static": "equal"}, (False, False)),
    ],
)
def test_a_generator_without_motion_says_so(changes, expected):
    views = GeneratorViews(build_generator(dataclasses.replace(SMALL, **changes)))
    assert (views.has_motion, views.has_time) == expected


def test_a_generator_that_does_not_say_whether_it_moves_may_move(monkeypatch):
    """A user's class may have another name for its motion network."""
    generator = build_generator(dataclasses.replace(SMALL, motion=None))
    generator.movement = generator.motion
    del generator.motion
    monkeypatch.delattr(Generator, "has_time")
    views = GeneratorViews(generator)
    assert views.has_motion and views.has_time


def test_a_view_is_what_the_render_command_shows_for_these_seeds(views, generator):
    codes = latents(3, 5)
    with torch.no_grad():
        ws = generator.mapping(codes.z, truncation_psi=0.7)
        renderer = FrameRenderer(generator, ws, z_motion=codes.z_motion, z_bg=codes.z_bg)
        expected = renderer.output(0.25, generator.camera_prior.at_angles(0.1, math.pi / 2, 1.0))
    found = views.render(request(LatentSelection(seed=3, motion_seed=5, truncation_psi=0.7)))
    assert torch.equal(found.image, expected.image) and torch.equal(found.depth, expected.depth)
    assert torch.equal(found.image_raw, expected.image_raw) and torch.equal(found.opacity, expected.opacity)


def test_a_volume_rendering_is_that_of_the_renderer(views, generator):
    codes = latents(0, 0)
    with torch.no_grad():
        ws = generator.mapping(codes.z)
        renderer = FrameRenderer(generator, ws, z_motion=codes.z_motion, z_bg=codes.z_bg)
        expected = renderer.volume(0.25, generator.camera_prior.at_angles(0.1, math.pi / 2, 1.0), resolution=16)
    found = views.volume(request(width=16))
    assert torch.equal(found.depth, expected.depth) and found.depth.shape == (1, 1, 16, 16)
    assert torch.equal(found.image_raw, expected.image_raw) and torch.equal(found.opacity, expected.opacity)


def test_layers_and_drafts_are_those_of_the_renderer(views):
    assert views.render(request(width=16)).image.shape == (1, 1, 3, 16, 16)
    assert not views.render(request(layers="background")).opacity.any()


def test_between_two_contents_styles_are_linear(views):
    styles = [views.styles(LatentSelection(seed=seed)) for seed in (2, 7)]
    blend = views.styles(LatentSelection(seed=2, other_seed=7, content_mix=0.25))
    assert torch.allclose(blend, 0.75 * styles[0] + 0.25 * styles[1], atol=1e-6)
    whole = views.render(request(LatentSelection(seed=2, other_seed=7, content_mix=1.0)))
    assert torch.allclose(whole.image, views.render(request(LatentSelection(seed=7))).image, atol=1e-4), (
        "and so is the background"
    )


def test_between_two_motions_codes_are_spherical(views, generator):
    renderer = views._renderer(LatentSelection(motion_seed=2, other_motion_seed=7, motion_mix=0.5))
    expected = slerp(latents(0, 2).z_motion, latents(0, 7).z_motion, 0.5)
    assert torch.equal(renderer.z_motion, expected)
    whole = views.render(request(LatentSelection(motion_seed=2, other_motion_seed=7, motion_mix=1.0)))
    assert torch.equal(whole.image, views.render(request(LatentSelection(motion_seed=7))).image)


def test_styles_of_another_content_in_some_layers(views):
    own, other = (views.styles(LatentSelection(seed=seed)) for seed in (0, 4))
    mixed = views.styles(LatentSelection(style_seed=4, style_layers=(2, 5)))
    taken = [i for i in range(views.num_layers) if torch.equal(mixed[:, i], other[:, i])]
    assert taken == [2, 3, 4, 5]
    assert torch.equal(mixed[:, [0, 1, 6]], own[:, [0, 1, 6]])


def test_few_renderers_are_kept(views):
    for seed in range(KEPT_RENDERERS + 3):
        views.render(request(LatentSelection(seed=seed)))
    kept = list(views._renderers.values())
    views.render(request(LatentSelection(seed=KEPT_RENDERERS + 2), camera=dataclasses.replace(CAMERA, yaw=0.3)))
    assert len(kept) == KEPT_RENDERERS and list(views._renderers.values()) == kept


def test_a_time_that_is_left_out_is_the_beginning(views):
    at = [dataclasses.replace(CAMERA, time=time) for time in (None, 0.0, 0.5)]
    images = [views.render(request(camera=camera)).image for camera in at]
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])


def test_classes():
    views = GeneratorViews(build_generator(dataclasses.replace(SMALL, c_dim=3)))
    assert views.num_classes == 3
    assert not torch.equal(views.styles(LatentSelection(class_idx=0)), views.styles(LatentSelection(class_idx=2)))
    with pytest.raises(ValueError, match="classes 0 to 2, not 3"):
        views.styles(LatentSelection(class_idx=3))


def test_labels_that_are_numbers_are_those_of_the_training_data():
    generator = build_generator(dataclasses.replace(SMALL, c_dim=3))
    generator.label_examples = torch.tensor([[0.5, 2, -1], [1, 1, 4.0]])
    views = GeneratorViews(generator)
    assert views.num_classes == 2
    z = generator_latents(generator, 7, 0).z
    expected = generator.mapping(z, torch.tensor([[1, 1, 4.0]]))
    assert torch.equal(views.styles(LatentSelection(seed=7, class_idx=1)), expected)


@pytest.mark.parametrize(
    "codes, message",
    [
        (LatentSelection(seed=-1), "seed must lie"),
        (LatentSelection(style_seed=1, style_layers=(0, 99)), "layers must lie"),
    ],
)
def test_what_does_not_exist_is_refused(views, codes, message):
    with pytest.raises(ValueError, match=message):
        views.render(request(codes))
