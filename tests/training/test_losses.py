"""The losses: each phase against its formula, draws and their use, options, what stays untouched."""

import dataclasses

import pytest
import torch
from torch.nn.functional import softplus

from renderer.cameras import CameraPrior
from tests.goldens.checks import assert_near
from tests.goldens.networks import SMALL, build_generator, small_discriminators
from tests.tape import Tape
from torch_utils.random_stream import RandomStream
from training.losses import GanLoss, VideoBatch, draw_times

SPEC = dataclasses.replace(SMALL, resolution=16)
PHASES = ["Gmain", "Greg", "Dmain", "Dreg"]
G_REPORTS = {"Loss/scores/fake", "Loss/signs/fake", "Loss/G/loss", "Loss/G/Iloss", "Loss/G/reg_loss"}
REPORTS = {
    "Gmain": G_REPORTS,
    "Greg": {"Loss/pl_penalty", "Loss/G/reg"},
    "Dmain": {
        "Loss/scores/fake", "Loss/signs/fake", "Loss/scores/real", "Loss/signs/real", "Loss/D/loss", "Loss/D/Iloss",
    },
    "Dreg": {"Loss/scores/real", "Loss/signs/real", "Loss/r1_penalty", "Loss/D/reg"},
}  # fmt: skip


class Recorder(RandomStream):
    """Remembers its draws."""

    def __init__(self, seed):
        super().__init__(seed)
        self.draws = {}

    def _keep(self, name, value):
        assert name not in self.draws, f"{name} was drawn twice"
        self.draws[name] = value
        return value

    def uniform(self, name, shape):
        return self._keep(name, super().uniform(name, shape))

    def normal(self, name, shape):
        return self._keep(name, super().normal(name, shape))

    def integers(self, name, low, high, shape):
        return self._keep(name, super().integers(name, low, high, shape))

    def beta(self, name, a, b, shape):
        value = RandomStream(hash_of(name)).beta(name, a, b, shape)
        return self._keep(name, value)


def hash_of(name):
    return sum(map(ord, name))


class Reports(dict):
    def report(self, name, value):
        assert not value.requires_grad
        self[name] = value.clone()


def make(spec=SPEC, *, image=True, **arguments):
    generator = build_generator(spec).train()
    discriminators, _ = small_discriminators(spec.resolution, c_dim=spec.c_dim, mbstd_group=2)
    if not image:
        discriminators.image = None
    reports = Reports()
    loss = GanLoss(generator=generator, discriminator=discriminators, statistics=reports, **arguments)
    return loss, generator, discriminators, reports


def real_batch(size=2, spec=SPEC, seed=0):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.rand(size, 2, 3, spec.resolution, spec.resolution, generator=generator) * 2 - 1
    c = torch.eye(max(spec.c_dim, 1))[torch.arange(size) % max(spec.c_dim, 1)][:, : spec.c_dim]
    return VideoBatch(frames=frames, dt=torch.linspace(0.2, 0.9, size), c=c)


def gradients(module):
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def assert_gradients(module, expected: torch.Tensor, *, relative=1e-4):
    """The gradients that were accumulated are those of `expected`."""
    parameters = dict(module.named_parameters())
    wanted = torch.autograd.grad(expected, list(parameters.values()), allow_unused=True)
    largest = max(float(g.abs().max()) for g in wanted if g is not None)
    assert largest > 0
    for parameter, gradient in zip(parameters.values(), wanted):
        zero = torch.zeros_like(parameter)
        actual = zero if parameter.grad is None else parameter.grad
        assert_near(actual, zero if gradient is None else gradient, relative=relative, absolute=1e-6 * largest)


def fake_frames(generator, draws, *, batch=2, path_loss=False):
    """The fake videos that belong to recorded draws, and the times between their frames."""
    ws = generator.mapping(draws["latents/z"])
    other = generator.mapping(draws["mixing/z"])
    cut = int(draws["mixing/cut"])
    if draws["mixing/coin"] < 0.9:
        ws = torch.cat([ws[:, :cut], other[:, cut:]], dim=1)
    times = torch.stack([draws["times/a"], draws["times/b"]], dim=1)
    times = torch.stack([times.amin(dim=1), times.amax(dim=1)], dim=1)
    output = generator.synthesize(
        ws,
        z_motion=draws["latents/z_motion"],
        z_bg=draws["latents/z_bg"],
        times=times,
        cameras=CameraPrior().sample(batch, Tape(draws)),
        stream=Tape(draws),
        path_loss=path_loss,
    )
    return ws, output, times[:, 1] - times[:, 0]


def logits(discriminators, frames, dt):
    """Of both discriminators for frames [B, 2, 3, H, W]."""
    plane = dt[:, None, None, None].expand(-1, 1, *frames.shape[-2:])
    video = torch.cat([frames[:, 0], frames[:, 1], plane], dim=1)
    return discriminators.video(video), discriminators.image(frames.flatten(0, 1))


