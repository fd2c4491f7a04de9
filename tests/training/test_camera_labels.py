"""Camera conditioning of the discriminators: the label, its source, and the input of each discriminator."""

import itertools
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
import yaml

from dnnlib import UserError
from renderer.cameras import CameraPrior, camera_angles
from tests.goldens.checks import assert_near
from tests.goldens.networks import build_generator, small_discriminators
from tests.goldens.small_losses import PHASES, SPEC, gradients, real_batch
from tests.streams import Recorder, Tape
from tests.training.tiny import make_loop, make_plan, write_frames
from torch_utils.rng import RandomStream
from training.checkpoints.snapshot import load_average_generator
from training.data.annotations import SHARDS_FORMAT, read_cameras
from training.data.dataset import VideoPairDataset
from training.data.frame_store import FrameStore
from training.data.loader import build_dataset
from training.data.webdataset import ShardPairDataset
from training.dataset_tool.archives import pack_shards
from training.dataset_tool.prepare import prepare
from training.dataset_tool.validate import check_dataset
from training.loss import CAMERA_LABEL, GanLoss, camera_label

PRIOR = CameraPrior(yaw=(-0.2, 0.6), pitch=(1.5, 1.7))
CAMERAS = [[0.1 * video - 0.2, 1.5 + 0.05 * video] for video in range(5)]


def with_cameras(root, cameras=CAMERAS, **more):
    write_frames(root)
    entries = [[f"split/video_{video}", camera] for video, camera in enumerate(cameras)]
    (root / "dataset.json").write_text(json.dumps({"cameras": entries, **more}))
    return root


# ----------------------------------------------------------------------------------------------------------------------
# The label


def test_a_label_is_one_and_the_angles_in_half_ranges():
    angles = torch.tensor([[0.2, 1.6], [0.6, 1.5], [-0.6, 1.8]])
    assert_near(camera_label(angles, PRIOR), torch.tensor([[1.0, 0, 0], [1, 1, -1], [1, -2, 2]]), absolute=1e-5)


def test_whole_turns_and_fixed_angles():
    angles = torch.tensor([[0.3, 1.6]])
    turned = angles + torch.tensor([2 * math.pi, 0])
    assert_near(camera_label(turned, PRIOR), camera_label(angles, PRIOR), absolute=1e-5)
    fixed = CameraPrior(yaw=(-0.5, 0.5), pitch=(1.5, 1.5))
    assert_near(camera_label(angles, fixed), torch.tensor([[1.0, 0.6, 0.1]]), absolute=1e-5)


@pytest.mark.parametrize("pitch", [-0.1, -2.0, 3.3, 5.0, 2 * math.pi + 0.2, -2 * math.pi - 0.1])
def test_real_cameras_beyond_a_pole_have_the_labels_of_generated_ones(pitch):
    angles = torch.tensor([[0.3, pitch], [-0.5, pitch]])
    generated = camera_angles(PRIOR.at_angles(*angles.double().unbind(1)))
    assert_near(camera_label(angles, PRIOR), camera_label(generated, PRIOR), absolute=1e-4)
    elevations = CameraPrior(yaw=(-0.6, 0.6), pitch=(-0.15, 0.15))
    label = camera_label(torch.tensor([[0.3, -0.1]]), elevations)
    assert_near(label, torch.tensor([[1.0, (0.3 - math.pi) / 0.6, 0.1 / 0.15]]), absolute=1e-5)


def test_pitches_between_the_poles_stay_as_they_are():
    pitch = torch.linspace(0, 3.1415, 501)
    label = camera_label(torch.stack([torch.zeros_like(pitch), pitch], dim=1), PRIOR)[:, 2]
    wrapped = torch.remainder(pitch - (1.5 + 1.7) / 2 + math.pi, 2 * math.pi).sub(math.pi)
    assert torch.equal(label, wrapped / ((1.7 - 1.5) / 2))


def test_degrees_are_refused():
    loss, batch, message = conditioned_loss(), conditioned_batch(), "angles must be in radians, got 30 to 90."
    batch.angles = torch.tensor([[30.0, 90.0]]).repeat(2, 1)
    with pytest.raises(ValueError) as error:
        camera_label(batch.angles, PRIOR)
    assert str(error.value) == message
    with pytest.raises(ValueError) as error:
        loss.accumulate("Dmain", batch=batch, gain=1.0, stream=Recorder(0))
    assert str(error.value) == message and not any(gradients(loss.discriminator).values())
    two_turns = torch.tensor([[-4 * math.pi, 1.6]])
    assert_near(camera_label(two_turns, PRIOR), camera_label(torch.tensor([[0, 1.6]]), PRIOR), absolute=1e-4)


