"""One browser window: its camera, its controls, the frames that it is sent.

Every change only asks for a frame (`_touch`); its content is decided when the render thread gets to it, from the values
of the controls at that time.
"""

import dataclasses
import functools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch

from renderer.trajectory_files import PathCamera
from renderer.viewer.checkpoint_list import CheckpointList
from renderer.viewer.messages import show_errors
from renderer.viewer.orbit import OrbitLimits, position_of
from renderer.viewer.panel import Panel, PanelSettings
from renderer.viewer.pictures import draws_field, field_picture, layers_of, letterbox, picture
from renderer.viewer.playback import Playback
from renderer.viewer.quality import DraftQuality
from renderer.viewer.render_queue import RenderQueue
from renderer.viewer.saving import Downloads
from renderer.viewer.views import ViewRequest, ViewSource

__all__ = ["Session"]

REST = 0.25  # seconds without a change after which a frame is drawn in full quality
STATUS_EVERY = 0.5  # seconds between updates of the status line while something moves
NEAR_ENOUGH = 1e-3  # scene units that the mouse's camera may be away from the shown one
ATTEMPTS = 20  # to move a browser's initial camera to the front; then it is accepted wherever it is
ORIGIN = (0.0, 0.0, 0.0)
JPEG_QUALITY = 85  # of frames in motion
FINER = 2  # rays per side of a volume rendering at rest, as a multiple of those in training: 8 times the samples


