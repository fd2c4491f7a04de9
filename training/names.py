"""Names of files: their natural order, and many of them in little memory."""

import posixpath
import re
from collections.abc import Iterable, Iterator

import numpy as np

__all__ = ["StringTable", "listed_path", "natural_key", "natural_order", "path_key"]

DIGITS = str.maketrans("123456789", "0" * 9)


def natural_key(name: str) -> tuple:
    """Sorting key that takes numbers as numbers: 'f2' before 'f10'. For zero-padded names it is the plain order."""
    parts = re.split("([0-9]+)", name)
    parts[1::2] = map(int, parts[1::2])
    return parts, name  # the name itself decides between 'f1' and 'f01'


def natural_order(names: Iterable[str]) -> list[str]:
    """Names sorted by natural_key."""
    names = list(names)
    if len({name.translate(DIGITS) for name in names}) <= 1:  # zero-padded: the quick way to the same order
        return sorted(names)
    return sorted(names, key=natural_key)


def path_key(path: str) -> tuple:
    """Sorting key of a path: folder by folder."""
    return tuple(natural_key(part) for part in path.split("/"))


def listed_path(path: object) -> str:
    """A path that a file lists, in the one form in which such paths are compared: a/b for ./a/b, a//b and a\\b."""
    return posixpath.normpath(str(path).replace("\\", "/"))


class StringTable:
    """Many short texts in two arrays, which processes share instead of copying them object by object."""

    def __init__(self, blob: np.ndarray, ends: np.ndarray):
        self.blob = blob  # uint8, all texts in UTF-8, one after another
        self.ends = ends  # int64, where each one ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> "StringTable":
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), np.cumsum(lengths))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = int(self.ends[index - 1]) if index else 0
        return self.blob[start : int(self.ends[index])].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))
