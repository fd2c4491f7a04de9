"""Several processes on this machine, over gloo."""

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist

from dnnlib import UserError
from tests.torch_utils import workers
from tests.training.tiny import write_frames
from torch_utils import distributed, launch


def run_two(function, *args):
    launch.launch(function, args=args, processes=2, device_type="cpu")


def test_one_process_needs_no_group():
    tensor = torch.ones(2)
    distributed.average([tensor])
    distributed.barrier()
    distributed.cleanup()
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.any_rank(True) and not distributed.any_rank(False)
    assert distributed.all_gather_objects("x") == ["x"] and distributed.broadcast_object("x") == "x"
    assert tensor.tolist() == [1.0, 1.0]


def test_collectives(tmp_path):
    run_two(workers.collectives, str(tmp_path))
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert [r["rank"] for r in results] == [0, 1] and [r["main"] for r in results] == [True, False]
    for rank, result in enumerate(results):
        assert result["world"] == 2
        assert result["any"] == [True, False]
        assert result["average"] == [0.5, 0.5, 0.5, rank]  # integers are left alone
        assert result["gathered"] == [{"rank": 0}, {"rank": 1}]
        assert result["broadcast"] == "from 0"
        assert result["module"] == [1.0] * 4
        assert result["statistics"] == {"both": (0.5, 0.5, 2), "one": (5.0, 0.0, 1)}


@pytest.mark.parametrize("name, groups", [("a#b", 2), ("a?b", 1)])
def test_any_folder_for_temporary_files(name, groups, tmp_path, monkeypatch):
    """Not the part before these letters, which a group would share with the next, or leave behind."""
    (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    for _ in range(groups):
        run_two(workers.collectives, str(tmp_path))
        assert torch.load(tmp_path / "1.pt")["gathered"] == [{"rank": 0}, {"rank": 1}]
    assert sorted(os.listdir(tmp_path)) == sorted(["0.pt", "1.pt", name]) and os.listdir(tmp_path / name) == []


@pytest.mark.parametrize("agent", [True, False])
def test_groups_that_follow_one_another(agent):
    """With the store of torchrun's agent, which outlives the groups, and with one that the main process serves."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    environment = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": str(agent),
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    if not agent:
        del store  # its port is free again
    command = [sys.executable, "-c", "from tests.torch_utils import workers; workers.join_twice()"]
    started = [
        subprocess.Popen(command, env={**environment, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0].splitlines() for process in started]
    finally:
        for process in started:
            process.kill()
    assert outputs == [["[(0, 0), (0, 1)]", "[(1, 0), (1, 1)]"]] * 2
    assert [process.returncode for process in started] == [0, 0]


def test_a_group_that_is_not_started_by_the_main_thread(tmp_path):
    start = functools.partial(launch.launch, os.mkdir, args=(tmp_path / "made",), processes=1, device_type="cpu")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(start).result()
    assert (tmp_path / "made").is_dir()


def test_bookkeeping_needs_no_gpu(tmp_path, monkeypatch):
    """Objects are exchanged before a process has chosen its GPU, and therefore by gloo, even where there is NCCL."""
    for name in ("init_process_group", "new_group"):
        make = getattr(dist, name)
        as_gloo = lambda backend, make=make, **a: make(backend=backend.replace("nccl", "gloo"), **a)  # noqa: E731
        monkeypatch.setattr(dist, name, as_gloo)
    distributed.init(device_type="cuda", rank=0, world_size=1, meeting_point=str(tmp_path / "meeting-point"))
    try:
        assert dist.get_backend_config() == "cpu:gloo,cuda:gloo"
        for context in (contextlib.nullcontext, distributed.patience, distributed.main_works_alone):
            with context():
                values = [None]
                dist.all_gather_object(values, "x", group=distributed._Groups.current)
                assert values == ["x"]
        assert not torch.cuda.is_initialized()
    finally:
        distributed.cleanup()


def test_gradients_are_those_of_the_whole_batch(tmp_path):
    run_two(workers.gradients, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    workers.gradients(str(tmp_path))  # this process alone, with the whole batch
    whole = torch.load(tmp_path / "0.pt")
    for a, b, c in zip(first, second, whole):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c)


def test_a_users_error_arrives_as_one(tmp_path):
    with pytest.raises(UserError, match="^the disk is full$"):
        run_two(workers.user_error)


def test_a_bug_keeps_its_traceback():
    with pytest.raises(Exception, match="a bug") as caught:
        run_two(workers.crash)
    assert not isinstance(caught.value, UserError)


@pytest.mark.usefixtures("hear_hangups")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_reach_all_processes(tmp_path, name):
    run_two(workers.wait_for_signal, str(tmp_path), name)
    assert (tmp_path / "seen-0").exists() and (tmp_path / "seen-1").exists()


def test_processes_train_the_same_networks(tmp_path):
    data = write_frames(tmp_path / "data")
    # Every iteration uses all phases.
    words = ["spec.g_reg_interval=1", "spec.d_reg_interval=1", "aug=ada", "p=0.5", "imgsnap=null"]
    run_two(workers.train, str(data), str(tmp_path), words)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name in ("generator", "ema", "discriminator"):
        for key in first[name]:
            assert torch.equal(first[name][key], second[name][key]), (name, key)
    assert first["pl_mean"] == second["pl_mean"] > 0
    assert first["cur_nimg"] == second["cur_nimg"] == 8
    assert not torch.equal(first["stream"], second["stream"])  # but not from the same draws
    assert (tmp_path / "training-state.pt").exists()


VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def environment(monkeypatch, words: str) -> None:
    """An environment with only those of torchrun's variables that the words set."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for word in words.split():
        monkeypatch.setenv(*word.split("=", 1))


def test_more_processes_than_gpus(monkeypatch):
    """A wrong number of processes from torchrun: reported before any process waits, and without a traceback."""
    environment(monkeypatch, "RANK=6 WORLD_SIZE=8 LOCAL_RANK=2 MASTER_ADDR=localhost MASTER_PORT=1234")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"Process 2 of this machine .* finds only 2 CUDA devices .*-node 2\)"):
        distributed.init(device_type="cuda")


