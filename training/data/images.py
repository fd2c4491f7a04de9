"""Decoding of images to 8-bit RGB, and squares that are cut out of them and resized."""

import io
import math
import os
import re
import struct
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

from training.data.names import MOVIE_SUFFIXES

__all__ = [
    "Square",
    "centre_square",
    "cut_square",
    "decode_image",
    "fit_square",
    "image_size",
    "is_image_file",
    "to_rgb",
]

ORIENTATION = 0x0112  # EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 0x0102, 0x0106, 0x0153  # TIFF
WHITE_IS_ZERO, SIGNED, FLOAT = 0, 2, 3
SCAN, END = b"\xff\xda", b"\xff\xd9"  # JPEG: start of the pixels, end of the image; pixels hold neither
HDR = {16: "PQ", 18: "HLG"}  # transfer functions of ITU-T H.273
HDR_PROFILE = re.compile(rb"cicp\0{4}.(?P<transfer>[\x10\x12])", re.DOTALL)  # ICC
MOST_ZEROS = 512  # bytes at the end of a WebP file; whole ones had up to 104

# Those of training.data.names, and GIF, which is often found under their suffixes. With Pillow's other formats a file
# could start a program (Ghostscript, for PostScript).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")

Square = tuple[float, float, float]  # left, top, side in pixels


