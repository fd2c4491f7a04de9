"""Files of latent codes (.npz): the styles, codes, cameras and times of a fitted video, to be rendered again.

A file holds the arrays named in FIELDS and three strings. It is read as data: it must have exactly these entries, whose
types and sizes are checked against the generator before memory is allocated; nothing in it is ever executed.
"""

import dataclasses
import hashlib
import io
import math
import os
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from dnnlib import UserError, atomic_write, one_line
from renderer.cameras import Cameras, angles_of_cam2world, cam2world_from_angles
from torch_utils.memory import explain_loading
from training.inference.latents import CODE_SIZES, RowCodes

if TYPE_CHECKING:
    from training.networks.generator import Generator

__all__ = ["VideoCodes", "generator_digest", "load_codes", "save_codes"]

FORMAT = "video-3d-gan/codes"
VERSION = "1"
MAX_FRAMES = 1 << 16
MAX_STRING = 128  # characters
HEADER = 1 << 12  # bytes that describe an array in the file, at most
TURNED = 1e-4  # radians: poses that differ less from those of their angles are the same, up to rounding

STRINGS = ("format", "version", "network")
#: Name: (type in the file, shape); 'T' is the number of frames, other names are attributes of the generator.
FIELDS = {name: ("<f4", sizes) for name, sizes in CODE_SIZES.items()} | {
    name: ("<f8", ("T",)) for name in ("yaw", "pitch", "radius", "fov", "times")
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoCodes:
    """A video of T frames, on the CPU.

    Attributes:
        ws: Styles, one per layer [num_ws, w_dim], float32.
        z_motion, z_bg: Motion code [motion_dim] and background code [background_dim], float32.
        yaw, pitch, radius, fov: The camera of every frame [T], float64: radians (pitch from the up axis), scene units,
            degrees.
        times: [T], float64; the training's clips lie in [0, 1].
        network: Digest of the generator that the codes belong to, see `generator_digest`.
    """

    ws: torch.Tensor
    z_motion: torch.Tensor
    z_bg: torch.Tensor
    yaw: torch.Tensor
    pitch: torch.Tensor
    radius: torch.Tensor
    fov: torch.Tensor
    times: torch.Tensor
    network: str

    @classmethod
    def of(cls, codes: RowCodes, cameras: Cameras, times: Sequence[float], *, network: str) -> "VideoCodes":
        """The codes of one video, B = 1, with its T cameras and their times.

        Raises:
            ValueError: A camera that does not look at the origin, or with a roll: the file has no place for these.
        """
        pose = cameras.cam2world.detach().cpu()
        angles = *angles_of_cam2world(pose), pose[:, :3, 3].double().norm(dim=1)
        turned = (cam2world_from_angles(*angles) - pose)[:, :3, :3].abs().amax(dim=(1, 2)) > TURNED
        if turned.any():
            raise ValueError(
                "files of codes hold cameras that look at the origin without a roll, as G.camera() gives them; camera "
                f"{turned.tolist().index(True)} does not."
            )
        return cls(
            **{name: values[0].detach().float().cpu() for name, values in vars(codes).items()},
            **dict(zip(("yaw", "pitch", "radius"), angles)),
            fov=cameras.fov.detach().cpu().double(),
            times=torch.tensor(times, dtype=torch.float64, device="cpu"),
            network=network,
        )

    def __len__(self) -> int:
        return len(self.times)

    def cameras(self) -> Cameras:
        """The T cameras."""
        return Cameras(cam2world=cam2world_from_angles(self.yaw, self.pitch, self.radius), fov=self.fov.float())

    def row(self) -> RowCodes:
        """The codes as a batch of one video."""
        return RowCodes(*(getattr(self, name)[None] for name in CODE_SIZES))

    def belong_to(self, generator: "Generator") -> bool:
        """True if they were fitted to exactly this generator."""
        return self.network == generator_digest(generator)


def generator_digest(generator: "Generator") -> str:
    """SHA-256 (hexadecimal) of a generator's tensors with their names, whatever file they came from.

    Numbers count in float32, so that the digest of a network loaded in float64 is the same.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(generator.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_codes(path: str | os.PathLike, codes: VideoCodes) -> None:
    """Write a file of codes, atomically.

    Raises:
        UserError: The file cannot be written.
        ValueError: A value that `load_codes` would refuse.
    """
    arrays = {name: getattr(codes, name).detach().cpu().numpy().astype(dtype) for name, (dtype, _) in FIELDS.items()}
    problem = _problem(arrays)
    if problem is not None:
        raise ValueError(f"these codes cannot be saved: {problem}.")
    strings = {"format": FORMAT, "version": VERSION, "network": codes.network}
    with atomic_write(path) as file:
        np.savez(file, **{name: np.array(text) for name, text in strings.items()}, **arrays)


def load_codes(path: str | os.PathLike, generator: "Generator") -> VideoCodes:
    """Read a file of codes for a generator of the same sizes (`VideoCodes.belong_to` compares the generators).

    Raises:
        UserError: There is no such file, it is something else or damaged, or it does not fit; one line says which.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise UserError(f"There is no file {path}; give the path of saved codes (codes.npz).")
    try:
        with explain_loading(path), zipfile.ZipFile(path) as archive:
            return _read(path, archive, generator)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"Cannot read {path}: {one_line(error.strerror or error)}.") from error
    except Exception as error:  # readers of zip files and headers raise almost any exception for damaged data
        raise UserError(f"{path} is not a file of codes, or it is damaged ({one_line(error)[:100]}).") from error


