"""What `training.published.safe_unpickler` makes of a pickle, and the limits of that.

Objects of a file are not made: `Global` stands for a name that the file may use, `Inert` for an object of such a class.
"""

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Budget", "Global", "Inert", "UnreadablePickle", "check_depth", "inert", "printable"]

MAX_INSTRUCTIONS = 400_000  # a checkpoint of this family takes 105,000
MAX_DEPTH = 100  # theirs is 32


class UnreadablePickle(ValueError):
    """The bytes are damaged, or hold what the reader does not accept. The text goes on after the file's name."""


class Budget:
    """How much work the rest of a file may cause; one for a file and everything nested in it.

    Args:
        nested: Bytes that the files nested in it may have, all together: those of the file, as they lie side by side.
        instructions: Pickle instructions.
    """

    def __init__(self, nested: int, instructions: int = MAX_INSTRUCTIONS):
        self.nested, self.instructions = nested, instructions

    def spend(self, instructions: int = 1, *, nested: int = 0) -> None:
        self.instructions -= instructions
        self.nested -= nested
        if self.instructions < 0 or self.nested < 0:
            raise UnreadablePickle("asks for far more work than a checkpoint takes; it is malicious or damaged.")


class Global:
    """An accepted global, met in a file: its name, and what stands for calling it."""

    __slots__ = ("apply", "name")

    def __init__(self, name: str, apply: Callable[[tuple], Any]):
        self.name, self.apply = name, apply


class Inert:
    """An object of the file, not made: the name of its class, the arguments and the state it would have been given."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: tuple = ()):
        self.name, self.arguments, self.state = name, arguments, None

    def set_state(self, state: Any) -> None:
        self.state = state

    def parts(self) -> tuple:
        return self.arguments, self.state


def inert(*names: str) -> dict[str, Callable[[tuple], Any]]:
    """Entries of a table of globals whose objects stay `Inert`."""
    return {name: lambda arguments, name=name: Inert(name, arguments) for name in names}


def printable(text: str, limit: int = 100) -> str:
    """Text from a file, fit for a message: one line, no control characters, not long."""
    text = "".join(c if c.isprintable() else "?" for c in text[: limit + 1])
    return text if len(text) <= limit else text[:limit] + "…"


def check_depth(root: Any) -> None:
    """Whether nothing lies deeper than MAX_DEPTH, so that what walks down need not fear.

    Level by level, every object once: chains, cycles and shared parts cost no more than their number.

    Raises:
        UnreadablePickle: Something does.
    """
    level, seen, depth = [(root,)], set(), 0
    while level:
        if depth > MAX_DEPTH:
            raise UnreadablePickle(f"holds objects nested more than {MAX_DEPTH} deep; no checkpoint does.")
        following = []
        for value in level:
            for child in value.parts() if isinstance(value, Inert) else _items(value):
                if isinstance(child, (dict, list, tuple, Inert)) and id(child) not in seen:
                    seen.add(id(child))
                    following.append(child)
        level, depth = following, depth + 1


def _items(container: dict | list | tuple) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container
