"""Mistakes in arguments of the Python interface: one line each, that says what is allowed and what was given."""

import math
import random
import re
import warnings

import numpy as np
import pytest
import torch

import video3d
from dnnlib import UserError
from metrics.evaluator import Evaluator
from metrics.generated_videos import GeneratedVideos
from renderer.camera_tracks import program_tracks
from renderer.cameras import CameraPrior, Cameras, camera_rays
from renderer.outputs import OUTPUTS
from renderer.video import image_grid, to_uint8
from tests.small_network import small_generator
from torch_utils.argument_checks import whole_number
from torch_utils.ops.bias_act import ACTIVATIONS, bias_act
from torch_utils.rng import RandomStream
from training.ema import GeneratorEMA
from training.inference.arguments import seed_list
from training.inference.latents import RowCodes
from training.inference.meshes import GeneratedMeshes
from training.networks.mixed_precision import half_precision
from training.phases import make_phases

NAN, INF = math.nan, math.inf
CHOICES = f"choose from {', '.join(OUTPUTS)}"


@pytest.fixture(scope="module")
def D(run_folder):
    return video3d.load_discriminators(run_folder)


def says(message: str):
    """The error of a call, whose one line is exactly this."""
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"t": INF}, "t must be a number from -1000 to 1000, got inf."),
        ({"t": NAN}, "t must be a number from -1000 to 1000, got nan."),
        ({"t": "a"}, "t must be a number from -1000 to 1000, got 'a'."),
        ({"t": torch.tensor(NAN)}, "t must be a number from -1000 to 1000, got nan."),
        ({"t": torch.zeros(2)}, "t must be a number from -1000 to 1000, got Tensor [2]."),
        ({"seed": "x"}, "seed must be a whole number, got 'x'."),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5."),
        ({"seed": True}, "seed must be a whole number, got True."),
        ({"seed": []}, "seed must be a whole number or several, got none."),
        ({"seed": -1}, "The seed must lie between 0 and 4294967295, got -1."),
        ({"motion_seed": [1, "a"]}, "motion_seed[1] must be a whole number, got 'a'."),
        ({"truncation_psi": "big"}, "truncation_psi must be a finite number, got 'big'."),
        ({"truncation_psi": NAN}, "truncation_psi must be a finite number, got nan."),
        ({"truncation_psi": 10**400}, f"truncation_psi must be a finite number, got 1{'0' * 17}...{'0' * 19}."),
        ({"fov": 0}, "fov must be a number between 0 and 180, got 0."),
        ({"fov": -5}, "fov must be a number between 0 and 180, got -5."),
        ({"fov": 180}, "fov must be a number between 0 and 180, got 180."),
        ({"fov": NAN}, "fov must be a number between 0 and 180, got nan."),
        ({"yaw": "x"}, "yaw must be a finite number, got 'x'."),
        ({"yaw": NAN}, "yaw must be a finite number, got nan."),
        (
            {"yaw": [0, 1]},
            "yaw must be a finite number, got [0, 1]; G.camera_prior.at_angles makes several cameras.",
        ),
        ({"pitch": -math.pi / 2}, f"pitch must be a number between -1.5708 and 1.5708, got {-math.pi / 2}."),
        ({"ray_chunk": 0}, "ray_chunk must be a whole number of at least 1, got 0."),
        ({"ray_chunk": -1}, "ray_chunk must be a whole number of at least 1, got -1."),
        ({"class_idx": "x"}, "class_idx must be a whole number, got 'x'."),
        ({"outputs": ()}, f"outputs names none; {CHOICES}, or leave it out for pixels."),
        ({"outputs": "depths"}, f"there is no output 'depths'; {CHOICES}."),
        ({"outputs": 3}, f"there is no output 3; {CHOICES}."),
        ({"z": [0.0] * 12}, "z must be a tensor [B, 12], got [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, ...]."),
        ({"z": torch.zeros(0, 12)}, "z must be [B, 12], got [0, 12]."),
        ({"z": torch.full([1, 12], NAN)}, "z must be finite; it holds nan or inf."),
        ({"z": torch.zeros(1, 12, dtype=torch.complex64)}, "z must be a dense tensor of real numbers [B, 12]."),
        ({"z": torch.zeros(1, 12).to_sparse()}, "z must be a dense tensor of real numbers [B, 12]."),
        ({"camera": 3}, "camera must be renderer.cameras.Cameras, as G.camera() gives them, got 3."),
    ],
)
def test_a_frame_names_the_wrong_argument(G, arguments, message):
    with says(message):
        G.frame(**arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"frames": 0}, "frames must be a whole number of at least 1, got 0."),
        ({"frames": -1}, "frames must be a whole number of at least 1, got -1."),
        ({"frames": 2.5}, "frames must be a whole number of at least 1, got 2.5."),
        ({"time_range": (0, INF)}, "time_range[1] must be a number from -1000 to 1000, got inf."),
        ({"time_range": (0, 1, 2)}, "time_range must be 2 numbers, got (0, 1, 2)."),
        ({"time_range": "01"}, "time_range must be 2 numbers, got '01'."),
        ({"yaw_scale": "x"}, "yaw_scale must be a finite number, got 'x'."),
        ({"pitch_scale": NAN}, "pitch_scale must be a finite number, got nan."),
        ({"fov": "x"}, "fov must be a number between 0 and 180, got 'x'."),
        ({"seed": [1, 2.0]}, "seed[1] must be a whole number, got 2.0."),
    ],
)
def test_a_video_names_the_wrong_argument(G, arguments, message):
    with says(message):
        G.video(**arguments)


