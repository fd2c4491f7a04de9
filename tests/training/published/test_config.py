"""Options of the published networks become this program's configuration, or are refused by name."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch

from tests.goldens.networks import generator_config
from tests.training.published.published_files import (
    SPEC,
    dumps,
    omegaconf,
    options_of,
    parse,
    persistent,
    small_arrays,
    small_file,
    tensor,
)
from training.networks.generator import Generator
from training.published.loader import parse_published
from training.published.modules import UNKNOWN, PublishedModule, plain_arguments
from training.published.pickle_values import UnreadablePickle


def content_of(spec=SPEC, **arguments):
    return parse_published(memoryview(small_file(spec, **arguments)))


def changed(path, value, spec=SPEC):
    """The options of a model with one changed; path: 'camera_kwargs.fov' (inside synthesis_kwargs) or 'c_dim'."""
    options = copy.deepcopy(options_of(spec))
    target = options
    *parents, name = path.split(".")
    for parent in parents:
        target = (target if parent in target else target["synthesis_kwargs"])[parent]
    target[name] = value
    return options


# ----------------------------------------------------------------------------------------------------------------------
# Translated options


def test_every_option_of_a_small_model():
    config = content_of()["generator"]["config"]
    expected = generator_config(SPEC)
    for part in ("mapping", "motion", "foreground", "background", "upsampler"):
        assert config[part].items() >= {k: v for k, v in expected[part].items() if k in config[part]}.items(), part
    assert {k: config[k] for k in ("resolution", "c_dim", "z_dim", "motion_dim", "w_dim", "background_dim")} == {
        k: expected[k] for k in ("resolution", "c_dim", "z_dim", "motion_dim", "w_dim", "background_dim")
    }
    assert config["rendering"] == expected["rendering"] | {"near": 0.8, "far": 1.2, "background_start": 0.5}
    assert config["camera"] == {
        "fov": 30.0, "yaw": [-0.4, 0.6], "pitch": [math.pi / 2 - 0.155, math.pi / 2 + 0.155], "radius": [1.0, 1.0],
        "distribution": "gaussian",
    }  # fmt: skip
    assert config["mapping"] == {"num_layers": SPEC.mapping_layers, "lr_multiplier": 0.01, "w_avg_beta": 0.995}
    prior = Generator(**config).camera_prior
    assert (prior.fov, prior.yaw) == (30.0, (-0.4, 0.6))


@pytest.mark.parametrize(
    "change",
    [
        {"features": 12, "view": False},
        {"upsampling": "pixelshuffle", "max_channels": 8},
        {"background": False},
        {"motion": None},
        {"motion_blocks": 3, "motion_width": 6},
        {"c_dim": 3},
        {"layers": 3, "width": 20, "octaves": 3, "view_octaves": 1},
        {"background_layers": 2, "background_width": 5, "code_dim": 0},
        {"mapping_layers": 5, "z_dim": 7, "w_dim": 9},
        {"samples": 5, "importance": 5, "far_samples": 3, "lattice": 8, "clamp": 100.0, "volume": 4},
    ],
    ids=lambda change: ",".join(change),
)
def test_models_of_other_shape(change):
    spec = dataclasses.replace(SPEC, **change)
    content = content_of(spec)
    config, expected = content["generator"]["config"], generator_config(spec)
    for part in ("motion", "foreground", "background", "upsampler"):
        if expected[part] is None:
            assert config[part] is None
        else:
            assert {k: v for k, v in config[part].items() if k in expected[part]} == {
                k: v for k, v in expected[part].items() if k in config[part]
            }, part
    assert config["rendering"].items() >= expected["rendering"].items()
    assert config["c_dim"] == content["discriminator"]["config"]["c_dim"] == spec.c_dim
    generator = Generator(**config)
    generator.load_state_dict(content["generator"]["ema"])
    assert generator.num_ws == spec.num_ws


@pytest.mark.parametrize(
    "path, value, ours",
    [
        ("camera_kwargs.fov", 12, ("camera", "fov", 12.0)),
        ("camera_kwargs.range_u", [-0.3, 0.3], ("camera", "yaw", [-0.3, 0.3])),
        ("camera_kwargs.range_v", [1, 2], ("camera", "pitch", [1.0, 2.0])),
        ("camera_kwargs.range_radius", [0.9, 1.1], ("camera", "radius", [0.9, 1.1])),
        ("camera_kwargs.gaussian_camera", False, ("camera", "distribution", "uniform")),
        ("camera_kwargs.depth_range", [0.5, 2.0], ("rendering", "far", 2.0)),
        ("camera_kwargs.bg_start", 0.25, ("rendering", "background_start", 0.25)),
        ("renderer_kwargs.hierarchical", False, ("rendering", "num_importance", 0)),
        ("renderer_kwargs.n_ray_samples", 9, ("rendering", "num_importance", 9)),
        ("renderer_kwargs.n_bg_samples", 7, ("rendering", "num_background", 7)),
        ("synthesis_kwargs.conv_clamp", None, ("upsampler", "conv_clamp", None)),
        ("synthesis_kwargs.magnitude_ema_beta", 0.9, ("upsampler", "magnitude_beta", 0.9)),
        ("synthesis_kwargs.n_reg_samples", 8, ("rendering", "path_lattice", 8)),
        ("mapping_kwargs.w_avg_beta", 0.9, ("mapping", "w_avg_beta", 0.9)),
        ("mapping_kwargs.lr_multiplier", 0.1, ("mapping", "lr_multiplier", 0.1)),
    ],
)
def test_single_options(path, value, ours):
    config = content_of(options=changed(path, value))["generator"]["config"]
    assert config[ours[0]][ours[1]] == ours[2]


@pytest.mark.parametrize(
    "change, ours",
    [
        ({}, ("mbstd_group", 2)),  # by reference
        ({"epilogue_kwargs": {"mbstd_group_size": 4}}, ("mbstd_group", 4)),
        ({"num_fp16_res": 2}, ("fp16_resolutions", 2)),
        ({"conv_clamp": None}, ("conv_clamp", None)),
        ({}, ("image", True)),
    ],
)
def test_options_of_the_discriminators(change, ours):
    config = content_of(discriminator=change)["discriminator"]["config"]
    assert config[ours[0]] == ours[1]


def test_no_image_discriminator():
    arrays = small_arrays()
    arrays["D"] = {name: array for name, array in arrays["D"].items() if name.startswith("videoD")}
    content = content_of(arrays=arrays)
    assert content["discriminator"]["config"]["image"] is False
    assert not any(name.startswith("image") for name in content["discriminator"]["state"])


def test_the_original_renders_an_untrained_network_with_more_samples():
    arrays = small_arrays()
    for alpha, count in ((-1, 20), (0, SPEC.samples), (1, SPEC.samples)):
        arrays["G_ema"]["synthesis.alpha"] = np.array(alpha, np.float32)
        rendering = content_of(arrays=arrays)["generator"]["config"]["rendering"]
        assert rendering["num_samples"] == rendering["num_importance"] == count


def test_defaults_are_told_by_attributes():
    """Attributes of the object fill in for missing arguments; arguments take precedence."""
    options = options_of(SPEC)
    del options["synthesis_kwargs"]["z_dim_bg"], options["synthesis_kwargs"]["rgb_out_dim"]
    attributes = {"z_dim_bg": SPEC.code_dim, "rgb_out_dim": SPEC.features, "resolution_vol": 999}
    config = content_of(options=options, attributes=attributes)["generator"]["config"]
    assert (config["background_dim"], config["foreground"]["feature_dim"]) == (SPEC.code_dim, SPEC.features)
    assert config["rendering"]["resolution"] == SPEC.volume
    del options["synthesis_kwargs"]["foreground_kwargs"]["motion_hidden_blocks"]  # so many layers are there
    assert content_of(options=options, attributes=attributes)["generator"]["config"] == config
    with pytest.raises(UnreadablePickle, match="does not say what the option synthesis_kwargs.rgb_out_dim was"):
        content_of(options=options)


# ----------------------------------------------------------------------------------------------------------------------
# Refused options


@pytest.mark.parametrize(
    "path, value, words",
    [
        ("synthesis_kwargs.architecture", "resnet", "synthesis_kwargs.architecture = 'resnet'"),
        ("synthesis_kwargs.upsample_mode", "bilinear", "synthesis_kwargs.upsample_mode = 'bilinear'"),
        ("synthesis_kwargs.progressive", True, "synthesis_kwargs.progressive = True"),
        ("synthesis_kwargs.use_noise", True, "synthesis_kwargs.use_noise = True"),
        ("synthesis_kwargs.kernel_size", 3, "synthesis_kwargs.kernel_size = 3"),
        ("synthesis_kwargs.hair", "long", "synthesis_kwargs.hair = 'long'"),
        ("synthesis_kwargs.foreground_static_kwargs", {"a": 1}, "synthesis_kwargs.foreground_static_kwargs = a dict"),
        ("synthesis_kwargs.magnitude_ema_beta", "x", "synthesis_kwargs.magnitude_ema_beta = 'x'"),
        ("synthesis_kwargs.rgb_out_dim", 10**9, "synthesis_kwargs.rgb_out_dim = 1000000000"),
        ("synthesis_kwargs.channel_max", 0, "synthesis_kwargs.channel_max = 0"),
        ("foreground_kwargs.use_time", True, "foreground_kwargs.use_time = True"),
        ("foreground_kwargs.motion_gen", "warp", "foreground_kwargs.motion_gen = 'warp'"),
        ("foreground_kwargs.dynamic_blending", "mask", "foreground_kwargs.dynamic_blending = 'mask'"),
        ("foreground_kwargs.use_content", True, "foreground_kwargs.use_content = True"),
        ("foreground_kwargs.n_blocks", 9, "foreground_kwargs.n_blocks = 9"),
        ("background_kwargs.inverse_sphere", False, "background_kwargs.inverse_sphere = False"),
        ("background_kwargs.skips", [2], "background_kwargs.skips = a list"),
        ("background_kwargs.rgb_out_dim", 5, "background_kwargs.rgb_out_dim = 5"),
        ("renderer_kwargs.abs_sigma", True, "renderer_kwargs.abs_sigma = True"),
        ("renderer_kwargs.no_background", True, "renderer_kwargs.no_background = True"),
        ("camera_kwargs.depth_transform", "log", "camera_kwargs.depth_transform = 'log'"),
        ("camera_kwargs.angular_camera", False, "camera_kwargs.angular_camera = False"),
        ("camera_kwargs.fov", float("nan"), "camera_kwargs.fov = nan"),
        ("camera_kwargs.fov", True, "camera_kwargs.fov = True"),
        ("camera_kwargs.range_u", [1, 0], "camera_kwargs.range_u = a list"),
        ("upsampler_kwargs.no_2d_renderer", True, "upsampler_kwargs.no_2d_renderer = True"),
        ("upsampler_kwargs.block_reses", [16], "upsampler_kwargs.block_reses = a list"),
        ("mapping_kwargs.activation", "relu", "mapping_kwargs.activation = 'relu'"),
        ("mapping_kwargs.num_layers", 10**12, "mapping_kwargs.num_layers = 1000000000000"),
        ("img_channels", 4, "G_kwargs.img_channels = 4"),
        ("img_resolution", 2**40, "G_kwargs.img_resolution = 1099511627776"),
        ("encoder_kwargs", {"x": 1}, "G_kwargs.encoder_kwargs = a dict"),
        ("camera_kwargs.fov", "\x1b[2J" * 50, r"camera_kwargs.fov = '\\x1b\[2J"),
    ],
)
def test_refused_options(path, value, words):
    with pytest.raises(UnreadablePickle, match=words) as caught:
        content_of(options=changed(path, value))
    message = str(caught.value)
    assert message.startswith("was made with the option") and message.isprintable() and len(message) < 200


@pytest.mark.parametrize(
    "change, words",
    [
        ({"architecture": "orig"}, "D_kwargs.architecture = 'orig'"),
        ({"dual_discriminator": True}, "D_kwargs.dual_discriminator = True"),
        (
            {"epilogue_kwargs": {"mbstd_group_size": 2, "mbstd_num_channels": 2}},
            "epilogue_kwargs.mbstd_num_channels = 2",
        ),
        ({"epilogue_kwargs": {"mbstd_group_size": None}}, "epilogue_kwargs.mbstd_group_size = None"),
        ({"mapping_kwargs": {"activation": "relu"}}, "mapping_kwargs.activation = 'relu'"),
        ({"other": 1}, "D_kwargs.other = 1"),
    ],
)
def test_refused_options_of_the_discriminators(change, words):
    with pytest.raises(UnreadablePickle, match=words):
        content_of(discriminator=change)


def test_networks_that_cannot_be_built():
    with pytest.raises(UnreadablePickle, match="describes a generator that cannot be built: .*resolution"):
        content_of(options=changed("img_resolution", 24))
    with pytest.raises(UnreadablePickle, match="describes a discriminator that cannot be built: .*resolution"):
        content_of(discriminator={"img_resolution": 24})
    with pytest.raises(UnreadablePickle, match="has no network 'G_ema.synthesis.fg_nerf.motion_generator'"):
        content_of(dataclasses.replace(SPEC, motion=None), options=options_of(SPEC))
    with pytest.raises(UnreadablePickle, match="has no network 'D.videoD'"):
        content_of(D=persistent("Discriminator", {"_modules": {}}))


# ----------------------------------------------------------------------------------------------------------------------
# Arguments as plain data


def plain(options, parent=None):
    return plain_arguments(parse(dumps(omegaconf(options, parent))))


def test_containers_of_omegaconf():
    options = {"a": [1, {"b": "x"}, None], "c": {"d": True, "e": 0.5}}
    assert plain(options) == options
    assert plain_arguments(options) == options


def test_references():
    root = omegaconf({"spec": {"mbstd": 8, "again": "${spec.mbstd}"}, "round": "${round}", "list": [1]})
    options = {"a": "${spec.mbstd}", "b": "${spec}", "c": "${list}", "d": "${spec.again}"}
    assert plain(options, root)["a"] == 8
    assert plain(options, root)["b"]["mbstd"] == 8
    assert plain(options, root)["c"] == [1]
    assert plain(options, root)["d"] == 8
    for unknown in ("${spec.nothing}", "${a} and ${b}", "${env:HOME}", "${.sibling}", "???", "${list.0}"):
        assert plain({"a": unknown}, root)["a"] is UNKNOWN, unknown
    assert plain({"a": "${spec.mbstd}"})["a"] is UNKNOWN  # nothing around it
    with pytest.raises(UnreadablePickle, match="far more arguments"):
        plain({"a": "${round}"}, root)


def test_arguments_cannot_multiply():
    value = [1]
    for _ in range(30):
        value = [value] * 10
    with pytest.raises(UnreadablePickle, match="far more arguments"):
        plain_arguments(value)


def test_parts_cannot_multiply():
    """Each network the parts of the next ten: few bytes, many tensors."""
    shared = persistent("Block", {"_modules": {}})
    for _ in range(8):
        shared = persistent("Block", {"_modules": {str(i): shared for i in range(10)}})
    with pytest.raises(UnreadablePickle, match="holds more than 10000 parts in 'G'"):
        PublishedModule(parse(dumps(shared)), "G").tensors()


def test_names_are_those_of_state_dict():
    class Part(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.arange(3.0))
            self.register_parameter("nothing", None)
            self.register_buffer("kept", torch.ones(2))
            self.register_buffer("passing", torch.zeros(2), persistent=False)

    network = torch.nn.Module()
    network.first, network.second = Part(), torch.nn.ModuleList([Part(), Part()])
    network.own = torch.nn.Parameter(torch.ones(1))

    def description(module):
        state = dict(vars(module))
        arrays = {
            table: {n: None if x is None else described(x) for n, x in state[table].items()}
            for table in ("_parameters", "_buffers")
        }
        passing = sorted(state["_non_persistent_buffers_set"])
        modules = {n: description(child) for n, child in module.named_children()}
        return persistent("X", arrays | {"_non_persistent_buffers_set": passing, "_modules": modules})

    def described(x):
        return tensor(x.detach().numpy())

    tensors = PublishedModule(parse(dumps(description(network))), "x").tensors()
    expected = network.state_dict()
    assert list(tensors) == list(expected)
    assert all(torch.equal(tensors[name].read(), expected[name]) for name in expected)


@pytest.mark.parametrize(
    "description, words",
    [
        (5, "has no network 'x'"),
        (persistent("X", 5), "has no network 'x'"),
        (persistent("X", {}, type="function"), "another version"),
        (persistent("X", {}, version=7), "another version"),
        (persistent(5, {}), "does not say what 'x' is"),
        (persistent("X", {"_modules": []}), "no table of names as _modules of 'x'"),
        (persistent("X", {"_modules": {3: 1}}), "no table of names as _modules of 'x'"),
        (persistent("X", {"_modules": {"n" * 101: 1}}), "no table of names as _modules of 'x'"),
        (persistent("X", {"_modules": {"a": 1}}), "has no network 'x.a'"),
        (persistent("X", {"_parameters": {"a": 1}}), "no tensor as 'x.a'"),
    ],
)
def test_networks_that_are_none(description, words):
    with pytest.raises(UnreadablePickle, match=words):
        PublishedModule(parse(dumps(description)), "x").tensors()
