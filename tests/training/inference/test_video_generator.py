"""The Python interface: it shows what the commands show, takes batches and codes, and passes gradients."""

import copy
import dataclasses
import json
import os
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import generate
import video3d
from dnnlib import UserError
from metrics.evaluator import Evaluator
from metrics.generated_videos import GeneratedVideos
from renderer.cameras import Cameras
from renderer.depth import surface_points
from renderer.outputs import displayed
from tests.full_memory import fill_gpu, loading_message
from tests.small_network import small_generator
from torch_utils.rng import RandomStream
from training.checkpoints import network_state, snapshot
from training.inference.frame_renderer import FrameRenderer
from training.inference.latent_files import VideoCodes, generator_digest, load_codes, save_codes
from training.inference.latents import RowCodes, generator_latents, seed_latents
from training.inference.meshes import GeneratedMeshes
from training.inference.point_query import PointField
from training.inference.render_videos import save_video
from training.inference.splats import GeneratedSplats
from training.inference.video_discriminators import load_discriminators
from training.inference.video_generator import VideoGenerator, load_generator
from training.networks.generator import Generator


def test_a_video_is_that_of_the_command(run_folder, G, tmp_path):
    arguments = ["--outdir", str(tmp_path), "--network_pkl", str(run_folder), "--seeds", "3", "--motion_seeds", "5"]
    words = [*arguments, "--time_steps", "4", "--n_steps", "4", "--truncation_psi", "0.7", "--save_frames"]
    generate.main(words, standalone_mode=False)
    folder = tmp_path / "rotation_camera_yaw_seed0003_motion0005"
    shown = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])
    video = G.video(seed=3, motion_seed=5, program="rotation_camera_yaw", frames=4, truncation_psi=0.7)
    assert video.dtype == torch.uint8
    assert np.array_equal(video.permute(0, 2, 3, 1).numpy(), shown)


@pytest.mark.parametrize("load", [load_generator, load_discriminators])
def test_a_full_memory_is_one_line(run_folder, monkeypatch, load):
    fill_gpu(monkeypatch)
    with pytest.raises(UserError) as caught:
        load(run_folder)
    assert str(caught.value) == loading_message(run_folder)


def test_a_frame_is_one_of_the_video(G):
    video = G.video(seed=3, motion_seed=5, program="front", frames=3)
    assert torch.equal(G.frame(seed=3, motion_seed=5, t=0.5), video[1])
    moved = G.frame(seed=3, motion_seed=5, t=0.5, yaw=0.3)
    assert not torch.equal(moved, video[1])
    camera = G.camera_prior.at_angles(0.3, sum(G.camera_prior.pitch) / 2)
    assert torch.equal(G.frame(seed=3, motion_seed=5, t=0.5, camera=camera), moved)


def test_a_negative_pitch_looks_from_above(G):
    assert G.camera(pitch=-0.1).cam2world[0, 2, 3] > G.camera().cam2world[0, 2, 3]


def test_batches_are_their_videos(G):
    both = G.video(seed=[3, 4], frames=2)
    assert both.shape == (2, 2, 3, G.resolution, G.resolution)
    for row, seed in zip(both, (3, 4)):
        assert (row.int() - G.video(seed=seed, frames=2).int()).abs().max() <= 1
    assert G.frame(seed=3, motion_seed=[5, 6]).shape == (2, 3, G.resolution, G.resolution)
    with pytest.raises(ValueError, match="2 seeds and 3 motion seeds make no pairs"):
        G.frame(seed=[1, 2], motion_seed=[1, 2, 3])


def test_content_codes_take_the_place_of_a_seed(G):
    z = G.latents(seed=3).z
    assert torch.equal(z, seed_latents(3, 3, z_dim=12, motion_dim=10, background_dim=6).z)
    with_background = G.frame(seed=3, z=z[0], t=0.2)
    assert torch.equal(with_background, G.frame(seed=3, t=0.2))
    assert torch.equal(G.frame(seed=3, z=z, t=0.2)[0], with_background), "a batch of one"
    assert G.frame(z=torch.cat([z, z]), t=0.2).shape == (2, 3, G.resolution, G.resolution)
    with pytest.raises(ValueError, match=r"z must be \[B, 12\], got \[1, 5\]"):
        G.frame(z=torch.zeros(1, 5))


def test_values_of_outputs(generator):
    G = video3d.VideoGenerator(generator)
    maps = G.frame(seed=3, t=0.5, outputs=("rgb", "depth", "normal", "opacity"))
    assert list(maps) == ["rgb", "depth", "normal", "opacity"]
    raw = G.network.settings.resolution
    assert maps["rgb"].shape == (3, G.resolution, G.resolution) and maps["depth"].shape == (1, raw, raw)
    settings = G.network.settings
    depth = maps["depth"][~maps["depth"].isnan()]
    assert depth.min() >= settings.near and depth.max() <= settings.far
    shown = G.pixels("depth", maps["depth"])
    assert shown.dtype == torch.uint8 and shown.shape == (3, G.resolution, G.resolution)
    assert G.video(seed=3, frames=2, outputs=["depth"])["depth"].shape == (2, 1, raw, raw)
    with pytest.raises(ValueError, match="there is no output 'depths'; choose from rgb, depth"):
        G.frame(outputs=("depths",))


