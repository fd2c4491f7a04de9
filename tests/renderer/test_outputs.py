"""Maps of a rendered frame and their pixels."""

import math
import types

import pytest
import torch

import dnnlib
from renderer.cameras import CameraPrior
from renderer.outputs import OUTPUTS, displayed, output_maps, parse_outputs

CAMERA = CameraPrior().at()


def frames(size=4):
    """A plane across the axis at depth 1, half opaque at the top row, transparent (0.1) at the bottom one."""
    opacity = torch.ones(1, 1, size, size)
    opacity[0, 0, 0], opacity[0, 0, -1] = 0.75, 0.1
    generator = torch.Generator().manual_seed(0)
    return types.SimpleNamespace(
        image_raw=torch.randn(1, 1, 3, size, size, generator=generator),
        depth=opacity * 1.0,  # not normalised
        opacity=opacity,
    )


def test_names():
    assert parse_outputs("depth, rgb,depth") == ["depth", "rgb"]
    assert OUTPUTS[0] == "rgb"
    with pytest.raises(dnnlib.UserError, match=f"no output 'colour'; choose from {', '.join(OUTPUTS)}"):
        parse_outputs("rgb,colour")


def test_maps_over_a_background():
    rendered = frames()
    maps = output_maps(rendered, ["normal", "raw", "depth", "opacity"], CAMERA, background=True)
    assert list(maps) == ["normal", "raw", "depth", "opacity"]
    assert torch.equal(maps["raw"], rendered.image_raw[:, 0])
    assert torch.equal(maps["opacity"], rendered.opacity)
    assert torch.allclose(maps["depth"][0, 0, :3], torch.ones(3, 4)) and maps["depth"][0, 0, 3].isnan().all()
    facing = torch.tensor([0.0, 0.0, 1.0])[:, None, None]
    assert torch.allclose(maps["normal"][0, :, :3], facing.expand(3, 3, 4), atol=1e-4)
    assert (maps["normal"][0, :, 3] == 0).all()


@pytest.mark.parametrize("name, needed", [("raw", {"image_raw"}), ("depth", {"depth", "opacity"})])
def test_only_maps_that_are_asked_for_are_read(name, needed):
    rendered = types.SimpleNamespace(**{key: value for key, value in vars(frames()).items() if key in needed})
    found, expected = (output_maps(volume, [name], CAMERA, background=True) for volume in (rendered, frames()))
    assert found.keys() == expected.keys() == {name}
    assert torch.equal(found[name].nan_to_num(-1), expected[name].nan_to_num(-1))


def test_without_a_background_every_pixel_has_a_surface():
    rendered = frames()
    rendered.depth = torch.full_like(rendered.depth, 0.9)
    maps = output_maps(rendered, ["depth"], CAMERA, background=False)
    assert torch.equal(maps["depth"], rendered.depth)


def pixels(name, values, size=(1, 1)):
    return displayed(name, values, size=size, near=0.8, far=1.2)


def test_depth_is_white_when_near_and_black_when_far_or_nothing():
    shown = pixels("depth", torch.tensor([[[0.8, 0.9, 1.2, math.nan, 0.7, 2.0]]]), (1, 6))
    assert shown.dtype == torch.uint8 and shown.shape == (3, 1, 6)
    assert shown[0, 0].tolist() == [255, 191, 0, 0, 255, 0] and torch.equal(shown[0], shown[2])


def test_opacity_and_normals_and_colours():
    assert pixels("opacity", torch.tensor([[[0.0, 0.5, 1.0]]]), (1, 3))[0, 0].tolist() == [0, 128, 255]
    normals = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -0.6, 0.8], [0.0, 0.0, 0.0]]).T[:, None]
    expected = [[128, 128, 255], [255, 128, 128], [128, 51, 230], [0, 0, 0]]
    assert pixels("normal", normals, (1, 4))[:, 0].T.tolist() == expected
    assert pixels("raw", torch.tensor([-1.0, 0.0, 3.0])[:, None, None])[:, 0, 0].tolist() == [0, 128, 255]


def test_small_maps_are_enlarged_by_repeating_pixels():
    values = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    shown = pixels("opacity", values, (4, 6))[0]
    assert torch.equal(shown, (values[0] * 255).to(torch.uint8).repeat_interleave(2, 0).repeat_interleave(3, 1))
