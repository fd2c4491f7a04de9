"""Decoding of video files frame by frame with the ffmpeg of imageio-ffmpeg.

Frames come out upright, progressive, in standard dynamic range, and evenly spaced in time. A file that is all this
already is decoded unchanged.
"""

import contextlib
import dataclasses
import fcntl
import functools
import math
import os
import re
import stat
import subprocess
import tempfile
import zipfile
from collections.abc import Generator, Iterable, Iterator
from fractions import Fraction
from typing import IO

import numpy as np
from PIL import Image

from dnnlib import UserError, find_ffmpeg, one_line, temporary
from training.data.frame_timing import TIE, EvenFrames, even_frames, held_frames, mean_rate
from training.data.images import is_image_file
from training.data.names import MOVIE_SUFFIXES

__all__ = [
    "BrokenVideo",
    "Remarks",
    "UnfitRate",
    "VideoInfo",
    "decode_video",
    "describe_remarks",
    "is_video_file",
    "probe_video",
]

# The stream's line in ffmpeg's description: …: Video: h264 (High), yuv420p(progressive), 640x360 …, 25 fps, …
STREAM = re.compile(r"Stream #.*?: Video: (?P<codec>\w+).*?, (?P<format>\w+)(?:\((?P<about>.*?)\))?, \d+x\d+")
COLOURS = re.compile(r"(?P<matrix>[\w-]+)/(?P<primaries>[\w-]+)/(?P<transfer>[\w-]+)")
# Their names and those of their decoders: while ffmpeg probes a file, it decodes some of each stream.
OTHER_STREAMS = re.compile(r"Stream #.*?: (?:Audio|Subtitle): (\w+)(?: \(([\w-]+)\))?")
INTERLACED = re.compile(r"\b(?:top|bottom) (?:coded )?first")
ROTATED = re.compile("display ?matrix: ", re.IGNORECASE)
# A track's header in a MOV file, with the first two rows of the matrix.
TRACK_HEADER = re.compile(rb"tkhd.{40}(?P<rows>.{24})", re.DOTALL)
QUARTER_TURNS = {(1, -1): "clock", (-1, 1): "cclock", (-1, -1): "clock_flip", (1, 1): "cclock_flip"}
STRAIGHT = 0.017  # tangent of one degree
FPS = re.compile(r"(\d+(?:\.\d+)?)(k?) fps\b")
# The units of a stream without a container, of which ffmpeg guesses the rate; MOV and MP4 may keep them.
RAW = re.compile(r"Input #0, (?!mov,).*, 1200k tbn\b", re.DOTALL)
SAME_RATE = 0.01  # relative difference of rates that count as equal: of time stamps, as stated, and as requested
# Pixel formats with alpha, and RGB formats: the frames of a stream of PNGs, for instance, may differ in it.
HAS_ALPHA = re.compile(r"yuva|[0ax]?rgb|[0ax]?bgr|gbr|ya8|ya16|yaf|pal8|ayuv|vuya|uyva")
# Of uncompressed pictures of Windows (BI_RGB, which has no tag) the fourth byte is unused, and often 0.
BITMAPS = re.compile(r"Input #0, (?:avi|asf|matroska|wtv)\b.*: Video: rawvideo, bgra\b", re.DOTALL)
# Pictures in tiles and sequences, of which ffmpeg gives only the first tile or picture, and alpha as another stream.
HEIF = re.compile(rb".{4}ftyp(?:avi[fs]|he[iv][cmsx]|mif[12]|msf1)", re.DOTALL)
# Drawings of characters: ffmpeg takes any list.txt for one.
TEXT_CODECS = ("ansi", "bintext", "idf", "xbin")
# WebM stores alpha in side data, which ffmpeg's own decoders ignore.
ALPHA_BESIDE = re.compile(r"alpha_mode\s*: 1\b")
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
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
HDR = {"arib-std-b67": "HLG", "smpte2084": "PQ"}
WHITE, PEAK = 203, 1000
TONE_MAPPED = (  # agamma=0: the system gamma of HLG is applied to luminance instead of each colour
    f"zscale=t=linear:npl={WHITE}:agamma=0,format=gbrpf32le,zscale=p=bt709,"
    f"tonemap=mobius:param=0.3:desat=0:peak={PEAK / WHITE:.4f},zscale=t=bt709:r=full,format=gbrp"
)
# Dolby Vision without a compatible base layer (profile 5), which has its own colour encoding.
DOLBY_VISION = re.compile(r"DOVI configuration record: .*compatibility id: 0\b")
SCALING = "flags=bicubic+accurate_rnd+full_chroma_int"
SQUARE_PIXELS = "max(1,round(iw*sar))"  # the width
AS_PPM = ("-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "pipe:1")
TOO_WIDE = 10**9  # a width that the scaling filter refuses
# Images in a pipe have no time stamps, so equal ones (in units of the container's frame rate) do no harm.
ERROR_LINE = re.compile(r"\[(?:error|fatal|panic)\] (?!.*non monotonically increasing dts to muxer)")
ANOTHER_SIZE = "Rescaled value for width or height is too big"
NO_STREAM = "matches no streams"
NO_FILTER = "No such filter"
# The command is at fault, not the video: -fps_mode came in ffmpeg 5.1, -fd in 6.0, -enc_time_base demux in 6.1.
TOO_OLD = re.compile(r"Unrecognized option|Option (?:'\w+' )?not found|Invalid time base: demux")
NO_TIME = -(2**63)  # ffmpeg's AV_NOPTS_VALUE
RECONFIGURED = "Reconfiguring filter graph"
# stream, dts, pts, duration, size, checksum, and flags other than those of a key frame
PACKET = re.compile(rb"^0, *(-?\d+), *(-?\d+), *-?\d+, *(\d+), *0x\w+(?:, *F=0x(\w+))?", re.MULTILINE)
DECODED = re.compile(
    r"\[dec:(?P<decoder>[\w-]+).* decoder -> pts:(?P<pts>\S+) .*keyframe:(?P<key>\d) .*time_base:(?P<base>\S+)"
)


class BrokenVideo(Exception):
    """A video that cannot be decoded; the message is for the user, and says with `advice` what to do about it."""

    advice = "Repair or remove it"


class UnfitRate(BrokenVideo):
    """A video whose frame rate is unknown, or lower than the requested one."""

    advice = "Give a lower --fps or none, remove the video"


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """Properties of a video file.

    Attributes:
        fps: Frames per second, as they are decoded; None if unknown.
        alpha: True if frames have alpha, or may have it.
        codec: By ffmpeg's name; None if unknown.
        size: Width and height of its first frame, upright and with square pixels; None if that cannot be decoded.
        decoder: The decoder to request because ffmpeg's default ignores alpha; None for the default.
        colours: Matrix, primaries and transfer of the stream, by ffmpeg's names; None if they are all the same.
        interlaced: True if frames are interlaced, or may be.
        turning: ffmpeg's filters for the rotation of deinterlaced frames by the metadata; None if they are unknown.
        more_streams: True if there are other video streams, which are not decoded.
        other_decoders: ffmpeg's names of the decoders of sound and subtitles.
        dolby_vision: True for colours that only Dolby Vision can decode.
        timing: The frames at even time steps; None if the frame rate is constant.
        untimed: The reason why a variable frame rate is unknown; None for most.
        raw: True for a stream without a container, whose frame rate is a guess.
    """

    fps: float | None = None
    alpha: bool = False
    codec: str | None = None
    size: tuple[int, int] | None = None
    decoder: str | None = None
    colours: tuple[str, ...] | None = None
    interlaced: bool = False
    turning: tuple[str, ...] | None = ()
    more_streams: bool = False
    other_decoders: frozenset[str] = frozenset()
    dolby_vision: bool = False
    timing: EvenFrames | None = None
    untimed: str | None = None
    raw: bool = False

    @property
    def hdr(self) -> str | None:
        """HLG or PQ; None for SDR."""
        return None if self.colours is None else HDR.get(self.colours[2])


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


def is_video_file(path: str) -> bool:
    """True for a video file; False for a folder or a zip, whose name may have any suffix, or for nothing.

    Raises:
        UserError: It is an image, HEIF, or a file of another kind: neither has it a suffix of videos nor can ffmpeg
            read it.
    """
    if not os.path.isfile(path) or path.lower().endswith(".zip"):
        return False
    if path.lower().endswith(MOVIE_SUFFIXES):
        return True
    if zipfile.is_zipfile(path):
        return False
    if is_image_file(path):
        raise UserError(f"'{path}' is a single image: give a video, a folder or a zip.")
    with contextlib.suppress(OSError), open(path, "rb") as file:
        if HEIF.match(file.read(12)):
            raise UserError(f"'{path}' is in HEIF or AVIF format: convert it to PNG, or to MP4 if it is a sequence.")
    info = probe_video(path)
    if info.size is None and info.fps is None:
        raise UserError(
            f"'{path}' is neither a video, a folder nor a zip: give one of them; archives of other kinds have to be "
            "unpacked."
        )
    return True


def probe_video(path: str) -> VideoInfo:
    """Properties of a video file by ffmpeg; all unknown if it cannot read the file, or takes text for a picture."""
    try:
        status = os.stat(path)
    except OSError:
        return VideoInfo()
    if not stat.S_ISREG(status.st_mode):
        return VideoInfo()
    try:
        return _probe(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    except BrokenVideo:
        return VideoInfo()


@functools.lru_cache(maxsize=1024)
def _probe(path: str, stamp: tuple[int, ...]) -> VideoInfo:
    """probe_video, cached by path and stamp: a changed file has another stamp."""
    options = ["-map", "0:V:0", "-frames:v", "1", "-vf", f"scale=w='{SQUARE_PIXELS}':h=ih", *AS_PPM]
    with _ffmpeg_input(path) as (source, descriptors):
        command = [find_ffmpeg(), "-hide_banner", "-nostdin", *source, *options]
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, pass_fds=descriptors)
    found = re.match(rb"P6\n(\d+) (\d+)\n", result.stdout)
    size = None if found is None else (int(found[1]), int(found[2]))
    # Not always at the start of a line: the warning of an odd rotation before it has no line break.
    text = result.stderr.decode(errors="replace").partition("Output #0, image2pipe, to ")[0]
    streams = [line for line in text.splitlines() if STREAM.search(line) and "(attached pic)" not in line]
    if not streams:
        if "Input #0" not in text:
            _refuse_old_ffmpeg(text)
        return VideoInfo(size=size)
    line, stream = streams[0], STREAM.search(streams[0])
    if stream["codec"] in TEXT_CODECS:
        return VideoInfo()
    decoder = ALPHA_DECODERS.get(stream["codec"]) if ALPHA_BESIDE.search(text) else None
    has_alpha = HAS_ALPHA.match(stream["format"]) is not None and BITMAPS.search(text) is None
    about = stream["about"] or ""
    colours = COLOURS.search(about)
    interlaced = INTERLACED.search(about) is not None
    fps, timing, untimed = _find_timing(path)
    if timing is None and (rate := FPS.search(line)) is not None:
        stated = float(rate[1]) * (1000 if rate[2] else 1)
        if fps is None or abs(fps - stated) < SAME_RATE * stated:  # time stamps may be rounded to milliseconds
            fps = stated
        elif interlaced:  # a packet may be a field
            fps = min(fps, stated)
    return VideoInfo(
        fps=fps,
        alpha=decoder is not None or has_alpha,
        codec=stream["codec"],
        size=size,
        decoder=decoder,
        colours=None if colours is None else colours.groups(),
        interlaced=interlaced,
        turning=_find_turning(path) if interlaced and ROTATED.search(text) else (),
        more_streams=len(streams) > 1,
        other_decoders=frozenset(name for names in OTHER_STREAMS.findall(text) for name in names if name),
        dolby_vision=DOLBY_VISION.search(text) is not None,
        timing=timing,
        untimed=untimed,
        raw=RAW.search(text) is not None,
    )


def _find_turning(path: str) -> tuple[str, ...] | None:
    """ffmpeg's filters for the rotation in a file's metadata; None if it is not by quarter turns, or not known.

    ffmpeg's description has the angle alone, which is the same for a half turn and a reflection. The matrix is in the
    header of a MOV file that it writes.
    """
    options = ["-map", "0:V:0", "-c", "copy", "-frames:v", "1", "-movflags", "empty_moov+frag_keyframe", "-f", "mov"]
    with _ffmpeg_input(path) as (source, descriptors):
        command = [find_ffmpeg(), "-v", "error", "-nostdin", *source, *options, "pipe:1"]
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, pass_fds=descriptors)
    header = TRACK_HEADER.search(result.stdout)
    if header is None:
        return None
    xx, xy, _, yx, yy, _ = np.frombuffer(header["rows"], dtype=">i4").astype(float)
    if max(abs(xy), abs(yx)) < STRAIGHT * min(abs(xx), abs(yy)):
        return (("hflip",) if xx < 0 else ()) + (("vflip",) if yy < 0 else ())
    if max(abs(xx), abs(yy)) < STRAIGHT * min(abs(xy), abs(yx)):
        return (f"transpose={QUARTER_TURNS[np.sign(xy), np.sign(yx)]}",)
    return None


