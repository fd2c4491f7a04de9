"""Even time steps of time stamps as cameras and screen recorders write them."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from training.data.frame_timing import even_frames, held_frames, mean_rate

EVEN = np.arange(300) / 30
RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("times", [
    EVEN,
    EVEN[:1],
    EVEN[:0],
    [0, 5],
    np.zeros(9),  # none at all
    np.round(np.arange(100_000) * 1001 / 30000, 3),  # milliseconds, over an hour
    np.round(np.arange(1000) / 240, 3),
    np.round(EVEN, 2),
    np.cumsum(np.tile([2, 3], 100)) / 60,  # telecined
    EVEN + RANDOM.uniform(-0.01, 0.01, 300),
])  # fmt: skip
def test_constant_rates(times):
    assert even_frames(np.array(times, dtype=float)) is None


NTSC = pytest.approx(30000 / 1001, abs=1e-6)


def test_rates_of_even_frames():
    times = [EVEN, np.round(np.arange(3000) * 1001 / 30000, 3), np.cumsum(np.tile([2, 3], 100)) / 60, np.array([0, 5])]
    assert [mean_rate(each) for each in times] == [30, NTSC, pytest.approx(24, abs=0.01), 0.2]
    assert [mean_rate(each) for each in (EVEN[:0], EVEN[:1], np.zeros(9))] == [None] * 3


def test_rates_of_rounded_times():
    hundredths = np.round(EVEN[:45], 2)
    assert mean_rate(hundredths) == pytest.approx(29.99, abs=0.01) and mean_rate(hundredths, tick=0.01) == 30
    ntsc = np.arange(100) * 1001 / 30000
    assert [mean_rate(ntsc, tick=tick) for tick in (1 / 30000, 0.001, 1001 / 30000)] == [NTSC] * 3
    assert mean_rate(np.round(np.arange(45) * 1001 / 60000, 3), tick=0.001) == pytest.approx(60000 / 1001, abs=1e-6)
    assert mean_rate(np.arange(9) / 0.4, tick=0.001) == 0.4


def test_frames_that_are_held():
    found = held_frames(np.array([0, 1, 3, 6, 7, 9]) / 25, np.arange(12) / 25)
    assert found.frames.tolist() == [0, 1, 1, 2, 2, 2, 3, 4, 4, 5, 5, 5]
    assert (found.fps, found.repeated, found.left_out) == (25, 6, 0)
    assert held_frames(EVEN, EVEN) is None


@pytest.mark.parametrize("fps", [1, Fraction(25, 2), Fraction(30000, 1001), 59])
def test_another_rate_shows_the_last_frame_that_is_not_later(fps):
    stamps = np.concatenate([[0], np.cumsum(RANDOM.integers(5, 28, 300)), 9000 + 17 * np.arange(40)]) + 1234
    found = even_frames(stamps / 1000)
    other = dataclasses.replace(found, tick=1e-6).resampled(float(fps))
    expected, step = [], Fraction(1000) / fps
    while len(expected) * step < float(stamps[-1] - stamps[0]) + 1000 * (found.end - found.times[-1]):
        expected.append(int(np.sum(stamps - stamps[0] <= float(len(expected) * step) + 1e-6)) - 1)
    assert other.fps == float(fps) and other.frames.tolist() == expected
    assert other.repeated == len(expected) - len(set(expected)) and other.left_out == len(stamps) - len(set(expected))
    assert other.repeated > 0


@pytest.mark.parametrize("digits", [3, 5, 9])
def test_rounded_time_stamps_are_no_later_than_exact_ones(digits):
    """Of a video with missing frames; each time of the other rate is that of a frame."""
    missing = [20, 51, 100]
    found = even_frames(np.delete(np.round(7 + EVEN, digits), missing))
    shown = dataclasses.replace(found, tick=10.0**-digits).resampled(15).frames
    positions = np.delete(np.arange(300), missing)[shown]
    assert positions.tolist() == [k - (k in missing) for k in range(0, 300, 2)]


def test_time_stamps_in_units_of_a_frame_are_exact():
    found = held_frames(np.array([0, 1, 3, 6, 7, 9]) / 25, np.arange(12) / 25)
    assert dataclasses.replace(found, tick=1 / 25).resampled(10).frames.tolist() == [0, 1, 2, 4, 5]
    found = even_frames(np.delete(EVEN, [20, 21, 51]))
    shown = dataclasses.replace(found, tick=1 / 30).resampled(12).frames  # at 0, 2.5, 5, …
    positions = np.delete(np.arange(300), [20, 21, 51])[shown]
    assert positions.tolist() == [{20: 19, 21: 19, 51: 50}.get(5 * k // 2, 5 * k // 2) for k in range(120)]


def test_missing_frames_repeat_a_neighbour():
    found = even_frames(np.delete(np.round(EVEN, 3), [20, 50, 51]))
    assert found.fps == pytest.approx(30, abs=0.01) and (found.repeated, found.left_out) == (3, 0)
    assert len(found.frames) == 300
    positions = np.delete(np.arange(300), [20, 50, 51])[found.frames]
    assert np.abs(positions - np.arange(300)).max() == 1


def test_of_two_equally_near_frames_the_earlier_one_is_shown():
    missing = [20, 50, 100, 250]
    found = even_frames(np.delete(EVEN, missing))
    positions = np.delete(np.arange(300), missing)[found.frames]
    assert positions[missing].tolist() == [19, 49, 99, 249]


def test_the_most_common_rate_counts():
    found = even_frames(np.concatenate([EVEN[:200], EVEN[199] + np.arange(1, 81) / 24]))
    assert found.fps == pytest.approx(30) and len(found.frames) == 300 and found.left_out == 0
    found = even_frames(np.concatenate([EVEN[:50], EVEN[49] + np.arange(1, 201) / 24]))
    assert found.fps == pytest.approx(24, abs=0.05) and len(found.frames) == 240 and found.repeated == 0


def test_a_screen_recording_that_pauses():
    burst = np.arange(60) / 60
    found = even_frames(np.concatenate([burst, 5 + burst, [10, 12.5], 20 + burst]))
    assert found.fps == pytest.approx(60) and len(found.frames) == 21 * 60 and found.left_out == 0
    assert np.array_equal(found.frames[300:360], np.arange(60, 120))


def test_a_first_frame_beside_the_grid_of_the_others():
    """Jitter must not decide about each of them."""
    times = np.concatenate([[0], 0.115 + EVEN + RANDOM.uniform(-0.003, 0.003, 300)])
    found = even_frames(times)
    assert found.left_out <= 1 and np.array_equal(found.frames[-299:], np.arange(2, 301))


def test_frames_in_pairs():
    found = even_frames(np.sort(np.concatenate([EVEN, EVEN + 0.001])))
    assert found.fps == pytest.approx(60, rel=0.001) and len(found.frames) == 599


def test_times_that_ffmpeg_has_changed_because_they_went_back():
    with pytest.raises(ValueError, match="go back"):
        even_frames(np.maximum.accumulate(np.concatenate([EVEN, EVEN[:290]])))


def test_pauses_beside_which_all_motion_vanishes():
    with pytest.raises(ValueError, match="long pauses"):
        even_frames(np.concatenate([EVEN, EVEN + 1000]))
