"""Videos of a trained generator along camera paths.

    python generate.py --outdir out --network_pkl network-snapshot.pt --seeds 0-3 --render_program rotation_camera_yaw

Three steps: the request is parsed and checked (`parse_request`), the camera tracks and the layouts of videos are built
(`build_tracks`, `build_layouts`), and the videos are written (`write_request`). Frame i of a video shows time i from
camera step n_steps − 1 − i. Grids, sheets, loops through latent codes, mixed styles, stereo, depth and recorded camera
paths: docs/rendering.md.
"""

import dataclasses
from typing import Any

import click

from dnnlib import UserError, nearest_name, output_folder, parse_int_list, run_cli
from dnnlib.command_line import FINITE, FRAME_RATE, Command, finite_float, options_given
from renderer.outputs import OUTPUTS, parse_outputs
from renderer.trajectories import DEFAULT_PROGRAM, FORWARD_PROGRAMS, INVERSE, PROGRAMS
from renderer.trajectory_files import PathCamera, read_camera_path
from training.data.dataset_folders import frames_nearby, keep_apart, trained_on
from training.inference.cli_options import (
    CAMERA,
    CODES_HELP,
    LABEL,
    LABEL_HELP,
    NETWORK,
    OWN_PATH,
    TIMED,
    TRACK_NAMES,
    StyleMix,
    check_combinations,
    check_recorded,
    check_truncation,
    extrapolated_times,
    idle_motion_seeds,
    idle_ranges,
    label_of_class,
    load_codes_of_files,
    parse_style_mix,
    parse_time_range,
    path_name,
    rendering_device,
)

# PyTorch and the networks are imported where they are used, so that --help and errors in the arguments are immediate.


# ----------------------------------------------------------------------------------------------------------------------
# 1. The request


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderRequest:
    """The options of the command, parsed and checked as far as that needs no network.

    Attributes:
        given: Names of the options that are not left at their defaults.
        seeds: Content seeds; empty if contents come from mixed styles or files alone.
        motion_seeds: Motion seeds; None: the contents' own motions.
        render_program: Names of programs, see `renderer.trajectories`.
        recorded: The cameras in the file `camera_path`, or None.
        along_codes: True if the camera path is that of the single file of codes.
        nearby: A note on frames around the output folder, or None.

    The others have the names of their options, see --help.
    """

    given: frozenset[str]
    outdir: str
    network_pkl: str
    seeds: list[int]
    motion_seeds: list[int] | None
    style_mix: list[StyleMix]
    codes: tuple[str, ...]
    grid: bool
    columns: int | None
    interpolate: str | None
    render_program: list[str]
    camera_path: str | None
    recorded: list[PathCamera] | None
    along_codes: bool
    truncation_psi: float
    time_steps: int
    time_range: tuple[float, float]
    n_steps: int
    fov: float | None
    relative_range_yaw_scale: float
    relative_range_pitch_scale: float
    stereo: bool
    eye_distance: float | None
    outputs: list[str]
    geometry_resolution: int | None
    enlarge: int
    fps: float
    format: str
    save_frames: bool
    nearby: str | None
    class_idx: int | list[float] | None
    device: str | None
    precision: str
    ray_chunk: int | None


def parse_request(options: dict[str, Any], given: frozenset[str]) -> RenderRequest:
    """The request made by options as click parses them.

    Raises:
        UserError: An option that cannot be read, options that exclude each other, or a folder of training data.
    """
    check_combinations(given)
    seeds, motion_seeds = options["seeds"], options["motion_seeds"]
    if seeds is None and not options["style_mix"] and not options["codes"]:
        seeds = "0"
    parsed = {
        "seeds": [] if seeds is None else parse_int_list(seeds, name="--seeds"),
        "motion_seeds": None if motion_seeds is None else parse_int_list(motion_seeds, name="--motion_seeds"),
        "style_mix": list(dict.fromkeys(parse_style_mix(text) for text in options["style_mix"])),
        "render_program": parse_programs(options["render_program"]),
        "outputs": parse_outputs(options["outputs"]),
        "time_range": parse_time_range(options["time_range"]),
    }
    outdir, camera_path = options["outdir"], options["camera_path"]
    keep_apart(outdir, option="--outdir", data=[trained_on(options["network_pkl"])])
    saves_frames = options["save_frames"]
    nearby = frames_nearby(outdir, rendered=TRACK_NAMES) if saves_frames else None
    recorded = None if camera_path is None else read_camera_path(camera_path)
    if recorded is not None and recorded[0].time is not None:
        check_recorded(given, TIMED, f"{camera_path} says which time each camera shows; leave the option out")
    along_codes = len(options["codes"]) == 1 and not {"seeds", "style_mix", "render_program", "camera_path"} & given
    if along_codes:
        check_recorded(given, CAMERA + TIMED, "these codes have a camera path of their own; add --render_program")
    if options["geometry_resolution"] is not None and parsed["outputs"] == ["rgb"]:
        raise UserError("--geometry_resolution is for outputs other than rgb: add --outputs rgb,depth,normal.")
    found = {"recorded": recorded, "along_codes": along_codes, "nearby": nearby}
    return RenderRequest(given=given, **options | parsed | found)


