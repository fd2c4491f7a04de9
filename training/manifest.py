"""The manifest.json that the dataset tool leaves in what it writes: where frames come from and how they were cut."""

import json
from collections.abc import Mapping
from typing import Any

from dnnlib import UserError

__all__ = [
    "FRAMES_FORMAT",
    "MANIFEST",
    "SHARDS_FORMAT",
    "VERSION",
    "missing_videos",
    "parse_manifest",
    "remaining_stride",
]

MANIFEST = "manifest.json"
FRAMES_FORMAT = "square-video-frames"  # a folder or zip of folders of frames
SHARDS_FORMAT = "square-video-clips"  # a folder of tar files of clips
VERSION = 2


def parse_manifest(data: bytes | None) -> dict[str, Any] | None:
    """A manifest that the tool wrote; None for anything else."""
    try:
        manifest = json.loads(data or b"null")
    except (ValueError, RecursionError):
        return None
    ours = isinstance(manifest, dict) and manifest.get("format") in (FRAMES_FORMAT, SHARDS_FORMAT)
    return manifest if ours else None


def missing_videos(manifest: dict[str, Any] | None, lengths: Mapping[str, int]) -> str | None:
    """One line about videos that a manifest lists and that are not there, or not all of their frames; else None.

    Args:
        lengths: Frames of each video that is there, by its path.
    """
    try:
        listed = {str(entry["path"]): int(entry["frames"]) for entry in (manifest or {}).get("videos", [])}
    except (TypeError, ValueError, KeyError):
        return f"{MANIFEST} is damaged: its videos cannot be compared with those that are there."
    missing = [path for path, frames in listed.items() if lengths.get(path, 0) < frames]
    if not missing:
        return None
    return f"{len(missing)} of {len(listed)} videos in {MANIFEST} are missing, or frames of them, e.g. '{missing[0]}'."


def remaining_stride(manifest: dict[str, Any] | None, frame_stride: int, *, path: str) -> int:
    """Every how-many-th stored frame to keep, so that every frame_stride-th frame of the source video remains.

    The tool may have left frames out already (--frame-stride); they count. A stride of 1 keeps all there is.

    Raises:
        UserError: The frames that are wanted are not among those stored.
    """
    stored = manifest.get("stride", 1) if manifest is not None else 1
    if frame_stride == 1 or type(stored) is not int or stored < 1:
        return frame_stride
    if frame_stride % stored:
        raise UserError(
            f"frame_stride={frame_stride}, but '{path}' was made with --frame-stride {stored}: use a multiple of that, "
            "or 1 for all frames that are there."
        )
    return frame_stride // stored
