"""Videos of drawn talking heads with their ground truth: `python -m training.synthetic OUT --videos 512`.

    OUT/videos/00007/000003.png     a frame; the layout of every training set
    OUT/truth/00007.npz             what is known about the video: camera, codes, depth, opacity (see `Truth`)
    OUT/synthetic.json              what the set was made with

Every video has its own content, motion and background and one camera from the prior of a model (conf/model), rendered by
`renderer` from the formulas in `training.synthetic_scene`. The same options give the same files, byte for byte (with one
version of PyTorch and Pillow). What exists already is kept when an interrupted command is given again; OUT gets its name
when it is complete.
"""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from dnnlib import UserError, atomic_write, run_cli
from renderer.cameras import CameraPrior, Cameras
from renderer.rays import camera_rays, pixel_centers
from renderer.rendering import Fields, Rays, render_rays
from renderer.video import image_grid, save_png, to_uint8
from renderer.volume import RenderSettings
from torch_utils.random_stream import RandomStream
from training.configuration import compose_options
from training.synthetic_scene import BACKGROUND_CODE, CONTENT_CODE, MOTION_CODE, Backdrop, Person, TalkingHead, pose_at

__all__ = ["DEPTH_UNIT", "Recipe", "Truth", "make_dataset", "read_recipe", "render_video"]

VERSION = 1  # of the pictures: raise it when anything changes that can be seen
RECIPE_FILE = "synthetic.json"
DEPTH_UNIT = 1 / 16384  # scene units per step of a stored depth: 16 bits reach to 4
SHELL = RenderSettings(num_samples=20, num_importance=16, num_background=2, near=0.8, far=1.2)
RAYS_AT_A_TIME = 256  # times samples and frames; the working set stays in the cache
SHEET = (8, 4)  # videos and frames of each on the contact sheet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a set is made with.

    Attributes:
        videos, frames: Number of videos, frames of each.
        resolution: Pixels per side.
        supersample: Rays per pixel and side.
        seed: Of everything.
        camera: Keyword arguments of `renderer.cameras.CameraPrior`.
    """

    videos: int
    frames: int
    resolution: int
    supersample: int
    seed: int
    camera: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {"version": VERSION, **dataclasses.asdict(self)}

    def key(self) -> str:
        """Names the set in a cache: sets with other pictures have other names."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class Truth:
    """What is known about a video of T frames of H×H pixels.

    Attributes:
        depth: float32 [T, H, H], distance along the viewing axis in scene units; NaN where the head is not.
        opacity: float32 [T, H, H] of the head, 0 to 1.
        cam2world: [4, 4] and fov (degrees), see `renderer.cameras`.
        times: [T] in [0, 1].
        content, motion, background: The codes.
    """

    depth: np.ndarray
    opacity: np.ndarray
    cam2world: np.ndarray
    fov: float
    times: np.ndarray
    content: np.ndarray
    motion: np.ndarray
    background: np.ndarray

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Truth":
        with np.load(path) as file:
            depth = file["depth"].astype(np.float32) * DEPTH_UNIT
            depth[file["depth"] == 0] = np.nan
            rest = {name: file[name] for name in ("cam2world", "times", "content", "motion", "background")}
            return cls(depth=depth, opacity=file["opacity"].astype(np.float32) / 255, fov=float(file["fov"]), **rest)


def read_recipe(folder: str | os.PathLike) -> dict[str, Any] | None:
    """What the set in a folder was made with; None if it is not one of these sets."""
    try:
        with open(os.path.join(folder, RECIPE_FILE), encoding="utf-8") as file:
            recipe = json.load(file)
    except (OSError, ValueError):
        return None
    return recipe if isinstance(recipe, dict) else None


# ----------------------------------------------------------------------------------------------------------------------
# One video


