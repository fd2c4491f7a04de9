"""Saving of a run's checkpoints: network snapshots, and the training state for resuming."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from torch_utils import distributed
from training.checkpoints.snapshot import save_snapshot, snapshot_progress
from training.checkpoints.snapshot_files import STATE_FILE, existing_snapshot, numbered_snapshots, prune_snapshots
from training.checkpoints.training_state import Divided, Parts, Stateful, restore_state, save_state
from training.schedule import Counters

__all__ = ["Networks", "CheckpointSaver", "planned_snapshots"]


@dataclasses.dataclass(frozen=True)
class Networks:
    """The modules of a run, on its device."""

    generator: torch.nn.Module
    generator_ema: torch.nn.Module  # in evaluation mode
    discriminator: torch.nn.Module
    augment: torch.nn.Module | None


def planned_snapshots(folder: Path, *, until: int) -> list[tuple[Path, int, int]]:
    """The scheduled snapshots of a run, without those written when it was stopped: file, cur_nimg, tick.

    Args:
        until: Progress of the run in videos; later snapshots will be written again.
    """
    found = []
    for _, path in numbered_snapshots(folder).items():
        progress = snapshot_progress(path)
        if progress.get("planned", True) and 0 < progress.get("cur_nimg", 0) <= until:
            found.append((path, progress["cur_nimg"], progress.get("tick", 1) - 1))
    return found


class CheckpointSaver:
    """Checkpoints of a run: writes snapshots and training states, and restores the latter.

    Args:
        folder: The run folder.
        networks: Stored in both.
        counters: Progress of the run.
        shared, own, streams: See training.checkpoints.training_state.Parts.
        dataset: Description of the data, stored in both.
        fingerprint: Fingerprint of the data, stored in the training state; see `VideoPairDataset.fingerprint`.
        keep: Number of newest snapshots to keep; None for all.
    """

    def __init__(
        self,
        *,
        folder: Path,
        networks: Networks,
        counters: Counters,
        shared: Mapping[str, Stateful],
        own: Mapping[str, Divided],
        streams: Mapping[str, Stateful],
        dataset: Mapping[str, object],
        fingerprint: Mapping[str, str],
        keep: int | None,
    ):
        self._folder = folder
        self._networks = networks
        self._counters = counters
        self._dataset = dataset
        self._fingerprint = fingerprint
        self._keep = keep
        modules = {
            "generator": networks.generator,
            "moving average": networks.generator_ema,
            "discriminator": networks.discriminator,
        }
        if networks.augment is not None:
            modules["augmentation"] = networks.augment
        self._parts = Parts(modules=modules, shared=shared, own=own, streams=streams)
        self._saved_nimg = counters.cur_nimg  # progress of the state on the disk; 0: none yet

    def save_snapshot(self, *, planned: bool = True) -> None:
        """Write a network snapshot, then delete those that need not be kept.

        Args:
            planned: The snapshot is a scheduled one. Otherwise it does not replace a scheduled one of the same kimg,
                which metrics may name, and is written as the latest one only; and not at all if that has the same
                cur_nimg, and hence the same content.
        """
        if not distributed.is_main():
            return
        counters = self._counters
        path = None if planned else existing_snapshot(self._folder, counters.cur_nimg)
        stored = {} if path is None else snapshot_progress(path)
        if stored.get("cur_nimg") == counters.cur_nimg:
            return
        progress = {"cur_nimg": counters.cur_nimg, "tick": counters.tick, "iteration": counters.iteration}
        save_snapshot(
            self._folder,
            generator=self._networks.generator,
            generator_ema=self._networks.generator_ema,
            discriminator=self._networks.discriminator,
            augment=self._networks.augment,
            dataset=self._dataset,
            progress={**progress, "planned": planned},
            numbered=not stored or not stored.get("planned", True),
        )
        if self._keep is not None:
            prune_snapshots(self._folder, self._keep)

    def save_state(self) -> None:
        """Write the training state; to be called on all processes."""
        about = {"dataset": dict(self._dataset), "fingerprint": dict(self._fingerprint)}
        save_state(self._folder, self._parts, description=about)
        self._saved_nimg = self._counters.cur_nimg

    def restore(self, state: Mapping[str, Any]) -> bool:
        """Restore a saved state; see training.checkpoints.training_state.restore_state."""
        return restore_state(state, self._parts, source=self._folder)

    def describe_saved(self) -> str:
        """A sentence for the log: the progress of the saved state, and the option that resumes from it."""
        if self._saved_nimg == 0:
            return "Nothing was saved yet."
        if not (self._folder / STATE_FILE).exists():
            return f"Nothing to continue from: the saved state in {self._folder} has been removed."
        saved = f"{self._saved_nimg / 1000:g} kimg"
        return f"The last saved state is that of {saved}; continue with resume_run={self._folder}"
