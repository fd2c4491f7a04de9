"""Generators in the form of the Hugging Face Hub: a folder with `config.json` and `model.safetensors`.

    config.json             format, version, the arguments of Generator, dataset, progress; class (dotted name) if it is
                            not this program's Generator
    model.safetensors       the moving average of its tensors, by the names of `Generator.state_dict`
    discriminator.json, discriminator.safetensors
                            the discriminators, which only training needs; may be left out; class as above

Each JSON file holds the SHA-256 of the tensors beside it, as safetensors has no checksums.

The names are those of huggingface_hub's PyTorchModelHubMixin, so a class derived from Generator and the mixin reads the
folder, too. Both files are data, and are checked like a snapshot when a network is built from them.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dnnlib import UserError, __version__, atomic_write, one_line, require_utf8
from dnnlib.downloads import sha256_of
from torch_utils.memory import explain_loading
from training.checkpoints.archive import VERSION, plain

__all__ = [
    "DISCRIMINATOR_CONFIG",
    "DISCRIMINATOR_MODEL",
    "FILES",
    "MODEL",
    "is_own",
    "is_pretrained",
    "read_pretrained",
    "write_discriminators",
    "write_pretrained",
]

FORMAT = "video-3d-gan/generator"
CONFIG, MODEL = "config.json", "model.safetensors"
DISCRIMINATOR_CONFIG, DISCRIMINATOR_MODEL = "discriminator.json", "discriminator.safetensors"
FILES = (CONFIG, MODEL, DISCRIMINATOR_CONFIG, DISCRIMINATOR_MODEL)
MAX_CONFIG = 1 << 20  # bytes
ABOUT = ("dataset", "progress")
OWN = ("format", "version", "program", "class", "sha256", *ABOUT)  # entries that are not arguments


def is_pretrained(path: Path) -> bool:
    """True for a folder of this form."""
    return (path / CONFIG).is_file() and (path / MODEL).is_file()


def is_own(folder: Path) -> bool:
    """True if the folder's config.json is one that this program wrote."""
    try:
        return _read_json(folder / CONFIG).get("format") == FORMAT
    except UserError:
        return False


def write_pretrained(
    folder: str | os.PathLike,
    *,
    config: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
    about: Mapping[str, Any],
    network_class: str | None,
) -> None:
    """Write a generator into a folder, which is made if it is missing; discriminators already in it are kept.

    Args:
        config, state: The generator's arguments and tensors.
        about: 'dataset' and 'progress' of its training; other entries are left out.
        network_class: Dotted name of its class, or None for this program's Generator.

    Raises:
        UserError: The folder cannot be written to, or holds such a file of another program; or a value is none of JSON.
        ValueError: An argument has a name that the file uses.
    """
    there = [name for name in (CONFIG, MODEL) if os.path.lexists(os.path.join(folder, name))]
    if there and not is_own(Path(folder)):
        raise UserError(f"'{os.fspath(folder)}' holds a {there[0]} of something else; choose another folder.")
    taken = sorted(set(config) & set(OWN))
    if taken:
        raise ValueError(f"an argument of the generator is called '{taken[0]}', a name that config.json uses itself.")
    head = {"format": FORMAT, "version": VERSION, "program": __version__}
    named = {} if network_class is None else {"class": network_class}
    known = {name: about[name] for name in ABOUT if name in about}  # readers take other entries for arguments
    _write(folder, CONFIG, MODEL, {**head, **named, **known, **config}, state)


def write_discriminators(
    folder: str | os.PathLike,
    *,
    config: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
    network_class: str | None,
) -> None:
    """Write discriminators beside a generator; arguments and errors as for `write_pretrained`."""
    named = {} if network_class is None else {"class": network_class}
    _write(folder, DISCRIMINATOR_CONFIG, DISCRIMINATOR_MODEL, {**named, **config}, state)


def read_pretrained(folder: Path, *, average_only: bool) -> dict[str, Any]:
    """The content of a snapshot (see training.checkpoints.snapshot), without format and version.

    Raises:
        UserError: A file is damaged, of another program, or, unless `average_only`, the discriminators are missing.
    """
    config = _read_json(folder / CONFIG)
    if config.get("format") != FORMAT or config.get("version") != VERSION:
        raise UserError(
            f"{folder / CONFIG} describes no generator of this program (its format is {config.get('format')!r} version "
            f"{config.get('version')!r}, not {FORMAT!r} version {VERSION})."
        )
    average = _read_tensors(folder / MODEL, config.get("sha256"))
    arguments = {name: value for name, value in config.items() if name not in OWN}
    named = {"class": str(config["class"])} if "class" in config else {}
    generator = {"config": arguments, "state": average, "ema": average, **named}
    about = {name: config.get(name) for name in ABOUT}
    content = {"generator": generator, "augment": None, **about}
    description = folder / DISCRIMINATOR_CONFIG
    if description.is_file():
        arguments = _read_json(description)
        digest = arguments.pop("sha256", None)
        tensors = {} if average_only else _read_tensors(folder / DISCRIMINATOR_MODEL, digest)
        named = {"class": str(arguments.pop("class"))} if "class" in arguments else {}
        content["discriminator"] = {"config": arguments, "state": tensors, **named}
    elif not average_only:
        raise UserError(
            f"{folder} holds a generator without discriminators: it can be rendered and measured; training "
            "(resume=) and --finetune need a snapshot, or a folder that was saved with them."
        )
    return content


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise UserError("Files like model.safetensors need one more package: `pip install safetensors`.") from error
    return safetensors


def _write(
    folder: str | os.PathLike, name: str, tensors: str, config: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> None:
    library = _safetensors()
    folder = Path(folder)
    try:
        described = plain(config, where=name, tensors=False)
    except TypeError as error:
        raise UserError(f"{error}: numbers, strings, lists and dictionaries.") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make the folder {folder}: {error.strerror}.") from error
    parts = {key: tensor.contiguous() for key, tensor in plain(state).items()}
    data = library.torch.save(parts, metadata={"format": "pt"})
    described = {"sha256": hashlib.sha256(data).hexdigest(), **described}
    with atomic_write(folder / tensors) as file:
        file.write(data)
        file.flush()  # if the disk is full, the folder is left as it was
        # The description appears first: a folder without the tensors is no model, but known as one of this program.
        with atomic_write(folder / name, "w") as description:
            description.write(json.dumps(described, indent=2, ensure_ascii=False) + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_CONFIG + 1)
        content = json.loads(text) if len(text) <= MAX_CONFIG else None
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: it is not JSON ({one_line(error)[:100]}).") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} describes no network of this program.")
    return content


def _read_tensors(path: Path, digest: object) -> dict[str, torch.Tensor]:
    """Tensors of a file, whose SHA-256 must be `digest`."""
    library = _safetensors()
    require_utf8(path)
    try:
        if sha256_of(path) != digest:
            raise UserError(
                f"{path} is damaged, or was not written with the JSON file beside it: copy or download both again."
            )
        with explain_loading(path):
            return library.torch.load_file(path)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or one_line(error)}.") from error
    except (library.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{path} is damaged or incomplete; copy or download it again.") from error
