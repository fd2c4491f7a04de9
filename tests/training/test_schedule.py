"""The length of a run and its ticks, in whole videos."""

import itertools

import pytest

from training.schedule import Counters, Schedule


def make_schedule(**settings) -> Schedule:
    return Schedule(
        **{"batch": 4, "image_ticks": None, "snapshot_ticks": None, "keep": None, **settings},
        microbatch=4, lrate_decay=None, nonfinite_limit=1, unreadable_limit=1,
    )  # fmt: skip


@pytest.mark.parametrize("kimg, videos", [(16.1, 16100), (0.016, 16), (4.35, 4350), (25000, 25_000_000)])
def test_lengths_are_whole_videos(kimg, videos):
    """16.1 * 1000 is 16100.000000000002 and 4.35 * 1000 is 4350 less a rounding error."""
    schedule = make_schedule(total_kimg=kimg, kimg_per_tick=kimg / 2)
    assert schedule.is_done(Counters(cur_nimg=videos)) and not schedule.is_done(Counters(cur_nimg=videos - 1))
    before, after = (Counters(cur_nimg=round(videos / 2) - less, tick=1) for less in (1, 0))
    assert schedule.tick_is_over(after) and not schedule.tick_is_over(before)


def saved(schedule: Schedule) -> list[int]:
    """Videos at the snapshots of a run, as the training loop counts them."""
    counters, found = Counters(), []
    while not schedule.is_done(counters):
        counters.cur_nimg += schedule.batch
        if schedule.tick_is_over(counters):
            if schedule.snapshot_due(counters):
                found.append(counters.cur_nimg)
            counters.tick += 1
            counters.tick_start_nimg = counters.cur_nimg
    return found


@pytest.mark.parametrize("batch", [4, 96, 1200])
@pytest.mark.parametrize("kimg", [0.004, 0.5, 1, 3.2, 4, 18.6])
def test_snapshots_are_counted_without_a_run(kimg, batch):
    for per_tick, every in itertools.product((0.0001, 0.25, 0.7, 1, 1.5), (1, 3, None)):
        schedule = make_schedule(total_kimg=kimg, batch=batch, kimg_per_tick=per_tick, snapshot_ticks=every)
        found = saved(schedule)
        assert [*schedule.tick_ends(every), schedule.end] == found
        assert schedule.snapshots_on_disk() == len({videos // 1000 for videos in found})


def test_counted_snapshots_need_no_list_of_them():
    schedule = make_schedule(total_kimg=1e9, kimg_per_tick=0.004, snapshot_ticks=1)
    assert schedule.snapshots_on_disk() == 1_000_000_001  # named 0 to 10⁹
    assert make_schedule(total_kimg=1e9, kimg_per_tick=4, snapshot_ticks=50, keep=3).snapshots_on_disk() == 3


def test_counters_of_earlier_versions():
    state, counters = Counters(cur_nimg=12, iteration=3, tick=2).state_dict(), Counters(tick_unreadable=5)
    del state["tick_unreadable"]
    counters.load_state_dict(state)
    assert counters == Counters(cur_nimg=12, iteration=3, tick=2)
