"""Classes of networks: this program's, and those of a user's own, which are built only if the user asks for them."""

import contextlib
import importlib
import os
import sys

import torch
from torch.nn.utils.parametrize import type_before_parametrizations

from dnnlib import UserError, one_line
from training.networks.discriminator import TimeAwareDiscriminators
from training.networks.generator import Generator

__all__ = ["KINDS", "check_class", "class_name", "network_class", "own_class", "same_class", "stored_class"]

KINDS: dict[str, type[torch.nn.Module]] = {"generator": Generator, "discriminator": TimeAwareDiscriminators}


def class_name(network: type) -> str:
    """'module.Class', for `network_class`."""
    return f"{network.__module__}.{network.__qualname__}"


def network_class(name: str) -> type[torch.nn.Module]:
    """A network's class by its dotted name; its module may be in the working folder.

    This runs the module: `name` must come from the user (options, conf/), not from a file of unknown origin.

    Raises:
        ValueError: There is no such class, or it is not a torch.nn.Module.
    """
    with contextlib.suppress(OSError):  # a working folder that has been deleted
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # last, so that no file there hides a module of the program
    module, _, attribute = str(name).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"there is no class {name} ({one_line(error)}).") from error
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        raise ValueError(f"{name} is not a torch.nn.Module.")
    return found


def same_class(one: str | None, other: str | None) -> bool:
    """True if two dotted names may be of one class: in a script that is run, its module is called __main__.

    Args:
        one, other: The names; None for the class of this program.
    """
    if one is None or other is None:
        return one is other
    pairs = ((one, other), (other, one))
    return one == other or any(a.startswith("__main__.") and b.endswith(a.removeprefix("__main__")) for a, b in pairs)


def own_class(network: torch.nn.Module) -> dict[str, str]:
    """The entry `class` of a snapshot; empty for a class of this program."""
    own = type_before_parametrizations(network)
    return {} if own in KINDS.values() else {"class": class_name(own)}


def stored_class(
    kind: str, name: str | None, given: type[torch.nn.Module] | None, *, source: object
) -> type[torch.nn.Module]:
    """The class to build for a network ('generator', 'discriminator') of class `name`, if it was asked for.

    Args:
        name: As stored; None for the class of this program.
        given: The caller's class.
    """
    if name is None:
        return KINDS[kind]
    from training.published.pickle_values import printable

    variable, stored = f"{kind.upper()}_CLASS", str(name)
    if given is not None:
        if same_class(class_name(given), stored):
            return given
        raise UserError(
            f"{source} holds a {kind} of another class, {printable(stored)}, than {kind}_class, {class_name(given)}."
        )
    asked = os.environ.get(variable)
    if asked is not None and same_class(asked, stored):
        try:
            return network_class(asked)
        except ValueError as error:
            raise UserError(f"{variable}: {error}") from error
    script = " (with the name of its module in place of __main__)" if stored.startswith("__main__.") else ""
    raise UserError(
        f"{source} holds a {kind} of another class, {printable(stored)}. Its code is run only if asked for: set "
        f"the environment variable {variable} to this name{script} if you trust it (in Python: give {kind}_class)."
    )


def check_class(kind: str, network: torch.nn.Module, given: type | None, *, source: object) -> None:
    """Raise a ValueError if a snapshot's network is of this program's class and another one was `given`."""
    own = type_before_parametrizations(network)
    if given not in (None, own):
        raise ValueError(f"{kind}_class is {class_name(given)}, but {source} holds a {class_name(own)}; leave it out.")
