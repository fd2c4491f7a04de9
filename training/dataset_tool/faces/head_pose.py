"""Head pose by a rigid fit of landmarks to an average head, as the angles of a camera around it.

The fit is the least-squares similarity transform of Umeyama (1991), PAMI 13 (4), between landmarks with depth and the
same landmarks of the average head. Coordinates in this file: x to the right of the picture, y up, z towards the viewer.
A face of a photograph is small compared with its distance, so the projection is taken as scaled orthographic: the pose
is that relative to the viewing ray through the head, as that of a camera that looks at its centre.
"""

import dataclasses
import math

import numpy as np

__all__ = ["HEAD", "HeadPose", "fit_head", "head_rotation", "project"]

# Landmarks of an average head in centimetres, from the canonical face model of MediaPipe (mediapipe/modules/
# face_geometry/data/canonical_face_model.obj, Apache License 2.0), rounded to 0.1 mm. Left and right are those of the
# person, so the left side has positive x. Lips, brows, eyelids and chin are not among them: expressions move them.
HEAD = {
    "forehead": (0.0, 8.26, 4.48),
    "forehead_right": (-6.28, 6.62, 1.43),
    "forehead_left": (6.28, 6.62, 1.43),
    "glabella": (0.0, 4.89, 5.39),
    "nasion": (0.0, 3.27, 5.24),
    "nose_bridge": (0.0, 2.47, 5.79),
    "nose_tip": (0.0, -0.46, 7.59),
    "subnasale": (0.0, -2.09, 6.06),
    "nostril_right": (-1.79, -0.98, 4.85),
    "nostril_left": (1.79, -0.98, 4.85),
    "eye_outer_right": (-4.45, 2.66, 3.17),
    "eye_outer_left": (4.45, 2.66, 3.17),
    "eye_inner_right": (-1.86, 2.59, 3.76),
    "eye_inner_left": (1.86, 2.59, 3.76),
    "temple_right": (-7.74, 2.37, -2.01),
    "temple_left": (7.74, 2.37, -2.01),
    "ear_right": (-7.66, 0.67, -2.44),
    "ear_left": (7.66, 0.67, -2.44),
}
CENTER = np.array([0.0, 1.0, -2.5])  # of the head, on the axis through the ears: turning the head does not move it
# Side of the head's box in centimetres. A crop of 1.5 boxes is 0.315 m wide, about the 0.317 m that the published
# cameras (field of view 18 degrees) see at distance 1 if a unit of the scene is a metre.
BOX_SIDE = 21.0


@dataclasses.dataclass(frozen=True)
class HeadPose:
    """Pose of a head in a frame.

    Attributes:
        yaw, pitch: Of the camera around the head, in radians, as in `renderer.cameras`: yaw is 0 from the front and
            increases to the right of an observer, pitch is pi / 2 at the height of the head and 0 from above.
        roll: Angle in radians by which the head leans in the picture, clockwise.
        center: Centre (x, y) of the head in pixels of the frame, y down.
        side: Side of the head's box in pixels.
        residual: Root mean square distance of the landmarks from the fitted head, in centimetres.
    """

    yaw: float
    pitch: float
    roll: float
    center: tuple[float, float]
    side: float
    residual: float

    @property
    def box(self) -> list[float]:
        """Left, top, right, bottom of the square box around the head."""
        (x, y), half = self.center, self.side / 2
        return [x - half, y - half, x + half, y + half]


def head_rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Rotation [3, 3] from the head's axes to those of a camera at (yaw, pitch), whose picture leans by roll."""
    # Rows of a camera without roll are its axes as seen from the head: z from the head to the camera, x horizontal.
    z = np.array([math.sin(pitch) * math.sin(yaw), math.cos(pitch), math.sin(pitch) * math.cos(yaw)])
    x = np.array([math.cos(yaw), 0, -math.sin(yaw)])
    upright = np.stack([x, np.cross(z, x), z])
    cos, sin = math.cos(roll), math.sin(roll)
    return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) @ upright


def fit_head(points: np.ndarray, names: list[str]) -> HeadPose | None:
    """The pose of a head.

    Args:
        points: [k, 3] x and y in pixels (y down) and depth in pixels, which grows away from the camera.
        names: Names of the landmarks, keys of HEAD.

    Returns:
        None if the points do not determine a pose: they coincide, or lie on a line.
    """
    model = np.array([HEAD[name] for name in names])
    picture = points * [1, -1, -1]
    a, b = model - model.mean(0), picture - picture.mean(0)
    # Rotation, then scale, that take the model's points to the picture's (Umeyama's equations 40 to 42).
    u, spectrum, v = np.linalg.svd(b.T @ a)
    if not np.isfinite(spectrum).all() or spectrum[1] <= 1e-9 * max(spectrum[0], 1e-9):
        return None
    signs = np.array([1, 1, np.sign(np.linalg.det(u @ v))])
    rotation = u @ np.diag(signs) @ v
    scale = (spectrum * signs).sum() / (a * a).sum()
    if scale <= 0:
        return None
    residual = np.sqrt((((b - scale * a @ rotation.T) / scale) ** 2).sum(1).mean())
    center = picture.mean(0) + scale * rotation @ (CENTER - model.mean(0))
    # The camera's viewing axis in the head's coordinates is the last row; what is left of the rotation is roll.
    x, y, z = rotation[2]
    yaw, pitch = math.atan2(x, z), math.acos(min(max(y, -1.0), 1.0))
    left = rotation @ head_rotation(yaw, pitch, 0.0).T
    return HeadPose(
        yaw=yaw,
        pitch=pitch,
        roll=math.atan2(left[0, 1], left[0, 0]),
        center=(float(center[0]), float(-center[1])),
        side=float(scale * BOX_SIDE),
        residual=float(residual),
    )


def project(pose: HeadPose, points: np.ndarray) -> np.ndarray:
    """Pixels [k, 2], y down, of points [k, 3] of the head in centimetres."""
    rotation = head_rotation(pose.yaw, pitch=pose.pitch, roll=pose.roll)
    turned = (points - CENTER) @ rotation.T * (pose.side / BOX_SIDE)
    return np.array(pose.center) + turned[:, :2] * [1, -1]
