"""Cameras: measured poses, their geometry, the prior they are sampled from."""

import math

import numpy as np
import pytest
import torch

from renderer.cameras import (
    CameraPrior,
    Cameras,
    cam2world_from_angles,
    camera_angles,
    camera_rays,
    focal_from_fov,
    look_at,
    pixel_centers,
)
from tests.goldens import reference
from tests.goldens.checks import assert_near
from tests.goldens.networks import CAMERAS, golden_arrays
from tests.streams import Tape
from torch_utils.rng import RandomStream

GOLDENS = golden_arrays("units.npz")
# Fractions of the ranges of yaw, pitch and radius, and the field of view where it is not the model's.
FRACTIONS = {
    "c0": ((0.5, 0.5, 0.5), None),
    "c1": ((0.2, 0.7, 0.5), None),
    "c2": ((0.5, 0.5, 0.5), 20.0),
    "c3": ((0.0, 0.5, 0.5), None),
    "c4": ((1.0, 0.5, 0.5), None),
}


@pytest.mark.parametrize("config", ["faceforensics", "mead", "taichi"])
class TestMeasured:
    @pytest.mark.parametrize("name", FRACTIONS)
    def test_fixed_cameras(self, config, name):
        fractions, fov = FRACTIONS[name]
        cameras = CameraPrior(**CAMERAS.get(config, {})).at(*fractions, fov=fov)
        assert_near(cameras.cam2world, GOLDENS[f"camera/{config}/{name}/world"], relative=1e-6)
        inverse_focal = GOLDENS[f"camera/{config}/{name}/K"][:, 0, 0]
        assert_near(1 / focal_from_fov(cameras.fov), inverse_focal, relative=1e-6)

    def test_random_cameras(self, config):
        fractions = GOLDENS[f"camera/{config}/random_np7_torch7/uvr"]
        cameras = CameraPrior(**CAMERAS.get(config, {})).at(*fractions.unbind(1))
        assert_near(cameras.cam2world, GOLDENS[f"camera/{config}/random_np7_torch7/world"], relative=1e-6)


def test_measured_rotations():
    assert_near(look_at(GOLDENS["camera/look_at/eye"]), GOLDENS["camera/look_at/R"], relative=1e-6)


@pytest.mark.parametrize("fov", [12, 18, 20.5, 49.13])
def test_measured_focal_lengths(fov):
    matrix = GOLDENS[f"camera/get_camera_mat_fov{fov}"]
    assert_near(1 / focal_from_fov(torch.tensor([float(fov)])), matrix[:, 0, 0], relative=1e-6)


def test_a_right_angle_has_focal_length_one():
    assert float(focal_from_fov(torch.tensor(90.0))) == pytest.approx(1)


def test_poses_against_the_formula():
    generator = torch.Generator().manual_seed(0)
    yaw = torch.rand(20, generator=generator) * 6 - 3
    pitch = torch.rand(20, generator=generator) * 2 + 0.5
    radius = torch.rand(20, generator=generator) + 0.5
    matrices = cam2world_from_angles(yaw, pitch, radius)
    assert matrices.dtype == torch.float32
    expected = torch.stack([reference.camera(*map(float, angles)) for angles in zip(yaw, pitch, radius)])
    assert_near(matrices, expected, relative=1e-6)


def test_a_camera_is_a_rotation_that_looks_at_the_origin():
    cameras = CameraPrior(radius=(0.7, 1.4)).sample(50, RandomStream(0))
    rotation, position = cameras.cam2world[:, :3, :3], cameras.cam2world[:, :3, 3]
    assert_near(rotation @ rotation.transpose(1, 2), torch.eye(3).expand(50, 3, 3), absolute=1e-6)
    assert_near(torch.linalg.det(rotation), torch.ones(50), absolute=1e-6)
    forward = -rotation[:, :, 2]
    assert_near(position + position.norm(dim=1, keepdim=True) * forward, torch.zeros(50, 3), absolute=1e-6)
    assert (rotation[:, 2, 0].abs() < 1e-6).all(), "the horizon is level: x has no vertical part"
    assert (rotation[:, 2, 1] > 0).all(), "the picture is the right way up"
    assert_near(cameras.cam2world[:, 3], torch.tensor([0.0, 0, 0, 1]).expand(50, 4))


def test_the_frontal_camera():
    cameras = CameraPrior().at()
    assert len(cameras) == 1
    assert cameras.fov.tolist() == [18]
    assert_near(cameras.cam2world[0, :3, 3], torch.tensor([1.0, 0, 0]), absolute=1e-6)


