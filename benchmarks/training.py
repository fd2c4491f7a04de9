"""What the phases of a training iteration cost on this machine: time, memory, fraction of the machine's limit.

    python -m benchmarks.training [--json FILE] [--resolution 256] [--batch 2] [--precision bf16] [--recompute]

Every phase runs in a fresh process, on random frames and initial weights: a first pass, then `--rounds` timed ones.
Memory is that process's peak resident size. The figures of the original program are those of its own measurement on a
2-core CPU; as machines differ, a multiple of it is corrected by two products that were timed there and are timed here
(`CALIBRATION`), each by itself. For the limit see `benchmarks.training_limit`.
"""

import json
import multiprocessing
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.scaling import build, one_pass
from benchmarks.training_limit import limits
from dnnlib import atomic_write, run_cli
from torch_utils.host_memory import keep_freed_memory
from torch_utils.random_stream import RandomStream
from training.configuration import compose_options
from training.losses import VideoBatch

INTERVALS = {"Gmain": 1, "Greg": 4, "Dmain": 1, "Dreg": 16}  # iterations between a phase's passes
#: Seconds of the original with 2 threads and its peak memory in GB, FaceForensics model: (resolution, batch) → phases.
ORIGINAL = {
    (256, 1): {"Gmain": (12.7, 7.3), "Greg": (10.2, 10.1), "Dmain": (9.1, 3.9), "Dreg": (9.6, 4.7)},
    (256, 2): {"Gmain": (33.1, 12.4), "Greg": (13.2, 10.4), "Dmain": (25.1, 5.1), "Dreg": (23.1, 7.0)},
    (64, 1): {"Gmain": (4.8, 4.2), "Greg": (5.5, 7.9), "Dmain": (3.4, 2.4), "Dreg": (3.2, 2.6)},
    (64, 2): {"Gmain": (13.6, 6.3), "Greg": (5.4, 8.0), "Dmain": (7.5, 2.7), "Dreg": (6.1, 3.0)},
}
#: Seconds of the calibration products while the original was measured.
CALIBRATION = {"matmul": 0.100, "conv": 0.040}
CALIBRATION_ROUNDS = 7


def calibrate(rounds: int = CALIBRATION_ROUNDS) -> dict[str, float]:
    """Median seconds of a matrix product 2048³ and of a 3×3 convolution 128 → 128 on [2, 128, 128, 128], float32."""
    a, b = torch.ones(2048, 2048), torch.ones(2048, 2048)
    x, w = torch.ones(2, 128, 128, 128), torch.ones(128, 128, 3, 3)
    products = {"matmul": lambda: a @ b, "conv": lambda: torch.nn.functional.conv2d(x, w, padding=1)}
    return {name: statistics.median(_seconds(product) for _ in range(rounds)) for name, product in products.items()}


