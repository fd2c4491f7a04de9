"""A network snapshot that renders in milliseconds."""

import torch

from training.checkpoints.snapshot import save_snapshot
from training.networks.generator import Generator


def save_small_network(folder, **foreground):
    """A run folder with a snapshot of a small generator, with options of its foreground; returns the generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = Generator(
            resolution=32, z_dim=16, motion_dim=12, w_dim=16, background_dim=8,
            mapping={"num_layers": 2}, motion={"width": 8},
            foreground={"width": 16, "num_layers": 3, "position_frequencies": 4, "feature_dim": 8} | foreground,
            background={"width": 8, "num_layers": 2, "position_frequencies": 3}, upsampler={"channel_max": 16},
            rendering={"resolution": 16, "num_samples": 6, "num_importance": 4, "path_lattice": 8},
        ).eval()  # fmt: skip
        discriminator = torch.nn.Linear(1, 1)
    discriminator.config = {}
    parts = {"generator": generator, "generator_ema": generator, "discriminator": discriminator}
    save_snapshot(folder, **parts, augment=None, dataset={}, progress={"cur_nimg": 0, "tick": 0, "iteration": 0})
    return generator
