"""The real detector on the real clip; skipped without .venv-faces (make faces) or the clip (make demo-clip)."""

import os

import numpy as np
import pytest
from PIL import Image

from dnnlib import UserError
from dnnlib.downloads import cache_folder
from training.data.video_decoder import decode_video
from training.dataset_tool.demo_clip import fetch_clip
from training.dataset_tool.faces.detection_run import detect_video
from training.dataset_tool.faces.detections import parse_video
from training.dataset_tool.faces.detector import VENV_PYTHON, DetectorProcess
from training.dataset_tool.faces.head_pose import fit_head

pytestmark = pytest.mark.skipif(not os.path.exists(VENV_PYTHON), reason="no .venv-faces: make faces")
STEP = 8  # every n-th frame


@pytest.fixture(scope="module")
def detector():
    detector = DetectorProcess(python=VENV_PYTHON, kind="faces", model=None)
    yield detector
    detector.close()


@pytest.fixture(scope="module")
def frames():
    try:
        clip = fetch_clip(cache_folder())
    except UserError as error:
        pytest.skip(str(error))
    return list(decode_video(clip))[::STEP]


def angles(detector, images):
    """Yaw, pitch, roll and side of the head in each image."""
    video = detect_video(iter(images), detector, name="clip")
    parsed = parse_video(video, names=len(detector.names), where="clip")
    assert [len(frame) for frame in parsed.frames] == [1] * len(images)
    poses = [fit_head(frame[0].points, detector.names) for frame in parsed.frames]
    return np.array([[pose.yaw, pose.pitch, pose.roll, pose.side] for pose in poses])


def test_the_clip_mirrored_turned_and_scaled(detector, frames):
    before = angles(detector, frames)
    assert np.median(before, axis=0) == pytest.approx([-0.03, 1.72, -0.28, 70], abs=0.03, rel=0.02)
    mirrored = angles(detector, [frame.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for frame in frames])
    assert np.abs(np.median(mirrored * [-1, 1, -1, 1] - before, axis=0))[:3].max() < 0.03
    turned = angles(detector, [frame.rotate(-20, Image.Resampling.BICUBIC, expand=True) for frame in frames])
    assert np.abs(np.median(turned - before, axis=0) - [0, 0, np.radians(20), 0])[:3].max() < 0.03
    large = angles(detector, [frame.resize((frame.width * 2, frame.height * 2)) for frame in frames])
    assert np.abs(np.median(large - before, axis=0))[:3].max() < 0.02
    assert np.median(large[:, 3] / before[:, 3]) == pytest.approx(2, abs=0.03)


def test_frames_without_a_face(detector):
    assert detector.detect(np.zeros([100, 120, 3], np.uint8)) == []
    assert detector.detect(np.full([1, 1, 3], 255, np.uint8)) == []


def test_a_detector_that_ends_is_one_line():
    with pytest.raises(UserError, match="The detector has ended .*make faces"):
        DetectorProcess(python=VENV_PYTHON, kind="faces", model=__file__)
