"""Storage of video frames in folders or in a zip, and their decoding.

A folder of images is a video, at any depth: `root/split/video_7/0001.png` is frame `0001.png` of the video
`split/video_7`. Names only give the order; those with a leading dot and those of system folders are left out. Listing
(training.data.frame_index) does not open the files.
"""

import dataclasses
import hashlib
import os
import stat
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image

from dnnlib import UserError, one_line
from training.data.frame_index import describe_tar_files, list_files
from training.data.images import decode_image
from training.data.names import ARCHIVES, IMAGE_SUFFIXES, RUN_OPTIONS, disordered_decimals, join_path

__all__ = ["FrameStore", "UnreadableFrame", "Video", "describe_disorder", "stored_path"]

SIZES = 256  # frames at most whose size is looked up for a fingerprint
MAX_RUNS = 256  # folders that are examined
MOST_SUFFIXES = 5  # that a note names
ZIP_HEADER = struct.Struct("<4s22xHH")  # signature, …, lengths of the name and of the extra field


@dataclasses.dataclass(frozen=True, slots=True)
class Video:
    """One folder of frames.

    Attributes:
        path: The folder relative to the root, with forward slashes.
        start: Index of its first frame in the store's listing.
        count: Number of frames.
    """

    path: str
    start: int
    count: int

    def __len__(self) -> int:
        return self.count


class UnreadableFrame(UserError):
    """A frame is missing, damaged or not an image."""


