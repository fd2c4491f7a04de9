"""Synthetic heads: the scene against its codes, and the set as files."""

import contextlib
import dataclasses
import filecmp
import json
import math
import os
import re
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dnnlib import UserError
from renderer.cameras import CameraPrior, camera_rays, pixel_centers
from renderer.depth import project
from renderer.rays import Rays
from renderer.volume_rendering import Fields, render_rays
from torch_utils.rng import RandomStream
from training.data.dataset import VideoPairDataset
from training.synthetic import make_dataset as synthetic
from training.synthetic.__main__ import main
from training.synthetic.head_model import DENSITY, HEAD_Z, Backdrop, TalkingHead
from training.synthetic.make_dataset import make_dataset, read_config
from training.synthetic.parameters import BACKGROUND_CODE, CONTENT_CODE, MOTION_CODE, Person, Pose, pose_at
from training.synthetic.render import DEPTH_UNIT, SHELL, SyntheticConfig, Truth, render_frames, render_video

CAMERA = {"fov": 18, "yaw": [-0.3, 0.3]}
PRIOR = CameraPrior(**CAMERA)
ANYBODY = Person.from_code([0.0] * CONTENT_CODE)


def pose(**values) -> Pose:
    fields = dict(turn=0.0, nod=0.0, tilt=0.0, mouth=0.0, eyes=1.0) | values
    return Pose(**{name: torch.tensor([value]) for name, value in fields.items()})


def density_at(head: TalkingHead, *points) -> torch.Tensor:
    density, _ = head(torch.tensor(points, dtype=torch.float32)[None, None, None], None)
    return density[0, 0, 0]


def look(head: TalkingHead, *, yaw: float = 0.0, size: int = 48):
    fields = Fields(head, Backdrop([0.0] * BACKGROUND_CODE))
    camera = PRIOR.at_angles([yaw], [math.pi / 2])
    return render_frames(fields, camera, size, frames=len(head.rotation), supersample=1)


def small_config(**changes) -> SyntheticConfig:
    values = dict(videos=3, frames=2, resolution=8, supersample=1, seed=5, camera=CAMERA)
    return SyntheticConfig(**(values | changes))


def same_files(a, b) -> bool:
    names = [sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()) for root in (a, b)]
    return names[0] == names[1] and all(filecmp.cmp(a / name, b / name, shallow=False) for name in names[0])


# ----------------------------------------------------------------------------------------------------------------------
# The scene


def test_a_head_is_dense_inside_and_nothing_is_outside():
    head = TalkingHead(ANYBODY, pose())
    inside, outside, behind_camera = density_at(head, [0.0, 0.0, HEAD_Z], [0.0, 0.2, 0.2], [0.5, 0.0, 0.0])
    assert inside > 0.9 * DENSITY
    assert outside == behind_camera == 0


def test_the_surface_lies_at_the_half_axes():
    head = TalkingHead(ANYBODY, pose())
    cheek = ANYBODY.width + 0.0
    edge = density_at(head, [0.04, cheek * math.sqrt(1 - (0.04 / ANYBODY.depth) ** 2), HEAD_Z])
    assert 0.3 * DENSITY < edge.item() < 1.1 * DENSITY  # the skull's own surface gives one half


def test_the_depth_of_the_nose_is_that_of_its_tip():
    _, depth, opacity = look(TalkingHead(ANYBODY, pose()), size=64)
    tip = ANYBODY.depth * 0.97 + ANYBODY.nose
    row = round((1 - (HEAD_Z - 0.012) / math.tan(math.radians(9))) * 32)
    assert opacity[0, row, 31] > 0.99
    assert depth[0, row, 31].item() == pytest.approx(1 - tip, abs=0.004)


@pytest.mark.parametrize("radius", [0.5, 1.2, 2.7, 3.8])
def test_cameras_elsewhere_with_the_same_framing_see_the_same_head(radius):
    config = small_config(resolution=32, supersample=2, frames=1, camera={"yaw": [-0.3, 0.3]})
    fov = 2 * math.degrees(math.atan(math.tan(math.radians(9)) / radius))
    moved = dataclasses.replace(config, camera={"yaw": [-0.3, 0.3], "radius": [radius, radius], "fov": fov})
    (_, truth), (_, truth_moved) = render_video(config, 0), render_video(moved, 0)
    share, share_moved = (float(t["opacity"].mean()) / 255 for t in (truth, truth_moved))
    assert share > 0.3 and share_moved == pytest.approx(share, rel=0.05)
    both = (truth["depth"] > 0) & (truth_moved["depth"] > 0)
    offset = (truth_moved["depth"][both] - truth["depth"][both].astype(float)) * DEPTH_UNIT
    assert np.median(offset) == pytest.approx(radius - 1, abs=0.01)


