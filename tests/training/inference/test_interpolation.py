"""Interpolation and mixing of codes against closed forms."""

import math

import pytest
import torch

from training.inference.interpolation import lerp, loop_position, mix_styles, slerp, through_loop

A, B, C = torch.randn(3, 1, 64, generator=torch.Generator().manual_seed(0)).unbind()


def test_slerp_of_perpendicular_codes_turns_evenly():
    x, y = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 2.0]])
    for fraction in (0.0, 0.25, 1 / 3, 0.8, 1.0):
        angle = fraction * math.pi / 2
        expected = torch.tensor([[2 * math.cos(angle), 0, 2 * math.sin(angle)]])
        assert torch.allclose(slerp(x, y, fraction), expected, atol=1e-6)


def test_slerp_keeps_the_length_and_changes_it_linearly():
    b = B * (A.norm() / B.norm())
    for fraction in (0.1, 0.5, 0.9):
        assert slerp(A, b, fraction).norm() == pytest.approx(float(A.norm()), rel=1e-6)
        expected = (1 - fraction) * A.norm() + fraction * 3 * A.norm()
        assert slerp(A, 3 * b, fraction).norm() == pytest.approx(float(expected), rel=1e-6)
    assert lerp(A, b, 0.5).norm() < 0.9 * A.norm()  # what it is good for


@pytest.mark.parametrize("between", [slerp, lerp])
def test_both_ends_are_hit_exactly(between):
    assert torch.equal(between(A, B, 0), A) and torch.equal(between(A, B, 1), B)
    assert torch.allclose(between(A, A, 0.3), A)


def test_slerp_without_a_great_circle_is_a_line():
    assert torch.allclose(slerp(A, 2 * A, 0.25), 1.25 * A)
    assert torch.allclose(slerp(A, -A, 0.25), 0.5 * A, atol=1e-6)
    assert torch.equal(slerp(torch.zeros(1, 4), torch.zeros(1, 4), 0.5), torch.zeros(1, 4))
    near = torch.tensor([[1.0, 1e-5, 0.0]])  # float32 cosines would call this angle zero
    assert slerp(torch.tensor([[1.0, 0.0, 0.0]]), near, 0.5)[0, 1] == pytest.approx(0.5e-5, rel=1e-3)


def test_lerp_is_linear():
    assert torch.allclose(lerp(A, B, 0.3), 0.7 * A + 0.3 * B, atol=1e-6)


def test_loop_positions():
    assert [loop_position(2, i / 4) for i in range(4)] == [(0, 1, 0.0), (0, 1, 0.5), (1, 0, 0.0), (1, 0, 0.5)]
    assert loop_position(1, 0.7)[:2] == (0, 0)
    assert loop_position(3, math.nextafter(1, 0))[:2] == (2, 0)
    with pytest.raises(ValueError, match="phase"):
        loop_position(3, 1.0)


@pytest.mark.parametrize("between", [slerp, lerp])
def test_a_loop_passes_every_station_and_closes(between):
    codes = [A, B, C]
    for i, code in enumerate(codes):
        assert torch.allclose(through_loop(codes, i / 3, between), code, atol=1e-5)
    frames = [through_loop(codes, i / 48, between) for i in range(48)]
    steps = [float((x - y).norm()) for x, y in zip(frames, frames[1:] + frames[:1])]
    assert steps[-1] < 1.05 * max(steps[:-1])  # from the last frame to the first as between any others
    assert max(steps) < float((A - B).norm()) / 8
    assert torch.equal(through_loop([A], 0.6, between), A)


def test_mixing_takes_exactly_the_layers():
    ws, other = torch.randn(2, 2, 6, 4, generator=torch.Generator().manual_seed(1)).unbind()
    kept = ws.clone()
    mixed = mix_styles(ws, other, [1, 4, 5])
    assert torch.equal(mixed[:, [1, 4, 5]], other[:, [1, 4, 5]])
    assert torch.equal(mixed[:, [0, 2, 3]], ws[:, [0, 2, 3]])
    assert torch.equal(ws, kept)
    assert torch.equal(mix_styles(ws[:, :1].expand(-1, 6, -1), other, [0])[:, 1:], ws[:, :1].expand(-1, 5, -1))
    with pytest.raises(ValueError, match="between 0 and 5"):
        mix_styles(ws, other, [6])
    with pytest.raises(ValueError, match="cannot be mixed"):
        mix_styles(ws, other[:, :5], [0])
