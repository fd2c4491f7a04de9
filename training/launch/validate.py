"""Validation of a training's options, before anything is written or takes long.

`plan` checks every option against the machine, the data and the checkpoints, and either returns what is going to happen
or raises a UserError that names the option, what is wrong with it and what to do.
"""

import dataclasses
import math
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from dnnlib import UserError, atomic_write, choices_hint, expand_home, format_bytes, is_number
from dnnlib.processes import cores
from renderer.cameras import SMALL_FOV, CameraPrior
from torch_utils import distributed
from training.augment.diffaugment import parse_policy
from training.checkpoints.training_state import ANEW
from training.data.dataset_folders import keep_apart
from training.data.loader import PairDataset, build_dataset, check_shards
from training.data.names import RUN_OPTIONS
from training.data.webdataset import ShardPairDataset
from training.data.webdataset_files import is_shards
from training.launch.build import (
    ada_kimg,
    build_augment,
    build_networks,
    build_schedule,
    check_arguments,
    synthesis_note,
)
from training.launch.config import GROUPS, NETWORKS, SECTIONS, compose_options, continued_options, given_options
from training.launch.idle_options import (
    Devices,
    check_cuda_graphs,
    check_freezing,
    check_precision,
    idle_notes,
    other_folder_note,
    slow_precision_note,
)
from training.launch.option_rules import check_values, other_options
from training.launch.run_dir import find_run_folder, slug
from training.networks.density import DensityRamp
from training.networks.discriminator import TimeAwareDiscriminators
from training.networks.generator import Generator
from training.networks.model_summary import checkpoint_bytes

if TYPE_CHECKING:
    from training.launch.default_data import SyntheticHeads

__all__ = ["Plan", "check_writable", "dump_options", "plan", "write_options"]

TRIAL = 1  # kimg; shorter runs only try whether everything works
WEAK_P = 0.2  # probability of augmentation below which it hardly does anything


@dataclasses.dataclass(frozen=True)
class Plan:
    """Checked plan of a training command."""

    options: dict[str, Any]  # checked and complete
    device_type: str  # 'cpu' or 'cuda'
    processes: int
    run_folder: Path | None  # folder of the run to continue; None for a new run
    description: str  # name of a new run's folder, after its number
    dataset: "PairDataset | SyntheticHeads"
    generator: Generator  # on the meta device: sizes only
    discriminator: TimeAwareDiscriminators  # on the meta device
    notes: list[str]  # what the user should know
    inspected: Any  # the result of `inspect`


def plan(
    overrides: Sequence[str],
    *,
    metrics: Collection[str] = (),
    inspect: Callable[[Mapping[str, Any]], Any] | None = None,
    label: str = "",
    checkpoint: bool = True,
) -> Plan:
    """Check a command line.

    Args:
        overrides: The command's overrides, `key=value`.
        metrics: Names that the option `metrics` may hold.
        inspect: Called with the checked options before data are synthesised for them (`data` is None then); raises
            whatever else is wrong with them. Its result becomes `Plan.inspected`.
        label: End of a new run's description.
        checkpoint: Check the snapshot or the training state that the training begins from.

    Raises:
        UserError: Something in it is wrong.
    """
    options, run_folder, given_outdir = _read(overrides)
    given, continued = given_options(overrides), run_folder is not None
    device_type = _check_options(options, metrics, continued=continued)
    # A CPU is one device unless more processes are asked for; a continued run keeps their number.
    several = continued or any(override.startswith("gpus=") for override in overrides)
    processes, notes = _share_devices(options, device_type, several=several, given=given, continued=continued)
    if run_folder is not None and "outdir" in given:
        notes += other_folder_note(given_outdir, run_folder)

    synthetic = options["data"] is None
    dataset = _planned_heads(options) if synthetic else build_dataset(options)
    keep_apart(run_folder or options["outdir"], option="outdir=", data=[dataset.path if synthetic else options["data"]])
    check_shards(dataset, processes)
    notes += dataset.notes
    generator, discriminator = build_networks(options, c_dim=dataset.c_dim, device="meta")
    check_arguments({"generator": generator, "discriminator": discriminator}, given)
    _check_camera_labels(options, generator)
    notes += _model_notes(options, generator, dataset, given=given, continued=continued)
    notes += _size_notes(options, dataset, processes)
    notes += synthesis_note(generator)
    if checkpoint and run_folder is not None:
        from training.launch.checkpoint_rules import check_run_state

        notes += check_run_state(run_folder, dataset, generator, discriminator)
    elif checkpoint and options["resume"] is not None:
        from training.launch.checkpoint_rules import check_snapshot

        notes += check_snapshot(options, generator, discriminator, given=given)
    _check_outdir(run_folder or Path(options["outdir"]), generator, discriminator)
    if options["metrics"] and options["cache_metrics_dir"] is not None:
        check_writable(Path(options["cache_metrics_dir"]), option="cache_metrics_dir=")
    inspected = None if inspect is None else inspect(options)
    if synthetic:  # last: it takes minutes, and errors in the options come first
        dataset = _synthesize_dataset(options, dataset, notes)
    return Plan(
        options=options,
        device_type=device_type,
        processes=processes,
        run_folder=run_folder,
        description="-".join(filter(None, [_description(options, dataset), label])),
        dataset=dataset,
        generator=generator,
        discriminator=discriminator,
        notes=notes,
        inspected=inspected,
    )


