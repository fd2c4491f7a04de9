"""Pixels, image grids and video files.

Videos are H.264 with 4:2:0 chroma (yuv420p) in mp4, the one combination that every browser and player decodes; or VP9
in webm, or animated GIFs, for pages and programs that accept only those. They are encoded by the ffmpeg program that
comes with imageio-ffmpeg.
"""

import contextlib
import errno
import fcntl
import io
import math
import os
import signal
import subprocess
import tempfile
from typing import IO, NamedTuple

import torch
from PIL import Image

from dnnlib import (
    UserError,
    atomic_write,
    explain_file_trouble,
    find_ffmpeg,
    one_line,
    temporary,
    temporary_name,
)
from renderer.frame_folder import FrameFolder
from torch_utils.argument_checks import check_floats, shown, whole_number

__all__ = [
    "FORMATS", "VideoWriter", "check_video_rate", "check_video_size", "gif_bytes", "image_grid", "save_png", "to_uint8",
]  # fmt: skip

FORMATS = ("mp4", "webm", "gif")  # of video files; also their extensions
#: ffmpeg's filter for GIFs: a palette of 256 colours for each frame, with a weak ordered dither. A 128×128 clip of the
#: gallery keeps 39 dB, 2 dB more than with error diffusion or with one palette for all frames.
GIF_PALETTE = (
    "-filter_complex",
    "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1:dither=bayer:bayer_scale=5",
)
MAX_GIF_RATE = 50  # frames per second: GIF delays are in hundredths of a second, and browsers slow down any below two

MAX_SIDE, MAX_PIXELS = 16384, 16000 * 16000  # of a video's frame: the limits of x264 and ffmpeg

#: Buffer of the encoder's pipe in bytes, the largest that Linux grants to every user, of 64 MiB in all: several small
#: frames can be written while the encoder starts. (It has no effect on other systems.)
PIPE_SIZE = 1 << 20


def to_uint8(image: torch.Tensor) -> torch.Tensor:
    """Pixels of an image in [-1, 1]: rint((x + 1) · 127.5), clipped to 0…255; any shape and device, NaN becomes 0.

    Raises:
        ValueError: Not a tensor of floats; pixels of 0 to 255 would become white.
    """
    if not isinstance(image, torch.Tensor):
        raise ValueError(f"image must be a tensor, got {shown(image)}.")
    check_floats("image", image, "in [-1, 1]")
    return ((image.float() + 1) * 127.5).nan_to_num(0).round().clamp(0, 255).to(torch.uint8)


def image_grid(images: torch.Tensor, columns: int, *, blank: float | None = None) -> torch.Tensor:
    """Images [N, 3, H, W] side by side, row after row: [3, ceil(N / columns)·H, columns·W].

    Cells that are left over are black (0 in uint8 images, -1 in float images), or have the value `blank`.

    Raises:
        ValueError: No images, not a batch of images, or fewer than one column.
    """
    if not isinstance(images, torch.Tensor) or images.ndim != 4 or len(images) == 0:
        given = tuple(images.shape) if isinstance(images, torch.Tensor) else shown(images)
        raise ValueError(f"A grid is made of images [N, C, H, W] with N > 0, got {given}.")
    columns = whole_number("columns", columns)
    if columns < 1:
        raise ValueError(f"A grid needs at least one column, got {columns}.")
    count, channels, height, width = images.shape
    rows = math.ceil(count / columns)
    if blank is None:
        blank = -1 if images.is_floating_point() else 0
    cells = images.new_full([rows * columns, channels, height, width], blank)
    cells[:count] = images
    cells = cells.reshape(rows, columns, channels, height, width).permute(2, 0, 3, 1, 4)
    return cells.reshape(channels, rows * height, columns * width)


def save_png(image: torch.Tensor, path: str | os.PathLike) -> None:
    """Write a uint8 image [3, H, W] (or [1, H, W], grey) as PNG, atomically."""
    pixels = image.cpu().permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, format="PNG")
    with atomic_write(path) as file:
        file.write(buffer.getvalue())


def check_video_size(height: int, width: int) -> None:
    """Refuse frames that no video can hold, before they are rendered.

    Raises:
        ValueError: The frame is too large.
    """
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        raise ValueError(
            f"A frame of {width}×{height} pixels is too large for a video: the limits are {MAX_SIDE} pixels a side "
            f"and {MAX_PIXELS:,} in total."
        )


