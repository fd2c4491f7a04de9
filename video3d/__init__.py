"""The Python interface under one name: `video3d.load_generator(...)`, see docs/python.md."""

import importlib
from typing import TYPE_CHECKING, Any

from dnnlib import __version__

if TYPE_CHECKING:
    from training.inference.library import (
        VideoDiscriminators,
        VideoGenerator,
        load_discriminators,
        load_generator,
        save_video,
    )

__all__ = [
    "VideoDiscriminators",
    "VideoGenerator",
    "__version__",
    "load_discriminators",
    "load_generator",
    "save_video",
]


def __getattr__(name: str) -> Any:
    """The names above, imported on first use: PyTorch takes its time, and the commands' --help needs none."""
    if name in __all__:
        return getattr(importlib.import_module("training.inference.library"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
