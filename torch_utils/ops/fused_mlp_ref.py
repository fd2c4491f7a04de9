"""Reference of the two ×2 upsamplings of StyleNeRF's upsampler, whose results are inputs of a `FusedMLP`."""

import torch
import torch.nn.functional as F

__all__ = ["BLUR", "blurred_corners_ref", "blurred_shuffle_ref"]

#: One axis of the blur. csrc/fused_mlp holds the same numbers, which must change together with these.
BLUR = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8


def _blur_ref(x: torch.Tensor) -> torch.Tensor:
    """[1, 3, 3, 1] / 8 per axis at constant size, zeros outside: rows [H, W, C]."""
    kernel = torch.outer(BLUR, BLUR).to(x).expand(x.shape[-1], 1, -1, -1)
    image = F.pad(x.movedim(-1, 0)[None], [2, 1, 2, 1])
    return F.conv2d(image, kernel, groups=x.shape[-1])[0].movedim(0, -1)


def _nearest_ref(x: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)


def blurred_corners_ref(x: torch.Tensor, hidden: torch.Tensor, slope: float) -> tuple[torch.Tensor, torch.Tensor]:
    """blur(act(own + neighbours' means)) [4HW, C'] and blur(nearest(x)) [4HW, C] of x [H, W, C], hidden [H, W, 2C']."""
    own, neighbours = hidden.chunk(2, dim=-1)
    padded = F.pad(neighbours, [0, 0, 1, 1, 1, 1])
    up, down, left, right = padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]
    corners = [[own + (vertical + level) / 2 for level in (left, right)] for vertical in (up, down)]
    corners = torch.stack([torch.stack(row, dim=2) for row in corners], dim=1)  # [H, 2, W, 2, C']
    corners = corners.flatten(2, 3).flatten(0, 1)
    return _blur_ref(F.leaky_relu(corners, slope)).flatten(0, 1), _blur_ref(_nearest_ref(x)).flatten(0, 1)


def blurred_shuffle_ref(x: torch.Tensor, corrections: torch.Tensor) -> torch.Tensor:
    """blur(nearest(x) + shuffled corrections), [4HW, C]."""
    shuffled = corrections.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # [2H, 2W, C]
    return _blur_ref(_nearest_ref(x) + shuffled).flatten(0, 1)
