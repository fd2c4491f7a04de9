"""Out-of-memory errors in one line."""

import pickle

import pytest
import torch

from dnnlib import UserError
from torch_utils.memory import explain_out_of_memory


def test_an_allocation_that_cannot_be():
    with pytest.raises(UserError, match=r"^The memory is full \(.*\)\. Take less\.$") as caught:
        with explain_out_of_memory("Take less."):
            torch.empty(2**60, dtype=torch.uint8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to …"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        pickle.UnpicklingError("DefaultCPUAllocator: can't allocate memory"),  # PyTorch 2.4, reading a file
    ],
)
def test_other_kinds(error):
    with pytest.raises(UserError) as caught, explain_out_of_memory("Take less."):
        raise error
    assert str(caught.value) == f"The memory is full ({error}). Take less."


def test_an_error_without_details():
    with pytest.raises(UserError, match=r"^The memory is full\. Take less\.$"), explain_out_of_memory("Take less."):
        raise MemoryError


def test_the_reason_is_below_the_traceback_of_torchscript():
    text = "The following operation failed in the TorchScript interpreter.\nTraceback …\nRuntimeError: {}\n"
    for reason in ("CUDA out of memory. Tried to allocate 4 TiB", "DefaultCPUAllocator: can't allocate memory"):
        with pytest.raises(UserError) as caught, explain_out_of_memory("Take less."):
            raise RuntimeError(text.format(reason))
        assert str(caught.value) == f"The memory is full (RuntimeError: {reason}). Take less."


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shape mismatch"), ValueError("memory"), UserError("x"), pickle.UnpicklingError("GLOBAL os.system")],
)
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as caught, explain_out_of_memory("Take less."):
        raise error
    assert caught.value is error
