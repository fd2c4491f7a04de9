"""Convolutions of a discriminator: 3x3 ones by Winograd's algorithm on the CPU, all others by PyTorch.

The three bilinear maps (images, weight) → results, (results, weight) → images and (images, results) → weight are each
other's derivatives, so that derivatives of every order, R1's among them, take the fast route. In float32 with stride 1
all three are Winograd products F(2x2, 3x3) (native/winograd.h): 16 multiplications where the definition has 36, with
rounding errors below those of PyTorch's convolution, which adds up more terms. With stride 2 only the weight's gradient
is native: PyTorch's ran at a sixth of the speed of its forward pass (channels_last, docs/performance.md).
"""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from torch_utils import custom_ops
from torch_utils.ops.upfirdn2d import filter_size, upfirdn2d

__all__ = ["convolve", "filtered_convolve", "no_weight_gradients"]

#: Below so many pixels the weight's transform costs more than what is saved (CPU).
MIN_PIXELS = 1024
#: Channels come in vectors of the processor, two at a time.
CHANNELS = 32


def convolve(
    x: torch.Tensor, w: torch.Tensor, *, stride: int = 1, padding: tuple[int, int] = (0, 0), groups: int = 1
) -> torch.Tensor:
    """`torch.nn.functional.conv2d` without dilation: images [N, C, H, W], weight [O, C / groups, h, w]."""
    library = _library(x, w, stride, padding, groups)
    if library is None:
        return F.conv2d(x, w, stride=stride, padding=padding, groups=groups)
    if _recorded(x, w):
        return _Results.apply(x, w, stride, library)
    return _results(x, w, stride, library)


def filtered_convolve(
    x: torch.Tensor, w: torch.Tensor, f: torch.Tensor, *, padding: tuple[int, int, int, int], stride: int, groups: int
) -> torch.Tensor:
    """`convolve` without padding, of images that were padded and filtered first (see `upfirdn2d`).

    Where it is native, filtered images are not kept for the backward pass but filtered again.
    """
    library = _library(x, w, stride, (0, 0), groups)
    if library is None or not _recorded(x, w):
        return convolve(upfirdn2d(x, f, padding=padding), w, stride=stride, groups=groups)
    return _FilteredResults.apply(x, w, f, padding, stride, library)


def _recorded(*tensors):
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


class _Wanted:
    """What backward passes compute. A function of Python is not told which of its gradients are asked for."""

    weight_gradients = True


@contextlib.contextmanager
def no_weight_gradients() -> Iterator[None]:
    """Within, a backward pass leaves out the gradients of weights: for `torch.autograd.grad` of images alone.

    Higher derivatives of its results are complete.
    """
    _Wanted.weight_gradients = False
    try:
        yield
    finally:
        _Wanted.weight_gradients = True


def _library(x, w, stride, padding, groups):
    """The native operators, or None where they cannot be had or gain nothing."""
    plain = x.device.type != "cpu" or x.dtype != torch.float32 or w.dtype != torch.float32 or groups != 1
    if plain or w.shape[2:] != (3, 3) or w.shape[0] % CHANNELS or w.shape[1] % CHANNELS:
        return None
    n, _, height, width = x.shape
    if (stride, padding) == (1, (1, 1)):
        fits = height % 2 == width % 2 == 0
    else:
        fits = stride == 2 and padding == (0, 0) and _recorded(x, w)  # else there is nothing to gain
    if not fits or n * height * width < MIN_PIXELS or not x.is_contiguous(memory_format=torch.channels_last):
        return None
    return custom_ops.load("winograd", "cpu")


def _rows(x):
    return x.contiguous(memory_format=torch.channels_last)


def _results(x, w, stride, library):
    if stride == 1:
        return library.winograd_conv(_rows(x), w.permute(2, 3, 1, 0).contiguous())
    return F.conv2d(x, w, stride=stride)


