"""Throughput of the metrics: feature extraction by networks that need no detector file, and distances.

    python -m benchmarks.evaluation [--json FILE] [--resolution 256]

Clips of 16 frames are random and in memory. Pretrained networks (I3D, Inception) are left out.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.calibration import time_rounds
from benchmarks.library_routes import time_products
from benchmarks.products import record_products
from benchmarks.tables import JSON_OPTION, cell, markdown, write_json
from dnnlib import run_cli
from dnnlib.command_line import Command
from metrics.distances import KernelDistance, frechet_distance_of_features
from metrics.feature_extractors import make_network
from metrics.random_features import FEATURE_WIDTH

__all__ = ["measure", "show"]

NETWORKS = {"random": "random 3D features (rfvd)", "motion": "optical flow (motion)", "flicker": "flicker"}
FRAMES = 16
I3D_WIDTH = 400  # features per clip of the network behind FVD


def measure(*, resolution: int = 256, clips: int = 4, rows: int = 2048, rounds: int = 5) -> dict[str, dict[str, Any]]:
    """Per network: seconds per clip and, where it has products, those of the products alone; seconds per distance.

    Args:
        resolution: Resolution of the clips.
        clips: Clips per batch.
        rows: Feature vectors per side of a distance.
        rounds: Timings, of which the median is reported.
    """
    generator = torch.Generator().manual_seed(0)
    batch = torch.randint(0, 256, [clips, 3, FRAMES, resolution, resolution], dtype=torch.uint8, generator=generator)
    results: dict[str, dict[str, Any]] = {}
    for name, what in NETWORKS.items():
        network = make_network(name, device="cpu", detectors={})
        with record_products() as found:
            network(batch)
        times = time_rounds({name: lambda network=network: network(batch)}, rounds=rounds, warm_up=False)[name]
        row = {"seconds": times.wall / clips, "cpu_seconds": times.cpu / clips}
        if found:
            row["limit_seconds"] = time_products(found).seconds / clips
            row["fraction_of_limit"] = row["limit_seconds"] / row["seconds"]
        results[f"{what}, a clip"] = row
    distances: dict[str, Callable[[], object]] = {}
    for width in (FEATURE_WIDTH, I3D_WIDTH):
        x, y = np.random.default_rng(0).normal(size=[2, rows, width])
        distances[f"Fréchet distance, {rows} × {width}"] = lambda x=x, y=y: frechet_distance_of_features(x, y)
        distances[f"kernel distance, {rows} × {width}"] = lambda x=x, y=y: KernelDistance(x, y).value()
    for name, times in time_rounds(distances, rounds=rounds).items():
        results[name] = {"seconds": times.wall, "cpu_seconds": times.cpu}
    return results


def show(results: dict[str, dict[str, Any]]) -> str:
    columns = ["metrics", "milliseconds", "CPU milliseconds", "per second", "of the limit"]
    rows = [
        [
            name,
            cell(row, "seconds", ".3g", 1e3),
            cell(row, "cpu_seconds", ".3g", 1e3),
            f"{1 / row['seconds']:.3g}",
            cell(row, "fraction_of_limit", ".0%"),
        ]
        for name, row in results.items()
    ]
    return markdown(columns, rows)


@click.command(cls=Command)
@click.option("--resolution", default=256, show_default=True, help="Width of the clips in pixels.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Timings of each.")
@JSON_OPTION
def main(resolution: int, rounds: int, file: Path | None) -> None:
    """Throughput of the metrics."""
    results = measure(resolution=resolution, rounds=rounds)
    click.echo(show(results))
    write_json(file, results)


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
