"""Pinhole cameras on a sphere around the origin, their prior in training, their rays, and stereo pairs.

Conventions: the world's up axis is z; a camera looks along its own −z axis, x points right and y up; `cam2world` has
the camera's axes and position as its columns; the image plane spans [-1, 1] at distance f = 1 / tan(fov / 2).
Yaw and pitch are angles in radians; pitch is measured from the up axis, so pi / 2 is the equator. A ray is `origin +
depth * direction` with a direction that is NOT normalised: its component along the viewing axis is one, so `depth` is
the distance along that axis.
"""

import dataclasses
import math
import operator
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from torch_utils.argument_checks import check_floats, check_number, check_stream, is_list, shown, whole_number

if TYPE_CHECKING:
    from torch_utils.rng import RandomStream

__all__ = [
    "CameraPrior",
    "Cameras",
    "EYE_DISTANCE",
    "POLE",
    "POLE_MARGIN",
    "SMALL_FOV",
    "along_axes",
    "angles_of_cam2world",
    "cam2world_from_angles",
    "camera_angles",
    "camera_rays",
    "focal_from_fov",
    "lattice_pixel_indices",
    "look_at",
    "pixel_centers",
    "stereo_pair",
]


POLE = 1e-7  # radians: closer to a pole, the direction of a camera's x axis is lost to rounding
MAX_ANGLE = 4 * math.pi  # radians: two turns; larger angles are most likely meant in degrees
SMALL_FOV = 1.0  # degrees: smaller fields of view are most likely meant in radians
ROUNDING = 1e-5  # relative: differences of distances below it are not those of a camera elsewhere
NEAREST = 0.9  # fraction of its depth by which the near end of a range may move towards the camera
POLE_MARGIN = 0.05  # radians: a mouse or an optimiser moves cameras no closer to a pole, where roll is undefined


@dataclasses.dataclass(frozen=True)
class Cameras:
    """A batch of cameras: `cam2world` [N, 4, 4] and `fov` [N] in degrees, both float32.

    Raises:
        ValueError: Not tensors of these shapes, or integer poses.
    """

    cam2world: torch.Tensor
    fov: torch.Tensor

    def __post_init__(self):
        for name, value in (("cam2world", self.cam2world), ("fov", self.fov)):
            if not isinstance(value, torch.Tensor):
                raise ValueError(f"{name} must be a tensor, got {type(value).__name__}.")
        if self.cam2world.ndim != 3 or tuple(self.cam2world.shape[1:]) != (4, 4):
            raise ValueError(f"cam2world must be [N, 4, 4], got {tuple(self.cam2world.shape)}.")
        check_floats("cam2world", self.cam2world, "(those of a pose would be rounded)")
        if tuple(self.fov.shape) != (len(self.cam2world),):
            raise ValueError(f"fov must be [{len(self.cam2world)}], got {tuple(self.fov.shape)}.")

    def __len__(self) -> int:
        return len(self.cam2world)

    def __getitem__(self, index) -> "Cameras":
        """Select cameras; an integer keeps the batch dimension (a batch of one)."""
        if isinstance(index, int) or getattr(index, "ndim", None) == 0:
            index = operator.index(index)
            if not -len(self) <= index < len(self):
                raise IndexError(f"camera {index} of {len(self)}")
            index = slice(index, index + 1) if index != -1 else slice(-1, None)
        index = list(index) if isinstance(index, tuple) else index  # tensors would index a dimension by each
        return Cameras(cam2world=self.cam2world[index], fov=self.fov[index])

    def to(self, device: torch.device | str) -> "Cameras":
        return Cameras(cam2world=self.cam2world.to(device), fov=self.fov.to(device))

    def repeat(self, n: int) -> "Cameras":
        """Each camera n times in a row."""
        return Cameras(cam2world=self.cam2world.repeat_interleave(n, dim=0), fov=self.fov.repeat_interleave(n, dim=0))

    @staticmethod
    def join(parts: Iterable["Cameras"]) -> "Cameras":
        """Concatenation of batches of cameras.

        Raises:
            ValueError: No batches, or an item that is not a `Cameras`.
        """
        parts = list(parts) if isinstance(parts, Iterable) else [parts]
        if not parts or not all(isinstance(part, Cameras) for part in parts):
            raise ValueError(f"Cameras.join takes one or more Cameras, got {shown(parts)}.")
        return Cameras(cam2world=torch.cat([p.cam2world for p in parts]), fov=torch.cat([p.fov for p in parts]))

    def equals(self, other: "Cameras | None") -> bool:
        """Exact equality of poses and fields of view."""
        return other is not None and torch.equal(self.cam2world, other.cam2world) and torch.equal(self.fov, other.fov)


