"""The foreground that is volume rendered: a modulated field with motion.

A field module holds parameters; `fold` turns it, once per video, into an evaluator: a callable
`(points, directions) -> (density, features)` as the renderer expects it. What an evaluator returns as features is
whatever must be summed along the ray and no more: heads that are linear are applied once per ray, by `project`, after
compositing. (Their biases are multiplied by the sum of the weights, which makes this exact.)

Sources: 3D-Aware Video Generation, section 3.1 (motion enters as an offset to the first hidden layer); StyleNeRF,
section 3 (modulated field, features besides colours).
"""

import dataclasses

import torch
from torch import nn

from renderer.volume_rendering import Marched, RenderSettings
from torch_utils.ops.fused_mlp import DenseLayer, DenseProgram, has_native_rows
from torch_utils.ops.point_linear import lrelu_, point_linear
from training.networks.cpu_inference import ForegroundProgram
from training.networks.layers import (
    ModulatedLinear,
    PointLinear,
    composited_colour,
    positional_encoding,
    sinusoid_order,
    sinusoids,
)

__all__ = ["BackgroundField", "BlendedForeground", "ForegroundField"]

POINT_DIM = 3
#: Negative slope of the view-dependent colour head.
VIEW_SLOPE = 0.01


class ForegroundField(nn.Module):
    """The modulated foreground MLP.

    Args:
        width, num_layers: Hidden layers.
        position_frequencies, direction_frequencies: Octaves of the positional encodings.
        feature_dim: Channels F of the features that go to the upsampler.
        view_directions: Whether colour depends on the viewing direction.
        motion: How motion vectors enter the second layer: 'add', 'concat', or 'none'.
        density_bias: Initial bias of the density head: above 0, training starts from fog instead of an almost empty
            scene, which short trainings need (what Adam adds to a bias in an iteration is its learning rate).
        time_input: 'raw' or 'encoded' makes time an input coordinate of the first layer (ablation); 'none'.
    """

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
        motion: str = "add",
        time_input: str = "none",
    ):
        super().__init__()
        if time_input not in ("none", "raw", "encoded"):
            raise ValueError(f"foreground.time_input must be none, raw or encoded, got '{time_input}'.")
        if num_layers < 2:
            raise ValueError(f"foreground.num_layers must be at least 2, got {num_layers}.")
        assert motion in ("add", "concat", "none")
        self.position_frequencies, self.direction_frequencies = position_frequencies, direction_frequencies
        self.time_frequencies = position_frequencies if time_input == "encoded" else 0
        self.motion, self.time_input = motion, time_input
        self.width, self.feature_dim, self.num_ws = width, feature_dim, num_layers + 2
        point_features = 2 * position_frequencies * POINT_DIM
        time_features = {"none": 0, "raw": 1, "encoded": 2 * self.time_frequencies}[time_input]
        inputs = [point_features + time_features, width * (2 if motion == "concat" else 1)] + [width] * (num_layers - 2)
        self.layers = nn.ModuleList(ModulatedLinear(in_features=i, out_features=width, w_dim=w_dim) for i in inputs)
        self.density = ModulatedLinear(in_features=width, out_features=1, w_dim=w_dim, demodulate=False)
        torch.nn.init.constant_(self.density.bias, density_bias)
        self.features = ModulatedLinear(in_features=width, out_features=feature_dim, w_dim=w_dim, demodulate=False)
        self.rgb = PointLinear(in_features=feature_dim, out_features=3)
        direction_features = 2 * direction_frequencies * POINT_DIM
        self.view = PointLinear(in_features=direction_features, out_features=feature_dim) if view_directions else None

    def fold(self, ws: torch.Tensor, group: int, precision: str = "float32") -> list["_FoldedForeground"]:
        """Weights for styles ws [B, num_ws, w_dim], per group of videos; for `precision` see `DenseProgram`."""
        folded = [layer.fold(ws[:, i]) for i, layer in enumerate([*self.layers, self.density, self.features])]
        order = sinusoid_order(self.position_frequencies, POINT_DIM, ws.device)
        weight, bias = folded[0]
        folded[0] = (torch.cat([weight[..., order], weight[..., len(order) :]], dim=-1), bias)
        view = None if self.view is None else self.view.scaled()
        shared = {"rgb": self.rgb.scaled(), "view": view, "precision": precision}
        parts = zip(*([(w, bias) for w in weight.split(group)] for weight, bias in folded), strict=True)
        return [_FoldedForeground([*layers], density, features, **shared) for *layers, density, features in parts]

    def evaluator(
        self, folded: "_FoldedForeground", *, times: torch.Tensor, motion: torch.Tensor | None
    ) -> "_ForegroundEvaluator":
        """The field at times [B, T] with motion vectors [B, T, width] (None without motion)."""
        return _ForegroundEvaluator(self, folded, times=times, motion=motion)


