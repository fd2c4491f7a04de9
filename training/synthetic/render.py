"""A synthetic video: its configuration, frames and ground truth."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from renderer.cameras import CameraPrior, Cameras, pixel_centers
from renderer.rays import Rays, RenderSettings
from renderer.video import to_uint8
from renderer.volume_rendering import Fields, render_rays
from torch_utils.argument_checks import whole_number
from torch_utils.rng import RandomStream
from training.synthetic.head_model import Backdrop, TalkingHead
from training.synthetic.parameters import BACKGROUND_CODE, CONTENT_CODE, MOTION_CODE, Person, pose_at

__all__ = ["DEPTH_UNIT", "SyntheticConfig", "Truth", "render_frames", "render_video"]

VERSION = 2  # of the set: raise it when anything changes in its files
VERSION_ELSEWHERE = 3  # of a set with cameras at other distances than 1
DEPTH_UNIT = 1 / 16384  # scene units per step of a stored depth: 16 bits reach to 4
SHELL = RenderSettings(num_samples=20, num_importance=16, num_background=2, near=0.8, far=1.2)
AT_ONE = CameraPrior(radius=(1.0, 1.0))  # cameras for which this shell contains the heads; for others it moves
FARTHEST = 3.8  # distance of a camera for which it ends at the largest stored depth
RAYS_AT_A_TIME = 256  # times samples and frames; the working set stays in the cache


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Configuration of a synthetic dataset.

    Attributes:
        videos, frames: Number of videos, frames of each.
        resolution: Pixels per side.
        supersample: Rays per pixel along each axis.
        seed: Seed of all random numbers.
        camera: Keyword arguments of `renderer.cameras.CameraPrior`.

    Raises:
        TypeError, ValueError: `camera` is something else, cameras are too far away for the stored depths, or another
            value is no whole number in its range.
    """

    videos: int
    frames: int
    resolution: int
    supersample: int
    seed: int
    camera: Mapping[str, Any]

    def __post_init__(self):
        for name in ("videos", "frames", "resolution", "supersample", "seed"):
            whole_number(name, getattr(self, name), low=0 if name == "seed" else 1)
        farthest = self.prior().radius[1]  # errors come before the rendering
        if farthest > FARTHEST:
            raise ValueError(
                f"camera.radius: synthetic heads are seen from at most {FARTHEST:g} scene units, got {farthest:g}."
            )

    def prior(self) -> CameraPrior:
        """The distribution of the cameras."""
        return CameraPrior(**self.camera)

    def as_dict(self) -> dict[str, Any]:
        version = VERSION if self.prior().radius == AT_ONE.radius else VERSION_ELSEWHERE
        return {"version": version, **dataclasses.asdict(self)}

    def key(self) -> str:
        """Name of the set in a cache: sets with different images have different names."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class Truth:
    """Ground truth of a video of T frames of H×H pixels.

    Attributes:
        depth: float32 [T, H, H], distance along the viewing axis in scene units; NaN outside the head.
        opacity: float32 [T, H, H] of the head, 0 to 1.
        cam2world: [4, 4] and fov (degrees), see `renderer.cameras`.
        times: [T] in [0, 1].
        content, motion, background: The codes.
    """

    depth: np.ndarray
    opacity: np.ndarray
    cam2world: np.ndarray
    fov: float
    times: np.ndarray
    content: np.ndarray
    motion: np.ndarray
    background: np.ndarray

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Truth":
        with np.load(path) as file:
            depth = file["depth"].astype(np.float32) * DEPTH_UNIT
            depth[file["depth"] == 0] = np.nan
            rest = {name: file[name] for name in ("cam2world", "times", "content", "motion", "background")}
            return cls(depth=depth, opacity=file["opacity"].astype(np.float32) / 255, fov=float(file["fov"]), **rest)


@torch.no_grad()
def render_video(config: SyntheticConfig, index: int) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """Frames uint8 [T, 3, H, H] of a video, and its ground truth as it is stored."""
    stream = RandomStream(int(np.random.SeedSequence([config.seed, index]).generate_state(1, np.uint64)[0] >> 1))
    content = stream.normal("synthetic/content", [CONTENT_CODE])
    motion = stream.normal("synthetic/motion", [MOTION_CODE])
    background = stream.normal("synthetic/background", [BACKGROUND_CODE])
    camera = config.prior().sample(1, stream)
    times = torch.linspace(0, 1, config.frames, dtype=torch.float64)
    fields = Fields(TalkingHead(Person.from_code(content), pose_at(motion, times)), Backdrop(background))
    rgb, depth, opacity = render_frames(
        fields, camera, config.resolution, frames=config.frames, supersample=config.supersample
    )
    steps = (depth / DEPTH_UNIT).round().clamp(0, 65535).numpy().astype(np.uint16)
    truth = {
        "depth": np.where(opacity.numpy() > 0.5, steps, 0).astype(np.uint16),
        "opacity": (opacity * 255).round().numpy().astype(np.uint8),
        "cam2world": camera.cam2world[0].numpy(),
        "fov": camera.fov[0].numpy(),
        "times": times.numpy(),
        "content": content.numpy(),
        "motion": motion.numpy(),
        "background": background.numpy(),
    }
    return to_uint8(rgb), truth


def render_frames(
    fields: Fields, camera: Cameras, resolution: int, *, frames: int, supersample: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Colours [T, 3, H, H] in [-1, 1], depth and opacity [T, H, H] of analytic fields seen by one camera.

    A pixel is the mean of supersample² rays; its depth the mean of theirs, weighted by their opacity.
    """
    offsets = AT_ONE.depth_offsets(camera, SHELL.near)
    rays = Rays.through(pixel_centers(resolution * supersample), camera, offsets)
    out = render_rays(fields, rays, SHELL, frames=frames, chunk=RAYS_AT_A_TIME)

    def pixels(x: torch.Tensor) -> torch.Tensor:
        """[1, T, R, C] to [T, C, H, H]."""
        size = resolution * supersample
        x = x[0].movedim(-1, 1).unflatten(-1, (size, size))
        return torch.nn.functional.avg_pool2d(x, supersample)

    opacity = pixels(1 - out.transmittance[..., None])
    # The expected depth counts empty samples as zero, so the mean is already weighted by opacity.
    depth = pixels(out.depth[..., None]) / opacity.clamp(min=1e-6)
    return pixels(out.values), depth[:, 0], opacity[:, 0]
