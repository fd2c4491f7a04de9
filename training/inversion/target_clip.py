"""The target clip of an inversion: a video, an image, or a folder or zip of frames, at the generator's resolution."""

import itertools
import os
from collections.abc import Iterator

import click
import numpy as np
from PIL import Image

from dnnlib import UserError
from training.data.crops import Crop, OutsideRectangle
from training.data.frame_store import FrameStore, Video, describe_disorder
from training.data.images import cut_square, decode_image, is_image_file
from training.data.video_decoder import decode_video, describe_remarks
from training.data.video_probe import BrokenVideo, is_video_file

__all__ = ["MAX_FRAMES", "read_clip"]

MAX_FRAMES = 1024  # a path to a whole film by mistake must not fill the memory


def read_clip(
    path: str | os.PathLike,
    resolution: int,
    *,
    frames: int | None = None,
    stride: int = 1,
    crop: Crop | None = None,
) -> np.ndarray:
    """Read the frames of a clip, crop them to a square and resize them.

    Args:
        path: A video file, an image (a clip of one frame), or a folder or zip of frames.
        resolution: Pixels per side of the result.
        frames: Number of frames; None for all, up to MAX_FRAMES.
        stride: Take every n-th frame, from the first.
        crop: The choice of the square; None for the centre.

    Returns:
        uint8 [T, 3, resolution, resolution].

    Raises:
        UserError: There is no clip, it cannot be read to its end, has fewer frames or frames of different sizes.
    """
    path = os.fspath(path)
    plan, size, pixels = (crop or Crop()).plan(path), None, []
    limit = MAX_FRAMES + 1 if frames is None else frames  # one more tells whether some are left out
    try:
        for number, image in enumerate(_images(path, limit, stride)):
            if size not in (None, image.size):
                raise UserError(
                    f"--clip: frame {number * stride} of '{path}' has {image.width}×{image.height} pixels, those "
                    f"before {size[0]}×{size[1]}: give frames of one size."
                )
            size = image.size
            square = cut_square(image, plan.square(number * stride, size), resolution)
            pixels.append(np.asarray(square).transpose(2, 0, 1))
    except BrokenVideo as error:
        option = "--crop" if isinstance(error, OutsideRectangle) else "--clip"
        raise UserError(f"{option}: {error}") from error
    taken = "" if stride == 1 else f" with --stride {stride}"
    if frames is not None and len(pixels) < frames:
        raise UserError(f"--clip: '{path}' has {len(pixels)} frames{taken}, fewer than --frames {frames}.")
    if len(pixels) > MAX_FRAMES:
        click.echo(
            f"--clip: '{path}' has more than {MAX_FRAMES} frames{taken}: the rest is left out; a larger --stride takes "
            "frames of all of it.",
            err=True,
        )
    return np.stack(pixels[:MAX_FRAMES])


def _images(path: str, limit: int, stride: int) -> Iterator[Image.Image]:
    """The frames at their original size."""
    if not os.path.exists(path):
        raise UserError(f"--clip: there is no file or folder '{path}'.")
    if is_image_file(path):
        yield _read_image(path)
        return
    if is_video_file(path):
        remarks = yield from decode_video(path, stride=stride, limit=limit)
        for line in describe_remarks([remarks]):
            click.echo(f"--clip: {line}", err=True)
        return
    store = FrameStore(path)
    video = _only_video(store)
    pair = store.disordered(video)
    if pair is not None:
        click.echo(f"--clip: the frames are {describe_disorder(video.path, pair)}.", err=True)
    yield from (store.read_frame(video, index) for index in itertools.islice(range(0, len(video), stride), limit))


def _read_image(path: str) -> Image.Image:
    try:
        with open(path, "rb") as file:
            return decode_image(file.read())
    except MemoryError:
        raise
    except Exception as error:  # decoders raise any exception for damaged data
        raise UserError(f"--clip: Cannot read the image '{path}' ({error}): replace it.") from error


def _only_video(store: FrameStore) -> Video:
    """The frames in a folder itself, or in its only subfolder with frames."""
    if store.root_video is not None:
        return store.root_video
    if len(store.videos) == 1:
        return store.videos[0]
    if store.videos:
        raise UserError(
            f"--clip: '{store.path}' holds {len(store.videos)} videos: give one of them, e.g. "
            f"{os.path.join(store.path, store.videos[0].path)}."
        )
    if store.movies:
        raise UserError(
            f"--clip: '{store.path}' holds no frames: give one of its videos, e.g. "
            f"{os.path.join(store.path, store.movies[0])}."
        )
    raise UserError(f"--clip: '{store.path}' holds no images: give a folder of frames, or a video file.")
