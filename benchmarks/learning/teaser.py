"""The README's first picture: `python -m benchmarks.learning.teaser SNAPSHOT DATA PICTURE.png`.

Rows: videos of the dataset; a generated video over time and its depth; one time step of it from 30° on the left to 30°
on the right and its depth; other contents, each from the front, and their depth.
"""

import math
from pathlib import Path

import click
import torch

from benchmarks.learning.pictures import depth_picture, save_grid
from dnnlib import run_cli
from dnnlib.command_line import Command
from renderer.cameras import Cameras
from renderer.depth import surface_depth
from training.checkpoints.snapshot import load_generator
from training.data.dataset import VideoPairDataset
from training.inference.frame_renderer import FrameRenderer
from training.inference.latents import seed_latents
from training.networks.generator import Generator

COLUMNS = 8
ANGLE = 30.0  # degrees of yaw to either side


@torch.no_grad()
def render(generator: Generator, seed: int, times: list[float], cameras: list[Cameras]) -> list[torch.Tensor]:
    """Images and depth pictures [N, 3, H, W] in [0, 1] of a seed at N times from N cameras."""
    sizes = {"z_dim": generator.z_dim, "motion_dim": generator.motion_dim, "background_dim": generator.background_dim}
    codes = seed_latents(seed, seed, **sizes)
    ws = generator.mapping(codes.z, None)
    renderer = FrameRenderer(generator, ws, z_motion=codes.z_motion, z_bg=codes.z_bg)
    outputs = [renderer.output(time, camera) for time, camera in zip(times, cameras)]
    depth, opacity = (torch.cat([getattr(out, name)[:, 0] for out in outputs]) for name in ("depth", "opacity"))
    depth, weights = surface_depth(depth, opacity, background=generator.background is not None)
    images = torch.cat([(out.image[:, 0] + 1) / 2 for out in outputs])
    return [images, depth_picture(depth, weights, generator.resolution)]


def compose(generator: Generator, dataset: VideoPairDataset, seed: int) -> torch.Tensor:
    """All cells of the picture [N, 3, H, W], row by row."""
    prior, even = generator.camera_prior, torch.linspace(0, 1, COLUMNS)
    pitch = (prior.pitch[0] + prior.pitch[1]) / 2
    real = torch.stack([dataset.clip(index)[0] for index in range(COLUMNS)]).float() / 255
    front, turning = [prior.at()] * COLUMNS, [prior.at_angles(a, pitch) for a in (2 * even - 1) * math.radians(ANGLE)]
    cells = [real]
    cells += render(generator, seed, even.tolist(), front)
    cells += render(generator, seed, [0.5] * COLUMNS, turning)
    others = [render(generator, other, [0.5], [prior.at()]) for other in range(seed + 1, seed + 1 + COLUMNS)]
    cells += [torch.cat(kind) for kind in zip(*others)]
    return torch.cat(cells)


@click.command(cls=Command)
@click.argument("snapshot", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Of the video; the other contents are those that follow.")
@click.option("--scale", default=2, show_default=True, help="Pixels are repeated so many times.")
def main(snapshot: Path, data: Path, picture: Path, seed: int, scale: int) -> None:
    """Draw PICTURE.png of a snapshot (or run folder) and the dataset that it was trained on."""
    generator = load_generator(snapshot)
    dataset = VideoPairDataset(path=data, resolution=generator.resolution)
    save_grid(picture, compose(generator, dataset, seed), COLUMNS, scale=scale)
    click.echo(str(picture))


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
