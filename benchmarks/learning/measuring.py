"""Evaluation of the snapshots of a study in several processes; results are kept in WORK/results.

This is not in __main__: spawned processes do not import the __main__ of a package.
"""

import concurrent.futures
import json
import math
import multiprocessing
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.learning.evaluation import Sizes, evaluate_snapshot, figures_of_scenes, real_features
from benchmarks.learning.runs import Run, run_folder, snapshots
from dnnlib import atomic_write
from metrics.distances import frechet_distance_of_features
from renderer.cameras import CameraPrior
from training.checkpoints.snapshot import load_snapshot
from training.data.dataset import VideoPairDataset

__all__ = ["make_reference", "measure_all"]


def make_reference(work: Path, options: dict, sizes: Sizes) -> dict:
    """Reference of the snapshots: features of real clips, and results of the ground-truth scenes."""
    path = work / "results" / "reference.pt"
    if path.exists():
        return torch.load(path, weights_only=True)
    generator = options["model"]["generator"]
    dataset = VideoPairDataset(path=work / "data", resolution=options["resolution"], nframes=sizes.frames)
    features, differences = real_features(dataset, sizes)
    figures, truth = figures_of_scenes(
        CameraPrior(**generator["camera"]), options["resolution"], generator["rendering"]["resolution"], sizes
    )
    figures["frame_differences"] = differences
    figures["rfvd_halves"] = frechet_distance_of_features(features[::2].numpy(), features[1::2].numpy())
    reference = {"features": features, "figures": figures, "truth": truth}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        torch.save(reference, file)
    return reference


def measure(work: Path, run: Run, snapshot: Path, shown: int, sizes: Sizes, thorough: bool) -> None:
    """Evaluate the snapshot after `shown` videos unless that is done; called in a process of its own."""
    path = work / "results" / f"{run.name}-{shown:09d}.json"
    if path.exists() and (not thorough or "motion_ratio" in json.loads(path.read_text(encoding="utf-8"))):
        return
    torch.set_num_threads(1)
    reference = torch.load(work / "results" / "reference.pt", weights_only=True)
    figures = evaluate_snapshot(snapshot, reference["features"], reference["truth"], sizes, thorough=thorough)
    with atomic_write(path, "w") as file:
        json.dump(_finite(figures), file, indent=1)


def _finite(value):
    """A value with None for NaN and infinity, which JSON does not have: a ratio to zero becomes null."""
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return value if math.isfinite(value) else None


def measure_all(work: Path, runs: list[Run], sizes: Sizes, jobs: int) -> None:
    """Evaluate all snapshots of the first run and the last ones of the others; thoroughly at the ends of all runs."""
    todo = []
    for run in runs:
        folder = run_folder(work, run)
        found = snapshots(folder) if folder is not None else []
        chosen = found if run is runs[0] else found[-1:]
        shown = [load_snapshot(path, average_only=True)["progress"]["cur_nimg"] for path in chosen]
        # The snapshots at the length of the ablations, and the last one.
        shortest = 1000 * min(other.kimg for other in runs)
        thorough = {min(shown, key=lambda n: abs(n - shortest)), max(shown)} if shown else set()
        todo += [(work, run, path, count, sizes, count in thorough) for path, count in zip(chosen, shown)]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        tasks = [pool.submit(measure, *arguments) for arguments in todo]
        for task in tqdm(concurrent.futures.as_completed(tasks), total=len(tasks), desc="measuring", unit="snapshot"):
            task.result()
