"""Reference rasteriser of 3D Gaussians in plain PyTorch (3D Gaussian Splatting, Kerbl et al. 2023, sections 4 and 6).

Gaussians are projected by the local affine approximation (EWA splatting, Zwicker et al. 2002), sorted by depth and
composited front to back. Constants are those of the authors' rasteriser, so that images match a viewer's.
"""

import torch

from renderer.cameras import Cameras, focal_from_fov
from renderer.splats.gaussians import MAX_OPACITY, MIN_OPACITY, Gaussians

__all__ = ["rasterise"]

LOW_PASS = 0.3  # squared pixels, added to the projected variances
NEAR = 0.01  # in scene units
PAIRS = 1 << 22  # Gaussian–pixel pairs at a time, roughly


@torch.no_grad()
def rasterise(gaussians: Gaussians, camera: Cameras, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An image of size × size pixels from one camera.

    Returns:
        Colours [size, size, 3], multiplied by the opacity, and the transmittance left for a background [size, size].
    """
    gaussians = gaussians.select(gaussians.opacities >= MIN_OPACITY)
    centers, covariances, depths = _project(gaussians, camera, size)
    order = depths.argsort(stable=True)
    order = order[depths[order] > NEAR]
    gaussians, centers, covariances = gaussians.select(order), centers[order], covariances[order]

    # The square of pixels outside which a Gaussian's opacity is below the limit.
    a, b, c = covariances[:, 0, 0], covariances[:, 0, 1], covariances[:, 1, 1]
    largest = (a + c) / 2 + ((a - c).square() / 4 + b.square()).sqrt()  # eigenvalue
    reach = (2 * (gaussians.opacities / MIN_OPACITY).log() * largest).sqrt()[:, None]
    low = (centers - reach).ceil().clamp(min=0).long()
    high = (centers + reach).floor().clamp(max=size - 1).long()
    inverse = torch.stack([c, -b, a], dim=-1) / (a * c - b * b)[:, None]
    colours = gaussians.colours.clamp(min=0)

    image = colours.new_zeros([size * size, 3])
    log_transmittance = torch.zeros(size * size, dtype=torch.float64, device=image.device)
    columns = (high[:, 0] - low[:, 0] + 1).clamp(min=0)
    pairs = int((columns * (high[:, 1] - low[:, 1] + 1).clamp(min=0)).sum())
    rows = max(size * PAIRS // max(pairs, 1), 1)
    for top in range(0, size, rows):  # bands of rows, to bound the memory
        first, last = low[:, 1].clamp(min=top), high[:, 1].clamp(max=top + rows - 1)
        counts = columns * (last - first + 1).clamp(min=0)
        # All pairs of a Gaussian and a pixel of its square, Gaussians front to back.
        which = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        inside = torch.arange(len(which), device=counts.device) - (counts.cumsum(0) - counts)[which]
        x, y = low[which, 0] + inside % columns[which], first[which] + inside // columns[which]
        dx, dy = (torch.stack([x, y], dim=-1) - centers[which]).unbind(-1)
        xx, xy, yy = inverse[which].unbind(-1)
        alpha = gaussians.opacities[which] * torch.exp(-(xx * dx * dx + 2 * xy * dx * dy + yy * dy * dy) / 2)
        drawn = alpha >= MIN_OPACITY
        pixel, which, alpha = (y * size + x)[drawn], which[drawn], alpha[drawn].clamp(max=MAX_OPACITY)
        # Transmittance in front of each pair: a running sum of logarithms over the pixel's pairs so far.
        pixel, index = pixel.sort(stable=True)
        which, alpha = which[index], alpha[index]
        logs = torch.log1p(-alpha.double())
        before = logs.cumsum(0) - logs
        _, numbers, counts = torch.unique_consecutive(pixel, return_inverse=True, return_counts=True)
        starts = counts.cumsum(0) - counts
        weights = alpha * torch.exp(before - before[starts][numbers]).float()
        image.index_add_(0, pixel, weights[:, None] * colours[which])
        log_transmittance.index_add_(0, pixel, logs)
    return image.reshape(size, size, 3), log_transmittance.exp().float().reshape(size, size)


def _project(gaussians: Gaussians, camera: Cameras, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Centres [N, 2] (x, y; pixel centres are integers), covariances [N, 2, 2] in pixels, and depths [N]."""
    matrix = camera.cam2world[0].to(gaussians.means)
    rotation = matrix[:3, :3]
    x, y, z = ((gaussians.means - matrix[:3, 3]) @ rotation).unbind(-1)
    depth = -z  # the camera looks along its −z axis
    focal = float(focal_from_fov(camera.fov[:1].double())) * size / 2  # in pixels
    centers = torch.stack([focal * x / depth, -focal * y / depth], dim=-1) + (size - 1) / 2
    # Jacobian of the projection (Zwicker et al. 2002, equation 29); image rows count downwards.
    zero = torch.zeros_like(x)
    jacobian = torch.stack([1 / depth, zero, x / depth**2, zero, -1 / depth, -y / depth**2], dim=-1)
    transform = focal * jacobian.unflatten(-1, (2, 3)) @ rotation.T
    covariances = transform @ gaussians.covariances() @ transform.transpose(1, 2)
    return centers, covariances + LOW_PASS * torch.eye(2, dtype=x.dtype, device=x.device), depth
