"""Protection of dataset folders against outputs that would be taken for training data.

Every folder of images below a dataset is one of its videos, and every video file a source of the dataset tool, so
previews, rendered frames and videos must not be written there. A folder is a dataset if it is given to a command as
one, or if it holds a file of the tools: manifest.json, synthetic.json, dataset.json.
"""

import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator

from dnnlib import UserError
from training.data.annotations import KINDS, parse_manifest
from training.data.names import ANNOTATIONS, IMAGE_SUFFIXES, MANIFEST, RUN_OPTIONS, is_hidden

__all__ = ["SETTINGS", "SYNTHETIC", "frames_nearby", "is_inside", "keep_apart", "keep_out_of_made_data", "trained_on"]

SYNTHETIC = "synthetic.json"
SETTINGS = "settings.json"  # of a dataset that the dataset tool is making
MAX_ENTRIES = 500  # entries of a folder that are examined
NUMBERED = re.compile(r"(frame|img|image)?[-_ ]?\d+", re.IGNORECASE)  # names of frames, without their suffix


def is_inside(path: str | os.PathLike, folder: str | os.PathLike) -> bool:
    """True if a path is a folder or lies below it, links resolved."""
    path, folder = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath([path, folder]) == folder


def keep_apart(out: str | os.PathLike, *, option: str, data: Iterable[str | os.PathLike | None] = ()) -> None:
    """Refuse an output folder that lies inside a dataset, directly or through links.

    Args:
        out: The folder; it need not exist.
        option: Name of the option, for messages.
        data: Paths of known datasets; zips and tar files cannot hold outputs.

    Raises:
        UserError: It lies inside one; the message names both.
    """
    known = [os.fspath(path) for path in data if path is not None and os.path.isdir(path)]
    holding = [path for path in known if is_inside(out, path) or _links_to(path, out)]
    _refuse(out, option, holding or [path for path in _with_parents(out) if _is_written(path) or _has_entries(path)])


def keep_out_of_made_data(out: str | os.PathLike) -> None:
    """Refuse a folder OUT for a dataset below a dataset that one of the tools has written.

    Raises:
        UserError: See `keep_apart`.
    """
    _refuse(out, "OUT", [path for path in _with_parents(os.path.dirname(os.path.abspath(out))) if _is_written(path)])


def trained_on(network: str | os.PathLike) -> str | None:
    """The data of the run that a snapshot or a run folder belongs to; None if it is unknown."""
    import yaml

    folder = network if os.path.isdir(network) else os.path.dirname(os.path.abspath(network))
    try:
        with open(os.path.join(folder, RUN_OPTIONS), encoding="utf-8") as file:
            options = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    data = options.get("data") if isinstance(options, dict) else None
    return data if isinstance(data, str) else None


def frames_nearby(out: str | os.PathLike, *, rendered: Iterable[str]) -> str | None:
    """Check the folder of --outdir for frames nearby that may be a dataset without a manifest.

    Args:
        out: The folder; it need not exist.
        rendered: Prefixes of the names of camera paths, after which the folders of rendered frames are named.

    Returns:
        A note for the user if the folder above it, or one below it, holds such frames; else None.

    Raises:
        UserError: The folder itself holds numbered images, or folders of them that generate.py has not written.
    """
    out = os.path.abspath(out)
    own = re.compile(rf"({'|'.join(map(re.escape, rendered))}).*_.+")  # folders of frames that generate.py wrote
    if _is_frames(out) or next(_frame_folders(out, own), None) is not None:
        raise UserError(
            f"--outdir: '{out}' holds frames of videos; those written there would be taken for more of the same data. "
            "Choose another folder."
        )
    around = os.path.dirname(out)
    for place in (around, *_folders(out)):
        found = next((name for name in _frame_folders(place, own) if name != os.path.basename(out)), None)
        if found is not None:
            return f"note: '{place}' holds frames ({found}); if it is training data, write elsewhere than to '{out}'."
    return None


def _refuse(out: str | os.PathLike, option: str, holding: list[str]) -> None:
    if holding:
        raise UserError(
            f"{option}: '{os.fspath(out)}' lies inside the data in '{holding[0]}': what is written there would be "
            "taken for more videos. Choose a folder outside of it."
        )


def _with_parents(out: str | os.PathLike) -> list[str]:
    """A folder and its parents, by their given paths and with links resolved."""
    found: dict[str, None] = {}
    for path in (os.path.abspath(out), os.path.realpath(out)):
        while path not in found:
            found[path] = None
            path = os.path.dirname(path)
    return list(found)


def _links_to(data: str, out: str | os.PathLike) -> bool:
    """True if a link in a dataset, or in a folder directly below it, leads to `out` or a parent of it."""
    for folder in (data, *itertools.islice(_folders(data), MAX_ENTRIES)):
        for path in _folders(folder, most=None if folder == data else MAX_ENTRIES):
            if os.path.islink(path) and is_inside(out, path) and not is_inside(data, path):
                return True
    return False


def _is_written(folder: str) -> bool:
    """True if the folder is a dataset that one of the tools has written."""
    if parse_manifest(_read(os.path.join(folder, MANIFEST))) is not None:
        return True
    config = _read_json(os.path.join(folder, SYNTHETIC))
    return isinstance(config, dict) and "videos" in config and "frames" in config


def _has_entries(folder: str) -> bool:
    entries = _read_json(os.path.join(folder, ANNOTATIONS))
    return isinstance(entries, dict) and any(kind in entries for kind in KINDS)


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def _read_json(path: str) -> object:
    try:
        return json.loads(_read(path) or b"null")
    except (ValueError, RecursionError):
        return None


def _entries(folder: str, most: int | None = MAX_ENTRIES) -> Iterator[os.DirEntry]:
    """Visible entries of a folder, at most `most` of them; none if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            for entry in itertools.islice(entries, most):
                if not is_hidden(entry.name):
                    yield entry
    except OSError:
        return


def _folders(folder: str, most: int | None = MAX_ENTRIES) -> Iterator[str]:
    return (entry.path for entry in _entries(folder, most) if entry.is_dir())


def _is_frames(folder: str) -> bool:
    """True if a folder holds two or more images, all with numbered names."""
    images = [entry.name for entry in _entries(folder) if entry.name.lower().endswith(IMAGE_SUFFIXES)]
    return len(images) > 1 and all(NUMBERED.fullmatch(os.path.splitext(name)[0]) for name in images)


def _frame_folders(folder: str, own: re.Pattern[str]) -> Iterator[str]:
    """Names of the subfolders of frames that generate.py has not written."""
    for path in _folders(folder):
        if own.fullmatch(os.path.basename(path)) is None and _is_frames(path):
            yield os.path.basename(path)
