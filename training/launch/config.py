"""Composition of a training's options from conf/ and command-line overrides by Hydra, with one-line errors.

Hydra writes nothing (no folders, no log files): its compose interface is used, not its launcher. The values of options
that are paths or comma-separated strings are taken as typed, where Hydra would require quotes around '=', ',' and
blanks, and would resolve '${…}'. Quotes around the whole value, as Hydra writes strings, are removed.
"""

import contextlib
import copy
import difflib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.version import VersionBase
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dnnlib import UserError, choices_hint, one_line

__all__ = [
    "CONFIG_DIR", "FOLLOWERS", "GROUPS", "NETWORKS", "SECTIONS", "compose_options", "conf_files", "continued_options",
    "current_options", "given_options", "hydra_override", "plain_override", "split_override", "string_value",
]  # fmt: skip

ROOT = Path(__file__).resolve().parents[2]  # of the checkout, or the folder of installed packages
CONFIG_DIR = next(path for path in (ROOT / "video3d" / "conf", ROOT / "conf") if path.is_dir() or path.parent == ROOT)
GROUPS = ("model", "spec")

# Options taken literally: paths and strings.
STRINGS = ("outdir", "data", "resume", "resume_run", "cache_metrics_dir", "diffaugment", "spec.diffaugment")
# So are the files of feature extractors, including those that conf/ does not name.
DETECTOR = re.compile(r"detectors\.[a-z][a-z0-9]*")
DETECTORS = ("detectors.i3d", "detectors.inception", "detectors.vgg16", "detectors.identity")

# Groups of options, besides the files in conf/model and conf/spec.
SECTIONS = ("previews", "detectors")

# Lists of names, which may be typed without brackets.
LISTS = ("metrics", "logger")

# Options that a continued run may change: its length, its outputs and its machine. The others decide the results.
CHANGEABLE = (
    "outdir", "data", "resume_run", "kimg", "imgsnap", "snap", "keep", "previews", "logger", "metrics",
    "cache_metrics_dir", "detectors",
    "device", "gpus", "workers", "unreadable_limit", "timeout", "precision", "activation_checkpointing", "fp32",
    "allow_tf32", "cuda_graphs", "nhwc", "nobench", "dry_run",
    "spec.ref_gpus", "spec.kimg", "spec.imgsnap", "spec.snap", "spec.kimg_per_tick", "spec.nonfinite_limit",
    "spec.microbatch",
)  # fmt: skip
# Options that only set the defaults of others, which conf/ gives by ${…}.
FOLLOWERS = {
    "spec.ref_gpus": ("gpus",),
    "spec.kimg": ("kimg",),
    "spec.imgsnap": ("imgsnap",),
    "spec.snap": ("snap",),
    "spec.diffaugment": ("diffaugment",),
    "model.resolution": ("resolution",),
    "model.frame_stride": ("frame_stride",),
    "spec.map": ("model.generator.mapping.num_layers",),
    "spec.fmaps": ("model.generator.upsampler.channel_base", "model.discriminator.channel_base"),
    "nhwc": ("model.discriminator.channels_last",),
}

# New names of options that an earlier version of this program has stored; see `current_options`.
RENAMED = {"recompute": "activation_checkpointing"}
MOVED_CLASSES = {
    "training.generator.Generator": "training.networks.generator.Generator",
    "training.discriminator.TimeAwareDiscriminators": "training.networks.discriminator.TimeAwareDiscriminators",
}
# Options of the training schedule that are newer than some stored runs, and the values that reproduce those runs.
ADDED = {"distortion_weight": 0, "lrate_decay": None, "diffaugment": "color,translation"}
NETWORKS = ("generator", "discriminator")

OVERRIDE = re.compile(r"(\+{0,2})([A-Za-z_][\w.]*)=(.*)", re.DOTALL)