class Session:
    """Rendering for one client of viser, until it is closed.

    Args:
        client: viser's handle.
        checkpoints: Checkpoints to choose from; the newest is shown first.
        queue: Where frames are rendered.
        clock: Monotonic clock in seconds.

    Attributes:
        quality: Resolution of frames in motion.
        frames: Of the latest frames: the time at which each was sent, its width, and the seconds that it took.
    """

    def __init__(
        self,
        client: Any,
        checkpoints: CheckpointList,
        queue: RenderQueue,
        *,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._client, self._checkpoints, self._queue, self._clock = client, checkpoints, queue, clock
        self._key = client.client_id
        states = checkpoints.states  # before the file is read: one that is replaced meanwhile is loaded again
        self._name, self._source = checkpoints.newest_source()
        self._state = states.get(self._name)
        self.quality = DraftQuality(self._source.widths)
        self.frames: deque[tuple[float, int, float]] = deque(maxlen=1000)
        self._playback = Playback()
        self._limits: OrbitLimits | None = None
        self._shown: PathCamera | None = None
        self._moved = self._reported = float("-inf")
        self._time, self._aspect = 0.0, 1.0  # of the slider, and of the frame drawn last: others are a user's changes
        self._closed = False
        # Buttons work in viser's threads while frames are drawn: held wherever playback or recording is changed and its
        # labels follow, so that a frame does not undo what a button has just done.
        self._switches = threading.RLock()
        # A browser begins with a camera of its own, and may report it even after it was moved to the front (a slow
        # browser seconds later). Until the camera is reported in front, every report of another one moves it again.
        self._settled, self._attempts = False, 0
        self._downloads = Downloads(client, queue, frame=self._frame, drawing=self._drawing)
        self._panel = Panel(
            client.gui,
            self._source,
            checkpoints.names,
            current=self._name,
            changed=self._on_controls,
            chosen=self.choose,
            followed=lambda: self.choose(checkpoints.newest),
            actions={
                "front": self._look_from_front,
                "play": self._play,
                "record": self._record,
                **self._downloads.actions,
            },
        )
        self._limit_mouse(self._panel.read())
        self._look_from_front()
        client.camera.on_update(lambda _: self._on_camera())
        self._touch()

    # Actions of the user: run in viser's threads.

    def offer(self, names: list[str], newest: str) -> None:
        """Update the checkpoints to choose from, and the one that is shown, if its file has been replaced."""
        self._panel.offer(names)
        if self._panel.follow.value and newest != self._name:
            self.choose(newest)
        elif self._is_replaced():  # a choice that waits comes first
            self._queue.submit((self._key, "load"), lambda: self._load(self._name), replace=False)

    def choose(self, name: str) -> None:
        """Look at another checkpoint."""
        self._queue.submit((self._key, "load"), lambda: self._load(name))

    def close(self) -> None:
        """The window is gone."""
        self._closed = True
        for key in (self._key, (self._key, "load")):
            self._queue.forget(key)
        self._downloads.close()

    def _touch(self) -> None:
        self._moved = self._clock()
        self._queue.submit(self._key, self._draw)

    def _on_controls(self) -> None:
        with self._switches:
            self._follow_slider(self._panel.read().time, self._clock())
        self._touch()

    def _follow_slider(self, time: float, now: float) -> None:
        """Go on from the slider's time, if a user has moved it."""
        if time != self._time:
            self._playback.jump(time, now)
            self._time = time

    def _on_camera(self) -> None:
        if not self._settled:
            self._settled = self._attempts == ATTEMPTS or self._distance(self._front()) < NEAR_ENOUGH
            if not self._settled:
                self._attempts += 1
                self._look_from_front()
        shown = self._shown
        if (
            shown is None
            or self._camera(self._panel.read()) != shown
            or self._distance(shown) > NEAR_ENOUGH
            or self._client.camera.aspect != self._aspect  # the window has another shape
        ):
            self._touch()

    def _look_from_front(self) -> None:
        self._move_mouse(self._front())

    def _front(self) -> PathCamera:
        prior = self._source.prior
        return OrbitLimits.of(prior, beyond=False).front(prior.fov)

    def _play(self) -> None:
        with self._switches:
            if self._playback.playing:
                self._playback.stop()
            else:
                self._time = self._panel.read().time
                self._playback.start(self._time, self._clock())
            self._panel.show_playing(self._playback.playing)
        self._touch()

    def _record(self) -> None:
        with self._switches:
            self._downloads.record(self._clock())
            self._panel.show_recording(self._downloads.recorded, recording=self._downloads.recording)
        self._touch()

    # Run in the render thread.

    def _draw(self) -> None:
        if self._closed:  # during the previous frame, which then asked for this one
            return
        with show_errors(self._client):
            began = self._clock()
            moving = self._playback.playing or began - self._moved < REST
            settings, camera = self._frame(began)
            self._limit_mouse(settings)
            self._shown = camera
            width = self.quality.width if moving else None
            image = self._render(self._source, settings, camera, width)
            self._send(image, moving)
            seconds = self._clock() - began
            self.frames.append((began + seconds, image.shape[-1], seconds))
            if width is not None and not draws_field(settings.view):
                self.quality.record(width, seconds, 1 / settings.frame_rate)
            with self._switches:
                if self._downloads.recording:
                    self._downloads.keep(camera, began, at_rest=not moving)
                    self._panel.show_recording(self._downloads.recorded, recording=self._downloads.recording)
            self._report(camera, image, seconds, often=not moving)
            self._go_on(camera, settings, began, moving)
            return
        with self._switches:  # no frame follows one that failed
            self._playback.stop()
            self._panel.show_playing(False)

    def _go_on(self, camera: PathCamera, settings: PanelSettings, began: float, moving: bool) -> None:
        """Ask for the next frame, unless one is already queued."""
        if self._playback.playing:
            due = began + 1 / settings.frame_rate
        elif moving:
            due = self._moved + REST
        else:
            if self._moved <= began:  # otherwise something moved meanwhile, and another frame is queued
                self._move_mouse(camera)
            return
        self._queue.submit(self._key, self._draw, delay=max(0.0, due - self._clock()), replace=False)

    def _frame(self, now: float | None = None) -> tuple[PanelSettings, PathCamera]:
        """The values of the controls and the camera that is shown; playback advances to `now`, if given."""
        with self._switches:
            settings = self._panel.read()
            if now is not None:
                if self._playback.playing:
                    self._follow_slider(settings.time, now)  # viser reports a move only after it has set the value
                    time = self._playback.at(now, seconds=settings.seconds, loop=settings.loop)
                    settings = dataclasses.replace(settings, time=round(time, 3))
                    self._panel.show_time(settings.time)
                    self._panel.show_playing(self._playback.playing)
                self._time = settings.time
        return settings, self._camera(settings)

    def _camera(self, settings: PanelSettings) -> PathCamera:
        mouse = self._client.camera
        limits = OrbitLimits.of(self._source.prior, beyond=settings.beyond)
        if not self._settled:
            return dataclasses.replace(self._front(), fov=settings.fov, time=settings.time)
        return limits.camera(mouse.position, mouse.look_at, fov=settings.fov, time=settings.time)

    def _drawing(self) -> Callable[[PanelSettings, PathCamera], torch.Tensor]:
        """`_render` with the network that is shown now."""
        return functools.partial(self._render, self._source)

    def _render(
        self, source: ViewSource, settings: PanelSettings, camera: PathCamera, width: int | None = None
    ) -> torch.Tensor:
        """The picture of a view, uint8 [3, H, W].

        Args:
            width: Width of the upsampler's image in a draft; None for full quality.
        """
        view = settings.view
        if draws_field(view):
            rays = source.widths[0] * (FINER if width is None else 1)
            volume = source.volume(ViewRequest(settings.latents, camera, layers_of(view), rays))
            return field_picture(view, volume, camera, source)
        output = source.render(ViewRequest(settings.latents, camera, layers_of(view), width or source.widths[-1]))
        return picture(view, output, backdrop=settings.backdrop)

    def _send(self, image: torch.Tensor, moving: bool) -> None:
        """Show a picture: as JPEG in motion, without loss at rest."""
        self._aspect = self._client.camera.aspect
        window = letterbox(image, self._aspect)
        quality = JPEG_QUALITY if moving else None
        self._client.scene.set_background_image(window, "jpeg" if moving else "png", jpeg_quality=quality)
        self._client.flush()

    def _report(self, camera: PathCamera, image: torch.Tensor, seconds: float, *, often: bool) -> None:
        """Show the frame's size, time and camera in the status line."""
        if not often and self._clock() - self._reported < STATUS_EVERY:
            return
        self._reported = self._clock()
        self._panel.status.content = (
            f"{image.shape[-1]}×{image.shape[-2]} pixels in {1000 * seconds:.0f} ms · yaw {camera.yaw:.2f}, "
            f"pitch {camera.pitch:.2f}, radius {camera.radius:.2f}"
        )

    def _limit_mouse(self, settings: PanelSettings) -> None:
        """Keep the mouse wheel within the radii; the angles are limited when a frame is drawn."""
        limits = OrbitLimits.of(self._source.prior, beyond=settings.beyond)
        if limits != self._limits:
            mouse, (near, far) = self._client.camera, limits.radius
            mouse.min_orbit_distance = min(near, mouse.max_orbit_distance)  # must never exceed the maximum
            mouse.max_orbit_distance = far
            mouse.min_orbit_distance = near
            self._limits = limits

    def _move_mouse(self, camera: PathCamera) -> None:
        """Move the mouse's camera to the shown one: it may have been turned beyond the limits."""
        mouse = self._client.camera
        if self._distance(camera) > NEAR_ENOUGH:
            with self._client.atomic():
                mouse.position = position_of(camera)
                mouse.look_at = ORIGIN

    def _distance(self, camera: PathCamera) -> float:
        """Distance of the mouse's camera from another."""
        mouse = self._client.camera
        return max(abs(a - b) for a, b in zip((*mouse.position, *mouse.look_at), (*position_of(camera), *ORIGIN)))

    def _is_replaced(self) -> bool:
        """True if the file of the network that is shown is no longer the one that was read."""
        return self._checkpoints.states.get(self._name) not in (None, self._state)

    def _load(self, name: str) -> None:
        if self._closed:
            return
        if name != self._name or self._is_replaced():
            state = self._checkpoints.states.get(name)
            note = self._client.add_notification("Loading", name, loading=True, with_close_button=False)
            with show_errors(self._client):
                self._source = self._checkpoints.source(name)
                self.quality = DraftQuality(self._source.widths)
                if name != self._name:  # otherwise no draft comes first: perhaps only the file's time has changed
                    self._moved = self._clock()
                self._name, self._state = name, state
                self._queue.submit(self._key, self._draw)
            note.remove()
        self._panel.network.value = self._name