def dump_options(options: Mapping[str, Any]) -> str:
    """Options as YAML."""
    return yaml.safe_dump(dict(options), sort_keys=False, allow_unicode=True)


def write_options(folder: Path, options: Mapping[str, Any]) -> None:
    """Write the options of a run into its folder, which this process has made or owns."""
    with atomic_write(folder / RUN_OPTIONS, "w") as file:
        file.write(dump_options(options))


# ----------------------------------------------------------------------------------------------------------------------
# Reading


def _read(overrides: Sequence[str]) -> tuple[dict[str, Any], Path | None, str | None]:
    """The options, the folder of the run to continue, and outdir= as given."""
    options = compose_options(overrides)
    for key in ("outdir", "data", "resume", "resume_run", "cache_metrics_dir"):
        if options[key] is not None:
            options[key] = expand_home(str(options[key]), name=f"{key}=") or None
    if options["resume_run"] is None:
        if options["outdir"] is None:
            raise UserError("outdir= is missing; write outdir=OUT data=DATASET.")
        return options, None, options["outdir"]
    if options["resume"] is not None:
        raise UserError("resume= starts a new run and resume_run= continues an old one: give only one of them.")
    folder = find_run_folder(options["outdir"], options["resume_run"])
    if not (folder / RUN_OPTIONS).exists() and any(folder.glob(f"*/{RUN_OPTIONS}")):
        raise UserError(
            f"resume_run={folder} is a folder of runs: give one of them, or outdir={folder} and its number."
        )
    try:
        stored = yaml.safe_load((folder / RUN_OPTIONS).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"Cannot continue the run in {folder}: its {RUN_OPTIONS} cannot be read; {ANEW}") from error
    if not _are_options(stored):
        raise UserError(f"Cannot continue the run in {folder}: its {RUN_OPTIONS} is damaged or incomplete; {ANEW}")
    given = continued_options(stored, overrides)
    missing, unknown = other_options(given)
    if missing or unknown:
        what = f"it has {unknown[0]}, which this version does not know" if unknown else f"it lacks {missing[0]}"
        raise UserError(
            f"Cannot continue the run in {folder}: it was begun by another version of this program ({what}). Continue "
            f"it with that version, or {ANEW}"
        )
    for key in ("outdir", "data", "cache_metrics_dir"):
        if given[key] is not None:
            given[key] = expand_home(str(given[key]), name=f"{key}=")
    given["outdir"] = str(folder.parent)
    data = given["data"]
    if data is not None and data == stored.get("data") and not is_shards(data) and not os.path.exists(data):
        raise UserError(
            f"Cannot continue the run in {folder}: its data are no longer at {data}; data=PATH says where they are."
        )
    return given, folder, options["outdir"]


def _are_options(stored: Any) -> bool:
    """True for the content of a complete file of options, whose last entry is `names`."""
    if not isinstance(stored, Mapping) or not all(isinstance(stored.get(key), Mapping) for key in (*GROUPS, "names")):
        return False
    networks = [stored["model"].get(name) for name in NETWORKS]
    return (
        all(isinstance(stored["names"].get(group), str) for group in GROUPS)
        and all(isinstance(stored.get(section, {}), Mapping) for section in SECTIONS)
        and all(isinstance(network, Mapping) and isinstance(network.get("_target_"), str) for network in networks)
    )


