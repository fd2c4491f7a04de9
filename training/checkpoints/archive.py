"""Checkpoint archives: `torch.save` files of tensors, numbers, strings, lists and dicts (None stands for "left out").

`torch.load(path, weights_only=True)` opens them, and nothing in them is ever executed. Files are written atomically
(dnnlib.atomic_write): a kill at any moment leaves the previous file whole.
"""

import io
import os
import pickle
import re
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dnnlib import UserError, atomic_write, file_identity, require_utf8
from torch_utils.memory import explain_loading

__all__ = ["VERSION", "check_kind", "is_pickle", "plain", "read_archive", "save_archive"]

VERSION = 1

# First bytes of a file that `torch.save` wrote before it used zip archives: the pickle of a magic number.
LEGACY = re.compile(rb"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19")
# First bytes of a pickle: its protocol, or in the oldest protocols containers and the name of a global.
PICKLE = re.compile(rb"\x80(?:[\x00-\x05]|\Z)|[(\])}]*c[\w.]+\n[\w.]+\n")


def plain(value: Any, *, where: str = "value", tensors: bool = True) -> Any:
    """A copy that holds only tensors (on the CPU), numbers, strings, None, lists and dicts; tuples become lists.

    Args:
        where: Name of the value, for messages.
        tensors: False: tensors are refused, too.

    Raises:
        TypeError: It holds something else; the message names the entry.
    """
    if isinstance(value, torch.Tensor) and tensors:
        value = value.detach().cpu()
        if value.untyped_storage().nbytes() != value.numel() * value.element_size():
            value = value.clone()  # a view would drag the whole storage into the file
        return value
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(f"{where}: key {key!r} is neither a string nor an integer")
        return {key: plain(entry, where=f"{where}.{key}", tensors=tensors) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry, where=f"{where}[{i}]", tensors=tensors) for i, entry in enumerate(value)]
    raise TypeError(f"{where} is a {type(value).__name__}; a checkpoint holds only plain data")


def save_archive(path: str | os.PathLike, content: dict) -> None:
    """Write plain data atomically (see `plain`)."""
    content = plain(content)
    with atomic_write(path) as file:
        torch.save(content, file)


def read_archive(path: str | os.PathLike, *, format: str, what: str, part: Sequence[str] = ()) -> dict:
    """Open an archive of the given format; its tensors are memory-mapped.

    A file in the format that `torch.save` had before zip archives is read at once.

    Args:
        path: The file.
        format: The expected value of the entry 'format'.
        what: Kind of file, for messages: 'a network snapshot'.
        part: Path of keys to the entry whose tensors will be used; by default all are.

    Raises:
        UserError: There is no such file, or it is damaged, or something else; the message says what it seems to be. Or
            the memory is full.
    """
    path = Path(path)
    check_kind(path, what)
    before = file_identity(path)
    try:
        with explain_loading(path):
            content = _read(path, what=what, part=part)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        from training.published.pickle_values import printable

        if "unexpected EOF" in str(error):  # PyTorch 2.4 says so of a file in its older format that is cut off
            raise UserError(f"{path} is damaged or incomplete; copy or download it again.") from error
        name = re.search(r"GLOBAL (\S+)", str(error))
        found = f" ({printable(name[1])}); it may be malicious. Nothing in it was run" if name else ""
        raise UserError(f"{path} is not {what} of this program: it holds other Python objects{found}.") from error
    except Exception as error:  # PyTorch's reader raises almost any exception for damaged data
        if file_identity(path) != before:  # a run in progress has replaced its latest snapshot in between
            return read_archive(path, format=format, what=what, part=part)
        raise UserError(f"{path} is damaged or incomplete; copy or download it again.") from error
    if not isinstance(content, dict) or content.get("format") != format:
        found = content.get("format") if isinstance(content, dict) else None
        raise UserError(f"{path} is not {what} of this program (its format is {found!r}, not {format!r}).")
    version = content.get("version")
    if type(version) is not int or version != VERSION:
        raise UserError(
            f"{path} has version {version!r} of its format, this program reads version {VERSION}; "
            "use the program that wrote it."
        )
    return content


