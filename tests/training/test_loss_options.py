"""The losses' options and draws: variants of the networks, absent parts, style mixing, times, augmentation."""

import dataclasses

import pytest
import torch

from tests.goldens.checks import assert_near
from tests.goldens.small_losses import PHASES, SPEC, gradients, logits, make_loss, real_batch
from tests.streams import Recorder, Tape
from torch_utils.rng import RandomStream
from training.loss import sample_times

VARIANTS = {
    "labels": {"c_dim": 3},
    "no motion": {"motion": None},
    "motion of content": {"motion_content": True, "motion": "concat"},
    "raw time": {"motion": None, "time_input": "raw"},
    "masked blend": {"static": "mask"},
    "no background": {"background": False},
    "pixelshuffle": {"upsampling": "pixelshuffle", "view": False},
    "single pass": {"importance": 0},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_phase_of_every_variant(variant):
    spec = dataclasses.replace(SPEC, **VARIANTS[variant])
    loss, generator, discriminators, reports = make_loss(spec)
    for phase in PHASES:
        generator.zero_grad(set_to_none=True)
        discriminators.zero_grad(set_to_none=True)
        loss.accumulate(phase, batch=real_batch(spec=spec), gain=1.0, stream=Recorder(0))
        network = generator if phase[0] == "G" else discriminators
        total = sum(float(g.square().sum()) for g in gradients(network).values())
        assert 0 < total < float("inf"), phase
    assert all(value.isfinite().all() for value in reports.values())


def test_labels_reach_both_networks():
    spec = dataclasses.replace(SPEC, c_dim=3)
    loss, generator, discriminators, reports = make_loss(spec)
    batch, seen = real_batch(spec=spec), []
    for label in range(2):
        batch.c = torch.eye(3)[[label, label]]
        loss.accumulate("Gmain", batch=batch, gain=1.0, stream=RandomStream(0))
        seen.append(reports["Loss/scores/fake"])
    assert not torch.allclose(*seen)
    assert generator.mapping.embed.weight.grad.any()


@pytest.mark.parametrize("phase", PHASES)
def test_without_an_image_discriminator(phase):
    loss, generator, discriminators, reports = make_loss(image=False)
    loss.accumulate(phase, batch=real_batch(), gain=1.0, stream=RandomStream(0))
    network = generator if phase[0] == "G" else discriminators
    assert gradients(network)
    alone, *_, with_no_weight = make_loss(image_weight=0.0)
    alone.accumulate(phase, batch=real_batch(), gain=1.0, stream=RandomStream(0))
    assert reports.keys() == with_no_weight.keys()
    for name in reports.keys() - {"Loss/G/Iloss", "Loss/D/Iloss"}:
        assert_near(reports[name], with_no_weight[name])


def test_without_the_path_loss():
    loss, *_, reports = make_loss(path_weight=0.0)
    stream = Recorder(0)
    loss.accumulate("Gmain", batch=real_batch(), gain=1.0, stream=stream)
    assert "Loss/G/reg_loss" not in reports
    assert "render/path_offset" not in stream.draws


@pytest.mark.parametrize("phase", ["Greg", "Dmain"])
def test_the_path_is_rendered_where_it_is_of_use_only(phase):
    loss, *_ = make_loss()
    stream = Recorder(0)
    loss.accumulate(phase, batch=real_batch(), gain=1.0, stream=stream)
    assert "render/path_offset" not in stream.draws
    assert stream.draws["render/depth"].shape[1] == SPEC.volume**2


def test_augmentation_comes_before_diffaugment():
    """The frames of a pair go through together; the plane of Δt does not."""
    seen = []

    def augment(frames, stream, prefix):
        seen.append((prefix, tuple(frames.shape)))
        return frames * 0

    loss, _, discriminators, reports = make_loss(augment=augment, diffaugment="")
    batch = real_batch()
    loss.accumulate("Dmain", batch=batch, gain=1.0, stream=RandomStream(0))
    assert seen == [("fake/", (2, 2, 3, 16, 16)), ("real/", (2, 2, 3, 16, 16))]
    expected, _ = logits(discriminators, torch.zeros_like(batch.frames), batch.dt)
    assert_near(reports["Loss/scores/real"], expected)
    loss.accumulate("Dreg", batch=batch, gain=1.0, stream=RandomStream(0))
    loss.accumulate("Gmain", batch=batch, gain=1.0, stream=RandomStream(0))
    assert [prefix for prefix, _ in seen[2:]] == ["real/", "fake/"]


# Draws.


def styles(loss, **draws):
    generator = torch.Generator().manual_seed(0)
    z, other = (torch.randn(2, SPEC.z_dim, generator=generator) for _ in range(2))
    tape = Tape({"latents/z": z, "mixing/z": other} | draws)
    return z, other, loss.fake_styles(torch.zeros(2, 0), tape)


@torch.no_grad()
@pytest.mark.parametrize("coin, mixed", [(0.0, True), (0.899, True), (0.901, False)])
@pytest.mark.parametrize("cut", [1, 4, SPEC.num_ws - 1])
def test_style_mixing(cut, coin, mixed):
    loss, generator, *_ = make_loss()
    before = generator.mapping.w_avg.clone()
    z, other, ws = styles(loss, **{"mixing/cut": torch.tensor(cut), "mixing/coin": torch.tensor(coin)})
    first, second = generator.mapping(z), generator.mapping(other)
    assert torch.equal(ws[:, :cut], first[:, :cut])
    assert torch.equal(ws[:, cut:], (second if mixed else first)[:, cut:])
    # Only the first pass counts for the running mean.
    assert_near(generator.mapping.w_avg, 0.995 * before + 0.005 * first[:, 0].mean(dim=0), relative=1e-5)


@torch.no_grad()
def test_cuts_cover_all_layers():
    loss, *_ = make_loss()
    cuts = []
    for seed in range(200):
        stream = Recorder(seed)
        loss.fake_styles(torch.zeros(1, 0), stream)
        cuts.append(int(stream.draws["mixing/cut"]))
    assert set(cuts) == set(range(1, SPEC.num_ws))


@torch.no_grad()
def test_without_style_mixing():
    loss, generator, *_ = make_loss(style_mixing_prob=0.0)
    z, _, ws = styles(loss)
    assert torch.equal(ws, generator.mapping(z))


def test_times_are_sorted_beta_draws():
    times = sample_times(20000, RandomStream(0))
    assert times.shape == (20000, 2)
    assert ((times >= 0) & (times <= 1)).all() and (times[:, 0] <= times[:, 1]).all()
    # Means of Beta(2, 1) and Beta(1, 2) are 2/3 and 1/3; P(t_late < x) = x², P(t_early < x) = 1 − (1 − x)².
    assert float(times.mean()) == pytest.approx(0.5, abs=0.01)
    both_below = float((times[:, 1] < 0.5).double().mean())
    assert both_below == pytest.approx(0.25 * 0.75, abs=0.015)
    recorded = sample_times(2, Tape({"times/a": torch.tensor([0.2, 0.9]), "times/b": torch.tensor([0.4, 0.1])}))
    assert_near(recorded, torch.tensor([[0.2, 0.4], [0.1, 0.9]]))
