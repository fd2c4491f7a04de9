"""Generated videos as one side of an evaluation: uint8 tensors, rendered on demand.

The latent codes and the camera of video i are sampled with the seed (42, i): the same video on every process, in any
batch. The camera is sampled from the training prior and the background code from N(0, 1), as in training. Times follow
the frame rate of the training: frame k is at k / (nframes − 1), that is linspace(0, 1, nframes) for the length of a
training clip; longer clips extrapolate beyond the trained times. Pixels are x · 127.5 + 128, clamped and truncated to
integers.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from dnnlib import UserError
from metrics.real_videos import StoredLabels, StoredVideos
from metrics.registry import ONE_YAW
from renderer.cameras import Cameras
from renderer.depth import project, surface_points
from torch_utils.argument_checks import check_network, shown, whole_number
from torch_utils.rng import RandomStream
from training.data.frame_store import FrameStore
from training.data.images import fit_square
from training.inference.arguments import label_numbers
from training.inference.frame_renderer import FrameRenderer
from training.inference.latent_files import generator_digest
from training.inference.latents import RowCodes, SeedLatents, class_label
from training.networks.generator import Generator

__all__ = ["GeneratedVideos", "ViewPairs", "draw_labels", "quantise", "reproject"]

SEED = 42
VIEW_TIME = 0.5  # time step of views and pairs
PAIR = (0.4, 0.6)  # cameras of a pair, as fractions of the range of yaw
MIN_OPACITY = 1e-3  # lower bound of the divisor of depths; all metrics leave out pixels more transparent than this

#: Index of a video to its label: a class, or c_dim numbers as a list, array or tensor.
Label = Callable[[int], int | Sequence[float] | np.ndarray | torch.Tensor]


def quantise(images: torch.Tensor) -> torch.Tensor:
    """Pixels in [-1, 1] to uint8 as in the published evaluation: x · 127.5 + 128, clamped and truncated."""
    return (images.float().nan_to_num(0) * 127.5 + 128).clamp(0, 255).to(torch.uint8)


@dataclasses.dataclass(frozen=True)
class ViewPairs:
    """Two views of N time steps with their geometry.

    Attributes:
        images: [N, 2, 3, H, W], 0 to 1.
        points: Surface points of the pixels in world space [N, 2, H, W, 3].
        depths, opacities: [N, 2, H, W]; depths along the viewing axis, in scene units.
        grids: Projections of the points into the other view [N, 2, H, W, 2], (x, y) in [-1, 1] with y down.
        expected: Depths of the points from the other view [N, 2, H, W].
        thickness: Depth range of the rendered volume, in scene units.
        same_camera: True if the range of yaw is empty, and both views are the same.
    """

    images: torch.Tensor
    points: torch.Tensor
    depths: torch.Tensor
    opacities: torch.Tensor
    grids: torch.Tensor
    expected: torch.Tensor
    thickness: float
    same_camera: bool = False

    @classmethod
    def join(cls, parts: Sequence["ViewPairs"]) -> "ViewPairs":
        """The time steps of all parts."""
        values = {field.name: [getattr(part, field.name) for part in parts] for field in dataclasses.fields(cls)}
        return cls(**{name: torch.cat(x) if torch.is_tensor(x[0]) else x[0] for name, x in values.items()})


def reproject(points: torch.Tensor, cameras: Cameras) -> tuple[torch.Tensor, torch.Tensor]:
    """Projections of points [N, H, W, 3] into N cameras as in `ViewPairs`: (x, y) with y down, and depths."""
    places, depth = project(cameras, points)
    return places * places.new_tensor([1.0, -1.0]), depth


class GeneratedVideos:
    """Samples of a generator (see the top of this file).

    Args:
        generator: In evaluation mode.
        nframes: Frames of a training clip.
        resolution: Width of the frames in pixels, resized as real frames are; None: the generator's.
        label: Function of a video's index that gives its label [c_dim] or class, for a conditional generator; with
            `draw_labels`, clips have the labels of the real clips.

    Attributes:
        labelled: True for a conditional generator.
        nframes: As given.
        resolution: Width of the frames in pixels.

    Raises:
        UserError: Labels are missing or do not fit the generator.
        ValueError: The generator is not a network, or another argument is of a wrong type or value.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        nframes: int = 16,
        resolution: int | None = None,
        label: Label | None = None,
    ):
        check_network("generator", generator, "synthesize")
        nframes = whole_number("nframes", nframes, low=1)
        resolution = generator.resolution if resolution is None else whole_number("resolution", resolution, low=1)
        if label is not None and not callable(label):
            raise ValueError(f"label must be a function of a video's index, got {shown(label)}.")
        if generator.c_dim > 0:
            needed = f"The generator needs labels of {generator.c_dim} entries"
            if label is None:
                raise UserError(
                    f'{needed}: give label=draw_labels("clips"), those of a dataset, or a function of a video\'s index.'
                )
            if isinstance(label, StoredLabels) and len(label(0)) != generator.c_dim:
                raise UserError(f"{needed}; those of the data have {len(label(0))}.")
            _label_of(generator, label, 0)
        elif label is not None:
            raise UserError("The generator was trained without labels: leave label= out.")
        self._generator, self._label = generator, label
        self.labelled = label is not None
        self.nframes, self.resolution = nframes, resolution

    def digest(self) -> str:
        """A digest that changes with the generator's tensors, render settings and camera prior."""
        prior = self._generator.camera_prior
        content = repr((self._generator.settings, type(prior), _in_full(vars(prior))))
        return f"{generator_digest(self._generator)} {hashlib.sha256(content.encode()).hexdigest()}"

    def clips(self, *, count: int, frames: int, subsample: int = 1) -> "GeneratedClips":
        """At most `count` clips: every `subsample`-th of `frames` consecutive frames.

        Raises:
            UserError: `nframes` is 1, of single images, which have no frame rate.
        """
        if self.nframes == 1 and frames > 1:
            raise UserError(
                f"Clips of {frames} frames need a frame rate, which single images (nframes=1) do not have. Choose "
                "metrics of images or views, or say with --nframes how many frames span the times 0 to 1."
            )
        times = [k / max(self.nframes - 1, 1) for k in range(0, frames, subsample)]
        label = self._label
        if isinstance(label, StoredLabels):
            label = label.of_clips(count=count, frames=frames)
        return self._samples(count, lambda indices: self._clips(indices, times, label), last_time=times[-1])

    def images(self, *, count: int | None) -> "GeneratedClips":
        """One frame of each video, at a random time step of a training clip (at any time after training on images).

        Raises:
            UserError: All frames are asked for (None).
        """
        if count is None:
            raise UserError("A generator has no complete set of frames to compare with: give videos in files as real.")
        return self._samples(count, self._images)

    def views(self, *, count: int, views: int) -> "GeneratedClips":
        """One time step from cameras spread evenly over the range of yaw, as frames of a clip.

        Loading them raises a UserError if all cameras have the same yaw.
        """
        fractions = np.linspace(0, 1, views)
        return self._samples(count, lambda indices: self._views(indices, fractions), time=VIEW_TIME)

    def pairs(self, *, count: int) -> "GeneratedClips":
        """One time step from two cameras, with its geometry (ViewPairs), at the generator's resolution."""
        about = {"time": VIEW_TIME, "yaw_fractions": list(PAIR), "resolution": self._generator.resolution}
        return self._samples(count, self._pairs, **about)

    def _samples(self, count: int, render: Callable[[Sequence[int]], Any], **about) -> "GeneratedClips":
        about = {"from": "generator", "seed": SEED, "resolution": self.resolution, "nframes": self.nframes, **about}
        about["labelled"] = self.labelled
        # On a CPU, where batches save no time, one at a time: the bits of a sample then do not depend on its batch.
        on_cpu = next(self._generator.parameters()).device.type == "cpu"
        return GeneratedClips(count, render, about, one_by_one=on_cpu)

    # ------------------------------------------------------------------------------------------------------------------

    def _renderer_of(
        self, indices: Sequence[int], label: Label | None = None
    ) -> tuple[FrameRenderer, Cameras, list[float]]:
        """Renderer of the videos with these indices, and a camera and a random number in [0, 1) for each.

        Args:
            label: Labels of the videos; None for those of frames.
        """
        label = label or self._label
        generator = self._generator
        parameter = next(generator.parameters())
        device, dtype = parameter.device, parameter.dtype
        videos, cameras, numbers = [], [], []
        for index in indices:
            seed = np.random.SeedSequence([SEED, index]).generate_state(1, np.uint64)[0] >> np.uint64(1)
            stream = RandomStream(int(seed))
            latents = SeedLatents(
                z=stream.normal("z", [1, generator.z_dim]),
                z_motion=stream.normal("z_motion", [1, generator.motion_dim]),
                z_bg=stream.normal("z_bg", [1, generator.background_dim]),
            ).to(device)
            cameras.append(generator.camera_prior.sample(1, stream))
            numbers.append(float(stream.uniform("time", [1])))
            c = None
            if label is not None:
                c = _label_of(generator, label, index).to(device)
            ws = generator.mapping(latents.z, c)  # one at a time: rounding must not depend on the batch
            videos.append(latents.to(device, dtype).with_styles(ws))
        renderer = FrameRenderer(generator, **vars(RowCodes.join(videos)))
        return renderer, Cameras.join(cameras).to(device), numbers

    @torch.no_grad()
    def _clips(self, indices: Sequence[int], times: Sequence[float], label: Label | None) -> torch.Tensor:
        renderer, cameras, _ = self._renderer_of(indices, label)
        return torch.stack([self._frames(renderer.render(time, cameras)) for time in times], dim=2)

    @torch.no_grad()
    def _images(self, indices: Sequence[int]) -> torch.Tensor:
        renderer, cameras, numbers = self._renderer_of(indices)
        if self.nframes > 1:
            numbers = [int(number * self.nframes) / (self.nframes - 1) for number in numbers]
        times = torch.tensor(numbers, dtype=torch.float32, device="cpu")
        return self._frames(renderer.render(times, cameras))[:, :, None]

    @torch.no_grad()
    def _views(self, indices: Sequence[int], fractions: Sequence[float]) -> torch.Tensor:
        renderer, _, _ = self._renderer_of(indices)
        prior = self._generator.camera_prior
        cameras = [prior.at(yaw=float(f)).repeat(len(indices)) for f in fractions]
        if len(cameras) > 1 and cameras[0].equals(cameras[-1]):
            raise UserError(f"The similarity of views {ONE_YAW}.")
        return torch.stack([self._frames(renderer.render(VIEW_TIME, c)) for c in cameras], dim=2)

    def _frames(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [N, 3, H, W] at the resolution of the evaluation."""
        frames = quantise(images)
        if self.resolution == self._generator.resolution:
            return frames
        pictures = [Image.fromarray(frame) for frame in frames.permute(0, 2, 3, 1).cpu().numpy()]
        return torch.from_numpy(np.stack([fit_square(picture, self.resolution) for picture in pictures]))

    @torch.no_grad()
    def _pairs(self, indices: Sequence[int]) -> ViewPairs:
        renderer, _, _ = self._renderer_of(indices)
        generator, size = self._generator, self._generator.resolution
        cameras = [generator.camera_prior.at(yaw=f).repeat(len(indices)).to(renderer.ws.device) for f in PAIR]
        images, depths, opacities, points = [], [], [], []
        for camera in cameras:
            output = renderer.output(VIEW_TIME, camera)
            # Without a background the last sample is opaque: the weights add up to one. The depth has the lower
            # resolution of the volume rendering.
            opacity = torch.ones_like(output.opacity) if generator.background is None else output.opacity
            layers = torch.cat([output.depth, opacity], dim=1).float()
            layers = torch.nn.functional.interpolate(layers, [size, size], mode="bilinear", align_corners=False)
            depth, opacity = layers[:, 0] / layers[:, 1].clamp(min=MIN_OPACITY), layers[:, 1]
            images.append(quantise(output.image[:, 0]).float() / 255)
            depths.append(depth)
            opacities.append(opacity)
            points.append(surface_points(camera, depth))
        seen = [reproject(points[0], cameras[1]), reproject(points[1], cameras[0])]
        settings = generator.settings
        return ViewPairs(
            images=torch.stack(images, dim=1),
            points=torch.stack(points, dim=1),
            depths=torch.stack(depths, dim=1),
            opacities=torch.stack(opacities, dim=1),
            grids=torch.stack([grid for grid, _ in seen], dim=1),
            expected=torch.stack([depth for _, depth in seen], dim=1),
            thickness=settings.far - settings.near,
            same_camera=cameras[0].equals(cameras[1]),
        )


def _in_full(value: Any) -> Any:
    """A value whose `repr` shows all of it: that of a tensor or an array shows a few of many numbers."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _in_full(entry) for key, entry in value.items()}
    return [_in_full(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _label_of(generator: Generator, label: Label, index: int) -> torch.Tensor:
    """The label of a video, float32 [1, c_dim], on the CPU.

    Raises:
        UserError: The function gives something else.
    """
    try:
        vector = class_label(generator, label_numbers("it", label(index)))
    except ValueError as error:
        raise UserError(f"label({index}): {error}") from error
    assert vector is not None  # of a generator with labels
    return vector


def draw_labels(data: str | os.PathLike, *, frame_stride: int = 1) -> StoredLabels:
    """Labels for generated videos, as frequent as among the real samples of a dataset; see `StoredLabels`.

    Raises:
        UserError: The dataset has no labels, or contains no folders of frames.
    """
    FrameStore(data).require_videos()  # before video files, which have no labels, are decoded
    videos = StoredVideos(data, resolution=8, frame_stride=frame_stride)
    return videos.labels(otherwise="give real videos with labels (--real), which this generator needs")


class GeneratedClips:
    """Samples for metrics: `count` results of `render(indices)`, clips or ViewPairs."""

    def __init__(self, count: int, render: Callable[[Sequence[int]], Any], about: dict, *, one_by_one: bool):
        self._count, self._render, self._about, self._one_by_one = count, render, about, one_by_one

    def __len__(self) -> int:
        return self._count

    def load(self, indices: Sequence[int]) -> Any:
        if not self._one_by_one:
            return self._render(list(indices))
        parts = [self._render([index]) for index in indices]
        return ViewPairs.join(parts) if isinstance(parts[0], ViewPairs) else torch.cat(parts)

    def key(self) -> None:
        return None  # a generator's weights change

    def describe(self) -> dict:
        return dict(self._about)
