"""Decoding of images of every kind, and the pixels of squares."""

import io
import os
import struct
import zlib

import numpy as np
import PIL
import pytest
from PIL import EpsImagePlugin, Image, ImageFile, ImageOps

from training.data.images import cut_square, decode_image, fit_square, image_size, to_rgb

# ----------------------------------------------------------------------------------------------------------------------
# Decoding


def png(depth, colour_type, row, transparent=None, colours=None):
    """A PNG of one row, with a transparent colour and a cICP chunk unless they are None; Pillow does not write them."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 2, 1, depth, colour_type, 0, 0, 0)
    parts = ((b"IHDR", header), (b"cICP", colours), (b"tRNS", transparent))
    parts += ((b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts if part[1] is not None)


@pytest.mark.parametrize(
    "data, second",
    [
        (png(2, 0, b"\xd0", struct.pack(">H", 3)), (85, 85, 85)),
        (png(4, 0, b"\x78", struct.pack(">H", 7)), (136, 136, 136)),
        (png(8, 0, b"\x78\x79", struct.pack(">H", 0x78)), (0x79,) * 3),
        (png(16, 0, b"\x78\x78\x79\x79", struct.pack(">H", 0x7878)), (0x79,) * 3),
        (png(8, 2, b"\1\2\3\4\5\6", struct.pack(">3H", 1, 2, 3)), (4, 5, 6)),
        (png(16, 2, b"\1\7\2\7\3\7\4\0\5\0\6\0", struct.pack(">3H", 0x107, 0x207, 0x307)), (4, 5, 6)),
    ],
)
def test_transparent_colours_are_black_in_every_depth(data, second):
    image = decode_image(data)
    assert [image.getpixel((x, 0)) for x in range(2)] == [(0, 0, 0), second]


def test_postscript_is_no_image(tmp_path, monkeypatch):
    """Pillow would run Ghostscript on it."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # it is looked for again
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(OSError) as error:
        decode_image(data)
    assert str(error.value) == "it is not an image in PNG, JPEG, WebP, BMP or TIFF format"
    with pytest.raises(OSError):
        image_size(data)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF"])
def test_images_are_recognised_by_their_content(kind):
    buffer = io.BytesIO()
    others = {"save_all": True, "append_images": [Image.new("RGB", (4, 4))]} if kind == "MPO" else {}  # a preview
    Image.new("RGB", (8, 6), (255, 255, 255)).save(buffer, kind, **others)
    assert decode_image(buffer.getvalue()).getpixel((4, 4)) == (255, 255, 255)
    assert image_size(buffer.getvalue()) == (8, 6)


def test_the_size_is_read_from_the_header_alone():
    buffer = io.BytesIO()
    Image.effect_noise((64, 48), 100).save(buffer, "PNG")
    assert image_size(buffer.getvalue()[:100]) == (64, 48)


def test_a_transparent_level_of_deep_gray():
    row = struct.pack(">HH", 65535, 257 * 9)
    assert np.asarray(decode_image(png(16, 0, row, None)))[0, :, 0].tolist() == [255, 9]
    assert np.asarray(decode_image(png(16, 0, row, b"\xff\xff")))[0, :, 0].tolist() == [0, 9]


@pytest.mark.parametrize("deep", [False, True])
def test_tiff_whose_zero_is_white(deep):
    buffer = io.BytesIO()
    values = np.array([[0, 90, 255]], dtype=np.uint16 if deep else np.uint8) * (257 if deep else 1)
    Image.fromarray(values).save(buffer, "TIFF")
    data = bytearray(buffer.getvalue())
    place = data.index(struct.pack("<HHIH", 0x0106, 3, 1, 1))  # the entry: black is zero
    data[place + 8] = 0
    assert [decode_image(bytes(data)).getpixel((x, 0))[0] for x in range(3)] == [255, 165, 0]


def tiff(bits, samples, data, **tag):
    """A TIFF of one row of two pixels, with tags (numbers of 16 bits) that Pillow does not write."""
    tags = {256: [2], 257: [1], 258: [bits] * samples, 259: [1], 262: [1], 277: [samples], 278: [1], 279: [len(data)]}
    tags |= dict(tag.values())
    end = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = {
        number: struct.pack("<HHI", number, 3, len(v)) + struct.pack("<HH", *(v + [0])[:2])
        for number, v in tags.items()
    }
    entries[273] = struct.pack("<HHII", 273, 4, 1, end)
    directory = struct.pack("<H", len(entries)) + b"".join(entries[number] for number in sorted(entries))
    return b"II*\0" + struct.pack("<I", 8) + directory + b"\0" * 4 + data


