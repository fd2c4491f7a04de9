"""Files from the internet: where they are kept, what identifies them, and fetching them whole or not at all."""

import hashlib
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path

from dnnlib.util import UserError, atomic_write

__all__ = ["cache_folder", "fetch", "git_blob_id", "sha256_of"]

BLOCK = 1 << 20
TIMEOUT = 30  # seconds without an answer


def cache_folder(*parts: str) -> Path:
    """Where this program keeps what it can make or fetch again: a folder in the user's cache ($XDG_CACHE_HOME)."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base, "video-3d-gan", *parts)


def sha256_of(path: str | os.PathLike) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    return _hash(path, hashlib.sha256())


def git_blob_id(path: str | os.PathLike) -> str:
    """The name that git gives to a file's content: SHA-1 of 'blob <size>', a zero byte, and the content."""
    return _hash(path, hashlib.sha1(b"blob %d\0" % os.path.getsize(path), usedforsecurity=False))


def _hash(path: str | os.PathLike, state) -> str:
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            state.update(block)
    return state.hexdigest()


def fetch(url: str, path: Path, *, check: Callable[[Path], None]) -> None:
    """Download a file to `path`, which comes into being only when it is complete and `check` does not object.

    Args:
        url: Where it is.
        path: The file; its folder is made.
        check: Called with the path of the complete download; raises what it objects to.

    Raises:
        UserError: It cannot be fetched or written.
    """
    from tqdm import tqdm

    partial = path.with_name(f".{path.name}.{os.getpid()}.download")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, atomic_write(partial) as file:
            size = int(answer.headers.get("Content-Length") or 0) or None
            with tqdm(total=size, unit="B", unit_scale=True, desc=path.name, disable=None) as bar:
                while block := answer.read(BLOCK):
                    file.write(block)
                    bar.update(len(block))
        check(partial)
        os.replace(partial, path)
    except OSError as error:  # urllib's errors are of this kind
        raise UserError(f"Cannot download {url} to {path}: {getattr(error, 'reason', None) or error}.") from error
    finally:
        partial.unlink(missing_ok=True)
