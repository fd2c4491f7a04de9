"""Running means over the passes of a phase, and states of earlier versions."""

import pytest
import torch

from training.ema import RunningMeans, complete_ema


def run(values, *, beta=0.9, start=5.0):
    mean = torch.full([1], start)
    seen = []
    for value in RunningMeans([mean]).over(values):
        mean.copy_(mean.lerp(torch.tensor([value]), 1 - beta))
        seen.append(mean.item())
    return mean.item(), seen


def test_one_pass_moves_the_mean():
    assert run([1.0])[0] == torch.tensor(5.0).lerp(torch.tensor(1.0), 0.1).item()


def test_several_passes_move_it_as_one_over_all_of_them_would():
    mean, seen = run([1.0, 2.0, 6.0])
    torch.testing.assert_close(mean, 0.9 * 5 + 0.1 * 3)
    # Each pass starts from the same value, whichever comes before it.
    torch.testing.assert_close(torch.tensor(seen), 0.9 * 5 + 0.1 * torch.tensor([1.0, 2.0, 6.0]))


@pytest.mark.parametrize("resume, ramps_up", [(None, True), ("snapshot.pt", False)])
def test_runs_of_earlier_versions_ramp_up_as_they_did(resume, ramps_up):
    shared = {}
    complete_ema(shared, resume=resume)
    assert shared == {"ema": {"ramps_up": ramps_up}}
    stored = {"ema": {"ramps_up": not ramps_up}}
    complete_ema(stored, resume=resume)
    assert stored == {"ema": {"ramps_up": not ramps_up}}


def test_the_order_of_passes_does_not_matter():
    assert abs(run([1.0, 2.0, 6.0])[0] - run([6.0, 1.0, 2.0])[0]) < 1e-6
