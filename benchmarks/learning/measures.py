"""Measures of the study as functions of tensors: motion, content, frame differences, warping, depth.

Clips are [N, 3, T, H, W]. The same functions are applied to a model and, for reference, to the ground-truth scenes.
"""

import itertools

import torch
from torch.nn import functional as F

from renderer.cameras import Cameras
from renderer.depth import plane_depth, project, surface_points, warp, weighted_mean

__all__ = [
    "correlation", "frame_differences", "interpolate_depth", "motion_and_content", "shuffled", "warping_errors",
]  # fmt: skip

MOVING_SHARE = 0.25  # fraction of the pixels, those with the largest change in time


def frame_differences(clips: torch.Tensor, lag: int) -> torch.Tensor:
    """Mean absolute difference of frames at distance `lag` [N], in grey levels, of uint8 clips."""
    x = clips.float()
    return (x[:, :, lag:] - x[:, :, :-lag]).abs().mean(dim=[1, 2, 3, 4])


def motion_and_content(videos: torch.Tensor) -> dict[str, float]:
    """Disentanglement of motion and content.

    * motion: of two videos of the same content with different motions, the mean difference in the moving region divided
      by that elsewhere. The moving region is the quarter of the pixels with the largest change in time, selected in the
      videos of every other motion and evaluated on the rest, so that no video selects its own region.
    * content: the mean difference between two contents with the same motion, divided by that between two motions of
      the same content.

    Both are about 1 for entangled codes; see `shuffled`.

    Args:
        videos: [contents, motions, 3, T, H, W], at least two contents and four motions, seen by one camera.
    """
    contents, motions = videos.shape[:2]
    if contents < 2 or motions < 4:
        raise ValueError(f"Motion and content need at least 2 contents and 4 motions, got {contents} and {motions}.")
    changing = videos[:, ::2].std(dim=3).mean(dim=[1, 2]).flatten(1)  # [contents, H·W]
    count = round(MOVING_SHARE * changing.shape[1])
    moving = torch.zeros_like(changing).scatter_(1, changing.topk(count, dim=1).indices, 1.0)
    others = videos[:, 1::2]
    maps = [
        (others[:, a] - others[:, b]).abs().mean(dim=[1, 2]).flatten(1)
        for a, b in itertools.combinations(range(others.shape[1]), 2)
    ]
    difference = torch.stack(maps).mean(dim=0)
    inside = (difference * moving).sum() / moving.sum()
    outside = (difference * (1 - moving)).sum() / (1 - moving).sum()

    between_motions = [(videos[:, a] - videos[:, b]).abs().mean() for a, b in itertools.combinations(range(motions), 2)]
    between_contents = [(videos[a] - videos[b]).abs().mean() for a, b in itertools.combinations(range(contents), 2)]
    content = torch.stack(between_contents).mean() / torch.stack(between_motions).mean()
    return {"motion_ratio": float(inside / outside), "content_ratio": float(content)}


def shuffled(videos: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The same videos, randomly permuted over contents and motions."""
    flat = videos.flatten(0, 1)
    return flat[torch.randperm(len(flat), generator=generator)].reshape(videos.shape)


def interpolate_depth(depth: torch.Tensor, weights: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth maps and weights [N, h, h] at another size; depths are averaged over pixels that show a surface."""
    layers = torch.stack([depth * weights, weights], dim=1)
    layers = F.interpolate(layers, [size, size], mode="bilinear", align_corners=False)
    return layers[:, 0] / layers[:, 1].clamp(min=1e-6), (layers[:, 1] > 0.5).to(depth.dtype)


def warping_errors(
    source: torch.Tensor,
    source_cameras: Cameras,
    target: torch.Tensor,
    target_cameras: Cameras,
    depth: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """Errors of predicting one view from another one, by depth and by planes.

    Every surface pixel of the target is looked up in the source by its depth; by the best-fitting plane of the depths;
    by a plane parallel to the target image at the mean depth; and at the same pixel. All four are compared over the
    same pixels: those with a surface that project into the source image in all cases. Pixels that are occluded in the
    source are included.

    Args:
        source, target: Images [N, 3, H, H].
        depth, weights: Depth and surface mask of the target [N, H, H].

    Returns:
        Mean absolute differences [N, 4]; NaN without a surface.
    """
    facing = weighted_mean(depth, weights)[:, None, None].expand_as(depth)
    maps = [depth, plane_depth(depth, weights), facing]
    places = [project(source_cameras, surface_points(target_cameras, d))[0] for d in maps]
    inside = torch.stack([p.abs().amax(dim=-1) <= 1 for p in places]).all(dim=0)
    valid = weights * inside.to(weights.dtype)
    guesses = [warp(source, p) for p in places] + [source]
    return torch.stack([weighted_mean((target - g).abs().mean(dim=1), valid) for g in guesses], dim=1)


def correlation(a: torch.Tensor, b: torch.Tensor, weights: torch.Tensor) -> float:
    """Pearson correlation of two maps over the pixels whose weight is not 0; NaN if one of them is constant."""
    chosen = weights > 0
    a, b = a[chosen].double(), b[chosen].double()
    a, b = a - a.mean(), b - b.mean()
    scale = (a.square().sum() * b.square().sum()).sqrt()
    return float((a * b).sum() / scale) if scale > 0 else float("nan")