def test_tiff_of_12_bits():
    image = decode_image(tiff(12, 1, b"\xff\xf8\x00"))  # 4095 and 2048
    assert [image.getpixel((x, 0)) for x in range(2)] == [(255,) * 3, (128,) * 3]


@pytest.mark.parametrize("bits, data", [(8, b"\x7f\x40"), (16, struct.pack("<2h", 32767, 16384))])
def test_signed_values_are_refused(bits, data):
    with pytest.raises(OSError, match="signed values"):
        decode_image(tiff(bits, 1, data, sample_format=(339, [2])))


@pytest.mark.skipif(int(PIL.__version__.partition(".")[0]) < 13, reason="needs Pillow 13")
def test_tiff_of_grey_multiplied_by_its_alpha():
    image = decode_image(tiff(8, 2, b"\x80\x80\xff\xff", alpha=(338, [1])))
    assert [image.getpixel((x, 0)) for x in range(2)] == [(128,) * 3, (255,) * 3]


def test_photos_are_turned_upright():
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 6).repeat(3, 1).reshape(2, 6, 3))
    image.getexif()[0x0112] = 6  # the camera was held upright: rotate clockwise to see it so
    assert to_rgb(image).size == (2, 6)
    assert (np.asarray(to_rgb(image)) == np.rot90(np.asarray(image), -1)).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_damaged_exif_says_nothing_of_the_pixels(kind):
    image, buffers = Image.new("RGB", (6, 2), (9, 99, 199)), (io.BytesIO(), io.BytesIO())
    image.save(buffers[0], kind)
    image.save(buffers[1], kind, exif=b"junkjunkjunk")
    plain, damaged = (decode_image(buffer.getvalue()) for buffer in buffers)
    assert damaged.size == (6, 2) and np.array_equal(damaged, plain)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_a_damaged_entry_beside_the_orientation(kind):
    entries = struct.pack("<HHI4s HHI4s", 0x0112, 3, 1, b"\6\0\0\0", 0x011A, 2, 4, b"abc\0")  # XResolution as text
    exif = b"II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)
    buffer = io.BytesIO()
    Image.new("RGB", (6, 2), (9, 99, 199)).save(buffer, kind, exif=b"Exif\0\0" + exif)
    assert decode_image(buffer.getvalue()).size == (2, 6)


@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation(orientation):
    image = Image.fromarray(np.arange(36, dtype=np.uint8).reshape(2, 6, 3))
    image.getexif()[0x0112] = orientation
    assert np.array_equal(to_rgb(image), ImageOps.exif_transpose(image))


def test_jpegs_that_end_in_zeros():
    """As a failed copy leaves them: zeros decode as pixels of one colour. Those after a whole image do no harm."""
    noise = np.random.default_rng(0).integers(0, 256, [64, 64, 3], dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    assert np.array_equal(decode_image(whole + bytes(100)), decode_image(whole))
    for missing in (10, len(whole) // 2):
        with pytest.raises(OSError, match="its end consists of zeros: it was not copied completely"):
            decode_image(whole[:-missing] + bytes(missing))


@pytest.mark.parametrize("lossless", [False, True])
def test_webps_that_end_in_zeros(lossless):
    noise = np.random.default_rng(0).integers(0, 256, [64, 64, 3], dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "WEBP", lossless=lossless)
    whole = buffer.getvalue()
    assert decode_image(whole).size == (64, 64)
    with pytest.raises(OSError, match="its end consists of zeros: it was not copied completely"):
        decode_image(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))


def test_one_wrong_bit_in_a_png(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 40, [128, 128, 3], dtype=np.uint8)
    stream = io.BytesIO()
    monkeypatch.setattr(ImageFile, "MAXBLOCK", 4096)  # bytes of a chunk
    Image.fromarray(pixels).save(stream, "PNG", compress_level=3)
    data = stream.getvalue()
    assert data.count(b"IDAT") > 5 and np.array_equal(np.asarray(decode_image(data)), pixels)
    for position in range(data.index(b"IDAT") + 4, len(data) - 12, 50):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(OSError):
            decode_image(bytes(damaged))
    damaged[position] ^= 1 << position % 8
    damaged[-20] ^= 1  # the last bytes of the pixels: without the checksum they are wrong, and no more
    with pytest.raises(OSError) as error:
        decode_image(bytes(damaged))
    assert str(error.value) == "it is damaged or incomplete: its checksum differs"
    behind = struct.pack(">I4sI", 0, b"IDAT", 0)  # with a wrong checksum
    assert np.array_equal(np.asarray(decode_image(data + behind)), pixels)  # what follows the end is no part of it


@pytest.mark.parametrize("transfer, name", [(16, "PQ"), (18, "HLG"), (13, None)])
def test_hdr_images_are_refused(transfer, name):
    """ffmpeg marks frames of HDR videos so; colour profiles (ICC) may hold the same."""
    stream = io.BytesIO()
    profile = (
        b"desc" + bytes(124) + b"cicp" + struct.pack(">I", 144) + bytes(8) + b"cicp" + bytes([0, 0, 0, 0, 9, transfer])
    )
    Image.new("RGB", (8, 8), (200, 100, 50)).save(stream, "JPEG", icc_profile=profile + b"\0\1")
    marked = png(16, 2, struct.pack(">6H", *[0x8080] * 6), colours=bytes([9, transfer, 0, 1]))
    for data in (marked, stream.getvalue()):
        if name is None:
            assert decode_image(data).mode == "RGB"
            continue
        with pytest.raises(OSError) as error:
            decode_image(data)
        message = f"it is HDR ({name}): write it as SDR, or give the video that it was taken from"
        assert str(error.value) == message


# ----------------------------------------------------------------------------------------------------------------------
# Squares


@pytest.mark.parametrize("size", [(10, 6), (6, 11), (6, 6)])
def test_centre_square_is_cut_exactly(size):
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, [size[1], size[0], 3], dtype=np.uint8)
    left, top = (size[0] - 6) // 2, (size[1] - 6) // 2
    expected = pixels[top : top + 6, left : left + 6].transpose(2, 0, 1)
    assert (fit_square(Image.fromarray(pixels), 6) == expected).all()
    # What lies outside the square has no say in the reduced image either.
    painted = np.full_like(pixels, 255)
    painted[top : top + 6, left : left + 6] = 40
    assert (fit_square(Image.fromarray(painted), 3) == 40).all()


