"""Conversion of videos to a training set: `python -m training.dataset_tool SOURCE OUT --resolution 64`.

SOURCE is a video file, a folder of video files or of frame folders, or a zip of either. Every frame becomes a square
image, `OUT/videos/<name>_<k>/<frame>.png`, where k counts the segments of a video and the frame number is that within
the whole video. Training cuts each folder into clips that do not overlap, so a single video of 120 frames gives only
seven clips of 16; `--clip-step 1` makes 105 overlapping folders of it that share their files by hard links.

`--faces` finds faces in the videos: clips in which a face stays in its place, with a box and a camera for each.

OUT appears at the end, complete, or not at all. Until then finished videos are kept beside it in a hidden folder, and
the same command continues an interrupted conversion. `--check` validates a dataset, `--preview` shows it in one image.
docs/datasets.md gives the commands for each published dataset.
"""

import dataclasses
import os
import tempfile
from typing import Any

import click
import numpy as np

from dnnlib import UserError, run_cli, temporary
from dnnlib.command_line import FRAME_RATE, Command, finite_float, options_given
from dnnlib.processes import cores
from training.data.crops import Crop, parse_rectangle, read_boxes
from training.data.dataset_folders import is_inside
from training.data.names import MANIFEST
from training.data.video_decoder import Remarks, describe_remarks
from training.dataset_tool.camera_histogram import write_histogram
from training.dataset_tool.convert import IMAGE_FORMATS
from training.dataset_tool.faces.box_files import make_box_file
from training.dataset_tool.faces.clips import Selection
from training.dataset_tool.faces.detection_run import kept_detections
from training.dataset_tool.faces.detections import write_detections
from training.dataset_tool.faces.preview import write_faces_preview
from training.dataset_tool.prepare import (
    BOX_FILE,
    check_lengths,
    check_out,
    dataset_summary,
    prepare,
    read_manifest,
)
from training.dataset_tool.source_videos import find_sources
from training.dataset_tool.validate import check_dataset, write_preview

__all__ = ["COUNT", "PRESETS", "main", "prepare", "read_manifest", "dataset_summary"]

# Settings of the published models' datasets; see docs/datasets.md.
PRESETS = {
    "faceforensics": {"resolution": 256},
    "mead": {"resolution": 256},
    "taichi": {"resolution": 128, "stride": 4},
    "sky": {"resolution": 256},
}

COUNT = click.IntRange(min=1)
PATH = click.Path()
POSITIVE = finite_float(0, above=True)
FACE_OPTIONS = {
    "faces_only", "landmarks", "save_landmarks", "face_model", "which_faces", "min_face", "max_yaw", "min_score",
    "follow_faces", "remove_roll",
}  # fmt: skip
DATASET_OPTIONS = {"clip_frames", "clip_step", "max_frames", "image", "shape", "shard_clips"}
SAME_RATE = 1.1  # ratio of frame rates above which the different speeds of motion are noted
CLIPS_PER_CAMERA = 4  # training clips in a folder of a clip with a face: it has one camera, and heads turn


@click.command(cls=Command)
@click.argument("source", required=False, type=PATH)
@click.argument("out", required=False, type=PATH)
@click.option("--preset", type=click.Choice(list(PRESETS)), help="Defaults for a published dataset.")
@click.option("--resolution", type=COUNT, default=64, show_default=True, help="Pixels per side.")
@click.option("--nframes", type=COUNT, default=16, show_default=True, help="Length of a training clip.")
@click.option("--fps", type=FRAME_RATE, help="Resample videos to n frames per second.  [default: their own]")
@click.option("--frame-stride", "--stride", "stride", type=COUNT, default=1, show_default=True,
              help="Keep every n-th frame.")  # fmt: skip
@click.option("--max-frames", type=COUNT, help="Largest number of frames of a video, after the stride.  [default: all]")
@click.option("--clip-frames", type=COUNT, help="Cut videos into folders of n frames.")
@click.option("--clip-step", type=COUNT, help="Start such a folder every n frames.")
@click.option("--crop", default="centre", show_default=True,
              help="centre, or LEFT,TOP,WIDTH,HEIGHT in pixels, whose centre square is kept.")  # fmt: skip
@click.option("--boxes", type=PATH, help="JSON file with a box per video or per frame, which the crop follows.")
@click.option("--box-scale", type=POSITIVE, default=1.5, show_default=True, help="Side of the crop per side of a box.")
@click.option("--box-smoothing", type=finite_float(0), default=5, show_default=True,
              help="Standard deviation of the smoothing in frames.")  # fmt: skip
