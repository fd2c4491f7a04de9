"""Options of the commands that render a checkpoint: their values, and the combinations that are refused.

Two ways to say the same thing are refused instead of giving one precedence. The module does not import PyTorch, so that
--help and errors in the arguments are immediate.
"""

import dataclasses
import math
import os
import re
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import click

from dnnlib import UserError, one_line, parse_int_list
from dnnlib.command_line import FINITE, options_given
from renderer.trajectories import FORWARD_PROGRAMS, scaled_angles
from training.checkpoints.sources import is_remote

if TYPE_CHECKING:
    from training.inference.latent_files import VideoCodes

__all__ = [
    "CAMERA",
    "CODES_HELP",
    "LABEL",
    "LABEL_HELP",
    "NETWORK",
    "OWN_PATH",
    "Scenes",
    "StyleMix",
    "TIMED",
    "TRACK_NAMES",
    "check_combinations",
    "check_recorded",
    "check_truncation",
    "extrapolated_times",
    "idle_motion_seeds",
    "idle_ranges",
    "join_numbers",
    "label_of_class",
    "load_codes_of_files",
    "pair_seeds",
    "parse_style_mix",
    "parse_time_range",
    "part_layers",
    "path_name",
    "pick_device",
    "plain_name",
    "rendering_device",
    "scene_options",
    "scenes_of",
]

OWN_PATH, PATH_OF_FILE = "own-path", "path-"  # names of camera paths from a file of codes, and from a file of their own
TRACK_NAMES = (*FORWARD_PROGRAMS, OWN_PATH, PATH_OF_FILE)  # prefixes of the names of rendered videos

PARTS = ("foreground", "upsampler")  # networks whose layers can be chosen together by name

CAMERA = ("n_steps", "fov", "relative_range_yaw_scale", "relative_range_pitch_scale")  # options of a program's path
MAX_TIME = 1000
MAX_TIME_STEPS = 1000  # made at once
TIMED = ("time_steps", "time_range")  # options that set the time steps


