"""Devices of a training: which and how many, and how they share a batch."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch

from dnnlib import UserError
from dnnlib.processes import cores
from torch_utils import distributed
from training.launch.idle_options import Devices, check_cuda_graphs, idle_notes, slow_precision_note

__all__ = ["device_type_of", "share_devices"]


def device_type_of(options: Mapping[str, Any]) -> str:
    """'cpu' or 'cuda': as given, or a GPU if there is one."""
    if options["device"] is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if options["device"] == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: PyTorch finds no CUDA device here; use device=cpu.")
    return options["device"]


def share_devices(
    options: dict[str, Any], device_type: str, *, several: bool, given: Collection[str], continued: bool
) -> tuple[int, list[str]]:
    """The number of processes, and notes on options that have no effect or change with it.

    Sets spec.microbatch, and gpus on a CPU.

    Raises:
        UserError: The batch cannot be shared, or there are no CUDA graphs on these devices.
    """
    processes = _processes(options, _available(device_type, several=several))
    devices = Devices(device_type, processes)
    check_cuda_graphs(options, devices)
    notes = _share_batch(options, processes, given=given, continued=continued)
    notes += idle_notes(given, options, devices) + slow_precision_note(options, device_type)
    if device_type == "cpu":
        options["gpus"] = processes
    return processes, notes


def _available(device_type: str, *, several: bool) -> int:
    """Number of devices of this machine; on a CPU, the number of processes that it can run."""
    if device_type == "cuda":
        return torch.cuda.device_count()
    return cores() if several else 1


def _processes(options: Mapping[str, Any], available: int) -> int:
    """Number of training processes, one per device: as many as are wanted, available and able to share the batch."""
    wanted, batch, group = options["gpus"], options["spec"]["mb"], options["spec"]["mbstd"]
    started = distributed.torchrun_world_size()
    if started is not None:  # torchrun has decided
        wanted = available = started
    fitting = [n for n in range(1, min(wanted, available) + 1) if batch % (n * group) == 0]
    if not fitting or (fitting[-1] < wanted <= available):
        count = min(wanted, available)
        raise UserError(
            f"spec.mb={batch} is not a multiple of gpus × spec.mbstd = {count} × {group}; change one of them "
            f"(spec.mbstd is the group size of the minibatch standard deviation; a pass must hold whole groups)."
        )
    return fitting[-1]


def _share_batch(options: Mapping[str, Any], processes: int, *, given: Collection[str], continued: bool) -> list[str]:
    """Set spec.microbatch to the videos per pass with this many processes.

    Returns notes on values that change: given ones, and those of a run that is continued.

    Raises:
        UserError: A pass cannot hold whole groups of the minibatch standard deviation.
    """
    spec, notes = options["spec"], []
    limit, spec["microbatch"] = spec["microbatch"], _microbatch(spec, processes)
    if limit != spec["microbatch"] and ("spec.microbatch" in given or continued):
        notes.append(_other_microbatch(spec, limit, processes))
        if continued and limit > spec["microbatch"]:  # the run's options will have the smaller number
            notes[-1] += f" Later, with fewer processes, spec.microbatch={limit} restores it."
    _check_groups(options)
    if processes < options["gpus"]:
        notes.append(_fewer_devices(options, processes))
    if processes > options["gpus"] and {"gpus", "spec.ref_gpus"} & {*given}:
        notes.append(f"gpus={options['gpus']} has no effect: {processes} processes have been started.")
    return notes


def _microbatch(spec: Mapping[str, Any], processes: int) -> int:
    """Videos per pass: the most groups (at least one) within spec.microbatch that divide a process's share."""
    groups = spec["mb"] // processes // spec["mbstd"]  # of a process's share
    low = [n for n in range(1, math.isqrt(groups) + 1) if groups % n == 0]
    divisors = [*low, *(groups // n for n in low)]
    return spec["mbstd"] * max(n for n in divisors if n <= max(spec["microbatch"] // spec["mbstd"], 1))


def _other_microbatch(spec: Mapping[str, Any], limit: int, processes: int) -> str:
    return (
        f"spec.microbatch={limit}: a pass takes {spec['microbatch']} videos, whole groups of "
        f"spec.mbstd={spec['mbstd']} that divide a process's share of {spec['mb'] // processes}."
    )


def _check_groups(options: Mapping[str, Any]) -> None:
    """A pass must hold whole groups of the minibatch standard deviation, both of its videos and of their frames."""
    group, videos = options["model"]["discriminator"].get("mbstd_group"), options["spec"]["microbatch"]
    if type(group) is int and any(count % min(group, count) for count in (videos, 2 * videos)):
        raise UserError(
            f"model.discriminator.mbstd_group={group} does not divide a pass of {videos} videos; leave it out (it is "
            "spec.mbstd then), or choose a divisor."
        )


def _fewer_devices(options: Mapping[str, Any], processes: int) -> str:
    batch = options["spec"]["mb"]
    passes = batch // (processes * options["spec"]["microbatch"])
    stays = f"Gradients are accumulated over {passes} passes; the" if passes > 1 else "The"
    return (
        f"gpus={options['gpus']}, but {processes} will be used: that many are available and can share the batch. "
        f"{stays} batch stays {batch} videos."
    )
