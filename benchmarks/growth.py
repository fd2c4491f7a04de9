"""Scaling of rendering and training cost with resolution, videos, frames, rays and samples.

    python -m benchmarks.growth [--only render-rays,train-samples] [--json FILE] [--plots DIR]

Every point is the FaceForensics model with one number changed, initial weights, float32. With a single thread
(OMP_NUM_THREADS=1) processor time is measured instead of wall time, so that other programs hardly matter. The table
also counts the multiply-adds of the products: where the time does not grow in proportion to the size, they tell a
change in the amount of work from a change in its rate.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import work
from benchmarks.calibration import Times, time_rounds
from benchmarks.plots import draw_lines
from benchmarks.products import multiply_adds
from benchmarks.tables import JSON_OPTION, markdown, write_json
from benchmarks.work import FULL, QUICK
from dnnlib import UserError, choices_hint, run_cli
from dnnlib.command_line import Command
from torch_utils.memory import keep_freed_memory
from training.launch.config import compose_options

__all__ = ["AXES", "Axis", "Point", "growth", "table"]


@dataclass(frozen=True)
class Axis:
    """One varied number.

    Attributes:
        what: Measured computation: 'render' (a frame of one video), 'train' (an iteration) or 'synthesize' (a pass of
            the generator with gradients).
        name: Name of the number.
        values: Its values.
        quick: Two values for the small model.
        size: Problem size by value, up to a factor: the cost is linear if it is proportional to the size.
        options: Overrides of the model for a value.
        videos, frames: True if the value is the number of videos, or of frames of a video.
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

#: Axes by name. Training is measured at lower resolutions, where rays and samples matter beside the upsampler.
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
    """A measurement: value of the axis, its size, seconds, and multiply-adds of the products."""

    value: int
    size: float
    seconds: float
    multiply_adds: float
    parts: Mapping[str, float] = field(default_factory=dict)  # seconds of a phase

    @property
    def rate(self) -> float:
        """Operations per second, multiplications and additions each counted."""
        return 2 * self.multiply_adds / self.seconds


def growth(axis: Axis, *, rounds: int = 3, quick: bool = False) -> Iterator[Point]:
    """Measure the points of an axis.

    Args:
        rounds: Timings, of which the median is reported, after a first call.
        quick: Two values of the small model.
    """
    prepare = {"render": work.rendering, "train": work.training, "synthesize": work.synthesis}[axis.what]
    base, values = (QUICK, axis.quick) if quick else (FULL, axis.values)
    for value in values:
        options = compose_options(["outdir=.", "data=.", *base, *axis.overrides(value)])
        sizes = {"videos": value} if axis.videos else {"frames": value} if axis.frames else {}
        required = work.count_products(prepare, options, **sizes)
        computed = prepare(options, **sizes)
        times = time_rounds({name: function for name, (function, _) in computed.items()}, rounds=rounds)
        yield Point(
            value=value,
            size=axis.size(value),
            seconds=sum(share * _seconds(times[name]) for name, (_, share) in computed.items()),
            multiply_adds=sum(share * multiply_adds(products) for products, share in required.values()),
            parts={name: _seconds(t) for name, t in times.items()} if len(times) > 1 else {},
        )


def _seconds(times: Times) -> float:
    return times.cpu if torch.get_num_threads() == 1 else times.wall


def table(axis: Axis, points: Sequence[Point]) -> str:
    """Time and products by value, with their ratios to those of the previous value."""
    columns = [axis.name, "seconds", "multiply-adds", "G op/s", "products ×", "time ×", "for a size ×"]
    rows = []
    for i, p in enumerate(points):
        billions = p.multiply_adds / 1e9
        cells = [f"{p.value}", f"{p.seconds:.3g}", f"{billions:.3g} G" if billions < 100 else f"{billions:.0f} G"]
        cells.append(f"{p.rate / 1e9:.0f}")
        if i:
            q = points[i - 1]
            ratios = (p.multiply_adds / q.multiply_adds, p.seconds / q.seconds, p.size / q.size)
            cells += [f"{ratio:.2f}" for ratio in ratios]
        else:
            cells += [""] * 3
        rows.append(cells)
    return markdown(columns, rows, named=False)


def report_section(name: str, axis: Axis, points: Sequence[Point]) -> str:
    return f"{name}: time grows as size to the power {exponent(points):.2f}\n\n{table(axis, points)}"


def exponent(points: Sequence[Point]) -> float:
    """Slope of log time over log size, by least squares: 1 where the cost is linear."""
    xs, ys = [math.log(p.size) for p in points], [math.log(p.seconds) for p in points]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    over = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return over / sum((x - mean_x) ** 2 for x in xs)


def plot(axis: Axis, points: Sequence[Point], path: Path) -> None:
    """Measured seconds beside two predictions from the first point."""
    first, counted = points[0], axis.name.removesuffix(" per side")
    products = [(p.value, first.seconds * p.multiply_adds / first.multiply_adds) for p in points]
    lines = {
        "measured": [(p.value, p.seconds) for p in points],
        f"if proportional to the number of {counted}": [(p.value, first.seconds * p.size / first.size) for p in points],
        "predicted from multiply-adds": products,
    }
    draw_lines(path, lines, x_label=axis.name, y_label="seconds", log_x=True)


@click.command(cls=Command)
@click.option("--only", help=f"Some of {', '.join(AXES)}.")
@click.option("--quick", is_flag=True, help="The small model, two values each.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Timings of a point.")
@JSON_OPTION
@click.option("--plots", type=click.Path(file_okay=False, path_type=Path), help="Folder for a plot of every axis.")
def main(only: str | None, quick: bool, rounds: int, file: Path | None, plots: Path | None) -> None:
    """Scaling of the cost of rendering and training."""
    names = only.split(",") if only else list(AXES)
    for name in names:
        if name not in AXES:
            raise UserError(f"--only: there is no axis '{name}'; {choices_hint(name, AXES)}")
    keep_freed_memory()
    results: dict[str, Any] = {}
    for name in names:
        axis = AXES[name]
        points = list(growth(axis, rounds=rounds, quick=quick))
        click.echo(f"\n{report_section(name, axis, points)}")
        if plots is not None:
            plots.mkdir(parents=True, exist_ok=True)
            plot(axis, points, plots / f"growth-{name}.png")
        results[name] = {"exponent": exponent(points), "points": [vars(p) for p in points]}
    write_json(file, {"threads": torch.get_num_threads(), "axes": results})


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
