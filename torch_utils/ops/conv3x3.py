"""3x3 convolutions of the discriminators by Winograd's algorithm on the CPU; all other convolutions by PyTorch.

The three bilinear maps (images, weight) → results, (results, weight) → images and (images, results) → weight are each
other's derivatives, so that derivatives of every order, including R1's, use the native operators. All three are
Winograd products (csrc/winograd/winograd.h): F(4x4, 3x3) with stride 1, which takes 36 multiplications where the
definition takes 144, and F(4, 2) of every other pixel with stride 2, which takes 81. The interpolation points are
chosen so that rounding errors are about as small as those of a plain sum (docs/operators.md).

With stride 1, bfloat16 images are multiplied in float32: bfloat16 products take half the time, but Winograd's algorithm
needs a quarter as many, and is too inexact in bfloat16. With stride 2 PyTorch multiplies, except for the gradient of
the weight with large images. On processors that multiply tiles of bfloat16 (Intel's AMX), such products take an eighth
of the time, and PyTorch multiplies all bfloat16 images.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from torch_utils import custom_ops
from torch_utils.ops.conv3x3_native import FilteredResults, Results, filtered_size, results
from torch_utils.ops.upfirdn2d import upfirdn2d

__all__ = ["convolve", "filtered_convolve"]

IMPLEMENTATIONS = ("auto", "ref", "cpu")

#: The native operators need multiples of this number of channels: two vector registers of the processor.
CHANNELS = 32
# Thresholds above which the native operators take at most half of PyTorch's time, or two thirds with stride 2.
#: Stride 1: least number of pixels (with fewer, the weight's transform costs what is saved).
MIN_PIXELS = 512
#: Least number of input channels times output channels.
MIN_PAIRS = 64 * 64
#: Stride 2 in bfloat16, where only the gradient of the weight is native: least number of pixels of an image.
MIN_HALF_PIXELS = 1 << 16


def convolve(
    x: torch.Tensor,
    w: torch.Tensor,
    *,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """`torch.nn.functional.conv2d` without dilation.

    Args:
        x: Images [N, C, H, W].
        w: Weight [O, C / groups, h, w].
        padding: Rows of zeros above and below, columns of zeros left and right.
        impl: 'ref' for PyTorch; 'cpu' for the native operators; 'auto' for the latter where they are faster.

    Returns:
        [N, O, H', W'], differentiable any number of times.

    Raises:
        ValueError: an unknown implementation.
        RuntimeError: impl='cpu', but there are no native operators, or none for these tensors.
    """
    recorded = custom_ops.gradients_recorded(x, w)
    problem = _Problem(x.shape, w.shape, stride, padding, groups, _plain(x, w), _half(x))
    library = problem.library(impl, wanted=recorded or stride == 1 or not problem.half)
    if library is None:
        return F.conv2d(x, w, stride=stride, padding=padding, groups=groups)
    return Results.apply(x, w, stride, library) if recorded else results(x, w, stride, library)


def filtered_convolve(
    x: torch.Tensor,
    w: torch.Tensor,
    f: torch.Tensor,
    *,
    padding: tuple[int, int, int, int],
    stride: int,
    groups: int,
    impl: str = "auto",
) -> torch.Tensor:
    """`convolve` without padding, applied to images that are padded and filtered first (see `upfirdn2d`).

    The native path does not keep the filtered images for the backward pass but filters again.
    """
    problem = _Problem(filtered_size(x.shape, f, padding), w.shape, stride, (0, 0), groups, _plain(x, w), _half(x))
    library = problem.library(impl, wanted=True) if custom_ops.gradients_recorded(x, w) else None
    if library is None:
        return convolve(upfirdn2d(x, f, padding=padding), w, stride=stride, groups=groups, impl=impl)
    return FilteredResults.apply(x, w, f, padding, stride, library)


def _plain(x, other):
    """True if tensors have the type, and images `x` the layout, of the native operators."""
    types = {tensor.dtype for tensor in (x, other)}
    fit = types in ({torch.float32}, {torch.bfloat16}) and x.device.type == other.device.type == "cpu"
    return fit and not custom_ops.transformed() and x.is_contiguous(memory_format=torch.channels_last)


def _half(x):
    return x.dtype == torch.bfloat16


@functools.cache
def multiplies_tiles() -> bool:
    """True if the processor multiplies tiles of bfloat16, as PyTorch's products do."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return any(line.startswith("flags") and "amx_bf16" in line.split() for line in file)
    except OSError:
        return False


@dataclass(frozen=True)
class _Problem:
    """Sizes and options of a convolution, which decide between the native operators and PyTorch."""

    images: torch.Size
    weight: torch.Size
    stride: int
    padding: Sequence[int]
    groups: int
    plain: bool
    half: bool

    def library(self, impl: str, wanted: bool):
        """The native operators; None where they are unavailable, too slow or, with 'auto', not `wanted`."""
        if impl not in IMPLEMENTATIONS:
            raise ValueError(f"conv3x3: unknown implementation {impl!r}; choose one of {', '.join(IMPLEMENTATIONS)}")
        if impl == "auto":
            return custom_ops.load("winograd", "cpu") if wanted and self._fits() and self._pays() else None
        if impl == "ref":
            return None
        if self._fits():
            return custom_ops.require("winograd", "cpu")
        raise RuntimeError(
            "conv3x3: impl='cpu' takes float32 or bfloat16 images on the CPU in channels_last and 3x3 weights without "
            f"groups, both of multiples of {CHANNELS} channels, with stride=1 and padding=1, or stride=2 and "
            f"padding=0, and results of heights and widths that are multiples of 4; not images {list(self.images)} and "
            f"weight {list(self.weight)} with stride={self.stride}, padding={tuple(self.padding)}, groups={self.groups}"
            + ("" if self.plain else ", of another type or layout")
        )

    def _fits(self):
        outputs, inputs, *kernel = self.weight
        if not self.plain or self.groups != 1 or kernel != [3, 3] or outputs % CHANNELS or inputs % CHANNELS:
            return False
        if (self.stride, tuple(self.padding)) not in ((1, (1, 1)), (2, (0, 0))):
            return False
        return all((size if self.stride == 1 else (size - 1) // 2) % 4 == 0 for size in self.images[2:])

    def _pays(self):
        if self.half and multiplies_tiles():
            return False
        n, _, height, width = self.images
        pairs = self.weight[0] * self.weight[1]
        if self.stride == 2:
            return pairs >= MIN_PAIRS and (not self.half or height * width >= MIN_HALF_PIXELS)
        return pairs >= MIN_PAIRS and n * height * width >= MIN_PIXELS
