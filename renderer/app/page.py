"""The page of the Gradio app: controls for content, motion, camera and time; a frame that follows them, and a video.

It sees no network: frames and videos come from callables.
"""

import functools
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib import UserError, listening_port, one_line, temporary
from renderer.trajectories import DEFAULT_PROGRAM, FORWARD_PROGRAMS

__all__ = ["build_page", "launch_page", "temporary_videos"]

MAX_FRAMES = 128
KEPT = (600, 3600)  # seconds: interval between deletions of the page's old files, and the age at which they are old

#: (seed, motion seed, truncation, time, yaw, pitch) to pixels, uint8 [H, W, 3]; angles in radians.
RenderFrame = Callable[[int, int, float, float, float, float], np.ndarray]
#: (path, seed, motion seed, truncation, program, frames): writes an .mp4 file.
WriteVideo = Callable[[str, int, int, float, str, int], None]


def build_page(
    *,
    title: str,
    render_frame: RenderFrame,
    write_video: WriteVideo,
    yaw: float,
    pitch: float,
    has_motion: bool,
    has_time: bool,
    folder: str,
) -> Any:
    """The page, a `gradio.Blocks`.

    Args:
        yaw, pitch: Largest angles from the frontal view, in radians.
        has_motion, has_time: Whether motion seeds and times change the frames; otherwise they are left out.
        folder: Folder for the videos.

    Raises:
        UserError: Gradio is missing.
    """
    gradio = _gradio()

    def frame(*values: float) -> np.ndarray:
        return _call(gradio, render_frame, *values)

    def video(seed: int, motion: int, psi: float, program: str, frames: float) -> str:
        # One video is written at a time, and Gradio has made a copy of the one before.
        for earlier in Path(folder).iterdir():
            earlier.unlink()
        path = os.path.join(folder, f"{secrets.token_hex(8)}.mp4")
        _call(gradio, write_video, path, seed, motion, psi, program, frames)
        return path

    # No usage statistics are sent anywhere.
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=KEPT) as page:
        gradio.Markdown(f"## {title}")
        with gradio.Row():
            with gradio.Column():
                # Without bounds, since Gradio prints a traceback for a number beyond them; `_call` shows the error.
                seed = gradio.Number(3, label="Seed", precision=0)
                motion = gradio.Number(3, label="Motion seed", precision=0, visible=has_motion)
                psi = gradio.Slider(0, 1, value=1, label="Truncation")
                time = gradio.Slider(0, 1, value=0.5, label="Time", visible=has_time)
                turn = gradio.Slider(-yaw, yaw, value=0, step=0.01, label="Yaw")
                tilt = gradio.Slider(-pitch, pitch, value=0, step=0.01, label="Pitch")
            shown = gradio.Image(label="Frame", interactive=False, format="png")
            shown.buttons = ["download", "fullscreen"]  # not Gradio 6's button that uploads; Gradio 5 has none here
        with gradio.Row():
            with gradio.Column():
                program = gradio.Dropdown(list(FORWARD_PROGRAMS), value=DEFAULT_PROGRAM, label="Camera path")
                frames = gradio.Slider(1, MAX_FRAMES, value=16, step=1, label="Frames")
                button = gradio.Button("Render the video", variant="primary")
            clip = gradio.Video(label="Video", interactive=False, autoplay=True, loop=True)
        controls = [seed, motion, psi, time, turn, tilt]
        for slider in (psi, time, turn, tilt, frames):
            slider.preprocess = functools.partial(_within, slider)
        for control in controls:
            control.change(frame, controls, shown, show_progress="hidden", trigger_mode="always_last")
        page.load(frame, controls, shown, show_progress="hidden")
        button.click(video, [seed, motion, psi, program, frames], clip)
    return page


def launch_page(page: Any, *, host: str, port: int) -> str:
    """Serve the page in the background; returns its address.

    Raises:
        UserError: The address cannot be used or reached.
    """
    port = listening_port(host, port)
    name = f"[{host}]" if ":" in host else host  # IPv6, as Gradio wants it
    try:
        _, address, _ = page.queue(default_concurrency_limit=1).launch(
            server_name=name, server_port=port, prevent_thread_lock=True, quiet=True, share=False
        )
    # The port was taken in the meantime, or a proxy intercepts Gradio's request to its page: errors of any class.
    except Exception as error:
        raise UserError(
            f"Cannot serve the page on port {port} of {host}: {one_line(error)} "
            f"(if an HTTP proxy is set, set NO_PROXY=localhost,{host} as well)."
        ) from error
    return address.replace("[::]", "[::1]")  # browsers open no wildcard


def temporary_videos() -> tempfile.TemporaryDirectory:
    """A folder for videos until the page is closed."""
    return temporary(tempfile.TemporaryDirectory, prefix="video-3d-gan-")


def _within(slider: Any, value: float | None) -> float | None:
    """The number of a slider: browsers send it while it is typed, and limit it later (Gradio prints a traceback)."""
    return None if value is None else min(slider.maximum, max(slider.minimum, value))


def _call(gradio: Any, function: Callable, *values: Any) -> Any:
    """The function's result; a user error is shown on the page."""
    if None in values:
        raise gradio.Error("A number is missing.", print_exception=False)
    try:
        return function(*values)
    except ValueError as error:
        raise gradio.Error(str(error), print_exception=False) from error


def _gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError as error:
        raise UserError("The app needs one more package: `pip install gradio`.") from error
    return gradio
