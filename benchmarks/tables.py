"""Results of benchmarks: Markdown tables, and JSON files on request."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from dnnlib import UserError, atomic_write

__all__ = ["JSON_OPTION", "cell", "markdown", "write_json"]


def _require_place(context: click.Context, option: click.Parameter, file: Path | None) -> Path | None:
    """Refuse a file in a folder that does not exist before the measurements, which take long."""
    if file is not None and not file.absolute().parent.is_dir():
        raise UserError(f"--json: there is no folder for '{file}': make it, or choose another place.")
    return file


JSON_OPTION = click.option(
    "--json",
    "file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    callback=_require_place,
    help="Write the figures here as well.",
)


def write_json(file: Path | None, figures: Any) -> None:
    """Write the figures to the file of `JSON_OPTION`, if one was given."""
    if file is not None:
        with atomic_write(file, "w") as stream:
            json.dump(figures, stream, indent=1, ensure_ascii=False)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]], *, named: bool = True) -> str:
    """A table; the first column holds names (if `named`), all others numbers."""
    rules = [":--" if named else "--:"] + ["--:"] * (len(columns) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, rules, *rows))


def cell(row: Mapping[str, Any], key: str, form: str, scale: float = 1) -> str:
    """A number of a row times `scale`, or an empty cell where it is missing."""
    return "" if row.get(key) is None else format(row[key] * scale, form)
