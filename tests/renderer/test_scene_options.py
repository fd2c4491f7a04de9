"""Options that the commands for meshes and for splats share: their messages for mistakes."""

import pytest

from dnnlib import UserError
from renderer.mesh import __main__ as mesh_command
from renderer.splats import __main__ as splats_command
from tests.renderer.ball import build, load_instead, put_ball, runs_of

COMMANDS = {"mesh": mesh_command.main, "splats": splats_command.main}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(params=COMMANDS)
def run(request, untouched, tmp_path, monkeypatch):
    load_instead(put_ball(untouched, monkeypatch, slope=300), monkeypatch)
    return runs_of(COMMANDS[request.param], tmp_path, "--resolution", "16")


def test_times_beyond_the_training_are_told(run):
    run("--times", "0.5,-0.25")
    assert "Times from -0.25 to 0.5: training covered 0 to 1, the rest is extrapolated." in run.output.splitlines()
    run("--times", "0.5,1")
    assert "extrapolated" not in run.output


@pytest.mark.parametrize(
    "words, message",
    [
        (["--times", "0,x"], "--times: 'x' is not a number"),
        (["--times", "nan"], "--times: 'nan' is not a number"),
        (["--times", "0,-1e9"], "--times: '-1e9' goes beyond ±1000; training covered 0 to 1"),
        (["--times", "0", "--time_steps", "3"], "--times and --time_steps are two ways"),
        (["--codes", "no.npz"], r"^There is no file no\.npz; give the path of saved codes \(codes\.npz\)\.$"),
        (
            ["--codes", "no.npz", "--class_idx", "0"],
            "^--class_idx: the codes of a file are rendered as they are; leave",
        ),
        (["--codes", "no.npz", "--truncation_psi", "0.7"], "^--truncation_psi: the codes of a file are rendered as"),
        (["--seeds", "3-1"], "--seeds"),
        (["--seeds", str(2**32)], "must lie between"),
        (["--class_idx", "0"], "--class_idx: this generator was trained without labels"),
        (["--device", "nonsense"], "--device: 'nonsense'"),
        (["--outdir", "/dev/null/out"], "--outdir: cannot make the folder /dev/null/out: Not a directory"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(run, words, message):
    with pytest.raises(UserError, match=message):
        run(*words)
    assert not run.out.exists()


def test_a_truncation_without_an_average_style_is_told_before_anything_is_written(run, untouched, monkeypatch):
    monkeypatch.setattr(untouched.mapping, "w_avg_beta", None)
    with pytest.raises(UserError, match="^--truncation_psi: this generator keeps no mean"):
        run("--truncation_psi", "0.7")
    assert not run.out.exists()
