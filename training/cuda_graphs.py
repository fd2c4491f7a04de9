"""CUDA graphs of the training phases: each is recorded once and replayed from then on.

A phase of a small model is thousands of kernels of a few microseconds. Launched one by one from Python they leave the
GPU idle most of the time; a graph launches them all at once. Nothing else changes: the kernels, their order and their
random numbers are those of the phase without a graph.

A graph reads and writes fixed memory, so everything that a phase keeps must be changed in place: weights, moments and
learning rate of the optimiser, running means, statistics. The host's part of a phase runs only once, during recording:
a phase that depends on values on the host, such as the changing probability of aug=ada, cannot be recorded.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dnnlib import UserError
from torch_utils.memory import is_out_of_memory
from torch_utils.rng import RandomStream
from torch_utils.training_stats import Statistics
from training.loss import VideoBatch
from training.phases import Phase

__all__ = ["PhaseGraphs"]

WARM_UP = 2  # runs of a phase before it is recorded: libraries choose algorithms, the optimiser creates its moments


@dataclass(frozen=True)
class _Recorded:
    """A recorded phase, the batches that it reads, and the names of the statistics that it reports."""

    graph: torch.cuda.CUDAGraph
    batches: Sequence[VideoBatch]
    reports: frozenset[str]


class PhaseGraphs:
    """Training phases of one process on one GPU, run as CUDA graphs.

    Args:
        stream: Source of the phases' random numbers; replays advance it as the phases themselves would.
        statistics: Receives the phases' reports.
        device: The networks' device.
    """

    def __init__(self, *, stream: RandomStream, statistics: Statistics, device: torch.device):
        self._stream, self._statistics, self._device = stream, statistics, device
        # Recording needs a stream other than the default one.
        self._side = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()  # shared: no two phases run at once
        self._runs: Counter[str] = Counter()
        self._recorded: dict[str, _Recorded] = {}

    def run(self, phase: Phase, batches: Sequence[VideoBatch], step: Callable[[Sequence[VideoBatch]], None]) -> None:
        """Run `step`, a whole phase, with these batches; their shapes must be the same at every call.

        Raises:
            UserError: The phase cannot be recorded.
        """
        recorded = self._recorded.get(phase.name)
        if recorded is None and self._runs[phase.name] < WARM_UP:
            self._runs[phase.name] += 1
            self._warm_up(batches, step)
            return
        if recorded is None:
            recorded = self._recorded[phase.name] = self._record(phase, batches, step)
        for own, new in zip(recorded.batches, batches, strict=True):
            own.copy_(new)
        recorded.graph.replay()
        self._statistics.mark(recorded.reports)

    def _warm_up(self, batches: Sequence[VideoBatch], step: Callable[[Sequence[VideoBatch]], None]) -> None:
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            step(batches)
        torch.cuda.current_stream().wait_stream(self._side)

    def _record(
        self, phase: Phase, batches: Sequence[VideoBatch], step: Callable[[Sequence[VideoBatch]], None]
    ) -> _Recorded:
        """Record a phase. Nothing is computed: the first replay does that."""
        own = [batch.clone() for batch in batches]
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._stream.generator)
        groups = phase.optimizer.param_groups
        # The learning rate changes: a Python number would be recorded with its present value.
        for group in groups:
            group["lr"] = torch.as_tensor(group["lr"], device=self._device)
        try:
            # Recorded optimisers must be marked; their step counts are on the device anyway (fused=True).
            for group in groups:
                group["capturable"] = True
            # thread_local: the data loader's thread may allocate pinned memory at the same time.
            with (
                self._statistics.watch() as reports,
                torch.cuda.graph(graph, pool=self._pool, stream=self._side, capture_error_mode="thread_local"),
            ):
                step(own)
        except RuntimeError as error:
            if is_out_of_memory(error):  # the command gives its own advice
                raise
            raise UserError(
                f"cuda_graphs=true: the phase {phase.name} cannot be recorded ({str(error).splitlines()[0]}). Continue "
                "with resume_run= and cuda_graphs=false."
            ) from error
        finally:
            for group in groups:
                group["capturable"] = False
        return _Recorded(graph, own, frozenset(reports))