def decode_image(data: bytes) -> Image.Image:
    """An encoded image as RGB with 8 bits; see to_rgb. Damaged data, HDR and several images raise an exception."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise OSError("it is not an image in PNG, JPEG, WebP, BMP or TIFF format") from error
    with image:
        count = getattr(image, "n_frames", 1)
        if count > 1 and image.format != "MPO":  # MPO: a camera's JPEG, whose other images are previews
            raise OSError(f"it holds {count} images: write them to files of their own")
        if image.format in ("JPEG", "MPO") and data.endswith(b"\0") and data.rfind(END) < data.rfind(SCAN):
            # Zeros, as a failed copy or a full disk leaves them, would decode to pixels of one colour.
            raise OSError("its end consists of zeros: it was not copied completely")
        if image.format == "WEBP" and data.endswith(bytes(MOST_ZEROS)):
            raise OSError("its end consists of zeros: it was not copied completely")
        if image.format == "PNG":
            _check_png(data)
        if (found := HDR_PROFILE.search(image.info.get("icc_profile") or b"")) is not None:
            _refuse_hdr(found["transfer"][0])
        return to_rgb(image)


def _check_png(data: bytes) -> None:
    """Compare the checksums of a PNG's pixels, which Pillow leaves out, and refuse HDR.

    Raises:
        OSError: It is damaged, or HDR.
    """
    view, start, kind = memoryview(data), 8, b""
    while start + 12 <= len(data) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 8 + length
        if kind == b"IDAT" and zlib.crc32(view[start + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise OSError("it is damaged or incomplete: its checksum differs")
        if kind == b"cICP":
            _refuse_hdr(data[start + 9])
        start = end + 4


def _refuse_hdr(transfer: int) -> None:
    if transfer in HDR:
        raise OSError(f"it is HDR ({HDR[transfer]}): write it as SDR, or give the video that it was taken from")


def is_image_file(path: str) -> bool:
    """True for a file that is an image; False for animations (GIF, PNG, WebP), for all other files, and for none.

    A file with a suffix of videos is none: a video of JPEGs begins as a JPEG does.
    """
    if not os.path.isfile(path) or path.lower().endswith(MOVIE_SUFFIXES):
        return False
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.format not in ("GIF", "PNG", "WEBP") or not image.is_animated
    except Exception:  # Pillow raises any exception for damaged headers
        return False


def image_size(data: bytes) -> tuple[int, int]:
    """(width, height) in pixels of an encoded image as it is stored, not turned upright, from its header alone.

    A damaged header raises an exception.
    """
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return image.size


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 for upright; also where the entries cannot be read, which says nothing of the pixels."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow raises any exception for damaged entries of PNG and WebP, none for those of JPEG
        return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """An image as 8-bit RGB: upright, transparent parts over black, 16 bits scaled (not clipped) to 8.

    Raises:
        OSError: Its values are floats, signed, or of more than 16 bits: which of them is white cannot be known.
    """
    stored = str(image.tile[0][3]) if image.format == "PNG" and image.tile else ""
    tags = image.tag_v2 if image.format == "TIFF" else {}
    bits = max(tags.get(BITS, (16,)))
    if bits > 16 and FLOAT not in tags.get(SAMPLE_FORMAT, ()):
        raise OSError("it holds values of more than 16 bits: write them as 8 or 16 bits")
    if SIGNED in tags.get(SAMPLE_FORMAT, ()):
        raise OSError("it holds signed values: write them as 8 or 16 bits without a sign")
    image.load()
    if stored in ("L;2", "L;4"):  # Pillow scales the pixels to 8 bits, but not the transparent level
        if "transparency" in image.info:
            image.info["transparency"] *= 85 if stored == "L;2" else 17
    elif stored == "RGB;16B" and "transparency" in image.info:
        image.info["transparency"] = tuple(value >> 8 for value in image.info["transparency"])
    turn = TURNS.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)  # ImageOps.exif_transpose would write all entries anew, damaged ones included
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise OSError("it holds floating-point values: write them as 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey
        values = np.asarray(image).astype(np.float64)
        if values.min() < 0 or values.max() > 65535:
            raise OSError("it holds values of more than 16 bits: write them as 8 or 16 bits")
        values[values == image.info.get("transparency", -1)] = 0  # the grey level of transparent pixels
        if bits == 12:
            values *= 65535 / 4095  # not scaled by Pillow
        if image.mode != "I" and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
            values = 65535 - values  # which Pillow does for 8 bits only
        image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.mode == "La":
        image = image.convert("LA")  # the only mode that Pillow converts it into
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("RGB")


def centre_square(width: int, height: int) -> tuple[int, int, int]:
    """The largest square in the middle of an image: left, top, side."""
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side


def fit_square(image: Image.Image, resolution: int, out: np.ndarray | None = None) -> np.ndarray:
    """The centre square of an image, resized with anti-aliasing; see cut_square.

    Args:
        image: RGB, any size.
        resolution: Pixels per side.
        out: Memory for the result, uint8 [3, resolution, resolution]; None: a new array.

    Returns:
        uint8 [3, resolution, resolution]
    """
    image = cut_square(image, centre_square(*image.size), resolution)
    if out is None:
        out = np.empty([3, resolution, resolution], dtype=np.uint8)
    for channel, band in zip(out, "RGB"):  # twice as fast as transposing the whole image
        channel[:] = np.frombuffer(image.tobytes("raw", band), dtype=np.uint8).reshape(resolution, resolution)
    return out


def cut_square(image: Image.Image, square: Square, resolution: int, *, roll: float = 0.0) -> Image.Image:
    """A square of an image, resized with anti-aliasing.

    Lanczos, whose support grows with the reduction factor. Area averaging would not alias either, but blurs more and
    weights pixels unevenly where the sizes do not divide.

    With a roll (radians) it is turned clockwise about its centre: resampled (bicubic) at its own size, then resized.

    A square with integer coordinates is cut out first, so that no pixels from outside affect it: resize(box=…) reads
    them. One that moves by fractions of a pixel is not, since rounding would make it jitter.
    """
    left, top, side = square
    if roll:
        return _cut_turned(image, square, resolution, roll)
    if all(float(value).is_integer() for value in square):
        if image.size != (side, side):
            image = image.crop((int(left), int(top), int(left + side), int(top + side)))
        return image if side == resolution else image.resize((resolution,) * 2, Image.Resampling.LANCZOS)
    right, bottom = min(left + side, image.width), min(top + side, image.height)  # sums may round up
    return image.resize((resolution,) * 2, Image.Resampling.LANCZOS, box=(left, top, right, bottom))


def _cut_turned(image: Image.Image, square: Square, resolution: int, roll: float) -> Image.Image:
    left, top, side = square
    size = max(round(side), resolution)  # enlarged at once
    # Pillow's affine transform maps a position (x, y) in the result to one in the image.
    cos, sin = (side / size * value for value in (math.cos(roll), math.sin(roll)))
    x = left + side / 2 - size / 2 * (cos - sin)
    y = top + side / 2 - size / 2 * (sin + cos)
    turned = image.transform((size,) * 2, Image.Transform.AFFINE, (cos, -sin, x, sin, cos, y), Image.Resampling.BICUBIC)
    return turned if size == resolution else turned.resize((resolution,) * 2, Image.Resampling.LANCZOS)
