"""Crops of frames: rectangles, boxes, smoothing, and errors."""

import contextlib
import json
import math

import numpy as np
import pytest
from PIL import Image

from dnnlib import UserError
from training.data.annotations import angles_vector
from training.data.crops import Boxes, Clip, Crop, parse_rectangle, read_boxes, squares_from_boxes
from training.data.images import cut_square
from training.data.video_probe import BrokenVideo


def test_centre_and_rectangle():
    plan = Crop().plan("v")
    assert plan.square(0, (10, 6)) == (2, 0, 6) and plan.square(9, (7, 11)) == (0, 2, 7)
    plan = Crop(rectangle=(2, 1, 8, 4)).plan("v")
    assert plan.square(0, (10, 6)) == (4, 1, 4)
    with pytest.raises(BrokenVideo, match=r"2,1,8,4 is not inside the frames of 'v', which have 9×6 pixels"):
        plan.square(0, (9, 6))


def test_square_around_a_box():
    boxes = np.array([[40.0, 30, 60, 70]])
    assert squares_from_boxes(boxes, size=(100, 100)).tolist() == [[30, 30, 40]]
    assert squares_from_boxes(boxes, size=(100, 100), scale=1.5).tolist() == [[20, 20, 60]]
    assert squares_from_boxes(boxes, size=(100, 72), scale=1.5).tolist() == [[20, 12, 60]]  # moved inside
    assert squares_from_boxes(boxes, size=(100, 48), scale=1.5).tolist() == [[26, 0, 48]]  # and made smaller


def test_missing_boxes_are_interpolated():
    nothing = [np.nan] * 4
    boxes = np.array([nothing, [0, 0, 20, 20], nothing, nothing, [30, 60, 50, 80], nothing])
    squares = squares_from_boxes(boxes, size=(200, 200))
    assert squares.tolist() == [[0, 0, 20], [0, 0, 20], [10, 20, 20], [20, 40, 20], [30, 60, 20], [30, 60, 20]]


def test_smoothing_removes_trembling_and_keeps_motion():
    generator = np.random.default_rng(0)
    x = np.linspace(100, 300, 200)
    tremble = generator.normal(scale=4, size=200)
    boxes = np.stack([x + tremble - 20, x * 0 + 180, x + tremble + 20, x * 0 + 220], axis=1)
    centres = squares_from_boxes(boxes, size=(400, 400), smoothing=5) @ [1, 0, 0.5]
    assert np.abs(centres - x)[20:-20].max() < 4 < np.abs(tremble).max()  # deviation 4 / √(2σ√π) ≈ 0.95
    assert np.abs(np.diff(centres)).max() < 2 < np.abs(np.diff(x + tremble)).max()
    still = squares_from_boxes(np.tile(boxes[:1], (50, 1)), size=(400, 400), smoothing=5)
    assert np.abs(still - still[0]).max() < 1e-9


def test_squares_at_the_border_stay_inside():
    """Rounding must not push a square out of the frame, which Pillow refuses."""
    image = Image.new("RGB", (97, 61), (50, 50, 50))
    generator = np.random.default_rng(0)
    centres = generator.uniform([0, 0], [97, 61], [300, 2])
    boxes = np.concatenate([centres - 7.3, centres + 7.3], axis=1)
    for square in squares_from_boxes(boxes, size=image.size, scale=1.7, smoothing=0.4):
        assert (np.asarray(cut_square(image, tuple(square), 4)) == 50).all()


