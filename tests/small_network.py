"""The tiny generator and discriminator that tests share: other modules state only what differs from them.

The fixture `generator` of conftest.py is the same generator, filled by the recipe of the goldens.
"""

from pathlib import Path
from typing import Any

import torch

from tests.goldens.networks import SMALL, generator_config, small_discriminators
from training.checkpoints.snapshot import save_snapshot
from training.networks.discriminator import TimeAwareDiscriminators
from training.networks.generator import Generator

SIZES = {"z_dim": SMALL.z_dim, "motion_dim": SMALL.motion_dim, "background_dim": SMALL.code_dim}  # of its latents


def small_generator(**changes: Any) -> Generator:
    """The generator of `SMALL` with random weights, in evaluation mode.

    `changes` are arguments of `Generator`; a nested group changes only the values that it names.
    """
    config = generator_config(SMALL)
    for name, value in changes.items():
        config[name] = config[name] | value if isinstance(value, dict) else value
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Generator(**config).eval()


def save_small_run(folder: Path, **changes: Any) -> None:
    """Write a snapshot of the small generator (see `small_generator`) with discriminators of its resolution."""
    generator = small_generator(**changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        discriminators = TimeAwareDiscriminators(resolution=generator.resolution, channel_max=8)
    parts = {"generator": generator, "generator_ema": generator, "discriminator": discriminators}
    about = {"name": "clips", "videos": 3}, {"cur_nimg": 2000, "tick": 1, "iteration": 500}
    save_snapshot(folder, **parts, augment=None, dataset=about[0], progress=about[1])


def save_small_network(folder: Path, generator: Generator) -> Generator:
    """Write a snapshot of a generator, with the small discriminators, to a run folder; returns the generator."""
    discriminators, _ = small_discriminators()
    parts = {"generator": generator, "generator_ema": generator, "discriminator": discriminators}
    save_snapshot(folder, **parts, augment=None, dataset={}, progress={"cur_nimg": 0, "tick": 0, "iteration": 0})
    return generator
