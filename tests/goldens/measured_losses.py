"""The measured phases of training at full size: recorded draws, the batch, expected reports and gradients, bounds."""

import zlib
from typing import NamedTuple

import numpy as np
import torch

from tests.goldens.networks import golden_arrays
from training.loss import VideoBatch
from training.published.state_dict import map_discriminator_name, map_generator_name

FILE = "losses_taichi.npz"

# Bounds in float32. Importance sampling is discontinuous, and path lengths feel it most: with other threading the
# original differs from itself by 0.6 % in Greg's gradients. With codes moved by 1e-6 Greg's loss here lies anywhere
# between 0.005 % and 0.5 % above the original's. Two processors gave 0.16 % and 0.27 %, and 0.9 % and 1.6 % in a
# gradient's norm.
NORM_TOLERANCE = {"Gmain": 2e-3, "Greg": 2e-2, "Dmain": 2e-3, "Dreg": 2e-3}
LOSS_TOLERANCE = {"Gmain": 5e-4, "Greg": 3e-3, "Dmain": 5e-4, "Dreg": 5e-4}


class Reports(dict):
    """Last value reported under each name of a loss."""

    def report(self, name, value):
        if name.startswith("Loss/"):
            self[name.removeprefix("Loss/")] = value


def recorded_draws(phase: str) -> dict:
    """Draws of a phase by name."""
    prefix = f"{phase}/draw/"
    draws = {key.removeprefix(prefix): value for key, value in golden_arrays(FILE).items() if key.startswith(prefix)}
    batch = 1 if phase == "Greg" else 2
    if phase != "Dreg":
        draws["latents/z"] = np.random.RandomState(131).randn(2, 512).astype(np.float32)[:batch]
    if phase == "Greg":
        draws["path_length/noise"] = draws["path_length/noise"][None]
    return draws


def real_batch(device: str | torch.device = "cpu") -> VideoBatch:
    """The batch of real videos of all phases."""
    pixels = (np.random.RandomState(130).rand(2, 7, 128, 128) * 2 - 1).astype(np.float32)
    frames = torch.from_numpy(pixels[:, :6]).unflatten(1, (2, 3)).to(device)
    return VideoBatch(frames=frames, dt=torch.tensor([0.3, 0.8], device=device), c=torch.zeros(2, 0, device=device))


def expected_reports(phase: str) -> dict:
    """Reported losses of a phase by name."""
    prefix = f"{phase}/report/"
    reports = {key.removeprefix(prefix): value for key, value in golden_arrays(FILE).items() if key.startswith(prefix)}
    if phase == "Dmain":
        # The original added the mean NeRF-path loss of the fakes to what it reports, though not to any gradient.
        reports["D/loss"] = reports["D/loss"] - reports.pop("D/reg_loss").mean()
    return reports


class GradientErrors(NamedTuple):
    """Comparison of a phase's gradients with the measured ones."""

    beyond: dict[str, str]  # published name → what is beyond the bounds
    count: int
    largest_norm: float  # largest relative difference of a norm; NaN if there is one
    nonfinite: int  # elements


def compare_gradients(phase: str, network: torch.nn.Module) -> GradientErrors:
    """Norms of the gradients of every parameter, and their inner products with random directions."""
    arrays, tolerance = golden_arrays(FILE), NORM_TOLERANCE[phase]
    rename = map_generator_name if phase[0] == "G" else map_discriminator_name
    names, parameters = [str(name) for name in arrays[f"{phase}/grad_names"]], dict(network.named_parameters())
    assert sorted(map(rename, names)) == sorted(parameters)
    norms, dots = arrays[f"{phase}/grad_norms"], arrays[f"{phase}/grad_dots"]
    # R1 hardly depends on biases: what their gradients hold is rounding for a good part.
    floor = (1e-4 if phase == "Dreg" else 1e-6) * float(norms.max())
    beyond, relative, nonfinite = {}, [0.0], 0
    for name, norm, dot in zip(names, norms.tolist(), dots.tolist(), strict=True):
        parameter = parameters[rename(name)]
        # Without a use in this phase there is no gradient; the original counted a zero.
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        gradient = gradient.double().flatten().cpu()
        nonfinite += int((~gradient.isfinite()).sum())
        direction = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).randn(gradient.numel())
        found_norm, found_dot = float(gradient.norm()), float(gradient @ torch.from_numpy(direction))
        if norm > 1e3 * floor:
            relative.append(abs(found_norm - norm) / norm)
        # An error of relative size e changes the inner product by about e · norm; allow four standard deviations.
        norm_bound, dot_bound = max(tolerance * norm, floor), 4 * tolerance * norm + floor
        if not (abs(found_norm - norm) <= norm_bound and abs(found_dot - dot) <= dot_bound):
            beyond[name] = (
                f"norm {found_norm:.6g} instead of {norm:.6g} ± {norm_bound:.2g}, "
                f"inner product {found_dot:.6g} instead of {dot:.6g} ± {dot_bound:.2g}"
            )
    return GradientErrors(beyond, len(names), float(np.max(relative)), nonfinite)
