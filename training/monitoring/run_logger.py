"""Logging of a run: log.txt, the status line, stats.jsonl, the progress bar, and the trackers that mirror them.

Only the main process writes. A status line shows the fields of `FIELDS`; the row of stats.jsonl has the same fields,
then every reported statistic as {"mean", "std", "num"}. When a run is continued, rows later than the point it continues
from are removed, so that the file reads as if the run had never been interrupted.
"""

import contextlib
import json
import logging
import math
import os
import resource
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from tqdm import tqdm

from dnnlib import append_line, atomic_write, explain_file_trouble, format_time
from torch_utils.training_stats import Moments
from training.monitoring.trackers import Trackers

__all__ = [
    "FIELDS",
    "LogFile",
    "RunLogger",
    "cpu_memory",
    "gpu_memory",
    "reset_gpu_peak",
    "status_line",
]

# Fields of a status line: name and format. tick: number; kimg: thousands of videos so far; time: seconds of training;
# maintenance: seconds between the ticks (previews, snapshots); cpumem, gpumem: GiB; augment: probability p; videos/s
# and sec/kimg: of the tick; left: seconds to the end of the training, at the pace of this process so far. The rates of
# tick 0, a single iteration that warms up, are NaN.
FIELDS = {
    "tick": "{:<5d}",
    "kimg": "{:<9.2f}",
    "time": "{:<12s}",
    "sec/tick": "{:<8.1f}",
    "sec/kimg": "{:<8.2f}",
    "maintenance": "{:<6.1f}",
    "cpumem": "{:<6.2f}",
    "gpumem": "{:<6.2f}",
    "augment": "{:<6.3f}",
    "videos/s": "{:<8.2f}",
    "left": "{}",
}


def status_line(fields: Mapping[str, float]) -> str:
    """The fields on one line: 'tick 0  kimg 0.02 …', with '-' for NaN."""
    parts = []
    for name, form in FIELDS.items():
        text = form.format(format_time(fields[name]) if name == "time" else fields[name])
        if math.isnan(fields[name]):
            text = "-".ljust(len(text))
        elif name == "left":
            text = format_time(fields[name])
        parts.append(f"{name} {text}")
    return " ".join(parts).rstrip()


