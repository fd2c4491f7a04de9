"""The learning study as a command: it trains, measures and reports, and keeps what is done."""

import concurrent.futures
import functools
import json
import math
import os
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks.learning import __main__ as study
from benchmarks.learning import report, runs
from dnnlib import UserError
from tests.training.tiny import OVERRIDES
from training.checkpoints.snapshot_files import numbered_snapshots

TINY = tuple(
    x for x in OVERRIDES if not x.startswith(("kimg=", "spec.kimg_per_tick=", "nframes=", "previews.images", "seed="))
)


@pytest.fixture
def tiny(monkeypatch):
    """One main run, of four steps, and one ablation, and little to measure."""
    small = functools.partial(study.Sizes, contents=2, motions=4, views=2, meshes=1)
    monkeypatch.setattr(study, "Sizes", small)
    monkeypatch.setattr(study, "COMMON", (*TINY, "previews.images=2"))
    monkeypatch.setattr(runs, "COMMON", (*TINY, "previews.images=2"))
    monkeypatch.setattr(runs, "TICK_KIMG", 0.004)
    monkeypatch.setattr(runs, "SNAPSHOTS", 1)
    planned = study.plan_runs
    chosen = ("seed1", "no_motion")
    monkeypatch.setattr(study, "plan_runs", lambda *kimg: [run for run in planned(*kimg) if run.name in chosen])


class InThisProcess(concurrent.futures.ThreadPoolExecutor):
    """In place of a pool of processes, whose start takes longer than what there is to measure."""

    def __init__(self, jobs, mp_context):
        super().__init__(jobs)


def stamps(folder) -> dict:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def rows_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


