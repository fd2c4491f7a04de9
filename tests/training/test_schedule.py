"""The length of a run and its ticks, in whole videos."""

import pytest

from training.schedule import Counters, Schedule


@pytest.mark.parametrize("kimg, videos", [(16.1, 16100), (0.016, 16), (4.35, 4350), (25000, 25_000_000)])
def test_lengths_are_whole_videos(kimg, videos):
    """16.1 * 1000 is 16100.000000000002 and 4.35 * 1000 is 4350 less a rounding error."""
    schedule = Schedule(
        total_kimg=kimg, batch=4, microbatch=4, lrate_decay=None, kimg_per_tick=kimg / 2, image_ticks=None,
        snapshot_ticks=None, keep=None, nonfinite_limit=1, unreadable_limit=1,
    )  # fmt: skip
    assert schedule.is_done(Counters(cur_nimg=videos)) and not schedule.is_done(Counters(cur_nimg=videos - 1))
    before, after = (Counters(cur_nimg=round(videos / 2) - less, tick=1) for less in (1, 0))
    assert schedule.tick_is_over(after) and not schedule.tick_is_over(before)


def test_counters_of_earlier_versions():
    state, counters = Counters(cur_nimg=12, iteration=3, tick=2).state_dict(), Counters(tick_unreadable=5)
    del state["tick_unreadable"]
    counters.load_state_dict(state)
    assert counters == Counters(cur_nimg=12, iteration=3, tick=2)