@pytest.mark.parametrize("turns", [-2, -1, 0, 1, 2])
def test_a_camera_at_a_pole_stands_beside_its_neighbours(turns):
    for pole in (turns * math.pi, turns * math.pi + 1e-9, turns * math.pi - 1e-9):
        at, beside = (CameraPrior().at_angles(0.3, angle).cam2world[0] for angle in (pole, pole + 1e-3))
        assert at[2, 3].item() == pytest.approx(math.cos(turns * math.pi))
        assert (at[:3, 3] - beside[:3, 3]).abs().max() < 2e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_numbers_follow_tensors_to_their_device():
    prior, angle = CameraPrior(), torch.tensor([0.1, 0.2], device="cuda")
    for camera in (prior.at_angles(angle, 1.5), prior.at(angle), prior.at_angles(0.1, angle, 1.0)):
        assert camera.cam2world.device.type == camera.fov.device.type == "cuda" and len(camera) == 2
    expected = prior.at_angles(angle.cpu(), 1.5).cam2world
    torch.testing.assert_close(prior.at_angles(angle, 1.5).cam2world.cpu(), expected)


def test_cameras_follow_pixels_to_their_device():
    for values in camera_rays(CameraPrior().at(), pixel_centers(4, "meta")):
        assert values.device.type == "meta"


def test_fractions_and_angles_agree():
    prior = CameraPrior(yaw=(-0.4, 0.8), pitch=(1.2, 1.4), radius=(0.9, 1.1))
    by_fraction = prior.at([0.25, 0.5], 0.75, 0.5, fov=[10.0, 20.0])
    by_angle = prior.at_angles([-0.1, 0.2], 1.35, 1.0, fov=[10.0, 20.0])
    assert by_fraction.fov.tolist() == [10, 20]
    assert_near(by_fraction.cam2world, by_angle.cam2world, absolute=1e-7)
    assert_near(prior.at_angles(0.0, 1.3).cam2world[0, :3, 3].norm(), torch.tensor(1.0), absolute=1e-6)


def angles_of(cameras):
    x, y, z = cameras.cam2world[:, :3, 3].double().unbind(1)
    radius = (x**2 + y**2 + z**2).sqrt()
    return torch.atan2(y, x), torch.acos(z / radius), radius


def test_gaussian_prior():
    yaw, pitch, radius = angles_of(CameraPrior(radius=(0.8, 1.2)).sample(20000, RandomStream(1)))
    # Five standard errors of mean and standard deviation.
    for angle, middle, spread in ((yaw, 0.0, 0.8), (pitch, math.pi / 2, 0.155)):
        assert float(angle.mean()) == pytest.approx(middle, abs=5 * spread / math.sqrt(20000))
    assert float(pitch.std()) == pytest.approx(0.155, rel=5 / math.sqrt(40000))
    unwrapped = float((yaw.abs() < 0.8).double().mean())
    assert unwrapped == pytest.approx(0.6827, abs=0.02), "about a third of the cameras lies outside the range"
    assert 0.8 <= float(radius.min()) < 0.801 and 1.199 < float(radius.max()) <= 1.2 + 1e-6


def test_uniform_prior():
    prior = CameraPrior(yaw=(-0.2, 0.6), pitch=(1.3, 1.5), distribution="uniform")
    yaw, pitch, _ = angles_of(prior.sample(5000, RandomStream(1)))
    for angle, low, high in ((yaw, -0.2, 0.6), (pitch, 1.3, 1.5)):
        histogram = torch.histc(angle, bins=5, min=low, max=high)
        assert int(histogram.sum()) == 5000
        assert ((histogram - 1000).abs() < 150).all()


def test_draws_are_scaled_by_half_the_range():
    prior = CameraPrior(yaw=(-0.3, 0.3), pitch=(1.4, 1.8), radius=(1.0, 2.0))
    draws = {"camera/yaw": [1.0, -2.0], "camera/pitch": [0.0, 0.5], "camera/radius": [0.25, 0.5]}
    cameras = prior.sample(2, Tape(draws))
    expected = prior.at_angles([0.3, -0.6], [1.6, 1.7], [1.25, 1.5])
    assert_near(cameras.cam2world, expected.cam2world, absolute=1e-6)


def test_drawn_cameras_have_the_field_of_view_of_the_prior():
    assert CameraPrior(fov=12).sample(3, RandomStream(0)).fov.tolist() == [12] * 3


def test_the_seed_decides():
    prior = CameraPrior()
    first, again, other = (prior.sample(3, RandomStream(seed)) for seed in (5, 5, 6))
    assert first.equals(again)
    assert not first.equals(other)


