"""Networks under test, filled by the recipe: of the paper's size, or as small as a `Spec` makes them."""

import copy
import functools
import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from tests.goldens.recipe import value
from tests.goldens.reference import SPECS, Spec, discriminator_shapes, generator_shapes
from training.networks.discriminator import TimeAwareDiscriminators
from training.networks.generator import Generator
from training.published.state_dict import map_discriminator_name, map_generator_name, match_names, take_state

DATA = Path(__file__).parents[1] / "data"
CAMERAS = {"mead": {"fov": 12.0, "yaw": (-0.3, 0.3)}}  # the other two have the default

#: A model that the slow reference renders in a second, with every part.
SMALL = Spec(
    resolution=32, z_dim=12, motion_dim=10, w_dim=16, code_dim=6, mapping_layers=2, width=16, layers=4, octaves=4,
    view_octaves=2, features=8, motion_width=12, background_width=10, background_layers=3, channels=512,
    volume=8, samples=6, importance=5, lattice=4,
)  # fmt: skip


@functools.cache
def state_listing(config: str) -> dict:
    """Contents of a published model: 'G' and 'D' (name → shape), 'parameters' (part → count), 'num_ws'."""
    return json.loads(gzip.decompress((DATA / "published_states.json.gz").read_bytes()))[config]


@functools.cache
def golden_arrays(file: str) -> dict[str, torch.Tensor | np.ndarray]:
    """A file of measurements; numbers as tensors. Shared by the tests: leave them as they are."""
    with np.load(DATA / file) as arrays:
        return {key: torch.from_numpy(arrays[key]) if arrays[key].dtype.kind in "fi" else arrays[key] for key in arrays}


def map_state(state: Mapping[str, torch.Tensor], target: torch.nn.Module, rename) -> dict[str, torch.Tensor]:
    """Published tensors under our names and shapes, every one accounted for; see `match_names`."""
    matched = match_names({name: tuple(tensor.shape) for name, tensor in state.items()}, target, rename)
    return take_state(matched, state, target)


def fill(shapes: dict) -> dict[str, torch.Tensor]:
    """Published name → value of the recipe, for those tensors that are not constant."""
    values = {name: value(name, shape) for name, shape in shapes.items()}
    return {name: torch.from_numpy(array) for name, array in values.items() if array is not None}


def doubled_state(shapes: dict) -> dict[str, torch.Tensor]:
    """The same in double precision, for the reference."""
    return {name: array.double() for name, array in fill(shapes).items()}


def generator_config(spec: Spec, camera: dict | None = None) -> dict:
    """`Generator`'s arguments for a `Spec`."""
    return {
        "resolution": spec.resolution,
        "c_dim": spec.c_dim,
        "z_dim": spec.z_dim,
        "motion_dim": spec.motion_dim,
        "w_dim": spec.w_dim,
        "background_dim": spec.code_dim,
        "mapping": {"num_layers": spec.mapping_layers},
        "motion": spec.motion
        and {
            "width": spec.motion_width,
            "hidden_blocks": spec.motion_blocks,
            "use_content": spec.motion_content,
            "combine": spec.motion,
        },
        "foreground": {
            "width": spec.width,
            "num_layers": spec.layers,
            "position_frequencies": spec.octaves,
            "direction_frequencies": spec.view_octaves,
            "feature_dim": spec.features,
            "view_directions": spec.view,
            "time_input": spec.time_input,
            "static": spec.static,
        },
        "background": {
            "width": spec.background_width,
            "num_layers": spec.background_layers,
            "position_frequencies": spec.octaves,
        }
        if spec.background
        else None,
        "upsampler": {
            "mode": spec.upsampling,
            "channel_base": spec.channels / 32768,
            "channel_max": spec.max_channels,
            "conv_clamp": spec.clamp,
        },
        "camera": camera or {},
        "rendering": {
            "resolution": spec.volume,
            "num_samples": spec.samples,
            "num_importance": spec.importance,
            "num_background": spec.far_samples,
            "path_lattice": spec.lattice,
        },
    }


def _our_name(name: str, spec: Spec) -> str | None:
    if spec.static == "none":
        return map_generator_name(name, motion_layers=spec.motion_blocks + 1)
    # The blend of two fields was never published: 'static_nerf' and 'mask' are names of these tests.
    if name.startswith("synthesis.fg_nerf.mask."):
        return name.replace("synthesis.fg_nerf", "foreground")
    part = "static" if "static_nerf" in name else "dynamic"
    ours = map_generator_name(name.replace("static_nerf", "fg_nerf"), motion_layers=spec.motion_blocks + 1)
    return ours.replace("foreground.", f"foreground.{part}.") if ours.startswith("foreground.") else ours


def build_generator(spec: Spec, *, camera: dict | None = None, state: dict | None = None) -> Generator:
    """A generator in evaluation mode; `state` (published names) replaces the recipe's values."""
    generator = Generator(**generator_config(spec, camera)).eval()
    state = fill(generator_shapes(spec)) if state is None else state
    generator.load_state_dict(map_state(state, generator, lambda name: _our_name(name, spec)))
    return generator


@functools.cache
def _paper_generator(config: str) -> Generator:
    generator = Generator(**generator_config(SPECS[config], CAMERAS.get(config))).eval()
    generator.load_state_dict(map_state(fill(state_listing(config)["G"]), generator, map_generator_name))
    return generator


def paper_generator(config: str) -> Generator:
    """A fresh copy of a published model's generator, in evaluation mode."""
    return copy.deepcopy(_paper_generator(config))


@functools.lru_cache(maxsize=1)  # 220 MB each
def paper_discriminators(config: str) -> TimeAwareDiscriminators:
    """A published model's discriminators, shared by the tests: leave them as they are (gradients aside)."""
    discriminators = TimeAwareDiscriminators(resolution=SPECS[config].resolution)
    discriminators.load_state_dict(map_state(fill(state_listing(config)["D"]), discriminators, map_discriminator_name))
    return discriminators


def small_discriminators(resolution: int = 16, *, channels: int = 128, c_dim: int = 0, **arguments):
    """Small discriminators and the published state they were filled with."""
    shapes = {}
    for prefix, img_channels in (("videoD", 7), ("imageD", 3)):
        shapes |= discriminator_shapes(
            prefix, resolution=resolution, img_channels=img_channels, channels=channels, c_dim=c_dim
        )
    discriminators = TimeAwareDiscriminators(
        resolution=resolution, c_dim=c_dim, channel_base=channels / 32768, **arguments
    )
    # The recipe leaves the labels' mapping next to nothing to say.
    state = {name: tensor * (100 if ".mapping.fc" in name else 1) for name, tensor in fill(shapes).items()}
    discriminators.load_state_dict(map_state(state, discriminators, map_discriminator_name))
    return discriminators, {name: tensor.double() for name, tensor in state.items()}