@torch.no_grad()
def render_video(recipe: Recipe, index: int) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """Frames uint8 [T, 3, H, H] of a video, and what is known about it in the form in which it is stored."""
    stream = RandomStream(int(np.random.SeedSequence([recipe.seed, index]).generate_state(1, np.uint64)[0] >> 1))
    content = stream.normal("synthetic/content", [CONTENT_CODE])
    motion = stream.normal("synthetic/motion", [MOTION_CODE])
    background = stream.normal("synthetic/background", [BACKGROUND_CODE])
    camera = CameraPrior(**recipe.camera).sample(1, stream)
    times = torch.linspace(0, 1, recipe.frames, dtype=torch.float64)
    fields = Fields(TalkingHead(Person.from_code(content), pose_at(motion, times)), Backdrop(background))
    rgb, depth, opacity = render_frames(
        fields, camera, recipe.resolution, frames=recipe.frames, supersample=recipe.supersample
    )
    steps = (depth / DEPTH_UNIT).round().clamp(0, 65535).numpy().astype(np.uint16)
    truth = {
        "depth": np.where(opacity.numpy() > 0.5, steps, 0).astype(np.uint16),
        "opacity": (opacity * 255).round().numpy().astype(np.uint8),
        "cam2world": camera.cam2world[0].numpy(),
        "fov": camera.fov[0].numpy(),
        "times": times.numpy(),
        "content": content.numpy(),
        "motion": motion.numpy(),
        "background": background.numpy(),
    }
    return to_uint8(rgb), truth


