"""The training command: user errors end in one line before anything is made; a run is made, killed, and resumed."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click.testing
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import generate
import run_train
from dnnlib import UserError, run_cli
from metrics import __main__ as metrics_command
from metrics.evaluator import Evaluator
from metrics.generated_videos import GeneratedClips
from metrics.metric_functions import STATISTICS
from metrics.real_videos import StoredVideos
from metrics.registry import find_metric
from tests.metrics.detector_files import SmallIdentity, save_i3d, save_torchscript
from tests.small_network import small_generator
from tests.training.tiny import OVERRIDES, make_loop, write_frames
from training.checkpoints.snapshot import load_average_generator
from training.checkpoints.training_state import read_state
from training.data import loader
from training.data.annotations import FRAMES_FORMAT
from training.dataset_tool.prepare import prepare
from training.launch import devices, setup, validate
from training.launch.config import compose_options
from training.networks.discriminator import TimeAwareDiscriminators
from training.networks.generator import Generator
from training.networks.model_summary import memory_bytes, size_report
from training.report.__main__ import write_report
from training.report.charts import number_text
from training.training_loop import TrainingLoop

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_frames(tmp_path_factory.mktemp("frames") / "data")


def call(monkeypatch, *words, program="run_train.py") -> int:
    """Run the command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", [program, *words])
    with pytest.raises(SystemExit) as caught:
        run_cli(run_train.main)
    return caught.value.code


def start(*words) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "run_train.py"), *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


# ----------------------------------------------------------------------------------------------------------------------
# Mistakes


def no_dataset(tmp):
    return ["data=" + str(tmp / "nowhere")], "nowhere"


def empty_dataset(tmp):
    (tmp / "empty").mkdir()
    return ["data=" + str(tmp / "empty")], "empty"


def short_clips(tmp):
    return ["nframes=5"], "shorter than nframes=5"


def unreadable_labels(tmp):
    return ["cond=true"], "dataset.json"


def unknown_option(tmp):
    return ["nframse=3"], "did you mean nframes"


def unknown_network_option(tmp):
    return ["model.generator.foreground.widht=3"], "model.generator.foreground.widht"


def unknown_argument(tmp):
    return ["+model.generator.foreground.hair=long"], "hair"


def unknown_model(tmp):
    return ["model=stylenerf_cats"], "choose from"


def batch_not_divisible(tmp):
    return ["spec.mb=5"], "spec.mb=5 is not a multiple of gpus × spec.mbstd = 1 × 2"


def group_across_passes(tmp):
    words = ["model.discriminator.mbstd_group=3"]  # of 2 videos and 4 frames
    return words, "model.discriminator.mbstd_group=3 does not divide a pass of 2 videos"


def resolution_no_power_of_two(tmp):
    return ["resolution=48"], "resolution=48 is not a power of two; use 32 or 64"


def resolution_too_small(tmp):
    return ["resolution=8", "model.generator.rendering.resolution=32"], "resolution"


def wrong_type(tmp):
    return ["spec.mb=many"], "spec.mb must be an integer of at least 1, got 'many'"


def negative(tmp):
    return ["spec.lrate=-1"], "spec.lrate must be a number above 0, got -1"


def no_checkpoint(tmp):
    return ["resume=" + str(tmp / "x.pkl")], "no file"


def lfs_checkpoint(tmp):
    (tmp / "x.pkl").write_text("version https://git-lfs.github.com/spec/v1\n")
    return ["resume=" + str(tmp / "x.pkl")], "git lfs pull"


def no_run(tmp):
    return ["resume_run=7"], "no run folder 00007-"


def no_run_folder(tmp):
    return ["resume_run=" + str(tmp / "nowhere")], "no such folder"


def not_a_run_folder(tmp):
    return ["resume_run=" + str(tmp)], "training_options.yaml"


def folder_of_runs(tmp):
    (tmp / "00000-x").mkdir()
    (tmp / "00000-x" / "training_options.yaml").touch()
    return ["resume_run=" + str(tmp)], "is a folder of runs: give one of them, or outdir="


def options_cut_off(tmp):
    whole = validate.dump_options(compose_options(["outdir=runs"]))
    (tmp / "training_options.yaml").write_text(whole[: whole.index("names:")])
    return ["resume_run=" + str(tmp)], "its training_options.yaml is damaged or incomplete; start a new run"


def empty_options(tmp):
    (tmp / "training_options.yaml").touch()
    return ["resume_run=" + str(tmp)], "its training_options.yaml is damaged or incomplete; start a new run"


def both_resumes(tmp):
    return ["resume=x", "resume_run=0"], "only one"


def unknown_metric(tmp):
    return ["metrics=fvd,fid"], "no metric 'fvd'"


def unknown_policy(tmp):
    return ["diffaugment=colour"], "colour"


def p_without_augmentation(tmp):
    return ["p=0.5"], "p= needs aug="


def fixed_without_p(tmp):
    return ["aug=fixed"], "aug=fixed needs p="


def target_without_ada(tmp):
    return ["aug=fixed", "p=0.1", "target=0.5"], "target= needs aug=ada"


def unknown_pipeline(tmp):
    return ["aug=ada", "augpipe=all"], "all"


def bands_of_small_frames(tmp):
    return ["aug=ada", "augpipe=bgcf"], "augpipe=bgcf filters frequency bands and needs frames of at least 22 pixels"


def bands_of_smaller_frames(tmp):
    words = ["aug=fixed", "p=0.1", "augpipe=filter", "resolution=8", "model.generator.rendering.resolution=4"]
    return words, "not resolution=8; use a pipeline without them, e.g. augpipe=bgc"


def unknown_device(tmp):
    return ["device=tpu"], "device must be one of cpu, cuda"


def file_for_a_group(tmp):
    return ["detectors=i3d.pt"], "detectors is a group of options, not 'i3d.pt'; write detectors.NAME=VALUE"


def null_for_a_group(tmp):
    return ["previews=null"], "previews is a group of options, not None; write previews.NAME=VALUE"


def outdir_is_a_file(tmp):
    (tmp / "file").touch()
    return ["outdir=" + str(tmp / "file" / "x")], "is a file, not a folder"


MISTAKES = [
    no_dataset, empty_dataset, short_clips, unreadable_labels, unknown_option, unknown_network_option, unknown_argument,
    unknown_model, batch_not_divisible, group_across_passes, resolution_no_power_of_two, resolution_too_small,
    wrong_type, negative, no_checkpoint, lfs_checkpoint, no_run, no_run_folder, not_a_run_folder, both_resumes,
    unknown_metric, unknown_policy, p_without_augmentation, fixed_without_p, target_without_ada, unknown_pipeline,
    bands_of_small_frames, bands_of_smaller_frames, unknown_device, file_for_a_group, null_for_a_group,
    outdir_is_a_file, folder_of_runs, options_cut_off, empty_options,
]  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda function: function.__name__)
def test_mistakes(mistake, tmp_path, data, monkeypatch, capsys):
    words, message = mistake(tmp_path)
    files = sorted(tmp_path.rglob("*"))
    code = call(monkeypatch, f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, *words)
    assert code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err
    assert sorted(tmp_path.rglob("*")) == files  # nothing was made


