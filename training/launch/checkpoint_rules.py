"""Checks of the checkpoint that a training begins from: a snapshot (resume=) or a training state (resume_run=)."""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.parametrize import type_before_parametrizations

from dnnlib import UserError, is_number
from training.checkpoints.growing import (
    Grown,
    generator_states,
    grown_state,
    grows,
    is_block,
    options_to_keep_upsampler,
)
from training.checkpoints.network_classes import KINDS, class_name, own_class, same_class
from training.checkpoints.network_state import MAX_NUMBER, check_state
from training.checkpoints.snapshot import load_snapshot
from training.checkpoints.training_state import read_state
from training.data.loader import PairDataset
from training.networks.discriminator import TimeAwareDiscriminators
from training.networks.fields import is_density_scale
from training.networks.generator import Generator
from training.schedule import Counters

if TYPE_CHECKING:
    from training.launch.default_data import SyntheticHeads

__all__ = ["check_run_state", "check_snapshot"]

#: Arguments of a generator that decide what its weights mean, which their shapes do not or not always show, and their
#: values in versions that did not have them.
SHAPELESS = {
    "foreground.encoding": "octaves",
    "foreground.density_prior": None,
    "foreground.density_ramp": None,
    "motion.frequency": None,
    "mapping.lr_multiplier": 0.01,
}
#: Names and flags among the networks' arguments that decide how something is done, not what the weights mean.
FREE = ("camera.distribution", "channels_last")
#: Groups or arguments of a generator that decide which views of a scene are seen.
VIEWS = ("camera.", "rendering.near", "rendering.far", "rendering.background_start")
RAMP = "model.generator.foreground.density_ramp"
#: Instead of the value of an argument that a snapshot's network does not have.
ABSENT = object()


def check_snapshot(
    options: Mapping[str, Any],
    generator: Generator,
    discriminator: TimeAwareDiscriminators,
    *,
    given: Collection[str],
) -> list[str]:
    """Raise a UserError if the networks cannot begin from the snapshot of resume=; notes for the user otherwise.

    Args:
        given: Names of the options that the command was given.
    """
    path = options["resume"]
    content = load_snapshot(path)
    stored = content["generator"]["config"]
    _check_meaning(content, generator, source=path)
    states = generator_states(content, generator)
    networks = {
        "generator": (generator, states[1]),
        "discriminator": (discriminator, content["discriminator"]["state"]),
    }
    grown = _check_fit(content, networks, source=path)
    for name, (network, _) in networks.items():
        _check_choices(f"model.{name}", network, content[name]["config"], source=path)
    notes = [note for name, (network, _) in networks.items() for note in _class_note(name, network, content[name])]
    if grown:
        _check_frozen(options["freezed"], stored["resolution"], discriminator.resolution, source=path)
        notes += _growth_notes(content, generator, grown)
    if not any(network.lost for network in grown) and "spec.ramp" in given and options["spec"]["ramp"] is not None:
        notes.append(
            "spec.ramp= has no effect: with resume= there is no ramp-up, which would overwrite the snapshot's average, "
            "unless growing loses what the upsampler has learnt."
        )
    notes += _views_note(stored, generator.config, given)
    notes += _camera_label_note(stored, generator.config, options)
    notes += _augmentation_note(content, options)
    notes += _density_ramp_note(generator, states[0], given)
    return notes


def _check_fit(
    content: Mapping[str, Any], networks: Mapping[str, tuple[Any, Mapping[str, torch.Tensor]]], *, source: object
) -> list[Grown]:
    """Raise a UserError if the snapshot's tensors do not fit the networks; names the options that differ.

    Args:
        networks: The generator and the discriminators, each with the snapshot's tensors for it.

    Returns:
        How each of them grows; empty at the same resolution.
    """
    generator, _ = networks["generator"]
    larger, grown = grows(content, generator.resolution), []
    try:
        for (network, state), what in zip(networks.values(), ("the generator", "the discriminators"), strict=True):
            if larger:
                grown.append(grown_state(network, state, what=what, source=source))
            else:
                check_state(network, state, what=what, source=source)
    except UserError as error:
        labels = content["generator"]["config"].get("c_dim", 0), generator.config.get("c_dim", 0)
        differing = dict(
            pair
            for name, (network, _) in networks.items()
            for pair in _differing_options(f"model.{name}", network, content[name], larger, labels)
        )
        trained = [
            f"{how} {' '.join(texts)}"
            for how in ("with", "without")
            if (texts := [text for text, other in differing.items() if other == how])
        ]
        hint = f" These options differ: it was trained {', '.join(trained)}" if trained else ""
        raise UserError(f"{error}{hint}") from error
    return grown


