"""Properties of video files, by the ffmpeg of imageio-ffmpeg: size, frame rate and times of frames, colours, rotation.

Both this and `training.data.video_decoder` read a file through `ffmpeg_input`, which lets it open nothing else.
"""

import contextlib
import dataclasses
import fcntl
import functools
import os
import re
import stat
import subprocess
import zipfile
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np

from dnnlib import UserError, find_ffmpeg
from training.data.frame_timing import EvenFrames, even_frames, held_frames, mean_rate
from training.data.images import is_image_file
from training.data.names import MOVIE_SUFFIXES

__all__ = [
    "AS_PPM",
    "BrokenVideo",
    "SAME_RATE",
    "SQUARE_PIXELS",
    "UnfitRate",
    "VideoInfo",
    "ffmpeg_input",
    "is_video_file",
    "probe_video",
    "refuse_old_ffmpeg",
    "time_stamps",
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
SAME_RATE = 0.01  # relative difference of rates that count as equal: that of a video, and the requested one
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
# Dolby Vision without a compatible base layer (profile 5), which has its own colour encoding.
DOLBY_VISION = re.compile(r"DOVI configuration record: .*compatibility id: 0\b")
HDR = {"arib-std-b67": "HLG", "smpte2084": "PQ"}  # by ffmpeg's names of transfer functions
SQUARE_PIXELS = "max(1,round(iw*sar))"  # the width
AS_PPM = ("-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "pipe:1")
NO_TIME = -(2**63)  # ffmpeg's AV_NOPTS_VALUE
# stream, dts, pts, duration, size, checksum, and flags other than those of a key frame
PACKET = re.compile(rb"^0, *(-?\d+), *(-?\d+), *-?\d+, *(\d+), *0x\w+(?:, *F=0x(\w+))?", re.MULTILINE)
# The command is at fault, not the video: -fps_mode came in ffmpeg 5.1, -fd in 6.0, -enc_time_base demux in 6.1.
TOO_OLD = re.compile(r"Unrecognized option|Option (?:'\w+' )?not found|Invalid time base: demux")


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
    with ffmpeg_input(path) as (source, descriptors):
        command = [find_ffmpeg(), "-hide_banner", "-nostdin", *source, *options]
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, pass_fds=descriptors)
    found = re.match(rb"P6\n(\d+) (\d+)\n", result.stdout)
    size = None if found is None else (int(found[1]), int(found[2]))
    # Not always at the start of a line: the warning of an odd rotation before it has no line break.
    text = result.stderr.decode(errors="replace").partition("Output #0, image2pipe, to ")[0]
    streams = [line for line in text.splitlines() if STREAM.search(line) and "(attached pic)" not in line]
    if not streams:
        if "Input #0" not in text:
            refuse_old_ffmpeg(text)
        return VideoInfo(size=size)
    line, stream = streams[0], STREAM.search(streams[0])
    if stream["codec"] in TEXT_CODECS:
        return VideoInfo()
    decoder = ALPHA_DECODERS.get(stream["codec"]) if ALPHA_BESIDE.search(text) else None
    has_alpha = HAS_ALPHA.match(stream["format"]) is not None and BITMAPS.search(text) is None
    about = stream["about"] or ""
    colours = COLOURS.search(about)
    interlaced = INTERLACED.search(about) is not None
    rate = FPS.search(line)
    stated = None if rate is None else float(rate[1]) * (1000 if rate[2] else 1)
    fps, timing, untimed = _find_timing(path, stated)
    if timing is None and stated is not None and (fps is None or interlaced and round(fps, 2) > stated):
        fps = stated  # if there is another one, its packets are fields
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
    with ffmpeg_input(path) as (source, descriptors):
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


def _find_timing(path: str, stated: float | None) -> tuple[float | None, EvenFrames | None, str | None]:
    """Frames per second, the frames at even time steps (None if they are even already), why these are unknown, if so.

    The packets' time stamps show it without decoding. Only if they are uneven are frames decoded for their time stamps:
    decoders drop packets, and cut those that precede the start of an edit list. Theora repeats a frame by an empty
    packet, for which its decoder has no output. The rate that ffmpeg states may be that of the ticks of a clock (DV) or
    of fields (GXF), and some containers have none (Ogg, IVF).
    """
    steps = None  # in seconds, if they are even and some of them repeat a frame
    try:
        base, packets = time_stamps(path, ["-c", "copy", "-copyinkf"])
        decoding, shown, _, sizes = packets.T
        stamps = np.sort(shown if NO_TIME not in shown else decoding)  # AVI has times of decoding only
        if NO_TIME in stamps:
            return None, None, None
        times = stamps * float(base)
        if even_frames(times) is None:
            rate = mean_rate(times, tick=float(base), stated=stated)
            if rate is None or sizes.all():
                return rate, None, None
            steps = times
    except ValueError:
        pass
    options = ["-fps_mode", "passthrough", "-enc_time_base", "demux", "-c:v", "wrapped_avframe"]
    base, frames = time_stamps(path, options)
    times = frames[:, 1] * float(base)
    try:
        if NO_TIME in frames[:, 1] or not len(frames):
            raise ValueError("uneven time stamps that cannot be read")
        timing = even_frames(times) if steps is None else held_frames(times, steps)
    except ValueError as error:
        return None, None, str(error)
    if timing is None:
        return mean_rate(times, tick=float(base), stated=stated), None, None
    return timing.fps, dataclasses.replace(timing, tick=float(base)), None


def time_stamps(path: str, options: list[str], *, input_options: Iterable[str] = ()) -> tuple[Fraction, np.ndarray]:
    """Time base in seconds, and int64 [N, 4] of a file's packets or frames.

    The columns are times of decoding and of presentation, 1 for a key frame and 0 for others, and the size in bytes.
    """
    with ffmpeg_input(path) as (source, descriptors):
        command = [find_ffmpeg(), "-v", "error", "-nostdin", *input_options, *source, "-map", "0:V:0"]
        command += [*options, "-f", "framecrc", "-"]
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, pass_fds=descriptors)
    listed = result.stdout
    if result.returncode and not listed:
        refuse_old_ffmpeg(result.stderr.decode(errors="replace"))
    base = re.search(rb"^#tb 0: (\d+)/(\d+)$", listed, re.MULTILINE)
    fraction = Fraction(1) if base is None else Fraction(int(base[1]), int(base[2]))
    found = PACKET.findall(listed)
    rows = [(int(dts), int(pts), int(flags, 16) & 1 if flags else 1, int(size)) for dts, pts, size, flags in found]
    return fraction, np.array(rows, dtype=np.int64).reshape(-1, 4)


@contextlib.contextmanager
def ffmpeg_input(path: str) -> Iterator[tuple[list[str], tuple[int]]]:
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


def refuse_old_ffmpeg(message: str) -> None:
    """Raise a UserError if ffmpeg's error message says that it does not know an option that is used here."""
    found = TOO_OLD.search(message)
    if found is not None:
        line = message[found.start() :].partition("\n")[0].strip().rstrip(".")
        raise UserError(
            f"This ffmpeg is too old, '{find_ffmpeg()}' ({line}): version 7 or newer is needed. Run `pip install -U "
            "imageio-ffmpeg`; if IMAGEIO_FFMPEG_EXE is set, unset it."
        )
