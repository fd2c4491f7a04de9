"""A dataset and options so small that a training iteration takes a few hundredths of a second."""

import math
from pathlib import Path

import numpy as np
from PIL import Image

from training.launch.run_dir import create_run_folder
from training.launch.setup import build_loop
from training.launch.validate import Plan, plan

OVERRIDES = [
    "model=stylenerf_small",
    "spec=small",
    "resolution=16",
    "nframes=4",
    "device=cpu",
    "kimg=0.032",
    "spec.kimg_per_tick=0.008",
    "spec.mb=4",
    "spec.mbstd=2",
    "spec.microbatch=2",
    "spec.map=1",
    "spec.fmaps=0.005",
    "spec.g_reg_interval=2",
    "spec.d_reg_interval=3",
    "model.generator.z_dim=8",
    "model.generator.w_dim=8",
    "model.generator.motion_dim=8",
    "model.generator.background_dim=4",
    "model.generator.motion.width=8",
    "model.generator.foreground.width=8",
    "model.generator.foreground.num_layers=2",
    "model.generator.foreground.feature_dim=8",
    "model.generator.background.width=8",
    "model.generator.background.num_layers=2",
    "model.generator.rendering.resolution=8",
    "model.generator.rendering.num_samples=4",
    "model.generator.rendering.path_lattice=4",
    "previews.images=3",
    "previews.columns=2",
    "previews.videos=0",
]


def write_frames(root: Path, *, videos: int = 5, frames: int = 4, size: int = 16) -> Path:
    """Videos of noise, `root/split/video_k/j.png`."""
    generator = np.random.RandomState(0)
    for video in range(videos):
        folder = root / "split" / f"video_{video}"
        folder.mkdir(parents=True)
        for frame in range(frames):
            pixels = generator.randint(0, 256, size=(size, size, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{frame}.png")
    return root


def make_plan(tmp_path: Path, *words: str) -> Plan:
    """The plan of a tiny training in `tmp_path/runs` on data in `tmp_path/data`."""
    data = tmp_path / "data"
    if not data.exists():
        write_frames(data)
    return plan([f"outdir={tmp_path / 'runs'}", f"data={data}", *OVERRIDES, *words])


def make_loop(tmp_path: Path, *words: str, folder: Path | None = None, **arguments):
    """A loop in a new run folder, or one that continues the run in `folder`."""
    import torch

    options = make_plan(tmp_path, *words).options
    resuming = folder is not None
    folder = folder or create_run_folder(options["outdir"], "tiny")
    return build_loop(options, folder, device=torch.device("cpu"), resuming=resuming, **arguments)


def spoil_gradients(loop, phase):
    """Make the gradients that a phase has accumulated NaN."""
    network = loop.loss.generator if phase.startswith("G") else loop.loss.discriminator
    for parameter in network.parameters():
        if parameter.grad is not None:
            parameter.grad.fill_(math.nan)
