"""Validation of a training's options, before anything is written or takes long.

`plan` checks every option against the machine, the data and the checkpoints, and either returns what is going to happen
or raises a UserError that names the option, what is wrong with it and what to do.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dnnlib import UserError, atomic_write, choices_hint, expand_home, format_bytes
from torch_utils import distributed
from training.augment.diffaugment import parse_policy
from training.checkpoints.snapshot_files import ANEW
from training.data.annotations import is_shards
from training.data.dataset import check_shards
from training.data.dataset_folders import keep_apart
from training.data.loader import PairDataset, build_dataset
from training.data.names import RUN_OPTIONS
from training.launch.build import (
    build_augment,
    build_networks,
    check_arguments,
    synthesis_note,
)
from training.launch.config import GROUPS, NETWORKS, SECTIONS, compose_options, continued_options, given_options
from training.launch.devices import device_type_of, share_devices
from training.launch.idle_options import check_freezing, check_precision, other_folder_note
from training.launch.notes import check_camera_labels, model_notes, size_notes
from training.launch.option_rules import check_values, other_options
from training.launch.run_dir import find_run_folder, slug
from training.networks.discriminator import TimeAwareDiscriminators
from training.networks.generator import Generator
from training.networks.model_summary import checkpoint_bytes

if TYPE_CHECKING:
    from training.launch.default_data import SyntheticHeads

__all__ = ["Plan", "check_writable", "dump_options", "plan", "write_options"]


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
    processes, notes = share_devices(options, device_type, several=several, given=given, continued=continued)
    if run_folder is not None and "outdir" in given:
        notes += other_folder_note(given_outdir, run_folder)

    synthetic = options["data"] is None
    dataset = _planned_heads(options) if synthetic else build_dataset(options)
    keep_apart(run_folder or options["outdir"], option="outdir=", data=[dataset.path if synthetic else options["data"]])
    check_shards(dataset, processes)
    notes += dataset.notes
    generator, discriminator = build_networks(options, c_dim=dataset.c_dim, device="meta")
    check_arguments({"generator": generator, "discriminator": discriminator}, given)
    check_camera_labels(options, generator)
    notes += model_notes(options, generator, dataset, given=given, continued=continued)
    notes += size_notes(options, dataset, processes)
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
    device_type = device_type_of(options)
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


# ----------------------------------------------------------------------------------------------------------------------
# Data and disk


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
