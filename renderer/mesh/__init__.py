"""Surfaces of radiance fields as triangle meshes: `python -m renderer.mesh`."""
