"""Files of a training run's snapshots: their names, which one is the newest, and which ones are deleted.

Snapshots are torch archives, `.pt`. Earlier versions named them `.pkl`, and files of that name are read in the same
way; only this module knows the names of snapshots in a run folder. It does not load PyTorch.
"""

import contextlib
import filecmp
import functools
import os
import re
from collections.abc import Callable
from pathlib import Path

from dnnlib import UserError, link_or_copy

__all__ = [
    "ANEW",
    "LATEST",
    "STATE_FILE",
    "SUFFIXES",
    "check_output",
    "existing_snapshot",
    "keep_as_best",
    "keep_as_latest",
    "latest_snapshot",
    "listed_snapshots",
    "numbered_snapshots",
    "prune_snapshots",
    "snapshot_name",
]

SUFFIXES = (".pt", ".pkl")  # of this version, and of earlier ones
ANEW = "start a new run from its newest snapshot with resume=."  # advice where a run cannot be continued
STATE_FILE = "training-state.pt"  # of training.checkpoints.training_state
LATEST = f"latest-network-snapshot{SUFFIXES[0]}"
NUMBERED = re.compile(r"network-snapshot-(\d+)\.(?:pt|pkl)")
BEST = re.compile(r"best-.+\.(?:pt|pkl)")
RECORDS = re.compile(r"training_options\.yaml|stats\.jsonl|log\.txt|metric-.+\.jsonl")  # of a run


def snapshot_name(cur_nimg: int) -> str:
    """The file name of a numbered snapshot, in thousands of videos."""
    return f"network-snapshot-{cur_nimg // 1000:06d}{SUFFIXES[0]}"


def existing_snapshot(folder: str | os.PathLike, cur_nimg: int) -> Path | None:
    """The numbered snapshot on disk that `snapshot_name(cur_nimg)` would replace, with either suffix."""
    return numbered_snapshots(folder).get(cur_nimg // 1000)


def latest_snapshot(folder: str | os.PathLike) -> Path:
    """The newest snapshot in a run folder.

    Raises:
        UserError: There is none; the message names the last run with snapshots if it is a folder of runs.
    """
    folder = Path(folder)
    for suffix in SUFFIXES:
        path = (folder / LATEST).with_suffix(suffix)
        if path.is_file():
            return path
    numbered = numbered_snapshots(folder)
    if not numbered:
        runs = sorted(path.parent for path in folder.glob("*/network-snapshot-*"))
        hint = f", but in folders inside it, such as {runs[-1]}: name one of them" if runs else ""
        raise UserError(f"There is no network snapshot (network-snapshot-*.pt) in the folder {folder}{hint}.")
    return numbered[max(numbered)]


def prune_snapshots(folder: str | os.PathLike, keep: int) -> None:
    """Delete all but the newest `keep` numbered snapshots; to be called once the newest one is on disk.

    Files with other names stay: best-<metric>.pt, which are snapshots under a second name, and the latest one.
    """
    files = _numbered_files(folder)
    old = set(sorted({number for number, _ in files})[:-keep])
    for number, path in files:
        if number in old:
            _delete(path)


def numbered_snapshots(folder: str | os.PathLike) -> dict[int, Path]:
    """Snapshots by number, in ascending order; of two files with the same number the .pt of this version."""
    return dict(_numbered_files(folder))


def _numbered_files(folder: str | os.PathLike) -> list[tuple[int, Path]]:
    """Numbers and files of the snapshots, in the order of the numbers, .pt after .pkl."""
    found = [(int(match[1]), path) for path in Path(folder).iterdir() if (match := NUMBERED.fullmatch(path.name))]
    return sorted(found, key=lambda entry: (entry[0], entry[1].suffix == SUFFIXES[0]))


def listed_snapshots(folder: str | os.PathLike) -> list[Path]:
    """The best snapshots of a run folder, then the numbered ones in order; each once.

    The latest one comes last if it is none of these: a run that is stopped within the same thousand videos as a
    scheduled snapshot writes it under that name only.

    Raises:
        OSError: The folder or its latest snapshot cannot be read.
    """
    best = {}
    for path in sorted(Path(folder).iterdir(), key=lambda path: path.suffix == SUFFIXES[0]):
        if BEST.fullmatch(path.name):
            best[path.stem] = path  # .pt after .pkl
    names = sorted(best, key=lambda name: (len(name), name))
    found = [*(best[name] for name in names), *numbered_snapshots(folder).values()]
    try:
        latest = latest_snapshot(folder)
    except UserError:  # there is none
        return found
    if any(_same(path, latest, os.path.samefile) for path in reversed(found)):
        return found
    # Where the file system has no hard links, or the run was copied, it is a copy of the newest one.
    copy = bool(found) and _same(found[-1], latest, functools.partial(filecmp.cmp, shallow=False))
    return found if copy else [*found, latest]


def _same(one: Path, other: Path, compare: Callable[[Path, Path], bool]) -> bool:
    """A comparison of two files of a run in progress, which may delete one meanwhile: it is then another one."""
    try:
        return compare(one, other)
    except FileNotFoundError:
        return False


def keep_as_latest(snapshot: str | os.PathLike) -> Path:
    """Give a snapshot the second name latest-network-snapshot.pt, in its folder, atomically; returns that path."""
    return _keep_as(snapshot, LATEST)


def keep_as_best(snapshot: str | os.PathLike, metric: str) -> Path:
    """Give a snapshot the second name best-<metric>.pt, in the same way; returns that path."""
    return _keep_as(snapshot, f"best-{metric}{SUFFIXES[0]}")


def _keep_as(snapshot: str | os.PathLike, name: str) -> Path:
    """Give a snapshot a second name in its folder.

    A file under that name in earlier versions (.pkl) is deleted: it is no longer the latest or the best.
    """
    path = Path(snapshot).with_name(name)
    if path != Path(snapshot):
        link_or_copy(snapshot, path)
    _delete(path.with_suffix(SUFFIXES[1]))
    return path


def check_output(out: str | os.PathLike, *, source: str | os.PathLike | None = None) -> None:
    """Refuse a file for results that is a folder, or a checkpoint or a record of a run that they would replace.

    Args:
        source: The checkpoint that is read, if it is a file.

    Raises:
        UserError: See above.
    """
    path = Path(out)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file.")
    if not path.exists():
        return
    from training.checkpoints.pretrained import FILES, is_pretrained  # loads PyTorch

    if source is not None and os.path.exists(source) and os.path.samefile(source, path):
        raise UserError(f"{path} is the checkpoint itself; give the result another name.")
    names = {STATE_FILE, *(f"{Path(LATEST).stem}{suffix}" for suffix in SUFFIXES)}
    names |= set(FILES) if is_pretrained(path.parent) else set()
    if path.name in names or NUMBERED.fullmatch(path.name) or BEST.fullmatch(path.name):
        raise UserError(f"{path} is a checkpoint, which the result would replace; give it another name.")
    if RECORDS.fullmatch(path.name):
        raise UserError(f"{path} is a record of a training run, which the result would replace; give it another name.")


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):  # already moved, or no permission: nothing depends on it
        path.unlink()
