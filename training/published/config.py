"""Configuration of published networks: their constructor arguments, translated to ours.

The original has many options; the published models leave most of them at one value. `FIXED` lists these per part. An
option with another value, or one that is unknown here, is refused by its name, because a network that ignored it would
run but differ from the trained one. An option that the stored arguments lack was left at its default, read from the
object's attribute of that name.
"""

from collections.abc import Mapping
from typing import Any

from training.published.modules import UNKNOWN, PublishedModule
from training.published.pickle_values import UnreadablePickle, printable
from training.published.tensors import TensorData

__all__ = [
    "MAX_RESOLUTION",
    "Options",
    "discriminator_config",
    "generator_config",
]


#: Bounds of integers, which no network of this kind exceeds.
MAX_RESOLUTION, MAX_WIDTH, MAX_LAYERS, MAX_SAMPLES = 4096, 16_384, 64, 1024

#: Any value is supported: it has no effect on a trained network, or follows from tensors and other options.
ANY = None
UNSET = (None, False, 0, "", "none", [], {})

_FIELD = {
    "positional_encoding": ["normal"], "use_style": ["StyleGAN2"], "activation": ["lrelu"], "predict_rgb": [True],
    "downscale_p_by": [1], "skips": [[]], "use_time": [False], "encode_time": [False], "encode_time_embed": [False],
    "norm_time": [False], "use_content": [False], "use_sdf": [False], "dynamic_blending": [None], "sdf_mode": [None],
    "skip_layer": [None], "w_dim": ANY, "n_freq_posenc": ANY, "n_freq_posenc_views": ANY, "z_dim_motion": ANY,
    "motion_hidden_size": ANY, "motion_hidden_blocks": ANY,
}  # fmt: skip

#: Part → option → supported values, the first of which is the default.
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
    """Arguments of one part, read by name. The others must have the values in `FIXED`, or be unset; see `finish`.

    Args:
        name: Their name in the original.
        given: The arguments as plain data.
        built: The object that was constructed with them.
    """

    def __init__(self, name: str, given: Any, built: PublishedModule | None):
        self.name, self.built = name, built
        self.given: Mapping[str, Any] = given if type(given) is dict else {}
        self.used: set[str] = set()

    def get(self, name: str, *default: Any) -> Any:
        """The value of an option; without a default it is required."""
        self.used.add(name)
        value = self.given.get(name, UNKNOWN)
        if value is UNKNOWN and self.built is not None:
            value = self.built.attribute(name)
        if value is UNKNOWN and not default:
            raise UnreadablePickle(f"does not say what the option {self.name}.{name} was.")
        return default[0] if value is UNKNOWN else value

    def refusal(self, name: str, value: Any) -> UnreadablePickle:
        """The error for an unsupported value."""
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
        """The nested options of one part."""
        self.used.add(name)
        return Options(name, self.given.get(name), built)

    def finish(self) -> None:
        """Check all options that were not read."""
        fixed = FIXED.get(self.name, {})
        for name, values in fixed.items():
            if values is not ANY and name not in self.used:
                self.choice(name, values, values[0])
        for name in sorted(self.given.keys() - self.used - fixed.keys()):
            if self.given[name] not in UNSET:
                raise self.refusal(name, self.given[name])


# ----------------------------------------------------------------------------------------------------------------------
# Configurations of the networks


Tensors = Mapping[str, TensorData]

#: Foreground samples per ray of the original while its blending parameter has its initial value.
UNTRAINED_ALPHA, UNTRAINED_SAMPLES = -1, 20


def generator_config(generator: PublishedModule, tensors: Tensors) -> dict[str, Any]:
    """Arguments of `training.networks.generator.Generator`.

    Args:
        generator: The published 'G' or 'G_ema'.
        tensors: Its tensors.

    Raises:
        UnreadablePickle: An option is missing or has no counterpart; the message names it.
    """
    mapping = _need(generator, "mapping")
    synthesis = _need(generator, "synthesis")
    options = Options("G_kwargs", generator.arguments(), generator)
    config = {
        "resolution": options.integer("img_resolution", 8, MAX_RESOLUTION),
        "c_dim": options.integer("c_dim", 0, MAX_WIDTH),
        "z_dim": options.integer("z_dim", 1, MAX_WIDTH),
        "w_dim": options.integer("w_dim", 1, MAX_WIDTH),
        "mapping": _mapping(options.part("mapping_kwargs", mapping), mapping),
    }
    config |= _synthesis(options.part("synthesis_kwargs", synthesis), synthesis, tensors, config["resolution"])
    options.finish()
    return config


