"""Asking a run to stop: SIGTERM (schedulers) and SIGINT (Ctrl-C) end it at the next good moment, its state saved."""

import os
import signal
from types import FrameType

__all__ = ["StopSignal"]


class StopSignal:
    """While entered, remembers the first SIGTERM or SIGINT; the second one ends the process as usual."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.requested = False

    def __enter__(self) -> "StopSignal":
        self._previous = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.requested = True