def check_video_rate(name: str, fps: float) -> None:
    """Refuse a frame rate that a format of `FORMATS` does not support.

    Raises:
        ValueError: GIFs of more than 50 frames per second.
    """
    if name == "gif" and fps > MAX_GIF_RATE:
        raise ValueError(f"A GIF shows at most {MAX_GIF_RATE} frames per second, not {fps:g}.")


def _reason(messages: bytes, status: int) -> str:
    """Why ffmpeg ended early, in one line: its messages, or else its exit status."""
    ended = f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return one_line(messages.decode(errors="replace")) or f"it gave no reason ({ended})"


class _Encoder(NamedTuple):
    """A running ffmpeg: its input, and the temporary file that takes its messages."""

    process: subprocess.Popen
    input: IO[bytes]
    messages: IO[bytes]

    def failure(self, path: str) -> UserError:
        """The reason why the encoder ended early, as an error about the video `path`."""
        status = self.process.wait()
        self.messages.seek(0)
        message = _reason(self.messages.read(), status)
        if status == -signal.SIGXFSZ or os.strerror(errno.ENOSPC) in message:  # a limit of the user, or of the disk
            return UserError(f"Cannot write {path}: there is no space left; free some or choose another folder.")
        return UserError(f"Cannot write {path}: the video encoder failed: {message[-300:]}")


