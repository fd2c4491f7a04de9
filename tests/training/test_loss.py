"""The losses: each phase against its formula, what it reports, and what stays untouched."""

import dataclasses
import math

import pytest
import torch
from torch.nn.functional import softplus

import training.loss
from renderer.cameras import CameraPrior
from tests.goldens.checks import assert_near
from tests.goldens.networks import build_generator, small_discriminators
from tests.goldens.small_losses import PHASES, SPEC, gradients, logits, make_loss, real_batch
from tests.streams import Recorder, Tape
from torch_utils.rng import RandomStream
from training.augment.ada import AdaAugment
from training.inference.video_discriminators import VideoDiscriminators
from training.loss import ONE_PASS, GanLoss, VideoBatch
from training.networks.discriminator import TimeAwareDiscriminators

G_REPORTS = {"Loss/scores/fake", "Loss/signs/fake", "Loss/G/loss", "Loss/G/Iloss", "Loss/G/reg_loss"}
REPORTS = {
    "Gmain": G_REPORTS,
    "Greg": {"Loss/pl_penalty", "Loss/G/reg"},
    "Dmain": {
        "Loss/scores/fake", "Loss/signs/fake", "Loss/scores/real", "Loss/signs/real", "Loss/D/loss", "Loss/D/Iloss",
    },
    "Dreg": {"Loss/scores/real", "Loss/signs/real", "Loss/r1_penalty", "Loss/D/reg"},
}  # fmt: skip


def assert_gradients(module, expected: torch.Tensor, *, of=None, relative=1e-4):
    """The gradients that were accumulated are those of `expected`, by the same module's parameters or a copy's."""
    parameters = dict(module.named_parameters())
    wanted = torch.autograd.grad(expected, list((of or module).parameters()), allow_unused=True)
    largest = max(float(g.abs().max()) for g in wanted if g is not None)
    assert largest > 0
    for parameter, gradient in zip(parameters.values(), wanted):
        zero = torch.zeros_like(parameter)
        actual = zero if parameter.grad is None else parameter.grad
        assert_near(actual, zero if gradient is None else gradient, relative=relative, absolute=1e-6 * largest)


def fake_frames(generator, draws, *, batch=2, **losses):
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
        **losses,
    )
    return ws, output, times[:, 1] - times[:, 0]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"gain": float("nan")}, "gain must be a finite number, got nan."),
        ({"gain": "1"}, "gain must be a finite number, got '1'."),
        ({"phase": "Gmian"}, "phase must be one of Gmain, Greg, Dmain, Dreg, got 'Gmian'."),
        ({"stream": 0}, "stream must be a torch_utils.rng.RandomStream, got 0."),
        ({"batch": torch.zeros(2)}, "batch must be a VideoBatch of frames, dt and c, got Tensor [2]."),
        ({"batch": {"dt": 0}}, "batch must be a VideoBatch of frames, dt and c, got {'dt': 0}."),
        ({"frames": torch.zeros(2, 2, 3, 32, 32, dtype=torch.uint8)}, "frames must be floats, not uint8"),
        ({"frames": torch.zeros(2, 3, 2, 32, 32)}, "frames must be [B, 2, 3, H, W], not [2, 3, 2, 32, 32]"),
        ({"frames": torch.zeros(2, 2, 3, 8, 8)}, "frames must be [B, 2, 3, 16, 16], got [2, 2, 3, 8, 8]."),
        ({"frames": torch.full((2, 2, 3, 16, 16), 255.0)}, "frames must be in [-1, 1], got 255 to 255."),
        ({"dt": torch.tensor([0.2, 7.0])}, "dt must be in [0, 1], as a fraction of a training clip, got 0.2 to 7."),
        ({"dt": torch.tensor([3, 7])}, "dt must be floats in [0, 1], as a fraction of a training clip, got int64."),
        ({"dt": torch.zeros(3)}, "dt must be [B] with B = 2, got [3]."),
        ({"c": torch.zeros(2, 3)}, "c must be [B, 0] with B = 2, got [2, 3]."),
        ({"c": None}, "c must be a tensor [B, 0], got None."),
    ],
)
def test_mistakes(changes, message):
    """They would fail deep inside, or, like a label that nothing reads, not at all."""
    loss, generator, discriminators, _ = make_loss()
    changes = dict(changes)
    phase, stream = changes.pop("phase", "Dmain"), changes.pop("stream", RandomStream(0))
    gain = changes.pop("gain", 1.0)
    batch = changes["batch"] if "batch" in changes else dataclasses.replace(real_batch(), **changes)
    with pytest.raises(ValueError) as error:
        loss.accumulate(phase, batch=batch, gain=gain, stream=stream)
    assert str(error.value) == message
    assert all(p.grad is None for p in [*generator.parameters(), *discriminators.parameters()])


