"""Index of the frames in a folder or a zip: compact tables of names, cached in the user's cache folder.

A million frames take seconds to list, and a fraction of a second to load from the cache. A cached index is checked
before it is used: a folder's entries cannot change without its times changing, so the times of all folders of a tree
are compared; for a zip the file's times and size. The contents of frames are not cached, so a frame that is replaced in
place needs no check. Small sets are always listed.
"""

import collections
import contextlib
import dataclasses
import errno
import hashlib
import os
import re
import stat
import time
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from dnnlib import UserError, atomic_write
from dnnlib.downloads import cache_folder
from training.data.names import (
    ANNOTATIONS,
    COMPANIONS,
    IMAGE_SUFFIXES,
    MANIFEST,
    MOVIE_SUFFIXES,
    OTHER_IMAGES,
    SYSTEM_FOLDERS,
    StringTable,
    disordered_decimals,
    is_hidden,
    join_path,
    natural_order,
    path_key,
    unread_suffix,
)

__all__ = ["Listing", "describe_tar_files", "list_files"]

ZIP_START = b"PK\x03\x04"
MIN_CACHED = 20_000  # files; smaller sets are listed fast enough
SETTLE_SECONDS = 2.0  # minimum age of the last change for caching: a later one might have the same time stamp
CACHE_VERSION = 14
UTF8_NAME = 0x800  # flag of a zip's member
COUNTS = ("unsafe", "repeated", "other_images", "twins", "decimals")  # of files that the user should know about
LOCATION = np.dtype([("offset", "<i8"), ("stored", "<i8"), ("size", "<i8"), ("crc", "<u4"), ("method", "<u2")])

# ----------------------------------------------------------------------------------------------------------------------
# Listings


@dataclasses.dataclass
class Listing:
    """Frames below a root, by folder.

    Attributes:
        folders: Relative paths ('' for the root) of the folders that hold images, in natural order.
        starts: First index of each folder in `names`, and a last entry for the end.
        names: File names of all frames, folder by folder, in natural order.
        movies: Relative paths of encoded videos, in natural order.
        unsafe: Number of members of a zip that are left out: links, and names that lead out of the zip.
        repeated: Number of members of a zip that are left out because later ones have the same name but other content.
        other_images: Number of files in folders, not in the root, with suffixes of images that are not read.
        twins: Number of frames in folders, not in the root, with the name of another one there, except for the suffix.
        decimals: Number of folders, not the root, with frames named by decimal numbers that are not in their order.
        unread: Number of files of other kinds that may hold videos, such as archives, by their suffix.
        dangling: Relative paths of dangling links in a folder, which may stand for folders.
        locations: Locations of a zip's frames, dtype LOCATION; None for a folder.
        others: Locations of a zip's movies, of the files in its root and of manifests and annotations elsewhere, by
            path.
    """

    folders: StringTable
    starts: np.ndarray
    names: StringTable
    movies: list[str]
    unsafe: int = 0
    repeated: int = 0
    other_images: int = 0
    twins: int = 0
    decimals: int = 0
    unread: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    dangling: list[str] = dataclasses.field(default_factory=list)
    locations: np.ndarray | None = None
    others: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


def list_files(path: str) -> Listing:
    """List a folder or a zip.

    Raises:
        UserError: There is nothing at `path`, or it is neither of the two, or it cannot be read.
    """
    try:
        if os.path.isdir(path):
            return _list_folder(path)
        if path.lower().endswith(".tar"):
            raise UserError(describe_tar_files(path))
        if not os.path.exists(path):
            raise UserError(f"There is no file or folder '{path}': check the path.")
        if os.path.isfile(path):  # a pipe might never end
            if zipfile.is_zipfile(path):
                return _list_zip(path)
            with open(path, "rb") as file:
                if file.read(len(ZIP_START)) == ZIP_START:
                    raise UserError(f"'{path}' is only the first part of a zip file: copy, download or pack it again.")
            if path.lower().endswith(MOVIE_SUFFIXES):
                raise UserError(
                    f"'{path}' is an encoded video: turn it into frames with `python -m training.dataset_tool '{path}' "
                    "OUT` and use OUT."
                )
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"Cannot read '{path}': {error}.") from error
    raise UserError(
        f"'{path}' is neither a folder nor a zip file: give a folder that holds one folder of frames per video, or a "
        "zip of it."
    )


