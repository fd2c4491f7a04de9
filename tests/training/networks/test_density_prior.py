"""The density prior: its formula, what it changes in a field and in its gradients, and every path that renders."""

import dataclasses
import math

import pytest
import torch
import trimesh

from dnnlib import UserError
from renderer.cameras import camera_rays, pixel_centers
from renderer.rays import RenderSettings
from renderer.volume_rendering import march_foreground
from tests.cpu_inference import assert_marched_alike, needs_bfloat16, needs_native, psnr
from tests.goldens.checks import assert_near
from tests.goldens.evaluation import case_generator, case_inputs
from tests.goldens.networks import SMALL, build_generator, generator_config
from tests.goldens.small_losses import gradients, make_loss, real_batch
from tests.small_network import SIZES, save_small_network
from torch_utils.rng import RandomStream
from training.checkpoints.snapshot import load_average_generator
from training.inference import meshes
from training.inference.frame_renderer import FrameRenderer
from training.inference.point_query import PointField
from training.inference.video_generator import VideoGenerator
from training.launch.build import build_networks
from training.launch.config import compose_options
from training.launch.option_rules import check_values
from training.networks.density import DensityPrior
from training.networks.generator import Generator

CENTRED = {"peak": 40.0, "radius": 0.05}
SHIFTED = {"peak": 25, "radius": 0.04, "center": [0.02, -0.03, 0.05]}


def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generator_with(prior, spec=SMALL):
    """The small generator of the other tests with a prior; it has no parameters, so that theirs fit."""
    config = generator_config(spec)
    config["foreground"]["density_prior"] = prior
    generator = Generator(**config).eval()
    generator.load_state_dict(build_generator(spec).state_dict())
    return generator


def conditioned(generator, *, frames=2):
    """The foreground of two videos at some times, in double precision."""
    field = generator.foreground.double()
    times = torch.linspace(0.1, 0.9, frames, dtype=torch.float64).expand(2, -1)
    weights = field.modulate(rand(2, field.num_ws, generator.w_dim, seed=1))
    return field.condition(weights, times=times, motion=rand(2, frames, field.width, seed=2))


# ----------------------------------------------------------------------------------------------------------------------
# The formula


def test_the_formula():
    center = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    prior = DensityPrior(peak=60, radius=0.06, center=center.tolist())
    direction = torch.nn.functional.normalize(rand(5, 3), dim=-1)
    assert_near(prior(center), torch.tensor(60.0, dtype=torch.float64), relative=1e-12)
    for distance in (0.03, 0.06, 0.15):
        expected = 60 * math.exp(-(distance**2) / (2 * 0.06**2))
        assert_near(prior(center + distance * direction), torch.full([5], expected).double(), relative=1e-7)
    assert DensityPrior(peak=1, radius=1).center == (0, 0, 0)
    assert prior(torch.full([2, 1, 3], 100.0)).equal(torch.zeros(2, 1))


@torch.no_grad()
def test_the_optical_depth_of_a_ray_is_the_integral_of_a_gaussian():
    """Between the ends of a ray that passes at the distance b: peak · radius · √(2π) · exp(−b² / (2 radius²))."""
    generator = generator_with(SHIFTED)
    field = conditioned(generator, frames=1)
    field.weights.density = tuple(torch.zeros_like(x) for x in field.weights.density)
    peak, radius, center = SHIFTED["peak"], SHIFTED["radius"], torch.tensor(SHIFTED["center"], dtype=torch.float64)
    origins, directions = (
        x.double().expand(2, -1, -1) for x in camera_rays(generator.camera_prior.at(), pixel_centers(6))
    )
    settings = RenderSettings(num_samples=400, num_importance=0, near=0.5, far=1.5)
    samples = march_foreground(field, origins, directions, settings, num_frames=1, last_opaque=False)
    unit = torch.nn.functional.normalize(directions, dim=-1)
    distance = torch.linalg.cross(center - origins, unit).norm(dim=-1)
    depth = peak * radius * math.sqrt(2 * math.pi) * torch.exp(-distance.square() / (2 * radius**2))
    assert depth.max() > 1.5 and depth.min() < 0.1
    assert_near(samples.transmittance[:, 0], torch.exp(-depth), absolute=1e-4)


