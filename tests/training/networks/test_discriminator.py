"""The discriminators: measured logits and layers, the formulas, labels, frozen layers, mistakes."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from tests.goldens import reference
from tests.goldens.checks import assert_near
from tests.goldens.evaluation import evaluate
from tests.goldens.networks import golden_arrays, paper_discriminators, small_discriminators
from training.networks.discriminator import ConvLayer, Discriminator, TimeAwareDiscriminators, minibatch_std, time_plane
from training.published.state_dict import map_discriminator_name

UNITS = golden_arrays("units.npz")


def video_input(config):
    """The measured input: noise, and two generated frames one apart in the first video."""
    frames = evaluate(config, "c1").image[0]
    size = frames.shape[-1]
    noise = np.random.RandomState(110).rand(2, 7, size, size) * 2 - 1
    video = torch.from_numpy(noise.astype(np.float32)) * 0.5
    video[0, :3], video[0, 3:6] = frames[0] * 0.2, frames[3] * 0.2
    video[:, 6] = torch.tensor([1.0, 0.4])[:, None, None]
    return video


@torch.no_grad()
@pytest.mark.parametrize("config", ["faceforensics", "taichi"])
def test_measured_logits(config):
    goldens, discriminators = golden_arrays(f"network_{config}.npz"), paper_discriminators(config)
    video = video_input(config)
    frames = video[:, :6].unflatten(1, (2, 3)).flatten(0, 1)
    assert_near(discriminators.video(video), goldens["D/batch2/logits_video"], absolute=2e-5)
    assert_near(discriminators.image(frames), goldens["D/batch2/logits_image"], absolute=2e-5)
    assert_near(discriminators.video(video[:1]), goldens["D/batch1/logits_video"], absolute=2e-5)
    assert_near(discriminators.image(frames[:2]), goldens["D/batch1/logits_image"], absolute=2e-5)


@pytest.mark.parametrize(
    "key, samples, group, features",
    [
        ("group8_ch1", 8, 8, 1),
        ("group4_ch1", 8, 4, 1),
        ("groupNone_ch1", 8, 8, 1),
        ("group4_ch2", 8, 4, 2),
        ("group8_N2", 2, 8, 1),
        ("group8_N1", 1, 8, 1),
    ],
)
def test_measured_deviations(key, samples, group, features):
    y = minibatch_std(UNITS["mbstd/x"][:samples], group_size=group, num_features=features)
    assert_near(y, UNITS[f"mbstd/{key}"])


def test_measured_convolution():
    layer = ConvLayer(in_channels=4, out_channels=6, kernel_size=3, down=2, clamp=1)
    prefix = "conv2dlayer/k3_lrelu_down2_clamp/"
    layer.load_state_dict({name: UNITS[f"{prefix}param/{name}"] for name in ("weight", "bias")})
    y = layer(UNITS["conv2dlayer/x"])
    assert_near(y, UNITS[f"{prefix}y"])
    assert y.abs().max() == 1, "the clamp is of use"


def test_deviation_groups_are_interleaved():
    """Sample i belongs to group i mod (N / G), and equal samples deviate by nothing but the epsilon."""
    x = torch.zeros(4, 2, 3, 3)
    x[[1, 3]] = torch.tensor([1.0, 5.0])[:, None, None, None]  # the second group deviates by 2 around 3
    y = minibatch_std(x, group_size=2)
    assert torch.equal(y[:, :2], x)
    assert_near(y[:, 2, 0, 0], torch.tensor([1e-4, 2, 1e-4, 2]), relative=1e-6)
    assert (y[:, 2] == y[:, 2, :1, :1]).all()


def test_groups_must_divide_the_batch():
    with pytest.raises(ValueError, match="batch of 12 is not a multiple of the group size 8"):
        minibatch_std(torch.zeros(12, 4, 4, 4), group_size=8)
    discriminators, _ = small_discriminators(8, mbstd_group=4)
    with pytest.raises(ValueError, match="batch of 6 .* group size 4"):
        discriminators.video(torch.zeros(6, 7, 8, 8))


def random_images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize("resolution, group, clamp", [(8, 8, 256.0), (16, 2, 256.0), (32, 2, 0.8)])
def test_against_the_formula(resolution, group, clamp, c_dim, dtype, tolerance):
    discriminators, state = small_discriminators(resolution, c_dim=c_dim, mbstd_group=group, conv_clamp=clamp)
    discriminators = discriminators.to(dtype)
    c = torch.eye(4, 3, dtype=torch.float64) if c_dim else None
    for network, prefix, channels in ((discriminators.video, "videoD", 7), (discriminators.image, "imageD", 3)):
        x = random_images(4, channels, resolution, resolution)
        expected = reference.discriminate(state, prefix, x, group=group, clamp=clamp, c=c)
        logits = network(x.to(dtype), None if c is None else c.to(dtype))
        assert_near(logits, expected, relative=tolerance)


def test_gradients_against_the_formula():
    """Of the logits' sum, for parameters and input, and of the input gradient's size (R1's second derivatives)."""
    discriminators, state = small_discriminators(16, mbstd_group=2)
    network = discriminators.double().video
    for tensor in state.values():
        tensor.requires_grad_()
    x = random_images(4, 7, 16, 16).requires_grad_()

    def penalty(logits):
        (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        return gradient.square().sum()

    names = [
        "b16.conv1.weight",
        "b8.fromrgb.weight",
        "b8.conv0.weight",
        "b4.conv.weight",
        "b4.fc.weight",
        "b4.out.weight",
    ]
    names = [f"videoD.{name}" for name in names]
    ours = [discriminators.get_parameter(map_discriminator_name(name)) for name in names]
    theirs = [state[name] for name in names]
    expected = torch.autograd.grad(penalty(reference.discriminate(state, "videoD", x, group=2)), theirs)
    for name, gradient, wanted in zip(names, torch.autograd.grad(penalty(network(x)), ours), expected):
        assert wanted.any(), name
        assert_near(gradient, wanted, relative=1e-9)


@torch.no_grad()
def test_a_larger_clamp_or_layout_changes_nothing():
    x = random_images(4, 7, 16, 16).float()
    discriminators, _ = small_discriminators(16, mbstd_group=4)
    plain, _ = small_discriminators(16, mbstd_group=4, conv_clamp=None, channels_last=False)
    assert_near(plain.video(x), discriminators.video(x))


@torch.no_grad()
def test_order_of_frames_and_time_matter():
    discriminators, _ = small_discriminators(16)
    x = random_images(1, 7, 16, 16).float()
    swapped = torch.cat([x[:, 3:6], x[:, :3], x[:, 6:]], dim=1)
    later = torch.cat([x[:, :6], x[:, 6:] + 0.5], dim=1)
    logits = [discriminators.video(y).item() for y in (x, swapped, later)]
    assert len({round(v, 3) for v in logits}) == 3


def test_labels_matter():
    discriminators, _ = small_discriminators(8, c_dim=3)
    x = random_images(2, 3, 8, 8).float()
    labels = torch.eye(3)
    logits = [discriminators.image(x, labels[i].expand(2, 3)) for i in range(3)]
    assert (logits[0] - logits[1]).abs().max() > 0.1 * logits[0].abs().max()
    with pytest.raises(ValueError, match=r"labels c must be \[B, 3\]"):
        discriminators.image(x, None)


def test_time_plane():
    plane = time_plane(torch.zeros(2, 2, 3, 4, 5), torch.tensor([0.25, 1.0], dtype=torch.float64))
    assert plane.shape == (2, 1, 4, 5) and plane.dtype == torch.float32
    assert (plane[0] == 0.25).all() and (plane[1] == 1).all()


def test_frozen_layers():
    discriminators, _ = small_discriminators(16)
    discriminators.freeze(4)
    for network in (discriminators.video, discriminators.image):
        trained = {name for name, p in network.named_parameters() if p.requires_grad}
        frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
        # From the image on: fromrgb, conv0, conv1 at 16, then fromrgb at 8.
        layers = ["blocks.16.fromrgb", "blocks.16.conv0", "blocks.16.conv1", "blocks.8.fromrgb"]
        assert frozen == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
        assert {"blocks.8.conv0.weight", "epilogue.out.bias"} <= trained
    logits = discriminators.video(torch.zeros(1, 7, 16, 16))
    logits.sum().backward()
    assert discriminators.video.blocks["16"].conv0.weight.grad is None
    assert discriminators.video.epilogue.out.bias.grad is not None


@pytest.mark.parametrize("resolution", [8, 16, 64])
def test_more_layers_than_there_are_cannot_be_frozen(resolution):
    discriminators = TimeAwareDiscriminators(resolution=resolution, channel_base=1 / 512)
    every = len(discriminators.video.layers())
    discriminators.freeze(every)
    assert not any(layer.weight.requires_grad for layer in discriminators.video.layers())
    expected = f"freezed={every + 1}: the discriminators have {every} layers at this resolution; use 0 to {every}."
    with pytest.raises(ValueError, match=f"^{expected}$"):
        discriminators.freeze(every + 1)


def test_without_an_image_discriminator():
    discriminators = TimeAwareDiscriminators(resolution=8, channel_base=0.004, image=False)
    assert discriminators.image is None
    discriminators.freeze(2)
    assert all(name.startswith("video.") for name in discriminators.state_dict())


def test_config_round_trip():
    discriminators = TimeAwareDiscriminators(resolution=16, c_dim=2, channel_base=0.004, mbstd_group=2, image=False)
    again = TimeAwareDiscriminators(**discriminators.config)
    assert again.config == discriminators.config
    again.load_state_dict(discriminators.state_dict())
    with pytest.raises(TypeError, match="mbstd"):
        TimeAwareDiscriminators(resolution=16, mbstd=2)


@pytest.mark.parametrize("resolution", [4, 24, 0])
def test_mistaken_resolutions(resolution):
    with pytest.raises(ValueError, match=f"resolution must be a power of two .* got {resolution}"):
        Discriminator(resolution=resolution, img_channels=3)


def test_derivatives():
    discriminators, _ = small_discriminators(8, mbstd_group=2)
    network = discriminators.double().image
    x = random_images(2, 3, 8, 8).requires_grad_()
    assert gradcheck(network, [x], fast_mode=True)


def test_gradients_of_each_video():
    discriminators, _ = small_discriminators()
    network = discriminators.video
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    size = network.resolution
    frames = torch.randn(3, 7, size, size, generator=torch.Generator().manual_seed(0))

    def logit(parameters, video):
        return torch.func.functional_call(network, parameters, (video[None],)).sum()

    each = torch.func.vmap(torch.func.grad(logit), in_dims=(None, 0))(parameters, frames)
    wanted = torch.autograd.grad(network(frames[1:2]).sum(), list(network.parameters()))
    for name, gradient in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(each[name][1], gradient, rtol=1e-3, atol=1e-5)
