"""Previews: which cameras and which depths their pictures show."""

import types

import numpy as np
import pytest
import torch
from PIL import Image

from renderer.cameras import Cameras, camera_angles
from renderer.trajectories import camera_path
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


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("own", [False, True])
def test_videos_have_the_cameras_of_their_programs(tmp_path, monkeypatch, steps, own):
    """A prior of the user's own needs no ranges."""
    generator, shown = small_generator(), []
    prior = generator.camera_prior
    if own:
        generator.camera_prior = types.SimpleNamespace(at=lambda yaw=0.5: prior.at(yaw), sample=prior.sample)

    class Renderer:
        def __init__(self, *_, **__): ...

        def render(self, time, cameras):
            shown.append(cameras[0])
            return torch.zeros(len(cameras), 3, SIZE, SIZE)

    monkeypatch.setattr(previews, "FrameRenderer", Renderer)
    made = Previews(
        folder=tmp_path, dataset=types.SimpleNamespace(nframes=steps), generator=generator, images=2, columns=2,
        videos=2, seed=5, device=torch.device("cpu"),
    )  # fmt: skip
    monkeypatch.setattr(made, "_write_images", lambda *_: None)
    programs = "front", "rotation_camera_yaw"
    assert set(made.write(3)) == {f"{program}_seed000{seed}" for program in programs for seed in (0, 1)}
    expected = [camera_path(program, prior, steps) for program in programs]
    torch.testing.assert_close(
        Cameras.join(shown).cam2world, torch.cat([path.cam2world.flip(0) for path in expected]), rtol=0, atol=1e-7
    )


def test_grids_are_no_wider_than_their_images(tmp_path):
    generator, device = small_generator(), torch.device("cpu")
    shared = {"folder": tmp_path, "dataset": None, "generator": generator, "videos": 0, "seed": 5, "device": device}
    assert [Previews(images=3, columns=columns, **shared).columns for columns in (2, 3, 100)] == [2, 3, 3]
