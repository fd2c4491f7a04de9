"""Small video files whose frames tell their number."""

import subprocess

import imageio_ffmpeg
import numpy as np


def gray(frame):
    return 20 + 5 * frame


def write_movie(path, *, frames=20, size=(48, 32), paint=None):
    """A nearly lossless H.264 video whose frame i has the gray value 20 + 5i."""
    writer = imageio_ffmpeg.write_frames(
        str(path), size, fps=10, codec="libx264", output_params=["-crf", "1", "-g", "5"], macro_block_size=2
    )
    writer.send(None)
    for frame in range(frames):
        image = np.full([size[1], size[0], 3], gray(frame), dtype=np.uint8)
        if paint is not None:
            paint(image)
        writer.send(np.ascontiguousarray(image))
    writer.close()
    return str(path)


def run_ffmpeg(*arguments):
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)], check=True)
