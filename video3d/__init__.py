"""The Python interface under one name: `video3d.load_generator(...)`, see docs/python.md."""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any


def _explain(error: ImportError) -> None:
    """Name a module of the user's that hides one of this program's packages, whose names are common."""
    root = Path(__file__).resolve().parents[1]
    for package in ("dnnlib", "torch_utils", "renderer", "training"):
        file = getattr(sys.modules.get(package), "__file__", None)
        if file is not None and Path(file).resolve() != root / package / "__init__.py":
            raise ImportError(f"{file} hides this program's package '{package}': rename it.") from error


try:
    from dnnlib import __version__
except ImportError as error:
    _explain(error)
    raise

if TYPE_CHECKING:
    from training.inference.render_videos import save_video
    from training.inference.video_discriminators import VideoDiscriminators, load_discriminators
    from training.inference.video_generator import VideoGenerator, load_generator

MODULES = {  # modules of training.inference by exported name
    "VideoDiscriminators": "video_discriminators",
    "VideoGenerator": "video_generator",
    "load_discriminators": "video_discriminators",
    "load_generator": "video_generator",
    "save_video": "render_videos",
}

__all__ = [
    "VideoDiscriminators",
    "VideoGenerator",
    "__version__",
    "load_discriminators",
    "load_generator",
    "save_video",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """The names above, imported on first use: importing PyTorch is slow, and the commands' --help does not need it."""
    if name in MODULES:
        try:
            return getattr(importlib.import_module(f"training.inference.{MODULES[name]}"), name)
        except ImportError as error:
            _explain(error)
            raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
