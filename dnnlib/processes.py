"""Standard streams without a reader, termination signals, and worker processes.

The reader of a command's output may disappear: `| head -n 1` closes the pipe, closing a terminal closes the device, and
with `>&-` there is no stream at all. The command continues, and its exit code does not depend on the reader.
"""

import contextlib
import gc
import getpass
import importlib
import io
import itertools
import multiprocessing
import os
import select
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import FrameType
from typing import Any, TextIO

from dnnlib.text import UserError, one_line
from dnnlib.util import NO_SPACE, NO_TEMPORARY_FOLDER

__all__ = [
    "USUAL",
    "Ended",
    "begin_worker",
    "call_unblocked",
    "cores",
    "explain_start",
    "keep_streams",
    "parallel_map",
    "print_any_text",
    "run_cli",
]

TORCH_CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
# Signals that end a command, and Python's handlers for them.
USUAL = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}
AGAIN = 0.05  # seconds after which an exception that was dropped is raised again


# ----------------------------------------------------------------------------------------------------------------------
# Standard streams


class _Lasting(io.FileIO):
    """Output stream that drops data that it cannot write."""

    _warned = False

    def write(self, data: bytes | memoryview) -> int:
        try:
            while (count := super().write(data)) is None:  # a full pipe in non-blocking mode
                select.select([], [self], [])
            return count
        except OSError as error:
            if error.errno in NO_SPACE and self.fileno() == 1 and not self._warned:
                self._warned = True
                print(f"warning: Cannot write to stdout: {error.strerror}; the work goes on.", file=sys.stderr)
            return memoryview(data).nbytes


def keep_streams() -> None:
    """Make printing to stdout and stderr never fail; called when a process begins.

    Closed descriptors 0 to 2 get the null device, so that no other file takes their place. Replaced streams, such as
    those of a test runner, are left alone.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stdout is sys.__stdout__:
        sys.stdout = sys.__stdout__ = _lasting(sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = sys.__stderr__ = _lasting(sys.stderr)


def _lasting(stream: TextIO | None) -> TextIO:
    if stream is None:  # its descriptor was closed when the process began
        return open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    with contextlib.suppress(OSError):
        stream.flush()
    raw = _Lasting(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        raw if isinstance(stream.buffer, io.RawIOBase) else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        newline="\n",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


# ----------------------------------------------------------------------------------------------------------------------
# Signals


class Ended(BaseException):
    """Termination of the command by a signal, analogous to KeyboardInterrupt."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def signals_end() -> Iterator[None]:
    """Context in which SIGTERM and SIGHUP (closed terminal) raise an exception, as Ctrl-C does, for a clean exit.

    Compiled libraries, including PyTorch's, drop exceptions that are raised while they import a module, and continue
    without the module. In this case the exception is raised again until it is handled.

    Signals that are ignored (as under nohup) or have a handler are left alone. A second signal takes effect at once.

    Raises:
        Ended: SIGTERM or SIGHUP has arrived.
        KeyboardInterrupt: SIGINT has arrived.
    """
    usual: dict[int, Any] = {}  # handlers that the one below replaces
    raised: list[BaseException] = []

    def handle(number: int, frame: FrameType | None) -> None:
        release()
        raised.append(KeyboardInterrupt() if number == signal.SIGINT else Ended(number))
        if _imports(frame):
            signal.signal(signal.SIGALRM, again)
            signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
        raise raised[0]

    def again(number: int, frame: FrameType | None) -> None:
        if not _being_handled(raised[0]):
            raise raised[0]

    def release() -> None:
        for number, handler in usual.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, handler)

    if threading.current_thread() is threading.main_thread():
        usual = {number: handler for number, handler in USUAL.items() if signal.getsignal(number) is handler}
        for number in usual:
            signal.signal(number, handle)
    try:
        yield
    finally:
        release()
        if raised and signal.getsignal(signal.SIGALRM) is again:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _imports(frame: FrameType | None) -> bool:
    """True if a module is being imported in a frame or in one of its callers."""
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _being_handled(error: BaseException) -> bool:
    """True in an `except` or `finally` block entered because of the exception, and in functions called there."""
    current = sys.exc_info()[1]
    while current is not None and current is not error:
        current = current.__context__
    return current is not None


def call_unblocked(module: str, name: str, *args: Any) -> None:
    """Call a function in a process that began with the signals of USUAL blocked; until it handles them, they end it.

    Args:
        module: Module of the function; imported after signals are unblocked, because that may take long.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, USUAL)
    getattr(importlib.import_module(module), name)(*args)


def begin_worker() -> None:
    """Set up a pool's worker: it ignores signals of the terminal, and ends when the main process has ended."""
    keep_streams()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def cores() -> int:
    """Number of cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def explain_start(
    what: str = "Worker processes", *, advice: str = "use fewer of them, or --workers 1, if the command takes --workers"
) -> Iterator[None]:
    """Turn an OSError while processes and their locks, which live in shared memory, are made into a one-line UserError.

    Raises:
        UserError: The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{what} cannot be started ({error.strerror or error}; is the memory full, or /dev/shm, or is it "
            f"missing?); {advice}."
        ) from error


