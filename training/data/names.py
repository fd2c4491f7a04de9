"""Names of files in datasets: suffixes, natural order, normalised paths, and their compact storage."""

import itertools
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

__all__ = [
    "ANNOTATIONS",
    "ARCHIVES",
    "COMPANIONS",
    "IMAGE_SUFFIXES",
    "MANIFEST",
    "MOVIE_SUFFIXES",
    "OTHER_IMAGES",
    "RUN_OPTIONS",
    "SYSTEM_FOLDERS",
    "StringTable",
    "disordered_decimals",
    "is_hidden",
    "join_path",
    "listed_path",
    "natural_key",
    "natural_order",
    "path_key",
    "unread_suffix",
]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
# Images that are not read as frames; only counted, so that they are not left out in silence.
OTHER_IMAGES = (".avif", ".heic", ".heif", ".jfif", ".jpe", ".jp2", ".jxl", ".pgm", ".pnm", ".ppm", ".tga")
MOVIE_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".ts"),
    *(".ogv", ".3gp", ".y4m", ".gif", ".mts", ".m2ts", ".vob", ".mxf", ".asf"),
    *(".m1v", ".m2v", ".m2p", ".m2t", ".mpe", ".mpv", ".mod", ".tod", ".3g2", ".f4v", ".qt", ".mj2", ".ogm", ".divx"),
    *(".xvid", ".dv", ".rm", ".rmvb", ".h264", ".264", ".h265", ".265", ".hevc", ".ivf", ".nut", ".wtv"),
    *(".mjpeg", ".mjpg"),
)
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
# Other files that normally lie beside videos or frames, by their suffix, or by their name if they have none: texts,
# subtitles, sound, tables and arrays.
COMPANIONS = frozenset(
    (*(".txt", ".md", ".rst", ".html", ".pdf", ".log", ".json", ".jsonl", ".yaml", ".yml", ".xml", ".csv", ".tsv"),
     *(".srt", ".vtt", ".ass", ".sub", ".idx", ".nfo", ".ini", ".db", ".url", ".py", ".sh", ".md5", ".sha256"),
     *(".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".opus", ".wma", ".thm", ".pts", ".flo", ".exr", ".ply"),
     *(".npy", ".npz", ".pkl", ".pt", ".pth", ".mat", ".h5", ".hdf5", ".safetensors", ".sha1", ".sha512"),
     *("readme", "license", "licence", "copying", "copyright", "notice", "authors", "changelog", "changes", "citation"),
     *("version", "makefile", "dockerfile", "checksums", "md5sums", "sha1sums", "sha256sums", "sha512sums"))
)  # fmt: skip
KNOWN = COMPANIONS.union(IMAGE_SUFFIXES, OTHER_IMAGES, MOVIE_SUFFIXES)

MANIFEST = "manifest.json"  # of the dataset tool
ANNOTATIONS = "dataset.json"  # labels and cameras
RUN_OPTIONS = "training_options.yaml"  # of every run folder, which is no dataset

# Folders that systems make beside data: thumbnails, which are images, deleted files, and what only root may read.
SYSTEM_FOLDERS = frozenset(
    ("@eaDir", "#recycle", "@Recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information", "lost+found")
)

DIGITS = str.maketrans("123456789", "0" * 9)
# The last number in the name of a frame without its suffix. A sign belongs to it unless it joins it to a word: f-0.5.
DECIMAL = re.compile(
    r"(?P<before>.*?)(?P<number>((?<![^_= ])[-+])?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?)(?P<after>[^0-9]*)", re.DOTALL
)


def natural_key(name: str) -> tuple:
    """Natural sorting key, by the values of numbers: 'f2' before 'f10'. Zero-padded names keep their plain order."""
    parts = re.split("([0-9]+)", name)
    digits = [part.lstrip("0") for part in parts[1::2]]
    parts[1::2] = [(len(number), number) for number in digits]  # sorts like int, which refuses more than 4300 digits
    return parts, name  # the name itself decides between 'f1' and 'f01'


def natural_order(names: Iterable[str]) -> list[str]:
    """Names sorted by natural_key."""
    names = list(names)
    if len({name.translate(DIGITS) for name in names}) <= 1:  # zero-padded: plain sorting gives the same order, faster
        return sorted(names)
    return sorted(names, key=natural_key)


def disordered_decimals(names: Sequence[str]) -> tuple[str, str] | None:
    """Two successive frames of a video whose names have decimal numbers that are not in increasing order; else None.

    In natural order 0.21 precedes 0.105, and 0.25 precedes -0.5: the numbers may be those of a section and a frame. But
    as times, written with as many decimals as each has, they are out of order. Of the names, the largest group that
    differs in the number alone is compared, if it is more than half of them.
    """
    if "".join(names).count(".") <= len(names):  # no dots but those of the suffixes
        return None
    groups: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for name in names:
        if match := DECIMAL.fullmatch(name.rpartition(".")[0]):
            groups.setdefault((match["before"], match["after"]), []).append((name, float(match["number"])))
    largest = max(groups.values(), key=len, default=[])
    if 2 * len(largest) <= len(names):
        return None
    return next(((a, b) for (a, earlier), (b, later) in itertools.pairwise(largest) if earlier > later), None)


def is_hidden(name: str) -> bool:
    """True for names of files and folders that are not data: those with a leading dot, and folders of the system."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def unread_suffix(name: str) -> str | None:
    """The suffix of a file that is neither read nor a usual companion, '' for one without; None for all others."""
    name = name.lower()
    suffix = posixpath.splitext(name)[1]
    return None if (suffix or name) in KNOWN else suffix


def path_key(path: str) -> tuple:
    """Natural sorting key of a path, folder by folder."""
    return tuple(natural_key(part) for part in path.split("/"))


def listed_path(path: object) -> str:
    """Normalised form of a path listed in a file, for comparison: a/b for ./a/b, a//b and a\\b.

    Accented letters become one character (NFC): some file systems and archivers write them as two.
    """
    return unicodedata.normalize("NFC", posixpath.normpath(str(path).replace("\\", "/")))


def join_path(*parts: str) -> str:
    """A path within a store, with forward slashes; empty parts are left out."""
    return "/".join(part for part in parts if part)


class StringTable:
    """Many short strings in two arrays, which processes share instead of copying them object by object."""

    def __init__(self, blob: np.ndarray, ends: np.ndarray):
        self.blob = blob  # uint8, all strings in UTF-8, one after another
        self.ends = ends  # int64, end of each string

    @classmethod
    def of(cls, strings: Iterable[str]) -> "StringTable":
        encoded = [string.encode("utf-8", "surrogateescape") for string in strings]
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), np.cumsum(lengths))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = int(self.ends[index - 1]) if index else 0
        return self.blob[start : int(self.ends[index])].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))
