"""Leaving out gradients of weights and biases: functions in Python are not told which of their gradients are wanted."""

import contextlib
from collections.abc import Iterator

__all__ = ["no_weight_gradients", "weight_gradients_wanted"]


class _State:
    wanted = True


def weight_gradients_wanted() -> bool:
    """Whether backward passes are to compute the gradients of weights and biases."""
    return _State.wanted


@contextlib.contextmanager
def no_weight_gradients() -> Iterator[None]:
    """Within, backward passes leave out the gradients of weights and biases: for `torch.autograd.grad` of images alone.

    Heeded by `conv3x3` and `bias_act` where they are native. Higher derivatives of the results are complete.
    """
    before, _State.wanted = _State.wanted, False
    try:
        yield
    finally:
        _State.wanted = before
