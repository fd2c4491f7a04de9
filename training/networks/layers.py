"""Equalised-learning-rate layers (StyleGAN2): fully connected, pointwise, and modulated pointwise.

Pointwise layers act on features [B, P, C] of P points or pixels of a video and are plain matrix products: style and
demodulation are fused into one weight per video, and the activation's gain, which commutes with leaky ReLU, into weight
and bias.
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
    """Scale vectors [..., C] to unit mean square."""
    return x * (x.square().mean(dim=-1, keepdim=True) + 1e-8).rsqrt()


def octaves(frequencies: int, like: torch.Tensor) -> torch.Tensor:
    """The angular frequencies 2^i pi of the positional encoding, i < frequencies (NeRF, equation 4)."""
    return math.pi * 2.0 ** torch.arange(frequencies, device=like.device, dtype=like.dtype)


def positional_encoding(x: torch.Tensor, frequencies: int) -> torch.Tensor:
    """[sin(2^i pi x), cos(2^i pi x)] for i < frequencies, each over all coordinates (NeRF, equation 4).

    [..., D] to [..., 2 * frequencies * D].
    """
    angles = x[..., None, :] * octaves(frequencies, x)[:, None]
    return torch.stack([angles.sin(), angles.cos()], dim=-2).flatten(-3)


def sinusoids(x: torch.Tensor, frequencies: int) -> torch.Tensor:
    """Positional encoding with all sines first, then all cosines: cheaper to write for many points.

    A layer on top of it needs the columns of its weight in the order `sinusoid_order`.
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
    """Colours [..., 3] of composited features [..., F]; the head's bias is multiplied by the accumulated weights."""
    weight, bias = head
    return point_linear(x, weight) + bias * accumulation


class FullyConnected(nn.Module):
    """Fully connected layer with equalised learning rate, [N, in_features] to [N, out_features].

    y = act(x (w · m / √in)ᵀ + b · m) with learning-rate multiplier m; weights are initialised to N(0, 1) / m.
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
        # Without an activation the gain of the weight is part of the matrix product.
        bias = self.bias if self.bias_gain == 1 else self.bias * self.bias_gain
        if self.act == "linear":
            return torch.addmm(bias, x, self.weight.t(), alpha=self.weight_gain)
        return bias_act(x @ (self.weight.t() * self.weight_gain), bias, act=self.act)


class PointLinear(nn.Module):
    """Pointwise layer: a 1x1 convolution with weight w / √in on [B, P, in_features], optionally leaky ReLU."""

    def __init__(self, *, in_features: int, out_features: int, act: str = "linear"):
        super().__init__()
        assert act in ("linear", "lrelu")
        self.act = act
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.gain = LRELU_GAIN if act == "lrelu" else 1.0
        self.weight_gain = self.gain / math.sqrt(in_features)

    def scaled(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight [out, in] and bias [out] with all gains applied, the activation's included."""
        return self.weight * self.weight_gain, self.bias if self.gain == 1 else self.bias * self.gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return point_linear(x, *self.scaled(), act=self.act)


class ModulatedLinear(nn.Module):
    """Modulated 1x1 layer (StyleGAN2, section 2.2): input channels scaled by a style, output channels demodulated.

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
        # The style, a learned affine transform of w.
        style = self.affine(w)
        if not self.demodulate:
            return self.weight * (style / math.sqrt(self.weight.shape[1]))[:, None, :], self.bias
        # Modulate the input channels (StyleGAN2, equation 1) ...
        weight = self.weight * style[:, None, :]
        # ... and demodulate: the weights of every output channel get unit norm (equation 3).
        scale = (weight.square().sum(dim=-1, keepdim=True) + 1e-8).rsqrt() * LRELU_GAIN
        return weight * scale, self.bias * LRELU_GAIN
