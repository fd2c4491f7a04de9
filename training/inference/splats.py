"""3D Gaussians of a generator's videos: their placement, and their agreement with volume rendered images.

The command is `python -m renderer.splats`.
"""

import math
from typing import Any

import numpy as np
import torch

from renderer.mesh.extraction import Grid, sample
from renderer.mesh.trained_volume import TrainedVolume
from renderer.splats.gaussians import MIN_OPACITY, Gaussians, gaussians_of_points, opacity_of_density
from renderer.splats.rasteriser import rasterise
from renderer.video import image_grid, to_uint8
from torch_utils.caller_settings import without_autocast
from training.inference.latents import RowCodes
from training.inference.meshes import CHECKED_VIEWS, NoSurface, check_float32, point_field
from training.networks.generator import Generator

__all__ = ["GeneratedSplats", "psnr"]


class GeneratedSplats:
    """3D Gaussians of a generator's videos, one per grid point of the trained volume that is dense enough.

    Points must lie between the depths `near` and `far` of every camera in the prior's range. A viewer has no such
    limits: density that only some cameras render would hide the object from others, whose rays start behind it.

    Args:
        generator: In evaluation mode.
        resolution: Cells of the grid along the longest side of the trained volume.
        chunk: Points evaluated at a time.
        size: Width in pixels of the images that are compared.

    Raises:
        ValueError: See `check_float32`.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        resolution: int = 128,
        chunk: int = 1 << 16,
        size: int = 128,
    ):
        check_float32(generator)
        self.generator, self.chunk, self.size = generator, chunk, size
        self.device = next(generator.parameters()).device
        settings = generator.settings
        volume = TrainedVolume(generator.camera_prior, near=settings.near, far=settings.far)
        self.box = [volume.low.tolist(), volume.high.tolist()]
        self.grid = Grid.around(*self.box, resolution=resolution)
        self.inside = sample(volume.within_all_depths, self.grid, chunk=chunk) > 0
        self.inside &= sample(volume.signed_distance, self.grid, where=self.inside, chunk=chunk) > 0

    def about(self) -> dict[str, Any]:
        """Figures that all time steps have in common."""
        return {"volume": self.box, "cell": self.grid.cell, "views": list(CHECKED_VIEWS), "size": self.size}

    @without_autocast()
    def splats(self, video: RowCodes, time: float) -> Gaussians:
        """The Gaussians of a time step, with colours like the image's as the frontal camera sees them.

        Raises:
            NoSurface: Nothing is dense enough.
        """
        field = point_field(self.generator, video, time)
        density = sample(field.density, self.grid, where=self.inside, chunk=self.chunk, device=self.device)
        density = torch.from_numpy(np.nan_to_num(density, nan=0.0, posinf=np.finfo(np.float32).max))
        dense = opacity_of_density(density, self.grid.cell) >= MIN_OPACITY
        if not dense.any():
            raise NoSurface(
                f"There is nothing to show at time {time:g}: the density is nowhere above {float(density.max()):.4g}, "
                "and no Gaussian of it would be drawn. A lower resolution makes larger ones."
            )
        points = dense.nonzero().double() * self.grid.cell + torch.tensor(
            self.grid.origin, dtype=torch.float64, device="cpu"
        )
        points = points.float().to(self.device)
        colours = field.emission(points) / 2 + 0.5  # [-1, 1] to [0, 1]
        return gaussians_of_points(points, density[dense].to(self.device), colours, spacing=self.grid.cell)

    @without_autocast()
    def compare(self, gaussians: Gaussians, video: RowCodes, time: float) -> tuple[dict[str, Any], torch.Tensor]:
        """Agreement with the images of the NeRF path (`PointField.render`) from the cameras of `CHECKED_VIEWS`.

        Returns:
            PSNR in dB per view: of the `foreground` over black and of the `image`, for which the Gaussians are shown
            over the generator's background; and a picture [3, H, W]: volume rendered above rasterised images.
        """
        field = point_field(self.generator, video, time)
        values: dict[str, Any] = {"foreground": [], "image": []}
        pictures: tuple[list, list] = ([], [])
        for fraction in CHECKED_VIEWS:
            camera = self.generator.camera_prior.at(yaw=fraction).to(self.device)
            foreground, transmittance, background = field.render(camera, self.size)
            background = background / 2 + 0.5
            # [-1, 1] to [0, 1]: the half is a part of the colour, and weighted like it.
            rendered = [foreground / 2 + (1 - transmittance[..., None]) / 2]
            rendered.append(rendered[0] + transmittance[..., None] * background)
            drawn, transmittance = rasterise(gaussians, camera, self.size)
            shown = [drawn, drawn + transmittance[..., None] * background]
            for name, a, b in zip(values, rendered, shown):
                values[name].append(psnr(a, b))
            for row, picture in zip(pictures, (rendered[1], shown[1])):
                row.append(to_uint8(picture.permute(2, 0, 1)[None] * 2 - 1)[0].cpu())
        return values, image_grid(torch.stack([*pictures[0], *pictures[1]]), len(CHECKED_VIEWS))


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images whose values are clipped to [0, 1]."""
    error = float((a.clamp(0, 1) - b.clamp(0, 1)).double().square().mean())
    return -10 * math.log10(max(error, 1e-10))  # at most 100 dB, for files that hold no infinity
