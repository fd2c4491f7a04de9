"""--faces of the dataset tool, with files of landmarks or a detector that is no network."""

import json
import os
import re
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dnnlib import UserError
from tests.training.data.movies import write_movie
from tests.training.dataset_tool.faces.heads import NAMES, head, write_landmarks
from training.data.dataset import VideoPairDataset
from training.data.frame_store import FrameStore
from training.data.video_decoder import decode_video
from training.data.video_probe import BrokenVideo
from training.data.webdataset_files import read_samples
from training.dataset_tool.__main__ import main, read_manifest
from training.dataset_tool.faces import box_files, detection_run
from training.dataset_tool.faces.detection_run import detect_video, detect_videos, scene_cuts
from training.dataset_tool.faces.detections import read_detections
from training.dataset_tool.faces.detector import find_detector
from training.dataset_tool.source_videos import find_sources

SIZE = (96, 80)
FRAMES = 24
CENTER, SIDE = (50, 40), 30  # of the head: a crop of 1.5 boxes is 45 pixels wide


def paint(image):
    """A white patch at the place of the head's centre."""
    image[CENTER[1] - 2 : CENTER[1] + 2, CENTER[0] - 2 : CENTER[0] + 2] = 255


@pytest.fixture(scope="module")
def movies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("movies")
    write_movie(folder / "a.mp4", frames=FRAMES, size=SIZE, paint=paint)
    for name in ("b.mp4", "c.mp4"):
        os.link(folder / "a.mp4", folder / name)
    return folder


def of_head(frames, **place):
    place = {"center": CENTER, "side": SIDE, **place}
    return {"size": list(SIZE), "cuts": [], "frames": [[head(0.01 * k, 1.5, **place)] for k in range(frames)]}


def call(*arguments):
    """The output of a command that must succeed."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def fail(*arguments):
    """The message of a command that must fail."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert isinstance(result.exception, UserError), (result.output, result.exception)
    return str(result.exception)


@pytest.fixture
def landmarks(tmp_path):
    """A head that turns in `a`, a small one in `b`, nothing in `c`."""
    videos = {"a.mp4": of_head(FRAMES), "b.mp4": of_head(FRAMES, side=6)}
    videos["c.mp4"] = {"size": list(SIZE), "frames": [[]] * FRAMES}
    return write_landmarks(tmp_path / "landmarks.json", videos)


OPTIONS = ("--resolution", 16, "--nframes", 4, "--min-face", 10, "--workers", 1)


def test_from_videos_to_a_training_set(movies, landmarks, tmp_path):
    out = tmp_path / "out"
    text = call(movies, out, "--faces", "--landmarks", landmarks, *OPTIONS)
    assert "faces: 1 clip(s), 24 frames, in 1 of 3 video(s)" in text
    assert "left out: 24 frames without a detection, 1 video(s) without any" in text
    assert "left out b.mp4: detections in 24 frames: 24 too small" in text
    assert "left out c.mp4: no detection in 24 frames" in text
    # Folders of four clips each by default, each with the median camera of its own frames.
    store = FrameStore(out)
    pieces = [(video.path, len(video)) for video in store.videos]
    assert pieces == [("videos/a_000_0000", 16), ("videos/a_000_0001", 8)]
    cameras = json.loads((out / "dataset.json").read_text())["cameras"]
    assert [camera for _, camera in cameras] == [pytest.approx([0.075, 1.5]), pytest.approx([0.195, 1.5])]
    # The head's centre is the centre of the crop.
    image = np.asarray(store.read_frame(store.videos[0], 0)).mean(axis=2)
    patch = image - np.median(image)
    patch[np.abs(patch) < 20] = 0
    assert [(patch.sum(axis) @ np.arange(16)) / patch.sum() for axis in (0, 1)] == pytest.approx([7.5, 7.5], abs=0.4)
    manifest = read_manifest(out)
    assert manifest["faces"]["detector"] == "test" and manifest["faces"]["min_side"] == 10
    assert [item["source"] for item in manifest["skipped"]] == ["b.mp4", "c.mp4"]
    dataset = VideoPairDataset(path=str(out), resolution=16, nframes=4, use_cameras=True)
    assert dataset.cameras().shape == (6, 2) and dataset[0].c.tolist() == pytest.approx([0.075, 1.5])
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    checked = call("--check", out, "--nframes", 4, "--histogram", tmp_path / "poses.png", "--workers", 1)
    assert "model.generator.camera.yaw=[" in checked and "2 cameras are too few" in checked
    assert Image.open(tmp_path / "poses.png").size == (800, 240)