def _need(parent: PublishedModule, name: str) -> PublishedModule:
    child = parent.child(name)
    if child is None:
        raise UnreadablePickle(f"has no network '{parent.path}.{name}'; it is not a published checkpoint.")
    return child


def _mapping(options: Options, mapping: PublishedModule) -> dict[str, Any]:
    first = mapping.child("fc0")
    multiplier = 0.01 if first is None else first.arguments().get("lr_multiplier", 0.01)
    config = {
        "num_layers": options.integer("num_layers", 1, MAX_LAYERS),
        "lr_multiplier": options.number("lr_multiplier", 1e-6, 1e6, multiplier),
        "w_avg_beta": options.number("w_avg_beta", 0, 1),
    }
    options.finish()
    return config


def _synthesis(options: Options, synthesis: PublishedModule, tensors: Tensors, resolution: int) -> dict[str, Any]:
    foreground, background = _need(synthesis, "fg_nerf"), synthesis.child("bg_nerf")
    feature_dim = options.integer("rgb_out_dim", 1, MAX_WIDTH)
    options.choice("rgb_out_dim_bg", [feature_dim], feature_dim)
    background_dim = options.integer("z_dim_bg", 0, MAX_WIDTH)
    volume = options.integer("resolution_vol", 1, MAX_RESOLUTION)
    renderer = options.part("renderer_kwargs", synthesis.member("V"))
    camera, depths = _camera(options.part("camera_kwargs", synthesis.member("C")))
    renderer.choice("no_background", [background is None], background is None)
    config = _foreground(options.part("foreground_kwargs", foreground), foreground, tensors, feature_dim)
    background_options = options.part("background_kwargs", background)
    config["background"] = background and _background(
        background_options, background, tensors, feature_dim, background_dim
    )
    config |= {
        "background_dim": background_dim,
        "upsampler": _upsampler(options, synthesis, resolution, volume),
        "camera": camera,
        "rendering": {
            "resolution": volume,
            "path_lattice": options.integer("n_reg_samples", 1, MAX_RESOLUTION),
            **_samples(renderer, tensors),
            **depths,
        },
    }
    options.finish()
    return config


def _camera(options: Options) -> tuple[dict[str, Any], dict[str, float]]:
    """Distribution of the cameras, and ranges of depth."""
    near, far = options.interval("depth_range", 1e-6, 1e6)
    depths = {"near": near, "far": far, "background_start": options.number("bg_start", 1e-6, 1)}
    camera = {
        "fov": options.number("fov", 1e-3, 179),
        "yaw": options.interval("range_u", -100, 100),
        "pitch": options.interval("range_v", -100, 100),
        "radius": options.interval("range_radius", 1e-3, 1e3),
        "distribution": "gaussian" if options.flag("gaussian_camera") else "uniform",
    }
    options.finish()
    return camera, depths


def _samples(options: Options, tensors: Tensors) -> dict[str, int]:
    samples = options.integer("n_ray_samples", 3, MAX_SAMPLES)
    alpha = tensors.get("synthesis.alpha")
    if alpha is not None and alpha.shape == () and alpha.read().item() == UNTRAINED_ALPHA:
        samples = UNTRAINED_SAMPLES
    counts = {
        "num_samples": samples,
        "num_importance": samples if options.flag("hierarchical") else 0,
        "num_background": options.integer("n_bg_samples", 2, MAX_SAMPLES),
    }
    options.finish()
    return counts


def _foreground(options: Options, field: PublishedModule, tensors: Tensors, feature_dim: int) -> dict[str, Any]:
    """The arguments foreground, motion and motion_dim."""
    config: dict[str, Any] = {
        "width": options.integer("hidden_size", 1, MAX_WIDTH),
        "num_layers": _layers(options, field),
        "position_frequencies": _frequencies(tensors, "synthesis.fg_nerf.fc_in.weight", 3),
        "feature_dim": feature_dim,
        "view_directions": options.flag("use_viewdirs"),
    }
    if config["view_directions"]:
        config["direction_frequencies"] = _frequencies(tensors, "synthesis.fg_nerf.from_ray.weight", 3)
    options.choice("rgb_out_dim", [feature_dim], feature_dim)
    parts = {"foreground": config, "motion": None}
    if options.choice("motion_gen", ["embed", "none", None], None) == "embed":
        motion = _need(field, "motion_generator")
        layers = _need(motion, "motion_mlp").number_of_children()
        parts["motion_dim"] = options.integer("z_dim_motion", 1, MAX_WIDTH)
        parts["motion"] = {
            "width": options.integer("motion_hidden_size", 1, MAX_WIDTH),
            "hidden_blocks": options.integer("motion_hidden_blocks", 0, MAX_LAYERS, layers - 1),
        }
    options.finish()
    return parts


