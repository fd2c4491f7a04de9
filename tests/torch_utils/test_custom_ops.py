"""Builds of native operators: keys, cache, many processes, failures, machines without a compiler."""

import concurrent.futures
import contextlib
import ctypes
import logging
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch

from dnnlib import UserError
from tests.torch_utils.native import Emulated, address, emulated_recipe, needs_compiler
from torch_utils import custom_ops, op_build
from torch_utils.op_build import BuildError

ROOT = Path(__file__).parents[2]
HEADERS = ("platform.h", "vector_math.h")

# A kernel whose threads swap values in shared memory, and one whose barrier only half of them reach.
TOY = """
#include "platform.h"
KERNEL reverse(const float* x, float* y, int half_only) {
    DYNAMIC_SHARED(float, tile);
    tile[threadIdx.x] = x[thread_x()];
    if (half_only == 0 || threadIdx.x % 2 == 0) __syncthreads();
    y[thread_x()] = tile[blockDim.x - 1 - threadIdx.x];
}
template <class T>
KERNEL twice(const T* x, T* y, Index count) {
    GRID_STRIDE_LOOP(i, count) y[i] = static_cast<ComputeType<T>>(x[i]) * 2;
}
EXPORT const char* toy_launch(const void* x, void* y, int64_t count, int kernel, int threads, int blocks) {
    const float* from = static_cast<const float*>(x);
    float* to = static_cast<float*>(y);
    void* stream = nullptr;
    if (kernel == 0) LAUNCH((twice<float>), dim3(blocks), dim3(threads), 0, stream, from, to, count);
    if (kernel == 1) LAUNCH_WITH_BARRIERS(reverse, dim3(blocks), dim3(threads), threads * 4, stream, from, to, 0);
    if (kernel == 2) LAUNCH_WITH_BARRIERS(reverse, dim3(blocks), dim3(threads), threads * 4, stream, from, to, 1);
    if (kernel == 3) LAUNCH(reverse, dim3(blocks), dim3(threads), threads * 4, stream, from, to, 0);
    if (kernel == 4) LAUNCH((twice<float>), dim3(blocks), dim3(threads), 49153, stream, from, to, count);
    return launch_error();
}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own, and no memory of earlier outcomes."""
    monkeypatch.setenv(op_build.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(custom_ops, "_loaded", {})
    monkeypatch.setattr(custom_ops, "_logged", set())
    return tmp_path / "cache"


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "sources"
    folder.mkdir()
    for header in HEADERS:
        shutil.copy(op_build.SOURCES / "common" / header, folder)
    (folder / "toy.cu").write_text(TOY)
    return folder


def toy_recipe(sources):
    return emulated_recipe("toy", folder=sources)


@needs_compiler
def test_a_library_is_built_once(sources, cache):
    path = op_build.build("toy", toy_recipe(sources))
    assert path.parent.parent == cache and path.name == "library.so"
    built = path.stat().st_mtime_ns
    assert op_build.build("toy", toy_recipe(sources)) == path
    assert path.stat().st_mtime_ns == built
    assert not list(cache.glob("*.tmp"))
    assert cache.stat().st_mode & 0o077 == 0


@needs_compiler
def test_the_key_covers_sources_headers_flags_and_versions(sources):
    recipe = toy_recipe(sources)
    keys = {recipe.key()}
    assert toy_recipe(sources).key() in keys
    (sources / "unrelated.h").write_text("int x;")
    assert recipe.key() in keys
    for file in ("toy.cu", *HEADERS):
        (sources / file).write_text((sources / file).read_text() + "\n// changed\n")
        keys.add(recipe.key())
    (command, source), *_ = recipe.objects
    keys.add(op_build.BuildRecipe((((*command, "-O0"), source),), recipe.link, recipe.versions).key())
    keys.add(op_build.BuildRecipe(recipe.objects, (*recipe.link, "-lm"), recipe.versions).key())
    keys.add(op_build.BuildRecipe(recipe.objects, recipe.link, ("another compiler",)).key())
    assert len(keys) == 5 + len(HEADERS)


@needs_compiler
def test_a_linked_environment_shares_the_builds_of_the_real_one(monkeypatch, tmp_path):
    key = op_build.recipe("bias_act", "cpu").key()
    (tmp_path / "torch").symlink_to(Path(torch.__file__).parent)
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "torch" / "__init__.py"))
    assert op_build.recipe("bias_act", "cpu").key() == key


