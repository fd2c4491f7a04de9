"""Gaussian prior of a mapping network's styles: coordinates in which inversion is well conditioned.

The styles w of trained mapping networks have an ill-conditioned covariance. Steps and penalties of inversion are taken
in whitened coordinates: w = mean + x · F with F the symmetric square root of the covariance, so that |x|² is the
Mahalanobis distance from the average style (Zhu et al., Improved StyleGAN Embedding, 2020, section 3.1: there after a
leaky ReLU, and with one coordinate per principal direction).
"""

import dataclasses

import torch

from torch_utils.rng import RandomStream
from training.inference.latents import known_labels, labels_at
from training.networks.generator import Generator

__all__ = ["StylePrior", "random_labels"]

SAMPLES = 8  # per dimension of w, for the covariance
MIN_SAMPLES = 1024
FLOOR = 1e-2  # of the mean deviation: directions outside the mapping network's range stay reachable, at a high penalty


@dataclasses.dataclass(frozen=True)
class StylePrior:
    """Mean [w_dim] and factor F [w_dim, w_dim] of the Gaussian w = mean + x · F, and the inverse of F."""

    mean: torch.Tensor
    factor: torch.Tensor
    inverse: torch.Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, generator: Generator, stream: RandomStream) -> "StylePrior":
        """The prior of random content codes, and of random labels for a conditional generator, from `stream`."""
        count = max(MIN_SAMPLES, SAMPLES * generator.w_dim)
        z = stream.normal("inversion/prior", [count, generator.z_dim])
        w = generator.mapping(z, random_labels(generator, count, stream))[:, 0].double()
        mean = w.mean(dim=0)
        covariance = (w - mean).t() @ (w - mean) / count
        variances, axes = torch.linalg.eigh(covariance)
        deviations = variances.clamp(min=0).sqrt()
        deviations = deviations.clamp(min=FLOOR * deviations.mean().clamp(min=1e-6))
        factor, inverse = (axes * deviations) @ axes.t(), (axes / deviations) @ axes.t()
        return cls(mean=mean.float(), factor=factor.float(), inverse=inverse.float())

    def styles(self, x: torch.Tensor) -> torch.Tensor:
        """Coordinates [..., w_dim] to styles."""
        return self.mean + x @ self.factor

    def coordinates(self, w: torch.Tensor) -> torch.Tensor:
        """Styles [..., w_dim] to coordinates."""
        return (w - self.mean) @ self.inverse


def random_labels(generator: Generator, count: int, stream: RandomStream) -> torch.Tensor | None:
    """Labels [count, c_dim], of uniformly sampled classes or of the training data; None without labels."""
    if generator.c_dim == 0:
        return None
    return labels_at(generator, stream.integers("inversion/label", 0, known_labels(generator), [count]))
