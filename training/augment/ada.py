"""Adaptive discriminator augmentation of videos (ADA, Karras et al. 2020).

From "Training Generative Adversarial Networks with Limited Data": the pipeline of appendix B, and the feedback loop of
section 3 that adapts its strength p. Each operation is applied to a video with probability multiplier · p. All frames
of a video share its parameters, noise and the position of the cutout included, so that augmentation cannot be mistaken
for motion.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from dnnlib import choices_hint
from torch_utils import distributed
from torch_utils.argument_checks import check_images, check_number, check_stream, is_list, shown
from torch_utils.caller_settings import full_float32, without_autocast
from torch_utils.training_stats import Statistics
from training.augment import ada_transforms as transforms

if TYPE_CHECKING:
    from torch_utils.rng import RandomStream

__all__ = ["AdaAugment", "AdaController", "AdaFeedback", "OPERATIONS", "PIPELINES"]

# Groups of operations. Pipelines consist of them: another entry would change the runs that use these pipelines.
BLIT = ("xflip", "rotate90", "xint")
GEOMETRY = ("scale", "rotate", "aniso", "xfrac")
COLOR = ("brightness", "contrast", "lumaflip", "hue", "saturation")
OPERATIONS = (*BLIT, *GEOMETRY, *COLOR, "imgfilter", "noise", "cutout")

PIPELINES = {
    "blit": BLIT,
    "geom": GEOMETRY,
    "color": COLOR,
    "filter": ("imgfilter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
    "bg": BLIT + GEOMETRY,
    "bgc": BLIT + GEOMETRY + COLOR,
    "bgcf": BLIT + GEOMETRY + COLOR + ("imgfilter",),
    "bgcfn": BLIT + GEOMETRY + COLOR + ("imgfilter", "noise"),
    "bgcfnc": BLIT + GEOMETRY + COLOR + ("imgfilter", "noise", "cutout"),
    "bgc0": ("xint", "scale", "aniso", "xfrac") + COLOR,  # nothing that turns an image upside down or mirrors it
}

#: Arguments of `AdaAugment` that are numbers.
ADJUSTABLE = (
    "xint_max", "scale_std", "rotate_max", "aniso_std", "xfrac_std", "brightness_std", "contrast_std", "hue_max",
    "saturation_std", "imgfilter_std", "noise_std", "cutout_size",
)  # fmt: skip


class AdaAugment(nn.Module):
    """The augmentation pipeline of ADA. The buffer `p` is the overall probability; at 0 frames pass unchanged.

    It is 0 at first, and training adapts it (`AdaFeedback`); `augment.p.fill_(0.2)` sets it for any other use.

    Args:
        pipeline: Key of `PIPELINES`, or a mapping from names of operations to multipliers of p.
        xint_max: Largest integer shift, as a fraction of the image size.
        scale_std: Standard deviation of log2 of the scale.
        rotate_max: Largest rotation, as a fraction of a half turn.
        aniso_std: Standard deviation of log2 of the square root of the aspect ratio.
        xfrac_std: Standard deviation of the subpixel shift, as a fraction of the image size.
        brightness_std: Standard deviation of the added brightness.
        contrast_std: Standard deviation of log2 of the contrast.
        hue_max: Largest rotation of the hue, as a fraction of a half turn.
        saturation_std: Standard deviation of log2 of the saturation.
        imgfilter_bands: Multipliers of the probability for each of the 4 frequency bands.
        imgfilter_std: Standard deviation of log2 of a band's gain.
        noise_std: Standard deviation of the noise's standard deviation.
        cutout_size: Edge of the rectangle that is set to zero, as a fraction of the image size.

    Raises:
        ValueError: unknown pipeline or operation, or a value that is not a number.
    """

    p: torch.Tensor

    def __init__(
        self,
        *,
        pipeline: str | Mapping[str, float] = "bgc",
        xint_max: float = 0.125,
        scale_std: float = 0.2,
        rotate_max: float = 1.0,
        aniso_std: float = 0.2,
        xfrac_std: float = 0.125,
        brightness_std: float = 0.2,
        contrast_std: float = 0.5,
        hue_max: float = 1.0,
        saturation_std: float = 1.0,
        imgfilter_bands: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        imgfilter_std: float = 1.0,
        noise_std: float = 0.1,
        cutout_size: float = 0.5,
    ):
        super().__init__()
        if isinstance(pipeline, str):
            if pipeline not in PIPELINES:
                raise ValueError(f"unknown augmentation pipeline {pipeline!r}; {choices_hint(pipeline, PIPELINES)}")
            self.multipliers = dict.fromkeys(PIPELINES[pipeline], 1.0)
        else:
            if not isinstance(pipeline, Mapping):
                raise ValueError(f"pipeline must be a name, or multipliers by operation, got {shown(pipeline)}")
            for name in pipeline:
                if name not in OPERATIONS:
                    raise ValueError(f"unknown augmentation {name!r}; {choices_hint(name, OPERATIONS)}")
                check_number(f"pipeline[{name!r}]", pipeline[name])
            self.multipliers = {name: float(value) for name, value in pipeline.items() if value > 0}
        if not is_list(imgfilter_bands) or len(imgfilter_bands) != len(transforms.BAND_POWER):
            raise ValueError(
                f"imgfilter_bands needs {len(transforms.BAND_POWER)} numbers, not {shown(imgfilter_bands)}"
            )
        self.pipeline = pipeline if isinstance(pipeline, str) else dict(pipeline)
        self.xint_max = xint_max
        self.scale_std = scale_std
        self.rotate_max = rotate_max
        self.aniso_std = aniso_std
        self.xfrac_std = xfrac_std
        self.brightness_std = brightness_std
        self.contrast_std = contrast_std
        self.hue_max = hue_max
        self.saturation_std = saturation_std
        self.imgfilter_bands = list(imgfilter_bands)
        self.imgfilter_std = imgfilter_std
        self.noise_std = noise_std
        self.cutout_size = cutout_size
        for name in ADJUSTABLE:
            check_number(name, getattr(self, name))
        for band, strength in enumerate(self.imgfilter_bands):
            check_number(f"imgfilter_bands[{band}]", strength)
        self.register_buffer("p", torch.zeros([]))
        self.register_buffer("wavelet", transforms.wavelet_filter(), persistent=False)
        self.register_buffer("bank", transforms.filter_bank(), persistent=False)

    @property
    def config(self) -> dict:
        """The constructor's arguments: `AdaAugment(**config)` is the same pipeline."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @property
    def smallest_size(self) -> int:
        """Smallest width of the frames in pixels: only the band filter, which mirrors the borders, has a limit."""
        return transforms.smallest_filtered(self.bank) if "imgfilter" in self.multipliers else 1

    @without_autocast()
    @full_float32()  # of coordinates and colours: 11 bits would misplace pixels at 256² by up to a tenth of one
    def forward(self, frames: torch.Tensor, stream: "RandomStream", *, prefix: str = "") -> torch.Tensor:
        """Augment videos.

        Args:
            frames: [B, T, 3, H, W], floats, nominally in [-1, 1], the range that colour transforms and noise assume.
            stream: Source of random numbers (`torch_utils.rng.RandomStream`). For an operation X, "ada/X" is its
                parameter, and "ada/X_coin" decides whether it is applied.
            prefix: Prefix of these names, to distinguish several uses.

        Returns:
            [B, T, 3, H, W].

        Raises:
            ValueError: wrong shape or type, no stream, or p is nan or infinite.
        """
        check_images("AdaAugment: frames", frames, "[B, T, 3, H, W]", ndim=5, channels=3)
        check_stream(stream)  # even while p = 0 and nothing is sampled: p rises later
        p = float(self.p)  # may exceed 1, see `AdaController`
        check_number("AdaAugment: p", p)
        if p <= 0 or not self.multipliers:
            return frames
        draw = _Draws(stream, batch=frames.shape[0], multipliers=self.multipliers, p=p, prefix=f"{prefix}ada/")

        # Geometry: one resampling by the product of all transforms.
        transform = self._geometry(draw, *frames.shape[3:])
        if transform is not None:
            images = transforms.warp_affine(frames.flatten(1, 2), transform.to(frames.device), self.wavelet)
            frames = images.reshape(frames.shape)
        # Colours: one matrix, the product of all transforms.
        transform = self._color(draw)
        if transform is not None:
            frames = transforms.recolor(frames, transform.to(frames.device))
        # Amplified or weakened frequency bands.
        if "imgfilter" in draw:
            frames = transforms.filter_bands(frames, self._band_gains(draw).to(frames.device), self.bank)
        # Corruptions: the same noise on all frames, and cutout.
        if "noise" in draw:
            sigma = draw.apply("noise", draw.normal("noise").abs() * self.noise_std, neutral=0)
            noise = stream.normal(f"{prefix}ada/noise_image", [frames.shape[0], 1, *frames.shape[2:]])
            frames = frames + (noise * sigma[:, None, None, None, None]).to(frames.device, frames.dtype)
        if "cutout" in draw:
            centre = draw.uniform("cutout", 2)
            size = draw.apply("cutout", torch.full_like(centre[:, 0], self.cutout_size), neutral=0)
            frames = transforms.cutout(frames, centre.to(frames.device), size.to(frames.device))
        assert draw.asked_for.issuperset(self.multipliers), "an operation of OPERATIONS is not applied above"
        return frames

    def _geometry(self, draw: "_Draws", height: int, width: int) -> torch.Tensor | None:
        """Product of the inverse transforms [B, 3, 3]; None if no geometric operation is in the pipeline."""
        # Pixel blitting.
        matrices = []
        if "xflip" in draw:
            flip = draw.apply("xflip", (draw.uniform("xflip") * 2).floor(), neutral=0)
            matrices.append(transforms.scale2d(1 - 2 * flip, torch.ones_like(flip)))
        if "rotate90" in draw:
            turns = draw.apply("rotate90", (draw.uniform("rotate90") * 4).floor(), neutral=0)
            matrices.append(transforms.rotate2d(turns * (math.pi / 2)))
        if "xint" in draw:
            shift = draw.apply("xint", (draw.uniform("xint", 2) * 2 - 1) * self.xint_max, neutral=0)
            matrices.append(transforms.translate2d(-(shift[:, 0] * width).round(), -(shift[:, 1] * height).round()))
        # General geometric transforms.
        if "scale" in draw:
            scale = draw.apply("scale", (draw.normal("scale") * self.scale_std).exp2(), neutral=1)
            matrices.append(transforms.scale2d(1 / scale, 1 / scale))
        # Two rotations, before and after the anisotropic scaling. Their probability is such that at least one of them
        # is applied with the operation's probability.
        if "rotate" in draw:
            matrices.append(self._rotation(draw, "rotate_before"))
        if "aniso" in draw:
            stretch = draw.apply("aniso", (draw.normal("aniso") * self.aniso_std).exp2(), neutral=1)
            matrices.append(transforms.scale2d(1 / stretch, stretch))
        if "rotate" in draw:
            matrices.append(self._rotation(draw, "rotate_after"))
        if "xfrac" in draw:
            shift = draw.apply("xfrac", draw.normal("xfrac", 2) * self.xfrac_std, neutral=0)
            matrices.append(transforms.translate2d(-shift[:, 0] * width, -shift[:, 1] * height))
        return _product(matrices)

    def _rotation(self, draw: "_Draws", name: str) -> torch.Tensor:
        angle = (draw.uniform(name) * 2 - 1) * (math.pi * self.rotate_max)
        probability = 1 - math.sqrt(1 - min(draw.probability("rotate"), 1))
        return transforms.rotate2d(draw.apply(name, angle, neutral=0, probability=probability))

    def _color(self, draw: "_Draws") -> torch.Tensor | None:
        """Product of the colour transforms [B, 4, 4]; None if no colour operation is in the pipeline."""
        matrices = []  # in the order of their application
        if "brightness" in draw:
            offset = draw.apply("brightness", draw.normal("brightness") * self.brightness_std, neutral=0)
            matrices.append(transforms.shift_color(offset))
        if "contrast" in draw:
            factor = draw.apply("contrast", (draw.normal("contrast") * self.contrast_std).exp2(), neutral=1)
            matrices.append(transforms.gray_scaling(factor))
        if "lumaflip" in draw:
            flip = draw.apply("lumaflip", (draw.uniform("lumaflip") * 2).floor(), neutral=0)
            matrices.append(transforms.luma_flip(flip))
        if "hue" in draw:
            angle = draw.apply("hue", (draw.uniform("hue") * 2 - 1) * (math.pi * self.hue_max), neutral=0)
            matrices.append(transforms.hue_rotation(angle))
        if "saturation" in draw:
            factor = draw.apply("saturation", (draw.normal("saturation") * self.saturation_std).exp2(), neutral=1)
            matrices.append(transforms.luma_saturation(factor))
        return _product(matrices[::-1])

    def _band_gains(self, draw: "_Draws") -> torch.Tensor:
        """Gains [B, bands]: bands are amplified one after another, each time normalised to the same expected power."""
        total = 1
        for band, strength in enumerate(self.imgfilter_bands):
            name = f"imgfilter{band}"
            gain = (draw.normal(name) * self.imgfilter_std).exp2()
            gain = draw.apply(name, gain, neutral=1, probability=draw.probability("imgfilter") * strength)
            power = transforms.constant(transforms.BAND_POWER, gain)
            gains = gain.new_ones(len(gain), len(power))
            gains[:, band] = gain
            total = total * gains / (power * gains.square()).sum(1, keepdim=True).sqrt()
        return total