@pytest.mark.parametrize("option", ["outdir", "data", "resume", "resume_run", "cache_metrics_dir", "detectors.i3d"])
def test_names_that_are_too_long(option, tmp_path, data, monkeypatch, capsys):
    words = [f"outdir={tmp_path / 'runs'}", f"data={data}", "metrics=fvd64_16f", *OVERRIDES, f"{option}={'9' * 5000}"]
    assert call(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert re.match(rf"error: (detector )?{option.split('.')[-1]}=9+… is too long for the name of a file", error)
    assert error.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_a_cache_that_cannot_be_made(tmp_path, data, monkeypatch, capsys):
    """Reported at once, although metrics are computed only after the first snapshots."""
    (tmp_path / "file").touch()
    words = ["metrics=warping32_2v", f"cache_metrics_dir={tmp_path / 'file' / 'cache'}"]
    assert call(monkeypatch, f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, *words) == 2
    assert "file is a file, not a folder." in capsys.readouterr().err and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("option", ["data", "outdir", "resume", "resume_run", "detectors.i3d", "diffaugment"])
@pytest.mark.parametrize("value", ["", "''"])
def test_empty_strings(option, value, tmp_path, data, monkeypatch, capsys):
    # of `resume=$UNSET`: a run from scratch, or without `data=` one on other data, would not be noticed
    words = [f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, f"{option}={value}"]
    assert call(monkeypatch, *words) == 2
    assert capsys.readouterr().err == f"error: {option}= is empty; give a value, or leave it out.\n"
    assert list(tmp_path.iterdir()) == []


def test_missing_outdir(tmp_path, data, monkeypatch, capsys):
    assert call(monkeypatch, f"data={data}") == 2
    assert "outdir= is missing" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_cuda_without_a_device(tmp_path, data, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert call(monkeypatch, f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, "device=cuda") == 2
    assert "use device=cpu" in capsys.readouterr().err


def test_no_space(tmp_path, data, monkeypatch, capsys):
    monkeypatch.setattr(validate.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    assert call(monkeypatch, f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES) == 2
    assert "not enough space: 1000 B are free" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_no_permission(tmp_path, data, monkeypatch, capsys):
    # A mocked answer: the user of the tests may be allowed to write everywhere.
    monkeypatch.setattr(validate.os, "access", lambda path, mode: path != tmp_path)
    assert call(monkeypatch, f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES) == 2
    assert f"no permission to write in {tmp_path}" in capsys.readouterr().err


def test_a_run_in_a_folder_that_may_not_be_written(tmp_path, data, monkeypatch):
    """Only features of real videos are kept beside the run folder."""
    run = tmp_path / "runs" / "00000-a"
    run.mkdir(parents=True)
    words = [f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES]
    (run / validate.RUN_OPTIONS).write_text(validate.dump_options(validate.plan(words).options))
    allowed, measured = {run}, []
    monkeypatch.setattr(validate.os, "access", lambda path, mode: path in allowed)
    usage = shutil.disk_usage
    monkeypatch.setattr(validate.shutil, "disk_usage", lambda path: measured.append(path) or usage(path))
    assert validate.plan([f"resume_run={run}"]).run_folder == run and measured == [run]
    metric = {"metrics": ["fid50k_full"]}
    inspected = {"metrics": ["fid50k_full", "flatness32_1v"], "inspect": run_train.metric_inputs}
    assert validate.plan([f"resume_run={run}", "metrics=flatness32_1v"], **inspected).run_folder == run
    with pytest.raises(UserError) as caught:
        validate.plan([f"resume_run={run}", "metrics=fid50k_full"], **inspected)
    assert str(caught.value) == (
        f"cache_metrics_dir={run.parent}/metrics_cache: no permission to write in {run.parent}."
    )
    allowed.add(tmp_path)
    words = [f"resume_run={run}", "metrics=fid50k_full", f"cache_metrics_dir={tmp_path}/cache"]
    assert validate.plan(words, metrics=metric["metrics"]).run_folder == run
    allowed.clear()
    with pytest.raises(UserError, match=f"^outdir={run}: no permission to write in {run}.$"):
        validate.plan([f"resume_run={run}"])


# ----------------------------------------------------------------------------------------------------------------------
# What is said


def test_dry_run(tmp_path, data, monkeypatch, capsys):
    words = [
        f"outdir={tmp_path / 'runs'}",
        f"data={data}",
        *OVERRIDES,
        "spec.mb=8",
        "spec.ref_gpus=2",
        "spec.microbatch=3",
    ]
    words.append("dry_run=true")
    assert call(monkeypatch, *words) == 0
    text = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert "gpus=2, but 1 will be used" in text
    assert "Gradients are accumulated over 4 passes; the batch stays 8 videos." in text
    options = yaml.safe_load(text[text.index("model:") : text.index("dataset ")])
    assert options["spec"]["mb"] == 8 and options["names"]["model"] == "stylenerf_small"
    assert "num_videos 5" in text and "num_clips 5" in text
    # 8 videos of 2 frames; 8×8 rays of the image and 4×4 of the lattice; 4 samples, and 4 of the background.
    rays = 8 * 2 * (64 + 16)
    assert f"rays       {rays:,d} per generator step, {rays // 4:,d} per pass" in text
    assert f"samples    {rays * 4 + rays // 2 * 4:,d} per generator step" in text
    generator = validate.plan(words).generator
    mapping = sum(p.numel() for p in generator.mapping.parameters())
    assert re.search(rf"mapping +{mapping:,d}\n", text)
    assert re.search(r"peak +\d+\.\d [KM]iB", text)


@pytest.mark.parametrize(
    "words, frames, rays, fields",
    [
        ([], 2, 64 + 16, 1),
        (["spec.path_weight=0"], 2, 64 + 16, 1),  # the distortion loss has the same rays
        (["spec.path_weight=0", "spec.distortion_weight=0"], 2, 64, 1),
        (["nframes=1", "model.generator.foreground.static=mask"], 1, 64 + 16, 2),
    ],
)
def test_the_dry_run_counts_what_is_rendered(tmp_path, data, words, frames, rays, fields):
    base = [f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, "spec.distortion_weight=0.1", "dry_run=true"]
    made = validate.plan([*base, *words])
    lines = size_report(made.generator, made.discriminator, options=made.options, processes=1, snapshots=1)
    micro, batch = made.options["spec"]["microbatch"], made.options["spec"]["mb"]
    samples = rays * (frames * 4 + 4)
    assert f"rays       {batch * frames * rays:,d} per generator step, {micro * frames * rays:,d} per pass" in lines
    assert f"samples    {batch * samples:,d} per generator step, {micro * samples:,d} per pass" in lines
    config = made.generator.config["foreground"]
    units = (config["width"] * config["num_layers"] + config["feature_dim"] + 3) * fields
    assert any(f"× {micro * samples:,d} samples × {units:,d} units" in line for line in lines)
    assert any("path loss" in line and "× 0 samples" in line for line in lines) == ("spec.path_weight=0" in words)


@pytest.mark.parametrize(
    "words, count",
    [
        (["kimg=100", "spec.kimg_per_tick=10", "snap=5"], 3),  # after 4 videos, 50 and 100 thousand
        (["kimg=99", "spec.kimg_per_tick=10", "snap=5"], 3),
        (["kimg=99", "spec.kimg_per_tick=10", "snap=5", "keep=2"], 2),
        (["kimg=100", "spec.kimg_per_tick=10", "snap=null"], 1),
        (["kimg=3", "spec.kimg_per_tick=0.5", "snap=1"], 4),  # named 0 to 3, although due seven times
        (["kimg=0.032", "snap=1"], 1),
        (["kimg=24.5", "spec.kimg_per_tick=4", "snap=1"], 7),  # the last replaces that of 24 thousand
        (["kimg=0.032", "spec.kimg_per_tick=0.0001", "snap=1"], 1),
        (["kimg=12", "spec.kimg_per_tick=0.001", "snap=1000"], 4),  # a tick is at least an iteration
    ],
)
def test_the_dry_run_counts_the_snapshots_on_disk(tmp_path, data, words, count, capsys):
    made = validate.plan([f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, *words])
    run_train.print_dry_run(made)
    assert f"\ndisk       {count} snapshots × " in capsys.readouterr().out


def test_memory_of_networks_whose_arguments_are_left_out():
    """As in a file of conf/model without the base, where the constructors' defaults hold."""
    given = {
        "foreground": {"width": 128, "num_layers": 8, "feature_dim": 256},
        "upsampler": {"channel_base": 1.0, "channel_max": 512},
    }
    counts = {"videos": 2, "frames": 2, "lattice": True, "path_loss": True}
    with torch.device("meta"):
        discriminator = TimeAwareDiscriminators(resolution=64)
        full = TimeAwareDiscriminators(resolution=64, channel_base=1.0, channel_max=512)
        expected = memory_bytes(Generator(resolution=64, **given), full, **counts)
        assert memory_bytes(Generator(resolution=64), discriminator, **counts) == expected


def test_a_dry_run_in_any_surroundings(tmp_path, data):
    """ASCII output, and variables left over from another launcher."""
    left = {"PYTHONIOENCODING": "ascii", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "3", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "run_train.py"), f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES]
    done = subprocess.run([*command, "dry_run=true"], capture_output=True, env={**os.environ, **left}, timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"device     1 \\xd7 cpu\n" in done.stdout


def test_options_that_cannot_be_written_leave_no_run_folder(tmp_path, monkeypatch):
    def full(folder, options):
        raise UserError("there is no space left")

    monkeypatch.setattr(validate, "write_options", full)
    job = types.SimpleNamespace(run_folder=None, options={"outdir": str(tmp_path)}, description="x")
    with pytest.raises(UserError, match="there is no space left"):
        run_train.open_run_folder(job, {})
    assert list(tmp_path.iterdir()) == []


def test_without_a_temporary_folder_nothing_is_made(tmp_path, data, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/nonexistent"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    assert call(monkeypatch, f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES) == 2
    assert "error: There is no folder for temporary files" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_fewer_devices_share_what_they_can(tmp_path, data, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    words = [f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, "device=cuda", "spec.mb=16", "gpus=4"]
    found = {}
    for count in (1, 2, 3, 4, 8):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        plan = validate.plan(words)
        found[count] = plan.processes, len(plan.notes)
    assert found == {1: (1, 1), 2: (2, 1), 3: (2, 1), 4: (4, 0), 8: (4, 0)}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert validate.plan([*words, "spec.microbatch=16"]).notes == [
        "gpus=4, but 1 will be used: that many are available and can share the batch. The batch stays 16 videos."
    ]


@pytest.mark.parametrize(
    "batch, group, most, expected",
    [(16, 8, 16, 16), (16, 8, 8, 8), (8, 8, 16, 8), (48, 8, 32, 24), (16, 8, 4, 8), (24, 12, 16, 12)],
)
def test_groups_per_pass(batch, group, most, expected, tmp_path, data):
    sizes = [f"spec.mb={batch}", f"spec.mbstd={group}", f"spec.microbatch={most}"]
    plan = validate.plan([f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, *sizes])
    assert plan.options["spec"]["microbatch"] == expected


@pytest.mark.parametrize("batch, expected", [(16, 16), (2**30, 2**30), (4 * 536870909, 4)])  # the last: 4 × a prime
def test_a_large_limit_takes_no_time(batch, expected):
    start = time.process_time()
    spec = {"mb": batch, "mbstd": 4, "microbatch": 4 if expected == 4 else 2**31 - 1}
    assert devices._microbatch(spec, 1) == expected
    assert time.process_time() - start < 1


def test_help(monkeypatch, capsys):
    assert call(monkeypatch, "--help") == 0
    assert "run_train.py outdir=OUT data=DATASET" in capsys.readouterr().out
    assert call(monkeypatch, "--help", program="/usr/bin/video3d-train") == 0
    out = capsys.readouterr().out
    assert "    video3d-train outdir=OUT data=DATASET" in out and "run_train.py" not in out
    assert "torchrun --nproc-per-node 4 --no-python video3d-train outdir=" in out


def test_help_without_docstrings(monkeypatch, capsys):
    monkeypatch.setattr(run_train, "__doc__", None)  # as with python -OO
    assert call(monkeypatch, "--help") == 0
    assert capsys.readouterr().out.startswith("model=NAME")


# ----------------------------------------------------------------------------------------------------------------------
# Runs


def test_a_run_in_its_folder(tmp_path, data, monkeypatch, capsys):
    words = [f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, "imgsnap=null"]
    before = os.getcwd(), sorted(p.name for p in Path().iterdir())
    assert call(monkeypatch, *words, "kimg=0.008") == 0
    assert call(monkeypatch, *words, "kimg=0.004", "mirror=true") == 0
    assert (os.getcwd(), sorted(p.name for p in Path().iterdir())) == before  # Hydra leaves nothing behind
    folders = sorted(p.name for p in (tmp_path / "runs").iterdir())
    assert folders == [
        "00000-data-stylenerf_small-small-res16-mb4",
        "00001-data-stylenerf_small-small-res16-mb4-mirror",
    ]
    folder = tmp_path / "runs" / folders[0]
    options = yaml.safe_load((folder / "training_options.yaml").read_text())
    assert options["kimg"] == 0.008 and options["data"] == str(data)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tick")]
    logged = [line for line in (folder / "log.txt").read_text().splitlines() if line.startswith("tick")]
    assert logged == printed[:2]

    # The same command with resume_run= continues; a longer one goes on.
    assert call(monkeypatch, *words, "kimg=0.008", "resume_run=0") == 0
    assert len((folder / "stats.jsonl").read_text().splitlines()) == 2
    assert call(monkeypatch, f"resume_run={folder}", "kimg=0.012") == 0
    assert [json.loads(line)["kimg"] for line in (folder / "stats.jsonl").read_text().splitlines()][-1] == 0.012
    assert yaml.safe_load((folder / "training_options.yaml").read_text())["kimg"] == 0.012
    assert len((folder / "log.txt").read_text().splitlines()) > len(logged) + 1

    # What the state belongs to must not change.
    capsys.readouterr()
    assert call(monkeypatch, f"resume_run={folder}", "seed=9") == 2
    assert "seed is 0 in that run" in capsys.readouterr().err
    bigger = tmp_path / "bigger"
    shutil.copytree(data, bigger)
    shutil.copytree(bigger / "split" / "video_0", bigger / "split" / "video_9")
    assert call(monkeypatch, f"resume_run={folder}", f"data={bigger}") == 2
    assert "the dataset has changed (num_videos was 5, is 6)" in capsys.readouterr().err
    shutil.rmtree(bigger / "split" / "video_9")
    assert call(monkeypatch, f"resume_run={folder}", f"data={bigger}", "dry_run=true") == 0
    assert "The data are now called bigger; they were data when the run began." in capsys.readouterr().out
    (bigger / "manifest.json").write_text(json.dumps({"format": FRAMES_FORMAT, "stride": 4}))  # earlier runs say none
    assert call(monkeypatch, f"resume_run={folder}", f"data={bigger}", "dry_run=true") == 0
    assert "source_stride 4" in capsys.readouterr().out
    assert call(monkeypatch, f"resume_run={folder}", "dry_run=true") == 0
    assert "The data are now called" not in capsys.readouterr().out
    path = folder / "training_options.yaml"
    path.write_text(path.read_text().replace(str(data), f"{data}-before"))
    assert call(monkeypatch, f"resume_run={folder}", "dry_run=true") == 2
    assert f"its data are no longer at {data}-before; data=PATH says where they are" in capsys.readouterr().err
    assert call(monkeypatch, f"resume_run={folder}", f"data={data}", "dry_run=true") == 0


def test_a_single_process_opens_its_data_once(tmp_path, data, monkeypatch):
    opened, build = [], loader.build_dataset
    for module in (validate, setup):
        monkeypatch.setattr(module, "build_dataset", lambda options: opened.append(1) or build(options))
    assert (
        call(monkeypatch, f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, "imgsnap=null", "kimg=0.004") == 0
    )
    assert len(opened) == 1


def test_a_training_in_another_thread(tmp_path, data):
    """As in a notebook or a server, with run_train.train; Python handles signals in the main thread only."""
    words = [f"outdir={tmp_path}", f"data={data}", *OVERRIDES, "imgsnap=null", "kimg=0.004"]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(run_train.train, words).result()
    assert [path.name for path in tmp_path.glob("*/network-snapshot-*")] == ["network-snapshot-000000.pt"]


@pytest.mark.parametrize(
    "overrides, given",
    [
        ((word for word in ["outdir=runs", "data=clips"]), "generator"),
        ([Path("outdir=runs")], "[PosixPath('outdir=runs')]"),
        ("outdir=runs", "'outdir=runs'"),
        (None, "None"),
    ],
)
def test_overrides_that_are_no_list_of_strings(overrides, given):
    """A check would use up a generator, and every letter of a string would be an override."""
    with pytest.raises(ValueError) as error:
        run_train.train(overrides)
    allowed = 'a list of strings such as ["outdir=runs", "data=clips"]'
    assert str(error.value) == f"overrides must be {allowed}, got {given}."


def test_a_script_that_does_not_guard_its_call(tmp_path, data):
    """The processes of the training import it, and would each begin another training."""
    words = [f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, "imgsnap=null", "kimg=0.004", "gpus=2"]
    (tmp_path / "script.py").write_text(f"import run_train\nrun_train.train({words!r})\n")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(tmp_path / "script.py")], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        "UserError: This program starts processes, and each of them imports the script that called it: put the call "
        'under `if __name__ == "__main__":` in the script.\n'
    ) in done.stderr
    last = r"UserError: process \d ended with exit code 1; what it has printed may tell why\.\n$"
    assert re.search(last, done.stderr)
    assert len(list((tmp_path / "runs").iterdir())) == 1


@pytest.fixture
def stop_with(monkeypatch):
    """Lets every training receive a signal in its second iteration."""
    iterate = TrainingLoop.iterate

    def let(number):
        def iterate_and_send(loop):
            iterate(loop)
            if loop.counters.iteration == 2:
                signal.raise_signal(number)

        monkeypatch.setattr(TrainingLoop, "iterate", iterate_and_send)

    return let


def test_ctrl_c_reaches_a_caller_once_the_state_is_saved(tmp_path, data, stop_with, monkeypatch):
    words = [f"outdir={tmp_path}", f"data={data}", *OVERRIDES, "imgsnap=null"]
    stop_with(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        for seed in (0, 1):
            run_train.train([*words, f"seed={seed}"])
    [folder] = tmp_path.iterdir()
    assert read_state(folder)["shared"]["counters"]["cur_nimg"] == 8
    assert call(monkeypatch, *words) == 0  # a command has done what it was asked to do
    assert read_state(max(tmp_path.iterdir()))["shared"]["counters"]["cur_nimg"] == 8


def test_other_signals_reach_the_handler_of_a_caller(tmp_path, data, stop_with):
    received = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        stop_with(signal.SIGTERM)
        folder = run_train.train([f"outdir={tmp_path}", f"data={data}", *OVERRIDES, "imgsnap=null"])
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert received == [signal.SIGTERM] and read_state(folder)["shared"]["counters"]["cur_nimg"] == 8


@contextlib.contextmanager
def default_type(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)


def test_settings_of_a_caller_have_no_effect(tmp_path, data):
    words = [f"outdir={tmp_path}", f"data={data}", *OVERRIDES, "kimg=0.008", "previews.images=2"]

    def trained():
        return run_train.train(words)

    expected = read_state(trained())["modules"]
    for setting in (
        torch.no_grad(),
        torch.inference_mode(),
        torch.autocast("cpu", dtype=torch.bfloat16),
        default_type(torch.float64),
        torch.device("meta"),
    ):
        with setting:
            folder = trained()
        found = read_state(folder)["modules"]
        assert [
            name for module in expected for name, value in expected[module].items()
            if not torch.equal(found[module][name], value)
        ] == []  # fmt: skip


def test_a_checkpoint_of_another_model(tmp_path, data, monkeypatch, capsys):
    words = [f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, "imgsnap=null", "kimg=0.004"]
    assert call(monkeypatch, *words) == 0
    source = next((tmp_path / "runs").iterdir()) / "network-snapshot-000000.pt"
    capsys.readouterr()
    assert call(monkeypatch, *words, f"resume={source}", "model.generator.foreground.width=16") == 2
    assert re.search(r"foreground\.\S+ is \S+ instead of", capsys.readouterr().err)
    # Settings that the shapes of the weights do not reveal.
    prior = "{peak:60,radius:0.06,center:[0,0,0]}"
    for option, value, trained in (
        ("foreground.encoding", "octaves", "isotropic"),
        ("foreground.density_prior", "null", prior),
        ("foreground.density_prior", prior.replace("60", "30"), prior),
        ("foreground.density_ramp", "null", "{factor,start,end}"),
        ("motion.frequency", "0.75", "0.5"),
        ("mapping.lr_multiplier", "0.1", "0.01"),
    ):
        assert call(monkeypatch, *words, f"resume={source}", f"model.generator.{option}={value}") == 2
        message = f"{source} was trained with model.generator.{option}={trained}, not {value};"
        assert message in capsys.readouterr().err
    both = ("model.generator.foreground.density_ramp=null", "model.generator.motion.frequency=0.75")
    assert call(monkeypatch, *words, f"resume={source}", *both) == 2
    trained = "model.generator.foreground.density_ramp={factor,start,end} model.generator.motion.frequency=0.5"
    assert f"was trained with {trained}, not null and 0.75; with other values its" in capsys.readouterr().err
    assert len(list((tmp_path / "runs").iterdir())) == 1
    same = ("{peak:60.0,radius:0.06}", "{factor:2,start:1,end:3}")  # the ramp's factor is one of the weights
    same = [f"model.generator.foreground.density_{key}={value}" for key, value in zip(("prior", "ramp"), same)]
    assert call(monkeypatch, *words, f"resume={source}", *same) == 0
    assert (tmp_path / "runs" / "00001-data-stylenerf_small-small-res16-mb4-resume").is_dir()


@pytest.fixture
def looks(monkeypatch) -> list:
    """The options of each call of `metric_inputs`, which opens the real videos and loads the detectors."""
    looks, look = [], run_train.metric_inputs
    monkeypatch.setattr(run_train, "metric_inputs", lambda options: looks.append(options) or look(options))
    return looks


def test_metrics_are_computed_logged_and_the_best_is_kept(tmp_path, data, looks, monkeypatch, capsys):
    words = [f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, "imgsnap=null", "kimg=0.02", "snap=1"]
    words += ["metrics=warping32_2v,flatness32_1v", f"cache_metrics_dir={tmp_path / 'cache'}"]
    assert call(monkeypatch, *words) == 0
    assert len(looks) == 1  # the videos are listed once
    folder = next((tmp_path / "runs").iterdir())
    rows = [json.loads(line) for line in (folder / "metric-warping32_2v.jsonl").read_text().splitlines()]
    values = [row["value"] for row in rows]
    assert [row["cur_nimg"] for row in rows] == [12, 20] and rows[0]["checkpoint"] == "network-snapshot-000000.pt"
    assert f"warping32_2v {values[-1]:.4f}  flatness32_1v 0." in capsys.readouterr().out
    best = torch.load(folder / "best-warping32_2v.pt")
    assert best["progress"]["cur_nimg"] == rows[values.index(min(values))]["cur_nimg"]
    assert not (folder / "best-flatness32_1v.pt").exists()  # neither flat nor deep is better


def test_metrics_of_a_training_on_tar_files(tmp_path, data, looks, monkeypatch, capsys):
    """Only metrics without real videos can be computed; once, all were refused as if there were no data."""
    shards = tmp_path / "shards"
    prepare(source=str(data), out=str(shards), resolution=16, nframes=4, shape="shards")
    words = [f"outdir={tmp_path / 'runs'}", *OVERRIDES, "imgsnap=null", "kimg=0.008"]
    for path in (shards, shards / "shard-{000000..000000}.tar"):
        for metric in ("rfvd64_16f", "flicker32_16f"):
            assert call(monkeypatch, *words, f"data={path}", f"metrics=warping32_2v,{metric}") == 2
            message = f"metrics: {metric} needs real videos, and metrics read none from tar files: measure the snap"
            assert message in capsys.readouterr().err
    looks.clear()
    assert call(monkeypatch, *words, f"data={shards}", "metrics=warping32_2v") == 0
    assert len(looks) == 1
    (folder,) = (tmp_path / "runs").iterdir()
    assert [n for n, _ in measured(folder)["metric-warping32_2v"]] == [8]


def test_metrics_without_real_videos_do_not_open_the_data(tmp_path, data, monkeypatch):
    """Which may be of a format of the user's own."""
    (tmp_path / "clips.npy").write_bytes(b"")
    build = validate.build_dataset
    monkeypatch.setattr(validate, "build_dataset", lambda options: build(options | {"data": str(data)}))
    words = [f"outdir={tmp_path / 'runs'}", f"data={tmp_path / 'clips.npy'}", *OVERRIDES]
    assert run_train.make_plan([*words, "metrics=flatness32_1v"]).inspected == {
        "detectors": {}, "real": None, "label": None,
    }  # fmt: skip
    with pytest.raises(UserError, match="clips.npy' is neither a folder nor a zip file"):
        run_train.make_plan([*words, "metrics=flicker32_16f"])


def measured(folder) -> dict[str, list[tuple[int, float]]]:
    """(cur_nimg, value) of all rows, by metric."""
    return {
        path.stem: [(row["cur_nimg"], row["value"]) for row in map(json.loads, path.read_text().splitlines())]
        for path in sorted(folder.glob("metric-*.jsonl"))
    }


def test_metrics_that_a_killed_run_did_not_come_to_are_computed_once(tmp_path, data, monkeypatch, capsys):
    words = [f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, "imgsnap=null", "kimg=0.02", "snap=1"]
    words += ["metrics=warping32_2v", f"cache_metrics_dir={tmp_path / 'cache'}"]
    assert call(monkeypatch, *words) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    whole, file = measured(folder), folder / "metric-warping32_2v.jsonl"
    assert [n for n, _ in whole[file.stem]] == [12, 20]

    # Killed before the last row, while it was written, and behind it. The earlier one gets a bad value, so that the
    # last snapshot is the best one.
    first, last = file.read_text().splitlines(keepends=True)
    first = json.dumps({**json.loads(first), "value": 9.0}) + "\n"
    best = folder / "best-warping32_2v.pt"
    for left in (first, first + last[:40], first + last):
        file.write_text(left)
        best.unlink(missing_ok=True)
        capsys.readouterr()
        assert call(monkeypatch, f"resume_run={folder}") == 0
        said = capsys.readouterr().out
        assert said.count("Measuring network-snapshot-000000.pt: warping32_2v\n") == (left != first + last)
        rows = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
        assert [(row["cur_nimg"], row["value"]) for row in rows] == [(12, 9.0), whole[file.stem][1]]
        assert best.samefile(folder / "network-snapshot-000000.pt")

    # A metric that is new is computed of the snapshots that there are; the run may go on at the same time.
    loads, load = [], GeneratedClips.load
    monkeypatch.setattr(GeneratedClips, "load", lambda self, indices: loads.extend(indices) or load(self, indices))
    assert call(monkeypatch, f"resume_run={folder}", "kimg=0.028", "metrics=flatness32_1v,warping32_2v") == 0
    assert loads == [*range(32)] * 2  # of each snapshot once, for both metrics
    assert [n for n, _ in measured(folder)["metric-flatness32_1v"]] == [20, 28]
    assert [n for n, _ in measured(folder)[file.stem]] == [12, 20, 28]


def test_rows_of_the_metrics_command_in_the_run_folder_decide_nothing(tmp_path, monkeypatch):
    """They may compare with other real videos: neither the best snapshot nor missing metrics depend on them."""
    data, other = (write_frames(tmp_path / name, frames=16, size=size) for name, size in (("data", 16), ("other", 32)))
    words = [f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, "imgsnap=null", "kimg=0.012", "snap=1"]
    words += ["nframes=16", f"cache_metrics_dir={tmp_path / 'cache'}"]
    assert call(monkeypatch, *words, "metrics=rfvd64_16f") == 0
    assert len(list((tmp_path / "cache").glob("real-*.npy"))) == 1
    (folder,) = (tmp_path / "runs").iterdir()
    words = ["--metrics", "rfvd64_16f,flicker32_16f", "--fake", folder, "--real", other, "--outdir", folder]
    words += ["--device", "cpu", "--cache", tmp_path / "cache"]
    assert click.testing.CliRunner().invoke(metrics_command.main, list(map(str, words))).exception is None
    file = folder / "metric-rfvd64_16f.jsonl"
    own, foreign = map(json.loads, file.read_text().splitlines())
    assert (own["real_name"], own["frame_stride"]) == ("data", 1)  # for --compare
    file.write_text("".join(json.dumps(row) + "\n" for row in ({**own, "value": 1e9}, {**foreign, "value": 0.001})))

    assert call(monkeypatch, f"resume_run={folder}", "kimg=0.02", "metrics=rfvd64_16f,flicker32_16f") == 0
    assert [n for n, _ in measured(folder)["metric-flicker32_16f"]] == [12, 12, 20]
    assert [n for n, _ in measured(folder)[file.stem]] == [12, 12, 20]
    best = torch.load(folder / "best-rfvd64_16f.pt")
    assert best["progress"]["cur_nimg"] == 20
    page = write_report(folder).read_text()
    assert "<td>rfvd64_16f (not comparable)</td><td>0.012</td><td>0.001</td>" in page
    value = number_text(measured(folder)[file.stem][-1][1])
    assert f"<td>rfvd64_16f</td><td>0.02</td><td>{value} (best)</td>" in page


class Shifted(SmallIdentity):
    def forward(self, x: torch.Tensor):
        return x.mean(dim=[2, 3]) + 1


def test_snapshots_are_measured_again_with_another_feature_extractor(tmp_path, monkeypatch):
    data = write_frames(tmp_path / "data", frames=16)
    paths = [save_torchscript(module, tmp_path / f"{i}.pt") for i, module in enumerate((SmallIdentity(), Shifted()))]
    words = [f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, "imgsnap=null", "kimg=0.012", "snap=1"]
    words += ["nframes=16", f"cache_metrics_dir={tmp_path / 'cache'}", "metrics=identity32_16f"]
    assert call(monkeypatch, *words, f"detectors.identity={paths[0]}") == 0
    (folder,) = (tmp_path / "runs").iterdir()
    for path in (paths[1], paths[1]):
        assert call(monkeypatch, f"resume_run={folder}", f"detectors.identity={path}") == 0
    rows = [json.loads(line) for line in (folder / "metric-identity32_16f.jsonl").read_text().splitlines()]
    assert [(row["cur_nimg"], row["detector"]["file"]) for row in rows] == [(12, "0.pt"), (12, "1.pt")]


@pytest.mark.parametrize("second", ["recall", "coverage"])
def test_trackers_get_recall_beside_precision(tmp_path, monkeypatch, second):
    """Or the second figure of a statistic of one's own."""
    statistic = dataclasses.replace(STATISTICS["precision_recall"], figures=("precision", second))
    monkeypatch.setitem(STATISTICS, "precision_recall", statistic)
    pair = find_metric("rpr64k3_16f")
    row = {"metric": pair.name, "value": 0.5, second: 0.25, "interval": None, "higher_is_better": None}
    row |= {"num_fake": 64, "num_real": None, "protocol": pair.protocol(), "detector": {}}
    monkeypatch.setattr(Evaluator, "evaluate", lambda *arguments, **options: dict(row))
    options = {"metrics": [pair.name], "outdir": tmp_path, "cache_metrics_dir": None, "nframes": 16}
    options |= {"kimg": 1, "resume": None}
    inputs = {"detectors": {}, "real": StoredVideos(write_frames(tmp_path / "data"), resolution=32), "label": None}
    (measure,) = run_train.snapshot_callbacks(options, tmp_path, inputs=inputs)
    snapshot = types.SimpleNamespace(path=tmp_path / "n.pt", cur_nimg=8, tick=1, generator=small_generator())
    assert measure(snapshot) == {"rpr64k3_16f": 0.5, f"rpr64k3_16f_{second}": 0.25}


def test_a_metric_that_meets_a_damaged_frame_is_left_out_until_the_frame_is_repaired(tmp_path, monkeypatch, capsys):
    damaged = write_frames(tmp_path / "data", frames=16)
    frame = damaged / "split" / "video_1" / "3.png"
    content = frame.read_bytes()
    frame.write_bytes(content[:60])
    words = [f"outdir={tmp_path / 'runs'}", f"data={damaged}", *OVERRIDES, "imgsnap=null", "kimg=0.012", "snap=1"]
    words += ["metrics=flicker32_16f,flatness32_1v", f"cache_metrics_dir={tmp_path / 'cache'}"]
    assert call(monkeypatch, *words) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert f"flicker32_16f is left out: Cannot read the frame '{frame}'" in capsys.readouterr().out
    assert [*measured(folder)] == ["metric-flatness32_1v"]
    frame.write_bytes(content)
    assert call(monkeypatch, f"resume_run={folder}") == 0
    assert {name: [n for n, _ in rows] for name, rows in measured(folder).items()} == {
        "metric-flatness32_1v": [12],
        "metric-flicker32_16f": [12],
    }


@pytest.mark.parametrize("words, expected", [("kimg=0.004", [4]), ("kimg=0.012", [12]), ("kimg=0.012 resume", [4, 12])])
def test_metrics_of_tick_0_only_where_it_is_not_untrained(tmp_path, data, monkeypatch, words, expected):
    base = [f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, "imgsnap=null", "snap=1"]
    if "resume" in words:
        assert call(monkeypatch, *base, "kimg=0.004") == 0
        (folder,) = (tmp_path / "runs").iterdir()
        base.append(f"resume={folder}")
    assert call(monkeypatch, *base, words.split()[0], "metrics=flatness32_1v") == 0
    folder = max((tmp_path / "runs").iterdir())
    assert [n for n, _ in measured(folder)["metric-flatness32_1v"]] == expected


def test_metrics_that_cannot_be_computed_end_a_training_at_its_start(tmp_path, data, monkeypatch, capsys):
    """Here because of the wrong file for a feature extractor; not at the first snapshot that is measured."""
    path = save_i3d(tmp_path / "i3d.pt")
    words = [f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, "imgsnap=null", "kimg=1", "snap=1"]
    assert call(monkeypatch, *words, "metrics=flatness32_1v,is1k", f"detectors.inception={path}") == 2
    assert f"error: {path} cannot be used as inception: its call failed (" in capsys.readouterr().err
    (folder,) = (tmp_path / "runs").iterdir()
    assert len((folder / "stats.jsonl").read_text().splitlines()) == 1 and measured(folder) == {}


def test_snapshots_of_stops_have_no_metrics(tmp_path, monkeypatch):
    folder = None
    for stopping in (2, 3, None):  # after so many iterations: in a tick, and at the end of one
        callbacks = []
        loop = make_loop(
            tmp_path, "imgsnap=null", "snap=2", "spec.kimg_per_tick=0.012", folder=folder, callbacks=[callbacks.append]
        )
        folder, iterate = loop.folder, loop.iterate

        def step(loop=loop, iterate=iterate, stopping=stopping):
            iterate()
            if loop.counters.iteration == stopping:
                os.kill(os.getpid(), signal.SIGTERM)

        loop.iterate = step
        loop.run()
        seen = [(snapshot.cur_nimg, snapshot.tick) for snapshot in callbacks]
        # Ticks end after 1, 4, 7 and 8 iterations; a snapshot is due after ticks 0 and 2, and at the end. That of tick
        # 0 is still there when the run is continued: those of the stops, of the same kimg, have not replaced it.
        assert seen == [(4, 0), *([(28, 2), (32, 3)] if stopping is None else [])]


@pytest.mark.parametrize(
    "word, message",
    [
        ("metrics=fid1k_full", "detector inception=PATH"),
        ("metrics=rfvd64_16f", "shorter than 16 frames: the longest has 4"),
        ("detectors.i3d=/nowhere/i3d.pt metrics=fvd64_16f", "detector i3d=/nowhere/i3d.pt: there is no such file"),
        (f"detectors.i3d={__file__} metrics=fvd64_16f", "cannot be loaded as TorchScript: it is another kind of file"),
        (
            "model.generator.camera.yaw=[0,0] metrics=warping32_2v",
            "error: metrics: warping32_2v compares views from different yaws, and all cameras have the same one "
            "(model.generator.camera.yaw); choose metrics of single views or of clips, e.g. flatness32_1v.\n",
        ),
    ],
)
def test_metrics_that_cannot_be_computed_are_told_first(word, message, tmp_path, data, monkeypatch, capsys):
    words = [f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, *word.split()]
    assert call(monkeypatch, *words) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        ("metrics=rfvd2048_32f", "rfvd2048_32f needs real clips of 32 frames, and synthetic heads have 16"),
        (
            "metrics=motion32_16f frame_stride=2",
            "motion32_16f needs real clips of 16 frames, and synthetic heads have 8, keeping one frame in 2",
        ),
    ],
)
def test_metrics_of_longer_clips_than_synthetic_heads_have_are_told_first(words, message, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = [f"outdir={tmp_path / 'runs'}", *OVERRIDES, *words.split()]
    with pytest.raises(UserError) as error:
        run_train.make_plan(words)
    assert str(error.value) == f"metrics: {message}: choose a metric of shorter clips, or give data=."
    assert list(tmp_path.iterdir()) == []
    longer = run_train.make_plan([*words, "nframes=32", "dry_run=true"])  # heads are as long as the training's clips
    assert longer.options["nframes"] == 32


def test_metrics_with_too_few_real_clips_are_told_first(tmp_path):
    """At the first snapshot, which may be hours later, they would end the run."""
    words = [f"outdir={tmp_path / 'runs'}", f"data={write_frames(tmp_path / 'data', videos=3, frames=16)}", *OVERRIDES]
    assert run_train.make_plan([*words, "metrics=rfvd64_16f"]).options["metrics"] == ["rfvd64_16f"]
    with pytest.raises(UserError, match="rpr64k3_16f needs at least 4 real clips, there are 3"):
        run_train.make_plan([*words, "metrics=rpr64k3_16f"])


def test_metrics_of_longer_clips_than_those_of_training_are_told(tmp_path):
    words = [f"outdir={tmp_path / 'runs'}", f"data={write_frames(tmp_path / 'data', frames=16)}", *OVERRIDES]
    assert run_train.make_plan([*words, "metrics=rfvd64_16f,warping32_2v"]).notes == [
        "rfvd64_16f: generated clips show times from 0 to 5. Training clips of 4 frames covered 0 to 1, the rest is "
        "extrapolated."
    ]
    for same in (["metrics=rfvd64_16f", "nframes=16"], ["metrics=warping32_2v"]):
        assert run_train.make_plan([*words, *same]).notes == []


def test_a_cache_that_no_metric_uses_is_told(tmp_path, data):
    words = [f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, f"cache_metrics_dir={tmp_path}"]
    assert run_train.make_plan([*words, "metrics=warping32_2v"]).notes == [
        "cache_metrics_dir= has no effect: none of the metrics uses it."
    ]


def test_a_conditional_run(tmp_path, monkeypatch):
    data = write_frames(tmp_path / "data")
    labels = [[f"split/video_{video}", video % 2] for video in range(5)]
    (data / "dataset.json").write_text(json.dumps({"labels": labels}))
    words = [f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, "cond=true", "kimg=0.004"]
    assert call(monkeypatch, *words, "metrics=flatness32_1v") == 0
    folder = tmp_path / "runs" / "00000-data-stylenerf_small-small-res16-mb4-cond"
    assert json.loads((folder / "metric-flatness32_1v.jsonl").read_text())["fake"]["labelled"] is True
    assert torch.load(folder / "latest-network-snapshot.pt")["generator"]["config"]["c_dim"] == 2
    words = ["--network_pkl", str(folder), "--outdir", str(tmp_path / "out"), "--n_steps", "1", "--time_steps", "1"]
    with pytest.raises(UserError) as error:
        generate.main([*words, "--class_idx", "1,2"], standalone_mode=False)
    assert str(error.value) == (
        "--class_idx: this generator needs the number of one class, 0 to 1, or weights of all 2 classes, none "
        "negative, that add up to 1."
    )
    generate.main([*words, "--class_idx", "0.3,0.7"], standalone_mode=False)
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_commands_render_a_run_that_is_conditioned_on_numbers(tmp_path, monkeypatch, capsys):
    data = write_frames(tmp_path / "data")
    labels = [[f"split/video_{video}", [0.25 * video, 9]] for video in range(5)]
    (data / "dataset.json").write_text(json.dumps({"labels": labels}))
    assert call(monkeypatch, f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, "cond=true", "kimg=0.004") == 0
    assert "label_examples" not in capsys.readouterr().out
    [folder] = (tmp_path / "runs").iterdir()
    examples = load_average_generator(folder).label_examples
    assert {tuple(row) for row in examples.tolist()} <= {tuple(label) for _, label in labels}
    words = ["--network_pkl", str(folder), "--outdir", str(tmp_path / "out"), "--n_steps", "1", "--time_steps", "1"]
    with pytest.raises(UserError, match="--class_idx: this generator needs a label of 2 numbers"):
        generate.main([*words, "--class_idx", "1"], standalone_mode=False)
    generate.main([*words, "--class_idx", "0.5,9"], standalone_mode=False)
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_a_frame_that_breaks_in_the_middle(tmp_path, monkeypatch, capsys):
    data = write_frames(tmp_path / "data", videos=1, frames=4)
    for frame in range(4):
        (data / "split" / "video_0" / f"{frame}.png").write_bytes(b"no image")
    assert call(monkeypatch, f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, "imgsnap=null") == 2
    captured = capsys.readouterr()
    assert re.search(r"error: .*video_0", captured.err) and captured.err.count("\n") == 1
    log = next((tmp_path / "runs").iterdir()) / "log.txt"
    assert "video_0" in log.read_text()


def wait_for(condition, process, seconds=120):
    end = time.time() + seconds
    while not condition():
        assert process.poll() is None and time.time() < end, process.communicate()
        time.sleep(0.01)


def modules(folder) -> dict[str, torch.Tensor]:
    state = read_state(folder)
    assert state["shared"]["counters"]["cur_nimg"] == 40
    return {f"{module}.{name}": value for module, entry in state["modules"].items() for name, value in entry.items()}


@pytest.fixture
def one_thread():
    """This process computes with the same settings as those of `start`."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_killed_stopped_and_continued_is_as_never_interrupted(tmp_path, data, monkeypatch, one_thread):
    words = [f"data={data}", *OVERRIDES, "kimg=0.04", "imgsnap=1", "snap=2"]
    assert call(monkeypatch, f"outdir={tmp_path / 'whole'}", *words) == 0

    out = tmp_path / "killed"
    run = start(f"outdir={out}", *words)
    wait_for(lambda: list(out.glob("*/images/fakes_random_*.png")), run)
    run.send_signal(signal.SIGKILL)
    run.wait()
    folder = next(out.iterdir())
    run = start(f"outdir={out}", "resume_run=0")
    wait_for(lambda: run.stdout.readline().startswith("tick"), run)
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=60) == 0, run.communicate()

    assert call(monkeypatch, f"outdir={out}", "resume_run=0") == 0
    expected, found = modules(next((tmp_path / "whole").iterdir())), modules(folder)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    ticks = [json.loads(line)["tick"] for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert ticks == list(range(len(ticks)))


@pytest.mark.slow
@pytest.mark.parametrize("streams", ["workers=1 2>&1 | head -n 1", "gpus=2 <&- >&- 2>&-"])
def test_a_run_does_not_end_with_its_reader(tmp_path, data, streams):
    words = " ".join([f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES])
    command = f"set -o pipefail; {sys.executable} {ROOT / 'run_train.py'} {words} {streams}"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.count("\n") <= 1
    log = (next((tmp_path / "runs").iterdir()) / "log.txt").read_text().splitlines()
    assert log[0].startswith("Run folder: ") and log[-1].startswith("Done: 0.032 kimg")
    assert sum(line.startswith("tick") for line in log) == 5


def test_only_the_main_process_needs_the_snapshot(tmp_path, data):
    """Started again by torchrun it continues its run, without resume=; the other processes know that only from it."""
    words = [f"outdir={tmp_path}", f"data={data}", *OVERRIDES, f"resume={tmp_path}/deleted.pt"]
    assert run_train.make_plan(words, look=False, checkpoint=False).options["resume"] == f"{tmp_path}/deleted.pt"
    with pytest.raises(UserError, match=f"{tmp_path}/deleted.pt"):
        run_train.make_plan(words)


@pytest.mark.slow
def test_two_processes_with_torchrun_and_one_run_per_folder(tmp_path, data, monkeypatch, capsys):
    words = [f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, "imgsnap=1"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(ROOT / "run_train.py"), *words], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "00000-data-stylenerf_small-small-res16-mb4"
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [folder.name]
    assert len(read_state(folder)["processes"]) == 2
    assert done.stdout.count("Done: 0.032 kimg") == 1
    # One process takes over.
    assert call(monkeypatch, f"resume_run={folder}", "kimg=0.04", "gpus=1") == 0
    assert "interrupted with 2 processes and goes on with 1" in capsys.readouterr().out


def test_a_run_folder_belongs_to_one_process(tmp_path, data, monkeypatch, capsys):
    from training.launch.run_dir import lock_run_folder

    words = [f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, "imgsnap=null", "kimg=0.004"]
    assert call(monkeypatch, *words) == 0
    folder = next((tmp_path / "runs").iterdir())
    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}
    assert folder / "training_options.yaml" in files and folder / "log.txt" in files
    capsys.readouterr()
    more = [f"data={data}", "kimg=777", "metrics=flatness32_1v", "workers=1", "snap=1", "seed=0"]
    for words in ([], more):
        with lock_run_folder(folder):
            assert call(monkeypatch, f"resume_run={folder}", *words) == 2
        assert "Another process is training" in capsys.readouterr().err
        # The owner's files are as they were; its options above all.
        assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*")} == files
    # When it is free, the options of the run that goes on are kept.
    assert call(monkeypatch, f"resume_run={folder}", "kimg=0.008") == 0
    assert yaml.safe_load((folder / "training_options.yaml").read_text())["kimg"] == 0.008


def test_the_log_has_what_was_said_before_the_training_began(tmp_path, data, monkeypatch, capsys):
    words = [f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, "imgsnap=null", "kimg=0.004", "spec.ref_gpus=2"]
    assert call(monkeypatch, *words) == 0
    said = capsys.readouterr().out
    folder = next((tmp_path / "runs").iterdir())
    assert (folder / "log.txt").read_text() == said and said.startswith("gpus=2, but 1 will be used")
    assert call(monkeypatch, f"resume_run={folder}") == 0
    assert (folder / "log.txt").read_text() == said + capsys.readouterr().out


def test_frames_of_any_size(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "a" / "b"
    folder.mkdir(parents=True)
    for frame in range(4):
        Image.fromarray(np.full([30, 50, 3], 40 * frame, dtype=np.uint8)).save(folder / f"{frame}.jpg")
    words = [f"outdir={tmp_path / 'runs'}", f"data={tmp_path / 'data'}", *OVERRIDES, "kimg=0.004"]
    assert call(monkeypatch, *words) == 0
    assert len(list((tmp_path / "runs").glob("*/reals.png"))) == 1


def test_a_job_that_ended_before_its_run_had_options_begins_another(tmp_path, data, monkeypatch, capsys):
    def killed(*_):
        raise SystemExit(137)

    words = [f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, "imgsnap=null", "kimg=0.004"]
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with monkeypatch.context() as patch:
        patch.setattr(validate, "write_options", killed)
        assert call(monkeypatch, *words) == 137
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert call(monkeypatch, *words) == 0  # a new one
    assert call(monkeypatch, *words) == 0  # which goes on
    assert len(list((tmp_path / "runs").iterdir())) == 2 and "Continuing:" in capsys.readouterr().out


def test_a_run_that_ended_before_its_first_state_begins_again(tmp_path, data, monkeypatch, capsys):
    words = [f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, "imgsnap=null", "kimg=0.008"]
    assert call(monkeypatch, *words) == 0
    folder = next((tmp_path / "runs").iterdir())
    expected = read_state(folder)["modules"]
    for path in folder.glob("*.pt"):
        path.unlink()
    capsys.readouterr()
    assert call(monkeypatch, f"resume_run={folder}") == 0
    assert "it starts from the beginning" in capsys.readouterr().out
    found = read_state(folder)["modules"]
    assert all(torch.equal(expected[m][name], found[m][name]) for m in expected for name in expected[m])
    assert len((folder / "stats.jsonl").read_text().splitlines()) == 2
    # One whose state is empty.
    (folder / "training-state.pt").write_bytes(b"")
    assert call(monkeypatch, f"resume_run={folder}") == 2
    assert re.search(
        r"^error: .*training-state\.pt is empty; .* Or start a new run from its newest snapshot with resume=\.$",
        capsys.readouterr().err,
    )
    # One that has come further has lost its state.
    (folder / "training-state.pt").unlink()
    (folder / "network-snapshot-000003.pt").touch()
    assert call(monkeypatch, f"resume_run={folder}") == 2
    assert "training-state.pt is missing" in capsys.readouterr().err
