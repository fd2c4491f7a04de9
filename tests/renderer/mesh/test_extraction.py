"""Surfaces of known shape, size, orientation and colours."""

import math

import numpy as np
import pytest
import torch

from renderer.mesh.extraction import (
    Grid,
    Mesh,
    colour_vertices,
    density_of_opacity,
    extract_surface,
    remove_small_pieces,
    sample,
)

CENTRE = torch.tensor([0.01, -0.02, 0.015])
HALF = torch.tensor([0.08, 0.05, 0.11])  # of the box
RADIUS = 0.09
GRID = Grid.around([-0.12, -0.15, -0.14], [0.12, 0.15, 0.14], resolution=48)


def sphere(points):
    return 30.0 * ((points - CENTRE).norm(dim=-1) < RADIUS)


def soft_sphere(points):
    return (RADIUS - (points - CENTRE).norm(dim=-1)) * 1000 + 5  # the density is 5 at the radius


def box(points):
    return 30.0 * ((points - CENTRE).abs() < HALF).all(dim=-1)


def surface(function, level=15.0, grid=GRID, **arguments):
    return extract_surface(sample(function, grid), grid, level=level, **arguments)


def assert_closed_and_outward(mesh: Mesh):
    """Every edge has two triangles, which run along it in opposite directions, and the volume is positive."""
    edges = np.concatenate([mesh.faces, np.roll(mesh.faces, -1, axis=1)], axis=0).reshape(2, -1).T
    forward = {tuple(edge) for edge in edges.tolist()}
    assert len(forward) == len(edges)
    assert {(b, a) for a, b in forward} == forward
    assert mesh.volume() > 0


def test_a_sphere_has_its_radius_within_a_cell_and_faces_that_look_outward():
    mesh = surface(sphere)
    assert_closed_and_outward(mesh)
    distance = np.linalg.norm(mesh.vertices - CENTRE.numpy(), axis=1)
    assert np.abs(distance - RADIUS).max() < GRID.cell
    assert mesh.volume() == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.03)
    a, b, c = mesh.corners().transpose(1, 0, 2)
    outward = (np.cross(b - a, c - a) * ((a + b + c) / 3 - CENTRE.numpy())).sum(axis=1)
    assert (outward > 0).all()


def test_a_density_that_changes_smoothly_gives_the_surface_far_below_a_cell():
    mesh = surface(soft_sphere, level=5.0)
    assert_closed_and_outward(mesh)
    distance = np.linalg.norm(mesh.vertices - CENTRE.numpy(), axis=1)
    assert np.abs(distance - RADIUS).max() < GRID.cell / 20
    assert mesh.areas().sum() == pytest.approx(4 * math.pi * RADIUS**2, rel=0.01)


def test_a_box_has_its_edges_within_a_cell():
    mesh = surface(box)
    assert_closed_and_outward(mesh)
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    assert np.abs(low - (CENTRE - HALF).numpy()).max() < GRID.cell
    assert np.abs(high - (CENTRE + HALF).numpy()).max() < GRID.cell
    assert mesh.volume() == pytest.approx(8 * float(HALF.prod()), rel=0.1)
    # No vertex lies further than a cell from the box's faces.
    outside = np.abs(mesh.vertices - CENTRE.numpy()) - HALF.numpy()
    assert np.abs(outside.max(axis=1)).max() < GRID.cell


def test_the_surface_closes_where_the_volume_ends():
    """Density everywhere: the surface is that of `inside`, or of the grid itself."""
    full = np.full(GRID.shape, 9.0, dtype=np.float32)
    mesh = extract_surface(full, GRID, level=1.0)
    assert_closed_and_outward(mesh)
    assert mesh.volume() == pytest.approx(math.prod((n - 2) * GRID.cell for n in GRID.shape), rel=0.01)
    inside = sample(lambda p: RADIUS - p.norm(dim=-1), GRID)
    mesh = extract_surface(full, GRID, level=1.0, inside=inside)
    assert_closed_and_outward(mesh)
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - RADIUS).max() < GRID.cell / 20


