"""The controls of one browser window."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from renderer.viewer.pictures import BACKDROPS, VIEWS, layers_of
from renderer.viewer.views import LatentSelection, ViewSource

__all__ = ["Panel", "PanelSettings"]

MAX_SEED = 2**32 - 1
FOV_RANGE = 2.0  # the slider goes from the trained field of view divided by this to it multiplied by this
SLIDER = {"min": 0.0, "max": 1.0, "step": 0.01, "initial_value": 0.0}


@dataclasses.dataclass(frozen=True)
class PanelSettings:
    """Values of the controls: latents, field of view in degrees, time in [0, 1], how to show and save frames."""

    latents: LatentSelection
    fov: float
    beyond: bool
    time: float
    loop: bool
    seconds: float
    view: str
    backdrop: str
    frame_rate: float
    video_fps: float


class Panel:
    """Controls of a browser window, built and read.

    Args:
        gui: viser's GUI handle of one client.
        source: The source that is shown first; it sets the ranges.
        names: Checkpoints to choose from, and the `current` one.
        changed: Called when a user moves a control (not when the program does).
        actions: What the buttons do, by name: 'front', 'play', 'record', 'picture', 'path', 'video'.
        chosen: Called with the name of a checkpoint.
        followed: Called when the newest checkpoint is to be shown from now on.
    """

    def __init__(
        self,
        gui: Any,
        source: ViewSource,
        names: Sequence[str],
        *,
        current: str,
        changed: Callable[[], None],
        actions: dict[str, Callable[[], None]],
        chosen: Callable[[str], None],
        followed: Callable[[], None],
    ):
        self._gui, self._changed, self._actions = gui, changed, actions
        self.network = gui.add_dropdown("Network", names, initial_value=current)
        self.network.on_update(lambda event: event.client and chosen(self.network.value))
        self.follow = gui.add_checkbox("Follow the newest", False, visible=len(names) > 1)
        self.follow.on_update(lambda event: event.client and self.follow.value and followed())
        self.status = gui.add_markdown("…")
        views = [view for view in VIEWS if source.has_background or layers_of(view) == "both"]
        self._view = self._control(gui.add_dropdown("View", views))
        self._add_time(source)
        self._add_contents(source)
        self._add_camera(source)
        self._add_mixing(source)
        self._add_saving()

    def read(self) -> PanelSettings:
        """The current values of the controls, numbers within their ranges."""
        layers = self._style_layers
        latents = LatentSelection(
            seed=_number(self._seed),
            other_seed=_number(self._other_seed),
            content_mix=_number(self._content_mix),
            motion_seed=_number(self._motion_seed),
            other_motion_seed=_number(self._other_motion_seed),
            motion_mix=_number(self._motion_mix),
            truncation_psi=_number(self._truncation),
            style_seed=_number(self._style_seed) if self._style_mix.value else None,
            style_layers=tuple(sorted(_within(layer, layers) for layer in layers.value)),
            class_idx=_number(self._class),
        )
        return PanelSettings(
            latents=latents,
            fov=_number(self._fov),
            beyond=self._beyond.value,
            time=_number(self._time),
            loop=self._loop.value,
            seconds=_number(self._seconds),
            view=self._view.value,
            backdrop=self._backdrop.value,
            frame_rate=_number(self._frame_rate),
            video_fps=_number(self._video_fps),
        )

    def show_time(self, time: float) -> None:
        self._time.value = time

    def show_playing(self, playing: bool) -> None:
        self._play.label = "Stop" if playing else "Play"

    def show_recording(self, cameras: int | None, *, recording: bool) -> None:
        self._record.label = "Stop recording" if recording else "Record the camera"
        self._path.label = "Save the camera path" if cameras is None else f"Save the camera path ({cameras})"

    def offer(self, names: Sequence[str]) -> None:
        """Other checkpoints to choose from; the one that is shown stays among them."""
        shown = self.network.value
        self.network.options = list(names) if shown in names else [shown, *names]
        self.follow.visible = len(names) > 1

    def _control(self, handle: Any) -> Any:
        handle.on_update(lambda event: event.client and self._changed())
        return handle

    def _button(self, label: str, action: str) -> Any:
        handle = self._gui.add_button(label)
        handle.on_click(lambda _: self._actions[action]())
        return handle

    def _add_seed(self, label: str, value: int, *, visible: bool = True) -> Any:
        return self._control(self._gui.add_number(label, value, min=0, max=MAX_SEED, step=1, visible=visible))

    def _add_time(self, source: ViewSource) -> None:
        with self._gui.add_folder("Time", visible=source.has_time):
            self._time = self._control(self._gui.add_slider("Time", **SLIDER | {"step": 0.001}))
            self._play = self._button("Play", "play")
            self._loop = self._gui.add_checkbox("Loop", True)
            self._seconds = self._gui.add_number("Seconds", 2.0, min=0.1, max=60.0, step=0.1, hint="From 0 to 1")

    def _add_contents(self, source: ViewSource) -> None:
        with self._gui.add_folder("Content and motion"):
            self._seed = self._add_seed("Content seed", 0)
            self._motion_seed = self._add_seed("Motion seed", 0, visible=source.has_motion)
            self._truncation = self._control(
                self._gui.add_slider("Truncation", min=0.0, max=1.5, step=0.01, initial_value=1.0)
            )
            self._class = self._control(
                self._gui.add_number(
                    "Class",
                    0,
                    min=0,
                    max=max(0, source.num_classes - 1),
                    step=1,
                    visible=source.num_classes > 0,
                    hint="For numeric labels: the index of one in the training data",
                )
            )

    def _add_camera(self, source: ViewSource) -> None:
        fov = source.prior.fov
        with self._gui.add_folder("Camera"):
            widest = min(fov * FOV_RANGE, 170.0)
            slider = self._gui.add_slider("Field of view", min=fov / FOV_RANGE, max=widest, step=0.1, initial_value=fov)
            self._fov = self._control(slider)
            hint = "Cameras that were rare in training, or never sampled"
            self._beyond = self._control(self._gui.add_checkbox("Beyond the trained range", False, hint=hint))
            self._button("Look from the front", "front")
            self._frame_rate = self._gui.add_slider("Frames/s moving", min=1.0, max=30.0, step=1.0, initial_value=10.0)

    def _add_mixing(self, source: ViewSource) -> None:
        gui, last = self._gui, source.num_layers - 1
        with gui.add_folder("Between two", expand_by_default=False):
            self._other_seed = self._add_seed("Second content", 1)
            self._content_mix = self._control(gui.add_slider("Content mix", **SLIDER))
            self._other_motion_seed = self._add_seed("Second motion", 1, visible=source.has_motion)
            self._motion_mix = self._control(gui.add_slider("Motion mix", **SLIDER, visible=source.has_motion))
        with gui.add_folder("Style mixing", expand_by_default=False):
            self._style_mix = self._control(gui.add_checkbox("Mix styles", False))
            self._style_seed = self._add_seed("Style seed", 1)
            layers = gui.add_multi_slider(
                "In layers",
                min=0,
                max=last,
                step=1,
                initial_value=(last // 2, last),
                marks=((0, "0"), (last, f"{last}")),
            )
            self._style_layers = self._control(layers)

    def _add_saving(self) -> None:
        with self._gui.add_folder("Save", expand_by_default=False):
            self._button("Save the picture", "picture")
            self._record = self._button("Record the camera", "record")
            self._path = self._button("Save the camera path", "path")
            self._button("Save a video", "video")
            self._video_fps = self._gui.add_number("Frames/s of videos", 16.0, min=1.0, max=60.0, step=1.0)
            self._backdrop = self._control(self._gui.add_dropdown("Behind the foreground", BACKDROPS))


def _number(handle: Any) -> Any:
    """The number of a control."""
    return _within(handle.value, handle)


def _within(value: Any, handle: Any) -> Any:
    """A number within the range of its control: browsers send numbers while they are typed, and limit them later."""
    return min(handle.max, max(handle.min, value))  # in this order also of NaN
