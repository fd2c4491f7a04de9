"""Detections of heads that are turned by known angles."""

import json

import numpy as np

from training.dataset_tool.faces.detections import parse_video
from training.dataset_tool.faces.head_pose import BOX_SIDE, CENTER, HEAD, head_rotation

NAMES = list(HEAD)


def head(yaw=0.0, pitch=np.pi / 2, roll=0.0, *, center=(60, 50), side=42.0, score=0.9, names=NAMES):
    """A detection in its plain form: landmarks of the average head, seen by a camera at (yaw, pitch)."""
    model = np.array([HEAD[name] for name in names]) - CENTER
    points = (model @ head_rotation(yaw, pitch, roll).T) * (side / BOX_SIDE) * [1, -1, -1] + [*center, 7.0]
    box = [*points[:, :2].min(0).tolist(), *points[:, :2].max(0).tolist()]
    return {"score": score, "box": box, "points": points.tolist()}


def video(frames, *, cuts=(), size=(160, 120)):
    """Detections of a video from those of its frames."""
    return parse_video({"size": list(size), "cuts": list(cuts), "frames": frames}, names=len(NAMES), where="v")


def write_landmarks(path, videos, *, names=NAMES):
    """A file of detections; `videos` are {path: {size, cuts, frames}}."""
    content = {"format": "video-detections", "version": 1, "detector": "test", "names": names, "videos": videos}
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)
