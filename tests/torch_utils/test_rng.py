"""Random streams: equal seeds draw equal numbers, and invalid seeds are refused."""

import numpy as np
import pytest
import torch

from torch_utils.rng import RandomStream


def test_the_same_seed_draws_the_same():
    first, again, other = (RandomStream(seed).normal("z", [2, 3]) for seed in (3, np.int64(3), -3))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("seed", [1.7, "3", None, float("nan"), True])
def test_other_values_are_refused(seed):
    """A fraction would be dropped: 1.7 would draw the numbers of 1."""
    with pytest.raises(ValueError, match="^seed must be a whole number, got "):
        RandomStream(seed)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_larger_numbers_are_refused(seed):
    with pytest.raises(ValueError, match="^seed must have 64 bits, got "):
        RandomStream(seed)
    RandomStream(seed - 1 if seed > 0 else seed + 1)
