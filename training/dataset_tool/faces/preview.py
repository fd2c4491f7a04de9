"""Contact sheet of clips: source frames with box, crop, landmarks and pose axes, above the crops themselves."""

import contextlib
import os
import tempfile

import numpy as np
from PIL import Image, ImageDraw

from dnnlib import atomic_write, temporary
from training.data.crops import Boxes, Clip, Crop
from training.data.images import cut_square
from training.data.names import listed_path
from training.dataset_tool.convert import source_frames
from training.dataset_tool.faces.clips import FaceClip, VideoClips, head_pose
from training.dataset_tool.faces.detections import Detections
from training.dataset_tool.faces.head_pose import CENTER, HeadPose, project
from training.dataset_tool.source_videos import Source, SourceSet
from training.dataset_tool.validate import evenly_spaced

__all__ = ["write_faces_preview"]

ROWS, COLUMNS = 6, 8
TILE = 160  # height of a source frame and side of a crop, in pixels
AXIS = 12.0  # length of a pose axis in centimetres
RED, GREEN, BLUE, YELLOW, WHITE = (255, 60, 60), (60, 220, 60), (80, 140, 255), (255, 220, 0), (255, 255, 255)


def write_faces_preview(
    file: str, *, among: SourceSet, detections: Detections, videos: dict[str, VideoClips], boxes: Boxes
) -> None:
    """Write a contact sheet of at most ROWS clips with COLUMNS frames each.

    In the source frames the head's box is yellow and the crop white, landmarks are green, and the axes of the head red
    (to the picture's right in frontal view), green (up) and blue (forward).
    """
    chosen = [
        (source, number)
        for source in among.sources
        for number in range(len(boxes.clips.get(listed_path(source.path), [])))
    ]
    chosen = [chosen[k] for k in evenly_spaced(range(len(chosen)), ROWS)]
    bands = []
    for source, number in chosen:
        path = listed_path(source.path)
        clip, face = boxes.clips[path][number], videos[path].clips[number]
        bands.append(_band(source, among, clip, face, detections, boxes))
    sheet = Image.new("RGB", (max(band.width for band in bands), sum(band.height for band in bands)))
    top = 0
    for band in bands:
        sheet.paste(band, (0, top))
        top += band.height
    with atomic_write(file) as stream:
        sheet.save(stream, format="PNG")


def draw_pose(draw: ImageDraw.ImageDraw, pose: HeadPose, scale: float) -> None:
    """Draw the axes of a head into an image of `scale` pixels per pixel of the frame."""
    axes = project(pose, CENTER + AXIS * np.eye(3)) * scale
    for end, color in zip(axes, (RED, GREEN, BLUE)):
        draw.line([tuple(np.array(pose.center) * scale), tuple(end)], fill=color, width=2)


def _band(
    source: Source, among: SourceSet, clip: Clip, face: FaceClip, detections: Detections, boxes: Boxes
) -> Image.Image:
    """Frames of a clip with drawings, above their crops."""
    numbers = evenly_spaced(range(clip.first, clip.stop), COLUMNS)
    plan = Crop(boxes=boxes).clip_plan(source.path, clip)
    video = detections.videos[listed_path(source.path)]
    scale = TILE / video.size[1]
    width = max(round(video.size[0] * scale), TILE)
    band = Image.new("RGB", (width * len(numbers), 2 * TILE))
    with temporary(tempfile.TemporaryDirectory) as folder:
        frames = source_frames(source, among=among, folder=folder, about={}, max_frames=clip.stop)
        with contextlib.closing(frames):
            for number, frame in enumerate(frames):
                if number not in numbers:
                    continue
                x = width * numbers.index(number)
                position = number - clip.first
                square, roll = plan.square(position, frame.size), plan.roll(position)
                tile = frame.resize((max(round(frame.width * scale), 1), TILE), Image.Resampling.LANCZOS)
                draw = ImageDraw.Draw(tile)
                for detection in video.frames[number]:
                    for point in detection.points if detection.points is not None else []:
                        px, py = point[:2] * scale
                        draw.rectangle((px - 1, py - 1, px + 1, py + 1), fill=GREEN)
                box = clip.boxes[min(position, len(clip.boxes) - 1)] * scale
                draw.rectangle(tuple(box), outline=YELLOW)
                draw.polygon([tuple(corner) for corner in _corners(square, roll) * scale], outline=WHITE)
                pose = head_pose(face, number)
                if pose is not None:
                    draw_pose(draw, pose, scale)
                    draw.text((3, 3), f"yaw {pose.yaw:.2f} pitch {pose.pitch:.2f} roll {pose.roll:.2f}", fill=WHITE)
                band.paste(tile, (x, 0))
                band.paste(cut_square(frame, square, TILE, roll=roll), (x + (width - TILE) // 2, TILE))
    ImageDraw.Draw(band).text((3, TILE + 3), f"{os.path.basename(source.path)}, frame {clip.first}", fill=WHITE)
    return band


def _corners(square: tuple[float, float, float], roll: float) -> np.ndarray:
    """Corners [4, 2] of a square that is turned clockwise about its centre."""
    left, top, side = square
    cos, sin = np.cos(roll), np.sin(roll)
    corners = side / 2 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    return corners @ np.array([[cos, sin], [-sin, cos]]) + [left + side / 2, top + side / 2]
