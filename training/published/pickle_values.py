"""Values of the safe unpickler, and limits of its work.

No object of a file is constructed: `Global` stands for a name that the file may use, `Inert` for an object of such a
class.
"""

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Budget", "Global", "Inert", "UnreadablePickle", "check_depth", "inert", "printable"]

MAX_INSTRUCTIONS = 400_000  # a checkpoint of this family takes 105,000
MAX_DEPTH = 100  # theirs is 32


class UnreadablePickle(ValueError):
    """Damaged bytes, or content that the reader does not accept. The message continues after the file's name."""


class Budget:
    """Remaining work that a file, with everything nested in it, may cause.

    Args:
        nested: Total size of nested files in bytes, at most that of the file.
        instructions: Number of pickle instructions.
    """

    def __init__(self, nested: int, instructions: int = MAX_INSTRUCTIONS):
        self.nested, self.instructions = nested, instructions

    def spend(self, instructions: int = 1, *, nested: int = 0) -> None:
        """Subtract from the budget; an UnreadablePickle if it is exhausted."""
        self.instructions -= instructions
        self.nested -= nested
        if self.instructions < 0 or self.nested < 0:
            raise UnreadablePickle("asks for far more work than a checkpoint takes; it is malicious or damaged.")


class Global:
    """An accepted global of a file: its name, and the function that replaces calling it."""

    __slots__ = ("apply", "name")

    def __init__(self, name: str, apply: Callable[[tuple], Any]):
        self.name, self.apply = name, apply


class Inert:
    """An object of the file, not constructed: the name of its class, its arguments and its state."""

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
    """A string from a file for a message: one line, no control characters, limited length."""
    text = "".join(c if c.isprintable() else "?" for c in text[: limit + 1])
    return text if len(text) <= limit else text[:limit] + "…"


def check_depth(root: Any) -> None:
    """Limit the nesting to MAX_DEPTH, so that recursive code is safe.

    Breadth-first, every object once: chains, cycles and shared parts cost no more than their number.

    Raises:
        UnreadablePickle: Objects are nested deeper.
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
