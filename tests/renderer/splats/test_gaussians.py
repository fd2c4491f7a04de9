"""Gaussians of a density grid, and their files read back byte for byte by another reader."""

import math
import struct

import numpy as np
import pytest
import torch
import trimesh

from dnnlib import UserError
from renderer.splats.gaussians import Gaussians, gaussians_of_points, opacity_of_density, read_ply, write_ply

TWO = Gaussians(
    means=torch.tensor([[0.1, -0.2, 0.3], [0.0, 0.5, -1.0]]),
    colours=torch.tensor([[1.0, 0.5, 0.0], [0.25, 0.75, 1.5]]),
    opacities=torch.tensor([0.5, 0.9]),
    scales=torch.tensor([[0.01, 0.02, 0.03], [1.0, 1.0, 1.0]]),
    rotations=torch.tensor([[1.0, 0, 0, 0], [0.5, -0.5, 0.5, 0.5]]),
)
HEADER = """\
ply
format binary_little_endian 1.0
element vertex 2
property float x
property float y
property float z
property float nx
property float ny
property float nz
property float f_dc_0
property float f_dc_1
property float f_dc_2
property float opacity
property float scale_0
property float scale_1
property float scale_2
property float rot_0
property float rot_1
property float rot_2
property float rot_3
end_header
"""


def test_a_file_has_the_layout_of_the_paper_s_code(tmp_path):
    write_ply(TWO, tmp_path / "a.ply")
    content = (tmp_path / "a.ply").read_bytes()
    assert content[: len(HEADER)] == HEADER.encode("ascii") and len(content) == len(HEADER) + 2 * 17 * 4
    first, second = (struct.unpack_from("<17f", content, len(HEADER) + i * 68) for i in range(2))
    c0 = 0.28209479177387814  # the authors' constant
    expected = [0.1, -0.2, 0.3, 0, 0, 0, 0.5 / c0, 0, -0.5 / c0, 0, *np.log([0.01, 0.02, 0.03]), 1, 0, 0, 0]
    assert first == pytest.approx(expected, rel=1e-6, abs=1e-7)
    expected = [0, 0.5, -1, 0, 0, 0, -0.25 / c0, 0.25 / c0, 1 / c0, math.log(9), 0, 0, 0, 0.5, -0.5, 0.5, 0.5]
    assert second == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_files_are_read_back_here_and_by_a_general_reader(tmp_path):
    write_ply(TWO, tmp_path / "a.ply")
    read = read_ply(tmp_path / "a.ply")
    for name in ("means", "colours", "opacities", "scales", "rotations"):
        torch.testing.assert_close(getattr(read, name), getattr(TWO, name), rtol=1e-6, atol=1e-7)
    cloud = trimesh.load(tmp_path / "a.ply")
    np.testing.assert_array_equal(cloud.vertices.astype(np.float32), TWO.means.numpy())


@pytest.mark.parametrize("edit", [lambda c: c[:-4], lambda c: c.replace(b"scale_0", b"scale_9"), lambda c: b"glTF"])
def test_other_files_are_refused(tmp_path, edit):
    write_ply(TWO, tmp_path / "a.ply")
    (tmp_path / "b.ply").write_bytes(edit((tmp_path / "a.ply").read_bytes()))
    with pytest.raises(UserError, match=r"b.ply is not a PLY file of Gaussians with .* or is cut off"):
        read_ply(tmp_path / "b.ply")


def test_paths_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(UserError, match=r"Cannot read .*missing.ply: No such file"):
        read_ply(tmp_path / "missing.ply")
    with pytest.raises(UserError, match=r"missing/a.ply"):
        write_ply(TWO, tmp_path / "missing" / "a.ply")


def test_covariances_are_those_of_turned_axes():
    # (0.5, -0.5, 0.5, 0.5) turns x to -z, y to -x and z to y.
    turned = Gaussians(TWO.means, TWO.colours, TWO.opacities, TWO.scales[[0, 0]], TWO.rotations)
    covariances = turned.covariances()
    squares = torch.tensor([0.01, 0.02, 0.03]).square()
    torch.testing.assert_close(covariances[0], squares.diag())
    torch.testing.assert_close(covariances[1], squares[[1, 2, 0]].diag())


def test_gaussians_of_a_constant_density_add_up_to_it():
    spacing, density = 0.1, 3.0
    axis = torch.arange(-6, 7, dtype=torch.float64) * spacing
    points = torch.cartesian_prod(axis, axis, axis)
    some = gaussians_of_points(points, torch.full([len(points)], density), torch.zeros_like(points), spacing=spacing)
    variance = float(some.scales[0, 0]) ** 2
    # Densities near the middle of the grid, between its points too.
    queries = torch.rand([20, 3], generator=torch.Generator().manual_seed(0), dtype=torch.float64) * spacing
    kernels = torch.exp(-torch.cdist(queries, points).square() / (2 * variance)) / (2 * math.pi * variance) ** 1.5
    values = (density * spacing**3 * kernels).sum(dim=1)
    assert float((values / density - 1).abs().max()) < 0.05
    # And the optical depth through the centre of one, whose cross-section's peak is 1 / (2π s²).
    expected = 1 - math.exp(-density * spacing**3 / (2 * math.pi * variance))
    assert float(some.opacities[0]) == pytest.approx(expected, rel=1e-6)
    assert float(opacity_of_density(torch.tensor(1e9), spacing)) == 1.0


def test_opacities_end_where_the_rasteriser_clips_them():
    points = torch.zeros([2, 3])
    some = gaussians_of_points(points, torch.tensor([1e9, 0.0]), points, spacing=0.1)
    assert some.opacities.tolist() == pytest.approx([0.99, 0])
