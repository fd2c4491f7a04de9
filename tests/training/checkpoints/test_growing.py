"""Training at a higher resolution starts from a snapshot of a lower one."""

import copy

import pytest
import torch

from dnnlib import UserError
from tests.goldens.checks import assert_near
from tests.training.tiny import make_loop, make_plan
from torch_utils.ops.upfirdn2d import downsample2d, setup_filter
from training.checkpoints.archive import save_archive
from training.checkpoints.growing import grown_state, grows
from training.checkpoints.snapshot import load_snapshot
from training.checkpoints.snapshot_files import STATE_FILE
from training.checkpoints.training_state import read_state
from training.inference.frame_renderer import FrameRenderer
from training.launch.build import build_networks
from training.launch.config import compose_options
from training.networks.upsampler import upsample_image

SMALL = ("model=stylenerf_small", "spec=small")
LARGER = (*SMALL, "resolution=64", "model.generator.rendering.resolution=32")
#: As many channels in the block of 64 as the smaller model has in that of 32.
SAME_CHANNELS = (*LARGER, "model.generator.upsampler.channel_base=0.125")


def networks(overrides, seed=0):
    torch.manual_seed(seed)
    generator, discriminators = build_networks(compose_options(overrides), c_dim=0)
    return generator.eval(), discriminators


def grow(module, smaller):
    grown = grown_state(module, smaller.state_dict(), what="the network", source="it")
    module.load_state_dict(grown.state)
    return grown.new


def render(generator, **kwargs):
    """A frame of fixed codes: image, volume rendered image and depth."""
    codes = [torch.randn(1, n, generator=torch.Generator().manual_seed(n)) for n in (128, 128, 16)]
    ws = generator.mapping(codes[0])
    renderer = FrameRenderer(generator, ws, z_motion=codes[1], z_bg=codes[2])
    return renderer.output(0.3, generator.camera_prior.at(yaw=0.2), **kwargs)


def test_a_larger_generator_sees_the_same_scene():
    smaller, larger = networks(SMALL)[0], networks(LARGER, seed=1)[0]
    before = copy.deepcopy(larger.state_dict())
    assert grow(larger, smaller) == ["upsampler.blocks.64"]
    for name, tensor in larger.state_dict().items():
        expected = before if name.startswith("upsampler.") else smaller.state_dict()
        if ".rgb.linear.weight" in name:
            assert not tensor.any()
        else:
            assert torch.equal(tensor, expected[name]), name
    # Every second pixel of 32×32 lies half a small pixel beside one of 16×16: their means agree as far as the scene is
    # smooth.
    small, large = render(smaller), render(larger)
    means = torch.nn.functional.avg_pool2d(large.depth[0], 2)
    assert large.depth.shape[-1] == 32
    assert_near(means, small.depth[0], absolute=5e-3)


def test_blocks_with_as_many_channels_keep_their_order():
    smaller, larger = networks(SMALL)[0], networks(SAME_CHANNELS, seed=1)[0]
    assert grow(larger, smaller) == []
    state, grown = smaller.state_dict(), larger.state_dict()
    for name in grown:
        assert torch.equal(grown[name], state[name.replace("blocks.64", "blocks.32")])


def test_blocks_beyond_those_of_the_larger_upsampler_are_left_out():
    """Of the blocks of 16, 32 and 64 pixels, a larger network of 64 and 128 takes the first two."""
    of_rays = "model.generator.rendering.resolution={}"
    smaller = networks((*SMALL, "resolution=64", of_rays.format(8)))[0]
    options = (*SMALL, "resolution=128", of_rays.format(32), "model.generator.upsampler.channel_base=0.25")
    larger = networks(options, seed=1)[0]
    grown = grown_state(larger, smaller.state_dict(), what="the network", source="it")
    assert grown.new == [] and grown.lost
    for name, tensor in grown.state.items():
        of_smaller = name.replace("blocks.64", "blocks.16").replace("blocks.128", "blocks.32")
        assert torch.equal(tensor, smaller.state_dict()[of_smaller]), name


