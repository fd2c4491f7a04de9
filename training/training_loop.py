"""The training loop: iterations, ticks, snapshots, and the divergence check.

An iteration runs Gmain, (Greg), Dmain and (Dreg), then updates the moving average, the counters and, with aug=ada, the
augmentation. A batch is processed in micro-batches whose gradients add up to those of the whole batch. Within an
iteration nothing waits for the device: statistics stay there until the end of the tick, when they are read, printed and
saved.

The end of a tick has no influence on the training: previews have their own random seeds.

All processes end together: they exchange stop requests and read errors after every iteration.
"""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch.nn.utils.parametrize import type_before_parametrizations

from dnnlib import UserError
from torch_utils import distributed
from torch_utils.rng import RandomStream
from torch_utils.stop_signal import StopRequested, StopSignal
from torch_utils.training_stats import Statistics
from training.augment.ada import AdaFeedback
from training.checkpoints.saver import CheckpointSaver, Networks, planned_snapshots
from training.checkpoints.snapshot import load_average_generator
from training.checkpoints.snapshot_files import STATE_FILE, snapshot_name
from training.checkpoints.training_state import OptimizerState
from training.cuda_graphs import PhaseGraphs
from training.data.pair_loader import PairLoader
from training.ema import GeneratorEMA, RunningMeans
from training.loss import GanLoss, VideoBatch
from training.monitoring.geometry_monitor import GeometryMonitor
from training.monitoring.previews import REALS, Previews
from training.monitoring.run_logger import RunLogger, cpu_memory, gpu_memory, reset_gpu_peak
from training.networks.fields import is_density_scale
from training.phases import LOSS_SCALE, GradientGuard, Phase
from training.schedule import Counters, Schedule

__all__ = ["DivergenceCheck", "Snapshot", "SnapshotCallback", "TrainingLoop"]

SUSPICIOUS = 4  # consecutive steps of a phase with non-finite gradients after which nothing is saved until a finite one


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A network snapshot on disk, as passed to callbacks."""

    path: Path
    cur_nimg: int
    tick: int  # the tick that it was written at the end of
    load: Callable[[], torch.nn.Module]

    @functools.cached_property
    def generator(self) -> torch.nn.Module:
        """Its moving-average generator, on the run's device."""
        return self.load()


# Called on all processes after each scheduled snapshot; the values it returns on the main process are logged as
# metrics, by name. A continued run calls it again for the snapshots that exist, because the interrupted run may not
# have reached it: a callback has to skip work that is already done.
SnapshotCallback = Callable[[Snapshot], Mapping[str, float] | None]


