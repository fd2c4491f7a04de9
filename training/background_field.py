"""The background that is volume rendered: a plain field on the inverted sphere, with a code per video (NeRF++).

Like a foreground (training.fields) it returns as features what must be summed along the ray, and `project` makes of
those sums what is shown.
"""

import torch
from torch import nn

from torch_utils.ops.dense import DenseLayer, DenseProgram, has_native_rows
from torch_utils.ops.point_linear import point_linear
from training.layers import PointLinear, composited_colour, sinusoid_order, sinusoids

__all__ = ["BackgroundField"]

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
