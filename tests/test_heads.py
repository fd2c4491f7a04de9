"""The small model in assets/heads: it loads, renders the picture on its model card, and its heads are solid."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import video3d
from dnnlib import __version__

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "heads"


@pytest.fixture(scope="module")
def heads() -> video3d.VideoGenerator:
    return video3d.load_generator(FOLDER)


def test_it_draws_the_picture_on_its_card(heads, tmp_path):
    heads.save_pretrained(tmp_path)
    heads.save_card(tmp_path, "heads")
    kept, drawn = (np.asarray(Image.open(folder / "samples.png")).astype(int) for folder in (FOLDER, tmp_path))
    assert np.abs(kept - drawn).max() <= 2
    assert (FOLDER / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    kept, written = (json.loads((folder / "config.json").read_text()) for folder in (FOLDER, tmp_path))
    assert kept | {"program": __version__} == written


def test_faces_are_nearer_than_what_surrounds_them(heads):
    depth = heads.frame(seed=list(range(8)), t=0.5, outputs=("depth",))["depth"][:, 0]  # NaN where there is no surface
    size = depth.shape[-1]
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    distance = torch.hypot(rows - (size - 1) / 2, columns - (size - 1) / 2) / size
    face, rim = depth[:, distance < 0.1], depth[:, (distance > 0.25) & (distance < 0.35)]
    assert not face.isnan().any()
    assert (face.mean(1) < rim.nanmean(1) - 0.02).all(), "a head's radius is 0.1"