def test_frames_keep_their_numbers_and_strides(movies, tmp_path):
    video = of_head(FRAMES)
    video["cuts"] = [10]
    landmarks = write_landmarks(tmp_path / "landmarks.json", {"a.mp4": video})
    out = tmp_path / "out"
    source = movies / "a.mp4"
    call(source, out, "--faces", "--landmarks", landmarks, *OPTIONS, "--stride", 2, "--clip-step", 1)
    names = sorted(os.listdir(out / "videos"))
    assert names == ["a_000_0000", "a_000_0001", *(f"a_001_{k:04d}" for k in range(4))]
    assert sorted(os.listdir(out / "videos" / "a_001_0000")) == [f"{k:06d}.png" for k in (5, 6, 7, 8)]
    cameras = dict(json.loads((out / "dataset.json").read_text())["cameras"])
    assert cameras["videos/a_001_0000"][0] == pytest.approx(0.13)  # median of frames 10 to 16
    gray = np.asarray(Image.open(out / "videos" / "a_001_0000" / "000005.png"))[0, 0, 0]
    assert gray == pytest.approx(20 + 5 * 10, abs=2)


@pytest.mark.parametrize("shape", ["zip", "shards"])
def test_zip_and_shards(movies, landmarks, tmp_path, shape):
    out = tmp_path / ("out.zip" if shape == "zip" else "out")
    call(movies, out, "--faces", "--landmarks", landmarks, *OPTIONS, "--format", shape)
    if shape == "zip":
        boxes = json.loads(FrameStore(out).read_bytes("faces.json"))
    else:
        samples = list(read_samples(str(out / "shard-000000.tar")))
        assert len(samples) == 6 and samples[0].about["camera"][1] == pytest.approx(1.5)
        assert "cameras" in call("--check", out, "--workers", 1)
        boxes = json.loads((out / "faces.json").read_text())
    assert boxes["a.mp4"][0]["box"] == pytest.approx([35, 25, 65, 55]) and "left_out" in boxes["b.mp4"]


def test_the_box_file_alone_gives_the_same_set(movies, landmarks, tmp_path):
    boxes = tmp_path / "faces.json"
    text = call(movies, "--faces", "--landmarks", landmarks, "--faces-only", boxes, *OPTIONS)
    assert f"wrote {boxes}" in text and "left out c.mp4: no detection in 24 frames" in text
    edit = fail(movies, "--faces", "--landmarks", landmarks, "--faces-only", boxes, *OPTIONS)
    assert edit == f"--faces-only: '{boxes}' is there already: use --overwrite to replace it."
    options = OPTIONS[:4]
    call(movies, tmp_path / "by_boxes", "--boxes", boxes, *options)
    call(movies, tmp_path / "at_once", "--faces", "--landmarks", landmarks, *OPTIONS)
    for name in ("dataset.json", "videos/a_000_0001/000020.png"):
        assert (tmp_path / "by_boxes" / name).read_bytes() == (tmp_path / "at_once" / name).read_bytes()


