"""Images sent to one browser window, and their times."""

import math
import threading
import types

import pytest

from dnnlib import UserError
from renderer.cameras import CameraPrior
from renderer.trajectory_files import PathCamera, read_camera_path
from renderer.viewer import saving
from renderer.viewer.orbit import position_of
from renderer.viewer.panel import Panel
from renderer.viewer.saving import Downloads
from renderer.viewer.session import REST, Session
from tests.renderer.viewer.fakes import Client, Queue, Source

PRIOR = CameraPrior()
FRONT = PathCamera(0.0, sum(PRIOR.pitch) / 2, 1.0, 18.0, 0.0)


class Stage:
    """A session with everything around it."""

    def __init__(self, seconds=0.02):
        self.queue, self.client = Queue(), Client()
        self.sources = {name: Source(PRIOR, self.queue, seconds=seconds) for name in ("old.pkl", "new.pkl")}
        self.checkpoints = types.SimpleNamespace(
            names=["old.pkl"], newest="old.pkl", states={"old.pkl": 1}, newest_source=self._newest, source=self._load
        )
        self.session = Session(self.client, self.checkpoints, self.queue, clock=lambda: self.queue.now)
        self.gui, self.source = self.client.gui, self.sources["old.pkl"]

    def _newest(self):
        return "old.pkl", self.sources["old.pkl"]

    def _load(self, name):
        if name not in self.sources:
            raise UserError(f"{name} is damaged.")
        return self.sources[name]

    def settle(self):
        """Let everything come to rest, and forget all requests so far."""
        self.client.camera.report()
        self.queue.run(2.0)
        self.source.requests.clear()
        self.client.shown.clear()

    def turn(self, yaw, pitch=math.pi / 2):
        self.client.camera.report(position_of(PathCamera(yaw, pitch, 1.0, 18.0)))

    @property
    def widths(self):
        return [request.width for request in self.source.requests]


@pytest.fixture
def stage():
    stage = Stage()
    stage.settle()
    return stage


def test_it_begins_in_front_with_a_draft_and_comes_to_rest():
    stage = Stage()
    assert stage.client.camera.position == pytest.approx(position_of(FRONT))
    stage.queue.run(2.0)
    assert stage.widths == [16, 32]
    assert [kind for _, kind in stage.client.shown] == ["jpeg", "png"]
    assert stage.client.shown[-1][0].shape == (32, 64, 3), "the window is twice as wide as high"
    assert stage.queue.jobs == {}, "nothing goes on by itself"


def test_a_browser_that_still_reports_its_own_camera_is_put_in_front():
    stage = Stage()
    for _ in range(3):  # also when it is slow: the last time after half a minute
        stage.client.camera.report([3.0, 3.0, 3.0])
        assert stage.client.camera.position == pytest.approx(position_of(FRONT)), "it is moved at once"
        stage.queue.run(15.0)
    assert {request.camera for request in stage.source.requests} == {FRONT}
    stage.client.camera.report()
    stage.turn(0.3)
    stage.queue.run(1.0)
    assert stage.source.requests[-1].camera.yaw == pytest.approx(0.3), "from then on it is the mouse's"


def test_a_browser_that_never_reaches_the_front_is_not_held_there():
    stage = Stage()
    for _ in range(30):
        stage.turn(0.3)
    stage.queue.run(1.0)
    assert stage.source.requests[-1].camera.yaw == pytest.approx(0.3)


def test_rapid_changes_do_not_queue_up(stage):
    for i in range(1000):
        stage.gui["Time"].set(i / 1000)
        stage.turn(i / 2000)
    stage.queue.run(0.1)
    assert len(stage.source.requests) == 1
    assert stage.source.requests[0].camera.time == 0.999
    assert stage.source.requests[0].camera.yaw == pytest.approx(0.4995)


def test_drafts_while_it_moves_and_the_full_picture_at_rest():
    stage = Stage(seconds=0.08)  # twice as long, which a finer draft may take, would be too late
    stage.settle()
    for i in range(10):
        stage.turn(i / 20)
        stage.queue.run(0.1)
    assert set(stage.widths) == {16} and {kind for _, kind in stage.client.shown} == {"jpeg"}
    stage.queue.run(REST + 0.2)
    assert stage.widths[-1] == 32 and stage.client.shown[-1][1] == "png"
    assert "32×32 pixels" in stage.gui["…"].content and "yaw 0.45" in stage.gui["…"].content