def test_no_surface_and_what_is_no_number():
    assert surface(sphere, level=31.0) is None
    broken = sample(sphere, GRID)
    broken[0, 0, 0], broken[3, 4, 5], broken[20, 20, 20] = math.nan, math.nan, math.inf
    mesh = extract_surface(broken, GRID, level=15.0)
    assert np.isfinite(mesh.vertices).all()
    assert_closed_and_outward(mesh)
    assert mesh.volume() == pytest.approx(surface(sphere).volume(), rel=1e-6), "infinite density is no hole"


def test_the_grid_surrounds_the_box_with_a_cell_to_spare():
    low, high = np.array([-0.1, 0.2, -0.33]), np.array([0.25, 0.3, 0.02])
    grid = Grid.around(low, high, resolution=17)
    points = grid.points(0, len(grid)).numpy()
    assert grid.cell == pytest.approx(0.35 / 17) and len(points) == math.prod(grid.shape)
    assert (points.min(axis=0) <= low - 0.99 * grid.cell).all() and (
        points.max(axis=0) >= high + 0.99 * grid.cell
    ).all()
    # Order: as an array of the grid's shape, the last axis runs fastest.
    table = points.reshape(*grid.shape, 3)
    np.testing.assert_allclose(table[2, 3, 4], np.array(grid.origin) + grid.cell * np.array([2, 3, 4]), atol=1e-6)
    with pytest.raises(ValueError, match="^a grid needs low < high, got "):
        Grid.around(high, low, resolution=9)
    for wrong in (1, 8.5, "8", None):
        with pytest.raises(ValueError, match=f"^resolution must be a whole number of at least 2, got {wrong!r}\\.$"):
            Grid.around(low, high, resolution=wrong)


def test_memory_is_bounded_by_the_chunk_and_chunks_change_nothing():
    sizes = []

    def function(points):
        sizes.append(len(points))
        return points @ torch.tensor([1.0, 2.0, 3.0])

    parts = sample(function, GRID, chunk=1000)
    assert max(sizes) == 1000 and sum(sizes) == len(GRID)
    np.testing.assert_array_equal(parts, sample(function, GRID))
    sizes.clear()
    where = sample(lambda p: p[:, 0], GRID) > 0
    some = sample(function, GRID, where=where, chunk=1000)
    assert sum(sizes) == where.sum() and (some[~where] == 0).all()
    np.testing.assert_array_equal(some[where], parts[where])


def test_small_pieces_go_and_large_ones_stay():
    def density(points):
        large = points.norm(dim=-1) < 0.09
        medium = (points - torch.tensor([0.0, 0.125, 0.0])).norm(dim=-1) < 0.02
        tiny = (points - torch.tensor([0.1, -0.1, 0.1])).norm(dim=-1) < 0.01
        hollow = points.norm(dim=-1) > 0.012
        return ((large & hollow) | medium | tiny).float()

    mesh = surface(density, level=0.5)
    mesh = colour_vertices(mesh, lambda p: p * 5)
    for share, removed in ((0.0, 0), (0.004, 0), (0.025, 2), (0.2, 3), (1.0, 3)):
        kept, count = remove_small_pieces(mesh, share)
        assert count == removed
        assert_closed_and_outward(kept)
        np.testing.assert_array_equal(kept.colours, colour_vertices(kept, lambda p: p * 5).colours)
    assert kept.volume() == pytest.approx(4 / 3 * math.pi * 0.09**3, rel=0.05)  # the hollow is gone too


def test_colours_are_those_of_the_points():
    mesh = Mesh(np.array([[-1, 0, 1], [0.5, 2, math.nan]], dtype=np.float32), np.zeros([0, 3], dtype=np.int64))
    assert colour_vertices(mesh, lambda p: p, chunk=1).colours.tolist() == [[0, 128, 255], [191, 255, 0]]


def test_the_density_of_an_opacity():
    assert 1 - math.exp(-density_of_opacity(0.5, 0.02) * 0.02) == pytest.approx(0.5)