#: A layer's weight ([out, in], or [B, out, in] with one per video) and bias [out].
Linear = tuple[torch.Tensor, torch.Tensor]


@dataclasses.dataclass
class _FoldedForeground:
    """What a group of videos needs of a `ForegroundField`."""

    layers: list[Linear]
    density: Linear
    features: Linear
    rgb: Linear
    view: Linear | None
    precision: str = "float32"  # of the products, where a program evaluates the field
    program: ForegroundProgram | None = None  # made when it is first used


class _ForegroundEvaluator:
    """See `ForegroundField`. Points [B, T, R, S, 3], or [B, 1, R, S, 3] where all frames share them."""

    def __init__(
        self, field: ForegroundField, folded: _FoldedForeground, *, times: torch.Tensor, motion: torch.Tensor | None
    ):
        self.field, self.folded = field, folded
        self.num_frames = times.shape[1]
        # What depends on time alone enters a layer linearly: it becomes that layer's bias, one per frame, and the
        # products before it are shared by the frames of one camera.
        self.layers = [(weight, bias, None) for weight, bias in folded.layers]
        if field.time_input != "none":
            coordinate = times[..., None]
            if field.time_input == "encoded":
                coordinate = positional_encoding(coordinate, field.time_frequencies)
            self._split_inputs(0, 2 * field.position_frequencies * POINT_DIM, coordinate)
        if field.motion == "concat":
            self._split_inputs(1, field.width, motion)
        elif field.motion == "add":
            weight, bias, _ = self.layers[1]
            self.layers[1] = (weight, None, point_linear(motion, weight, bias))

    def _split_inputs(self, layer: int, num_points: int, extra: torch.Tensor) -> None:
        weight, bias, _ = self.layers[layer]
        self.layers[layer] = (weight[..., :num_points], None, point_linear(extra, weight[..., num_points:], bias))

    def hidden(self, points: torch.Tensor) -> torch.Tensor:
        """Last hidden state [B, T, R, S, width]."""
        batch, frames, rays, samples, _ = points.shape
        x = sinusoids(points, self.field.position_frequencies).reshape(batch, frames * rays * samples, -1)
        for weight, bias, frame_bias in self.layers:
            if frame_bias is None:
                x = point_linear(x, weight, bias, act="lrelu")
            elif batch == 1 and self.num_frames == 1:
                x = point_linear(x, weight, frame_bias[0, 0], act="lrelu")
            else:
                x = point_linear(x, weight).unflatten(1, (frames, -1)) + frame_bias[:, :, None, :]
                frames = self.num_frames
                x = lrelu_(x).flatten(1, 2)
        return x.reshape(batch, frames, rays, samples, -1).expand(-1, self.num_frames, -1, -1, -1)

    def __call__(self, points: torch.Tensor, directions: torch.Tensor):
        """Raw density [B, T, R, S] and features (hidden [B, T, R, S, width], and rgb with view directions).

        `directions`: unit viewing directions [B, R, 3].
        """
        if self._has_program():
            return self._run_program(points, directions)
        hidden = self.hidden(points)
        shape, rows = hidden.shape[:-1], hidden.reshape(len(hidden), -1, hidden.shape[-1])
        density = point_linear(rows, *self.folded.density).reshape(shape)
        if self.folded.view is None:
            return density, (hidden,)
        view = self._view_biases(directions)
        x = point_linear(rows, self.folded.features[0]).unflatten(1, shape[1:])
        view = view[:, None, :, None, :]
        x = x + view if x.requires_grad else x.add_(view)
        x = torch.nn.functional.leaky_relu_(x, VIEW_SLOPE).flatten(1, 3)
        rgb = point_linear(x, *self.folded.rgb).unflatten(1, shape[1:])
        return density, (hidden, rgb)

    def _view_biases(self, directions: torch.Tensor) -> torch.Tensor:
        """What the view-dependent head adds per ray [B, R, F], the feature head's bias included."""
        view = positional_encoding(directions, self.field.direction_frequencies)
        return point_linear(view, *self.folded.view) + self.folded.features[1]

    def _has_program(self) -> bool:
        """Whether this is one video, without gradients, on a CPU with native programs."""
        return not torch.is_grad_enabled() and ForegroundProgram.available(self.layers[0][0], self.folded.precision)

    def _program(self) -> ForegroundProgram:
        folded = self.folded
        if folded.program is None:
            folded.program = ForegroundProgram(
                [(weight[0], bias) for weight, bias, _ in self.layers],
                density=(folded.density[0][0], folded.density[1]),
                features=None if folded.view is None else folded.features[0][0],
                rgb=folded.rgb,
                view_slope=VIEW_SLOPE,
                precision=folded.precision,
            )
        return folded.program

    def _biases(self, frame: int) -> list[torch.Tensor | None]:
        return [None if bias is None else bias[0, frame] for _, _, bias in self.layers]

    def _run_program(self, points: torch.Tensor, directions: torch.Tensor):
        """`__call__` by a program. Frame by frame: they may share their points."""
        view = None if self.folded.view is None else self._view_biases(directions)[0]
        encoded = sinusoids(points[0], self.field.position_frequencies)
        shape, results, program = encoded.shape[1:-1], [], self._program()
        for frame in range(self.num_frames):
            rows = encoded[frame if len(encoded) > 1 else 0].flatten(0, 1)
            results.append(program(rows, self._biases(frame), view))
        frames = [x[0][None] if len(x) == 1 else torch.stack(x) for x in zip(*results) if x[0] is not None]
        density, *features = (x.unflatten(1, shape)[None] for x in frames)
        return density[..., 0], tuple(features)

    def march(
        self, origins: torch.Tensor, directions: torch.Tensor, settings: RenderSettings, *, last_opaque: bool
    ) -> Marched | None:
        """Composited rays (see `renderer.volume_rendering`) where a program does it."""
        if not self._has_program():
            return None
        unit = directions / directions.norm(dim=-1, keepdim=True)
        view = None if self.folded.view is None else self._view_biases(unit)[0]
        program, frequencies = self._program(), self.field.position_frequencies
        frames = [
            program.march(
                origins[0, 0],
                directions[0],
                settings,
                frequencies=frequencies,
                last_opaque=last_opaque,
                biases=self._biases(frame),
                view=view,
            )
            for frame in range(self.num_frames)
        ]
        return frames[0] if len(frames) == 1 else Marched.of_frames(frames)

    def project(self, features: tuple[torch.Tensor, ...], weight_sum: torch.Tensor | float = 1.0) -> torch.Tensor:
        """[rgb | features] [B, ..., 3 + F] of weighted sums (each [B, ..., C], weights adding up to [B, ...])."""
        hidden, *rgb = features
        if torch.is_tensor(weight_sum):
            weight_sum = weight_sum[..., None]
        weight, bias = self.folded.features
        x = point_linear(hidden.flatten(1, -2), weight).unflatten(1, hidden.shape[1:-1]) + bias * weight_sum
        if rgb:
            return torch.cat([rgb[0], x], dim=-1)
        return torch.cat([composited_colour(self.folded.rgb, x, weight_sum), x], dim=-1)


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

    def fold(
        self, ws: torch.Tensor, group: int, precision: str = "float32"
    ) -> list[tuple[_FoldedForeground, _FoldedForeground]]:
        return list(zip(*(field.fold(ws, group, precision) for field in (self.dynamic, self.static)), strict=True))

    def evaluator(self, folded: tuple, *, times: torch.Tensor, motion: torch.Tensor | None) -> "_BlendedEvaluator":
        dynamic = self.dynamic.evaluator(folded[0], times=times, motion=motion)
        return _BlendedEvaluator(self, dynamic, self.static.evaluator(folded[1], times=times, motion=None))


