"""The mapping network (StyleGAN, section 2) and the motion network (3D-Aware Video Generation, section 3.1)."""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from training.networks.layers import FullyConnected, normalize_second_moment

__all__ = ["MappingNetwork", "MotionNetwork"]


class MappingNetwork(nn.Module):
    """Mapping network: content codes z [B, z_dim] and labels c [B, c_dim] to styles ws [B, num_ws, w_dim].

    With num_ws=None the result is w [B, w_dim].

    Args:
        num_layers: Number of fully connected layers.
        lr_multiplier: Learning-rate multiplier of these layers.
        w_avg_beta: Decay of the running mean of w that truncation pulls towards; None keeps no mean (and then
            allows no truncation).
    """

    w_avg: torch.Tensor

    def __init__(
        self,
        *,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        num_layers: int = 8,
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.995,
    ):
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.w_avg_beta = w_avg_beta
        self.embed = FullyConnected(in_features=c_dim, out_features=w_dim) if c_dim > 0 else None
        widths = [z_dim + (w_dim if c_dim > 0 else 0)] + [w_dim] * num_layers
        layers = nn.ModuleList(
            FullyConnected(in_features=a, out_features=b, act="lrelu", lr_multiplier=lr_multiplier)
            for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.layers = cast("Sequence[FullyConnected]", layers)
        if w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: torch.Tensor | None,
        c: torch.Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_w_avg: bool = False,
    ) -> torch.Tensor:
        """Styles of z and c; those below `truncation_cutoff` (None: all) are truncated, w_avg + psi (w - w_avg).

        Raises:
            ValueError: Codes or labels of the wrong shape, or truncation without `w_avg`.
        """
        # Normalise the codes, embed and normalise the labels.
        parts = []
        if self.z_dim > 0:
            if z is None or z.ndim != 2 or z.shape[1] != self.z_dim:
                raise ValueError(f"z must be [B, {self.z_dim}], got {None if z is None else tuple(z.shape)}.")
            parts.append(normalize_second_moment(z.to(self.layers[0].weight.dtype)))
        if self.embed is not None:
            if c is None or c.ndim != 2 or c.shape[1] != self.c_dim:
                raise ValueError(
                    f"this network is conditional: labels c must be [B, {self.c_dim}], "
                    f"got {None if c is None else tuple(c.shape)}."
                )
            parts.append(normalize_second_moment(self.embed(c.to(self.embed.weight.dtype))))
        # Fully connected layers.
        x = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        for layer in self.layers:
            x = layer(x)
        if update_w_avg:
            assert self.w_avg_beta is not None
            self.w_avg.copy_(x.detach().mean(dim=0).lerp(self.w_avg, self.w_avg_beta))
        if self.num_ws is None:
            return x
        # One style per layer, and the truncation trick (StyleGAN, appendix B).
        ws = x[:, None].expand(-1, self.num_ws, -1).contiguous()  # each in memory of its own, for callers that edit one
        if truncation_psi != 1:
            if self.w_avg_beta is None:
                raise ValueError(f"truncation_psi must be 1, got {truncation_psi}: this network keeps no mean of w.")
            truncated = self.w_avg + truncation_psi * (ws - self.w_avg)
            if truncation_cutoff is None or truncation_cutoff >= self.num_ws:
                return truncated
            ws = torch.cat([truncated[:, :truncation_cutoff], ws[:, truncation_cutoff:]], dim=1)
        return ws


class MotionNetwork(nn.Module):
    """Motion network: motion codes [B, motion_dim] and times [B, T] to motion vectors [B, T, out_features].

    a = FC(z_motion); a = leaky_relu(a t); m(t) = FC_linear(FC_lrelu(a)). Time enters as a factor, so m is continuous in
    it and the motion code decides direction and extent (3D-Aware Video Generation, section 3.1).

    Along such a line motions drift: all begin at one pose and grow with time. With a `frequency` f the motion code
    gives waves instead, which are bounded and alike at all times: a = sin(2π (f · FC(z_motion) t + phase)), where phase
    is another FC(z_motion). (Compare the positional encoding of StyleGAN-V, Skorokhodov et al. 2022: its periods and
    phases come from motion codes, too.) The layer of the frequencies keeps its initial weights, as in random Fourier
    features: when it was trained, its bias, a frequency that all motions share, grew, and after 80 thousand videos
    neighbouring frames began to flicker (docs/trials.md).

    Args:
        width: Hidden width.
        hidden_blocks: Number of lrelu layers before the last, linear one.
        content_dim: Size of a content code that is concatenated to the motion code; 0 for none.
        frequency: Standard deviation of the frequencies, in periods per clip; None for a line.
    """

    def __init__(
        self,
        *,
        motion_dim: int,
        out_features: int,
        width: int = 128,
        hidden_blocks: int = 1,
        content_dim: int = 0,
        frequency: float | None = None,
    ):
        super().__init__()
        if frequency is not None and (type(frequency) not in (int, float) or frequency <= 0):
            raise ValueError(f"motion.frequency must be null or a number above 0, got {frequency!r}.")
        self.frequency = frequency
        self.input = FullyConnected(in_features=motion_dim + content_dim, out_features=width, trained=frequency is None)
        if frequency is not None:
            self.phase = FullyConnected(in_features=motion_dim + content_dim, out_features=width)
        self.layers = nn.ModuleList(
            FullyConnected(in_features=width, out_features=width, act="lrelu") for _ in range(hidden_blocks)
        )
        self.output = FullyConnected(in_features=width, out_features=out_features)

    def forward(self, z_motion: torch.Tensor, times: torch.Tensor, content: torch.Tensor | None = None) -> torch.Tensor:
        # The projected code, multiplied by the time of every frame.
        code = z_motion if content is None else torch.cat([z_motion, content], dim=1)
        a = self.input(code)[:, None, :] * times[:, :, None]
        if self.frequency is None:
            a = torch.nn.functional.leaky_relu(a, 0.01)
        else:
            a = torch.sin(2 * math.pi * (self.frequency * a + self.phase(code)[:, None, :]))
        a = a.flatten(0, 1)
        for layer in self.layers:
            a = layer(a)
        return self.output(a).unflatten(0, times.shape)
