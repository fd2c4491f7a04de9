"""Out-of-memory errors in one line."""

import pytest
import torch

from dnnlib import UserError
from torch_utils.memory import explain_out_of_memory


def test_an_allocation_that_cannot_be():
    with pytest.raises(UserError, match=r"^The memory is full \(.*\)\. Take less\.$") as caught:
        with explain_out_of_memory("Take less."):
            torch.empty(2**60, dtype=torch.uint8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to …"), MemoryError()])
def test_other_kinds(error):
    with pytest.raises(UserError, match="The memory is full.* Take less"), explain_out_of_memory("Take less."):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("memory"), UserError("x")])
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as caught, explain_out_of_memory("Take less."):
        raise error
    assert caught.value is error
