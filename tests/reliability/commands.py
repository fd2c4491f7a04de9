"""Trainings as commands, with everything that belongs to them: the processes below, their signals, what they said."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
TRAINER = re.compile(r"spawn_main|run_train\.py|submitit\.core\._submit")


class Command:
    """A command of this Python in a process group of its own; to be used in a `with`, which leaves nothing running.

    Args:
        arguments: Of the Python interpreter.
        log: File that takes what it prints.
    """

    def __init__(self, arguments: list[str], log: Path, **environment: str):
        self.log = log
        self._file = open(log, "ab")  # noqa: SIM115
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **environment}
        self.process = subprocess.Popen(
            [sys.executable, *arguments], stdout=self._file, stderr=self._file, cwd=ROOT, env=environment,
            start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_) -> None:
        for pid in [*self.below(), self.process.pid]:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._file.close()

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def below(self) -> list[int]:
        """All processes that this one has started, and those that they have."""
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            try:
                children = [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
            except OSError:
                continue
            found += children
            todo += children
        return found

    def trainers(self) -> list[int]:
        """Processes of a training on several, by rank; empty until they are there."""
        pids = [pid for pid in self.below() if TRAINER.search(words(pid)) and "distributed.run" not in words(pid)]
        return sorted(pids, key=lambda pid: (local_rank(pid), pid))

    def wait_until(self, condition: Callable[[], object], seconds: float = 240.0) -> object:
        """Wait until the condition is true; returns its value."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.said()[-3000:]}"
            assert time.monotonic() < end, f"still waiting:\n{self.said()[-3000:]}"
            time.sleep(0.02)
        return value

    def wait(self, seconds: float = 300.0) -> int:
        """The exit code."""
        return self.process.wait(seconds)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def local_rank(pid: int) -> int:
    """Number of a process on its machine, if it was started with one; those of one launcher follow one another."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return 0
    values = dict(entry.split(b"=", 1) for entry in entries if b"=" in entry)
    return int(values.get(b"LOCAL_RANK", values.get(b"SUBMITIT_LOCAL_LOCALID", 0)))
