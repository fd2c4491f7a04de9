"""The published models: structures written by the original, filled by the recipe, give the original's numbers."""

import click.testing
import numpy as np
import pytest
import torch
from PIL import Image

import generate
from renderer.trajectories import camera_path
from tests.goldens.checks import assert_near
from tests.goldens.evaluation import CASES, EVALUATION, case_inputs
from tests.goldens.networks import golden_arrays, paper_discriminators, paper_generator
from tests.goldens.subsets import at_pixels
from tests.training.published.published_files import fill, parse, structure
from training.checkpoints.snapshot import load_average_generator, load_snapshot
from training.inference.frame_renderer import FrameRenderer
from training.inference.latents import seed_latents
from training.published.__main__ import convert_checkpoint
from training.published.modules import PublishedModule

CONFIGS = ["faceforensics", "mead", "taichi"]
MEASURED = ["faceforensics", "taichi"]


@pytest.fixture(scope="module", params=CONFIGS)
def model(request, tmp_path_factory):
    """Name of a model and a file of it; a quarter of a gigabyte, removed when the next one comes."""
    data = structure(request.param)
    fill(data, scale={"G": 0.5})
    path = tmp_path_factory.mktemp("models") / f"{request.param}.pkl"
    path.write_bytes(data)
    del data
    yield request.param, path
    path.unlink()


def assert_same(state, expected, factor=1.0):
    assert state.keys() == expected.keys()
    for name in expected:
        assert torch.equal(state[name], expected[name] * factor), name


@pytest.mark.slow
def test_every_tensor_and_option(model):
    config, path = model
    content, paper = load_snapshot(path), paper_generator(config)
    generator = load_average_generator(path)
    assert_same(generator.state_dict(), paper.state_dict())
    assert_same(content["generator"]["state"], paper.state_dict(), 0.5)
    assert_same(content["discriminator"]["state"], paper_discriminators(config).state_dict())
    # All that the paper's models differ in, and all that tensors do not tell.
    assert generator.settings == paper.settings
    camera, expected = vars(generator.camera_prior), vars(paper.camera_prior)
    assert camera.keys() == expected.keys()
    for name in camera:
        assert camera[name] == (expected[name] if name == "distribution" else pytest.approx(expected[name], abs=1e-15))
    assert generator.num_ws == paper.num_ws
    ours, theirs = content["generator"]["config"], paper.config
    assert ours["upsampler"].items() >= theirs["upsampler"].items()
    assert ours["mapping"] == {"num_layers": 8, "lr_multiplier": 0.01, "w_avg_beta": 0.995}
    assert ours["upsampler"]["magnitude_beta"] == 0.999
    assert content["discriminator"]["config"] == {
        "resolution": paper.resolution, "c_dim": 0, "channel_base": 1.0, "channel_max": 512, "conv_clamp": 256.0,
        "mbstd_group": 8, "image": True, "fp16_resolutions": 4, "mapping_layers": 8,
    }  # fmt: skip
    assert content["progress"]["cur_nimg"] == 123_456
    assert content["dataset"] == {
        "c_dim": 0, "resolution": paper.resolution, "name": "videos", "nframes": 16, "mirror": False, "num_videos": 704,
    }  # fmt: skip


@pytest.mark.slow
@torch.no_grad()
def test_frames(model):
    """Measured frames; of MEAD, which was not measured, those of a network that got options and weights otherwise."""
    config, path = model
    generator = load_average_generator(path)
    if config not in MEASURED:
        inputs = case_inputs("faceforensics", "c1_wsvaried") | {"cameras": generator.camera_prior.at(0.2, 0.7)}
        assert torch.equal(generator.synthesize(**inputs).image, paper_generator(config).synthesize(**inputs).image)
        return
    goldens = golden_arrays(f"network_{config}.npz")
    for case in ("c1_wsvaried", "c2_fov20"):
        fractions, fov, *_ = CASES[case]
        inputs = case_inputs(config, case) | {"cameras": generator.camera_prior.at(*fractions, fov=fov)}
        output = generator.synthesize(**inputs)
        for key, images in ((f"eval_{case}/img", output.image[0]), (f"eval_{case}/img_nerf", output.image_raw[0])):
            assert_near(at_pixels(images), goldens[f"{key}/pixels"], **EVALUATION)
            assert_near(images.double().mean(dim=(2, 3)), goldens[f"{key}/mean"], relative=0, absolute=2e-5)
    z = goldens["mapping/z"]
    assert_near(generator.mapping(z, truncation_psi=0.7)[:, 0], goldens["mapping/ws_psi0.7"])


