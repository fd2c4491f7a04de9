"""Matrix products and convolutions required by a computation.

`record_products` records the shapes of all matrix products and convolutions of a computation, forward and backward. It
does not see into native operators; on the 'meta' device there are none, and nothing is computed.
`library_routes.time_products` times products of the same shapes by every library route that fits and adds up the
fastest: the *limit* of programs that consist of library calls. Depthwise filters are not products between channels and
are not counted, like all other operations.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Convolution", "MatrixProduct", "Product", "multiply_adds", "record_products"]

Shape = tuple[int, ...]


@dataclass(frozen=True, order=True)
class MatrixProduct:
    """`batch` products [rows, inner] × [inner, columns]."""

    batch: int
    rows: int
    inner: int
    columns: int

    @property
    def multiply_adds(self) -> int:
        return self.batch * self.rows * self.inner * self.columns

    def __str__(self) -> str:
        batch = f"{self.batch} × " if self.batch > 1 else ""
        return f"{batch}{self.rows} × {self.inner} → {self.columns}"


@dataclass(frozen=True, order=True)
class Convolution:
    """A convolution of an image [N, C, ...] to [N, O, ...], or one of its derivatives, which have as many operations.

    Attributes:
        wanted: 'output', or the gradient of the 'input' or 'weight'.
        image, weight, output: Shapes; the weight is [O, C / groups, ...].
        stride, padding, dilation: One number per axis.
        groups: Number of channel groups.
    """

    wanted: str
    image: Shape
    weight: Shape
    output: Shape
    stride: Shape
    padding: Shape
    dilation: Shape
    groups: int

    @property
    def multiply_adds(self) -> int:
        return math.prod(self.output) * math.prod(self.weight[1:])

    def __str__(self) -> str:
        size = "×".join(map(str, self.weight[2:]))
        return f"{self.wanted} of {size} convolution {list(self.image)} → {list(self.output)}"


Product = MatrixProduct | Convolution


def multiply_adds(products: Counter[Product]) -> int:
    return sum(product.multiply_adds * count for product, count in products.items())


@contextmanager
def record_products() -> Iterator[Counter[Product]]:
    """Context manager that counts the products inside the `with` block."""
    found: Counter[Product] = Counter()
    with FlopCounterMode(display=False, custom_mapping=_recorders(found)):
        yield found


def _recorders(found: Counter[Product]) -> dict:
    """By operator, a function of its arguments (shapes in place of tensors) that adds its products to `found`."""

    def add(products: Sequence[Product]) -> int:
        found.update(product for product in products if product.multiply_adds)
        return 0

    def matrix(a: Shape, b: Shape) -> int:
        return add([MatrixProduct(1, a[0], a[1], b[1])])

    def batched(a: Shape, b: Shape) -> int:
        return add([MatrixProduct(a[0], a[1], a[2], b[2])])

    def convolution(image, weight, _bias, stride, padding, dilation, transposed, _output_padding, groups, out_shape):
        geometry = (stride, padding, dilation, groups)
        if transposed:
            return add(_convolution("input", out_shape, weight, image, *geometry))
        return add(_convolution("output", image, weight, out_shape, *geometry))

    def convolution_backward(
        grad, image, weight, _bias, stride, padding, dilation, transposed, _output_padding, groups, mask, out_shape
    ):
        geometry = (stride, padding, dilation, groups)
        into, of = (grad, image) if transposed else (image, grad)
        products = []
        if mask[0]:
            products += _convolution("output" if transposed else "input", into, weight, of, *geometry)
        if mask[1]:
            products += _convolution("weight", into, weight, of, *geometry)
        return add(products)

    aten = torch.ops.aten
    return {
        aten.mm: lambda a, b, **_: matrix(a, b),
        aten.addmm: lambda _, a, b, **__: matrix(a, b),
        aten.bmm: lambda a, b, **_: batched(a, b),
        aten.baddbmm: lambda _, a, b, **__: batched(a, b),
        aten.convolution: convolution,
        aten.convolution_backward: convolution_backward,
    }


def _convolution(wanted, image, weight, output, stride, padding, dilation, groups) -> list[Product]:
    """The product that a convolution of `image` to `output` amounts to; empty for a depthwise one."""
    if groups > 1 and weight[1] == 1:
        return []
    axes = len(weight) - 2
    stride, padding, dilation = (tuple(x) * (axes if len(x) == 1 else 1) for x in (stride, padding, dilation))
    if math.prod(weight[2:]) == 1 and set(stride) <= {1} and set(padding) <= {0} and groups == 1:
        outputs, inputs = weight[:2]
        rows = math.prod(output) // outputs
        shapes = {
            "output": (rows, inputs, outputs), "input": (rows, outputs, inputs), "weight": (outputs, rows, inputs)
        }  # fmt: skip
        return [MatrixProduct(1, *shapes[wanted])]
    image, weight, output = (tuple(x) for x in (image, weight, output))
    if wanted == "output" and groups == 1 and math.prod(weight[2:]) > math.prod(output[2:]):
        # Autograd's form of a weight gradient that is itself differentiated: batch and channels are swapped.
        wanted, stride, dilation = "weight", dilation, stride
        image, weight, output = (
            (image[1], image[0], *image[2:]),
            (weight[0], image[0], *output[2:]),
            (image[1], weight[0], *weight[2:]),
        )
    return [Convolution(wanted, image, weight, output, stride, padding, dilation, groups)]