@needs_compiler
def test_recipes_name_torch_and_the_processor():
    versions = op_build.recipe("bias_act", "cpu").versions
    assert torch.__version__ in versions
    assert any("__VERSION__" in version for version in versions)


def build_and_tell(sources, environment, channel):
    """Load in a separate process: whether it compiled, and the outcome."""
    os.environ.update(environment)
    compiled = []
    really_build = op_build._build_in_place

    def counted(*arguments):
        compiled.append(True)
        really_build(*arguments)

    op_build._build_in_place = counted
    try:
        outcome = str(op_build.build("toy", toy_recipe(sources)))
    except BuildError as error:
        outcome = f"failed: {error}"
    channel.send((bool(compiled), outcome))


class Builder:
    """A process that asks for the library; forked, because importing torch takes longer than the build."""

    def __init__(self, sources, **environment):
        context = multiprocessing.get_context("fork")
        self.channel, other = context.Pipe(duplex=False)
        self.process = context.Process(target=build_and_tell, args=(sources, environment, other))
        self.process.start()
        other.close()

    def outcome(self):
        assert self.channel.poll(120)
        return self.channel.recv()


@needs_compiler
def test_many_processes_build_once(sources):
    outcomes = [builder.outcome() for builder in [Builder(sources) for _ in range(6)]]
    assert sum(compiled for compiled, _ in outcomes) == 1
    assert len({path for _, path in outcomes}) == 1
    assert Path(outcomes[0][1]).is_file()


def find_compiler():
    return shutil.which("g++") or shutil.which("c++")


def slow_compiler(folder, marker):
    """A slow compiler that signals when it starts."""
    script = folder / "slow-g++"
    wait = f"[ -e {marker}.fast ] || {{ echo $$ > {marker}; sleep 20; }}"
    script.write_text(f'#!/bin/sh\ncase "$*" in *-c*) {wait};; esac\nexec {find_compiler()} "$@"\n')
    script.chmod(0o755)
    return str(script)


@needs_compiler
def test_a_killed_builder_leaves_no_lock_behind(sources, cache, tmp_path):
    marker = tmp_path / "started"
    compiler = slow_compiler(tmp_path, marker)
    killed = Builder(sources, CXX=compiler)
    for _ in range(600):
        if marker.exists() and marker.read_text().strip():
            break
        time.sleep(0.05)
    waiting = Builder(sources, CXX=compiler)
    Path(f"{marker}.fast").touch()
    assert not waiting.channel.poll(0.5)
    killed.process.kill()
    compiled, path = waiting.outcome()
    assert compiled and Path(path).is_file()
    with contextlib.suppress(ProcessLookupError):  # the killed one's compiler, which may have ended
        os.kill(int(marker.read_text().split()[0]), signal.SIGKILL)
    assert not list(cache.glob("*.tmp"))


@needs_compiler
def test_a_failing_build_names_the_first_error_and_the_log(sources, cache):
    (sources / "toy.cu").write_text('#include "platform.h"\nint f() { return nonsense; }\nint g() { return more; }\n')
    with pytest.raises(BuildError) as failure:
        op_build.build("toy", toy_recipe(sources))
    message = str(failure.value)
    assert "\n" not in message
    assert message.startswith("toy.cu:2:18: error: ") and "nonsense" in message and "more" not in message
    log = Path(message.split("full log: ")[1].rstrip(")"))
    assert log.is_relative_to(cache) and "more" in log.read_text()
    assert not list(cache.glob("*.tmp")) and not list(cache.glob("*/library.so"))
    # Repaired, it builds, also under the same key if it was the machine's fault.
    (sources / "toy.cu").write_text(TOY)
    assert op_build.build("toy", toy_recipe(sources)).is_file()


