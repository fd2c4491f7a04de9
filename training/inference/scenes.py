"""The videos of commands that write geometry (`Scenes` of `training.inference.cli_options`): their names and codes."""

import dataclasses
import os
from typing import Any

import torch

from dnnlib import UserError
from torch_utils.memory import explain_loading
from training.checkpoints.snapshot import load_average_generator
from training.inference.cli_options import (
    Scenes,
    check_truncation,
    label_of_class,
    load_codes_of_files,
    rendering_device,
)
from training.inference.latents import RowCodes
from training.inference.layouts import SeedCodes, StyleMapping, file_content, lay_out
from training.networks.generator import Generator

__all__ = ["SceneVideo", "load_scenes"]


@dataclasses.dataclass(frozen=True)
class SceneVideo:
    """A video: its name in file names, the seeds or the file that it is made of, and its codes, B = 1."""

    name: str
    origin: dict[str, int | str]
    codes: RowCodes


@torch.no_grad()
def load_scenes(
    scenes: Scenes, network_pkl: str | os.PathLike, *, device: str | None
) -> tuple[Generator, list[SceneVideo]]:
    """The generator of a checkpoint, and its videos in pairs of contents and motions as in `pair_seeds`.

    Args:
        device: As for `rendering_device`; the codes are there, too.

    Raises:
        UserError: No such device or checkpoint, a seed, class, truncation or file that does not fit the generator, or
            videos of one name.
    """
    place = rendering_device(device)
    generator, label = load_average_generator(network_pkl, device=place), None
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
    styles = StyleMapping(generator.mapping, label=label, truncation_psi=scenes.truncation_psi, device=place)
    videos = []
    for layout in layouts:
        [[(content, motion)]] = layout.cells
        with explain_loading(network_pkl):  # the first computation on the device: libraries take their memory
            [codes] = layout.codes(0.0, styles)
        # The motion of a file has no seed.
        videos.append(SceneVideo(layout.name, origins[content] | origins.get(motion, {}), codes.to(place)))
    return generator, videos
