"""A program of a user's for type checkers, which accept it in `make lint`; it is not run."""

import torch
from typing_extensions import assert_type

import video3d
from renderer.cameras import Cameras
from training.inference.latents import RowCodes

G = video3d.load_generator("assets/heads")
video = G.video(seed=3, motion_seed=5, program="rotation_camera_yaw", frames=16)
assert_type(video, torch.Tensor)
video3d.save_video("video.mp4", video, fps=8)
assert_type(G.video([3, 4], cameras=G.camera_prior.at(yaw=[0.0, 0.5]), outputs="depth"), dict[str, torch.Tensor])
assert_type(G.frame(3, t=0.5, yaw=0.2, truncation_psi=0.7), torch.Tensor)
maps = G.frame(3, camera=Cameras.join([G.camera(yaw=0.2)]), outputs=("rgb", "depth"), geometry_resolution=128)
assert_type(maps["depth"], torch.Tensor)
assert_type(G.pixels("depth", maps["depth"]), torch.Tensor)
codes = G.codes(seed=[1, 2])[:1].to(dtype=torch.float64)
assert_type(codes, RowCodes)
assert_type(G.frame(codes=codes), torch.Tensor)