def _background(
    options: Options, field: PublishedModule, tensors: Tensors, feature_dim: int, code_dim: int
) -> dict[str, Any]:
    config = {
        "width": options.integer("hidden_size", 1, MAX_WIDTH),
        "num_layers": _layers(options, field),
        "position_frequencies": _frequencies(tensors, "synthesis.bg_nerf.fc_in.weight", 4, code_dim),
    }
    options.choice("rgb_out_dim", [feature_dim], feature_dim)
    options.choice("z_dim", [code_dim], code_dim)
    options.finish()
    return config


def _layers(options: Options, field: PublishedModule) -> int:
    """Number of layers of a field: the first one and its blocks."""
    blocks = field.child("blocks")
    count = 1 if blocks is None else 1 + blocks.number_of_children()
    options.choice("n_blocks", [count], count)
    return options.integer("n_blocks", 2, MAX_LAYERS, count)


def _frequencies(tensors: Tensors, name: str, coordinates: int, others: int = 0) -> int:
    """Octaves of a layer's positional encoding, from its 2 · octaves · coordinates + others inputs."""
    if name not in tensors:
        raise UnreadablePickle(f"does not fit the generator that it describes: {name} is missing.")
    shape = tensors[name].shape
    octaves, rest = divmod(shape[1] - others, 2 * coordinates) if len(shape) > 1 else (0, 1)
    if rest or not 0 < octaves <= 32:
        raise UnreadablePickle(f"does not fit the generator that it describes: {name} is {list(shape)}.")
    return octaves


def _upsampler(synthesis: Options, module: PublishedModule, resolution: int, volume: int) -> dict[str, Any]:
    options = synthesis.part("upsampler_kwargs", module.member("U"))
    channel_base = synthesis.number("channel_base", 1e-4, 1e4, 1)
    channel_max = synthesis.integer("channel_max", 1, MAX_WIDTH, 512)
    config = {
        "mode": synthesis.choice("upsample_mode", ["nn_cat", "pixelshuffle"]),
        "channel_base": options.number("channel_base", 1e-4, 1e4, channel_base),
        "channel_max": options.integer("channel_max", 1, MAX_WIDTH, channel_max),
        "conv_clamp": synthesis.clamp("conv_clamp"),
        "magnitude_beta": synthesis.number("magnitude_ema_beta", 0, 1),
    }
    options.choice("in_res", [volume], volume)
    options.choice("out_res", [resolution], resolution)
    options.finish()
    return config


def discriminator_config(discriminator: PublishedModule) -> dict[str, Any]:
    """Arguments of `training.networks.discriminator.TimeAwareDiscriminators` for the published 'D'.

    Raises:
        UnreadablePickle: An option is missing or has no counterpart; the message names it.
    """
    video = _need(discriminator, "videoD")
    statistics = _need(video, "b4").child("mbstd")
    options = Options("D_kwargs", discriminator.arguments(), video)
    epilogue = options.part("epilogue_kwargs", statistics)
    labels = options.part("mapping_kwargs", video.child("mapping"))
    group = UNKNOWN if statistics is None else statistics.attribute("group_size")
    config = {
        "resolution": options.integer("img_resolution", 8, MAX_RESOLUTION),
        "c_dim": options.integer("c_dim", 0, MAX_WIDTH),
        "channel_base": options.number("channel_base", 1e-4, 1e4, 1),
        "channel_max": options.integer("channel_max", 1, MAX_WIDTH, 512),
        "conv_clamp": options.clamp("conv_clamp"),
        "mbstd_group": epilogue.integer("mbstd_group_size", 1, MAX_SAMPLES, *([] if group is UNKNOWN else [group])),
        "image": discriminator.child("imageD") is not None,
        "fp16_resolutions": options.integer("num_fp16_res", 0, MAX_LAYERS, 4),
        "mapping_layers": labels.integer("num_layers", 1, MAX_LAYERS, 8),
    }
    for part in (epilogue, labels, options):
        part.finish()
    return config
