"""Flatness as the soak test defines it."""

import os

from tests.reliability.soak import judge, sample


def rows(memory, handles=lambda minute: 9):
    return [
        {"time": 60.0 * minute, "rss_mib": memory(minute), "handles": handles(minute), "threads": 3, "cpu_s": minute}
        for minute in range(46)
    ]


def verdict(*arguments):
    lines, flat = judge(rows(*arguments))
    return flat, lines[-1]


def test_flat_after_the_warm_up():
    flat, line = verdict(lambda minute: 500.0 + (400 if minute >= 4 else 0) + minute % 2)
    assert flat and "for 40 minutes: memory 901.0 MiB, within 0.1%" in line


def test_growing_memory_or_handles_are_not():
    assert not verdict(lambda minute: 900.0 + minute)[0]
    assert not verdict(lambda minute: 900.0, lambda minute: 9 + minute // 10)[0]


def test_too_short_to_tell():
    lines, flat = judge(rows(lambda minute: 900.0)[:6])
    assert not flat and "Too short" in lines[-1]


def test_a_line_about_this_process():
    time, pid, memory, handles, threads, seconds = sample(os.getpid())
    assert pid == os.getpid() and 10 < memory < 100_000 and handles >= 3 and threads >= 1 and seconds > 0
