"""The parts of a training run, built from its options (see conf/): networks, augmentation, loss, phases, schedule."""

import contextlib
import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import hydra
import torch
from hydra.errors import InstantiationException

from dnnlib import UserError, one_line
from torch_utils.memory import is_out_of_memory
from torch_utils.training_stats import Statistics
from training.checkpoints.network_classes import network_class
from training.checkpoints.network_state import MAX_NUMBER, check_rebuilt, large_numbers
from training.loss import CAMERA_LABEL, GanLoss
from training.networks.discriminator import TimeAwareDiscriminators
from training.networks.generator import Generator
from training.phases import Phase, make_phases
from training.schedule import Schedule

if TYPE_CHECKING:  # imported where it is used: few runs have adaptive augmentation
    from training.augment.ada import AdaAugment, AdaFeedback

__all__ = [
    "ada_kimg",
    "build_ada",
    "build_augment",
    "build_loss",
    "build_networks",
    "build_phases",
    "build_schedule",
    "check_arguments",
    "synthesis_note",
]

# Karras et al. 2020, "Limited Data": target of E[sign D(real)]; thousands of videos over which p can change by one,
# from scratch and in transfer learning.
ADA_TARGET = 0.6
ADA_KIMG = 500
ADA_KIMG_TRANSFER = 100

#: Steps of `Generator.synthesize`, by which `FrameRenderer` renders without it.
STEPS = ("modulate", "motion_vectors", "condition", "depth_offsets", "pixels", "upsample")

Options = Mapping[str, Any]


def build_networks(options: Options, *, c_dim: int, device: str = "cpu") -> tuple[Generator, TimeAwareDiscriminators]:
    """Generator and discriminators with the initial weights of the seed.

    Args:
        c_dim: Length of the labels; with camera_condition the discriminators' are longer.
        device: 'meta' builds them without values, for their sizes only.

    Raises:
        UserError: The options describe no valid networks; names the part and what is wrong.
    """
    resolution, camera_dim = options["resolution"], CAMERA_LABEL if options["camera_condition"] else 0
    model = options["model"]
    generator, discriminator = dict(model["generator"]), dict(model["discriminator"])
    for network in ("generator", "discriminator"):
        for key, instead in (("resolution", "resolution="), ("c_dim", "cond=true and the labels of dataset.json")):
            if key in model[network]:
                raise UserError(f"model.{network}.{key} would be ignored: it comes from {instead}; leave it out.")
        for key, value in large_numbers(model[network]):  # its snapshots could not be loaded
            raise UserError(f"model.{network}.{key}={value}: whole numbers of a network are at most {MAX_NUMBER}.")
    if options["fp32"]:
        if isinstance(generator.get("upsampler"), Mapping):  # a class of the user's own may have none
            generator["upsampler"] = dict(generator["upsampler"], fp16_min_resolution=None)
        discriminator["fp16_resolutions"] = 0
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(options["seed"])
        with _named("model.generator"):
            generator = _own_arguments(generator, Generator)
            g = hydra.utils.instantiate(generator, resolution=resolution, c_dim=c_dim)
            _check_config(g, generator)
            g.activation_checkpointing = options["activation_checkpointing"]
        with _named("model.discriminator"):
            discriminator = _own_arguments(discriminator, TimeAwareDiscriminators)
            d = hydra.utils.instantiate(discriminator, resolution=resolution, c_dim=c_dim + camera_dim)
            _check_config(d, discriminator)
            d.freeze(options["freezed"])
    return g, d


def _own_arguments(arguments: Mapping[str, Any], standard: type) -> dict[str, Any]:
    """The options of a network, with its class as `_target_`, and without those that a user's own class cannot take.

    The files of conf/model have every argument of this program's class `standard`, for which another architecture may
    have no use.
    """
    found = network_class(arguments["_target_"])
    taken = inspect.signature(found).parameters
    free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    unused = set() if free else inspect.signature(standard).parameters.keys() - taken.keys()
    return {key: value for key, value in arguments.items() if key not in unused} | {"_target_": found}


def check_arguments(networks: Mapping[str, torch.nn.Module], given: Collection[str]) -> None:
    """Raise a UserError if an option was `given` for a network of a user's own class that has no such argument."""
    for name in given:
        group, _, rest = name.partition(".")
        kind, _, argument = rest.partition(".")
        key = argument.split(".")[0]
        if group == "model" and kind in networks and key[:1] not in ("", "_") and key not in networks[kind].config:
            raise UserError(f"{name}: {type(networks[kind]).__name__} has no argument {key}; leave it out.")


def _check_config(network: torch.nn.Module, arguments: Mapping[str, Any]) -> None:
    """Raise a ValueError if snapshots, which hold a network's `config`, would rebuild another network."""
    altered = list(_altered(arguments, network.config))
    faults = [(path, problem) for path, problem in altered if path[0] not in network.config]
    if altered and not faults:  # no fault if the constructor changes an argument, or leaves out some of a part's
        try:
            check_rebuilt(network, what="it", fresh=True)
        except UserError:
            faults = altered
    for path, problem in faults:
        keys = "".join(f"[{key!r}]" for key in path)
        source = path[0] + "".join(f"[{key!r}]" for key in path[1:])
        raise ValueError(
            f"{type(network).__name__} {problem} its config, from which snapshots rebuild it: add self.config{keys} = "
            f"{source} to its constructor."
        )


