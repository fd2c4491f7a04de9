"""Processes of a group end together, whatever happens to one of them."""

import json
import multiprocessing
import os
import signal
import threading
import time
from datetime import timedelta

import pytest

from dnnlib import UserError
from dnnlib.processes import Ended
from tests.torch_utils import group_faults
from tests.training.tiny import write_frames
from torch_utils import launch
from training.checkpoints.training_state import read_state


def run_two(function, *args, **options):
    return launch.launch(function, args=args, processes=2, device_type="cpu", **options)


def test_a_killed_process_takes_the_other_one_with_it():
    with pytest.raises(UserError) as caught:
        run_two(group_faults.die)
    assert str(caught.value) == "process 1 was ended by SIGKILL (the system does that when the memory is full)."
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("number, error", [(signal.SIGTERM, Ended), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_while_processes_start_reaches_them(monkeypatch, number, error):
    start = multiprocessing.context.SpawnProcess.start

    def signalled_start(process):
        if process.name == "process 0":
            os.kill(os.getpid(), number)
        start(process)

    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "start", signalled_start)
    end = threading.Event()
    other = threading.Thread(target=end.wait)  # where signals are not blocked, as in PyTorch's threads
    other.start()
    with pytest.raises(error):
        run_two(group_faults.rest, 60.0)
    end.set()
    other.join()
    assert multiprocessing.active_children() == []


def test_a_signal_after_which_processes_end_by_themselves_is_returned():
    assert run_two(group_faults.end_when_asked) == signal.SIGINT
    assert run_two(group_faults.rest, 0.0) is None


def test_a_process_that_does_not_answer_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(launch, "GRACE", 1.0)
    with pytest.raises(UserError, match=r"Process 0 lost contact"):
        run_two(group_faults.hang, str(tmp_path), timeout=timedelta(seconds=10))  # which the start takes less than
    assert (tmp_path / "hangs").exists() and multiprocessing.active_children() == []


def test_patience_outlasts_the_time_limit(tmp_path):
    run_two(group_faults.take_long, str(tmp_path), 6.0, 4.0)


def test_the_main_process_is_waited_for_and_waits_for_nobody(monkeypatch, tmp_path):
    monkeypatch.setattr(launch, "GRACE", 1.0)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"Process 0 lost contact"):
        run_two(group_faults.hang_while_main_works_alone, str(tmp_path), 6.0, 4.0)
    assert time.monotonic() - began > 10
    assert multiprocessing.active_children() == []


def test_processes_stop_when_their_parent_is_killed(tmp_path):
    parent = multiprocessing.get_context("spawn").Process(
        target=group_faults.launch_and_be_killed, args=(str(tmp_path),)
    )
    parent.start()
    parent.join(120)
    assert parent.exitcode == -signal.SIGKILL
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("stopped-*"))) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_all_stop_after_the_same_iteration_and_one_writes(tmp_path):
    data = write_frames(tmp_path / "data")
    folder = tmp_path / "run"
    folder.mkdir()
    run_two(group_faults.train_until_one_is_asked, str(data), str(folder), ["gpus=2", "imgsnap=1", "snap=1"])
    state = read_state(folder)
    assert state["shared"]["counters"]["cur_nimg"] == 16 and len(state["processes"]) == 2
    assert (folder / "latest-network-snapshot.pt").exists() and (folder / "images").is_dir()
    assert json.loads((tmp_path / "run-rank-1").read_text()) == []
    assert "Stopped as asked at 0.016 kimg" in (folder / "log.txt").read_text()
