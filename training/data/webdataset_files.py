"""Shards of clips: tar files in the format of the webdataset package, and their samples.

A sample is one clip: members that share their name up to the first dot; a leading dot hides a member. Its images are
the frames, in natural order of the part after that dot; `<clip>.json` may hold {"label": …}. The package's `index.json`
beside the shards gives the number of samples of each; otherwise local shards are counted once, and the counts are
cached.

Shards are local files or http(s):// addresses, which curl fetches. No other kind of address is accepted: some of those
that the package supports start programs.
"""

import dataclasses
import glob
import hashlib
import http.client
import json
import os
import re
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from dnnlib import UserError, atomic_write, one_line
from dnnlib.downloads import cache_folder
from training.data.annotations import intact_manifest, read_existing
from training.data.names import IMAGE_SUFFIXES, MANIFEST, natural_key, natural_order

__all__ = ["Sample", "Shards", "open_shards", "read_samples"]

SHARD_INDEX = "index.json"
REMOTE = re.compile(r"https?://", re.IGNORECASE)
TIMEOUT = 30  # seconds, for the index of remote shards
ABSENT = (403, 404, 410)  # status codes for a missing file; some servers do not admit that it is missing
BLOCK = 512  # bytes of a header in a tar file, and the multiple to which contents are padded
COMPRESSED = re.compile(rb"\x1f\x8b|BZh[1-9]1AY&SY|\xfd7zXZ|\x28\xb5\x2f\xfd")  # how gzip, bzip2, xz and zstd begin
METADATA = re.compile(r"__[^/]*__($|/)")  # names of members that webdataset skips
ADLER_MODULUS = 65521
COUNTING = 3  # version of the cached counts


@dataclasses.dataclass(frozen=True)
class Sample:
    """A clip: its name, the suffixes and contents of its encoded frames in order, and the content of its .json.

    Frames of local shards are read from the file when they are asked for.
    """

    key: str
    frames: list[tuple[str, "bytes | Member"]]
    about: dict[str, Any]

    def __len__(self) -> int:
        return len(self.frames)

    def image(self, index: int) -> tuple[str, bytes]:
        """Suffix and content of a frame.

        Raises:
            OSError: Its file cannot be read any more.
        """
        name, content = self.frames[index]
        return name, content if isinstance(content, bytes) else content.read()


class Member(NamedTuple):
    """The place of a member in a local tar file, in bytes."""

    file: str
    start: int
    size: int

    def read(self) -> bytes:
        descriptor = os.open(self.file, os.O_RDONLY)
        try:
            data = os.pread(descriptor, self.size, self.start)
        finally:
            os.close(descriptor)
        if len(data) < self.size:
            raise OSError(f"{self.file} has become shorter")
        return data


@dataclasses.dataclass(frozen=True)
class Shards:
    """Tar files, the number of samples of each, and the manifest if the dataset tool wrote them.

    `missing` are the shards that the index lists but the dataset's folder lacks.
    """

    urls: list[str]
    counts: list[int]
    manifest: dict[str, Any] | None
    missing: list[str] = dataclasses.field(default_factory=list)


