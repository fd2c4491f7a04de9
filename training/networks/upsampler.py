"""The 2D upsampler: volume rendered features to an image, in modulated 1x1 layers and fixed resampling (StyleNeRF).

Every convolution is 1x1, which is what keeps views consistent. Features and colours are rows [G, N, H, W, C]: G videos
of a group, N frames of each. Frames rendered without gradients pass through a block in strips of rows that stay in the
processor's cache.
"""

import functools

import torch
from torch import nn

from torch_utils.ops.point_linear import lrelu_, point_linear
from torch_utils.ops.upfirdn2d import upfirdn2d
from training.networks.activation_checkpoint import Measured, recomputed
from training.networks.cpu_inference import BlockProgram
from training.networks.layers import LRELU_GAIN, ModulatedLinear, PointLinear
from training.networks.mixed_precision import HalfPrecision

__all__ = [
    "MagnitudeEMA",
    "Upsampler",
    "UpsamplerBlock",
    "UpsamplerLayer",
    "blur_nearest_rows",
    "blur_rows",
    "corner_means",
    "interleave",
    "upsample_rows",
]


# ----------------------------------------------------------------------------------------------------------------------
# Fixed ×2 resampling of feature rows [N, H, W, C], which are channels_last images, by `upfirdn2d`.
#
# The blur is the FIR filter [1, 3, 3, 1] / 8 per axis with 2 pixels of padding before and 1 after; zeros lie outside.
# All filters are symmetric: whether they are mirrored makes no difference.


_AXES = {
    "blur": torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8,
    # After zeros have been inserted:
    "nearest": torch.ones(2),
    "blur_nearest": torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 8,  # the blur of [1, 1]
    "upsample": torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4,
}
#: What a pixel adds to the corners of its neighbours, outputs 2i - 1 … 2i + 2: half of it to those that touch it.
_TOUCHING = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0]]) / 2