class _BlendedEvaluator:
    def __init__(self, field: BlendedForeground, dynamic: _ForegroundEvaluator, static: _ForegroundEvaluator):
        self.field, self.dynamic, self.static = field, dynamic, static

    def __call__(self, points: torch.Tensor, directions: torch.Tensor):
        density_d, features_d = self.dynamic(points, directions)
        density_s, features_s = self.static(points, directions)
        hidden = features_d[0]
        if self.field.mask is None:
            mask = torch.full_like(density_d, 0.5)[..., None]
        else:
            mask = self.field.mask(hidden.flatten(1, 3)).sigmoid().unflatten(1, hidden.shape[1:4])
        density = density_d * mask[..., 0] + density_s * (1 - mask[..., 0])
        blended = [x * mask for x in features_d] + [x * (1 - mask) for x in features_s]
        return density, (*blended, mask)

    def project(self, features: tuple[torch.Tensor, ...], weight_sum: torch.Tensor | float = 1.0) -> torch.Tensor:
        *features, mask = features
        middle, mask = len(features) // 2, mask[..., 0]
        dynamic = self.dynamic.project(tuple(features[:middle]), mask)
        return dynamic + self.static.project(tuple(features[middle:]), weight_sum - mask)


# ----------------------------------------------------------------------------------------------------------------------
# The background that is volume rendered: a plain field on the inverted sphere, with a code per video (NeRF++).
#
# Like a foreground (training.networks.fields) it returns as features what must be summed along the ray, and `project`
# makes of those sums what is shown.


