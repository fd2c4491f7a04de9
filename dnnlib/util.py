"""Atomic file writing, locks and folders, the program ffmpeg, and ports to listen on."""

import contextlib
import errno
import fcntl
import functools
import hashlib
import io
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from dnnlib.text import UserError, one_line

__all__ = [
    "append_line",
    "atomic_write",
    "exclusive_lock",
    "expand_home",
    "explain_file_trouble",
    "file_identity",
    "find_ffmpeg",
    "home_folder",
    "link_or_copy",
    "listening_port",
    "made_folder",
    "output_folder",
    "remove_abandoned",
    "require_utf8",
    "short_name",
    "temporary",
    "temporary_folder",
    "temporary_name",
]

T = TypeVar("T")

NO_TEMPORARY_FOLDER = (
    "There is no folder for temporary files that can be written to (tried: $TMPDIR, /tmp, /var/tmp, /usr/tmp and the "
    "working folder); set TMPDIR to one."
)
UNFINISHED = re.compile(r"\..+\.\d+(-[0-9a-f]+)?\.(tmp|download)")  # of atomic_write, link_or_copy and downloads
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # on the disk, in the user's quota, below the limit of a file
MORE_FILES = "raise the limit of this user (ulimit -n)"  # of files that a process has open
LONG_NAME = 200  # bytes; file systems take 255, with the additions of hidden names
DAY = 86400  # seconds


# ----------------------------------------------------------------------------------------------------------------------
# Files


class _Unfinished(io.FileIO):
    """File to be written whose errors have its name; the system knows only the descriptor of an open file."""

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = self.name
            raise

    def write(self, data: Any) -> int:
        with self._named():
            return super().write(data)

    def sync(self) -> None:
        """Flush the content to disk."""
        with self._named():
            os.fsync(self.fileno())

    def close(self) -> None:
        with self._named():
            super().close()


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO[Any]]:
    """Write a file atomically: `path` holds either its previous or all of its new content, whatever happens.

    The content goes to a temporary name in the same folder (a rename is atomic only within one file system), is
    flushed to disk and renamed; then the folder, which holds the name, is flushed too. If the block raises, the
    temporary file is removed and `path` is left as it was.

    Args:
        path: The file to write; its folder must exist.
        mode: 'wb', or 'w' for UTF-8. Characters that it lacks (e.g. a lone surrogate in a file's name) are written as
            an escape like \\udce9, which is valid JSON.

    Raises:
        UserError: The folder is missing or may not be written to, or the disk is full or fails; names `path`.
    """
    if mode not in ("wb", "w"):
        raise ValueError(f"atomic_write writes whole files: mode must be 'wb' or 'w', got '{mode}'.")
    path = os.path.abspath(os.fspath(path))
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise UserError(f"Cannot write {path}: it is a pipe or a device, which a file would replace; name a file.")
    folder = os.path.dirname(path)
    temporary = temporary_name(path)
    try:
        # Unlike tempfile's, this file gets the permissions that the user's umask asks for.
        raw = _Unfinished(temporary, "x")
        binary = io.BufferedWriter(raw)
        text = {"encoding": "utf-8", "errors": "backslashreplace", "newline": "\n"}
        with binary if mode == "wb" else io.TextIOWrapper(binary, **text) as file:
            yield file
            file.flush()
            raw.sync()
        os.replace(temporary, path)
        _sync_folder(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        reason = _file_trouble(error, temporary)
        if reason is None:
            raise
        raise UserError(f"Cannot write {path}: {reason}") from error


def append_line(path: str | os.PathLike, line: str) -> None:
    """Append a line to a text file, all of it or nothing, and on a line of its own even after a truncated one.

    Args:
        line: Without its line break. Lone surrogates become escapes like \\udce9, which are valid JSON.

    Raises:
        OSError: The file cannot be written.
    """
    data = line.encode(errors="backslashreplace") + b"\n"
    with open(path, "a+b", buffering=0) as file:
        length = file.seek(0, os.SEEK_END)
        if length > 0:
            file.seek(-1, os.SEEK_END)
            data = data if file.read(1) == b"\n" else b"\n" + data
        try:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]  # where the disk is nearly full, the system takes only a part
        except BaseException:  # Ctrl-C as well
            with contextlib.suppress(OSError):
                file.truncate(length)
            raise