def require_cameras(name: str, cameras: Any) -> None:
    """Refuse all but `Cameras`."""
    if not isinstance(cameras, Cameras):
        several = is_list(cameras) and len(cameras) > 0 and all(isinstance(camera, Cameras) for camera in cameras)
        got = "several; Cameras.join makes one of them" if several else shown(cameras)
        raise ValueError(f"{name} must be renderer.cameras.Cameras, as G.camera() gives them, got {got}.")


def focal_from_fov(fov: torch.Tensor) -> torch.Tensor:
    """Focal lengths [N] = 1 / tan(fov / 2) for fields of view [N] in degrees; the image plane spans [-1, 1]."""
    return 1 / torch.tan(fov * (math.pi / 360))


def look_at(position: torch.Tensor) -> torch.Tensor:
    """Rotations [N, 3, 3] whose columns are the axes of cameras at `position` [N, 3] that look at the origin.

    A camera exactly above or below the origin has no defined roll; the result is then not a rotation.

    Raises:
        ValueError: Not a tensor of positions; on a CPU, where reading values needs no synchronisation, also a position
            that is not finite or is the origin.
    """
    if not isinstance(position, torch.Tensor) or position.ndim < 1 or position.shape[-1] != 3:
        raise ValueError(f"position must be a tensor [N, 3], got {shown(position)}.")
    check_floats("position", position, "in scene units")
    if position.device.type == "cpu" and not (position.isfinite().all() and (position != 0).any(dim=-1).all()):
        raise ValueError("position must be finite and not the origin, at which the cameras look.")
    return _look_at(position)


def _look_at(position: torch.Tensor) -> torch.Tensor:
    """`look_at` without its checks."""
    # The camera looks along -z, so that z points from the origin to it; x is horizontal.
    up = torch.zeros_like(position)
    up[..., 2] = 1
    z_axis = torch.nn.functional.normalize(position, dim=-1)
    x_axis = torch.nn.functional.normalize(torch.linalg.cross(up, z_axis), dim=-1)
    y_axis = torch.nn.functional.normalize(torch.linalg.cross(z_axis, x_axis), dim=-1)
    return torch.stack([x_axis, y_axis, z_axis], dim=-1)


