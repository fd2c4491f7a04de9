"""Signals, and processes that die or hang."""

import os
import signal
import time

from tests.reliability.commands import TORCHRUN, Command, alive
from tests.reliability.forked import Run
from tests.reliability.places import Place, Skip, fault, wait_for_state

SAME = "at the end to the bit as if undisturbed"


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
    return f"both stop after the same iteration, saved at {saved} videos, exit code 0; continued, {SAME}"


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
    kept = f"state of {place.saved()} videos whole"
    return f"the other one ends too, after {seconds:.1f} s, exit code 2, `{place.error()}`; {kept}"


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
    kept = f"state of {place.saved()} videos whole"
    return f"given up after {seconds:.0f} s (15 s, and 30 s of grace), exit code 2, `{place.error()}`; {kept}"


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
    return f"both save at {saved} videos (torchrun's exit code: {code}); continued with gpus=2, {SAME}"


@fault
def torchrun_restarts(place: Place) -> str:
    """kill -9 of one of two processes under torchrun --max-restarts 1."""
    with started(place, launcher=[*TORCHRUN, "--standalone", "--max-restarts", "1"]) as command:
        until_saved(place, command)
        os.kill(command.wait_until(lambda: len(command.trainers()) == 2 and command.trainers())[1], signal.SIGKILL)
        assert command.wait() == 0, command.said()
    assert [path.name[:5] for path in place.outdir.iterdir()] == ["00000"] and place.saved() == 120
    assert place.digest() == place.whole(processes=2)
    return f"started again by torchrun, the same run goes on by itself; {SAME}"


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
    assert place.saved() == 120 and place.said().count("its random streams start afresh") == 2
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
    return f"saved, put back into the queue, started again and continued by itself; {SAME}"
