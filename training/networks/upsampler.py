"""The 2D upsampler: modulated 1x1 layers and ×2 upsampling from volume rendered features to an image (StyleNeRF).

Every convolution is 1x1, which keeps views consistent. Features and colours are channels-last maps [B, T, H, W, C]: T
frames of each of B videos. Resampling and 1x1 layers commute, so the linear parts of the learned upsampling run at the
lower resolution or on fewer channels.
"""

import functools
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

import torch
from torch import nn

from torch_utils.ops.bias_act import add_scaled
from torch_utils.ops.point_linear import lrelu_, point_linear
from torch_utils.ops.upfirdn2d import BLUR, upfirdn2d
from training.networks.activation_checkpoint import Replayed, checkpointed
from training.networks.layers import LRELU_GAIN, ModulatedLinear, PointLinear
from training.networks.mixed_precision import HalfPrecision

__all__ = [
    "CornerUpsampling",
    "MagnitudeEMA",
    "ShuffleUpsampling",
    "UPSAMPLINGS",
    "Upsampler",
    "UpsamplerBlock",
    "UpsamplerLayer",
    "blur",
    "blur_nearest",
    "corner_means",
    "interleave",
    "upsample_image",
]


# ----------------------------------------------------------------------------------------------------------------------
# Fixed ×2 resampling of channels-last maps [N, H, W, C] with `upfirdn2d`, zero-padded. All filters are symmetric.

#: FIR filters, one axis each. The blur is padded by 2 pixels before and 1 after.
_AXES = {
    "blur": BLUR,  # shared with the native operator that renders on a CPU
    # Applied after zeros have been inserted between the pixels:
    "nearest": (1.0, 1.0),
    "blur_nearest": (1 / 8, 4 / 8, 6 / 8, 4 / 8, 1 / 8),  # nearest, then blur: BLUR * [1, 1]
    "upsample": (1 / 4, 3 / 4, 3 / 4, 1 / 4),
}
#: Contribution of a pixel i to the corners 2i - 1 … 2i + 2 of its four neighbours: one half to each that touches it.
_TOUCHING = ((0, 1 / 2, 1 / 2, 0), (1 / 2, 0, 0, 1 / 2), (1 / 2, 0, 0, 1 / 2), (0, 1 / 2, 1 / 2, 0))


