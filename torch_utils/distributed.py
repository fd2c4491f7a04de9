"""Several training processes, or just one: the same calls work in both cases.

Launched either by torchrun or a cluster's scheduler (which set RANK, WORLD_SIZE, LOCAL_RANK and the meeting point in
the environment) or by `torch_utils.launch`, which starts the processes of one machine itself. Tensors on a GPU
travel through NCCL, tensors on the CPU and all host-side bookkeeping (flags, gathered objects) through gloo, so that
bookkeeping never waits for a GPU.

A process that ends takes the others with it: they notice at the next exchange, at once where the connection breaks, and
else when the time limit is over. The limit is short, because all processes work equally long. Where the main process
does something alone that may take long, the others wait for it within `main_works_alone()`; where any may, all wait
within `patience()`.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from dnnlib import UserError

__all__ = [
    "PeerLost",
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
    "local_rank",
    "main_works_alone",
    "patience",
    "rank",
    "torchrun_world_size",
    "world_size",
]

TIMEOUT = timedelta(minutes=10)  # of an exchange
# Writing videos and evaluating happen on one process while the others wait; that may take long.
PATIENCE = timedelta(hours=4)

MEETING_POINT = ("MASTER_ADDR", "MASTER_PORT")
LEFT_OVER = (
    "Start several processes with torchrun; for one, `unset RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT`."
)

# How the libraries that carry the exchanges say that the other side is gone.
LOST = re.compile(r"clos(ed|ing) (by|the) |connection|broken pipe|reset by peer|tim(ed|e) ?out|remote process", re.I)


class PeerLost(UserError):
    """Another process of the group has ended or does not answer any more."""


class _Groups:
    """The groups of this process: each of all processes, with other time limits. None is PyTorch's default one."""

    patient: dist.ProcessGroup | None = None  # made by `init`, as is
    patient_with_main: dist.ProcessGroup | None = None
    current: dist.ProcessGroup | None = None


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def local_rank() -> int:
    """Which of this machine's devices belongs to this process."""
    if not dist.is_initialized():  # what the environment says is left from something else
        return 0
    number = _environment_number("LOCAL_RANK")
    return rank() if number is None else number


def environment_rank() -> int:
    """The rank that torchrun gave this process; 0 without torchrun. Known before the group is joined."""
    return 0 if torchrun_world_size() is None else _environment_number("RANK")


def torchrun_world_size() -> int | None:
    """The number of processes if this one was started by torchrun (or anything else that sets its variables).

    Some of the variables without the others are left from something else and mean nothing; unless they say that there
    are other processes.

    Raises:
        UserError: The variables make no group.
    """
    rank, size = _environment_number("RANK"), _environment_number("WORLD_SIZE")
    if rank is None or size is None:
        return None
    missing = [name for name in MEETING_POINT if not os.environ.get(name)]
    if missing and (rank, size) == (0, 1):
        return None
    if not rank < size:
        raise UserError(f"RANK={rank} and WORLD_SIZE={size} in the environment make no sense. {LEFT_OVER}")
    if missing:
        raise UserError(f"RANK and WORLD_SIZE are in the environment, {' and '.join(missing)} not. {LEFT_OVER}")
    port = _environment_number("MASTER_PORT")
    if not 0 < port < 1 << 16:
        raise UserError(f"MASTER_PORT={port} in the environment is not a port, 1 to 65535. {LEFT_OVER}")
    return size


def _environment_number(name: str) -> int | None:
    text = os.environ.get(name)
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UserError(f"{name}={text} in the environment is not a number. {LEFT_OVER}")
    return int(text)


def init(
    *,
    device_type: str,
    rank: int | None = None,
    world_size: int | None = None,
    init_method: str = "env://",
    timeout: timedelta = TIMEOUT,
) -> None:
    """Join the group of processes.

    Args:
        device_type: 'cuda' or 'cpu': where the tensors to be reduced live.
        rank, world_size: Of this process and of the group; None takes them from torchrun's environment.
        init_method: Where the processes meet: 'env://' or 'file:///path'.
        timeout: How long an exchange waits for the other processes.

    Raises:
        PeerLost: The others did not come in time.
    """
    if rank is None:
        rank, world_size = environment_rank(), torchrun_world_size()
    backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
    with _exchange():
        store, _, _ = next(rendezvous(init_method, rank, world_size, timeout=timeout))
        # After a restart torchrun's store still holds the addresses of processes that are gone.
        store = dist.PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group(backend=backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
        patience = max(PATIENCE, timeout)
        _Groups.patient = dist.new_group(backend=backend, timeout=patience)
        # A limit is the process's own: nobody keeps the main process waiting there.
        _Groups.patient_with_main = dist.new_group(backend=backend, timeout=timeout if rank == 0 else patience)


def cleanup() -> None:
    """Leave the group; nothing happens where there is none."""
    _Groups.patient = _Groups.patient_with_main = _Groups.current = None
    if dist.is_initialized():
        dist.destroy_process_group()


def patience() -> contextlib.AbstractContextManager[None]:
    """Within, exchanges wait for hours, for processes that work unequally long. All of them enter and leave it."""
    return _within(_Groups.patient)


def main_works_alone() -> contextlib.AbstractContextManager[None]:
    """Within, the others wait for the main process for hours, and it for them as long as usual."""
    return _within(_Groups.patient_with_main)


@contextlib.contextmanager
def _within(group: dist.ProcessGroup | None) -> Iterator[None]:
    before, _Groups.current = _Groups.current, group
    try:
        yield
    finally:
        _Groups.current = before


@contextlib.contextmanager
def _exchange() -> Iterator[None]:
    """Tell a lost process from a mistake in the program."""
    try:
        yield
    except RuntimeError as error:  # of NCCL's, gloo's and the store's errors there is no narrower common class
        if LOST.search(str(error)) is None:
            raise
        raise PeerLost(
            f"Process {rank()} of the training lost contact with another one, which has ended or does not answer; its "
            "own output says why."
        ) from error


def barrier() -> None:
    """Wait for all processes, on the host."""
    any_rank(False)


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on at least one process. Does not wait for a GPU."""
    if world_size() == 1:
        return flag
    tensor = torch.tensor([int(flag)])
    all_reduce_sum(tensor)
    return bool(tensor.item())


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over the processes, in place."""
    if world_size() > 1:
        with _exchange():
            dist.all_reduce(tensor, group=_Groups.current)
    return tensor


def all_gather_objects(value: Any) -> list[Any]:
    """The value (anything that pickles) of every process, by rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    with _exchange():
        dist.all_gather_object(values, value, group=_Groups.current)
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
    all_reduce_sum(flat)
    flat /= world_size()
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(part.view_as(tensor))


def broadcast_module(module: torch.nn.Module) -> None:
    """Give every process the parameters and buffers of the first one."""
    if world_size() == 1:
        return
    with torch.no_grad(), _exchange():
        for tensor in [*module.parameters(), *module.buffers()]:
            dist.broadcast(tensor, src=0)