def _product(matrices):
    """Matrix product of a list, None for an empty one."""
    if not matrices:
        return None
    product = matrices[0]
    for matrix in matrices[1:]:
        product = product @ matrix
    return product


class _Draws:
    """Random parameters of the operations in one pass, one set per video."""

    def __init__(self, stream: "RandomStream", *, batch: int, multipliers: Mapping[str, float], p: float, prefix: str):
        self.stream = stream
        self.batch = batch
        self.multipliers = multipliers
        self.p = p
        self.prefix = prefix
        self.asked_for: set[str] = set()  # operations that the pipeline knows how to apply

    def __contains__(self, operation: str) -> bool:
        self.asked_for.add(operation)
        return operation in self.multipliers

    def probability(self, operation: str) -> float:
        return self.multipliers[operation] * self.p

    def uniform(self, name: str, *shape: int) -> torch.Tensor:
        """U[0, 1), [B, *shape]."""
        return self.stream.uniform(self.prefix + name, [self.batch, *shape])

    def normal(self, name: str, *shape: int) -> torch.Tensor:
        """N(0, 1), [B, *shape]."""
        return self.stream.normal(self.prefix + name, [self.batch, *shape])

    def apply(self, name: str, value: torch.Tensor, *, neutral: float, probability: float | None = None):
        """`value` [B, ...] with a probability (None: the operation's), `neutral` otherwise."""
        probability = self.probability(name) if probability is None else probability
        coin = self.stream.uniform(f"{self.prefix}{name}_coin", [self.batch] + [1] * (value.ndim - 1))
        return torch.where(coin < probability, value, neutral)


