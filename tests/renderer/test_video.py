import errno
import fcntl
import io
import math
import os
import pathlib
import re
import subprocess
import sys

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

import renderer.video
from dnnlib import UserError
from renderer.video import (
    FORMATS,
    VideoWriter,
    check_video_rate,
    check_video_size,
    gif_bytes,
    image_grid,
    save_png,
    to_uint8,
)

DATA = pathlib.Path(__file__).resolve().parent.parent / "data" / "programs.npz"


def smooth_frames(count, height, width):
    """Uint8 frames [count, 3, H, W] with gentle gradients that move, as natural colours as a formula gives."""
    y = torch.linspace(0, 1, height)[:, None]
    x = torch.linspace(0, 1, width)[None]
    shift = torch.arange(count)[:, None, None] / max(count, 1)
    red = (torch.sin(3 * (x + shift)) + y) / 2
    green = (torch.cos(2 * (y - shift)) + x) / 2
    blue = 0.3 + 0.4 * x * y + 0 * shift
    return to_uint8(torch.stack([red, green, blue], dim=1) * 2 - 1)


def decode(path):
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    return meta, np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


def psnr(a, b):
    return -10 * math.log10(np.mean((a.astype(float) - b.astype(float)) ** 2) / 255**2)


# ----------------------------------------------------------------------------------------------------------------------
# Pixels


def test_to_uint8_equals_the_published_renderer():
    golden = np.load(DATA)
    assert np.array_equal(to_uint8(torch.from_numpy(golden["image"])).numpy(), golden["image_uint8"])


def test_to_uint8_rounds_clips_and_survives_nan():
    values = torch.tensor([-9.0, -1.0, -0.998, 0.0, 0.004, 1.0, 7.0, math.nan, math.inf])
    assert to_uint8(values).tolist() == [0, 0, 0, 128, 128, 255, 255, 0, 255]


def test_to_uint8_rounds_pixels_of_half_precision_once():
    values = torch.linspace(-1, 1, 4001).half()
    assert torch.equal(to_uint8(values), to_uint8(values.float()))


def test_image_grid_goes_row_by_row_and_fills_with_black():
    images = torch.arange(5, dtype=torch.float32)[:, None, None, None].expand(5, 3, 2, 4) / 10
    grid = image_grid(images, 3)
    assert grid.shape == (3, 4, 12)
    assert torch.equal(grid[0, ::2, ::4], torch.tensor([[0.0, 0.1, 0.2], [0.3, 0.4, -1.0]]))
    assert image_grid(torch.full([1, 3, 1, 1], 7, dtype=torch.uint8), 2)[0, 0].tolist() == [7, 0]
    assert image_grid(torch.full([1, 1, 1, 1], 0.7), 2, blank=math.nan).isnan().tolist() == [[[False, True]]]


def test_image_grid_keeps_pixels_in_place():
    images = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    grid = image_grid(images, 2)
    assert torch.equal(grid[:, 5:, :6], images[2])
    assert torch.equal(grid[:, :5, 6:], images[1])


@pytest.mark.parametrize("shape, columns", [((0, 3, 2, 2), 1), ((3, 2, 2), 1), ((1, 3, 2, 2), 0)])
def test_image_grid_refuses(shape, columns):
    with pytest.raises(ValueError):
        image_grid(torch.zeros(shape), columns)