def test_the_range_of_displayed_depths_moves_with_the_cameras(G):
    depth, settings = torch.linspace(1.31, 1.69, 16).reshape(1, 4, 4), G.network.settings
    shown = G.pixels("depth", depth, cameras=G.camera(radius=1.5))
    near, far = settings.near + 0.5, settings.far + 0.5  # training's cameras are at 1
    assert torch.equal(shown, displayed("depth", depth, size=(G.resolution, G.resolution), near=near, far=far))
    assert shown.min() == 0 and shown.max() == 255
    assert (G.pixels("depth", depth) == 0).all(), "beyond the far end of training's range"


def test_geometry_of_its_own_resolution(generator):
    G = video3d.VideoGenerator(generator)
    raw = G.network.settings.resolution
    maps = G.frame(seed=3, outputs=("normal", "rgb", "depth"), geometry_resolution=3 * raw)
    assert list(maps) == ["normal", "rgb", "depth"] and maps["normal"].shape == (3, 3 * raw, 3 * raw)
    assert torch.equal(maps["rgb"], G.frame(seed=3, outputs="rgb")["rgb"])
    video = G.video(seed=[3], program="front", frames=3, outputs="depth", geometry_resolution=3 * raw)
    assert torch.equal(video["depth"][0, 1].nan_to_num(), maps["depth"].nan_to_num()) and len(video) == 1
    large = G.frame(seed=3, outputs="opacity", geometry_resolution=2 * G.resolution)["opacity"]
    assert G.pixels("opacity", large).shape == (3, 2 * G.resolution, 2 * G.resolution), "shown as large as it is"
    with pytest.raises(ValueError, match="geometry_resolution is for outputs other than rgb"):
        G.frame(seed=3, geometry_resolution=16)
    for value in (0, 2.5, True):
        with pytest.raises(ValueError, match="geometry_resolution must be"):
            G.video(seed=3, outputs="depth", geometry_resolution=value)


def test_interpolation_and_mixing(G):
    first, second = G.codes([3]), G.codes([4])
    assert torch.equal(G.interpolate(first, second, 0.0).ws, first.ws)
    assert torch.equal(G.interpolate(first, second, 1.0).z_motion, second.z_motion)
    halfway = G.interpolate(first, second, 0.5)
    assert torch.allclose(halfway.ws, (first.ws + second.ws) / 2)
    for name in ("z_motion", "z_bg"):  # on an arc: the mean of two Gaussian codes would be shorter
        start, end, between = (getattr(codes, name).norm() for codes in (first, second, halfway))
        assert between == pytest.approx(float(start + end) / 2, rel=1e-5)
    split = G.network.foreground.num_ws
    mixed = G.mix(first, second, "upsampler")
    assert torch.equal(mixed.ws[:, :split], first.ws[:, :split]) and torch.equal(
        mixed.ws[:, split:], second.ws[:, split:]
    )
    assert torch.equal(G.mix(first, second, range(split, G.num_ws)).ws, mixed.ws)
    assert torch.equal(mixed.z_bg, first.z_bg) and torch.equal(mixed.z_motion, first.z_motion)
    with pytest.raises(ValueError, match="layers must be foreground, upsampler or a list"):
        G.mix(first, second, "background")


def test_results_can_be_edited_in_place(G):
    """One layer without the others, also of a copy, one channel without the others, and no codes of other results."""
    codes = G.codes([3, 4])
    edited, others = copy.deepcopy(codes), [layer for layer in range(G.num_ws) if layer != 2]
    edited.ws[:, 2] += 1
    assert torch.equal(edited.ws[:, others], codes.ws[:, others]) and torch.equal(edited.ws[:, 2], codes.ws[:, 2] + 1)
    for name in ("depth", "opacity"):
        shown = G.pixels(name, torch.ones(1, 4, 4))
        expected = shown[1:].clone()
        shown[0] = 7
        assert torch.equal(shown[1:], expected) and (expected != 7).all()
    mixed, expected = G.mix(codes[:1], codes[1:], "upsampler"), codes.z_motion.clone()
    mixed.z_motion.zero_(), mixed.z_bg.zero_()
    assert torch.equal(codes.z_motion, expected) and codes.z_bg.all()


def test_cameras_and_times(G):
    cameras = G.camera_prior.at(yaw=[0.0, 1.0])
    video = G.video(seed=3, cameras=cameras, times=[0.25, 0.75])
    assert torch.equal(video[1], G.frame(seed=3, t=0.75, camera=cameras[1]))
    assert torch.equal(G.video(seed=3, cameras=cameras)[1], G.frame(seed=3, t=1.0, camera=cameras[1]))
    with pytest.raises(ValueError, match=r"times must be 2 numbers, got \[0.0\]"):
        G.video(cameras=cameras, times=[0.0])
    with pytest.raises(ValueError, match="times belong to cameras"):
        G.video(times=[0.0, 1.0])
    with pytest.raises(ValueError, match="Unknown render program 'sideways'"):
        G.video(program="sideways")


