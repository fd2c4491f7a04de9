"""Depth maps as 16-bit PNG files, with their scale in a JSON file beside them.

    depth = offset + scale · value,   value 0: no surface

    {"format": "depth-frames", "version": 1, "offset": …, "scale": …, "unit": "scene units along the viewing axis"}

Values 1 to 65535 cover the depth range of the rendered volume evenly, so that all frames of a model have one scale.
"""

import dataclasses
import io
import json
import math
import os

import numpy as np
import torch
from PIL import Image

from dnnlib import UserError, atomic_write, one_line

__all__ = ["SCALE_FILE", "DepthScale", "read_depth_png", "write_depth_png"]

SCALE_FILE = "depth.json"
FORMAT, VERSION = "depth-frames", 1
LARGEST = 65535


@dataclasses.dataclass(frozen=True)
class DepthScale:
    """depth = offset + scale · value, in scene units.

    Raises:
        ValueError: Not finite, or a scale that is not positive.
    """

    offset: float
    scale: float

    def __post_init__(self):
        if not (math.isfinite(self.offset) and math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"a depth scale is finite and positive, got offset {self.offset} and scale {self.scale}.")

    @classmethod
    def of_range(cls, near: float, far: float) -> "DepthScale":
        """The scale on which value 1 is `near` and the largest value is `far`."""
        scale = (far - near) / (LARGEST - 1)
        return cls(offset=near - scale, scale=scale)

    def range(self) -> tuple[float, float]:
        """The depths of the values 1 and 65535."""
        return self.offset + self.scale, self.offset + LARGEST * self.scale

    def encode(self, depth: torch.Tensor) -> np.ndarray:
        """Depths, NaN for no surface, to uint16 of the same shape, clamped to the range."""
        values = (depth.detach().cpu().double() - self.offset) / self.scale
        return values.round().clamp(1, LARGEST).nan_to_num(0).to(torch.int32).numpy().astype(np.uint16)

    def decode(self, values: np.ndarray) -> np.ndarray:
        """uint16 to depths in float64, NaN for no surface."""
        return np.where(values == 0, np.nan, self.offset + self.scale * values.astype(np.float64))

    def write(self, folder: str | os.PathLike) -> None:
        """Write it into a folder of depth maps; atomically."""
        content = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}
        with atomic_write(os.path.join(folder, SCALE_FILE), "w") as file:
            file.write(json.dumps(content | {"unit": "scene units along the viewing axis"}) + "\n")

    @classmethod
    def read(cls, folder: str | os.PathLike) -> "DepthScale":
        """The scale of the depth maps in a folder.

        Raises:
            UserError: The file is missing or does not hold a depth scale.
        """
        path = os.path.join(folder, SCALE_FILE)
        try:
            with open(path, "rb") as file:
                content = json.loads(file.read(1 << 16))
            if content["format"] != FORMAT or content["version"] != VERSION:
                raise ValueError("it has another format or version")
            return cls(offset=float(content["offset"]), scale=float(content["scale"]))
        except OSError as error:
            raise UserError(f"Cannot read the scale of the depth maps, {path}: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{path} does not hold the scale of depth maps: {one_line(error)}.") from error


def write_depth_png(depth: torch.Tensor, path: str | os.PathLike, scale: DepthScale) -> None:
    """Write a depth map [h, w] in scene units, NaN for no surface, as 16-bit grey PNG; atomically."""
    buffer = io.BytesIO()
    Image.fromarray(scale.encode(depth)).save(buffer, format="PNG")
    with atomic_write(path) as file:
        file.write(buffer.getvalue())


def read_depth_png(path: str | os.PathLike) -> np.ndarray:
    """Depths [h, w] in scene units, float64, NaN for no surface, of a PNG with its scale beside it.

    Raises:
        UserError: A file cannot be read, or is not a depth map.
    """
    scale = DepthScale.read(os.path.dirname(os.fspath(path)))
    try:
        with Image.open(path, formats=["PNG"]) as image:
            values = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"Cannot read the depth map {path}: {one_line(error)}.") from error
    if values.ndim != 2 or values.dtype.kind not in "iu" or values.dtype.itemsize < 2:
        raise UserError(f"{path} is not a depth map: a 16-bit grey PNG is needed.")
    return scale.decode(values)
