"""Preview images and videos of a run, from the same seeds every time.

    reals.png                               first frames of training clips
    images/fakes_random_<kimg>.png          one image per content, each from a random camera of the prior
    images/fakes_frontal_<kimg>.png         the same contents from the front
    images/depth_frontal_<kimg>.png         their depth: white is the near end of the rendered volume
    videos/<kimg>/<program>_seed<n>.mp4     the first contents along a camera program

Previews have their own random seeds, so that they do not change the training.
"""

from pathlib import Path

import torch

from dnnlib import UserError, explain_file_trouble
from renderer.cameras import Cameras
from renderer.outputs import displayed, output_maps
from renderer.trajectories import frame_schedule
from renderer.video import VideoWriter, image_grid, save_png, to_uint8
from torch_utils.rng import RandomStream
from training.data.loader import PairDataset
from training.inference.frame_renderer import FrameRenderer
from training.inference.latents import SeedLatents, generator_latents
from training.networks.generator import Generator

__all__ = ["REALS", "Previews"]

REALS = "reals.png"

FPS = 8
CHUNK = 8  # contents rendered at a time


class Previews:
    """Previews of a run with fixed content codes, cameras and labels.

    Args:
        folder: The run folder.
        dataset: Source of the real images, and of labels for a conditional generator.
        generator: In evaluation mode; its parameters may change between calls.
        images: Number of contents in a grid.
        columns: Columns of the grids.
        videos: Number of contents shown as videos, at most `images`.
        seed: Seed of the random cameras and of the choice of real images.
    """

    def __init__(
        self,
        *,
        folder: Path,
        dataset: PairDataset,
        generator: Generator,
        images: int,
        columns: int,
        videos: int,
        seed: int,
        device: torch.device,
    ):
        self.folder = folder
        self.dataset = dataset
        self.generator = generator
        self.columns = min(columns, images)
        self.videos = min(videos, images)
        self.device = device
        self.latents = SeedLatents.join(generator_latents(generator, i, i) for i in range(images)).to(device)
        self.seed = seed
        self.c = dataset.example_labels(images, seed=seed).to(device) if generator.c_dim > 0 else None
        self.random_cameras = generator.camera_prior.sample(images, RandomStream(seed)).to(device)
        self.frontal_cameras = generator.camera_prior.at().repeat(images).to(device)

    def write_reals(self) -> None:
        """Write reals.png."""
        frames = self.dataset.example_frames(len(self.random_cameras), seed=self.seed)
        save_png(image_grid(frames, self.columns), self.folder / REALS)

    def write(self, kimg: int) -> dict[str, Path]:
        """Images and videos of the generator as it is now; a preview that fails is reported and left out.

        Returns:
            The files that were written, by their names without the kimg.
        """
        written: dict[str, Path] = {}
        try:
            self._write_images(kimg, written)
            self._write_videos(kimg, written)
        except UserError as error:
            print(f"preview left out: {error}")
        return written

    @torch.no_grad()
    def _write_images(self, kimg: int, written: dict[str, Path]) -> None:
        folder = self.folder / "images"
        with explain_file_trouble(folder):
            folder.mkdir(exist_ok=True)

        def write(name: str, images: list[torch.Tensor]) -> None:
            path = folder / f"{name}_{kimg:06d}.png"
            save_png(image_grid(torch.cat(images), self.columns), path)
            written[name] = path

        parts = torch.arange(len(self.random_cameras)).split(CHUNK)
        write("fakes_random", [self._render(part, self.random_cameras)[0] for part in parts])
        images, depths = zip(*(self._render(part, self.frontal_cameras) for part in parts))
        write("fakes_frontal", images)
        write("depth_frontal", depths)

    @torch.no_grad()
    def _write_videos(self, kimg: int, written: dict[str, Path]) -> None:
        if self.videos == 0:
            return
        folder = self.folder / "videos" / f"{kimg:06d}"
        with explain_file_trouble(folder):
            folder.mkdir(parents=True, exist_ok=True)
        steps = self.dataset.nframes
        renderer = self._renderer(torch.arange(self.videos))
        for trajectory, cameras in self._trajectories(steps).items():
            paths = {name: folder / f"{name}.mp4" for name in (f"{trajectory}_seed{i:04d}" for i in range(self.videos))}
            writers = [VideoWriter(path, FPS) for path in paths.values()]
            try:
                for step, time in frame_schedule(steps, steps):
                    frames = to_uint8(renderer.render(time, cameras[step].repeat(self.videos))).cpu()
                    for writer, frame in zip(writers, frames):
                        writer.add(frame)
                for writer in writers:
                    writer.close()
            finally:
                for writer in writers:
                    writer.abort()  # no effect on closed ones
            written.update(paths)

    def _trajectories(self, steps: int) -> dict[str, Cameras]:
        """Cameras of the videos, one per step, by the names of their programs in `renderer.trajectories`.

        A prior of the user's own may lack the ranges that `camera_path` takes, and has `at`.
        """
        yaws = [step / (steps - 1) for step in range(steps)] if steps > 1 else [0.5]
        turn = Cameras.join(self.generator.camera_prior.at(yaw=yaw) for yaw in yaws)
        return {"front": self.frontal_cameras[0].repeat(steps), "rotation_camera_yaw": turn.to(self.device)}

    def _render(self, part: torch.Tensor, cameras: Cameras) -> tuple[torch.Tensor, torch.Tensor]:
        """Images of some contents in the middle of their clips, and their depth: uint8 [len(part), 3, H, W] each."""
        generator, cameras = self.generator, cameras[part.to(self.device)]
        output = self._renderer(part).output(0.5, cameras)
        depths = output_maps(output, ["depth"], cameras, background=generator.background is not None)["depth"]
        size, settings = tuple(output.image.shape[-2:]), generator.settings
        shown = [displayed("depth", depth, size=size, near=settings.near, far=settings.far) for depth in depths]
        return to_uint8(output.image[:, 0]), torch.stack(shown)

    def _renderer(self, part: torch.Tensor) -> FrameRenderer:
        part = part.to(self.device)
        latents, c = self.latents[part], None if self.c is None else self.c[part]
        return FrameRenderer(self.generator, **vars(latents.with_styles(self.generator.mapping(latents.z, c))))
