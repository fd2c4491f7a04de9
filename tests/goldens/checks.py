"""Comparison with measured or reference values."""

import torch


def assert_near(actual, expected, *, relative: float = 1e-5, absolute: float = 0.0, mean: float | None = None) -> None:
    """Same shape, and everywhere within `relative` times the largest expected value, or `absolute` if that is more.

    `mean` also bounds the mean absolute difference.
    """
    actual = torch.as_tensor(actual).detach().double()
    expected = torch.as_tensor(expected).detach().double()
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    difference = (actual - expected).abs()
    limit = max(relative * float(expected.abs().max()), absolute)
    assert float(difference.max()) <= limit, f"off by {float(difference.max()):.3g}, allowed is {limit:.3g}"
    if mean is not None:
        assert float(difference.mean()) <= mean, (
            f"mean difference {float(difference.mean()):.3g}, allowed is {mean:.3g}"
        )
