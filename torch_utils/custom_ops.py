"""Loading of native operators, which are optional and built on first use.

`load` returns the library of an operator for a device type, or None, with the reason in one line of the log; the
operator then runs in plain PyTorch. `VIDEO3D_OPS=off` in the environment turns native operators off.

Importing this module has one side effect: processes that are forked later take one thread.
"""

import contextlib
import functools
import logging
import math
import os
import platform
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.autograd import forward_ad

from dnnlib.processes import cores
from torch_utils import distributed, op_build
from torch_utils.op_build import BuildError

__all__ = [
    "build_all", "build_missing", "choose", "gradients_recorded", "load", "load_library", "no_weight_gradients",
    "operator_names", "plain_pytorch", "require", "transformed", "versions", "weight_gradients_wanted",
]  # fmt: skip

SWITCH_VARIABLE = "VIDEO3D_OPS"
#: Namespaces in which libraries register their functions: torch.ops.video3d_cpu.<name>, torch.ops.video3d_cuda.<name>.
NAMESPACE = "video3d_{}"

_logger = logging.getLogger(__name__)
_lock = threading.RLock()
_loaded: dict[tuple[str, str], Any] = {}  # (name, device type) → namespace, or the reason for None
_logged: set[str] = set()
_plain = threading.local()  # .depth: blocks of `plain_pytorch` around this thread
_PROBE = torch.zeros([], device="cpu")  # any tensor, see `transformed`
_skipping: set[int] = set()  # the threads in blocks of `no_weight_gradients`

#: Values of the argument `impl` of operators.
IMPLEMENTATIONS = ("auto", "ref", "cpu", "cuda")
#: The types that `choose` uses native operators for.
ELEMENT_TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
BUILD_SECONDS = 20  # per operator and core, approximately

# GNU's OpenMP, of PyTorch and of native operators, waits for ever for threads that a forked process does not inherit.
# PyTorch's own data loaders take one thread for this reason.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=functools.partial(torch.set_num_threads, 1))


def load(name: str, device_type: str) -> Any | None:
    """The functions of an operator's native library, built on first use.

    Args:
        name: Name of the operator, e.g. 'bias_act'.
        device_type: 'cpu' or 'cuda'.

    Returns:
        The namespace `torch.ops.video3d_<device type>`, in which the library has registered its functions, or None if
        there is no library: the reason is logged once, and this process does not try again. Also None within
        `plain_pytorch`, while torch.compile traces, and where PyTorch transforms functions (`transformed`).
    """
    # Compilers and transforms cannot look into a library: what they trace is plain PyTorch.
    if getattr(_plain, "depth", 0) or torch.compiler.is_compiling() or transformed():
        return None
    outcome = _outcome(name, device_type)
    if not isinstance(outcome, str):
        return outcome
    _log_once(outcome)
    return None


def transformed() -> bool:
    """True within the transforms of torch.func (vmap, grad, jacrev, …) and where forward-mode derivatives are taken.

    There, operations must be PyTorch's own: autograd functions raise an error, and native operators silently drop the
    derivatives of forward mode.
    """
    if torch.compiler.is_compiling():  # compilers differentiate what they have traced
        return False
    # PyTorch has no function to query this. But within a transform it refuses `requires_grad_`, even one that changes
    # nothing, and in forward mode the primal of any tensor is another tensor.
    try:
        _PROBE.requires_grad_(False)
    except RuntimeError:
        return True
    return forward_ad.unpack_dual(_PROBE).primal is not _PROBE


@contextlib.contextmanager
def plain_pytorch() -> Iterator[None]:
    """Context in which this thread's operators run in plain PyTorch, unless a native one is requested by name."""
    _plain.depth = getattr(_plain, "depth", 0) + 1
    try:
        yield
    finally:
        _plain.depth -= 1


@contextlib.contextmanager
def no_weight_gradients() -> Iterator[None]:
    """Context in which backward passes skip gradients of weights and biases: for `torch.autograd.grad` of images alone.

    Autograd functions cannot see which gradients are needed. Respected by the native `conv3x3`, `bias_act` and
    `point_linear`. Higher derivatives of the results are complete.
    """
    thread = threading.get_ident()
    inner = thread in _skipping
    _skipping.add(thread)
    try:
        yield
    finally:
        if not inner:
            _skipping.discard(thread)


