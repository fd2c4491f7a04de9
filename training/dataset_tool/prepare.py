"""Preparation of a dataset: convert the remaining videos, write the manifest, pack, move into place."""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from dnnlib import UserError, atomic_write, is_number, one_line
from dnnlib.command_line import FRAME_RATE
from training.data.annotations import (
    FRAMES_FORMAT,
    SHARDS_FORMAT,
    VERSION,
    describe_elsewhere,
    describe_unmatched,
    parse_manifest,
    read_cameras,
    read_labels,
)
from training.data.crops import Crop
from training.data.dataset_folders import is_inside, keep_out_of_made_data
from training.data.frame_store import FrameStore, Video
from training.data.names import ANNOTATIONS, MANIFEST, listed_path
from training.dataset_tool.archives import pack_shards, pack_zip
from training.dataset_tool.convert import Conversion, Cut, convert_videos
from training.dataset_tool.source_videos import SourceSet, find_sources, valid_unicode
from training.dataset_tool.staging import Unfinished, replace_path, write_json

__all__ = ["BOX_FILE", "check_lengths", "check_out", "prepare", "read_manifest", "dataset_summary"]

BOX_FILE = "faces.json"  # boxes of the clips, in a dataset made with --faces
IN_TAR_FILES = "in tar files all clips have one, or none"


def read_manifest(path: str | os.PathLike) -> dict[str, Any] | None:
    """The manifest of a folder or zip that this tool wrote, else None."""
    try:
        if not os.path.isdir(path):
            return parse_manifest(FrameStore(path).read_bytes(MANIFEST))
        with open(os.path.join(path, MANIFEST), "rb") as file:
            return parse_manifest(file.read())
    except (OSError, UserError):
        return None


