"""Rendering with fused MLPs: rays in one pass, and products of bfloat16."""

import copy
import dataclasses
import functools
import pickle

import pytest
import torch

from renderer.cameras import Cameras, camera_rays, pixel_centers
from renderer.rays import Rays, RenderSettings
from renderer.volume_rendering import march_foreground, render_rays
from tests.cpu_inference import needs_bfloat16, needs_native, psnr
from tests.goldens.checks import assert_near
from tests.goldens.evaluation import case_generator, case_inputs
from tests.goldens.networks import SMALL, build_generator
from tests.goldens.small_inputs import cameras, codes
from tests.small_network import small_generator
from torch_utils.custom_ops import plain_pytorch
from torch_utils.rng import RandomStream
from training.inference import frame_renderer
from training.inference.frame_renderer import FrameRenderer
from training.networks.cpu_inference import FusedForeground
from training.networks.density import DensityPrior
from training.networks.fields import ConditionedBlend, ConditionedForeground
from training.networks.upsampler import UpsamplerBlock


def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def foreground_and_rays(spec, *, pixels: int, frames: int, videos: int = 1):
    """The foreground of videos at some times, and rays of a camera through a square of pixels."""
    generator = build_generator(spec).requires_grad_(False)
    times = torch.linspace(0.1, 0.9, frames).expand(videos, -1)
    ws = generator.mapping(rand(videos, generator.z_dim, seed=4))
    motion = generator.motion(rand(videos, generator.motion_dim, seed=5), times)
    weights = generator.modulate(ws)
    origins, directions = camera_rays(generator.camera_prior.at(0.3, 0.8), pixel_centers(pixels))
    fields = generator.condition(
        weights, times=times, motion=motion, z_bg=torch.zeros(videos, generator.background_dim)
    )
    return fields.foreground, origins.expand(videos, -1, -1), directions.expand(videos, -1, -1)


@needs_native
@torch.no_grad()
@pytest.mark.parametrize(
    "samples,importance,multiplier,last_opaque,view,frames,videos",
    [
        (14, 14, 1, False, True, 1, 1),
        (6, 5, 1, True, False, 2, 3),
        (5, 9, 2, False, True, 2, 1),
        (4, 0, 3, True, True, 1, 2),
        (120, 7, 1, False, False, 1, 1),
    ],
)
def test_rays_marched_in_one_go_are_those_of_the_renderer(
    samples, importance, multiplier, last_opaque, view, frames, videos
):
    """Sums, weights, depth and transmittance; ray counts that are no multiple of a tile."""
    spec = dataclasses.replace(SMALL, view=view)
    field, origins, directions = foreground_and_rays(spec, pixels=5, frames=frames, videos=videos)
    settings = RenderSettings(num_samples=samples, num_importance=importance, sampling_multiplier=multiplier)
    marched = field.march(origins, directions, settings, last_opaque=last_opaque)
    expected = march_foreground(
        field, origins, directions, settings, num_frames=frames, last_opaque=last_opaque
    ).accumulate(settings)
    assert len(marched.features) == len(expected.features) == (2 if view else 1)
    assert 0.05 < expected.transmittance.mean() < 0.95  # there is something, and one can see through it
    pairs = [*zip(marched.features, expected.features, strict=True)]
    pairs += [(getattr(marched, name), getattr(expected, name)) for name in ("accumulation", "depth", "transmittance")]
    for actual, wanted in pairs:
        assert actual.shape == wanted.shape
        assert (actual - wanted).abs().max() <= 2e-5 * max(wanted.abs().max(), 1)


