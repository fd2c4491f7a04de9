"""Render videos of a trained generator along camera paths.

    python generate.py --outdir out --network_pkl network-snapshot.pkl --seeds 0-3 --render_program rotation_camera_yaw

Frame i of a video shows time i from camera step n_steps − 1 − i. Only the frames that are kept are rendered. What else
it renders (grids, loops through codes, mixed styles, stereo, depth, recorded paths): docs/rendering.md.
"""

import os

import click
from click.core import ParameterSource

from dnnlib import UserError, nearest_name, parse_int_list, run_cli
from dnnlib.command_line import FINITE, FRAME_RATE, Command, finite_float
from renderer.outputs import OUTPUTS, parse_outputs
from renderer.trajectories import DEFAULT_PROGRAM, FORWARD_PROGRAMS, INVERSE, PROGRAMS
from renderer.trajectory_files import read_camera_path
from training.data.dataset_folders import frames_nearby, keep_apart, trained_on
from training.inference.cli_options import (
    CAMERA,
    OWN_PATH,
    TIMED,
    TRACK_NAMES,
    check_combinations,
    check_recorded,
    idle_ranges,
    label_of_class,
    parse_style_mix,
    parse_time_range,
    path_name,
    pick_device,
)

# PyTorch and the networks are imported where they are used: --help and mistakes in the arguments answer at once.


def parse_programs(text: str) -> list[str]:
    """The render programs of a comma list, each once."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in PROGRAMS:
            near = nearest_name(name, PROGRAMS)
            choice = f"choose from {', '.join(FORWARD_PROGRAMS)}, or <name>{INVERSE}."
            hint = choice if near is None else f"did you mean {near}? --help shows all."
            raise UserError(f"--render_program: there is no program '{name}'; {hint}")
    return list(dict.fromkeys(names))


def gather_contents(generator, known, mixes: list, files: list[str]) -> tuple[list, list]:
    """The contents of mixed seeds and of files of codes, and the codes that were read.

    Args:
        known: The generator's `SeedCodes`.
    """
    from training.inference.latent_files import load_codes
    from training.inference.layouts import file_content

    parts = {} if not mixes else {"foreground": generator.foreground.num_ws, "total": generator.num_ws}
    mixed = [known.mix(mix, mix.numbers(**parts)) for mix in mixes]
    codes = [load_codes(path, generator) for path in files]
    for path, found in zip(files, codes):
        if not found.belong_to(generator):
            click.echo(f"warning: the codes in {path} were fitted to another network; they may look different here.")
    return mixed + [file_content(path, found) for path, found in zip(files, codes)], codes


def say_what_is_special(tracks: list, layouts: list) -> None:
    """Print what may surprise: spread frames, extrapolated times, how many frames a loop has."""
    for note in dict.fromkeys(track.note for track in tracks if track.note):
        click.echo(note)
    times = [time for track in tracks for _, time in track.schedule]
    if min(times) < 0 or max(times) > 1:
        click.echo(f"Times from {min(times):g} to {max(times):g}: training has shown 0 to 1, beyond is extrapolated.")
    for layout in layouts:
        if layout.moving:
            frames = max(len(track.schedule) for track in tracks)
            counts = plural(len(layout.contents), "content"), plural(len(layout.motions), "motion")
            click.echo(f"A loop of {frames} frames through {counts[0]} and {counts[1]}; --n_steps N makes it longer.")


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def check_precision(name: str, device) -> str:
    """PyTorch's name of a precision, if there are programs with it for the device."""
    from torch_utils.ops.fused_mlp import has_fused_mlp

    if name == "bf16" and device.type != "cpu":
        raise UserError("--precision: bf16 is for CPUs; on a GPU leave the option out.")
    if name == "bf16" and not has_fused_mlp(device, "bfloat16"):
        raise UserError(
            "--precision: bf16 needs a processor with avx512_bf16 and a C++ compiler; leave the option out."
        )
    return {"float32": "float32", "bf16": "bfloat16"}[name]


option = click.option


