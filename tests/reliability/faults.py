"""Does to trainings what happens to them, and writes down what comes of it.

    python -m tests.reliability.faults                     all faults, one after another
    python -m tests.reliability.faults disk_full nan_loss  these
    python -m tests.reliability.faults --list

Every fault is really done: a file system that is full, a process that is killed, a frame that is deleted. What has to
be true afterwards is asserted; docs/reliability.md has the table that comes out.
"""

import contextlib
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import click

from tests.reliability.commands import TORCHRUN, Command, alive
from tests.reliability.forked import Run, digest, words_for, write_frames
from training.checkpoint import load_snapshot
from training.losses import GanLoss
from training.training_state import read_state

LENGTH = "kimg=0.12"  # 30 iterations
FAULTS: dict[str, Callable[["Place"], str]] = {}


def fault(function: Callable[["Place"], str]) -> Callable[["Place"], str]:
    FAULTS[function.__name__] = function
    return function


class Skip(Exception):
    """This machine does not allow the fault."""


class Place:
    """Where a fault happens: data, run folders, and what runs that nobody disturbs come to."""

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
        """How far the state on the disk is, in videos; all files must be readable."""
        folder = self.run_folder()
        if folder is None:
            return 0
        for path in folder.glob("*.pkl"):
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


def mounted(place: Place, megabytes: float) -> Path:
    """A small file system in memory for the runs."""
    place.outdir.mkdir()
    options = f"size={int(megabytes * 1024)}k"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place.outdir], capture_output=True)
    if done.returncode:
        raise Skip("mounting a file system is not allowed here")
    return place.outdir


