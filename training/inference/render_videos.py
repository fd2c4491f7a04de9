"""Renders layouts along camera tracks into files: all outputs of all rows and eyes, frame by frame."""

import os
from collections.abc import Callable, Sequence

import torch
from tqdm import tqdm

from renderer.camera_tracks import CameraTrack
from renderer.cameras import Cameras
from renderer.output_writer import OutputVideos
from renderer.outputs import output_maps
from renderer.video import image_grid
from training.inference.frame_renderer import FrameRenderer
from training.inference.layouts import Codes, Loop, Still, Styles
from training.networks.generator import Generator

__all__ = ["RowScenes", "frame_maps", "frame_size", "write_videos"]


class RowScenes:
    """A layout's rows, ready for rendering at any phase.

    Args:
        make_scene: Codes to a `FrameRenderer`.
    """

    def __init__(self, layout: Still | Loop, styles: Styles, make_scene: Callable[[Codes], FrameRenderer]):
        self._layout, self._styles, self._make_scene = layout, styles, make_scene
        self._scenes: list[FrameRenderer] | None = None

    def at(self, phase: float) -> list[FrameRenderer]:
        if self._scenes is None or self._layout.moving:
            self._scenes = [self._make_scene(codes) for codes in self._layout.codes(phase, self._styles)]
        return self._scenes


def frame_maps(
    rows: Sequence[FrameRenderer], columns: int, time: float, eyes: Sequence[Cameras], outputs: Sequence[str], *,
    background: bool,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """A frame's maps [C, H, W] of every output: rows of `columns` videos, and the eyes' pictures side by side.

    Args:
        eyes: A camera for each eye, one or two.
        background: Whether the generator has a background.
    """
    pictures = []
    for eye in eyes:
        cameras = eye.repeat(columns)
        if list(outputs) == ["rgb"]:
            parts = [{"rgb": scene.render(time, cameras)} for scene in rows]
        else:
            parts = [output_maps(s.output(time, cameras), outputs, cameras, background=background) for s in rows]
        pictures.append({name: image_grid(torch.cat([part[name] for part in parts]), columns) for name in outputs})
    return {name: torch.cat([picture[name] for picture in pictures], dim=-1) for name in outputs}


def frame_size(layout: Still | Loop, eyes: int, cell: int) -> tuple[int, int]:
    """(H, W) in pixels of a layout's frames for one or two eyes, with square cells `cell` pixels wide."""
    return cell * layout.rows, cell * layout.columns * eyes


def write_videos(
    layouts: Sequence[Still | Loop],
    tracks: Sequence[tuple[CameraTrack, Sequence[Cameras]]],
    generator: Generator,
    *,
    styles: Styles,
    make_scene: Callable[[Codes], FrameRenderer],
    outdir: str,
    outputs: Sequence[str],
    enlarge: int,
    fps: float,
    save_frames: bool,
) -> None:
    """Render every layout along every track, to `<track>_<layout>[_stereo][_<output>].mp4` in `outdir`.

    Args:
        tracks: With the cameras of one or two eyes.
        enlarge: Repeat every pixel so many times in both directions.
        outputs, fps, save_frames: See `OutputVideos`.
    """
    settings, background = generator.settings, generator.background is not None
    files = {"fps": fps, "near": settings.near, "far": settings.far, "save_frames": save_frames}
    cell = generator.resolution * enlarge
    total = len(layouts) * sum(len(track.schedule) for track, _ in tracks)
    with torch.inference_mode(), tqdm(total=total, unit="frame", disable=None) as progress:
        for layout in layouts:
            scenes = RowScenes(layout, styles, make_scene)
            for track, eyes in tracks:
                size = frame_size(layout, len(eyes), cell)
                stem = os.path.join(outdir, f"{track.name}_{layout.name}{'_stereo' if len(eyes) == 2 else ''}")
                with OutputVideos(stem, outputs, **files) as videos:
                    for i, (step, time) in enumerate(track.schedule):
                        rows, views = scenes.at(i / len(track.schedule)), [cameras[step] for cameras in eyes]
                        maps = frame_maps(rows, layout.columns, time, views, outputs, background=background)
                        videos.add(maps, size=size)
                        progress.update()
                for path in videos.paths:
                    progress.write(path)
