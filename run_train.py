"""Train a 4D GAN on videos.

    python run_train.py outdir=OUT data=DATASET [option=value ...]

The options stand in conf/config.yaml with a line on each; spec=… and model=… choose a file of conf/spec and conf/model.

    python run_train.py outdir=runs data=faces spec=paper model=stylenerf_faceforensics     the published training
    python run_train.py outdir=runs data=clips kimg=50 dry_run=true                         say what would happen
    python run_train.py outdir=runs resume_run=0                                            continue runs/00000-…
    torchrun --nproc-per-node 4 run_train.py outdir=runs data=faces spec=paper model=…      processes from torchrun

A run writes OUT/00000-<description>/, the next one OUT/00001-…: the same command again starts a new run, with
resume_run= it continues the old one, to the bit on one CPU process with as many threads, and what it wrote after its
last saved state is written again. resume=PATH starts a new run from the weights of a snapshot. SIGTERM and Ctrl-C end a
run after the current iteration, with its state saved.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from dnnlib import atomic_write, run_cli

# Metrics that can be computed at every snapshot: name → (options, run folder) → callback of the training loop.
METRICS: dict[str, Callable[[Mapping[str, Any], Path], Callable]] = {}


def main() -> None:
    words = sys.argv[1:]
    if any(word in ("-h", "--help") for word in words):
        print(__doc__.strip())
        return

    from torch_utils import distributed  # after --help: PyTorch takes its time
    from training.options import plan

    under_torchrun = distributed.torchrun_world_size() is not None
    main_process = not under_torchrun or distributed.environment_rank() == 0
    job = plan(words, metrics=tuple(METRICS))
    if main_process:
        for note in job.notes:
            print(note)
    if job.options["dry_run"]:
        if main_process:
            print_dry_run(job)
        return
    if under_torchrun:
        distributed.init(device_type=job.device_type)
    try:
        folder = distributed.broadcast_object(open_run_folder(job) if main_process else None)
        arguments = (job.options, folder, job.device_type, job.run_folder is not None)
        if under_torchrun or job.processes == 1:
            run(*arguments)
        else:
            distributed.launch(run, args=arguments, processes=job.processes, device_type=job.device_type)
    finally:
        distributed.cleanup()


def run(options: dict[str, Any], folder: Path, device_type: str, resuming: bool) -> None:
    """One process of the training."""
    from training.session import train

    train(options, folder, device_type=device_type, resuming=resuming, make_callbacks=snapshot_callbacks)


def snapshot_callbacks(options: Mapping[str, Any], folder: Path) -> list[Callable]:
    """What is called after every snapshot: the metrics that were asked for."""
    return [METRICS[name](options, folder) for name in options["metrics"]]


def open_run_folder(job) -> Path:
    """The folder of the run to continue, or a new one; the options in it are those of this command."""
    from training.options import OPTIONS_FILE
    from training.run_folder import create_run_folder

    folder = job.run_folder or create_run_folder(job.options["outdir"], job.description)
    with atomic_write(folder / OPTIONS_FILE, "w") as file:
        file.write(dump(job.options))
    print(f"{'Continuing' if job.run_folder else 'Run folder'}: {folder}")
    return folder


def print_dry_run(job) -> None:
    """What the command would do, and how large that is."""
    from training.sizes import size_report

    print(dump(job.options))
    about = ", ".join(f"{name} {value}" for name, value in job.dataset.describe().items())
    print(f"dataset    {about}")
    print(f"device     {job.processes} × {job.device_type}")
    print("\n".join(size_report(job.generator, job.discriminator, options=job.options, processes=job.processes)))
    print(f"run folder {job.run_folder or Path(job.options['outdir']) / ('#####-' + job.description)} (not made)")


def dump(options: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(options), sort_keys=False, allow_unicode=True)


if __name__ == "__main__":
    run_cli(main)
