"""Report of a run as one HTML page: `python -m training.report RUN` writes RUN/report.html.

The page is self-contained: images and videos are embedded, it makes no network requests and runs no scripts, so it can
be sent and archived. The contents of a run folder are shown as text, never as markup.
"""

import base64
import html
import io
import math
import os
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from dnnlib import UserError, atomic_write, format_bytes, format_time, run_cli
from dnnlib.command_line import Command
from metrics.results import added_by_training, comparable_rows, differences, figures
from training.checkpoints.snapshot_files import check_output
from training.data.names import RUN_OPTIONS
from training.report.charts import is_constant, line_chart, number_text
from training.report.page import PAGE
from training.report.run_reader import (
    Curve,
    MediaFile,
    image_grids,
    log_lines,
    metric_rows,
    number,
    read_bytes,
    read_statistics,
    read_text,
    videos,
)

__all__ = ["write_report"]

MAX_IMAGE = 400_000  # bytes; larger images are reduced
MAX_IMAGE_SIDE = 1024
MAX_IMAGE_FILE = 64_000_000  # bytes; larger files are not previews
MAX_VIDEO = 4_000_000  # bytes; larger videos are listed by name
WARNINGS = 40  # lines
METRIC_ROWS = 12  # the latest of each metric; the best one is listed in any case

GEOMETRY = {  # name: (unit, meaning), as in training.monitoring.geometry_monitor
    "surface": ("share of pixels", "pixels that show the foreground"),
    "depth_variance": ("scene units²", "variance of the visible surface's depth"),
    "relief": ("scene units", "distance of depths from the plane that fits best, root mean square"),
    "parallax": ("image widths", "parallax of a turned view beyond that plane; below 0.003 the geometry is flat"),
}
FLAT_PARALLAX = 0.003  # as training.monitoring.geometry_monitor.FLAT_PARALLAX, whose import would load PyTorch


