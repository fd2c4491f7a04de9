"""Time-aware discriminators (3D-Aware Video Generation, section 3.2): one for pairs of frames, one for single frames.

Two StyleGAN2 discriminators with the "skip" architecture (StyleGAN2, section 4.1). The input of the video discriminator
is the earlier frame, the later frame and a constant plane of Δt (DIGAN, section 3.3); that of the image discriminator
is one frame.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from torch_utils.argument_checks import check_floats, check_range
from torch_utils.custom_ops import transformed
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.conv2d_resample import conv2d_resample
from torch_utils.ops.upfirdn2d import downsample2d, setup_filter
from training.networks.layers import FullyConnected, normal_weight
from training.networks.mapping import MappingNetwork
from training.networks.mixed_precision import HalfPrecision

__all__ = [
    "Discriminator",
    "DiscriminatorEpilogue",
    "TimeAwareDiscriminators",
    "check_groups",
    "check_pairs",
    "minibatch_std",
    "time_plane",
]

LARGEST_PIXEL = 100.0  # images of untrained networks go far beyond [-1, 1]; larger values are pixels of 0 to 255


class ConvLayer(nn.Module):
    """k×k convolution with equalised learning rate, w / √(in k²), optional filtered ÷2, leaky ReLU and clamp."""

    filter: torch.Tensor

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        down: int = 1,
        clamp: float | None = None,
    ):
        super().__init__()
        self.down, self.clamp, self.padding = down, clamp, kernel_size // 2
        self.weight = normal_weight(out_channels, in_channels, kernel_size, kernel_size)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.register_buffer("filter", setup_filter([1, 3, 3, 1]), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = (self.weight * self.weight_gain).to(x.dtype)
        x = conv2d_resample(x, weight, f=self.filter, down=self.down, padding=self.padding)
        return bias_act(x, self.bias.to(x.dtype), act="lrelu", clamp=self.clamp)


def minibatch_std(x: torch.Tensor, *, group_size: int, num_features: int = 1) -> torch.Tensor:
    """Minibatch standard deviation (Progressive GAN, section 3) of groups of samples, as `num_features` extra channels.

    Sample i belongs to group i mod (N / G) with G = min(group_size, N).

    Args:
        x: [N, C, H, W], C a multiple of num_features.

    Raises:
        ValueError: N is not a multiple of G.
    """
    n, channels, height, width = x.shape
    group = min(group_size, n)
    if n % group:
        raise ValueError(f"minibatch standard deviation: a batch of {n} is not a multiple of the group size {group}.")
    y = x.reshape(group, -1, num_features, channels // num_features, height, width)
    # Standard deviation over the group. Not torch.var, whose second derivative is sensitive to rounding where samples
    # are nearly equal.
    y = y.float() if x.dtype == torch.float16 else y
    y = y - y.mean(dim=0)
    y = (y.square().mean(dim=0) + 1e-8).sqrt()
    # Mean over channels and pixels: one number per group and feature, [N / G, num_features].
    y = y.mean(dim=[2, 3, 4]).to(x.dtype)
    # Back to every sample and pixel.
    y = y[:, :, None, None].repeat(group, 1, height, width)
    return torch.cat([x, y], dim=1)


class DiscriminatorBlock(nn.Module):
    """Discriminator block from one resolution to half of it: colours in, two convolutions, the second strided."""

    filter: torch.Tensor

    def __init__(self, *, img_channels: int, channels: int, out_channels: int, clamp: float | None):
        super().__init__()
        self.fromrgb = ConvLayer(in_channels=img_channels, out_channels=channels, kernel_size=1, clamp=clamp)
        self.conv0 = ConvLayer(in_channels=channels, out_channels=channels, kernel_size=3, clamp=clamp)
        self.conv1 = ConvLayer(in_channels=channels, out_channels=out_channels, kernel_size=3, down=2, clamp=clamp)
        self.register_buffer("filter", setup_filter([1, 3, 3, 1]), persistent=False)

    def forward(self, x: torch.Tensor | None, img: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # Skip architecture: the image enters at every resolution, and is downsampled for the next block.
        y = self.fromrgb(img)
        x = y if x is None else x + y
        return self.conv1(self.conv0(x)), downsample2d(img, self.filter)


class DiscriminatorEpilogue(nn.Module):
    """Discriminator epilogue: 4×4 features and image to [N, out_features]."""

    def __init__(self, *, img_channels: int, channels: int, out_features: int, clamp: float | None, mbstd_group: int):
        super().__init__()
        self.mbstd_group = mbstd_group
        self.fromrgb = ConvLayer(in_channels=img_channels, out_channels=channels, kernel_size=1)
        self.conv = ConvLayer(in_channels=channels + 1, out_channels=channels, kernel_size=3, clamp=clamp)
        self.fc = FullyConnected(in_features=channels * 16, out_features=channels, act="lrelu")
        self.out = FullyConnected(in_features=channels, out_features=out_features)

    def forward(self, x: torch.Tensor, img: torch.Tensor) -> torch.Tensor:
        x = x + self.fromrgb(img)
        x = self.conv(minibatch_std(x, group_size=self.mbstd_group))
        return self.out(self.fc(x.flatten(1)))


class Discriminator(nn.Module):
    """StyleGAN2 discriminator: images [N, img_channels, H, H] (and labels [N, c_dim]) to logits [N, 1].

    Args:
        resolution: H, a power of two of at least 8.
        channel_base, channel_max: min(32768 · channel_base / r, channel_max) channels at resolution r.
        conv_clamp: Clamp of the convolutions' outputs; None for none.
        mbstd_group: Group size of the minibatch standard deviation.
        fp16_resolutions: Number of the highest resolutions that run in half precision; see
            `training.networks.mixed_precision`.
        channels_last: Memory layout of the features.
        mapping_layers: Layers of the label's mapping network (with c_dim > 0: projection discriminator).
    """

    def __init__(
        self,
        *,
        resolution: int,
        img_channels: int,
        c_dim: int = 0,
        channel_base: float = 1.0,
        channel_max: int = 512,
        conv_clamp: float | None = 256.0,
        mbstd_group: int = 8,
        fp16_resolutions: int = 4,
        channels_last: bool = True,
        mapping_layers: int = 8,
    ):
        super().__init__()
        if resolution < 8 or resolution & (resolution - 1):
            raise ValueError(f"resolution must be a power of two of at least 8, got {resolution}.")
        self.resolution, self.img_channels, self.c_dim = resolution, img_channels, c_dim
        self.fp16_resolutions = fp16_resolutions
        self.half_precision = HalfPrecision(clamped=conv_clamp is not None)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        # Channels by resolution.
        channels = {
            2**i: min(int(32768 * channel_base) // 2**i, channel_max) for i in range(2, resolution.bit_length())
        }
        if min(channels.values()) < 1:
            raise ValueError(
                f"channel_base={channel_base:g} (spec.fmaps) with channel_max={channel_max} leaves no channels at "
                f"{resolution}×{resolution}."
            )
        blocks = nn.ModuleDict()
        r = resolution
        while r > 4:
            blocks[str(r)] = DiscriminatorBlock(
                img_channels=img_channels, channels=channels[r], out_channels=channels[r // 2], clamp=conv_clamp
            )
            r //= 2
        self.blocks = cast("Mapping[str, DiscriminatorBlock]", blocks)
        out_features = channels[4] if c_dim > 0 else 1
        self.epilogue = DiscriminatorEpilogue(
            img_channels=img_channels,
            channels=channels[4],
            out_features=out_features,
            clamp=conv_clamp,
            mbstd_group=mbstd_group,
        )
        self.mapping = None
        if c_dim > 0:
            self.mapping = MappingNetwork(
                z_dim=0, c_dim=c_dim, w_dim=out_features, num_ws=None, num_layers=mapping_layers, w_avg_beta=None
            )

    def forward(self, img: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        expected = (self.img_channels, self.resolution, self.resolution)
        assert tuple(img.shape[1:]) == expected, f"expected [N, {expected}], got {tuple(img.shape)}"
        # Blocks, the first ones in half precision. The image is downsampled beside the features and enters every block.
        full = self.epilogue.conv.weight.dtype
        half = self.half_precision.type(img.device, full)
        x: torch.Tensor | None = None
        for i, block in enumerate(self.blocks.values()):
            dtype = (half if i < self.fp16_resolutions else None) or full
            # Not within vmap, where the memory format would apply to the underlying batch, with one more dimension.
            img = img.to(dtype) if transformed() else img.to(dtype=dtype, memory_format=self.memory_format)
            x, img = block(None if x is None else x.to(dtype), img)
        assert x is not None
        x = self.epilogue(x.to(full), img.to(full))
        if self.mapping is None:
            return x
        # Projection discriminator (Miyato and Koyama 2018): inner product with the embedded label.
        projection = self.mapping(None, c)
        return (x * projection).sum(dim=1, keepdim=True) / math.sqrt(x.shape[1])

    def layers(self) -> list[nn.Module]:
        """Convolutional layers from the image on, in the order in which `freeze` freezes them."""
        return [layer for block in self.blocks.values() for layer in (block.fromrgb, block.conv0, block.conv1)]


class TimeAwareDiscriminators(nn.Module):
    """The video discriminator `.video` and the image discriminator `.image` (None with image=False: an ablation).

    Arguments as for `Discriminator`.
    """

    def __init__(
        self,
        *,
        resolution: int,
        c_dim: int = 0,
        channel_base: float = 1.0,
        channel_max: int = 512,
        conv_clamp: float | None = 256.0,
        mbstd_group: int = 8,
        image: bool = True,
        fp16_resolutions: int = 4,
        channels_last: bool = True,
        mapping_layers: int = 8,
    ):
        super().__init__()
        common: dict[str, Any] = {
            "resolution": resolution, "c_dim": c_dim, "channel_base": channel_base, "channel_max": channel_max,
            "conv_clamp": conv_clamp, "mbstd_group": mbstd_group, "fp16_resolutions": fp16_resolutions,
            "channels_last": channels_last, "mapping_layers": mapping_layers,
        }  # fmt: skip
        self.config = common | {"image": image}
        self.resolution, self.c_dim = resolution, c_dim
        self.video = Discriminator(img_channels=7, **common)
        self.image = Discriminator(img_channels=3, **common) if image else None

    def video_logits(self, frames: torch.Tensor, plane: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        """Logits [B, 1] of pairs of frames [B, 2, 3, H, W] with Δt as planes [B, 1, H, W] (`time_plane`).

        The only place where the video discriminator's input is assembled; `img_channels` counts its channels.
        """
        return self.video(torch.cat([frames.flatten(1, 2), plane], dim=1), c)

    def image_logits(self, frames: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        """Image discriminator's logits [B · T, 1] of the frames [B, T, 3, H, W], video by video."""
        assert self.image is not None
        return self.image(frames.flatten(0, 1), None if c is None else c.repeat_interleave(frames.shape[1], dim=0))

    def freeze(self, num_layers: int) -> None:
        """Stop training the first `num_layers` convolutional layers of each discriminator (FreezeD).

        Raises:
            ValueError: There are fewer.
        """
        most = len(self.video.layers())
        if num_layers > most:
            raise ValueError(
                f"freezed={num_layers}: the discriminators have {most} layers at this resolution; use 0 to {most}."
            )
        for network in (self.video, self.image):
            if network is not None:
                for layer in network.layers()[:num_layers]:
                    layer.requires_grad_(False)