def test_gradients_do_not_depend_on_autocast():
    expected, found = {}, {}
    for results, enabled in ((expected, False), (found, True)):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            for phase in PHASES:
                loss, generator, discriminators, _ = make_loss(augment=AdaAugment(pipeline="bgc"))
                loss.augment.p.fill_(0.8)
                loss.accumulate(phase, batch=real_batch(), gain=1.0, stream=RandomStream(0))
                results |= {(phase, name): x for m in (generator, discriminators) for name, x in gradients(m).items()}
    assert list(found) == list(expected) and all(torch.equal(found[name], expected[name]) for name in expected)


def test_networks_of_different_resolutions():
    discriminators, _ = small_discriminators(2 * SPEC.resolution)
    with pytest.raises(ValueError, match="must have the same resolution, got 16 and 32 pixels"):
        GanLoss(generator=build_generator(SPEC), discriminator=discriminators)


@pytest.mark.parametrize(
    "labels, conditioned_on, camera_condition, message",
    [
        (
            0,
            0,
            True,
            "discriminator must have c_dim=3, the generator's 0 and 3 for the camera (camera_condition), got 0.",
        ),
        (
            2,
            2,
            True,
            "discriminator must have c_dim=5, the generator's 2 and 3 for the camera (camera_condition), got 2.",
        ),
        (0, 3, False, "discriminator must have c_dim=0, the generator's 0, got 3."),
        (2, 0, False, "discriminator must have c_dim=2, the generator's 2, got 0."),
    ],
)
def test_labels_that_the_discriminators_do_not_take(labels, conditioned_on, camera_condition, message):
    """Discriminators without labels would ignore them silently."""
    generator = build_generator(dataclasses.replace(SPEC, c_dim=labels))
    discriminators, _ = small_discriminators(SPEC.resolution, c_dim=conditioned_on)
    options = {"generator": generator, "camera_condition": camera_condition}
    with pytest.raises(ValueError) as error:
        GanLoss(discriminator=discriminators, **options)
    assert str(error.value) == message
    discriminators.__class__ = type("Own", (TimeAwareDiscriminators,), {})  # a user's class may do without
    GanLoss(discriminator=discriminators, **options)