def test_cameras_and_their_times_are_checked(G):
    cameras = G.camera_prior.at(yaw=[0.0, 1.0])
    with says("camera must hold 1 camera, got 2."):
        G.frame(camera=cameras)
    with says(
        "cameras must be renderer.cameras.Cameras, as G.camera() gives them, got several; "
        "Cameras.join makes one of them."
    ):
        G.video(cameras=[cameras[0], cameras[1]])
    with says("times[1] must be a number from -1000 to 1000, got nan."):
        G.video(cameras=cameras, times=[0.0, NAN])
    with says("times must be 2 numbers, got 0.5."):
        G.video(cameras=cameras, times=0.5)
    with says("cameras must hold one or more cameras, got 0."):
        G.video(cameras=Cameras(torch.zeros(0, 4, 4), torch.zeros(0)))
    skewed = Cameras(cameras.cam2world.clone(), cameras.fov)
    skewed.cam2world[1, :3, 0] = 0
    narrow = Cameras(cameras.cam2world, torch.tensor([18.0, 0.0]))
    lost = Cameras(cameras.cam2world.clone(), cameras.fov)
    lost.cam2world[1, 0, 3] = NAN
    for wrong in (skewed, narrow, lost):
        with pytest.raises(ValueError, match="^cameras must have finite poses with .*; camera 1 does not.$"):
            G.video(cameras=wrong)
    # Of other conventions: each of these would give a picture.
    transposed = Cameras(cameras.cam2world.clone(), cameras.fov)
    transposed.cam2world[1] = transposed.cam2world[1].T.clone()
    with says(
        "cameras: the last row of cam2world must be 0 0 0 1, which that of camera 1 is not. Is the matrix transposed?"
    ):
        G.video(cameras=transposed)
    mirrored = Cameras(cameras.cam2world.clone(), cameras.fov)
    mirrored.cam2world[1, :3, 0] *= -1
    with says(
        "cameras: camera 1 is a mirror, its axes are left-handed. They must point to the right, up, and backwards."
    ):
        G.video(cameras=mirrored)


@pytest.mark.parametrize(
    "beside", [{"seed": 0}, {"motion_seed": 0}, {"z": torch.zeros(1, 12)}, {"truncation_psi": 1.0}, {"class_idx": 0}]
)
def test_codes_stand_alone(G, beside):
    codes = G.codes([3])
    for render in (G.frame, G.video):
        with says(f"give codes or {next(iter(beside))}, not both."):
            render(codes=codes, **beside)