class AdaController:
    """Controller of p by the overfitting heuristic r_t = E[sign D(real)] (ADA, section 3).

    Args:
        p: Initial probability.
        target: Target of r_t.
        kimg: Thousands of real videos in which p can change by one.

    Raises:
        ValueError: negative p, kimg that is not positive, or a value that is not a number.
    """

    def __init__(self, *, p: float = 0.0, target: float = 0.6, kimg: float = 500.0):
        for name, value in (("p", p), ("target", target), ("kimg", kimg)):
            check_number(name, value)
        if p < 0 or kimg <= 0:
            raise ValueError(f"AdaController: p must be at least 0 and kimg positive, not {p} and {kimg}")
        self.p = float(p)
        self.target = float(target)
        self.kimg = float(kimg)

    def update(self, sign_mean: float, images_since_last: int) -> float:
        """Move p by a step in proportion to the real videos seen since the last update; return the new p.

        A mean that is not a number (there were no logits) leaves p unchanged.
        """
        if not math.isnan(sign_mean):
            direction = (sign_mean > self.target) - (sign_mean < self.target)
            self.p = max(self.p + direction * images_since_last / (self.kimg * 1000), 0.0)
        return self.p

    def state_dict(self) -> dict:
        return {"p": self.p}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.p = float(state["p"])


