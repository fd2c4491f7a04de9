"""Measurements in fresh processes, and peak memory."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["in_fresh_process", "peak_memory"]


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Result of a function of a module, called in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def peak_memory() -> float:
    """Largest resident size of this process so far, in bytes; nan where the system does not report it."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return float("nan")
    return next((int(line.split()[1]) * 1024.0 for line in lines if line.startswith("VmHWM")), float("nan"))
