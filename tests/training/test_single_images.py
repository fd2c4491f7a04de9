"""Training on single images (nframes=1): fakes are pairs of one moment, like the real ones; clips are not measured."""

import numpy as np
import pytest
import torch

from dnnlib import UserError
from metrics.generated_videos import GeneratedVideos
from run_train import metric_inputs
from tests.goldens.checks import assert_near
from tests.goldens.networks import build_generator
from tests.goldens.small_losses import PHASES, SPEC, gradients, make_loss, real_batch
from tests.streams import Recorder, Tape
from tests.training.tiny import make_loop, make_plan, write_frames
from torch_utils.rng import RandomStream
from training.inference.frame_renderer import FrameRenderer
from training.loss import VideoBatch, sample_single_times, sample_times


def images_as_pairs() -> VideoBatch:
    batch = real_batch()
    return VideoBatch(frames=batch.frames[:, :1].expand(-1, 2, -1, -1, -1), dt=torch.zeros(2), c=batch.c)


@pytest.mark.parametrize("phase", ["Gmain", "Dmain"])
def test_fakes_are_one_picture_twice_with_no_time_between(phase, monkeypatch):
    """Fake inputs of the video discriminator have all that the real pairs have in common."""
    seen = []
    loss, _, discriminators, _ = make_loss(single_images=True)
    forward = type(discriminators.video).forward

    def spy(self, x, c=None):
        if x.shape[1] == 7:
            seen.append(x.detach().clone())
        return forward(self, x, c)

    monkeypatch.setattr(type(discriminators.video), "forward", spy)
    stream = Recorder(0)
    loss.accumulate(phase, batch=images_as_pairs(), gain=1.0, stream=stream)
    assert [len(x) for x in seen] == ([2] if phase == "Gmain" else [4])  # fakes and reals take turns
    for x in seen:
        assert torch.equal(x[:, :3], x[:, 3:6])
        assert torch.equal(x[:, 6], torch.zeros_like(x[:, 6]))
    fakes = seen[0] if phase == "Gmain" else seen[0][::2]
    assert fakes[0, :3].std() > 0 and not torch.equal(fakes[0], fakes[1])
    assert stream.draws["times/moment"].shape == (2, 1) and "times/a" not in stream.draws


def test_fakes_are_in_the_order_of_their_codes_and_cameras():
    loss, generator, _, _ = make_loss(single_images=True)
    ws, stream = generator.mapping(RandomStream(1).normal("", [3, generator.z_dim])), Recorder(0)
    videos, _, cameras = loss.fake_videos(ws, stream)
    codes = {name: stream.draws[f"latents/{name}"] for name in ("z_motion", "z_bg")}
    times, again = stream.draws["times/moment"], build_generator(SPEC).train()
    expected = again.synthesize(ws, **codes, times=times, cameras=cameras, stream=Tape(stream.draws)).image
    assert expected.shape[1] == 1 and not torch.equal(expected[0], expected[1])
    assert_near(videos.image, expected.expand(-1, 2, -1, -1, -1))


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_has_finite_gradients(phase):
    loss, generator, discriminators, reports = make_loss(single_images=True)
    loss.accumulate(phase, batch=images_as_pairs(), gain=1.0, stream=RandomStream(0))
    total = sum(float(g.square().sum()) for g in gradients(generator if phase[0] == "G" else discriminators).values())
    assert 0 < total < float("inf")
    assert all(value.isfinite().all() for value in reports.values())


def test_moments_are_spread_as_the_frames_of_clips_are():
    """Ten quantiles of the moments against those of all times of pairs, which together are uniform."""
    moments = sample_single_times(20000, RandomStream(0)).flatten()
    times = sample_times(20000, RandomStream(1)).flatten()
    assert moments.min() >= 0 and moments.max() < 1
    levels = torch.linspace(0.05, 0.95, 10)
    assert (moments.quantile(levels) - times.quantile(levels)).abs().max() < 0.015
    assert (moments.quantile(levels) - levels).abs().max() < 0.015


def test_folders_of_images_train_and_pass_their_weights_on(tmp_path):
    write_frames(tmp_path / "data", videos=2, frames=7)  # folders that hold images, of no order in time
    loop = make_loop(tmp_path, "nframes=1")
    assert loop.loader is not None and loop.loss.single_images
    batch = loop._next_batch()[0]
    assert torch.equal(batch.frames[:, 0], batch.frames[:, 1]) and not batch.dt.any()
    loop.run()
    described = make_plan(tmp_path, "nframes=1").dataset.describe()
    assert described["num_clips"] == 14 and described["num_short_videos"] == 0
    videos = make_loop(tmp_path, f"resume={loop.folder}")  # nframes=4
    assert not videos.loss.single_images
    trained, started = loop.networks.generator.state_dict(), videos.networks.generator.state_dict()
    assert all(torch.equal(trained[name], started[name]) for name in trained)


def test_a_stride_leaves_images_out_and_is_told(tmp_path):
    write_frames(tmp_path / "data", videos=2, frames=7)
    plan = make_plan(tmp_path, "nframes=1", "frame_stride=4")
    assert plan.dataset.num_clips == 4
    assert any("frame_stride=4 keeps one image in 4" in note for note in plan.notes)
    assert not any("frame_stride" in note for note in make_plan(tmp_path, "nframes=1").notes)


def test_the_times_of_clips_of_two_frames_are_told(tmp_path):
    """Their two values are a mark of real videos; with more frames they are closer to continuous."""
    assert make_plan(tmp_path, "nframes=2").notes == [
        "nframes=2: the time between the frames of a real pair is 0 or 1, by which the discriminator can tell it from "
        "generated ones; longer clips (nframes=16) avoid this."
    ]
    assert make_plan(tmp_path, "nframes=1").notes == make_plan(tmp_path, "nframes=3").notes == []


def test_single_images_are_measured_at_any_moment_and_not_as_clips(tmp_path, monkeypatch):
    loop = make_loop(tmp_path, "nframes=1")
    videos, times = GeneratedVideos(loop.networks.generator_ema, nframes=1), []
    render = FrameRenderer.render

    def remember(self, time, *arguments, **options):
        times.append(float(time))
        return render(self, time, *arguments, **options)

    monkeypatch.setattr(FrameRenderer, "render", remember)
    assert videos.images(count=12).load(range(12)).shape == (12, 3, 1, 16, 16)
    assert len(set(times)) == 12 and np.std(times) > 0.1 and min(times) >= 0 and max(times) < 1
    with pytest.raises(UserError) as error:
        videos.clips(count=2, frames=16)
    assert str(error.value) == (
        "Clips of 16 frames need a frame rate, which single images (nframes=1) do not have. Choose metrics of images "
        "or views, or say with --nframes how many frames span the times 0 to 1."
    )
    assert GeneratedVideos(loop.networks.generator_ema, nframes=4).clips(count=2, frames=16)


@pytest.mark.parametrize("metric", ["rfvd64_16f", "ridentity32_16f"])
def test_metrics_of_clips_are_refused_before_the_start(metric, tmp_path):
    options = make_plan(tmp_path, "nframes=1").options | {"metrics": [metric]}
    with pytest.raises(UserError, match=rf"metrics: {metric} looks at clips of 16 frames"):
        metric_inputs(options)
    assert metric_inputs(options | {"metrics": ["warping32_2v"]})["detectors"] == {}