def test_frames_and_boxes_at_another_rate(movies, tmp_path):
    """The movies have 10 frames per second: at 4, frames 0, 2, 5, 7, … 22."""
    landmarks = write_landmarks(tmp_path / "landmarks.json", {"a.mp4": of_head(10)})
    out, boxes, source = tmp_path / "out", tmp_path / "boxes.json", movies / "a.mp4"
    find = ("--faces", "--landmarks", landmarks, *OPTIONS)
    call(source, out, *find, "--fps", 4, "--preview", tmp_path / "sheet.png")
    (clip,) = json.loads((out / "faces.json").read_text())["a.mp4"]
    assert (clip["first"], clip["frames"], clip["fps"]) == (0, 10, 4)
    last = np.asarray(Image.open(out / "videos" / "a_000_0000" / "000009.png"))[0, 0, 0]
    assert last == pytest.approx(20 + 5 * 22, abs=2) and read_manifest(out)["fps"] == 4
    call(source, "--faces-only", boxes, *find, "--fps", 4)
    call(source, tmp_path / "by_boxes", "--boxes", boxes, *OPTIONS[:4], "--fps", 4)
    frame = "videos/a_000_0000/000007.png"
    assert (tmp_path / "by_boxes" / frame).read_bytes() == (out / frame).read_bytes()
    assert fail(source, tmp_path / "own", "--boxes", boxes, *OPTIONS[:4]) == (
        "The file of boxes counts frames of 'a.mp4' at 4 per second: use --fps 4."
    )
    assert fail(source, tmp_path / "other", *find, "--fps", 5) == (
        f"'{landmarks}' does not fit 'a.mp4': it has 12 frames at --fps 5, its detections are for 10. Correct it, or "
        "use --skip-broken."
    )


def test_preview_and_roll(movies, tmp_path):
    landmarks = write_landmarks(tmp_path / "landmarks.json", {"a.mp4": of_head(FRAMES, roll=0.5)})
    preview = tmp_path / "sheet.png"
    call(movies / "a.mp4", tmp_path / "out", "--faces", "--landmarks", landmarks, *OPTIONS, "--remove-roll",
         "--preview", preview)  # fmt: skip
    sheet = np.asarray(Image.open(preview)).astype(int)
    assert sheet.shape == (320, 8 * 192, 3)
    colors = {tuple(color) for color in sheet.reshape(-1, 3)}
    assert {(255, 60, 60), (60, 220, 60), (80, 140, 255), (255, 220, 0)} <= colors
    (clip,) = json.loads((tmp_path / "out" / "faces.json").read_text())["a.mp4"]
    assert clip["roll"] == pytest.approx(0.5)


def test_interrupted_detection_goes_on(movies, tmp_path, monkeypatch):
    """Detections of finished videos are kept; a changed video is detected again."""
    calls = []

    class Detector:
        version, names = "fake 1", NAMES

        def detect(self, frame):
            calls.append(frame.shape)
            if len(calls) == 2 * FRAMES + 5:
                raise KeyboardInterrupt
            return [head(center=CENTER, side=SIDE)]

    monkeypatch.setattr(detection_run, "open_detector", lambda settings: Detector())
    settings = {"kind": "faces", "model": None, "python": None, "version": "1"}
    among, folder = find_sources(str(movies)), str(tmp_path)
    arguments = dict(settings=settings, folder=folder, workers=1, skip_broken=False)
    with pytest.raises(KeyboardInterrupt):
        detect_videos(among, **arguments)
    assert len(os.listdir(tmp_path)) == 2
    detections, broken = detect_videos(among, **arguments)
    assert len(calls) == 3 * FRAMES + 5 and broken == {}  # the third video alone
    assert detections.detector == "fake 1" and [len(v.frames) for v in detections.videos.values()] == [FRAMES] * 3
    detect_videos(among, **arguments)
    assert len(calls) == 3 * FRAMES + 5
    detect_videos(among, **{**arguments, "settings": {**settings, "kind": "people"}})
    assert len(calls) == 6 * FRAMES + 5
    detect_videos(among, **{**arguments, "settings": {**settings, "version": "2"}})
    assert len(calls) == 9 * FRAMES + 5
    for _ in range(2):  # of the movies' 10 frames per second
        detect_videos(find_sources(str(movies), fps=5), **{**arguments, "settings": {**settings, "version": "2"}})
        assert len(calls) == 9 * FRAMES + 5 + 3 * FRAMES // 2
    with pytest.raises(UserError, match=r"a\.mp4' has 10 frames .* Give a lower --fps or none, remove the video, "):
        detect_videos(find_sources(str(movies), fps=12), **arguments)