def _seconds(work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def peak_memory() -> float:
    """Largest resident size of this process so far, in GB (10⁹ bytes); nan where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM"))


def random_batch(videos: int, resolution: int) -> VideoBatch:
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(videos, 2, 3, resolution, resolution, generator=generator) * 2 - 1
    dt = torch.rand(videos, generator=generator)
    return VideoBatch(frames=frames, dt=dt, c=torch.zeros(videos, 0))


def measure_phase(options: Mapping[str, Any], name: str, videos: int, rounds: int, threads: int) -> dict[str, Any]:
    """Seconds, CPU seconds and peak memory of a phase; to be called in a fresh process."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    _, _, loss, phases = build(options, "cpu")
    phase = next(phase for phase in phases if phase.name == name)
    batch, stream = random_batch(videos, options["resolution"]), RandomStream(0)
    wall, cpu = [], []
    for i in range(1 + rounds):
        began, began_cpu = time.perf_counter(), time.process_time()
        one_pass(loss, phase, batch, stream)
        if i > 0 or rounds == 0:
            wall.append(time.perf_counter() - began)
            cpu.append(time.process_time() - began_cpu)
    return {"seconds": statistics.median(wall), "cpu_seconds": statistics.median(cpu), "memory": peak_memory()}


def in_fresh_process(function, *arguments):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def compose(model: str, resolution: int, precision: str, recompute: bool) -> dict[str, Any]:
    words = [
        "outdir=.",
        "data=.",
        "spec=paper",
        f"model={model}",
        f"resolution={resolution}",
        f"fp32={_word(precision == 'float32')}",
    ]
    return compose_options([*words, f"precision={precision}", f"recompute={_word(recompute)}"])


def _word(flag: bool) -> str:
    return str(flag).lower()


def measure(options: Mapping[str, Any], *, videos: int, rounds: int, threads: int, limit: bool) -> dict[str, Any]:
    """All phases, and the calibration products before, between and after them."""
    torch.set_num_threads(threads)
    calibrations, phases = [calibrate()], {}
    for name in INTERVALS:
        phases[name] = in_fresh_process(measure_phase, options, name, videos, rounds, threads)
        calibrations.append(calibrate())
    calibration = {key: statistics.median(c[key] for c in calibrations) for key in CALIBRATION}
    if limit:
        for name, seconds in limits(options, videos).items():
            phases[name] |= seconds
            phases[name]["fraction_of_limit"] = seconds["limit_seconds"] / phases[name]["seconds"]
    return {"threads": threads, "videos": videos, "calibration": calibration, "phases": phases}


def iteration(phases: Mapping[str, Mapping[str, float]], key: str) -> float:
    """The sum over the phases as often as they occur."""
    return sum(phases[name][key] / interval for name, interval in INTERVALS.items())


def compare(result: dict[str, Any], resolution: int) -> None:
    """Add multiples of the original's speed, where it was measured at this size."""
    original = ORIGINAL.get((resolution, result["videos"]))
    result["iteration"] = {"seconds": iteration(result["phases"], "seconds")}
    if original is None:
        return
    before = {name: {"seconds": seconds, "memory": memory} for name, (seconds, memory) in original.items()}
    for key, then in CALIBRATION.items():
        speed = result["calibration"][key] / then  # how much longer the same product takes here
        for name, phase in result["phases"].items():
            phase[f"multiple_by_{key}"] = before[name]["seconds"] * speed / phase["seconds"]
            phase["memory_of_original"] = phase["memory"] / before[name]["memory"]
        own = result["iteration"]["seconds"]
        result["iteration"][f"multiple_by_{key}"] = iteration(before, "seconds") * speed / own
    largest = [max(p["memory"] for p in phases.values()) for phases in (result["phases"], before)]
    result["iteration"]["memory_of_original"] = largest[0] / largest[1]


def show(result: dict[str, Any]) -> str:
    matmul, conv = (result["calibration"][key] * 1000 for key in CALIBRATION)
    lines = [
        f"{result['videos']} videos, {result['threads']} threads; calibration: product {matmul:.0f} ms, "
        f"convolution {conv:.1f} ms",
        "",
        "| phase | seconds | CPU s | × original, by product | by convolution | peak GB | of original | of limit |",
        "| :-- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    rows = {**result["phases"], "an iteration": result["iteration"]}
    for name, row in rows.items():
        cells = [_cell(row, "seconds", ".2f"), _cell(row, "cpu_seconds", ".2f")]
        cells += [_cell(row, f"multiple_by_{key}", ".2f") for key in CALIBRATION]
        cells += [_cell(row, "memory", ".2f"), _cell(row, "memory_of_original", ".0%")]
        cells.append(_cell(row, "fraction_of_limit", ".0%"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: Mapping[str, float], key: str, form: str) -> str:
    return format(row[key], form) if key in row else ""


@click.command()
@click.option("--model", default="stylenerf_faceforensics", show_default=True, help="A file of conf/model.")
@click.option("--resolution", default=256, show_default=True, help="Of the images.")
@click.option("--batch", default=2, show_default=True, help="Videos per pass.")
@click.option("--precision", type=click.Choice(["float32", "bf16"]), default="float32", show_default=True)
@click.option("--recompute", is_flag=True, help="Recompute the point layers in the backward pass.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Timed passes of each phase.")
@click.option("--threads", default=torch.get_num_threads(), show_default=True, help="Of each process.")
@click.option("--limit/--no-limit", default=True, show_default=True, help="Time the same products by themselves, too.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the figures here as well.")
def main(
    model: str,
    resolution: int,
    batch: int,
    precision: str,
    recompute: bool,
    rounds: int,
    threads: int,
    limit: bool,
    file: Path | None,
) -> None:
    """Time and memory of the four phases."""
    options = compose(model, resolution, precision, recompute)
    result = measure(options, videos=batch, rounds=rounds, threads=threads, limit=limit)
    result |= {"model": model, "resolution": resolution, "precision": precision, "recompute": recompute}
    if model == "stylenerf_faceforensics":
        compare(result, resolution)
    else:
        result["iteration"] = {"seconds": iteration(result["phases"], "seconds")}
    click.echo(show(result))
    if file is not None:
        with atomic_write(file, "w") as stream:
            json.dump(result, stream, indent=1)


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
