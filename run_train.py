"""Train a 4D GAN on videos.

    python run_train.py outdir=OUT data=DATASET [option=value ...]

--help lists the options; with model= or spec= it shows the defaults of that file. They are defined in conf/config.yaml,
conf/spec and conf/model. --cfg job prints them after all overrides; eval "$(python run_train.py -sc install=bash)"
enables completion in bash; --info and --hydra-help describe Hydra, which reads them.

    python run_train.py outdir=runs data=faces spec=paper model=stylenerf_faceforensics     the published training
    python run_train.py outdir=runs data=clips kimg=50 dry_run=true                         show what would happen
    python run_train.py outdir=runs resume_run=0                                            continue runs/00000-…
    torchrun --nproc-per-node 4 run_train.py outdir=runs data=faces spec=paper model=…      processes from torchrun
    python run_train.py -m outdir=runs data=faces spec.gamma=0.5,1                          a training for each value
    python run_train.py -m hydra/launcher=submitit_slurm outdir=runs data=faces spec=…      a job on a SLURM cluster

A run writes OUT/00000-<description>/, the next one OUT/00001-…: the same command again starts a new run. With
resume_run= it continues the old one, bit-exactly on one CPU process with the same number of threads; outputs written
after the last saved state are written again. resume=PATH starts a new run from the weights of a snapshot. SIGTERM,
Ctrl-C and SIGHUP end a run after the current iteration, with its state saved. A command that its launcher starts again
(torchrun after a failure, SLURM after preemption) continues its run by itself. docs/scaling.md is about more than one
GPU.
"""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnnlib import UserError, __version__, print_any_text, run_cli, temporary_folder
from metrics.registry import METRICS, ONE_YAW, extrapolation_note

if TYPE_CHECKING:
    from training.launch.validate import Plan


def main() -> None:
    arguments = [a for a in sys.argv[1:] if a not in ("-r", "--run")]  # Hydra's flag for running, the default
    if any(argument in ("-h", "--help") for argument in arguments):
        from training.launch.command_line import option_help

        about = f"{__doc__.strip()}\n\n" if __doc__ else ""  # python -OO strips docstrings
        if Path(sys.argv[0]).stem == "video3d-train":  # installed
            about = about.replace("python run_train.py", "video3d-train")
            about = about.replace("4 run_train.py", "4 --no-python video3d-train")
        print(about + option_help(arguments))
    elif "--version" in arguments:
        print(f"video-3d-gan {__version__}")
    elif any(argument.startswith("-") for argument in arguments) and _hydra_answers(arguments):
        pass
    elif any(argument in ("-m", "--multirun") for argument in arguments):
        import run_train  # under the name by which the jobs' processes will find it
        from training.launch.slurm import submit

        submit(arguments, run_train.cluster_job, train=train_command, check=make_plan)
    else:
        train_command(arguments)


def _hydra_answers(arguments: Sequence[str]) -> bool:
    """Let Hydra answer a command that asks it for something instead of a training; False for other commands."""
    from training.launch.command_line import asks_hydra, call_hydra

    asking = asks_hydra(arguments)
    if asking:
        call_hydra(arguments)
    return asking


def cluster_job(config: Any) -> None:
    """One process of a job that `training.launch.slurm` has submitted."""
    from training.launch.slurm import job

    overrides, name, label = job()
    train_command(overrides, job_name=name, label=label)


def train(overrides: Sequence[str]) -> Path | None:
    """Start or continue a training from Python; returns its run folder (None after a dry run).

    Defaults and modes of PyTorch that the caller has set (types, devices, no_grad, inference_mode, autocast) have no
    effect. A signal that stops the training is passed on to the caller's handler once the state is saved: a program
    that trains repeatedly does not go on with the next training.

    Args:
        overrides: Those of the command, such as ["outdir=runs", "data=clips"].

    Raises:
        KeyboardInterrupt: After Ctrl-C.
        UserError: See the command.
        ValueError: The overrides are not a list of strings.
    """
    from torch_utils.argument_checks import is_list, shown
    from torch_utils.caller_settings import without_autocast, without_defaults
    from torch_utils.stop_signal import StopSignal

    if not is_list(overrides) or not all(isinstance(override, str) for override in overrides):
        allowed = 'a list of strings such as ["outdir=runs", "data=clips"]'
        raise ValueError(f"overrides must be {allowed}, got {shown(overrides)}.")
    with without_defaults(), without_autocast():
        folder, number = train_command(list(overrides))
    if number in StopSignal.ENDING:
        signal.raise_signal(number)
    return folder


