"""Size of a training, computed from its networks for the dry run: parameters, rays, samples, memory, files."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from dnnlib import format_bytes
from training.networks.discriminator import TimeAwareDiscriminators
from training.networks.fields import ForegroundField
from training.networks.generator import Generator
from training.networks.upsampler import Upsampler

__all__ = ["checkpoint_bytes", "parameter_counts", "size_report"]

FLOAT = 4  # bytes
KEPT = 4  # values per pixel and channel that autograd keeps of a block's two layers: their inputs and activations


def parameter_counts(networks: Mapping[str, nn.Module]) -> dict[str, int]:
    """Number of parameters of networks by name and part: 'generator', 'generator.mapping', …"""
    counts = {}
    for name, network in networks.items():
        counts[name] = _count(network)
        counts.update({f"{name}.{part}": _count(module) for part, module in network.named_children()})
    return counts


def render_counts(generator: Generator, *, videos: int, frames: int, lattice: bool) -> dict[str, int]:
    """Rays and samples of a pass of the generator for this many videos, as in the generator's main phase.

    Rays are those of the low-resolution image and, for losses along rays, of the NeRF-path `lattice`; samples are
    points at which the foreground and the background are evaluated (the background once for all `frames` of a video).
    """
    settings = generator.settings
    rays = settings.resolution**2 + (settings.path_lattice**2 if lattice else 0)
    num_background = 0 if generator.background is None else settings.num_background
    return {
        "rays": videos * frames * rays,
        "samples": videos * rays * (frames * (settings.num_samples + settings.num_importance) + num_background),
    }


def memory_bytes(
    generator: Generator,
    discriminator: TimeAwareDiscriminators,
    *,
    videos: int,
    frames: int,
    lattice: bool,
    path_loss: bool,
) -> dict[str, tuple[float, str]]:
    """Estimated memory of a process in bytes for micro-batches of this many videos, with the formula, by part.

    Most of it is kept by autograd, in float32: per sample a value for every unit of every layer, per pixel the input
    and the activation of every layer; with `generator.activation_checkpointing` only the inputs and results of the
    field and the blocks. The discriminators run one after another, on pairs or frames, fakes or reals (of small frames
    both). 'peak' is that of a generator step. The framework itself, allocators and the first-order gradients that
    regularisation differentiates again come on top.
    """
    g, d = _count(generator), _count(discriminator)
    foreground, settings = _arguments(ForegroundField, generator.config["foreground"]), generator.settings
    hidden, kept = (1, 1) if generator.activation_checkpointing else (foreground["num_layers"], KEPT)
    units = foreground["width"] * hidden + (0 if generator.activation_checkpointing else foreground["feature_dim"]) + 3
    units *= 1 if foreground.get("static", "none") == "none" else 2  # the dynamic field and the static one
    samples = render_counts(generator, videos=videos, frames=frames, lattice=lattice)["samples"]
    per_ray = settings.num_samples + settings.num_importance
    per_ray += 0 if generator.background is None else settings.num_background
    loss_samples = settings.path_lattice**2 * per_ray if path_loss else 0
    images = videos * (1 if discriminator.image is None else frames)
    frames *= videos

    # Upsampler: channels at resolution r are min(base // r, most).
    base, most = _channel_rule(_arguments(Upsampler, generator.config["upsampler"]))
    sizes = [2**i for i in range(settings.resolution.bit_length(), generator.resolution.bit_length())]
    pixels = sum(size**2 * kept * min(base // size, most) for size in sizes)
    points = loss_samples * sum(kept * min(base // size, most) for size in sizes)
    largest_block = frames * max(size**2 * KEPT * min(base // size, most) for size in sizes)
    # Discriminators: one of them at a time.
    base, most = _channel_rule(_arguments(TimeAwareDiscriminators, discriminator.config))
    sizes = [2**i for i in range(3, discriminator.resolution.bit_length())]
    convs = sum(size**2 * KEPT * min(base // size, most) for size in sizes)

    parts = {
        "weights": (FLOAT * (5 * g + 4 * d), f"4 B × (5 × {g:,d} + 4 × {d:,d}): with gradients, Adam, average"),
        "field": (FLOAT * samples * units, f"4 B × {samples:,d} samples × {units:,d} units"),
        "upsampler": (FLOAT * frames * pixels, f"4 B × {frames} frames × Σ resolution² × {kept} × channels"),
        "path loss": (
            FLOAT * frames * points,
            f"4 B × {frames} frames × {loss_samples:,d} samples × Σ {kept} × channels",
        ),
        "discriminators": (FLOAT * images * convs, f"4 B × {images} images × Σ resolution² × {KEPT} × channels"),
    }
    if generator.activation_checkpointing:
        parts["run again"] = (FLOAT * largest_block, f"4 B × {frames} frames × the upsampler's largest block")
    parts["peak"] = (sum(size for size, _ in parts.values()), "all of these")
    return parts


def checkpoint_bytes(generator: Generator, discriminator: TimeAwareDiscriminators) -> tuple[int, int]:
    """Sizes of a network snapshot and of the training state in bytes."""
    g, d = _count(generator), _count(discriminator)
    return FLOAT * (2 * g + d), FLOAT * (4 * g + 3 * d)


def size_report(
    generator: Generator,
    discriminator: TimeAwareDiscriminators,
    *,
    options: Mapping[str, Any],
    processes: int,
    snapshots: int,
) -> list[str]:
    """The lines that a dry run prints about sizes; `snapshots` are on the disk at the end."""
    batch, micro = options["spec"]["mb"], options["spec"]["microbatch"]
    lines = ["parameters"]
    lines += [
        f"  {'  ' * name.count('.') + name.split('.')[-1]:<24s}{count:>12,d}"
        for name, count in parameter_counts({"generator": generator, "discriminator": discriminator}).items()
    ]
    path_loss = options["spec"]["path_weight"] > 0
    about = {"frames": min(options["nframes"], 2), "lattice": path_loss or options["spec"]["distortion_weight"] > 0}
    step, one = (render_counts(generator, videos=videos, **about) for videos in (batch, micro))
    lines += [
        f"batch      {batch} videos: processes {processes} × passes {batch // (processes * micro)} × videos {micro}",
        f"rays       {step['rays']:,d} per generator step, {one['rays']:,d} per pass",
        f"samples    {step['samples']:,d} per generator step, {one['samples']:,d} per pass",
    ]
    if type(generator) is Generator and type(discriminator) is TimeAwareDiscriminators:
        lines.append("memory of a process, estimated")
        parts = memory_bytes(generator, discriminator, videos=micro, path_loss=path_loss, **about)
        lines += [f"  {name:<16s}{format_bytes(size):>10s}   {formula}" for name, (size, formula) in parts.items()]
    else:
        lines.append("memory of a process: no estimate for a network of your own class")
    snapshot, state = checkpoint_bytes(generator, discriminator)
    lines.append(
        f"disk       {snapshots} snapshots × {format_bytes(snapshot)} + state {format_bytes(state)}"
        f" = {format_bytes(snapshots * snapshot + state)}"
    )
    return lines


def _count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


def _arguments(part: type[nn.Module], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given arguments of a part, and the constructor's defaults of the others."""
    return {name: argument.default for name, argument in inspect.signature(part).parameters.items()} | dict(given)


def _channel_rule(config: Mapping[str, Any]) -> tuple[int, int]:
    return int(32768 * config["channel_base"]), config["channel_max"]
