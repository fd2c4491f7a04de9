"""Where inversion starts: the random videos, seen from a grid of cameras, whose first frame is most like the clip's.

At the clip's first time the usual motion network moves nothing (time enters as a factor), so that content and camera
can be looked for without knowing the motion.
"""

import torch

from torch_utils.random_stream import RandomStream
from training.generator import Generator
from training.inversion_loss import ClipLoss
from training.inversion_prior import StylePrior
from training.inversion_video import CandidateVideos

__all__ = ["BATCH", "even_middles", "nearest_samples", "start_images"]

TRUNCATION = 0.7  # of the random styles' coordinates: nearer to the average, where most images are
BATCH = 16  # videos rendered at a time
YAWS, PITCHES = 7, 3  # cameras of the grid


@torch.no_grad()
def nearest_samples(
    generator: Generator,
    prior: StylePrior,
    loss: ClipLoss,
    *,
    times: torch.Tensor,
    samples: int,
    starts: int,
    stream: RandomStream,
    on_progress=lambda count: None,
) -> CandidateVideos:
    """The best `starts` of `samples` random videos and cameras (the same for all frames), of different yaws first.

    Every sample is first seen from one random camera of the prior; four times as many as are wanted stay and are seen
    from a grid of cameras.

    Args:
        on_progress: Called with the number of images that have been rendered.
    """
    x = TRUNCATION * stream.normal("inversion/style", [samples, 1, generator.w_dim])
    z_motion = torch.zeros(samples, generator.motion_dim, device=stream.device)
    z_bg = TRUNCATION * stream.normal("inversion/background", [samples, generator.background_dim])
    x[0], z_bg[0] = 0, 0  # the average
    bounds = generator.camera_prior
    angles = stream.uniform("inversion/camera", [2, samples, 1])
    yaw, pitch = (low + (high - low) * u for u, (low, high) in zip(angles, (bounds.yaw, bounds.pitch)))
    every = CandidateVideos(generator, prior, x=x, z_motion=z_motion, z_bg=z_bg, yaw=yaw, pitch=pitch, times=times[:1])
    kept = every.select(_first_frame_losses(every, loss, on_progress).argsort()[: 4 * starts])

    yaws, pitches = even_middles(bounds.yaw, YAWS, stream.device), even_middles(bounds.pitch, PITCHES, stream.device)
    grid = torch.cartesian_prod(yaws, pitches)
    seen = kept.select(
        torch.arange(len(kept), device=stream.device).repeat_interleave(len(grid)),
        yaw=grid[:, :1].repeat(len(kept), 1),
        pitch=grid[:, 1:].repeat(len(kept), 1),
    )
    # A wrong yaw that a wrong content makes up for is hard to leave: starts differ in yaw before they do in content.
    losses = _first_frame_losses(seen, loss, on_progress).unflatten(0, (len(kept), YAWS, PITCHES))
    rank = losses.flatten(2).amin(dim=2).argsort(dim=0).argsort(dim=0)  # of a sample among those from the same yaw
    losses, pitch = losses.min(dim=2)
    chosen = (losses + rank * losses.max()).flatten().argsort()[:starts]
    index = chosen * PITCHES + pitch.flatten()[chosen]
    whole = [1, len(times)]
    return seen.select(index, yaw=seen.yaw[index].repeat(whole), pitch=seen.pitch[index].repeat(whole), times=times)


def even_middles(bounds: tuple[float, float], count: int, device: torch.device) -> torch.Tensor:
    """The middles of equal parts of a range."""
    low, high = bounds
    return low + (high - low) * (torch.arange(count, device=device) + 0.5) / count


def _first_frame_losses(videos: CandidateVideos, loss: ClipLoss, on_progress) -> torch.Tensor:
    first, losses = torch.zeros(1, dtype=torch.long, device=videos.x.device), []
    for start in range(0, len(videos), BATCH):
        images = videos.select(list(range(start, min(start + BATCH, len(videos))))).render(first)[:, 0]
        losses.append(loss(images, first.expand(len(images)))[0])
        on_progress(len(images))
    return torch.cat(losses)


def start_images(samples: int, starts: int) -> int:
    """How many images `nearest_samples` renders."""
    return samples + min(4 * starts, samples) * YAWS * PITCHES
