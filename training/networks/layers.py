"""Equalised-learning-rate layers (StyleGAN2): fully connected, pointwise, and modulated pointwise.

Pointwise layers act on rows of features [B, P, C] (P points or pixels of a video) and are plain dense products: the
style and the demodulation of a modulated layer are folded into one weight per video, and the activation's gain, which
commutes with leaky ReLU, into weight and bias.
"""

import math

import torch
from torch import nn

from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.point_linear import point_linear

__all__ = [
    "FullyConnected",
    "ModulatedLinear",
    "PointLinear",
    "composited_colour",
    "normalize_second_moment",
    "octaves",
    "positional_encoding",
    "sinusoid_order",
    "sinusoids",
]

LRELU_GAIN = math.sqrt(2)


def normalize_second_moment(x: torch.Tensor) -> torch.Tensor:
    """Scale rows [..., C] to unit mean square."""
    return x * (x.square().mean(dim=-1, keepdim=True) + 1e-8).rsqrt()


def octaves(frequencies: int, like: torch.Tensor) -> torch.Tensor:
    """2^i pi for i < frequencies."""
    return math.pi * 2.0 ** torch.arange(frequencies, device=like.device, dtype=like.dtype)


def positional_encoding(x: torch.Tensor, frequencies: int) -> torch.Tensor:
    """[sin(2^i pi x), cos(2^i pi x)] for i < frequencies, each over all coordinates (NeRF, equation 4).

    [..., D] to [..., 2 * frequencies * D].
    """
    angles = x[..., None, :] * octaves(frequencies, x)[:, None]
    return torch.stack([angles.sin(), angles.cos()], dim=-2).flatten(-3)


def sinusoids(x: torch.Tensor, frequencies: int) -> torch.Tensor:
    """The values of `positional_encoding` with all sines first, then all cosines: cheaper to write for many points.

    The weight of a layer that takes them needs its columns in the order `sinusoid_order`.
    """
    angles = (x[..., None, :] * octaves(frequencies, x)[:, None]).flatten(-2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def sinusoid_order(frequencies: int, dims: int, device: torch.device | str | None = None) -> torch.Tensor:
    """Indices that take `positional_encoding(x)` to `sinusoids(x)` for x of `dims` coordinates."""
    index = torch.arange(2 * frequencies * dims, device=device)
    return index.unflatten(0, (frequencies, 2, dims)).transpose(0, 1).flatten()


def composited_colour(
    head: tuple[torch.Tensor, torch.Tensor], x: torch.Tensor, accumulation: torch.Tensor | float
) -> torch.Tensor:
    """rgb [..., 3] of composited features [..., F]: the head's bias counts as often as the weights add up to."""
    weight, bias = head
    return point_linear(x, weight) + bias * accumulation


class FullyConnected(nn.Module):
    """y = act(x (w · m / √in)ᵀ + b · m) with learning-rate multiplier m; stored weights are N(0, 1) / m.

    [N, in_features] to [N, out_features].
    """

    def __init__(
        self,
        *,
        in_features: int,
        out_features: int,
        act: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ):
        super().__init__()
        self.act = act
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([out_features], float(bias_init) / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = self.bias if self.bias_gain == 1 else self.bias * self.bias_gain
        if self.act == "linear":
            return torch.addmm(bias, x, self.weight.t(), alpha=self.weight_gain)
        return bias_act(x @ (self.weight.t() * self.weight_gain), bias, act=self.act)


class PointLinear(nn.Module):
    """A 1x1 convolution with weight w / √in on rows [B, P, in_features], optionally with leaky ReLU (gain √2)."""

    def __init__(self, *, in_features: int, out_features: int, act: str = "linear"):
        super().__init__()
        assert act in ("linear", "lrelu")
        self.act = act
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.gain = LRELU_GAIN if act == "lrelu" else 1.0
        self.weight_gain = self.gain / math.sqrt(in_features)

    def scaled(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight [out, in] and bias [out] with all gains applied; only the activation's shape is left to do."""
        return self.weight * self.weight_gain, self.bias if self.gain == 1 else self.bias * self.gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return point_linear(x, *self.scaled(), act=self.act)


class ModulatedLinear(nn.Module):
    """A modulated 1x1 layer (StyleGAN2, section 2.2): in-channels scaled by a style, out-channels demodulated.

    Without demodulation ("ToRGB" layers) the style is scaled by 1 / √in instead, and there is no activation.
    """

    def __init__(self, *, in_features: int, out_features: int, w_dim: int, demodulate: bool = True):
        super().__init__()
        self.demodulate = demodulate
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.affine = FullyConnected(in_features=w_dim, out_features=in_features, bias_init=1)

    def modulate(self, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Per-video weights [B, out, in] and the bias [out] for styles w [B, w_dim], activation gain included."""
        style = self.affine(w)
        if not self.demodulate:
            return self.weight * (style / math.sqrt(self.weight.shape[1]))[:, None, :], self.bias
        weight = self.weight * style[:, None, :]
        scale = (weight.square().sum(dim=-1, keepdim=True) + 1e-8).rsqrt() * LRELU_GAIN
        return weight * scale, self.bias * LRELU_GAIN
