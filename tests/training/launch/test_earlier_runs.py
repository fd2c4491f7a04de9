"""A run that the version before the rooms has made: it resumes, renders, and its options have their present names."""

import json
import sys
import tarfile
from pathlib import Path

import click.testing
import numpy as np
import pytest
import yaml

import generate
import run_train
from dnnlib import UserError
from metrics import __main__ as metrics_command
from tests.training.tiny import write_frames
from training.checkpoints.snapshot import load_average_generator, load_snapshot
from training.checkpoints.snapshot_files import latest_snapshot
from training.inference.frame_renderer import FrameRenderer
from training.inference.latents import seed_latents
from training.launch.config import ADDED, compose_options, continued_options, current_options
from training.launch.option_rules import check_values

STORED = Path(__file__).resolve().parents[2] / "data" / "run_before_rooms.tar.xz"


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """A working folder with the run, its data and the frames that the earlier version rendered."""
    with tarfile.open(STORED) as archive:
        archive.extractall(tmp_path, filter="data")
    write_frames(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_folder(work: Path) -> Path:
    (folder,) = (work / "runs").iterdir()
    return folder


def rendered(snapshot: Path) -> np.ndarray:
    """The frame of seed 0 at time 0.5 from the front."""
    generator = load_average_generator(snapshot)
    codes = seed_latents(
        0, 0, z_dim=generator.z_dim, motion_dim=generator.motion_dim, background_dim=generator.background_dim
    )
    renderer = FrameRenderer(generator, generator.mapping(codes.z), z_motion=codes.z_motion, z_bg=codes.z_bg)
    return renderer.render(0.5, generator.camera_prior.at()).numpy()


def test_a_stored_run_renders_and_resumes(work, monkeypatch):
    frames, folder = np.load(work / "frames.npz"), run_folder(work)
    np.testing.assert_allclose(rendered(folder), frames["stored"], atol=5e-4)

    monkeypatch.setattr(sys, "argv", ["run_train.py", "outdir=runs", "resume_run=0", "kimg=0.024"])
    run_train.main()
    # Under the present name, beside the earlier one, which the end of the run has replaced.
    assert sorted(path.name for path in folder.glob("*network-snapshot*")) == [
        "latest-network-snapshot.pt", "network-snapshot-000000.pkl", "network-snapshot-000000.pt"
    ]  # fmt: skip
    assert load_snapshot(folder)["progress"] == {"cur_nimg": 24, "tick": 4, "iteration": 6, "planned": True}
    # The tick changes this frame by up to 0.06.
    np.testing.assert_allclose(rendered(folder), frames["resumed"], atol=2e-3)
    options = yaml.safe_load((folder / "training_options.yaml").read_text())
    assert options["activation_checkpointing"] is True and "recompute" not in options
    assert options["model"]["generator"]["_target_"] == "training.networks.generator.Generator"


def test_snapshots_of_the_earlier_name_are_rendered_and_evaluated(work, monkeypatch):
    folder = run_folder(work)
    assert latest_snapshot(folder).name == "latest-network-snapshot.pkl"
    options = ["--seeds", "0", "--n_steps", "2", "--time_steps", "1", "--save_frames"]
    for network in (folder, folder / "network-snapshot-000000.pkl"):
        words = ["--network_pkl", str(network), "--outdir", str(work / network.name), *options]
        assert click.testing.CliRunner().invoke(generate.main, words).exception is None
        assert list((work / network.name).glob("*/*.png"))

    words = ["--metrics", "flatness32_1v", "--fake", str(folder), "--outdir", str(work / "out"), "--device", "cpu"]
    assert click.testing.CliRunner().invoke(metrics_command.main, words).exception is None
    row = json.loads((work / "out" / "metric-flatness32_1v.jsonl").read_text())
    assert (row["checkpoint"], row["cur_nimg"]) == ("latest-network-snapshot.pkl", 16)

    # A continued run measures the snapshot that there is, and then its own.
    words = ["outdir=runs", "resume_run=0", "kimg=0.024", "snap=1", "metrics=warping32_2v", "cache_metrics_dir=cache"]
    monkeypatch.setattr(sys, "argv", ["run_train.py", *words])
    run_train.main()
    rows = [json.loads(line) for line in (folder / "metric-warping32_2v.jsonl").read_text().splitlines()]
    assert [(row["checkpoint"], row["cur_nimg"]) for row in rows] == [
        ("network-snapshot-000000.pkl", 16), ("network-snapshot-000000.pt", 24)
    ]  # fmt: skip
    best = min(rows, key=lambda row: row["value"])  # the later of two equal ones would do
    assert load_snapshot(folder / "best-warping32_2v.pt")["progress"]["cur_nimg"] == best["cur_nimg"]


def test_stored_names_are_mapped(work):
    stored = yaml.safe_load((run_folder(work) / "training_options.yaml").read_text())
    assert stored["model"]["discriminator"]["_target_"] == "training.discriminator.TimeAwareDiscriminators"
    options = current_options(stored)
    now = compose_options(["outdir=runs", "data=data"])
    newer = set(now["spec"]) - set(stored["spec"])
    assert newer == set(ADDED), "a new option of spec needs, in ADDED, the value that changes nothing in earlier runs"
    assert {*options, "cuda_graphs", "logger"} == set(now)  # two are newer than that run
    assert "distortion_weight" not in stored["spec"] and now["spec"]["distortion_weight"] > 0
    assert options["spec"]["distortion_weight"] == 0, "its loss stays as it was"
    assert options["spec"]["lrate_decay"] is None, "and so does its learning rate"
    continued = continued_options(stored, ["resume_run=0", "detectors.vgg16=vgg16.pt"])
    assert continued["logger"] == ["tensorboard"]
    assert set(continued["detectors"]) == set(now["detectors"]) and continued["detectors"]["vgg16"] == "vgg16.pt"
    for network in ("generator", "discriminator"):
        assert options["model"][network]["_target_"] == now["model"][network]["_target_"]
    assert "recompute" in stored  # a copy was changed


def test_a_file_of_a_schedule_without_an_option_is_refused():
    options = compose_options(["outdir=runs", "data=data"])
    del options["spec"]["style_mixing"]
    with pytest.raises(
        UserError, match=r"^There is no spec\.style_mixing in conf/: begin a file of your own .*`defaults:`"
    ):
        check_values(options)


@pytest.mark.parametrize(
    "change, what",
    [
        (lambda stored: stored.update(depth_tv=3), "it has depth_tv, which this version does not know"),
        (lambda stored: stored["spec"].update(depth_tv=3), "it has spec.depth_tv, which this version does not know"),
        (lambda stored: stored["model"].update(depth_tv=3), "it has model.depth_tv, which this version does not know"),
        (lambda stored: stored["spec"].pop("style_mixing"), "it lacks spec.style_mixing"),
    ],
)
def test_a_run_of_another_version_is_told_in_words_for_users(work, change, what):
    path = run_folder(work) / "training_options.yaml"
    stored = yaml.safe_load(path.read_text())
    change(stored)
    path.write_text(yaml.safe_dump(stored, sort_keys=False))
    with pytest.raises(UserError) as error:
        run_train.make_plan(["outdir=runs", "resume_run=0"])
    assert str(error.value).startswith(f"Cannot continue the run in runs/{path.parent.name}: it was begun by another ")
    assert f"({what}). Continue it with that version, or start a new run from its newest snapshot" in str(error.value)


@pytest.mark.parametrize(
    "entries",
    [
        {"detectors": None},
        {"previews": [1]},
        {"names": {"model": ["a"], "spec": "small"}},
        {"model": {"generator": {}}},
    ],
)
def test_damaged_options_of_a_run_are_told(work, entries):
    path = run_folder(work) / "training_options.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | entries))
    with pytest.raises(UserError, match="its training_options.yaml is damaged or incomplete; start a new run"):
        run_train.make_plan(["outdir=runs", "resume_run=0"])


def test_options_within_sections_that_are_newer_than_a_run_have_their_defaults(work):
    stored = yaml.safe_load((run_folder(work) / "training_options.yaml").read_text())
    del stored["previews"]["videos"], stored["detectors"]
    continued = continued_options(stored, ["resume_run=0"])
    now = compose_options(["outdir=runs", "data=data"])
    assert continued["previews"] == stored["previews"] | {"videos": now["previews"]["videos"]}
    assert continued["detectors"] == now["detectors"]


def test_an_earlier_name_on_the_command_line_is_answered_by_the_present_one():
    with pytest.raises(UserError, match="write activation_checkpointing=true$"):
        compose_options(["outdir=runs", "recompute=true"])


def test_no_class_that_only_a_run_folder_names_is_imported(work):
    stored = yaml.safe_load((run_folder(work) / "training_options.yaml").read_text())
    stored["model"]["generator"]["_target_"] = "elsewhere.Generator"
    with pytest.raises(UserError, match=r"add model\.generator\._target_=elsewhere\.Generator"):
        continued_options(stored, ["resume_run=0"])
    options = continued_options(stored, ["resume_run=0", "model.generator._target_=elsewhere.Generator"])
    assert options["model"]["generator"]["_target_"] == "elsewhere.Generator"


def test_a_continued_run_may_change_the_memory_format():
    stored = compose_options(["outdir=runs"])
    assert stored["model"]["discriminator"]["channels_last"]
    options = continued_options(stored, ["resume_run=0", "nhwc=false"])
    assert not options["nhwc"] and not options["model"]["discriminator"]["channels_last"]
    options = continued_options(options, ["resume_run=0", "nhwc=true"])
    assert options["nhwc"] and options["model"]["discriminator"]["channels_last"]
