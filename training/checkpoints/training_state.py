"""The training state: everything that continuing a run needs, in one self-contained file.

`training-state.pt` holds the networks' weights, both optimisers, the adaptive augmentation, the counters, the position
in the data, and of every process its random stream, running means of the loss and unread statistics. It does not refer
to a network snapshot. So whatever moment a run is killed at, the file that is there is consistent in itself: the last
complete one. A snapshot or a log row that is newer than it is written again, the same, by the continued run.

The parts are objects with `state_dict` and `load_state_dict`; `Parts` says which belong to a run.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from dnnlib import UserError
from torch_utils import distributed
from training.checkpoints.archive import read_archive, save_archive
from training.checkpoints.snapshot import load_state, snapshot_name

__all__ = ["STATE_FILE", "OptimizerState", "Parts", "read_state", "restore_state", "save_state"]

STATE_FILE = "training-state.pt"
STATE_FORMAT = "video-3d-gan/training-state"


class Stateful(Protocol):
    """Anything whose state can be saved as plain data."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> object: ...


class Divided(Stateful, Protocol):
    """Something of which every process has its own part, which only matters in sum over them."""

    def load_state_dicts(self, states: list[Mapping[str, Any]], *, main: bool) -> None:
        """Take over from another number of processes; the main one gets the sum."""


class OptimizerState:
    """An optimiser's running moments. Its settings are left out: they come from the options."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self._optimizer = optimizer

    def state_dict(self) -> dict[int, dict]:
        return self._optimizer.state_dict()["state"]

    def load_state_dict(self, state: dict[int, dict]) -> None:
        # Cloned, because the optimiser would go on writing into the memory-mapped file's pages.
        state = {index: {name: _own(value) for name, value in entry.items()} for index, entry in state.items()}
        self._optimizer.load_state_dict(dict(self._optimizer.state_dict(), state=state))


@dataclasses.dataclass(frozen=True)
class Parts:
    """What makes up a run's state."""

    modules: Mapping[str, torch.nn.Module]  # the same on all processes
    shared: Mapping[str, Stateful]  # the same on all processes
    own: Mapping[str, Divided]  # different on every process
    streams: Mapping[str, Stateful]  # random streams, different on every process


def save_state(folder: str | os.PathLike, parts: Parts, *, description: Mapping[str, Any]) -> None:
    """Write the state of a run into its folder; to be called on all processes.

    Args:
        description: What a continued run has to have in common with this one, in plain data.
    """
    processes = distributed.all_gather_objects(
        # Tensors of other processes must not arrive on this one's device.
        _to_cpu({name: part.state_dict() for name, part in {**parts.own, **parts.streams}.items()})
    )
    if distributed.is_main():
        save_archive(
            Path(folder) / STATE_FILE,
            {
                "format": STATE_FORMAT,
                "version": 1,
                "description": description,
                "modules": {name: module.state_dict() for name, module in parts.modules.items()},
                "shared": {name: part.state_dict() for name, part in parts.shared.items()},
                "processes": processes,
            },
        )


def read_state(folder: str | os.PathLike) -> dict | None:
    """The saved state of a run; None for one that ended before it had saved any, which may begin again.

    Raises:
        UserError: It cannot be read, or the run is older than that and has lost it.
    """
    path = Path(folder) / STATE_FILE
    if path.exists():
        return read_archive(path, format=STATE_FORMAT, what="a training state")
    if any(snapshot.name != snapshot_name(0) for snapshot in Path(folder).glob("network-snapshot-*.pkl")):
        raise UserError(
            f"Cannot continue the run in {folder}: its {STATE_FILE} is missing; start a new run from its newest "
            "snapshot with resume=."
        )
    return None


def restore_state(state: Mapping[str, Any], parts: Parts, *, source: object) -> bool:
    """Put the saved state back into the parts of this process.

    Returns:
        Whether the random streams could be put back. They cannot if the number of processes or the kind of their
        devices has changed: then they are left as they are. Nothing else is lost: the first process takes over what all
        of them had.

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
    if any(not _alike(entry[name], part.state_dict()) for name, part in parts.streams.items()):
        return False
    for name, part in parts.streams.items():
        part.load_state_dict(entry[name])
    return True


def _own(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def _alike(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Whether two generators' states are of one kind: those of CPUs and of CUDA devices differ in length."""
    return all(one[name].shape == other[name].shape for name in other)


def _to_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: _to_cpu(entry) for key, entry in value.items()}
    return value