def _check_zip(path: Path, what: str) -> frozenset[int]:
    """The checksums of a zip archive's entries.

    Raises:
        UserError: It is another kind of zip archive.
        zipfile.BadZipFile, ...: It is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        if "constants.pkl" in names:
            raise UserError(f"{path} is a TorchScript file, not {what}.")
        if "data.pkl" not in names:
            raise UserError(f"{path} is a zip file of something else, not {what}.")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            # PyTorch would unpack it into memory: a megabyte can hold gigabytes.
            raise UserError(f"{path} is a compressed zip, as which {what} is never saved; take the original file.")
        archive.read(names["data.pkl"])  # compares its checksum
        return frozenset(entry.CRC for entry in archive.infolist())


def _check_tensors(value: Any, checksums: Collection[int]) -> None:
    """Compare tensors with the checksums of their archive, which `torch.load` does not; about a second per GB.

    Raises:
        ValueError: One is damaged, which would go unnoticed: its values would look like weights.
    """
    if isinstance(value, torch.Tensor):
        if value.layout == torch.strided and not value.is_meta and value.numel() > 0:
            stored = torch.tensor([], dtype=torch.uint8).set_(value.untyped_storage())
            if zlib.crc32(stored.numpy()) not in checksums:
                raise ValueError("a tensor has another checksum")
    elif isinstance(value, Mapping):
        for entry in value.values():
            _check_tensors(entry, checksums)
    elif isinstance(value, list):
        for entry in value:
            _check_tensors(entry, checksums)


def _read(path: Path, *, what: str, part: Sequence[str]) -> Any:
    """The content of an archive; its tensors, or those of a part of it, have been compared with their checksums."""
    if _begins(path, LEGACY):
        # From memory: given a file, PyTorch up to 2.5 first tries a still older format, which may execute content.
        return torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    require_utf8(path)
    checksums = _check_zip(path, what)
    content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    used = content
    for key in part:
        used = used.get(key) if isinstance(used, Mapping) else None
    _check_tensors(used, checksums)
    return content


def is_pickle(path: Path) -> bool:
    """True for a plain pickle, the format of the original system's checkpoints."""
    return _begins(path, PICKLE) and not _begins(path, LEGACY)


def _begins(path: Path, pattern: re.Pattern[bytes]) -> bool:
    try:
        with open(path, "rb") as file:
            return pattern.match(file.read(512)) is not None
    except OSError:
        return False


def check_kind(path: Path, what: str, *, name: object = None) -> None:
    """Refuse files that are often mistaken for archives, by their first bytes.

    Args:
        path: The file.
        what: Kind of file, for messages.
        name: Name of the file in messages; None for its path.

    Raises:
        UserError: It is missing, or something else.
    """
    name = path if name is None else name
    if not path.exists():
        raise UserError(f"There is no file {name}; give the path of {what}.")
    if not path.is_file():
        raise UserError(f"{name} is not a file; give the path of {what}.")
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UserError(f"Cannot read {name}: {error.strerror}.") from error
    text = head.lstrip().lower()
    if not head:
        raise UserError(f"{name} is empty; copy or download it again.")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{name} is a Git-LFS pointer, not {what} itself; fetch it with `git lfs pull`.")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{name} is a web page, not {what} (an error page of a download?); download the file itself.")
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")):
        raise UserError(f"{name} is compressed; unpack it first.")
    if LEGACY.match(head):
        return
    if head.startswith(b"\x80"):
        raise UserError(f"{name} is a Python pickle, not {what} of this program.")
    if not head.startswith(b"PK"):
        raise UserError(f"{name} is not {what}: its first bytes belong to no known format.")
