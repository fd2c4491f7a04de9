"""Resampling of unevenly timed frames (variable frame rates of phones and screen recordings) to even time steps."""

import dataclasses

import numpy as np

__all__ = ["EvenFrames", "even_frames", "held_frames", "mean_rate"]

JITTER = 0.75  # of a time step: range of deviations from even steps due to clocks and the rounding of time stamps
ALIKE = 0.1  # relative deviation of steps that count as equally long; those of 30 and 24 frames per second do not
TIE = 1e-3  # of a time step: of two equally near frames, the earlier one is shown
MOST_REPEATS = 50  # per frame, on average: beyond that the time stamps do not record motion


@dataclasses.dataclass(frozen=True)
class EvenFrames:
    """A video of even time steps, made of the frames of one with uneven steps.

    Attributes:
        fps: Frames per second.
        frames: Number of the decoded frame that is shown at each time step, not decreasing.
        repeated: Number of time steps that show the same frame as the one before.
        left_out: Number of decoded frames that are not shown.
    """

    fps: float
    frames: np.ndarray
    repeated: int
    left_out: int


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
    different = len(np.unique(shown))
    return EvenFrames(
        fps=round(float(1 / step), 3), frames=shown, repeated=len(shown) - different, left_out=len(times) - different
    )


def held_frames(times: np.ndarray, steps: np.ndarray) -> EvenFrames | None:
    """The frame of each of a series of even time steps if a frame is shown until the next one.

    Args:
        times: Seconds, one for each frame, increasing.
        steps: Seconds, one for each time step; at least two.

    Returns:
        None if every step has a frame of its own.
    """
    shown = np.searchsorted(times, steps + _mean_step(steps) / 2, side="right") - 1
    shown = np.maximum(shown, 0)
    different = len(np.unique(shown))
    if different == len(shown) == len(times):
        return None
    return EvenFrames(
        fps=mean_rate(steps), frames=shown, repeated=len(shown) - different, left_out=len(times) - different
    )


def mean_rate(times: np.ndarray) -> float | None:
    """Frames per second of even frames at the given times in seconds; None for fewer than two."""
    return round(1 / _mean_step(times), 3) if len(times) > 1 and times[0] < times[-1] else None


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
