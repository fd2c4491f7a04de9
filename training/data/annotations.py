"""Labels and cameras of videos from dataset.json in the root of a dataset, and the manifest of the dataset tool.

dataset.json has one entry per video folder:

    {"labels": [["split/video_0", label], …], "cameras": [["split/video_0", [yaw, pitch]], …]}

Labels are class numbers, which become one-hot vectors, or lists of numbers. Cameras are angles in radians as in
`renderer.cameras`: yaw is 0 from the front, pitch pi / 2 at the height of the scene. Either may be missing or null.

manifest.json records where frames come from and how they were cropped and cut.
"""

import contextlib
import json
import math
import os
import posixpath
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from dnnlib import UserError, is_number
from training.data.frame_store import FrameStore, Video
from training.data.names import ANNOTATIONS, IMAGE_SUFFIXES, MANIFEST, listed_path

__all__ = [
    "FRAMES_FORMAT",
    "KINDS",
    "SHARDS_FORMAT",
    "VERSION",
    "WITHOUT",
    "angles_vector",
    "check_entries",
    "describe_elsewhere",
    "describe_unmatched",
    "describe_unused_classes",
    "enlarged_frames",
    "frame_notes",
    "has_entries",
    "intact_manifest",
    "is_shards",
    "label_vector",
    "list_entries",
    "listed_frames",
    "mirrored",
    "notes_on_unmatched",
    "parse_annotations",
    "parse_manifest",
    "read_cameras",
    "read_existing",
    "read_labels",
    "remaining_stride",
    "source_stride",
    "store_manifest",
    "store_stride",
    "stored_stride",
]

MAX_NUMBER = float(np.finfo(np.float32).max)
MAX_CLASSES = 65536  # a label is a vector of that length; larger numbers are identifiers, not classes
MAX_ANGLE = 4 * math.pi  # radians: two turns, as in renderer.cameras; larger numbers are degrees
MAX_PLACES = 256  # folders in which a misplaced file is looked for
FRAMES_FORMAT = "square-video-frames"  # a folder or zip of folders of frames
SHARDS_FORMAT = "square-video-clips"  # a folder of tar files of clips
VERSION = 3  # of the manifest
KINDS = ("labels", "cameras")
FORMS = {"labels": '["path/of/video", label]', "cameras": '["path/of/video", [yaw, pitch]]'}
SINGULAR = {"labels": "label", "cameras": "camera"}
WITHOUT = {"labels": "train without labels", "cameras": "train without camera_condition"}


def label_vector(label: Any, c_dim: int) -> np.ndarray:
    """A class number as a one-hot vector, a list of numbers as it is; float32 [c_dim].

    Raises:
        IndexError: There is no such class.
    """
    if isinstance(label, (int, np.integer)) and not isinstance(label, bool):
        if not 0 <= label < c_dim:
            raise IndexError(f"no class {label} of {c_dim}")
        vector = np.zeros(c_dim, dtype=np.float32)
        vector[label] = 1
        return vector
    return np.array(label, dtype=np.float32)


def angles_vector(camera: Any) -> np.ndarray | None:
    """Yaw and pitch in radians, float32 [2]; None if it is something else."""
    if not isinstance(camera, list) or len(camera) != 2 or not all(is_number(x, MAX_ANGLE) for x in camera):
        return None
    return np.array(camera, dtype=np.float32)


def mirrored(angles: np.ndarray) -> np.ndarray:
    """The angles [..., 2] of cameras of videos that are flipped left to right."""
    return angles * np.float32([-1, 1])


def has_entries(store: FrameStore, kind: str) -> bool:
    """True if there is a dataset.json with entries of a kind, 'labels' or 'cameras', valid or not."""
    data = store.root_file(ANNOTATIONS)
    try:
        return parse_annotations(data).get(kind) is not None
    except (ValueError, RecursionError):
        return kind == "labels"  # reading them raises an error that names the file's fault


