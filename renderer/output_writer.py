"""Output videos of a camera path: one per output, written together, frame by frame."""

import contextlib
import os
from collections.abc import Mapping, Sequence

import torch

from renderer.depth_files import DepthScale, write_depth_png
from renderer.frame_folder import FrameFolder
from renderer.outputs import displayed, output_stem
from renderer.video import VideoWriter

__all__ = ["OutputVideos"]


class OutputVideos:
    """Writer of `<stem>.mp4` for the image (rgb) and `<stem>_<output>.mp4` for other outputs, see `renderer.outputs`.

    Other formats have their own file extensions. Videos appear when the writer is closed, complete or not at all; with
    `save_frames` also their frames as PNG, in the folder `<stem>` or `<stem>_<output>`. Depth frames are 16-bit maps at
    their own resolution, see `renderer.depth_files`.

    Args:
        stem: Path without its extension; the folder must exist.
        outputs: Names from `renderer.outputs.OUTPUTS`.
        fps: Frames per second.
        near, far: Depth range of the rendered volume in scene units.
        video_format: One of `renderer.video.FORMATS`.
    """

    def __init__(
        self,
        stem: str,
        outputs: Sequence[str],
        *,
        fps: float,
        near: float,
        far: float,
        save_frames: bool = False,
        video_format: str = "mp4",
    ):
        self.near, self.far = near, far
        stems = {name: output_stem(stem, name) for name in outputs}
        self.paths = [f"{path}.{video_format}" for path in stems.values()]
        self._depth = FrameFolder(stems["depth"]) if save_frames and "depth" in stems else None
        self._writers = {}
        for name, path in stems.items():
            frames_dir = path if save_frames and name != "depth" else None
            self._writers[name] = VideoWriter(f"{path}.{video_format}", fps, frames_dir=frames_dir)
        self._scale = DepthScale.of_range(near, far)
        self._count = 0

    def __enter__(self) -> "OutputVideos":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def add(self, maps: Mapping[str, torch.Tensor], *, sizes: Mapping[str, tuple[int, int]]) -> None:
        """Append a frame.

        Args:
            maps: A map [C, h, w] for every output.
            sizes: (H, W) of the frame in pixels, for every output.
        """
        for name, writer in self._writers.items():
            writer.add(displayed(name, maps[name], size=sizes[name], near=self.near, far=self.far))
        if self._depth is not None:
            path = self._depth.next_frame()
            if self._count == 0:
                self._scale.write(os.path.dirname(path))
            write_depth_png(maps["depth"][0], path, self._scale)
        self._count += 1

    def close(self) -> None:
        """Finish the files and give them their names."""
        with contextlib.ExitStack() as unfinished:
            unfinished.callback(self.abort)  # no effect on closed writers
            for writer in self._writers.values():
                writer.close()
            if self._depth is not None:
                self._depth.close()

    def abort(self) -> None:
        """Remove the unfinished files."""
        for writer in self._writers.values():
            writer.abort()
        if self._depth is not None:
            self._depth.abort()