def test_a_slow_machine_draws_coarser():
    stage = Stage(seconds=0.3)
    stage.settle()
    for i in range(6):
        stage.turn(i / 20)
        stage.queue.run(0.05)
    assert stage.widths[-1] == 8
    stage.queue.run(2.0)
    assert stage.widths[-1] == 32


def test_what_only_the_field_shows_needs_no_upsampler_and_is_finer_at_rest(stage):
    stage.source.render = None
    stage.gui["View"].set("depth")
    stage.queue.run(1.0)
    assert stage.widths == [8, 16]
    assert [image.shape[0] for image, _ in stage.client.shown[-2:]] == [32, 32], "the window keeps its size"


def test_the_mouse_is_brought_back_into_the_range(stage):
    stage.turn(2.5)
    stage.queue.run(1.0)
    assert {request.camera.yaw for request in stage.source.requests} == {0.8}
    assert stage.client.camera.position == pytest.approx(position_of(PathCamera(0.8, math.pi / 2, 1.0, 18.0)))
    stage.gui["Beyond the trained range"].set(True)
    stage.turn(2.5)
    stage.queue.run(1.0)
    assert stage.source.requests[-1].camera.yaw == pytest.approx(2.5)
    assert stage.client.camera.max_orbit_distance == 2.0
    stage.gui["Look from the front"].click()
    stage.client.camera.report()
    stage.queue.run(1.0)
    assert stage.source.requests[-1].camera.yaw == pytest.approx(0, abs=1e-9)


def test_a_turn_that_begins_while_the_full_picture_is_drawn_goes_on():
    stage = Stage(seconds=0.08)  # only the full picture is 32 pixels wide then
    stage.settle()
    render, turns = stage.source.render, [0.2, 0.4]

    def turned_meanwhile(request):
        output = render(request)
        if request.width == 32 and turns:
            stage.turn(turns.pop(0))
        return output

    stage.source.render = turned_meanwhile
    stage.gui["Time"].set(0.5)
    stage.queue.run(3.0)
    assert turns == [] and stage.source.requests[-1].camera.yaw == pytest.approx(0.4)
    assert stage.client.camera.position == pytest.approx(position_of(PathCamera(0.4, math.pi / 2, 1.0, 18.0)))


def test_a_repeated_report_of_the_same_camera_draws_nothing(stage):
    stage.turn(0.0)
    stage.turn(1e-12)
    stage.queue.run(1.0)
    assert len(stage.source.requests) <= 2


def test_a_window_of_another_shape_is_filled_anew(stage):
    stage.client.camera.aspect = 0.5
    stage.client.camera.report()
    stage.queue.run(1.0)
    assert stage.client.shown[-1][0].shape == (64, 32, 3)


def test_play_runs_at_the_frame_rate_and_stops_at_the_end(stage):
    stage.gui["Loop"].value = False
    stage.gui["Play"].click()
    assert stage.gui["Play"].label == "Stop"
    stage.queue.run(1.0)
    times = [request.camera.time for request in stage.source.requests]
    assert 9 <= len(times) <= 11 and times == sorted(times)
    assert times[5] == pytest.approx(0.25, abs=0.03), "ten frames a second, two seconds in all"
    assert stage.gui["Time"].value == times[-1]
    stage.queue.run(3.0)
    assert stage.gui["Time"].value == 1.0 and stage.gui["Play"].label == "Play" and stage.queue.jobs == {}
    assert stage.widths[-1] == 32


def test_the_time_can_be_moved_while_it_runs(stage):
    stage.gui["Play"].click()
    stage.queue.run(0.25)
    stage.gui["Time"].set(0.8)
    stage.queue.run(0.11)
    assert stage.gui["Time"].value == pytest.approx(0.85, abs=0.06)
    stage.gui["Play"].click()
    time = stage.gui["Time"].value
    stage.queue.run(2.0)
    assert stage.gui["Time"].value == time


def test_a_frame_does_not_undo_a_move_of_the_time(stage):
    """viser sets the value at once, and reports it in another thread later."""
    stage.gui["Play"].click()
    stage.queue.run(0.3)
    stage.gui["Time"].value = 0.7
    stage.queue.run(0.1)
    stage.gui["Time"].click()
    stage.queue.run(0.11)
    assert stage.gui["Time"].value == pytest.approx(0.8, abs=0.06)


def test_play_begins_again_though_no_frame_was_drawn_at_the_end(stage):
    stage.gui["Loop"].value = False
    stage.gui["Time"].set(1.0)
    stage.gui["Play"].click()
    stage.queue.run(0.3)
    assert stage.gui["Time"].value == pytest.approx(0.12, abs=0.06) and stage.gui["Play"].label == "Stop"


