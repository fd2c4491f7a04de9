"""One process of a training run: build everything from the options, find where to start, run the loop."""

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torch_utils import custom_ops, distributed
from torch_utils.memory import explain_out_of_memory, keep_freed_memory, return_freed_memory
from torch_utils.rng import RandomStream
from torch_utils.training_stats import Statistics
from training.checkpoints.growing import generator_states, grown_state, grows
from training.checkpoints.network_state import load_state
from training.checkpoints.saver import Networks
from training.checkpoints.snapshot import load_snapshot
from training.checkpoints.training_state import read_state
from training.cuda_graphs import PhaseGraphs
from training.data.loader import PairDataset, build_dataset, build_loader
from training.ema import GeneratorEMA, complete_ema
from training.launch.build import build_ada, build_augment, build_loss, build_networks, build_phases, build_schedule
from training.launch.run_dir import lock_run_folder, remove_unfinished
from training.launch.validate import write_options
from training.monitoring.geometry_monitor import CONTENTS, GeometryMonitor
from training.monitoring.previews import REALS, Previews
from training.monitoring.run_logger import LogFile
from training.networks.discriminator import TimeAwareDiscriminators
from training.networks.generator import Generator
from training.phases import GradientGuard
from training.schedule import Counters
from training.training_loop import SnapshotCallback, TrainingLoop

__all__ = ["build_loop", "train"]


def train(
    options: Mapping[str, Any],
    folder: Path,
    *,
    device_type: str,
    resuming: bool,
    dataset: "PairDataset | None" = None,
    notes: Sequence[str] = (),
    make_callbacks: Callable[[Mapping[str, Any], Path], Sequence[SnapshotCallback]] | None = None,
) -> int | None:
    """Train in an existing run folder, as one process of the group of `torch_utils.distributed`.

    Args:
        options: Checked options (training.launch.validate).
        folder: The run folder.
        device_type: 'cpu' or 'cuda'.
        resuming: Continue from the folder's training state, if there is one.
        dataset: The data of these options, if this process has opened them already.
        notes: Lines that were printed already and belong in the log.
        make_callbacks: Called with options and folder; returns the callbacks to run after snapshots.

    Returns:
        See TrainingLoop.run.

    Raises:
        UserError: See TrainingLoop.run.
    """
    device = _prepare_device(options, device_type)
    with contextlib.ExitStack() as stack:
        if distributed.is_main():
            stack.enter_context(lock_run_folder(folder))
            remove_unfinished(folder)
            log = stack.enter_context(LogFile(folder / "log.txt"))
            for line in [*notes, f"{'Continuing' if resuming else 'Run folder'}: {folder}"]:
                log.note(line)
            if resuming:
                write_options(folder, options)  # they may have changed
        spec = options["spec"]
        advice = (
            f"A pass takes spec.microbatch={spec['microbatch']} videos: lower it, here or with resume_run=, and in a "
            f"new run spec.mbstd={spec['mbstd']} too, which is the smallest pass; or use more gpus=. If memory is full "
            "only when previews are made, lower previews.images and previews.videos; if metrics fill it, leave them to "
            "python -m metrics --batch-size."
        )
        stack.enter_context(explain_out_of_memory(advice))
        custom_ops.build_missing(device.type, print if distributed.is_main() else lambda line: None)
        callbacks = make_callbacks(options, folder) if make_callbacks is not None else ()
        loop = build_loop(options, folder, device=device, resuming=resuming, dataset=dataset, callbacks=callbacks)
        stack.callback(loop.loader.close)
        return loop.run()