def test_cameras_at_distance_one_need_no_other_depths():
    video = Fields(TalkingHead(ANYBODY, pose()), Backdrop([0.3] * BACKGROUND_CODE))
    camera = PRIOR.sample(1, RandomStream(0))
    fixed = render_rays(video, Rays(*camera_rays(camera, pixel_centers(16))), SHELL, frames=1)
    image, depth, opacity = render_frames(video, camera, 16, frames=1, supersample=1)
    assert torch.equal(opacity[0].flatten(), 1 - fixed.transmittance[0, 0])
    assert torch.equal(image[0].flatten(1).T, fixed.values[0, 0])
    assert torch.equal(depth[0].flatten(), fixed.depth[0, 0] / opacity[0].flatten().clamp(min=1e-6))


def test_only_sets_with_cameras_elsewhere_are_of_the_later_version():
    versions = [small_config(camera=camera).as_dict()["version"] for camera in ({}, CAMERA, {"radius": [1, 1.0]})]
    assert versions == [2, 2, 2]
    assert small_config(camera={"radius": [1.0, 1.2]}).as_dict()["version"] == 3


def test_cameras_too_far_away_for_the_stored_depths():
    message = "camera.radius: synthetic heads are seen from at most 3.8 scene units, got 3.9."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        small_config(camera={"radius": [1.0, 3.9]})


def test_turning_moves_the_nose_as_the_rotation_says():
    angle = 0.3
    moved = TalkingHead(ANYBODY, pose(turn=angle))
    tip = np.array([ANYBODY.depth * 0.97 + 0.8 * ANYBODY.nose, 0.0, HEAD_Z - 0.012])
    x, y = tip[0] + 0.012, tip[1]
    there = [x * math.cos(angle) - 0.012, x * math.sin(angle) + y, tip[2]]
    assert density_at(moved, there).item() > 0.5 * DENSITY
    assert density_at(moved, tip.astype(np.float32).tolist()).item() < 0.1 * DENSITY


def test_a_camera_that_turns_with_the_head_sees_the_same_face():
    # About the up axis through the pivot; the camera turns about the origin, so the head shifts a little sideways.
    still = look(TalkingHead(ANYBODY, pose()))[0]
    both = look(TalkingHead(ANYBODY, pose(turn=0.2)), yaw=0.2)[0]
    turned = look(TalkingHead(ANYBODY, pose(turn=0.2)))[0]
    face = (slice(None), slice(None), slice(14, 30), slice(16, 32))
    assert (both - still)[face].abs().mean() < 0.4 * (turned - still)[face].abs().mean()


def test_an_open_mouth_is_dark_and_lowers_the_chin():
    closed, opened = (look(TalkingHead(ANYBODY, pose(mouth=value))) for value in (0.0, 1.0))
    difference = (opened[0] - closed[0])[0].mean(dim=0)
    mouth, brow = difference[26:34, 18:30], difference[8:16, 18:30]
    assert mouth.min() < -0.3 and brow.abs().max() < 0.02
    assert opened[2].sum() >= closed[2].sum()


def test_a_blink_changes_the_eyes_only():
    difference = (look(TalkingHead(ANYBODY, pose(eyes=0.0)))[0] - look(TalkingHead(ANYBODY, pose()))[0])[0].abs()
    changed = (difference.amax(dim=0) > 0.1).nonzero()
    assert len(changed) > 4
    assert changed[:, 0].min() >= 12 and changed[:, 0].max() <= 24


def test_motion_codes_move_the_head_and_content_codes_do_not():
    times = torch.linspace(0, 1, 5)
    still = pose_at([0.0] * MOTION_CODE, times)
    other = pose_at([1.0, 0.3, -0.5, 0.7, 0.2, 1.1, 0.4, -0.8, 0.9, -0.2], times)
    assert not torch.allclose(still.turn, other.turn) and not torch.allclose(still.mouth, other.mouth)
    assert other.mouth.min() >= 0 and other.mouth.max() <= 1
    assert other.eyes.min() >= 0 and other.eyes.max() <= 1
    rotation = other.rotation()
    torch.testing.assert_close(rotation @ rotation.transpose(1, 2), torch.eye(3).double().expand(5, 3, 3))


def test_frames_of_a_video_are_those_of_single_poses():
    poses = pose_at([0.4] * MOTION_CODE, torch.tensor([0.1, 0.9]))
    together = look(TalkingHead(ANYBODY, poses), size=16)
    for i, time in enumerate((0.1, 0.9)):
        alone = look(TalkingHead(ANYBODY, pose_at([0.4] * MOTION_CODE, torch.tensor([time]))), size=16)
        for both, one in zip(together, alone):
            torch.testing.assert_close(both[i], one[0], atol=2e-5, rtol=0)


