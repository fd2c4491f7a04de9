"""Mesh files, read back by another reader and, where that omits things, following their specification."""

import json
import struct

import numpy as np
import pytest
import trimesh

from dnnlib import UserError
from renderer.mesh.extraction import Mesh
from renderer.mesh.files import write_glb, write_ply

# A pyramid whose top is towards the frontal camera (x), with one corner up (z).
VERTICES = np.array([[0.1, 0, 0], [0, -0.1, -0.1], [0, 0.1, -0.1], [0, 0, 0.2]], dtype=np.float32)
FACES = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
COLOURS = np.array([[255, 0, 0], [0, 128, 0], [0, 0, 64], [188, 10, 255]], dtype=np.uint8)
MESH = Mesh(VERTICES, FACES, COLOURS)


def glb(path):
    """JSON tree and binary chunk of a GLB file."""
    content = path.read_bytes()
    magic, version, length, json_length, json_kind = struct.unpack("<4sIII4s", content[:20])
    assert (magic, version, length, json_kind) == (b"glTF", 2, len(content), b"JSON")
    binary_length, binary_kind = struct.unpack("<I4s", content[20 + json_length : 28 + json_length])
    assert binary_kind == b"BIN\0" and 28 + json_length + binary_length == len(content)
    return json.loads(content[20 : 20 + json_length]), content[28 + json_length :]


def accessor(tree, binary, index):
    kinds = {5126: ("<f4", 4), 5125: ("<u4", 4), 5123: ("<u2", 2)}
    entry = tree["accessors"][index]
    view = tree["bufferViews"][entry["bufferView"]]
    columns = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[entry["type"]]
    kind, size = kinds[entry["componentType"]]
    start = view["byteOffset"] + entry.get("byteOffset", 0)
    assert start % 4 == 0 and columns * size % 4 == 0
    assert entry["count"] * columns * size <= view["byteLength"]
    values = np.frombuffer(binary, kind, entry["count"] * columns, start).reshape(-1, columns)
    assert values.min(axis=0).tolist() == entry["min"] and values.max(axis=0).tolist() == entry["max"]
    return values


def test_ply_keeps_places_and_colours(tmp_path):
    write_ply(MESH, tmp_path / "a.ply")
    mesh = trimesh.load(tmp_path / "a.ply", process=False)
    np.testing.assert_array_equal(mesh.vertices, VERTICES)
    np.testing.assert_array_equal(mesh.faces, FACES)
    np.testing.assert_array_equal(mesh.visual.vertex_colors[:, :3], COLOURS)


