"""Decoding of video files frame by frame with the ffmpeg of imageio-ffmpeg.

Frames come out upright, progressive, in standard dynamic range, and evenly spaced in time. A file that is all this
already is decoded unchanged.
"""

import contextlib
import dataclasses
import math
import os
import re
import subprocess
import tempfile
from collections.abc import Generator, Iterable
from fractions import Fraction
from typing import IO

import numpy as np
from PIL import Image

from dnnlib import find_ffmpeg, one_line, temporary
from training.data.frame_timing import TIE, EvenFrames
from training.data.video_probe import (
    AS_PPM,
    SAME_RATE,
    SQUARE_PIXELS,
    BrokenVideo,
    UnfitRate,
    VideoInfo,
    ffmpeg_input,
    probe_video,
    refuse_old_ffmpeg,
    time_stamps,
)

__all__ = ["Remarks", "decode_video", "describe_remarks"]

# With several threads, ffmpeg's decoder gives other pictures now and then.
ONE_THREAD = ("theora", "vp3", "vp4")

# Bit-exact with training.data.images. Time stamps are set to a constant rate: of two frames with equal ones, one might
# be dropped.
OVER_BLACK = (
    "setpts=N,format=gbrap,split[picture][black];[black]lutrgb=r=0:g=0:b=0:a=maxval[black];"
    "[black][picture]overlay=format=gbrp"
)
DEINTERLACED = "bwdif=mode=send_frame:deint=interlaced"  # only frames that are marked as interlaced
# HDR to the display light of SDR (Möbius curve). A white surface has 203 cd/m² (ITU-R BT.2408) and becomes 0.68; light
# up to 30 % of white is unchanged; 1000 cd/m² become 1.
WHITE, PEAK = 203, 1000
TONE_MAPPED = (  # agamma=0: the system gamma of HLG is applied to luminance instead of each colour
    f"zscale=t=linear:npl={WHITE}:agamma=0,format=gbrpf32le,zscale=p=bt709,"
    f"tonemap=mobius:param=0.3:desat=0:peak={PEAK / WHITE:.4f},zscale=t=bt709:r=full,format=gbrp"
)
SCALING = "flags=bicubic+accurate_rnd+full_chroma_int"
TOO_WIDE = 10**9  # a width that the scaling filter refuses
# Images in a pipe have no time stamps, so equal ones (in units of the container's frame rate) do no harm.
ERROR_LINE = re.compile(r"\[(?:error|fatal|panic)\] (?!.*non monotonically increasing dts to muxer)")
ANOTHER_SIZE = "Rescaled value for width or height is too big"
NO_STREAM = "matches no streams"
NO_FILTER = "No such filter"
RECONFIGURED = "Reconfiguring filter graph"
DECODED = re.compile(
    r"\[dec:(?P<decoder>[\w-]+).* decoder -> pts:(?P<pts>\S+) .*keyframe:(?P<key>\d) .*time_base:(?P<base>\S+)"
)


