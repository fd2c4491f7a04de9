"""Contact sheets: frames of videos side by side in one picture, one row per video.

    python -m renderer.contact_sheet SHEET.png FOLDER... --columns 8 --scale 3

A FOLDER holds the frames of a video as generate.py --save_frames writes them, depth maps included.
"""

import os
import re
from collections.abc import Sequence

import click
import numpy as np
import torch
from PIL import Image

from dnnlib import UserError, one_line, run_cli
from dnnlib.command_line import Command
from renderer.depth_files import SCALE_FILE, DepthScale, read_depth_png
from renderer.outputs import displayed
from renderer.video import image_grid, save_png

__all__ = ["contact_sheet", "read_frames"]


def read_frames(folder: str, count: int) -> torch.Tensor:
    """`count` of the frames in a folder, evenly spread from the first to the last, uint8 [count, 3, H, W].

    Raises:
        UserError: There are no frames, or they cannot be read, or they differ in size.
    """
    try:
        names = [name for name in os.listdir(folder) if re.fullmatch(r"\d{4,}\.png", name)]
    except OSError as error:
        raise UserError(f"Cannot read the folder {folder}: {error.strerror}.") from error
    if not names:
        raise UserError(f"There are no frames (0000.png, …) in {folder}; render with --save_frames.")
    names.sort(key=lambda name: int(name[:-4]))  # frame 10000 comes after frame 9999
    steps = [round(i * (len(names) - 1) / max(count - 1, 1)) for i in range(count)]
    read = _read_depth if os.path.exists(os.path.join(folder, SCALE_FILE)) else _read_colours
    frames = [read(os.path.join(folder, names[step])) for step in steps]
    if len({frame.shape for frame in frames}) > 1:
        raise UserError(f"The frames in {folder} differ in size.")
    return torch.stack(frames)


def contact_sheet(rows: Sequence[torch.Tensor], scale: int = 1) -> torch.Tensor:
    """One picture, uint8 [3, H, W], of rows of frames [N, 3, h, w]; pixels are repeated `scale` times.

    Rows of smaller frames are enlarged to the size of the largest by repeating pixels.

    Raises:
        UserError: Rows differ in their proportions, as a stereo pair does from a single picture.
    """
    shapes = list(dict.fromkeys((row.shape[3], row.shape[2]) for row in rows))
    if any(width * shapes[0][1] != height * shapes[0][0] for width, height in shapes):
        sizes = ", ".join(f"{width}×{height}" for width, height in shapes)
        raise UserError(f"The frames of the folders have different proportions ({sizes} pixels): make a sheet of each.")
    size = [max(row.shape[dim] * scale for row in rows) for dim in (2, 3)]
    same = [torch.nn.functional.interpolate(row.float(), size=size, mode="nearest-exact") for row in rows]
    return image_grid(torch.cat(same).to(torch.uint8), len(rows[0]))


def _read_colours(path: str) -> torch.Tensor:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"Cannot read the frame {path}: {one_line(error)}.") from error


def _read_depth(path: str) -> torch.Tensor:
    depth, (near, far) = torch.from_numpy(read_depth_png(path)), DepthScale.read(os.path.dirname(path)).range()
    return displayed("depth", depth[None], size=(depth.shape[0], depth.shape[1]), near=near, far=far)


@click.command(cls=Command, context_settings={"max_content_width": 120, "show_default": True})
@click.argument("sheet", type=click.Path(dir_okay=False))
@click.argument("folders", nargs=-1, required=True, type=click.Path())
@click.option("--columns", default=8, type=click.IntRange(min=1), help="Frames of each video, evenly spread.")
@click.option("--scale", default=1, type=click.IntRange(1, 64), help="Enlarge frames by repeating pixels.")
def main(sheet: str, folders: tuple[str, ...], columns: int, scale: int) -> None:
    """Put frames of videos side by side in SHEET, a row for each FOLDER of frames."""
    if not sheet.lower().endswith(".png"):
        raise UserError(f"'{sheet}' will be a PNG file: let its name end in .png.")
    beside = os.path.realpath(os.path.dirname(os.path.abspath(sheet)))
    if beside in map(os.path.realpath, folders):
        raise UserError(f"'{sheet}' would lie among the frames that it shows: write it to another folder.")
    save_png(contact_sheet([read_frames(folder, columns) for folder in folders], scale), sheet)
    click.echo(sheet)


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
