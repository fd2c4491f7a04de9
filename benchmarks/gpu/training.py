"""Stages of a whole training: the data loader beside the device, and short trainings on synthetic heads."""

import dataclasses
import json
import math
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks.data_loading import write_noise_videos
from benchmarks.gpu.record import ROOT, Bench, seconds_per_call, synchronize
from dnnlib import UserError
from renderer.depth import surface_depth
from renderer.video import image_grid, save_png, to_uint8
from training.checkpoints.snapshot import load_average_generator
from training.data.dataset import VideoPairDataset
from training.data.frames_loader import make_loader
from training.inference.frame_renderer import FrameRenderer
from training.inference.latents import SeedLatents, generator_latents
from training.launch.config import compose_options
from training.launch.default_data import default_config
from training.synthetic.make_dataset import make_dataset

__all__ = ["data", "training"]

SAMPLES, COLUMNS = 16, 8
VIDEOS = 128  # synthetic heads
#: Name → overrides. 64² renders 32² rays, four times as many as the default.
TRAININGS = {
    "32": ("resolution=32",),
    "64": ("resolution=64", "model.generator.rendering.resolution=32"),
}


def data(bench: Bench) -> None:
    """Pairs of frames per second of the loader alone, and of the loader and the copy to the device."""
    rates = {}
    for size, batch in ((32, 4),) if bench.tiny else ((32, 32), (256, 32)):
        folder = bench.scratch / f"noise-{size}"
        write_noise_videos(str(folder), suffix="png", size=size)
        dataset = VideoPairDataset(path=str(folder), resolution=size)
        for workers in (0,) if bench.tiny else (3, 8):
            with bench.record.attempt(f"{size}², {workers} workers"):
                loader = make_loader(dataset, batch_size=batch, workers=workers, pin_memory=bench.cuda)
                try:
                    for _ in range(2 if bench.tiny else 10):
                        pairs = next(loader)
                    seconds = 0.1 if bench.tiny else 3.0
                    count, began = 0, time.perf_counter()
                    while time.perf_counter() - began < seconds:
                        pairs = next(loader)
                        pairs.frames.to(bench.device, non_blocking=True)
                        count += batch
                    synchronize(bench.device)
                    rate = count / (time.perf_counter() - began)
                finally:
                    loader.close()
                to_device = partial(pairs.frames.to, bench.device, non_blocking=True)
                copy = seconds_per_call(to_device, bench.device)
                rates[f"{size}², {workers} workers"] = rate
                bench.record.row(
                    "Loader of PNG frames, batches of 32 videos, copied to the device",
                    resolution=size, workers=workers, videos_per_second=rate, copy_of_a_batch_ms=1e3 * copy,
                    page_locked=pairs.frames.is_pinned() if bench.cuda else False,
                )  # fmt: skip
    bench.record.headline("videos/s: " + ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items()))


def training(bench: Bench) -> None:
    """Short runs of run_train.py on synthetic heads, stopped by a signal: videos/s, samples and depth."""
    _heads(bench)
    rates = []
    plans = {"32": TRAININGS["32"]} if bench.tiny else TRAININGS
    for i, (name, words) in enumerate(plans.items()):
        share = (bench.left() - 20) / (len(plans) - i)
        if share < 20 and not bench.tiny:
            bench.record.note(f"Out of time: training at {name}² was left out.")
            continue
        with bench.record.attempt(f"training at {name}²"):
            rates.append(f"{name}² {_train(bench, name, words, seconds=share - 10):.3g}")
    bench.record.headline("videos/s: " + ", ".join(rates))


def _heads(bench: Bench) -> Path:
    """Synthetic heads at the largest resolution of the trainings, made by the first call."""
    folder, resolution = bench.scratch / "heads", 32 if bench.tiny else 64
    if folder.is_dir():
        return folder
    options = compose_options(["outdir=.", "data=.", "model=stylenerf_small", "spec=small", f"resolution={resolution}"])
    changes = {"videos": 4, "supersample": 1} if bench.tiny else {"videos": VIDEOS}
    config, began = dataclasses.replace(default_config(options), **changes), time.monotonic()
    make_dataset(folder, config)
    bench.record.figure(f"{config.videos} synthetic videos at {resolution}², s", time.monotonic() - began)
    return folder


