"""Videos that are not as plain as most: uneven timing, HDR, interlaced, alpha, several sizes, a start anywhere."""

import dataclasses
import io
import math
import os
import struct
import zipfile
from fractions import Fraction

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from dnnlib import UserError, find_ffmpeg
from metrics.real_videos import StoredVideos
from renderer.video import VideoWriter, gif_bytes
from tests.training.data.movies import gray, run_ffmpeg, write_movie
from training.data.crops import Crop, read_boxes
from training.data.frame_store import FrameStore
from training.data.images import decode_image
from training.data.video_decoder import Remarks, decode_video, describe_remarks
from training.data.video_probe import BrokenVideo, UnfitRate, VideoInfo, probe_video
from training.dataset_tool.__main__ import main, notes, prepare, read_manifest
from training.inversion.target_clip import read_clip

PACKET, PACK = 188, 2048  # bytes, of MPEG-TS and of MPEG-PS


def finish(frames):
    """Frames as arrays, and what decode_video returns at the end."""
    found = []
    while True:
        try:
            found.append(np.asarray(next(frames)))
        except StopIteration as end:
            return found, end.value


# ----------------------------------------------------------------------------------------------------------------------
# Variable frame rates

# Of 20 frames at 10 per second; the gray value of a frame gives its time.
UNEVEN = {
    "drops": ("select='not(between(n,8,10)+eq(n,15))'", [*range(8), 7, 7, 11, *range(11, 15), 14, *range(16, 20)]),
    "slower": ("select='lt(n,14)+not(mod(n,3))'", [*range(14), 13, 15, 15, 18, 18]),
}  # fmt: skip


@pytest.fixture(scope="module")
def steady(tmp_path_factory):
    return write_movie(tmp_path_factory.mktemp("steady") / "a.mp4")


def numbers(frames):
    """Numbers of the frames of write_movie."""
    return [round((float(np.asarray(frame).mean()) - gray(0)) / (gray(1) - gray(0))) for frame in frames]


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_frames_of_a_variable_rate_become_evenly_spaced_for_every_reader(container, tmp_path, steady):
    source = tmp_path / "movies"
    source.mkdir()
    movie = source / f"a.{container}"
    run_ffmpeg("-i", steady, "-vf", UNEVEN["drops"][0], "-fps_mode", "vfr", "-c:v", "libx264", "-crf", "1", movie)
    frames, remarks = finish(decode_video(str(movie)))
    found, shown = numbers(frames), UNEVEN["drops"][1]
    assert len(found) == 20 and remarks.repeated == 4 and remarks.left_out == 0
    assert max(abs(number - time) for time, number in enumerate(found)) <= 2  # a gap of three frames
    assert found == shown
    assert probe_video(str(movie)).fps == pytest.approx(10)
    assert numbers(finish(decode_video(str(movie), stride=3, limit=5))[0]) == found[::3][:5]
    line = (
        "1 video(s) have a variable frame rate, or repeat frames: their frames were made evenly spaced in time (4 "
        "repeated, 0 left out)."
    )
    result = CliRunner().invoke(main, [str(source), str(tmp_path / "out"), "--workers", "1"], catch_exceptions=False)
    assert line in result.stderr
    manifest = read_manifest(tmp_path / "out")
    assert manifest["remarks"] == [{"source": movie.name, "repeated": 4}] and manifest["sources"][0]["fps"] == 10
    stored = FrameStore(tmp_path / "out")
    assert numbers(stored.read_frame(stored.videos[0], i) for i in range(20)) == found
    videos = StoredVideos(source, resolution=16)
    assert videos.notes == [f"'{source}': {line}"]
    measured = videos.clips(count=1, frames=20).load([0])[0].transpose(0, 1).numpy()
    assert numbers(measured) == found == numbers(read_clip(movie, 16))
    assert numbers(read_clip(movie, 16, frames=6, stride=2)) == found[:12:2]


def test_rates_that_change_and_pauses(tmp_path, steady, capsys):
    vf, shown = UNEVEN["slower"]
    run_ffmpeg("-i", steady, "-vf", vf, "-fps_mode", "vfr", "-c:v", "libx264", "-crf", "1", tmp_path / "slower.mp4")
    assert numbers(read_clip(tmp_path / "slower.mp4", 8)) == shown
    assert "--clip: 1 video(s) have a variable frame rate, or repeat frames: their" in capsys.readouterr().err
    # Fast bursts and one long pause: the pause is no motion, and would become thousands of frames.
    run_ffmpeg("-i", steady, "-vf", "setpts='(N+gte(N,10)*20000)/10/TB'", "-fps_mode", "vfr", tmp_path / "pause.mkv")
    frames, remarks = finish(decode_video(str(tmp_path / "pause.mkv")))
    assert len(frames) == 20 and remarks.untimed == "time stamps with long pauses"


@pytest.mark.parametrize("name, options", [
    ("rounded.mkv", ["-vf", "settb=1001/30000,setpts=N"]),  # to milliseconds
    ("rounded.gif", ["-vf", "settb=1/30,setpts=N"]),  # to hundredths of a second
    ("telecined.mp4", ["-vf", "settb=1/60,setpts='floor(N*2.5)'"]),  # 2 and 3 fields
    ("decoding-times.avi", ["-c:v", "mpeg4", "-bf", "2"]),
    ("hidden-frames.webm", ["-c:v", "libvpx", "-auto-alt-ref", "1", "-lag-in-frames", "10"]),
    ("fields.h264", ["-bf", "2"]),
])  # fmt: skip
def test_a_constant_rate_is_left_as_it_is(name, options, tmp_path, steady):
    run_ffmpeg("-i", steady, *options, "-fps_mode", "passthrough", "-enc_time_base", "filter", tmp_path / name)
    frames, remarks = finish(decode_video(str(tmp_path / name)))
    assert len(frames) == 20 and remarks == Remarks() and probe_video(str(tmp_path / name)).timing is None