def _check_options(options: dict[str, Any], metrics: Collection[str], *, continued: bool) -> str:
    """Check what needs neither data nor networks, and remove repeated metrics and loggers.

    Returns the type of the devices.
    """
    check_values(options)
    _check_combinations(options, metrics)
    build_augment(options)
    device_type = _device_type(options)
    check_precision(options, device_type)
    if not continued:  # a continued run cannot change them
        check_freezing(options)
    options["metrics"] = list(dict.fromkeys(options["metrics"] or []))
    options["logger"] = list(dict.fromkeys(map(str, options["logger"] or [])))
    _check_loggers(options["logger"])
    return device_type


def _check_combinations(options: Mapping[str, Any], metrics: Collection[str]) -> None:
    aug = options["aug"]
    for name in options["metrics"] or []:
        if name not in metrics:
            everything = "python -m metrics --list shows all; metrics=[] computes none."
            hint = choices_hint(str(name), metrics, everything=everything) if metrics else "metrics=[] computes none."
            raise UserError(f"metrics: there is no metric '{name}' here; {hint}")
    if aug == "noaug":
        for key in ("p", "augpipe"):
            if options[key] is not None:
                raise UserError(f"{key}= needs aug=ada or aug=fixed.")
    if aug == "fixed" and options["p"] is None:
        raise UserError("aug=fixed needs p=, the probability of the augmentations.")
    if aug != "ada" and options["target"] is not None:
        raise UserError("target= needs aug=ada.")
    try:
        parse_policy(options["diffaugment"] or "")
    except ValueError as error:
        raise UserError(f"diffaugment={options['diffaugment']}: {error}") from error
    resolution = options["resolution"]
    if resolution & (resolution - 1):
        below = 1 << (resolution.bit_length() - 1)
        raise UserError(f"resolution={resolution} is not a power of two; use {below} or {2 * below}.")


def _check_loggers(names: Collection[str]) -> None:
    """Refuse trackers that are unknown or not installed; only tensorboard is always there."""
    if distributed.environment_rank() == 0 and {*names} - {"tensorboard"}:
        from training.monitoring.trackers import check_trackers

        check_trackers(names)


def _camera_prior(generator: torch.nn.Module) -> Any | None:
    """The prior of the generator's cameras; None if it lacks what this program's has, in a class of the user's own."""
    prior = getattr(generator, "camera_prior", None)
    ranges = [getattr(prior, name, None) for name in ("yaw", "pitch", "radius")]
    pairs = all(isinstance(values, tuple) and len(values) == 2 and all(map(is_number, values)) for values in ranges)
    return prior if pairs and is_number(getattr(prior, "fov", None)) and hasattr(prior, "distribution") else None


def _check_camera_labels(options: Mapping[str, Any], generator: torch.nn.Module) -> None:
    """Refuse camera_condition with a prior of the user's own that lacks the ranges, the units of its labels."""
    prior = getattr(generator, "camera_prior", None)
    lacks = prior is not None and any(getattr(prior, name, None) is None for name in ("yaw", "pitch"))
    if options["camera_condition"] and lacks:
        raise UserError(
            "camera_condition=true gives the discriminators angles in units of the ranges of yaw and pitch, which the "
            "camera_prior of model.generator lacks; add them, or leave camera_condition= out."
        )


def _model_notes(
    options: Mapping[str, Any],
    generator: torch.nn.Module,
    dataset: "PairDataset | SyntheticHeads",
    *,
    given: Collection[str],
    continued: bool,
) -> list[str]:
    """Notes on the schedule and on the generator's rays and cameras; a continued run cannot change all of them."""
    notes = _replaced_notes(options)
    if not continued:
        notes += _length_notes(options, generator, given)
    notes += _depth_notes(generator)
    if not continued:
        notes += _prior_notes(generator, options)
    if options["data"] is not None:
        notes += _camera_notes(generator, dataset)
    else:
        notes += _synthetic_camera_note(generator)
    return notes


def _samples_otherwise(prior: Any) -> bool:
    """True for a prior of the user's own, whose cameras its ranges do not describe."""
    return getattr(type(prior), "sample", None) is not CameraPrior.sample


