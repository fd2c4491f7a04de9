"""Optimisers of the phases, the gradient guard, the moving average."""

import math

import pytest
import torch
from torch import nn

from torch_utils.training_stats import Statistics
from training.ema import GeneratorEMA
from training.phases import LOSS_SCALE, GradientGuard, make_phases


def phases(**changes):
    generator, discriminator = nn.Linear(2, 1), nn.Linear(3, 1)
    discriminator.bias.requires_grad_(False)  # frozen
    settings = dict(lr=0.0025, betas=(0.0, 0.99), eps=1e-8, g_reg_interval=4, d_reg_interval=16) | changes
    return make_phases(generator=generator, discriminator=discriminator, **settings), generator, discriminator


def test_order_intervals_and_gains():
    made, _, _ = phases()
    assert [(p.name, p.interval, p.gain) for p in made] == [
        ("Gmain", 1, 1.0),
        ("Greg", 4, 4.0),
        ("Dmain", 1, 1.0),
        ("Dreg", 16, 16.0),
    ]
    due = ["".join(p.name[0] + p.name[1] for p in made if p.due(i)) for i in (0, 1, 4, 16)]
    assert due == ["GmGrDmDr", "GmDm", "GmGrDm", "GmGrDmDr"]


@pytest.mark.parametrize("name", ["g_reg_interval", "d_reg_interval"])
@pytest.mark.parametrize("value", [0, -4, 0.5, "4"])
def test_intervals_are_numbers_of_iterations(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be a whole number of at least 1, got {value!r}\.$"):
        phases(**{name: value})


def test_lazy_regularisation_corrects_adam():
    made, _, _ = phases()
    assert made[0].optimizer is made[1].optimizer and made[2].optimizer is made[3].optimizer
    g, d = made[0].optimizer.param_groups[0], made[2].optimizer.param_groups[0]
    assert g["lr"] == pytest.approx(0.0025 * 4 / 5)
    assert d["lr"] == pytest.approx(0.0025 * 16 / 17)
    assert g["betas"] == (0.0, pytest.approx(0.99 ** (4 / 5)))
    assert d["betas"] == (0.0, pytest.approx(0.99 ** (16 / 17)))
    assert g["eps"] == 1e-8


def test_both_betas_are_corrected():
    made, _, _ = phases(betas=(0.5, 0.99))
    for phase, c in ((made[0], 4 / 5), (made[2], 16 / 17)):
        assert phase.optimizer.param_groups[0]["betas"] == pytest.approx((0.5**c, 0.99**c))


def test_without_regularisation():
    made, _, _ = phases(g_reg_interval=None, d_reg_interval=None)
    assert [p.name for p in made] == ["Gmain", "Dmain"]
    assert made[0].optimizer.param_groups[0]["lr"] == 0.0025


def test_only_the_phase_has_gradients_and_frozen_layers_stay():
    made, generator, discriminator = phases()
    assert not any(p.requires_grad for m in (generator, discriminator) for p in m.parameters())
    made[2].begin()
    assert discriminator.weight.requires_grad and not discriminator.bias.requires_grad
    assert not generator.weight.requires_grad
    before = discriminator.weight.clone(), discriminator.bias.clone()
    discriminator(torch.ones(1, 3)).sum().backward()
    made[2].step(GradientGuard(device="cpu"))
    # Adam's first step has the length of the learning rate, whatever the gradient.
    torch.testing.assert_close(before[0] - discriminator.weight, torch.full((1, 3), 0.0025 * 16 / 17))
    assert torch.equal(before[1], discriminator.bias)
    assert not discriminator.weight.requires_grad


@pytest.mark.parametrize("frozen", ["generator", "discriminator"])
def test_networks_that_are_not_to_be_trained(frozen):
    """As loaded networks are; the other one stays as it is."""
    networks = {"generator": nn.Linear(2, 1), "discriminator": nn.Linear(3, 1)}
    networks[frozen].requires_grad_(False)
    settings = dict(lr=0.0025, betas=(0.0, 0.99), eps=1e-8, g_reg_interval=4, d_reg_interval=16)
    with pytest.raises(ValueError) as caught:
        make_phases(**networks, **settings)
    expected = f"the parameters of the {frozen} require no gradients: call requires_grad_(True)."
    assert str(caught.value) == expected
    assert [p.requires_grad for network in networks.values() for p in network.parameters()].count(True) == 2


@pytest.mark.parametrize("form", [float, torch.tensor])
def test_learning_rates_change(form):
    """As a number, or as the tensor that a CUDA graph reads."""
    made, _, discriminator = phases()
    group = made[2].optimizer.param_groups[0]
    rate = group["lr"] = form(group["lr"])
    for factor in (0.25, 0.5):  # each time of the first rate
        made[2].set_learning_rate(factor)
        assert float(group["lr"]) == pytest.approx(0.0025 * 16 / 17 * factor)
    assert form is float or group["lr"] is rate
    before = discriminator.weight.clone()
    made[2].begin()
    discriminator(torch.ones(1, 3)).sum().backward()
    made[2].step(GradientGuard(device="cpu"))
    torch.testing.assert_close(before - discriminator.weight, torch.full((1, 3), 0.0025 * 16 / 17 / 2))


def test_non_finite_gradients_are_replaced_and_counted():
    parameter, other, unused = (nn.Parameter(torch.zeros(4)) for _ in range(3))
    statistics = Statistics()
    guard = GradientGuard(device="cpu", statistics=statistics)
    parameter.grad = torch.tensor([math.nan, math.inf, -math.inf, 2.0])
    other.grad = torch.ones(4)
    guard.clean([parameter, other, unused])
    assert parameter.grad.tolist() == [0.0, 1e5, -1e5, 2.0]
    assert other.grad.tolist() == [1.0] * 4 and unused.grad is None
    guard.clean([other])
    moments = statistics.reduce()["Progress/nonfinite_gradients"]
    assert (moments.mean, moments.count) == (1.5, 2)


def test_large_finite_gradients_stay_as_they_are():
    """Their sum overflows, which makes the guard look closer."""
    parameter, statistics = nn.Parameter(torch.zeros(2)), Statistics()
    guard = GradientGuard(device="cpu", statistics=statistics)
    parameter.grad = torch.full((2,), 3e38)
    guard.clean([parameter], divisor=2)
    assert parameter.grad.tolist() == torch.full((2,), 1.5e38).tolist()
    assert statistics.reduce()["Progress/nonfinite_gradients"].mean == 0 and guard.streak() == 0


def test_finite_gradients_are_divided_alike_with_and_without_a_closer_look():
    values = torch.randn(64, generator=torch.Generator().manual_seed(0))
    both = []
    for other in (values, torch.full((1,), math.nan)):  # without and with a non-finite neighbour
        parameter, neighbour = nn.Parameter(torch.zeros(64)), nn.Parameter(torch.zeros(len(other)))
        parameter.grad, neighbour.grad = values.clone(), other.clone()
        GradientGuard(device="cpu").clean([parameter, neighbour], divisor=3.0)
        both.append(parameter.grad)
    assert torch.equal(*both) and torch.equal(both[0], values / 3)


def test_sums_of_scaled_passes_are_divided_at_the_end():
    made, generator, _ = phases()
    made[0].begin()
    for x in (1.0, 2.0, 6.0):
        (generator(torch.full((1, 2), x)).sum() * LOSS_SCALE).backward()
    seen = []
    made[0].optimizer.step = lambda: seen.append(generator.weight.grad.clone())
    made[0].step(GradientGuard(device="cpu"), divisor=3 * LOSS_SCALE)
    assert seen[0].tolist() == [[3.0, 3.0]]


def test_the_loss_scale_saves_gradients_of_float16():
    """Gradients of 1e-8 vanish in an activation of float16; scaled, they reach the weight."""

    def gradient(scale):
        weight = torch.ones(1, requires_grad=True)
        (weight.half().float() * 1e-8 * scale).sum().backward()
        return float(weight.grad) / scale

    assert gradient(1) == 0 and gradient(LOSS_SCALE) == pytest.approx(1e-8, rel=0.02)
    assert math.log2(LOSS_SCALE).is_integer()


def test_streaks_of_non_finite_gradients():
    parameter = nn.Parameter(torch.zeros(1))
    guard = GradientGuard(device="cpu")

    def step(value):
        parameter.grad = torch.tensor([value])
        guard.clean([parameter])

    for value in (math.nan, math.nan, 1.0, math.inf):
        step(value)
    assert guard.longest_streak() == 2
    assert guard.longest_streak() == 1  # the one that still goes on
    step(math.nan)
    assert guard.longest_streak() == 2
    step(0.0)
    guard.longest_streak()
    assert guard.longest_streak() == 0


def test_streaks_are_counted_by_phase():
    """A discriminator that is lost is not overlooked because the generator's gradients are good."""
    parameter = nn.Parameter(torch.zeros(1))
    guard = GradientGuard(device="cpu")
    for _ in range(3):
        for phase, value in (("Gmain", 1.0), ("Dmain", math.nan)):
            parameter.grad = torch.tensor([value])
            guard.clean([parameter], phase)
    assert guard.streak() == guard.longest_streak() == 3
    other = GradientGuard(device="cpu")
    other.load_state_dict(guard.state_dict())
    assert other.streak() == 3


def test_gradients_keep_their_memory_layout():
    parameter = nn.Parameter(torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last))
    parameter.grad = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    values = parameter.grad.clone()
    GradientGuard(device="cpu").clean([parameter])
    assert parameter.grad.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(parameter.grad, values)


