"""The latest request of each client counts, and clients take turns."""

import threading
import time

import pytest

from renderer.viewer.render_queue import RenderQueue


class Busy:
    """A queue whose thread is held at its first job until `go`."""

    def __init__(self):
        self.queue, self.done = RenderQueue(), []
        self._go = threading.Event()
        self.queue.submit("hold", self._go.wait)
        self.queue.start()
        while self.queue._jobs:
            time.sleep(0.001)

    def note(self, text):
        return lambda: self.done.append(text)

    def go(self):
        """Run all jobs that are due."""
        finished = threading.Event()
        self.queue.submit("end", finished.set)
        self._go.set()
        assert finished.wait(5)


@pytest.fixture
def busy():
    busy = Busy()
    yield busy
    busy._go.set()
    busy.queue.stop()


def test_only_the_latest_wish_is_fulfilled(busy):
    for i in range(1000):
        busy.queue.submit("a", busy.note(i))
    busy.go()
    assert busy.done == [999]


def test_a_newer_wish_keeps_the_turn_of_the_older(busy):
    busy.queue.submit("a", busy.note("a1"))
    busy.queue.submit("b", busy.note("b1"))
    busy.queue.submit("a", busy.note("a2"))
    busy.go()
    assert busy.done == ["a2", "b1"]


def test_clients_that_always_want_something_alternate(busy):
    def again(name):
        busy.done.append(name)
        if len(busy.done) < 8:
            busy.queue.submit(name, lambda: again(name))
        else:
            over.set()

    over = threading.Event()
    for name in "abc":
        busy.queue.submit(name, lambda name=name: again(name))
    busy._go.set()
    assert over.wait(5)
    assert busy.done[:6] == ["a", "b", "c", "a", "b", "c"]


def test_a_wish_for_later_waits_and_does_not_hold_up_others(busy):
    began, late = time.monotonic(), threading.Event()
    busy.queue.submit("a", late.set, delay=0.2)
    busy.queue.submit("b", busy.note("b"))
    busy.go()
    assert busy.done == ["b"] and not late.is_set()
    assert late.wait(5) and time.monotonic() - began >= 0.2


def test_what_follows_by_itself_does_not_replace_a_wish(busy):
    busy.queue.submit("a", busy.note("wish"))
    busy.queue.submit("a", busy.note("by itself"), delay=60, replace=False)
    busy.go()
    assert busy.done == ["wish"]


def test_what_is_forgotten_does_not_run(busy):
    busy.queue.submit("a", busy.note("a"))
    busy.queue.forget("a")
    busy.queue.forget("never there")
    busy.go()
    assert busy.done == []


def test_a_job_that_fails_ends_nothing(busy, caplog):
    busy.queue.submit("a", lambda: 1 / 0)
    busy.queue.submit("b", busy.note("b"))
    busy.go()
    assert busy.done == ["b"] and "ZeroDivisionError" in caplog.text


def test_nothing_runs_after_the_end():
    queue, ran = RenderQueue(), threading.Event()
    queue.start()
    queue.stop()
    queue.submit("a", ran.set)
    assert not queue._thread.is_alive() and not ran.wait(0.05)


def test_what_removes_files_runs_at_the_end(busy):
    busy.queue.submit("a", busy.note("a"))
    busy.queue.submit("b", busy.note("b"), delay=60.0, always=True)
    threading.Timer(0.05, busy._go.set).start()
    busy.queue.stop()
    assert busy.done == ["b"] and not busy.queue._thread.is_alive()
