"""Whole frames: the volume rendering, the upsampler and the NeRF-path loss."""

import torch

from tests.goldens.reference.fields import motion_vector
from tests.goldens.reference.rays import directions, pixel_grid
from tests.goldens.reference.rendering import render_rays
from tests.goldens.reference.spec import Spec
from tests.goldens.reference.upsampler import Magnitudes, upsample_images, upsample_points


def synthesize(state, spec: Spec, ws, z_motion, z_bg, times, cam2world, fov, *, draws=None, training=False, path=False):
    """Frames of B videos, as a dictionary of tensors.

    Args:
        state: Published name → float64 tensor.
        ws, z_motion, z_bg, times, cam2world: [B, num_ws, w_dim], [B, ·], [B, ·], [B, T], [B, 4, 4], all float64.
        fov: Degrees.
        draws: Recorded random draws, by name: [B, R, S], with the lattice's rays after the image's.
        training: Whether the running means of squares are updated.
        path: Whether to compute the NeRF-path loss.

    Returns:
        image [B, T, 3, H, W], image_raw [B, T, 3, h, w], opacity [B, T, h, w], magnitudes (name → value), and with
        `path` path_loss [B, T].
    """
    draws = draws or {}
    batch, frames = times.shape
    stride = spec.resolution // spec.lattice
    magnitudes = Magnitudes.of(state, training)
    features, raws, opacities, lattices, pixel_indices, styles = [], [], [], [], [], []
    for b in range(batch):
        pixels = pixel_grid(spec.volume)
        if path:
            x0, y0 = (int(u * stride) for u in draws["render/path_offset"][b])
            steps = [stride * i for i in range(spec.lattice)]
            pixel_indices.append([(y0 + y) * spec.resolution + x0 + x for y in steps for x in steps])
            pixels = torch.cat([pixels, pixel_grid(spec.resolution)[pixel_indices[-1]]])
        noise = {name: value[b][: len(pixels)].double() for name, value in draws.items() if value.ndim == 3}
        rays = directions(cam2world[b], fov, pixels)
        for t in times[b]:
            motion = motion_vector(state, spec, z_motion[b], t, ws[b, 0]) if spec.motion else None
            rows, samples = render_rays(state, spec, ws[b], z_bg[b], t, motion, cam2world[b, :3, 3], rays, noise)
            grid = rows[: spec.volume**2].T.reshape(-1, spec.volume, spec.volume)
            raws.append(grid[:3])
            features.append(grid[3:])
            opacities.append(1 - torch.stack([s[2] for s in samples[: spec.volume**2]]))
            lattices.append(samples[spec.volume**2 :])
            styles.append(ws[b])
    images = upsample_images(state, spec, magnitudes, features, raws, styles)

    def videos(tensors):
        stacked = torch.stack(tensors)
        return stacked.reshape(batch, frames, *stacked.shape[1:])

    result = {
        "image": videos(images),
        "image_raw": videos(raws),
        "opacity": videos(opacities).reshape(batch, frames, spec.volume, spec.volume),
    }
    if path:
        points = [torch.stack([values for _, values, _ in lattice]) for lattice in lattices]  # [L, S, 3 + F] per frame
        flat = [p.flatten(0, 1) for p in points]
        rgbs = upsample_points(state, spec, magnitudes, [p[:, 3:] for p in flat], [p[:, :3] for p in flat], styles)
        losses = []
        for n, rgb in enumerate(rgbs):
            weights = torch.stack([w for w, _, _ in lattices[n]])
            composited = (weights[..., None] * rgb.reshape(*weights.shape, 3)).sum(dim=1)
            wanted = images[n].flatten(1)[:, pixel_indices[n // frames]].T
            losses.append(2 * ((composited - wanted) ** 2).sum(dim=1).mean())
        result["path_loss"] = videos(losses)
    result["magnitudes"] = magnitudes.values
    return result
