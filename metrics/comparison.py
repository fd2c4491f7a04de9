"""Comparison of two models: the newest rows of their result files side by side, with the intervals of the differences.

Two evaluations of independent samples differ by B − A ± √(a² + b²), with the half widths a and b of their intervals:
the distances of the upper ends from the values, as the lower end of a Fréchet distance's interval is at least 0.
"""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dnnlib import UserError, is_number
from metrics.results import read_metric_rows

__all__ = ["comparison_lines", "newest_rows"]

# Entries of a row that must agree for its value to be compared with another one.
CONDITIONS = {
    "protocol": "the protocol",
    "detector": "the feature extractor",
    "real_data": "the real videos",
    "num_fake": "the number of generated samples",
}
# Entries of rows that compare with real videos; rows written by earlier versions may lack them, which is no difference.
REAL_STRIDE, REAL_NAME = "frame_stride", "real_name"


def newest_rows(folder: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """The newest row of every metric-<name>.jsonl in a folder, by the metric's name.

    Raises:
        UserError: There is no such folder, or no row in it.
    """
    if not os.path.isdir(folder):
        raise UserError(f"--compare: there is no folder {folder}; give two that hold metric-<name>.jsonl.")
    names = sorted(path.name[len("metric-") : -len(".jsonl")] for path in Path(folder).glob("metric-*.jsonl"))
    rows = {name: found[-1] for name in names if (found := [*filter(_is_ours, read_metric_rows(folder, name))])}
    if not rows:
        raise UserError(f"--compare: {folder} holds no results: evaluate its model with --outdir {folder} first.")
    return rows


def comparison_lines(a: str | os.PathLike, b: str | os.PathLike) -> Iterator[str]:
    """A table of the metrics that two folders share, and notes on what they do not share.

    Raises:
        UserError: The folders share no metric; see also `newest_rows`.
    """
    rows_a, rows_b = newest_rows(a), newest_rows(b)
    shared = [name for name in rows_a if name in rows_b]
    if not shared:
        raise UserError(f"--compare: {a} ({', '.join(rows_a)}) and {b} ({', '.join(rows_b)}) share no metric.")
    yield f"A: {_described(a, rows_a[shared[0]])}"
    yield f"B: {_described(b, rows_b[shared[0]])}"
    table = [("metric", "A", "B", "B − A", "")]
    notes = []
    for name in shared:
        different = [what for key, what in CONDITIONS.items() if rows_a[name].get(key) != rows_b[name].get(key)]
        strides, names = (
            [_of_real(row, key) for row in (rows_a[name], rows_b[name])] for key in (REAL_STRIDE, REAL_NAME)
        )
        if all(strides) and strides[0] != strides[1]:
            different.append("the frame stride")
        sizes = [(row.get("fake") or {}).get("resolution") for row in (rows_a[name], rows_b[name])]
        if all(sizes) and sizes[0] != sizes[1]:
            different.append("the resolution of the generated videos")
        if all(names) and names[0] != names[1]:
            notes.append(
                f"{name}: A was compared with the real videos '{names[0]}', B with '{names[1]}': unless these are the "
                "same under two names, the values cannot be compared."
            )
        if different:
            notes.append(f"{name}: A and B differ in {' and '.join(different)}: the values cannot be compared.")
        for label, entry in _figures(name, rows_a[name]).items():
            table.append(_line(label, entry, _figures(name, rows_b[name]).get(label), comparable=not different))
    widths = [max(len(row[i]) for row in table) for i in range(4)]
    for row in table:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]).rstrip()
    yield from notes
    for folder, rows in ((a, rows_a), (b, rows_b)):
        alone = [name for name in rows if name not in shared]
        if alone:
            yield f"Only in {folder}: {', '.join(alone)}"


def _is_ours(row: Mapping[str, Any]) -> bool:
    """True for a row of this program: the StyleGANs' files have the same names, but other rows."""
    return "value" in row and (row["value"] is None or is_number(row["value"]))


def _of_real(row: Mapping[str, Any], key: str) -> Any:
    """An entry about the real videos of a row; None if it is missing, or if no real videos were used."""
    return row.get(key) if row.get("num_real") is not None else None


Figure = tuple[float | None, list[float] | None, bool | None]  # value, interval, higher is better


def _figures(name: str, row: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures of a row: its value, and recall where there is one."""
    if row.get("recall") is None:
        return {name: (row["value"], _interval(row, "interval"), row.get("higher_is_better"))}
    return {
        f"{name} precision": (row["value"], _interval(row, "interval"), True),
        f"{name} recall": (row["recall"], _interval(row, "recall_interval"), True),
    }


def _interval(row: Mapping[str, Any], key: str) -> list[float] | None:
    """An interval of a row; None if there is none, or its ends were not finite."""
    interval = row.get(key)
    return interval if isinstance(interval, list) and len(interval) == 2 and all(map(is_number, interval)) else None


def _line(label: str, a: Figure, b: Figure | None, *, comparable: bool) -> tuple[str, str, str, str, str]:
    b = b or (None, None, None)
    if a[0] is None or b[0] is None:
        return label, _shown(a), _shown(b), "-", ""
    difference = b[0] - a[0]
    if a[1] is None or b[1] is None:
        return label, _shown(a), _shown(b), f"{difference:+.4g}", ""
    reach = math.hypot(a[1][1] - a[0], b[1][1] - b[0])
    verdict = ""
    if comparable and a[2] is not None:
        better = "B" if (difference > 0) == a[2] else "A"
        verdict = f"{better} is better" if abs(difference) > reach else "undecided"
    return label, _shown(a), _shown(b), f"{difference:+.4g} ± {reach:.2g}", verdict


def _shown(figure: Figure) -> str:
    value, interval, _ = figure
    if value is None:
        return "-"
    return f"{value:.4g}" + ("" if interval is None else " ({:.4g} to {:.4g})".format(*interval))


def _described(folder: str | os.PathLike, row: Mapping[str, Any]) -> str:
    """A folder and the checkpoint of its row."""
    about = [str(row[key]) for key in ("fake_name", "checkpoint") if row.get(key)]
    if is_number(row.get("cur_nimg")):
        about.append(f"{row['cur_nimg'] / 1000:g} kimg")
    return os.fspath(folder) + (f" ({', '.join(dict.fromkeys(about))})" if about else "")
