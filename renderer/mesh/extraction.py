"""Surface extraction from a density field: regular grid, marching cubes, removal of floating pieces, vertex colours.

The module knows no networks or files: densities and colours are callables on points [N, 3] in scene units. The surface
lies where the density crosses a level, and is closed at the boundary of the volume.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch

from dnnlib import UserError
from renderer.video import to_uint8
from torch_utils.argument_checks import whole_number

__all__ = ["Grid", "Mesh", "colour_vertices", "density_of_opacity", "extract_surface", "remove_small_pieces", "sample"]

#: Points [N, 3] to densities [N] or colours [N, 3].
Function = Callable[[torch.Tensor], torch.Tensor]

CHUNK = 1 << 16  # points evaluated at a time


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Triangles.

    Attributes:
        vertices: [V, 3] float32, scene units.
        faces: [F, 3] int64, indices of vertices, counter-clockwise seen from outside.
        colours: [V, 3] uint8, or None.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray | None = None

    def corners(self) -> np.ndarray:
        """Corners of the triangles [F, 3 corners, 3] in double precision."""
        return self.vertices.astype(np.float64)[self.faces]

    def areas(self) -> np.ndarray:
        """Areas of the triangles [F] in squared scene units."""
        a, b, c = self.corners().transpose(1, 0, 2)
        return np.linalg.norm(np.cross(b - a, c - a), axis=-1) / 2

    def normals(self) -> np.ndarray:
        """Outward unit normals of the vertices [V, 3] float32: the mean of the triangles around each, by their areas.

        Vertices of no triangle with an area have (1, 0, 0), as files need normals of length 1.
        """
        a, b, c = self.corners().transpose(1, 0, 2)
        weighted, corner = np.cross(b - a, c - a), self.faces.ravel()
        sums = [np.bincount(corner, np.repeat(part, 3), minlength=len(self.vertices)) for part in weighted.T]
        total = np.stack(sums, axis=-1)
        length = np.linalg.norm(total, axis=-1, keepdims=True)
        return np.where(length > 0, total / np.where(length > 0, length, 1), [1.0, 0.0, 0.0]).astype(np.float32)

    def volume(self) -> float:
        """The volume that a closed mesh encloses, in cubic scene units; negative if its faces point inwards."""
        a, b, c = self.corners().transpose(1, 0, 2)
        return float((a * np.cross(b, c)).sum() / 6)


@dataclasses.dataclass(frozen=True)
class Grid:
    """Points origin + cell · (i, j, k) with 0 ≤ (i, j, k) < shape."""

    origin: tuple[float, float, float]
    cell: float
    shape: tuple[int, int, int]

    @classmethod
    def around(cls, low, high, *, resolution: int) -> "Grid":
        """Cubic cells, `resolution` along the longest side of a box, with a margin of at least one cell around the box.

        Raises:
            ValueError: The box is empty, or `resolution` is not a whole number of at least 2.
        """
        resolution = whole_number("resolution", resolution, low=2)
        low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
        if not (high > low).all():
            raise ValueError(f"a grid needs low < high, got {low} and {high}.")
        cell = float((high - low).max()) / resolution
        counts = np.ceil((high - low) / cell - 1e-6) + 2
        origin = (low + high - counts * cell) / 2
        return cls(tuple(origin.tolist()), cell, tuple(int(n) + 1 for n in counts))

    def __len__(self) -> int:
        return math.prod(self.shape)

    def points(self, start: int, stop: int, device: torch.device | str = "cpu") -> torch.Tensor:
        """Some of the points, [stop − start, 3], the last axis running fastest."""
        index = torch.arange(start, min(stop, len(self)), device=device)
        axes = (index // (self.shape[1] * self.shape[2]), index // self.shape[2] % self.shape[1], index % self.shape[2])
        coordinates = [axis.double() * self.cell + origin for axis, origin in zip(axes, self.origin)]
        return torch.stack(coordinates, dim=-1).float()


def density_of_opacity(alpha: float, length: float) -> float:
    """The density σ at which a step of the given length has opacity α = 1 − exp(−σ·length)."""
    return -math.log1p(-alpha) / length


@torch.no_grad()
def sample(
    function: Function,
    grid: Grid,
    *,
    where: np.ndarray | None = None,
    chunk: int = CHUNK,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Values of a function at all points of a grid, float32 of the grid's shape.

    Args:
        where: Mask of the grid's shape: evaluate only these points; the others are 0.
        chunk: Points at a time, which bounds the memory beyond the result.
        device: Device of the points that the function receives.

    Raises:
        ValueError: `chunk` is not a whole number of at least 1.
    """
    whole_number("chunk", chunk, low=1)
    values = np.zeros(len(grid), dtype=np.float32)
    wanted = None if where is None else where.reshape(-1)
    for start in range(0, len(grid), chunk):
        points = grid.points(start, start + chunk, device)
        part = values[start : start + chunk]
        if wanted is None:
            part[:] = function(points).float().cpu().numpy()
        elif (some := wanted[start : start + chunk]).any():
            part[some] = function(points[torch.from_numpy(some).to(points.device)]).float().cpu().numpy()
    return values.reshape(grid.shape)


