"""Nothing is written into a folder of training data that would be taken for more of it."""

import json
import os
import sys

import click.testing
import pytest
import yaml

import generate
import run_train
from dnnlib import UserError, run_cli
from renderer.mesh import __main__ as mesh_command
from tests.small_network import save_small_network, small_generator
from tests.training.tiny import OVERRIDES, make_loop, make_plan, write_frames
from training.data.dataset_folders import frames_nearby, keep_apart, trained_on
from training.dataset_tool import __main__ as dataset_tool
from training.dataset_tool.prepare import prepare
from training.inference.cli_options import TRACK_NAMES
from training.inversion import __main__ as inversion
from training.synthetic.make_dataset import make_dataset
from training.synthetic.render import SyntheticConfig


def files(folder) -> list:
    return sorted(folder.rglob("*"))


# ----------------------------------------------------------------------------------------------------------------------
# Training


@pytest.mark.parametrize("where", ["", "runs", "split", "split/video_0/runs", "../data/runs", "./runs/../runs"])
def test_a_run_inside_its_data_is_refused(where, tmp_path, monkeypatch, capsys):
    data = write_frames(tmp_path / "data")
    before = files(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run_train.py", f"outdir={data}/{where}", f"data={data}", *OVERRIDES])
    with pytest.raises(SystemExit) as caught:
        run_cli(run_train.main)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.startswith("error: outdir=: ") and error.count("\n") == 1
    assert f"lies inside the data in '{data}'" in error
    assert files(tmp_path) == before


def test_links_are_seen_through(tmp_path):
    data = write_frames(tmp_path / "data")
    (tmp_path / "into").symlink_to(data)
    (tmp_path / "elsewhere").mkdir()
    for out, known in [(tmp_path / "into" / "x", data), (data / "x", tmp_path / "into"), (tmp_path / "into", data)]:
        with pytest.raises(UserError, match="lies inside the data"):
            keep_apart(out, option="outdir=", data=[known])
    keep_apart(tmp_path / "elsewhere" / "runs", option="outdir=", data=[data])
    for link in (data / "more", data / "split" / "more"):  # a listing of the data follows it
        link.symlink_to(tmp_path / "elsewhere")
        for out in (tmp_path / "elsewhere", tmp_path / "elsewhere" / "runs"):
            with pytest.raises(UserError, match="lies inside the data"):
                keep_apart(out, option="outdir=", data=[data])
        link.unlink()
    (data / "circle").symlink_to(tmp_path)  # this one it does not follow
    keep_apart(tmp_path / "elsewhere", option="outdir=", data=[data])


def test_data_below_the_outputs_are_no_trouble(tmp_path):
    """Run folders lie beside the data then."""
    data = write_frames(tmp_path / "data")
    keep_apart(tmp_path, option="outdir=", data=[data])
    keep_apart(tmp_path / "data-runs", option="outdir=", data=[data, None, tmp_path / "set.zip"])
    assert make_plan(tmp_path, f"outdir={tmp_path}").options["outdir"] == str(tmp_path)


def test_a_run_that_is_continued_on_data_around_it_is_refused(tmp_path):
    loop = make_loop(tmp_path)
    (loop.folder / "training_options.yaml").write_text(yaml.safe_dump(make_plan(tmp_path).options))
    loop.save_state()
    assert make_plan(tmp_path, f"resume_run={loop.folder}").run_folder == loop.folder
    with pytest.raises(UserError, match="outdir=: '.*runs/00000-tiny' lies inside the data"):
        make_plan(tmp_path, f"resume_run={loop.folder}", f"data={tmp_path}")


# ----------------------------------------------------------------------------------------------------------------------
# Other commands


@pytest.fixture
def network(tmp_path):
    """The folder of a run on data without any mark, with a snapshot."""
    data = write_frames(tmp_path / "data")
    (tmp_path / "run").mkdir()
    save_small_network(tmp_path / "run", small_generator())
    (tmp_path / "run" / "training_options.yaml").write_text(f"data: {data}\n")
    return tmp_path / "run"


def command(main, *arguments):
    return click.testing.CliRunner().invoke(main, [str(a) for a in arguments], standalone_mode=False)


def commands(network, clip):
    pkl = ["--network_pkl", network]
    return {
        "generate": (generate.main, [*pkl, "--save_frames", "--n_steps", "2", "--time_steps", "2"]),
        "geometry": (mesh_command.main, [*pkl, "--preview"]),
        "inversion": (inversion.main, [*pkl, "--clip", clip]),
    }


@pytest.mark.parametrize("name", ["generate", "geometry", "inversion"])
def test_other_commands_keep_out_of_the_data_of_the_run(name, network, tmp_path):
    main, arguments = commands(network, tmp_path / "data" / "split" / "video_0")[name]
    before = files(tmp_path)
    newest = sorted(network.glob("network-snapshot-*.pt"))[-1]
    for out in (tmp_path / "data", tmp_path / "data" / "split" / "new"):
        for pkl in (network, newest):
            result = command(main, *arguments, "--network_pkl", pkl, "--outdir", out)
            assert isinstance(result.exception, UserError) and "lies inside the data in" in str(result.exception)
            assert str(result.exception).startswith("--outdir: ")
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["generate", "geometry", "inversion"])
@pytest.mark.parametrize("mark", ["manifest.json", "synthetic.json", "dataset.json"])
def test_other_commands_keep_out_of_marked_data(name, mark, network, tmp_path):
    (network / "training_options.yaml").unlink()
    contents = {
        "manifest.json": {"format": "square-video-frames"},
        "synthetic.json": {"videos": 3, "frames": 16},
        "dataset.json": {"labels": [["split/video_0", 1]]},
    }
    other = write_frames(tmp_path / "other", videos=1)
    (other / mark).write_text(json.dumps(contents[mark]))
    main, arguments = commands(network, tmp_path / "data" / "split" / "video_0")[name]
    result = command(main, *arguments, "--outdir", other / "split" / "new" / "deep")
    assert isinstance(result.exception, UserError) and f"lies inside the data in '{other}'" in str(result.exception)


