"""How much a clip moves, and how much it flickers.

Motion: mean length of the optical flow in pixels per frame, by the method of Lucas and Kanade (1981): in a window
around every pixel, the displacement whose first-order effect explains the difference of two frames best, in the sense
of least squares. It holds for displacements of about a pixel; larger ones come out too small. Pixels whose window has
texture in one direction only show the part of the motion along it; pixels without texture are left out.

Flicker: root mean square of the second difference of the frames in time, divided by that of the first difference. In
terms of a pixel's course over time this is 0 for a steady change, √2 for a random walk, √3 for independent noise, and 2
if it jumps to and fro with every frame.
"""

import torch
from torch.nn import functional as F

__all__ = ["flicker", "mean_flow_length"]

WINDOW = 7  # pixels
TEXTURE = 1e-4  # smallest mean square gradient, grey levels from 0 to 1, for a window to count


def mean_flow_length(clips: torch.Tensor) -> torch.Tensor:
    """Mean length of the optical flow over pixels with texture, pixels per frame.

    Args:
        clips: uint8 [N, 3, T, H, W]; T at least 2.

    Returns:
        float64 [N]; 0 for a clip without texture.
    """
    grey = clips.double().mean(dim=1) / 255  # [N, T, H, W]
    middle = (grey[:, 1:] + grey[:, :-1]) / 2
    dt = grey[:, 1:] - grey[:, :-1]
    dx = F.pad(middle[..., 2:] - middle[..., :-2], [1, 1]) / 2
    dy = F.pad(middle[..., 2:, :] - middle[..., :-2, :], [0, 0, 1, 1]) / 2
    xx, xy, yy, xt, yt = (_window(a * b) for a, b in ((dx, dx), (dx, dy), (dy, dy), (dx, dt), (dy, dt)))
    # Regularised a little: in a window with texture in one direction only the equations are singular.
    trace = xx + yy
    ridge = 1e-3 * trace + 1e-12
    determinant = (xx + ridge) * (yy + ridge) - xy * xy
    u = -((yy + ridge) * xt - xy * yt) / determinant
    v = -((xx + ridge) * yt - xy * xt) / determinant
    textured = (trace > TEXTURE).double()
    length = (u.square() + v.square()).sqrt() * textured
    return length.sum(dim=[1, 2, 3]) / textured.sum(dim=[1, 2, 3]).clamp(min=1)


def _window(x: torch.Tensor) -> torch.Tensor:
    """Mean over the window around each pixel, [N, T, H, W]; windows end at the border."""
    return F.avg_pool2d(x, WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False)


def flicker(clips: torch.Tensor) -> torch.Tensor:
    """Second over first differences in time.

    Args:
        clips: uint8 [N, 3, T, H, W]; T at least 3.

    Returns:
        float64 [N]; 0 for a clip that stands still.
    """
    x = clips.double()
    first = x[:, :, 1:] - x[:, :, :-1]
    second = first[:, :, 1:] - first[:, :, :-1]
    power = first.square().mean(dim=[1, 2, 3, 4])
    return (second.square().mean(dim=[1, 2, 3, 4]) / power.clamp(min=1e-12)).sqrt()
