"""The report of a run: report.json for programs, report.md to read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.stages import STAGES
from benchmarks.tables import markdown
from dnnlib import atomic_write

__all__ = ["PICTURES", "page", "write_report"]

PICTURES = {
    "rendering.png": "Frames of a generator with initial weights, in float32.",
    "samples_32.png": "Samples at 32² after the short training, and their depth (near is bright).",
    "samples_64.png": "Samples at 64² after the short training, and their depth (near is bright).",
}


def write_report(folder: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Write both files, atomically."""
    with atomic_write(folder / "report.json", "w") as stream:
        json.dump(results, stream, indent=1, ensure_ascii=False)
    with atomic_write(folder / "report.md", "w") as stream:
        stream.write(page(results, pictures=[name for name in PICTURES if (folder / name).is_file()]))


def page(results: Mapping[str, Mapping[str, Any]], *, pictures: list[str]) -> str:
    """Markdown: a summary, then a section for every stage."""
    rows = [
        [STAGES[name].title, result["status"], f"{result.get('wall', 0):.0f}", _cell(result["headline"])]
        for name, result in results.items()
    ]
    parts = ["# Report of a GPU", markdown(["stage", "outcome", "seconds", "main figure"], rows)]
    for name, result in results.items():
        parts.append(f"## {STAGES[name].title}")
        if result["headline"]:
            parts.append(result["headline"][:1].upper() + result["headline"][1:] + ".")
        if result["figures"]:
            parts.append(markdown(["", ""], [[_cell(k), _cell(v)] for k, v in result["figures"].items()]))
        for title, table in result["tables"].items():
            columns = list(dict.fromkeys(key for row in table for key in row))
            lines = [[_cell(row.get(column, "")) for column in columns] for row in table]
            parts.append(f"{title}:\n\n{markdown([column.replace('_', ' ') for column in columns], lines)}")
        parts += result["notes"]
        parts += [f"**Failed: {f['what']}**\n\n```\n{f['reason']}\n```" for f in result["failures"]]
    parts += [f"![{PICTURES[name]}]({name})\n\n*{PICTURES[name]}*" for name in pictures]
    return "\n\n".join(parts) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "/").replace("\n", " ")
