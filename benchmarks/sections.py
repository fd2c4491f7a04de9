"""Sections of `python -m benchmarks`: each runs a benchmark, prints its tables, and returns rows and data."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import data_loading, evaluation, growth, rendering, training, work
from benchmarks.profiling import profile_to, show
from benchmarks.tables import cell, markdown
from torch_utils.ops.fused_mlp import has_fused_mlp
from training.launch.config import compose_options

__all__ = ["SECTIONS", "BenchmarkSettings", "Report", "Row", "profiles", "summary_table"]


@dataclass(frozen=True)
class BenchmarkSettings:
    """Model (`quick`: the small one, else the paper's) and number of timings; `tell` receives each finished table."""

    quick: bool
    rounds: int
    tell: Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """A line of the summary.

    Attributes:
        what: The computation.
        seconds: Its wall time.
        multiple: Multiple of the original's speed, corrected by calibration; None where the original was not timed.
        fraction: Fraction of the limit; None where no limit is known.
        peak: Peak resident memory in bytes; None where it was not measured.
    """

    what: str
    seconds: float
    multiple: float | None = None
    fraction: float | None = None
    peak: float | None = None


@dataclass(frozen=True)
class Report:
    """Results of a section."""

    data: Any
    rows: Sequence[Row] = field(default_factory=tuple)


def summary_table(rows: Sequence[Row]) -> str:
    columns = ["what", "seconds", "× original", "of the limit", "peak GB"]
    forms = {"seconds": (".3g", 1), "multiple": (".3g", 1), "fraction": (".0%", 1), "peak": (".2f", 1e-9)}
    return markdown(columns, [[r.what, *(cell(asdict(r), key, *form) for key, form in forms.items())] for r in rows])


def rendering_section(settings: BenchmarkSettings) -> Report:
    """The README's command, its loop, single frames."""
    precisions = ["float32", *(["bf16"] if has_fused_mlp(torch.device("cpu"), "bfloat16") else [])]
    results = rendering.measure(precisions=precisions, rounds=settings.rounds, quick=settings.quick)
    rows = [
        Row(name, row["seconds"], row.get("multiple"), row.get("fraction_of_limit"), row.get("peak"))
        for name, row in results["rows"].items()
    ]
    settings.tell(rendering.show(results))
    return Report(results, rows)


#: (resolution, videos) of the original's timings, most expensive first.
TRAININGS = ((256, 2), (256, 1), (64, 2), (64, 1))


def training_section(settings: BenchmarkSettings) -> Report:
    """The phases of an iteration in float32; in bfloat16 and with activation checkpointing at the largest size."""
    if settings.quick:
        runs = {"small 32², 4 videos": (training.compose(work.QUICK[:-1]), 4)}
    else:
        model = work.FULL[:2]
        runs = {
            f"{size}², {videos} videos": (training.compose([*model, f"resolution={size}"]), videos)
            for size, videos in TRAININGS
        }
        runs["256², 2 videos, bf16"] = training.compose(model, precision="bf16"), 2
        runs["256², 2 videos, activation checkpointing"] = training.compose(model, activation_checkpointing=True), 2
    data, rows = {}, []
    for name, (options, videos) in runs.items():
        data[name] = training.measure(options, videos=videos, rounds=settings.rounds)
        settings.tell(f"{name}: {training.show(data[name])}")
        for phase, row in data[name]["rows"].items():
            figures = row.get("multiple"), row.get("fraction_of_limit"), row["memory"]
            rows.append(Row(f"{phase}, {name}", row["seconds"], *figures))
    return Report(data, rows)


def data_section(settings: BenchmarkSettings) -> Report:
    """Pairs of frames from disk, beside Pillow alone."""
    effort = {"rounds": 1, "processes": 1} if settings.quick else {"rounds": 10, "processes": 8}
    kinds = dict(list(data_loading.KINDS.items())[: 1 if settings.quick else None])
    results = data_loading.measure(**effort, kinds=kinds, frames=320 if settings.quick else 200_000)
    rows = [
        Row(f"a pair of frames, {kind}, {source}", 1 / rate, fraction=rate / rates["limit"])
        for kind, rates in results["pairs per second"].items()
        for source, rate in rates.items()
        if source != "limit"
    ]
    settings.tell(data_loading.show(results))
    return Report(results, rows)


def metrics_section(settings: BenchmarkSettings) -> Report:
    """Features and distances."""
    effort = {"resolution": 32, "clips": 1, "rows": 64} if settings.quick else {}
    results = evaluation.measure(rounds=settings.rounds, **effort)
    rows = [Row(name, row["seconds"], fraction=row.get("fraction_of_limit")) for name, row in results.items()]
    settings.tell(evaluation.show(results))
    return Report(results, rows)


def growth_section(settings: BenchmarkSettings) -> Report:
    """Scaling of the cost."""
    data = {}
    for name, axis in growth.AXES.items():
        points = list(growth.growth(axis, rounds=min(settings.rounds, 3), quick=settings.quick))
        settings.tell(growth.report_section(name, axis, points))
        data[name] = [asdict(point) for point in points]
    return Report(data)


SECTIONS: dict[str, Callable[[BenchmarkSettings], Report]] = {
    "rendering": rendering_section,
    "training": training_section,
    "data": data_section,
    "metrics": metrics_section,
    "growth": growth_section,
}
PROFILED = {"rendering": work.rendering, "training": work.training}


def profiles(settings: BenchmarkSettings, names: Sequence[str], folder: Path) -> Iterator[str]:
    """Traces of a rendered frame and of the phases of training, and tables of their most expensive operations."""
    options = compose_options(["outdir=.", "data=.", *(work.QUICK if settings.quick else work.FULL)])
    for name in PROFILED:
        if name in names:
            for part, (function, _) in PROFILED[name](options, videos=1, frames=None).items():
                yield show(part, profile_to(folder / f"{part}.json", function))
