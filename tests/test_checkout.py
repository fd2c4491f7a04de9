"""A fresh checkout: line ends on every system, and the commands that install and check."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from dnnlib import __version__

ROOT = Path(__file__).resolve().parent.parent
TEXT = (".sh", ".py", ".cpp", ".cu", ".h", ".yaml", ".md")


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A clone with core.autocrlf=true, which Git for Windows sets."""
    folder = tmp_path_factory.mktemp("checkout") / "clone"
    command = ["git", "-c", "core.autocrlf=true", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder)]
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git checkout here")
    result = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    return folder


def test_no_line_ends_of_windows(clone):
    names = subprocess.run(["git", "-C", clone, "ls-files", "-z"], capture_output=True, check=True).stdout
    files = [clone / os.fsdecode(name) for name in names.split(b"\0") if name]
    text = [path for path in files if path.suffix in TEXT or path.name in ("Makefile", "run")]
    assert {clone / "evaluate.sh", clone / "visualize.sh", clone / "Makefile", clone / ".ci" / "run"} <= set(text)
    assert [path.name for path in text if b"\r" in path.read_bytes()] == []


def test_binaries_arrive_as_they_are(clone):
    for name in ("assets/demo.png", "tests/data/units.npz", "tests/data/published_states.json.gz"):
        assert (clone / name).read_bytes() == (ROOT / name).read_bytes()
        attributes = ["git", "-C", clone, "check-attr", "text", "--", name]
        assert subprocess.run(attributes, capture_output=True, encoding="utf-8").stdout == f"{name}: text: unset\n"


@pytest.mark.parametrize("name", ["evaluate.sh", "visualize.sh"])
def test_scripts_run(clone, name):
    result = subprocess.run([clone / name], capture_output=True, encoding="utf-8")
    assert result.returncode == 2
    assert result.stderr.startswith(f"usage: ./{name} ")


# ----------------------------------------------------------------------------------------------------------------------
# make browser


class Machine:
    """A machine with only these programs, whose apt-get records how it is called."""

    def __init__(self, folder: Path):
        self.folder, self.calls = folder, folder / "calls"
        folder.mkdir()
        for name in ("bash", "sh", "env", "make", "id", "nproc", "cat", "cksum", "cut", "echo"):
            program = shutil.which(name)
            if program is not None:
                (folder / name).symlink_to(program)

    def add(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def run(self, *command: str) -> subprocess.CompletedProcess:
        return subprocess.run(command, cwd=ROOT, env={"PATH": str(self.folder)}, capture_output=True, encoding="utf-8")

    def apt(self, *, update: int, install: str) -> None:
        """An apt-get whose update ends with a code, and whose install runs a script."""
        self.add("apt-get", f'echo "$@" >> {self.calls}; case "$*" in *update) exit {update};; *) {install};; esac')
        self.add("sudo", '"$@"')


@pytest.fixture
def machine(tmp_path) -> Machine:
    if shutil.which("make") is None:
        pytest.skip("no make")
    return Machine(tmp_path / "bin")


def test_a_browser_that_is_there_is_taken(machine):
    machine.add("chromium", "exit 0")
    machine.apt(update=1, install="exit 1")
    result = machine.run("make", "browser")
    assert result.returncode == 0 and "Chromium is installed" in result.stdout
    assert not machine.calls.exists()


@pytest.mark.parametrize("update", [0, 100])
def test_a_browser_is_installed_after_the_lists_are_fetched(machine, update):
    machine.apt(update=update, install=f"cp {machine.folder}/sudo {machine.folder}/chromium")
    (machine.folder / "cp").symlink_to(shutil.which("cp"))
    result = machine.run("make", "browser")
    assert result.returncode == 0, result.stderr
    calls = machine.calls.read_text(encoding="utf-8").splitlines()
    assert [call.split()[-1] for call in calls] == ["update", "chromium-driver"]
    assert ("the existing ones are used" in result.stderr) == (update != 0)


@pytest.mark.parametrize("install", ["exit 100", "exit 0"])  # apt-get fails, or there is no `chromium` afterwards
def test_a_browser_that_cannot_be_installed_is_said(machine, install):
    machine.apt(update=0, install=install)
    result = machine.run("make", "browser")
    assert result.returncode == 2
    assert "Chromium could not be installed" in result.stderr


def test_the_check_installs_the_browser_first(machine):
    (machine.folder / "make").unlink()
    (machine.folder / "dirname").symlink_to(shutil.which("dirname"))
    machine.add("make", f'echo "$@" >> {machine.calls}')
    assert machine.run("bash", ".ci/run").returncode == 0
    assert machine.calls.read_text(encoding="utf-8").splitlines() == ["browser", "test"]
    machine.calls.unlink()
    machine.add("make", f'echo "$@" >> {machine.calls}; exit 1')
    assert machine.run("bash", ".ci/run").returncode == 1  # no tests that would be skipped
    assert machine.calls.read_text(encoding="utf-8").splitlines() == ["browser"]


# ----------------------------------------------------------------------------------------------------------------------
# Files about the project


def test_the_version_is_a_release_of_the_changelog():
    assert f"\n## [{__version__}]\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[0]
    assert "\nversion =" not in project and '"version"' in project


def test_the_workflow_makes_what_the_check_makes():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["test"]
    check = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line for line in check if line.startswith("make ")]
    assert [step["run"] for step in job["steps"] if "run" in step] == commands
    assert job["strategy"]["matrix"]["python"] == ["3.10", "3.12"]


# ----------------------------------------------------------------------------------------------------------------------
# make install, make faces


@pytest.mark.parametrize(
    "target, variables", [("install", ("VENV", "PYTHON")), ("faces", ("FACES_VENV", "FACES_PYTHON"))]
)
def test_an_environment_that_was_left_unfinished_is_made_again(machine, tmp_path, target, variables):
    venv, python = tmp_path / "venv", tmp_path / "venv" / "bin" / "python"
    for name in ("rm", "touch", "cp"):
        (machine.folder / name).symlink_to(shutil.which(name))
    machine.add("sound", f'echo "$1 $2 $3" >> {machine.calls}')
    machine.add("python", f'sound "$@"; [ "$1" = -c ] || cp {machine.folder}/sound {python}')
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/bash\nexit 1\n", encoding="utf-8")  # pip is missing: python -m venv was interrupted
    python.chmod(0o755)
    words = ["make", target, f"{variables[0]}={venv}", f"{variables[1]}={machine.folder}/python"]

    def calls() -> list[str]:
        result = machine.run(*words)
        assert result.returncode == 0, result.stderr
        found = machine.calls.read_text(encoding="utf-8").splitlines() if machine.calls.exists() else []
        machine.calls.unlink(missing_ok=True)
        return [call for call in found if call.startswith("-m")]

    assert calls() == [f"-m venv {venv}", "-m pip install"]
    assert calls() == []  # installed
    next(venv.glob(".installed-*")).unlink()
    assert calls() == ["-m pip --version", "-m pip install"]
