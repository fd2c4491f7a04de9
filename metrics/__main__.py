"""Evaluate generated videos: `python -m metrics --metrics fvd2048_16f --real DATASET --fake PKL --outdir OUT`.

FAKE is a snapshot, a run folder (its newest snapshot), a published checkpoint, or a folder of generated videos: folders
of frames, or video files. Every metric adds a row to OUT/metric-<name>.jsonl; `--compare OUT1 OUT2` shows two of them.

This script connects training and metrics; no other module imports it.
"""

import contextlib
import os
import zipfile
from pathlib import Path
from typing import Any

import click

from dnnlib import UserError, file_identity, output_folder, run_cli
from dnnlib.command_line import Command, options_given
from metrics.registry import METRICS, extrapolation_note, find_metric

# PyTorch and the networks are imported where they are used, so that --help and usage errors respond at once.

SHORT = "fvd2048_16f"
ATTEMPTS = 10  # to read one snapshot of a run in progress


def parse_metrics(text: str) -> list[str]:
    """The names in a comma-separated list, without repetitions."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UserError("--metrics: name at least one; --list shows all.")
    for name in names:
        find_metric(name)
    return names


def parse_detectors(texts: tuple[str, ...], names: list[str]) -> dict[str, str]:
    """Paths by detector, from NAME=PATH or, where the metrics need a single detector, from PATH alone."""
    from metrics.detectors import DETECTORS
    from metrics.feature_extractors import detector_of

    needed = {detector_of(METRICS[name].network) for name in names} - {None}
    known_names = dict.fromkeys([*DETECTORS, *sorted(needed)])
    paths = {}
    for text in texts:
        name, separator, path = text.partition("=")
        if not separator or name not in known_names:
            if len(needed) != 1:
                choice = " or ".join(f"{known}=PATH" for known in known_names)
                raise UserError(f"--detector {text}: say which network it is: {choice}.")
            name, path = next(iter(needed)), text
        if name in paths:
            raise UserError(f"--detector: there are two files for {name}, {paths[name]} and {path}: give one of them.")
        paths[name] = path
    return paths


def compare_results(context: click.Context, parameter: click.Parameter, folders: tuple[str, str] | None) -> None:
    if folders is not None:
        from metrics.comparison import comparison_lines

        for line in comparison_lines(*folders):
            click.echo(line)
        context.exit()


def list_metrics(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        width = max(map(len, METRICS))
        for metric in METRICS.values():
            click.echo(f"{metric.name:{width}}  {metric.about}" + (f" ({metric.warning})" if metric.warning else ""))
        context.exit()


option = click.option
COUNT = click.IntRange(min=1)


@click.command(cls=Command, context_settings={"max_content_width": 120, "show_default": True})
@option("--metrics", "names", default=SHORT, metavar="LIST", help="Names, separated by commas.")
@option("--real", type=click.Path(), help="Real videos: folder or zip of folders of frames, as for training.")
@option("--fake", required=True, type=click.Path(), help="Snapshot, run, model, or folder of generated videos.")
@option("--outdir", required=True, type=click.Path(file_okay=False), help="Folder for metric-<name>.jsonl.")
@option("--resolution", type=click.IntRange(min=8), help="Width of all frames.  [default: that of --fake]")
@option("--frame-stride", type=COUNT, help="Keep every n-th real frame.  [default: as in training, else 1]")
@option("--nframes", type=COUNT, help="Frames of a training clip.  [default: as in training, else 16]")
@option(
    "--detector",
    "detectors",
    multiple=True,
    metavar="[NAME=]PATH",
    help="TorchScript file of a feature extractor. It is a program: give one that you trust.",
)
@option(
    "--cache",
    type=click.Path(file_okay=False),
    help="Cache folder for the features of real videos.  [default: the user's cache]",
)
@option("--bootstrap", default=100, type=click.IntRange(min=0), help="Resamplings for the interval; 0 for none.")
@option("--batch-size", default=8, type=COUNT, help="Videos per batch of a process.")
@option("--gpus", default=1, type=COUNT, help="Processes, each with a device of its own, or on the CPU.")
@option("--device", type=click.Choice(["cpu", "cuda"]), help="[default: cuda if there is one]")
@option(
    "--compare",
    nargs=2,
    metavar="A B",
    is_eager=True,
    expose_value=False,
    callback=compare_results,
    help="Show the results in two folders (--outdir of earlier evaluations, or run folders) side by side.",
)
@option("--list", is_flag=True, is_eager=True, expose_value=False, callback=list_metrics, help="Show all metrics.")
def main(names: str, detectors: tuple[str, ...], gpus: int, device: str | None, **options: Any) -> None:
    """Compare generated videos with real ones, or measure their properties."""
    chosen = parse_metrics(names)
    if options["bootstrap"] == 1:
        raise UserError("--bootstrap: an interval needs at least 2 resamplings; 0 gives no interval.")
    for name in ("real", "fake"):
        path = options[name]
        if path is not None and path.lower().endswith(".tar") and not os.path.isdir(path):  # braces: several
            from training.data.frame_index import describe_tar_files

            raise UserError(f"--{name}: {describe_tar_files(path)}")
        if path is not None and not os.path.exists(path):
            raise UserError(f"--{name}: there is no file or folder '{path}'.")
    if options["real"] is None and options["frame_stride"] is not None:
        raise UserError("--frame-stride says which real frames are kept: add --real, or leave --frame-stride out.")
    if options["real"] is None:
        needing = [name for name in chosen if METRICS[name].uses_real]
        if needing:
            from metrics.metric_functions import use_of_real

            raise UserError(f"--real: {use_of_real(METRICS[needing[0]])}; give their folder or zip.")

    import torch

    from metrics.feature_extractors import find_detectors
    from torch_utils import distributed
    from torch_utils.launch import launch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: PyTorch finds no CUDA device here; use cpu.")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and gpus > torch.cuda.device_count():
        raise UserError(f"--gpus: there are {torch.cuda.device_count()} CUDA devices, not {gpus}.")
    if options["nframes"] is not None and find_snapshot(options["fake"]) is None:
        raise UserError("--nframes says how a generator's times are spread: leave it out for videos in files.")
    paths = parse_detectors(detectors, chosen)
    find_detectors(chosen, paths)  # a missing file is reported before anything else
    if distributed.environment_rank() == 0:
        for note in idle_notes(chosen, paths, options, gpus=gpus):
            click.echo(note, err=True)
        with output_folder(options["outdir"]):  # an error comes now; the first row makes it again
            pass
    arguments = (chosen, paths, device, options)
    if distributed.torchrun_world_size() is not None:
        distributed.init(device_type=device)
        try:
            run(*arguments)
        finally:
            distributed.cleanup()
    elif gpus > 1:
        launch(run, args=arguments, processes=gpus, device_type=device)
    else:
        run(*arguments)


def idle_notes(names: list[str], paths: dict[str, str], options: dict[str, Any], *, gpus: int) -> list[str]:
    """Notes on options that were given and have no effect on these metrics."""
    from metrics.feature_extractors import detector_of
    from metrics.metric_functions import STATISTICS
    from torch_utils import distributed

    chosen, notes = [METRICS[name] for name in names], []
    needed = {detector_of(metric.network) for metric in chosen}
    notes += [f"--detector {name}= has no effect: no metric uses it." for name in paths if name not in needed]
    if options["cache"] is not None and not any(metric.uses_real for metric in chosen):
        notes.append("--cache has no effect: no metric uses real videos.")
    given = options_given()
    resampled = any(STATISTICS[metric.statistic].resampled for metric in chosen)
    if "bootstrap" in given and options["bootstrap"] and not resampled:
        notes.append("--bootstrap has no effect: these metrics take their interval from the spread of the samples.")
    for option, samples, instead in (
        ("resolution", ("pairs",), "which are rendered at the generator's"),
        ("nframes", ("pairs", "views"), "which show a single time step"),
    ):
        without = [metric.name for metric in chosen if metric.samples in samples]
        if option in given and without:
            notes.append(f"--{option} has no effect on {', '.join(without)}, {instead}.")
    started = distributed.torchrun_world_size()
    if "gpus" in given and started is not None and started != gpus:
        notes.append(f"--gpus has no effect: {started} processes have been started.")
    return notes


def run(names: list[str], paths: dict[str, str], device_type: str, options: dict[str, Any]) -> None:
    """One process of the evaluation.

    Raises:
        UserError: See the command; or the memory is full.
    """
    from torch_utils.memory import explain_out_of_memory

    with explain_out_of_memory(f"A batch holds --batch-size={options['batch_size']} videos: lower it."):
        measure(names, paths, device_type, options)


def measure(names: list[str], paths: dict[str, str], device_type: str, options: dict[str, Any]) -> None:
    """Measure the videos with each metric, and write and print the results; for the arguments see the command."""
    import torch

    from dnnlib.downloads import cache_folder
    from metrics.evaluator import Evaluator
    from metrics.feature_extractors import find_detectors
    from metrics.generated_videos import GeneratedVideos
    from metrics.results import append_row, row_summary
    from torch_utils import distributed
    from torch_utils.memory import keep_freed_memory

    if device_type == "cpu":
        keep_freed_memory()
        device = torch.device("cpu")
    else:
        device = torch.device("cuda", distributed.local_rank())
        torch.cuda.set_device(device)
    fake, real, about = open_videos(options, device)
    labelled = isinstance(fake, GeneratedVideos) and fake.labelled
    idle = real is not None and not labelled and not any(METRICS[name].uses_real for name in names)
    if distributed.is_main():
        notes = [note for videos in (fake, None if idle else real) for note in getattr(videos, "notes", ())]
        notes += extrapolation_note(names, nframes=fake.nframes) if isinstance(fake, GeneratedVideos) else []
        notes += ["--real has no effect: no metric uses real videos."] if idle else []
        for note in notes:
            click.echo(note, err=True)
    cache = cache_folder("metrics") if options["cache"] is None else Path(options["cache"])
    with distributed.patience():
        evaluator = Evaluator(
            fake=fake,
            real=real,
            device=device,
            detectors=find_detectors(names, paths),
            cache=cache,
            batch_size=options["batch_size"],
            replicates=options["bootstrap"],
        )
        evaluator.check(names)
        for name in names:
            row = evaluator.evaluate(name, together=names)
            if distributed.is_main():
                click.echo(row_summary(row))
                with output_folder(options["outdir"]):
                    path = append_row(options["outdir"], {**row, **about})
                click.echo(f"  → {path}")


def open_videos(options: dict[str, Any], device: Any) -> tuple[Any, Any, dict[str, Any]]:
    """The generated videos, the real ones (or None), and their origin for the rows of the result files."""
    from metrics.real_videos import StoredVideos

    about: dict[str, Any] = {"fake_name": os.path.basename(os.path.abspath(options["fake"]))}
    stride, resolution = options["frame_stride"], options["resolution"]
    if find_snapshot(options["fake"]) is None:
        fake = StoredVideos(options["fake"], resolution=resolution, generated=True)
    else:
        snapshot, content, digest = read_snapshot(options["fake"])
        fake, trained = open_generator(snapshot, content, options, device)
        stride = stride or _trained_stride(trained)
        about.update(checkpoint=snapshot.name, checkpoint_sha256=digest, cur_nimg=trained.get("cur_nimg"))
    real = None
    if options["real"] is not None:
        real = StoredVideos(options["real"], resolution=fake.resolution, frame_stride=stride or 1)
        if "checkpoint" not in about and (stride or 1) > 1:
            real.notes.append(
                f"--frame-stride {stride} leaves out real frames only: of '{options['fake']}' every frame is measured."
            )
        if stride is None and "checkpoint" in about and not real.prepared:
            real.notes.append(
                f"The checkpoint does not say which frames it was trained on: every frame of '{options['real']}' is "
                "used. If it was trained on every n-th one, give --frame-stride n (for the published TaiChi model: 4)."
            )
        about.update(real.origin)
    return fake, real, about


def find_snapshot(path: str) -> Path | None:
    """The snapshot that a path refers to; None for a folder or zip of videos.

    Raises:
        UserError: It is a single video.
    """
    from training.checkpoints.pretrained import is_pretrained
    from training.checkpoints.snapshot import checkpoint_file
    from training.checkpoints.snapshot_files import SUFFIXES
    from training.data.names import MOVIE_SUFFIXES, RUN_OPTIONS

    if not os.path.isdir(path):
        if path.lower().endswith(MOVIE_SUFFIXES):
            raise UserError(f"--fake: '{path}' is a single video: give the folder that holds it.")
        return None if path.lower().endswith(".zip") or _is_zip_of_videos(path) else Path(path)
    is_run = any(name.endswith(SUFFIXES) or name == RUN_OPTIONS for name in os.listdir(path))
    return checkpoint_file(path) if is_run or is_pretrained(Path(path)) else None


def _is_zip_of_videos(path: str) -> bool:
    """True for a zip that is none of PyTorch's, whatever its suffix."""
    if not os.path.isfile(path):  # a pipe might never end
        return False
    with contextlib.suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        return not any(name.endswith(("/data.pkl", "/constants.pkl")) for name in archive.namelist())
    return False


