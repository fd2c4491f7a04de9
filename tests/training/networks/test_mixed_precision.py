"""bfloat16 on a CPU: only in the main phases, only in the layers of half precision, and near float32."""

import pytest
import torch

from dnnlib import UserError
from tests.goldens.small_losses import PHASES, gradients, make_loss, real_batch
from torch_utils.rng import RandomStream
from training.launch.config import compose_options
from training.launch.option_rules import check_values
from training.networks.mixed_precision import HalfPrecision, bfloat16_on_cpu
from training.networks.upsampler import UpsamplerBlock


def run(phase, *, bfloat16):
    """Gradients and the types of the results of all modules."""
    loss, generator, discriminators, reports = make_loss(bfloat16=bfloat16)
    for block in generator.modules():
        if isinstance(block, UpsamplerBlock):
            block.fp16 = True
    types = set()
    for network in (generator, discriminators):
        for module in network.modules():
            module.register_forward_hook(lambda _, __, result: types.update(x.dtype for x in tensors(result)))
    loss.accumulate(phase, batch=real_batch(), gain=1.0, stream=RandomStream(3))
    return gradients(generator) | gradients(discriminators), types, reports


def tensors(result):
    if isinstance(result, torch.Tensor):
        return [result]
    return [x for part in result for x in tensors(part)] if isinstance(result, (tuple, list)) else []


@pytest.mark.parametrize("phase", PHASES)
def test_which_phases_take_it_and_how_far_gradients_move(phase):
    full, types, _ = run(phase, bfloat16=False)
    assert types == {torch.float32}
    half, types, reports = run(phase, bfloat16=True)
    assert full.keys() == half.keys() and all(g.dtype == torch.float32 for g in half.values())
    if phase in ("Greg", "Dreg"):
        assert types == {torch.float32}
        assert all(torch.equal(half[name], gradient) for name, gradient in full.items())
        return
    assert types == {torch.float32, torch.bfloat16}
    one, other = (torch.cat([g[name].flatten() for name in full]) for g in (half, full))
    assert 0 < float((one - other).norm()) < 0.05 * float(other.norm())
    assert float(torch.nn.functional.cosine_similarity(one, other, dim=0)) > 0.999
    assert not reports["Progress/nonfinite_losses"]


def test_the_switch_is_off_again_after_a_mistake():
    half = HalfPrecision()
    cpu, module = torch.device("cpu"), torch.nn.Identity()
    module.half_precision = half
    assert half.type(cpu) is None and half.type(torch.device("cuda")) == torch.float16
    with pytest.raises(ZeroDivisionError), bfloat16_on_cpu(module):
        assert half.type(cpu) == torch.bfloat16
        raise ZeroDivisionError
    assert half.type(cpu) is None and half.type(torch.device("meta")) is None


@pytest.mark.parametrize(
    "words, expected",
    [
        (["precision=bf16", "fp32=true"], "precision=bf16 asks for half precision and fp32=true forbids it"),
        (["precision=half"], "precision must be one of float32, bf16, got 'half'"),
    ],
)
def test_options_that_contradict(words, expected):
    with pytest.raises(UserError, match=expected):
        check_values(compose_options(["outdir=.", "data=.", *words]))
    check_values(compose_options(["outdir=.", "data=.", words[0].replace("half", "float32")]))