@pytest.mark.parametrize(
    "words",
    [
        "RANK=0",
        "RANK=3",
        "WORLD_SIZE=1",
        "WORLD_SIZE=4 MASTER_ADDR=here MASTER_PORT=1234",
        "LOCAL_RANK=3",
        "RANK=0 WORLD_SIZE=1 LOCAL_RANK=5",
        "RANK=0 WORLD_SIZE=1 MASTER_ADDR=here",
        "RANK= WORLD_SIZE= MASTER_ADDR=",
    ],
)
def test_what_is_left_of_another_launcher_means_nothing(monkeypatch, words):
    environment(monkeypatch, words)
    assert distributed.torchrun_world_size() is None
    assert distributed.environment_rank() == 0
    assert distributed.local_rank() == 0


@pytest.mark.parametrize(
    "words, message",
    [
        ("RANK=1 WORLD_SIZE=2", "but not MASTER_ADDR and MASTER_PORT"),
        ("RANK=0 WORLD_SIZE=2 MASTER_PORT=1", "in the environment, but not MASTER_ADDR"),
        ("RANK=2 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=1", "RANK=2 and WORLD_SIZE=2 in the environment make no sense"),
        ("RANK=0 WORLD_SIZE=0", "RANK=0 and WORLD_SIZE=0 in the environment make no sense"),
        ("RANK=x WORLD_SIZE=2", "RANK=x in the environment is not a number"),
        ("RANK=0 WORLD_SIZE=-1", "WORLD_SIZE=-1 in the environment is not a number"),
        ("RANK=0 WORLD_SIZE=1 MASTER_ADDR=a MASTER_PORT=b", "MASTER_PORT=b in the environment is not a number"),
        ("RANK=0 WORLD_SIZE=1 MASTER_ADDR=a MASTER_PORT=65536", "MASTER_PORT=65536 in the environment is not a port"),
    ],
)
def test_a_group_that_cannot_be(monkeypatch, words, message):
    environment(monkeypatch, words)
    with pytest.raises(UserError, match=message + r".* `unset RANK WORLD_SIZE LOCAL_RANK"):
        distributed.torchrun_world_size()


def test_a_whole_group_is_taken(monkeypatch):
    environment(monkeypatch, "RANK=1 WORLD_SIZE=2 LOCAL_RANK=1 MASTER_ADDR=a MASTER_PORT=1234")
    assert (distributed.torchrun_world_size(), distributed.environment_rank()) == (2, 1)


@pytest.mark.parametrize("threads, load, busy", [(2, 0.9, False), (2, 1.1, True), (2, 5.0, True), (1, 5.0, False)])
def test_a_busy_machine(threads, load, busy, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(launch.os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(launch, "cores", lambda: 2)
    note = launch.busy_note()
    assert (note is not None) == busy
    if busy:
        assert f"(load {load:.1f}, 2 cores)" in note and "OMP_NUM_THREADS=1" in note
