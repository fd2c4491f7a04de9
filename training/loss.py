"""Losses of the four training phases: Gmain, Greg, Dmain, Dreg.

Non-saturating logistic GAN loss with R1 (Mescheder et al. 2018) and path length regularisation (StyleGAN2, section
3.2), for a video and an image discriminator, plus StyleNeRF's NeRF-path regularisation.

Every random number of a phase comes from the stream that the caller passes, each kind under its own name.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import softplus
from torch.nn.utils.parametrize import type_before_parametrizations

from renderer.cameras import MAX_ANGLE, CameraPrior, Cameras, camera_angles
from torch_utils.argument_checks import (
    check_images,
    check_network,
    check_number,
    check_range,
    check_stream,
    check_tensors,
    shown,
    whole_number,
)
from torch_utils.custom_ops import no_weight_gradients, transformed
from training.augment.diffaugment import diffaugment, parse_policy
from training.networks.discriminator import (
    Discriminator,
    DiscriminatorEpilogue,
    TimeAwareDiscriminators,
    check_groups,
    check_pairs,
    time_plane,
)
from training.networks.generator import Generator, SynthesisOutput
from training.networks.mixed_precision import half_precision

if TYPE_CHECKING:
    from torch_utils.rng import RandomStream
    from torch_utils.training_stats import Statistics
    from training.augment.ada import AdaAugment, AdaFeedback

__all__ = ["CAMERA_LABEL", "GanLoss", "VideoBatch", "camera_label", "sample_single_times", "sample_times"]


# Losses along rays, as `Generator.synthesize` returns them: the name of their weight, and of their report.
ALONG_RAYS = {
    "path_loss": ("path_weight", "G/reg_loss"),  # NeRF-path regularisation (StyleNeRF, section 3)
    "distortion": ("distortion_weight", "G/distortion"),  # mip-NeRF 360, equation 15
}
ONE_PASS = 2**15  # pixels of the real frames up to which Dmain takes them together with the generated ones

# Camera conditioning of the discriminators (EG3D, Chan et al. 2022), with `camera_condition=true`.
#
# Without it a flat picture of a turned head, seen from the front, passes for a head seen from the side, because the
# discriminator does not know where the camera was. Cameras of real videos come from the dataset, those of generated
# ones are sampled from the prior as always. The generator is not conditioned on them: its videos must suit every
# camera.

CAMERA_LABEL = 3  # entries of a camera's label


def camera_label(angles: torch.Tensor, prior: CameraPrior) -> torch.Tensor:
    """Camera labels [B, 3]: one, then yaw and pitch relative to the middle of the prior, in units of its half range.

    The mapping network normalises the length of its input, so the angles need a constant beside them. EG3D's label, the
    camera matrix, would hardly vary over a narrow prior.

    Args:
        angles: Yaw and pitch [B, 2] in radians, also off by whole turns, or with a pitch beyond 0 to pi.

    Raises:
        ValueError: On a CPU, angles of more than two turns, which are degrees.
    """
    check_angles(angles)
    yaw, pitch = angles.unbind(1)
    # Beyond a pole a camera is at the opposite yaw, as `camera_angles` gives it.
    pitch = torch.remainder(pitch, 2 * math.pi)
    beyond = pitch > math.pi
    yaw, pitch = torch.where(beyond, yaw + math.pi, yaw), torch.where(beyond, 2 * math.pi - pitch, pitch)
    label = [torch.ones_like(yaw)]
    for value, (low, high) in zip((yaw, pitch), (prior.yaw, prior.pitch)):
        half = (high - low) / 2 or 1.0  # a fixed angle: the difference from it in radians
        difference = value - (low + high) / 2
        label.append(torch.remainder(difference + math.pi, 2 * math.pi).sub(math.pi) / half)  # wrapped to [-pi, pi)
    return torch.stack(label, dim=1)


def check_angles(angles: torch.Tensor) -> None:
    """Refuse degrees, which would be wrapped like radians; values are read on a CPU only."""
    limit = MAX_ANGLE * (1 + 1e-6)  # rounded to float32
    if not transformed():
        check_range("angles", angles, -limit, limit, "in radians")


@dataclasses.dataclass
class VideoBatch:
    """Pairs of real frames.

    Attributes:
        frames: [B, 2, 3, H, W] in [-1, 1], the earlier one first.
        dt: Time between them [B] in [0, 1], as a fraction of the clip.
        c: Labels [B, c_dim].
        angles: Yaw and pitch of their cameras [B, 2] in radians, if the discriminators are conditioned on them.
    """

    frames: torch.Tensor
    dt: torch.Tensor
    c: torch.Tensor
    angles: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.frames)

    def clone(self) -> "VideoBatch":
        """A copy with its own memory."""
        return dataclasses.replace(self, **{name: value.clone() for name, value in self._tensors().items()})

    def copy_(self, other: "VideoBatch") -> None:
        """Take over the values of a batch of the same shapes."""
        for name, value in self._tensors().items():
            value.copy_(getattr(other, name))

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {name: value for name, value in vars(self).items() if value is not None}


def sample_times(batch: int, stream: "RandomStream") -> torch.Tensor:
    """Two sorted times per video [B, 2], one from Beta(2, 1) and one from Beta(1, 2) (DIGAN, section 3.3)."""
    late, early = stream.beta("times/a", 2, 1, [batch]), stream.beta("times/b", 1, 2, [batch])
    return torch.stack([late, early], dim=1).sort(dim=1).values


def sample_single_times(batch: int, stream: "RandomStream") -> torch.Tensor:
    """One uniform time per video [B, 1] in [0, 1): the distribution of one of the two `sample_times`, at random."""
    return stream.uniform("times/moment", [batch, 1])


class GanLoss:
    """The GAN loss with its regularisers; `accumulate` adds the gradients of one phase.

    Args:
        generator, discriminator: The networks, whose parameters receive the gradients.
        augment: ADA pipeline (`AdaAugment`), or None.
        diffaugment: Policy of differentiable augmentation; '' for none.
        r1_gamma: Weight of the R1 penalty.
        pl_weight, pl_decay, pl_batch_shrink: Weight of the path length regularisation, decay of the running mean of
            the path lengths, and the factor by which its batch is smaller.
        style_mixing_prob: Probability of mixing two styles.
        image_weight, path_weight, distortion_weight: Weights of the image discriminator's loss, of the NeRF-path loss
            and of the distortion loss.
        bfloat16: The main phases use it, the others float32; see `training.networks.mixed_precision`.
        camera_condition: Condition the discriminators on `camera_label`, appended to the labels.
        single_images: Real pairs are single images, each shown twice, with Δt = 0 (clips of one frame). Fakes are then
            made in the same way, at a random time: otherwise Δt alone would tell them from the real ones.
        statistics: Object with `report(name, tensor)`, or None.

    Attributes:
        pl_mean: Running mean of the path lengths.

    Raises:
        ValueError: Arguments that are not networks, networks of different resolutions or labels, or a value out of its
            range.
    """

    # Names: bound methods would be a reference cycle, in which the networks of a finished training stay in memory.
    _PHASES = {
        "Gmain": "_generator_main",
        "Greg": "_generator_regularisation",
        "Dmain": "_discriminator_main",
        "Dreg": "_discriminator_regularisation",
    }

    def __init__(
        self,
        *,
        generator: Generator,
        discriminator: TimeAwareDiscriminators,
        augment: "AdaAugment | None" = None,
        diffaugment: str = "color,translation",
        r1_gamma: float = 0.5,
        pl_weight: float = 2.0,
        pl_decay: float = 0.01,
        pl_batch_shrink: int = 2,
        style_mixing_prob: float = 0.9,
        image_weight: float = 1.0,
        path_weight: float = 1.0,
        distortion_weight: float = 0.0,
        bfloat16: bool = False,
        camera_condition: bool = False,
        single_images: bool = False,
        statistics: "Statistics | AdaFeedback | None" = None,
    ):
        check_network("generator", generator, "synthesize")
        check_network("discriminator", discriminator, "video_logits", such_as="D.network")
        size = getattr(discriminator, "resolution", generator.resolution)  # a user's class may lack it
        if size != generator.resolution:
            sizes = f"{generator.resolution} and {size}"
            raise ValueError(f"generator and discriminator must have the same resolution, got {sizes} pixels.")
        labels = generator.c_dim + (CAMERA_LABEL if camera_condition else 0)
        own = type_before_parametrizations(discriminator) is not TimeAwareDiscriminators  # may leave out labels
        given = labels if own else discriminator.c_dim
        if given != labels:
            raise ValueError(
                f"discriminator must have c_dim={labels}, the generator's {generator.c_dim}"
                f"{f' and {CAMERA_LABEL} for the camera (camera_condition)' if camera_condition else ''}, got {given}."
            )
        if augment is not None and not callable(augment):
            raise ValueError(f"augment must be an AdaAugment or None, got {shown(augment)}.")
        parse_policy(diffaugment)
        weights = {
            "r1_gamma": r1_gamma, "pl_weight": pl_weight, "image_weight": image_weight, "path_weight": path_weight,
            "distortion_weight": distortion_weight,
        }  # fmt: skip
        for name, value in weights.items():
            check_number(name, value, 0, inclusive=True)
        for name, value in (("pl_decay", pl_decay), ("style_mixing_prob", style_mixing_prob)):
            check_number(name, value, 0, 1, inclusive=True)
        whole_number("pl_batch_shrink", pl_batch_shrink, low=1)
        self.generator, self.discriminator = generator, discriminator
        self.augment, self.diffaugment = augment, diffaugment
        self.r1_gamma = r1_gamma
        self.pl_weight, self.pl_decay, self.pl_batch_shrink = pl_weight, pl_decay, pl_batch_shrink
        self.style_mixing_prob = style_mixing_prob
        self.image_weight, self.path_weight = image_weight, path_weight
        self.distortion_weight = distortion_weight
        self.bfloat16 = bfloat16
        self.camera_condition = camera_condition
        self.single_images = single_images
        self.statistics = statistics
        self.pl_mean = torch.zeros([], device=next(generator.parameters()).device)

    def accumulate(self, phase: str, *, batch: VideoBatch, gain: float, stream: "RandomStream") -> None:
        """Add `gain` times the gradients of a phase ('Gmain', 'Greg', 'Dmain' or 'Dreg') to the parameters' `.grad`.

        Phases of the generator use the batch's labels and size only.

        Args:
            batch: Of a multiple of the discriminators' `mbstd_group` videos, the group size of the minibatch standard
                deviation, or of at most half as many. The phase Greg takes any number.
            stream: Source of all random numbers, a `torch_utils.rng.RandomStream` on the networks' device.

        Raises:
            ValueError: There is no such phase, no parameter of its network requires gradients, the batch does not fit
                the networks, or `stream` or `gain` has the wrong type.
        """
        self._check(phase, batch, stream)
        check_number("gain", gain)
        # In the generator's phases gradients only pass through the discriminators.
        with contextlib.ExitStack() as stack:
            for kind in ("cpu", "cuda"):  # networks choose their own precision
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            if phase.startswith("G"):
                stack.enter_context(_frozen(self.discriminator))
            if self.bfloat16:
                dtype = torch.bfloat16 if phase in ("Gmain", "Dmain") else torch.float32
                stack.enter_context(half_precision(dtype, self.generator, self.discriminator))
            loss = getattr(self, self._PHASES[phase])(batch, stream, gain)
        if self.statistics is not None:
            self.statistics.report("Progress/nonfinite_losses", (~loss.isfinite()).sum())

    def _check(self, phase: str, batch: VideoBatch, stream: "RandomStream") -> None:
        """Refuse inputs that would broadcast to an unintended loss, or fail deep inside a network."""
        if phase not in self._PHASES:
            raise ValueError(f"phase must be one of {', '.join(self._PHASES)}, got {shown(phase)}.")
        trained = "generator" if phase.startswith("G") else "discriminator"
        if not any(parameter.requires_grad for parameter in getattr(self, trained).parameters()):
            raise ValueError(
                f"{phase} trains the {trained}, whose parameters require no gradients: call requires_grad_(True)."
            )
        if not hasattr(batch, "frames"):
            raise ValueError(f"batch must be a VideoBatch of frames, dt and c, got {shown(batch)}.")
        check_images("frames", batch.frames, "[B, 2, 3, H, W]", ndim=5, channels=3)
        size = self.generator.resolution
        shapes = {
            "frames": (batch.frames, ("B", 2, 3, size, size)),
            "dt": (batch.dt, ("B",)),
            "c": (batch.c, ("B", self.generator.c_dim)),
        }
        device = next(self.generator.parameters()).device
        check_tensors(shapes | ({"angles": (batch.angles, ("B", 2))} if self.camera_condition else {}), device=device)
        check_stream(stream, device=device)
        check_pairs(batch.frames, batch.dt)
        if self.camera_condition:
            assert batch.angles is not None  # see check_tensors
            check_angles(batch.angles)
        if phase != "Greg":  # the only one without discriminators
            check_groups(self.discriminator, len(batch), image=self._uses_D_image)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What a training state keeps of the loss: `pl_mean`, a scalar."""
        return {"pl_mean": self.pl_mean.clone()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over the result of `state_dict`."""
        self.pl_mean.copy_(state["pl_mean"])

    # Forward passes of the generator and of the discriminators.

    def fake_styles(self, c: torch.Tensor, stream: "RandomStream") -> torch.Tensor:
        """Styles [B, num_ws, w_dim] of random content codes, with style mixing (StyleGAN, section 3.1)."""
        generator, batch = self.generator, len(c)
        ws = generator.mapping(stream.normal("latents/z", [batch, generator.z_dim]), c, update_w_avg=True)
        if self.style_mixing_prob > 0:
            cutoff = stream.integers("mixing/cut", 1, generator.num_ws, [])
            coin = stream.uniform("mixing/coin", [])
            other = generator.mapping(stream.normal("mixing/z", [batch, generator.z_dim]), c)
            # Decided on the device, so that the host does not wait for the random numbers.
            mixed = (torch.arange(generator.num_ws, device=ws.device) >= cutoff) & (coin < self.style_mixing_prob)
            ws = torch.where(mixed[:, None], other, ws)
        return ws

    def fake_videos(
        self, ws: torch.Tensor, stream: "RandomStream", **losses: bool
    ) -> tuple[SynthesisOutput, torch.Tensor, Cameras]:
        """Two-frame videos of random motion, camera and background for given styles.

        Args:
            losses: Those of ALONG_RAYS to compute; see `Generator.synthesize`.

        Returns:
            The videos, the time between their frames [B], and their cameras.
        """
        generator, batch = self.generator, len(ws)
        times = sample_single_times(batch, stream) if self.single_images else sample_times(batch, stream)
        z_motion = stream.normal("latents/z_motion", [batch, generator.motion_dim])
        cameras = generator.camera_prior.sample(batch, stream)
        z_bg = stream.normal("latents/z_bg", [batch, generator.background_dim])
        dtype = next(generator.parameters()).dtype  # draws are float32
        z_motion, z_bg, times = z_motion.to(dtype), z_bg.to(dtype), times.to(dtype)
        output = generator.synthesize(
            ws, z_motion=z_motion, z_bg=z_bg, times=times, cameras=cameras, stream=stream, **losses
        )
        if self.single_images:  # the same pixels twice, like the real ones; two renderings would differ in noise
            output.image = output.image.expand(-1, 2, -1, -1, -1)
        return output, times[:, -1] - times[:, 0], cameras

    def discriminator_label(self, c: torch.Tensor, angles: torch.Tensor | None) -> torch.Tensor:
        """The discriminators' label: c [B, c_dim], followed by the camera's label with `camera_condition`."""
        if not self.camera_condition:
            return c
        assert angles is not None  # see _check
        return torch.cat([c, camera_label(angles, self.generator.camera_prior).to(c.dtype)], dim=1)

    @property
    def _uses_D_image(self) -> bool:
        return self.discriminator.image is not None and self.image_weight != 0

    def _augmented(self, frames: torch.Tensor, stream: "RandomStream", prefix: str) -> torch.Tensor:
        """Frames [B, 2, 3, H, W] after ADA and DiffAugment, the same for both frames of a video."""
        if self.augment is not None:
            frames = self.augment(frames, stream, prefix=prefix)
        if self.diffaugment:
            frames = diffaugment(frames, self.diffaugment, stream, prefix=prefix)
        return frames

    def _report(self, name: str, value: torch.Tensor) -> None:
        if self.statistics is not None:
            self.statistics.report(f"Loss/{name}", value.detach())

    def _report_losses(self, name: str, losses: torch.Tensor) -> torch.Tensor:
        """Report the losses and return them."""
        self._report(name, losses)
        return losses

    def _report_logits(self, kind: str, logits: torch.Tensor) -> None:
        self._report(f"scores/{kind}", logits)
        self._report(f"signs/{kind}", logits.detach().sign())

    # Phases. Each adds its gradients and returns its loss, detached. A loss is a sum of terms, whose gradients are
    # added one after another: only one discriminator's activations for one kind of frames are kept at a time (of small
    # frames for both kinds).

    def _generator_main(self, batch: VideoBatch, stream: "RandomStream", gain: float) -> torch.Tensor:
        """Gmain: maximise the logits of generated videos, softplus(-D(G(z))), plus the losses along rays."""
        # Generate and augment.
        ws = self.fake_styles(batch.c, stream)
        weights = {name: getattr(self, weight) for name, (weight, _) in ALONG_RAYS.items()}
        fake, dt, cameras = self.fake_videos(ws, stream, **{name: True for name, w in weights.items() if w > 0})
        frames = self._augmented(fake.image, stream, "fake/")
        label = self.discriminator_label(batch.c, camera_angles(cameras))

        # Backward passes through the discriminators end at these detached frames, where their gradients add up.
        fake_frames = frames.detach().requires_grad_(True)

        # Video discriminator: pairs of frames and the time between them.
        logits = self.discriminator.video_logits(fake_frames, time_plane(frames, dt), label)
        loss = _add_gradients(self._report_losses("G/loss", softplus(-logits)).mean(), gain)
        self._report_logits("fake", logits)

        # Image discriminator: single frames.
        if self._uses_D_image:
            image_losses = self._report_losses(
                "G/Iloss", softplus(-self.discriminator.image_logits(fake_frames, label))
            )
            loss = loss + _add_gradients(self.image_weight * image_losses.mean(), gain)

        # One backward pass through the generator, together with the losses along rays.
        terms = []
        for name, (_, report) in ALONG_RAYS.items():
            losses = getattr(fake, name)
            if losses is not None:
                terms.append(weights[name] * self._report_losses(report, losses).mean())
        if not terms:
            frames.backward(fake_frames.grad)
            return loss
        along_rays = _sum(terms)
        torch.autograd.backward([frames, along_rays * gain], [fake_frames.grad, None])
        return loss + along_rays.detach()

    def _generator_regularisation(self, batch: VideoBatch, stream: "RandomStream", gain: float) -> torch.Tensor:
        """Greg: path length regularisation (StyleGAN2, section 3.2), E[(|Jᵀ y|₂ - a)²] with a the mean length.

        A length belongs to a video: y is noise on the pixels of all its frames, J their derivative with respect to ws.
        """
        # Generate a smaller batch: the second derivatives need more memory.
        size = max(len(batch) // self.pl_batch_shrink, 1)
        ws = self.fake_styles(batch.c[:size], stream)
        ws = ws if ws.requires_grad else ws.requires_grad_()  # where the mapping network is not trained
        fake, _, _ = self.fake_videos(ws, stream)

        # Jᵀ y is the gradient of the inner product of image and noise. Noise of standard deviation 1 / √(H W) keeps
        # lengths comparable across resolutions.
        noise = stream.normal("path_length/noise", fake.image.shape) / math.sqrt(math.prod(fake.image.shape[-2:]))
        (gradient,) = torch.autograd.grad((fake.image * noise).sum(), ws, create_graph=True)
        lengths = gradient.square().sum(dim=2).mean(dim=1).sqrt()

        # Running mean a of the lengths. As in the published code, gradients pass through it as well, which makes them
        # smaller by the fraction `pl_decay`.
        pl_mean = self.pl_mean.to(lengths.dtype).lerp(lengths.mean(), self.pl_decay)
        self.pl_mean.copy_(pl_mean.detach())
        penalty = self._report_losses("pl_penalty", (lengths - pl_mean).square())
        return _add_gradients(self._report_losses("G/reg", penalty * self.pl_weight).mean(), gain)

    def _discriminator_main(self, batch: VideoBatch, stream: "RandomStream", gain: float) -> torch.Tensor:
        """Dmain: minimise the logits of generated videos and maximise those of real ones."""
        # Generate without gradients; augment fakes and reals alike.
        with torch.no_grad():
            fake, fake_dt, cameras = self.fake_videos(self.fake_styles(batch.c, stream), stream)
            fake_frames = self._augmented(fake.image, stream, "fake/")
            real_frames = self._augmented(batch.frames, stream, "real/")

        # softplus(D(fake)) and softplus(-D(real)), for each discriminator: both kinds in one pass, or in two.
        kinds = (
            ("fake", 1, fake_frames, fake_dt, self.discriminator_label(batch.c, camera_angles(cameras))),
            ("real", -1, real_frames, batch.dt, self.discriminator_label(batch.c, batch.angles)),
        )
        terms, video_losses, image_losses = [], [], []
        for passed in [kinds] if self._in_one_pass(batch) else [[kind] for kind in kinds]:
            names, signs, *inputs = zip(*passed)
            frames, dt, label = (_interleaved(x) for x in inputs)
            logits = self.discriminator.video_logits(frames, time_plane(frames, dt), label)
            by_kind = _separated(logits, len(passed))
            for name, of_kind in zip(names, by_kind):
                self._report_logits(name, of_kind)
            losses = [softplus(sign * of_kind) for sign, of_kind in zip(signs, by_kind)]
            video_losses += [x.detach() for x in losses]
            terms.append(_add_gradients(_sum([x.mean() for x in losses]), gain))

            if self._uses_D_image:
                logits = self.discriminator.image_logits(frames, label)
                by_kind = _separated(logits, len(passed), each=frames.shape[1])
                losses = [softplus(sign * of_kind) for sign, of_kind in zip(signs, by_kind)]
                image_losses += [x.detach() for x in losses]
                terms.append(_add_gradients(self.image_weight * _sum([x.mean() for x in losses]), gain))

        self._report("D/loss", _sum(video_losses))
        if image_losses:
            self._report("D/Iloss", _sum(image_losses))
        return _sum(terms)

    def _in_one_pass(self, batch: VideoBatch) -> bool:
        """True if Dmain passes generated and real frames through the discriminators together.

        For small frames that is faster; for large ones it would double the memory. Results are the same because
        `_interleaved` keeps groups apart, but only whole ones, and only those of our own discriminators.
        """
        if type_before_parametrizations(self.discriminator) is not TimeAwareDiscriminators:
            return False
        parts = [part for part in (self.discriminator.video, self.discriminator.image) if part is not None]
        return (
            all(type_before_parametrizations(part) is Discriminator for part in parts)
            and all(type_before_parametrizations(part.epilogue) is DiscriminatorEpilogue for part in parts)
            and all(len(batch) % part.epilogue.mbstd_group == 0 for part in parts)
            and batch.frames[:, :, 0].numel() <= ONE_PASS
        )

    def _discriminator_regularisation(self, batch: VideoBatch, stream: "RandomStream", gain: float) -> torch.Tensor:
        """Dreg: R1 on real videos, γ/2 · E[|∇D(x)|²] (Mescheder et al. 2018).

        The gradient is taken with respect to the video discriminator's input before augmentation, Δt plane included,
        and with respect to the image discriminator's augmented frames.
        """
        frames, plane = batch.frames.detach().requires_grad_(True), time_plane(batch.frames, batch.dt)
        plane.requires_grad_(True)
        augmented = self._augmented(frames, stream, "real/")
        label = self.discriminator_label(batch.c, batch.angles)

        # Video discriminator. The first backward pass needs the gradients of its inputs only, not of the weights.
        logits = self.discriminator.video_logits(augmented, plane, label)
        self._report_logits("real", logits)
        with no_weight_gradients():
            gradients = torch.autograd.grad(logits.sum(), [frames, plane], create_graph=True)
        penalty = self._report_losses("r1_penalty", torch.add(*(g.square().flatten(1).sum(dim=1) for g in gradients)))
        losses = self._report_losses("D/reg", penalty * (self.r1_gamma / 2))
        loss = _add_gradients(losses.mean(), gain)

        # Image discriminator.
        if self._uses_D_image:
            real_frames = augmented.detach().requires_grad_(True)
            logits = self.discriminator.image_logits(real_frames, label)
            with no_weight_gradients():
                (gradient,) = torch.autograd.grad(logits.sum(), real_frames, create_graph=True)
            penalty = gradient.flatten(0, 1).square().sum(dim=[1, 2, 3])
            loss = loss + _add_gradients(self.image_weight * penalty.mean() * (self.r1_gamma / 2), gain)
        return loss


def _sum(terms: Sequence[torch.Tensor]) -> torch.Tensor:
    return functools.reduce(torch.add, terms)


def _interleaved(batches: Sequence[torch.Tensor]) -> torch.Tensor:
    """One batch [N · B, …] of N batches [B, …], whose samples take turns.

    In this order every group of the minibatch standard deviation consists of samples of one batch, the same as before
    (`minibatch_std`): sample i of B in group i mod m becomes sample N i + k in group (N i + k) mod (N m).
    """
    return batches[0] if len(batches) == 1 else torch.stack(list(batches), dim=1).flatten(0, 1)


def _separated(batch: torch.Tensor, count: int, *, each: int = 1) -> list[torch.Tensor]:
    """The `count` batches [B · each, …] of an interleaved one, with `each` results per sample."""
    if count == 1:
        return [batch]
    return [x.flatten(0, 1) for x in batch.unflatten(0, (-1, count, each)).unbind(1)]


def _add_gradients(loss: torch.Tensor, gain: float) -> torch.Tensor:
    """Add the gradients of `gain` times the loss and free its graph; returns the loss, detached."""
    loss.mul(gain).backward()
    return loss.detach()


@contextlib.contextmanager
def _frozen(module: torch.nn.Module) -> Iterator[None]:
    """Context in which a module's parameters require no gradients."""
    trained = [p for p in module.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)