def run(work, report, *words):
    result = CliRunner().invoke(
        study.main, [str(work), "--videos", "16", "--jobs", "1", "--report", str(report), *words]
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.slow
def test_it_trains_measures_reports_and_goes_on_where_it_was(tiny, tmp_path, monkeypatch):
    work, page = tmp_path / "work", tmp_path / "docs" / "learning.md"
    run(work, page, "--kimg", "0.016")
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", InThisProcess)
    results = sorted(path.name for path in (work / "results").glob("*.json"))
    assert [name for name in results if name.startswith("seed1")] and [x for x in results if x.startswith("no_motion")]
    figures = json.loads((work / "results" / results[0]).read_text())
    assert figures["rfvd"] > 0 and math.isfinite(figures["warp_ratio"])
    still = json.loads((work / "results" / [x for x in results if x.startswith("no_motion")][0]).read_text())
    assert still["frame_differences"] == {"1": 0.0, "5": 0.0, "15": 0.0}  # no motion network, no motion
    assert still["motion_ratio"] is None and still["content_ratio"] is None  # nothing over nothing

    text = page.read_text()
    assert "flat-geometry" not in text and "--kimg 0.016 --ablation-kimg 0.004` from" in text
    assert "Fréchet distance of 16 generated and 16 real" in " ".join(text.split()) and "written by hand" not in text
    assert "## Targets" in text and "no motion network" in text and "Not trained yet" not in text
    for name in ("curve", "samples", "motion", "views"):
        assert Image.open(page.with_name(f"learning-{name}.png")).width > 100
        assert f"](learning-{name}.png)" in text

    folder = next((work / "runs" / "seed1").glob("0*"))
    assert [row["kimg"] for row in rows_of(folder)][-1] == 0.016
    kept = {path: stamp for path, stamp in stamps(work).items() if "/data/" in path or path.endswith((".json", ".pt"))}
    kept = {path: stamp for path, stamp in kept.items() if "training-state" not in path and "snapshot" not in path}
    run(work, page, "--kimg", "0.024")
    assert [row["kimg"] for row in rows_of(folder)][-1] == 0.024  # the same run, continued
    assert len(list((work / "runs" / "seed1").glob("0*"))) == 1
    after = stamps(work)
    assert {path: after[path] for path in kept} == kept  # what was drawn and measured is kept
    measured = sorted((work / "results").glob("seed1-*.json"))
    assert len(measured) >= 2

    # Another snapshot with the same number of videos is measured anew.
    before = json.loads(measured[-1].read_text())
    *_, newest = numbered_snapshots(folder).values()
    newest.write_bytes(newest.read_bytes())
    os.utime(newest, ns=(1, 1))
    run(work, page, "--kimg", "0.024", "--measure-only")
    after = json.loads(measured[-1].read_text())
    assert before.pop("measured") != after.pop("measured") and before == after

    run(work, page, "--kimg", "0.024", "--ablation-kimg", "0", "--measure-only")
    alone = page.read_text()
    assert "--kimg 0.024 --ablation-kimg 0` from" in alone and "blations" not in alone and "## Geometry" in alone


def test_runs_that_there_are_none_of_are_told_at_once(tmp_path):
    work = tmp_path / "work"
    with pytest.raises(UserError) as caught:
        run(work, tmp_path / "page.md", "--measure-only")
    assert str(caught.value) == f"There is no snapshot of the run 'seed1' in {work}: leave out --measure-only."
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/page.md: File exists; check that the folder exists and may be"):
        run(work, tmp_path / "file" / "page.md")
    assert os.listdir(tmp_path) == ["file"]


def test_a_training_that_fails_is_named(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "COMMON", (*TINY, "spec.mb=3"))
    with pytest.raises(UserError, match=r"The training 'seed1' ended early; see .*output\.txt"):
        run(tmp_path / "work", tmp_path / "page.md", "--kimg", "0.016")
    assert "spec.mb=3" in (tmp_path / "work" / "runs" / "seed1" / "output.txt").read_text()


def test_a_stopped_study_begins_no_further_training(tmp_path, monkeypatch):
    """Trainings that run are asked to stop, wherever the signal came from."""
    begun = []

    class Training(subprocess.Popen):
        def __init__(self, command, **options):
            begun.append(command)
            super().__init__(["sleep", "60"], **options)

    monkeypatch.setattr(runs.subprocess, "Popen", Training)

    def interrupted(*_):
        while len(begun) < 2:
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "_watch", interrupted)
    planned, start = runs.plan_runs(20, 5, None), time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        runs.train_all(tmp_path, planned, data=tmp_path, device="cpu", jobs=2)
    assert len(begun) == 2 and time.monotonic() - start < 30


@pytest.mark.parametrize(
    "kimg, ablation_kimg, expected", [(24, 6, 4), (24, 8, 4), (20, 5, 2), (120, 30, 20), (1, 0.7, 1)]
)
def test_the_full_model_is_saved_where_the_ablations_end(kimg, ablation_kimg, expected):
    interval = runs._snapshot_interval(runs.plan_runs(kimg, ablation_kimg, None))
    assert interval == expected and round(ablation_kimg / runs.TICK_KIMG) % interval == 0


@pytest.mark.parametrize("words, expected", [([], 5), (["--ablation-kimg", "3"], 3)])
def test_ablations_have_a_quarter_of_the_budget_unless_told(words, expected, tiny, tmp_path, monkeypatch):
    planned = {}
    monkeypatch.setattr(study, "plan_runs", lambda *kimg: planned.setdefault("runs", runs.plan_runs(*kimg)))
    monkeypatch.setattr(study, "make_dataset", lambda *_, **__: None)
    monkeypatch.setattr(study, "train_all", lambda *_, **__: sys.exit(0))
    run(tmp_path / "work", tmp_path / "page.md", "--kimg", "20", *words)
    full, shorter = runs.full_runs(planned["runs"]), runs.ablations(planned["runs"])
    assert {run.kimg for run in full} == {20} and {run.kimg for run in shorter} == {expected}
    assert [run.name for run in full] == ["seed1", "seed2", "seed3", "unknown_cameras", "paper"]
    rates = {run.name: [word for word in run.overrides if "lrate" in word] for run in planned["runs"]}
    slow = ["spec.lrate=0.0025", "spec.lrate_decay=null"]
    assert {name for name, rate in rates.items() if rate == slow} == {"paper", "slow"}
    assert len({(run.name, run.overrides) for run in planned["runs"]}) == 14