def test_save_png(tmp_path):
    frame = smooth_frames(1, 6, 9)[0]
    save_png(frame, tmp_path / "a.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), frame.permute(1, 2, 0).numpy())
    save_png(frame[:1], tmp_path / "grey.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "grey.png")), frame[0].numpy())


# ----------------------------------------------------------------------------------------------------------------------
# Videos


@pytest.mark.parametrize("height, width", [(64, 96), (65, 97), (33, 64)])
def test_video_is_browser_playable_and_faithful(tmp_path, height, width):
    frames = smooth_frames(5, height, width)
    with VideoWriter(tmp_path / "a.mp4", 8) as video:
        for frame in frames:
            video.add(frame)
        assert not (tmp_path / "a.mp4").exists()  # not before it is complete
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]

    meta, decoded = decode(tmp_path / "a.mp4")
    assert meta["codec"] == "h264"
    # Matrix, primaries and transfer function: if they differed, it would be "bt709/unknown/unknown".
    assert re.match(r"yuv420p\(tv, bt709[,)]", meta["pix_fmt"])
    assert meta["fps"] == 8
    assert decoded.shape == (5, height + height % 2, width + width % 2, 3)
    assert psnr(decoded[:, :height, :width], frames.permute(0, 2, 3, 1).numpy()) > 38
    # The padding repeats the edge, so that it cannot tint it.
    if height % 2:
        assert psnr(decoded[:, height], decoded[:, height - 1]) > 35
    if width % 2:
        assert psnr(decoded[:, :, width], decoded[:, :, width - 1]) > 35
    content = (tmp_path / "a.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")  # the index comes first: playback can start early


def test_webm_is_faithful(tmp_path):
    frames = smooth_frames(5, 65, 96)
    with VideoWriter(tmp_path / "a.webm", 8) as video:
        for frame in frames:
            video.add(frame)
    assert [path.name for path in tmp_path.iterdir()] == ["a.webm"]
    meta, decoded = decode(tmp_path / "a.webm")
    assert (meta["codec"], meta["fps"]) == ("vp9", 8)
    assert decoded.shape == (5, 66, 96, 3)
    assert psnr(decoded[:, :65], frames.permute(0, 2, 3, 1).numpy()) > 35


@pytest.mark.parametrize("height, width", [(33, 65), (64, 32)])
def test_gif_is_faithful_and_loops(tmp_path, height, width):
    frames = smooth_frames(5, height, width)
    with VideoWriter(tmp_path / "a.gif", 10, frames_dir=tmp_path / "a") as video:
        for frame in frames:
            video.add(frame)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.gif"]
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.size, gif.n_frames, gif.info["loop"]) == ((width, height), 5, 0)
        shown, times = [], []
        for i in range(gif.n_frames):
            gif.seek(i)
            times.append(gif.info["duration"])
            shown.append(np.asarray(gif.convert("RGB")))
    assert times == [100] * 5
    assert psnr(np.stack(shown), frames.permute(0, 2, 3, 1).numpy()) > 33  # of 256 colours a frame


