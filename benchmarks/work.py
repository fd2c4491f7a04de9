"""The benchmarked computations: rendering, phases of training, passes of the generator, with initial weights."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import cycle
from typing import Any

import torch

from benchmarks.calibration import SHARES
from benchmarks.products import Product, record_products
from benchmarks.scaling import Shapes, batch_of, build_training, one_pass
from renderer.trajectories import camera_path
from torch_utils.rng import RandomStream
from training.inference.frame_renderer import FrameRenderer
from training.inference.latents import SeedLatents, generator_latents
from training.launch.build import build_networks
from training.loss import VideoBatch

__all__ = ["FULL", "QUICK", "Work", "count_products", "rendering", "synthesis", "training"]

#: Overrides: the model of the original's timings, and the smallest one for a quick test.
FULL = ("model=stylenerf_faceforensics", "spec=paper", "fp32=true")
QUICK = ("model=stylenerf_small", "spec=small", "resolution=32")

CAMERAS = 16  # cameras of the path, and frames of the README's video

Work = dict[str, tuple[Callable[[], object], float]]  # name → function and its frequency
Required = tuple[Counter[Product], float]  # the products of a function, and its frequency


def rendering(options: Mapping[str, Any], *, videos: int = 1, frames: int | None = None, device: str = "cpu") -> Work:
    """One frame of every video with given codes; or, with `frames`, whole videos, codes to frames."""
    generator, _ = build_networks(options, c_dim=0, device=device)
    generator.eval()
    codes = _codes(generator, videos, device)
    cameras = camera_path("rotation_camera_yaw", generator.camera_prior, CAMERAS)
    renderer = FrameRenderer(generator, **codes)
    steps = cycle(range(CAMERAS))

    def frame() -> None:
        step = next(steps)
        renderer.render(step / (CAMERAS - 1), cameras[[step] * videos])

    def video() -> None:
        own = FrameRenderer(generator, **codes)
        for step in range(frames):
            own.render(step / (CAMERAS - 1), cameras[[step] * videos])

    if frames is None:
        return {"render": (frame, 1.0)}
    if device == "meta":  # cameras without values cannot be compared with those of the last frame
        return {"scene": (lambda: FrameRenderer(generator, **codes), 1.0), "render": (frame, float(frames))}
    return {"render": (video, 1.0)}


def training(options: Mapping[str, Any], *, videos: int = 1, frames: None = None, device: str = "cpu") -> Work:
    """The phases of an iteration; a pass takes two frames per video."""
    _, _, loss, phases = build_training(options, device)
    batch, stream = _batch(videos, options["resolution"], device), _stream(device)

    def run(phase):
        return lambda: one_pass(loss, phase, batch, stream)

    return {phase.name: (run(phase), SHARES[phase.name]) for phase in phases}


def synthesis(options: Mapping[str, Any], *, videos: int = 1, frames: int = 2, device: str = "cpu") -> Work:
    """A pass of the generator over the frames of each video, forward and backward, as in Gmain."""
    generator, _, _, phases = build_training(options, device)
    codes, stream = _codes(generator, videos, device), _stream(device)
    cameras = generator.camera_prior.sample(videos, RandomStream(0)).to(device)
    times = torch.linspace(0, 1, frames, device=device)[None].expand(videos, -1)

    def one_step() -> None:
        phases[0].begin()
        output = generator.synthesize(**codes, times=times, cameras=cameras, stream=stream, path_loss=True)
        (output.image.mean() + output.path_loss.mean()).backward()

    return {"synthesize": (one_step, 1.0)}


def count_products(compute: Callable[..., Work], options: Mapping[str, Any], **sizes: Any) -> dict[str, Required]:
    """Products and frequency of each function of one of the above; nothing is computed."""
    required = {}
    for name, (function, share) in compute(options, **sizes, device="meta").items():
        with record_products() as found:
            function()
        required[name] = found, share
    return required


def _batch(videos: int, resolution: int, device: str) -> VideoBatch:
    batch = batch_of(videos, resolution, device)
    if device == "meta":
        return batch
    random = torch.Generator().manual_seed(0)
    frames = torch.rand(batch.frames.shape, generator=random) * 2 - 1
    return replace(batch, frames=frames, dt=torch.rand(videos, generator=random))


def _stream(device: str) -> Any:
    return Shapes() if device == "meta" else RandomStream(0)


@torch.no_grad()
def _codes(generator, videos: int, device: str) -> dict[str, torch.Tensor]:
    latents = SeedLatents.join(generator_latents(generator, seed, seed) for seed in range(videos)).to(device)
    return vars(latents.with_styles(generator.mapping(latents.z, None)))
