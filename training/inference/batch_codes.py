"""Codes of a batch of videos (`RowCodes`) for the Python interface: from seeds, interpolated, mixed, or as given.

All are on the generator's device and have its type.
"""

from collections.abc import Sequence
from typing import Any

import torch

from torch_utils.argument_checks import check_number, check_tensors, is_list, shown, whole_number
from training.inference.arguments import check_alone, check_codes, label_numbers, seed_list, warn_idle
from training.inference.cli_options import part_layers
from training.inference.interpolation import lerp, mix_styles, slerp
from training.inference.latents import RowCodes, SeedLatents, class_label, generator_latents, lacks_motion
from training.inference.layouts import StyleMapping
from training.networks.generator import Generator

__all__ = [
    "Label",
    "Seeds",
    "batch_latents",
    "codes_between",
    "given_codes",
    "mapped_codes",
    "mixed_codes",
    "on_network",
]

Seeds = int | Sequence[int]
Label = int | Sequence[float]


def on_network(network: Generator, codes: RowCodes) -> RowCodes:
    """Codes on the device and of the type of a network's parameters."""
    return codes.to(**_placement(network))


def _placement(network: Generator) -> dict[str, Any]:
    parameter = next(network.parameters())
    return {"device": parameter.device, "dtype": parameter.dtype}


def batch_latents(network: Generator, seed: Seeds, motion_seed: Seeds | None) -> SeedLatents:
    """The latent codes of pairs of seeds, see `VideoGenerator.latents`."""
    seeds = seed_list("seed", seed)
    motions = seeds if motion_seed is None else seed_list("motion_seed", motion_seed)
    motions = motions * len(seeds) if len(motions) == 1 else motions
    seeds = seeds * len(motions) if len(seeds) == 1 else seeds
    if len(seeds) != len(motions):
        raise ValueError(f"{len(seeds)} seeds and {len(motions)} motion seeds make no pairs.")
    codes = SeedLatents.join(generator_latents(network, *pair) for pair in zip(seeds, motions))
    return codes.to(**_placement(network))


def mapped_codes(
    network: Generator,
    seed: Seeds,
    motion_seed: Seeds | None,
    *,
    z: torch.Tensor | None,
    truncation_psi: float,
    class_idx: Label | None,
) -> RowCodes:
    """Codes whose styles are those of the mapping network, see `VideoGenerator.codes`."""
    check_number("truncation_psi", truncation_psi)
    class_idx = label_numbers("class_idx", class_idx)
    seeds = seed_list("seed", seed)
    if z is not None:
        z = _content(network, z)
        seeds = seeds * (len(z) if len(seeds) == 1 else 1)
    latents = batch_latents(network, seeds, motion_seed)
    z = latents.z if z is None else z.expand(len(latents.z), -1) if len(z) == 1 else z
    if len(z) != len(latents.z):
        raise ValueError(f"{len(z)} content codes and {len(latents.z)} seeds make no pairs.")
    try:
        label = class_label(network, class_idx)
    except ValueError as error:
        several = len(seeds) > 1 and is_list(class_idx)
        shared = " All videos share it; RowCodes.join joins the codes of several calls." if several else ""
        raise ValueError(f"class_idx: {error}{shared}") from error
    label = None if label is None else label.expand(len(z), -1).to(z.dtype)
    styles = StyleMapping(network.mapping, label=label, truncation_psi=truncation_psi, device=z.device)
    return latents.with_styles(styles.of(z))


def _content(network: Generator, z: torch.Tensor) -> torch.Tensor:
    """Content codes [B, z_dim] from given ones, which may lack the batch dimension."""
    z = z[None] if isinstance(z, torch.Tensor) and z.ndim == 1 else z
    check_tensors({"z": (z, ("B", network.z_dim))}, finite=True)
    return z.to(**_placement(network))


def codes_between(first: RowCodes, second: RowCodes, fraction: float) -> RowCodes:
    """Interpolated codes, see `VideoGenerator.interpolate`."""
    check_codes(None, first=first, second=second)
    check_number("fraction", fraction)
    return RowCodes(
        lerp(first.ws, second.ws, fraction),
        slerp(first.z_motion, second.z_motion, fraction),
        slerp(first.z_bg, second.z_bg, fraction),
    )


def mixed_codes(network: Generator, first: RowCodes, second: RowCodes, layers: str | Sequence[int]) -> RowCodes:
    """Codes with the styles of others in some layers, see `VideoGenerator.mix`."""
    check_codes(network, first=first, second=second)
    parts = part_layers(foreground=network.foreground.num_ws, total=network.num_ws)
    if not is_list(layers) and not (isinstance(layers, str) and layers in parts):
        raise ValueError(f"layers must be foreground, upsampler or a list of numbers, got {shown(layers)}.")
    chosen = layers if is_list(layers) else parts[layers]
    numbers = [whole_number(f"layers[{i}]", layer) for i, layer in enumerate(chosen)]
    return RowCodes(mix_styles(first.ws, second.ws, numbers), first.z_motion.clone(), first.z_bg.clone())


def given_codes(
    network: Generator,
    codes: RowCodes | None,
    *,
    seed: Seeds | None,
    motion_seed: Seeds | None,
    z: torch.Tensor | None,
    truncation_psi: float | None,
    class_idx: Label | None,
) -> tuple[RowCodes, bool]:
    """The codes to render, and True if they are those of a single video without a batch dimension.

    A motion seed without effect is warned of.

    Args:
        codes: The codes themselves, or None to make them from the other arguments (None: defaults of
            `VideoGenerator.codes`).
    """
    if codes is not None:
        others = {"seed": seed, "motion_seed": motion_seed, "z": z, "truncation_psi": truncation_psi}
        check_alone("codes", **others, class_idx=class_idx)
        check_codes(network, codes=codes, finite=True)
        return on_network(network, codes), False
    rows = mapped_codes(
        network,
        0 if seed is None else seed,
        motion_seed,
        z=z,
        truncation_psi=1.0 if truncation_psi is None else truncation_psi,
        class_idx=class_idx,
    )
    if motion_seed is not None and lacks_motion(network):
        warn_idle("motion_seed", "this generator has no motion")
    batched = is_list(seed) or is_list(motion_seed) or (z is not None and z.ndim > 1)
    return rows, not batched
