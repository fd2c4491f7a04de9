"""Native 3x3 convolution as three autograd functions, each other's derivatives (see `conv3x3`)."""

import torch
import torch.nn.functional as F

from torch_utils.custom_ops import weight_gradients_wanted
from torch_utils.ops.upfirdn2d import filter_size, upfirdn2d

__all__ = ["FilteredResults", "Results", "filtered_size", "results"]


#: Stride 2: least height and width of images with native gradients; below, the last row and column cost too much.
MIN_SIZE = 17


def filtered_size(size: torch.Size, f: torch.Tensor, padding: tuple[int, int, int, int]) -> torch.Size:
    """Size of images of `size` after padding and filtering."""
    fw, fh = filter_size(f)
    x0, x1, y0, y1 = padding
    return torch.Size((*size[:2], size[2] + y0 + y1 - fh + 1, size[3] + x0 + x1 - fw + 1))


def _rows(x):
    return x.contiguous(memory_format=torch.channels_last)


def results(x: torch.Tensor, w: torch.Tensor, stride: int, library) -> torch.Tensor:
    """The convolution of `Results`, without gradients."""
    if _library_is_faster(x, stride):
        return F.conv2d(x, w, stride=stride)
    return library.conv3x3(_rows(x), w.contiguous(), stride)


def _library_is_faster(x, stride):
    """True with stride 2 in bfloat16: PyTorch's products take half the time each, and are fewer than twice ours."""
    return stride == 2 and x.dtype == torch.bfloat16


class Results(torch.autograd.Function):
    """(images, weight) → results."""

    @staticmethod
    def forward(ctx, x, w, stride, library):
        ctx.save_for_backward(x, w)
        ctx.stride, ctx.library = stride, library
        return results(x, w, stride, library)

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        stride, library = ctx.stride, ctx.library
        grad_x = ImageGradient.apply(grad, w, x.shape, stride, library) if ctx.needs_input_grad[0] else None
        wants_weight = ctx.needs_input_grad[1] and weight_gradients_wanted(grad.device)
        grad_w = WeightGradient.apply(x, grad, stride, library) if wants_weight else None
        return grad_x, grad_w, None, None


class FilteredResults(torch.autograd.Function):
    """(images, weight) → results of the filtered images."""

    @staticmethod
    def forward(ctx, x, w, f, padding, stride, library):
        ctx.save_for_backward(x, w, f)
        ctx.padding, ctx.stride, ctx.library = padding, stride, library
        return results(upfirdn2d(x, f, padding=padding), w, stride, library)

    @staticmethod
    def backward(ctx, grad):
        x, w, f = ctx.saved_tensors
        padding, stride, library = ctx.padding, ctx.stride, ctx.library
        # All of these operators are differentiable, in x as well, and so are the gradients.
        grad_x = grad_w = None
        if ctx.needs_input_grad[1] and weight_gradients_wanted(grad.device):
            grad_w = WeightGradient.apply(upfirdn2d(x, f, padding=padding), grad, stride, library)
        if ctx.needs_input_grad[0]:
            fw, fh = filter_size(f)
            x0, x1, y0, y1 = padding
            filtered = ImageGradient.apply(grad, w, filtered_size(x.shape, f, padding), stride, library)
            transposed = [fw - 1 - x0, fw - 1 - x1, fh - 1 - y0, fh - 1 - y1]
            grad_x = upfirdn2d(filtered, f, padding=transposed, flip_filter=True)
        return grad_x, grad_w, None, None, None, None


class ImageGradient(torch.autograd.Function):
    """(gradients of results, weight) → gradients of images."""

    @staticmethod
    def forward(ctx, grad, w, shape, stride, library):
        ctx.save_for_backward(grad, w)
        ctx.stride, ctx.library = stride, library
        if stride == 1 or not (_library_is_faster(grad, stride) or min(shape[2:]) < MIN_SIZE):
            return library.conv3x3_image_gradient(_rows(grad), w.contiguous(), stride, *shape[2:])
        like = torch.empty(shape, dtype=grad.dtype, memory_format=torch.channels_last)
        return torch.ops.aten.convolution_backward(
            grad, like, w, None, [stride] * 2, [0, 0], [1, 1], False, [0, 0], 1, [True, False, False]
        )[0]

    @staticmethod
    def backward(ctx, grad_images):
        grad, w = ctx.saved_tensors
        stride, library = ctx.stride, ctx.library
        for_grad = Results.apply(grad_images, w, stride, library) if ctx.needs_input_grad[0] else None
        for_w = WeightGradient.apply(grad_images, grad, stride, library) if ctx.needs_input_grad[1] else None
        return for_grad, for_w, None, None, None


class WeightGradient(torch.autograd.Function):
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
        for_x = ImageGradient.apply(grad, grad_weight, x.shape, stride, library) if ctx.needs_input_grad[0] else None
        for_grad = Results.apply(x, grad_weight, stride, library) if ctx.needs_input_grad[1] else None
        return for_x, for_grad, None, None
