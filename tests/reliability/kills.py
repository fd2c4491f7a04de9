"""Kills a training again and again and continues it: every file must be whole, and the end must be to the bit the same.

    python -m tests.reliability.kills --kills 60 --folder out/kills     at random moments
    python -m tests.reliability.kills --kills 48 --points               before and after writes to the disk

A run that is never killed says what every snapshot and every state has to hold. After each kill all files of the killed
run are opened and compared with it, so that neither a damaged nor a mixed one would go unnoticed. Runs that have come
to their end are followed by new ones until there were enough kills.
"""

import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import click

from tests.reliability.forked import Run, digest, words_for, write_frames
from training.checkpoints.snapshot import load_snapshot
from training.checkpoints.snapshot_files import STATE_FILE
from training.checkpoints.training_state import read_state

RUN = ["kimg=0.08", "keep=2"]  # 20 iterations, 11 ticks
CALLS = ("fsync", "replace", "link", "unlink")  # of the system, before and after which a run is killed with --points
POINTS, STRIDE = 48, 7  # the first so many of these moments; each has its turn, in steps of the stride


def reference(folder: Path, data: Path) -> tuple[dict[int, str], dict[int, str], float]:
    """Digests of snapshots and states of a run that nobody disturbs, by videos shown; and how long it took."""
    folder.mkdir(parents=True)
    copies = folder / "copies"
    copies.mkdir()
    run = Run([f"outdir={folder}", *words_for(data, *RUN)], folder / "log.txt", lambda: keep_copies(copies))
    began = time.monotonic()
    assert run.wait() == 0, (folder / "log.txt").read_text()
    seconds = time.monotonic() - began
    snapshots, states = {}, {}
    for path in sorted(copies.iterdir()):
        (path.parent / "run").mkdir(exist_ok=True)
        if "snapshot" in path.name:
            content = load_snapshot(path)
            snapshots[content["progress"]["cur_nimg"]] = digest(content)
        elif path.is_file():
            content = read_state(shutil.copy(path, path.parent / "run" / "training-state.pt").parent)
            states[content["shared"]["counters"]["cur_nimg"]] = digest(content)
    assert len(states) == len(snapshots) > 5
    return snapshots, states, seconds


def keep_copies(folder: Path) -> None:
    """From now on, keep a copy of whatever is renamed into place."""
    replace, count = os.replace, [0]

    def replace_and_copy(source, target, **options):
        replace(source, target, **options)
        if str(target).endswith(".pt") and "latest" not in str(target):
            count[0] += 1
            kind = "state" if str(target).endswith(STATE_FILE) else "snapshot"
            shutil.copy(target, folder / f"{kind}-{count[0]:04d}")

    os.replace = replace_and_copy


def kill_at(number: int) -> None:
    """From now on, die at the call of this number among those that change files: before it if even, after it if odd."""
    count = [0]

    def wrap(function):
        def call(*args, **options):
            place, count[0] = count[0], count[0] + 1
            if 2 * place == number:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **options)
            if 2 * place + 1 == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name)))


def check(folder: Path, snapshots: dict[int, str], states: dict[int, str]) -> int:
    """Compare all files of a run with the reference; returns how far its state is."""
    for path in folder.glob("*network-snapshot*.pt"):
        content = load_snapshot(path)
        assert digest(content) == snapshots[content["progress"]["cur_nimg"]], f"{path} is a mixture"
    state = read_state(folder)
    if state is None:
        return 0
    cur_nimg = state["shared"]["counters"]["cur_nimg"]
    assert digest(state) == states[cur_nimg], f"the state in {folder} is a mixture"
    assert any(folder.glob("network-snapshot-*.pt"))
    return cur_nimg


@click.command()
@click.option("--kills", default=60, show_default=True, help="How often to kill.")
@click.option("--points", is_flag=True, help="Kill where the disk is written to instead of at random moments.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to work.  [default: a temporary folder]")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
def main(kills: int, points: bool, folder: Path | None, seed: int) -> None:
    """Kill a training again and again; see the top of this file."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = folder or Path(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        data = write_frames(folder / "data")
        snapshots, states, seconds = reference(folder / "reference", data)
        new = words_for(data, *RUN)
        found: Counter = Counter()
        generator = random.Random(seed)
        outdir, run_folder = folder / "run-0", None
        while found["kills"] < kills or run_folder is not None:
            words = [f"outdir={outdir}", *(new if run_folder is None else ["resume_run=0"])]
            number = found["kills"] * STRIDE % POINTS
            killed = found["kills"] < kills
            run = Run(words, folder / "log.txt", lambda: kill_at(number) if points and killed else None)  # noqa: B023
            run.wait(generator.uniform(0, 0.6 * seconds) if killed and not points else 300)
            run.kill()
            assert run.code in (0, -signal.SIGKILL), (run.code, (folder / "log.txt").read_text())
            run_folder = next(outdir.glob("0*/training_options.yaml"), outdir / "none" / "x").parent
            run_folder = run_folder if run_folder.exists() else None
            reached = 0 if run_folder is None else check(run_folder, snapshots, states)
            if run.code == 0:
                assert reached == max(states)
                found["runs that came to their end, the same to the bit"] += 1
            else:
                found["kills"] += 1
                found["  before the first state" if reached == 0 else "  with a state to continue from"] += 1
                found["  while a file was being written"] += any(outdir.rglob(".*.tmp"))
            if run.code == 0 or run_folder is None:
                outdir, run_folder = folder / f"run-{len(list(folder.iterdir()))}", None
        for name, count in found.items():
            click.echo(f"{count:5d}  {name}")
        click.echo(f"{len(states):5d}  states and snapshots per run; unreadable or mixed: 0")


if __name__ == "__main__":
    main()
