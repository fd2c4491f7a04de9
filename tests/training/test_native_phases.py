"""Whole phases of training on native operators: the same gradients as on plain PyTorch, R1 and path length included."""

import collections

import pytest
import torch

from tests.goldens.small_losses import PHASES, gradients, make_loss, real_batch
from tests.streams import Recorder
from tests.torch_utils.native import needs_compiler
from torch_utils import custom_ops
from torch_utils.ops import bias_act, composite, upfirdn2d
from training.augment.ada import AdaAugment
from training.loss import VideoBatch

pytestmark = needs_compiler


def phase_gradients(phase):
    augment = AdaAugment(pipeline="bg").double()
    augment.p.fill_(0.8)
    loss, generator, discriminators, _ = make_loss(augment=augment, r1_gamma=10)
    generator.double()
    discriminators.double()
    loss.pl_mean = loss.pl_mean.double()
    batch = real_batch()
    batch = VideoBatch(frames=batch.frames.double(), dt=batch.dt.double(), c=batch.c.double())
    loss.accumulate(phase, batch=batch, gain=1.0, stream=Recorder(0, torch.float64))
    return gradients(generator) | {f"d.{name}": g for name, g in gradients(discriminators).items()}


class Counting:
    """A library that counts the calls of its functions."""

    def __init__(self, library, calls):
        self.library, self.calls = library, calls

    def __getattr__(self, name):
        self.calls[name] += 1
        return getattr(self.library, name)


@pytest.mark.parametrize("phase", PHASES)
def test_gradients_are_those_of_plain_pytorch(phase, monkeypatch):
    with monkeypatch.context() as plain:
        plain.setattr(custom_ops, "load", lambda *_: None)
        # Differentiated by PyTorch, not by upfirdn2d's own rule.
        plain.setattr(upfirdn2d, "_Upfirdn2d", collections.namedtuple("Plain", "apply")(lambda x, f, r: r.run(x, f)))
        expected = phase_gradients(phase)

    calls = collections.Counter()
    libraries = {name: custom_ops.require(name, "cpu") for name in ("bias_act", "composite", "upfirdn2d")}
    monkeypatch.setattr(custom_ops, "load", lambda name, _: Counting(libraries[name], calls))
    for module in (bias_act, composite, upfirdn2d):
        monkeypatch.setattr(module, "NATIVE_MIN_SIZE", 0)
    actual = phase_gradients(phase)

    wanted = {"upfirdn2d"} | ({"weighted_sum"} if phase in ("Gmain", "Greg") else set())
    assert wanted <= calls.keys()
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(actual[name], gradient, rtol=1e-8, atol=1e-9 * scale + 1e-14, msg=name)
    assert any(g.any() for g in expected.values())
