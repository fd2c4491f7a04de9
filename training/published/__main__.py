"""Conversion and inspection of published checkpoints.

python -m training.published IN.pkl OUT.pt      convert to this program's format
python -m training.published --info IN.pkl      show configuration, sizes, progress, statistics of the tensors
"""

import os
from typing import Any

import click
import torch
import yaml

from dnnlib import UserError, format_bytes, run_cli
from dnnlib.command_line import Command
from training.checkpoints.archive import save_archive
from training.checkpoints.pretrained import DISCRIMINATOR_CONFIG, MODEL, is_pretrained
from training.checkpoints.snapshot import checkpoint_file, load_snapshot
from training.checkpoints.snapshot_files import check_output
from training.networks.discriminator import TimeAwareDiscriminators
from training.networks.generator import Generator
from training.networks.model_summary import parameter_counts
from training.published.loader import build_on_meta
from training.published.pickle_values import UnreadablePickle, printable


def convert_checkpoint(source: str | os.PathLike, out: str | os.PathLike) -> None:
    """Write a published checkpoint as a snapshot of this program.

    Raises:
        UserError: See `read_published`; or the output is the input, or cannot be written.
    """
    check_output(out, source=source)
    save_archive(out, load_snapshot(source))


def describe_snapshot(path: str, content: dict[str, Any]) -> list[str]:
    """Description of a snapshot in lines: file, configuration, sizes, and a row per tensor.

    Discriminators may be missing, and so may the generator's current weights beside their average.
    """
    kinds = {"generator": Generator, "discriminator": TimeAwareDiscriminators}
    config = {name: content[name]["config"] for name in kinds if name in content}
    own = {name: str(content[name]["class"]) for name in config if "class" in content[name]}  # whose code is not run
    try:
        networks = {name: build_on_meta(kinds[name], config[name], name) for name in config if name not in own}
    except UnreadablePickle as error:  # cannot happen for published checkpoints, whose networks were built on loading
        raise UserError(f"{path} {error}") from error
    size = f", {format_bytes(os.path.getsize(path))}" if os.path.isfile(path) else ""
    lines = [f"file        {path}{size}"]
    shown = content["progress"].get("cur_nimg")
    lines.append("kimg        " + ("unknown" if shown is None else f"{shown / 1000:g}"))
    about = [f"{name} {value}" for name, value in content["dataset"].items() if name != "label_examples"]
    lines.append("dataset     " + ", ".join(map(printable, about)))
    lines += [f"class       {name} {printable(kind)}" for name, kind in own.items()]
    try:
        lines += ["", yaml.safe_dump(config, sort_keys=False, default_flow_style=None).rstrip(), "", "parameters"]
    except yaml.YAMLError as error:  # of a class of the user's own, which was not built
        raise UserError(f"{path} is damaged: arguments of its networks are not plain values.") from error
    lines += [f"  {name:28} {count:>12,}" for name, count in parameter_counts(networks).items()]
    average, current = content["generator"]["ema"], content["generator"]["state"]
    states = {"G_ema": average} | ({} if current is average else {"G": current})
    if "discriminator" in content:
        states["D"] = content["discriminator"]["state"]
    for name, state in states.items():
        lines += ["", f"{name:60} {'shape':>16} {'mean':>11} {'std':>11} {'min':>11} {'max':>11}"]
        lines += [_row(printable(str(tensor_name)), tensor) for tensor_name, tensor in state.items()]
    return lines


def _load(source: str) -> dict[str, Any]:
    """The content of a checkpoint; of a model folder without discriminators what there is."""
    path = checkpoint_file(source)
    model = path.name == MODEL and is_pretrained(path.parent)
    alone = model and not (path.parent / DISCRIMINATOR_CONFIG).is_file()
    return load_snapshot(path, average_only=alone)


def _row(name: str, tensor: object) -> str:
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_meta:
        return f"{name:60} not a dense tensor"
    if tensor.is_complex() or tensor.is_quantized:
        return f"{name:60} not a tensor of real numbers"
    shape = "×".join(map(str, tensor.shape)) or "scalar"
    x = tensor.double()
    numbers = (x.mean(), x.std(correction=0), x.min(), x.max()) if x.numel() else ()
    return f"{name:60} {shape:>16}" + "".join(f" {float(number):11.4g}" for number in numbers)


@click.command(cls=Command, context_settings={"max_content_width": 120})
@click.argument("source", metavar="IN.pkl", type=click.Path())
@click.argument("out", metavar="[OUT.pt]", required=False, type=click.Path())
@click.option("--info", is_flag=True, help="Show configuration, sizes, progress and tensors.")
def main(source: str, out: str | None, info: bool) -> None:
    """Convert a published checkpoint IN.pkl to this program's format, OUT.pt; or show what is in it."""
    if out is None and not info:
        raise UserError("Give the name of the file to write, or --info.")
    if info:
        for line in describe_snapshot(source, _load(source)):
            click.echo(line)
    if out is not None:
        convert_checkpoint(source, out)
        click.echo(out)


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
