"""Helpers shared by the tests of native operators."""

import ctypes
import os
from pathlib import Path

import pytest
import torch

from torch_utils import custom_ops, op_build

__all__ = ["ELEMENT_TYPES", "EMULATOR", "Emulated", "address", "emulated_recipe", "load_emulated", "needs_compiler"]

EMULATOR = Path(__file__).with_name("emulator")

#: As numbered by ElementType of csrc/common/platform.h.
ELEMENT_TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

_MISSING = op_build.cxx_compiler() is None or op_build.ninja_command() is None
_OFF = bool(os.environ.get(custom_ops.SWITCH_VARIABLE))

#: For tests that build native operators. Where there is a compiler, a failing build is a failing test.
needs_compiler = pytest.mark.skipif(
    _MISSING or _OFF, reason=f"${custom_ops.SWITCH_VARIABLE} is set" if _OFF else "no C++ compiler, or no ninja"
)


def address(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def load_emulated(name: str, *, folder: Path | None = None) -> ctypes.CDLL:
    """The CUDA kernels of an operator compiled for the CPU (see emulator/emulate_cuda.h).

    Raises:
        BuildError: There is no compiler, or it fails.
    """
    return custom_ops.load_library(f"{name}-emulated", emulated_recipe(name, folder=folder), ctypes.CDLL)


def emulated_recipe(name: str, *, folder: Path | None = None) -> op_build.BuildRecipe:
    """Build recipe of the kernels `<name>.cu` for the CPU; `folder`: of the sources, None for the operator's own."""
    folder = op_build.SOURCES / name if folder is None else folder
    compiler = op_build.cxx_compiler()
    flags = (
        "-std=c++17",
        "-O1",
        "-fPIC",
        "-fvisibility=hidden",
        "-Wall",
        "-DEMULATE_CUDA",
        f"-I{EMULATOR}",
        "-x",
        "c++",
    )
    versions = (op_build.compiler_version(compiler), (EMULATOR / "emulate_cuda.h").read_text())
    return op_build.BuildRecipe((((*compiler, *flags), folder / f"{name}.cu"),), (*compiler, "-shared"), versions)


class Emulated:
    """The kernels of an operator, run on the CPU (see tests/torch_utils/emulator/emulate_cuda.h)."""

    def __init__(self, name: str, **where):
        self.library = load_emulated(name, **where)
        self.function = getattr(self.library, f"{name}_launch")
        self.function.restype = ctypes.c_char_p

    def launch(self, *arguments) -> None:
        """Call the operator's launch function. Raises RuntimeError with what it returns."""
        message = self.function(*arguments)
        if message is not None:
            raise RuntimeError(message.decode())

    def only_blocks(self, first: int = 0, count: int = 2**63 - 1, *, backwards: bool = False) -> None:
        """Restrict the following launches to some blocks; `backwards`: threads run from the last to the first."""
        self.library.emulate_settings(ctypes.c_int64(first), ctypes.c_int64(count), int(backwards))
