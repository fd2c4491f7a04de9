"""Activation checkpointing: gradients, losses and running means are the same to the bit in all phases that render."""

import pytest
import torch

from tests.goldens.small_losses import gradients, make_loss, real_batch
from torch_utils.rng import RandomStream
from training.networks.activation_checkpoint import Replayed, checkpointed
from training.networks.generator import conditioned_fields


def run(phase, *, checkpointing):
    loss, generator, discriminators, reports = make_loss()
    generator.activation_checkpointing = checkpointing
    loss.accumulate(phase, batch=real_batch(), gain=2.0, stream=RandomStream(3))
    means = {name: buffer.clone() for name, buffer in generator.named_buffers()}
    return gradients(generator) | gradients(discriminators) | reports | means | {"pl_mean": loss.pl_mean}


@pytest.mark.parametrize("phase", ["Gmain", "Greg", "Dmain"])
def test_a_phase_is_the_same_to_the_bit(phase):
    kept, again = (run(phase, checkpointing=flag) for flag in (False, True))
    assert kept.keys() == again.keys() and len(kept) > 20
    for name, value in kept.items():
        assert torch.equal(again[name], value), name


def test_points_are_evaluated_again_and_nothing_of_them_is_kept():
    def saved_bytes(checkpointing):
        loss, generator, _, _ = make_loss()
        generator.activation_checkpointing = checkpointing
        sizes = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        ws = generator.mapping(torch.zeros(2, generator.z_dim), torch.zeros(2, generator.c_dim))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss.fake_videos(ws, RandomStream(0), path_loss=True)
        return sum(sizes.values())

    assert saved_bytes(True) < 0.6 * saved_bytes(False)


def test_measured_values_are_those_of_the_first_run():
    replayed, seen = Replayed(), []
    x = torch.ones(3, requires_grad=True)

    def part(x):
        replayed.begin()
        seen.append(replayed.value(lambda: torch.tensor(float(len(seen) + 1))))
        return (x * seen[-1]).sin()

    checkpointed(part, x).sum().backward()
    assert len(seen) == 2 and seen[0] is seen[1]
    torch.testing.assert_close(x.grad, torch.ones(3).cos())


def test_densities_at_points_are_evaluated_again_too():
    """A loss at points needs no features."""
    _, generator, _, _ = make_loss()
    ws = generator.mapping(torch.zeros(2, generator.z_dim), torch.zeros(2, generator.c_dim)).detach()
    points, found = torch.linspace(-0.1, 0.1, 2 * 5 * 3).view(2, 1, 1, 5, 3), []
    for checkpointing in (False, True):
        generator.activation_checkpointing = checkpointing
        codes = {"z_motion": torch.zeros(2, generator.motion_dim), "z_bg": torch.zeros(2, generator.background_dim)}
        styles = ws.clone().requires_grad_(True)
        fields = conditioned_fields(generator, generator.modulate(styles), styles, times=torch.zeros(2, 1), **codes)
        density = fields.foreground.raw_density(points, torch.zeros(2, 1, 3))
        found.append((density, *torch.autograd.grad(density.square().sum(), styles)))
    for kept, again in zip(*found):
        assert float(kept.detach().abs().max()) > 0 and torch.equal(kept, again)