def test_codes_are_what_the_controls_say(stage):
    for label, value in {
        "Content seed": 3, "Second content": 4, "Content mix": 0.25, "Motion seed": 5, "Second motion": 6,
        "Motion mix": 0.5, "Truncation": 0.7, "Style seed": 8, "In layers": (4, 2), "Field of view": 20.0,
    }.items():  # fmt: skip
        stage.gui[label].set(value)
    stage.queue.run(1.0)
    codes = stage.source.requests[-1].latents
    assert (codes.seed, codes.other_seed, codes.content_mix) == (3, 4, 0.25)
    assert (codes.motion_seed, codes.other_motion_seed, codes.motion_mix) == (5, 6, 0.5)
    assert (codes.truncation_psi, codes.style_seed) == (0.7, None)
    assert stage.source.requests[-1].camera.fov == 20.0
    stage.gui["Mix styles"].set(True)
    stage.queue.run(1.0)
    assert (stage.source.requests[-1].latents.style_seed, stage.source.requests[-1].latents.style_layers) == (8, (2, 4))


LATENTS = {
    "Content seed": ("seed", 0, 2**32 - 1), "Second content": ("other_seed", 0, 2**32 - 1),
    "Content mix": ("content_mix", 0.0, 1.0), "Motion seed": ("motion_seed", 0, 2**32 - 1),
    "Second motion": ("other_motion_seed", 0, 2**32 - 1), "Motion mix": ("motion_mix", 0.0, 1.0),
    "Truncation": ("truncation_psi", 0.0, 1.5), "Style seed": ("style_seed", 0, 2**32 - 1),
    "In layers": ("style_layers", (0, 0), (5, 5)), "Class": ("class_idx", 0, 2),
}  # fmt: skip


@pytest.mark.parametrize("end", [0, 1])
def test_a_number_that_is_typed_beyond_its_range_is_held_within(stage, monkeypatch, end):
    """Browsers send what is typed at once, and limit it when the field is left."""
    monkeypatch.setattr(Source, "num_classes", 3)
    stage = Stage()
    stage.settle()
    stage.gui["Mix styles"].set(True)
    stage.gui["Play"].click()
    beyond = (-1e9, 1e15)[end]
    for label, (name, *bounds) in LATENTS.items():
        stage.gui[label].set((beyond, beyond) if label == "In layers" else beyond)
        stage.queue.run(0.2)
        assert getattr(stage.source.requests[-1].latents, name) == bounds[end], label
    stage.gui["Field of view"].set(beyond)
    stage.queue.run(0.2)
    assert stage.source.requests[-1].camera.fov == (9.0, 36.0)[end]
    for label in ("Seconds", "Frames/s moving"):
        stage.gui[label].set(beyond)
    stage.source.requests.clear()
    stage.queue.run(2.0)
    assert len(stage.source.requests) == pytest.approx((2, 60)[end], rel=0.2)
    assert stage.gui["Play"].label == "Stop" and stage.client.notes == []
    stage.gui["Play"].click()
    stage.gui["Time"].set(beyond)
    stage.queue.run(0.1)
    assert stage.source.requests[-1].camera.time == end and stage.client.notes == []


def test_the_largest_numbers_limit_the_length_of_a_video(stage, monkeypatch):
    made = []
    monkeypatch.setattr(saving, "VideoMaking", lambda cameras, *_: made.append(len(cameras)) or 1 / 0)
    for label in ("Seconds", "Frames/s of videos"):
        stage.gui[label].value = 100.0
    stage.gui["Save a video"].click()
    stage.queue.run()
    assert made == [3600], "a minute of 60 frames per second"


@pytest.mark.parametrize(("moves", "time"), [(True, True), (False, True), (False, False)])
def test_controls_of_a_model_without_motion_are_left_out(monkeypatch, moves, time):
    monkeypatch.setattr(Source, "has_motion", moves)
    monkeypatch.setattr(Source, "has_time", time)
    gui = Stage().gui
    hidden = [label for label, handle in gui.handles.items() if not handle.visible]
    assert hidden == ["Follow the newest", *([] if moves else ["Motion seed"]), "Class"] + (
        [] if moves else ["Second motion", "Motion mix"]
    )
    assert gui.hidden_folders == ([] if time else ["Time"])


