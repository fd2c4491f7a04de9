"""Videos that are not as plain as most: alpha, frames of several sizes, recordings that begin anywhere."""

import io
import struct
import zlib

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dnnlib import UserError
from metrics.real_videos import StoredVideos
from tests.training.data.movies import run_ffmpeg
from training.data.crops import Crop, read_boxes
from training.data.frame_store import FrameStore, decode_image
from training.data.video_decoder import BrokenVideo, decode_video, probe_video
from training.dataset_tool.__main__ import main, prepare, read_manifest
from training.inversion.target_clip import read_clip

PACKET = 188  # bytes, of MPEG-TS


def finish(frames):
    """Frames as arrays, and what decode_video returns at the end."""
    found = []
    while True:
        try:
            found.append(np.asarray(next(frames)))
        except StopIteration as end:
            return found, end.value


# ----------------------------------------------------------------------------------------------------------------------
# Alpha

HALF = "color=white:s=16x16:r=5:d=0.8,format=rgba,geq=r=255:g=255:b=255:a='255*gte(X,8)'"  # white, left half hidden
WITH_ALPHA = {
    "png.mov": ["-c:v", "png", "-pix_fmt", "rgba"],
    "deep.mov": ["-c:v", "png", "-pix_fmt", "rgba64be"],
    "prores.mov": ["-c:v", "prores_ks", "-pix_fmt", "yuva444p10le"],
    "rle.mov": ["-c:v", "qtrle", "-pix_fmt", "argb"],
    "vp9.webm": ["-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p"],
    "vp8.webm": ["-c:v", "libvpx", "-auto-alt-ref", "0", "-pix_fmt", "yuva420p"],
    "gray.mkv": ["-c:v", "ffv1", "-pix_fmt", "ya8"],
}


@pytest.mark.parametrize("name", list(WITH_ALPHA))
def test_transparent_parts_are_black_for_every_reader(name, tmp_path):
    source = tmp_path / "movies"
    source.mkdir()
    run_ffmpeg("-f", "lavfi", "-i", HALF, *WITH_ALPHA[name], source / name)
    prepare(source=str(source), out=str(tmp_path / "out"), resolution=16, nframes=4)
    frames = np.stack([np.asarray(frame) for frame in decode_video(str(source / name))]).transpose(0, 3, 1, 2)
    measured = StoredVideos(source, resolution=16).clips(count=1, frames=4).load([0])[0].transpose(0, 1).numpy()
    stored = FrameStore(tmp_path / "out")
    written = np.stack([np.asarray(stored.read_frame(stored.videos[0], i)) for i in range(4)]).transpose(0, 3, 1, 2)
    inverted = read_clip(source / name, 16)
    for pixels in (frames, measured, written, inverted):
        assert pixels.shape == (4, 3, 16, 16) and np.array_equal(pixels, frames)
        assert pixels[..., :6].max() <= 8 and pixels[..., 10:].min() >= 247


def test_alpha_of_a_video_and_of_its_frames_agree_to_the_bit(tmp_path):
    levels = np.arange(256, dtype=np.uint8)
    pixels = np.stack([*np.broadcast_arrays(levels, 255 - levels, levels // 2, levels[:, None])], axis=-1)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    run_ffmpeg("-i", tmp_path / "0.png", "-c:v", "png", tmp_path / "a.mov")
    (frame,) = decode_video(str(tmp_path / "a.mov"))
    assert np.array_equal(np.asarray(frame), np.asarray(decode_image((tmp_path / "0.png").read_bytes())))
    opaque = np.broadcast_to(levels[:, None], (256, 256))
    Image.fromarray(np.stack([opaque] * 3, -1)).save(tmp_path / "1.png")
    run_ffmpeg("-i", tmp_path / "1.png", "-c:v", "png", tmp_path / "b.mov")
    (frame,) = decode_video(str(tmp_path / "b.mov"))
    assert np.array_equal(np.asarray(frame)[..., 0], opaque)


def test_alpha_that_comes_with_a_later_frame(tmp_path):
    pixels = np.full([16, 16, 4], 255, dtype=np.uint8)
    pixels[:, :8, 3] = 0
    images, stream = [Image.new("RGB", (16, 16), (90, 90, 90)), Image.fromarray(pixels)], io.BytesIO()
    for image in images:
        image.save(stream, "PNG")
    (tmp_path / "frames").write_bytes(stream.getvalue())
    run_ffmpeg("-f", "image2pipe", "-c:v", "png", "-i", tmp_path / "frames", "-c", "copy", tmp_path / "a.mov")
    first, second = decode_video(str(tmp_path / "a.mov"))
    assert (
        (np.asarray(first) == 90).all() and not np.asarray(second)[:, :8].any() and np.asarray(second)[0, 9, 0] == 255
    )


def test_transparent_gif(tmp_path):
    frames = []
    for frame in range(4):
        image = Image.new("P", (16, 16), 0)  # colour 0, white, is the transparent one
        image.putpalette([255, 255, 255, 10 * frame, 200, 0] + [0] * 750)
        image.paste(1, (8, 0, 16, 16))
        frames.append(image)
    options = dict(transparency=0, disposal=2, duration=100)
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], **options)
    decoded = [np.asarray(frame) for frame in decode_video(str(tmp_path / "a.gif"))]
    assert len(decoded) == 4 and not any(frame[:, :8].any() for frame in decoded)
    assert [frame[0, 12].tolist() for frame in decoded] == [[10 * i, 200, 0] for i in range(4)]


def test_a_transparent_level_of_deep_gray():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 0, 0, 0, 0))
    levels = chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">HH", 65535, 257 * 9)))
    start, end = b"\x89PNG\r\n\x1a\n" + header, levels + chunk(b"IEND", b"")
    assert np.asarray(decode_image(start + end))[0, :, 0].tolist() == [255, 9]
    assert np.asarray(decode_image(start + chunk(b"tRNS", b"\xff\xff") + end))[0, :, 0].tolist() == [0, 9]


