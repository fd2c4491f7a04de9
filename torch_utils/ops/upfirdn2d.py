"""Upsampling, FIR filtering and downsampling of images (StyleGAN2, Karras et al. 2020, appendix B).

The definition, for every channel and each axis separately:

    1. insert up - 1 zeros after every sample,
    2. pad with zeros (negative padding crops),
    3. convolve with the filter (true convolution: the filter is mirrored, unless `flip_filter`), valid positions only,
    4. keep every down-th sample, starting with the first.

The native operator (csrc/upfirdn2d/upfirdn2d.h) takes one pass over memory; the reference is made of depthwise
convolutions (upfirdn2d_ref). Either way the gradient with respect to the images is again an upfirdn2d, with the filter
mirrored and `up` and `down` exchanged, and so are derivatives of every order. The filter gets no gradient.
"""

import dataclasses
from collections.abc import Sequence

import torch

from torch_utils import custom_ops
from torch_utils.argument_checks import check_images, check_number, is_list, shown, whole_number
from torch_utils.ops.upfirdn2d_ref import upfirdn2d_ref

__all__ = [
    "BLUR",
    "downsample2d",
    "filter2d",
    "parse_padding",
    "setup_filter",
    "upfirdn2d",
    "upfirdn2d_ref",
    "upsample2d",
]

#: Least number of values for which 'auto' chooses the native operator on the CPU (figures: docs/operators.md). It does
#: so in float32 and bfloat16 for images of few channels, where it is at least twice as fast; in bfloat16 for all
#: upsampling (and gradients of downsampling), where PyTorch's transposed convolutions take 3 to 16 times as long; and
#: always in float16 and float64, where it is at least 4 times as fast. For small float32 images of more channels, which
#: fit into the cache, the reference takes 1.3 to 1.4 times as long, gradients included. For large ones the native
#: operator is 0.9 to 2.5 times as fast.
NATIVE_MIN_SIZE, SMALL_SIZE = 1 << 12, 1 << 19
FEW_CHANNELS = 4
#: One axis of the blur of StyleNeRF's upsampler. csrc/fused_mlp holds the same numbers, which must change together
#: with these.
BLUR = (1 / 8, 3 / 8, 3 / 8, 1 / 8)
SEPARABLE_TAPS = 8  # filters with at least this many taps are kept as a vector, i.e. applied in two passes