@dataclasses.dataclass(frozen=True)
class Remarks:
    """Changes made in decoding that the user should know about.

    Attributes:
        warnings: Decoder's warnings about pictures before the first frame: a recording that was cut between two key
            frames begins with pictures that cannot be decoded.
        repeated, left_out: Frames that are used several times, and not at all: in a file of variable frame rate, or one
            that leaves out repeated frames (Theora).
        untimed: Reason why a variable frame rate is unknown.
        rate: Frames per second of the file, if it was resampled to another rate.
        hdr: HLG or PQ, if it was tone-mapped.
        deinterlaced: True if frames were deinterlaced.
        more_streams: True if there are other video streams than the first.
    """

    warnings: int = 0
    repeated: int = 0
    left_out: int = 0
    untimed: str | None = None
    rate: float | None = None
    hdr: str | None = None
    deinterlaced: bool = False
    more_streams: bool = False

    def noted(self) -> dict[str, int | str | bool]:
        """The remarks that differ from the default."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value}


def describe_remarks(remarks: Iterable[Remarks]) -> list[str]:
    """A line about each kind of change, summed over videos."""
    remarks = list(remarks)
    lines = []
    if cut := [remark.warnings for remark in remarks if remark.warnings]:
        lines.append(
            f"{len(cut)} video(s) begin between two key frames: what precedes the first one is left out ({sum(cut)} "
            "warning(s) of the decoder)."
        )
    if resampled := [remark for remark in remarks if remark.rate is not None]:
        rates, repeated = [r.rate for r in resampled], sum(r.repeated for r in resampled)
        between = f"{rates[0]:g}" if min(rates) == max(rates) else f"{min(rates):g} to {max(rates):g}"
        pauses = f", {repeated} frames repeated where there are pauses" if repeated else ""
        lines.append(f"{len(resampled)} video(s) of {between} frames per second were resampled{pauses}.")
    if uneven := [remark for remark in remarks if remark.rate is None and (remark.repeated or remark.left_out)]:
        repeated, left_out = sum(r.repeated for r in uneven), sum(r.left_out for r in uneven)
        lines.append(
            f"{len(uneven)} video(s) have a variable frame rate, or repeat frames: their frames were made evenly "
            f"spaced in time ({repeated} repeated, {left_out} left out)."
        )
    if untimed := [remark.untimed for remark in remarks if remark.untimed]:
        lines.append(
            f"{len(untimed)} video(s) have {untimed[0]}: their frames count as evenly spaced, in the order of the file."
        )
    if hdr := sorted(remark.hdr for remark in remarks if remark.hdr):
        lines.append(f"{len(hdr)} video(s) are HDR ({', '.join(dict.fromkeys(hdr))}) and were tone-mapped to SDR.")
    if deinterlaced := sum(remark.deinterlaced for remark in remarks):
        lines.append(f"{deinterlaced} video(s) are interlaced and were deinterlaced.")
    if several := sum(remark.more_streams for remark in remarks):
        lines.append(f"{several} video(s) hold several video streams: the first one is used.")
    return lines


def decode_video(
    path: str, *, fps: float | None = None, stride: int = 1, limit: int | None = None, threads: int | None = None
) -> Generator[Image.Image, None, Remarks]:
    """The frames of a video file, upright, with square pixels, 8-bit RGB, transparent parts over black.

    They are evenly spaced in time: if those of the file are not, the nearest ones are used. At another rate, k / fps
    after the first frame, it is the last frame whose time stamp is not later. HDR is tone-mapped, and interlaced frames
    are deinterlaced. ffmpeg sends PPM images, because their headers give the size.

    Args:
        path: The file.
        fps: Frames per second; None for those of the file, and so within 1 %.
        stride: Keep every n-th of the evenly spaced frames, from the first.
        limit: Largest number of frames; None for all.
        threads: Decoding threads; None for ffmpeg's choice.

    Returns:
        Changes that the user should know about.

    Raises:
        BrokenVideo: It cannot be decoded to its end (or the limit), holds no pictures, or pictures of several sizes.
        UnfitRate: `fps` is higher than its frame rate, or that is unknown.
        UserError: There is no ffmpeg, or one that is too old.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise BrokenVideo(f"Cannot decode '{path}': it is not a regular file.")  # a pipe might never end
    info = probe_video(path)
    if info.dolby_vision:
        raise BrokenVideo(
            f"Cannot decode '{path}': its colours are in Dolby Vision without a base layer in HDR10 or HLG; convert it "
            "to HDR10 or SDR first."
        )
    if info.turning is None:
        raise BrokenVideo(
            f"Cannot decode '{path}': it is interlaced, and its metadata rotate it by an angle that is no quarter "
            "turn, or cannot be read; deinterlace it first."
        )
    remarks = Remarks(untimed=info.untimed, hdr=info.hdr, deinterlaced=info.interlaced, more_streams=info.more_streams)
    timing, ratio = (info.timing, 1) if fps is None else _change_rate(path, info, fps)
    if timing is not info.timing or ratio != 1:
        remarks = dataclasses.replace(remarks, rate=info.fps)
    step = stride * ratio  # frames of the file per frame
    uses = None  # number of uses of each frame of the file
    if timing is not None:
        remarks = dataclasses.replace(remarks, repeated=timing.repeated, left_out=timing.left_out)
        uses = np.bincount(timing.frames[::stride][:limit])
        step, limit = 1, None if limit is None else len(uses)
    threads = 1 if info.codec in ONE_THREAD else threads
    input_options = ["-nostdin"] + ([] if info.decoder is None else ["-c:v", info.decoder])
    input_options += ["-noautorotate"] if info.turning else []  # it would come before the filters
    command = [find_ffmpeg(), "-hide_banner", "-nostats", "-v", "level+repeat+info", *input_options]
    command += [] if threads is None else ["-threads", str(threads), "-filter_threads", str(threads)]
    options = ["-map", "0:V:0", "-vf", _filters(info, step), "-fps_mode", "passthrough"]
    options += [] if limit is None else ["-frames:v", str(limit)]
    with (
        temporary(tempfile.TemporaryFile) as messages,
        ffmpeg_input(path) as (source, descriptors),
        subprocess.Popen(
            [*command, *source, *options, *AS_PPM],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages, pass_fds=descriptors,
        ) as process,
    ):  # fmt: skip
        count = 0
        try:
            while (frame := _read_ppm(process.stdout)) is not None:
                count += 1
                for _ in range(1 if uses is None else uses[count - 1] if count <= len(uses) else 0):
                    yield frame
            process.wait()
        finally:
            process.kill()  # no effect on an ended process
        error, reconfigured = _error_lines(messages, info)
    refuse_old_ffmpeg(error)
    enough = limit is not None and count == limit
    if ANOTHER_SIZE in error:
        if enough:
            return remarks  # the size changes only after the requested frames
        error = f"the frames after it are not {info.size[0]}×{info.size[1]} pixels: cut it there"
    elif reconfigured and step > 1:
        error = f"the pixel format changes, which would restart the count for a stride of {step:g}"
    elif error and count and not process.returncode:
        most = None if limit is None else math.ceil(limit * step)
        warnings = _warnings_before_start(path, info, input_options, limit=most)
        if warnings is not None:
            return dataclasses.replace(remarks, warnings=warnings)
    if NO_STREAM in error:
        error = "it has no video stream"
    if NO_FILTER in error and info.hdr is not None:
        error = f"it is HDR, {info.hdr}, and this ffmpeg cannot tone-map it: use that of imageio-ffmpeg, or convert it"
    if uses is not None and count < len(uses):
        error = error or f"its time stamps are those of {len(uses)} frames"
    if process.returncode or error or not count:
        reason = error or (
            f"ffmpeg ended with code {process.returncode}" if process.returncode else "it holds no pictures"
        )
        raise BrokenVideo(f"Cannot decode '{path}' beyond frame {int(count * step)} ({reason}).")
    return remarks


