"""Clips of known content: sums of moving waves, and ways to degrade them."""

import numpy as np
import torch


def waves(count: int, *, frames: int = 16, size: int = 24, seed: int = 0) -> torch.Tensor:
    """Clips uint8 [count, 3, frames, size, size] of four coloured waves each, which move at different speeds."""
    random = np.random.RandomState(seed)
    y, x = np.mgrid[:size, :size]
    clips = []
    for _ in range(count):
        image = np.broadcast_to(random.uniform(0.2, 0.8, 3), [frames, size, size, 3]).copy()
        for _ in range(4):
            (fx, fy), phase, speed = random.uniform(0.1, 0.9, 2), random.uniform(0, 6.28), random.uniform(-0.6, 0.6)
            angle = (fx * x + fy * y + phase)[None] + speed * np.arange(frames)[:, None, None]
            image += np.sin(angle)[..., None] * random.uniform(-0.2, 0.2, 3)
        clips.append(np.clip(image * 255, 0, 255).astype(np.uint8))
    return torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3).contiguous()


def noisy(clips: torch.Tensor, strength: float) -> torch.Tensor:
    """Clips with Gaussian noise of standard deviation `strength` in grey levels."""
    noise = torch.randn(clips.shape, generator=torch.Generator().manual_seed(1))
    return to_bytes(clips.float() + strength * noise)


def blurred(clips: torch.Tensor, strength: float) -> torch.Tensor:
    """Clips with every frame blurred by a Gaussian of standard deviation `strength` in pixels."""
    kernel = torch.exp(-torch.arange(-6.0, 7.0).square() / (2 * strength**2))
    kernel = kernel[:, None] * kernel / kernel.sum() ** 2
    frames = clips.float().transpose(1, 2).flatten(0, 2)[:, None]
    frames = torch.nn.functional.pad(frames, [6] * 4, mode="replicate")
    frames = torch.nn.functional.conv2d(frames, kernel[None, None])
    return to_bytes(frames.reshape(clips.transpose(1, 2).shape).transpose(1, 2))


def shuffled(clips: torch.Tensor, strength: int) -> torch.Tensor:
    """Clips with `strength` of their frames in random order."""
    random = np.random.RandomState(2)
    out = clips.clone()
    for clip, spoiled in zip(clips, out):
        chosen = random.choice(clips.shape[2], strength, replace=False)
        spoiled[:, np.sort(chosen)] = clip[:, chosen]
    return out


def frozen(clips: torch.Tensor, strength: int) -> torch.Tensor:
    """Clips that stand still for their last `strength` frames."""
    out = clips.clone()
    out[:, :, -strength:] = clips[:, :, -strength - 1, None]
    return out


def to_bytes(x: torch.Tensor) -> torch.Tensor:
    return x.round().clamp(0, 255).to(torch.uint8)
