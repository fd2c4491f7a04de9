"""Process groups: collectives that also work for a single process.

Processes are launched by torchrun or a cluster's scheduler (which set RANK, WORLD_SIZE, LOCAL_RANK and the rendezvous
address in the environment) or, on a single machine, by `torch_utils.launch`. Tensors on a GPU are exchanged by NCCL,
tensors on the CPU and all host-side bookkeeping (flags, gathered objects) by gloo, so that bookkeeping never waits for
a GPU.

A process that ends takes the others with it: they notice at the next collective, at once if the connection breaks, else
at the time limit. The limit is short, because all processes do equal work. For long work of the main process alone, the
others wait for it within `main_works_alone()`; for long work of any process, all wait within `patience()`.
"""

import contextlib
import os
import re
import time
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

TIMEOUT = timedelta(minutes=10)  # of a collective
# Writing videos and evaluating may take long on one process while the others wait.
PATIENCE = timedelta(hours=4)

MEETING_POINT = ("MASTER_ADDR", "MASTER_PORT")
LEFT_OVER = (
    "Start several processes with torchrun; for one, `unset RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT`."
)

# Messages of the communication libraries about a lost peer.
LOST = re.compile(r"clos(ed|ing) (by|the) |connection|broken pipe|reset by peer|tim(ed|e) ?out|remote process", re.I)


class PeerLost(UserError):
    """Another process of the group has ended or no longer responds."""


class _Groups:
    """Groups of all processes with different time limits; None is PyTorch's default group."""

    joined = 0  # groups that this process has joined: in a sweep, one for each training
    store: dist.Store | None = None  # of the last; served by the main process, it lasts until others join the next
    patient: dist.ProcessGroup | None = None  # made by `init`, as is the next
    patient_with_main: dist.ProcessGroup | None = None
    current: dist.ProcessGroup | None = None


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def local_rank() -> int:
    """Index of this process's device on its machine."""
    if not dist.is_initialized():  # variables in the environment would be left-overs
        return 0
    number = _environment_number("LOCAL_RANK")
    return rank() if number is None else number


def environment_rank() -> int:
    """The rank that torchrun gave this process; 0 without torchrun. Known before the group is joined."""
    return 0 if torchrun_world_size() is None else _environment_number("RANK")


def torchrun_world_size() -> int | None:
    """The number of processes if this one was started by torchrun (or anything else that sets its variables).

    An incomplete set of variables is taken for a left-over and ignored, unless it names other processes.

    Raises:
        UserError: The variables do not describe a group.
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
        raise UserError(f"RANK and WORLD_SIZE are set in the environment, but not {' and '.join(missing)}. {LEFT_OVER}")
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
    meeting_point: str | None = None,
    timeout: timedelta = TIMEOUT,
) -> None:
    """Join the group of processes.

    Args:
        device_type: Device of the tensors to be reduced, 'cuda' or 'cpu'.
        rank, world_size: Rank of this process and size of the group; None takes them from torchrun's environment.
        meeting_point: File for the rendezvous of the processes on one machine; None for the address in the environment.
        timeout: Time limit of collectives.

    Raises:
        PeerLost: The other processes did not join in time.
        UserError: torchrun has started more processes on this machine than it has GPUs.
    """
    if rank is None:
        rank, world_size = environment_rank(), torchrun_world_size()
        if device_type == "cuda":
            number = _environment_number("LOCAL_RANK")
            _check_devices(rank if number is None else number)
    backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
    with _exchange():
        if meeting_point is None:
            _Groups.store, _, _ = next(rendezvous("env://", rank, world_size, timeout=timeout))
        else:  # not as a URL, in which '#' and '?' end the path
            _Groups.store = dist.FileStore(meeting_point, world_size)
        # The store still holds the addresses of earlier groups, and torchrun's after a restart those of processes that
        # are gone.
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)
        store = dist.PrefixStore(f"start-{start}-{_Groups.joined}", _Groups.store)
        _Groups.joined += 1
        dist.init_process_group(backend=backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
        patience = max(PATIENCE, timeout)
        _Groups.patient = dist.new_group(backend=backend, timeout=patience)
        # Each process has its own limit: the main process is not kept waiting there.
        _Groups.patient_with_main = dist.new_group(backend=backend, timeout=timeout if rank == 0 else patience)


def _check_devices(number: int) -> None:
    """Raise a UserError unless this machine has a GPU of this number."""
    count = torch.cuda.device_count()
    if number >= count:
        raise UserError(
            f"Process {number} of this machine (LOCAL_RANK, from 0 on) finds only {count} CUDA devices here, and each "
            f"process takes one: start {count} on this machine (torchrun --nproc-per-node {count}), or use the CPU."
        )


def cleanup() -> None:
    """Leave the group, if there is one."""
    _Groups.patient = _Groups.patient_with_main = _Groups.current = None
    if dist.is_initialized():
        # PyTorch 2.4 then waits, holding Python's lock, for threads that may need it to release the tensors of the last
        # collective: a deadlock. They get it here.
        time.sleep(0.2)
        dist.destroy_process_group()


def patience() -> contextlib.AbstractContextManager[None]:
    """Context in which collectives wait for hours, for unequal work. All processes enter and leave it."""
    return _within(_Groups.patient)


def main_works_alone() -> contextlib.AbstractContextManager[None]:
    """Context in which the other processes wait for the main one for hours, while it waits for them as usual."""
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
    """Context that turns errors about a lost peer into `PeerLost`."""
    try:
        yield
    except RuntimeError as error:  # the narrowest common class of the errors of NCCL, gloo and the store
        if LOST.search(str(error)) is None:
            raise
        raise PeerLost(
            f"Process {rank() or environment_rank()} lost contact with another one, which has ended or does not "
            "answer; its own output says why."
        ) from error


def barrier() -> None:
    """Wait for all processes, on the host."""
    any_rank(False)


def any_rank(flag: bool) -> bool:
    """True if the flag is set on at least one process. Does not wait for a GPU."""
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
    """The (picklable) values of all processes, by rank."""
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
    """Replace tensors by their means over the processes, in place, in one all-reduce. Integer tensors are kept."""
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
