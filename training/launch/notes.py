"""Notes on the schedule, the cameras and the data of a training that its options allow but its user may not want."""

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch

from dnnlib import UserError, is_number
from renderer.cameras import SMALL_FOV, CameraPrior
from training.data.dataset import num_shards
from training.data.loader import PairDataset
from training.launch.build import ada_kimg, build_schedule
from training.networks.density import DensityRamp

if TYPE_CHECKING:
    from training.launch.default_data import SyntheticHeads

__all__ = ["check_camera_labels", "model_notes", "size_notes"]

TRIAL = 1  # kimg; shorter runs only try whether everything works
WEAK_P = 0.2  # probability of augmentation below which it hardly does anything


def check_camera_labels(options: Mapping[str, Any], generator: torch.nn.Module) -> None:
    """Refuse camera_condition with a prior of the user's own that lacks the ranges, the units of its labels."""
    prior = getattr(generator, "camera_prior", None)
    lacks = prior is not None and any(getattr(prior, name, None) is None for name in ("yaw", "pitch"))
    if options["camera_condition"] and lacks:
        raise UserError(
            "camera_condition=true gives the discriminators angles in units of the ranges of yaw and pitch, which the "
            "camera_prior of model.generator lacks; add them, or leave camera_condition= out."
        )


def model_notes(
    options: Mapping[str, Any],
    generator: torch.nn.Module,
    dataset: "PairDataset | SyntheticHeads",
    *,
    given: Collection[str],
    continued: bool,
) -> list[str]:
    """Notes on the schedule and on the generator's rays and cameras; a continued run cannot change all of them."""
    notes = _replaced_notes(options)
    if not continued:
        notes += _length_notes(options, generator, given)
    notes += _depth_notes(generator)
    if not continued:
        notes += _prior_notes(generator, options)
    if options["data"] is not None:
        notes += _camera_notes(generator, dataset)
    else:
        notes += _synthetic_camera_note(generator)
    return notes


