"""Several trainings by one command, here or as jobs of a cluster.

    python run_train.py -m outdir=OUT data=DATASET spec.gamma=0.5,1 model=stylenerf_mead,stylenerf_taichi …
    python run_train.py -m hydra/launcher=submitit_slurm hydra.launcher.partition=gpu outdir=OUT data=DATASET …

There is one training for every combination of the values given with commas. They run one after the other in this
process, or as jobs of Hydra's submitit launcher (the optional packages of the extra `slurm`), which this command waits
for. Every task of a job is one process of the training. Options are read as without -m; hydra/launcher= and hydra.…= go
to Hydra, but have no effect on trainings in this process.
"""

import contextlib
import hashlib
import itertools
import os
import re
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dnnlib import UserError, expand_home, one_line
from training.launch.config import (
    CONFIG_DIR,
    compose_options,
    conf_files,
    hydra_override,
    plain_override,
    split_override,
    string_value,
)
from training.launch.option_rules import check_values
from training.launch.run_dir import slug

__all__ = ["job", "submit", "sweep_label"]

# Options that a run folder's name shows anyway (see training.launch.validate).
NAMED = ("model", "spec", "resolution", "spec.mb", "aug", "cond", "camera_condition", "mirror")
LONGEST = 100  # characters of a label
LAUNCHING = re.compile(r"[+~]*hydra[./](launcher|sweeper)\b")
DEFAULTS = ("hydra/launcher=basic", "hydra/sweeper=basic")  # of Hydra, without which it would do the same
STOPPING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


def submit(
    arguments: Sequence[str],
    task: Callable[[Any], None],
    *,
    train: Callable[..., object],
    check: Callable[[list[str]], object],
) -> None:
    """Train all combinations of a sweep, or hand them to the launcher that the overrides name.

    Each of them is checked before the first one begins.

    Args:
        arguments: The command's arguments: overrides, and '-m'.
        task: Function that every process of a launcher's job calls; importable under its name.
        train: Without a launcher, called with the overrides of one training and its `label`.
        check: Called before that with the overrides of each training; raises an error about wrong ones.

    Raises:
        UserError: There is no such launcher, Hydra refuses the overrides, or trainings have failed.
    """
    overrides = [argument for argument in arguments if argument not in ("-m", "--multirun")]
    overrides = [_at_home(override) for override in overrides]
    if not any(override.startswith("outdir=") for override in overrides):
        raise UserError("outdir= is missing: the output of the jobs is written there as well.")
    settings = [override for override in overrides if re.match(r"[+~]*hydra[./]", override)]
    options = [hydra_override(override, sweep=True) for override in overrides if override not in settings]
    _check_lists(overrides)
    with conf_files():
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        parsed, choices = zip(*(_choices(parser, override) for override in options))
    combinations = list(itertools.product(*choices))
    varying = {each.key_or_group for each in parsed if each.is_sweep_override()}
    fixed = {each.key_or_group for each in parsed} - varying
    trainings = [[plain_override(override) for override in combination] for combination in combinations]
    composed: list[dict[str, Any]] = []
    launching = [setting for setting in settings if LAUNCHING.match(setting) and setting not in DEFAULTS]
    # Another sweeper makes combinations of its own.
    if not any(re.match(r"[+~]*hydra[./]sweeper", setting) for setting in launching):
        for training in trainings:
            composed.append(compose_options(training))
            check_values(composed[-1])
    dry = any(each.key_or_group == "dry_run" and _value(each) is True for each in parsed)
    here = not launching
    idle = [setting.partition("=")[0] for setting in settings if not LAUNCHING.match(setting)]
    if here and idle:
        print(
            f"{'=, '.join(idle)}= {'has' if len(idle) == 1 else 'have'} no effect without hydra/launcher= or "
            "hydra/sweeper=: the trainings run in this process.",
            flush=True,
        )
    if dry:
        _train_all(trainings, fixed, train)
    elif here:
        for training in trainings:
            check(training)
        _train_all(trainings, fixed, train)
    else:
        if composed and "hydra/launcher=submitit_slurm" in settings:
            same = [plain_override(words[0]) for each, words in zip(parsed, choices) if each.key_or_group in fixed]
            _check_tasks([each["gpus"] for each in composed], compose_options(same)["gpus"], settings)
        _launch(settings, options, fixed, task)


def sweep_label(overrides: Iterable[str], fixed: Collection[str]) -> str:
    """Label that tells a command's trainings apart, for the folder's name; '' if the name shows the difference anyway.

    Args:
        overrides: The training's overrides.
        fixed: Options that are the same in all trainings.
    """
    pairs = [(key, value) for _, key, value in map(split_override, overrides) if key not in fixed and key not in NAMED]
    ends = [key.split(".")[-1] for key, _ in pairs]
    names = [end if ends.count(end) == 1 else key for end, (key, _) in zip(ends, pairs)]
    label = "-".join(slug(name + value, most=None) for name, (_, value) in zip(names, pairs))
    if len(label) <= LONGEST:
        return label
    return f"{label[:LONGEST]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"


# ----------------------------------------------------------------------------------------------------------------------


def _at_home(override: str) -> str:
    """The override, with the home folder in outdir=~/…, which Hydra would take for a folder named '~'."""
    key, _, value = override.partition("=")
    path = string_value(value) if key == "outdir" else None
    return f"outdir={expand_home(path, name='outdir=')}" if path is not None and path[:1] == "~" else override