def _change_rate(path: str, info: VideoInfo, fps: float) -> tuple[EvenFrames | None, float]:
    """The timing of a video at another rate; if its rate is constant, None and the number of its frames per frame.

    Raises:
        UnfitRate: Frames would have to be repeated, or the rate is unknown.
    """
    if info.fps is None or info.raw or info.untimed is not None:
        reason = info.untimed or "no time stamps"
        raise UnfitRate(f"The frame rate of '{path}' is unknown ({reason}), so it cannot be changed to {fps:g}.")
    if abs(info.fps - fps) <= SAME_RATE * fps:
        return info.timing, 1
    if info.fps < fps:
        raise UnfitRate(
            f"'{path}' has {info.fps:g} frames per second: for {fps:g}, frames between them would have to be invented."
        )
    return (None, info.fps / fps) if info.timing is None else (info.timing.resampled(fps), 1)


def _filters(info: VideoInfo, step: float) -> str:
    """ffmpeg's filters for decoded frames. A frame whose size differs from the first's is an error, not resized.

    Args:
        info: Properties of the video.
        step: Keep the frame at every multiple of `step` frames, or the last one before it.
    """
    width = SQUARE_PIXELS
    if info.size is not None:
        same = f"eq({SQUARE_PIXELS},{info.size[0]})*eq(ih,{info.size[1]})"
        width = f"if({same},{info.size[0]},{TOO_WIDE})"
    filters = [DEINTERLACED, *info.turning] if info.interlaced else []  # fields are lines of frames as they are stored
    # 1 if there is a multiple of the step in [n, n + 1), the time of frame n.
    filters += [] if step == 1 else [f"select=ceil((n+1-{TIE})/{step})-ceil((n-{TIE})/{step})"]
    if info.alpha:  # otherwise the colours of transparent pixels would appear
        filters.append(OVER_BLACK)
    if info.hdr is not None:
        matrix, primaries, transfer = info.colours
        filters += ["setparams=colorspace=bt2020nc"] if matrix == "unknown" and not info.alpha else []
        filters += [f"scale={SCALING}", "format=gbrp16le"]
        primaries = "bt2020" if primaries == "unknown" else primaries
        filters += [f"setparams=color_primaries={primaries}:color_trc={transfer}", TONE_MAPPED]
    filters += [f"scale=w='{width}':h=ih:eval=frame:{SCALING}", "setsar=1"]
    return ",".join(filters)


