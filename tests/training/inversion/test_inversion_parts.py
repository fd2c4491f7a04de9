"""The parts of inversion: style coordinates, losses, candidate videos, path search, reading clips."""

import contextlib
import copy
import functools
import itertools
import math

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

import dnnlib
from renderer.video import VideoWriter
from tests.training.inversion.small_inversion import CLIP_TIMES, inversion_generator
from torch_utils.rng import RandomStream
from torch_utils.torchscript import load_torchscript
from training.data.crops import Boxes, Crop
from training.data.images import decode_image
from training.data.names import IMAGE_SUFFIXES, listed_path
from training.inversion import initialize, projector, target_clip
from training.inversion.candidates import CandidateVideos, Weights
from training.inversion.initialize import cheapest_paths, key_frames, nearest_motions, nearest_samples
from training.inversion.loss import ClipLoss, psnr_of_error, pyramid
from training.inversion.optimize import RATES, FitSettings, descend, fit_clip, fit_images, learning_rate
from training.inversion.projector import Inversion
from training.inversion.style_prior import StylePrior, random_labels
from training.inversion.target_clip import read_clip


@pytest.fixture(scope="module")
def generator():
    return inversion_generator()


@pytest.fixture(scope="module")
def prior(generator):
    return StylePrior.of(generator, RandomStream(0))


