"""Resolution of draft frames that sustains a frame rate in motion."""

from collections.abc import Sequence

__all__ = ["DraftQuality"]

FADE = 0.97  # per frame: what was too slow once is tried again after a while
NEWEST = 0.5  # weight of the newest frame in the mean time of its width


class DraftQuality:
    """Choice among image widths by measured frame times.

    It starts one step below the full width, takes the next coarser one when frames are late, and the next finer one
    when that is known, or likely, to be in time.

    Args:
        widths: Coarse to fine.
    """

    def __init__(self, widths: Sequence[int]):
        if not widths:
            raise ValueError("there must be a width to choose.")
        self.widths = tuple(widths)
        self._index = max(0, len(self.widths) - 2)
        self._seconds: dict[int, float] = {}

    @property
    def width(self) -> int:
        """Width of the next frame."""
        return self.widths[self._index]

    def record(self, width: int, seconds: float, budget: float) -> None:
        """Record that a frame of this width took `seconds`; `budget` is the time that one may take."""
        for other in self._seconds:
            if other != width:
                self._seconds[other] *= FADE
        before = self._seconds.get(width, seconds)
        self._seconds[width] = before + NEWEST * (seconds - before)
        if width != self.width:  # a frame at rest
            return
        if self._seconds[width] > budget:
            self._index = max(0, self._index - 1)
        elif self._index + 1 < len(self.widths):
            # Twice the width has four times the pixels, but the volume rendering before them stays the same.
            expected = self._seconds.get(self.widths[self._index + 1], 2 * self._seconds[width])
            if expected <= budget:
                self._index += 1