def test_cameras_stand_alone(G):
    camera = G.camera()
    for name in ("yaw", "pitch", "fov"):
        with says(f"give camera or {name}, not both."):
            G.frame(camera=camera, **{name: 1.0})
    for name, value in {"program": "front", "frames": 16, "fov": 18, "yaw_scale": 1, "pitch_scale": 1}.items():
        with says(f"give cameras or {name}, not both."):
            G.video(cameras=camera, **{name: value})
    with says("give times or time_range, not both."):
        G.video(cameras=camera, times=[0.5], time_range=(0, 1))


def test_what_is_left_out_is_the_default(G):
    given = {"seed": 0, "truncation_psi": 1.0}
    assert torch.equal(G.frame(), G.frame(**given, yaw=0.0, pitch=0.0, fov=G.camera_prior.fov))
    path = {"program": "rotation_camera_yaw", "frames": 16, "time_range": (0.0, 1.0), "yaw_scale": 1.0}
    assert torch.equal(G.video(), G.video(**given, **path, pitch_scale=1.0))


@pytest.mark.parametrize(
    "arguments, idle",
    [
        ({}, []),
        ({"yaw_scale": 2, "pitch_scale": 1}, []),
        ({"pitch_scale": 9}, ["pitch_scale has no effect: rotation_camera_yaw does not move the camera in pitch."]),
        (
            {"program": "front", "yaw_scale": 2, "pitch_scale": 0.5},
            [f"{angle}_scale has no effect: front does not move the camera in {angle}." for angle in ("yaw", "pitch")],
        ),
    ],
)
def test_scales_without_effect_are_warned_of(G, arguments, idle):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        G.video(frames=2, **arguments)
    assert [str(warning.message) for warning in caught] == idle
    assert all(warning.filename == __file__ for warning in caught), "the caller's line"


def test_motion_seeds_without_effect_are_warned_of(G):
    still = video3d.VideoGenerator(small_generator(motion=None))
    for render in (still.frame, still.video, G.frame):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            render(seed=1, motion_seed=2)
        expected = [] if render == G.frame else ["motion_seed has no effect: this generator has no motion."]
        assert [str(warning.message) for warning in caught] == expected
        assert all(warning.filename == __file__ for warning in caught)


def test_other_spellings_of_a_value(G):
    """Numbers of NumPy and of tensors, arrays of seeds, and an output by its name alone."""
    frame, pair = G.frame(seed=3, t=0.5), G.frame(seed=[3, 4])
    assert torch.equal(G.frame(seed=np.int64(3), t=torch.tensor(0.5), yaw=np.float32(0)), frame)
    assert torch.equal(G.frame(seed=torch.tensor(3)), frame)
    for seeds in (np.array([3, 4]), torch.tensor([3, 4]), range(3, 5)):
        assert torch.equal(G.frame(seed=seeds), pair)
    assert len(G.video(frames=np.int64(2))) == 2
    times = torch.tensor([0.25, 0.75])
    cameras = G.camera_prior.at(yaw=[0.0, 1.0])
    assert torch.equal(G.video(cameras=cameras, times=times), G.video(cameras=cameras, times=[0.25, 0.75]))
    depth = G.frame(seed=3, outputs="depth")
    assert list(depth) == ["depth"] and depth["depth"].shape[0] == 1
    assert seed_list("seed", 3) == [3] and type(whole_number("frames", np.uint8(3))) is int


def test_codes_that_cannot_be_saved(G, tmp_path):
    path, one, two = tmp_path / "codes.npz", G.codes([3]), G.codes([4, 5])
    with says("codes must be those of one video, got those of 2: codes[0] are the first one's."):
        G.save_codes(path, two)
    with says("codes must be what codes, load_codes, interpolate or mix return, got SeedLatents."):
        G.save_codes(path, G.latents([3]))
    with says("codes.ws must be finite; it holds nan or inf."):
        G.save_codes(path, RowCodes(one.ws * NAN, one.z_motion, one.z_bg))
    with says("path must be a path, got None."):
        G.save_codes(None, one)
    with says("times must be 1 number, got [0, 1]."):
        G.save_codes(path, one, times=[0, 1])
    cameras = G.camera_prior.at(yaw=[0.0, 1.0])
    with says("times must be 2 numbers, got [0]."):
        G.save_codes(path, one, cameras=cameras, times=[0])
    with says("cameras must be renderer.cameras.Cameras, as G.camera() gives them, got 'front'."):
        G.save_codes(path, one, cameras="front")
    turned = cameras.cam2world[:, :, [1, 0, 2, 3]] * torch.tensor([1.0, -1.0, 1.0, 1.0])
    with says(
        "files of codes hold cameras that look at the origin without a roll, as G.camera() gives them; camera 0 does "
        "not."
    ):
        G.save_codes(path, one, cameras=Cameras(cam2world=turned, fov=cameras.fov))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="^Cannot write .*codes.npz: "):
        G.save_codes(tmp_path / "nowhere" / "codes.npz", one)


