"""Experiment trackers: TensorBoard, Weights & Biases, Trackio and MLflow as mirrors of a run folder.

A tracker receives what the run folder holds anyway: the figures of stats.jsonl, the metrics of snapshots, and the
previews. The id of its record of the run is stored in trackers.json, so that a continued run goes on with that record.

Trackers never stop a training: one that fails is reported in one line and no longer used.
"""

import contextlib
import importlib
import io
import json
import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from PIL import Image

from dnnlib import UserError, atomic_write, choices_hint, explain_file_trouble, one_line
from renderer.video import gif_bytes

__all__ = ["TRACKERS", "Tracker", "Trackers", "check_trackers"]

IDS_FILE = "trackers.json"
PROJECT = "video-3d-gan"  # where runs are kept, unless an environment variable of the tracker names another project
SAME_FIGURES = "(stats.jsonl has the same figures)"


class Tracker(Protocol):
    """A tracker of one run; every method may raise anything.

    Attributes:
        run_id: The tracker's id of this run; None if it can continue the run without one.
    """

    run_id: str | None

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record values by name ('Loss/G/loss') at a number of videos."""

    def media(self, files: Mapping[str, Path], step: int) -> None:
        """Record images (.png) and videos (.mp4) of the run folder by name ('Previews/fakes_random')."""

    def close(self) -> None:
        """Write out everything."""


class TensorBoardTracker:
    """Events in the run folder; those that an interrupted run wrote beyond `first_step` are discarded."""

    run_id = None

    def __init__(self, folder: Path, *, run_id: str | None, first_step: int, options: Mapping[str, Any]):
        from torch.utils.tensorboard import SummaryWriter

        with explain_file_trouble(folder):
            self.events = SummaryWriter(os.fspath(folder), purge_step=first_step)
        # Errors of its thread, as on a full disk, reach the next call here; as a traceback they would be shown twice.
        self._excepthook = threading.excepthook
        threading.excepthook = self._silence

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.events.add_scalar(name, value, global_step=step)
        self.events.flush()

    def media(self, files: Mapping[str, Path], step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        for name, path in files.items():
            # Images are kept as they are; videos are shown as animated images.
            content = gif_bytes(path) if path.suffix == ".mp4" else path.read_bytes()
            with Image.open(io.BytesIO(content)) as shown:
                width, height = shown.size
            image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=content)
            self.events.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)
        self.events.flush()

    def close(self) -> None:
        try:
            self.events.close()
        finally:
            if threading.excepthook == self._silence:
                threading.excepthook = self._excepthook

    def _silence(self, error: threading.ExceptHookArgs) -> None:
        if not type(error.thread).__module__.startswith("tensorboard."):
            self._excepthook(error)


class WandbTracker:
    """A run of Weights & Biases, with its files in the run folder.

    Its own steps cannot go back, as those of a continued run may: the number of videos is a figure, `cur_nimg`, over
    which the others are plotted.
    """

    def __init__(self, folder: Path, *, run_id: str | None, first_step: int, options: Mapping[str, Any]):
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            id=run_id,
            resume=None if run_id is None else "allow",
            dir=os.fspath(folder),
            config=dict(options),
            settings=wandb.Settings(console="off"),  # log.txt has it
        )
        self.run_id = self._run.id
        self._run.define_metric("cur_nimg")
        self._run.define_metric("*", step_metric="cur_nimg")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**_finite(values), "cur_nimg": step})

    def media(self, files: Mapping[str, Path], step: int) -> None:
        shown = {
            name: self._wandb.Video(os.fspath(path), format="mp4")
            if path.suffix == ".mp4"
            else self._wandb.Image(os.fspath(path))
            for name, path in files.items()
        }
        self._run.log({**shown, "cur_nimg": step})

    def close(self) -> None:
        self._run.finish()


class TrackioTracker:
    """A run of Trackio, in its local database unless its environment variables name a server.

    Trackio finds runs by their names, which are therefore made unique.
    """

    def __init__(self, folder: Path, *, run_id: str | None, first_step: int, options: Mapping[str, Any]):
        import trackio

        self._trackio = trackio
        self.run_id = run_id or f"{folder.name}-{secrets.token_hex(4)}"
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=self.run_id,
            config=flat_options(options),
            resume="never" if run_id is None else "allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(_finite(values), step=step)

    def media(self, files: Mapping[str, Path], step: int) -> None:
        shown = {
            name: self._trackio.Video(path) if path.suffix == ".mp4" else self._trackio.Image(path)
            for name, path in files.items()
        }
        self._run.log(shown, step=step)

    def close(self) -> None:
        self._trackio.finish()


class MLflowTracker:
    """A run of MLflow, in mlflow.db and mlartifacts/ beside the run folders or at MLFLOW_TRACKING_URI."""

    MAX_VALUE = 500  # characters of an option's value
    MAX_OPTIONS = 100  # per request

    def __init__(self, folder: Path, *, run_id: str | None, first_step: int, options: Mapping[str, Any]):
        import mlflow
        from mlflow.entities import Metric, Param

        self._metric, self._folder = Metric, folder
        place, files = os.environ.get("MLFLOW_TRACKING_URI"), None  # None: where the server wants them
        if not place:
            outdir = folder.absolute().parent
            if {"?", "%"} & set(os.fspath(outdir)):  # the database would be another file, or none
                raise ValueError(
                    f"a database cannot lie in {outdir} ('?', '%'); set MLFLOW_TRACKING_URI to another place"
                )
            place, files = f"sqlite:///{outdir / 'mlflow.db'}", (outdir / "mlartifacts").as_uri()
        self._client, self._moved = mlflow.MlflowClient(tracking_uri=place), False
        if run_id is not None:
            self.run_id = run_id
            self._client.update_run(run_id, status="RUNNING")
            if files is not None:
                stored = Path(url2pathname(urlsplit(self._client.get_run(run_id).info.artifact_uri).path))
                own = (outdir / "mlartifacts").resolve()
                # The database keeps the absolute path: previews would go to a new folder at the old place.
                self._moved = own not in stored.resolve().parents and not stored.exists()
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        if known is None:
            experiment = self._client.create_experiment(name, artifact_location=files)
        else:
            experiment = known.experiment_id
        self.run_id = self._client.create_run(experiment, run_name=folder.name).info.run_id
        values = [Param(key, str(value)[: self.MAX_VALUE]) for key, value in flat_options(options).items()]
        for start in range(0, len(values), self.MAX_OPTIONS):
            self._client.log_batch(self.run_id, params=values[start : start + self.MAX_OPTIONS])

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        now = round(time.time() * 1000)
        metrics = [self._metric(name, value, now, step) for name, value in _finite(values).items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def media(self, files: Mapping[str, Path], step: int) -> None:
        for path in () if self._moved else files.values():
            where = path.parent.relative_to(self._folder).as_posix()
            self._client.log_artifact(self.run_id, os.fspath(path), None if where == "." else where)

    def close(self) -> None:
        self._client.set_terminated(self.run_id, "FINISHED")


TRACKERS: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "wandb": WandbTracker,
    "trackio": TrackioTracker,
    "mlflow": MLflowTracker,
}
RECORDS = {"tensorboard": "TensorBoard events"}  # names in messages; for the others '<name> records'


def check_trackers(names: Iterable[str]) -> None:
    """Check the names of trackers, and that their packages can be imported.

    TensorBoard, the default, may be missing: a run then writes no events.

    Raises:
        UserError: An unknown name, or a missing package.
    """
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"logger: there is no tracker '{name}'; {choices_hint(str(name), TRACKERS)}")
        if name == "tensorboard":
            continue
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"logger={name} needs the package {name} ({one_line(error)}): install it with `pip install {name}`, "
                "or leave the tracker out."
            ) from error


class Trackers:
    """The trackers of a run; one that fails is reported in one line and left out from then on.

    Args:
        names: Keys of `TRACKERS`.
        folder: The run folder.
        first_step: Number of videos from which on this process records.
        options: Options of the training, which some trackers show.
        say: Prints a line.

    Raises:
        UserError: The run folder cannot be written to.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        *,
        first_step: int,
        options: Mapping[str, Any],
        say: Callable[[str], None],
    ):
        self._say = say
        self._active: dict[str, Tracker] = {}
        ids = read_ids(folder)
        for name in names:
            tracker = self._open(name, folder, run_id=ids.get(name), first_step=first_step, options=options)
            if tracker is not None:
                self._active[name] = tracker
        new = {name: tracker.run_id for name, tracker in self._active.items() if tracker.run_id is not None}
        if new.items() - ids.items():
            with atomic_write(folder / IDS_FILE, "w") as file:
                file.write(json.dumps({**ids, **new}, indent=2) + "\n")

    def __getitem__(self, name: str) -> Tracker:
        return self._active[name]

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record values by name at a number of videos."""
        if values:
            self._each("scalars", values, step)

    def media(self, files: Mapping[str, Path], step: int) -> None:
        """Record images and videos of the run folder by name."""
        if files:
            self._each("media", files, step)

    def close(self) -> None:
        self._each("close")
        self._active.clear()

    def _each(self, method: str, *arguments: Any) -> None:
        for name, tracker in list(self._active.items()):
            try:
                getattr(tracker, method)(*arguments)
            except Exception as error:
                records = RECORDS.get(name, f"{name} records")
                self._say(f"No more {records} are written: {_reason(error)} {SAME_FIGURES}.")
                del self._active[name]
                if method != "close":  # the next training of this process must not go on in an open record
                    with contextlib.suppress(Exception):
                        tracker.close()

    def _open(self, name: str, folder: Path, **arguments: Any) -> Tracker | None:
        if name == "tensorboard":
            try:
                os.fspath(folder).encode()
            except UnicodeEncodeError:  # bytes of another encoding, which TensorBoard cannot name
                self._say(f"The folder's name is not UTF-8: no events for TensorBoard are written {SAME_FIGURES}.")
                return None
        try:
            return TRACKERS[name](folder, **arguments)
        except UserError:
            raise
        except Exception as error:
            if name == "tensorboard" and isinstance(error, ImportError):
                self._say(f"TensorBoard is not installed: no events are written {SAME_FIGURES}.")
            else:
                records = RECORDS.get(name, f"{name} records")
                self._say(f"No {records} are written: {_reason(error)} {SAME_FIGURES}.")
            return None


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def _reason(error: Exception) -> str:
    return one_line(error) or type(error).__name__


def read_ids(folder: Path) -> dict[str, str]:
    """The ids in a run folder's trackers.json, by the names of the trackers."""
    with contextlib.suppress(OSError, ValueError):
        ids = json.loads((folder / IDS_FILE).read_text(encoding="utf-8"))
        if isinstance(ids, dict):
            return {name: value for name, value in ids.items() if name in TRACKERS and isinstance(value, str)}
    return {}


def flat_options(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options of nested mappings by their dotted names, as they are written on the command line."""
    flat: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            flat.update(flat_options(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
