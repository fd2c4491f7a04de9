"""Mesh rasteriser: a z-buffer at pixel centres, clipped to the depth range of the volume renderer.

It compares a mesh with the field it was extracted from, and so uses the same rays (`renderer.cameras`): depth is the
distance along the viewing axis, and 1 / depth is linear over a projected triangle.
"""

import dataclasses

import numpy as np
import torch

from renderer.cameras import Cameras
from renderer.depth import project
from renderer.mesh.extraction import Mesh

__all__ = ["Raster", "overlap", "rasterise"]

CHUNK = 1 << 22  # triangle–pixel pairs at a time


@dataclasses.dataclass(frozen=True)
class Raster:
    """Visible surface of every pixel of a view [H, H].

    Attributes:
        covered: True where the ray meets the inside of the mesh between `near` and `far`.
        depth: Depth of the first surface there, in scene units; infinite where there is none.
        face: Index of the visible triangle, -1 for none.
        weights: Barycentric weights of its corners [H, H, 3].
    """

    covered: np.ndarray
    depth: np.ndarray
    face: np.ndarray
    weights: np.ndarray

    def colours(self, mesh: Mesh) -> np.ndarray:
        """Image [H, H, 3] uint8 of the mesh's own colours, without lighting, on white."""
        corners = mesh.colours[mesh.faces[self.face]].astype(np.float64)
        picture = np.rint((corners * self.weights[..., None]).sum(axis=-2)).clip(0, 255).astype(np.uint8)
        picture[self.face < 0] = 255
        return picture

    def shaded(self, mesh: Mesh, camera: Cameras) -> np.ndarray:
        """Image [H, H, 3] uint8 of the mesh in grey on white: brightness is the cosine to the viewing axis."""
        a, b, c = mesh.corners().transpose(1, 0, 2)
        normals = np.cross(b - a, c - a)
        cosine = (
            normals @ camera.cam2world[0, :3, 2].double().cpu().numpy() / np.linalg.norm(normals, axis=1).clip(1e-30)
        )
        grey = np.rint(40 + 200 * cosine.clip(0, 1))[self.face].astype(np.uint8)
        grey[self.face < 0] = 255
        return np.repeat(grey[..., None], 3, axis=-1)


def rasterise(mesh: Mesh, camera: Cameras, size: int, *, near: float, far: float) -> Raster:
    """A closed mesh seen by one camera on size × size pixels.

    A mesh cut by the plane at `near` appears solid: rays that start inside it are covered.
    """
    points = torch.from_numpy(mesh.vertices).double()[None, None]
    places, depth = (x[0, 0].numpy() for x in project(camera, points))
    inverse = 1 / depth[mesh.faces]  # [F, 3]
    corners = places[mesh.faces]  # [F, 3, 2]
    pixel = np.stack([(corners[..., 0] + 1) * size - 1, (1 - corners[..., 1]) * size - 1], axis=-1) / 2
    front = np.isfinite(pixel).all(axis=(1, 2))
    pixel[~front] = 0  # not used
    first = np.ceil(pixel.min(axis=1)).clip(0, size).astype(np.int64)
    last = np.floor(pixel.max(axis=1)).clip(-1, size - 1).astype(np.int64)
    spans = np.where(front[:, None], (last - first + 1).clip(0), 0)
    pairs = spans.prod(axis=1)

    crossings = np.zeros(size * size, dtype=np.int64)  # entries into minus exits from the mesh before `near`
    nearest = np.full(size * size, np.inf)
    face = np.full(size * size, -1, dtype=np.int64)
    weights = np.zeros([size * size, 3])
    chunks = np.cumsum(pairs) // CHUNK
    for chunk in np.unique(chunks[pairs > 0]):
        some = np.flatnonzero((chunks == chunk) & (pairs > 0))
        triangle = np.repeat(some, pairs[some])
        step = np.arange(len(triangle)) - np.repeat(np.cumsum(pairs[some]) - pairs[some], pairs[some])
        x = first[triangle, 0] + step % spans[triangle, 0]
        y = first[triangle, 1] + step // spans[triangle, 0]
        bary, towards = _barycentric(pixel[triangle], x, y)
        hit = (bary >= 0).all(axis=1)
        triangle, bary, towards, index = triangle[hit], bary[hit], towards[hit], (y * size + x)[hit]
        distance = 1 / (bary * inverse[triangle]).sum(axis=1)
        before = distance < near
        np.add.at(crossings, index[before], np.where(towards[before], 1, -1))
        seen = np.flatnonzero((distance >= near) & (distance <= far))
        seen = seen[np.argsort(-distance[seen], kind="stable")]  # of several writes to a pixel the last one stays
        seen = seen[distance[seen] < nearest[index[seen]]]
        nearest[index[seen]], face[index[seen]] = distance[seen], triangle[seen]
        perspective = bary[seen] * inverse[triangle[seen]]
        weights[index[seen]] = perspective / perspective.sum(axis=1, keepdims=True)
    covered = (face >= 0) | (crossings > 0)
    grid = (size, size)
    return Raster(covered.reshape(grid), nearest.reshape(grid), face.reshape(grid), weights.reshape(*grid, 3))


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks; 1 if both are empty."""
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else 1.0


def _barycentric(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights [N, 3] of pixels in triangles [N, 3, 2], and whether the triangles face the camera [N]."""
    (ax, ay), (bx, by), (cx, cy) = (corners[:, i].T for i in range(3))
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    with np.errstate(divide="ignore", invalid="ignore"):
        b = ((x - ax) * (cy - ay) - (y - ay) * (cx - ax)) / area
        c = ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / area
    return np.nan_to_num(np.stack([1 - b - c, b, c], axis=-1), nan=-1.0, posinf=-1.0, neginf=-1.0), area < 0
