"""The data that a training without data= uses: synthetic heads, drawn once and kept in the user's cache."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnnlib import UserError
from dnnlib.downloads import cache_folder
from training.synthetic import make_dataset
from training.synthetic_video import Recipe

__all__ = ["default_dataset", "default_recipe"]

VIDEOS = 512
FRAMES = 16
MAX_RESOLUTION = 64  # drawing takes a minute at 32, four times as long at twice the resolution; frames are enlarged


def default_recipe(options: Mapping[str, Any]) -> Recipe:
    """The set that suits the options of a training: its resolution, its cameras, clips that are long enough."""
    return Recipe(
        videos=VIDEOS,
        frames=max(FRAMES, options["nframes"] * options["frame_stride"]),
        resolution=min(options["resolution"], MAX_RESOLUTION),
        supersample=2,
        seed=0,
        camera=options["model"]["generator"]["camera"],
    )


def default_dataset(options: Mapping[str, Any]) -> str:
    """The folder of the set, which is made first if it is not there; several processes at once make one.

    Raises:
        UserError: It cannot be made.
    """
    recipe = default_recipe(options)
    folder: Path = cache_folder("synthetic", f"synthetic-{recipe.key()}")
    try:
        os.makedirs(folder.parent, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make the folder {folder.parent} for data: {error.strerror}; give data=.") from error
    make_dataset(folder, recipe)
    return str(folder)
