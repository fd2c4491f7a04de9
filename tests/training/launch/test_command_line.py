"""Help that is made from conf/, and what run_train.py passes on to Hydra."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import run_train
from dnnlib import UserError, __version__, run_cli
from training.launch.command_line import option_help
from training.launch.config import compose_options
from training.launch.option_rules import RULES

ROOT = Path(__file__).resolve().parents[3]


def call(monkeypatch, *words) -> int:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    monkeypatch.setattr(sys, "argv", ["run_train.py", *words])
    with pytest.raises(SystemExit) as caught:
        run_cli(run_train.main)
    return caught.value.code


def leaves(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        elif not key.startswith("_"):
            yield prefix + key


def shown(*words) -> dict[str, str]:
    """Default values in the help by option."""
    return dict(re.findall(r"^  ([\w.]+)=(\S*)", option_help(words), re.MULTILINE))


def test_help_has_every_option_with_its_default():
    composed = compose_options([])
    names = {name for name in leaves(composed) if not name.startswith("names.")}
    assert set(shown()) == names and names >= set(RULES)
    text = option_help()
    assert max(map(len, text.splitlines())) <= 120 and not re.search(r" $", text, re.MULTILINE)
    assert re.search(r"^  nframes=16 +frames of a training clip$", text, re.MULTILINE)
    assert re.search(r"^  spec.gamma=1 +weight of the R1 penalty$", text, re.MULTILINE)
    for name in ("stylenerf_sky", "stylenerf_small", "paper"):
        assert re.search(rf"^  {name} +[A-Z]", text, re.MULTILINE)
    assert " _base" not in text and "# --- augmentation before the discriminators" in text


def test_help_is_that_of_the_chosen_model_and_spec():
    small, paper = shown(), shown("spec=paper", "model=stylenerf_mead", "kimg=3")
    assert (small["kimg"], small["model.generator.camera.fov"], small["outdir"]) == ("32", "18", "")
    assert (paper["kimg"], paper["model.generator.camera.fov"], paper["spec.betas"]) == ("25000", "12", "[0,0.99]")
    prior = "model.generator.foreground.density_prior"  # null in the base
    assert small[f"{prior}.peak"] == "60" and prior not in small and paper[prior] == "null"
    with pytest.raises(UserError, match="There is no model 'cats'"):
        option_help(["model=cats"])


def test_help_of_the_command(monkeypatch, capsys):
    assert call(monkeypatch, "--help", "spec=paper") == 0
    out = capsys.readouterr().out
    assert "run_train.py outdir=OUT data=DATASET" in out and re.search(r"spec.mb=32 +videos per optimiser step", out)


def test_the_options_as_hydra_composes_them(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "outdir=a b,${c}", "--cfg", "job", "spec.gamma=7", "--resolve") == 0
    options = yaml.safe_load(capsys.readouterr().out)
    assert options["outdir"] == "a b,${c}" and options["spec"]["gamma"] == 7 and options["kimg"] == 32
    assert call(monkeypatch, "-c", "job", "-p", "spec", "spec=paper") == 0
    assert yaml.safe_load(capsys.readouterr().out)["mb"] == 32
    assert call(monkeypatch, "--info", "searchpath", "outdir=x") == 0
    assert str(ROOT / "conf") in capsys.readouterr().out
    assert call(monkeypatch, "--info", "outdir=x") == 0
    assert "model/stylenerf_small" in capsys.readouterr().out
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"video-3d-gan {__version__}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words, message",
    [
        (["--cfg", "job", "spec.gama=3"], "did you mean spec.gamma?"),
        (["--cfg", "model"], "--cfg must be one of job, hydra, all, got 'model'."),
        (["--cfg"], "--cfg wants a value: one of job, hydra, all."),
        (["--resolve", "outdir=x"], "--resolve goes with --cfg job"),
        (["--package", "spec"], "--package goes with --cfg job"),
        (["--config-dir", "x", "--cfg", "job"], "--config-dir: options come only from conf/"),
        (["--frobnicate", "outdir=x"], "'--frobnicate' is not an option"),
    ],
)
def test_flags_that_do_not_fit(words, message, monkeypatch, capsys):
    assert call(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "line, expected",
    [
        ("spec.gam", "spec.gamma="),
        ("model=stylenerf_m", "model=stylenerf_mead"),
        ("outdir=x model=", "model=stylenerf_faceforensics model=stylenerf_mead model=stylenerf_sky "
         "model=stylenerf_small model=stylenerf_taichi"),
    ],
)  # fmt: skip
def test_completions(line, expected, monkeypatch, capsys):
    line = f"python run_train.py {line}"
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert call(monkeypatch, "-sc", "query=bash") == 0
    assert capsys.readouterr().out.split() == expected.split()


def test_bash_completes(tmp_path):
    """The line that a user pastes, and the function that bash then calls at the tab key."""
    script = """
    eval "$(python run_train.py -sc install=bash)" || exit 3
    complete -p python >/dev/null || exit 4
    COMP_LINE="python run_train.py outdir=x spec.gam" COMP_POINT=${#COMP_LINE} COMP_CWORD=3
    COMP_POINT=${#COMP_LINE}
    hydra_bash_completion
    echo "${COMPREPLY[@]}"
    """
    environment = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    command = ["bash", "--norc", "-c", script]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert (result.returncode, result.stdout.strip()) == (0, "spec.gamma="), result.stderr
