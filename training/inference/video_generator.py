"""The Python interface: trained networks as objects that render and can be trained on (docs/python.md).

    G = load_generator("runs/00000-clips-stylenerf_small-small-res32-mb4")
    video = G.video(seed=3, motion_seed=5)            # uint8 [T, 3, H, W]

Programs import these names, and those of `video_discriminators`, from `video3d`. The networks by themselves are loaded
by `training.checkpoints.snapshot`.
"""

import math
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, overload

import torch
from torch import nn

from dnnlib import UserError, temporary
from renderer.camera_tracks import CameraTrack, recorded_track
from renderer.cameras import POLE, CameraPrior, Cameras
from renderer.outputs import CHANNELS, displayed
from renderer.video import to_uint8
from torch_utils.argument_checks import (
    check_floats,
    check_network,
    check_number,
    check_placement,
    check_stream,
    check_tensors,
    is_list,
    shown,
    whole_number,
)
from torch_utils.caller_settings import without_autocast, without_defaults
from training.checkpoints.network_classes import check_class, own_class
from training.checkpoints.network_state import check_rebuilt
from training.checkpoints.pretrained import write_pretrained
from training.checkpoints.snapshot import average_generator, load_snapshot
from training.checkpoints.snapshot_files import numbered_snapshots
from training.checkpoints.sources import check_upload, upload_folder
from training.inference.arguments import (
    SOURCES,
    check_alone,
    check_cameras,
    check_codes,
    check_path,
    check_time,
    label_shape,
    output_names,
    video_track,
)
from training.inference.batch_codes import (
    Label,
    Seeds,
    batch_latents,
    codes_between,
    given_codes,
    mapped_codes,
    mixed_codes,
    on_network,
)
from training.inference.frame_renderer import FrameRenderer
from training.inference.latent_files import VideoCodes, generator_digest, load_codes, save_codes
from training.inference.latents import RowCodes, SeedLatents
from training.inference.model_card import write_card
from training.inference.render_videos import row_maps
from training.networks.generator import Generator, SynthesisOutput

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torch_utils.rng import RandomStream

__all__ = ["VideoGenerator", "load_generator"]

CARD_SEEDS, CARD_FRAMES = 4, 6  # rows and columns of the picture of a model card


