"""Trainings of the tiny configuration as forked processes: they start at once, because PyTorch is loaded already.

Import this before anything has computed: a forked process must not inherit threads.
"""

import hashlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch is loaded; all that a run needs is loaded once

import torch  # noqa: E402
import torch.utils.tensorboard  # noqa: E402, F401

import run_train  # noqa: E402
import training.launch.setup  # noqa: E402, F401
from dnnlib import UserError  # noqa: E402
from tests.training.tiny import OVERRIDES, write_frames  # noqa: E402

__all__ = ["Run", "digest", "words_for", "write_frames"]


def words_for(data: Path, *words: str) -> list[str]:
    """The words of a tiny training that saves after every tick of two iterations, and looks at itself."""
    return [f"data={data}", *OVERRIDES, "imgsnap=2", "snap=1", "previews.images=2", *words]


class Run:
    """A command of run_train.py in a process of its own.

    Args:
        words: Of the command.
        log: File that takes what it prints.
        prepare: Called in the process before it begins.
    """

    def __init__(self, words: list[str], log: Path, prepare: Callable[[], None] = lambda: None):
        self.code: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._be_the_run(words, log, prepare)

    @staticmethod
    def _be_the_run(words: list[str], log: Path, prepare: Callable[[], None]) -> None:
        code = 1
        try:
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 1)
            os.dup2(file, 2)
            prepare()
            run_train.train_command(words)
            code = 0
        except UserError as error:
            print(f"error: {error}", flush=True)
            code = 2
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def poll(self) -> int | None:
        """The exit code, minus the number of the signal that ended it, or None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def wait(self, seconds: float = 300.0) -> int | None:
        """The exit code; None if it still runs after so many seconds."""
        end = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        return self.code

    def signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()


def digest(content: dict) -> str:
    """A hash of everything in a snapshot or a state but times of day."""
    total = hashlib.sha256()
    for name, value in _leaves(content, ""):
        if name.endswith(("seconds",)):
            continue
        data = value.contiguous().numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode()
        total.update(f"{name} {len(data)} ".encode() + data)
    return total.hexdigest()


def _leaves(value: object, name: str) -> Iterator[tuple[str, object]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield name, value
        return
    for key, entry in items:
        yield from _leaves(entry, f"{name}.{key}")
