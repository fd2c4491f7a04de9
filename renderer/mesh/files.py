"""Mesh files: PLY for one time step; GLB (binary glTF 2.0) for one time step or an animated sequence.

PLY keeps the world's axes: x towards the frontal camera, z up, scene units. glTF requires y up and the front towards z:
a parent node rotates the meshes, so that their vertices stay unchanged. glTF's vertex colours are linear; those of
images (and of PLY) are sRGB and are converted, to 16 bits, as dark ones would be rounded away in 8. GLB files hold
normals, for smooth shading. A sequence is animated in the only way that core glTF offers for
changing meshes: each time step is a node of its own, whose scale is 1 while it is shown and 0 otherwise.
"""

import os
from collections.abc import Sequence

import numpy as np

from dnnlib import UserError, atomic_write
from renderer.mesh.extraction import Mesh
from torch_utils.argument_checks import check_number, is_list

__all__ = ["write_glb", "write_ply"]

# (x, y, z) to (y, z, x) as a quaternion (x, y, z, w): a third of a turn around the diagonal.
WORLD_TO_GLTF = [-0.5, -0.5, -0.5, 0.5]
COMPONENT_TYPES = {"<f4": 5126, "<u2": 5123}
TYPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}


def write_ply(mesh: Mesh, path: str | os.PathLike) -> None:
    """One mesh, binary, with its colours.

    Raises:
        UserError: trimesh is not installed, or the file cannot be written.
    """
    content = _trimesh(mesh, mesh.colours).export(file_type="ply")
    with atomic_write(path) as file:
        file.write(content)


def write_glb(meshes: Sequence[Mesh], path: str | os.PathLike, *, names: Sequence[str], fps: float = 8.0) -> None:
    """One mesh, or several as time steps of an animation that shows `fps` of them a second.

    Args:
        names: Names of the meshes, all different, and none of them 'world', the name of the scene.

    Raises:
        UserError: trimesh is not installed, or the file cannot be written.
        ValueError: No list of meshes, not as many different names, 'world', or a rate that is not above 0.
    """
    several = is_list(meshes) and is_list(names) and all(isinstance(mesh, Mesh) for mesh in meshes)
    named = several and all(isinstance(name, str) and name for name in names)
    if not named or not len(meshes) == len(names) == len(set(names)) > 0:
        raise ValueError("write_glb takes a list of one mesh or more, and names= as many different names.")
    if "world" in names:
        raise ValueError("names: 'world' is the name of the scene; choose another one.")
    check_number("fps", fps, 0)
    trimesh = _library()
    scene = trimesh.Scene()
    for mesh, name in zip(meshes, names, strict=True):
        scene.add_geometry(_trimesh(mesh, None), node_name=name, geom_name=name)

    def complete(buffers, tree):
        for mesh, name in zip(meshes, names, strict=True):
            _shade(buffers, tree, mesh, name=name)
        if len(meshes) > 1:
            _animate(buffers, tree, names=names, fps=fps)

    content = trimesh.exchange.gltf.export_glb(scene, buffer_postprocessor=complete, tree_postprocessor=_finish)
    with atomic_write(path) as file:
        file.write(content)


def _library():
    try:
        import trimesh
    except ImportError as error:
        raise UserError("Mesh files need trimesh: install it with `pip install scikit-image trimesh`.") from error
    return trimesh


def _trimesh(mesh: Mesh, colours: np.ndarray | None):
    return _library().Trimesh(mesh.vertices, mesh.faces, vertex_colors=colours, process=False)


def _linear(colours: np.ndarray) -> np.ndarray:
    """sRGB, uint8 [V, 3], to linear with opacity, uint16 [V, 4]."""
    x = np.arange(256) / 255
    table = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    linear = np.rint(table * 65535).astype(np.uint16)[colours]
    return np.concatenate([linear, np.full_like(linear[:, :1], 65535)], axis=1)


def _shade(buffers: dict, tree: dict, mesh: Mesh, *, name: str) -> None:
    """Add the normals and the colours of a mesh, which trimesh would write in 8 bits."""
    (entry,) = (entry for entry in tree["meshes"] if entry["name"] == name)
    attributes = entry["primitives"][0]["attributes"]
    attributes["NORMAL"] = _accessor(buffers, tree, f"normals {name}", mesh.normals())
    if mesh.colours is not None:
        colours = _accessor(buffers, tree, f"colours {name}", _linear(mesh.colours), kind="<u2", normalized=True)
        attributes["COLOR_0"] = colours


def _finish(tree: dict) -> None:
    """Rotate the scene upright, and make the meshes matte (glTF's default material is metallic)."""
    tree["materials"] = [{"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}, "doubleSided": True}]
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            primitive["material"] = 0
    nodes = tree["nodes"]
    shown = [i for i, node in enumerate(nodes) if "mesh" in node]
    for i in shown[1:]:  # a viewer that plays no animation shows the first
        nodes[i]["scale"] = [0.0, 0.0, 0.0]
    nodes.append({"name": "upright", "rotation": WORLD_TO_GLTF, "children": shown})
    tree["scenes"] = [{"nodes": [len(nodes) - 1]}]


def _animate(buffers: dict, tree: dict, *, names: Sequence[str], fps: float) -> None:
    """Add keyframes that show one node after the other."""
    order = {node.get("name"): i for i, node in enumerate(tree["nodes"])}
    channels, samplers, last = [], [], len(names) - 1
    for i, name in enumerate(names):
        keys = [(0.0, float(i == 0)), (i / fps, 1.0), ((i + 1) / fps, float(i == last))]
        keys = list(dict(keys).items())
        times = np.array([time for time, _ in keys], dtype=np.float32)
        scales = np.repeat(np.array([[scale] for _, scale in keys], dtype=np.float32), 3, axis=1)
        samplers.append(
            {
                "input": _accessor(buffers, tree, f"times {i}", times),
                "output": _accessor(buffers, tree, f"scales {i}", scales),
                "interpolation": "STEP",
            }
        )
        channels.append({"sampler": i, "target": {"node": order[name], "path": "scale"}})
    tree["animations"] = [{"name": "time steps", "channels": channels, "samplers": samplers}]


def _accessor(
    buffers: dict, tree: dict, key: str, values: np.ndarray, *, kind: str = "<f4", normalized: bool = False
) -> int:
    buffers[key] = values.astype(kind).tobytes()
    rows = values.reshape(len(values), -1)
    tree["accessors"][key] = {
        "bufferView": len(buffers) - 1,
        "componentType": COMPONENT_TYPES[kind],
        **({"normalized": True} if normalized else {}),
        "count": len(values),
        "type": TYPES[rows.shape[1]],
        "min": rows.min(axis=0).tolist(),
        "max": rows.max(axis=0).tolist(),
    }
    return len(tree["accessors"]) - 1
