"""Frame rate of the viewer during a mouse drag: `python -m benchmarks.viewer [--network_pkl PKL] [--width 128]`.

A headless browser (Chromium, with software rendering) turns the camera for some seconds; frames are counted where they
are sent. Browser and renderer share the machine, as in local use. Without a checkpoint an untrained network of the base
configuration is measured: the speed does not depend on the weights.
"""

import json
import math
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from dnnlib import UserError, run_cli
from dnnlib.command_line import Command, finite_float

BROWSER = [
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
]  # fmt: skip
WARM_UP = 3.0  # seconds of dragging before frames are counted
MOVES = 30  # mouse events per second


def write_untrained(path: Path) -> Path:
    """A checkpoint of the base configuration (FaceForensics, 256²)."""
    import torch

    from training.checkpoints.archive import VERSION, save_archive
    from training.checkpoints.snapshot import SNAPSHOT_FORMAT
    from training.networks.generator import Generator

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = Generator(resolution=256)
    ema = {"config": generator.config, "state": {}, "ema": generator.state_dict()}
    other = {"discriminator": {"config": {}, "state": {}}}
    save_archive(path, {"format": SNAPSHOT_FORMAT, "version": VERSION, "generator": ema, **other})
    return path


def drag(page: Any, seconds: float) -> None:
    """Turn the camera to and fro within its range."""
    box = page.locator("canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        page.mouse.move(x + 0.1 * box["height"] * math.sin(2 * math.pi * passed / 3), y)
        page.wait_for_timeout(1000 / MOVES)
    page.mouse.up()


def measure(network_pkl: Path, *, width: int | None, seconds: float, device: str | None) -> dict[str, Any]:
    """Frames per second of one browser window, their widths, and the median milliseconds per frame."""
    from playwright.sync_api import sync_playwright

    from renderer.viewer.__main__ import start
    from renderer.viewer.quality import DraftQuality

    server = start(network_pkl, host="127.0.0.1", port=0, device=device)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=BROWSER)
            page = browser.new_page(viewport={"width": 1100, "height": 720})
            page.goto(f"http://127.0.0.1:{server.port}")
            page.get_by_text("pixels in").wait_for(timeout=120_000)
            session = server.sessions[0]
            if width is not None:
                session.quality = DraftQuality([width])
            drag(page, WARM_UP)
            begin = time.monotonic()
            drag(page, seconds)
            end = time.monotonic()
            frames = [frame for frame in session.frames if begin <= frame[0] <= end]
            browser.close()
    finally:
        server.stop()
    widths = [frame[1] for frame in frames]
    return {
        "frames_per_second": len(frames) / (end - begin),
        "widths": {str(w): widths.count(w) for w in sorted(set(widths))},
        "milliseconds": 1000 * statistics.median(frame[2] for frame in frames) if frames else None,
    }


@click.command(cls=Command, context_settings={"max_content_width": 120, "show_default": True})
@click.option("--network_pkl", type=click.Path(exists=True), help="[default: untrained, base configuration]")
@click.option("--width", type=click.IntRange(min=1), help="Keep this width instead of adapting it.")
@click.option("--seconds", default=10.0, type=finite_float(1), help="How long to drag.")
@click.option("--device", help="[default: cuda if there is one]")
def main(network_pkl: str | None, width: int | None, seconds: float, device: str | None) -> None:
    """Measure the viewer's frames per second while the camera is turned."""
    if shutil.which("chromium") is None:
        raise UserError("This needs Chromium: make browser.")
    with tempfile.TemporaryDirectory() as folder:
        path = write_untrained(Path(folder) / "untrained.pt") if network_pkl is None else Path(network_pkl)
        click.echo(json.dumps(measure(path, width=width, seconds=seconds, device=device)))


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