def read_labels(
    store: FrameStore, videos: list[Video], *, otherwise: str = WITHOUT["labels"]
) -> tuple[np.ndarray, int]:
    """Labels in the order of the videos: int64 [videos] classes or float32 [videos, c_dim]; and c_dim.

    Args:
        otherwise: What to do without labels, for the error.

    Raises:
        UserError: There are none, or not for every video, or invalid ones.
    """
    entries = _read_entries(store, videos, "labels", otherwise=otherwise)
    return _to_array(entries, videos, posixpath.join(store.path, ANNOTATIONS))


def read_cameras(store: FrameStore, videos: list[Video], *, otherwise: str = WITHOUT["cameras"]) -> np.ndarray:
    """Yaw and pitch in the order of the videos, float32 [videos, 2] in radians; for the rest see read_labels."""
    file = posixpath.join(store.path, ANNOTATIONS)
    cameras = _read_entries(store, videos, "cameras", otherwise=otherwise)
    angles = [_to_angles(cameras[listed_path(video.path)], path=video.path, file=file) for video in videos]
    return np.array(angles, dtype=np.float32).reshape(-1, 2)


def check_entries(entries: dict[str, Any], kind: str, *, file: str) -> None:
    """Check the values of 'labels' or 'cameras', given by the path of the video.

    Raises:
        UserError: One is invalid.
    """
    if kind == "cameras":
        for path, camera in entries.items():
            _to_angles(camera, path=path, file=file)
    elif entries:
        _to_array(entries, [], file)


def _to_angles(camera: Any, *, path: str, file: str) -> np.ndarray:
    angles = angles_vector(camera)
    if angles is None:
        raise UserError(f"The camera of '{path}' in '{file}' must be [yaw, pitch] in radians, not {camera!r:.60}.")
    return angles


def parse_annotations(data: bytes | None) -> dict[str, Any]:
    """The content of a dataset.json; {} if there is none.

    Raises:
        ValueError: It is not JSON, or gives something twice in different ways, of which JSON keeps the last; or it
            holds something else than labels and cameras.
        RecursionError: It is nested too deeply.
    """
    content = json.loads(data or b"{}", object_pairs_hook=_without_repetition)
    if not isinstance(content, dict) or content and not any(kind in content for kind in KINDS):
        raise ValueError("neither labels nor cameras")
    return content


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        first = content.setdefault(name, value)
        if first is not value and first != value:  # NaN is not equal to itself
            raise ValueError(f"'{name}' is given twice, with different values")
    return content


def list_entries(listed: Any, kind: str, *, file: str) -> dict[str, Any]:
    """The value of 'labels' or 'cameras' in a file, as entries by the path of the video (see listed_path).

    Raises:
        TypeError, ValueError: It is not a list of pairs.
        UserError: It gives one video two different entries.
    """
    if isinstance(listed, dict):
        listed = list(listed.items())
    if not isinstance(listed, list):
        raise TypeError(f"no list of {kind}")
    for pair in listed:
        if isinstance(pair, str):  # which Python unpacks letter by letter
            raise TypeError(f"'{pair:.60}' is not a pair")
    entries: dict[str, Any] = {}
    for path, entry in [(listed_path(path), entry) for path, entry in listed]:
        first = entries.setdefault(path, entry)
        if first is not entry and first != entry:  # NaN differs from itself
            raise UserError(f"'{file}' gives the video '{path}' two different {kind}; remove one.")
    return entries


def describe_unmatched(entries: Collection[str], videos: Collection[str], kind: str) -> str | None:
    """One line about the paths in a file that match none of the videos; None if all do.

    Args:
        entries, videos: Paths in the form of listed_path.
        kind: 'labels', 'cameras', 'boxes'.
    """
    videos = set(videos)
    unmatched = [path for path in entries if path not in videos]
    if not unmatched:
        return None
    frames = sum(path.lower().endswith(IMAGE_SUFFIXES) and posixpath.dirname(path) in videos for path in unmatched)
    of_frames = f" {frames} are for single frames, but one for each video is wanted." if frames else ""
    return f"{len(unmatched)} of {len(entries)} {kind} are for none of the videos, e.g. '{unmatched[0]}'.{of_frames}"


