"""Files of this repository that a reader of one frame, one training step or one dry run passes through.

    python -m benchmarks.files_entered [--files]

A file counts when code of a function in it runs. For a dry run, the files that are executed at all (imports and class
bodies) are counted as well. A frame and a step are counted after a first one, which loads the native operators. Each
count is made in a process of its own and leaves out this folder.
"""

import contextlib
import inspect
import io
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from dnnlib import run_cli
from dnnlib.command_line import Command

__all__ = ["COUNTS", "count_files"]

ROOT = Path(__file__).resolve().parent.parent
OVERRIDES = ("model=stylenerf_small", "spec=small", "resolution=32", "nframes=4")


def _own(file: str) -> str | None:
    """The path, relative to the root, of a file that counts; None for other files."""
    if not file.startswith(f"{ROOT}{os.sep}"):
        return None
    name = os.path.relpath(file, ROOT)
    return None if name.split(os.sep)[0] in ("benchmarks", "tests", ".venv") else name


@contextlib.contextmanager
def _tracing() -> Iterator[set[str]]:
    """The files in which a function is called while the block runs, on any thread."""
    entered: set[str] = set()

    def profile(frame, event, argument) -> None:
        # Bodies of modules and classes have no local variables of their own.
        if event == "call" and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            entered.add(frame.f_code.co_filename)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield entered
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def _names(files) -> list[str]:
    return sorted(name for name in map(_own, files) if name is not None)


def _traced(function: Callable[[], object]) -> list[str]:
    with _tracing() as entered:
        function()
    return _names(entered)


def frame() -> list[str]:
    """From a seed to the pixels of one frame."""
    from training.inference.frame_renderer import FrameRenderer
    from training.inference.latents import generator_latents
    from training.launch.build import build_networks
    from training.launch.config import compose_options

    generator = build_networks(compose_options(["outdir=.", "data=.", *OVERRIDES]), c_dim=0)[0].eval()

    def render() -> None:
        codes = generator_latents(generator, 0, 0)
        renderer = FrameRenderer(generator, generator.mapping(codes.z), z_motion=codes.z_motion, z_bg=codes.z_bg)
        renderer.render(0.5, generator.camera_prior.at())

    render()
    return _traced(render)


def step() -> list[str]:
    """The four phases of a training iteration: losses, gradients and optimiser steps."""
    import torch

    from torch_utils.rng import RandomStream
    from torch_utils.training_stats import Statistics
    from training.launch.build import build_loss, build_networks, build_phases
    from training.launch.config import compose_options
    from training.loss import VideoBatch
    from training.phases import GradientGuard

    options = compose_options(["outdir=.", "data=.", *OVERRIDES])
    videos, size = options["spec"]["microbatch"], options["resolution"]
    generator, discriminator = build_networks(options, c_dim=0)
    statistics, stream = Statistics(), RandomStream(0)
    networks = {"generator": generator, "discriminator": discriminator}
    loss = build_loss(options, **networks, augment=None, statistics=statistics)
    phases = build_phases(options, **networks)
    guard = GradientGuard(device="cpu", statistics=statistics)
    batch = VideoBatch(
        frames=torch.zeros(videos, 2, 3, size, size), dt=torch.full((videos,), 0.5), c=torch.zeros(videos, 0)
    )

    def train() -> None:
        for phase in phases:
            phase.begin()
            loss.accumulate(phase.name, batch=batch, gain=phase.gain, stream=stream)
            phase.step(guard)

    train()
    return _traced(train)


def _dry_run() -> list[str]:
    """The files in which functions run during run_train.py with dry_run=true."""
    import numpy as np
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        for video in range(2):
            frames = Path(folder) / "data" / "split" / f"video_{video}"
            frames.mkdir(parents=True)
            for j in range(4):
                Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(frames / f"{j}.png")
        words = [f"outdir={folder}/runs", f"data={folder}/data", "dry_run=true", *OVERRIDES, "spec.mb=4"]

        def plan() -> None:
            import run_train

            sys.argv = ["run_train.py", *words]
            run_train.main()

        with contextlib.redirect_stdout(io.StringIO()):
            return _traced(plan)


def dry_run() -> list[str]:
    """A dry run of run_train.py, functions only."""
    return _dry_run()


def dry_run_executed() -> list[str]:
    """A dry run of run_train.py, imports included."""
    _dry_run()
    return _names(file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None)))


COUNTS = {"frame": frame, "step": step, "dry run": dry_run, "dry run, imports too": dry_run_executed}


def count_files(name: str) -> list[str]:
    """The files of one of COUNTS, found in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(COUNTS[name])


@click.command(cls=Command)
@click.option("--files", is_flag=True, help="Print their names as well.")
def main(files: bool) -> None:
    """Count the files entered by one frame, one training step and one dry run."""
    for name in COUNTS:
        found = count_files(name)
        click.echo(f"{name:22}{len(found):4}")
        if files:
            click.echo("".join(f"    {file}\n" for file in found), nl=False)


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
