"""Feature extractors: pretrained networks, random networks, and measures of single clips.

A feature extractor maps a batch of samples to float32 features [N, D] on the CPU. Its `key` identifies it in caches:
two extractors with the same key give the same features. `describe` returns plain data for result files.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from dnnlib import UserError
from metrics.detectors import DetectorFile, find_detector
from metrics.distances import are_probabilities
from metrics.random_features import FEATURE_WIDTH, RandomFeatures, exact_convolutions
from metrics.registry import ONE_YAW, find_metric
from metrics.video_measures import flatness, flicker, mean_flow_length, warping_error
from torch_utils.memory import is_out_of_memory
from torch_utils.torchscript import load_torchscript

__all__ = ["detector_of", "find_detectors", "make_network"]

VERSION = 1  # of the features; a new version invalidates cached ones
DEPTH_TOLERANCE = 0.1  # of the thickness of the rendered volume


class TorchScriptNetwork:
    """A pretrained network from a TorchScript file (I3D, Inception, VGG-16, face recognition, others).

    On a CPU it takes samples one at a time: batches save no time there, and this way the last digits of features do not
    depend on the rest of a batch.

    Args:
        file: The TorchScript file.
        device: Device of the network.
        width: Required number of features; None for any.
        arguments: Keyword arguments of its call.
        frames: Apply it to single frames: a sample [3, T, H, W] gives T rows of features, concatenated.
        floats: Its input is float32 in [-1, 1] instead of uint8.
        probabilities: Its results must be probabilities: 0 or more, rows that sum to one.
    """

    def __init__(
        self,
        file: DetectorFile,
        device: torch.device | str,
        *,
        width: int | None,
        arguments: Mapping[str, bool],
        frames: bool,
        floats: bool = False,
        probabilities: bool = False,
    ):
        self.key = f"{file.name}-{file.sha256}-{sorted(arguments)}-{VERSION}"
        self.file = file
        self._module = load_torchscript(file.path, device)
        self._device, self._width, self._arguments = torch.device(device), width, dict(arguments)
        self._frames, self._floats, self._probabilities = frames, floats, probabilities

    def describe(self) -> dict:
        return self.file.describe()

    @torch.no_grad()
    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        with exact_convolutions():
            parts = clips.split(1) if self._device.type == "cpu" else [clips]
            return torch.cat([self._features(part.to(self._device)) for part in parts])

    def _features(self, clips: torch.Tensor) -> torch.Tensor:
        count = len(clips)
        x = clips.transpose(1, 2).flatten(0, 1) if self._frames else clips
        x = x.float() / 127.5 - 1 if self._floats else x
        try:
            found = self._module(x, **self._arguments)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).strip().splitlines()[-1]
            raise UserError(
                f"{self.file.path} cannot be used as {self.file.name}: its call failed ({reason})."
            ) from error
        shape = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != len(x):
            raise UserError(f"{self.file.path} is not {self.file.name}: for {len(x)} samples it returns {shape}.")
        if self._width is not None and found.shape[1] != self._width:
            raise UserError(
                f"{self.file.path} is not {self.file.name}: it returns {found.shape[1]} features, not {self._width}."
            )
        if not found.isfinite().all():
            raise UserError(f"{self.file.path} gives features that are not finite: no distance can be computed.")
        if self._probabilities and not are_probabilities(found.double().cpu().numpy()):
            raise UserError(
                f"{self.file.path} is not {self.file.name}: with no_output_bias=True it must return probabilities of "
                "classes, which sum to one."
            )
        return found.float().reshape(count, -1).cpu()


class RandomClipFeatures:
    """Features of a fixed random network (metrics.random_features), of clips or of single frames (concatenated)."""

    def __init__(self, device: torch.device | str, *, frames: bool):
        self.key = f"random-{FEATURE_WIDTH}-{frames}-{VERSION}"
        self._network, self._frames = RandomFeatures(device), frames

    def describe(self) -> dict:
        return {"network": "fixed random 3D convolutions, untrained"}

    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        x = clips.transpose(1, 2).flatten(0, 1)[:, :, None] if self._frames else clips
        return self._network(x).reshape(len(clips), -1).cpu()


class SampleMeasure:
    """A measure of single samples without a network: a function of clips or `ViewPairs` to values [N, D]."""

    def __init__(self, name: str, measure: Callable[[Any], torch.Tensor]):
        self.key = f"{name}-{VERSION}"
        self._measure = measure

    def describe(self) -> dict:
        return {}

    def __call__(self, samples: Any) -> torch.Tensor:
        return self._measure(samples).float().cpu()


def _warping(pairs: Any) -> torch.Tensor:
    """Warping error, error without warping, and fraction of compared pixels of pairs of views, [N, 3].

    Raises:
        UserError: Both views are from one camera, so that any geometry would seem right.
    """
    if pairs.same_camera:
        raise UserError(f"The warping error {ONE_YAW}.")
    tolerance = DEPTH_TOLERANCE * pairs.thickness
    return warping_error(pairs.images, pairs.grids, pairs.depths, pairs.expected, pairs.opacities, tolerance=tolerance)


def _flatness(pairs: Any) -> torch.Tensor:
    """Flatness of the first view of each pair, [N, 1]."""
    return flatness(pairs.points[:, 0], pairs.opacities[:, 0])[:, None]


# Pretrained networks: detector file and call. The keyword arguments are those that the files were exported with.
FILES: dict[str, tuple[str, dict]] = {
    "i3d": (
        "i3d",
        {"width": 400, "arguments": {"rescale": True, "resize": True, "return_features": True}, "frames": False},
    ),
    "inception": ("inception", {"width": 2048, "arguments": {"return_features": True}, "frames": True}),
    "inception_probabilities": (
        "inception",
        {"width": None, "arguments": {"no_output_bias": True}, "frames": True, "probabilities": True},
    ),
    "vgg16": ("vgg16", {"width": 4096, "arguments": {"return_features": True}, "frames": True}),
    "identity": ("identity", {"width": None, "arguments": {}, "frames": True, "floats": True}),
}
_OWN = {
    "random": lambda device: RandomClipFeatures(device, frames=False),
    "random_frames": lambda device: RandomClipFeatures(device, frames=True),
    "motion": lambda device: SampleMeasure("motion", lambda clips: mean_flow_length(clips)[:, None]),
    "flicker": lambda device: SampleMeasure("flicker", lambda clips: flicker(clips)[:, None]),
    "warping": lambda device: SampleMeasure("warping", _warping),
    "flatness": lambda device: SampleMeasure("flatness", _flatness),
}

# Options of a user's own extractors: float32 clips [N, 3, T, H, W] in -1…1 to features [N, D].
CLIP_EXTRACTOR = {"width": None, "arguments": {}, "frames": False, "floats": True}


def detector_of(network: str) -> str | None:
    """The detector file that a network needs; None if it needs none."""
    if network in _OWN:
        return None
    return FILES[network][0] if network in FILES else network


def find_detectors(names: Iterable[str], paths: Mapping[str, str | None]) -> dict[str, DetectorFile]:
    """Detector files required by metrics, by the detector's name.

    Args:
        names: Names of metrics.
        paths: Files given by the user, by the detector's name.

    Raises:
        UserError: See `find_detector`.
    """
    networks = [find_metric(name).network for name in names]
    needed = dict.fromkeys(detector_of(network) for network in networks)
    return {name: find_detector(name, path=paths.get(name)) for name in needed if name is not None}


def make_network(name: str, *, device: torch.device | str, detectors: Mapping[str, DetectorFile]) -> Any:
    """The feature extractor of that name (see metrics.registry).

    Args:
        detectors: Results of `find_detector`, by name.

    Raises:
        UserError: See `load_torchscript`.
    """
    if name in _OWN:
        return _OWN[name](device)
    detector, arguments = FILES.get(name, (name, CLIP_EXTRACTOR))
    file = detectors.get(detector) or find_detector(detector)
    return TorchScriptNetwork(file, device, **arguments)
