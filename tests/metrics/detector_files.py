"""Small TorchScript files with the call signatures of the published detectors."""

import warnings
from pathlib import Path

import torch


class SmallI3D(torch.nn.Module):
    """Called like i3d_torchscript.pt: (x, rescale, resize, return_features) → [N, width]."""

    def __init__(self, width: int):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weight", torch.randn(width, 3 * 4 * 4 * 4, generator=generator))

    def forward(self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False):
        if rescale:
            x = x.float() / 127.5 - 1
        if resize:
            x = torch.nn.functional.interpolate(x, [x.shape[2], 32, 32], mode="trilinear")
        x = torch.nn.functional.adaptive_avg_pool3d(x, [4, 4, 4]).flatten(1)
        x = x @ self.weight.t()
        if return_features:
            return x
        return x.softmax(dim=1)


class SmallInception(torch.nn.Module):
    """Called like inception-2015-12-05.pt: features [N, width], or probabilities [N, 8]."""

    def __init__(self, width: int):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.register_buffer("weight", torch.randn(width, 48, generator=generator))
        self.register_buffer("classes", torch.randn(8, width, generator=generator) / 8)

    def forward(self, x: torch.Tensor, return_features: bool = False, no_output_bias: bool = False):
        x = torch.nn.functional.adaptive_avg_pool2d(x.float() / 127.5 - 1, [4, 4]).flatten(1) @ self.weight.t()
        if return_features:
            return x
        assert no_output_bias
        return (x @ self.classes.t()).softmax(dim=1)


class SmallIdentity(torch.nn.Module):
    """Float faces in -1…1 to features: their mean colours."""

    def forward(self, x: torch.Tensor):
        assert x.is_floating_point() and bool((x.abs() <= 1).all())
        return x.mean(dim=[2, 3])


class SmallClips(torch.nn.Module):
    """Float clips in -1…1 to features: the mean colours of their frames."""

    def forward(self, x: torch.Tensor):
        assert x.is_floating_point() and x.dim() == 5 and bool((x.abs() <= 1).all())
        return x.mean(dim=[3, 4]).flatten(1)


def save_torchscript(module: torch.nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated
        torch.jit.script(module).save(str(path))
    return path


def save_i3d(path: Path, *, width: int = 400) -> Path:
    return save_torchscript(SmallI3D(width), path)


def save_inception(path: Path, *, width: int = 2048) -> Path:
    return save_torchscript(SmallInception(width), path)