def test_double_precision(run_folder, G):
    double = load_generator(run_folder, dtype=torch.float64)
    assert double.dtype == torch.float64
    assert (double.frame(3).int() - G.frame(3).int()).abs().max() <= 1


def forward(G, cameras=None, stream=None):
    codes = G.latents(seed=[3, 4])
    z, z_motion, z_bg = (x.to(G.dtype) for x in (codes.z, codes.z_motion, codes.z_bg))
    times = torch.tensor([[0.1, 0.6]], dtype=G.dtype).repeat(2, 1)
    return G(z, z_motion=z_motion, z_bg=z_bg, times=times, cameras=cameras, stream=stream)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_render_with_gradients(run_folder, G, dtype):
    """From trained cameras and from others, whose depths are moved, and with the random depths of training."""
    other = load_generator(run_folder, dtype=dtype)
    far = Cameras.join([G.camera(radius=1.5), G.camera()])
    assert forward(other).image.isfinite().all()
    for seed in (None, 0):
        image, expected = (forward(g, far, None if seed is None else RandomStream(seed)).image for g in (other, G))
        assert image.dtype == dtype and image.isfinite().all()
        assert (image.float() - expected).abs().mean() < {torch.float64: 1e-5}.get(dtype, 0.1) * expected.std()


def test_cameras_of_another_type_give_the_same_frames(G):
    """Poses from NumPy are in double precision."""
    far = Cameras.join([G.camera(radius=1.5), G.camera(0.2)])
    double = Cameras(cam2world=far.cam2world.double(), fov=far.fov)
    found = forward(G, double).image
    assert found.dtype == torch.float32 and torch.equal(found, forward(G, far).image)
    with torch.no_grad():
        assert torch.equal(forward(G, double).image, forward(G, far).image)


def test_points_see_what_frames_see_from_other_distances(G):
    codes = G.codes(seed=[3])
    field = PointField(G.network, codes.ws, z_motion=codes.z_motion, z_bg=codes.z_bg, time=0.2)
    for radius in (1.0, 1.5):
        camera = G.camera(radius=radius)
        shown = G.frame(codes=codes, t=0.2, camera=camera, outputs="opacity")["opacity"][0, 0]
        size = len(shown)
        torch.testing.assert_close(field.opacity(camera, size), shown, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(1 - field.render(camera, size)[1], shown, rtol=1e-4, atol=1e-5)
    both = Cameras.join([camera, camera])
    for call in (field.opacity, field.render):
        with pytest.raises(ValueError, match="^camera must hold 1 camera, got 2"):
            call(both, 4)
        with pytest.raises(ValueError, match="^size must be a whole number of at least 1, got 2.5"):
            call(camera, 2.5)


def test_cameras_in_a_list_or_of_another_number(G):
    cameras, depth = [G.camera(), G.camera(0.1)], torch.ones(1, 4, 4)
    reason = "must be renderer.cameras.Cameras, as G.camera\\(\\) gives them, got several; Cameras.join makes one"
    with pytest.raises(ValueError, match=f"^cameras {reason}"):
        G.pixels("depth", depth, cameras=cameras)
    with pytest.raises(ValueError, match="^cameras must hold one or more cameras, got 0"):
        G.pixels("depth", depth, cameras=cameras[0][:0])
    with pytest.raises(ValueError, match=f"^cameras {reason}"):
        surface_points(cameras, depth)
    assert Cameras.join(camera for camera in cameras).equals(Cameras.join(cameras))
    with pytest.raises(ValueError, match="^Cameras.join takes one or more Cameras, got \\[3\\]"):
        Cameras.join(3)
    codes = G.codes(seed=[3])
    renderer = FrameRenderer(G.network, codes.ws, z_motion=codes.z_motion, z_bg=codes.z_bg)
    with pytest.raises(ValueError, match="^1 videos need as many cameras, got 2"):
        renderer.render(0.5, Cameras.join(cameras))


def test_interpolation_without_background_codes():
    G = VideoGenerator(small_generator(background=None, background_dim=0))
    codes = G.codes([3, 4])
    between = G.interpolate(codes[:1], codes[1:], 0.5)
    assert between.z_bg.shape == (1, 0)
    torch.testing.assert_close(between.ws, codes.ws.mean(dim=0, keepdim=True))
    assert G.frame(codes=between).shape == (1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"^second\.ws must be \[B, num_ws, w_dim\] with B = 1, .*, got \[0, "):
        G.interpolate(codes[:1], codes[:0], 0.5)


def test_meshes_take_the_codes_of_one_video(G):
    maker, codes = GeneratedMeshes(G.network, resolution=8, level=1.0), G.codes(seed=[3])
    with pytest.raises(ValueError, match="^video must be what codes, load_codes, interpolate or mix return, got "):
        maker.mesh(vars(codes), 0.5, 1.0)
    with pytest.raises(ValueError, match="^times must be one number or more in a list, got 0.5"):
        maker.level(codes, 0.5, name="seed 3")


@pytest.mark.parametrize("kind", [GeneratedMeshes, GeneratedSplats])
def test_meshes_and_splats_of_codes_need_no_class(kind):
    """The codes hold their styles."""
    G = VideoGenerator(small_generator(c_dim=3))
    codes = G.codes(seed=3, class_idx=2)
    maker = kind(G.network, resolution=8)
    if kind is GeneratedMeshes:
        assert len(maker.mesh(codes, 0.5, 1.0)[0].vertices) > 0
        with pytest.raises(UserError, match=r" A level below 1\.69, its highest density, would make one\.$"):
            maker.level(codes, [0.5], name="codes")
    else:
        assert len(maker.splats(codes, 0.5).means) > 0


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"chunk": 0}, "chunk must be a whole number of at least 1, got 0."),
        ({"min_piece": -1}, "min_piece must be a number from 0 to 1, got -1."),
        ({"min_piece": "all"}, "min_piece must be a number from 0 to 1, got 'all'."),
    ],
)
def test_options_of_meshes(G, wrong, message):
    with pytest.raises(ValueError) as error:
        GeneratedMeshes(G.network, resolution=8, **wrong)
    assert str(error.value) == message


