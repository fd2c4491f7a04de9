"""Depth maps as PNG: no loss beyond 16-bit rounding."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

import dnnlib
from renderer.depth_files import SCALE_FILE, DepthScale, read_depth_png, write_depth_png

NEAR, FAR = 0.88, 1.12
SCALE = DepthScale.of_range(NEAR, FAR)


@pytest.fixture
def folder(tmp_path):
    SCALE.write(tmp_path)
    return tmp_path


def test_all_values_survive_exactly(folder):
    """Every depth that the file can hold is read back exactly."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    depth = torch.from_numpy(SCALE.decode(values))
    write_depth_png(depth, folder / "0000.png", SCALE)
    with Image.open(folder / "0000.png") as image:
        assert image.mode == "I;16" and np.array_equal(np.asarray(image), values)
    found = read_depth_png(folder / "0000.png")
    assert np.array_equal(found, depth.numpy(), equal_nan=True)
    assert math.isnan(found[0, 0]) and found[0, 1] == pytest.approx(NEAR) and found[-1, -1] == pytest.approx(FAR)


def test_depths_are_rounded_to_half_a_step_and_nothing_stays_nothing(folder):
    depth = torch.empty(40, 30).uniform_(NEAR, FAR, generator=torch.Generator().manual_seed(0))
    depth[3, 4:9] = math.nan
    depth[0, 0], depth[0, 1] = NEAR - 1e-5, FAR + 1  # rounding may leave the range a little
    write_depth_png(depth, folder / "a.png", SCALE)
    found = read_depth_png(folder / "a.png")
    assert np.array_equal(np.isnan(found), depth.isnan().numpy())
    assert np.nanmax(np.abs(found - depth.clamp(NEAR, FAR).double().numpy())) <= SCALE.scale * 0.51
    assert SCALE.scale == pytest.approx((FAR - NEAR) / 65534)


def test_the_scale_is_documented_in_the_file(folder):
    content = json.loads((folder / SCALE_FILE).read_text())
    assert content == {
        "format": "depth-frames", "version": 1, "offset": SCALE.offset, "scale": SCALE.scale,
        "unit": "scene units along the viewing axis",
    }  # fmt: skip
    assert DepthScale.read(folder) == SCALE


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": "depth-frames", "version": 2, "offset": 0, "scale": 1}',
     '{"format": "depth-frames", "version": 1, "offset": 0, "scale": 0}',
     '{"format": "depth-frames", "version": 1, "offset": NaN, "scale": 1}',
     '{"format": "depth-frames", "version": 1, "offset": "x", "scale": 1}', "[" * 10000],
)  # fmt: skip
def test_other_scale_files_are_refused(tmp_path, content):
    (tmp_path / SCALE_FILE).write_text(content)
    with pytest.raises(dnnlib.UserError, match="does not hold the scale of depth maps"):
        DepthScale.read(tmp_path)


def test_other_pictures_are_refused(tmp_path, folder):
    with pytest.raises(dnnlib.UserError, match="Cannot read the depth map"):
        read_depth_png(folder / "none.png")
    (folder / "text.png").write_text("text")
    with pytest.raises(dnnlib.UserError, match="Cannot read the depth map"):
        read_depth_png(folder / "text.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "grey.png")
    with pytest.raises(dnnlib.UserError, match="16-bit grey PNG is needed"):
        read_depth_png(folder / "grey.png")
    (folder / SCALE_FILE).unlink()
    with pytest.raises(dnnlib.UserError, match=r"Cannot read the scale of the depth maps, .*depth\.json"):
        read_depth_png(folder / "grey.png")