def _find_timing(path: str) -> tuple[float | None, EvenFrames | None, str | None]:
    """Frames per second, the frames at even time steps (None if they are even already), why these are unknown, if so.

    The packets' time stamps show it without decoding. Only if they are uneven are frames decoded for their time stamps:
    decoders drop packets, and cut those that precede the start of an edit list. Theora repeats a frame by an empty
    packet, for which its decoder has no output. The rate that ffmpeg states may be that of the ticks of a clock (DV) or
    of fields (GXF), and some containers have none (Ogg, IVF).
    """
    steps = None  # in seconds, if they are even and some of them repeat a frame
    try:
        base, packets = _time_stamps(path, ["-c", "copy", "-copyinkf"])
        decoding, shown, _, sizes = packets.T
        stamps = np.sort(shown if NO_TIME not in shown else decoding)  # AVI has times of decoding only
        if NO_TIME in stamps:
            return None, None, None
        times = stamps * float(base)
        if even_frames(times) is None:
            rate = mean_rate(times, tick=float(base))
            if rate is None or sizes.all():
                return rate, None, None
            steps = times
    except ValueError:
        pass
    options = ["-fps_mode", "passthrough", "-enc_time_base", "demux", "-c:v", "wrapped_avframe"]
    base, frames = _time_stamps(path, options)
    times = frames[:, 1] * float(base)
    try:
        if NO_TIME in frames[:, 1] or not len(frames):
            raise ValueError("uneven time stamps that cannot be read")
        timing = even_frames(times) if steps is None else held_frames(times, steps)
    except ValueError as error:
        return None, None, str(error)
    if timing is None:
        return mean_rate(times, tick=float(base)), None, None
    return timing.fps, dataclasses.replace(timing, tick=float(base)), None


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
        _ffmpeg_input(path) as (source, descriptors),
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
    _refuse_old_ffmpeg(error)
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
    base, packets = _time_stamps(path, ["-c", "copy", "-copyinkf"], input_options=["-copyts"])
    keys = packets[packets[:, 2] == 1]
    if not len(keys):
        return None
    start = base * int(keys[0, 1])
    command = [find_ffmpeg(), "-hide_banner", "-nostats", "-v", "level+repeat+info", "-debug_ts", "-copyts"]
    options = ["-map", "0:V:0", "-fps_mode", "passthrough"]
    options += [] if limit is None else ["-frames:v", str(limit)]
    errors, started, count = [], len(keys) == len(packets), 0
    with (
        _ffmpeg_input(path) as (source, descriptors),
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


def _time_stamps(path: str, options: list[str], *, input_options: Iterable[str] = ()) -> tuple[Fraction, np.ndarray]:
    """Time base in seconds, and int64 [N, 4] of a file's packets or frames.

    The columns are times of decoding and of presentation, 1 for a key frame and 0 for others, and the size in bytes.
    """
    with _ffmpeg_input(path) as (source, descriptors):
        command = [find_ffmpeg(), "-v", "error", "-nostdin", *input_options, *source, "-map", "0:V:0"]
        command += [*options, "-f", "framecrc", "-"]
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, pass_fds=descriptors)
    listed = result.stdout
    if result.returncode and not listed:
        _refuse_old_ffmpeg(result.stderr.decode(errors="replace"))
    base = re.search(rb"^#tb 0: (\d+)/(\d+)$", listed, re.MULTILINE)
    fraction = Fraction(1) if base is None else Fraction(int(base[1]), int(base[2]))
    found = PACKET.findall(listed)
    rows = [(int(dts), int(pts), int(flags, 16) & 1 if flags else 1, int(size)) for dts, pts, size, flags in found]
    return fraction, np.array(rows, dtype=np.int64).reshape(-1, 4)


