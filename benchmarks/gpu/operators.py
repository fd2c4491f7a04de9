"""Stage of the native operators: builds, parity with float64, derivatives by finite differences, times."""

import concurrent.futures
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from benchmarks.gpu.record import ROOT, Bench, largest, seconds_per_call
from benchmarks.operators import Case, cases, run_passes
from torch_utils import custom_ops
from torch_utils.custom_ops import no_weight_gradients
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.composite import ray_weights, weighted_sum
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d

__all__ = ["operators"]

PARITY_TYPES = (torch.float32, torch.float16, torch.bfloat16)
TINY = 1 << 17  # elements of a case of the miniature
#: The native operator may be off by this many times the error of plain PyTorch in the same type, plus `ROUNDINGS`
#: units of rounding (relative, in the norm over all elements).
FACTOR, ROUNDINGS = 2, 4


def operators(bench: Bench) -> None:
    """Builds, derivatives by finite differences, parity, times."""
    record = bench.record
    built = _build(bench)
    chosen = _chosen_cases(bench, built)
    with record.attempt("gradcheck"):
        _check_derivatives(bench, built)
    errors = []
    for case in chosen:
        if bench.left() < 0.3 * bench.seconds:
            record.note(f"Out of time: {len(chosen) - len(errors)} of {len(chosen)} comparisons were left out.")
            break
        errors.append(math.inf)
        with record.attempt(_title(case)):
            errors[-1] = _parity(bench, case)
    speeds = []
    for case in chosen:
        if case.dtype == torch.bfloat16:
            continue
        if bench.left() < 5:
            record.note("Out of time: some times were left out.")
            break
        with record.attempt(f"time of {_title(case)}"):
            speeds += _times(bench, case)
    faster = sum(speed > 1 for speed in speeds)
    record.headline(
        f"{len(built)} built, {len(errors)} comparisons with float64 (largest error {largest(errors):.2g} × the "
        f"bound), faster than plain PyTorch in {faster} of {len(speeds)} passes"
    )


def _chosen_cases(bench: Bench, built: list[str]) -> list[Case]:
    """Every shape of the operators that are built, in the three types of training."""
    by_shape = {
        (case.operator, case.what, case.inputs): case
        for case in reversed(cases(bench.device))
        if case.operator in built and case.call.__name__ != "before_activation"
    }
    found = list(by_shape.values())[::-1]
    if bench.tiny:
        found = [case for case in found if max(torch.Size(shape).numel() for shape in case.inputs) <= TINY]
    return [replace(case, dtype=dtype) for case in found for dtype in PARITY_TYPES]


def _title(case: Case) -> str:
    return f"{case.operator}, {case.what}, {_name(case.dtype)}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _build(bench: Bench) -> list[str]:
    """Build all operators in parallel, each in its own process; names of those that load."""
    names = custom_ops.operator_names(bench.impl)
    if bench.tiny:
        names = [name for name in names if name in ("bias_act", "composite", "upfirdn2d")]

    def build(name: str) -> tuple[float, str]:
        code = f"from torch_utils import custom_ops; custom_ops.require({name!r}, {bench.impl!r})"
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
        return time.perf_counter() - began, done.stderr.decode(errors="replace")[-1500:] if done.returncode else ""

    loaded = []
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for name, (seconds, problem) in zip(names, pool.map(build, names)):
            bench.record.row("Builds (in parallel, start of Python included)", operator=name, seconds=seconds)
            if problem:
                bench.record.fail(f"build of {name}", problem)
                continue
            with bench.record.attempt(f"loading {name}"):
                custom_ops.require(name, bench.impl)
                loaded.append(name)
    return loaded


def _inputs(case: Case, device: torch.device) -> list[torch.Tensor]:
    """Random inputs, the same in all types: in [0, 1) for volume rendering, else in [-1/2, 1/2].

    Images are odd multiples of 1/512 and biases even ones, so that their sum is never 0, where leaky ReLU has no
    derivative and implementations differ.
    """
    random = torch.Generator().manual_seed(0)
    inputs = []
    for i, shape in enumerate(case.inputs):
        x = torch.rand(shape, generator=random)
        if case.operator != "composite":
            x = (2 * torch.floor(256 * x) - (255 if i == 0 else 256)) / 512
        inputs.append(x.to(device))
    return inputs


