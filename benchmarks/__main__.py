"""All benchmarks in one run: `python -m benchmarks [--only rendering,training,data] [--json FILE]`."""

import platform
from pathlib import Path

import click
import torch

from benchmarks.sections import SECTIONS, BenchmarkSettings, profiles, summary_table
from benchmarks.tables import JSON_OPTION, write_json
from dnnlib import UserError, choices_hint, run_cli
from dnnlib.command_line import Command
from torch_utils.custom_ops import versions
from torch_utils.memory import keep_freed_memory


def chosen(only: str | None) -> list[str]:
    """Names of the selected sections, in their order."""
    names = only.split(",") if only else list(SECTIONS)
    for name in names:
        if name not in SECTIONS:
            raise UserError(f"--only: there is no section '{name}'; {choices_hint(name, SECTIONS)}")
    return [name for name in SECTIONS if name in names]


@click.command(cls=Command)
@click.option("--only", help=f"Some of {', '.join(SECTIONS)}.")
@click.option("--quick", is_flag=True, help="The small model, few rounds, to check that everything runs.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Timings; the median counts.")
@JSON_OPTION
@click.option(
    "--profile",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Only profile rendering and training: folder of traces.",
)
def main(only: str | None, quick: bool, rounds: int, file: Path | None, folder: Path | None) -> None:
    """Measure speed and memory: as time, as a multiple of the original program's, and as a fraction of the limit."""
    names = chosen(only)
    keep_freed_memory()
    settings = BenchmarkSettings(quick=quick, rounds=1 if quick else rounds, tell=lambda text: click.echo(f"{text}\n"))
    if folder is not None:
        for text in profiles(settings, names, folder):
            click.echo(f"{text}\n")
        return
    reports = {}
    for name in names:
        click.echo(f"## {name}\n")
        reports[name] = SECTIONS[name](settings)
    rows = [row for report in reports.values() for row in report.rows]
    if rows:
        click.echo(f"## Summary\n\n{summary_table(rows)}")
    facts = versions() | {"threads": torch.get_num_threads(), "machine": platform.platform(), "quick": quick}
    write_json(file, {"facts": facts} | {name: r.data for name, r in reports.items()})


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