def setup_filter(
    f: torch.Tensor | Sequence | float | None,
    *,
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> torch.Tensor:
    """Prepare a filter for the functions below.

    Args:
        f: Taps: a vector (both axes), a matrix [height, width], a number, or None for the identity.
        normalize: Divide by the sum of the taps (of the one-dimensional filter if `f` is a vector).
        flip_filter: Mirror the filter.
        gain: Factor on the signal's magnitude.
        separable: Keep a vector as a vector; None: if it has at least 8 taps.

    Returns:
        float32 tensor [taps] or [height, width].

    Raises:
        ValueError: empty filters, more than two dimensions, or values that are not numbers.
    """
    try:
        f = torch.as_tensor(1 if f is None else f, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"setup_filter: a filter is a number, a vector or a matrix, not {shown(f)}") from error
    if f.ndim > 2 or f.numel() == 0:
        raise ValueError(f"setup_filter: a filter is a number, a vector or a matrix, not of shape {list(f.shape)}")
    f = f[None] if f.ndim == 0 else f
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= SEPARABLE_TAPS
    if f.ndim == 1 and not separable:
        f = torch.outer(f, f)
    if separable and f.ndim != 1:
        raise ValueError(f"setup_filter: only a vector can be kept separable, not shape {list(f.shape)}")
    if normalize:
        f = f / f.sum()
    if flip_filter:
        f = f.flip(list(range(f.ndim)))
    return f * gain ** (f.ndim / 2)


def parse_pair(value: int | Sequence[int], what: str) -> tuple[int, int]:
    """int or [x, y] -> (x, y), each at least 1."""
    pair = [value] * 2 if isinstance(value, int) else value
    if not is_list(pair) or len(pair) != 2:
        raise ValueError(f"{what} must be a whole number or a pair [x, y], not {shown(value)}")
    x, y = (whole_number(what, number, low=1) for number in pair)
    return x, y


def parse_padding(padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    """int, [x, y] or [x before, x after, y before, y after] -> the latter."""
    sides = [padding] * 4 if isinstance(padding, int) else padding
    if not is_list(sides) or len(sides) not in (2, 4):
        raise ValueError(f"padding must be a number, a pair or four numbers, not {shown(padding)}")
    if len(sides) == 2:
        sides = [sides[0], sides[0], sides[1], sides[1]]
    px0, px1, py0, py1 = (whole_number("padding", side) for side in sides)
    return px0, px1, py0, py1


def filter_size(f: torch.Tensor | None) -> tuple[int, int]:
    """(width, height) of a filter.

    Raises:
        ValueError: Not a tensor that is a vector or a matrix; `setup_filter` makes one from a list.
    """
    if f is None:
        return 1, 1
    if not isinstance(f, torch.Tensor) or f.ndim not in (1, 2) or f.numel() == 0:
        given = f"of shape {list(f.shape)}" if isinstance(f, torch.Tensor) else shown(f)
        raise ValueError(f"upfirdn2d: the filter must be a vector or a matrix made by setup_filter, not {given}")
    return f.shape[-1], f.shape[0]


def upfirdn2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    *,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """Upsample, pad, filter and downsample every channel of a batch of images.

    Args:
        x: Images [N, C, H, W] of any floating type.
        f: Filter of `setup_filter`: [taps] (applied along both axes), [height, width], or None for the identity.
            No gradient is computed for it.
        up, down: Integer factors, one for both axes or [x, y].
        padding: Relative to the upsampled image: one number, [x, y] or [x before, x after, y before, y after] in
            pixels; negative numbers crop.
        flip_filter: False for convolution, True for correlation.
        gain: Factor on the result.
        impl: 'ref' for plain PyTorch; 'cpu' or 'cuda' for the native operator; 'auto' for the native operator where
            there is one that is faster. The native operators sum in float32 for half precision.

    Returns:
        Images [N, C, (H*up + padding - height)//down + 1, likewise] in the memory format of `x`. Differentiable any
        number of times.

    Raises:
        ValueError: bad shapes or types, factors below one, a result without pixels, or an unknown implementation.
        RuntimeError: impl='cpu' or 'cuda', but there is no native operator, or the images are on another device.
    """
    check_images("upfirdn2d: images", x, "[N, C, H, W]", ndim=4)
    upx, upy = parse_pair(up, "upfirdn2d: up")
    downx, downy = parse_pair(down, "upfirdn2d: down")
    px0, px1, py0, py1 = parse_padding(padding)
    f = torch.ones([1, 1], device=x.device) if f is None else f
    fw, fh = filter_size(f)
    if x.shape[2] * upy + py0 + py1 < fh or x.shape[3] * upx + px0 + px1 < fw:
        raise ValueError(
            f"upfirdn2d: a {fh}x{fw} filter does not fit into an image {list(x.shape)} with up={up}, padding={padding}"
        )
    check_number("upfirdn2d: gain", gain)
    resampling = _Resampling((upx, upy), (downx, downy), (px0, px1, py0, py1), flip_filter, gain, impl)
    if custom_ops.gradients_recorded(x) and not custom_ops.transformed():
        return _Upfirdn2d.apply(x, f.detach(), resampling)
    return resampling.run(x, f)


@dataclasses.dataclass(frozen=True)
class _Resampling:
    """Checked arguments of `upfirdn2d`, one number per axis and side; pairs are (x, y)."""

    up: tuple[int, int]
    down: tuple[int, int]
    padding: tuple[int, int, int, int]
    flip_filter: bool
    gain: float
    impl: str

    def run(self, x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        pays = self._pays_on_cpu(x)
        library = custom_ops.choose("upfirdn2d", self.impl, x, pays_on_cpu=pays, what="images")
        if library is None:
            options = {"up": self.up, "down": self.down, "padding": self.padding}
            return upfirdn2d_ref(x, f, **options, flip_filter=self.flip_filter, gain=self.gain)
        return library.upfirdn2d(x, f, self.up, self.down, self.padding, self.flip_filter, float(self.gain))

    def transposed(self, size: Sequence[int], result: Sequence[int], f: torch.Tensor) -> "_Resampling":
        """The resampling that takes gradients of results [height, width] to gradients of images [height, width]."""
        padding = []
        for axis in (0, 1):
            before, up, down = self.padding[2 * axis], self.up[axis], self.down[axis]
            after = size[1 - axis] * up - result[1 - axis] * down + before - up + 1
            padding += [filter_size(f)[axis] - 1 - before, after]
        changed = {"up": self.down, "down": self.up, "padding": tuple(padding), "flip_filter": not self.flip_filter}
        return dataclasses.replace(self, **changed)

    def _pays_on_cpu(self, x: torch.Tensor) -> bool:
        upsampled = x.dtype == torch.bfloat16 and max(self.up) > 1
        slow_reference = x.dtype not in (torch.float32, torch.bfloat16)
        small = x.dtype == torch.float32 and x.numel() <= SMALL_SIZE
        return x.numel() >= NATIVE_MIN_SIZE and (slow_reference or upsampled or small or x.shape[1] <= FEW_CHANNELS)


class _Upfirdn2d(torch.autograd.Function):
    """`upfirdn2d` as an autograd function: its gradient is the transposed resampling, whose gradient is this again."""

    @staticmethod
    def forward(ctx, x, f, resampling):
        ctx.save_for_backward(f)
        ctx.shape = x.shape
        y = resampling.run(x, f)
        ctx.transposed = resampling.transposed(x.shape[2:], y.shape[2:], f)
        return y

    @staticmethod
    def backward(ctx, grad):
        (f,) = ctx.saved_tensors
        if 0 in ctx.shape:
            return grad.new_zeros(ctx.shape), None, None
        return _Upfirdn2d.apply(grad, f, ctx.transposed), None, None


def filter2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    *,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """Filter images [N, C, H, W], keeping their size; `padding` is added to that. See `upfirdn2d`."""
    px0, px1, py0, py1 = parse_padding(padding)
    fw, fh = filter_size(f)
    padding = [px0 + fw // 2, px1 + (fw - 1) // 2, py0 + fh // 2, py1 + (fh - 1) // 2]
    return upfirdn2d(x, f, padding=padding, flip_filter=flip_filter, gain=gain, impl=impl)


def upsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    *,
    up: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """Upsample images [N, C, H, W] to exactly `up` times their size, keeping their brightness. See `upfirdn2d`."""
    upx, upy = parse_pair(up, "upsample2d: up")
    px0, px1, py0, py1 = parse_padding(padding)
    fw, fh = filter_size(f)
    padding = [px0 + (fw + upx - 1) // 2, px1 + (fw - upx) // 2, py0 + (fh + upy - 1) // 2, py1 + (fh - upy) // 2]
    # Only one of up*up samples is not zero; the gain makes up for that.
    return upfirdn2d(x, f, up=up, padding=padding, flip_filter=flip_filter, gain=gain * upx * upy, impl=impl)


def downsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    *,
    down: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """Downsample images [N, C, H, W] to 1/`down` of their size (rounded down). See `upfirdn2d`."""
    downx, downy = parse_pair(down, "downsample2d: down")
    px0, px1, py0, py1 = parse_padding(padding)
    fw, fh = filter_size(f)
    padding = [
        px0 + (fw - downx + 1) // 2,
        px1 + (fw - downx) // 2,
        py0 + (fh - downy + 1) // 2,
        py1 + (fh - downy) // 2,
    ]
    return upfirdn2d(x, f, down=down, padding=padding, flip_filter=flip_filter, gain=gain, impl=impl)