def render_frames(
    fields: Fields, camera: Cameras, resolution: int, *, frames: int, supersample: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Colours [T, 3, H, H] in [-1, 1], depth and opacity [T, H, H] of analytic fields seen by one camera.

    A pixel is the mean of supersample² rays; its depth the mean of theirs, weighted by their opacity.
    """
    rays = Rays(*camera_rays(camera, pixel_centers(resolution * supersample)))
    out = render_rays(fields, rays, SHELL, frames=frames, chunk=RAYS_AT_A_TIME)

    def pixels(x: torch.Tensor) -> torch.Tensor:
        """[1, T, R, C] to [T, C, H, H]."""
        size = resolution * supersample
        x = x[0].movedim(-1, 1).unflatten(-1, (size, size))
        return torch.nn.functional.avg_pool2d(x, supersample)

    opacity = pixels(1 - out.transmittance[..., None])
    # The expected depth counts an empty sample as zero, so that the mean is weighted already.
    depth = pixels(out.depth[..., None]) / opacity.clamp(min=1e-6)
    return pixels(out.rows), depth[:, 0], opacity[:, 0]


def _write_video(recipe: Recipe, folder: str, index: int) -> None:
    """Write a video unless it is there; a folder of frames gets its name when it is complete, after its truth."""
    name = f"{index:05d}"
    target = os.path.join(folder, "videos", name)
    if os.path.isdir(target):
        return
    frames, truth = render_video(recipe, index)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **truth)
    with atomic_write(os.path.join(folder, "truth", f"{name}.npz")) as file:
        file.write(buffer.getvalue())
    unfinished = os.path.join(folder, "videos", f".{name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    os.mkdir(unfinished)
    for number, frame in enumerate(frames):
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(os.path.join(unfinished, f"{number:06d}.png"))
    os.rename(unfinished, target)


# ----------------------------------------------------------------------------------------------------------------------
# The set


def make_dataset(out: str | os.PathLike, recipe: Recipe, *, workers: int | None = None) -> None:
    """Make the set `out`, or finish it; does nothing if it is there.

    Args:
        workers: Processes; None for one per core.

    Raises:
        UserError: `out` is something else, or was made with other options; it cannot be written; a process died.
    """
    out = os.path.abspath(out)
    if _is_complete(out, recipe):
        return
    unfinished = os.path.join(os.path.dirname(out), f".{os.path.basename(out)}.unfinished")
    try:
        os.makedirs(unfinished, exist_ok=True)
        with _locked(unfinished):
            if _is_complete(out, recipe):  # another process has just made it
                shutil.rmtree(unfinished, ignore_errors=True)
                return
            _begin(unfinished, recipe)
            _write_videos(unfinished, recipe, workers or os.cpu_count() or 1)
            _write_sheet(unfinished, recipe)
            os.sync()  # one flush for all the small files, before the name that promises they are complete
            os.rename(unfinished, out)
    except OSError as error:
        raise UserError(f"Cannot write '{out}': {error.strerror or error}.") from error


def _is_complete(out: str, recipe: Recipe) -> bool:
    if not os.path.exists(out):
        return False
    there = read_recipe(out)
    if there is None:
        raise UserError(f"'{out}' is there already and is no set of this tool: choose another folder.")
    # Through JSON, which knows no tuples.
    wanted = json.loads(json.dumps(recipe.as_dict()))
    other = [key for key in wanted if there.get(key) != wanted[key]]
    if other:
        raise UserError(
            f"'{out}' is there already, made with {other[0]} {there.get(other[0])} instead of {wanted[other[0]]}: "
            "remove it or choose another folder."
        )
    return True


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    """One process at a time; others wait. The lock ends with the process that holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems know no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _begin(folder: str, recipe: Recipe) -> None:
    """Go on with what is in the folder if it belongs to the recipe, else begin anew."""
    os.makedirs(folder, exist_ok=True)
    wanted = json.loads(json.dumps(recipe.as_dict()))
    if read_recipe(folder) != wanted:
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        with atomic_write(os.path.join(folder, RECIPE_FILE), "w") as file:
            json.dump(wanted, file, indent=1)
    for name in ("videos", "truth"):
        os.makedirs(os.path.join(folder, name), exist_ok=True)


def _write_videos(folder: str, recipe: Recipe, workers: int) -> None:
    workers = min(workers, recipe.videos)
    with tqdm(total=recipe.videos, desc="drawing videos", unit="video", dynamic_ncols=True) as bar:
        if workers == 1:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # sums do not depend on the number of cores
            try:
                for index in range(recipe.videos):
                    _write_video(recipe, folder, index)
                    bar.update()
            finally:
                torch.set_num_threads(threads)
            return
        # Not forked: a child would inherit the locks of PyTorch's threads.
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(
            workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            tasks = [pool.submit(_write_video, recipe, folder, index) for index in range(recipe.videos)]
            try:
                for task in concurrent.futures.as_completed(tasks):
                    task.result()
                    bar.update()
            except concurrent.futures.process.BrokenProcessPool as error:
                raise UserError(
                    "A process that drew videos was killed (no memory?); the same command goes on."
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)


def _write_sheet(folder: str, recipe: Recipe) -> None:
    """A few videos to look at: a row each, time from left to right."""
    rows, columns = min(SHEET[0], recipe.videos), min(SHEET[1], recipe.frames)
    numbers = np.linspace(0, recipe.frames - 1, columns).round().astype(int)
    cells = []
    for index in range(rows):
        for number in numbers:
            with Image.open(os.path.join(folder, "videos", f"{index:05d}", f"{number:06d}.png")) as image:
                cells.append(torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()))
    # Not among the frames, and hidden: a picture in the root would be taken for a loose frame.
    save_png(image_grid(torch.stack(cells), columns * 2), os.path.join(folder, ".preview.png"))


COUNT = click.IntRange(min=1)


@click.command()
@click.argument("out")
@click.option("--videos", type=COUNT, default=512, show_default=True, help="Number of videos.")
@click.option("--frames", type=COUNT, default=16, show_default=True, help="Frames of each.")
@click.option("--resolution", type=click.IntRange(8, 1024), default=64, show_default=True, help="Pixels per side.")
@click.option("--supersample", type=click.IntRange(1, 8), default=2, show_default=True, help="Rays per pixel and side.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything that is drawn.")
@click.option("--model", default="stylenerf_small", show_default=True, help="Whose cameras are drawn (conf/model).")
@click.option("--workers", type=COUNT, help="Processes.  [default: one per core]")
def main(
    out: str, videos: int, frames: int, resolution: int, supersample: int, seed: int, model: str, workers: int | None
) -> None:
    """Draw talking heads with known geometry into the training set OUT. Goes on where it was interrupted."""
    camera = compose_options([f"model={model}"])["model"]["generator"]["camera"]
    recipe = Recipe(
        videos=videos, frames=frames, resolution=resolution, supersample=supersample, seed=seed, camera=camera
    )
    make_dataset(out, recipe, workers=workers)
    click.echo(f"{out}: {videos} videos of {frames} frames, {resolution}×{resolution}")


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
