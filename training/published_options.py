"""Reading the constructor arguments of published networks: what was set, what must have one value, what is refused.

The original has many options; the published models leave most of them at one value. `FIXED` lists these per part: an
option with another value is refused by its name, and so is one that nothing here knows, because a network that ignored
it would run and show something else than it was trained for.

An option that the stored arguments do not mention was left at its default; then the attribute of that name, which the
original kept on the object, tells its value.
"""

from collections.abc import Mapping
from typing import Any

from training.pickle_values import UnreadablePickle, printable
from training.published_tree import UNKNOWN, PublishedModule

__all__ = ["MAX_LAYERS", "MAX_RESOLUTION", "MAX_SAMPLES", "MAX_WIDTH", "Options"]

#: Bounds of whole numbers: what no network of this kind exceeds.
MAX_RESOLUTION, MAX_WIDTH, MAX_LAYERS, MAX_SAMPLES = 4096, 16_384, 64, 1024

#: May have any value: without effect on what a trained network computes, or told by tensors and other options as well.
ANY = None
UNSET = (None, False, 0, "", "none", [], {})

_FIELD = {
    "positional_encoding": ["normal"], "use_style": ["StyleGAN2"], "activation": ["lrelu"], "predict_rgb": [True],
    "downscale_p_by": [1], "skips": [[]], "use_time": [False], "encode_time": [False], "encode_time_embed": [False],
    "norm_time": [False], "use_content": [False], "use_sdf": [False], "dynamic_blending": [None], "sdf_mode": [None],
    "skip_layer": [None], "w_dim": ANY, "n_freq_posenc": ANY, "n_freq_posenc_views": ANY, "z_dim_motion": ANY,
    "motion_hidden_size": ANY, "motion_hidden_blocks": ANY,
}  # fmt: skip

#: Part → option → the values that are supported, the first being what a missing option means.
FIXED: dict[str, dict[str, list | None]] = {
    "G_kwargs": {"class_name": ANY, "img_channels": [3], "encoder": [None]},
    "mapping_kwargs": {"activation": ["lrelu"], "embed_features": [None], "layer_features": [None]},
    "synthesis_kwargs": {
        "z_dim": [0, None], "z_dim_static": [None, 0], "architecture": ["skip"], "activation": ["lrelu"],
        "kernel_size": [1], "reg_full": [True], "margin": [0], "use_noise": [False], "progressive": [False],
        "predict_camera": [False], "foreground_static_kwargs": [None], "bg_loss_type": [None],
        "rectangular_crop": [None], "module_name": ANY, "no_bbox": ANY,
        "num_fp16_res": ANY,  # precision on GPUs is this program's own choice
        "resolution_start": ANY,  # of progressive growing
    },
    "camera_kwargs": {
        "angular_camera": [True], "depth_transform": [None], "dists_normalized": [False], "ray_align_corner": [False],
    },
    "renderer_kwargs": {"abs_sigma": [False]},
    "foreground_kwargs": _FIELD | {"z_dim": [0, None], "inverse_sphere": [False, None]},
    "background_kwargs": _FIELD | {
        "inverse_sphere": [True], "use_viewdirs": [False], "motion_gen": ["none", None],
    },
    "upsampler_kwargs": {
        "img_channels": [3], "upsample_type": ["bilinear"], "block_reses": [None], "no_2d_renderer": [False],
        "no_residual_img": [False], "shared_rgb_style": [False],
    },
    "D_kwargs": {
        "class_name": ANY, "architecture": ["skip"], "upsample_type": ["bilinear"], "progressive": [False],
        "dual_discriminator": [False], "dual_input_ratio": [None], "enable_ema": [False], "predict_camera": [False],
        "predict_9d_camera": [False], "predict_3d_camera": [False], "separate_camera": [False],
        "img_channels": ANY,  # of one frame
        "lowres_head": ANY, "resize_real_early": ANY,  # of progressive growing
    },
    "epilogue_kwargs": {"mbstd_num_channels": [1]},
}  # fmt: skip


class Options:
    """Arguments of one part. Whatever is not asked for before `finish` must be as `FIXED` says, or unset.

    Args:
        name: What the original calls them.
        given: The arguments, plain.
        built: The object that was made with them.
    """

    def __init__(self, name: str, given: Any, built: PublishedModule | None):
        self.name, self.built = name, built
        self.given: Mapping[str, Any] = given if type(given) is dict else {}
        self.used: set[str] = set()

    def get(self, name: str, *default: Any) -> Any:
        """The value of an option; without a default it must be there."""
        self.used.add(name)
        value = self.given.get(name, UNKNOWN)
        if value is UNKNOWN and self.built is not None:
            value = self.built.attribute(name)
        if value is UNKNOWN and not default:
            raise UnreadablePickle(f"does not say what the option {self.name}.{name} was.")
        return default[0] if value is UNKNOWN else value

    def refusal(self, name: str, value: Any) -> UnreadablePickle:
        simple = value is None or type(value) in (bool, int, float, str)
        shown = printable(repr(value), 40) if simple else f"a {type(value).__name__}"
        return UnreadablePickle(
            f"was made with the option {self.name}.{printable(name)} = {shown}, which this program does not support."
        )

    def choice(self, name: str, values: list, *default: Any) -> Any:
        value = self.get(name, *default)
        if not any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in values):
            raise self.refusal(name, value)
        return value

    def flag(self, name: str, *default: bool) -> bool:
        return self.choice(name, [False, True], *default)

    def integer(self, name: str, low: int, high: int, *default: Any) -> int:
        value = self.get(name, *default)
        if type(value) is not int or not low <= value <= high:
            raise self.refusal(name, value)
        return value

    def number(self, name: str, low: float, high: float, *default: Any) -> float:
        value = self.get(name, *default)
        if type(value) not in (int, float) or not low <= value <= high:
            raise self.refusal(name, value)
        return float(value)

    def clamp(self, name: str) -> float | None:
        return None if self.get(name) is None else self.number(name, 1e-6, 1e6)

    def interval(self, name: str, low: float, high: float) -> list[float]:
        value = self.get(name)
        numbers = type(value) is list and len(value) == 2 and all(type(x) in (int, float) for x in value)
        if not numbers or not low <= value[0] <= value[1] <= high:
            raise self.refusal(name, value)
        return [float(x) for x in value]

    def part(self, name: str, built: PublishedModule | None) -> "Options":
        """Options that are the value of one of these."""
        self.used.add(name)
        return Options(name, self.given.get(name), built)

    def finish(self) -> None:
        """Check all the others."""
        fixed = FIXED.get(self.name, {})
        for name, values in fixed.items():
            if values is not ANY and name not in self.used:
                self.choice(name, values, values[0])
        for name in sorted(self.given.keys() - self.used - fixed.keys()):
            if self.given[name] not in UNSET:
                raise self.refusal(name, self.given[name])