@pytest.mark.parametrize(
    ("options", "lost"),
    [
        (SAME_CHANNELS, False),
        ((*SMALL, "resolution=64"), False),  # a second block, which adds zero
        (LARGER, True),  # other channels
    ],
)
def test_what_the_upsampler_loses(options, lost):
    smaller, larger = networks(SMALL)[0], networks(options, seed=1)[0]
    assert grown_state(larger, smaller.state_dict(), what="the network", source="it").lost == lost


def test_a_new_block_of_the_upsampler_leaves_the_image_as_it_is():
    smaller, larger = networks(SMALL)[0], networks((*SMALL, "resolution=64"), seed=1)[0]
    assert grow(larger, smaller) == ["upsampler.blocks.64"]
    with torch.no_grad():
        small, large = render(smaller).image[0], render(larger).image[0]
        upsampled = upsample_image(small.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert large.shape[-1] == 64
    assert_near(large, upsampled)


def test_new_blocks_of_the_upsampler_learn():
    larger = networks((*SMALL, "resolution=64"), seed=1)[0]
    grow(larger, networks(SMALL)[0])
    upsampler, optimizer = larger.train().upsampler, torch.optim.SGD(larger.parameters(), lr=1e-3)
    shapes = [(2, upsampler.num_ws, 128), (2, 1, 16, 16, 64), (2, 1, 16, 16, 3)]
    ws, features, colours = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in shapes)
    for _ in range(2):  # in the first step only the layer that is zero
        optimizer.zero_grad()
        upsampler(features, colours, upsampler.modulate(ws)).square().sum().backward()
        optimizer.step()
    gradients = {name: p.grad for name, p in upsampler.named_parameters() if name.startswith("blocks.64.")}
    assert len(gradients) > 10 and all(gradient.any() for gradient in gradients.values())


def test_discriminators_judge_the_downsampled_images():
    smaller, larger = networks(SMALL)[1], networks(LARGER, seed=1)[1]
    before = copy.deepcopy(larger.state_dict())
    assert grow(larger, smaller) == ["video.blocks.64", "image.blocks.64"]
    for name, tensor in larger.state_dict().items():
        expected = before if ".blocks.64." in name else smaller.state_dict()
        if ".64.conv1.weight" in name:
            assert not tensor.any()
        else:
            assert torch.equal(tensor, expected[name]), name
    images = torch.randn(4, 7, 64, 64, generator=torch.Generator().manual_seed(0))
    downsampled = downsample2d(images, setup_filter([1, 3, 3, 1]))
    assert_near(larger.video(images), smaller.video(downsampled))
    assert_near(larger.image(images[:, :3]), smaller.image(downsampled[:, :3]))
    larger.video(images).sum().backward()
    assert larger.video.blocks["64"].conv1.weight.grad.any()


def test_other_networks_do_not_fit():
    smaller, larger = networks((*SMALL, "model.generator.foreground.width=32"))[0], networks(LARGER)[0]
    with pytest.raises(UserError, match=r"it does not fit the network: foreground\.layers\.0\.weight is 32×36"):
        grow(larger, smaller)


def test_only_smaller_images_grow():
    content = {"generator": {"config": {"resolution": 32}}}
    assert grows(content, 64) and not grows(content, 32) and not grows(content, 16)
    assert not grows({"generator": {"config": {}}}, 64)


def test_a_run_grows_from_another(tmp_path):
    """From the checks before a training, whose networks have no values, to the weights it starts with."""
    smaller = make_loop(tmp_path, "kimg=0.008")
    smaller.run()
    words = [f"resume={smaller.folder}", "resolution=32", "model.generator.rendering.resolution=16"]
    new = "upsampler.blocks.32, video.blocks.32, image.blocks.32"
    notes = make_plan(tmp_path, *words).notes
    assert f"resume: grown from 16×16 pixels; new are {new}." in notes
    (advice,) = (note for note in notes if "lose what they have learnt" in note)
    wider = "model.generator.upsampler.channel_base=0.01"
    assert f"; {wider} keeps it." in advice
    kept = "resume: grown from 16×16 pixels; new are video.blocks.32, image.blocks.32."
    notes = make_plan(tmp_path, *words, wider).notes
    assert kept in notes and not any("lose" in note for note in notes)
    larger = make_loop(tmp_path, *words)
    for network in ("generator", "generator_ema"):
        trained, grown = (getattr(loop.networks, network).state_dict() for loop in (smaller, larger))
        kept = {name for name in grown if not name.startswith("upsampler.")}
        assert kept and all(torch.equal(grown[name], trained[name]) for name in kept)
    larger.iterate()


