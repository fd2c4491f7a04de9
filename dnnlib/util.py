"""Errors for users, atomic file writing, and text formatting."""

import contextlib
import difflib
import errno
import getpass
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from dnnlib.processes import Ended, keep_streams, signals_end

__all__ = [
    "UserError",
    "atomic_write",
    "choices_hint",
    "expand_home",
    "explain_file_trouble",
    "format_bytes",
    "format_time",
    "home_folder",
    "nearest_name",
    "one_line",
    "parse_int_list",
    "print_any_text",
    "run_cli",
    "temporary_folder",
]

MAX_LIST_LENGTH = 1_000_000  # a mistyped range must not fill the memory

NO_TEMPORARY_FOLDER = (
    "There is no folder for temporary files that can be written to (tried: $TMPDIR, /tmp, /var/tmp, /usr/tmp and the "
    "working folder); set TMPDIR to one."
)
TORCH_CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
FEW = 8  # names that a message can hold


class UserError(ValueError):
    """Error caused by the user: one line with what is wrong, where, and what to do about it."""


# ----------------------------------------------------------------------------------------------------------------------
# Files


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb", *, encoding: str | None = None) -> Iterator[IO[Any]]:
    """Write a file atomically: `path` holds either its previous or all of its new content, whatever happens.

    The content goes to a temporary name in the same folder (a rename is atomic only within one file system), is
    flushed to the disk and renamed; then the folder is flushed too, because the rename lives there. If the block
    raises, the temporary file is removed and `path` is left as it was.

    Args:
        path: The file to write; its folder must exist.
        mode: 'wb' or 'w'.
        encoding: Of a text file; default UTF-8. Characters that it lacks (e.g. a lone surrogate in a file's name) are
            written as an escape like \\udce9, which is valid JSON.

    Raises:
        UserError: The folder is missing or may not be written to, or the disk is full; names `path`.
    """
    if mode not in ("wb", "w"):
        raise ValueError(f"atomic_write writes whole files: mode must be 'wb' or 'w', got '{mode}'.")
    path = os.path.abspath(os.fspath(path))
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name[:200]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    text = {} if mode == "wb" else {"encoding": encoding or "utf-8", "errors": "backslashreplace", "newline": "\n"}
    try:
        # Unlike tempfile's, this file gets the permissions that the user's umask asks for.
        with open(temporary, mode.replace("w", "x"), **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        reason = _file_trouble(error, temporary)
        if reason is None:
            raise
        raise UserError(f"Cannot write {path}: {reason}") from error


@contextlib.contextmanager
def explain_file_trouble(path: str | os.PathLike) -> Iterator[None]:
    """Turn an OSError while a file is written into one line.

    Raises:
        UserError: The block raised an OSError; names `path`.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "free some space" if full else "check that the folder exists and may be written to"
        raise UserError(f"Cannot write {os.fspath(path)}: {error.strerror or error}; {advice}.") from error


def home_folder() -> str | None:
    """The user's home, an absolute path: $HOME, or that of the password database; None without either.

    The user need not be in the database: containers may run under any user id.
    """
    home = os.environ.get("HOME", "")
    if not os.path.isabs(home):  # os.path.expanduser would turn an empty one into paths in the working folder
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
        UserError: The path starts with `~`, and there is no home folder.
    """
    path = os.fspath(path)
    if not re.match(r"~(/|$)", path):
        return os.path.expanduser(path)
    home = home_folder()
    if home is None:
        raise UserError(f"{name}{path}: this user has no home folder (HOME is not set); write the whole path.")
    return home.rstrip("/") + path[1:] or "/"


def temporary_folder() -> str:
    """The system's folder for temporary files.

    Raises:
        UserError: None of the usual folders can be written to.
    """
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        raise UserError(NO_TEMPORARY_FOLDER) from error


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
            if cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                return f"there is no space left ({os.strerror(cause.errno)}); free some or choose another folder."
            if cause.filename == temporary:
                return f"{os.strerror(cause.errno or errno.EIO)}; check that the folder exists and may be written to."
        cause = cause.__cause__ or cause.__context__
    return None


# ----------------------------------------------------------------------------------------------------------------------
# Text


def one_line(message: object) -> str:
    """The string with every run of white space, line breaks included, replaced by one space."""
    return " ".join(str(message).split())


def format_time(seconds: float) -> str:
    """A duration as '12s', '3m 05s', '2h 05m 10s' or '1d 02h 05m'."""
    total = max(0, round(seconds))
    minutes, s = divmod(total, 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d {h:02}h {m:02}m"
    if hours:
        return f"{h}h {m:02}m {s:02}s"
    if minutes:
        return f"{m}m {s:02}s"
    return f"{s}s"


def format_bytes(count: float) -> str:
    """A size as '512 B', '1.5 KiB', '20.0 MiB', … (powers of 1024)."""
    if abs(count) < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if abs(count) < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def parse_int_list(text: str, *, name: str = "list") -> list[int]:
    """Integers from a list of numbers and inclusive ranges: '1,2,5-8' → [1, 2, 5, 6, 7, 8].

    Args:
        text: The list; spaces are ignored.
        name: Name in the error message, e.g. '--seeds'.

    Raises:
        UserError: The string is not such a list.
    """
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]+)\s*(?:-\s*([0-9]+)\s*)?", part)
        if match is None:
            raise UserError(f"{name}: '{part.strip()}' is neither a number nor a range; write for example 1,2,5-8.")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if last < first:
            raise UserError(f"{name}: the range '{part.strip()}' runs backwards; write {last}-{first}.")
        if len(numbers) + last - first >= MAX_LIST_LENGTH:
            raise UserError(f"{name}: '{text}' names more than {MAX_LIST_LENGTH} numbers.")
        numbers.extend(range(first, last + 1))
    return numbers


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, or None; case, dashes and underscores are ignored.

    The most similar name, else the first one that contains the given one.
    """
    plain = {}
    for other in known:
        plain.setdefault(_plain(other), other)
    near = difflib.get_close_matches(_plain(name), plain, n=1)
    near = near or [other for other in plain if len(_plain(name)) >= 3 and _plain(name) in other]
    return plain[near[0]] if near else None


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").strip("-")


def choices_hint(name: str, known: Iterable[str], *, everything: str = "") -> str:
    """End of a message about an unknown name: the nearest known one, and all of them if they are few.

    Args:
        known: The valid names.
        everything: Sentence on where all are listed, used if they are many.
    """
    known = list(known)
    near = nearest_name(name, known)
    if len(known) <= FEW:
        return f"choose from {', '.join(known)}." + ("" if near is None else f" Did you mean {near}?")
    everything = everything or f"choose from {', '.join(known)}."
    return everything if near is None else f"did you mean {near}? {everything}"


# ----------------------------------------------------------------------------------------------------------------------
# Scripts


def print_any_text() -> None:
    r"""Let this process print what its output's encoding does not know: as \xd7, not with an error."""
    for stream in (sys.stdout, sys.stderr):
        # Not a text file: closed, or somebody has put something else there.
        if hasattr(stream, "reconfigure") and stream.errors in ("strict", "surrogateescape"):
            with contextlib.suppress(ValueError, OSError):
                stream.reconfigure(errors="backslashreplace")


