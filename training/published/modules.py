"""Module tree of a published checkpoint: networks with their tensors and constructor arguments."""

import re
from collections.abc import Iterator
from typing import Any

from training.published.pickle_values import Inert, UnreadablePickle, printable
from training.published.tensors import RECONSTRUCT, TensorData

__all__ = ["UNKNOWN", "PublishedModule", "plain_arguments"]

PERSISTENCE_VERSION = 6
MAX_NAME = 100  # characters of a part's name
MAX_ENTRIES = 10_000  # parts and tensors of a network; theirs have 500
MAX_ARGUMENTS = 20_000  # numbers, strings and containers in one object's arguments
MAX_STRING = 1000  # characters of an argument
MAX_HOPS = 16  # steps of a chain of references, or from a container to its parents

#: Value of an argument that the file does not determine.
UNKNOWN = object()

_TENSOR_TABLES = ("_parameters", "_buffers")
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


class PublishedModule:
    """A network, layer or container of layers, as stored: the name of its class, its attributes and its children.

    Args:
        value: The object in the file; see `is_module`.
        path: Its place in the file, for messages.
    """

    def __init__(self, value: Any, path: str):
        if not self.is_module(value):
            raise UnreadablePickle(f"has no network '{path}'; it is not a published checkpoint.")
        self.path = path
        if value.name == RECONSTRUCT:
            description = value.arguments[0]
            if description.get("type") != "class" or description.get("version") != PERSISTENCE_VERSION:
                raise UnreadablePickle(f"stores '{path}' in another version of the original's format.")
            self.class_name, self.attributes = description.get("class_name"), description["state"]
        else:
            self.class_name, self.attributes = value.name.rpartition(".")[2], value.state
        if type(self.class_name) is not str:
            raise UnreadablePickle(f"does not say what '{path}' is.")

    @staticmethod
    def is_module(value: Any) -> bool:
        """True for an object of the original's classes with a state, and for PyTorch's containers."""
        if not isinstance(value, Inert):
            return False
        if value.name != RECONSTRUCT:
            return value.name.startswith("torch.nn.modules.") and type(value.state) is dict
        description = value.arguments[0] if len(value.arguments) == 1 else None
        return type(description) is dict and type(description.get("state")) is dict

    def _table(self, name: str) -> dict[str, Any]:
        table = self.attributes.get(name, {})
        fits = type(table) is dict and len(table) <= MAX_ENTRIES
        if not fits or not all(type(key) is str and len(key) <= MAX_NAME for key in table):
            raise UnreadablePickle(f"holds no table of names as {name} of '{self.path}'; it is damaged.")
        return table

    def child(self, name: str) -> "PublishedModule | None":
        """A submodule, or None."""
        value = self._table("_modules").get(name)
        return None if value is None else PublishedModule(value, f"{self.path}.{name}")

    def number_of_children(self) -> int:
        return len(self._table("_modules"))

    def member(self, name: str) -> "PublishedModule | None":
        """An object of the original's that is an attribute but not a submodule (cameras, renderers), or None."""
        value = self.attributes.get(name)
        return PublishedModule(value, f"{self.path}.{name}") if self.is_module(value) else None

    def attribute(self, name: str) -> Any:
        """An attribute as plain data, or UNKNOWN."""
        return plain_arguments(self.attributes.get(name, UNKNOWN))

    def arguments(self) -> dict[str, Any]:
        """The constructor's keyword arguments, as plain data."""
        arguments = plain_arguments(self.attributes.get("_init_kwargs", UNKNOWN))
        return arguments if type(arguments) is dict else {}

    def tensors(self) -> dict[str, TensorData]:
        """Name → tensor, with the names of the original's `state_dict()`."""
        found: dict[str, TensorData] = {}
        waiting, count = [("", self)], 0
        while waiting:
            prefix, module = waiting.pop()
            count += 1 + sum(len(module._table(name)) for name in ("_modules", *_TENSOR_TABLES))
            if count > MAX_ENTRIES:
                raise UnreadablePickle(f"holds more than {MAX_ENTRIES} parts in '{self.path}'; no checkpoint does.")
            for name, value in module._own_tensors():
                found[prefix + name] = value
            children = [
                (f"{prefix}{name}.", PublishedModule(value, f"{module.path}.{name}"))
                for name, value in module._table("_modules").items()
                if value is not None
            ]
            waiting.extend(reversed(children))
        return found

    def _own_tensors(self) -> Iterator[tuple[str, TensorData]]:
        transient = self.attributes.get("_non_persistent_buffers_set", [])
        for table in _TENSOR_TABLES:
            for name, value in self._table(table).items():
                if value is None or (table == "_buffers" and type(transient) is list and name in transient):
                    continue
                if not isinstance(value, TensorData):
                    raise UnreadablePickle(f"holds no tensor as '{printable(f'{self.path}.{name}')}'; it is damaged.")
                yield name, value


def plain_arguments(value: Any) -> Any:
    """Constructor arguments as dicts, lists, numbers and strings, also from OmegaConf's containers.

    References to other options, '${spec.mbstd}', are resolved through the parent containers. Other objects, and values
    that cannot be determined, become UNKNOWN.
    """
    return _PlainConverter().convert(value, 0)


class _PlainConverter:
    """A conversion that counts its values, so that shared parts cannot multiply the work."""

    def __init__(self):
        self.count = 0

    def convert(self, value: Any, depth: int) -> Any:
        self.count += 1
        if self.count > MAX_ARGUMENTS or depth > 2 * MAX_HOPS:
            raise UnreadablePickle("holds far more arguments than a network takes; it is damaged or malicious.")
        if value is None or type(value) in (bool, int, float):
            return value
        if type(value) is str:
            return UNKNOWN if len(value) > MAX_STRING or "${" in value or value == "???" else value
        if type(value) in (list, tuple):
            return [self.convert(entry, depth + 1) for entry in value]
        if type(value) is dict:
            return {key: self.convert(entry, depth + 1) for key, entry in value.items() if type(key) is str}
        if not isinstance(value, Inert) or not value.name.startswith("omegaconf."):
            return UNKNOWN
        content = _content(value)
        match = _REFERENCE.fullmatch(content) if type(content) is str and len(content) <= MAX_STRING else None
        return self.convert(content if match is None else _resolve(value, match[1]), depth + 1)


def _content(node: Inert) -> Any:
    """The content of an OmegaConf container or leaf."""
    state = node.state if type(node.state) is dict else {}
    return state.get("_content", state.get("_val", UNKNOWN))


def _resolve(node: Any, path: str) -> Any:
    """The node of a dotted path from the root container of `node`; or UNKNOWN."""
    for _ in range(MAX_HOPS):
        parent = node.state.get("_parent") if type(node.state) is dict else None
        if not isinstance(parent, Inert):
            break
        node = parent
    for name in path.split("."):
        content = _content(node) if isinstance(node, Inert) else UNKNOWN
        node = content.get(name, UNKNOWN) if type(content) is dict else UNKNOWN
    return node
