"""Previews: which cameras and which depths their pictures show."""

import types

import numpy as np
import pytest
import torch
from PIL import Image

from renderer.cameras import camera_angles
from renderer.video import to_uint8
from tests.small_network import small_generator
from torch_utils.rng import RandomStream
from training.monitoring import previews
from training.monitoring.previews import Previews

SIZE, CONTENTS, COLUMNS = 8, 10, 4  # more contents than are rendered at a time


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """The generator, and its previews of frames whose colour is the yaw and whose depth the number of the content."""
    generator = small_generator()
    settings = generator.settings
    depths = settings.near + (settings.far - settings.near) * torch.arange(CONTENTS) / CONTENTS

    class Renderer:
        def __init__(self, generator, ws, *, z_motion, z_bg):
            number = (made.latents.z_motion[:, None] == z_motion).all(dim=-1).int().argmax(dim=0)
            self.depth = depths[number][:, None, None, None].expand(-1, 1, SIZE, SIZE)

        def output(self, time, cameras):
            colour = camera_angles(cameras)[:, :1, None, None, None].expand(-1, 1, 3, SIZE, SIZE)
            return types.SimpleNamespace(
                image=colour, image_raw=colour, depth=self.depth, opacity=torch.ones_like(self.depth)
            )

    monkeypatch.setattr(previews, "FrameRenderer", Renderer)
    made = Previews(
        folder=tmp_path, dataset=None, generator=generator, images=CONTENTS, columns=COLUMNS, videos=0, seed=5,
        device=torch.device("cpu"),
    )  # fmt: skip
    made.write(3)

    def levels(name):
        """The grey level of every content."""
        pixels = np.asarray(Image.open(tmp_path / "images" / f"{name}_000003.png"))[::SIZE, ::SIZE, 0]
        return pixels.flatten()[:CONTENTS].tolist()

    return generator, levels


def test_random_and_frontal_views(pictures):
    generator, levels = pictures
    cameras = generator.camera_prior.sample(CONTENTS, RandomStream(5))
    assert levels("fakes_random") == to_uint8(camera_angles(cameras)[:, 0]).tolist()
    assert levels("fakes_frontal") == [128] * CONTENTS


def test_depth_is_white_at_the_near_end(pictures):
    _, levels = pictures
    expected = [255 * (1 - number / CONTENTS) for number in range(CONTENTS)]
    assert levels("depth_frontal") == pytest.approx(expected, abs=1)


def test_grids_are_no_wider_than_their_images(tmp_path):
    generator, device = small_generator(), torch.device("cpu")
    shared = {"folder": tmp_path, "dataset": None, "generator": generator, "videos": 0, "seed": 5, "device": device}
    assert [Previews(images=3, columns=columns, **shared).columns for columns in (2, 3, 100)] == [2, 3, 3]
