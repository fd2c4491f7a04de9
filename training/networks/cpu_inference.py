"""Inference on a CPU: the generator's fields and upsampler as fused MLPs, for one video and one frame at a time.

Without gradients a layer's activations need not be kept: a tile of points or pixels goes through all layers before the
next one, and stays in the processor's cache (`torch_utils.ops.fused_mlp`). Everything here computes the same functions
as `training.networks.fields` and `training.networks.upsampler`, with the same weights. Where no native operator can be
built, fields are evaluated as they are and frames pass through the upsampler in strips of image rows.
"""

from collections.abc import Iterator
from typing import Any

import torch

from renderer.rays import Accumulated, RenderSettings
from renderer.volume_rendering import Fields
from torch_utils.ops.fused_mlp import FusedMLP, MLPLayer, has_fused_mlp
from torch_utils.ops.point_linear import lrelu_, point_linear
from training.networks.density import DensityPrior
from training.networks.fields import SLOPE, VIEW_SLOPE, ConditionedBlend, ConditionedForeground, ForegroundField
from training.networks.layers import LRELU_GAIN, PointEncoding
from training.networks.upsampler import (
    CornerUpsampling,
    ShuffleUpsampling,
    ToRGB,
    Upsampler,
    UpsamplerBlock,
    UpsamplerLayer,
    upsample_image,
)

__all__ = ["FusedBlock", "FusedField", "FusedForeground", "FusedNetworks"]

#: Methods that fused blocks replace.
FORWARDS = [
    kind.forward for kind in (Upsampler, UpsamplerBlock, UpsamplerLayer, CornerUpsampling, ShuffleUpsampling, ToRGB)
]
#: Strips of a frame have about this many values (float32: 16 MB) and at least `MIN_STRIP` input rows.
STRIP_SIZE, MIN_STRIP = 1 << 22, 8
#: Input rows beyond a strip on which its outputs depend: corners reach one row, the blur one more.
HALO = 2


class FusedNetworks:
    """Fused MLPs of the fields and the upsampler of B videos. Weights are packed at their first use, then kept.

    Args:
        upsampler: In evaluation mode; in training mode only the fields may be used.
        weights: Weights of its blocks, see `Upsampler.modulate`.
        precision: 'float32' or 'bfloat16' for the products, see `FusedMLP`. The background, whose products are few, and
            everything in plain PyTorch stay in float32.
    """

    def __init__(self, upsampler: Upsampler, weights: list[tuple], precision: str = "float32"):
        self._upsampler, self._weights, self.precision = upsampler, weights, precision
        self._fields: dict[Any, list[FusedMLP]] = {}  # by the field module
        self._blocks: list[list[FusedBlock]] | None = None

    def fields(self, fields: Fields) -> Fields:
        """The same fields, as fused MLPs where that is possible."""
        return Fields(self._foreground(fields.foreground), fields.background)

    def _foreground(self, field: Any) -> Any:
        # Classes derived from these may compute something else.
        if type(field) is ConditionedBlend:
            return ConditionedBlend(field.field, self._foreground(field.dynamic), self._foreground(field.static))
        if type(field) is not ConditionedForeground or type(field.field) is not ForegroundField:
            return field
        weight = field.weights.layers[0][0]
        if weight.dtype != torch.float32 or not has_fused_mlp(weight.device, self.precision):
            return field
        # Otherwise the native operator would render another field.
        encoding = field.field.encoding
        marched = isinstance(encoding, PointEncoding) and encoding.is_waves(weight)
        marched = marched and type(field.field.density_prior) in (DensityPrior, type(None))
        return (FusedForeground if marched else FusedField)(field, self.precision, self._fields)

    def replaces(self, upsampler: Upsampler) -> bool:
        """True if `upsample` is equivalent to calling the upsampler.

        It is not for derived classes, nor for modules with hooks, which may read or change features.
        """
        return not upsampler.training and all(
            getattr(part.forward, "__func__", None) in FORWARDS and not (part._forward_hooks or part._forward_pre_hooks)
            for part in _parts(upsampler)
        )

    def upsample(self, x: torch.Tensor, image: torch.Tensor, *, resolution: int | None = None) -> torch.Tensor:
        """`Upsampler.forward` frame by frame: features [B, T, h, w, F] and colours [B, T, h, w, 3] to an image."""
        if self._blocks is None:
            self._blocks = [
                [FusedBlock(block, _video(own, i), self.precision) for i in range(len(x))]
                for block, own in self._upsampler.blocks_up_to(None, self._weights)
            ]
        # Frame by frame: block after block, the colours added to the upsampled image as in `Upsampler.forward`.
        blocks = [fused for _, fused in self._upsampler.blocks_up_to(resolution, self._blocks)]
        frames = []
        for video in range(len(x)):
            for features, colours in zip(x[video], image[video], strict=True):
                for i, block in enumerate(blocks):
                    features, added = block[video](features, last=i == len(blocks) - 1)
                    colours = upsample_image(colours[None])[0].add_(added)
                frames.append(colours)
        return _stacked(frames, x.shape[:2])


