"""The example of docs/extending.md: a generator of a user's own class trains, resumes, renders and is never imposed."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

import run_train
from dnnlib import UserError
from tests.training.tiny import OVERRIDES, write_frames
from training.checkpoints.snapshot import load_average_generator, load_snapshot
from training.inference.frame_renderer import FrameRenderer
from training.inference.latents import seed_latents
from training.launch import config

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
NAME = "my_models.LoopingGenerator"


def block(language: str) -> str:
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return text


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """A working folder as the page describes it, with a copy of conf/."""
    (tmp_path / "my_models.py").write_text(block("python"))
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "model" / "looping.yaml").write_text(block("yaml"))
    monkeypatch.setattr(config, "CONFIG_DIR", tmp_path / "conf")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delenv("GENERATOR_CLASS", raising=False)
    monkeypatch.chdir(tmp_path)
    write_frames(tmp_path / "data")
    yield tmp_path
    sys.modules.pop("my_models", None)


def train(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["run_train.py", "outdir=runs", *words])
    run_train.main()


def test_own_generator_trains_resumes_and_renders(work, monkeypatch):
    own = [word for word in OVERRIDES if not word.startswith(("model=", "kimg="))]
    train(monkeypatch, "data=data", "model=looping", *own, "kimg=0.008", "imgsnap=null")
    (folder,) = Path("runs").iterdir()
    train(monkeypatch, "resume_run=0", "kimg=0.016")
    content = load_snapshot(folder)
    assert content["progress"]["cur_nimg"] == 16
    assert content["generator"]["class"] == NAME and content["generator"]["config"]["periods"] == 1

    # A command that was not asked to run the class stops; nothing is imported.
    del sys.modules["my_models"]
    with pytest.raises(UserError, match="GENERATOR_CLASS to this name .* give generator_class") as caught:
        load_average_generator(folder)
    assert NAME in str(caught.value) and "\n" not in str(caught.value) and "my_models" not in sys.modules
    monkeypatch.setenv("GENERATOR_CLASS", "os.path")
    with pytest.raises(UserError):
        load_average_generator(folder)
    assert "my_models" not in sys.modules

    monkeypatch.setenv("GENERATOR_CLASS", NAME)
    generator = load_average_generator(folder)
    assert type(generator).__name__ == "LoopingGenerator"
    codes = seed_latents(0, 0, z_dim=8, motion_dim=8, background_dim=4)
    renderer = FrameRenderer(generator, generator.mapping(codes.z), z_motion=codes.z_motion, z_bg=codes.z_bg)
    front = generator.camera_prior.at()
    first, quarter, last = (renderer.render(time, front) for time in (0.0, 0.25, 1.0))
    torch.testing.assert_close(first, last, rtol=0, atol=1e-5)
    assert (first - quarter).abs().max() > 1e-4

    monkeypatch.delenv("GENERATOR_CLASS")
    assert type(load_average_generator(folder, generator_class=type(generator))) is type(generator)
    with pytest.raises(UserError, match="another class"):
        load_average_generator(folder, generator_class=type("Other", (type(generator),), {}))


def test_an_argument_that_snapshots_would_lose_is_named(work):
    """They rebuild a network from its `config`: without, it would be rendered with the argument's default."""
    from training.launch.validate import plan

    text = Path("my_models.py").read_text()
    Path("my_models.py").write_text("".join(line for line in text.splitlines(True) if "self.config" not in line))
    message = r"^model\.generator: LoopingGenerator leaves periods out .* add self\.config\[.periods.\] = periods"
    with pytest.raises(UserError, match=message):
        plan(["outdir=runs", "data=data", "model=looping", *OVERRIDES[1:]])


def test_a_class_that_does_not_exist_or_is_no_network_is_one_line(work):
    from training.launch.validate import plan

    for name, message in (("my_models.Nothing", "there is no class"), ("os.getcwd", "is not a torch.nn.Module")):
        with pytest.raises(UserError, match=rf"^model\.generator: .*{message}"):
            plan(["outdir=runs", "data=data", *OVERRIDES, f"model.generator._target_={name}"])
    with pytest.raises(UserError, match="model.generator: .*hair"):
        plan(["outdir=runs", "data=data", "model=looping", *OVERRIDES[1:], "+model.generator.hair=1"])


def test_a_file_that_an_installed_package_does_not_read(work, monkeypatch):
    from training.launch.validate import plan

    monkeypatch.setattr(config, "CONFIG_DIR", ROOT / "conf")
    expected = f" conf/model/looping.yaml in this folder is not read; the files are in {ROOT / 'conf' / 'model'}."
    with pytest.raises(UserError, match=rf"^There is no model 'looping' .*{re.escape(expected)}$"):
        plan(["outdir=runs", "data=data", "model=looping"])
    with pytest.raises(UserError, match=r"^There is no model 'cats' [^/]*/model; choose from [^/]*$"):
        plan(["outdir=runs", "data=data", "model=cats"])
    [command] = re.findall(r"^`(model\.generator\._target_=\S+ \+\S+)`", PAGE, re.MULTILINE)
    options = plan(["outdir=runs", "data=data", *OVERRIDES, *command.split()]).options
    assert (options["model"]["generator"]["_target_"], options["model"]["generator"]["periods"]) == (NAME, 1)


def test_the_page_names_files_that_exist():
    named = re.findall(r"`((?:training|metrics|torch_utils|tests|conf|benchmarks)/[\w/.]+)`", PAGE)
    assert len(set(named)) > 12
    missing = [name for name in set(named) if not (ROOT / name).exists() and name != "conf/model/looping.yaml"]
    assert missing == []
