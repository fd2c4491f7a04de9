"""Files of codes: what is written is read again, and nothing else is."""

import copy
import dataclasses
import math
import pickle
import types
import zipfile

import numpy as np
import pytest
import torch

import dnnlib
from dnnlib import UserError
from renderer.cameras import CameraPrior, Cameras
from training.inference import latent_files
from training.inference.latent_files import FIELDS, VideoCodes, generator_digest, load_codes, save_codes
from training.inference.latents import RowCodes

GENERATOR = types.SimpleNamespace(num_ws=3, w_dim=4, motion_dim=5, background_dim=2)


def some_codes(frames: int = 6) -> VideoCodes:
    draw = torch.Generator().manual_seed(0)
    angles = torch.linspace(-0.3, 0.3, frames, dtype=torch.float64)
    return VideoCodes(
        ws=torch.randn(3, 4, generator=draw),
        z_motion=torch.randn(5, generator=draw),
        z_bg=torch.randn(2, generator=draw),
        yaw=angles,
        pitch=math.pi / 2 + angles / 4,
        radius=torch.full([frames], 1.0, dtype=torch.float64),
        fov=torch.full([frames], 18.0, dtype=torch.float64),
        times=torch.linspace(0, 1, frames, dtype=torch.float64),
        network="ab" * 32,
    )


def rewritten(path, tmp_path, **changes):
    """A copy of a file with entries changed; None leaves one out."""
    with np.load(path) as file:
        content = {name: file[name] for name in file.files}
    content = {name: array for name, array in {**content, **changes}.items() if array is not None}
    other = tmp_path / "other.npz"
    np.savez(other, **content)
    return other


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "codes.npz"
    save_codes(path, some_codes())
    return path


def test_a_full_memory_is_no_damage(path, monkeypatch):
    def read(*args):
        raise MemoryError

    monkeypatch.setattr(latent_files, "_array", read)
    with pytest.raises(UserError) as caught:
        load_codes(path, GENERATOR)
    assert str(caught.value) == (
        f"The memory is full. Loading {path} needs more: end other programs, or use a larger machine."
    )


def test_what_is_written_is_read(path):
    codes, back = some_codes(), load_codes(path, GENERATOR)
    for field in dataclasses.fields(VideoCodes):
        a, b = getattr(codes, field.name), getattr(back, field.name)
        assert a == b if field.name == "network" else torch.equal(a, b) and a.dtype == b.dtype


def test_codes_are_the_fields_of_a_file_and_a_batch_of_one_video():
    codes = some_codes()
    assert [field.name for field in dataclasses.fields(VideoCodes)] == [*FIELDS, "network"]
    row = codes.row()
    assert type(row) is RowCodes and (row.ws.shape, row.z_motion.shape, row.z_bg.shape) == ((1, 3, 4), (1, 5), (1, 2))
    assert all(torch.equal(code[0], getattr(codes, name)) for name, code in vars(row).items())


def test_the_same_codes_make_the_same_file(path, tmp_path):
    save_codes(tmp_path / "again.npz", some_codes())
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_cameras_are_those_of_the_prior_at_the_angles():
    codes = some_codes()
    expected = CameraPrior().at_angles(codes.yaw, codes.pitch, 1.0, fov=18.0)
    assert codes.cameras().equals(expected) and len(codes) == 6


def test_cameras_of_a_file_are_those_that_are_given():
    """Also behind, near the poles, and at another distance; those that the angles cannot describe are refused."""
    codes = some_codes()
    cameras = CameraPrior().at_angles(
        [0.1, -3.0, 2.0, 0.5], [1.5, 0.01, math.pi, 0.0], [1, 2, 0.5, 1], fov=[18, 9, 30, 18]
    )
    saved = VideoCodes.of(codes.row(), cameras, [0, 1, 2, 0.25], network=codes.network)
    assert saved.network == codes.network
    for name in ("ws", "z_motion", "z_bg"):
        assert torch.equal(getattr(saved, name), getattr(codes, name))
    assert saved.times.tolist() == [0, 1, 2, 0.25] and saved.fov.tolist() == [18, 9, 30, 18]
    back = saved.cameras()
    assert torch.equal(back.fov, cameras.fov) and (back.cam2world - cameras.cam2world).abs().max() < 5e-7
    known = VideoCodes.of(codes.row(), codes.cameras(), codes.times.tolist(), network=codes.network)
    for name in ("yaw", "pitch", "radius"):
        assert (getattr(known, name) - getattr(codes, name)).abs().max() < 2e-7
    message = r"^files of codes hold cameras that look at the origin without a roll, .*; camera 1 does not\.$"
    rolled, moved = cameras.cam2world.clone(), cameras.cam2world.clone()
    rolled[1, :3, :3] = rolled[1, :3, [1, 0, 2]] * torch.tensor([1.0, -1.0, 1.0])
    moved[1, 0, 3] += 0.01
    for pose in (rolled, moved):
        with pytest.raises(ValueError, match=message):
            VideoCodes.of(codes.row(), Cameras(cam2world=pose, fov=cameras.fov), [0] * 4, network=codes.network)


