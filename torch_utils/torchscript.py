"""Networks in TorchScript files. Such a file is a program: load only known files, or those named by the user."""

import os
import warnings

import torch

from dnnlib import UserError, one_line, require_utf8
from torch_utils.memory import explain_loading

__all__ = ["load_torchscript"]


def load_torchscript(path: str | os.PathLike, device: torch.device | str) -> torch.nn.Module:
    """The network in a file.

    Raises:
        UserError: Not a TorchScript file, or a damaged one; or the memory is full.
    """
    require_utf8(path)
    try:
        with warnings.catch_warnings(), explain_loading(path):
            warnings.simplefilter("ignore")  # TorchScript is deprecated; these files exist in no other form
            return torch.jit.load(os.fspath(path), map_location=device).eval()
    except UserError:
        raise
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"{os.fspath(path)} cannot be loaded as TorchScript: it is another kind of file, or damaged "
            f"({one_line(error)[:120]})."
        ) from error
