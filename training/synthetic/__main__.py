"""A training set of synthetic talking heads: `python -m training.synthetic OUT --videos 512`."""

import math

import click

from dnnlib import UserError, one_line, run_cli
from dnnlib.command_line import Command, finite_float

# PyTorch is imported where it is used, so that --help and errors in the arguments are immediate.

COUNT = click.IntRange(min=1)


@click.command(cls=Command)
@click.argument("out", type=click.Path())
@click.option("--videos", type=COUNT, default=512, show_default=True, help="Number of videos.")
@click.option("--frames", type=COUNT, default=16, show_default=True, help="Frames of each.")
@click.option("--resolution", type=click.IntRange(8, 1024), default=64, show_default=True, help="Pixels per side.")
@click.option(
    "--supersample", type=click.IntRange(1, 8), default=2, show_default=True, help="Rays per pixel along each axis."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed.")
@click.option("--model", default="stylenerf_small", show_default=True, help="Model of conf/model for the cameras.")
@click.option(
    "--yaw", type=finite_float(0, math.pi), help="Range of the cameras, -yaw to yaw radians.  [default: the model's]"
)
@click.option("--workers", type=COUNT, help="Processes.  [default: one per core]")
def main(
    out: str,
    videos: int,
    frames: int,
    resolution: int,
    supersample: int,
    seed: int,
    model: str,
    yaw: float | None,
    workers: int | None,
) -> None:
    """Render talking heads with known geometry into the training set OUT. Repeat the command to continue."""
    from training.launch.config import compose_options
    from training.synthetic.make_dataset import make_dataset
    from training.synthetic.render import SyntheticConfig

    camera = compose_options([f"model={model}"])["model"]["generator"].get("camera") or {}
    if yaw is not None:
        camera["yaw"] = [-yaw, yaw]
    try:
        config = SyntheticConfig(
            videos=videos, frames=frames, resolution=resolution, supersample=supersample, seed=seed, camera=camera
        )
    except (TypeError, ValueError) as error:  # a model of the user's own
        raise UserError(f"--model {model}: {one_line(error)}") from error
    make_dataset(out, config, workers=workers)
    click.echo(f"{out}: {videos} videos of {frames} frames, {resolution}×{resolution}")


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
