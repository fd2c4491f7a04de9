"""Asking a run to stop: SIGTERM (schedulers) and SIGINT (Ctrl-C) end it at the next good moment, its state saved.

A launcher that can start a job again, such as submitit, has a handler of its own for SIGUSR1 or SIGUSR2, which the
scheduler sends ahead of a job's end. Those count as well, where they have a handler, which is then called after the
state was saved: it puts the job back into the queue.
"""

import os
import signal
import time
from types import FrameType

__all__ = ["StopSignal"]

# A terminal sends Ctrl-C to all processes and a launcher that gets it passes it on: what arrives within so many seconds
# is one request.
ECHO = 2.0


class StopSignal:
    """While entered, remembers that a signal asked to stop. A second SIGTERM or SIGINT, later, acts as usual.

    Attributes:
        requested: Whether a signal has come.
    """

    ENDING = (signal.SIGTERM, signal.SIGINT)
    REQUEUEING = (signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self):
        self.requested = False
        self._time = 0.0
        self._requeue: int | None = None

    def __enter__(self) -> "StopSignal":
        handled = [number for number in self.REQUEUEING if callable(signal.getsignal(number))]
        self._previous = {number: signal.signal(number, self._handle) for number in (*self.ENDING, *handled)}
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if kind is None and self._requeue is not None:
            self._previous[self._requeue](self._requeue, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number in self.REQUEUEING:
            self._requeue = number
        elif self.requested and time.monotonic() - self._time > ECHO:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if not self.requested:
            self._time = time.monotonic()
        self.requested = True
