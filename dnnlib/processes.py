"""A command and its surroundings: standard streams that nobody reads any more, and signals that ask it to end.

What a command prints is for people who may have gone: `| head -n 1` closes the pipe, a closed terminal the device,
`>&-` is no stream at all. The work goes on, and its exit code does not depend on who was reading.
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
    """A descriptor to write to; what cannot be written is dropped."""

    _told = False

    def write(self, data: bytes | memoryview) -> int:
        try:
            while (count := super().write(data)) is None:  # a pipe that is full, and was told not to block
                select.select([], [self], [])
            return count
        except OSError as error:
            if error.errno in FULL and self.fileno() == 1 and not self._told:
                self._told = True
                print(f"warning: Cannot write to stdout: {error.strerror}; the work goes on.", file=sys.stderr)
            return memoryview(data).nbytes


def keep_streams() -> None:
    """Let printing to stdout and stderr never fail; to be called when a process begins.

    Descriptors 0 to 2 that are closed get the null device, so that no file of the program's takes their place. Streams
    that somebody has put in the place of the process's own are left alone.
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
    """A signal has ended the command; a relative of KeyboardInterrupt."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def signals_end() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP (the terminal is closed) end the block as Ctrl-C does, so that it can clean up.

    A signal that is ignored (nohup does that) or has a handler is left alone. A second one ends the process at once.

    Raises:
        Ended: A signal has come.
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
    """In a process of a pool: leave signals of the terminal to the main process, and end when that has ended."""
    keep_streams()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
