"""How long a run is, how often it does what, and where it stands."""

import dataclasses
from collections.abc import Mapping

__all__ = ["Counters", "Schedule"]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What a run is going to do."""

    total_kimg: float
    batch: int  # videos per iteration, over all processes
    microbatch: int  # videos per pass of one process; divides batch / processes
    kimg_per_tick: float
    image_ticks: int | None  # ticks between previews; None for none but the last
    snapshot_ticks: int | None  # ticks between snapshots; None for none but the last
    keep: int | None  # network snapshots that are kept, the newest ones; None for all
    nonfinite_limit: int  # stop after so many steps of a phase in a row with non-finite gradients
    unreadable_limit: int  # stop when a process could not read so many items of the data

    def tick_is_over(self, counters: "Counters") -> bool:
        """The first tick is a single iteration: an early sign of life. The last one ends with the run."""
        shown = counters.cur_nimg - counters.tick_start_nimg
        return shown > 0 and (shown >= self.kimg_per_tick * 1000 or counters.tick == 0 or self.is_done(counters))

    def is_done(self, counters: "Counters") -> bool:
        return counters.cur_nimg >= self.total_kimg * 1000

    def images_due(self, counters: "Counters") -> bool:
        """Whether the end of this tick is a time for previews."""
        return self.is_done(counters) or (self.image_ticks is not None and counters.tick % self.image_ticks == 0)

    def snapshot_due(self, counters: "Counters") -> bool:
        """Whether the end of this tick is a time for a snapshot."""
        return self.is_done(counters) or (self.snapshot_ticks is not None and counters.tick % self.snapshot_ticks == 0)


@dataclasses.dataclass
class Counters:
    """Where a run stands."""

    cur_nimg: int = 0  # videos shown, over all processes
    iteration: int = 0
    tick: int = 0  # the current one
    tick_start_nimg: int = 0
    seconds: float = 0.0  # of training up to when the state was saved
    tick_seconds: float = 0.0  # of these in the current tick

    def state_dict(self) -> dict[str, int | float]:
        return dataclasses.asdict(self)

    def load_state_dict(self, state: Mapping[str, int | float]) -> None:
        for field in dataclasses.fields(self):
            setattr(self, field.name, state[field.name])
