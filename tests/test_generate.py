"""The render command: the videos it writes, the content of their frames, and its errors."""

import math
import os
import pathlib
import subprocess
import sys
import types

import click.testing
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

import dnnlib
import generate
from renderer.cameras import CameraPrior
from renderer.rays import RenderSettings
from renderer.video import FORMATS, to_uint8
from tests.small_network import SIZES, save_small_network, small_generator
from training.inference.cli_options import pair_seeds
from training.inference.latents import seed_latents

ROOT = pathlib.Path(__file__).resolve().parent.parent


class FakeRenderer:
    """Frames whose three channels are the time, the camera's yaw and a number of the video."""

    def __init__(self, owner, ws, code):
        self.owner, self.ws, self.code = owner, ws, code

    def render(self, time, cameras):
        assert len(cameras) == 1
        position = cameras.cam2world[0, :3, 3]
        self.owner.rendered.append((time, float(cameras.fov[0])))
        values = torch.tensor([time * 2 - 1, math.atan2(position[1], position[0]), self.code])
        return values[None, :, None, None].expand(1, 3, 8, 8)


class FakeGenerator:
    z_dim, motion_dim, background_dim = 512, 512, 32
    resolution, background, motion = 8, None, object()
    camera_prior, settings = CameraPrior(), RenderSettings()

    def __init__(self, c_dim=0):
        self.c_dim = c_dim
        self.rendered = []
        self.mapped = []
        self.scenes = []

    def depth_range(self, cameras):
        return self.settings.near, self.settings.far

    def mapping(self, z, c=None, *, truncation_psi=1.0, truncation_cutoff=None, update_w_avg=False):
        self.mapped.append((z, c, truncation_psi))
        return z[:, None].repeat(1, 4, 1)

    def renderer(self, ws, *, z_motion, z_bg, ray_chunk=None, precision="float32"):
        self.precision = precision
        self.scenes.append((ws, z_motion, z_bg, ray_chunk))
        return FakeRenderer(self, ws, float(z_motion[0, 0].tanh()))


@pytest.fixture
def fake(monkeypatch):
    """A stand-in for the checkpoint loader; returns the generator that it will return."""
    generator = FakeGenerator()
    loader = types.ModuleType("training.checkpoints.snapshot")
    loader.load_average_generator = lambda path, *, device="cpu": generator
    monkeypatch.setitem(sys.modules, "training.checkpoints.snapshot", loader)
    monkeypatch.setattr("training.inference.frame_renderer.FrameRenderer", FakeGenerator.renderer)
    return generator


@pytest.fixture
def render(tmp_path, fake):
    """Run the command in this process; returns the names it wrote."""
    network = tmp_path / "network.pt"
    network.touch()

    def run(*arguments):
        out = tmp_path / "out"
        base = ["--outdir", str(out), "--network_pkl", str(network), "--device", "cpu"]
        result = click.testing.CliRunner().invoke(generate.main, [*base, *arguments])
        if result.exception is not None:
            raise result.exception
        run.output = result.output
        return sorted(path.name for path in out.iterdir())

    run.out = tmp_path / "out"
    return run


def frames(folder):
    return [np.asarray(Image.open(path))[0, 0] for path in sorted(folder.iterdir())]


def pixel(value):
    return round((value + 1) * 127.5)


# ----------------------------------------------------------------------------------------------------------------------
# Which videos


@pytest.mark.parametrize(
    "seeds, motion_seeds, expected",
    [
        ([3, 5], None, [(3, 3), (5, 5)]),
        ([3, 5], [7], [(3, 7), (5, 7)]),
        ([3, 5], [7, 8], [(3, 7), (5, 8)]),
        ([3], [7, 8], [(3, 7), (3, 8)]),
        ([1, 2, 3], [7, 8], [(1, 7), (1, 8), (2, 7), (2, 8), (3, 7), (3, 8)]),
        ([1, 2], [7, 8, 9], [(1, 7), (1, 8), (1, 9), (2, 7), (2, 8), (2, 9)]),
        ([4, 4], None, [(4, 4)]),
    ],
)
def test_pairs(seeds, motion_seeds, expected):
    assert pair_seeds(seeds, motion_seeds) == expected


