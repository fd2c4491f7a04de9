"""A block of the 2D upsampler for one video and one frame at a time: rendering without gradients on a CPU.

Natively, an output row of pixels goes through all layers before the next is begun. In plain PyTorch the frame passes
through the block in strips of rows, each small enough to stay in the processor's cache.
"""

from typing import Any

import torch

from torch_utils.ops.dense import DenseLayer, DenseProgram, has_native_rows
from torch_utils.ops.point_linear import lrelu_, point_linear
from training.layers import LRELU_GAIN

__all__ = ["BlockProgram"]

SLOPE = 0.2
#: Strips of a frame are about this many values (float32: 16 MB), at least `MIN_STRIP` input rows.
STRIP_SIZE, MIN_STRIP = 1 << 22, 8
#: Input rows beyond a strip that its outputs depend on: corners reach one row, the blur one more.
HALO = 2


class BlockProgram:
    """Rows [H, W, C] of one frame to features [2H, 2W, C'] and colours [2H, 2W, 3].

    Args:
        block: The `UpsamplerBlock`, in evaluation mode.
        folded: Its layers' weights for one video: ((weight, bias, upsampling), (weight, bias, None), (weight, bias)),
            weights [1, out, in], `upsampling` as `Upsampling.fold` gives it.
        precision: See `DenseProgram`; what runs in plain PyTorch has float32.
    """

    def __init__(self, block: Any, folded: tuple, precision: str = "float32"):
        self.block = block
        first, plain, colour = folded
        self.folded = (first, plain, colour)
        weight, self.bias, self.upsampling = first
        self.weight = weight[0]
        even = all(len(w) % 2 == 0 for w in (weight[0], self.upsampling[0]))
        if not even:
            precision = "float32"  # bfloat16 is multiplied in pairs
        self.native = weight.dtype == torch.float32 and has_native_rows(weight.device, precision)
        if self.native:
            self._prepare(plain, colour, precision)

    def _prepare(self, plain: tuple, colour: tuple, precision: str) -> None:
        reduce, reduce_bias, expand, expand_bias = self.upsampling
        clamp = self.block.conv0.clamp
        # x, with the gain of the activation, also brings the bias of the correction's second layer: it must be blurred
        # like x. The first layer of the correction takes x without either.
        corners = self.block.conv0.upsampling.mode == "nn_cat"
        bias = expand_bias if corners else torch.zeros_like(self.bias)
        reduce = reduce / LRELU_GAIN
        low = [DenseLayer(self.weight, bias), DenseLayer(reduce, reduce_bias - reduce @ bias, source=0)]
        high = [
            DenseLayer(plain[0][0], plain[1], slope=SLOPE, clamp=self.block.conv1.clamp),
            DenseLayer(colour[0][0], colour[1], clamp=self.block.rgb.clamp, source=0),
        ]
        if corners:
            high = [DenseLayer(expand, self.bias, slope=SLOPE, clamp=clamp), *high]
            high[1:] = [DenseLayer(x.weight, x.bias, x.slope, x.clamp, source=i) for i, x in enumerate(high[1:])]
        else:
            low[1] = DenseLayer(reduce, low[1].bias, slope=SLOPE, source=0)
            low.append(DenseLayer(expand, expand_bias, source=1))
        self._low = DenseProgram(low, precision=precision)
        self._high = DenseProgram(high, precision=precision)

    def __call__(self, x: torch.Tensor, *, last: bool) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Features (None for the last block) and colours."""
        if not self.native:
            return self._in_strips(x, last)
        height, width, _ = x.shape
        results = self._low(x.reshape(height * width, -1), keep=[0, len(self._low.layers) - 1])
        x, correction = (y.view(height, width, -1) for y in results)
        count = len(self._high.layers)
        keep = [count - 1] if last else [count - 1, count - 2]
        if count == 3:
            colours, *features = self._high.corners(x, correction, slope=SLOPE, keep=keep)
        else:
            corrections = correction.view(height, width, 2, 2, -1)
            clamp = self.block.conv0.clamp
            colours, *features = self._high.shuffled(x, corrections, self.bias, slope=SLOPE, clamp=clamp, keep=keep)
        size = (2 * height, 2 * width, -1)
        return features[0].view(size) if features else None, colours.view(size)

    def _in_strips(self, x: torch.Tensor, last: bool) -> tuple[torch.Tensor | None, torch.Tensor]:
        _, plain, colour = self.folded
        block, height, width = self.block, *x.shape[:2]
        x = block.conv0.before_upsampling(x.reshape(1, height * width, -1), self.weight).view(1, height, width, -1)
        channels = x.shape[-1]
        strip = max(STRIP_SIZE // (4 * width * channels), MIN_STRIP)
        features = None if last else x.new_empty(2 * height, 2 * width, channels)
        colours = x.new_empty(2 * height, 2 * width, 3)
        for start in range(0, height, strip):
            stop = min(start + strip, height)
            first = max(start - HALO, 0)
            y = block.conv0.upsampling(x[:, first : min(stop + HALO, height)], self.upsampling, self.bias, LRELU_GAIN)
            y = y[:, 2 * (start - first) : 2 * (stop - first)].reshape(1, -1, channels)
            y = lrelu_(y, block.conv0.clamp)
            y = point_linear(y, *plain[:2], act="lrelu", clamp=block.conv1.clamp)
            colours[2 * start : 2 * stop].view(1, -1, 3).copy_(block.rgb(y, colour))
            if features is not None:
                features[2 * start : 2 * stop].view(1, -1, channels).copy_(y)
        return features, colours
