"""Standard streams without a reader, termination signals, and worker processes.

The reader of a command's output may disappear: `| head -n 1` closes the pipe, a closed terminal the device, and with
`>&-` there is no stream at all. The command continues, and its exit code does not depend on the reader.
"""

import contextlib
import errno
import io
import multiprocessing
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TextIO

__all__ = ["Ended", "begin_worker", "keep_streams", "signals_end"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


# ----------------------------------------------------------------------------------------------------------------------
# Standard streams


class _Lasting(io.FileIO):
    """Output stream that drops data it cannot write."""

    _warned = False

    def write(self, data: bytes | memoryview) -> int:
        try:
            while (count := super().write(data)) is None:  # a full pipe in non-blocking mode
                select.select([], [self], [])
            return count
        except OSError as error:
            if error.errno in FULL and self.fileno() == 1 and not self._warned:
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

    Signals that are ignored (as under nohup) or have a handler are left alone. A second one ends the process at once.

    Raises:
        Ended: A signal has arrived.
    """
    numbers: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        release()
        raise Ended(number)

    def release() -> None:
        for number in numbers:
            if signal.getsignal(number) is handle:
                signal.signal(number, signal.SIG_DFL)

    if threading.current_thread() is threading.main_thread():
        numbers += [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]
        for number in numbers:
            signal.signal(number, handle)
    try:
        yield
    finally:
        release()


def begin_worker() -> None:
    """Set up a pool's worker: it ignores signals of the terminal, and ends when the main process has ended."""
    keep_streams()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