def test_selection_and_comparison():
    cameras = CameraPrior().at([0.1, 0.2, 0.3], fov=[10.0, 11.0, 12.0])
    assert len(cameras[1]) == 1 and cameras[1].fov.tolist() == [11]
    assert cameras[-1].fov.tolist() == [12]
    assert cameras[torch.tensor(1)].fov.tolist() == cameras[np.int64(1)].fov.tolist() == [11]
    assert cameras[1:].fov.tolist() == [11, 12]
    assert cameras[[2, 0]].fov.tolist() == cameras[(2, 0)].fov.tolist() == [12, 10]
    assert cameras[0:1].repeat(2).fov.tolist() == [10, 10]
    assert cameras[:2].repeat(2).fov.tolist() == [10, 10, 11, 11]
    assert torch.equal(cameras[:2].repeat(2).cam2world[1], cameras.cam2world[0])
    assert Cameras.join([cameras[2], cameras[:2]]).fov.tolist() == [12, 10, 11]
    assert Cameras.join(list(cameras)).equals(cameras)
    assert cameras.equals(cameras[:]) and not cameras.equals(None) and not cameras[:2].equals(cameras[1:])
    assert not cameras.equals(Cameras(cam2world=cameras.cam2world, fov=cameras.fov + 1))
    with pytest.raises(IndexError):
        cameras[3]
    assert len(list(cameras)) == 3, "iteration ends"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"fov": 0}, "camera.fov"),
        ({"fov": 180}, "camera.fov"),
        ({"distribution": "normal"}, "camera.distribution.*normal"),
        ({"yaw": (0.3, -0.3)}, "camera.yaw"),
        ({"pitch": (1.0, 1.2, 1.4)}, "camera.pitch"),
        ({"radius": (2, 1)}, "camera.radius"),
        ({"fov": "18"}, r"^camera.fov must be a number between 0 and 180, got '18'\.$"),
        ({"fov": math.nan}, "^camera.fov must be a number between 0 and 180, got nan"),
        ({"yaw": (math.nan, 0.8)}, "^camera.yaw must be a finite number, got nan"),
        ({"pitch": (1.4, math.inf)}, "^camera.pitch must be a finite number, got inf"),
        ({"pitch": 1.5}, r"^camera.pitch must be \[low, high\], got 1.5"),
        ({"yaw": "ab"}, r"^camera.yaw must be \[low, high\], got 'ab'"),
        ({"radius": (0, 1)}, "^camera.radius must be a finite number above 0, got 0"),
        ({"radius": (-1.0, -1.0)}, "^camera.radius must be a finite number above 0, got -1.0"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(ValueError, match=message):
        CameraPrior(**arguments)


def test_mistaken_shapes():
    with pytest.raises(ValueError, match="cam2world"):
        Cameras(cam2world=torch.eye(4), fov=torch.ones(1))
    with pytest.raises(ValueError, match="fov"):
        Cameras(cam2world=torch.eye(4)[None], fov=torch.ones(2))
    with pytest.raises(ValueError, match=r"^cam2world must be a tensor, got ndarray\.$"):
        Cameras(cam2world=np.eye(4)[None], fov=torch.ones(1))
    with pytest.raises(ValueError, match="^cam2world must be floats .*, got int64"):
        Cameras(cam2world=torch.eye(4).long()[None], fov=torch.ones(1))
    with pytest.raises(ValueError, match=r"^fov must be a tensor, got list\.$"):
        Cameras(cam2world=torch.eye(4)[None], fov=[18.0])
    with pytest.raises(ValueError, match=r"^Cameras.join takes one or more Cameras, got \[\]\.$"):
        Cameras.join([])
    with pytest.raises(ValueError, match=r"^pixels must be \[R, 2\] or \[1, R, 2\], got \[5, 3\]\.$"):
        camera_rays(CameraPrior().at(), torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"^yaw must be one or more numbers, got 'left'\.$"):
        CameraPrior().at(yaw="left")
    with pytest.raises(ValueError, match=r"single numbers or equally many, got yaw 2, pitch 3, radius 1\.$"):
        CameraPrior().at(yaw=[0, 1], pitch=[0, 0.5, 1])
    with pytest.raises(ValueError, match=r"^stream must be a torch_utils.rng.RandomStream, got None\.$"):
        CameraPrior().sample(2, None)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"yaw": math.nan}, "^yaw must be finite, got nan"),
        ({"pitch": [0.5, math.inf]}, "^pitch must be finite"),
        ({"fov": -5}, "^fov must lie between 0 and 180 degrees, got -5 to -5"),
        ({"fov": [20.0, 200.0]}, "got 20 to 200"),
        ({"fov": [18.0, math.radians(18)]}, r"^fov is in degrees, of at least 1, got 0\.314159\.$"),
    ],
)
def test_values_that_give_no_camera(values, message):
    with pytest.raises(ValueError, match=message):
        CameraPrior().at(**values)


