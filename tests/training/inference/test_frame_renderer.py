"""Scenes: the layers of a frame by themselves, and drafts."""

import dataclasses

import pytest
import torch

from renderer.cameras import Cameras
from tests.goldens.checks import assert_near
from tests.goldens.networks import SMALL, build_generator
from tests.goldens.small_inputs import cameras, codes
from training.inference import frame_renderer
from training.inference.frame_renderer import FrameRenderer

TIME = 0.3


@pytest.fixture(scope="module")
def renderer(generator):
    return FrameRenderer(generator, **codes())


def test_layers_add_up_to_the_frame(renderer):
    both, front, back = (renderer.output(TIME, cameras(), layers=name) for name in ("both", "foreground", "background"))
    opacity = both.opacity[:, :, None]
    assert opacity.min() < 0.9 and opacity.max() > 0.1, "nothing would be tested"
    assert_near(opacity * front.image_raw + (1 - opacity) * back.image_raw, both.image_raw)
    assert torch.equal(front.opacity, both.opacity) and torch.equal(front.depth, both.depth)
    assert not back.opacity.any() and not back.depth.any()
    assert back.image.shape == both.image.shape and not torch.allclose(back.image, front.image)


def test_the_order_of_layers_does_not_matter(generator, renderer):
    """The cache from frame to frame belongs to no layer."""
    fresh = FrameRenderer(generator, **codes()).output(TIME, cameras()).image
    for layers in ("background", "foreground", "both"):
        image = renderer.output(TIME, cameras(), layers=layers).image
    assert torch.equal(image, fresh)


def test_the_background_is_the_same_at_all_times(renderer):
    first, later = (renderer.output(time, cameras(), layers="background").image for time in (0, 1))
    assert torch.equal(first, later)


def test_without_a_background_the_foreground_is_everything():
    alone = FrameRenderer(build_generator(dataclasses.replace(SMALL, background=False)), **codes())
    both, front = (alone.output(TIME, cameras(), layers=name) for name in ("both", "foreground"))
    assert torch.equal(both.image, front.image)
    with pytest.raises(ValueError, match="has no background"):
        alone.output(TIME, cameras(), layers="background")


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "modules"])
def test_a_draft_is_what_the_first_blocks_give(generator, fused):
    """A generator that ends at 16² and has the same weights."""
    short = build_generator(dataclasses.replace(SMALL, resolution=16))
    short.load_state_dict({name: x for name, x in generator.state_dict().items() if name in short.state_dict()})
    inputs = codes()
    renderers = [
        FrameRenderer(generator, **inputs),
        FrameRenderer(short, **inputs | {"ws": inputs["ws"][:, : short.num_ws]}),
    ]
    if not fused:
        for renderer in renderers:
            renderer._weights.fused = None
    full, expected = (renderer.output(TIME, cameras()) for renderer in renderers)
    draft = renderers[0].output(TIME, cameras(), resolution=16)
    assert_near(draft.image, expected.image)
    assert torch.equal(draft.image_raw, full.image_raw) and torch.equal(draft.depth, full.depth)
    assert torch.equal(renderers[0].output(TIME, cameras(), resolution=32).image, full.image)
    raw = renderers[0].output(TIME, cameras(), resolution=8)
    assert torch.equal(raw.image, raw.image_raw)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "modules"])
def test_the_volume_alone(generator, fused):
    """At the frame's resolution its very maps, beside frames of the same camera; in chunks as well."""
    renderer = FrameRenderer(generator, **codes())
    if not fused:
        renderer._weights.fused = None
    frame, volume = renderer.output(TIME, cameras()), renderer.volume(TIME, cameras())
    assert_parts_equal(volume, frame)
    renderer.volume(TIME, cameras(), resolution=5)
    assert torch.equal(renderer.output(TIME, cameras()).image, frame.image), "the view of another resolution"


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "modules"])
def test_a_finer_volume(generator, monkeypatch, fused):
    """Three times as many rays per side: those in the middle are the frame's with three times the samples."""
    renderer, width = FrameRenderer(generator, **codes()), SMALL.volume
    if not fused:
        renderer._weights.fused = None
    fine = renderer.volume(TIME, cameras(), resolution=3 * width)
    assert fine.image_raw.shape == (*renderer.ws.shape[:1], 1, 3, 3 * width, 3 * width)
    chunked = FrameRenderer(generator, **codes(), ray_chunk=50)
    chunked._weights = renderer._weights
    for part, whole in zip(parts(chunked.volume(TIME, cameras(), resolution=3 * width)), parts(fine)):
        assert_near(part, whole)
    more = dataclasses.replace(generator.settings, sampling_multiplier=3)
    monkeypatch.setattr(generator, "settings", more)
    for part, whole in zip(parts(fine), parts(renderer.output(TIME, cameras()))):
        assert_near(part[..., 1::3, 1::3], whole)


