"""Comparison of two models: the newest rows of their result files side by side, with the intervals of the differences.

Two evaluations of independent samples differ by B − A ± √(a² + b²), with the half widths a and b of their intervals:
the distances of the upper ends from the values, as the lower end of a Fréchet distance's interval is at least 0. There
is no verdict where several generated samples are from one video, as they are not independent; the real ones are the
same for A and B.
"""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dnnlib import UserError, is_number
from metrics.results import Figure, depends_on_real, differences, figures, read_metric_rows, row_entry

__all__ = ["comparison_lines", "newest_rows"]


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
        pair = {"A": rows_a[name], "B": rows_b[name]}
        found = [*_notes_on_models(name, pair, {"A": rows_a[shared[0]], "B": rows_b[shared[0]]})]
        reasons = [*_notes_on_conditions(name, *pair.values())] or [*_notes_on_dependence(name, pair)]
        notes += [*found, *_notes_on_names(name, *pair.values()), *reasons]
        of_a, of_b = (figures(name, row) for row in pair.values())
        for label, entry in of_a.items():
            table.append(_line(label, entry, of_b.get(label), comparable=not reasons))
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


Sides = Mapping[str, Mapping[str, Any]]  # rows by 'A' and 'B'


def _notes_on_models(name: str, pair: Sides, first: Sides) -> Iterator[str]:
    """Notes on rows of another model than that of the first lines."""
    for side, row in pair.items():
        if not _same_model(row, first[side]):
            yield f"{name}: {side} is another model here than in the line above: {', '.join(_model(row))}."


def _same_model(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    for key in ("checkpoint_sha256", "cur_nimg", "checkpoint", "fake_name"):  # by the most certain one that both have
        if row.get(key) is not None and other.get(key) is not None:
            return row[key] == other[key]
    return True


def _notes_on_names(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    """A note on different names of the real videos, unless their content is known."""
    if any(row.get("num_real") is None for row in (a, b)) or not any(map(depends_on_real, (a, b))):
        return
    names = [row.get("real_name") for row in (a, b)]
    known = all(row_entry(row, "real_data").get("fingerprint") for row in (a, b))
    if all(names) and names[0] != names[1] and not known:
        yield (
            f"{name}: A was compared with the real videos '{names[0]}', B with '{names[1]}': unless these are the "
            "same under two names, the values cannot be compared."
        )


def _notes_on_conditions(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    """A note on differences because of which the values cannot be compared."""
    found, measured = differences(a, b), [row.get("num_measured") for row in (a, b)]
    if None not in measured and measured[0] != measured[1]:
        found.append("the number of samples that have a value")
    if found:
        yield f"{name}: A and B differ in {' and '.join(found)}: the values cannot be compared."


def _notes_on_dependence(name: str, pair: Sides) -> Iterator[str]:
    """Notes on intervals of generated samples that are not independent, as several are from one video."""
    for side, row in pair.items():
        videos, count = row_entry(row, "fake").get("num_videos"), row.get("num_fake")
        if row.get("interval") is not None and is_number(videos) and is_number(count) and videos < count:
            what = f"the {count} generated {row_entry(row, 'protocol').get('samples', 'samples')} of {side}"
            yield (
                f"{name}: {what} are from {videos} video{'s' * (videos != 1)}: those of one video are alike, so the "
                "interval is too narrow for a verdict."
            )


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
    about = _about(row)
    return os.fspath(folder) + (f" ({', '.join(about)})" if about else "")


def _about(row: Mapping[str, Any]) -> list[str]:
    """The names and the progress of a row's model, as far as they are known."""
    about = [str(row[key]) for key in ("fake_name", "checkpoint") if row.get(key)]
    if is_number(row.get("cur_nimg")):
        about.append(f"{row['cur_nimg'] / 1000:g} kimg")
    return list(dict.fromkeys(about))


def _model(row: Mapping[str, Any]) -> list[str]:
    """As `_about`, with the SHA-256, which may be the only difference."""
    digest = row.get("checkpoint_sha256")
    return [*_about(row), *([f"SHA-256 {str(digest)[:12]}"] if digest else [])]