def test_repeated_frames_of_theora(tmp_path):
    """They are empty packets, of which decoders show nothing. From frame 30 on every other one is: the rest is even."""
    level = "if(between(N,15,18),15,if(lt(N,30),N,N-mod(N,2)))"
    ramp = f"nullsrc=s=64x48:r=25:d=2,geq=lum='20+4*{level}':cb=128:cr=128"
    run_ffmpeg("-f", "lavfi", "-i", ramp, "-c:v", "libtheora", "-q:v", "9", tmp_path / "a.ogv")
    run_ffmpeg("-f", "lavfi", "-i", ramp, "-c:v", "ffv1", tmp_path / "truth.mkv")
    frames, remarks = finish(decode_video(str(tmp_path / "a.ogv")))
    truth = np.stack(finish(decode_video(str(tmp_path / "truth.mkv")))[0]).astype(int)
    assert len(frames) == 50 and np.abs(truth - frames).max() <= 3
    assert describe_remarks([remarks]) == [
        "1 video(s) have a variable frame rate, or repeat frames: their frames were made evenly spaced in time "
        f"({remarks.repeated} repeated, 0 left out)."
    ]
    assert 8 <= remarks.repeated <= 13 and probe_video(str(tmp_path / "a.ogv")).fps == 25  # key frames are not empty
    for _ in range(12):  # whose pictures may differ with several threads
        assert np.array_equal(finish(decode_video(str(tmp_path / "a.ogv"), threads=4))[0], frames)


RATES = {
    "clock.dv": ["-s", "720x576"],  # 60000 ticks per second
    "fields.gxf": ["-s", "720x576", "-c:v", "mpeg2video"],
    "none.ivf": ["-c:v", "libvpx"],
    "none.nut": [],
    "none.ogv": [],
    "plain.mp4": [],
}


def test_rates_that_ffmpeg_does_not_state(tmp_path):
    source = tmp_path / "videos"
    source.mkdir()
    for name, options in RATES.items():
        video = ["-f", "lavfi", "-i", "mandelbrot=s=64x48:r=25,trim=end_frame=12,format=yuv420p"]
        run_ffmpeg(*video, *options, source / name)
    assert {name: probe_video(str(source / name)).fps for name in RATES} == dict.fromkeys(RATES, 25)
    manifest = convert(source, tmp_path / "out")
    rates = [entry["fps"] for entry in manifest["sources"]]
    assert rates == [25] * 5  # .gxf is no suffix for which folders are searched
    assert not any("frames per second" in note for note in notes(manifest))


def test_a_rate_that_rounded_time_stamps_confirm(tmp_path):
    """Those of Matroska are in milliseconds."""
    run_ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x48:r=30000/1001,trim=end_frame=9", tmp_path / "ntsc.mkv")
    assert probe_video(str(tmp_path / "ntsc.mkv")).fps == pytest.approx(30000 / 1001, abs=1e-6)


def test_the_rate_of_fields_in_packets_of_their_own(tmp_path, monkeypatch):
    """As those of a camcorder's AVCHD."""
    run_ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.4,setfield=tff", "-c:v", "mpeg2video"),
        *("-flags", "+ildct+ilme", tmp_path / "a.mpg"),
    )
    stamps = np.stack([np.arange(20), np.arange(20), np.ones(20, dtype=int), np.ones(20, dtype=int)], axis=1)
    monkeypatch.setattr("training.data.video_probe.time_stamps", lambda *_, **__: (Fraction(1, 50), stamps))
    info = probe_video(str(tmp_path / "a.mpg"))
    assert info.interlaced and info.fps == 25


def test_the_rate_of_interlaced_frames_is_not_rounded(tmp_path):
    options = ["-c:v", "libx264", "-flags", "+ildct+ilme", tmp_path / "a.mp4"]
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=30000/1001:d=0.4,setfield=tff", *options)
    info = probe_video(str(tmp_path / "a.mp4"))
    assert info.interlaced and info.fps == pytest.approx(30000 / 1001, abs=1e-6)


# ----------------------------------------------------------------------------------------------------------------------
# Other frame rates


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    return write_movie(tmp_path_factory.mktemp("long") / "a.mp4", frames=45)


def at_rate(long, rate, file):
    """The 45 frames at another rate."""
    run_ffmpeg("-r", rate, "-i", long, "-fps_mode", "passthrough", "-c:v", "libx264", "-crf", "1", file)
    return str(file)


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts", "avi"])
@pytest.mark.parametrize("rate, fps", [
    ("60", "25"), ("30", "15"), ("30000/1001", "10"), ("50", "25/2"), ("24000/1001", "8"), ("60", "24000/1001"),
    ("48000/1001", "24000/1001"), ("100/3", "10"),
])  # fmt: skip
def test_frames_at_another_rate(rate, fps, container, tmp_path, long):
    movie = at_rate(long, rate, tmp_path / f"a.{container}")
    ratio = Fraction(rate) / Fraction(fps)
    shown = [math.floor(k * ratio) for k in range(math.ceil(45 / ratio))]
    frames, remarks = finish(decode_video(movie, fps=float(Fraction(fps))))
    assert numbers(frames) == shown
    assert remarks == Remarks(rate=pytest.approx(float(Fraction(rate)), abs=0.01))
    for stride, limit in ((1, 5), (3, None), (2, 4)):
        found = finish(decode_video(movie, fps=float(Fraction(fps)), stride=stride, limit=limit))[0]
        assert numbers(found) == shown[::stride][:limit]


