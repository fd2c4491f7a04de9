"""The watch on the geometry: constructed flat and curved fields, and what a run reports."""

import json
import math

import pytest
import torch

from renderer.cameras import CameraPrior, Cameras, camera_angles
from renderer.volume_rendering import Fields
from tests.small_network import small_generator
from tests.training.tiny import make_loop
from torch_utils.training_stats import Statistics
from training.monitoring.geometry_monitor import FLAT_PARALLAX, GeometryMonitor, measure_geometry
from training.networks.generator import Generator
from training.schedule import Counters
from training.synthetic.head_model import Backdrop, TalkingHead
from training.synthetic.parameters import CONTENT_CODE, MOTION_CODE, Person, pose_at
from training.synthetic.render import render_frames

PRIOR = CameraPrior(fov=18, yaw=(-0.3, 0.3), radius=(1.0, 1.0))
FRONT, TURNED = PRIOR.at(), PRIOR.at(yaw=1.0)
TURNED_BY_ONE = PRIOR.at_angles(1.0, math.pi / 2)  # radian


class Slab:
    """An opaque slab behind a surface that stands `bulge` before the plane x = 0 in the middle."""

    def __init__(self, *, bulge: float, tilt: float = 0.0):
        self.bulge, self.tilt = bulge, tilt

    def __call__(self, points, directions):
        x, y, z = points.unbind(-1)
        surface = self.tilt * y + self.bulge * torch.exp(-(y * y + z * z) / (2 * 0.06**2))
        density = 2000 * torch.sigmoid((surface - x) / 0.001)
        return density, (torch.zeros_like(points),)

    def project(self, features, accumulation=1.0):
        return features[0]


def figures_of(foreground):
    _, depth, opacity = render_frames(Fields(foreground, Backdrop(torch.zeros(12))), FRONT, 32, frames=1, supersample=1)
    return measure_geometry(depth, (opacity > 0.5).float(), FRONT, TURNED)


@pytest.mark.parametrize("tilt", [0.0, 0.7])
def test_a_picture_on_a_plane_is_called_flat(tilt):
    figures = figures_of(Slab(bulge=0.0, tilt=tilt))
    assert figures.surface == 1.0
    assert figures.parallax < 0.7 * FLAT_PARALLAX  # what is left is the quadrature's
    assert "the geometry is flat" in figures.warning(one_object=True)
    if tilt:  # a tilted plane has depth, but no more of it than a plane
        assert figures.depth_variance > 1e-3


def test_a_curved_surface_is_not():
    figures = figures_of(Slab(bulge=0.06))
    assert figures.parallax > 2 * FLAT_PARALLAX
    assert figures.warning(one_object=False) is None


def test_parallax_grows_in_proportion_to_the_bulge():
    small, large = figures_of(Slab(bulge=0.03)), figures_of(Slab(bulge=0.06))
    assert large.relief / small.relief == pytest.approx(2, rel=0.1)
    assert large.parallax / small.parallax == pytest.approx(2, rel=0.1)


def test_a_synthetic_head_is_far_from_flat():
    head = TalkingHead(Person.from_code([0.0] * CONTENT_CODE), pose_at([0.0] * MOTION_CODE, torch.tensor([0.5])))
    figures = figures_of(head)
    assert 0.3 < figures.surface < 0.8
    assert figures.parallax > 5 * FLAT_PARALLAX
    assert figures.warning(one_object=True) is None


def test_a_scene_that_the_background_shows_alone_is_called_empty():
    depth = torch.ones(3, 8, 8)
    figures = measure_geometry(depth, torch.zeros_like(depth), FRONT.repeat(3), TURNED.repeat(3))
    assert figures.surface == 0 and math.isnan(figures.parallax)
    assert "the foreground covers 0.0% of the image" in figures.warning(one_object=True)


