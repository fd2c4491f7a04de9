"""From the videos of a source to a file of boxes: detect or read landmarks, choose clips, write, count."""

import dataclasses
import os
from typing import Any

from dnnlib import UserError
from training.data.annotations import describe_unmatched
from training.data.frame_index import listed_path
from training.dataset_tool.faces.clips import Selection, VideoClips, find_clips, summary, write_box_file
from training.dataset_tool.faces.detection_run import detect_videos
from training.dataset_tool.faces.detections import Detections, read_detections
from training.dataset_tool.faces.detector import find_detector
from training.dataset_tool.source_videos import SourceSet, valid_unicode

__all__ = ["BoxFile", "make_box_file"]


@dataclasses.dataclass(frozen=True)
class BoxFile:
    """The content of a file of boxes and where it comes from."""

    content: dict[str, Any]
    detections: Detections
    videos: dict[str, VideoClips]
    lines: list[str]  # counts, for the user

    def describe(self, selection: Selection) -> dict[str, Any]:
        """The entry of a manifest."""
        return {"detector": self.detections.detector, **selection.describe(), "counts": self.lines}


def make_box_file(
    file: str,
    *,
    among: SourceSet,
    kind: str,
    selection: Selection,
    folder: str,
    workers: int,
    skip_broken: bool,
    landmarks: str | None = None,
    model: str | None = None,
) -> BoxFile:
    """Write the boxes of the clips in all videos of a source.

    Args:
        file: To write.
        among: The source.
        kind: 'faces' or 'people'.
        selection: The choice of clips.
        folder: Where detections are kept, see kept_detections.
        workers: Processes.
        skip_broken: Leave out videos that cannot be decoded.
        landmarks: File of another detector's detections; None to run MediaPipe.
        model: See find_detector.

    Raises:
        UserError: There is no detector, or no clip in any of the videos; nothing is written then.
    """
    broken: dict[str, str] = {}
    paths = [listed_path(source.path) for source in among.sources]
    lines = []
    if landmarks is None:
        settings = find_detector(kind=kind, model=model)
        detections, broken = detect_videos(
            among, settings=settings, folder=folder, workers=workers, skip_broken=skip_broken
        )
    else:
        detections = read_detections(landmarks)
        note = describe_unmatched(detections.videos, paths, "detections")
        if note is not None and not set(paths) & detections.videos.keys():
            raise UserError(f"'{landmarks}': {note} The videos are called e.g. '{valid_unicode(paths[0])}'.")
        lines += [] if note is None else [note]
        known = {path: video for path, video in detections.videos.items() if path in set(paths)}
        detections = dataclasses.replace(detections, videos=known)
        broken = {path: f"not in '{os.path.basename(landmarks)}'" for path in paths if path not in known}
    videos = find_clips(detections, selection)
    lines += summary(videos, selection)
    if not any(video.clips for video in videos.values()):
        reasons = {path: video.reason(selection) for path, video in videos.items()} | broken
        path, reason = next(iter(reasons.items()))
        raise UserError(
            f"There are no clips of {kind} in {len(paths)} video(s), e.g. '{valid_unicode(path)}': {reason}."
        )
    content = write_box_file(file, videos, selection, broken=broken)
    return BoxFile(content=content, detections=detections, videos=videos, lines=lines)
