"""Inversion of one clip, from its pixels to output files: fit, fine-tuning, codes, video, report."""

import dataclasses
import json
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dnnlib import UserError, atomic_write
from renderer.cameras import Cameras
from renderer.video import VideoWriter, to_uint8
from torch_utils.argument_checks import check_network, check_number, check_tensors, is_list, shown, whole_number
from torch_utils.caller_settings import without_autocast
from torch_utils.rng import RandomStream
from training.inference.frame_renderer import FrameRenderer
from training.inference.latent_files import VideoCodes, generator_digest, save_codes
from training.inference.latents import lacks_motion
from training.inversion.loss import ClipLoss, psnr_of_error
from training.inversion.optimize import FitSettings, fit_clip, fit_images
from training.inversion.pivotal_tuning import save_tuned, tune_generator
from training.networks.generator import Generator
from training.networks.mixed_precision import half_precision

__all__ = ["TUNED_NETWORK", "Inversion", "render_codes"]

# Names of the results in a folder.
CODES, VIDEO, REPORT = "codes.npz", "inversion.mp4", "inversion.json"
TUNED_NETWORK, TUNED_CODES = "finetuned-network.pt", "finetuned-codes.npz"
RESULTS = (CODES, VIDEO, REPORT, TUNED_CODES, TUNED_NETWORK)


@torch.no_grad()
def render_codes(generator: Generator, codes: VideoCodes) -> torch.Tensor:
    """The T frames of fitted codes from their cameras, uint8 [T, 3, H, H] on the CPU."""
    device = next(generator.parameters()).device
    renderer = FrameRenderer(generator, **vars(codes.row().to(device)))
    cameras: Cameras = codes.cameras()
    return torch.cat([to_uint8(renderer.render(t, cameras[i])).cpu() for i, t in enumerate(codes.times.tolist())])


