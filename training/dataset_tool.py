"""Turn videos into a training set: `python -m training.dataset_tool SOURCE OUT --resolution 64`.

SOURCE is a video file, a folder of video files, or a folder of frame folders (or a zip of them). Every frame becomes a
square PNG, `OUT/videos/<name>_<k>/<frame>.png`, where k counts the pieces that a video is cut into and the frame number
is that within the whole video. Training cuts each folder into clips that do not overlap, so a lone video of 120 frames
is only seven clips of 16; `--clip-step 1` makes 105 overlapping folders of it that share their files by hard links.

OUT appears at the end, complete, or not at all.
"""

import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Iterator
from typing import Any

import click
from PIL import Image
from tqdm import tqdm

from dnnlib import UserError, atomic_write, one_line, run_cli
from training.clip_writer import Cut, new_folder
from training.frame_store import FrameStore, Video
from training.video_reader import BrokenVideo, decode_video

__all__ = ["prepare", "read_manifest"]

MANIFEST = "manifest.json"
FORMAT = "square-video-frames"  # marks a manifest as this tool's


def read_manifest(folder: str | os.PathLike) -> dict[str, Any] | None:
    """The manifest of a folder that this tool wrote, else None."""
    try:
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
            manifest = json.load(file)
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("format") == FORMAT else None


def prepare(
    *,
    source: str,
    out: str,
    resolution: int,
    nframes: int = 16,
    stride: int = 1,
    max_frames: int | None = None,
    clip_frames: int | None = None,
    clip_step: int | None = None,
    overwrite: bool = False,
    skip_broken: bool = False,
) -> dict[str, Any]:
    """Write the frames of `source` to the new folder `out`.

    Args:
        source: Video file, or a folder or zip of videos or frame folders.
        out: Folder to make; missing parents are made too.
        resolution: Pixels per side.
        nframes: Length of a training clip; shorter pieces are left out.
        stride: Keep every so-many-th frame.
        max_frames: Of a video, after the stride; None: all.
        clip_frames: Cut a video into pieces of so many frames; None: do not cut (nframes if there is a clip_step).
        clip_step: Start a piece every so many frames; None: at the end of the one before.
        overwrite: Replace `out` if this tool made it.
        skip_broken: Leave out videos that cannot be decoded to their end, instead of stopping.

    Returns:
        The manifest, as written to `out/manifest.json`.

    Raises:
        UserError: `source` cannot be read, gives no clips, or `out` cannot be written.
    """
    if clip_step is not None and clip_frames is None:
        clip_frames = nframes
    if clip_frames is not None and clip_frames < nframes:
        raise UserError(f"Pieces of {clip_frames} frames are shorter than a clip: use at least nframes={nframes}.")
    out = os.path.realpath(out)
    _check_out(out, os.path.realpath(source), overwrite)
    sources, labels = _find_sources(source)
    cut = Cut(length=clip_frames, step=clip_step or clip_frames, shortest=nframes)
    written, skipped, new_labels, longest = [], [], [], 0
    with new_folder(out) as folder, tqdm(unit=" frames", disable=None, dynamic_ncols=True) as bar:
        for number, item in enumerate(sources, start=1):
            bar.set_description(f"video {number}/{len(sources)}")
            taken = item.frames(stride=stride, limit=max_frames)
            base = os.path.join(folder, "videos", item.name)
            try:
                with contextlib.closing(taken):
                    total, pieces = cut.write(taken, base=base, resolution=resolution, bar=bar)
            except BrokenVideo as error:
                if not skip_broken:
                    raise UserError(f"{error} Repair or remove it, or use --skip-broken.") from error
                cut.remove(base)
                skipped.append({"source": item.path, "reason": one_line(error)})
                continue
            longest = max(longest, total)
            if not pieces:
                skipped.append({"source": item.path, "reason": f"{total} frames, fewer than {nframes}"})
            for name, count in pieces:
                written.append({"path": f"videos/{name}", "source": item.path, "frames": count})
                if item.path in labels:
                    new_labels.append([f"videos/{name}", labels[item.path]])
        if not written:
            raise UserError(
                f"'{source}' gives no clips: the longest video has {longest} frames, nframes is {nframes}. "
                "Use longer videos, or a smaller --nframes or --stride."
            )
        manifest = {
            "format": FORMAT,
            "resolution": resolution,
            "nframes": nframes,
            "stride": stride,
            "max_frames": max_frames,
            "clip_frames": clip_frames,
            "clip_step": cut.step,
            "videos": written,
            "skipped": skipped,
        }
        _write_json(os.path.join(folder, MANIFEST), manifest)
        if new_labels:
            _write_json(os.path.join(folder, "dataset.json"), {"labels": new_labels})
    return manifest