def size_notes(options: Mapping[str, Any], dataset: "PairDataset | SyntheticHeads", processes: int) -> list[str]:
    """Notes on options that have no effect with data of this size, and on videos that are left out."""
    notes = []
    if dataset.num_short_videos:
        notes.append(f"{dataset.num_short_videos} videos are shorter than nframes={options['nframes']} and left out.")
    if options["nframes"] == 1 and options["frame_stride"] > 1:
        stride = options["frame_stride"]
        notes.append(f"nframes=1 with frame_stride={stride} keeps one image in {stride} of a folder; use 1 for all.")
    if options["nframes"] == 2:
        notes.append(
            "nframes=2: the time between the frames of a real pair is 0 or 1, by which the discriminator can tell it "
            "from generated ones; longer clips (nframes=16) avoid this."
        )
    if (options["subset"] or 0) > dataset.num_clips:
        notes.append(f"subset={options['subset']} has no effect: there are {dataset.num_clips} clips.")
    shards = num_shards(dataset)
    if shards is not None and (options["workers"] or 0) > (most := shards // processes):
        notes.append(f"workers={options['workers']}: {most} are used, one for each shard of a process.")
    return notes


def _replaced_notes(options: Mapping[str, Any]) -> list[str]:
    """Notes on snapshots and previews of a run of some kimg that are due more often than their file names change."""
    schedule, notes = build_schedule(options), []
    for key, what in (("snap", "snapshots"), ("imgsnap", "previews")):
        regular = schedule.tick_ends(options[key])
        every = regular.step / 1000
        if every >= 1 and len(regular) > 1 and regular[-1] // 1000 == schedule.end // 1000:
            last = regular[-1] / 1000
            notes.append(
                f"kimg={options['kimg']:g}: {what} at the end replace those of {last:g} kimg ({key}={options[key]}), "
                f"as they are named by whole kimg; kimg={math.floor(last) + 1} keeps both."
            )
        if regular and every < 1 and schedule.end >= 1000:
            enough = math.ceil(1000 * options[key] / regular.step)
            notes.append(
                f"{key}={options[key]}: {what} are due every {every:g} kimg, but are named by whole kimg, and later "
                f"ones replace earlier ones of the same name; {key}={enough} keeps all."
            )
    return notes


def _length_notes(options: Mapping[str, Any], generator: torch.nn.Module, given: Collection[str]) -> list[str]:
    """Notes on a new run that ends before its density ramp does, or before adaptive augmentation has an effect."""
    kimg, new, notes = options["kimg"], options["resume"] is None, []
    if kimg < TRIAL:
        return []
    ramp = getattr(getattr(generator, "foreground", None), "density_ramp", None)  # a user's own class may have none
    if isinstance(ramp, DensityRamp) and new and ramp.factor > 1 and kimg < ramp.end:
        option = "model.generator.foreground.density_ramp"
        if kimg > ramp.start or not any(name.startswith(option) for name in given):  # else it has no effect, see there
            notes.append(
                f"kimg={kimg:g}: the density ramp ends at {ramp.end:g} kimg, so this run ends at a factor of "
                f"{ramp(kimg):.3g} of {ramp.factor:g}, in fog; give a {option} with end below kimg."
            )
    most = (options["p"] or 0) + kimg / ada_kimg(options)
    if options["aug"] == "ada" and most < WEAK_P:
        notes.append(
            f"aug=ada: p reaches at most {most:.2g} in this run; begin with p={WEAK_P}, or use aug=fixed p={WEAK_P}."
        )
    return notes


def _depth_notes(generator: torch.nn.Module) -> list[str]:
    """A warning if cameras look at a point, the origin, that lies outside the depths in which rays are sampled."""
    prior, settings = _camera_prior(generator), getattr(generator, "settings", None)
    near, far = (getattr(settings, name, None) for name in ("near", "far"))
    if prior is None or not (is_number(near) and is_number(far)):
        return []
    low, high = prior.radius
    if near < low and high < far:
        return []
    return [
        f"model.generator.camera.radius=[{low:g},{high:g}]: rays are sampled from model.generator.rendering.near="
        f"{near:g} to far={far:g}, which leaves out the origin, where cameras look and a density prior lies."
    ]


def _prior_notes(generator: torch.nn.Module, options: Mapping[str, Any]) -> list[str]:
    """Warnings on cameras in other units or another convention, and on mirrored views that they do not have."""
    prior, notes = _camera_prior(generator), []
    if prior is None:
        return []
    if prior.fov < SMALL_FOV:
        notes.append(f"model.generator.camera.fov={prior.fov:g} is tiny: it is in degrees, other angles in radians.")
    (low, high), (lowest, highest) = prior.yaw, prior.pitch
    if -math.pi / 2 - 1e-3 < lowest < -1e-3 and highest < math.pi / 2 + 1e-3:  # as elevations are
        notes.append(
            f"model.generator.camera.pitch=[{lowest:g},{highest:g}] reaches below 0: pitch is 0 from above and "
            "π/2 on the horizon, so give π/2 − elevation."
        )
    if options["mirror"] and not options["camera_condition"] and not _samples_otherwise(prior):
        from training.data.camera_statistics import TOLERATED, mirrored_outside

        if (share := mirrored_outside(prior.yaw, prior.distribution)) > TOLERATED:
            notes.append(
                f"mirror=true: {share:.0%} of the mirrored views lie outside of what model.generator.camera.yaw="
                f"[{low:g},{high:g}] samples; give a range around 0, or leave mirror= out."
            )
    return notes


def _camera_notes(generator: torch.nn.Module, dataset: "PairDataset") -> list[str]:
    """A warning if the generator does not sample cameras like those of the data, or these look wrong."""
    prior, angles = _camera_prior(generator), dataset.cameras()
    if prior is None or angles is None or _samples_otherwise(prior):
        return []
    from training.data.camera_statistics import outside_prior  # rarely needed: few datasets have cameras

    note = outside_prior(
        angles, yaw=prior.yaw, pitch=prior.pitch, distribution=prior.distribution, mirror=dataset.mirror
    )
    return [] if note is None else [note]


def _synthetic_camera_note(generator: torch.nn.Module) -> list[str]:
    """A note if synthetic heads, whose cameras are those of the options, get others from a prior of the user's own."""
    prior = _camera_prior(generator)
    if prior is None or not _samples_otherwise(prior):
        return []
    return [
        "No data= was given: the cameras of synthetic heads are sampled from the ranges of model.generator.camera, not "
        f"by {type(prior).__name__} as those of the generator."
    ]


def _camera_prior(generator: torch.nn.Module) -> Any | None:
    """The prior of the generator's cameras; None if it lacks what this program's has, in a class of the user's own."""
    prior = getattr(generator, "camera_prior", None)
    ranges = [getattr(prior, name, None) for name in ("yaw", "pitch", "radius")]
    pairs = all(isinstance(values, tuple) and len(values) == 2 and all(map(is_number, values)) for values in ranges)
    return prior if pairs and is_number(getattr(prior, "fov", None)) and hasattr(prior, "distribution") else None


def _samples_otherwise(prior: Any) -> bool:
    """True for a prior of the user's own, whose cameras its ranges do not describe."""
    return getattr(type(prior), "sample", None) is not CameraPrior.sample