def prepare(
    *,
    source: str,
    out: str,
    resolution: int,
    nframes: int = 16,
    fps: float | None = None,
    stride: int = 1,
    max_frames: int | None = None,
    clip_frames: int | None = None,
    clip_step: int | None = None,
    crop: Crop | None = None,
    image: str = "png",
    shape: str = "folder",
    shard_clips: int = 512,
    preset: str | None = None,
    workers: int = 1,
    overwrite: bool = False,
    skip_broken: bool = False,
    faces: Mapping[str, Any] | None = None,
    box_file: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Convert `source` to the new dataset `out`, or continue an interrupted conversion.

    Args:
        source: Video file, or a folder or zip of videos or frame folders.
        out: Folder or zip to write; missing parents are created.
        resolution: Pixels per side.
        nframes: Length of a training clip; shorter pieces are left out.
        fps: Frames per second to which videos are resampled; None for their own.
        stride: Keep every n-th frame, after the resampling.
        max_frames: Largest number of frames of a video, after the stride; None for all.
        clip_frames: Cut videos into pieces of this many frames; None for no cuts (nframes if there is a clip_step).
        clip_step: Frames between the starts of pieces; None for pieces without overlap.
        crop: The choice of the square; None for the centre.
        image: 'png' or 'jpg'.
        shape: 'folder', 'zip' (not compressed), or 'shards' (a folder of tar files in the form of webdataset).
        shard_clips: Clips in a tar file.
        preset: Name recorded in the manifest.
        workers: Number of processes.
        overwrite: Replace `out` if this tool wrote it, and restart an interrupted conversion.
        skip_broken: Leave out videos that cannot be decoded to their end, instead of stopping.
        faces: Description of how the boxes were found, recorded in the manifest.
        box_file: Content of the file of boxes, kept in the dataset as faces.json.

    Returns:
        The manifest, as written to `manifest.json`.

    Raises:
        UserError: `source` cannot be read, gives no clips, or `out` cannot be written.
    """
    if clip_step is not None and clip_frames is None:
        clip_frames = nframes
    if fps is not None and not (is_number(fps) and FRAME_RATE.min <= fps <= FRAME_RATE.max):
        raise UserError(f"fps must be a number from {FRAME_RATE.min} to {FRAME_RATE.max}, got {fps!r:.40}.")
    if fps is not None:
        fps = int(fps) if fps == int(fps) else float(fps)  # 25.0 is 25 in stamps and messages
    check_lengths(nframes=nframes, clip_frames=clip_frames, max_frames=max_frames)
    check_out(out, source, overwrite=overwrite, shape=shape)
    out = os.path.realpath(out)
    crop = crop or Crop()
    _require_rate(crop, fps)
    among = find_sources(source, fps=fps)
    if shape == "shards":
        _require_entries(among, crop)
    cut = Cut(length=clip_frames, step=clip_step or clip_frames, shortest=nframes)
    conversion = Conversion(
        resolution=resolution, stride=stride, max_frames=max_frames, cut=cut, crop=crop, suffix=image
    )
    settings = {
        "version": VERSION,
        "preset": preset,
        "resolution": resolution,
        "nframes": nframes,
        "fps": fps,
        "stride": stride * among.stride,  # over the frames of the first source, as training counts them
        "max_frames": max_frames,
        "clip_frames": clip_frames,
        "clip_step": cut.step,
        "crop": crop.describe(),
        "image": image,
    }
    growing = Unfinished(out)
    with growing.opened(settings, restart=overwrite):
        records, skipped = _convert(growing, among, conversion, workers=workers, skip_broken=skip_broken)
        in_clips = {item.name for item in among.sources if crop.clips_of(item.path) is not None}
        after = "" if fps is None else f" at --fps {fps:g}"
        lengths = {"nframes": nframes, "after": after if stride == 1 else f"{after} after --stride {stride}"}
        if not any(record["pieces"] for record in records.values()):
            growing.remove()
            about = {"max_frames": max_frames, "in_clips": in_clips, "detected": faces is not None}
            raise UserError(f"'{source}' gives no clips: {_no_clips(records, skipped, **lengths, **about)}")
        contents = _contents(among, records, skipped, **lengths, in_clips=in_clips)
        manifest = {"format": FRAMES_FORMAT, **settings, **contents}
        manifest["unmatched"] = _unmatched(among, crop, records)
        if faces is not None:
            manifest["faces"] = dict(faces)
        _write_lists(growing.data, manifest, _entries(among, records), box_file)
        ready = growing.data
        if shape == "zip":
            ready = pack_zip(growing.data, os.path.join(growing.folder, "packed.zip"))
        elif shape == "shards":
            manifest["format"] = SHARDS_FORMAT
            ready = pack_shards(
                growing.data, os.path.join(growing.folder, "packed"), manifest=manifest, clips_per_shard=shard_clips
            )
            if box_file is not None:
                shutil.copy(os.path.join(growing.data, BOX_FILE), os.path.join(ready, BOX_FILE))
        replace_path(ready, out)
        growing.remove()
    return manifest


def _no_clips(
    records: Mapping[str, Mapping[str, Any]],
    skipped: Sequence[Mapping[str, str]],
    *,
    nframes: int,
    after: str,
    max_frames: int | None,
    in_clips: Collection[str],
    detected: bool,
) -> str:
    """The reasons why no video gives a clip, and advice.

    Args:
        after: The rate and the stride in words, if frames are left out.
        in_clips: Names of the videos of which clips in the file of boxes are used.
        detected: These clips were found by the detector.
    """
    if not records and skipped:
        first = f"'{skipped[0]['source']}': {skipped[0]['reason'].removesuffix('.')}"
        return f"{len(skipped)} video(s) are left out, e.g. {first}."
    whole = [record for name, record in records.items() if name not in in_clips]
    reasons, remedies = [], []
    if len(whole) < len(records):  # videos with clips are only read up to the end of the last one
        clips = "clip that was found" if detected else "clip of these videos in the file of boxes"
        within = "" if max_frames is None else f" among the first {max_frames} of its video (--max-frames)"
        reasons.append(f"no {clips} has {nframes} frames{after}{within}")
        remedies += ["longer clips"] if max_frames is None else ["longer clips", "a larger --max-frames"]
    if whole:
        longest = max(record["frames"] for record in whole)
        video = "other video" if reasons else "video"
        reasons.append(f"the longest {video} has {longest} frames{after}, nframes is {nframes}")
        remedies.append("longer videos")
    stills = [record["source"] for record in whole if record["frames"] == 1 and _is_gif(record["source"])]
    advice = f"Use {', '.join(remedies)}, or a smaller --nframes or --stride."
    if stills:
        advice = f"GIF files are read as videos, also {stills[0]}: save frames as PNG, in a folder for each video."
    return f"{'; '.join(reasons)}. {advice}"


def _is_gif(path: str) -> bool:
    return path.lower().endswith(".gif")


def _write_lists(
    folder: str,
    manifest: dict[str, Any],
    entries: dict[str, list[list[Any]]],
    box_file: Mapping[str, Any] | None,
) -> None:
    """Write the other files of a dataset: the manifest, labels and cameras, boxes."""
    write_json(os.path.join(folder, MANIFEST), manifest)
    if entries:
        write_json(os.path.join(folder, ANNOTATIONS), entries)
    if box_file is not None:
        with atomic_write(os.path.join(folder, BOX_FILE), "w") as stream:
            json.dump(box_file, stream, ensure_ascii=False)


def _require_rate(crop: Crop, fps: float | None) -> None:
    """Refuse boxes for frames at another rate than that of the dataset.

    Raises:
        UserError: There are such boxes.
    """
    if crop.boxes is None:
        return
    counted = {path: None for path, boxes in crop.boxes.by_path.items() if len(boxes) > 1}
    rates = [*counted.items(), *((path, clip.fps) for path, clips in crop.boxes.clips.items() for clip in clips)]
    for path, rate in rates:
        # The messages round the rate, and files may have it rounded.
        if rate == fps or (rate is not None and fps is not None and math.isclose(rate, fps, rel_tol=1e-5)):
            continue
        if rate is not None:
            raise UserError(f"The file of boxes counts frames of '{path}' at {rate:g} per second: use --fps {rate:g}.")
        raise UserError(
            f"The file of boxes counts the frames of '{path}' itself, not those of --fps {fps:g}: leave --fps out, "
            f'or give clips with "fps": {fps:g}.'
        )


def _require_entries(among: SourceSet, crop: Crop) -> None:
    """Check the labels and cameras of dataset.json before a conversion to tar files, where every clip has its own.

    Raises:
        UserError: A video has no entry, or an invalid one.
    """
    left_out = {} if crop.boxes is None else crop.boxes.left_out
    clips = [] if crop.boxes is None else [clip for found in crop.boxes.clips.values() for clip in found]
    wanted = [Video(source.path, 0, 0) for source in among.sources if listed_path(source.path) not in left_out]
    if among.entries.get("labels"):
        read_labels(among.store, wanted, otherwise=f"remove all labels: {IN_TAR_FILES}")
    if all(clip.cameras is None for clip in clips):  # else those of dataset.json are not used
        if among.entries.get("cameras"):
            read_cameras(among.store, wanted, otherwise=f"remove all cameras: {IN_TAR_FILES}")
        return
    for video in wanted:
        found = crop.boxes.clips.get(listed_path(video.path), [])
        if not found or any(clip.cameras is None for clip in found):
            raise UserError(
                f"'{video.path}' has no camera in the file of boxes (or a clip without one), but other videos have: "
                f"{IN_TAR_FILES}."
            )


def _convert(
    growing: Unfinished, among: SourceSet, conversion: Conversion, *, workers: int, skip_broken: bool
) -> tuple[dict[str, dict[str, Any]], list[dict[str, str]]]:
    """Convert the remaining videos; returns the records of all by name, and the broken ones."""
    records = growing.records()
    left_out = {} if conversion.crop.boxes is None else conversion.crop.boxes.left_out
    wanted = {source.name: source for source in among.sources if listed_path(source.path) not in left_out}
    for name, record in list(records.items()):
        if name not in wanted or record["stamp"] != among.stamp(wanted[name]):
            growing.forget(records.pop(name))
    todo = [source for source in wanted.values() if source.name not in records]
    skipped, videos = [], len(wanted)
    for source in among.sources:
        if source.name not in wanted:
            skipped.append({"source": valid_unicode(source.path), "reason": left_out[listed_path(source.path)]})
    with tqdm(unit=" frames", disable=None, dynamic_ncols=True) as bar:
        bar.set_description(f"{len(records)} of {videos} videos")
        for source, record in convert_videos(
            todo, among=among, conversion=conversion, folder=growing.work, workers=workers, on_frames=bar.update
        ):
            if isinstance(record, Exception):
                if not skip_broken:
                    raise UserError(f"{record} {record.advice}, or use --skip-broken.") from record
                skipped.append({"source": valid_unicode(source.path), "reason": valid_unicode(one_line(record))})
                continue
            growing.keep(record)
            records[source.name] = record
            bar.set_description(f"{len(records)} of {videos} videos")
    return records, skipped


def _entries(among: SourceSet, records: dict[str, dict[str, Any]]) -> dict[str, list[list[Any]]]:
    """Labels and cameras of all pieces, in the form of dataset.json; kinds without entries are left out."""
    entries = {kind: _piece_entries(by_path, among, records) for kind, by_path in among.entries.items()}
    entries["cameras"] = _clip_cameras(among, records) or entries.get("cameras")
    return {kind: listed for kind, listed in entries.items() if listed}


def _piece_entries(by_path: dict[str, Any], among: SourceSet, records: dict[str, dict[str, Any]]) -> list[list[Any]]:
    """Labels or cameras of the source's videos, repeated for the pieces of each."""
    return [
        [f"videos/{name}", by_path[listed_path(item.path)]]
        for item in among.sources
        if item.name in records and listed_path(item.path) in by_path
        for name, _ in records[item.name]["pieces"]
    ]


def _clip_cameras(among: SourceSet, records: dict[str, dict[str, Any]]) -> list[list[Any]]:
    """Cameras of the pieces that were cut from clips with cameras."""
    in_order = [records[source.name] for source in among.sources if source.name in records]
    return [
        [f"videos/{name}", camera]
        for record in in_order
        for (name, _), camera in zip(record["pieces"], record.get("cameras", []))
        if camera is not None
    ]


def _unmatched(among: SourceSet, crop: Crop, records: dict[str, dict[str, Any]]) -> list[str]:
    """Messages about entries without a video, videos without a label or a camera, and a misplaced dataset.json."""
    paths = {listed_path(source.path) for source in among.sources}
    listed = {kind: by_path for kind, by_path in among.entries.items() if by_path}
    found = []
    for kind, by_path in listed.items():
        missing = sorted(paths - by_path.keys())
        if missing:
            found.append(f"{len(missing)} of {len(paths)} videos have no {kind}, e.g. '{missing[0]}'.")
    cameras = _clip_cameras(among, records)
    pieces = [f"videos/{name}" for record in records.values() for name, _ in record["pieces"]]
    bare = sorted(set(pieces) - {name for name, _ in cameras}) if cameras else []
    if bare:
        found.append(f"{len(bare)} of {len(pieces)} folders have no camera in the file of boxes, e.g. '{bare[0]}'.")
    if crop.boxes is not None:
        listed["boxes"] = crop.boxes.paths()
    unmatched = [None if among.store is None else describe_elsewhere(among.store)]
    unmatched += [describe_unmatched(by_path, paths, kind) for kind, by_path in listed.items()]
    return [valid_unicode(text) for text in [*found, *unmatched] if text is not None]


def _notes(among: SourceSet) -> list[str]:
    """Messages about files of the source that are left out, or read twice."""
    if among.store is None:
        return []
    notes = among.store.notes(movies_are_read=True) + ([among.store.dangling] if among.store.dangling else [])
    return [valid_unicode(f"{note}.") for note in notes]


def _contents(
    among: SourceSet,
    records: dict[str, dict[str, Any]],
    skipped: list[dict[str, str]],
    *,
    nframes: int,
    after: str,
    in_clips: Collection[str],
) -> dict[str, Any]:
    """The part of the manifest that lists the videos, in the order of the source; see `_no_clips`."""
    in_order = [records[source.name] for source in among.sources if source.name in records]
    short = []
    for record in in_order:
        if not record["pieces"]:
            whole = f"{record['frames']} frames{after}, fewer than {nframes}"
            reason = f"no clip has {nframes} frames{after}" if record["name"] in in_clips else whole
            short.append({"source": record["source"], "reason": reason})
    keys = ("source", "fps", "size", "crop", "frames")
    return {
        "sources": [{key: record[key] for key in keys} for record in in_order if record["pieces"]],
        "videos": [
            {"path": f"videos/{name}", "source": record["source"], "frames": count}
            for record in in_order
            for name, count in record["pieces"]
        ],
        "skipped": sorted(skipped + short, key=lambda item: item["source"]),
        "remarks": [{"source": record["source"], **record["remarks"]} for record in in_order if record["remarks"]],
        "notes": _notes(among),
    }


def check_lengths(*, nframes: int, clip_frames: int | None, max_frames: int | None) -> None:
    """Refuse lengths that leave no clip.

    Args: As for `prepare`.

    Raises:
        UserError: Pieces or videos would be shorter than a clip.
    """
    if clip_frames is not None and clip_frames < nframes:
        raise UserError(f"Pieces of {clip_frames} frames are shorter than a clip: use at least nframes={nframes}.")
    if max_frames is not None and max_frames < nframes:
        raise UserError(
            f"Videos of at most {max_frames} frames are shorter than a clip: use at least nframes={nframes}."
        )


def check_out(out: str, source: str, *, overwrite: bool, shape: str) -> None:
    """Refuse an OUT that must not be written.

    Args: As for `prepare`.

    Raises:
        UserError: It is something else already, lies in SOURCE or in a dataset, or would replace data of others.
    """
    out, source = os.path.realpath(out), os.path.realpath(source)
    keep_out_of_made_data(out)
    if shape == "zip":
        if os.path.isdir(out):
            raise UserError(f"'{out}' is a folder: give a zip file to write.")
        if out.lower().endswith(".tar"):
            raise UserError(
                f"'{out}' would be read as a tar file: give a name in .zip, or --format shards and a folder."
            )
    elif os.path.lexists(out) and not os.path.isdir(out):
        raise UserError(f"'{out}' is a file: choose another folder for the frames.")
    if os.path.ismount(out):
        raise UserError(f"'{out}' is a mount point, which cannot be replaced: choose a folder in it.")
    if out == source or (os.path.isdir(source) and os.path.commonpath([out, source]) in (out, source)):
        raise UserError(f"'{out}' and '{source}' lie one inside the other: choose another folder for the frames.")
    with contextlib.suppress(FileNotFoundError):  # the working folder has been deleted
        if is_inside(os.getcwd(), out):
            raise UserError(f"'{out}' is the working folder or holds it, which cannot be replaced: choose another one.")
    if os.path.isfile(out) or (os.path.isdir(out) and os.listdir(out)):
        if not overwrite:
            Unfinished(out).remove_rest()  # hidden, and as large as the dataset
            there = "there already" if os.path.isfile(out) else "not empty"
            raise UserError(f"'{out}' is {there}: use --overwrite to replace it, or choose another.")
        if read_manifest(out) is None:
            raise UserError(f"'{out}' was not made by this tool, so --overwrite keeps it: remove it yourself.")


def dataset_summary(out: str, manifest: dict[str, Any]) -> str:
    """One line on what a prepared dataset holds."""
    videos, n = manifest["videos"], manifest["nframes"]
    sources = len({video["source"] for video in videos})
    clips = sum(video["frames"] // n for video in videos)
    return (
        f"{out}: {sources} video(s) in {len(videos)} folder(s), {clips} clips of {n} frames, {manifest['resolution']}²"
    )
