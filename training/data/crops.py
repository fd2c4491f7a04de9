"""Square crops of frames: the centre, a given rectangle, or squares that follow boxes (of a face, say).

A file of boxes is JSON: for each video its box [left, top, right, bottom] in pixels of the upright frame, or a list of
boxes, one per frame of the source video, with null where a detector found nothing:

    {"a/x.mp4": [310, 80, 470, 260], "a/y.mp4": [[300, 90, 460, 250], null, [304, 91, 462, 252]]}

A video may also have clips, each a range of its frames with boxes of its own, or a reason why it has none:

    {"b.mp4": [{"first": 120, "frames": 64, "box": [310, 80, 470, 260], "roll": 0.2, "camera": [-0.1, 1.5]}, …],
     "c.mp4": {"left_out": "no face in 250 frames"}}

A clip may have "fps": its frames are those of the video resampled to this rate.

`box`, `roll` and `camera` are one value for the clip, or a list with one per frame. `roll` is the angle in radians by
which the head leans clockwise; the square is turned by it. `camera` is [yaw, pitch] as in dataset.json. Both may be
missing.

A box becomes the square around its centre whose side is its longer side times a scale. Missing boxes are interpolated
in time (the nearest one is used at the ends); then centre, side and roll are smoothed by a Gaussian over time, because
detections jitter. A square that leaves the frame is moved inside, and made smaller where that is not enough.
"""

import dataclasses
import hashlib
import json
import math
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter1d

from dnnlib import UserError, is_number
from training.data.annotations import MAX_ANGLE
from training.data.images import Square, centre_square
from training.data.names import listed_path
from training.data.video_probe import BrokenVideo

__all__ = [
    "Boxes",
    "Clip",
    "Crop",
    "CropPlan",
    "OutsideRectangle",
    "UnfitBoxes",
    "are_fractions",
    "crop_words",
    "parse_rectangle",
    "read_boxes",
    "squares_from_boxes",
]


class OutsideRectangle(BrokenVideo):
    """A video whose frames do not hold the rectangle."""

    advice = "Give another --crop"


class UnfitBoxes(BrokenVideo):
    """A video that the file of boxes does not fit."""

    advice = "Correct the file of --boxes, remove the video"