def test_an_average_that_lost_its_upsampler_follows_at_once(tmp_path):
    """A ramp-up, as from scratch; it goes on when the run is continued, if it has begun with one."""
    smaller = make_loop(tmp_path, "kimg=0.008")
    smaller.run()
    words = [f"resume={smaller.folder}", "resolution=32", "model.generator.rendering.resolution=16", "spec.ramp=0.05"]
    larger = make_loop(tmp_path, *words, "spec.ema=5", "spec.lrate=0.1", "kimg=0.008")
    assert not any("spec.ramp" in note for note in make_plan(tmp_path, *words).notes)
    larger.iterate()
    name = "upsampler.blocks.32.rgb.linear.weight"
    value, average = (
        getattr(larger.networks, network).get_parameter(name) for network in ("generator", "generator_ema")
    )
    assert_near(average, value)  # after one step of a learning rate that changes much
    larger.run()
    assert make_loop(tmp_path, *words, folder=larger.folder).ema.ramps_up

    state = read_state(larger.folder)
    del state["shared"]["ema"]  # as earlier versions wrote it, which had no ramp-up then
    save_archive(larger.folder / STATE_FILE, state)
    assert not make_loop(tmp_path, *words, folder=larger.folder).ema.ramps_up


def test_growing_keeps_an_average_whose_image_is_kept(tmp_path):
    smaller = make_loop(tmp_path, "kimg=0.008")
    smaller.run()
    words = [f"resume={smaller.folder}", "resolution=32", "spec.ramp=0.05"]  # the upsampler gets a second block
    assert any("spec.ramp= has no effect" in note for note in make_plan(tmp_path, *words).notes)
    larger = make_loop(tmp_path, *words, "spec.ema=5", "spec.lrate=0.1", "kimg=0.008")
    assert not larger.ema.ramps_up
    before = copy.deepcopy(larger.networks.generator_ema.state_dict())
    larger.iterate()
    for name, parameter in larger.networks.generator_ema.named_parameters():
        value = larger.networks.generator.get_parameter(name).detach()
        # The half-life is 5000 videos, a step 4 of them.
        assert_near(parameter, before[name] + (1 - 0.5 ** (4 / 5000)) * (value - before[name]))


def test_a_snapshot_without_a_density_ramp_begins_one(tmp_path):
    ramp = "model.generator.foreground.density_ramp"
    old = make_loop(tmp_path, "kimg=0.008", f"{ramp}=null")
    old.run()
    words = [f"resume={old.folder}", f"{ramp}={{factor:3,start:0,end:0.008}}"]
    make_plan(tmp_path, *words)
    new = make_loop(tmp_path, *words)
    for network in ("generator", "generator_ema"):
        before, after = (getattr(loop.networks, network).state_dict() for loop in (old, new))
        assert after.pop("foreground.density_scale") == 1
        assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in after)
    new.iterate()
    new.iterate()
    assert new.networks.generator.foreground.density_scale == 2  # after 4 of 8 videos


def test_a_ramp_that_is_missing_in_a_snapshot_is_not_made_up(tmp_path):
    old = make_loop(tmp_path, "kimg=0.008")
    old.run()
    content = load_snapshot(old.folder)
    for part in ("state", "ema"):
        del content["generator"][part]["foreground.density_scale"]
    save_archive(tmp_path / "damaged.pt", content)
    with pytest.raises(UserError, match=r"foreground\.density_scale is missing"):
        make_plan(tmp_path, f"resume={tmp_path / 'damaged.pt'}")