@contextlib.contextmanager
def conf_files() -> Iterator[None]:
    """Context in which Hydra composes the files of conf/, also in a program that uses Hydra for options of its own.

    Hydra has room for one application, and the version whose behaviour it wants, per process. Those of the calling
    program return at the end.
    """
    application, behaviour = GlobalHydra.instance(), VersionBase.instance()
    GlobalHydra.set_instance(copy.copy(application))
    VersionBase.set_instance(copy.copy(behaviour))
    try:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            yield
    finally:
        GlobalHydra.set_instance(application)
        VersionBase.set_instance(behaviour)


def compose_options(overrides: Sequence[str]) -> dict[str, Any]:
    """All options as plain data, from the files of conf/ and `key=value` overrides.

    An entry `names` is added: the chosen files of conf/model and conf/spec. Mandatory options that are missing are
    None.

    Raises:
        UserError: Not an override, an unknown option, model or spec, or an empty path or string; names it.
    """
    datasets = sum(override.startswith("data=") and override.endswith(".tar") for override in overrides)
    if datasets > 1:  # a shell has replaced the braces
        example = "'data=faces-{000..010}.tar'"
        raise UserError(f"data= is given {datasets} times: put a name with braces in quotes, {example}.")
    composed, strings, keys = [], {}, []
    for override, (_, key, value) in [(hydra_override(override), split_override(override)) for override in overrides]:
        keys.append(key)
        if _is_string(key):
            if value in ("", "''", '""'):  # often an unset shell variable; never a way to say null
                raise UserError(f"{key}= is empty; give a value, or leave it out.")
            strings[key] = string_value(value)
        else:
            composed.append(override)
    try:
        with conf_files():
            config = compose("config", overrides=composed, return_hydra_config=True)
            names = {group: config.hydra.runtime.choices[group] for group in GROUPS}
            for key in ("outdir", "data"):
                if OmegaConf.is_missing(config, key):
                    config[key] = None
            config = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
            options = dict(OmegaConf.to_container(config, resolve=True, throw_on_missing=True), names=names)
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        raise UserError(_explain(error, overrides)) from error
    for key in SECTIONS:
        if not isinstance(options[key], Mapping):
            raise UserError(f"{key} is a group of options, not {options[key]!r}; write {key}.NAME=VALUE, see --help.")
    for key, value in strings.items():  # bypassing the grammars of Hydra and OmegaConf
        _set(options, key, value)
        _follow(options, key, value, given=keys)
    return options


