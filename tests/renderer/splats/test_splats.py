"""The splats command on a generator whose foreground is a known body, and its messages for mistakes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from dnnlib import UserError
from renderer.cameras import camera_rays, pixel_centers
from renderer.mesh.trained_volume import TrainedVolume
from renderer.rays import Rays
from renderer.splats import __main__ as splats_command
from renderer.splats.gaussians import read_ply
from renderer.volume_rendering import ray_samples
from tests.full_memory import REASON, no_memory
from tests.renderer.ball import GROWTH, RADIUS, Ball, build, load_instead, put_ball, runs_of
from tests.small_network import small_generator
from training.inference.meshes import NoSurface
from training.inference.point_query import PointField
from training.inference.splats import GeneratedSplats
from training.inference.video_generator import VideoGenerator


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def run(untouched, tmp_path, monkeypatch):
    load_instead(put_ball(untouched, monkeypatch, slope=300), monkeypatch)
    return runs_of(splats_command.main, tmp_path, "--resolution", "48", "--size", "64")


def test_a_ball_that_grows_is_rendered_again_with_its_place_colours_and_opacity(run):
    names = run("--seeds", "3", "--times", "0,1", "--preview")
    stem = "splats_seed0003_motion0003"
    files = [f"{stem}_000{i}.{suffix}" for i in range(2) for suffix in ("ply", "png")]
    assert names == [f"{stem}.json", *files]
    about = json.loads((run.out / f"{stem}.json").read_text())
    assert [row["time"] for row in about["splats"]] == [0, 1] and about["size"] == 64
    for row, radius in zip(about["splats"], (RADIUS, RADIUS + GROWTH)):
        gaussians = read_ply(run.out / row["file"])
        assert row["gaussians"] == len(gaussians)
        distances = gaussians.means.norm(dim=-1)
        # All grid points of the ball, and those of its fading rim.
        assert float(distances.max()) < radius + 0.03
        volume = int((distances < radius).sum()) * about["cell"] ** 3
        assert volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.1)
        expected = (gaussians.means * 8 * torch.tensor([0.0, 1, 1]) + torch.tensor([0.3, 0, 0])) / 2 + 0.5
        torch.testing.assert_close(gaussians.colours, expected, atol=1e-5, rtol=0)
        assert len(row["psnr"]["foreground"]) == len(row["psnr"]["image"]) == 5
        assert min(row["psnr"]["foreground"]) > 30 and min(row["psnr"]["image"]) > 30
        assert f"{sum(row['psnr']['foreground']) / 5:.1f} dB, over the background" in run.output
    picture = np.asarray(Image.open(run.out / files[1])).astype(int)
    assert picture.shape == (2 * 64, 5 * 64, 3)
    assert np.abs(picture[:64] - picture[64:]).mean() < 4
    middle = picture[64 + 32, 2 * 64 + 32]  # where y = z = 0
    assert np.abs(middle - np.array([0.65, 0.5, 0.5]) * 255).max() < 10


def test_codes_of_a_file_give_the_splats_of_their_seeds(run, monkeypatch, tmp_path):
    generator, path = small_generator(c_dim=3).requires_grad_(False), str(tmp_path / "a.npz")
    load_instead(generator, monkeypatch)
    G, few = VideoGenerator(generator), ["--resolution", "12", "--size", "16"]
    G.save_codes(path, G.codes(seed=3, motion_seed=5, class_idx=2))
    run("--seeds", "3", "--motion_seeds", "5", "--class_idx", "2", *few)
    names = run("--codes", path, *few)
    stems = ["splats_codes-a_motion-a", "splats_seed0003_motion0005"]
    assert names == [f"{stem}{end}" for stem in stems for end in (".json", "_0000.ply")]
    first, second = ((run.out / f"{stem}_0000.ply").read_bytes() for stem in stems)
    assert first == second and len(read_ply(run.out / names[1])) > 0
    first, second = (json.loads((run.out / f"{stem}.json").read_text()) for stem in stems)
    assert first.pop("codes") == path and [second.pop("seed"), second.pop("motion_seed")] == [3, 5]
    assert first["splats"][0].pop("file") == names[1] and second["splats"][0].pop("file") == names[3]
    assert first == second


def test_density_that_a_camera_does_not_render_does_not_hide_the_object_from_it(run, monkeypatch):
    monkeypatch.setattr(Ball, "plate", 200.0)
    run()
    (row,) = json.loads((run.out / "splats_seed0000_motion0000.json").read_text())["splats"]
    assert row["psnr"]["foreground"][2] > 30
    assert row["psnr"]["foreground"][0] < 30  # the side sees the plate, which is left out
    assert float(read_ply(run.out / row["file"]).means[:, 0].max()) < 0.12


def test_there_are_gaussians_in_the_trained_volume_only(run, untouched, monkeypatch):
    """Beside it are points between the depths of all cameras, too: outside the images of all of them."""

    def fog(self, points, directions):
        shape = points.shape[:-1]
        return points.new_full(shape, 50.0), (points.new_zeros([*shape, 3 + self.feature_dim]),)

    monkeypatch.setattr(Ball, "__call__", fog)
    run("--resolution", "24", "--size", "16")
    (row,) = json.loads((run.out / "splats_seed0000_motion0000.json").read_text())["splats"]
    means = read_ply(run.out / row["file"]).means
    volume = TrainedVolume(untouched.camera_prior, near=untouched.settings.near, far=untouched.settings.far)
    assert len(means) > 100 and float(volume.signed_distance(means).min()) > -1e-5


def test_more_cells_are_closer_to_the_field(run):
    mean = {}
    for cells in ("16", "64"):
        run("--resolution", cells)
        (row,) = json.loads((run.out / "splats_seed0000_motion0000.json").read_text())["splats"]
        mean[cells] = np.mean(row["psnr"]["foreground"])
    assert mean["64"] > mean["16"] + 3


@pytest.mark.parametrize("more", [[], ["model.generator.background=null"]])
def test_the_image_that_is_compared_is_that_of_the_nerf_path(tmp_path, more):
    generator = build(tmp_path, *more)
    video = VideoGenerator(generator).codes(1, 2, truncation_psi=0.7)
    camera = generator.camera_prior.at(yaw=0.3)
    foreground, transmittance, background = PointField(generator, **vars(video), time=0.4).render(camera, 16)
    image = foreground + transmittance[..., None] * background
    # As in training: all samples of a ray, including background ones, through the upsampler's pointwise layers.
    weights, fields = parts_of(generator, video, 0.4)
    rays = Rays(*camera_rays(camera, pixel_centers(16, torch.device("cpu"))))
    samples = ray_samples(fields, rays, generator.settings, frames=1)
    values = samples.values.flatten(1, 3)
    colours = generator.upsampler.pointwise(values[..., 3:], values[..., :3], weights.upsampler)
    expected = (samples.weights[..., None] * colours.unflatten(1, samples.weights.shape[1:])).sum(dim=-2)
    torch.testing.assert_close(image, expected.reshape(16, 16, 3), atol=1e-5, rtol=1e-4)
    assert bool((transmittance == 0).all()) is bool(more)


def test_colours_of_points_have_passed_the_upsampler_s_pointwise_layers(untouched):
    # A ray composited from the colours and densities of its points is a pixel of the image that is compared.
    video = VideoGenerator(untouched).codes(1, 2)
    points = torch.rand([7, 3], generator=torch.Generator().manual_seed(0)) * 0.1
    position = untouched.camera_prior.at().cam2world[0, :3, 3]
    view = torch.nn.functional.normalize(points - position, dim=-1)
    weights, fields = parts_of(untouched, video, 0.4)
    _, features = fields.foreground(points[None, None, :, None], view[None])
    values = fields.foreground.project(features)[:, 0, :, 0]
    expected = untouched.upsampler.pointwise(values[..., 3:], values[..., :3], weights.upsampler)[0]
    assert float((expected - values[0, :, :3]).abs().max()) > 0.01  # the upsampler adds to the field's own
    colours = PointField(untouched, **vars(video), time=0.4).emission(points)
    torch.testing.assert_close(colours, expected, atol=1e-5, rtol=1e-4)


def parts_of(generator, video, time):
    """Weights and fields of a video at a time."""
    times = torch.tensor([[time]])
    motion = generator.motion_vectors(video.ws, video.z_motion, times)
    weights = generator.modulate(video.ws)
    return weights, generator.condition(weights, times=times, motion=motion, z_bg=video.z_bg)


def test_no_foreground_at_all(run, monkeypatch):
    def nothing(self, points, directions):
        return points[..., 0] * 0, (points.new_zeros([*points.shape[:-1], 3 + self.feature_dim]),)

    monkeypatch.setattr(Ball, "__call__", nothing)
    with pytest.raises(UserError, match="nothing to show at time 0.5: the density is nowhere above 0, and"):
        run()
    assert not run.out.exists()


def test_a_full_memory_is_one_line(run, monkeypatch):
    monkeypatch.setattr("training.inference.splats.sample", no_memory)
    with pytest.raises(UserError) as caught:
        run()
    assert str(caught.value) == f"The memory is full ({REASON}). Lower --chunk, --resolution or --size."
    assert not run.out.exists()


def test_steps_of_an_earlier_and_longer_call_are_removed(run):
    few, stem = ["--resolution", "16", "--size", "16"], "splats_seed0000_motion0000"
    run(*few, "--time_steps", "3", "--preview")
    steps = [f"{stem}_000{i}.{suffix}" for i in range(2) for suffix in ("ply", "png")]
    assert run(*few, "--time_steps", "2", "--preview") == [f"{stem}.json", *steps]


def test_a_time_without_gaussians_does_not_keep_the_others_from_being_written(run, monkeypatch):
    splats = GeneratedSplats.splats

    def some(self, video, time):
        if time == 0:
            raise NoSurface("nothing")
        return splats(self, video, time)

    monkeypatch.setattr(GeneratedSplats, "splats", some)
    stem = "splats_seed0000_motion0000"
    with pytest.raises(UserError, match=f"Not all splats were written: {stem}: nothing"):
        run("--times", "0,1")
    assert sorted(path.name for path in run.out.iterdir()) == [f"{stem}.json", f"{stem}_0001.ply"]
    assert [row["time"] for row in json.loads((run.out / f"{stem}.json").read_text())["splats"]] == [1]
