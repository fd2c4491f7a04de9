"""Settings of PyTorch that a calling program may have changed for all of its code: defaults, modes, precision."""

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["full_float32", "without_autocast", "without_defaults"]


@contextlib.contextmanager
def without_defaults() -> Iterator[None]:
    """Context or decorator in which new tensors are float32 and on the CPU unless requested otherwise.

    A network built under torch.set_default_dtype(torch.bfloat16) would round the weights that it loads, and one built
    under torch.inference_mode() could never be trained: its parameters would have no gradients.
    """
    dtype = torch.get_default_dtype()
    if dtype != torch.float32:  # a setting of all threads, so left alone where it is right
        torch.set_default_dtype(torch.float32)
    try:
        with _on_cpu(), torch.inference_mode(False):
            yield
    finally:
        if dtype != torch.float32:
            torch.set_default_dtype(dtype)


@contextlib.contextmanager
def without_autocast() -> Iterator[None]:
    """Context or decorator without the automatic precision of torch.autocast, and with the CPU as default device.

    Networks choose their own precision, layer by layer, and native operators take tensors as they come: bfloat16
    products in between would make the codes of a seed coarser. Backward passes are up to the caller.
    """
    with contextlib.ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(_on_cpu())
        yield


def _on_cpu() -> contextlib.AbstractContextManager:
    """Context with the CPU as default device. A device as a context slows down every call of PyTorch."""
    # Not torch.get_default_device(), which before PyTorch 2.8 does not see devices that are contexts.
    return contextlib.nullcontext() if torch.empty(0).device.type == "cpu" else torch.device("cpu")


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Context or decorator without TensorFloat-32, in which a GPU rounds the factors of products to 11 bits.

    PyTorch has two kinds of settings for it, and refuses to read the older ones once a program has used the newer ones.
    """
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    try:
        before = [(where, "allow_tf32", where.allow_tf32) for where in (products, convolutions)]
        exact: bool | str = False
    except RuntimeError:
        before = [(where, "fp32_precision", where.fp32_precision) for where in (products, convolutions.conv)]
        exact = "ieee"
    for where, name, _ in before:
        setattr(where, name, exact)
    try:
        yield
    finally:
        for where, name, value in before:
            setattr(where, name, value)