@click.option("--faces", is_flag=True, help="Find faces: clips with boxes, and their cameras (docs/datasets.md).")
@click.option("--people", is_flag=True, help="Find people: clips with boxes, without cameras.")
@click.option("--faces-only", type=PATH, metavar="FILE", help="Write only the file of boxes, for --boxes.")
@click.option("--landmarks", type=PATH, metavar="FILE", help="Detections of another detector, instead of MediaPipe's.")
@click.option("--save-landmarks", type=PATH, metavar="FILE", help="Write the detections, for --landmarks.")
@click.option("--face-model", type=PATH, metavar="FILE",
              help="MediaPipe's face_landmarker.task.  [default: the model in MediaPipe 0.10.21]")  # fmt: skip
@click.option("--which-faces", type=click.Choice(["largest", "all"]), default="largest", show_default=True,
              help="Only the largest face at a time, or a clip of every face.")  # fmt: skip
@click.option("--min-face", type=POSITIVE, help="Smallest side of a head's box in pixels.  [default: resolution / 3]")
@click.option("--max-yaw", type=POSITIVE, default=1.0, show_default=True, help="Largest yaw of a head in radians.")
@click.option("--min-score", type=finite_float(0, 1), default=0.65, show_default=True,
              help="Smallest median score of a clip's detections.")  # fmt: skip
@click.option("--follow-faces", is_flag=True, help="A smoothed box for every frame instead of one for the clip.")
@click.option("--remove-roll", is_flag=True, help="Turn the crops so that heads are upright.")
@click.option("--image", type=click.Choice(list(IMAGE_FORMATS)), default="png", show_default=True, help="File format.")
@click.option("--format", "shape", type=click.Choice(["folder", "zip", "shards"]),
              help="Format of OUT.  [default: zip if its name ends in .zip, else folder]")  # fmt: skip
@click.option("--shard-clips", type=COUNT, default=512, show_default=True, help="Clips in a shard.")
@click.option("--workers", type=COUNT, help="Videos at a time.  [default: one per core]")
@click.option("--overwrite", is_flag=True, help="Replace OUT if this tool made it; restart an interrupted conversion.")
@click.option("--skip-broken", is_flag=True, help="Leave out videos that cannot be decoded.")
@click.option("--check", type=PATH, metavar="DATASET", help="Do not convert, but check a dataset.")
@click.option("--histogram", type=PATH, metavar="PNG", help="With --check: draw the distribution of the cameras.")
@click.option("--preview", type=PATH, metavar="PNG",
              help="Show OUT (or the dataset SOURCE, or the faces) in one image.")  # fmt: skip
def main(
    source: str | None,
    out: str | None,
    check: str | None,
    preview: str | None,
    crop: str,
    boxes: str | None,
    box_scale: float,
    box_smoothing: float,
    histogram: str | None,
    faces: bool,
    people: bool,
    faces_only: str | None,
    landmarks: str | None,
    save_landmarks: str | None,
    face_model: str | None,
    which_faces: str,
    min_face: float | None,
    max_yaw: float,
    min_score: float,
    follow_faces: bool,
    remove_roll: bool,
    **options: Any,
) -> None:
    """Turn SOURCE (a video, or a folder or zip of videos or frame folders) into the training set OUT."""
    given = options_given()
    _check_given(given, shape=options["shape"])
    options["workers"] = options["workers"] or cores()
    options["shape"] = options["shape"] or ("zip" if (out or "").lower().endswith(".zip") else "folder")
    for name, picture in (("preview", preview), ("histogram", histogram)):
        _check_picture(picture, option=name, among=[check, source, out])
    makes = os.path.dirname(os.path.realpath(out or faces_only)) if out or faces_only else None
    _check_folder(save_landmarks, option="save-landmarks", makes=makes)
    _check_folder(histogram, option="histogram", makes=None)
    _check_folder(preview, option="preview", makes=makes if options["shape"] == "zip" else out or makes)
    if check is not None:
        if source is not None:
            raise UserError("--check DATASET looks at one dataset and takes no SOURCE or OUT.")
        shared = {"nframes": options["nframes"], "workers": options["workers"]}
        _check(check, preview, histogram, **shared, nframes_given="nframes" in given)
        return
    find = faces or people
    if source is not None and out is None and preview is not None and not find:
        write_preview(source, preview)
        click.echo(f"wrote {preview}")
        return
    if find and (source is None or (out is None) == (faces_only is None)):
        raise UserError("--faces and --people need a SOURCE, and either OUT or --faces-only FILE; --help shows all.")
    if not find and (source is None or out is None):
        raise UserError("Give a SOURCE and an OUT, or --check DATASET; --help shows all options.")
    if boxes is not None and crop != "centre":
        raise UserError("--crop and --boxes are two ways to choose the square: give one of them.")
    for key, value in PRESETS.get(options["preset"], {}).items():
        if key not in given:
            options[key] = value
    if find:
        selection = Selection(
            which=which_faces,
            min_side=min_face or options["resolution"] / 3,
            max_yaw=max_yaw,
            min_score=min_score,
            min_frames=options["nframes"] * options["stride"],
            follow=follow_faces,
            remove_roll=remove_roll,
        )
        smoothing = {"scale": box_scale, "smoothing": box_smoothing}
        detector = {"kind": "people" if people else "faces", "landmarks": landmarks, "model": face_model}
        files = FaceFiles(boxes=faces_only, detections=save_landmarks, preview=preview)
        _prepare_faces(source, out, files, selection, detector, smoothing, options)
        return
    chosen = Crop(
        rectangle=None if crop in ("centre", "center") else parse_rectangle(crop),
        boxes=None if boxes is None else read_boxes(boxes, scale=box_scale, smoothing=box_smoothing),
    )
    if chosen.boxes is not None and chosen.boxes.clips:
        _cut_clips(options)
    _report(out, prepare(source=source, out=out, crop=chosen, **options))
    if preview is not None:
        write_preview(out, preview)


