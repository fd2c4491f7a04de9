"""Rendering with native operators on a CPU: marks for its tests, and what it is compared by."""

import pytest
import torch

from renderer.cameras import camera_rays, pixel_centers
from renderer.rays import RenderSettings
from renderer.volume_rendering import march_foreground
from torch_utils.ops.fused_mlp import has_fused_mlp
from training.networks.cpu_inference import FusedForeground
from training.networks.generator import Generator

CPU = torch.device("cpu")
needs_native = pytest.mark.skipif(not has_fused_mlp(CPU), reason="no native operators (no C++ compiler)")
needs_bfloat16 = pytest.mark.skipif(
    not has_fused_mlp(CPU, "bfloat16"), reason="the processor does not multiply bfloat16"
)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of images in [-1, 1]."""
    return 10 * torch.log10(4 / (a - b).double().square().mean()).item()


def assert_marched_alike(generator: Generator, *, samples: int, importance: int, frames: int) -> None:
    """The fused field and its native marching against the plain field in plain PyTorch, within rounding.

    Args:
        samples, importance: Samples per ray of the two passes.
        frames: Number of time steps. The rays, 25 for each of two videos, are no multiple of a tile.
    """

    def rand(size: int, seed: int) -> torch.Tensor:
        stream = torch.Generator().manual_seed(seed)
        return torch.randn(2, size, generator=stream, dtype=torch.float64).float()

    times = torch.linspace(0.1, 0.9, frames).expand(2, -1)
    ws = generator.mapping(rand(generator.z_dim, seed=4))
    codes = {
        "motion": generator.motion(rand(generator.motion_dim, seed=5), times),
        "z_bg": torch.zeros(2, generator.background_dim),
    }
    plain = generator.condition(generator.modulate(ws), times=times, **codes).foreground
    with torch.no_grad():
        fused = generator.condition(generator.modulate(ws), times=times, **codes).foreground
    assert isinstance(fused, FusedForeground) and not isinstance(plain, FusedForeground)
    origins, directions = camera_rays(generator.camera_prior.at(0.3, 0.8), pixel_centers(5))
    origins, directions = origins.expand(2, -1, -1), directions.expand(2, -1, -1)
    settings = RenderSettings(num_samples=samples, num_importance=importance)

    def sampled(field):
        march = march_foreground(field, origins, directions, settings, num_frames=frames, last_opaque=False)
        return march.accumulate(settings)

    with torch.no_grad():
        expected = sampled(plain)
        for actual in (sampled(fused), fused.march(origins, directions, settings, last_opaque=False)):
            pairs = [*zip(actual.features, expected.features, strict=True)]
            names = ("accumulation", "depth", "transmittance")
            pairs += [(getattr(actual, name), getattr(expected, name)) for name in names]
            for found, wanted in pairs:
                assert found.shape == wanted.shape
                assert (found - wanted).abs().max() <= 3e-5 * max(wanted.abs().max(), 1)
