"""Gaussian splats of a trained generator: `python -m renderer.splats`. See docs/geometry.md.

    python -m renderer.splats --outdir out --network_pkl network-snapshot.pt --seeds 0-3 --times 0,0.5,1

The command connects networks and renderer, as generate.py does; no other module imports it.
"""

import json
import os
import sys
from typing import Any

import click

from dnnlib import atomic_write, output_folder, run_cli
from dnnlib.command_line import Command
from training.data.dataset_folders import frames_nearby, keep_apart, trained_on
from training.inference.cli_options import (
    TRACK_NAMES,
    extrapolated_times,
    idle_motion_seeds,
    scene_options,
    scenes_of,
)

# PyTorch and the networks are imported where they are used, so that --help and usage errors respond at once.

LARGEST = 256  # cells along a side: up to 17 million Gaussians

option = click.option


@click.command(cls=Command, context_settings={"max_content_width": 120, "show_default": True})
@option("--outdir", required=True, type=click.Path(file_okay=False), help="Folder for the files.")
@scene_options
@option("--resolution", default=128, type=click.IntRange(8, LARGEST), help="Grid cells along the longest side.")
@option("--size", default=128, type=click.IntRange(16, 512), help="Width in pixels of the images that are compared.")
@option("--preview", is_flag=True, help="Also write a picture: volume-rendered images above those of the splats.")
def main(
    outdir: str,
    network_pkl: str,
    resolution: int,
    size: int,
    preview: bool,
    **options: Any,
) -> None:
    """Write a generator's foreground as Gaussian splats, a PLY file per time step, and print their PSNR."""
    scenes = scenes_of(options)
    shown = scenes.times
    keep_apart(outdir, option="--outdir", data=[trained_on(network_pkl)])
    nearby = frames_nearby(outdir, rendered=TRACK_NAMES) if preview else None

    from torch_utils.memory import explain_out_of_memory
    from training.inference.meshes import NoSurface, require_all
    from training.inference.scenes import load_scenes
    from training.inference.splats import GeneratedSplats

    generator, videos = load_scenes(scenes, network_pkl, device=options["device"])
    advice = "Lower --chunk, --resolution or --size."
    with explain_out_of_memory(advice):
        maker = GeneratedSplats(generator, resolution=resolution, size=size, chunk=options["chunk"])
    notes = [] if nearby is None else [nearby]
    for note in notes + extrapolated_times(shown) + idle_motion_seeds(generator, scenes.motion_seeds):
        click.echo(note, err=True)

    from tqdm import tqdm

    from renderer.frame_folder import remove_earlier_steps
    from renderer.splats.gaussians import read_ply, write_ply
    from renderer.video import save_png

    missing: list[str] = []
    with (
        explain_out_of_memory(advice),
        output_folder(outdir),
        tqdm(total=len(videos) * len(shown), unit="file", disable=None) as progress,
    ):
        for video in videos:
            stem = f"splats_{video.name}"
            rows, written = [], []
            for i, time in enumerate(shown):
                try:
                    splats = maker.splats(video.codes, time)
                except NoSurface as error:
                    missing.append(f"{stem}: {error}")
                    progress.write(missing[-1], file=sys.stderr)
                    progress.update()
                    continue
                path = os.path.join(outdir, f"{stem}_{i:04d}.ply")
                write_ply(splats, path)
                written.append(os.path.basename(path))
                # Compared as a viewer reads them.
                gaussians = read_ply(path).to(maker.device)
                psnr, picture = maker.compare(gaussians, video.codes, time)
                if preview:
                    written.append(f"{stem}_{i:04d}.png")
                    save_png(picture, os.path.join(outdir, written[-1]))
                row = {"time": time, "file": os.path.basename(path), "gaussians": len(gaussians), "psnr": psnr}
                rows.append(row)
                progress.write(_line(stem, row))
                progress.update()
            if not rows:
                continue
            about = {**video.origin, **maker.about(), "splats": rows}
            with atomic_write(os.path.join(outdir, f"{stem}.json"), "w") as file:
                json.dump(about, file, indent=1)
            remove_earlier_steps(outdir, stem, written=written)
    require_all(missing, what="splats")


def _line(stem: str, row: dict[str, Any]) -> str:
    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    psnr = row["psnr"]
    views = " ".join(f"{value:.1f}" for value in psnr["foreground"])
    return (
        f"{stem} time {row['time']:g}: {row['gaussians']} Gaussians, PSNR of the foreground from left to right "
        f"{views}, mean {mean(psnr['foreground']):.1f} dB, over the background {mean(psnr['image']):.1f} dB"
    )


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