@functools.lru_cache(maxsize=64)
def _filter(kind: str, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    kernel = _TOUCHING if kind == "touching" else torch.outer(_AXES[kind], _AXES[kind])
    return kernel.to(device=device, dtype=dtype)


def _resampled(x: torch.Tensor, kind: str, *, up: int, before: int, after: int) -> torch.Tensor:
    # Made outside of inference mode, so that a filter first used while rendering can serve training later.
    with torch.inference_mode(False):
        f = _filter(kind, x.dtype, x.device)
    return upfirdn2d(x.permute(0, 3, 1, 2), f, up=up, padding=[before, after, before, after]).permute(0, 2, 3, 1)


def interleave(corners: torch.Tensor) -> torch.Tensor:
    """Phases [N, H, W, 2, 2, C] (row parity, column parity) to rows [N, 2H, 2W, C]."""
    n, height, width, _, _, channels = corners.shape
    return corners.transpose(2, 3).reshape(n, 2 * height, 2 * width, channels)


def corner_means(own: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
    """Per output corner, `own` plus the mean of the two `neighbours` next to that corner.

    Both [N, H, W, C]; the corner (top, left) of a pixel gets (left + up) / 2, and so on. To [N, 2H, 2W, C].
    """
    touching = _resampled(neighbours, "touching", up=2, before=2, after=1)
    return touching + _resampled(own, "nearest", up=2, before=1, after=0)


def blur_nearest_rows(x: torch.Tensor) -> torch.Tensor:
    """blur(nearest ×2 (x)): [N, H, W, C] to [N, 2H, 2W, C]."""
    return _resampled(x, "blur_nearest", up=2, before=3, after=1)


def blur_rows(x: torch.Tensor) -> torch.Tensor:
    """The [1, 3, 3, 1] blur at constant size: [N, H, W, C] to the same."""
    return _resampled(x, "blur", up=1, before=2, after=1)


def upsample_rows(x: torch.Tensor) -> torch.Tensor:
    """FIR ×2: zeros inserted, [1, 3, 3, 1] filter at gain 2 per axis. [N, H, W, C] to [N, 2H, 2W, C]."""
    return _resampled(x, "upsample", up=2, before=2, after=1)


# ----------------------------------------------------------------------------------------------------------------------
# Layers of the 2D upsampler: the learned ×2 upsampling, modulated 1x1 layers, colours, and a block of them.
#
# Features and colours are rows [G, N, H, W, C]: G videos of a group, N frames of each. Resampling and 1x1 layers
# commute, so the linear parts of the learned upsampling run at the lower resolution or on fewer channels.


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


# ----------------------------------------------------------------------------------------------------------------------


class Upsampler(nn.Module):
    """Blocks from the volume rendered resolution (exclusive) to the image resolution.

    Args:
        in_resolution, resolution: Powers of two; one block per doubling.
        in_features: Channels F of the volume rendered features.
        mode: 'nn_cat' or 'pixelshuffle'.
        channel_base, channel_max: A block at resolution r has min(32768 · channel_base / r, channel_max) channels.
        conv_clamp: Clamp of layer outputs; None for none.
        magnitude_beta: Decay of the magnitude EMA.
        fp16_min_resolution: Blocks from here up run in half precision (see `training.networks.mixed_precision`); None
        for none.
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
        if resolution <= in_resolution or resolution & (resolution - 1) or in_resolution & (in_resolution - 1):
            raise ValueError(
                f"resolution must be a power of two above the volume rendered {in_resolution}, got {resolution}."
            )
        self.blocks = nn.ModuleDict()
        r, features = in_resolution * 2, in_features
        while r <= resolution:
            channels = min(int(32768 * channel_base) // r, channel_max)
            self.blocks[str(r)] = UpsamplerBlock(
                in_features=features,
                out_features=channels,
                w_dim=w_dim,
                clamp=conv_clamp,
                beta=magnitude_beta,
                mode=mode,
                fp16=fp16_min_resolution is not None and r >= fp16_min_resolution,
            )
            r, features = r * 2, channels
        self.num_ws = 2 * len(self.blocks) + 1

    def fold(self, ws: torch.Tensor, group: int) -> list:
        """Per-video weights for styles ws [B, num_ws, w_dim], split into groups of videos: [block][layer][group].

        A block's colours share the style of the next block's first layer.
        """
        folded = []
        for i, block in enumerate(self.blocks.values()):
            layers = (block.conv0, block.conv1, block.rgb)
            folded.append([layer.fold(ws[:, 2 * i + k], group) for k, layer in enumerate(layers)])
        return folded

    def prepare(self, folded: list, precision: str = "float32") -> list[list[BlockProgram]]:
        """Of what `fold` gave in evaluation mode without gradients, programs for a CPU: [group][block].

        Every group must be one video. For `precision` see `DenseProgram`.
        """
        groups = zip(*(zip(*layers, strict=True) for layers in folded), strict=True)
        return [
            [BlockProgram(block, own, precision) for block, own in zip(self.blocks.values(), group, strict=True)]
            for group in groups
        ]

    def render(
        self,
        xs: list[torch.Tensor],
        rgbs: list[torch.Tensor],
        programs: list[list[BlockProgram]],
        *,
        resolution: int | None = None,
    ) -> list[torch.Tensor]:
        """`forward` with what `prepare` gave."""
        count = self._num_blocks(resolution)
        return [self._render(x, rgb, blocks[:count]) for x, rgb, blocks in zip(xs, rgbs, programs, strict=True)]

    def forward(
        self,
        xs: list[torch.Tensor],
        rgbs: list[torch.Tensor],
        folded: list,
        *,
        resolution: int | None = None,
        recompute: bool = False,
    ) -> list[torch.Tensor]:
        """Features [G, N, h, w, F] and colours [G, N, h, w, 3] of each group to colours [G, N, H, W, 3].

        With a `resolution` the blocks above it are left out: colours add up from block to block, so that those so far
        are a coarser picture. The resolution of the input leaves out all. With `recompute` a block's backward pass runs
        it again; see `training.networks.activation_checkpoint`.
        """
        count = self._num_blocks(resolution)
        for block, weights in list(zip(self.blocks.values(), folded, strict=True))[:count]:
            xs, colours = block(xs, weights, upsample=True, recompute=recompute)
            rgbs = [
                upsample_rows(rgb.flatten(0, 1)).unflatten(0, rgb.shape[:2]) + colour
                for rgb, colour in zip(rgbs, colours, strict=True)
            ]
        return rgbs

    def _num_blocks(self, resolution: int | None) -> int:
        """How many blocks lead to a resolution; None for all."""
        sizes = [int(size) for size in self.blocks]
        if resolution not in (None, sizes[0] // 2, *sizes):
            raise ValueError(f"the image can be {sizes[0] // 2}, {', '.join(self.blocks)} wide, not {resolution}.")
        return sum(resolution is None or size <= resolution for size in sizes)

    @staticmethod
    def _render(x: torch.Tensor, rgb: torch.Tensor, blocks: list[BlockProgram]) -> torch.Tensor:
        """One group of one video, frame by frame."""
        assert len(x) == 1
        frames = []
        for features, image in zip(x[0], rgb[0], strict=True):
            for i, block in enumerate(blocks):
                features, colours = block(features, last=i == len(blocks) - 1)
                image = upsample_rows(image[None])[0].add_(colours)
            frames.append(image)
        return torch.stack(frames)[None]

    def pointwise(
        self, xs: list[torch.Tensor], rgbs: list[torch.Tensor], folded: list, *, recompute: bool = False
    ) -> list[torch.Tensor]:
        """The same layers without any resampling, on points [G, P, F] and colours [G, P, 3]."""
        for block, weights in zip(self.blocks.values(), folded, strict=True):
            xs, colours = block(xs, weights, upsample=False, recompute=recompute)
            rgbs = [rgb + colour for rgb, colour in zip(rgbs, colours, strict=True)]
        return rgbs
