"""Decoding of video files frame by frame with the ffmpeg of imageio-ffmpeg."""

import contextlib
import dataclasses
import functools
import os
import re
import subprocess
import tempfile
from collections.abc import Generator
from fractions import Fraction
from typing import IO

import imageio_ffmpeg
from PIL import Image

from dnnlib import UserError, one_line, temporary_folder

__all__ = ["BrokenVideo", "VideoInfo", "decode_video", "describe_warnings", "probe_video"]

# The stream's line in ffmpeg's description: …: Video: h264 (High), yuv420p(progressive), 640x360 …, 25 fps, …
STREAM = re.compile(r"Stream #.*?: Video: (?P<codec>\w+).*?, (?P<format>\w+)(?:\([^)]*\))?, \d+x\d+")
FPS = re.compile(r"(\d+(?:\.\d+)?)(k?) fps\b")
# Pixel formats with alpha, and RGB formats: the frames of a stream of PNGs, for instance, may differ in it.
HAS_ALPHA = re.compile(r"yuva|[0ax]?rgb|[0ax]?bgr|gbr|ya8|ya16|yaf|pal8|ayuv|vuya|uyva")
# WebM stores alpha in side data, which ffmpeg's own decoders ignore.
ALPHA_BESIDE = re.compile(r"alpha_mode\s*: 1\b")
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}