#: Points of the inverted sphere: a direction and the inverse of a radius.
BACKGROUND_POINT_DIM = 4


class BackgroundField(nn.Module):
    """The background MLP: plain linear layers with ReLU on encoded inverted-sphere points and a background code."""

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
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.density = nn.Linear(width, 1)
        self.features = nn.Linear(width, feature_dim)
        self.rgb = PointLinear(in_features=feature_dim, out_features=3)

    def evaluator(self, code: torch.Tensor) -> "_BackgroundEvaluator":
        """The field for background codes [B, code_dim]."""
        return _BackgroundEvaluator(self, code)


class _BackgroundEvaluator:
    """See `BackgroundField`: points [B, R, S, 4]; the background knows neither time nor viewing direction."""

    def __init__(self, field: BackgroundField, code: torch.Tensor):
        self.field, self.code = field, code
        self._program: DenseProgram | None = None  # made when it is first used

    def __call__(self, points: torch.Tensor, directions: torch.Tensor):
        """Raw density [B, R, S] and features (hidden [B, R, S, width],)."""
        shape = points.shape[:-1]
        encoded = sinusoids(points, self.field.position_frequencies)
        # The code is the same for all points of a video: its share of the first layer is a bias.
        first, *rest = self.field.layers
        split = encoded.shape[-1]
        bias = torch.nn.functional.linear(self.code, first.weight[:, split:], first.bias)
        order = sinusoid_order(self.field.position_frequencies, BACKGROUND_POINT_DIM, points.device)
        if not torch.is_grad_enabled() and points.dtype == torch.float32 and has_native_rows(points.device):
            density, x = self._run_program(encoded.flatten(0, -2), first.weight[:, order], bias)
        else:
            x = point_linear(encoded.reshape(len(points), -1, split), first.weight[:, order]) + bias[:, None, :]
            x = torch.relu_(x)
            for layer in rest:
                x = point_linear(x, layer.weight, layer.bias, act="relu")
            density = point_linear(x, self.field.density.weight, self.field.density.bias)
        return density.reshape(shape), (x.reshape(*shape, -1),)

    def _run_program(self, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor):
        """Density and last hidden state of encoded points, without gradients on a CPU."""
        last = len(self.field.layers) - 1
        if self._program is None:
            weights = [(weight, bias), *((layer.weight, layer.bias) for layer in self.field.layers[1:])]
            layers = [DenseLayer(w, b, slope=0.0, source=i - 1) for i, (w, b) in enumerate(weights)]
            layers.append(DenseLayer(self.field.density.weight, self.field.density.bias, source=last))
            self._program = DenseProgram(layers)
        return self._program(rows, keep=[last + 1, last])

    def project(self, features: tuple[torch.Tensor, ...], weight_sum: torch.Tensor | float = 1.0) -> torch.Tensor:
        """[rgb | features] of weighted sums of hidden states, as for the foreground."""
        if torch.is_tensor(weight_sum):
            weight_sum = weight_sum[..., None]
        layer = self.field.features
        x = point_linear(features[0], layer.weight) + layer.bias * weight_sum
        return torch.cat([composited_colour(self.field.rgb.scaled(), x, weight_sum), x], dim=-1)
