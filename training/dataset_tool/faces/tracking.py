"""Tracks of faces through a video: detections of the same face in successive frames."""

import dataclasses
import itertools

import numpy as np
from scipy.optimize import linear_sum_assignment

from training.dataset_tool.faces.detections import Detection, VideoDetections

__all__ = ["MAX_GAP", "Track", "link_tracks"]

MAX_GAP = 5  # frames without a detection that a track bridges
# Limits from one frame to the next: movement of the box's centre in units of its side, and factor on its side.
MAX_STEP = 0.4
MAX_GROWTH = 1.5
# Intersection over union above which two boxes are the same face, or one face in front of another.
SAME = 0.6
OCCLUDED = 0.15
FORBIDDEN = 1e6  # cost of a link that is not allowed


@dataclasses.dataclass
class Track:
    """One face from frame to frame; frames without a detection are missing."""

    frames: list[int] = dataclasses.field(default_factory=list)
    detections: list[Detection] = dataclasses.field(default_factory=list)

    def add(self, frame: int, detection: Detection) -> None:
        self.frames.append(frame)
        self.detections.append(detection)


def link_tracks(video: VideoDetections, *, min_score: float) -> tuple[list[Track], int]:
    """Tracks in a video, by their first frames.

    Detections are linked to the nearest ones of the frames before, at the smallest total distance. A track ends at a
    cut, after more than MAX_GAP frames without a detection, and where another face covers it, since the two faces could
    not be told apart when they separate again.

    Returns:
        The tracks, and the number of detections of faces that cover each other.
    """
    done: list[Track] = []
    active: list[Track] = []
    cuts, covered = set(video.cuts), 0
    for number, frame in enumerate(video.frames):
        found = _without_doubles([detection for detection in frame if detection.score >= min_score])
        hidden = _occluded(found)
        covered += len(hidden)
        keep = [track for track in active if number - track.frames[-1] <= MAX_GAP + 1 and number not in cuts]
        done += [track for track in active if track not in keep]
        links = _assign([track.detections[-1] for track in keep], found)
        active = []
        for k, track in enumerate(keep):
            if links.get(k) in hidden:
                done.append(track)
                continue
            if k in links:
                track.add(number, found[links[k]])
            active.append(track)
        for j in set(range(len(found))) - set(links.values()) - hidden:
            active.append(Track([number], [found[j]]))
    return sorted(done + active, key=lambda track: track.frames[0]), covered


def _without_doubles(found: list[Detection]) -> list[Detection]:
    kept: list[Detection] = []
    for detection in sorted(found, key=lambda item: -item.score):
        if all(_overlap(detection.box, other.box) < SAME for other in kept):
            kept.append(detection)
    return kept


def _occluded(found: list[Detection]) -> set[int]:
    pairs = itertools.combinations(range(len(found)), 2)
    return {k for i, j in pairs if _overlap(found[i].box, found[j].box) > OCCLUDED for k in (i, j)}


def _assign(before: list[Detection], after: list[Detection]) -> dict[int, int]:
    """Links from detections to later ones, by their numbers."""
    if not before or not after:
        return {}
    a, b = (np.array([item.box for item in items]) for items in (before, after))
    sides_a, sides_b = (np.maximum(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]) for box in (a, b))
    centers_a, centers_b = ((box[:, :2] + box[:, 2:]) / 2 for box in (a, b))
    steps = np.linalg.norm(centers_a[:, None] - centers_b[None], axis=2) / sides_a[:, None]
    growth = np.exp(np.abs(np.log(sides_b[None] / sides_a[:, None])))
    cost = np.where((steps <= MAX_STEP) & (growth <= MAX_GROWTH), steps, FORBIDDEN)
    rows, columns = linear_sum_assignment(cost)
    return {int(i): int(j) for i, j in zip(rows, columns) if cost[i, j] < FORBIDDEN}


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0.0) * max(height, 0.0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)
