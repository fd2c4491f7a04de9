"""Cache folders, file hashes, and atomic downloads."""

import hashlib
import http.client
import os
import stat
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from dnnlib.text import UserError, one_line
from dnnlib.util import atomic_write, expand_home, home_folder, remove_abandoned, temporary_folder

__all__ = ["absolute_setting", "cache_folder", "fetch", "git_blob_id", "make_cache_folder", "sha256_of"]

PROGRAM = "video-3d-gan"
CACHE_VARIABLE = "XDG_CACHE_HOME"

BLOCK = 1 << 20
TIMEOUT = 30  # seconds without a response
RESERVED = "%/:=&?~#+!$,;'@()*[]"  # characters of an address that are not encoded


def cache_folder(*parts: str) -> Path:
    """Folder of all caches, for files that can be made or downloaded again.

    `video-3d-gan` in $XDG_CACHE_HOME, else in ~/.cache; without a writable home folder, a private folder of this user
    among the temporary files.

    Returns:
        An absolute path; the folder need not exist, and may be read-only.

    Raises:
        UserError: $XDG_CACHE_HOME is not an absolute path, or there is no place for a cache.
    """
    base = os.environ.get(CACHE_VARIABLE)
    if base:
        return Path(absolute_setting(CACHE_VARIABLE, base), PROGRAM, *parts)
    home = home_folder()
    if home is not None and os.path.isdir(home):
        folder = Path(home, ".cache", PROGRAM)
        existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))
        # An existing cache is used even if it is read-only: it may have been filled in advance.
        wanted = os.R_OK if existing == folder else os.W_OK
        if existing.is_dir() and os.access(existing, wanted | os.X_OK):
            return folder.joinpath(*parts)
    return _temporary_cache().joinpath(*parts)


def absolute_setting(variable: str, value: str) -> str:
    """The folder that an environment variable names, a leading `~` expanded.

    Raises:
        UserError: The path is relative and would depend on the working folder.
    """
    path = expand_home(value, name=f"{variable}=")
    if not os.path.isabs(path):
        raise UserError(f"{variable}={value} is not an absolute path: give one that starts with /, like /var/cache.")
    return path


def _temporary_cache() -> Path:
    """A private cache among the temporary files, which is created: it holds libraries that will be executed."""
    advice = f"set {CACHE_VARIABLE} to a folder that can be written to"
    try:
        folder = Path(temporary_folder(), f"{PROGRAM}-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except (OSError, UserError) as error:
        raise UserError(
            f"There is no place for a cache, neither a home folder nor a folder for temporary files: {advice}."
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise UserError(f"There is no home folder for a cache, and others may have changed {folder}: {advice}.")
    return folder


def make_cache_folder(folder: str | os.PathLike, *, instead: str = "") -> None:
    """Create a cache folder that is going to be written to, and clear it of what killed processes have left.

    Args:
        instead: Alternative to setting $XDG_CACHE_HOME, for the message, e.g. 'give --cache'.

    Raises:
        UserError: It cannot be created or written to.
    """
    reason = None
    try:
        os.makedirs(folder, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            reason = "it cannot be written to"
    except OSError as error:
        reason = error.strerror
    remove_abandoned(folder)
    if reason is not None:
        choice = f"{instead}, or set" if instead else "set"
        raise UserError(
            f"Cannot use the cache folder {os.fspath(folder)} ({reason}): {choice} {CACHE_VARIABLE} to a folder that "
            "can be written to."
        )


def sha256_of(path: str | os.PathLike) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    return _hash(path, hashlib.sha256())


def git_blob_id(path: str | os.PathLike) -> str:
    """Git's blob id of a file's content: SHA-1 of 'blob <size>', a zero byte, and the content."""
    return _hash(path, hashlib.sha1(b"blob %d\0" % os.path.getsize(path), usedforsecurity=False))


def _hash(path: str | os.PathLike, state) -> str:
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            state.update(block)
    return state.hexdigest()


def fetch(url: str, path: Path, *, check: Callable[[Path], None]) -> None:
    """Download a file to `path`, which appears only when it is complete and has passed `check`.

    Args:
        url: Address of the file; spaces and letters beyond ASCII are encoded.
        path: Path to write; its folder is created.
        check: Called with the path of the complete download; raises an error if it is not the right file.

    Raises:
        UserError: The file cannot be downloaded or written.
    """
    from tqdm import tqdm

    partial = path.with_name(f".{path.name}.{os.getpid()}.download")
    make_cache_folder(path.parent)
    try:
        address = urllib.parse.quote(url, safe=RESERVED)
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer, atomic_write(partial) as file:
            size = int(answer.headers.get("Content-Length") or 0) or None
            with tqdm(total=size, unit="B", unit_scale=True, desc=path.name, disable=None) as bar:
                while block := answer.read(BLOCK):
                    file.write(block)
                    bar.update(len(block))
            # Python takes a broken connection for the end of the file.
            if size is not None and file.tell() != size:
                raise OSError(f"the connection broke off after {file.tell()} of {size} bytes; try again")
        check(partial)
        os.replace(partial, path)
    except UserError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:  # from the system, the response, or the address
        reason = one_line(getattr(error, "reason", None) or error)[:300].rstrip(".")
        raise UserError(f"Cannot download {url} to {path}: {reason}.") from error
    finally:
        partial.unlink(missing_ok=True)
