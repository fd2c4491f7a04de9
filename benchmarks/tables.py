"""Markdown tables of results."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["cell", "markdown"]


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]], *, named: bool = True) -> str:
    """A table; the first column holds names (if `named`), all others numbers."""
    rules = [":--" if named else "--:"] + ["--:"] * (len(columns) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, rules, *rows))


def cell(row: Mapping[str, Any], key: str, form: str, scale: float = 1) -> str:
    """A number of a row times `scale`, or an empty cell where it is missing."""
    return "" if row.get(key) is None else format(row[key] * scale, form)