def train_command(
    overrides: Sequence[str], *, job_name: str | None = None, label: str = ""
) -> tuple[Path | None, int | None]:
    """Start or continue a training from the overrides of a command.

    Args:
        job_name: Name shared by all starts of this command and by no other command; None if it has no name.
        label: Added to the name of a new run's folder.

    Returns:
        The run folder (None after a dry run), and the signal that this process has received (None without one).
    """
    print_any_text()  # jobs of a cluster begin here
    from torch_utils import distributed  # imported after --help, because importing PyTorch is slow
    from torch_utils.launch import busy_note, launch, refuse_unguarded
    from training.launch.run_dir import launcher_names, overrides_to_continue

    refuse_unguarded()
    under_torchrun = distributed.torchrun_world_size() is not None
    main_process = not under_torchrun or distributed.environment_rank() == 0
    names = launcher_names(overrides, job_name)
    if main_process:  # the others receive it below
        overrides = overrides_to_continue(overrides, names)
    # When the launcher starts a command again, only the main process knows whether its run has begun already, and
    # goes on without the snapshot of resume=.
    job = make_plan(overrides, label=label, look=main_process, checkpoint=main_process or not any(names.values()))
    if (job.device_type, job.processes) == ("cpu", 1) and (busy := busy_note()) is not None:
        job.notes.append(busy)
    if main_process:
        for note in job.notes:
            print(note)
    if job.options["dry_run"]:
        if main_process:
            print_dry_run(job)
        return None, None
    temporary_folder()  # needed by videos and data workers: fails here, before anything is written
    timeout = timedelta(minutes=job.options["timeout"])
    if under_torchrun:
        distributed.init(device_type=job.device_type, timeout=timeout)
    try:
        what = (job.options, open_run_folder(job, names), job.run_folder is not None) if main_process else None
        options, folder, resuming = distributed.broadcast_object(what)
        arguments = (options, folder, job.device_type, resuming, job.notes)
        if under_torchrun or job.processes == 1:
            # Among torchrun's processes only the first one knows that a run is continued.
            same = job.options == options
            number = run(*arguments, dataset=job.dataset if same else None, inputs=job.inspected if same else None)
        else:
            number = launch(run, args=arguments, processes=job.processes, device_type=job.device_type, timeout=timeout)
        return folder, number
    finally:
        distributed.cleanup()


def make_plan(overrides: Sequence[str], *, label: str = "", look: bool = True, checkpoint: bool = True) -> "Plan":
    """Check the overrides of a training, and everything that they ask for.

    Args:
        label: See `train_command`.
        look: Also check what the metrics need.
        checkpoint: Also check the snapshot or the training state that the training begins from.
    """
    from training.launch.validate import plan

    job = plan(overrides, metrics=METRICS, inspect=metric_inputs if look else None, label=label, checkpoint=checkpoint)
    if job.options["metrics"] and look:
        used = job.inspected["detectors"]
        idle = [f"detectors.{name}=" for name, path in job.options["detectors"].items() if path and name not in used]
        if job.options["cache_metrics_dir"] and not any(METRICS[name].uses_real for name in job.options["metrics"]):
            idle.append("cache_metrics_dir=")  # caches statistics of the real videos
        job.notes.extend(f"{name} has no effect: none of the metrics uses it." for name in idle)
        job.notes.extend(extrapolation_note(job.options["metrics"], nframes=job.options["nframes"]))
    return job


def run(
    options: dict[str, Any],
    folder: Path,
    device_type: str,
    resuming: bool,
    notes: Sequence[str],
    *,
    dataset=None,
    inputs: Mapping[str, Any] | None = None,
) -> int | None:
    """One process of the training: see `training.launch.setup.train`, for `inputs` `snapshot_callbacks`."""
    from training.launch.setup import train

    return train(
        options,
        folder,
        device_type=device_type,
        resuming=resuming,
        dataset=dataset,
        notes=notes,
        make_callbacks=partial(snapshot_callbacks, inputs=inputs),
    )


