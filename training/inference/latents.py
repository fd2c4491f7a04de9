"""Latent codes of seeds, the same on every machine and device.

They are sampled on the CPU exactly as in the published renderer, so that the seeds of the paper's figures show the same
people here. (Random latents of training come from the training's own random stream instead.)
"""

import dataclasses
import operator
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from torch_utils.argument_checks import check_tensors, shown

if TYPE_CHECKING:
    from training.networks.generator import Generator

__all__ = [
    "BACKGROUND_SCALE",
    "CODE_SIZES",
    "LATENT_SIZES",
    "RowCodes",
    "SeedLatents",
    "class_label",
    "generator_latents",
    "known_labels",
    "labels_at",
    "lacks_motion",
    "lacks_time",
    "seed_latents",
]

BACKGROUND_SCALE = 0.65  # backgrounds are sampled from a narrower distribution than in training, which avoids odd ones
MAX_SEED = 2**32 - 1  # of NumPy's legacy generator

#: Sizes of `SeedLatents`, in the order of its fields: attributes of the generator, arguments of `seed_latents`.
LATENT_SIZES = ("z_dim", "motion_dim", "background_dim")
#: Sizes of the `RowCodes` of one video: attributes of the generator.
CODE_SIZES = {"ws": ("num_ws", "w_dim"), "z_motion": ("motion_dim",), "z_bg": ("background_dim",)}

Batch = TypeVar("Batch", bound="_Batch")


class _Batch:
    """Codes of B videos: the fields are tensors [B, …]."""

    @classmethod
    def join(cls: type[Batch], parts: Iterable[Batch]) -> Batch:
        """The videos of all parts.

        Raises:
            ValueError: No parts, one that is something else, or parts of different sizes or on different devices.
        """
        parts = list(parts) if isinstance(parts, Iterable) else [parts]
        if not parts or not all(isinstance(part, cls) for part in parts):
            raise ValueError(f"{cls.__name__}.join takes one or more {cls.__name__}, got {shown(parts)}.")
        first = vars(parts[0])
        for i, part in enumerate(parts):
            shapes = {f"parts[{i}].{name}": (x, ("videos", *first[name].shape[1:])) for name, x in vars(part).items()}
            check_tensors(shapes, device=next(iter(first.values())).device)
        return cls(*map(torch.cat, zip(*(vars(part).values() for part in parts))))

    def __len__(self) -> int:
        return len(next(iter(vars(self).values())))

    def to(self: Batch, *args: Any, **options: Any) -> Batch:
        """The codes on another device, of another type, or both; arguments are those of `torch.Tensor.to`."""
        return type(self)(*(codes.to(*args, **options) for codes in vars(self).values()))

    def __getitem__(self: Batch, videos: int | slice | Sequence[int] | torch.Tensor) -> Batch:
        """Some of the videos, by a slice or their numbers; one number gives a batch of one."""
        if isinstance(videos, int) or getattr(videos, "ndim", None) == 0:
            videos = [operator.index(videos)]
        videos = list(videos) if isinstance(videos, tuple) else videos  # tensors would index a dimension by each
        return type(self)(*(codes[videos] for codes in vars(self).values()))


@dataclasses.dataclass(frozen=True)
class RowCodes(_Batch):
    """Latent codes of a row of videos: ws [B, num_ws, w_dim], z_motion [B, motion_dim], z_bg [B, background_dim]."""

    ws: torch.Tensor
    z_motion: torch.Tensor
    z_bg: torch.Tensor


@dataclasses.dataclass(frozen=True)
class SeedLatents(_Batch):
    """The codes of B videos: z [B, z_dim], z_motion [B, motion_dim], z_bg [B, background_dim]."""

    z: torch.Tensor
    z_motion: torch.Tensor
    z_bg: torch.Tensor

    def with_styles(self, ws: torch.Tensor) -> RowCodes:
        """The codes to render, with styles ws [B, num_ws, w_dim] instead of z."""
        return RowCodes(ws, self.z_motion, self.z_bg)