def test_a_digest_belongs_to_names_shapes_and_values():
    first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    second.load_state_dict(first.state_dict())
    assert generator_digest(first) == generator_digest(second)
    codes = dataclasses.replace(some_codes(), network=generator_digest(first))
    assert codes.belong_to(second) and codes.belong_to(copy.deepcopy(second).double())
    with torch.no_grad():
        known = torch.nn.Linear(1, 2, bias=False)
        known.weight.copy_(torch.tensor([[0.1], [-2.0]]))
    assert generator_digest(known) == "313bb3413ca4fd37ad461e23555983e149e62c4ae7e8d0860ab868b142c3c60f", (
        "files of earlier versions hold it"
    )
    with torch.no_grad():
        second.weight[0, 0] += 1e-6
    assert not codes.belong_to(second)
    assert generator_digest(torch.nn.Sequential(first)) != generator_digest(first)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"z_bg": None}, r"its entries are not those of one \(it lacks z_bg\)\.$"),
        ({"extra": np.zeros(2)}, r"its entries are not those of one\.$"),
        ({"format": np.array("something")}, "its format is not"),
        ({"format": np.array(["video-3d-gan/codes"])}, "its format is not"),
        ({"version": np.array("2")}, "its version is not '1'"),
        ({"version": np.array("2"), "extra": np.zeros(2)}, "its version is not '1'"),
        ({"version": np.array("2"), "z_bg": None, "network": None}, "its version is not '1'"),
        ({"version": None}, "its version is not '1'"),
        ({"format": None, "version": np.array(2)}, r"its entries are not those of one \(it lacks format\)\.$"),
        ({"version": np.array(1)}, "its version is not '1'"),
        ({"network": np.array("x" * 5000)}, "it names no network"),
        ({"ws": np.zeros([3, 5], np.float32)}, "ws must be 3×4 numbers of type <f4"),
        ({"ws": np.zeros([3, 4])}, "ws must be 3×4 numbers of type <f4"),
        ({"ws": np.zeros([3, 400000], np.float32)}, "ws must be 3×4 numbers"),
        ({"z_motion": np.zeros([1, 5], np.float32)}, "z_motion must be 5 numbers"),
        ({"yaw": np.zeros(0)}, r"yaw must be T numbers of type <f8 with T from 1 to 65536\.$"),
        ({"yaw": np.zeros(1 << 17)}, r"yaw must be T numbers of type <f8 with T from 1 to 65536\.$"),
        ({"times": np.zeros(7)}, "times must be 6 numbers"),
        ({"z_bg": np.array([0, np.nan], np.float32)}, "z_bg is not finite"),
        ({"times": np.full(6, np.inf)}, "times is not finite"),
        ({"fov": np.full(6, 180.0)}, "fov must lie between 0 and 180"),
        ({"radius": np.zeros(6)}, "radius must lie between 0 and inf"),
        ({"pitch": np.zeros(6)}, "pitch must lie between 0 and 3.14159"),
    ],
)
def test_what_does_not_fit_is_refused(path, tmp_path, changes, message):
    other = rewritten(path, tmp_path, **changes)
    with pytest.raises(dnnlib.UserError, match=message) as caught:
        load_codes(other, GENERATOR)
    assert "\n" not in str(caught.value) and "other.npz" in str(caught.value)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("something in the file was run",))


