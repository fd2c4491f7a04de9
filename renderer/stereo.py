"""Stereo pairs: the two eyes of a camera that looks at the origin.

Each eye is the camera turned about the origin, around its own up axis, by half the angle that the distance of the eyes
spans: asin(eye distance / 2 · radius). So both look at the origin from the camera's own distance (toed in), as cameras
of the training do, and their distance lies along the camera's x axis.
"""

import torch

from renderer.cameras import Cameras

__all__ = ["EYE_DISTANCE", "stereo_pair"]

# In scene units. Heads are framed by a volume 0.24 deep at distance 1, so a unit is about a metre: 63 mm.
EYE_DISTANCE = 0.063


def stereo_pair(cameras: Cameras, eye_distance: float = EYE_DISTANCE) -> tuple[Cameras, Cameras]:
    """The left and the right eye of N cameras.

    Args:
        cameras: Looking at the origin.
        eye_distance: Between the eyes, in scene units, above 0.

    Raises:
        ValueError: A distance that is not positive or that no two points at the camera's radius have.
    """
    cam2world = cameras.cam2world.double()
    radius = cam2world[:, :3, 3].norm(dim=-1)
    if not 0 < eye_distance < 2 * float(radius.min()):
        raise ValueError(
            f"The eye distance must lie between 0 and {2 * float(radius.min()):g}, twice the camera's distance from "
            f"the origin, got {eye_distance:g}."
        )
    half = torch.asin(eye_distance / (2 * radius))
    return tuple(
        Cameras(cam2world=(_turn(cam2world[:, :3, 1], angle) @ cam2world).float(), fov=cameras.fov)
        for angle in (-half, half)
    )


def _turn(axis: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Rotations [N, 4, 4] about unit axes [N, 3] through the origin (Rodrigues' formula)."""
    x, y, z = axis.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(-1, 3, 3)
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    matrix = torch.eye(4, dtype=axis.dtype, device=axis.device).repeat(len(axis), 1, 1)
    matrix[:, :3, :3] += sin * cross + (1 - cos) * cross @ cross
    return matrix