def weight_gradients_wanted(device: torch.device) -> bool:
    """True if this backward pass, of tensors on `device`, computes the gradients of weights and biases.

    On a CPU a backward pass runs in the thread that asked for it. On a GPU it runs in a thread of PyTorch's, so that a
    block of `no_weight_gradients` in one thread holds for the passes of all.
    """
    return threading.get_ident() not in _skipping if device.type == "cpu" else not _skipping


def gradients_recorded(*tensors: torch.Tensor | None) -> bool:
    """True if autograd records what is computed from these tensors."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _log_once(message: str) -> None:
    if message not in _logged:
        _logged.add(message)
        _logger.log(logging.WARNING if distributed.is_main() else logging.DEBUG, "%s", message)


def require(name: str, device_type: str) -> Any:
    """Like `load`, for callers that need the library.

    Raises:
        RuntimeError: There is no library; the message gives the reason.
    """
    outcome = _outcome(name, device_type)
    if isinstance(outcome, str):
        raise RuntimeError(f"{name}: impl='{device_type}' is not available. {outcome}")
    return outcome


def choose(name: str, impl: str, x: torch.Tensor, *, pays_on_cpu: bool, what: str = "tensors") -> Any | None:
    """The native library that an operator uses; None for plain PyTorch.

    Args:
        name: Name of the operator.
        impl: One of `IMPLEMENTATIONS`; 'auto' uses a library on a GPU, and on a CPU where `pays_on_cpu`, if there is
            one (see `load`) and `x` has one of the `ELEMENT_TYPES`.
        x: The input that decides on device and type.
        pays_on_cpu: True if the library is the faster one on a CPU.
        what: Word for the input in messages.

    Raises:
        ValueError: unknown implementation.
        RuntimeError: impl='cpu' or 'cuda', but there is no native operator, or `x` is on another device.
    """
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"{name}: unknown implementation {impl!r}; choose one of {', '.join(IMPLEMENTATIONS)}")
    if impl == "ref":
        return None
    if impl == "auto":
        pays = x.device.type == "cuda" or (x.device.type == "cpu" and pays_on_cpu)
        return load(name, x.device.type) if pays and x.dtype in ELEMENT_TYPES else None
    if x.device.type != impl:
        raise RuntimeError(f"{name}: impl='{impl}' cannot take {what} on {x.device}")
    return require(name, impl)


def build_missing(device_type: str, say: Callable[[str], None]) -> None:
    """Build the operators that are missing from the cache now instead of on first use, one per core at a time.

    Args:
        device_type: 'cpu' or 'cuda'.
        say: Called with a message before and after, if there is something to build.
    """
    if _unusable(device_type) is not None:
        return
    missing = [
        name
        for name in operator_names(device_type)
        if (name, device_type) not in _loaded and _to_be_built(name, device_type)
    ]
    if not missing:
        return
    jobs = min(cores(), len(missing))
    say(
        f"Building native operators for '{device_type}', once on this machine: {', '.join(missing)}. This takes about "
        f"{BUILD_SECONDS * math.ceil(len(missing) / jobs)} s."
    )
    start = time.monotonic()
    _logged.update(_announcement(name, device_type) for name in missing)
    pool = ThreadPoolExecutor(jobs)
    try:
        list(pool.map(lambda name: _build(name, device_type), missing))
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        op_build.interrupt()
        raise
    finally:
        pool.shutdown()
    for name in missing:
        load(name, device_type)
    say(f"The native operators were built in {time.monotonic() - start:.0f} s.")


def _build(name: str, device_type: str) -> None:
    """Put an operator's library into the cache. Failures are left to `load`, which tries again, alone, and reports."""
    with contextlib.suppress(BuildError):
        op_build.build(f"{name}-{device_type}", op_build.recipe(name, device_type))


def operator_names(device_type: str) -> list[str]:
    """The operators that have native sources for a device type."""
    suffix = f"_{device_type}.cpp"
    return sorted(path.name.removesuffix(suffix) for path in op_build.SOURCES.glob(f"*/*{suffix}"))


def _to_be_built(name: str, device_type: str) -> bool:
    """True if the operator can be built and is not in the cache."""
    try:
        path = op_build.library_path(f"{name}-{device_type}", op_build.recipe(name, device_type))
        return op_build.ninja_command() is not None and not path.is_file()
    except (RuntimeError, OSError):
        return False


def _announcement(name: str, device_type: str) -> str:
    return f"Building the native operator {name} ({device_type}), once on this machine: about {BUILD_SECONDS} s."


