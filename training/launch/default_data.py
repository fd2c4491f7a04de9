"""Synthetic heads for a training without data=, rendered once and kept in the user's cache."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnnlib import UserError, format_bytes, format_time, one_line
from dnnlib.downloads import cache_folder, make_cache_folder
from dnnlib.processes import cores
from training.data.dataset import describe_clips
from training.synthetic.make_dataset import make_dataset
from training.synthetic.render import SyntheticConfig

__all__ = ["SyntheticHeads", "default_config"]

VIDEOS = 512  # at 32 pixels some three minutes of rendering, before the 40 minutes that the default training takes
FRAMES = 16
MAX_RESOLUTION = 64  # rendering takes four times as long at twice the resolution; larger frames are enlarged
SECONDS = 3.5e-4, 1.5e-5  # per pixel of a video's frames on one core: once per video, and per frame
BLOCK = 4096  # smallest size of a file on disk, in bytes


def default_config(options: Mapping[str, Any]) -> SyntheticConfig:
    """The set that suits the options of a training: its resolution, its cameras, and long enough clips."""
    return SyntheticConfig(
        videos=VIDEOS,
        frames=max(FRAMES, options["nframes"] * options["frame_stride"]),
        resolution=min(options["resolution"], MAX_RESOLUTION),
        supersample=2,
        seed=0,
        camera=options["model"]["generator"].get("camera") or {},  # a class of the user's own may have none
    )


class SyntheticHeads:
    """Synthetic heads before they exist, described as a `training.data.dataset.VideoPairDataset` would be.

    Attributes:
        path: Folder in the cache.
    """

    c_dim, numeric_labels = 0, False
    num_short_videos = 0
    notes: tuple[str, ...] = ()

    def __init__(self, options: Mapping[str, Any]):
        """
        Raises:
            UserError: The options ask for something that these heads do not have.
        """
        if options["cond"]:
            raise UserError("cond=true needs labels, which synthetic heads do not have: give data=, or cond=false.")
        self._options = options
        try:
            self._config = default_config(options)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"model.generator: {one_line(error).rstrip('.')}. Synthetic heads have the same cameras: give data= "
                "for cameras of another kind."
            ) from error
        self.path: Path = cache_folder("synthetic", f"synthetic-{self._config.key()}")
        self.name = self.path.name
        self.resolution, self.mirror = options["resolution"], options["mirror"]
        self.nframes = options["nframes"]
        self.frame_stride = self.source_stride = options["frame_stride"]
        clips_each = -(-self._config.frames // self.frame_stride) // self.nframes
        self.num_clips = self._config.videos * clips_each

    def describe(self) -> dict[str, Any]:
        """As for `training.data.dataset.VideoPairDataset`."""
        clips = min(self.num_clips, self._options["subset"] or self.num_clips)
        return {
            **describe_clips(self),
            "num_videos": min(self._config.videos, clips),
            "num_short_videos": self.num_short_videos,
            "num_clips": clips,
            "num_frames": clips * self.nframes,
        }

    def fingerprint(self) -> dict[str, str]:
        """Empty: there are no files yet."""
        return {}

    def announcement(self) -> str:
        """Number and size of the videos, their folder, and the expected time on this machine."""
        config, workers = self._config, min(cores(), self._config.videos)
        pixels = config.resolution**2
        size = config.videos * config.frames * (-(-2 * pixels // BLOCK) * BLOCK + pixels)
        duration = format_time(config.videos * pixels * (SECONDS[0] + SECONDS[1] * config.frames) / workers)
        return (
            f"{config.videos} videos of {config.frames} frames with {config.resolution}×{config.resolution} pixels, "
            f"talking heads, to be rendered once into {self.path}: about {duration} on {workers} cores, about "
            f"{format_bytes(size)}"
        )

    def make(self) -> None:
        """Render the videos if they are missing; concurrent processes make them together.

        Raises:
            UserError: They cannot be made.
        """
        if not self.path.is_dir():
            make_cache_folder(self.path.parent, instead="give data=")
        make_dataset(self.path, self._config)
