"""Validation of a dataset by decoding every frame, and a contact sheet of its videos."""

import collections
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from dnnlib import UserError, atomic_write
from dnnlib.processes import parallel_map
from training.data.annotations import (
    KINDS,
    angles_vector,
    describe_elsewhere,
    describe_unused_classes,
    has_entries,
    is_shards,
    listed_frames,
    notes_on_unmatched,
    read_cameras,
    read_labels,
    store_manifest,
)
from training.data.camera_statistics import describe_cameras
from training.data.frame_store import FrameStore
from training.data.images import decode_image, fit_square
from training.data.names import IMAGE_SUFFIXES, MANIFEST, listed_path
from training.data.webdataset_files import open_shards, read_samples
from training.dataset_tool.source_videos import valid_unicode

__all__ = ["DatasetReport", "check_dataset", "write_preview"]

LISTED = 20  # problems that are printed
SHEET = (8, 8)  # rows (videos) and columns (frames) of a contact sheet
TILE = 128  # largest size of a frame in it, in pixels
BATCH = 32  # videos per task of a worker


@dataclasses.dataclass
class DatasetReport:
    """Result of a validation: sizes, problems, notes."""

    path: str
    nframes: int  # of a training clip
    averaged: bool = False  # nframes is the mean length of the clips: nothing says how long they were meant to be
    videos: int = 0
    frames: int = 0
    clips: int = 0
    short: int = 0
    sizes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    cameras: list[np.ndarray] = dataclasses.field(default_factory=list)  # yaw and pitch of each clip
    problems: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def lines(self) -> list[str]:
        """The report as lines of text."""
        sizes = ", ".join(f"{w}×{h} ({count})" for (w, h), count in self.sizes.most_common(5))
        lines = [
            f"dataset   {self.path}",
            f"videos    {self.videos}, of which {self.short} are shorter than a clip",
            f"frames    {self.frames}",
            f"clips     {self.clips} of {self.nframes} frames" + (" on average" if self.averaged else ""),
            f"sizes     {sizes}" + (f" and {len(self.sizes) - 5} others" if len(self.sizes) > 5 else ""),
        ]
        lines += [f"note      {valid_unicode(note)}" for note in self.notes]
        lines += describe_cameras(np.array(self.cameras)) if self.cameras else []
        lines += [f"problem   {valid_unicode(problem)}" for problem in self.problems[:LISTED]]
        if len(self.problems) > LISTED:
            lines.append(f"problem   … and {len(self.problems) - LISTED} more")
        return lines if self.problems else [*lines, "sound     no problems"]


