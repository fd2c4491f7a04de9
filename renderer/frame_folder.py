"""Files of numbered time steps: folders of frames that appear complete or not at all, and steps of an earlier call."""

import errno
import os
import re
import shutil
from collections.abc import Collection

from dnnlib import UserError, explain_file_trouble, temporary_name

__all__ = ["FrameFolder", "remove_earlier_steps"]


class FrameFolder:
    """Writer of the frames of a video, 0000.png, 0001.png, …, to a folder that may hold other files.

    Frames are written to a hidden folder beside it and moved when all are there. A video that fails or is interrupted
    leaves the folder as it was, not with some of its frames among those of an earlier video.

    Args:
        path: The folder, in an existing one; made if missing.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = os.path.realpath(path)  # of a link: the hidden folder has to be on the same file system
        self._temporary = temporary_name(self.path)
        self._count = 0

    def next_frame(self) -> str:
        """The path at which to write the next frame.

        Raises:
            UserError: The folder cannot be made.
        """
        if self._count == 0:
            try:
                if os.path.lexists(self.path) and not os.path.isdir(self.path):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
                os.mkdir(self._temporary)
            except OSError as error:
                raise UserError(f"Cannot make the folder {self.path} for frames: {error.strerror}.") from error
        self._count += 1
        return os.path.join(self._temporary, f"{self._count - 1:04d}.png")

    def close(self) -> None:
        """Move the frames, and other files beside them, and remove those of an earlier and longer video."""
        with explain_file_trouble(self.path):
            os.makedirs(self.path, exist_ok=True)
            for name in sorted(os.listdir(self._temporary)):
                os.replace(os.path.join(self._temporary, name), os.path.join(self.path, name))
            os.rmdir(self._temporary)
            for name in os.listdir(self.path):
                if re.fullmatch(r"\d{4,}\.png", name) and int(name[:-4]) >= self._count:
                    os.unlink(os.path.join(self.path, name))

    def abort(self) -> None:
        """Remove the frames; no effect after `close`."""
        shutil.rmtree(self._temporary, ignore_errors=True)


def remove_earlier_steps(folder: str | os.PathLike, stem: str, *, written: Collection[str]) -> None:
    """Remove steps that an earlier and longer call has left among those of this one: <stem>_0002.ply, ….

    Args:
        folder: The folder of the files.
        stem: Beginning of their names.
        written: Names of this call's files. Steps with other suffixes, and files that hold all steps (<stem>.glb), are
            left alone.

    Raises:
        UserError: One cannot be removed.
    """
    step = re.compile(re.escape(stem) + r"_\d{4,}(\.\w+)")
    suffixes = {match[1] for match in map(step.fullmatch, written) if match}
    with explain_file_trouble(folder):
        for name in os.listdir(folder):
            match = step.fullmatch(name)
            if match and match[1] in suffixes and name not in written:
                os.unlink(os.path.join(folder, name))
