"""Detections in the frames of videos, and their file: the interface to any detector.

    {"format": "video-detections", "version": 1, "detector": "mediapipe 0.10.21", "names": ["nose_tip", …],
     "videos": {"a/x.mp4": {"size": [640, 360], "cuts": [120], "frames": [[{"score": 0.9, "box": [310, 80, 470, 260],
                                                                          "points": [[388.1, 171.0, -40.2], …]}], …]}}}

Paths are relative to the source. A video has a list of detections for every frame, empty where there is nothing. `box`
is left, top, right, bottom; `points` are the landmarks in the order of `names` (keys of head_pose.HEAD), x and y in
pixels of the upright frame and depth in pixels, growing away from the camera. Without names (people, not heads) there
are no points, and no pose. `score` is between 0 and 1, and 1 if it is missing. `cuts` are the numbers of frames that
begin a new scene.
"""

import collections
import dataclasses
import json
from typing import Any

import numpy as np

from dnnlib import UserError, atomic_write, is_number
from training.data.crops import are_fractions
from training.data.names import listed_path
from training.dataset_tool.faces.head_pose import HEAD

__all__ = ["Detection", "Detections", "VideoDetections", "read_detections", "write_detections"]

FORMAT = "video-detections"
VERSION = 1
FEWEST_NAMES = 4  # landmarks that are needed to fit a pose


@dataclasses.dataclass(frozen=True)
class Detection:
    """One face or person in a frame; see the top of this file."""

    score: float
    box: tuple[float, float, float, float]
    points: np.ndarray | None  # [names, 3]


@dataclasses.dataclass(frozen=True)
class VideoDetections:
    """Detections in every frame of a video."""

    size: tuple[int, int]  # width and height of its frames
    cuts: tuple[int, ...]
    frames: list[list[Detection]]

    def to_json(self) -> dict[str, Any]:
        frames = [[_plain(detection) for detection in frame] for frame in self.frames]
        return {"size": list(self.size), "cuts": list(self.cuts), "frames": frames}


@dataclasses.dataclass(frozen=True)
class Detections:
    """Detections in all videos by listed_path, the detector's name, and the names of its landmarks."""

    detector: str
    names: list[str]
    videos: dict[str, VideoDetections]


def _plain(detection: Detection) -> dict[str, Any]:
    points = [] if detection.points is None else [[round(float(x), 2) for x in point] for point in detection.points]
    return {"score": round(detection.score, 3), "box": [round(x, 2) for x in detection.box], "points": points}


def write_detections(file: str, detections: Detections) -> None:
    """Write a file of detections."""
    videos = {path: video.to_json() for path, video in detections.videos.items()}
    content = {"format": FORMAT, "version": VERSION, "detector": detections.detector, "names": detections.names}
    with atomic_write(file, "w") as stream:
        json.dump({**content, "videos": videos}, stream, ensure_ascii=False, separators=(",", ":"))
        stream.write("\n")


def read_detections(file: str) -> Detections:
    """Read a file of detections.

    Raises:
        UserError: It cannot be read, or has another form; the message names the first fault.
    """
    try:
        with open(file, "rb") as stream:  # a byte order mark, if there is one, is no part of the text
            content = json.load(stream)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"Cannot read the detections in '{file}': {error}.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
        raise UserError(
            f"'{file}' is not a file of detections: its format must be '{FORMAT}' and its version {VERSION}."
        )
    names, videos = content.get("names", []), content.get("videos")
    if not isinstance(names, list) or not isinstance(videos, dict) or not videos:
        raise UserError(f"'{file}' must hold a list of names and an object of videos; see docs/datasets.md.")
    unknown = [name for name in names if name not in HEAD]
    if unknown:
        raise UserError(f"'{file}' has a landmark '{unknown[0]}'; known are {', '.join(HEAD)}.")
    if names and (len(names) < FEWEST_NAMES or len(set(names)) < len(names)):
        raise UserError(f"'{file}' must name at least {FEWEST_NAMES} landmarks, each once, got {len(names)}.")
    for path, count in collections.Counter(map(listed_path, videos)).items():
        if count > 1:
            raise UserError(f"'{file}' has detections for the video '{path}' twice; remove one.")
    return Detections(
        detector=str(content.get("detector", "unknown")),
        names=names,
        videos={
            listed_path(path): parse_video(video, names=len(names), where=f"'{file}': '{path}'")
            for path, video in videos.items()
        },
    )


def parse_video(content: Any, *, names: int, where: str) -> VideoDetections:
    """The detections of a video from their plain form.

    Args:
        names: Number of landmarks.
        where: Beginning of error messages.

    Raises:
        UserError: It has another form.
    """
    content = content if isinstance(content, dict) else {}
    size, cuts, frames = content.get("size"), content.get("cuts", []), content.get("frames")
    if not _numbers(size, 2) or min(size) < 1:
        raise UserError(f"{where} must have the size [width, height] of its frames, got {size!r:.40}.")
    if not isinstance(cuts, list) or not all(type(cut) is int for cut in cuts):
        raise UserError(f"{where}: cuts must be numbers of frames, got {cuts!r:.40}.")
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, list) for frame in frames):
        raise UserError(f"{where} must have a list of detections for every frame.")
    detections = [
        [_detection(item, names=names, where=f"{where}, frame {number}") for item in frame]
        for number, frame in enumerate(frames)
    ]
    width, height = map(int, size)
    corners = [[item.box[2:]] for frame in detections for item in frame]
    points = [item.points[:, :2] for frame in detections for item in frame if item.points is not None]
    for kind, positions in (("boxes", corners), ("points", points)):
        if positions and are_fractions(np.concatenate(positions), (width, height)):
            raise UserError(
                f"{where}: the {kind} look like fractions of the frame: multiply them by {width} and {height} to give "
                "them in pixels."
            )
    return VideoDetections(size=(width, height), cuts=tuple(sorted(cuts)), frames=detections)


def _detection(item: Any, *, names: int, where: str) -> Detection:
    item = item if isinstance(item, dict) else {}
    score, box, points = item.get("score", 1.0), item.get("box"), item.get("points", [])
    if not _numbers([score], 1) or not 0 <= score <= 1:
        raise UserError(f"{where}: the score must be a number from 0 to 1, got {score!r:.40}.")
    if not _numbers(box, 4) or box[0] >= box[2] or box[1] >= box[3]:
        raise UserError(
            f"{where}: a box must be [left, top, right, bottom] with left < right and top < bottom, got {box!r:.60}."
        )
    if not isinstance(points, list) or len(points) != names or not all(_numbers(point, 3) for point in points):
        raise UserError(f"{where}: there must be {names} points [x, y, depth], one for each name.")
    return Detection(float(score), tuple(map(float, box)), np.array(points, dtype=np.float64) if names else None)


def _numbers(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(map(is_number, values))
