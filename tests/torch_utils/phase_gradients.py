"""Gradients of every phase of a tiny training, for the same samples and draws on any number of processes."""

from pathlib import Path

import torch

from tests.training.tiny import OVERRIDES
from torch_utils import distributed
from torch_utils.rng import RandomStream
from training.launch.setup import build_loop
from training.launch.validate import plan

ITERATIONS = 2


def record(data: str, folder: str, words: list[str]) -> None:
    """Run iterations in which pass k of the whole batch has the videos and draws that belong to k, wherever it runs.

    The optimisers' steps are left out: they would magnify the last bits of gradients to the size of a learning rate.
    Running means continue from phase to phase and into the second iteration. Rank 0 saves the gradients as the
    optimisers would see them, by iteration and phase, and the running means afterwards.

    All processes compute with one thread. The number of threads changes the order of sums, and R1 through the standard
    deviation of a group of two (√(d²/4 + 1e-8) for samples that differ by d) is so ill-conditioned where they nearly
    agree that float32 leaves errors of 1e-6 to 1e-4, as measured against float64; groups of one or four leave 5e-7.
    """
    torch.set_num_threads(1)
    options = plan([f"outdir={folder}", f"data={data}", *OVERRIDES, *words]).options
    loop = build_loop(options, Path(folder), device=torch.device("cpu"), resuming=False)
    rank, processes, micro = distributed.rank(), distributed.world_size(), options["spec"]["microbatch"]
    passes = options["spec"]["mb"] // (processes * micro)
    videos = iter_videos(options, loop)
    seen: dict[str, torch.Tensor] = {}
    numbers: dict[str, int] = {}
    accumulate, clean = loop.loss.accumulate, loop.guard.clean

    def next_batch():
        return [next(videos) for _ in range(passes * processes)][rank * passes : (rank + 1) * passes]

    def accumulate_pass(phase, *, batch, gain, stream):
        number = numbers[phase] = numbers.get(phase, -1) + 1
        whole = number // passes * passes * processes + rank * passes + number % passes
        seed = whole * 4 + ("Gmain", "Greg", "Dmain", "Dreg").index(phase)
        accumulate(phase, batch=batch, gain=gain, stream=RandomStream(seed))

    def clean_and_keep(parameters, phase, *, divisor):
        clean(parameters, phase, divisor=divisor)
        key = f"{loop.counters.iteration} {next(reversed(numbers))} {len(seen)}"
        seen[key] = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).clone()

    loop._next_batch, loop.loss.accumulate, loop.guard.clean = next_batch, accumulate_pass, clean_and_keep
    for phase in loop.phases:
        phase.optimizer.step = lambda: None
    for _ in range(ITERATIONS):
        numbers.clear()
        loop.iterate()
    loop.loader.close()
    if distributed.is_main():
        means = {name: b for name, b in loop.networks.generator.named_buffers() if b.is_floating_point()}
        torch.save({"gradients": seen, "means": {**means, "pl_mean": loop.loss.pl_mean}}, Path(folder) / "gradients.pt")


def iter_videos(options, loop):
    """Micro-batches of the data, the same on all processes."""
    from training.loss import VideoBatch

    generator = torch.Generator().manual_seed(7)
    size, resolution = options["spec"]["microbatch"], options["resolution"]
    while True:
        frames = torch.rand(size, 2, 3, resolution, resolution, generator=generator) * 2 - 1
        yield VideoBatch(frames=frames, dt=torch.rand(size, generator=generator), c=torch.zeros(size, 0))


def relative_error(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm())