def parallel_map(
    function: Callable[[Any, Any], Any], tasks: Sequence[Any], *, shared: Any, workers: int
) -> Iterator[Any]:
    """function(shared, task) for every task, in their order, computed by several processes.

    The processes are spawned: forked ones would inherit the locks of PyTorch's threads. If the caller stops, or a task
    raises, the tasks that are being computed are terminated.

    Args:
        function: Importable under its name.
        shared: Sent to each process once.
        workers: Largest number of processes; with one, this process computes everything.

    Raises:
        UserError: A process was killed, or cannot be started.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        yield from (function(shared, task) for task in tasks)
        return
    context, before = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    with explain_start():
        executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_share, initargs=(shared,))
    with executor as pool:
        try:
            with explain_start():
                results = pool.map(_call, itertools.repeat(function), tasks)
            yield from results
        except BrokenProcessPool as error:
            raise UserError(
                "A worker process has ended unexpectedly. Its error may be above, or the memory is full: then repeat "
                "the command, with fewer workers if it takes --workers."
            ) from error
        except BaseException:
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
            pool.shutdown(cancel_futures=True)
            raise


def _share(shared: Any) -> None:
    global _shared
    _shared = shared
    begin_worker()


def _call(function: Callable[[Any, Any], Any], task: Any) -> Any:
    return function(_shared, task)


# ----------------------------------------------------------------------------------------------------------------------
# Commands


def print_any_text() -> None:
    r"""Let this process print characters that its output's encoding lacks as \xd7, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        # Other streams are closed, or replaced by something that is not a text file.
        if hasattr(stream, "reconfigure") and stream.errors in ("strict", "surrogateescape"):
            with contextlib.suppress(ValueError, OSError):
                stream.reconfigure(errors="backslashreplace")


def run_cli(main: Callable[[], object]) -> None:
    """Run a script and leave the process: a user's mistake becomes `error: <one line>` on stderr and exit code 2.

    A path without permission is such a mistake, too. Ctrl-C gives exit code 130, SIGTERM 143, SIGHUP 129. Every other
    error keeps its traceback. A click command is passed as `lambda: command(standalone_mode=False)`; its usage errors
    get the same form. The exit code does not depend on whether the output is read.
    """
    import click  # here, so that the library does not depend on it

    keep_streams()
    print_any_text()
    try:
        with signals_end():
            _require_working_folder()
            _give_torch_a_cache()
            main()
    except UserError as error:
        _leave(f"error: {one_line(error)}", 2)
    except click.ClickException as error:
        _leave(f"error: {one_line(error.format_message())}", 2)
    except (KeyboardInterrupt, click.Abort):
        _leave("interrupted", 130)
    except Ended as error:
        _leave(f"ended by {error}", 128 + error.number)
    except FileNotFoundError as error:
        if "No usable temporary directory" not in str(error):  # a library has looked for one
            raise
        _leave(f"error: {one_line(NO_TEMPORARY_FOLDER)}", 2)
    except PermissionError as error:  # also of pathlib's exists(), is_file() and is_dir() up to Python 3.13
        if error.filename is None or isinstance(error.filename, int):  # of a process or an open file
            raise
        where = one_line(os.fsdecode(error.filename))
        _leave(f"error: {where}: {error.strerror}; check the permissions of this path and of the folders above it.", 2)
    gc.freeze()  # the interpreter's last collection would visit all of PyTorch's objects: a fifth of its import time
    sys.exit(0)


def _require_working_folder() -> None:
    """Refuse a working folder that has been deleted, from which libraries cannot load their parts (MKL of PyTorch).

    Raises:
        UserError: There is none.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(f"The working folder is gone ({error.strerror}): change to one that exists.") from error


def _give_torch_a_cache() -> None:
    """Set a cache folder for PyTorch's compiler where its own choice would fail, which needs a user name and /tmp.

    The compiler chooses and makes the folder when it is imported, which some operations of PyTorch do.

    Raises:
        UserError: There is no place for a cache either.
    """
    if os.environ.get(TORCH_CACHE_VARIABLE):
        return
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:
        from dnnlib.downloads import cache_folder

        os.environ[TORCH_CACHE_VARIABLE] = str(cache_folder("inductor"))
        return
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # newer versions of PyTorch do the same
        os.environ[TORCH_CACHE_VARIABLE] = os.path.join(folder, f"torchinductor_uid_{os.getuid()}")


def _leave(message: str, code: int) -> None:
    print(message, file=sys.stderr, flush=True)
    sys.exit(code)
