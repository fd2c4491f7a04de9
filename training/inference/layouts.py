"""Layouts of videos: one video, a grid of contents × motions, a loop through latent codes, or a sheet of either.

Contents (identity and background) and motions come from seeds, from mixed seeds or from files of codes. A layout gives
the codes of its rows of videos at every phase (0 ≤ phase < 1); a row is rendered as one batch. Contents hold latent
codes, which are small; styles are computed when a row is rendered (`StyleMapping`).
"""

import collections
import dataclasses
import math
import re
import zlib
from collections.abc import Callable, Sequence

import torch

from renderer.trajectories import PROGRAMS
from training.inference.cli_options import OWN_PATH, PATH_OF_FILE, StyleMix, join_numbers, pair_seeds, plain_name
from training.inference.interpolation import lerp, loop_position, mix_styles, slerp, through_loop
from training.inference.latent_files import VideoCodes
from training.inference.latents import RowCodes, generator_latents
from training.networks.generator import Generator

__all__ = [
    "ContentCodes",
    "Layout",
    "Loop",
    "MotionCode",
    "SeedCodes",
    "Sheet",
    "Still",
    "StyleMapping",
    "file_content",
    "join_names",
    "lay_out",
    "shows_several",
]

#: Names of the videos of a grid or sheet: the camera path, then the layout's name.
TRACKS = "|".join((*PROGRAMS, OWN_PATH, f"{PATH_OF_FILE}.+"))
SEVERAL = re.compile(rf"({TRACKS})_(grid|sheet\d*)_(interpolate-|seed\d|mix\d|codes-)")


@dataclasses.dataclass(frozen=True, eq=False)
class MotionCode:
    """A motion code [1, motion_dim] on the CPU, and its name for files."""

    name: str
    z: torch.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class ContentCodes:
    """The latent codes of one content (identity and background), on the CPU.

    Attributes:
        name: Name in file names.
        z_bg: Background code [1, background_dim].
        motion: Its own motion, used where no other is asked for.
        z: Content code [1, z_dim]; None where the styles are given.
        mixed: Another content code, and the layers that take its styles.
        ws: Styles [1, num_ws, w_dim], or None.
    """

    name: str
    z_bg: torch.Tensor
    motion: MotionCode
    z: torch.Tensor | None = None
    mixed: tuple[torch.Tensor, list[int]] | None = None
    ws: torch.Tensor | None = None


class SeedCodes:
    """Contents and motions from seeds for one generator; the same seed gives the same object.

    Raises (all methods):
        ValueError: A seed out of range.
    """

    def __init__(self, generator: Generator):
        self._generator = generator
        self._contents: dict[int, ContentCodes] = {}
        self._motions: dict[int, MotionCode] = {}

    def motion(self, seed: int) -> MotionCode:
        if seed not in self._motions:
            self._motions[seed] = MotionCode(f"motion{seed:04d}", generator_latents(self._generator, 0, seed).z_motion)
        return self._motions[seed]

    def content(self, seed: int) -> ContentCodes:
        if seed not in self._contents:
            codes = generator_latents(self._generator, seed, 0)
            self._contents[seed] = ContentCodes(f"seed{seed:04d}", codes.z_bg, self.motion(seed), z=codes.z)
        return self._contents[seed]

    def mix(self, mix: StyleMix, layers: list[int]) -> ContentCodes:
        """Content, background and motion of the first seed, styles of the second in some layers."""
        first, second = self.content(mix.seed), self.content(mix.other)
        return dataclasses.replace(first, name=mix.name, mixed=(second.z, layers))


def file_content(path: str, codes: VideoCodes) -> ContentCodes:
    """The content of a file of codes, with its motion."""
    stem = plain_name(path)
    motion = MotionCode(f"motion-{stem}", codes.z_motion[None])
    return ContentCodes(f"codes-{stem}", codes.z_bg[None], motion, ws=codes.ws[None])