def test_generator_main():
    loss, generator, discriminators, reports = make(diffaugment="", image_weight=0.5, path_weight=3.0)
    stream = Recorder(0)
    loss.accumulate("Gmain", batch=real_batch(), gain=1.0, stream=stream)
    again = build_generator(SPEC).train()
    _, output, dt = fake_frames(again, stream.draws, path_loss=True)
    video, image = logits(discriminators, output.image, dt)
    expected = softplus(-video).mean() + 0.5 * softplus(-image).mean() + 3 * output.path_loss.mean()
    assert_near(reports["Loss/scores/fake"], video)
    assert_near(reports["Loss/G/Iloss"], softplus(-image))
    assert_near(reports["Loss/G/reg_loss"], output.path_loss)
    assert all(p.grad is None for p in discriminators.parameters())
    wanted = torch.autograd.grad(expected, list(again.parameters()))
    for (name, p), gradient in zip(generator.named_parameters(), wanted):
        assert gradient.any(), name
        assert_near(p.grad, gradient, relative=1e-4)


def test_discriminator_main():
    loss, generator, discriminators, reports = make(diffaugment="", image_weight=0.5)
    stream, batch = Recorder(0), real_batch()
    loss.accumulate("Dmain", batch=batch, gain=1.0, stream=stream)
    assert all(p.grad is None for p in generator.parameters())
    _, output, dt = fake_frames(build_generator(SPEC).train(), stream.draws)
    fake_video, fake_image = logits(discriminators, output.image.detach(), dt)
    real_video, real_image = logits(discriminators, batch.frames, batch.dt)
    video, image = softplus(fake_video) + softplus(-real_video), softplus(fake_image) + softplus(-real_image)
    assert_near(reports["Loss/D/loss"], video)
    assert_near(reports["Loss/D/Iloss"], image)
    assert_near(reports["Loss/signs/real"], real_video.sign())
    assert_gradients(discriminators, video.mean() + 0.5 * image.mean())


def test_r1():
    loss, generator, discriminators, reports = make(diffaugment="color,translation", r1_gamma=3.0, image_weight=0.5)
    stream, batch = Recorder(0), real_batch()
    loss.accumulate("Dreg", batch=batch, gain=1.0, stream=stream)
    assert all(p.grad is None for p in generator.parameters())
    plane = batch.dt[:, None, None, None].expand(2, 1, 16, 16)
    pair = torch.cat([batch.frames.flatten(1, 2), plane], dim=1).requires_grad_()
    augmented = loss._augmented(pair[:, :6].unflatten(1, (2, 3)), Tape(stream.draws), "real/")
    video = discriminators.video(torch.cat([augmented.flatten(1, 2), pair[:, 6:]], dim=1))
    image = discriminators.image(augmented.flatten(0, 1))
    (of_pair,) = torch.autograd.grad(video.sum(), pair, create_graph=True)
    (of_frames,) = torch.autograd.grad(image.sum(), augmented, create_graph=True)
    per_video = of_pair.square().sum(dim=(1, 2, 3))
    per_frame = of_frames.square().sum(dim=(2, 3, 4)).flatten()
    assert of_pair[:, 6].any(), "the plane of Δt is part of the input"
    assert_near(reports["Loss/r1_penalty"], per_video)
    assert_near(reports["Loss/D/reg"], 1.5 * per_video)
    assert_gradients(discriminators, 1.5 * (per_video.mean() + 0.5 * per_frame.mean()))


