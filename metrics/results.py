"""Result files: metric-<name>.jsonl with one row per evaluation.

A file may hold rows of different models, real videos and feature extractors: the --outdir of `python -m metrics` may be
a run folder. Rows are ranked only among those that `comparable_rows` finds.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dnnlib import UserError, append_line, is_number
from metrics.metric_functions import STATISTICS
from metrics.registry import METRICS

__all__ = [
    "Figure",
    "added_by_training",
    "append_row",
    "comparable_rows",
    "depends_on_real",
    "differences",
    "figure_names",
    "figures",
    "is_best",
    "read_metric_rows",
    "result_path",
    "row_entry",
    "row_summary",
]

# Entries of a row that must agree for its value to be compared with another one.
CONDITIONS = {
    "protocol": "the protocol",
    "detector": "the feature extractor",
    "real_data": "the real videos",
    "num_fake": "the number of generated samples",
    "num_real": "the number of real samples",
}
OF_REAL = ("real_data", "num_real", "frame_stride")  # conditions of values that depend on the real videos


def result_path(folder: str | os.PathLike, name: str) -> Path:
    return Path(folder) / f"metric-{name}.jsonl"


def append_row(folder: str | os.PathLike, row: Mapping[str, Any]) -> Path:
    """Append a row to the file of its metric.

    Raises:
        UserError: The file cannot be written.
    """
    path = result_path(folder, row["metric"])
    try:
        append_line(path, json.dumps(_without_nan(dict(row)), ensure_ascii=False))
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}.") from error
    return path


def read_metric_rows(folder: str | os.PathLike, name: str) -> list[dict[str, Any]]:
    """The rows of a metric; truncated lines are left out.

    Raises:
        UserError: The file cannot be read.
    """
    rows = []
    try:
        text = result_path(folder, name).read_text(encoding="utf-8", errors="replace")  # may end in half a character
    except FileNotFoundError:
        return rows
    except OSError as error:
        raise UserError(f"Cannot read {result_path(folder, name)}: {error.strerror}; repair or remove it.") from error
    for line in text.split("\n"):  # splitlines() would also split at U+2028, which a name may hold
        with contextlib.suppress(ValueError, RecursionError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def row_entry(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An entry of a row that is a mapping; an empty one if there is none, as in rows of earlier versions."""
    return entry if isinstance(entry := row.get(key), Mapping) else {}


def depends_on_real(row: Mapping[str, Any]) -> bool:
    """True if the value of a row depends on the real videos: it compares with them, or has their labels."""
    name = str(row.get("metric"))
    compares = name not in METRICS or STATISTICS[METRICS[name].statistic].compares
    fake = row_entry(row, "fake")  # of earlier versions it does not say whether it is labelled
    return compares or fake.get("labelled", fake.get("from") == "generator") is not False


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Differences of two rows of a metric because of which their values cannot be compared, in words.

    Rows of earlier versions may lack the fingerprint of the real samples, the stride or the resolution, which is no
    difference. The fingerprint, where both have it, stands for the frames themselves, whatever the stride is called.
    Values that do not depend on the real videos can be compared whatever these are.
    """
    if not any(map(depends_on_real, (a, b))):
        a, b = ({key: value for key, value in row.items() if key not in OF_REAL} for row in (a, b))
    known = all(row_entry(row, "real_data").get("fingerprint") for row in (a, b))

    def condition(row: Mapping[str, Any], key: str) -> Any:
        ignored = {"detector": ("file",), "real_data": () if known else ("fingerprint",)}.get(key, ())
        entry = row.get(key)
        return {k: v for k, v in entry.items() if k not in ignored} if isinstance(entry, Mapping) else entry

    found = [what for key, what in CONDITIONS.items() if condition(a, key) != condition(b, key)]
    strides = [None if row.get("num_real") is None else row.get("frame_stride") for row in (a, b)]
    sizes = [row_entry(row, "fake").get("resolution") for row in (a, b)]
    if not known and all(strides) and strides[0] != strides[1]:
        found.append("the frame stride")
    if all(sizes) and sizes[0] != sizes[1]:
        found.append("the resolution of the generated videos")
    return found


def added_by_training(row: Mapping[str, Any]) -> bool:
    """True for a row of a run's own snapshot, False for one of `python -m metrics`, which may measure any model."""
    return "fake_name" not in row


