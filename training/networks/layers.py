"""Equalised-learning-rate layers (StyleGAN2): fully connected, pointwise, and modulated pointwise.

Pointwise layers act on features [B, P, C] of P points or pixels of a video and are plain matrix products: style and
demodulation are fused into one weight per video, and the activation's gain, which commutes with leaky ReLU, into weight
and bias.
"""

import dataclasses
import functools
import math
from typing import Any

import torch
from torch import nn

from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.point_linear import point_linear

__all__ = [
    "ENCODINGS",
    "FullyConnected",
    "ModulatedLinear",
    "PointEncoding",
    "PointLinear",
    "composited_colour",
    "isotropic_waves",
    "normal_weight",
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


@dataclasses.dataclass(frozen=True)
class PointEncoding:
    """Positional encoding of points in space; `ENCODINGS` lists the kinds by their names in the options.

    Attributes:
        frequencies: L, the number of octaves.
    """

    frequencies: int

    @property
    def num_outputs(self) -> int:
        """Outputs per point: sines and cosines of K = 3 L waves."""
        return 6 * self.frequencies

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """Points [..., 3] to encoded points [..., num_outputs], whose order and amplitudes `fold` puts into weights."""
        raise NotImplementedError

    def fold(self, weight: torch.Tensor) -> torch.Tensor:
        """A first layer's weight [..., out, num_outputs + others], reordered and scaled for the outputs of a call.

        The weight given is for `positional_encoding`, or for sines and then cosines times their amplitudes.
        """
        return weight

    def waves(self, like: torch.Tensor) -> torch.Tensor | None:
        """Frequency vectors in radians per scene unit and phases [K, 4], of the type and on the device of `like`.

        Only for an encoding that is the sines and then the cosines of these plane waves. Its rays are rendered by a
        native operator (`FusedForeground.march`), which computes no other encoding; with None it is not used. Nor is it
        where `waves` and `__call__` are those of different classes.
        """
        return None

    def is_waves(self, like: torch.Tensor) -> bool:
        """True if a call gives the sines and cosines of `waves`; a derived class may only have inherited these."""
        owners = {next(base for base in type(self).__mro__ if name in vars(base)) for name in ("__call__", "waves")}
        return len(owners) == 1 and self.waves(like) is not None


class OctaveEncoding(PointEncoding):
    """Octaves: frequencies 2^i pi along each axis, i < L (NeRF, equation 4)."""

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        return sinusoids(points, self.frequencies)

    def fold(self, weight: torch.Tensor) -> torch.Tensor:
        order = sinusoid_order(self.frequencies, 3, weight.device)
        return torch.cat([weight[..., order], weight[..., len(order) :]], dim=-1)

    def waves(self, like: torch.Tensor) -> torch.Tensor:
        axes = torch.eye(3, 4, dtype=like.dtype, device=like.device)  # no phases
        return (octaves(self.frequencies, like)[:, None, None] * axes).flatten(0, 1)


class IsotropicEncoding(PointEncoding):
    """Fourier features (Tancik et al. 2020, section 4) with waves in all directions, see `isotropic_waves`."""

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        # Coordinate by coordinate: a GPU's matrix product might round them to TensorFloat-32.
        *vectors, phases = self.waves(points).unbind(-1)
        x, y, z = (axis[..., None] * along for axis, along in zip(points.unbind(-1), vectors, strict=True))
        angles = x + y + z + phases
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def fold(self, weight: torch.Tensor) -> torch.Tensor:
        amplitudes = _isotropic(self.frequencies, weight.dtype, weight.device)[1].repeat(2)
        return torch.cat([weight[..., : len(amplitudes)] * amplitudes, weight[..., len(amplitudes) :]], dim=-1)

    def waves(self, like: torch.Tensor) -> torch.Tensor:
        return _isotropic(self.frequencies, like.dtype, like.device)[0]


#: Values of the option model.generator.foreground.encoding: classes derived from `PointEncoding` or, for encodings with
#: parameters, modules with `num_outputs`, `forward` and `fold`.
ENCODINGS: dict[str, type[Any]] = {"octaves": OctaveEncoding, "isotropic": IsotropicEncoding}


def isotropic_waves(frequencies: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Frequency vectors and phases [K, 4] of waves in all directions, amplitudes [K], K = 3 · `frequencies`; float32.

    Magnitudes m cover the range of as many octaves, pi to 2^(frequencies - 1) pi, evenly spaced in the logarithm. The
    amplitudes are min(1, √(4 pi / m)): high frequencies, which would show as grain early in training, come in slowly.
    The phases differ, so that no point is special: with equal ones all waves meet at the origin, and styles that favour
    the cosines can draw rings around it.
    """
    count = 3 * frequencies
    index = torch.arange(count, dtype=torch.float64, device="cpu")
    # Directions: a Fibonacci lattice, with even heights and azimuths that advance by the golden angle.
    height, azimuth = 1 - (2 * index + 1) / count, 2 * math.pi * index * ((5**0.5 - 1) / 2)
    across = (1 - height * height).sqrt()
    directions = torch.stack([across * azimuth.cos(), across * azimuth.sin(), height], dim=1)
    # Neighbours on the lattice get dissimilar magnitudes: their ranks are permuted by a stride that is coprime with K.
    stride = next(step for step in range(7, 7 + count) if math.gcd(step, count) == 1)
    rank = index * stride % count
    low, high = math.pi, 2 ** (frequencies - 1) * math.pi
    magnitudes = low * (high / low) ** (rank / (count - 1))
    amplitudes = (4 * math.pi / magnitudes).sqrt().clamp(max=1)
    # Phases: fractions of a turn, spread evenly by an irrational step.
    phases = 2 * math.pi * (index * 2**0.5 % 1)
    return torch.cat([directions * magnitudes[:, None], phases[:, None]], dim=1).float(), amplitudes.float()


@functools.lru_cache(maxsize=16)
def _isotropic(frequencies: int, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    # Outside inference mode, so that waves cached while rendering can serve training later.
    with torch.inference_mode(False):
        waves, amplitudes = isotropic_waves(frequencies)
        return waves.to(device=device, dtype=dtype), amplitudes.to(device=device, dtype=dtype)


def composited_colour(
    head: tuple[torch.Tensor, torch.Tensor], x: torch.Tensor, accumulation: torch.Tensor | float
) -> torch.Tensor:
    """Colours [..., 3] of composited features [..., F]; the head's bias is multiplied by the accumulated weights."""
    weight, bias = head
    return point_linear(x, weight) + bias * accumulation


def normal_weight(*shape: int, lr_multiplier: float = 1.0) -> nn.Parameter:
    """An initial weight of the given shape, N(0, 1) / lr_multiplier; without values on the meta device.

    Only shapes matter there, and PyTorch's normal distribution would import its compiler, which takes a second.
    """
    weight = torch.empty(shape)
    if not weight.is_meta:
        weight.normal_().div_(lr_multiplier)
    return nn.Parameter(weight)


class FullyConnected(nn.Module):
    """Fully connected layer with equalised learning rate, [N, in_features] to [N, out_features].

    y = act(x (w · m / √in)ᵀ + b · m) with learning-rate multiplier m; weights are initialised to N(0, 1) / m, biases to
    `bias_init`. With trained=False they stay as they are: gradients pass to x only.
    """

    def __init__(
        self,
        *,
        in_features: int,
        out_features: int,
        act: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
        trained: bool = True,
    ):
        super().__init__()
        self.act, self.trained = act, trained
        self.weight = normal_weight(out_features, in_features, lr_multiplier=lr_multiplier)
        self.bias = nn.Parameter(torch.full([out_features], float(bias_init)))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Detached here instead of by `requires_grad`, which training switches on and off for whole networks.
        weight, bias = (self.weight, self.bias) if self.trained else (self.weight.detach(), self.bias.detach())
        # Without an activation the gain of the weight is part of the matrix product.
        bias = bias if self.bias_gain == 1 else bias * self.bias_gain
        if self.act == "linear":
            return torch.addmm(bias, x, weight.t(), alpha=self.weight_gain)
        return bias_act(x @ (weight.t() * self.weight_gain), bias, act=self.act)


class PointLinear(nn.Module):
    """Pointwise layer: a 1x1 convolution with weight w / √in on [B, P, in_features], optionally with leaky ReLU."""

    def __init__(self, *, in_features: int, out_features: int, act: str = "linear"):
        super().__init__()
        assert act in ("linear", "lrelu")
        self.act = act
        self.weight = normal_weight(out_features, in_features)
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
        self.weight = normal_weight(out_features, in_features)
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
