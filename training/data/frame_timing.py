"""Resampling of unevenly timed frames (variable frame rates of phones and screen recordings) to even time steps."""

import dataclasses
import math

import numpy as np

__all__ = ["TIE", "EvenFrames", "even_frames", "held_frames", "mean_rate"]

JITTER = 0.75  # of a time step: range of deviations from even steps due to clocks and the rounding of time stamps
ALIKE = 0.1  # relative deviation of steps that count as equally long; those of 30 and 24 frames per second do not
TIE = 1e-3  # of a time step: tolerance for time steps at, or midway between, time stamps
ROUNDED = 1e-3  # seconds: the unit of Matroska's time stamps; in longer ones, such as that of a frame, they are exact
MOST_REPEATS = 50  # per frame, on average: beyond that the time stamps do not record motion


@dataclasses.dataclass(frozen=True)
class EvenFrames:
    """A video of even time steps, made of the frames of one with uneven steps.

    Attributes:
        fps: Frames per second.
        frames: Number of the decoded frame that is shown at each time step, not decreasing.
        repeated: Number of time steps that show the same frame as the one before.
        left_out: Number of decoded frames that are not shown.
        times: Time stamps of all decoded frames in seconds.
        end: The time at which the last one ends, in seconds.
        tick: The unit of the time stamps in seconds.
    """

    fps: float
    frames: np.ndarray
    repeated: int
    left_out: int
    times: np.ndarray
    end: float
    tick: float = 0.0

    def resampled(self, fps: float) -> "EvenFrames":
        """Time steps of another rate, each with the last frame whose time stamp is not later."""
        error = min(self.tick, ROUNDED) / 2  # of a time stamp
        count = math.ceil((self.end - self.times[0] - error) * fps - TIE)
        steps = self.times[0] + np.arange(count) / fps
        shown = np.searchsorted(self.times, steps + error, side="right") - 1
        return _shown_frames(shown, fps=fps, times=self.times, end=self.end, tick=self.tick)


def even_frames(times: np.ndarray) -> EvenFrames | None:
    """The nearest frame at each of a series of even time steps, whose length is the most common one in the video.

    Args:
        times: Seconds, one for each frame, not decreasing.

    Returns:
        None if every frame belongs to a time step of its own: the rate is constant.

    Raises:
        ValueError: Three frames have the same time (as ffmpeg lists times that go back), or there are pauses that make
            all other steps negligible.
    """
    if len(times) < 3:
        return None
    average = _mean_step(times)
    if np.ptp(times - times[0] - average * np.arange(len(times))) <= JITTER * average:
        return None
    spans = times[2:] - times[:-2]
    if spans.min() <= 0:
        raise ValueError("equal time stamps, or ones that go back")
    step = _common_step(spans)
    if times[-1] - times[0] > MOST_REPEATS * step * len(times):
        raise ValueError("time stamps with long pauses")
    # The circular mean of the phases: the first frame alone may be off the grid of the others.
    phase = np.angle(np.exp(2j * np.pi * (times - times[0]) / step).mean()) / (2 * np.pi)
    count = round((times[-1] - times[0]) / step - phase) + 1
    grid = times[0] + step * (phase + np.arange(max(count, 1)))
    shown = np.searchsorted((times[:-1] + times[1:]) / 2, grid - TIE * step)
    return _shown_frames(shown, fps=round(float(1 / step), 3), times=times, end=times[-1] + step)


def held_frames(times: np.ndarray, steps: np.ndarray) -> EvenFrames | None:
    """The frame of each of a series of even time steps if a frame is shown until the next one.

    Args:
        times: Seconds, one for each frame, increasing.
        steps: Seconds, one for each time step; at least two.

    Returns:
        None if every step has a frame of its own.
    """
    step = _mean_step(steps)
    shown = np.maximum(np.searchsorted(times, steps + step / 2, side="right") - 1, 0)
    found = _shown_frames(shown, fps=mean_rate(steps), times=times, end=steps[-1] + step)
    return found if found.repeated or found.left_out else None


def mean_rate(times: np.ndarray, *, tick: float = 0.0, stated: float | None = None) -> float | None:
    """Frames per second of even frames at the given times in seconds; None for fewer than two.

    It is a whole number, or a multiple of 1 / 1.001 (NTSC), where times in units of `tick`, if these are much shorter
    than a frame, may be rounded to it; and the rate that the file states, to two decimals, where the times scatter more
    than the two rates differ over all of them.
    """
    if len(times) < 2 or times[0] >= times[-1]:
        return None
    step = _mean_step(times)
    rate = 1 / step
    usual = (max(round(rate), 1), max(round(1.001 * rate), 1) / 1.001)
    fitting = [r for r in usual if 2 * tick * r <= 1 and np.ptp(times - np.arange(len(times)) / r) <= tick]
    rate = float(min(fitting, key=lambda r: round(r, 2) != stated, default=rate))
    if stated and not (fitting and round(rate, 2) == stated):
        scatter = np.ptp(times - step * np.arange(len(times)))
        rate = stated if abs(1 / rate - 1 / stated) * len(times) <= scatter else rate
    return round(rate, 6)  # with 59.94 for 59.94006, every second frame would be one too early after 500


def _shown_frames(shown: np.ndarray, *, times: np.ndarray, **others: float) -> EvenFrames:
    different = len(np.unique(shown))
    return EvenFrames(
        frames=shown, repeated=len(shown) - different, left_out=len(times) - different, times=times, **others
    )


def _mean_step(times: np.ndarray) -> float:
    """The step, in seconds, of the line that is nearest to the times of all frames."""
    return float(np.polyfit(np.arange(len(times)), times - times[0], 1)[0])


def _common_step(spans: np.ndarray) -> float:
    """The step that most frames follow, in seconds: the mode of the steps, by mean shift.

    Args:
        spans: Lengths of two steps each, in which alternating short and long steps balance.
    """
    spans = np.sort(spans)
    ends = np.searchsorted(spans, spans * (1 + ALIKE), side="right")
    alike = ends - np.searchsorted(spans, spans * (1 - ALIKE))
    centre = spans[np.argmax(alike)]
    for _ in range(10):
        centre = spans[np.abs(spans - centre) <= ALIKE * centre].mean()
    return centre / 2