@pytest.mark.parametrize("container", ["mp4", "mkv"])
@pytest.mark.parametrize("rate", ["24000/1001", "48000/1001", "50/3"])
def test_rates_of_more_than_two_decimals(rate, container, tmp_path, steady):
    """With 23.98 for 23.976 a frame of another time would be taken after four minutes."""
    movie = tmp_path / f"a.{container}"
    run_ffmpeg("-stream_loop", 9, "-r", rate, "-i", steady, "-fps_mode", "passthrough", "-c:v", "libx264", movie)
    assert probe_video(str(movie)).fps == pytest.approx(float(Fraction(rate)), abs=1e-6)


@pytest.mark.parametrize("container", ["mkv", "ts", "flv"])
def test_a_stated_rate_that_time_stamps_contradict(container, tmp_path, steady):
    """The clock of a camera may be slower than its rate says."""
    even, movie = tmp_path / "even.mkv", tmp_path / f"a.{container}"
    run_ffmpeg("-stream_loop", 9, "-r", 30, "-i", steady, "-fps_mode", "passthrough", "-c:v", "libx264", even)
    run_ffmpeg("-itsscale", 1.005, "-i", even, "-c", "copy", movie)
    assert probe_video(str(movie)).fps == pytest.approx(30 / 1.005, abs=0.001)


def test_frames_of_an_animated_image_at_another_rate(tmp_path, long):
    """Its time stamps are rounded to hundredths of a second."""
    palette = "split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=none"
    run_ffmpeg("-r", 30, "-i", long, "-vf", palette, "-fps_mode", "passthrough", tmp_path / "a.gif")
    assert numbers(finish(decode_video(str(tmp_path / "a.gif"), fps=15))[0]) == list(range(0, 45, 2))


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("fps", ["4", "25/4", "9"])
def test_frames_of_a_variable_rate_at_another_one(fps, container, tmp_path, steady):
    """A frame is shown until the next one: 20 frames at 10 per second, without 8, 9, 10 and 15."""
    movie = tmp_path / f"a.{container}"
    run_ffmpeg("-i", steady, "-vf", UNEVEN["drops"][0], "-fps_mode", "vfr", "-c:v", "libx264", "-crf", "1", movie)
    there = [frame for frame in range(20) if frame not in (8, 9, 10, 15)]
    moments = [math.floor(k * 10 / Fraction(fps)) for k in range(math.ceil(2 * Fraction(fps)))]
    shown = [max(frame for frame in there if frame <= moment) for moment in moments]
    frames, remarks = finish(decode_video(str(movie), fps=float(Fraction(fps))))
    assert numbers(frames) == shown
    repeated = len(shown) - len(set(shown))
    assert remarks == Remarks(repeated=repeated, left_out=16 - len(set(shown)), rate=pytest.approx(10, abs=0.01))
    pauses = f", {repeated} frames repeated where there are pauses" if repeated else ""
    (line,) = describe_remarks([dataclasses.replace(remarks, rate=10)])
    assert line == f"1 video(s) of 10 frames per second were resampled{pauses}."
    found = finish(decode_video(str(movie), fps=float(Fraction(fps)), stride=2, limit=3))[0]
    assert numbers(found) == shown[::2][:3]