def test_a_recorded_path_is_saved_and_filmed(stage, tmp_path):
    stage.gui["Record the camera"].click()
    for i in range(11):
        stage.turn(i / 20)
        stage.queue.run(0.1)
    stage.gui["Record the camera"].click()
    stage.gui["Frames/s of videos"].value = 5.0
    stage.gui["Save the camera path"].click()
    stage.queue.run(0.5)
    path = tmp_path / "path.json"
    path.write_bytes(stage.client.files["camera-path.json"])
    cameras = read_camera_path(path)
    assert 5 <= len(cameras) <= 6 and cameras[-1].yaw == pytest.approx(0.5, abs=0.06)
    assert cameras[1].yaw == pytest.approx(0.1, abs=0.06)
    stage.source.requests.clear()
    stage.gui["Save a video"].click()
    stage.queue.run(2.0)
    assert [request.camera for request in stage.source.requests if request.width == 32][-len(cameras) :] == cameras
    assert stage.client.files["video.mp4"][4:8] == b"ftyp" and stage.client.notes == []


def click_during(monkeypatch, owner, name, handle):
    """Lets another thread press a button as a method of the drawing thread begins; returns the threads."""
    method, threads = getattr(owner, name), []

    def interrupted(*args, **options):
        if not threads:
            threads.append(threading.Thread(target=handle.click))
            threads[0].start()
            threads[0].join(0.2)
        return method(*args, **options)

    monkeypatch.setattr(owner, name, interrupted)
    return threads


@pytest.mark.parametrize(
    ("button", "owner", "method"), [("Record the camera", Downloads, "keep"), ("Play", Panel, "show_playing")]
)
def test_a_frame_does_not_undo_what_a_button_has_just_ended(stage, monkeypatch, button, owner, method):
    handle = stage.gui[button]
    handle.click()
    stage.turn(0.1)
    stage.queue.run(0.1)
    assert handle.label.startswith("Stop")
    threads = click_during(monkeypatch, owner, method, handle)
    stage.turn(0.2)
    stage.queue.run(0.1)
    threads[0].join(10)
    assert handle.label == button
    saved = stage.gui["Save the camera path"].label
    stage.queue.run(1.0)
    stage.turn(0.3)
    stage.queue.run(1.0)
    assert handle.label == button and stage.gui["Save the camera path"].label == saved
    assert stage.client.notes == [] and stage.queue.jobs == {}


def test_playback_ends_at_a_frame_that_fails(stage, monkeypatch):
    stage.gui["Play"].click()
    stage.queue.run(0.1)
    with monkeypatch.context() as patch:
        patch.setattr(stage.source, "render", lambda request: (_ for _ in ()).throw(UserError("memory is full.")))
        stage.queue.run(0.2)
    assert [note.body for note in stage.client.notes] == ["memory is full."]
    assert stage.gui["Play"].label == "Play"
    shown = stage.gui["Time"].value
    stage.turn(0.1)
    stage.queue.run(1.0)
    assert stage.gui["Time"].value == shown, "time stands still"
    stage.gui["Play"].click()
    stage.queue.run(0.3)
    assert stage.gui["Time"].value > shown


def test_another_checkpoint_and_one_that_is_broken(stage):
    stage.session.offer(["old.pkl", "broken.pkl", "new.pkl"], "new.pkl")
    assert stage.gui["Network"].options == ["old.pkl", "broken.pkl", "new.pkl"]
    stage.queue.run(1.0)
    assert stage.sources["new.pkl"].requests == [], "it was not asked for"
    stage.gui["Network"].set("broken.pkl")
    stage.queue.run(1.0)
    assert stage.gui["Network"].value == "old.pkl" and stage.client.notes[-1].body == "broken.pkl is damaged."
    stage.gui["Follow the newest"].value = True
    stage.session.offer(["old.pkl", "new.pkl"], "new.pkl")
    stage.queue.run(1.0)
    assert stage.sources["new.pkl"].requests and stage.gui["Network"].value == "new.pkl"
    stage.session.offer(["newer.pkl"], "new.pkl")
    assert stage.gui["Network"].options == ["new.pkl", "newer.pkl"], "what is shown can be chosen although it is gone"


def test_follow_begins_with_the_newest_there_is(stage):
    stage.session.offer(["old.pkl", "new.pkl"], "new.pkl")
    stage.checkpoints.newest = "new.pkl"
    stage.gui["Follow the newest"].set(True)
    stage.queue.run(1.0)
    assert stage.gui["Network"].value == "new.pkl" and stage.sources["new.pkl"].requests
    stage.gui["Network"].set("old.pkl")
    stage.queue.run(1.0)
    stage.gui["Follow the newest"].set(False)
    stage.queue.run(1.0)
    assert stage.gui["Network"].value == "old.pkl"


