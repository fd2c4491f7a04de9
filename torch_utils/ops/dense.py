"""Programs of dense layers on rows, for inference on a CPU: layer after layer on a few rows that stay in the cache.

    y[r] = act(w x[r] + bias[r]),   act = leaky ReLU, then a clamp

A layer takes the program's inputs or the results of an earlier layer; results that are wanted are named. The inputs are
given, or they are the pixels of an image after one of the two ×2 upsamplings of StyleNeRF's upsampler, which are then
made a row of pixels at a time. Compared with a library call per layer, this neither writes nor reads intermediate
results to and from memory. Weights are packed once, as float32 or, on processors that multiply it, as bfloat16
(sums, biases and results are float32 in either case).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from torch_utils import custom_ops

__all__ = ["DenseLayer", "DenseProgram", "blurred_corners_ref", "blurred_shuffle_ref", "has_native_rows"]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_BLUR = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8


@dataclass(frozen=True)
class DenseLayer:
    """One layer.

    Attributes:
        weight: [outputs, inputs].
        bias: [outputs], [G, outputs] (one for each of G equally long runs of rows), or None.
        slope: Of negative values; 1 for none.
        clamp: Largest magnitude, or None.
        source: Index of the layer whose results are the inputs; -1 for the program's inputs.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    slope: float = 1.0
    clamp: float | None = None
    source: int = -1


def has_native_rows(device: torch.device, precision: str = "float32") -> bool:
    """Whether programs run natively on a device."""
    native = custom_ops.load("dense", "cpu") if device.type == "cpu" else None
    return native is not None and (precision == "float32" or native.has_bfloat16())


