"""Start at a higher resolution from a snapshot of a lower one (progressive growing, Karras et al. 2018).

The field, the mapping and motion networks and the background know nothing of pixels and are taken as they are, as are
the discriminators' blocks of the lower resolutions. Blocks of the upsampler are taken in their order from the volume
rendered image on. Blocks without a counterpart, or with other numbers of channels, keep their initial weights.

A snapshot without a density ramp may also begin one: its factor is 1 then.
"""

import re
from collections.abc import Mapping

import torch

from training.checkpoints.snapshot import check_state

__all__ = ["generator_states", "grown_state", "grows"]

_UPSAMPLER = re.compile(r"upsampler\.blocks\.(\d+)\.")
_DISCRIMINATOR = re.compile(r"(?:video|image)\.blocks\.(\d+)\.")


def grows(content: Mapping, resolution: int) -> bool:
    """True if a snapshot's images are smaller than a new run's."""
    stored = content["generator"]["config"].get("resolution")
    return isinstance(stored, int) and stored < resolution


def generator_states(content: Mapping, generator: torch.nn.Module) -> list[dict[str, torch.Tensor]]:
    """A snapshot's weights in training and their average, with the factor of a ramp that only `generator` has."""
    stored = content["generator"]
    foreground, factors = stored["config"].get("foreground"), {}
    if not (isinstance(foreground, Mapping) and foreground.get("density_ramp")):
        names = [name for name in generator.state_dict() if name.endswith("density_scale")]
        factors = {name: torch.ones([]) for name in names}
    return [{**factors, **stored[part]} for part in ("state", "ema")]


def grown_state(
    module: torch.nn.Module, state: Mapping[str, torch.Tensor], *, what: str, source: object
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors of a smaller network, with a larger one's own where there are none.

    Args:
        module: The larger generator or discriminators.
        state: Tensors of the smaller ones.
        what, source: For messages, see `check_state`.

    Returns:
        Tensors of the names and shapes of `module`, and the blocks that are new, like 'upsampler.blocks.64'.

    Raises:
        UserError: Something besides the blocks does not fit; names the tensors.
    """
    own = module.state_dict()
    widths = [sorted({int(m[1]) for name in names if (m := _UPSAMPLER.match(name))}) for names in (state, own)]
    places = dict(zip(*widths, strict=False))  # the first block stays the first
    moved = {_moved(name, places): tensor for name, tensor in state.items()}
    blocks: dict[str, list[str]] = {}
    for name in own:
        match = _UPSAMPLER.match(name) or _DISCRIMINATOR.match(name)
        if match is not None:
            blocks.setdefault(match[0].rstrip("."), []).append(name)
    new = [
        block
        for block, names in blocks.items()
        if any(name not in moved or moved[name].shape != own[name].shape for name in names)
    ]
    fresh = {name: own[name] for block in new for name in blocks[block]}
    # Blocks of the upsampler beyond the larger network's are left out: it begins at a higher resolution.
    taken = {
        name: tensor
        for name, tensor in moved.items()
        if name not in fresh and (name in own or not _UPSAMPLER.match(name))
    }
    check_state(module, taken, what=what, source=source, besides=fresh)
    return taken | fresh, new


def _moved(name: str, places: Mapping[int, int]) -> str:
    match = _UPSAMPLER.match(name)
    if match is None or int(match[1]) not in places:
        return name
    return f"upsampler.blocks.{places[int(match[1])]}.{name[match.end() :]}"