def _unusable(device_type: str) -> str | None:
    """Reason why a device type has no native operators, whatever the compiler; None if it may have some."""
    if os.environ.get(SWITCH_VARIABLE, "").lower() in ("off", "0", "ref"):
        return f"Native operators are turned off (${SWITCH_VARIABLE}): operators run in plain PyTorch."
    if device_type == "cuda" and not torch.cuda.is_available():
        return "There is no CUDA device: operators run on the CPU."
    return None


def _outcome(name: str, device_type: str) -> Any | str:
    key = (name, device_type)
    if key not in _loaded:
        with _lock:
            if key not in _loaded:
                _loaded[key] = _try(name, device_type)
    return _loaded[key]


def _try(name: str, device_type: str) -> Any | str:
    reason = _unusable(device_type)
    if reason is not None:
        return reason
    if _to_be_built(name, device_type):
        _log_once(_announcement(name, device_type))
    try:
        recipe = op_build.recipe(name, device_type)
    except BuildError as error:  # the same for every operator: logged once
        return f"Native operators are not available for {device_type}, {error}: they run in plain PyTorch."
    try:
        load_library(f"{name}-{device_type}", recipe, torch.ops.load_library)
    except BuildError as error:
        return f"Native operator {name} ({device_type}) is not available: it runs in plain PyTorch. {error}"
    return getattr(torch.ops, NAMESPACE.format(device_type))


def load_library(label: str, recipe: op_build.BuildRecipe, loader: Any) -> Any:
    """Build and load; a cached library that is damaged is rebuilt once."""
    path = op_build.build(label, recipe)
    try:
        return loader(str(path))
    except OSError as error:
        reason = error.__cause__ or error  # newer versions of PyTorch raise their own error from the system's
        if "failed to map segment" in str(reason):  # no fault of the file
            raise BuildError(
                f"{path} does not load ({reason}): if that folder may not hold programs (mount option noexec), let "
                f"{op_build.CACHE_VARIABLE} name another."
            ) from error
        if op_build.is_as_built(path):  # by these compilers another build would be the same
            raise BuildError(
                f"{path} does not load ({reason}): it may need another compiler, such as CXX=/usr/bin/g++ or that of "
                f"the environment which Python is from. Remove {path.parent} if it is to be built anew."
            ) from error
        shutil.rmtree(path.parent, ignore_errors=True)
        path = op_build.build(label, recipe)
    try:
        return loader(str(path))
    except OSError as error:
        raise BuildError(f"{path} does not load: {error.__cause__ or error}") from error


# ----------------------------------------------------------------------------------------------------------------------
# `python -m torch_utils.custom_ops`


def versions() -> dict[str, str]:
    """Versions, compilers and devices that builds and timings depend on."""
    compiler, home, ninja = op_build.cxx_compiler(), op_build.cuda_home(), op_build.ninja_command()
    none = "none found"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "C++ compiler": none if compiler is None else _version(compiler),
        "ninja": none if ninja is None else _version((ninja,)),
        "CUDA toolkit": none if home is None else _version((str(home / "bin" / "nvcc"),)),
        "CUDA device": torch.cuda.get_device_name() if torch.cuda.is_available() else none,
        "processor": f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "cache": str(op_build.library_folder()),
    }


def _version(command: tuple[str, ...]) -> str:
    return f"{op_build.compiler_version(command)} ({shlex.join(command)})"


def _processor() -> str:
    """Name of the processor, and the vector instructions that PyTorch uses."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def build_all() -> dict[str, str | None]:
    """Build all operators; '<operator> <device type>' → None, or the reason why there is no library."""
    outcomes: dict[str, str | None] = {}
    device_types = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    if device_types == ["cpu"]:
        print("No CUDA device: CUDA operators are not built.")
    for device_type in device_types:
        build_missing(device_type, functools.partial(print, flush=True))
        for name in operator_names(device_type):
            outcome = None
            try:
                require(name, device_type)
            except RuntimeError as error:
                outcome = str(error)
            outcomes[f"{name} {device_type}"] = outcome
            print(f"{name} ({device_type}): {outcome or 'ready'}", flush=True)
    return outcomes


if __name__ == "__main__":
    import click

    from dnnlib import run_cli
    from dnnlib.command_line import Command

    @click.command(cls=Command, help="Build all native operators and print what they are built with.")
    def command() -> None:
        for key, value in versions().items():
            print(f"{key:12} {value}")
        print()
        build_all()

    run_cli(lambda: command(standalone_mode=False))
