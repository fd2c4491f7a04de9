"""The videos of commands that write geometry (`Scenes` of `training.inference.cli_options`): their names and codes."""

import dataclasses
from typing import Any

import torch

from dnnlib import UserError
from training.inference.cli_options import Scenes, check_truncation, label_of_class, load_codes_of_files
from training.inference.latents import RowCodes
from training.inference.layouts import SeedCodes, StyleMapping, file_content, lay_out
from training.networks.generator import Generator

__all__ = ["SceneVideo", "scene_videos"]


@dataclasses.dataclass(frozen=True)
class SceneVideo:
    """A video: its name in file names, the seeds or the file that it is made of, and its codes, B = 1."""

    name: str
    origin: dict[str, int | str]
    codes: RowCodes


@torch.no_grad()
def scene_videos(scenes: Scenes, generator: Generator, *, device: torch.device) -> list[SceneVideo]:
    """The videos of a generator, in pairs of contents and motions as in `pair_seeds`; codes are on the device.

    Raises:
        UserError: A seed, class, truncation or file that does not fit the generator, or videos of one name.
    """
    label = None
    if scenes.seeds:  # styles from files are used as they are
        label = label_of_class(generator, scenes.class_idx)
        check_truncation(generator, scenes.truncation_psi)
    of_seeds, motion_seeds = SeedCodes(generator), scenes.motion_seeds
    files = zip(scenes.codes, load_codes_of_files(scenes.codes, generator))
    try:
        contents = [of_seeds.content(seed) for seed in scenes.seeds]
        contents += [file_content(path, codes) for path, codes in files]
        motions = None if motion_seeds is None else [of_seeds.motion(seed) for seed in motion_seeds]
        layouts: list = lay_out(contents, motions, grid=False, interpolate=None)
    except ValueError as error:
        raise UserError(str(error)) from error
    sources = [{"seed": seed} for seed in scenes.seeds] + [{"codes": path} for path in scenes.codes]
    origins: dict[Any, dict] = dict(zip(contents, sources))
    origins |= {of_seeds.motion(seed): {"motion_seed": seed} for seed in motion_seeds or scenes.seeds}
    styles = StyleMapping(generator.mapping, label=label, truncation_psi=scenes.truncation_psi, device=device)
    videos = []
    for layout in layouts:
        [[(content, motion)]] = layout.cells
        [codes] = layout.codes(0.0, styles)
        # The motion of a file has no seed.
        videos.append(SceneVideo(layout.name, origins[content] | origins.get(motion, {}), codes.to(device)))
    return videos
