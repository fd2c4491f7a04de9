"""The 2D upsampler: volume rendered features to an image, in modulated 1x1 layers and fixed resampling (StyleNeRF).

Every convolution is 1x1, which is what keeps views consistent. Features and colours are rows [G, N, H, W, C]: G videos
of a group, N frames of each. Frames rendered without gradients pass through a block in strips of rows that stay in the
processor's cache.
"""

import torch
from torch import nn

from training.block_program import BlockProgram
from training.resampling import upsample_rows
from training.upsampler_layers import UpsamplerBlock

__all__ = ["Upsampler"]


class Upsampler(nn.Module):
    """Blocks from the volume rendered resolution (exclusive) to the image resolution.

    Args:
        in_resolution, resolution: Powers of two; one block per doubling.
        in_features: Channels F of the volume rendered features.
        mode: 'nn_cat' or 'pixelshuffle'.
        channel_base, channel_max: A block at resolution r has min(32768 · channel_base / r, channel_max) channels.
        conv_clamp: Clamp of layer outputs; None for none.
        magnitude_beta: Decay of the magnitude EMA.
        fp16_min_resolution: Blocks from here up run in half precision (see `training.precision`); None for none.
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
        it again; see `training.recompute`.
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
