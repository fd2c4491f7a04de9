"""Networks within torch.compile, which users' programs may apply to them."""

import pytest
import torch

from tests.goldens.networks import SMALL, build_generator
from tests.torch_utils.native import needs_compiler
from torch_utils import custom_ops
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.upfirdn2d import setup_filter, upsample2d
from training.inference.video_generator import VideoGenerator


@pytest.fixture(autouse=True)
def without_earlier_traces():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@needs_compiler
@pytest.mark.slow
def test_the_gain_of_a_product_with_bias(tmp_path, monkeypatch):
    """PyTorch's compiler (2.14) fuses a sum with a matrix product into one operation and drops its factor."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    random = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=random) for shape in ([2, 8], [8, 8], [8]))

    def layer(x):
        return bias_act(x @ weight, bias, act="lrelu")

    torch.testing.assert_close(torch.compile(layer)(x), layer(x))


def test_a_generator():
    """docs/python.md: the same result up to rounding."""
    generator = VideoGenerator(build_generator(SMALL).eval(), about={"dataset": {}, "progress": {}})
    latents = generator.latents(3)
    codes = {"z_motion": latents.z_motion, "z_bg": latents.z_bg, "times": torch.tensor([[0.5]])}
    cameras = generator.camera_prior.at()
    expected = generator(latents.z, **codes, cameras=cameras).image
    compiled = torch.compile(generator, backend="eager")(latents.z, **codes, cameras=cameras).image
    assert expected.std() > 0.01
    torch.testing.assert_close(compiled, expected, rtol=0, atol=1e-4)


def test_native_operators_are_traced_in_plain_pytorch(monkeypatch):
    """Native operators cannot be traced: every compiled network with gradients ended in a compiler error."""
    loaded = []
    monkeypatch.setattr(custom_ops, "_outcome", lambda name, device: loaded.append(name) or "none here")
    x = torch.ones(4, 3, 64, 64, requires_grad=True)  # of a size that the native operator takes
    f = setup_filter([1, 3, 3, 1])
    y = upsample2d(x, f)
    assert loaded == ["upfirdn2d"]
    compiled = torch.compile(upsample2d, backend="eager")(x, f)
    assert loaded == ["upfirdn2d"] and torch.equal(compiled, y)
    (gradient,) = torch.autograd.grad(compiled.sum(), x)
    assert gradient.mean() == pytest.approx(4, abs=0.2)
