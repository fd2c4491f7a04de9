"""Detections in all videos of a source, several at a time, kept beside the output so that a repeated command goes on.

.NAME.detections/<n>.json    the detections in one video, written when they are complete
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from dnnlib import UserError, atomic_write, exclusive_lock, explain_file_trouble, made_folder, one_line, short_name
from dnnlib.processes import parallel_map
from training.data.names import listed_path
from training.data.video_probe import BrokenVideo
from training.dataset_tool.convert import source_frames
from training.dataset_tool.faces.detections import Detections, parse_video
from training.dataset_tool.faces.detector import DetectorSettings, open_detector
from training.dataset_tool.source_videos import Source, SourceSet, valid_unicode

__all__ = ["detect_video", "detect_videos", "kept_detections", "scene_cuts"]

VERSION = 2  # of the kept detections
THUMBNAIL = 16  # pixels per side
# Thresholds of a new scene: mean difference of thumbnails in 255 grey levels, and its ratio to those around it.
SCENE_DIFFERENCE = 12.0
SCENE_RATIO = 2.5
SCENE_WINDOW = 2  # frames before and after

_open: dict[str, Any] = {}  # the detector of this process, by its settings: starting one takes seconds


@contextlib.contextmanager
def kept_detections(out: str) -> Iterator[str]:
    """The folder of detections beside `out`, locked by this process; removed after a block that succeeds.

    Raises:
        UserError: It cannot be made, or another process works on it.
    """
    parent, name = os.path.split(os.path.realpath(out))
    folder = os.path.join(parent, f".{short_name(name)}.detections")
    busy = f"Another process is making '{out}'; wait for it or stop it first."
    with explain_file_trouble(folder), made_folder(folder), exclusive_lock(folder, busy=busy):
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def detect_videos(
    among: SourceSet, *, settings: DetectorSettings, folder: str, workers: int, skip_broken: bool
) -> tuple[Detections, dict[str, str]]:
    """Detections in all videos.

    Args:
        among: The source.
        settings: See find_detector.
        folder: Folder of the kept detections, see kept_detections.
        workers: Processes.
        skip_broken: Leave out videos that cannot be decoded.

    Returns:
        The detections, and the videos (by listed_path) that cannot be decoded, with the reason.

    Raises:
        UserError: There is no detector, or a video cannot be decoded and `skip_broken` is False.
    """
    stamps = {source.path: _stamp(among.stamp(source), settings) for source in among.sources}
    kept = {source.path: _read_kept(_file(folder, source), stamps[source.path]) for source in among.sources}
    todo = [source for source in among.sources if kept[source.path] is None]
    broken: dict[str, str] = {}
    shared = (among, settings, folder, stamps)
    with tqdm(total=len(among.sources), initial=len(among.sources) - len(todo), unit=" videos", disable=None,
              desc=f"looking for {settings['kind']}", dynamic_ncols=True) as bar:  # fmt: skip
        try:
            for source, trouble in zip(todo, parallel_map(_detect, todo, shared=shared, workers=workers)):
                if trouble is not None:
                    if not skip_broken:
                        raise UserError(f"{trouble} {trouble.advice}, or use --skip-broken.")
                    broken[listed_path(source.path)] = str(trouble)
                kept[source.path] = _read_kept(_file(folder, source), stamps[source.path])
                bar.update()
        finally:
            close_detector()
    found = {listed_path(path): content for path, content in kept.items() if content is not None}
    about = next(iter(found.values()), {"detector": "none", "names": []})
    videos = {
        path: parse_video(content["video"], names=len(content["names"]), where=f"'{path}'")
        for path, content in found.items()
    }
    return Detections(detector=about["detector"], names=about["names"], videos=videos), broken


def detect_video(frames: Iterator[Image.Image], detector: Any, *, name: str) -> dict[str, Any]:
    """Detections in the frames of a video, in plain form (see training.dataset_tool.faces.detections).

    Args:
        name: The video, for the error.

    Raises:
        BrokenVideo: Its frames differ in size.
    """
    size, found, thumbnails = None, [], []
    for number, frame in enumerate(frames):
        size = size or frame.size
        if frame.size != size:
            raise BrokenVideo(
                f"Frame {number} of '{name}' has {frame.width}×{frame.height} pixels, the first one {size[0]}×"
                f"{size[1]}: boxes fit frames of one size only."
            )
        found.append(detector.detect(np.asarray(frame)))
        thumbnail = frame.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
        thumbnails.append(np.asarray(thumbnail, dtype=np.float32))
    return {"size": list(size), "cuts": scene_cuts(np.stack(thumbnails)), "frames": found}


def scene_cuts(thumbnails: np.ndarray) -> list[int]:
    """Numbers of the frames that begin a new scene, from grey thumbnails [frames, height, width].

    A cut is a difference between two frames that is large, and larger than those just before and after: fast motion
    and flashes of light last longer. Dissolves are not found.
    """
    differences = np.abs(np.diff(thumbnails, axis=0)).mean(axis=(1, 2))
    cuts = []
    for k in np.flatnonzero(differences > SCENE_DIFFERENCE):
        around = np.delete(differences[max(k - SCENE_WINDOW, 0) : k + SCENE_WINDOW + 1], min(k, SCENE_WINDOW))
        if not len(around) or differences[k] > SCENE_RATIO * around.max():
            cuts.append(int(k) + 1)
    return cuts


def close_detector() -> None:
    """End the detector of this process, if there is one."""
    for detector in _open.values():
        if hasattr(detector, "close"):
            detector.close()
    _open.clear()


def _detect(shared: tuple[SourceSet, DetectorSettings, str, dict[str, str]], source: Source) -> BrokenVideo | None:
    """Keep the detections in one video; returns the error if it cannot be decoded."""
    among, settings, folder, stamps = shared
    key = json.dumps(settings)
    if key not in _open:
        _open[key] = open_detector(settings)
    detector = _open[key]
    try:
        with contextlib.closing(source_frames(source, among=among, folder=folder, about={}, threads=1)) as frames:
            video = detect_video(frames, detector, name=source.path)
    except BrokenVideo as error:
        return type(error)(valid_unicode(one_line(error)))  # without its causes, which may not pickle
    content = {"stamp": stamps[source.path], "detector": detector.version, "names": detector.names, "video": video}
    with atomic_write(_file(folder, source), "w") as stream:
        json.dump(content, stream, separators=(",", ":"))
    return None


def _stamp(video: str, settings: DetectorSettings) -> str:
    """Digest that changes with the video and the detector."""
    model = settings["model"]
    status = None if model is None else os.stat(model)
    what = [VERSION, settings["kind"], settings["version"], model, status and [status.st_size, status.st_mtime_ns]]
    return hashlib.sha256(json.dumps([video, what]).encode()).hexdigest()[:32]


def _file(folder: str, source: Source) -> str:
    return os.path.join(folder, hashlib.sha256(source.name.encode()).hexdigest()[:32] + ".json")


def _read_kept(file: str, stamp: str) -> dict[str, Any] | None:
    try:
        with open(file, encoding="utf-8") as stream:
            content = json.load(stream)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("stamp") == stamp else None
