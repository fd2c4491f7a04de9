"""Playback of time."""

import pytest

from renderer.viewer.playback import Playback


def playing(time=0.0):
    playback = Playback()
    playback.start(time, now=100.0)
    return playback


def test_time_runs_evenly_and_begins_again():
    playback = playing(0.5)
    times = [playback.at(100.0 + s, seconds=4.0, loop=True) for s in (0, 1, 1.9, 2, 3, 6.4)]
    assert times == pytest.approx([0.5, 0.75, 0.975, 0.0, 0.25, 0.1]) and playback.playing


def test_without_a_loop_it_stops_at_the_end():
    playback = playing()
    assert playback.at(101.0, seconds=4.0, loop=False) == 0.25 and playback.playing
    assert playback.at(105.0, seconds=4.0, loop=False) == 1.0 and not playback.playing


def test_from_the_end_it_begins_at_the_beginning():
    assert playing(1.0).at(100.0, seconds=4.0, loop=False) == 0.0


def test_a_jump_goes_on_from_there():
    playback = playing()
    playback.jump(0.9, now=103.0)
    assert playback.at(103.2, seconds=4.0, loop=True) == pytest.approx(0.95)


def test_a_loop_that_ends_is_played_to_its_end():
    playback = playing()
    times = [playback.at(100.0 + frame / 10, seconds=2.0, loop=True) for frame in range(304)]
    assert times[-1] == pytest.approx(0.15)
    assert playback.at(130.4, seconds=2.0, loop=False) == pytest.approx(0.2) and playback.playing
    assert playback.at(132.1, seconds=2.0, loop=False) == 1.0 and not playback.playing


def test_another_duration_changes_the_pace_from_there():
    playback = playing()
    assert playback.at(101.5, seconds=2.0, loop=True) == 0.75
    assert playback.at(101.6, seconds=10.0, loop=True) == pytest.approx(0.76)


def test_it_never_runs_backwards():
    """A button may be pressed after a frame has read the clock."""
    assert playing().at(99.9, seconds=0.1, loop=True) == 0.0


def test_it_stops():
    playback = playing()
    playback.stop()
    assert not playback.playing and not Playback().playing