def open_shards(path: str | os.PathLike) -> Shards:
    """Find the shards of a dataset and their sizes.

    Args:
        path: One tar file, several written with braces (`faces-{000..010}.tar`), or a folder of them.

    Raises:
        UserError: A shard is missing or has no samples, or its size is unknown; or the manifest or the index is
            damaged.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        urls = _tar_files(path)
    else:
        urls = _braces_expanded(path) if re.search("[{}]", path) else [path]
        urls = [url if REMOTE.match(url) else os.path.abspath(url) for url in map(_allowed, urls)]
    missing = [url for url in urls if not REMOTE.match(url) and not os.path.isfile(url)]
    if missing or not urls:
        raise UserError(
            f"There is no shard '{(missing or [path])[0]}' ({len(missing)} of {len(urls)} missing): check data=."
        )
    folders = dict.fromkeys(url.rpartition("/")[0] for url in urls)  # braces may list several
    indices = {folder: _index(folder) for folder in folders}
    manifest, *others = map(_manifest, folders)
    for key in ("stride", "c_dim", "cameras"):
        if any((other or {}).get(key) != (manifest or {}).get(key) for other in others):
            raise UserError(f"'{path}': the folders' {MANIFEST} differ in '{key}': train on shards that agree in it.")
    counts = [_count(url, indices[url.rpartition("/")[0]]) for url in urls]
    if 0 in counts:
        raise UserError(f"The shard '{urls[counts.index(0)]}' has no samples: leave it out.")
    [index] = indices.values() if os.path.isdir(path) else [{}]
    absent = sorted(index.keys() - {url.rpartition("/")[2] for url in urls})
    return Shards(urls=urls, counts=counts, manifest=manifest, missing=absent)


def read_samples(url: str) -> Iterator[Sample]:
    """The samples of a shard, in order.

    Raises:
        UserError: It cannot be read; or it is remote or compressed, and webdataset is not installed.
    """
    try:
        members = _package_members(url) if REMOTE.match(url) or _is_compressed(url) else _local_members(url)
        for key, contents in _grouped(members):
            images = natural_order(suffix for suffix in contents if f".{suffix}".endswith(IMAGE_SUFFIXES))
            about = contents.get("json", b"{}")
            about = json.loads(about.read() if isinstance(about, Member) else about)
            yield Sample(
                key=key,
                frames=[(suffix, contents[suffix]) for suffix in images],
                about=about if isinstance(about, dict) else {},
            )
    except UserError:  # the package is missing
        raise
    except (OSError, EOFError, ValueError, RecursionError, tarfile.TarError) as error:
        raise UserError(f"Cannot read the shard '{url}' ({one_line(error)[:200]}): replace it.") from error


class Header(tarfile.TarInfo):
    """The header of a member. An archive ends with a block of zeros; tarfile takes any damaged header for its end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "Header":
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf == bytes(BLOCK):
                raise
            raise tarfile.ReadError("unexpected end of data" if len(buf) < BLOCK else str(error)) from error


def _package_members(url: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a shard's members, read from front to back from the stream that webdataset opens."""
    [source] = _package("webdataset").tariterators.url_opener([{"url": url}])
    with tarfile.open(fileobj=source["stream"], mode="r|*", tarinfo=Header) as archive:
        while (info := archive.next()) is not None:
            if info.isreg() and not METADATA.match(info.name):
                yield info.name, archive.extractfile(info).read()
            archive.members.clear()


def _grouped(members: Iterable[tuple[str, "bytes | Member"]]) -> Iterator[tuple[str, dict[str, "bytes | Member"]]]:
    """Keys of the samples, and the contents of their members by suffix."""
    key, contents = None, {}
    for name, content in members:
        parts = _sample_name(name)
        if parts is None:
            continue
        if parts[0] != key:
            if contents:
                yield key, contents
            key, contents = parts[0], {}
        suffix = parts[1].lower()
        if suffix in contents:
            raise ValueError(f"it has two members '{name}'")
        contents[suffix] = content
    if contents:
        yield key, contents


def _sample_name(name: str) -> tuple[str, str] | None:
    """A member's name divided at the first dot of its last part, as in webdataset: the sample's key, and a suffix.

    None if it belongs to no sample: a name without a dot, or a hidden one (macOS puts ._NAME between the frames).
    """
    folder, slash, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    return (folder + slash + stem, suffix) if stem and dot else None


# ----------------------------------------------------------------------------------------------------------------------
# Local shards: the headers of all members are read, but only the contents in use


def _is_compressed(file: str) -> bool:
    """True for compressed files, which can only be read from front to back."""
    with open(file, "rb") as stream:
        return COMPRESSED.match(stream.read(BLOCK)) is not None


def _local_members(file: str) -> Iterator[tuple[str, "bytes | Member"]]:
    """Names and contents of an uncompressed shard's members: the same as `_package_members`.

    Plain headers are parsed here, and the contents of their members stay in the file. tarfile reads the first header
    and all others (long names, links, the end of the archive, damage).

    Raises:
        OSError, tarfile.TarError: It cannot be read, or is damaged.
    """
    end = os.path.getsize(file)
    with open(file, "rb") as stream, tarfile.open(fileobj=stream, mode="r:", tarinfo=Header) as archive:
        while (info := archive.next()) is not None:
            content = archive.extractfile(info) if info.isreg() and not METADATA.match(info.name) else None
            if content is not None:
                yield info.name, content.read()
            place = archive.offset
            while (found := _plain_header(os.pread(stream.fileno(), BLOCK, place))) is not None:
                name, size = found
                start = place + BLOCK
                if start + size > end:
                    raise tarfile.ReadError("unexpected end of data")
                if not METADATA.match(name):
                    yield name, Member(file, start, size)
                place = start + -(-size // BLOCK) * BLOCK
            archive.offset = place


def _plain_header(header: bytes) -> tuple[str, int] | None:
    """Name and size of a regular file from its header (POSIX ustar), or None if the header is anything else."""
    if len(header) < BLOCK or header[156:157] != b"0" or header[257:262] != b"ustar" or header[345] != 0:
        return None
    try:
        size, checksum = int(header[124:135], 8), int(header[148:154], 8)
    except ValueError:
        return None
    # The checksum is the sum of all bytes, with spaces in its own place. Adler-32 has this sum, plus one, in its lower
    # half, and is twenty times as fast as a sum in Python.
    total = checksum + sum(header[148:156]) - 8 * ord(" ")
    if zlib.adler32(header) & 0xFFFF != (total + 1) % ADLER_MODULUS:
        return None
    return header[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape"), size


# ----------------------------------------------------------------------------------------------------------------------
# Files beside the shards


def _tar_files(folder: str) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(folder), "*.tar")), key=natural_key)