def _check_tasks(gpus: Collection[int], tasks: int, settings: Iterable[str]) -> None:
    """Refuse trainings of another number of GPUs than their jobs: Hydra makes the launcher once, without swept values.

    Args:
        gpus: Of every training.
        tasks: Of every job, unless one of the settings is another number.
    """
    if len({*gpus}) > 1:
        numbers = ",".join(map(str, sorted({*gpus})))
        raise UserError(f"-m: the trainings have gpus={numbers}, but all jobs of a command have as many; add gpus=N.")
    given = any(re.match(r"\+*hydra\.launcher\.tasks_per_node=", setting) for setting in settings)
    if not given and tasks not in gpus:
        (number,) = {*gpus}
        raise UserError(f"-m: the trainings have gpus={number}, but their jobs {tasks}; add gpus={number}.")


def _check_lists(overrides: Iterable[str]) -> None:
    """Refuse a comma-separated list of paths: it is not taken for a choice, as paths may contain commas."""
    for override in overrides:
        key, _, value = override.partition("=")
        paths = value.split(",") if key in ("data", "resume") else []
        if len(paths) > 1 and not os.path.exists(value) and all(map(os.path.exists, paths)):
            raise UserError(f"{override} is one path, which does not exist; write '{key}=choice({value})' for several.")


def _choices(parser: OverridesParser, override: str) -> tuple[Override, list[str]]:
    """An override in Hydra's grammar, and the overrides that it stands for."""
    try:
        (parsed,) = parser.parse_overrides([override])  # unlike parse_override, resolves globs
        if not parsed.is_sweep_override():
            return parsed, [override]
        return parsed, [f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator()]
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"-m: cannot read the option '{override}': {one_line(str(error).splitlines()[-1])}") from error


def _value(override: Override) -> Any:
    return None if override.is_sweep_override() else override.value()


def _train_all(trainings: Sequence[list[str]], fixed: Collection[str], train: Callable[..., object]) -> None:
    """Run trainings one after the other and name failed ones at the end. A signal that stops one stops all."""
    failed = []
    with _signals_seen() as seen:
        for number, overrides in enumerate(trainings, start=1):
            name = " ".join([f"#{number}", *(each for each in overrides if split_override(each)[1] not in fixed)])
            print(f"{name} (of {len(trainings)})", flush=True)
            try:
                train(overrides, label=sweep_label(overrides, fixed))
            except UserError as error:
                failed.append(f"{name}: {one_line(error)}")
                print(f"{name} failed: {one_line(error)}", flush=True)
            left = len(trainings) - number
            if left and seen() & STOPPING:
                print(f"Stopped as asked: the remaining {left} of {len(trainings)} trainings were not begun.")
                break
    if failed:
        raise UserError(f"{len(failed)} of {len(trainings)} trainings failed: {'; '.join(failed)}")


@contextlib.contextmanager
def _signals_seen() -> Iterator[Callable[[], set[int]]]:
    """Context with a function that returns the signals that have arrived, handled or not."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def seen() -> set[int]:
        try:
            return set(reader.recv(4096))
        except BlockingIOError:
            return set()

    try:
        yield seen
    finally:
        signal.set_wakeup_fd(previous)
        reader.close()
        writer.close()


def _launch(settings: list[str], options: list[str], fixed: Iterable[str], task: Callable[[Any], None]) -> None:
    """Hand the jobs to Hydra's launcher and wait for them."""
    launchers = [setting.partition("=")[2] for setting in settings if setting.startswith("hydra/launcher=")]
    if any(name.startswith("submitit") for name in launchers):
        try:
            import hydra_plugins.hydra_submitit_launcher  # noqa: F401
        except ImportError as error:
            raise UserError(
                "hydra/launcher=submitit… needs an optional package: pip install hydra-submitit-launcher"
            ) from error
    root = str(CONFIG_DIR.parent)  # where the jobs' processes find this program
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ["PYTHONSAFEPATH"] = "1"  # before modules in the working folder (from Python 3.11 on)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise errors, instead of printing them and leaving
    # Tells the jobs which of their overrides differ; Hydra does not use it otherwise.
    excluded = f"hydra.job.config.override_dirname.exclude_keys=[{','.join(sorted(fixed))}]"
    sys.argv = [sys.argv[0], "-m", *settings, *options, excluded]
    # Our file replaces the plugin's default of the same name on purpose.
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/submitit_slurm' is validated against ConfigStore")
    try:
        hydra.main(config_path=str(CONFIG_DIR), config_name="config", version_base="1.3")(task)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"-m: {one_line(str(error).splitlines()[0])}") from error


def job() -> tuple[list[str], str | None, str]:
    """In a task: the overrides of this process's training, the name of its job, and the training's label.

    The name is that of all starts of a job that may be requeued, and of no other job: None without submitit.

    Sets the environment from which `torch_utils.distributed` reads rank and world size, as torchrun would.
    """
    config, name = HydraConfig.get(), None
    if "SUBMITIT_EXECUTOR" in os.environ:
        import submitit

        environment = submitit.JobEnvironment()
        # A later command may have the same folder (hydra.sweep.dir=), and another cluster a job of the same number.
        name = f"{Path(config.runtime.output_dir)} {environment.job_id}"
        if environment.num_tasks > 1:
            # All devices of a machine stay visible: a process takes that of its local rank.
            submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    fixed = list(config.job.config.override_dirname.exclude_keys)
    overrides = [plain_override(override) for override in config.overrides.task]
    return overrides, name, sweep_label(overrides, fixed)
