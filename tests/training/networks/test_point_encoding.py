"""Positional encodings of the foreground's points: frequencies, amplitudes, and every path that evaluates the field."""

import dataclasses
import math

import pytest
import torch

from dnnlib import UserError
from renderer.cameras import camera_rays, pixel_centers
from renderer.rays import RenderSettings
from renderer.volume_rendering import march_foreground
from tests.cpu_inference import CPU, assert_marched_alike, needs_bfloat16, needs_native, psnr
from tests.goldens.checks import assert_near
from tests.goldens.evaluation import case_generator, case_inputs
from tests.goldens.networks import SMALL, generator_config
from tests.goldens.small_losses import gradients, make_loss, real_batch
from tests.small_network import SIZES, save_small_network
from torch_utils.ops.fused_mlp import FusedMLP, has_fused_mlp
from torch_utils.ops.point_linear import lrelu_
from torch_utils.rng import RandomStream
from training.checkpoints.snapshot import load_average_generator
from training.inference.frame_renderer import FrameRenderer
from training.launch.build import build_networks
from training.launch.config import compose_options
from training.networks.cpu_inference import FusedField, FusedForeground
from training.networks.density import DensityPrior
from training.networks.generator import Generator
from training.networks.layers import (
    ENCODINGS,
    PointEncoding,
    isotropic_waves,
    octaves,
    positional_encoding,
    sinusoid_order,
)

PRIOR = {"peak": 25, "radius": 0.04, "center": [0.02, -0.03, 0.05]}


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def generator_with(encoding, *, prior=None, spec=SMALL):
    """The small generator with random weights that do not depend on the encoding."""
    config = generator_config(spec)
    config["foreground"] |= {"encoding": encoding, "density_prior": prior}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Generator(**config).eval()


# ----------------------------------------------------------------------------------------------------------------------
# Frequencies


def test_waves_and_amplitudes_of_six_octaves():
    """To the bit, since weights are trained for them; the first two vectors by hand."""
    index = torch.arange(18, dtype=torch.float64)
    z, azimuth = 1 - (2 * index + 1) / 18, 2 * math.pi * index * ((5**0.5 - 1) / 2)
    r = (1 - z * z).sqrt()
    directions = torch.stack([r * azimuth.cos(), r * azimuth.sin(), z], 1)
    low, high = 1 * math.pi, 32 * math.pi
    magnitudes = low * (high / low) ** (((torch.arange(18) * 7) % 18).double() / 17)
    waves, amplitudes = isotropic_waves(6)
    vectors, phases = waves[:, :3], waves[:, 3]
    assert torch.equal(vectors, (directions * magnitudes[:, None]).float())
    assert torch.equal(phases, (2 * math.pi * (index * math.sqrt(2) % 1)).float())
    assert phases[0] == 0 and phases[1] == pytest.approx(2 * math.pi * 0.41421356, rel=1e-6)
    assert torch.equal(amplitudes, (4 * math.pi / magnitudes).sqrt().clamp(max=1).float())

    assert_near(vectors[0], torch.tensor([math.sqrt(35) / 18, 0, 17 / 18]) * math.pi, relative=1e-6)
    second = 32 ** (7 / 17) * math.pi
    assert_near(vectors[1].norm(), torch.tensor(second), relative=1e-6)
    assert_near(vectors[1, 2], torch.tensor(15 / 18 * second), relative=1e-6)
    assert amplitudes[0] == 1 and amplitudes[1] == pytest.approx(math.sqrt(4 / 32 ** (7 / 17)), rel=1e-6)
    assert amplitudes.min() == pytest.approx(math.sqrt(4 / 32), rel=1e-6)


