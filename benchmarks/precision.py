"""Effect of bfloat16 on CPU training: loss curves of the small model, compared with the spread over seeds.

    python -m benchmarks.precision [--kimg 0.5] [--seeds 2] [--json FILE]

The small model is trained on its default data, once in float32 and once in bf16 for each seed, with half precision in
every layer that supports it: all resolutions of the discriminators and the upsampler's blocks. Curves are means over
windows of iterations; the distance between precisions (same seed) is compared with that between seeds (same precision).
"""

import contextlib
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import torch

from benchmarks.tables import JSON_OPTION, write_json
from dnnlib import run_cli
from dnnlib.command_line import Command, finite_float
from training.launch.setup import build_loop
from training.launch.validate import plan

PRECISIONS = ("float32", "bf16")
CURVES = ("Loss/G/loss", "Loss/D/loss", "Loss/scores/real", "Loss/scores/fake", "Loss/r1_penalty")
OVERRIDES = (
    "model=stylenerf_small", "spec=small", "device=cpu", "workers=0", "imgsnap=null",
    "model.generator.upsampler.fp16_min_resolution=32",
)  # fmt: skip

Curves = dict[str, list[float]]  # means per window, by name


def loss_curves(precision: str, seed: int, *, kimg: float, windows: int, folder: Path) -> Curves:
    """Loss curves of one training."""
    overrides = [*OVERRIDES, f"outdir={folder}", f"seed={seed}", f"precision={precision}"]
    options = plan(overrides).options
    loop = build_loop(options, folder, device=torch.device("cpu"), resuming=False)
    curves: Curves = {name: [] for name in CURVES}
    iterations = max(1, round(kimg * 1000 / options["spec"]["mb"] / windows))
    with contextlib.closing(loop.loader):
        for _ in range(windows):
            for _ in range(iterations):
                loop.iterate()
            moments = loop.statistics.reduce()
            for name in CURVES:
                curves[name].append(moments[name].mean)
    return curves


def distance(one: Curves, other: Curves, name: str) -> float:
    """Root mean square of the difference of two curves."""
    return statistics.fmean((a - b) ** 2 for a, b in zip(one[name], other[name], strict=True)) ** 0.5


def compare(runs: Mapping[tuple[str, int], Curves], seeds: Sequence[int]) -> dict[str, dict[str, float]]:
    """By curve: mean and last value by precision, mean distances of precisions and of seeds."""
    table = {}
    for name in CURVES:
        row = {}
        for precision in PRECISIONS:
            own = [runs[precision, seed][name] for seed in seeds]
            row[precision] = statistics.fmean(statistics.fmean(curve) for curve in own)
            row[f"{precision}_last"] = statistics.fmean(curve[-1] for curve in own)
        row["precisions"] = statistics.fmean(
            distance(runs["float32", seed], runs["bf16", seed], name) for seed in seeds
        )
        pairs = [(a, b) for a in seeds for b in seeds if a < b]
        row["seeds"] = statistics.fmean(
            distance(runs[precision, a], runs[precision, b], name) for precision in PRECISIONS for a, b in pairs
        )
        table[name] = row
    return table


def show(table: Mapping[str, Mapping[str, float]]) -> str:
    lines = [
        "| curve | float32, mean | bf16, mean | float32, last | bf16, last | between precisions | between seeds |",
        "| :-- | --: | --: | --: | --: | --: | --: |",
    ]
    keys = (*PRECISIONS, *(f"{precision}_last" for precision in PRECISIONS), "precisions", "seeds")
    for name, row in table.items():
        lines.append(f"| {name.removeprefix('Loss/')} | {' | '.join(f'{row[key]:.4g}' for key in keys)} |")
    return "\n".join(lines)


@click.command(cls=Command)
@click.option(
    "--kimg",
    type=finite_float(0, above=True),
    default=0.5,
    show_default=True,
    help="Length of each training in thousands of videos.",
)
@click.option("--seeds", type=click.IntRange(min=2), default=2, show_default=True, help="Trainings per precision.")
@click.option("--windows", type=click.IntRange(min=1), default=5, show_default=True, help="Points of a curve.")
@JSON_OPTION
def main(kimg: float, seeds: int, windows: int, file: Path | None) -> None:
    """Loss curves in float32 and in bf16."""
    runs = {}
    for seed in range(seeds):
        for precision in PRECISIONS:
            with tempfile.TemporaryDirectory() as folder:
                runs[precision, seed] = loss_curves(precision, seed, kimg=kimg, windows=windows, folder=Path(folder))
            click.echo(f"{precision}, seed {seed}: D/loss {runs[precision, seed]['Loss/D/loss'][-1]:.4f}", err=True)
    table = compare(runs, range(seeds))
    click.echo(show(table))
    curves = {f"{precision}, seed {seed}": curve for (precision, seed), curve in runs.items()}
    write_json(file, {"kimg": kimg, "curves": curves, "table": table})


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
