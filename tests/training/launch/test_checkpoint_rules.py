"""Checks of the snapshot or the state that a training begins from."""

import json
import shutil
import types

import pytest
import torch
from PIL import Image

from dnnlib import UserError
from tests.training.tiny import make_loop, make_plan, write_frames
from training.checkpoints.archive import save_archive
from training.checkpoints.snapshot import load_snapshot
from training.checkpoints.training_state import STATE_FILE, read_state
from training.launch import checkpoint_rules, validate
from training.networks.upsampler import UPSAMPLINGS, ShuffleUpsampling

SHORT = ["kimg=0.004", "spec.g_reg_interval=null", "spec.d_reg_interval=null", "imgsnap=null"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of one iteration."""
    loop = make_loop(tmp_path_factory.mktemp("finished"), *SHORT)
    loop.run()
    return loop.folder


@pytest.mark.parametrize(
    "words, named",
    [
        (["spec.fmaps=0.01"], "model.generator.upsampler.channel_base=0.005 model.discriminator.channel_base=0.005"),
        (["model.generator.w_dim=4", "model.generator.camera.fov=20"], "model.generator.w_dim=8"),
        (["model.discriminator.image=false"], "model.discriminator.image=true"),
        (["camera_condition=true"], "cameras of size 0, not 3 (camera_condition=)"),
        (["cond=true"], "labels of size 0, not 2 (cond=)"),
        (
            ["cond=true", "camera_condition=true"],
            "labels of size 0, not 2 (cond=) and cameras of size 0, not 3 (camera_condition=)",
        ),
        (
            ["resolution=8", "model.generator.rendering.resolution=4"],
            "resolution=16 model.generator.rendering.resolution=8",
        ),
        (["resolution=32", "spec.map=2"], "model.generator.mapping.num_layers=1"),
    ],
)
def test_options_that_differ_from_those_of_a_snapshot_are_named(finished, tmp_path, words, named):
    write_frames(tmp_path / "data")
    cameras = [[f"split/video_{v}", [0.1, 1.5]] for v in range(5)]
    labels = [[f"split/video_{v}", v % 2] for v in range(5)]
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({"cameras": cameras, "labels": labels}))
    with pytest.raises(UserError, match="does not fit") as caught:
        make_plan(tmp_path, f"resume={finished}", *words)
    assert str(caught.value).endswith(f"These options differ: it was trained with {named}")


@pytest.mark.parametrize("part", ["background", "motion"])
def test_a_part_that_a_snapshot_has_is_named_with_all_its_options(finished, tmp_path, part):
    options = make_plan(tmp_path).options["model"]["generator"][part]
    named = f"model.generator.{part}={json.dumps(options, separators=(',', ':'))}".replace('"', "")
    assert "width:8" in named
    with pytest.raises(UserError, match="does not fit") as caught:
        make_plan(tmp_path, f"resume={finished}", f"model.generator.{part}=null")
    assert str(caught.value).endswith(f"These options differ: it was trained with {named}")


def test_a_snapshot_without_motion_is_named_as_such(tmp_path):
    """Not by an argument of the motion, which it does not have."""
    loop = make_loop(tmp_path, *SHORT, "model.generator.motion=null")
    loop.run()
    with pytest.raises(UserError, match="does not fit") as caught:
        make_plan(tmp_path, f"resume={loop.folder}")
    assert str(caught.value).endswith("These options differ: it was trained with model.generator.motion=null")


@pytest.mark.parametrize(
    "words, named",
    [
        (["foreground.num_layers=3"], "without model.generator.foreground.num_layers"),
        (
            ["foreground.num_layers=3", "w_dim=4"],
            "with model.generator.w_dim=8, without model.generator.foreground.num_layers",
        ),
    ],
)
def test_an_option_that_a_snapshot_does_not_have_is_named(finished, tmp_path, words, named):
    """As in snapshots of earlier versions; one with the shapes of its default is not."""
    content = load_snapshot(finished)
    config = content["generator"]["config"]
    del config["foreground"]["num_layers"], config["upsampler"]["mode"]
    save_archive(tmp_path / "older.pkl", content)
    with pytest.raises(UserError, match="does not fit") as caught:
        make_plan(tmp_path, f"resume={tmp_path / 'older.pkl'}", *(f"model.generator.{word}" for word in words))
    assert str(caught.value).endswith(f"These options differ: it was trained {named}")


def test_a_formula_that_the_shapes_do_not_tell(tmp_path, monkeypatch):
    """A mode of the upsampler, at the same resolution and when growing; a memory layout is none."""
    monkeypatch.setitem(UPSAMPLINGS, "sharp", type("SharpUpsampling", (ShuffleUpsampling,), {}))
    mode = "model.generator.upsampler.mode"
    loop = make_loop(tmp_path / "sharp", *SHORT, f"{mode}=sharp")
    loop.run()
    write_frames(tmp_path / "data")
    resume = f"resume={loop.folder}"
    assert make_plan(tmp_path, resume, f"{mode}=sharp", "model.discriminator.channels_last=true").notes == []
    for more in ([], ["resolution=32"]):
        with pytest.raises(UserError) as caught:
            make_plan(tmp_path, resume, f"{mode}=pixelshuffle", *more)
        message = (
            f"was trained with {mode}=sharp, not pixelshuffle; with another value its weights mean something else."
        )
        assert str(caught.value) == f"{loop.folder} {message}"


def test_a_class_without_a_foreground_has_no_ramp(finished):
    content = load_snapshot(finished)
    own = types.SimpleNamespace(config=content["generator"]["config"] | {"foreground": None})
    checkpoint_rules._check_meaning(content, own, source="it")  # of a class of the user's own


def test_a_ramp_that_the_snapshot_has_behind_it(finished, tmp_path):
    ramp = "model.generator.foreground.density_ramp"
    assert make_plan(tmp_path, f"resume={finished}", f"{ramp}.factor=3", f"{ramp}.start=0").notes == []
    note = f"{ramp} has no effect: the snapshot's density has reached a factor of 1 already."
    assert make_plan(tmp_path, f"resume={finished}", f"{ramp}.factor=1", f"{ramp}.start=0").notes == [note]


def test_cameras_of_the_snapshot_that_are_not_repeated(finished, tmp_path):
    views = ["model.generator.camera.yaw=[-0.4,0.4]", "model.generator.rendering.far=1.3"]
    loop = make_loop(tmp_path, *SHORT, *views)
    loop.run()
    resume = f"resume={loop.folder}"
    for words in (views, ["model.generator.camera.yaw=[-0.2,0.2]", "model.generator.rendering.far=1.2"]):
        assert make_plan(tmp_path, resume, *words).notes == []
    for words, named in (([], " ".join(views)), (views[:1], views[1])):
        assert make_plan(tmp_path, resume, *words).notes == [
            f"resume: the snapshot was trained with {named}, which is not taken from it: give the same options, "
            "unless the new data are seen from elsewhere."
        ]


def test_camera_labels_in_other_units(tmp_path):
    """They are relative to the range of the cameras, so that it matters if it is given as well."""
    write_frames(tmp_path / "data")
    cameras = [[f"split/video_{video}", [0.1 * video - 0.2, 1.57]] for video in range(5)]
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({"cameras": cameras}))
    yaw, words = "model.generator.camera.yaw", ["camera_condition=true"]
    loop = make_loop(tmp_path, *SHORT, *words, f"{yaw}=[-0.4,0.4]")
    loop.run()
    resume = f"resume={loop.folder}"
    note = (
        f"resume: with camera_condition=true the discriminators see angles in units of the range, which was "
        f"{yaw}=[-0.4,0.4]: with another one they have to learn cameras anew."
    )
    assert make_plan(tmp_path, resume, *words, f"{yaw}=[-0.5,0.5]").notes == [note]
    views, last = make_plan(tmp_path, resume, *words).notes
    assert last == note and "was trained with model.generator.camera.yaw=[-0.4,0.4], which is not taken" in views
    same = [f"{yaw}=[-0.4,0.4]", "model.generator.camera.distribution=uniform"]
    assert make_plan(tmp_path, resume, *words, *same).notes == []


def test_an_augmentation_that_begins_anew(finished, tmp_path):
    loop = make_loop(tmp_path, *SHORT, "aug=ada", "p=0.3")
    loop.run()
    resume = f"resume={loop.folder}"
    assert make_plan(tmp_path, resume, "aug=ada").notes == [
        "resume: the snapshot's augmentation had reached p=0.3, this run's begins with 0; p=0.3 continues from there."
    ]
    for words in (["aug=ada", "p=0.3"], ["aug=ada", "p=0"], ["aug=fixed", "p=0.1"], []):
        assert make_plan(tmp_path, resume, *words).notes == []
    assert make_plan(tmp_path, f"resume={finished}", "aug=ada").notes == []  # it had none


# ----------------------------------------------------------------------------------------------------------------------
# Data that were replaced


def test_a_run_of_more_than_an_iteration_needs_its_state(finished, tmp_path):
    """A run that was killed after its first snapshot, before its first state, has nothing to lose."""
    early = tmp_path / "early"
    shutil.copytree(finished, early, ignore=shutil.ignore_patterns(STATE_FILE))
    assert read_state(early) is None
    loop = make_loop(tmp_path, *SHORT, "kimg=0.008")
    loop.run()
    (loop.folder / STATE_FILE).unlink()
    with pytest.raises(UserError) as error:
        read_state(loop.folder)
    assert str(error.value) == (
        f"Cannot continue the run in {loop.folder}: its training-state.pt is missing; start a new run from its newest "
        "snapshot with resume=."
    )


@pytest.fixture
def run(tmp_path):
    """Continues a run that has saved its state: the plan of a command."""
    data = write_frames(tmp_path / "data")
    labels = [[f"split/video_{v}", v % 2] for v in range(5)]
    (data / "dataset.json").write_text(json.dumps({"labels": labels}))
    loop = make_loop(tmp_path, "cond=true")
    options = make_plan(tmp_path, "cond=true").options
    (loop.folder / validate.RUN_OPTIONS).write_text(validate.dump_options(options))
    loop.save_state()
    return loop.folder


def test_labels_that_were_permuted_are_refused(run, tmp_path):
    assert make_plan(tmp_path, f"resume_run={run}").notes == []
    labels = [[f"split/video_{v}", (v + 1) // 2 % 2] for v in range(5)]
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({"labels": labels}))
    with pytest.raises(
        UserError, match="the number of videos is the same, but dataset.json has other labels or cameras"
    ):
        make_plan(tmp_path, f"resume_run={run}")


def test_files_that_were_replaced_are_noted(run, tmp_path):
    note = "The data have as many videos as when the run began, but the files' names or sizes have changed"
    video = tmp_path / "data" / "split" / "video_3"
    Image.new("RGB", (16, 16)).save(video / "2.png")
    assert [text[: len(note)] for text in make_plan(tmp_path, f"resume_run={run}").notes] == [note]
    # Of other names.
    shutil.rmtree(tmp_path / "data" / "split")
    write_frames(tmp_path / "data")
    assert make_plan(tmp_path, f"resume_run={run}").notes == []
    (video / "3.png").rename(video / "4.png")
    assert [text[: len(note)] for text in make_plan(tmp_path, f"resume_run={run}").notes] == [note]


def test_a_zip_of_the_folder_holds_the_same_data(run, tmp_path):
    shutil.make_archive(str(tmp_path / "data"), "zip", tmp_path / "data")
    assert make_plan(tmp_path, f"resume_run={run}", f"data={tmp_path / 'data.zip'}").notes == []


def test_states_of_earlier_versions_have_no_fingerprint(run, tmp_path):
    state = torch.load(run / STATE_FILE)
    del state["description"]["fingerprint"]
    torch.save(state, run / STATE_FILE)
    Image.new("RGB", (16, 16)).save(tmp_path / "data" / "split" / "video_3" / "2.png")
    assert make_plan(tmp_path, f"resume_run={run}").notes == []


@pytest.mark.parametrize("option", ["generator.upsampler.channel_max", "discriminator.channel_max"])
def test_sizes_with_which_no_snapshot_could_be_loaded_are_refused(tmp_path, option):
    with pytest.raises(UserError, match=rf"^model\.{option}=100000: whole numbers of a network are at most 65536\.$"):
        make_plan(tmp_path, f"model.{option}=100000")
    assert make_plan(tmp_path, "model.generator.upsampler.conv_clamp=1e6").options
