"""Playback of time."""

import math

__all__ = ["Playback"]


class Playback:
    """Playback time in [0, 1], running or paused."""

    def __init__(self):
        self.playing = False
        self._time, self._since = 0.0, 0.0

    def start(self, time: float, now: float) -> None:
        """Run from `time`, or from the beginning if `time` is the end; `now` in seconds."""
        self.playing = True
        self._time, self._since = (0.0 if time >= 1 else time), now

    def stop(self) -> None:
        self.playing = False

    def jump(self, time: float, now: float) -> None:
        """Go on from another time, if playing."""
        self._time, self._since = time, now

    def at(self, now: float, *, seconds: float, loop: bool) -> float:
        """Advance to `now`, if a full pass lasts `seconds`, and return the time; without a loop it stops at 1."""
        elapsed = max(now - self._since, 0.0)  # a button may have been pressed after the frame for `now` began
        time = self._time + elapsed / seconds
        if loop:
            time = math.fmod(time, 1.0)
        elif time >= 1:
            time = 1.0
            self.stop()
        self._time, self._since = time, now
        return time
