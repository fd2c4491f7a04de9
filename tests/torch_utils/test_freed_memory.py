"""The allocator's policies for freed memory."""

import ctypes
import pathlib
import subprocess
import sys

import pytest

from torch_utils.memory import keep_freed_memory, return_freed_memory


class Usage(ctypes.Structure):
    """struct mallinfo."""

    _fields_ = [
        (name, ctypes.c_int)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keep",
        )
    ]


def mappings_of_a_block(gib: int) -> int:
    """Separate mappings of a block, which is larger than all before: their memory may be kept."""
    library = ctypes.CDLL("libc.so.6")
    library.malloc.restype, library.mallinfo.restype = ctypes.c_void_p, Usage
    before = library.mallinfo().hblks
    block = library.malloc(ctypes.c_size_t(gib << 30))
    taken = library.mallinfo().hblks - before
    library.free(ctypes.c_void_p(block))
    return taken


def test_one_policy_replaces_the_other():
    """In a process of its own, whose heap can grow."""
    if not return_freed_memory():
        pytest.skip("needs glibc")
    program = "from tests.torch_utils import test_freed_memory; test_freed_memory.replace_policies()"
    subprocess.run([sys.executable, "-c", program], cwd=pathlib.Path(__file__).parents[2], check=True)


def replace_policies() -> None:
    assert keep_freed_memory()
    assert mappings_of_a_block(1) == 0
    assert return_freed_memory()
    assert mappings_of_a_block(2) == 1
    assert keep_freed_memory()
    assert mappings_of_a_block(3) == 0
    return_freed_memory()
