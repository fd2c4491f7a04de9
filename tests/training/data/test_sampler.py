"""The order of items: complete, seeded, the same for any number of processes and workers, and resumable."""

import itertools

import numpy as np
import pytest

from training.data.frames_loader import _FaultTolerantDataset
from training.data.sampler import InfiniteSampler


def take(count, **options):
    return list(itertools.islice(InfiniteSampler(**options), count))


def interleave(count, *, world_size, **options):
    """The stream of all processes together."""
    streams = [take(count, rank=rank, world_size=world_size, **options) for rank in range(world_size)]
    return [item for step in zip(*streams) for item in step]


@pytest.mark.parametrize("size, world_size", [(12, 1), (12, 4), (7, 3), (10, 4), (3, 5), (1, 2)])
def test_an_epoch_holds_every_item_once_over_all_processes(size, world_size):
    epochs = 6
    stream = interleave(epochs * size, dataset_size=size, world_size=world_size, seed=1)[: epochs * size]
    for epoch in range(epochs):
        part = stream[epoch * size : (epoch + 1) * size]
        assert sorted(part) == [(epoch, index) for index in range(size)]
    assert stream == take(epochs * size, dataset_size=size, seed=1)  # one sequence, however it is dealt out


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"dataset_size": 0}, "dataset_size must be a whole number of at least 1, got 0."),
        ({"dataset_size": 2.5}, "dataset_size must be a whole number of at least 1, got 2.5."),
        ({"world_size": None}, "world_size must be a whole number of at least 1, got None."),
        ({"rank": 2, "world_size": 2}, "rank must be a whole number from 0 to 1, got 2."),
        ({"position": -1}, "position must be a whole number of at least 0, got -1."),
    ],
)
def test_numbers_of_a_sampler(wrong, message):
    with pytest.raises(ValueError) as error:
        InfiniteSampler(**{"dataset_size": 5, **wrong})
    assert str(error.value) == message


@pytest.mark.parametrize("seed", [np.int64(7), np.int8(-3), np.uint64(2**64 - 3)])
def test_seeds_of_numpy_are_those_of_python(seed):
    same = int(seed)
    assert take(9, dataset_size=5, seed=seed) == take(9, dataset_size=5, seed=same)
    tolerant = [_FaultTolerantDataset(range(100), seed=number) for number in (seed, same)]
    one, other = ([*data._candidates((2, 5))] for data in tolerant)
    assert one == other and len(one) > 10


def test_epochs_and_seeds_shuffle_differently():
    orders = [tuple(InfiniteSampler(dataset_size=50, seed=s).permutation(e)) for s in (0, 1) for e in (0, 1, 2)]
    assert len(set(orders)) == 6 and tuple(range(50)) not in orders


def test_orders_are_uniform():
    """Every item is as likely at every place."""
    counts = np.zeros([4, 4])
    sampler = InfiniteSampler(dataset_size=4, seed=5)
    for epoch in range(4000):
        counts[np.arange(4), sampler.permutation(epoch)] += 1
    assert np.abs(counts / 4000 - 0.25).max() < 4.5 * np.sqrt(0.25 * 0.75 / 4000)


@pytest.mark.parametrize("position", [1, 6, 7, 23, 700_001])
@pytest.mark.parametrize("world_size", [1, 3])
def test_continuing_from_a_position_gives_the_same_stream(position, world_size):
    options = dict(dataset_size=7, seed=2)
    continued = interleave(20, world_size=world_size, position=position, **options)
    if position < 1000:
        assert continued == take(position + len(continued), **options)[position:]
    assert continued[0][0] == position // 7


def test_iterating_again_starts_again():
    sampler = InfiniteSampler(dataset_size=5, position=3)
    first, second = (list(itertools.islice(sampler, 8)) for _ in range(2))
    assert first == second