@pytest.mark.parametrize("frequencies", range(1, 23))
def test_magnitudes_are_spread_over_the_directions(frequencies):
    """Each of 3 L steps from pi to 2^(L − 1) pi occurs once, also where 7 divides L; none is in favour of a side."""
    waves, amplitudes = isotropic_waves(frequencies)
    vectors, phases = waves.split([3, 1], dim=1)
    count, magnitudes = 3 * frequencies, vectors.double().norm(dim=1)
    assert vectors.shape == (count, 3) and amplitudes.shape == (count,)
    steps = torch.logspace(0, frequencies - 1, count, base=2, dtype=torch.float64) * math.pi
    assert_near(magnitudes.sort().values, steps, relative=1e-6)
    assert_near(amplitudes, (4 * math.pi / magnitudes).sqrt().clamp(max=1), relative=1e-6)
    directions = vectors.double() / magnitudes[:, None]
    assert directions.mean(dim=0).norm() < 0.3 / frequencies
    if frequencies > 2:  # like all directions: one third along each axis
        assert_near(directions.T @ directions / count, torch.eye(3) / 3, absolute=0.3 / count)
    if frequencies > 2:  # nor of a phase
        assert (phases.cos().mean() ** 2 + phases.sin().mean() ** 2).sqrt() < 2 / count
    if frequencies > 3:
        neighbours = (magnitudes[1:] / magnitudes[:-1]).log2().abs()  # on the lattice
        assert neighbours.min() > 1


def test_octaves_are_vectors_along_the_axes():
    points = rand(4, 5, 3)
    encoding, order = ENCODINGS["octaves"](3), sinusoid_order(3, 3)
    assert torch.equal(encoding(points), positional_encoding(points, 3)[..., order])
    waves = encoding.waves(points)
    assert waves.shape == (9, 4) and waves.dtype == torch.float64 and not waves[:, 3].any()
    vectors = waves[:, :3]
    axes = torch.eye(3, dtype=torch.float64)
    assert torch.equal(vectors[:3], math.pi * axes) and torch.equal(vectors[6:], 4 * math.pi * axes)
    # The zeros in a vector do not round: the same angles to the bit.
    angles = (points.float()[..., None, :] * vectors.float()).sum(-1)
    assert torch.equal(angles, (points.float()[..., None, :] * octaves(3, points.float())[:, None]).flatten(-2))


