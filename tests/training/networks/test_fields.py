"""The two fields: measured inputs and outputs, the formulas, what may be done after compositing."""

import dataclasses

import pytest
import torch

from tests.goldens import reference
from tests.goldens.checks import assert_near
from tests.goldens.networks import SMALL, build_generator, doubled_state, golden_arrays, paper_generator
from tests.goldens.reference import generator_shapes
from training.networks.fields import BlendedForeground, ForegroundField
from training.networks.generator import Generator


@pytest.fixture(scope="module", params=["faceforensics", "taichi"])
def paper(request):
    return paper_generator(request.param), golden_arrays(f"network_{request.param}.npz")


def conditioned(field, ws, times, motion):
    return field.condition(field.modulate(ws), times=times, motion=motion)


def inputs_of(goldens, name, samples):
    """Points [1, ..., R, S, D] and unit directions [1, R, 3] of a measured call, eight rays."""
    points = goldens[f"fields/{name}/points"].reshape(1, 8, samples, -1)
    directions = goldens[f"fields/{name}/directions"].reshape(1, 8, samples, 3)[:, :, 0]
    return points, torch.nn.functional.normalize(directions, dim=-1)


@torch.no_grad()
@pytest.mark.parametrize("name", ["fg_coarse", "fg_fine"])
def test_measured_foreground(paper, name):
    generator, goldens = paper
    field = generator.foreground
    ws = goldens["inputs/ws"][:, None].expand(-1, field.num_ws, -1)
    times = goldens["inputs/Ts"].reshape(1, -1)[:, :1]
    motion = generator.motion(goldens["inputs/z_motion"], times)
    points, directions = inputs_of(goldens, name, 14)
    field_of_videos = conditioned(field, ws, times, motion)
    density, features = field_of_videos(points[:, None], directions)
    assert_near(density.flatten(), goldens[f"fields/{name}/sigma"])
    both = field_of_videos.project(features)
    assert both.shape == (1, 1, 8, 14, 3 + field.feature_dim)
    assert_near(both[..., :35].flatten(0, 3), goldens[f"fields/{name}/features"])


@torch.no_grad()
def test_measured_background(paper):
    generator, goldens = paper
    field_of_videos = generator.background.condition(goldens["inputs/z_shape_bg"])
    points, directions = inputs_of(goldens, "bg", 4)
    density, features = field_of_videos(points, directions)
    assert_near(density.flatten(), goldens["fields/bg/sigma"])
    assert_near(field_of_videos.project(features)[..., :35].flatten(0, 2), goldens["fields/bg/features"])


VARIANTS = {
    "paper": {},
    "no view": {"view": False},
    "concat": {"motion": "concat"},
    "no motion": {"motion": None},
    "raw time": {"time_input": "raw"},
    "encoded time": {"time_input": "encoded", "motion": None},
    "everything": {"time_input": "encoded", "motion": "concat", "static": "mask"},
    "equal blend": {"static": "equal", "view": False},
}


def random_inputs(spec, frames, rays=3, samples=5):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    directions = torch.nn.functional.normalize(normal(2, rays, 3), dim=-1)
    ws, times = normal(2, spec.layers + 2, spec.w_dim), torch.rand(2, frames, generator=generator, dtype=torch.float64)
    return ws, times, normal(2, frames, spec.width), normal(2, frames, rays, samples, 3) / 10, directions


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_foreground_against_the_formula(variant, shared, frames):
    spec = dataclasses.replace(SMALL, **VARIANTS[variant])
    field = build_generator(spec).foreground.double()
    ws, times, motion, points, directions = random_inputs(spec, frames)
    if shared:
        points = points[:, :1]
    field_of_videos = conditioned(field, ws, times, motion if spec.motion else None)
    density, features = field_of_videos(points, directions)
    both = field_of_videos.project(features)
    assert density.shape == (2, frames, 3, 5)
    assert both.shape == (2, frames, 3, 5, 3 + spec.features)
    state = doubled_state(generator_shapes(spec))
    for b in range(2):
        for t in range(frames):
            seen = points[b, 0 if shared else t]
            views = directions[b][:, None].expand_as(seen).reshape(-1, 3)
            arguments = (ws[b], seen.reshape(-1, 3), views, times[b, t], motion[b, t])
            expected_density, expected = reference.foreground_field(state, spec, *arguments)
            assert_near(density[b, t].flatten(), expected_density, relative=1e-12)
            assert_near(both[b, t].flatten(0, 1), expected, relative=1e-12)