def test_the_source_may_be_broken(tmp_path, monkeypatch):
    class Detector:
        version, names = "fake 1", NAMES

        def detect(self, frame):
            return [head(center=CENTER, side=SIDE)]

    monkeypatch.setattr(detection_run, "open_detector", lambda settings: Detector())
    monkeypatch.setattr(
        "training.dataset_tool.faces.box_files.find_detector", lambda **_: dict(kind="faces", model=None, version=None)
    )
    source = tmp_path / "source"
    source.mkdir()
    write_movie(source / "a.mp4", frames=8, size=SIZE)
    (source / "b.mp4").write_bytes(b"no video")
    out = tmp_path / "out"
    assert "b.mp4" in fail(source, out, "--faces", *OPTIONS)
    assert not out.exists()
    text = call(source, out, "--faces", *OPTIONS, "--skip-broken")
    assert "left out b.mp4: Cannot decode" in text
    assert sorted(os.listdir(out / "videos")) == ["a_000_0000"]


def test_scenes_are_told_from_motion():
    black, white = np.zeros([16, 16]), np.full([16, 16], 200.0)
    assert scene_cuts(np.stack([black] * 5 + [white] * 5)) == [5]
    assert scene_cuts(np.stack([black + 30 * k for k in range(8)])) == []  # fast, but lasting
    assert scene_cuts(np.stack([black])) == [] and scene_cuts(np.stack([black, white])) == [1]


def test_detections_of_a_video(movies, tmp_path):
    class Detector:
        def detect(self, frame):
            return [{"score": 0.5, "box": [0, 0, frame.shape[1], frame.shape[0]], "points": []}]

    found = detect_video(decode_video(str(movies / "a.mp4")), Detector(), name="a.mp4")
    assert found["size"] == list(SIZE) and found["cuts"] == [] and len(found["frames"]) == FRAMES
    assert found["frames"][3][0]["box"] == [0, 0, 96, 80]
    with pytest.raises(BrokenVideo) as error:
        detect_video(iter([Image.new("RGB", (8, 8)), Image.new("RGB", (8, 9))]), Detector(), name="a")
    assert str(error.value) == "Frame 1 of 'a' has 8×9 pixels, the first one 8×8: boxes fit frames of one size only."


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": "faces"}, "its format must be 'video-detections' and its version 1"),
        ({"names": ["chin"]}, "has a landmark 'chin'; known are forehead, "),
        ({"names": NAMES[:2]}, "must name at least 4 landmarks, each once, got 2"),
        ({"videos": {"a/v": {}, "a//v": {}}}, "has detections for the video 'a/v' twice; remove one"),
        ({"videos": {}}, "must hold a list of names and an object of videos"),
        ({"videos": {"v": {"frames": [[]]}}}, "'v' must have the size .width, height. of its frames, got None"),
        ({"videos": {"v": {"size": [8, 8], "frames": []}}}, "'v' must have a list of detections for every frame"),
        ({"videos": {"v": {"size": [8, 8], "frames": [[{"box": [3, 0, 2, 9]}]]}}}, "frame 0: a box must be"),
        ({"videos": {"v": {"size": [8, 8], "frames": [[{"box": [0, 0, 10**400, 9]}]]}}}, "frame 0: a box must be"),
        ({"videos": {"v": {"size": [8, 8], "frames": [[{"score": 95}]]}}}, "the score must be a number from 0 to 1"),
        (
            {"names": [], "videos": {"v": {"size": [80, 60], "frames": [[], [{"box": [0.3, 0.2, 0.5, 0.7]}]]}}},
            "'v': the boxes look like fractions of the frame: multiply them by 80 and 60 to give them in pixels.$",
        ),
        (
            {
                "videos": {
                    "v": {"size": [80, 60], "frames": [[{"box": [24, 12, 40, 42], "points": [[0.4, 0.5, 0]] * 18}]]}
                }
            },
            "'v': the points look like fractions of the frame: multiply them by 80 and 60 to give them in pixels.$",
        ),
        (
            {"videos": {"v": {"size": [8, 8], "frames": [[{"box": [0, 0, 2, 9], "points": [[1, 2]]}]]}}},
            "frame 0: there must be 18 points .x, y, depth., one for each name",
        ),
    ],
)
def test_faults_of_files_of_detections(tmp_path, change, message):
    content = {"format": "video-detections", "version": 1, "names": NAMES, "videos": {"v": {}}}
    file = tmp_path / "f.json"
    file.write_text(json.dumps({**content, **change}))
    with pytest.raises(UserError, match=message):
        read_detections(file)