def test_enlarging_works():
    image = Image.fromarray(np.full([4, 4, 3], 77, dtype=np.uint8))
    assert fit_square(image, 16).shape == (3, 16, 16) and (fit_square(image, 16) == 77).all()


def test_reduction_does_not_alias():
    board = (np.indices([64, 64]).sum(0) % 2 * 255).astype(np.uint8)
    image = Image.fromarray(np.stack([board] * 3, -1))
    whole = (0, 0, 64)
    for square, resolution in ((whole, 32), (whole, 16), (whole, 20), ((0.5, 0.25, 60.0), 16)):
        inner = np.asarray(cut_square(image, square, resolution))[2:-2, 2:-2].astype(float)
        assert np.abs(inner - 127.5).max() < 6, (square, resolution)


def test_a_moving_square_is_cut_between_pixels():
    """A horizontal ramp keeps its values at the places between the pixels."""
    ramp = np.tile(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], (60, 1, 3))
    image = Image.fromarray(ramp)
    for left in (10.0, 10.25, 10.5):
        row = np.asarray(cut_square(image, (left, 5.5, 32.0), 16))[8, 2:-2, 0].astype(float)
        expected = 4 * (left + 2 * np.arange(16) + 0.5)[2:-2]
        assert np.abs(row - expected).max() <= 1
    pixels = np.random.default_rng(0).integers(0, 256, [8, 9, 3], dtype=np.uint8)
    exact = np.asarray(cut_square(Image.fromarray(pixels), (2, 1, 5), 5))
    assert (exact == pixels[1:6, 2:7]).all()


def test_a_turned_square_is_cut_upright():
    """What is turned clockwise and cut by a square that is turned likewise is as it was, but for resampling."""
    y, x = np.mgrid[:120, :160]
    waves = np.stack([127 + 100 * np.sin(x / 7 + k) * np.cos(y / 9) for k in range(3)], -1).astype(np.uint8)
    image, square = Image.fromarray(waves), (50, 30, 60)
    expected = np.asarray(cut_square(image, square, 24)).astype(float)
    for roll in (-0.8, 0.3, 1.5):
        turned = image.rotate(-np.degrees(roll), Image.Resampling.BICUBIC, center=(80, 60))
        found = np.asarray(cut_square(turned, square, 24, roll=roll)).astype(float)
        assert np.abs(found - expected).mean() < 1.5 < 20 < np.abs(cut_square(turned, square, 24) - expected).mean()
    enlarged = np.asarray(cut_square(turned, square, 90, roll=1.5)).astype(float)
    assert np.abs(enlarged - np.asarray(cut_square(image, square, 90)).astype(float)).mean() < 1.5
