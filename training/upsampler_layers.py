"""Layers of the 2D upsampler: the learned ×2 upsampling, modulated 1x1 layers, colours, and a block of them.

Features and colours are rows [G, N, H, W, C]: G videos of a group, N frames of each. Resampling and 1x1 layers commute,
so the linear parts of the learned upsampling run at the lower resolution or on fewer channels.
"""

import torch
from torch import nn

from torch_utils.ops.point_linear import lrelu_, point_linear
from training.layers import LRELU_GAIN, ModulatedLinear, PointLinear
from training.precision import HalfPrecision
from training.recompute import Measured, recomputed
from training.resampling import blur_nearest_rows, blur_rows, corner_means, interleave

__all__ = ["MagnitudeEMA", "UpsamplerBlock", "UpsamplerLayer"]


class MagnitudeEMA(nn.Module):
    """Running mean of x² over a layer's inputs; layers are applied to x / √mean (StyleGAN3, section 3.1)."""

    def __init__(self, *, beta: float):
        super().__init__()
        self.beta = beta
        self.register_buffer("mean_square", torch.ones([]))

    def gain(self, xs: list[torch.Tensor]) -> torch.Tensor:
        """1 / √mean; in training mode the mean is first updated with these inputs (one tensor per group)."""
        if self.training:
            with torch.no_grad():
                # A product with itself reads the input once and writes nothing, unlike a mean of squares.
                flat = [x.reshape(-1).to(self.mean_square.dtype) for x in xs]
                current = sum(torch.dot(x, x) for x in flat) / sum(x.numel() for x in flat)
                self.mean_square.copy_(current.lerp(self.mean_square, self.beta))
        # A copy: the buffer may change again before this step's backward pass.
        return self.mean_square.clone().rsqrt()


