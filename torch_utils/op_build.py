"""Builds of native operators: compilers, build recipes, and a cache of shared libraries in the user's cache folder.

The key of a recipe is a hash of everything that the content of the library depends on: sources, flags, compilers,
PyTorch, and the meaning of `-march=native`. It names the folder of the library, which is built by ninja in a temporary
folder beside the final one and renamed when complete, under a file lock that the system releases if the builder is
killed. So any number of processes may ask at once: one builds, the others wait and load, and a library is never seen
incomplete.
"""

import errno
import functools
import hashlib
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dnnlib import exclusive_lock, file_identity
from dnnlib.downloads import absolute_setting, cache_folder, sha256_of

__all__ = [
    "BuildError",
    "BuildRecipe",
    "SOURCES",
    "build",
    "compiler_version",
    "cuda_home",
    "cxx_compiler",
    "interrupt",
    "library_folder",
    "library_path",
    "ninja_command",
    "recipe",
]

#: A folder for each operator.
SOURCES = Path(__file__).parent / "ops" / "csrc"

#: Floating point stays exact; errno and traps, which are not used, would prevent the vectorisation of loops.
CXX_FLAGS = ["-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd"]


class BuildError(RuntimeError):
    """Failure to build a library; the message is one line."""


@dataclass(frozen=True)
class BuildRecipe:
    """Build recipe: (compiler command, source file) of each object, the link command, and versions."""

    objects: tuple[tuple[tuple[str, ...], Path], ...]
    link: tuple[str, ...]
    versions: tuple[str, ...]

    def key(self) -> str:
        """Hash of everything that the content of the library depends on."""
        digest = hashlib.sha256(repr((self.link, self.versions)).encode())
        for command, source in self.objects:
            digest.update(repr(command).encode())
            for path in _with_own_headers(source):
                digest.update(repr((path.name, path.read_bytes())).encode())
        return digest.hexdigest()[:20]


def _with_own_headers(source: Path) -> list[Path]:
    """A source and the headers beside it that it includes by `#include "..."`, directly or not."""
    found, i = [source], 0
    while i < len(found):
        for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', found[i].read_text(encoding="utf-8"), re.MULTILINE):
            path = found[i].parent / name
            if path.is_file() and path not in found:
                found.append(path)
        i += 1
    return found


# ----------------------------------------------------------------------------------------------------------------------
# Compilers


def cxx_compiler() -> tuple[str, ...] | None:
    """The C++ compiler's command: $CXX, else g++, c++ or clang++; None if there is none, or $CXX is no command."""
    try:
        candidates = [shlex.split(os.environ["CXX"])] if os.environ.get("CXX") else [["g++"], ["c++"], ["clang++"]]
    except ValueError:  # a quotation mark is missing
        return None
    for command in candidates:
        found = shutil.which(command[0]) if command else None
        if found:
            return (found, *command[1:])
    return None


def cuda_home() -> Path | None:
    """The CUDA toolkit: $CUDA_HOME, the usual folder, or that of nvcc on the PATH; None if there is none."""
    candidates = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    on_path = shutil.which("nvcc")
    if on_path:
        candidates.append(str(Path(on_path).resolve().parent.parent))
    for candidate in candidates:
        if candidate and (Path(candidate) / "bin" / "nvcc").is_file():
            return Path(candidate)
    return None


def ninja_command() -> str | None:
    """The ninja executable of the installed package, else one on the PATH."""
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts", f"{os.name}_user"))):
        if (folder / "ninja").is_file():
            return str(folder / "ninja")
    return shutil.which("ninja")


