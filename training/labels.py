"""Labels of videos: dataset.json in the root, `{"labels": [["split/video_0", label], …]}`, one per video folder.

Labels are class numbers, which become one-hot vectors, or lists of numbers.
"""

import json
import posixpath
from typing import Any

import numpy as np

from dnnlib import UserError
from training.frame_store import FrameStore, Video

__all__ = ["label_vector", "read_labels"]

MAX_NUMBER = float(np.finfo(np.float32).max)
MAX_CLASSES = 65536  # a label is a vector of that length; larger numbers are identifiers, not classes


def label_vector(label: Any, c_dim: int) -> np.ndarray:
    """A class number as a one-hot vector, a list of numbers as it is; float32 [c_dim]."""
    if isinstance(label, (int, np.integer)):
        vector = np.zeros(c_dim, dtype=np.float32)
        vector[label] = 1
        return vector
    return np.array(label, dtype=np.float32)


def read_labels(store: FrameStore, videos: list[Video]) -> tuple[np.ndarray, int]:
    """Labels in the order of the videos: int64 [videos] classes or float32 [videos, c_dim]; and c_dim."""
    file = posixpath.join(store.path, "dataset.json")
    form = 'it must be {"labels": [["path/of/video", label], …]}'
    data = store.read_bytes("dataset.json")
    if data is None:
        raise UserError(f"Labels are wanted but there is no '{file}'; {form}. Or train without labels.")
    try:
        entries = json.loads(data)["labels"]
        if not isinstance(entries, list):
            raise TypeError("no list of labels")
        pairs = [(posixpath.normpath(str(path).replace("\\", "/")), label) for path, label in entries]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"Cannot use '{file}' ({type(error).__name__}: {error}); {form}.") from error
    labels = {}
    for path, label in pairs:
        if labels.setdefault(path, label) != label:
            raise UserError(f"'{file}' gives the video '{path}' two different labels; remove one.")
    missing = [video.path for video in videos if video.path not in labels]
    if missing:
        raise UserError(
            f"'{file}' has no label for {len(missing)} of {len(videos)} videos, e.g. '{missing[0]}'; add them "
            "(paths relative to the folder of dataset.json) or train without labels."
        )
    return _to_array(labels, videos, file)


def _to_array(labels: dict[str, Any], videos: list[Video], file: str) -> tuple[np.ndarray, int]:
    # The size of a label comes from the whole file, so that it is the same for every part of the videos.
    if all(type(label) is int for label in labels.values()):  # type(), because True is an instance of int
        classes = min(labels.values()), max(labels.values())
        if classes[0] < 0 or classes[1] >= MAX_CLASSES:
            raise UserError(
                f"The classes in '{file}' run from {classes[0]} to {classes[1]}: number them 0, 1, 2, … "
                f"(at most {MAX_CLASSES})."
            )
        return np.array([labels[video.path] for video in videos], dtype=np.int64), classes[1] + 1
    lengths = {len(label) if isinstance(label, list) else 0 for label in labels.values()}
    if 0 in lengths or len(lengths) > 1:
        raise UserError(f"The labels in '{file}' must be all whole numbers or all lists of numbers of one length.")
    numbers = [x for label in labels.values() for x in label]
    # A string that looks like a number is a mistake in the file too.
    if not all(type(x) in (int, float) and abs(x) < MAX_NUMBER for x in numbers):
        raise UserError(f"The labels in '{file}' hold something that is not a finite number.")
    return np.array([labels[video.path] for video in videos], dtype=np.float32), lengths.pop()