def _prior_notes(generator: torch.nn.Module, options: Mapping[str, Any]) -> list[str]:
    """Warnings on cameras in other units or another convention, and on mirrored views that they do not have."""
    prior, notes = _camera_prior(generator), []
    if prior is None:
        return []
    if prior.fov < SMALL_FOV:
        notes.append(f"model.generator.camera.fov={prior.fov:g} is tiny: it is in degrees, other angles in radians.")
    (low, high), (lowest, highest) = prior.yaw, prior.pitch
    if -math.pi / 2 - 1e-3 < lowest < -1e-3 and highest < math.pi / 2 + 1e-3:  # as elevations are
        notes.append(
            f"model.generator.camera.pitch=[{lowest:g},{highest:g}] reaches below 0: pitch is 0 from above and "
            "π/2 on the horizon, so give π/2 − elevation."
        )
    if options["mirror"] and not options["camera_condition"] and not _samples_otherwise(prior):
        from training.data.camera_statistics import TOLERATED, mirrored_outside

        if (share := mirrored_outside(prior.yaw, prior.distribution)) > TOLERATED:
            notes.append(
                f"mirror=true: {share:.0%} of the mirrored views lie outside of what model.generator.camera.yaw="
                f"[{low:g},{high:g}] samples; give a range around 0, or leave mirror= out."
            )
    return notes


def _camera_notes(generator: torch.nn.Module, dataset: PairDataset) -> list[str]:
    """A warning if the generator does not sample cameras like those of the data, or these look wrong."""
    prior, angles = _camera_prior(generator), dataset.cameras()
    if prior is None or angles is None or _samples_otherwise(prior):
        return []
    from training.data.camera_statistics import outside_prior  # rarely needed: few datasets have cameras

    note = outside_prior(
        angles, yaw=prior.yaw, pitch=prior.pitch, distribution=prior.distribution, mirror=dataset.mirror
    )
    return [] if note is None else [note]


def _synthetic_camera_note(generator: torch.nn.Module) -> list[str]:
    """A note if synthetic heads, whose cameras are those of the options, get others from a prior of the user's own."""
    prior = _camera_prior(generator)
    if prior is None or not _samples_otherwise(prior):
        return []
    return [
        "No data= was given: the cameras of synthetic heads are sampled from the ranges of model.generator.camera, not "
        f"by {type(prior).__name__} as those of the generator."
    ]


def _length_notes(options: Mapping[str, Any], generator: torch.nn.Module, given: Collection[str]) -> list[str]:
    """Notes on a new run that ends before its density ramp does, or before adaptive augmentation has an effect."""
    kimg, new, notes = options["kimg"], options["resume"] is None, []
    if kimg < TRIAL:
        return []
    ramp = getattr(getattr(generator, "foreground", None), "density_ramp", None)  # a user's own class may have none
    if isinstance(ramp, DensityRamp) and new and ramp.factor > 1 and kimg < ramp.end:
        option = "model.generator.foreground.density_ramp"
        if kimg > ramp.start or not any(name.startswith(option) for name in given):  # else it has no effect, see there
            notes.append(
                f"kimg={kimg:g}: the density ramp ends at {ramp.end:g} kimg, so this run ends at a factor of "
                f"{ramp(kimg):.3g} of {ramp.factor:g}, in fog; give a {option} with end below kimg."
            )
    most = (options["p"] or 0) + kimg / ada_kimg(options)
    if options["aug"] == "ada" and most < WEAK_P:
        notes.append(
            f"aug=ada: p reaches at most {most:.2g} in this run; begin with p={WEAK_P}, or use aug=fixed p={WEAK_P}."
        )
    return notes


def _replaced_notes(options: Mapping[str, Any]) -> list[str]:
    """Notes on snapshots and previews of a run of some kimg that are due more often than their file names change."""
    schedule, notes = build_schedule(options), []
    for key, what in (("snap", "snapshots"), ("imgsnap", "previews")):
        regular = schedule.tick_ends(options[key])
        every = regular.step / 1000
        if every >= 1 and len(regular) > 1 and regular[-1] // 1000 == schedule.end // 1000:
            last = regular[-1] / 1000
            notes.append(
                f"kimg={options['kimg']:g}: {what} at the end replace those of {last:g} kimg ({key}={options[key]}), "
                f"as they are named by whole kimg; kimg={math.floor(last) + 1} keeps both."
            )
        if regular and every < 1 and schedule.end >= 1000:
            enough = math.ceil(1000 * options[key] / regular.step)
            notes.append(
                f"{key}={options[key]}: {what} are due every {every:g} kimg, but are named by whole kimg, and later "
                f"ones replace earlier ones of the same name; {key}={enough} keeps all."
            )
    return notes