def parse_programs(text: str) -> list[str]:
    """The render programs of a comma-separated list, each once."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in PROGRAMS:
            near = nearest_name(name, PROGRAMS)
            choice = f"choose from {', '.join(FORWARD_PROGRAMS)}, or <name>{INVERSE}."
            hint = choice if near is None else f"did you mean {near}? --help shows all."
            raise UserError(f"--render_program: there is no program '{name}'; {hint}")
    return list(dict.fromkeys(names))


# ----------------------------------------------------------------------------------------------------------------------
# 2. Layouts and tracks


def build_layouts(request: RenderRequest, generator) -> tuple[list, list]:
    """The layouts of videos, and the `VideoCodes` of the files among their contents.

    Raises:
        UserError, ValueError: A seed, layer or file that does not exist, or videos that cannot be told apart.
    """
    from training.inference.layouts import SeedCodes, file_content, lay_out

    of_seeds = SeedCodes(generator)
    contents = [of_seeds.content(seed) for seed in request.seeds]
    if request.style_mix:
        layers = {"foreground": generator.foreground.num_ws, "total": generator.num_ws}
        contents += [of_seeds.mix(mix, mix.numbers(**layers)) for mix in request.style_mix]
    codes = load_codes_of_files(request.codes, generator)
    of_files = {path: file_content(path, found) for path, found in zip(request.codes, codes)}
    contents += [of_files[path] for path in request.codes]  # a loop may pass one several times
    motions = None if request.motion_seeds is None else [of_seeds.motion(seed) for seed in request.motion_seeds]
    columns, interpolate = request.columns, request.interpolate
    return lay_out(contents, motions, grid=request.grid, columns=columns, interpolate=interpolate), codes


def build_tracks(request: RenderRequest, prior, codes: list) -> list:
    """The `CameraTrack`s: those of the file of codes, of the recorded camera path, or of the render programs.

    Args:
        prior: The generator's `CameraPrior`.
        codes: `VideoCodes` of the files.

    Raises:
        ValueError: A field of view out of range.
    """
    from renderer.camera_tracks import file_track, program_tracks, recorded_track

    if request.along_codes:
        return [recorded_track(OWN_PATH, codes[0].cameras(), codes[0].times)]
    if request.recorded is not None:
        steps = request.time_steps if "time_steps" in request.given else None
        name, smallest = path_name(request.camera_path), getattr(prior, "smallest_fov", 0.0)
        for i, camera in enumerate(request.recorded):
            if camera.fov < smallest:
                raise ValueError(
                    f"{request.camera_path}: cameras[{i}]: fov is in degrees, of at least {smallest:g}, got "
                    f"{camera.fov:g}."
                )
        return [file_track(name, request.recorded, time_steps=steps, time_range=request.time_range)]
    return program_tracks(
        request.render_program,
        prior,
        n_steps=request.n_steps,
        time_steps=request.time_steps,
        time_range=request.time_range,
        fov=request.fov,
        yaw_scale=request.relative_range_yaw_scale,
        pitch_scale=request.relative_range_pitch_scale,
    )


def eyes_of(track, request: RenderRequest) -> tuple:
    """The track's cameras; for a stereo pair those of the left and of the right eye.

    Raises:
        ValueError: An eye distance out of range.
    """
    from renderer.cameras import EYE_DISTANCE, stereo_pair

    if not request.stereo:
        return (track.cameras,)
    return stereo_pair(track.cameras, EYE_DISTANCE if request.eye_distance is None else request.eye_distance)


def check_sizes(layouts: list, request: RenderRequest, resolution: int) -> None:
    """Refuse frames, or a frame rate, that no video can have.

    Raises:
        ValueError: See `check_video_size` and `check_video_rate`.
    """
    from renderer.video import check_video_rate, check_video_size
    from training.inference.render_videos import cell_sizes, frame_size

    check_video_rate(request.format, request.fps)

    cells = cell_sizes(request.outputs, resolution * request.enlarge, request.geometry_resolution)
    for layout in layouts:
        check_video_size(*frame_size(layout, 1 + request.stereo, max(cells.values())))


# ----------------------------------------------------------------------------------------------------------------------
# 3. The videos


def print_notes(request: RenderRequest, tracks: list, layouts: list, generator) -> None:
    """Print notes on possible surprises: spread frames, extrapolated times, a loop's length, options without effect."""
    for note in dict.fromkeys(track.note for track in tracks if track.note):
        click.echo(note)
    for note in extrapolated_times([time for track in tracks for _, time in track.schedule]):
        click.echo(note)
    for layout in layouts:
        if layout.moving:
            frames = max(len(track.schedule) for track in tracks)
            loops = getattr(layout, "videos", [layout])  # those of a sheet pass through equally many
            counts = f"{plural(len(loops[0].contents), 'content')} and {plural(len(loops[0].motions), 'motion')}"
            own = request.along_codes or request.recorded is not None  # a path of a file has its own length
            name, each, it = ("A loop", "", "it") if len(loops) == 1 else (f"{len(loops)} loops", ", each", "them")
            longer = "." if own else f"; --n_steps N makes {it} longer."
            click.echo(f"{name} of {frames} frames{each} through {counts}{longer}")
    if request.nearby is not None:
        click.echo(request.nearby, err=True)
    idle = idle_ranges(request.given, request.render_program) + idle_motion_seeds(generator, request.motion_seeds)
    for note in idle:
        click.echo(note, err=True)


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def write_request(
    request: RenderRequest, generator, *, layouts: list, views: list, label, device, precision: str
) -> None:
    """Render every layout along every track into files of the output folder.

    Args:
        views: Pairs of a track and the cameras of its eyes.
        label: [1, c_dim], or None.
        device: The generator's device.
        precision: See `FrameRenderer`.

    Raises:
        UserError: The folder or a file cannot be written, or memory is short.
    """
    from torch_utils.memory import explain_out_of_memory
    from training.inference.frame_renderer import FrameRenderer
    from training.inference.layouts import StyleMapping
    from training.inference.render_videos import write_videos

    def make_renderer(codes):
        return FrameRenderer(generator, **vars(codes.to(device)), ray_chunk=request.ray_chunk, precision=precision)

    rays = "all rays of a frame" if request.ray_chunk is None else f"{request.ray_chunk} rays"
    advice = f"Now {rays} are rendered at a time: lower that with --ray_chunk, e.g. 4096."
    with explain_out_of_memory(advice), output_folder(request.outdir):
        write_videos(
            layouts,
            [(track, [cameras.to(device) for cameras in eyes]) for track, eyes in views],
            generator,
            styles=StyleMapping(generator.mapping, label=label, truncation_psi=request.truncation_psi, device=device),
            make_renderer=make_renderer,
            outdir=request.outdir,
            outputs=request.outputs,
            geometry_resolution=request.geometry_resolution,
            enlarge=request.enlarge,
            fps=request.fps,
            save_frames=request.save_frames,
            video_format=request.format,
        )