@dataclasses.dataclass(frozen=True)
class FaceFiles:
    """Files that --faces writes beside the dataset; None: not wanted."""

    boxes: str | None
    detections: str | None
    preview: str | None


def _prepare_faces(
    source: str,
    out: str | None,
    files: FaceFiles,
    selection: Selection,
    detector: dict[str, Any],
    smoothing: dict[str, float],
    options: dict[str, Any],
) -> None:
    """Find faces or people in SOURCE, and write the file of boxes or the dataset OUT."""
    _cut_clips(options)
    if out is not None:  # before the detection, which takes long
        check_lengths(**{name: options[name] for name in ("nframes", "clip_frames", "max_frames")})
        check_out(out, source, overwrite=options["overwrite"], shape=options["shape"])
    elif os.path.lexists(files.boxes) and not options["overwrite"]:
        raise UserError(f"--faces-only: '{files.boxes}' is there already: use --overwrite to replace it.")
    among = find_sources(source, fps=options["fps"])
    with kept_detections(out or files.boxes) as folder, temporary(tempfile.TemporaryDirectory) as scratch:
        file = files.boxes or os.path.join(scratch, BOX_FILE)
        found = make_box_file(
            file,
            among=among,
            selection=selection,
            folder=folder,
            workers=options["workers"],
            skip_broken=options["skip_broken"],
            **detector,
        )
        for line in found.lines:
            click.echo(f"{detector['kind']}: {line}", err=True)
        if files.detections is not None:
            write_detections(files.detections, found.detections)
        boxes = read_boxes(file, **smoothing)
        if out is None:
            for path, reason in boxes.left_out.items():
                click.echo(f"left out {path}: {reason}", err=True)
            click.echo(f"wrote {file}")
        else:
            about = {"faces": found.describe(selection), "box_file": found.content}
            _report(out, prepare(source=source, out=out, crop=Crop(boxes=boxes), **about, **options))
        if files.preview is not None:
            write_faces_preview(
                files.preview, among=among, detections=found.detections, videos=found.videos, boxes=boxes
            )


def _cut_clips(options: dict[str, Any]) -> None:
    """Choose the length of the folders that clips of a file of boxes are cut into, unless it is given."""
    if options["clip_frames"] is None and options["clip_step"] is None:
        options["clip_frames"] = CLIPS_PER_CAMERA * options["nframes"]


def _report(out: str, manifest: dict[str, Any]) -> None:
    for item in manifest["skipped"]:
        click.echo(f"left out {item['source']}: {item['reason']}", err=True)
    for note in notes(manifest):
        click.echo(note, err=True)
    click.echo(dataset_summary(out, manifest))


def notes(manifest: dict[str, Any]) -> list[str]:
    """Messages for the user about a conversion."""
    found = []
    if manifest["skipped"]:
        found.append(f"{len(manifest['skipped'])} video(s) were left out.")
    found += manifest["notes"] + manifest["unmatched"]
    remarks = ({key: value for key, value in entry.items() if key != "source"} for entry in manifest["remarks"])
    found += describe_remarks(Remarks(**remark) for remark in remarks)
    enlarged = sum(source["crop"][2] < manifest["resolution"] for source in manifest["sources"])
    if enlarged:
        found.append(
            f"{enlarged} video(s) were enlarged: their smallest square has fewer than {manifest['resolution']} pixels."
        )
    rates = [source["fps"] for source in manifest["sources"] if source["fps"]]
    if rates and max(rates) > SAME_RATE * min(rates):
        found.append(
            f"The videos have {min(rates):g} to {max(rates):g} frames per second, and clips have a fixed number of "
            "frames, not of seconds: the same motion is faster in some of them. Resample all to one rate: --fps "
            f"{min(rates):g}."
        )
    return found


