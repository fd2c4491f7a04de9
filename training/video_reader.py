"""Decoding video files frame by frame through the ffmpeg that imageio-ffmpeg brings along."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from typing import IO

import imageio_ffmpeg
from PIL import Image

from dnnlib import UserError, one_line

__all__ = ["BrokenVideo", "decode_video"]


class BrokenVideo(Exception):
    """A video that cannot be decoded; the message is for the user."""


def decode_video(path: str) -> Iterator[Image.Image]:
    """All frames of a video file, once each, upright and with square pixels.

    Frames come as PPM images, because then the stream itself says how large they are.
    """
    try:
        ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise UserError(f"There is no ffmpeg: reinstall imageio-ffmpeg ({error}).") from error
    square = "scale=w='max(1,round(iw*sar))':h=ih:flags=bicubic+accurate_rnd+full_chroma_int,setsar=1"
    command = [ffmpeg, "-v", "error", "-nostdin", "-i", f"file:{path}", "-map", "0:V:0", "-vf", square]
    command += ["-fps_mode", "passthrough", "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "pipe:1"]
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
            reason = complaint or f"ffmpeg ended with code {process.returncode}"
            raise BrokenVideo(f"Cannot decode '{path}' beyond frame {count} ({reason}).")


def _read_ppm(stream: IO[bytes]) -> Image.Image | None:
    """The next image; None at the end, also where it comes too early."""
    header = [stream.readline() for _ in range(3)]  # P6, size, 255
    if not header[2]:
        return None
    assert header[0] == b"P6\n" and header[2] == b"255\n", header
    width, height = map(int, header[1].split())
    data = stream.read(width * height * 3)
    return Image.frombytes("RGB", (width, height), data) if len(data) == width * height * 3 else None