def test_codes_of_other_forms(G):
    one, two = G.codes([3]), G.codes([4, 5])
    torn = RowCodes(two.ws, one.z_motion, two.z_bg)
    with says("codes.z_motion must be [B, 10] with B = 2, got [1, 10]."):
        G.frame(codes=torn)
    with says("codes must be what codes, load_codes, interpolate or mix return, got SeedLatents."):
        G.frame(codes=G.latents([3]))
    with says("codes.ws must be finite; it holds nan or inf."):
        G.frame(codes=RowCodes(one.ws * NAN, one.z_motion, one.z_bg))
    sizes = "B = 1, num_ws = 11, w_dim = 16"
    with says(f"second.ws must be [B, num_ws, w_dim] with {sizes}, got [2, 11, 16]."):
        G.interpolate(one, two, 0.5)
    with says("fraction must be a finite number, got nan."):
        G.interpolate(one, one, NAN)
    with says("second.ws must be [B, 11, 16] with B = 1, got [2, 11, 16]."):
        G.mix(one, two, "upsampler")
    for layers, given in ((5, "5"), (None, "None"), ({1}, "{1}")):
        with says(f"layers must be foreground, upsampler or a list of numbers, got {given}."):
            G.mix(one, one, layers)
    with says("layers[1] must be a whole number, got 1.5."):
        G.mix(one, one, [0, 1.5])
    with says("layers must lie between 0 and 10, got 3 to 11."):
        G.mix(one, one, [3, 11])


def test_codes_follow_the_generator(run_folder, G):
    """Like z, they may come from elsewhere: here from a generator of another type."""
    double = video3d.load_generator(run_folder, dtype=torch.float64)
    difference = double.frame(codes=G.codes([3])).int() - G.frame(codes=double.codes([3])).int()
    assert difference.abs().max() <= 1


def test_meshes_and_splats_need_float32(run_folder):
    double = video3d.load_generator(run_folder, dtype=torch.float64)
    with says("meshes and splats need a generator in float32, got torch.float64: load it without dtype=."):
        GeneratedMeshes(double.network)


