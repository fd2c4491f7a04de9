"""Shared libraries of native operators, built by ninja and kept in the user's cache folder.

A library's folder is named by its recipe's key. It is built in a temporary folder beside the final one and renamed when
complete, under a file lock that the system releases if the builder is killed. So any number of processes may ask at
once: one builds, the others wait and load, and nobody ever sees half a library.
"""

import fcntl
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dnnlib.downloads import absolute_setting, cache_folder
from torch_utils.native_recipes import BuildError, Recipe, ninja_command

__all__ = ["build", "library_folder", "library_path"]

CACHE_VARIABLE = "VIDEO3D_OPS_CACHE"


def library_folder() -> Path:
    """$VIDEO3D_OPS_CACHE, or `ops` in the user's cache folder.

    Raises:
        UserError: See `dnnlib.downloads.cache_folder`.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(absolute_setting(CACHE_VARIABLE, chosen)) if chosen else cache_folder("ops")


def library_path(label: str, recipe: Recipe) -> Path:
    """Where `build` puts a library; the arguments are the same."""
    return library_folder() / f"{label}-{recipe.key()}" / "library.so"


def build(label: str, recipe: Recipe) -> Path:
    """The library of a recipe, built if it is not in the cache.

    Args:
        label: Beginning of its folder's name.
        recipe: What to build.

    Returns:
        Path of the shared library.

    Raises:
        BuildError: the compiler failed (its first error and where the full log is), or the cache cannot be written.
    """
    name = f"{label}-{recipe.key()}"
    try:
        cache = library_folder()
        library = cache / name / "library.so"
        if library.is_file():
            return library
        asked = time.time()
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = cache / f"{name}.log"
        with _locked(cache / f"{name}.lock"):
            if library.is_file():
                return library
            if not _is_newer(log, asked):  # else another process has just failed at it while this one waited
                _build_in_place(cache, name, recipe, log)
            if not library.is_file():
                raise BuildError(f"{_first_error(log)} (full log: {log})")
            return library
    except (OSError, RuntimeError) as error:
        if isinstance(error, BuildError):
            raise
        raise BuildError(
            f"the build cache cannot be used ({error}); XDG_CACHE_HOME (for the operators alone, {CACHE_VARIABLE}) can "
            "name a folder that can be written to"
        ) from error


def _build_in_place(cache: Path, name: str, recipe: Recipe, log: Path) -> None:
    """Run ninja in a temporary folder and, if it succeeds, make that the final one; what it printed goes to `log`."""
    ninja = ninja_command()
    if ninja is None:
        raise BuildError("ninja was not found (it is in requirements.txt)")
    for left in cache.glob(f"{name}.*.tmp"):  # by a builder that was killed, whose compiler may still be at work in it
        shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{name}.", suffix=".tmp", dir=cache))
    (temporary / "build.ninja").write_bytes(os.fsencode(_ninja_file(recipe)))
    # The compiler's temporary files lie beside its results: there may be no other folder that it can write to.
    environment = {**os.environ, "LC_ALL": "C", "TMPDIR": str(temporary)}
    result = subprocess.run(
        [ninja, "-v", "-C", str(temporary)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env=environment,
    )
    if result.returncode != 0:
        log.write_text(result.stdout, encoding="utf-8")
        shutil.rmtree(temporary, ignore_errors=True)
        return
    log.unlink(missing_ok=True)
    shutil.rmtree(cache / name, ignore_errors=True)
    os.replace(temporary, cache / name)


def _ninja_file(recipe: Recipe) -> str:
    lines, objects = [], []
    for i, (command, source) in enumerate(recipe.objects):
        objects.append(f"{i}.o")
        lines += [f"rule compile{i}", f"  command = {_ninja_text(command)} -c $in -o $out"]
        lines += [f"build {i}.o: compile{i} {_ninja_path(source)}"]
    split = next((i for i, word in enumerate(recipe.link) if word.startswith("-L")), len(recipe.link))
    first, libraries = recipe.link[:split], recipe.link[split:]
    lines += ["rule link", f"  command = {_ninja_text(first)} $in -o $out {_ninja_text(libraries)}".rstrip()]
    lines += [f"build library.so: link {' '.join(objects)}"]
    return "\n".join(lines) + "\n"


def _ninja_text(command: tuple[str, ...]) -> str:
    return shlex.join(command).replace("$", "$$")


def _ninja_path(path: Path) -> str:
    return re.sub(r"([$ :])", r"$\1", str(path))


def _first_error(log: Path) -> str:
    """The line of a compiler's output that says most, without the folders of the file's path."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    said = next((line for line in lines if re.search(r"\b(fatal )?error\b\s*(#\d+)?:|: error|undefined", line)), None)
    said = said or next((line for line in lines if not line.startswith(("ninja:", "[", "FAILED"))), "unknown error")
    return re.sub(r"^/\S*/", "", said)


def _is_newer(path: Path, moment: float) -> bool:
    try:
        return path.stat().st_mtime >= moment
    except OSError:
        return False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock, which the system releases when this process ends, however it ends."""
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
