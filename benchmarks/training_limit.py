"""How fast a phase could be if it were nothing but its products at the speed of the fastest library routine.

The products of a pass are recorded as PyTorch dispatches them on the 'meta' device: matrix products and convolutions,
forward and both directions backward, with their shapes. Then each shape is timed by itself. As the two products of a
convolution's backward pass have as many operations as its forward pass, they are counted at the forward pass's rate;
a matrix product takes the better of the matrix library and a 1×1 convolution.
"""

import collections
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.scaling import Shapes, batch_of, build, one_pass

__all__ = ["limits", "recorded_products"]

#: (rows, inputs, outputs) of a matrix product; (images, weight, stride, padding) of a convolution.
Product = tuple
COVERED = 0.98  # of the operations are timed, the dearest shapes first; the rest is taken to be as fast
ROUNDS, LEAST_SECONDS = 3, 0.02  # of a timing


def recorded_products(work: Callable[[], None]) -> dict[Product, float]:
    """Operations (multiplications and additions) by product, of what `work` does on the 'meta' device."""
    operations: dict[Product, float] = collections.Counter()

    def product(rows: int, inputs: int, outputs: int) -> int:
        operations["product", rows, inputs, outputs] += (flops := 2 * rows * inputs * outputs)
        return flops

    def mm(a, b, **_):
        return product(a[0], a[1], b[1])

    def addmm(_, a, b, **__):
        return product(a[0], a[1], b[1])

    def bmm(a, b, **_):
        return sum(product(*a[1:], b[2]) for _ in range(a[0]))

    def baddbmm(_, a, b, **__):
        return sum(product(*a[1:], b[2]) for _ in range(a[0]))

    def convolve(x, w, out, stride, padding) -> int:
        flops = 2 * math.prod(out) * math.prod(w[1:])
        operations["convolution", tuple(x), tuple(w), tuple(stride), tuple(padding)] += flops
        return flops

    def convolution(x, w, _, stride, padding, dilation, transposed, *__, out_shape, **___):
        if transposed or w[1] != x[1]:  # resampling filters, which are no product of the network
            return 0
        return convolve(x, w, out_shape, stride, padding)

    def convolution_backward(grad, x, w, _, stride, padding, dilation, transposed, __, groups, mask, **___):
        if transposed or groups != 1:
            return 0
        return sum(convolve(x, w, grad, stride, padding) for wanted in mask[:2] if wanted)

    aten = torch.ops.aten
    rules = {
        aten.mm: mm, aten.addmm: addmm, aten.bmm: bmm, aten.baddbmm: baddbmm,
        aten.convolution: convolution, aten.convolution_backward: convolution_backward,
    }  # fmt: skip
    with FlopCounterMode(display=False, custom_mapping=rules):
        work()
    return dict(operations)


def limits(options: Mapping[str, Any], videos: int) -> dict[str, dict[str, float]]:
    """By phase: operations of a pass, and the seconds they take at the rates of the products alone."""
    _, _, loss, phases = build(options, "meta")
    recorded = {}
    for phase in phases:
        batch = batch_of(videos, options["resolution"], "meta")
        recorded[phase.name] = recorded_products(
            lambda phase=phase, batch=batch: one_pass(loss, phase, batch, Shapes())
        )
    dtype = torch.bfloat16 if options["precision"] == "bf16" else torch.float32
    totals = collections.Counter()
    for operations in recorded.values():
        totals.update(operations)
    seconds, timed, everything = {}, 0.0, sum(totals.values())
    for key, operations in totals.most_common():
        if timed > COVERED * everything:
            break
        seconds[key] = _seconds_per_operation(key, dtype)
        timed += operations
    mean = sum(seconds[key] * totals[key] for key in seconds) / timed
    return {
        name: {
            "operations": sum(operations.values()),
            "limit_seconds": sum(count * seconds.get(key, mean) for key, count in operations.items()),
        }
        for name, operations in recorded.items()
    }


def _seconds_per_operation(key: Product, dtype: torch.dtype) -> float:
    if key[0] == "product":
        rows, inputs, outputs = key[1:]
        x, w = torch.ones(rows, inputs, dtype=dtype), torch.ones(outputs, inputs, dtype=dtype)
        image, kernel = x[None, :, None, :].permute(0, 3, 1, 2), w[:, :, None, None]
        routes = [lambda: F.linear(x, w), lambda: F.conv2d(image, kernel)]
        operations = 2 * rows * inputs * outputs
    else:
        size, shape, stride, padding = key[1:]
        image = torch.ones(size, dtype=dtype).contiguous(memory_format=torch.channels_last)
        kernel = torch.ones(shape, dtype=dtype)
        routes = [lambda: F.conv2d(image, kernel, stride=stride, padding=padding)]
        operations = 2 * routes[0]().numel() * math.prod(shape[1:])
    return min(_best(route) for route in routes) / operations


def _best(work: Callable[[], object]) -> float:
    """Shortest seconds of a few repetitions; short works are repeated within a timing."""
    work()
    best, repeats = math.inf, 1
    for _ in range(ROUNDS):
        while True:
            began = time.perf_counter()
            for _ in range(repeats):
                work()
            elapsed = time.perf_counter() - began
            if elapsed >= LEAST_SECONDS:
                break
            repeats = max(2 * repeats, int(repeats * LEAST_SECONDS / max(elapsed, 1e-6)))
        best = min(best, elapsed / repeats)
    return best
