"""The measured phases of training at full size: recorded draws, the batch, and the expected reports."""

import numpy as np
import torch

from tests.goldens.networks import golden_arrays
from training.loss import VideoBatch

FILE = "losses_taichi.npz"


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
