"""Mapping between the tensor names of published checkpoints and this project's.

The published system stores its 1x1 convolutions as [out, in, 1, 1] and keeps constant FIR filters and a blending
parameter in its state; here pointwise weights are matrices, and constants are not state.
"""

import re
from collections.abc import Callable, Mapping

import torch

from training.published.pickle_values import printable

__all__ = [
    "map_discriminator_name",
    "map_generator_name",
    "match_names",
    "published_discriminator_name",
    "published_generator_name",
    "take_state",
]

#: Tensors of the published system that are constant or have no effect → shape.
_CONSTANTS = {"resample_filter": (4, 4), "alpha": ()}

#: Patterns of the fields in the names below. `next` is `index` + 1: our lists of layers begin with the input layer.
_FIELDS = {
    "number": r"\d{1,4}",
    "index": r"\d{1,4}",
    "next": r"[1-9]\d{0,3}",
    "conv": r"conv[01]",
    "kind": r"video|image",
    "plain": r"weight|bias",
    "styled": r"(?:affine\.)?(?:weight|bias)",
    "rest": r".+",
}

# Published name, our name. The first match counts.
_MOTION = "synthesis.fg_nerf.motion_generator"
_GENERATOR = [
    ("mapping.w_avg", "mapping.w_avg"),
    ("mapping.embed.{plain}", "mapping.embed.{plain}"),
    ("mapping.fc{number}.{plain}", "mapping.layers.{number}.{plain}"),
    (f"{_MOTION}.affine.{{plain}}", "motion.input.{plain}"),
    (f"{_MOTION}.motion_mlp.{{number}}.{{plain}}", "motion.layers.{number}.{plain}"),
    ("synthesis.fg_nerf.fc_in.{styled}", "foreground.layers.0.{styled}"),
    ("synthesis.fg_nerf.blocks.{index}.{styled}", "foreground.layers.{next}.{styled}"),
    ("synthesis.fg_nerf.sigma_out.{styled}", "foreground.density.{styled}"),
    ("synthesis.fg_nerf.feat_out.{styled}", "foreground.features.{styled}"),
    ("synthesis.fg_nerf.from_ray.{plain}", "foreground.view.{plain}"),
    ("synthesis.fg_nerf.to_rgb.{plain}", "foreground.rgb.{plain}"),
    ("synthesis.bg_nerf.fc_in.{plain}", "background.layers.0.{plain}"),
    ("synthesis.bg_nerf.blocks.{index}.{plain}", "background.layers.{next}.{plain}"),
    ("synthesis.bg_nerf.sigma_out.{plain}", "background.density.{plain}"),
    ("synthesis.bg_nerf.feat_out.{plain}", "background.features.{plain}"),
    ("synthesis.bg_nerf.to_rgb.{plain}", "background.rgb.{plain}"),
    ("synthesis.b{number}.{conv}.w_avg", "upsampler.blocks.{number}.{conv}.magnitude.mean_square"),
    ("synthesis.b{number}.{conv}.adapter.0.{plain}", "upsampler.blocks.{number}.{conv}.upsampling.reduce.{plain}"),
    ("synthesis.b{number}.{conv}.adapter.1.{plain}", "upsampler.blocks.{number}.{conv}.upsampling.expand.{plain}"),
    ("synthesis.b{number}.{conv}.{styled}", "upsampler.blocks.{number}.{conv}.linear.{styled}"),
    ("synthesis.b{number}.torgb.{styled}", "upsampler.blocks.{number}.rgb.linear.{styled}"),
]
_DISCRIMINATOR = [
    ("{kind}D.b4.{rest}", "{kind}.epilogue.{rest}"),
    ("{kind}D.b{number}.{rest}", "{kind}.blocks.{number}.{rest}"),
    ("{kind}D.mapping.embed.{plain}", "{kind}.mapping.embed.{plain}"),
    ("{kind}D.mapping.fc{number}.{plain}", "{kind}.mapping.layers.{number}.{plain}"),
]


def _pattern(template: str) -> re.Pattern:
    return re.compile(re.sub(r"\\{(\w+)\\}", lambda m: f"(?P<{m[1]}>{_FIELDS[m[1]]})", re.escape(template)))


