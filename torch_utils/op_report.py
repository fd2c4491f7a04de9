"""The command `python -m torch_utils.custom_ops`: builds all native operators, prints versions and timings."""

import dataclasses
import json
import os
import platform
import shlex
import sys
import time

import click
import torch
from tqdm import tqdm

from dnnlib import UserError, atomic_write, choices_hint
from dnnlib.command_line import Command
from torch_utils import custom_ops, op_build, op_timings
from torch_utils.memory import keep_freed_memory

__all__ = ["command", "versions"]


@click.command(cls=Command, help="Build all native operators; print versions, and times beside those of plain PyTorch.")
@click.option("--build-only", is_flag=True, help="No timings.")
@click.option("--op", "operators", multiple=True, help="Time only this operator (can be repeated).")
@click.option("--json", "json_file", metavar="FILE", help="Also write versions and timings to a file.")
def command(build_only: bool, operators: tuple[str, ...], json_file: str | None) -> None:
    known = sorted({case.operator for case in op_timings.cases()})
    for name in operators:
        if name not in known:
            raise UserError(f"--op: there are no timings of '{name}'; {choices_hint(name, known)}")
    facts = versions()
    for key, value in facts.items():
        print(f"{key:12} {value}")
    print()
    built = build_all()
    rows = []
    if not build_only:
        print()
        rows = list(print_timings([name for name in operators or known if built.get(f"{name} cpu") is None]))
    if json_file is not None:
        report = {"versions": facts, "failures": {k: v for k, v in built.items() if v is not None}, "timings": rows}
        with atomic_write(json_file, "w") as file:
            json.dump(report, file, indent=1)


def versions() -> dict[str, str]:
    """What the figures depend on."""
    compiler, home, ninja = op_build.cxx_compiler(), op_build.cuda_home(), op_build.ninja_command()
    none = "none found"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "C++ compiler": none if compiler is None else _version(compiler),
        "ninja": none if ninja is None else _version((ninja,)),
        "CUDA toolkit": none if home is None else _version((str(home / "bin" / "nvcc"),)),
        "CUDA device": torch.cuda.get_device_name() if torch.cuda.is_available() else none,
        "processor": f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "cache": str(op_build.library_folder()),
    }


def _version(command: tuple[str, ...]) -> str:
    return f"{op_build.compiler_version(command)} ({shlex.join(command)})"


def _processor() -> str:
    """Its name, and the vector instructions that PyTorch uses."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def build_all() -> dict[str, str | None]:
    """Build what can be built here; '<operator> <device type>' → None, or why there is none."""
    outcomes: dict[str, str | None] = {}
    device_types = {"cpu": "_cpu.cpp"}
    if torch.cuda.is_available():
        device_types["cuda"] = "_cuda.cpp"
    else:
        print("No CUDA device: CUDA operators are not built.")
    for device_type, suffix in device_types.items():
        for source in sorted(op_build.SOURCES.glob(f"*/*{suffix}")):
            name = source.name.removesuffix(suffix)
            start = time.perf_counter()
            outcome = None
            try:
                custom_ops.require(name, device_type)
            except RuntimeError as error:
                outcome = str(error)
            outcomes[f"{name} {device_type}"] = outcome
            print(
                f"{name} ({device_type}): {outcome or f'ready after {time.perf_counter() - start:.1f} s'}", flush=True
            )
    return outcomes


def print_timings(operators: list[str]) -> list[dict]:
    """Time the cases of these operators and print a table; times are in milliseconds."""
    keep_freed_memory()  # as training does
    chosen = [case for case in op_timings.cases() if case.operator in operators]
    rows = [
        row
        for case in tqdm(chosen, desc="timing", file=sys.stderr, disable=not chosen)
        for row in op_timings.measure(case)
    ]
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