def describe_unused_classes(labels: np.ndarray, c_dim: int) -> str | None:
    """One line about classes without a video, as when they are counted from 1; None if all have one.

    Args:
        labels: Result of read_labels for the videos in use.
    """
    if labels.ndim > 1:  # lists of numbers
        return None
    unused = np.setdiff1d(np.arange(c_dim), labels)
    if not len(unused):
        return None
    return (
        f"{ANNOTATIONS}: there is no video in use for {len(unused)} of {c_dim} classes, e.g. class {unused[0]}, and "
        "nothing is learnt for them: number the classes 0, 1, 2, … without gaps."
    )


def describe_elsewhere(store: FrameStore) -> str | None:
    """One line about a dataset.json next to the root or below it, if there is none in the root; None otherwise."""
    if store.root_file(ANNOTATIONS) is not None:
        return None
    for place in _places_nearby(store):
        with contextlib.suppress(OSError):
            if store.read_bytes(place, ANNOTATIONS) is not None:
                folder = os.path.normpath(os.path.join(store.path, place))
                return (
                    f"The {ANNOTATIONS} in '{folder}' is not used, only one in the root would be: give that folder "
                    "itself, or a zip of its content."
                )
    return None


def notes_on_unmatched(store: FrameStore, videos: list[Video], kinds: Collection[str]) -> list[str]:
    """describe_unmatched for the dataset.json of a dataset whose entries of these kinds are valid."""
    content = json.loads(store.root_file(ANNOTATIONS)) if kinds else {}
    paths = [listed_path(video.path) for video in videos]
    notes = [describe_unmatched(list_entries(content[kind], kind, file=ANNOTATIONS), paths, kind) for kind in kinds]
    return [f"{ANNOTATIONS}: {note}" for note in notes if note is not None]


def _read_entries(store: FrameStore, videos: list[Video], kind: str, *, otherwise: str) -> dict[str, Any]:
    """The entries of a kind by the path of the video, one for every video; `otherwise` is what to do without."""
    file, one = posixpath.join(store.path, ANNOTATIONS), SINGULAR[kind]
    form = f'it must be {{"{kind}": [{FORMS[kind]}, …]}}'
    data = store.root_file(ANNOTATIONS)
    if data is None:
        elsewhere = describe_elsewhere(store)
        raise UserError(
            f"{kind.capitalize()} are wanted but there is no '{file}'; {form}. Or {otherwise}."
            + (f" {elsewhere}" if elsewhere else "")
        )
    try:
        content = parse_annotations(data)
        if content.get(kind) is None:
            found = f"its {kind} are null: there are none" if kind in content else f"it has no {kind}"
            raise UserError(f"Cannot use '{file}' ({found}); {form}. Or {otherwise}.")
        listed = content[kind]
        entries = list_entries(listed, kind, file=file)
    except UserError:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"Cannot use '{file}' ({type(error).__name__}: {error}); {form}.") from error
    missing = [video.path for video in videos if listed_path(video.path) not in entries]
    if missing:
        unmatched = describe_unmatched(entries, [listed_path(video.path) for video in videos], kind)
        raise UserError(
            f"'{file}' has no {one} for {len(missing)} of {len(videos)} videos, e.g. '{missing[0]}'; add them "
            f"(paths relative to the folder of {ANNOTATIONS}) or {otherwise}." + (f" {unmatched}" if unmatched else "")
        )
    return entries


def _to_array(labels: dict[str, Any], videos: list[Video], file: str) -> tuple[np.ndarray, int]:
    # The length of a label comes from the whole file, so that it is the same for every subset of the videos.
    if all(type(label) is int for label in labels.values()):  # type(), because True is an instance of int
        classes = min(labels.values()), max(labels.values())
        if classes[0] < 0 or classes[1] >= MAX_CLASSES:
            raise UserError(
                f"The classes in '{file}' run from {classes[0]} to {classes[1]}: number them 0, 1, 2, … "
                f"(at most {MAX_CLASSES})."
            )
        return np.array([labels[listed_path(video.path)] for video in videos], dtype=np.int64), classes[1] + 1
    lengths = {len(label) if isinstance(label, list) else 0 for label in labels.values()}
    if 0 in lengths or len(lengths) > 1:
        raise UserError(f"The labels in '{file}' must be all integers or all lists of numbers of one length.")
    numbers = [x for label in labels.values() for x in label]
    if not all(is_number(x, MAX_NUMBER) for x in numbers):
        raise UserError(f"The labels in '{file}' hold something that is not a finite number.")
    return np.array([labels[listed_path(video.path)] for video in videos], dtype=np.float32), lengths.pop()