def cam2world_from_angles(yaw: torch.Tensor, pitch: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Camera-to-world matrices [N, 4, 4] of cameras that look at the origin; angles [N] in radians, radius [N].

    Computed in double precision (the sampler downstream is sensitive to the last bits), returned as float32.

    Raises:
        ValueError: Not tensors; `CameraPrior.at_angles` also takes numbers and lists.
    """
    for name, value in (("yaw", yaw), ("pitch", pitch), ("radius", radius)):
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{name} must be a tensor [N], got {shown(value)}.")
    # Spherical coordinates with the polar angle `pitch` from the z axis.
    yaw, pitch, radius = yaw.double(), pitch.double(), radius.double()
    # A camera at a pole takes the roll of its neighbours at the same yaw.
    pole = torch.full_like(pitch, POLE)
    pole = torch.where(pitch.cos() > 0, pole, math.pi - pole)
    pitch = torch.where(pitch.sin().abs() < POLE, pole, pitch)
    position = torch.stack([pitch.sin() * yaw.cos(), pitch.sin() * yaw.sin(), pitch.cos()], dim=-1) * radius[:, None]
    matrix = torch.eye(4, dtype=position.dtype, device=position.device).repeat(len(position), 1, 1)
    matrix[:, :3, :3] = _look_at(position)
    matrix[:, :3, 3] = position
    return matrix.float()


def camera_angles(cameras: Cameras) -> torch.Tensor:
    """Yaw and pitch [N, 2] in radians, in (-pi, pi] and [0, pi], of cameras that look at the origin."""
    return torch.stack(angles_of_cam2world(cameras.cam2world), dim=1).float()


def angles_of_cam2world(cam2world: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Yaw and pitch [N] like `camera_angles`, in double precision, of matrices [N, 4, 4]."""
    x, y, z = cam2world[:, :3, 3].double().unbind(1)
    return torch.atan2(y, x), torch.atan2(torch.hypot(x, y), z)


class CameraPrior:
    """The camera prior of training: a distribution over ranges of yaw, pitch and radius.

    Args:
        fov: Field of view in degrees.
        yaw, pitch: (low, high) in radians.
        radius: (low, high) in scene units; sampled uniformly.
        distribution: 'gaussian' samples yaw and pitch from N(middle, half range), so that about a third of the angles
            lie outside the range; 'uniform' samples within the range.

    Raises:
        ValueError: Unknown distribution, a value that is not a number, a reversed range, angles of more than two turns,
            or a radius of 0 or less.
    """

    def __init__(
        self,
        *,
        fov: float = 18.0,
        yaw: Sequence[float] = (-0.8, 0.8),
        pitch: Sequence[float] = (1.4157963267948966, 1.7257963267948966),
        radius: Sequence[float] = (1.0, 1.0),
        distribution: str = "gaussian",
    ):
        check_number("camera.fov", fov, 0, 180)
        if distribution not in ("gaussian", "uniform"):
            raise ValueError(f"camera.distribution must be 'gaussian' or 'uniform', got {shown(distribution)}.")
        for name, values in (("yaw", yaw), ("pitch", pitch), ("radius", radius)):
            if not is_list(values) or len(values) != 2:
                raise ValueError(f"camera.{name} must be [low, high], got {shown(values)}.")
            for value in values:
                check_number(f"camera.{name}", value, 0 if name == "radius" else -math.inf)
                if name != "radius" and abs(value) > MAX_ANGLE:
                    raise ValueError(f"camera.{name} is in radians, got {list(values)}: more than two turns.")
            if values[0] > values[1]:
                raise ValueError(f"camera.{name} must be [low, high] with low <= high, got {list(values)}.")
        self.fov = float(fov)
        self.yaw = (float(yaw[0]), float(yaw[1]))
        self.pitch = (float(pitch[0]), float(pitch[1]))
        self.radius = (float(radius[0]), float(radius[1]))
        self.distribution = distribution

    @property
    def smallest_fov(self) -> float:
        """Smallest field of view in degrees that is taken for one: `SMALL_FOV`, unless training had one like it."""
        return min(SMALL_FOV, self.fov / 2)

    @staticmethod
    def _batch(**values) -> list[torch.Tensor]:
        tensors = []
        device = next((value.device for value in values.values() if isinstance(value, torch.Tensor)), "cpu")
        for name, value in values.items():
            place = value.device if isinstance(value, torch.Tensor) else "cpu"
            try:
                tensor = torch.as_tensor(value, dtype=torch.float64, device=place).reshape(-1)
            except (TypeError, ValueError, RuntimeError) as error:
                raise ValueError(f"{name} must be one or more numbers, got {shown(value)}.") from error
            tensors.append(tensor.to(device))  # outside: a full GPU is no wrong number
            if not tensors[-1].isfinite().all():
                raise ValueError(f"{name} must be finite, got {shown(value)}.")
        if len({len(tensor) for tensor in tensors} - {1}) > 1:
            counts = ", ".join(f"{name} {len(tensor)}" for name, tensor in zip(values, tensors))
            raise ValueError(f"the values of the cameras must be single numbers or equally many, got {counts}.")
        return list(torch.broadcast_tensors(*tensors))

    def depth_offsets(self, cameras: Cameras, near: float) -> torch.Tensor:
        """Offsets [N] of the depths of the foreground for cameras nearer to the origin, or farther, than in training.

        Scene units, zero where the depth of the origin is in the range of radii. Rays are sampled in a range of depths
        that contains the scene from the trained distances. From others it has to move with the origin, or the scene
        would be cut off. Depths run along the viewing axis: a camera that moves within its image plane keeps its range.

        Args:
            near: Nearest depth of the range; moved, it stays in front of the camera.
        """
        depth = (cameras.cam2world[:, :3, 3] * cameras.cam2world[:, :3, 2]).sum(dim=-1)  # of the origin
        # At an end of the range the depth counts as outside, as inversion starts from a trained distance and needs the
        # gradient there (that of clamp differs between versions of PyTorch). Rounding is subtracted as a constant.
        outside = (depth <= self.radius[0]) | (depth >= self.radius[1])
        excess = torch.where(outside, depth - depth.detach().clamp(*self.radius), 0)
        rounding = torch.where(excess.abs() < ROUNDING * self.radius[1], excess, 0).detach()
        return (excess - rounding).clamp(min=-NEAREST * near)

    def depth_range(self, cameras: Cameras, near: float, far: float) -> tuple[float, float]:
        """The range of depths, near and far in scene units, that contains those of all these cameras."""
        offsets = self.depth_offsets(cameras, near)
        return near + float(offsets.min()), far + float(offsets.max())

    def at_angles(self, yaw, pitch, radius=None, *, fov=None) -> Cameras:
        """Cameras at given angles in radians (numbers or [N]); radius and fov (degrees) default to the prior's.

        Unlike in `at`, these are the angles themselves: the frontal view of most priors is yaw 0 and pitch pi / 2.

        Raises:
            ValueError: Values that are not finite numbers or that differ in number, angles of more than two turns, a
                radius of 0 or less, or a field of view outside [1, 180): most likely degrees and radians are confused.
        """
        radius = (self.radius[0] + self.radius[1]) / 2 if radius is None else radius
        fov = self.fov if fov is None else fov
        yaw, pitch, radius, fov = self._batch(yaw=yaw, pitch=pitch, radius=radius, fov=fov)
        if not (radius > 0).all():
            raise ValueError(f"radius must be above 0, got {radius.min().item():g}.")
        if not ((fov > 0) & (fov < 180)).all():
            raise ValueError(
                f"fov must lie between 0 and 180 degrees, got {fov.min().item():g} to {fov.max().item():g}."
            )
        if not (fov >= self.smallest_fov).all():
            raise ValueError(f"fov is in degrees, of at least {self.smallest_fov:g}, got {fov.min().item():g}.")
        for name, angle in (("yaw", yaw), ("pitch", pitch)):
            if not (angle.abs() <= MAX_ANGLE).all():
                raise ValueError(f"{name} is in radians, got {angle.abs().max().item():g}: more than two turns.")
        return Cameras(cam2world=cam2world_from_angles(yaw, pitch, radius), fov=fov.float())

    def at(self, yaw=0.5, pitch=0.5, radius=0.5, *, fov=None) -> Cameras:
        """Cameras at given fractions of the ranges (numbers or [N]); (1/2, 1/2, 1/2) is frontal.

        Raises:
            ValueError: See `at_angles`.
        """
        yaw, pitch, radius = self._batch(yaw=yaw, pitch=pitch, radius=radius)

        def lerp(bounds, fraction):
            return bounds[0] + fraction * (bounds[1] - bounds[0])

        return self.at_angles(lerp(self.yaw, yaw), lerp(self.pitch, pitch), lerp(self.radius, radius), fov=fov)

    def sample(self, n: int, stream: "RandomStream") -> Cameras:
        """n random cameras (one per video), on the device of the stream (`torch_utils.rng.RandomStream`)."""
        check_stream(stream)
        n = whole_number("n", n, low=0)
        angles = []
        for name, (low, high) in (("yaw", self.yaw), ("pitch", self.pitch)):
            middle, half = (low + high) / 2, (high - low) / 2
            if self.distribution == "gaussian":
                angles.append(middle + half * stream.normal(f"camera/{name}", [n]))
            else:
                angles.append(low + 2 * half * stream.uniform(f"camera/{name}", [n]))
        low, high = self.radius
        radius = low + (high - low) * stream.uniform("camera/radius", [n])
        fov = torch.full_like(radius, self.fov)
        return Cameras(cam2world=cam2world_from_angles(angles[0], angles[1], radius), fov=fov)


# ----------------------------------------------------------------------------------------------------------------------
# Pixels to rays.


def pixel_centers(resolution: int, device: torch.device | str | None = None) -> torch.Tensor:
    """Centres [resolution**2, 2] (x, y) of a square image's pixels, row-major, top row first, in [-1, 1], float32.

    Raises:
        ValueError: The resolution is not an integer of at least 1.
    """
    resolution = whole_number("resolution", resolution, low=1)
    edge = 1 - 1 / resolution
    x = torch.linspace(-edge, edge, resolution, device=device, dtype=torch.float32)
    y = torch.linspace(edge, -edge, resolution, device=device, dtype=torch.float32)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)


