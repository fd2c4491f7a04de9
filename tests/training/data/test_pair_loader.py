"""Batches of real pairs: in order, the same for any number of workers, whatever happens to these."""

import errno
import itertools
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dnnlib import UserError
from tests.training.tiny import make_plan
from torch_utils.stop_signal import StopRequested, StopSignal
from training.data import frames_loader, loader, pair_loader
from training.data.dataset import VideoPairDataset
from training.data.frames_loader import make_loader
from training.data.pair_loader import PairBatch, PairLoader
from training.data.sampler import InfiniteSampler
from training.data.webdataset import ShardPairDataset
from training.data.webdataset_loader import make_shard_loader
from training.dataset_tool import __main__ as dataset_tool


@pytest.mark.parametrize("words, on_cpu, on_gpu", [((), 0, 3), (("workers=2",), 2, 2)])
def test_a_run_that_changes_its_device_has_the_workers_of_the_new_one(words, on_cpu, on_gpu, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(frames_loader, "make_loader", lambda dataset, *, workers, **rest: started.append(workers))
    plan = make_plan(tmp_path, *words)
    for pin_memory in (False, True):
        loader.build_loader(plan.options, dataset=plan.dataset, position=0, rank=0, world_size=1, pin_memory=pin_memory)
    assert started == [on_cpu, on_gpu]


@pytest.mark.parametrize("make", [make_loader, make_shard_loader])
@pytest.mark.parametrize("batch_size", [0, 2.5, None])
def test_batches_have_items(make, batch_size):
    with pytest.raises(UserError) as error:
        make(None, batch_size=batch_size)
    assert str(error.value) == f"batch_size must be a whole number of at least 1, got {batch_size}."


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    for video in range(5):
        folder = root / "train" / str(video)
        folder.mkdir(parents=True)
        for frame in range(4):
            Image.new("RGB", (4, 4), (video, frame, 0)).save(folder / f"{frame}.png")
    return VideoPairDataset(path=root, resolution=4, nframes=4, mirror=True)


def batches(loader, count):
    taken = [next(loader) for _ in range(count)]
    loader.close()
    return taken


def same(one, other):
    assert len(one) == len(other) > 0
    return all(torch.equal(a, b) for x, y in zip(one, other) for a, b in zip(x, y))


def test_batches_hold_the_items_in_order(dataset):
    stream = [*itertools.islice(InfiniteSampler(dataset_size=10, seed=4, rank=1, world_size=2, position=6), 12)]
    options = dict(batch_size=3, seed=4, rank=1, world_size=2, position=6)
    for number, batch in enumerate(batches(make_loader(dataset, **options), 4)):
        items = [dataset[key] for key in stream[3 * number : 3 * number + 3]]
        assert torch.equal(batch.frames, torch.stack([item.frames for item in items]))
        assert torch.equal(batch.dt, torch.stack([item.dt for item in items]))
        assert batch.frames.shape == (3, 2, 3, 4, 4) and batch.frames.dtype == torch.uint8
        assert batch.dt.shape == (3,) and batch.c.shape == (3, 0)


def test_workers_change_nothing(dataset):
    reference = batches(make_loader(dataset, batch_size=3, seed=1), 9)
    for workers in (1, 2):
        assert same(reference, batches(make_loader(dataset, batch_size=3, seed=1, workers=workers), 9))
    assert not same(reference, batches(make_loader(dataset, batch_size=3, seed=2), 9))


@pytest.mark.parametrize("workers", [0, 2])
def test_position_counts_what_was_handed_out(dataset, workers):
    """Workers run ahead; what they prepared and nobody took is prepared again."""
    reference = batches(make_loader(dataset, batch_size=3, seed=1), 9)
    loader = make_loader(dataset, batch_size=3, seed=1, workers=workers)
    first = [next(loader) for _ in range(4)]
    position = loader.position
    loader.close()
    assert position == 12
    rest = make_loader(dataset, batch_size=3, seed=1, workers=2 - workers, position=position)
    assert same(reference, first + batches(rest, 5)) and rest.position == 27


def test_position_counts_all_processes(dataset):
    loader = make_loader(dataset, batch_size=2, rank=1, world_size=3, position=5)
    batches(loader, 2)
    assert loader.position == 5 + 2 * 2 * 3


def test_a_closed_loader_is_at_its_end(dataset):
    loader = make_loader(dataset, batch_size=2)
    loader.close()
    assert list(loader) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_global_random_state_is_left_alone(dataset, workers):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    batches(make_loader(dataset, batch_size=2, workers=workers), 3)
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_frame_is_one_line_even_from_a_worker(tmp_path, workers):
    folder = tmp_path / "a" / "v"
    folder.mkdir(parents=True)
    for frame in range(2):
        (folder / f"{frame}.png").write_bytes(b"broken")
    loader = make_loader(VideoPairDataset(path=tmp_path, resolution=4, nframes=2), batch_size=2, workers=workers)
    with pytest.raises(UserError, match=r"^Cannot read the frame '.*a/v/[01]\.png' [^\n]*$"):
        next(loader)
    assert loader.position == 0
    loader.close()


# ----------------------------------------------------------------------------------------------------------------------
# What goes wrong


@pytest.fixture
def fragile(tmp_path):
    """Items that can be told by their first pixel, and a function that destroys one."""
    for video in range(6):
        folder = tmp_path / "train" / str(video)
        folder.mkdir(parents=True)
        Image.new("RGB", (4, 4), (40 * video, 0, 0)).save(folder / "0.png")
    dataset = VideoPairDataset(path=tmp_path, resolution=4, nframes=1)
    return dataset, lambda video: (tmp_path / "train" / str(video) / "0.png").unlink()


def shown(batch) -> list[int]:
    return [int(frames[0, 0, 0, 0]) // 40 for frames in batch.frames]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_item_that_vanishes_is_replaced_and_counted(fragile, workers):
    dataset, destroy = fragile
    order = [index for _, index in itertools.islice(InfiniteSampler(dataset_size=6, seed=3), 12)]
    destroy(2)
    loader = make_loader(dataset, batch_size=3, seed=3, workers=workers)
    found = [video for _ in range(4) for video in shown(next(loader))]
    replaced = [place for place, video in enumerate(order) if video == 2]
    assert [place for place in range(12) if found[place] != order[place]] == replaced and len(replaced) == 2
    assert all(found[place] != 2 for place in replaced)
    assert loader.unreadable == 2 and "2/0.png" in loader.problem and loader.position == 12
    loader.close()
    # By the same items, whenever it happens.
    again = make_loader(dataset, batch_size=3, seed=3, position=6)
    assert [video for _ in range(2) for video in shown(next(again))] == found[6:]


@pytest.mark.parametrize("workers", [0, 2])
def test_data_that_come_back_are_read(fragile, tmp_path, workers):
    """As on a network drive that is away for a while: an error is that of its attempt, and loses no items."""
    dataset, _ = fragile
    reference = batches(make_loader(dataset, batch_size=2, seed=1), 8)
    before = multiprocessing.active_children()
    loader = make_loader(dataset, batch_size=2, seed=1, workers=workers)
    found = [next(loader)]
    (tmp_path / "train").rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"others tried in its place failed too\.$"):
        while True:
            found.append(next(loader))
    assert len(found) <= 6 and loader.position == 2 * len(found) and workers_of(before) == []
    with pytest.raises(UserError, match=r"others tried in its place failed too\.$"):
        next(loader)
    (tmp_path / "away").rename(tmp_path / "train")
    found += [next(loader), next(loader)]
    assert same(reference[: len(found)], found)
    loader.close()
    assert workers_of(before) == []


def test_replacements_that_are_unreadable_too_count_in_their_own_batches(fragile):
    """Each item counts once, however many of its replacements are unreadable; and epochs have their own ones."""
    dataset, destroy = fragile
    for video in range(3):
        destroy(video)
    tolerant, found = frames_loader._FaultTolerantDataset(dataset, seed=0), {}
    for epoch, index in itertools.product(range(20), range(3)):
        batch, problems = tolerant.__getitems__([(epoch, index)])
        assert len(problems) == 1 and f"{index}/0.png" in problems[0]
        found.setdefault(index, set()).update(shown(batch))
    assert found == {index: {3, 4, 5} for index in range(3)}


def workers_of(before) -> list:
    return [child for child in multiprocessing.active_children() if child not in before]


def test_a_dead_worker_is_replaced(fragile):
    dataset, _ = fragile
    reference = batches(make_loader(dataset, batch_size=2, seed=1), 8)
    before, handler = multiprocessing.active_children(), signal.getsignal(signal.SIGCHLD)
    loader = make_loader(dataset, batch_size=2, seed=1, workers=2)
    found = [next(loader) for _ in range(3)]
    victims = workers_of(before)
    assert len(victims) == 2
    for victim in victims:
        os.kill(victim.pid, signal.SIGKILL)
    found += [next(loader) for _ in range(5)]
    assert same(reference, found) and loader.position == 16
    assert not set(victims) & set(workers_of(before)) and len(workers_of(before)) == 2
    loader.close()
    assert workers_of(before) == []
    signal.signal(signal.SIGCHLD, handler)


def test_workers_that_die_again_and_again_end_the_training(fragile):
    def start(position):
        raise RuntimeError("DataLoader worker (pid(s) 12) exited unexpectedly")

    loader = PairLoader(start=start, position=0, step=1)
    with pytest.raises(UserError, match=r"4 times in a row .* workers=0"):
        next(loader)


def test_workers_that_die_after_a_few_batches_each_time_end_the_training():
    def start(position):
        for _ in range(pair_loader.STEADY):
            yield PairBatch(*torch.zeros([3, 1])), []
        raise RuntimeError("DataLoader worker (pid(s) 12) exited unexpectedly")

    loader = PairLoader(start=start, position=0, step=1)
    with pytest.raises(UserError, match=r"4 times in a row"):
        for _ in range(9 * pair_loader.STEADY):
            next(loader)
    assert loader.position == 4 * pair_loader.STEADY


def test_a_mistake_in_the_program_is_not_taken_for_a_dead_worker():
    def start(position):
        raise RuntimeError("Caught ValueError in DataLoader worker process 0.")

    with pytest.raises(RuntimeError, match="Caught ValueError"):
        next(PairLoader(start=start, position=0, step=1))


def test_workers_leave_signals_to_the_main_process(fragile):
    dataset, _ = fragile
    before = multiprocessing.active_children()
    loader = make_loader(dataset, batch_size=2, seed=1, workers=1)
    next(loader)
    (worker,) = workers_of(before)
    for number in (*StopSignal.ENDING, *StopSignal.REQUEUEING):
        os.kill(worker.pid, number)
    for _ in range(4):
        next(loader)
    assert worker.is_alive() and workers_of(before) == [worker]
    loader.close()
    worker.join(5)
    assert not worker.is_alive()


def test_no_worker_is_started_before_it_is_needed(fragile):
    before = multiprocessing.active_children()
    loader = make_loader(fragile[0], batch_size=2, workers=1)
    assert workers_of(before) == []
    loader.close()


# ----------------------------------------------------------------------------------------------------------------------
# Waiting for workers


def streamed(tmp_path) -> ShardPairDataset:
    """The fragile dataset as shards of two clips."""
    words = ["--resolution", "4", "--nframes", "1", "--format", "shards", "--shard-clips", "2", "--workers", "1"]
    dataset_tool.main([str(tmp_path / "train"), str(tmp_path / "shards"), *words], standalone_mode=False)
    return ShardPairDataset(path=tmp_path / "shards", resolution=4, nframes=1)


@pytest.mark.parametrize("shards", [False, True], ids=["folder", "shards"])
def test_no_room_in_shared_memory_is_one_line(fragile, tmp_path, monkeypatch, capsys, shards):
    def full(tensor):
        raise RuntimeError("unable to allocate shared memory(shm) for file </x>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)  # workers are forked
    if shards:
        loader = make_shard_loader(streamed(tmp_path), batch_size=2, workers=2)
    else:
        loader = make_loader(fragile[0], batch_size=2, workers=2)
    before, began = multiprocessing.active_children(), time.monotonic()
    with pytest.raises(UserError, match=r"^Data workers .*2 times in a row .*/dev/shm\?.* workers=0\. .*No space left"):
        next(loader)
    assert time.monotonic() - began < 20 and workers_of(before) == []
    assert "the workers are started again (no room in shared memory for a batch" in capsys.readouterr().out


@pytest.mark.parametrize("deleted", [True, False])
def test_without_temporary_folder_workers_are_one_line(fragile, tmp_path, monkeypatch, capsys, deleted):
    """It is deleted during the run, or its path is too long for the sockets through which workers send batches."""
    scratch = Path(tempfile.mkdtemp()) if deleted else tmp_path / ("x" * 100)
    scratch.mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.delitem(multiprocessing.current_process()._config, "tempdir", raising=False)
    loader = make_loader(fragile[0], batch_size=2, workers=1)
    if deleted:
        next(loader)
        shutil.rmtree(scratch)
    before, began = multiprocessing.active_children(), time.monotonic()
    with pytest.raises(UserError) as caught:
        for _ in range(9):
            next(loader)
    assert re.fullmatch(
        r"Data workers have ended unexpectedly 2 times in a row \(is the memory full, or /dev/shm\?\); use fewer of "
        r"them with workers=, or none with workers=0\. The last time: no socket can be made in the folder for "
        r"temporary files, set TMPDIR to one that can be written to and has a short path: "
        + (rf"\[Errno 2\] No such file or directory: '{scratch}/pymp-\w+'" if deleted else "AF_UNIX path too long"),
        str(caught.value),
    )
    assert time.monotonic() - began < 20 and workers_of(before) == []
    assert "A data worker has ended unexpectedly; the workers are started again" in capsys.readouterr().out


def test_workers_that_cannot_be_started_are_one_line(fragile, monkeypatch):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(multiprocessing, "Queue", full)
    with pytest.raises(UserError, match=r"cannot be started \(No space left .*/dev/shm.* workers=0"):
        next(make_loader(fragile[0], batch_size=2, workers=1))
    next(make_loader(fragile[0], batch_size=2, workers=0))


@pytest.mark.slow
@pytest.mark.parametrize("size", ["1m", "4k"])  # less than the batches ahead take; less than the locks take
def test_a_small_shared_memory_really(fragile, tmp_path, size):
    """In a mount namespace of its own, where /dev/shm is small."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    program = f"""
import sys
from dnnlib import run_cli
from training.data.dataset import VideoPairDataset
from training.data.frames_loader import make_loader
data = VideoPairDataset(path="{tmp_path}", resolution=256, nframes=1)
loader = make_loader(data, batch_size=4, workers=2)
def main():
    while True:
        next(loader)
run_cli(main)
"""
    mounted = f"mount -t tmpfs -o size={size} tmpfs /dev/shm && exec {sys.executable} -c '{program}'"
    done = subprocess.run(["unshare", "-m", "sh", "-c", mounted], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    said = [line.strip("\0") for line in done.stderr.splitlines()]
    said = [line for line in said if not line.startswith("ERROR: Unexpected bus error")]
    assert len(said) == 1 and said[0].startswith("error: Data workers")  # a dying worker may say something as well
    assert "/dev/shm" in said[0] and "workers=0" in said[0]


def test_a_few_dead_workers_now_and_then_do_no_harm():
    """Only deaths with few batches between them count as a row."""
    since = [0]

    def start(position):
        for _ in range(pair_loader.STEADY + 1):
            yield PairBatch(*torch.zeros([3, 1])), []
        since[0] += 1
        raise RuntimeError("DataLoader worker (pid(s) 12) exited unexpectedly")

    loader = PairLoader(start=start, position=0, step=1)
    for _ in range(6 * (pair_loader.STEADY + 1)):
        next(loader)
    assert since[0] == 5


@pytest.mark.usefixtures("hear_hangups")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_are_heard_while_a_worker_hangs(fragile, number):
    before = multiprocessing.active_children()
    loader = make_loader(fragile[0], batch_size=2, workers=2)
    next(loader)
    for worker in workers_of(before):
        os.kill(worker.pid, signal.SIGSTOP)
    began = time.monotonic()
    threading.Timer(0.5, os.kill, [os.getpid(), number]).start()
    with StopSignal() as stop, pytest.raises(StopRequested):
        while True:
            loader.wait(stop.interrupts)
            next(loader)
    loader.close()
    assert 0.4 < time.monotonic() - began < 20 and workers_of(before) == []  # the workers hang for ever


def at_start(monkeypatch, number, action):
    """Let an action follow the start of the n-th process from now on."""
    start, started = BaseProcess.start, []

    def start_and_act(process):
        start(process)
        started.append(process)
        if len(started) == number:
            action()

    monkeypatch.setattr(BaseProcess, "start", start_and_act)


def left_over(before) -> list:
    """Workers that do not end; killed, or the end of the tests would wait for them for ever."""
    for worker in workers_of(before):
        worker.join(5)
    left = workers_of(before)
    for worker in left:
        worker.kill()
    return left


@pytest.mark.parametrize("restart", [False, True])
def test_a_signal_while_workers_start_leaves_none_behind(fragile, monkeypatch, restart):
    before, handler = multiprocessing.active_children(), signal.getsignal(signal.SIGCHLD)
    loader = make_loader(fragile[0], batch_size=2, workers=2)
    if restart:
        next(loader)
        for worker in workers_of(before):
            worker.kill()
    at_start(monkeypatch, 1, lambda: signal.raise_signal(signal.SIGTERM))
    with StopSignal() as stop, pytest.raises(StopRequested):
        while True:
            loader.wait(stop.interrupts)
            next(loader)
    loader.close()
    assert left_over(before) == []
    signal.signal(signal.SIGCHLD, handler)


def test_a_worker_that_cannot_be_started_leaves_none_behind(fragile, monkeypatch):
    def fail():
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    before = multiprocessing.active_children()
    loader = make_loader(fragile[0], batch_size=2, workers=2)
    at_start(monkeypatch, 1, fail)
    with pytest.raises(UserError, match=r"^Data workers cannot be started \(Resource temporarily unavailable; "):
        next(loader)
    next(loader)  # the first worker of the failed attempt is still known
    loader.close()
    assert left_over(before) == []


def test_a_batch_that_was_waited_for_is_the_next_one(fragile):
    reference, loader = (make_loader(fragile[0], batch_size=2, seed=1) for _ in range(2))
    expected, found = batches(reference, 3), []
    for _ in range(3):
        loader.wait()
        loader.wait()
        assert loader.position == 2 * len(found)
        found.append(next(loader))
    assert same(expected, found)


def test_a_lock_that_a_killed_worker_held_does_not_stop_the_end_of_the_others(monkeypatch):
    """PyTorch's iterator waits for it in its destructor, for ever."""
    monkeypatch.setattr(pair_loader, "PATIENCE", 0.2)
    freed, killed = threading.Event(), []

    class Held:
        def __del__(self):
            freed.wait(60)

    loader = pair_loader.PairLoader(start=lambda position: Held(), position=0, step=1)
    loader._batches = Held()
    loader._workers = [types.SimpleNamespace(kill=lambda: killed.append(1))]
    began = time.monotonic()
    loader.close()
    assert time.monotonic() - began < 20 and killed
    freed.set()
