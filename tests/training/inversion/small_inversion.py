"""A generator so small that a clip of it is inverted in seconds: random weights, a distinct shape, modest styles."""

import torch

from training.networks.generator import Generator

CLIP_TIMES = [0.0, 0.25, 0.5, 0.75, 1.0]


def small_generator(seed: int = 1) -> Generator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = Generator(
            resolution=16, z_dim=8, motion_dim=6, w_dim=8, background_dim=4,
            mapping={"num_layers": 2}, motion={"width": 8},
            foreground={"width": 16, "num_layers": 3, "position_frequencies": 3, "feature_dim": 8, "density_bias": 4,
                        "view_directions": False},
            background={"width": 8, "num_layers": 2, "position_frequencies": 2},
            upsampler={"channel_max": 16, "conv_clamp": None}, camera={"yaw": [-0.4, 0.4]},
            rendering={"resolution": 8, "num_samples": 8, "num_importance": 0, "path_lattice": 8, "near": 0.8,
                       "far": 1.2},
        ).eval().requires_grad_(False)  # fmt: skip
    generator.foreground.density.weight.mul_(6)  # surfaces instead of fog
    for module in generator.modules():
        if hasattr(module, "affine"):
            module.affine.weight.mul_(0.15)  # otherwise a style can be anything, and take the place of a camera
    return generator