def parts(output):
    return output.image_raw, output.depth, output.opacity


def assert_parts_equal(output, expected):
    assert all(torch.equal(*pair) for pair in zip(parts(output), parts(expected)))


@pytest.mark.parametrize("multiplier", [1, 3])
def test_a_coarser_volume_has_the_samples_of_frames(generator, renderer, monkeypatch, multiplier):
    monkeypatch.setattr(generator, "settings", dataclasses.replace(generator.settings, sampling_multiplier=multiplier))
    volume = renderer.volume(TIME, cameras(), resolution=2)
    assert volume.depth.shape[-2:] == (2, 2)
    monkeypatch.setattr(generator, "settings", dataclasses.replace(generator.settings, resolution=2))
    with torch.no_grad():
        rendered = renderer._render(TIME, cameras(), generator.settings)
    assert torch.equal(volume.depth.flatten(2), rendered.depth)


def test_mistakes_are_named(renderer):
    with pytest.raises(ValueError, match="resolution of a volume rendering must be positive, got 0"):
        renderer.volume(TIME, cameras(), resolution=0)
    for wrong in ("8", 2.5):
        with pytest.raises(ValueError, match=rf"^resolution must be a whole number, got {wrong!r}\.$"):
            renderer.volume(TIME, cameras(), resolution=wrong)
    with pytest.raises(ValueError, match="layers must be both, foreground or background, got 'front'"):
        renderer.output(TIME, cameras(), layers="front")
    with pytest.raises(ValueError, match="the image can be 8, 16, 32 wide, not 12"):
        renderer.output(TIME, cameras(), resolution=12)


@pytest.mark.parametrize("precision, given", [("bf16", "'bf16'"), (None, "None"), (torch.float32, "dtype")])
@pytest.mark.parametrize("gpu", [False, True])
def test_precisions_have_two_names(generator, monkeypatch, precision, given, gpu):
    monkeypatch.setattr(frame_renderer, "multiplies_bfloat16", lambda device: gpu)
    with pytest.raises(ValueError) as error:
        FrameRenderer(generator, **codes(), precision=precision)
    assert str(error.value) == f"precision must be float32 or bfloat16, got {given}."


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"ws": torch.zeros(2, 3)}, "ws must be [B, {num_ws}, {w_dim}], got [2, 3]."),
        ({"z_bg": codes(batch=3)["z_bg"]}, "z_bg must be [B, {background_dim}] with B = 2, got [3, {background_dim}]."),
        ({"z_motion": None}, "z_motion must be a tensor [B, {motion_dim}], got None."),
        ({"ray_chunk": 0}, "ray_chunk must be a whole number of at least 1, got 0."),
        ({"ray_chunk": 7.5}, "ray_chunk must be a whole number of at least 1, got 7.5."),
        ({"cameras": [cameras()]}, "cameras must be renderer.cameras.Cameras, as G.camera() gives them, got several; "
         "Cameras.join makes one of them."),
        ({"time": "0.5"}, "time must be a number or [2], got '0.5'."),
        ({"time": torch.zeros(3)}, "time must be a number or [2], got Tensor [3]."),
    ],
)  # fmt: skip
def test_codes_cameras_and_times_are_checked(generator, wrong, message):
    view = {name: wrong.pop(name, default) for name, default in (("time", TIME), ("cameras", cameras()))}
    with pytest.raises(ValueError) as error:
        FrameRenderer(generator, **codes() | wrong).render(**view)
    sizes = ("num_ws", "w_dim", "motion_dim", "background_dim")
    assert str(error.value) == message.format(**{name: getattr(generator, name) for name in sizes})