@pytest.mark.parametrize("level", [None, -1, 0, float("nan"), "25"])
def test_levels_of_meshes_are_densities(G, level):
    message = f"^level must be a finite number above 0, got {level!r}.$"
    with pytest.raises(ValueError, match=message):
        GeneratedMeshes(G.network, resolution=8).mesh(G.codes(3), 0.5, level)
    if level is not None:
        with pytest.raises(ValueError, match=message):
            GeneratedMeshes(G.network, resolution=8, level=level)
    with pytest.raises(UserError) as error:
        GeneratedMeshes(G.network, resolution=8).level(G.codes(3), [0.5], name="seed 3")
    assert str(error.value) == "No ray of seed 3 is half opaque in the foreground: there is no surface to show."


def test_frames_do_not_depend_on_the_default_type(G):
    codes, point = G.codes(seed=[3]), torch.tensor([[0.02, 0.01, 0.0]])

    def results():
        field = PointField(G.network, codes.ws, z_motion=codes.z_motion, z_bg=codes.z_bg, time=0.2)
        maps = G.frame(seed=3, t=0.2, yaw=0.1, outputs=("rgb", "raw", "opacity"))
        return [*maps.values(), field.colour(point), field.opacity(G.camera(), 4), *field.render(G.camera(), 4)]

    expected = results()
    torch.set_default_dtype(torch.float64)
    try:
        found = results()
    finally:
        torch.set_default_dtype(torch.float32)
    assert {x.dtype for x in found} == {torch.float32}
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("change", (torch.set_default_dtype, torch.set_default_device))
def test_times_cameras_meshes_and_splats_do_not_depend_on_defaults(G, change):
    """Steps of time would be rounded to bfloat16, and on another device there would be no numbers to check."""
    heads = load_generator(Path(generate.__file__).parent / "assets" / "heads").network

    def results():
        maker = GeneratedMeshes(heads, resolution=16)
        video = VideoGenerator(heads).codes(3)
        mesh, row = maker.mesh(video, 0.5, maker.level(video, [0.5], name="a video"))
        splats = GeneratedSplats(heads, resolution=16, size=16)
        psnr, _ = splats.compare(splats.splats(video, 0.5), video, 0.5)
        cameras = heads.camera_prior.at_angles([0.1, -0.2], 1.5)
        clips = G.video(3, frames=6), G.video(3, cameras=cameras)
        return [mesh.vertices.tolist(), row, psnr, cameras.cam2world.tolist(), *(clip.tolist() for clip in clips)]

    expected = results()
    change(torch.bfloat16 if change is torch.set_default_dtype else "meta")
    try:
        found = results()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert found == expected


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float64))
def test_loaded_weights_do_not_depend_on_the_default_type(run_folder, G, dtype):
    D = load_discriminators(run_folder)
    torch.set_default_dtype(dtype)
    try:
        loaded = [load_generator(run_folder), load_discriminators(run_folder)]
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(same(*pair) for pair in zip(loaded, (G, D)))


def same(first, second) -> bool:
    pairs = [*zip(first.parameters(), second.parameters()), *zip(first.buffers(), second.buffers())]
    return len(pairs) > 0 and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