def test_a_video_as_gif(tmp_path, monkeypatch):
    frames = smooth_frames(3, 16, 24)
    with VideoWriter(tmp_path / "a.mp4", 8) as video:
        for frame in frames:
            video.add(frame)
    with Image.open(io.BytesIO(gif_bytes(tmp_path / "a.mp4"))) as gif:
        assert (gif.format, gif.size, gif.n_frames) == ("GIF", (24, 16), 3)
        assert psnr(np.asarray(gif.convert("RGB")), frames[0].permute(1, 2, 0).numpy()) > 30
    monkeypatch.chdir(tmp_path)
    os.rename("a.mp4", "12:30.mp4")  # ffmpeg would take 12 for a protocol
    assert gif_bytes("12:30.mp4").startswith(b"GIF")
    (tmp_path / "b.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match="Cannot read .*b.mp4: the video decoder failed"):
        gif_bytes(tmp_path / "b.mp4")


def test_frame_rates_of_gifs():
    for name in FORMATS:
        check_video_rate(name, 50)
    check_video_rate("mp4", 60)
    with pytest.raises(ValueError, match="A GIF shows at most 50 frames per second, not 60."):
        check_video_rate("gif", 60)
    with pytest.raises(ValueError, match="A GIF shows"):
        VideoWriter("a.gif", 60)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a"])
def test_a_lower_quality_takes_less_space(tmp_path, name):
    """A name without an extension is that of an MP4."""
    frames = torch.randint(0, 256, [4, 3, 64, 64], dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sizes = []
    for crf in (10, 50):
        with VideoWriter(tmp_path / name, 8, crf=crf) as video:
            for frame in frames:
                video.add(frame)
        sizes.append(os.path.getsize(tmp_path / name))
    assert sizes[1] < sizes[0] / 2
    assert decode(tmp_path / name)[0]["codec"] == ("vp9" if name == "a.webm" else "h264")


def test_video_colours_do_not_shift(tmp_path):
    colours = torch.tensor([[200, 30, 30], [30, 200, 30], [30, 30, 200], [128, 128, 128]], dtype=torch.uint8)
    with VideoWriter(tmp_path / "a.mp4", 4) as video:
        for colour in colours:
            video.add(colour[:, None, None].expand(3, 32, 32))
    decoded = decode(tmp_path / "a.mp4")[1]
    assert np.abs(decoded.mean(axis=(1, 2)) - colours.numpy()).max() < 4


def test_one_frame_and_a_broken_frame_rate(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 29.97) as video:
        video.add(smooth_frames(1, 16, 16)[0])
    meta, decoded = decode(tmp_path / "a.mp4")
    assert len(decoded) == 1
    assert meta["fps"] == pytest.approx(29.97, abs=0.01)


def test_png_frames_keep_their_size_and_old_ones_go(tmp_path):
    frames = smooth_frames(3, 15, 17)
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "0007.png").write_bytes(b"of a longer video")
    (folder / "notes.txt").write_text("the user's")
    with VideoWriter(tmp_path / "a.mp4", 8, frames_dir=folder) as video:
        for frame in frames:
            video.add(frame)
    assert sorted(path.name for path in folder.iterdir()) == ["0000.png", "0001.png", "0002.png", "notes.txt"]
    for index, frame in enumerate(frames):
        pixels = np.asarray(Image.open(folder / f"{index:04d}.png"))
        assert np.array_equal(pixels, frame.permute(1, 2, 0).numpy())


def test_an_error_leaves_the_old_video(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stop"), VideoWriter(path, 8) as video:
        video.add(smooth_frames(1, 16, 16)[0])
        raise RuntimeError("stop")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def fake_encoder(tmp_path, monkeypatch, script):
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(renderer.video, "find_ffmpeg", lambda: str(program))


WRITES = """
import os, signal, sys, torch
from renderer.video import VideoWriter
from torch_utils.stop_signal import StopSignal

frame = torch.zeros(3, 32, 32, dtype=torch.uint8)
with StopSignal() as stop:
    with VideoWriter(sys.argv[1], 8) as video:
        for i in range(20):
            video.add(frame)
            if i == 9:
                os.killpg(0, signal.SIGINT)
    print(stop.requested)
"""


def test_a_signal_that_a_training_survives_leaves_its_encoder_alone(tmp_path):
    """Ctrl-C: the terminal sends it to all processes of the group."""
    command = [sys.executable, "-c", WRITES, tmp_path / "a.mp4"]
    shown = subprocess.run(command, start_new_session=True, capture_output=True, text=True)
    assert (shown.stdout, shown.returncode) == ("True\n", 0), shown.stderr
    assert len(decode(tmp_path / "a.mp4")[1]) == 20


def test_a_user_whose_pipes_hold_their_limit(tmp_path, monkeypatch):
    """Without privileges, all pipes of a user may hold 64 MiB together."""

    def refuse(*_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    frames = smooth_frames(3, 64, 96)
    with VideoWriter(tmp_path / "a.mp4", 8) as video:
        for frame in frames:
            video.add(frame)
    monkeypatch.undo()
    assert psnr(decode(tmp_path / "a.mp4")[1], frames.permute(0, 2, 3, 1).numpy()) > 38


def test_gifs_are_made_in_a_session_of_their_own(tmp_path, monkeypatch):
    fake_encoder(tmp_path, monkeypatch, "cut -d ' ' -f 6 /proc/$$/stat")
    assert int(gif_bytes(tmp_path / "a.mp4")) not in (0, os.getsid(0))


@pytest.mark.parametrize(
    "script, words",
    [
        ("echo Unknown encoder >&2; exit 1", "Unknown encoder"),
        ("cat > /dev/null; echo Unknown encoder >&2; exit 1", "Unknown encoder"),
        ("exit 3", r"it gave no reason \(exit status 3\)"),
        ("kill -KILL $$", r"it gave no reason \(ended by SIGKILL\)"),
    ],
)
def test_a_failing_encoder_is_reported_with_its_words(tmp_path, monkeypatch, script, words):
    fake_encoder(tmp_path, monkeypatch, script)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UserError, match=f"a.mp4: the video encoder failed: {words}$"):
        with VideoWriter(out / "a.mp4", 8) as video:
            for frame in smooth_frames(4, 256, 256):  # more than a pipe holds
                video.add(frame)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    "script",
    ["echo '[mp4 @ 0x5] Error writing trailer: No space left on device' >&2; exit 1", "kill -XFSZ $$"],  # ulimit -f
)
def test_a_full_disk_is_reported(tmp_path, monkeypatch, script):
    fake_encoder(tmp_path, monkeypatch, script)
    with pytest.raises(UserError, match="a.mp4: there is no space left; free some"):
        with VideoWriter(tmp_path / "a.mp4", 8) as video:
            video.add(smooth_frames(1, 16, 16)[0])
    assert not (tmp_path / "a.mp4").exists()


def test_a_missing_temporary_folder_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(UserError, match=f"^Cannot make a temporary file in {tmp_path}/gone: No such file.*TMPDIR"):
        with VideoWriter(tmp_path / "a.mp4", 8) as video:
            video.add(smooth_frames(1, 16, 16)[0])
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_file_that_cannot_be_removed_hides_no_error(tmp_path, monkeypatch):
    """In a read-only file system, even one that does not exist cannot."""

    def unlink(path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(UserError, match="^another$"), VideoWriter(tmp_path / "a.mp4", 8):
        raise UserError("another")


def test_a_missing_encoder_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(renderer.video, "find_ffmpeg", lambda: str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="Cannot start the video encoder .*nothing: No such file"):
        VideoWriter(tmp_path / "a.mp4", 8).add(smooth_frames(1, 16, 16)[0])


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_of_the_videos_name_is_reported(tmp_path, name):
    path = tmp_path / f"a.{name}"
    path.mkdir()
    with pytest.raises(UserError, match=rf"^Cannot write {path}: it is a folder; move it"):
        with VideoWriter(path, fps=8) as video:
            video.add(torch.zeros([3, 16, 16], dtype=torch.uint8))
    assert list(tmp_path.iterdir()) == [path] and path.is_dir()


def test_a_missing_folder_is_reported(tmp_path):
    with pytest.raises(UserError, match="its folder does not exist"):
        VideoWriter(tmp_path / "missing" / "a.mp4", 8).add(smooth_frames(1, 16, 16)[0])


@pytest.mark.parametrize(
    "frame", [torch.zeros(3, 8, 8), torch.zeros(8, 8, 3, dtype=torch.uint8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)]
)
def test_frames_must_be_uint8_images(tmp_path, frame):
    with pytest.raises(ValueError, match=r"uint8 \[3, H, W\]"):
        VideoWriter(tmp_path / "a.mp4", 8).add(frame)


def test_frames_must_agree_in_size(tmp_path):
    with pytest.raises(ValueError, match="Frame 1 is 16×18"), VideoWriter(tmp_path / "a.mp4", 8) as video:
        video.add(torch.zeros(3, 16, 16, dtype=torch.uint8))
        video.add(torch.zeros(3, 16, 18, dtype=torch.uint8))
    assert list(tmp_path.iterdir()) == []


def test_a_video_needs_frames_and_a_frame_rate(tmp_path):
    with pytest.raises(ValueError, match="No frames"), VideoWriter(tmp_path / "a.mp4", 8):
        pass
    with pytest.raises(ValueError, match="fps must be positive"):
        VideoWriter(tmp_path / "a.mp4", 0)
    assert list(tmp_path.iterdir()) == []


def test_frames_that_no_video_holds_are_refused_before():
    check_video_size(16384, 8)
    for size in ((16385, 8), (8, 16386), (16384, 16384)):
        with pytest.raises(ValueError, match="too large for a video"):
            check_video_size(*size)