class OnAFullGPU(torch.Tensor):
    def to(self, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_a_full_gpu_is_no_wrong_time_or_camera(generator):
    full = torch.tensor(0.5, dtype=torch.float32).as_subclass(OnAFullGPU)
    with pytest.raises(torch.OutOfMemoryError):
        FrameRenderer(generator, **codes()).render(full, cameras())
    with pytest.raises(torch.OutOfMemoryError):
        generator.camera_prior.at(full.double())


def test_a_view_is_that_of_its_own_cameras(generator):
    """Of threads that share a renderer one may store its view before another has read its own."""
    renderer = FrameRenderer(generator, **codes())
    first, second = (generator.camera_prior.at(yaw).repeat(2) for yaw in (0.1, 0.9))
    expected = renderer.render(TIME, first)

    class Overtaken(dict):
        def __setitem__(self, resolution, view):
            super().__setitem__(resolution, other)

    renderer.render(TIME, second)
    [other] = renderer._views.values()
    renderer._views = Overtaken()
    assert torch.equal(renderer.render(TIME, first), expected)


def test_callers_may_reuse_their_tensors(generator):
    """And edit what they get: the renderer keeps rays, backgrounds and codes of its own."""
    given, first, second = codes(), *(generator.camera_prior.at(yaw).repeat(2) for yaw in (0.1, 0.9))
    pose, fov = first.cam2world.clone(), first.fov.clone()
    expected = [FrameRenderer(generator, **codes()).output(TIME, c, layers="background") for c in (first, second)]
    renderer = FrameRenderer(generator, **given)
    for tensor in given.values():
        tensor.zero_()
    for seen, exact in zip((first, second), expected, strict=True):
        pose.copy_(seen.cam2world), fov.copy_(seen.fov)
        for _ in range(2):
            found = renderer.output(TIME, Cameras(cam2world=pose, fov=fov), layers="background")
            assert torch.equal(found.image, exact.image) and torch.equal(found.image_raw, exact.image_raw)
            found.image_raw.zero_()
    assert not torch.equal(expected[0].image, expected[1].image)
    exact = FrameRenderer(generator, **codes()).render(TIME, second)
    assert torch.equal(renderer.render(TIME, Cameras(cam2world=pose, fov=fov)), exact)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "modules"])
@pytest.mark.parametrize("radius", [0.6, 1.7])
def test_cameras_nearer_or_farther_than_in_training(generator, monkeypatch, fused, radius):
    """Each looks at the scene through a range of depths that has moved with it; a trained one is as before."""
    poses = generator.camera_prior.at_angles([0.2, 0.4], 1.5, [radius, 1.0], fov=[18 / radius, 18.0])
    renderer, settings = FrameRenderer(generator, **codes()), generator.settings
    if not fused:
        renderer._weights.fused = None
    found = renderer.output(TIME, poses)
    trained = renderer.output(TIME, poses[1].repeat(2))
    assert torch.equal(found.image[1], trained.image[1]) and torch.equal(found.depth[1], trained.depth[1])
    together = generator.synthesize(**codes(), times=torch.full([2, 1], TIME), cameras=poses)  # with gradients
    for part, whole in zip(parts(together), parts(found), strict=True):
        assert_near(part.detach(), whole)

    monkeypatch.setattr(generator, "depth_offsets", lambda cameras: torch.zeros(len(cameras)))
    cut = FrameRenderer(generator, **codes()).output(TIME, poses)
    moved = dataclasses.replace(settings, near=settings.near + radius - 1, far=settings.far + radius - 1)
    monkeypatch.setattr(generator, "settings", moved)
    expected = FrameRenderer(generator, **codes()).output(TIME, poses)
    for name in ("image", "image_raw", "depth", "opacity"):
        assert_near(getattr(found, name)[0], getattr(expected, name)[0])
    assert (cut.image_raw[0] - expected.image_raw[0]).abs().max() > 0.1
