"""What tests of native operators share."""

import ctypes
import os

import pytest
import torch

from torch_utils import custom_ops
from torch_utils import op_build as native_recipes

__all__ = ["ELEMENT_TYPES", "Emulated", "address", "needs_compiler"]

#: As numbered by ElementType of native/platform.h.
ELEMENT_TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

_MISSING = native_recipes.cxx_compiler() is None or native_recipes.ninja_command() is None
_OFF = bool(os.environ.get(custom_ops.SWITCH_VARIABLE))

#: For tests that build native operators. Where there is a compiler, a failing build is a failing test.
needs_compiler = pytest.mark.skipif(
    _MISSING or _OFF, reason=f"${custom_ops.SWITCH_VARIABLE} is set" if _OFF else "no C++ compiler, or no ninja"
)


def address(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


class Emulated:
    """The kernels of an operator, run on the CPU (see native/emulate_cuda.h)."""

    def __init__(self, name: str, **where):
        self.library = custom_ops.load_emulated(name, **where)
        self.function = getattr(self.library, f"{name}_launch")
        self.function.restype = ctypes.c_char_p

    def launch(self, *arguments) -> None:
        """Call the operator's launch function. Raises RuntimeError with what it returns."""
        message = self.function(*arguments)
        if message is not None:
            raise RuntimeError(message.decode())

    def only_blocks(self, first: int = 0, count: int = 2**63 - 1, *, backwards: bool = False) -> None:
        """Which blocks of the following launches run, and whether threads take turns from the last to the first."""
        self.library.emulate_settings(ctypes.c_int64(first), ctypes.c_int64(count), int(backwards))