def remount(path: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", path], check=True)


# ----------------------------------------------------------------------------------------------------------------------
# Disks


@fault
def disk_full(place: Place) -> str:
    """The disk is full while a run saves."""
    disk = mounted(place, 16)
    try:
        run = Run(place.words("imgsnap=null"), place.log)
        wait_for_state(place, run)
        with open(disk / "filler", "wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(2**12))
                file.flush()
        code = run.wait()
        assert code == 2 and "o space left" in place.error(), (code, place.said()[-2000:])
        saved = place.saved()
        assert 0 < saved < 120
        remount(disk, "size=64m")
        return f"exit code 2, `{place.error()}`; state of {saved} videos whole; with more space {place.finish()}"
    finally:
        subprocess.run(["umount", disk], check=True)


@fault
def protected_folder(place: Place) -> str:
    """Nothing new may be written into the run folder any more (chattr +i)."""
    run = Run(place.words("imgsnap=null"), place.log)
    wait_for_state(place, run)
    folder = place.run_folder()
    try:
        if subprocess.run(["chattr", "+i", folder], capture_output=True).returncode:
            run.kill()
            raise Skip("this file system has no immutable folders")
        assert run.wait() == 2, place.said()[-2000:]
        saved, error = place.saved(), place.error()
    finally:
        subprocess.run(["chattr", "-i", folder], capture_output=True)
    return f"exit code 2, `{error}`; state of {saved} videos whole; unprotected, {place.finish()}"


@fault
def read_only_from_the_start(place: Place) -> str:
    """The run folder of a run to continue is on a read-only file system."""
    disk = mounted(place, 64)
    try:
        run = Run(place.words("imgsnap=null"), place.log)
        wait_for_state(place, run)
        run.kill()
        remount(disk, "ro")
        run = Run([f"outdir={place.outdir}", "resume_run=0"], place.log)
        assert run.wait() == 2, place.said()[-2000:]
        error = place.error()
        remount(disk, "rw")
        return f"exit code 2, `{error}`; writable again, {place.finish()}"
    finally:
        subprocess.run(["umount", disk], check=True)


# ----------------------------------------------------------------------------------------------------------------------
# Data


@fault
def frames_vanish(place: Place) -> str:
    """A video is deleted while a run reads it."""
    run = Run(place.words(), place.log)
    wait_for_state(place, run)
    shutil.rmtree(place.data / "split" / "video_1")
    assert run.wait() == 0, place.said()[-2000:]
    lines = [line for line in place.said().splitlines() if line.startswith("Items of the data")]
    assert lines and place.saved() == 120
    return (
        f"replaced by other clips and counted (`{lines[0].replace(str(place.folder), '…')}`); the run ends as planned"
    )


@fault
def frames_turn_corrupt(place: Place) -> str:
    """More and more frames are damaged."""
    run = Run(place.words("unreadable_limit=5"), place.log)
    wait_for_state(place, run)
    for path in (place.data / "split").glob("video_[1-3]/*.png"):
        path.write_bytes(path.read_bytes()[:40])
    assert run.wait() == 2, place.said()[-2000:]
    error, saved = place.error(), place.saved()
    return f"replaced and counted until unreadable_limit=5, then exit code 2, `{error}`, with the state of {saved} videos saved"


@fault
def dead_worker(place: Place) -> str:
    """A data worker is killed."""
    run = Run(place.words("workers=1"), place.log)
    wait_for_state(place, run)
    workers = [int(x) for x in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]
    assert len(workers) == 1
    os.kill(workers[0], signal.SIGKILL)
    assert run.wait() == 0, place.said()[-2000:]
    assert "the workers are started again" in place.said() and place.digest() == place.whole()
    return "noticed within 5 s, started again; the run ends to the bit as if undisturbed"


# ----------------------------------------------------------------------------------------------------------------------
# Numbers and memory


def spoil(value: float, *, after: int, until: float = math.inf, where: str = "loss") -> Callable[[], None]:
    """What makes a loss or a weight not finite from an iteration on, within a process."""

    def prepare() -> None:
        accumulate, count = GanLoss.accumulate, [0]

        def spoilt(self, phase, *, batch, gain, stream):
            count[0] += phase == "Gmain"
            hit = after < count[0] <= until
            if hit and where == "data":
                batch.frames[0, 0, 0, 0, 0] = value
            if hit and where == "buffer":
                self.generator.mapping.w_avg[0] = value
            accumulate(self, phase, batch=batch, gain=gain * value if hit and where == "loss" else gain, stream=stream)

        GanLoss.accumulate = spoilt

    return prepare


def breakdown(place: Place, prepare: Callable[[], None], *words: str) -> str:
    run = Run(place.words(*words), place.log, prepare)
    assert run.wait() == 2, place.said()[-2000:]
    assert "Training has broken down" in place.error()
    state, snapshot = read_state(place.run_folder()), load_snapshot(place.run_folder())
    for tree in (*state["modules"].values(), snapshot["generator"]["ema"], snapshot["generator"]["state"]):
        assert all(value.isfinite().all() for value in tree.values())
    assert 0 < place.saved() <= 44
    sentence = place.error().split(" The snapshots")[0]
    return f"exit code 2, `{sentence}`; the state of {place.saved()} videos and snapshots from before are kept; {place.finish()}"


@fault
def nan_loss(place: Place) -> str:
    """All gradients are NaN from the tenth iteration on."""
    return breakdown(place, spoil(math.nan, after=10), "spec.nonfinite_limit=20")


@fault
def inf_data(place: Place) -> str:
    """Real frames hold an infinity from the tenth iteration on."""
    return breakdown(place, spoil(math.inf, after=10, where="data"), "spec.nonfinite_limit=20", "spec.d_reg_interval=1")


@fault
def nan_in_a_running_mean(place: Place) -> str:
    """A running mean becomes NaN, while all gradients are finite."""
    return breakdown(place, spoil(math.nan, after=10, where="buffer"))


@fault
def one_bad_step(place: Place) -> str:
    """A single iteration has NaN gradients, as half precision may give."""
    run = Run(place.words(), place.log, spoil(math.nan, after=10, until=11))
    assert run.wait() == 0, place.said()[-2000:]
    return "replaced by zeros, counted in stats.jsonl; the run ends as planned"


@fault
def out_of_memory(place: Place) -> str:
    """The memory is full."""

    def prepare() -> None:
        import tests.reliability.faults as faults

        spoilt = GanLoss.accumulate

        def accumulate(self, phase, **arguments):
            faults.CALLS[0] += 1
            if faults.CALLS[0] == 30:
                used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, used + 2**20))
            spoilt(self, phase, **arguments)
            if faults.CALLS[0] >= 30:
                import torch

                torch.zeros(2**26)

        GanLoss.accumulate = accumulate

    run = Run(place.words(), place.log, prepare)
    assert run.wait() == 2, place.said()[-2000:]
    assert "spec.microbatch=2" in place.error() and "spec.mbstd=2" in place.error()
    return f"exit code 2, `{place.error()}`; {place.finish()}"


