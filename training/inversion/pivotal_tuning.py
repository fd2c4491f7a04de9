"""Pivotal tuning: fine-tuning of a generator to one clip with fixed codes and cameras (Roich et al., 2021).

The mapping network is fixed, so that random codes keep their meaning. There is no locality regularisation: the more
steps, the further the generator moves from the trained one.
"""

import copy
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

from torch_utils.rng import RandomStream
from training.checkpoints.archive import save_archive
from training.inversion.candidates import CandidateVideos
from training.inversion.loss import ClipLoss, psnr_of_error
from training.networks.generator import Generator
from training.networks.mixed_precision import half_precision

__all__ = ["save_tuned", "tune_generator"]

RATE = 5e-4  # learning rate of Adam, on weights of unit variance (equalised learning rates)
BETAS = (0.9, 0.99)


def tune_generator(
    video: CandidateVideos,
    loss: ClipLoss,
    *,
    steps: int,
    batch: int,
    stream: RandomStream,
    on_step: Callable[[int, float], None] = lambda images, quality: None,
) -> Generator:
    """A fine-tuned copy of the video's generator, in evaluation mode.

    Args:
        on_step: Called after a step with the number of images and the PSNR of its frames.
    """
    generator: Generator = copy.deepcopy(video.generator).requires_grad_(True)
    generator.mapping.requires_grad_(False)
    fixed = video.select([0], generator=generator).requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in generator.parameters() if p.requires_grad], lr=RATE, betas=BETAS)
    for _ in range(steps):
        chosen = stream.uniform("inversion/frames", [len(video.times)]).argsort()[:batch].sort().values
        with half_precision(torch.float32, generator):  # see Inversion.fit
            losses, squares = loss(fixed.render(chosen)[0], chosen)
            optimizer.zero_grad(set_to_none=True)
            losses.mean().backward()
        optimizer.step()
        on_step(len(chosen), psnr_of_error(squares.mean()))
    return generator.requires_grad_(False)


def save_tuned(path: str | os.PathLike, generator: Generator, *, snapshot: Mapping[str, Any]) -> None:
    """Write a snapshot with its generator replaced by this one.

    Args:
        snapshot: Content of the snapshot that the generator comes from, see `load_snapshot`.

    Raises:
        UserError: The file cannot be written.
    """
    state = generator.state_dict()
    save_archive(path, {**snapshot, "generator": {**snapshot["generator"], "state": state, "ema": state}})
