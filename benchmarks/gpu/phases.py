"""Stages of the training phases: time, memory and finite gradients at full size, small models, waits of the host."""

import math
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.record import ROOT, Bench, peak_gigabytes, precision, reset_peak, seconds_per_call, synchronize
from benchmarks.scaling import batch_of
from dnnlib import UserError
from torch_utils.rng import RandomStream
from torch_utils.training_stats import Statistics
from training.ema import GeneratorEMA
from training.launch.build import build_augment, build_loss, build_networks, build_phases
from training.launch.config import compose_options
from training.launch.idle_options import check_precision
from training.loss import GanLoss, VideoBatch
from training.networks.discriminator import TimeAwareDiscriminators
from training.networks.generator import Generator
from training.phases import LOSS_SCALE, GradientGuard, Phase

__all__ = ["PRECISIONS", "phases", "small", "synchronisation"]

FULL = ("model=stylenerf_faceforensics", "spec=paper")
SMALL = ("model=stylenerf_small", "spec=small")
VIDEOS = 8  # per pass, as published
#: Precision → overrides, TensorFloat-32.
PRECISIONS: dict[str, tuple[tuple[str, ...], bool]] = {
    "float32": (("fp32=true",), False),
    "TF32": (("fp32=true", "allow_tf32=true"), True),
    "TF32 + fp16": (("allow_tf32=true",), True),
    "TF32 + bf16": (("allow_tf32=true", "precision=bf16"), True),
}
DEAREST = 8  # most expensive operations listed in a table


@dataclass
class Training:
    """Networks, loss and phases of a training on one device, with a batch of noise."""

    generator: Generator
    discriminator: TimeAwareDiscriminators
    loss: GanLoss
    phases: list[Phase]
    guard: GradientGuard
    batch: VideoBatch
    stream: RandomStream

    def run(self, phase: Phase) -> None:
        """Gradients of one pass, without the step."""
        phase.begin()
        self.loss.accumulate(phase.name, batch=self.batch, gain=phase.gain * LOSS_SCALE, stream=self.stream)

    def step(self, phase: Phase) -> None:
        """One pass and the step of the optimiser."""
        self.run(phase)
        phase.step(self.guard, divisor=LOSS_SCALE)


def build(words: tuple[str, ...], *, videos: int, device: torch.device) -> Training:
    """A training with initial weights.

    Raises:
        UserError: The options do not fit the device.
    """
    options = compose_options(["outdir=.", "data=.", *words])
    check_precision(options, device.type)
    generator, discriminator = build_networks(options, c_dim=0)
    augment = build_augment(options)
    probability = None if augment is None else augment.p
    for module in (generator, discriminator, augment):
        if module is not None:
            module.to(device)
    if augment is not None:
        augment.p = probability  # read on the host, as in a training
    statistics = Statistics()
    loss = build_loss(options, generator=generator, discriminator=discriminator, augment=augment, statistics=statistics)
    made = build_phases(options, generator=generator, discriminator=discriminator)
    batch = batch_of(videos, options["resolution"], str(device))
    random = torch.Generator().manual_seed(0)
    batch = replace(
        batch,
        frames=(torch.rand(batch.frames.shape, generator=random) * 2 - 1).to(device),
        dt=torch.rand(videos, generator=random).to(device),
    )
    guard = GradientGuard(device=device, statistics=statistics)
    return Training(generator, discriminator, loss, made, guard, batch, RandomStream(0, device))


def _nonfinite(phase: Phase) -> int:
    return sum(int((~p.grad.isfinite()).sum()) for p in phase.parameters if p.grad is not None)


