"""Timings of the native operators on the CPU beside plain PyTorch, on shapes of the published configurations.

    python -m benchmarks.operators [--op bias_act] [--json FILE]

Every case is run by the reference and by the native operator, in alternation with a copy of as many bytes as the
operator must at least read and write. The time of the copy is the limit set by memory: every input is read once, every
result written once, and the tensors that the gradient needs from the forward pass are read once more. The fastest of
many rounds is reported; with a single thread it is processor time, so that other programs hardly matter.
"""

import dataclasses
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import click
import torch
from tqdm import tqdm

from benchmarks.tables import JSON_OPTION, write_json
from dnnlib import UserError, choices_hint, run_cli
from dnnlib.command_line import Command
from torch_utils import custom_ops
from torch_utils.custom_ops import no_weight_gradients
from torch_utils.memory import keep_freed_memory
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.composite import ray_weights, weighted_sum
from torch_utils.ops.conv3x3 import convolve
from torch_utils.ops.point_linear_ref import activation_gradient
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d

__all__ = ["Case", "Timing", "cases", "measure", "run_passes"]

SECONDS = 0.6  # minimum for each row of the table
MIN_ROUNDS, SHORT = 5, 1e-3  # shorter calls are repeated until they take SHORT seconds


@dataclass(frozen=True)
class Case:
    """An operator on inputs of one shape.

    Attributes:
        operator: Name of the operator.
        what: The layer with this shape.
        inputs: Shapes of its inputs; the first one is in channels_last layout if it has four dimensions.
        dtype: Type of the inputs.
        call: (impl, *inputs) → result.
        rereads: Tensors of the forward pass that the gradient reads: 'nothing', 'result' or 'inputs'.
        passes: Timed passes.
    """

    operator: str
    what: str
    inputs: tuple[tuple[int, ...], ...]
    call: Callable[..., torch.Tensor]
    rereads: str
    dtype: torch.dtype = torch.float32
    passes: tuple[str, ...] = ("forward", "gradient", "R1")


@dataclass(frozen=True)
class Timing:
    """A row of the table; times in seconds. `auto`: impl='auto' takes the native operator."""

    operator: str
    what: str
    shape: str
    dtype: str
    passes: str
    reference: float
    native: float
    limit: float
    auto: bool