class DenseProgram:
    """See the module's docstring. No gradients are recorded.

    Args:
        layers: In order; a layer's source comes before it.
        precision: Of the factors of the products: 'float32' or 'bfloat16'.
        impl: 'cpu' for the native operator, 'ref' for plain PyTorch, 'auto' for the former where it is available.

    Raises:
        ValueError: unknown precision or impl, or layers that do not fit each other.
        RuntimeError: impl='cpu' is not available.
    """

    def __init__(self, layers: Sequence[DenseLayer], *, precision: str = "float32", impl: str = "auto"):
        if precision not in PRECISIONS:
            raise ValueError(f"dense: precision must be {' or '.join(PRECISIONS)}, not '{precision}'")
        if impl not in ("auto", "ref", "cpu"):
            raise ValueError(f"dense: impl must be auto, ref or cpu, not '{impl}'")
        for i, layer in enumerate(layers):
            inputs = layer.weight.shape[1]
            if layer.source >= i or (layer.source >= 0 and len(layers[layer.source].weight) != inputs):
                raise ValueError(f"dense: layer {i} with {inputs} inputs does not fit its source, layer {layer.source}")
        self.layers, self.precision = list(layers), precision
        self._native = None
        if impl == "cpu" and precision == "bfloat16" and not custom_ops.require("dense", "cpu").has_bfloat16():
            raise RuntimeError("dense: impl='cpu' with bfloat16 is not available: this processor does not multiply it.")
        if impl == "cpu" or (impl == "auto" and has_native_rows(layers[0].weight.device, precision)):
            self._native = custom_ops.require("dense", "cpu")
            half = precision == "bfloat16"
            self._packed = [self._native.pack_weight(layer.weight.detach().float(), half) for layer in layers]
            self._biases = [self._rows_of_biases(layer.bias) for layer in layers]
            self._sizes = [
                [len(layer.weight) for layer in layers],
                [layer.source for layer in layers],
                [layer.slope for layer in layers],
                [math.inf if layer.clamp is None else layer.clamp for layer in layers],
            ]

    @torch.no_grad()
    def __call__(
        self, x: torch.Tensor, *, keep: Sequence[int], biases: Mapping[int, torch.Tensor] | None = None
    ) -> list[torch.Tensor]:
        """Run on rows.

        Args:
            x: [P, inputs].
            keep: Layers whose results are wanted.
            biases: Replaces the biases of some layers.

        Returns:
            A tensor [P, outputs] for each entry of `keep`.
        """
        if self._native is None:
            return self._reference(x, keep, biases or {})
        return self._native.dense_rows(x.contiguous(), *self._arguments(biases), keep)

    @torch.no_grad()
    def corners(self, x: torch.Tensor, hidden: torch.Tensor, *, slope: float, keep: Sequence[int]):
        """Run on the pixels of an upsampled image of 2H × 2W pixels ('nn_cat').

        The inputs are blur(act(own + mean of the two neighbours at each corner)), and blur(nearest(x)) is added to the
        first layer's product. See `blurred_corners_ref`.

        Args:
            x: [H, W, C], C being the first layer's outputs.
            hidden: [H, W, 2 * inputs], own and neighbours' part of each pixel.
            slope: Of that act.
            keep: As in `__call__`.
        """
        if self._native is None:
            rows, residual = blurred_corners_ref(x, hidden, slope)
            return self._reference(rows, keep, {}, residual)
        return self._native.upsample_corners(x.contiguous(), hidden.contiguous(), slope, *self._arguments(), keep)

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
        """Run on the pixels of an upsampled image of 2H × 2W pixels ('pixelshuffle').

        The inputs are act(blur(pixels) + bias), the pixels being x [H, W, C] plus corrections [H, W, 2, 2, C] (row and
        column of the new pixel). See `blurred_shuffle_ref`.
        """
        clamp = math.inf if clamp is None else clamp
        if self._native is None:
            rows = F.leaky_relu(blurred_shuffle_ref(x, corrections) + bias, slope).clamp(-clamp, clamp)
            return self._reference(rows, keep, {})
        inputs = (x.contiguous(), corrections.contiguous(), bias.contiguous())
        return self._native.upsample_shuffled(*inputs, slope, clamp, *self._arguments(), keep)

    @staticmethod
    def _rows_of_biases(bias: torch.Tensor | None) -> torch.Tensor:
        return torch.empty(0) if bias is None else bias.detach().float().reshape(-1, bias.shape[-1])

    def _arguments(self, biases: Mapping[int, torch.Tensor] | None = None) -> tuple:
        own = self._biases
        if biases:
            own = [self._rows_of_biases(biases[i]) if i in biases else bias for i, bias in enumerate(own)]
        return (self._packed, own, *self._sizes)

    def _reference(self, x, keep, biases, residual=None) -> list[torch.Tensor]:
        """Plain PyTorch, in the type of `x`, with the factors rounded to the program's precision."""
        results: list[torch.Tensor] = []
        for i, layer in enumerate(self.layers):
            y = self._rounded(x if layer.source < 0 else results[layer.source]) @ self._rounded(layer.weight).t()
            if residual is not None and i == 0:
                y = y + residual
            bias = biases.get(i, layer.bias)
            if bias is not None:
                bias = bias.reshape(-1, 1, bias.shape[-1])
                y = (y.unflatten(0, (len(bias), -1)) + bias).flatten(0, 1)
            y = y if layer.slope == 1 else F.leaky_relu(y, layer.slope)
            results.append(y if layer.clamp is None else y.clamp(-layer.clamp, layer.clamp))
        return [results[i] for i in keep]

    def _rounded(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.precision == "float32" else x.to(torch.bfloat16).to(x.dtype)


# ----------------------------------------------------------------------------------------------------------------------
# The upsamplings, literally


def _blur_ref(x: torch.Tensor) -> torch.Tensor:
    """[1, 3, 3, 1] / 8 per axis at constant size, zeros outside: rows [H, W, C]."""
    kernel = torch.outer(_BLUR, _BLUR).to(x).expand(x.shape[-1], 1, -1, -1)
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
