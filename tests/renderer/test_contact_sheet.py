"""Contact sheets."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from dnnlib import UserError
from renderer.contact_sheet import contact_sheet, main, read_frames
from renderer.depth_files import DepthScale, write_depth_png
from renderer.video import save_png


def write(folder, values, size=4):
    folder.mkdir()
    for i, value in enumerate(values):
        save_png(torch.full([3, size, size], value, dtype=torch.uint8), folder / f"{i:04d}.png")
    return str(folder)


def test_frames_are_spread_from_the_first_to_the_last(tmp_path):
    folder = write(tmp_path / "a", range(16))
    assert read_frames(folder, 4)[:, 0, 0, 0].tolist() == [0, 5, 10, 15]
    assert read_frames(folder, 1)[:, 0, 0, 0].tolist() == [0]
    assert read_frames(write(tmp_path / "b", [7]), 3)[:, 0, 0, 0].tolist() == [7, 7, 7]


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    folder = write(tmp_path / "a", [1, 2])
    for name, other in (("0000", "9999"), ("0001", "10000")):
        (tmp_path / "a" / f"{name}.png").rename(tmp_path / "a" / f"{other}.png")
    assert read_frames(folder, 2)[:, 0, 0, 0].tolist() == [1, 2]


def test_rows_of_other_proportions_are_not_distorted():
    with pytest.raises(UserError, match="different proportions .4×4, 8×4 pixels"):
        contact_sheet([torch.zeros([2, 3, 4, size], dtype=torch.uint8) for size in (4, 8)])


def test_rows_of_other_sizes_are_enlarged():
    small = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8).expand(2, 3, 2, 2)
    sheet = contact_sheet([torch.full([2, 3, 4, 4], 9, dtype=torch.uint8), small], scale=2)
    assert sheet.shape == (3, 16, 16) and (sheet[:, :8] == 9).all()
    assert sheet[0, 8:, :8].tolist() == [[1] * 4 + [2] * 4] * 4 + [[3] * 4 + [4] * 4] * 4


def test_depth_is_shown_as_in_its_video(tmp_path):
    scale = DepthScale.of_range(0.8, 1.2)
    scale.write(tmp_path)
    write_depth_png(torch.tensor([[0.8, 0.9], [1.2, torch.nan]]), tmp_path / "0000.png", scale)
    assert read_frames(str(tmp_path), 1)[0, 0].tolist() == [[255, 191], [0, 0]]


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="Cannot read the folder"):
        read_frames(str(tmp_path / "none"), 2)
    with pytest.raises(UserError, match="render with --save_frames"):
        read_frames(str(tmp_path), 2)
    folder = write(tmp_path / "a", [1, 2])
    save_png(torch.zeros([3, 5, 5], dtype=torch.uint8), tmp_path / "a" / "0001.png")
    with pytest.raises(UserError, match="differ in size"):
        read_frames(folder, 2)
    (tmp_path / "a" / "0001.png").write_text("text")
    with pytest.raises(UserError, match="Cannot read the frame .*0001.png"):
        read_frames(folder, 2)


def test_the_command(tmp_path):
    folders = [write(tmp_path / name, [10, 20, 30]) for name in "ab"]
    command = [sys.executable, "-m", "renderer.contact_sheet", str(tmp_path / "s.png"), *folders, "--columns", "3"]
    result = subprocess.run([*command, "--scale", "2"], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(tmp_path / "s.png")
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    assert sheet.shape == (16, 24, 3) and sheet[0, ::8, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    "name, message", [("s.jpg", "s.jpg' will be a PNG file"), ("a/s.png", "a/s.png' would lie among the frames")]
)
def test_sheets_of_other_names_or_among_the_frames_are_refused(tmp_path, name, message):
    folder = write(tmp_path / "a", [10, 20])
    with pytest.raises(UserError, match=message):
        main([str(tmp_path / name), folder], standalone_mode=False)
    assert not (tmp_path / name).exists()