def _parts(upsampler: Upsampler) -> Iterator[torch.nn.Module]:
    """The modules of an upsampler that fused blocks bypass, outermost first."""
    yield upsampler
    for block in upsampler.blocks.values():
        yield block
        assert block.conv0.upsampling is not None
        yield from (block.conv0, block.conv0.upsampling, block.conv1, block.rgb)


def _video(weights: tuple, index: int) -> tuple:
    """A block's weights [B, out, in] of one video, [out, in]; biases and the upsampling's weights are shared."""
    return tuple((weight[index], *shared) for weight, *shared in weights)


def _stacked(parts: list[torch.Tensor], shape) -> torch.Tensor:
    """Results of every video and frame, each [...], as [B, T, ...]."""
    return parts[0][None, None] if len(parts) == 1 else torch.stack(parts).unflatten(0, tuple(shape))


class FusedField:
    """A `ConditionedForeground` as one fused MLP per video, for bfloat16.

    The MLP has the hidden layers with leaky ReLU, the density head on top of them and, with view directions, the
    view-dependent colour head.
    """

    def __init__(self, field: ConditionedForeground, precision: str, kept: dict[Any, list[FusedMLP]]):
        self._field, self._precision = field, precision
        self.project = field.project
        if precision == "float32":  # as in a call
            self.raw_density = field.raw_density
        if field.field not in kept:
            kept[field.field] = [self._fuse(video) for video in range(len(field.layers[0][0]))]
        self._mlps = kept[field.field]

    def _fuse(self, video: int) -> FusedMLP:
        weights, trunk = self._field.weights, self._field.layers
        last = len(trunk) - 1
        layers = [MLPLayer(weight[video], bias, slope=SLOPE, source=i - 1) for i, (weight, bias, _) in enumerate(trunk)]
        layers.append(MLPLayer(weights.density[0][video], weights.density[1], source=last))
        if weights.view is not None:  # the bias of this head depends on the directions, see `_wanted`
            layers.append(MLPLayer(weights.features[0][video], slope=VIEW_SLOPE, source=last))
            layers.append(MLPLayer(*weights.rgb, source=last + 2))
        return FusedMLP(layers, precision=self._precision, remeasures_means=True)

    def _view_bias(self, directions: torch.Tensor) -> torch.Tensor | None:
        return None if self._field.weights.view is None else self._field.view_bias(directions)

    def _wanted(self, video: int, frame: int, view: torch.Tensor | None) -> dict[str, Any]:
        """Layers whose results are the features, and the biases of this frame and of its viewing directions."""
        last = len(self._field.layers) - 1
        biases = {i: x[video, frame] for i, (_, _, x) in enumerate(self._field.layers) if x is not None}
        if view is None:
            return {"keep": [last], "biases": biases}
        return {"keep": [last, last + 3], "biases": biases | {last + 2: view[video]}}

    def __call__(self, points: torch.Tensor, directions: torch.Tensor):
        """See `ConditionedForeground`."""
        field = self._field
        if torch.is_grad_enabled() or self._precision == "float32":
            return field(points, directions)
        view, encoded = self._view_bias(directions), field.encode(points)
        (batch, frames), shape = (len(points), field.num_frames), points.shape[2:4]
        results = []
        for video in range(batch):
            for frame in range(frames):  # frames may share their points
                flat = encoded[video, frame if encoded.shape[1] > 1 else 0].flatten(0, 1)
                wanted = self._wanted(video, frame, view)
                keep = [len(field.layers), *wanted["keep"]]
                results.append(self._mlps[video](flat, keep=keep, biases=wanted["biases"]))
        density, *features = (
            _stacked(list(x), (batch, frames)).unflatten(2, shape) for x in zip(*results, strict=True)
        )
        return field.field.with_prior(density[..., 0], points), tuple(features)


class FusedForeground(FusedField):
    """A `FusedField` whose point encoding consists of plane waves: a single operator renders its rays."""

    def march(
        self,
        origins: torch.Tensor,
        directions: torch.Tensor,
        settings: RenderSettings,
        *,
        last_opaque: bool,
        offsets: torch.Tensor | None = None,
    ) -> Accumulated:
        """Sampling and compositing in one operator (see `renderer.volume_rendering.Fields`)."""
        field, waves = self._field, self._field.field.encoding.waves(directions)
        assert waves is not None
        view = self._view_bias(directions / directions.norm(dim=-1, keepdim=True))
        batch, frames = len(directions), field.num_frames
        samples, importance = settings.samples(random=False)
        prior = field.field.density_prior
        scale = 1.0 if field.field.density_ramp is None else float(field.field.density_scale)
        shifts = [0.0] * batch if offsets is None else offsets.tolist()
        marched = []
        for video in range(batch):
            for frame in range(frames):
                sums, *totals = self._mlps[video].march(
                    origins[video, 0],
                    directions[video],
                    samples=samples,
                    importance=importance,
                    near=settings.near + shifts[video],
                    far=settings.far + shifts[video],
                    last_opaque=last_opaque,
                    waves=waves,
                    density=len(field.layers),
                    prior=() if prior is None else (scale * prior.peak, prior.radius, *prior.center),
                    **self._wanted(video, frame, view),
                )
                marched.append((*sums, *totals))
        *features, accumulation, depth, transmittance = (
            _stacked(list(x), (batch, frames)) for x in zip(*marched, strict=True)
        )
        return Accumulated(tuple(features), accumulation, depth, transmittance)


