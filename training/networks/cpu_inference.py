"""The foreground field of one video as a program of dense layers: evaluation without gradients on a CPU."""

from collections.abc import Sequence
from typing import Any

import torch

from renderer.volume_rendering import Marched, RenderSettings
from torch_utils.ops.fused_mlp import DenseLayer, DenseProgram, has_native_rows
from torch_utils.ops.point_linear import lrelu_, point_linear
from training.networks.layers import LRELU_GAIN, octaves

__all__ = ["BlockProgram", "ForegroundProgram"]

#: Weight [out, in] and bias [out] or None.
Linear = tuple[torch.Tensor, torch.Tensor | None]
SLOPE = 0.2


class ForegroundProgram:
    """A trunk of layers with leaky ReLU, on which a density head and, optionally, a view-dependent colour stand.

    Args:
        layers: The trunk.
        density: Its head.
        features, rgb: The view-dependent head (without its bias, which comes from the directions) and the colour that
            follows it; None if colours do not depend on directions.
        view_slope: Negative slope of the view-dependent head.
        precision: See `DenseProgram`.
    """

    def __init__(
        self,
        layers: Sequence[Linear],
        *,
        density: Linear,
        features: torch.Tensor | None,
        rgb: Linear | None,
        view_slope: float,
        precision: str,
    ):
        self._last = last = len(layers) - 1
        program = [DenseLayer(weight, bias, slope=SLOPE, source=i - 1) for i, (weight, bias) in enumerate(layers)]
        program.append(DenseLayer(*density, source=last))
        if features is not None:
            program.append(DenseLayer(features, slope=view_slope, source=last))
            program.append(DenseLayer(*rgb, source=last + 2))
        self._program = DenseProgram(program, precision=precision, recentres=True)

    @staticmethod
    def available(weight: torch.Tensor, precision: str) -> bool:
        """Whether it serves for a video's weights [1, out, in]."""
        fits = weight.dtype == torch.float32 and not weight.requires_grad and len(weight) == 1
        return fits and has_native_rows(weight.device, precision)

    def __call__(
        self, x: torch.Tensor, biases: Sequence[torch.Tensor | None], view: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Evaluate rows.

        Args:
            x: Encoded points [P, inputs].
            biases: Per layer of the trunk [G, width] for G runs of rows, or None for the layer's own.
            view: What directions add to the view-dependent head [G', F], its bias included, or None.

        Returns:
            Density [P, 1], hidden state [P, width], and colour [P, 3] or None.
        """
        keep, replaced = self._wanted(biases, view)
        density, hidden, *colour = self._program(x, keep=[self._last + 1, *keep], biases=replaced)
        return density, hidden, colour[0] if colour else None

    def march(
        self,
        origin: torch.Tensor,
        directions: torch.Tensor,
        settings: RenderSettings,
        *,
        frequencies: int,
        last_opaque: bool,
        biases: Sequence[torch.Tensor | None],
        view: torch.Tensor | None,
    ) -> Marched:
        """Rays [R, 3] from an origin [3] for one frame of one video; features are hidden state and colour."""
        keep, replaced = self._wanted(biases, view)
        sums, *totals = self._program.march(
            origin,
            directions,
            samples=settings.num_samples,
            importance=settings.num_importance,
            near=settings.near,
            far=settings.far,
            last_opaque=last_opaque,
            scales=octaves(frequencies, directions),
            density=self._last + 1,
            keep=keep,
            biases=replaced,
        )
        return Marched(tuple(x[None, None] for x in sums), *(x[None, None] for x in totals))

    def _wanted(self, biases, view):
        """The layers of the features, and the biases that replace those of layers."""
        replaced = {i: bias for i, bias in enumerate(biases) if bias is not None}
        if view is None:
            return [self._last], replaced
        return [self._last, self._last + 3], replaced | {self._last + 2: view}


# ----------------------------------------------------------------------------------------------------------------------
# A block of the 2D upsampler for one video and one frame at a time: rendering without gradients on a CPU.
#
# Natively, an output row of pixels goes through all layers before the next is begun. In plain PyTorch the frame passes
# through the block in strips of rows, each small enough to stay in the processor's cache.


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
