"""Switch for the gradients of weights and biases, as autograd functions cannot see which gradients are needed."""

import contextlib
from collections.abc import Iterator

__all__ = ["no_weight_gradients", "weight_gradients_wanted"]


class _State:
    wanted = True


def weight_gradients_wanted() -> bool:
    """True if backward passes compute the gradients of weights and biases."""
    return _State.wanted


@contextlib.contextmanager
def no_weight_gradients() -> Iterator[None]:
    """Within, backward passes skip the gradients of weights and biases: for `torch.autograd.grad` of images alone.

    Respected by the native `conv3x3`, `bias_act` and `point_linear`. Higher derivatives of the results are complete.
    """
    before, _State.wanted = _State.wanted, False
    try:
        yield
    finally:
        _State.wanted = before
