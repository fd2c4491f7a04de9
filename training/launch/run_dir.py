"""Run folders: OUT/00000-<description>, OUT/00001-<description>, … and which process owns one.

A launcher may start a command again with the same arguments: torchrun when a process has failed, a cluster's scheduler
when a job was preempted. The command then has to continue the run that it began. It recognises its folder by names that
the launcher gives to its jobs, which are kept in the folder's job.txt.
"""

import contextlib
import hashlib
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from dnnlib import UserError, atomic_write, exclusive_lock, expand_home
from dnnlib.util import UNFINISHED
from training.launch.config import string_value

__all__ = [
    "create_run_folder",
    "find_run_folder",
    "launcher_names",
    "lock_run_folder",
    "remove_unfinished",
    "slug",
    "overrides_to_continue",
    "write_launcher_names",
]

JOB_FILE = "job.txt"
NUMBERED = re.compile(r"(\d{5,})-.*")


def slug(text: str, *, most: int | None = 60) -> str:
    """The text as part of a folder's name: at most `most` letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("_")[:most]


def create_run_folder(outdir: str | os.PathLike, description: str) -> Path:
    """Make `outdir/<next free number>-<description>`; two processes that do so at once get different numbers.

    Raises:
        UserError: The folder cannot be made.
    """
    outdir = Path(outdir)
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        number = max(_numbers(outdir), default=-1) + 1
        while True:
            # Not a lock, which some network file systems lack: only one process can make a folder.
            claim = outdir / f".{number:05d}.claim"
            try:
                claim.mkdir()
            except FileExistsError:
                number += 1
                continue
            try:
                if number not in _numbers(outdir):
                    folder = outdir / f"{number:05d}-{description}"
                    folder.mkdir()
                    return folder
            finally:
                claim.rmdir()
            number += 1
    except OSError as error:
        raise UserError(f"Cannot make a run folder in outdir={outdir}: {error.strerror}.") from error


def _numbers(outdir: Path) -> set[int]:
    return {int(m[1]) for p in outdir.iterdir() if (m := NUMBERED.fullmatch(p.name))}


def write_launcher_names(folder: Path, names: Iterable[str]) -> None:
    """Keep the names of a new run's command in its folder, which holds its options by now.

    A command that is started again then finds either a run that can be continued, or none.

    Args:
        names: See `launcher_names`.

    Raises:
        UserError: They cannot be written.
    """
    if names:
        with atomic_write(folder / JOB_FILE, "w") as file:
            file.writelines(f"{name}\n" for name in names)


def launcher_names(overrides: Sequence[str], job_name: str | None = None) -> dict[str, bool]:
    """Names of this command's job in the launcher of this process.

    Args:
        overrides: The command's overrides.
        job_name: A name that a launcher has given to this command only.

    Returns:
        Names, each with True if a run that was begun under it is to be continued. A new job has new names; but several
        commands may follow one another in one SLURM job, so there only if the job itself was started again.
    """
    # Tells apart the commands of one job.
    digest = hashlib.sha256("\n".join(overrides).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    env, names = os.environ, {}
    if job_name is not None:
        names[f"job {job_name}"] = True
    if "SLURM_JOB_ID" in env:
        names[f"slurm {env['SLURM_JOB_ID']} {digest}"] = int(env.get("SLURM_RESTART_COUNT", 0)) > 0
    if "TORCHELASTIC_RUN_ID" in env:
        run, named = env["TORCHELASTIC_RUN_ID"], True
        if run == "none":  # no --rdzv-id: only this process's parent stays the same
            run, named = f"of process {os.getppid()} on {socket.gethostname()}", False
        names[f"torchrun {run} {digest}"] = named or int(env.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    return names


def overrides_to_continue(overrides: Sequence[str], names: Mapping[str, bool]) -> list[str]:
    """The overrides of a command, changed so that it continues the run that its earlier start began, if any.

    Args:
        names: See `launcher_names`.
    """
    values = dict(override.split("=", 1) for override in overrides if "=" in override)
    ours = {name for name, again in names.items() if again}
    if not ours or "outdir" not in values or "resume_run" in values:
        return list(overrides)
    outdir = Path(expand_home(string_value(values["outdir"]) or "", name="outdir="))
    for path in sorted(outdir.glob(f"*/{JOB_FILE}"), reverse=True):
        if ours & _stored_names(path):
            kept = [override for override in overrides if not override.startswith("resume=")]
            return [*kept, f"resume_run={path.parent}"]
    return list(overrides)


def _stored_names(path: Path) -> set[str]:
    """The names in a folder's job.txt; none if it cannot be read, for instance another user's."""
    try:
        return set(path.read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError:
        return set()


def find_run_folder(outdir: str | os.PathLike | None, run: int | str) -> Path:
    """The folder of an earlier run.

    Args:
        outdir: Folder in which numbered runs are looked for.
        run: A number (3 finds `outdir/00003-…`) or the path of a run folder.

    Raises:
        UserError: There is no such folder.
    """
    if not re.fullmatch(r"\d+", str(run)):
        if not Path(run).is_dir():
            raise UserError(f"resume_run={run}: there is no such folder; give a run's number or its folder.")
        folder = Path(run)
        return folder if folder.name not in ("", "..") else folder.resolve()  # '.' has neither name nor parent
    if outdir is None:
        raise UserError(f"resume_run={run}: a run's number needs outdir=, the folder that holds the runs.")
    numbered = [p for p in Path(outdir).glob("*-*") if (m := NUMBERED.fullmatch(p.name)) and int(m[1]) == int(run)]
    folders = [p for p in numbered if p.is_dir()]  # a run's report or archive may lie beside it
    if not folders:
        raise UserError(f"resume_run={run}: there is no run folder {int(run):05d}-* in {outdir}.")
    if len(folders) > 1:
        raise UserError(f"resume_run={run}: several folders have that number in {outdir}; give the folder itself.")
    return folders[0]


@contextlib.contextmanager
def lock_run_folder(folder: str | os.PathLike) -> Iterator[None]:
    """Lock a run folder for this process while the block runs; the system releases it however the process ends.

    Raises:
        UserError: Another process is training there.
    """
    with exclusive_lock(folder, busy=f"Another process is training in {folder}; wait for it or stop it first."):
        yield


def remove_unfinished(folder: str | os.PathLike) -> None:
    """Delete files that a killed process left unfinished in its run folder; to be called by the folder's owner."""
    for path in Path(folder).rglob(".*.tmp"):
        if UNFINISHED.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()
