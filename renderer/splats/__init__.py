"""Radiance fields as 3D Gaussians (Kerbl et al. 2023): `python -m renderer.splats`."""