def test_a_camera_keeps_gradients(G):
    yaw = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    G.camera(yaw).cam2world[0, 0, 3].backward()
    assert yaw.grad.item() == pytest.approx(-math.sin(0.2))  # of the radius 1 times cos(yaw), at the equator
    angles = torch.tensor([0.2, 0.3], requires_grad=True)
    middle = sum(G.camera_prior.pitch) / 2
    G.camera_prior.at_angles(angles, middle).cam2world[:, 0, 3].sum().backward()
    assert angles.grad.tolist() == pytest.approx([-math.sin(0.2), -math.sin(0.3)])
    with says("pitch must be a finite number, got Tensor [1]; G.camera_prior.at_angles makes several cameras."):
        G.camera(pitch=torch.zeros(1))
    with says("radius must be a finite number above 0, got 0."):
        G.camera(radius=0)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"z": torch.zeros(12)}, "z must be [B, 12], got [12]."),
        ({"z": "x"}, "z must be a tensor [B, 12], got 'x'."),
        ({"z_motion": torch.zeros(1, 10)}, "z_motion must be [B, 10] with B = 2, got [1, 10]."),
        ({"z_bg": torch.zeros(1, 6)}, "z_bg must be [B, 6] with B = 2, got [1, 6]."),
        ({"times": torch.zeros(2)}, "times must be [B, T] with B = 2, got [2]."),
        ({"times": torch.zeros(1, 3)}, "times must be [B, T] with B = 2, got [1, 3]."),
        ({"times": torch.zeros(2, 0)}, "times must be [B, T] with B = 2, got [2, 0]."),
        ({"times": torch.zeros(2, 1, device="meta")}, "times is on meta instead of cpu; move it with .to('cpu')."),
        ({"c": torch.zeros(2, 3)}, "c has no place here: this network was trained without labels."),
        ({"z": None}, "z must be a tensor [B, 12], got None."),
        ({"ws": torch.zeros(2, 11, 16)}, "give ws or z, not both."),
        ({"z": None, "ws": torch.zeros(2, 3, 16)}, "ws must be [B, 11, 16], got [2, 3, 16]."),
        ({"z": None, "ws": torch.zeros(2, 11, 16), "truncation_psi": 0.7}, "give ws or truncation_psi, not both."),
        ({"truncation_psi": "x"}, "truncation_psi must be a finite number, got 'x'."),
        ({"cameras": "front"}, "cameras must be renderer.cameras.Cameras, as G.camera() gives them, got 'front'."),
        ({"stream": torch.Generator()}, "stream must be a torch_utils.rng.RandomStream or None, got Generator."),
        ({"stream": np.random.default_rng(0)}, "stream must be a torch_utils.rng.RandomStream or None, got Generator."),
        ({"stream": random.Random(0)}, "stream must be a torch_utils.rng.RandomStream or None, got Random."),
        ({"stream": 0}, "stream must be a torch_utils.rng.RandomStream or None, got 0."),
    ],
)
def test_a_forward_pass_names_the_wrong_tensor(G, wrong, message):
    latents = G.latents([0, 1])
    right = {"z": latents.z, "z_motion": latents.z_motion, "z_bg": latents.z_bg, "times": torch.zeros(2, 1)}
    with says(message):
        G(**(right | wrong))
    with says("cameras must hold 2 cameras, got 1."):
        G(**right, cameras=G.camera())


def test_a_forward_pass_from_styles(G):
    """The same frames as from the codes that the styles come from, with gradients to styles and poses."""
    latents, codes, camera = G.latents([0, 1]), G.codes([0, 1], truncation_psi=0.7), G.camera(yaw=0.1).repeat(2)
    ws, pose = codes.ws.clone().requires_grad_(True), camera.cam2world.clone().requires_grad_(True)
    rest = {"z_motion": codes.z_motion, "z_bg": codes.z_bg, "times": torch.zeros(2, 1)}
    image = G(ws=ws, cameras=Cameras(cam2world=pose, fov=camera.fov), **rest).image
    assert torch.equal(image, G(latents.z, truncation_psi=0.7, cameras=camera, **rest).image)
    image.square().mean().backward()
    assert ws.grad.abs().max() > 0 and pose.grad.abs().max() > 0


def test_types_of_a_forward_pass(G):
    """Times of another type are those numbers; a training hands over labels without entries."""
    latents, times = G.latents([3]), torch.tensor([[0.0, 1.0]])
    codes = {"z_motion": latents.z_motion, "z_bg": latents.z_bg}
    image = G(latents.z, times=times, **codes).image
    for other in (times.double(), times.long()):
        assert torch.equal(G(latents.z, torch.zeros(1, 0), times=other, **codes).image, image)


