"""How cost grows with resolution, videos, frames, rays and samples: rendering, and an iteration of training.

    python -m benchmarks.growth [--only render-rays,train-samples] [--json FILE] [--plots DIR]

Every point is the FaceForensics model with one number changed, initial weights, float32. Beside the time stands what
the products require (multiply-adds, counted as they run): where the time grows otherwise than the size, the count says
whether there is more to do or the machine does it faster or slower.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.calibration import SHARES, Times, time_rounds
from benchmarks.plots import draw_lines
from benchmarks.products import multiply_adds, record_products
from benchmarks.scaling import batch_of, build, one_pass
from dnnlib import UserError, atomic_write, run_cli
from renderer.camera_paths import camera_path
from torch_utils.host_memory import keep_freed_memory
from torch_utils.random_stream import RandomStream
from training.build import build_networks
from training.configuration import compose_options
from training.latents import seed_latents

__all__ = ["AXES", "Axis", "Point", "growth", "table"]

#: Of the smallest model of the project, for a quick look.
QUICK = ("model=stylenerf_small", "spec=small", "resolution=32")
FULL = ("model=stylenerf_faceforensics", "spec=paper", "fp32=true")


@dataclass(frozen=True)
class Axis:
    """One number that is varied.

    Attributes:
        what: Is measured, 'render' (one video's frame), 'train' (an iteration) or 'synthesize' (a pass of the generator
            with gradients).
        name: Of the number.
        values: That it takes.
        quick: Two values for the small model.
        size: Of what is worked on, by value, up to a factor: the cost is linear if it grows like that.
        options: Overrides of the model for a value.
        videos, frames: Whether the value is the number of videos, or of frames of a video.
    """

    what: str
    name: str
    values: Sequence[int]
    quick: Sequence[int]
    size: Callable[[int], float]
    options: Sequence[str] = ()
    videos: bool = False
    frames: bool = False

    def overrides(self, value: int) -> list[str]:
        return [option.format(value) for option in self.options]


def _square(value: int) -> float:
    return value**2


RESOLUTION, RAYS = ("resolution={}",), ("model.generator.rendering.resolution={}",)
SAMPLES = ("model.generator.rendering.num_samples={0}", "model.generator.rendering.num_importance={0}")
AT_64, AT_128 = ("resolution=64",), ("resolution=128",)

#: By name. Training is measured at smaller pictures, where a step of rays and samples is not lost in the upsampler.
AXES = {
    "render-resolution": Axis("render", "pixels per side", (64, 128, 256, 512), (32, 64), _square, RESOLUTION),
    "render-videos": Axis("render", "videos", (1, 2, 4, 8), (1, 2), float, videos=True),
    "render-frames": Axis("render", "frames of a video", (1, 2, 4, 8, 16), (1, 2), float, frames=True),
    "render-rays": Axis("render", "rays per side", (16, 32, 64, 128), (8, 16), _square, RAYS),
    "render-samples": Axis("render", "samples per ray and pass", (4, 7, 14, 28, 56), (4, 8), float, SAMPLES),
    "train-resolution": Axis("train", "pixels per side", (64, 128, 256, 512), (32, 64), _square, RESOLUTION),
    "train-videos": Axis("train", "videos", (1, 2, 4, 8), (1, 2), float, AT_64, videos=True),
    "train-frames": Axis("synthesize", "frames of a video", (1, 2, 4, 8), (1, 2), float, AT_128, frames=True),
    "train-rays": Axis("train", "rays per side", (16, 32, 64), (8, 16), _square, (*AT_128, *RAYS)),
    "train-samples": Axis("train", "samples per ray and pass", (4, 7, 14, 28), (4, 8), float, (*AT_64, *SAMPLES)),
}


@dataclass(frozen=True)
class Point:
    """A measurement: value of the axis, its size, seconds, processor seconds, and multiply-adds of the products."""

    value: int
    size: float
    seconds: float
    cpu_seconds: float
    multiply_adds: float
    parts: Mapping[str, float] = field(default_factory=dict)  # seconds of a phase

    @property
    def rate(self) -> float:
        """Operations per second, multiplications and additions each counted."""
        return 2 * self.multiply_adds / self.seconds


Work = dict[str, tuple[Callable[[], object], float]]  # name → function, and how often it occurs


def growth(axis: Axis, *, rounds: int = 3, quick: bool = False) -> Iterator[Point]:
    """Measure the points of an axis.

    Args:
        rounds: Timings of which the median counts, after a first call in which products are counted.
        quick: Of the small model, two values.
    """
    prepare = {"render": _render, "train": _train, "synthesize": _synthesize}[axis.what]
    base, values = (QUICK, axis.quick) if quick else (FULL, axis.values)
    for value in values:
        options = compose_options(["outdir=.", "data=.", *base, *axis.overrides(value)])
        work = prepare(options, videos=value if axis.videos else 1, frames=value if axis.frames else None)
        count = 0.0
        for function, share in work.values():
            with record_products() as found:
                function()
            count += share * multiply_adds(found)
        times = time_rounds({name: function for name, (function, _) in work.items()}, rounds=rounds, warm_up=False)
        yield Point(
            value=value,
            size=axis.size(value),
            seconds=_total(times, work, "wall"),
            cpu_seconds=_total(times, work, "cpu"),
            multiply_adds=count,
            parts={name: t.wall for name, t in times.items()} if len(times) > 1 else {},
        )


def _total(times: Mapping[str, Times], work: Work, clock: str) -> float:
    return sum(share * getattr(times[name], clock) for name, (_, share) in work.items())


def _render(options: Mapping[str, Any], *, videos: int, frames: int | None) -> Work:
    """A frame of every video, of a scene that stands; or whole videos of so many frames, from the codes on."""
    generator, _ = build_networks(options, c_dim=0)
    generator.eval()
    codes = _codes(generator, videos)
    ws = codes.pop("ws")
    cameras = camera_path("rotation_camera_yaw", generator.camera_prior, 16)

    def views(step: int):
        return cameras[[step % 16] * videos]

    scene = generator.scene(ws, **codes)
    steps = cycle(range(16))

    def frame() -> None:
        step = next(steps)
        scene.render(step / 15, views(step))

    def video() -> None:
        own = generator.scene(ws, **codes)
        for step in range(frames):
            own.render(step / 15, views(step))

    return {"render": (frame if frames is None else video, 1.0)}


@torch.no_grad()
def _codes(generator, videos: int) -> dict[str, torch.Tensor]:
    sizes = {"z_dim": generator.z_dim, "motion_dim": generator.motion_dim, "background_dim": generator.background_dim}
    latents = [seed_latents(seed, seed, **sizes) for seed in range(videos)]
    return {
        "ws": generator.mapping(torch.cat([x.z for x in latents]), None),
        "z_motion": torch.cat([x.z_motion for x in latents]),
        "z_bg": torch.cat([x.z_bg for x in latents]),
    }


def _train(options: Mapping[str, Any], *, videos: int, frames: int | None) -> Work:
    """The phases of an iteration; a training pass takes two frames of a video, never more."""
    _, _, loss, phases = build(options, "cpu")
    batch, stream = batch_of(videos, options["resolution"], "cpu"), RandomStream(0)

    def run(phase):
        return lambda: one_pass(loss, phase, batch, stream)

    return {phase.name: (run(phase), SHARES[phase.name]) for phase in phases}


def _synthesize(options: Mapping[str, Any], *, videos: int, frames: int) -> Work:
    """A pass of the generator over the frames of each video, forward and backward, as in Gmain."""
    generator, _, _, phases = build(options, "cpu")
    codes, stream = _codes(generator, videos), RandomStream(0)
    cameras = generator.camera_prior.sample(videos, stream)
    times = torch.linspace(0, 1, frames)[None].expand(videos, -1)

    def one_step() -> None:
        phases[0].begin()
        output = generator.synthesize(**codes, times=times, cameras=cameras, stream=stream, path_loss=True)
        (output.image.mean() + output.path_loss.mean()).backward()

    return {"synthesize": (one_step, 1.0)}


def table(axis: Axis, points: Sequence[Point]) -> str:
    """Time and products by value; both also for each doubling of the size."""
    lines = [
        f"| {axis.name} | seconds | CPU seconds | multiply-adds | G op/s | products × | time × | for a size × |",
        "| --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for i, p in enumerate(points):
        cells = [f"{p.value}", f"{p.seconds:.3g}", f"{p.cpu_seconds:.3g}", f"{p.multiply_adds / 1e9:.3g} G"]
        cells.append(f"{p.rate / 1e9:.0f}")
        if i:
            q = points[i - 1]
            ratios = (p.multiply_adds / q.multiply_adds, p.seconds / q.seconds, p.size / q.size)
            cells += [f"{ratio:.2f}" for ratio in ratios]
        else:
            cells += [""] * 3
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def exponent(points: Sequence[Point]) -> float:
    """Slope of log time over log size, by least squares: 1 where the cost is linear."""
    xs, ys = [math.log(p.size) for p in points], [math.log(p.seconds) for p in points]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    over = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return over / sum((x - mean_x) ** 2 for x in xs)


def plot(axis: Axis, points: Sequence[Point], path: Path) -> None:
    """Measured seconds beside those of a linear growth from the first point."""
    first = points[0]
    lines = {
        "measured": [(p.value, p.seconds) for p in points],
        "linear in size": [(p.value, first.seconds * p.size / first.size) for p in points],
        "as the products": [(p.value, first.seconds * p.multiply_adds / first.multiply_adds) for p in points],
    }
    draw_lines(path, lines, x_label=axis.name, y_label="seconds", log_x=True)


@click.command()
@click.option("--only", help=f"Some of {', '.join(AXES)}.")
@click.option("--quick", is_flag=True, help="The small model, two values each.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Timings of a point.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the figures here as well.")
@click.option("--plots", type=click.Path(path_type=Path), help="Folder for a plot of every axis.")
def main(only: str | None, quick: bool, rounds: int, file: Path | None, plots: Path | None) -> None:
    """How the cost of rendering and training grows."""
    names = only.split(",") if only else list(AXES)
    for name in names:
        if name not in AXES:
            raise UserError(f"--only: there is no axis '{name}'; choose from {', '.join(AXES)}.")
    keep_freed_memory()
    results: dict[str, Any] = {}
    for name in names:
        axis = AXES[name]
        points = list(growth(axis, rounds=rounds, quick=quick))
        click.echo(f"\n{name}: time grows as size to the power {exponent(points):.2f}\n\n{table(axis, points)}")
        if plots is not None:
            plots.mkdir(parents=True, exist_ok=True)
            plot(axis, points, plots / f"growth-{name}.png")
        results[name] = {"exponent": exponent(points), "points": [vars(p) for p in points]}
    if file is not None:
        with atomic_write(file, "w") as stream:
            json.dump({"threads": torch.get_num_threads(), "axes": results}, stream, indent=1)


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
