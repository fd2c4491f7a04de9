"""The report of a run: complete in itself, whole whatever the folder holds, and right in a browser."""

import base64
import html.parser
import io
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from dnnlib import UserError
from renderer.video import VideoWriter
from training.monitoring import geometry_monitor
from training.report import __main__ as report
from training.report.__main__ import write_report
from training.report.run_reader import log_lines

ROOT = pathlib.Path(__file__).resolve().parents[3]
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
EVIL = "<script>alert(1)</script>\"'&<img src=http://example.com/x.png onerror=alert(2)>"


class Tags(html.parser.HTMLParser):
    """Elements, their attributes and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.found if name == tag]


def tags(path) -> Tags:
    return Tags(path.read_text(encoding="utf-8"))


def png(path, size=16, noise=False):
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.RandomState(0).randint(0, 256, [size, size, 3]) if noise else np.full([size, size, 3], 90)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def run(tmp_path):
    """A folder as a training leaves it."""
    folder = tmp_path / "00000-run"
    folder.mkdir()
    (folder / "training_options.yaml").write_text("model:\n  resolution: 32\nkimg: 3\n")
    rows = []
    for i in range(20):
        row = {"tick": i, "kimg": i / 4, "time": 12.0 * i, "sec/kimg": 60.0 + i, "cpumem": 0.5, "gpumem": 0.0}
        row["timestamp"] = 1.8e9 + i
        row["Loss/G/loss"] = {"mean": 1 / (1 + i), "std": 0.1, "num": 4}
        row["Loss/scores/real"], row["Loss/scores/fake"] = {"mean": i * 0.1}, {"mean": -i * 0.1}
        if i % 5 == 0:
            row |= {f"Geometry/{name}": {"mean": 0.001 * (i + 1)} for name in report.GEOMETRY}
        rows.append(json.dumps(row))
    (folder / "stats.jsonl").write_text("\n".join(rows) + "\n")
    metric = [
        {"metric": "m", "value": v, "cur_nimg": 1000 * i, "higher_is_better": False} for i, v in enumerate((9, 4, 6))
    ]
    (folder / "metric-m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metric))
    (folder / "log.txt").write_text("tick 0\nwarning: at 1 kimg the geometry is flat\nDone: 3 kimg, in out\n")
    for kimg in range(12):
        png(folder / "images" / f"fakes_frontal_{kimg:06d}.png")
    png(folder / "reals.png")
    (folder / "videos" / "000003").mkdir(parents=True)
    with VideoWriter(folder / "videos" / "000003" / "front_seed0000.mp4", 8) as video:
        for i in range(4):
            video.add(torch.full([3, 32, 32], 60 * i, dtype=torch.uint8))
    return folder


def test_everything_is_on_the_page_and_nothing_is_asked_for_elsewhere(run):
    path = write_report(run, images=5)
    assert path == run / "report.html"
    page, text = tags(path), path.read_text()
    for words in (
        "resolution: 32",
        "the geometry is flat",
        "Done: 3 kimg",
        "kimg",
        "scores",
        "2027-01-15 08:00:19 UTC",
    ):
        assert words in text
    images = page.all("img")
    assert [image["alt"] for image in images] == ["0 kimg", "3 kimg", "6 kimg", "8 kimg", "11 kimg", "first frames"]
    first = base64.b64decode(images[0]["src"].removeprefix("data:image/png;base64,"))
    assert first == (run / "images" / "fakes_frontal_000000.png").read_bytes()
    (video,) = page.all("video")
    content = base64.b64decode(video["src"].removeprefix("data:video/mp4;base64,"))
    assert content == (run / "videos" / "000003" / "front_seed0000.mp4").read_bytes()
    # Four of the geometry, one of the metric; G/loss, scores together, sec/kimg; what never changes is named.
    assert len(page.all("svg")) == 8 and len(page.all("polyline")) == 9
    assert "Constant: cpumem 0.5, gpumem 0." in "".join(page.text)
    assert "4 (best)" in text and "9 (best)" not in text
    sources = [value for _, attrs in page.found for name, value in attrs.items() if name in ("src", "href")]
    assert len(sources) == 8 and all(source.startswith("data:") for source in sources)
    assert not {"script", "iframe", "object", "embed"} & {tag for tag, _ in page.found}


def test_the_best_snapshot_is_listed_however_old_it_is(run):
    def values(measured, higher):
        rows = [
            {"metric": "m", "value": v, "cur_nimg": 1000 * i, "higher_is_better": higher}
            for i, v in enumerate(measured)
        ]
        (run / "metric-m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = re.findall(r"<tr><td>m</td><td>(.*?)</td><td>(.*?)</td>", write_report(run).read_text())
        return [" ".join(cells) for cells in found]

    measured = [50, 30, 9, *range(20, 33)]
    latest = [f"{i} {v}" for i, v in enumerate(measured)][-12:]
    assert values(measured, False) == ["2 9 (best)", *latest]
    assert values(measured, True) == ["0 50 (best)", *latest]
    assert values([9, 9, *measured[2:-1], 9], False)[-1] == "15 9 (best)"
    assert values(measured, None) == latest


def test_precision_and_recall_are_two_lines(run):
    rows = [
        {"value": 0.5, "recall": 0.25, "interval": [0.4, 0.6], "recall_interval": [0.2, 0.3], "cur_nimg": 1000},
        {"value": 0.6, "recall": 0.1, "interval": None, "recall_interval": None, "cur_nimg": 2000},
    ]
    name = "pr64k3_16f"
    (run / f"metric-{name}.jsonl").write_text("".join(json.dumps({"metric": name, **row}) + "\n" for row in rows))
    text = write_report(run).read_text()
    assert re.findall(rf"<tr><td>{name} (.*?)</td><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td>", text) == [
        ("precision", "1", "0.5", "0.4 to 0.6", "higher"),
        ("precision", "2", "0.6 (best)", "–", "higher"),
        ("recall", "1", "0.25 (best)", "0.2 to 0.3", "higher"),
        ("recall", "2", "0.1", "–", "higher"),
    ]
    assert all(f"<figcaption>{name} {figure} <b>" in text for figure in ("precision", "recall"))


def test_values_of_other_real_videos_are_no_part_of_a_curve(run):
    rows = [json.loads(line) for line in (run / "metric-m.jsonl").read_text().splitlines()]
    before = tags(write_report(run)).all("polyline")
    foreign = {**rows[1], "value": 1, "fake_name": "run", "real_data": {"num_videos": 3}}
    again = {**rows[1], "fake_name": "run"}
    (run / "metric-m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (foreign, *rows, again)))
    page = write_report(run)
    assert tags(page).all("polyline") == before
    found = re.findall(r"<tr><td>(m.*?)</td><td>(.*?)</td><td>(.*?)</td>", page.read_text())
    own = [("m", "0", "9"), ("m", "1", "4 (best)"), ("m", "2", "6")]
    assert found == [("m (not comparable)", "1", "1"), *own, ("m (python -m metrics)", "1", "4")]


def test_runs_say_how_long_they_will_take_and_old_ones_do_not(run):
    def tiles():
        write_report(run)
        return dict((label, text) for text, label in re.findall(r'<div class="tile"><b>(.*?)</b>(.*?)</div>', page()))

    def page():
        return (run / "report.html").read_text()

    old = tiles()
    assert old["seconds per thousand videos"] == "79" and not {"videos per second", "left at the present pace"} & {*old}
    row = {"tick": 20, "kimg": 6, "time": 300, "sec/kimg": 80.0, "videos/s": 12.5, "left": 3725.0}
    with open(run / "stats.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")
    new = tiles()
    assert (new["videos per second"], new["left at the present pace"]) == ("12.5", "1h 02m 05s")
    assert "<figcaption>left" not in page()


def test_the_end_of_a_run_that_was_continued_is_none(run):
    def state():
        return re.search("<p>(The log .*?)</p>", write_report(run).read_text())[1]

    assert state().startswith("The log says: Done: 3 kimg, in out.")
    with open(run / "log.txt", "a") as log:
        log.write("Continuing: out\ntick 20\n")
    assert state().startswith("The log shows no end: the run is going on, or was interrupted.")
    with open(run / "log.txt", "a") as log:
        log.write("Stopped as asked at 4 kimg; continue with resume_run=out\n")
    assert state().startswith("The log says: Stopped as asked at 4 kimg")


def test_operators_that_are_missing_are_a_problem(run):
    line = "Native operators are not available for cpu, no C++ compiler was found: they run in plain PyTorch."
    with open(run / "log.txt", "a") as log:
        log.write(f"{line}\n")
    problems, count, _ = log_lines(run / "log.txt", most=9)
    assert problems[-1] == line and count == len(problems)


def test_a_curve_of_snapshots_that_were_measured_in_another_order(run):
    def drawn():
        return [attrs["points"] for attrs in tags(write_report(run)).all("polyline")]

    before = drawn()
    rows = (run / "metric-m.jsonl").read_text().splitlines(keepends=True)
    (run / "metric-m.jsonl").write_text("".join([rows[2], rows[0], rows[1]]))
    assert drawn() == before


def test_the_threshold_is_the_training_s():
    assert report.FLAT_PARALLAX == geometry_monitor.FLAT_PARALLAX
    figures = geometry_monitor.GeometryFigures.__dataclass_fields__
    assert list(report.GEOMETRY) == list(figures)


def test_names_and_contents_stay_text(run):
    rows = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    (run / "stats.jsonl").write_text(
        "".join(json.dumps(row | {EVIL: i, "sec/kimg": EVIL}) + "\n" for i, row in enumerate(rows))
    )
    (run / "training_options.yaml").write_text(f"a: {EVIL} {{x}} {{0}}\x00\x1b")
    (run / "log.txt").write_text(f"warning {EVIL}\n")
    (run / "metric-a<b>&'x.jsonl").write_text(
        json.dumps({"value": 1, "interval": [EVIL, {}], "cur_nimg": EVIL, "higher_is_better": EVIL})
    )
    (run / "videos" / "000003" / "front_seed0000.mp4").rename(run / "videos" / "000003" / "a'\"onload=x <b>.mp4")
    evil = run.with_name(os.fsdecode(b"run \xff <b>"))
    run.rename(evil)
    page = tags(write_report(evil))
    assert "".join(page.text).count("<script>alert(1)</script>") >= 4 and "<b>" in "".join(page.text)
    allowed = {
        "html", "head", "meta", "link", "title", "style", "body", "h1", "h2", "h3", "p", "div", "b", "figure", "img",
        "figcaption", "video", "table", "tr", "th", "td", "span", "svg", "line", "text", "polyline", "polygon",
        "circle", "details", "summary", "pre",
    }  # fmt: skip
    assert {tag for tag, _ in page.found} <= allowed
    assert not [name for _, attrs in page.found for name in attrs if name.startswith("on")]
    assert all(attrs["src"].startswith("data:") for tag, attrs in page.found if "src" in attrs)


def test_an_empty_run_and_one_that_has_just_begun(tmp_path):
    (tmp_path / "log.txt").touch()
    text = "".join(tags(write_report(tmp_path)).text)
    assert "There are no rows in stats.jsonl yet." in text and "There is no training_options.yaml." in text
    (tmp_path / "stats.jsonl").write_text('{"tick": 0, "kimg": 0.0')
    assert "damaged or cut off: 1." in "".join(tags(write_report(tmp_path)).text)


def test_damaged_and_large_media(run, monkeypatch):
    images = run / "images"
    (images / "fakes_frontal_000000.png").write_bytes(b"no picture")
    (images / "fakes_frontal_000001.png").write_bytes((images / "fakes_frontal_000002.png").read_bytes()[:60])
    (images / "fakes_frontal_000003.png").write_bytes(b"")
    png(images / "fakes_frontal_000011.png", size=1500, noise=True)
    folder = run / "videos" / "000003"
    (folder / "a.mp4").write_bytes(b"no video")
    (folder / "b.mp4").write_bytes(b"\0\0\0\x18ftyp" + b"\0" * report.MAX_VIDEO)
    path = write_report(run, images=12)
    page = tags(path)
    text = "".join(page.text)
    for kimg in (0, 1, 3):
        assert f"{kimg} kimg: fakes_frontal_{kimg:06d}.png cannot be read" in text
    large = next(image for image in page.all("img") if image["alt"] == "11 kimg")
    kind, content = large["src"].split(";base64,")
    assert kind == "data:image/jpeg" and Image.open(io.BytesIO(base64.b64decode(content))).size == (1024, 1024)
    assert len(page.all("video")) == 1 and "Not shown: a.mp4, b.mp4" in text
    assert path.stat().st_size < 2_000_000
    # A picture that claims to be enormous is not unpacked.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    assert "11 kimg: fakes_frontal_000011.png cannot be read" in "".join(tags(write_report(run, images=12)).text)


def test_mistakes_end_in_one_line_and_the_old_report_stays(run, tmp_path):
    with pytest.raises(UserError, match="There is no run folder"):
        write_report(tmp_path / "missing")
    with pytest.raises(UserError, match="not a run folder.*it holds the runs 00000-run: name one of them"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="missing/x.html"):
        write_report(run, tmp_path / "missing" / "x.html")
    (run / "report.html").write_text("old")
    broken = run / "images" / "fakes_frontal_000000.png"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "PAGE", "{unknown}")
        with pytest.raises(KeyError):
            write_report(run)
    assert (run / "report.html").read_text() == "old" and broken.exists()


def test_the_command_needs_no_pytorch(run):
    program = (
        "import runpy, sys\n"
        "sys.modules['torch'] = None\n"
        f"sys.argv = ['report', {str(run)!r}, '--out', {str(run / 'a.html')!r}, '--images', '2']\n"
        "runpy.run_module('training.report', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{run / 'a.html'} (") and len(tags(run / "a.html").all("img")) == 3


def test_in_a_browser(run):
    """It renders in Chromium: no complaint on the console, no request, charts drawn, the video plays."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not os.path.exists(CHROMIUM):
        pytest.skip(f"there is no {CHROMIUM}")
    path = write_report(run)
    complaints, requests = [], []
    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        page.locator("video").scroll_into_view_if_needed()  # what is out of sight does not play
        for _ in range(100):
            played = page.evaluate("document.querySelector('video').currentTime")
            if played > 0:
                break
            page.wait_for_timeout(100)
        boxes = page.evaluate("[...document.querySelectorAll('polyline')].map(x => x.getBoundingClientRect().width)")
        broken = page.evaluate("[...document.images].filter(x => !x.complete || !x.naturalWidth).length")
        width = page.evaluate("document.documentElement.scrollWidth")
        browser.close()
    assert played > 0
    assert complaints == [] and [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    assert len(boxes) == 9 and min(boxes) > 200 and broken == 0 and width <= 1200