class ExactTimes(Generator):
    """A generator of the user's own with a state in double precision."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.register_buffer("first", torch.full([2], 1 / 3, dtype=torch.float64))


def test_loaded_weights_do_not_depend_on_the_default_type_of_other_threads(run_folder, tmp_path, G, monkeypatch):
    """One may change it, for all threads, while a network is built."""
    D, own = load_discriminators(run_folder), ExactTimes(**small_generator().config)
    VideoGenerator(own).save_pretrained(tmp_path)
    build = network_state.build_network

    def interrupted(*arguments, **options):
        torch.set_default_dtype(torch.bfloat16)
        try:
            return build(*arguments, **options)
        finally:
            torch.set_default_dtype(torch.float32)

    VideoGenerator(copy.deepcopy(own)).to(torch.float32).save_pretrained(tmp_path / "rounded")
    again = snapshot.load_average_generator(tmp_path / "rounded", generator_class=ExactTimes)
    assert again.first.dtype == torch.float64  # the class decides
    monkeypatch.setattr(network_state, "build_network", interrupted)
    assert same(load_generator(run_folder), G) and same(load_discriminators(run_folder), D)
    assert same(snapshot.load_average_generator(tmp_path, generator_class=ExactTimes), own)


FIRST_USE = """
import torch
with {setting}:
    import video3d
    G = video3d.load_generator({folder!r})
    G.frame(3)