CALLS = [0]

# ----------------------------------------------------------------------------------------------------------------------
# Signals and processes


@fault
def terminated(place: Place) -> str:
    """SIGTERM, and Ctrl-C after the run was continued."""
    run = Run(place.words(), place.log)
    wait_for_state(place, run)
    run.signal(signal.SIGTERM)
    assert run.wait() == 0, place.said()[-2000:]
    first = place.saved()
    run = Run([f"outdir={place.outdir}", "resume_run=0"], place.log)
    wait_for_state(place, run, beyond=first)
    run.signal(signal.SIGINT)
    assert run.wait() == 0, place.said()[-2000:]
    assert 0 < first < place.saved() < 120 and place.said().count("Stopped as asked") == 2
    return f"both saved at the end of the iteration ({first} and {place.saved()} videos), exit code 0; {place.finish()}"


def started(place: Place, *words: str, launcher: list[str] | None = None, **environment: str) -> Command:
    arguments = [*(launcher or []), "run_train.py", *(place.words(*words) if words != ("continue",) else [])]
    return Command(arguments, place.log, **environment)


def until_saved(place: Place, command: Command, beyond: int = 0) -> None:
    command.wait_until(lambda: place.run_folder() and place.saved() > beyond)


@fault
def ctrl_c_on_two(place: Place) -> str:
    """Ctrl-C in the terminal of gpus=2: the signal goes to all processes, and the parent passes it on."""
    with started(place, "gpus=2") as command:
        until_saved(place, command)
        os.killpg(command.process.pid, signal.SIGINT)
        assert command.wait() == 0, command.said()
    saved = place.saved()
    assert 0 < saved < 120
    with Command(["run_train.py", f"outdir={place.outdir}", "resume_run=0"], place.log) as command:
        assert command.wait() == 0, command.said()
    assert place.digest() == place.whole(processes=2)
    return f"both stop after the same iteration, saved at {saved} videos, exit code 0; continued, to the bit as if undisturbed"


@fault
def dead_rank(place: Place) -> str:
    """kill -9 of one of two processes (gpus=2)."""
    with started(place, "gpus=2") as command:
        until_saved(place, command)
        trainers = command.trainers()
        assert len(trainers) == 2, trainers
        os.kill(trainers[1], signal.SIGKILL)
        began = time.monotonic()
        assert command.wait() == 2, command.said()
        seconds = time.monotonic() - began
    assert not any(alive(pid) for pid in trainers)
    return f"the other one ends too, after {seconds:.1f} s, exit code 2, `{place.error()}`; state of {place.saved()} videos whole"


@fault
def hung_rank(place: Place) -> str:
    """One of two processes stops answering (SIGSTOP, timeout=0.25 minutes)."""
    with started(place, "gpus=2", "timeout=0.25") as command:
        until_saved(place, command)
        trainers = command.trainers()
        os.kill(trainers[1], signal.SIGSTOP)
        began = time.monotonic()
        assert command.wait() == 2, command.said()
        seconds = time.monotonic() - began
    assert not any(alive(pid) for pid in trainers)
    return f"given up after {seconds:.0f} s (15 s, then 30 s of grace), exit code 2, `{place.error()}`; state of {place.saved()} videos whole"


