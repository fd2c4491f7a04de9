"""MediaPipe as a detector of faces and people; also a program: `.venv-faces/bin/python mediapipe_detector.py`.

MediaPipe 0.10.21 includes its models, but needs older versions of NumPy and Python than ours; later versions fit, but
need a model file. This file therefore imports nothing of this program: any Python with MediaPipe can run it as a
process, which reads frames from stdin and writes detections to stdout (see `serve`).

Faces are found in the whole frame by BlazeFace (full range, else short range), and the landmarks by Face Mesh
in a square around each face, so that small faces and several faces are treated alike. With a model file MediaPipe's
Face Landmarker does both. Frames are independent of each other.

Sources: Bazarevsky et al., BlazeFace, 2019 (arXiv 1907.05047); Kartynnik et al., Real-time facial surface geometry
from monocular video on mobile GPUs, 2019 (arXiv 1907.06724); Bazarevsky et al., BlazePose, 2020 (arXiv 2006.10204).
"""

import argparse
import json
import os
import sys

import numpy as np

# Landmarks on bones and cartilage, which expressions move little, by their index in MediaPipe's mesh. Left and right
# are those of the person. Their places in an average head are in training.dataset_tool.faces.head_pose.
LANDMARKS = {
    "forehead": 10,
    "forehead_right": 54,
    "forehead_left": 284,
    "glabella": 9,
    "nasion": 168,
    "nose_bridge": 6,
    "nose_tip": 4,
    "subnasale": 2,
    "nostril_right": 129,
    "nostril_left": 358,
    "eye_outer_right": 33,
    "eye_outer_left": 263,
    "eye_inner_right": 133,
    "eye_inner_left": 362,
    "temple_right": 127,
    "temple_left": 356,
    "ear_right": 234,
    "ear_left": 454,
}
MAX_FACES = 8  # in a frame
MARGIN = 2.0  # side of the square in which landmarks are looked for, per side of the face that was detected
MIN_SCORE = 0.5
VISIBLE = 0.5  # of a landmark of a body


class MediaPipeDetector:
    """Detections in single frames.

    Args:
        kind: 'faces' (with landmarks) or 'people' (boxes of bodies; MediaPipe finds one person in a frame).
        model: Path of a face_landmarker.task; None for the models in MediaPipe's package, which versions up to 0.10.21
            have.

    Raises:
        ImportError: There is no MediaPipe, or none with models although `model` is None.
    """

    def __init__(self, *, kind="faces", model=None):
        os.environ.setdefault("GLOG_minloglevel", "3")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import mediapipe

        self._mediapipe = mediapipe
        self.version = f"mediapipe {mediapipe.__version__}"
        self.names = list(LANDMARKS) if kind == "faces" else []
        if kind == "faces" and model is not None:
            self.detect = self._with_task
            self._open_task(model)
            return
        if not hasattr(mediapipe, "solutions"):
            raise ImportError(f"mediapipe {mediapipe.__version__} has no models in its package")
        solutions = mediapipe.solutions
        if kind == "people":
            self.detect = self._people
            self._pose = solutions.pose.Pose(static_image_mode=True, model_complexity=1)
            return
        self.detect = self._faces
        self._detectors = [
            solutions.face_detection.FaceDetection(model_selection=number, min_detection_confidence=MIN_SCORE)
            for number in (1, 0)
        ]
        self._mesh = solutions.face_mesh.FaceMesh(static_image_mode=True, max_num_faces=1)

    def _open_task(self, model):
        from mediapipe.tasks.python import BaseOptions, vision

        self._task = vision.FaceLandmarker.create_from_options(
            vision.FaceLandmarkerOptions(
                base_options=BaseOptions(model_asset_path=model),
                running_mode=vision.RunningMode.IMAGE,
                num_faces=MAX_FACES,
            )
        )

    def _with_task(self, frame):
        """Detections of a frame, uint8 [height, width, 3]: score, box and landmarks [x, y, depth] in pixels."""
        height, width = frame.shape[:2]
        image = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=frame)
        faces = self._task.detect(image).face_landmarks
        return [_face(1.0, _points(face, width, height)) for face in faces]

    def _faces(self, frame):
        height, width = frame.shape[:2]
        found = []
        for detector in self._detectors:
            found = detector.process(frame).detections or []
            if found:
                break
        faces = []
        for detection in found[:MAX_FACES]:
            box = detection.location_data.relative_bounding_box
            x, y = (box.xmin + box.width / 2) * width, (box.ymin + box.height / 2) * height
            side = max(round(max(box.width * width, box.height * height) * MARGIN), 2)
            left, top = round(x - side / 2), round(y - side / 2)
            patch = _patch(frame, left, top, side)
            landmarks = self._mesh.process(patch).multi_face_landmarks
            if landmarks:
                points = _points(landmarks[0].landmark, side, side) + [left, top, 0]
                faces.append(_face(float(detection.score[0]), points))
        return faces

    def _people(self, frame):
        landmarks = self._pose.process(frame).pose_landmarks
        if not landmarks:
            return []
        height, width = frame.shape[:2]
        visible = np.array([point.visibility for point in landmarks.landmark])
        points = _points(landmarks.landmark, width, height)[visible >= VISIBLE]
        if len(points) < 2:
            return []
        score = float(visible[visible >= VISIBLE].mean())
        return [{"score": round(score, 3), "box": _extent(points), "points": []}]


def _points(landmarks, width, height):
    # MediaPipe gives fractions of the frame's width and height; depth is in units of its width.
    return np.array([[point.x * width, point.y * height, point.z * width] for point in landmarks])


def _face(score, points):
    chosen = points[list(LANDMARKS.values())]
    return {"score": round(score, 3), "box": _extent(points), "points": chosen.round(2).tolist()}


def _extent(points):
    return [*points[:, :2].min(0).round(2).tolist(), *points[:, :2].max(0).round(2).tolist()]


def _patch(frame, left, top, side):
    """A square of the frame, black where it leaves it."""
    height, width = frame.shape[:2]
    patch = np.zeros([side, side, 3], np.uint8)
    x, y = slice(max(left, 0), min(left + side, width)), slice(max(top, 0), min(top + side, height))
    if x.start < x.stop and y.start < y.stop:
        patch[y.start - top : y.stop - top, x.start - left : x.stop - left] = frame[y, x]
    return patch


def serve(detector, source, sink):
    """Answer every frame in `source` with a line of JSON in `sink`.

    A frame is a line `width height` and its RGB pixels; the answer is the list of its detections. The first line in
    `sink`, before any frame, is {"version": …, "names": [of the landmarks]}.
    """

    def answer(content):
        sink.write(json.dumps(content).encode() + b"\n")
        sink.flush()

    answer({"version": detector.version, "names": detector.names})
    while header := source.readline():
        width, height = map(int, header.split())
        pixels = source.read(width * height * 3)
        if len(pixels) < width * height * 3:
            return
        answer(detector.detect(np.frombuffer(pixels, np.uint8).reshape(height, width, 3)))


def main():
    parser = argparse.ArgumentParser(description="Detections for frames on stdin; used by training.dataset_tool.")
    parser.add_argument("--kind", choices=["faces", "people"], default="faces")
    parser.add_argument("--model", help="face_landmarker.task")
    arguments = parser.parse_args()
    sink = os.fdopen(os.dup(1), "wb")  # MediaPipe's libraries may print: their output goes to stderr
    os.dup2(2, 1)
    serve(MediaPipeDetector(kind=arguments.kind, model=arguments.model), sys.stdin.buffer, sink)


if __name__ == "__main__":
    main()