def test_glb_stands_upright_with_its_front_ahead_and_linear_colours(tmp_path):
    write_glb([MESH], tmp_path / "a.glb", names=["x"])
    mesh = trimesh.load(tmp_path / "a.glb", process=False).to_geometry()
    # glTF: y up, z to the front, and so x to the right as seen from the front.
    np.testing.assert_allclose(mesh.vertices, VERTICES[:, [1, 2, 0]], atol=1e-7)
    assert mesh.volume == pytest.approx(MESH.volume()) and mesh.volume > 0
    tree, binary = glb(tmp_path / "a.glb")
    place = tree["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]
    colours = accessor(tree, binary, place)
    x = COLOURS / 255
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    assert tree["accessors"][place]["normalized"] is True and (colours[:, 3] == 65535).all()
    assert np.abs(colours[:, :3] - linear * 65535).max() <= 0.5
    assert "animations" not in tree


def test_glb_tells_dark_colours_apart(tmp_path):
    levels = np.arange(256, dtype=np.uint8)
    vertices, faces = np.random.RandomState(0).rand(256, 3), np.arange(255).reshape(-1, 3)
    mesh = Mesh(vertices.astype(np.float32), faces, np.stack([levels] * 3, axis=1))
    write_glb([mesh], tmp_path / "a.glb", names=["x"])
    tree, binary = glb(tmp_path / "a.glb")
    x = accessor(tree, binary, tree["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"])[:, 0] / 65535
    shown = np.where(x <= 0.0031308, x * 12.92, 1.055 * x ** (1 / 2.4) - 0.055) * 255
    np.testing.assert_allclose(shown, levels, atol=0.05)


def test_glb_holds_the_normals_of_a_sphere(tmp_path):
    sphere = trimesh.creation.icosphere(subdivisions=3, radius=0.2)
    alone = len(sphere.vertices)  # a vertex without triangles
    vertices = np.concatenate([sphere.vertices, [[0, 0, 0.5]]]).astype(np.float32)
    write_glb([Mesh(vertices * scale, sphere.faces) for scale in (1, 2)], tmp_path / "a.glb", names=["x", "y"])
    tree, binary = glb(tmp_path / "a.glb")
    for mesh in tree["meshes"]:
        normals = accessor(tree, binary, mesh["primitives"][0]["attributes"]["NORMAL"])
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(normals[:alone], vertices[:alone] / 0.2, atol=0.02)


def test_a_sequence_shows_one_moment_at_a_time(tmp_path):
    meshes = [Mesh(VERTICES * (1 + i), FACES, COLOURS) for i in range(4)]
    write_glb(meshes, tmp_path / "a.glb", names=list("abcd"), fps=5)
    tree, binary = glb(tmp_path / "a.glb")
    nodes = tree["nodes"]
    (root,) = tree["scenes"][0]["nodes"]
    assert sorted(nodes[i]["name"] for i in nodes[root]["children"]) == list("abcd")
    # Without an animation: the first.
    assert [nodes[i].get("scale", [1, 1, 1])[0] for i in nodes[root]["children"]] == [1, 0, 0, 0]
    (animation,) = tree["animations"]
    keys = {}
    for channel in animation["channels"]:
        sampler = animation["samplers"][channel["sampler"]]
        assert sampler["interpolation"] == "STEP" and channel["target"]["path"] == "scale"
        times = accessor(tree, binary, sampler["input"])[:, 0]
        assert (np.diff(times) > 0).all()
        keys[nodes[channel["target"]["node"]]["name"]] = (times, accessor(tree, binary, sampler["output"])[:, 0])
    for seconds, shown in ((0.0, "a"), (0.19, "a"), (0.21, "b"), (0.5, "c"), (0.7, "d"), (0.8, "d")):
        scales = {name: values[np.searchsorted(times, seconds, "right") - 1] for name, (times, values) in keys.items()}
        assert scales == {name: float(name == shown) for name in "abcd"}, seconds


@pytest.mark.parametrize(
    "meshes, names",
    [
        (MESH, "x"),
        ([], []),
        ([MESH, MESH], ["x"]),
        ([MESH, MESH], ["x", "x"]),
        ([MESH, MESH], range(2)),
        ([MESH, MESH], ["x", ""]),
        ([MESH, None], ["x", "y"]),
    ],
)
def test_meshes_without_names_of_their_own(tmp_path, meshes, names):
    with pytest.raises(ValueError) as error:
        write_glb(meshes, tmp_path / "a.glb", names=names)
    assert str(error.value) == "write_glb takes a list of one mesh or more, and names= as many different names."


def test_the_name_of_the_scene_is_taken(tmp_path):
    """glTF allows a node one parent, and this one would have two."""
    with pytest.raises(ValueError) as error:
        write_glb([MESH, MESH], tmp_path / "a.glb", names=["world", "b"])
    assert str(error.value) == "names: 'world' is the name of the scene; choose another one."


@pytest.mark.parametrize("names", ["a", "ab"])
def test_a_sequence_has_a_rate(tmp_path, names):
    with pytest.raises(ValueError) as error:
        write_glb([MESH] * len(names), tmp_path / "a.glb", names=list(names), fps=0)
    assert str(error.value) == "fps must be a finite number above 0, got 0." and not list(tmp_path.iterdir())


def test_meshes_without_colours_and_folders_that_are_missing(tmp_path):
    plain = Mesh(VERTICES, FACES)
    write_ply(plain, tmp_path / "a.ply")
    write_glb([plain], tmp_path / "a.glb", names=["x"])
    assert len(trimesh.load(tmp_path / "a.ply").faces) == 4
    with pytest.raises(UserError, match="missing/a.ply"):
        write_ply(plain, tmp_path / "missing" / "a.ply")