def _train(bench: Bench, name: str, words: tuple[str, ...], *, seconds: float) -> float:
    """Videos per second of one training of at most a minute."""
    batch = 4 if bench.tiny else 32
    model = ["model=stylenerf_small", "spec=small", *words]
    runs = bench.scratch / f"runs-{name}"
    command = [
        sys.executable, "run_train.py", f"outdir={runs}", f"data={_heads(bench)}", *model, f"spec.mb={batch}",
        f"spec.microbatch={batch}", "spec.kimg_per_tick=0.5", "imgsnap=null", "snap=null", "kimg=10000",
        f"device={bench.device.type}", "cuda_graphs=true", "fp32=true", "nobench=true",
    ]  # fmt: skip
    if bench.tiny:
        for_gpus = ("kimg=", "cuda_graphs", "fp32", "nobench", "spec.kimg_per")
        command = [word for word in command if not word.startswith(for_gpus)]
        command += ["kimg=0.008", "spec.kimg_per_tick=0.004", "model.generator.rendering.resolution=8"]
    log = bench.scratch / f"log-{name}.txt"
    with open(log, "wb") as output:
        child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            child.wait(timeout=600 if bench.tiny else min(60.0, max(seconds, 15.0)))
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGTERM)  # it saves a snapshot and ends
            try:
                child.wait(timeout=30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                bench.record.fail(f"training at {name}²", "did not end within 30 s after SIGTERM")
    end = log.read_text(encoding="utf-8", errors="replace")[-1500:]
    if child.returncode not in (0, 128 + signal.SIGTERM, -signal.SIGTERM):
        raise RuntimeError(f"run_train.py ended with {child.returncode}: {end}")
    (run,) = (path for path in runs.iterdir() if path.is_dir() and path.name[:5].isdigit())
    rows = [json.loads(line) for line in (run / "stats.jsonl").read_text(encoding="utf-8").splitlines()]
    rate = _rate(rows)
    if math.isnan(rate):
        bench.record.fail(f"training at {name}²", "too slow to finish a second tick of 500 videos: no videos/s")
    last = rows[-1]
    shown = ("Loss/G/loss", "Loss/D/loss", "Loss/scores/real", "Loss/scores/fake")
    losses = {key: _mean(last.get(key)) for key in shown}
    nonfinite = sum(_mean(row.get("Progress/nonfinite_gradients")) or 0 for row in rows)
    bench.record.row(
        "Training of the small model on synthetic heads, 32 videos a step",
        resolution=name, videos_per_second=rate, ticks=len(rows), **losses, nonfinite_gradients=nonfinite,
    )  # fmt: skip
    bench.record.note(f"End of the log at {name}²: {' / '.join(end.strip().splitlines()[-3:])[-400:]}")
    try:
        _samples(bench, run, bench.folder / f"samples_{name}.png")
    except UserError as error:
        bench.record.fail(f"samples at {name}²", str(error))
    return rate


def _mean(value: object) -> float | None:
    """The mean of a statistic in stats.jsonl."""
    if isinstance(value, dict):
        value = value.get("mean")
    return float(value) if isinstance(value, (int, float)) else None


def _rate(rows: list[dict]) -> float:
    """Median of the ticks' videos/s; the first one has none."""
    rates = sorted(r for r in (_mean(row.get("videos/s")) for row in rows) if r is not None and r == r)
    return rates[len(rates) // 2] if rates else float("nan")


@torch.no_grad()
def _samples(bench: Bench, run: Path, file: Path) -> None:
    """A grid of samples, and below it their depth (near is bright, the background black)."""
    generator = load_average_generator(run, device=bench.device)
    latents = SeedLatents.join(generator_latents(generator, seed, seed) for seed in range(SAMPLES)).to(bench.device)
    codes = {"z_motion": latents.z_motion, "z_bg": latents.z_bg}
    renderer = FrameRenderer(generator, generator.mapping(latents.z, None), **codes)
    output = renderer.output(0.5, generator.camera_prior.at().repeat(SAMPLES).to(bench.device))
    background = generator.background is not None
    depth, weights = surface_depth(output.depth[:, 0], output.opacity[:, 0], background=background)
    near, far = generator.settings.near, generator.settings.far
    shade = ((far - depth) / (far - near)).clamp(0, 1) * weights
    size = output.image.shape[-1]
    shade = torch.nn.functional.interpolate(shade[:, None], size=(size, size)).expand(-1, 3, -1, -1)
    pictures = torch.cat([to_uint8(output.image[:, 0]), (255 * shade).round().to(torch.uint8)])
    save_png(image_grid(pictures, COLUMNS), file)
    bench.record.figure(f"mean opacity of {file.name}", float(output.opacity.mean()))