@without_defaults()
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
        device, dtype: Device and type of its parameters.
        generator_class: A class of your own that the snapshot must name; see docs/extending.md.

    Raises:
        UserError: The file is missing, is something else, does not fit, or cannot be downloaded; or the memory is full.
        ValueError: No path, a device or type that cannot be used, or a class other than the snapshot's.
    """
    check_path("source", source, SOURCES)
    check_placement(device, dtype)
    if generator_class is not None and not isinstance(generator_class, type):
        raise ValueError(f"generator_class must be a class, got {type(generator_class).__name__}.")
    content = load_snapshot(source, average_only=True)
    network = average_generator(content, source=source, device=device, generator_class=generator_class)
    check_class("generator", network, generator_class, source=source)
    about = {name: dict(content[name]) for name in ("dataset", "progress")}
    return VideoGenerator(network, about=about).to(dtype)


# Arguments of `frame` and `video` for type checkers, in whose signatures the result depends on `outputs`.


class _Options(TypedDict, total=False):
    fov: float | None
    z: torch.Tensor | None
    codes: RowCodes | None
    truncation_psi: float | None
    class_idx: Label | None
    geometry_resolution: int | None
    ray_chunk: int | None


class _FrameOptions(_Options, total=False):
    t: float
    yaw: float | None
    pitch: float | None
    camera: Cameras | None


class _VideoOptions(_Options, total=False):
    program: str | None
    frames: int | None
    time_range: tuple[float, float] | None
    yaw_scale: float | None
    pitch_scale: float | None
    cameras: Cameras | None
    times: Sequence[float] | None


class VideoGenerator(nn.Module):
    """A 4D generator that renders videos from seeds or latent codes.

    Everything is batched: a single seed gives one video, a sequence of B seeds (or codes of B videos) gives a first
    dimension B. The same seed gives the same codes here as in every command.

    Args:
        network: The generator.
        about: 'dataset' (description of the training data) and 'progress' (cur_nimg and others), if known.

    Attributes:
        network, about: As given.

    Raises:
        ValueError: No network, or no mapping.
    """

    def __init__(self, network: Generator, *, about: Mapping[str, Any] | None = None):
        super().__init__()
        check_network("network", network, "synthesize")
        if about is not None and not isinstance(about, Mapping):
            raise ValueError(f"about must be a mapping with 'dataset' and 'progress', got {shown(about)}.")
        self.network = network
        self.training = network.training  # for callers that restore the mode that they found
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

    @without_autocast()
    def forward(
        self,
        z: torch.Tensor | None = None,
        c: torch.Tensor | None = None,
        *,
        ws: torch.Tensor | None = None,
        z_motion: torch.Tensor,
        z_bg: torch.Tensor,
        times: torch.Tensor,
        cameras: Cameras | None = None,
        truncation_psi: float | None = None,
        stream: "RandomStream | None" = None,
    ) -> SynthesisOutput:
        """Frames of B videos, differentiable: image [B, T, 3, H, W] (nominally in [-1, 1]), image_raw, depth, opacity.

        Args:
            z, z_motion, z_bg: Content, motion and background codes [B, z_dim], [B, motion_dim], [B, background_dim].
            c: Labels [B, c_dim], one-hot if they are classes, for a generator trained with labels.
            ws: Styles [B, num_ws, w_dim], as the method `codes` gives them, instead of `z`, `c` and `truncation_psi`.
            times: [B, T] in [0, 1].
            cameras: One per video; None for the frontal one. Gradients go to their poses and fields of view, too.
            truncation_psi: Truncation (StyleGAN, appendix B); None: 1, no truncation.
            stream: A `torch_utils.rng.RandomStream` for random depths along the rays, as in training; None renders
                deterministically.

        Raises:
            ValueError: Tensors of other shapes, of different batches or on another device, a missing label, neither
                codes nor styles or both, or a stream of the wrong type. Values are not checked, which would wait for a
                GPU.
        """
        network = self.network
        shapes = {
            "z_motion": (z_motion, ("B", network.motion_dim)),
            "z_bg": (z_bg, ("B", network.background_dim)),
            "times": (times, ("B", "T")),
        }
        check_stream(stream, optional=True, device=self.device)
        if ws is None:
            psi = 1.0 if truncation_psi is None else truncation_psi
            check_number("truncation_psi", psi)
            shapes = {"z": (z, ("B", network.z_dim))} | shapes | label_shape(c, network.c_dim)
            check_tensors(shapes, device=self.device)
            ws = network.mapping(z, c, truncation_psi=psi)
        else:
            check_alone("ws", z=z, c=c, truncation_psi=truncation_psi)
            check_tensors({"ws": (ws, ("B", self.num_ws, network.w_dim))} | shapes, device=self.device)
        cameras = self.camera().repeat(len(ws)) if cameras is None else cameras
        check_cameras("cameras", cameras, count=len(ws), values=False)
        ws, z_motion, z_bg, times = (value.to(self.dtype) for value in (ws, z_motion, z_bg, times))
        return network.synthesize(
            ws, z_motion=z_motion, z_bg=z_bg, times=times, cameras=cameras.to(self.device), stream=stream
        )

    # ------------------------------------------------------------------------------------------------------------------
    # Latent codes and cameras

    def latents(self, seed: Seeds = 0, motion_seed: Seeds | None = None) -> SeedLatents:
        """The latent codes z, z_motion, z_bg [B, …] of seeds, on the generator's device.

        z and z_motion are standard normal, as in training. z_bg has a standard deviation of 0.65, which avoids odd
        backgrounds: for training, draw background codes with `torch.randn`.

        Args:
            seed: Seed of content and background, one or several.
            motion_seed: One for all, one each, or several for a single content; None: the content's.

        Raises:
            ValueError: Not seeds, a seed out of range, or a different number of motion seeds.
        """
        return batch_latents(self.network, seed, motion_seed)

    @without_autocast()
    @torch.no_grad()
    def codes(
        self,
        seed: Seeds = 0,
        motion_seed: Seeds | None = None,
        *,
        z: torch.Tensor | None = None,
        truncation_psi: float = 1.0,
        class_idx: Label | None = None,
    ) -> RowCodes:
        """Everything that a video is rendered from: styles ws, motion code z_motion and background code z_bg.

        Args:
            seed, motion_seed: See `latents`.
            z: Content codes [B, z_dim] (or [z_dim]) instead of the seeds', which then give motion and background only.
            truncation_psi: Truncation; below 1: closer to the average content.
            class_idx: Class, or the c_dim numbers of a label, for a generator trained with labels. All videos share it;
                `RowCodes.join` joins the codes of several calls.

        Returns:
            ws [B, num_ws, w_dim], z_motion [B, motion_dim] and z_bg [B, background_dim], on the generator's device.

        Raises:
            ValueError: A seed or class out of range, codes of another size, or a value of another type.
        """
        return mapped_codes(self.network, seed, motion_seed, z=z, truncation_psi=truncation_psi, class_idx=class_idx)

    def load_codes(self, path: str | os.PathLike) -> RowCodes:
        """The codes in a file, as `python -m training.inversion` writes it: a batch of one video, B = 1.

        If they were fitted to another network, a warning says so.

        Raises:
            UserError: See `training.inference.latent_files.load_codes`.
            ValueError: No path.
        """
        check_path("path", path)
        codes = load_codes(path, self.network)
        if not codes.belong_to(self.network):
            text = f"the codes in {os.fspath(path)} were fitted to another network; they may look different here."
            warnings.warn(text, stacklevel=2)
        return on_network(self.network, codes.row())

    @without_autocast()
    def save_codes(
        self,
        path: str | os.PathLike,
        codes: RowCodes,
        *,
        cameras: Cameras | None = None,
        times: Sequence[float] | None = None,
    ) -> None:
        """Write codes of one video, in float32, into a file for `load_codes` and the `--codes` of commands.

        Args:
            codes: Of one video, B = 1, as the method `codes` returns them, or edited.
            cameras: T cameras that look at the origin, which `generate.py --codes` follows if no others are asked for;
                None: the frontal one.
            times: Their times; None: as in `video`, and 0.5 for the frontal camera.

        Raises:
            UserError: The file cannot be written.
            ValueError: No path, codes of several videos or of another generator's size, a value that is not finite,
                cameras with a roll or that look elsewhere, or another number of times.
        """
        check_path("path", path)
        check_codes(self.network, codes=codes, finite=True)
        if len(codes.ws) != 1:
            raise ValueError(
                f"codes must be those of one video, got those of {len(codes.ws)}: codes[0] are the first one's."
            )
        if cameras is None:
            cameras, times = self.camera(), [0.5] if times is None else times
        track = video_track(self.camera_prior, cameras=cameras, times=times)
        shown = [time for _, time in track.schedule]
        save_codes(path, VideoCodes.of(codes, track.cameras, shown, network=generator_digest(self.network)))

    @staticmethod
    def interpolate(first: RowCodes, second: RowCodes, fraction: float) -> RowCodes:
        """Codes between two: styles linearly, motion and background codes spherically; 0 is the first, 1 the second.

        Args:
            first, second: Codes of B videos each, as `codes` returns them.
            fraction: Any finite number; below 0 and above 1 extrapolate.

        Raises:
            ValueError: Codes of different sizes or numbers of videos, or a fraction that is not a number.
        """
        return codes_between(first, second, fraction)

    def mix(self, first: RowCodes, second: RowCodes, layers: str | Sequence[int]) -> RowCodes:
        """The first codes with the styles of the second in some layers (style mixing, StyleGAN, section 3.1).

        Args:
            layers: 'foreground' (of the radiance field), 'upsampler', or numbers from 0 to `num_ws` − 1.

        Raises:
            ValueError: There is no such layer, or the codes are of different numbers of videos.
        """
        return mixed_codes(self.network, first, second, layers)

    @without_autocast()
    def camera(
        self,
        yaw: float | torch.Tensor = 0.0,
        pitch: float | torch.Tensor = 0.0,
        *,
        radius: float | torch.Tensor | None = None,
        fov: float | torch.Tensor | None = None,
    ) -> Cameras:
        """One camera that looks at the origin. Tensors without dimensions, instead of numbers, receive gradients.

        Args:
            yaw, pitch: Radians, added to the angles of the frontal camera. Pitch is measured from the up axis: a
                negative one looks from above.
            radius: Distance from the origin in scene units; None: as trained.
            fov: Field of view in degrees; None: as trained.

        Raises:
            ValueError: A value that is not a number in its range, or a pitch at a pole or beyond.
        """
        prior = self.camera_prior
        middle = [(low + high) / 2 for low, high in (prior.yaw, prior.pitch)]
        for name, value in (("yaw", yaw), ("pitch", pitch)):
            if is_list(value):
                several = "G.camera_prior.at_angles makes several cameras"
                raise ValueError(f"{name} must be a finite number, got {shown(value)}; {several}.")
        # Tensors are checked but not converted, so that gradients reach them through the camera.
        check_number("yaw", yaw)
        check_number("pitch", pitch, POLE - middle[1], math.pi - POLE - middle[1])
        if radius is not None:
            check_number("radius", radius, 0)
        if fov is not None:
            check_number("fov", fov, 0, 180)
        return prior.at_angles(middle[0] + yaw, middle[1] + pitch, radius, fov=fov)

    # ------------------------------------------------------------------------------------------------------------------
    # Rendering

    @overload
    def frame(
        self,
        seed: Seeds | None = ...,
        motion_seed: Seeds | None = ...,
        *,
        outputs: None = ...,
        **options: "Unpack[_FrameOptions]",
    ) -> torch.Tensor: ...

    @overload
    def frame(
        self,
        seed: Seeds | None = ...,
        motion_seed: Seeds | None = ...,
        *,
        outputs: str | Sequence[str],
        **options: "Unpack[_FrameOptions]",
    ) -> dict[str, torch.Tensor]: ...

    @without_autocast()
    @torch.no_grad()
    def frame(
        self,
        seed: Seeds | None = None,
        motion_seed: Seeds | None = None,
        *,
        t: float = 0.5,
        yaw: float | None = None,
        pitch: float | None = None,
        fov: float | None = None,
        camera: Cameras | None = None,
        z: torch.Tensor | None = None,
        codes: RowCodes | None = None,
        truncation_psi: float | None = None,
        class_idx: Label | None = None,
        outputs: str | Sequence[str] | None = None,
        geometry_resolution: int | None = None,
        ray_chunk: int | None = None,
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """One frame of a video (of each of B videos).

        Args:
            seed: See `latents`; None: 0.
            motion_seed, z, class_idx: See the method `codes`.
            truncation_psi: Likewise; None: 1, no truncation.
            t: Time; training covered 0 to 1.
            yaw, pitch, fov: See `camera`; None: the frontal view, as trained.
            camera: One camera for all videos, instead of these.
            codes: Codes instead of `seed`, `motion_seed`, `z`, `truncation_psi` and `class_idx`; see the method
                `codes`. They are moved to the generator's device and type.
            outputs: A name of `renderer.outputs.OUTPUTS`, or several; None for pixels.
            geometry_resolution: Rays per side for outputs other than rgb, see `FrameRenderer.volume`; None: those of
                the image.
            ray_chunk: Composite this many rays at a time, to save memory; None for all at once.

        Returns:
            Pixels, uint8 [3, H, W]; with `outputs` a dict of maps [C, h, w] of values: colours, nominally in [-1, 1]
            and not clipped, depths in scene units (NaN where there is no surface), unit normals, opacities within
            [0, 1]. With a batch [B, …].

        Raises:
            ValueError: A seed, class or output that does not exist, a value that is not allowed, two arguments that
                exclude each other, or a generator in training mode.
        """
        names = output_names(outputs)
        check_time("t", t)
        if camera is None:
            camera = self.camera(0.0 if yaw is None else yaw, 0.0 if pitch is None else pitch, fov=fov)
        else:
            check_alone("camera", yaw=yaw, pitch=pitch, fov=fov)
            check_cameras("camera", camera, count=1, smallest_fov=self.camera_prior.smallest_fov)
        content = {"z": z, "truncation_psi": truncation_psi, "class_idx": class_idx}
        rows, single = given_codes(self.network, codes, seed=seed, motion_seed=motion_seed, **content)
        track = recorded_track("", camera, [t])
        maps = self._maps(rows, track, names, geometry_resolution, ray_chunk, pixels=outputs is None)
        return self._result({name: values[:, 0] for name, values in maps.items()}, outputs, single=single)

    @overload
    def video(
        self,
        seed: Seeds | None = ...,
        motion_seed: Seeds | None = ...,
        *,
        outputs: None = ...,
        **options: "Unpack[_VideoOptions]",
    ) -> torch.Tensor: ...

    @overload
    def video(
        self,
        seed: Seeds | None = ...,
        motion_seed: Seeds | None = ...,
        *,
        outputs: str | Sequence[str],
        **options: "Unpack[_VideoOptions]",
    ) -> dict[str, torch.Tensor]: ...

    @without_autocast()
    @torch.no_grad()
    def video(
        self,
        seed: Seeds | None = None,
        motion_seed: Seeds | None = None,
        *,
        program: str | None = None,
        frames: int | None = None,
        time_range: tuple[float, float] | None = None,
        fov: float | None = None,
        yaw_scale: float | None = None,
        pitch_scale: float | None = None,
        cameras: Cameras | None = None,
        times: Sequence[float] | None = None,
        z: torch.Tensor | None = None,
        codes: RowCodes | None = None,
        truncation_psi: float | None = None,
        class_idx: Label | None = None,
        outputs: str | Sequence[str] | None = None,
        geometry_resolution: int | None = None,
        ray_chunk: int | None = None,
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """A video (each of B videos) along a camera path.

        Args:
            program: Camera path, see `renderer.trajectories.camera_path`; 'front' keeps the camera still. None:
                'rotation_camera_yaw'.
            frames: Number of frames, T; None: 16.
            time_range: Times of the first and the last frame; equal ones stop time. None: 0 and 1.
            fov: Field of view in degrees; None: as trained.
            yaw_scale, pitch_scale: Extent of the path relative to the training's; None: 1. A warning says so if the
                program does not move the camera in that angle.
            cameras: T cameras in the order of the frames, instead of `program`, `frames`, `fov` and the scales.
            times: Their times, instead of `time_range`.
            seed, motion_seed, z, codes, truncation_psi, class_idx, outputs, geometry_resolution, ray_chunk: See
                `frame`.

        Returns:
            Pixels, uint8 [T, 3, H, W], or a dict of maps [T, C, h, w]; with a batch [B, T, …].

        Raises:
            ValueError: Like `frame`; or a program that does not exist, or times without cameras.
        """
        names = output_names(outputs)
        track = video_track(
            self.camera_prior,
            program=program,
            frames=frames,
            time_range=time_range,
            fov=fov,
            yaw_scale=yaw_scale,
            pitch_scale=pitch_scale,
            cameras=cameras,
            times=times,
        )
        content = {"z": z, "truncation_psi": truncation_psi, "class_idx": class_idx}
        rows, single = given_codes(self.network, codes, seed=seed, motion_seed=motion_seed, **content)
        maps = self._maps(rows, track, names, geometry_resolution, ray_chunk, pixels=outputs is None)
        return self._result(maps, outputs, single=single)

    def pixels(self, name: str, values: torch.Tensor, *, cameras: Cameras | None = None) -> torch.Tensor:
        """Pixels for display, uint8 [3, H, W], of a map [C, h, w] of `frame`; depths from white (near) to black.

        A map smaller than the image is enlarged to its size by repeating pixels.

        Args:
            cameras: Those of the map, or of all frames that are to be comparable, if their distance from the origin is
                not that of training: the range of depths moves with it.

        Raises:
            ValueError: There is no such output, the map is not one of that output, or no cameras.
        """
        [name] = output_names([name])
        check_tensors({"values": (values, (CHANNELS[name], "h", "w"))})
        check_floats("values", values, "as outputs= gives them")
        if cameras is not None:
            check_cameras("cameras", cameras)
        near, far = self.network.depth_range(self.camera_prior.at() if cameras is None else cameras)
        shown = displayed(name, values, size=(max(self.resolution, values.shape[-1]),) * 2, near=near, far=far)
        return shown.contiguous()  # channels that can be edited one by one

    # ------------------------------------------------------------------------------------------------------------------
    # Files

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write `config.json` and `model.safetensors` into a folder, see `training.checkpoints.pretrained`.

        Of `about`, 'dataset' and 'progress' are written. Discriminators already in the folder are kept: overwrite them
        with this generator's, or use another folder.

        Raises:
            UserError: The folder cannot be written to, is a run folder, holds such a file of another program,
                safetensors is missing, the network's config would give another network, or a value is none of JSON.
            ValueError: No path.
        """
        check_path("folder", folder)
        if os.path.isdir(folder) and numbered_snapshots(folder):
            raise UserError(
                f"'{os.fspath(folder)}' holds the snapshots of a run, and this model would be loaded instead of them; "
                "choose another folder."
            )
        network = self.network
        check_rebuilt(network, what="the generator")
        own = own_class(network).get("class")
        write_pretrained(folder, config=network.config, state=network.state_dict(), about=self.about, network_class=own)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, **options: Any) -> "VideoGenerator":
        """`load_generator` with an object of this class, which may be derived."""
        loaded = load_generator(source, **options)
        return loaded if cls is VideoGenerator else cls(loaded.network, about=loaded.about)

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

        Args:
            folder: An existing folder, usually one of `save_pretrained`.
            name: The model's name in the card, user/name on the Hub.
            data: A sentence about the training data.
            licence: Licence of the weights, an id of the Hub like 'cc-by-4.0'.
            metrics: Rows with 'metric', 'value' and, if known, 'interval', as `metrics.evaluator` returns them.

        Raises:
            UserError: The folder cannot be written to.
            ValueError: No path, no list of such rows, or another argument that is not a string.
        """
        check_path("folder", folder)
        label = None
        if self.network.c_dim:
            examples = getattr(self.network, "label_examples", None)  # a class of the user's may lack it
            label = 0 if examples is None else [float(f"{number:.6g}") for number in examples[0].tolist()]
        samples = self.video(seed=range(CARD_SEEDS), frames=CARD_FRAMES, class_idx=label)
        facts = {"about": self.about, "resolution": self.resolution, "label": label}
        facts["network_class"] = own_class(self.network).get("class")
        write_card(folder, name, samples, **facts, data=data, licence=licence, metrics=metrics)

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
            private: Make a newly created model visible to its owner only.
            message: Message of the commit.

        Raises:
            UserError: huggingface-hub is missing, the name is invalid, or the upload fails.
            ValueError: See `save_card`.
        """
        check_upload(name)
        with temporary(tempfile.TemporaryDirectory) as folder:
            self.save_pretrained(folder)
            self.save_card(folder, name, data=data, licence=licence, metrics=metrics)
            return upload_folder(folder, name, private=private, message=message)

    # ------------------------------------------------------------------------------------------------------------------

    def _maps(
        self,
        rows: RowCodes,
        track: CameraTrack,
        names: Sequence[str],
        geometry_resolution: int | None,
        ray_chunk: int | None,
        *,
        pixels: bool,
    ) -> dict[str, torch.Tensor]:
        """Maps [B, T, C, h, w] of the frames of a track, or pixels."""
        renderer = FrameRenderer(self.network, **vars(rows), ray_chunk=ray_chunk)
        if geometry_resolution is not None:
            whole_number("geometry_resolution", geometry_resolution, low=1)
            if list(names) == ["rgb"]:
                raise ValueError("geometry_resolution is for outputs other than rgb: give outputs=.")
        cameras, batch = track.cameras.to(self.device), len(rows.ws)
        frames = []
        for step, time in track.schedule:
            maps = row_maps(renderer, time, cameras[step].repeat(batch), names, geometry_resolution)
            # Converted frame by frame: floats of a long video take four times the memory of its pixels.
            frames.append({name: to_uint8(values) for name, values in maps.items()} if pixels else maps)
        return {name: torch.stack([maps[name] for maps in frames], dim=1) for name in names}

    @staticmethod
    def _result(maps: dict[str, torch.Tensor], outputs: str | Sequence[str] | None, *, single: bool):
        maps = {name: values[0] if single else values for name, values in maps.items()}
        return maps["rgb"] if outputs is None else maps
