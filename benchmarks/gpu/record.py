"""Results of a stage, written to a file after every change, and timing on a device."""

import contextlib
import json
import math
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dnnlib import atomic_write

__all__ = ["Bench", "Record", "largest", "peak_gigabytes", "precision", "seconds_per_call"]

ROOT = Path(__file__).resolve().parents[2]
TAIL = 4  # frames of a traceback that are reported
ROUNDS = 10


class Record:
    """Figures, tables, failures and the main figure of a stage.

    Args:
        file: JSON file, replaced after every change, so that a killed stage leaves its results so far.
    """

    def __init__(self, file: Path):
        self._file = file
        self.content: dict[str, Any] = {"headline": "", "figures": {}, "tables": {}, "notes": [], "failures": []}

    def headline(self, text: str) -> None:
        """Set the main figure."""
        self.content["headline"] = text
        self._save()

    def figure(self, name: str, value: Any) -> None:
        self.content["figures"][name] = _plain(value)
        self._save()

    def row(self, table: str, **cells: Any) -> None:
        """Append a row to a table; the names of the cells are its columns."""
        self.content["tables"].setdefault(table, []).append({k: _plain(v) for k, v in cells.items()})
        self._save()

    def note(self, text: str) -> None:
        self.content["notes"].append(text)
        self._save()

    def fail(self, what: str, reason: str) -> None:
        """Record a failure: a wrong result, or the end of a traceback."""
        self.content["failures"].append({"what": what, "reason": reason})
        self._save()

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Record an exception as a failure and go on after the block."""
        try:
            yield
        except Exception as error:
            self.fail(what, describe_error(error))
            with contextlib.suppress(Exception):  # after some errors the device accepts no calls at all
                torch.cuda.empty_cache()

    def _save(self) -> None:
        with atomic_write(self._file, "w") as stream:
            json.dump(self.content, stream, indent=1)


@dataclass
class Bench:
    """Settings, folders and results of a stage.

    Attributes:
        device: Device under test.
        tiny: Use tiny sizes, to check that everything runs.
        seconds: Time limit of the stage.
        folder: Folder for pictures.
        scratch: Temporary folder.
    """

    device: torch.device
    tiny: bool
    seconds: float
    folder: Path
    scratch: Path
    record: Record
    _began: float = field(default_factory=time.monotonic)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def impl(self) -> str:
        """Native implementation of operators on the device."""
        return self.device.type

    def left(self) -> float:
        """Seconds until the time limit."""
        return self.seconds - (time.monotonic() - self._began)


def _plain(value: Any) -> Any:
    """A value for JSON: finite, four significant digits."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else str(value)
    return value


def largest(values: Iterable[float]) -> float:
    """The largest value; NaN if any value is, which max() may drop; 0 without values."""
    values = list(values)
    return math.nan if any(map(math.isnan, values)) else max(values, default=0.0)


def describe_error(error: BaseException) -> str:
    """The last frames of this repository, and the message."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename.startswith(str(ROOT)) and ".venv" not in f.filename]
    places = [f"{f.filename.removeprefix(f'{ROOT}/')}:{f.lineno} {f.line}" for f in own[-TAIL:]]
    return "\n".join([*places, f"{type(error).__name__}: {str(error)[:600]}"])


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_per_call(
    function: Callable[[], object], device: torch.device, *, rounds: int = ROUNDS, warm_up: int = 3
) -> float:
    """Median time of a call: between CUDA events on a GPU, on the clock elsewhere."""
    for _ in range(warm_up):
        function()
    synchronize(device)
    times = []
    for _ in range(rounds):
        if device.type == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            function()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        else:
            began = time.perf_counter()
            function()
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def peak_gigabytes(device: torch.device) -> float | None:
    """Peak of allocated GPU memory in GB since the last `reset_peak`; None elsewhere."""
    return torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@contextlib.contextmanager
def precision(*, tf32: bool) -> Iterator[None]:
    """Float32 products and convolutions with or without TensorFloat-32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