class Inversion:
    """Inversion of a clip, with progress bars.

    Args:
        generator: In evaluation mode and float32, with parameters that require no gradients.
        pixels: The clip, uint8 [T, 3, H, H] at the generator's resolution.
        times: Times of the first and the last frame; the others are evenly spaced.
        settings: Settings of the fit.
        seed: Seed of the random stream.
        perceptual: See `ClipLoss`.

    Raises:
        UserError: The perceptual network cannot be used.
        ValueError: Another type, size or state of the generator or the clip, no two times, or no settings.
    """

    @without_autocast()
    @torch.inference_mode(False)  # a caller's, in which nothing could be fitted
    def __init__(
        self,
        generator: Generator,
        pixels: np.ndarray | torch.Tensor,
        *,
        times: tuple[float, float],
        settings: FitSettings,
        seed: int,
        perceptual=None,
    ):
        check_network("generator", generator, "synthesize")
        parameters = list(generator.parameters())
        if parameters[0].dtype != torch.float32:
            given = parameters[0].dtype
            raise ValueError(f"inversion needs a generator in float32, got {given}: load it without dtype=.")
        if generator.training or any(parameter.requires_grad for parameter in parameters):
            raise ValueError(
                "inversion needs a fixed generator: call generator.eval() and generator.requires_grad_(False) first."
            )
        size = generator.resolution
        if str(getattr(pixels, "dtype", None)).removeprefix("torch.") != "uint8":
            given = getattr(pixels, "dtype", shown(pixels))
            raise ValueError(f"pixels must be uint8 [T, 3, {size}, {size}], 0 to 255, got {given}.")
        self._pixels = torch.as_tensor(pixels, device="cpu").clone()  # callers may reuse its memory
        check_tensors({"pixels": (self._pixels, ("T", 3, size, size))})
        if not is_list(times) or len(times) != 2:
            raise ValueError(f"times must be those of the first and the last frame, got {shown(times)}.")
        for end in times:
            check_number("times", end)
        if not isinstance(settings, FitSettings):
            raise ValueError(f"settings must be training.inversion.optimize.FitSettings, got {shown(settings)}.")
        if lacks_motion(generator):
            settings = dataclasses.replace(settings, motions=1)
        self._generator, self._settings, self._seed = generator, settings, seed
        device = parameters[0].device
        self._loss = ClipLoss(self._pixels.to(device).float() / 127.5 - 1, perceptual=perceptual)
        self._times = torch.linspace(*times, len(pixels), device=device, dtype=torch.float32)
        self._stream = RandomStream(seed, device)
        self._seconds = 0.0
        self._fitted = self._codes = self._frames = None
        self._tuned = self._tuned_frames = None

    @without_autocast()
    @torch.inference_mode(False)
    def fit(self) -> None:
        """Find codes and cameras, with a progress bar."""
        start, total = time.perf_counter(), fit_images(self._settings, len(self._pixels))
        # In float32: the gradients of single pixels would vanish in a GPU's float16.
        exact = half_precision(torch.float32, self._generator)
        with exact, tqdm(total=total, unit="image", disable=None, dynamic_ncols=True) as bar:

            def progress(images: int, stage: str, quality: float | None) -> None:
                bar.set_description(stage, refresh=False)
                if quality is not None:
                    bar.set_postfix_str(f"{quality:.1f} dB", refresh=False)
                bar.update(images)

            self._fitted = fit_clip(
                self._generator,
                self._loss,
                times=self._times,
                settings=self._settings,
                stream=self._stream,
                on_progress=progress,
            )
        self._seconds += time.perf_counter() - start
        cameras = {name: value[0].detach().cpu().double() for name, value in self._fitted.camera_values().items()}
        self._codes = VideoCodes(
            ws=self._fitted.ws()[0].detach().cpu(),
            z_motion=self._fitted.z_motion[0].detach().cpu(),
            z_bg=self._fitted.z_bg[0].detach().cpu(),
            times=self._times.cpu().double(),
            network=generator_digest(self._generator),
            **cameras,
        )
        self._frames = render_codes(self._generator, self._codes)

    @without_autocast()
    @torch.inference_mode(False)
    def tune(self, steps: int) -> None:
        """Fine-tune a copy of the generator to the clip, with a progress bar.

        Raises:
            ValueError: `steps` is no whole number of at least 1.
        """
        steps = whole_number("steps", steps, low=1)
        start = time.perf_counter()
        with tqdm(total=steps, unit="step", desc="fine-tuning", disable=None, dynamic_ncols=True) as bar:

            def progress(images: int, quality: float) -> None:
                bar.set_postfix_str(f"{quality:.1f} dB", refresh=False)
                bar.update()

            self._tuned = tune_generator(
                self._fitted,
                self._loss,
                steps=steps,
                batch=self._settings.batch,
                stream=self._stream,
                on_step=progress,
            )
        self._seconds += time.perf_counter() - start
        self._tuned_frames = render_codes(self._tuned, self._codes)

    def save_codes(self, folder: str | os.PathLike) -> None:
        """Write codes.npz into a folder, after removing all results of an earlier clip.

        Raises:
            UserError: One of those cannot be removed, or the file cannot be written.
        """
        for name in RESULTS:
            path = os.path.join(folder, name)
            try:
                if os.path.lexists(path):
                    os.unlink(path)
            except OSError as error:
                raise UserError(f"Cannot remove {path}, the result of an earlier clip: {error.strerror}.") from error
        save_codes(os.path.join(folder, CODES), self._codes)

    def save_tuned(self, folder: str | os.PathLike, *, snapshot: Mapping[str, Any]) -> None:
        """Write finetuned-network.pt and finetuned-codes.npz, its codes, into a folder; see `pivotal_tuning`."""
        save_tuned(os.path.join(folder, TUNED_NETWORK), self._tuned, snapshot=snapshot)
        codes = VideoCodes(**{**vars(self._codes), "network": generator_digest(self._tuned)})
        save_codes(os.path.join(folder, TUNED_CODES), codes)

    def write_video(self, folder: str | os.PathLike, *, fps: float) -> None:
        """Write inversion.mp4 into a folder: the clip beside its reconstruction, after fine-tuning beside both."""
        shown = [self._pixels, self._frames] + ([] if self._tuned is None else [self._tuned_frames])
        with VideoWriter(os.path.join(folder, VIDEO), fps) as video:
            for row in zip(*shown, strict=True):
                video.add(torch.cat(row, dim=2))

    def report(self) -> dict[str, Any]:
        """The PSNR in dB of the 8-bit frames, the cameras, and the settings."""
        codes = self._codes
        settings = {name: value for name, value in vars(self._settings).items() if name != "weights"}
        return {
            "frames": len(self._pixels),
            "resolution": self._pixels.shape[-1],
            "psnr": self._psnr(self._frames),
            "psnr_frames": [self._psnr(self._frames, i) for i in range(len(self._pixels))],
            "psnr_finetuned": None if self._tuned is None else self._psnr(self._tuned_frames),
            "seconds": round(self._seconds, 1),
            "seed": self._seed,
            "settings": {**settings, "weights": vars(self._settings.weights)},
            "cameras": {name: getattr(codes, name).tolist() for name in ("yaw", "pitch", "radius", "fov")},
            "times": codes.times.tolist(),
        }

    def _psnr(self, frames: torch.Tensor, index: int | None = None) -> float:
        part = slice(None) if index is None else slice(index, index + 1)
        difference = (frames[part].double() - self._pixels[part].double()) / 127.5
        return round(psnr_of_error(difference.square().mean()), 2)

    @staticmethod
    def write_report(folder: str | os.PathLike, report: dict[str, Any]) -> None:
        """Write inversion.json into a folder."""
        with atomic_write(os.path.join(folder, REPORT), "w") as file:
            json.dump(report, file, indent=1)