def test_a_file_of_detections_with_a_byte_order_mark(tmp_path):
    video = {"size": [8, 8], "frames": [[{"box": [0, 0, 2, 9]}]]}
    content = {"format": "video-detections", "version": 1, "detector": "é", "videos": {"v": video}}
    (tmp_path / "f.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8-sig")
    detections = read_detections(tmp_path / "f.json")
    assert detections.detector == "é" and detections.videos["v"].frames[0][0].box == (0, 0, 2, 9)


@pytest.mark.parametrize("option", ["--clip-frames", "--max-frames"])
def test_lengths_are_checked_before_the_detection(movies, tmp_path, option):
    landmarks = tmp_path / "never-read.json"
    message = fail(movies, tmp_path / "out", "--faces", "--landmarks", landmarks, *OPTIONS, option, 2)
    assert message.endswith("2 frames are shorter than a clip: use at least nframes=4.")


def test_many_videos_take_no_set_of_all_of_them_for_each(movies, tmp_path, monkeypatch):
    built, counts = [], []
    monkeypatch.setattr(box_files, "set", lambda *items: built.append(items) or set(*items), raising=False)
    for names in (["a.mp4"], ["a.mp4", "b.mp4", "c.mp4"]):
        landmarks = write_landmarks(tmp_path / "landmarks.json", {name: of_head(FRAMES) for name in names})
        boxes = tmp_path / f"boxes{len(names)}.json"
        call(movies, "--faces", "--landmarks", landmarks, *OPTIONS[2:], "--faces-only", boxes)
        assert sorted(name for name, entry in json.loads(boxes.read_text()).items() if isinstance(entry, list)) == names
        counts.append(len(built))
        built.clear()
    assert counts[0] == counts[1]


def test_nothing_is_left_of_what_failed_at_once(movies, landmarks, tmp_path, monkeypatch):
    monkeypatch.setattr("training.dataset_tool.faces.detector.VENV_PYTHON", "/nowhere/python")
    before, out = os.listdir(tmp_path), tmp_path / "new" / "deep" / "out"
    monkeypatch.setattr(box_files, "_misfits", None)  # no frames are counted
    message = fail(movies, out, "--faces", "--landmarks", landmarks, *OPTIONS, "--min-face", 9999)
    assert message.startswith(
        "There are no clips of faces in 3 video(s), e.g. 'a.mp4': detections in 24 frames: 24 too"
    )
    assert fail(movies, out, "--faces").startswith("There is no detector: run `make faces`")
    assert fail(movies, "--faces", "--faces-only", out).startswith("There is no detector: run `make faces`")
    assert os.listdir(tmp_path) == before


def test_a_dataset_that_fails_leaves_no_boxes(movies, landmarks, tmp_path, monkeypatch):
    """Detections of MediaPipe are kept for the next call; those of a file are there already."""

    def full(**_):
        raise UserError("The disk is full.")

    before = os.listdir(tmp_path)
    monkeypatch.setattr("training.dataset_tool.__main__.prepare", full)
    out = tmp_path / "new" / "out"
    assert fail(movies, out, "--faces", "--landmarks", landmarks, *OPTIONS) == "The disk is full."
    assert os.listdir(tmp_path) == before


def test_there_must_be_clips(movies, tmp_path):
    small = write_landmarks(tmp_path / "small.json", {"a.mp4": of_head(FRAMES, side=6)})
    message = fail(movies / "a.mp4", tmp_path / "out", "--faces", "--landmarks", small, *OPTIONS)
    assert message.startswith(
        "There are no clips of faces in 1 video(s), e.g. 'a.mp4': detections in 24 frames: 24 too"
    )
    assert not (tmp_path / "out").exists() and not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    other = write_landmarks(tmp_path / "other.json", {"z.mp4": of_head(FRAMES)})
    assert "1 of 1 detections are for none of the videos" in fail(
        movies, tmp_path / "out", "--faces", "--landmarks", other, *OPTIONS
    )


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"size": [192, 160]}, "its frame 0 has 96×80 pixels, its detections are for 192×160"),
        ({"frames": [[]] * 12}, "it has 24 frames, its detections are for 12"),
        ({"frames": [[]] * 25}, "it has 24 frames, its detections are for 25"),
    ],
)
def test_detections_of_another_version_of_a_video(movies, tmp_path, change, reason):
    videos = {"a.mp4": of_head(FRAMES), "b.mp4": {**of_head(FRAMES), **change}}
    landmarks = write_landmarks(tmp_path / "landmarks.json", videos)
    command = (movies, tmp_path / "out", "--faces", "--landmarks", landmarks, *OPTIONS)
    assert fail(*command) == f"'{landmarks}' does not fit 'b.mp4': {reason}. Correct it, or use --skip-broken."
    assert f"left out b.mp4: {reason}" in call(*command, "--skip-broken")