class VideoWriter:
    """Video writer, frame by frame; the file appears under its name when it is closed, complete or not at all.

        with VideoWriter("a.mp4", fps=8) as video:
            video.add(to_uint8(image))

    A frame of odd height or width is extended by one row or column that repeats the edge: at 4:2:0 colour is stored for
    blocks of 2×2 pixels, so the encoder takes even sizes only. Cutting would lose pixels, black would bleed into
    the neighbours' colour. PNG frames and GIFs keep their size.

    Args:
        path: The file, in an existing folder: .webm, .gif or .mp4; any other extension also gives mp4.
        fps: Frames per second.
        frames_dir: A folder for the frames as 0000.png, 0001.png, …, filled with the file: see `FrameFolder`.
        crf: x264's quality; 0 is lossless, 18 hardly visible loss. VP9 takes it too; GIFs ignore it.

    Raises:
        UserError: No encoder, an encoder that fails, a folder that cannot be written to.
        ValueError: fps not positive, or too high for a GIF; frames that are not uint8 [3, H, W] or differ in size; no
            frames at all.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        fps: float,
        *,
        frames_dir: str | os.PathLike | None = None,
        crf: int = 16,
    ):
        if not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"fps must be positive, got {fps}.")
        self.path = os.path.abspath(os.fspath(path))
        ending = os.path.splitext(self.path)[1][1:].lower()
        self._format = ending if ending in FORMATS else "mp4"
        check_video_rate(self._format, fps)
        if os.path.isdir(self.path):  # renaming the finished file would fail
            raise UserError(f"Cannot write {self.path}: it is a folder; move it, or choose another folder.")
        self.fps = fps
        self.crf = crf
        self.num_frames = 0
        self._frames = None if frames_dir is None else FrameFolder(frames_dir)
        self._temporary = temporary_name(self.path)
        self._size: tuple[int, int] | None = None  # of the frames as given
        self._encoder: _Encoder | None = None

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def add(self, frame: torch.Tensor) -> None:
        """Append a frame, uint8 [3, H, W] on any device."""
        if frame.dtype != torch.uint8 or frame.ndim != 3 or len(frame) != 3:
            raise ValueError(f"A video frame is uint8 [3, H, W], got {frame.dtype} {tuple(frame.shape)}.")
        height, width = frame.shape[1:]
        if self._encoder is None:
            self._size = (height, width)
            self._encoder = self._start(*self._padded(width, height))
        elif (height, width) != self._size:
            raise ValueError(f"Frame {self.num_frames} is {height}×{width}, the frames before it {self._size}.")
        frame = frame.cpu()
        if self._frames is not None:
            save_png(frame, self._frames.next_frame())
        wide, high = self._padded(width, height)
        frame = torch.cat([frame, frame[:, -1:]], dim=1) if high > height else frame
        frame = torch.cat([frame, frame[:, :, -1:]], dim=2) if wide > width else frame
        try:
            self._encoder.input.write(frame.permute(1, 2, 0).contiguous().numpy().tobytes())
        except OSError as error:  # a broken pipe: the encoder has ended and left a message
            raise self._encoder.failure(self.path) from error
        self.num_frames += 1

    def close(self) -> None:
        """Finish the file, and then the folder of frames, and give them their names."""
        if self._encoder is None:
            raise ValueError(f"No frames were written to {self.path}.")
        try:
            try:
                self._encoder.input.close()
            except OSError as error:
                raise self._encoder.failure(self.path) from error
            if self._encoder.process.wait() != 0:
                raise self._encoder.failure(self.path)
            with explain_file_trouble(self.path):
                with open(self._temporary, "rb+") as file:
                    os.fsync(file.fileno())
                os.replace(self._temporary, self.path)
            if self._frames is not None:
                self._frames.close()
        finally:
            self.abort()

    def abort(self) -> None:
        """Stop the encoder and remove unfinished files; no effect after `close`."""
        if self._encoder is not None:
            self._encoder.process.kill()
            with contextlib.suppress(OSError):
                self._encoder.input.close()
            self._encoder.process.wait()
            self._encoder.messages.close()
            self._encoder = None
        with contextlib.suppress(OSError):  # it need not exist; and an error here would hide the encoder's
            os.unlink(self._temporary)
        if self._frames is not None:
            self._frames.abort()

    def _padded(self, width: int, height: int) -> tuple[int, int]:
        """Size of a frame as it is encoded."""
        return (width, height) if self._format == "gif" else (width + width % 2, height + height % 2)

    def _start(self, width: int, height: int) -> _Encoder:
        command = [
            *[find_ffmpeg(), "-hide_banner", "-loglevel", "error", "-nostats", "-y"],
            *["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{self.fps:g}", "-i", "pipe:0"],
            *["-an", *_encoding(self._format, self.crf), self._temporary],
        ]
        if not os.path.isdir(os.path.dirname(self.path)):
            raise UserError(f"Cannot write {self.path}: its folder does not exist.")
        # A file, because nothing would read a pipe while frames are written. It lives as long as the encoder.
        messages: IO[bytes] = temporary(tempfile.TemporaryFile)
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=messages,
                start_new_session=True,  # Ctrl-C, after which a training finishes its previews, does not end it
            )
        except OSError as error:
            messages.close()
            raise UserError(f"Cannot start the video encoder {command[0]}: {error.strerror}.") from error

        assert process.stdin is not None
        with contextlib.suppress(AttributeError, OSError):  # not Linux; or this user's pipes hold their limit already
            fcntl.fcntl(process.stdin, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        return _Encoder(process, process.stdin, messages)


def _encoding(name: str, crf: int) -> list[str]:
    """ffmpeg's options for a format of `FORMATS`."""
    if name == "gif":
        return [*GIF_PALETTE, "-f", "gif"]
    # bt709 is spelled out because players otherwise guess the colour matrix from the size of the picture.
    # ffmpeg 9 takes primaries and transfer function from the frames, earlier versions take them from the options.
    frames = "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p,setparams=color_primaries=bt709:color_trc=bt709"
    colours = ["-vf", frames]
    colours += ["-color_range", "tv", "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
    if name == "webm":
        return ["-c:v", "libvpx-vp9", "-crf", str(crf), "-b:v", "0", "-cpu-used", "4", *colours, "-f", "webm"]
    # faststart moves the index to the front, so that a browser can begin before it has the whole file.
    return ["-c:v", "libx264", "-crf", str(crf), "-preset", "medium", *colours, "-movflags", "+faststart", "-f", "mp4"]


def gif_bytes(video: str | os.PathLike) -> bytes:
    """A video file as an animated GIF.

    Raises:
        UserError: No encoder, or a file that it cannot read.
    """
    source = f"file:{os.fspath(video)}"  # a colon in the path would be taken for that of a protocol
    command = [find_ffmpeg(), "-hide_banner", "-loglevel", "error", "-nostats", "-i", source, "-an"]
    result = subprocess.run(
        [*command, *GIF_PALETTE, "-f", "gif", "pipe:1"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        start_new_session=True,  # as in VideoWriter
    )
    if result.returncode != 0:
        message = _reason(result.stderr, result.returncode)
        raise UserError(f"Cannot read {os.fspath(video)}: the video decoder failed: {message[-300:]}")
    return result.stdout
