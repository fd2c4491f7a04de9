"""Common to all commands: spellings of options, suggestions, finite numbers, `~`."""

import importlib
import os
import pathlib
import subprocess
import sys
import tempfile

import click
import click.testing
import pytest

import generate
from dnnlib import UserError, run_cli
from dnnlib.command_line import FINITE, FRAME_RATE, Command, finite_float

COMMANDS = (
    "benchmarks.__main__", "benchmarks.data_loading", "benchmarks.evaluation", "benchmarks.growth",
    "benchmarks.learning.__main__", "benchmarks.precision", "benchmarks.rendering", "benchmarks.scaling",
    "benchmarks.training", "benchmarks.viewer", "generate", "metrics.__main__", "renderer.contact_sheet",
    "renderer.mesh.__main__", "renderer.splats.__main__", "renderer.viewer.__main__", "benchmarks.operators",
    "training.dataset_tool.__main__", "training.dataset_tool.demo_clip", "training.inversion.__main__",
    "training.published.__main__", "training.report.__main__", "training.synthetic.__main__",
    "renderer.app.__main__", "training.export.__main__", "training.sharing.__main__",
)  # fmt: skip


# `python -m` commands of the README and the docs.
PROGRAMS = (
    "metrics", "renderer.contact_sheet", "renderer.geometry", "renderer.mesh", "renderer.splats",
    "renderer.viewer", "training.dataset_tool", "training.dataset_tool.demo_clip", "training.inversion",
    "training.published", "training.report", "training.synthetic",
)  # fmt: skip


def command_of(module: str) -> click.Command:
    found = importlib.import_module(module)
    return getattr(found, "main", None) or found.command


@click.command(cls=Command)
@click.option("--frame-stride", type=int, default=1)
@click.option("--time_steps", type=int, default=1)
@click.option("--scale/--no-scale", default=True)
@click.option("--kind", type=click.Choice(["two_words", "other"]))
@click.option("--out", default="")
def example(frame_stride, time_steps, scale, kind, out):
    click.echo(f"{frame_stride} {time_steps} {scale} {kind} {out}")


def said(*words: str) -> str:
    return click.testing.CliRunner().invoke(example, words).output


def test_both_spellings_are_taken():
    assert said("--frame-stride", "2", "--time-steps", "3", "--no_scale") == "2 3 False None \n"
    assert said("--frame_stride=2", "--time_steps=3", "--kind", "two-words") == "2 3 True two_words \n"


@pytest.mark.parametrize(
    "word, message",
    [
        ("--frame_stirde", "No such option --frame_stirde; did you mean --frame-stride? --help shows all."),
        ("--TIME-STEPS=3", "No such option --TIME-STEPS; did you mean --time_steps? --help shows all."),
        ("--stride", "No such option --stride; did you mean --frame-stride? --help shows all."),
        ("-kind", "No such option -kind; did you mean --kind? --help shows all."),
        ("--noscale", "No such option --noscale; did you mean --no-scale? --help shows all."),
        ("--nothing-like-it", "No such option --nothing-like-it; --help shows all."),
    ],
)
def test_the_nearest_option_is_suggested(word, message):
    with pytest.raises(click.UsageError) as raised:
        example([word], standalone_mode=False)
    assert raised.value.format_message() == message


def test_home_in_a_joined_value(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert said("--out=~/a b").endswith(" /home/me/a b\n")
    assert said("--out", "~/a").endswith(" ~/a\n")  # a quoted one is meant: else the shell would have replaced it
    assert said("--out=~x").endswith(" ~x\n")


@pytest.mark.parametrize("module", COMMANDS)
def test_empty_values_are_refused(module):
    """Often of an unset variable of a shell; as a path some functions take them for the working folder."""
    command, before = command_of(module), []
    for parameter in command.params:
        name = parameter.human_readable_name.strip("[]")
        words = [*before, ""]
        if isinstance(parameter, click.Argument):
            before.append("x")
        elif parameter.is_flag or parameter.default == "":
            continue
        else:
            name = max(parameter.opts, key=len)
            words = [name, *[""] * parameter.nargs]
        with pytest.raises(UserError) as raised:
            command.main(words, standalone_mode=False)
        assert str(raised.value) == f"{name} is empty; give a value, or leave it out."


def test_an_empty_value_that_is_the_default():
    assert said("--out", "") == "1 1 True None \n"


@pytest.mark.parametrize(
    "module, words, name",
    [
        ("training.report.__main__", ["run", "--out", "LONG"], "--out"),
        ("training.sharing.__main__", ["hf://user/name", "LONG"], "OUT"),
        ("training.synthetic.__main__", ["folder/LONG"], "OUT"),
        ("training.dataset_tool.__main__", ["source", "LONG.zip"], "OUT"),
        ("training.dataset_tool.demo_clip", ["LONG"], "OUT"),
    ],
)
def test_names_that_are_too_long_are_refused_at_once(tmp_path, monkeypatch, module, words, name):
    monkeypatch.chdir(tmp_path)
    words = [word.replace("LONG", "n" * 256) for word in words]
    with pytest.raises(UserError) as raised:
        command_of(module).main(words, standalone_mode=False)
    assert str(raised.value) == f"{name}: {words[-1][:60]}… is too long for the name of a file or folder."
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "NaN"])
@pytest.mark.parametrize("kind", [FINITE, FRAME_RATE, finite_float(0), finite_float(0, above=True)])
def test_only_finite_numbers(kind, text):
    with pytest.raises(click.BadParameter, match="is not a finite number|is not in the range"):
        kind.convert(text, None, None)


