"""Clips of videos in which a face stays in its place, with boxes, roll and cameras, and counts of what is left out.

tracks → pose of every frame → runs of usable frames → clips in which the head stays in its box → one per moment
"""

import collections
import dataclasses
import json
from typing import Any

import numpy as np
from scipy.ndimage import median_filter

from dnnlib import atomic_write
from training.dataset_tool.faces.detections import Detections, VideoDetections
from training.dataset_tool.faces.head_pose import HeadPose, fit_head
from training.dataset_tool.faces.tracking import Track, link_tracks

__all__ = ["FaceClip", "Selection", "VideoClips", "find_clips", "select_clips", "summary", "write_box_file"]

MIN_SCORE = 0.5  # smallest score of a detection in a track, unless a smaller median is asked for
OUTLIERS = 5  # frames of the median filter that is applied before the limits
# A clip with one box ends where the head leaves it: its centre has moved by more than this fraction of the box's side,
# or its size has changed by more than this factor.
DRIFT = 0.5
ZOOM = 1.35
# Residual of the landmarks in centimetres above which a fitted head is rejected. Faces have residuals of 0.3 to 0.8.
MAX_RESIDUAL = 2.0
LEANING = 0.5  # roll in radians above which a note is printed


@dataclasses.dataclass(frozen=True)
class Selection:
    """The choice of clips.

    Attributes:
        which: 'largest' (one face at a time) or 'all' (a clip for each face).
        min_side: Smallest side of a head's box in pixels.
        max_yaw: Largest absolute yaw in radians.
        min_score: Smallest median score of a clip's detections. MediaPipe 0.10.21 gives 0.8 for a man in a car, 0.7 to
            0.9 if he is turned by up to 90 degrees or his head has 14 pixels, and 0.6 for an animated rabbit.
        min_frames: Shortest clip, in frames of the source video.
        follow: A box for every frame instead of one for the clip.
        remove_roll: Turn the crops so that heads are upright.
    """

    which: str = "largest"
    min_side: float = 85.0
    max_yaw: float = 1.0
    min_score: float = 0.65
    min_frames: int = 16
    follow: bool = False
    remove_roll: bool = False

    def describe(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class FaceClip:
    """A range of frames with the pose of a head in each; frames without a detection are interpolated."""

    first: int
    centers: np.ndarray  # [frames, 2] pixels
    sides: np.ndarray  # [frames] pixels
    angles: np.ndarray | None  # [frames, 3] yaw, pitch, roll; None without landmarks
    scores: np.ndarray  # [frames], NaN without a detection

    @property
    def stop(self) -> int:
        return self.first + len(self.sides)

    @property
    def found(self) -> np.ndarray:
        """Mask [frames] of those with a detection."""
        return np.isfinite(self.scores)

    @property
    def side(self) -> float:
        return float(np.median(self.sides))

    def entry(self, selection: Selection) -> dict[str, Any]:
        """The clip in a file of boxes; see training.data.crops."""
        half = self.sides[:, None] / 2
        boxes = np.concatenate([self.centers - half, self.centers + half], axis=1)
        if not selection.follow:
            center, half = np.median(self.centers, axis=0), self.side / 2
            boxes = np.concatenate([center - half, center + half])
        entry = {"first": self.first, "frames": len(self.sides), "box": boxes.round(2).tolist()}
        if self.angles is not None:
            roll = self.angles[:, 2]
            if selection.remove_roll:
                entry["roll"] = roll.round(4).tolist() if selection.follow else round(float(np.median(roll)), 4)
            entry["camera"] = self.angles[:, :2].round(4).tolist()
        return entry


@dataclasses.dataclass(frozen=True)
class VideoClips:
    """Clips of a video, by their first frames, and what is left out of it.

    Attributes:
        frames: Number of its frames.
        empty: Number of frames without a detection.
        cuts: Number of changes of scene.
        clips: The clips.
        left_out: Numbers of detections that are in no clip, by reason.
        largest: Side of the largest head's box, in pixels.
    """

    frames: int
    empty: int
    cuts: int
    clips: list[FaceClip]
    left_out: collections.Counter
    largest: float

    def reason(self, selection: Selection) -> str:
        """The reason why there are no clips."""
        frames = f"{self.frames} frame{'s' if self.frames != 1 else ''}"
        if self.frames < selection.min_frames:
            return f"{frames}, fewer than {selection.min_frames}"
        if not self.left_out:
            return f"no detection in {frames}"
        hints = {
            "too small": f"the largest head's box has {self.largest:.0f} pixels, --min-face is {selection.min_side:g}",
            "uncertain": f"score below --min-score {selection.min_score:g}",
            "turned away": f"by more than --max-yaw {selection.max_yaw:g}",
            "too short": f"in one place for fewer than {selection.min_frames} frames",
        }
        reasons = [
            f"{count} {why}" + (f" ({hints[why]})" if why in hints else "")
            for why, count in self.left_out.most_common()
        ]
        return f"detections in {frames}: {', '.join(reasons)}"


def find_clips(detections: Detections, selection: Selection) -> dict[str, VideoClips]:
    """Clips of all videos, by path."""
    return {path: select_clips(video, detections.names, selection) for path, video in detections.videos.items()}


def select_clips(video: VideoDetections, names: list[str], selection: Selection) -> VideoClips:
    """Clips of one video; see the top of this file."""
    lowest = min(MIN_SCORE, selection.min_score)
    tracks, covered = link_tracks(video, min_score=lowest)
    doubtful = sum(detection.score < lowest for frame in video.frames for detection in frame)
    left_out = collections.Counter({"covered by another": covered, "uncertain": doubtful})
    found: list[FaceClip] = []
    largest = 0.0
    for track in tracks:
        head = _head_of(track, names)
        if head is None:
            left_out["not fitted by a head"] += len(track.frames)
            continue
        largest = max(largest, float(head.sides.max()))
        usable = np.ones(len(head.sides), dtype=bool)
        for reason, wrong in _faults(head, selection, video.size):
            left_out[reason] += int((wrong & usable & head.found).sum())
            usable &= ~wrong
        for run in _runs(usable):
            for piece in [run] if selection.follow else _steady(head, run):
                found += _accepted(_part(head, piece), selection, left_out)
    if selection.which == "largest":
        found = _largest(found, selection, left_out)
    found.sort(key=lambda clip: (clip.first, -clip.side))
    return VideoClips(
        frames=len(video.frames),
        empty=sum(not frame for frame in video.frames),
        cuts=len(video.cuts),
        clips=found,
        left_out=+left_out,  # without zeros
        largest=largest,
    )


def summary(videos: dict[str, VideoClips], selection: Selection) -> list[str]:
    """Lines about the clips and what is left out."""
    clips = [clip for video in videos.values() for clip in video.clips]
    used, frames = sum(bool(video.clips) for video in videos.values()), sum(len(clip.sides) for clip in clips)
    cuts = sum(video.cuts for video in videos.values())
    lines = [f"{len(clips)} clip(s), {frames} frames, in {used} of {len(videos)} video(s) with {cuts} scene cut(s)"]
    empty = sum(video.empty for video in videos.values())
    nothing = sum(video.empty == video.frames for video in videos.values())
    if empty:
        lines.append(f"left out: {empty} frames without a detection, {nothing} video(s) without any")
    total = sum((video.left_out for video in videos.values()), collections.Counter())
    lines += [f"left out: {count} detections {reason}" for reason, count in total.most_common()]
    rolls = [float(np.median(clip.angles[:, 2])) for clip in clips if clip.angles is not None]
    leaning = sum(abs(roll) > LEANING for roll in rolls)
    if leaning and not selection.remove_roll:
        lines.append(
            f"in {leaning} clip(s) the head leans by more than {LEANING:g} rad: --remove-roll turns it upright"
        )
    return lines


def write_box_file(
    file: str, videos: dict[str, VideoClips], selection: Selection, *, broken: dict[str, str], fps: float | None
) -> dict[str, Any]:
    """Write the clips of all videos as a file of boxes (training.data.crops), and return its content."""
    rate = {} if fps is None else {"fps": fps}
    content: dict[str, Any] = {
        path: [clip.entry(selection) | rate for clip in video.clips] or {"left_out": video.reason(selection)}
        for path, video in videos.items()
    }
    content |= {path: {"left_out": reason} for path, reason in broken.items()}
    with atomic_write(file, "w") as stream:
        json.dump(content, stream, ensure_ascii=False)
        stream.write("\n")
    return content


# ----------------------------------------------------------------------------------------------------------------------
# Steps


def _head_of(track: Track, names: list[str]) -> FaceClip | None:
    """The head in every frame of a track; None if nothing fits."""
    frames, rows, scores = [], [], []
    for frame, detection in zip(track.frames, track.detections):
        if detection.points is None:  # a person: the box itself
            left, top, right, bottom = detection.box
            rows.append([(left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top)])
            frames.append(frame)
            scores.append(detection.score)
            continue
        pose = fit_head(detection.points, names)
        if pose is not None and pose.residual <= MAX_RESIDUAL:
            rows.append([*pose.center, pose.side, pose.yaw, pose.pitch, pose.roll])
            frames.append(frame)
            scores.append(detection.score)
    if not rows:
        return None
    values, every = np.array(rows), np.arange(frames[0], frames[-1] + 1)
    if values.shape[1] > 3:
        values[:, 5] = np.unwrap(values[:, 5])
    filled = np.stack([np.interp(every, frames, column) for column in values.T], axis=1)
    angles = filled[:, 3:] if filled.shape[1] > 3 else None
    every_score = np.full(len(every), np.nan)
    every_score[np.isin(every, frames)] = scores
    return FaceClip(first=frames[0], centers=filled[:, :2], sides=filled[:, 2], angles=angles, scores=every_score)


def _faults(head: FaceClip, selection: Selection, size: tuple[int, int]) -> list[tuple[str, np.ndarray]]:
    """Reasons not to use frames of a track, each with a mask [frames]."""
    outside = ((head.centers < 0) | (head.centers > size)).any(axis=1)
    faults = [("outside of the frame", outside), ("too small", _smooth(head.sides) < selection.min_side)]
    if head.angles is not None:
        faults.append(("turned away", np.abs(_smooth(head.angles[:, 0])) > selection.max_yaw))
    return faults


def _smooth(values: np.ndarray) -> np.ndarray:
    return median_filter(values, size=min(OUTLIERS, len(values)), mode="nearest")


def _runs(usable: np.ndarray) -> list[range]:
    """Ranges of consecutive frames of a mask."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], usable.astype(int), [0]])))
    return [range(start, stop) for start, stop in edges.reshape(-1, 2).tolist()]


def _steady(head: FaceClip, run: range) -> list[range]:
    """Cut a run where the head leaves its box: each part goes on as long as it can."""
    x, y, side = (_smooth(values[run.start : run.stop]) for values in (*head.centers.T, head.sides))
    parts, start = [], 0
    while start < len(side):
        widest = np.maximum.accumulate(side[start:])
        room = DRIFT * np.minimum.accumulate(side[start:])
        inside = widest <= ZOOM * np.minimum.accumulate(side[start:])
        for place in (x[start:], y[start:]):
            inside &= np.maximum.accumulate(place) - np.minimum.accumulate(place) <= room
        length = len(inside) if inside.all() else int(np.argmin(inside))
        parts.append(range(run.start + start, run.start + start + length))
        start += length
    return parts


def _part(head: FaceClip, piece: range) -> FaceClip:
    chosen = slice(piece.start, piece.stop)
    angles = None if head.angles is None else head.angles[chosen]
    return FaceClip(
        first=head.first + piece.start,
        centers=head.centers[chosen],
        sides=head.sides[chosen],
        angles=angles,
        scores=head.scores[chosen],
    )


def _accepted(clip: FaceClip, selection: Selection, left_out: collections.Counter) -> list[FaceClip]:
    """The clip if it is long and certain enough; otherwise nothing, and its detections are counted."""
    scores = clip.scores[clip.found]
    if len(clip.sides) < selection.min_frames or not len(scores):
        left_out["too short"] += len(scores)
    elif np.median(scores) < selection.min_score:
        left_out["uncertain"] += len(scores)
    else:
        return [clip]
    return []


def _largest(clips: list[FaceClip], selection: Selection, left_out: collections.Counter) -> list[FaceClip]:
    """Clips without the frames in which there is a larger face."""
    kept: list[FaceClip] = []
    for clip in sorted(clips, key=lambda item: -item.side):
        alone = np.ones(len(clip.sides), dtype=bool)
        for other in kept:
            alone[max(other.first - clip.first, 0) : max(other.stop - clip.first, 0)] = False
        left_out["beside a larger face"] += int((clip.found & ~alone).sum())
        for run in _runs(alone):
            kept += _accepted(_part(clip, run), selection, left_out)
    return kept


def head_pose(clip: FaceClip, frame: int) -> HeadPose | None:
    """The pose in a frame of the video, for drawing; None without landmarks."""
    if clip.angles is None:
        return None
    k = frame - clip.first
    yaw, pitch, roll = clip.angles[k]
    x, y = clip.centers[k]
    return HeadPose(yaw=yaw, pitch=pitch, roll=roll, center=(x, y), side=float(clip.sides[k]), residual=0.0)