def _is_error(text: str, info: VideoInfo) -> bool:
    """True for an error message of ffmpeg, unless it is about sound or subtitles: they may begin anywhere."""
    return ERROR_LINE.search(text) is not None and text[1:].partition(" @ ")[0] not in info.other_decoders


def _error_lines(messages: IO[bytes], info: VideoInfo) -> tuple[str, bool]:
    """ffmpeg's first error message ('' if there is none), and True if the pixel format changed."""
    first, reconfigured = "", False
    messages.seek(0)
    for line in messages:
        text = line[:2000].decode(errors="replace")
        reconfigured = reconfigured or RECONFIGURED in text
        if ANOTHER_SIZE in text or (not first and _is_error(text, info)):
            first = one_line(ERROR_LINE.sub("", re.sub(" @ 0x[0-9a-f]+", "", text)))
            if ANOTHER_SIZE in text:
                break
    return first, reconfigured


def _warnings_before_start(path: str, info: VideoInfo, input_options: list[str], *, limit: int | None) -> int | None:
    """Number of decoder errors, if all are about pictures before the first key frame; None if the file is damaged.

    The file is decoded again with one thread, so that errors and frames come in order. It is damaged if there is an
    error after the first frame, an error that is not the decoder's, a frame that is marked as corrupt, or if the first
    frame is not the first key frame of the file. Where all frames are key frames, as in a JPEG, no others precede them,
    and any error is damage.

    Args:
        limit: Number of frames of the file that are checked; None for all.
    """
    base, packets = time_stamps(path, ["-c", "copy", "-copyinkf"], input_options=["-copyts"])
    keys = packets[packets[:, 2] == 1]
    if not len(keys):
        return None
    start = base * int(keys[0, 1])
    command = [find_ffmpeg(), "-hide_banner", "-nostats", "-v", "level+repeat+info", "-debug_ts", "-copyts"]
    options = ["-map", "0:V:0", "-fps_mode", "passthrough"]
    options += [] if limit is None else ["-frames:v", str(limit)]
    errors, started, count = [], len(keys) == len(packets), 0
    with (
        ffmpeg_input(path) as (source, descriptors),
        subprocess.Popen(
            [*command, *input_options, "-threads", "1", *source, *options, "-f", "null", "-"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=descriptors,
        ) as process,
    ):  # fmt: skip
        with contextlib.ExitStack() as stack:
            stack.callback(process.kill)
            for line in process.stderr:
                text = line.decode(errors="replace")
                if _is_error(text, info):
                    if started:
                        return None
                    errors.append(text)
                elif "corrupt decoded frame" in text:
                    return None
                elif (frame := DECODED.search(text)) is not None:
                    by_decoder = all(error.startswith(f"[{frame['decoder']} ") for error in errors)
                    at_start = by_decoder and frame["key"] == "1" and _seconds(frame["pts"], frame["base"]) == start
                    if not started and not at_start:
                        return None
                    started, count = True, count + 1
                    if count == limit:
                        return len(errors)  # ffmpeg has begun with the next one
            process.wait()
    return len(errors) if started and process.returncode == 0 else None


def _seconds(ticks: str, base: str) -> Fraction | None:
    try:
        return int(ticks) * Fraction(base.strip())
    except (ValueError, ZeroDivisionError):
        return None


def _read_ppm(stream: IO[bytes]) -> Image.Image | None:
    """The next image; None at the end of the stream, also if that is premature."""
    header = [stream.readline() for _ in range(3)]  # P6, size, 255
    if not header[2]:
        return None
    assert header[0] == b"P6\n" and header[2] == b"255\n", header
    width, height = map(int, header[1].split())
    data = stream.read(width * height * 3)
    return Image.frombytes("RGB", (width, height), data) if len(data) == width * height * 3 else None
