"""Saying what to change when the memory is full, instead of a page of traceback."""

import contextlib
import re
from collections.abc import Iterator

import torch

from dnnlib import UserError, one_line

__all__ = ["explain_out_of_memory"]

# PyTorch's allocator for the CPU has no error class of its own.
CPU_WORDS = re.compile(r"not enough memory|can't allocate memory|cannot allocate memory", re.IGNORECASE)


@contextlib.contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Turn an out-of-memory error, of a GPU's memory or the machine's, into one line.

    Args:
        advice: What the user can change, a sentence.

    Raises:
        UserError: The block ran out of memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError))
        if not known and CPU_WORDS.search(str(error)) is None:
            raise
        detail = one_line(str(error).split("\n")[0])[:200]
        raise UserError(f"The memory is full{f' ({detail})' if detail else ''}. {advice}") from error
