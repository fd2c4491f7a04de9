"""Types and ranges of a training's options.

Hydra's structured configs would check only types: ranges and choices would still need rules like these, in addition to
a dataclass field for every option that repeats its default (defaults stand in conf/, with their meaning).
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Iterator, Mapping
from typing import Any

from dnnlib import UserError, is_number
from training.launch.config import FOLLOWERS, NETWORKS

__all__ = ["check_values", "other_options"]


SMALLEST = 1e-37  # normal number in float32, above 0 with every rounding
LARGEST = 2**31 - 1  # of a count: larger ones are typing errors, and overflow the integers of C libraries


@dataclasses.dataclass(frozen=True)
class ValueRule:
    """Rule for a value: bool, int, float, str or list; numbers from `low` to `high`; None where `optional`.

    A list with bounds is a pair of such numbers, in a `unit`. Integers without `high` end at `LARGEST`.
    """

    kind: type
    low: float = -math.inf
    high: float = math.inf
    optional: bool = False
    choices: tuple[str, ...] = ()
    above: bool = False  # `low` itself is excluded
    unit: str = ""

    def check(self, name: str, value: Any) -> None:
        """Raise a UserError that begins with the name of the option if the rule does not allow the value."""
        if value is None and self.optional:
            return
        if self.kind is int and type(value) is int and value > LARGEST and self.high == math.inf:
            raise UserError(f"{name} is too large: use at most {LARGEST}, got {_short(value)}.")
        if self._fits(value):
            return
        null = " or null" if self.optional else ""
        raise UserError(f"{name} must be {self._words()}{null}, got {value!r}.")

    def _fits(self, value: Any) -> bool:
        if self.kind is float:
            if not is_number(value):
                return False
        elif type(value) is not self.kind:
            return False
        if self.kind in (int, float) and (not self.low <= value <= self.high or (self.above and value == self.low)):
            return False
        if self.kind is list and self.low > -math.inf:
            number = dataclasses.replace(self, kind=float)
            return len(value) == 2 and all(number._fits(entry) for entry in value)
        return not self.choices or value in self.choices

    def _words(self) -> str:
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return "a string"
        if self.kind is list and self.low == -math.inf:
            return "a list like [a,b]"
        word = {int: "an integer", float: "a number", list: f"[low,high] in {self.unit}, each"}[self.kind]
        if self.low == -math.inf:
            return word
        limits = f"above {self.low}" if self.above else f"of at least {self.low}"
        return f"{word} {limits}" + ("" if self.high == math.inf else f" and at most {self.high}")


FLAG = ValueRule(bool)
COUNT = ValueRule(int, 1)
MAYBE_COUNT = ValueRule(int, 1, optional=True)
NATURAL = ValueRule(int, 0)
PATH = ValueRule(str, optional=True)
WEIGHT = ValueRule(float, 0)
POSITIVE = ValueRule(float, 0, above=True)
FRACTION = ValueRule(float, 0, 1)
LENGTH = ValueRule(float, 0.001, 1_000_000_000)  # of a training in kimg: a video or more

RULES = {
    "outdir": ValueRule(str),
    "data": PATH,
    "resolution": ValueRule(int, 8),
    "nframes": COUNT,
    "frame_stride": COUNT,
    "mirror": FLAG,
    "subset": MAYBE_COUNT,
    "cond": FLAG,
    "camera_condition": FLAG,
    "resume": PATH,
    "resume_run": PATH,
    "diffaugment": ValueRule(str, optional=True),
    "aug": ValueRule(str, choices=("noaug", "ada", "fixed")),
    "p": ValueRule(float, 0, 1, optional=True),
    "target": ValueRule(float, -1, 1, optional=True),
    "augpipe": ValueRule(str, optional=True),
    "freezed": NATURAL,
    "kimg": LENGTH,
    "imgsnap": MAYBE_COUNT,
    "snap": MAYBE_COUNT,
    "keep": MAYBE_COUNT,
    "previews.images": COUNT,
    "previews.columns": COUNT,
    "previews.videos": NATURAL,
    "logger": ValueRule(list, optional=True),
    "metrics": ValueRule(list, optional=True),
    "cache_metrics_dir": PATH,
    "detectors.i3d": PATH,
    "detectors.inception": PATH,
    "detectors.vgg16": PATH,
    "detectors.identity": PATH,
    "device": ValueRule(str, choices=("cpu", "cuda"), optional=True),
    "gpus": COUNT,
    "workers": ValueRule(int, 0, 64, optional=True),
    "unreadable_limit": COUNT,
    "timeout": ValueRule(float, 0, 1_000_000, above=True),
    "precision": ValueRule(str, choices=("float32", "bf16")),
    "activation_checkpointing": FLAG,
    "fp32": FLAG,
    "allow_tf32": FLAG,
    "cuda_graphs": FLAG,
    "nhwc": FLAG,
    "nobench": FLAG,
    "seed": ValueRule(int, 0, 2**63 - 1),
    "dry_run": FLAG,
    "spec.ref_gpus": COUNT,
    "spec.kimg": LENGTH,
    "spec.mb": COUNT,
    "spec.mbstd": COUNT,
    "spec.microbatch": COUNT,
    "spec.fmaps": POSITIVE,
    "spec.map": COUNT,
    "spec.lrate": POSITIVE,
    "spec.lrate_decay": ValueRule(float, 0, optional=True, above=True),
    "spec.betas": ValueRule(list),
    "spec.eps": ValueRule(float, SMALLEST),
    "spec.ema": WEIGHT,
    "spec.ramp": ValueRule(float, 0, optional=True, above=True),
    "spec.nonfinite_limit": COUNT,
    "spec.diffaugment": ValueRule(str, optional=True),
    "spec.gamma": WEIGHT,
    "spec.d_reg_interval": MAYBE_COUNT,
    "spec.pl_weight": WEIGHT,
    "spec.pl_decay": FRACTION,
    "spec.pl_batch_shrink": COUNT,
    "spec.g_reg_interval": MAYBE_COUNT,
    "spec.style_mixing": FRACTION,
    "spec.image_weight": WEIGHT,
    "spec.path_weight": WEIGHT,
    "spec.distortion_weight": WEIGHT,
    "spec.kimg_per_tick": ValueRule(float, 0, 1_000_000_000, above=True),
    "spec.imgsnap": MAYBE_COUNT,
    "spec.snap": MAYBE_COUNT,
}

OF_MODELS = ("model.resolution", "model.frame_stride")  # the values of resolution and frame_stride unless given

MAYBE_CLAMP = ValueRule(float, 0, optional=True, above=True)
ANGLES = ValueRule(list, -12.5664, 12.5664, unit="radians")  # two turns: more is most likely meant in degrees

#: Rules for the networks' arguments that constructors do not check, by class; other classes are a user's own.
NETWORK_RULES = {
    "training.networks.generator.Generator": {
        "z_dim": COUNT,
        "motion_dim": COUNT,
        "w_dim": COUNT,
        "background_dim": NATURAL,
        "mapping.num_layers": COUNT,
        "mapping.lr_multiplier": POSITIVE,
        "mapping.w_avg_beta": FRACTION,
        "motion.width": COUNT,
        "motion.hidden_blocks": NATURAL,
        "motion.use_content": FLAG,
        "foreground.width": COUNT,
        "foreground.num_layers": ValueRule(int, 2),
        "foreground.position_frequencies": COUNT,
        "foreground.direction_frequencies": COUNT,
        "foreground.feature_dim": COUNT,
        "foreground.view_directions": FLAG,
        "foreground.density_bias": ValueRule(float),
        "background.width": COUNT,
        "background.num_layers": COUNT,
        "background.position_frequencies": NATURAL,
        "upsampler.channel_base": POSITIVE,
        "upsampler.channel_max": COUNT,
        "upsampler.conv_clamp": MAYBE_CLAMP,
        "upsampler.magnitude_beta": FRACTION,
        "upsampler.fp16_min_resolution": MAYBE_COUNT,
        "camera.fov": ValueRule(float),
        "camera.yaw": ANGLES,
        "camera.pitch": ANGLES,
        "camera.radius": ValueRule(list, 0, above=True, unit="scene units"),
        "rendering.resolution": COUNT,
        "rendering.num_samples": ValueRule(int, 3),
        "rendering.num_importance": NATURAL,
        "rendering.sampling_multiplier": COUNT,
        "rendering.num_background": ValueRule(int, 2),
        "rendering.near": POSITIVE,
        "rendering.far": POSITIVE,
        "rendering.background_start": ValueRule(float, 0, 1, above=True),
        "rendering.path_lattice": COUNT,
    },
    "training.networks.discriminator.TimeAwareDiscriminators": {
        "channel_base": POSITIVE,
        "channel_max": COUNT,
        "conv_clamp": MAYBE_CLAMP,
        "mbstd_group": COUNT,
        "mapping_layers": COUNT,
        "image": FLAG,
        "fp16_resolutions": NATURAL,
        "channels_last": FLAG,
    },
}


def check_values(options: Mapping[str, Any]) -> None:
    """Check every option; the networks' other arguments, which constructors check, only for non-finite numbers.

    Raises:
        UserError: An option has a value that it cannot have; names both. Or an option is missing or unknown.
    """
    missing, unknown = other_options(options)
    if missing:
        raise UserError(
            f"There is no {missing[0]} in conf/: begin a file of your own there with `defaults:` and the file that it "
            "changes."
        )
    if unknown:
        raise UserError(
            f"There is no option {unknown[0]} in this version, which would ignore it. If it is a new one of conf/, "
            "RULES in training/launch/option_rules.py must say which values it may have."
        )
    for name in OF_MODELS:
        key = name.removeprefix("model.")
        if key in options["model"]:
            RULES[key].check(name, options["model"][key])
    for name, rule in sorted(RULES.items(), key=lambda item: item[0] not in FOLLOWERS):  # those that set others first
        rule.check(name, functools.reduce(operator.getitem, name.split("."), options))
    _check_finite("model", options["model"])
    for part in NETWORKS:
        _check_network(f"model.{part}", options["model"][part])
    if options["precision"] == "bf16" and options["fp32"]:
        raise UserError("precision=bf16 asks for half precision and fp32=true forbids it: give only one of them.")
    betas = options["spec"]["betas"]
    if len(betas) != 2 or not all(type(beta) in (int, float) and 0 <= beta < 1 for beta in betas):
        raise UserError(f"spec.betas must be two numbers from 0 to below 1 like [0,0.99], got {betas!r}.")


def other_options(options: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Names of options that are missing, and of others that this version does not know, outside of the networks."""
    model = {key: value for key, value in options["model"].items() if key not in NETWORKS}
    names = list(_leaves({**options, "model": model, "names": {}}))
    return [name for name in RULES if name not in names], [n for n in names if n not in RULES and n not in OF_MODELS]


