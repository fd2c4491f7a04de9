"""Test and benchmark of a GPU in a few minutes: `python -m benchmarks.gpu [--out DIR] [--minutes 8] [--only STAGE]`.

Every stage runs in a process of its own with a time limit, so that a crash or a hang of one does not stop the others.
After each, DIR/report.md and DIR/report.json are written, with up to three pictures. Stages for which no time is left
are listed as skipped. The exit status is 0 if all went well, 1 if something failed, 2 without a CUDA device.

It needs PyTorch 2.4 or newer with CUDA, NumPy, Pillow, click, tqdm, ninja and a CUDA toolkit with nvcc for the native
operators (without one, that stage fails and the others run in plain PyTorch), the pure Python packages hydra-core and
omegaconf (with antlr4-python3-runtime and PyYAML), and imageio-ffmpeg for the run of generate.py. The stage 'goldens'
needs the folder tests/ of a checkout.
"""

import sys
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.gpu.report import PICTURES, write_report
from benchmarks.gpu.runner import run_stages
from benchmarks.gpu.stages import STAGES
from dnnlib import UserError, choices_hint, run_cli
from dnnlib.command_line import Command, finite_float

NO_DEVICE = "There is no CUDA device: this command tests GPUs. `python -m benchmarks` measures the CPU."


def chosen(only: tuple[str, ...]) -> list[str]:
    """Names of the selected stages, in their order."""
    names = [name for text in only for name in text.split(",")] or list(STAGES)
    for name in names:
        if name not in STAGES:
            raise UserError(f"--only: there is no stage '{name}'; {choices_hint(name, STAGES)}")
    return [name for name in STAGES if name in names]


@click.command(cls=Command)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("out/gpu"), show_default=True,
              help="Folder of the report.")  # fmt: skip
@click.option("--minutes", type=finite_float(0, above=True), default=8.0, show_default=True, help="Time limit.")
@click.option("--only", multiple=True, metavar="STAGE", help=f"Some of {', '.join(STAGES)} (can be repeated).")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", hidden=True)
def main(out: Path, minutes: float, only: tuple[str, ...], device: str) -> None:
    """Test a GPU and measure its speed."""
    names = chosen(only)
    if device == "cuda" and not torch.cuda.is_available():
        click.echo(NO_DEVICE, err=True)
        sys.exit(2)
    out.mkdir(parents=True, exist_ok=True)
    for name in PICTURES:  # of an earlier run
        (out / name).unlink(missing_ok=True)
    results: dict[str, dict[str, Any]] = {}

    def tell(name: str, result: dict[str, Any]) -> None:
        results[name] = result
        write_report(out, results)
        click.echo(f"{name}: {result['status']}, {result.get('wall', 0):.0f} s; {result['headline']}")
        for failure in result["failures"][:3]:
            click.echo(f"  failed: {failure['what']}: {failure['reason'].splitlines()[-1][:300]}")

    run_stages(names, device=device, seconds=60 * minutes, folder=out.resolve(), tiny=device == "cpu", tell=tell)
    click.echo(str(out / "report.md"))
    if any(result["failures"] for result in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