@needs_compiler
def test_those_who_waited_for_a_failing_build_do_not_repeat_it(sources, tmp_path):
    (sources / "toy.cu").write_text("nonsense")
    compiler = tmp_path / "sleepy-g++"  # with a compiler that fails at once, no process would have time to wait
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *-c*) sleep 2;; esac\nexec {find_compiler()} "$@"\n')
    compiler.chmod(0o755)
    outcomes = [builder.outcome() for builder in [Builder(sources, CXX=str(compiler)) for _ in range(4)]]
    assert all(outcome.startswith("failed: toy.cu:1") for _, outcome in outcomes)
    assert sum(compiled for compiled, _ in outcomes) < 4


@needs_compiler
def test_a_failed_build_is_repeated_after_the_clock_was_set_back(sources, cache):
    recipe = toy_recipe(sources)
    log = cache / f"toy-{recipe.key()}.log"
    cache.mkdir()
    log.write_text("error: of another day\n")
    later = time.time() + 10**6
    os.utime(log, (later, later))
    assert op_build.build("toy", recipe).is_file() and not log.exists()


@needs_compiler
def test_a_damaged_library_is_built_anew(sources):
    path = op_build.build("toy-emulated", toy_recipe(sources))
    path.write_bytes(b"not a library")
    assert Emulated("toy", folder=sources).library is not None
    assert path.read_bytes()[:4] == b"\x7fELF"


# PyTorch's loader raises an error of its own, whose cause is the system's; that of older versions raises the system's.
LOADERS = pytest.mark.parametrize("loader", [torch.ops.load_library, ctypes.CDLL])


@pytest.fixture
def unloadable(monkeypatch, tmp_path):
    """A library that the system does not load: its path, the system's reasons, and the builds."""
    path, reasons, builds = tmp_path / "toy" / "library.so", [], []

    def build(label, recipe):
        builds.append(label)
        path.parent.mkdir(exist_ok=True)
        path.touch()
        return path

    def refuse(self, *args, **kwargs):
        raise OSError(reasons.pop(0))

    monkeypatch.setattr(op_build, "build", build)
    monkeypatch.setattr(ctypes.CDLL, "__init__", refuse)
    return path, reasons, builds


@LOADERS
def test_a_cache_without_permission_to_execute(unloadable, loader):
    """The libraries in it are sound."""
    path, reasons, builds = unloadable
    reasons += [f"{path}: failed to map segment from shared object"]
    with pytest.raises(BuildError) as caught:
        custom_ops.load_library("toy", None, loader)
    assert str(caught.value) == (
        f"{path} does not load ({path}: failed to map segment from shared object): if that folder may not hold "
        "programs (mount option noexec), let VIDEO3D_OPS_CACHE name another."
    )
    assert builds == ["toy"] and path.is_file()


@LOADERS
def test_a_library_that_does_not_load_even_anew(unloadable, loader):
    path, reasons, builds = unloadable
    reasons += [f"{path}: file too short", f"{path}: undefined symbol: twice"]
    with pytest.raises(BuildError) as caught:
        custom_ops.load_library("toy", None, loader)
    assert str(caught.value) == f"{path} does not load: {path}: undefined symbol: twice"
    assert builds == ["toy", "toy"]


@LOADERS
@needs_compiler
def test_a_library_for_another_system_is_built_once(sources, monkeypatch, loader):
    """For instance by the system's compiler, whose C++ library is newer than that of Python's environment."""
    reason = "libstdc++.so.6: version `GLIBCXX_3.4.99' not found"

    def refuse(self, *args, **kwargs):
        raise OSError(reason)

    recipe = toy_recipe(sources)
    path = op_build.build("toy", recipe)
    made = path.stat().st_mtime_ns
    monkeypatch.setattr(ctypes.CDLL, "__init__", refuse)
    for _ in range(2):
        with pytest.raises(BuildError) as caught:
            custom_ops.load_library("toy", recipe, loader)
        assert str(caught.value) == (
            f"{path} does not load ({reason}): it may need another compiler, such as CXX=/usr/bin/g++ or that of the "
            f"environment which Python is from. Remove {path.parent} if it is to be built anew."
        )
    assert path.stat().st_mtime_ns == made


