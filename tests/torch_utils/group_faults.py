"""Functions of test_group_faults's worker processes; importable, because the processes are spawned."""

import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

from torch_utils import distributed


def join_again(folder: str, seconds: float) -> None:
    """Join another group, whose time limit leaves out how long the processes take to start on a busy machine."""
    rank, world_size = distributed.rank(), distributed.world_size()
    distributed.barrier()
    distributed.cleanup()
    distributed.init(
        device_type="cpu",
        rank=rank,
        world_size=world_size,
        meeting_point=f"{folder}/again",
        timeout=timedelta(seconds=seconds),
    )


def die() -> None:
    if distributed.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.barrier()


def rest(seconds: float) -> None:
    time.sleep(seconds)


def hang(folder: str) -> None:
    distributed.barrier()
    if distributed.rank() == 1:
        Path(folder, "hangs").touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    distributed.barrier()


def take_long(folder: str, seconds: float, limit: float) -> None:
    join_again(folder, limit)
    with distributed.patience():
        if distributed.is_main():
            time.sleep(seconds)
        distributed.barrier()


def hang_while_main_works_alone(folder: str, seconds: float, limit: float) -> None:
    join_again(folder, limit)
    with distributed.main_works_alone():
        if distributed.is_main():
            time.sleep(seconds)
        distributed.barrier()  # the other one waits for longer than usual
        if not distributed.is_main():
            os.kill(os.getpid(), signal.SIGSTOP)
        distributed.barrier()


def end_when_asked() -> None:
    """End in an orderly way after a signal, which the main process asks for."""
    asked = []
    signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
    distributed.barrier()
    if distributed.is_main():
        os.kill(os.getppid(), signal.SIGINT)
    while not asked:
        time.sleep(0.01)


def outlive_the_parent(folder: str) -> None:
    stopped = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    Path(folder, f"pid-{distributed.rank()}").write_text(str(os.getpid()))
    distributed.barrier()
    if distributed.is_main():
        os.kill(os.getppid(), signal.SIGKILL)
    for _ in range(2000):
        if stopped:
            Path(folder, f"stopped-{distributed.rank()}").touch()
            break
        time.sleep(0.01)
    os._exit(0)


def launch_and_be_killed(folder: str) -> None:
    from torch_utils.launch import launch

    launch(outlive_the_parent, args=(folder,), processes=2, device_type="cpu")


def train_until_one_is_asked(data: str, folder: str, words: list[str]) -> None:
    """Train; only the second process gets a SIGTERM, and it records the files that it wrote itself."""
    from tests.training.tiny import OVERRIDES
    from training.launch.setup import train
    from training.launch.validate import plan
    from training.training_loop import TrainingLoop

    written, listening = [], [distributed.rank() == 1]

    def listen(event: str, arguments: tuple) -> None:
        if not listening[0] or event not in ("open", "os.mkdir", "os.rename", "os.link", "os.remove"):
            return
        writes = event != "open" or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if writes and str(arguments[0]).startswith(folder):
            written.append(f"{event} {arguments[0]}")

    sys.addaudithook(listen)
    iterate = TrainingLoop.iterate

    def interrupted(loop):
        if distributed.rank() == 1 and loop.counters.iteration == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        iterate(loop)

    TrainingLoop.iterate = interrupted
    options = plan([f"outdir={folder}", f"data={data}", *OVERRIDES, *words]).options
    train(options, Path(folder), device_type="cpu", resuming=False)
    listening[0] = False
    Path(f"{folder}-rank-{distributed.rank()}").write_text(json.dumps(written))