def test_inversion_keeps_out_of_its_clip(network, tmp_path):
    clip = tmp_path / "data" / "split" / "video_0"
    (network / "training_options.yaml").unlink()
    main, arguments = commands(network, clip)["inversion"]
    result = command(main, *arguments, "--outdir", clip / "fitted")
    assert isinstance(result.exception, UserError) and "lies inside the data" in str(result.exception)


def test_frames_are_not_saved_among_unmarked_ones(network, tmp_path):
    (network / "training_options.yaml").unlink()
    main, arguments = commands(network, None)["generate"]
    for out in (tmp_path / "data" / "split", tmp_path / "data" / "split" / "video_1"):
        result = command(main, *arguments, "--outdir", out)
        assert isinstance(result.exception, UserError) and "holds frames of videos" in str(result.exception)
    # These may lie beside data, or in a folder of clips: no error, but a note.
    for out in (tmp_path / "data" / "split" / "new", tmp_path / "data"):
        assert "if it is training data" in frames_nearby(out, rendered=TRACK_NAMES)
    assert frames_nearby(tmp_path / "out", rendered=TRACK_NAMES) is None


def test_rendered_frames_may_be_rendered_again(network, tmp_path):
    main, arguments = commands(network, None)["generate"]
    out = tmp_path / "out"
    for _ in range(2):
        assert command(main, *arguments, "--outdir", out).exception is None
        assert sorted(p.name for p in (out / "rotation_camera_yaw_seed0000_motion0000").iterdir())[0] == "0000.png"
        (out / "rotation_camera_yaw_seed0000_motion0000.mp4").unlink()  # as after a kill
    assert command(main, *arguments, "--outdir", network).exception is None  # the run folder itself


def test_where_a_snapshot_says_nothing_of_its_data(tmp_path):
    assert trained_on(tmp_path / "network.pt") is None
    (tmp_path / "training_options.yaml").write_text("[1, 2")
    assert trained_on(tmp_path) is None
    (tmp_path / "training_options.yaml").write_text("[1, 2]")
    assert trained_on(tmp_path / "network.pt") is None


# ----------------------------------------------------------------------------------------------------------------------
# Making data


def test_no_dataset_inside_a_made_one(tmp_path):
    data = write_frames(tmp_path / "data", videos=2)
    prepare(source=str(data), out=str(tmp_path / "set"), resolution=16, nframes=4)
    with pytest.raises(UserError, match="OUT: .* lies inside the data in"):
        prepare(source=str(data), out=str(tmp_path / "set" / "more"), resolution=16, nframes=4)
    config = SyntheticConfig(videos=1, frames=2, resolution=8, supersample=1, seed=0, camera={})
    with pytest.raises(UserError, match="OUT: .* lies inside the data in"):
        make_dataset(tmp_path / "set" / "videos" / "heads", config, workers=1)
    # One whole of several parts, with labels in its root, is made in steps.
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "dataset.json").write_text('{"labels": []}')
    prepare(source=str(data), out=str(tmp_path / "whole" / "a"), resolution=16, nframes=4)


def test_no_preview_among_frames(tmp_path):
    data, out = write_frames(tmp_path / "data", videos=2), tmp_path / "set"
    before = (data / "split" / "video_0" / "0.png").read_bytes()
    convert = [data, out, "--resolution", "16", "--nframes", "4", "--workers", "1", "--preview"]
    for preview in (data / "split" / "sheet.png", data / "split" / "video_0" / "0.png", out / "videos" / "sheet.png"):
        result = command(dataset_tool.main, *convert, preview)
        assert isinstance(result.exception, UserError) and "--preview: " in str(result.exception)
        assert not out.exists()
    for option in ("--preview", "--histogram"):
        result = command(dataset_tool.main, "--check", data, "--nframes", "4", option, data / "split" / "sheet.png")
        assert isinstance(result.exception, UserError)
        assert str(result.exception).startswith(f"{option}: '{data / 'split' / 'sheet.png'}' lies among the frames")
    assert (data / "split" / "video_0" / "0.png").read_bytes() == before
    assert command(dataset_tool.main, *convert, out / "sheet.png").exception is None  # in the root it is no frame
    assert os.path.exists(out / "sheet.png")
