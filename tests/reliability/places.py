"""Places of faults: the data and run folder of a training, and its undisturbed result."""

import time
from collections.abc import Callable
from pathlib import Path

from tests.reliability.commands import Command
from tests.reliability.forked import Run, digest, words_for, write_frames
from training.checkpoints.snapshot import load_snapshot
from training.checkpoints.training_state import read_state

__all__ = ["FAULTS", "Place", "Skip", "fault", "wait_for_state"]

LENGTH = "kimg=0.12"  # 30 iterations
FAULTS: dict[str, Callable[["Place"], str]] = {}


def fault(function: Callable[["Place"], str]) -> Callable[["Place"], str]:
    FAULTS[function.__name__] = function
    return function


class Skip(Exception):
    """This machine does not allow the fault."""


class Place:
    """Place of a fault: data, run folders, and the results of undisturbed runs."""

    wholes: dict[str, str] = {}  # by number of processes, over all faults

    def __init__(self, folder: Path):
        self.folder = folder
        self.data = write_frames(folder / "data")
        self.outdir = folder / "runs"
        self.log = folder / "log.txt"

    def words(self, *words: str) -> list[str]:
        return [f"outdir={self.outdir}", *words_for(self.data, LENGTH, *words)]

    def run_folder(self) -> Path | None:
        return next((path.parent for path in self.outdir.glob("0*/training_options.yaml")), None)

    def saved(self) -> int:
        """Progress of the state on the disk, in videos; all files must be readable."""
        folder = self.run_folder()
        if folder is None:
            return 0
        for path in folder.glob("*network-snapshot*.pt"):
            load_snapshot(path)
        state = read_state(folder)
        return 0 if state is None else state["shared"]["counters"]["cur_nimg"]

    def digest(self) -> str:
        return digest(read_state(self.run_folder()))

    def whole(self, *, processes: int = 1) -> str:
        """The digest of the state at the end of a run that nobody disturbs."""
        key = f"{processes}"
        if key not in self.wholes:
            other = Place(self.folder / f"whole-{processes}")
            if processes == 1:
                assert Run(other.words(), other.log).wait() == 0, other.log.read_text()
            else:
                with Command(["run_train.py", *other.words(f"gpus={processes}")], other.log) as command:
                    assert command.wait() == 0, command.said()
            self.wholes[key] = other.digest()
        return self.wholes[key]

    def finish(self, *words: str) -> str:
        """Continue the run to its end, and say whether it is the same as a run that nobody disturbed."""
        run = Run([f"outdir={self.outdir}", "resume_run=0", *words], self.log)
        assert run.wait() == 0, self.said()
        assert self.saved() == 120
        return "continued to the end" + (", to the bit as if undisturbed" if self.digest() == self.whole() else "")

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def error(self) -> str:
        """The one line of the error."""
        lines = [line for line in self.said().splitlines() if line.startswith("error: ")]
        assert lines and "Traceback" not in self.said(), self.said()[-3000:]
        return lines[-1].replace(str(self.folder), "…")


def wait_for_state(place: Place, run: Run, beyond: int = 0) -> None:
    end = time.monotonic() + 300
    while (
        (folder := place.run_folder()) is None or not (folder / "training-state.pt").exists() or place.saved() <= beyond
    ):
        assert run.poll() is None and time.monotonic() < end, place.said()[-3000:]
        time.sleep(0.01)