def _package(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            "Remote or compressed tar files, and several given in braces, need the package webdataset: "
            "pip install webdataset."
        ) from error


def _braces_expanded(path: str) -> list[str]:
    braceexpand = _package("braceexpand").braceexpand
    try:
        return list(braceexpand(path))
    except ValueError as error:
        raise UserError(f"'{path}': {error}; write several shards as NAME-{{000000..000010}}.tar.") from error


def _allowed(url: str) -> str:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", url) and not REMOTE.match(url):
        raise UserError(f"'{url}' is neither a file nor an http(s):// address: other addresses are not read.")
    return url


def _read(url: str) -> bytes | None:
    """The content of a file or an address; None if there is nothing.

    Raises:
        UserError: It cannot be read, or the answer is unclear.
    """
    if not REMOTE.match(url):
        return read_existing(url)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            return response.read()
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code in ABSENT:
            return None
        raise UserError(f"Cannot fetch '{url}' ({one_line(error)}): check the address and the network.") from error


def _manifest(folder: str) -> dict[str, Any] | None:
    file = f"{folder}/{MANIFEST}"
    return intact_manifest(_read(file), file=file)


def _index(folder: str) -> dict[str, int]:
    """Numbers of samples by file name; none if there is no index, or one of another kind.

    Raises:
        UserError: It cannot be read, or is damaged, or has an invalid entry.
    """
    file = f"{folder}/{SHARD_INDEX}"
    data = _read(file)
    try:
        content = None if data is None else json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{file}' is damaged ({error}): restore it or remove it.") from error
    entries = content.get("shardlist") if isinstance(content, dict) else None
    index = {}
    for entry in entries if isinstance(entries, list) else []:
        try:
            name, count = entry["url"].rpartition("/")[2], int(entry["nsamples"])
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            name, count = "", -1
        if not name or count < 0:
            raise UserError(
                f"'{file}' must give the url and nsamples of each shard, got {one_line(f'{entry!r:.60}')}: correct or "
                "remove it."
            )
        index[name] = count
    return index


def _count(url: str, index: dict[str, int]) -> int:
    name = url.rpartition("/")[2]
    if name in index:
        return index[name]
    if REMOTE.match(url):
        raise UserError(
            f"The number of clips in '{url}' is unknown: put the {SHARD_INDEX} that the dataset tool (or webdataset's "
            "widsindex) writes beside it."
        )
    return _count_members(url)


def _count_members(file: str) -> int:
    """Number of samples of a local shard, from the headers of its members; cached until the file changes."""
    status = os.stat(file)
    stamp = f"{COUNTING}\0{os.path.realpath(file)}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}"
    cached = cache_folder("shards", hashlib.sha256(os.fsencode(stamp)).hexdigest()[:32] + ".json")
    try:
        return int(json.loads(_read(str(cached)) or b"null"))
    except (UserError, ValueError, TypeError):
        pass
    count, previous = 0, None
    try:
        with tarfile.open(file, "r:*", tarinfo=Header) as archive:
            for member in archive:
                parts = _sample_name(member.name) if member.isreg() and not METADATA.match(member.name) else None
                if parts is not None and parts[0] != previous:
                    count, previous = count + 1, parts[0]
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise UserError(f"Cannot read the shard '{file}' ({one_line(error)}): replace it.") from error
    try:
        os.makedirs(os.path.dirname(cached), exist_ok=True)
        with atomic_write(cached, "w") as stream:
            json.dump(count, stream)
    except (OSError, UserError):
        pass  # not cached: counted again next time
    return count