def describe_tar_files(path: str) -> str:
    """One line about shards where folders of frames are needed, or about a folder of them without a manifest."""
    needed = "a folder or zip of frames of the same videos, as `python -m training.dataset_tool SOURCE OUT.zip` makes."
    if not os.path.isdir(path) or os.path.lexists(os.path.join(path, MANIFEST)):
        return f"'{path}': only training reads tar files: give {needed}"
    names = natural_order(name for name in os.listdir(path) if name.endswith(".tar"))
    return (
        f"'{path}' holds tar files but no {MANIFEST} of the dataset tool: for training and --check give their names, "
        f"as '{os.path.join(path, _in_braces(names))}'; for anything else {needed}"
    )


def _in_braces(names: list[str]) -> str:
    """The names of numbered tar files in brace notation; an example of it if they have other names or gaps."""
    found = re.fullmatch(r"(.*?)(\d+)\.tar", names[0])
    if len(names) > 1 and found is not None:
        prefix, first = found.groups()
        numbers = [f"{int(first) + number:0{len(first)}}" for number in range(len(names))]
        if names == [f"{prefix}{number}.tar" for number in numbers]:
            return f"{prefix}{{{first}..{numbers[-1]}}}.tar"
    return names[0] if len(names) == 1 else "NAME-{000000..000010}.tar"


# ----------------------------------------------------------------------------------------------------------------------
# Folders


def _list_folder(root: str) -> Listing:
    packed = _load_cached(root)
    if packed is not None and _folders_unchanged(root, packed):
        return _unpack(packed)
    images, movies, dangling, stamps, others, unread = {}, [], [], {}, 0, collections.Counter()
    todo = [""]
    while todo:
        folder = todo.pop()
        path = os.path.join(root, folder)
        stamps[folder] = _stamp(os.stat(path))  # before the scan, so that later changes are detected
        inside, outside, children, nowhere, rest = _scan(path)
        if inside:
            images[folder] = inside
        movies += [join_path(folder, name) for name in outside]
        others += sum(name.lower().endswith(OTHER_IMAGES) for name in rest) if folder else 0
        unread.update(suffix for name in rest if (suffix := unread_suffix(name)) is not None)
        todo += [join_path(folder, name) for name in children]
        dangling += [join_path(folder, name) for name in nowhere]
    listing = _listing(images, movies=movies)
    listing.dangling, listing.other_images, listing.unread = sorted(dangling, key=path_key), others, unread
    if dangling:  # not cached: no folder here changes when their targets appear
        return listing
    if len(listing.names) >= MIN_CACHED and _settled(max(max(stamp[2:]) for stamp in stamps.values())):
        state = {"stamps": np.array(list(stamps.values()), dtype=np.uint64), **_pack_strings("paths", stamps)}
        _save_cached(root, {**_pack(listing), **state})
    return listing


def _folders_unchanged(root: str, packed: dict[str, np.ndarray]) -> bool:
    if "stamps" not in packed:
        return False
    try:
        now = [_stamp(os.stat(os.path.join(root, path))) for path in _unpack_strings("paths", packed)]
    except OSError:
        return False
    return np.array_equal(np.array(now, dtype=np.uint64), packed["stamps"])


def _scan(path: str) -> tuple[list[str], list[str], list[str], list[str], list[str]]:
    """Names of the images, movies, folders, other dangling links and other files in one folder.

    Follows links, except those in cycles: to a folder on the way here, or to a parent of one.
    """
    images, movies, folders, dangling, others = [], [], [], [], []
    way: list[str] = []  # the folders on the way here, looked up at the first link
    with os.scandir(path) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                continue
            if not _is_folder(entry):
                lower = entry.name.lower()
                if lower.endswith(IMAGE_SUFFIXES):
                    images.append(entry.name)
                elif lower.endswith(MOVIE_SUFFIXES):
                    movies.append(entry.name)
                elif entry.is_symlink() and not os.path.exists(entry.path):
                    dangling.append(entry.name)
                else:
                    others.append(entry.name)
            elif entry.is_symlink():
                way = way or _folders_on_the_way(path)
                target = os.path.realpath(entry.path)
                if not any(os.path.commonpath([target, folder]) == target for folder in way):
                    folders.append(entry.name)
            else:
                folders.append(entry.name)
    return images, movies, folders, dangling, others


