"""The names of the snapshots in a run folder, which one is the newest, and which ones may go."""

import contextlib
import os
import re
from pathlib import Path

from dnnlib import UserError

__all__ = ["LATEST", "latest_snapshot", "numbered_snapshots", "prune_snapshots", "snapshot_name"]

LATEST = "latest-network-snapshot.pkl"


def snapshot_name(cur_nimg: int) -> str:
    return f"network-snapshot-{cur_nimg // 1000:06d}.pkl"


def latest_snapshot(folder: str | os.PathLike) -> Path:
    """The newest snapshot in a run folder.

    Raises:
        UserError: There is none.
    """
    folder = Path(folder)
    if (folder / LATEST).is_file():
        return folder / LATEST
    numbered = numbered_snapshots(folder)
    if not numbered:
        raise UserError(f"There is no network snapshot (network-snapshot-*.pkl) in the folder {folder}.")
    return numbered[max(numbered)]


def prune_snapshots(folder: str | os.PathLike, keep: int) -> None:
    """Delete all but the newest `keep` numbered snapshots; to be called when the newest one is safe on the disk.

    Files of other names stay: best-<metric>.pkl, which are snapshots under a second name, and the latest one.
    """
    for _, path in sorted(numbered_snapshots(folder).items())[:-keep]:
        with contextlib.suppress(OSError):  # somebody has moved it, or may not be allowed to; nothing depends on it
            path.unlink()


def numbered_snapshots(folder: str | os.PathLike) -> dict[int, Path]:
    """Snapshots by their number."""
    return {int(m[1]): p for p in Path(folder).iterdir() if (m := re.fullmatch(r"network-snapshot-(\d+)\.pkl", p.name))}
