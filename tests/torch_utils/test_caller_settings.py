"""Settings that a calling program may have changed for all of its code."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from torch_utils.caller_settings import without_autocast, without_defaults

SETTINGS = {
    "older": "torch.backends.cuda.matmul.allow_tf32 = True",
    "by name": "torch.set_float32_matmul_precision('high')",
    "newer": "torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = 'tf32'",
    "newer, all": "torch.backends.fp32_precision = torch.backends.cuda.matmul.fp32_precision = 'tf32'",
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_products_are_exact_whatever_settings_a_program_uses(kind):
    """PyTorch raises errors where the older settings are read after the newer ones have been changed."""
    if "newer" in kind and not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("this PyTorch has the older settings only")
    script = f"""
        import torch
        from metrics.random_features import RandomFeatures
        from torch_utils.caller_settings import full_float32
        from torch_utils.rng import RandomStream
        from training.augment.ada import AdaAugment

        def state():
            products = torch.backends.cuda.matmul
            return products.fp32_precision if "newer" in {kind!r} else products.allow_tf32

        {SETTINGS[kind]}
        before = state()
        assert before in (True, "tf32"), before
        with full_float32():
            assert state() in (False, "ieee"), state()
        assert state() == before
        assert RandomFeatures()(torch.zeros(1, 3, 4, 16, 16, dtype=torch.uint8)).isfinite().all()
        augment = AdaAugment()
        augment.p.fill_(1)
        assert augment(torch.zeros(1, 2, 3, 16, 16), RandomStream(0), prefix="").shape == (1, 2, 3, 16, 16)
        assert state() == before and not torch.backends.cudnn.deterministic
    """
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("context", [without_autocast, without_defaults])
def test_a_device_as_a_context_is_left_for_the_cpu(context, monkeypatch):
    """Also where PyTorch's function tells only of devices that are set for good, as before 2.8."""
    monkeypatch.setattr(torch, "get_default_device", lambda: torch.device("cpu"))
    with torch.device("meta"):
        with context():
            assert torch.zeros(1).device.type == "cpu"
        assert torch.zeros(1).device.type == "meta"
