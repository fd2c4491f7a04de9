"""Does to trainings what happens to them, and writes down what comes of it.

    python -m tests.reliability.faults                     all faults, one after another
    python -m tests.reliability.faults disk_full nan_loss  these
    python -m tests.reliability.faults --list

Every fault is really done: a file system that is full, a process that is killed, a frame that is deleted. What has to
be true afterwards is asserted; docs/reliability.md has the table that comes out.
"""

import sys
import tempfile
import time
import traceback
from pathlib import Path

import click

from tests.reliability import faults_of_files, faults_of_numbers, faults_of_processes
from tests.reliability.places import FAULTS, Place, Skip

MODULES = (faults_of_files, faults_of_numbers, faults_of_processes)  # they fill FAULTS


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(FAULTS)), metavar="[NAME]...")
@click.option("--list", "listing", is_flag=True, help="Name the faults and do nothing.")
def main(names: tuple[str, ...], listing: bool) -> None:
    """Try faults and print what comes of them as rows of a table; see the top of this file."""
    if listing:
        for name, function in FAULTS.items():
            click.echo(f"{name:28s}{function.__doc__}")
        return
    failed = []
    for name in names or FAULTS:
        function = FAULTS[name]
        with tempfile.TemporaryDirectory(prefix="fault-") as folder:
            began = time.monotonic()
            try:
                outcome = function(Place(Path(folder)))
            except Skip as reason:
                outcome = f"not tried: {reason}"
            except Exception:
                traceback.print_exc()
                failed.append(name)
                outcome = "FAILED"
        click.echo(f"| {function.__doc__} | {outcome} |   ({name}, {time.monotonic() - began:.0f} s)")
        sys.stdout.flush()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
