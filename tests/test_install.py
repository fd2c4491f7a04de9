"""The installed program: a wheel in a fresh environment, its commands and its Python interface in another folder."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dnnlib import __version__
from tests.small_network import save_small_run

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("dnnlib", "metrics", "renderer", "torch_utils", "training", "video3d")
FILES = ("generate.py", "run_train.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE")
COMMANDS = ("data", "generate", "metrics", "train", "view")


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, env=variables, capture_output=True, encoding="utf-8", timeout=120
    )


@pytest.mark.skipif(tomllib is None, reason="needs tomllib (Python 3.11)")
def test_every_package_is_installed():
    """pyproject.toml lists all: conf/ has another name once installed, which no package search would find."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {
        ".".join(path.relative_to(ROOT).parent.parts)
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert set(settings["packages"]) == found | {"video3d.conf"}
    assert settings["package-data"]["*"] == ["py.typed"] and all(
        (ROOT / name / "py.typed").exists() for name in PACKAGES
    )


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A fresh virtual environment that holds the wheel, and a run in the folder `run` beside it.

    It needs no network: a .pth file lets the environment see the packages that these tests run with, PyTorch among
    them, after its own. The wheel is built from a copy of the sources, by the setuptools of these tests.
    """
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("install")
    source = folder / "source"
    source.mkdir()
    for name in (*PACKAGES, "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    pip, offline = (sys.executable, "-m", "pip", "--disable-pip-version-check"), ("--no-deps", "--no-index")
    built = run(*pip, "wheel", "--verbose", "--no-build-isolation", *offline, "-w", folder, source, cwd=folder)
    assert built.returncode == 0, built.stderr
    (folder / "build.log").write_text(built.stdout + built.stderr, encoding="utf-8")
    [wheel] = folder.glob("*.whl")
    shutil.rmtree(source)  # nothing may be found in there
    fresh = folder / "environment"
    made = run(sys.executable, "-m", "venv", "--without-pip", fresh, cwd=folder)
    assert made.returncode == 0, made.stderr
    [packages] = fresh.glob("lib/python*/site-packages")
    seen = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "running.pth").write_text("\n".join(seen) + "\n", encoding="utf-8")
    installed = run(*pip, "--python", fresh / "bin" / "python", "install", *offline, wheel, cwd=folder)
    assert installed.returncode == 0, installed.stderr
    (folder / "run").mkdir()
    save_small_run(folder / "run")
    return fresh


@pytest.mark.slow
def test_a_wheel_is_built_without_warnings(environment):
    """setuptools warns of what its later versions, which pip uses for a build, refuse."""
    log = (environment.parent / "build.log").read_text(encoding="utf-8")
    assert "Building wheel for video-3d-gan" in log  # the log is that of setuptools
    assert re.findall(r"\w*Warning: .*", log) == []


@pytest.mark.slow
def test_commands_of_a_wheel(environment, tmp_path):
    assert {path.name for path in (environment / "bin").glob("video3d-*")} == {f"video3d-{name}" for name in COMMANDS}
    result = run(environment / "bin" / "video3d-train", "--version", cwd=tmp_path)
    assert result.stdout == f"video-3d-gan {__version__}\n", result.stderr
    words = ["--outdir", "out", "--network_pkl", environment.parent / "run", "--time_steps", "2", "--n_steps", "2"]
    result = run(environment / "bin" / "video3d-generate", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "rotation_camera_yaw_seed0000_motion0000.mp4").stat().st_size > 0
    for name in ("data", "metrics", "view"):
        result = run(environment / "bin" / f"video3d-{name}", "--help", cwd=tmp_path)
        assert result.stdout.startswith(f"Usage: video3d-{name} [OPTIONS]"), result.stderr
    result = run(environment / "bin" / "video3d-view", "--network_pk", "x", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (
        2,
        "error: No such option --network_pk; did you mean --network_pkl? --help shows all.\n",
    )


@pytest.mark.slow
def test_options_of_a_wheel(environment, tmp_path):
    """conf/ is found, and completed by the shell."""
    result = run(environment / "bin" / "video3d-train", "outdir=out", "data=clips", "--cfg", "job", cwd=tmp_path)
    assert result.stdout.startswith("model:\n  resolution: 32\n") and "\noutdir: out\n" in result.stdout, result.stderr
    result = run(environment / "bin" / "video3d-train", "-sc", "install=bash", cwd=tmp_path)
    script = f"""{result.stdout}
        COMP_LINE="video3d-train model=style"; COMP_POINT=25; COMP_WORDS=(video3d-train model=style); COMP_CWORD=1
        hydra_bash_completion; echo "${{COMPREPLY[@]}}" """
    path = f"{environment / 'bin'}:{os.environ['PATH']}"
    shown = run("bash", "-c", script, cwd=tmp_path, PATH=path).stdout
    assert {"model=stylenerf_small", "model=stylenerf_taichi"} <= set(shown.split())
    words = {"COMP_WORDS": "video3d-generate --see", "COMP_CWORD": "1"}
    completed = {**words, "_VIDEO3D_GENERATE_COMPLETE": "bash_complete"}
    assert run(environment / "bin" / "video3d-generate", cwd=tmp_path, **completed).stdout == "plain,--seeds\n"


@pytest.mark.slow
def test_the_library_of_a_wheel(environment, tmp_path):
    """Its modules and the sources of native operators are those of the wheel, which are built into the user's cache."""
    script = f"""
import json, video3d
from pathlib import Path
from torch_utils import op_build
G = video3d.load_generator({str(environment.parent / "run")!r})
video = G.video(seed=3, motion_seed=5, frames=2)
video3d.save_video("video.mp4", video)
sources = sorted(path.name for path in op_build.SOURCES.glob("*/*_cpu.cpp"))
typed = Path(video3d.__file__).with_name("py.typed").exists()
built = str(op_build.library_folder())
print(json.dumps([video3d.__version__, list(video.shape), op_build.__file__, sources, built, typed]))
"""
    cache = tmp_path / "cache"
    result = run(
        environment / "bin" / "python", "-c", script, cwd=tmp_path, XDG_CACHE_HOME=str(cache), VIDEO3D_OPS="off",
        VIDEO3D_OPS_CACHE="",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    version, shape, module, sources, built, typed = json.loads(result.stdout)
    assert (version, shape, typed) == (__version__, [2, 3, 32, 32], True)
    assert Path(module).is_relative_to(environment) and Path(built) == cache / "video-3d-gan" / "ops"
    assert sources == sorted(path.name for path in (ROOT / "torch_utils" / "ops" / "csrc").glob("*/*_cpu.cpp"))
    assert (tmp_path / "video.mp4").stat().st_size > 0


@pytest.mark.slow
def test_the_version_of_a_wheel_is_one_number(environment):
    [metadata] = environment.glob("lib/python*/site-packages/video_3d_gan-*.dist-info/METADATA")
    text = metadata.read_text(encoding="utf-8")
    assert f"\nVersion: {__version__}\n" in text
    assert "\nLicense-Expression: Apache-2.0\n" in text and (metadata.parent / "licenses" / "LICENSE").is_file()
    needed = set(re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", text, re.MULTILINE))
    listed = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert needed == {re.split(r"[><=]", line)[0] for line in listed if line and not line.startswith("#")}


@pytest.mark.skipif(tomllib is None, reason="needs tomllib (Python 3.11)")
def test_extras_are_tested_in_their_versions():
    """`make test-extras` installs the packages of pyproject.toml, the extra `docs` with those of `make docs`."""

    def listed(name: str) -> set[str]:
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        return {line for line in lines if line and not line.startswith(("#", "-r "))}

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    tested = ("wandb", "trackio", "mlflow", "app", "export", "drive", "slurm")
    assert listed("requirements-extras.txt") == {package for name in tested for package in extras[name]}
    assert listed("docs/requirements.txt") == set(extras["docs"])


def test_the_image_installs_extras_that_there_are():
    """The Dockerfile is not built here."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    named = re.search(r'"/src\[([\w,]+)\]"', text)[1].split(",")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2]
    assert set(named) <= set(re.findall(r"^([\w-]+) = \[", project.partition("\n[")[0], re.MULTILINE))
    assert re.search(r'^CMD \["video3d-generate"', text, re.MULTILINE)


def test_the_scripts_have_commands():
    """Each command is a function of video3d.commands."""
    import video3d.commands

    assert set(video3d.commands.__all__) == set(COMMANDS)
    listed = re.findall(r'^video3d-(\w+) = "video3d\.commands:(\w+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert listed == [(name, name) for name in ("train", "generate", "data", "metrics", "view")]
