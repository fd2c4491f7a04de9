"""Fused MLP inference on a CPU: all layers on a tile of input rows that stays in the cache, then the next tile.

    y[r] = act(w x[r] + bias[r]),   act = leaky ReLU, then a clamp

A layer takes the inputs of the MLP or the results of an earlier layer; the caller names the results to return. The
inputs are given; or they are the pixels of an image after one of the two ×2 upsamplings of StyleNeRF's upsampler,
computed one row of pixels at a time; or they are encoded points along rays, whose results are composited at once.
Compared with a library call per layer, no intermediate results are written to and read from memory. Weights are packed
once, as float32 or, on processors with such products, as bfloat16 (sums, biases and results are float32 either way).

In bfloat16 a layer multiplies deviations from the mean c of its inputs: w x + b = w (x - c) + (b + w c) with w c in
float32. Points of one scene and pixels of one image have much in common, so that the rounded numbers become small, and
the errors with them: by 6 dB in images of the paper's networks. The input means are measured on some of the rows of the
first call, or of each call; the choice affects rounding errors only.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from torch_utils import custom_ops
from torch_utils.ops.upfirdn2d import BLUR

__all__ = ["MLPLayer", "FusedMLP", "blurred_corners_ref", "blurred_shuffle_ref", "has_fused_mlp"]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

#: Approximate number of rows that input means are measured on.
_MEAN_ROWS = 512


@dataclass(frozen=True)
class MLPLayer:
    """A fully connected layer of a fused MLP.

    Attributes:
        weight: [outputs, inputs].
        bias: [outputs], [G, outputs] (one for each of G equally long runs of rows), or None.
        slope: Slope of the leaky ReLU, at most 1; 1 for a linear layer.
        clamp: Largest magnitude of the results, or None.
        source: Index of the layer whose results are the inputs; -1 for the inputs of the MLP.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    slope: float = 1.0
    clamp: float | None = None
    source: int = -1


class _Bound(NamedTuple):
    """Arguments of the native operator besides weights, for given input means c."""

    shifts: list[torch.Tensor | None]  # w c, where the inputs have a mean
    biases: list[torch.Tensor]  # with w c added
    means: list[torch.Tensor]  # c by source, the inputs of the MLP last; empty for none


def has_fused_mlp(device: torch.device, precision: str = "float32") -> bool:
    """True if fused MLPs run natively on a device."""
    native = custom_ops.load("fused_mlp", "cpu") if device.type == "cpu" else None
    return native is not None and (precision == "float32" or native.has_bfloat16())


