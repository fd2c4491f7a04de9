"""What the discriminators are told of a video's camera, with `camera_condition=true`.

Without it, a picture on a plane passes for a head if only it is painted as turned: nobody can say that the camera was
in front. Discriminators that are given the camera can, as in EG3D (Chan et al., 2022). Cameras of real videos come from
the data set, those of generated ones are drawn from the prior as always. The generator is not told: what it makes must
suit every camera.
"""

import math

import torch

from renderer.cameras import CameraPrior

__all__ = ["CAMERA_LABEL", "camera_label"]

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
