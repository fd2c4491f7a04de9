"""Render videos of a trained generator along camera paths.

    python generate.py --outdir out --network_pkl network-snapshot.pkl --seeds 0-3 --render_program rotation_camera_yaw

Frame i of a video shows time i from camera step n_steps − 1 − i. Only the frames that are kept are rendered.
"""

import os

import click

from dnnlib import UserError, parse_int_list, run_cli
from renderer.camera_paths import DEFAULT_PROGRAM, FORWARD_PROGRAMS, INVERSE, PROGRAMS, camera_path, frame_schedule

# PyTorch and the networks are imported where they are used: --help and mistakes in the arguments answer at once.


def parse_programs(text: str) -> list[str]:
    """The render programs of a comma list, each once."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in PROGRAMS:
            choice = f"{', '.join(FORWARD_PROGRAMS)}, or <name>{INVERSE}"
            raise UserError(f"--render_program: there is no program '{name}'; choose from {choice}.")
    return list(dict.fromkeys(names))


def pair_seeds(seeds: list[int], motion_seeds: list[int] | None) -> list[tuple[int, int]]:
    """(content seed, motion seed) of every video.

    Without motion seeds every content seed moves by its own number; a single motion seed serves all; as many as content
    seeds go one to one; any other number gives all pairs.
    """
    if motion_seeds is None:
        motion_seeds = seeds
    if len(motion_seeds) == 1:
        motion_seeds = motion_seeds * len(seeds)
    if len(motion_seeds) == len(seeds):
        pairs = list(zip(seeds, motion_seeds))
    else:
        pairs = [(seed, motion) for seed in seeds for motion in motion_seeds]
    return list(dict.fromkeys(pairs))  # a pair that is named twice is one file


def label_vector(generator, class_idx: int | None):
    """The one-hot label [1, c_dim], or None for a generator without labels."""
    import torch

    if generator.c_dim == 0:
        if class_idx is not None:
            raise UserError("--class_idx: this generator was trained without labels; leave the option out.")
        return None
    if class_idx is None or class_idx >= generator.c_dim:
        raise UserError(f"--class_idx: this generator needs the number of a class, 0 to {generator.c_dim - 1}.")
    return torch.nn.functional.one_hot(torch.tensor([class_idx]), generator.c_dim).float()


def pick_device(name: str | None):
    """The device of that name, by default a GPU if there is one."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device: '{name}' cannot be used here ({str(error).splitlines()[0]})") from error
    return device


def check_precision(name: str, device) -> str:
    """PyTorch's name of a precision, if there are programs with it for the device."""
    from torch_utils.ops.dense import has_native_rows

    if name == "bf16" and device.type != "cpu":
        raise UserError("--precision: bf16 is for CPUs; on a GPU leave the option out.")
    if name == "bf16" and not has_native_rows(device, "bfloat16"):
        raise UserError(
            "--precision: bf16 needs a processor with avx512_bf16 and a C++ compiler; leave the option out."
        )
    return {"float32": "float32", "bf16": "bfloat16"}[name]


option = click.option