def check_groups(discriminators: nn.Module, pairs: int, *, image: bool = True) -> None:
    """Refuse a number of pairs of frames that the groups of the minibatch standard deviation do not divide.

    Args:
        image: The image discriminator, if there is one, is used as well.

    Raises:
        ValueError: Not a multiple of the group size, and not so few that all samples are one group either. The image
            discriminator has two samples per pair.
    """
    groups = []  # samples per pair, and group size
    for name, samples in (("video", 1), ("image", 2))[: 1 + image]:
        network = getattr(discriminators, name, None)  # a user's class may have other parts
        for part in network.modules() if isinstance(network, nn.Module) else ():
            if isinstance(part, DiscriminatorEpilogue):
                groups.append((samples, part.mbstd_group))
    if any(samples * pairs % min(group, samples * pairs) for samples, group in groups):
        most = min(group // samples for samples, group in groups)
        raise ValueError(
            f"the batch must be of a multiple of {max(group for _, group in groups)} pairs of frames, or of at most "
            f"{most} (groups of the minibatch standard deviation, mbstd_group), got {pairs}."
        )


def check_pairs(frames: torch.Tensor, dt: torch.Tensor) -> None:
    """Refuse pixels of 0 to 255, time differences in frames or of swapped frames; values are read on a CPU only.

    Args:
        frames: [B, 2, 3, H, W], nominally in [-1, 1], the earlier one first.
        dt: Time between them [B] in [0, 1], as a fraction of a training clip.

    Raises:
        ValueError: Integers, or, on a CPU, values out of range.
    """
    check_floats("frames", frames, "in [-1, 1]")
    check_floats("dt", dt, "in [0, 1], as a fraction of a training clip")
    if not transformed():
        check_range("frames", frames, -LARGEST_PIXEL, LARGEST_PIXEL, "in [-1, 1]")
        check_range("dt", dt, 0, 1, "in [0, 1], as a fraction of a training clip")


def time_plane(frames: torch.Tensor, dt: torch.Tensor) -> torch.Tensor:
    """Last input channel of the video discriminator [B, 1, H, W]: time differences [B] as constant planes."""
    return dt.to(frames.dtype)[:, None, None, None].repeat(1, 1, *frames.shape[-2:])