def path_lengths(generator, draws, batch):
    ws, output, _ = fake_frames(generator, draws, batch=batch)
    noise = draws["path_length/noise"] / 16  # √(H·W)
    (gradient,) = torch.autograd.grad((output.image * noise).sum(), ws, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


@pytest.mark.parametrize("size, used", [(4, 2), (2, 1), (1, 1)])
def test_path_lengths(size, used):
    loss, _, discriminators, reports = make(pl_weight=3.0, pl_decay=0.2)
    loss.pl_mean.fill_(0.7)
    stream = Recorder(0)
    loss.accumulate("Greg", batch=real_batch(size), gain=1.0, stream=stream)
    lengths = path_lengths(build_generator(SPEC).train(), stream.draws, used)
    mean = 0.8 * 0.7 + 0.2 * lengths.mean()
    assert lengths.shape == (used,)
    assert_near(loss.pl_mean, mean, relative=1e-4)
    assert_near(reports["Loss/pl_penalty"], (lengths - mean).square(), relative=1e-3)
    assert_near(reports["Loss/G/reg"], 3 * (lengths - mean).square(), relative=1e-3)
    assert all(p.grad is None for p in discriminators.parameters())
    assert not loss.pl_mean.requires_grad


@pytest.mark.xfail(strict=True, reason="the running mean is treated as a constant")
@pytest.mark.parametrize("size, used", [(4, 2), (2, 1)])
def test_the_running_mean_of_path_lengths_passes_its_share_of_the_gradient(size, used):
    """penalty = (ℓ − lerp(mean, mean of ℓ, decay))²: the new mean depends on ℓ, in the measured gradients too."""
    loss, generator, _, _ = make(pl_weight=3.0, pl_decay=0.2)
    loss.pl_mean.fill_(0.7)
    stream = Recorder(0)
    loss.accumulate("Greg", batch=real_batch(size), gain=1.0, stream=stream)
    again = build_generator(SPEC).train()
    lengths = path_lengths(again, stream.draws, used)
    penalty = 3 * (lengths - (0.8 * 0.7 + 0.2 * lengths.mean())).square().mean()
    wanted = torch.autograd.grad(penalty, list(again.parameters()), allow_unused=True)
    largest = max(float(g.abs().max()) for g in wanted if g is not None)
    for p, gradient in zip(generator.parameters(), wanted):
        zero = torch.zeros_like(p)
        actual = zero if p.grad is None else p.grad
        assert_near(actual, zero if gradient is None else gradient, relative=1e-3, absolute=1e-5 * largest)


@pytest.mark.parametrize("phase", PHASES)
def test_gain_and_accumulation(phase):
    def run(*gains):
        loss, generator, discriminators, _ = make()
        for gain in gains:
            loss.pl_mean.zero_()
            generator.load_state_dict(build_generator(SPEC).state_dict())
            loss.accumulate(phase, batch=real_batch(), gain=gain, stream=RandomStream(0))
        return gradients(generator) | gradients(discriminators)

    once, thrice, twice = run(1.0), run(3.0), run(1.0, 2.0)
    assert once.keys() == thrice.keys() == twice.keys()
    for name, gradient in once.items():
        scale = max(float(g.abs().max()) for g in once.values())
        assert_near(thrice[name], 3 * gradient, relative=1e-3, absolute=1e-5 * scale)
        assert_near(twice[name], 3 * gradient, relative=1e-3, absolute=1e-5 * scale)


@pytest.mark.parametrize("phase", PHASES)
def test_reports_and_gradient_flags(phase):
    loss, generator, discriminators, reports = make()
    discriminators.freeze(2)
    frozen = {name for name, p in discriminators.named_parameters() if not p.requires_grad}
    loss.accumulate(phase, batch=real_batch(), gain=1.0, stream=Recorder(0))
    assert set(reports) == REPORTS[phase]
    assert all(value.isfinite().all() for value in reports.values())
    assert frozen == {name for name, p in discriminators.named_parameters() if not p.requires_grad}
    assert not frozen & gradients(discriminators).keys()
    assert bool(gradients(generator)) == (phase[0] == "G")
    assert bool(gradients(discriminators)) == (phase[0] == "D")
    for gradient in (gradients(generator) | gradients(discriminators)).values():
        assert gradient.isfinite().all()


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
    loss, generator, discriminators, reports = make(spec)
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
    loss, generator, discriminators, reports = make(spec)
    batch, seen = real_batch(spec=spec), []
    for label in range(2):
        batch.c = torch.eye(3)[[label, label]]
        loss.accumulate("Gmain", batch=batch, gain=1.0, stream=RandomStream(0))
        seen.append(reports["Loss/scores/fake"])
    assert not torch.allclose(*seen)
    assert generator.mapping.embed.weight.grad.any()


@pytest.mark.parametrize("phase", PHASES)
def test_without_an_image_discriminator(phase):
    loss, generator, discriminators, reports = make(image=False)
    loss.accumulate(phase, batch=real_batch(), gain=1.0, stream=RandomStream(0))
    network = generator if phase[0] == "G" else discriminators
    assert gradients(network)
    alone, *_, with_no_weight = make(image_weight=0.0)
    alone.accumulate(phase, batch=real_batch(), gain=1.0, stream=RandomStream(0))
    for name in REPORTS[phase] - {"Loss/G/Iloss", "Loss/D/Iloss"}:
        assert_near(reports[name], with_no_weight[name])


def test_without_the_path_loss():
    loss, *_, reports = make(path_weight=0.0)
    stream = Recorder(0)
    loss.accumulate("Gmain", batch=real_batch(), gain=1.0, stream=stream)
    assert "Loss/G/reg_loss" not in reports
    assert "render/path_offset" not in stream.draws


@pytest.mark.parametrize("phase", ["Greg", "Dmain"])
def test_the_path_is_rendered_where_it_is_of_use_only(phase):
    loss, *_ = make()
    stream = Recorder(0)
    loss.accumulate(phase, batch=real_batch(), gain=1.0, stream=stream)
    assert "render/path_offset" not in stream.draws
    assert stream.draws["render/depth"].shape[1] == SPEC.volume**2


def styles(loss, **draws):
    generator = torch.Generator().manual_seed(0)
    z, other = (torch.randn(2, SPEC.z_dim, generator=generator) for _ in range(2))
    tape = Tape({"latents/z": z, "mixing/z": other} | draws)
    return z, other, loss.fake_styles(torch.zeros(2, 0), tape)


@torch.no_grad()
@pytest.mark.parametrize("coin, mixed", [(0.0, True), (0.899, True), (0.901, False)])
@pytest.mark.parametrize("cut", [1, 4, SPEC.num_ws - 1])
def test_style_mixing(cut, coin, mixed):
    loss, generator, *_ = make()
    before = generator.mapping.w_avg.clone()
    z, other, ws = styles(loss, **{"mixing/cut": torch.tensor(cut), "mixing/coin": torch.tensor(coin)})
    first, second = generator.mapping(z), generator.mapping(other)
    assert torch.equal(ws[:, :cut], first[:, :cut])
    assert torch.equal(ws[:, cut:], (second if mixed else first)[:, cut:])
    # Only the first pass counts for the running mean.
    assert_near(generator.mapping.w_avg, 0.995 * before + 0.005 * first[:, 0].mean(dim=0), relative=1e-5)


@torch.no_grad()
def test_cuts_cover_all_layers():
    loss, *_ = make()
    cuts = []
    for seed in range(200):
        stream = Recorder(seed)
        loss.fake_styles(torch.zeros(1, 0), stream)
        cuts.append(int(stream.draws["mixing/cut"]))
    assert set(cuts) == set(range(1, SPEC.num_ws))


@torch.no_grad()
def test_without_style_mixing():
    loss, generator, *_ = make(style_mixing_prob=0.0)
    z, _, ws = styles(loss)
    assert torch.equal(ws, generator.mapping(z))


def test_times_are_sorted_beta_draws():
    times = draw_times(20000, RandomStream(0))
    assert times.shape == (20000, 2)
    assert ((times >= 0) & (times <= 1)).all() and (times[:, 0] <= times[:, 1]).all()
    # Means of Beta(2, 1) and Beta(1, 2) are 2/3 and 1/3; P(t_late < x) = x², P(t_early < x) = 1 − (1 − x)².
    assert float(times.mean()) == pytest.approx(0.5, abs=0.01)
    both_below = float((times[:, 1] < 0.5).double().mean())
    assert both_below == pytest.approx(0.25 * 0.75, abs=0.015)
    recorded = draw_times(2, Tape({"times/a": torch.tensor([0.2, 0.9]), "times/b": torch.tensor([0.4, 0.1])}))
    assert_near(recorded, torch.tensor([[0.2, 0.4], [0.1, 0.9]]))


def test_augmentation_comes_before_diffaugment():
    """The frames of a pair go through together; the plane of Δt does not."""
    seen = []

    def augment(frames, stream, prefix):
        seen.append((prefix, tuple(frames.shape)))
        return frames * 0

    loss, _, discriminators, reports = make(augment=augment, diffaugment="")
    batch = real_batch()
    loss.accumulate("Dmain", batch=batch, gain=1.0, stream=RandomStream(0))
    assert seen == [("fake/", (2, 2, 3, 16, 16)), ("real/", (2, 2, 3, 16, 16))]
    expected, _ = logits(discriminators, torch.zeros_like(batch.frames), batch.dt)
    assert_near(reports["Loss/scores/real"], expected)
    loss.accumulate("Dreg", batch=batch, gain=1.0, stream=RandomStream(0))
    loss.accumulate("Gmain", batch=batch, gain=1.0, stream=RandomStream(0))
    assert [prefix for prefix, _ in seen[2:]] == ["real/", "fake/"]


def test_state_of_the_running_mean():
    loss, *_ = make()
    loss.accumulate("Greg", batch=real_batch(), gain=1.0, stream=RandomStream(0))
    state = loss.state_dict()
    other, *_ = make()
    other.load_state_dict(state)
    assert torch.equal(other.pl_mean, loss.pl_mean) and loss.pl_mean > 0
    loss.pl_mean.zero_()
    assert state["pl_mean"] > 0, "a copy"


def test_the_stream_decides_everything():
    results = []
    for _ in range(2):
        loss, generator, *_ = make()
        state = torch.get_rng_state()
        loss.accumulate("Gmain", batch=real_batch(), gain=1.0, stream=RandomStream(7))
        assert torch.equal(torch.get_rng_state(), state), "global randomness is left alone"
        results.append(gradients(generator))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
