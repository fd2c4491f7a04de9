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
from dnnlib import UserError, atomic_write
from metrics.distances import frechet_distance_of_features
from renderer.cameras import CameraPrior
from training.checkpoints.snapshot import load_snapshot
from training.data.dataset import VideoPairDataset

__all__ = ["make_reference", "measure_all", "require_snapshot"]


def _reference_file(work: Path, data: str) -> Path:
    return work / "results" / f"reference-{data}.pt"


def make_reference(work: Path, options: dict, sizes: Sizes, *, data: str) -> dict:
    """Reference of the snapshots: features of real clips, and results of the ground-truth scenes.

    Args:
        data: `SyntheticConfig.key` of the dataset.
    """
    path = _reference_file(work, data)
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


def measure(work: Path, run: Run, snapshot: Path, shown: int, sizes: Sizes, thorough: bool, data: str) -> None:
    """Evaluate the snapshot after `shown` videos unless that is done; called in a process of its own."""
    path = work / "results" / f"{run.name}-{shown:09d}.json"
    status = snapshot.stat()
    measured = {"data": data, "snapshot": [status.st_size, status.st_mtime_ns]}
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known.get("measured") == measured and (not thorough or "motion_ratio" in known):
            return
    torch.set_num_threads(1)
    reference = torch.load(_reference_file(work, data), weights_only=True)
    figures = evaluate_snapshot(snapshot, reference["features"], reference["truth"], sizes, thorough=thorough)
    with atomic_write(path, "w") as file:
        json.dump({**_finite(figures), "measured": measured}, file, indent=1)


def _finite(value):
    """A value with None for NaN and infinity, which JSON does not have: a ratio to zero becomes null."""
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return value if math.isfinite(value) else None


def require_snapshot(work: Path, run: Run) -> None:
    """Raise a UserError if a run has no snapshot."""
    folder = run_folder(work, run)
    if folder is None or not snapshots(folder):
        raise UserError(f"There is no snapshot of the run '{run.name}' in {work}: leave out --measure-only.")


def measure_all(work: Path, runs: list[Run], sizes: Sizes, jobs: int, *, data: str) -> None:
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
        todo += [(work, run, path, count, sizes, count in thorough, data) for path, count in zip(chosen, shown)]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        tasks = [pool.submit(measure, *arguments) for arguments in todo]
        try:
            done = concurrent.futures.as_completed(tasks)
            for task in tqdm(done, total=len(tasks), desc="measuring", unit="snapshot", disable=None):
                task.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
