"""DiffAugment: measured values, closed forms, what frames share."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from tests.streams import FixedStream, Recorder
from torch_utils.rng import RandomStream
from training.augment.diffaugment import POLICIES, diffaugment, parse_policy, shift_by_index

GOLDENS = np.load(Path(__file__).parents[2] / "data" / "operators.npz")


class NumpyStream:
    """Draw number i is that of RandomState(seed + i), as the measured values were taken."""

    def __init__(self, seed):
        self.seed = seed
        self.count = 0

    def _next(self):
        self.count += 1
        return np.random.RandomState(self.seed + self.count - 1)

    def uniform(self, name, shape):
        return torch.from_numpy(self._next().rand(*shape)).float()

    def integers(self, name, low, high, shape):
        return torch.from_numpy(self._next().randint(low, high, size=tuple(shape)))


def videos(*shape, seed=0, dtype=torch.float32):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


@pytest.mark.parametrize("policy, seed", [("color,translation", 2200), ("cutout", 2300)])
def test_measured_values(policy, seed):
    frames = torch.from_numpy(GOLDENS["diffaugment/x"])[:, :6].reshape(2, 2, 3, 16, 16)
    y = diffaugment(frames, policy, NumpyStream(seed))
    expected = torch.from_numpy(GOLDENS[f"diffaugment/{policy}"]).reshape(2, 2, 3, 16, 16)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)


def test_names_and_order_of_the_draws():
    stream = Recorder(0)
    diffaugment(videos(2, 2, 3, 8, 8), "color, translation,cutout", stream, prefix="real/")
    names = ["brightness", "saturation", "contrast", "translation_x", "translation_y", "cutout_x", "cutout_y"]
    assert list(stream.draws) == [f"real/diffaugment/{name}" for name in names]


def test_color_step_by_step():
    frames = videos(1, 2, 3, 6, 5)
    y = diffaugment(frames, "color", FixedStream(uniform=0.5, brightness=0.9, saturation=0.8, contrast=0.1))
    x = frames + 0.4
    mean = x.mean(2, keepdim=True)
    x = (x - mean) * 1.6 + mean
    mean = x.mean([2, 3, 4], keepdim=True)
    torch.testing.assert_close(y, (x - mean) * 0.6 + mean, rtol=1e-5, atol=1e-5)
    # The middle of all ranges changes no colour.
    torch.testing.assert_close(diffaugment(frames, "color", FixedStream(uniform=0.5)), frames)


def test_translation_moves_rows_by_x_and_columns_by_y():
    frames = videos(1, 2, 3, 16, 24)  # shifts of at most 2 rows and 3 columns
    y = diffaugment(frames, "translation", FixedStream(translation_x=2, translation_y=-3))
    expected = torch.zeros_like(frames)
    expected[:, :, :, :14, 3:] = frames[:, :, :, 2:, :21]
    assert torch.equal(y, expected)


def test_shifts_by_index_are_shifts_by_padding():
    frames = videos(3, 2, 3, 16, 8).requires_grad_(True)
    dx, dy = torch.tensor([2, 0, -1]), torch.tensor([-1, 1, 0])
    expected = torch.stack([F.pad(v, [-y, y, -x, x]) for v, x, y in zip(frames, dx.tolist(), dy.tolist())])
    shifted = shift_by_index(frames, dx, dy)
    assert torch.equal(shifted, expected)
    cotangent = torch.randn_like(expected)
    gradients = [torch.autograd.grad(y, frames, cotangent, create_graph=True)[0] for y in (shifted, expected)]
    assert torch.equal(*gradients)
    assert torch.autograd.gradgradcheck(
        lambda x: shift_by_index(x, dx, dy).pow(2), frames.detach().double().requires_grad_(), fast_mode=True
    )


def test_translation_range():
    stream = RandomStream(0)
    frames = torch.zeros(400, 1, 3, 16, 24)
    frames[:, :, :, 8, 12] = 1
    y = diffaugment(frames, "translation", stream)[:, 0, 0]
    _, rows, columns = y.nonzero(as_tuple=True)
    assert len(rows) == 400
    assert set(rows.tolist()) == set(range(6, 11)) and set(columns.tolist()) == set(range(9, 16))


@pytest.mark.parametrize("size, edge", [(8, 4), (9, 5)])
def test_cutout_zeroes_half_of_each_edge(size, edge):
    frames = torch.ones(1, 2, 3, size, size)
    y = diffaugment(frames, "cutout", FixedStream(cutout_x=edge // 2, cutout_y=size // 2))
    expected = torch.ones_like(frames)
    left = size // 2 - edge // 2
    expected[:, :, :, :edge, left : left + edge] = 0
    assert torch.equal(y, expected)
    y = diffaugment(frames, "cutout", FixedStream(cutout_x=0, cutout_y=0))
    assert y.eq(0).sum() == 6 * (edge - edge // 2) ** 2


def test_frames_share_and_videos_differ():
    picture = videos(1, 1, 3, 16, 16)
    y = diffaugment(picture.expand(4, 3, 3, 16, 16), ",".join(POLICIES), RandomStream(5))
    assert torch.equal(y[:, 0], y[:, 1]) and torch.equal(y[:, 0], y[:, 2])
    for i in range(3):
        assert not torch.equal(y[i], y[i + 1])


def test_no_policy_is_identity():
    frames = videos(1, 2, 3, 8, 8)
    assert diffaugment(frames, "", RandomStream(0)) is frames


def test_derivatives():
    frames = videos(2, 2, 3, 5, 4, dtype=torch.float64).requires_grad_()

    def function(frames):
        return diffaugment(frames, ",".join(POLICIES), RandomStream(3))

    assert gradcheck(function, [frames])
    assert gradgradcheck(lambda frames: function(frames).pow(3), [frames], fast_mode=True)


def test_mistakes():
    with pytest.raises(ValueError, match="unknown operation 'colour'"):
        parse_policy("translation,colour")
    with pytest.raises(ValueError, match=r"\[B, T, 3, H, W\]"):
        diffaugment(videos(2, 7, 8, 8), "color", RandomStream(0))
    with pytest.raises(ValueError, match="frames must be floats, not uint8"):
        diffaugment(torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8), "translation", RandomStream(0))
    with pytest.raises(ValueError, match="stream must be a torch_utils.rng.RandomStream, got 0"):
        diffaugment(videos(1, 2, 3, 8, 8), "color", 0)