class StyleMapping:
    """The mapping network (StyleGAN, section 2) from contents to styles [1, num_ws, w_dim] on a device.

    Args:
        mapping: `Generator.mapping`.
        label: [B, c_dim], one per content code, or None.
        truncation_psi: Truncation of styles from seeds; those of files are used as they are.
    """

    def __init__(
        self, mapping: Callable, *, label: torch.Tensor | None, truncation_psi: float, device: torch.device | str
    ):
        self._mapping, self._psi, self._device = mapping, truncation_psi, device
        self._label = None if label is None else label.to(device)

    def __call__(self, content: ContentCodes) -> torch.Tensor:
        if content.ws is not None:
            return content.ws.to(self._device)
        ws = self.of(content.z)
        if content.mixed is not None:
            other, layers = content.mixed
            ws = mix_styles(ws, self.of(other), layers)
        return ws

    def of(self, z: torch.Tensor) -> torch.Tensor:
        """Styles [B, num_ws, w_dim] of content codes [B, z_dim]."""
        return self._mapping(z.to(self._device), self._label, truncation_psi=self._psi)


class Still:
    """Rows of videos with constant codes: every cell is a (content, motion)."""

    moving = False

    def __init__(self, name: str, cells: Sequence[Sequence[tuple[ContentCodes, MotionCode]]]):
        self.name, self.cells = name, cells
        self.rows, self.columns = len(cells), len(cells[0])

    def codes(self, phase: float, styles: StyleMapping) -> list[RowCodes]:
        """The codes of every row, the same at all phases."""
        ws = {content: styles(content) for row in self.cells for content in dict.fromkeys(c for c, _ in row)}
        return [
            RowCodes(
                _cat([ws[content] for content, _ in row]),
                _cat([motion.z for _, motion in row]),
                _cat([content.z_bg for content, _ in row]),
            )
            for row in self.cells
        ]