def test_labels_of_drawn_cameras_have_the_spread_of_the_prior():
    cameras = PRIOR.sample(20000, RandomStream(0))
    label = camera_label(camera_angles(cameras), PRIOR)[:, 1:]
    assert_near(label.mean(dim=0), torch.zeros(2), absolute=0.04)
    assert_near(label.std(dim=0), torch.ones(2), absolute=0.04)


# ----------------------------------------------------------------------------------------------------------------------
# The data


@pytest.mark.parametrize("labelled", [False, True])
def test_items_carry_the_camera_behind_the_label(tmp_path, labelled):
    labels = {"labels": [[f"split/video_{video}", video % 2] for video in range(5)]}
    path = with_cameras(tmp_path / "data", **labels)
    data = VideoPairDataset(path=path, resolution=8, nframes=4, use_labels=labelled, use_cameras=True, mirror=True)
    one_hot = [[float(k == video % 2) for k in range(2)] if labelled else [] for video in range(5)]
    assert data.c_dim == (2 if labelled else 0) and data.item_c_dim == data.c_dim + 2
    for video, (yaw, pitch) in enumerate(CAMERAS):
        plain, flipped = data[3, video].c.tolist(), data[3, video + 5].c.tolist()
        assert plain == pytest.approx([*one_hot[video], yaw, pitch])
        assert flipped == pytest.approx([*one_hot[video], -yaw, pitch]), "seen from the other side"
        assert data.label(video).tolist() == one_hot[video], "the generator is not conditioned on it"


def test_mirrored_videos_are_seen_from_the_other_side():
    """Meaning of the sign: the mirror image of a camera's position has the opposite yaw."""
    cameras = PRIOR.at_angles([0.3], [1.6])
    flip = torch.diag(torch.tensor([1.0, -1, 1, 1]))
    position = (flip @ cameras.cam2world[0])[:3, 3]
    assert_near(position, PRIOR.at_angles([-0.3], [1.6]).cam2world[0, :3, 3], absolute=1e-6)


@pytest.mark.parametrize(
    "cameras, message",
    [
        ([[0, 1.5]] * 4, "no camera for 1 of 5 videos, e.g. 'split/video_4'"),
        ([0.1] * 5, "The camera of 'split/video_0' in"),
        ([[0, 1.5, 2.7]] * 5, "must be [yaw, pitch] in radians"),
        ([[0, "1.5"]] * 5, "must be [yaw, pitch] in radians"),
        ([[0, True]] * 5, "must be [yaw, pitch] in radians"),
        ([[0, float("nan")]] * 5, "must be [yaw, pitch] in radians"),
        ([[30, 90]] * 5, "must be [yaw, pitch] in radians"),
    ],
)
def test_wrong_cameras(cameras, message, tmp_path):
    with pytest.raises(UserError) as error:
        VideoPairDataset(path=with_cameras(tmp_path, cameras), resolution=8, nframes=4, use_cameras=True)
    assert message in str(error.value) and "dataset.json" in str(error.value) and "\n" not in str(error.value)


def test_no_cameras(tmp_path):
    with pytest.raises(UserError, match="Cameras are wanted but there is no .*Or train without camera_condition"):
        make_plan(tmp_path, "camera_condition=true")
    (tmp_path / "data" / "dataset.json").write_text('{"labels": []}')
    with pytest.raises(UserError, match="Cannot use .*it has no cameras.*Or train without camera_condition"):
        make_plan(tmp_path, "camera_condition=true")


# ----------------------------------------------------------------------------------------------------------------------
# The losses


class Witness(torch.nn.Module):
    """A discriminator that remembers the labels it is given."""

    def __init__(self, network):
        super().__init__()
        self.network, self.seen = network, []

    def forward(self, img, c):
        self.seen.append(c)
        return self.network(img, c)


def conditioned_loss(**arguments):
    generator = build_generator(SPEC).train()
    discriminators, _ = small_discriminators(SPEC.resolution, c_dim=CAMERA_LABEL, mbstd_group=2)
    discriminators.video, discriminators.image = Witness(discriminators.video), Witness(discriminators.image)
    return GanLoss(generator=generator, discriminator=discriminators, camera_condition=True, **arguments)


