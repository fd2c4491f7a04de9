"""The divergence check before a checkpoint is saved."""

import math
from pathlib import Path

import pytest
import torch

from dnnlib import UserError
from training.phases import GradientGuard
from training.training_loop import SUSPICIOUS, DivergenceCheck


def make(limit=100, folder=Path("runs/0")):
    weight, count = torch.zeros(3), torch.zeros(1, dtype=torch.int64)
    guard = GradientGuard(device="cpu")
    divergence = DivergenceCheck(
        tensors=[("weight", weight), ("count", count)], guard=guard, limit=limit, folder=folder
    )
    return divergence, weight, guard


def step(guard, value):
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.tensor([value])
    guard.clean([parameter])


def test_sound():
    divergence, _, guard = make()
    step(guard, 1.0)
    assert divergence.check(cur_nimg=1) is None


def test_a_streak_is_suspicious_until_a_good_step():
    divergence, _, guard = make()
    for _ in range(SUSPICIOUS - 1):
        step(guard, math.nan)
    assert divergence.check(cur_nimg=1) is None
    step(guard, math.inf)
    assert divergence.check(cur_nimg=1) == f"the last {SUSPICIOUS} steps of a phase had non-finite gradients"
    step(guard, 1.0)
    assert divergence.check(cur_nimg=1) is None


def test_a_long_streak_is_the_end_even_if_it_is_over(tmp_path):
    (tmp_path / "training-state.pt").touch()
    divergence, _, guard = make(limit=3, folder=tmp_path)
    for value in (math.nan, math.nan, math.nan, 1.0):
        step(guard, value)
    with pytest.raises(
        UserError, match=r"broken down at 2.5 kimg: 3 steps of a phase in a row .*state in .* are from before"
    ) as caught:
        divergence.check(cur_nimg=2500)
    assert "resume_run= and without half precision, if it is in use (precision=float32, on a GPU" in str(caught.value)


def test_a_tensor_that_is_not_finite_is_the_end():
    divergence, weight, _ = make()
    weight[1] = math.inf
    # There is no state to continue from yet.
    with pytest.raises(
        UserError,
        match=r"1 of its tensors is not finite any more \(weight\)\. There is no earlier training state\. Start anew",
    ):
        divergence.check(cur_nimg=0)


def test_several_tensors_that_are_not_finite():
    tensors = [("weight", torch.full((2,), math.nan)), ("bias", torch.full((1,), math.inf)), ("gain", torch.ones(1))]
    divergence = DivergenceCheck(tensors=tensors, guard=GradientGuard(device="cpu"), limit=3, folder=Path("runs/0"))
    with pytest.raises(UserError, match=r": 2 of its tensors are not finite any more \(weight, bias\)\. "):
        divergence.check(cur_nimg=0)