def test_maps_without_a_surface_or_broken_ones_are_left_out():
    depth = torch.ones(3, 8, 8) + 0.1 * torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    weights = torch.ones_like(depth)
    alone = measure_geometry(depth[:1], weights[:1], FRONT, TURNED)
    weights[1] = 0
    depth[2] = float("nan")
    together = measure_geometry(depth, weights, FRONT.repeat(3), TURNED.repeat(3))
    assert together.relief == pytest.approx(alone.relief) and together.parallax == pytest.approx(alone.parallax)
    assert together.surface == pytest.approx(2 / 3)


def test_three_pixels_are_no_surface():
    """They always lie on a plane, and would make the means of the others smaller."""
    depth = torch.ones(1, 8, 8) + 0.1 * torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    weights = torch.zeros_like(depth)
    weights[0, 0, :3] = 1
    assert math.isnan(measure_geometry(depth, weights, FRONT, TURNED).parallax)
    weights[0, 3, 3] = 1
    assert measure_geometry(depth, weights, FRONT, TURNED).parallax > 0


def test_the_variance_of_the_depth_is_that_of_each_surface_by_itself():
    depth, weights = torch.full([2, 8, 8], 9.0), torch.zeros(2, 8, 8)
    weights[:, :4] = 1
    depth[0, :4], depth[1, :4] = 1.0, 0.8
    depth[0, :2] = 1.2  # half of the first surface, 0.2 behind the rest: a variance of 0.1²
    figures = measure_geometry(depth, weights, FRONT.repeat(2), TURNED.repeat(2))
    assert figures.depth_variance == pytest.approx((0.01 + 0) / 2, rel=1e-4) and figures.surface == 0.5


def opaque_generator() -> Generator:
    return small_generator(foreground={"density_bias": 8})


def test_the_log_is_deterministic_and_leaves_random_numbers_alone():
    log = GeometryMonitor(opaque_generator())
    before = torch.random.get_rng_state()
    first = log.measure()
    assert first.surface == 1 and math.isfinite(first.parallax)
    assert log.measure() == first
    assert torch.equal(before, torch.random.get_rng_state())


def test_contents_have_their_labels(monkeypatch):
    generator, seen = small_generator(c_dim=2), []
    c = torch.eye(2)[[0, 0, 1, 0, 1, 1]]  # more than are rendered at a time
    log = GeometryMonitor(generator, c=c)
    mapping = generator.mapping.forward
    monkeypatch.setattr(generator.mapping, "forward", lambda z, c: seen.append(c) or mapping(z, c))
    log.measure()
    assert torch.equal(torch.cat(seen), c)


def test_an_empty_foreground_is_warned_of_once_training_has_begun():
    generator = opaque_generator()
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.startswith("foreground.density"):
                parameter.fill_(-1.0 if parameter.ndim == 1 else 0.0)
    log, statistics = GeometryMonitor(generator), Statistics()
    assert log.report(statistics, cur_nimg=4) is None
    line = log.report(statistics, cur_nimg=4000)
    assert line.startswith("warning: at 4 kimg the foreground covers 0.0% of the image")
    assert statistics.reduce()["Geometry/surface"].mean == 0.0


def test_parallax_is_measured_where_cameras_have_a_range():
    cameras = {"yaw": [0, 0], "pitch": [1.4, 1.8]}
    pitched = GeometryMonitor(small_generator(foreground={"density_bias": 8}, camera=cameras))
    angles = camera_angles(Cameras.join([pitched.front, pitched.turned]))
    torch.testing.assert_close(angles, torch.tensor([[0.0, 1.6], [0.0, 1.8]]))
    assert pitched.measure().parallax > 0


@pytest.mark.parametrize("name", ["yaw", "pitch"])
def test_parallax_is_measured_at_most_a_right_angle_away(name):
    """A wide range would end at the back of the object, or, after a whole turn, at its front."""
    ball = {"density_bias": -2, "density_prior": {"peak": 60, "radius": 0.04}}

    def monitor(half):
        ranges = {"yaw": [0, 0], "pitch": [math.pi / 2, math.pi / 2]}
        ranges[name] = [ranges[name][0] - half, ranges[name][0] + half]
        return GeometryMonitor(small_generator(foreground=ball, camera=ranges))

    right = monitor(math.pi / 2)
    expected = right.measure()
    assert expected.parallax > FLAT_PARALLAX
    for half in (math.pi, 2 * math.pi):
        assert monitor(half).measure().parallax == pytest.approx(expected.parallax, rel=1e-3)
    for narrower in (monitor(0.3), right):  # the end of the range
        end = narrower.generator.camera_prior.at(**{name: 1.0})
        assert torch.equal(narrower.turned.cam2world, end.cam2world)


