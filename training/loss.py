"""Losses of the four training phases, and the fake samples they need.

Non-saturating logistic GAN loss with R1 (Mescheder et al. 2018) and path length regularisation (StyleGAN2, section
3.2), for a video and an image discriminator, plus StyleNeRF's NeRF-path regularisation.

Every random draw of a phase comes from the stream the caller passes, under a name of its own.
"""

import contextlib
import dataclasses
import math

import torch
from torch.nn.functional import softplus

from renderer.cameras import CameraPrior, Cameras, camera_angles
from torch_utils.ops.weight_gradients import no_weight_gradients
from training.augment.diffaugment import diffaugment
from training.networks.discriminator import TimeAwareDiscriminators, time_plane
from training.networks.generator import Generator, SynthesisOutput
from training.networks.mixed_precision import bfloat16_on_cpu

__all__ = ["CAMERA_LABEL", "GanLoss", "VideoBatch", "camera_label", "draw_moments", "draw_times"]


# ----------------------------------------------------------------------------------------------------------------------
# What the discriminators are told of a video's camera, with `camera_condition=true`.
#
# Without it, a picture on a plane passes for a head if only it is painted as turned: nobody can say that the camera was
# in front. Discriminators that are given the camera can, as in EG3D (Chan et al., 2022). Cameras of real videos come
# from the data set, those of generated ones are drawn from the prior as always. The generator is not told: what it
# makes must suit every camera.


CAMERA_LABEL = 3  # numbers in a camera's label


def camera_label(angles: torch.Tensor, prior: CameraPrior) -> torch.Tensor:
    """Labels [B, 3]: one, then yaw and pitch from the middle of the prior in units of its half ranges.

    The network that reads them normalises its input's length, so the angles need a constant beside them; and over a
    narrow prior the entries of the camera's matrix, EG3D's label, would hardly differ.

    Args:
        angles: Yaw and pitch [B, 2] in radians. Yaw may be off by whole turns.
    """
    label = [torch.ones_like(angles[:, 0])]
    for value, (low, high) in zip(angles.unbind(1), (prior.yaw, prior.pitch)):
        half = (high - low) / 2 or 1.0  # a fixed angle: whatever differs from it is told in radians
        turned = value - (low + high) / 2
        label.append(torch.remainder(turned + math.pi, 2 * math.pi).sub(math.pi) / half)
    return torch.stack(label, dim=1)


# ----------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class VideoBatch:
    """Pairs of real frames.

    Attributes:
        frames: [B, 2, 3, H, W] in [-1, 1], the earlier one first.
        dt: Time between them [B] in [0, 1], as a fraction of the clip.
        c: Labels [B, c_dim].
        angles: Yaw and pitch of their cameras [B, 2] in radians, if the discriminators are told.
    """

    frames: torch.Tensor
    dt: torch.Tensor
    c: torch.Tensor
    angles: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.frames)


def draw_times(batch: int, stream) -> torch.Tensor:
    """Two sorted times per video [B, 2]: one draw of Beta(2, 1) and one of Beta(1, 2) (DIGAN, section 3.3)."""
    late, early = stream.beta("times/a", 2, 1, [batch]), stream.beta("times/b", 1, 2, [batch])
    return torch.stack([late, early], dim=1).sort(dim=1).values


def draw_moments(batch: int, stream) -> torch.Tensor:
    """One time per video [B, 1] in [0, 1): uniform, as are the times of `draw_times` if one of the two is picked."""
    return stream.uniform("times/moment", [batch, 1])


