"""Surfaces of a trained generator as coloured meshes: `python -m renderer.mesh`. See docs/geometry.md.

    python -m renderer.mesh --outdir out --network_pkl network-snapshot.pt --seeds 0-3 --times 0,0.5,1

The command connects networks and renderer, as generate.py does; no other module imports it.
"""

import json
import os
import sys
from typing import Any

import click

from dnnlib import UserError, atomic_write, output_folder, run_cli
from dnnlib.command_line import FRAME_RATE, Command, finite_float, options_given
from training.data.dataset_folders import frames_nearby, keep_apart, trained_on
from training.inference.cli_options import (
    TRACK_NAMES,
    extrapolated_times,
    idle_motion_seeds,
    scene_options,
    scenes_of,
)

# PyTorch and the networks are imported where they are used, so that --help and usage errors respond at once.

LARGEST = 512  # cells along a side: grids of half a gigabyte each

option = click.option


@click.command(cls=Command, context_settings={"max_content_width": 120, "show_default": True})
@option("--outdir", required=True, type=click.Path(file_okay=False), help="Folder for the meshes.")
@scene_options
@option("--format", "suffix", default="glb", type=click.Choice(["glb", "ply"]), help="File format.")
@option("--sequence", is_flag=True, help="One animated GLB per video instead of a file per time step.")
@option("--fps", default=8.0, type=FRAME_RATE, help="Time steps per second of a sequence.")
@option("--resolution", default=128, type=click.IntRange(8, LARGEST), help="Grid cells along the longest side.")
@option(
    "--level",
    type=finite_float(0, above=True),
    help="Density at the surface.  [default: the one whose outline agrees with the rendered opacity]",
)
@option(
    "--min_piece",
    default=0.02,
    type=finite_float(0, 1),
    help="Remove pieces with less than this share of the largest one's area; 0 keeps all.",
)
@option("--preview", is_flag=True, help="Also write a picture: rendered views, the mesh's colours, its shape.")
@option("--check", is_flag=True, help="Compare the meshes' outlines with the rendered opacity from five views.")
def main(
    outdir: str,
    network_pkl: str,
    sequence: bool,
    suffix: str,
    **options: Any,
) -> None:
    """Write the surface of a generator's foreground as coloured meshes, in scene units."""
    scenes = scenes_of(options)
    shown = scenes.times
    if not sequence and "fps" in options_given():
        raise UserError("--fps is the rate of a sequence: add --sequence, or leave --fps out.")
    if sequence and suffix != "glb":
        raise UserError("--sequence: only glb files can be animated; leave --format out, or leave --sequence out.")
    keep_apart(outdir, option="--outdir", data=[trained_on(network_pkl)])
    nearby = frames_nearby(outdir, rendered=TRACK_NAMES) if options["preview"] else None
    try:
        import skimage  # noqa: F401
        import trimesh  # noqa: F401
    except ImportError as error:
        raise UserError("Meshes need two more packages: `pip install scikit-image trimesh`.") from error

    from torch_utils.memory import explain_out_of_memory
    from training.inference.meshes import GeneratedMeshes, NoSurface, require_all
    from training.inference.scenes import SceneVideo, load_scenes

    generator, videos = load_scenes(scenes, network_pkl, device=options["device"])
    making = {name: options[name] for name in ("resolution", "level", "min_piece", "chunk", "check")}
    advice = "Lower --chunk or --resolution."
    with explain_out_of_memory(advice):
        maker = GeneratedMeshes(generator, **making)
    notes = [] if nearby is None else [nearby]
    if sequence and len(shown) == 1:
        notes.append("--sequence: the animation has one time step, so nothing moves; --time_steps N gives it more.")
    for note in notes + extrapolated_times(shown) + idle_motion_seeds(generator, scenes.motion_seeds):
        click.echo(note, err=True)

    from tqdm import tqdm

    from renderer.frame_folder import remove_earlier_steps
    from renderer.mesh.extraction import Mesh
    from renderer.mesh.files import write_glb, write_ply
    from renderer.video import save_png

    missing: list[str] = []
    with (
        explain_out_of_memory(advice),
        output_folder(outdir),
        tqdm(total=len(videos) * len(shown), unit="mesh", disable=None) as progress,
    ):

        def leave_out(reason: str, number: int) -> None:
            missing.append(reason)
            progress.write(reason, file=sys.stderr)
            progress.update(number)

        def save_preview(video: SceneVideo, step: int, mesh: Mesh) -> str:
            name = f"geometry_{video.name}_{step:04d}.png"
            save_png(maker.preview(mesh, video.codes, shown[step]), os.path.join(outdir, name))
            return name

        for video in videos:
            stem = f"geometry_{video.name}"
            rows, meshes, written = [], [], []
            try:
                level = maker.level(video.codes, shown, name=stem)
            except NoSurface as error:
                leave_out(str(error), len(shown))
                continue
            for i, time in enumerate(shown):
                try:
                    mesh, row = maker.mesh(video.codes, time, level)
                except NoSurface as error:
                    leave_out(f"{stem}: {error}", 1)
                    continue
                name = f"{stem}_{i:04d}.{suffix}"
                if sequence:
                    meshes.append(mesh)
                elif suffix == "glb":
                    write_glb([mesh], os.path.join(outdir, name), names=[f"time {time:g}"])
                else:
                    write_ply(mesh, os.path.join(outdir, name))
                if options["preview"] and not sequence:
                    written.append(save_preview(video, i, mesh))
                rows.append({"time": time, "file": f"{stem}.glb" if sequence else name, **row})
                progress.write(_line(stem, rows[-1]))
                progress.update()
            if len(rows) < (len(shown) if sequence else 1):  # a sequence without a step would have another rhythm
                continue
            if sequence:
                names = [f"{i}: time {time:g}" for i, time in enumerate(shown)]
                write_glb(meshes, os.path.join(outdir, f"{stem}.glb"), names=names, fps=options["fps"])
                if options["preview"]:
                    written += [save_preview(video, i, mesh) for i, mesh in enumerate(meshes)]
            about = {**video.origin, "level": level, **maker.about(), "meshes": rows}
            with atomic_write(os.path.join(outdir, f"{stem}.json"), "w") as file:
                json.dump(about, file, indent=1)
            remove_earlier_steps(outdir, stem, written=[*written, *(row["file"] for row in rows)])
    require_all(missing, what="meshes")


def _line(stem: str, row: dict[str, Any]) -> str:
    text = f"{stem} time {row['time']:g}: {row['faces']} triangles, small pieces removed: {row['removed_pieces']}"
    if "overlap" in row:
        views = " ".join(f"{value:.3f}" for value in row["overlap"])
        text += f", outline IoU from left to right {views}, mean {sum(row['overlap']) / len(row['overlap']):.3f}"
    return text


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
