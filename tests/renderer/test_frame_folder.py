"""Folders of frames that appear complete or not at all, and steps of an earlier call.

The command's are in tests/test_generate.py.
"""

import os
from pathlib import Path

from renderer.frame_folder import FrameFolder, remove_earlier_steps


def write(folder, frames):
    writer = FrameFolder(folder)
    for text in frames:
        Path(writer.next_frame()).write_text(text)
    return writer


def test_frames_appear_together_and_replace_those_of_a_longer_video(tmp_path):
    write(tmp_path / "video", "abc").close()
    (tmp_path / "video" / "notes.txt").write_text("kept")
    writer = write(tmp_path / "video", "xy")
    assert (tmp_path / "video" / "0000.png").read_text() == "a"
    writer.close()
    texts = {path.name: path.read_text() for path in (tmp_path / "video").iterdir()}
    assert texts == {"0000.png": "x", "0001.png": "y", "notes.txt": "kept"}
    write(tmp_path / "video", "z").abort()
    assert [path.name for path in tmp_path.iterdir()] == ["video"]
    assert len(os.listdir(tmp_path / "video")) == 3


def test_a_link_leads_to_its_folder(tmp_path):
    """Which may be on another file system, where hidden frames beside the link could not be moved to."""
    real = tmp_path / "large" / "frames"
    real.mkdir(parents=True)
    (tmp_path / "video").symlink_to(real)
    writer = write(tmp_path / "video", "ab")
    assert Path(writer.next_frame()).parent.parent == real.parent
    writer.close()
    assert (tmp_path / "video").is_symlink() and sorted(os.listdir(real)) == ["0000.png", "0001.png"]


def test_steps_of_an_earlier_call_are_removed(tmp_path):
    other = ["x.ply", "x_0000.png", "x_0001.txt", "x_01.ply", "x_y_0002.ply", "y_0002.ply", "x_0002_0002.ply", "x.json"]
    for name in ("x_0000.ply", "x_0001.ply", "x_0002.ply", "x_10000.ply", *other):
        (tmp_path / name).touch()
    remove_earlier_steps(tmp_path, "x", written=["x_0000.ply", "x_0001.ply"])
    assert sorted(os.listdir(tmp_path)) == sorted(["x_0000.ply", "x_0001.ply", *other])
    remove_earlier_steps(tmp_path, "x", written=["x.ply"])  # all steps in one file
    assert sorted(os.listdir(tmp_path)) == sorted(["x_0000.ply", "x_0001.ply", *other])
