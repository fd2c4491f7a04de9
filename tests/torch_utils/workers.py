"""Functions of test_distributed's worker processes; importable, because the processes are spawned."""

import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import torch

from dnnlib import UserError
from torch_utils import distributed
from torch_utils.training_stats import Statistics
from training.phases import GradientGuard


def collectives(folder: str) -> None:
    rank = distributed.rank()
    result: dict = {"rank": rank, "world": distributed.world_size(), "main": distributed.is_main()}
    result["any"] = [distributed.any_rank(rank == 1), distributed.any_rank(False)]
    floats, integers = torch.full([3], float(rank)), torch.tensor([rank])
    distributed.average([floats, integers])
    result["average"] = [*floats.tolist(), *integers.tolist()]
    result["gathered"] = distributed.all_gather_objects({"rank": rank})
    result["broadcast"] = distributed.broadcast_object(f"from {rank}")
    module = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(module.weight, rank + 1.0)
    distributed.broadcast_module(module)
    result["module"] = module.weight.flatten().tolist()
    statistics = Statistics()
    statistics.report("both", float(rank))
    if rank == 1:
        statistics.report("one", 5.0)
    result["statistics"] = {name: tuple(moments) for name, moments in statistics.reduce().items()}
    torch.save(result, Path(folder) / f"{rank}.pt")


def join_twice() -> None:
    """Join a group, leave it, and join the next one, as the trainings of a sweep do; print what was received."""
    for group in range(2):
        distributed.init(device_type="cpu", timeout=timedelta(seconds=60))
        print(distributed.all_gather_objects((group, distributed.rank())), flush=True)
        if distributed.is_main():
            time.sleep(0.5)  # the other one is about to join the next group
        distributed.cleanup()


def gradients(folder: str) -> None:
    """Gradients of a loss over half of the batch each; after cleaning they are those of the whole batch."""
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 2)
    batch = torch.arange(32.0).reshape(8, 4) / 32
    own = batch.chunk(distributed.world_size())[distributed.rank()]
    module(own).square().mean().backward()
    GradientGuard(device="cpu").clean(list(module.parameters()))
    torch.save([p.grad for p in module.parameters()], Path(folder) / f"{distributed.rank()}.pt")


def user_error() -> None:
    if distributed.rank() == 1:
        raise UserError("the disk is full")
    time.sleep(60)


def crash() -> None:
    if distributed.rank() == 1:
        raise RuntimeError("a bug")
    time.sleep(60)


def wait_for_signal(folder: str, name: str) -> None:
    seen = []
    signal.signal(signal.Signals[name], lambda number, frame: seen.append(number))
    Path(folder, f"ready-{distributed.rank()}").touch()
    if distributed.is_main():
        while not Path(folder, "ready-1").exists():
            time.sleep(0.01)
        os.kill(os.getppid(), signal.Signals[name])
    for _ in range(3000):
        if seen:
            Path(folder, f"seen-{distributed.rank()}").touch()
            return
        time.sleep(0.01)


def train(data: str, folder: str, words: list[str]) -> None:
    """Two iterations of a tiny training; every process writes its weights."""
    from tests.training.tiny import OVERRIDES
    from training.launch.setup import build_loop
    from training.launch.validate import plan

    options = plan([f"outdir={folder}", f"data={data}", *OVERRIDES, *words]).options
    loop = build_loop(options, Path(folder), device=torch.device("cpu"), resuming=False)
    for _ in range(2):
        loop.iterate()
    networks = loop.networks
    state = {
        "generator": networks.generator.state_dict(),
        "ema": networks.generator_ema.state_dict(),
        "discriminator": networks.discriminator.state_dict(),
        "pl_mean": loop.loss.pl_mean,
        "stream": loop.stream.state_dict()["generator"],
        "cur_nimg": loop.counters.cur_nimg,
    }
    torch.save(state, Path(folder) / f"{distributed.rank()}.pt")
    loop.save_state()