latents = G.latents(3)
z, times = latents.z.requires_grad_(True), torch.tensor([[0.5]])
G(z, z_motion=latents.z_motion, z_bg=latents.z_bg, times=times).image.square().mean().backward()
print(z.grad.tolist(), G.frame(3).float().mean().item(), sep=";")
"""


@pytest.mark.parametrize("setting", ["torch.inference_mode()", "torch.device('meta')"])
def test_settings_of_the_first_use_change_nothing_later(run_folder, G, setting):
    """Modules are imported within them, and constants are made."""
    latents = G.latents(3)
    z, times = latents.z.requires_grad_(True), torch.tensor([[0.5]])
    G(z, z_motion=latents.z_motion, z_bg=latents.z_bg, times=times).image.square().mean().backward()
    code = FIRST_USE.format(setting=setting, folder=str(run_folder))
    environment = os.environ | {"PYTHONPATH": str(Path(generate.__file__).parent)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    gradient, mean = map(json.loads, result.stdout.split(";"))
    assert torch.allclose(torch.tensor(gradient), z.grad, rtol=1e-4, atol=1e-6 * z.grad.abs().max())
    assert mean == pytest.approx(G.frame(3).float().mean().item(), abs=0.01)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_networks_loaded_in_inference_mode_have_gradients(run_folder, dtype):
    with torch.inference_mode():
        G, D = load_generator(run_folder, dtype=dtype), load_discriminators(run_folder, dtype=dtype)
        assert torch.is_inference_mode_enabled()
        shown = G.frame(3)
    assert not any(tensor.is_inference() for module in (G, D) for tensor in module.state_dict().values())
    G.requires_grad_(True)
    latents, times = G.latents(3), torch.tensor([[0.1, 0.6]])
    fake = G(latents.z, z_motion=latents.z_motion, z_bg=latents.z_bg, times=times)
    D(fake.image, dt=times[:, 1] - times[:, 0]).video.sum().backward()
    assert all(p.grad is not None for p in G.network.upsampler.parameters())
    assert torch.equal(load_generator(run_folder, dtype=dtype).frame(3), shown)


def test_results_do_not_depend_on_autocast(run_folder, G):
    D, times = load_discriminators(run_folder), torch.tensor([[0.1, 0.6]])
    latents = G.latents(3)
    points, time = torch.linspace(-0.1, 0.1, 12).reshape(4, 3), 0.5

    def results():
        codes, maps = G.codes(3), G.frame(3, outputs=("rgb", "depth"))
        fake = G(latents.z, z_motion=latents.z_motion, z_bg=latents.z_bg, times=times)
        logits = D(fake.image, dt=times[:, 1] - times[:, 0])
        frame = FrameRenderer(G.network, **vars(codes)).output(time, G.camera())
        field = PointField(G.network, **vars(codes), time=time)
        queries = [field.density(points), field.colour(points), field.emission(points), field.opacity(G.camera(), 4)]
        measured = Evaluator(fake=GeneratedVideos(G.network), replicates=0).evaluate("flatness32_1v")["value"]
        return [
            *(codes.ws, *maps.values(), G.video(3, frames=2), fake.image, logits.video, logits.image),
            *(frame.image, frame.depth, *queries, *field.render(G.camera(), 4)),
            torch.tensor(measured),
        ]

    expected = results()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = results()
        assert torch.is_autocast_enabled("cpu")
    assert all(torch.allclose(*pair, rtol=0, atol=0, equal_nan=True) for pair in zip(found, expected, strict=True))


def test_results_do_not_depend_on_the_default_device(run_folder, G):
    video, frame = G.video(3, frames=2), G.frame(3, yaw=0.2)
    torch.set_default_device("meta")  # as a GPU would be, but here tensors without values
    try:
        loaded = load_generator(run_folder)
        found = loaded.video(3, frames=2), loaded.frame(3, yaw=0.2)
    finally:
        torch.set_default_device(None)
    assert torch.equal(found[0], video) and torch.equal(found[1], frame)


def test_gradients_reach_codes_and_weights(run_folder):
    G, D = load_generator(run_folder), load_discriminators(run_folder)
    assert not any(p.requires_grad for p in [*G.parameters(), *D.parameters()])
    G.requires_grad_(True)
    latents = G.latents([0, 1])
    z, times = latents.z.requires_grad_(True), torch.tensor([[0.1, 0.6]]).repeat(2, 1)
    fake = G(z, z_motion=latents.z_motion, z_bg=latents.z_bg, times=times)
    assert fake.image.shape == (2, 2, 3, G.resolution, G.resolution)
    logits = D(fake.image, dt=times[:, 1] - times[:, 0])
    assert logits.video.shape == (2, 1) and logits.image.shape == (2, 2)
    # Frame 1 of video 0 is row 1 of the image discriminator's batch, see `TimeAwareDiscriminators.image_logits`.
    frames = fake.image.detach()
    assert torch.allclose(logits.image.detach().flatten(), D.network.image(frames.flatten(0, 1))[:, 0])
    logits.video.sum().backward()
    assert z.grad.abs().max() > 0
    assert sum(p.grad is not None for p in G.parameters()) > 10
    with pytest.raises(ValueError, match=r"frames must be \[B, 2, 3, 32, 32\]"):
        D(frames[:, :1], dt=times[:, 0])


def test_a_forward_pass_is_a_frame(G):
    latents = G.latents([3], [5])
    cameras = G.camera(yaw=0.2)
    image = G(
        latents.z, z_motion=latents.z_motion, z_bg=latents.z_bg, times=torch.tensor([[0.5]]), cameras=cameras
    ).image[:, 0]
    frame = G.frame(seed=[3], motion_seed=[5], t=0.5, camera=cameras, outputs=["rgb"])["rgb"]
    assert isinstance(cameras, Cameras) and torch.allclose(image, frame, atol=1e-5)


def test_classes():
    generator = small_generator(c_dim=3)
    G = video3d.VideoGenerator(generator)
    assert not torch.equal(G.frame(seed=1, class_idx=0), G.frame(seed=1, class_idx=2))
    with pytest.raises(ValueError, match="class_idx: this generator needs the number of a class, 0 to 2"):
        G.frame(seed=1)


def test_labels_that_are_numbers():
    generator = small_generator(c_dim=2)
    generator.label_examples = torch.tensor([[0.5, -1.0], [2.0, 0.25]])
    G = video3d.VideoGenerator(generator)
    codes = G.codes(seed=1, class_idx=[2, 0.25])
    expected = generator.mapping(generator_latents(generator, 1, 1).z, torch.tensor([[2.0, 0.25]]))
    assert torch.equal(codes.ws, expected)
    with pytest.raises(ValueError, match="class_idx: this generator needs a label of 2 numbers, .*: 0.5,-1 for exam"):
        G.frame(seed=1, class_idx=1)  # a one-hot label is none of those that it was trained with
    with pytest.raises(ValueError, match="this generator needs a label of 2 numbers"):
        G.frame(seed=1, class_idx=[1, 2, 3])
    with pytest.raises(ValueError, match=r"class_idx\[1\] must be a finite number, got nan"):
        G.frame(seed=1, class_idx=[1, float("nan")])
    generator = small_generator(c_dim=1)
    generator.label_examples = torch.tensor([[7.0]])
    G = video3d.VideoGenerator(generator)
    assert torch.equal(G.frame(seed=1, class_idx=3), G.frame(seed=1, class_idx=[3.0]))


def test_a_label_of_numbers_mixes_classes():
    G = video3d.VideoGenerator(small_generator(c_dim=3))
    assert torch.equal(G.codes(class_idx=[0, 1, 0]).ws, G.codes(class_idx=1).ws)
    assert not torch.equal(G.codes(class_idx=[0.5, 0.5, 0]).ws, G.codes(class_idx=1).ws)
    with pytest.raises(ValueError, match="needs the number of a class, 0 to 2, or a label of 3 numbers"):
        G.codes(class_idx=[0.5])


def test_all_videos_of_a_call_share_a_label():
    G = video3d.VideoGenerator(small_generator(c_dim=3))
    shared = " All videos share it; RowCodes.join joins the codes of several calls."
    for label, message in (
        ([0, 1], f"class_idx: this generator needs the number of a class, 0 to 2, or a label of 3 numbers.{shared}"),
        (3, "class_idx: this generator needs the number of a class, 0 to 2."),
        (torch.eye(3)[1:], "class_idx must be one class, or the numbers of one label, got Tensor [2, 3]."),
    ):
        with pytest.raises(ValueError) as error:
            G.codes(seed=[0, 1], class_idx=label)
        assert str(error.value) == message
    joined = RowCodes.join([G.codes(seed=[0], class_idx=2), G.codes(seed=[1], class_idx=0)])
    assert torch.equal(G.frame(codes=joined)[1:], G.frame(seed=[1], class_idx=0))


def test_points_are_queried_in_evaluation_mode(run_folder):
    """In training mode, colours move the upsampler's running magnitudes."""
    G = load_generator(run_folder)
    codes = G.codes(3)
    G.train()
    maker = GeneratedMeshes(G.network, resolution=8)
    for query in (lambda: PointField(G.network, **vars(codes), time=0.5), lambda: maker.mesh(codes, 0.5, 1.0)):
        with pytest.raises(ValueError) as error:
            query()
        assert str(error.value) == "points are queried in evaluation mode: call generator.eval() first."


