"""Run folders: OUT/00000-<description>, OUT/00001-<description>, … and which process owns one."""

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

from dnnlib import UserError

__all__ = ["create_run_folder", "find_run_folder", "lock_run_folder", "slug"]

NUMBERED = re.compile(r"(\d{5,})-.*")


def slug(text: str) -> str:
    """The text as part of a folder's name: letters, digits, dot, dash and underscore."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("_")[:60]


def create_run_folder(outdir: str | os.PathLike, description: str) -> Path:
    """Make `outdir/<next free number>-<description>`; two processes that do so at once get different numbers.

    Raises:
        UserError: The folder cannot be made.
    """
    outdir = Path(outdir)
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(outdir, os.O_RDONLY)
        try:
            _lock(descriptor, fcntl.LOCK_EX)  # one process at a time looks for a number
            number = max((int(m[1]) for p in outdir.iterdir() if (m := NUMBERED.fullmatch(p.name))), default=-1) + 1
            folder = outdir / f"{number:05d}-{description}"
            folder.mkdir()
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(f"Cannot make a run folder in outdir={outdir}: {error.strerror}.") from error
    return folder


def find_run_folder(outdir: str | os.PathLike | None, run: int | str) -> Path:
    """The folder of an earlier run.

    Args:
        outdir: Where numbered runs are looked for.
        run: A number (3 finds `outdir/00003-…`) or the path of a run folder.

    Raises:
        UserError: There is no such folder.
    """
    if not re.fullmatch(r"\d+", str(run)):
        if not Path(run).is_dir():
            raise UserError(f"resume_run={run}: there is no such folder; give a run's number or its folder.")
        return Path(run)
    if outdir is None:
        raise UserError(f"resume_run={run}: a run's number needs outdir=, the folder that holds the runs.")
    folders = [p for p in Path(outdir).glob("*-*") if (m := NUMBERED.fullmatch(p.name)) and int(m[1]) == int(run)]
    if not folders:
        raise UserError(f"resume_run={run}: there is no run folder {int(run):05d}-* in {outdir}.")
    if len(folders) > 1:
        raise UserError(f"resume_run={run}: several folders have that number in {outdir}; give the folder itself.")
    return folders[0]


@contextlib.contextmanager
def lock_run_folder(folder: str | os.PathLike) -> Iterator[None]:
    """Own a run folder while the block runs; the system gives it back when the process ends, however it ends.

    Raises:
        UserError: Another process is training there.
    """
    descriptor = os.open(folder, os.O_RDONLY)  # the folder itself is locked: no lock file is left behind
    try:
        try:
            _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"Another process is training in {folder}; wait for it or stop it first.") from error
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, operation: int) -> None:
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        # Some network file systems know no locks; there, nobody is kept from using a folder twice.
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