def test_batches_are_whole_groups():
    """Found out halfway through a phase, the message would count the image discriminator's samples."""
    loss, generator, discriminators, _ = make_loss()
    for network in (discriminators.video, discriminators.image):
        network.epilogue.mbstd_group = 4
    for phase in ("Gmain", "Dmain", "Dreg"):
        with pytest.raises(ValueError) as error:
            loss.accumulate(phase, batch=real_batch(3), gain=1.0, stream=RandomStream(0))
        assert str(error.value) == (
            "the batch must be of a multiple of 4 pairs of frames, or of at most 2 (groups of the minibatch standard "
            "deviation, mbstd_group), got 3."
        )
    assert all(p.grad is None for p in [*generator.parameters(), *discriminators.parameters()])
    with pytest.raises(ValueError, match=r"got 3\.$"):
        VideoDiscriminators(discriminators)(real_batch(3).frames, real_batch(3).dt)
    with pytest.raises(ValueError, match=r"of a multiple of 4 pairs of frames, or of at most 2 .* got 6\.$"):
        loss.accumulate("Dreg", batch=real_batch(6), gain=1.0, stream=RandomStream(0))
    for pairs in (1, 2, 4):
        loss.accumulate("Dreg", batch=real_batch(pairs), gain=1.0, stream=RandomStream(0))
    loss.image_weight = 0  # the image discriminator, with twice as many samples, is not used
    with pytest.raises(ValueError, match=r"or of at most 4 .* got 6\.$"):
        loss.accumulate("Dreg", batch=real_batch(6), gain=1.0, stream=RandomStream(0))
    loss.accumulate("Dreg", batch=real_batch(3), gain=1.0, stream=RandomStream(0))
    discriminators.image = None
    with pytest.raises(ValueError, match=r"of a multiple of 4 pairs of frames, or of at most 4 .* got 6\.$"):
        loss.accumulate("Dreg", batch=real_batch(6), gain=1.0, stream=RandomStream(0))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"r1_gamma": -1}, "r1_gamma must be a finite number of at least 0, got -1."),
        ({"r1_gamma": "1"}, "r1_gamma must be a finite number of at least 0, got '1'."),
        ({"path_weight": float("nan")}, "path_weight must be a finite number of at least 0, got nan."),
        ({"pl_decay": 2}, "pl_decay must be a number from 0 to 1, got 2."),
        ({"style_mixing_prob": 2}, "style_mixing_prob must be a number from 0 to 1, got 2."),
        ({"pl_batch_shrink": 0}, "pl_batch_shrink must be a whole number of at least 1, got 0."),
        ({"augment": "bgc"}, "augment must be an AdaAugment or None, got 'bgc'."),
        ({"diffaugment": None}, "diffaugment must be names of operations, or '' for none, got None."),
    ],
)
def test_mistaken_options(options, message):
    loss, generator, discriminators, _ = make_loss()
    with pytest.raises(ValueError) as error:
        GanLoss(generator=generator, discriminator=discriminators, **options)
    assert str(error.value) == message
    with pytest.raises(ValueError, match="^diffaugment: unknown operation 'colour'"):
        GanLoss(generator=generator, discriminator=discriminators, diffaugment="colour")


@pytest.mark.parametrize("phase, frozen", [("Gmain", "generator"), ("Dreg", "discriminator")])
def test_a_phase_without_anything_to_train(phase, frozen):
    """Networks are loaded like that; PyTorch's own error names neither."""
    loss, _, _, _ = make_loss()
    getattr(loss, frozen).requires_grad_(False)
    with pytest.raises(ValueError, match=rf"^{phase} trains the {frozen}, .*: call requires_grad_\(True\)\.$"):
        loss.accumulate(phase, batch=real_batch(), gain=1.0, stream=RandomStream(0))


def test_the_path_length_of_a_generator_whose_mapping_is_frozen():
    """Styles are constants then, and path lengths still depend on the other networks."""
    gradients = []
    for frozen in (False, True):
        loss, generator, _, _ = make_loss()
        generator.mapping.requires_grad_(not frozen)
        loss.accumulate("Greg", batch=real_batch(), gain=1.0, stream=RandomStream(0))
        gradients.append({name: p.grad for name, p in generator.named_parameters() if not name.startswith("mapping")})
        assert all((p.grad is None) == frozen for p in generator.mapping.parameters())
    assert any(gradient is not None and gradient.any() for gradient in gradients[1].values())
    for free, constant in zip(gradients[0].values(), gradients[1].values(), strict=True):
        assert (free is None) == (constant is None)
        if free is not None:
            assert_near(constant, free)


def test_generator_main():
    loss, generator, discriminators, reports = make_loss(diffaugment="", image_weight=0.5, path_weight=3.0)
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