def test_a_prior_of_the_users_own_needs_no_ranges():
    class Turntable:
        def at(self, yaw=0.5, pitch=0.5):
            return PRIOR.at_angles(2 * (yaw - 0.5), math.pi / 2)

        depth_offsets = PRIOR.depth_offsets

    generator = opaque_generator()
    generator.camera_prior = Turntable()
    log = GeometryMonitor(generator)
    assert torch.equal(log.turned.cam2world, TURNED_BY_ONE.cam2world)
    assert log.measure().parallax > 0


def test_a_part_behind_the_turned_camera_is_not_called_flat():
    depth = torch.ones(2, 8, 8) + 0.1 * torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    depth[1, :, 0] = depth[1, :, -1] = 10.0
    side = PRIOR.at_angles(math.pi / 2, math.pi / 2)
    alone = measure_geometry(depth[:1], torch.ones(1, 8, 8), FRONT, side)
    behind = measure_geometry(depth[1:], torch.ones(1, 8, 8), FRONT, side)
    both = measure_geometry(depth, torch.ones(2, 8, 8), FRONT.repeat(2), side.repeat(2))
    assert math.isnan(behind.parallax) and behind.warning(one_object=False) is None
    assert both.parallax == pytest.approx(alone.parallax) and alone.parallax > FLAT_PARALLAX


def test_cameras_that_look_from_one_direction_have_no_parallax():
    fixed = {"yaw": [0.1, 0.1], "pitch": [1.5, 1.5]}
    log, statistics = GeometryMonitor(small_generator(foreground={"density_bias": 8}, camera=fixed)), Statistics()
    assert log.turned is None and log.report(statistics, cur_nimg=4000) is None  # no warning of flat geometry
    assert set(statistics.reduce()) == {"Geometry/surface", "Geometry/depth_variance", "Geometry/relief"}
    depth = torch.ones(3, 8, 8)
    nothing = measure_geometry(depth, torch.zeros_like(depth), FRONT.repeat(3), None)
    assert nothing.parallax is None and "the foreground covers 0.0%" in nothing.warning(one_object=False)


def test_one_object_that_fills_the_image_is_warned_of():
    solid = {"density_bias": 8, "density_prior": {"peak": 60, "radius": 0.06}}
    log, statistics = GeometryMonitor(small_generator(foreground=solid)), Statistics()
    assert log.report(statistics, cur_nimg=3996) is None  # fog around the prior's body has not been carved yet
    line = log.report(statistics, cur_nimg=4000)
    assert line.startswith("warning: at 4 kimg the foreground covers 100.0% of the image: it shows the background, too")
    for scene in (
        GeometryMonitor(opaque_generator()),
        GeometryMonitor(small_generator(foreground=solid, background=None)),
    ):
        assert scene.report(statistics, cur_nimg=4000) is None  # no single object, or nothing behind it


def test_a_run_reports_its_geometry_with_every_snapshot(tmp_path):
    loop = make_loop(tmp_path, "snap=2", "kimg=0.032", "imgsnap=null")
    loop.run()
    rows = [json.loads(line) for line in (loop.folder / "stats.jsonl").read_text().splitlines()]
    due = [row["tick"] % 2 == 0 or row is rows[-1] for row in rows]
    assert ["Geometry/parallax" in row for row in rows] == due
    row = rows[0]
    assert {name for name in row if name.startswith("Geometry/")} == {
        "Geometry/surface", "Geometry/depth_variance", "Geometry/relief", "Geometry/parallax"
    }  # fmt: skip
    assert row["Geometry/surface"]["num"] == 1 and 0 <= row["Geometry/surface"]["mean"] <= 1
    assert isinstance(loop.counters, Counters)
