"""A loss with networks so small that a phase takes a tenth of a second."""

import dataclasses

import torch

from tests.goldens.networks import SMALL, build_generator, small_discriminators
from training.loss import GanLoss, VideoBatch

SPEC = dataclasses.replace(SMALL, resolution=16)
PHASES = ["Gmain", "Greg", "Dmain", "Dreg"]


class Reports(dict):
    def report(self, name, value):
        assert not value.requires_grad
        self[name] = value.clone()


def make_loss(spec=SPEC, *, image=True, **arguments):
    generator = build_generator(spec).train()
    discriminators, _ = small_discriminators(spec.resolution, c_dim=spec.c_dim, mbstd_group=2)
    if not image:
        discriminators.image = None
    reports = Reports()
    loss = GanLoss(generator=generator, discriminator=discriminators, statistics=reports, **arguments)
    return loss, generator, discriminators, reports


def real_batch(size=2, spec=SPEC, seed=0):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.rand(size, 2, 3, spec.resolution, spec.resolution, generator=generator) * 2 - 1
    c = torch.eye(max(spec.c_dim, 1))[torch.arange(size) % max(spec.c_dim, 1)][:, : spec.c_dim]
    return VideoBatch(frames=frames, dt=torch.linspace(0.2, 0.9, size), c=c)


def gradients(module):
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def logits(discriminators, frames, dt):
    """Of both discriminators for frames [B, 2, 3, H, W]."""
    plane = dt[:, None, None, None].expand(-1, 1, *frames.shape[-2:])
    video = torch.cat([frames[:, 0], frames[:, 1], plane], dim=1)
    return discriminators.video(video), discriminators.image(frames.flatten(0, 1))