def write_report(
    run: str | os.PathLike, out: str | os.PathLike | None = None, *, images: int = 8, shown: int = 8
) -> Path:
    """Write the report of a run folder, atomically.

    Args:
        run: The folder.
        out: The file; None: report.html in the folder.
        images: Largest number of image grids per kind, spread over the training.
        shown: Largest number of videos.

    Raises:
        UserError: It is not a run folder, or the file cannot be written.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise UserError(f"There is no run folder {folder}.")
    if not any((folder / name).exists() for name in ("stats.jsonl", RUN_OPTIONS, "log.txt")):
        inside = sorted(path.parent.name for path in folder.glob(f"*/{RUN_OPTIONS}"))
        hint = f"; it holds the runs {', '.join(inside[:5])}: name one of them" if inside else ""
        raise UserError(f"{folder} is not a run folder: it has no stats.jsonl, options or log{hint}.")
    out = folder / "report.html" if out is None else Path(out)
    content = PAGE.format(**_sections(folder, images=images, shown=shown))
    with atomic_write(out) as file:
        file.write(content.encode("utf-8", errors="replace"))  # file names may be invalid Unicode
    return out


@click.command(cls=Command, context_settings={"max_content_width": 120, "show_default": True})
@click.argument("run", type=click.Path())
@click.option("--out", type=click.Path(dir_okay=False), help="The file.  [default: report.html in the run folder]")
@click.option("--images", default=8, type=click.IntRange(1, 64), help="Most image grids of a kind over the training.")
@click.option("--videos", "shown", default=8, type=click.IntRange(0, 64), help="Most videos inside the page.")
def main(run: str, out: str | None, images: int, shown: int) -> None:
    """Write the report of a RUN folder as one HTML page."""
    if out is not None:
        check_output(out)
    path = write_report(run, out, images=images, shown=shown)
    click.echo(f"{path} ({format_bytes(path.stat().st_size)})")


# ----------------------------------------------------------------------------------------------------------------------
# Sections of the page


def _sections(folder: Path, *, images: int, shown: int) -> dict[str, str]:
    curves, last_row, damaged = read_statistics(folder / "stats.jsonl")
    warning_lines, count, end = log_lines(folder / "log.txt", most=WARNINGS)
    notes = []
    if damaged:
        notes.append(f"Lines of stats.jsonl that are damaged or cut off: {damaged}.")
    options = read_text(folder / RUN_OPTIONS)
    return {
        "title": _escape(folder.resolve().name or "run"),
        "summary": _summary(last_row, end, notes),
        "warnings": _warnings(warning_lines, count),
        "metrics": _metrics(metric_rows(folder)),
        "geometry": _geometry(curves),
        "pictures": _images(folder, images),
        "videos": _videos(videos(folder), shown),
        "curves": _curves(curves),
        "options": f"<p>There is no {RUN_OPTIONS}.</p>" if options is None else f"<pre>{_escape(options)}</pre>",
        "log": f"<pre>{_escape(chr(10).join(end))}</pre>" if end else "<p>There is no log.txt.</p>",
    }


def _summary(last: dict[str, Any], end: Sequence[str], notes: Iterable[str]) -> str:
    tiles = []
    for label, text in (
        ("thousand videos shown", number_text(number(last.get("kimg")))),
        ("of training", _duration(last.get("time"))),
        ("left at the present pace", _duration(last.get("left"))),
        ("seconds per thousand videos", number_text(number(last.get("sec/kimg")))),
        ("videos per second", number_text(number(last.get("videos/s")))),
        ("GiB of memory", number_text(number(last.get("cpumem")))),
        ("GiB on the GPU", number_text(number(last.get("gpumem")))),
    ):
        if text != "–":  # older runs have fewer fields
            tiles.append(f'<div class="tile"><b>{_escape(text)}</b>{label}</div>')
    state = "There is no log.txt."
    if end:
        told = [line for line in end if line.startswith(("Done:", "Stopped as asked", "Continuing:"))]
        state = "The log shows no end: the run is going on, or was interrupted."
        if told and not told[-1].startswith("Continuing:"):
            state = f"The log says: {told[-1]}."
    written = number(last.get("timestamp"))
    if 0 < written < 1e11:
        state += time.strftime(" Last row of stats.jsonl: %Y-%m-%d %H:%M:%S UTC.", time.gmtime(written))
    lines = [state, *notes] if last else [state, "There are no rows in stats.jsonl yet.", *notes]
    return f'<div class="tiles">{"".join(tiles)}</div>' + "".join(f"<p>{_escape(text)}</p>" for text in lines)


def _duration(value: Any) -> str:
    seconds = number(value)
    return format_time(seconds) if 0 <= seconds < 1e10 else "–"


def _warnings(lines: Sequence[str], count: int) -> str:
    if not lines:
        return "<p>None in log.txt.</p>"
    more = f"<p>The latest {len(lines)} of {count}.</p>" if count > len(lines) else ""
    return more + f'<pre class="warning">{_escape(chr(10).join(lines))}</pre>'


def _metrics(found: dict[str, list[dict[str, Any]]]) -> str:
    if not found:
        return "<p>None were measured (metrics=[…] while training, or python -m metrics).</p>"
    parts, charts = [], []
    for name, rows in found.items():
        # Rows that cannot be compared with the run's newest one, such as of other real videos, and those of `python -m
        # metrics` are listed, not ranked.
        newest = next((row for row in reversed(rows) if added_by_training(row)), rows[-1])
        alike = set(map(id, comparable_rows(rows, newest)))
        for label, (_, _, higher) in figures(name, newest).items():
            listed = []
            for row in rows:
                value, interval, _ = figures(name, row).get(label, (None, None, None))
                if value is not None:
                    listed.append((id(row) in alike, row, number(value), interval, number(row.get("cur_nimg")) / 1000))
            ranked = [(place, value) for own, _, value, _, place in listed if own]
            best = (max if higher else min)(value for _, value in ranked) if isinstance(higher, bool) else None
            if len(ranked) > 1 and all(math.isfinite(place) for place, _ in ranked):
                line = sorted(ranked)  # snapshots are measured in any order
                charts.append(_chart(label, [Curve.of(label, *zip(*line, strict=True))]))
            latest, older = listed[-METRIC_ROWS:], listed[:-METRIC_ROWS]
            of_best = [entry for entry in older if entry[0] and entry[2] == best][-1:]
            if any(own and value == best for own, _, value, _, _ in latest):
                of_best = []
            for own, row, value, interval, place in of_best + latest:
                cells = [
                    label + ("" if own else _reason(row, newest)),
                    number_text(place),
                    number_text(value) + (" (best)" if own and value == best and len(ranked) > 1 else ""),
                    " to ".join(map(number_text, interval)) if interval else "–",
                    {True: "higher", False: "lower"}.get(higher, "–") if isinstance(higher, bool) else "–",
                    number_text(number(row.get("num_fake"))),
                ]
                parts.append("<tr>" + "".join(f"<td>{_escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("metric", "kimg", "value", "95 %", "better is", "generated"))
    return f'<div class="charts">{"".join(charts)}</div><table><tr>{head}</tr>{"".join(parts)}</table>'


def _reason(row: dict[str, Any], newest: dict[str, Any]) -> str:
    """Why a row is not ranked, in words for its label."""
    return " (not comparable)" if differences(row, newest) else " (python -m metrics)"


def _geometry(curves: Sequence[Curve]) -> str:
    known = {curve.name.removeprefix("Geometry/"): curve for curve in curves if curve.name.startswith("Geometry/")}
    rows, charts = [], []
    for name, (unit, meaning) in GEOMETRY.items():
        if name in known:
            curve = known[name]
            cells = [name, number_text(curve.first), number_text(curve.last), unit, meaning]
            rows.append("<tr>" + "".join(f"<td>{_escape(cell)}</td>" for cell in cells) + "</tr>")
            charts.append(_chart(f"{name} ({unit})", [curve], FLAT_PARALLAX if name == "parallax" else None))
    if not rows:
        return "<p>It was not measured yet (it is at every snapshot).</p>"
    head = "".join(f"<th>{name}</th>" for name in ("", "first", "last", "unit", "what it is"))
    return f'<table><tr>{head}</tr>{"".join(rows)}</table><div class="charts">{"".join(charts)}</div>'


def _curves(curves: Sequence[Curve]) -> str:
    """One chart per statistic; those that differ only in their last part, 'real' or 'fake', share one."""
    groups: dict[str, list[Curve]] = {}
    constant = []
    for curve in curves:
        if curve.name.startswith("Geometry/"):
            continue
        if len(curve.points) > 1 and is_constant(curve):
            constant.append(f"{curve.name} {number_text(curve.last)}")
        else:
            head, _, tail = curve.name.rpartition("/")
            groups.setdefault(head if tail in ("real", "fake") else curve.name, []).append(curve)
    if not groups and not constant:
        return "<p>There are none yet.</p>"
    same = f"<p>Constant: {_escape(', '.join(constant))}.</p>" if constant else ""
    return f'<div class="charts">{"".join(_chart(name, group) for name, group in groups.items())}</div>{same}'


def _chart(name: str, curves: Sequence[Curve], threshold: float | None = None) -> str:
    last = []
    for i, curve in enumerate(curves):
        text = number_text(curve.last)
        tail = curve.name.rpartition("/")[2]
        last.append(f'<span class="k{i}">{_escape(f"{tail} {text}" if len(curves) > 1 else text)}</span>')
    svg = line_chart(curves, label=f"{name} against thousands of videos", threshold=threshold)
    return f"<figure><figcaption>{_escape(name)} <b>{' '.join(last)}</b></figcaption>{svg}</figure>"


def _images(folder: Path, most: int) -> str:
    parts = []
    for name, media in image_grids(folder).items():
        figures = [_image(chosen.path, f"{chosen.kimg} kimg") for chosen in _spread(media, most)]
        parts.append(f"<h3>{_escape(name)}</h3>")
        parts.append(f'<div class="pictures">{"".join(figures)}</div>')
        if len(media) > most:
            parts.append(f"<p>{most} of {len(media)} are shown.</p>")
    if (folder / "reals.png").exists():
        parts.append(f'<h3>real videos</h3><div class="pictures">{_image(folder / "reals.png", "first frames")}</div>')
    return "".join(parts) or "<p>There are none yet.</p>"


def _image(path: Path, caption: str) -> str:
    content = _reduced_image(path)
    if content is None:
        return f"<figure><figcaption>{_escape(caption)}: {_escape(path.name)} cannot be read</figcaption></figure>"
    source = f"data:image/{content[0]};base64,{base64.b64encode(content[1]).decode()}"
    return f'<figure><img alt="{_escape(caption)}" src="{source}"><figcaption>{_escape(caption)}</figcaption></figure>'


def _reduced_image(path: Path) -> tuple[str, bytes] | None:
    """Format and bytes of an image, reduced if it is large; None if it cannot be read."""
    from PIL import Image

    content = read_bytes(path, MAX_IMAGE_FILE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content or b""), formats=["PNG", "JPEG"])
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    if len(content) <= MAX_IMAGE:
        return image.format.lower(), content
    image = image.convert("RGB")
    image.thumbnail((MAX_IMAGE_SIDE, MAX_IMAGE_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=88)
    return "jpeg", buffer.getvalue()


def _videos(found: Sequence[MediaFile], most: int) -> str:
    if not found:
        return "<p>There are none yet.</p>"
    parts, left_out = [], []
    for media in found:
        content = read_bytes(media.path, MAX_VIDEO + 1) if len(parts) < most else None
        if content is None or len(content) > MAX_VIDEO or content[4:8] != b"ftyp":
            left_out.append(media.path.name)
            continue
        source = f"data:video/mp4;base64,{base64.b64encode(content).decode()}"
        caption = _escape(media.name)
        video = f'<video controls autoplay loop muted playsinline title="{caption}" src="{source}"></video>'
        parts.append(f"<figure>{video}<figcaption>{caption}</figcaption></figure>")
    more = f"<p>Not shown: {_escape(', '.join(left_out[:20]))}{' …' if left_out[20:] else ''}</p>" if left_out else ""
    return f'<p>At {found[0].kimg} kimg.</p><div class="videos">{"".join(parts)}</div>{more}'


def _spread(items: Sequence[MediaFile], most: int) -> list[MediaFile]:
    """At most `most` evenly spaced items, with the last and (if there is more than one) the first."""
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[-1]]
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _escape(text: str) -> str:
    """Text escaped for HTML, also for attributes, without control characters."""
    return html.escape("".join(c for c in text if c >= " " or c in "\n\t"), quote=True)


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