def _altered(arguments: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Paths of arguments that a config lacks, or holds with another value, and what is wrong with each.

    Values of other types are no faults: constructors may turn lists into tuples, and None into a number.
    """
    for key, value in arguments.items():
        if str(key).startswith("_"):
            continue
        own = config.get(key)
        if key not in config:
            yield (key,), f"leaves {key} out of"
        elif isinstance(value, Mapping) and isinstance(own, Mapping):
            yield from (((key, *path), problem) for path, problem in _altered(value, own))
        elif type(value) is type(own) and value != own:
            yield (key,), f"has {key}={own!r:.50} instead of {value!r:.50} in"


def synthesis_note(generator: torch.nn.Module) -> list[str]:
    """A note if a user's own class overrides `synthesize`, for losses, but none of the steps that render frames."""
    own = type(generator)
    overridden = [name for name in ("synthesize", *STEPS) if getattr(own, name, None) is not getattr(Generator, name)]
    if overridden != ["synthesize"]:
        return []
    return [
        f"model.generator: {own.__name__}.synthesize is for losses only. Previews, metrics and videos are rendered by "
        f"its steps ({', '.join(STEPS)}), of which it overrides none."
    ]


@contextlib.contextmanager
def _named(part: str) -> Iterator[None]:
    """Turn a constructor's errors into one line that names the part of the options."""
    try:
        yield
    except (InstantiationException, TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        if is_out_of_memory(cause):
            raise cause from None  # the command gives its advice
        raise UserError(f"{part}: {one_line(cause)}") from error


def build_augment(options: Options) -> "AdaAugment | None":
    """The ADA pipeline with its probability p; None with aug=noaug.

    Raises:
        UserError: There is no such pipeline, or it cannot work on frames this small, now or when p rises.
    """
    if options["aug"] == "noaug":
        return None
    with _named("augpipe"):
        from training.augment.ada import AdaAugment

        augment = AdaAugment(pipeline=options["augpipe"] or "bgc")
    if options["resolution"] < augment.smallest_size:
        raise UserError(
            f"augpipe={augment.pipeline} filters frequency bands and needs frames of at least {augment.smallest_size} "
            f"pixels a side, not resolution={options['resolution']}; use a pipeline without them, e.g. augpipe=bgc."
        )
    augment.p.fill_(options["p"] or 0.0)
    return augment


def ada_kimg(options: Options) -> float:
    """Thousands of videos over which the p of aug=ada can change by one."""
    return ADA_KIMG if options["resume"] is None else ADA_KIMG_TRANSFER


def build_ada(
    options: Options, *, augment: "AdaAugment | None", statistics: Statistics, device: torch.device
) -> "AdaFeedback | None":
    """Feedback that adapts p (ADA, section 3); None unless aug=ada."""
    if options["aug"] != "ada":
        return None
    from training.augment.ada import AdaController, AdaFeedback

    controller = AdaController(
        p=float(augment.p),
        target=ADA_TARGET if options["target"] is None else options["target"],
        kimg=ada_kimg(options),
    )
    return AdaFeedback(augment=augment, controller=controller, statistics=statistics, device=device)


def build_loss(
    options: Options,
    *,
    generator: Generator,
    discriminator: TimeAwareDiscriminators,
    augment: "AdaAugment | None",
    statistics: "Statistics | AdaFeedback",
) -> GanLoss:
    """The losses of all phases with the weights of the options."""
    spec = options["spec"]
    return GanLoss(
        generator=generator,
        discriminator=discriminator,
        augment=augment,
        diffaugment=options["diffaugment"] or "",
        r1_gamma=spec["gamma"],
        pl_weight=spec["pl_weight"],
        pl_decay=spec["pl_decay"],
        pl_batch_shrink=spec["pl_batch_shrink"],
        style_mixing_prob=spec["style_mixing"],
        image_weight=spec["image_weight"],
        path_weight=spec["path_weight"],
        distortion_weight=spec["distortion_weight"],
        bfloat16=options["precision"] == "bf16",
        camera_condition=options["camera_condition"],
        single_images=options["nframes"] == 1,
        statistics=statistics,
    )


def build_phases(options: Options, *, generator: torch.nn.Module, discriminator: torch.nn.Module) -> list[Phase]:
    """The phases of an iteration; a penalty of weight 0 has none, and Adam is not corrected for it."""
    spec = options["spec"]
    return make_phases(
        generator=generator,
        discriminator=discriminator,
        lr=spec["lrate"],
        betas=tuple(spec["betas"]),
        eps=spec["eps"],
        g_reg_interval=spec["g_reg_interval"] if spec["pl_weight"] > 0 else None,
        d_reg_interval=spec["d_reg_interval"] if spec["gamma"] > 0 else None,
    )


def build_schedule(options: Options) -> Schedule:
    """The run's length and intervals."""
    spec = options["spec"]
    return Schedule(
        total_kimg=options["kimg"],
        batch=spec["mb"],
        microbatch=spec["microbatch"],
        lrate_decay=spec["lrate_decay"],
        kimg_per_tick=spec["kimg_per_tick"],
        image_ticks=options["imgsnap"],
        snapshot_ticks=options["snap"],
        keep=options["keep"],
        nonfinite_limit=spec["nonfinite_limit"],
        unreadable_limit=options["unreadable_limit"],
    )
