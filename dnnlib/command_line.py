"""Click commands: spellings of options, suggestions for unknown ones, values that are empty, those given, numbers."""

import contextlib
import math
import re
from fractions import Fraction
from typing import Any

import click
from click.core import ParameterSource

from dnnlib.text import UserError, nearest_name
from dnnlib.util import expand_home, refuse_long_name

__all__ = ["FINITE", "FRAME_RATE", "Command", "finite_float", "options_given"]


class Command(click.Command):
    """A command whose options may be written with dashes or with underscores.

    The error about an unknown option suggests the nearest one. A leading `~` of a value that is joined to its option
    (--outdir=~/out), which shells do not expand, is the home folder. A value may be empty only where the default is.
    """

    def __init__(self, *args: Any, context_settings: dict[str, Any] | None = None, **others: Any):
        settings = {"token_normalize_func": lambda name: name.replace("_", "-"), **(context_settings or {})}
        super().__init__(*args, context_settings=settings, **others)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = []
        for word in args:
            joined = re.fullmatch(r"(--[\w-]+=)(~(?:/.*)?)", word, re.DOTALL)
            words.append(joined[1] + expand_home(joined[2], name=joined[1]) if joined else word)
        try:
            self._check_values(ctx, words)
            return super().parse_args(ctx, words.copy())
        except click.NoSuchOption as error:
            # Click names an option in its inner spelling, and of '-seeds' only '-s'.
            given = [word.partition("=")[0] for word in words]
            typed = next((word for word in given if _same(word, error.option_name)), error.option_name)
            typed = next((word for word in given if word.startswith(typed)), typed)
            options = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option)]
            near = nearest_name(typed, [name for option in options for name in (*option.opts, *option.secondary_opts)])
            hint = "" if near is None else f"did you mean {near}? "
            raise click.UsageError(f"No such option {typed}; {hint}--help shows all.", ctx=ctx) from error

    def _check_values(self, ctx: click.Context, words: list[str]) -> None:
        """Refuse empty values, and paths that are too long for the system.

        Raises:
            UserError: There is one. An empty one often is an unset variable of a shell, and names the working folder
                to some functions.
        """
        given, _, _ = self.make_parser(ctx).parse_args(args=words.copy())
        for parameter in self.get_params(ctx):
            name, values = parameter.human_readable_name, given.get(parameter.name)
            if isinstance(parameter, click.Option):
                name = max(parameter.opts, key=len)
            for value in values if isinstance(values, (list, tuple)) else [values]:
                if value == "" and parameter.default != "":
                    raise UserError(f"{name.strip('[]')} is empty; give a value, or leave it out.")
                if isinstance(value, str) and isinstance(parameter.type, click.Path):
                    refuse_long_name(value, name=f"{name}: ")


def _same(typed: str, normal: str) -> bool:
    return typed.replace("_", "-") == normal


def options_given() -> frozenset[str]:
    """Names of the current command's options that are not left at their defaults."""
    context = click.get_current_context()
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return frozenset(name for name, source in sources.items() if source != ParameterSource.DEFAULT)


class _Finite:
    """Mixin for click types that refuses nan and inf, which pass click's comparisons with bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class _FiniteFloat(_Finite, click.types.FloatParamType):
    pass


class _FiniteRange(_Finite, click.FloatRange):
    pass


def finite_float(
    low: float | None = None, high: float | None = None, *, above: bool = False, below: bool = False
) -> click.ParamType:
    """The type of an option that is a finite number.

    Args:
        low, high: Bounds; None for no bound.
        above, below: Exclude `low` or `high` itself.
    """
    if low is None and high is None:
        return _FiniteFloat()
    return _FiniteRange(low, high, min_open=above, max_open=below)


FINITE = finite_float()


class _FrameRate(_FiniteRange):
    """A number, or a fraction such as 30000/1001."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if "/" in str(value):
            with contextlib.suppress(ValueError, ArithmeticError):
                value = float(Fraction(str(value)))
        return super().convert(value, param, ctx)


# Frames per second of a video; the encoder fails far beyond these bounds.
FRAME_RATE = _FrameRate(0.01, 1000)
