"""Training runs of the study: their names and options, run by the command line of the training."""

import concurrent.futures
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from dnnlib import UserError
from training.checkpoints.snapshot_files import numbered_snapshots

__all__ = [
    "COMMON",
    "DEVICES",
    "LONG_AVERAGE",
    "SEEDS",
    "Run",
    "ablations",
    "full_runs",
    "plan_runs",
    "run_folder",
    "snapshots",
    "train_all",
]

ROOT = Path(__file__).resolve().parents[2]
TICK_KIMG = 0.5
SNAPSHOTS = 10  # of the main run, besides the first

# Common options of all runs.
COMMON = ("model=stylenerf_small", "spec=small")
# Options that do not change the results, up to rounding and the random numbers of a device.
DEVICES = {
    "cpu": ("device=cpu", "workers=0", "previews.videos=0"),
    "cuda": ("device=cuda", "workers=1", "previews.videos=0", "cuda_graphs=true", "fp32=true"),
}
KNOWN_CAMERAS = "camera_condition=true"
LONG_AVERAGE = "spec.ema=5"  # of the long runs
# Seeds of the main runs. Settings were chosen on seeds 0 and 1, the learning rate on seeds 0 and 2.
SEEDS = (1, 2, 3)


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run: its folder below WORK/runs, title in tables, length, and the options that differ."""

    name: str
    title: str
    kimg: float
    overrides: tuple[str, ...] = ()
    ablation: bool = False


def plan_runs(kimg: float, ablation_kimg: float, long_kimg: float | None) -> list[Run]:
    """The main run with three seeds, one without camera labels, one also with the paper's loss and schedule, ablations.

    With `long_kimg`, two more with other seeds: with camera labels and without. Ablations of length 0 are left out.
    """
    foreground = "model.generator.foreground"
    line, no_distortion = "model.generator.motion.frequency=null", "spec.distortion_weight=0"
    no_ramp, slow = f"{foreground}.density_ramp=null", ("spec.lrate=0.0025", "spec.lrate_decay=null")
    no_prior = (f"{foreground}.density_prior=null", f"{foreground}.density_bias=0", no_ramp)
    papers_schedule = (*no_prior, line, no_distortion, *slow, "model.generator.rendering.sampling_multiplier=1")
    return [
        *(Run(f"seed{seed}", f"full model, seed {seed}", kimg, (KNOWN_CAMERAS, f"seed={seed}")) for seed in SEEDS),
        Run("unknown_cameras", "no camera labels", kimg),
        Run("paper", "no camera labels; paper's loss and schedule, no density prior", kimg, papers_schedule),
        *(
            Run(name, f"long, {title}", long_kimg, (LONG_AVERAGE, *overrides))
            for name, title, overrides in (
                ("long", "full model", (KNOWN_CAMERAS, "seed=4")),
                ("long_unknown", "no camera labels", ("seed=5",)),
            )
            if long_kimg is not None
        ),
        *(
            Run(name, title, ablation_kimg, (KNOWN_CAMERAS, *overrides), ablation=True)
            for name, title, *overrides in (
                ("no_prior", "no density prior", f"{foreground}.density_prior=null"),
                ("no_ramp", "no density ramp", no_ramp),
                ("slow", "the paper's learning rate", *slow),
                ("no_distortion", "no distortion loss", no_distortion),
                ("no_waves", "linear motion", line),
                ("no_motion", "no motion network", "model.generator.motion=null"),
                ("no_background", "no background", "model.generator.background=null"),
                ("no_image_discriminator", "no image discriminator", "model.discriminator.image=false"),
                ("no_path_loss", "no NeRF-path loss", "spec.path_weight=0"),
            )
            if ablation_kimg > 0
        ),
    ]


def full_runs(runs: Sequence[Run]) -> list[Run]:
    """The runs of full length and longer, the main run first."""
    return [run for run in runs if not run.ablation]


def ablations(runs: Sequence[Run]) -> list[Run]:
    """The shorter runs."""
    return [run for run in runs if run.ablation]


def run_folder(work: Path, run: Run) -> Path | None:
    """The run folder; None before the run has begun."""
    folders = sorted((work / "runs" / run.name).glob("0*"))
    return folders[-1] if folders else None


def snapshots(folder: Path) -> list[Path]:
    """The network snapshots of a run, oldest first."""
    return list(numbered_snapshots(folder).values())


def train_all(work: Path, runs: Sequence[Run], *, data: Path, device: str, jobs: int) -> None:
    """Train the unfinished runs, `jobs` at a time with one thread each, on a device of `DEVICES`.

    Raises:
        UserError: A training failed; names the file of its output.
    """
    todo = [run for run in runs if _kimg(work, run) < run.kimg]
    if not todo:
        return
    # Small tensors: two runs with a thread each are faster than one after the other with two threads.
    interval = _snapshot_interval(runs)
    running: set[subprocess.Popen] = set()
    stopped = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        started = [pool.submit(_train, work, run, data, device, interval, running, stopped) for run in todo]
        try:
            _watch(work, todo, started)
        except BaseException:  # Ctrl-C or another signal: no other training begins, and those that run save their state
            pool.shutdown(wait=False, cancel_futures=True)
            stopped.set()
            for process in list(running):
                process.terminate()
            raise
        for task in started:
            task.result()


def _snapshot_interval(runs: Sequence[Run]) -> int:
    """Ticks between snapshots: about `SNAPSHOTS` of the main run, one of them at the length of the ablations."""
    most = max(round(runs[0].kimg / SNAPSHOTS / TICK_KIMG), 1)
    shortest = round(min(run.kimg for run in runs) / TICK_KIMG)
    return max(ticks for ticks in range(1, most + 1) if shortest % ticks == 0)


def _train(
    work: Path,
    run: Run,
    data: Path,
    device: str,
    interval: int,
    running: set[subprocess.Popen],
    stopped: threading.Event,
) -> None:
    folder = run_folder(work, run)
    outdir = work / "runs" / run.name
    outdir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / "run_train.py"), f"outdir={outdir}", f"data={data}"]
    command += [*COMMON, *DEVICES[device], *run.overrides]
    command += [f"kimg={run.kimg:g}", f"spec.kimg_per_tick={TICK_KIMG}", f"snap={interval}", "imgsnap=2"]
    if folder is not None:
        command.append(f"resume_run={folder}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (
        open(outdir / "output.txt", "a", encoding="utf-8") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=environment) as process,
    ):
        running.add(process)
        if stopped.is_set():  # while it was started
            process.terminate()
        process.wait()
        running.discard(process)
    if process.returncode or _kimg(work, run) < run.kimg:
        raise UserError(
            f"The training '{run.name}' ended early; see {outdir / 'output.txt'}. The same command goes on."
        )


def _kimg(work: Path, run: Run) -> float:
    """Progress of a run in kimg."""
    folder = run_folder(work, run)
    if folder is None:
        return 0.0
    try:
        *_, last = (folder / "stats.jsonl").read_text(encoding="utf-8").splitlines()
        return float(json.loads(last)["kimg"])
    except (OSError, ValueError, KeyError):  # it has not reported yet
        return 0.0


def _watch(work: Path, runs: Sequence[Run], tasks: Sequence[concurrent.futures.Future]) -> None:
    """A progress bar over all runs."""
    total = sum(run.kimg for run in runs)
    form = "{l_bar}{bar}| {n:.1f}/{total:g} kimg [{elapsed}]"
    with tqdm(total=total, desc="training", disable=None, bar_format=form) as bar:
        while not all(task.done() for task in tasks):
            bar.n = min(sum(_kimg(work, run) for run in runs), total)
            bar.refresh()
            time.sleep(2)