@pytest.mark.parametrize("label", [[1, 1, 0], [0.5, 0.2, 0.2], [0.33, 0.33, 0.32], [2, -1, 0], [0, 0, 0]])
def test_weights_of_known_classes_are_positive_and_add_up(label, tmp_path):
    pytest.importorskip("safetensors")
    generator = small_generator(c_dim=3)
    unknown = video3d.VideoGenerator(generator, about={"dataset": {"c_dim": 3}})  # of an earlier version, or imported
    assert unknown.codes(class_idx=label).ws.isfinite().all()
    G = video3d.VideoGenerator(generator, about={"dataset": {"c_dim": 3, "label_examples": None}})
    G.save_pretrained(tmp_path / "model")
    G = load_generator(tmp_path / "model")
    with pytest.raises(ValueError, match="the number of one class, 0 to 2, or weights of all 3 classes"):
        G.codes(class_idx=label)
    for weights in ([0.33, 0.33, 0.34], [0.33] * 3):
        assert torch.equal(G.codes(class_idx=weights).ws, unknown.codes(class_idx=weights).ws)


def test_training_mode_is_refused(run_folder):
    G = load_generator(run_folder).train()
    with pytest.raises(ValueError, match="call generator.eval"):
        G.frame()


def test_modes_are_those_of_the_networks(run_folder):
    """Code that restores the mode that it found must not leave a loaded network in training mode."""
    for loaded in (load_generator(run_folder), load_discriminators(run_folder)):
        assert not any(module.training for module in loaded.modules())
        assert type(loaded)(loaded.network.train()).training


def test_what_takes_a_network_refuses_the_object_that_holds_it(G):
    codes = vars(G.codes())
    message = "^generator must be a network, such as G.network, got VideoGenerator.$"
    for take in (FrameRenderer, GeneratedMeshes, GeneratedVideos, partial(PointField, time=0.5)):
        with pytest.raises(ValueError, match=message):
            take(G, **(codes if take is FrameRenderer or isinstance(take, partial) else {}))
    with pytest.raises(ValueError, match="^network must be a network, such as G.network, got VideoGenerator.$"):
        video3d.VideoGenerator(G)
    with pytest.raises(ValueError, match="^network must be a network, such as D.network, got VideoGenerator.$"):
        video3d.VideoDiscriminators(G)


def test_what_the_snapshot_says(G):
    assert G.about["dataset"] == {"name": "clips", "videos": 3}
    assert G.about["progress"]["cur_nimg"] == 2000
    assert isinstance(G.network, Generator) and G.num_ws == G.network.num_ws


def test_videos_are_saved(tmp_path, G):
    save_video(tmp_path / "a.mp4", G.video(frames=2), fps=4)
    assert (tmp_path / "a.mp4").stat().st_size > 0
    with pytest.raises(ValueError, match="A video frame is uint8"):
        save_video(tmp_path / "b.mp4", torch.zeros(2, 3, 8, 8))
    assert not (tmp_path / "b.mp4").exists()


