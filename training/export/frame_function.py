"""Frame functions: one frame of a generator as a program of PyTorch (torch.export) or as an ONNX graph.

    (ws [1, num_ws, w_dim], z_motion [1, motion_dim], z_bg [1, background_dim], time [1], cam2world [1, 4, 4], fov [1])
        → image [1, 3, H, W], depth [1, h, w]

The inputs are those of `Generator.synthesize` for one video and one time, all float32; the depth is that of the volume
rendered image in scene units. A program contains the weights, and no random numbers.

Both formats are traced from plain PyTorch, as other machines lack the native operators. ONNX lacks three of the
operations: cumulative products (of the transmittance), searches in sorted rows (importance sampling), and the tangent
in double precision (of the field of view). They are decomposed into operations that it has.
"""

import contextlib
import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from renderer.cameras import Cameras
from renderer.rays import Rays
from renderer.volume_rendering import render_rays
from torch_utils import custom_ops
from training.inference.latents import CODE_SIZES, LATENT_SIZES, SeedLatents, known_labels, labels_at
from training.networks.generator import Generator, ModulatedWeights, conditioned_fields

__all__ = [
    "INPUTS",
    "OUTPUTS",
    "Deviation",
    "FrameFunction",
    "deviations",
    "onnx_bytes",
    "onnx_function",
    "program_bytes",
    "program_function",
    "random_inputs",
    "trace",
]

INPUTS = (*CODE_SIZES, "time", "cam2world", "fov")
OUTPUTS = ("image", "depth")

Frame = tuple[torch.Tensor, torch.Tensor]  # image and depth


class FrameFunction(nn.Module):
    """A generator as the frame function at the top of this file, without native operators.

    Args:
        generator: On the CPU, in evaluation mode.

    Raises:
        ValueError: It is in training mode.
    """

    def __init__(self, generator: Generator):
        super().__init__()
        if generator.training:
            raise ValueError("frames are rendered in evaluation mode: call generator.eval() first.")
        self.generator = generator

    def forward(
        self,
        ws: torch.Tensor,
        z_motion: torch.Tensor,
        z_bg: torch.Tensor,
        time: torch.Tensor,
        cam2world: torch.Tensor,
        fov: torch.Tensor,
    ) -> Frame:
        generator, times = self.generator, time[:, None]
        # As `Generator.synthesize`, without the fused operators of a CPU.
        weights = generator.modulate(ws)
        if isinstance(weights, ModulatedWeights):  # a class of the user's own may have others
            weights = dataclasses.replace(weights, fused=None)
        fields = conditioned_fields(generator, weights, ws, times=times, z_motion=z_motion, z_bg=z_bg)
        cameras = Cameras(cam2world=cam2world, fov=fov)
        rays = Rays.through(generator.pixels(ws), cameras, generator.depth_offsets(cameras))
        output = generator.upsample(render_rays(fields, rays, generator.settings, frames=1), weights)
        return output.image[:, 0], output.depth[:, 0]


@torch.no_grad()
def random_inputs(generator: Generator, seed: int) -> tuple[torch.Tensor, ...]:
    """Inputs of a frame function: random codes, a random label, a time and a camera.

    The direction is of the prior's range. The distance and the field of view are not, which for most priors is a single
    value that a function might have taken for a constant.
    """
    random = torch.Generator().manual_seed(seed)
    sizes = (getattr(generator, name) for name in LATENT_SIZES)
    latents = SeedLatents(*(torch.randn([1, size], generator=random, dtype=torch.float32) for size in sizes))
    label = None
    if generator.c_dim > 0:
        label = labels_at(generator, torch.randint(known_labels(generator), [1], generator=random))
    time, yaw, pitch, near, wide = torch.rand([5, 1], generator=random, dtype=torch.float32)
    cameras = generator.camera_prior.at(yaw, pitch)
    cam2world, fov = cameras.cam2world.clone(), cameras.fov * (0.7 + 0.3 * wide)
    cam2world[:, :3, 3] *= 0.9 + 0.2 * near
    codes = latents.with_styles(generator.mapping(latents.z, label))
    return *vars(codes).values(), time, cam2world, fov


@torch.no_grad()
def trace(generator: Generator) -> torch.export.ExportedProgram:
    """The frame function of a generator on the CPU, traced by torch.export."""
    function, example = FrameFunction(generator), random_inputs(generator, seed=0)
    with custom_ops.plain_pytorch(), _one_thread():
        function(*example)  # fills caches of constants, which must not keep tensors of the trace
        return torch.export.export(function, example, strict=False)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread of PyTorch's, with which the layers are products of matrices rather than convolutions."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# ----------------------------------------------------------------------------------------------------------------------