def read_snapshot(path: str) -> tuple[Path, dict[str, Any], str]:
    """The snapshot that a path refers to, its content, and its SHA-256, the same on all processes.

    A run in progress may replace or delete it at any time: it is read again until all of them have read the same file.

    Raises:
        UserError: It cannot be read, or was a different file `ATTEMPTS` times, as with copies on several machines.
    """
    from dnnlib.downloads import sha256_of
    from torch_utils import distributed
    from training.checkpoints.snapshot import load_snapshot

    for _ in range(ATTEMPTS):
        snapshot, digest = find_snapshot(path), None
        before = file_identity(snapshot)
        content = load_snapshot(snapshot, average_only=True)  # raises a UserError if it is not there
        with contextlib.suppress(FileNotFoundError):
            digest = sha256_of(snapshot)
        digest = digest if file_identity(snapshot) == before else None
        digests = distributed.all_gather_objects(digest)
        if digest is not None and len(set(digests)) == 1:
            return snapshot, content, digest
    raise UserError(
        f"--fake: '{path}' keeps changing, or differs between the processes: give a snapshot, the same file for all."
    )


def open_generator(
    snapshot: Path, content: dict[str, Any], options: dict[str, Any], device: Any
) -> tuple[Any, dict[str, Any]]:
    """The videos of a generator, and the training options and progress recorded in its snapshot."""
    from metrics.generated_videos import GeneratedVideos, draw_labels
    from training.checkpoints.snapshot import average_generator

    generator = average_generator(content, source=snapshot, device=device)
    trained = {**content["dataset"], **content["progress"]}
    label = None
    if generator.c_dim > 0:
        if options["real"] is None:
            raise UserError("--real: this generator needs labels, which are sampled from those of the real videos.")
        stride = options["frame_stride"] or _trained_stride(trained) or 1
        label = draw_labels(options["real"], frame_stride=stride)
    nframes = options["nframes"] or trained.get("nframes") or 16
    return GeneratedVideos(generator, nframes=nframes, resolution=options["resolution"], label=label), trained


def _trained_stride(trained: dict[str, Any]) -> int | None:
    """The stride over frames of the source videos with which a generator was trained; None if it is unknown."""
    return trained.get("source_stride") or trained.get("frame_stride")


if __name__ == "__main__":
    # Under the module's own name: spawned processes import `run` by it, and do not import the __main__ of a package.
    from metrics.__main__ import main as command

    run_cli(lambda: command(standalone_mode=False, prog_name="python -m metrics"))