@functools.lru_cache(maxsize=64)
def _filter(kind: str, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    taps = torch.tensor(_TOUCHING if kind == "touching" else _AXES[kind], dtype=dtype, device=device)
    return taps if taps.ndim == 2 else torch.outer(taps, taps)


def _resample(x: torch.Tensor, kind: str, *, up: int, before: int, after: int) -> torch.Tensor:
    # Created outside inference mode, so that a filter cached while rendering can serve training later. (Modules hold
    # numbers: a tensor would be one of the mode and the default device under which the module is imported.)
    with torch.inference_mode(False):
        f = _filter(kind, x.dtype, x.device)
    return upfirdn2d(x.permute(0, 3, 1, 2), f, up=up, padding=[before, after, before, after]).permute(0, 2, 3, 1)


def interleave(corners: torch.Tensor) -> torch.Tensor:
    """Phases [N, H, W, 2, 2, C] (row parity, column parity) to [N, 2H, 2W, C]."""
    n, height, width, _, _, channels = corners.shape
    return corners.transpose(2, 3).reshape(n, 2 * height, 2 * width, channels)


def corner_means(own: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
    """Per output corner, `own` plus the mean of the two `neighbours` next to that corner.

    Both [N, H, W, C]; the corner (top, left) of a pixel gets (left + up) / 2, and so on. To [N, 2H, 2W, C].
    """
    touching = _resample(neighbours, "touching", up=2, before=2, after=1)
    return touching + _resample(own, "nearest", up=2, before=1, after=0)


def blur_nearest(x: torch.Tensor) -> torch.Tensor:
    """blur(nearest ×2 (x)): [N, H, W, C] to [N, 2H, 2W, C]."""
    return _resample(x, "blur_nearest", up=2, before=3, after=1)


def blur(x: torch.Tensor) -> torch.Tensor:
    """The [1, 3, 3, 1] blur at constant size: [N, H, W, C] to the same."""
    return _resample(x, "blur", up=1, before=2, after=1)


def upsample_image(x: torch.Tensor) -> torch.Tensor:
    """FIR ×2: zeros inserted, [1, 3, 3, 1] filter at gain 2 per axis. [N, H, W, C] to [N, 2H, 2W, C]."""
    return _resample(x, "upsample", up=2, before=2, after=1)


# ----------------------------------------------------------------------------------------------------------------------
# Layers.


class MagnitudeEMA(nn.Module):
    """Magnitude EMA (StyleGAN3, section 3.1): a running mean of x²; a layer's inputs are divided by its root."""

    mean_square: torch.Tensor

    def __init__(self, *, beta: float):
        super().__init__()
        self.beta = beta
        self.register_buffer("mean_square", torch.ones([]))

    def gain(self) -> torch.Tensor:
        """1 / √mean."""
        # A copy: the buffer may change again before this step's backward pass.
        return self.mean_square.clone().rsqrt()

    def update(self, x: torch.Tensor) -> torch.Tensor:
        """Move the mean towards that of x² and return the new 1 / √mean."""
        with torch.no_grad():
            current = _sum_of_squares(x, self.mean_square.dtype) / x.numel()
            self.mean_square.copy_(current.lerp(self.mean_square, self.beta))
        return self.gain()


def _sum_of_squares(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Sum of x² in a type of at least float32. Reads the input once and writes nothing, unlike a mean of squares."""
    if x.device.type == "cpu":
        flat = x.reshape(-1).to(dtype)
        return torch.dot(flat, flat)
    # On a GPU, unlike a norm, a dot product is limited to 2³¹ - 1 elements and needs a copy of half-precision inputs.
    return torch.linalg.vector_norm(x, dtype=dtype).square()


class Upsampling(nn.Module):
    """Learned ×2 upsampling U: nearest neighbour plus a correction, then the [1, 3, 3, 1] blur (StyleNeRF, section 3).

    The correction is an MLP A of two 1x1 layers with a C/4 bottleneck, `reduce` and `expand`. The modes in
    `UPSAMPLINGS` differ in where it acts.
    """

    def __init__(self, *, channels: int, inputs: int, outputs: int):
        super().__init__()
        self.channels = channels
        self.reduce = PointLinear(in_features=inputs, out_features=channels // 4, act="lrelu")
        self.expand = PointLinear(in_features=channels // 4, out_features=outputs)

    def scaled(self, gain: float) -> tuple[torch.Tensor, ...]:
        """Weights and biases as `forward` uses them, for a result scaled by `gain`."""
        expand, expand_bias = self.expand.scaled()
        return *self.reduce.scaled(), expand * gain, expand_bias * gain

    def forward(
        self, x: torch.Tensor, scaled: tuple[torch.Tensor, ...], bias: torch.Tensor, gain: float
    ) -> torch.Tensor:
        """gain · U(x) + bias: [N, H, W, C] to [N, 2H, 2W, C]."""
        raise NotImplementedError


class CornerUpsampling(Upsampling):
    """U(x) = blur(nearest(x) + A([nearest(x) | mean of the two neighbours next to each corner]))."""

    def __init__(self, *, channels: int):
        super().__init__(channels=channels, inputs=2 * channels, outputs=channels)

    def scaled(self, gain: float) -> tuple[torch.Tensor, ...]:
        # A's first layer acts on a concatenation: both halves of its weight are applied at the low resolution, in one
        # product.
        reduce, reduce_bias, *expand = super().scaled(gain)
        reduce = torch.cat([reduce[:, : self.channels], reduce[:, self.channels :]])
        return reduce, torch.cat([reduce_bias, torch.zeros_like(reduce_bias)]), *expand

    def forward(
        self, x: torch.Tensor, scaled: tuple[torch.Tensor, ...], bias: torch.Tensor, gain: float
    ) -> torch.Tensor:
        reduce, reduce_bias, expand, expand_bias = (p.to(x.dtype) for p in scaled)
        n, height, width, channels = x.shape
        # First layer of A, at the low resolution; its two halves are added up at the corners before the activation.
        hidden = point_linear(x.reshape(n, -1, channels), reduce, reduce_bias)
        own, neighbours = hidden.unflatten(1, (height, width)).chunk(2, dim=-1)
        # A's second layer commutes with the blur, which then runs on a quarter of the channels. Its bias must be
        # blurred as well (the image is zero-padded), so it is added to x.
        hidden = blur(lrelu_(corner_means(own, neighbours)))
        y = point_linear(hidden.reshape(n, -1, hidden.shape[-1]), expand, bias).unflatten(1, (2 * height, -1))
        return _sum(blur_nearest(add_scaled(expand_bias, x, gain)), y)


class ShuffleUpsampling(Upsampling):
    """U(x) = blur(nearest(x) + pixel_shuffle(A(x)))."""

    def __init__(self, *, channels: int):
        super().__init__(channels=channels, inputs=channels, outputs=4 * channels)

    def scaled(self, gain: float) -> tuple[torch.Tensor, ...]:
        # Shuffle the weight instead of the pixels: rows ordered (dy, dx, channel), not (channel, dy, dx).
        *reduce, expand, expand_bias = super().scaled(gain)
        expand = expand.unflatten(0, (self.channels, 4)).transpose(0, 1).flatten(0, 1)
        return *reduce, expand, expand_bias.unflatten(0, (self.channels, 4)).t().flatten()

    def forward(
        self, x: torch.Tensor, scaled: tuple[torch.Tensor, ...], bias: torch.Tensor, gain: float
    ) -> torch.Tensor:
        reduce, reduce_bias, expand, expand_bias = (p.to(x.dtype) for p in scaled)
        n, height, width, channels = x.shape
        hidden = point_linear(x.reshape(n, -1, channels), reduce, reduce_bias, act="lrelu")
        # Second layer of A: four corners per pixel, which pixel_shuffle interleaves.
        corners = point_linear(hidden, expand, expand_bias).view(n, height, width, 2, 2, channels)
        return _sum(blur(interleave(corners + gain * x[:, :, :, None, None, :])), bias)


#: Values of the option model.generator.upsampler.mode. A class is called with `channels`.
UPSAMPLINGS: dict[str, Callable[..., Upsampling]] = {"nn_cat": CornerUpsampling, "pixelshuffle": ShuffleUpsampling}


def _sum(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x + y, in place on the resampled x unless gradients are recorded (autograd forbids that on a node's view)."""
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
        self.upsampling = None if upsampling is None else UPSAMPLINGS[upsampling](channels=out_features)
        self.clamp = clamp

    def modulate(self, w: torch.Tensor) -> tuple:
        """Weight [B, out, in] for styles w [B, w_dim], bias [out], and the upsampling's weights (None without one).

        In training mode the gain of the magnitude EMA is applied in `forward`, because it depends on the inputs.
        """
        weight, bias = self.linear.modulate(w)
        if not self.training:
            weight = weight * self.magnitude.gain()
        return weight, bias, None if self.upsampling is None else self.upsampling.scaled(LRELU_GAIN)

    def forward(self, x: torch.Tensor, weights: tuple, replayed: Replayed, *, upsample: bool = True) -> torch.Tensor:
        """Maps [B, T, H, W, C], or points [B, P, C] (with upsample=False)."""
        weight, bias, scaled = weights
        if self.training:
            weight = weight * replayed.value(lambda: self.magnitude.update(x))
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)
        points = x.reshape(len(x), -1, x.shape[-1])
        if not upsample or self.upsampling is None:
            y = point_linear(points, weight, bias, act="lrelu", clamp=self.clamp)
            return y.view(*x.shape[:-1], -1)
        # Upsampling comes between the modulated layer and its bias and activation.
        y = self.before_upsampling(points, weight).reshape(-1, *x.shape[2:4], weight.shape[1])
        return lrelu_(self.upsampling(y, scaled, bias, LRELU_GAIN).unflatten(0, x.shape[:2]), self.clamp)

    @staticmethod
    def before_upsampling(points: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The modulated layer without the activation's gain, which is applied after the upsampling's bottleneck."""
        return point_linear(points, weight / LRELU_GAIN)


class ToRGB(nn.Module):
    """Modulated 1x1 layer to colours, not demodulated, clamped."""

    def __init__(self, *, in_features: int, w_dim: int, clamp: float | None):
        super().__init__()
        self.linear = ModulatedLinear(in_features=in_features, out_features=3, w_dim=w_dim, demodulate=False)
        self.clamp = clamp

    def modulate(self, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight [B, 3, in] for styles w [B, w_dim], and bias [3]."""
        return self.linear.modulate(w)

    def forward(self, x: torch.Tensor, weights: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """[B, ..., C] to colours in full precision [B, ..., 3]."""
        weight, bias = (p.to(x.dtype) for p in weights)
        y = point_linear(x.reshape(len(x), -1, x.shape[-1]), weight, bias).to(weights[0].dtype)
        y = y.reshape(*x.shape[:-1], 3)
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


class UpsamplerBlock(nn.Module):
    """Upsampler block from resolution/2 to resolution: upsampling layer, plain layer, ToRGB (a skip architecture)."""

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
        self.fp16, self.half_precision = fp16, HalfPrecision(clamped=clamp is not None)
        layer = functools.partial(UpsamplerLayer, out_features=out_features, w_dim=w_dim, clamp=clamp, beta=beta)
        self.conv0 = layer(in_features=in_features, upsampling=mode)
        self.conv1 = layer(in_features=out_features, upsampling=None)
        self.rgb = ToRGB(in_features=out_features, w_dim=w_dim, clamp=clamp)

    def modulate(self, ws: torch.Tensor) -> tuple:
        """Weights of the three layers for styles ws [B, 3, w_dim]."""
        return self.conv0.modulate(ws[:, 0]), self.conv1.modulate(ws[:, 1]), self.rgb.modulate(ws[:, 2])

    def forward(
        self, x: torch.Tensor, weights: tuple, *, upsample: bool, activation_checkpointing: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and colours of maps [B, T, H, W, C], or of points [B, P, C] (with upsample=False)."""
        replayed = Replayed()
        if activation_checkpointing and torch.is_grad_enabled():
            return checkpointed(self._run, x, weights, replayed, upsample)
        return self._run(x, weights, replayed, upsample)

    def _run(self, x: torch.Tensor, weights: tuple, replayed: Replayed, upsample: bool):
        replayed.begin()
        full = weights[0][0].dtype
        half = self.half_precision.type(x.device, full) if self.fp16 else None
        x = x.to(half or full)
        x = self.conv0(x, weights[0], replayed, upsample=upsample)
        x = self.conv1(x, weights[1], replayed, upsample=upsample)
        return x, self.rgb(x, weights[2])


BlockWeights = TypeVar("BlockWeights")


class Upsampler(nn.Module):
    """The upsampler: blocks from the volume rendered resolution (exclusive) to the image resolution.

    Args:
        in_resolution, resolution: Powers of two; one block per doubling.
        in_features: Channels F of the volume rendered features.
        mode: Key of `UPSAMPLINGS`.
        channel_base, channel_max: A block at resolution r has min(32768 · channel_base / r, channel_max) channels.
        conv_clamp: Clamp of layer outputs; None for none.
        magnitude_beta: Decay of the magnitude EMA.
        fp16_min_resolution: Blocks from here up run in half precision (see `mixed_precision`); None for none.
    """

    def __init__(
        self,
        *,
        in_resolution: int,
        resolution: int,
        in_features: int,
        w_dim: int,
        mode: str = "nn_cat",
        channel_base: float = 1.0,
        channel_max: int = 512,
        conv_clamp: float | None = 256.0,
        magnitude_beta: float = 0.999,
        fp16_min_resolution: int | None = 128,
    ):
        super().__init__()
        if mode not in tuple(UPSAMPLINGS):
            raise ValueError(f"upsampler.mode must be {' or '.join(UPSAMPLINGS)}, got {mode!r}.")
        if resolution <= in_resolution or resolution & (resolution - 1) or in_resolution & (in_resolution - 1):
            raise ValueError(
                f"resolution must be a power of two above the volume rendered {in_resolution} (rendering.resolution, a "
                f"power of two as well), got {resolution}."
            )
        blocks = nn.ModuleDict()
        r, features = in_resolution * 2, in_features
        while r <= resolution:
            channels = min(int(32768 * channel_base) // r, channel_max)
            if channels < 4:
                raise ValueError(
                    f"upsampler.channel_base={channel_base:g} (spec.fmaps) with channel_max={channel_max} leaves "
                    f"{channels} channels at {r}×{r}, where at least 4 are needed."
                )
            blocks[str(r)] = UpsamplerBlock(
                in_features=features,
                out_features=channels,
                w_dim=w_dim,
                clamp=conv_clamp,
                beta=magnitude_beta,
                mode=mode,
                fp16=fp16_min_resolution is not None and r >= fp16_min_resolution,
            )
            r, features = r * 2, channels
        self.blocks = cast("Mapping[str, UpsamplerBlock]", blocks)
        self.num_ws = 2 * len(self.blocks) + 1

    def modulate(self, ws: torch.Tensor) -> list[tuple]:
        """Weights of every block for styles ws [B, num_ws, w_dim].

        A block's colours share the style of the next block's first layer.
        """
        return [block.modulate(ws[:, 2 * i : 2 * i + 3]) for i, block in enumerate(self.blocks.values())]

    def forward(
        self,
        x: torch.Tensor,
        image: torch.Tensor,
        weights: list[tuple],
        *,
        resolution: int | None = None,
        activation_checkpointing: bool = False,
    ) -> torch.Tensor:
        """Features [B, T, h, w, F] and colours [B, T, h, w, 3] to an image [B, T, H, W, 3].

        With a `resolution` the blocks above it are skipped: as colours add up from block to block, their sum so far is
        a coarser image. The resolution of the input skips all blocks. With `activation_checkpointing` the backward pass
        of a block runs it again; see `training.networks.activation_checkpoint`.
        """
        # Skip architecture (StyleGAN2, section 4.1): every block adds its colours to the upsampled image so far.
        for block, own in self.blocks_up_to(resolution, weights):
            x, colours = block(x, own, upsample=True, activation_checkpointing=activation_checkpointing)
            image = upsample_image(image.flatten(0, 1)).unflatten(0, image.shape[:2]) + colours
        return image

    def blocks_up_to(
        self, resolution: int | None, weights: list[BlockWeights]
    ) -> list[tuple[UpsamplerBlock, BlockWeights]]:
        """The blocks up to a resolution (None for all), each with its entry of `weights`."""
        sizes = [int(size) for size in self.blocks]
        if resolution not in (None, sizes[0] // 2, *sizes):
            raise ValueError(f"the image can be {sizes[0] // 2}, {', '.join(self.blocks)} wide, not {resolution}.")
        count = sum(resolution is None or size <= resolution for size in sizes)
        return list(zip(self.blocks.values(), weights, strict=True))[:count]

    def pointwise(
        self, x: torch.Tensor, colours: torch.Tensor, weights: list[tuple], *, activation_checkpointing: bool = False
    ) -> torch.Tensor:
        """Colours [B, P, 3] of points after the same layers without resampling, from features [B, P, F] and colours.

        For the NeRF-path regularisation (StyleNeRF, section 3).
        """
        for block, own in zip(self.blocks.values(), weights, strict=True):
            x, added = block(x, own, upsample=False, activation_checkpointing=activation_checkpointing)
            colours = colours + added
        return colours