@pytest.mark.parametrize("path_weight", [0.0, 3.0])
def test_the_distortion_loss(path_weight):
    """On the rays of the NeRF-path loss, with that loss and without."""
    loss, generator, discriminators, reports = make_loss(diffaugment="", path_weight=path_weight, distortion_weight=5.0)
    stream = Recorder(0)
    loss.accumulate("Gmain", batch=real_batch(), gain=2.0, stream=stream)
    again = build_generator(SPEC).train()
    _, output, dt = fake_frames(again, stream.draws, path_loss=path_weight > 0, distortion=True)
    assert_near(reports["Loss/G/distortion"], output.distortion)
    assert output.distortion.shape == (2, 2) and (output.distortion > 0).all()
    assert ("Loss/G/reg_loss" in reports) == (output.path_loss is not None) == (path_weight > 0)
    video, image = logits(discriminators, output.image, dt)
    expected = softplus(-video).mean() + softplus(-image).mean() + 5 * output.distortion.mean()
    if path_weight:
        expected = expected + path_weight * output.path_loss.mean()
    assert_gradients(generator, 2 * expected, of=again)


@pytest.mark.parametrize(
    "videos, pixels, passes",
    [
        (2, ONE_PASS, [4, 8]),  # samples of the video and of the image discriminator
        (6, ONE_PASS, [12, 24]),  # of three groups and of six
        (6, 6 * 2 * 16**2 - 1, [6, 12, 6, 12]),
        (1, ONE_PASS, [1, 2, 1, 2]),  # less than a group
    ],
)
def test_discriminator_main(videos, pixels, passes, monkeypatch):
    monkeypatch.setattr(training.loss, "ONE_PASS", pixels)
    loss, generator, discriminators, reports = make_loss(diffaugment="", image_weight=0.5)
    stream, batch, samples = Recorder(0), real_batch(videos), []
    hooks = [
        network.register_forward_hook(lambda network, inputs, result: samples.append(len(result)))
        for network in (discriminators.video, discriminators.image)
    ]
    loss.accumulate("Dmain", batch=batch, gain=1.0, stream=stream)
    assert samples == passes
    for hook in hooks:
        hook.remove()
    assert all(p.grad is None for p in generator.parameters())
    _, output, dt = fake_frames(build_generator(SPEC).train(), stream.draws, batch=videos)
    fake_video, fake_image = logits(discriminators, output.image.detach(), dt)
    real_video, real_image = logits(discriminators, batch.frames, batch.dt)
    video, image = softplus(fake_video) + softplus(-real_video), softplus(fake_image) + softplus(-real_image)
    assert_near(reports["Loss/D/loss"], video)
    assert_near(reports["Loss/D/Iloss"], image)
    assert_near(reports["Loss/signs/real"], real_video.sign())
    assert_gradients(discriminators, video.mean() + 0.5 * image.mean())


def test_labels_and_cameras_stay_with_their_videos_in_one_pass(monkeypatch):
    spec = dataclasses.replace(SPEC, c_dim=2)
    batch = real_batch(4, spec)
    batch.angles = torch.stack([torch.linspace(-0.3, 0.4, 4), torch.linspace(1.4, 1.7, 4)], dim=1)
    found = []
    for pixels in (0, ONE_PASS):
        monkeypatch.setattr(training.loss, "ONE_PASS", pixels)
        discriminators, _ = small_discriminators(spec.resolution, c_dim=5, mbstd_group=2)
        generator = build_generator(spec).train()
        loss = GanLoss(generator=generator, discriminator=discriminators, camera_condition=True)
        loss.accumulate("Dmain", batch=batch, gain=1.0, stream=RandomStream(0))
        found.append(gradients(discriminators))
    separate, together = found
    largest = max(float(g.abs().max()) for g in separate.values())
    for name, gradient in separate.items():
        assert_near(together[name], gradient, relative=1e-4, absolute=1e-6 * largest)
    assert float(separate["video.mapping.embed.weight"].abs().max()) > 0


