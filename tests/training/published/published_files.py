"""Published checkpoints for tests: the real structures filled by the recipe, and small ones written here.

The writer below turns descriptions of objects into pickles without any of their classes, so that a test can write
whatever a file might hold, malicious calls included.
"""

import dataclasses
import lzma
import math
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.goldens.networks import SMALL
from tests.goldens.recipe import value
from tests.goldens.reference import Spec, discriminator_shapes, generator_shapes
from training.published.modules import PublishedModule
from training.published.pickle_values import Budget
from training.published.safe_unpickler import read_pickle
from training.published.tensors import allowed_globals

DATA = Path(__file__).parents[2] / "data"
NETWORKS = ("G", "D", "G_ema")
FILTER = (np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64).astype(np.float32)


# ----------------------------------------------------------------------------------------------------------------------
# The real structures


def structure(config: str) -> bytearray:
    """A published file as it is, all tensors zero."""
    return bytearray(lzma.decompress((DATA / f"published_{config}.pkl.xz").read_bytes()))


def parse(data) -> dict:
    view = memoryview(data)
    budget = Budget(nested=len(view))
    return read_pickle(view, allowed=allowed_globals(budget), budget=budget)[0]


def fill(data: bytearray, *networks: str, scale: dict[str, float] | None = None) -> None:
    """Write the recipe's values into the tensors of networks (all of them, unless named), in place.

    Args:
        scale: Network → factor, so that two networks differ.
    """
    tree = parse(data)
    for network in networks or NETWORKS:
        for name, tensor in PublishedModule(tree[network], network).tensors().items():
            array = value(name, tensor.shape)
            array = FILTER if array is None else array * np.float32((scale or {}).get(network, 1))
            assert tensor.offset == 0 and array.shape == tensor.shape
            tensor.storage.data[:] = array.tobytes()


# ----------------------------------------------------------------------------------------------------------------------
# Writing pickles


@dataclasses.dataclass(frozen=True)
class Name:
    """A global."""

    module: str
    name: str


@dataclasses.dataclass
class Call:
    """A global called with arguments; `state`, if there is one, is set on the result."""

    function: Name
    arguments: tuple = ()
    state: Any = None
    new: bool = False  # by NEWOBJ instead of REDUCE


@dataclasses.dataclass
class Persistent:
    """A persistent id."""

    identity: Any


def dumps(obj: Any, protocol: int = 3) -> bytes:
    """A pickle of plain data and of the descriptions above; what occurs twice is written once, as pickle does."""
    return pickle.PROTO + bytes([protocol]) + b"".join(_Writer().write(obj)) + pickle.STOP


class _Writer:
    def __init__(self):
        self.memo: dict[Any, int] = {}

    def write(self, obj: Any) -> Iterator[bytes]:
        key = obj if type(obj) in (str, Name) else id(obj)
        if key in self.memo:
            yield pickle.LONG_BINGET + struct.pack("<I", self.memo[key])
            return
        yield from self.fresh(obj)
        if type(obj) in (str, bytes, Name, Call, dict):
            self.memo[key] = len(self.memo)
            yield pickle.LONG_BINPUT + struct.pack("<I", self.memo[key])
        if type(obj) is Call and obj.state is not None:  # now, because the state may refer to the object
            yield from self.write(obj.state)
            yield pickle.BUILD

    def fresh(self, obj: Any) -> Iterator[bytes]:
        if obj is None or obj is True or obj is False:
            yield {None: pickle.NONE, True: pickle.NEWTRUE, False: pickle.NEWFALSE}[obj]
        elif type(obj) is int:
            size = obj.bit_length() // 8 + 1
            yield pickle.LONG1 + bytes([size]) + obj.to_bytes(size, "little", signed=True)
        elif type(obj) is float:
            yield pickle.BINFLOAT + struct.pack(">d", obj)
        elif type(obj) is str:
            yield pickle.BINUNICODE + struct.pack("<I", len(obj.encode())) + obj.encode()
        elif type(obj) is bytes:
            yield pickle.BINBYTES + struct.pack("<I", len(obj)) + obj
        elif type(obj) in (list, tuple, dict):
            if type(obj) is not tuple:
                yield pickle.EMPTY_LIST if type(obj) is list else pickle.EMPTY_DICT
            yield pickle.MARK
            for entry in obj.items() if type(obj) is dict else obj:
                for part in entry if type(obj) is dict else (entry,):
                    yield from self.write(part)
            yield {tuple: pickle.TUPLE, list: pickle.APPENDS, dict: pickle.SETITEMS}[type(obj)]
        elif isinstance(obj, Name):
            yield pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode()
        elif isinstance(obj, Persistent):
            yield from self.write(obj.identity)
            yield pickle.BINPERSID
        else:
            yield from self.write(obj.function)
            yield from self.write(obj.arguments)
            yield pickle.NEWOBJ if obj.new else pickle.REDUCE