#: Widths, samples and pixels that are no multiples of a tile or a vector, with options of the fields and the upsampler.
ODD = [
    {"foreground": {"width": 7, "encoding": "isotropic", "feature_dim": 5}, "rendering": {"num_importance": 0}},
    {"foreground": {"width": 33, "static": "mask", "density_prior": {"peak": 9, "radius": 0.1}}, "background": None},
    {"foreground": {"width": 13, "static": "equal", "time_input": "raw"}, "motion": {"combine": "concat"}},
    {"foreground": {"width": 17, "view_directions": False, "time_input": "encoded"}, "upsampler": {"conv_clamp": 0.5}},
    {
        "foreground": {
            "width": 3, "encoding": "isotropic", "density_ramp": {"factor": 3, "start": 0, "end": 1},
            "density_prior": {"peak": 20, "radius": 0.05, "center": [0.02, -0.03, 0.05]},
        },
        "motion": {"frequency": 0.7, "use_content": True},
        "rendering": {"num_samples": 3, "num_importance": 1},
        "upsampler": {"mode": "pixelshuffle", "channel_max": 6},
    },
]  # fmt: skip


@pytest.mark.parametrize("videos, chunk", [(1, None), (3, 7)])
@pytest.mark.parametrize("changes", ODD)
def test_frames_and_volumes_are_those_of_the_plain_modules(changes, videos, chunk):
    """In double precision with gradients, which no fused operator computes."""
    multiplied = {"resolution": 4, "sampling_multiplier": 2, **changes.get("rendering", {})}
    generator = small_generator(**changes | {"resolution": 16, "rendering": multiplied})
    generator.set_progress(0.5)
    with torch.no_grad():
        getattr(generator.foreground, "dynamic", generator.foreground).density.bias.fill_(4)
    ws = rand(videos, generator.num_ws, generator.w_dim, seed=1)
    codes = {
        "z_motion": rand(videos, generator.motion_dim, seed=2), "z_bg": rand(videos, generator.background_dim, seed=3)
    }  # fmt: skip
    times, cameras = torch.linspace(0.2, 0.9, videos), generator.camera_prior.sample(videos, RandomStream(0))
    renderer = FrameRenderer(generator, ws, **codes, ray_chunk=chunk)
    frame, volume = renderer.output(times, cameras), renderer.volume(times, cameras, resolution=3)

    plain = copy.deepcopy(generator).double()
    inputs = {name: code.double() for name, code in codes.items()}
    inputs |= {"times": times[:, None].double(), "cameras": cameras}
    expected = plain.synthesize(ws.double(), **inputs)
    assert generator.background is None or 0.05 < expected.opacity.mean() < 0.95
    for name in ("image", "image_raw", "depth", "opacity"):
        assert_close(getattr(frame, name), getattr(expected, name))
    plain.pixels = functools.partial(plain.pixels, resolution=3)
    rays = plain.synthesize(ws.double(), **inputs)
    for name in ("image_raw", "depth", "opacity"):
        assert_close(getattr(volume, name), getattr(rays, name))


@needs_bfloat16
@torch.no_grad()
@pytest.mark.parametrize("mode", ["nn_cat", "pixelshuffle"])
@pytest.mark.parametrize("channels", [9, 10, 12, 16, 20])
def test_upsamplers_of_any_width_in_bfloat16(mode, channels):
    """Where channels, or the quarter of them in the correction, are odd, a block runs in float32."""
    generator = small_generator(
        resolution=16, rendering={"resolution": 8}, upsampler={"mode": mode, "channel_max": channels}
    )
    codes = {"z_motion": rand(1, generator.motion_dim, seed=2), "z_bg": rand(1, generator.background_dim, seed=3)}
    ws, camera = rand(1, generator.num_ws, generator.w_dim, seed=1), generator.camera_prior.at()
    exact = FrameRenderer(generator, ws, **codes).render(0.5, camera)
    half = FrameRenderer(generator, ws, **codes, precision="bfloat16").render(0.5, camera)
    assert 0 < (half - exact).abs().max() < 0.02 * exact.abs().max()