class _Results(torch.autograd.Function):
    """(images, weight) → results."""

    @staticmethod
    def forward(ctx, x, w, stride, library):
        ctx.save_for_backward(x, w)
        ctx.stride, ctx.library = stride, library
        return _results(x, w, stride, library)

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        stride, library = ctx.stride, ctx.library
        grad_x = _ImageGradient.apply(grad, w, x.shape, stride, library) if ctx.needs_input_grad[0] else None
        wants_weight = ctx.needs_input_grad[1] and _Wanted.weight_gradients
        grad_w = _WeightGradient.apply(x, grad, stride, library) if wants_weight else None
        return grad_x, grad_w, None, None


class _FilteredResults(torch.autograd.Function):
    """(images, weight) → results of the filtered images."""

    @staticmethod
    def forward(ctx, x, w, f, padding, stride, library):
        ctx.save_for_backward(x, w, f)
        ctx.padding, ctx.stride, ctx.library = padding, stride, library
        return _results(upfirdn2d(x, f, padding=padding), w, stride, library)

    @staticmethod
    def backward(ctx, grad):
        x, w, f = ctx.saved_tensors
        padding, stride, library = ctx.padding, ctx.stride, ctx.library
        # Everything here is differentiable, in x as well: so are the gradients.
        grad_x = grad_w = None
        if ctx.needs_input_grad[1] and _Wanted.weight_gradients:
            grad_w = _WeightGradient.apply(upfirdn2d(x, f, padding=padding), grad, stride, library)
        if ctx.needs_input_grad[0]:
            fw, fh = filter_size(f)
            x0, x1, y0, y1 = padding
            size = (*x.shape[:2], x.shape[2] + y0 + y1 - fh + 1, x.shape[3] + x0 + x1 - fw + 1)
            filtered = _ImageGradient.apply(grad, w, size, stride, library)
            transposed = [fw - 1 - x0, fw - 1 - x1, fh - 1 - y0, fh - 1 - y1]
            grad_x = upfirdn2d(filtered, f, padding=transposed, flip_filter=True)
        return grad_x, grad_w, None, None, None, None


class _ImageGradient(torch.autograd.Function):
    """(gradients of results, weight) → gradients of images."""

    @staticmethod
    def forward(ctx, grad, w, shape, stride, library):
        ctx.save_for_backward(grad, w)
        ctx.stride, ctx.library = stride, library
        if stride == 1:  # correlation with the mirrored, transposed weight
            return library.winograd_conv(_rows(grad), w.flip([2, 3]).permute(2, 3, 0, 1).contiguous())
        like = torch.empty(shape, dtype=grad.dtype, memory_format=torch.channels_last)
        return torch.ops.aten.convolution_backward(
            grad, like, w, None, [stride] * 2, [0, 0], [1, 1], False, [0, 0], 1, [True, False, False]
        )[0]

    @staticmethod
    def backward(ctx, grad_images):
        grad, w = ctx.saved_tensors
        stride, library = ctx.stride, ctx.library
        for_grad = _Results.apply(grad_images, w, stride, library) if ctx.needs_input_grad[0] else None
        for_w = _WeightGradient.apply(grad_images, grad, stride, library) if ctx.needs_input_grad[1] else None
        return for_grad, for_w, None, None, None


class _WeightGradient(torch.autograd.Function):
    """(images, gradients of results) → gradients of the weight."""

    @staticmethod
    def forward(ctx, x, grad, stride, library):
        ctx.save_for_backward(x, grad)
        ctx.stride, ctx.library = stride, library
        return library.conv3x3_weight_gradient(_rows(x), _rows(grad), stride).permute(3, 2, 0, 1)

    @staticmethod
    def backward(ctx, grad_weight):
        x, grad = ctx.saved_tensors
        stride, library = ctx.stride, ctx.library
        for_x = _ImageGradient.apply(grad, grad_weight, x.shape, stride, library) if ctx.needs_input_grad[0] else None
        for_grad = _Results.apply(x, grad_weight, stride, library) if ctx.needs_input_grad[1] else None
        return for_x, for_grad, None, None
