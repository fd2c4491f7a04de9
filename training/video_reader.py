"""Decoding video files frame by frame through the ffmpeg that imageio-ffmpeg brings along."""

import dataclasses
import re
import subprocess
import tempfile
from collections.abc import Iterator
from typing import IO

import imageio_ffmpeg
from PIL import Image

from dnnlib import UserError, one_line

__all__ = ["BrokenVideo", "VideoInfo", "decode_video", "probe_video"]

# The stream's line in ffmpeg's description: …: Video: h264 (High), yuv420p(progressive), 640x360 …, 25 fps, …
STREAM = re.compile(r"Stream #.*?: Video: .*?, (?P<format>\w+)(?:\([^)]*\))?, \d+x\d+")
FPS = re.compile(r"(\d+(?:\.\d+)?)(k?) fps\b")
HAS_ALPHA = re.compile(r"yuva|rgba|bgra|argb|abgr|gbrap|ya8|ya16|pal8|ayuv|vuya")


class BrokenVideo(Exception):
    """A video that cannot be decoded; the message is for the user."""


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a video file says about itself: frames per second (None if it does not say), and whether it has alpha."""

    fps: float | None
    alpha: bool


def probe_video(path: str) -> VideoInfo:
    """Ask ffmpeg about a video file; a file that it cannot make out has neither."""
    command = [_ffmpeg(), "-hide_banner", "-nostdin", "-i", f"file:{path}"]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)  # fails: no output was asked for
    for line in result.stderr.decode(errors="replace").splitlines():
        stream = STREAM.search(line)
        if stream is not None and "(attached pic)" not in line:
            rate = FPS.search(line)
            fps = float(rate[1]) * (1000 if rate[2] else 1) if rate is not None else None
            return VideoInfo(fps=fps, alpha=HAS_ALPHA.match(stream["format"]) is not None)
    return VideoInfo(fps=None, alpha=False)


def decode_video(
    path: str, *, stride: int = 1, limit: int | None = None, alpha: bool = False, threads: int | None = None
) -> Iterator[Image.Image]:
    """Frames of a video file, once each, upright, with square pixels, 8-bit RGB.

    Frames come as PPM images, because then the stream itself says how large they are.

    Args:
        path: Of the file.
        stride: Every so-many-th frame, from the first.
        limit: At most so many; None: all.
        alpha: It has transparent parts: put them over black. (Otherwise what lies hidden there would appear.)
        threads: For decoding; None lets ffmpeg choose.

    Raises:
        BrokenVideo: It cannot be decoded to its end (or the limit), or holds no pictures.
    """
    filters = ["scale=w='max(1,round(iw*sar))':h=ih:flags=bicubic+accurate_rnd+full_chroma_int", "setsar=1"]
    if alpha:
        filters.insert(0, "format=gbrap,premultiply=inplace=1")
    if stride > 1:
        filters.insert(0, rf"select=not(mod(n\,{stride}))")
    command = [_ffmpeg(), "-v", "error", "-nostdin"]
    command += [] if threads is None else ["-threads", str(threads), "-filter_threads", str(threads)]
    command += ["-i", f"file:{path}", "-map", "0:V:0", "-vf", ",".join(filters), "-fps_mode", "passthrough"]
    command += [] if limit is None else ["-frames:v", str(limit)]
    command += ["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "pipe:1"]
    with (
        tempfile.TemporaryFile() as messages,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages) as process,
    ):
        count = 0
        try:
            while (frame := _read_ppm(process.stdout)) is not None:
                count += 1
                yield frame
            process.wait()
        finally:
            process.kill()  # does nothing to a process that has ended
        messages.seek(0)
        complaint = messages.read(2000).decode(errors="replace").partition("\n")[0]
        complaint = one_line(re.sub(" @ 0x[0-9a-f]+", "", complaint))  # the first one; the others follow from it
        if process.returncode or complaint or not count:
            reason = complaint or (
                f"ffmpeg ended with code {process.returncode}" if process.returncode else "it holds no pictures"
            )
            raise BrokenVideo(f"Cannot decode '{path}' beyond frame {count * stride} ({reason}).")


def _ffmpeg() -> str:
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise UserError(f"There is no ffmpeg: reinstall imageio-ffmpeg ({error}).") from error


def _read_ppm(stream: IO[bytes]) -> Image.Image | None:
    """The next image; None at the end, also where it comes too early."""
    header = [stream.readline() for _ in range(3)]  # P6, size, 255
    if not header[2]:
        return None
    assert header[0] == b"P6\n" and header[2] == b"255\n", header
    width, height = map(int, header[1].split())
    data = stream.read(width * height * 3)
    return Image.frombytes("RGB", (width, height), data) if len(data) == width * height * 3 else None