def test_codes_of_a_wrong_length_are_refused():
    with pytest.raises(ValueError, match="content code has 16"):
        Person.from_code([0.0] * 3)
    with pytest.raises(ValueError, match="motion code has 10"):
        pose_at([0.0] * 3, torch.zeros(1))
    with pytest.raises(ValueError, match="background code has 12"):
        Backdrop([0.0])


# ----------------------------------------------------------------------------------------------------------------------
# The set


def test_the_layout_is_that_of_every_training_set_and_the_truth_fits_it(tmp_path):
    config = small_config(resolution=16)
    make_dataset(tmp_path / "set", config, workers=1)
    dataset = VideoPairDataset(path=tmp_path / "set", resolution=16, nframes=2)
    assert dataset.num_videos == 3 and dataset.num_clips == 3
    frames, stored = render_video(config, 1)
    assert torch.equal(dataset.clip(1), frames)
    truth = Truth.load(tmp_path / "set" / "truth" / "00001.npz")
    assert truth.depth.shape == truth.opacity.shape == (2, 16, 16)
    np.testing.assert_array_equal(np.isnan(truth.depth), stored["opacity"] <= 127)
    seen = ~np.isnan(truth.depth)
    assert truth.depth[seen].min() > 0.8 and truth.depth[seen].max() < 1.2
    np.testing.assert_allclose(truth.depth[seen] / DEPTH_UNIT, stored["depth"][seen], rtol=1e-6)
    assert truth.fov == 18 and truth.times.tolist() == [0.0, 1.0]
    assert (len(truth.content), len(truth.motion), len(truth.background)) == (16, 10, 12)
    config_file = json.loads((tmp_path / "set" / "synthetic.json").read_text())
    assert config_file == read_config(tmp_path / "set") and config_file["seed"] == 5


def test_the_stored_camera_sees_the_head_where_the_picture_shows_it():
    _, truth = render_video(small_config(resolution=32), 0)
    from renderer.cameras import Cameras

    camera = Cameras(torch.from_numpy(truth["cam2world"])[None], torch.from_numpy(truth["fov"])[None])
    place, depth = project(camera, torch.tensor([[[[0.0, 0.0, HEAD_Z]]]]))
    column = int((place[0, 0, 0, 0] + 1) * 16)
    row = int((1 - place[0, 0, 0, 1]) * 16)
    seen = truth["depth"][0, row, column] * DEPTH_UNIT
    assert 0.04 < depth.item() - seen < 0.13  # the surface lies before the skull's centre


def test_no_progress_bar_goes_into_a_log(tmp_path, capsys):
    make_dataset(tmp_path / "set", small_config(), workers=1)
    assert capsys.readouterr() == ("", "")


def test_the_same_options_give_the_same_bytes_with_any_number_of_processes(tmp_path):
    make_dataset(tmp_path / "one", small_config(), workers=1)
    make_dataset(tmp_path / "two", small_config(), workers=2)
    assert same_files(tmp_path / "one", tmp_path / "two")
    make_dataset(tmp_path / "other", small_config(seed=6), workers=1)
    assert not same_files(tmp_path / "one", tmp_path / "other")


