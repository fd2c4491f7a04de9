"""Rendering of layouts along camera tracks into video files: all outputs of all rows and eyes, frame by frame.

`save_video` writes frames that are there already, for the Python interface.
"""

import math
import os
from collections.abc import Callable, Sequence

import torch
from tqdm import tqdm

from dnnlib.command_line import FRAME_RATE
from renderer.camera_tracks import CameraTrack
from renderer.cameras import Cameras
from renderer.output_writer import OutputVideos
from renderer.outputs import output_maps
from renderer.video import VideoWriter, image_grid
from torch_utils.argument_checks import check_number, check_tensors
from training.inference.arguments import check_path
from training.inference.frame_renderer import FrameRenderer
from training.inference.latents import RowCodes
from training.inference.layouts import Layout, StyleMapping
from training.networks.generator import Generator

__all__ = ["cell_sizes", "frame_size", "row_maps", "save_video", "write_videos"]


def row_maps(
    renderer: FrameRenderer,
    time: float,
    cameras: Cameras,
    outputs: Sequence[str],
    geometry_resolution: int | None,
) -> dict[str, torch.Tensor]:
    """A frame's maps [B, C, h, w] of every output, of B videos with a camera each; see `renderer.outputs`.

    Args:
        geometry_resolution: Rays per side for the outputs other than rgb, see `FrameRenderer.volume`; None: those of
            the image.
    """
    others = [name for name in outputs if name != "rgb"]
    if not others:
        return {"rgb": renderer.render(time, cameras)}
    background = renderer.generator.background is not None
    if "rgb" not in outputs:
        volume = renderer.volume(time, cameras, resolution=geometry_resolution)
        return output_maps(volume, others, cameras, background=background)
    frames = renderer.output(time, cameras)
    volume = frames if geometry_resolution is None else renderer.volume(time, cameras, resolution=geometry_resolution)
    maps = {"rgb": frames.image[:, 0]} | output_maps(volume, others, cameras, background=background)
    return {name: maps[name] for name in outputs}


def _frame_maps(
    rows: Sequence[FrameRenderer],
    columns: int,
    time: float,
    eyes: Sequence[Cameras],
    outputs: Sequence[str],
    geometry_resolution: int | None,
) -> dict[str, torch.Tensor]:
    """A frame's maps [C, H, W] of every output: rows of up to `columns` videos, and the eyes' pictures side by side.

    Args:
        eyes: A camera for each eye, one or two.
        geometry_resolution: See `row_maps`.
    """
    pictures = []
    for eye in eyes:
        parts = [row_maps(row, time, eye.repeat(len(row.ws)), outputs, geometry_resolution) for row in rows]
        cells = {name: torch.cat([part[name] for part in parts]) for name in outputs}
        pictures.append({name: image_grid(maps, columns, blank=math.nan) for name, maps in cells.items()})
    return {name: torch.cat([picture[name] for picture in pictures], dim=-1) for name in outputs}


def cell_sizes(outputs: Sequence[str], cell: int, geometry_resolution: int | None) -> dict[str, int]:
    """Widths in pixels of a video's cells: those of the image, or of maps that have more pixels than it."""
    return {name: cell if name == "rgb" else max(cell, geometry_resolution or 0) for name in outputs}


def frame_size(layout: Layout, eyes: int, cell: int) -> tuple[int, int]:
    """(H, W) in pixels of a layout's frames for one or two eyes, with square cells `cell` pixels wide."""
    return cell * layout.rows, cell * layout.columns * eyes


def write_videos(
    layouts: Sequence[Layout],
    tracks: Sequence[tuple[CameraTrack, Sequence[Cameras]]],
    generator: Generator,
    *,
    styles: StyleMapping,
    make_renderer: Callable[[RowCodes], FrameRenderer],
    outdir: str,
    outputs: Sequence[str],
    geometry_resolution: int | None,
    enlarge: int,
    fps: float,
    save_frames: bool,
    video_format: str,
) -> None:
    """Render every layout along every track, to `<track>_<layout>[_stereo][_<output>].<format>` in `outdir`.

    Args:
        tracks: Tracks with the cameras of one or two eyes.
        geometry_resolution: See `row_maps`.
        enlarge: Repeat every pixel of the image this many times in both directions; maps are shown at the same size.
        outputs, fps, save_frames, video_format: See `OutputVideos`.
    """
    files = {"fps": fps, "save_frames": save_frames, "video_format": video_format}
    cells = cell_sizes(outputs, generator.resolution * enlarge, geometry_resolution)
    total = len(layouts) * sum(len(track.schedule) for track, _ in tracks)
    with torch.inference_mode(), tqdm(total=total, unit="frame", disable=None) as progress:
        for layout in layouts:
            rows: list[FrameRenderer] = []
            for track, eyes in tracks:
                sizes = {name: frame_size(layout, len(eyes), cell) for name, cell in cells.items()}
                near, far = generator.depth_range(Cameras.join([camera for cameras in eyes for camera in cameras]))
                stem = os.path.join(outdir, f"{track.name}_{layout.name}{'_stereo' if len(eyes) == 2 else ''}")
                with OutputVideos(stem, outputs, near=near, far=far, **files) as videos:
                    for i, (step, time) in enumerate(track.schedule):
                        if layout.moving or not rows:
                            codes = layout.codes(i / len(track.schedule), styles)
                            rows = [make_renderer(row) for row in codes]
                        views = [cameras[step] for cameras in eyes]
                        maps = _frame_maps(rows, layout.columns, time, views, outputs, geometry_resolution)
                        videos.add(maps, sizes=sizes)
                        progress.update()
                for path in videos.paths:
                    progress.write(path)


def save_video(path: str | os.PathLike, video: torch.Tensor, *, fps: float = 8.0) -> None:
    """Write frames, uint8 [T, 3, H, W], as a .webm or .gif file, or as .mp4 for every other suffix.

    Raises:
        UserError: The file cannot be written.
        ValueError: Frames of the wrong form, none at all, or a frame rate out of range.
    """
    check_path("path", path)
    check_tensors({"video": (video, ("T", 3, "H", "W"))})
    check_number("fps", fps, FRAME_RATE.min, FRAME_RATE.max, inclusive=True)
    with VideoWriter(path, fps) as writer:
        for frame in video:
            writer.add(frame)