def metric_inputs(options: Mapping[str, Any]) -> dict[str, Any]:
    """The real videos and detectors of the metrics, opened early so that errors come before the training.

    The result has no 'real' and no 'label' for data that are still to be synthesised; 'real' is None where no metric
    needs them.

    Raises:
        UserError: A detector is missing or not a TorchScript file; real videos are missing, too few or unsuitable; or a
            metric does not suit the length of the clips or the cameras.
    """
    if not options["metrics"]:
        return {}
    from metrics.evaluator import require_samples
    from metrics.feature_extractors import find_detectors
    from metrics.metric_functions import STATISTICS
    from metrics.real_videos import StoredVideos
    from torch_utils.torchscript import load_torchscript
    from training.data.annotations import is_shards
    from training.launch.validate import check_writable

    chosen = [METRICS[name] for name in options["metrics"]]
    cache = metrics_cache(options)
    if options["cache_metrics_dir"] is None and any(metric.uses_real for metric in chosen) and not cache.exists():
        check_writable(cache, option="cache_metrics_dir=")  # not in the run folder: a continued run may not write there
    yaw = (options["model"]["generator"].get("camera") or {}).get("yaw")
    for metric in chosen:
        if metric.several_views and isinstance(yaw, list) and yaw[:1] == yaw[1:]:
            raise UserError(f"metrics: {metric.name} {ONE_YAW}.")
        if options["nframes"] == 1 and metric.samples == "clips":
            raise UserError(
                f"metrics: {metric.name} looks at clips of {metric.frames} frames, and single images (nframes=1) have "
                "no frame rate; choose metrics of images or views, e.g. fid50k_full."
            )
    detectors = find_detectors(options["metrics"], options["detectors"])
    for detector in detectors.values():
        load_torchscript(detector.path, "cpu")  # a file of another kind would end the run at its first snapshot
    data, real, label = options["data"], None, None
    if data is None:
        from training.launch.default_data import default_config  # rarely needed: synthetic data are many modules

        stride = options["frame_stride"]
        longest = -(-default_config(options).frames // stride)
        for metric in chosen:
            if metric.uses_real and metric.samples == "clips" and metric.frames > longest:
                thinned = f", keeping one frame in {stride}" if stride > 1 else ""
                raise UserError(
                    f"metrics: {metric.name} needs real clips of {metric.frames} frames, and synthetic heads have "
                    f"{longest}{thinned}: choose a metric of shorter clips, or give data=."
                )
    elif is_shards(data):
        needing = [metric.name for metric in chosen if metric.uses_real or options["cond"]]
        if needing:
            wanted = "labels" if options["cond"] else "real videos"
            raise UserError(
                f"metrics: {needing[0]} needs {wanted}, and metrics read none from tar files: measure the snapshots "
                "with python -m metrics --real FRAMES, a folder or zip of frames of the same videos."
            )
    elif options["cond"] or any(metric.uses_real for metric in chosen):  # others do not need data that metrics read
        real = StoredVideos(data, resolution=options["resolution"], frame_stride=options["frame_stride"])
        for metric in chosen:
            if metric.uses_real and metric.samples == "clips":
                least = STATISTICS[metric.statistic].least
                require_samples(metric, real.clips(count=least, frames=metric.frames), "real")
        label = real.labels() if options["cond"] else None
    opened = {} if data is None else {"real": real, "label": label}
    return {"detectors": detectors, **opened}


def metrics_cache(options: Mapping[str, Any]) -> Path:
    """The folder for features of the real videos, shared by the runs of `outdir`."""
    return Path(options["cache_metrics_dir"] or Path(options["outdir"]) / "metrics_cache")


def snapshot_callbacks(
    options: Mapping[str, Any], folder: Path, *, inputs: Mapping[str, Any] | None = None
) -> list[Callable]:
    """Callbacks after every snapshot: the metrics, if there are any.

    Args:
        inputs: Result of `metric_inputs` for these options, if this process has called it already.
    """
    if not options["metrics"]:
        return []
    from metrics.snapshot_metrics import SnapshotMetrics
    from training.checkpoints.snapshot_files import keep_as_best

    if inputs is None or "real" not in inputs:  # not opened yet, or opened before the data were synthesised
        inputs = metric_inputs(options)
    cache = metrics_cache(options)
    return [SnapshotMetrics(options, folder, **inputs, cache=cache, keep_as_best=keep_as_best)]


def open_run_folder(job, names: Mapping[str, bool]) -> Path:
    """The folder of the run to continue, or a new one with its options.

    Nothing is written into an existing folder: another process may own it, which `training.launch.setup` checks.

    Args:
        names: Launcher's names of the command, by which it will find the folder when it is started again.
    """
    from training.launch.run_dir import create_run_folder, write_launcher_names
    from training.launch.validate import write_options

    folder = job.run_folder
    if folder is None:
        folder = create_run_folder(job.options["outdir"], job.description)
        try:
            write_options(folder, job.options)
        except UserError:  # a full disk: without options the folder is of no use
            folder.rmdir()
            raise
        write_launcher_names(folder, names)
    print(f"{'Continuing' if job.run_folder else 'Run folder'}: {folder}")
    return folder


def print_dry_run(job) -> None:
    """Print the options, the dataset, the devices, and the sizes of the networks."""
    from training.launch.build import build_schedule
    from training.launch.validate import dump_options
    from training.networks.model_summary import size_report

    snapshots = build_schedule(job.options).snapshots_on_disk()
    sizes = {"options": job.options, "processes": job.processes, "snapshots": snapshots}
    print(dump_options(job.options))
    about = ", ".join(f"{name} {value}" for name, value in job.dataset.describe().items() if name != "label_examples")
    print(f"dataset    {about}")
    print(f"device     {job.processes} × {job.device_type}")
    print("\n".join(size_report(job.generator, job.discriminator, **sizes)))
    print(f"run folder {job.run_folder or Path(job.options['outdir']) / ('#####-' + job.description)} (not made)")


if __name__ == "__main__":
    run_cli(main)