@pytest.mark.parametrize("kind", ["octaves", "isotropic"])
@pytest.mark.parametrize("dtype, error", [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_sines_then_cosines_of_the_waves(kind, dtype, error):
    points, encoding = rand(2, 1, 7, 5, 3, dtype=dtype) / 4, ENCODINGS[kind](6)
    waves = encoding.waves(points).double()
    angles = points.double() @ waves[:, :3].T + waves[:, 3]
    assert encoding(points).shape == (2, 1, 7, 5, 36) and encoding.num_outputs == 36
    assert encoding(points).dtype == dtype
    assert_near(encoding(points), torch.cat([angles.sin(), angles.cos()], dim=-1), absolute=error)


def test_waves_first_used_for_rendering_serve_training():
    with torch.inference_mode():
        ENCODINGS["isotropic"](17)(torch.zeros(1, 3))
    points = torch.ones(1, 3, requires_grad=True)
    ENCODINGS["isotropic"](17)(points).sum().backward()
    assert points.grad.abs().max() > 0


# ----------------------------------------------------------------------------------------------------------------------
# The field


def test_amplitudes_in_the_weight_are_amplitudes_of_the_inputs():
    """With two octaves all are 1. Columns beyond the encoded points stay as they are."""
    points, weight, others = rand(5, 3), rand(2, 4, 15, seed=1), rand(5, 3, seed=2)
    assert torch.equal(ENCODINGS["isotropic"](2).fold(weight), weight)
    encoding, weight = ENCODINGS["isotropic"](6), rand(2, 4, 39, seed=3)
    waves, amplitudes = (x.double() for x in isotropic_waves(6))
    angles = points @ waves[:, :3].T + waves[:, 3]
    scaled = torch.cat([angles.sin() * amplitudes, angles.cos() * amplitudes, others], dim=-1)
    folded = encoding.fold(weight) @ torch.cat([encoding(points), others], dim=-1).T
    assert_near(folded, weight @ scaled.T, relative=1e-12)
    assert not torch.allclose(folded, weight @ torch.cat([encoding(points), others], dim=-1).T)


@torch.no_grad()
@pytest.mark.parametrize("time_input", ["none", "raw", "encoded"])
def test_the_first_layer_sees_scaled_sines_and_cosines(time_input):
    """Its modulated and demodulated weight, applied to [A sin, A cos, time], the time in octaves."""
    spec = dataclasses.replace(SMALL, time_input=time_input, octaves=5)
    field = generator_with("isotropic", spec=spec).foreground.double()
    ws, times = rand(1, field.num_ws, SMALL.w_dim, seed=1), torch.tensor([[0.3]], dtype=torch.float64)
    conditioned = field.condition(field.modulate(ws), times=times, motion=rand(1, 1, field.width, seed=2))
    points = rand(1, 1, 2, 4, 3) / 10
    weight, bias, frame_bias = conditioned.layers[0]
    found = lrelu_(conditioned.encode(points)[0, 0] @ weight[0].T + (bias if frame_bias is None else frame_bias[0, 0]))

    waves, amplitudes = (x.double() for x in isotropic_waves(5))
    angles = points[0, 0] @ waves[:, :3].T + waves[:, 3]
    inputs = [angles.sin() * amplitudes, angles.cos() * amplitudes]
    if time_input != "none":
        time = times.expand(2, 4, 1)
        inputs.append(time if time_input == "raw" else positional_encoding(time, 5))
    weight, bias = field.layers[0].modulate(ws[:, 0])
    assert_near(found, lrelu_(torch.cat(inputs, dim=-1) @ weight[0].T + bias), relative=1e-12)


@pytest.mark.parametrize("phase", ["Gmain", "Greg"])
def test_training_and_activation_checkpointing(phase):
    def run(kind, checkpointing):
        loss, generator, discriminators, reports = make_loss()
        generator.foreground.encoding = ENCODINGS[kind](SMALL.octaves)
        generator.activation_checkpointing = checkpointing
        loss.accumulate(phase, batch=real_batch(), gain=2.0, stream=RandomStream(3))
        return gradients(generator) | reports

    kept, again, other = run("isotropic", False), run("isotropic", True), run("octaves", False)
    assert kept.keys() == again.keys() == other.keys()
    for name, value in kept.items():
        assert value.isfinite().all() and torch.equal(again[name], value), name
    name = "foreground.layers.0.weight"
    assert kept[name].abs().max() > 0 and not torch.allclose(kept[name], other[name])


# ----------------------------------------------------------------------------------------------------------------------
# Inference


@needs_native
@pytest.mark.parametrize("prior", [None, PRIOR])
@pytest.mark.parametrize("samples, importance, view, frames", [(14, 14, True, 1), (6, 5, False, 2), (7, 0, True, 2)])
@pytest.mark.parametrize("frequencies", [1, 4, 6])
def test_fused_inference_and_native_marching(frequencies, samples, importance, view, frames, prior):
    """Against the plain field in plain PyTorch, within rounding; ray counts that are no multiple of a tile."""
    spec = dataclasses.replace(SMALL, view=view, octaves=frequencies)
    generator = generator_with("isotropic", prior=prior, spec=spec).requires_grad_(False)
    assert_marched_alike(generator, samples=samples, importance=importance, frames=frames)


@needs_bfloat16
@torch.no_grad()
@pytest.mark.parametrize("kind", ["octaves", "isotropic"])
def test_marching_in_bfloat16_rounds_like_plain_pytorch(kind):
    """Its errors are at most twice those of the same products in plain PyTorch, with means of all points."""
    generator, inputs = case_generator("faceforensics", "c1"), case_inputs("faceforensics", "c1")
    field, times = generator.foreground, inputs["times"][:, :1]
    field.encoding = ENCODINGS[kind](field.encoding.frequencies)
    weights, motion = field.modulate(inputs["ws"]), generator.motion(inputs["z_motion"], times)
    exact = field.condition(weights, times=times, motion=motion)
    fused, reference = (FusedForeground(exact, "bfloat16", {}) for _ in range(2))
    reference._mlps = [FusedMLP(x.layers, precision="bfloat16", impl="ref") for x in reference._mlps]
    origins, directions = camera_rays(generator.camera_prior.at(0.1, 1.5), pixel_centers(16))
    settings = RenderSettings(num_samples=14, num_importance=14)

    def accumulated(field):
        march = march_foreground(field, origins, directions, settings, num_frames=1, last_opaque=False)
        return march.accumulate(settings)

    wanted, plain = accumulated(exact), accumulated(reference)
    found = fused.march(origins, directions, settings, last_opaque=False)
    assert 0.1 < wanted.accumulation.mean() < 0.9
    for name in ("accumulation", "transmittance"):
        actual, rounded, expected = (getattr(x, name) for x in (found, plain, wanted))
        assert 0 < (actual - expected).square().mean() < 4 * (rounded - expected).square().mean(), name


@needs_bfloat16
@torch.no_grad()
def test_bfloat16_shows_the_same():
    """Above 45 dB, as with octaves and a density prior."""
    generator, inputs = case_generator("faceforensics", "c1"), case_inputs("faceforensics", "c1")
    codes = {"z_motion": inputs["z_motion"], "z_bg": inputs["z_bg"]}
    time, camera = inputs["times"][0, 1], inputs["cameras"]
    generator.foreground.density_prior = DensityPrior(peak=60, radius=0.06)
    before = FrameRenderer(generator, inputs["ws"], **codes).render(time, camera)
    generator.foreground.encoding = ENCODINGS["isotropic"](generator.foreground.encoding.frequencies)
    exact, half = (
        FrameRenderer(generator, inputs["ws"], precision=precision, **codes).render(time, camera)
        for precision in ("float32", "bfloat16")
    )
    assert 45 < psnr(half, exact) < 75
    assert psnr(before, exact) < 30


class TriangleEncoding(PointEncoding):
    """Triangle waves along each axis: no sines."""

    def __call__(self, points):
        angles = (points[..., None, :] * octaves(self.frequencies, points)[:, None]).flatten(-2)
        return torch.cat([angles.sin().asin(), angles.cos().asin()], dim=-1)


class CubedEncoding(ENCODINGS["octaves"]):
    """Sines and cosines to the third power: not those of the waves that it inherits."""

    def __call__(self, points):
        return super().__call__(points) ** 3


class PlaneEncoding(torch.nn.Module):
    """Features of three axis-aligned planes (EG3D): an encoding with parameters."""

    def __init__(self, frequencies):
        super().__init__()
        self.planes = torch.nn.Parameter(torch.randn(3, 2 * frequencies, 8, 8))

    @property
    def num_outputs(self):
        return 3 * self.planes.shape[1]

    def forward(self, points):
        flat = points.reshape(-1, 3) / 0.2
        places = torch.stack([flat[:, [0, 1]], flat[:, [0, 2]], flat[:, [1, 2]]])[:, None]
        found = torch.nn.functional.grid_sample(self.planes, places, align_corners=True, padding_mode="border")
        return found[:, :, 0].permute(2, 0, 1).reshape(*points.shape[:-1], self.num_outputs)

    def fold(self, weight):
        return weight


@pytest.mark.parametrize("kind", [TriangleEncoding, CubedEncoding, PlaneEncoding])
@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=needs_bfloat16)])
def test_an_encoding_without_waves_is_rendered_as_it_is_trained(precision, kind, monkeypatch):
    """Its rays are not marched by the native operator, which knows sines alone."""
    monkeypatch.setitem(ENCODINGS, "triangle", kind)
    generator, other = (generator_with(kind).requires_grad_(False) for kind in ("triangle", "octaves"))
    other.load_state_dict(generator.state_dict(), strict=kind is not PlaneEncoding)
    codes = {
        "z_motion": rand(1, generator.motion_dim, seed=1).float(),
        "z_bg": torch.zeros(1, generator.background_dim),
    }
    camera, time = generator.camera_prior.at(0.3, 0.8), torch.tensor([[0.4]])

    def trained(generator):
        ws = generator.mapping(rand(1, generator.z_dim, seed=4).float())
        return ws, generator.synthesize(ws, times=time, cameras=camera, **codes).image[:, 0]

    ws, expected = trained(generator)
    rendered = FrameRenderer(generator, ws, precision=precision, **codes).render(0.4, camera)
    if precision == "float32":
        assert_near(rendered, expected, relative=1e-4)
    with torch.no_grad():
        weights = generator.modulate(ws, precision)
        fields = generator.condition(
            weights, times=time, motion=generator.motion_vectors(ws, codes["z_motion"], time), z_bg=codes["z_bg"]
        )
    assert isinstance(fields.foreground, FusedField) or not has_fused_mlp(CPU, precision)
    assert not hasattr(fields.foreground, "march")
    assert (rendered - expected).abs().max() < 0.1 * (trained(other)[1] - expected).abs().max()