@click.command(context_settings={"max_content_width": 120, "show_default": True})
@option("--outdir", required=True, type=click.Path(file_okay=False), help="Folder for the videos.")
@option("--network_pkl", required=True, type=click.Path(exists=True), help="A checkpoint, or a run folder.")
@option("--seeds", default="0", metavar="LIST", help="Content seeds, like 1,2,5-8.")
@option("--motion_seeds", metavar="LIST", help="Motion seeds.  [default: the content seeds]")
@option(
    "--render_program",
    default=DEFAULT_PROGRAM,
    metavar="LIST",
    help=f"Of {', '.join(FORWARD_PROGRAMS)}; <name>{INVERSE} goes backwards.",
)
@option("--truncation_psi", default=1.0, help="Truncation; below 1: closer to the average, less varied.")
@option("--time_steps", default=16, type=click.IntRange(min=1), help="Moments between start and end.")
@option("--n_steps", default=16, type=click.IntRange(min=1), help="Camera steps; each lasts equally long.")
@option(
    "--fov",
    type=click.FloatRange(0, 180, min_open=True, max_open=True),
    help="Field of view, degrees.  [default: as trained]",
)
@option("--relative_range_yaw_scale", default=1.0, help="Extent of the path in yaw; 1: the trained range.")
@option("--relative_range_pitch_scale", default=1.0, help="Extent of the path in pitch; 1: the trained range.")
@option("--fps", default=8.0, type=click.FloatRange(min=0, min_open=True), help="Frames per second.")
@option("--save_frames", is_flag=True, help="Also write the frames as PNG, in a folder beside each video.")
@option("--class_idx", type=click.IntRange(min=0), help="Class, for a generator trained with labels.")
@option("--device", help="cpu, cuda, cuda:1, …  [default: cuda if there is one]")
@option(
    "--precision",
    default="float32",
    type=click.Choice(["float32", "bf16"]),
    help="Of products on a CPU; bf16: faster, on processors that multiply it.",
)
@option("--ray_chunk", type=click.IntRange(min=1), help="Render this many rays at a time, to save memory.")
def main(
    outdir: str,
    network_pkl: str,
    seeds: str,
    motion_seeds: str | None,
    render_program: str,
    truncation_psi: float,
    time_steps: int,
    n_steps: int,
    fov: float | None,
    relative_range_yaw_scale: float,
    relative_range_pitch_scale: float,
    fps: float,
    save_frames: bool,
    class_idx: int | None,
    device: str | None,
    precision: str,
    ray_chunk: int | None,
) -> None:
    """Render videos of a generator: one per render program and pair of seeds, <program>_seed0000_motion0000.mp4."""
    pairs = pair_seeds(
        parse_int_list(seeds, name="--seeds"),
        None if motion_seeds is None else parse_int_list(motion_seeds, name="--motion_seeds"),
    )
    programs = parse_programs(render_program)

    import torch
    from tqdm import tqdm

    from renderer.video import VideoWriter, to_uint8
    from torch_utils.host_memory import keep_freed_memory
    from torch_utils.out_of_memory import explain_out_of_memory
    from training.checkpoint import load_generator
    from training.latents import seed_latents

    device = pick_device(device)
    precision = check_precision(precision, device)
    if device.type == "cpu":
        keep_freed_memory()
    generator = load_generator(network_pkl, device=device)
    label = label_vector(generator, class_idx)
    schedule = frame_schedule(n_steps, time_steps)
    sizes = {"z_dim": generator.z_dim, "motion_dim": generator.motion_dim, "background_dim": generator.background_dim}
    try:  # everything that can be wrong is computed before anything is written
        latents = [seed_latents(seed, motion_seed, **sizes) for seed, motion_seed in pairs]
        scales = {"yaw_scale": relative_range_yaw_scale, "pitch_scale": relative_range_pitch_scale}
        paths = {name: camera_path(name, generator.camera_prior, n_steps, fov=fov, **scales) for name in programs}
    except ValueError as error:
        raise UserError(str(error)) from error
    if n_steps != time_steps:
        short, long = sorted([(n_steps, "camera steps"), (time_steps, "moments")])
        click.echo(f"{long[0]} frames: the {short[0]} {short[1]} are spread over the {long[0]} {long[1]}.")
    try:
        os.makedirs(outdir, exist_ok=True)
    except OSError as error:
        raise UserError(f"--outdir: cannot make the folder {outdir}: {error.strerror}.") from error

    total = len(pairs) * len(programs) * len(schedule)
    rays = "all rays of a frame" if ray_chunk is None else f"{ray_chunk} rays"
    explained = explain_out_of_memory(f"Now {rays} are rendered at a time: lower that with --ray_chunk, e.g. 4096.")
    with explained, torch.inference_mode(), tqdm(total=total, unit="frame", disable=None) as progress:
        for (seed, motion_seed), codes in zip(pairs, latents):
            ws = generator.mapping(
                codes.z.to(device), None if label is None else label.to(device), truncation_psi=truncation_psi
            )
            scene = generator.scene(
                ws,
                z_motion=codes.z_motion.to(device),
                z_bg=codes.z_bg.to(device),
                ray_chunk=ray_chunk,
                precision=precision,
            )
            for program, cameras in paths.items():
                cameras = cameras.to(device)
                stem = os.path.join(outdir, f"{program}_seed{seed:04d}_motion{motion_seed:04d}")
                with VideoWriter(f"{stem}.mp4", fps, frames_dir=stem if save_frames else None) as video:
                    for step, time in schedule:
                        video.add(to_uint8(scene.render(time, cameras[step])[0]))
                        progress.update()
                progress.write(f"{stem}.mp4")


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
