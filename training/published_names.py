"""Tensor names of the published checkpoints, mapped to this project's.

The published system stores its 1x1 convolutions as [out, in, 1, 1] and keeps constant FIR filters and a blending
parameter in its state; here pointwise weights are matrices, and constants are not state.
"""

import re

import torch

__all__ = ["map_discriminator_name", "map_generator_name", "map_state"]

#: State of the published system that is constant or has no effect.
_IGNORED = re.compile(r"(^|\.)(resample_filter|alpha)$")

_GENERATOR_RULES = [
    (r"mapping\.w_avg", r"mapping.w_avg"),
    (r"mapping\.embed\.(weight|bias)", r"mapping.embed.\1"),
    (r"mapping\.fc(\d+)\.(weight|bias)", r"mapping.layers.\1.\2"),
    (r"synthesis\.fg_nerf\.motion_generator\.affine\.(weight|bias)", r"motion.input.\1"),
    (r"synthesis\.fg_nerf\.fc_in\.(.+)", r"foreground.layers.0.\1"),
    (r"synthesis\.fg_nerf\.sigma_out\.(.+)", r"foreground.density.\1"),
    (r"synthesis\.fg_nerf\.feat_out\.(.+)", r"foreground.features.\1"),
    (r"synthesis\.fg_nerf\.from_ray\.(weight|bias)", r"foreground.view.\1"),
    (r"synthesis\.fg_nerf\.to_rgb\.(weight|bias)", r"foreground.rgb.\1"),
    (r"synthesis\.bg_nerf\.fc_in\.(weight|bias)", r"background.layers.0.\1"),
    (r"synthesis\.bg_nerf\.sigma_out\.(weight|bias)", r"background.density.\1"),
    (r"synthesis\.bg_nerf\.feat_out\.(weight|bias)", r"background.features.\1"),
    (r"synthesis\.bg_nerf\.to_rgb\.(weight|bias)", r"background.rgb.\1"),
    (r"synthesis\.b(\d+)\.(conv[01])\.w_avg", r"upsampler.blocks.\1.\2.magnitude.mean_square"),
    (r"synthesis\.b(\d+)\.(conv[01])\.adapter\.0\.(weight|bias)", r"upsampler.blocks.\1.\2.upsampling.reduce.\3"),
    (r"synthesis\.b(\d+)\.(conv[01])\.adapter\.1\.(weight|bias)", r"upsampler.blocks.\1.\2.upsampling.expand.\3"),
    (r"synthesis\.b(\d+)\.(conv[01])\.((?:affine\.)?(?:weight|bias))", r"upsampler.blocks.\1.\2.linear.\3"),
    (r"synthesis\.b(\d+)\.torgb\.((?:affine\.)?(?:weight|bias))", r"upsampler.blocks.\1.rgb.linear.\2"),
]

_DISCRIMINATOR_RULES = [
    (r"(video|image)D\.b4\.(.+)", r"\1.epilogue.\2"),
    (r"(video|image)D\.b(\d+)\.(.+)", r"\1.blocks.\2.\3"),
    (r"(video|image)D\.mapping\.embed\.(weight|bias)", r"\1.mapping.embed.\2"),
    (r"(video|image)D\.mapping\.fc(\d+)\.(weight|bias)", r"\1.mapping.layers.\2.\3"),
]


def _apply(rules: list, name: str) -> str | None:
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return None


def map_generator_name(name: str, *, motion_layers: int = 2) -> str | None:
    """Our name of a published generator tensor; None for one that has no counterpart.

    Args:
        motion_layers: Number of layers in the published motion MLP; the last one is our `motion.output`.
    """
    if _IGNORED.search(name):
        return None
    match = re.fullmatch(r"synthesis\.fg_nerf\.blocks\.(\d+)\.(.+)", name)
    if match:
        return f"foreground.layers.{int(match[1]) + 1}.{match[2]}"
    match = re.fullmatch(r"synthesis\.bg_nerf\.blocks\.(\d+)\.(weight|bias)", name)
    if match:
        return f"background.layers.{int(match[1]) + 1}.{match[2]}"
    match = re.fullmatch(r"synthesis\.fg_nerf\.motion_generator\.motion_mlp\.(\d+)\.(weight|bias)", name)
    if match:
        last = int(match[1]) == motion_layers - 1
        return f"motion.output.{match[2]}" if last else f"motion.layers.{match[1]}.{match[2]}"
    return _apply(_GENERATOR_RULES, name)


def map_discriminator_name(name: str) -> str | None:
    """Our name of a published discriminator tensor; None for one that has no counterpart."""
    return None if _IGNORED.search(name) else _apply(_DISCRIMINATOR_RULES, name)


def map_state(state: dict[str, torch.Tensor], target: torch.nn.Module, rename) -> dict[str, torch.Tensor]:
    """Published tensors under our names and shapes, every one accounted for.

    Args:
        state: Published name → tensor.
        target: The module whose state is wanted.
        rename: `map_generator_name` or `map_discriminator_name`.

    Raises:
        ValueError: A tensor is missing, left over, or has another shape; it is named.
    """
    wanted = target.state_dict()
    mapped, left_over = {}, []
    for name, tensor in state.items():
        ours = rename(name)
        if ours is None:
            if not _IGNORED.search(name):
                left_over.append(name)
            continue
        if ours not in wanted:
            left_over.append(name)
            continue
        shape = tuple(wanted[ours].shape)
        if tuple(tensor.shape) == (*shape, 1, 1):
            tensor = tensor[:, :, 0, 0]
        if tuple(tensor.shape) != shape:
            raise ValueError(f"tensor {name} has shape {list(tensor.shape)}, but {ours} needs {list(shape)}.")
        mapped[ours] = tensor
    missing = sorted(set(wanted) - set(mapped))
    if left_over or missing:
        raise ValueError(
            f"tensors do not fit: {len(left_over)} left over {left_over[:3]}, {len(missing)} missing {missing[:3]}."
        )
    return mapped
