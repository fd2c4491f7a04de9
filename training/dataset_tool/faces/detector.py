"""The detector: MediaPipe in a process of .venv-faces where that exists, else in this process."""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import tempfile
from typing import Any

import numpy as np

from dnnlib import UserError, one_line, temporary
from training.dataset_tool.faces import mediapipe_detector

__all__ = ["DetectorProcess", "DetectorSettings", "find_detector", "open_detector"]

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
VENV_PYTHON = os.path.join(ROOT, ".venv-faces", "bin", "python")
INSTALL = "run `make faces`, which installs it in .venv-faces, or bring the detections of another one: --landmarks FILE"

DetectorSettings = dict[str, Any]  # kind, model, python, version; see find_detector


def find_detector(*, kind: str, model: str | None = None) -> DetectorSettings:
    """Choose the Python that runs MediaPipe.

    Args:
        kind: 'faces' or 'people'.
        model: Path of a face_landmarker.task; None for the models in MediaPipe's package.

    Returns:
        kind, model, python (the interpreter of .venv-faces, or None for this process) and MediaPipe's version.

    Raises:
        UserError: There is no MediaPipe, or no model file.
    """
    if model is not None and not os.path.isfile(model):
        raise UserError(f"--face-model: there is no file '{model}'.")
    python = VENV_PYTHON if os.access(VENV_PYTHON, os.X_OK) else None
    if python is None and importlib.util.find_spec("mediapipe") is None:
        raise UserError(f"There is no detector: {INSTALL}.")
    model = None if model is None else os.path.abspath(model)
    return {"kind": kind, "model": model, "python": python, "version": _mediapipe_version(python)}


def _mediapipe_version(python: str | None) -> str | None:
    """The version without importing MediaPipe, which takes seconds; None if it is not known."""
    if python is None:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version("mediapipe")
        return None
    command = [python, "-c", "import importlib.metadata as about; print(about.version('mediapipe'))"]
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True).stdout.decode().strip() or None
    return None


def open_detector(settings: DetectorSettings) -> "mediapipe_detector.MediaPipeDetector | DetectorProcess":
    """Start a detector; it has `version`, `names`, and `detect(frame)`.

    Raises:
        UserError: It cannot be started.
    """
    if settings["python"] is not None:
        return DetectorProcess(python=settings["python"], kind=settings["kind"], model=settings["model"])
    try:
        return mediapipe_detector.MediaPipeDetector(kind=settings["kind"], model=settings["model"])
    except (ImportError, RuntimeError, OSError, ValueError) as error:
        raise UserError(
            f"The detector cannot be used ({one_line(error)}): give --face-model FILE, or {INSTALL}."
        ) from (error)


class DetectorProcess:
    """MediaPipe run by another Python; it ends when this object is closed or this process ends.

    Raises:
        UserError: It cannot be started, or has ended; the message has the last line of what it says.
    """

    def __init__(self, *, python: str, kind: str, model: str | None):
        command = [python, mediapipe_detector.__file__, "--kind", kind]
        command += [] if model is None else ["--model", model]
        self._messages = temporary(tempfile.TemporaryFile)
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._messages, start_new_session=True
            )
        except OSError as error:
            raise UserError(f"Cannot start the detector with '{python}' ({error.strerror}): {INSTALL}.") from error
        about = self._answer()
        self.version, self.names = about["version"], about["names"]

    def detect(self, frame: np.ndarray) -> list[dict[str, Any]]:
        """Detections of a frame, uint8 [height, width, 3]; see training.dataset_tool.faces.detections."""
        height, width = frame.shape[:2]
        try:
            self._process.stdin.write(f"{width} {height}\n".encode())
            self._process.stdin.write(frame.tobytes())
            self._process.stdin.flush()
        except OSError as error:
            raise self._trouble() from error
        return self._answer()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.kill()  # it holds nothing that could be lost
        self._process.wait()
        self._messages.close()

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise self._trouble()
        return json.loads(line)

    def _trouble(self) -> UserError:
        code = self._process.wait()
        self._messages.seek(0)
        lines = [line for line in self._messages.read().decode(errors="replace").splitlines() if line.strip()]
        reason = one_line(lines[-1])[:200] if lines else f"code {code}"
        return UserError(f"The detector has ended ({reason}): repeat the command, or {INSTALL}.")