def test_names_carry_program_and_seeds(render):
    names = render("--seeds", "0,431", "--motion_seeds", "7", "--render_program", "front,front_zoom_inverse",
                   "--n_steps", "1", "--time_steps", "1")  # fmt: skip
    expected = [f"{p}_seed{s}_motion0007.mp4" for p in ("front", "front_zoom_inverse") for s in ("0000", "0431")]
    assert names == expected
    assert sorted(render.output.split()) == [str(render.out / name) for name in expected]  # prints what it wrote


@pytest.mark.parametrize("name", ["gif", "webm"])
def test_other_formats(render, name):
    names = render("--format", name, "--save_frames", "--time_steps", "2", "--n_steps", "1")
    assert names == ["rotation_camera_yaw_seed0000_motion0000", f"rotation_camera_yaw_seed0000_motion0000.{name}"]
    head = (render.out / names[1]).read_bytes()[:6]
    assert head == b"GIF89a" if name == "gif" else head[:4] == b"\x1aE\xdf\xa3"  # EBML
    choice = next(option for option in generate.main.params if option.name == "format").type
    assert tuple(choice.choices) == FORMATS


def test_a_gif_that_is_too_fast(render):
    with pytest.raises(dnnlib.UserError, match="A GIF shows at most 50 frames per second, not 60."):
        render("--format", "gif", "--fps", "60")
    assert not render.out.exists()


def test_the_default_program_turns_in_yaw(render):
    assert render("--n_steps", "1", "--time_steps", "1") == ["rotation_camera_yaw_seed0000_motion0000.mp4"]


# ----------------------------------------------------------------------------------------------------------------------
# What they show


def test_frames_show_times_in_order_from_cameras_in_reverse(render):
    names = render("--n_steps", "3", "--time_steps", "3", "--save_frames")
    assert names == ["rotation_camera_yaw_seed0000_motion0000", "rotation_camera_yaw_seed0000_motion0000.mp4"]
    shown = frames(render.out / names[0])
    assert [int(frame[0]) for frame in shown] == [0, 128, 255]
    assert [int(frame[1]) for frame in shown] == [pixel(0.8), 128, pixel(-0.8)]


def test_only_the_frames_that_are_kept_are_rendered(render, fake):
    render("--n_steps", "5", "--time_steps", "5")
    assert len(fake.rendered) == 5


@pytest.mark.parametrize("time_steps, times", [(1, [0.0]), (2, [0.0, 1.0])])
def test_few_time_steps(render, fake, time_steps, times):
    render("--n_steps", str(time_steps), "--time_steps", str(time_steps))
    assert [time for time, _ in fake.rendered] == times
    assert "spread" not in render.output


def test_unequal_counts_are_spread_and_it_says_so(render, fake):
    render("--n_steps", "2", "--time_steps", "4", "--render_program", "front_zoom", "--fov", "10")
    assert "4 frames: the 2 camera steps are spread over the 4 time steps." in render.output
    expected = [(0, 9), (1 / 3, 9), (2 / 3, 11), (1, 11)]
    assert np.allclose(fake.rendered, expected, atol=1e-5)


def test_scales(render):
    name = "rotation_camera_yaw_seed0000_motion0000"
    render("--n_steps", "2", "--time_steps", "2", "--relative_range_yaw_scale", "0.5", "--save_frames")
    assert [int(frame[1]) for frame in frames(render.out / name)] == [pixel(0.4), pixel(-0.4)]


def test_latents_belong_to_the_seeds(render, fake):
    render("--seeds", "3", "--motion_seeds", "5,6", "--n_steps", "1", "--time_steps", "1", "--truncation_psi", "0.7",
           "--ray_chunk", "99")  # fmt: skip
    for (z, c, psi), (_, z_motion, z_bg, ray_chunk), motion_seed in zip(fake.mapped, fake.scenes, (5, 6), strict=True):
        codes = seed_latents(3, motion_seed)
        assert torch.equal(z, codes.z) and torch.equal(z_motion, codes.z_motion) and torch.equal(z_bg, codes.z_bg)
        assert (c, psi, ray_chunk) == (None, 0.7, 99)


def test_labels(render, fake):
    fake.c_dim = 3
    render("--class_idx", "1", "--n_steps", "1", "--time_steps", "1")
    assert fake.mapped[0][1].tolist() == [[0.0, 1.0, 0.0]]