def test_objects_are_never_unpickled(path, tmp_path):
    with np.load(path) as file:
        content = {name: file[name] for name in file.files}
    np.savez(tmp_path / "objects.npz", **{**content, "yaw": np.array([Bomb()] * 6, dtype=object)})
    with pytest.raises(dnnlib.UserError, match="yaw must be T numbers"):
        load_codes(tmp_path / "objects.npz", GENERATOR)
    (tmp_path / "plain.npz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(dnnlib.UserError, match="is not a file of codes"):
        load_codes(tmp_path / "plain.npz", GENERATOR)


def test_a_header_that_promises_more_than_there_is_takes_no_memory(path, tmp_path):
    with zipfile.ZipFile(path) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    # The same length, so that the header stays aligned: 1e9 rows are claimed of 12 numbers.
    content["ws.npy"] = content["ws.npy"].replace(b"(3, 4), }         ", b"(1000000000, 4), }")
    assert b"1000000000" in content["ws.npy"]
    with zipfile.ZipFile(tmp_path / "large.npz", "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    with pytest.raises(dnnlib.UserError, match="ws must be 3×4"):
        load_codes(tmp_path / "large.npz", GENERATOR)


def test_what_unpacks_to_a_lot_is_not_unpacked(path, tmp_path, monkeypatch):
    read = []
    original = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda self, n=-1: read.append(n) or original(self, n))
    with zipfile.ZipFile(path) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    content["z_bg.npy"] = bytes(50_000_000)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    read.clear()
    with pytest.raises(dnnlib.UserError, match="not a file of codes"):
        load_codes(tmp_path / "bomb.npz", GENERATOR)
    assert read and min(read) >= 0 and max(read) <= latent_files.MAX_FRAMES * 8 + latent_files.HEADER + 1


@pytest.mark.parametrize("header", [b"{'descr': (", b"{[]: 1}", b"(" * 3000, b"\xff\x00 = \n  x\n y", b"[1]", b"'''"])
def test_headers_of_nonsense_are_refused(path, tmp_path, header):
    with zipfile.ZipFile(path) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    content["ws.npy"] = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(tmp_path / "header.npz", "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    with pytest.raises(dnnlib.UserError, match="not a file of codes, or it is damaged"):
        load_codes(tmp_path / "header.npz", GENERATOR)


@pytest.mark.parametrize("length", [0, 30, 700])
def test_damaged_files_are_refused(path, tmp_path, length):
    data = path.read_bytes()
    assert length < len(data)
    (tmp_path / "cut.npz").write_bytes(data[:length])
    with pytest.raises(dnnlib.UserError, match="is not a file of codes, or it is damaged"):
        load_codes(tmp_path / "cut.npz", GENERATOR)


def test_every_flipped_byte_is_noticed_or_harmless(path, tmp_path):
    data, draw = path.read_bytes(), np.random.RandomState(1)
    outcomes = set()
    for place in draw.randint(0, len(data), 300):
        damaged = bytearray(data)
        damaged[place] ^= 1 << draw.randint(8)
        (tmp_path / "flipped.npz").write_bytes(damaged)
        try:
            codes = load_codes(tmp_path / "flipped.npz", GENERATOR)
        except dnnlib.UserError:
            outcomes.add("refused")
        else:
            assert torch.equal(codes.ws, some_codes().ws)  # a checksum guards the values
            outcomes.add("read")
    assert "refused" in outcomes


def test_missing_files_and_folders_are_named(tmp_path):
    for wrong in (tmp_path, tmp_path / "nothing.npz"):
        with pytest.raises(dnnlib.UserError, match="There is no file"):
            load_codes(wrong, GENERATOR)


def test_values_that_would_be_refused_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="z_motion is not finite"):
        save_codes(tmp_path / "codes.npz", dataclasses.replace(some_codes(), z_motion=torch.full([5], math.nan)))
    message = r"^these codes cannot be saved: yaw, pitch, radius, fov and times must be equally long\.$"
    with pytest.raises(ValueError, match=message):
        save_codes(tmp_path / "codes.npz", dataclasses.replace(some_codes(), times=torch.zeros(3)))
    for frames in (0, 70000):
        message = f"yaw, pitch, radius, fov and times are of {frames} frames, and a file holds 1 to 65536"
        with pytest.raises(ValueError, match=rf"^these codes cannot be saved: {message}\.$"):
            save_codes(tmp_path / "codes.npz", some_codes(frames))
    assert list(tmp_path.iterdir()) == []