@pytest.mark.parametrize("follow", [False, True])
def test_the_network_that_is_shown_is_loaded_again_when_its_file_is_replaced(stage, follow):
    stage.gui["Follow the newest"].value = follow
    stage.sources["old.pkl"] = replaced = Source(PRIOR, stage.queue)
    stage.session.offer(["old.pkl"], "old.pkl")
    stage.queue.run(1.0)
    assert replaced.requests == [] and stage.client.shown == [], "the same file"
    stage.checkpoints.states = {"old.pkl": 2}
    for _ in range(3):
        stage.session.offer(["old.pkl"], "old.pkl")
        stage.queue.run(1.0)
    assert [request.width for request in replaced.requests] == [32], "once"
    assert [kind for _, kind in stage.client.shown] == ["png"], "no draft: perhaps only the time of the file is another"
    assert stage.client.notes == []


def test_a_choice_is_kept_though_a_file_is_replaced(stage):
    stage.checkpoints.states = {"old.pkl": 2, "new.pkl": 1}
    stage.gui["Network"].set("new.pkl")
    stage.session.offer(["old.pkl", "new.pkl"], "new.pkl")
    stage.queue.run(1.0)
    assert stage.gui["Network"].value == "new.pkl"
    del stage.checkpoints.states["new.pkl"]
    stage.session.offer(["old.pkl"], "old.pkl")
    stage.queue.run(1.0)
    assert stage.gui["Network"].value == "new.pkl" and stage.client.notes == [], "it is in memory"


def test_errors_are_told_to_the_window_and_end_nothing(stage, caplog):
    def fail(request):
        raise RuntimeError("CUDA out of memory\nmore")

    render, stage.source.render = stage.source.render, fail
    stage.gui["Time"].set(0.5)
    stage.queue.run(1.0)
    assert stage.client.notes[-1].body == "CUDA out of memory more" and "RuntimeError" in caplog.text
    stage.source.render = render
    stage.gui["Time"].set(0.6)
    stage.queue.run(1.0)
    assert stage.source.requests[-1].camera.time == 0.6


def test_a_window_that_is_closed_leaves_nothing(stage, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    stage.gui["Save a video"].click()
    stage.queue.run()
    assert len(list(tmp_path.iterdir())) == 1, "the video is being made"
    stage.session.close()
    stage.queue.run(5.0)
    assert list(tmp_path.iterdir()) == [] and stage.queue.jobs == {} and "video.mp4" not in stage.client.files


def test_a_window_that_is_closed_while_it_begins_to_work(stage, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for _ in range(2):
        stage.gui["Save a video"].click()
        stage.queue.run(5.0)
        assert stage.client.files.pop("video.mp4")[4:8] == b"ftyp"
    make = saving.VideoMaking

    def closed_meanwhile(*arguments):
        stage.session.close()
        return make(*arguments)

    monkeypatch.setattr(saving, "VideoMaking", closed_meanwhile)
    stage.source.requests.clear()
    stage.gui["Save a video"].click()
    stage.queue.run(5.0)
    stage.checkpoints.source = None  # changes that are handled later load and render nothing
    stage.gui["Save a video"].click()
    stage.gui["Network"].set("new.pkl")
    stage.queue.run(5.0)
    assert stage.source.requests == [] and stage.client.files == {}
    assert list(tmp_path.iterdir()) == [] and stage.queue.jobs == {} and stage.client.notes == []


def test_a_video_shows_one_network_from_its_first_frame_to_its_last(stage):
    stage.gui["Seconds"].value = 1.0
    stage.gui["Save a video"].click()
    stage.queue.run()
    stage.gui["Network"].set("new.pkl")
    stage.source.requests.clear()
    stage.queue.run(5.0)
    assert stage.gui["Network"].value == "new.pkl" and stage.client.files["video.mp4"][4:8] == b"ftyp"
    assert len(stage.source.requests) > 5, "the frames after the change"


def test_pauses_of_the_camera_are_recorded(stage):
    stage.gui["Frames/s of videos"].value = 2.0
    stage.gui["Record the camera"].click()
    stage.turn(0.5)
    stage.queue.run(4.0)
    stage.gui["Look from the front"].click()
    stage.client.camera.report()
    stage.queue.run(2.0)
    stage.gui["Record the camera"].click()
    yaws = [camera.yaw for camera in stage.session._downloads._path.frames(2.0)]
    assert len(yaws) >= 12 and set(round(yaw, 6) for yaw in yaws) <= {0.5, 0.0}
    assert yaws[:8] == pytest.approx([0.5] * 8) and yaws[-3:] == pytest.approx([0.0] * 3)