@contextlib.contextmanager
def _ffmpeg_input(path: str) -> Iterator[tuple[list[str], tuple[int]]]:
    """ffmpeg's options for reading a file, and the descriptors to pass to it.

    It gets the open file and may open nothing else. It recognises playlists (HLS, DASH, ffconcat, …) by their content,
    whatever their name: with a path, such a file could make it read any other file or address.

    Raises:
        BrokenVideo: The file cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise BrokenVideo(f"Cannot decode '{path}' ({error.strerror}).") from error
    try:
        # Where the calling program has closed its standard streams, the file may get the number of one, which ffmpeg
        # uses for its own.
        if descriptor < 3:
            low, descriptor = descriptor, fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
            os.close(low)
        yield ["-protocol_whitelist", "fd", "-fd", str(descriptor), "-i", "fd:"], (descriptor,)
    finally:
        os.close(descriptor)


def _refuse_old_ffmpeg(message: str) -> None:
    """Raise a UserError if ffmpeg's error message says that it does not know an option of this module."""
    found = TOO_OLD.search(message)
    if found is not None:
        line = message[found.start() :].partition("\n")[0].strip().rstrip(".")
        raise UserError(
            f"This ffmpeg is too old, '{find_ffmpeg()}' ({line}): version 7 or newer is needed. Run `pip install -U "
            "imageio-ffmpeg`; if IMAGEIO_FFMPEG_EXE is set, unset it."
        )


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