@contextlib.contextmanager
def default_type(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def candidates(generator, prior, *, videos=2, frames=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return CandidateVideos(
        generator,
        prior,
        x=torch.randn(videos, 1, generator.w_dim, generator=draw),
        z_motion=torch.randn(videos, generator.motion_dim, generator=draw),
        z_bg=torch.randn(videos, generator.background_dim, generator=draw),
        yaw=torch.rand(videos, frames, generator=draw) * 0.4 - 0.2,
        pitch=math.pi / 2 + torch.rand(videos, frames, generator=draw) * 0.1,
        times=torch.linspace(0, 1, frames),
    )


# ----------------------------------------------------------------------------------------------------------------------
# Styles


def test_coordinates_of_random_styles_are_round(generator, prior):
    z = RandomStream(1).normal("", [4000, generator.z_dim])
    w = generator.mapping(z)[:, 0]
    x = prior.coordinates(w)
    assert torch.allclose(prior.styles(x), w, atol=1e-4)
    assert x.mean(dim=0).abs().max() < 0.1
    covariance = x.t() @ x / len(x)
    assert (covariance - torch.eye(generator.w_dim)).abs().max() < 0.25
    spread = (w - w.mean(dim=0)).square().mean(dim=0)
    assert spread.max() / spread.min() > 1.5  # in w they are not


def test_labels_are_one_hot_and_each_comes_up(generator):
    generator = type("Labelled", (), {"c_dim": 3})
    labels = random_labels(generator, 60, RandomStream(0))
    assert labels.shape == (60, 3) and torch.equal(labels.sum(dim=1), torch.ones(60))
    assert (labels.sum(dim=0) > 5).all()


def test_labels_that_are_numbers_are_those_of_the_training_data():
    examples = torch.tensor([[0.5, 2], [-1, 3.0]])
    generator = type("Labelled", (), {"c_dim": 2, "label_examples": examples})
    labels = random_labels(generator, 60, RandomStream(0))
    counts = [(labels == row).all(dim=1).sum() for row in examples]
    assert sum(counts) == 60 and min(counts) > 15


# ----------------------------------------------------------------------------------------------------------------------
# Losses


def test_a_pyramid_halves_by_averaging_down_to_four_pixels():
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    levels = pyramid(images)
    assert [level.shape[-1] for level in levels] == [16, 8, 4]
    assert torch.allclose(levels[2][1, 2, 0, 3], images[1, 2, :4, 12:].mean())
    assert [level.shape[-1] for level in pyramid(torch.zeros(1, 3, 12, 12))] == [12, 6, 3]


def test_psnr_is_that_of_pixels_between_minus_one_and_one():
    assert psnr_of_error(4 * 1e-3) == pytest.approx(30)
    assert psnr_of_error(0.0) > 100


def test_the_loss_compares_with_the_frames_that_are_named():
    clip = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    loss = ClipLoss(clip)
    frames = torch.tensor([2, 0])
    zero, squares = loss(clip[frames], frames)
    assert torch.equal(zero, torch.zeros(2)) and torch.equal(squares, torch.zeros(2))
    # A constant difference is the same at every scale; one that alternates is seen at the finest of two only.
    off, squares = loss(clip[frames] + 0.5, frames)
    assert torch.allclose(off, torch.full([2], 0.25)) and torch.allclose(squares, off)
    stripes = torch.tensor([0.5, -0.5]).repeat(4).expand(3, 8, 8)
    off, squares = loss(clip[frames] + stripes, frames)
    assert torch.allclose(off, torch.full([2], 0.125)) and torch.allclose(squares, torch.full([2], 0.25))


class Means(torch.nn.Module):
    """Stands for LPIPS: the mean colours, divided by ten, of images in 0…255."""

    def forward(self, images: torch.Tensor, resize_images: bool = True, return_lpips: bool = False) -> torch.Tensor:
        assert return_lpips and not resize_images
        return images.mean(dim=[2, 3]) / 10


def test_a_perceptual_network_from_a_file(tmp_path):
    torch.jit.script(Means()).save(str(tmp_path / "lpips.pt"))
    clip = torch.zeros(2, 3, 8, 8)
    frames = torch.tensor([0, 1])
    loss = ClipLoss(clip, perceptual=load_torchscript(tmp_path / "lpips.pt", "cpu"), perceptual_weight=0.5)
    value, squares = loss(clip + 0.2, frames)
    # The colours are 25.5 apart: features 2.55 in three channels.
    assert torch.allclose(value, torch.full([2], 0.04 + 0.5 * 3 * 2.55**2))
    assert torch.allclose(squares, torch.full([2], 0.04))


def test_perceptual_networks_of_another_kind_are_refused(tmp_path):
    torch.jit.script(torch.nn.Flatten()).save(str(tmp_path / "other.pt"))
    with pytest.raises(dnnlib.UserError, match="--lpips: the network cannot compare frames") as caught:
        ClipLoss(torch.zeros(2, 3, 8, 8), perceptual=load_torchscript(tmp_path / "other.pt", "cpu"))
    assert "\n" not in str(caught.value)
    (tmp_path / "none.pt").write_bytes(b"nothing")
    with pytest.raises(dnnlib.UserError, match="cannot be loaded as TorchScript"):
        load_torchscript(tmp_path / "none.pt", "cpu")


# ----------------------------------------------------------------------------------------------------------------------
# Candidate videos


def test_frames_are_those_of_the_generator_with_the_cameras_of_the_prior(generator, prior):
    videos = candidates(generator, prior)
    frames = torch.tensor([3, 1])
    with torch.no_grad():
        images = videos.render(frames)
        for s, (i, frame) in itertools.product(range(2), enumerate(frames.tolist())):
            expected = generator.synthesize(
                prior.styles(videos.x[s]).expand(1, generator.num_ws, -1),
                z_motion=videos.z_motion[s : s + 1],
                z_bg=videos.z_bg[s : s + 1],
                times=videos.times[None, frame : frame + 1],
                cameras=generator.camera_prior.at_angles(videos.yaw[s, frame], videos.pitch[s, frame]),
            ).image[0, 0]
            assert torch.allclose(images[s, i], expected, atol=1e-5)
    assert (images[0, 0] - images[0, 1]).abs().max() > 0.01 and (images[0, 0] - images[1, 0]).abs().max() > 0.01


def test_selected_videos_have_copies_of_all_parameters(generator, prior):
    videos = candidates(generator, prior)
    parameters = dict(videos.named_parameters())
    assert parameters.keys() == RATES.keys()
    yaw = torch.zeros(3, 4)
    chosen = dict(videos.select([1, 0, 1], yaw=yaw).named_parameters())
    assert chosen.keys() == parameters.keys()
    for name, value in chosen.items():
        assert torch.equal(value, yaw if name == "yaw" else parameters[name][[1, 0, 1]])
        assert value.requires_grad and value.is_leaf


@pytest.mark.parametrize("name", ["x", "z_motion", "z_bg", "yaw", "pitch", "zoom"])
def test_gradients_of_pixels_are_those_of_finite_differences(name):
    generator = inversion_generator().double()
    videos = candidates(generator, StylePrior.of(inversion_generator(), RandomStream(0)), videos=1).double()
    videos._prior = StylePrior(**{key: value.double() for key, value in vars(videos._prior).items()})
    videos.times = videos.times.double()
    direction = torch.randn(
        getattr(videos, name).shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    frames = torch.tensor([1, 3])

    def value(step):
        moved = videos.select([0], **{name: getattr(videos, name).detach() + step * direction})
        return moved, moved.render(frames).square().mean()

    moved, at = value(0.0)
    at.backward()
    slope = float((getattr(moved, name).grad * direction).sum())
    h = 3e-4  # camera matrices are float32: smaller steps drown in rounding
    with torch.no_grad():
        expected = float(value(h)[1] - value(-h)[1]) / (2 * h)
    assert slope == pytest.approx(expected, rel=0.05) and abs(expected) > 1e-5


def test_penalties(generator, prior):
    videos = candidates(generator, prior, videos=1, frames=4)
    off = {name: 0.0 for name in vars(Weights())}
    zero = {name: torch.zeros_like(getattr(videos, name)) for name in ("x", "z_motion", "z_bg", "yaw", "zoom")}
    videos = videos.select([0], **zero, pitch=torch.full([1, 4], math.pi / 2))
    assert videos.penalty(Weights()).item() == 0  # the average, in the middle of the ranges

    def penalty(name, **changes):
        return videos.select([0], **changes).penalty(Weights(**{**off, name: 2.0})).item()

    even = torch.tensor([[-0.3, -0.1, 0.1, 0.3]])
    assert penalty("smooth", yaw=even) == pytest.approx(0, abs=1e-12)  # an even turn costs nothing
    assert penalty("smooth", yaw=torch.tensor([[0, 0, 0, 0.1]])) == pytest.approx(2 * 0.1**2 / 2)
    assert penalty("outside", yaw=even) == 0
    assert penalty("outside", yaw=torch.full([1, 4], 0.5)) == pytest.approx(2 * 0.1**2)  # the range ends at 0.4
    assert penalty("code", z_bg=torch.full([1, 4], 3.0)) == pytest.approx(2 * 9)
    assert penalty("style", x=torch.full([1, 1, 8], 3.0)) == pytest.approx(2 * 9)
    layers = torch.stack([torch.zeros(8), torch.ones(8)])[None]
    assert penalty("layers", x=layers) == pytest.approx(2 * 0.25)
    assert penalty("zoom", zoom=torch.tensor([[0.1, 0.0]])) == pytest.approx(2 * 0.1**2 / 2)


# ----------------------------------------------------------------------------------------------------------------------
# Searches


def test_cheapest_paths_are_those_of_an_exhaustive_search():
    draw = torch.Generator().manual_seed(0)
    losses, grid = torch.rand(5, 3, 4, generator=draw), torch.tensor([-1.0, 0.0, 0.5, 2.0])
    start = torch.rand(5, generator=draw)
    costs, places = cheapest_paths(losses, grid[:, None], start[:, None], 0.1)
    for n in range(5):
        best = {}
        for path in itertools.product(range(4), repeat=3):
            stops = [start[n], *grid[list(path)]]
            steps = sum(float(b - a) ** 2 for a, b in zip(stops, stops[1:]))
            best[path] = sum(float(losses[n, k, p]) for k, p in enumerate(path)) + 0.1 * steps
        expected = min(best, key=best.get)
        assert tuple(places[n].tolist()) == expected and float(costs[n]) == pytest.approx(best[expected], abs=1e-5)


@pytest.mark.parametrize("frames, keys", [(2, [1]), (3, [1, 2]), (5, [1, 2, 3, 4]), (16, [3, 7, 11, 15])])
def test_key_frames(frames, keys):
    assert key_frames(frames, 4, torch.device("cpu")).tolist() == keys


def test_the_start_is_found_where_a_sample_is_the_answer(generator, prior):
    """The clip is one of the random samples, from a camera of the grid."""
    stream = RandomStream(5)
    x = 0.7 * stream.normal("", [16, 1, generator.w_dim])
    z_bg = 0.7 * stream.normal("", [16, generator.background_dim])
    truth = candidates(generator, prior, videos=1).select(
        [0], x=x[11:12], z_bg=z_bg[11:12], yaw=torch.full([1, 4], -0.4 + 0.8 * 1.5 / 7),
        pitch=torch.full([1, 4], math.pi / 2),
    )  # fmt: skip
    with torch.no_grad():
        loss = ClipLoss(truth.render(torch.arange(4))[0])
    found = nearest_samples(generator, prior, loss, times=truth.times, samples=16, starts=4, stream=RandomStream(5))
    assert torch.allclose(found.x[0], x[11]) and torch.allclose(found.z_bg[0], z_bg[11])
    assert torch.allclose(found.yaw[0], truth.yaw[0]) and torch.allclose(found.pitch[0], truth.pitch[0])
    assert len(set(found.yaw[:, 0].tolist())) == 4  # the starts look from different sides


def test_motion_and_path_are_found_where_a_sample_is_the_answer(generator, prior):
    codes = 0.7 * RandomStream(6).normal("", [8, generator.motion_dim])
    yaws = -0.4 + 0.8 * (torch.arange(7) + 0.5) / 7
    path = torch.cat([yaws[[2]], yaws[[3, 4, 4, 3]]])
    truth = candidates(generator, prior, videos=1, frames=5).select(
        [0], z_motion=codes[3:4], yaw=path[None], pitch=torch.full([1, 5], math.pi / 2)
    )
    with torch.no_grad():
        loss = ClipLoss(truth.render(torch.arange(5))[0])
    still = truth.select([0], z_motion=torch.zeros(1, generator.motion_dim), yaw=path[:1].expand(1, 5).clone())
    found = nearest_motions(still, loss, motions=8, keep=1, stream=RandomStream(6))
    assert torch.equal(found.z_motion[0], codes[3]) and torch.allclose(found.yaw[0], path, atol=1e-6)
    assert torch.allclose(found.pitch[0], truth.pitch[0])


def test_combinations_with_different_last_cameras_come_first(generator, prior, monkeypatch):
    """A turn of the head and one of the camera look alike: both are looked at more closely."""
    codes = 0.7 * RandomStream(6).normal("", [3, generator.motion_dim])
    codes[0] = 0
    ends, closer = [0.1, 0.1, -0.1], []

    def best_path(videos, index, code, cameras, keys, loss, on_progress):
        number = int((codes == code).all(dim=1).nonzero())
        if len(keys) > 4:
            closer.append(number)
        return initialize._Path(float(number), index, code, torch.full([len(keys), 2], ends[number]))

    monkeypatch.setattr(initialize, "_best_path", best_path)
    video = candidates(generator, prior, videos=1, frames=9)
    nearest_motions(video, None, motions=3, keep=1, stream=RandomStream(6))
    assert closer == [0, 2]


def test_the_motion_is_not_fitted_to_a_single_frame(generator, prior):
    videos = candidates(generator, prior)
    before, loss = videos.z_motion.detach().clone(), ClipLoss(torch.zeros(4, 3, 16, 16))
    settings, first = FitSettings(), torch.zeros(1, dtype=torch.long)
    descend(videos, loss, 2, settings, first, RandomStream(0), lambda images, quality: None)
    assert torch.equal(videos.z_motion, before)
    descend(videos, loss, 2, settings, None, RandomStream(0), lambda images, quality: None)
    assert not torch.equal(videos.z_motion, before)


def test_the_best_video_is_the_best_of_the_last_tenth_of_the_steps(generator, prior):
    videos, steps = candidates(generator, prior, videos=2, frames=1), []

    def loss(images, frames):
        steps.append(len(images))
        losses = torch.tensor([0.0, 10.0] if len(steps) <= 18 else [1.0, 0.0]) + 0 * images.mean(dim=(1, 2, 3))
        return losses, losses.detach()

    first = torch.zeros(1, dtype=torch.long)
    settings = FitSettings(weights=Weights(**dict.fromkeys(vars(Weights()), 0)))
    order = descend(videos, loss, 20, settings, first, RandomStream(0), lambda images, quality: None)
    assert order.tolist() == [1, 0] and steps == [2] * 20


def test_learning_rates():
    rates = [learning_rate(step, 200) for step in range(200)]
    assert rates[0] == pytest.approx(1 / 20) and max(rates) > 0.95 and rates[-1] == 0.01
    assert rates[100] == pytest.approx(0.5) and all(a > b for a, b in zip(rates[25:180], rates[26:181]))


@pytest.mark.parametrize("frames", [1, 3])
def test_the_images_are_as_many_as_announced_and_runs_repeat(generator, frames):
    settings = FitSettings(samples=4, starts=2, motions=2, keep=1, steps=6, batch=2, fit_fov=True)
    clip = torch.zeros(frames, 3, 16, 16)
    counts, results = [], []
    for _ in range(2):
        seen = []
        video = fit_clip(
            generator, ClipLoss(clip), times=torch.tensor(CLIP_TIMES[:frames]), settings=settings,
            stream=RandomStream(4), on_progress=lambda images, stage, quality: seen.append(images),  # noqa: B023
        )  # fmt: skip
        counts.append(sum(seen))
        results.append({name: p.detach().clone() for name, p in video.named_parameters()})
    assert counts == [fit_images(settings, frames)] * 2
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert results[0]["x"].shape == (1, generator.num_ws, 8)
    radius, fov = results[0]["zoom"][0]
    assert radius == 0 and fov != 0  # only what was asked for is fitted


# ----------------------------------------------------------------------------------------------------------------------
# Clips


def test_codes_and_weights_are_fitted_in_float32(monkeypatch):
    """Where frames are rendered in float16, on a GPU: the gradients of single pixels would vanish in it."""
    generator, cuda, types, render = inversion_generator(), torch.device("cuda"), [], CandidateVideos.render

    def recorded(videos, chosen):
        halves = [block.half_precision for block in videos.generator.upsampler.blocks.values()]
        for half in halves:
            half.clamped = True
        types.extend(half.type(cuda, torch.float32) for half in halves)
        return render(videos, chosen)

    monkeypatch.setattr(CandidateVideos, "render", recorded)
    settings = FitSettings(samples=4, starts=2, motions=4, keep=1, steps=6, batch=2)
    pixels = np.zeros((3, 3, 16, 16), np.uint8)
    inversion = Inversion(generator, pixels, times=(0.0, 1.0), settings=settings, seed=0)
    inversion.fit()
    inversion.tune(2)
    assert types and set(types) == {None}
    block = next(iter(generator.upsampler.blocks.values()))
    assert block.half_precision.type(cuda, torch.float32) == torch.float16  # afterwards


@pytest.mark.parametrize(
    "setting",
    [
        torch.no_grad,
        torch.inference_mode,
        functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16),
        functools.partial(default_type, torch.bfloat16),
        functools.partial(default_type, torch.float64),
    ],
)
def test_settings_of_the_calling_program_change_nothing(generator, setting):
    filters = torch.linspace(-1e-3, 1e-3, 2 * 3 * 64).reshape(2, 3, 8, 8)

    def perceptual(images, resize_images, return_lpips):
        return torch.nn.functional.conv2d(images, filters, stride=8).flatten(1)

    def reported():
        settings = FitSettings(samples=4, starts=2, motions=2, keep=1, steps=6, batch=2)
        pixels = torch.arange(3 * 3 * 256).remainder(251).to(torch.uint8).reshape(3, 3, 16, 16)
        inversion = Inversion(generator, pixels, times=(0.0, 1.0), settings=settings, seed=0, perceptual=perceptual)
        inversion.fit()
        inversion.tune(2)
        return inversion.report() | {"seconds": 0, "features": inversion._loss._features.tolist()}

    expected = reported()
    with setting():
        assert reported() == expected
    assert expected["psnr_finetuned"] != expected["psnr"]
    assert all(parameter.grad is None for parameter in generator.parameters())


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"pixels": np.zeros((2, 3, 16, 16), np.float32)},
            "pixels must be uint8 [T, 3, 16, 16], 0 to 255, got float32.",
        ),
        ({"pixels": [0.5]}, "pixels must be uint8 [T, 3, 16, 16], 0 to 255, got [0.5]."),
        ({"pixels": np.zeros((2, 3, 8, 8), np.uint8)}, "pixels must be [T, 3, 16, 16], got [2, 3, 8, 8]."),
        ({"pixels": np.zeros((0, 3, 16, 16), np.uint8)}, "pixels must be [T, 3, 16, 16], got [0, 3, 16, 16]."),
        ({"times": (0.0,)}, "times must be those of the first and the last frame, got (0.0,)."),
        ({"times": (0.0, "1")}, "times must be a finite number, got '1'."),
        ({"generator": 3}, "generator must be a network, such as G.network, got 3."),
        ({"settings": {"steps": 3}}, "settings must be training.inversion.optimize.FitSettings, got {'steps': 3}."),
        ({"settings": None}, "settings must be training.inversion.optimize.FitSettings, got None."),
        (
            {"generator": inversion_generator().double()},
            "inversion needs a generator in float32, got torch.float64: load it without dtype=.",
        ),
        *(
            (
                {"generator": network},
                "inversion needs a fixed generator: call generator.eval() and generator.requires_grad_(False) first.",
            )
            for network in (inversion_generator().train(), inversion_generator().requires_grad_(True))
        ),
    ],
)
def test_mistakes(generator, changes, message):
    """Floats of 0 to 1 would be taken for pixels of 0 to 255, and gradients would be left on the caller's network."""
    arguments = {"generator": generator, "pixels": np.zeros((2, 3, 16, 16), np.uint8), "times": (0.0, 1.0)}
    arguments |= {"settings": FitSettings(), "seed": 0} | changes
    with pytest.raises(ValueError) as error:
        Inversion(arguments.pop("generator"), arguments.pop("pixels"), **arguments)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "kind, wrong, message",
    [
        *(
            (FitSettings, {name: value}, f"{name} must be a whole number of at least 1, got {value}.")
            for name in ("samples", "starts", "motions", "keep", "steps", "batch")
            for value in (0, 2.5, None)
        ),
        (FitSettings, {"weights": 3}, "weights must be training.inversion.candidates.Weights, got 3."),
        (Weights, {"style": -1}, "weights.style must be a finite number of at least 0, got -1."),
        (Weights, {"zoom": "1"}, "weights.zoom must be a finite number of at least 0, got '1'."),
    ],
)
def test_settings_are_checked(kind, wrong, message):
    with pytest.raises(ValueError) as error:
        kind(**wrong)
    assert str(error.value) == message