def conditioned_batch():
    batch = real_batch()
    batch.angles = torch.tensor([[0.1, 1.6], [-0.2, 1.5]])
    return batch


@pytest.mark.parametrize("phase", PHASES)
def test_every_discriminator_is_conditioned_on_the_camera_of_its_input(phase):
    loss, batch, stream = conditioned_loss(), conditioned_batch(), Recorder(0)
    prior = loss.generator.camera_prior
    loss.accumulate(phase, batch=batch, gain=1.0, stream=stream)
    real = camera_label(batch.angles, prior)
    expected = {"Gmain": "f", "Greg": "", "Dmain": "fr", "Dreg": "r"}[phase]
    fake = camera_label(camera_angles(prior.sample(2, Tape(stream.draws))), prior) if "f" in expected else None
    expected = [fake if kind == "f" else real for kind in expected]
    for network, repeats in ((loss.discriminator.video, 1), (loss.discriminator.image, 2)):
        assert len(network.seen) == len(expected)
        for seen, wanted in zip(network.seen, expected):
            assert_near(seen, wanted.repeat_interleave(repeats, dim=0))
    if phase[0] == "D":
        trained = gradients(loss.discriminator)
        assert any("mapping" in name and gradient.any() for name, gradient in trained.items())


def test_scores_depend_on_the_camera():
    loss, batch = conditioned_loss(), conditioned_batch()
    frames, plane = batch.frames, torch.zeros(2, 1, SPEC.resolution, SPEC.resolution)
    here = loss.discriminator.video_logits(frames, plane, loss.discriminator_label(batch.c, batch.angles))
    there = loss.discriminator.video_logits(frames, plane, loss.discriminator_label(batch.c, batch.angles + 0.2))
    assert (here - there).abs().min() > 1e-4


# ----------------------------------------------------------------------------------------------------------------------
# A training


def test_real_cameras_arrive_at_the_loss(tmp_path):
    with_cameras(tmp_path / "data")
    loop = make_loop(tmp_path, "camera_condition=true", "mirror=true")
    known = [tuple(np.float32([sign * yaw, pitch])) for yaw, pitch in CAMERAS for sign in (1, -1)]
    for _ in range(3):
        for part in loop._next_batch():
            assert part.c.shape == (2, 0) and all(tuple(angles) in known for angles in part.angles.numpy())
    assert loop.networks.generator.c_dim == 0
    assert loop.networks.discriminator.video.c_dim == loop.networks.discriminator.image.c_dim == CAMERA_LABEL


def test_a_run_is_saved_continued_and_loaded(tmp_path):
    labels = {"labels": [[f"split/video_{video}", video % 2] for video in range(5)]}
    with_cameras(tmp_path / "data", **labels)
    words = ["camera_condition=true", "cond=true", "aug=ada", "p=0.3"]
    whole = make_loop(tmp_path, *words)
    for _ in range(4):
        whole.iterate()
    first = make_loop(tmp_path, *words)
    first.iterate()
    first.save_state()
    first._saver.save_snapshot()
    second = make_loop(tmp_path, *words, folder=first.folder)
    for _ in range(3):
        second.iterate()
    for part in ("generator", "discriminator"):
        states = [getattr(loop.networks, part).state_dict() for loop in (whole, second)]
        assert all(torch.equal(x, states[1][name]) for name, x in states[0].items()), part
    generator = load_average_generator(first.folder)
    assert generator.c_dim == 2, "labels yes, cameras no"


def test_cameras_that_the_model_does_not_sample_are_named(tmp_path):
    """The data's yaw runs from -0.2 to 0.2, its pitch from 1.5 to 1.7."""
    with_cameras(tmp_path / "data")
    camera, words = "model.generator.camera", ("camera_condition=true",)
    fits = [f"{camera}.yaw=[-0.3,0.3]", f"{camera}.pitch=[1.4,1.8]", f"{camera}.distribution=uniform"]
    assert make_plan(tmp_path, *words, *fits).notes == []
    notes = make_plan(tmp_path, *words, *fits, f"{camera}.yaw=[0,0.3]").notes
    assert len(notes) == 1 and "lie outside of what model.generator.camera samples (uniform): yaw -0." in notes[0]
    assert "40% outside of 0.00 to 0.30" in notes[0]
    assert make_plan(tmp_path, *fits, f"{camera}.yaw=[0,0.3]").notes == []  # the cameras are not used
    one = {"cameras": [[f"split/video_{video}", [0.2, 1.5]] for video in range(5)]}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(one))
    assert make_plan(tmp_path, *words, *fits, f"{camera}.yaw=[0,0.3]").notes == []
    (note,) = make_plan(tmp_path, *words, *fits, f"{camera}.yaw=[0,0.3]", "mirror=true").notes
    assert "50% outside of 0.00 to 0.30" in note