# ----------------------------------------------------------------------------------------------------------------------
# The field


@torch.no_grad()
@pytest.mark.parametrize("prior", [CENTRED, SHIFTED])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("changes", [{}, {"view": False}, {"static": "mask"}, {"static": "equal"}])
def test_it_is_added_to_the_raw_density_and_to_nothing_else(changes, shared, prior):
    """With two fields too: their blend of densities, m d + (1 − m) s, grows by the same prior."""
    spec = dataclasses.replace(SMALL, **changes)
    points, directions = rand(2, 1 if shared else 2, 3, 5, 3) / 10, torch.nn.functional.normalize(rand(2, 3, 3), dim=-1)
    plain = conditioned(generator_with(None, spec))(points, directions)
    density, features = conditioned(generator_with(prior, spec))(points, directions)
    expected = plain[0] + DensityPrior(**prior)(points)
    assert density.shape == (2, 2, 3, 5)
    assert_near(density, expected, relative=1e-12)
    assert (expected - plain[0]).abs().max() > 1
    for x, y in zip(features, plain[1], strict=True):
        assert torch.equal(x, y)


def test_gradients_of_the_network_are_those_without_it():
    """It has no parameters; points get its own gradient −p(x) (x − center) / radius² in addition."""
    directions, upstream, found = torch.nn.functional.normalize(rand(2, 3, 3), dim=-1), rand(2, 2, 3, 5, seed=3), {}
    for prior in (None, SHIFTED):
        generator = generator_with(prior)
        points = (rand(2, 2, 3, 5, 3) / 10).requires_grad_()
        density, _ = conditioned(generator)(points, directions)
        (density * upstream).sum().backward()
        found[prior is None] = gradients(generator.foreground), points
    (plain, points), (ours, points_ours) = found[True], found[False]
    assert plain.keys() == ours.keys() and len(plain) > 5
    for name, gradient in plain.items():
        assert torch.equal(ours[name], gradient), name
    values, offset = (
        DensityPrior(**SHIFTED)(points.detach()),
        points.detach() - points.new_tensor(SHIFTED["center"]),
    )
    own = -(upstream * values)[..., None] * offset / SHIFTED["radius"] ** 2
    assert_near(points_ours.grad, points.grad + own, relative=1e-9)


@pytest.mark.parametrize("phase", ["Gmain", "Greg", "Dmain"])
def test_activation_checkpointing_and_the_path_loss_have_it(phase):
    def run(prior, checkpointing):
        loss, generator, discriminators, reports = make_loss()
        generator.foreground.density_prior = None if prior is None else DensityPrior(**prior)
        generator.activation_checkpointing = checkpointing
        loss.accumulate(phase, batch=real_batch(), gain=2.0, stream=RandomStream(3))
        return gradients(generator) | gradients(discriminators) | reports

    kept, again, without = run(SHIFTED, False), run(SHIFTED, True), run(None, False)
    assert kept.keys() == again.keys() == without.keys()
    for name, value in kept.items():
        assert torch.equal(again[name], value), name
    assert any(not torch.equal(value, without[name]) for name, value in kept.items() if name.startswith("Loss/"))


# ----------------------------------------------------------------------------------------------------------------------
# Inference


@needs_native
@pytest.mark.parametrize("prior", [CENTRED, SHIFTED, {"peak": 0, "radius": 0.1}])
@pytest.mark.parametrize("samples, importance, view, frames", [(14, 14, True, 1), (6, 5, False, 2), (7, 0, True, 2)])
def test_fused_inference_and_native_marching_have_it(samples, importance, view, frames, prior):
    """Against the plain field in plain PyTorch, within rounding; ray counts that are no multiple of a tile."""
    generator = generator_with(prior, dataclasses.replace(SMALL, view=view)).requires_grad_(False)
    assert_marched_alike(generator, samples=samples, importance=importance, frames=frames)


