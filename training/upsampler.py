"""The 2D upsampler: volume rendered features to an image, in modulated 1x1 layers and fixed resampling (StyleNeRF).

Every convolution is 1x1, which is what keeps views consistent. Features are rows [B, N, H, W, C] (N frames of a
video), rgb images [B, N, 3, H, W]. Resampling and 1x1 layers commute, so the linear parts of the learned upsampling
run at the lower resolution or on fewer channels.
"""

import torch
from torch import nn

from torch_utils.ops.point_linear import lrelu_, point_linear
from torch_utils.ops.upfirdn2d import setup_filter, upsample2d
from training.layers import LRELU_GAIN, ModulatedLinear, PointLinear
from training.resampling import blur_nearest_rows, blur_rows, corner_means, interleave

__all__ = ["Upsampler"]


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
                # Row norms read the input once and write next to nothing, unlike a mean of squares.
                total = sum(
                    torch.linalg.vector_norm(x, dim=-1, dtype=self.mean_square.dtype).square().sum() for x in xs
                )
                current = total / sum(x.numel() for x in xs)
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
        self.mode = mode
        inputs, outputs = (2 * channels, channels) if mode == "nn_cat" else (channels, 4 * channels)
        self.reduce = PointLinear(in_features=inputs, out_features=channels // 4, act="lrelu")
        self.expand = PointLinear(in_features=channels // 4, out_features=outputs)

    def forward(self, x: torch.Tensor, bias: torch.Tensor, gain: float) -> torch.Tensor:
        """gain · U(x) + bias on rows [N, H, W, C] to [N, 2H, 2W, C]."""
        n, height, width, channels = x.shape
        reduce, reduce_bias = (p.to(x.dtype) for p in self.reduce.scaled())
        expand, expand_bias = self.expand.scaled()
        expand, expand_bias, bias = (expand * gain).to(x.dtype), (expand_bias * gain).to(x.dtype), bias.to(x.dtype)
        if self.mode == "nn_cat":
            # Both halves of the first layer at the low resolution; the second commutes with the blur. Its bias must
            # be blurred (zeros lie outside the image), and so rides on x.
            both = torch.cat([reduce[:, :channels], reduce[:, channels:]])
            both_bias = torch.cat([reduce_bias, torch.zeros_like(reduce_bias)])
            own, neighbours = (
                point_linear(x.reshape(n, -1, channels), both, both_bias).unflatten(1, (height, width)).chunk(2, dim=-1)
            )
            hidden = blur_rows(lrelu_(corner_means(own, neighbours)))
            y = point_linear(hidden.reshape(n, -1, hidden.shape[-1]), expand, bias).unflatten(1, (2 * height, -1))
            return y.add_(blur_nearest_rows(torch.add(expand_bias, x, alpha=gain)))
        hidden = lrelu_(point_linear(x.reshape(n, -1, channels), reduce, reduce_bias))
        # Shuffle the weight instead of the pixels: rows ordered (dy, dx, channel) rather than (channel, dy, dx).
        expand = expand.unflatten(0, (channels, 4)).transpose(0, 1).flatten(0, 1)
        expand_bias = expand_bias.unflatten(0, (channels, 4)).t().flatten()
        corners = point_linear(hidden, expand, expand_bias).view(n, height, width, 2, 2, channels)
        return blur_rows(interleave(corners + gain * x[:, :, :, None, None, :])) + bias


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

    def forward(self, xs: list[torch.Tensor], folded: list, *, upsample: bool = True) -> list[torch.Tensor]:
        """Rows of each group of videos, [G, N, H, W, C] or [G, P, C] (the latter only with upsample=False)."""
        gain = self.magnitude.gain(xs)
        outputs = []
        for x, (weight, bias) in zip(xs, folded, strict=True):
            weight, bias = (weight * gain).to(x.dtype), bias.to(x.dtype)
            rows = x.reshape(len(x), -1, x.shape[-1])
            if upsample and self.upsampling is not None:
                # `fold` has put the activation's gain into weight and bias; the upsampling of a scaled input needs
                # its own constants scaled alike, except inside the bottleneck, so the gain moves behind it.
                y = point_linear(rows, weight / LRELU_GAIN).reshape(-1, *x.shape[2:4], weight.shape[1])
                y = self.upsampling(y, bias, LRELU_GAIN).unflatten(0, x.shape[:2])
            else:
                y = point_linear(rows, weight, bias).reshape(*x.shape[:-1], -1)
            outputs.append(lrelu_(y, self.clamp))
        return outputs


class ToRGB(nn.Module):
    """Modulated 1x1 layer to colours, not demodulated, clamped."""

    def __init__(self, *, in_features: int, w_dim: int, clamp: float | None):
        super().__init__()
        self.linear = ModulatedLinear(in_features=in_features, out_features=3, w_dim=w_dim, demodulate=False)
        self.clamp = clamp

    def forward(self, x: torch.Tensor, folded: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Rows [G, ..., C] to colours in full precision [G, ..., 3]."""
        weight, bias = (p.to(x.dtype) for p in folded)
        y = point_linear(x.reshape(len(x), -1, x.shape[-1]), weight, bias).to(folded[0].dtype).reshape(*x.shape[:-1], 3)
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
        self.fp16 = fp16
        self.conv0 = UpsamplerLayer(
            in_features=in_features, out_features=out_features, beta=beta, upsampling=mode, **common
        )
        self.conv1 = UpsamplerLayer(
            in_features=out_features, out_features=out_features, beta=beta, upsampling=None, **common
        )
        self.rgb = ToRGB(in_features=out_features, **common)

    def forward(self, xs: list[torch.Tensor], folded: list, *, upsample: bool) -> tuple[list, list]:
        """Features of all groups to (features, colours)."""
        dtype = torch.float16 if self.fp16 and xs[0].device.type == "cuda" else folded[0][0][0].dtype
        xs = [x.to(dtype) for x in xs]
        xs = self.conv0(xs, folded[0], upsample=upsample)
        xs = self.conv1(xs, folded[1], upsample=upsample)
        return xs, [self.rgb(x, f) for x, f in zip(xs, folded[2], strict=True)]


class Upsampler(nn.Module):
    """Blocks from the volume rendered resolution (exclusive) to the image resolution.

    Args:
        in_resolution, resolution: Powers of two; one block per doubling.
        in_features: Channels F of the volume rendered features.
        mode: 'nn_cat' or 'pixelshuffle'.
        channel_base, channel_max: A block at resolution r has min(32768 · channel_base / r, channel_max) channels.
        conv_clamp: Clamp of layer outputs; None for none.
        magnitude_beta: Decay of the magnitude EMA.
        fp16_min_resolution: Blocks from here up run in half precision on CUDA devices; None for none.
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
        self.register_buffer("filter", setup_filter([1, 3, 3, 1]), persistent=False)
        self.blocks = nn.ModuleDict()
        r, features = in_resolution * 2, in_features
        while r <= resolution:
            channels = min(int(32768 * channel_base) // r, channel_max)
            fp16 = fp16_min_resolution is not None and r >= fp16_min_resolution
            self.blocks[str(r)] = UpsamplerBlock(
                in_features=features,
                out_features=channels,
                w_dim=w_dim,
                clamp=conv_clamp,
                beta=magnitude_beta,
                mode=mode,
                fp16=fp16,
            )
            r, features = r * 2, channels
        self.num_ws = 2 * len(self.blocks) + 1

    def fold(self, ws: torch.Tensor, group: int) -> list:
        """Per-video weights for styles ws [B, num_ws, w_dim], split into groups of videos: [block][layer][group].

        A block's colours share the style of the next block's first layer.
        """

        def split(layer: ModulatedLinear, w: torch.Tensor) -> list:
            weight, bias = layer.fold(w)
            return [(part, bias) for part in weight.split(group)]

        folded = []
        for i, block in enumerate(self.blocks.values()):
            layers = (block.conv0.linear, block.conv1.linear, block.rgb.linear)
            folded.append([split(layer, ws[:, 2 * i + k]) for k, layer in enumerate(layers)])
        return folded

    def forward(self, xs: list[torch.Tensor], images: list[torch.Tensor], folded: list) -> list[torch.Tensor]:
        """Features [G, N, h, w, F] and rgb [G, N, 3, h, w] of each group to images [G, N, 3, H, W]."""
        for block, weights in zip(self.blocks.values(), folded, strict=True):
            xs, colours = block(xs, weights, upsample=True)
            images = [
                upsample2d(image.flatten(0, 1), self.filter).unflatten(0, image.shape[:2]) + colour.movedim(-1, 2)
                for image, colour in zip(images, colours, strict=True)
            ]
        return images

    def pointwise(self, xs: list[torch.Tensor], rgbs: list[torch.Tensor], folded: list) -> list[torch.Tensor]:
        """The same layers without any resampling, on points [G, P, F] and colours [G, P, 3]."""
        for block, weights in zip(self.blocks.values(), folded, strict=True):
            xs, colours = block(xs, weights, upsample=False)
            rgbs = [rgb + colour for rgb, colour in zip(rgbs, colours, strict=True)]
        return rgbs