@needs_native
@torch.no_grad()
def test_a_background_that_depends_on_its_code_alone():
    """Its first layer has no inputs per point: natively, in plain PyTorch, and for one video or two."""
    generator = small_generator(resolution=16, background={"position_frequencies": 0, "width": 8, "num_layers": 2})
    ws = rand(2, generator.num_ws, generator.w_dim, seed=1)
    codes = {"z_motion": rand(2, generator.motion_dim, seed=2), "z_bg": rand(2, generator.background_dim, seed=3)}
    cameras = generator.camera_prior.at([0.1, 0.4])
    expected = FrameRenderer(generator, ws, **codes).output(0.5, cameras, layers="background").image_raw
    assert (expected[0] - expected[1]).abs().max() > 1e-3 and expected[0].flatten(2).std(-1).max() < 1e-5
    for video in range(2):
        one = {"ws": ws[video : video + 1], **{name: code[video : video + 1] for name, code in codes.items()}}
        with plain_pytorch():
            found = FrameRenderer(generator, **one).output(0.5, cameras[video], layers="background").image_raw
        assert_close(found[0], expected[video])


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.dtype == torch.float32 and found.shape == expected.shape
    assert (found - expected).abs().max() < 2e-5 * max(expected.abs().max(), 1)


@needs_native
def test_fields_are_not_fused_where_gradients_are_recorded():
    field, _, _ = foreground_and_rays(SMALL, pixels=2, frames=1)
    assert isinstance(field, ConditionedForeground)
    with torch.no_grad():
        field, _, directions = foreground_and_rays(SMALL, pixels=2, frames=1)
    assert isinstance(field, FusedForeground)
    points = rand(1, 1, 4, 5, 3).requires_grad_()  # normals need gradients of points, whatever the field was made for
    density, _ = field(points, torch.nn.functional.normalize(directions, dim=-1))
    (gradient,) = torch.autograd.grad(density.sum(), points)
    assert gradient.abs().max() > 0


@needs_bfloat16
@torch.no_grad()
@pytest.mark.parametrize("config", ["faceforensics", "taichi"])
def test_bfloat16_shows_the_same(config):
    """Above 45 dB (50 to 54 were measured), whichever frames a scene has shown before."""
    generator, inputs = case_generator(config, "c1"), case_inputs(config, "c1")
    codes = {"z_motion": inputs["z_motion"], "z_bg": inputs["z_bg"]}
    time, camera = inputs["times"][0, 1], inputs["cameras"]
    exact = FrameRenderer(generator, inputs["ws"], **codes).render(time, camera)
    scene = FrameRenderer(generator, inputs["ws"], precision="bfloat16", **codes)
    half = scene.render(time, camera)
    assert 48 < psnr(half, exact) < 70
    scene.render(0.9, generator.camera_prior.at(0.9, 0.1))
    assert_near(scene.render(time, camera), half, absolute=0, relative=0)


@torch.no_grad()
def test_a_precision_that_cannot_be_had(monkeypatch):
    monkeypatch.setattr(frame_renderer, "has_fused_mlp", lambda device, precision: False)
    generator = build_generator(SMALL)
    codes = {"z_motion": rand(1, generator.motion_dim), "z_bg": rand(1, generator.background_dim)}
    ws = generator.mapping(rand(1, generator.z_dim))
    with pytest.raises(ValueError, match="bfloat16 is not available: it needs a CPU with bfloat16 products"):
        FrameRenderer(generator, ws, precision="bfloat16", **codes)
    FrameRenderer(generator, ws, **codes)


class Brighter(UpsamplerBlock):
    """A block of one's own."""

    def forward(self, *arguments, **options):
        x, colours = super().forward(*arguments, **options)
        return x, colours + 1


def _by_hook(block):
    block.register_forward_hook(lambda module, inputs, results: (results[0], results[1] + 1))


def _by_class(block):
    block.__class__ = Brighter
    return block


def _by_method(block):
    block.forward = Brighter.forward.__get__(_by_class(copy.copy(block)))


@torch.no_grad()
@pytest.mark.parametrize("change", [_by_hook, _by_class, _by_method], ids=["hook", "class", "method"])
def test_changes_of_a_block_are_rendered(change):
    """Fused blocks would show the images of the unchanged one, without a word."""
    generator = build_generator(SMALL)
    inputs = codes()
    before = FrameRenderer(generator, **inputs).render(0.3, cameras())
    change(list(generator.upsampler.blocks.values())[-1])
    after = FrameRenderer(generator, **inputs).render(0.3, cameras())
    assert_near(after, before + 1)