def test_repeated_frames_of_theora_at_another_rate(tmp_path):
    ramp = "nullsrc=s=64x48:r=25:d=2,geq=lum='20+4*if(between(N,15,18),15,N)':cb=128:cr=128"
    run_ffmpeg("-f", "lavfi", "-i", ramp, "-c:v", "libtheora", "-q:v", "9", tmp_path / "a.ogv")
    assert probe_video(str(tmp_path / "a.ogv")).timing is not None
    every = finish(decode_video(str(tmp_path / "a.ogv")))[0]
    for fps in (10, 12):
        frames = finish(decode_video(str(tmp_path / "a.ogv"), fps=fps))[0]
        assert np.array_equal(frames, [every[25 * k // fps] for k in range(2 * fps)])


def test_interlaced_frames_at_another_rate(tmp_path):
    video = tmp_path / "a.mpg"
    run_ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.4,setfield=tff", "-c:v", "mpeg2video"),
        *("-flags", "+ildct+ilme", video),
    )
    halved, remarks = finish(decode_video(str(video), fps=12.5))
    assert np.array_equal(halved, finish(decode_video(str(video), stride=2))[0]) and len(halved) == 5
    assert remarks == Remarks(rate=25, deinterlaced=True)


@pytest.mark.parametrize("rate, fps", [("30000/1001", 30), ("30", 29.97), ("24000/1001", 24), ("60", 59.94)])
def test_rates_that_are_almost_equal_count_as_equal(rate, fps, tmp_path, long):
    frames, remarks = finish(decode_video(at_rate(long, rate, tmp_path / "a.mp4"), fps=fps))
    assert numbers(frames) == list(range(45)) and remarks == Remarks()


def test_frames_of_a_variable_rate_at_almost_the_same_one(tmp_path, steady):
    run_ffmpeg("-i", steady, "-vf", UNEVEN["drops"][0], "-fps_mode", "vfr", "-crf", "1", tmp_path / "a.mp4")
    frames, remarks = finish(decode_video(str(tmp_path / "a.mp4"), fps=10.05))
    assert numbers(frames) == UNEVEN["drops"][1] and remarks == Remarks(repeated=4)


def test_rates_that_cannot_be_had(tmp_path, steady):
    with pytest.raises(UnfitRate) as raised:
        next(decode_video(steady, fps=12))
    message = f"'{steady}' has 10 frames per second: for 12, frames between them would have to be invented."
    assert str(raised.value) == message
    for name in ("a.h264", "a.m2v", "a.mjpeg"):
        run_ffmpeg("-r", 25, "-i", steady, "-pix_fmt", "yuvj420p" if name == "a.mjpeg" else "yuv420p", tmp_path / name)
        with pytest.raises(UnfitRate) as raised:
            next(decode_video(str(tmp_path / name), fps=5))
        assert str(raised.value) == (
            f"The frame rate of '{tmp_path / name}' is unknown (no time stamps), so it cannot be changed to 5."
        )
    copied = str(tmp_path / "copied.mp4")  # whose time stamps have the units of the stream
    run_ffmpeg("-framerate", 25, "-i", tmp_path / "a.h264", "-c", "copy", copied)
    assert len(finish(decode_video(copied, fps=5))[0]) == math.ceil(20 * 5 / 25)
    pause = str(tmp_path / "pause.mkv")
    run_ffmpeg("-i", steady, "-vf", "setpts='(N+gte(N,10)*20000)/10/TB'", "-fps_mode", "vfr", pause)
    with pytest.raises(UnfitRate) as raised:
        next(decode_video(pause, fps=5))
    assert str(raised.value) == (
        f"The frame rate of '{pause}' is unknown (time stamps with long pauses), so it cannot be changed to 5."
    )


# ----------------------------------------------------------------------------------------------------------------------
# High dynamic range, fields and streams

HDR_LIGHT = {0: 0, 5: 54, 36: 124, 60: 153, 203: 217, 1000: 255}  # cd/m², and its level in SDR


def transfer_level(light, transfer):
    """Signal of gray light in cd/m² (ITU-R BT.2100), 0 to 1; HLG for a display of 1000 cd/m²."""
    if transfer == "smpte2084":
        power = (light / 10000) ** (2610 / 16384)
        return ((3424 + 2413 * 32 * power) / (4096 + 2392 * 32 * power)) ** (2523 / 32)
    scene = (light / 1000) ** (1 / 1.2)
    return np.sqrt(3 * scene) if scene <= 1 / 12 else 0.17883277 * np.log(12 * scene - 0.28466892) + 0.55991073


@pytest.mark.parametrize("transfer, name", [("smpte2084", "PQ"), ("arib-std-b67", "HLG")])
@pytest.mark.parametrize("tags", [":colorspace=bt2020nc:color_primaries=bt2020", ""])
def test_hdr_is_tone_mapped(transfer, name, tags, tmp_path):
    levels = [round(65535 * float(transfer_level(light, transfer))) for light in HDR_LIGHT]
    image = np.broadcast_to(np.repeat(np.uint16(levels), 8), (9, 8 * len(levels)))
    Image.fromarray(np.ascontiguousarray(image)).save(tmp_path / "0.png")
    options = f"format=yuv420p10le,crop=45:9:0:0:exact=1,setparams=color_trc={transfer}{tags}"
    run_ffmpeg("-i", tmp_path / "0.png", "-vf", options, "-c:v", "ffv1", tmp_path / "a.mkv")
    (frame,), remarks = finish(decode_video(str(tmp_path / "a.mkv")))
    assert frame.shape == (9, 45, 3) and remarks == Remarks(hdr=name)
    assert np.abs(frame[4, 4::8].astype(int) - np.array(list(HDR_LIGHT.values()))[:, None]).max() <= 3
    result = describe_remarks([remarks, Remarks()])
    assert result == [f"1 video(s) are HDR ({name}) and were tone-mapped to SDR."]


def test_colours_of_hlg(tmp_path):
    """The system gamma of HLG applies to luminance; on each colour it would make this skin too red."""
    light = np.array([0.6, 0.2, 0.1]) * 203
    wide = light @ np.array([[0.6274, 0.0691, 0.0164], [0.3293, 0.9195, 0.0880], [0.0433, 0.0114, 0.8956]])
    gamma = (wide @ [0.2627, 0.6780, 0.0593] / 1000) ** (1 / 1.2 - 1)
    signal = [transfer_level(1000 * (value / 1000 * gamma) ** 1.2, "arib-std-b67") for value in wide]
    channels = ":".join(f"{name}={round(65535 * x)}" for name, x in zip("rgb", signal))
    options = f"format=gbrp16le,geq={channels},setparams=color_trc=arib-std-b67:color_primaries=bt2020"
    run_ffmpeg("-f", "lavfi", "-i", "color=s=16x16:d=0.1:r=10", "-vf", options, "-c:v", "ffv1", tmp_path / "a.mkv")
    frame = np.asarray(next(decode_video(str(tmp_path / "a.mkv"))))
    assert frame[8, 8] == pytest.approx([194, 123, 92], abs=2)  # light / 203, compressed above 0.3, as BT.1886


def test_hdr_without_the_filters(tmp_path, monkeypatch):
    options = "format=yuv420p10le,setparams=color_trc=smpte2084"
    run_ffmpeg("-f", "lavfi", "-i", "color=s=16x16:d=0.2:r=10", "-vf", options, "-c:v", "ffv1", tmp_path / "a.mkv")
    monkeypatch.setattr("training.data.video_decoder.TONE_MAPPED", "missing_filter")
    message = r"it is HDR, PQ, and this ffmpeg cannot tone-map it: use that of imageio-ffmpeg, or convert it\)"
    with pytest.raises(BrokenVideo, match=message):
        list(decode_video(str(tmp_path / "a.mkv")))


def test_dolby_vision_without_a_base_layer(tmp_path):
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=0.3", "-c:v", "libx264", tmp_path / "a.mp4")
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    record = bytes([1, 0, 5 << 1, 1 << 3 | 0b101, 0]) + bytes(19)  # profile 5, compatible with nothing
    position, end = 0, len(data)
    parents = []
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        while data[position + 4 : position + 8] != name:
            position += int.from_bytes(data[position : position + 4], "big")
        parents.append(position)
        end = position + int.from_bytes(data[position : position + 4], "big")
        position += 16 if name == b"stsd" else 8
    box = struct.pack(">I4s", 8 + len(record), b"dvcC") + record
    for position in parents:
        data[position : position + 4] = struct.pack(
            ">I", int.from_bytes(data[position : position + 4], "big") + len(box)
        )
    data[end:end] = box
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(BrokenVideo, match="its colours are in Dolby Vision without a base layer in HDR10 or HLG"):
        list(decode_video(str(tmp_path / "a.mp4")))


@pytest.mark.parametrize("field", ["tff", "bff"])
def test_interlaced_frames_are_those_of_their_first_field(field, tmp_path):
    """A bar that moves from field to field, without combs."""
    moving = "color=black:s=96x64:r=50:d=0.4,format=yuv420p,geq=lum='255*between(X-2*N,10,29)':cb=128:cr=128"
    interlaced = f"{moving},interlace=lowpass=off:scan={field}"
    run_ffmpeg("-f", "lavfi", "-i", interlaced, "-c:v", "ffv1", tmp_path / "a.mkv")
    run_ffmpeg("-f", "lavfi", "-i", f"{moving},fps=25:round=up", "-c:v", "ffv1", tmp_path / "truth.mkv")
    frames, remarks = finish(decode_video(str(tmp_path / "a.mkv")))
    truth, none = finish(decode_video(str(tmp_path / "truth.mkv")))
    assert remarks == Remarks(deinterlaced=True) and none == Remarks() and len(frames) == len(truth) == 10
    assert np.abs(np.stack(frames[1:-1]).astype(int) - truth[1:-1]).mean() < 2
    assert np.array_equal(finish(decode_video(str(tmp_path / "a.mkv"), stride=3))[0], frames[::3])


@pytest.fixture(scope="module")
def interlaced(tmp_path_factory):
    """A bar that moves from field to field."""
    path = tmp_path_factory.mktemp("interlaced") / "a.mp4"
    moving = "color=black:s=96x64:r=50:d=0.4,format=yuv420p,geq=lum='255*between(X-2*N,10,29)*gt(Y,9)':cb=128:cr=128"
    coding = ["-c:v", "libx264", "-qp", 0, "-flags", "+ildct+ilme"]
    run_ffmpeg("-f", "lavfi", "-i", f"{moving},interlace=lowpass=off:scan=tff", *coding, path)
    return path


@pytest.mark.parametrize(
    "options, turned",
    [
        (["-display_rotation", 90], lambda frame: np.rot90(frame)),
        (["-display_rotation", 180], lambda frame: np.rot90(frame, 2)),
        (["-display_rotation", 270], lambda frame: np.rot90(frame, 3)),
        (["-display_hflip"], lambda frame: frame[:, ::-1]),
        (["-display_vflip"], lambda frame: frame[::-1]),
        (["-display_rotation", 90, "-display_hflip"], None),
        (["-display_rotation", 270, "-display_hflip"], None),
    ],
)
def test_interlaced_frames_are_rotated_after_deinterlacing(options, turned, interlaced, tmp_path):
    run_ffmpeg(*options, "-i", interlaced, "-c", "copy", tmp_path / "a.mp4")
    frames, remarks = finish(decode_video(str(tmp_path / "a.mp4")))
    upright, _ = finish(decode_video(str(interlaced)))
    if turned is None:  # as ffmpeg rotates progressive frames
        run_ffmpeg("-i", interlaced, "-vf", "bwdif=mode=send_frame", "-c:v", "libx264", "-qp", 0, tmp_path / "b.mp4")
        run_ffmpeg(*options, "-i", tmp_path / "b.mp4", "-c", "copy", tmp_path / "c.mp4")
        upright, _ = finish(decode_video(str(tmp_path / "c.mp4")))
    expected = upright if turned is None else [turned(frame) for frame in upright]
    assert remarks == Remarks(deinterlaced=True) and len(upright) == 10
    assert np.array_equal(frames, expected)


def test_interlaced_frames_at_an_odd_angle(interlaced, tmp_path):
    run_ffmpeg("-display_rotation", 45, "-i", interlaced, "-c", "copy", tmp_path / "a.mp4")
    with pytest.raises(BrokenVideo) as caught:
        list(decode_video(str(tmp_path / "a.mp4")))
    assert str(caught.value) == (
        f"Cannot decode '{tmp_path}/a.mp4': it is interlaced, and its metadata rotate it by an angle that is no "
        "quarter turn, or cannot be read; deinterlace it first."
    )


def test_an_odd_rotation_is_no_second_stream(tmp_path, steady):
    """ffmpeg's message about it ends without a line break, and its description of the output follows."""
    run_ffmpeg("-display_rotation", 45, "-i", steady, "-c", "copy", tmp_path / "a.mp4")
    frames, remarks = finish(decode_video(str(tmp_path / "a.mp4")))
    assert len(frames) == 20 and remarks == Remarks()


def test_the_first_of_several_video_streams(tmp_path, steady):
    small = ["-f", "lavfi", "-i", "color=red:s=16x16:r=10:d=1"]
    run_ffmpeg("-i", steady, *small, "-map", "0", "-map", "1", "-c:v", "ffv1", tmp_path / "a.mkv")
    frames, remarks = finish(decode_video(str(tmp_path / "a.mkv")))
    assert frames[0].shape == (32, 48, 3) and remarks == Remarks(more_streams=True)
    assert describe_remarks([remarks] * 2) == ["2 video(s) hold several video streams: the first one is used."]
    Image.new("RGB", (64, 64)).save(tmp_path / "cover.png")
    cover = ["-i", tmp_path / "cover.png", "-map", "1", "-map", "0", "-c", "copy", "-disposition:v:0", "attached_pic"]
    run_ffmpeg("-i", steady, *cover, tmp_path / "cover.mp4")
    frames, remarks = finish(decode_video(str(tmp_path / "cover.mp4")))
    assert len(frames) == 20 and frames[0].shape == (32, 48, 3) and remarks == Remarks()


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


@pytest.mark.parametrize("name", ["a.avi", "a.mkv"])
def test_the_fourth_byte_of_an_uncompressed_windows_video_is_no_alpha(name, tmp_path):
    levels = np.full([4, 2, 16, 4], (30, 20, 10, 0), dtype=np.uint8)  # blue, green, red, unused
    levels[1:, ..., :3] += np.array([100, 150, 200], dtype=np.uint8)[:, None, None, None]
    (tmp_path / "pixels").write_bytes(levels.tobytes())
    raw = ("-f", "rawvideo", "-pix_fmt", "bgra", "-s", "16x2", "-r", "5", "-i", tmp_path / "pixels")
    avi = ("-c:v", "rawvideo", "-pix_fmt", "bgra", "-vtag", "0")
    run_ffmpeg(*raw, *avi, *(("-allow_raw_vfw", "1") if name == "a.mkv" else ()), tmp_path / name)
    frames, _ = finish(decode_video(str(tmp_path / name)))
    assert np.array_equal(frames, levels[..., 2::-1])
    run_ffmpeg(*raw, "-c:v", "ffv1", "-pix_fmt", "bgra", tmp_path / "alpha.mkv")
    assert not np.any(finish(decode_video(str(tmp_path / "alpha.mkv")))[0])


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
    message = r"a\.ts' beyond frame 20 \(the frames after it are not 128×96 pixels"
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
    frames, remarks = finish(decode_video(str(changing / "a.ts"), stride=stride, limit=limit))
    assert len(frames) == limit and remarks == Remarks()
    whole = finish(decode_video(str(changing.parent / "parts" / "a.ts"), stride=stride))[0]
    assert all(np.array_equal(frame, other) for frame, other in zip(frames, whole))
    with pytest.raises(BrokenVideo, match="not 128×96"):
        finish(decode_video(str(changing / "a.ts"), stride=stride, limit=20 // stride + 2))


def test_every_so_manieth_frame_of_a_video_whose_pixel_format_changes(tmp_path):
    """ffmpeg would begin its count anew at the change."""
    parts = [record(tmp_path / "a.ts", seconds=0.5), record(tmp_path / "b.ts", seconds=0.5, pixel_format="yuv444p")]
    (tmp_path / "c.ts").write_bytes(b"".join(parts))
    assert len(finish(decode_video(str(tmp_path / "c.ts")))[0]) == 20
    with pytest.raises(BrokenVideo, match="the pixel format changes, which would restart the count for a stride of 4"):
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
    assert len(whole[0]) == 60 and whole[1] == Remarks()
    source = tmp_path / "movies"
    source.mkdir()
    (source / "cut.ts").write_bytes(cut_packets(data, len(data) // PACKET // 5))
    frames, remarks = finish(decode_video(str(source / "cut.ts")))
    warnings = remarks.warnings
    assert warnings > 0 and 35 <= len(frames) < 60
    assert all(np.array_equal(a, b) for a, b in zip(frames, whole[0][-len(frames) :]))
    result = CliRunner().invoke(main, [str(source), str(tmp_path / "out"), "--workers", "1"], catch_exceptions=False)
    assert (
        f"1 video(s) begin between two key frames: what precedes the first one is left out ({warnings} warning(s)"
        in (result.stderr)
    )
    assert read_manifest(tmp_path / "out")["remarks"] == [{"source": "cut.ts", "warnings": warnings}]
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


@pytest.mark.parametrize("sound", ["mp2", "libmp3lame"])
def test_sound_that_begins_within_its_frame_is_no_damage(sound, tmp_path):
    """ffmpeg's first message is about the sound, which it decodes while it probes the file."""
    sine = ("-f", "lavfi", "-i", "sine=f=440:r=48000:d=4", "-c:a", sound, "-b:a", "128k")
    picture = ("-f", "lavfi", "-i", "testsrc2=s=320x240:r=25:d=4")
    options = ("-c:v", "mpeg2video", "-g", "12", "-bf", "2", "-q:v", "3", "-f", "vob")
    run_ffmpeg(*picture, *sine, *options, tmp_path / "whole.mpg")
    data = (tmp_path / "whole.mpg").read_bytes()
    whole = finish(decode_video(str(tmp_path / "whole.mpg")))[0]
    starts = [at for at in range(PACK, len(data), PACK) if b"\0\0\1\xb3" in data[at : at + PACK]]  # sequence headers
    for start, cut_off in ((starts[2], False), (starts[2] + 4 * PACK, True)):
        (tmp_path / "cut.mpg").write_bytes(data[start:])
        frames, remarks = finish(decode_video(str(tmp_path / "cut.mpg")))
        assert 40 <= len(frames) < 80 and np.array_equal(frames, whole[-len(frames) :])
        assert remarks == Remarks(warnings=remarks.warnings) and (remarks.warnings > 0) == cut_off
    hole = data[starts[2] : starts[4]] + data[starts[4] + 6 * PACK :]
    (tmp_path / "hole.mpg").write_bytes(hole)
    with pytest.raises(BrokenVideo, match=r"Cannot decode '.*hole\.mpg' beyond frame \d+ \(\[mpeg2video\] .+\)\.$"):
        finish(decode_video(str(tmp_path / "hole.mpg")))


def test_inversion_tells_of_a_start_between_key_frames(tmp_path, capsys):
    data = record(tmp_path / "whole.ts", seconds=3, group=20)
    (tmp_path / "cut.ts").write_bytes(cut_packets(data, len(data) // PACKET // 5))
    assert read_clip(tmp_path / "cut.ts", 8).shape[0] == 40
    assert "--clip: 1 video(s) begin between two key frames" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------------------
# JPEGs


def test_a_jpeg_with_several_pictures_is_one_frame(tmp_path):
    """As a camera writes it: the others are previews, or those of another eye. ffmpeg splits it."""
    for size in ((64, 48), (640, 480)):
        noise = np.random.default_rng(0).integers(0, 100, [*size[::-1], 3], dtype=np.uint8)
        first, other = Image.fromarray(noise), Image.fromarray(noise + 100)
        for name in ("a.jpg", "a.MPO", "a.jfif", "a.jpe", "a.png", "a"):
            first.save(tmp_path / name, "MPO", save_all=True, append_images=[other])
            clip = read_clip(tmp_path / name, 16)
            assert len(clip) == 1 and clip.mean() == pytest.approx(noise.mean(), abs=2)


@pytest.mark.parametrize("size", ["64x48", "640x480"])
def test_a_video_of_jpegs(size, tmp_path):
    source = tmp_path / "videos"
    source.mkdir()
    run_ffmpeg("-f", "lavfi", "-i", f"testsrc2=s={size}:r=25:d=0.4", "-q:v", "2", source / "a.mjpeg")
    os.link(source / "a.mjpeg", source / "b.mjpg")
    assert [len(read_clip(path, 16)) for path in sorted(source.iterdir())] == [10, 10]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in source.iterdir():
            archive.write(path, path.name)
    for number, videos in enumerate((source, tmp_path / "set.zip")):
        convert(videos, tmp_path / f"out{number}")
        assert [len(video) for video in FrameStore(tmp_path / f"out{number}").videos] == [10, 10]


def test_a_truncated_jpeg_has_no_start_between_key_frames(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, [48, 64, 3], dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    cut = whole[: len(whole) // 2]
    (tmp_path / "cut.jpg").write_bytes(cut)
    with pytest.raises(
        UserError, match=r"^--clip: Cannot read the image '.*cut\.jpg' \(.*truncated.*\): replace it\.$"
    ):
        read_clip(tmp_path / "cut.jpg", 16)
    (tmp_path / "first.mjpeg").write_bytes(cut + 3 * whole)
    with pytest.raises(BrokenVideo, match=r"Cannot decode '.*first\.mjpeg' beyond frame 4 \(.+\)\.$"):
        finish(decode_video(str(tmp_path / "first.mjpeg")))
    (tmp_path / "last.mjpeg").write_bytes(3 * whole + cut)
    with pytest.raises(BrokenVideo, match=r"Cannot decode '.*last\.mjpeg' beyond frame 4 \(.+\)\.$"):
        finish(decode_video(str(tmp_path / "last.mjpeg")))
    for _ in range(4):
        frames, remarks = finish(decode_video(str(tmp_path / "last.mjpeg"), limit=3, threads=4))  # which decode ahead
        assert len(frames) == 3 and remarks == Remarks()


# ----------------------------------------------------------------------------------------------------------------------
# Files that are no videos, and an ffmpeg that is none


def test_a_pipe_is_no_video(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(BrokenVideo, match=r"Cannot decode '.*a\.mp4': it is not a regular file\."):
        list(decode_video(str(tmp_path / "a.mp4")))


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3.0,\n{}\n#EXT-X-ENDLIST\n"
DASH = (
    '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S" minBufferTime="PT1S" '
    'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp4">'
    '<Representation id="0" bandwidth="1000" width="128" height="96" codecs="avc1.42c00d"><BaseURL>{}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>"
)


@pytest.mark.parametrize("playlist, target", [
    (DASH, "{folder}/private.mp4"),
    (DASH, "{folder}/pipe"),  # which would be waited for
    ("ffconcat version 1.0\nfile '{}'\n", "good.mp4"),
    ("ffconcat version 1.0\nfile '{}'\n", "list.m3u8"),
    (HLS, "../private.ts"),
])  # fmt: skip
def test_a_playlist_does_not_open_other_files(playlist, target, tmp_path):
    """ffmpeg recognises them by content, whatever their suffix."""
    source = tmp_path / "videos"
    source.mkdir()
    for path in (tmp_path / "private.mp4", tmp_path / "private.ts", source / "good.mp4"):
        record(path, seconds=1)
    os.mkfifo(tmp_path / "pipe")
    (source / "list.m3u8").write_text(HLS.format("../private.ts"))
    (source / "a.mp4").write_text(playlist.format(target.format(folder=tmp_path)))
    with pytest.raises(BrokenVideo, match=r"Cannot decode '.*a\.mp4' beyond frame 0 \("):
        list(decode_video(str(source / "a.mp4")))
    assert probe_video(str(source / "a.mp4")).size is None
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in source.iterdir():
            archive.write(path, path.name)
    for number, videos in enumerate((source, tmp_path / "set.zip")):
        manifest = convert(videos, tmp_path / f"out{number}", skip_broken=True)
        assert [entry["source"] for entry in manifest["skipped"]] == ["a.mp4"]
        assert [entry["source"] for entry in manifest["videos"]] == ["good.mp4"]
    message = "list.m3u8' is neither a video, a folder nor a zip: give one of them; archives of other kinds have to be"
    with pytest.raises(UserError, match=message):
        convert(source / "list.m3u8", tmp_path / "out")


def test_a_video_that_may_not_be_read(tmp_path, monkeypatch):
    record(tmp_path / "a.mp4", seconds=0.2)
    opened = os.open

    def refuse(path, *arguments, **options):
        if str(path).endswith("a.mp4"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    assert probe_video(str(tmp_path / "a.mp4")) == VideoInfo()
    with pytest.raises(BrokenVideo) as error:
        list(decode_video(str(tmp_path / "a.mp4")))
    assert str(error.value) == f"Cannot decode '{tmp_path}/a.mp4' (Permission denied)."


FAULTS = [(None, "No such file or directory"), ("none", "Exec format error"), ("#!/bin/sh\nexit 127", "code 127")]


@pytest.mark.parametrize("content, reason", FAULTS)
def test_an_ffmpeg_that_cannot_be_started(content, reason, tmp_path, monkeypatch):
    (tmp_path / "videos").mkdir()
    record(tmp_path / "videos" / "a.mkv", seconds=0.2)
    program = tmp_path / "ffmpeg"
    if content is not None:
        program.write_text(content)
        program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    message = f"Cannot start ffmpeg, '{program}' ({reason}): check or unset IMAGEIO_FFMPEG_EXE."
    source, out = tmp_path / "videos", tmp_path / "out"
    arguments = [str(source), str(out), "--skip-broken", "--workers", "1"]
    readers = {
        "dataset tool": lambda: main(arguments, standalone_mode=False),
        "inversion": lambda: read_clip(source / "a.mkv", 16),
        "metrics": lambda: StoredVideos(source, resolution=16),
        "writer": lambda: VideoWriter(tmp_path / "b.mp4", 8).add(torch.zeros([3, 16, 16], dtype=torch.uint8)),
        "GIF": lambda: gif_bytes(source / "a.mkv"),
    }
    for name, read in readers.items():
        with pytest.raises(UserError) as error:
            read()
        assert str(error.value) == message, name
    assert [path.name for path in tmp_path.iterdir() if path != program] == ["videos"]


@pytest.mark.parametrize(
    "option, line",
    [  # of ffmpeg 4.2, 5.1 and 6.0
        ("-fps_mode", "Unrecognized option 'fps_mode'."),
        ("-fd", "Unrecognized option 'fd'."),
        ("-enc_time_base", "Invalid time base: demux"),
    ],
)
def test_an_ffmpeg_that_is_too_old(option, line, tmp_path, monkeypatch, steady):
    """It cannot decode any video: none counts as damaged, and none is skipped."""
    (tmp_path / "videos").mkdir()
    source, out, program = tmp_path / "videos" / "a.mp4", tmp_path / "out", tmp_path / "ffmpeg"
    run_ffmpeg("-i", steady, "-vf", UNEVEN["drops"][0], "-fps_mode", "vfr", "-c:v", "libx264", source)
    refuses = f'case " $* " in *" {option} "*) echo "[error] {line}" >&2; exit 1;; esac'
    program.write_text(f'#!/bin/sh\n{refuses}\nexec {find_ffmpeg()} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    readers = {
        "dataset tool": lambda: main([str(source.parent), str(out), "--skip-broken"], standalone_mode=False),
        "inversion": lambda: read_clip(source, 16),
        "metrics": lambda: StoredVideos(source.parent, resolution=16),
    }
    if option == "-fd":  # which is needed to see that it is a video
        os.link(source, tmp_path / "unknown")
        readers["other suffixes"] = lambda: read_clip(tmp_path / "unknown", 16)
    for name, read in readers.items():
        with pytest.raises(UserError) as error:
            read()
        assert str(error.value) == (
            f"This ffmpeg is too old, '{program}' ({line.rstrip('.')}): version 7 or newer is needed. Run `pip install "
            "-U imageio-ffmpeg`; if IMAGEIO_FFMPEG_EXE is set, unset it."
        ), name
    assert not out.exists()


def test_probing_sees_that_a_file_has_changed(tmp_path):
    record(tmp_path / "a.mkv", seconds=0.2)
    assert probe_video(str(tmp_path / "a.mkv")).size == (128, 96)
    record(tmp_path / "a.mkv", seconds=0.2, size="64x32")
    assert probe_video(str(tmp_path / "a.mkv")).size == (64, 32)