def pick_precision(name: str, device) -> str:
    """PyTorch's name of a precision in which the device can render.

    Raises:
        UserError: It cannot.
    """
    from training.inference.frame_renderer import can_render

    precision = {"float32": "float32", "bf16": "bfloat16"}[name]
    if not can_render(precision, device):
        raise UserError(
            f"--precision: {name} needs a processor with avx512_bf16 and a C++ compiler, or a GPU of NVIDIA's Ampere "
            "generation or later; leave the option out."
        )
    return precision


option = click.option


@click.command(cls=Command, context_settings={"max_content_width": 120, "show_default": True})
@option("--outdir", required=True, type=click.Path(file_okay=False), help="Folder for the videos.")
@option("--network_pkl", required=True, type=NETWORK, help="A checkpoint, a run folder, a URL, or a Hub id.")
@option("--seeds", metavar="LIST", help="Content seeds, like 1,2,5-8.  [default: 0]")
@option("--motion_seeds", metavar="LIST", help="Motion seeds.  [default: the content seeds]")
@option("--style_mix", multiple=True, metavar="A:B:LAYERS", help="Content A, in LAYERS (10-16) with styles of B.")
@option("--codes", multiple=True, type=click.Path(), help=CODES_HELP)
@option("--grid", is_flag=True, help="One video of all pairs: a row for each content, a column for each motion.")
@option(
    "--columns",
    metavar="N",
    type=click.IntRange(min=1),
    help="One video of all videos, in N columns; with --interpolate, of N loops side by side.",
)
@option("--interpolate", type=click.Choice(["z", "w"]), help="One video that loops through the contents and motions.")
@option(
    "--render_program",
    default=DEFAULT_PROGRAM,
    metavar="LIST",
    help=f"One or more of {', '.join(FORWARD_PROGRAMS)}; <name>{INVERSE} runs backwards.",
)
@option("--camera_path", type=click.Path(), help="Cameras from a file, as written by the viewer, instead of a program.")
@option("--truncation_psi", default=1.0, type=FINITE, help="Truncation; below 1: closer to the average, less varied.")
@option("--time_steps", default=16, type=click.IntRange(min=1), help="Number of time steps from start to end.")
@option("--time_range", default="0:1", metavar="START:END", help="First and last time; training covered 0 to 1.")
@option("--n_steps", default=16, type=click.IntRange(min=1), help="Number of camera positions along the path.")
@option(
    "--fov",
    type=finite_float(0, 180, above=True, below=True),
    help="Field of view, degrees.  [default: as trained]",
)
@option("--relative_range_yaw_scale", default=1.0, type=FINITE, help="Extent of the path in yaw; 1: as trained.")
@option("--relative_range_pitch_scale", default=1.0, type=FINITE, help="Extent of the path in pitch; 1: as trained.")
@option("--stereo", is_flag=True, help="Views of the left and the right eye, side by side.")
@option("--eye_distance", type=FINITE, help="Distance between the eyes, in scene units.  [default: 0.063]")
@option("--outputs", default="rgb", metavar="LIST", help=f"One or more of {', '.join(OUTPUTS)}; one video each.")
@option(
    "--geometry_resolution",
    type=click.IntRange(min=1),
    help="Rays per side of outputs other than rgb, also more than in training.  [default: as for the image]",
)
@option(
    "--enlarge",
    default=1,
    type=click.IntRange(1, 64),
    help="Repeat each pixel this many times per side, for the videos of small models.",
)
@option("--fps", default=8.0, type=FRAME_RATE, help="Frames per second.")
@option("--format", default="mp4", type=click.Choice(["mp4", "webm", "gif"]), help="Format of the videos.")
@option("--save_frames", is_flag=True, help="Also write the frames as PNG, in a folder beside each video.")
@option("--class_idx", type=LABEL, help=LABEL_HELP)
@option("--device", help="cpu, cuda, cuda:1, …  [default: cuda if there is one]")
@option(
    "--precision",
    default="float32",
    type=click.Choice(["float32", "bf16"]),
    help="bf16: faster on CPUs that support it; on a GPU it replaces float16, without a gain.",
)
@option("--ray_chunk", type=click.IntRange(min=1), help="Render this many rays at a time, to save memory.")
def main(**options: Any) -> None:
    """Render videos of a generator: one per render program and pair of seeds, <program>_seed0000_motion0000.mp4."""
    request = parse_request(options, options_given())

    from training.checkpoints.snapshot import load_average_generator

    device = rendering_device(request.device)
    precision = pick_precision(request.precision, device)
    generator = load_average_generator(request.network_pkl, device=device)
    label = None
    if request.seeds or request.style_mix:  # styles from files are used as they are
        label = label_of_class(generator, request.class_idx)
        check_truncation(generator, request.truncation_psi)
    try:  # everything that can be wrong is computed before anything is written
        layouts, codes = build_layouts(request, generator)
        tracks = build_tracks(request, generator.camera_prior, codes)
        check_sizes(layouts, request, generator.resolution)
        views = [(track, eyes_of(track, request)) for track in tracks]
    except ValueError as error:
        raise UserError(str(error)) from error

    print_notes(request, tracks, layouts, generator)
    write_request(request, generator, layouts=layouts, views=views, label=label, device=device, precision=precision)


if __name__ == "__main__":
    run_cli(lambda: main(standalone_mode=False))