def continued_options(stored: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The options of an earlier run with the changes that the overrides ask for.

    Overrides that repeat the run's values are allowed, so that the command that started it can be used again.

    Args:
        stored: The run's options, as compose_options returned them, possibly in an earlier version.

    Raises:
        UserError: An override asks for something that cannot change in the middle of a run, or the run uses a class
            that only its own folder names; and as compose_options.
    """
    stored = current_options(stored)
    given = compose_options(overrides)
    # Options that are newer than the run have their default values.
    options = {**{key: given[key] for key in given if key not in ("model", "spec")}, **stored}
    options |= {section: {**given[section], **stored.get(section, {})} for section in SECTIONS}
    keys = given_options(overrides)
    for key in keys:
        if key in SECTIONS:  # an empty group {}, which sets nothing
            continue
        if key in GROUPS:
            if given["names"][key] != options["names"][key]:
                raise UserError(
                    f"resume_run: the run was started with {key}={options['names'][key]}, which cannot be changed to "
                    f"{given['names'][key]}; start a new run with resume= instead."
                )
            continue
        value, old = _get(given, key), _get(options, key)
        if value == old:
            continue
        if not any(key == name or key.startswith(name + ".") for name in CHANGEABLE):
            raise UserError(
                f"resume_run: {key} is {old!r} in that run and cannot be changed to {value!r}; start a new run with "
                "resume= instead."
            )
        _set(options, key, value)
        _follow(options, key, value, given=keys)
    _check_classes(options, given)
    return options


def current_options(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of stored options with present names and with newer options of the schedule added."""
    options = {RENAMED.get(key, key): copy.deepcopy(value) for key, value in stored.items()}
    options["spec"] = {**ADDED, **options["spec"]}
    for network in NETWORKS:
        arguments = options["model"][network]
        arguments["_target_"] = MOVED_CLASSES.get(arguments["_target_"], arguments["_target_"])
    return options


def _follow(options: dict[str, Any], key: str, value: Any, *, given: Collection[str]) -> None:
    """Give the value of an option to those whose default it is, unless they are given as well."""
    for follower in FOLLOWERS.get(key, ()):
        if follower not in given:
            _set(options, follower, value)


def _check_classes(options: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse classes that only the run folder names, not conf/ or an override: the folder may come from elsewhere."""
    model = options["names"]["model"]
    known = [*MOVED_CLASSES.values(), *(given["model"][network]["_target_"] for network in NETWORKS)]
    if (CONFIG_DIR / "model" / f"{model}.yaml").is_file():
        own = compose_options([f"model={model}"])["model"]
        known += [own[network]["_target_"] for network in NETWORKS]
    for network in NETWORKS:
        target = options["model"][network]["_target_"]
        if target not in known:
            raise UserError(
                f"resume_run: the run's {network} is {target}, which conf/model does not name; if you trust this "
                f"class, add model.{network}._target_={target}"
            )


# ----------------------------------------------------------------------------------------------------------------------


def _unread(group: str, name: str) -> str:
    """A remark about a file of this name in the current folder, where a user of the installed package may put it."""
    path = os.path.join("conf", group, f"{name}.yaml")
    if not os.path.isfile(path) or os.path.realpath("conf") == os.path.realpath(CONFIG_DIR):
        return ""
    return f" {path} in this folder is not read; the files are in {CONFIG_DIR / group}."


def _is_string(key: str) -> bool:
    return key in STRINGS or DETECTOR.fullmatch(key) is not None


def split_override(override: str) -> tuple[str, str, str]:
    """'+', key and value of an override."""
    if any("\udc80" <= letter <= "\udcff" for letter in override):  # bytes of the command line that are not text
        raise UserError(
            f"{override.encode(errors='replace').decode()}: this is not valid UTF-8, which logs cannot hold; rename it."
        )
    match = OVERRIDE.fullmatch(override)
    if match is None:
        raise UserError(
            f"'{override}' is not an option; write options as name=value, for example outdir=out data=frames.zip."
        )
    return match[1], match[2], match[3]


def string_value(value: str) -> str | None:
    """Value of an option of `STRINGS` as it was typed, without quotes; None for null."""
    if value == "null":
        return None
    quoted = re.fullmatch(r"""'([^']+)'|"([^"]+)\"""", value, re.DOTALL)
    return value if quoted is None else quoted[1] or quoted[2]


