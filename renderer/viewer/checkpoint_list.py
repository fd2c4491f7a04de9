"""The checkpoints of the viewer: one file, or those of a run folder, whose training may be in progress."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

from dnnlib import UserError, file_identity
from renderer.viewer.views import ViewSource

__all__ = ["CheckpointList"]

KEPT = 2  # networks in memory


class CheckpointList:
    """Checkpoints by name, oldest first.

    Args:
        path: A checkpoint or a run folder.
        find: Checkpoints in a run folder, the newest one last; raises OSError if the folder cannot be read.
        load: Makes a view source from a file; raises UserError if it cannot.
        check: Raises UserError if a file cannot be loaded; reads as little of it as that takes.
        report: Receives a line about every file that is skipped.

    Raises:
        UserError: There is nothing to look at.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        find: Callable[[Path], list[Path]],
        load: Callable[[Path], ViewSource],
        check: Callable[[Path], object],
        report: Callable[[str], None],
    ):
        self._path = Path(path)
        self._find, self._load, self._check, self._report = find, load, check, report
        self._lock = threading.Lock()
        self._loaded: OrderedDict[str, tuple[object, ViewSource]] = OrderedDict()
        # Name: (state of the file that was checked, whether it can be loaded).
        self._verdicts: dict[str, tuple[object, bool]] = {}
        self._paths = {} if self._path.is_dir() else {self._path.name: self._path}
        self._states = {name: file_identity(path) for name, path in self._paths.items()}
        if self._path.is_dir() and not self.refresh():
            raise UserError(f"There is no network snapshot (network-snapshot-*.pt) to look at in the folder {path}.")

    @property
    def names(self) -> list[str]:
        """Names of the checkpoints, at least one."""
        return list(self._paths)

    @property
    def newest(self) -> str:
        """The last of the training's snapshots."""
        return self.names[-1]

    @property
    def states(self) -> Mapping[str, object]:
        """States of the files by name, when they were looked at last: another one for a file that was replaced."""
        return self._states

    def refresh(self) -> bool:
        """Look at the files again; True if there are others, or one has been replaced.

        If nothing is left, the names are kept: networks in memory can still be shown.
        """
        try:
            paths = self._find(self._path) if self._path.is_dir() else list(self._paths.values())
        except OSError:
            return False
        found = {path.name: path for path in paths if self._is_good(path)}
        states = {name: self._verdicts[name][0] for name in found}
        if not found or list(states.items()) == list(self._states.items()):
            return False
        self._paths, self._states = found, states
        return True

    def source(self, name: str) -> ViewSource:
        """Load a checkpoint, or take it from memory if its file has not changed.

        Raises:
            UserError: It cannot be loaded, or is gone.
        """
        if name not in self._paths:
            raise UserError(f"There is no checkpoint {name} any more.")
        path = self._paths[name]
        with self._lock:
            state = file_identity(path)
            kept = self._loaded.get(name)
            if kept is None or (state is not None and kept[0] != state):
                try:
                    kept = (state, self._load(path))
                except UserError:
                    self._verdicts[name] = (state, False)
                    raise
                self._verdicts[name] = (state, True)
                self._loaded[name] = kept
            self._loaded.move_to_end(name)
            while len(self._loaded) > KEPT:
                self._loaded.popitem(last=False)
            return kept[1]

    def newest_source(self) -> tuple[str, ViewSource]:
        """The newest checkpoint that can be loaded, by name.

        Raises:
            UserError: None can be loaded; the message says why the oldest cannot.
        """
        *others, oldest = reversed(self.names)
        for name in others:
            try:
                return name, self.source(name)
            except UserError as error:
                self._report(f"skipped: {error}")
        return oldest, self.source(oldest)

    def _is_good(self, path: Path) -> bool:
        """True for a file that can be loaded; one that has not changed is not checked again."""
        state = file_identity(path)
        if state is None:
            return False
        known = self._verdicts.get(path.name)
        if known is not None and known[0] == state:
            return known[1]
        try:
            self._check(path)
            good = True
        except UserError as error:
            self._report(f"skipped: {error}")
            good = False
        self._verdicts[path.name] = (state, good)
        return good
