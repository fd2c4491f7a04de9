"""Coarser frames while something moves."""

import pytest

from renderer.viewer.quality import DraftQuality

WIDTHS = (32, 64, 128, 256)


def play(quality, seconds_of, budget, frames=60):
    """The widths of some frames that take `seconds_of` their width."""
    widths = []
    for _ in range(frames):
        widths.append(quality.width)
        quality.record(quality.width, seconds_of[quality.width], budget)
    return widths


def test_it_begins_one_step_below_the_full_width():
    assert DraftQuality(WIDTHS).width == 128
    assert DraftQuality([32]).width == 32


def test_a_fast_machine_gets_the_full_width():
    assert play(DraftQuality(WIDTHS), dict.fromkeys(WIDTHS, 0.01), 0.1)[-10:] == [256] * 10


def test_a_slow_machine_gets_the_coarsest():
    assert play(DraftQuality(WIDTHS), dict.fromkeys(WIDTHS, 1.0), 0.1)[2:] == [32] * 58


def test_most_frames_come_in_time():
    """64 is the finest that does; what is too slow is tried again, but rarely."""
    seconds = {32: 0.02, 64: 0.06, 128: 0.15, 256: 0.5}
    widths = play(DraftQuality(WIDTHS), seconds, 0.1, frames=400)[20:]
    late = [width for width in widths if seconds[width] > 0.1]
    assert set(widths) <= {64, 128} and 0 < len(late) < 0.15 * len(widths)


def test_it_follows_a_machine_that_becomes_faster_or_slower():
    quality = DraftQuality(WIDTHS)
    play(quality, dict.fromkeys(WIDTHS, 1.0), 0.1)
    assert quality.width == 32
    play(quality, dict.fromkeys(WIDTHS, 0.01), 0.1, frames=200)
    assert quality.width == 256
    play(quality, dict.fromkeys(WIDTHS, 1.0), 0.1, frames=10)
    assert quality.width == 32


def test_there_must_be_widths():
    with pytest.raises(ValueError):
        DraftQuality([])