def comparable_rows(rows: Iterable[Mapping[str, Any]], row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of a metric's file among which `row` is ranked: of equal conditions, and of the run itself if it is."""
    own = added_by_training(row)
    return [other for other in rows if added_by_training(other) == own and not differences(other, row)]


def is_best(folder: str | os.PathLike, row: Mapping[str, Any]) -> bool:
    """True if no comparable row of its metric's file is better than `row` (already appended).

    Metrics without a better direction have no best row.
    """
    higher = row["higher_is_better"]
    if higher is None or not is_number(row["value"]):
        return False
    written = _without_nan(dict(row))
    values = [other.get("value") for other in comparable_rows(read_metric_rows(folder, row["metric"]), written)]
    values = [value for value in values if is_number(value)]
    return row["value"] == (max if higher else min)([row["value"], *values])


Figure = tuple[float | None, list[float] | None, bool | None]  # value, interval, higher is better


def figure_names(name: str) -> tuple[()] | tuple[str, str]:
    """Names of the two figures of a metric's rows, such as precision and recall; () if the value is the only one."""
    return STATISTICS[METRICS[name].statistic].figures if name in METRICS else ()


def figures(name: str, row: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures of a row by their labels: its value, or precision and recall."""
    names = figure_names(name)
    if not names or not is_number(row.get(names[1])):
        return {name: (row["value"], _interval(row, "interval"), row.get("higher_is_better"))}
    first, second = names
    return {
        f"{name} {first}": (row["value"], _interval(row, "interval"), True),
        f"{name} {second}": (row[second], _interval(row, f"{second}_interval"), True),
    }


def _interval(row: Mapping[str, Any], key: str) -> list[float] | None:
    """An interval of a row; None if there is none, or its ends were not finite."""
    interval = row.get(key)
    return interval if isinstance(interval, list) and len(interval) == 2 and all(map(is_number, interval)) else None


def row_summary(row: Mapping[str, Any]) -> str:
    """A row as one readable line."""
    text = f"{row['metric']} {row['value']:.4g}"
    if row["interval"] is not None:
        text += f" (95 %: {row['interval'][0]:.4g} to {row['interval'][1]:.4g})"
    if names := figure_names(row["metric"]):
        first, second = names
        text = text.replace(" ", f" {first} ", 1) + f", {second} {row[second]:.4g}"
        if row.get(f"{second}_interval") is not None:
            text += " (95 %: {:.4g} to {:.4g})".format(*row[f"{second}_interval"])
    if row.get("real") is not None:
        text += f", real videos {row['real']:.4g}"
    wanted, sort = row["protocol"]["count"], row["protocol"]["samples"]
    text += f"; {row['num_fake']} generated {sort}{_of_videos(row, 'fake')}"
    if row["num_fake"] < wanted:
        text += f" (only: the metric asks for {wanted})"
    if row.get("num_measured", row["num_fake"]) < row["num_fake"]:
        text += f" (only {row['num_measured']} have a value)"
    if row["num_real"] is not None:
        text += f", {row['num_real']} real" + (_of_videos(row, "real_data") if sort == "clips" else "")
        if sort == "clips" and row["num_real"] < wanted:
            text += f" (only: the metric asks for {wanted})"
        if row["real_data"].get("num_short_videos"):
            text += f", {row['real_data']['num_short_videos']} real videos too short and left out"
    if size := row_entry(row, "fake").get("resolution"):
        text += f", {size}×{size} pixels"
    if row["detector"].get("published_file") is False:
        text += f"; THE DETECTOR {row['detector']['file']} IS NOT THE PUBLISHED FILE: compare with nothing else"
    elif "sha256" in row["detector"]:
        text += f"; detector {row['detector']['file']}, SHA-256 {row['detector']['sha256']}"
    if row.get("warning"):
        text += f"; {row['warning']}"
    return text


def _of_videos(row: Mapping[str, Any], side: str) -> str:
    """The number of videos that the samples of a side are from, in words, if there are several of one; '' if not."""
    videos, count = row_entry(row, side).get("num_videos"), row["num_fake" if side == "fake" else "num_real"]
    return "" if videos is None or videos >= count else f" of {videos} video{'s' * (videos != 1)}"


def _without_nan(value: Any) -> Any:
    """A value with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return value
