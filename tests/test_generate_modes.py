"""The render command's grids, loops, mixes, stereo pairs, outputs, and recorded paths, on a real small network."""

import math

import click.testing
import numpy as np
import pytest
import torch
from PIL import Image

import dnnlib
import generate
from renderer.cameras import stereo_pair
from renderer.depth import normals_from_depth, surface_depth
from renderer.depth_files import DepthScale, read_depth_png
from renderer.trajectories import camera_path
from renderer.trajectory_files import PathCamera, write_camera_path
from renderer.video import to_uint8
from tests.small_network import SIZES, save_small_network, small_generator
from training.inference.frame_renderer import FrameRenderer
from training.inference.interpolation import slerp
from training.inference.latent_files import VideoCodes, generator_digest, save_codes
from training.inference.latents import seed_latents

FEW = ["--n_steps", "2", "--time_steps", "2", "--save_frames"]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    generator = small_generator(foreground={"density_bias": 3.0}, rendering={"resolution": 16})
    return folder, save_small_network(folder, generator)  # some pixels are opaque, others are not


@pytest.fixture
def render(network, tmp_path):
    def run(*arguments):
        base = ["--outdir", str(tmp_path / "out"), "--network_pkl", str(network[0]), "--device", "cpu"]
        result = click.testing.CliRunner().invoke(generate.main, [*base, *arguments])
        if result.exception is not None:
            raise result.exception
        run.output = result.output
        return sorted(path.stem for path in run.out.iterdir() if path.suffix == ".mp4")

    run.out = tmp_path / "out"
    return run


def frames(folder):
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])


def depths(folder):
    return np.stack([read_depth_png(path) for path in sorted(folder.glob("*.png"))])


def scene(generator, seed, motion, ws=None):
    codes = seed_latents(seed, motion, **SIZES)
    ws = generator.mapping(codes.z) if ws is None else ws
    return FrameRenderer(generator, ws, z_motion=codes.z_motion, z_bg=codes.z_bg)


def shown(image):
    return to_uint8(image[0]).permute(1, 2, 0).numpy()