def test_degrees_are_not_taken_for_radians():
    """Any number is an angle: 30 would be a view of the back of the head."""
    prior = CameraPrior()
    for angles, name, value in (((30, math.pi / 2), "yaw", 30), ((0, 90), "pitch", 90), ((0, [1.5, -45]), "pitch", 45)):
        with pytest.raises(ValueError, match=rf"^{name} is in radians, got {value}: more than two turns\.$"):
            prior.at_angles(*angles)
    turned, front = (camera_angles(prior.at_angles(yaw, 1.5)) for yaw in (4 * math.pi, 0.0))
    assert_near(turned, front, absolute=1e-6)
    with pytest.raises(ValueError, match=r"^camera\.yaw is in radians, got \[-30, 30\]: more than two turns\.$"):
        CameraPrior(yaw=(-30, 30))
    # Cameras far away are trained with small fields of view.
    assert CameraPrior(fov=0.6, radius=(20, 20)).at(fov=0.5).fov.item() == 0.5


def test_angles_of_a_pose_are_tensors():
    with pytest.raises(ValueError, match=r"^yaw must be a tensor \[N\], got ndarray \[1\]\.$"):
        cam2world_from_angles(np.zeros(1), np.ones(1), np.ones(1))


def test_a_radius_of_zero_gives_no_camera():
    for radius in (0, -1):
        with pytest.raises(ValueError, match=f"^radius must be above 0, got {radius}"):
            CameraPrior().at_angles(0.0, 1.5, radius)


def test_an_index_may_be_that_of_numpy():
    assert CameraPrior().at([0.1, 0.9])[np.int64(1)].equals(CameraPrior().at(0.9))


def test_positions_without_a_view_are_refused():
    """A camera of NaN renders NaN, one at the origin looks nowhere."""
    for position in (torch.tensor([[math.nan, 0, 1]]), torch.tensor([[1.0, 0, 0], [0, 0, 0]])):
        with pytest.raises(ValueError, match="^position must be finite and not the origin"):
            look_at(position)
    for position in ([1.0, 0, 0], torch.ones(3, 2)):
        with pytest.raises(ValueError, match=r"^position must be a tensor \[N, 3\], got "):
            look_at(position)
    with pytest.raises(ValueError, match="^position must be floats in scene units, got int64"):
        look_at(torch.tensor([[1, 0, 0]]))


@pytest.mark.parametrize("resolution", [0, -4, 2.5, "32", True])
def test_resolutions_without_pixels_are_refused(resolution):
    with pytest.raises(ValueError, match="^resolution must be a whole number of at least 1, got "):
        pixel_centers(resolution)


def test_depths_move_with_the_origin():
    """By the distance beyond the trained radii, which rounding does not reach; never to the camera or behind it."""
    prior = CameraPrior(radius=[0.9, 1.1])
    radii = torch.tensor([0.001, 0.5, 0.9, 1.0, 1.1, 1.5, 40.0], dtype=torch.float64)
    poses = prior.at_angles(0.3, 1.2, radii)
    expected = [-0.9 * 0.78, -0.4, 0, 0, 0, 0.4, 38.9]
    offsets = prior.depth_offsets(poses, 0.78)
    assert offsets.tolist() == pytest.approx(expected, abs=1e-5) and offsets[2:5].tolist() == [0, 0, 0]
    random = prior.sample(1000, RandomStream(0))
    assert not prior.depth_offsets(random, 0.78).any()
    assert prior.depth_range(random, 0.78, 1.22) == (0.78, 1.22)
    assert prior.depth_range(poses[1:6], 0.78, 1.22) == pytest.approx((0.38, 1.62), abs=1e-6)


def test_depths_follow_the_origin_along_the_viewing_axis():
    """Not within the image plane; and with a gradient at trained distances, from which inversion starts."""
    prior = CameraPrior(radius=[1, 1])
    front = prior.at_angles(0, math.pi / 2).cam2world[0]
    right, _, back = front[:3, :3].T
    turned = torch.eye(4)
    turned[:3, :3] = front[:3, :3] @ torch.tensor([[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]])  # in place
    turned[:3, 3] = front[:3, 3]
    poses = torch.stack([front, front, front, turned])
    poses[1, :3, 3] += 0.4 * right
    poses[2, :3, 3] += 0.5 * back + 0.3 * right
    offsets = prior.depth_offsets(Cameras(cam2world=poses, fov=torch.full([4], 18.0)), 0.8)
    assert offsets.tolist() == pytest.approx([0, 0, 0.5, -0.2], abs=1e-6)

    for angles in ((0.3, 1.5), (0.0, math.pi / 2)):  # at the trained distance up to rounding, and exactly
        radius = torch.tensor(1.0, requires_grad=True)
        offset = prior.depth_offsets(prior.at_angles(*angles, radius), 0.8)
        assert offset.item() == 0
        assert torch.autograd.grad(offset.sum(), radius)[0].item() == pytest.approx(1, abs=1e-6)