@dataclasses.dataclass(frozen=True)
class Clip:
    """A range of a video's frames with boxes of its own; see the top of this file."""

    first: int
    frames: int
    boxes: np.ndarray  # float64 [1 or frames, 4]; missing boxes are NaN
    roll: np.ndarray  # float64 [1 or frames], radians
    cameras: np.ndarray | None  # float64 [1 or frames, 2], yaw and pitch in radians
    fps: float | None = None  # of the resampled video whose frames are counted; None for those of the file

    @property
    def stop(self) -> int:
        """The frame after its last."""
        return self.first + self.frames

    def camera_of(self, frames: range) -> list[float] | None:
        """The median camera [yaw, pitch] over some of its frames, which are counted from its first."""
        if self.cameras is None:
            return None
        chosen = self.cameras if len(self.cameras) == 1 else self.cameras[frames.start : frames.stop]
        # Behind a head yaw jumps by a whole turn, and the median of 3.1 and -3.1 would be the front.
        return np.median(np.unwrap(chosen, axis=0), axis=0).round(5).tolist()


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Boxes of all videos by path, either one per video or one per frame, or clips; missing boxes are NaN."""

    by_path: dict[str, np.ndarray]  # float64 [1 or frames, 4]
    digest: str  # SHA-256 of the file
    scale: float
    smoothing: float  # standard deviation in frames of the source video
    clips: dict[str, list[Clip]] = dataclasses.field(default_factory=dict)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)  # the reason

    def paths(self) -> list[str]:
        """All videos of the file."""
        return [*self.by_path, *self.clips, *self.left_out]


@dataclasses.dataclass(frozen=True)
class Crop:
    """The choice of a square: by boxes, by a rectangle, or else the centre square."""

    rectangle: tuple[int, int, int, int] | None = None  # left, top, width, height; its centre square is kept
    boxes: Boxes | None = None

    def describe(self) -> dict[str, Any]:
        """The entry of a manifest."""
        if self.boxes is not None:
            boxes = self.boxes
            return {"kind": "boxes", "sha256": boxes.digest, "scale": boxes.scale, "smoothing": boxes.smoothing}
        if self.rectangle is not None:
            return {"kind": "rectangle", "rectangle": list(self.rectangle)}
        return {"kind": "centre"}

    def plan(self, path: str) -> "CropPlan":
        """The squares of one video."""
        boxes = None
        if self.boxes is not None:
            boxes = self.boxes.by_path.get(listed_path(path))
            if boxes is None:
                listed = listed_path(path) in self.boxes.clips
                raise UnfitBoxes(f"The file of boxes has {'clips, not boxes' if listed else 'none'} for '{path}'.")
        return CropPlan(crop=self, path=path, boxes=boxes)

    def clips_of(self, path: str) -> list[Clip] | None:
        """The clips of a video; None if it is used as a whole."""
        return None if self.boxes is None else self.boxes.clips.get(listed_path(path))

    def clip_plan(self, path: str, clip: Clip) -> "CropPlan":
        """The squares of a clip, whose frames are counted from its first."""
        return CropPlan(crop=self, path=path, boxes=clip.boxes, roll=clip.roll)


def crop_words(entry: dict[str, Any]) -> str:
    """The entry of `Crop.describe` in words of the options."""
    if entry["kind"] == "boxes":
        scale, smoothing = entry["scale"], entry["smoothing"]
        return f"boxes {entry['sha256'][:8]}… --box-scale {scale:g} --box-smoothing {smoothing:g}"
    return f"--crop {','.join(map(str, entry['rectangle'])) if entry['kind'] == 'rectangle' else 'centre'}"


class CropPlan:
    """Squares of one video, computed when the first frame gives its size."""

    def __init__(self, *, crop: Crop, path: str, boxes: np.ndarray | None, roll: np.ndarray | None = None):
        self._crop, self._path, self._boxes = crop, path, boxes
        self._roll = roll
        if roll is not None and len(roll) > 1 and crop.boxes.smoothing > 0:
            self._roll = gaussian_filter1d(np.unwrap(roll), crop.boxes.smoothing, mode="nearest")
        self._squares: np.ndarray | None = None
        self._size: tuple[int, int] | None = None

    def square(self, frame: int, size: tuple[int, int]) -> Square:
        """The square of a frame of the source video.

        Raises:
            BrokenVideo: The rectangle or the boxes do not fit the video.
        """
        if self._boxes is not None:
            self._require_same(frame, size)
            if self._squares is None:
                self._require_inside(size)
                settings = self._crop.boxes
                self._squares = squares_from_boxes(
                    self._boxes, size=size, scale=settings.scale, smoothing=settings.smoothing, roll=self._roll
                )
            if len(self._squares) == 1:
                return tuple(self._squares[0])
            if frame >= len(self._squares):
                raise UnfitBoxes(
                    f"The file of boxes has {len(self._squares)} boxes for '{self._path}', which has more frames."
                )
            return tuple(self._squares[frame])
        left, top, width, height = self._crop.rectangle or (0, 0, *size)
        if left + width > size[0] or top + height > size[1]:
            raise OutsideRectangle(
                f"The rectangle {left},{top},{width},{height} is not inside the frames of '{self._path}', which have "
                f"{size[0]}×{size[1]} pixels."
            )
        if self._crop.rectangle is not None:
            self._require_same(frame, size)
        x, y, side = centre_square(width, height)
        return left + x, top + y, side

    def roll(self, frame: int) -> float:
        """The angle in radians by which the square of a frame is turned clockwise about its centre."""
        if self._roll is None:
            return 0.0
        return float(self._roll[0] if len(self._roll) == 1 else self._roll[frame])

    def _require_same(self, frame: int, size: tuple[int, int]) -> None:
        """Check that the frames have one size, since boxes and rectangles are in pixels."""
        self._size = self._size or size
        if size != self._size:
            raise BrokenVideo(
                f"Frame {frame} of '{self._path}' has {size[0]}×{size[1]} pixels, the first one {self._size[0]}×"
                f"{self._size[1]}: boxes and rectangles fit frames of one size only."
            )

    def _require_inside(self, size: tuple[int, int]) -> None:
        """Check that every box overlaps the frame, or it would be moved to a corner, and that boxes are in pixels."""
        outside = np.flatnonzero((self._boxes[:, :2] >= size).any(axis=1) | (self._boxes[:, 2:] <= 0).any(axis=1))
        if len(outside):
            raise UnfitBoxes(
                f"Box {outside[0]} of '{self._path}' lies outside of its frames, which have {size[0]}×{size[1]} pixels."
            )
        if are_fractions(self._boxes[:, 2:], size):
            raise UnfitBoxes(
                f"The boxes of '{self._path}' look like fractions of its frames: multiply them by {size[0]} and "
                f"{size[1]} to give them in pixels."
            )

    def check_length(self, frames: int) -> None:
        """Check the number of boxes at the end of a video of at most `frames` frames.

        Raises:
            BrokenVideo: There are boxes for more frames, so they belong to another version of the video.
        """
        if self._boxes is not None and len(self._boxes) > max(frames, 1):
            raise UnfitBoxes(
                f"The file of boxes has {len(self._boxes)} boxes for '{self._path}', which has no more than {frames} "
                "frame(s)."
            )


def are_fractions(points: np.ndarray, size: tuple[int, int]) -> bool:
    """True if positions [n, 2] look like fractions of a frame: none lies beyond the second pixel. NaN is left out."""
    return bool(np.nanmax(points) < 2 <= min(size))


def squares_from_boxes(
    boxes: np.ndarray,
    *,
    size: tuple[int, int],
    scale: float = 1.0,
    smoothing: float = 0.0,
    roll: np.ndarray | None = None,
) -> np.ndarray:
    """Squares that follow boxes; see the top of this file.

    Args:
        boxes: [n, 4] left, top, right, bottom; rows of NaN are missing boxes, at least one row is not.
        size: Width and height of the frames.
        scale: Side of the square as a multiple of the box's longer side.
        smoothing: Standard deviation of the Gaussian, in frames.
        roll: [1 or n] angles in radians by which the squares will be turned about their centres; None for none.

    Returns:
        float64 [n, 3] left, top, side (before they are turned); integers if n is 1.
    """
    known = np.flatnonzero(~np.isnan(boxes[:, 0]))
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    tracks = [(boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2, np.maximum(widths, heights) * scale]
    tracks = [np.interp(np.arange(len(boxes)), known, track[known]) for track in tracks]
    if smoothing > 0:
        tracks = [gaussian_filter1d(track, smoothing, mode="nearest") for track in tracks]
    x, y, side = tracks
    turned = roll is not None and bool(np.any(roll))
    # A square that is turned by an angle needs a larger upright one, by the sum of sine and cosine.
    reach = np.abs(np.cos(roll)) + np.abs(np.sin(roll)) if turned else 1.0
    side = np.minimum(side, min(size) / reach)
    room = side * (reach - 1) / 2  # on each side
    left = np.clip(x - side / 2, room, size[0] - side - room)
    squares = np.stack([left, np.clip(y - side / 2, room, size[1] - side - room), side], axis=1)
    if len(squares) == 1 and not turned:
        left, top, side = squares[0]
        side = max(1, math.floor(side))
        squares = np.array([[min(round(left), size[0] - side), min(round(top), size[1] - side), side]], dtype=float)
    return squares


# ----------------------------------------------------------------------------------------------------------------------
# User input


def parse_rectangle(text: str) -> tuple[int, int, int, int]:
    """'LEFT,TOP,WIDTH,HEIGHT' in pixels.

    Raises:
        UserError: The string has another form.
    """
    try:
        left, top, width, height = (int(part) for part in text.split(","))
    except ValueError:
        left = top = width = height = -1
    if left < 0 or top < 0 or width < 1 or height < 1:
        raise UserError(f"--crop {text}: write centre, or LEFT,TOP,WIDTH,HEIGHT in pixels, e.g. 100,0,720,720.")
    return left, top, width, height


def read_boxes(file: str, *, scale: float, smoothing: float) -> Boxes:
    """Read a file of boxes.

    Raises:
        UserError: It cannot be read, or an entry is not a box; the message names it.
    """
    try:
        with open(file, "rb") as stream:
            data = stream.read()
        outermost = json.loads(data, object_pairs_hook=_Pairs)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"Cannot read the boxes in '{file}': {error}.") from error
    if not isinstance(outermost, _Pairs) or not outermost:
        raise UserError(f"'{file}' must hold an object of boxes by video, e.g. {{\"a.mp4\": [310, 80, 470, 260]}}.")
    boxes = Boxes(by_path={}, digest=hashlib.sha256(data).hexdigest(), scale=scale, smoothing=smoothing)
    for path, entry in outermost:
        listed = listed_path(path)
        if any(listed in found for found in (boxes.by_path, boxes.clips, boxes.left_out)):
            raise UserError(f"'{file}' has boxes for the video '{listed}' twice; remove one entry.")
        if isinstance(entry, _Pairs):
            boxes.left_out[listed] = _to_reason(entry, path=path, file=file)
        elif isinstance(entry, list) and entry and isinstance(entry[0], _Pairs):
            boxes.clips[listed] = [
                _to_clip(clip, path=f"{path}, clip {number}", file=file) for number, clip in enumerate(entry)
            ]
        else:
            boxes.by_path[listed] = _to_boxes(entry, path=path, file=file)
    return boxes


class _Pairs(list):
    """(name, value) pairs of a JSON object: a dictionary would keep only the last of two equal names."""


def _to_boxes(entry: Any, *, path: str, file: str) -> np.ndarray:
    one = isinstance(entry, list) and len(entry) > 0 and not isinstance(entry[0], (list, type(None)))
    rows = []
    for number, box in enumerate([entry] if one else entry if isinstance(entry, list) else [entry]):
        if box is None:
            rows.append([math.nan] * 4)
            continue
        numbers = isinstance(box, list) and len(box) == 4 and all(map(is_number, box))
        if not numbers or box[0] >= box[2] or box[1] >= box[3]:
            raise UserError(
                f"'{file}': box {number} of '{path}' must be [left, top, right, bottom] with left < right and top < "
                f"bottom, got {str(box)[:60]}."
            )
        rows.append(box)
    boxes = np.array(rows, dtype=np.float64).reshape(-1, 4)
    if not len(boxes) or np.isnan(boxes).all():
        raise UserError(f"'{file}' has no box for '{path}': give one, or leave the video out of the source.")
    return boxes


def _to_reason(entry: _Pairs, *, path: str, file: str) -> str:
    reason = dict(entry).get("left_out")
    if not isinstance(reason, str):
        form = 'boxes, or clips, or {"left_out": reason}'
        raise UserError(f"'{file}' must have {form} for '{path}', got {str(dict(entry))[:60]}.")
    return reason


def _to_clip(entry: Any, *, path: str, file: str) -> Clip:
    where = f"'{file}': '{path}'"
    fields = dict(entry) if isinstance(entry, _Pairs) else {}
    unknown = [key for key in fields if key not in ("first", "frames", "box", "roll", "camera", "fps")]
    if unknown or "box" not in fields:
        wrong = f"'{unknown[0]}' is unknown" if unknown else "'box' is missing"
        raise UserError(f"{where} must have first, frames, box, and if you like roll, camera and fps: {wrong}.")
    first, frames, fps = fields.get("first", 0), fields.get("frames"), fields.get("fps")
    if type(first) is not int or type(frames) is not int or first < 0 or frames < 1:
        raise UserError(f"{where}: first and frames must be numbers of frames, got {first!r:.20} and {frames!r:.20}.")
    if fps is not None and not (is_number(fps) and fps > 0):
        raise UserError(f"{where}: fps must be a number of frames per second, got {fps!r:.20}.")
    clip = Clip(
        first=first,
        frames=frames,
        boxes=_to_boxes(fields["box"], path=path, file=file),
        roll=_to_track(fields.get("roll", 0.0), 0, name="roll", where=where),
        cameras=None if fields.get("camera") is None else _to_track(fields["camera"], 1, name="camera", where=where),
        fps=fps,
    )
    for name, values in (("box", clip.boxes), ("roll", clip.roll), ("camera", clip.cameras)):
        if values is not None and len(values) not in (1, frames):
            raise UserError(f"{where}: {name} must be one or {frames}, one per frame, got {len(values)}.")
    return clip


def _to_track(entry: Any, dimensions: int, *, name: str, where: str) -> np.ndarray:
    """Numbers (dimensions 0) or pairs of numbers (1), one or one per frame."""
    form = "numbers" if dimensions == 0 else "[yaw, pitch]"
    one = not isinstance(entry, list) or (dimensions == 1 and len(entry) > 0 and not isinstance(entry[0], list))
    rows = [entry] if one else entry
    flat = rows if dimensions == 0 else [x for row in rows if isinstance(row, list) and len(row) == 2 for x in row]
    if not len(flat) == len(rows) * (1 + dimensions) > 0 or not all(is_number(x, MAX_ANGLE) for x in flat):
        raise UserError(f"{where}: {name} must be {form} in radians, got {str(entry)[:60]}.")
    return np.array(rows, dtype=np.float64)