# ----------------------------------------------------------------------------------------------------------------------
# Reading


@dataclasses.dataclass(frozen=True)
class _Source:
    """One video: what its folders are called, where it lies in SOURCE, and a file or a folder of frames."""

    name: str
    path: str
    movie: str | None = None
    store: FrameStore | None = None
    video: Video | None = None

    def frames(self, *, stride: int, limit: int | None) -> Iterator[Image.Image]:
        stop = None if limit is None else limit * stride
        if self.movie is not None:
            with contextlib.closing(decode_video(self.movie)) as frames:
                yield from itertools.islice(frames, 0, stop, stride)
        else:
            for index in range(len(self.video))[:stop:stride]:
                try:
                    yield self.store.read_frame(self.video, index)
                except UserError as error:
                    raise BrokenVideo(str(error)) from error


def _find_sources(source: str) -> tuple[list[_Source], dict[str, Any]]:
    """The videos in order, and labels by path where there is a dataset.json."""
    names = set()

    def unique(path: str) -> str:
        name = candidate = path.replace("/", "-")[:200]  # file names end at 255 bytes
        for number in itertools.count(2):
            if candidate not in names:
                names.add(candidate)
                return candidate
            candidate = f"{name}-{number}"

    def stem(path: str) -> str:
        return os.path.splitext(path)[0]

    if os.path.isfile(source) and not source.lower().endswith(".zip"):
        file = os.path.basename(source)
        return [_Source(name=unique(stem(file)), path=file, movie=source)], {}
    store = FrameStore(source)
    movies = [] if store.is_zip else store.movies
    if not movies:
        store.require_videos()
    found = [_Source(name=unique(stem(m)), path=m, movie=os.path.join(source, m)) for m in movies]
    found += [_Source(name=unique(v.path), path=v.path, store=store, video=v) for v in store.videos]
    try:
        labels = dict(json.loads(store.read_bytes("dataset.json") or b'{"labels": []}')["labels"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"Cannot use the labels in '{source}/dataset.json' ({error}): repair or remove it.") from error
    return found, labels


# ----------------------------------------------------------------------------------------------------------------------
# Writing


def _write_json(path: str, content: dict) -> None:
    with atomic_write(path, "w") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")


def _check_out(out: str, source: str, overwrite: bool) -> None:
    if os.path.lexists(out) and not os.path.isdir(out):
        raise UserError(f"'{out}' is a file: choose another folder for the frames.")
    if os.path.isdir(source) and os.path.commonpath([out, source]) in (out, source):
        raise UserError(f"'{out}' and '{source}' lie one inside the other: choose another folder for the frames.")
    if os.path.isdir(out) and os.listdir(out):
        if not overwrite:
            raise UserError(f"'{out}' is not empty: use --overwrite to replace it, or choose another folder.")
        if read_manifest(out) is None:
            raise UserError(f"'{out}' was not made by this tool, so --overwrite leaves it alone: remove it yourself.")


# ----------------------------------------------------------------------------------------------------------------------


COUNT = click.IntRange(min=1)


@click.command()
@click.argument("source")
@click.argument("out")
@click.option("--resolution", type=COUNT, default=64, show_default=True, help="Pixels per side.")
@click.option("--nframes", type=COUNT, default=16, show_default=True, help="Length of a training clip.")
@click.option("--stride", type=COUNT, default=1, show_default=True, help="Keep every so-many-th frame.")
@click.option("--max-frames", type=COUNT, help="Of a video, after the stride.  [default: all]")
@click.option("--clip-frames", type=COUNT, help="Cut videos into folders of so many frames.")
@click.option("--clip-step", "--overlap", "clip_step", type=COUNT, help="Start such a folder every so many frames.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if this tool made it.")
@click.option("--skip-broken", is_flag=True, help="Leave out videos that cannot be decoded.")
def main(source: str, out: str, **options: Any) -> None:
    """Turn SOURCE (a video, a folder of videos, or a folder of frame folders) into the training set OUT."""
    manifest = prepare(source=source, out=out, **options)
    for item in manifest["skipped"]:
        click.echo(f"left out {item['source']}: {item['reason']}", err=True)
    click.echo(summary(out, manifest))


def summary(out: str, manifest: dict[str, Any]) -> str:
    """One line on what a prepared folder holds."""
    videos, n = manifest["videos"], manifest["nframes"]
    sources = len({video["source"] for video in videos})
    clips = sum(video["frames"] // n for video in videos)
    return (
        f"{out}: {sources} video(s) in {len(videos)} folder(s), {clips} clips of {n} frames, {manifest['resolution']}²"
    )


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
