"""Cost of the phases of a training iteration: time, memory, fraction of the machine's limit.

    python -m benchmarks.training [--json FILE] [--resolution 256] [--batch 2] [--precision bf16]
                                   [--activation-checkpointing]

Every phase runs in a fresh process, on random frames and initial weights: a first pass, then `--rounds` timed ones.
Memory is that process's peak resident size. Multiples are of the original program's time (benchmarks.calibration),
corrected by the calibration products, which are timed before, between and after the phases. The limit is the time of
the products that a pass requires (benchmarks.products) by the fastest library routes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import work
from benchmarks.calibration import (
    ORIGINAL_ITERATION,
    ORIGINAL_PHASES,
    SHARES,
    Calibration,
    describe_calibration,
    time_rounds,
)
from benchmarks.library_routes import time_products
from benchmarks.processes import in_fresh_process, peak_memory
from benchmarks.tables import JSON_OPTION, cell, markdown, write_json
from dnnlib import run_cli
from dnnlib.command_line import Command
from torch_utils.memory import keep_freed_memory, return_freed_memory
from training.launch.config import compose_options

__all__ = ["compose", "measure", "show"]

COVERED = 0.98  # fraction of the multiply-adds that is timed; the rest is assumed to have the same rate
SAMPLES = 3  # calibration samples between two phases


def measure_phase(options: Mapping[str, Any], name: str, videos: int, rounds: int, threads: int) -> dict[str, float]:
    """Seconds, CPU seconds and peak memory of a phase; to be called in a fresh process."""
    torch.set_num_threads(threads)
    if options["activation_checkpointing"]:  # as training does
        return_freed_memory()
    else:
        keep_freed_memory()
    function, _ = work.training(options, videos=videos)[name]
    times = time_rounds({name: function}, rounds=rounds)[name]
    return {"seconds": times.wall, "cpu_seconds": times.cpu, "memory": peak_memory()}


def compose(
    overrides: Sequence[str], *, precision: str = "float32", activation_checkpointing: bool = False
) -> dict[str, Any]:
    """Options of a training with these overrides, which name model, spec and resolution."""
    flags = [f"fp32={_word(precision == 'float32')}", f"precision={precision}"]
    flags.append(f"activation_checkpointing={_word(activation_checkpointing)}")
    return compose_options(["outdir=.", "data=.", *overrides, *flags])


def _word(flag: bool) -> str:
    return str(flag).lower()


def measure(
    options: Mapping[str, Any], *, videos: int, rounds: int = 5, threads: int | None = None, limit: bool = True
) -> dict[str, Any]:
    """All phases and an iteration: as time, as a multiple of the original if timed, and as a fraction of the limit.

    Args:
        videos: Videos per pass.
        rounds: Timed passes, of which the median is reported.
        threads: Threads of each process; None for PyTorch's default.
        limit: Time the products by themselves as well.
    """
    threads = threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    calibration = Calibration()
    phases = {}
    _sample(calibration)
    for name in SHARES:
        phases[name] = in_fresh_process(measure_phase, options, name, videos, rounds, threads)
        _sample(calibration)
    rows = phases | {"iteration": {key: _iteration(phases, key) for key in ("seconds", "cpu_seconds")}}
    rows["iteration"]["memory"] = max(phase["memory"] for phase in phases.values())
    if limit:
        for name, (seconds, count) in limits(options, videos).items():
            rows[name] |= {"limit_seconds": seconds, "multiply_adds": count}
        rows["iteration"] |= {key: _iteration(phases, key) for key in ("limit_seconds", "multiply_adds")}
        for row in rows.values():
            row["fraction_of_limit"] = row["limit_seconds"] / row["seconds"]
    _compare(rows, calibration, options, videos)
    return {"threads": threads, "videos": videos, "calibration": calibration.report(), "rows": rows}


def _sample(calibration: Calibration) -> None:
    for _ in range(SAMPLES):
        calibration.sample()


def _iteration(phases: Mapping[str, Mapping[str, float]], key: str) -> float:
    """The sum over the phases, weighted by their frequency."""
    return sum(phases[name][key] * share for name, share in SHARES.items())


def limits(options: Mapping[str, Any], videos: int) -> dict[str, tuple[float, int]]:
    """By phase, seconds of the required products by the fastest library routes, and their multiply-adds.

    For bfloat16, all products are assumed to use it. As not all do, that limit cannot be reached.
    """
    dtype = torch.bfloat16 if options["precision"] == "bf16" else torch.float32
    required = {name: found for name, (found, _) in work.count_products(work.training, options, videos=videos).items()}
    everything = sum(required.values(), Counter())
    timed = {p.product: p.seconds for p in time_products(everything, dtype=dtype, covered=COVERED).products}
    return {
        name: (
            sum(timed[product] * count for product, count in found.items()),
            sum(product.multiply_adds * count for product, count in found.items()),
        )
        for name, found in required.items()
    }


def _compare(rows: dict, calibration: Calibration, options: Mapping[str, Any], videos: int) -> None:
    """Add multiples of the original's speed and shares of its memory, where it was measured at this size."""
    size = (options["resolution"], videos)
    if options["names"]["model"] != "stylenerf_faceforensics" or size not in ORIGINAL_PHASES:
        return
    for name, original in {**ORIGINAL_PHASES[size], "iteration": ORIGINAL_ITERATION[size]}.items():
        rows[name]["multiple"] = calibration.multiple(original, rows[name]["seconds"])
        rows[name]["memory_of_original"] = rows[name]["memory"] / original.peak


def show(result: Mapping[str, Any]) -> str:
    """A table."""
    columns = ["phase", "seconds", "CPU seconds", "× original", "of the limit", "peak GB", "of the original's"]
    rows = [
        [
            name,
            cell(row, "seconds", ".3g"),
            cell(row, "cpu_seconds", ".3g"),
            cell(row, "multiple", ".3g"),
            cell(row, "fraction_of_limit", ".0%"),
            cell(row, "memory", ".2f", 1e-9),
            cell(row, "memory_of_original", ".0%"),
        ]
        for name, row in result["rows"].items()
    ]
    header = f"{result['videos']} videos, {result['threads']} threads; {describe_calibration(result['calibration'])}"
    return f"{header}\n\n{markdown(columns, rows)}"


@click.command(cls=Command)
@click.option("--model", default="stylenerf_faceforensics", show_default=True, help="A file of conf/model.")
@click.option("--resolution", default=256, show_default=True, help="Width of the images.")
@click.option("--batch", default=2, show_default=True, help="Videos per pass.")
@click.option("--precision", type=click.Choice(["float32", "bf16"]), default="float32", show_default=True)
@click.option("--activation-checkpointing", is_flag=True, help="As the option of run_train.py.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Timed passes of each phase.")
@click.option("--threads", default=torch.get_num_threads(), show_default=True, help="Threads of each process.")
@click.option("--limit/--no-limit", default=True, show_default=True, help="Time the same products by themselves, too.")
@JSON_OPTION
def main(
    model: str,
    resolution: int,
    batch: int,
    precision: str,
    activation_checkpointing: bool,
    rounds: int,
    threads: int,
    limit: bool,
    file: Path | None,
) -> None:
    """Time and memory of the four phases."""
    words = ["spec=paper", f"model={model}", f"resolution={resolution}"]
    options = compose(words, precision=precision, activation_checkpointing=activation_checkpointing)
    result = measure(options, videos=batch, rounds=rounds, threads=threads, limit=limit)
    result |= {"model": model, "resolution": resolution, "precision": precision}
    result["activation_checkpointing"] = activation_checkpointing
    click.echo(show(result))
    write_json(file, result)


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