FAILED = "[1/3] nvcc -O3 -c /a/toy.cu -o 0.o\nFAILED: [code=1] 0.o\nnvcc -O3 -c /a/toy.cu -o 0.o\n"


@needs_compiler
@pytest.mark.parametrize(
    "output, error",
    [
        ("nvcc fatal   : Unsupported gpu architecture 'compute_150'\n", "nvcc fatal   : Unsupported gpu architecture"),
        (
            "/usr/bin/ld: cannot find -lcudart: No such file\ncollect2: error: ld returned 1\n",
            "ld: cannot find -lcudart",
        ),
        ("Killed\n", "Killed"),
        ("", "unknown error"),
    ],
)
def test_the_first_error_of_other_tools(sources, monkeypatch, cache, output, error):
    def run(cache, name, recipe, log):
        log.write_text(f"{FAILED}{output}ninja: build stopped: subcommand failed.\n")

    monkeypatch.setattr(op_build, "_build_in_place", run)
    with pytest.raises(BuildError) as failure:
        op_build.build("toy", toy_recipe(sources))
    assert str(failure.value).startswith(error)


@needs_compiler
def test_a_toolkit_among_the_system_headers(monkeypatch, tmp_path):
    """As Debian's package: with -isystem/usr/include, g++ does not find the headers of C."""
    for home, there in (("/usr", False), (tmp_path, True)):
        monkeypatch.setattr(op_build, "cuda_home", lambda home=home: Path(home))
        objects = op_build.recipe("bias_act", "cuda", capabilities=[(9, 0)]).objects
        assert (f"-isystem{home}/include" in objects[1][0]) == there


