"""Options that have no effect because of another option or of the machine.

A few of them are mistakes that would harm a training, and are refused. The others only cause a note, since commands are
repeated with small changes (on another machine, without metrics) and should keep working.
"""

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dnnlib import UserError, is_number
from training.launch.config import FOLLOWERS

__all__ = [
    "Devices",
    "check_cuda_graphs",
    "check_freezing",
    "check_precision",
    "idle_notes",
    "other_folder_note",
    "slow_precision_note",
]

Options = Mapping[str, Any]

NARROW = ("AVX2", "NO AVX")  # x86 instruction sets for which PyTorch has no bfloat16 matrix products


class Devices(NamedTuple):
    """Devices of a training: 'cpu' or 'cuda', one for each process."""

    device_type: str
    processes: int


class IdleRule(NamedTuple):
    """Options that have no effect where `applies`; the name of a group stands for all options in it."""

    names: tuple[str, ...]
    applies: Callable[[Options, Devices], bool]
    because: str


def _model(options: Options, path: str) -> Any:
    value: Any = options["model"]
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _argument(options: Options, part: str, name: str, default: Any) -> Any:
    """An argument of a part; `default` where it is left out, or where a class of the user's own has no such part."""
    values = _model(options, part)
    return values.get(name, default) if isinstance(values, Mapping) else default


#: Options of the layers that may run in half precision, and the constructors' values where a model leaves them out.
HALF = {"generator.upsampler": ("fp16_min_resolution", 128), "discriminator": ("fp16_resolutions", 4)}


def _half_layers(options: Options, part: str) -> bool:
    """True if a part of the networks has layers that may run in half precision, whatever the device."""
    name, default = HALF[part]
    value = _argument(options, part, name, default)
    if part == "discriminator":
        return value != 0
    return is_number(value) and value <= options["resolution"]


def _runs_half(options: Options, devices: Devices, part: str) -> bool:
    """True if a part's half-precision layers run in it; float16 needs a clamp (`training.networks.mixed_precision`)."""
    clamped = _argument(options, part, "conv_clamp", 256) is not None
    return options["precision"] == "bf16" or (devices.device_type == "cuda" and clamped)


def _any_half(options: Options, devices: Devices) -> bool:
    return any(_half_layers(options, part) and _runs_half(options, devices, part) for part in HALF)


def _before_ampere(devices: Devices) -> bool:
    """True for GPUs before Ampere."""
    import torch

    from training.networks.mixed_precision import multiplies_bfloat16

    return devices.device_type == "cuda" and not multiplies_bfloat16(torch.device("cuda"))


def _ramp_begins_late(options: Options) -> bool:
    """True if the density is not multiplied before the end of the run."""
    start = _model(options, "generator.foreground.density_ramp.start")
    return is_number(start) and start >= options["kimg"]


def _one_view(options: Options) -> bool:
    """True if all cameras look from one direction."""
    ranges = [_model(options, f"generator.camera.{angle}") for angle in ("yaw", "pitch")]
    return all(isinstance(limits, list) and len(limits) == 2 and limits[0] == limits[1] for limits in ranges)


