"""Motion and flicker of clips with known motion."""

import numpy as np
import pytest
import torch

from metrics.video_measures import flatness, flicker, mean_flow_length
from tests.metrics.synthetic import noisy


def pattern(dx: float, dy: float, *, frames: int = 6, size: int = 40) -> torch.Tensor:
    """A smooth texture that moves by (dx, dy) pixels with every frame, uint8 [1, 3, frames, size, size]."""
    y, x = np.mgrid[:size, :size].astype(float)
    out = []
    for t in range(frames):
        u, v = x - dx * t, y - dy * t
        out.append(np.sin(0.45 * u + 0.2 * v) + np.sin(0.15 * u - 0.5 * v + 1) + np.sin(0.3 * u + 0.35 * v + 2))
    grey = np.clip(128 + 40 * np.stack(out), 0, 255).astype(np.uint8)
    return torch.from_numpy(grey)[None, None].repeat(1, 3, 1, 1, 1)


@pytest.mark.parametrize("dx, dy", [(0.5, 0), (0, -0.7), (0.6, 0.8), (-1, 0.5)])
def test_flow_is_the_displacement(dx, dy):
    assert float(mean_flow_length(pattern(dx, dy))) == pytest.approx(np.hypot(dx, dy), rel=0.08)


def test_flow_of_several_clips_and_of_what_stands_still():
    clips = torch.cat([pattern(0, 0), pattern(0.5, 0), pattern(1, 0)])
    lengths = mean_flow_length(clips)
    assert float(lengths[0]) < 1e-6
    assert float(lengths[2] / lengths[1]) == pytest.approx(2, rel=0.1)
    flat = torch.zeros(1, 3, 4, 16, 16, dtype=torch.uint8)
    flat[:, :, 2] = 200  # a flash shows no direction
    assert float(mean_flow_length(flat)) == 0


def test_what_has_no_texture_does_not_count_as_standing_still():
    clip = pattern(0.6, 0.0, frames=3, size=96)
    clip[..., 40:] = 128
    assert 0.5 < float(mean_flow_length(clip)) < 0.65  # at the edge, which stands still, it is less


def test_flow_depends_little_on_contrast():
    weak = ((pattern(0.6, 0.2).float() - 128) / 2 + 128).round().to(torch.uint8)
    assert float(mean_flow_length(weak)) == pytest.approx(float(mean_flow_length(pattern(0.6, 0.2))), rel=0.05)


def test_flicker_where_it_is_known():
    frames = torch.arange(17)
    ramp = (frames * 10)[None, None, :, None, None].expand(1, 3, 17, 4, 4).to(torch.uint8)
    alternating = ((frames % 2) * 90)[None, None, :, None, None].expand(1, 3, 17, 4, 4).to(torch.uint8)
    assert float(flicker(ramp)) == 0
    assert float(flicker(alternating)) == pytest.approx(2)
    assert float(flicker(ramp[:, :, :1].expand(-1, -1, 5, -1, -1))) == 0
    grey = torch.full([1, 3, 40, 32, 32], 128, dtype=torch.uint8)
    assert float(flicker(noisy(grey, 20))) == pytest.approx(3**0.5, rel=0.01)
    steps = torch.randint(0, 2, [1, 3, 40, 32, 32], generator=torch.Generator().manual_seed(0)) * 2 - 1
    walk = (128 + steps.cumsum(dim=2)).to(torch.uint8)
    assert float(flicker(walk)) == pytest.approx(2**0.5, rel=0.01)


def test_noise_raises_flicker():
    clip = pattern(0.4, 0.2, frames=12)
    values = [float(flicker(noisy(clip, strength))) for strength in (0.01, 5, 20)]
    assert values[0] < values[1] < values[2]


@pytest.mark.parametrize("measure, needed", [(flicker, 3), (mean_flow_length, 2)])
def test_clips_of_another_form_are_refused(measure, needed):
    clips = pattern(0.4, 0.2, frames=needed)
    assert measure(clips).shape == (1,)
    with pytest.raises(ValueError, match=f"^Clips need {needed} or more frames here, got {needed - 1}"):
        measure(clips[:, :, 1:])
    with pytest.raises(ValueError, match=r"got torch\.float32"):
        measure(clips / 127.5 - 1)
    with pytest.raises(ValueError, match=r"give videos\.transpose\(1, 2\)\.$"):
        measure(torch.cat([clips, clips], dim=2).transpose(1, 2))
    with pytest.raises(ValueError, match="got ndarray"):
        measure(clips.numpy())


def test_points_without_a_surface_do_not_count():
    random = torch.Generator().manual_seed(0)
    points, opacities = torch.rand(1, 8, 8, 3, generator=random), torch.ones(1, 8, 8)
    opacities[:, :3] = 0
    expected = flatness(points, opacities)
    points[:, :3] = torch.nan  # as depths are there
    assert torch.equal(flatness(points, opacities), expected)
    assert torch.equal(flatness(points, torch.ones(1, 8, 8)), expected)
