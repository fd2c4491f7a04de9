"""What a video shows: contents (identity and background) and motions, from seeds, from mixed seeds or from files.

Styles are computed when they are needed: a content holds its codes, which are small, and `Styles` turns them into w.
"""

import dataclasses
from collections.abc import Callable

import torch

from training.code_files import VideoCodes
from training.code_paths import mix_styles
from training.generator import Generator
from training.latents import seed_latents
from training.render_options import StyleMix, plain_name

__all__ = ["Content", "Motion", "SeedCodes", "Styles", "file_content"]


@dataclasses.dataclass(frozen=True, eq=False)
class Motion:
    """A motion code [1, motion_dim] on the CPU, and its name for files."""

    name: str
    z: torch.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Content:
    """Codes of what is seen, on the CPU.

    Attributes:
        name: For files.
        z_bg: Background code [1, background_dim].
        motion: The motion that goes with it where none is asked for.
        z: Content code [1, z_dim]; None where the styles are given.
        mixed: Another content code, and the layers that take its styles.
        ws: Styles [1, num_ws, w_dim], or None.
    """

    name: str
    z_bg: torch.Tensor
    motion: Motion
    z: torch.Tensor | None = None
    mixed: tuple[torch.Tensor, list[int]] | None = None
    ws: torch.Tensor | None = None


class SeedCodes:
    """Contents and motions of seeds for one generator; the same seed gives the same object.

    Raises (all methods):
        ValueError: A seed out of range.
    """

    def __init__(self, generator: Generator):
        self._sizes = {name: getattr(generator, name) for name in ("z_dim", "motion_dim", "background_dim")}
        self._contents: dict[int, Content] = {}
        self._motions: dict[int, Motion] = {}

    def motion(self, seed: int) -> Motion:
        if seed not in self._motions:
            self._motions[seed] = Motion(f"motion{seed:04d}", seed_latents(0, seed, **self._sizes).z_motion)
        return self._motions[seed]

    def content(self, seed: int) -> Content:
        if seed not in self._contents:
            codes = seed_latents(seed, 0, **self._sizes)
            self._contents[seed] = Content(f"seed{seed:04d}", codes.z_bg, self.motion(seed), z=codes.z)
        return self._contents[seed]

    def mix(self, mix: StyleMix, layers: list[int]) -> Content:
        """Content, background and motion of the first seed, styles of the second in some layers."""
        first, second = self.content(mix.seed), self.content(mix.other)
        return dataclasses.replace(first, name=mix.name, mixed=(second.z, layers))


def file_content(path: str, codes: VideoCodes) -> Content:
    """The content of a file of codes, with its motion."""
    stem = plain_name(path)
    motion = Motion(f"motion-{stem}", codes.z_motion[None])
    return Content(f"codes-{stem}", codes.z_bg[None], motion, ws=codes.ws[None])


class Styles:
    """Contents to styles [1, num_ws, w_dim] on a device.

    Args:
        mapping: `Generator.mapping`.
        label: [1, c_dim], or None.
        truncation_psi: Of styles that come from seeds; those of files are as they are.
    """

    def __init__(
        self, mapping: Callable, *, label: torch.Tensor | None, truncation_psi: float, device: torch.device | str
    ):
        self._mapping, self._psi, self._device = mapping, truncation_psi, device
        self._label = None if label is None else label.to(device)

    def __call__(self, content: Content) -> torch.Tensor:
        if content.ws is not None:
            return content.ws.to(self._device)
        ws = self.of(content.z)
        if content.mixed is not None:
            other, layers = content.mixed
            ws = mix_styles(ws, self.of(other), layers)
        return ws

    def of(self, z: torch.Tensor) -> torch.Tensor:
        return self._mapping(z.to(self._device), self._label, truncation_psi=self._psi)
