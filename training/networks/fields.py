"""The radiance fields: a modulated foreground with motion, and a background on the inverted sphere.

A field module holds parameters. Conditioned on the codes of B videos it becomes a callable `(points, directions) ->
(raw density, features)` as the renderer expects it (see `renderer.volume_rendering`). Linear heads are not evaluated
per sample: features are the hidden states below them, and `project` applies these heads once per ray, after
compositing. (Their biases are multiplied by the sum of the weights, which makes this exact.)

Sources: 3D-Aware Video Generation, section 3.1 (motion enters as an offset to the first hidden layer); StyleNeRF,
section 3 (modulated field, features besides colours); NeRF++, section 4 (background on the inverted sphere).

Letters: B videos, T frames of a video, R rays, S samples of a ray, F features for the upsampler.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import nn

from torch_utils.ops.point_linear import PointLayer, point_linear, point_mlp
from training.networks.density import DensityPrior, DensityRamp, from_options
from training.networks.layers import (
    ENCODINGS,
    ModulatedLinear,
    PointLinear,
    composited_colour,
    positional_encoding,
    sinusoid_order,
    sinusoids,
)

__all__ = [
    "BackgroundField",
    "BlendedForeground",
    "ConditionedBackground",
    "ConditionedBlend",
    "ConditionedForeground",
    "ForegroundField",
    "ForegroundWeights",
    "is_density_scale",
]

POINT_DIM = 3
#: Dimensions of inverted-sphere points: a unit direction and an inverse radius (NeRF++, section 4).
BACKGROUND_POINT_DIM = 4
#: Negative slopes of the hidden layers and of the view-dependent colour head.
SLOPE, VIEW_SLOPE = 0.2, 0.01

#: A layer's weight ([out, in], or [B, out, in] with one per video) and bias [out].
Linear = tuple[torch.Tensor, torch.Tensor]


@dataclasses.dataclass
class ForegroundWeights:
    """The weights of a `ForegroundField` modulated by the styles of B videos; those of `rgb` and `view` are shared."""

    layers: list[Linear]
    density: Linear
    features: Linear
    rgb: Linear
    view: Linear | None


class ForegroundField(nn.Module):
    """The foreground field: an MLP with modulated layers (StyleNeRF, section 3), conditioned on motion.

    Args:
        width, num_layers: Width and number of the hidden layers.
        encoding: Positional encoding of points, a key of `ENCODINGS`.
        position_frequencies, direction_frequencies: Octaves of the positional encodings; an isotropic one has as many
            outputs, and the same lowest and highest frequency.
        feature_dim: Channels F of the features that go to the upsampler.
        view_directions: Colour depends on the viewing direction.
        motion: Input of motion vectors to the second layer: 'add', 'concat', or 'none'.
        density_bias: Initial bias of the density head: above 0, training starts from fog instead of an almost empty
            scene, which short trainings need (Adam moves a bias by about the learning rate per iteration).
        density_prior: `peak`, `radius` and optionally `center` of a `DensityPrior`, or None.
        density_ramp: `factor`, `start` and `end` of a `DensityRamp`, or None.
        time_input: 'raw' or 'encoded' makes time an input coordinate of the first layer (ablation); 'none'.

    Attributes:
        density_scale: The factor that the ramp has reached, a buffer; only with a ramp.
    """

    density_scale: torch.Tensor

    def __init__(
        self,
        *,
        w_dim: int,
        width: int = 128,
        num_layers: int = 8,
        position_frequencies: int = 10,
        direction_frequencies: int = 4,
        feature_dim: int = 256,
        view_directions: bool = True,
        density_bias: float = 0.0,
        density_prior: Mapping | None = None,
        density_ramp: Mapping | None = None,
        encoding: str = "octaves",
        motion: str = "add",
        time_input: str = "none",
    ):
        super().__init__()
        if time_input not in ("none", "raw", "encoded"):
            raise ValueError(f"foreground.time_input must be none, raw or encoded, got '{time_input}'.")
        if num_layers < 2:
            raise ValueError(f"foreground.num_layers must be at least 2, got {num_layers}.")
        if encoding not in tuple(ENCODINGS):
            raise ValueError(f"foreground.encoding must be {' or '.join(ENCODINGS)}, got {encoding!r}.")
        assert motion in ("add", "concat", "none")
        self.encoding = ENCODINGS[encoding](position_frequencies)
        self.direction_frequencies = direction_frequencies
        self.time_frequencies = position_frequencies if time_input == "encoded" else 0
        self.motion, self.time_input = motion, time_input
        self.width, self.feature_dim, self.num_ws = width, feature_dim, num_layers + 2
        time_features = {"none": 0, "raw": 1, "encoded": 2 * self.time_frequencies}[time_input]
        inputs = [self.encoding.num_outputs + time_features, width * (2 if motion == "concat" else 1)]
        inputs += [width] * (num_layers - 2)
        layers = nn.ModuleList(ModulatedLinear(in_features=i, out_features=width, w_dim=w_dim) for i in inputs)
        self.layers = cast("Sequence[ModulatedLinear]", layers)
        self.density = ModulatedLinear(in_features=width, out_features=1, w_dim=w_dim, demodulate=False)
        torch.nn.init.constant_(self.density.bias, density_bias)
        self.density_prior = from_options(DensityPrior, density_prior, "density_prior")
        self.density_ramp = from_options(DensityRamp, density_ramp, "density_ramp")
        if self.density_ramp is not None:
            self.register_buffer("density_scale", torch.ones([]))
        self.features = ModulatedLinear(in_features=width, out_features=feature_dim, w_dim=w_dim, demodulate=False)
        self.rgb = PointLinear(in_features=feature_dim, out_features=3)
        direction_features = 2 * direction_frequencies * POINT_DIM
        self.view = PointLinear(in_features=direction_features, out_features=feature_dim) if view_directions else None

    def modulate(self, ws: torch.Tensor) -> ForegroundWeights:
        """Weights for styles ws [B, num_ws, w_dim]."""
        layers = [layer.modulate(ws[:, i]) for i, layer in enumerate(self.layers)]
        # Encoded points are plain sines and cosines; their order and amplitudes are fused into the first weight.
        weight, bias = layers[0]
        layers[0] = (self.encoding.fold(weight), bias)
        count = len(layers)
        weight, bias = self.density.modulate(ws[:, count])
        if self.density_ramp is not None:
            weight, bias = self.density_scale * weight, self.density_scale * bias
        return ForegroundWeights(
            layers=layers,
            density=(weight, bias),
            features=self.features.modulate(ws[:, count + 1]),
            rgb=self.rgb.scaled(),
            view=None if self.view is None else self.view.scaled(),
        )

    def condition(
        self, weights: ForegroundWeights, *, times: torch.Tensor, motion: torch.Tensor | None
    ) -> "ConditionedForeground":
        """The field at times [B, T] with motion vectors [B, T, width] (None without motion)."""
        return ConditionedForeground(self, weights, times=times, motion=motion)

    def with_prior(self, density: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """The network's raw density [B, T, R, S] plus the density prior at points [B, T or 1, R, S, 3]."""
        if self.density_prior is None:
            return density
        return density + self.density_prior(points, scale=1.0 if self.density_ramp is None else self.density_scale)

    @torch.no_grad()
    def set_progress(self, kimg: float) -> None:
        """Set the density's scale to that of its ramp after `kimg` thousand videos; it never decreases."""
        if self.density_ramp is not None:
            self.density_scale.clamp_(min=self.density_ramp(kimg))


