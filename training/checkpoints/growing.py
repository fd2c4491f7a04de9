"""Start at a higher resolution from a snapshot of a lower one (progressive growing, Karras et al. 2018).

The field, the mapping and motion networks and the background do not depend on the resolution and are taken as they are,
as are the discriminators' blocks of the lower resolutions. Blocks of the upsampler are taken in order, starting at the
volume rendered image; those beyond the larger network's are left out. Blocks without a counterpart, or with other
numbers of channels, are new. All networks are sums over their blocks (skip architectures), and a new block adds zero at
first, so training continues from the networks as they were: the discriminators see the downsampled images, and new
blocks of the upsampler leave its image unchanged.

A snapshot without a density ramp may also begin one: its factor is 1 then.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch

from training.checkpoints.network_state import check_state
from training.networks.fields import is_density_scale

__all__ = ["Grown", "generator_states", "grown_state", "grows", "is_block", "options_to_keep_upsampler"]

_UPSAMPLER = re.compile(r"upsampler\.blocks\.(\d+)\.")
_DISCRIMINATOR = re.compile(r"(?:video|image)\.blocks\.(\d+)\.")
# The last layer of a block, whose result is added to that of the others.
_ADDED = re.compile(r"(upsampler\.blocks\.\d+\.rgb\.linear|(video|image)\.blocks\.\d+\.conv1)\.(weight|bias)")


class Grown(NamedTuple):
    """Initial state of a larger network.

    Attributes:
        state: Tensors with its names and shapes.
        new: Names of its new blocks, like 'upsampler.blocks.64'.
        lost: True if blocks of the smaller upsampler have no place in it, so that its image is lost.
    """

    state: dict[str, torch.Tensor]
    new: list[str]
    lost: bool


def grows(content: Mapping, resolution: int) -> bool:
    """True if a snapshot's images are smaller than a new run's."""
    stored = content["generator"]["config"].get("resolution")
    return isinstance(stored, int) and stored < resolution


def generator_states(content: Mapping, generator: torch.nn.Module) -> list[dict[str, torch.Tensor]]:
    """A snapshot's weights in training and their average, with the factor of a ramp that only `generator` has."""
    stored = content["generator"]
    foreground, factors = stored["config"].get("foreground"), {}
    if not (isinstance(foreground, Mapping) and foreground.get("density_ramp")):
        names = [name for name in generator.state_dict() if is_density_scale(name)]
        factors = {name: torch.ones([]) for name in names}
    return [{**factors, **stored[part]} for part in ("state", "ema")]


def grown_state(module: torch.nn.Module, state: Mapping[str, torch.Tensor], *, what: str, source: object) -> Grown:
    """The tensors of a smaller network, completed by those of the larger one, whose new blocks add zero.

    Args:
        module: The larger generator or discriminators.
        state: Tensors of the smaller one.
        what, source: For messages, see `check_state`.

    Raises:
        UserError: Tensors outside the blocks do not fit; names them.
    """
    own = module.state_dict()
    places = dict(zip(_block_widths(state), _block_widths(own), strict=False))  # the first block stays the first
    moved = {new_name: tensor for name, tensor in state.items() if (new_name := _moved(name, places))}
    blocks: dict[str, list[str]] = {}
    for name in own:
        match = _block(name)
        if match is not None:
            blocks.setdefault(match[0].rstrip("."), []).append(name)
    new = [
        block
        for block, names in blocks.items()
        if any(name not in moved or moved[name].shape != own[name].shape for name in names)
    ]
    fresh = {
        name: torch.zeros_like(own[name]) if _ADDED.fullmatch(name) else own[name]
        for block in new
        for name in blocks[block]
    }
    taken = {name: tensor for name, tensor in moved.items() if name not in fresh}
    check_state(module, taken, what=what, source=source, besides=fresh)
    lost = len(places) < len(_block_widths(state)) or any(_UPSAMPLER.match(name) for name in moved.keys() & fresh)
    return Grown(taken | fresh, new, lost)


def options_to_keep_upsampler(content: Mapping, generator: torch.nn.Module) -> str:
    """Options that give a larger generator's upsampler as many channels as a snapshot's, block by block.

    Returns:
        Overrides of a training; '' if it has these widths already, or fewer blocks.
    """
    stored, own = content["generator"]["config"].get("upsampler") or {}, generator.config.get("upsampler") or {}
    widths = [_block_widths(names) for names in (content["generator"]["ema"], generator.state_dict())]
    if len(widths[1]) < len(widths[0]):
        return ""  # whatever their channels, some blocks have no place
    smallest, first = (blocks[0] for blocks in widths)
    base = stored.get("channel_base", 1.0)
    wanted = {"channel_base": base * first / smallest, "channel_max": stored.get("channel_max", 512)}
    return " ".join(
        f"model.generator.upsampler.{name}={value:g}" for name, value in wanted.items() if value != own.get(name)
    )


def is_block(name: str) -> bool:
    """True for a tensor of the blocks, which depend on the resolution."""
    return _block(name) is not None


def _block(name: str) -> re.Match[str] | None:
    return _UPSAMPLER.match(name) or _DISCRIMINATOR.match(name)


def _block_widths(names: Iterable[str]) -> list[int]:
    """Resolutions of the upsampler's blocks, ascending."""
    return sorted({int(match[1]) for name in names if (match := _UPSAMPLER.match(name))})


def _moved(name: str, places: Mapping[int, int]) -> str | None:
    """The name of a tensor in the larger network; None for blocks of the upsampler without a place there."""
    match = _UPSAMPLER.match(name)
    if match is None:
        return name
    place = places.get(int(match[1]))
    return None if place is None else f"upsampler.blocks.{place}.{name[match.end() :]}"