def test_settings_of_numpy_are_plain_numbers():
    """The report writes them as JSON."""
    settings = FitSettings(steps=np.int64(6), weights=Weights(style=np.float32(0.5)))
    assert (type(settings.steps), settings.steps) == (int, 6)
    assert (type(settings.weights.style), settings.weights.style) == (float, 0.5)


def write_frames(folder, count=5, size=(20, 16)):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", size, (10 * i, 0, 255)).save(folder / f"{i:02d}.png")
    return folder


def test_clips_from_a_folder_a_parent_folder_and_a_video(tmp_path):
    frames = write_frames(tmp_path / "data" / "clip")
    for path in (frames, tmp_path / "data"):
        clip = read_clip(path, 16, stride=2)
        assert clip.shape == (3, 3, 16, 16) and clip.dtype == np.uint8
        assert clip[:, 0, 5, 5].tolist() == [0, 20, 40] and (clip[:, 2] == 255).all()
    with VideoWriter(tmp_path / "clip.mp4", 8, crf=1) as video:
        for i in range(6):
            video.add(torch.full([3, 16, 32], 40 * i, dtype=torch.uint8))
    clip = read_clip(tmp_path / "clip.mp4", 8, frames=4)
    assert clip.shape == (4, 3, 8, 8)
    assert np.abs(clip.mean(axis=(1, 2, 3)) - [0, 40, 80, 120]).max() < 4
    assert imageio_ffmpeg.get_ffmpeg_exe()


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_an_image_is_a_clip_of_one_frame(tmp_path, suffix):
    """Upright, and to the bit the frame that it is in a folder."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image = Image.new("RGB", (16, 24), (200, 100, 50))
    image.paste((0, 100, 50), (0, 0, 16, 8))
    (tmp_path / "frames").mkdir()
    path = tmp_path / "frames" / f"face{suffix}"
    image.save(path, **({} if suffix == ".bmp" else {"exif": exif}))
    clip = read_clip(path, 16)
    assert clip.shape == (1, 3, 16, 16)
    assert np.array_equal(clip, read_clip(tmp_path / "frames", 16))
    left, right = clip[0, 0, 8, [1, 14]].tolist()
    if suffix != ".bmp":
        assert left > 180 and right < 20


@pytest.mark.parametrize("size", [(24, 24), (12, 12)])
def test_other_pictures_in_a_jpeg_are_no_frames(tmp_path, size):
    """Cameras store previews, gain maps and the other eye's picture in the same file."""
    path, other = tmp_path / "photo.jpg", Image.new("RGB", size, (255, 255, 255))
    Image.new("RGB", (24, 24), (120, 120, 120)).save(path, "MPO", save_all=True, append_images=[other])
    clip = read_clip(path, 16)
    assert clip.shape == (1, 3, 16, 16) and np.abs(clip.astype(int) - 120).max() < 4


