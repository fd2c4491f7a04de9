"""Timings of products by their fastest library routes; see `benchmarks.products`."""

import itertools
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch.nn import grad

from benchmarks.products import Convolution, MatrixProduct, Product, multiply_adds

__all__ = ["Limit", "TimedProduct", "time_product", "time_products"]

SHORT = 2e-3  # seconds; shorter calls are repeated until they take this long
ROUNDS = 3  # timings of a route, of which the median is used
KEPT = 2  # fastest routes of a first timing, which are timed again
LARGE = 1 << 20  # multiply-adds per product of a batch above which single products are tried as well

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
INPUT_GRADIENTS = {1: grad.conv1d_input, 2: grad.conv2d_input, 3: grad.conv3d_input}
WEIGHT_GRADIENTS = {1: grad.conv1d_weight, 2: grad.conv2d_weight, 3: grad.conv3d_weight}
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}

Route = tuple[str, Callable[[], object]]


@dataclass(frozen=True)
class TimedProduct:
    """A product, its count, and seconds for one by the fastest route."""

    product: Product
    count: int
    seconds: float
    route: str


@dataclass(frozen=True)
class Limit:
    """Time of the products of a computation by the fastest library routes."""

    products: list[TimedProduct]

    @property
    def seconds(self) -> float:
        return sum(p.seconds * p.count for p in self.products)

    @property
    def multiply_adds(self) -> int:
        return multiply_adds(Counter({p.product: p.count for p in self.products}))

    @property
    def rate(self) -> float:
        """Multiplications and additions per second, each counted."""
        return 2 * self.multiply_adds / self.seconds

    def report(self, dearest: int = 10) -> dict:
        """For a JSON file."""
        ranked = sorted(self.products, key=lambda p: -p.seconds * p.count)[:dearest]
        return {
            "seconds": self.seconds,
            "multiply_adds": self.multiply_adds,
            "operations_per_second": self.rate,
            "dearest": [
                {"product": str(p.product), "count": p.count, "seconds": p.seconds, "route": p.route} for p in ranked
            ],
        }


@torch.no_grad()
def time_products(products: Counter[Product], *, dtype: torch.dtype = torch.float32, covered: float = 1.0) -> Limit:
    """Time every shape once by its fastest route, in descending order of multiply-adds.

    Args:
        dtype: Type of the factors, float32 or bfloat16.
        covered: Fraction of the multiply-adds that is timed; the rest is assumed to have the same rate.
    """
    ranked = sorted(products, key=lambda product: -product.multiply_adds * products[product])
    timed, done, whole = [], 0, multiply_adds(products)
    for product in ranked:
        if timed and done >= covered * whole:
            rate = done / sum(p.seconds * p.count for p in timed)
            seconds, route = product.multiply_adds / rate, "as the others"
        else:
            seconds, route = time_product(product, dtype)
            done += product.multiply_adds * products[product]
        timed.append(TimedProduct(product, products[product], seconds, route))
    return Limit(timed)


def time_product(product: Product, dtype: torch.dtype) -> tuple[float, str]:
    """Seconds by the fastest route, and its name."""
    routes = _matrix_routes if isinstance(product, MatrixProduct) else _convolution_routes
    first: list[tuple[float, int, str, Callable]] = []
    for name, run in routes(product, dtype):
        try:
            run()
        except RuntimeError:  # this library has no such product
            continue
        start = time.perf_counter()
        run()
        first.append((time.perf_counter() - start, len(first), name, run))
    best = (float("inf"), "")
    for seconds, _, name, run in sorted(first)[:KEPT]:
        repeats = max(1, int(SHORT / max(seconds, 1e-7)))
        readings = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            for _ in itertools.repeat(None, repeats):
                run()
            readings.append((time.perf_counter() - start) / repeats)
        best = min(best, (statistics.median(readings), name))
    if isinstance(product, MatrixProduct) and product.batch > 1 and product.multiply_adds > LARGE * product.batch:
        seconds, name = time_product(replace(product, batch=1), dtype)
        best = min(best, (seconds * product.batch, f"{name}, one by one"))
    return best


def _matrix_routes(product: MatrixProduct, dtype: torch.dtype) -> Iterator[Route]:
    batch, rows, inner, columns = product.batch, product.rows, product.inner, product.columns
    if batch > 1:
        a, b = torch.ones(batch, rows, inner, dtype=dtype), torch.ones(batch, inner, columns, dtype=dtype)
        turned_a, turned_b = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (a, b))
        yield "batched product", lambda: torch.bmm(a, b)
        yield "batched product, second factor transposed", lambda: torch.bmm(a, turned_b)
        yield "batched product, first factor transposed", lambda: torch.bmm(turned_a, b)
        return
    x, w = torch.ones(rows, inner, dtype=dtype), torch.ones(columns, inner, dtype=dtype)
    yield "linear", lambda: F.linear(x, w)
    turned_x, turned_w = x.t().contiguous().t(), w.t().contiguous()
    yield "product", lambda: x @ turned_w
    yield "product, first factor transposed", lambda: turned_x @ turned_w
    image, kernel = x[None, :, None, :].permute(0, 3, 1, 2), w[:, :, None, None]
    yield "1×1 convolution, channels last", lambda: F.conv2d(image, kernel)
    if inner > max(rows, columns):  # the shape of a weight's gradient
        of, like = turned_x.t()[None, :, None, :].permute(0, 3, 1, 2), turned_w[None, :, None, :].permute(0, 3, 1, 2)
        yield "weight gradient of a 1×1 convolution", lambda: grad.conv2d_weight(like, (rows, columns, 1, 1), of)
    if torch.backends.mkldnn.is_available() and dtype == torch.float32:
        own_x, own_w = x.to_mkldnn(), w.to_mkldnn()
        yield "oneDNN's own layout", lambda: F.linear(own_x, own_w)


def _convolution_routes(product: Convolution, dtype: torch.dtype) -> Iterator[Route]:
    axes = len(product.image) - 2
    geometry = (product.stride, product.padding, product.dilation, product.groups)
    image, weight, output = (torch.ones(s, dtype=dtype) for s in (product.image, product.weight, product.output))
    for layout in ("contiguous", "channels last"):
        if layout != "contiguous":
            if axes not in CHANNELS_LAST:
                return
            image, weight, output = (t.contiguous(memory_format=CHANNELS_LAST[axes]) for t in (image, weight, output))
        if product.wanted == "output":
            yield layout, lambda x=image, w=weight: CONVOLUTIONS[axes](x, w, None, *geometry)
        elif product.wanted == "input":
            yield layout, lambda w=weight, y=output: INPUT_GRADIENTS[axes](product.image, w, y, *geometry)
        else:
            yield layout, lambda x=image, y=output: WEIGHT_GRADIENTS[axes](x, product.weight, y, *geometry)