@needs_bfloat16
@torch.no_grad()
@pytest.mark.parametrize("prior", [{"peak": 60, "radius": 0.06}, SHIFTED])
def test_bfloat16_shows_the_same(prior):
    """Above 45 dB, opacities no further off than without it (a bias that adds as much opacity gives 47 dB, too)."""
    generator, inputs = case_generator("faceforensics", "c1"), case_inputs("faceforensics", "c1")
    codes = {"z_motion": inputs["z_motion"], "z_bg": inputs["z_bg"]}
    time, camera = inputs["times"][0, 1], inputs["cameras"]

    def rendered(prior, precision):
        generator.foreground.density_prior = prior
        return FrameRenderer(generator, inputs["ws"], precision=precision, **codes).output(time, camera)

    exact, half = (rendered(DensityPrior(**prior), precision) for precision in ("float32", "bfloat16"))
    plain, plain_half = (rendered(None, precision) for precision in ("float32", "bfloat16"))
    assert 45 < psnr(half.image, exact.image) < 70
    assert psnr(plain.image, exact.image) < 30
    assert exact.opacity.mean() > plain.opacity.mean() + 0.04
    error = (plain.opacity - plain_half.opacity).abs().max()
    assert (exact.opacity - half.opacity).abs().max() < 1.1 * error


def test_snapshots_keep_it(tmp_path):
    """And those of earlier versions, whose configurations do not mention it, have none."""
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    made = save_small_network(tmp_path / "with", generator_with(SHIFTED))
    loaded = load_average_generator(tmp_path / "with")
    assert loaded.config == made.config and loaded.config["foreground"]["density_prior"] == SHIFTED
    assert loaded.foreground.density_prior == DensityPrior(**SHIFTED)
    save_small_network(tmp_path / "without", generator_with(None))
    assert load_average_generator(tmp_path / "without").foreground.density_prior is None
    # The same weights, so that densities differ by the prior.
    codes = {
        "z_motion": torch.zeros(1, SIZES["motion_dim"]),
        "z_bg": torch.zeros(1, SIZES["background_dim"]),
        "time": 0.5,
    }
    points = rand(50, 3).float() / 10
    ws = loaded.mapping(torch.zeros(1, SIZES["z_dim"]))
    fields = [PointField(load_average_generator(tmp_path / name), ws, **codes) for name in ("with", "without")]
    raw = fields[1]._field(points[None, None, None], torch.tensor([[[-1.0, 0.0, 0.0]]]))[0][0, 0, 0]
    assert_near(fields[0].density(points), (raw + DensityPrior(**SHIFTED)(points)).relu(), absolute=1e-4)


# ----------------------------------------------------------------------------------------------------------------------
# The small model and its meshes


def small_model_mesh(level, *words, prior_alone=False):
    """The mesh of an untrained small model, and its figures; `prior_alone` without the network's own density."""
    options = compose_options(["model=stylenerf_small", *words])
    generator = build_networks(options, c_dim=0)[0].eval().requires_grad_(False)
    if prior_alone:
        torch.nn.init.zeros_(generator.foreground.density.weight)
        torch.nn.init.zeros_(generator.foreground.density.bias)
    maker = meshes.GeneratedMeshes(generator, resolution=48, level=level, check=True)
    video = VideoGenerator(generator).codes(0)
    level = maker.level(video, [0.5], name="the small model")
    made, row = maker.mesh(video, 0.5, level)
    return trimesh.Trimesh(made.vertices, made.faces), row


def assert_ball(mesh, *, radius, center=(0, 0, 0)):
    """Closed, convex, and everywhere within 8 % of a ball."""
    assert mesh.is_watertight and mesh.volume > 0.99 * mesh.convex_hull.volume
    distances = torch.from_numpy(mesh.vertices - torch.tensor(center).numpy()).norm(dim=-1)
    assert 0.92 * radius < distances.min() and distances.max() < 1.08 * radius


@pytest.mark.parametrize("center", [[0, 0, 0], [0.02, 0.03, -0.01]])
def test_an_untrained_small_model_is_a_ball(center):
    """Where 60 exp(−r² / (2 · 0.06²)) and the initial bias of 2 add up to the level of 30."""
    words = [f"model.generator.foreground.density_prior.center={center}"]
    mesh, _ = small_model_mesh(30.0, *words)
    assert_ball(mesh, radius=0.06 * math.sqrt(2 * math.log(60 / 28)), center=center)


