"""The foreground field of one video as a program of dense layers: evaluation without gradients on a CPU."""

from collections.abc import Sequence

import torch

from renderer.volume import Marched, RenderSettings
from torch_utils.ops.dense import DenseLayer, DenseProgram, has_native_rows
from training.layers import octaves

__all__ = ["ForegroundProgram"]

#: Weight [out, in] and bias [out] or None.
Linear = tuple[torch.Tensor, torch.Tensor | None]
SLOPE = 0.2


class ForegroundProgram:
    """A trunk of layers with leaky ReLU, on which a density head and, optionally, a view-dependent colour stand.

    Args:
        layers: The trunk.
        density: Its head.
        features, rgb: The view-dependent head (without its bias, which comes from the directions) and the colour that
            follows it; None if colours do not depend on directions.
        view_slope: Negative slope of the view-dependent head.
        precision: See `DenseProgram`.
    """

    def __init__(
        self,
        layers: Sequence[Linear],
        *,
        density: Linear,
        features: torch.Tensor | None,
        rgb: Linear | None,
        view_slope: float,
        precision: str,
    ):
        self._last = last = len(layers) - 1
        program = [DenseLayer(weight, bias, slope=SLOPE, source=i - 1) for i, (weight, bias) in enumerate(layers)]
        program.append(DenseLayer(*density, source=last))
        if features is not None:
            program.append(DenseLayer(features, slope=view_slope, source=last))
            program.append(DenseLayer(*rgb, source=last + 2))
        self._program = DenseProgram(program, precision=precision, recentres=True)

    @staticmethod
    def available(weight: torch.Tensor, precision: str) -> bool:
        """Whether it serves for a video's weights [1, out, in]."""
        fits = weight.dtype == torch.float32 and not weight.requires_grad and len(weight) == 1
        return fits and has_native_rows(weight.device, precision)

    def __call__(
        self, x: torch.Tensor, biases: Sequence[torch.Tensor | None], view: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Evaluate rows.

        Args:
            x: Encoded points [P, inputs].
            biases: Per layer of the trunk [G, width] for G runs of rows, or None for the layer's own.
            view: What directions add to the view-dependent head [G', F], its bias included, or None.

        Returns:
            Density [P, 1], hidden state [P, width], and colour [P, 3] or None.
        """
        keep, replaced = self._wanted(biases, view)
        density, hidden, *colour = self._program(x, keep=[self._last + 1, *keep], biases=replaced)
        return density, hidden, colour[0] if colour else None

    def march(
        self,
        origin: torch.Tensor,
        directions: torch.Tensor,
        settings: RenderSettings,
        *,
        frequencies: int,
        last_opaque: bool,
        biases: Sequence[torch.Tensor | None],
        view: torch.Tensor | None,
    ) -> Marched:
        """Rays [R, 3] from an origin [3] for one frame of one video; features are hidden state and colour."""
        keep, replaced = self._wanted(biases, view)
        sums, *totals = self._program.march(
            origin,
            directions,
            samples=settings.num_samples,
            importance=settings.num_importance,
            near=settings.near,
            far=settings.far,
            last_opaque=last_opaque,
            scales=octaves(frequencies, directions),
            density=self._last + 1,
            keep=keep,
            biases=replaced,
        )
        return Marched(tuple(x[None, None] for x in sums), *(x[None, None] for x in totals))

    def _wanted(self, biases, view):
        """The layers of the features, and the biases that replace those of layers."""
        replaced = {i: bias for i, bias in enumerate(biases) if bias is not None}
        if view is None:
            return [self._last], replaced
        return [self._last, self._last + 3], replaced | {self._last + 2: view}