def test_bounds_of_numbers():
    assert FINITE.convert("-2.5", None, None) == -2.5
    assert FRAME_RATE.convert("0.01", None, None) == 0.01 and FRAME_RATE.convert("1000", None, None) == 1000
    assert FRAME_RATE.convert("30000/1001", None, None) == 30000 / 1001
    for text in ("1/0", "a/b", "3/", "-1/2", f"{10**400}/1"):
        with pytest.raises(click.BadParameter, match="is not a valid float range|is not in the range"):
            FRAME_RATE.convert(text, None, None)
    for kind, text in [(FRAME_RATE, "0"), (FRAME_RATE, "1001"), (finite_float(0, 1, above=True, below=True), "1")]:
        with pytest.raises(click.BadParameter, match="is not in the range"):
            kind.convert(text, None, None)


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_takes_both_spellings_and_finite_numbers(module):
    command = command_of(module)
    assert isinstance(command, Command)
    context = click.Context(command, **command.context_settings)
    for option in command.params:
        if isinstance(option.type, (click.types.FloatParamType, click.FloatRange)):
            with pytest.raises(click.BadParameter):
                option.type_cast_value(context, "nan")
            with pytest.raises(click.BadParameter):
                option.type_cast_value(context, "inf")


@pytest.mark.parametrize(
    "name, end",
    [
        ("rotation-camera-yaww", "did you mean rotation_camera_yaw? --help shows all."),
        ("zoom", "did you mean front_zoom? --help shows all."),
        ("qqqq", "<name>_inverse."),
    ],
)
def test_the_nearest_program_is_suggested(name, end):
    with pytest.raises(ValueError, match="--render_program: there is no program") as raised:
        generate.parse_programs(f"front,{name}")
    assert str(raised.value).endswith(end)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
@pytest.mark.parametrize(
    "module, words",
    [
        ("training.report.__main__", ["PRIVATE/run"]),
        ("training.report.__main__", ["OPEN", "--out", "PRIVATE/report.html"]),
        ("training.sharing.__main__", ["OPEN", "PRIVATE/model"]),
        ("training.dataset_tool.__main__", ["OPEN", "PRIVATE"]),
        ("metrics.detectors", ["PRIVATE/i3d.pt"]),
        ("run_train", ["resume_run=PRIVATE/00000-run"]),
    ],
)
def test_folders_of_other_users(module, words, capsys):
    code = importlib.import_module(module)
    start = {
        "metrics.detectors": lambda words: code.find_detector("i3d", path=words[0]),
        "run_train": lambda words: code.train(words),
    }.get(module, lambda words: code.main(words, standalone_mode=False))
    with tempfile.TemporaryDirectory() as private, tempfile.TemporaryDirectory() as open_to_all:
        os.chmod(open_to_all, 0o755)
        pathlib.Path(open_to_all, "log.txt").touch()
        words = [word.replace("PRIVATE", private).replace("OPEN", open_to_all) for word in words]
        os.seteuid(65534)
        try:
            with pytest.raises(SystemExit) as ended:
                run_cli(lambda: start(words))
        finally:
            os.seteuid(0)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("error: ") and private in said and said.count("\n") == 1, said


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_run_under_their_names(program):
    root = pathlib.Path(__file__).resolve().parents[2]
    words = [sys.executable, "-m", program, "--help"]
    result = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"Usage: python -m {program} ")