def test_a_real_network_from_a_run_folder(tmp_path):
    """The command against synthesis of the same frames as in training, which takes another code path."""
    generator = save_small_network(tmp_path, small_generator())
    out = tmp_path / "out"
    arguments = ["--network_pkl", str(tmp_path), "--outdir", str(out), "--seeds", "4", "--motion_seeds", "5",
                 "--n_steps", "3", "--time_steps", "3", "--save_frames", "--device", "cpu"]  # fmt: skip
    result = click.testing.CliRunner().invoke(generate.main, [*arguments, "--ray_chunk", "100"])
    assert result.exception is None, result.exception
    stem = out / "rotation_camera_yaw_seed0004_motion0005"
    shown = np.stack([np.asarray(Image.open(path)) for path in sorted(stem.iterdir())])

    codes = seed_latents(4, 5, **SIZES)
    with torch.no_grad():
        images = [
            generator.synthesize(
                generator.mapping(codes.z, None),
                z_motion=codes.z_motion,
                z_bg=codes.z_bg,
                times=torch.tensor([[time]]),
                cameras=generator.camera_prior.at(yaw),
            ).image[0, 0]
            for yaw, time in [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
        ]
    expected = to_uint8(torch.stack(images)).permute(0, 2, 3, 1).numpy()
    assert np.abs(shown.astype(int) - expected).max() <= 1  # a different order of summation may round differently
    assert expected.std(axis=(1, 2)).max() > 1 and np.abs(expected[0].astype(int) - expected[2]).max() > 3
    assert len(list(imageio_ffmpeg.read_frames(f"{stem}.mp4"))) == 1 + 3  # its first item describes the video


def test_geometry_of_its_own_resolution(tmp_path):
    """Videos of maps that are larger than the image are as large as the maps; others are enlarged as the image is."""
    generator = save_small_network(tmp_path, small_generator())
    arguments = ["--network_pkl", str(tmp_path), "--seeds", "1,2", "--motion_seeds", "1", "--grid", "--n_steps", "1",
                 "--time_steps", "1", "--outputs", "rgb,depth", "--save_frames", "--device", "cpu"]  # fmt: skip
    size = generator.resolution
    for name, geometry, enlarge, expected in [("a", 2 * size, 1, 2 * size), ("b", size // 2, 3, 3 * size)]:
        out = tmp_path / name
        command = [*arguments, "--outdir", str(out), "--geometry_resolution", str(geometry), "--enlarge", str(enlarge)]
        command += ["--format", "gif"]
        result = click.testing.CliRunner().invoke(generate.main, command)
        assert result.exception is None, result.exception
        sizes = {path.stem.split("_")[-1]: Image.open(path).size for path in out.glob("*.gif")}
        assert sizes.pop("depth") == (expected, 2 * expected)
        assert list(sizes.values()) == [(enlarge * size, 2 * enlarge * size)]
        [frame] = out.glob("*_depth/0000.png")
        assert Image.open(frame).size == (geometry, 2 * geometry)


# ----------------------------------------------------------------------------------------------------------------------
# Mistakes


@pytest.mark.parametrize(
    "c_dim, arguments, message",
    [
        (0, ["--class_idx", "0"], "trained without labels"),
        (3, [], "needs the number of a class, 0 to 2"),
        (3, ["--class_idx", "3"], "needs the number of a class, 0 to 2"),
        (0, ["--seeds", "4294967296"], "The seed must lie between"),
        (0, ["--render_program", "front_zoom", "--fov", "170"], "field of view must stay between"),
        (
            0,
            ["--render_program", "rotation_camera_pitch", "--relative_range_pitch_scale", "12"],
            "pitch must stay between 0 and π radians",
        ),
        (
            0,
            ["--outputs", "depth", "--geometry_resolution", "16386"],
            "16386",
        ),
        (0, ["--device", "nonsense"], "--device: 'nonsense' cannot be used here"),
        (0, ["--device", "meta"], "--device: 'meta' cannot be used here"),
        (0, ["--device", "xla"], "; write cpu, cuda or cuda:1."),  # known to PyTorch, but not in this build of it
    ],
)
def test_mistakes_that_need_the_network_write_nothing(render, fake, c_dim, arguments, message):
    fake.c_dim = c_dim
    with pytest.raises(dnnlib.UserError, match=message):
        render(*arguments)
    assert not render.out.exists()


def test_an_error_of_the_first_frame_leaves_no_folder(render, fake, monkeypatch):
    def failing():
        raise dnnlib.UserError("There is no ffmpeg: install imageio-ffmpeg.")

    monkeypatch.setattr("renderer.video.find_ffmpeg", failing)
    with pytest.raises(dnnlib.UserError, match="There is no ffmpeg: install imageio-ffmpeg."):
        render()
    assert not render.out.exists()


def test_a_truncation_without_an_average_style_writes_nothing(render, fake):
    fake.mapping = types.SimpleNamespace(w_avg_beta=None)
    with pytest.raises(dnnlib.UserError, match="--truncation_psi: this generator keeps no mean"):
        render("--truncation_psi", "0.7")
    assert not render.out.exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--outdir", "out"], "Missing option '--network_pkl'"),
        (["--outdir", "out", "--network_pkl", "nothing.pkl"], "Path 'nothing.pkl' does not exist"),
        (["--outdir", "out", "--network_pkl", ".", "--seeds", "1,x"], "--seeds: 'x' is neither a number nor a range"),
        (["--outdir", "out", "--network_pkl", ".", "--motion_seeds", "4-2"], "runs backwards"),
        (["--outdir", "out", "--network_pkl", ".", "--render_program", "up"], "there is no program 'up'; choose from"),
        (["--outdir", "out", "--network_pkl", ".", "--time_steps", "0"], "'--time_steps': 0 is not in the range"),
        (["--outdir", "out", "--network_pkl", ".", "--fps", "0"], "'--fps'"),
        (["--outdir", "out", "--network-pkl", ".", "--fps", "nan"], "'--fps': nan is not a finite number."),
        (
            ["--outdir", "out", "--network_pkl", ".", "--relative_range_yaw_scale", "nan"],
            "'--relative_range_yaw_scale': nan is not a finite number.",
        ),
        (["--outdir", "out", "--network_pkl", ".", "--fov", "180"], "'--fov'"),
        (
            ["--outdir", "out", "--network_pkl", ".", "--geometry_resolution", "64"],
            "--geometry_resolution is for outputs other than rgb: add --outputs rgb,depth,normal.",
        ),
        (
            ["--outdir", "out", "--network_pkl", ".", "--relative_range_yaw_scale", "nan"],
            "yaw_scale': nan is not a finite number",
        ),
        (["--outdir", "file", "--network_pkl", "."], "'file' is a file"),
        (["--outdir", "out", "--network_pkl", ".", "--sedes", "1"], "No such option --sedes; did you mean --seeds?"),
        (["--outdir", "out", "--network_pkl", "."], "There is no network snapshot"),
        (["--outdir", "out", "--network_pkl", "file"], "is empty"),
    ],
)
def test_mistakes_in_the_arguments_end_in_one_line(tmp_path, arguments, message):
    (tmp_path / "file").touch()
    command = [sys.executable, str(ROOT / "generate.py"), *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_help_names_every_option_without_loading_torch():
    code = "import sys, generate; assert 'torch' not in sys.modules; generate.main()"
    result = subprocess.run([sys.executable, "-c", code, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for name in ("--seeds", "--motion_seeds", "--n_steps", "--fov", "--save_frames", "rotation_camera_yaw_pitch"):
        assert name in result.stdout


@pytest.mark.skipif(torch.__version__ < (2, 5), reason="PyTorch 2.4 itself imports sympy")
def test_a_render_imports_no_compiler(tmp_path):
    """Importing PyTorch's compiler, and sympy with it, would double the time of a short command."""
    save_small_network(tmp_path, small_generator())
    code = (
        "import sys, generate; generate.main(sys.argv[1:], standalone_mode=False); "
        "sys.exit(' '.join({'torch._dynamo', 'sympy', 'hydra', 'scipy', 'torchvision'} & set(sys.modules)))"
    )
    options = ["--outdir", "out", "--network_pkl", str(tmp_path), "--time_steps", "1", "--n_steps", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code, *options], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.stderr.strip() == ""
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_ranges_that_no_program_takes_are_told(render):
    render("--render_program", "front", "--relative_range_yaw_scale", "2", "--n_steps", "1", "--time_steps", "1")
    assert "--relative_range_yaw_scale has no effect: front does not move the camera in yaw." in render.output
    programs = "rotation_camera_yaw,front_zoom_inverse"
    render("--render_program", programs, "--relative_range_pitch_scale", "2", "--n_steps", "1", "--time_steps", "1")
    assert "--relative_range_pitch_scale has no effect" in render.output
    for program in ("rotation_camera_yaw_pitch_inverse", "front,rotation_camera_yaw"):
        render("--render_program", program, "--relative_range_yaw_scale", "2", "--n_steps", "1", "--time_steps", "1")
        assert "no effect" not in render.output


def test_motion_seeds_of_a_generator_without_motion_are_told(render, fake):
    render("--motion_seeds", "1", "--n_steps", "1", "--time_steps", "1")
    assert "no effect" not in render.output
    fake.motion = None
    render("--motion_seeds", "1", "--n_steps", "1", "--time_steps", "1")
    assert "--motion_seeds has no effect: this generator has no motion." in render.output
    render("--n_steps", "1", "--time_steps", "1")
    assert "no effect" not in render.output
    del type(fake).motion, fake.motion  # as in a user's class
    render("--motion_seeds", "1", "--n_steps", "1", "--time_steps", "1")
    assert "no effect" not in render.output


def test_visualize_renders_ten_seeds_along_the_four_programs(tmp_path):
    """The script is run with a stand-in for Python that prints its arguments."""
    (tmp_path / "visualize.sh").write_bytes((ROOT / "visualize.sh").read_bytes())
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    script = ["bash", str(tmp_path / "visualize.sh")]
    output = subprocess.run([*script, "a b.pkl", "out"], capture_output=True, text=True, check=True).stdout.split(" --")
    assert output[0] == str(tmp_path / "generate.py")
    assert {"network_pkl a b.pkl", "outdir out", "seeds 0-9"} <= set(output)
    assert output[-1].split() == ["render_program", "rotation_camera_yaw,rotation_camera_yaw_pitch,front,front_zoom"]
    output = subprocess.run([*script, "a", "b", "3-5", "--fps", "9"], capture_output=True, text=True, check=True).stdout
    assert "--seeds 3-5" in output and output.endswith("--fps 9\n")
    output = subprocess.run([*script, "a", "b", "--grid"], capture_output=True, text=True, check=True).stdout
    assert "--seeds 0-9" in output and output.endswith("front_zoom --grid\n")
    for path in (["--camera_path", "p.json"], ["--camera-path=p.json"]):  # its cameras, not those of the programs
        output = subprocess.run([*script, "a", "b", "0", *path], capture_output=True, text=True, check=True).stdout
        assert output.endswith(f"--network_pkl a --outdir b --seeds 0 {' '.join(path)}\n")
    assert subprocess.run([*script, "a"], capture_output=True).returncode == 2


def test_visualize_finds_its_folder_through_a_link_and_with_a_cdpath(tmp_path):
    """`cd` prints the folder that it finds through CDPATH."""
    folder = tmp_path / "checkout"
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / "visualize.sh").write_bytes((ROOT / "visualize.sh").read_bytes())
    (folder / ".venv" / "bin" / "python").write_text('#!/bin/sh\necho "$1"\n')
    (folder / ".venv" / "bin" / "python").chmod(0o755)
    (tmp_path / "linked").symlink_to(folder / "visualize.sh")
    environment = {**os.environ, "CDPATH": str(tmp_path)}
    for script in ("checkout/visualize.sh", "./linked"):
        command = ["bash", script, "a.pkl", "out"]
        answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert (answer.stdout, answer.stderr) == (f"{folder}/generate.py\n", "")


def test_half_precision_is_asked_for_and_refused_where_there_is_none(monkeypatch):
    cpu = torch.device("cpu")
    assert generate.pick_precision("float32", torch.device("meta")) == "float32"
    monkeypatch.setattr("training.inference.frame_renderer.has_fused_mlp", lambda device, precision: device == cpu)
    assert generate.pick_precision("bf16", cpu) == "bfloat16"
    with pytest.raises(dnnlib.UserError, match="--precision: bf16 needs .* or a GPU of NVIDIA's Ampere generation"):
        generate.pick_precision("bf16", torch.device("meta"))
    for capability, suits in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        if suits:
            assert generate.pick_precision("bf16", torch.device("cuda")) == "bfloat16"
        else:
            with pytest.raises(dnnlib.UserError, match="--precision: bf16 needs"):
                generate.pick_precision("bf16", torch.device("cuda"))
    monkeypatch.setattr("training.inference.frame_renderer.has_fused_mlp", lambda device, precision: False)
    with pytest.raises(dnnlib.UserError, match="--precision: bf16 needs a processor with avx512_bf16"):
        generate.pick_precision("bf16", cpu)