def _derivatives(case: Case, impl: str, inputs: list[torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Result, gradients, and the second derivatives that R1 takes."""
    leaves = [x.to(dtype).requires_grad_() for x in inputs]
    y = case.call(impl, *leaves)
    found = {"result": y}
    if not y.requires_grad:
        return found
    dy = torch.cos(torch.arange(y.numel(), device=y.device)).view(y.shape).to(y.dtype).requires_grad_()
    for i, gradient in enumerate(torch.autograd.grad(y, leaves, dy.detach(), retain_graph=True)):
        found[f"gradient {i}"] = gradient
    if "R1" in case.passes:
        with no_weight_gradients():
            (dx,) = torch.autograd.grad(y, leaves[:1], dy, create_graph=True)
        ddx = torch.sin(torch.arange(dx.numel(), device=dx.device)).view(dx.shape).to(dx.dtype)
        for i, second in enumerate(torch.autograd.grad(dx, [dy, *leaves], ddx, allow_unused=True)):
            if second is not None:
                found[f"second derivative {i}"] = second
    return {name: tensor.detach() for name, tensor in found.items()}


def _error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    difference, norm = (actual.double() - expected.double()).norm(), expected.double().norm()
    return float(difference / norm) if norm > 0 else float(difference)


def _parity(bench: Bench, case: Case) -> float:
    """Errors of plain PyTorch and of the native operator against plain PyTorch in float64; returns error / bound."""
    inputs = [x.to(case.dtype) for x in _inputs(case, bench.device)]
    exact = _derivatives(case, "ref", inputs, torch.float64)
    plain = _derivatives(case, "ref", inputs, case.dtype)
    native = _derivatives(case, bench.impl, inputs, case.dtype)
    worst, cells = 0.0, {}
    for name, expected in exact.items():
        zero = torch.zeros_like(expected)  # a missing derivative is zero
        errors = _error(native.get(name, zero), expected), _error(plain.get(name, zero), expected)
        bound = FACTOR * errors[1] + ROUNDINGS * torch.finfo(case.dtype).eps
        worst = largest([worst, errors[0] / bound])
        kind = name.rsplit(" ", 1)[0]
        cells[kind] = max(cells.get(kind, errors), errors)
        if not errors[0] <= bound:
            reason = f"{name}: relative error {errors[0]:.2e}, of plain PyTorch {errors[1]:.2e}, allowed {bound:.2e}"
            bench.record.fail(_title(case), reason)
    columns = {kind: f"{native_error:.1e} ({plain_error:.1e})" for kind, (native_error, plain_error) in cells.items()}
    bench.record.row(
        "Relative error of the native operator against float64 (in brackets: of plain PyTorch)",
        operator=case.operator, case=case.what, shape=_shape(case), type=_name(case.dtype), **columns,
    )  # fmt: skip
    return worst


def _shape(case: Case) -> str:
    return "×".join(map(str, case.inputs[-1 if case.operator == "composite" else 0]))


def _check_derivatives(bench: Bench, built: list[str]) -> None:
    """torch.autograd.gradcheck and gradgradcheck of the native operators in float64, on small shapes."""
    impl, device = bench.impl, bench.device
    random = torch.Generator().manual_seed(1)

    def leaf(*shape: int, low: float = -1.0) -> torch.Tensor:
        x = torch.rand(shape, generator=random, dtype=torch.float64) * (1 - low) + low
        return x.to(device).requires_grad_()

    f = setup_filter([1, 3, 3, 1]).to(device)
    checks: list[tuple[str, str, Callable, tuple[torch.Tensor, ...], bool]] = []
    for act in ("linear", "lrelu", "swish", "sigmoid", "softplus", "tanh"):

        def activate(x, b, act=act):
            return bias_act(x, b, act=act, clamp=0.9 if act == "lrelu" else None, impl=impl)

        checks.append(("bias_act", act, activate, (leaf(2, 3, 4, 5), leaf(3)), True))
    for up, down in ((1, 1), (2, 1), (1, 2)):

        def resample(x, up=up, down=down):
            return upfirdn2d(x, f, up=up, down=down, padding=2, impl=impl)

        checks.append(("upfirdn2d", f"up {up}, down {down}", resample, (leaf(2, 3, 6, 8),), True))

    def weigh(density, deltas):
        return ray_weights(density, deltas, last_opaque=False, impl=impl)

    def add_up(weights, features):
        return weighted_sum(weights, features, impl=impl)

    checks.append(("composite", "weights", weigh, (leaf(5, 7, low=0.1), leaf(5, 6, low=0.1)), False))
    checks.append(("composite", "sum", add_up, (leaf(5, 7), leaf(5, 7, 4)), False))
    passed = 0
    for operator, what, function, inputs, twice in checks:
        if operator not in built:
            continue
        with bench.record.attempt(f"gradcheck of {operator}, {what}"):
            torch.autograd.gradcheck(function, inputs, nondet_tol=1e-12)
            if twice:
                torch.autograd.gradgradcheck(function, inputs, nondet_tol=1e-12)
            passed += 1
    bench.record.figure("finite differences in float64 (gradcheck, gradgradcheck)", f"{passed} of {len(checks)} passed")


def _times(bench: Bench, case: Case) -> list[float]:
    """Rows of times; how many times as fast the native operator is, by pass."""
    inputs, speeds = [x.to(case.dtype) for x in _inputs(case, bench.device)], []
    with torch.no_grad():
        result = case.call("ref", *inputs)
    for passes in case.passes:
        plain, native = (
            seconds_per_call(run_passes(case, passes, impl, inputs, result), bench.device)
            for impl in ("ref", bench.impl)
        )
        speeds.append(plain / native)
        bench.record.row(
            "Times (gradient and R1: with the passes before)", operator=case.operator, case=case.what,
            type=_name(case.dtype), passes=passes, plain_ms=1e3 * plain, native_ms=1e3 * native,
            speed=speeds[-1],
        )  # fmt: skip
    return speeds
