"""Folders (or one zip) of video frames: finding the videos, reading a frame, making it square.

A folder that holds images is a video, however deep it lies: `root/split/video_7/0001.png` is frame `0001.png` of the
video `split/video_7`. No name carries a meaning; names only give the order, and a leading dot hides an entry, as usual.
Listing costs one pass over the folders and no look at the files themselves.
"""

import dataclasses
import io
import os
import re
import zipfile

import numpy as np
from PIL import Image, ImageOps

from dnnlib import UserError

__all__ = ["FrameStore", "Video", "fit_square", "natural_key", "to_rgb"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MOVIE_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".ts"),
    *(".ogv", ".3gp", ".y4m", ".gif"),
)


def natural_key(name: str) -> tuple:
    """Sorting key that takes numbers as numbers: 'f2' before 'f10'. For zero-padded names it is the plain order."""
    parts = re.split("([0-9]+)", name)
    parts[1::2] = map(int, parts[1::2])
    return parts, name  # the name itself decides between 'f1' and 'f01'


def _path_key(path: str) -> tuple:
    return tuple(natural_key(part) for part in path.split("/"))


@dataclasses.dataclass(frozen=True)
class Video:
    """One folder of frames.

    Attributes:
        path: The folder relative to the root, with forward slashes.
        frames: The file names in order. An array, not a list: workers that share it with their parent process would
            otherwise copy it page by page just by counting references.
    """

    path: str
    frames: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)


class FrameStore:
    """The videos below a folder or in a zip.

    Attributes:
        path: As given.
        videos: The folders that hold images, in natural order of their paths; the root itself is not one of them.
        loose_frames: The names of images directly in the root, in order.
        movies: Paths, relative to the root, of files that look like encoded videos, in order.
    """

    def __init__(self, path: str | os.PathLike):
        """List what is there.

        Args:
            path: A folder or a zip file.

        Raises:
            UserError: There is nothing at `path`, or it is neither of the two, or it cannot be read.
        """
        self.path = os.fspath(path)
        self._zip = None
        self._zip_owner = None  # id of the process that opened it
        try:
            if os.path.isdir(self.path):
                self.is_zip = False
                folders = _list_folder(self.path)
            elif not os.path.exists(self.path):
                raise UserError(f"There is no file or folder '{self.path}': check the path.")
            elif zipfile.is_zipfile(self.path):
                self.is_zip = True
                folders = _list_names(self._open_zip().namelist())
            else:
                raise UserError(
                    f"'{self.path}' is neither a folder nor a zip file: give a folder that holds one folder of "
                    "frames per video, or a zip of it."
                )
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"Cannot read '{self.path}': {error}.") from error
        images, movies = {}, []
        for folder, names in folders.items():
            frames = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
            if frames:
                images[folder] = np.array(sorted(frames, key=natural_key), dtype=str)
            movies += [_join(folder, name) for name in names if name.lower().endswith(MOVIE_SUFFIXES)]
        self.loose_frames = images.pop("", np.array([], dtype=str))
        self.videos = [Video(folder, images[folder]) for folder in sorted(images, key=_path_key)]
        self.movies = sorted(movies, key=_path_key)

    def require_videos(self) -> None:
        """Raise a UserError that says what is there instead, if there are no folders of frames."""
        if self.videos:
            return
        if len(self.loose_frames):
            raise UserError(
                f"The images lie directly in '{self.path}': put the frames of each video into a folder of their own, "
                f"e.g. {_join(self.path, 'videos/video_0', str(self.loose_frames[0]))}."
            )
        if self.movies:
            raise UserError(
                f"'{self.path}' holds encoded videos ({self.movies[0]}) but no frames: turn them into frames with "
                f"`python -m training.dataset_tool '{self.path}' OUT` and use OUT."
            )
        raise UserError(
            f"'{self.path}' holds no images ({' '.join(IMAGE_SUFFIXES)}): expected one folder of frames per video, "
            f"e.g. {_join(self.path, 'videos/video_0/000000.png')}."
        )

    def read_bytes(self, *parts: str) -> bytes | None:
        """The content of a file below the root; None if there is none of that name."""
        try:
            if self.is_zip:
                return self._open_zip().read(_join(*parts))
            with open(os.path.join(self.path, *parts), "rb") as file:
                return file.read()
        except (KeyError, FileNotFoundError):
            return None

    def read_frame(self, video: Video, index: int) -> Image.Image:
        """Frame `index` of `video`, RGB with 8 bits.

        Raises:
            UserError: The file is missing, damaged or no image; names it.
        """
        name = str(video.frames[index])
        try:
            data = self.read_bytes(video.path, name)
            if data is None:
                raise OSError("it has vanished since the dataset was listed")
            with Image.open(io.BytesIO(data)) as image:
                return to_rgb(image)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise whatever they like at damaged data
            file = _join(self.path, video.path, name)
            raise UserError(f"Cannot read the frame '{file}' ({error}): replace it or remove the video.") from error

    def _open_zip(self) -> zipfile.ZipFile:
        # A forked worker must not share the file position with its parent, so every process opens its own.
        if self._zip is None or self._zip_owner != os.getpid():
            self._zip = zipfile.ZipFile(self.path)
            self._zip_owner = os.getpid()
        return self._zip

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_zip": None, "_zip_owner": None}


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture as 8-bit RGB: upright, transparent parts over black, 16 bits scaled (not clipped) to 8."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit gray
        values = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.rint(values.clip(0, 65535) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("RGB")


def fit_square(image: Image.Image, resolution: int) -> np.ndarray:
    """The centre square of an image at another size.

    Lanczos, whose support grows with the reduction, so that nothing aliases. A plain average over areas would too, but
    blurs more and weighs pixels unevenly where the sizes do not divide.

    Args:
        image: RGB, any size.
        resolution: Pixels per side.

    Returns:
        uint8 [3, resolution, resolution]
    """
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if image.size != (side, side):  # cropped first: resize(box=…) would blend in pixels from outside the box
        image = image.crop((left, top, left + side, top + side))
    if side != resolution:
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _list_folder(root: str) -> dict[str, list[str]]:
    """File names by folder (relative, '' for the root). Follows links, but not in circles."""
    found = {}
    todo = [""]
    while todo:
        folder = todo.pop()
        path = os.path.join(root, folder)
        names = found.setdefault(folder, [])
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not entry.is_dir():
                    names.append(entry.name)
                elif not (entry.is_symlink() and _contains(entry.path, path)):
                    todo.append(_join(folder, entry.name))
    return found


def _contains(outer: str, inner: str) -> bool:
    outer, inner = os.path.realpath(outer), os.path.realpath(inner)
    return os.path.commonpath([outer, inner]) == outer


def _list_names(members: list[str]) -> dict[str, list[str]]:
    """The same for the members of a zip."""
    found = {}
    for member in members:
        folder, _, name = member.rpartition("/")
        if name and not any(part.startswith(".") for part in member.split("/")):
            found.setdefault(folder, []).append(name)
    return found
