"""Small generators of every kind, with codes and cameras to feed them."""

import torch

from renderer.cameras import CameraPrior
from tests.goldens.networks import SMALL
from torch_utils.rng import RandomStream

ABLATIONS = {
    "paper": {},
    "no motion": {"motion": None},
    "concatenated": {"motion": "concat"},
    "motion of content": {"motion_content": True},
    "deeper motion": {"motion_blocks": 2},
    "raw time": {"motion": None, "time_input": "raw"},
    "encoded time": {"motion": None, "time_input": "encoded"},
    "masked blend": {"static": "mask"},
    "equal blend": {"static": "equal"},
    "no background": {"background": False},
    "no view directions": {"view": False},
    "pixelshuffle": {"upsampling": "pixelshuffle"},
    "single pass": {"importance": 0},
}

TIMES = torch.tensor([[0.0, 0.5, 0.5], [0.2, 1.0, 0.2]])


def codes(spec=SMALL, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "ws": torch.randn(batch, spec.num_ws, spec.w_dim, generator=generator),
        "z_motion": torch.randn(batch, spec.motion_dim, generator=generator),
        "z_bg": torch.randn(batch, spec.code_dim, generator=generator),
    }


def cameras(batch=2, seed=0):
    return CameraPrior().sample(batch, RandomStream(seed))