def test_they_are_named_for_tar_files_too(tmp_path):
    """By their percentiles: two of five cameras have a negative yaw, and with `mirror` half of them."""
    frames = with_cameras(tmp_path / "frames")
    manifest = {"format": SHARDS_FORMAT, "nframes": 4}
    pack_shards(str(frames), str(tmp_path / "data"), manifest=manifest, clips_per_shard=3)
    yaw, pitch = np.array(manifest["camera_percentiles"]).T
    assert len(yaw) == 101 and yaw[[0, 50, 100]] == pytest.approx(np.percentile([y for y, _ in CAMERAS], [0, 50, 100]))
    assert pitch[[25, 75]] == pytest.approx(np.percentile([p for _, p in CAMERAS], [25, 75]))
    camera, words = "model.generator.camera", ("camera_condition=true", "workers=1")
    fits = [f"{camera}.yaw=[-0.3,0.3]", f"{camera}.pitch=[1.4,1.8]", f"{camera}.distribution=uniform"]
    assert make_plan(tmp_path, *words, *fits).notes == []
    (note,) = make_plan(tmp_path, *words, *fits, f"{camera}.yaw=[0,0.3]").notes
    assert "outside of 0.00 to 0.30" in note and re.search(r"(3[89]|4\d|50)% outside", note), note
    assert make_plan(tmp_path, *fits, f"{camera}.yaw=[0,0.3]").notes == []  # the cameras are not used


@pytest.mark.parametrize("percentiles", ["0.1", 1, [[]], [[0.1, 1.5], [0.2]], [[0.1, None]], {"yaw": [0.1]}], ids=repr)
def test_damaged_percentiles_of_tar_files_are_unknown_ones(tmp_path, percentiles):
    """The cameras themselves lie beside the clips, so training goes on without the comparison."""
    frames = with_cameras(tmp_path / "frames")
    pack_shards(
        str(frames), str(tmp_path / "data"), manifest={"format": SHARDS_FORMAT, "nframes": 4}, clips_per_shard=3
    )
    file = tmp_path / "data" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "camera_percentiles": percentiles}))
    words = ("camera_condition=true", "workers=1", "model.generator.camera.yaw=[0,0.3]")
    assert make_plan(tmp_path, *words).notes == []


def test_a_prior_much_wider_than_the_cameras_is_named(tmp_path):
    """Also by their percentiles; fewer than 30 clips tell nothing."""
    write_frames(tmp_path / "frames", videos=30)
    entries = [[f"split/video_{video}", [0.01 * (video - 15), 1.57]] for video in range(30)]
    (tmp_path / "frames" / "dataset.json").write_text(json.dumps({"cameras": entries}))
    with_cameras(tmp_path / "few")
    for name, shards in (("frames", "shards"), ("few", "few_shards")):
        manifest = {"format": SHARDS_FORMAT, "nframes": 4}
        pack_shards(str(tmp_path / name), str(tmp_path / shards), manifest=manifest, clips_per_shard=15)

    def notes(place, *words):
        words = ("camera_condition=true", "workers=1", "model.generator.camera.pitch=[1.57,1.57]", *words)
        return make_plan(tmp_path, *words, f"data={tmp_path / place}").notes

    for place, share in (("frames", 79), ("shards", 78)):
        (note,) = notes(place)
        assert note.startswith(
            "What model.generator.camera samples (gaussian) is much wider than the data's cameras: yaw -0.15 to 0.14 "
            f"(1 to 99 %), {share}% of the samples outside. This would fit: model.generator.camera.yaw=["
        )
        assert note.endswith("model.generator.camera.pitch=[1.570,1.570] model.generator.camera.distribution=uniform")
    assert notes("frames", "subset=29") == []
    wide = ["model.generator.camera.yaw=[-1,1]", "model.generator.camera.pitch=[1.2,2]"]
    assert notes("few", *wide) == notes("few_shards", *wide) == []