# ----------------------------------------------------------------------------------------------------------------------
# Frames of several sizes


def record(path, *, size="128x96", seconds=1, pixel_format="yuv420p", codec=("libx264",), group=10):
    options = ["-c:v", *codec, "-g", group, "-pix_fmt", pixel_format]
    run_ffmpeg("-f", "lavfi", "-i", f"testsrc2=s={size}:r=20:d={seconds}", *options, path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def changing(tmp_path_factory):
    """20 frames of 128×96, then 20 of 96×128."""
    folder = tmp_path_factory.mktemp("changing")
    (folder / "parts").mkdir()
    parts = record(folder / "parts" / "a.ts"), record(folder / "parts" / "b.ts", size="96x128")
    (folder / "movies").mkdir()
    (folder / "movies" / "a.ts").write_bytes(parts[0] + parts[1])
    return folder / "movies"


def test_frames_of_another_size_end_a_video(changing, tmp_path):
    frames = decode_video(str(changing / "a.ts"))
    assert [next(frames).size for _ in range(20)] == [(128, 96)] * 20
    message = r"a\.ts' beyond frame 20 \(then come frames that are not 128×96 pixels large"
    with pytest.raises(BrokenVideo, match=message):
        next(frames)
    with pytest.raises(UserError, match=message):
        prepare(source=str(changing), out=str(tmp_path / "out"), resolution=8, nframes=4)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=message):
        StoredVideos(changing, resolution=8)
    with pytest.raises(UserError, match=f"--clip: .*{message}"):
        read_clip(changing / "a.ts", 8)


