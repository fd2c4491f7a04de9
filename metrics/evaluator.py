"""Evaluation of generated videos against real ones: metrics by name, each as one row of plain data.

Both sides implement `Videos`: a dataset, a folder of generated videos, or a generator. Features of a set are computed
once and shared by all metrics of an Evaluator, those of a generator until its weights change. Metrics that are given
together also share samples, which are made once for all of their networks. Features of real videos are also kept in a
cache folder, under a key made from their content, the protocol and the network.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from dnnlib import UserError, temporary
from dnnlib.downloads import make_cache_folder
from metrics.detectors import DetectorFile
from metrics.feature_extractors import make_network
from metrics.features import Samples, compute_features, holds_features, open_features
from metrics.metric_functions import STATISTICS, VIEWS, use_of_real
from metrics.registry import Metric, find_metric
from torch_utils import distributed
from torch_utils.argument_checks import check_placement, is_list, shown, whole_number
from torch_utils.caller_settings import full_float32, without_autocast
from torch_utils.launch import scratch_folder
from training.inference.arguments import check_path

__all__ = ["Evaluator", "Videos", "require_samples"]

REPLICATES = 100  # resamplings for an interval


class Videos(Protocol):
    """One side of a comparison. Kinds of samples that it cannot provide raise UserError.

    Samples that may change, such as those of a generator in training, need a method `digest() -> str`, too: features
    are computed anew when its result has changed.
    """

    resolution: int  # width of the frames in pixels, the same on both sides

    def clips(self, *, count: int, frames: int, subsample: int) -> Samples:
        """At most `count` clips: every `subsample`-th of `frames` consecutive frames."""

    def images(self, *, count: int | None) -> Samples:
        """At most `count` single frames, as clips of one frame; None: all."""

    def views(self, *, count: int, views: int) -> Samples:
        """At most `count` time steps, as clips whose frames are the views of `views` cameras."""

    def pairs(self, *, count: int) -> Samples:
        """At most `count` time steps from two cameras with their geometry; see metrics.generated_videos.ViewPairs."""


class Evaluator:
    """Computation of metrics of generated videos; must be constructed and called on all processes.

    Args:
        fake: The generated videos.
        real: The real ones; None if no metric needs them.
        device: Device of the feature extractors.
        detectors: Files of pretrained networks, by name (metrics.detectors.find_detector).
        cache: Folder for features of real videos; None: no cache.
        batch_size: Samples per batch of a process.
        replicates: Bootstrap resamplings for the interval; 0 for no interval.

    Raises:
        ValueError: A side that is not videos, sides of different resolutions, or a wrong type or value elsewhere.
    """

    def __init__(
        self,
        *,
        fake: Videos,
        real: Videos | None = None,
        device: torch.device | str = "cpu",
        detectors: Mapping[str, DetectorFile] | None = None,
        cache: str | os.PathLike | None = None,
        batch_size: int = 8,
        replicates: int = REPLICATES,
    ):
        batch_size = whole_number("batch_size", batch_size, low=1)
        replicates = whole_number("replicates", replicates, low=0)
        if replicates == 1:
            raise ValueError("replicates must be 0 or at least 2: one resampling has no spread.")
        check_placement(device, torch.float32)
        if detectors is not None and not isinstance(detectors, Mapping):
            raise ValueError(f"detectors must be files by the names of networks, got {shown(detectors)}.")
        if cache is not None:
            check_path("cache", cache)
        sides = {"fake": fake} if real is None else {"fake": fake, "real": real}
        for side, videos in sides.items():
            if not hasattr(videos, "clips"):
                kinds = "GeneratedVideos(G.network) or StoredVideos(path, resolution=…)"
                raise ValueError(f"{side} must be videos, such as {kinds}, got {shown(videos)}.")
        if len({videos.resolution for videos in sides.values()}) > 1:
            raise ValueError(
                f"fake and real must have the same resolution, got {fake.resolution} and {real.resolution} pixels: "
                "give both the same resolution=."
            )
        self._fake, self._real = fake, real
        self._device, self._detectors = device, dict(detectors or {})
        self._cache = None if cache is None else Path(cache)
        self._batch_size, self._replicates = batch_size, replicates
        self._networks: dict[str, Any] = {}
        # What was computed last, by protocol: digest of the side, features, samples.
        self._known: dict[str, tuple[str | None, np.ndarray | None, Samples]] = {}
        folder = temporary(tempfile.mkdtemp, dir=scratch_folder()) if distributed.is_main() else None
        self._folder = Path(distributed.broadcast_object(folder))
        if distributed.is_main():
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def check(self, names: Sequence[str]) -> None:
        """Raise the error of the first metric that cannot be computed of these videos, before any is computed.

        Every network is tried on two generated samples, since a batch of one may lose its first dimension in a network.

        Raises:
            UserError: Unknown metric, missing or unsuitable samples, a detector that does not fit, or a cache that
                cannot be written to.
            ValueError: `names` is not a list.
        """
        _check_list("names", names)
        first: dict[str, Any] = {}  # generated samples by their selection
        with full_float32(), without_autocast():
            for metric in map(find_metric, names):
                if metric.uses_real:
                    samples = self._samples(_there(self._real, metric), "real", metric)
                    _require_samples(metric, samples, "real")
                    if distributed.is_main():  # the only one that writes features
                        self._place(samples, json.loads(self._memo("real", metric)))
                samples = self._samples(self._fake, "fake", metric)
                _require_samples(metric, samples, "fake")
                selection = json.dumps(_selection("fake", metric))
                if selection not in first:
                    first[selection] = samples.load(range(min(2, len(samples))))
                self._network(metric)(first[selection])

    def evaluate(self, name: str, *, together: Sequence[str] = ()) -> dict[str, Any]:
        """The row of a metric, the same on all processes.

        Args:
            name: Name of the metric.
            together: Names of metrics that are evaluated next. Where they use the same samples, these are rendered or
                read once: the features for all of them are computed now.

        Returns:
            metric, value, interval (95 %, or None), higher_is_better (None if neither), number and
            description of the samples of each side, protocol, detector, versions, seconds, timestamp, and, where there
            are any, the names of two figures and a warning.

        Raises:
            UserError: Unknown metric, missing samples, a detector that does not fit.
            ValueError: `together` is not a list.
        """
        _check_list("together", together)
        with full_float32(), without_autocast():  # for rendering as well, whatever the training used
            return self._evaluate(find_metric(name), [find_metric(other) for other in together])

    def _evaluate(self, metric: Metric, together: Sequence[Metric]) -> dict[str, Any]:
        started = time.time()
        network = self._network(metric)
        real, real_samples = self._features("real", metric, together) if metric.uses_real else (None, None)
        fake, fake_samples = self._features("fake", metric, together)
        row = None
        if distributed.is_main():
            statistic = STATISTICS[metric.statistic]
            measured = statistic(real, fake, metric, self._replicates)
            row = {
                "metric": metric.name,
                "value": measured.value,
                "interval": None if measured.interval is None else [float(end) for end in measured.interval],
                "higher_is_better": {"higher": True, "lower": False}.get(metric.better),
                **measured.further,
                "num_fake": len(fake_samples),
                "fake": fake_samples.describe(),
                "num_real": None if real_samples is None else len(real_samples),
                "real_data": None if real_samples is None else _described_real(real_samples),
                "protocol": metric.protocol(),
                "detector": network.describe(),
                "versions": _versions(),
                "seconds": round(time.time() - started, 3),
                "timestamp": time.time(),
            }
            if statistic.figures:
                row["figures"] = list(statistic.figures)
            if metric.warning:
                row["warning"] = metric.warning
        return distributed.broadcast_object(row)

    def _network(self, metric: Metric) -> Any:
        if metric.network not in self._networks:
            network = make_network(metric.network, device=self._device, detectors=self._detectors)
            self._networks[metric.network] = network
        return self._networks[metric.network]

    def _features(self, side: str, metric: Metric, together: Sequence[Metric]) -> tuple[np.ndarray | None, Samples]:
        """The features of a side (on the main process, None elsewhere) and its samples."""
        videos = self._real if side == "real" else self._fake
        videos, digest = _there(videos, metric), None
        if hasattr(videos, "digest"):  # of the main process: all of them must decide alike
            digest = distributed.broadcast_object(videos.digest() if distributed.is_main() else None)

        def known(key: str) -> bool:
            return key in self._known and self._known[key][0] == digest

        memo = self._memo(side, metric)
        samples = self._known[memo][2] if known(memo) else self._samples(videos, side, metric)
        # Known features may be those of a metric that needs fewer samples.
        _require_samples(metric, samples, side)
        if not known(memo):
            networks = {memo: self._network(metric)}
            networks |= {k: network for k, network in self._others(side, metric, together).items() if not known(k)}
            found = None
            while found is None:
                try:
                    found = self._compute(samples, networks, title=f"{side} {metric.samples}")
                except _OtherFails as error:
                    del networks[str(error)]
            self._known.update({key: (digest, features, samples) for key, features in found.items()})
        return self._known[memo][1:]

    def _memo(self, side: str, metric: Metric) -> str:
        """Key of the features of a side."""
        return json.dumps({**_selection(side, metric), "network": self._network(metric).key}, sort_keys=True)

    def _others(self, side: str, metric: Metric, together: Sequence[Metric]) -> dict[str, Callable]:
        """The other networks that the same samples are for, by the keys of their features."""
        found: dict[str, Callable] = {}
        for other in together:
            measured = side == "fake" or other.uses_real
            if measured and other.network != metric.network and _selection(side, other) == _selection(side, metric):
                with contextlib.suppress(UserError):  # raised when the other metric is evaluated
                    memo = self._memo(side, other)
                    found[memo] = _of_other(self._network(other), memo)
        return found

    def _samples(self, videos: Videos, side: str, metric: Metric) -> Samples:
        if metric.samples == "clips":
            return videos.clips(count=metric.count, frames=metric.frames, subsample=metric.subsample)
        if metric.samples == "images":
            return videos.images(count=None if side == "real" else metric.count)
        if metric.samples == "views":
            return videos.views(count=metric.count, views=VIEWS)
        return videos.pairs(count=metric.count)

    def _compute(
        self, samples: Samples, networks: Mapping[str, Callable], *, title: str
    ) -> dict[str, np.ndarray | None]:
        """Features of samples (on the main process, None elsewhere) by their keys."""
        paths, ready = {key: self._place(samples, json.loads(key)) for key in networks}, []
        if distributed.is_main():
            kept = {key: path for key, path in paths.items() if path.parent != self._folder}
            ready = [key for key, path in kept.items() if holds_features(path, len(samples))]
        ready = distributed.broadcast_object(ready)
        missing = {paths[key]: network for key, network in networks.items() if key not in ready}
        if missing:
            compute_features(samples, missing, batch_size=self._batch_size, title=title)
        return {key: open_features(path) if distributed.is_main() else None for key, path in paths.items()}

    def _place(self, samples: Samples, what: dict) -> Path:
        """The file for the features: in the cache for real samples that have a key."""
        content = None
        if what["side"] == "real" and self._cache is not None and distributed.is_main():
            content = samples.key()
        if content is None:
            return self._folder / f"{_hash(what)}.npy"  # replaces earlier ones
        key = _hash([content, what])
        path = self._cache / f"real-{re.sub(r'[^a-z0-9_]+.*', '', what['network'])}-{key}.npy"
        if not os.path.exists(path):  # raises an error before the features are computed, which takes long
            make_cache_folder(self._cache, instead="name another one (--cache, in training cache_metrics_dir=)")
        return path


def _check_list(argument: str, names: Any) -> None:
    if not is_list(names):
        raise ValueError(f"{argument} must be a list of names of metrics, got {shown(names)}.")


def _selection(side: str, metric: Metric) -> dict[str, Any]:
    """Everything that determines the samples of a side besides its videos."""
    what = {**metric.protocol(), "side": side}
    for key in ("measure", "network", "uses_real"):
        del what[key]
    if side == "real" and metric.samples == "images":
        del what["count"]  # all of them
    return what


class _OtherFails(UserError):
    """The network of another metric, whose evaluation will raise its error again; the message is the features' key."""


def _of_other(network: Callable, key: str) -> Callable:
    """The network with its errors as `_OtherFails`."""

    def call(samples: Any) -> torch.Tensor:
        try:
            return network(samples)
        except UserError as error:
            raise _OtherFails(key) from error

    return call


def require_samples(metric: Metric, samples: Samples, words: str) -> None:
    """Raise a UserError if there are too few samples of one side ('real' or 'generated') for a metric."""
    least = STATISTICS[metric.statistic].least
    if len(samples) < least:
        raise UserError(f"{metric.name} needs at least {least} {words} {metric.samples}, there are {len(samples)}.")


def _there(videos: Videos | None, metric: Metric) -> Videos:
    if videos is None:
        raise UserError(f"{use_of_real(metric)}: give their folder or zip.")
    return videos


def _require_samples(metric: Metric, samples: Samples, side: str) -> None:
    require_samples(metric, samples, "real" if side == "real" else "generated")


def _described_real(samples: Samples) -> dict:
    """The description of real samples for a row, by which --compare also knows other videos of the same name."""
    return {**samples.describe(), "fingerprint": samples.key()}


def _hash(content: Any) -> str:
    """24 hexadecimal digits for plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