def test_codes_of_a_file(run_folder, G, tmp_path):
    """With their cameras and times; codes of another network are rendered with a warning."""
    codes, path = G.codes(3), tmp_path / "codes.npz"
    angles = {"yaw": torch.tensor([0.1, -0.2]), "pitch": torch.tensor([1.5, 1.6])}
    rest = {"radius": torch.ones(2), "fov": torch.full([2], 18.0), "times": torch.tensor([0.0, 0.75])}
    tensors = {name: value.double() for name, value in (angles | rest).items()}
    parts = {name: value[0] for name, value in vars(codes).items()}
    save_codes(path, VideoCodes(**parts, **tensors, network=generator_digest(G.network)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = G.load_codes(path)
        load_generator(run_folder, dtype=torch.float64).load_codes(path)
    fitted = load_codes(path, G.network)
    video = G.video(codes=loaded, cameras=fitted.cameras(), times=fitted.times)
    camera = G.camera_prior.at_angles(-0.2, 1.6, 1.0, fov=18.0)
    assert torch.equal(video[0, 1], G.frame(codes=codes, camera=camera, t=0.75)[0])
    other = load_generator(run_folder)
    other.network.mapping.layers[0].bias.add_(1)
    with pytest.warns(UserWarning) as caught:
        other.load_codes(path)
    (warning,) = caught
    assert str(warning.message) == (
        f"the codes in {path} were fitted to another network; they may look different here."
    )
    assert warning.filename == __file__


def test_edited_codes_are_saved(run_folder, G, tmp_path):
    """From the frontal camera, if there is no other; of a generator in float64, too."""
    codes, path = G.codes([3]), tmp_path / "edited.npz"
    edited = dataclasses.replace(codes, ws=(codes.ws + 0.1).requires_grad_())
    G.save_codes(path, edited)
    loaded, saved = G.load_codes(path), load_codes(path, G.network)
    assert all(torch.equal(a, b) for a, b in zip(vars(loaded).values(), vars(edited).values()))
    assert saved.belong_to(G.network) and saved.times.tolist() == [0.5]
    assert saved.cameras().equals(G.camera())
    G.save_codes(path, edited, times=[0.25])
    assert load_codes(path, G.network).times.tolist() == [0.25]
    cameras = G.camera_prior.at_angles([0.1, -0.2], [1.5, 1.6], [1.0, 1.1], fov=[18.0, 20.0])
    for times, shown in ((None, [0, 1]), (torch.tensor([0.5, 0.75]), [0.5, 0.75])):
        G.save_codes(path, edited, cameras=cameras, times=times)
        saved = load_codes(path, G.network)
        assert saved.times.tolist() == shown
        expected = G.video(codes=edited, cameras=cameras, times=times)
        video = G.video(codes=G.load_codes(path), cameras=saved.cameras(), times=saved.times)
        assert (video.int() - expected.int()).abs().max() <= 1
    double = load_generator(run_folder, dtype=torch.float64)
    double.save_codes(path, double.codes(3))
    assert torch.equal(G.load_codes(path).z_motion, codes.z_motion)


def test_derived_classes_are_loaded_as_such(run_folder):
    class OwnVideos(video3d.VideoGenerator):
        pass

    class OwnDiscriminators(video3d.VideoDiscriminators):
        pass

    own = OwnVideos.from_pretrained(run_folder, dtype=torch.float64)
    assert type(own) is OwnVideos and own.dtype == torch.float64 and own.about["dataset"]["name"] == "clips"
    assert type(OwnDiscriminators.from_pretrained(run_folder)) is OwnDiscriminators
    assert type(video3d.VideoGenerator.from_pretrained(run_folder)) is video3d.VideoGenerator


@pytest.mark.parametrize("name", ["training.py", "renderer/__init__.py", "torch_utils.py", "dnnlib.py"])
def test_files_that_hide_packages_are_named(tmp_path, name):
    """Python looks for modules beside the script first."""
    hiding = tmp_path / name
    hiding.parent.mkdir(exist_ok=True)
    hiding.touch()
    (tmp_path / "script.py").write_text("import video3d\nvideo3d.load_generator\n")
    environment = os.environ | {"PYTHONPATH": str(Path(generate.__file__).parent)}
    result = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    package = name.split("/")[0].removesuffix(".py")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        f"ImportError: {hiding} hides this program's package '{package}': rename it."
    )


def test_names_of_the_package():
    assert set(video3d.__all__) > {"load_generator", "load_discriminators", "save_video", "VideoGenerator"}
    assert video3d.load_generator is load_generator
    assert set(dir(video3d)) >= {*video3d.__all__, "__getattr__"}
    with pytest.raises(AttributeError, match="no attribute 'load_generators'"):
        _ = video3d.load_generators


def test_transforms_of_functions(generator):
    """torch.func calls no native operator and no autograd function, and gives the same."""
    G = video3d.VideoGenerator(copy.deepcopy(generator)).requires_grad_(False)
    latents, times = G.latents([3, 4]), torch.tensor([[0.1, 0.6], [0.2, 0.7]])
    rest = {"z_motion": latents.z_motion, "z_bg": latents.z_bg, "times": times}

    def brightness(ws):
        return G(ws=ws, **rest).image.mean(dim=(1, 2, 3, 4))

    ws = G.codes([3, 4]).ws.clone()
    leaf = ws.clone().requires_grad_()
    (expected,) = torch.autograd.grad(brightness(leaf)[0], leaf)
    close = {"rtol": 1e-3, "atol": 1e-4 * float(expected.abs().max())}
    torch.testing.assert_close(torch.func.jacrev(brightness)(ws)[0], expected, **close)
    _, slopes = torch.func.jvp(brightness, (ws,), (expected,))
    assert float(slopes[0]) == pytest.approx(float(expected.square().sum()), rel=1e-3)

    def frames(ws, z_motion, z_bg, times):
        return G(ws=ws[None], z_motion=z_motion[None], z_bg=z_bg[None], times=times[None]).image[0]

    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            several = torch.func.vmap(frames)(ws, *rest.values())
            torch.testing.assert_close(several, G(ws=ws, **rest).image, rtol=0, atol=1e-4)
    scaled = {name: 1.1 * value for name, value in G.named_parameters()}
    with torch.no_grad():
        other = torch.func.functional_call(G, scaled, (None,), {"ws": ws, **rest}).image
        torch.nn.utils.vector_to_parameters(torch.cat([x.flatten() for x in scaled.values()]), G.parameters())
        torch.testing.assert_close(G(ws=ws, **rest).image, other, rtol=0, atol=0)