@pytest.mark.parametrize("stride, limit", [(1, 20), (3, 7), (1, 5), (3, 2)])
def test_frames_behind_those_that_are_wanted_do_not_count(changing, stride, limit):
    frames, warnings = finish(decode_video(str(changing / "a.ts"), stride=stride, limit=limit))
    assert len(frames) == limit and warnings == 0
    whole = finish(decode_video(str(changing.parent / "parts" / "a.ts"), stride=stride))[0]
    assert all(np.array_equal(frame, other) for frame, other in zip(frames, whole))
    with pytest.raises(BrokenVideo, match="not 128×96"):
        finish(decode_video(str(changing / "a.ts"), stride=stride, limit=20 // stride + 2))


def test_every_so_manieth_frame_of_a_video_whose_pixel_format_changes(tmp_path):
    """ffmpeg would begin its count anew at the change."""
    parts = [record(tmp_path / "a.ts", seconds=0.5), record(tmp_path / "b.ts", seconds=0.5, pixel_format="yuv444p")]
    (tmp_path / "c.ts").write_bytes(b"".join(parts))
    assert len(finish(decode_video(str(tmp_path / "c.ts")))[0]) == 20
    with pytest.raises(BrokenVideo, match="the pixel format changes on the way, where counting every 4th frame"):
        finish(decode_video(str(tmp_path / "c.ts"), stride=4))


@pytest.fixture
def folder_of_two_sizes(tmp_path):
    folder = tmp_path / "frames" / "v"
    folder.mkdir(parents=True)
    for frame in range(4):
        Image.new("RGB", (40, 20) if frame < 2 else (20, 40), (50 * frame,) * 3).save(folder / f"{frame}.png")
    return folder.parent


def test_boxes_and_rectangles_are_not_applied_to_frames_of_another_size(folder_of_two_sizes, tmp_path):
    (tmp_path / "boxes.json").write_text('{"v": [5, 5, 15, 15]}')
    boxes = read_boxes(str(tmp_path / "boxes.json"), scale=1, smoothing=0)
    for crop in (Crop(boxes=boxes), Crop(rectangle=(0, 0, 20, 20))):
        with pytest.raises(UserError, match=r"Frame 2 of 'v' has 20×40 pixels, the first one 40×20"):
            convert(folder_of_two_sizes, tmp_path / "out", crop=crop)
    convert(folder_of_two_sizes, tmp_path / "out")  # each frame's own centre
    stored = FrameStore(tmp_path / "out")
    assert [stored.read_frame(stored.videos[0], i).getpixel((0, 0))[0] for i in range(4)] == [0, 50, 100, 150]


def convert(source, out, **options):
    return prepare(source=str(source), out=str(out), **{"resolution": 8, "nframes": 4, **options})


# ----------------------------------------------------------------------------------------------------------------------
# Recordings that begin between key frames

CODECS = {
    "h264": ["libx264"],
    "h264-open": ["libx264", "-x264-params", "open-gop=1:bframes=3"],
    "mpeg2": ["mpeg2video", "-bf", "2"],
    "hevc": ["libx265", "-x265-params", "log-level=error"],
}


def cut_packets(data, start, stop=None):
    return data[start * PACKET : None if stop is None else stop * PACKET]


@pytest.mark.parametrize("codec", list(CODECS))
def test_a_start_between_key_frames_is_left_out(codec, tmp_path):
    data = record(tmp_path / "whole.ts", codec=CODECS[codec], seconds=3, group=20)
    whole = finish(decode_video(str(tmp_path / "whole.ts")))
    assert len(whole[0]) == 60 and whole[1] == 0
    source = tmp_path / "movies"
    source.mkdir()
    (source / "cut.ts").write_bytes(cut_packets(data, len(data) // PACKET // 5))
    frames, warnings = finish(decode_video(str(source / "cut.ts")))
    assert warnings > 0 and 35 <= len(frames) < 60
    assert all(np.array_equal(a, b) for a, b in zip(frames, whole[0][-len(frames) :]))
    result = CliRunner().invoke(main, [str(source), str(tmp_path / "out"), "--workers", "1"], catch_exceptions=False)
    assert (
        f"1 video(s) begin between two key frames: what precedes the first one is left out ({warnings} warning(s)"
        in (result.stderr)
    )
    assert read_manifest(tmp_path / "out")["warnings"] == [{"source": "cut.ts", "count": warnings}]
    (note,) = StoredVideos(source, resolution=8).notes
    assert f"({warnings} warning(s) of the decoder)" in note


@pytest.mark.parametrize("codec", ["h264", "h264-open", "mpeg2"])
def test_real_damage_is_no_such_start(codec, tmp_path):
    data = record(tmp_path / "whole.ts", codec=CODECS[codec], seconds=3, group=20)
    packets = len(data) // PACKET
    for start in (0, packets // 5):  # also behind a start that would be left out
        hole = cut_packets(data, start, packets // 2) + cut_packets(data, packets // 2 + 12)
        (tmp_path / "hole.ts").write_bytes(hole)
        with pytest.raises(BrokenVideo, match=r"Cannot decode '.*hole\.ts' beyond frame \d+ \(.+\)\.$"):
            finish(decode_video(str(tmp_path / "hole.ts")))


def test_a_damaged_first_key_frame_is_no_such_start(tmp_path):
    """Its frames are lost up to the next key frame, which the file does not admit."""
    record(tmp_path / "a.mp4", seconds=3, group=20)
    data = (tmp_path / "a.mp4").read_bytes()
    start = data.index(b"mdat") + 4
    (tmp_path / "a.mp4").write_bytes(data[:start] + bytes(3000) + data[start + 3000 :])
    with pytest.raises(BrokenVideo, match="Cannot decode"):
        finish(decode_video(str(tmp_path / "a.mp4")))


def test_inversion_tells_of_a_start_between_key_frames(tmp_path, capsys):
    data = record(tmp_path / "whole.ts", seconds=3, group=20)
    (tmp_path / "cut.ts").write_bytes(cut_packets(data, len(data) // PACKET // 5))
    assert read_clip(tmp_path / "cut.ts", 8).shape[0] == 40
    assert "--clip: 1 video(s) begin between two key frames" in capsys.readouterr().err


def test_probing_sees_that_a_file_has_changed(tmp_path):
    record(tmp_path / "a.mkv", seconds=0.2)
    assert probe_video(str(tmp_path / "a.mkv")).size == (128, 96)
    record(tmp_path / "a.mkv", seconds=0.2, size="64x32")
    assert probe_video(str(tmp_path / "a.mkv")).size == (64, 32)