class TrainingLoop:
    """A training run until its end, or until a signal asks it to stop.

    Args:
        networks: The generator, its moving average, the discriminators, the augmentation.
        phases: See training.phases.make_phases.
        loss, ada, ema, guard: Used by every iteration; ada is None unless the augmentation is adaptive.
        loader: Real batches of this process, starting at the run's position in the data.
        stream: Random stream of this process.
        statistics: Receives the reports of the loss and the guard.
        schedule: Length of the run, and intervals of ticks, previews and snapshots.
        counters: Progress of the run.
        folder: The run folder; only the main process writes.
        dataset: Description of the data, stored in the snapshots.
        fingerprint: Fingerprint of the data, stored in the training state.
        device: The networks' device.
        graphs: Runs the phases as CUDA graphs; None for none.
        previews: None for none, and on all processes but the main one.
        geometry: Measured at every snapshot; None on all processes but the main one.
        callbacks: See SnapshotCallback.
        trackers, options: Names of the trackers that mirror the run folder, and the options that they show; see
            `training.monitoring.trackers`.
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
        fingerprint: Mapping[str, str],
        device: torch.device,
        graphs: PhaseGraphs | None,
        previews: Previews | None,
        geometry: GeometryMonitor | None,
        callbacks: Sequence[SnapshotCallback],
        trackers: Sequence[str],
        options: Mapping[str, object],
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
        self.graphs = graphs
        self.previews = previews
        self.geometry = geometry
        self.callbacks = callbacks
        self._trackers = {"trackers": trackers, "options": options}

        # Running means of the forward passes, which must not be updated once per micro-batch.
        saved = networks.generator.state_dict()
        buffers = {name: buffer for name, buffer in networks.generator.named_buffers() if name in saved}
        means = {name: buffer for name, buffer in buffers.items() if not is_density_scale(name)}
        means["pl_mean"] = loss.pl_mean
        self._means = RunningMeans([mean for mean in means.values() if mean.is_floating_point()])

        weights = [*networks.generator.named_parameters(), *networks.discriminator.named_parameters()]
        self._divergence = DivergenceCheck(
            tensors=[*weights, *means.items()], guard=guard, limit=schedule.nonfinite_limit, folder=folder
        )

        own = {"statistics": statistics} if ada is None else {"statistics": statistics, "ada": ada}
        optimizers = {phase.name[0]: OptimizerState(phase.optimizer) for phase in phases}
        self._saver = CheckpointSaver(
            folder=folder,
            networks=networks,
            counters=counters,
            shared={**optimizers, "counters": counters, "ema": ema, "guard": guard, "loss": loss},
            own=own,
            streams={"training": stream},
            dataset=dataset,
            fingerprint=fingerprint,
            keep=schedule.keep,
        )

        self._reported_errors = 0  # read errors of this process that have been reported
        self._start_time = self._tick_start = time.monotonic()
        self._maintenance = 0.0  # seconds between the last two ticks
        self._pace_from: tuple[float, int] | None = None  # time and cur_nimg at the end of tick 0; None before

    def run(self) -> int | None:
        """Train to the end, or until SIGTERM, SIGINT or SIGHUP; either way a snapshot and the state are saved.

        Returns:
            The signal that this process has received, None without one.

        Raises:
            UserError: The training has diverged, too much of the data cannot be read, a file cannot be written, or
                another process is lost.
        """
        self._start_time = time.monotonic() - self.counters.seconds
        self._tick_start = time.monotonic() - self.counters.tick_seconds
        if self.counters.tick > 0:
            self._pace_from = time.monotonic(), self.counters.cur_nimg
        with StopSignal() as stop:
            logger = RunLogger(
                self.folder,
                next_tick=self.counters.tick,
                cur_nimg=self.counters.cur_nimg,
                total_nimg=self.schedule.total_nimg,
                active=distributed.is_main(),
                **self._trackers,
            )
            try:
                self._train(logger, stop)
            except Exception:
                logger.print(self._saver.describe_saved())
                raise
            finally:
                logger.close()
        return stop.number

    def _train(self, logger: RunLogger, stop: StopSignal) -> None:
        reals = self.folder / REALS
        if self.counters.cur_nimg == 0 and self.previews is not None and reals.exists():
            logger.previews(0, {"reals": reals})
        self._call_back_existing(logger, stop)
        begins_at = self.counters.cur_nimg
        while True:
            if self.schedule.tick_is_over(self.counters):
                self._end_tick(logger, stop)
            if self.schedule.is_done(self.counters):
                break
            # Decided together: an iteration that only some processes begin would never end.
            ready, problem = self._wait_for_batch(stop)
            if distributed.any_rank(not ready):
                self._stop(logger, problem=problem)
                return
            self.iterate()
            logger.advance(self.schedule.batch)
            problem = self._too_many_errors()
            if distributed.any_rank(stop.requested or problem != ""):
                self._stop(logger, problem=problem)  # a tick that is over ends in the continued run
                return
        kimg = self.counters.cur_nimg / 1000
        if 0 < begins_at == self.counters.cur_nimg:
            wanted = f"kimg={self.schedule.total_kimg:g}"
            logger.print(f"Nothing to train: {wanted}, which the run has reached. Give a larger kimg= to go on.")
        logger.print(f"Done: {kimg:g} kimg, in {self.folder}")

    # ------------------------------------------------------------------------------------------------------------------
    # Iterations

    def iterate(self) -> None:
        """One optimiser step of every phase that is due, then the moving average and the counters."""
        counters, batch = self.counters, self.schedule.batch
        micro_batches = self._next_batch()
        self.networks.generator.set_progress(counters.cur_nimg / 1000)

        # Gmain, Greg, Dmain, Dreg: gradients of all micro-batches, then one step.
        for phase in self.phases:
            if not phase.due(counters.iteration):
                continue
            phase.set_learning_rate(self.schedule.lrate_factor(counters))
            step = functools.partial(self._run_phase, phase)
            if self.graphs is None:
                step(micro_batches)
            else:
                self.graphs.run(phase, micro_batches, step)

        # Moving average of the generator.
        self.ema.update(cur_nimg=counters.cur_nimg, batch=batch)

        # Counters, and the strength of the adaptive augmentation.
        counters.cur_nimg += batch
        counters.iteration += 1
        if self.ada is not None:
            self.ada.update(iteration=counters.iteration, batch=batch)

    def _run_phase(self, phase: Phase, micro_batches: Sequence[VideoBatch]) -> None:
        """Gradients of a phase, added up over the micro-batches, and its optimiser step. All on the device."""
        phase.begin()
        for videos in self._means.over(micro_batches):
            self.loss.accumulate(phase.name, batch=videos, gain=phase.gain * LOSS_SCALE, stream=self.stream)
        phase.step(self.guard, divisor=LOSS_SCALE * len(micro_batches))

    def _wait_for_batch(self, stop: StopSignal) -> tuple[bool, str]:
        """Wait for the next batch.

        Returns:
            False if there is none, because a signal asked to stop or because of the problem that is named.
        """
        try:
            self.loader.wait(stop.interrupts)
        except StopRequested:
            return False, ""
        except UserError as error:
            return False, str(error)
        return True, ""

    def _too_many_errors(self) -> str:
        """The problem of a process that has reached the limit of read errors; '' below it."""
        limit = self.schedule.unreadable_limit
        if self.loader.unreadable < limit:
            return ""
        return f"{limit} items of the data could not be read (unreadable_limit). The last one: {self.loader.problem}"

    def _next_batch(self) -> list[VideoBatch]:
        """This process's real videos of an iteration, on the device, in micro-batches."""
        pairs = next(self.loader)
        frames = pairs.frames.to(self.device, non_blocking=True).float() / 127.5 - 1
        dt = pairs.dt.to(self.device, non_blocking=True)
        # Where the discriminators are conditioned on cameras, their angles follow the label.
        c, angles = pairs.c.to(self.device, non_blocking=True).tensor_split([self.networks.generator.c_dim], dim=1)
        splits = zip(*(x.split(self.schedule.microbatch) for x in (frames, dt, c, angles)))
        return [VideoBatch(frames=frames, dt=dt, c=c, angles=angles) for frames, dt, c, angles in splits]

    # ------------------------------------------------------------------------------------------------------------------
    # Ticks

    def _end_tick(self, logger: RunLogger, stop: StopSignal) -> None:
        """Report the tick, then write the previews, the snapshot and the state that are due."""
        counters, schedule = self.counters, self.schedule

        # Statistics of the tick, over all processes.
        self._report_read_errors(logger)
        if distributed.is_main():
            self.statistics.report("Progress/unreadable_items", float(counters.tick_unreadable))
        warning = None
        if self.geometry is not None and schedule.snapshot_due(counters):
            warning = self.geometry.report(self.statistics, cur_nimg=counters.cur_nimg)
        statistics = self.statistics.reduce()  # waits for the device
        tick_end = time.monotonic()
        logger.tick(self._status_fields(tick_end), statistics)
        if warning is not None:
            logger.print(warning)
        reason = self._divergence.check(cur_nimg=counters.cur_nimg)

        # The next tick begins, so that the saved state is that of its start.
        images, snapshot = schedule.images_due(counters), schedule.snapshot_due(counters)
        counters.tick += 1
        counters.tick_start_nimg = counters.cur_nimg
        counters.tick_unreadable = 0
        self._tick_start = tick_end
        if images or snapshot:
            with distributed.main_works_alone():
                self._write_outputs(logger, images=images, snapshot=snapshot, reason=reason)
                distributed.barrier()

        # Callbacks come after the state was saved: they may take long, or fail.
        if snapshot and reason is None:
            path, ended = self.folder / snapshot_name(counters.cur_nimg), counters.tick - 1
            self._call_back(logger, stop, Snapshot(path, counters.cur_nimg, ended, lambda: self.networks.generator_ema))

        # Time spent here counts as maintenance, not as training.
        reset_gpu_peak(self.device)
        self._tick_start = time.monotonic()
        self._maintenance = self._tick_start - tick_end
        if self._pace_from is None:
            self._pace_from = self._tick_start, counters.cur_nimg

    def _report_read_errors(self, logger: RunLogger) -> None:
        """Print how many unreadable items were replaced since the last time, over all processes, and count them."""
        new = self.loader.unreadable - self._reported_errors
        self._reported_errors = self.loader.unreadable
        gathered = distributed.all_gather_objects((new, self.loader.problem))
        total = sum(count for count, _ in gathered)
        self.counters.tick_unreadable += total
        if total:
            problem = next(problem for count, problem in gathered if count)
            logger.print(f"Items of the data that could not be read and were replaced: {total}; one of them: {problem}")

    def _status_fields(self, now: float) -> dict[str, float]:
        """The fields of the status line; see training.monitoring.run_logger.FIELDS."""
        counters, augment = self.counters, self.networks.augment
        seconds, shown = now - self._tick_start, counters.cur_nimg - counters.tick_start_nimg
        rates = counters.tick > 0
        return {
            "tick": counters.tick,
            "kimg": counters.cur_nimg / 1000,
            "time": now - self._start_time,
            "sec/tick": seconds,
            "sec/kimg": seconds / shown * 1000 if rates else math.nan,
            "maintenance": self._maintenance,
            "cpumem": cpu_memory(),
            "gpumem": gpu_memory(self.device),
            "augment": 0.0 if augment is None else float(augment.p),
            "videos/s": shown / seconds if rates else math.nan,
            "left": self._seconds_left(now),
        }

    def _seconds_left(self, now: float) -> float:
        """Seconds to the end at the pace of this process so far, maintenance included; NaN during tick 0."""
        if self._pace_from is None:
            return math.nan
        since, start_nimg = self._pace_from
        shown, missing = self.counters.cur_nimg - start_nimg, self.schedule.total_nimg - self.counters.cur_nimg
        return max(missing, 0) * (now - since) / shown if shown > 0 else math.nan

    # ------------------------------------------------------------------------------------------------------------------
    # Snapshots and the training state

    def _write_outputs(self, logger: RunLogger, *, images: bool, snapshot: bool, reason: str | None) -> None:
        """Write previews, a snapshot and the state, if they are due; most of it on the main process alone.

        Args:
            reason: Why nothing may be saved; None if there is none.
        """
        if images and self.previews is not None:
            logger.previews(self.counters.cur_nimg, self.previews.write(self.counters.cur_nimg // 1000))
        if reason is not None:
            logger.print(f"Not saved, because {reason}. {self._saver.describe_saved()}")
            return
        if snapshot:
            self._saver.save_snapshot()
        self._tick_start = time.monotonic()  # all this is maintenance, in a continued run as well
        self.save_state()

    def _stop(self, logger: RunLogger, *, problem: str) -> None:
        """End in the middle of a tick, so that the continued run gives the same results.

        Args:
            problem: Why this process gets no more data; '' if it does.

        Raises:
            UserError: A process gets no more data, or the training has diverged.
        """
        cur_nimg = self.counters.cur_nimg
        self._report_read_errors(logger)
        problems = [each for each in distributed.all_gather_objects(problem) if each]
        reason = self._divergence.check(cur_nimg=cur_nimg)
        if reason is None and (cur_nimg > 0 or not problems):  # without any data there is nothing to continue
            self._saver.save_snapshot(planned=False)
            self.save_state()
        if problems:
            raise UserError(f"Stopped at {cur_nimg / 1000:g} kimg: {problems[0]}")
        if reason is None:
            logger.print(f"Stopped as asked at {cur_nimg / 1000:g} kimg; continue with resume_run={self.folder}")
        else:
            logger.print(f"Stopped as asked, not saved, because {reason}. {self._saver.describe_saved()}")

    def save_state(self) -> None:
        """Write the training state; to be called on all processes."""
        now = time.monotonic()
        self.counters.seconds = now - self._start_time
        self.counters.tick_seconds = now - self._tick_start
        self._saver.save_state()

    def restore(self, state: Mapping) -> bool:
        """Restore a saved state, except for the position in the data, which the loader was built with.

        Returns:
            True if the random streams were restored; see training.checkpoints.training_state.restore_state.
        """
        return self._saver.restore(state)

    def _call_back_existing(self, logger: RunLogger, stop: StopSignal) -> None:
        """Call the callbacks for the snapshots that exist when the run starts."""
        if self.callbacks:
            until = self.counters.cur_nimg
            found = planned_snapshots(self.folder, until=until) if distributed.is_main() else None
            for path, cur_nimg, tick in distributed.broadcast_object(found):
                if distributed.any_rank(stop.requested):
                    break
                own = type_before_parametrizations(self.networks.generator_ema)  # which may be a user's
                load = functools.partial(load_average_generator, path, device=self.device, generator_class=own)
                self._call_back(logger, stop, Snapshot(path, cur_nimg, tick, load))
            reset_gpu_peak(self.device)
            self._tick_start = time.monotonic() - self.counters.tick_seconds

    def _call_back(self, logger: RunLogger, stop: StopSignal, snapshot: Snapshot) -> None:
        """Call the callbacks for a snapshot, and log the metrics that they return.

        A request to stop interrupts them, unless other processes would wait for this one.
        """
        results: dict[str, float] = {}
        alone = distributed.world_size() == 1
        try:
            for callback in self.callbacks:
                with distributed.patience(), stop.interrupts() if alone else contextlib.nullcontext():
                    results.update(callback(snapshot) or {})
                    distributed.barrier()
        except StopRequested:
            logger.print(
                f"Stopped while {snapshot.path.name} was measured; resume_run={self.folder} measures it again."
            )
        logger.metrics(snapshot.cur_nimg, results)


class DivergenceCheck:
    """Divergence check: only while weights and gradients are finite may older checkpoints be overwritten.

    Half precision gives a non-finite gradient now and then; the guard replaces it, and nothing is lost. When it happens
    step after step, the training has diverged, and once a weight or a running mean is not finite it cannot recover.

    Args:
        tensors: Named weights and running means.
        guard: Counts consecutive steps with non-finite gradients.
        limit: Consecutive steps of a phase with non-finite gradients that end the training.
        folder: The run folder, for messages.
    """

    def __init__(self, *, tensors: Iterable[tuple[str, torch.Tensor]], guard: GradientGuard, limit: int, folder: Path):
        self._tensors = {name: tensor for name, tensor in tensors if tensor.is_floating_point()}
        self._guard = guard
        self._limit = limit
        self._folder = folder

    def check(self, *, cur_nimg: int) -> str | None:
        """The reason not to save the networks as they are now; None if there is none. Waits for the device.

        Raises:
            UserError: The training has diverged.
        """
        streak, longest = self._guard.streak(), self._guard.longest_streak()
        finite = torch.stack([tensor.isfinite().all() for tensor in self._tensors.values()]).tolist()
        nonfinite = [name for name, good in zip(self._tensors, finite) if not good]
        if nonfinite:
            verb = "is" if len(nonfinite) == 1 else "are"
            reason = f"{len(nonfinite)} of its tensors {verb} not finite any more ({', '.join(nonfinite[:3])})"
        elif longest >= self._limit:
            reason = f"{longest} steps of a phase in a row had non-finite gradients (spec.nonfinite_limit)"
        elif streak >= SUSPICIOUS:
            return f"the last {streak} steps of a phase had non-finite gradients"
        else:
            return None
        if (self._folder / STATE_FILE).exists():
            advice = (
                f"The snapshots and the state in {self._folder} are from before that. Continue with resume_run= and "
                "without half precision, if it is in use (precision=float32, on a GPU fp32=true), or start anew from a "
                "snapshot with resume=, with a lower spec.lrate or a higher spec.gamma."
            )
        else:
            advice = "There is no earlier training state. Start anew with a lower spec.lrate or a higher spec.gamma."
        raise UserError(f"Training has broken down at {cur_nimg / 1000:g} kimg: {reason}. {advice}")