class FusedBlock:
    """An upsampler block for one video: maps [H, W, C] of a frame to [2H, 2W, C'] and colours [2H, 2W, 3].

    Natively, every output row of pixels goes through all layers before the next one. In plain PyTorch the frame passes
    through the block in strips of rows.

    Args:
        block: In evaluation mode, and of the classes that are replaced (`FusedNetworks.replaces`).
        weights: Weights of its layers, as `UpsamplerBlock.modulate` returns them, for one video: [out, in].
        precision: See `FusedMLP`; plain PyTorch uses float32.
    """

    def __init__(self, block: UpsamplerBlock, weights: tuple, precision: str = "float32"):
        self.block = block
        (self.weight, self.bias, self.upsampling), self.plain, self.colour = weights
        if len(self.weight) % 2 or self.upsampling[2].shape[1] % 2:  # channels, and those of the correction
            precision = "float32"  # bfloat16 is multiplied in pairs
        self.native = self.weight.dtype == torch.float32 and has_fused_mlp(self.weight.device, precision)
        if self.native:
            self._fuse(precision)

    def _fuse(self, precision: str) -> None:
        reduce, reduce_bias, expand, expand_bias = self.upsampling
        clamp = self.block.conv0.clamp
        # With nn_cat the bias of the correction's second layer is added to x, because both are blurred. x also has the
        # activation's gain here. The correction's first layer takes x without them: its weight and bias undo both.
        corners = isinstance(self.block.conv0.upsampling, CornerUpsampling)
        bias = expand_bias if corners else torch.zeros_like(self.bias)
        reduce = reduce / LRELU_GAIN
        # At the low resolution: the modulated layer, then the correction's first layer.
        low = [MLPLayer(self.weight, bias), MLPLayer(reduce, reduce_bias - reduce @ bias, source=0)]
        # At the high resolution: the plain layer and ToRGB.
        high = [
            MLPLayer(self.plain[0], self.plain[1], slope=SLOPE, clamp=self.block.conv1.clamp),
            MLPLayer(self.colour[0], self.colour[1], clamp=self.block.rgb.clamp, source=0),
        ]
        # The correction's second layer acts at the high resolution with nn_cat, at the low one with pixelshuffle.
        if corners:
            high = [MLPLayer(expand, self.bias, slope=SLOPE, clamp=clamp), *high]
            high[1:] = [MLPLayer(x.weight, x.bias, x.slope, x.clamp, source=i) for i, x in enumerate(high[1:])]
        else:
            low[1] = MLPLayer(reduce, low[1].bias, slope=SLOPE, source=0)
            low.append(MLPLayer(expand, expand_bias, source=1))
        self._low = FusedMLP(low, precision=precision)
        self._high = FusedMLP(high, precision=precision)

    def __call__(self, x: torch.Tensor, *, last: bool) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Features (None for the last block) and colours."""
        if not self.native:
            return self._in_strips(x, last)
        # Layers at the low resolution, then upsampling and all further layers in one operator.
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
        """`UpsamplerBlock.forward` in plain PyTorch, strip by strip to bound memory."""
        block, height, width = self.block, *x.shape[:2]
        assert block.conv0.upsampling is not None
        x = block.conv0.before_upsampling(x.reshape(1, height * width, -1), self.weight).view(1, height, width, -1)
        channels = x.shape[-1]
        strip = max(STRIP_SIZE // (4 * width * channels), MIN_STRIP)
        features = None if last else x.new_empty(2 * height, 2 * width, channels)
        colours = x.new_empty(2 * height, 2 * width, 3)
        for start in range(0, height, strip):
            stop = min(start + strip, height)
            first = max(start - HALO, 0)
            y = block.conv0.upsampling(x[:, first : min(stop + HALO, height)], self.upsampling, self.bias, LRELU_GAIN)
            # Crop the halo, then activation, plain layer and ToRGB.
            y = y[:, 2 * (start - first) : 2 * (stop - first)].reshape(1, -1, channels)
            y = lrelu_(y, block.conv0.clamp)
            y = point_linear(y, *self.plain[:2], act="lrelu", clamp=block.conv1.clamp)
            colours[2 * start : 2 * stop].view(1, -1, 3).copy_(block.rgb(y, self.colour))
            if features is not None:
                features[2 * start : 2 * stop].view(1, -1, channels).copy_(y)
        return features, colours