def test_neither_mirror_images_nor_clips_are_cameras(tmp_path):
    """Fifteen videos of three clips each."""
    write_frames(tmp_path / "frames", videos=15, frames=12)
    manifest = {"format": SHARDS_FORMAT, "nframes": 4}

    def notes(pitches, *words):
        entries = [[f"split/video_{video}", [0.01 * (video + 1), pitch]] for video, pitch in enumerate(pitches)]
        (tmp_path / "frames/dataset.json").write_text(json.dumps({"cameras": entries}))
        pack_shards(str(tmp_path / "frames"), str(tmp_path / "shards"), manifest=manifest, clips_per_shard=15)
        words = ("camera_condition=true", "mirror=true", "workers=1", *words)
        return [make_plan(tmp_path, *words, f"data={tmp_path / place}").notes for place in ("frames", "shards")]

    camera = "model.generator.camera"
    assert notes(np.linspace(1.45, 1.7, 15), f"{camera}.yaw=[-0.7,0.7]", f"{camera}.pitch=[1.45,1.7]") == [[], []]
    over_the_pole = [-0.01, *np.linspace(0.3, 1.5, 14)]
    assert notes(over_the_pole, f"{camera}.yaw=[-0.2,0.2]", f"{camera}.pitch=[0,1.57]") == [[], []]


def test_percentiles_in_a_manifest_count_clips(tmp_path):
    """A long video is several of them."""
    frames = with_cameras(tmp_path / "frames", [[0.0, 1.5]] * 4 + [[1.0, 1.6]])
    for number in range(4, 24):  # five more clips of the last video
        shutil.copy(frames / "split/video_4/0.png", frames / f"split/video_4/{number}.png")
    manifest = {"format": SHARDS_FORMAT, "nframes": 4}
    pack_shards(str(frames), str(tmp_path / "data"), manifest=manifest, clips_per_shard=9)
    percentiles = manifest["camera_percentiles"]
    assert (percentiles[0], percentiles[30], percentiles[50]) == ([0, 1.5], [0, 1.5], [1, 1.6])


def test_it_cannot_change_in_the_middle_of_a_run(tmp_path):
    with_cameras(tmp_path / "data")
    options = make_plan(tmp_path, "camera_condition=true").options
    folder = tmp_path / "runs" / "00000-tiny"
    folder.mkdir(parents=True)
    (folder / "training_options.yaml").write_text(yaml.safe_dump(options))
    with pytest.raises(UserError, match="camera_condition is True in that run and cannot be changed to False"):
        make_plan(tmp_path, "resume_run=0", "camera_condition=false")


def test_shards_carry_cameras(tmp_path):
    pytest.importorskip("webdataset")
    path = with_cameras(tmp_path / "data")
    prepare(source=str(path), out=str(tmp_path / "shards"), resolution=16, nframes=4, shape="shards", shard_clips=2)
    options = make_plan(tmp_path, "camera_condition=true", f"data={tmp_path / 'shards'}").options
    data = build_dataset(options)
    found = {}
    for item in map(data.decode, itertools.islice(data.partition(0, partitions=1), 5)):
        yaw, pitch = item.c.tolist()
        found[round(yaw, 4)] = pitch
    assert found == pytest.approx({round(yaw, 4): pitch for yaw, pitch in CAMERAS})
    plain = with_cameras(tmp_path / "plain")
    (plain / "dataset.json").unlink()
    prepare(source=str(plain), out=str(tmp_path / "none"), resolution=16, nframes=4, shape="shards")
    with pytest.raises(UserError, match="lists none; train without camera_condition"):
        make_plan(tmp_path, "camera_condition=true", f"data={tmp_path / 'none'}")


def test_shards_with_cameras_in_degrees_are_refused_before_the_training(tmp_path):
    pytest.importorskip("webdataset")
    path = with_cameras(tmp_path / "data", [[1.25, 1.5]] * len(CAMERAS))
    prepare(source=str(path), out=str(tmp_path / "shards"), resolution=16, nframes=4, shape="shards")
    shard = tmp_path / "shards" / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes().replace(b"[1.25, 1.5]", b"[30.0, 90 ]"))
    with pytest.raises(UserError, match=r"has no camera \[yaw, pitch\] in radians: \[30\.0, 90\]\.$"):
        make_plan(tmp_path, "camera_condition=true", f"data={tmp_path / 'shards'}")