def build_loop(
    options: Mapping[str, Any],
    folder: Path,
    *,
    device: torch.device,
    resuming: bool,
    dataset: "PairDataset | None" = None,
    callbacks: Sequence[SnapshotCallback] = (),
) -> TrainingLoop:
    """The training loop with everything it needs, at the position to start from; for the arguments see `train`."""
    if dataset is None:
        dataset = build_dataset(options)
    generator, discriminator = build_networks(options, c_dim=dataset.c_dim)
    generator_ema = copy.deepcopy(generator).eval().requires_grad_(False)
    trained = {"generator": generator, "generator_ema": generator_ema, "discriminator": discriminator}
    state = read_state(folder) if resuming else None
    ramps_up = True
    if state is not None:  # the weights come with it
        complete_ema(state["shared"], resume=options["resume"])
    elif options["resume"] is not None:
        ramps_up = start_from(options["resume"], **trained)
    augment = build_augment(options)
    networks = Networks(**trained, augment=augment)
    _move(networks, device)

    statistics = Statistics()
    ada = build_ada(options, augment=augment, statistics=statistics, device=device)
    loss = build_loss(
        options,
        generator=generator,
        discriminator=discriminator,
        augment=augment,
        statistics=statistics if ada is None else ada,
    )
    counters = Counters()
    if state is not None:
        counters.load_state_dict(state["shared"]["counters"])
    stream = RandomStream(stream_seed(options["seed"], distributed.rank(), counters.cur_nimg), device)
    loop = TrainingLoop(
        networks=networks,
        phases=build_phases(options, generator=generator, discriminator=discriminator),
        loss=loss,
        ada=ada,
        ema=GeneratorEMA(
            source=generator,
            average=generator_ema,
            half_life_kimg=options["spec"]["ema"],
            ramp=options["spec"]["ramp"],
            ramps_up=ramps_up,
        ),
        guard=GradientGuard(device=device, statistics=statistics),
        loader=build_loader(
            options,
            dataset=dataset,
            position=counters.cur_nimg,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            pin_memory=device.type == "cuda",
        ),
        stream=stream,
        statistics=statistics,
        schedule=build_schedule(options),
        counters=counters,
        folder=folder,
        dataset=dataset.describe(),
        fingerprint=dataset.fingerprint() if distributed.is_main() else {},
        device=device,
        graphs=_phase_graphs(options, stream, statistics, device),
        previews=_previews(options, folder, dataset, generator_ema, device),
        geometry=_geometry_monitor(dataset, generator_ema, device),
        callbacks=callbacks,
        trackers=options["logger"],
        options=options,
    )
    if state is not None and not loop.restore(state) and distributed.is_main():
        print(
            f"The run was interrupted with {len(state['processes'])} processes and goes on with "
            f"{distributed.world_size()} on '{device.type}': its random streams start afresh."
        )
    for module in trained.values():
        distributed.broadcast_module(module)
    return loop


def start_from(
    path: str,
    *,
    generator: Generator,
    generator_ema: Generator,
    discriminator: TimeAwareDiscriminators,
) -> bool:
    """Copy the weights of a snapshot (a file or a run folder) into networks; those of a lower resolution grow.

    Returns:
        True if the moving average ramps up: growing has lost blocks of the upsampler, whose image is learnt anew.

    Raises:
        UserError: No usable snapshot, or it does not fit; names the tensors.
    """
    content = load_snapshot(path)
    larger, lost = grows(content, generator.resolution), False
    weights, average = generator_states(content, generator)
    for module, state, what in (
        (generator, weights, "the generator"),
        (generator_ema, average, "the generator"),
        (discriminator, content["discriminator"]["state"], "the discriminators"),
    ):
        if larger:
            grown = grown_state(module, state, what=what, source=path)
            state, lost = grown.state, lost or grown.lost
        load_state(module, state, what=what, source=path)
    return lost


def stream_seed(*key: int) -> int:
    """One seed from several numbers; similar keys give unrelated seeds."""
    return int(np.random.SeedSequence([part % 2**64 for part in key]).generate_state(1, np.uint64)[0] >> 1)


def _prepare_device(options: Mapping[str, Any], device_type: str) -> torch.device:
    if device_type == "cpu":
        if options["activation_checkpointing"]:
            return_freed_memory()  # memory matters more than time here
        else:
            keep_freed_memory()
        return torch.device("cpu")
    device = torch.device("cuda", distributed.local_rank())
    torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = not options["nobench"]
    torch.backends.cudnn.allow_tf32 = options["allow_tf32"]
    torch.backends.cuda.matmul.allow_tf32 = options["allow_tf32"]
    return device


def _move(networks: Networks, device: torch.device) -> None:
    """Move the networks to the device; the probability of the augmentation stays."""
    augment = networks.augment
    probability = None if augment is None else augment.p
    for module in (networks.generator, networks.generator_ema, networks.discriminator, augment):
        if module is not None:
            module.to(device)
    if augment is not None:
        augment.p = probability  # read on the host at every pass: it stays there


def _phase_graphs(
    options: Mapping[str, Any], stream: RandomStream, statistics: Statistics, device: torch.device
) -> PhaseGraphs | None:
    if not options["cuda_graphs"] or device.type != "cuda":
        return None
    return PhaseGraphs(stream=stream, statistics=statistics, device=device)


def _geometry_monitor(dataset: PairDataset, generator: Generator, device: torch.device) -> GeometryMonitor | None:
    if not distributed.is_main():
        return None
    labels = None
    if generator.c_dim > 0:
        labels = dataset.example_labels(CONTENTS, seed=0)
    return GeometryMonitor(generator, device=device, c=labels)


def _previews(
    options: Mapping[str, Any],
    folder: Path,
    dataset: PairDataset,
    generator: Generator,
    device: torch.device,
) -> Previews | None:
    if options["imgsnap"] is None or not distributed.is_main():
        return None
    previews = Previews(
        folder=folder,
        dataset=dataset,
        generator=generator,
        images=options["previews"]["images"],
        columns=options["previews"]["columns"],
        videos=options["previews"]["videos"],
        seed=stream_seed(options["seed"]) % 2**32,
        device=device,
    )
    if not (folder / REALS).exists():
        previews.write_reals()
    return previews
