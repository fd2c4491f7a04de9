"""Downloads of a browser window: a picture, a camera path, a video. Nothing stays on the viewer's machine."""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch

from dnnlib import temporary
from renderer.trajectory_files import PathCamera, write_camera_path
from renderer.video import VideoWriter, save_png
from renderer.viewer.messages import show_errors
from renderer.viewer.panel import PanelSettings
from renderer.viewer.recording import CameraRecording
from renderer.viewer.render_queue import RenderQueue

__all__ = ["Downloads", "VideoMaking"]


def picture_file(image: torch.Tensor) -> bytes:
    """A PNG of a uint8 image [3, H, W]."""
    return _through_file("picture.png", lambda path: save_png(image, path))


def path_file(cameras: Sequence[PathCamera]) -> bytes:
    """A JSON file of a camera path (see `renderer.trajectory_files`)."""
    return _through_file("path.json", lambda path: write_camera_path(path, cameras))


def _through_file(name: str, write: Callable[[str], None]) -> bytes:
    with temporary(tempfile.TemporaryDirectory, prefix="viewer-") as folder:
        path = os.path.join(folder, name)
        write(path)
        with open(path, "rb") as file:
            return file.read()


def turns_of_time(camera: PathCamera, *, seconds: float, fps: float) -> list[PathCamera]:
    """A static camera while time runs once from 0 to 1, both ends included: one camera per frame."""
    count = max(2, round(seconds * fps))
    place = (camera.yaw, camera.pitch, camera.radius, camera.fov)
    return [PathCamera(*place, time=i / (count - 1)) for i in range(count)]


class VideoMaking:
    """A video made frame by frame, so that other clients get their turn in between.

    Args:
        cameras: One per frame.
        draw: Renders a camera's frame as uint8 [3, H, W].
        fps: Frames per second.
    """

    def __init__(self, cameras: Sequence[PathCamera], draw: Callable[[PathCamera], torch.Tensor], fps: float):
        self._cameras, self._draw, self.done = cameras, draw, 0
        self._folder = temporary(tempfile.mkdtemp, prefix="viewer-")
        self._path = os.path.join(self._folder, "video.mp4")
        self._writer = VideoWriter(self._path, fps)

    def __len__(self) -> int:
        return len(self._cameras)

    def step(self) -> bytes | None:
        """Render the next frame; returns None, or after the last frame the content of the file.

        Raises:
            UserError: The video cannot be written.
        """
        self._writer.add(self._draw(self._cameras[self.done]))
        self.done += 1
        if self.done < len(self):
            return None
        self._writer.close()
        with open(self._path, "rb") as file:
            return file.read()

    def close(self) -> None:
        """Remove all temporary files; harmless to repeat."""
        self._writer.abort()
        shutil.rmtree(self._folder, ignore_errors=True)


class Downloads:
    """The download buttons and the recorded camera path of one client.

    Args:
        client: viser's handle; files go to its browser as downloads.
        queue: Where frames are rendered.
        frame: Returns the values of the controls and the camera that is shown.
        drawing: Returns the function that renders their picture in full quality, with the network that is shown now.
    """

    def __init__(
        self,
        client: Any,
        queue: RenderQueue,
        *,
        frame: Callable[[], tuple[PanelSettings, PathCamera]],
        drawing: Callable[[], Callable[[PanelSettings, PathCamera], torch.Tensor]],
    ):
        self._client, self._queue, self._frame, self._drawing = client, queue, frame, drawing
        self._path = CameraRecording()
        self.recording = False
        self._video: VideoMaking | None = None
        self._note: Any = None
        self._closed = False

    @property
    def actions(self) -> dict[str, Callable[[], None]]:
        """The actions of the buttons."""
        return {"picture": self._ask(self._picture), "path": self._ask(self._cameras), "video": self._ask(self._movie)}

    @property
    def recorded(self) -> int:
        """Number of recorded cameras."""
        return len(self._path)

    def record(self, now: float) -> None:
        """Begin a new path, or end it."""
        self.recording = not self.recording
        if self.recording:
            self._path = CameraRecording()
        else:
            self._path.end(now)

    def keep(self, camera: PathCamera, now: float, *, at_rest: bool) -> None:
        """Append the camera that is shown to the path; recording ends when the path is full."""
        self.recording = self._path.add(camera, now, at_rest=at_rest)

    def close(self) -> None:
        """The window is gone: stop, and remove an unfinished video (in the render thread, which may be writing it)."""
        self._closed = True
        for save in (self._picture, self._cameras, self._movie):
            self._queue.forget(self._key(save.__name__))
        self._queue.submit(self._key("video"), self._end_video, always=True)

    def _key(self, what: str) -> tuple:
        return (self._client.client_id, what)

    def _ask(self, save: Callable[[PanelSettings, PathCamera], None]) -> Callable[[], None]:
        """A button's action: the render thread saves what is shown when the job runs."""

        def job() -> None:
            if self._closed:  # a click that was handled after its window had gone
                return
            with show_errors(self._client):
                save(*self._frame())

        return lambda: self._queue.submit(self._key(save.__name__), job)

    def _picture(self, settings: PanelSettings, camera: PathCamera) -> None:
        latents = settings.latents
        name = f"{settings.view.replace(' ', '-')}-seed{latents.seed:04d}-motion{latents.motion_seed:04d}.png"
        self._send(name, picture_file(self._drawing()(settings, camera)))

    def _cameras(self, settings: PanelSettings, camera: PathCamera) -> None:
        self._send("camera-path.json", path_file(self._path.frames(settings.video_fps) or [camera]))

    def _movie(self, settings: PanelSettings, camera: PathCamera) -> None:
        if self._video is not None:
            raise ValueError("a video is being made already.")
        fps = settings.video_fps
        cameras = self._path.frames(fps) or turns_of_time(camera, seconds=settings.seconds, fps=fps)
        draw = self._drawing()  # the network of all frames, whichever is shown meanwhile
        self._video = VideoMaking(cameras, lambda camera: draw(settings, camera), fps)
        self._note = self._client.add_notification("Video", "", loading=True, with_close_button=False)
        self._queue.submit(self._key("video"), self._next_frame, replace=False)  # `close` may have come meanwhile

    def _next_frame(self) -> None:
        video, content = self._video, None
        with show_errors(self._client):
            content = video.step()
            if content is None:
                self._note.body = f"{video.done} of {len(video)} frames"
                self._queue.submit(self._key("video"), self._next_frame, replace=False)
                return
            self._send("video.mp4", content)
        self._end_video()

    def _end_video(self) -> None:
        if self._video is not None:
            self._video.close()
            self._video = None
            self._note.remove()

    def _send(self, name: str, content: bytes) -> None:
        self._client.send_file_download(name, content, save_immediately=True)