def link_or_copy(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Make `target` a second name of the file `source`, or a copy of it where the file system has no hard links.

    `target` holds either its previous or all of its new content, whatever happens. A copy is also made beyond the
    largest number of links to a file (65,000 on ext4).

    Raises:
        OSError: `source` cannot be read.
        UserError: `target` cannot be written; see `atomic_write`.
    """
    link = temporary_name(target)
    try:
        os.link(source, link)
        os.replace(link, target)
    except OSError:
        with open(source, "rb") as content, atomic_write(target) as file:
            shutil.copyfileobj(content, file)
    finally:  # it is still there if the rename failed, or if both were names of one file already
        with contextlib.suppress(OSError):
            os.unlink(link)


@contextlib.contextmanager
def exclusive_lock(path: str | os.PathLike, *, busy: str | None = None) -> Iterator[bool]:
    """Hold a lock on a file or folder while the block runs; the system releases it however the process ends.

    Some network file systems have no locks: there the block runs without one.

    Args:
        path: A folder, which leaves no lock file behind, or a file; it must exist.
        busy: The error's message if another process holds the lock; None: wait for it.

    Yields:
        True if the lock is held.

    Raises:
        UserError: Another process holds the lock, and `busy` is given.
        OSError: The path cannot be opened.
    """
    with _lock(path, fcntl.LOCK_EX, busy) as held:
        yield held


@contextlib.contextmanager
def _lock(path: str | os.PathLike, operation: int, busy: str | None) -> Iterator[bool]:
    """`exclusive_lock`, or with LOCK_SH a lock that several processes may share, but none with an exclusive one."""
    try:
        descriptor = os.open(path, os.O_RDWR)  # NFS locks only files that may be written to
    except IsADirectoryError:
        descriptor = os.open(path, os.O_RDONLY)
    _locks.add(descriptor)
    try:
        held = True
        try:
            fcntl.flock(descriptor, operation | (fcntl.LOCK_NB if busy is not None else 0))
        except BlockingIOError as error:
            raise UserError(busy) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            held = False
        yield held
    finally:
        if descriptor in _locks:  # not in a process forked meanwhile
            _locks.remove(descriptor)
            os.close(descriptor)


_locks: set[int] = set()  # open descriptors of _lock


def _close_locks() -> None:
    """Close locks in a forked process, for instance a data worker, which would keep those of its dead parent."""
    while _locks:
        os.close(_locks.pop())


os.register_at_fork(after_in_child=_close_locks)


@contextlib.contextmanager
def explain_file_trouble(path: str | os.PathLike) -> Iterator[None]:
    """Turn an OSError while a file is written into a one-line UserError.

    Raises:
        UserError: The block raised an OSError; names `path`.
    """
    try:
        yield
    except OSError as error:
        advice = "check that the folder exists and may be written to"
        if error.errno in NO_SPACE:
            advice = "free some space"
        elif error.errno == errno.EMFILE:
            advice = MORE_FILES
        raise UserError(f"Cannot write {os.fspath(path)}: {error.strerror or error}; {advice}.") from error


@contextlib.contextmanager
def made_folder(path: str | os.PathLike) -> Iterator[None]:
    """Make a folder while the block runs, unless it exists; of the folders made, empty ones are removed afterwards.

    Those that another process has locked stay.

    Raises:
        OSError: It cannot be made.
    """
    folder = Path(path).absolute()
    made = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    try:
        os.makedirs(folder, exist_ok=True)
        yield
    finally:
        for place in made:
            with contextlib.suppress(OSError, UserError):  # it is not empty, in use, or gone
                with exclusive_lock(place, busy="in use"):
                    os.rmdir(place)


@contextlib.contextmanager
def output_folder(path: str | os.PathLike) -> Iterator[None]:
    """`made_folder` for the folder that the option --outdir of a command names.

    Several commands may write there. An empty folder is locked, so that it stays when the one that made it fails.

    Raises:
        UserError: It cannot be made, or not be written to.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(made_folder(path))
        except OSError as error:
            raise UserError(f"--outdir: cannot make the folder {os.fspath(path)}: {error.strerror}.") from error
        if not os.access(path, os.W_OK | os.X_OK):
            raise UserError(f"--outdir: no permission to write in {os.fspath(path)}.")
        with contextlib.suppress(OSError, UserError):
            if not os.listdir(path):  # a training that is continued in a folder needs its lock alone
                stack.enter_context(_lock(path, fcntl.LOCK_SH, "in use"))
        yield


def file_identity(path: str | os.PathLike) -> tuple[int, ...] | None:
    """Tells a file from another one that replaces it: device, inode, size and time; None if it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def home_folder() -> str | None:
    """The user's home as an absolute path: $HOME, or that of the password database; None without either.

    The user need not be in the database: containers may run under any user id.
    """
    home = os.environ.get("HOME", "")
    if not os.path.isabs(home):  # with an empty one, os.path.expanduser would return paths in the working folder
        try:
            import pwd

            home = pwd.getpwuid(os.getuid()).pw_dir
        except (ImportError, KeyError):
            return None
    return home if os.path.isabs(home) else None


def expand_home(path: str | os.PathLike, *, name: str) -> str:
    """The path with a leading `~` or `~user` replaced by the home folder.

    Args:
        name: Name in the error message, e.g. 'outdir='.

    Raises:
        UserError: The path starts with `~` and there is no home folder; or it is too long for a file name.
    """
    path = os.fspath(path)
    refuse_long_name(path, name=name)
    if not re.match(r"~(/|$)", path):
        return os.path.expanduser(path)
    home = home_folder()
    if home is None:
        raise UserError(f"{name}{path}: this user has no home folder (HOME is not set); write the whole path.")
    return home.rstrip("/") + path[1:] or "/"


def refuse_long_name(path: str, *, name: str) -> None:
    """Refuse a path that is too long for the system.

    Args:
        name: Before the path in the error message, e.g. 'outdir='.

    Raises:
        UserError: It is.
    """
    if "://" in path or "{" in path:  # web addresses, and the many paths that braces stand for
        return
    try:
        os.lstat(path)
    except OSError as error:
        too_long = any(len(os.fsencode(part)) > 255 for part in path.split(os.sep))  # also below a folder to be made
        if too_long or error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{name}{path[:60]}… is too long for the name of a file or folder.") from error


def temporary_folder() -> str:
    """The system's folder for temporary files.

    Raises:
        UserError: None of the usual folders can be written to.
    """
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        raise UserError(NO_TEMPORARY_FOLDER) from error


def temporary(make: Callable[..., T], *, dir: str | None = None, **options: Any) -> T:
    """A temporary file or folder: the result of a function of `tempfile`, such as TemporaryDirectory.

    Args:
        dir: Where; None for the system's folder for temporary files.

    Raises:
        UserError: There is no folder for temporary files, or it is gone by now, full, or cannot be written to.
    """
    folder = dir or temporary_folder()
    try:
        return make(dir=folder, **options)
    except OSError as error:
        advice = "set TMPDIR to a folder that can be written to"
        if error.errno == errno.EMFILE:
            advice = MORE_FILES
        raise UserError(f"Cannot make a temporary file in {folder}: {error.strerror or error}; {advice}.") from error


def short_name(name: str) -> str:
    """A file name that leaves space for additions: names have at most 255 bytes. Long ones end with a digest."""
    data = os.fsencode(name)
    if len(data) <= LONG_NAME:
        return name
    digest = hashlib.sha256(data).hexdigest()[:16]
    return f"{data[: LONG_NAME - 17].decode(errors='ignore')}-{digest}"  # without half a character


def temporary_name(path: str | os.PathLike) -> str:
    """A hidden name in the same folder that no other file has."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(folder, f".{short_name(name)}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def require_utf8(path: str | os.PathLike) -> None:
    """Refuse a path that libraries cannot open (PyTorch, safetensors), which take only valid UTF-8.

    Raises:
        UserError: It has other bytes.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{os.fspath(path)} cannot be read: the path is not valid UTF-8; rename it.") from error


def remove_abandoned(folder: str | os.PathLike) -> None:
    """Delete unfinished files and folders that killed processes have left in a folder that several may write to.

    Those written to within a day stay: their process may still run, possibly on another machine.
    """
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if UNFINISHED.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > DAY:
                        shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)


def _sync_folder(folder: str) -> None:
    """Flush a folder's entries, on systems where folders can be opened and flushed."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _file_trouble(error: BaseException, temporary: str) -> str | None:
    """Explanation of an error while writing `temporary`; None if it is not about that file."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:  # libraries wrap the system's error in their own
        seen.add(id(cause))
        if isinstance(cause, OSError):
            if cause.errno in NO_SPACE:
                return f"there is no space left ({os.strerror(cause.errno)}); free some or choose another folder."
            if cause.filename == temporary:
                return f"{os.strerror(cause.errno or errno.EIO)}; check that the folder exists and may be written to."
        cause = cause.__cause__ or cause.__context__
    return None


def find_ffmpeg() -> str:
    """The program that reads and writes videos: that of imageio-ffmpeg, or the one named by IMAGEIO_FFMPEG_EXE.

    Raises:
        UserError: There is none, or the named one cannot be started.
    """
    try:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise UserError(f"There is no ffmpeg: install imageio-ffmpeg ({one_line(error)}).") from error
    # imageio-ffmpeg tries its own program, but takes the other one's name as it is.
    reason = _start_trouble(program) if os.environ.get("IMAGEIO_FFMPEG_EXE") else None
    if reason is not None:
        raise UserError(f"Cannot start ffmpeg, '{program}' ({reason}): check or unset IMAGEIO_FFMPEG_EXE.")
    return program


@functools.cache
def _start_trouble(program: str) -> str | None:
    """The reason why ffmpeg cannot be started; None if it can."""
    nothing = subprocess.DEVNULL
    try:
        code = subprocess.run([program, "-version"], stdin=nothing, stdout=nothing, stderr=nothing).returncode
    except OSError as error:
        return error.strerror
    return f"code {code}" if code else None  # libraries are missing, for instance


def listening_port(host: str, port: int) -> int:
    """The port that a server can listen on: the given one, or for 0 any free one.

    Checked beforehand, because web servers try for ever where there is no such address, or silently take another port.

    Raises:
        UserError: The address cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
            return probe.getsockname()[1]
    except (OSError, UnicodeError) as error:  # UnicodeError: a part of the name is empty or too long
        reason = error.strerror if isinstance(error, OSError) else "it is not a host name"
        raise UserError(f"Cannot listen on {host}, port {port}: {reason}; choose another --port or --host.") from error
