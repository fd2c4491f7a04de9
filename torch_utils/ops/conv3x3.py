"""Convolutions of a discriminator: 3x3 ones by Winograd's algorithm on the CPU, all others by PyTorch.

The three bilinear maps (images, weight) → results, (results, weight) → images and (images, results) → weight are each
other's derivatives, so that derivatives of every order, R1's among them, take the fast route. In float32 with stride 1
all three are Winograd products F(2x2, 3x3) (native/winograd.h): 16 multiplications where the definition has 36, with
rounding errors below those of PyTorch's convolution, which adds up more terms. With stride 2 only the weight's gradient
is native: PyTorch's takes up to six times as long as its forward pass (channels_last, docs/operators.md).
"""

import torch
import torch.nn.functional as F

from torch_utils import custom_ops
from torch_utils.ops.upfirdn2d import filter_size, upfirdn2d
from torch_utils.ops.weight_gradients import weight_gradients_wanted

__all__ = ["IMPLEMENTATIONS", "convolve", "filtered_convolve"]

IMPLEMENTATIONS = ("auto", "ref", "cpu")

#: Below so many pixels the weight's transform costs more than what is saved (CPU).
MIN_PIXELS = 1024
#: Channels come in vectors of the processor, two at a time.
CHANNELS = 32


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
        padding: Zeros around, (above and below, left and right).
        impl: 'ref' for PyTorch; 'cpu' for the native operator; 'auto' for the native operator where there is one and it
            is faster.

    Returns:
        [N, O, H', W'], differentiable any number of times.

    Raises:
        ValueError: an unknown implementation.
        RuntimeError: impl='cpu', but there is no native operator, or none for these tensors.
    """
    library = _library(x, w, stride, padding, groups, impl)
    if library is None:
        return F.conv2d(x, w, stride=stride, padding=padding, groups=groups)
    if _recorded(x, w):
        return _Results.apply(x, w, stride, library)
    return _results(x, w, stride, library)


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
    """`convolve` without padding, of images that were padded and filtered first (see `upfirdn2d`).

    Where it is native, filtered images are not kept for the backward pass but filtered again.
    """
    library = _library(x, w, stride, (0, 0), groups, impl)
    if library is None or not _recorded(x, w):
        return convolve(upfirdn2d(x, f, padding=padding), w, stride=stride, groups=groups, impl=impl)
    return _FilteredResults.apply(x, w, f, padding, stride, library)


def _recorded(*tensors):
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _library(x, w, stride, padding, groups, impl):
    """The native operators, or None where they cannot be had or gain nothing."""
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"conv3x3: unknown implementation {impl!r}; choose one of {', '.join(IMPLEMENTATIONS)}")
    if impl == "ref":
        return None
    fits = _fits(x, w, stride, padding, groups)
    if impl == "cpu":
        if not fits:
            raise RuntimeError(
                "conv3x3: impl='cpu' takes float32 images on the CPU in channels_last and 3x3 weights without groups, "
                f"both of multiples of {CHANNELS} channels: of even size with stride=1 and padding=1, of any with "
                f"stride=2 and padding=0; not {x.dtype} {list(x.shape)} on {x.device}, weight {list(w.shape)}"
            )
        return custom_ops.require("winograd", "cpu")
    pays = x.shape[0] * x.shape[2] * x.shape[3] >= MIN_PIXELS and (stride == 1 or _recorded(x, w))
    return custom_ops.load("winograd", "cpu") if fits and pays else None


def _fits(x, w, stride, padding, groups):
    if x.device.type != "cpu" or x.dtype != torch.float32 or w.dtype != torch.float32 or groups != 1:
        return False
    if w.shape[2:] != (3, 3) or w.shape[0] % CHANNELS or w.shape[1] % CHANNELS:
        return False
    even = x.shape[2] % 2 == x.shape[3] % 2 == 0
    sizes = ((stride, padding) == (1, (1, 1)) and even) or (stride, padding) == (2, (0, 0))
    return sizes and x.is_contiguous(memory_format=torch.channels_last)


def _rows(x):
    return x.contiguous(memory_format=torch.channels_last)


def _results(x, w, stride, library):
    if stride == 1:
        return library.winograd_conv(_rows(x), w.contiguous(), False)
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
        wants_weight = ctx.needs_input_grad[1] and weight_gradients_wanted()
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
        if ctx.needs_input_grad[1] and weight_gradients_wanted():
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
        if stride == 1:
            return library.winograd_conv(_rows(grad), w.contiguous(), True)
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
        return library.conv3x3_weight_gradient(_rows(x), _rows(grad), stride)

    @staticmethod
    def backward(ctx, grad_weight):
        x, grad = ctx.saved_tensors
        stride, library = ctx.stride, ctx.library
        for_x = _ImageGradient.apply(grad, grad_weight, x.shape, stride, library) if ctx.needs_input_grad[0] else None
        for_grad = _Results.apply(x, grad_weight, stride, library) if ctx.needs_input_grad[1] else None
        return for_x, for_grad, None, None
