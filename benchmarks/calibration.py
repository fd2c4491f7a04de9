"""Timings of the original program, and calibration of this machine against the one they were taken on.

The original implementation, changed only so that it imports and runs on a CPU, was timed once in float32 on two cores
of an AMD EPYC with PyTorch 2.14.1. A matrix product and a convolution serve as calibration: they took
`REFERENCE_SECONDS` there, and are timed again in every run, between the measurements. A multiple is

    original's wall time × slowness / measured wall time,   slowness = geometric mean of (product now / product then).
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = [
    "ORIGINAL_ITERATION", "ORIGINAL_PHASES", "ORIGINAL_RENDER", "Calibration", "Original", "Times",
    "describe_calibration", "time_rounds",
]  # fmt: skip

GIGABYTE = 1e9


@dataclass(frozen=True)
class Original:
    """A measurement of the original program.

    Attributes:
        wall: Wall time in seconds.
        cpu: Processor time in seconds, user and system.
        peak: Peak resident memory in bytes.
    """

    wall: float
    cpu: float
    peak: float


def _figure(wall: float, cpu: float, gigabytes: float) -> Original:
    return Original(wall=wall, cpu=cpu, peak=gigabytes * GIGABYTE)


#: Rendering. 'command' is that of the README, with loading: it rendered all 16 × 16 pairs of time steps and cameras, of
#: which a video of 16 frames shows the diagonal. The others are single calls in evaluation mode.
ORIGINAL_RENDER = {
    "command": _figure(461.6, 754, 5.7),
    "frame 256": _figure(0.63, 1.23, 1.1),
    "four frames 256": _figure(3.88, 7.4, 1.9),
    "frame 128 (taichi)": _figure(0.28, 0.56, 0.9),
    "frame 256 (mead)": _figure(0.38, 0.76, 1.0),
}

#: A pass of each phase of a training step of the FaceForensics model, by (resolution, batch).
ORIGINAL_PHASES = {
    (256, 1): {
        "Gmain": _figure(12.7, 21.7, 7.3),
        "Greg": _figure(10.2, 18.3, 10.1),
        "Dmain": _figure(9.1, 18.0, 3.9),
        "Dreg": _figure(9.6, 19.1, 4.7),
    },
    (256, 2): {
        "Gmain": _figure(33.1, 55.0, 12.4),
        "Greg": _figure(13.2, 22.9, 10.4),
        "Dmain": _figure(25.1, 48.8, 5.1),
        "Dreg": _figure(23.1, 45.1, 7.0),
    },
    (64, 1): {
        "Gmain": _figure(4.8, 8.3, 4.2),
        "Greg": _figure(5.5, 9.5, 7.9),
        "Dmain": _figure(3.4, 6.6, 2.4),
        "Dreg": _figure(3.2, 6.1, 2.6),
    },
    (64, 2): {
        "Gmain": _figure(13.6, 22.4, 6.3),
        "Greg": _figure(5.4, 9.2, 8.0),
        "Dmain": _figure(7.5, 14.9, 2.7),
        "Dreg": _figure(6.1, 12.1, 3.0),
    },
}

#: Frequency of a phase per iteration.
SHARES = {"Gmain": 1.0, "Greg": 1 / 4, "Dmain": 1.0, "Dreg": 1 / 16}


def _iteration(phases: dict[str, Original]) -> Original:
    wall, cpu = (sum(getattr(p, key) * SHARES[name] for name, p in phases.items()) for key in ("wall", "cpu"))
    return Original(wall=wall, cpu=cpu, peak=max(p.peak for p in phases.values()))


#: An iteration, phases weighted by their frequency, by (resolution, batch).
ORIGINAL_ITERATION = {size: _iteration(phases) for size, phases in ORIGINAL_PHASES.items()}

#: Timings of the calibration products on the machine of the original's timings.
REFERENCE_SECONDS = {"matmul 2048³": 0.100, "conv 3×3 128→128 [2,128,128,128]": 0.040}


def _products() -> dict[str, Callable[[], torch.Tensor]]:
    """The calibration products, both float32; they have 17.2 and 9.66 billion operations."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2048, 2048, generator=generator) for _ in range(2))
    x, w = torch.randn(2, 128, 128, 128, generator=generator), torch.randn(128, 128, 3, 3, generator=generator)

    def matmul() -> torch.Tensor:
        return a @ b

    def convolution() -> torch.Tensor:
        return torch.nn.functional.conv2d(x, w, padding=1)

    return dict(zip(REFERENCE_SECONDS, (matmul, convolution), strict=True))


@dataclass
class Calibration:
    """Timings of the calibration products in this run; `sample` is called several times between measurements.

    Attributes:
        seconds: Wall times by product, one entry per sample.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in REFERENCE_SECONDS})

    def __post_init__(self) -> None:
        self._run = _products()
        for product in self._run.values():
            with torch.no_grad():
                product()  # warm up

    @torch.no_grad()
    def sample(self) -> None:
        for name, product in self._run.items():
            start = time.perf_counter()
            product()
            self.seconds[name].append(time.perf_counter() - start)

    @property
    def medians(self) -> dict[str, float]:
        """Medians over all samples, by product."""
        return {name: statistics.median(values) for name, values in self.seconds.items()}

    @property
    def slowness(self) -> float:
        """Ratio of this machine's timings to those of the machine of the original's timings."""
        return statistics.geometric_mean(m / REFERENCE_SECONDS[name] for name, m in self.medians.items())

    def multiple(self, original: Original, seconds: float) -> float:
        """Speed of a measurement of `seconds` of wall time as a multiple of the original's."""
        return original.wall * self.slowness / seconds

    def report(self) -> dict:
        """For a JSON file."""
        return {"seconds": self.medians, "samples": self.seconds, "slowness": self.slowness}


def describe_calibration(report: Mapping[str, Any]) -> str:
    """The result of `Calibration.report` as one line."""
    products = ", ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in report["seconds"].items())
    return f"calibration products: {products}"


@dataclass(frozen=True)
class Times:
    """Wall and processor seconds of every round."""

    walls: list[float]
    cpus: list[float]

    @property
    def wall(self) -> float:
        return statistics.median(self.walls)

    @property
    def cpu(self) -> float:
        return statistics.median(self.cpus)

    def report(self) -> dict:
        """For a JSON file."""
        return {"wall": self.wall, "cpu": self.cpu, "walls": self.walls, "cpus": self.cpus}


def time_rounds(
    functions: dict[str, Callable[[], object]],
    *,
    rounds: int = 5,
    calibration: Calibration | None = None,
    warm_up: bool = True,
) -> dict[str, Times]:
    """Time functions in alternation.

    Args:
        functions: Functions by name.
        rounds: Timed calls of each.
        calibration: Sampled in every round.
        warm_up: Call each once before.
    """
    for function in functions.values() if warm_up else ():
        function()
    walls: dict[str, list[float]] = {name: [] for name in functions}
    cpus: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        if calibration is not None:
            calibration.sample()
        for name, function in functions.items():
            wall, cpu = time.perf_counter(), time.process_time()
            function()
            walls[name].append(time.perf_counter() - wall)
            cpus[name].append(time.process_time() - cpu)
    return {name: Times(walls[name], cpus[name]) for name in functions}
