"""Candidate videos of an inversion: styles, latent codes and a camera per frame, rendered with gradients."""

import dataclasses
import math

import torch
from torch import nn

from renderer.cameras import POLE_MARGIN, CameraPrior, Cameras, cam2world_from_angles
from torch_utils.argument_checks import check_number
from training.inversion.style_prior import StylePrior
from training.networks.generator import Generator

__all__ = ["CandidateVideos", "Weights"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of the penalties, relative to the squared differences of pixels in [-1, 1].

    Attributes:
        style: Mean square of the styles' coordinates (their distance from the average style, see StylePrior).
        layers: Mean square of the layers' differences from their mean.
        code: Mean square of the motion and the background code, which training samples from N(0, 1).
        smooth: Mean squared second difference of yaw and pitch in time, in radians.
        outside: Mean squared distance of yaw and pitch from the trained range, in radians.
        zoom: Mean square of the logarithms of radius and field of view relative to the trained ones.

    Raises:
        ValueError: A weight is not a number of at least 0.
    """

    style: float = 1e-3
    layers: float = 1e-3
    code: float = 1e-3
    smooth: float = 0.1
    outside: float = 1.0
    zoom: float = 1.0

    def __post_init__(self):
        for name, value in vars(self).items():
            check_number(f"weights.{name}", value, 0, inclusive=True)
            object.__setattr__(self, name, float(value))  # plain, for the report


class CandidateVideos(nn.Module):
    """S candidate videos of T frames, as parameters of one module.

    Attributes:
        x: Coordinates of the styles [S, L, w_dim] with L = num_ws, or L = 1 where all layers share one.
        z_motion, z_bg: [S, motion_dim], [S, background_dim].
        yaw, pitch: [S, T] in radians.
        zoom: Logarithms of radius and field of view relative to the trained ones [S, 2], for all frames.
        times: [T].
    """

    def __init__(
        self,
        generator: Generator,
        prior: StylePrior,
        *,
        x: torch.Tensor,
        z_motion: torch.Tensor,
        z_bg: torch.Tensor,
        yaw: torch.Tensor,
        pitch: torch.Tensor,
        times: torch.Tensor,
        zoom: torch.Tensor | None = None,
    ):
        super().__init__()
        self._generator, self._prior = [generator], prior  # in a list: its parameters are not this module's
        self.x, self.z_motion, self.z_bg = nn.Parameter(x), nn.Parameter(z_motion), nn.Parameter(z_bg)
        self.yaw, self.pitch = nn.Parameter(yaw), nn.Parameter(pitch)
        self.zoom = nn.Parameter(yaw.new_zeros(len(yaw), 2) if zoom is None else zoom)
        self.times = times

    @property
    def generator(self) -> Generator:
        return self._generator[0]

    def __len__(self) -> int:
        return len(self.x)

    def select(self, index: torch.Tensor | list[int], **changes) -> "CandidateVideos":
        """Some of the videos, as new parameters; `changes` replace arguments of the constructor."""
        kept = {name: value for name, value in self.named_parameters() if name not in changes}
        arguments = {name: value.detach()[index].clone() for name, value in kept.items()}
        arguments |= {"generator": self.generator, "prior": self._prior, "times": self.times, **changes}
        return CandidateVideos(arguments.pop("generator"), arguments.pop("prior"), **arguments)

    def ws(self) -> torch.Tensor:
        """Styles [S, num_ws, w_dim]."""
        return self._prior.styles(self.x).expand(-1, self.generator.num_ws, -1)

    def camera_values(self) -> dict[str, torch.Tensor]:
        """yaw, pitch, radius and fov [S, T]."""
        radius, fov = trained_centre(self.generator.camera_prior)
        scale = self.zoom.exp()[:, :, None].expand(-1, -1, len(self.times))
        pitch = self.pitch.clamp(POLE_MARGIN, math.pi - POLE_MARGIN)
        return {
            "yaw": self.yaw,
            "pitch": pitch,
            "radius": radius * scale[:, 0],
            "fov": (fov * scale[:, 1]).clamp(max=170),
        }

    def render(self, frames: torch.Tensor) -> torch.Tensor:
        """Images [S, n, 3, H, W] of the given n frames.

        Every frame has a camera of its own, so for the generator each is a video of one frame.
        """
        count, n = len(self), len(frames)
        values = {name: value[:, frames].reshape(-1) for name, value in self.camera_values().items()}
        cameras = Cameras(
            cam2world=cam2world_from_angles(values["yaw"], values["pitch"], values["radius"]), fov=values["fov"]
        )
        output = self.generator.synthesize(
            self.ws().repeat_interleave(n, dim=0),
            z_motion=self.z_motion.repeat_interleave(n, dim=0),
            z_bg=self.z_bg.repeat_interleave(n, dim=0),
            times=self.times[frames].repeat(count)[:, None],
            cameras=cameras,
        )
        return output.image.unflatten(0, (count, n))[:, :, 0]

    def penalty(self, weights: Weights) -> torch.Tensor:
        """The weighted penalties of every video [S]."""
        prior = self.generator.camera_prior
        total = weights.style * self.x.square().mean(dim=(1, 2))
        total = total + weights.layers * (self.x - self.x.mean(dim=1, keepdim=True)).square().mean(dim=(1, 2))
        for code in (self.z_motion, self.z_bg):
            if code.shape[1]:
                total = total + weights.code * code.square().mean(dim=1)
        for angle, (low, high) in ((self.yaw, prior.yaw), (self.pitch, prior.pitch)):
            beyond = (angle - angle.clamp(low, high)).square().mean(dim=1)
            total = total + weights.outside * beyond
            if len(self.times) > 2:
                total = total + weights.smooth * angle.diff(n=2, dim=1).square().mean(dim=1)
        return total + weights.zoom * self.zoom.square().mean(dim=1)


def trained_centre(prior: CameraPrior) -> tuple[float, float]:
    """Radius at the centre of the trained range, and the field of view in degrees."""
    return (prior.radius[0] + prior.radius[1]) / 2, prior.fov