@pytest.mark.parametrize("phase, checkpointing", [("Gmain", False), ("Gmain", True), ("Greg", False)])
def test_an_encoding_with_parameters_is_trained_and_saved(phase, checkpointing, monkeypatch, tmp_path):
    """Gradients reach its parameters, and snapshots hold them."""
    monkeypatch.setitem(ENCODINGS, "planes", PlaneEncoding)
    loss, generator, _, _ = make_loss()
    config = generator.config | {"foreground": generator.config["foreground"] | {"encoding": "planes"}}
    loss.generator = generator = Generator(**config).train()
    generator.activation_checkpointing = checkpointing
    loss.accumulate(phase, batch=real_batch(), gain=1.0, stream=RandomStream(3))
    planes = generator.foreground.encoding.planes
    assert dict(generator.named_parameters())["foreground.encoding.planes"] is planes
    assert planes.grad.isfinite().all() and planes.grad.abs().max() > 0

    made = save_small_network(tmp_path, generator.eval())
    loaded = load_average_generator(tmp_path)
    assert torch.equal(loaded.foreground.encoding.planes, made.foreground.encoding.planes)


@torch.no_grad()
def test_snapshots_keep_it(tmp_path):
    """And those of earlier versions, whose configurations do not mention it, have octaves."""
    made = save_small_network(tmp_path, generator_with("isotropic", prior=PRIOR))
    loaded = load_average_generator(tmp_path)
    assert loaded.config == made.config and loaded.config["foreground"]["encoding"] == "isotropic"
    assert loaded.foreground.encoding == ENCODINGS["isotropic"](SMALL.octaves)
    codes = {
        "z_motion": torch.zeros(1, SIZES["motion_dim"]),
        "z_bg": torch.zeros(1, SIZES["background_dim"]),
    }
    frames = [
        FrameRenderer(generator, generator.mapping(torch.zeros(1, SIZES["z_dim"])), **codes).render(
            0.5, generator.camera_prior.at(0.2, 1.5)
        )
        for generator in (made, loaded)
    ]
    assert torch.equal(*frames)

    earlier = tmp_path / "earlier"
    earlier.mkdir()
    config = generator_config(SMALL)
    assert "encoding" not in config["foreground"]
    save_small_network(earlier, Generator(**config).eval())
    assert load_average_generator(earlier).foreground.encoding == ENCODINGS["octaves"](SMALL.octaves)


def test_it_is_an_option_of_the_model():
    key = "model.generator.foreground.encoding"
    default = build_networks(compose_options(["model=stylenerf_mead"]), c_dim=0, device="meta")[0]
    assert default.foreground.encoding == ENCODINGS["octaves"](10)
    words = ["model=stylenerf_mead", f"{key}=isotropic", "model.generator.foreground.static=mask"]
    changed = build_networks(compose_options(words), c_dim=0, device="meta")[0]
    assert changed.foreground.dynamic.encoding == changed.foreground.static.encoding == ENCODINGS["isotropic"](10)
    assert changed.foreground.dynamic.layers[0].weight.shape == default.foreground.layers[0].weight.shape
    for value, shown in (("fourier", "'fourier'"), ("null", "None")):
        with pytest.raises(UserError) as caught:
            build_networks(compose_options([f"{key}={value}"]), c_dim=0, device="meta")
        message = f"model.generator: foreground.encoding must be octaves or isotropic, got {shown}."
        assert str(caught.value) == message