class NetworkSource(click.Path):
    """The type of an option that names a checkpoint: a path that exists, a web address, or an id of the Hub."""

    def __init__(self):
        super().__init__(exists=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if is_remote(value) else super().convert(value, param, ctx)


class LabelValue(click.ParamType):
    """The type of an option for a label: the number of a class, or several numbers with commas between them."""

    name = "class"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        if re.fullmatch(r"[0-9]{1,99}", value.strip()):
            return int(value)
        numbers = []
        for part in value.split(","):
            try:
                numbers.append(float(part))
            except ValueError:
                numbers.append(math.nan)
        if not all(map(math.isfinite, numbers)):
            self.fail(f"'{value}' is neither the number of a class nor a list of numbers like 0.2,1.5.", param, ctx)
        return numbers


NETWORK, LABEL = NetworkSource(), LabelValue()
LABEL_HELP = "Class, or the numbers of a label like 0.2,1.5, for a generator trained with labels."
CODES_HELP = "Content from a file of codes, of inversion or G.save_codes."


# ----------------------------------------------------------------------------------------------------------------------
# Commands that write the geometry of time steps


def scene_options(command: Callable) -> Callable:
    """The options of commands that write the geometry of a checkpoint's videos; see `scenes_of`."""
    option, count = click.option, click.IntRange(min=1)
    for add in (
        option("--network_pkl", required=True, type=NETWORK, help="A checkpoint, a run folder, a URL, or a Hub id."),
        option("--seeds", metavar="LIST", help="Content seeds, like 1,2,5-8.  [default: 0]"),
        option("--motion_seeds", metavar="LIST", help="Motion seeds.  [default: the content seeds]"),
        option("--codes", multiple=True, type=click.Path(), help=CODES_HELP),
        option(
            "--times",
            default="0.5",
            metavar="LIST",
            help="Times like 0,0.5,1; the training clips span 0 to 1.",
        ),
        option(
            "--time_steps",
            type=click.IntRange(1, MAX_TIME_STEPS),
            help="Number of time steps from 0 to 1, instead of --times.",
        ),
        option(
            "--truncation_psi",
            default=1.0,
            type=FINITE,
            help="Truncation; below 1: closer to the average, less varied.",
        ),
        option("--class_idx", type=LABEL, help=LABEL_HELP),
        option("--device", help="cpu, cuda, cuda:1, …  [default: cuda if there is one]"),
        option("--chunk", default=1 << 16, type=count, help="Points evaluated at a time; fewer save memory."),
    )[::-1]:  # the option added last comes first in --help
        command = add(command)
    return command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenes:
    """What a command with `scene_options` is asked for.

    Attributes:
        seeds: Content seeds; empty if all contents come from files.
        motion_seeds: Motion seeds; None: the contents' own motions.
        codes: Files of codes.
        times: Times of every video.
        truncation_psi, class_idx: Truncation and class of the styles of seeds.
    """

    seeds: list[int]
    motion_seeds: list[int] | None
    codes: tuple[str, ...]
    times: list[float]
    truncation_psi: float
    class_idx: int | list[float] | None


def scenes_of(options: dict[str, Any]) -> Scenes:
    """The videos and times of the current command, whose options contain those of `scene_options`.

    Raises:
        UserError: They are not lists of numbers, or contradict each other.
    """
    given = options_given()
    check_combinations(given)
    seeds, motion_seeds = options["seeds"], options["motion_seeds"]
    if seeds is None and not options["codes"]:
        seeds = "0"
    if options["time_steps"] is not None and "times" in given:
        raise UserError("--times and --time_steps are two ways to choose the time steps: give one of them.")
    return Scenes(
        seeds=[] if seeds is None else parse_int_list(seeds, name="--seeds"),
        motion_seeds=None if motion_seeds is None else parse_int_list(motion_seeds, name="--motion_seeds"),
        times=parse_times(options["times"], options["time_steps"]),
        codes=tuple(dict.fromkeys(options["codes"])),
        **{name: options[name] for name in ("truncation_psi", "class_idx")},
    )


# ----------------------------------------------------------------------------------------------------------------------
# Values of single options


@dataclasses.dataclass(frozen=True)
class StyleMix:
    """The content of one seed with the styles of another in some layers: a part's name, or numbers like '0+5-7'."""

    seed: int
    other: int
    layers: str

    @property
    def name(self) -> str:
        """For file names."""
        return f"mix{self.seed:04d}-{self.other:04d}-{self.layers}"

    def numbers(self, *, foreground: int, total: int) -> list[int]:
        """The layers' numbers among the generator's styles: the foreground's come first.

        Args: As for part_layers.

        Raises:
            UserError: There is no such layer.
        """
        if self.layers in PARTS:
            return list(part_layers(foreground=foreground, total=total)[self.layers])
        numbers = parse_int_list(self.layers.replace("+", ","), name="--style_mix")
        if numbers[-1] >= total:
            raise UserError(
                f"--style_mix: there is no layer {numbers[-1]}; this generator has 0-{foreground - 1} (foreground) and "
                f"{foreground}-{total - 1} (upsampler)."
            )
        return numbers


def part_layers(*, foreground: int, total: int) -> dict[str, range]:
    """The numbers of the layers of each of PARTS among the generator's styles: the foreground's come first.

    Args:
        foreground, total: How many styles the foreground and all of the generator take.
    """
    return dict(zip(PARTS, (range(foreground), range(foreground, total))))


def join_numbers(numbers: Sequence[int], digits: int = 1) -> str:
    """Numbers for a file's name: 1, 2, 3, 7 as '1-3+7', with leading zeros to `digits` digits."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return "+".join(f"{r[0]:0{digits}d}" + (f"-{r[-1]:0{digits}d}" if len(r) > 1 else "") for r in runs)


def parse_style_mix(text: str) -> StyleMix:
    """A:B:LAYERS.

    Raises:
        UserError: It is something else.
    """
    match = re.fullmatch(r"\s*([0-9]{1,99})\s*:\s*([0-9]{1,99})\s*:\s*(\S+)\s*", text)
    if match is None:
        raise UserError(
            f"--style_mix: '{text}' is not A:B:LAYERS; write for example 3:5:10-16 or 3:5:upsampler: content 3 with "
            "the styles of 5 in these layers."
        )
    layers = match[3]
    if layers not in PARTS:
        if not re.fullmatch(r"[0-9,-]+", layers):
            raise UserError(f"--style_mix: '{layers}' are not layers; write {', '.join(PARTS)} or numbers like 10-16.")
        layers = join_numbers(sorted(set(parse_int_list(layers, name="--style_mix"))))
    return StyleMix(int(match[1]), int(match[2]), layers)


def parse_time_range(text: str, *, name: str = "--time_range") -> tuple[float, float]:
    """START:END, numbers; `name` of the option.

    Raises:
        UserError: It is something else.
    """
    try:
        first, last = (float(part) for part in text.split(":"))
    except ValueError:
        first = last = math.nan
    if not (math.isfinite(first) and math.isfinite(last)):
        raise UserError(f"{name}: '{text}' is not START:END, two numbers; write for example 0:2.")
    if max(abs(first), abs(last)) > MAX_TIME:
        raise UserError(f"{name}: '{text}' goes beyond ±{MAX_TIME}; training covered 0 to 1.")
    return first, last


def parse_times(text: str, time_steps: int | None) -> list[float]:
    """The times of --times, or of --time_steps in equal steps from 0 to 1.

    Raises:
        UserError: A part is no number or too large, or there are too many.
    """
    if time_steps is not None:
        return [i / max(time_steps - 1, 1) for i in range(time_steps)]
    times = []
    for part in text.split(","):
        try:
            times.append(float(part))
        except ValueError:
            times.append(math.nan)
        if not math.isfinite(times[-1]):
            raise UserError(f"--times: '{part.strip()}' is not a number; write for example 0,0.5,1.")
        if abs(times[-1]) > MAX_TIME:
            raise UserError(f"--times: '{part.strip()}' goes beyond ±{MAX_TIME}; training covered 0 to 1.")
    if len(times) > MAX_TIME_STEPS:
        raise UserError(f"--times: these are {len(times)} time steps; at most {MAX_TIME_STEPS} are made at once.")
    return times


def extrapolated_times(times: Sequence[float]) -> list[str]:
    """A note on times that training did not cover; none if it covered all."""
    first, last = min(times), max(times)
    if first >= 0 and last <= 1:
        return []
    return [f"Times from {first:g} to {last:g}: training covered 0 to 1, the rest is extrapolated."]


def check_combinations(given: Collection[str]) -> None:
    """Refuse options that do not go together.

    Args:
        given: Names of the options that the command was given.

    Raises:
        UserError: Two that exclude each other, or one without the option that it needs.
    """
    if {"grid", "interpolate"} <= set(given):
        raise UserError("--grid and --interpolate exclude each other: the cells of a grid keep their codes.")
    if {"grid", "columns"} <= set(given):
        raise UserError("--grid and --columns exclude each other: a grid has a column for each motion.")
    if "camera_path" in given:
        check_recorded(given, ("render_program", *CAMERA), "--camera_path says where the cameras stand; leave one out")
    if "eye_distance" in given and "stereo" not in given:
        raise UserError("--eye_distance belongs to stereo pairs: add --stereo.")
    if "codes" in given and not {"seeds", "style_mix"} & set(given):
        for name in ("class_idx", "truncation_psi"):
            if name in given:
                raise UserError(f"--{name}: the codes of a file are rendered as they are; leave the option out.")


def idle_ranges(given: Collection[str], programs: Sequence[str]) -> list[str]:
    """Notes on a --relative_range_…_scale that no render program uses: they move the other angle, or none."""
    return [
        f"--relative_range_{angle}_scale has no effect: {', '.join(programs)} does not move the camera in {angle}."
        for angle in ("yaw", "pitch")
        if f"relative_range_{angle}_scale" in given and not any(angle in scaled_angles(name) for name in programs)
    ]


def idle_motion_seeds(generator, motion_seeds: object) -> list[str]:
    """A note on --motion_seeds (None: not given) for a generator without motion, where all give the same video."""
    from training.inference.latents import lacks_motion

    if motion_seeds is None or not lacks_motion(generator):
        return []
    return ["--motion_seeds has no effect: this generator has no motion."]


def check_recorded(given: Collection[str], options: Sequence[str], reason: str) -> None:
    """Refuse `options` that a recorded camera path sets already.

    Raises:
        UserError: One of them is given.
    """
    for name in options:
        if name in given:
            raise UserError(f"--{name} has no place here: {reason}.")


def path_name(path: str) -> str:
    """The name of a camera path from a file, for the names of videos."""
    return PATH_OF_FILE + plain_name(path)


def plain_name(path: str) -> str:
    """A file's name without its suffix, usable as a part of another name."""
    return re.sub(r"[^\w.-]+", "-", os.path.splitext(os.path.basename(path))[0])[:40]


def pair_seeds(seeds: list, motion_seeds: list | None) -> list[tuple]:
    """(content, motion) of every video: seeds, or the codes that they stand for.

    Without motion seeds every content seed is its own motion seed; a single motion seed serves all contents; equally
    many are paired one to one; any other number gives all pairs.
    """
    if motion_seeds is None:
        motion_seeds = seeds
    if len(motion_seeds) == 1:
        motion_seeds = motion_seeds * len(seeds)
    if len(motion_seeds) == len(seeds):
        pairs = list(zip(seeds, motion_seeds))
    else:
        pairs = [(seed, motion) for seed in seeds for motion in motion_seeds]
    return list(dict.fromkeys(pairs))  # a pair that is given twice is one file


def label_of_class(generator, class_idx: int | Sequence[float] | None):
    """The label [1, c_dim] of --class_idx, or None for a generator without labels.

    Raises:
        UserError: See `class_label`.
    """
    from training.inference.latents import class_label

    try:
        return class_label(generator, class_idx)
    except ValueError as error:
        raise UserError(f"--class_idx: {error}") from error


def check_truncation(generator, truncation_psi: float) -> None:
    """Refuse a truncation for a generator without an average style to truncate towards.

    Raises:
        UserError: The generator was trained without one.
    """
    mapping = generator.mapping  # a user's class may have another mapping network
    if truncation_psi != 1 and getattr(mapping, "w_avg_beta", 0.0) is None:
        raise UserError(
            "--truncation_psi: this generator keeps no mean of its styles to truncate towards (its mapping.w_avg_beta "
            "is null); leave the option out."
        )


def load_codes_of_files(files: tuple[str, ...], generator) -> "list[VideoCodes]":
    """The `VideoCodes` of files, with a warning where they were fitted to another network.

    Raises:
        UserError: See `load_codes`.
    """
    from training.inference.latent_files import load_codes

    codes = [load_codes(path, generator) for path in files]
    for path, found in zip(files, codes):
        if not found.belong_to(generator):
            click.echo(f"warning: the codes in {path} were fitted to another network; they may look different here.")
    return codes


def pick_device(name: str | None):
    """The device that --device names, by default a GPU if there is one.

    Raises:
        UserError: It cannot be used.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        # The meta device makes tensors, too, but without values. Cameras need float64, which Apple's MPS lacks.
        torch.zeros(1, device=device, dtype=torch.float64).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = one_line(error).split(". ")[0][:200]  # the rest of PyTorch's message lists all kinds of devices
        raise UserError(f"--device: '{name}' cannot be used here ({reason}); write cpu, cuda or cuda:1.") from error
    return device


def rendering_device(name: str | None):
    """`pick_device` for a process that renders: on a CPU it keeps freed memory."""
    from torch_utils.memory import keep_freed_memory

    device = pick_device(name)
    if device.type == "cpu":
        keep_freed_memory()
    return device