# Bit-exact with training.data.frame_store for images. Time stamps become those of a constant rate: of two frames with
# equal ones, one might be dropped.
OVER_BLACK = (
    "setpts=N,format=gbrap,split[picture][black];[black]lutrgb=r=0:g=0:b=0:a=maxval[black];"
    "[black][picture]overlay=format=gbrp"
)
SQUARE_PIXELS = "max(1,round(iw*sar))"  # the width
AS_PPM = ("-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "pipe:1")
TOO_WIDE = 10**9  # a width that the scaling filter refuses
ERROR_LINE = re.compile(r"\[(?:error|fatal|panic)\] ")
ANOTHER_SIZE = "Rescaled value for width or height is too big"
RECONFIGURED = "Reconfiguring filter graph"
DECODED = re.compile(
    r"\[dec:(?P<decoder>[\w-]+).* decoder -> pts:(?P<pts>\S+) .*keyframe:(?P<key>\d) .*time_base:(?P<base>\S+)"
)


class BrokenVideo(Exception):
    """A video that cannot be decoded; the message is for the user."""


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """Properties of a video file.

    Attributes:
        fps: Frames per second; None if unknown.
        alpha: True if frames have alpha, or may have it.
        size: Width and height of its first frame, upright and with square pixels; None if that cannot be decoded.
        decoder: The decoder to request because ffmpeg's default ignores alpha; None for the default.
    """

    fps: float | None
    alpha: bool
    size: tuple[int, int] | None
    decoder: str | None


def probe_video(path: str) -> VideoInfo:
    """Properties of a video file by ffmpeg; all unknown if it cannot read the file."""
    try:
        status = os.stat(path)
    except OSError:
        return VideoInfo(fps=None, alpha=False, size=None, decoder=None)
    return _probe(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@functools.lru_cache(maxsize=4096)
def _probe(path: str, stamp: tuple[int, ...]) -> VideoInfo:
    """probe_video, cached by path and stamp: a changed file has another stamp."""
    command = [_ffmpeg(), "-hide_banner", "-nostdin", "-i", f"file:{path}", "-map", "0:V:0", "-frames:v", "1"]
    command += ["-vf", f"scale=w='{SQUARE_PIXELS}':h=ih", *AS_PPM]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    found = re.match(rb"P6\n(\d+) (\d+)\n", result.stdout)
    size = None if found is None else (int(found[1]), int(found[2]))
    text = result.stderr.decode(errors="replace").partition("\nOutput #")[0]
    for line in text.splitlines():
        stream = STREAM.search(line)
        if stream is not None and "(attached pic)" not in line:
            rate = FPS.search(line)
            fps = float(rate[1]) * (1000 if rate[2] else 1) if rate is not None else None
            decoder = ALPHA_DECODERS.get(stream["codec"]) if ALPHA_BESIDE.search(text) else None
            alpha = decoder is not None or HAS_ALPHA.match(stream["format"]) is not None
            return VideoInfo(fps=fps, alpha=alpha, size=size, decoder=decoder)
    return VideoInfo(fps=None, alpha=False, size=size, decoder=None)


def decode_video(
    path: str, *, stride: int = 1, limit: int | None = None, threads: int | None = None
) -> Generator[Image.Image, None, int]:
    """The frames of a video file, upright, with square pixels, 8-bit RGB, transparent parts over black.

    ffmpeg sends PPM images, because their headers give the size.

    Args:
        path: The file.
        stride: Keep every n-th frame, from the first.
        limit: Largest number of frames; None for all.
        threads: Decoding threads; None for ffmpeg's choice.

    Returns:
        The number of the decoder's warnings about pictures before the first frame: a recording that was cut between two
        key frames begins with pictures that cannot be decoded. 0 for most videos.

    Raises:
        BrokenVideo: It cannot be decoded to its end (or the limit), holds no pictures, or pictures of several sizes.
    """
    info = probe_video(path)
    input_options = ["-nostdin"] + ([] if info.decoder is None else ["-c:v", info.decoder])
    command = [_ffmpeg(), "-hide_banner", "-nostats", "-v", "level+repeat+info", *input_options]
    command += [] if threads is None else ["-threads", str(threads), "-filter_threads", str(threads)]
    command += ["-i", f"file:{path}", "-map", "0:V:0", "-vf", _filters(info, stride), "-fps_mode", "passthrough"]
    command += [] if limit is None else ["-frames:v", str(limit)]
    command += AS_PPM
    with (
        tempfile.TemporaryFile(dir=temporary_folder()) as messages,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages) as process,
    ):
        count = 0
        try:
            while (frame := _read_ppm(process.stdout)) is not None:
                count += 1
                yield frame
            process.wait()
        finally:
            process.kill()  # no effect on an ended process
        error, reconfigured = _error_lines(messages)
    enough = limit is not None and count == limit
    if ANOTHER_SIZE in error:
        if enough:
            return 0  # the size changes only after the requested frames
        error = f"then come frames that are not {info.size[0]}×{info.size[1]} pixels large: cut it there"
    elif reconfigured and stride > 1:
        error = f"the pixel format changes on the way, where counting every {stride}th frame would begin anew"
    elif error and count and not process.returncode:
        warnings = _warnings_before_start(path, input_options, limit=None if limit is None else limit * stride)
        if warnings is not None:
            return warnings
    if process.returncode or error or not count:
        reason = error or (
            f"ffmpeg ended with code {process.returncode}" if process.returncode else "it holds no pictures"
        )
        raise BrokenVideo(f"Cannot decode '{path}' beyond frame {count * stride} ({reason}).")
    return 0


def describe_warnings(count: int, *, videos: int) -> str:
    """One line about the warnings that decode_video returned, summed over `videos` videos."""
    return (
        f"{videos} video(s) begin between two key frames: what precedes the first one is left out ({count} warning(s) "
        "of the decoder)."
    )


def _filters(info: VideoInfo, stride: int) -> str:
    """ffmpeg's filters for decoded frames. A frame of another size than the first becomes an error, not a resize."""
    width = SQUARE_PIXELS
    if info.size is not None:
        same = f"eq({SQUARE_PIXELS},{info.size[0]})*eq(ih,{info.size[1]})"
        width = f"if({same},{info.size[0]},{TOO_WIDE})"
    filters = [] if stride == 1 else [rf"select=not(mod(n\,{stride}))"]
    if info.alpha:  # otherwise the colours of transparent pixels would appear
        filters.append(OVER_BLACK)
    filters += [f"scale=w='{width}':h=ih:eval=frame:flags=bicubic+accurate_rnd+full_chroma_int", "setsar=1"]
    return ",".join(filters)


def _error_lines(messages: IO[bytes]) -> tuple[str, bool]:
    """ffmpeg's first error message ('' if there is none), and True if the pixel format changed."""
    first, reconfigured = "", False
    messages.seek(0)
    for line in messages:
        text = line[:2000].decode(errors="replace")
        reconfigured = reconfigured or RECONFIGURED in text
        if ANOTHER_SIZE in text or (not first and ERROR_LINE.search(text)):
            first = one_line(ERROR_LINE.sub("", re.sub(" @ 0x[0-9a-f]+", "", text)))
            if ANOTHER_SIZE in text:
                break
    return first, reconfigured


def _warnings_before_start(path: str, input_options: list[str], *, limit: int | None) -> int | None:
    """Number of decoder errors, if all are about pictures before the first key frame; None if the file is damaged.

    The file is decoded again with one thread, so that errors and frames come in order. It is damaged if there is an
    error after the first frame, an error that is not the decoder's, a frame that is marked as corrupt, or if the first
    frame is not the first key frame of the file.

    Args:
        limit: Number of frames of the file that are checked; None for all.
    """
    start = _first_key_frame(path)
    if start is None:
        return None
    command = [_ffmpeg(), "-hide_banner", "-nostats", "-v", "level+repeat+info", "-debug_ts", "-copyts", *input_options]
    command += ["-threads", "1", "-i", f"file:{path}", "-map", "0:V:0", "-fps_mode", "passthrough"]
    command += [] if limit is None else ["-frames:v", str(limit)]
    command += ["-f", "null", "-"]
    errors, started = [], False
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        with contextlib.ExitStack() as stack:
            stack.callback(process.kill)
            for line in process.stderr:
                text = line.decode(errors="replace")
                if ERROR_LINE.search(text):
                    if started:
                        return None
                    errors.append(text)
                elif "corrupt decoded frame" in text:
                    return None
                elif not started and (frame := DECODED.search(text)) is not None:
                    started = True
                    by_decoder = all(error.startswith(f"[{frame['decoder']} ") for error in errors)
                    if not by_decoder or frame["key"] != "1" or _seconds(frame["pts"], frame["base"]) != start:
                        return None
            process.wait()
    return len(errors) if started and process.returncode == 0 else None


def _first_key_frame(path: str) -> Fraction | None:
    """The presentation time in seconds of the first key frame of a file; None if unknown."""
    command = [_ffmpeg(), "-v", "quiet", "-nostdin", "-copyts", "-i", f"file:{path}", "-map", "0:V:0"]
    command += ["-c", "copy", "-frames:v", "1", "-f", "framecrc", "-"]
    listed = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).stdout.decode(errors="replace")
    base = re.search(r"^#tb 0: (\S+)$", listed, re.MULTILINE)
    packet = re.search(r"^0, *-?\d+, *(-?\d+),", listed, re.MULTILINE)  # stream, dts, pts, …
    return None if base is None or packet is None else _seconds(packet[1], base[1])


def _seconds(ticks: str, base: str) -> Fraction | None:
    try:
        return int(ticks) * Fraction(base.strip())
    except (ValueError, ZeroDivisionError):
        return None


def _ffmpeg() -> str:
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise UserError(f"There is no ffmpeg: reinstall imageio-ffmpeg ({error}).") from error


def _read_ppm(stream: IO[bytes]) -> Image.Image | None:
    """The next image; None at the end of the stream, also if that is premature."""
    header = [stream.readline() for _ in range(3)]  # P6, size, 255
    if not header[2]:
        return None
    assert header[0] == b"P6\n" and header[2] == b"255\n", header
    width, height = map(int, header[1].split())
    data = stream.read(width * height * 3)
    return Image.frombytes("RGB", (width, height), data) if len(data) == width * height * 3 else None