# ----------------------------------------------------------------------------------------------------------------------
# The manifest of the dataset tool


def parse_manifest(data: bytes | None) -> dict[str, Any] | None:
    """A manifest of the dataset tool; None for anything else."""
    try:
        manifest = json.loads(data or b"null")
    except (ValueError, RecursionError):
        return None
    ours = isinstance(manifest, dict) and manifest.get("format") in (FRAMES_FORMAT, SHARDS_FORMAT)
    return manifest if ours else None


def intact_manifest(data: bytes | None, *, file: str) -> dict[str, Any] | None:
    """parse_manifest for the manifest of a dataset in use; None if there is none.

    Raises:
        UserError: It is not JSON, so what it says about the frames is lost.
    """
    if data is None:
        return None
    try:
        json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{file}' is damaged ({error}): restore it or remove it.") from error
    return parse_manifest(data)


def read_existing(path: str | os.PathLike) -> bytes | None:
    """The content of a file; None if there is none.

    Raises:
        UserError: It cannot be read: overlooking a manifest would change the training data.
    """
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"Cannot read '{path}' ({error.strerror or error}): repair or remove it.") from error


def is_shards(path: str | os.PathLike) -> bool:
    """True for a dataset of tar files: its name ends in .tar (braces list several), or its manifest says so.

    Raises:
        UserError: The manifest beside tar files cannot be read, or is damaged.
    """
    path = os.fspath(path)
    if not os.path.isdir(path):
        return path.lower().endswith(".tar")
    file = f"{path}/{MANIFEST}"
    try:
        manifest = intact_manifest(read_existing(file), file=file)
    except UserError:
        if any(name.endswith(".tar") and not name.startswith(".") for name in os.listdir(path)):
            raise
        return False  # whoever reads the frames reports it
    return manifest is not None and manifest["format"] == SHARDS_FORMAT


def store_manifest(store: FrameStore) -> dict[str, Any] | None:
    """The dataset tool's manifest in the root of a folder or zip; None if there is none.

    Raises:
        UserError: It cannot be read, or is damaged.
    """
    return intact_manifest(store.root_file(MANIFEST), file=posixpath.join(store.path, MANIFEST))


def listed_frames(manifest: dict[str, Any] | None) -> dict[str, int]:
    """Number of frames of each video in a manifest, by its path in the form of listed_path; empty without a manifest.

    Raises:
        ValueError: The manifest is damaged.
    """
    try:
        return {listed_path(entry["path"]): int(entry["frames"]) for entry in (manifest or {}).get("videos", [])}
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise ValueError(f"{MANIFEST} is damaged: its videos cannot be compared with those that are there") from error


def frame_notes(store: FrameStore, manifest: dict[str, Any] | None, resolution: int) -> list[str]:
    """Notes on a dataset: files that are left out, frames that are missing, or smaller than the resolution.

    Args:
        manifest: Result of store_manifest.
    """
    found = [f"{note}." for note in (*store.notes(), store.dangling) if note is not None]
    found += filter(None, (_missing_videos(store, manifest), enlarged_frames(manifest, resolution)))
    return [f"'{store.path}': {note}" for note in found]


def _missing_videos(store: FrameStore, manifest: dict[str, Any] | None) -> str | None:
    """One line about videos of a manifest that are missing, or some of their frames; None if all are present."""
    lengths = {listed_path(video.path): len(video) for video in store.videos}
    try:
        listed = listed_frames(manifest)
    except ValueError as error:
        return f"{error}."
    missing = [path for path, frames in listed.items() if lengths.get(path, 0) < frames]
    if not missing:
        return None
    return f"{len(missing)} of {len(listed)} videos in {MANIFEST} are missing, or frames of them, e.g. '{missing[0]}'."


