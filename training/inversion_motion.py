"""Where the fit of a whole clip starts: which motion code, and which way the camera goes.

A head that turns and a camera that turns around it look alike at first, and a descent that starts with one of them
rarely finds the other. So random motions are compared with the clip at a few key frames, each from a grid of yaws; the
best path through the grid is found by dynamic programming, with a price on its steps.
"""

import torch

from torch_utils.random_stream import RandomStream
from training.inversion_loss import ClipLoss
from training.inversion_start import BATCH, even_middles
from training.inversion_video import CandidateVideos

__all__ = ["cheapest_paths", "nearest_motions", "search_images"]

KEYS = 4  # key frames besides the first, whose camera is known
YAWS = 7
TRUNCATION = 0.7  # of the random motion codes
STEP_PRICE = 0.02  # of a step across the whole range of yaw, squared; losses are mean squared differences


def cheapest_paths(losses: torch.Tensor, grid: torch.Tensor, start: torch.Tensor, price: float):
    """Paths through a grid that cost least: the losses of their stations plus `price` times the squared steps.

    Args:
        losses: Of N paths, K stations, Y places [N, K, Y].
        grid: The places [Y].
        start: Where the paths come from [N].

    Returns:
        (costs [N], places [N, K] as indices).
    """
    step = price * (grid[:, None] - grid[None, :]).square()  # [from, to]
    cost = losses[:, 0] + price * (grid[None] - start[:, None]).square()
    came_from = []
    for k in range(1, losses.shape[1]):
        total, best = (cost[:, :, None] + step).min(dim=1)
        came_from.append(best)
        cost = total + losses[:, k]
    cost, place = cost.min(dim=1)
    places = [place]
    for best in reversed(came_from):
        places.append(best.gather(1, places[-1][:, None])[:, 0])
    return cost, torch.stack(places[::-1], dim=1)


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
    """The best `keep` combinations of one of the videos, one of as many random motions and a path in yaw.

    No two of them come to the same place at the end, as long as there are others. The videos' cameras at the first
    frame are kept.

    Args:
        on_progress: Called with the number of images that have been rendered.
    """
    device, frames = stream.device, len(videos.times)
    if frames == 1:
        return videos.select(list(range(min(keep, len(videos)))))
    low, high = videos.generator.camera_prior.yaw
    grid = even_middles((low, high), YAWS, device)
    price = STEP_PRICE / max(high - low, 1e-6) ** 2
    keys = key_frames(frames, device)
    codes = TRUNCATION * stream.normal("inversion/motion", [motions, videos.z_motion.shape[1]])
    codes[0] = 0

    found = []  # (cost, video, motion, places)
    for index in range(len(videos)):
        losses = torch.stack([_key_losses(videos, index, code, grid, keys, loss, on_progress) for code in codes])
        costs, places = cheapest_paths(losses, grid, videos.yaw[index, :1].expand(motions), price)
        found += [(float(costs[m]), index, m, places[m].tolist()) for m in range(motions)]
    found.sort()
    ends = set()
    first_of_its_end = [entry for entry in found if not (entry[3][-1] in ends or ends.add(entry[3][-1]))]
    chosen = (first_of_its_end + [entry for entry in found if entry not in first_of_its_end])[:keep]

    index = [entry[1] for entry in chosen]
    stations = torch.cat([torch.zeros_like(keys[:1]), keys]).float()
    paths = [torch.cat([videos.yaw[i, :1], grid[places]]) for _, i, _, places in chosen]
    yaw = torch.stack([_interpolate(stations, path, frames) for path in paths])
    return videos.select(index, z_motion=codes[[entry[2] for entry in chosen]], yaw=yaw)


def key_frames(frames: int, device: torch.device) -> torch.Tensor:
    """Up to KEYS frames, evenly spread, the last one among them and the first one not."""
    count = min(KEYS, frames - 1)
    return torch.arange(1, count + 1, device=device) * (frames - 1) // count


def _key_losses(videos, index, code, grid, keys, loss, on_progress) -> torch.Tensor:
    """Of one video with a motion code, at the key frames [K] from every yaw of the grid [Y]: [K, Y]."""
    rows = []
    per_batch = max(1, BATCH // len(keys))
    for start in range(0, len(grid), per_batch):
        yaws = grid[start : start + per_batch]
        path = yaws[:, None].expand(-1, len(videos.times)).clone()
        seen = videos.select([index] * len(yaws), z_motion=code.expand(len(yaws), -1).clone(), yaw=path)
        images = seen.render(keys).flatten(0, 1)
        rows.append(loss(images, keys.repeat(len(yaws)))[0].unflatten(0, (len(yaws), -1)))
        on_progress(len(images))
    return torch.cat(rows).t()


def _interpolate(stations: torch.Tensor, values: torch.Tensor, frames: int) -> torch.Tensor:
    """Values [K] at increasing stations [K], linearly in between, at 0 … frames - 1."""
    at = torch.arange(frames, device=values.device, dtype=values.dtype)
    right = torch.searchsorted(stations, at).clamp(1, len(stations) - 1)
    left = right - 1
    share = (at - stations[left]) / (stations[right] - stations[left])
    return torch.lerp(values[left], values[right], share)


def search_images(frames: int, videos: int, motions: int) -> int:
    """How many images `nearest_motions` renders."""
    return videos * motions * YAWS * min(KEYS, frames - 1)
