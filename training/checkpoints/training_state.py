"""The training state of a run, for bit-exact resuming, in one self-contained file.

`training-state.pt` holds the networks' weights, both optimisers, the adaptive augmentation, the counters, the position
in the data, and for every process its random stream, running means of the loss and unread statistics. It does not refer
to a network snapshot, so the last complete file is consistent in itself at whatever moment a run is killed. Newer
snapshots and log rows are written again, with the same content, by the continued run.

The parts are objects with `state_dict` and `load_state_dict`; `Parts` lists those of a run.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from dnnlib import UserError
from torch_utils import distributed
from torch_utils.memory import is_out_of_memory
from training.checkpoints.archive import VERSION, read_archive, save_archive
from training.checkpoints.network_state import load_state
from training.checkpoints.snapshot import snapshot_progress
from training.checkpoints.snapshot_files import ANEW, STATE_FILE, numbered_snapshots

__all__ = ["OptimizerState", "Parts", "read_state", "restore_state", "save_state"]

STATE_FORMAT = "video-3d-gan/training-state"


class Stateful(Protocol):
    """An object whose state can be saved as plain data."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> object: ...


class Divided(Stateful, Protocol):
    """A state divided over the processes, of which only the sum matters."""

    def load_state_dicts(self, states: list[Mapping[str, Any]], *, main: bool) -> None:
        """Restore from another number of processes; the main one gets the sum."""


class OptimizerState:
    """An optimiser's running moments, without its settings, which come from the options."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self._optimizer = optimizer

    def state_dict(self) -> dict[int, dict]:
        return self._optimizer.state_dict()["state"]

    def load_state_dict(self, state: dict[int, dict]) -> None:
        # Cloned, because the optimiser would write into the memory-mapped file's pages.
        state = {index: {name: _cloned(value) for name, value in entry.items()} for index, entry in state.items()}
        self._optimizer.load_state_dict(dict(self._optimizer.state_dict(), state=state))


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of a run's state."""

    modules: Mapping[str, torch.nn.Module]  # the same on all processes
    shared: Mapping[str, Stateful]  # the same on all processes
    own: Mapping[str, Divided]  # a share on every process
    streams: Mapping[str, Stateful]  # random streams, different on every process


def save_state(folder: str | os.PathLike, parts: Parts, *, description: Mapping[str, Any]) -> None:
    """Write the state of a run into its folder; to be called on all processes.

    Args:
        description: Properties that a continued run must share with this one, as plain data.
    """
    processes = distributed.all_gather_objects(
        # Tensors of other processes must not arrive on this process's device.
        _to_cpu({name: part.state_dict() for name, part in {**parts.own, **parts.streams}.items()})
    )
    if distributed.is_main():
        save_archive(
            Path(folder) / STATE_FILE,
            {
                "format": STATE_FORMAT,
                "version": VERSION,
                "description": description,
                "modules": {name: module.state_dict() for name, module in parts.modules.items()},
                "shared": {name: part.state_dict() for name, part in parts.shared.items()},
                "processes": processes,
            },
        )


def read_state(folder: str | os.PathLike) -> dict | None:
    """The saved state of a run; None for a run that ended before it saved one, which may start from the beginning.

    Raises:
        UserError: The state cannot be read, or is missing although the run has snapshots of more than one iteration.
    """
    path = Path(folder) / STATE_FILE
    if path.exists():
        try:
            return read_archive(path, format=STATE_FORMAT, what="a training state")
        except UserError as error:
            if is_out_of_memory(error.__cause__):
                raise
            raise UserError(f"{error} Or {ANEW}") from error
    # A snapshot is written just before the state; only that of the first iteration is of no further use.
    if any(number > 0 for number in numbered_snapshots(folder)) or snapshot_progress(folder).get("iteration", 0) > 1:
        raise UserError(f"Cannot continue the run in {folder}: its {STATE_FILE} is missing; {ANEW}")
    return None


def restore_state(state: Mapping[str, Any], parts: Parts, *, source: object) -> bool:
    """Restore the saved state into the parts of this process.

    Returns:
        True if the random streams were restored. They keep their present state if the number of processes or the kind
        of device has changed. Nothing else is lost: the first process takes over the shares of all.

    Raises:
        UserError: Networks do not fit.
    """
    for name, module in parts.modules.items():
        load_state(module, state["modules"][name], what=f"this run's {name}", source=source)
    for name, part in parts.shared.items():
        part.load_state_dict(state["shared"][name])
    entries = state["processes"]
    if len(entries) != distributed.world_size():
        for name, part in parts.own.items():
            part.load_state_dicts([entry[name] for entry in entries], main=distributed.is_main())
        return False
    entry = entries[distributed.rank()]
    for name, part in parts.own.items():
        part.load_state_dict(entry[name])
    if any(not _same_kind(entry[name], part.state_dict()) for name, part in parts.streams.items()):
        return False
    for name, part in parts.streams.items():
        part.load_state_dict(entry[name])
    return True


def _cloned(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def _same_kind(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """True if two random streams are of one kind of device: states of CPUs and CUDA devices differ in length."""
    return all(one[name].shape == other[name].shape for name in other)


def _to_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: _to_cpu(entry) for key, entry in value.items()}
    return value