def enlarged_frames(manifest: dict[str, Any] | None, resolution: int) -> str | None:
    """One line about frames that are smaller than the resolution, by their manifest; None if not, or if unknown."""
    side = (manifest or {}).get("resolution")
    if type(side) is not int or side >= resolution:
        return None
    return (
        f"frames of {side}×{side} pixels are enlarged to {resolution}×{resolution}: convert the videos with "
        f"--resolution {resolution} for more detail."
    )


def remaining_stride(manifest: dict[str, Any] | None, frame_stride: int, *, path: str) -> int:
    """The stride over stored frames that keeps every frame_stride-th frame of the source video.

    The dataset tool may have left frames out already (--frame-stride); they count. A stride of 1 keeps all frames.

    Raises:
        UserError: The required frames are not among the stored ones.
    """
    stored = stored_stride(manifest)
    if frame_stride == 1:
        return 1
    if frame_stride % stored:
        raise UserError(
            f"frame_stride={frame_stride}, but '{path}' was made with --frame-stride {stored}: use a multiple of that, "
            "or 1 for all frames that are there."
        )
    return frame_stride // stored


def stored_stride(manifest: dict[str, Any] | None) -> int:
    """The stride by which the dataset tool has left out frames; 1 if it has not, or if the entry is damaged."""
    stored = 1 if manifest is None else manifest.get("stride", 1)
    return stored if type(stored) is int and stored >= 1 else 1


def store_stride(store: FrameStore, manifest: dict[str, Any] | None, frame_stride: int) -> int:
    """remaining_stride for a folder or zip of frames with its manifest.

    Raises:
        UserError: The required frames are not among the stored ones; or there is no manifest in the root, but one above
            or below it says that frames were left out, or is damaged.
    """
    if manifest is None and frame_stride > 1:
        _require_whole_dataset(
            store, what=f"frame_stride={frame_stride}, but the frames", instead=", or a stride of 1 for all"
        )
    return remaining_stride(manifest, frame_stride, path=store.path)


def source_stride(store: FrameStore) -> int:
    """The stride by which the dataset tool has left out frames of a folder or zip; 1 if it has not.

    Raises:
        UserError: It is unknown: the manifest is damaged, or lies above or below the root.
    """
    manifest = store_manifest(store)
    if manifest is None:
        _require_whole_dataset(store, what="The frames", instead="")
        return 1
    return stored_stride(manifest)


def _require_whole_dataset(store: FrameStore, *, what: str, instead: str) -> None:
    """Refuse a root that holds the frames of a dataset with a stride, but not its manifest."""
    for folder, other in _manifests_nearby(store):
        if other.get("stride", 1) != 1:
            raise UserError(
                f"{what} in '{store.path}' are those of the dataset '{folder}', which was made with --frame-stride "
                f"{other['stride']}: use that folder itself (of a zip, one of its content){instead}."
            )


def _manifests_nearby(store: FrameStore) -> Iterator[tuple[str, dict[str, Any]]]:
    """Manifests of datasets around the root, or directly below it.

    Raises:
        UserError: One is damaged.
    """
    for place in _places_nearby(store):
        folder = os.path.normpath(os.path.join(store.path, place))
        with contextlib.suppress(OSError):
            manifest = intact_manifest(store.read_bytes(place, MANIFEST), file=posixpath.join(folder, MANIFEST))
            if manifest is not None:
                yield folder, manifest


def _places_nearby(store: FrameStore) -> list[str]:
    """Paths of folders that may be the root of the dataset of these videos, instead of the given one.

    If a folder was packed or copied instead of its content, it lies directly below; if only the videos of the dataset
    tool were given, it is the parent.
    """
    places = list(dict.fromkeys(video.path.split("/")[0] for video in store.videos if "/" in video.path))[:MAX_PLACES]
    around = not store.is_file and os.path.basename(os.path.abspath(store.path)) == "videos"
    return [*places, os.pardir] if around else places