def _measure(bench: Bench, what: str, training: Training, *, rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds of an average iteration by phase (a pass and the step, weighted by frequency), and cells of a row."""
    total, cells, first = {}, {}, {}
    for phase in training.phases:
        total[phase.name], cells[phase.name] = math.nan, "failed"
        with bench.record.attempt(f"{what}, {phase.name}"):
            reset_peak(bench.device)
            began = time.perf_counter()
            training.run(phase)
            nonfinite = _nonfinite(phase)  # waits for the device
            first[phase.name] = time.perf_counter() - began
            seconds = seconds_per_call(partial(training.step, phase), bench.device, rounds=rounds, warm_up=2)
            total[phase.name] = seconds / phase.interval
            memory = peak_gigabytes(bench.device)
            cells[phase.name] = f"{1e3 * seconds:.1f} ms" + ("" if memory is None else f", {memory:.1f} GB")
            if nonfinite:
                cells[phase.name] += f", {nonfinite} non-finite gradients"
    cells["first_passes_s"] = sum(first.values())
    return total, cells


def phases(bench: Bench) -> None:
    """All phases of the FaceForensics model at 256², 8 videos a pass, in all precisions.

    Then once more after cuDNN's search for the fastest algorithms, which a training does unless `nobench=true`.
    """
    model, videos = (FULL, VIDEOS) if not bench.tiny else ((*SMALL, "resolution=32"), 4)
    rates = {}
    for name, search in [*((name, False) for name in PRECISIONS), ("TF32 + fp16", True)]:
        if bench.tiny and name not in ("float32", "TF32 + bf16"):
            continue
        if bench.left() < (0.5 if search else 0.1) * bench.seconds:
            bench.record.note(f"Out of time: {name}{' after the search' if search else ''} was left out.")
            continue
        words, tf32 = PRECISIONS[name]
        with bench.record.attempt(name), precision(tf32=tf32), _algorithm_search(search):
            try:
                training = build((*model, *words), videos=videos, device=bench.device)
            except UserError as error:
                bench.record.note(f"{name}: {error}")
                continue
            title = f"{name}, searched" if search else name
            total, cells = _measure(bench, title, training, rounds=1 if bench.tiny else 5)
            rates[title] = videos / sum(total.values())
            bench.record.row(
                f"Phases, {videos} videos a pass: milliseconds of a pass and its step, peak of allocated memory",
                precision=title, **cells, iteration_ms=1e3 * sum(total.values()), videos_per_second=rates[title],
            )  # fmt: skip
            if any("non-finite" in str(cell) for cell in cells.values()):
                bench.record.note(f"{title}: some gradients are not finite, see the table.")
            del training
            bench.record.headline("videos/s: " + ", ".join(f"{key} {rate:.3g}" for key, rate in rates.items()))


@contextmanager
def _algorithm_search(search: bool) -> Iterator[None]:
    """Context in which cuDNN does or does not search for the fastest algorithm for convolutions of new shapes."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, search
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


# ----------------------------------------------------------------------------------------------------------------------
# Small models


def small(bench: Bench) -> None:
    """The small model at 32² with growing batches, and its most expensive operations."""
    rates = {}
    for videos in (4,) if bench.tiny else (4, 16, 64):
        for name in ("TF32",) if bench.tiny else ("TF32", "TF32 + fp16"):
            words, tf32 = PRECISIONS[name]
            sizes = (f"spec.mb={videos}", f"spec.microbatch={videos}")
            what = f"{videos} videos, {name}"
            with bench.record.attempt(what), precision(tf32=tf32):
                training = build((*SMALL, "resolution=32", *sizes, *words), videos=videos, device=bench.device)
                total, cells = _measure(bench, what, training, rounds=1 if bench.tiny else 10)
                rate = videos / sum(total.values())
                rates[videos] = max(rates.get(videos, 0), rate)
                bench.record.row(
                    "Small model, 32²: milliseconds of a pass and its step",
                    videos=videos, precision=name, **cells, iteration_ms=1e3 * sum(total.values()),
                    videos_per_second=rate,
                )  # fmt: skip
                if name == "TF32" and (bench.tiny or videos in (4, 64)):
                    _profile(bench, training, videos)
    bench.record.headline("videos/s: " + ", ".join(f"{n} a pass {rate:.3g}" for n, rate in rates.items()))


def _profile(bench: Bench, training: Training, videos: int) -> None:
    """Busy time of the device beside the time of a step, and the most expensive operations on device and host."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.cuda else [])]
    for phase in training.phases[:1] + training.phases[2:3]:  # Gmain, Dmain
        seconds = seconds_per_call(lambda: training.step(phase), bench.device, rounds=3, warm_up=1)  # noqa: B023
        with profile(activities=activities) as recorded:
            training.step(phase)
            synchronize(bench.device)
        events = recorded.key_averages()
        where = f"{phase.name}, {videos} videos"
        if bench.cuda:
            # Kernels alone: operators carry the time of the kernels that they start as well.
            kernels = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA]
            busy = sum(e.self_device_time_total for e in kernels) / 1e6
            bench.record.figure(
                f"device busy in {where}",
                f"{busy / seconds:.0%} of {1e3 * seconds:.1f} ms, {sum(e.count for e in kernels)} kernels",
            )
            _dearest(bench, f"Kernels by device time, {where}", kernels, "self_device_time_total")
        hosts = [e for e in events if e.device_type == torch.autograd.DeviceType.CPU]
        _dearest(bench, f"Operations by host time, {where}", hosts, "self_cpu_time_total")


def _dearest(bench: Bench, title: str, events: list[Any], clock: str) -> None:
    for event in sorted(events, key=lambda e: -getattr(e, clock))[:DEAREST]:
        bench.record.row(title, name=event.key[:90], ms=getattr(event, clock) / 1e3, calls=event.count)


# ----------------------------------------------------------------------------------------------------------------------
# Waits of the host

AUGMENTED = ("aug=fixed", "p=0.5", "augpipe=bgc", "diffaugment='color,translation,cutout'")


def synchronisation(bench: Bench) -> None:
    """Operations of an iteration for which the host waits for the device.

    Every part is run twice under PyTorch's check of synchronisation: as an error, which gives the first wait with its
    traceback, and as warnings, which give all of them.
    """
    waits: Counter[str] = Counter()
    for what, words in (("DiffAugment", ()), ("ADA and DiffAugment", AUGMENTED)):
        with bench.record.attempt(f"networks with {what}"):
            training = build((*SMALL, "resolution=32", *words), videos=4, device=bench.device)
            average, _ = build_networks(compose_options(["outdir=.", "data=.", *SMALL, "resolution=32"]), c_dim=0)
            average.to(bench.device).requires_grad_(False)
            ema = GeneratorEMA(source=training.generator, average=average, half_life_kimg=1, ramp=None)
            parts: list[tuple[str, Callable[[], object]]] = [
                (phase.name, partial(training.step, phase)) for phase in training.phases
            ]
            parts.append(("moving average", lambda: ema.update(cur_nimg=1000, batch=4)))  # noqa: B023
            if not words:
                frames = torch.zeros(4, 2, 3, 32, 32, dtype=torch.uint8)
                frames = frames.pin_memory() if bench.cuda else frames
                parts.append(("copy of a batch", lambda: _to_device(frames, bench.device)))  # noqa: B023
            for name, part in parts:
                waits[what] += _check_waits(bench, f"{name} ({what})", part)
    bench.record.headline(", ".join(f"{what}: {count} waits" for what, count in waits.items()))


def _to_device(frames: torch.Tensor, device: torch.device) -> torch.Tensor:
    return frames.to(device, non_blocking=True).float() / 127.5 - 1


def _check_waits(bench: Bench, what: str, part: Callable[[], object]) -> int:
    """Number of places at which a part waits; every one is a row."""
    part()
    part()
    synchronize(bench.device)
    first = ""
    try:
        with _sync_debug(bench, "error"):
            part()
    except RuntimeError as error:
        first = _last_own_line(error)
        if "synchroniz" not in str(error):
            bench.record.fail(what, f"{first}: {error}")
    places: Counter[str] = Counter()
    with warnings.catch_warnings(record=True) as caught, _sync_debug(bench, "warn"):
        warnings.simplefilter("always")
        part()
    for warning in caught:
        if "synchroniz" in str(warning.message):
            places[f"{warning.filename.removeprefix(f'{ROOT}/')}:{warning.lineno}"] += 1
    all_places = ", ".join(f"{place} ({count} times)" for place, count in places.items())
    bench.record.row("Waits", part=what, first=first or "none", all=all_places or "none")
    return max(len(places), bool(first))


@contextmanager
def _sync_debug(bench: Bench, mode: str) -> Iterator[None]:
    if not bench.cuda:
        yield
        return
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _last_own_line(error: BaseException) -> str:
    own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(str(ROOT))]
    own = [f for f in own if "/benchmarks/" not in f.filename and ".venv" not in f.filename] or own
    return f"{own[-1].filename.removeprefix(f'{ROOT}/')}:{own[-1].lineno} {own[-1].line}" if own else str(error)