def _compile(pairs: list[tuple[str, str]]) -> list[tuple[re.Pattern, str]]:
    return [(_pattern(source), target) for source, target in pairs]


def _reverse(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(ours, published) for published, ours in pairs]


_TO_OURS = {"G": _compile(_GENERATOR), "D": _compile(_DISCRIMINATOR)}
_TO_PUBLISHED = {"G": _compile(_reverse(_GENERATOR)), "D": _compile(_reverse(_DISCRIMINATOR))}


def _translate(rules: list[tuple[re.Pattern, str]], name: str) -> str | None:
    for pattern, target in rules:
        match = pattern.fullmatch(name)
        if match:
            fields = match.groupdict()
            if "index" in fields:
                fields["next"] = int(fields["index"]) + 1
            elif "next" in fields:
                fields["index"] = int(fields["next"]) - 1
            return target.format(**fields)
    return None


def _is_constant(name: str) -> bool:
    return name.rpartition(".")[2] in _CONSTANTS


def map_generator_name(name: str, *, motion_layers: int = 2) -> str | None:
    """Our name of a published generator tensor; None for one that has no counterpart.

    Args:
        motion_layers: Number of layers in the published motion MLP; the last one is our `motion.output`.
    """
    if _is_constant(name):
        return None
    ours = _translate(_TO_OURS["G"], name)
    return ours and ours.replace(f"motion.layers.{motion_layers - 1}.", "motion.output.")


def published_generator_name(name: str, *, motion_layers: int = 2) -> str | None:
    """The published name of one of our generator tensors; the reverse of `map_generator_name`."""
    return _translate(_TO_PUBLISHED["G"], name.replace("motion.output.", f"motion.layers.{motion_layers - 1}."))


def map_discriminator_name(name: str) -> str | None:
    """Our name of a published discriminator tensor; None for one that has no counterpart."""
    return None if _is_constant(name) else _translate(_TO_OURS["D"], name)


def published_discriminator_name(name: str) -> str | None:
    """The published name of one of our discriminator tensors; the reverse of `map_discriminator_name`."""
    return _translate(_TO_PUBLISHED["D"], name)


def match_names(
    shapes: Mapping[str, tuple[int, ...]],
    target: torch.nn.Module,
    rename: Callable[[str], str | None],
    restore: Callable[[str], str | None] = lambda _: None,
) -> dict[str, str]:
    """Our name → published name, with every tensor accounted for.

    Args:
        shapes: Published name → shape.
        target: The module to load; it may be on the meta device.
        rename: `map_generator_name` or `map_discriminator_name`.
        restore: The reverse function, for messages.

    Raises:
        ValueError: Tensors are missing, left over, or have another shape; the message names them.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in target.state_dict().items()}
    matched: dict[str, str] = {}
    left_over, problems = [], []
    for name, shape in shapes.items():
        if _is_constant(name) and shape == _CONSTANTS[name.rpartition(".")[2]]:
            continue
        ours = rename(name)
        if ours not in wanted or ours in matched:
            left_over.append(name)
            continue
        matched[ours] = name
        if shape != wanted[ours] and (len(shape) != 4 or shape != (*wanted[ours], 1, 1)):
            problems.append(f"{printable(name)} has shape {list(shape)}, but {ours} needs {list(wanted[ours])}")
    missing = [name for name in wanted if name not in matched]
    if left_over:
        problems.insert(0, f"{len(left_over)} left over ({_listing(left_over)})")
    if missing:
        restored = [name if restore(name) is None else restore(name) for name in missing]
        problems.insert(0, f"{len(missing)} missing ({_listing(restored)})")
    if problems:
        more = f"; and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise ValueError(f"tensors do not fit: {'; '.join(problems[:4])}{more}.")
    return matched


def _listing(names: list[str]) -> str:
    return ", ".join(f"'{printable(name)}'" for name in names[:3]) + (", …" if len(names) > 3 else "")


def take_state(matched: Mapping[str, str], state: Mapping, target: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Tensors under our names and in our shapes.

    Args:
        matched: Result of `match_names`.
        state: Published name → tensor.
    """
    wanted = target.state_dict()
    return {ours: state[name].reshape(wanted[ours].shape) for ours, name in matched.items()}