def _cat(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _grid(contents: Sequence[ContentCodes], motions: Sequence[MotionCode]) -> Still:
    """A row per content, a column per motion."""
    contents, motions = list(dict.fromkeys(contents)), list(dict.fromkeys(motions))
    cells = [[(content, motion) for motion in motions] for content in contents]
    return Still(f"grid_{_name(contents, motions)}", cells)


class Loop:
    """One video whose codes pass through those of several contents and motions and return to the first.

    Args:
        space: Space in which content codes are interpolated: 'z' (spherically) or 'w' (linearly). Motion and background
            codes are interpolated spherically in either case.

    Raises:
        ValueError: There is nothing to interpolate between, or a content has no z.
    """

    moving = True
    rows = columns = 1

    def __init__(self, contents: Sequence[ContentCodes], motions: Sequence[MotionCode], *, space: str):
        self.contents, self.motions = list(contents), list(motions)
        if len(set(self.contents)) == len(set(self.motions)) == 1:
            raise ValueError("an interpolation needs two or more contents or motions; give more seeds")
        fitted = any(content.z is None or content.mixed is not None for content in contents)
        if space == "z" and fitted and len(set(self.contents)) > 1:
            raise ValueError("mixed and fitted styles have no z to interpolate; use w")
        self.space = space
        self.name = f"interpolate-{space}_{_name(contents, motions)}"

    def codes(self, phase: float, styles: StyleMapping) -> list[RowCodes]:
        """The codes of the single row at a phase."""
        first, second, fraction = loop_position(len(self.contents), phase)
        here, there = self.contents[first], self.contents[second]
        if here is there:
            ws = styles(here)
        elif self.space == "z":
            ws = styles.of(slerp(here.z, there.z, fraction))
        else:
            ws = lerp(styles(here), styles(there), fraction)
        z_motion = through_loop([motion.z for motion in self.motions], phase, slerp)
        return [RowCodes(ws, z_motion, through_loop([content.z_bg for content in self.contents], phase, slerp))]


class Sheet:
    """Layouts of one video each side by side, row after row; the last row may have fewer.

    Args:
        columns: Number of videos in a row, if there are as many.
    """

    def __init__(self, name: str, videos: Sequence[Still] | Sequence[Loop], columns: int):
        self.name, self.videos, self.moving = name, videos, videos[0].moving
        self.columns = min(columns, len(videos))
        self.rows = math.ceil(len(videos) / self.columns)

    def codes(self, phase: float, styles: StyleMapping) -> list[RowCodes]:
        """The codes of every row at a phase."""
        codes = [row for video in self.videos for row in video.codes(phase, styles)]
        return [RowCodes.join(codes[i : i + self.columns]) for i in range(0, len(codes), self.columns)]


Layout = Still | Loop | Sheet


def _loops(contents: Sequence[ContentCodes], motions: Sequence[MotionCode], *, space: str, count: int) -> list[Loop]:
    """Loops of equal length: the i-th passes every `count`-th content and motion from the i-th on, or the only one.

    Raises:
        ValueError: They do not make as many equal loops; see also `Loop`.
    """
    if max(len(contents), len(motions)) < 2 * count:
        raise ValueError(
            f"each of {count} loops needs two or more contents or motions, {2 * count} in all; give more seeds or "
            "fewer columns"
        )
    for name, items in [("contents", contents), ("motions", motions)]:
        if len(items) > 1 and len(items) % count:
            raise ValueError(f"{len(items)} {name} do not make {count} equal loops; give a multiple of {count}, or one")
    return [Loop(contents[i::count] or contents, motions[i::count] or motions, space=space) for i in range(count)]


def lay_out(
    contents: Sequence[ContentCodes],
    motions: Sequence[MotionCode] | None,
    *,
    grid: bool,
    interpolate: str | None,
    columns: int | None = None,
) -> list[Layout]:
    """A grid or a loop of everything, or a video for every pair (see `pair_seeds`).

    Args:
        motions: None: the contents' own.
        interpolate: See `Loop`, also for errors; None for still codes.
        columns: All videos as a sheet of so many columns, or so many loops side by side (see `_loops`); None: no sheet.

    Raises:
        ValueError: Different contents or motions have one name, so that those of two videos could be one, too.
    """
    motions = [content.motion for content in contents] if motions is None else list(motions)
    for kind, items in [("contents", contents), ("motions", motions)]:
        for name, count in collections.Counter(item.name for item in dict.fromkeys(items)).items():
            if count > 1:
                raise ValueError(
                    f"{count} {kind} would be called {name}: name the files of codes differently, each once."
                )
    if grid:
        return [_grid(contents, motions)]
    if interpolate is not None:
        loop = Loop(contents, motions, space=interpolate)
        if columns is None:
            return [loop]
        # The number of loops decides which contents and motions each passes.
        name = f"sheet{columns}_{loop.name}"
        return [Sheet(name, _loops(contents, motions, space=interpolate, count=columns), columns)]
    pairs = pair_seeds(list(contents), motions)
    layouts = [Still(f"{content.name}_{motion.name}", [[(content, motion)]]) for content, motion in pairs]
    if columns is None:
        return layouts
    # Each once, if that gives these pairs again, else pair by pair: different sheets have different names.
    each_once = [list(dict.fromkeys(items)) for items in zip(*pairs)]
    named = each_once if pair_seeds(*each_once) == pairs else list(zip(*pairs))
    return [Sheet(f"sheet_{_name(*named)}", layouts, columns)]


def shows_several(name: str) -> bool:
    """True for the name of a rendered grid or sheet, without its folder: several videos in one."""
    return SEVERAL.match(name) is not None


def _name(contents: Sequence[ContentCodes], motions: Sequence[MotionCode]) -> str:
    """The part of a file's name that tells the contents and motions of a grid, loop or sheet."""
    return "_".join(join_names([item.name for item in items]) for items in (contents, motions))


def join_names(names: Sequence[str]) -> str:
    """One name for several in their order: numbers after a common word as ranges (seed0000-0003+0007), others with '+'.

    Repetitions count, since a loop passes each, except where all names are the same.
    """
    names = names if len(set(names)) > 1 else names[:1]
    matches = [re.fullmatch(r"([a-z]+)(\d{4,})", name) for name in names]
    if all(matches) and len({match[1] for match in matches}) == 1:
        joined = matches[0][1] + join_numbers([int(match[2]) for match in matches], digits=4)
    else:
        joined = "+".join(names)
    if len(joined) <= 80 or len(names) == 1:
        return joined
    between = f"{zlib.crc32(joined.encode()):08x}"  # tells lists with the same ends
    return f"{names[0]}-to-{names[-1]}-x{len(names)}-{between}"
