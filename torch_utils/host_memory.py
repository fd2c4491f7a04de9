"""Whether the process keeps freed host memory or gives it back to the system after every large tensor.

The C library gives big blocks back as soon as they are freed, and the next tensor of that size then costs one page
fault per 4 KB: on CPU that took longer than the arithmetic of a memory-bound operation. What is kept, however, cannot
always be used again: tensors of other sizes do not fit into the gaps.
"""

import ctypes
import sys

__all__ = ["keep_freed_memory", "return_freed_memory"]

# Parameters of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_LARGE = 16 * 2**20  # bytes of a block that gets a mapping of its own where memory is returned


def keep_freed_memory() -> bool:
    """Never use separate mappings for large blocks, and never trim the heap.

    For processes that compute on the CPU with tensors of recurring sizes. Returns whether the C library supports it
    (glibc does); otherwise nothing changes.
    """
    return _mallopt((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1))


def return_freed_memory() -> bool:
    """Give blocks of 16 MB and more back to the system as soon as they are freed.

    For processes that are short of memory and may take longer for it. (Left to itself, glibc raises that size as it
    goes.) Returns whether the C library supports it; otherwise nothing changes.
    """
    return _mallopt((_M_MMAP_THRESHOLD, _LARGE))


def _mallopt(*settings: tuple[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all([bool(mallopt(parameter, value)) for parameter, value in settings])
