"""The training loop: iterations, ticks, snapshots.

An iteration runs Gmain, (Greg), Dmain, (Dreg), the moving average, the counters, (the adaptive augmentation). A batch
is worked through in micro-batches whose gradients add up to those of the whole batch. Within an iteration nothing waits
for the device; what is measured stays there until the end of a tick, when it is read, printed and saved.

What happens at the end of a tick has no influence on the training: previews draw from their own seeds.

All processes end together: whatever one of them is asked or has to say is exchanged after every iteration.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch

from dnnlib import UserError
from torch_utils import distributed
from torch_utils.rng import RandomStream
from torch_utils.stop_signal import StopRequested, StopSignal
from torch_utils.training_stats import Statistics
from training.augment.ada import AdaFeedback
from training.checkpoints.saver import Networks, Saver, planned_snapshots
from training.checkpoints.snapshot import load_generator, snapshot_name
from training.checkpoints.training_state import OptimizerState
from training.data.sampler import PairLoader
from training.ema import GeneratorEMA, RunningMeans
from training.loss import GanLoss, VideoBatch
from training.monitoring import run_logger as progress
from training.monitoring.geometry_monitor import GeometryLog
from training.monitoring.previews import Previews
from training.phases import GradientGuard, Phase
from training.schedule import Counters, Schedule

__all__ = ["Health", "Networks", "Snapshot", "SnapshotCallback", "TrainingLoop"]


# ----------------------------------------------------------------------------------------------------------------------
# Whether a training is sound: only what is should overwrite what was saved before.
#
# Half precision gives a non-finite gradient now and then; the guard replaces it, and nothing is lost. When it happens
# step after step, training has broken down, and once a weight or a running mean is not finite it cannot recover.


SUSPICIOUS = 4  # steps of a phase in a row with non-finite gradients after which nothing is saved until a good one


class Health:
    """Looks at weights and gradients between iterations.

    Args:
        tensors: Named weights and running means.
        guard: Of the gradients.
        limit: Steps of a phase in a row with non-finite gradients that mean the end.
        folder: Of the run, for messages.
    """

    def __init__(self, *, tensors: Iterable[tuple[str, torch.Tensor]], guard: GradientGuard, limit: int, folder: Path):
        self._tensors = {name: tensor for name, tensor in tensors if tensor.is_floating_point()}
        self._guard = guard
        self._limit = limit
        self._folder = folder

    def check(self, *, cur_nimg: int) -> str | None:
        """What speaks against saving the training as it is now; None if nothing does. Waits for the device.

        Raises:
            UserError: The training has broken down.
        """
        streak, longest = self._guard.streak(), self._guard.longest_streak()
        finite = torch.stack([tensor.isfinite().all() for tensor in self._tensors.values()]).tolist()
        broken = [name for name, good in zip(self._tensors, finite) if not good]
        if broken:
            reason = f"{len(broken)} of its tensors are not finite any more ({', '.join(broken[:3])})"
        elif longest >= self._limit:
            reason = f"{longest} steps of a phase in a row had non-finite gradients (spec.nonfinite_limit)"
        elif streak >= SUSPICIOUS:
            return f"the last {streak} steps of a phase had non-finite gradients"
        else:
            return None
        raise UserError(
            f"Training has broken down at {cur_nimg / 1000:g} kimg: {reason}. The snapshots and the state in "
            f"{self._folder} are from before. Continue with resume_run= and fp32=true, or start anew from a snapshot "
            "with resume=, with a lower spec.lrate or a higher spec.gamma."
        )


# ----------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What a callback gets after a snapshot was written."""

    path: Path  # of the file
    cur_nimg: int
    tick: int  # at whose end it was made
    load: Callable[[], torch.nn.Module]

    @functools.cached_property
    def generator(self) -> torch.nn.Module:
        """The moving average that is in it, on the run's device."""
        return self.load()


# Called on all processes after each snapshot that is due; what it returns on the main process is logged as metrics, by
# name. When a run is continued, it is called for those that there are, because a killed run may not have come to it: it
# is not to do again what is done.
SnapshotCallback = Callable[[Snapshot], Mapping[str, float] | None]


