"""A GPU without free memory, as commands see it: networks cannot be moved there."""

import torch

from training.networks.discriminator import TimeAwareDiscriminators
from training.networks.generator import Generator

__all__ = ["fill_gpu", "loading_message", "no_memory"]

REASON = "CUDA out of memory. Tried to allocate 2.00 MiB."


def no_memory(*args, **kwargs):
    raise torch.cuda.OutOfMemoryError(REASON)


def fill_gpu(monkeypatch) -> None:
    for kind in (Generator, TimeAwareDiscriminators):
        monkeypatch.setattr(kind, "to", no_memory)


def loading_message(path) -> str:
    """The error of a network that does not fit."""
    return f"The memory is full ({REASON}). Loading {path} needs more: end other programs, or use a larger machine."