def plain_override(override: str) -> str:
    """A `key=value` override as it is typed here, from one in Hydra's grammar: the inverse of `hydra_override`."""
    parsed = OverridesParser.create().parse_override(override)
    if not _is_string(parsed.key_or_group):
        return override
    value = parsed.value()
    if value is None:
        return f"{parsed.key_or_group}=null"
    text = re.sub(r"(\\*)\$\{", lambda m: m[1][: len(m[1]) // 2] + "${", str(value))
    return f"{parsed.key_or_group}={text}"


def given_options(overrides: Sequence[str]) -> list[str]:
    """Names of the options that overrides set; those within values like {a: 1} are listed one by one."""
    names: list[str] = []
    for override in overrides:
        key, value = split_override(override)[1], None
        if not _is_string(key):
            value = OverridesParser.create().parse_override(hydra_override(override)).value()
        names += _keys(value, f"{key}.", groups=False) if isinstance(value, dict) and value else [key]
    return list(dict.fromkeys(names))


def hydra_override(override: str, *, sweep: bool = False) -> str:
    """A `key=value` override in Hydra's grammar.

    Args:
        sweep: The override may stand for several: values with commas, choice(…), range(…), glob(…); for a
            string, which may contain commas itself, only choice(…).

    Raises:
        UserError: It is not of this form, or there cannot be such an option.
    """
    plus, key, value = split_override(override)
    if key in RENAMED:
        raise UserError(f"The option {key} is called {RENAMED[key]} now: write {RENAMED[key]}={value}")
    # Only arguments of a network may be added to those in the files; nothing else would be read.
    if plus and not any(key.startswith(f"model.{network}.") for network in NETWORKS):
        raise UserError(_unknown(key, plus=True))
    if key.split(".")[0] == "hydra":
        raise UserError(_unknown(key))
    if key in GROUPS and not sweep:
        choices = sorted(path.stem for path in (CONFIG_DIR / key).glob("[!_]*.yaml"))
        if value not in choices:
            raise UserError(
                f"There is no {key} '{value}' in conf/{key}; {choices_hint(value, choices)}{_unread(key, value)}"
            )
    if _is_string(key) and not (sweep and re.fullmatch(r"choice\(.+\)", value, re.DOTALL)):
        text = string_value(value)
        plus = "" if key in STRINGS or key in DETECTORS else "++"  # Hydra's prefix for an option that may be new
        if text is None:
            return plus + override
        # Backslashes are doubled, and one is added, before '${' for OmegaConf and before quotes for Hydra's grammar.
        text = re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + r"\${", text)
        return f"{plus}{key}='" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + (m[2] and r"\'"), text) + "'"
    if key in LISTS and value not in ("", "null") and value[0] != "[":
        return f"{key}=[{value}]"
    return plus + override.lstrip("+") if plus else override


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """One line about an error from Hydra."""
    message = str(error)
    match = re.search(r"Could not override '([^']+)'", message)
    if match is not None:
        inner = re.search(r"full_key: (\S+)", str(error.__cause__))  # the key at fault within a value like {a: 1}
        return _unknown(inner[1] if inner is not None and inner[1].startswith(match[1]) else match[1])
    # Further lines of the message are about Hydra's internals; the override at fault is more helpful.
    first = one_line(message.split("\n")[0])
    for override in overrides:
        try:
            with conf_files():
                OmegaConf.to_container(compose("config", overrides=[hydra_override(override)]), resolve=True)
        except (HydraException, OmegaConfBaseException, ValueError, TypeError):
            if first.startswith("Ambiguous value"):
                first = "it has several values; add -m to train once with each of them, or brackets to make it a list."
            return f"Cannot read the option '{override}': {first}"
    return f"Cannot read the options: {first}"


def _unknown(key: str, *, plus: bool = False) -> str:
    with conf_files():
        known = list(_keys(OmegaConf.to_container(compose("config"))))
    if key in known and plus:
        return f"'+{key}': only arguments of a network may be added with '+'; write {key}=VALUE."
    if key in known:  # the default model has it
        parent = key.rpartition(".")[0]
        return f"There is no option '{key}', because {parent} is null in this model; write {parent}={{...}} instead."
    # A missing 'spec.' or 'model.generator.' counts as near.
    near = [name for name in known if name.split(".")[-1] == key.split(".")[-1]]
    near += difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]}?" if near else "--help lists them (conf/ has all, those of models too)."
    return f"There is no option '{key}'; {hint}"


def _keys(config: Mapping[str, Any], prefix: str = "", *, groups: bool = True) -> Iterator[str]:
    """Dotted names of all entries, and of `groups` of entries as well."""
    for key, value in config.items():
        inner = isinstance(value, dict)
        if groups or not inner:
            yield f"{prefix}{key}"
        if inner:
            yield from _keys(value, f"{prefix}{key}.", groups=groups)


def _get(options: Mapping[str, Any], key: str) -> Any:
    value: Any = options
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _set(options: dict[str, Any], key: str, value: Any) -> None:
    *parents, name = key.split(".")
    for parent in parents:
        options = options[parent]
    options[name] = value