def is_density_scale(name: str) -> bool:
    """True for the buffer `ForegroundField.density_scale` among the names of a network's state."""
    return name.rpartition(".")[2] == "density_scale"


class ConditionedForeground:
    """A `ForegroundField` conditioned on the styles, motion vectors and times of B videos of T frames.

    Points are [B, T, R, S, 3], or [B, 1, R, S, 3] where frames share them.

    Attributes:
        layers: Weight, bias and per-frame bias [B, T, width] (None for either) of each hidden layer.
    """

    def __init__(
        self, field: ForegroundField, weights: ForegroundWeights, *, times: torch.Tensor, motion: torch.Tensor | None
    ):
        self.field, self.weights = field, weights
        self.num_frames = times.shape[1]
        # Motion and time do not depend on the point and enter a layer linearly: they become that layer's bias, one per
        # frame, and the layers before it are shared by the frames of a video.
        self.layers: list[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]]
        self.layers = [(weight, bias, None) for weight, bias in weights.layers]
        if field.time_input != "none":
            coordinate = times[..., None]
            if field.time_input == "encoded":
                coordinate = positional_encoding(coordinate, field.time_frequencies)
            self._split_inputs(0, field.encoding.num_outputs, coordinate)
        if field.motion != "none":
            assert motion is not None
            if field.motion == "concat":
                self._split_inputs(1, field.width, motion)
            else:
                weight, bias, _ = self.layers[1]
                self.layers[1] = (weight, None, point_linear(motion, weight, bias))

    def _split_inputs(self, layer: int, num_points: int, extra: torch.Tensor) -> None:
        """Turn a layer's inputs beyond the first `num_points`, `extra` [B, T, C], into per-frame biases."""
        weight, bias, _ = self.layers[layer]
        self.layers[layer] = (weight[..., :num_points], None, point_linear(extra, weight[..., num_points:], bias))

    def encode(self, points: torch.Tensor) -> torch.Tensor:
        """Positional encoding of points, sines first."""
        return self.field.encoding(points)

    def __call__(self, points: torch.Tensor, directions: torch.Tensor):
        """Raw density [B, T, R, S] and features (hidden [B, T, R, S, width], and rgb with view directions).

        `directions`: unit viewing directions [B, R, 3].
        """
        return self._evaluate(points, directions)

    def raw_density(self, points: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        """The raw density of a call, without its features: with view directions they take a quarter of the time."""
        if type(self).__call__ is not ConditionedForeground.__call__:  # a derived class may compute something else
            return self(points, directions)[0]
        return self._evaluate(points, None)[0]

    def _evaluate(self, points: torch.Tensor, directions: torch.Tensor | None):
        """See `__call__`; no features without directions."""
        last, weights = len(self.layers) - 1, self.weights
        # The hidden layers. From the first layer with a bias per frame on, the frames of a video differ.
        layers = [
            PointLayer(weight, bias if frame_bias is None else frame_bias[:, :, None], slope=SLOPE, source=i - 1)
            for i, (weight, bias, frame_bias) in enumerate(self.layers)
        ]
        # On top of them the density and, with view directions, the colour: features plus the encoded direction, leaky
        # ReLU, linear. Its nonlinearity must be evaluated per sample.
        layers.append(PointLayer(*weights.density, source=last))
        keep = [last + 1] if directions is None else [last + 1, last]
        if directions is not None and weights.view is not None:
            bias = self.view_bias(directions)[:, None]
            layers.append(PointLayer(weights.features[0], bias, slope=VIEW_SLOPE, source=last))
            layers.append(PointLayer(*weights.rgb, source=last + 2))
            keep.append(last + 3)
        results = point_mlp(self.encode(points).flatten(2, 3), layers, frames=self.num_frames, keep=keep)
        # [B, T, R * S, C] to [B, T, R, S, C]; without motion the frames are the same.
        density, *features = (
            y.unflatten(2, points.shape[2:4]).expand(-1, self.num_frames, -1, -1, -1) for y in results
        )
        return self.field.with_prior(density[..., 0], points), tuple(features)

    def view_bias(self, directions: torch.Tensor) -> torch.Tensor:
        """The viewing direction's part of the colour head per ray [B, R, F], including the feature head's bias."""
        assert self.weights.view is not None
        view = positional_encoding(directions, self.field.direction_frequencies)
        return point_linear(view, *self.weights.view) + self.weights.features[1]

    def project(self, features: tuple[torch.Tensor, ...], accumulation: torch.Tensor | float = 1.0) -> torch.Tensor:
        """Linear heads after compositing: rgb and features [B, ..., 3 + F] of sums [B, ..., C] over samples.

        Args:
            features: Weighted sums of the features.
            accumulation: Sum of the weights [B, ...].
        """
        hidden, *rgb = features
        if torch.is_tensor(accumulation):
            accumulation = accumulation[..., None]
        weight, bias = self.weights.features
        x = point_linear(hidden.flatten(1, -2), weight).unflatten(1, hidden.shape[1:-1]) + bias * accumulation
        if rgb:
            return torch.cat([rgb[0], x], dim=-1)
        return torch.cat([composited_colour(self.weights.rgb, x, accumulation), x], dim=-1)


class BlendedForeground(nn.Module):
    """A dynamic field blended with a second, static one (ablation): m · dynamic + (1 − m) · static.

    Args:
        dynamic, static: Two fields with the same styles; the static one has no motion.
        blend: 'mask' learns m = sigmoid(linear(hidden state of the dynamic field)); 'equal' is m = 1/2.
    """

    def __init__(self, *, dynamic: ForegroundField, static: ForegroundField, blend: str):
        super().__init__()
        if blend not in ("mask", "equal"):
            raise ValueError(f"foreground.static must be none, mask or equal, got '{blend}'.")
        self.dynamic, self.static = dynamic, static
        self.mask = PointLinear(in_features=dynamic.width, out_features=1) if blend == "mask" else None
        self.num_ws, self.width, self.feature_dim = dynamic.num_ws, dynamic.width, dynamic.feature_dim

    def modulate(self, ws: torch.Tensor) -> tuple[ForegroundWeights, ForegroundWeights]:
        """Weights of both fields for styles ws [B, num_ws, w_dim]."""
        return self.dynamic.modulate(ws), self.static.modulate(ws)

    def set_progress(self, kimg: float) -> None:
        """See `ForegroundField.set_progress`."""
        for field in (self.dynamic, self.static):
            field.set_progress(kimg)

    def condition(self, weights: tuple, *, times: torch.Tensor, motion: torch.Tensor | None) -> "ConditionedBlend":
        """See `ForegroundField.condition`."""
        dynamic = self.dynamic.condition(weights[0], times=times, motion=motion)
        return ConditionedBlend(self, dynamic, self.static.condition(weights[1], times=times, motion=None))


class ConditionedBlend:
    """A `BlendedForeground` conditioned on the codes of B videos."""

    def __init__(self, field: BlendedForeground, dynamic: ConditionedForeground, static: ConditionedForeground):
        self.field, self.dynamic, self.static = field, dynamic, static

    def __call__(self, points: torch.Tensor, directions: torch.Tensor):
        """See `ConditionedForeground`; features are those of both fields, weighted by the mask, and the mask."""
        density_d, features_d = self.dynamic(points, directions)
        density_s, features_s = self.static(points, directions)
        # Mask m of every sample.
        hidden = features_d[0]
        if self.field.mask is None:
            mask = torch.full_like(density_d, 0.5)[..., None]
        else:
            mask = self.field.mask(hidden.flatten(1, 3)).sigmoid().unflatten(1, hidden.shape[1:4])
        # m · dynamic + (1 - m) · static, for density and features.
        density = density_d * mask[..., 0] + density_s * (1 - mask[..., 0])
        blended = [x * mask for x in features_d] + [x * (1 - mask) for x in features_s]
        return density, (*blended, mask)

    def raw_density(self, points: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        """See `ConditionedForeground.raw_density`."""
        return self(points, directions)[0]

    def project(self, features: tuple[torch.Tensor, ...], accumulation: torch.Tensor | float = 1.0) -> torch.Tensor:
        """See `ConditionedForeground.project`."""
        # The composited mask is the dynamic field's accumulation; the rest of it is the static field's.
        *of_both, mask = features
        middle, mask = len(of_both) // 2, mask[..., 0]
        dynamic = self.dynamic.project(tuple(of_both[:middle]), mask)
        return dynamic + self.static.project(tuple(of_both[middle:]), accumulation - mask)


class BackgroundField(nn.Module):
    """The background field: an MLP with ReLU on encoded inverted-sphere points and a background code (NeRF++)."""

    def __init__(
        self,
        *,
        code_dim: int,
        feature_dim: int,
        width: int = 64,
        num_layers: int = 4,
        position_frequencies: int = 10,
    ):
        super().__init__()
        self.position_frequencies = position_frequencies
        widths = [2 * position_frequencies * BACKGROUND_POINT_DIM + code_dim] + [width] * num_layers
        layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.layers = cast("Sequence[nn.Linear]", layers)
        self.density = nn.Linear(width, 1)
        self.features = nn.Linear(width, feature_dim)
        self.rgb = PointLinear(in_features=feature_dim, out_features=3)

    def condition(self, code: torch.Tensor) -> "ConditionedBackground":
        """The field for background codes [B, code_dim]."""
        return ConditionedBackground(self, code)


class ConditionedBackground:
    """A `BackgroundField` conditioned on the codes of B videos, constant in time and viewing direction.

    Points are inverted-sphere points [B, R, S, 4].
    """

    def __init__(self, field: BackgroundField, code: torch.Tensor):
        self.field = field
        # The code is the same for all points of a video: its part of the first layer becomes a bias, one per video.
        first = field.layers[0]
        split = first.weight.shape[1] - code.shape[1]
        order = sinusoid_order(field.position_frequencies, BACKGROUND_POINT_DIM, code.device)
        self.first = (
            first.weight[:, :split][:, order],
            torch.nn.functional.linear(code, first.weight[:, split:], first.bias),
        )

    def encode(self, points: torch.Tensor) -> torch.Tensor:
        """Positional encoding of points, sines first."""
        return sinusoids(points, self.field.position_frequencies)

    def __call__(self, points: torch.Tensor, directions: torch.Tensor):
        """Raw density [B, R, S] and features (hidden [B, R, S, width],)."""
        # Hidden layers, then the density head; the feature and colour heads follow after compositing.
        weight, bias = self.first
        layers = [PointLayer(weight, bias[:, None, None], slope=0.0)]
        layers += [PointLayer(x.weight, x.bias, slope=0.0, source=i) for i, x in enumerate(list(self.field.layers)[1:])]
        layers.append(PointLayer(self.field.density.weight, self.field.density.bias, source=len(layers) - 1))
        x, last = self.encode(points).flatten(1, 2)[:, None], len(layers) - 1
        hidden, density = point_mlp(x, layers, frames=1, keep=[last - 1, last])
        return density.reshape(points.shape[:-1]), (hidden.reshape(*points.shape[:-1], -1),)

    def project(self, features: tuple[torch.Tensor, ...], accumulation: torch.Tensor | float = 1.0) -> torch.Tensor:
        """[rgb | features] of weighted sums of hidden states, as for the foreground."""
        if torch.is_tensor(accumulation):
            accumulation = accumulation[..., None]
        layer = self.field.features
        x = point_linear(features[0], layer.weight) + layer.bias * accumulation
        return torch.cat([composited_colour(self.field.rgb.scaled(), x, accumulation), x], dim=-1)
