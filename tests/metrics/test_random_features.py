"""The features of the smoke metrics: fixed numbers, and a plausible ranking of degraded clips."""

import numpy as np
import pytest
import torch

from metrics.distances import frechet_distance_of_features
from metrics.random_features import FEATURE_WIDTH, RandomFeatures
from tests.metrics.synthetic import blurred, frozen, noisy, shuffled, waves

KNOWN = [-4.7451, 0.3692, 1.9919, 3.3577, 0.2751, 3.1472, 0.389, 2.0044, 0.7268]  # of test_known_numbers


@pytest.fixture(scope="module")
def clips():
    return waves(48)


@pytest.fixture(scope="module")
def network():
    return RandomFeatures()


@pytest.fixture(scope="module")
def features(clips, network):
    return network(clips).numpy()


def test_identical_sets(features):
    assert frechet_distance_of_features(features, features) < 1e-9
    assert frechet_distance_of_features(features, np.random.RandomState(0).permutation(features)) < 1e-9


@pytest.mark.parametrize(
    "spoil, strengths",
    [(noisy, (4, 12, 36)), (blurred, (0.5, 0.8, 1.6)), (shuffled, (4, 8, 16)), (frozen, (4, 8, 15))],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_more_spoiled_the_farther(spoil, strengths, clips, network, features):
    distances = [frechet_distance_of_features(features, network(spoil(clips, s)).numpy()) for s in strengths]
    assert distances[0] > 0.05
    assert distances[1] > 1.2 * distances[0] and distances[2] > 1.2 * distances[1]


def test_other_clips_of_the_same_kind_are_nearer_than_spoiled_ones(clips, network, features):
    others = network(waves(48, seed=1)).numpy()
    near = frechet_distance_of_features(features, others)
    for spoil, strength in ((noisy, 60), (blurred, 2.5), (shuffled, 16)):
        spoiled = network(spoil(waves(48, seed=1), strength)).numpy()
        assert frechet_distance_of_features(features, spoiled) > 1.2 * near


def test_a_clip_alone_or_in_a_batch(clips, network, features):
    assert features.shape == (48, FEATURE_WIDTH) and features.dtype == np.float32
    assert np.array_equal(network(clips[7:9]).numpy(), features[7:9])
    assert np.array_equal(RandomFeatures()(clips[47:]).numpy(), features[47:])


def test_no_global_randomness():
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    RandomFeatures()
    assert (torch.rand(1), np.random.rand()) == expected


def test_known_numbers(network):
    """The same features on every machine, up to the rounding of float32."""
    ramp = torch.arange(3 * 4 * 16 * 16).reshape(1, 3, 4, 16, 16) % 251
    found = network(ramp.to(torch.uint8))[0]
    chosen = found[[0, 11, 12, 40, 61, 90, 150, 170, 250]]
    torch.testing.assert_close(chosen, torch.tensor(KNOWN), rtol=1e-4, atol=1e-4)


def test_motion_and_detail_filters(network):
    """Motion filters do not respond to a static clip, detail filters not to a flat one."""
    still = waves(1)[:, :, :1].expand(-1, -1, 6, -1, -1).contiguous()
    flat = torch.arange(0, 180, 30, dtype=torch.uint8)[None, None, :, None, None].expand(1, 3, 6, 24, 24).contiguous()
    first = slice(12, 12 + 24)  # channel means of the first level, after the colours
    of_still, of_flat = network(still)[0, first], network(flat)[0, first]
    assert of_still[16:].abs().max() < 1e-4 < of_still[:16].max()
    assert of_flat[8:16].abs().max() < 1e-4 < of_flat[16:].max()


@pytest.mark.parametrize("shape", [(1, 3, 1, 8, 8), (2, 3, 3, 40, 24), (1, 3, 2, 130, 70)])
def test_any_size(shape, network):
    clips = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    found = network(clips)
    assert found.shape == (shape[0], FEATURE_WIDTH) and found.isfinite().all()


def test_objections(network):
    for clips, message in (
        (torch.zeros(1, 3, 4, 8, 8), "uint8"),
        (torch.zeros(3, 4, 8, 8, dtype=torch.uint8), "uint8"),
        (torch.zeros(1, 3, 4, 8, 4, dtype=torch.uint8), "8×8"),
    ):
        with pytest.raises(ValueError, match=message):
            network(clips)
