"""What is in the picture: one video, a grid of contents × motions, or a loop through codes.

A layout gives the codes of its rows of videos at every phase (0 ≤ phase < 1) of the video. A row is worked on as one
batch of videos.
"""

import collections
import dataclasses
import re
from collections.abc import Sequence

import torch

from training.code_paths import lerp, loop_position, slerp, through_loop
from training.contents import Content, Motion, Styles
from training.render_options import join_numbers
from training.rendering_choices import pair_seeds

__all__ = ["Codes", "Loop", "Still", "join_names", "lay_out"]


@dataclasses.dataclass(frozen=True)
class Codes:
    """Of a row of videos: ws [B, num_ws, w_dim], z_motion [B, motion_dim], z_bg [B, background_dim]."""

    ws: torch.Tensor
    z_motion: torch.Tensor
    z_bg: torch.Tensor


class Still:
    """Rows of videos whose codes stay: every cell is a (content, motion)."""

    moving = False

    def __init__(self, name: str, cells: Sequence[Sequence[tuple[Content, Motion]]]):
        self.name, self.cells = name, cells
        self.rows, self.columns = len(cells), len(cells[0])

    def codes(self, phase: float, styles: Styles) -> list[Codes]:
        ws = {content: styles(content) for row in self.cells for content in dict.fromkeys(c for c, _ in row)}
        return [
            Codes(
                _cat([ws[content] for content, _ in row]),
                _cat([motion.z for _, motion in row]),
                _cat([content.z_bg for content, _ in row]),
            )
            for row in self.cells
        ]


def _cat(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _grid(contents: Sequence[Content], motions: Sequence[Motion] | None) -> Still:
    """One row a content, one column a motion; without motions those of the contents."""
    contents = list(dict.fromkeys(contents))
    motions = list(dict.fromkeys(content.motion for content in contents) if motions is None else dict.fromkeys(motions))
    name = f"grid_{join_names([c.name for c in contents])}_{join_names([m.name for m in motions])}"
    return Still(name, [[(content, motion) for motion in motions] for content in contents])


class Loop:
    """One video whose codes pass through those of several contents and motions and come back to the first.

    Args:
        space: Where content codes are interpolated: 'z' (spherically) or 'w' (linearly). Motion and background codes
            are interpolated spherically in either case.

    Raises:
        ValueError: There is nothing to interpolate between, or a content has no z.
    """

    moving = True
    rows = columns = 1

    def __init__(self, contents: Sequence[Content], motions: Sequence[Motion] | None, *, space: str):
        self.contents = list(contents)
        self.motions = [content.motion for content in contents] if motions is None else list(motions)
        if len(set(self.contents)) == len(set(self.motions)) == 1:
            raise ValueError("an interpolation needs two or more contents or motions; give more seeds")
        fitted = any(content.z is None or content.mixed is not None for content in contents)
        if space == "z" and fitted and len(set(self.contents)) > 1:
            raise ValueError("mixed and fitted styles have no z to interpolate; use w")
        self.space = space
        names = [join_names([item.name for item in items]) for items in (self.contents, self.motions)]
        self.name = f"interpolate-{space}_{names[0]}_{names[1]}"

    def codes(self, phase: float, styles: Styles) -> list[Codes]:
        first, second, fraction = loop_position(len(self.contents), phase)
        here, there = self.contents[first], self.contents[second]
        if here is there:
            ws = styles(here)
        elif self.space == "z":
            ws = styles.of(slerp(here.z, there.z, fraction))
        else:
            ws = lerp(styles(here), styles(there), fraction)
        z_motion = through_loop([motion.z for motion in self.motions], phase, slerp)
        return [Codes(ws, z_motion, through_loop([content.z_bg for content in self.contents], phase, slerp))]


def lay_out(
    contents: Sequence[Content], motions: Sequence[Motion] | None, *, grid: bool, interpolate: str | None
) -> list[Still | Loop]:
    """A grid or a loop of everything, or a picture for every pair (see `pair_seeds`).

    Args:
        motions: None: those that go with the contents.
        interpolate: See `Loop`, also for errors; None for still codes.

    Raises:
        ValueError: Two videos would have one name.
    """
    if interpolate is not None:
        return [Loop(contents, motions, space=interpolate)]
    if grid:
        return [_grid(contents, motions)]
    pairs = pair_seeds(list(contents), [content.motion for content in contents] if motions is None else list(motions))
    layouts = [Still(f"{content.name}_{motion.name}", [[(content, motion)]]) for content, motion in pairs]
    for name, count in collections.Counter(layout.name for layout in layouts).items():
        if count > 1:
            raise ValueError(f"{count} videos would be called {name}: name the files of codes differently, each once.")
    return layouts


def join_names(names: Sequence[str]) -> str:
    """One name for several: numbers after a common word as ranges (seed0000-0003+0007), the others joined by '+'."""
    names = list(dict.fromkeys(names))
    matches = [re.fullmatch(r"([a-z]+)(\d{4,})", name) for name in names]
    if all(matches) and len({match[1] for match in matches}) == 1:
        joined = matches[0][1] + join_numbers([int(match[2]) for match in matches], digits=4)
    else:
        joined = "+".join(names)
    return joined if len(joined) <= 80 or len(names) == 1 else f"{names[0]}-to-{names[-1]}-x{len(names)}"
