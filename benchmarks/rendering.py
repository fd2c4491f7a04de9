"""Rendering speed: the README's command, its loop alone, single frames, start-up, peak memory.

    python -m benchmarks.rendering [--precision float32|bf16] [--json FILE]

*Loop* is the part after loading: codes to a finished video of 16 frames from 16 cameras, encoding included. *Limit* is
the time of the products of its frames by the fastest library routes (benchmarks.library_routes), in the precision of
the loop. Weights are initial ones, as the time does not depend on them.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import work
from benchmarks.calibration import ORIGINAL_RENDER, Calibration, describe_calibration, time_rounds
from benchmarks.library_routes import time_products
from benchmarks.tables import JSON_OPTION, cell, markdown, write_json
from dnnlib import run_cli
from dnnlib.command_line import Command
from renderer.trajectories import camera_path
from renderer.video import VideoWriter, to_uint8
from torch_utils.memory import keep_freed_memory
from training.checkpoints.snapshot import save_snapshot
from training.inference.frame_renderer import FrameRenderer
from training.inference.latents import generator_latents
from training.launch.build import build_networks
from training.launch.config import compose_options

__all__ = ["MODELS", "measure", "show"]

ROOT = Path(__file__).resolve().parent.parent
FRAMES = 16
PROGRAM = "rotation_camera_yaw"
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}
#: Models of the original's timings: overrides, and the key of the timing of one frame.
MODELS = {
    "faceforensics 256²": (work.FULL, "frame 256"),
    "taichi 128²": (("model=stylenerf_taichi", "spec=paper", "fp32=true"), "frame 128 (taichi)"),
    "mead 256²": (("model=stylenerf_mead", "spec=paper", "fp32=true"), "frame 256 (mead)"),
}
QUICK_MODELS = {"small 32²": (work.QUICK, None)}


def measure(
    *, precisions: Sequence[str] = ("float32",), rounds: int = 5, quick: bool = False, process: bool = True
) -> dict[str, Any]:
    """Results by computation, see the module's docstring, and the calibration.

    Args:
        precisions: Precisions of the products, see `PRECISIONS`.
        rounds: Timings, of which the median is reported.
        quick: Measure the small model.
        process: Time the whole command as well.
    """
    keep_freed_memory()
    calibration, rows = Calibration(), {}
    for model, (overrides, original) in (QUICK_MODELS if quick else MODELS).items():
        options = compose_options(["outdir=.", "data=.", *overrides])
        ((products, _),) = work.count_products(work.rendering, options).values()
        for precision in precisions:
            frame = time_products(products, dtype=PRECISIONS[precision]).seconds
            loops = _functions(options, precision)
            if original != "frame 256" and not quick:  # the original's loop was timed with that model alone
                del loops["loop"]
            for name, times in time_rounds(loops, rounds=rounds, calibration=calibration).items():
                limit = frame * (FRAMES if name == "loop" else 1)
                rows[f"{name}, {model}, {precision}"] = {
                    "seconds": times.wall,
                    "cpu_seconds": times.cpu,
                    "limit_seconds": limit,
                    "fraction_of_limit": limit / times.wall,
                    "original": "command" if name == "loop" else original,
                }
            if process and "loop" in loops:
                rows |= _processes(options, model, precision, rounds)
    for row in rows.values():
        if not quick and row.get("original") is not None:
            row["multiple"] = calibration.multiple(ORIGINAL_RENDER[row["original"]], row["seconds"])
    return {"threads": torch.get_num_threads(), "calibration": calibration.report(), "rows": rows}


def _functions(options: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """One frame with given codes, and the loop."""
    generator, _ = build_networks(options, c_dim=0)
    generator.eval()
    latents = generator_latents(generator, 0, 0)
    cameras = camera_path(PROGRAM, generator.camera_prior, FRAMES)
    codes = {
        "z_motion": latents.z_motion,
        "z_bg": latents.z_bg,
        "precision": str(PRECISIONS[precision]).removeprefix("torch."),
    }

    @torch.inference_mode()
    def loop() -> None:
        with tempfile.TemporaryDirectory() as folder, VideoWriter(f"{folder}/video.mp4", 8.0) as video:
            renderer = FrameRenderer(generator, generator.mapping(latents.z, None), **codes)
            for step in range(FRAMES):
                video.add(to_uint8(renderer.render(step / (FRAMES - 1), cameras[FRAMES - 1 - step])[0]))

    with torch.inference_mode():
        renderer = FrameRenderer(generator, generator.mapping(latents.z, None), **codes)
    count = iter(range(1 << 30))

    @torch.inference_mode()
    def frame() -> None:
        step = next(count) % FRAMES
        renderer.render(step / (FRAMES - 1), cameras[step])

    return {"frame": frame, "loop": loop}


def _processes(options: Mapping[str, Any], model: str, precision: str, rounds: int) -> dict[str, dict[str, Any]]:
    """The whole command, and the same for a single frame."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        generator, discriminator = build_networks(options, c_dim=0)
        networks = {"generator": generator, "generator_ema": generator, "discriminator": discriminator}
        progress = {"cur_nimg": 0, "tick": 0, "iteration": 0}
        snapshot = save_snapshot(folder, **networks, augment=None, dataset={}, progress=progress)
        words = ["--outdir", folder, "--network_pkl", str(snapshot), "--seeds", "0", "--render_program", PROGRAM]
        if precision != "float32":
            words += ["--precision", precision]
        for name, frames in (("command", FRAMES), ("command for one frame", 1)):
            runs = [run_process([*words, "--time_steps", str(frames), "--n_steps", str(frames)]) for _ in range(rounds)]
            median = sorted(runs, key=lambda run: run["seconds"])[(rounds - 1) // 2]
            rows[f"{name}, {model}, {precision}"] = median | {"original": "command" if frames == FRAMES else None}
    return rows


def run_process(words: Sequence[str]) -> dict[str, float]:
    """Wall and processor seconds and peak memory in bytes of `generate.py` with these arguments.

    Raises:
        RuntimeError: The command failed; the message holds the end of its output.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            [sys.executable, "generate.py", *words], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            output.seek(0)
            raise RuntimeError(f"generate.py failed: {output.read().decode(errors='replace')[-500:]}")
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * 1024,
    }


def show(result: Mapping[str, Any]) -> str:
    """A table."""
    columns = ["rendering", "seconds", "CPU seconds", "× original", "of the limit", "peak GB"]
    rows = [
        [
            name,
            cell(row, "seconds", ".3g"),
            cell(row, "cpu_seconds", ".3g"),
            cell(row, "multiple", ".3g"),
            cell(row, "fraction_of_limit", ".0%"),
            cell(row, "peak", ".2f", 1e-9),
        ]
        for name, row in result["rows"].items()
    ]
    return f"{result['threads']} threads; {describe_calibration(result['calibration'])}\n\n{markdown(columns, rows)}"


@click.command(cls=Command)
@click.option("--precision", "precisions", type=click.Choice(list(PRECISIONS)), multiple=True, default=("float32",))
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Timings; the median counts.")
@click.option("--quick", is_flag=True, help="The small model.")
@click.option("--process/--no-process", default=True, show_default=True, help="Time the whole command as well.")
@JSON_OPTION
def main(precisions: tuple[str, ...], rounds: int, quick: bool, process: bool, file: Path | None) -> None:
    """Speed of rendering."""
    result = measure(precisions=precisions, rounds=rounds, quick=quick, process=process)
    click.echo(show(result))
    write_json(file, result)


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