def test_labels():
    G = video3d.VideoGenerator(small_generator(c_dim=3))
    latents = G.latents([0, 1])
    codes = {"z_motion": latents.z_motion, "z_bg": latents.z_bg, "times": torch.zeros(2, 1)}
    with says("c is missing: this network was trained with labels [B, 3]."):
        G(latents.z, **codes)
    with says("c must be [B, 3] with B = 2, got [1, 3]."):
        G(latents.z, torch.eye(3)[:1], **codes)
    with says("class_idx must be a whole number, got 1.0."):
        G.frame(class_idx=1.0)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"dt": 0.5}, "dt must be a tensor [B], got 0.5."),
        ({"dt": torch.zeros(1)}, "dt must be [B] with B = 2, got [1]."),
        ({"dt": torch.zeros(2, 1)}, "dt must be [B] with B = 2, got [2, 1]."),
        ({"frames": torch.zeros(2, 2, 3, 32, 32, dtype=torch.uint8)}, "frames must be floats in [-1, 1], got uint8."),
        ({"frames": torch.full((2, 2, 3, 32, 32), 255.0)}, "frames must be in [-1, 1], got 255 to 255."),
        ({"dt": torch.tensor([3, 5])}, "dt must be floats in [0, 1], as a fraction of a training clip, got int64."),
        ({"dt": -torch.ones(2)}, "dt must be in [0, 1], as a fraction of a training clip, got -1 to -1."),
        ({"frames": torch.zeros(0, 2, 3, 32, 32)}, "frames must be [B, 2, 3, 32, 32], got [0, 2, 3, 32, 32]."),
        ({"frames": None}, "frames must be a tensor [B, 2, 3, 32, 32], got None."),
        ({"c": torch.zeros(2, 3)}, "c has no place here: this network was trained without labels."),
    ],
)
def test_discriminators_name_the_wrong_tensor(D, wrong, message):
    with says(message):
        D(**({"frames": torch.zeros(2, 2, 3, 32, 32), "dt": torch.zeros(2)} | wrong))


def test_degrees_and_radians_are_not_confused(G):
    """Every number is an angle of some view."""
    pose, radians = G.camera().cam2world, torch.deg2rad(G.camera().fov)
    for call in (lambda: G.frame(fov=0.31), lambda: G.video(fov=0.31), lambda: G.camera(fov=0.31)):
        with says("fov is in degrees, of at least 1, got 0.31."):
            call()
    for name in ("camera", "cameras"):
        render = {"camera": G.frame, "cameras": G.video}[name]
        with says(f"{name}: fov is in degrees, of at least 1, got {radians.item():g}."):
            render(**{name: Cameras(cam2world=pose, fov=radians)})
    with says("yaw is in radians, got 30: more than two turns."):
        G.frame(yaw=30)


def test_pixels_are_made_of_maps(G):
    with says(f"there is no output 'depths'; {CHOICES}."):
        G.pixels("depths", torch.zeros(1, 8, 8))
    with says("values must be [1, h, w], got [1, 1, 8, 8]."):
        G.pixels("depth", torch.zeros(1, 1, 8, 8))
    with says("values must be [3, h, w], got [1, 8, 8]."):
        G.pixels("rgb", torch.zeros(1, 8, 8))
    with says("values must be floats as outputs= gives them, got uint8."):
        G.pixels("rgb", G.frame(seed=3))


@pytest.mark.parametrize("source", [3, None, "", b"run"])
def test_sources_that_are_none(G, source):
    for load in (video3d.load_generator, video3d.load_discriminators):
        with says(f"source must be a snapshot, a folder, a URL or an id of the Hub, got {source!r}."):
            load(source)
    with says(f"path must be a path, got {source!r}."):
        G.load_codes(source)
    with says(f"folder must be a path, got {source!r}."):
        G.save_pretrained(source)


def test_where_networks_are_loaded(run_folder):
    types = "torch.float32, torch.float64, torch.bfloat16 or torch.float16"
    for load in (video3d.load_generator, video3d.load_discriminators):
        with says(f"dtype must be {types}, got torch.int32."):
            load(run_folder, dtype=torch.int32)
        with says(f"dtype must be {types}, got 'float64'."):
            load(run_folder, dtype="float64")
        with pytest.raises(ValueError, match="^device 'abacus' cannot be used here: "):
            load(run_folder, device="abacus")
    with pytest.raises(ValueError, match="^generator_class is torch.nn.modules.linear.Linear, but .* leave it out"):
        video3d.load_generator(run_folder, generator_class=torch.nn.Linear)
    with says("generator_class must be a class, got str."):
        video3d.load_generator(run_folder, generator_class="Linear")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"fps": 0}, "fps must be a number from 0.01 to 1000, got 0."),
        ({"fps": "8"}, "fps must be a number from 0.01 to 1000, got '8'."),
        ({"fps": NAN}, "fps must be a number from 0.01 to 1000, got nan."),
        ({"video": torch.zeros(1, 2, 3, 8, 8)}, "video must be [T, 3, H, W], got [1, 2, 3, 8, 8]."),
        ({"video": np.zeros((2, 3, 8, 8))}, "video must be a tensor [T, 3, H, W], got ndarray [2, 3, 8, 8]."),
        ({"video": torch.zeros(0, 3, 8, 8)}, "video must be [T, 3, H, W], got [0, 3, 8, 8]."),
        ({"path": None}, "path must be a path, got None."),
    ],
)
def test_saving_names_the_wrong_argument(tmp_path, wrong, message):
    with says(message):
        video3d.save_video(**({"path": tmp_path / "a.mp4", "video": torch.zeros(2, 3, 8, 8).byte()} | wrong))
    assert not list(tmp_path.iterdir())


