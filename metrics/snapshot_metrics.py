"""Metrics of the snapshots of a training, computed while it runs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from metrics.detectors import DetectorFile
from metrics.evaluator import Evaluator
from metrics.feature_extractors import detector_of
from metrics.generated_videos import GeneratedVideos, Label
from metrics.real_videos import StoredVideos
from metrics.registry import METRICS
from metrics.results import (
    added_by_training,
    append_row,
    figure_names,
    is_best,
    read_metric_rows,
    row_entry,
    row_summary,
)
from torch_utils import distributed
from training.data.frame_store import UnreadableFrame

__all__ = ["SnapshotMetrics"]


class SnapshotMetrics:
    """A callback after every snapshot, on all processes: all metrics at once, so that they share features.

    A metric that the run has measured on the snapshot, with the same feature extractor, is not computed again; rows of
    `python -m metrics` do not count, which may compare with other real videos. Tick 0, after a single iteration, is not
    measured unless the run started from a snapshot or ends there: the metrics are only checked (`Evaluator.check`).

    Args:
        options: Options of the training: metrics, nframes, kimg, resume.
        folder: The run folder, which gets the rows.
        detectors: Feature extractors by name.
        real: The real videos; None if none of the metrics needs them.
        label: A label for each generated video, see `GeneratedVideos`.
        cache: Folder for features of the real videos.
        keep_as_best: Called with the path of a snapshot that is the best so far, and the metric.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        folder: Path,
        *,
        detectors: Mapping[str, DetectorFile],
        real: StoredVideos | None,
        label: Label | None,
        cache: Path,
        keep_as_best: Callable[[Path, str], Any],
    ):
        self._options = options
        self._folder = folder
        self._detectors = detectors
        self._real = real
        self._label = label
        self._cache = cache
        self._keep_as_best = keep_as_best

    def __call__(self, snapshot: Any) -> dict[str, float]:
        """Measure a snapshot (training.training_loop.Snapshot); its values by metric."""
        last = snapshot.cur_nimg >= round(self._options["kimg"] * 1000)
        if snapshot.tick == 0 and self._options["resume"] is None and not last:
            self._evaluator(snapshot).check(self._options["metrics"])
            return {}
        names = distributed.broadcast_object(self._missing(snapshot) if distributed.is_main() else None)
        if not names:
            return {}
        if distributed.is_main():
            print(f"Measuring {snapshot.path.name}: {', '.join(names)}")
        evaluator, values = self._evaluator(snapshot), {}
        for name in names:
            try:
                row = evaluator.evaluate(name, together=names)
            except UnreadableFrame as error:  # as the training itself, which takes another clip, the run goes on
                if distributed.is_main():
                    print(f"{name} is left out: {error}")
                continue
            values[name] = row["value"]
            for second in figure_names(name)[1:]:  # the recall; the value is the precision
                values[f"{name}_{second}"] = row[second]
            if distributed.is_main():
                self._write(row, snapshot)
        return values

    def _evaluator(self, snapshot: Any) -> Evaluator:
        return Evaluator(
            fake=GeneratedVideos(snapshot.generator, nframes=self._options["nframes"], label=self._label),
            real=self._real,
            device=next(snapshot.generator.parameters()).device,
            detectors=self._detectors,
            cache=self._cache,
        )

    def _missing(self, snapshot: Any) -> list[str]:
        """The metrics that the run has not measured on a snapshot."""
        names = []
        for name in self._options["metrics"]:
            detector = self._detectors.get(detector_of(METRICS[name].network))
            rows = [
                row
                for row in read_metric_rows(self._folder, name)
                if row.get("cur_nimg") == snapshot.cur_nimg
                and added_by_training(row)
                and (detector is None or row_entry(row, "detector").get("sha256") == detector.sha256)
            ]
            if not rows:
                names.append(name)
            elif is_best(self._folder, rows[-1]):  # the process may have been killed before it did this
                self._keep_as_best(snapshot.path, rows[-1]["metric"])
        return names

    def _write(self, row: dict[str, Any], snapshot: Any) -> None:
        row.update(checkpoint=snapshot.path.name, cur_nimg=snapshot.cur_nimg)
        row.update({} if self._real is None else self._real.origin)
        append_row(self._folder, row)
        if is_best(self._folder, row):
            self._keep_as_best(snapshot.path, row["metric"])
        print(row_summary(row))
