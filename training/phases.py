"""The phases of a training iteration as data, and the gradient step they share.

An iteration runs Gmain, Greg, Dmain, Dreg in this order. A regulariser runs only every `interval` iterations,
`interval` times as strongly (lazy regularisation, StyleGAN2, appendix B): Adam then sees interval + 1 steps
where it would have seen interval, so its settings are corrected by c = interval / (interval + 1): lr·c, betas^c.

Passes add up `LOSS_SCALE` times the gradients of a phase, undivided by their number; the step divides the sums, in
float32 (loss scaling, Micikevicius et al. 2018, section 3.2).
"""

import dataclasses

import torch

from torch_utils import distributed
from torch_utils.argument_checks import check_network, check_number, is_list, shown, whole_number

__all__ = ["LOSS_SCALE", "GradientGuard", "Phase", "make_phases"]

#: Loss scale. Without it gradients of float16 activations underflow (the smallest number is 6e-8): at 256² with 8
#: videos per pass, 16 % of those at the highest resolution were zero, and 84 % once divided by 8 passes. The largest
#: number, 65504, is still far off, and a power of two leaves float32 results bit-identical.
LOSS_SCALE = 2.0**8


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of a training iteration: its parameters, optimiser, learning rate, interval and gain."""

    name: str  # Gmain, Greg, Dmain or Dreg
    parameters: list[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    lr: float  # the optimiser's learning rate before it decays
    interval: int  # runs every `interval` iterations
    gain: float  # weight of its gradients

    def due(self, iteration: int) -> bool:
        return iteration % self.interval == 0

    def set_learning_rate(self, factor: float) -> None:
        """Set the optimiser's learning rate to `factor` times the phase's."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):  # read by a recorded step, see `PhaseGraphs`
                group["lr"].fill_(self.lr * factor)
            else:
                group["lr"] = self.lr * factor

    def begin(self) -> None:
        """Start accumulating gradients; only this phase's parameters require them."""
        self.optimizer.zero_grad(set_to_none=True)
        for parameter in self.parameters:
            parameter.requires_grad_(True)

    def step(self, guard: "GradientGuard", *, divisor: float = 1.0) -> None:
        """Average the gradients over the processes, divide them, make them finite, and update the parameters."""
        for parameter in self.parameters:
            parameter.requires_grad_(False)
        guard.clean(self.parameters, self.name, divisor=divisor)
        self.optimizer.step()


def make_phases(
    *,
    generator: torch.nn.Module,
    discriminator: torch.nn.Module,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    g_reg_interval: int | None,
    d_reg_interval: int | None,
) -> list[Phase]:
    """The phases of an iteration in order, with one Adam optimiser per network.

    Only parameters that require gradients at this point are trained (frozen layers of the discriminators stay frozen).
    Afterwards no parameter requires gradients except between a phase's `begin` and `step`.

    Args:
        lr, betas, eps: Adam's settings before the correction for lazy regularisation.
        g_reg_interval, d_reg_interval: Iterations between regularisation phases; None for no regularisation.

    Raises:
        ValueError: No network, none of its parameters requires gradients, an interval is not a whole number of at least
            1, or a setting is not a number in Adam's range.
    """
    check_number("lr", lr)
    check_number("eps", eps)
    if not is_list(betas) or len(betas) != 2:
        raise ValueError(f"betas must be 2 numbers, got {shown(betas)}.")
    for i, beta in enumerate(betas):
        check_number(f"betas[{i}]", beta)
    for name, value in (("g_reg_interval", g_reg_interval), ("d_reg_interval", d_reg_interval)):
        if value is not None:
            whole_number(name, value, low=1)
    trained = []
    for name, module in (("generator", generator), ("discriminator", discriminator)):
        check_network(name, module, "parameters")
        trained.append([parameter for parameter in module.parameters() if parameter.requires_grad])
        if not trained[-1]:
            raise ValueError(f"the parameters of the {name} require no gradients: call requires_grad_(True).")
    generator.requires_grad_(False)
    discriminator.requires_grad_(False)
    phases = []
    for letter, parameters, interval in zip("GD", trained, (g_reg_interval, d_reg_interval), strict=True):
        # Lazy regularisation: correct Adam for the additional steps.
        c = 1.0 if interval is None else interval / (interval + 1)
        # One pass over all parameters; on the meta device, which computes nothing, there is none.
        fused = not parameters[0].is_meta
        optimizer = torch.optim.Adam(parameters, lr=lr * c, betas=(betas[0] ** c, betas[1] ** c), eps=eps, fused=fused)
        phases.append(Phase(letter + "main", parameters, optimizer, lr * c, interval=1, gain=1.0))
        if interval is not None:
            phases.append(Phase(letter + "reg", parameters, optimizer, lr * c, interval=interval, gain=float(interval)))
    return phases