def _leaves(options: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of all options except groups, and except feature extractors, to which users may add their own.

    An option that is given a group keeps its name, and its rule refuses the value.
    """
    for key, value in options.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in RULES and name not in OF_MODELS:
            yield from _leaves(value, f"{name}.")
        elif prefix != "detectors." or name in RULES:
            yield name


def _check_network(name: str, arguments: Mapping[str, Any]) -> None:
    """Check the arguments that are given for a network of this program; null leaves some parts out."""
    if not isinstance(arguments, Mapping):
        raise UserError(f"{name} must be a group of options like {{_target_: …}}, got {arguments!r}.")
    target = arguments.get("_target_")
    if target is not None:
        ValueRule(str).check(f"{name}._target_", target)
    for key, rule in NETWORK_RULES.get(target, {}).items():
        group, _, last = key.rpartition(".")
        values = arguments.get(group, {}) if group else arguments
        if values is None and group in ("motion", "background"):
            continue
        if not isinstance(values, Mapping):
            raise UserError(f"{name}.{group} must be a group of options like {{{last}: …}}, got {values!r}.")
        if last in values:
            rule.check(f"{name}.{key}", values[last])


def _check_finite(name: str, value: Any) -> None:
    """Refuse nan and inf, which comparisons in a constructor may let pass, and integers that overflow."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            _check_finite(f"{name}.{key}", entry)
    elif isinstance(value, (list, tuple)):
        for i, entry in enumerate(value):
            _check_finite(f"{name}[{i}]", entry)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} must be a finite number, got {value}.")
    elif type(value) is int and abs(value) > LARGEST:
        raise UserError(f"{name} is too large: use at most {LARGEST}, got {_short(value)}.")


def _short(number: int) -> str:
    """A large integer in a message."""
    return f"{number:.6g}" if is_number(number) else "one of more than 300 digits"