# ONNX


def _cumprod(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    products = [(x if dtype is None else x.to(dtype)).select(dim, 0)]
    for i in range(1, x.shape[dim]):
        products.append(products[-1] * x.select(dim, i))
    return torch.stack(products, dim)


def _tan(x: torch.Tensor) -> torch.Tensor:
    return x.sin() / x.cos()


def _searchsorted(
    sorted_sequence: torch.Tensor,
    values: torch.Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: torch.Tensor | None = None,
) -> torch.Tensor:
    assert not (out_int32 or right or side or sorter is not None)  # the renderer uses the defaults
    return (sorted_sequence[..., None, :] < values[..., :, None]).sum(-1)


_aten = torch.ops.aten
DECOMPOSITIONS = {
    _aten.cumprod.default: _cumprod,
    _aten.tan.default: _tan,
    _aten.searchsorted.Tensor: _searchsorted,
}

#: Operations in place, which the networks use on fresh intermediates only, and the same ones with a result of their
#: own. Graphs of the former write to views of their inputs, which ONNX can only do element by element (8 times as slow
#: for frames of 256×256).
OUT_OF_PLACE = {
    _aten.add_.Tensor: _aten.add.Tensor,
    _aten.clamp_.default: _aten.clamp.default,
    _aten.leaky_relu_.default: _aten.leaky_relu.default,
    _aten.mul_.Tensor: _aten.mul.Tensor,
}


def onnx_bytes(program: torch.export.ExportedProgram) -> bytes:
    """A traced frame function as an ONNX file. The program's graph is changed.

    Raises:
        ImportError: onnx or onnxscript is missing.
    """
    for node in program.graph.nodes:
        node.target = OUT_OF_PLACE.get(node.target, node.target)
    program = program.run_decompositions(DECOMPOSITIONS)
    converted = torch.onnx.export(
        program, args=(), dynamo=True, input_names=list(INPUTS), output_names=list(OUTPUTS), verbose=False
    )
    return converted.model_proto.SerializeToString()


def onnx_function(content: bytes) -> Callable[..., Frame]:
    """An ONNX file as a function of tensors, run by onnxruntime on the CPU.

    Raises:
        ImportError: onnxruntime is missing.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    known = {entry.name for entry in session.get_inputs()}  # without those that the frame does not depend on

    def run(*inputs: torch.Tensor) -> Frame:
        feeds = {name: x.numpy() for name, x in zip(INPUTS, inputs, strict=True) if name in known}
        image, depth = session.run(list(OUTPUTS), feeds)
        return torch.from_numpy(image), torch.from_numpy(depth)

    return run


def program_bytes(program: torch.export.ExportedProgram) -> bytes:
    """A traced frame function as a file of torch.export."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def program_function(content: bytes) -> Callable[..., Frame]:
    """A file of torch.export as a function."""
    return torch.export.load(io.BytesIO(content)).module()


# ----------------------------------------------------------------------------------------------------------------------
# Comparison


@dataclasses.dataclass(frozen=True)
class Deviation:
    """Deviations of one output over all compared frames.

    Attributes:
        name: 'image' or 'depth'.
        largest, rms: Largest and root mean square difference.
        low, high: Range of the original's values.
    """

    name: str
    largest: float
    rms: float
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"{self.name}: largest error {self.largest:.2g}, root mean square {self.rms:.2g} (values from "
            f"{self.low:.3g} to {self.high:.3g})"
        )


@torch.no_grad()
def deviations(
    exported: Callable[..., Frame], original: Callable[..., Frame], inputs: Sequence[tuple[torch.Tensor, ...]]
) -> Iterator[Deviation]:
    """Compare two frame functions; a `Deviation` per output.

    Args:
        inputs: Arguments of each frame, see `random_inputs`.
    """
    frames = [(exported(*x), original(*x)) for x in inputs]
    for i, name in enumerate(OUTPUTS):
        found, wanted = (torch.stack([pair[side][i] for pair in frames]).double() for side in (0, 1))
        difference = (found - wanted).abs()
        yield Deviation(
            name=name,
            largest=float(difference.max()),
            rms=float(difference.square().mean().sqrt()),
            low=float(wanted.min()),
            high=float(wanted.max()),
        )
