"""Staging folder beside the output, in which a dataset grows: finished videos are kept until the rest is complete.

    .NAME.unfinished/settings.json       settings of the dataset; others cannot continue it
    .NAME.unfinished/records/<n>.json    one for each complete video, written after its frames
    .NAME.unfinished/data/videos/…       frames of complete videos
    .NAME.unfinished/work/…              frames of incomplete videos; emptied at every start

`data` gets the final name at the end. So a process may be killed at any moment: videos without a record, or without all
frames (a record holds their number and bytes), are converted again.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

from dnnlib import UserError, atomic_write, exclusive_lock, explain_file_trouble, made_folder, short_name
from training.data.crops import crop_words
from training.data.dataset_folders import SETTINGS, SYNTHETIC

__all__ = ["Unfinished", "folder_size", "replace_path", "write_json"]


class Unfinished:
    """The growing dataset beside `out`; see the top of this file. Use `opened`."""

    def __init__(self, out: str):
        parent, name = os.path.split(out)
        self.out = out
        self.folder = os.path.join(parent, f".{short_name(name)}.unfinished")
        self.data = os.path.join(self.folder, "data")
        self.work = os.path.join(self.folder, "work")
        self._videos = os.path.join(self.data, "videos")
        self._records = os.path.join(self.folder, "records")
        self._settings = os.path.join(self.folder, SETTINGS)

    @contextlib.contextmanager
    def opened(self, settings: dict[str, Any], *, restart: bool) -> Iterator[None]:
        """Lock the folder while the block runs. It is removed afterwards unless it holds something to continue from.

        So are folders above it that were made for it, if they are empty.

        Args:
            settings: Settings of the dataset; plain data.
            restart: Discard the folder's content.

        Raises:
            UserError: The folder cannot be made, or another process writes there, or it holds something else.
        """
        busy = f"Another process is making '{self.out}'; wait for it or stop it first."
        with explain_file_trouble(self.out), made_folder(self.folder), exclusive_lock(self.folder, busy=busy):
            if not restart and os.path.exists(os.path.join(self.folder, SYNTHETIC)):
                raise UserError(
                    f"'{self.folder}' holds an unfinished set of `python -m training.synthetic`: repeat that "
                    "command to finish it, remove it, or use --overwrite."
                )
            try:
                self._prepare(settings, restart=restart)
                yield
            finally:
                if not os.path.isdir(self._records) or not os.listdir(self._records):
                    shutil.rmtree(self.folder, ignore_errors=True)

    def _prepare(self, settings: dict[str, Any], *, restart: bool) -> None:
        settings = json.loads(json.dumps(settings))
        there = None if restart else _read_json(self._settings)
        changed = [] if there is None else [key for key in there | settings if there.get(key) != settings.get(key)]
        if changed:
            made, now = (_in_words(changed[0], values.get(changed[0])) for values in (there, settings))
            name = "" if changed[0] == "crop" else f"{changed[0]} "
            raise UserError(
                f"'{self.folder}' holds an unfinished dataset made with {name}{made}, not {now}: repeat that command "
                "to go on, or use --overwrite to start over."
            )
        if there is None:
            for name in os.listdir(self.folder):
                path = os.path.join(self.folder, name)
                shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        shutil.rmtree(self.work, ignore_errors=True)
        for folder in (self._records, self._videos, self.work):
            os.makedirs(folder, exist_ok=True)
        write_json(self._settings, settings)

    def records(self) -> dict[str, dict[str, Any]]:
        """Records of the complete videos, by name; all other frames are removed."""
        found, claimed = {}, set()
        for entry in os.listdir(self._records):
            path = os.path.join(self._records, entry)
            record = _read_json(path)
            folders = [os.path.join(self._videos, name) for name, _ in record["pieces"]] if record is not None else []
            if record is None or sum(map(folder_size, folders)) != record["bytes"]:
                os.unlink(path)
                continue
            found[record["name"]] = record
            claimed.update(name for name, _ in record["pieces"])
        for name in set(os.listdir(self._videos)) - claimed:
            shutil.rmtree(os.path.join(self._videos, name))
        return found

    def keep(self, record: dict[str, Any]) -> None:
        """Move the frames of a complete video out of the work folder, and write its record."""
        for name, _ in record["pieces"]:
            os.rename(os.path.join(self.work, name), os.path.join(self._videos, name))
        write_json(self._record_file(record["name"]), record)

    def forget(self, record: dict[str, Any]) -> None:
        """Remove a video."""
        os.unlink(self._record_file(record["name"]))
        for name, _ in record["pieces"]:
            shutil.rmtree(os.path.join(self._videos, name))

    def remove(self) -> None:
        """Remove everything, after the data have been moved away or because they are useless."""
        with contextlib.suppress(OSError):
            os.unlink(self._settings)  # first: without them, the rest counts as garbage if the process is killed
        shutil.rmtree(self.folder, ignore_errors=True)

    def remove_rest(self) -> None:
        """Remove the remains of a process that was killed during `remove`."""
        if not os.path.isdir(self.folder) or os.path.exists(self._settings):
            return
        with contextlib.suppress(OSError, UserError), exclusive_lock(self.folder, busy="in use"):
            if not os.path.exists(self._settings):
                shutil.rmtree(self.folder, ignore_errors=True)

    def _record_file(self, name: str) -> str:
        return os.path.join(self._records, hashlib.sha256(name.encode()).hexdigest()[:32] + ".json")


def folder_size(folder: str) -> int:
    """Bytes in the files of a folder; -1 if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sum(entry.stat().st_size for entry in entries)
    except FileNotFoundError:
        return -1


def replace_path(new: str, path: str) -> None:
    """Move a complete file or folder to a path, replacing another there; if that fails, the old one stays."""
    os.sync()  # one flush for all the small files, before they get the name of a complete dataset
    old = os.path.join(os.path.dirname(new), "replaced")
    if os.path.lexists(path):
        os.rename(path, old)
    try:
        os.rename(new, path)
    except OSError:
        if os.path.lexists(old):
            os.rename(old, path)
        raise
    if os.path.isdir(old):
        shutil.rmtree(old, ignore_errors=True)


def write_json(path: str, content: dict) -> None:
    """Write plain data as indented JSON."""
    with atomic_write(path, "w") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")


def _in_words(name: str, value: Any) -> str:
    """The value of a setting for a message."""
    if name == "crop":
        with contextlib.suppress(KeyError, TypeError, ValueError):  # of an edited file
            return crop_words(value)
    return "none" if value is None else str(value)


def _read_json(path: str) -> dict | None:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