def extract_surface(density: np.ndarray, grid: Grid, *, level: float, inside: np.ndarray | None = None) -> Mesh | None:
    """The closed surface around all space denser than `level` (marching cubes); None if there is none.

    Args:
        density: Density at the points of the grid. NaN counts as empty.
        inside: Signed distances to the boundary of the volume (positive inside, scene units), where the surface is
            closed smoothly if the density continues beyond it. None: closed at the edge of the grid.

    Raises:
        UserError: scikit-image is not installed.
    """
    try:
        from skimage.measure import marching_cubes
    except ImportError as error:
        raise UserError("Surfaces need scikit-image: install it with `pip install scikit-image trimesh`.") from error

    # Positive inside. With density in units of the level and distance in cells, both have similar slopes, so that the
    # edge between them is well placed.
    values = np.nan_to_num(density, nan=0.0, posinf=np.finfo(np.float32).max, neginf=0.0) / level - 1
    if inside is not None:
        values = np.minimum(values, inside / grid.cell)
    values = np.clip(values, -1, 1).astype(np.float32)
    for axis in range(3):  # the surface must close before the grid ends
        for end in (0, -1):
            values[(slice(None),) * axis + (end,)] = -1
    # A value of exactly zero would put several vertices in one place.
    values[np.abs(values) < 1e-5] = -1e-5
    if not (values > 0).any():
        return None
    vertices, faces, _, _ = marching_cubes(values, 0.0, gradient_direction="ascent")  # faces look outward
    vertices = vertices.astype(np.float64) * grid.cell + np.array(grid.origin)
    return Mesh(vertices.astype(np.float32), faces.astype(np.int64))


def remove_small_pieces(mesh: Mesh, share: float) -> tuple[Mesh, int]:
    """The mesh without connected pieces of less than `share` of the largest piece's area, and the number removed.

    The surface of a cavity inside a piece counts as a piece of its own.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(mesh.vertices)
    first, second = mesh.faces.ravel(), np.roll(mesh.faces, 1, axis=1).ravel()
    edges = coo_matrix((np.ones(len(first), dtype=bool), (first, second)), shape=(count, count))
    total, labels = connected_components(edges, directed=False)
    area = np.bincount(labels[mesh.faces[:, 0]], weights=mesh.areas(), minlength=total)
    kept = area >= share * area.max()
    keep = kept[labels]
    number = np.cumsum(keep) - 1
    faces = number[mesh.faces[keep[mesh.faces[:, 0]]]]
    colours = None if mesh.colours is None else mesh.colours[keep]
    return Mesh(mesh.vertices[keep], faces, colours), int(total - kept.sum())


@torch.no_grad()
def colour_vertices(
    mesh: Mesh,
    colour: Function,
    *,
    chunk: int = CHUNK,
    device: torch.device | str = "cpu",
) -> Mesh:
    """The mesh with colours: `colour` maps points [N, 3] to pixels [N, 3] in [-1, 1]."""
    points = torch.from_numpy(mesh.vertices).to(device)
    pixels = torch.cat([colour(part).cpu() for part in points.split(chunk)])
    return dataclasses.replace(mesh, colours=to_uint8(pixels).numpy())