def seed_latents(
    seed: int,
    motion_seed: int,
    *,
    z_dim: int = 512,
    motion_dim: int = 512,
    background_dim: int = 32,
) -> SeedLatents:
    """The latent codes of a content seed and a motion seed, one video, float32 on the CPU.

    Args:
        seed: Seed of content and background, 0 … 2³² − 1.
        motion_seed: Seed of the motion, the same range.
        z_dim, motion_dim, background_dim: The generator's sizes.

    Raises:
        ValueError: A seed out of range.
    """
    for name, value in (("seed", seed), ("motion seed", motion_seed)):
        if not 0 <= value <= MAX_SEED:
            raise ValueError(f"The {name} must lie between 0 and {MAX_SEED}, got {value}.")
    z = torch.from_numpy(np.random.RandomState(seed).randn(1, z_dim)).float()
    # PyTorch samples different numbers in each type: torch.set_default_dtype must not change what a seed shows.
    float32 = {"dtype": torch.float32, "device": "cpu"}
    generator = torch.Generator("cpu").manual_seed(seed)
    torch.randn(1, background_dim, generator=generator, **float32)  # a published code that no network reads
    z_bg = torch.randn(1, background_dim, generator=generator, **float32) * BACKGROUND_SCALE
    z_motion = torch.randn(1, motion_dim, generator=torch.Generator("cpu").manual_seed(motion_seed), **float32)
    return SeedLatents(z=z, z_motion=z_motion, z_bg=z_bg)


def generator_latents(generator: "Generator", seed: int, motion_seed: int) -> SeedLatents:
    """`seed_latents` in the sizes of a generator."""
    return seed_latents(seed, motion_seed, **{name: getattr(generator, name) for name in LATENT_SIZES})


def class_label(generator: "Generator", class_idx: int | Sequence[float] | None) -> torch.Tensor | None:
    """The label [1, c_dim] of a class (one-hot) or of c_dim numbers, on the CPU; None for a generator without labels.

    Where labels are known to be classes, the numbers are the weights of a mixture: positive or 0, with the sum 1.

    Raises:
        ValueError: It is missing, out of range, of the wrong form for the generator, or given without need.
    """
    c_dim, numeric = generator.c_dim, _examples(generator) is not None
    if c_dim == 0:
        if class_idx is not None:
            raise ValueError("this generator was trained without labels; leave the option out.")
        return None
    if isinstance(class_idx, int):
        if not numeric and 0 <= class_idx < c_dim:
            return labels_at(generator, torch.tensor([class_idx], device="cpu"))
        class_idx = [class_idx] if numeric else None
    if class_idx is not None and len(class_idx) == c_dim:
        # Without the rounding errors of the sum: three times 0.33 lies at the limit.
        mixture = min(class_idx) >= 0 and round(abs(sum(class_idx) - 1), 6) <= 0.01
        if getattr(generator, "one_hot_labels", False) and not mixture:
            raise ValueError(
                f"this generator needs the number of one class, 0 to {c_dim - 1}, or weights of all {c_dim} classes, "
                "none negative, that add up to 1."
            )
        return torch.tensor([[float(number) for number in class_idx]], dtype=torch.float32, device="cpu")
    if numeric:
        example = ",".join(f"{number:g}" for number in _examples(generator)[0, :4].tolist())
        raise ValueError(
            f"this generator needs a label of {c_dim} number{'s' * (c_dim > 1)}, as those that it was trained with: "
            f"{example}{',…' * (c_dim > 4)} for example."
        )
    other = "" if class_idx is None else f", or a label of {c_dim} numbers"
    raise ValueError(f"this generator needs the number of a class, 0 to {c_dim - 1}{other}.")


def known_labels(generator: "Generator") -> int:
    """Number of labels that `labels_at` can give: the classes, or the examples of continuous labels."""
    examples = _examples(generator)
    return generator.c_dim if examples is None else len(examples)


def labels_at(generator: "Generator", numbers: torch.Tensor) -> torch.Tensor:
    """Labels, float32 [B, c_dim], by their numbers below `known_labels`, int64 [B]; on the same device."""
    examples = _examples(generator)
    if examples is None:
        return torch.nn.functional.one_hot(numbers, generator.c_dim).float()
    return examples.to(numbers.device)[numbers]


def lacks_motion(generator: "Generator") -> bool:
    """True for a generator whose videos are the same for all motion codes."""
    return getattr(generator, "motion", True) is None  # a user's class may name it otherwise


def lacks_time(generator: "Generator") -> bool:
    """True for a generator for which nothing but the camera changes the frames of a video."""
    return not getattr(generator, "has_time", True)  # a user's class may not say


def _examples(generator: "Generator") -> torch.Tensor | None:
    return getattr(generator, "label_examples", None)  # a class of the user's may lack it