def _check_given(given: frozenset[str], *, shape: str | None) -> None:
    """Refuse options that have no effect in combination with the others.

    Raises:
        UserError: There is one; the message names it.
    """
    looking, takes = None, {"preview"}
    finding = {"faces", "people"} & given
    if "check" in given:
        looking, takes = (
            "--check looks at a dataset",
            {"check", "preview", "histogram", "nframes", "workers", "source", "out"},
        )
    elif "preview" in given and "out" not in given and not finding:
        looking, takes = "--preview without OUT shows a dataset", {"preview", "source"}
    for name in sorted(given - takes) if looking is not None else []:
        option = {"stride": "frame_stride", "shape": "format"}.get(name, name).replace("_", "-")
        raise UserError(f"{looking} and makes none: --{option} has no effect there; leave it out.")
    for name in ("box_scale", "box_smoothing"):
        if name in given and not finding and "boxes" not in given:
            raise UserError(
                f"--{name.replace('_', '-')} is about the boxes of a file: add --boxes FILE, or leave it out."
            )
    if "histogram" in given and "check" not in given:
        raise UserError("--histogram draws the cameras of a dataset: add --check DATASET, or leave it out.")
    _check_faces(given, finding)
    if "shard_clips" in given and shape != "shards":
        raise UserError("--shard-clips is about tar files: add --format shards, or leave it out.")


def _check_faces(given: frozenset[str], finding: set[str]) -> None:
    """The part of _check_given about --faces and --people."""
    if not finding:
        for name in sorted(given & FACE_OPTIONS):
            raise UserError(f"--{name.replace('_', '-')} is about faces: add --faces, or leave it out.")
    if len(finding) > 1:
        raise UserError("--faces and --people are two detectors: give one of them.")
    for name in sorted(given & {"boxes", "crop"}) if finding else []:
        raise UserError(f"--{name} and --{finding.pop()} are two ways to choose the square: give one of them.")
    for name in sorted(given & {"face_model", "max_yaw", "remove_roll"}) if finding == {"people"} else []:
        raise UserError(f"--{name.replace('_', '-')} is about faces and has no effect on --people; leave it out.")
    for name in sorted(given & DATASET_OPTIONS) if "faces_only" in given else []:
        option = {"shape": "format"}.get(name, name).replace("_", "-")
        raise UserError(f"--faces-only writes no dataset: --{option} has no effect there; leave it out.")
    if {"landmarks", "face_model"} <= given:
        raise UserError("--face-model is about MediaPipe, which --landmarks replaces: give one of them.")


def _check_picture(file: str | None, *, option: str, among: list[str | None]) -> None:
    """Refuse a picture below the root of a dataset, where it would be taken for a frame, or of another format."""
    if file is not None and not file.lower().endswith(".png"):
        raise UserError(f"--{option}: '{file}' will be a PNG file: let its name end in .png.")
    folder = os.path.dirname(os.path.realpath(file or ""))
    for root in among:
        if file is not None and root is not None and is_inside(folder, root) and folder != os.path.realpath(root):
            raise UserError(f"--{option}: '{file}' lies among the frames in '{root}': choose a place outside of it.")


def _check_folder(file: str | None, *, option: str, makes: str | None) -> None:
    """Refuse a file in a folder that does not exist, before the work.

    Args:
        makes: A folder that the command makes first, with its parents.
    """
    folder = os.path.dirname(os.path.realpath(file or ""))
    if file is not None and not os.path.isdir(folder) and (makes is None or not is_inside(makes, folder)):
        raise UserError(f"--{option}: there is no folder for '{file}': make it, or choose another place.")


def _check(
    dataset: str, preview: str | None, histogram: str | None, *, nframes: int, workers: int, nframes_given: bool
) -> None:
    report = check_dataset(dataset, nframes=nframes, workers=workers)
    if nframes_given and report.averaged:
        click.echo(f"--nframes has no effect: no {MANIFEST} says how long the clips of '{dataset}' are.", err=True)
    elif nframes_given and report.nframes != nframes:
        click.echo(f"--nframes has no effect: '{dataset}' was made of clips of {report.nframes} frames.", err=True)
    click.echo("\n".join(report.lines()))
    if preview is not None:
        write_preview(dataset, preview)
    if histogram is not None:
        if not report.cameras:
            raise UserError(f"--histogram: '{dataset}' has no cameras that could be read.")
        write_histogram(np.array(report.cameras), histogram)
    if report.problems:
        raise UserError(f"'{dataset}' has {len(report.problems)} problem(s), listed above.")


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