@torch.no_grad()
def test_background_against_the_formula():
    field = build_generator(SMALL).background.double()
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64)
    code = torch.randn(2, SMALL.code_dim, generator=generator, dtype=torch.float64)
    field_of_videos = field.condition(code)
    density, features = field_of_videos(points, None)
    both = field_of_videos.project(features)
    state = doubled_state(generator_shapes(SMALL))
    for b in range(2):
        expected_density, expected = reference.background_field(state, SMALL, points[b].reshape(-1, 4), code[b])
        assert_near(density[b].flatten(), expected_density, relative=1e-12)
        assert_near(both[b].flatten(0, 1), expected, relative=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("variant", ["paper", "no view", "everything", "equal blend"])
def test_projection_commutes_with_compositing(variant):
    """The projection of a sum along a ray equals the sum of projections."""
    spec = dataclasses.replace(SMALL, **VARIANTS[variant])
    field = build_generator(spec).foreground.double()
    ws, times, motion, points, directions = random_inputs(spec, 2)
    field_of_videos = conditioned(field, ws, times, motion)
    _, features = field_of_videos(points, directions)
    weights = torch.rand(2, 2, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    each = (weights[..., None] * field_of_videos.project(features)).sum(dim=3)
    sums = tuple((weights[..., None] * x).sum(dim=3) for x in features)
    assert_near(field_of_videos.project(sums, weights.sum(dim=3)), each, relative=1e-12)


@torch.no_grad()
def test_projection_of_the_background_commutes_too():
    field_of_videos = (
        build_generator(SMALL).background.double().condition(torch.ones(2, SMALL.code_dim, dtype=torch.float64))
    )
    generator = torch.Generator().manual_seed(0)
    _, features = field_of_videos(torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64), None)
    weights = torch.rand(2, 3, 5, generator=generator, dtype=torch.float64)
    each = (weights[..., None] * field_of_videos.project(features)).sum(dim=2)
    sums = tuple((weights[..., None] * x).sum(dim=2) for x in features)
    assert_near(field_of_videos.project(sums, weights.sum(dim=2)), each, relative=1e-12)


def test_blending_a_field_with_itself():
    """Two equal, motionless halves are the same as one, whatever the mask says."""
    torch.manual_seed(0)
    field = ForegroundField(w_dim=6, width=8, num_layers=3, position_frequencies=2, feature_dim=4, motion="none")
    blended = BlendedForeground(dynamic=field, static=field, blend="mask")
    generator = torch.Generator().manual_seed(0)
    ws, points = torch.randn(1, 5, 6, generator=generator), torch.randn(1, 1, 3, 4, 3, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(1, 3, 3, generator=generator), dim=-1)
    times = torch.zeros(1, 1)
    single = conditioned(field, ws, times, None)
    double = conditioned(blended, ws, times, None)
    density, features = single(points, directions)
    density_blended, features_blended = double(points, directions)
    assert_near(density_blended, density)
    assert_near(double.project(features_blended), single.project(features))


@pytest.mark.parametrize(
    "foreground, message",
    [
        ({"time_input": "sometimes"}, "time_input.*sometimes"),
        ({"num_layers": 1}, "num_layers.*1"),
        ({"static": "half"}, "static.*half"),
    ],
)
def test_mistakes(foreground, message):
    with pytest.raises(ValueError, match=message):
        Generator(resolution=64, foreground={"width": 8, "feature_dim": 4} | foreground)