def test_one_box_or_one_per_frame(tmp_path):
    (tmp_path / "boxes.json").write_text(
        json.dumps({"a": [10, 10, 20, 20], "b": [[0, 0, 10, 10], None, [20, 0, 30, 10]]})
    )
    boxes = read_boxes(str(tmp_path / "boxes.json"), scale=1, smoothing=0)
    crop = Crop(boxes=boxes)
    assert [crop.plan("a").square(frame, (50, 50)) for frame in (0, 99)] == [(10, 10, 10)] * 2
    plan = crop.plan("b")
    assert [plan.square(frame, (50, 50))[0] for frame in range(3)] == [0, 10, 20]
    with pytest.raises(BrokenVideo, match="has 3 boxes for 'b', which has more frames"):
        plan.square(3, (50, 50))
    with pytest.raises(BrokenVideo, match="has none for 'c'"):
        crop.plan("c")
    assert crop.describe() == {"kind": "boxes", "sha256": boxes.digest, "scale": 1, "smoothing": 0}


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "Cannot read the boxes"),
        ("[]", "must hold an object of boxes by video"),
        ('{"a": [1, 2, 3]}', "box 0 of 'a' must be"),
        ('{"a": [[1, 2, 3, 4], [5, 6, 5, 8]]}', "box 1 of 'a' must be"),
        ('{"a": [1, 2, 3, NaN]}', "box 0 of 'a' must be"),
        ('{"a": [1, 2, ' + "9" * 400 + ", 4]}", "box 0 of 'a' must be"),
        ('{"a": "face"}', "box 0 of 'a' must be"),
        ('{"a": []}', "no box for 'a'"),
        ('{"a": [null, null]}', "no box for 'a'"),
        ('{"a": {"reason": "dark"}}', "must have boxes, or clips, or {"),
        ('{"a": [{"first": 0, "frames": 2}]}', "'a, clip 0' must have first, frames, box"),
        ('{"a": [{"frames": 2, "box": [0, 0, 1, 1], "yaw": 0}]}', "'yaw' is unknown"),
        ('{"a": [{"frames": 2.5, "box": [0, 0, 1, 1]}]}', "first and frames must be numbers of frames, got 0 and 2.5"),
        ('{"a": [{"frames": 2, "box": [0, 0, 0, 1]}]}', "box 0 of 'a, clip 0' must be"),
        (
            '{"a": [{"frames": 2, "box": [0, 0, 1, 1], "roll": [0, 0, 0]}]}',
            "roll must be one or 2, one per frame, got 3",
        ),
        ('{"a": [{"frames": 2, "box": [0, 0, 1, 1], "roll": "0"}]}', "roll must be numbers in radians, got 0"),
        ('{"a": [{"frames": 2, "box": [0, 0, 1, 1], "camera": [180, 90]}]}', "camera must be [yaw, pitch] in radians"),
        ('{"a": [{"frames": 2, "box": [0, 0, 1, 1], "roll": true}]}', "roll must be numbers in radians, got True"),
        ('{"a": [{"frames": 2, "box": [0, 0, 1, 1], "roll": NaN}]}', "roll must be numbers in radians, got nan"),
        ('{"a": [1, 2, 3, 4], "a": {"left_out": "dark"}}', "boxes for the video 'a' twice"),
        ('{"a": [{"frames": 2, "box": [0, 0, 1, 1]}], "./a": [1, 2, 3, 4]}', "boxes for the video 'a' twice"),
        ('{"a": {"left_out": "dark"}, "b": [1, 2, 3, 4], "a": [1, 2, 3, 4]}', "boxes for the video 'a' twice"),
    ],
)
def test_wrong_boxes(tmp_path, content, message):
    (tmp_path / "boxes.json").write_text(content)
    with pytest.raises(UserError) as error:
        read_boxes(str(tmp_path / "boxes.json"), scale=1, smoothing=0)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("angle, read", [(4 * math.pi, True), (12.567, False)])
def test_angles_up_to_two_turns(angle, read, tmp_path):
    clip = {"frames": 2, "box": [0, 0, 1, 1], "roll": angle, "camera": [-angle, angle]}
    (tmp_path / "boxes.json").write_text(json.dumps({"a": [clip]}))
    assert (angles_vector([-angle, angle]) is not None) == read
    with contextlib.nullcontext() if read else pytest.raises(UserError, match="roll must be numbers in radians"):
        (found,) = read_boxes(str(tmp_path / "boxes.json"), scale=1, smoothing=0).clips["a"]
        assert found.roll.tolist() == [angle] and found.cameras.tolist() == [[-angle, angle]]


def test_many_boxes_take_no_list_of_all_of_them_for_each(tmp_path, monkeypatch):
    (tmp_path / "boxes.json").write_text(json.dumps({str(number): [1, 2, 3, 4] for number in range(50)}))
    lists = []
    monkeypatch.setattr(Boxes, "paths", lambda boxes: lists.append(boxes) or [*boxes.by_path, *boxes.left_out])
    assert len(read_boxes(str(tmp_path / "boxes.json"), scale=1, smoothing=0).by_path) == 50
    assert len(lists) <= 1


def test_clips_with_boxes_of_their_own(tmp_path):
    clips = [
        {"first": 3, "frames": 2, "box": [10, 10, 20, 20], "roll": 0.25, "camera": [[0.1, 1.5], [0.3, 1.6]]},
        {"frames": 3, "box": [[0, 0, 10, 10], None, [20, 0, 30, 10]], "roll": [0, 0.5, 1.0]},
    ]
    (tmp_path / "boxes.json").write_text(json.dumps({"a": clips, "b": {"left_out": "dark"}, "c": [1, 2, 3, 4]}))
    boxes = read_boxes(str(tmp_path / "boxes.json"), scale=1, smoothing=0)
    crop = Crop(boxes=boxes)
    assert boxes.left_out == {"b": "dark"} and sorted(boxes.paths()) == ["a", "b", "c"]
    assert crop.clips_of("c") is None and crop.clips_of("d") is None
    first, second = crop.clips_of("a")
    assert (first.first, first.stop, second.first, second.stop) == (3, 5, 0, 3)
    plan = crop.clip_plan("a", first)
    assert plan.square(0, (50, 50)) == pytest.approx((10, 10, 10)) and plan.roll(1) == 0.25
    plan = crop.clip_plan("a", second)
    assert [plan.square(frame, (50, 50))[0] for frame in (0, 1)] == pytest.approx([0, 10])
    assert [plan.roll(frame) for frame in range(3)] == [0, 0.5, 1.0]
    assert first.camera_of(range(0, 2)) == pytest.approx([0.2, 1.55]) and second.camera_of(range(0, 2)) is None
    with pytest.raises(BrokenVideo, match="has clips, not boxes for 'a'"):
        crop.plan("a")


