"""Reconstruction loss of an inversion: squared differences at several scales, optionally with LPIPS."""

import torch

from dnnlib import UserError, one_line

__all__ = ["ClipLoss", "psnr_of_error", "pyramid"]

COARSEST = 4  # pixels


def pyramid(images: torch.Tensor) -> list[torch.Tensor]:
    """Images [N, 3, H, H] at their own resolution, halved by averaging, and so on down to 4 pixels."""
    levels = [images]
    while levels[-1].shape[-1] % 2 == 0 and levels[-1].shape[-1] > COARSEST:
        levels.append(torch.nn.functional.avg_pool2d(levels[-1], 2))
    return levels


def psnr_of_error(mean_square: torch.Tensor | float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared difference of pixels in [-1, 1]."""
    return float(10 * torch.log10(4 / torch.as_tensor(mean_square, dtype=torch.float64).clamp(min=1e-12)))


class ClipLoss:
    """Distance of images to the frames of a clip.

    Args:
        clip: [T, 3, H, H] in [-1, 1].
        perceptual: A network that takes images [N, 3, H, H] with values 0…255 and the flags resize_images and
            return_lpips, and returns features [N, D] whose squared distance is LPIPS; None for none.
        perceptual_weight: Weight of LPIPS relative to the squared differences of pixels.

    Raises:
        UserError: The network does not take such images or does not return such features.
    """

    def __init__(self, clip: torch.Tensor, *, perceptual=None, perceptual_weight: float = 0.1):
        self._levels = pyramid(clip)
        self._perceptual, self._weight = perceptual, perceptual_weight
        if perceptual is not None:
            try:
                with torch.no_grad():
                    self._features = torch.cat([self._extract(frame[None]) for frame in clip])
                if self._features.ndim != 2 or len(self._features) != len(clip):
                    raise ValueError(f"it returns {list(self._features.shape)} for {len(clip)} frames")
            except (RuntimeError, ValueError, TypeError, AttributeError) as error:
                reason = one_line(str(error).strip().rpartition("\n")[2])[:200]
                raise UserError(
                    "--lpips: the network cannot compare frames: called with images [N, 3, H, H] of 0…255, "
                    f"resize_images=False and return_lpips=True it must return features [N, D] ({reason})."
                ) from error

    def __call__(self, images: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses of images [N, 3, H, H] with respect to the clip's `frames` [N].

        Returns:
            Per image [N]: the mean over the scales of the mean squared difference, plus the weighted LPIPS; and the
            mean squared difference at full resolution alone.
        """
        squares = [
            (level - wanted[frames]).square().mean(dim=(1, 2, 3))
            for level, wanted in zip(pyramid(images), self._levels, strict=True)
        ]
        loss = torch.stack(squares).mean(dim=0)
        if self._perceptual is not None:
            distance = (self._extract(images) - self._features[frames]).square().sum(dim=1)
            loss = loss + self._weight * distance
        return loss, squares[0].detach()

    def _extract(self, images: torch.Tensor) -> torch.Tensor:
        return self._perceptual((images + 1) * 127.5, resize_images=False, return_lpips=True)
