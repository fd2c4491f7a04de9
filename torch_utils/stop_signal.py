"""Stop signals: SIGTERM (schedulers), SIGINT (Ctrl-C) and SIGHUP (closed terminal) end a run after saving its state.

A SIGHUP that is ignored, as under nohup, stays ignored.

A launcher that can requeue a job, such as submitit, has its own handler for SIGUSR1 or SIGUSR2, which the scheduler
sends ahead of a job's end. Where such a handler is installed, these signals count as well; the handler, which requeues
the job, is called after the state has been saved.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

__all__ = ["StopRequested", "StopSignal"]

# A terminal sends Ctrl-C to all processes, and a launcher passes it on as well: signals within this many seconds count
# as one request.
ECHO = 2.0


class StopRequested(BaseException):
    """Stop request by a signal; not caught by `except Exception` in the interrupted code."""


class StopSignal:
    """Context that records stop signals. A second signal, later than ECHO, has its default effect.

    In other threads than the main one, where Python does not allow handlers, signals are left alone.

    Attributes:
        number: The first signal; None before.
    """

    ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    REQUEUEING = (signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self):
        self.number: int | None = None
        self._time = 0.0
        self._waiting = False
        self._requeue: int | None = None

    @property
    def requested(self) -> bool:
        """True after a signal."""
        return self.number is not None

    def __enter__(self) -> "StopSignal":
        handled = []
        if threading.current_thread() is threading.main_thread():
            handled += [number for number in self.REQUEUEING if callable(signal.getsignal(number))]
            handled += [number for number in self.ENDING if signal.getsignal(number) is not signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._handle) for number in handled}
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if kind is None and self._requeue is not None:
            self._previous[self._requeue](self._requeue, None)

    @contextlib.contextmanager
    def interrupts(self) -> Iterator[None]:
        """Context in which a request ends any wait at once.

        Raises:
            StopRequested: There is a request, or one arrives.
        """
        self._waiting = True
        try:
            self.check()
            yield
        finally:
            self._waiting = False

    def check(self) -> None:
        """Raise StopRequested if there is a request."""
        if self.requested:
            raise StopRequested

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number in self.REQUEUEING:
            self._requeue = number
        elif self.requested and time.monotonic() - self._time > ECHO:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if not self.requested:
            self.number, self._time = number, time.monotonic()
        if self._waiting:
            self._waiting = False  # a second signal is not to interrupt what follows
            raise StopRequested
