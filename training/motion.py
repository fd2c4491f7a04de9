"""The motion network: a motion code and a time to one feature offset per frame (3D-Aware Video Generation, sec. 3.1).

a = FC(z_motion); a = leaky_relu(a t); m(t) = FC_linear(FC_lrelu(a)). Time enters as a factor, so m is continuous in it
and the motion code decides direction and extent.
"""

import torch
from torch import nn

from training.layers import FullyConnected

__all__ = ["MotionNetwork"]


class MotionNetwork(nn.Module):
    """Motion codes [B, motion_dim] and times [B, T] to motion vectors [B, T, out_features].

    Args:
        width: Hidden width.
        hidden_blocks: Number of lrelu layers before the last, linear one.
        content_dim: Size of a content code that is concatenated to the motion code; 0 for none.
    """

    def __init__(
        self, *, motion_dim: int, out_features: int, width: int = 128, hidden_blocks: int = 1, content_dim: int = 0
    ):
        super().__init__()
        self.input = FullyConnected(in_features=motion_dim + content_dim, out_features=width)
        self.layers = nn.ModuleList(
            FullyConnected(in_features=width, out_features=width, act="lrelu") for _ in range(hidden_blocks)
        )
        self.output = FullyConnected(in_features=width, out_features=out_features)

    def forward(self, z_motion: torch.Tensor, times: torch.Tensor, content: torch.Tensor | None = None) -> torch.Tensor:
        code = z_motion if content is None else torch.cat([z_motion, content], dim=1)
        a = self.input(code)[:, None, :] * times[:, :, None]
        a = torch.nn.functional.leaky_relu(a, 0.01).flatten(0, 1)
        for layer in self.layers:
            a = layer(a)
        return self.output(a).unflatten(0, times.shape)
