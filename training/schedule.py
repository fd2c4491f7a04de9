"""Training schedule: length of a run, learning rate, ticks, previews and snapshots, and the run's counters."""

import dataclasses
import math
from collections.abc import Mapping

__all__ = ["Counters", "Schedule"]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Length and intervals of a run."""

    total_kimg: float
    batch: int  # videos per iteration, over all processes
    microbatch: int  # videos per pass of one process; divides batch / processes
    lrate_decay: float | None  # thousands of videos from which the learning rate falls; None: it stays
    kimg_per_tick: float
    image_ticks: int | None  # ticks between previews; None for none but the last
    snapshot_ticks: int | None  # ticks between snapshots; None for none but the last
    keep: int | None  # number of newest network snapshots to keep; None for all
    nonfinite_limit: int  # consecutive steps of a phase with non-finite gradients after which the run stops
    unreadable_limit: int  # number of unreadable items of a process's data after which the run stops

    @property
    def total_nimg(self) -> int:
        """`total_kimg` in videos, rounded: 16.1 * 1000 is more than 16100."""
        return round(self.total_kimg * 1000)

    @property
    def end(self) -> int:
        """Videos at the end of the run: whole iterations."""
        return -(-self.total_nimg // self.batch) * self.batch

    def tick_ends(self, every: int | None) -> range:
        """Videos at the end of every n-th tick that is over before the end of the run; none for None.

        The first tick is one iteration, the others are at least one.
        """
        iterations = max(math.ceil(round(self.kimg_per_tick * 1000) / self.batch), 1)
        stop = 0 if every is None else self.total_nimg
        return range(self.batch, stop, (every or 1) * iterations * self.batch)

    def snapshots_on_disk(self) -> int:
        """Number of snapshots at the end of a run: they are named by whole kimg, and of two in one the later stays."""
        count, regular = 1, self.tick_ends(self.snapshot_ticks)
        if regular:
            first, last = regular[0] // 1000, regular[-1] // 1000
            count = min(len(regular) - 1, last - first) + 1 + (self.end // 1000 > last)
        return min(count, self.keep or count)

    def lrate_factor(self, counters: "Counters") -> float:
        """The learning rate of the next iteration, as a fraction of spec.lrate.

        1 / √max(t / t₀, 1) after t thousand videos, where t₀ is `lrate_decay` (Karras et al. 2024, "Analyzing and
        Improving the Training Dynamics of Diffusion Models"). It does not depend on the length of the run, which may be
        extended.
        """
        if self.lrate_decay is None:
            return 1.0
        return max(counters.cur_nimg / (self.lrate_decay * 1000), 1.0) ** -0.5

    def tick_is_over(self, counters: "Counters") -> bool:
        """True after `kimg_per_tick`, after the first iteration (an early report), and at the end of the run."""
        videos = counters.cur_nimg - counters.tick_start_nimg
        return videos > 0 and (
            videos >= round(self.kimg_per_tick * 1000) or counters.tick == 0 or self.is_done(counters)
        )

    def is_done(self, counters: "Counters") -> bool:
        return counters.cur_nimg >= self.total_nimg

    def images_due(self, counters: "Counters") -> bool:
        """True if previews are rendered at the end of this tick."""
        return self.is_done(counters) or (self.image_ticks is not None and counters.tick % self.image_ticks == 0)

    def snapshot_due(self, counters: "Counters") -> bool:
        """True if a snapshot is saved at the end of this tick."""
        return self.is_done(counters) or (self.snapshot_ticks is not None and counters.tick % self.snapshot_ticks == 0)


@dataclasses.dataclass
class Counters:
    """Progress of a run."""

    cur_nimg: int = 0  # training videos so far, over all processes
    iteration: int = 0
    tick: int = 0  # index of the current tick
    tick_start_nimg: int = 0
    seconds: float = 0.0  # of training up to the saved state
    tick_seconds: float = 0.0  # of these, within the current tick
    tick_unreadable: int = 0  # read errors of the current tick up to the saved state, over all processes

    def state_dict(self) -> dict[str, int | float]:
        return dataclasses.asdict(self)

    def load_state_dict(self, state: Mapping[str, int | float]) -> None:
        state = {"tick_unreadable": 0, **state}  # earlier versions did not save it
        for field in dataclasses.fields(self):
            setattr(self, field.name, state[field.name])
