"""Help for run_train.py's options, made from the files of conf/, and the flags that it passes on to Hydra."""

import contextlib
import io
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dnnlib import UserError, one_line
from training.launch.config import CONFIG_DIR, GROUPS, compose_options, hydra_override

__all__ = ["asks_hydra", "call_hydra", "option_help"]

WIDTH = 120
NAME_WIDTH = 38
LINE = re.compile(r"( *)(?!-)([\w.]+):(?: +((?:\[.*?\]|\{.*?\}|[^#])*?))?(?: +# (.*))?")
SECTION = re.compile(r"# --- (.*)")

# Hydra's flags that show something instead of training, with the values that may follow, and flags that go with them.
CONFIGS = ("job", "hydra", "all")
ASKING = {
    "--cfg": CONFIGS, "-c": CONFIGS,
    "--info": (infos := ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")), "-i": infos,
    "--shell-completion": (), "-sc": (), "--hydra-help": (),
}  # fmt: skip
WITH_THEM = ("--resolve", "--package", "-p")
ELSEWHERE = ("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd", "--experimental-rerun")


def option_help(arguments: Sequence[str] = ()) -> str:
    """Every option with its default and the comment on it in conf/, for the chosen model and spec.

    Raises:
        UserError: There is no such model or spec.
    """
    options = compose_options([argument for argument in arguments if argument.partition("=")[0] in GROUPS])
    lines: list[str] = []
    for group in GROUPS:
        lines += ["", f"{group}=NAME: a file of conf/{group} (here: {options['names'][group]})"]
        for path in sorted((CONFIG_DIR / group).glob("[!_]*.yaml")):
            lines += _entry(path.stem, _first_comment(path))
    lines += _options(CONFIG_DIR / "config.yaml", options)
    lines += ["", f"# --- the schedule of spec={options['names']['spec']}"]
    lines += _options(CONFIG_DIR / "spec" / "paper.yaml", options, prefix="spec.")
    lines += ["", f"# --- the networks of model={options['names']['model']}"]
    lines += _options(CONFIG_DIR / "model" / "_base.yaml", options, prefix="model.")
    return "\n".join(lines).strip()


def _options(path: Path, options: Mapping[str, Any], *, prefix: str = "") -> Iterator[str]:
    """The options that a file mentions, section by section."""
    heading: tuple[str, ...] = ()  # heading of a section whose first option is yet to come
    parents: list[tuple[int, str]] = []  # indentation and name of the mappings around a line
    for line in path.read_text(encoding="utf-8").splitlines():
        section = SECTION.fullmatch(line)
        if section is not None:
            heading = ("", line)
        match = LINE.fullmatch(line)
        if match is None:
            continue
        indent, key, value, comment = len(match[1]), match[2], match[3], match[4]
        parents = [parent for parent in parents if parent[0] < indent]
        name = prefix + ".".join([*(name for _, name in parents), key])
        present, default = _look_up(options, name)
        if not value:
            parents.append((indent, key))
        if key.startswith("_") or not present:
            continue
        if isinstance(default, Mapping):
            shown = name if comment else None
        else:
            shown = f"{name}={'' if value == '???' else _text(default)}"
        if shown is not None:
            yield from heading
            heading = ()
            yield from _entry(shown, comment or "")
        if value and isinstance(default, Mapping):  # null in the file, but several options in the chosen model
            for inner, number in default.items():
                yield from _entry(f"{name}.{inner}={_text(number)}", "")


def _look_up(options: Mapping[str, Any], name: str) -> tuple[bool, Any]:
    value: Any = options
    for key in name.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return False, None
        value = value[key]
    return True, value


def _text(value: Any) -> str:
    """A value as it is typed."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def _entry(name: str, comment: str) -> list[str]:
    """'  name    comment', on as many lines as needed."""
    indent = " " * (NAME_WIDTH + 4)
    first = f"  {name:{NAME_WIDTH}}  "
    text = textwrap.wrap(comment, WIDTH - len(indent))
    if len(name) <= NAME_WIDTH and text:
        first += text.pop(0)
    return [first.rstrip(), *(indent + line for line in text)]


def _first_comment(path: Path) -> str:
    """The first sentence of the comment that a file begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line[2:] for line in lines[: next((i for i, line in enumerate(lines) if line[:1] != "#"), 0)])
    return comment.split(". ")[0].rstrip(".")


# ----------------------------------------------------------------------------------------------------------------------


def asks_hydra(arguments: Sequence[str]) -> bool:
    """True for a command that asks Hydra for something instead of a training.

    Raises:
        UserError: A flag of Hydra that is not allowed here.
    """
    flags = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
    for flag in flags:
        if flag in ELSEWHERE:
            raise UserError(
                f"{flag}: options come only from conf/; put files of your own into model/ or spec/ of {CONFIG_DIR}."
            )
    asking = any(flag in ASKING for flag in flags)
    for flag in flags:
        if flag in WITH_THEM and not asking:
            raise UserError(f"{flag} goes with --cfg job, which prints the options.")
    return asking


def call_hydra(arguments: Sequence[str]) -> None:
    """Let Hydra carry out a command that `asks_hydra`.

    Raises:
        UserError: Hydra refuses the arguments.
    """
    flags, options = _split_flags(arguments)
    completing = any(flag in ("--shell-completion", "-sc") for flag in flags)
    if not completing:
        several = any(flag in ("-m", "--multirun") for flag in flags)
        if not several:
            compose_options([argument for argument in options if not re.match(r"[+~]*hydra[./]", argument)])
        options = [
            argument if re.match(r"[+~]*hydra[./]", argument) else hydra_override(argument, sweep=several)
            for argument in options
        ]
    sys.argv = [sys.argv[0], *flags, *options]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise errors, instead of printing them and leaving
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            hydra.main(config_path=str(CONFIG_DIR), config_name="config", version_base="1.3")(_no_task)()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(one_line(str(error).splitlines()[0])) from error
    finally:  # some flags end the process
        text = output.getvalue()
        print(re.sub(r"\bmodel=_\w+ ?", "", text) if completing else text, end="")  # the models' base is not a model


def _split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags, each with its value, and options: Hydra requires this order."""
    flags: list[str] = []
    options: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-"):
            options.append(argument)
            continue
        flag, given, value = argument.partition("=")
        choices = ASKING.get(flag, ())
        if not given and (choices or flag in ("--package", "-p")):
            value = "all" if flag in ("--info", "-i") and (not rest or rest[0] not in choices) else None
            if value is None and rest:
                value = rest.pop(0)
            if value is None:
                raise UserError(f"{flag} wants a value" + (f": one of {', '.join(choices)}." if choices else "."))
        if choices and value not in choices:
            raise UserError(f"{flag} must be one of {', '.join(choices)}, got '{value}'.")
        flags += [flag, value] if value else [flag]
    return flags, options


def _no_task(config: Any) -> None:
    raise UserError("These flags give Hydra nothing to show; see --help.")