@needs_compiler
def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, sources):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(op_build.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(BuildError, match="build cache cannot be used.*XDG_CACHE_HOME.*VIDEO3D_OPS_CACHE"):
        op_build.build("toy", toy_recipe(sources))


@needs_compiler
def test_a_build_needs_no_other_temporary_folder(monkeypatch, sources):
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    seen = []
    recipe, popen = toy_recipe(sources), op_build.subprocess.Popen  # a recipe asks compilers for their versions
    monkeypatch.setattr(op_build.subprocess, "Popen", lambda *a, **k: seen.append(k["env"]["TMPDIR"]) or popen(*a, **k))
    library = op_build.build("toy-emulated", recipe)
    assert [os.path.dirname(folder) for folder in seen] == [str(library.parent.parent)]


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv(op_build.CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert op_build.library_folder() == tmp_path / "video-3d-gan" / "ops"
    monkeypatch.delenv("XDG_CACHE_HOME")
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert op_build.library_folder() == tmp_path / "home" / ".cache" / "video-3d-gan" / "ops"
    monkeypatch.setenv(op_build.CACHE_VARIABLE, "~/ops")
    assert op_build.library_folder() == tmp_path / "home" / "ops"
    monkeypatch.setenv(op_build.CACHE_VARIABLE, "ops")
    with pytest.raises(UserError, match="VIDEO3D_OPS_CACHE=ops is not an absolute path"):
        op_build.library_folder()


# ----------------------------------------------------------------------------------------------------------------------
# Falling back


def outcome_and_lines(caplog, name="bias_act", device_type="cpu"):
    with caplog.at_level(logging.WARNING):
        results = [custom_ops.load(name, device_type) for _ in range(3)]
    return results[0], [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("without", ["compiler", "ninja"])
def test_without_tools_there_is_one_line(without, caplog, monkeypatch, tmp_path):
    monkeypatch.delenv(custom_ops.SWITCH_VARIABLE, raising=False)
    if without == "compiler":
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CXX", raising=False)
        expected = "no C++ compiler was found"
    else:
        if op_build.cxx_compiler() is None:
            pytest.skip("no C++ compiler")
        monkeypatch.setattr(op_build, "ninja_command", lambda: None)
        expected = "ninja was not found"
    result, lines = outcome_and_lines(caplog)
    assert result is None
    assert len(lines) == 1 and expected in lines[0] and "plain PyTorch" in lines[0] and "\n" not in lines[0]
    with pytest.raises(RuntimeError, match=f"bias_act: impl='cpu' is not available.*{expected.replace('+', '.')}"):
        custom_ops.require("bias_act", "cpu")


def test_a_missing_compiler_is_said_once_for_all_operators(caplog, monkeypatch, tmp_path):
    monkeypatch.delenv(custom_ops.SWITCH_VARIABLE, raising=False)
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler"))
    for name in ("bias_act", "upfirdn2d"):
        _, lines = outcome_and_lines(caplog, name)
    assert len(lines) == 1


def test_a_compiler_that_does_not_run(caplog, monkeypatch):
    monkeypatch.delenv(custom_ops.SWITCH_VARIABLE, raising=False)
    monkeypatch.setenv("CXX", "false")
    result, lines = outcome_and_lines(caplog)
    assert result is None and len(lines) == 1 and "does not run" in lines[0]


@pytest.mark.parametrize(
    "command, expected",
    [
        ("{script}", "the C++ compiler {script} does not run"),  # its interpreter is missing
        ("{binary}", "the C++ compiler {binary} does not run"),  # it is for another processor
        ('g++ "x', "no C++ compiler was found ($CXX, g++, c++ or clang++)"),
        (" ", "no C++ compiler was found ($CXX, g++, c++ or clang++)"),
    ],
)
def test_a_compiler_that_cannot_be_started(command, expected, caplog, monkeypatch, tmp_path):
    monkeypatch.delenv(custom_ops.SWITCH_VARIABLE, raising=False)
    files = {"script": tmp_path / "script", "binary": tmp_path / "binary"}
    files["script"].write_text("#!/nonexistent/sh\n")
    files["binary"].write_bytes(b"\x7fELF of another machine")
    for file in files.values():
        file.chmod(0o755)
    monkeypatch.setenv("CXX", command.format(**files))
    result, lines = outcome_and_lines(caplog)
    reason = expected.format(**files)
    assert result is None
    assert lines == [f"Native operators are not available for cpu, {reason}: they run in plain PyTorch."]
    assert custom_ops.versions()["C++ compiler"] != ""


@pytest.mark.parametrize("command", ["{}", "{} -O1", "env {}", "env LC_ALL=C {} -O1 -isystem /opt"])
def test_nvcc_gets_the_compiler_without_its_launcher(command, monkeypatch, tmp_path):
    """CXX="ccache g++", for example; `env` stands for ccache, which need not be installed."""
    found = op_build.cxx_compiler()
    if found is None:
        pytest.skip("no C++ compiler")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").write_text("#!/bin/sh\necho release 12.9\n")
    (tmp_path / "bin" / "nvcc").chmod(0o755)
    monkeypatch.setattr(op_build, "cuda_home", lambda: tmp_path)
    monkeypatch.setenv("CXX", command.format(Path(found[0]).name))
    recipe = op_build.recipe("bias_act", "cuda", capabilities=[(9, 0)])
    assert recipe.objects[0][0][-1] == f"-ccbin={found[0]}"
    assert shlex.join(recipe.objects[1][0]).startswith(shlex.join(op_build.cxx_compiler()))


def test_the_switch(caplog, monkeypatch):
    monkeypatch.setenv(custom_ops.SWITCH_VARIABLE, "off")
    result, lines = outcome_and_lines(caplog)
    assert result is None and lines == [
        "Native operators are turned off ($VIDEO3D_OPS): operators run in plain PyTorch."
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a CUDA device")
def test_cuda_without_a_device(monkeypatch):
    monkeypatch.delenv(custom_ops.SWITCH_VARIABLE, raising=False)
    with pytest.raises(RuntimeError, match="impl='cuda' is not available. There is no CUDA device"):
        custom_ops.require("bias_act", "cuda")


def test_without_a_compiler_operators_work_as_before(tmp_path):
    """In a separate process with an empty PATH: imports print and change nothing, and the first use logs one line."""
    program = """
        import sys, torch
        def state():
            return torch.is_grad_enabled(), torch.get_num_threads(), torch.get_default_dtype(), torch.initial_seed()
        before = state()
        from torch_utils.ops.bias_act import bias_act
        from torch_utils.ops.upfirdn2d import setup_filter, upsample2d
        assert state() == before
        print("imported", file=sys.stderr)
        x = torch.ones(4, 64, 64, 64, requires_grad=True)
        for _ in range(2):
            y = upsample2d(bias_act(x, torch.ones(64), act="lrelu", gain=1, clamp=9), setup_filter([1, 3, 3, 1]))
        (dx,) = torch.autograd.grad(y.sum(), x)
        print(y[0, 0, 5, 5].item(), dx[0, 0, 5, 5].item())
    """
    environment = {**os.environ, "PATH": str(tmp_path), op_build.CACHE_VARIABLE: str(tmp_path / "cache")}
    for name in ("CXX", custom_ops.SWITCH_VARIABLE):
        environment.pop(name, None)
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == ["2.0", "4.0"]
    first, second = process.stderr.splitlines()
    assert first == "imported" and "no C++ compiler was found" in second
    assert not (tmp_path / "cache").exists()


# ----------------------------------------------------------------------------------------------------------------------
# The shim that runs CUDA kernels on the CPU


@needs_compiler
def test_emulated_kernels(sources):
    toy = Emulated("toy", folder=sources)
    x, y = torch.arange(1024.0), torch.zeros(1024)
    toy.launch(address(x), address(y), 1000, 0, 32, 3)  # fewer threads than elements
    assert torch.equal(y[:1000], 2 * x[:1000]) and (y[1000:] == 0).all()
    for backwards in (False, True):
        toy.only_blocks(backwards=backwards)
        toy.launch(address(x), address(y), 0, 1, 256, 4)
        assert torch.equal(y.view(4, 256), x.view(4, 256).flip(1))
    y.zero_()
    toy.only_blocks(1, 2)
    toy.launch(address(x), address(y), 0, 1, 256, 4)
    assert torch.equal(y.view(4, 256)[1:3], x.view(4, 256)[1:3].flip(1)) and y[:256].eq(0).all() and y[768:].eq(0).all()
    toy.only_blocks()


@needs_compiler
def test_emulated_mistakes_are_errors(sources):
    toy = Emulated("toy", folder=sources)
    x, y = torch.arange(4096.0), torch.zeros(4096)
    for kernel, threads, blocks, message in (
        (0, 0, 1, "empty block"),
        (0, 32, 0, "empty grid"),
        (0, 1025, 1, "block too long"),
        (0, 32, -1, "grid too large"),
        (4, 32, 1, "too much shared memory"),
        (2, 64, 2, "without reaching __syncthreads"),
        (3, 64, 2, "must be launched by LAUNCH_WITH_BARRIERS"),
    ):
        with pytest.raises(RuntimeError, match=message):
            toy.launch(address(x), address(y), 100, kernel, threads, blocks)
    toy.launch(address(x), address(y), 100, 0, 32, 1)  # an error is reported once


# ----------------------------------------------------------------------------------------------------------------------
# Messages


def a_build_of_nothing(monkeypatch):
    """Instant builds of libraries that do not load; returns the labels of the requested ones."""
    asked = []

    def build(label, recipe):
        asked.append(label)
        raise BuildError("not really")

    monkeypatch.setattr(op_build, "build", build)
    return asked


@needs_compiler
def test_a_forked_process_does_not_wait_for_threads_that_it_has_not():
    """After a forward pass with several threads, OpenMP in a fork would wait for ever for the parent's threads."""
    script = """if True:
        import multiprocessing, torch
        from torch_utils.ops.bias_act import bias_act

        def work():
            x = torch.linspace(-1, 1, 2**20).reshape(4, 64, 64, 64)
            return float(bias_act(x.exp(), torch.zeros(64), act="lrelu").sum())

        def child():
            assert torch.get_num_threads() == 1 and abs(work() / expected - 1) < 1e-5

        torch.set_num_threads(2)
        expected = work()
        process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
        process.start()
        process.join(60)
        assert process.exitcode == 0, process.exitcode
        assert torch.get_num_threads() == 2
    """
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=200)


@pytest.mark.parametrize("number, seconds", [(1, 120), (2, 60), (4, 40), (64, 20)])
def test_builds_are_announced(monkeypatch, caplog, number, seconds):
    asked = a_build_of_nothing(monkeypatch)
    monkeypatch.setattr(custom_ops, "cores", lambda: number)
    said = []
    custom_ops.build_missing("cpu", lambda line: said.append((line, list(asked))))
    (first, before), (last, after) = said
    names = ["bias_act", "composite", "fused_mlp", "point_mlp", "upfirdn2d", "winograd"]
    assert "Building native operators for 'cpu', once on this machine: " + ", ".join(names) in first
    assert f"about {seconds} s" in first and before == [] and last.startswith("The native operators were built in 0 s")
    labels = [f"{name}-cpu" for name in names]
    assert sorted(after[:6]) == labels and after[6:] == labels  # those that failed once more, alone
    assert "Building the native operator" not in caplog.text  # said already
    custom_ops.build_missing("cpu", lambda line: said.append(line))
    assert len(said) == 2


def test_the_command_builds_as_many_at_a_time(monkeypatch, capsys):
    asked = a_build_of_nothing(monkeypatch)
    monkeypatch.setattr(custom_ops.torch.cuda, "is_available", lambda: False)
    outcomes = custom_ops.build_all()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("Building native operators for 'cpu', once on this machine: bias_act, composite,")
    assert list(outcomes) == [
        "bias_act cpu",
        "composite cpu",
        "fused_mlp cpu",
        "point_mlp cpu",
        "upfirdn2d cpu",
        "winograd cpu",
    ]
    assert lines[3:] == [f"{key.split()[0]} (cpu): {reason}" for key, reason in outcomes.items()]
    assert len(asked) == 12  # together, and those that failed once more, alone


@needs_compiler
def test_as_many_operators_are_built_at_a_time_as_there_are_cores(monkeypatch):
    monkeypatch.setattr(custom_ops, "cores", lambda: 3)
    together, built = threading.Barrier(3), set()

    def build(label, recipe):
        if label in built:
            raise BuildError("not really")
        built.add(label)
        together.wait(20)  # a fourth would break the second meeting of three

    monkeypatch.setattr(op_build, "build", build)
    custom_ops.build_missing("cpu", lambda line: None)
    assert len(built) == 6 and not together.broken


@needs_compiler
def test_builds_end_with_their_command(monkeypatch, tmp_path):
    marker = tmp_path / "started"
    monkeypatch.setenv("CXX", slow_compiler(tmp_path, marker))
    monkeypatch.setattr(custom_ops, "cores", lambda: 2)

    def interrupt():
        while not (marker.exists() and marker.read_text().strip()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        custom_ops.build_missing("cpu", lambda line: None)
    compiler, deadline = int(marker.read_text().split()[0]), time.monotonic() + 10  # it would sleep for 20 s
    while Path(f"/proc/{compiler}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{compiler}").exists()


@needs_compiler
def test_an_operator_that_is_built_when_it_is_needed_is_announced(monkeypatch, caplog):
    a_build_of_nothing(monkeypatch)
    custom_ops.load("bias_act", "cpu")
    assert caplog.messages[0] == "Building the native operator bias_act (cpu), once on this machine: about 20 s."


def test_nothing_is_announced_where_nothing_is_built(monkeypatch, caplog):
    monkeypatch.setenv(custom_ops.SWITCH_VARIABLE, "off")
    custom_ops.build_missing("cpu", lambda line: pytest.fail(line))
    assert custom_ops.load("bias_act", "cpu") is None and "Building" not in caplog.text


def test_weight_gradients_left_out_in_one_thread_are_computed_in_others():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    wanted = custom_ops.weight_gradients_wanted
    first, second, left = (threading.Event() for _ in range(3))

    def one():
        with custom_ops.no_weight_gradients():
            first.set()
            assert second.wait(60) and not wanted(cpu)
        left.set()

    def other():
        assert first.wait(60) and wanted(cpu) and not wanted(cuda)
        with custom_ops.no_weight_gradients():
            second.set()
            with custom_ops.no_weight_gradients():
                assert left.wait(60)
            assert not wanted(cpu)

    with concurrent.futures.ThreadPoolExecutor() as threads:
        for done in [threads.submit(one), threads.submit(other)]:
            done.result()
    assert wanted(cpu) and wanted(cuda)  # after blocks that overlapped