def test_mirrored_clips_of_shards_are_seen_from_the_other_side(tmp_path):
    pytest.importorskip("webdataset")
    frames = with_cameras(tmp_path / "frames")
    manifest = {"format": SHARDS_FORMAT, "nframes": 4}
    pack_shards(str(frames), str(tmp_path / "data"), manifest=manifest, clips_per_shard=3)
    plain = VideoPairDataset(path=frames, resolution=16, nframes=4)
    data = ShardPairDataset(path=tmp_path / "data", resolution=16, nframes=4, mirror=True, use_cameras=True)
    signs = []
    for item in map(data.decode, itertools.islice(data.partition(0, partitions=1), 10)):  # two epochs
        video = round((float(item.c[1]) - 1.5) / 0.05)
        flipped = not any(torch.equal(item.frames[0], frame) for frame in plain.clip(video))
        signs.append(-1 if flipped else 1)
        assert item.c.tolist() == pytest.approx([signs[-1] * CAMERAS[video][0], CAMERAS[video][1]], abs=1e-6)
    assert sum(signs) == 0


def test_the_dataset_tool_and_its_check_keep_cameras(tmp_path):
    path = with_cameras(tmp_path / "data")
    prepare(source=str(path), out=str(tmp_path / "set.zip"), resolution=8, nframes=4, shape="zip")
    store = FrameStore(tmp_path / "set.zip")
    assert read_cameras(store, store.videos).tolist() == np.float32(CAMERAS).tolist()
    report = check_dataset(str(tmp_path / "set.zip"))
    assert report.problems == [] and "a camera for every video" in report.notes
    write_frames(tmp_path / "bad", videos=1)
    (tmp_path / "bad" / "dataset.json").write_text('{"cameras": [["split/video_0", [40, 90, 0]]]}')
    assert "must be [yaw, pitch]" in "\n".join(check_dataset(str(tmp_path / "bad"), nframes=4).problems)


def test_a_field_of_view_in_radians_is_mentioned(tmp_path):
    notes = make_plan(tmp_path, "model.generator.camera.fov=0.31").notes
    expected = "model.generator.camera.fov=0.31 is tiny: it is in degrees, other angles in radians."
    assert expected in notes
    assert not any("tiny" in note for note in make_plan(tmp_path, "model.generator.camera.fov=12").notes)


def test_a_pitch_range_of_elevations_is_mentioned(tmp_path):
    def notes(pitch):
        return make_plan(tmp_path, f"model.generator.camera.pitch={pitch}").notes

    assert notes("[-0.15,0.15]") == [
        "model.generator.camera.pitch=[-0.15,0.15] reaches below 0: pitch is 0 from above and π/2 on the horizon, so "
        "give π/2 − elevation."
    ]
    assert notes("[0,3.1416]") == notes("[3,3.2]") == []
    assert notes("[-4.95,-4.6]") == []  # 1.33 to 1.68, a whole turn lower


def test_elevations_in_the_data_are_mentioned(tmp_path):
    with_cameras(tmp_path / "data", [[0.1 * video, 0.1 * video - 0.2] for video in range(5)])
    assert make_plan(tmp_path, "camera_condition=true").notes == [
        "The data's cameras have pitches of -0.20 to 0.20, but pitch is 0 from above and π/2 on the horizon; these "
        "look like elevations: give π/2 − elevation."
    ]


def test_mirrored_views_that_the_model_does_not_sample_are_mentioned(tmp_path):
    with_cameras(tmp_path / "data", [[0.35, 1.57]] * 5)
    yaw = "model.generator.camera.yaw=[0.1,0.6]"
    assert make_plan(tmp_path, "mirror=true", yaw).notes == [
        "mirror=true: 62% of the mirrored views lie outside of what model.generator.camera.yaw=[0.1,0.6] samples; give "
        "a range around 0, or leave mirror= out."
    ]
    assert make_plan(tmp_path, yaw).notes == make_plan(tmp_path, "mirror=true").notes == []
    (note,) = make_plan(tmp_path, "mirror=true", yaw, "camera_condition=true").notes
    assert note.startswith("The data's cameras lie outside of what model.generator.camera samples")


@pytest.mark.parametrize(
    "words, noted",
    [
        (["camera.radius=[2.7,2.7]"], True),
        (["camera.radius=[0.7,1]"], True),
        (["rendering.near=2", "rendering.far=3"], True),
        (["camera.radius=[2.7,2.7]", "rendering.near=2.25", "rendering.far=3.3"], False),
        (["camera.radius=[0.9,1.1]"], False),
    ],
)
def test_depths_that_leave_out_the_scene_are_mentioned(tmp_path, words, noted):
    notes = make_plan(tmp_path, *(f"model.generator.{word}" for word in words)).notes
    assert any("which leaves out the origin, where cameras look" in note for note in notes) == noted
