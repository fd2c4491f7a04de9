"""Host memory: the allocator's policy for freed memory, and out-of-memory errors.

The C library returns large blocks to the system as soon as they are freed, and the next tensor of that size then costs
one page fault per 4 KB, which on a CPU took longer than the arithmetic of a memory-bound operation. Memory that is
kept, however, cannot always be reused: tensors of other sizes do not fit into the gaps.
"""

import contextlib
import ctypes
import os
import pickle
import re
import sys
from collections.abc import Iterator

import torch

from dnnlib import UserError, one_line

__all__ = [
    "explain_loading", "explain_out_of_memory", "is_out_of_memory", "keep_freed_memory", "return_freed_memory",
]  # fmt: skip


# ----------------------------------------------------------------------------------------------------------------------
# Freed memory

# Parameters of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_LARGE = 16 * 2**20  # bytes; larger blocks get a mapping of their own where memory is returned


def keep_freed_memory() -> bool:
    """Never use separate mappings for large blocks, and never trim the heap.

    For processes that compute on the CPU with tensors of recurring sizes. Returns True if the C library supports it
    (glibc does); otherwise nothing changes.
    """
    return _mallopt((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1))


def return_freed_memory() -> bool:
    """Return blocks of 16 MB and more to the system as soon as they are freed.

    For processes that are short of memory, at the cost of time. (By default, glibc raises that size dynamically.)
    Returns True if the C library supports it; otherwise nothing changes.
    """
    # The first two are glibc's defaults, which keep_freed_memory changes.
    return _mallopt((_M_MMAP_MAX, 65536), (_M_TRIM_THRESHOLD, 128 * 1024), (_M_MMAP_THRESHOLD, _LARGE))


def _mallopt(*settings: tuple[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all([bool(mallopt(parameter, value)) for parameter, value in settings])


# ----------------------------------------------------------------------------------------------------------------------
# Out of memory

# PyTorch's allocator for the CPU has no error class of its own, TorchScript replaces that of GPUs, and libraries like
# cuBLAS and cuDNN have error codes.
WORDS = re.compile(
    r"out of memory|not enough memory|can't allocate memory|cannot allocate memory|_ALLOC(ATION)?_FAILED",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """True if an error says that the memory of a GPU or of the host is full."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    # PyTorch 2.4 turns the RuntimeErrors of its reader of files into UnpicklingErrors.
    return isinstance(error, (RuntimeError, pickle.UnpicklingError)) and WORDS.search(str(error)) is not None


@contextlib.contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Turn an out-of-memory error, of a GPU or of the host, into one line.

    Args:
        advice: A sentence on what the user can change.

    Raises:
        UserError: The block ran out of memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError, pickle.UnpicklingError) as error:
        if not is_out_of_memory(error):
            raise
        lines = str(error).split("\n")  # TorchScript's begin with a traceback
        detail = one_line(next(filter(WORDS.search, lines), lines[0]))[:200]
        raise UserError(f"The memory is full{f' ({detail})' if detail else ''}. {advice}") from error


def explain_loading(path: str | os.PathLike) -> contextlib.AbstractContextManager[None]:
    """`explain_out_of_memory` for the loading of a file, which must not be taken for damaged."""
    return explain_out_of_memory(f"Loading {os.fspath(path)} needs more: end other programs, or use a larger machine.")