def stored_path(path: str | os.PathLike) -> str:
    """The path of stored videos as a string.

    Raises:
        UserError: It is no path.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise UserError(f"path must be that of stored videos, got {one_line(f'{path!r:.60}')}.")
    return os.fspath(path)


class FrameStore:
    """The videos below a folder or in a zip.

    Attributes:
        path: As given.
        is_file: True for a single file, such as a zip; False for a folder.
        videos: The folders of images, in natural order of their paths, without the root itself.
        loose_frames: Number of images directly in the root.
        root_video: These images as a video of the path ''; None if there are none.
        movies: Paths, relative to the root, of files with suffixes of encoded videos, in natural order.
        other_images: Number of files in folders with suffixes of images that are not read as frames.
        unread: Number of files of other kinds that may hold videos, such as archives, by their suffix.
        unsafe: Number of members of a zip that are left out: links, and names that lead out of the zip.
        repeated: Number of members of a zip that are left out because later ones have the same name but other content.
        twins: Number of frames with the name of another one of their video, except for the suffix.
        decimals: Number of videos whose frames are named by decimal numbers that are not in their order.
        dangling: A note on dangling links; None if there are none.
    """

    def __init__(self, path: str | os.PathLike):
        """List the frames.

        Args:
            path: A folder or a zip file.

        Raises:
            UserError: There is nothing at `path`, or it is neither of the two, or it cannot be read.
        """
        self.path = stored_path(path)
        listing = list_files(self.path)
        self.is_file = not os.path.isdir(self.path)
        self._names = listing.names
        self._locations = listing.locations
        self._others = listing.others
        self._descriptor: int | None = None  # of the zip
        bounds = listing.starts.tolist()
        found = [Video(*entry) for entry in zip(listing.folders, bounds, np.diff(listing.starts).tolist())]
        self.root_video = next((video for video in found if not video.path), None)
        self.loose_frames = 0 if self.root_video is None else len(self.root_video)
        self.videos = [video for video in found if video.path]
        self.movies = listing.movies
        self.unsafe, self.repeated, self.other_images = listing.unsafe, listing.repeated, listing.other_images
        self.twins, self.decimals, self.unread = listing.twins, listing.decimals, listing.unread
        self.dangling = _describe_dangling(listing.dangling)

    def require_videos(self) -> None:
        """Raise a UserError if there are no folders of frames, or a run's; the message says what is there instead."""
        self.refuse_runs()
        if self.videos:
            return
        if self.root_video is not None:
            example = join_path(self.path, "videos/video_0", self.frame_name(self.root_video, 0))
            raise UserError(
                f"The images lie directly in '{self.path}': put the frames of each video into a folder of their own "
                f"(single images, for nframes=1, all into one), e.g. {example}."
            )
        if self.movies:
            raise UserError(
                f"'{self.path}' holds encoded videos ({self.movies[0]}) but no frames: turn them into frames with "
                f"`python -m training.dataset_tool '{self.path}' OUT` and use OUT."
            )
        if not self.is_file and any(name.endswith(".tar") for name in os.listdir(self.path)):
            raise UserError(describe_tar_files(self.path))
        left_out = f"; {self.unsafe} entries that are links, or lead out of it, were left out" if self.unsafe else ""
        left_out += f"; {self.other_images} images of other formats are not read" if self.other_images else ""
        left_out += f"; {self.dangling}" if self.dangling else ""
        if (unknown := self._describe_unread(archives=False)) is not None:
            left_out += f"; {unknown} are not read"
        names = self._others if self.is_file else os.listdir(self.path)
        packed = sorted(name for name in names if name.lower().endswith(ARCHIVES))
        left_out += f"; archives ({packed[0]}) have to be unpacked" if packed else ""
        raise UserError(
            f"'{self.path}' holds no images ({' '.join(IMAGE_SUFFIXES)}){left_out}: expected one folder of frames "
            f"per video, e.g. {join_path(self.path, 'videos/video_0/000000.png')}."
        )

    def refuse_runs(self) -> None:
        """Raise a UserError if this is, or holds, the folder of a training run, whose previews are not its videos."""
        previews = {os.path.dirname(video.path) for video in self.videos if os.path.basename(video.path) == "images"}
        for folder in [] if self.is_file else ["", *sorted(previews)[:MAX_RUNS]]:
            place = os.path.join(self.path, folder) if folder else self.path
            if os.path.isfile(os.path.join(place, RUN_OPTIONS)):
                raise UserError(
                    f"'{place}' is the folder of a training run, and its previews would be "
                    "taken for videos: give a folder of videos without runs."
                )

    def notes(self, *, movies_are_read: bool = False) -> list[str]:
        """Notes on files that do not belong to any video, and on frames that are probably there twice."""
        notes = []
        if self.unsafe:
            notes.append(
                f"{self.unsafe} entries of the zip are left out: they are links, or their names lead out of it"
            )
        if self.repeated:
            notes.append(f"{self.repeated} entries of the zip are left out: later ones have the same names")
        if self.other_images:
            formats = " ".join(IMAGE_SUFFIXES)
            notes.append(f"{self.other_images} images of other formats than {formats} are left out: convert them")
        if movies_are_read and (packed := self._describe_unread(archives=True)) is not None:
            notes.append(f"{packed} are left out: unpack them if they hold videos")
        if movies_are_read and (unknown := self._describe_unread(archives=False)) is not None:
            notes.append(f"{unknown} are left out: if they are videos, give each a usual suffix, such as .mp4 or .mkv")
        if self.movies and self.videos and not movies_are_read:
            notes.append(
                f"{len(self.movies)} encoded videos ({self.movies[0]}) are left out: `python -m training.dataset_tool` "
                "turns them into frames"
            )
        if self.loose_frames:
            notes.append(f"{self.loose_frames} images lie outside of any video folder and are left out")
        if self.twins:  # as after a conversion from one format to another
            notes.append(
                f"{self.twins} frames have the name of another one with another suffix, such as {self._first_twins()}, "
                "and all of them are used: if they show the same, remove one of each"
            )
        if self.decimals:
            where, pair = next((v.path, pair) for v in self.videos if (pair := self.disordered(v)) is not None)
            notes.append(f"the frames of {self.decimals} videos are {describe_disorder(where, pair)}")
        if movies_are_read and (doubled := self.doubled_movies()) is not None:
            notes.append(doubled)
        return notes

    def _describe_unread(self, *, archives: bool) -> str | None:
        """Number and suffixes of archives, or of other files of unknown kinds; None without any."""
        found = {suffix: count for suffix, count in sorted(self.unread.items()) if (suffix in ARCHIVES) == archives}
        if not found:
            return None
        shown = [suffix or "no suffix" for suffix in list(found)[:MOST_SUFFIXES]]
        shown += ["…"] if len(found) > MOST_SUFFIXES else []
        kind = "archives" if archives else "files of unknown kinds"
        return one_line(f"{sum(found.values())} {kind} ({', '.join(shown)})")

    def doubled_movies(self) -> str | None:
        """A note on encoded videos with the path of another one, or of a folder of frames, except for the suffix."""
        used, found = {video.path: video.path for video in self.videos}, []
        for movie in self.movies:
            other = used.setdefault(os.path.splitext(movie)[0], movie)
            if other != movie:
                found.append(f"'{other}' and '{movie}'")
        if not found:
            return None
        return (
            f"{len(found)} encoded videos have the name of another video except for the suffix, such as {found[0]}, "
            "and all of them are used: if they show the same, remove one of each"
        )

    def disordered(self, video: Video) -> tuple[str, str] | None:
        """See `disordered_decimals`."""
        return disordered_decimals([self.frame_name(video, index) for index in range(len(video))])

    def _first_twins(self) -> str:
        for video in self.videos:
            stems: dict[str, str] = {}
            for index in range(len(video)):
                name = self.frame_name(video, index)
                other = stems.setdefault(os.path.splitext(name)[0], name)
                if other != name:
                    return f"'{join_path(video.path, other)}' and '{name}'"
        raise AssertionError("there are none")

    def frame_name(self, video: Video, index: int) -> str:
        """The file name of a frame."""
        assert 0 <= index < video.count
        return self._names[video.start + index]

    def read_bytes(self, *parts: str) -> bytes | None:
        """The content of a file below the root; None if there is none of that name.

        Of a zip's members, movies and files in the root are read here, frames with frame_bytes.

        Raises:
            OSError: It cannot be read.
        """
        if self.is_file:
            location = self._others.get(join_path(*parts))
            return None if location is None else self._read_member(location)
        try:
            with open(os.path.join(self.path, *parts), "rb", opener=_open_regular) as file:
                return file.read()
        except FileNotFoundError:
            return None

    def root_file(self, name: str) -> bytes | None:
        """The content of a file in the root; None if there is none of that name.

        Raises:
            UserError: It cannot be read; the message names it.
        """
        try:
            return self.read_bytes(name)
        except OSError as error:
            file = join_path(self.path, name)
            raise UserError(f"Cannot read '{file}' ({error.strerror or error}): repair or remove it.") from error

    def fingerprint(self) -> str:
        """Hash of the names of all frames and the sizes of some, which tells apart videos with the same names.

        It is the same for a folder and a zip of it.
        """
        digest = hashlib.sha256(self._names.blob.tobytes() + self._names.ends.tobytes())
        for number, video in enumerate(self.videos):
            digest.update(f"{video.path}/{len(video)}\n".encode("utf-8", "surrogateescape"))
            if number % -(-len(self.videos) // SIZES) == 0:  # each is a request to the file system
                digest.update(f"{self._frame_size(video, len(video) // 2)}\n".encode())
        return digest.hexdigest()[:32]

    def _frame_size(self, video: Video, index: int) -> int:
        """Bytes of the encoded image; -1 if it has vanished."""
        if self._locations is not None:
            return int(self._locations[video.start + index]["size"])
        try:
            return os.path.getsize(os.path.join(self.path, video.path, self.frame_name(video, index)))
        except OSError:
            return -1

    def frame_bytes(self, video: Video, index: int) -> bytes:
        """The encoded image.

        Raises:
            OSError: It cannot be read.
        """
        name = self.frame_name(video, index)
        if self.is_file:
            return self._read_member(self._locations[video.start + index])
        data = self.read_bytes(video.path, name)
        if data is None:
            raise OSError("it has vanished since the dataset was listed")
        return data

    def read_frame(self, video: Video, index: int) -> Image.Image:
        """Frame `index` of `video`, RGB with 8 bits.

        Raises:
            UnreadableFrame: The file is missing, damaged or not an image; the message names it.
        """
        try:
            return decode_image(self.frame_bytes(video, index))
        except MemoryError:
            raise
        except Exception as error:  # decoders raise any exception for damaged data
            file = join_path(self.path, video.path, self.frame_name(video, index))
            raise UnreadableFrame(
                f"Cannot read the frame '{file}' ({error}): replace it or remove the video."
            ) from error

    def _read_member(self, location: np.void) -> bytes:
        # zipfile would parse the whole directory again in every worker, and share a file position among them.
        offset, stored, size, crc, method = location.item()
        descriptor = self._open_zip()
        signature, *lengths = ZIP_HEADER.unpack(os.pread(descriptor, ZIP_HEADER.size, offset).ljust(ZIP_HEADER.size))
        if signature != b"PK\x03\x04":
            raise OSError("the zip file has changed or is damaged")
        data = _read_all(descriptor, stored, offset + ZIP_HEADER.size + sum(lengths))
        if method == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompress(data, -zlib.MAX_WBITS)
            except zlib.error as error:
                raise OSError(f"damaged in the zip file: {error}") from error
        elif method != zipfile.ZIP_STORED:
            raise OSError("it is encrypted, or compressed in another way than deflate")
        if len(data) != size or zlib.crc32(data) != crc:
            raise OSError("damaged in the zip file: its checksum differs")
        return data

    def _open_zip(self) -> int:
        """The descriptor of the zip. Reads give their offsets, so that forked processes may share it."""
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        return self._descriptor

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_descriptor": None}

    def __del__(self):
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)


def _open_regular(path: str, flags: int) -> int:
    """A descriptor of a regular file: reading a pipe without a writer would never end.

    Raises:
        OSError: It is something else, or cannot be opened.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # for a folder, `open` raises the error
        return descriptor
    os.close(descriptor)
    raise OSError("it is not a regular file")


def _read_all(descriptor: int, size: int, offset: int) -> bytes:
    """A part of a file, or as much of it as there is: one call reads at most 2 GiB, and movies may be larger."""
    parts = []
    while size > 0 and (part := os.pread(descriptor, size, offset)):
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def describe_disorder(folder: str, pair: tuple[str, str]) -> str:
    """The end of a note on frames named by decimal numbers; see `disordered_decimals`."""
    return (
        f"in the order of the integers in their names, '{join_path(folder, pair[0])}' before '{pair[1]}': if these are "
        "decimal numbers, write all of them with the same number of decimals, and none below 0"
    )


def _describe_dangling(links: list[str]) -> str | None:
    """A note on dangling links; None without any."""
    if len(links) < 2:
        return f"the link '{links[0]}' leads nowhere: its videos are left out" if links else None
    return f"{len(links)} links, such as '{links[0]}', lead nowhere: their videos are left out"
