"""Optimisation of styles, latent codes and cameras for a clip: initialisation, then gradient descent in three stages.

1. content: the first frame alone, from several starts; all layers share one style.
2. motion: all frames, from the best few combinations of content, motion and camera path.
3. layers: the best of them, with a style per layer (Image2StyleGAN, 2019).

The generator is fixed. Every step uses random frames; learning rates follow a cosine after a short warm-up, as in the
projector of StyleGAN2.
"""

import dataclasses
import math
from collections.abc import Callable

import torch

from torch_utils.argument_checks import shown, whole_number
from torch_utils.rng import RandomStream
from training.inversion.candidates import CandidateVideos, Weights
from training.inversion.initialize import nearest_motions, nearest_samples, search_images, start_images
from training.inversion.loss import ClipLoss, psnr_of_error
from training.inversion.style_prior import StylePrior
from training.networks.generator import Generator

__all__ = ["FitSettings", "fit_clip", "fit_images", "learning_rate"]

SHARES = (1 / 6, 1 / 3, 1 / 2)  # fractions of the steps, by stage
WARM_UP = 20  # steps
LAST_RATE = 0.01  # fraction of the full rate
BETAS = (0.9, 0.99)
#: Learning rates of Adam, approximately the change per step.
RATES = {"x": 0.05, "z_bg": 0.05, "z_motion": 0.2, "yaw": 0.01, "pitch": 0.01, "zoom": 0.005}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Settings of a fit: sizes of the searches, steps, penalties.

    Attributes:
        samples: Random videos that are compared with the first frame.
        starts: Number of them that are fitted to the first frame.
        motions: Random motions that are compared with the clip, per content.
        keep: Contents that are combined with motions, and combinations that are fitted to all frames.
        steps: Steps of gradient descent, all stages together.
        batch: Frames per step.
        fit_radius, fit_fov: Fit the camera's distance and its field of view too, one for all frames.
        weights: Weights of the penalties.

    Raises:
        ValueError: A count that is no whole number of at least 1, or other weights.
    """

    samples: int = 256
    starts: int = 6
    motions: int = 32
    keep: int = 3
    steps: int = 600
    batch: int = 4
    fit_radius: bool = False
    fit_fov: bool = False
    weights: Weights = Weights()

    def __post_init__(self):
        for name in ("samples", "starts", "motions", "keep", "steps", "batch"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), low=1))  # plain, for the report
        if not isinstance(self.weights, Weights):
            raise ValueError(f"weights must be training.inversion.candidates.Weights, got {shown(self.weights)}.")

    def stages(self) -> list[int]:
        """Steps of every stage."""
        content, motion = (round(share * self.steps) for share in SHARES[:2])
        return [content, motion, self.steps - content - motion]


def fit_clip(
    generator: Generator,
    loss: ClipLoss,
    *,
    times: torch.Tensor,
    settings: FitSettings,
    stream: RandomStream,
    on_progress: Callable[[int, str, float | None], None] = lambda images, stage, quality: None,
) -> CandidateVideos:
    """Fit one video to a clip.

    Args:
        generator: In evaluation mode, with parameters that require no gradients.
        loss: The distance to the clip.
        times: Times of its frames [T].
        stream: Random stream.
        on_progress: Called with the number of images rendered since the last call, the stage, and the PSNR in dB of
            the last step's frames; None during searches.

    Returns:
        One video (S = 1), styles per layer.
    """
    content_steps, motion_steps, layer_steps = settings.stages()
    prior = StylePrior.of(generator, stream)
    videos = nearest_samples(
        generator,
        prior,
        loss,
        times=times,
        samples=settings.samples,
        starts=min(settings.starts, settings.samples),
        stream=stream,
        on_progress=lambda images: on_progress(images, "samples", None),
    )
    first = torch.zeros(1, dtype=torch.long, device=times.device)
    order = descend(videos, loss, content_steps, settings, first, stream, _with_stage(on_progress, "content"))
    videos = videos.select(order[: settings.keep])
    frozen = {name: getattr(videos, name).detach()[:, :1].repeat(1, len(times)) for name in ("yaw", "pitch")}
    videos = nearest_motions(
        videos.select(list(range(len(videos))), **frozen),
        loss,
        motions=settings.motions,
        keep=settings.keep,
        stream=stream,
        on_progress=lambda images: on_progress(images, "motions", None),
    )
    order = descend(videos, loss, motion_steps, settings, None, stream, _with_stage(on_progress, "motion"))
    videos = videos.select(order[:1])
    videos = videos.select([0], x=videos.x.detach().repeat(1, generator.num_ws, 1))
    descend(videos, loss, layer_steps, settings, None, stream, _with_stage(on_progress, "layers"))
    return videos


def descend(
    videos: CandidateVideos,
    loss: ClipLoss,
    steps: int,
    settings: FitSettings,
    frames: torch.Tensor | None,
    stream: RandomStream,
    on_step: Callable[[int, float], None],
) -> torch.Tensor:
    """Gradient descent (Adam) on all videos at once, independently of each other.

    Args:
        frames: The frames of every step; None for `settings.batch` random ones.
        on_step: Called after a step with the number of images and the best PSNR.

    Returns:
        The videos' indices [S], best first, by the mean over the last tenth of the steps.
    """
    fixed = {"zoom"} if not (settings.fit_radius or settings.fit_fov) else set()
    fixed |= {"z_motion"} if frames is not None else set()  # a single frame does not determine it
    groups = [
        {"params": [p], "rate": RATES[name]}
        for name, p in videos.named_parameters()
        if name not in fixed and p.numel() > 0
    ]
    optimizer = torch.optim.Adam(groups, lr=0.0, betas=BETAS)
    zoomed = videos.zoom.new_tensor([settings.fit_radius, settings.fit_fov])
    total, count = videos.x.new_zeros(len(videos)), len(videos.times)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * learning_rate(step, steps)
        chosen = frames
        if chosen is None:
            chosen = stream.uniform("inversion/frames", [count]).argsort()[: settings.batch].sort().values
        losses, squares = loss(videos.render(chosen).flatten(0, 1), chosen.repeat(len(videos)))
        losses = losses.unflatten(0, (len(videos), -1)).mean(dim=1) + videos.penalty(settings.weights)
        optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        if videos.zoom.grad is not None:
            videos.zoom.grad.mul_(zoomed)
        optimizer.step()
        if step >= steps - max(1, steps // 10):
            total += losses.detach()
        best = squares.unflatten(0, (len(videos), -1)).mean(dim=1).min()
        on_step(len(squares), psnr_of_error(best))
    return total.argsort()


def learning_rate(step: int, steps: int) -> float:
    """Factor of the learning rates at a step: linear warm-up, then a cosine down to LAST_RATE."""
    warm = min(1.0, (step + 1) / WARM_UP)
    return max(LAST_RATE, warm * 0.5 * (1 + math.cos(math.pi * step / steps)))


def fit_images(settings: FitSettings, frames: int) -> int:
    """Number of images that `fit_clip` renders, with or without gradients."""
    content, motion, layers = settings.stages()
    starts = min(settings.starts, settings.samples)
    kept = min(settings.keep, starts)
    combinations = min(settings.keep, kept * settings.motions) if frames > 1 else kept
    batch = min(settings.batch, frames)
    searches = start_images(settings.samples, starts) + search_images(frames, kept, settings.motions, settings.keep)
    return searches + content * starts + motion * combinations * batch + layers * batch


def _with_stage(on_progress, stage: str) -> Callable[[int, float], None]:
    return lambda images, quality: on_progress(images, stage, quality)
