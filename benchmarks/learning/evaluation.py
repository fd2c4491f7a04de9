"""Evaluation of one snapshot, and of the ground-truth scenes in the same way."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.learning.measures import (
    correlation,
    frame_differences,
    interpolate_depth,
    motion_and_content,
    shuffled,
    warping_errors,
)
from dnnlib import UserError
from metrics.distances import frechet_distance_of_features
from metrics.generated_videos import GeneratedVideos
from metrics.random_features import RandomFeatures
from renderer.cameras import CameraPrior, Cameras
from renderer.depth import parallax, plane_depth, relief, surface_depth, weighted_mean
from renderer.video import to_uint8
from renderer.volume_rendering import Fields
from torch_utils.rng import RandomStream
from training.checkpoints.snapshot import load_average_generator, load_snapshot
from training.data.dataset import VideoPairDataset
from training.inference.frame_renderer import FrameRenderer
from training.inference.latents import RowCodes
from training.inference.meshes import CHECKED_VIEWS, GeneratedMeshes
from training.inference.video_generator import VideoGenerator
from training.networks.generator import Generator
from training.synthetic.head_model import Backdrop, TalkingHead
from training.synthetic.parameters import BACKGROUND_CODE, CONTENT_CODE, MOTION_CODE, Person, pose_at
from training.synthetic.render import render_frames

__all__ = ["Sizes", "Views", "evaluate_snapshot", "figures_of_scenes", "real_features"]

LAGS = (1, 5, 15)  # distances of compared frames
VIEW_ANGLE = 20.0  # degrees of yaw to either side
CHUNK = 8  # videos rendered at a time
SEED = 7  # of the codes; previews and the distance use other seeds


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Numbers of samples."""

    clips: int = 512  # real and generated clips of the distance
    frames: int = 16
    contents: int = 12  # contents and motions of the table
    motions: int = 8
    views: int = 64  # contents seen from three sides
    meshes: int = 8  # contents whose meshes are compared with the rendered opacity, each from five cameras


@dataclasses.dataclass(frozen=True)
class Views:
    """N contents at one time step from the left, the front and the right (in this order).

    Attributes:
        images: [3, N, 3, H, H] in [0, 1].
        depth, weights: [3, N, h, h], see renderer.depth.
        cameras: Three times one camera.
    """

    images: torch.Tensor
    depth: torch.Tensor
    weights: torch.Tensor
    cameras: list[Cameras]


# ----------------------------------------------------------------------------------------------------------------------
# A model


@torch.no_grad()
def evaluate_snapshot(
    path: str | Path, real: torch.Tensor, truth: dict[str, torch.Tensor], sizes: Sizes, *, thorough: bool
) -> dict:
    """Results of a snapshot.

    Args:
        real: Features of real clips.
        truth: Mean depth maps of the scenes, see `figures_of_scenes`.
        thorough: All results; otherwise the distance, the frame differences and the geometry only.
    """
    generator = load_average_generator(path)
    progress = load_snapshot(path, average_only=True)["progress"]
    clips = GeneratedVideos(generator, nframes=sizes.frames).clips(count=sizes.clips, frames=sizes.frames)
    bar = tqdm(range(0, sizes.clips, CHUNK), desc=f"clips of {Path(path).name}", leave=False, disable=None)
    network = RandomFeatures()
    features, differences = [], {lag: [] for lag in LAGS}
    for start in bar:
        part = clips.load(range(start, min(start + CHUNK, sizes.clips)))
        features.append(network(part))
        for lag in LAGS:
            differences[lag].append(frame_differences(part, lag))
    figures = {
        "kimg": progress["cur_nimg"] / 1000,
        "rfvd": frechet_distance_of_features(torch.cat(features).numpy(), real.numpy()),
        "frame_differences": {str(lag): float(torch.cat(x).mean()) for lag, x in differences.items()},
    }
    views = _views_of_model(generator, sizes)
    figures.update(geometry_figures(views, generator.camera_prior, truth))
    if thorough:
        figures.update(_separation(_table_of_model(generator, sizes)))
        figures["outlines"] = _mesh_outlines(generator, sizes.meshes)
    return figures


def _mesh_outlines(generator: Generator, count: int) -> list[float]:
    """Intersection over union of the outlines of meshes and the opaque pixels, per content and view.

    As `python -m renderer.mesh --check` computes them for the seeds from 0 on; 0 where there is no surface.
    """
    G, maker = VideoGenerator(generator), GeneratedMeshes(generator, resolution=64, check=True)
    outlines = []
    for seed in range(count):
        video = G.codes(seed)
        try:
            level = maker.level(video, [0.5], name=f"seed {seed}")
            outlines += maker.mesh(video, 0.5, level)[1]["overlap"]
        except UserError:  # nothing is opaque
            outlines += [0.0] * len(CHECKED_VIEWS)
    return outlines


