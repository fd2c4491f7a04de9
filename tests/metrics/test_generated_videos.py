"""Videos of a generator as one side of an evaluation."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from dnnlib import UserError
from metrics.evaluator import Evaluator
from metrics.generated_videos import GeneratedVideos, draw_labels, quantise, reproject
from metrics.real_videos import choose_windows
from metrics.video_measures import warping_error
from renderer.cameras import CameraPrior, camera_angles
from tests.small_network import small_generator
from tests.training.tiny import OVERRIDES, make_plan, write_frames
from training.data.images import fit_square
from training.inference.frame_renderer import FrameRenderer
from training.launch.build import build_networks
from training.launch.validate import plan


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    return make_plan(tmp_path_factory.mktemp("tiny")).options


@pytest.fixture(scope="module")
def generator(options):
    return build_networks(options, c_dim=0)[0].eval().requires_grad_(False)


@pytest.fixture(scope="module")
def videos(generator):
    return GeneratedVideos(generator, nframes=4)


def test_quantise():
    """x · 127.5 + 128, clamped and truncated."""
    x = torch.tensor([-2, -1, -1 + 0.49 / 127.5, -1 + 0.51 / 127.5, 0, 0.999, 1, 5, math.nan])
    assert quantise(x).tolist() == [0, 0, 0, 1, 128, 255, 255, 255, 128]


def test_clips_are_those_of_the_generator(generator, videos, monkeypatch):
    """The same codes, camera and times through `synthesize` give the same pixels."""
    seen = {}

    def remember(generator, ws, *, z_motion, z_bg):
        seen.update(ws=ws, z_motion=z_motion, z_bg=z_bg)
        return FrameRenderer(generator, ws, z_motion=z_motion, z_bg=z_bg)

    def sample(n, stream):
        seen["camera"] = type(generator.camera_prior).sample(generator.camera_prior, n, stream)
        return seen["camera"]

    monkeypatch.setattr("metrics.generated_videos.FrameRenderer", remember)
    monkeypatch.setattr(generator.camera_prior, "sample", sample)
    clip = videos.clips(count=10, frames=4).load([7])
    assert clip.shape == (1, 3, 4, 16, 16) and clip.dtype == torch.uint8
    codes = {name: seen[name] for name in ("z_motion", "z_bg")}
    with torch.no_grad():
        output = generator.synthesize(seen["ws"], **codes, times=torch.linspace(0, 1, 4)[None], cameras=seen["camera"])
    expected = quantise(output.image).transpose(1, 2)
    assert (clip.int() - expected.int()).abs().max() <= 1  # rounding of another order of sums
    assert (clip != expected).float().mean() < 0.01


@pytest.mark.parametrize("dtype, levels", [(torch.float64, 1), (torch.float16, 40)])
def test_generators_of_other_types(generator, videos, dtype, levels):
    """As `load_generator(…, dtype=…)` loads them; half precision rounds cameras and points, too."""
    others = GeneratedVideos(copy.deepcopy(generator).to(dtype), nframes=4)
    for samples, expected in (
        (others.clips(count=2, frames=3), videos.clips(count=2, frames=3)),
        (others.images(count=2), videos.images(count=2)),
        (others.views(count=2, views=2), videos.views(count=2, views=2)),
    ):
        difference = samples.load([1]).int() - expected.load([1]).int()
        assert difference.abs().max() <= levels
    pairs, expected = others.pairs(count=2).load([1]), videos.pairs(count=2).load([1])
    assert {value.dtype for value in vars(pairs).values() if isinstance(value, torch.Tensor)} == {torch.float32}
    if dtype == torch.float64:
        torch.testing.assert_close(pairs.depths, expected.depths, rtol=0, atol=1e-4)
        torch.testing.assert_close(pairs.grids, expected.grids, rtol=0, atol=1e-3)


def test_pairs_have_the_resolution_of_the_generator(generator):
    double = GeneratedVideos(generator, resolution=2 * generator.resolution)
    assert double.images(count=1).describe()["resolution"] == 2 * generator.resolution
    assert double.pairs(count=1).describe()["resolution"] == generator.resolution
    assert double.pairs(count=1).load([0]).images.shape[-1] == generator.resolution


def test_any_batch_gives_the_same_videos(videos):
    for clips in (videos.clips(count=6, frames=3), videos.images(count=6), videos.views(count=6, views=5)):
        together = clips.load(range(6))
        assert torch.equal(torch.cat([clips.load([i]) for i in range(6)]), together)
        assert torch.equal(clips.load([4, 1]), together[[4, 1]])
        assert len({clip.numpy().tobytes() for clip in together}) == 6  # no two alike
    pairs = videos.pairs(count=3)
    torch.testing.assert_close(pairs.load([2]).depths[0], pairs.load([0, 1, 2]).depths[2], rtol=0, atol=0)


def test_latents_are_normal(generator, videos, monkeypatch):
    drawn = {"z": [], "z_motion": [], "z_bg": []}
    styles = torch.zeros(1, generator.num_ws, 8)
    monkeypatch.setattr(generator.mapping, "forward", lambda z, c: drawn["z"].append(z) or styles)

    def renderer(generator, ws, *, z_motion, z_bg):
        drawn["z_motion"].append(z_motion)
        drawn["z_bg"].append(z_bg)

    monkeypatch.setattr("metrics.generated_videos.FrameRenderer", renderer)
    cameras = []
    for index in range(400):
        cameras.append(videos._renderer_of([index])[1])
    for values in drawn.values():
        values = torch.cat(values)
        assert abs(float(values.mean())) < 0.1 and abs(float(values.std()) - 1) < 0.06
    positions = torch.cat([camera.cam2world[:, :3, 3] for camera in cameras])
    yaw = torch.atan2(positions[:, 1], positions[:, 0])
    assert float(yaw.std()) == pytest.approx(generator.camera_prior.yaw[1], rel=0.15)
    assert not torch.equal(torch.cat(drawn["z"])[:, :4], torch.cat(drawn["z_motion"])[:, :4])


def times_of(videos, generator, monkeypatch, get):
    """The times at which a sample is rendered."""
    times = []

    class Remembering:
        ws = torch.zeros(1)

        def render(self, time, cameras):
            times.append(time if isinstance(time, float) else time.tolist())
            return torch.zeros(len(cameras), 3, 16, 16)

    monkeypatch.setattr("metrics.generated_videos.FrameRenderer", lambda *args, **kwargs: Remembering())
    get(videos)
    return times


def test_times(generator, monkeypatch):
    videos = GeneratedVideos(generator, nframes=16)
    times = times_of(videos, generator, monkeypatch, lambda v: v.clips(count=2, frames=16).load([0]))
    np.testing.assert_allclose(times, np.linspace(0, 1, 16))
    times = times_of(videos, generator, monkeypatch, lambda v: v.clips(count=2, frames=32).load([0]))
    np.testing.assert_allclose(times, np.arange(32) / 15)  # at the same frame rate, beyond the training's clips
    times = times_of(videos, generator, monkeypatch, lambda v: v.clips(count=2, frames=128, subsample=8).load([0]))
    np.testing.assert_allclose(times, np.arange(0, 128, 8) / 15)
    times = times_of(videos, generator, monkeypatch, lambda v: v.images(count=300).load(range(300)))
    steps = np.array(times).ravel() * 15
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-5)
    assert set(np.rint(steps)) == set(range(16))


def test_another_resolution(generator, videos):
    small = GeneratedVideos(generator, nframes=4, resolution=8).clips(count=1, frames=1).load([0])
    large = videos.clips(count=1, frames=1).load([0])
    expected = fit_square(Image.fromarray(large[0, :, 0].permute(1, 2, 0).numpy()), 8)
    assert np.array_equal(small[0, :, 0].numpy(), expected)


def test_views_show_one_moment_from_the_whole_range(generator, videos, monkeypatch):
    cameras = []
    original = generator.camera_prior.at
    monkeypatch.setattr(generator.camera_prior, "at", lambda **kwargs: cameras.append(kwargs) or original(**kwargs))
    clips = videos.views(count=2, views=5)
    assert clips.load([0, 1]).shape == (2, 3, 5, 16, 16)
    assert [camera["yaw"] for camera in cameras[:5]] == [0, 0.25, 0.5, 0.75, 1]


def test_views_look_at_the_middle_of_a_clip_from_the_same_height(generator, monkeypatch):
    seen = []

    class Remembering:
        def render(self, time, cameras):
            seen.append((time, camera_angles(cameras)[:, 1]))
            return torch.zeros(len(cameras), 3, 16, 16)

    monkeypatch.setattr("metrics.generated_videos.FrameRenderer", lambda *args, **kwargs: Remembering())
    GeneratedVideos(generator, nframes=4).views(count=2, views=5).load([0])
    middle = sum(generator.camera_prior.pitch) / 2
    assert [time for time, _ in seen] == [0.5] * 5
    assert torch.cat([pitch for _, pitch in seen]).tolist() == pytest.approx([middle] * 5, abs=1e-6)


def test_pairs_agree_with_their_cameras(generator, videos):
    """Points lie at their depth in front of their own camera, and `expected` is their depth seen from the other one."""
    pairs = videos.pairs(count=2).load([0, 1])
    assert pairs.images.shape == (2, 2, 3, 16, 16) and 0 <= pairs.images.min() <= pairs.images.max() <= 1
    assert pairs.thickness == pytest.approx(generator.settings.far - generator.settings.near)
    cameras = [generator.camera_prior.at(yaw=fraction) for fraction in (0.4, 0.6)]
    for own in range(2):
        for depths, camera in ((pairs.depths, cameras[own]), (pairs.expected, cameras[1 - own])):
            axis, position = -camera.cam2world[0, :3, 2], camera.cam2world[0, :3, 3]
            depth = (pairs.points[:, own] - position) @ axis
            torch.testing.assert_close(depth, depths[:, own], atol=1e-5, rtol=1e-5)
    found = warping_error(
        pairs.images, pairs.grids, pairs.depths, pairs.expected, pairs.opacities, tolerance=pairs.thickness
    )
    assert found.shape == (2, 3)
    surface, settings = pairs.opacities > 0.5, generator.settings
    assert surface.any() and pairs.opacities[surface].min() < 0.9  # or the division by the opacity would not matter
    assert settings.near < pairs.depths[surface].min() and pairs.depths[surface].max() < settings.far
    for own in range(2):
        grid, _ = reproject(pairs.points[:, own], cameras[1 - own])
        torch.testing.assert_close(pairs.grids[:, own], grid)


@pytest.mark.parametrize(
    "name, what", [("warping32_2v", "The warping error"), ("ridentity32_5v", "The similarity of views")]
)
def test_cameras_with_one_yaw_have_one_view(name, what):
    """Whatever the geometry, the same view agrees with itself."""
    generator = small_generator(foreground={"density_bias": 8}, camera={"yaw": [0.2, 0.2]})
    evaluator = Evaluator(fake=GeneratedVideos(generator), replicates=0)
    with pytest.raises(UserError) as error:
        evaluator.evaluate(name)
    assert str(error.value) == (
        f"{what} compares views from different yaws, and all cameras have the same one (model.generator.camera.yaw); "
        "choose metrics of single views or of clips, e.g. flatness32_1v."
    )
    assert 0 <= evaluator.evaluate("flatness32_1v")["value"] <= 1


def test_pairs_without_a_background(options):
    model = {**options["model"], "generator": {**options["model"]["generator"], "background": None}}
    generator = build_networks({**options, "model": model}, c_dim=0)[0].eval().requires_grad_(False)
    pairs = GeneratedVideos(generator).pairs(count=1).load([0])
    assert torch.equal(pairs.opacities, torch.ones(1, 2, 16, 16))
    settings = generator.settings
    assert settings.near < pairs.depths.min() and pairs.depths.max() < settings.far


def test_labels(tmp_path):
    data = write_frames(tmp_path / "data")
    classes = [0, 1, 1, 1, 2]
    text = ", ".join(f'["split/video_{v}", {c}]' for v, c in enumerate(classes))
    (data / "dataset.json").write_text(f'{{"labels": [{text}]}}')
    label = draw_labels(data)
    drawn = np.array([label(i).argmax() for i in range(400)])
    assert np.bincount(drawn) / 400 == pytest.approx([0.2, 0.6, 0.2], abs=0.07)
    assert all(np.array_equal(label(i), label(i)) and label(i).sum() == 1 for i in range(3))
    options = plan([f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, "cond=true"]).options
    generator = build_networks(options, c_dim=3)[0].eval().requires_grad_(False)
    assert GeneratedVideos(generator, label=label).clips(count=1, frames=1).load([0]).shape == (1, 3, 1, 16, 16)
    with pytest.raises(UserError) as error:
        GeneratedVideos(generator)
    assert str(error.value) == (
        'The generator needs labels of 3 entries: give label=draw_labels("clips"), those of a dataset, or a function '
        "of a video's index."
    )
    with pytest.raises(UserError, match=r"^The generator needs labels of 2 entries; those of the data have 3\.$"):
        GeneratedVideos(small_generator(c_dim=2), label=label)


def test_labels_of_a_function_of_ones_own():
    generator = small_generator(c_dim=3)

    def clips(label):
        return GeneratedVideos(generator, nframes=2, label=label).clips(count=3, frames=1).load(range(3))

    expected = clips(lambda i: np.eye(3, dtype=np.float32)[i % 3])
    for label in (
        lambda i: torch.eye(3)[i % 3],
        lambda i: torch.eye(3, dtype=torch.float64)[i % 3],
        lambda i: [float(i % 3 == c) for c in range(3)],
        lambda i: i % 3,
        lambda i: np.int64(i % 3),
        lambda i: torch.tensor(i % 3),
    ):
        assert torch.equal(clips(label), expected)
    needs = "this generator needs the number of a class, 0 to 2"
    for label, message in (
        (lambda i: 3, f"label(0): {needs}."),
        (lambda i: None, f"label(0): {needs}."),
        (lambda i: torch.zeros(2), f"label(0): {needs}, or a label of 3 numbers."),
        (lambda i: torch.eye(3)[:1], "label(0): it must be one class, or the numbers of one label, got Tensor [1, 3]."),
        (lambda i: "a", "label(0): it must be a whole number, got 'a'."),
    ):
        with pytest.raises(UserError) as error:
            GeneratedVideos(generator, label=label)
        assert str(error.value) == message
    later = GeneratedVideos(generator, label=lambda i: i).clips(count=4, frames=1)
    with pytest.raises(UserError, match=r"^label\(3\): this generator needs the number of a class, 0 to 2\.$"):
        later.load([3])


def test_a_label_without_need():
    with pytest.raises(UserError) as error:
        GeneratedVideos(small_generator(), label=lambda i: i)
    assert str(error.value) == "The generator was trained without labels: leave label= out."


ARGUMENTS = [
    ({"nframes": "16"}, "nframes must be a whole number of at least 1, got '16'."),
    ({"nframes": None}, "nframes must be a whole number of at least 1, got None."),
    ({"resolution": 0}, "resolution must be a whole number of at least 1, got 0."),
    ({"label": [0, 1]}, "label must be a function of a video's index, got [0, 1]."),
]


@pytest.mark.parametrize("arguments, message", ARGUMENTS)
def test_arguments(arguments, message):
    with pytest.raises(ValueError) as error:
        GeneratedVideos(small_generator(), **arguments)
    assert str(error.value) == message


@pytest.mark.parametrize("content", [None, '{"cameras": []}', '{"labels": [["split/video_0", 1]]}'])
def test_data_without_labels(tmp_path, content):
    data = write_frames(tmp_path / "data")
    if content is not None:
        (data / "dataset.json").write_text(content)
    advice = r"r give real videos with labels \(--real\), which this generator needs\.$"
    with pytest.raises(UserError, match=advice) as error:
        draw_labels(data)
    assert "train" not in str(error.value).replace(str(tmp_path), "")


def test_clips_have_the_labels_of_the_real_clips(tmp_path):
    """Long videos have most of the frames, but not most of the clips that generated ones are compared with."""
    lengths = [2, 2, 2, 12]
    for v, length in enumerate(lengths):
        (tmp_path / f"a/{v}").mkdir(parents=True)
        for frame in range(length):
            Image.new("RGB", (8, 8)).save(tmp_path / f"a/{v}/{frame}.png")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [[f"a/{v}", int(v == 3)] for v in range(4)]}))
    label = draw_labels(tmp_path)
    assert sum(label(i)[1] for i in range(300)) / 300 == pytest.approx(12 / 18, abs=0.08)
    windows = choose_windows(lengths, window=2, count=4)
    drawn = [label.of_clips(count=4, frames=2)(i).argmax() for i in range(8)]
    assert drawn == [int(video == 3) for video, _ in windows] * 2 and sum(drawn) == 2
    assert label.of_clips(count=4, frames=13) is label  # no video is as long

    generator = small_generator(c_dim=2)
    clips, same = (
        GeneratedVideos(generator, nframes=2, label=given).clips(count=4, frames=2).load(range(4))
        for given in (label, label.of_clips(count=4, frames=2))
    )
    assert torch.equal(clips, same)


def test_description_and_key(videos):
    clips = videos.clips(count=3, frames=4)
    assert len(clips) == 3 and clips.key() is None
    about = {"from": "generator", "seed": 42, "resolution": 16, "nframes": 4}
    assert clips.describe() == about | {"last_time": 1.0, "labelled": False}
    labelled = GeneratedVideos(small_generator(c_dim=2), nframes=4, label=lambda index: 0).images(count=1)
    assert labelled.describe() == about | {"resolution": 32, "labelled": True}


class TablePrior(CameraPrior):
    """Cameras from a table of yaws."""

    def __init__(self, yaws):
        super().__init__()
        self.tables = [yaws]

    def sample(self, n, stream):
        index = (stream.uniform("camera/entry", [n]) * len(self.tables[0])).long()
        return self.at_angles(self.tables[0][index], math.pi / 2)


def test_a_digest_has_the_class_of_the_prior_and_all_its_numbers():
    """Features of the generator are computed anew when it changes."""
    generator, yaws = small_generator(), torch.linspace(-0.5, 0.5, 5000)
    videos, digests = GeneratedVideos(generator), []
    for prior in (CameraPrior(), type("Other", (CameraPrior,), {})(), TablePrior(yaws), TablePrior(yaws.numpy())):
        generator.camera_prior = prior
        digests.append(videos.digest())
    assert digests[2] == digests[3] and len(set(digests)) == 3
    generator.camera_prior = TablePrior(yaws)
    assert videos.digest() == digests[2]
    yaws[2500] += 0.01
    assert videos.digest() not in digests


def test_generators_have_no_complete_set_of_frames(videos):
    evaluator = Evaluator(fake=videos, real=videos, device="cpu")
    with pytest.raises(UserError, match="^A generator has no complete set of frames to compare with: give videos in"):
        evaluator.check(["fid1k_full"])
