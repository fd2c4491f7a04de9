"""The viewer in a real browser."""

import dataclasses
import io
import math

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

import renderer.viewer.server
from renderer.trajectory_files import PathCamera, read_camera_path
from renderer.viewer.__main__ import start
from renderer.viewer.views import LatentSelection
from tests.renderer.viewer.browser import SIZE, Window, expected_picture, open_browser, write_snapshot

pytest.importorskip("viser", reason="viser is not installed")

FIRST, BROKEN, LATER = (f"network-snapshot-{i:06d}.pt" for i in (1, 2, 3))


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_snapshot(folder / FIRST)
    (folder / BROKEN).write_bytes((folder / FIRST).read_bytes()[:2000])
    return folder


@pytest.fixture(scope="module")
def server(browser, folder):
    patch = pytest.MonkeyPatch()
    patch.setattr(renderer.viewer.server, "WATCH_EVERY", 0.2)
    server = start(folder, host="127.0.0.1", port=0, device="cpu")
    yield server
    server.stop()
    patch.undo()


@pytest.fixture
def window(browser, server):
    window = Window(browser, server.port)
    yield window
    window.close()


def camera(**changes):
    return PathCamera(**{"yaw": 0.0, "pitch": math.pi / 2, "radius": 1.0, "fov": 18.0, "time": 0.0} | changes)


def saved_cameras(window, tmp_path):
    path = tmp_path / "path.json"
    path.write_bytes(window.save("Save the camera path"))
    return read_camera_path(path)


def test_the_page_loads_offline_and_shows_the_full_picture(window):
    assert window.shows(expected_picture(camera()))
    assert window.errors == []
    places = {url.split("://")[1].split("/")[0] for url in window.requests if not url.startswith(("data:", "blob:"))}
    assert places == {window.page.url.split("://")[1].strip("/")}, "the page needs nothing from elsewhere"
    window.fill("Content seed", 5_000_000_000)
    assert window.shows(expected_picture(camera(), LatentSelection(seed=2**32 - 1))), (
        "what is out of range is held within"
    )
    window.field("Field of view").press_sequentially("300")  # and is sent before the field is left
    window.page.wait_for_timeout(1000)
    assert window.page.locator(".mantine-Notification-root").count() == 0


def test_controls_change_the_picture(window, server):
    window.fill("Time", 1)
    assert window.shows(expected_picture(camera(time=1.0)))
    window.fill("Field of view", 30)
    window.fill("Content seed", 3)
    assert window.shows(expected_picture(camera(time=1.0, fov=30.0), LatentSelection(seed=3)))
    window.page.get_by_label("Beyond the trained range").scroll_into_view_if_needed()
    window.choose("View", "background only")
    shown = window.colours()
    for view in ("depth", "normals", "opacity", "foreground only", "field image"):
        window.choose("View", view)
        window.wait_for_rest(server)
        assert np.abs(window.colours() - shown).max() > 3, view
        shown = window.colours()


def test_play_moves_and_stop_stands_still(window, server):
    window.fill("Seconds", 1)
    window.press("Play")
    values, pictures = [], []
    for _ in range(4):
        window.page.wait_for_timeout(300)
        values.append(float(window.field("Time").input_value()))
        pictures.append(window.colours())
    assert len(set(values)) >= 3 and all(0 <= value <= 1 for value in values)
    assert max(np.abs(a - b).max() for a, b in zip(pictures, pictures[1:])) > 3
    window.press("Stop")
    window.wait_for_rest(server)
    time = float(window.field("Time").input_value())
    window.page.wait_for_timeout(300)
    assert float(window.field("Time").input_value()) == time
    assert window.shows(expected_picture(camera(time=time)))


def test_what_is_saved_is_what_was_seen(window, tmp_path):
    window.fill("Time", 0.5)
    window.open_folder("Save")
    picture = np.asarray(Image.open(io.BytesIO(window.save("Save the picture"))))
    expected = expected_picture(camera(time=0.5)).movedim(0, -1).numpy()
    assert np.abs(picture.astype(int) - expected).max() <= 1
    (saved,) = saved_cameras(window, tmp_path)
    assert dataclasses.astuple(saved) == pytest.approx(dataclasses.astuple(camera(time=0.5)))

    window.fill("Frames/s of videos", 4)
    frames = iio.imread(window.save("Save a video"), extension=".mp4")
    assert frames.shape == (8, 32, 32, 3)  # two seconds
    for frame, time in ((frames[0], 0.0), (frames[-1], 1.0)):
        shown = expected_picture(camera(time=time)).movedim(0, -1).numpy()
        assert np.abs(frame.astype(int) - shown).mean() < 12, "colours are stored at half the resolution"


def test_the_mouse_turns_the_camera_within_the_trained_range(window, server, tmp_path):
    window.open_folder("Save")
    window.press("Record the camera")
    window.drag(right=30)
    window.wait_for_rest(server)
    window.press("Stop recording")
    window.page.get_by_role("button", name="Record the camera", exact=True).wait_for()  # the recording has ended
    path = saved_cameras(window, tmp_path)
    turned = -2 * math.pi * 30 / SIZE["height"]  # a turn for the height of the window, the scene follows the mouse
    assert path[0].yaw == pytest.approx(0, abs=1e-6) and path[-1].yaw == pytest.approx(turned, abs=1e-3)
    assert all(a.yaw >= b.yaw - 1e-6 for a, b in zip(path, path[1:])) and len(path) > 5
    window.press("Record the camera")  # an empty path is begun
    window.drag(right=-200)
    assert window.shows(expected_picture(camera(yaw=0.8)))
    window.wait_for_rest(server)  # then the mouse's camera is brought back to the limit
    window.page.get_by_label("Beyond the trained range").check()
    window.wait_for_rest(server)  # a drag before the server knows of it would end at the limit again
    window.drag(right=-30)
    assert window.shows(expected_picture(camera(yaw=0.8 - turned)))
    window.press("Look from the front")
    assert window.shows(expected_picture(camera()))


def test_two_windows_do_not_disturb_each_other(browser, server, window):
    other = Window(browser, server.port)
    window.fill("Content seed", 3)
    other.fill("Time", 1)
    other.drag(right=30)
    assert other.shows(expected_picture(camera(time=1.0, yaw=-2 * math.pi * 30 / SIZE["height"])))
    assert window.shows(expected_picture(camera(), LatentSelection(seed=3)))
    other.close()
    window.fill("Content seed", 0)
    assert window.shows(expected_picture(camera()))


def test_snapshots_appear_and_broken_ones_are_left_out(window, folder):
    def offered():
        window.page.get_by_label("Network", exact=True).and_(window.page.get_by_role("combobox")).click()
        window.page.get_by_role("option").first.wait_for()
        names = window.page.get_by_role("option").all_inner_texts()
        window.page.keyboard.press("Escape")
        return names

    assert offered() == [FIRST]
    write_snapshot(folder / LATER, brighter=-0.7)
    window.page.get_by_label("Follow the newest").wait_for()
    assert offered() == [FIRST, LATER]
    assert window.shows(expected_picture(camera())), "nobody asked for the new one"
    window.choose("Network", LATER)
    assert window.shows(expected_picture(camera(), brighter=-0.7))