def test_a_cell_of_a_grid_is_the_frame_of_the_single_video(render, network):
    singles = render(*FEW, "--seeds", "3,5", "--motion_seeds", "1,4")  # equally many: one to one
    assert singles == [f"rotation_camera_yaw_seed{pair}" for pair in ("0003_motion0001", "0005_motion0004")]
    name = "rotation_camera_yaw_grid_seed0003+0005_motion0001-0002+0004"
    assert name in render(*FEW, "--seeds", "3,5", "--motion_seeds", "1,2,4", "--grid")
    whole = frames(render.out / name)
    assert whole.shape == (2, 2 * 32, 3 * 32, 3)
    assert np.array_equal(whole[:, :32, :32], frames(render.out / singles[0]))
    assert np.array_equal(whole[:, 32:, 64:], frames(render.out / singles[1]))
    for row, seed in enumerate((3, 5)):
        for column, motion in enumerate((1, 2, 4)):
            image = scene(network[1], seed, motion).render(1.0, network[1].camera_prior.at(0.0))
            values = (image[0].permute(1, 2, 0).clamp(-1, 1).numpy() + 1) * 127.5
            cell = whole[1, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
            # Rounding differs with the batch on some processors, so a value at a tie may become either pixel.
            assert np.abs(cell - values).max() <= 0.5 + 1e-4


def test_the_cells_of_a_sheet_are_the_single_videos(render):
    """Three videos in two columns: the fourth cell is black, and has no depth."""
    options = [*FEW, "--seeds", "3-5", "--outputs", "rgb,depth,normal,opacity,raw"]
    singles = [name for name in render(*options) if "motion" in name.rsplit("_", 1)[-1]]
    assert singles == [f"rotation_camera_yaw_seed000{seed}_motion000{seed}" for seed in (3, 4, 5)]
    render(*options, "--columns", "2")
    sheet = "rotation_camera_yaw_sheet_seed0003-0005_motion0003-0005"
    for output in ("", "_depth", "_normal", "_opacity", "_raw"):
        depth = output == "_depth"
        whole, *videos = (depths(render.out / f"{name}{output}") if depth else frames(render.out / f"{name}{output}")
                          for name in [sheet, *singles])  # fmt: skip
        size = 16 if depth else 32
        assert whole.shape[:3] == (2, 2 * size, 2 * size)
        for video, row, column in zip(videos, (0, 0, 1), (0, 1, 0)):
            cell = whole[:, size * row : size * row + size, size * column : size * column + size]
            # Rounding differs with the batch on some processors.
            np.testing.assert_allclose(cell, video, rtol=0, atol=1e-5 if depth else 1)
        blank = whole[:, size:, size:]
        assert np.isnan(blank).all() if depth else (blank == 0).all()


def test_the_columns_of_a_sheet_of_loops_are_the_single_loops(render):
    options = ["--interpolate", "z", "--n_steps", "4", "--time_steps", "1", "--save_frames"]
    render(*options, "--seeds", "3-6", "--columns", "2")
    assert "2 loops of 4 frames, each through 2 contents and 2 motions; --n_steps N makes them longer." in render.output
    whole = frames(render.out / "rotation_camera_yaw_sheet2_interpolate-z_seed0003-0006_motion0003-0006")
    assert whole.shape == (4, 32, 64, 3)
    for column, seeds in enumerate(("3,5", "4,6")):
        render(*options, "--seeds", seeds)
        names = [f"{kind}{'+'.join(f'000{seed}' for seed in seeds.split(','))}" for kind in ("seed", "motion")]
        single = frames(render.out / f"rotation_camera_yaw_interpolate-z_{'_'.join(names)}")
        assert np.abs(whole[:, :, 32 * column : 32 * column + 32].astype(int) - single).max() <= 1


def test_a_loop_starts_at_the_first_seed_and_passes_the_second(render, network):
    (name,) = render("--interpolate", "z", "--seeds", "3,5", "--motion_seeds", "4", "--n_steps", "4", "--time_steps",
                     "1", "--save_frames", "--render_program", "front")  # fmt: skip
    assert name == "front_interpolate-z_seed0003+0005_motion0004"
    assert "A loop of 4 frames through 2 contents and 1 motion;" in render.output
    pictures = frames(render.out / name)
    generator, (a, b) = network[1], (seed_latents(seed, 4, **SIZES) for seed in (3, 5))
    for i, (x, y, fraction) in enumerate([(a, b, 0), (a, b, 0.5), (b, a, 0), (b, a, 0.5)]):
        codes = {name: slerp(getattr(x, name), getattr(y, name), fraction) for name in ("z", "z_motion", "z_bg")}
        between = FrameRenderer(
            generator, generator.mapping(codes["z"]), z_motion=codes["z_motion"], z_bg=codes["z_bg"]
        )
        assert np.array_equal(pictures[i], shown(between.render(0.0, generator.camera_prior.at())))
    assert np.abs(pictures[0].astype(int) - pictures[2]).max() > 3


def test_mixed_styles(render, network):
    (name,) = render(*FEW, "--style_mix", "3:5:upsampler", "--truncation_psi", "0.8")
    assert name == "rotation_camera_yaw_mix0003-0005-upsampler_motion0003"
    generator, middle = network[1], network[1].foreground.num_ws
    ws, other = (generator.mapping(seed_latents(s, s, **SIZES).z, truncation_psi=0.8) for s in (3, 5))
    ws = torch.cat([ws[:, :middle], other[:, middle:]], dim=1)
    expected = shown(scene(generator, 3, 3, ws).render(0.0, generator.camera_prior.at(1.0)))
    assert np.array_equal(frames(render.out / name)[0], expected)
    names = render(*FEW, "--style_mix", "3:5:upsampler", "--seeds", "3,5", "--motion_seeds", "1", "--grid")
    assert "rotation_camera_yaw_grid_seed0003+seed0005+mix0003-0005-upsampler_motion0001" in names


def test_a_stereo_pair_is_left_beside_right(render, network):
    (name,) = render(*FEW, "--stereo", "--eye_distance", "0.2")
    assert name == "rotation_camera_yaw_seed0000_motion0000_stereo"
    generator = network[1]
    eyes = stereo_pair(camera_path("rotation_camera_yaw", generator.camera_prior, 2), 0.2)
    pictures = frames(render.out / name)
    assert pictures.shape == (2, 32, 64, 3)
    for i in range(2):
        both = [shown(scene(generator, 0, 0).render(float(i), eye[1 - i])) for eye in eyes]
        assert np.array_equal(pictures[i], np.concatenate(both, axis=1))


def test_outputs_beside_the_image(render, network):
    names = render(*FEW, "--outputs", "depth,normal,opacity,raw,rgb", "--time_range", "0:0")
    stem = "rotation_camera_yaw_seed0000_motion0000"
    assert names == [stem, *(f"{stem}_{name}" for name in ("depth", "normal", "opacity", "raw"))]
    alone = frames(render.out / stem)
    out = scene(network[1], 0, 0).output(0.0, network[1].camera_prior.at(1.0))
    depth, weights = surface_depth(out.depth[0], out.opacity[0], background=True)
    assert 0 < weights.mean() < 1  # otherwise the test would miss one of the cases
    found = read_depth_png(render.out / f"{stem}_depth" / "0000.png")
    assert np.array_equal(np.isnan(found), weights[0].numpy() == 0)
    assert np.nanmax(np.abs(found - depth[0].numpy())) < (1.12 - 0.88) / 65534
    opacity = frames(render.out / f"{stem}_opacity")[0, ::2, ::2, 0]
    assert np.abs(opacity.astype(int) - (out.opacity[0, 0] * 255).round().numpy()).max() <= 1
    raw = frames(render.out / f"{stem}_raw")[0]
    small = raw[1::2, 1::2]
    assert np.array_equal(small, shown(out.image_raw[:, 0])) and np.array_equal(raw[::2, ::2], small)
    normals = normals_from_depth(network[1].camera_prior.at(1.0), depth, surface=weights)[0]
    expected = to_uint8(torch.where((normals == 0).all(-1, keepdim=True), -1.0, normals)).numpy()
    assert np.array_equal(frames(render.out / f"{stem}_normal")[0, ::2, ::2], expected)
    render(*FEW, "--time_range", "0:0")
    assert np.array_equal(frames(render.out / stem), alone)  # further outputs do not change the image


def test_enlarged_pixels(render, network):
    names = render(*FEW, "--enlarge", "3", "--outputs", "rgb,depth")
    expected = shown(scene(network[1], 0, 0).render(0.0, network[1].camera_prior.at(1.0)))
    assert np.array_equal(frames(render.out / names[0])[0], expected.repeat(3, axis=0).repeat(3, axis=1))
    assert read_depth_png(render.out / names[1] / "0000.png").shape == (16, 16)  # values, not a picture


def test_time_beyond_the_training(render, network):
    (name,) = render("--n_steps", "1", "--time_steps", "3", "--save_frames", "--time_range", "0:3")
    assert "Times from 0 to 3: training covered 0 to 1, the rest is extrapolated." in render.output
    still = scene(network[1], 0, 0)
    for picture, time in zip(frames(render.out / name), (0.0, 1.5, 3.0), strict=True):
        assert np.array_equal(picture, shown(still.render(time, network[1].camera_prior.at())))
    render("--n_steps", "1", "--time_steps", "3", "--time_range", "0.5:1")
    assert "extrapolated" not in render.output


def test_a_recorded_camera_path(render, network, tmp_path):
    write_camera_path(tmp_path / "my tour.json", [PathCamera(0.3, 1.5, 1.1, 20.0, 0.5), PathCamera(0.1, 1.6, 1, 18, 0)])
    (name,) = render("--camera_path", str(tmp_path / "my tour.json"), "--save_frames")
    assert name == "path-my-tour_seed0000_motion0000"
    still, prior = scene(network[1], 0, 0), network[1].camera_prior
    expected = [
        still.render(0.5, prior.at_angles(0.3, 1.5, 1.1, fov=20.0)),
        still.render(0.0, prior.at_angles(0.1, 1.6)),
    ]
    assert np.array_equal(frames(render.out / name), np.stack([shown(image) for image in expected]))


def test_depths_of_cameras_farther_away(render, network, tmp_path):
    """All frames of a video have one range of depths, which contains those of every camera."""
    write_camera_path(tmp_path / "far.json", [PathCamera(0, 1.5, 1.5, 12.0, 0.5), PathCamera(0, 1.6, 1, 18, 0)])
    names = render("--camera_path", str(tmp_path / "far.json"), "--outputs", "rgb,depth", "--save_frames")
    near, far = DepthScale.read(next(render.out / name for name in names if name.endswith("_depth"))).range()
    settings = network[1].settings
    assert (near, far) == pytest.approx((settings.near, settings.far + 0.5), abs=1e-4)


@pytest.fixture
def codes(network, tmp_path):
    generator = network[1]
    latents = seed_latents(8, 9, **SIZES)
    saved = VideoCodes(
        ws=generator.mapping(latents.z)[0].detach() * torch.linspace(1, 1.2, generator.num_ws)[:, None],
        z_motion=latents.z_motion[0], z_bg=latents.z_bg[0], network=generator_digest(generator),
        yaw=torch.tensor([0.1, 0.2, 0.4]).double(), pitch=torch.tensor([1.5, 1.6, 1.7]).double(),
        radius=torch.ones(3).double(), fov=torch.full([3], 17.0).double(), times=torch.tensor([0, 0.5, 0.8]).double(),
    )  # fmt: skip
    save_codes(tmp_path / "codes.npz", saved)
    return str(tmp_path / "codes.npz"), saved


def test_codes_of_a_file_along_their_own_path(render, network, codes):
    (name,) = render("--codes", codes[0], "--save_frames")
    assert name == "own-path_codes-codes_motion-codes" and "warning" not in render.output
    saved = codes[1]
    still = FrameRenderer(network[1], saved.ws[None], z_motion=saved.z_motion[None], z_bg=saved.z_bg[None])
    cameras = saved.cameras()
    expected = [shown(still.render(float(saved.times[i]), cameras[i])) for i in range(3)]
    assert np.array_equal(frames(render.out / name), np.stack(expected))


def test_codes_of_a_file_from_other_cameras_with_another_motion(render, network, codes):
    (name,) = render("--codes", codes[0], "--render_program", "front", "--motion_seeds", "5", *FEW)
    assert name == "front_codes-codes_motion0005"
    saved, z_motion = codes[1], seed_latents(0, 5, **SIZES).z_motion
    still = FrameRenderer(network[1], saved.ws[None], z_motion=z_motion, z_bg=saved.z_bg[None])
    assert np.array_equal(frames(render.out / name)[1], shown(still.render(1.0, network[1].camera_prior.at())))
    names = render("--codes", codes[0], "--seeds", "1", "--interpolate", "w", *FEW)
    assert "rotation_camera_yaw_interpolate-w_seed0001+codes-codes_motion0001+motion-codes" in names
    names = render("--codes", codes[0], "--seeds", "1", "--codes", codes[0], "--interpolate", "w", *FEW)
    passed = "seed0001+codes-codes+codes-codes_motion0001+motion-codes+motion-codes"
    assert f"rotation_camera_yaw_interpolate-w_{passed}" in names


def test_codes_of_another_network_are_rendered_with_a_warning(render, codes, tmp_path):
    save_codes(tmp_path / "other.npz", VideoCodes(**{**vars(codes[1]), "network": "0" * 64}))
    render("--codes", str(tmp_path / "other.npz"))
    assert "warning: the codes in" in render.output and "fitted to another network" in render.output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--grid", "--interpolate", "z"], "exclude each other"),
        (
            ["--grid", "--columns", "2"],
            "^--grid and --columns exclude each other: a grid has a column for each motion.$",
        ),
        (
            ["--columns", "2", "--interpolate", "z", "--seeds", "0-2"],
            "^each of 2 loops needs two or more contents or motions, 4 in all; give more seeds or fewer columns$",
        ),
        (["--seeds", "0-255", "--columns", "256", "--enlarge", "3"], "24576×96 pixels is too large"),
        (["--interpolate", "z"], "an interpolation needs two or more contents or motions"),
        (["--interpolate", "z", "--style_mix", "1:2:0", "--seeds", "1"], "no z to interpolate; use w"),
        (["--style_mix", "1:2:0-99"], "there is no layer 99"),
        (["--style_mix", "1:2"], "is not A:B:LAYERS"),
        (["--outputs", "rgb,alpha"], "there is no output 'alpha'"),
        (["--stereo", "--eye_distance", "2.5"], "eye distance must lie between 0 and 2"),
        (["--eye_distance", "0.1"], "add --stereo"),
        (["--seeds", "0", "--motion_seeds", "0-255", "--grid", "--stereo", "--enlarge", "3"], "49152×96 pixels is too"),
        (["--time_range", "1"], "is not START:END"),
        (["--camera_path", "missing.json"], "Cannot read the camera path missing.json"),
        (["--codes", "missing.npz"], "no file missing.npz"),
        (["--codes", "missing.npz", "--n_steps", "3"], "--n_steps has no place here: these codes have a camera path"),
    ],
)
def test_mistakes_write_nothing(render, arguments, message):
    with pytest.raises(dnnlib.UserError, match=message):
        render(*arguments)
    assert not render.out.exists()


def test_a_recorded_field_of_view_in_radians(render, tmp_path):
    write_camera_path(tmp_path / "path.json", [PathCamera(0, 1.5, 1, 18), PathCamera(0, 1.5, 1, math.radians(18))])
    with pytest.raises(dnnlib.UserError, match=r"path.json: cameras\[1\]: fov is in degrees, of at least 1, got 0.314"):
        render("--camera_path", str(tmp_path / "path.json"))
    assert not render.out.exists()


def test_times_of_a_path_exclude_others(render, tmp_path):
    path = str(tmp_path / "path.json")
    write_camera_path(path, [PathCamera(0.0, math.pi / 2, 1, 18, 0.5)])
    with pytest.raises(dnnlib.UserError, match="--time_range has no place here: .*path.json says which time"):
        render("--camera_path", path, "--time_range", "0:2")
    write_camera_path(path, [PathCamera(0.0, math.pi / 2, 1, 18), PathCamera(0.1, math.pi / 2, 1, 18)])
    render("--camera_path", path, "--time_range", "0:2")
    assert "Times from 0 to 2" in render.output
