"""Camera paths in JSON files: written files are read back, and errors are named."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from dnnlib import UserError
from renderer.cameras import CameraPrior
from renderer.trajectory_files import MAX_BYTES, PathCamera, path_cameras, read_camera_path, write_camera_path

GOOD = {"yaw": 0.1, "pitch": 1.5, "radius": 1, "fov": 18, "time": 0.5}


def file_of(tmp_path, content):
    path = tmp_path / "path.json"
    if isinstance(content, (dict, list)):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def of_cameras(*cameras, **changes):
    return {"format": "camera-path", "version": 1, "cameras": list(cameras)} | changes


def test_round_trip_is_exact(tmp_path):
    cameras = [PathCamera(yaw=-0.1 / 3, pitch=math.pi / 2, radius=1.0, fov=18.0, time=i / 7) for i in range(8)]
    write_camera_path(tmp_path / "a.json", cameras)
    assert read_camera_path(tmp_path / "a.json") == cameras


def test_the_file_is_the_documented_object(tmp_path):
    write_camera_path(tmp_path / "a.json", [PathCamera(yaw=0.25, pitch=1.5, radius=1.0, fov=18.0)])
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "format": "camera-path",
        "version": 1,
        "cameras": [{"yaw": 0.25, "pitch": 1.5, "radius": 1.0, "fov": 18.0, "time": None}],
    }


def test_numbers_of_numpy_are_numbers(tmp_path):
    path = [PathCamera(yaw=np.float32(0.25), pitch=np.float64(1.5), radius=np.int64(1), fov=18, time=np.float16(0.5))]
    write_camera_path(tmp_path / "a.json", path)
    assert read_camera_path(tmp_path / "a.json") == path == [PathCamera(0.25, 1.5, 1, 18, 0.5)]
    for value, shown in ((torch.tensor(0.1), '"tensor(0.1000)"'), ({0.1}, '"{0.1}"')):
        with pytest.raises(ValueError) as error:
            PathCamera(yaw=value, pitch=1.5, radius=1.0, fov=18.0)
        assert str(error.value) == f"yaw must be a number, not {shown}"


def test_time_may_be_left_out(tmp_path):
    entry = {name: value for name, value in GOOD.items() if name != "time"}
    assert read_camera_path(file_of(tmp_path, of_cameras(entry)))[0].time is None


def test_cameras_for_the_renderer_are_those_of_the_prior():
    path = [PathCamera(yaw=0.3, pitch=1.4, radius=1.0, fov=18.0), PathCamera(yaw=-0.3, pitch=1.7, radius=1.2, fov=20.0)]
    expected = CameraPrior().at_angles([0.3, -0.3], [1.4, 1.7], [1.0, 1.2], fov=[18.0, 20.0])
    assert torch.equal(path_cameras(path).cam2world, expected.cam2world)
    assert torch.equal(path_cameras(path).fov, expected.fov)


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        ("1" * 5000, "not valid JSON"),
        ([GOOD], "is not a camera path"),
        ({"cameras": [GOOD]}, "is not a camera path"),
        (of_cameras(GOOD, version=2), "has version 2"),
        (of_cameras(GOOD, cameras={}), '"cameras" must be a list'),
        (of_cameras(), "at least one camera"),
        (of_cameras(GOOD, 3), r"cameras\[1\]: an object with yaw, pitch, radius, fov and time is needed, not 3"),
        (of_cameras({"yaw": 0, "fov": 9}), r"cameras\[0\]: pitch, radius are missing"),
        (of_cameras(GOOD | {"roll": 0}), '"roll" is unknown'),
        (of_cameras(GOOD | {"yaw": "0.1"}), 'yaw must be a number, not "0.1"'),
        (of_cameras(GOOD | {"yaw": True}), "yaw must be a number, not true"),
        (of_cameras(GOOD | {"yaw": None}), "yaw must be a number, not null"),
        (of_cameras(GOOD | {"yaw": math.nan}), "yaw must be finite, not NaN"),
        (of_cameras(GOOD | {"yaw": 10**400}), "yaw must be finite, not 1000"),
        (of_cameras(GOOD | {"pitch": 0}), "pitch must lie between 0 and 3.1416, not 0"),
        (of_cameras(GOOD | {"pitch": 3.2}), "pitch must lie between 0 and 3.1416, not 3.2"),
        (of_cameras(GOOD | {"radius": -1}), "radius must be positive and finite, not -1"),
        (of_cameras(GOOD | {"radius": math.inf}), "radius must be positive and finite, not Infinity"),
        (of_cameras(GOOD | {"fov": 180}), "fov must lie between 0 and 180, not 180"),
        (of_cameras(GOOD | {"time": 1.5}), r"time must lie in \[0, 1\], not 1.5"),
        (of_cameras(GOOD | {"time": math.nan}), "time must be finite, not NaN"),
        (of_cameras(GOOD, GOOD | {"time": None}), r"cameras\[1\] has no time although others have one"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        read_camera_path(file_of(tmp_path, content))
    assert "path.json" in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="Cannot read the camera path .*none.json: No such file"):
        read_camera_path(tmp_path / "none.json")
    with pytest.raises(UserError, match="Cannot read the camera path .*: Is a directory"):
        read_camera_path(tmp_path)


def test_a_file_that_is_too_large_is_not_parsed(tmp_path):
    path = tmp_path / "big.json"
    with open(path, "wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(UserError, match="too large"):
        read_camera_path(path)


def test_nothing_is_written_for_cameras_that_do_not_go_together(tmp_path):
    good = PathCamera(**GOOD)
    for cameras in ([], [good, PathCamera(yaw=0.0, pitch=1.0, radius=1.0, fov=20.0)]):
        with pytest.raises(ValueError):
            write_camera_path(tmp_path / "a.json", cameras)
    with pytest.raises(ValueError, match="fov must lie between 0 and 180"):
        PathCamera(yaw=0.0, pitch=1.0, radius=1.0, fov=0.0)
    assert list(tmp_path.iterdir()) == []


def test_reading_needs_no_pytorch():
    code = "import renderer.trajectory_files, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