def _finite_sums(parameters: list[torch.nn.Parameter]) -> bool:
    """True only if all gradients are finite: one pass over them, where replacing entries takes a dozen.

    A sum may overflow although all entries are finite; that only costs time.
    """
    return bool(torch.stack([parameter.grad.sum() for parameter in parameters]).isfinite().all())


class GradientGuard:
    """Gradients averaged over the processes, with non-finite entries replaced and counted.

    nan becomes 0 and ±inf becomes ±1e5, as in the published training. Half precision produces such entries now and
    then. When every step of a phase has some, training has diverged, even if the other phases have none. The counts
    stay on the device until they are read.
    """

    LIMIT = 1e5

    def __init__(self, *, device: torch.device | str, statistics=None):
        self.statistics = statistics
        self._device = device
        # By phase, consecutive steps with non-finite gradients: current streak, longest streak since the last reading.
        self._streaks: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def clean(self, parameters: list[torch.nn.Parameter], phase: str = "", *, divisor: float = 1.0) -> None:
        """Replace the gradients by their finite means over the processes, divided by `divisor`.

        Parameters without gradients are skipped.
        """
        parameters = [parameter for parameter in parameters if parameter.grad is not None]
        if not parameters:
            return
        if self._alone and _finite_sums(parameters):
            count = torch.zeros([], dtype=torch.int64)
            if divisor != 1:
                for parameter in parameters:
                    parameter.grad /= divisor
        else:
            count = self._replace(parameters, divisor)
        # A step without non-finite entries resets the streak. All on the device.
        if phase not in self._streaks:
            self._streaks[phase] = torch.zeros(2, dtype=torch.int64, device=self._device)
        streak = self._streaks[phase]
        streak[0] += 1
        streak[0] *= count > 0
        streak[1] = torch.maximum(streak[0], streak[1])
        if self.statistics is not None:
            self.statistics.report("Progress/nonfinite_gradients", count)

    @property
    def _alone(self) -> bool:
        """True if there are no other processes, and reading a value does not wait for a device."""
        return torch.device(self._device).type == "cpu" and distributed.world_size() == 1

    def _replace(self, parameters: list[torch.nn.Parameter], divisor: float) -> torch.Tensor:
        """Gradients averaged over the processes, divided and made finite; the number of non-finite entries."""
        # All-reduce as one flat tensor.
        flat = torch.cat([parameter.grad.flatten() for parameter in parameters])
        if distributed.world_size() > 1:
            distributed.all_reduce_sum(flat)
        flat /= divisor * distributed.world_size()
        # Replace non-finite entries and write the gradients back.
        count = flat.numel() - flat.isfinite().sum()
        torch.nan_to_num(flat, nan=0.0, posinf=self.LIMIT, neginf=-self.LIMIT, out=flat)
        parts = flat.split([parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts):
            parameter.grad.copy_(part.view_as(parameter))  # keeps the gradient's memory layout
        return count

    def longest_streak(self) -> int:
        """Most consecutive steps of a phase with non-finite gradients since the last call (synchronises)."""
        longest = max((int(streak[1]) for streak in self._streaks.values()), default=0)
        for streak in self._streaks.values():
            streak[1] = streak[0]
        return longest

    def streak(self) -> int:
        """Consecutive steps of a phase with non-finite gradients up to now (synchronises)."""
        return max((int(streak[0]) for streak in self._streaks.values()), default=0)

    def state_dict(self) -> dict[str, dict[str, torch.Tensor]]:
        return {"streaks": {phase: streak.clone() for phase, streak in self._streaks.items()}}

    def load_state_dict(self, state: dict) -> None:
        self._streaks = {phase: streak.to(self._device, copy=True) for phase, streak in state["streaks"].items()}
