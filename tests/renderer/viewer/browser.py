"""A headless browser for the viewer's tests, and a server with a tiny network."""

import contextlib
import io
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from renderer.trajectory_files import PathCamera
from renderer.video import to_uint8
from renderer.viewer.views import LatentSelection, ViewRequest
from tests.goldens.networks import SMALL, build_generator
from training.checkpoints.archive import save_archive
from training.checkpoints.snapshot import SNAPSHOT_FORMAT
from training.inference.viewer_source import GeneratorViews

SIZE = {"width": 660, "height": 400}
ARGUMENTS = [
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
]  # fmt: skip
WAIT = 180  # seconds; far more than anything takes on an idle machine
TOLERANCE = 3.0  # levels of 255, in means over many pixels: the screen interpolates


@contextlib.contextmanager
def open_browser():
    """Chromium, or the test is skipped with a reason."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium: `make browser` installs it")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


def tiny_generator(*, brighter: float = 0.0):
    """A network that renders in milliseconds; it can be made another one by the bias of its last colours."""
    generator = build_generator(SMALL)
    list(generator.upsampler.blocks.values())[-1].rgb.linear.bias.data.add_(brighter)
    return generator


def write_snapshot(path: Path, **changes: float) -> None:
    generator = tiny_generator(**changes)
    content = {
        "format": SNAPSHOT_FORMAT,
        "version": 1,
        "generator": {"config": generator.config, "state": {}, "ema": generator.state_dict()},
        "discriminator": {"config": {}, "state": {}},
    }
    save_archive(path, content)


def expected_picture(camera: PathCamera, codes: LatentSelection | None = None, **changes: float) -> torch.Tensor:
    """Expected image of the viewer in full quality, uint8 [3, H, W]."""
    views = GeneratorViews(tiny_generator(**changes))
    return to_uint8(views.render(ViewRequest(codes or LatentSelection(), camera, "both", views.widths[-1])).image[0, 0])


class Window:
    """One browser window that looks at the viewer."""

    def __init__(self, browser, port: int):
        self.page = browser.new_context(viewport=SIZE, accept_downloads=True).new_page()
        self.page.set_default_timeout(1000 * WAIT)
        self.requests, self.errors = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(f"http://127.0.0.1:{port}")
        self.page.get_by_text("pixels in").wait_for()
        self.page.locator(
            ".mantine-Notification-closeButton"
        ).click()  # a warning that WebGL is slow covers the picture

    @property
    def canvas(self) -> dict[str, float]:
        """Rectangle of the scene on the page; it changes while the page is laid out."""
        return self.page.locator("canvas").first.bounding_box()

    def close(self) -> None:
        self.page.context.close()

    def field(self, label: str):
        """The text field of a control."""
        row = self.page.locator("label", has_text=re.compile(f"^{re.escape(label)}$"))
        return row.locator("xpath=ancestor::div[.//input[@inputmode='decimal']][1]//input[@inputmode='decimal']")

    def fill(self, label: str, value: float) -> None:
        self.field(label).fill(str(value))
        self.field(label).press("Tab")

    def choose(self, label: str, option: str) -> None:
        self.page.get_by_label(label, exact=True).and_(self.page.get_by_role("combobox")).click()
        self.page.get_by_role("option", name=option, exact=True).click()

    def press(self, label: str) -> None:
        self.page.get_by_role("button", name=label, exact=True).click()

    def open_folder(self, label: str) -> None:
        self.page.get_by_text(label, exact=True).click()

    def save(self, label: str) -> bytes:
        """Press a button that saves, whatever number follows its label; returns the file that the browser received."""
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name=re.compile(rf"^{re.escape(label)}( \([0-9]+\))?$")).click()
        return Path(download.value.path()).read_bytes()

    def drag(self, right: int) -> None:
        """Turn the camera with the mouse, some pixels to the right."""
        canvas = self.canvas
        x, y = canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + right, y, steps=5)
        self.page.mouse.up()

    def wait_for_rest(self, server) -> None:
        """Until the server has drawn nothing for a second: what was done here has reached it and come back."""
        latest, end = None, time.monotonic() + WAIT
        while latest != (latest := [list(session.frames)[-1:] for session in server.sessions]):
            assert time.monotonic() < end, "the viewer goes on drawing"
            self.page.wait_for_timeout(1000)

    def colours(self) -> np.ndarray:
        """Mean colours of the four quarters of the middle half of the picture on the screen, [4, 3]."""
        image = np.asarray(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")).astype(float)
        canvas = self.canvas
        size = min(canvas["width"], canvas["height"])
        x, y = canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2
        return middle_quarters(image, x, y, size / 4)

    def shows(self, image: torch.Tensor) -> bool:
        """True once the window shows this picture, uint8 [3, H, W]."""
        expected = image.movedim(0, -1).double().numpy()
        expected = middle_quarters(expected, image.shape[2] / 2, image.shape[1] / 2, image.shape[1] / 4)
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            found = self.colours()
            if np.abs(found - expected).max() < TOLERANCE:
                return True
            self.page.wait_for_timeout(150)
        print("expected", expected, "found", found)
        return False


def middle_quarters(image: np.ndarray, x: float, y: float, reach: float) -> np.ndarray:
    corners = [(x - reach, y - reach), (x, y - reach), (x - reach, y), (x, y)]
    return np.stack(
        [image[round(b) : round(b + reach), round(a) : round(a + reach)].mean(axis=(0, 1)) for a, b in corners]
    )
