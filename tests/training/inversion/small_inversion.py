"""A generator of which a clip is inverted in seconds: random weights, a distinct shape, modest styles."""

from tests.small_network import small_generator
from training.networks.generator import Generator

CLIP_TIMES = [0.0, 0.25, 0.5, 0.75, 1.0]


def inversion_generator() -> Generator:
    generator = small_generator(
        resolution=16, z_dim=8, motion_dim=6, w_dim=8, background_dim=4, camera={"yaw": [-0.4, 0.4]},
        foreground={"density_bias": 4, "view_directions": False}, upsampler={"conv_clamp": None},
        rendering={"num_samples": 8, "num_importance": 0, "near": 0.8, "far": 1.2},
    ).requires_grad_(False)  # fmt: skip
    generator.foreground.density.weight.mul_(6)  # surfaces instead of fog
    for module in generator.modules():
        if hasattr(module, "affine"):
            module.affine.weight.mul_(0.15)  # otherwise a style can be anything, and take the place of a camera
    return generator
