"""Inversion of a clip into the latent codes and cameras that reproduce it.

    python -m training.inversion --network_pkl PKL --clip clip.mp4 --outdir OUT
    python generate.py --network_pkl PKL --codes OUT/codes.npz --outdir OUT/views

OUT holds codes.npz (training.inference.latent_files), inversion.mp4 (the clip beside its reconstruction),
inversion.json (PSNR, cameras, settings), and with --finetune finetuned-network.pt and finetuned-codes.npz.
docs/inversion.md describes the method and its results.
"""

import json
import os

import click

from dnnlib import UserError, find_ffmpeg, output_folder, run_cli
from dnnlib.command_line import FRAME_RATE, Command, options_given
from training.data.crops import Crop, parse_rectangle
from training.data.dataset_folders import keep_apart, trained_on
from training.inference.cli_options import NETWORK, extrapolated_times, parse_time_range, rendering_device

# PyTorch and the networks are imported where they are used, so that --help and errors in the arguments are immediate.

COUNT = click.IntRange(min=1)


def idle_notes(generator, *, frames: int) -> list[str]:
    """Notes on options that were given but have no effect with this generator, or on so few frames."""
    from training.inference.latents import lacks_motion

    because = {}
    if lacks_motion(generator):
        because["motions"] = "this generator has no motion"
    if frames == 1:
        because["motions"] = "a single frame shows no motion"
    return [f"--{name} has no effect: {because[name]}." for name in sorted(because.keys() & options_given())]


option = click.option


@click.command(cls=Command, context_settings={"max_content_width": 120, "show_default": True})
@option("--network_pkl", required=True, type=NETWORK, help="A checkpoint, a run folder, a URL, or a Hub id.")
@option(
    "--clip",
    "clip_path",
    required=True,
    type=click.Path(),
    help="A video file, an image, or a folder or zip of frames.",
)
@option("--outdir", required=True, type=click.Path(file_okay=False), help="Folder for the results.")
@option("--frames", type=click.IntRange(1, 1024), help="Number of frames.  [default: all, up to 1024]")
@option("--stride", default=1, type=COUNT, help="Take every n-th frame.")
@option(
    "--crop", default="centre", metavar="centre|L,T,W,H", help="The square, or a rectangle whose centre square is kept."
)
@option("--times", default="0:1", metavar="START:END", help="Times of the first and the last frame; 0:1 in training.")
@option("--steps", default=600, type=COUNT, help="Steps of gradient descent, all stages together.")
@option("--batch", default=4, type=COUNT, help="Frames per step.")
@option("--samples", default=256, type=COUNT, help="Random videos compared with the first frame.")
@option("--motions", default=32, type=COUNT, help="Random motions compared with the clip.")
@option("--fit_fov", is_flag=True, help="Fit the field of view too, one for all frames.")
@option("--fit_radius", is_flag=True, help="Fit the camera's distance too, one for all frames.")
@option("--finetune", default=0, type=click.IntRange(min=0), help="Steps of fine-tuning the generator afterwards.")
@option(
    "--lpips",
    type=click.Path(exists=True, dir_okay=False),
    help="TorchScript file that adds LPIPS to the loss. It is a program: give one that you trust.",
)
@option("--seed", default=0, type=click.IntRange(0, 2**31 - 1), help="Random seed.")
@option("--fps", default=8.0, type=FRAME_RATE, help="Frame rate of the video.")
@option("--device", help="cpu, cuda, cuda:1, …  [default: cuda if there is one]")
def main(
    network_pkl: str,
    clip_path: str,
    outdir: str,
    frames: int | None,
    stride: int,
    crop: str,
    times: str,
    steps: int,
    batch: int,
    samples: int,
    motions: int,
    fit_fov: bool,
    fit_radius: bool,
    finetune: int,
    lpips: str | None,
    seed: int,
    fps: float,
    device: str | None,
) -> None:
    """Find the codes and cameras with which a generator renders a clip."""
    square = Crop() if crop in ("centre", "center") else Crop(rectangle=parse_rectangle(crop))
    span = parse_time_range(times, name="--times")
    keep_apart(outdir, option="--outdir", data=[clip_path, trained_on(network_pkl)])

    from torch_utils.memory import explain_out_of_memory
    from torch_utils.torchscript import load_torchscript
    from training.checkpoints.snapshot import average_generator, load_snapshot
    from training.inversion.optimize import FitSettings
    from training.inversion.projector import TUNED_NETWORK, Inversion
    from training.inversion.target_clip import read_clip

    tuned = os.path.join(outdir, TUNED_NETWORK)
    if os.path.exists(network_pkl) and os.path.exists(tuned) and os.path.samefile(network_pkl, tuned):
        raise UserError(f"--outdir: the results would replace the network itself, {tuned}; choose another folder.")
    device = rendering_device(device)
    # Read once: when the fine-tuned generator is saved, a run in progress has a newer snapshot with other networks.
    snapshot = load_snapshot(network_pkl, average_only=not finetune)
    generator = average_generator(snapshot, source=network_pkl, device=device)
    with explain_out_of_memory("Lower --batch, or take fewer or smaller frames."):
        pixels = read_clip(clip_path, generator.resolution, frames=frames, stride=stride, crop=square)
        perceptual = None if lpips is None else load_torchscript(lpips, device)
        settings = FitSettings(
            samples=samples, motions=motions, steps=steps, batch=batch, fit_fov=fit_fov, fit_radius=fit_radius
        )
        for note in extrapolated_times(span) + idle_notes(generator, frames=len(pixels)):
            click.echo(note, err=True)
        inversion = Inversion(generator, pixels, times=span, settings=settings, seed=seed, perceptual=perceptual)
        find_ffmpeg()  # the video is written at the end
        with output_folder(outdir):
            inversion.fit()
            inversion.save_codes(outdir)
            if finetune:
                inversion.tune(finetune)
                inversion.save_tuned(outdir, snapshot=snapshot)
            inversion.write_video(outdir, fps=fps)
    report = {"clip": clip_path, "network": network_pkl, **inversion.report()}
    inversion.write_report(outdir, report)
    click.echo(json.dumps({key: report[key] for key in ("frames", "psnr", "psnr_finetuned", "seconds")}))


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
