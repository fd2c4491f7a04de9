"""Lets a training run for a long time and looks whether its memory and its open files grow.

    python -m tests.reliability.soak OUT --minutes 45        train the small model on noise in OUT, write OUT/soak.csv
    python -m tests.reliability.soak OUT --pid 1234          watch a training that runs already
    python -m tests.reliability.soak OUT --minutes 0         look at OUT/soak.csv again

A line of the file has the time, the process, its resident memory in MiB, its open files, its threads and the CPU
seconds that it has used. A training that was continued has several processes; each is judged by itself, from the end of
its warm-up on.
"""

import csv
import os
import shutil
import statistics
import time
from pathlib import Path

import click

from dnnlib import UserError, run_cli
from tests.reliability.commands import Command, alive
from tests.training.tiny import write_frames

COLUMNS = ("time", "pid", "rss_mib", "handles", "threads", "cpu_s")
INTERVAL = 10.0  # seconds between lines
WARM_UP = 300.0  # seconds of a process that do not count
TOLERANCE = 0.02  # of the memory after that
SECONDS_PER_TICK = os.sysconf("SC_CLK_TCK")


def sample(pid: int) -> tuple:
    """A line about a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return (
        round(time.time()),
        pid,
        round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1),
        len(os.listdir(f"/proc/{pid}/fd")),
        int(fields[17]),
        (int(fields[11]) + int(fields[12])) / SECONDS_PER_TICK,
    )


def watch(pid: int, file: Path, minutes: float) -> None:
    """Append lines about a process until it ends or the time is over."""
    new = not file.exists()
    end = time.monotonic() + minutes * 60
    with open(file, "a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        if new:
            writer.writerow(COLUMNS)
        while time.monotonic() < end and alive(pid):
            writer.writerow(sample(pid))
            stream.flush()
            time.sleep(INTERVAL)


def read(file: Path) -> dict[str, list[dict[str, float]]]:
    """Lines by process."""
    try:
        with open(file, newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise UserError(f"Cannot read {file}: {error.strerror}; let a training run first.") from error
    processes: dict[str, list[dict[str, float]]] = {}
    for row in rows:
        processes.setdefault(row["pid"], []).append({name: float(row[name]) for name in COLUMNS})
    return processes


def judge(rows: list[dict[str, float]]) -> tuple[list[str], bool]:
    """Summary of a process's samples, and True if nothing grows."""
    began = rows[0]["time"]
    late = [row for row in rows if row["time"] - began >= WARM_UP]
    lines = ["| minute | memory, MiB | open files | threads | CPU seconds |", "| --: | --: | --: | --: | --: |"]
    step = max(1, len(rows) // 12)
    for row in [*rows[::step], rows[-1]]:
        minute = (row["time"] - began) / 60
        values = f"{row['rss_mib']:.1f} | {row['handles']:.0f} | {row['threads']:.0f} | {row['cpu_s']:.0f}"
        lines.append(f"| {minute:.1f} | {values} |")
    if len(late) < 6:
        return [*lines, f"Too short to judge: the first {WARM_UP / 60:.0f} minutes do not count."], False
    memory = [row["rss_mib"] for row in late]
    middle = statistics.median(memory)
    spread = max(max(memory) - middle, middle - min(memory)) / middle
    third = len(late) // 3
    growth = statistics.median(memory[-third:]) / statistics.median(memory[:third]) - 1
    handles = [row["handles"] for row in late]
    flat = spread <= TOLERANCE and statistics.median(handles[-third:]) <= statistics.median(handles[:third])
    minutes = (late[-1]["time"] - late[0]["time"]) / 60
    lines.append(
        f"After {WARM_UP / 60:.0f} minutes, for {minutes:.0f} minutes: memory {middle:.1f} MiB, "
        f"within {spread:.1%} of that, its last third {growth:+.2%} against its first; open files "
        f"{min(handles):.0f} to {max(handles):.0f}: {'flat' if flat else 'NOT flat'}."
    )
    return lines, flat


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--minutes", default=45.0, show_default=True, help="How long to train or watch.")
@click.option("--pid", type=int, help="Watch this process instead of starting one.")
def main(out: Path, minutes: float, pid: int | None) -> None:
    """Watch the memory and the open files of a long training; see the top of this file."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "soak.csv"
    if pid is not None:
        watch(pid, file, minutes)
    elif minutes > 0:
        shutil.rmtree(out / "data", ignore_errors=True)
        data = write_frames(out / "data", videos=40, frames=16, size=32)
        # Ticks, previews and snapshots as often as in a run of days: what leaks there shows within the hour.
        words = ["kimg=100000", "spec.kimg_per_tick=0.1", "imgsnap=2", "snap=4", "keep=2", "device=cpu"]
        with Command(["run_train.py", f"outdir={out / 'runs'}", f"data={data}", *words], out / "log.txt") as command:
            watch(command.process.pid, file, minutes)
            command.process.terminate()
            if command.wait() != 0:
                raise UserError(f"The training failed; see {out / 'log.txt'}.")
    flat = True
    for number, rows in read(file).items():
        lines, good = judge(rows)
        flat = flat and good
        click.echo(f"\nProcess {number}\n\n" + "\n".join(lines))
    if not flat:
        raise UserError("Memory or open files are not flat, or there was too little time to tell.")


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