class TrainingLoop:
    """Runs a training to its end, or until it is told to stop.

    Args:
        networks: What is trained.
        phases: See training.phases.make_phases.
        loss, ada, ema, guard: What an iteration uses; ada is None unless augmentation adapts.
        loader: Real batches of this process, from where the run stands.
        stream: Random draws of this process.
        statistics: What the loss and the guard report to.
        schedule: How long, how often.
        folder: The run folder; only the main process writes.
        dataset: Description of the data, for the snapshots.
        device: Of the networks.
        previews: None for none (and on all but the main process).
        geometry: Measured at every snapshot; None on all but the main process.
        callbacks: See SnapshotCallback.
    """

    def __init__(
        self,
        *,
        networks: Networks,
        phases: Sequence[Phase],
        loss: GanLoss,
        ada: AdaFeedback | None,
        ema: GeneratorEMA,
        guard: GradientGuard,
        loader: PairLoader,
        stream: RandomStream,
        statistics: Statistics,
        schedule: Schedule,
        counters: Counters,
        folder: Path,
        dataset: Mapping[str, object],
        device: torch.device,
        previews: Previews | None = None,
        geometry: GeometryLog | None = None,
        callbacks: Sequence[SnapshotCallback] = (),
    ):
        self.networks = networks
        self.phases = phases
        self.loss = loss
        self.ada = ada
        self.ema = ema
        self.guard = guard
        self.loader = loader
        self.stream = stream
        self.statistics = statistics
        self.schedule = schedule
        self.counters = counters
        self.folder = folder
        self.device = device
        self.previews = previews
        self.geometry = geometry
        self.callbacks = callbacks
        saved = networks.generator.state_dict()
        means = {name: buffer for name, buffer in networks.generator.named_buffers() if name in saved}
        means["pl_mean"] = loss.pl_mean
        self._means = RunningMeans([mean for mean in means.values() if mean.is_floating_point()])
        weights = [*networks.generator.named_parameters(), *networks.discriminator.named_parameters()]
        self._health = Health(
            tensors=[*weights, *means.items()], guard=guard, limit=schedule.nonfinite_limit, folder=folder
        )
        own = {"statistics": statistics} if ada is None else {"statistics": statistics, "ada": ada}
        shared = {phase.name[0]: OptimizerState(phase.optimizer) for phase in phases}
        self._saver = Saver(
            folder=folder,
            networks=networks,
            counters=counters,
            shared={**shared, "counters": counters, "guard": guard, "loss": loss},
            own=own,
            streams={"training": stream},
            dataset=dataset,
            keep=schedule.keep,
        )
        self._unreadable = 0  # items that are reported already
        self._started = self._tick_began = time.time()
        self._maintenance = 0.0
        self._pace_from: tuple[float, int] | None = None  # moment and videos shown; None until tick 0 is over

    def run(self) -> None:
        """Train until done, or until SIGTERM, SIGINT or SIGHUP; either way a snapshot and the state are left behind.

        Raises:
            UserError: Training has broken down, too much of the data cannot be read, a file cannot be written, or
                another process is lost.
        """
        self._started = time.time() - self.counters.seconds
        self._tick_began = time.time() - self.counters.tick_seconds
        if self.counters.tick > 0:
            self._pace_from = time.time(), self.counters.cur_nimg
        total = round(self.schedule.total_kimg * 1000)
        with StopSignal() as stop, progress.open_reports(self.folder, self.counters, total_nimg=total) as reports:
            try:
                self._train(reports, stop)
            except Exception:
                reports.print(self._saver.what_is_saved())
                raise

    def _train(self, reports: progress.Reports, stop: StopSignal) -> None:
        self._catch_up(reports, stop)
        while True:
            if self.schedule.tick_is_over(self.counters):
                self._end_tick(reports)
            if self.schedule.is_done(self.counters):
                break
            # Together: an iteration that only some begin would never end.
            if distributed.any_rank(not self._batch_is_there(stop)):
                self._stop(reports, spoilt=False)
                return
            self.iterate()
            reports.advance(self.schedule.batch)
            spoilt = self.loader.unreadable >= self.schedule.unreadable_limit
            if distributed.any_rank(stop.requested or spoilt):
                self._stop(reports, spoilt=spoilt)  # if the tick is over, the continued run will see that first
                return
        reports.print(f"Done: {self.counters.cur_nimg / 1000:g} kimg, in {self.folder}")

    # ------------------------------------------------------------------------------------------------------------------
    # An iteration

    def iterate(self) -> None:
        """One optimiser step of every phase that is due, and what follows it."""
        counters, batch = self.counters, self.schedule.batch
        parts = self._next_batch()
        for phase in self.phases:
            if not phase.due(counters.iteration):
                continue
            phase.begin()
            for part in self._means.over(parts):
                self.loss.accumulate(phase.name, batch=part, gain=phase.gain / len(parts), stream=self.stream)
            phase.step(self.guard)
        self.ema.update(cur_nimg=counters.cur_nimg, batch=batch)
        counters.cur_nimg += batch
        counters.iteration += 1
        if self.ada is not None:
            self.ada.update(iteration=counters.iteration, batch=batch)

    def _batch_is_there(self, stop: StopSignal) -> bool:
        """Wait for the next batch; False if a signal asked to stop before it was there."""
        try:
            with stop.interrupts():
                self.loader.wait(stop.check)
        except StopRequested:
            return False
        return True

    def _next_batch(self) -> list[VideoBatch]:
        """This process's real videos of an iteration, on the device, in micro-batches."""
        pairs = next(self.loader)
        frames = pairs.frames.to(self.device, non_blocking=True).float() / 127.5 - 1
        dt = pairs.dt.to(self.device, non_blocking=True)
        # Behind a label come the camera's angles, where the discriminators are told of it.
        c, angles = pairs.c.to(self.device, non_blocking=True).tensor_split([self.networks.generator.c_dim], dim=1)
        parts = zip(*(x.split(self.schedule.microbatch) for x in (frames, dt, c, angles)))
        return [VideoBatch(frames=frames, dt=dt, c=c, angles=angles) for frames, dt, c, angles in parts]

    # ------------------------------------------------------------------------------------------------------------------
    # Between iterations

    def _end_tick(self, reports: progress.Reports) -> None:
        """Report the tick and make what is due: previews, a snapshot, the state."""
        counters, schedule = self.counters, self.schedule
        self._report_unreadable(reports)
        flat = None
        if self.geometry is not None and schedule.snapshot_due(counters):
            flat = self.geometry.report(self.statistics, cur_nimg=counters.cur_nimg)
        statistics = self.statistics.reduce()  # waits for the device
        ended = time.time()
        reports.tick(self._fields(ended), statistics)
        if flat is not None:
            reports.print(flat)
        doubt = self._health.check(cur_nimg=counters.cur_nimg)

        images, snapshot = schedule.images_due(counters), schedule.snapshot_due(counters)
        counters.tick += 1
        counters.tick_start_nimg = counters.cur_nimg
        self._tick_began = ended
        if images or snapshot:
            with distributed.main_works_alone():
                self._look_and_save(reports, images=images, snapshot=snapshot, doubt=doubt)
                distributed.barrier()
        if snapshot and doubt is None:  # after the state was saved: a callback may take long, or fail
            self._call_back(reports, counters.cur_nimg, counters.tick - 1, lambda: self.networks.generator_ema)
        progress.reset_gpu_peak(self.device)
        self._tick_began = time.time()
        self._maintenance = self._tick_began - ended
        if self._pace_from is None:
            self._pace_from = self._tick_began, counters.cur_nimg

    def _look_and_save(self, reports: progress.Reports, *, images: bool, snapshot: bool, doubt: str | None) -> None:
        """Previews, a snapshot, the state, as far as they are due; the main process does most of it alone."""
        if images and self.previews is not None:
            self.previews.write(self.counters.cur_nimg // 1000)
        if doubt is not None:
            reports.print(f"Not saved, because {doubt}. {self._saver.what_is_saved()}")
            return
        if snapshot:
            self._saver.save_snapshot()
        self.save_state()

    def _report_unreadable(self, reports: progress.Reports) -> None:
        """Say how many items of the data had to be replaced in this tick, over all processes."""
        new = self.loader.unreadable - self._unreadable
        self._unreadable = self.loader.unreadable
        told = distributed.all_gather_objects((new, self.loader.problem))
        total = sum(count for count, _ in told)
        if distributed.is_main():
            self.statistics.report("Progress/unreadable_items", float(total))
        if total:
            problem = next(problem for count, problem in told if count)
            reports.print(
                f"Items of the data that could not be read and were replaced: {total}; one of them: {problem}"
            )

    def _fields(self, now: float) -> dict[str, float]:
        """The fields of the status line; see training.monitoring.run_logger.FIELDS."""
        counters, augment = self.counters, self.networks.augment
        seconds, shown = now - self._tick_began, counters.cur_nimg - counters.tick_start_nimg
        rates = counters.tick > 0
        return {
            "tick": counters.tick,
            "kimg": counters.cur_nimg / 1000,
            "time": now - self._started,
            "sec/tick": seconds,
            "sec/kimg": seconds / shown * 1000 if rates else math.nan,
            "maintenance": self._maintenance,
            "cpumem": progress.cpu_memory(),
            "gpumem": progress.gpu_memory(self.device),
            "augment": 0.0 if augment is None else float(augment.p),
            "videos/s": shown / seconds if rates else math.nan,
            "left": self._seconds_left(now),
        }

    def _seconds_left(self, now: float) -> float:
        """To the end, at the pace so far, with all that happens between ticks; NaN if there is none yet."""
        if self._pace_from is None:
            return math.nan
        since, shown_then = self._pace_from
        shown, missing = self.counters.cur_nimg - shown_then, self.schedule.total_kimg * 1000 - self.counters.cur_nimg
        return max(missing, 0) * (now - since) / shown if shown > 0 else math.nan

    def _stop(self, reports: progress.Reports, *, spoilt: bool) -> None:
        """Leave the middle of a tick so that the continued run does not notice.

        Raises:
            UserError: The reason is that processes (this one: `spoilt`) could not read too much of the data.
        """
        cur_nimg = self.counters.cur_nimg
        doubt = self._health.check(cur_nimg=cur_nimg)
        if doubt is None:
            self._saver.save_snapshot(planned=False)
            self.save_state()
        problems = [
            problem for problem in distributed.all_gather_objects(self.loader.problem if spoilt else "") if problem
        ]
        if problems:
            raise UserError(
                f"Stopped at {cur_nimg / 1000:g} kimg: {self.schedule.unreadable_limit} items of the data could not be "
                f"read (unreadable_limit). The last one: {problems[0]}"
            )
        if doubt is None:
            reports.print(f"Stopped as asked at {cur_nimg / 1000:g} kimg; continue with resume_run={self.folder}")
        else:
            reports.print(f"Stopped as asked, not saved, because {doubt}. {self._saver.what_is_saved()}")

    def _catch_up(self, reports: progress.Reports, stop: StopSignal) -> None:
        """Call back for the snapshots that there are when the run starts."""
        if self.callbacks:
            until = self.counters.cur_nimg
            found = planned_snapshots(self.folder, until=until) if distributed.is_main() else None
            for path, cur_nimg, tick in distributed.broadcast_object(found):
                if distributed.any_rank(stop.requested):
                    break
                own = type(self.networks.generator_ema)  # which may be a user's
                load = functools.partial(load_generator, path, device=self.device, generator_class=own)
                self._call_back(reports, cur_nimg, tick, load)
            progress.reset_gpu_peak(self.device)
            self._tick_began = time.time() - self.counters.tick_seconds

    def _call_back(
        self, reports: progress.Reports, cur_nimg: int, tick: int, load: Callable[[], torch.nn.Module]
    ) -> None:
        """Tell everybody who wants to know about a snapshot, and report what they measured."""
        path = Path(self.folder) / snapshot_name(cur_nimg)
        snapshot, results = Snapshot(path=path, cur_nimg=cur_nimg, tick=tick, load=load), {}
        for callback in self.callbacks:
            with distributed.patience():
                results.update(callback(snapshot) or {})
                distributed.barrier()
        reports.metrics(cur_nimg, results)

    # ------------------------------------------------------------------------------------------------------------------
    # The state

    def save_state(self) -> None:
        """Write the training state; to be called on all processes."""
        now = time.time()
        self.counters.seconds = now - self._started
        self.counters.tick_seconds = now - self._tick_began
        self._saver.save_state()

    def restore(self, state: Mapping) -> bool:
        """Put a saved state back, except for the position in the data, which the loader was made with.

        Returns:
            Whether the random streams could be put back; see training.checkpoints.training_state.restore_state.
        """
        return self._saver.restore(state)
