"""Model cards (Mitchell et al. 2019) of shared models: data, progress, metrics, licence, picture, command."""

import json
import numbers
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from dnnlib import atomic_write, is_number
from renderer.video import image_grid, save_png
from torch_utils.argument_checks import is_list, shown

__all__ = ["PICTURE", "model_card", "write_card"]

PICTURE = "samples.png"
PAPER = "[3D-Aware Video Generation](https://arxiv.org/abs/2206.14797) (TMLR 2023)"
TAGS = ("video-3d-gan", "video-generation", "3d", "gan", "nerf")


def model_card(
    name: str,
    *,
    about: Mapping[str, Any],
    resolution: int,
    label: int | Sequence[float] | None = None,
    network_class: str | None = None,
    data: str = "",
    licence: str = "",
    metrics: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The README.md of a model folder, which shows PICTURE.

    Args:
        name: Id on the Hub (user/name) or a folder's name.
        about: 'dataset' and 'progress' of the training.
        resolution: Width of the images in pixels.
        label: Class, or numbers of a label, for the commands; None for a generator without labels.
        network_class: Dotted name of a class of the user's own, which the commands then need.
        data: A sentence on the training data: their source, and what they may be used for.
        licence: Id of the weights' licence as the Hub knows it, like 'apache-2.0' or 'other'.
        metrics: Rows with 'metric' and 'value', and 'interval' (low, high) if it is known. Rows of two 'figures', such
            as precision and recall, have a line for each: the value, and the entry with the name of the second one.
    """
    dataset, progress = about.get("dataset") or {}, about.get("progress") or {}
    head = ["---", *([f"license: {json.dumps(licence)}"] if licence else []), "library_name: video-3d-gan", "tags:"]
    lines = [*head, *(f"- {tag}" for tag in TAGS), "---", "", f"# {name.rpartition('/')[2]}", ""]
    lines += [f"A generator of videos of three-dimensional scenes, {resolution}×{resolution} pixels, {PAPER}.", ""]
    lines += [f"![samples: a row for each content, over time from a moving camera]({PICTURE})", ""]
    facts = {"resolution": resolution}
    known = {key: value for key, value in dataset.items() if value is not None and key != "label_examples"}
    facts |= {f"training data: {key}": value for key, value in known.items()}
    if is_number(progress.get("cur_nimg")):
        facts["trained for"] = f"{progress['cur_nimg'] / 1000:g} thousand videos"
    facts["licence of the weights"] = licence or "not stated"
    lines += ["| | |", "| :-- | :-- |", *(f"| {_cell(key)} | {_cell(value)} |" for key, value in facts.items()), ""]
    lines += [data or "Training data: not described.", ""]
    variable, given, imported = "", "", []
    if network_class is not None:
        # The name of a script's module is not known here.
        module, _, own = network_class.replace("__main__", "MODULE").rpartition(".")
        lines += [
            f"Its class, `{own}` of the module `{module}`, is not part of the package: it is needed, too.",
            "",
        ]
        variable, given = f"GENERATOR_CLASS={shlex.quote(f'{module}.{own}')} ", f", generator_class={own}"
        imported = ["", f"from {module} import {own}"]
    if metrics:
        lines += ["| metric | value | interval |", "| :-- | --: | :-- |"]
        lines += [*(line for row in metrics for line in _metric_lines(row)), ""]
    source = f"hf://{name}" if "/" in name else name
    quoted = json.dumps(source, ensure_ascii=False)
    of_class, argument = "", ""
    if label is not None:
        numbers = [label] if isinstance(label, int) else label
        of_class = f" --class_idx={','.join(map(str, numbers))}"
        argument = f", class_idx={label}"
    command = f"{variable}video3d-generate --outdir out --network_pkl {shlex.quote(source)} --seeds 0-3{of_class}"
    lines += ["```bash", command, "```", ""]
    code = [f"G = video3d.load_generator({quoted}{given})", f"video = G.video(seed=3{argument})"]
    return "\n".join([*lines, "```python", "import video3d", *imported, "", *code, "```", ""])


def write_card(
    folder: str | os.PathLike,
    name: str,
    samples: torch.Tensor,
    *,
    about: Mapping[str, Any],
    resolution: int,
    label: int | Sequence[float] | None,
    network_class: str | None,
    data: str,
    licence: str,
    metrics: Sequence[Mapping[str, Any]],
) -> None:
    """Write a model card and its picture into a folder.

    Args:
        label, network_class: As for `model_card`.
        samples: Videos, uint8 [B, T, 3, H, W], for the picture: a row for each.

    Raises:
        ValueError: Texts that are not strings, or metrics that are no list of rows.
    """
    for argument, text in (("name", name), ("data", data), ("licence", licence)):
        if not isinstance(text, str):
            raise ValueError(f"{argument} must be a string, got {shown(text)}.")
    if not is_list(metrics) or not all(map(_is_row, metrics)):
        rows = "a list of rows with 'metric' and 'value', as Evaluator.evaluate returns them"
        raise ValueError(f"metrics must be {rows}, got {shown(metrics)}.")
    save_png(image_grid(samples.flatten(0, 1), samples.shape[1]), os.path.join(folder, PICTURE))
    facts = {"data": data, "licence": licence, "metrics": metrics}
    card = model_card(name, about=about, resolution=resolution, label=label, network_class=network_class, **facts)
    with atomic_write(os.path.join(folder, "README.md"), "w") as file:
        file.write(card)


def _is_row(row: Any) -> bool:
    return isinstance(row, Mapping) and "metric" in row and _is_real(row.get("value"))


def _is_real(value: object) -> bool:
    """True for a number of Python or NumPy, NaN included; not for True or False."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _metric_lines(row: Mapping[str, Any]) -> Iterator[str]:
    """Lines of a table for a row of metric-<name>.jsonl: a line for each of its figures."""
    name, names = row["metric"], row.get("figures")
    shown = {name: ("value", "interval")}
    if isinstance(names, Sequence) and len(names) == 2 and _is_real(row.get(names[1])):
        first, second = names
        shown = {f"{name} {first}": ("value", "interval"), f"{name} {second}": (second, f"{second}_interval")}
    for label, (value, interval) in shown.items():
        yield f"| {_cell(label)} | {float(row[value]):.5g} | {_interval(row.get(interval))} |"


def _interval(bounds: object) -> str:
    """The bounds of an interval, where they are numbers."""
    known = isinstance(bounds, Sequence) and len(bounds) == 2 and all(map(_is_real, bounds))
    return "{:.5g} to {:.5g}".format(*map(float, bounds)) if known else ""


def _cell(value: object) -> str:
    """Text for a cell of a table, in one line."""
    return " ".join(str(value).split()).replace("|", "\\|")[:200]
