"""Process launcher for one machine: one process per device, monitored until the last one ends.

Larger groups are started by torchrun or by a cluster's scheduler; see docs/scaling.md.
"""

import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dnnlib import UserError, print_any_text, temporary, temporary_folder
from dnnlib.processes import USUAL, Ended, call_unblocked, cores, keep_streams
from torch_utils import distributed

__all__ = ["busy_note", "launch", "refuse_unguarded", "scratch_folder"]

GRACE = 30.0  # seconds for the others to end by themselves, once a process has failed

_group_folder: str | None = None  # of the group that this process is a worker of


def scratch_folder() -> str:
    """The folder for temporary files; in a worker of `launch`, one that is removed however the worker ends.

    Raises:
        UserError: See `temporary_folder`.
    """
    return _group_folder or temporary_folder()


def busy_note() -> str | None:
    """A line for the user if other programs keep the processor busy and PyTorch uses several threads; else None.

    PyTorch's threads wait for one another in busy loops after each of the many small operations of a training: unless
    each has a core to itself, a single thread is fastest (figures in docs/performance.md).
    """
    threads = torch.get_num_threads()
    if threads == 1 or not hasattr(os, "getloadavg"):
        return None
    load = os.getloadavg()[0]  # mean number of running threads in the last minute
    if load <= cores() / 2:
        return None
    return (
        f"Other programs keep this machine busy (load {load:.1f}, {cores()} cores). Until it is idle again, training "
        "on a CPU may be several times as fast with OMP_NUM_THREADS=1 in front of the command."
    )


def refuse_unguarded() -> None:
    """Refuse to work while a new process imports the script that has started it, which would start over in each.

    Raises:
        UserError: The script calls this program whenever it is imported.
    """
    # Python imports it under this name, and refuses only to start further processes meanwhile.
    importing = [frame for frame, _ in traceback.walk_stack(None) if frame.f_globals.get("__name__") == "__mp_main__"]
    if any(frame.f_code.co_name == "<module>" for frame in importing):
        raise UserError(
            "This program starts processes, and each of them imports the script that called it: put the call under "
            '`if __name__ == "__main__":` in the script.'
        )


def launch(
    function: Callable[..., object],
    *,
    args: Sequence[Any],
    processes: int,
    device_type: str,
    timeout: timedelta = distributed.TIMEOUT,
) -> int | None:
    """Run `function(*args)` in a group of this many new processes on this machine and wait for them.

    In the main thread, SIGTERM, SIGINT and SIGHUP are passed on, so that a signal to this process alone reaches the
    workers too; and should this process be killed, the workers get a SIGTERM. If a worker fails, the others are ended.

    Args:
        function: Must be importable by its name, because the processes are spawned.
        timeout: Time limit of collectives between the processes.

    Returns:
        The first signal that was passed on, None without one.

    Raises:
        UserError: A worker raised one, or was ended by a signal that this process has not passed on.
        RuntimeError: A worker raised another error; the message holds its traceback.
        KeyboardInterrupt, Ended: A signal has ended the workers before they could exit in an orderly way.
    """
    context = multiprocessing.get_context("spawn")
    resource_tracker.ensure_running()  # it unblocks signals when it starts, which must not happen further below
    with temporary(tempfile.TemporaryDirectory, prefix="process-group-") as folder:
        group = [
            context.Process(
                target=call_unblocked,  # before it has imported PyTorch
                args=(__name__, "_worker", index, function, tuple(args), processes, device_type, timeout, folder),
                name=f"process {index}",
            )
            for index in range(processes)
        ]

        asked: list[int] = []

        def forward(signum, frame):
            asked.append(signum)
            for process in group:
                if process.is_alive():
                    os.kill(process.pid, signum)

        handles = threading.current_thread() is threading.main_thread()
        passed = [n for n in USUAL if handles and signal.getsignal(n) != signal.SIG_IGN]
        previous = {signum: signal.signal(signum, forward) for signum in passed}
        try:
            unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, USUAL)  # in the new processes, until they can react
            try:
                for process in group:
                    process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            for number in tuple(asked):  # that another thread of this process took before all had started
                forward(number, None)
            failed = _watch(group)
        finally:
            for process in group:
                if process.is_alive():
                    process.kill()
                if process.pid is not None:
                    process.join()
            for signum, handler in previous.items():
                signal.signal(signum, handler)
        if failed:
            _raise(failed, Path(folder), asked)
    return asked[0] if asked else None


def _watch(group: Sequence[BaseProcess]) -> list[BaseProcess]:
    """Wait until all processes have ended; returns the failed ones, in the order of their failures."""
    running, failed, deadline = list(group), [], None
    while running:
        wait([process.sentinel for process in running], timeout=None if deadline is None else 0.5)
        for process in [process for process in running if not process.is_alive()]:
            process.join()
            running.remove(process)
            if process.exitcode != 0:
                failed.append(process)
        if failed and deadline is None:
            deadline = time.monotonic() + GRACE
            for process in running:
                process.terminate()
        if deadline is not None and time.monotonic() > deadline:
            for process in running:  # a process in a collective does not see SIGTERM
                process.kill()
            return failed
    return failed


def _raise(failed: Sequence[BaseProcess], folder: Path, asked: Sequence[int]) -> None:
    """Raise the cause of the failure: the error of one process, rather than a lost connection of another.

    Args:
        asked: Signals that were passed on.
    """
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("error-*"))]
    for kind, error in (("user", UserError), ("bug", RuntimeError)):
        for report in reports:
            if report["kind"] == kind:
                raise error(report["text"])
    for process in failed:
        if process.exitcode < 0:
            number = -process.exitcode
            if number in asked:
                raise KeyboardInterrupt if number == signal.SIGINT else Ended(number)
            hint = " (the system does that when the memory is full)" if number == signal.SIGKILL else ""
            raise UserError(f"{process.name} was ended by {signal.Signals(number).name}{hint}.")
    for report in reports:
        raise UserError(report["text"])
    told = "what it has printed may tell why"
    raise UserError(f"{failed[0].name} ended with exit code {failed[0].exitcode}; {told}.")


def _worker(
    index: int,
    function: Callable[..., object],
    args: tuple,
    processes: int,
    device_type: str,
    timeout: timedelta,
    folder: str,
) -> None:
    global _group_folder
    _group_folder = folder
    # tqdm's own lock is shared by processes, and one that ends without having removed it causes a warning.
    tqdm.set_lock(threading.RLock())
    keep_streams()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    print_any_text()
    os.environ["LOCAL_RANK"] = str(index)
    if device_type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores() // processes))
    try:
        distributed.init(
            device_type=device_type,
            rank=index,
            world_size=processes,
            meeting_point=f"{folder}/meeting-point",
            timeout=timeout,
        )
        function(*args)
    except Exception as error:
        kind = "lost" if isinstance(error, distributed.PeerLost) else "user" if isinstance(error, UserError) else "bug"
        text = str(error) if isinstance(error, UserError) else f"process {index} failed:\n{traceback.format_exc()}"
        Path(folder, f"error-{index}").write_text(json.dumps({"kind": kind, "text": text}), encoding="utf-8")
        sys.stdout.flush()
        os._exit(1)  # without leaving the group: the others may be waiting for this process
    finally:
        distributed.cleanup()


def _end_with_parent() -> None:
    """Send SIGTERM to this process when its parent has ended, even if it was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