# ----------------------------------------------------------------------------------------------------------------------
# Feedback loop: the signs of the logits of real videos set the pipeline's p.

INTERVAL = 4  # iterations between adjustments (Karras et al. 2020, "Limited Data", section 3)
SIGNS = "Loss/signs/real"


class AdaFeedback:
    """Feedback from the discriminator to the augmentation: collects the signs of D(real) and adapts p.

    It receives the loss's reports and passes them on to the statistics. The host waits for the device only when p is
    adjusted, every `INTERVAL` iterations.

    Args:
        augment: The pipeline whose p is set.
        controller: The rule by which p changes.
        statistics: Receives all reports.
    """

    def __init__(
        self,
        *,
        augment: AdaAugment,
        controller: AdaController,
        statistics: Statistics,
        device: torch.device | str,
    ):
        self.augment = augment
        self.controller = controller
        self.statistics = statistics
        self._signs = torch.zeros(2, dtype=torch.float64, device=device)  # sum and number since the last adjustment
        self.augment.p.fill_(controller.p)

    @torch.no_grad()
    def report(self, name: str, value: torch.Tensor) -> None:
        """Report a statistic, as `Statistics.report`."""
        if name == SIGNS:
            self._signs[0] += value.sum()
            self._signs[1] += value.numel()
        self.statistics.report(name, value)

    def update(self, *, iteration: int, batch: int) -> None:
        """Adjust p every `INTERVAL` iterations; called after each iteration.

        Args:
            iteration: Number of iterations so far.
            batch: Videos per iteration, over all processes.
        """
        if iteration % INTERVAL:
            return
        total, count = distributed.all_reduce_sum(self._signs).tolist()
        self._signs.zero_()
        mean = total / count if count else float("nan")
        self.augment.p.fill_(self.controller.update(mean, batch * INTERVAL))

    def state_dict(self) -> dict:
        return {"controller": self.controller.state_dict(), "signs": self._signs}

    def load_state_dict(self, state: dict) -> None:
        self.load_state_dicts([state])

    def load_state_dicts(self, states: list[dict], *, main: bool = True) -> None:
        """Resume from any number of processes; the signs that they have accumulated go to the main process."""
        self.controller.load_state_dict(states[0]["controller"])  # the same on all processes
        self._signs.zero_()
        for state in states if main else []:
            self._signs += state["signs"].to(self._signs.device)