def test_landmarks_of_a_video_in_a_zip_that_cannot_be_decoded(movies, tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a.mp4", (movies / "a.mp4").read_bytes()[:600])
    landmarks = write_landmarks(tmp_path / "landmarks.json", {"a.mp4": of_head(FRAMES)})
    command = (tmp_path / "set.zip", tmp_path / "out", "--faces", "--landmarks", landmarks, *OPTIONS)
    reason = rf"Cannot decode '{tmp_path}/set\.zip/a\.mp4' beyond frame 0 \(.*[^.]\)\."
    assert re.fullmatch(
        rf"'{landmarks}' does not fit 'a\.mp4': {reason} Correct it, or use --skip-broken\.", fail(*command)
    )
    assert re.fullmatch(
        rf"There are no clips of faces in 1 video\(s\), e\.g\. 'a\.mp4': {reason}", fail(*command, "--skip-broken")
    )


def test_detections_without_names_and_of_heads_for_people(movies, tmp_path):
    nameless = of_head(FRAMES)
    for frame in nameless["frames"]:
        frame[0]["points"] = []
    file = write_landmarks(tmp_path / "boxes.json", {"a.mp4": nameless}, names=[])
    text = call(movies / "a.mp4", tmp_path / "out", "--faces", "--landmarks", file, *OPTIONS, "--remove-roll")
    assert "no cameras, and --max-yaw and --remove-roll have no effect" in text
    assert not (tmp_path / "out" / "dataset.json").exists()
    heads = write_landmarks(tmp_path / "heads.json", {"a.mp4": of_head(FRAMES)})
    message = fail(movies / "a.mp4", tmp_path / "people", "--people", "--landmarks", heads, *OPTIONS)
    assert message == f"'{heads}' has landmarks of heads, not of people: use --faces."


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["S", "O", "--remove-roll"], "--remove-roll is about faces: add --faces, or leave it out."),
        (["S", "O", "--faces", "--people"], "--faces and --people are two detectors: give one of them."),
        (["S", "O", "--faces", "--boxes", "b.json"], "--boxes and --faces are two ways to choose the square"),
        (["S", "O", "--people", "--max-yaw", "1"], "--max-yaw is about faces and has no effect on --people"),
        (["S", "--faces"], "--faces and --people need a SOURCE, and either OUT or --faces-only FILE"),
        (["S", "O", "--faces", "--faces-only", "f"], "--faces and --people need a SOURCE, and either OUT"),
        (["S", "O", "--faces", "--landmarks", "l", "--face-model", "m"], "--face-model is about MediaPipe"),
        (
            ["S", "--faces", "--faces-only", "f", "--image", "jpg"],
            "--faces-only writes no dataset: --image has no effect",
        ),
        (["S", "O", "--histogram", "h.png"], "--histogram draws the cameras of a dataset: add --check DATASET"),
        (["--check", "D", "--faces"], "--check looks at a dataset and makes none: --faces has no effect there"),
    ],
)
def test_options_that_do_not_go_together(arguments, message):
    assert message in fail(*arguments)


def test_a_missing_detector_is_one_line(monkeypatch):
    monkeypatch.setattr("training.dataset_tool.faces.detector.VENV_PYTHON", "/nowhere/python")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"{name} 9")
    with pytest.raises(UserError, match="There is no detector: run `make faces`.*--landmarks FILE"):
        find_detector(kind="faces")
    with pytest.raises(UserError, match="--face-model: there is no file 'model.task'"):
        find_detector(kind="faces", model="model.task")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert find_detector(kind="faces") == {"kind": "faces", "model": None, "python": None, "version": "mediapipe 9"}
