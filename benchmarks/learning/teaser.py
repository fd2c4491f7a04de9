"""The README's first picture: `python -m benchmarks.learning.teaser SNAPSHOT DATA PICTURE.png`.

Rows: videos of the dataset; a generated video over time, and its depth; one of its time steps from 30° on the left to
30° on the right, with depth and normals; other contents from the front, with depth and normals.
"""

import math
from pathlib import Path

import click
import torch

from benchmarks.learning.pictures import depth_picture, save_grid
from dnnlib import run_cli
from dnnlib.command_line import Command
from renderer.cameras import Cameras
from renderer.outputs import displayed
from training.checkpoints.snapshot import load_average_generator
from training.data.dataset import VideoPairDataset
from training.inference.frame_renderer import FrameRenderer
from training.inference.latents import generator_latents
from training.inference.render_videos import row_maps
from training.networks.generator import Generator

COLUMNS = 8
ANGLE = 30.0  # degrees of yaw to either side
SIZE = 128  # pixels per side of a cell; depth and normals have as many rays


@torch.no_grad()
def render(generator: Generator, seed: int, time: float, camera: Cameras) -> dict[str, torch.Tensor]:
    """Image, depth and normals of a seed: pictures [3, SIZE, SIZE] in [0, 1]."""
    codes = generator_latents(generator, seed, seed)
    renderer = FrameRenderer(generator, generator.mapping(codes.z, None), z_motion=codes.z_motion, z_bg=codes.z_bg)
    maps = row_maps(renderer, time, camera, ("rgb", "depth", "normal"), SIZE)
    depth = depth_picture(maps["depth"][0].nan_to_num(0), maps["depth"][0].isfinite(), SIZE)[0]
    colours = {name: displayed(name, maps[name][0], size=(SIZE, SIZE), near=0, far=1) for name in ("rgb", "normal")}
    return {name: pixels / 255 for name, pixels in colours.items()} | {"depth": depth}


def compose(generator: Generator, dataset: VideoPairDataset, seed: int) -> torch.Tensor:
    """All cells of the picture [N, 3, SIZE, SIZE], row by row."""
    prior, even = generator.camera_prior, torch.linspace(0, 1, COLUMNS).tolist()
    pitch, front = (prior.pitch[0] + prior.pitch[1]) / 2, prior.at()
    real = torch.stack([dataset.clip(index)[0] for index in range(COLUMNS)]).float() / 255
    over_time = [render(generator, seed, time, front) for time in even]
    turning = [render(generator, seed, 0.5, prior.at_angles(math.radians(ANGLE) * (2 * x - 1), pitch)) for x in even]
    others = [render(generator, seed + 1 + i, 0.5, front) for i in range(COLUMNS)]
    rows = [(over_time, "rgb depth"), (turning, "rgb depth normal"), (others, "rgb depth normal")]
    cells = [cell[name] for row, names in rows for name in names.split() for cell in row]
    return torch.cat(
        [torch.nn.functional.interpolate(real, size=(SIZE, SIZE), mode="nearest-exact"), torch.stack(cells)]
    )


@click.command(cls=Command)
@click.argument("snapshot", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Seed of the video; the other contents have the next seeds.")
def main(snapshot: Path, data: Path, picture: Path, seed: int) -> None:
    """Draw PICTURE.png of a snapshot (or run folder) and the dataset that it was trained on."""
    generator = load_average_generator(snapshot)
    dataset = VideoPairDataset(path=data, resolution=generator.resolution)
    save_grid(picture, compose(generator, dataset, seed), COLUMNS, scale=1)
    click.echo(str(picture))


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
