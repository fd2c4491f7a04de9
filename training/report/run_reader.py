"""Robust reader of run folders: of runs that still write, and of missing, truncated, damaged, huge or malicious files.

Only regular files are opened, a limited number of bytes of each is kept, and invalid content is left out and counted.
"""

import collections
import dataclasses
import json
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

__all__ = [
    "Curve", "MediaFile", "image_grids", "log_lines", "metric_rows", "number", "read_bytes",
    "read_statistics", "read_text", "videos",
]  # fmt: skip

MAX_POINTS = 400  # per curve
MAX_CURVES = 200
MAX_NAME = 300  # characters
MAX_METRIC_ROWS = 2000  # the latest rows of a metric
STATUS_FIELDS = ("kimg", "tick", "timestamp", "time", "left")
MAX_LINE = 1 << 20  # bytes
MAX_TEXT = 1 << 20
PROBLEM = re.compile(
    r"warning|error|traceback|not saved|could not be read|broken down|left out|damaged|not available", re.IGNORECASE
)


class Curve:
    """Curve of one statistic in bounded memory: neighbouring values are merged when there are many.

    Attributes:
        name: Name of the statistic.
        first, last: First and last value; NaN if not finite.
        points: [kimg, mean, lowest, highest] of bins with equal numbers of values, NaN where none is finite.
    """

    def __init__(self, name: str):
        self.name = name
        self.first = self.last = math.nan
        self._size = 1  # values per bin
        self._bins: list[list[float]] = []  # count, sum of kimg, finite count, their sum, lowest, highest

    @classmethod
    def of(cls, name: str, kimg: Iterable[float], values: Iterable[float]) -> "Curve":
        curve = cls(name)
        for place, value in zip(kimg, values, strict=True):
            curve.add(place, value)
        return curve

    def add(self, kimg: float, value: float) -> None:
        """Append a value; one that is not finite gives a gap."""
        self.last = value if math.isfinite(value) else math.nan
        if not self._bins:
            self.first = self.last
        new = [1, kimg, 1, value, value, value] if math.isfinite(value) else [1, kimg, 0, 0.0, math.inf, -math.inf]
        if self._bins and self._bins[-1][0] < self._size:
            self._bins[-1] = _merged(self._bins[-1], new)
        else:
            self._bins.append(new)
        if len(self._bins) > MAX_POINTS:
            pairs = zip(self._bins[::2], [*self._bins[1::2], None])
            self._bins = [one if other is None else _merged(one, other) for one, other in pairs]
            self._size *= 2

    @property
    def points(self) -> list[tuple[float, float, float, float]]:
        none = (math.nan, math.nan, math.nan)
        return [
            (k / n, *((total / finite, low, high) if finite else none)) for n, k, finite, total, low, high in self._bins
        ]


def _merged(one: list[float], other: list[float]) -> list[float]:
    sums = [x + y for x, y in zip(one[:4], other[:4])]
    return [*sums, min(one[4], other[4]), max(one[5], other[5])]


@dataclasses.dataclass(frozen=True)
class MediaFile:
    """An image or a video of a run."""

    path: Path
    kimg: int
    name: str
    size: int


def read_text(path: Path, limit: int = MAX_TEXT) -> str | None:
    """The first `limit` bytes of a text file; None if it is missing or cannot be read."""
    content = read_bytes(path, limit)
    return None if content is None else content.decode("utf-8", errors="replace")


def read_json_lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """The rows of a .jsonl file; None for a line that is not a JSON object."""
    for line in _lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        yield row if isinstance(row, dict) else None


