"""Errors for users, and the text of messages: times, sizes, lists of numbers, names that were probably meant."""

import difflib
import re
import sys
from collections.abc import Iterable
from typing import Any

__all__ = [
    "UserError",
    "choices_hint",
    "format_bytes",
    "format_time",
    "is_number",
    "nearest_name",
    "one_line",
    "parse_int_list",
]

MAX_LIST_LENGTH = 1_000_000  # so that a mistyped range does not fill the memory
FEW = 8  # names that a message can hold


class UserError(ValueError):
    """Error caused by the user: one line with what is wrong, where, and what to do about it."""


def one_line(message: object) -> str:
    """The string with every run of white space, line breaks included, replaced by one space."""
    return " ".join(str(message).split())


def format_time(seconds: float) -> str:
    """A duration as '12s', '3m 05s', '2h 05m 10s' or '1d 02h 05m'."""
    total = max(0, round(seconds))
    minutes, s = divmod(total, 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d {h:02}h {m:02}m"
    if hours:
        return f"{h}h {m:02}m {s:02}s"
    if minutes:
        return f"{m}m {s:02}s"
    return f"{s}s"


def format_bytes(count: float) -> str:
    """A size as '512 B', '1.5 KiB', '20.0 MiB', … (powers of 1024)."""
    if abs(count) < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if abs(count) < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def parse_int_list(text: str, *, name: str) -> list[int]:
    """Integers from a list of numbers and inclusive ranges: '1,2,5-8' → [1, 2, 5, 6, 7, 8].

    Args:
        text: The list; spaces are ignored.
        name: Name in the error message, e.g. '--seeds'.

    Raises:
        UserError: The string is not such a list.
    """
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,99})\s*(?:-\s*([0-9]{1,99})\s*)?", part)
        if match is None:
            raise UserError(f"{name}: '{part.strip()}' is neither a number nor a range; write for example 1,2,5-8.")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if last < first:
            raise UserError(f"{name}: the range '{part.strip()}' runs backwards; write {last}-{first}.")
        if len(numbers) + last - first >= MAX_LIST_LENGTH:
            raise UserError(f"{name}: '{text}' names more than {MAX_LIST_LENGTH} numbers.")
        numbers.extend(range(first, last + 1))
    return numbers


def is_number(value: Any, most: float = sys.float_info.max) -> bool:
    """True for an int or a float, finite and of an absolute value up to `most`; not for True or False."""
    return type(value) in (int, float) and abs(value) <= most


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, or None; case, dashes and underscores are ignored.

    The most similar name, else the first one that contains the given one.
    """
    plain = {}
    for other in known:
        plain.setdefault(_plain(other), other)
    near = difflib.get_close_matches(_plain(name), plain, n=1)
    near = near or [other for other in plain if len(_plain(name)) >= 3 and _plain(name) in other]
    return plain[near[0]] if near else None


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").strip("-")


def choices_hint(name: str, known: Iterable[str], *, everything: str = "") -> str:
    """End of a message about an unknown name: the nearest known one, and all of them if they are few.

    Args:
        known: The valid names.
        everything: Sentence on where all are listed, used if they are many.
    """
    known = list(known)
    near = nearest_name(name, known)
    if len(known) <= FEW:
        return f"choose from {', '.join(known)}." + ("" if near is None else f" Did you mean {near}?")
    everything = everything or f"choose from {', '.join(known)}."
    return everything if near is None else f"did you mean {near}? {everything}"