def cases(device: torch.device | str = "cpu") -> list[Case]:
    """Cases of the FaceForensics model at 256² (8 videos per discriminator pass) and of the small model.

    Args:
        device: Device of the filters.
    """
    found = []

    def layer(impl, x, b):
        return bias_act(x, b, act="lrelu", clamp=256, impl=impl)

    for what, n, channels, size in (
        ("discriminator 256²", 2, 128, 256),
        ("discriminator 128²", 2, 256, 128),
        ("discriminator 64²", 8, 512, 64),
        ("discriminator 32²", 8, 512, 32),
        ("discriminator 16²", 8, 512, 16),
        ("discriminator 8²", 8, 512, 8),
        ("discriminator 4²", 8, 512, 4),
        ("small discriminator 32²", 8, 64, 32),
    ):
        found.append(Case("bias_act", what, ((n, channels, size, size), (channels,)), layer, "result"))
    for size, dtype in ((16, torch.float64), (64, torch.bfloat16), (16, torch.bfloat16), (16, torch.float16)):
        shapes = ((8, 512, size, size), (512,))
        found.append(Case("bias_act", f"discriminator {size}²", shapes, layer, "result", dtype))

    def smooth(impl, x, b):
        return bias_act(x, b, act="swish", impl=impl)

    found.append(Case("bias_act", "swish", ((8, 512, 16, 16), (512,)), smooth, "inputs"))

    blur = setup_filter([1, 3, 3, 1]).to(device)
    nearest = setup_filter([1, 4, 6, 4, 1], normalize=False).to(device) / 64
    filters = {
        "filter of a 3×3 layer": (blur, {"padding": 2}),
        "filter of a skip layer": (blur, {"padding": 1, "down": 2}),
        "upsampler, blurred nearest ×2": (nearest, {"up": 2, "padding": [3, 1, 3, 1]}),
        "upsampler, blur": (blur, {"padding": [2, 1, 2, 1]}),
        "upsampler, colours ×2": (blur, {"up": 2, "padding": [2, 1, 2, 1], "gain": 4}),
    }
    half = torch.bfloat16
    for what, which, shape, dtype in (
        ("filter of a 3×3 layer 256²", "filter of a 3×3 layer", (2, 128, 256, 256), torch.float32),
        ("filter of a 3×3 layer 64²", "filter of a 3×3 layer", (8, 512, 64, 64), torch.float32),
        ("filter of a 3×3 layer 16²", "filter of a 3×3 layer", (8, 512, 16, 16), torch.float32),
        ("filter of a skip layer 64²", "filter of a skip layer", (8, 512, 64, 64), torch.float32),
        ("video ÷2", "filter of a skip layer", (8, 7, 256, 256), torch.float32),
        ("upsampler, blurred nearest ×2", "upsampler, blurred nearest ×2", (2, 256, 64, 64), torch.float32),
        ("upsampler, blur", "upsampler, blur", (2, 64, 128, 128), torch.float32),
        ("upsampler, colours ×2", "upsampler, colours ×2", (2, 3, 128, 128), torch.float32),
        ("small discriminator 32²", "filter of a 3×3 layer", (8, 64, 32, 32), torch.float32),
        ("filter of a 3×3 layer 16²", "filter of a 3×3 layer", (8, 512, 16, 16), half),
        ("filter of a skip layer 64²", "filter of a skip layer", (8, 512, 64, 64), half),
        ("video ÷2", "filter of a skip layer", (8, 7, 256, 256), half),
        ("upsampler, blurred nearest ×2", "upsampler, blurred nearest ×2", (2, 256, 64, 64), half),
        ("upsampler, colours ×2", "upsampler, colours ×2", (2, 3, 128, 128), half),
    ):

        def resample(impl, x, which=which):
            f, arguments = filters[which]
            return upfirdn2d(x, f, **arguments, impl=impl)

        found.append(Case("upfirdn2d", what, (shape,), resample, "nothing", dtype))

    def convolution(impl, x, w):
        return convolve(x, w, padding=(1, 1), impl=impl)

    def strided(impl, x, w):
        return convolve(x, w, stride=2, impl=impl)

    for n, channels, size in ((1, 128, 256), (1, 256, 128), (2, 512, 64), (4, 512, 32), (8, 512, 16), (8, 512, 8)):
        shapes = ((n, channels, size, size), (channels, channels, 3, 3))
        found.append(Case("winograd", f"3×3 layer {size}²", shapes, convolution, "inputs"))
        if size in (256, 64):
            found.append(Case("winograd", f"3×3 layer {size}²", shapes, convolution, "inputs", half))
    found.append(Case("winograd", "small 3×3 layer 32²", ((8, 64, 32, 32), (64, 64, 3, 3)), convolution, "inputs"))
    for n, channels, outputs, size in (
        (1, 128, 256, 256),
        (1, 256, 512, 128),
        (2, 512, 512, 64),
        (4, 512, 512, 32),
        (8, 512, 512, 16),
        (8, 64, 96, 32),
    ):
        what = f"{'small ' if channels == 64 else ''}3×3 layer {size}² ÷2"
        shapes = ((n, channels, size + 1, size + 1), (outputs, channels, 3, 3))
        found.append(Case("winograd", what, shapes, strided, "inputs"))

    def weigh(impl, density, deltas):
        return ray_weights(density, deltas, last_opaque=False, impl=impl)[0]

    def add_up(impl, weights, features):
        return weighted_sum(weights, features, impl=impl)

    for what, inputs, call in (
        ("weights of 8 frames", ((8 * 1024, 28), (8 * 1024, 27)), weigh),
        ("sum over 4 frames", ((4 * 1024, 28), (4 * 1024, 28, 259)), add_up),
        ("small: sum over 8 frames", ((8 * 256, 16), (8 * 256, 16, 35)), add_up),
    ):
        # No penalty takes their second derivatives.
        found.append(Case("composite", what, inputs, call, "inputs", passes=("forward", "gradient")))

    def before_activation(impl, dy, y):
        library = None if impl == "ref" else custom_ops.load("bias_act", "cpu")
        return activation_gradient(dy, y, slope=0.2, clamp=256, wants_bias=True, library=library)[0]

    for what, rows, channels in (("field, 2 frames", 2 * 14336, 128), ("upsampler 128²", 2 * 16384, 256)):
        shapes = ((rows, channels), (rows, channels))
        case = Case("bias_act", f"gradient of a point layer, {what}", shapes, before_activation, "nothing")
        found.append(replace(case, passes=("forward",)))
    return found