def test_the_camera_of_some_frames_is_their_median():
    cameras = np.array([[0.5, 1.0], [0.1, 1.5], [0.2, 1.6], [0.9, 1.7], [0.6, 1.0]])
    clip = Clip(first=0, frames=5, boxes=np.array([[1.0, 2, 3, 4]]), roll=np.zeros(1), cameras=cameras)
    assert clip.camera_of(range(1, 4)) == pytest.approx([0.2, 1.6])


def test_angles_that_jump_by_a_whole_turn():
    """Cameras behind the head, and a head upside down: 3.1 and -3.1 are alike, and 0 is opposite."""
    angles = (np.linspace(3.0, 3.4, 21) + math.pi) % (2 * math.pi) - math.pi
    cameras = np.stack([angles, np.full(21, 1.5)], axis=1)
    clip = Clip(first=0, frames=21, boxes=np.array([[10.0, 10, 20, 20]]), roll=angles, cameras=cameras)
    assert clip.camera_of(range(0, 21)) == pytest.approx([3.2, 1.5])
    boxes = Boxes(by_path={}, digest="", scale=1.0, smoothing=2.0)
    plan = Crop(boxes=boxes).clip_plan("a", clip)
    for frame in range(6, 15):  # farther from the ends than the smoothing reaches
        assert math.remainder(plan.roll(frame) - angles[frame], 2 * math.pi) == pytest.approx(0, abs=1e-3)


def test_the_roll_is_smoothed_as_the_squares_are():
    roll = np.zeros(31)
    roll[15] = 1
    clip = Clip(first=0, frames=31, boxes=np.tile([10.0, 10, 20, 20], (31, 1)), roll=roll, cameras=None)
    plan = Crop(boxes=Boxes(by_path={}, digest="", scale=1, smoothing=2)).clip_plan("a", clip)
    found = [plan.roll(frame) for frame in range(31)]
    assert sum(found) == pytest.approx(1, abs=1e-6)
    assert found[15] == pytest.approx(1 / (2 * np.sqrt(2 * np.pi)), rel=0.01)  # a Gaussian of deviation 2


def test_turned_squares_stay_inside():
    image = Image.new("RGB", (97, 61), (50, 50, 50))
    generator = np.random.default_rng(0)
    for x, y, roll in generator.uniform([0, 0, -3], [97, 61, 3], [100, 3]):
        boxes = np.array([[x - 15.0, y - 15, x + 15, y + 15]])
        (square,) = squares_from_boxes(boxes, size=image.size, scale=1.7, roll=np.array([roll]))
        assert np.abs(np.asarray(cut_square(image, tuple(square), 8, roll=roll)).astype(int) - 50).max() <= 1
        assert square[2] <= 51 + 1e-9 and square[2] >= 61 / 2**0.5 - 1e-9


def test_rectangles_are_parsed():
    assert parse_rectangle("100,0, 720,720") == (100, 0, 720, 720)
    for text in ("", "1,2,3", "1,2,3,4,5", "a,b,c,d", "-1,0,5,5", "0,0,0,5"):
        with pytest.raises(UserError, match="--crop"):
            parse_rectangle(text)


@pytest.mark.parametrize("box", [[100, 3, 130, 20], [3, 80, 20, 110], [-30, 3, 0, 20], [3, -30, 20, -1]])
def test_a_box_outside_of_the_frame_is_no_box(box):
    boxes = Boxes(by_path={"v": np.array([[1.0, 2, 5, 6], box])}, digest="", scale=1, smoothing=0)
    with pytest.raises(BrokenVideo, match="^Box 1 of 'v' lies outside of its frames, which have 100×80 pixels.$"):
        Crop(boxes=boxes).plan("v").square(0, (100, 80))


FRACTIONS = "^The boxes of 'v' look like fractions of its frames: multiply them by 100 and 80 to give them in pixels.$"


@pytest.mark.parametrize("rows", [[[0.3, 0.2, 0.6, 0.7]], [[0.3, 0.2, 0.6, 0.7], [np.nan] * 4, [0.5, -0.1, 1.02, 1]]])
def test_boxes_are_no_fractions_of_the_frame(rows):
    boxes = Boxes(by_path={"v": np.array(rows)}, digest="", scale=1, smoothing=0)
    with pytest.raises(BrokenVideo, match=FRACTIONS):
        Crop(boxes=boxes).plan("v").square(0, (100, 80))
    clip = Clip(first=0, frames=len(rows), boxes=np.array(rows), roll=np.zeros(1), cameras=None)
    with pytest.raises(BrokenVideo, match=FRACTIONS):
        Crop(boxes=boxes).clip_plan("v", clip).square(0, (100, 80))


@pytest.mark.parametrize("size", [(1, 1), (2, 2)])
def test_a_box_of_the_whole_of_a_tiny_frame(size):
    boxes = Boxes(by_path={"v": np.array([[0.0, 0, *size]])}, digest="", scale=1, smoothing=0)
    assert Crop(boxes=boxes).plan("v").square(0, size) == (0, 0, size[0])