def _output(command: tuple[str, ...]) -> str:
    """Output of a command; '' if it fails or cannot be started."""
    nothing = subprocess.DEVNULL
    try:
        result = subprocess.run(command, stdin=nothing, capture_output=True, encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return result.stdout if result.returncode == 0 else ""


@functools.lru_cache
def _native_flags(compiler: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Flags for this machine's processor, and the macros that identify compiler and processor features."""
    for flags in (("-march=native",), ("-mcpu=native",), ()):
        macros = _output((*compiler, *flags, "-x", "c++", "-dM", "-E", os.devnull))
        if macros:
            return flags, macros
    return (), ""


def compiler_version(command: tuple[str, ...]) -> str:
    """The line of `--version` that names the release, else its first line."""
    lines = _output((*command, "--version")).splitlines()
    return next((line for line in reversed(lines) if "release" in line), lines[0] if lines else "unknown version")


# ----------------------------------------------------------------------------------------------------------------------
# Recipes


def recipe(
    name: str,
    device_type: str,
    *,
    capabilities: Sequence[tuple[int, int]] | None = None,
) -> BuildRecipe:
    """Build recipe of operator `name`.

    Args:
        name: Name of the operator: its files are `<name>_cpu.cpp`, or `<name>.cu` and `<name>_cuda.cpp`.
        device_type: 'cpu' or 'cuda'.
        capabilities: Compute capabilities of the GPUs to build for; None for all present ones.

    Raises:
        BuildError: a tool is missing.
    """
    folder = SOURCES / name
    compiler = cxx_compiler()
    if compiler is None:
        raise BuildError("no C++ compiler was found ($CXX, g++, c++ or clang++)")
    native, features = _native_flags(compiler)
    if not features:
        raise BuildError(f"the C++ compiler {shlex.join(compiler)} does not run")
    shared = (*compiler, "-shared")
    torch_root = Path(torch.__file__).resolve().parent  # a linked environment shares the builds of the real one
    include = [torch_root / "include", torch_root / "include" / "torch" / "csrc" / "api" / "include"]
    libraries = (f"-L{torch_root / 'lib'}", f"-Wl,-rpath,{torch_root / 'lib'}", "-ltorch_cpu", "-lc10")
    # Defined as in the build of PyTorch, or strings would have other types.
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    binding = (*compiler, "-std=c++20", abi, *CXX_FLAGS, *(f"-isystem{path}" for path in include))
    if device_type == "cpu":
        # OpenMP is what at::parallel_for, a template in a header, is made of.
        objects = (((*binding, *native, "-fopenmp"), folder / f"{name}_cpu.cpp"),)
        return BuildRecipe(objects, (*shared, *libraries), (features, torch.__version__))

    home = cuda_home()
    if home is None:
        raise BuildError("no CUDA toolkit was found ($CUDA_HOME, or nvcc on the PATH)")
    if capabilities is None:
        capabilities = sorted({torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())})
    kernels = (*_nvcc_command(home, capabilities), f"-ccbin={_host_compiler(compiler)}")
    runtime = home / ("lib64" if (home / "lib64").is_dir() else "lib")
    # Named as such, the system's own folder would come before that of the C++ library, whose headers include it next.
    headers = home / "include"
    toolkit = () if headers.resolve() == Path("/usr/include") else (f"-isystem{headers}",)
    objects = ((kernels, folder / f"{name}.cu"), ((*binding, *toolkit), folder / f"{name}_cuda.cpp"))
    link = (*shared, *libraries, "-lc10_cuda", f"-L{runtime}", f"-Wl,-rpath,{runtime}", "-lcudart")
    return BuildRecipe(objects, link, (features, torch.__version__, compiler_version((str(home / "bin" / "nvcc"),))))


def _host_compiler(command: Sequence[str]) -> str:
    """The compiler in a command like `ccache g++ -O2`: nvcc needs the program itself, and calls no launcher."""
    *_, compiler = itertools.takewhile(lambda word: not word.startswith("-"), command)
    return shutil.which(compiler) or compiler


def _nvcc_command(home: Path, capabilities: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """The nvcc command for these compute capabilities."""
    targets = [f"-gencode=arch=compute_{a}{b},code=sm_{a}{b}" for a, b in capabilities]
    return (str(home / "bin" / "nvcc"), "-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", *targets)


# ----------------------------------------------------------------------------------------------------------------------
# The cache of libraries

CACHE_VARIABLE = "VIDEO3D_OPS_CACHE"
DIGEST = "library.sha256"  # beside a library: that of its file

_running: set[subprocess.Popen[str]] = set()


def library_folder() -> Path:
    """$VIDEO3D_OPS_CACHE, or `ops` in the user's cache folder.

    Raises:
        UserError: See `dnnlib.downloads.cache_folder`.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(absolute_setting(CACHE_VARIABLE, chosen)) if chosen else cache_folder("ops")


def library_path(label: str, recipe: BuildRecipe) -> Path:
    """Path of the library that `build` returns for the same arguments."""
    return library_folder() / f"{label}-{recipe.key()}" / "library.so"


def build(label: str, recipe: BuildRecipe) -> Path:
    """The library of a recipe, built if it is not in the cache.

    Args:
        label: Prefix of its folder's name.
        recipe: The build recipe.

    Returns:
        Path of the shared library.

    Raises:
        BuildError: the compiler failed (with its first error and the path of the log), or the cache cannot be written.
    """
    name = f"{label}-{recipe.key()}"
    try:
        cache = library_folder()
        library = cache / name / "library.so"
        if library.is_file():
            return library
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = cache / f"{name}.log"
        known = file_identity(log)
        lock = cache / f"{name}.lock"
        lock.touch()
        with exclusive_lock(lock) as held:
            if not held:  # builders would remove one another's temporary folders
                raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
            if library.is_file():
                return library
            if file_identity(log) in (known, None):  # else another process failed to build it while this one waited
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


def is_as_built(library: Path) -> bool:
    """True if a library in the cache is what the compiler made; False if it is damaged, or that is not known."""
    try:
        return (library.parent / DIGEST).read_bytes() == sha256_of(library).encode()
    except OSError:
        return False


def interrupt() -> None:
    """End the builds that other threads of this process have begun: for them they have failed."""
    for process in list(_running):
        process.terminate()  # ninja ends the compilers


def _build_in_place(cache: Path, name: str, recipe: BuildRecipe, log: Path) -> None:
    """Run ninja in a temporary folder and rename it to the final one; on failure the output goes to `log`."""
    ninja = ninja_command()
    if ninja is None:
        raise BuildError("ninja was not found (it is in requirements.txt)")
    for left in cache.glob(f"{name}.*.tmp"):  # by a builder that was killed, whose compiler may still be running
        shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{name}.", suffix=".tmp", dir=cache))
    (temporary / "build.ninja").write_bytes(os.fsencode(_ninja_file(recipe)))
    # The compiler's temporary files lie beside its results: there may be no other writable folder.
    environment = {**os.environ, "LC_ALL": "C", "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [ninja, "-v", "-C", str(temporary)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env=environment,
    ) as process:
        _running.add(process)
        try:
            output, _ = process.communicate()
        except BaseException:
            process.terminate()
            raise
        finally:
            _running.discard(process)
    if process.returncode != 0:
        log.write_text(output, encoding="utf-8")
        shutil.rmtree(temporary, ignore_errors=True)
        return
    log.unlink(missing_ok=True)
    (temporary / DIGEST).write_text(sha256_of(temporary / "library.so"), encoding="utf-8")
    shutil.rmtree(cache / name, ignore_errors=True)
    os.replace(temporary, cache / name)


def _ninja_file(recipe: BuildRecipe) -> str:
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


# Of compilers, nvcc and linkers; a linker's own line comes before the summary of the compiler that called it.
FIRST_ERROR = re.compile(r"\b(fatal )?error\b\s*(#\d+)?:|: error|undefined|\bfatal\s*:|cannot find")


def _first_error(log: Path) -> str:
    """The first error in a compiler's output, without the folders of file paths."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    # ninja prints the command, after the name of its result.
    lines = [line for before, line in zip(["", *lines], lines) if not before.startswith("FAILED")]
    lines = [line for line in lines if not line.startswith(("ninja:", "[", "FAILED"))]
    found = next((line for line in lines if FIRST_ERROR.search(line)), lines[0] if lines else "unknown error")
    return re.sub(r"^/\S*/", "", found)
