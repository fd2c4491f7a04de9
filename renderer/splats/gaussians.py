"""3D Gaussians that approximate a radiance field, and their PLY files (3D Gaussian Splatting, Kerbl et al. 2023).

A density field sampled on a grid of spacing h becomes one isotropic Gaussian per grid point. With the standard
deviation s, the density σ at a point p is spread as σ h³ · N(x; p, s² I): the Gaussians of a constant density add up to
it. A ray through the centre of a Gaussian has the optical depth τ = σ h³ / (2π s²); its opacity is 1 − exp(−τ).
"""

import dataclasses
import math
import os

import numpy as np
import torch

from dnnlib import UserError, atomic_write

__all__ = [
    "MAX_OPACITY",
    "MIN_OPACITY",
    "Gaussians",
    "gaussians_of_points",
    "opacity_of_density",
    "read_ply",
    "write_ply",
]

#: Opacity limits of the paper's rasteriser: it skips a pixel below and clips above.
MIN_OPACITY, MAX_OPACITY = 1 / 255, 0.99
#: Standard deviation over the spacing: a constant density is then reproduced within 1.5 % (2 exp(−2π² s² / h²)).
SPREAD = 0.5

SH_C0 = 0.5 / math.sqrt(math.pi)  # the constant spherical harmonic

#: The file's columns, all float32: as the authors' code writes them, with spherical harmonics of degree 0.
PROPERTIES = (
    "x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity",
    "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Gaussians:
    """N Gaussians, float32.

    Attributes:
        means: [N, 3] in scene units.
        colours: [N, 3], nominally in [0, 1].
        opacities: [N] at the centre, between 0 and 1.
        scales: Standard deviations along the Gaussians' own axes [N, 3] in scene units.
        rotations: Unit quaternions [N, 4] of these axes, real part first.
    """

    means: torch.Tensor
    colours: torch.Tensor
    opacities: torch.Tensor
    scales: torch.Tensor
    rotations: torch.Tensor

    def __len__(self) -> int:
        return len(self.means)

    def select(self, index: torch.Tensor) -> "Gaussians":
        """Some of them, by indices or by a mask [N]."""
        return Gaussians(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))

    def to(self, device: torch.device | str) -> "Gaussians":
        return Gaussians(*(getattr(self, field.name).to(device) for field in dataclasses.fields(self)))

    def covariances(self) -> torch.Tensor:
        """[N, 3, 3]: R S Sᵀ Rᵀ (Kerbl et al. 2023, equation 6)."""
        w, x, y, z = self.rotations.unbind(-1)
        rows = [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ]  # fmt: skip
        scaled = torch.stack(rows, dim=-1).unflatten(-1, (3, 3)) * self.scales[:, None]
        return scaled @ scaled.transpose(1, 2)


def opacity_of_density(density: torch.Tensor, spacing: float) -> torch.Tensor:
    """Opacity at the centre of the Gaussian of a grid point; see the module's docstring."""
    return -torch.expm1(-density * spacing / (2 * math.pi * SPREAD**2))


def gaussians_of_points(
    points: torch.Tensor, density: torch.Tensor, colours: torch.Tensor, *, spacing: float
) -> Gaussians:
    """Gaussians of the points [N, 3] of a grid with their densities [N] and colours [N, 3]."""
    rotations = torch.zeros_like(points[:, :1]).expand(-1, 4).clone()
    rotations[:, 0] = 1
    return Gaussians(
        means=points,
        colours=colours,
        opacities=opacity_of_density(density, spacing).clamp(max=MAX_OPACITY),
        scales=torch.full_like(points, SPREAD * spacing),
        rotations=rotations,
    )


def write_ply(gaussians: Gaussians, path: str | os.PathLike) -> None:
    """A binary little-endian PLY file: logits of the opacities, logarithms of the scales, normals that are zero.

    Raises:
        UserError: The file cannot be written.
    """
    columns = [
        gaussians.means,
        torch.zeros_like(gaussians.means),
        (gaussians.colours - 0.5) / SH_C0,
        gaussians.opacities.logit()[:, None],
        gaussians.scales.log(),
        gaussians.rotations,
    ]
    rows = torch.cat(columns, dim=1).cpu().numpy().astype("<f4")
    with atomic_write(path) as file:
        file.write(_header(len(rows)))
        file.write(rows.tobytes())


def read_ply(path: str | os.PathLike) -> Gaussians:
    """The Gaussians in a file that `write_ply` wrote.

    Raises:
        UserError: The file cannot be read, or has another layout.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    head, mark, body = content.partition(b"end_header\n")
    size = 4 * len(PROPERTIES)
    if head + mark != _header(len(body) // size) or len(body) % size:
        raise UserError(
            f"{path} is not a PLY file of Gaussians with colours of degree 0 (binary, little-endian, the columns "
            f"{' '.join(PROPERTIES)}), or is cut off."
        )
    rows = torch.from_numpy(np.frombuffer(body, "<f4").reshape(-1, len(PROPERTIES)).astype(np.float32))
    return Gaussians(
        means=rows[:, :3],
        colours=rows[:, 6:9] * SH_C0 + 0.5,
        opacities=rows[:, 9].sigmoid(),
        scales=rows[:, 10:13].exp(),
        rotations=torch.nn.functional.normalize(rows[:, 13:], dim=-1),
    )


def _header(count: int) -> bytes:
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    lines += [f"property float {name}" for name in PROPERTIES]
    return "".join(line + "\n" for line in [*lines, "end_header"]).encode("ascii")