def test_images_have_the_faults_of_frames(tmp_path):
    """ffmpeg reads some of them as black, or as something else, without a message."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, [64, 64, 3], dtype=np.uint8))
    noise.save(tmp_path / "jpeg.tif", compression="jpeg")
    clip = read_clip(tmp_path / "jpeg.tif", 64)[0].transpose(1, 2, 0)
    assert np.array_equal(clip, decode_image((tmp_path / "jpeg.tif").read_bytes())) and clip.mean() > 100
    noise.save(tmp_path / "cut.jpg")
    data = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))
    Image.fromarray(np.zeros([16, 16], dtype=np.uint16)).save(tmp_path / "signed.tif", tiffinfo={339: 2})
    noise.save(tmp_path / "pages.tif", save_all=True, append_images=[noise])
    for name, reason in [
        ("cut.jpg", "its end consists of zeros: it was not copied completely"),
        ("signed.tif", "it holds signed values: write them as 8 or 16 bits without a sign"),
        ("pages.tif", "it holds 2 images: write them to files of their own"),
    ]:
        with pytest.raises(dnnlib.UserError) as caught:
            read_clip(tmp_path / name, 16)
        assert str(caught.value) == f"--clip: Cannot read the image '{tmp_path / name}' ({reason}): replace it."


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_is_a_clip_of_all_its_frames(tmp_path, kind):
    images = [Image.new("RGB", (16, 16), (60 * i, 0, 0)) for i in range(4)]
    images[0].save(tmp_path / "a", kind, save_all=True, append_images=images[1:], duration=100)
    assert np.abs(read_clip(tmp_path / "a", 16)[:, 0, 8, 8].astype(int) - [0, 60, 120, 180]).max() < 3


def test_the_square_is_the_centre_or_as_asked_for(tmp_path):
    (tmp_path / "clip").mkdir()
    pixels = np.zeros([4, 8, 3], np.uint8)
    pixels[:, :, 0] = np.arange(8) * 10
    Image.fromarray(pixels).save(tmp_path / "clip" / "0.png")
    assert read_clip(tmp_path / "clip", 4)[0, 0, 0].tolist() == [20, 30, 40, 50]
    assert read_clip(tmp_path / "clip", 4, crop=Crop(rectangle=(4, 0, 4, 4)))[0, 0, 0].tolist() == [40, 50, 60, 70]


def test_boxes_are_those_of_the_frames_that_are_taken(tmp_path):
    (tmp_path / "clip").mkdir()
    ramp = np.zeros([4, 12, 3], np.uint8)
    ramp[:] = 10 * np.arange(12)[:, None]
    for frame in range(5):
        Image.fromarray(ramp).save(tmp_path / "clip" / f"{frame}.png")
    moving = np.array([[frame, 0, frame + 4, 4] for frame in range(5)], dtype=np.float64)
    path = str(tmp_path / "clip")
    boxes = Boxes(by_path={listed_path(path): moving}, digest="", scale=1, smoothing=0)
    clip = read_clip(path, 4, stride=2, crop=Crop(boxes=boxes))
    assert clip[:, 0, 0, 0].tolist() == [0, 20, 40]


def test_frames_beyond_the_limit_are_reported(tmp_path, monkeypatch, capsys):
    write_frames(tmp_path / "clip")
    monkeypatch.setattr(target_clip, "MAX_FRAMES", 3)
    assert len(read_clip(tmp_path / "clip", 4, stride=2)) == 3 and capsys.readouterr().err == ""  # exactly as many
    assert (read_clip(tmp_path / "clip", 4) == read_clip(tmp_path / "clip", 4, frames=3)).all()
    (note,) = capsys.readouterr().err.splitlines()
    assert "clip' has more than 3 frames: the rest is left out; a larger --stride takes frames of all of it." in note


@pytest.mark.parametrize("folder", ["clip", "data/clip"])
def test_times_that_are_not_in_order_are_told(tmp_path, capsys, folder):
    frames = write_frames(tmp_path / folder, count=3)
    for number, name in enumerate(("0.png", "0.105.png", "0.21.png")):
        (frames / f"{number:02d}.png").rename(frames / name)
    clip = read_clip(tmp_path / folder.split("/")[0], 4)
    assert clip[:, 0, 0, 0].tolist() == [20, 10, 0]
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith("--clip: the frames are in the order of the integers in their names, '")
    assert "0.21.png' before '0.105.png': if these are decimal numbers" in note


def test_what_is_no_clip_is_named(tmp_path):
    write_frames(tmp_path / "two" / "a")
    write_frames(tmp_path / "two" / "b")
    uneven = write_frames(tmp_path / "uneven")
    Image.new("RGB", (9, 9)).save(uneven / "02.png")
    damaged = write_frames(tmp_path / "damaged")
    (damaged / "03.png").write_bytes((damaged / "03.png").read_bytes()[:40])
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "text").write_text("no video")
    (tmp_path / "list.txt").write_text("videos/person/clip.mp4\n" * 300)
    movies = tmp_path / "movies"
    movies.mkdir()
    (movies / "x.mp4").write_bytes(b"")
    for name, message, options in [
        ("nothing", "there is no file or folder", {}),
        ("empty", "holds no images", {}),
        ("two", "holds 2 videos: give one of them", {}),
        ("two/a", "has 5 frames, fewer than --frames 6", {"frames": 6}),
        ("two/a", "has 3 frames with --stride 2, fewer", {"frames": 4, "stride": 2}),
        ("two/a", "^--crop: The rectangle 0,0,99,4 is not inside the frames", {"crop": Crop(rectangle=(0, 0, 99, 4))}),
        ("uneven", "frame 2 of .* has 9×9 pixels, those before 20×16", {}),
        ("damaged", "Cannot read the frame .*03.png", {}),
        ("text.mp4", "Cannot decode", {}),
        ("text", "text' is neither a video, a folder nor a zip: give one", {}),
        ("list.txt", "list.txt' is neither a video, a folder nor a zip: give one", {}),
        ("movies", "give one of its videos, e.g. .*x.mp4", {}),
    ]:
        with pytest.raises(dnnlib.UserError, match=message) as caught:
            read_clip(tmp_path / name, 16, **options)
        assert "\n" not in str(caught.value)


def test_the_clip_is_compared_as_it_was_given(generator):
    """Callers may read the next clip into the same memory."""
    settings, reports = FitSettings(samples=4, starts=2, motions=2, keep=1, steps=2, batch=2), []
    for reused in (False, True):
        pixels = np.full((2, 3, 16, 16), 90, np.uint8)
        inversion = Inversion(generator, pixels, times=(0.0, 1.0), settings=settings, seed=0)
        pixels[:] = pixels * (not reused)
        inversion.fit()
        reports.append(inversion.report() | {"seconds": 0})
    assert reports[0] == reports[1]


def test_one_motion_is_enough_where_there_is_none(generator, monkeypatch):
    """With several, all with the same images, the best combinations would be one content, several times."""
    seen = []

    def fit(*_, settings, **others):
        seen.append(settings.motions)
        raise InterruptedError

    monkeypatch.setattr(projector, "fit_clip", fit)
    still = copy.deepcopy(generator)
    still.motion = None
    settings = FitSettings(samples=4, starts=2, motions=4, keep=2, steps=2, batch=2)
    for network in (generator, still):
        inversion = Inversion(network, np.zeros((2, 3, 16, 16), np.uint8), times=(0.0, 1.0), settings=settings, seed=0)
        with pytest.raises(InterruptedError):
            inversion.fit()
    assert seen == [4, 1]