RULES = (
    # The devices.
    IdleRule(("allow_tf32",), lambda o, d: o["allow_tf32"] and d.device_type == "cpu", "TensorFloat-32 is for GPUs"),
    IdleRule(
        ("cuda_graphs",), lambda o, d: o["cuda_graphs"] and d.device_type == "cpu", "a CPU launches no kernels"
    ),
    IdleRule(
        ("allow_tf32",), lambda o, d: o["allow_tf32"] and _before_ampere(d), "GPUs have TensorFloat-32 from Ampere on"
    ),
    IdleRule(("fp32",), lambda o, d: o["fp32"] and d.device_type == "cpu", "a CPU has no half precision by itself"),
    IdleRule(
        ("fp32",),
        lambda o, d: o["fp32"] and d.device_type == "cuda" and not _any_half(o, d),
        "this model runs in float32 anyway (half precision on a GPU needs conv_clamp)",
    ),
    IdleRule(
        ("precision",),
        lambda o, d: o["precision"] == "float32" and d.device_type == "cuda" and not o["fp32"] and _any_half(o, d),
        "a GPU takes float16 where the model has conv_clamp; fp32=true forbids it",
    ),
    IdleRule(("nobench",), lambda o, d: o["nobench"] and d.device_type == "cpu", "cuDNN is for GPUs"),
    *(
        IdleRule(
            (f"model.{part}.{name}",),
            lambda o, d, part=part: o["fp32"] or not _runs_half(o, d, part),
            "nothing runs in half precision here",
        )
        for part, (name, _) in HALF.items()
    ),
    IdleRule(("timeout",), lambda o, d: d.processes == 1, "a single process waits for no other"),
    # Learning rate, regularisation and averaging.
    IdleRule(
        ("spec.lrate_decay",),
        lambda o, d: o["spec"]["lrate_decay"] is not None and o["spec"]["lrate_decay"] >= o["kimg"],
        "the run ends before the learning rate begins to fall",
    ),
    IdleRule(
        ("spec.gamma",), lambda o, d: o["spec"]["d_reg_interval"] is None, "spec.d_reg_interval=null leaves R1 out"
    ),
    IdleRule(("spec.d_reg_interval",), lambda o, d: o["spec"]["gamma"] == 0, "spec.gamma=0 leaves R1 out"),
    IdleRule(
        ("spec.pl_weight", "spec.pl_decay", "spec.pl_batch_shrink"),
        lambda o, d: o["spec"]["g_reg_interval"] is None,
        "spec.g_reg_interval=null leaves the path-length penalty out",
    ),
    IdleRule(
        ("spec.pl_decay", "spec.pl_batch_shrink", "spec.g_reg_interval"),
        lambda o, d: o["spec"]["pl_weight"] == 0,
        "spec.pl_weight=0 leaves the path-length penalty out",
    ),
    IdleRule(
        ("spec.pl_batch_shrink",), lambda o, d: o["spec"]["microbatch"] == 1, "a pass is a single video already"
    ),
    IdleRule(("spec.ramp",), lambda o, d: o["spec"]["ema"] == 0, "spec.ema=0 takes no average"),
    IdleRule(
        ("spec.image_weight",),
        lambda o, d: _model(o, "discriminator.image") is False,
        "model.discriminator.image=false leaves the image discriminator out",
    ),
    IdleRule(
        ("model.discriminator.image",),
        lambda o, d: _model(o, "discriminator.image") is not False and o["spec"]["image_weight"] == 0,
        "spec.image_weight=0 leaves the image discriminator untrained",
    ),
    IdleRule(("augpipe",), lambda o, d: o["aug"] == "fixed" and o["p"] == 0, "p=0 augments nothing"),
    # Parts of the networks.
    IdleRule(
        ("model.generator.foreground.density_bias",),
        lambda o, d: o["resume"] is not None,
        "it is an initial value, and resume= brings trained ones",
    ),
    IdleRule(
        ("model.generator.foreground.density_ramp",),
        lambda o, d: _ramp_begins_late(o),
        "the run ends before the density begins to grow",
    ),
    IdleRule(
        ("model.generator.camera.distribution",), lambda o, d: _one_view(o), "all cameras look from one direction"
    ),
    IdleRule(
        ("model.generator.rendering.path_lattice",),
        lambda o, d: o["spec"]["path_weight"] == o["spec"]["distortion_weight"] == 0,
        "spec.path_weight=0 and spec.distortion_weight=0 leave the losses along rays out",
    ),
    IdleRule(
        ("model.discriminator.mapping_layers",),
        lambda o, d: not o["cond"] and not o["camera_condition"],
        "the discriminators are conditioned on nothing without cond or camera_condition",
    ),
    IdleRule(
        ("model.generator.background_dim", "model.generator.rendering.num_background",
         "model.generator.rendering.background_start"),
        lambda o, d: _model(o, "generator.background") is None,
        "model.generator.background=null leaves the background out",
    ),
    IdleRule(
        ("model.generator.motion_dim",),
        lambda o, d: _model(o, "generator.motion") is None,
        "model.generator.motion=null leaves the motion out",
    ),
    IdleRule(
        ("model.generator.foreground.direction_frequencies",),
        lambda o, d: _model(o, "generator.foreground.view_directions") is False,
        "model.generator.foreground.view_directions=false leaves directions out",
    ),
    # What is written.
    IdleRule(("previews",), lambda o, d: o["imgsnap"] is None, "imgsnap=null makes no previews"),
    IdleRule(
        ("previews.videos",),
        lambda o, d: o["previews"]["videos"] > o["previews"]["images"] and o["imgsnap"] is not None,
        "there are at most as many videos as previews.images",
    ),
    IdleRule(("keep",), lambda o, d: o["keep"] is not None and o["snap"] is None, "snap=null writes one snapshot only"),
    IdleRule(("cache_metrics_dir", "detectors"), lambda o, d: not o["metrics"], "no metrics= are computed"),
)  # fmt: skip