class GanLoss:
    """Computes a phase's loss and adds its gradients.

    Args:
        augment: ADA pipeline (`AdaAugment`), or None.
        diffaugment: Policy of differentiable augmentation; '' for none.
        r1_gamma: Weight of the R1 penalty.
        pl_weight, pl_decay, pl_batch_shrink: Path length regularisation: weight, decay of the running mean of the
            lengths, and the divisor of the batch it is computed on.
        style_mixing_prob: Probability of mixing two styles.
        image_weight, path_weight: Weights of the image discriminator's loss and of the NeRF-path loss.
        bfloat16: On a CPU the main phases use it; see `training.networks.mixed_precision`.
        camera_condition: Tell the discriminators the cameras, behind the labels; see training.loss.
        single_images: The real pairs are single images, each twice, with Δt = 0 (clips of one frame). So are the fakes
            then, at a random moment: otherwise Δt alone would tell them from the real ones.
        statistics: Object with `report(name, tensor)`, or None.
    """

    def __init__(
        self,
        *,
        generator: Generator,
        discriminator: TimeAwareDiscriminators,
        augment=None,
        diffaugment: str = "color,translation",
        r1_gamma: float = 0.5,
        pl_weight: float = 2.0,
        pl_decay: float = 0.01,
        pl_batch_shrink: int = 2,
        style_mixing_prob: float = 0.9,
        image_weight: float = 1.0,
        path_weight: float = 1.0,
        bfloat16: bool = False,
        camera_condition: bool = False,
        single_images: bool = False,
        statistics=None,
    ):
        self.generator, self.discriminator = generator, discriminator
        self.augment, self.diffaugment = augment, diffaugment
        self.r1_gamma = r1_gamma
        self.pl_weight, self.pl_decay, self.pl_batch_shrink = pl_weight, pl_decay, pl_batch_shrink
        self.style_mixing_prob = style_mixing_prob
        self.image_weight = image_weight if discriminator.image is not None else 0.0
        self.path_weight = path_weight
        self.bfloat16 = bfloat16
        self.camera_condition = camera_condition
        self.single_images = single_images
        self.statistics = statistics
        self.pl_mean = torch.zeros([], device=next(generator.parameters()).device)
        self._phases = {
            "Gmain": self._generator_main,
            "Greg": self._generator_regularisation,
            "Dmain": self._discriminator_main,
            "Dreg": self._discriminator_regularisation,
        }

    def accumulate(self, phase: str, *, batch: VideoBatch, gain: float, stream) -> None:
        """Add `gain` times the gradients of a phase ('Gmain', 'Greg', 'Dmain' or 'Dreg') to the parameters' `.grad`.

        Phases of the generator use the batch's labels and size only.
        """
        # In the generator's phases the discriminator only passes gradients on.
        with contextlib.ExitStack() as stack:
            if phase.startswith("G"):
                stack.enter_context(_frozen(self.discriminator))
            if self.bfloat16 and phase in ("Gmain", "Dmain"):
                stack.enter_context(bfloat16_on_cpu(self.generator, self.discriminator))
            loss = self._phases[phase](batch, stream, gain)
        if self.statistics is not None:
            self.statistics.report("Progress/nonfinite_losses", (~loss.isfinite()).sum())

    def state_dict(self) -> dict:
        return {"pl_mean": self.pl_mean.clone()}

    def load_state_dict(self, state: dict) -> None:
        self.pl_mean.copy_(state["pl_mean"])

    # Fakes and discriminators.

    def fake_styles(self, c: torch.Tensor, stream) -> torch.Tensor:
        """Styles [B, num_ws, w_dim] of random contents, mixed with a probability."""
        generator, batch = self.generator, len(c)
        ws = generator.mapping(stream.normal("latents/z", [batch, generator.z_dim]), c, update_w_avg=True)
        if self.style_mixing_prob > 0:
            cut = stream.integers("mixing/cut", 1, generator.num_ws, [])
            coin = stream.uniform("mixing/coin", [])
            other = generator.mapping(stream.normal("mixing/z", [batch, generator.z_dim]), c)
            # Decided on the device: the host does not wait for the draws.
            mixed = (torch.arange(generator.num_ws, device=ws.device) >= cut) & (coin < self.style_mixing_prob)
            ws = torch.where(mixed[:, None], other, ws)
        return ws

    def fake_videos(
        self, ws: torch.Tensor, stream, *, path_loss: bool = False
    ) -> tuple[SynthesisOutput, torch.Tensor, Cameras]:
        """Random two-frame videos for given styles; also the time between their frames [B], and their cameras."""
        generator, batch = self.generator, len(ws)
        times = draw_moments(batch, stream) if self.single_images else draw_times(batch, stream)
        z_motion = stream.normal("latents/z_motion", [batch, generator.motion_dim])
        cameras = generator.camera_prior.sample(batch, stream)
        z_bg = stream.normal("latents/z_bg", [batch, generator.background_dim])
        output = generator.synthesize(
            ws, z_motion=z_motion, z_bg=z_bg, times=times, cameras=cameras, stream=stream, path_loss=path_loss
        )
        if self.single_images:  # the same pixels twice, like the real ones: rendered twice they would differ in noise
            output.image = output.image.expand(-1, 2, -1, -1, -1)
        return output, times[:, -1] - times[:, 0], cameras

    def _told(self, c: torch.Tensor, angles: torch.Tensor | None) -> torch.Tensor:
        """What the discriminators know of videos with these labels and cameras."""
        if not self.camera_condition:
            return c
        return torch.cat([c, camera_label(angles, self.generator.camera_prior).to(c.dtype)], dim=1)

    def _augmented(self, frames: torch.Tensor, stream, prefix: str) -> torch.Tensor:
        if self.augment is not None:
            frames = self.augment(frames, stream, prefix=prefix)
        if self.diffaugment:
            frames = diffaugment(frames, self.diffaugment, stream, prefix=prefix)
        return frames

    def _judge_videos(self, frames: torch.Tensor, plane: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Logits [B, 1] of augmented pairs with Δt planes."""
        return self.discriminator.video(torch.cat([frames.flatten(1, 2), plane], dim=1), c)

    def _judge_frames(self, frames: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Logits [2B, 1] of the augmented frames of pairs, each by itself."""
        return self.discriminator.image(frames.flatten(0, 1), c.repeat_interleave(frames.shape[1], dim=0))

    @property
    def _judges_frames(self) -> bool:
        return self.discriminator.image is not None and self.image_weight != 0

    def _report(self, name: str, value: torch.Tensor) -> None:
        if self.statistics is not None:
            self.statistics.report(f"Loss/{name}", value.detach())

    def _report_losses(self, name: str, losses: torch.Tensor) -> torch.Tensor:
        """The losses, reported."""
        self._report(name, losses)
        return losses

    def _report_scores(self, kind: str, logits: torch.Tensor) -> None:
        self._report(f"scores/{kind}", logits)
        self._report(f"signs/{kind}", logits.detach().sign())

    # Phases. Each adds its gradients and returns its loss, detached. A loss is a sum of terms, whose gradients are
    # added one after another: only one discriminator's activations for one kind of frames are kept at a time.

    def _generator_main(self, batch: VideoBatch, stream, gain: float) -> torch.Tensor:
        ws = self.fake_styles(batch.c, stream)
        fake, dt, cameras = self.fake_videos(ws, stream, path_loss=self.path_weight > 0)
        frames = self._augmented(fake.image, stream, "fake/")
        told = self._told(batch.c, camera_angles(cameras))
        judged = frames.detach().requires_grad_(True)  # collects the gradients of both discriminators
        video = self._judge_videos(judged, time_plane(frames, dt), told)
        loss = _add_gradients(self._report_losses("G/loss", softplus(-video)).mean(), gain)
        self._report_scores("fake", video)
        if self._judges_frames:
            image_loss = self._report_losses("G/Iloss", softplus(-self._judge_frames(judged, told)))
            loss = loss + _add_gradients(self.image_weight * image_loss.mean(), gain)
        if fake.path_loss is None:
            frames.backward(judged.grad)
            return loss
        path_loss = self.path_weight * self._report_losses("G/reg_loss", fake.path_loss).mean()
        torch.autograd.backward([frames, path_loss * gain], [judged.grad, None])
        return loss + path_loss.detach()

    def _generator_regularisation(self, batch: VideoBatch, stream, gain: float) -> torch.Tensor:
        """Path length regularisation; lengths are per video, over all its frames."""
        size = max(len(batch) // self.pl_batch_shrink, 1)
        ws = self.fake_styles(batch.c[:size], stream)
        fake, _, _ = self.fake_videos(ws, stream)
        noise = stream.normal("path_length/noise", fake.image.shape) / math.sqrt(math.prod(fake.image.shape[-2:]))
        (gradient,) = torch.autograd.grad((fake.image * noise).sum(), ws, create_graph=True)
        lengths = gradient.square().sum(dim=2).mean(dim=1).sqrt()
        # Gradients pass through the updated mean as well, as in the published code: they are `pl_decay` smaller for it.
        pl_mean = self.pl_mean.lerp(lengths.mean(), self.pl_decay)
        self.pl_mean.copy_(pl_mean.detach())
        penalty = self._report_losses("pl_penalty", (lengths - pl_mean).square())
        return _add_gradients(self._report_losses("G/reg", penalty * self.pl_weight).mean(), gain)

    def _discriminator_main(self, batch: VideoBatch, stream, gain: float) -> torch.Tensor:
        with torch.no_grad():
            fake, dt, cameras = self.fake_videos(self.fake_styles(batch.c, stream), stream)
            fake = self._augmented(fake.image, stream, "fake/")
            real = self._augmented(batch.frames, stream, "real/")
        video_losses, image_losses, loss = 0, 0, 0
        fakes, reals = ("fake", fake, dt, camera_angles(cameras), 1), ("real", real, batch.dt, batch.angles, -1)
        for kind, frames, times, angles, sign in (fakes, reals):
            told = self._told(batch.c, angles)
            logits = self._judge_videos(frames, time_plane(frames, times), told)
            self._report_scores(kind, logits)
            losses = softplus(sign * logits)
            video_losses = video_losses + losses.detach()
            loss = loss + _add_gradients(losses.mean(), gain)
            if self._judges_frames:
                losses = softplus(sign * self._judge_frames(frames, told))
                image_losses = image_losses + losses.detach()
                loss = loss + _add_gradients(self.image_weight * losses.mean(), gain)
        self._report("D/loss", video_losses)
        if self._judges_frames:
            self._report("D/Iloss", image_losses)
        return loss

    def _discriminator_regularisation(self, batch: VideoBatch, stream, gain: float) -> torch.Tensor:
        """R1: on the video discriminator's unaugmented input, and on the image discriminator's augmented frames."""
        frames, plane = batch.frames.detach().requires_grad_(True), time_plane(batch.frames, batch.dt)
        plane.requires_grad_(True)
        augmented = self._augmented(frames, stream, "real/")
        told = self._told(batch.c, batch.angles)
        video = self._judge_videos(augmented, plane, told)
        self._report_scores("real", video)
        with no_weight_gradients():
            gradients = torch.autograd.grad(video.sum(), [frames, plane], create_graph=True)
        penalty = self._report_losses("r1_penalty", sum(g.square().flatten(1).sum(dim=1) for g in gradients))
        losses = self._report_losses("D/reg", penalty * (self.r1_gamma / 2))
        loss = _add_gradients(losses.mean(), gain)
        if self._judges_frames:
            judged = augmented.detach().requires_grad_(True)
            image = self._judge_frames(judged, told)
            with no_weight_gradients():
                (gradient,) = torch.autograd.grad(image.sum(), judged, create_graph=True)
            penalty = gradient.flatten(0, 1).square().sum(dim=[1, 2, 3])
            loss = loss + _add_gradients(self.image_weight * penalty.mean() * (self.r1_gamma / 2), gain)
        return loss


def _add_gradients(loss: torch.Tensor, gain: float) -> torch.Tensor:
    """Add the gradients of `gain` times the loss, which frees what was kept for them; the loss, detached."""
    loss.mul(gain).backward()
    return loss.detach()


@contextlib.contextmanager
def _frozen(module: torch.nn.Module):
    """Temporarily without gradients for a module's parameters."""
    trained = [p for p in module.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)