NO_CAMERAS = "cameras must be renderer.cameras.Cameras, as G.camera() gives them, got None."
ADAM = {"generator": None, "discriminator": None, "betas": (0.0, 0.99), "lr": 0.002, "eps": 1e-8}
ADAM |= {"g_reg_interval": 4, "d_reg_interval": 16}
AVERAGE = {"source": torch.nn.Linear(1, 1), "half_life_kimg": 20, "ramp": None}


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda G: G.camera_prior.sample(2.5, RandomStream(0)), "n must be a whole number of at least 0, got 2.5."),
        (lambda G: camera_rays(None, torch.zeros(4, 2)), NO_CAMERAS),
        (
            lambda G: CameraPrior(distribution=G),
            "camera.distribution must be 'gaussian' or 'uniform', got VideoGenerator.",
        ),
        (
            lambda G: program_tracks("front", G.camera_prior, n_steps=2, time_steps=2),
            "programs must be a list of names, got 'front'.",
        ),
        (lambda G: to_uint8(np.zeros(3)), "image must be a tensor, got ndarray [3]."),
        (lambda G: to_uint8(torch.zeros(3).byte()), "image must be floats in [-1, 1], got uint8."),
        (lambda G: image_grid([1], 2), "A grid is made of images [N, C, H, W] with N > 0, got [1]."),
        (lambda G: image_grid(torch.zeros(2, 3, 4, 4), 1.5), "columns must be a whole number, got 1.5."),
        (
            lambda G: GeneratorEMA(average=3, **AVERAGE),
            "average must be a network, such as G.network, got 3.",
        ),
        (lambda G: make_phases(**ADAM | {"lr": None}), "lr must be a finite number, got None."),
        (lambda G: make_phases(**ADAM | {"eps": "1e-8"}), "eps must be a finite number, got '1e-8'."),
        (lambda G: make_phases(**ADAM | {"betas": 0.9}), "betas must be 2 numbers, got 0.9."),
        (lambda G: make_phases(**ADAM | {"betas": [0, "x"]}), "betas[1] must be a finite number, got 'x'."),
        (lambda G: make_phases(**ADAM), "generator must be a network, such as G.network, got None."),
        (
            lambda G: half_precision(torch.float16, G.network).__enter__(),
            "dtype must be torch.bfloat16 or torch.float32, got torch.float16.",
        ),
        (
            lambda G: half_precision(torch.bfloat16, 3).__enter__(),
            "network must be a network, such as G.network, got 3.",
        ),
        (
            lambda G: Evaluator(fake=GeneratedVideos(G.network)).check("flatness32_1v"),
            "names must be a list of names of metrics, got 'flatness32_1v'.",
        ),
        (
            lambda G: bias_act(torch.zeros(1, 3), None, act=["relu"]),
            f"bias_act: unknown activation ['relu']; choose one of {', '.join(ACTIVATIONS)}",
        ),
        (lambda G: type(G)(G.network, about=3), "about must be a mapping with 'dataset' and 'progress', got 3."),
    ],
)
def test_other_functions_name_the_wrong_argument(G, call, message):
    """Those that docs/python.md uses besides the methods of G."""
    with says(message):
        call(G)