def _stamp(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _is_folder(entry: os.DirEntry) -> bool:
    """True for a folder or a link to one; a link that leads back to itself leads nowhere."""
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False


def _folders_on_the_way(path: str) -> list[str]:
    """A folder and its parents on the given path, with links resolved: a link may have led to any of them."""
    parents = Path(os.path.abspath(path)).parents
    return [os.path.realpath(folder) for folder in (path, *parents)]


# ----------------------------------------------------------------------------------------------------------------------
# Zips


def _list_zip(path: str) -> Listing:
    status = os.stat(path)
    stamp = np.array([*_stamp(status), status.st_size], dtype=np.uint64)
    packed = _load_cached(path)
    if packed is not None and np.array_equal(packed.get("stamp"), stamp):
        return _unpack(packed)
    listing = _index_zip(path)
    if len(listing.names) >= MIN_CACHED and _settled(max(stamp[2:4].tolist())):
        _save_cached(path, {**_pack(listing), "stamp": stamp})
    return listing


def _member_name(info: zipfile.ZipInfo) -> str:
    """The name of a member. Info-ZIP, among others, writes UTF-8 without saying so, which zipfile takes for cp437."""
    if not info.flag_bits & UTF8_NAME:
        with contextlib.suppress(UnicodeError):  # names that are cp437 are hardly ever valid UTF-8
            return info.filename.encode("cp437").decode("utf-8")
    return info.filename


def _index_zip(path: str) -> Listing:
    images, others, unsafe, repeated, other_images, unread = {}, {}, 0, 0, 0, collections.Counter()
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = _member_name(info).replace("\\", "/")  # as older tools on Windows write them
            name = re.sub(r"^(\./+)+", "", name)  # which some archivers write before every name
            name = re.sub(r"/+(\./+)*", "/", name) if not name.startswith("/") else name  # 'a//b', 'a/./b'
            if name.endswith("/"):
                continue
            if not _is_safe(name) or stat.S_ISLNK(info.external_attr >> 16):
                unsafe += 1
                continue
            if any(map(is_hidden, name.split("/"))):
                continue
            folder, _, base = name.rpartition("/")
            where = (info.header_offset, info.compress_size, info.file_size, info.CRC, _method(info))
            if (suffix := unread_suffix(base)) is not None:
                unread[suffix] += 1
            if name.lower().endswith(IMAGE_SUFFIXES):
                places, key = images.setdefault(folder, {}), base
            elif not folder or name.lower().endswith(MOVIE_SUFFIXES) or base in (MANIFEST, ANNOTATIONS):
                places, key = others, name
            else:
                other_images += bool(folder) and name.lower().endswith(OTHER_IMAGES)
                continue
            earlier = places.get(key, where)
            repeated += earlier[2:4] != where[2:4]  # sizes and checksums
            places[key] = where  # unpacked, the last one would replace the others, too
    listing = _listing(images, movies=[name for name in others if name.lower().endswith(MOVIE_SUFFIXES)])
    bounds = listing.starts.tolist()
    located = [
        images[folder][listing.names[index]]
        for folder, start, end in zip(listing.folders, bounds, bounds[1:])
        for index in range(start, end)
    ]
    listing.locations = np.array(located, dtype=LOCATION)
    unreadable = int((~np.isin(listing.locations["method"], (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))).sum())
    if unreadable:
        raise UserError(
            f"{unreadable} of {len(located)} images in '{path}' are encrypted, or compressed in another way than "
            "deflate: pack them again, e.g. with zip -0."
        )
    listing.others = {name: np.array(where, dtype=LOCATION)[()] for name, where in others.items()}
    listing.unsafe, listing.repeated, listing.other_images, listing.unread = unsafe, repeated, other_images, unread
    return listing


def _is_safe(name: str) -> bool:
    """True if a zip member's name is a plain relative path; a colon is a character like others."""
    return not any(part in ("", "..") for part in name.split("/"))


def _method(info: zipfile.ZipInfo) -> int:
    return 0xFFFF if info.flag_bits & 1 else info.compress_type  # encrypted


# ----------------------------------------------------------------------------------------------------------------------
# Cached indices


def _listing(images: dict[str, Iterable[str]], *, movies: list[str]) -> Listing:
    folders = sorted(images, key=path_key)
    names = [natural_order(images[folder]) for folder in folders]
    counts = np.array([len(inside) for inside in names], dtype=np.int64)
    return Listing(
        folders=StringTable.of(folders),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        names=StringTable.of(name for inside in names for name in inside),
        movies=sorted(movies, key=path_key),
        twins=sum(_count_twins(inside) for folder, inside in zip(folders, names) if folder),
        decimals=sum(disordered_decimals(inside) is not None for folder, inside in zip(folders, names) if folder),
    )


def _count_twins(names: Collection[str]) -> int:
    """Number of names that differ from an earlier one in nothing but the suffix."""
    return len(names) - len({os.path.splitext(name)[0] for name in names})


def _pack(listing: Listing) -> dict[str, np.ndarray]:
    packed = {"starts": listing.starts}
    packed |= {key: np.array(getattr(listing, key)) for key in COUNTS}
    packed["unread_counts"] = np.array(list(listing.unread.values()), dtype=np.int64)
    for key in ("folders", "names", "movies", "unread", "others"):
        packed.update(_pack_strings(key, getattr(listing, key)))
    packed["other_locations"] = np.array(list(listing.others.values()), dtype=LOCATION)
    if listing.locations is not None:
        packed["locations"] = listing.locations
    return packed


def _unpack(packed: dict[str, np.ndarray]) -> Listing:
    others = zip(_unpack_strings("others", packed), packed["other_locations"])
    return Listing(
        folders=_unpack_strings("folders", packed),
        starts=packed["starts"],
        names=_unpack_strings("names", packed),
        movies=list(_unpack_strings("movies", packed)),
        unread=collections.Counter(dict(zip(_unpack_strings("unread", packed), packed["unread_counts"].tolist()))),
        locations=packed.get("locations"),
        others=dict(others),
        **{key: int(packed[key]) for key in COUNTS},
    )


def _settled(nanoseconds: int) -> bool:
    """True if a change at that time is old enough for any later one to have another time stamp."""
    return nanoseconds <= (time.time() - SETTLE_SECONDS) * 1e9


def _pack_strings(key: str, strings: StringTable | Iterable[str]) -> dict[str, np.ndarray]:
    table = strings if isinstance(strings, StringTable) else StringTable.of(strings)
    return {f"{key}_blob": table.blob, f"{key}_ends": table.ends}


def _unpack_strings(key: str, packed: dict[str, np.ndarray]) -> StringTable:
    return StringTable(packed[f"{key}_blob"], packed[f"{key}_ends"])


def _cache_file(path: str) -> Path:
    digest = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()
    return cache_folder("listings", f"{digest[:32]}.npz")


def _save_cached(path: str, packed: dict[str, np.ndarray]) -> None:
    """Cache an index; if that fails, the next process lists again."""
    file = _cache_file(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as stream:
            np.savez(stream, version=np.array(_version()), **packed)
    except (OSError, UserError):
        pass


def _load_cached(path: str) -> dict[str, np.ndarray] | None:
    try:
        with np.load(_cache_file(path), allow_pickle=False) as file:
            packed = {key: file[key] for key in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    complete = {"version", "starts", "names_ends", "other_locations"} <= packed.keys()
    return packed if complete and str(packed["version"]) == _version() else None


def _version() -> str:
    """Hash of the format of cached indices and of the rules by which files are listed."""
    rules = (CACHE_VERSION, IMAGE_SUFFIXES, OTHER_IMAGES, MOVIE_SUFFIXES, sorted(COMPANIONS), sorted(SYSTEM_FOLDERS))
    return hashlib.sha256(repr(rules).encode()).hexdigest()