def _read(path: str, archive: zipfile.ZipFile, generator: "Generator") -> VideoCodes:
    members = archive.infolist()
    by_name = {member.filename.removesuffix(".npy"): member for member in members}
    texts = {name: _string(archive, by_name[name]) for name in STRINGS if name in by_name}
    # Before the other entries: another version may have others.
    for name, wanted in (("format", FORMAT), ("version", VERSION)) if "format" in texts else ():
        if texts.get(name) != wanted:
            raise UserError(f"{path} is not a file of codes that this program reads: its {name} is not '{wanted}'.")
    names = sorted(member.filename for member in members)
    if names != sorted(f"{name}.npy" for name in (*STRINGS, *FIELDS)):
        missing = [name for name in (*STRINGS, *FIELDS) if f"{name}.npy" not in names]
        about = f" (it lacks {', '.join(missing)})" if missing else ""
        raise UserError(f"{path} is not a file of codes: its entries are not those of one{about}.")

    arrays, frames = {}, None
    for name, (dtype, dims) in FIELDS.items():
        shape = tuple(frames if dim == "T" else getattr(generator, dim) for dim in dims)
        limit = np.dtype(dtype).itemsize * math.prod(MAX_FRAMES if n is None else n for n in shape)
        array = _array(archive, by_name[name], _fits(dtype, shape), limit)
        if array is None:
            known = "×".join("T" if n is None else str(n) for n in shape)
            known += f" numbers of type {dtype}" + (f" with T from 1 to {MAX_FRAMES}" if None in shape else "")
            raise UserError(f"{path} does not fit this generator: {name} must be {known}.")
        frames = len(array) if dims == ("T",) else frames
        arrays[name] = array
    problem = _problem(arrays)
    if problem is not None or texts["network"] is None:
        raise UserError(f"{path} holds codes that cannot be rendered: {problem or 'it names no network'}.")
    return VideoCodes(network=texts["network"], **{name: torch.from_numpy(array) for name, array in arrays.items()})


def _string(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str | None:
    """A string of at most MAX_STRING characters; None if the entry is something else."""
    array = _array(archive, member, lambda dtype, shape: dtype.kind == "U" and shape == (), 4 * MAX_STRING)
    return None if array is None else str(array)


def _fits(dtype: str, shape: tuple[int | None, ...]):
    """A check of an array's header; None in a shape: 1 … MAX_FRAMES."""

    def check(found: np.dtype, found_shape: tuple[int, ...]) -> bool:
        sizes = len(found_shape) == len(shape) and all(
            1 <= n <= MAX_FRAMES if m is None else n == m for n, m in zip(found_shape, shape)
        )
        return found == np.dtype(dtype) and sizes

    return check


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, check, limit: int) -> np.ndarray | None:
    """An entry, read only as far as `limit` bytes; None if it is longer or its header does not pass the check."""
    with archive.open(member) as stream:
        data = stream.read(limit + HEADER + 1)
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)) or len(data) > limit + HEADER:
        return None
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if not check(dtype, shape) or len(data) - file.tell() != dtype.itemsize * math.prod(shape):
        return None
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _problem(arrays: dict[str, np.ndarray]) -> str | None:
    """The first fault of the values, or None."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            return f"{name} is not finite everywhere"
    lengths = {len(array) for name, array in arrays.items() if FIELDS[name][1] == ("T",)}
    if len(lengths) != 1:
        return "yaw, pitch, radius, fov and times must be equally long"
    if not 1 <= (frames := lengths.pop()) <= MAX_FRAMES:
        return f"yaw, pitch, radius, fov and times are of {frames} frames, and a file holds 1 to {MAX_FRAMES}"
    limits = {"pitch": (0, math.pi), "fov": (0, 180), "radius": (0, math.inf)}
    for name, (low, high) in limits.items():
        if not ((arrays[name] > low) & (arrays[name] < high)).all():
            return f"{name} must lie between {low:g} and {high:g}"
    return None