@pytest.mark.parametrize("part", ["discriminators", "video"])
def test_own_discriminators_judge_generated_and_real_frames_apart(part):
    """Their results may depend on the order of a batch."""
    loss, _, discriminators, _ = make_loss()
    changed = discriminators if part == "discriminators" else discriminators.video
    changed.__class__ = type("Own", (type(changed),), {})
    samples = []
    discriminators.video.register_forward_hook(lambda network, inputs, result: samples.append(len(result)))
    loss.accumulate("Dmain", batch=real_batch(), gain=1.0, stream=RandomStream(0))
    assert samples == [2, 2]


def test_a_discriminator_of_the_users_own_needs_no_network_named_video():
    class Plain(torch.nn.Module):
        resolution, c_dim, image = 16, 0, None

        def __init__(self, name):
            super().__init__()
            self.name = name
            self.add_module(name, torch.nn.Linear(7 * 16**2, 1))

        def video_logits(self, frames, plane, c):
            return getattr(self, self.name)(torch.cat([frames.flatten(1, 2), plane], dim=1).flatten(1))

    found = []
    for name in ("video", "net"):
        torch.manual_seed(0)
        discriminator = Plain(name)
        loss = GanLoss(generator=build_generator(SPEC).train(), discriminator=discriminator)
        for phase in PHASES:
            loss.accumulate(phase, batch=real_batch(), gain=1.0, stream=RandomStream(0))
        found.append([p.grad for p in discriminator.parameters()])
    assert all(torch.equal(own, usual) for own, usual in zip(*found, strict=True))
    assert all(gradient.any() for gradient in found[0])


def test_r1():
    loss, generator, discriminators, reports = make_loss(
        diffaugment="color,translation", r1_gamma=3.0, image_weight=0.5
    )
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


@pytest.mark.parametrize("size, shrink, used", [(4, 2, 2), (2, 2, 1), (1, 2, 1), (8, 4, 2)])
def test_path_lengths(size, shrink, used):
    loss, _, discriminators, reports = make_loss(pl_weight=3.0, pl_decay=0.2, pl_batch_shrink=shrink)
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


@pytest.mark.parametrize("size, used", [(4, 2), (2, 1)])
def test_the_running_mean_of_path_lengths_passes_its_share_of_the_gradient(size, used):
    """penalty = (ℓ − lerp(mean, mean of ℓ, decay))²: the new mean depends on ℓ, in the measured gradients too."""
    loss, generator, _, _ = make_loss(pl_weight=3.0, pl_decay=0.2)
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
        loss, generator, discriminators, _ = make_loss()
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
    loss, generator, discriminators, reports = make_loss()
    discriminators.freeze(2)
    frozen = {name for name, p in discriminators.named_parameters() if not p.requires_grad}
    loss.accumulate(phase, batch=real_batch(), gain=1.0, stream=Recorder(0))
    assert set(reports) == REPORTS[phase] | {"Progress/nonfinite_losses"}
    assert all(value.isfinite().all() for value in reports.values())
    assert frozen == {name for name, p in discriminators.named_parameters() if not p.requires_grad}
    assert not frozen & gradients(discriminators).keys()
    assert bool(gradients(generator)) == (phase[0] == "G")
    assert bool(gradients(discriminators)) == (phase[0] == "D")
    for gradient in (gradients(generator) | gradients(discriminators)).values():
        assert gradient.isfinite().all()


@pytest.mark.parametrize("real", [torch.float32, torch.float64])
@pytest.mark.parametrize("phase", PHASES)
def test_double_precision(phase, real):
    """The same gradients within rounding, for batches of either precision."""
    found = {}
    for dtype in (torch.float32, torch.float64):
        loss, generator, discriminator, _ = make_loss(distortion_weight=0.1)
        generator.to(dtype), discriminator.to(dtype)
        batch = real_batch()
        if dtype == torch.float64:
            batch = VideoBatch(frames=batch.frames.to(real), dt=batch.dt.to(real), c=batch.c.to(real))
        loss.accumulate(phase, batch=batch, gain=2.0, stream=RandomStream(3))
        found[dtype] = gradients(generator if phase.startswith("G") else discriminator)
    largest = max(value.abs().max() for value in found[torch.float64].values())
    for name, value in found[torch.float64].items():
        assert value.dtype == torch.float64
        assert_near(found[torch.float32][name].double(), value, relative=1e-3, absolute=1e-5 * largest)


