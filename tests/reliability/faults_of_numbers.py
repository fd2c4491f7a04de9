"""Faults of numbers, and a memory that is full."""

import math
import resource
from collections.abc import Callable
from pathlib import Path

import torch

from tests.reliability.forked import Run
from tests.reliability.places import Place, fault
from training.checkpoints.snapshot import load_snapshot
from training.checkpoints.training_state import read_state
from training.loss import GanLoss


def spoil(value: float, *, after: int, until: float = math.inf, where: str = "loss") -> Callable[[], None]:
    """Make a loss or a weight not finite from an iteration on, within a process."""

    def prepare() -> None:
        accumulate, count = GanLoss.accumulate, [0]

        def spoilt(self, phase, *, batch, gain, stream):
            count[0] += phase == "Gmain"
            hit = after < count[0] <= until
            if hit and where == "data":
                batch.frames[0, 0, 0, 0, 0] = value
            if hit and where == "buffer":
                self.generator.mapping.w_avg[0] = value
            accumulate(self, phase, batch=batch, gain=gain * value if hit and where == "loss" else gain, stream=stream)

        GanLoss.accumulate = spoilt

    return prepare


def breakdown(place: Place, prepare: Callable[[], None], *words: str) -> str:
    run = Run(place.words(*words), place.log, prepare)
    assert run.wait() == 2, place.said()[-2000:]
    assert "Training has broken down" in place.error()
    state, snapshot = read_state(place.run_folder()), load_snapshot(place.run_folder())
    for tree in (*state["modules"].values(), snapshot["generator"]["ema"], snapshot["generator"]["state"]):
        assert all(value.isfinite().all() for value in tree.values())
    assert 0 < place.saved() <= 44
    sentence = place.error().split(" The snapshots")[0]
    kept = f"state of {place.saved()} videos and snapshots kept"
    return f"exit code 2, `{sentence}`; {kept}; {place.finish()}"


@fault
def nan_loss(place: Place) -> str:
    """All gradients are NaN from the sixth iteration on."""
    return breakdown(place, spoil(math.nan, after=10), "spec.nonfinite_limit=20")


@fault
def inf_data(place: Place) -> str:
    """Real frames hold an infinity from the sixth iteration on."""
    return breakdown(place, spoil(math.inf, after=10, where="data"), "spec.nonfinite_limit=20", "spec.d_reg_interval=1")


@fault
def nan_in_a_running_mean(place: Place) -> str:
    """A running mean becomes NaN, while all gradients are finite."""
    return breakdown(place, spoil(math.nan, after=10, where="buffer"))


@fault
def one_bad_step(place: Place) -> str:
    """A single iteration has NaN gradients, as half precision may give."""
    run = Run(place.words(), place.log, spoil(math.nan, after=10, until=11))
    assert run.wait() == 0, place.said()[-2000:]
    return "replaced by zeros, counted in stats.jsonl; the run ends as planned"


@fault
def out_of_memory(place: Place) -> str:
    """The memory is full."""

    def prepare() -> None:
        accumulate, count = GanLoss.accumulate, [0]

        def too_large(self, phase, **arguments):
            accumulate(self, phase, **arguments)
            count[0] += 1
            if count[0] == 30:
                used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, used + 2**20))
                torch.zeros(2**26)

        GanLoss.accumulate = too_large

    run = Run(place.words(), place.log, prepare)
    assert run.wait() == 2, place.said()[-2000:]
    assert "spec.microbatch=2" in place.error() and "spec.mbstd=2" in place.error()
    return f"exit code 2, `{place.error()}`; {place.finish()}"