def measure(case: Case) -> Iterator[Timing]:
    """One row per kind of pass: without gradients, with gradients, and with the second derivatives of R1."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.rand(shape, generator=generator).to(case.dtype) for shape in case.inputs]
    if inputs[0].ndim == 4:
        inputs[0] = inputs[0].contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        result = case.call("ref", *inputs)
    sizes = [x.numel() * x.element_size() for x in (*inputs, result)]
    read, written = sum(sizes[:-1]), sizes[-1]
    again = {"nothing": 0, "result": written, "inputs": read}[case.rereads]
    traffic = {"forward": read + written, "gradient": 2 * (read + written) + again}
    traffic["R1"] = traffic["gradient"] + read + written + again
    for passes in case.passes:
        count = traffic[passes]
        with mock.patch.object(custom_ops, "load", wraps=custom_ops.load) as loading:
            run_passes(case, passes, "auto", inputs, result)()
        runs = [run_passes(case, passes, impl, inputs, result) for impl in ("ref", "cpu")]
        times = _fastest([*runs, _copy(count)])
        shape = "×".join(map(str, case.inputs[-1 if case.operator == "composite" else 0]))
        dtype = str(case.dtype).removeprefix("torch.")
        yield Timing(case.operator, case.what, shape, dtype, passes, *times, loading.called)


def run_passes(
    case: Case, passes: str, impl: str, inputs: list[torch.Tensor], result: torch.Tensor
) -> Callable[[], object]:
    """A function without arguments that runs the passes once."""
    if passes == "forward":

        def forward():
            with torch.no_grad():
                return case.call(impl, *inputs)

        return forward
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    dy = torch.ones_like(result)
    if passes == "gradient":
        return lambda: torch.autograd.grad(case.call(impl, *leaves), leaves, dy)
    dy.requires_grad_()
    ddx = torch.ones_like(inputs[0])

    def penalty():
        with no_weight_gradients():
            (dx,) = torch.autograd.grad(case.call(impl, *leaves), leaves[:1], dy, create_graph=True)
        return torch.autograd.grad(dx, [dy, *leaves[1:]], ddx, allow_unused=True)

    return penalty


def _copy(count: int) -> Callable[[], object]:
    """Read and write `count` bytes in all."""
    source = torch.ones(max(1, count // 8), dtype=torch.float32)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _fastest(functions: list[Callable[[], object]]) -> list[float]:
    """Seconds per call of each, called in alternation."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    repeats, best = [], [math.inf] * len(functions)
    for function in functions:
        function()
        start = clock()
        function()
        repeats.append(math.ceil(SHORT / max(clock() - start, 1e-6)))
    begun = time.perf_counter()
    for rounds in itertools.count():
        if rounds >= MIN_ROUNDS and time.perf_counter() - begun > SECONDS:
            return best
        for i, function in enumerate(functions):
            start = clock()
            for _ in range(repeats[i]):
                function()
            best[i] = min(best[i], (clock() - start) / repeats[i])


def print_timings(operators: list[str]) -> list[dict]:
    """Time the cases of these operators and print a table; times are in milliseconds."""
    keep_freed_memory()  # as training does
    chosen = [case for case in cases() if case.operator in operators]
    bar = tqdm(chosen, desc="timing", file=sys.stderr, disable=None if chosen else True)
    rows = [row for case in bar for row in measure(case)]
    if rows:
        print("| operator | shape | type | passes | reference | native | limit | speed | auto |")
        print("| :-- | :-- | :-- | :-- | --: | --: | --: | --: | :-- |")
    for row in rows:
        times = " | ".join(f"{1e3 * seconds:.3g}" for seconds in (row.reference, row.native, row.limit))
        print(
            f"| {row.operator}, {row.what} | {row.shape} | {row.dtype} | {row.passes} | {times} "
            f"| {row.reference / row.native:.2f} | {'native' if row.auto else 'reference'} |"
        )
    return [dataclasses.asdict(row) for row in rows]


@click.command(cls=Command, help="Build all native operators and time them beside plain PyTorch.")
@click.option("--op", "operators", multiple=True, help="Time only this operator (can be repeated).")
@JSON_OPTION
def main(operators: tuple[str, ...], file: Path | None) -> None:
    known = sorted({case.operator for case in cases()})
    for name in operators:
        if name not in known:
            raise UserError(f"--op: there are no timings of '{name}'; {choices_hint(name, known)}")
    facts = custom_ops.versions()
    for key, value in facts.items():
        print(f"{key:12} {value}")
    print()
    built = custom_ops.build_all()
    print()
    rows = print_timings([name for name in operators or known if built.get(f"{name} cpu") is None])
    failures = {name: reason for name, reason in built.items() if reason is not None}
    write_json(file, {"versions": facts, "failures": failures, "timings": rows})


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