def check_dataset(path: str, *, nframes: int = 16, workers: int = 1) -> DatasetReport:
    """Decode every frame of a dataset and compare it with its manifest and labels.

    Args:
        path: A folder or zip of frames, or shards.
        nframes: Length of a clip, where there is no manifest.
        workers: Number of processes.

    Raises:
        UserError: There is no dataset.
    """
    if is_shards(path):
        return _check_shards(path, workers=workers)
    store = FrameStore(path)
    store.require_videos()
    problems = []
    try:
        manifest = store_manifest(store)
    except UserError as error:
        manifest, problems = None, [str(error)]
    clip_length = _clip_length(manifest)
    clip_known = not problems and (manifest is None or clip_length is not None)
    report = DatasetReport(path=valid_unicode(path), nframes=clip_length or nframes, problems=problems)
    counts = {}
    numbers = range(len(store.videos))
    batches = [list(numbers[start : start + BATCH]) for start in range(0, len(numbers), BATCH)]
    with tqdm(total=len(numbers), desc="checking", unit=" videos", disable=None, dynamic_ncols=True) as bar:
        for results in parallel_map(_check_videos, batches, shared=store, workers=workers):
            for number, (sizes, broken) in results:
                video = store.videos[number]
                _add(report, video.path, len(video), sizes, broken)
                counts[listed_path(video.path)] = len(video)
                bar.update()
    report.notes += store.notes()
    if store.dangling:
        report.problems.append(store.dangling)
    if manifest is not None:
        _compare(report, manifest, counts)
    if clip_known:
        _require_clips(report)
    clips = np.array([len(video) // report.nframes for video in store.videos])
    uses = clips if clips.any() else np.ones_like(clips)  # of each video by training
    try:
        if has_entries(store, "labels"):
            labels, c_dim = read_labels(store, store.videos)
            report.notes.append(f"labels of length {c_dim} for every video")
            unused = describe_unused_classes(labels[uses > 0], c_dim)
            report.notes += [] if unused is None else [unused]
        if has_entries(store, "cameras"):
            report.cameras = list(np.repeat(read_cameras(store, store.videos), uses, axis=0))
            report.notes.append("a camera for every video")
        report.notes += filter(None, [describe_elsewhere(store)])
        report.notes += notes_on_unmatched(store, store.videos, [kind for kind in KINDS if has_entries(store, kind)])
    except UserError as error:
        report.problems.append(str(error))
    return report


def _add(report: DatasetReport, path: str, length: int, sizes: collections.Counter, broken: list[str]) -> None:
    report.videos += 1
    report.frames += length
    report.clips += length // report.nframes
    report.short += length < report.nframes
    report.sizes.update(sizes)
    report.problems += broken
    if len(sizes) > 1:
        report.problems.append(f"'{path}' has frames of different sizes: {', '.join(f'{w}×{h}' for w, h in sizes)}")


def _require_clips(report: DatasetReport) -> None:
    """Add the problem that training would refuse the dataset as a whole."""
    if report.videos and report.short == report.videos:
        report.problems.append(
            f"all videos are shorter than nframes={report.nframes}: use longer videos or a smaller nframes"
        )


def _clip_length(manifest: dict[str, Any] | None) -> int | None:
    """The length of a training clip in a manifest; None if it is missing or invalid."""
    nframes = (manifest or {}).get("nframes")
    return nframes if type(nframes) is int and nframes > 0 else None


def _compare(report: DatasetReport, manifest: dict[str, Any], counts: dict[str, int]) -> None:
    if _clip_length(manifest) is None:
        report.problems.append(f"{MANIFEST} is damaged: it has no valid nframes")
    try:
        listed = listed_frames(manifest)
    except ValueError as error:
        report.problems.append(str(error))
        return
    for path, frames in listed.items():
        if counts.get(path) != frames:
            found = f"{counts[path]} of its frames are" if path in counts else "it is not"
            report.problems.append(f"'{path}' has {frames} frames in {MANIFEST}, but {found} there")
    extra = len(counts.keys() - listed.keys())
    if extra:
        report.notes.append(f"{extra} videos are not in {MANIFEST}")
    side = manifest.get("resolution")
    if any(size != (side, side) for size in report.sizes):
        report.problems.append(f"{MANIFEST} says {side}×{side} pixels, not all frames have them")


def _check_videos(store: FrameStore, numbers: list[int]) -> list[tuple[int, tuple[collections.Counter, list[str]]]]:
    """Frame sizes of each video, and the read errors."""
    results = []
    for number in numbers:
        video, sizes, broken = store.videos[number], collections.Counter(), []
        for index in range(len(video)):
            try:
                sizes[store.read_frame(video, index).size] += 1
            except UserError as error:
                broken.append(str(error))
        results.append((number, (sizes, broken)))
    return results


def _check_shards(path: str, *, workers: int) -> DatasetReport:
    shards = open_shards(path)
    nframes = _clip_length(shards.manifest)
    report = DatasetReport(path=valid_unicode(path), nframes=nframes or 1)
    report.problems += [f"the shard '{name}' is in index.json, but it is not there" for name in shards.missing]
    shorter, unusable = [], 0
    with tqdm(total=len(shards.urls), desc="checking", unit=" shards", disable=None, dynamic_ncols=True) as bar:
        for number, results in enumerate(parallel_map(_check_shard, shards.urls, shared=None, workers=workers)):
            lengths, sizes, broken, cameras, others = results
            report.cameras += cameras
            unusable += others
            report.videos += len(lengths)
            report.frames += sum(lengths)
            report.clips += len(lengths)
            short = sum(length < report.nframes for length in lengths)
            report.short += short
            report.sizes.update(sizes)
            report.problems += broken
            if empty := lengths.count(0):
                suffixes = ", ".join(IMAGE_SUFFIXES)
                report.problems.append(f"'{shards.urls[number]}' has {empty} clip(s) without images ({suffixes})")
            if short > empty:
                shorter.append(f"'{shards.urls[number]}' has {short - empty} clip(s) of fewer than {nframes} frames")
            if len(lengths) != shards.counts[number]:
                report.problems.append(
                    f"'{shards.urls[number]}' has {len(lengths)} clips, {shards.counts[number]} are listed"
                )
            bar.update()
    without = report.clips - len(report.cameras)
    expected = report.cameras or unusable or (shards.manifest or {}).get("cameras") is True
    if expected and without:
        report.problems.append(
            f"{without} of {report.clips} clips have no camera, or none that is [yaw, pitch] in radians"
        )
    if nframes is None:
        report.nframes, report.averaged = report.frames // max(report.clips, 1), True
    elif report.short < report.videos:
        report.problems += shorter  # training would replace their items
    else:
        _require_clips(report)
    return report


def _check_shard(_: None, url: str) -> tuple[list[int], collections.Counter, list[str], list[np.ndarray], int]:
    """Lengths of the clips, number of frames of each size, faults, cameras, and number of cameras that are none."""
    lengths, sizes, broken, cameras, unusable = [], collections.Counter(), [], [], 0
    try:
        for sample in read_samples(url):
            lengths.append(len(sample))
            camera = angles_vector(sample.about.get("camera"))
            cameras += [] if camera is None else [camera]
            unusable += camera is None and sample.about.get("camera") is not None
            for index, (name, _) in enumerate(sample.frames):
                try:
                    sizes[decode_image(sample.image(index)[1]).size] += 1
                except MemoryError:
                    raise
                except Exception as error:  # decoders raise any exception for damaged data
                    broken.append(f"Cannot read the frame '{sample.key}.{name}' in '{url}' ({error})")
    except UserError as error:
        broken.append(str(error))
    return lengths, sizes, broken, cameras, unusable


# ----------------------------------------------------------------------------------------------------------------------
# Contact sheet


def write_preview(path: str, file: str) -> None:
    """Write a contact sheet of evenly spaced videos, one per row, with frames from first to last.

    Unreadable frames are red.

    Raises:
        UserError: There is no dataset, or the file cannot be written.
    """
    rows, columns = SHEET
    tiles = []
    if is_shards(path):
        for sample in _first_samples(path, rows):
            chosen = evenly_spaced(range(len(sample)), columns)
            tiles.append([_tile(lambda s=sample, i=index: decode_image(s.image(i)[1])) for index in chosen])
    else:
        store = FrameStore(path)
        store.require_videos()
        for number in evenly_spaced(range(len(store.videos)), rows):
            video = store.videos[number]
            chosen = evenly_spaced(range(len(video)), columns)
            tiles.append([_tile(lambda v=video, i=index: store.read_frame(v, i)) for index in chosen])
    if not tiles:
        raise UserError(f"'{path}' has no clip with images to show.")
    side = min(TILE, max(min(tile.size) for row in tiles for tile in row))
    sheet = Image.new("RGB", (columns * side, len(tiles) * side))
    for y, row in enumerate(tiles):
        for x, tile in enumerate(row):
            pixels = fit_square(tile, side)
            sheet.paste(Image.fromarray(pixels.transpose(1, 2, 0)), (x * side, y * side))
    with atomic_write(file) as stream:
        sheet.save(stream, format="PNG")


def _tile(read: Callable[[], Image.Image]) -> Image.Image:
    try:
        return read()
    except Exception:  # decoders raise any exception for damaged data
        return Image.new("RGB", (1, 1), (255, 0, 0))


def _first_samples(path: str, count: int) -> Iterator[Any]:
    for url in open_shards(path).urls:
        for sample in read_samples(url):
            if count == 0:
                return
            if len(sample):
                count -= 1
                yield sample


def evenly_spaced(numbers: range, count: int) -> list[int]:
    """At most `count` evenly spaced numbers of a range with step 1, with the first and the last."""
    return sorted({round(x) for x in np.linspace(numbers.start, numbers.stop - 1, min(count, len(numbers)))})