@pytest.mark.slow
@pytest.mark.parametrize("model", ["faceforensics"], indirect=True)
@torch.no_grad()
def test_rendered_videos(model, tmp_path):
    """The images of the original's render command for seed 0, from seed to picture."""
    path = model[1]
    goldens = golden_arrays("rendered_faceforensics.npz")
    # The time stands still: frame i is moment 0 from camera 2 − i.
    arguments = ["--outdir", str(tmp_path), "--network_pkl", str(path), "--device", "cpu", "--seeds", "0",
                 "--n_steps", "3", "--time_steps", "1", "--save_frames"]  # fmt: skip
    click.testing.CliRunner().invoke(generate.main, arguments, catch_exceptions=False)
    folder = tmp_path / "rotation_camera_yaw_seed0000_motion0000"
    for i in range(3):
        frame = np.asarray(Image.open(folder / f"{i:04d}.png")).transpose(2, 0, 1)[None]
        expected = ((goldens["still"][2 - i : 3 - i] + 1) * 127.5).round().clamp(0, 255)
        assert_near(at_pixels(frame).astype(np.float64), expected, relative=0, absolute=1.0, mean=0.01)
    # Frame i is moment i of four from camera 2 − i.
    generator, codes = load_average_generator(path), seed_latents(0, 0)
    scene = FrameRenderer(generator, generator.mapping(codes.z), z_motion=codes.z_motion, z_bg=codes.z_bg)
    cameras = camera_path("rotation_camera_yaw", generator.camera_prior, 3)
    for i in range(3):
        image = scene.render(float(torch.linspace(0, 1, 4)[i]), cameras[2 - i])
        assert_near(at_pixels(image), goldens["moving"][i : i + 1], **EVALUATION)


@pytest.mark.slow
@torch.no_grad()
def test_an_untrained_network_is_sampled_as_by_the_original(tmp_path):
    """The original draws 20 samples while its blending parameter has its initial value."""
    data = structure("taichi")
    fill(data, "G_ema")
    tensors = PublishedModule(parse(data)["G_ema"], "G_ema").tensors()
    tensors["synthesis.alpha"].storage.data[:] = np.float32(-1).tobytes()
    (tmp_path / "x.pkl").write_bytes(data)
    generator = load_average_generator(tmp_path / "x.pkl")
    image = generator.synthesize(**case_inputs("taichi", "c1_steps20")).image[0]
    goldens = golden_arrays("network_taichi.npz")
    assert_near(at_pixels(image), goldens["eval_c1_steps20/img/pixels"], **EVALUATION)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["taichi"], indirect=True)
def test_conversion(model, tmp_path):
    path = model[1]
    convert_checkpoint(path, tmp_path / "own.pt")
    torch.load(tmp_path / "own.pt", weights_only=True, mmap=True)
    assert_same(load_average_generator(tmp_path / "own.pt").state_dict(), load_average_generator(path).state_dict())
    before, after = load_snapshot(path), load_snapshot(tmp_path / "own.pt")
    assert_same(after["discriminator"]["state"], before["discriminator"]["state"])
    assert after["generator"]["config"] == before["generator"]["config"]


def test_seeds_of_the_paper():
    """Content from numpy; background the second draw after seeding PyTorch, times 0.65; motion the first."""
    for seed in (431, 28, 6, 1574, 166):
        codes = seed_latents(seed, seed + 1)
        assert torch.equal(codes.z, torch.from_numpy(np.random.RandomState(seed).randn(1, 512)).float())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            torch.randn(1, 32)
            assert torch.equal(codes.z_bg, torch.randn(1, 32) * 0.65)
            torch.manual_seed(seed + 1)
            assert torch.equal(codes.z_motion, torch.randn(1, 512))