def cpu_memory() -> float:
    """Memory of this process in GiB: its present use, or its peak where the system reports only that."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (OSError, IndexError, ValueError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class LogFile:
    """Context manager that copies stdout, warnings of `logging`, and the traceback of an error to a log file.

    Raises:
        UserError: The file cannot be opened. Later write errors (a full disk) are ignored: the same lines are on
            stdout, and writers of checkpoints and statistics raise their own errors.
    """

    def __init__(self, path: str | os.PathLike):
        self._path = path

    def __enter__(self) -> "LogFile":
        with explain_file_trouble(self._path):
            self._file = open(self._path, "a", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
        self._stdout = sys.stdout
        sys.stdout = self
        self._handler = _Noting(self)
        logging.root.addHandler(self._handler)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        sys.stdout = self._stdout
        logging.root.removeHandler(self._handler)
        if error is not None:
            with contextlib.suppress(OSError):
                self._file.write("".join(traceback.format_exception(kind, error, trace)))
        with contextlib.suppress(OSError):
            self._file.close()

    def note(self, line: str) -> None:
        """Write a line to the file only."""
        with contextlib.suppress(OSError):
            self._file.write(f"{line}\n")

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._file.write(text)
        return self._stdout.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._file.flush()
        self._stdout.flush()

    def __getattr__(self, name: str) -> Any:  # isatty, encoding, …
        return getattr(self._stdout, name)


class _Noting(logging.Handler):
    """Handler that writes warnings to a log file, and lets Python print those that no other handler takes."""

    def __init__(self, log: LogFile):
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):  # arguments that do not fit the message: the handler that prints says so
            self._log.note(self.format(record))
        logger, last = logging.getLogger(record.name), logging.lastResort
        while logger is not None and logger.handlers in ([], [self]):
            logger = logger.parent if logger.propagate else None
        if logger is None and last is not None and record.levelno >= last.level:
            last.handle(record)


class RunLogger:
    """Status lines, stats.jsonl, trackers and the progress bar of a run.

    Args:
        folder: The run folder.
        next_tick, cur_nimg: Progress at the start; rows that an interrupted run wrote beyond it are removed.
        total_nimg: Videos at the end of the run.
        active: True on the process that writes; the loggers of the others do nothing.
        trackers, options: Names of the trackers and the options of the training that they show, see `Trackers`.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        next_tick: int,
        cur_nimg: int,
        total_nimg: int,
        active: bool,
        trackers: Sequence[str],
        options: Mapping[str, Any],
    ):
        self._active = active
        self._path = Path(folder) / "stats.jsonl"
        self.trackers: Trackers | None = None
        if active:
            if self._path.exists():
                _truncate(self._path, next_tick)
            self.trackers = Trackers(trackers, Path(folder), first_step=cur_nimg + 1, options=options, say=self.print)
        self._bar = tqdm(
            total=total_nimg / 1000,
            initial=cur_nimg / 1000,
            disable=not (active and sys.stderr.isatty()),
            dynamic_ncols=True,
            # Half a unit beyond its total tqdm no longer shows it; a run whose kimg= was lowered may be there.
            bar_format=f"{{l_bar}}{{bar}}| {{n:.2f}}/{total_nimg / 1000:g} kimg [{{elapsed}}<{{remaining}}]",
        )

    def print(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._active:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def advance(self, videos: int) -> None:
        """Move the progress bar."""
        self._bar.update(videos / 1000)

    def tick(self, fields: Mapping[str, float], statistics: Mapping[str, Moments]) -> None:
        """Report a tick: the fields of the status line and the statistics."""
        if not self._active:
            return
        self.print(status_line(fields))
        row: dict[str, Any] = {name: _number(value) for name, value in fields.items()}
        row["timestamp"] = time.time()
        for name, moments in statistics.items():
            row[name] = {"mean": _number(moments.mean), "std": _number(moments.std), "num": moments.count}
        with explain_file_trouble(self._path):
            append_line(self._path, json.dumps(row))
        values = {f"Progress/{name}": value for name, value in fields.items() if not math.isnan(value)}
        values.update({name: moments.mean for name, moments in statistics.items()})
        self.trackers.scalars(values, round(fields["kimg"] * 1000))

    def metrics(self, cur_nimg: int, values: Mapping[str, float]) -> None:
        """Report metrics of the snapshot at this point, by name."""
        if self._active and values:
            self.print("  ".join(f"{name} {value:.4f}" for name, value in values.items()))
            self.trackers.scalars({f"Metrics/{name}": value for name, value in values.items()}, cur_nimg)

    def previews(self, cur_nimg: int, files: Mapping[str, Path]) -> None:
        """Show previews, by the names that `Previews.write` gives them, in the trackers."""
        if self._active:
            self.trackers.media({f"Previews/{name}": path for name, path in files.items()}, cur_nimg)

    def close(self) -> None:
        self._bar.close()
        if self._active:
            self.trackers.close()


def _number(value: float) -> float | None:
    """A finite number, or None: JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def _truncate(path: Path, next_tick: int) -> None:
    """Remove the rows of stats.jsonl from tick `next_tick` on."""
    kept = []
    with explain_file_trouble(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        try:
            if json.loads(line)["tick"] < next_tick:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # a line that was cut off while being written, or damaged later
    with atomic_write(path, "w") as file:
        file.writelines(kept)


def reset_gpu_peak(device: torch.device) -> None:
    """Restart the measurement of the peak of GPU memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def gpu_memory(device: torch.device) -> float:
    """Peak of GPU memory since the last reset, in GiB; 0 on the CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
