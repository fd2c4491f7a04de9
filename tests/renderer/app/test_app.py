"""The Gradio app: its page in a browser (with gradio and Chromium), and its errors in one line (always)."""

import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from dnnlib import UserError
from tests.renderer.viewer.browser import open_browser

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def address(run_folder, tmp_path, monkeypatch):
    """The running page, whose files Gradio keeps in the test's folder."""
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    from renderer.app.__main__ import open_page
    from renderer.app.page import launch_page

    with open_page(str(run_folder), class_idx=None, device="cpu") as page:
        yield launch_page(page, host="127.0.0.1", port=0)
        page.close(verbose=False)


@pytest.mark.slow
def test_the_page_shows_frames_and_videos(run_folder, address, tmp_path):
    from training.inference.video_generator import load_generator

    G, asked = load_generator(run_folder), set()

    def fetched(element, name: str) -> Path:
        path = tmp_path / name
        path.write_bytes(urllib.request.urlopen(element.get_attribute("src")).read())
        return path

    with open_browser() as browser:
        page = browser.new_page()
        page.on("request", lambda request: asked.add(re.sub(r"^(\w+://[^/]*).*", r"\1", request.url)))
        page.goto(address)
        shown = page.locator('img[src*="gradio_api"]')
        shown.wait_for(timeout=60_000)
        first = shown.get_attribute("src")
        buttons = [button.get_attribute("aria-label") for button in page.get_by_role("button").all()]
        assert "Download" in buttons and "Share" not in buttons
        picture = np.asarray(Image.open(fetched(shown, "first.png")).convert("RGB"))
        assert np.array_equal(picture[4::8, 4::8], G.frame(seed=3, motion_seed=3, t=0.5).permute(1, 2, 0).numpy())

        page.get_by_label("number input for Yaw").fill("0.4")
        page.get_by_label("number input for Yaw").press("Tab")
        page.wait_for_function("src => document.querySelector('img[src*=gradio_api]').src != src", arg=first)
        picture = np.asarray(Image.open(fetched(shown, "second.png")).convert("RGB"))
        turned = G.frame(seed=3, motion_seed=3, t=0.5, yaw=0.4).permute(1, 2, 0).numpy()
        assert np.array_equal(picture[4::8, 4::8], turned)

        page.get_by_role("button", name="Render the video").click()
        clip = page.locator('video[src*="gradio_api"]')
        clip.wait_for(timeout=60_000)
        frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(fetched(clip, "clip.mp4")))
        assert (frames, seconds) == (16, 2.0)
    assert {url for url in asked if url.startswith("http")} == {address.rstrip("/")}, "nothing leaves this machine"


@pytest.fixture
def handlers(tmp_path):
    """The functions behind a page by name, the calls of its callables, and the folder of its videos."""
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    from renderer.app.page import build_page

    calls, folder = [], tmp_path / "videos"
    folder.mkdir()

    def write_video(path, *values):
        calls.append(values)
        Path(path).write_bytes(b"video")
        if values[-1] == 13:
            raise ValueError("thirteen frames")

    page = build_page(
        title="t", render_frame=lambda *values: calls.append(values), write_video=write_video, yaw=1, pitch=1,
        has_motion=True, has_time=True, folder=str(folder),
    )  # fmt: skip
    return {function.api_name: function.fn for function in page.fns.values()}, calls, folder


def test_a_number_that_is_missing_is_said_on_the_page(handlers):
    import gradio

    functions, calls, _ = handlers
    with pytest.raises(gradio.Error, match="A number is missing"):
        functions["frame"](None, 3, 1.0, 0.5, 0.0, 0.0)
    with pytest.raises(gradio.Error, match="A number is missing"):
        functions["video"](3, None, 1.0, "front", 2)
    with pytest.raises(gradio.Error, match="thirteen frames"):
        functions["video"](3, 3, 1.0, "front", 13)
    functions["frame"](4, 3, 1.0, 0.5, 0.0, 0.0)
    assert calls == [(3, 3, 1.0, "front", 13), (4, 3, 1.0, 0.5, 0.0, 0.0)]


def test_mistakes_print_no_traceback(handlers):
    """Gradio prints those of other errors, and of its own for numbers beyond the bounds of a control."""
    import gradio

    functions, _, _ = handlers
    for values in ((None, 3, 1.0, "front", 2), (3, 3, 1.0, "front", 13)):
        with pytest.raises(gradio.Error) as caught:
            functions["video"](*values)
        assert caught.value.print_exception is False


@pytest.mark.parametrize("moves", [True, False])
def test_the_page_offers_what_has_an_effect_within_its_range(tmp_path, moves):
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    from renderer.app.page import build_page

    page = build_page(
        title="t", render_frame=None, write_video=None, yaw=1, pitch=1, has_motion=moves, has_time=moves,
        folder=str(tmp_path),
    )  # fmt: skip
    hidden = [block.label for block in page.blocks.values() if not block.visible]
    assert hidden == ([] if moves else ["Motion seed", "Time"])
    sliders = {block.label: block for block in page.blocks.values() if block.get_block_name() == "slider"}
    ends = {label: [slider.preprocess(value) for value in (-1e9, None, 1e9)] for label, slider in sliders.items()}
    assert ends == {
        "Truncation": [0, None, 1], "Time": [0, None, 1], "Yaw": [-1, None, 1], "Pitch": [-1, None, 1],
        "Frames": [1, None, 128],
    }, "what is typed beyond the ends is held within"  # fmt: skip


def test_one_video_is_kept(handlers):
    functions, _, folder = handlers
    paths = [Path(functions["video"](3, 3, 1.0, "front", frames)) for frames in (1.0, 2.0)]
    assert paths[0] != paths[1] and list(folder.iterdir()) == [paths[1]]


def test_an_address_that_cannot_be_used_is_one_line():
    from renderer.app.page import launch_page

    with pytest.raises(UserError, match="^Cannot listen on no.such.host.invalid, port 7860: .*choose another"):
        launch_page(None, host="no.such.host.invalid", port=7860)


@pytest.mark.parametrize("kind", [Exception, OSError, ValueError])
def test_a_page_that_gradio_cannot_reach_is_one_line(monkeypatch, kind):
    """Behind a proxy, Gradio raises errors of many classes."""
    from renderer.app import page

    class Page:
        def queue(self, **_):
            return self

        def launch(self, **options):
            names.append(options["server_name"])
            raise kind("Couldn't start the app:\n503")

    names = []
    monkeypatch.setattr(page, "listening_port", lambda host, port: port)
    for host in ("127.0.0.1", "::1"):
        with pytest.raises(UserError) as caught:
            page.launch_page(Page(), host=host, port=7860)
        assert str(caught.value) == (
            f"Cannot serve the page on port 7860 of {host}: Couldn't start the app: 503 "
            f"(if an HTTP proxy is set, set NO_PROXY=localhost,{host} as well)."
        )
        assert isinstance(caught.value.__cause__, kind)
    assert names == ["127.0.0.1", "[::1]"], "Gradio wants IPv6 in brackets"


def test_without_gradio_one_line_says_what_to_install(run_folder, monkeypatch):
    from renderer.app.__main__ import open_page

    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match="The app needs one more package: `pip install gradio`"):
        with open_page(str(run_folder), class_idx=None, device="cpu"):
            pass


def test_help_needs_no_pytorch():
    script = "import sys, renderer.app.__main__; sys.exit('torch' in sys.modules or 'gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