@pytest.mark.parametrize("phase", PHASES)
def test_bfloat16_parameters(phase):
    """The gradients have the direction of those in float32."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        loss, generator, discriminator, _ = make_loss(distortion_weight=0.1)
        generator.to(dtype), discriminator.to(dtype)
        loss.accumulate(phase, batch=real_batch(), gain=2.0, stream=RandomStream(3))
        found[dtype] = gradients(generator if phase.startswith("G") else discriminator)
    assert {value.dtype for value in found[torch.bfloat16].values()} == {torch.bfloat16}
    exact, rounded = (torch.cat([x.float().flatten() for x in values.values()]) for values in found.values())
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.9


def test_state_of_the_running_mean():
    loss, *_ = make_loss()
    loss.accumulate("Greg", batch=real_batch(), gain=1.0, stream=RandomStream(0))
    state = loss.state_dict()
    other, *_ = make_loss()
    other.load_state_dict(state)
    assert torch.equal(other.pl_mean, loss.pl_mean) and loss.pl_mean > 0
    loss.pl_mean.zero_()
    assert state["pl_mean"] > 0, "a copy"


def test_the_stream_decides_everything():
    results = []
    for _ in range(2):
        loss, generator, *_ = make_loss()
        state = torch.get_rng_state()
        loss.accumulate("Gmain", batch=real_batch(), gain=1.0, stream=RandomStream(7))
        assert torch.equal(torch.get_rng_state(), state), "global randomness is left alone"
        results.append(gradients(generator))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@dataclasses.dataclass
class PosedBatch(VideoBatch):
    """A batch with a further signal."""

    pose: torch.Tensor | None = None


def test_a_batch_copies_all_that_it_holds():
    """CUDA graphs read such a copy: what it left out would stay that of the batch that was recorded."""
    first, second = (PosedBatch(**vars(real_batch(2)), pose=torch.full([2, 6], value)) for value in (1.0, 2.0))
    own = first.clone()
    assert own.pose is not first.pose and torch.equal(own.pose, first.pose) and own.angles is None
    second.dt += 1
    own.copy_(second)
    assert torch.equal(own.pose, second.pose) and torch.equal(own.dt, second.dt)
    assert first.pose.unique().item() == 1 and not torch.equal(first.dt, second.dt)


@pytest.mark.parametrize("phase", ["Gmain", "Dmain"])
def test_losses_that_are_not_finite_are_counted(phase):
    loss, _, discriminators, reports = make_loss()
    discriminators.image.epilogue.out.bias.data.fill_(math.nan)  # of a later term, not of the first one
    loss.accumulate(phase, batch=real_batch(), gain=1.0, stream=RandomStream(0))
    assert reports["Progress/nonfinite_losses"] == 1


def test_streams_and_batches_on_another_device_are_refused():
    loss, *_ = make_loss()
    elsewhere = RandomStream(0)
    elsewhere.device = torch.device("meta")
    with pytest.raises(
        ValueError, match=r"^stream is on meta instead of cpu; make it with RandomStream\(seed, 'cpu'\)\.$"
    ):
        loss.accumulate("Dmain", batch=real_batch(), gain=1.0, stream=elsewhere)
    elsewhere = VideoBatch(
        **{name: value.to("meta") for name, value in vars(real_batch()).items() if value is not None}
    )
    with pytest.raises(ValueError, match=r"is on meta instead of cpu; move it with .to\('cpu'\)"):
        loss.accumulate("Dmain", batch=elsewhere, gain=1.0, stream=RandomStream(0))