def _codes(generator: Generator, count: int, stream: RandomStream) -> RowCodes:
    return RowCodes(
        ws=generator.mapping(stream.normal("z", [count, generator.z_dim]), None),
        z_motion=stream.normal("z_motion", [count, generator.motion_dim]),
        z_bg=stream.normal("z_bg", [count, generator.background_dim]),
    )


def _views_of_model(generator: Generator, sizes: Sizes) -> Views:
    codes = _codes(generator, sizes.views, RandomStream(SEED))
    cameras = _view_cameras(generator.camera_prior)
    outputs = []
    for part in torch.arange(sizes.views).split(CHUNK):
        renderer = FrameRenderer(generator, **vars(codes[part]))
        outputs.append([renderer.output(0.5, camera.repeat(len(part))) for camera in cameras])
    images, depths, weights = [], [], []
    for view in zip(*outputs):
        images.append(torch.cat([to_uint8(out.image[:, 0]) for out in view]).float() / 255)
        depth, opacity = (torch.cat([getattr(out, name)[:, 0] for out in view]) for name in ("depth", "opacity"))
        depth, weight = surface_depth(depth, opacity, background=generator.background is not None)
        depths.append(depth)
        weights.append(weight)
    return Views(torch.stack(images), torch.stack(depths), torch.stack(weights), cameras)


def _table_of_model(generator: Generator, sizes: Sizes) -> torch.Tensor:
    """Videos [contents, motions, 3, T, H, W] in [0, 1] from the front; a content has one background."""
    stream = RandomStream(SEED + 1)
    codes = _codes(generator, sizes.contents, stream)
    z_motion = stream.normal("motions", [sizes.motions, generator.motion_dim])
    times = torch.linspace(0, 1, sizes.frames).tolist()
    camera = generator.camera_prior.at().repeat(sizes.motions)
    rows = []
    for content in range(sizes.contents):
        repeated = codes[torch.tensor([content] * sizes.motions)]
        renderer = FrameRenderer(generator, **vars(dataclasses.replace(repeated, z_motion=z_motion)))
        rows.append(torch.stack([to_uint8(renderer.render(time, camera)) for time in times], dim=2).float() / 255)
    return torch.stack(rows)


# ----------------------------------------------------------------------------------------------------------------------
# The ground-truth scenes


def real_features(dataset: VideoPairDataset, sizes: Sizes) -> tuple[torch.Tensor, dict]:
    """Features [clips, width] of real clips, and their frame differences."""
    network, features, differences = RandomFeatures(), [], {lag: [] for lag in LAGS}
    for index in tqdm(range(min(sizes.clips, dataset.num_clips)), desc="real clips", leave=False, disable=None):
        clip = dataset.clip(index).movedim(0, 1)[None]
        features.append(network(clip))
        for lag in LAGS:
            differences[lag].append(frame_differences(clip, lag))
    return torch.cat(features), {str(lag): float(torch.cat(x).mean()) for lag, x in differences.items()}


@torch.no_grad()
def figures_of_scenes(prior: CameraPrior, resolution: int, depth_resolution: int, sizes: Sizes):
    """The same results of the ground-truth scenes, and their mean depth maps in frontal view."""
    stream = RandomStream(SEED + 2)
    cameras = _view_cameras(prior)
    views = [[], [], []]
    for _ in tqdm(range(sizes.views), desc="scenes from three sides", leave=False, disable=None):
        fields = _scene(stream, torch.tensor([0.5]))
        for view, camera in zip(views, cameras):
            rgb, _, _ = render_frames(fields, camera, resolution, frames=1, supersample=2)
            scale = 2 * resolution // depth_resolution
            _, depth, opacity = render_frames(fields, camera, depth_resolution, frames=1, supersample=scale)
            view.append((to_uint8(rgb)[0].float() / 255, depth[0], (opacity[0] > 0.5).float()))
    kinds = ([torch.stack(kind) for kind in zip(*view)] for view in views)  # images, depths, weights of a view
    images, depth, weights = (torch.stack(kind) for kind in zip(*kinds))
    scenes = Views(images, depth, weights, cameras)
    truth = mean_maps(scenes)
    figures = geometry_figures(scenes, prior, truth)
    figures.update(_separation(_table_of_scenes(prior, resolution, sizes)))
    return figures, truth


def _scene(stream: RandomStream, times: torch.Tensor) -> Fields:
    content, motion = stream.normal("content", [CONTENT_CODE]), stream.normal("motion", [MOTION_CODE])
    background = stream.normal("background", [BACKGROUND_CODE])
    return Fields(TalkingHead(Person.from_code(content), pose_at(motion, times)), Backdrop(background))