def read_statistics(path: Path) -> tuple[list[Curve], dict[str, Any], int]:
    """The statistics of stats.jsonl sorted by name, its last row, and the number of damaged or truncated lines.

    Rows whose kimg is invalid or decreases are left out.
    """
    curves: dict[str, Curve] = {}
    last_row: dict[str, Any] = {}
    damaged, last = 0, -math.inf
    for row in read_json_lines(path):
        kimg = number(row.get("kimg")) if row is not None else math.nan
        damaged += row is None
        if not math.isfinite(kimg) or kimg < last:
            continue
        last, last_row = kimg, row
        for name, entry in row.items():
            if name in STATUS_FIELDS or len(name) > MAX_NAME:
                continue
            if name not in curves and len(curves) < MAX_CURVES:
                curves[name] = Curve(name)
            if name in curves:
                curves[name].add(kimg, number(entry.get("mean") if isinstance(entry, dict) else entry))
    found = [curve for curve in curves.values() if any(math.isfinite(mean) for _, mean, _, _ in curve.points)]
    return sorted(found, key=lambda curve: curve.name), last_row, damaged


def number(value: Any) -> float:
    """A JSON value as a float; NaN if it is not a number."""
    if type(value) not in (int, float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def log_lines(path: Path, *, most: int) -> tuple[list[str], int, list[str]]:
    """Warnings and errors in a log (the latest `most` lines), their number, and the log's last lines."""
    problems, count, end = [], 0, []
    for raw in _lines(path):
        line = raw.decode("utf-8", errors="replace").rstrip()[:500]
        if not line:
            continue
        end = [*end[-14:], line]
        if PROBLEM.search(line):
            count += 1
            problems = [*problems[-(most - 1) :], line]
    return problems, count, end


def metric_rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of metric-<name>.jsonl by name, those without a finite value left out."""
    found = {}
    entries = [entry for entry in _entries(folder) if entry.name.startswith("metric-")]
    for entry in sorted(entries, key=lambda entry: entry.name)[:MAX_CURVES]:
        match = re.fullmatch(r"metric-(.{1,100})\.jsonl", entry.name)
        rows = list(collections.deque(read_json_lines(Path(entry.path)), MAX_METRIC_ROWS)) if match else []
        rows = [row for row in rows if row is not None and math.isfinite(number(row.get("value")))]
        if rows:
            found[match[1]] = rows
    return found


def image_grids(folder: Path) -> dict[str, list[MediaFile]]:
    """images/<name>_<kimg>.png by name, in the order of kimg."""
    found: dict[str, list[MediaFile]] = {}
    for entry in _entries(folder / "images"):
        match = re.fullmatch(r"([A-Za-z]\w{0,60})_(\d{1,9})\.png", entry.name)
        if match:
            media = MediaFile(Path(entry.path), int(match[2]), match[1], entry.stat().st_size)
            found.setdefault(match[1], []).append(media)
    return {name: sorted(found[name], key=lambda media: media.kimg) for name in sorted(found)}


def videos(folder: Path) -> list[MediaFile]:
    """The videos of the newest folder videos/<kimg>/ that has some, by name."""
    numbers = sorted(
        (int(entry.name) for entry in _entries(folder / "videos", files=False) if re.fullmatch(r"\d{1,9}", entry.name)),
        reverse=True,
    )
    for kimg in numbers:
        # Folder names are padded with zeros; others are not previews.
        entries = [e for e in _entries(folder / "videos" / f"{kimg:06d}") if re.fullmatch(r"[^.].*\.mp4", e.name)]
        if entries:
            media = [MediaFile(Path(e.path), kimg, e.name[:-4], e.stat().st_size) for e in entries]
            return sorted(media, key=lambda media: media.name)
    return []


def read_bytes(path: Path, limit: int) -> bytes | None:
    """The first `limit` bytes of a file; None if it is missing or cannot be read."""
    try:
        with _open(path) as file:
            return file.read(limit)
    except OSError:
        return None


def _entries(folder: Path, *, files: bool = True) -> list[os.DirEntry]:
    """Regular files, or folders, in a folder; none if it is missing."""
    try:
        with os.scandir(folder) as entries:
            kind = os.DirEntry.is_file if files else os.DirEntry.is_dir
            return [entry for entry in entries if kind(entry, follow_symlinks=False)]
    except OSError:
        return []


def _open(path: Path) -> IO[bytes]:
    """Open a regular file: links might lead out of the run, and pipes might never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb")


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, long ones in pieces; none if it is missing."""
    try:
        with _open(path) as file:
            while line := file.readline(MAX_LINE):
                yield line
    except OSError:
        return
