"""Meshes of a generator's videos: the density level of the surface, its extraction, its agreement with rendered frames.

The command is `python -m renderer.mesh`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import interpolate

from dnnlib import UserError
from renderer.mesh.extraction import (
    Grid,
    Mesh,
    colour_vertices,
    density_of_opacity,
    extract_surface,
    remove_small_pieces,
    sample,
)
from renderer.mesh.rasteriser import overlap, rasterise
from renderer.mesh.silhouettes import matching_level, peak_densities
from renderer.mesh.trained_volume import TrainedVolume
from renderer.video import image_grid, to_uint8
from torch_utils.argument_checks import check_network, check_number, is_list, shown
from torch_utils.caller_settings import without_autocast
from training.inference.arguments import check_codes
from training.inference.frame_renderer import FrameRenderer
from training.inference.latents import RowCodes
from training.inference.point_query import PointField
from training.networks.generator import Generator

__all__ = ["CHECKED_VIEWS", "GeneratedMeshes", "NoSurface", "check_float32", "point_field", "require_all"]

VIEWS = (0.0, 0.5, 1.0)  # fractions of the range of yaw: where the level is matched, and of previews
MATCHED_STEPS = 8  # time steps of a video, at most
CHECKED_VIEWS = (0.0, 0.25, 0.5, 0.75, 1.0)  # likewise: where meshes and splats are compared with the field
CHECKED_SIZE = 64  # pixels along a side, more than the level was matched with
PREVIEW_SIZE = 192  # pixels of a view


class NoSurface(UserError):
    """There is nothing to show in a video, or at one of its times; others may show something."""


def require_all(missing: Sequence[str], *, what: str) -> None:
    """Raise a UserError if a command left files out for these reasons, which it has printed; the first one is named."""
    if missing:
        more = f" {len(missing) - 1} further ones are listed above." if len(missing) > 1 else ""
        raise UserError(f"Not all {what} were written: {missing[0]}{more}")


def check_float32(generator: Generator) -> None:
    """Refuse a generator that meshes and splats cannot be made of.

    Raises:
        ValueError: It is not a network, or not in float32.
    """
    check_network("generator", generator, "synthesize")
    dtype = next(generator.parameters()).dtype
    if dtype != torch.float32:
        raise ValueError(f"meshes and splats need a generator in float32, got {dtype}: load it without dtype=.")


def point_field(generator: Generator, video: RowCodes, time: float) -> PointField:
    """The field of a video at one of its times.

    Raises:
        ValueError: No codes of one video, or no time.
    """
    check_codes(generator, video=video)
    return PointField(generator, **vars(video), time=time)


class GeneratedMeshes:
    """Meshes of a generator's videos.

    Args:
        generator: In evaluation mode.
        resolution: Cells of the grid along the longest side of the trained volume.
        level: Density at the surface; None: see `level`.
        min_piece: See `remove_small_pieces`.
        chunk: Points evaluated at a time.
        check: Add the agreement with the rendered opacity to the figures of a mesh.

    Raises:
        ValueError: See `check_float32`; or a level that is not a number above 0, a smallest piece not from 0 to 1, or a
            chunk that is no whole number of at least 1.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        resolution: int = 128,
        level: float | None = None,
        min_piece: float = 0.02,
        chunk: int = 1 << 16,
        check: bool = False,
    ):
        check_number("min_piece", min_piece, 0, 1, inclusive=True)
        if level is not None:
            check_number("level", level, 0)
        check_float32(generator)
        self.generator, self.chunk, self.check = generator, chunk, check
        self.device = next(generator.parameters()).device
        self.min_piece, self._level = min_piece, level
        settings = generator.settings
        volume = TrainedVolume(generator.camera_prior, near=settings.near, far=settings.far)
        self.box = [volume.low.tolist(), volume.high.tolist()]
        self.grid = Grid.around(*self.box, resolution=resolution)
        self.inside = sample(volume.signed_distance, self.grid, chunk=chunk)

    def about(self) -> dict[str, Any]:
        """Figures that all meshes have in common."""
        return {"volume": self.box, "cell": self.grid.cell, "views": list(CHECKED_VIEWS) if self.check else []}

    @without_autocast()
    def level(self, video: RowCodes, times: Sequence[float], *, name: str) -> float:
        """The density at the surface, the same for all time steps of a video, B = 1.

        The given level, or the one that agrees best with the rendered opacity at some of the time steps, seen from
        three cameras (see `renderer.mesh.silhouettes`). Of levels that agree equally well, it is the one nearest to the
        density at which a step of the training's length is half opaque.

        Raises:
            NoSurface: Nothing is opaque; `name` is the video's name in the message.
            ValueError: No codes of one video, or no times.
        """
        if not is_list(times) or len(times) == 0:
            raise ValueError(f"times must be one number or more in a list, got {shown(times)}.")
        if self._level is not None:
            return self._level
        settings = self.generator.settings
        cameras = self.generator.camera_prior.at(yaw=list(VIEWS)).to(self.device)
        size, near, far = settings.resolution, settings.near, settings.far
        fields = [point_field(self.generator, video, time) for time in times[:: math.ceil(len(times) / MATCHED_STEPS)]]
        peaks = [peak_densities(field.density, cameras, size, near=near, far=far) for field in fields]
        opacities = [field.opacity(cameras[i], size)[None] for field in fields for i in range(len(cameras))]
        step = (far - near) / (settings.num_samples - 1)
        level = matching_level(peaks, opacities, sharp=density_of_opacity(0.5, step))
        if level is None:
            highest = max(float(peak.max()) for peak in peaks)
            hint = f" A level below {highest:.3g}, its highest density, would make one." if highest > 0 else ""
            raise NoSurface(f"No ray of {name} is half opaque in the foreground: there is no surface to show.{hint}")
        return level

    @without_autocast()
    def mesh(self, video: RowCodes, time: float, level: float) -> tuple[Mesh, dict[str, Any]]:
        """The coloured mesh of a time step, and figures about it.

        Raises:
            NoSurface: Nothing is denser than the level.
            ValueError: No codes of one video, no time, or a level that is not a number above 0.
        """
        check_number("level", level, 0)
        field = point_field(self.generator, video, time)
        # One more cell is needed beyond the volume's end, so that the surface can be placed in between.
        where = self.inside > -2 * self.grid.cell
        density = sample(field.density, self.grid, where=where, chunk=self.chunk, device=self.device)
        mesh = extract_surface(density, self.grid, level=level, inside=self.inside)
        if mesh is None:
            trained = density[(self.inside > 0) & (density <= level)]  # without NaN, which counts as empty
            raise NoSurface(
                f"There is no surface at time {time:g}: the density is nowhere in the trained volume above "
                f"{trained.max(initial=0):.4g}, and the level is {level:.4g}."
            )
        mesh, removed = remove_small_pieces(mesh, self.min_piece)
        mesh = colour_vertices(mesh, field.colour, chunk=self.chunk, device=self.device)
        row = {
            "vertices": len(mesh.vertices),
            "faces": len(mesh.faces),
            "removed_pieces": removed,
            "low": mesh.vertices.min(axis=0).tolist(),
            "high": mesh.vertices.max(axis=0).tolist(),
            "area": float(mesh.areas().sum()),
            "enclosed_volume": mesh.volume(),
        }
        if self.check:
            row["overlap"] = self._overlaps(mesh, field)
        return mesh, row

    @without_autocast()
    def preview(self, mesh: Mesh, video: RowCodes, time: float) -> torch.Tensor:
        """Image [3, H, W]: rendered views, the mesh's colours, its shape; a column per camera."""
        rows = ([], [], [])
        renderer = FrameRenderer(self.generator, **vars(video))
        for fraction in VIEWS:
            camera = self.generator.camera_prior.at(yaw=fraction)
            image = interpolate(renderer.render(time, camera), [PREVIEW_SIZE, PREVIEW_SIZE], mode="bilinear")
            raster = rasterise(mesh, camera, PREVIEW_SIZE, near=0.0, far=math.inf)
            drawn = [raster.colours(mesh), raster.shaded(mesh, camera)]
            pictures = [to_uint8(image[0]).cpu(), *(torch.from_numpy(picture).permute(2, 0, 1) for picture in drawn)]
            for row, picture in zip(rows, pictures):
                row.append(picture)
        return image_grid(torch.stack([picture for row in rows for picture in row]), len(VIEWS))

    def _overlaps(self, mesh: Mesh, field: PointField) -> list[float]:
        """Intersection over union of the mesh's outline and the opaque pixels, per view."""
        settings, found = self.generator.settings, []
        for fraction in CHECKED_VIEWS:
            camera = self.generator.camera_prior.at(yaw=fraction)
            opaque = (field.opacity(camera.to(self.device), CHECKED_SIZE) > 0.5).cpu().numpy()
            raster = rasterise(mesh, camera, CHECKED_SIZE, near=settings.near, far=settings.far)
            found.append(overlap(raster.covered, opaque))
        return found