def average(value: float, *, ema: float, ramp: float | None, cur_nimg: int, batch: int) -> float:
    source, copy = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    nn.init.constant_(source.weight, value)
    nn.init.constant_(copy.weight, 0.0)
    source.running_mean.fill_(7.0)
    GeneratorEMA(source=source, average=copy, half_life_kimg=ema, ramp=ramp).update(cur_nimg=cur_nimg, batch=batch)
    assert copy.running_mean.item() == 7.0  # buffers are copied
    return copy.weight.item()


def test_moving_average_has_its_half_life():
    # After one half-life in a single step, half of the old value is left.
    assert average(1.0, ema=20, ramp=None, cur_nimg=0, batch=20_000) == pytest.approx(0.5)
    assert average(1.0, ema=20, ramp=None, cur_nimg=0, batch=32) == pytest.approx(1 - 0.5 ** (32 / 20_000))


def test_ramp_up_shortens_the_half_life():
    assert average(1.0, ema=20, ramp=0.05, cur_nimg=1000, batch=32) == pytest.approx(1 - 0.5 ** (32 / 50))
    assert average(1.0, ema=20, ramp=0.05, cur_nimg=10**9, batch=32) == pytest.approx(1 - 0.5 ** (32 / 20_000))
    assert average(1.0, ema=20, ramp=0.05, cur_nimg=0, batch=32) == 1.0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(half_life_kimg=-1, ramp=None), "half_life_kimg must be a finite number of at least 0, got -1."),
        (dict(half_life_kimg=1, ramp=0), "ramp must be a finite number above 0, got 0."),
    ],
)
def test_moving_average_rejects_impossible_settings(arguments, message):
    with pytest.raises(ValueError) as error:
        GeneratorEMA(source=nn.Linear(1, 1), average=nn.Linear(1, 1), **arguments)
    assert str(error.value) == message