def run_cli(main: Callable[[], object]) -> None:
    """Run a script and leave the process: a user's mistake becomes `error: <one line>` on stderr and exit code 2.

    Ctrl-C gives exit code 130, SIGTERM 143, SIGHUP 129. Every other error keeps its traceback. A click command is
    passed as `lambda: command(standalone_mode=False)`; its usage errors get the same form. Whether anybody reads what
    is printed makes no difference.
    """
    import click  # here, so that the library does not depend on it

    keep_streams()
    print_any_text()
    try:
        with signals_end():
            _give_torch_a_cache()
            main()
    except UserError as error:
        _leave(f"error: {one_line(error)}", 2)
    except click.ClickException as error:
        _leave(f"error: {one_line(error.format_message())}", 2)
    except (KeyboardInterrupt, click.Abort):
        _leave("interrupted", 130)
    except Ended as error:
        _leave(f"ended by {error}", 128 + error.number)
    except FileNotFoundError as error:
        if "No usable temporary directory" not in str(error):  # a library has looked for one
            raise
        _leave(f"error: {one_line(NO_TEMPORARY_FOLDER)}", 2)
    sys.exit(0)


def _give_torch_a_cache() -> None:
    """Name PyTorch's compiler a cache folder where it would fail to: it asks for the user's name, and for /tmp.

    It does so when it is imported, which some operations of PyTorch do, and makes the folder.

    Raises:
        UserError: There is no place for a cache either.
    """
    if os.environ.get(TORCH_CACHE_VARIABLE):
        return
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:
        from dnnlib.downloads import cache_folder

        os.environ[TORCH_CACHE_VARIABLE] = str(cache_folder("inductor"))
        return
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # newer versions of PyTorch do the same
        os.environ[TORCH_CACHE_VARIABLE] = os.path.join(folder, f"torchinductor_uid_{os.getuid()}")


def _leave(message: str, code: int) -> None:
    print(message, file=sys.stderr, flush=True)
    sys.exit(code)