class FusedMLP:
    """Fused MLP, see the module's docstring. No gradients are recorded.

    Args:
        layers: In order; a layer's source comes before it.
        precision: Type of the factors of products: 'float32' or 'bfloat16'.
        remeasures_means: Measure the input means of bfloat16 in every call, not only in the first.
        impl: 'cpu' for the native operator, 'ref' for plain PyTorch, 'auto' for the former where it is available.

    Raises:
        ValueError: unknown precision or impl, or layers that do not fit each other.
        RuntimeError: impl='cpu' is not available.
    """

    def __init__(
        self,
        layers: Sequence[MLPLayer],
        *,
        precision: str = "float32",
        remeasures_means: bool = False,
        impl: str = "auto",
    ):
        if precision not in PRECISIONS:
            raise ValueError(f"fused_mlp: precision must be {' or '.join(PRECISIONS)}, not '{precision}'")
        if impl not in ("auto", "ref", "cpu"):
            raise ValueError(f"fused_mlp: impl must be auto, ref or cpu, not '{impl}'")
        widths = {-1: layers[0].weight.shape[1]}  # of possible sources
        for i, layer in enumerate(layers):
            inputs = layer.weight.shape[1]
            if layer.slope > 1:
                raise ValueError(f"fused_mlp: layer {i} has the slope {layer.slope}; it must be at most 1")
            if widths.get(layer.source) != inputs:
                raise ValueError(
                    f"fused_mlp: layer {i} with {inputs} inputs does not fit its source, layer {layer.source}"
                )
            widths[i] = len(layer.weight)
        self.layers, self.precision = list(layers), precision
        self._input_means: dict[int, torch.Tensor] | None = None if precision == "bfloat16" else {}  # by source
        self._remeasures_means = remeasures_means and precision == "bfloat16"
        self._exact: FusedMLP | None = None  # the same in float32, for measuring input means
        self._native, self._bound = None, _Bound([], [], [])
        if impl == "cpu" and precision == "bfloat16" and not custom_ops.require("fused_mlp", "cpu").has_bfloat16():
            raise RuntimeError("fused_mlp: this processor does not multiply bfloat16, which impl='cpu' needs.")
        if impl == "cpu" or (impl == "auto" and has_fused_mlp(layers[0].weight.device, precision)):
            self._native = custom_ops.require("fused_mlp", "cpu")
            half = precision == "bfloat16"
            self._packed = [self._native.pack_weight(layer.weight.detach().float(), half) for layer in layers]
            self._integers = [len(layer.weight) for layer in layers] + [layer.source for layer in layers]
            clamps = [math.inf if layer.clamp is None else layer.clamp for layer in layers]
            self._numbers = [layer.slope for layer in layers] + clamps
            self._bound = self._bind({})

    def __getstate__(self) -> dict[str, Any]:
        # Packed weights depend on the processor, and another one may unpickle this: copies pack their own.
        return {
            "arguments": (self.layers,),
            "options": {"precision": self.precision, "impl": "auto" if self.native else "ref"},
            "means": (self._input_means, self._remeasures_means),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*state["arguments"], **state["options"])  # type: ignore[misc]
        self._input_means, self._remeasures_means = state["means"]
        if self._native is not None:
            self._bound = self._bind(self._input_means or {})

    def _bind(self, means: Mapping[int, torch.Tensor]) -> _Bound:
        none = torch.empty(0)
        shifts = [
            layer.weight.detach().float() @ means[layer.source] if layer.source in means else None
            for layer in self.layers
        ]
        biases = [self._shifted(layer.bias, shift) for layer, shift in zip(self.layers, shifts, strict=True)]
        return _Bound(shifts, biases, [means.get(i, none) for i in (*range(len(self.layers)), -1)])

    @staticmethod
    def _shifted(bias: torch.Tensor | None, shift: torch.Tensor | None) -> torch.Tensor:
        if bias is None:
            return torch.empty(0) if shift is None else shift[None]
        bias = bias.detach().float().reshape(-1, bias.shape[-1])
        return bias if shift is None else bias + shift

    def _measure_means(self, rows: torch.Tensor, biases=None, residual: torch.Tensor | None = None) -> _Bound:
        """Measure the input means of all layers on some rows of inputs, in float32, and bind them.

        The caller uses the result rather than `_bound`: meanwhile another thread may have measured other means.
        """
        every = max(len(rows) // _MEAN_ROWS, 1)
        rows, layers = rows[::every], range(len(self.layers))
        own = ((i, x.bias) for i, x in enumerate(self.layers) if x.bias is not None and x.bias.ndim > 1)
        biases = {i: bias.reshape(-1, bias.shape[-1]).mean(0) for i, bias in (*own, *(biases or {}).items())}
        if residual is None:
            self._exact = self._exact or FusedMLP(self.layers, impl="auto" if self.native else "ref")
            results = self._exact(rows, keep=layers, biases=biases)
        else:
            results = self._reference(rows, layers, biases, residual[::every], rounded=False)
        feeding = {layer.source for layer in self.layers}
        means = {i: (rows if i < 0 else results[i]).mean(0) for i in feeding}
        bound = self._bound = self._bind(means) if self._native is not None else self._bound
        self._input_means = means
        return bound

    @torch.no_grad()
    def __call__(
        self, x: torch.Tensor, *, keep: Sequence[int], biases: Mapping[int, torch.Tensor] | None = None
    ) -> list[torch.Tensor]:
        """Run on rows.

        Args:
            x: [P, inputs].
            keep: Layers whose results are returned.
            biases: Replacements for the biases of some layers.

        Returns:
            A tensor [P, outputs] for each entry of `keep`.
        """
        bound = self._bound
        if (self._input_means is None or self._remeasures_means) and len(x):
            bound = self._measure_means(x, biases)
        if self._native is None:
            return self._reference(x, keep, biases or {})
        return self._native.dense_rows(x.contiguous(), *self._arguments(bound, biases), keep)

    @torch.no_grad()
    def corners(self, x: torch.Tensor, hidden: torch.Tensor, *, slope: float, keep: Sequence[int]):
        """Run on the pixels of an image after 'nn_cat' upsampling to 2H × 2W pixels.

        The inputs are blur(act(own + mean of the two neighbours at each corner)), and blur(nearest(x)) is added to the
        first layer's product. See `blurred_corners_ref`.

        Args:
            x: [H, W, C], C being the first layer's outputs.
            hidden: [H, W, 2 * inputs], for each pixel its own part and the part for its neighbours.
            slope: Slope of act, a leaky ReLU.
            keep: As in `__call__`.
        """
        bound = self._bound
        if self._input_means is None:
            some = slice(max(_MEAN_ROWS // (4 * x.shape[1]), 1))
            rows, residual = blurred_corners_ref(x[some], hidden[some], slope)
            bound = self._measure_means(rows, None, residual)
        if self._native is None:
            rows, residual = blurred_corners_ref(x, hidden, slope)
            return self._reference(rows, keep, {}, residual)
        return self._native.upsample_corners(x.contiguous(), hidden.contiguous(), slope, *self._arguments(bound), keep)

    @torch.no_grad()
    def shuffled(
        self,
        x: torch.Tensor,
        corrections: torch.Tensor,
        bias: torch.Tensor,
        *,
        slope: float,
        clamp: float | None,
        keep: Sequence[int],
    ):
        """Run on the pixels of an image after 'pixelshuffle' upsampling to 2H × 2W pixels.

        The inputs are act(blur(pixels) + bias), the pixels being x [H, W, C] plus corrections [H, W, 2, 2, C] (row and
        column of the new pixel). See `blurred_shuffle_ref`.
        """
        clamp = math.inf if clamp is None else clamp

        def inputs_of(x, corrections):
            return F.leaky_relu(blurred_shuffle_ref(x, corrections) + bias, slope).clamp(-clamp, clamp)

        bound = self._bound
        if self._input_means is None:
            some = slice(max(_MEAN_ROWS // (4 * x.shape[1]), 1))
            bound = self._measure_means(inputs_of(x[some], corrections[some]), None)
        if self._native is None:
            return self._reference(inputs_of(x, corrections), keep, {})
        inputs = (x.contiguous(), corrections.contiguous(), bias.contiguous())
        return self._native.upsample_shuffled(*inputs, slope, clamp, *self._arguments(bound), keep)

    @torch.no_grad()
    def march(
        self,
        origin: torch.Tensor,
        directions: torch.Tensor,
        *,
        samples: int,
        importance: int,
        near: float,
        far: float,
        last_opaque: bool,
        waves: torch.Tensor,
        density: int,
        keep: Sequence[int],
        biases: Mapping[int, torch.Tensor] | None = None,
        prior: Sequence[float] = (),
    ) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]:
        """Composite results along rays, with deterministic coarse and importance samples. Native only (see `native`).

        The inputs are the sines of plane waves at a point, then the cosines; the sampling and the weights are those of
        `renderer.volume_rendering.march_foreground` (NeRF, equations 3 and 5).

        Args:
            origin, directions: [3] and [R, 3] (not normalised) of rays with points at origin + depth * direction.
            samples, importance: Samples per ray of the first and second pass; importance 0 for a single pass.
            near, far: Range of the depths.
            last_opaque: True if the last sample ends the ray (no background).
            waves: Frequency vectors, in radians per unit of length, and phases of the positional encoding [K, 4].
            density: Index of the layer with the raw density, its one output (ReLU is applied to it).
            keep: Layers whose results are composited.
            biases: As in `__call__`; several rows of biases are spread over the rays.
            prior: Peak, radius and centre (x, y, z) of a Gaussian that is added to the raw density; empty for none.

        Returns:
            [R, outputs] for each entry of `keep`; accumulated weights, expected depth and transmittance [R].
        """
        # Positions of the first pass, and quantiles of its weights for the importance samples of the second.
        even, quantiles = (torch.linspace(0, 1, count, dtype=torch.float32) for count in (samples, importance))
        bound = self._bound
        if self._input_means is None or self._remeasures_means:
            # Input means: encoded points of the first pass along some of the rays.
            some = directions[:: max(len(directions) * samples // _MEAN_ROWS, 1)]
            points = origin + (near + (far - near) * even)[:, None, None] * some
            angles = (points[..., None, :] * waves[:, :3]).sum(-1) + waves[:, 3]
            bound = self._measure_means(torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(0, 1), biases)
        rays = (origin.contiguous(), directions.contiguous(), even, quantiles, waves.contiguous())
        *sums, weight, depth, transmittance = self._native.march_rays(
            *rays, near, far, last_opaque, density, prior, *self._arguments(bound, biases), keep
        )
        return sums, weight, depth, transmittance

    @property
    def native(self) -> bool:
        """True if this MLP runs natively."""
        return self._native is not None

    def _arguments(self, bound: _Bound, biases: Mapping[int, torch.Tensor] | None = None) -> tuple:
        own = bound.biases
        if biases:
            own = [self._shifted(biases[i], bound.shifts[i]) if i in biases else bias for i, bias in enumerate(own)]
        return [*self._packed, *own, *bound.means], self._integers, self._numbers

    def _reference(self, x, keep, biases, residual=None, rounded: bool = True) -> list[torch.Tensor]:
        """The MLP in plain PyTorch, in the type of `x`, with the factors rounded to its precision."""
        rounded = rounded and self.precision == "bfloat16"
        means, results = self._input_means or {}, []
        for i, layer in enumerate(self.layers):
            inputs, weight = x if layer.source < 0 else results[layer.source], layer.weight
            # w (x - c) with rounded factors, plus w c in full precision.
            if rounded:
                mean = means[layer.source].to(x.dtype) if layer.source in means else torch.zeros([]).to(x)
                y = _rounded(inputs - mean) @ _rounded(weight).t() + mean.expand(weight.shape[1]) @ weight.t()
            else:
                y = inputs @ weight.t()
            if residual is not None and i == 0:
                y = y + residual
            bias = biases.get(i, layer.bias)
            if bias is not None:
                bias = bias.reshape(-1, 1, bias.shape[-1])
                y = (y.unflatten(0, (len(bias), -1)) + bias).flatten(0, 1)
            y = y if layer.slope == 1 else F.leaky_relu(y, layer.slope)
            results.append(y if layer.clamp is None else y.clamp(-layer.clamp, layer.clamp))
        return [results[i] for i in keep]


def _rounded(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.bfloat16).to(x.dtype)


# ----------------------------------------------------------------------------------------------------------------------
# Reference of the two ×2 upsamplings of StyleNeRF's upsampler, whose results are inputs of a `FusedMLP`.


def _blur_ref(x: torch.Tensor) -> torch.Tensor:
    """[1, 3, 3, 1] / 8 per axis at constant size, zeros outside: rows [H, W, C]."""
    blur = x.new_tensor(BLUR)
    kernel = torch.outer(blur, blur).expand(x.shape[-1], 1, -1, -1)
    image = F.pad(x.movedim(-1, 0)[None], [2, 1, 2, 1])
    return F.conv2d(image, kernel, groups=x.shape[-1])[0].movedim(0, -1)


def _nearest_ref(x: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)


def blurred_corners_ref(x: torch.Tensor, hidden: torch.Tensor, slope: float) -> tuple[torch.Tensor, torch.Tensor]:
    """blur(act(own + neighbours' means)) [4HW, C'] and blur(nearest(x)) [4HW, C] of x [H, W, C], hidden [H, W, 2C']."""
    own, neighbours = hidden.chunk(2, dim=-1)
    padded = F.pad(neighbours, [0, 0, 1, 1, 1, 1])
    up, down, left, right = padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]
    corners = [[own + (vertical + level) / 2 for level in (left, right)] for vertical in (up, down)]
    corners = torch.stack([torch.stack(row, dim=2) for row in corners], dim=1)  # [H, 2, W, 2, C']
    corners = corners.flatten(2, 3).flatten(0, 1)
    return _blur_ref(F.leaky_relu(corners, slope)).flatten(0, 1), _blur_ref(_nearest_ref(x)).flatten(0, 1)


def blurred_shuffle_ref(x: torch.Tensor, corrections: torch.Tensor) -> torch.Tensor:
    """blur(nearest(x) + shuffled corrections), [4HW, C]."""
    shuffled = corrections.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # [2H, 2W, C]
    return _blur_ref(_nearest_ref(x) + shuffled).flatten(0, 1)