@fault
def dead_parent(place: Place) -> str:
    """kill -9 of the command of gpus=2 itself."""
    with started(place, "gpus=2") as command:
        until_saved(place, command)
        trainers = command.trainers()
        os.kill(command.process.pid, signal.SIGKILL)
        end = time.monotonic() + 120
        while any(alive(pid) for pid in trainers):
            assert time.monotonic() < end
            time.sleep(0.05)
    assert "Stopped as asked" in place.said()
    return f"its two processes stop by themselves, saved at {place.saved()} videos"


@fault
def torchrun_terminated(place: Place) -> str:
    """SIGTERM to torchrun with two processes."""
    with started(place, launcher=[*TORCHRUN, "--standalone"]) as command:
        until_saved(place, command)
        os.kill(command.process.pid, signal.SIGTERM)
        code = command.wait()
    saved = place.saved()
    assert 0 < saved < 120 and "Stopped as asked" in place.said(), place.said()[-3000:]
    with Command(["run_train.py", f"outdir={place.outdir}", "resume_run=0"], place.log) as command:
        assert command.wait() == 0, command.said()
    assert place.digest() == place.whole(processes=2)
    return f"both save at {saved} videos (torchrun's exit code: {code}); continued with gpus=2, to the bit as if undisturbed"


@fault
def torchrun_restarts(place: Place) -> str:
    """kill -9 of one of two processes under torchrun --max-restarts 1."""
    with started(place, launcher=[*TORCHRUN, "--standalone", "--max-restarts", "1"]) as command:
        until_saved(place, command)
        os.kill(command.wait_until(lambda: len(command.trainers()) == 2 and command.trainers())[1], signal.SIGKILL)
        assert command.wait() == 0, command.said()
    assert [path.name[:5] for path in place.outdir.iterdir()] == ["00000"] and place.saved() == 120
    assert place.digest() == place.whole(processes=2)
    return "started again by torchrun, the same run goes on by itself; at its end to the bit as if undisturbed"


@fault
def changed_ranks(place: Place) -> str:
    """Stopped with two processes, continued with one, then with two again."""
    saved = []
    for words in (["gpus=2"], ["gpus=1"]):
        more = place.words(*words) if not saved else [f"outdir={place.outdir}", "resume_run=0", *words]
        with Command(["run_train.py", *more], place.log) as command:
            until_saved(place, command, beyond=saved[-1] if saved else 0)
            os.kill(command.process.pid, signal.SIGTERM)
            assert command.wait() == 0, command.said()
        saved.append(place.saved())
    with Command(["run_train.py", f"outdir={place.outdir}", "resume_run=0", "gpus=2"], place.log) as command:
        assert command.wait() == 0, command.said()
    assert place.saved() == 120 and place.said().count("its random draws begin anew") == 2
    return f"goes on from {saved[0]} and {saved[1]} videos with nothing lost but the random streams, which begin anew"


@fault
def requeued_job(place: Place) -> str:
    """A job of two tasks of submitit's local launcher gets the signal of a preemption (SIGUSR2)."""
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise Skip("hydra-submitit-launcher is not installed") from error
    words = place.words("gpus=2")
    hydra = ["-m", "hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2", "hydra.launcher.timeout_min=60"]
    with Command(["run_train.py", *hydra, *words], place.log) as command:
        until_saved(place, command)
        for pid in command.wait_until(lambda: len(command.trainers()) == 2 and command.trainers()):
            os.kill(pid, signal.SIGUSR2)
        assert command.wait() == 0, command.said()
    folders = [path.name for path in place.outdir.iterdir() if path.name != "jobs"]
    log = (place.run_folder() / "log.txt").read_text()
    assert len(folders) == 1 and place.saved() == 120 and log.count("Stopped as asked") == 1, (folders, log)
    assert place.digest() == place.whole(processes=2)
    return (
        "saved, put back into the queue, started again and continued by itself; at its end to the bit as if undisturbed"
    )


@click.command()
@click.argument("names", nargs=-1)
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
