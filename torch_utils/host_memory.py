"""Keep freed host memory in the process instead of returning it to the system after every large tensor.

The C library gives big blocks back as soon as they are freed, and the next tensor of that size then costs one page
fault per 4 KB: on CPU that took longer than the arithmetic of a memory-bound operation.
"""

import ctypes
import sys

__all__ = ["keep_freed_memory"]

# Parameters of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Never use separate mappings for large blocks, and never trim the heap.

    For processes that compute on the CPU with tensors of recurring sizes. Returns whether the C library supports it
    (glibc does); otherwise nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