def camera_rays(cameras: Cameras, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rays of N cameras through `pixels` [R, 2] or [N, R, 2].

    Returns:
        origins [N, 1, 3] and directions [N, R, 3] in world space.

    Raises:
        ValueError: Pixels of another shape, or integer pixels, to whose type the focal length would be rounded; or no
            cameras.
    """
    require_cameras("cameras", cameras)
    if not isinstance(pixels, torch.Tensor):
        raise ValueError(f"pixels must be a tensor [R, 2] or [{len(cameras)}, R, 2], got {shown(pixels)}.")
    check_floats("pixels", pixels, "in [-1, 1], see pixel_centers")
    if (
        pixels.ndim not in (2, 3)
        or pixels.shape[-1] != 2
        or (pixels.ndim == 3 and len(pixels) not in (1, len(cameras)))
    ):
        raise ValueError(f"pixels must be [R, 2] or [{len(cameras)}, R, 2], got {list(pixels.shape)}.")
    cameras = cameras.to(pixels.device)
    # Pixels on the plane at distance one in front of the camera, which looks along -z; then to world axes.
    focal = focal_from_fov(cameras.fov.double()).to(pixels.dtype)
    on_plane = pixels.expand(len(cameras), -1, -1) / focal[:, None, None]
    in_camera = torch.cat([on_plane, torch.full_like(on_plane[..., :1], -1)], dim=-1)
    cam2world = cameras.cam2world.to(pixels.dtype)
    return cam2world[:, None, :3, 3], along_axes(in_camera, cam2world[:, :3, :3].transpose(1, 2))


def along_axes(coordinates: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    """Sums [N, ..., 3] of coordinates [N, ..., 3] times vectors: x axes[n, 0] + y axes[n, 1] + z axes[n, 2].

    Not written as a matrix product, because with `allow_tf32=true` a GPU would round the factors to 11 bits, and rays
    would be off by up to half a pixel at 256×256.
    """
    axes = axes.unflatten(0, (-1, *[1] * (coordinates.ndim - 2)))
    x, y, z = (value[..., None] * axes[..., i, :] for i, value in enumerate(coordinates.unbind(-1)))
    return x + y + z


def lattice_pixel_indices(uniform: torch.Tensor, resolution: int, lattice: int) -> torch.Tensor:
    """Row-major indices [B, lattice**2] of a regular lattice of pixels with one random offset per video.

    Args:
        uniform: [B, 2] in [0, 1): the offset along (x, y) as a fraction of the stride.
        resolution: Image width in pixels, a multiple of `lattice`.
    """
    # Every stride-th pixel along both axes, from a random first one.
    stride = resolution // lattice
    offset = (uniform * stride).long()
    steps = torch.arange(lattice, device=uniform.device) * stride
    columns = offset[:, 0, None, None] + steps[None, None, :]
    rows = offset[:, 1, None, None] + steps[None, :, None]
    return (rows * resolution + columns).reshape(len(uniform), -1)


# ----------------------------------------------------------------------------------------------------------------------
# Stereo pairs.

# In scene units. Heads are framed by a volume 0.24 deep at distance 1, so a unit is about a metre: 63 mm.
EYE_DISTANCE = 0.063


def stereo_pair(cameras: Cameras, eye_distance: float = EYE_DISTANCE) -> tuple[Cameras, Cameras]:
    """The left and the right eye of N cameras that look at the origin (toed in).

    Each eye is the camera rotated about the origin, around its own up axis, by asin(eye_distance / (2 radius)): both
    keep the camera's radius, as in training, and their distance lies along the camera's x axis.

    Args:
        cameras: Looking at the origin.
        eye_distance: Distance between the eyes in scene units.

    Returns:
        N cameras of the left eye and N of the right one.

    Raises:
        ValueError: The distance is not between 0 and twice the radius, or there are no cameras.
    """
    if not isinstance(cameras, Cameras) or len(cameras) == 0:
        raise ValueError(f"stereo_pair takes one or more Cameras, got {shown(cameras)}.")
    check_number("eye_distance", eye_distance)
    cam2world = cameras.cam2world.double()
    radius = cam2world[:, :3, 3].norm(dim=-1)
    if not 0 < eye_distance < 2 * float(radius.min()):
        raise ValueError(
            f"The eye distance must lie between 0 and {2 * float(radius.min()):g}, twice the camera's distance from "
            f"the origin, got {eye_distance:g}."
        )
    half = torch.asin(eye_distance / (2 * radius))
    left, right = (
        Cameras(cam2world=(_turn(cam2world[:, :3, 1], angle) @ cam2world).float(), fov=cameras.fov.clone())
        for angle in (-half, half)
    )
    return left, right


def _turn(axis: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Rotations [N, 4, 4] about unit axes [N, 3] through the origin (Rodrigues' formula)."""
    x, y, z = axis.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(-1, 3, 3)
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    matrix = torch.eye(4, dtype=axis.dtype, device=axis.device).repeat(len(axis), 1, 1)
    matrix[:, :3, :3] += sin * cross + (1 - cos) * cross @ cross
    return matrix