def _check_frozen(frozen: int, stored: int, resolution: int, *, source: object) -> None:
    """Raise a UserError if freezed= is given: the highest resolutions, whose new layers add zero at first."""
    if frozen:
        raise UserError(
            f"freezed={frozen}: {source} has {stored}×{stored} pixels, so the discriminators' layers for "
            f"{resolution}×{resolution} are new and would never be trained; leave it out."
        )


def _classes(network: Any, stored: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The names of the classes of the snapshot's network and of this one; None for that of this program."""
    held = stored.get("class")
    return None if held is None else str(held), own_class(network).get("class")


def _class_note(name: str, network: Any, stored: Mapping[str, Any]) -> list[str]:
    """A note if the snapshot's network is of another class, whose tensors fit all the same."""
    held, own = _classes(network, stored)
    if same_class(held, own):
        return []
    return [
        f"resume: the snapshot's {name} is {f'{held!r:.100}' if held else 'of this program'}, here it is "
        f"{repr(own) if own else 'that of this program'}: its weights fit, but may mean something else."
    ]


def _growth_notes(content: Mapping[str, Any], generator: Generator, grown: list[Grown]) -> list[str]:
    """Notes on the blocks that are new, and on those of the upsampler that are lost although they need not be."""
    new = [block for network in grown for block in network.new]
    width = content["generator"]["config"]["resolution"]
    notes = [f"resume: grown from {width}×{width} pixels; new are {', '.join(new) or 'no blocks'}."]
    if any(network.lost for network in grown) and (keeping := options_to_keep_upsampler(content, generator)):
        notes.append(
            "resume: the upsampler's blocks have other numbers of channels than the snapshot's and lose what they "
            f"have learnt; {keeping} keeps it."
        )
    return notes


def _density_ramp_note(generator: Generator, state: Mapping[str, torch.Tensor], given: Collection[str]) -> list[str]:
    """A note if the density of the snapshot, of these tensors, has a ramp that was asked for behind it."""
    ramp = _group(generator.config, "foreground").get("density_ramp")
    reached = [float(tensor) for name, tensor in state.items() if is_density_scale(name)]
    factor = ramp.get("factor") if isinstance(ramp, Mapping) else None  # classes of the user's own have others
    if not (is_number(factor) and reached and min(reached) >= factor and any(name.startswith(RAMP) for name in given)):
        return []
    return [f"{RAMP} has no effect: the snapshot's density has reached a factor of {min(reached):g} already."]


def _views_note(stored: Mapping[str, Any], own: Mapping[str, Any], given: Collection[str]) -> list[str]:
    """A note if the snapshot was trained with other cameras or depths, and nobody has asked for those of this run."""
    differing = [
        f"{option}={_typed(value)}"
        for path, value, _ in _differences(stored, own)
        if ".".join(path).startswith(VIEWS) and value is not ABSENT
        for option in [".".join(("model", "generator", *path))]
        if not any(f"{option}.".startswith(f"{name}.") for name in given if name != "model")  # a file of conf/model
    ]
    if not differing:
        return []
    return [
        f"resume: the snapshot was trained with {' '.join(differing)}, which is not taken from it: give the same "
        "options, unless the new data are seen from elsewhere."
    ]


def _camera_label_note(stored: Mapping[str, Any], own: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """A note if the discriminators' camera labels, in units of the range (`camera_label`), change their meaning."""
    differing = [
        f"model.generator.{'.'.join(path)}={_typed(value)}"
        for path, value, _ in _differences(stored, own)
        if path in (("camera", "yaw"), ("camera", "pitch")) and value is not ABSENT
    ]
    if not differing or not options["camera_condition"]:
        return []
    return [
        "resume: with camera_condition=true the discriminators see angles in units of the range, which was "
        f"{' '.join(differing)}: with another one they have to learn cameras anew."
    ]


def _augmentation_note(content: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """A note if adaptive augmentation begins at p = 0, although the snapshot's discriminators knew a stronger one."""
    p = _group(_group(content, "augment"), "state").get("p")
    if options["aug"] != "ada" or options["p"] is not None or not isinstance(p, torch.Tensor) or p.numel() != 1:
        return []
    if not float(p) > 0:
        return []
    return [
        f"resume: the snapshot's augmentation had reached p={float(p):.3g}, this run's begins with 0; "
        f"p={min(float(p), 1.0):.3g} continues from there."
    ]


def check_run_state(
    folder: Path,
    dataset: "PairDataset | SyntheticHeads",
    generator: Generator,
    discriminator: TimeAwareDiscriminators,
) -> list[str]:
    """Raise a UserError if a run cannot continue from its state with these data; notes for the user otherwise."""
    state = read_state(folder)
    if state is None:
        return [f"The run in {folder} ended before it saved its state: it starts from the beginning."]
    notes = []
    stored, now = state["description"]["dataset"], dataset.describe()
    free = ("name", "label_examples", "source_stride")  # may differ; runs of earlier versions lack the last two
    changed = [key for key in now if key not in free and stored.get(key) != now[key]]
    if changed:
        key = changed[0]
        raise UserError(
            f"Cannot continue the run in {folder}: the dataset has changed ({key} was {stored.get(key)}, is "
            f"{now[key]}); start a new run with resume= instead."
        )
    prints = state["description"].get("fingerprint", {})  # of earlier versions: none
    others = [key for key, value in dataset.fingerprint().items() if prints.get(key, value) != value]
    if "labels" in others:
        raise UserError(
            f"Cannot continue the run in {folder}: the dataset has changed (the number of videos is the same, but "
            "dataset.json has other labels or cameras); start a new run with resume= instead."
        )
    if stored.get("name") != now["name"]:  # moved or renamed, or others of the same size: a relative path elsewhere
        notes.append(f"The data are now called {now['name']}; they were {stored.get('name')} when the run began.")
    if others:
        notes.append(
            "The data have as many videos as when the run began, but the files' names or sizes have changed: if they "
            "are not the same videos, start a new run with resume= instead."
        )
    check_state(generator, state["modules"]["generator"], what="this run's generator", source=folder)
    check_state(discriminator, state["modules"]["discriminator"], what="this run's discriminators", source=folder)
    Counters().load_state_dict(state["shared"]["counters"])
    return notes


# ----------------------------------------------------------------------------------------------------------------------
# Options that a snapshot was trained with


def _check_meaning(content: Mapping[str, Any], generator: Generator, *, source: object) -> None:
    """Raise a UserError if the snapshot's weights would mean something else in this generator."""
    config, own = content["generator"]["config"], generator.config
    pairs = {
        name: (_option(config, name, default), _option(own, name, default))
        for name, default in SHAPELESS.items()
        if None not in (config.get(name.partition(".")[0]), own.get(name.partition(".")[0]))
    }  # without a part, such as motion=null or in a class of the user's own, there are other weights
    if pairs.get("foreground.density_ramp", (None,))[0] is None:
        pairs.pop("foreground.density_ramp", None)  # it may begin here: at a factor of 1
    different = {name: values for name, values in pairs.items() if values[0] != values[1]}
    _refuse("model.generator", different, source=source)


def _check_choices(name: str, network: Any, stored: Mapping[str, Any], *, source: object) -> None:
    """Raise a UserError if a name or flag differs: it chooses a formula, although the shapes fit either way."""
    different = {
        ".".join(path): (value, own)
        for path, value, own in _differences(stored, network.config)
        if isinstance(own, (str, bool)) and value is not ABSENT and ".".join(path) not in FREE
    }
    _refuse(name, different, source=source)


def _refuse(name: str, different: Mapping[str, tuple[Any, Any]], *, source: object) -> None:
    """Raise a UserError if there are arguments with another value in the snapshot (first) than here (second)."""
    if not different:
        return
    trained = [f"{name}.{key}={_typed(stored)}" for key, (stored, _) in different.items()]
    here = [_typed(wanted) for _, wanted in different.values()]
    raise UserError(
        f"{source} was trained with {' '.join(trained)}, not {' and '.join(here)}; with "
        f"{'another value' if len(here) == 1 else 'other values'} its weights mean something else."
    )


def _group(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The arguments of a part; empty if there is no such part, which a class of the user's own need not have."""
    values = config.get(name)
    return values if isinstance(values, Mapping) else {}


def _option(config: Mapping[str, Any], name: str, default: Any) -> Any:
    """A value of a generator's arguments by its dotted name; `default` where the version that stored them lacked it."""
    *groups, key = name.split(".")
    values: Any = config
    for group in groups:
        values = _group(values, group)
    value = values.get(key, default)
    if key == "density_prior" and isinstance(value, Mapping) and "center" not in value:
        value = {**value, "center": [0, 0, 0]}
    if key == "density_ramp" and value is not None:
        value = "{factor,start,end}"  # the values do not matter: the factor reached is one of the weights
    return value


def _differing_options(
    name: str, network: Any, stored: Mapping[str, Any], larger: bool, labels: tuple[int, int]
) -> Iterator[tuple[str, str]]:
    """Options that give a snapshot's network other shapes than this one, as they are typed.

    Each comes with the word 'with', or, if the snapshot's network does not have the argument, with 'without'. If the
    networks are of different classes, that is the option.

    Args:
        name: The network's name among the options.
        network: This network, on the meta device.
        stored: The snapshot's entry of the network.
        larger: The network grows: its blocks may differ.
        labels: Sizes of the labels of the data, the snapshot's and this run's; discriminators may see cameras as well.
    """

    def shapes(built: Any) -> dict[str, torch.Size]:
        state = built.state_dict()
        return {name: state[name].shape for name in state if not (larger and is_block(name))}

    held, here = _classes(network, stored)
    if not same_class(held, here):
        yield f"{name}._target_={_typed(held or class_name(KINDS[name.removeprefix('model.')])):.100}", "with"
        return
    for path, value, own in _differences(stored["config"], network.config):
        try:
            numbers = value.values() if isinstance(value, Mapping) else [value]
            if any(isinstance(number, int) and number > MAX_NUMBER for number in numbers):
                raise ValueError("no network is that large: the file is damaged")
            with torch.device("meta"):
                other = type_before_parametrizations(network)(**_replaced(network.config, path, value))
            if shapes(other) == shapes(network):
                continue
        except (TypeError, ValueError, KeyError, RuntimeError, ArithmeticError):
            pass  # together with others it may be valid
        if value is ABSENT:
            yield f"{name}.{'.'.join(path)}", "without"
        elif path == ("c_dim",) and all(isinstance(number, int) for number in (value, *labels)):
            if labels[0] != labels[1]:
                yield f"labels of size {labels[0]}, not {labels[1]} (cond=)", "with"
            if value - labels[0] != own - labels[1]:
                joint = "" if labels[0] == labels[1] else "and "
                yield f"{joint}cameras of size {value - labels[0]}, not {own - labels[1]} (camera_condition=)", "with"
        elif path == ("resolution",):
            yield f"resolution={value}", "with"
        else:
            yield f"{name}.{'.'.join(path)}={_typed(value)}", "with"


def _differences(stored: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Paths of arguments that differ, with their stored values (or ABSENT) and the network's own."""
    for key, other in own.items():
        value = stored.get(key, ABSENT)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            yield from (((key, *path), *values) for path, *values in _differences(value, other))
        elif value != other:
            yield (key,), value, other


def _replaced(config: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Arguments with one of them replaced, or left out if the value is ABSENT."""
    key, *rest = path
    if value is ABSENT and not rest:
        return {name: other for name, other in config.items() if name != key}
    return {**config, key: _replaced(config[key], tuple(rest), value) if rest else value}


def _typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    return json.dumps(value, separators=(",", ":"), default=str).replace('"', "")
