"""From the videos of a source to a file of boxes: detect or read landmarks, choose clips, write, count."""

import contextlib
import dataclasses
import os
import tempfile
from typing import Any

from tqdm import tqdm

from dnnlib import UserError, one_line, temporary
from dnnlib.processes import parallel_map
from training.data.annotations import describe_unmatched
from training.data.names import listed_path
from training.data.video_probe import BrokenVideo
from training.dataset_tool.convert import source_frames
from training.dataset_tool.faces.clips import Selection, VideoClips, find_clips, summary, write_box_file
from training.dataset_tool.faces.detection_run import detect_videos
from training.dataset_tool.faces.detections import Detections, VideoDetections, read_detections
from training.dataset_tool.faces.detector import find_detector
from training.dataset_tool.source_videos import Source, SourceSet, valid_unicode

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
        file: The file to write.
        among: The source.
        kind: 'faces' or 'people'.
        selection: The choice of clips.
        folder: Folder in which detections are kept, see kept_detections.
        workers: Processes.
        skip_broken: Leave out videos that cannot be decoded, or that `landmarks` does not fit.
        landmarks: File of another detector's detections; None to run MediaPipe.
        model: See find_detector.

    Raises:
        UserError: There is no detector, its landmarks do not suit, or there is no clip in any of the videos; nothing
            is written then.
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
        if kind == "people" and detections.names:
            raise UserError(f"'{landmarks}' has landmarks of heads, not of people: use --faces.")
        note = describe_unmatched(detections.videos, paths, "detections")
        wanted = set(paths)
        known = {path: video for path, video in detections.videos.items() if path in wanted}
        if note is not None and not known:
            raise UserError(f"'{landmarks}': {note} The videos are called e.g. '{valid_unicode(paths[0])}'.")
        lines += [] if note is None else [note]
        if kind == "faces" and not detections.names:
            lines.append("the detections have no landmarks: no cameras, and --max-yaw and --remove-roll have no effect")
        missing = {path: f"not in '{os.path.basename(landmarks)}'" for path in paths if path not in known}
        # Before all frames are counted, which takes long.
        _choose_clips(dataclasses.replace(detections, videos=known), selection, broken=missing, paths=paths, kind=kind)
        misfits = _misfits(among, known, workers=workers)
        for path, reason in misfits.items():
            if not skip_broken:
                raise UserError(
                    f"'{landmarks}' does not fit '{valid_unicode(path)}': {reason.removesuffix('.')}. Correct it, or "
                    "use --skip-broken."
                )
            del known[path]
        detections = dataclasses.replace(detections, videos=known)
        broken = missing | misfits
    videos = _choose_clips(detections, selection, broken=broken, paths=paths, kind=kind)
    lines += summary(videos, selection)
    content = write_box_file(file, videos, selection, broken=broken, fps=among.fps)
    return BoxFile(content=content, detections=detections, videos=videos, lines=lines)


def _choose_clips(
    detections: Detections, selection: Selection, *, broken: dict[str, str], paths: list[str], kind: str
) -> dict[str, VideoClips]:
    """The clips of the videos that have detections.

    Args:
        broken: Videos without detections, with the reason.
        paths: All videos.

    Raises:
        UserError: There is no clip in any of them.
    """
    videos = find_clips(detections, selection)
    if not any(video.clips for video in videos.values()):
        reasons = {path: video.reason(selection) for path, video in videos.items()} | broken
        path, reason = next(iter(reasons.items()))
        raise UserError(
            f"There are no clips of {kind} in {len(paths)} video(s), e.g. '{valid_unicode(path)}': "
            f"{reason.removesuffix('.')}."
        )
    return videos


def _misfits(among: SourceSet, videos: dict[str, VideoDetections], *, workers: int) -> dict[str, str]:
    """Videos whose frames do not match their detections, with the reason.

    Detections of a resized or shortened copy, or of every other frame, would give wrong crops.
    """
    found = {listed_path(source.path): source for source in among.sources if listed_path(source.path) in videos}
    tasks = [(source, videos[path].size, len(videos[path].frames)) for path, source in found.items()]
    reasons = parallel_map(_misfit, tasks, shared=among, workers=workers)
    bar = tqdm(zip(found, reasons), total=len(tasks), desc="counting frames", unit=" videos", disable=None)
    return {path: reason for path, reason in bar if reason is not None}


def _misfit(among: SourceSet, task: tuple[Source, tuple[int, int], int]) -> str | None:
    source, size, count = task
    total = 0
    try:
        with (
            temporary(tempfile.TemporaryDirectory) as folder,
            contextlib.closing(source_frames(source, among=among, folder=folder, about={}, threads=1)) as frames,
        ):
            for frame in frames:
                if frame.size != size:
                    (width, height), (w, h) = frame.size, size
                    return f"its frame {total} has {width}×{height} pixels, its detections are for {w}×{h}"
                total += 1
    except BrokenVideo as error:
        return valid_unicode(one_line(error))
    rate = "" if among.fps is None else f" at --fps {among.fps:g}"
    return None if total == count else f"it has {total} frames{rate}, its detections are for {count}"