class Upsampling(nn.Module):
    """×2 upsampling with a learned correction of the nearest neighbour, then the [1, 3, 3, 1] blur.

    'nn_cat': blur(nearest(x) + A([nearest(x) | means of the corners' neighbours]));
    'pixelshuffle': blur(nearest(x) + pixel_shuffle(A(x))). A is two 1x1 layers with a C/4 bottleneck.
    """

    def __init__(self, *, channels: int, mode: str):
        super().__init__()
        if mode not in ("nn_cat", "pixelshuffle"):
            raise ValueError(f"upsampler.mode must be nn_cat or pixelshuffle, got '{mode}'.")
        self.mode, self.channels = mode, channels
        inputs, outputs = (2 * channels, channels) if mode == "nn_cat" else (channels, 4 * channels)
        self.reduce = PointLinear(in_features=inputs, out_features=channels // 4, act="lrelu")
        self.expand = PointLinear(in_features=channels // 4, out_features=outputs)

    def fold(self, gain: float) -> tuple[torch.Tensor, ...]:
        """Weights and biases as `forward` uses them, for a result scaled by `gain`."""
        reduce, reduce_bias = self.reduce.scaled()
        expand, expand_bias = (p * gain for p in self.expand.scaled())
        if self.mode == "nn_cat":
            # Both halves of the first layer are applied at the low resolution, in one product.
            reduce = torch.cat([reduce[:, : self.channels], reduce[:, self.channels :]])
            reduce_bias = torch.cat([reduce_bias, torch.zeros_like(reduce_bias)])
        else:
            # Shuffle the weight instead of the pixels: rows ordered (dy, dx, channel), not (channel, dy, dx).
            expand = expand.unflatten(0, (self.channels, 4)).transpose(0, 1).flatten(0, 1)
            expand_bias = expand_bias.unflatten(0, (self.channels, 4)).t().flatten()
        return reduce, reduce_bias, expand, expand_bias

    def forward(self, x: torch.Tensor, folded: tuple[torch.Tensor, ...], bias: torch.Tensor, gain: float):
        """gain · U(x) + bias on rows [N, H, W, C] to [N, 2H, 2W, C]."""
        reduce, reduce_bias, expand, expand_bias = (p.to(x.dtype) for p in folded)
        n, height, width, channels = x.shape
        act = "lrelu" if self.mode == "pixelshuffle" else "linear"  # nn_cat adds up corners first
        hidden = point_linear(x.reshape(n, -1, channels), reduce, reduce_bias, act=act)
        if self.mode == "nn_cat":
            own, neighbours = hidden.unflatten(1, (height, width)).chunk(2, dim=-1)
            # The second layer commutes with the blur, which then runs on a quarter of the channels. Its bias must
            # be blurred too (zeros lie outside the image), and so rides on x.
            hidden = blur_rows(lrelu_(corner_means(own, neighbours)))
            y = point_linear(hidden.reshape(n, -1, hidden.shape[-1]), expand, bias).unflatten(1, (2 * height, -1))
            nearest = blur_nearest_rows(torch.add(expand_bias, x, alpha=gain))
            return _sum(nearest, y)
        corners = point_linear(hidden, expand, expand_bias).view(n, height, width, 2, 2, channels)
        return _sum(blur_rows(interleave(corners + gain * x[:, :, :, None, None, :])), bias)


def _sum(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x + y, in place on a resampled x where no gradients are recorded (autograd forbids it on a view of a node)."""
    return x + y if x.requires_grad else x.add_(y)


class UpsamplerLayer(nn.Module):
    """Modulated 1x1 layer, optional ×2 upsampling, bias, leaky ReLU, clamp."""

    def __init__(
        self,
        *,
        in_features: int,
        out_features: int,
        w_dim: int,
        clamp: float | None,
        beta: float,
        upsampling: str | None,
    ):
        super().__init__()
        self.linear = ModulatedLinear(in_features=in_features, out_features=out_features, w_dim=w_dim)
        self.magnitude = MagnitudeEMA(beta=beta)
        self.upsampling = None if upsampling is None else Upsampling(channels=out_features, mode=upsampling)
        self.clamp = clamp

    def fold(self, w: torch.Tensor, group: int) -> list[tuple]:
        """Per group of videos: (weight [G, out, in], bias [out], the upsampling's weights or None).

        In training mode the magnitude is not known yet; otherwise the weights are complete.
        """
        weight, bias = self.linear.fold(w)
        if not self.training:
            weight = weight * self.magnitude.gain([])
        constants = None if self.upsampling is None else self.upsampling.fold(LRELU_GAIN)
        return [(part, bias, constants) for part in weight.split(group)]

    def forward(
        self, xs: list[torch.Tensor], folded: list, magnitudes: Measured, *, upsample: bool = True
    ) -> list[torch.Tensor]:
        """Rows of each group of videos, [G, N, H, W, C] or [G, P, C] (the latter only with upsample=False)."""
        gain = magnitudes.take(lambda: self.magnitude.gain(xs)) if self.training else None
        outputs = []
        for x, (weight, bias, constants) in zip(xs, folded, strict=True):
            weight, bias = (weight if gain is None else weight * gain).to(x.dtype), bias.to(x.dtype)
            rows = x.reshape(len(x), -1, x.shape[-1])
            if upsample and self.upsampling is not None:
                y = self.before_upsampling(rows, weight).reshape(-1, *x.shape[2:4], weight.shape[1])
                y = self.upsampling(y, constants, bias, LRELU_GAIN).unflatten(0, x.shape[:2])
                outputs.append(lrelu_(y, self.clamp))
            else:
                y = point_linear(rows, weight, bias, act="lrelu", clamp=self.clamp)
                outputs.append(y.view(*x.shape[:-1], -1))
        return outputs

    @staticmethod
    def before_upsampling(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The modulated product without the activation's gain, which acts behind the upsampling's bottleneck."""
        return point_linear(rows, weight / LRELU_GAIN)


class ToRGB(nn.Module):
    """Modulated 1x1 layer to colours, not demodulated, clamped."""

    def __init__(self, *, in_features: int, w_dim: int, clamp: float | None):
        super().__init__()
        self.linear = ModulatedLinear(in_features=in_features, out_features=3, w_dim=w_dim, demodulate=False)
        self.clamp = clamp

    def fold(self, w: torch.Tensor, group: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        weight, bias = self.linear.fold(w)
        return [(part, bias) for part in weight.split(group)]

    def forward(self, x: torch.Tensor, folded: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Rows [G, ..., C] to colours in full precision [G, ..., 3]."""
        weight, bias = (p.to(x.dtype) for p in folded)
        y = point_linear(x.reshape(len(x), -1, x.shape[-1]), weight, bias).to(folded[0].dtype)
        y = y.reshape(*x.shape[:-1], 3)
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


class UpsamplerBlock(nn.Module):
    """From resolution/2 to resolution: upsampling layer, plain layer, colours added to the upsampled image."""

    def __init__(
        self,
        *,
        in_features: int,
        out_features: int,
        w_dim: int,
        clamp: float | None,
        beta: float,
        mode: str,
        fp16: bool,
    ):
        super().__init__()
        common = {"w_dim": w_dim, "clamp": clamp}
        self.fp16, self.half_precision = fp16, HalfPrecision()
        layer = {"out_features": out_features, "beta": beta, **common}
        self.conv0 = UpsamplerLayer(in_features=in_features, upsampling=mode, **layer)
        self.conv1 = UpsamplerLayer(in_features=out_features, upsampling=None, **layer)
        self.rgb = ToRGB(in_features=out_features, **common)

    def forward(
        self, xs: list[torch.Tensor], folded: list, *, upsample: bool, recompute: bool = False
    ) -> tuple[list, list]:
        """Features of all groups to (features, colours)."""
        magnitudes = Measured()
        if recompute and torch.is_grad_enabled():
            return recomputed(self._run, xs, folded, magnitudes, upsample)
        return self._run(xs, folded, magnitudes, upsample)

    def _run(self, xs: list[torch.Tensor], folded: list, magnitudes: Measured, upsample: bool) -> tuple[list, list]:
        magnitudes.begin()
        half = self.half_precision.type(xs[0].device) if self.fp16 else None
        dtype = half or folded[0][0][0].dtype
        xs = [x.to(dtype) for x in xs]
        xs = self.conv0(xs, folded[0], magnitudes, upsample=upsample)
        xs = self.conv1(xs, folded[1], magnitudes, upsample=upsample)
        return xs, [self.rgb(x, f) for x, f in zip(xs, folded[2], strict=True)]