def idle_notes(given: Collection[str], options: Options, devices: Devices) -> list[str]:
    """Notes on given options that have no effect.

    Args:
        given: Names of the options that the command was given.
        options: All of them, checked.
    """
    notes = []
    for names, applies, because in RULES:
        idle = [key for key in given if any(key == name or key.startswith(f"{name}.") for name in names)]
        if idle and applies(options, devices):
            notes.append(f"{_listed(idle)} no effect: {because}.")
    for name, others in FOLLOWERS.items():
        if name in given and all(other in given for other in others):
            notes.append(f"{name}= has no effect: {' and '.join(f'{other}=' for other in others)} take its place.")
    return notes


def _listed(keys: list[str]) -> str:
    return f"{', '.join(f'{key}=' for key in keys)} {'has' if len(keys) == 1 else 'have'}"


def other_folder_note(outdir: str | None, run_folder: Path) -> list[str]:
    """A note if a continued run does not lie in the given outdir=."""
    elsewhere = outdir and os.path.realpath(os.path.expanduser(outdir)) != os.path.realpath(run_folder.parent)
    return [f"outdir= has no effect: the run goes on in its own folder, {run_folder}."] if elsewhere else []


# ----------------------------------------------------------------------------------------------------------------------
# Refused


def check_precision(options: Options, device_type: str) -> None:
    """Raise a UserError if bf16 is asked for where nothing would run in it, or on a GPU without it."""
    if options["precision"] != "bf16":
        return
    if device_type == "cuda":
        import torch

        from training.networks.mixed_precision import multiplies_bfloat16

        if not multiplies_bfloat16(torch.device("cuda")):
            raise UserError(
                "precision=bf16 needs a GPU with bfloat16 matrix products (NVIDIA's Ampere or later). Leave the option "
                "out, or continue with precision=float32."
            )
    if not any(_half_layers(options, part) for part in HALF):
        raise UserError("precision=bf16: this model has no layers in half precision; leave the option out.")


def slow_precision_note(options: Options, device_type: str) -> list[str]:
    """A note on bf16 where PyTorch has no bfloat16 matrix products: on an x86 processor without AVX-512."""
    if options["precision"] != "bf16" or device_type != "cpu":
        return []
    import torch

    if torch.backends.cpu.get_cpu_capability() not in NARROW:
        return []
    return [
        "precision=bf16: this processor has no bfloat16 matrix products, so training is several times slower than in "
        "float32, and less exact; leave it out."
    ]


def check_cuda_graphs(options: Options, devices: Devices) -> None:
    """Raise a UserError if phases that depend on the host or on other processes are to be recorded."""
    if not options["cuda_graphs"] or devices.device_type == "cpu":
        return
    if devices.processes > 1:
        raise UserError(f"cuda_graphs=true is for a single GPU, not {devices.processes} processes; leave it out.")
    if options["aug"] == "ada":
        raise UserError(
            "cuda_graphs=true cannot go with aug=ada, whose probability changes while a recorded phase repeats the one "
            "it was recorded with; leave one of them out, or use aug=fixed."
        )


def check_freezing(options: Options) -> None:
    """Raise a UserError if layers that were never trained are to be frozen; `freeze` refuses more than there are."""
    if options["freezed"] and options["resume"] is None:
        raise UserError(
            f"freezed={options['freezed']} freezes trained layers of the discriminators and needs resume=, the "
            "snapshot that has them; without it they would stay random."
        )
