"""Parts of a training built from its options: every option arrives where it takes effect."""

import itertools

import pytest
import torch
from torch import nn

from tests.goldens.networks import small_discriminators
from tests.goldens.small_losses import make_loss
from tests.training.tiny import make_loop
from torch_utils import distributed
from torch_utils.training_stats import Statistics
from training.augment.ada import AdaAugment
from training.data.dataset import VideoPairDataset
from training.data.sampler import InfiniteSampler
from training.launch.build import build_ada, build_loss, build_networks, build_phases
from training.launch.config import compose_options
from training.loss import CAMERA_LABEL
from training.networks.discriminator import TimeAwareDiscriminators
from training.networks.generator import Generator

OPTIONS = compose_options(["outdir=o", "data=d"])
SPEC = OPTIONS["spec"] | {
    "gamma": 1.25, "pl_weight": 2.5, "pl_decay": 0.125, "pl_batch_shrink": 3, "style_mixing": 0.25,
    "image_weight": 0.5, "path_weight": 0.75, "distortion_weight": 0.375,
    "lrate": 0.01, "betas": [0, 0.99], "eps": 1e-8, "g_reg_interval": 4, "d_reg_interval": 16,
    "ema": 2.5, "ramp": 0.75,
}  # fmt: skip


def test_the_loss_has_its_options():
    options = OPTIONS | {
        "spec": SPEC, "diffaugment": "cutout", "precision": "bf16", "camera_condition": True, "nframes": 1,
    }  # fmt: skip
    _, generator, discriminator, _ = make_loss()
    conditional, _ = small_discriminators(discriminator.resolution, c_dim=CAMERA_LABEL)
    loss = build_loss(options, generator=generator, discriminator=conditional, augment=None, statistics=None)
    assert (loss.r1_gamma, loss.style_mixing_prob, loss.diffaugment) == (1.25, 0.25, "cutout")
    assert (loss.pl_weight, loss.pl_decay, loss.pl_batch_shrink) == (2.5, 0.125, 3)
    assert (loss.image_weight, loss.path_weight, loss.distortion_weight) == (0.5, 0.75, 0.375)
    assert loss.bfloat16 and loss.camera_condition and loss.single_images
    plain = options | {"diffaugment": None, "precision": "float32", "camera_condition": False, "nframes": 16}
    loss = build_loss(plain, generator=generator, discriminator=discriminator, augment=None, statistics=None)
    assert loss.diffaugment == "" and not (loss.bfloat16 or loss.camera_condition or loss.single_images)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
@pytest.mark.parametrize("network", [Generator, TimeAwareDiscriminators])
def test_a_full_memory_is_no_mistake_in_the_options(monkeypatch, network, error):
    def build(*args, **kwargs):
        raise error

    monkeypatch.setattr(network, "__init__", build)
    with pytest.raises(type(error)) as caught:
        build_networks(OPTIONS, c_dim=0, device="meta")
    assert caught.value is error  # the command explains it


@pytest.mark.parametrize("resume, kimg", [(None, 500), ("runs/0", 100)])
def test_p_changes_faster_in_transfer_learning(resume, kimg):
    augment = AdaAugment(pipeline="blit")
    augment.p.fill_(0.5)
    for target, expected in ((None, 0.6), (0.3, 0.3)):
        options = OPTIONS | {"aug": "ada", "target": target, "resume": resume}
        controller = build_ada(options, augment=augment, statistics=Statistics(), device="cpu").controller
        assert (controller.kimg, controller.target, controller.p) == (kimg, expected, 0.5)


@pytest.mark.parametrize(
    "changes, names",
    [
        ({}, ["Gmain", "Greg", "Dmain", "Dreg"]),
        ({"pl_weight": 0}, ["Gmain", "Dmain", "Dreg"]),
        ({"gamma": 0}, ["Gmain", "Greg", "Dmain"]),
    ],
)
def test_penalties_of_weight_zero_have_no_phase(changes, names):
    """Nor is Adam corrected for their steps."""
    options = OPTIONS | {"spec": SPEC | changes}
    made = build_phases(options, generator=nn.Linear(1, 1), discriminator=nn.Linear(1, 1))
    assert [phase.name for phase in made] == names
    rates = {"G": 0.01 * (4 / 5 if "Greg" in names else 1), "D": 0.01 * (16 / 17 if "Dreg" in names else 1)}
    assert all(phase.lr == pytest.approx(rates[phase.name[0]]) for phase in made)


def test_the_optimisers_and_the_average_have_their_options(tmp_path):
    options = OPTIONS | {"spec": SPEC | {"pl_weight": 0, "betas": [0.5, 0.75], "eps": 1e-4}}
    phase = build_phases(options, generator=nn.Linear(1, 1), discriminator=nn.Linear(1, 1))[0]
    (group,) = phase.optimizer.param_groups
    assert (group["lr"], group["betas"], group["eps"]) == (0.01, (0.5, 0.75), 1e-4)
    loop = make_loop(tmp_path, "spec.ema=2.5", "spec.ramp=0.75")
    assert loop.ema.source is loop.networks.generator and loop.ema.average is loop.networks.generator_ema
    assert (loop.ema.half_life, loop.ema.ramp, loop.ema.ramps_up) == (2500, 0.75, True)


def test_processes_share_the_real_videos(tmp_path, monkeypatch):
    """Each batch is the next part of the order of the seed, with the pairs of the seed, from the position on."""
    begun = make_loop(tmp_path, "seed=3", "mirror=true")
    begun.counters.cur_nimg = 6
    begun.save_state()
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "broadcast_module", lambda module: None)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        loader = make_loop(tmp_path, "seed=3", "mirror=true", folder=begun.folder).loader
        shares.append(torch.cat([next(loader).frames for _ in range(2)]))
        assert len(shares[-1]) == 4 and loader.position == 6 + 2 * 4
    data = VideoPairDataset(path=tmp_path / "data", resolution=16, nframes=4, mirror=True, seed=3)
    keys = itertools.islice(InfiniteSampler(dataset_size=10, seed=3, position=6), 8)
    assert torch.equal(torch.stack(shares, dim=1).flatten(0, 1), torch.stack([data[key].frames for key in keys]))