def test_an_interrupted_set_is_finished_and_never_shows_itself_before(tmp_path, monkeypatch):
    make_dataset(tmp_path / "whole", small_config(), workers=1)
    calls = []
    write = synthetic._write_video

    def interrupted(config, folder, index):
        calls.append(index)
        if index == 1:
            raise KeyboardInterrupt
        write(config, folder, index)

    monkeypatch.setattr(synthetic, "_write_video", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_dataset(tmp_path / "set", small_config(), workers=1)
    assert not (tmp_path / "set").exists()
    unfinished = tmp_path / ".set.unfinished"
    first = unfinished / "videos" / "00000" / "000000.png"
    stamp = first.stat().st_mtime_ns
    (unfinished / "videos" / ".00001.tmp").mkdir()  # as a kill in the middle of a video leaves it
    monkeypatch.setattr(synthetic, "_write_video", write)
    make_dataset(tmp_path / "set", small_config(), workers=1)
    assert same_files(tmp_path / "whole", tmp_path / "set") and not unfinished.exists()
    assert (tmp_path / "set" / "videos" / "00000" / "000000.png").stat().st_mtime_ns == stamp


def test_nothing_is_left_of_a_set_without_a_video(tmp_path, monkeypatch):
    def failing(config, folder, index):
        raise UserError("The first video fails.")

    monkeypatch.setattr(synthetic, "_write_video", failing)
    with pytest.raises(UserError, match="The first video fails"):
        make_dataset(tmp_path / "new" / "deep" / "set", small_config(), workers=1)
    assert os.listdir(tmp_path) == []


def test_a_first_error_is_not_hidden_and_the_folder_stays_for_those_who_wait(tmp_path, monkeypatch):
    there = []

    def failing(config, folder, index):
        shutil.rmtree(os.path.join(folder, "videos"))
        raise UserError("The first video fails.")

    class Watched(contextlib.ExitStack):
        def __exit__(self, *error):
            there.append(os.path.isdir(tmp_path / ".set.unfinished"))

    monkeypatch.setattr(synthetic, "_write_video", failing)
    monkeypatch.setattr(synthetic, "exclusive_lock", lambda folder: Watched())
    with pytest.raises(UserError, match="The first video fails"):
        make_dataset(tmp_path / "set", small_config(), workers=1)
    assert there == [True] and os.listdir(tmp_path) == []


def test_an_interrupted_set_of_other_options_is_begun_anew(tmp_path):
    make_dataset(tmp_path / "whole", small_config(), workers=1)
    make_dataset(tmp_path / "old", small_config(seed=6), workers=1)
    os.rename(tmp_path / "old", tmp_path / ".set.unfinished")
    shutil.rmtree(tmp_path / ".set.unfinished" / "videos" / "00002")
    make_dataset(tmp_path / "set", small_config(), workers=1)
    assert same_files(tmp_path / "whole", tmp_path / "set")


def test_what_the_dataset_tool_has_begun_is_kept(tmp_path):
    (tmp_path / ".set.unfinished" / "records").mkdir(parents=True)
    (tmp_path / ".set.unfinished" / "settings.json").write_text("{}")
    with pytest.raises(UserError, match="holds an unfinished dataset of `python -m training.dataset_tool`: repeat"):
        make_dataset(tmp_path / "set", small_config(), workers=1)
    assert sorted(os.listdir(tmp_path / ".set.unfinished")) == ["records", "settings.json"]


def test_what_is_there_is_not_touched(tmp_path):
    make_dataset(tmp_path / "set", small_config(), workers=1)
    with pytest.raises(UserError, match="made with seed 5 instead of 9"):
        make_dataset(tmp_path / "set", small_config(seed=9), workers=1)
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="not a set made by this tool"):
        make_dataset(tmp_path / "other", small_config(), workers=1)
    assert list((tmp_path / "other").iterdir()) == []


def test_a_link_whose_folder_does_not_exist_yet(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "set")
    make_dataset(tmp_path / "link", small_config(videos=1), workers=1)
    assert read_config(tmp_path / "elsewhere" / "set") is not None and os.listdir(tmp_path / "elsewhere") == ["set"]


@pytest.mark.parametrize("name", ["漢" * 82, "a" * 250], ids=["wide", "plain"])
def test_long_names_of_sets(tmp_path, name):
    make_dataset(tmp_path / name, small_config(videos=1), workers=1)
    assert os.listdir(tmp_path) == [name]


def test_the_command(tmp_path):
    out = str(tmp_path / "set")
    words = [out, "--videos", "1", "--frames", "2", "--resolution", "8", "--supersample", "1", "--workers", "1"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0 and "1 videos of 2 frames, 8×8" in result.output
    assert read_config(out)["camera"]["yaw"] == [-0.6, 0.6]  # of stylenerf_small
    result = CliRunner().invoke(main, [*words, "--yaw", "0.3"])
    assert isinstance(result.exception, UserError) and "[-0.6, 0.6]" in str(result.exception)
    narrow = str(tmp_path / "narrow")
    result = CliRunner().invoke(main, [narrow, *words[1:], "--yaw", "0.3"])
    assert result.exit_code == 0 and read_config(narrow)["camera"] == read_config(out)["camera"] | {"yaw": [-0.3, 0.3]}
    result = CliRunner().invoke(main, [*words, "--model", "nobody"])
    assert isinstance(result.exception, UserError) and "There is no model 'nobody'" in str(result.exception)


@pytest.mark.parametrize(
    "camera, message",
    [
        ({"radius": [5, 5]}, "camera.radius: synthetic heads are seen from at most 3.8 scene units, got 5."),
        ({"fov": -3}, "camera.fov must be a number between 0 and 180, got -3."),
        (None, None),  # a generator without such cameras
    ],
)
def test_cameras_of_a_model_of_the_users_own(tmp_path, monkeypatch, camera, message):
    options = {"model": {"generator": {} if camera is None else {"camera": camera}}}
    monkeypatch.setattr("training.launch.config.compose_options", lambda overrides: options)
    words = ["--videos", "1", "--frames", "2", "--resolution", "8", "--supersample", "1", "--workers", "1"]
    result = CliRunner().invoke(main, [str(tmp_path / "set"), *words, "--model", "own"])
    if message is None:
        assert result.exit_code == 0 and read_config(tmp_path / "set")["camera"] == {}
    else:
        assert isinstance(result.exception, UserError) and str(result.exception) == f"--model own: {message}"
        assert os.listdir(tmp_path) == []
