"""Profiles: the most expensive operations, and a trace for chrome://tracing or ui.perfetto.dev."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.tables import markdown

__all__ = ["Operation", "profile_to", "show"]

DEAREST = 10


@dataclass(frozen=True)
class Operation:
    """An operation: seconds without its callees, fraction of the whole, and number of calls."""

    name: str
    seconds: float
    share: float
    calls: int


def profile_to(path: Path, function: Callable[[], object]) -> list[Operation]:
    """Run a function a second time under the profiler and write the trace.

    Args:
        path: File to write, `*.json` or, compressed, `*.json.gz`.

    Returns:
        The ten most expensive operations: by time on the GPU where there is one, else on the CPU.
    """
    function()
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as recorded:
        function()
    path.parent.mkdir(parents=True, exist_ok=True)
    recorded.export_chrome_trace(str(path))
    clock = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    events = sorted(recorded.key_averages(), key=lambda event: -getattr(event, clock))
    whole = sum(getattr(event, clock) for event in events) or 1
    return [Operation(e.key, getattr(e, clock) / 1e6, getattr(e, clock) / whole, e.count) for e in events[:DEAREST]]


def show(title: str, operations: list[Operation]) -> str:
    """A table."""
    rows = [[f"`{o.name}`", f"{o.seconds:.3g}", f"{o.share:.1%}", f"{o.calls}"] for o in operations]
    return markdown([f"{title}: operation", "seconds", "share", "calls"], rows)
