"""Shards of clips: tar files in the format of the webdataset package, and their samples.

A sample is one clip: members that share their name up to the first dot. Its images are the frames, in natural order of
the part after that dot; `<clip>.json` may hold {"label": …}. The package's `index.json` beside the shards gives the
number of samples of each; otherwise local shards are counted once, and the counts are cached.

Shards are local files or http(s):// addresses, which curl fetches. No other kind of address is accepted: some of those
that the package supports start programs.
"""

import dataclasses
import glob
import hashlib
import json
import os
import re
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from dnnlib import UserError, atomic_write, one_line
from dnnlib.downloads import cache_folder
from training.data.annotations import MANIFEST, SHARDS_FORMAT, parse_manifest
from training.data.frame_index import IMAGE_SUFFIXES, natural_key

__all__ = ["Sample", "Shards", "is_shards", "open_shards", "read_samples"]

SHARD_INDEX = "index.json"
REMOTE = re.compile(r"https?://", re.IGNORECASE)
TIMEOUT = 30  # seconds, for the index of remote shards


@dataclasses.dataclass(frozen=True)
class Sample:
    """A clip: its name, its encoded frames (suffix and content) in order, and the content of its .json."""

    key: str
    images: list[tuple[str, bytes]]
    about: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Shards:
    """Tar files, the number of samples of each, and the manifest if the dataset tool wrote them.

    `missing` are the shards that the index lists but the dataset's folder lacks.
    """

    urls: list[str]
    counts: list[int]
    manifest: dict[str, Any] | None
    missing: list[str] = dataclasses.field(default_factory=list)


def is_shards(path: str | os.PathLike) -> bool:
    """True for a dataset of tar files: its name ends in .tar (braces list several), or its manifest says so."""
    path = os.fspath(path)
    if path.lower().endswith(".tar"):
        return True
    manifest = parse_manifest(_read_local(os.path.join(path, MANIFEST))) if os.path.isdir(path) else None
    return manifest is not None and manifest["format"] == SHARDS_FORMAT


def open_shards(path: str | os.PathLike) -> Shards:
    """Find the shards of a dataset and their sizes.

    Args:
        path: One tar file, several written with braces (`faces-{000..010}.tar`), or a folder of them.

    Raises:
        UserError: A shard is missing or has no samples, or its size is unknown.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        urls = sorted(glob.glob(os.path.join(glob.escape(path), "*.tar")), key=natural_key)
    else:
        urls = _package("braceexpand").braceexpand(path)
        urls = [url if REMOTE.match(url) else os.path.abspath(url) for url in map(_allowed, urls)]
    missing = [url for url in urls if not REMOTE.match(url) and not os.path.isfile(url)]
    if missing or not urls:
        raise UserError(
            f"There is no shard '{(missing or [path])[0]}'" + f" ({len(missing)} are missing): check data=."
        )
    folder = urls[0].rpartition("/")[0]
    index = _index(_read(f"{folder}/{SHARD_INDEX}"))
    manifest = parse_manifest(_read(f"{folder}/{MANIFEST}"))
    counts = [_count(url, index) for url in urls]
    if 0 in counts:
        raise UserError(f"The shard '{urls[counts.index(0)]}' has no samples: leave it out.")
    absent = sorted(index.keys() - {url.rpartition("/")[2] for url in urls}) if os.path.isdir(path) else []
    return Shards(urls=urls, counts=counts, manifest=manifest, missing=absent)


def read_samples(url: str) -> Iterator[Sample]:
    """The samples of a shard, in order.

    Raises:
        UserError: It cannot be read; or webdataset is not installed.
    """
    webdataset = _package("webdataset")
    pipeline = webdataset.DataPipeline(lambda: iter([{"url": url}]), webdataset.tarfile_to_samples())
    try:
        for sample in pipeline:
            images = [(name, data) for name, data in sample.items() if f".{name}".endswith(IMAGE_SUFFIXES)]
            about = json.loads(sample.get("json", b"{}"))
            yield Sample(
                key=sample["__key__"],
                images=sorted(images, key=lambda image: natural_key(image[0])),
                about=about if isinstance(about, dict) else {},
            )
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise UserError(f"Cannot read the shard '{url}' ({one_line(error)[:200]}): replace it.") from error


def _package(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError("Datasets in tar files need the package webdataset: pip install webdataset.") from error


def _allowed(url: str) -> str:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", url) and not REMOTE.match(url):
        raise UserError(f"'{url}' is neither a file nor an http(s):// address: other addresses are not read.")
    return url


def _read(url: str) -> bytes | None:
    if not REMOTE.match(url):
        return _read_local(url)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            return response.read()
    except (OSError, urllib.error.URLError):
        return None


def _read_local(file: str) -> bytes | None:
    try:
        with open(file, "rb") as stream:
            return stream.read()
    except OSError:
        return None


def _index(data: bytes | None) -> dict[str, int]:
    """Numbers of samples by file name."""
    try:
        return {entry["url"].rpartition("/")[2]: int(entry["nsamples"]) for entry in json.loads(data)["shardlist"]}
    except (ValueError, TypeError, KeyError):
        return {}


def _count(url: str, index: dict[str, int]) -> int:
    name = url.rpartition("/")[2]
    if name in index:
        return index[name]
    if REMOTE.match(url):
        raise UserError(
            f"How many clips '{url}' has is not known: put the {SHARD_INDEX} that the dataset tool (or webdataset's "
            "widsindex) writes beside it."
        )
    return _count_members(url)


def _count_members(file: str) -> int:
    """Number of samples of a local shard, from the headers of its members; cached until the file changes."""
    status = os.stat(file)
    stamp = f"{os.path.realpath(file)}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}"
    cached = cache_folder("shards", hashlib.sha256(os.fsencode(stamp)).hexdigest()[:32] + ".json")
    try:
        return int(json.loads(_read_local(cached) or b"null"))
    except (ValueError, TypeError):
        pass
    count, previous = 0, None
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                folder, _, base = member.name.rpartition("/")
                key = (folder, base.partition(".")[0])
                if member.isreg() and "." in base and key != previous:
                    count, previous = count + 1, key
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"Cannot read the shard '{file}' ({one_line(error)}): replace it.") from error
    try:
        os.makedirs(os.path.dirname(cached), exist_ok=True)
        with atomic_write(cached, "w") as stream:
            json.dump(count, stream)
    except (OSError, UserError):
        pass  # not cached: counted again next time
    return count
