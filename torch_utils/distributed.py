"""Several training processes, or just one: the same calls work in both cases.

Launched either by torchrun (which sets RANK, WORLD_SIZE, LOCAL_RANK and the meeting point in the environment) or by
`launch`, which starts the processes of one machine itself. Tensors on a GPU travel through NCCL, tensors on the CPU and
all host-side bookkeeping (flags, gathered objects) through gloo, so that bookkeeping never waits for a GPU.
"""

import contextlib
import os
import signal
import tempfile
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from dnnlib import UserError

__all__ = [
    "all_gather_objects",
    "all_reduce_sum",
    "any_rank",
    "average",
    "barrier",
    "broadcast_module",
    "broadcast_object",
    "cleanup",
    "environment_rank",
    "init",
    "is_main",
    "launch",
    "local_rank",
    "rank",
    "torchrun_world_size",
    "world_size",
]

# Writing videos and evaluating happen on one process while the others wait; that may take long.
TIMEOUT = timedelta(hours=4)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def local_rank() -> int:
    """Which of this machine's devices belongs to this process."""
    return int(os.environ.get("LOCAL_RANK", rank()))


def environment_rank() -> int:
    """The rank that torchrun gave this process; 0 without torchrun. Known before the group is joined."""
    return int(os.environ.get("RANK", 0))


def torchrun_world_size() -> int | None:
    """The number of processes if this one was started by torchrun (or anything else that sets its variables)."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    return int(os.environ["WORLD_SIZE"])


def init(*, device_type: str, rank: int | None = None, world_size: int | None = None, init_method: str = "env://"):
    """Join the group of processes.

    Args:
        device_type: 'cuda' or 'cpu': where the tensors to be reduced live.
        rank, world_size: Of this process and of the group; None takes them from torchrun's environment.
        init_method: Where the processes meet: 'env://' or 'file:///path'.
    """
    if rank is None:
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        backend="cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo",
        init_method=init_method,
        rank=rank,
        world_size=world_size,
        timeout=TIMEOUT,
    )


def cleanup() -> None:
    """Leave the group; nothing happens where there is none."""
    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for all processes, on the host."""
    any_rank(False)


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on at least one process. Does not wait for a GPU."""
    if world_size() == 1:
        return flag
    tensor = torch.tensor([int(flag)])
    dist.all_reduce(tensor)
    return bool(tensor.item())


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over the processes, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def all_gather_objects(value: Any) -> list[Any]:
    """The value (anything that pickles) of every process, by rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_object(value: Any) -> Any:
    """The first process's value, on every process."""
    return all_gather_objects(value)[0]


def average(tensors: Iterable[torch.Tensor]) -> None:
    """Replace tensors by their means over the processes, in place, in one exchange. Integer tensors are left alone."""
    tensors = [tensor for tensor in tensors if tensor.is_floating_point()]
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(part.view_as(tensor))


def broadcast_module(module: torch.nn.Module) -> None:
    """Give every process the parameters and buffers of the first one."""
    if world_size() == 1:
        return
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            dist.broadcast(tensor, src=0)


# ----------------------------------------------------------------------------------------------------------------------
# Starting processes


def launch(function: Callable[..., None], *, args: Sequence[Any], processes: int, device_type: str) -> None:
    """Run `function(*args)` in a group of this many new processes on this machine and wait for them.

    SIGTERM and SIGINT are passed on, so that a signal to this process alone reaches the workers too. If a worker
    fails, the others are ended and the worker's error is raised here.
    """
    with tempfile.TemporaryDirectory(prefix="process-group-") as folder:
        context = torch.multiprocessing.spawn(
            _worker,
            args=(function, tuple(args), processes, device_type, folder),
            nprocs=processes,
            join=False,
        )

        def forward(signum, frame):
            for process in context.processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signum)

        previous = {signum: signal.signal(signum, forward) for signum in (signal.SIGTERM, signal.SIGINT)}
        try:
            while not context.join():
                pass
        except (ProcessRaisedException, ProcessExitedException):
            # A user's error is one line, not the page of traceback that it becomes on its way here.
            for message in sorted(Path(folder).glob("error-*")):
                raise UserError(message.read_text(encoding="utf-8")) from None
            raise
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)


def _worker(index: int, function: Callable[..., None], args: tuple, processes: int, device_type: str, folder: str):
    os.environ["LOCAL_RANK"] = str(index)
    init(device_type=device_type, rank=index, world_size=processes, init_method=f"file://{folder}/meeting-point")
    try:
        function(*args)
    except UserError as error:
        Path(folder, f"error-{index}").write_text(str(error), encoding="utf-8")
        raise
    finally:
        cleanup()
