"""Result files: metric-<name>.jsonl with one row per evaluation."""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnnlib import UserError, is_number

__all__ = ["append_row", "is_best", "read_metric_rows", "result_path", "row_summary"]


def result_path(folder: str | os.PathLike, name: str) -> Path:
    return Path(folder) / f"metric-{name}.jsonl"


def append_row(folder: str | os.PathLike, row: Mapping[str, Any]) -> Path:
    """Append a row to the file of its metric, unbuffered, and on a line of its own even after a truncated one.

    Raises:
        UserError: The file cannot be written.
    """
    path = result_path(folder, row["metric"])
    line = json.dumps(_without_nan(dict(row)), ensure_ascii=False) + "\n"
    try:
        with open(path, "a+b", buffering=0) as file:
            if file.seek(0, os.SEEK_END) > 0:
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else "\n" + line
            file.write(line.encode(errors="backslashreplace"))  # lone surrogates in a name: as JSON escapes
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


def is_best(folder: str | os.PathLike, row: Mapping[str, Any]) -> bool:
    """True if no row of its metric's file is better than `row` (already appended).

    Metrics without a better direction have no best row.
    """
    higher = row["higher_is_better"]
    if higher is None or not is_number(row["value"]):
        return False
    values = [r.get("value") for r in read_metric_rows(folder, row["metric"])]
    values = [value for value in values if is_number(value)]
    return row["value"] == (max if higher else min)([row["value"], *values])


def row_summary(row: Mapping[str, Any]) -> str:
    """A row as one readable line."""
    text = f"{row['metric']} {row['value']:.4g}"
    if row["interval"] is not None:
        text += f" (95 %: {row['interval'][0]:.4g} to {row['interval'][1]:.4g})"
    if row.get("recall") is not None:
        text = text.replace(" ", " precision ", 1) + f", recall {row['recall']:.4g}"
        if row.get("recall_interval") is not None:
            text += " (95 %: {:.4g} to {:.4g})".format(*row["recall_interval"])
    if row.get("real") is not None:
        text += f", real videos {row['real']:.4g}"
    wanted, sort = row["protocol"]["count"], row["protocol"]["samples"]
    text += f"; {row['num_fake']} generated {sort}"
    if row["num_fake"] < wanted:
        text += f" (only: the metric asks for {wanted})"
    if row["num_real"] is not None:
        text += f", {row['num_real']} real"
        if sort == "clips" and row["num_real"] < wanted:
            text += f" (only: the metric asks for {wanted})"
        if row["real_data"].get("num_short_videos"):
            text += f", {row['real_data']['num_short_videos']} real videos too short and left out"
    if row["detector"].get("published_file") is False:
        text += f"; THE DETECTOR {row['detector']['file']} IS NOT THE PUBLISHED FILE: compare with nothing else"
    elif "sha256" in row["detector"]:
        text += f"; detector {row['detector']['file']}, SHA-256 {row['detector']['sha256']}"
    if row.get("warning"):
        text += f"; {row['warning']}"
    return text


def _without_nan(value: Any) -> Any:
    """A value with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return value