def test_long_runs_average_over_more_videos():
    assert [run for run in runs.plan_runs(20, 5, None) if not run.ablation] == runs.plan_runs(20, 0, None)
    added = [run for run in runs.plan_runs(20, 5, 120) if run not in runs.plan_runs(20, 5, None)]
    assert [(run.name, run.kimg) for run in added] == [("long", 120), ("long_unknown", 120)]
    assert all("spec.ema=5" in run.overrides and run in runs.full_runs(added) for run in added)
    assert [runs.KNOWN_CAMERAS in run.overrides for run in added] == [True, False]


def test_a_run_without_any_surface_is_reported():
    """Its correlations and its share of convex faces are null: nothing over nothing."""
    row = {"kimg": 24.0, "rfvd": 8.1, "warp_ratio": 1.01, "outlines": [0.0] * 4, "frame_differences": {"1": 2.0}}
    row |= dict.fromkeys(["depth_correlation", "relief_correlation", "convex_share", "motion_ratio"])
    run = runs.Run("paper", "no density prior", 24)
    table = report._targets([run], {"paper": [row]}, {**row, "frame_differences": {"1": 1.0, "5": 1.0, "15": 1.0}})
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ")[2] for line in table.splitlines() if " | " in line}
    assert cells["convex faces"] == cells["depth correlation"] == "–"
    assert cells["rfvd"] == "**8.1**" and cells["kimg"] == "24"


def test_less_is_asked_of_warping_where_cameras_are_unknown():
    row = {"warp_ratio": 1.4}
    known, unknown = runs.Run("known", "known", 24, (runs.KNOWN_CAMERAS,)), runs.Run("unknown", "unknown", 24)
    table = report._targets([known, unknown], {"known": [row], "unknown": [row]}, {"warp_ratio": 2.0})
    assert "| ≥ 1.6; no camera labels ≥ 1.3 | **1.40** | 1.40 | 2.00 |" in table


def test_a_missed_target_is_not_rounded_to_it():
    known, unknown = runs.Run("known", "known", 24, (runs.KNOWN_CAMERAS,)), runs.Run("unknown", "unknown", 24)
    row = {"warp_ratio": 1.5993, "rfvd": 7.9004, "frame_differences": {"1": 1.2503, "5": 1.0, "15": 0.9}}
    row |= {"motion_ratio": 5.0, "shuffled": {"motion_ratio": 0.9}, "outlines": [0.9] * 949 + [0.1] * 51}
    scenes = {"rfvd_halves": 4.86, "frame_differences": {"1": 1.0, "5": 1.0, "15": 1.0}, "warp_ratio": 2.0}
    table = report._targets([known, unknown], {"known": [row], "unknown": [row]}, scenes)
    assert "| **1.599** | 1.60 | 2.00 |" in table
    assert "| ≤ 7.9 | **7.9004** | **7.9004** | 4.9 (two halves) |" in table
    assert "| within 25 % | **+25.03%, +0.00%, -10.00%** | **+25.03%, +0.00%, -10.00%** |  |" in table
    assert "| ≥ 5 | 5.0; shuffled 0.90 | 5.0; shuffled 0.90 |  |" in table
    assert "| ≥ 38 of 40 | **949 of 1000** | **949 of 1000** |  |" in table


def test_the_notes_are_on_the_page():
    page, notes = (path.read_text(encoding="utf-8") for path in (report.PAGE, report.NOTES))
    findings, rest = notes.split("\n## ", 1)
    assert page.startswith(f"# What the small model learns\n\n{findings}\n## Setup\n")
    assert page.endswith(f"\n\n## {rest}")
