"""Inversion from the command: a clip that the model made comes back, with its camera; mistakes end in one line."""

import json
import math
import shutil
import subprocess
import sys

import click.testing
import numpy as np
import pytest
import torch
from PIL import Image

import dnnlib
import video3d
from renderer.video import to_uint8
from tests.full_memory import REASON, fill_gpu, loading_message, no_memory
from tests.small_network import save_small_network
from tests.training.inversion.small_inversion import CLIP_TIMES, inversion_generator
from training.checkpoints.snapshot import load_average_generator
from training.data.video_decoder import decode_video
from training.inference.frame_renderer import FrameRenderer
from training.inference.latent_files import load_codes
from training.inversion import __main__ as inversion
from training.inversion.projector import Inversion, render_codes

SEED = 3
YAW = [-0.25, -0.13, 0.0, 0.12, 0.2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A snapshot, and a clip of the generator with a camera that moves."""
    folder = tmp_path_factory.mktemp("inversion")
    generator = save_small_network(folder, inversion_generator())
    draw = torch.Generator().manual_seed(SEED)
    codes = [torch.randn(1, n, generator=draw) for n in (8, 6, 4)]
    (folder / "clip").mkdir()
    with torch.no_grad():
        scene = FrameRenderer(generator, generator.mapping(codes[0]), z_motion=codes[1], z_bg=codes[2])
        for i, (time, yaw) in enumerate(zip(CLIP_TIMES, YAW, strict=True)):
            image = to_uint8(scene.render(time, generator.camera_prior.at_angles(yaw, math.pi / 2 + 0.03))[0])
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "clip" / f"{i}.png")
    return folder


def run(folder, outdir, *arguments):
    base = ["--network_pkl", str(folder), "--clip", str(folder / "clip"), "--outdir", str(outdir), "--device", "cpu"]
    result = click.testing.CliRunner().invoke(inversion.main, [*base, *arguments])
    if result.exception is not None:
        raise result.exception
    return json.loads((outdir / "inversion.json").read_text())


def clip_pixels(folder):
    return np.stack([np.asarray(Image.open(path)) for path in sorted((folder / "clip").iterdir())])


def test_a_clip_that_the_model_made_comes_back(folder, tmp_path):
    report = run(folder, tmp_path, "--samples", "48", "--motions", "8", "--steps", "200")
    assert report["psnr"] >= 30
    error = np.abs(np.array(report["cameras"]["yaw"]) - YAW)
    assert error.max() <= 0.05
    generator = load_average_generator(folder)
    codes = load_codes(tmp_path / "codes.npz", generator)
    assert codes.belong_to(generator) and torch.allclose(codes.times, torch.tensor(CLIP_TIMES).double())
    shown = render_codes(generator, codes).permute(0, 2, 3, 1).numpy().astype(float)
    quality = 10 * math.log10(255**2 / np.square(shown - clip_pixels(folder)).mean())
    assert quality == pytest.approx(report["psnr"], abs=0.01)
    assert codes.yaw.tolist() == report["cameras"]["yaw"]
    left, right = np.split(np.stack([np.asarray(f) for f in decode_video(str(tmp_path / "inversion.mp4"))]), 2, axis=2)
    assert np.abs(left.astype(float) - clip_pixels(folder)).mean() < 6  # 4:2:0 chroma of 16×16 pixels
    assert np.abs(right.astype(float) - shown).mean() < 6


def test_fine_tuning_comes_closer_and_its_network_is_loaded_like_any(folder, tmp_path):
    few = ["--samples", "16", "--motions", "2", "--steps", "36", "--batch", "3", "--frames", "2", "--finetune", "40"]
    report = run(folder, tmp_path, *few)
    assert report["psnr_finetuned"] > report["psnr"] + 1
    tuned, original = load_average_generator(tmp_path / "finetuned-network.pt"), load_average_generator(folder)
    assert load_codes(tmp_path / "finetuned-codes.npz", tuned).belong_to(tuned)
    assert load_codes(tmp_path / "codes.npz", original).belong_to(original)
    z = torch.zeros(1, 8)
    assert torch.equal(tuned.mapping(z), original.mapping(z))
    shown = render_codes(tuned, load_codes(tmp_path / "finetuned-codes.npz", tuned)).permute(0, 2, 3, 1).numpy()
    quality = 10 * math.log10(255**2 / np.square(shown.astype(float) - clip_pixels(folder)[:2]).mean())
    assert quality == pytest.approx(report["psnr_finetuned"], abs=0.01)
    assert next(decode_video(str(tmp_path / "inversion.mp4"))).size == (48, 16)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "codes.npz", "finetuned-codes.npz", "finetuned-network.pt", "inversion.json", "inversion.mp4"
    ]  # fmt: skip


@pytest.mark.parametrize("times, notes", [("0:1", []), ("0.5:2", ["Times from 0.5 to 2: training covered 0 to 1"])])
def test_times_beyond_the_training_are_told(folder, tmp_path, monkeypatch, times, notes):
    def stop(*_):
        raise ValueError("stopped")

    monkeypatch.setattr(Inversion, "fit", stop)
    words = ["--network_pkl", folder, "--clip", folder / "clip", "--outdir", tmp_path, "--device", "cpu"]
    result = click.testing.CliRunner().invoke(inversion.main, [*map(str, words), "--times", times])
    assert str(result.exception) == "stopped"
    assert [line.split(", the rest")[0] for line in result.output.splitlines()] == notes


def test_results_of_an_earlier_clip_do_not_stay(folder, tmp_path, monkeypatch):
    few = ["--samples", "4", "--motions", "1", "--steps", "6", "--batch", "1", "--frames", "1"]
    run(folder, tmp_path, *few, "--finetune", "1")
    with pytest.raises(dnnlib.UserError, match="--outdir: the results would replace the network itself, .*finetuned-n"):
        run(folder, tmp_path, *few, "--network_pkl", str(tmp_path / "finetuned-network.pt"))
    assert len(list(tmp_path.iterdir())) == 5
    (tmp_path / "notes.txt").touch()
    run(folder, tmp_path, *few)
    assert {path.name for path in tmp_path.iterdir()} == {"codes.npz", "inversion.json", "inversion.mp4", "notes.txt"}

    def interrupt(*_):
        raise ValueError("stopped")

    monkeypatch.setattr(Inversion, "tune", interrupt)
    with pytest.raises(ValueError, match="stopped"):
        run(folder, tmp_path, *few, "--seed", "1", "--finetune", "1")
    assert {path.name for path in tmp_path.iterdir()} == {"codes.npz", "notes.txt"}  # the new ones


def test_fine_tuning_keeps_the_networks_that_it_began_with(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "run")
    few = ["--samples", "4", "--motions", "1", "--steps", "6", "--batch", "1", "--frames", "1", "--finetune", "1"]
    fit = Inversion.fit

    def fit_while_training_goes_on(self):
        fit(self)
        for path in (tmp_path / "run").glob("*.pt"):
            path.unlink()

    monkeypatch.setattr(Inversion, "fit", fit_while_training_goes_on)
    run(tmp_path / "run", tmp_path / "out", *few)
    assert (tmp_path / "out" / "finetuned-network.pt").is_file()


def test_fine_tuning_needs_discriminators(folder, tmp_path):
    pytest.importorskip("safetensors")
    video3d.load_generator(folder).save_pretrained(tmp_path / "model")
    with pytest.raises(dnnlib.UserError, match="a generator without discriminators: .*--finetune need a snapshot"):
        run(folder, tmp_path / "out", "--network_pkl", str(tmp_path / "model"), "--finetune", "1")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--clip", "nothing"], "--clip: there is no file or folder 'nothing'"),
        (["--frames", "7"], "has 5 frames, fewer than --frames 7"),
        (["--times", "0-1"], "--times: '0-1' is not START:END"),
        (["--times", "0:inf"], "--times: '0:inf' is not START:END"),
        (["--crop", "1,2"], "--crop 1,2: write centre, or"),
        (["--crop", "0,0,99,99"], "is not inside the frames"),
        (["--lpips", __file__], "cannot be loaded as TorchScript"),
        (["--device", "nonsense"], "--device: 'nonsense' cannot be used here"),
    ],
)
def test_mistakes_write_nothing(folder, tmp_path, arguments, message):
    with pytest.raises(dnnlib.UserError, match=message):
        run(folder, tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_a_missing_encoder_and_a_fit_that_fails_leave_no_folder(folder, tmp_path, monkeypatch):
    fits = []

    def fit(self):
        fits.append(self)
        raise dnnlib.UserError("The fit has failed.")

    monkeypatch.setattr(Inversion, "fit", fit)
    with pytest.raises(dnnlib.UserError, match="The fit has failed"):
        run(folder, tmp_path / "out")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    with pytest.raises(dnnlib.UserError, match="^Cannot start ffmpeg, '/nowhere/ffmpeg' "):
        run(folder, tmp_path / "out")
    assert len(fits) == 1 and not (tmp_path / "out").exists()


def test_a_full_memory_is_one_line(folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        fill_gpu(patch)
        with pytest.raises(dnnlib.UserError) as caught:
            run(folder, tmp_path / "out")
    assert str(caught.value) == loading_message(folder)
    monkeypatch.setattr("training.inversion.target_clip.read_clip", no_memory)
    with pytest.raises(dnnlib.UserError) as caught:
        run(folder, tmp_path / "out")
    assert str(caught.value) == f"The memory is full ({REASON}). Lower --batch, or take fewer or smaller frames."
    assert not (tmp_path / "out").exists()


def test_help_and_usage_errors_answer_in_one_line_without_loading_torch():
    code = (
        "import sys, training.inversion.__main__ as m; assert 'torch' not in sys.modules; sys.argv[0] = 'x'; m.main()"
    )
    help_text = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True)
    assert help_text.returncode == 0, help_text.stderr
    assert all(name in help_text.stdout for name in ("--clip", "--finetune", "--lpips", "--times"))
    command = [sys.executable, "-m", "training.inversion", "--network_pkl", ".", "--outdir", "out"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: Missing option '--clip'.\n"


def test_motions_that_there_are_none_of_are_told(folder):
    moving, still = load_average_generator(folder), load_average_generator(folder)
    still.motion = None
    base = ["--network_pkl", str(folder), "--clip", "x", "--outdir", "y"]
    with inversion.main.make_context("inversion", [*base, "--motions", "8"]):
        assert inversion.idle_notes(moving, frames=5) == []
        assert inversion.idle_notes(moving, frames=1) == ["--motions has no effect: a single frame shows no motion."]
        assert inversion.idle_notes(still, frames=5) == ["--motions has no effect: this generator has no motion."]
    with inversion.main.make_context("inversion", base):
        assert inversion.idle_notes(still, frames=1) == []