def _table_of_scenes(prior: CameraPrior, resolution: int, sizes: Sizes) -> torch.Tensor:
    stream, times = RandomStream(SEED + 3), torch.linspace(0, 1, sizes.frames)
    motions = [stream.normal("motion", [MOTION_CODE]) for _ in range(sizes.motions)]
    rows = []
    for _ in tqdm(range(sizes.contents), desc="scenes in motion", leave=False, disable=None):
        person = Person.from_code(stream.normal("content", [CONTENT_CODE]))
        backdrop = Backdrop(stream.normal("background", [BACKGROUND_CODE]))
        row = []
        for motion in motions:
            fields = Fields(TalkingHead(person, pose_at(motion, times)), backdrop)
            rgb, _, _ = render_frames(fields, prior.at(), resolution, frames=sizes.frames, supersample=1)
            row.append(to_uint8(rgb).float().movedim(0, 1) / 255)
        rows.append(torch.stack(row))
    return torch.stack(rows)


# ----------------------------------------------------------------------------------------------------------------------
# Common to both


def _view_cameras(prior: CameraPrior) -> list[Cameras]:
    middle = (prior.yaw[0] + prior.yaw[1]) / 2
    pitch = (prior.pitch[0] + prior.pitch[1]) / 2
    return [prior.at_angles(middle + math.radians(angle), pitch) for angle in (-VIEW_ANGLE, 0.0, VIEW_ANGLE)]


def _separation(videos: torch.Tensor) -> dict:
    mixed = shuffled(videos, torch.Generator().manual_seed(SEED))
    return {**motion_and_content(videos), "shuffled": motion_and_content(mixed)}


def mean_maps(views: Views) -> dict[str, torch.Tensor]:
    """Mean depth in frontal view, its residual to the best-fitting plane, and a mask of the common surface."""
    depth, weights = views.depth[1], views.weights[1]
    common = (weights.mean(dim=0) > 0.5).to(depth.dtype)
    mean = (depth * weights).sum(dim=0) / weights.sum(dim=0).clamp(min=1)
    beyond = mean - plane_depth(mean[None], common[None])[0]
    return {"depth": mean, "beyond": beyond, "common": common}


def geometry_figures(views: Views, prior: CameraPrior, truth: dict[str, torch.Tensor]) -> dict:
    """Warping between the views, relief and parallax of the depth, and its correlation with the ground truth."""
    front, count, size = 1, views.images.shape[1], views.images.shape[-1]
    errors = []
    for side in (0, 2):
        depth, weights = interpolate_depth(views.depth[side], views.weights[side], size)
        errors.append(
            warping_errors(
                views.images[front],
                views.cameras[front].repeat(count),
                views.images[side],
                views.cameras[side].repeat(count),
                depth,
                weights,
            )  # fmt: skip
        )
    by_depth, by_plane, by_facing, unmoved = np.nanmean(torch.cat(errors).numpy(), axis=0).tolist()
    depth, weights = views.depth[front], views.weights[front]
    seen = weights.flatten(1).sum(1) >= 4
    depth, weights = depth[seen], weights[seen]
    maps = mean_maps(views)
    common = maps["common"] * truth["common"]
    mean = weighted_mean(depth, weights)[:, None, None]
    turned = prior.at(yaw=1.0).repeat(len(depth))
    return {
        "warp": {"depth": by_depth, "plane": by_plane, "facing_plane": by_facing, "none": unmoved},
        "warp_ratio": by_plane / by_depth,
        "warp_ratio_facing": by_facing / by_depth,
        "surface": float(views.weights[front].mean()),
        "depth_deviation": float(weighted_mean((depth - mean).square(), weights).mean().sqrt()),
        "relief": float(relief(depth, weights).mean()),
        "parallax": float(parallax(views.cameras[front].repeat(len(depth)), turned, depth, weights).mean()),
        "depth_correlation": correlation(maps["depth"], truth["depth"], common),
        "relief_correlation": correlation(maps["beyond"], truth["beyond"], common),
        "convex_share": _convex_share(depth, weights, truth),
    }


def _convex_share(depth: torch.Tensor, weights: torch.Tensor, truth: dict[str, torch.Tensor]) -> float:
    """Fraction of convex faces: contents whose relief correlates positively with that of the ground truth.

    The others are hollow faces (inverted depth): seen from one side they look much like a face seen from the other, and
    cameras come from both sides alike.
    """
    beyond = depth - plane_depth(depth, weights)
    likeness = [correlation(b, truth["beyond"], w * truth["common"]) for b, w in zip(beyond, weights)]
    return float(np.mean([value > 0 for value in likeness])) if likeness else float("nan")