def _depth_notes(generator: torch.nn.Module) -> list[str]:
    """A warning if cameras look at a point, the origin, that lies outside the depths in which rays are sampled."""
    prior, settings = _camera_prior(generator), getattr(generator, "settings", None)
    near, far = (getattr(settings, name, None) for name in ("near", "far"))
    if prior is None or not (is_number(near) and is_number(far)):
        return []
    low, high = prior.radius
    if near < low and high < far:
        return []
    return [
        f"model.generator.camera.radius=[{low:g},{high:g}]: rays are sampled from model.generator.rendering.near="
        f"{near:g} to far={far:g}, which leaves out the origin, where cameras look and a density prior lies."
    ]


def _size_notes(options: Mapping[str, Any], dataset: "PairDataset | SyntheticHeads", processes: int) -> list[str]:
    """Notes on options that have no effect with data of this size, and on videos that are left out."""
    notes = []
    if dataset.num_short_videos:
        notes.append(f"{dataset.num_short_videos} videos are shorter than nframes={options['nframes']} and left out.")
    if options["nframes"] == 1 and options["frame_stride"] > 1:
        stride = options["frame_stride"]
        notes.append(f"nframes=1 with frame_stride={stride} keeps one image in {stride} of a folder; use 1 for all.")
    if options["nframes"] == 2:
        notes.append(
            "nframes=2: the time between the frames of a real pair is 0 or 1, by which the discriminator can tell it "
            "from generated ones; longer clips (nframes=16) avoid this."
        )
    if (options["subset"] or 0) > dataset.num_clips:
        notes.append(f"subset={options['subset']} has no effect: there are {dataset.num_clips} clips.")
    if isinstance(dataset, ShardPairDataset) and (options["workers"] or 0) > (most := dataset.num_shards // processes):
        notes.append(f"workers={options['workers']}: {most} are used, one for each shard of a process.")
    return notes


def _planned_heads(options: Mapping[str, Any]) -> "SyntheticHeads":
    from training.launch.default_data import SyntheticHeads  # rarely needed: synthetic data are many modules

    return SyntheticHeads(options)


def _synthesize_dataset(
    options: dict[str, Any], heads: "SyntheticHeads", notes: list[str]
) -> "PairDataset | SyntheticHeads":
    """The synthetic heads of a training without data=, rendered if they are missing; a dry run only plans them."""
    options["data"] = str(heads.path)
    if not heads.path.exists():
        if options["dry_run"]:
            notes.append(f"No data= was given: a training begins with {heads.announcement()}.")
            return heads
        if distributed.environment_rank() == 0:
            print(f"No data= was given: {heads.announcement()}.", flush=True)
    heads.make()
    notes.append(f"No data= was given: training on synthetic heads, kept in {heads.path}")
    return build_dataset(options)


def _device_type(options: Mapping[str, Any]) -> str:
    if options["device"] is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if options["device"] == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: PyTorch finds no CUDA device here; use device=cpu.")
    return options["device"]


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


def _share_devices(
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


# ----------------------------------------------------------------------------------------------------------------------
# Checkpoints and disk


def _check_outdir(outdir: Path, generator: Generator, discriminator: TimeAwareDiscriminators) -> None:
    """Check that there is room for at least the first files."""
    existing = check_writable(outdir, option="outdir=")
    needed, free = 2 * sum(checkpoint_bytes(generator, discriminator)), shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            f"outdir={outdir}: not enough space: {format_bytes(free)} are free and the first checkpoints need "
            f"{format_bytes(needed)}; free some or choose another folder."
        )


def check_writable(folder: Path, *, option: str) -> Path:
    """The folder, or the one in which it can be made.

    Raises:
        UserError: Nothing can be written there.
    """
    existing = folder.absolute()
    while not os.path.exists(existing):  # also false inside another user's private folder
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"{option}{folder}: {existing} is a file, not a folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{option}{folder}: no permission to write in {existing}.")
    return existing


def _description(options: Mapping[str, Any], dataset: "PairDataset | SyntheticHeads") -> str:
    """Name of a new run's folder, after its number."""
    names = options["names"]
    parts = [slug(dataset.name), names["model"], names["spec"], f"res{options['resolution']}"]
    parts.append(f"mb{options['spec']['mb']}")
    if options["aug"] != "noaug":
        parts.append(options["aug"])
    if options["cond"]:
        parts.append("cond")
    if options["camera_condition"]:
        parts.append("camera")
    if options["mirror"]:
        parts.append("mirror")
    if options["resume"] is not None:
        parts.append("resume")
    return "-".join(part for part in parts if part)