def test_the_level_that_is_found_suits_it():
    """Of the prior alone, it is the outline of the rays that are half opaque, at the optical depth ln 2."""
    mesh, row = small_model_mesh(None, prior_alone=True)
    outline = 0.06 * math.sqrt(2 * math.log(60 * 0.06 * math.sqrt(2 * math.pi) / math.log(2)))
    assert_ball(mesh, radius=outline)
    assert min(row["overlap"]) > 0.9 and row["removed_pieces"] == 0


# ----------------------------------------------------------------------------------------------------------------------
# Mistakes

KEY = "model.generator.foreground.density_prior"


@pytest.mark.parametrize(
    "value, message",
    [
        ("{peak:60,raduis:0.06}", " has no 'raduis'; its keys are peak, radius, center."),
        ("{peak:60}", " lacks radius."),
        ("{radius:0.06}", " lacks peak."),
        ("{peak:60,radius:0}", ".radius must be a number above 0, got 0."),
        ("{peak:-1,radius:0.06}", ".peak must be a number of at least 0, got -1."),
        ("{peak:true,radius:0.06}", ".peak must be a number of at least 0, got True."),
        ("{peak:60,radius:small}", ".radius must be a number above 0, got 'small'."),
        ("{peak:60,radius:0.06,center:[0,1]}", ".center must be three numbers [x,y,z], got [0, 1]."),
        ("{peak:60,radius:0.06,center:[0,1,x]}", ".center must be three numbers [x,y,z], got [0, 1, 'x']."),
        ("{peak:60,radius:0.06,center:0}", ".center must be three numbers [x,y,z], got 0."),
        ("[60,0.06]", " must be null or {peak, radius, center}, got [60, 0.06]."),
        ("none", " must be null or {peak, radius, center}, got 'none'."),
    ],
)
def test_values_that_it_cannot_have(value, message):
    options = compose_options(["model=stylenerf_mead", f"{KEY}={value}"])
    with pytest.raises(UserError) as caught:
        build_networks(options, c_dim=0, device="meta")
    assert str(caught.value) == f"model.generator: foreground.density_prior{message}"


def test_numbers_are_finite():
    options = compose_options(["outdir=a", "data=b", "model=stylenerf_small", f"{KEY}.radius=nan"])
    with pytest.raises(UserError, match="density_prior.radius must be a finite number"):
        check_values(options)
    with pytest.raises(ValueError, match="radius must be a number above 0, got inf"):
        DensityPrior(peak=1, radius=math.inf)


@pytest.mark.parametrize(
    "model, word, message",
    [
        ("small", ".raduis=0.1", f"There is no option '{KEY}.raduis'; did you mean {KEY}.radius?"),
        ("small", "={peak:60,raduis:0.1}", f"There is no option '{KEY}.raduis'; did you mean {KEY}.radius?"),
        (
            "mead",
            ".peak=60",
            f"There is no option '{KEY}.peak', because {KEY} is null in this model; write {KEY}={{...}}",
        ),
    ],
)
def test_keys_that_do_not_exist(model, word, message):
    with pytest.raises(UserError) as caught:
        compose_options([f"model=stylenerf_{model}", KEY + word])
    assert str(caught.value).startswith(message)


def test_it_can_be_turned_off_and_on():
    off = build_networks(compose_options(["model=stylenerf_small", f"{KEY}=null"]), c_dim=0, device="meta")[0]
    assert off.foreground.density_prior is None
    words = ["model=stylenerf_mead", f"{KEY}={{peak:5,radius:0.2}}"]
    assert build_networks(compose_options(words), c_dim=0, device="meta")[0].foreground.density_prior == DensityPrior(
        5, 0.2
    )
    small = build_networks(compose_options(["model=stylenerf_small"]), c_dim=0, device="meta")[0].foreground
    assert small.density_prior == DensityPrior(60, 0.06, [0, 0, 0])
