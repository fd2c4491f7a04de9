"""Initialisation of an inversion: search for content codes, cameras and motions that resemble the clip.

Content and camera are searched on the first frame, where the motion is not needed: at time 0 the default motion network
moves nothing, since time enters as a factor. With motion.frequency, or another first time, the code 0 is used instead.
"""

import dataclasses

import torch

from torch_utils.rng import RandomStream
from training.inversion.candidates import CandidateVideos
from training.inversion.loss import ClipLoss
from training.inversion.style_prior import StylePrior
from training.networks.generator import Generator

__all__ = [
    "BATCH",
    "cheapest_paths",
    "key_frames",
    "nearest_motions",
    "nearest_samples",
    "search_images",
    "start_images",
]

TRUNCATION = 0.7  # of the random styles' coordinates, towards the average
BATCH = 16  # videos rendered at a time

# Search for the first frame.
START_YAWS, START_PITCHES = 7, 3  # cameras of the grid


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

    Every sample is rendered from one random camera of the prior; the best 4 · `starts` are then rendered from a grid of
    cameras.

    Args:
        on_progress: Called with the number of rendered images.
    """
    x = TRUNCATION * stream.normal("inversion/style", [samples, 1, generator.w_dim])
    z_motion = x.new_zeros(samples, generator.motion_dim)
    z_bg = TRUNCATION * stream.normal("inversion/background", [samples, generator.background_dim])
    x[0], z_bg[0] = 0, 0  # the average
    bounds = generator.camera_prior
    angles = stream.uniform("inversion/camera", [2, samples, 1])
    yaw, pitch = (low + (high - low) * u for u, (low, high) in zip(angles, (bounds.yaw, bounds.pitch)))
    every = CandidateVideos(generator, prior, x=x, z_motion=z_motion, z_bg=z_bg, yaw=yaw, pitch=pitch, times=times[:1])
    kept = every.select(_first_frame_losses(every, loss, on_progress).argsort()[: 4 * starts])

    yaws, pitches = (
        interval_centres(bounds.yaw, START_YAWS, stream.device),
        interval_centres(bounds.pitch, START_PITCHES, stream.device),
    )
    grid = torch.cartesian_prod(yaws, pitches)
    seen = kept.select(
        torch.arange(len(kept), device=stream.device).repeat_interleave(len(grid)),
        yaw=grid[:, :1].repeat(len(kept), 1),
        pitch=grid[:, 1:].repeat(len(kept), 1),
    )
    # A wrong yaw, compensated by a wrong content, is a local minimum, so starts differ in yaw first, then in content.
    losses = _first_frame_losses(seen, loss, on_progress).unflatten(0, (len(kept), START_YAWS, START_PITCHES))
    rank = losses.flatten(2).amin(dim=2).argsort(dim=0).argsort(dim=0)  # a sample's rank among all at the same yaw
    losses, pitch = losses.min(dim=2)
    chosen = (losses + rank * losses.max()).flatten().argsort()[:starts]
    index = chosen * START_PITCHES + pitch.flatten()[chosen]
    whole = [1, len(times)]
    return seen.select(index, yaw=seen.yaw[index].repeat(whole), pitch=seen.pitch[index].repeat(whole), times=times)


def interval_centres(bounds: tuple[float, float], count: int, device: torch.device) -> torch.Tensor:
    """The centres of `count` equal intervals of a range."""
    low, high = bounds
    return low + (high - low) * (torch.arange(count, device=device, dtype=torch.float32) + 0.5) / count


def _first_frame_losses(videos: CandidateVideos, loss: ClipLoss, on_progress) -> torch.Tensor:
    first, losses = torch.zeros(1, dtype=torch.long, device=videos.x.device), []
    for start in range(0, len(videos), BATCH):
        images = videos.select(list(range(start, min(start + BATCH, len(videos))))).render(first)[:, 0]
        losses.append(loss(images, first.expand(len(images)))[0])
        on_progress(len(images))
    return torch.cat(losses)


def start_images(samples: int, starts: int) -> int:
    """Number of images that `nearest_samples` renders."""
    return samples + min(4 * starts, samples) * START_YAWS * START_PITCHES


# ----------------------------------------------------------------------------------------------------------------------
# Search for the motion code and the camera path
#
# A turning head and a camera that turns around it look alike at first, and gradient descent that starts with one of
# them rarely finds the other. So random motions are compared with the clip at a few key frames, each from a grid of
# yaws; the best path through the grid is found by dynamic programming, with a cost on its steps. The best combinations
# are then compared at more key frames, from a grid of yaws and pitches.


KEYS = (4, 8)  # key frames of the first and second search, besides the first frame, whose camera is known
PATH_YAWS, PATH_PITCHES = 7, 5  # cameras of the grid in the second search
CLOSER = 2  # combinations in the second search, per combination that is kept

STEP_COST = 0.02  # cost of a squared step across the whole range of an angle; losses are mean squared differences


def cheapest_paths(losses: torch.Tensor, places: torch.Tensor, start: torch.Tensor, step_cost: float):
    """Paths of least cost: the losses at their stations plus `step_cost` times their squared steps.

    Args:
        losses: Losses of N paths at K stations and P places [N, K, P].
        places: Coordinates of the places [P, D].
        start: Starting points of the paths [N, D].

    Returns:
        (costs [N], places [N, K] as indices).
    """
    step = step_cost * (places[:, None] - places[None, :]).square().sum(dim=-1)  # [from, to]
    cost = losses[:, 0] + step_cost * (places[None] - start[:, None]).square().sum(dim=-1)
    came_from = []
    for k in range(1, losses.shape[1]):
        total, best = (cost[:, :, None] + step).min(dim=1)
        came_from.append(best)
        cost = total + losses[:, k]
    cost, place = cost.min(dim=1)
    chosen = [place]
    for best in reversed(came_from):
        chosen.append(best.gather(1, chosen[-1][:, None])[:, 0])
    return cost, torch.stack(chosen[::-1], dim=1)


@dataclasses.dataclass(frozen=True)
class _Path:
    """A combination of a video, a motion code and cameras (yaw, pitch) [K, 2] at key frames, with its cost."""

    cost: float
    video: int
    code: torch.Tensor
    cameras: torch.Tensor


@torch.no_grad()
def nearest_motions(
    videos: CandidateVideos,
    loss: ClipLoss,
    *,
    motions: int,
    keep: int,
    stream: RandomStream,
    on_progress=lambda count: None,
) -> CandidateVideos:
    """The best `keep` combinations of one of the videos, one of `motions` random motions and a camera path.

    The second search prefers combinations with different last cameras. The videos' cameras at the first frame are kept.

    Args:
        on_progress: Called with the number of rendered images.
    """
    device, frames = stream.device, len(videos.times)
    if frames == 1:
        return videos.select(list(range(min(keep, len(videos)))))
    prior = videos.generator.camera_prior
    yaws, pitches = interval_centres(prior.yaw, PATH_YAWS, device), interval_centres(prior.pitch, PATH_PITCHES, device)
    codes = TRUNCATION * stream.normal("inversion/motion", [motions, videos.z_motion.shape[1]])
    codes[0] = 0

    keys, found = key_frames(frames, KEYS[0], device), []
    for index in range(len(videos)):
        cameras = torch.cartesian_prod(yaws, videos.pitch[index, :1])
        found += [_best_path(videos, index, code, cameras, keys, loss, on_progress) for code in codes]
    found.sort(key=lambda path: path.cost)
    ends = set()
    first_of_its_end = [p for p in found if not ((end := float(p.cameras[-1, 0])) in ends or ends.add(end))]
    others = [p for p in found if all(p is not q for q in first_of_its_end)]
    closer = (first_of_its_end + others)[: CLOSER * keep]

    keys, cameras = key_frames(frames, KEYS[1], device), torch.cartesian_prod(yaws, pitches)
    found = [_best_path(videos, p.video, p.code, cameras, keys, loss, on_progress) for p in closer]
    chosen = sorted(found, key=lambda path: path.cost)[:keep]
    index = [path.video for path in chosen]
    stations = torch.cat([torch.zeros_like(keys[:1]), keys]).float()
    yaw, pitch = (
        torch.stack([_interpolate(stations, torch.cat([angle[p.video, :1], p.cameras[:, d]]), frames) for p in chosen])
        for d, angle in enumerate((videos.yaw, videos.pitch))
    )
    return videos.select(index, z_motion=torch.stack([path.code for path in chosen]), yaw=yaw, pitch=pitch)


def key_frames(frames: int, count: int, device: torch.device) -> torch.Tensor:
    """Up to `count` evenly spaced frames, without the first and with the last one."""
    count = min(count, frames - 1)
    return torch.arange(1, count + 1, device=device) * (frames - 1) // count


def _best_path(videos, index, code, cameras, keys, loss, on_progress) -> _Path:
    """The best path of a video with a motion code, through cameras (yaw, pitch) [P, 2] at the key frames."""
    prior = videos.generator.camera_prior
    extent = cameras.new_tensor([max(high - low, 1e-6) for low, high in (prior.yaw, prior.pitch)])
    start = torch.stack([videos.yaw[index, 0], videos.pitch[index, 0]])
    losses = _key_losses(videos, index, code, cameras, keys, loss, on_progress)
    cost, places = cheapest_paths(losses[None], cameras / extent, (start / extent)[None], STEP_COST)
    return _Path(float(cost) / len(keys), index, code, cameras[places[0]])


def _key_losses(videos, index, code, cameras, keys, loss, on_progress) -> torch.Tensor:
    """Losses of a video with a motion code, at the key frames from every camera: [K, P]."""
    rows = []
    per_batch = max(1, BATCH // len(keys))
    for some in cameras.split(per_batch):
        yaw, pitch = some.t()[:, :, None].expand(-1, -1, len(videos.times)).clone()
        seen = videos.select([index] * len(some), z_motion=code.expand(len(some), -1).clone(), yaw=yaw, pitch=pitch)
        images = seen.render(keys).flatten(0, 1)
        rows.append(loss(images, keys.repeat(len(some)))[0].unflatten(0, (len(some), -1)))
        on_progress(len(images))
    return torch.cat(rows).t()


def _interpolate(stations: torch.Tensor, values: torch.Tensor, frames: int) -> torch.Tensor:
    """Linear interpolation at 0 … frames - 1 of values [K] at increasing stations [K]."""
    at = torch.arange(frames, device=values.device, dtype=values.dtype)
    right = torch.searchsorted(stations, at).clamp(1, len(stations) - 1)
    left = right - 1
    share = (at - stations[left]) / (stations[right] - stations[left])
    return torch.lerp(values[left], values[right], share)


def search_images(frames: int, videos: int, motions: int, keep: int) -> int:
    """Number of images that `nearest_motions` renders."""
    few, many = (min(keys, frames - 1) for keys in KEYS)
    return videos * motions * PATH_YAWS * few + min(CLOSER * keep, videos * motions) * PATH_YAWS * PATH_PITCHES * many