@click.command(cls=Command, context_settings={"max_content_width": 120, "show_default": True})
@option("--outdir", required=True, type=click.Path(file_okay=False), help="Folder for the videos.")
@option("--network_pkl", required=True, type=click.Path(exists=True), help="A checkpoint, or a run folder.")
@option("--seeds", metavar="LIST", help="Content seeds, like 1,2,5-8.  [default: 0]")
@option("--motion_seeds", metavar="LIST", help="Motion seeds.  [default: the content seeds]")
@option("--style_mix", multiple=True, metavar="A:B:LAYERS", help="Content A, in LAYERS (10-16) with styles of B.")
@option("--codes", multiple=True, type=click.Path(), help="A content from a file of codes, as inversion writes it.")
@option("--grid", is_flag=True, help="One video of all pairs: a row for each content, a column for each motion.")
@option("--interpolate", type=click.Choice(["z", "w"]), help="One video that loops through the contents and motions.")
@option(
    "--render_program",
    default=DEFAULT_PROGRAM,
    metavar="LIST",
    help=f"Of {', '.join(FORWARD_PROGRAMS)}; <name>{INVERSE} goes backwards.",
)
@option("--camera_path", type=click.Path(), help="Cameras from a file instead of a program, as the viewer writes it.")
@option("--truncation_psi", default=1.0, type=FINITE, help="Truncation; below 1: closer to the average, less varied.")
@option("--time_steps", default=16, type=click.IntRange(min=1), help="Moments between start and end.")
@option("--time_range", default="0:1", metavar="START:END", help="Start and end; training has shown 0 to 1.")
@option("--n_steps", default=16, type=click.IntRange(min=1), help="Camera steps; each lasts equally long.")
@option(
    "--fov",
    type=finite_float(0, 180, above=True, below=True),
    help="Field of view, degrees.  [default: as trained]",
)
@option("--relative_range_yaw_scale", default=1.0, type=FINITE, help="Extent of the path in yaw; 1: as trained.")
@option("--relative_range_pitch_scale", default=1.0, type=FINITE, help="Extent of the path in pitch; 1: as trained.")
@option("--stereo", is_flag=True, help="The pictures of the left and the right eye, side by side.")
@option("--eye_distance", type=FINITE, help="Of a stereo pair, in scene units.  [default: 0.063]")
@option("--outputs", default="rgb", metavar="LIST", help=f"Of {', '.join(OUTPUTS)}; a video for each.")
@option(
    "--enlarge", default=1, type=click.IntRange(1, 64), help="Repeat pixels, to look at the videos of small models."
)
@option("--fps", default=8.0, type=FRAME_RATE, help="Frames per second.")
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
@click.pass_context
def main(
    context: click.Context,
    outdir: str,
    network_pkl: str,
    seeds: str | None,
    motion_seeds: str | None,
    style_mix: tuple[str, ...],
    codes: tuple[str, ...],
    grid: bool,
    interpolate: str | None,
    render_program: str,
    camera_path: str | None,
    truncation_psi: float,
    time_steps: int,
    time_range: str,
    n_steps: int,
    fov: float | None,
    relative_range_yaw_scale: float,
    relative_range_pitch_scale: float,
    stereo: bool,
    eye_distance: float | None,
    outputs: str,
    enlarge: int,
    fps: float,
    save_frames: bool,
    class_idx: int | None,
    device: str | None,
    precision: str,
    ray_chunk: int | None,
) -> None:
    """Render videos of a generator: one per render program and pair of seeds, <program>_seed0000_motion0000.mp4."""
    given = {name for name in context.params if context.get_parameter_source(name) != ParameterSource.DEFAULT}
    check_combinations(given)
    if seeds is None and not style_mix and not codes:
        seeds = "0"
    seed_list = [] if seeds is None else parse_int_list(seeds, name="--seeds")
    motion_list = None if motion_seeds is None else parse_int_list(motion_seeds, name="--motion_seeds")
    mixes = list(dict.fromkeys(parse_style_mix(text) for text in style_mix))
    programs, names, times = parse_programs(render_program), parse_outputs(outputs), parse_time_range(time_range)
    keep_apart(outdir, option="--outdir", data=[trained_on(network_pkl)])
    nearby = frames_nearby(outdir, option="--outdir", rendered=TRACK_NAMES) if save_frames else None
    recorded = None if camera_path is None else read_camera_path(camera_path)
    if recorded is not None and recorded[0].time is not None:
        check_recorded(given, TIMED, f"{camera_path} says which moment each camera shows; leave the option out")
    own_path = len(codes) == 1 and not {"seeds", "style_mix", "render_program", "camera_path"} & given
    if own_path:
        check_recorded(given, CAMERA + TIMED, "these codes have a camera path of their own; add --render_program")

    from renderer.camera_tracks import file_track, program_tracks, recorded_track
    from renderer.cameras import EYE_DISTANCE, stereo_pair
    from renderer.video import check_video_size
    from torch_utils.memory import explain_out_of_memory, keep_freed_memory
    from training.checkpoints.snapshot import load_generator
    from training.inference.frame_renderer import FrameRenderer
    from training.inference.layouts import SeedCodes, Styles, lay_out
    from training.inference.render_videos import frame_size, write_videos

    device = pick_device(device)
    precision = check_precision(precision, device)
    if device.type == "cpu":
        keep_freed_memory()
    generator = load_generator(network_pkl, device=device)
    label = label_of_class(generator, class_idx) if seed_list or mixes else None
    try:  # everything that can be wrong is computed before anything is written
        known = SeedCodes(generator)
        contents = [known.content(seed) for seed in seed_list]
        others, fitted = gather_contents(generator, known, mixes, list(codes))
        motions = None if motion_list is None else [known.motion(seed) for seed in motion_list]
        layouts = lay_out(contents + others, motions, grid=grid, interpolate=interpolate)
        if own_path:
            tracks = [recorded_track(OWN_PATH, fitted[0].cameras(), fitted[0].times)]
        elif recorded is not None:
            moments = time_steps if "time_steps" in given else None
            tracks = [file_track(path_name(camera_path), recorded, time_steps=moments, time_range=times)]
        else:
            scales = {"yaw_scale": relative_range_yaw_scale, "pitch_scale": relative_range_pitch_scale}
            steps = {"n_steps": n_steps, "time_steps": time_steps, "time_range": times}
            tracks = program_tracks(programs, generator.camera_prior, fov=fov, **steps, **scales)
        for layout in layouts:
            check_video_size(*frame_size(layout, 1 + stereo, generator.resolution * enlarge))
        distance = EYE_DISTANCE if eye_distance is None else eye_distance
        eyes = [stereo_pair(track.cameras, distance) if stereo else (track.cameras,) for track in tracks]
    except ValueError as error:
        raise UserError(str(error)) from error
    say_what_is_special(tracks, layouts)
    for note in ([] if nearby is None else [nearby]) + idle_ranges(given, programs):
        click.echo(note, err=True)
    try:
        os.makedirs(outdir, exist_ok=True)
    except OSError as error:
        raise UserError(f"--outdir: cannot make the folder {outdir}: {error.strerror}.") from error

    def make_scene(codes):
        z_motion, z_bg = codes.z_motion.to(device), codes.z_bg.to(device)
        return FrameRenderer(
            generator, codes.ws, z_motion=z_motion, z_bg=z_bg, ray_chunk=ray_chunk, precision=precision
        )

    styles = Styles(generator.mapping, label=label, truncation_psi=truncation_psi, device=device)
    views = [(track, [cameras.to(device) for cameras in pair]) for track, pair in zip(tracks, eyes)]
    files = {"outdir": outdir, "outputs": names, "enlarge": enlarge, "fps": fps, "save_frames": save_frames}
    rays = "all rays of a frame" if ray_chunk is None else f"{ray_chunk} rays"
    with explain_out_of_memory(f"Now {rays} are rendered at a time: lower that with --ray_chunk, e.g. 4096."):
        write_videos(layouts, views, generator, styles=styles, make_scene=make_scene, **files)


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