@torch.no_grad()
def test_hooks_read_the_features_of_the_upsampler():
    generator, seen = build_generator(SMALL), []
    block = list(generator.upsampler.blocks.values())[-1]
    block.conv1.register_forward_hook(lambda module, inputs, result: seen.append(tuple(result.shape)))
    frame = FrameRenderer(generator, **codes()).render(0.3, cameras())
    assert seen == [(len(frame), 1, *frame.shape[2:], block.conv1.linear.weight.shape[0])]


@torch.no_grad()
def test_fields_of_derived_classes_are_evaluated(monkeypatch):
    """Marched in one operator, they would be those of the class that they are derived from."""

    class Empty(ConditionedForeground):
        def __call__(self, points, directions):
            density, features = super().__call__(points, directions)
            return density.new_full(density.shape, -1.0), features

    generator = build_generator(SMALL)
    monkeypatch.setattr("training.networks.fields.ConditionedForeground", Empty)
    output = FrameRenderer(generator, **codes()).output(0.3, cameras())
    assert output.opacity.abs().max() < 1e-6


class Opposite(DensityPrior):
    def __call__(self, points, *, scale=1.0):
        return -super().__call__(points, scale=scale)


class Halved(ConditionedBlend):
    def __call__(self, points, directions):
        density, features = super().__call__(points, directions)
        return density / 2, features


@pytest.mark.parametrize("own", ["prior", "blend"])
def test_own_priors_and_blends_are_rendered_as_they_are_trained(own, monkeypatch):
    prior = {"peak": 40, "radius": 0.1}
    generator = small_generator(foreground={"density_prior": prior, "static": "equal" if own == "blend" else "none"})
    plain = FrameRenderer(generator, **codes()).output(0.3, cameras())
    if own == "prior":
        generator.foreground.density_prior = Opposite(**prior)
    monkeypatch.setattr("training.networks.fields.ConditionedBlend", Halved)
    rendered = FrameRenderer(generator, **codes()).output(0.3, cameras())
    latents = codes()
    trained = generator.synthesize(
        latents.pop("ws"), **latents, times=torch.full([len(rendered.depth), 1], 0.3), cameras=cameras()
    )
    assert (rendered.opacity - trained.opacity).abs().max() < 1e-4
    assert (rendered.opacity - plain.opacity).abs().max() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_copies_of_a_renderer_show_the_same(copied):
    renderer = FrameRenderer(build_generator(SMALL), **codes())
    frame = renderer.render(0.3, cameras())
    twin = copied(renderer)
    for parameter in renderer.generator.parameters():
        parameter.zero_()
    assert torch.equal(twin.render(0.3, cameras()), frame)


@needs_native
def test_gradients_after_weights_and_fields_were_made_without(generator):
    """Those of a pose, for fixed codes: the native operators record none."""
    times, codes = torch.tensor([[0.4]]), {"z_bg": rand(1, generator.background_dim, seed=7)}
    ws, z_motion = rand(1, generator.num_ws, generator.w_dim, seed=8), rand(1, generator.motion_dim, seed=9)
    camera = generator.camera_prior.at(0.3, 0.6)
    gradients = []
    for recorded in (True, False):
        pose = camera.cam2world.clone().requires_grad_(True)
        with torch.set_grad_enabled(recorded):
            weights = generator.modulate(ws)
            motion = generator.motion_vectors(ws, z_motion, times)
            fields = generator.condition(weights, times=times, motion=motion, **codes)
        rays = Rays(*camera_rays(Cameras(cam2world=pose, fov=camera.fov), generator.pixels(ws)))
        rendered = render_rays(fields, rays, generator.settings, frames=1)
        image = generator.upsample(rendered, weights).image
        (gradient,) = torch.autograd.grad(image.square().mean() + rendered.values.square().mean(), pose)
        gradients.append(gradient)
    assert gradients[0].norm() > 1e-3
    assert_near(gradients[1], gradients[0], relative=1e-4)
