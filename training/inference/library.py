"""The Python interface: trained networks as objects that render and can be trained on (docs/python.md).

    G = load_generator("runs/00000-clips-stylenerf_small-small-res32-mb4")
    video = G.video(seed=3, motion_seed=5)            # uint8 [T, 3, H, W]

`video3d` has the names of this module for programs outside of the checkout. The networks by themselves are loaded by
`training.checkpoints.snapshot`.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from dnnlib import atomic_write, temporary_folder
from renderer.camera_tracks import CameraTrack, program_tracks, recorded_track
from renderer.cameras import CameraPrior, Cameras
from renderer.outputs import OUTPUTS, displayed
from renderer.trajectories import DEFAULT_PROGRAM
from renderer.video import VideoWriter, image_grid, save_png, to_uint8
from training.checkpoints.pretrained import write_discriminators, write_pretrained
from training.checkpoints.snapshot import average_generator, class_name, load_snapshot, stored_discriminators
from training.checkpoints.sources import upload_folder
from training.inference.frame_renderer import FrameRenderer
from training.inference.interpolation import lerp, mix_styles, slerp
from training.inference.latent_files import load_codes
from training.inference.latents import SeedLatents, class_label, generator_latents
from training.inference.layouts import RowCodes, StyleMapping
from training.inference.model_card import PICTURE, model_card
from training.inference.render_videos import row_maps
from training.networks.discriminator import TimeAwareDiscriminators, time_plane
from training.networks.generator import Generator, SynthesisOutput

__all__ = [
    "DiscriminatorLogits",
    "VideoDiscriminators",
    "VideoGenerator",
    "load_discriminators",
    "load_generator",
    "save_video",
]

Seeds = int | Sequence[int]

CARD_SEEDS, CARD_FRAMES = 4, 6  # rows and columns of the picture of a model card


def load_generator(
    source: str | os.PathLike,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    generator_class: type[nn.Module] | None = None,
) -> "VideoGenerator":
    """The moving-average generator of a snapshot, in evaluation mode; its parameters require no gradients.

    Args:
        source: A snapshot, a run folder (its newest snapshot), a published checkpoint, a folder of `save_pretrained`,
            or a remote source, see `training.checkpoints.sources`.
        device, dtype: Of its parameters.
        generator_class: A class of your own that the snapshot must name; see docs/extending.md.

    Raises:
        UserError: The file is missing, is something else, does not fit, or cannot be downloaded.
    """
    content = load_snapshot(source, average_only=True)
    network = average_generator(content, source=source, generator_class=generator_class)
    about = {"dataset": dict(content.get("dataset") or {}), "progress": dict(content.get("progress") or {})}
    return VideoGenerator(network, about=about).to(device, dtype)


def load_discriminators(
    source: str | os.PathLike, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> "VideoDiscriminators":
    """The video and the image discriminator of a snapshot; arguments and errors as for `load_generator`."""
    return VideoDiscriminators(stored_discriminators(load_snapshot(source), source=source)).to(device, dtype)


def save_video(path: str | os.PathLike, video: torch.Tensor, *, fps: float = 8.0) -> None:
    """Write frames, uint8 [T, 3, H, W], as an .mp4 file.

    Raises:
        UserError: The file cannot be written.
        ValueError: Frames of another form, none at all, or fps not positive.
    """
    with VideoWriter(path, fps) as writer:
        for frame in video:
            writer.add(frame)


class VideoGenerator(nn.Module):
    """A 4D generator that renders videos from seeds or latent codes.

    Everything is batched: a single seed gives one video, a sequence of B seeds (or codes of B videos) gives a first
    dimension B. The same seed gives the same codes here as in every command.

    Args:
        network: The generator.
        about: 'dataset' (description of the training data) and 'progress' (cur_nimg and others), if known.

    Attributes:
        network, about: As given.
    """

    def __init__(self, network: Generator, *, about: Mapping[str, Any] | None = None):
        super().__init__()
        self.network = network
        self.about = {"dataset": {}, "progress": {}} | dict(about or {})

    @property
    def resolution(self) -> int:
        """Width of the images in pixels."""
        return self.network.resolution

    @property
    def num_ws(self) -> int:
        """Number of styles: those of the foreground come first, then those of the upsampler."""
        return self.network.num_ws

    @property
    def camera_prior(self) -> CameraPrior:
        """The cameras of training."""
        return self.network.camera_prior

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    # ------------------------------------------------------------------------------------------------------------------
    # Training

    def forward(
        self,
        z: torch.Tensor,
        c: torch.Tensor | None = None,
        *,
        z_motion: torch.Tensor,
        z_bg: torch.Tensor,
        times: torch.Tensor,
        cameras: Cameras | None = None,
        truncation_psi: float = 1.0,
        stream=None,
    ) -> SynthesisOutput:
        """Frames of B videos, differentiable: image [B, T, 3, H, W] in [-1, 1], image_raw, depth and opacity.

        Args:
            z, z_motion, z_bg: Content, motion and background codes [B, z_dim], [B, motion_dim], [B, background_dim].
            c: One-hot labels [B, c_dim], for a generator trained with labels.
            times: [B, T] in [0, 1].
            cameras: One per video; None for the frontal one.
            truncation_psi: Truncation (StyleGAN, appendix B); 1 for none.
            stream: A `torch_utils.rng.RandomStream` for random depths along the rays, as in training; None renders
                deterministically.
        """
        cameras = self.camera().repeat(len(z)) if cameras is None else cameras
        ws = self.network.mapping(z, c, truncation_psi=truncation_psi)
        return self.network.synthesize(
            ws, z_motion=z_motion, z_bg=z_bg, times=times, cameras=cameras.to(z.device), stream=stream
        )

    # ------------------------------------------------------------------------------------------------------------------
    # Latent codes and cameras

    def latents(self, seed: Seeds = 0, motion_seed: Seeds | None = None) -> SeedLatents:
        """The latent codes z, z_motion, z_bg [B, …] of seeds, on the generator's device.

        Args:
            seed: Of content and background, one or several.
            motion_seed: One for all or one each; None: the content's.

        Raises:
            ValueError: A seed out of range, or another number of motion seeds.
        """
        seeds = _list(seed)
        motions = seeds if motion_seed is None else _list(motion_seed)
        motions = motions * len(seeds) if len(motions) == 1 else motions
        seeds = seeds * len(motions) if len(seeds) == 1 else seeds
        if len(seeds) != len(motions):
            raise ValueError(f"{len(seeds)} seeds and {len(motions)} motion seeds make no pairs.")
        codes = [generator_latents(self.network, *pair) for pair in zip(seeds, motions)]
        batch = (torch.cat([getattr(code, name) for code in codes]) for name in ("z", "z_motion", "z_bg"))
        return SeedLatents(*(code.to(self.device, self.dtype) for code in batch))

    @torch.no_grad()
    def codes(
        self,
        seed: Seeds = 0,
        motion_seed: Seeds | None = None,
        *,
        z: torch.Tensor | None = None,
        truncation_psi: float = 1.0,
        class_idx: int | None = None,
    ) -> RowCodes:
        """Everything that a video is rendered from: styles ws, motion code z_motion and background code z_bg.

        Args:
            seed, motion_seed: See `latents`.
            z: Content codes [B, z_dim] (or [z_dim]) in the place of the seeds'.
            truncation_psi: Truncation; below 1: closer to the average content.
            class_idx: Class, for a generator trained with labels.

        Raises:
            ValueError: A seed or class out of range, or codes of another size.
        """
        if z is not None:
            z = self._content(z)
            seed = _list(seed) * (len(z) if len(_list(seed)) == 1 else 1)
        latents = self.latents(seed, motion_seed)
        z = latents.z if z is None else z.expand(len(latents.z), -1) if len(z) == 1 else z
        if len(z) != len(latents.z):
            raise ValueError(f"{len(z)} content codes and {len(latents.z)} seeds make no pairs.")
        try:
            label = class_label(self.network, class_idx)
        except ValueError as error:
            raise ValueError(f"class_idx: {error}") from error
        label = None if label is None else label.expand(len(z), -1).to(self.dtype)
        styles = StyleMapping(self.network.mapping, label=label, truncation_psi=truncation_psi, device=self.device)
        return RowCodes(styles.of(z), latents.z_motion, latents.z_bg)

    def load_codes(self, path: str | os.PathLike) -> RowCodes:
        """The codes in a file, as `python -m training.inversion` writes it.

        Raises:
            UserError: See `training.inference.latent_files.load_codes`.
        """
        codes = load_codes(path, self.network)
        parts = (codes.ws, codes.z_motion, codes.z_bg)
        return RowCodes(*(part[None].to(self.device, self.dtype) for part in parts))

    @staticmethod
    def interpolate(first: RowCodes, second: RowCodes, fraction: float) -> RowCodes:
        """Codes between two: styles linearly, motion and background codes spherically; 0 is the first, 1 the second."""
        return RowCodes(
            lerp(first.ws, second.ws, fraction),
            slerp(first.z_motion, second.z_motion, fraction),
            slerp(first.z_bg, second.z_bg, fraction),
        )

    def mix(self, first: RowCodes, second: RowCodes, layers: str | Sequence[int]) -> RowCodes:
        """The first codes with the styles of the second in some layers (style mixing, StyleGAN, section 3.1).

        Args:
            layers: 'foreground' (shape and motion), 'upsampler' (colours), or numbers from 0 to `num_ws` − 1.

        Raises:
            ValueError: There is no such layer.
        """
        split = self.network.foreground.num_ws
        parts = {"foreground": range(split), "upsampler": range(split, self.num_ws)}
        if isinstance(layers, str) and layers not in parts:
            raise ValueError(f"layers must be foreground, upsampler or a list of numbers, got '{layers}'.")
        chosen = parts[layers] if isinstance(layers, str) else layers
        return RowCodes(mix_styles(first.ws, second.ws, list(chosen)), first.z_motion, first.z_bg)

    def camera(
        self, yaw: float = 0.0, pitch: float = 0.0, *, radius: float | None = None, fov: float | None = None
    ) -> Cameras:
        """One camera that looks at the origin.

        Args:
            yaw, pitch: Radians, added to the angles of the frontal camera. Pitch is measured from the up axis: a
                negative one looks from above.
            radius: Distance from the origin in scene units; None: as trained.
            fov: Field of view in degrees; None: as trained.
        """
        prior = self.camera_prior
        middle = [(low + high) / 2 for low, high in (prior.yaw, prior.pitch)]
        return prior.at_angles(middle[0] + yaw, middle[1] + pitch, radius, fov=fov)

    # ------------------------------------------------------------------------------------------------------------------
    # Rendering

    @torch.no_grad()
    def frame(
        self,
        seed: Seeds = 0,
        motion_seed: Seeds | None = None,
        *,
        t: float = 0.5,
        yaw: float = 0.0,
        pitch: float = 0.0,
        fov: float | None = None,
        camera: Cameras | None = None,
        z: torch.Tensor | None = None,
        codes: RowCodes | None = None,
        truncation_psi: float = 1.0,
        class_idx: int | None = None,
        outputs: Sequence[str] | None = None,
        ray_chunk: int | None = None,
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """One frame of a video (of each of B videos).

        Args:
            t: Time; training has shown 0 to 1.
            yaw, pitch, fov: See `camera`.
            camera: In their place, one for all videos.
            codes: In the place of `seed`, `motion_seed`, `z`, `truncation_psi` and `class_idx`; see the method `codes`.
            outputs: Names of `renderer.outputs.OUTPUTS`; None for pixels.
            ray_chunk: Composite this many rays at a time, to save memory; None for all at once.

        Returns:
            Pixels, uint8 [3, H, W]; with `outputs` a dict of maps [C, h, w] of values: colours within [-1, 1], depths
            in scene units (NaN where there is no surface), unit normals, opacities within [0, 1]. With a batch [B, …].

        Raises:
            ValueError: A seed, class or output that does not exist, or the generator is in training mode.
        """
        names = _outputs(outputs)
        camera = self.camera(yaw, pitch, fov=fov) if camera is None else camera
        rows, single = self._rows(seed, motion_seed, z, codes, truncation_psi, class_idx)
        maps = self._maps(self._renderer(rows, ray_chunk), recorded_track("", camera, [t]), len(rows.ws), names)
        return self._result({name: values[:, 0] for name, values in maps.items()}, outputs, single=single)

    @torch.no_grad()
    def video(
        self,
        seed: Seeds = 0,
        motion_seed: Seeds | None = None,
        *,
        program: str = DEFAULT_PROGRAM,
        frames: int = 16,
        time_range: tuple[float, float] = (0.0, 1.0),
        fov: float | None = None,
        yaw_scale: float = 1.0,
        pitch_scale: float = 1.0,
        cameras: Cameras | None = None,
        times: Sequence[float] | None = None,
        z: torch.Tensor | None = None,
        codes: RowCodes | None = None,
        truncation_psi: float = 1.0,
        class_idx: int | None = None,
        outputs: Sequence[str] | None = None,
        ray_chunk: int | None = None,
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """A video (each of B videos) along a camera path.

        Args:
            program: Camera path, see `renderer.trajectories.camera_path`; 'front' keeps the camera still.
            frames: Number of frames, T.
            time_range: Times of the first and the last frame; equal ones stop the time.
            fov, yaw_scale, pitch_scale: Field of view in degrees, and extent of the path relative to the training's.
            cameras: T cameras in the place of a program, in the order of the frames.
            times: Their times; None: evenly over `time_range`.
            z, codes, truncation_psi, class_idx, outputs, ray_chunk: See `frame`.

        Returns:
            Pixels, uint8 [T, 3, H, W], or a dict of maps [T, C, h, w]; with a batch [B, T, …].

        Raises:
            ValueError: Like `frame`; or a program that does not exist, or times without cameras.
        """
        names = _outputs(outputs)
        if cameras is not None:
            times = torch.linspace(*time_range, len(cameras)).tolist() if times is None else times
            if len(times) != len(cameras):
                raise ValueError(f"{len(cameras)} cameras need as many times, got {len(times)}.")
            track = recorded_track("", cameras, times)
        elif times is not None:
            raise ValueError("times belong to cameras: give both, or time_range.")
        else:
            [track] = program_tracks(
                [program],
                self.camera_prior,
                n_steps=frames,
                time_steps=frames,
                time_range=time_range,
                fov=fov,
                yaw_scale=yaw_scale,
                pitch_scale=pitch_scale,
            )
        rows, single = self._rows(seed, motion_seed, z, codes, truncation_psi, class_idx)
        maps = self._maps(self._renderer(rows, ray_chunk), track, len(rows.ws), names)
        return self._result(maps, outputs, single=single)

    def pixels(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Pixels for display, uint8 [3, H, W], of a map [C, h, w] of `frame`; depths from white (near) to black."""
        settings = self.network.settings
        return displayed(name, values, size=(self.resolution,) * 2, near=settings.near, far=settings.far)

    # ------------------------------------------------------------------------------------------------------------------
    # Files

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write `config.json` and `model.safetensors` into a folder, see `training.checkpoints.pretrained`.

        Raises:
            UserError: The folder cannot be written to, or safetensors is missing.
        """
        network = self.network
        own = None if type(network) is Generator else class_name(type(network))
        write_pretrained(folder, config=network.config, state=network.state_dict(), about=self.about, network_class=own)

    from_pretrained = staticmethod(load_generator)

    def save_card(
        self,
        folder: str | os.PathLike,
        name: str,
        *,
        data: str = "",
        licence: str = "",
        metrics: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Write a model card, `README.md` with a picture of samples, into a folder; see `model_card`.

        Raises:
            UserError: The folder cannot be written to.
        """
        classes = {"class_idx": 0} if self.network.c_dim else {}
        samples = self.video(seed=range(CARD_SEEDS), frames=CARD_FRAMES, **classes)
        save_png(image_grid(samples.flatten(0, 1), CARD_FRAMES), os.path.join(folder, PICTURE))
        card = model_card(
            name, about=self.about, resolution=self.resolution, data=data, licence=licence, metrics=metrics
        )
        with atomic_write(os.path.join(folder, "README.md"), "w") as file:
            file.write(card)

    def push_to_hub(
        self,
        name: str,
        *,
        data: str = "",
        licence: str = "",
        metrics: Sequence[Mapping[str, Any]] = (),
        private: bool = False,
        message: str = "Upload the generator",
    ) -> str:
        """Upload the generator with a model card to the Hugging Face Hub; returns the address of the model.

        Args:
            name: user/name; the model is created if it is missing. The user is the one of `hf auth login`.
            data, licence, metrics: For the card, see `model_card`.
            private: A model that is created can only be seen by its owner.
            message: Of the commit.

        Raises:
            UserError: huggingface-hub is missing, or the upload fails.
        """
        with tempfile.TemporaryDirectory(dir=temporary_folder()) as folder:
            self.save_pretrained(folder)
            self.save_card(folder, name, data=data, licence=licence, metrics=metrics)
            return upload_folder(folder, name, private=private, message=message)

    # ------------------------------------------------------------------------------------------------------------------

    def _content(self, z: torch.Tensor) -> torch.Tensor:
        """Content codes [B, z_dim] of those given, which may lack the batch."""
        z = z[None] if z.ndim == 1 else z
        if z.ndim != 2 or z.shape[1] != self.network.z_dim:
            raise ValueError(f"z must be [B, {self.network.z_dim}], got {list(z.shape)}.")
        return z.to(self.device, self.dtype)

    def _rows(
        self,
        seed: Seeds,
        motion_seed: Seeds | None,
        z: torch.Tensor | None,
        codes: RowCodes | None,
        truncation_psi: float,
        class_idx: int | None,
    ) -> tuple[RowCodes, bool]:
        """The codes to render, and True if they are those of a single video without a batch dimension."""
        if codes is not None:
            return codes, False
        rows = self.codes(seed, motion_seed, z=z, truncation_psi=truncation_psi, class_idx=class_idx)
        batched = any(isinstance(value, Sequence) for value in (seed, motion_seed)) or (z is not None and z.ndim > 1)
        return rows, not batched

    def _renderer(self, rows: RowCodes, ray_chunk: int | None) -> FrameRenderer:
        return FrameRenderer(self.network, rows.ws, z_motion=rows.z_motion, z_bg=rows.z_bg, ray_chunk=ray_chunk)

    def _maps(
        self, renderer: FrameRenderer, track: CameraTrack, batch: int, names: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        """Maps [B, T, C, h, w] of the frames of a track; images as pixels."""
        cameras, background = track.cameras.to(self.device), self.network.background is not None
        frames = [
            row_maps(renderer, time, cameras[step].repeat(batch), names, background=background)
            for step, time in track.schedule
        ]
        return {name: torch.stack([maps[name] for maps in frames], dim=1) for name in names}

    @staticmethod
    def _result(maps: dict[str, torch.Tensor], outputs: Sequence[str] | None, *, single: bool):
        maps = {name: values[0] for name, values in maps.items()} if single else maps
        return to_uint8(maps["rgb"]) if outputs is None else maps


class DiscriminatorLogits(NamedTuple):
    """Logits of the video discriminator [B, 1], and of the image discriminator for every frame [B, 2] (or None)."""

    video: torch.Tensor
    image: torch.Tensor | None


class VideoDiscriminators(nn.Module):
    """The discriminators of a 4D GAN (3D-Aware Video Generation, section 3.2): of pairs of frames, and of single ones.

    Args:
        network: The two networks, `network.video` and `network.image`.
    """

    def __init__(self, network: TimeAwareDiscriminators):
        super().__init__()
        self.network = network

    @property
    def resolution(self) -> int:
        """Width of the images in pixels."""
        return self.network.resolution

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write the discriminators beside a generator's files, so that training can start from the folder (`resume=`).

        Raises:
            UserError: The folder cannot be written to, or safetensors is missing.
        """
        write_discriminators(folder, config=self.network.config, state=self.network.state_dict())

    from_pretrained = staticmethod(load_discriminators)

    def forward(self, frames: torch.Tensor, dt: torch.Tensor, c: torch.Tensor | None = None) -> DiscriminatorLogits:
        """Logits of pairs of frames; above 0: taken for real.

        Args:
            frames: [B, 2, 3, H, W] in [-1, 1], the earlier one first.
            dt: Time between them [B] in [0, 1], as a fraction of a training clip.
            c: Labels [B, c_dim] if it was trained with them; after `camera_condition=true` with
                `training.loss.camera_label` at their end.

        Raises:
            ValueError: Frames of another form, or a label that is missing.
        """
        size = self.resolution
        if frames.ndim != 5 or tuple(frames.shape[1:]) != (2, 3, size, size):
            raise ValueError(f"frames must be [B, 2, 3, {size}, {size}], got {list(frames.shape)}.")
        if self.network.c_dim and c is None:
            raise ValueError(f"these discriminators need labels c [B, {self.network.c_dim}].")
        plane = time_plane(frames[:, 0], dt)
        video = self.network.video(torch.cat([frames.flatten(1, 2), plane], dim=1), c)
        if self.network.image is None:
            return DiscriminatorLogits(video, None)
        each = None if c is None else c.repeat_interleave(2, dim=0)
        return DiscriminatorLogits(video, self.network.image(frames.flatten(0, 1), each).unflatten(0, (-1, 2))[..., 0])


def _list(seed: Seeds) -> list[int]:
    """The seeds of a batch."""
    return list(seed) if isinstance(seed, Sequence) else [seed]


def _outputs(names: Sequence[str] | None) -> list[str]:
    """Names of outputs, checked; None stands for the image."""
    if names is None:
        return ["rgb"]
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in OUTPUTS:
            raise ValueError(f"there is no output '{name}'; choose from {', '.join(OUTPUTS)}.")
    return names
