"""viser's side of a session without a server: a client with controls, a camera and a screen; and a clock."""

import contextlib
import types

import numpy as np
import torch


class Handle:
    """A control."""

    def __init__(self, label, value=None, options=(), **others):
        self.label, self.value, self.options, self.content = label, value, list(options), ""
        self.visible = others.get("visible", True)
        self.min, self.max = others.get("min"), others.get("max")
        self._callbacks = []

    def on_update(self, callback):
        self._callbacks.append(callback)

    on_click = on_update

    def set(self, value):
        """Change the control as a user of the browser does."""
        self.value = value
        self.click()

    def click(self):
        for callback in self._callbacks:
            callback(types.SimpleNamespace(client="somebody"))


class Gui:
    """Controls by their labels."""

    def __init__(self):
        self.handles, self.hidden_folders = {}, []

    def __getitem__(self, label):
        return self.handles[label]

    def _add(self, label, value=None, **others):
        value = others.pop("initial_value", value)
        self.handles[label] = Handle(label, value, **others)
        return self.handles[label]

    add_slider = add_multi_slider = add_button = add_checkbox = add_number = add_markdown = _add

    def add_dropdown(self, label, options, *, initial_value=None):
        return self._add(label, options[0] if initial_value is None else initial_value, options=options)

    def add_folder(self, label, *, visible=True, **others):
        self.hidden_folders += [] if visible else [label]
        return contextlib.nullcontext()


class Camera:
    """The browser's camera."""

    def __init__(self):
        self.position, self.look_at, self.aspect = np.array([3.0, 3.0, 3.0]), np.zeros(3), 2.0
        self.min_orbit_distance, self.max_orbit_distance = 0.01, 1e4
        self.callbacks = []

    def on_update(self, callback):
        self.callbacks.append(callback)

    def report(self, position=None):
        """Report a camera position as the browser does."""
        self.position = self.position if position is None else np.array(position)
        for callback in self.callbacks:
            callback(self)


class Note:
    """A notification."""

    def __init__(self, notes, title, body):
        self.title, self.body, self._notes = title, body, notes
        notes.append(self)

    def remove(self):
        self._notes.remove(self)


class Client:
    """One browser window: `shown` are the pictures that it was sent, with their format."""

    client_id = 7

    def __init__(self):
        self.gui, self.camera = Gui(), Camera()
        self.shown, self.files, self.notes = [], {}, []
        self.scene = types.SimpleNamespace(set_background_image=self._show)
        self.flush = lambda: None
        self.atomic = contextlib.nullcontext

    def _show(self, image, format, *, jpeg_quality=None):
        self.shown.append((image, format))

    def send_file_download(self, name, content, *, save_immediately):
        assert save_immediately
        self.files[name] = content

    def add_notification(self, title, body, **others):
        return Note(self.notes, title, body)


class Queue:
    """A `RenderQueue` whose jobs run when the test says so; `now` is the time."""

    def __init__(self):
        self.now, self.jobs = 100.0, {}

    def submit(self, key, job, *, delay=0.0, replace=True, always=False):
        if replace or key not in self.jobs:
            self.jobs[key] = (self.now + delay, job)

    def forget(self, key):
        self.jobs.pop(key, None)

    def run(self, seconds=0.0):
        """Let time pass and run what is due, in order."""
        end = self.now + seconds
        while due := sorted((due, i, key) for i, (key, (due, _)) in enumerate(self.jobs.items()) if due <= end):
            moment, _, key = due[0]
            self.now = max(self.now, moment)
            self.jobs.pop(key)[1]()
        self.now = end


class Source:
    """Renders grey images whose level is the time, and records the requests."""

    depth_range, widths, num_layers, num_classes = (0.9, 1.1), (8, 16, 32), 6, 0
    has_background = has_motion = has_time = True

    def __init__(self, prior, queue, *, seconds=0.02):
        self.prior, self.requests, self.seconds = prior, [], seconds
        self._queue = queue

    def render(self, request):
        frame = self._rendered(request, 8)
        frame.image = torch.full([1, 1, 3, request.width, request.width], request.camera.time * 2 - 1)
        return frame

    def volume(self, request):
        return self._rendered(request, request.width)

    def _rendered(self, request, rays):
        self.requests.append(request)
        self._queue.now += self.seconds
        one = torch.ones(1, 1, rays, rays)
        return types.SimpleNamespace(image_raw=torch.zeros(1, 1, 3, rays, rays), depth=one, opacity=one)