def storage_bytes(
    array: np.ndarray, *, kind: str | None = None, count: int | None = None, little_endian: bool = True, **changes: Any
) -> bytes:
    """Bytes of a storage as torch.save wrote them before zip archives; `changes`: the parts identity and keys."""
    kind = kind or {"f4": "FloatStorage", "f8": "DoubleStorage", "i8": "LongStorage"}[array.dtype.str[1:]]
    count = array.size if count is None else count
    parts = {
        "magic": 0x1950A86A20F9469CFC6C,
        "protocol": 1001,
        "system": {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {"short": 2}},
        "identity": Persistent(("storage", Name("torch", kind), "94387236", "cpu", count, None)),
        "keys": ["94387236"],
    } | changes
    return b"".join(dumps(part, 2) for part in parts.values()) + struct.pack("<q", count) + array.tobytes()


def storage(data: bytes) -> Call:
    return Call(Name("torch.storage", "_load_from_bytes"), (data,))


def tensor(array: np.ndarray, *, parameter: bool = False, **changes: Any) -> Call:
    """A tensor; `changes` replace what it says of itself: storage, offset, shape, strides."""
    strides = tuple(stride // array.itemsize for stride in array.strides)
    about = {"storage": storage(storage_bytes(array)), "offset": 0, "shape": array.shape, "strides": strides} | changes
    hooks = Call(Name("collections", "OrderedDict"))
    rebuilt = Call(Name("torch._utils", "_rebuild_tensor_v2"), (*about.values(), False, hooks))
    return Call(Name("torch._utils", "_rebuild_parameter"), (rebuilt, True, hooks)) if parameter else rebuilt


def number(x: float) -> Call:
    """A numpy number."""
    dtype = Call(Name("numpy", "dtype"), ("f8", 0, 1), (3, "<", None, None, None, -1, -1, 0))
    return Call(Name("numpy.core.multiarray", "scalar"), (dtype, struct.pack("<d", x)))


def persistent(class_name: str, state: dict, **changes: Any) -> Call:
    """An object of the original's, with a source text that must never be run."""
    source = "raise SystemExit('the source text of a file was run')"
    description = {"type": "class", "version": 6, "module_src": source, "class_name": class_name, "state": state}
    return Call(Name("torch_utils.persistence", "_reconstruct_persistent_obj"), (description | changes,))


def omegaconf(options: Any, parent: Call | None = None) -> Call:
    """Options in OmegaConf's containers, each of which knows the one around it."""
    if type(options) not in (dict, list):
        metadata = Call(Name("omegaconf.base", "Metadata"), (), {"ref_type": Name("typing", "Any")}, new=True)
        state = {"_metadata": metadata, "_parent": parent, "_val": options}
        return Call(Name("omegaconf.nodes", "AnyNode"), (), state, new=True)
    kind = ("omegaconf.dictconfig", "DictConfig") if type(options) is dict else ("omegaconf.listconfig", "ListConfig")
    container = Call(Name(*kind), new=True)
    if type(options) is dict:
        content = {key: omegaconf(entry, container) for key, entry in options.items()}
    else:
        content = [omegaconf(entry, container) for entry in options]
    container.state = {"_parent": parent, "_content": content}
    return container


# ----------------------------------------------------------------------------------------------------------------------
# A small published model

CONSTANTS = {"synthesis.alpha": np.zeros((), np.float32), "synthesis.fg_nerf.fc_in.resample_filter": FILTER}
BUFFERS = ("w_avg", "alpha", "resample_filter")
CONTAINERS = {"blocks": "ModuleList", "motion_mlp": "Sequential", "adapter": "Sequential"}


def module(class_name: str, arrays: dict[str, np.ndarray], attributes: dict[str, dict], path: str = "") -> Call:
    """The network of the given tensors; `attributes`: path of a part → its further attributes."""
    own = {name: array for name, array in arrays.items() if "." not in name}
    parts: dict[str, dict] = {}
    for name, array in arrays.items():
        first, _, rest = name.partition(".")
        if rest:
            parts.setdefault(first, {})[rest] = array
    state = {
        "training": False,
        "_parameters": {n: tensor(a, parameter=True) for n, a in own.items() if n not in BUFFERS},
        "_buffers": {n: tensor(a) for n, a in own.items() if n in BUFFERS},
        "_modules": {n: module(n, inner, attributes, f"{path}.{n}".strip(".")) for n, inner in parts.items()},
        "_init_args": (),
        "_init_kwargs": {},
    } | attributes.get(path, {})
    if class_name in CONTAINERS:
        return Call(Name("torch.nn.modules.container", CONTAINERS[class_name]), (), state, new=True)
    return persistent(class_name, state)


def options_of(spec: Spec) -> dict[str, Any]:
    """The original's constructor arguments of a model."""
    field = {
        "positional_encoding": "normal", "downscale_p_by": 1, "use_style": "StyleGAN2", "predict_rgb": True,
        "use_time": False, "norm_time": False, "rgb_out_dim": spec.features, "w_dim": spec.w_dim,
    }  # fmt: skip
    foreground = field | {
        "use_viewdirs": spec.view, "hidden_size": spec.width, "motion_gen": "embed" if spec.motion else "none",
        "z_dim_motion": spec.motion_dim, "motion_hidden_size": spec.motion_width,
        "motion_hidden_blocks": spec.motion_blocks, "n_blocks": spec.layers,
    }  # fmt: skip
    background = field | {
        "hidden_size": spec.background_width, "n_blocks": spec.background_layers, "z_dim": spec.code_dim, "skips": [],
        "inverse_sphere": True, "use_viewdirs": False, "motion_gen": "none", "z_dim_motion": None,
    }  # fmt: skip
    synthesis = {
        "num_fp16_res": "${num_fp16_res}", "channel_base": spec.channels / 32768, "channel_max": spec.max_channels,
        "conv_clamp": int(spec.clamp), "kernel_size": 1, "architecture": "skip", "upsample_mode": spec.upsampling,
        "z_dim_bg": spec.code_dim, "z_dim": 0, "resolution_vol": spec.volume, "rgb_out_dim": spec.features,
        "use_noise": False, "module_name": "training.stylenerf.NeRFSynthesisNetwork", "no_bbox": True,
        "magnitude_ema_beta": 0.999, "progressive": False, "n_reg_samples": spec.lattice, "reg_full": True,
        "camera_kwargs": {
            "range_v": [math.pi / 2 - 0.155, math.pi / 2 + 0.155], "range_u": [-0.4, 0.6], "range_radius": [1.0, 1.0],
            "depth_range": [0.8, 1.2], "fov": 30, "gaussian_camera": True, "angular_camera": True, "bg_start": 0.5,
        },
        "renderer_kwargs": {
            "n_bg_samples": spec.far_samples, "n_ray_samples": spec.samples, "hierarchical": True,
            "no_background": not spec.background,
        },
        "foreground_kwargs": foreground, "background_kwargs": background,
        "upsampler_kwargs": {
            "channel_base": spec.channels / 32768, "channel_max": spec.max_channels, "upsample_type": "bilinear",
        },
    }  # fmt: skip
    return {
        "z_dim": spec.z_dim, "w_dim": spec.w_dim, "c_dim": spec.c_dim, "img_resolution": spec.resolution,
        "img_channels": 3, "mapping_kwargs": {"num_layers": "${spec.map}"}, "synthesis_kwargs": synthesis,
    }  # fmt: skip


D_CHANNELS = 32  # at resolution 1
SPEC = dataclasses.replace(SMALL, resolution=16, importance=6, channels=256)


def small_arrays(spec: Spec = SPEC) -> dict[str, dict[str, np.ndarray]]:
    """Network → published name → array, by the recipe."""
    generator = {name: value(name, shape) for name, shape in generator_shapes(spec).items()} | CONSTANTS
    discriminators = {}
    for prefix, channels in (("videoD", 7), ("imageD", 3)):
        shapes = discriminator_shapes(
            prefix, resolution=spec.resolution, img_channels=channels, channels=D_CHANNELS, c_dim=spec.c_dim
        )
        discriminators |= {name: value(name, shape) for name, shape in shapes.items()}
    return {"G": {name: array * np.float32(0.5) for name, array in generator.items()}, "D": discriminators,
            "G_ema": generator}  # fmt: skip


def small_file(
    spec: Spec = SPEC,
    *,
    arrays: dict[str, dict[str, np.ndarray]] | None = None,
    options: dict[str, Any] | None = None,
    discriminator: dict[str, Any] | None = None,
    attributes: dict[str, Any] | None = None,
    **entries: Any,
) -> bytes:
    """A published checkpoint of a small model.

    Args:
        arrays: Instead of `small_arrays`.
        options: Instead of `options_of`.
        discriminator: Further arguments of the discriminators.
        attributes: Further attributes of the synthesis network.
        entries: Entries of the file's dictionary that are added or replaced.
    """
    arrays = arrays or small_arrays(spec)
    options = options or options_of(spec)
    root = omegaconf({"spec": {"map": spec.mapping_layers, "mbstd": 2}, "num_fp16_res": 3})
    wrapped = {key: omegaconf(entry, root) if type(entry) is dict else entry for key, entry in options.items()}
    numbers = {"weight_gain": number(0.5), "bias_gain": 1}
    parts = {
        "": {"_init_kwargs": wrapped, "num_ws": spec.num_ws, "encoder": None},
        "synthesis": {"steps": 1.5, "predict_camera": False} | (attributes or {}),
        "mapping": {"w_avg_beta": 0.995},
        "mapping.fc0": {"_init_kwargs": {"lr_multiplier": 0.01}} | numbers,
    }
    about = {
        "c_dim": spec.c_dim, "img_resolution": spec.resolution, "img_channels": 3, "channel_base": D_CHANNELS / 32768,
        "channel_max": 512, "conv_clamp": 256, "num_fp16_res": 4, "architecture": "skip",
        "epilogue_kwargs": omegaconf({"mbstd_group_size": "${spec.mbstd}"}, root),
    }  # fmt: skip
    content = {
        "training_set_kwargs": {"path": "/data/clips", "xflip": True, "nframes": 16, "max_size": 7},
        "G": module("Generator", arrays["G"], parts),
        "D": module("OurDiscriminator", arrays["D"], {"": {"_init_kwargs": about | (discriminator or {})}}),
        "G_ema": module("Generator", arrays["G_ema"], parts),
        "augment_pipe": None,
    }
    return dumps(content | entries)


def as_tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
