"""The 2D upsampler, on images of features [C, H, W], and the same layers on points."""

import dataclasses

import torch

from tests.goldens.reference.layers import colours, dense, gained_lrelu, modulated, modulated_lrelu
from tests.goldens.reference.spec import Spec


def fir(x, pad_before=2, pad_after=1, gain=1.0):
    """Correlation with [1, 3, 3, 1] ⊗ [1, 3, 3, 1] / 64 of an image framed by zeros."""
    taps, (c, h, w) = [1 / 8, 3 / 8, 3 / 8, 1 / 8], x.shape
    framed = x.new_zeros(c, h + pad_before + pad_after, w + pad_before + pad_after)
    framed[:, pad_before : pad_before + h, pad_before : pad_before + w] = x
    height, width = framed.shape[1] - 3, framed.shape[2] - 3
    result = 0
    for i, a in enumerate(taps):
        for j, b in enumerate(taps):
            result = result + gain * a * b * framed[:, i : i + height, j : j + width]
    return result


def doubled(image):
    """Zeros after each pixel and row, filter at gain 4."""
    c, h, w = image.shape
    zeros = image.new_zeros(c, 2 * h, 2 * w)
    zeros[:, ::2, ::2] = image
    return fir(zeros, gain=4.0)


def nearest(x):
    c, h, w = x.shape
    return x[:, :, None, :, None].expand(c, h, 2, w, 2).reshape(c, 2 * h, 2 * w)


def corner_neighbours(x):
    """Each pixel's four corners: (left + up) / 2, (up + right) / 2, (left + down) / 2, (right + down) / 2."""
    c, h, w = x.shape
    framed = x.new_zeros(c, h + 2, w + 2)
    framed[:, 1:-1, 1:-1] = x
    left, right = framed[:, 1:-1, :-2], framed[:, 1:-1, 2:]
    up, down = framed[:, :-2, 1:-1], framed[:, 2:, 1:-1]
    result = x.new_zeros(c, 2 * h, 2 * w)
    result[:, ::2, ::2] = (left + up) / 2
    result[:, ::2, 1::2] = (up + right) / 2
    result[:, 1::2, ::2] = (left + down) / 2
    result[:, 1::2, 1::2] = (right + down) / 2
    return result


def on_pixels(layer, state, name, x, *style):
    """A layer of rows [P, C] on every pixel of an image."""
    _, h, w = x.shape
    return layer(state, name, x.flatten(1).T, *style).T.reshape(-1, h, w)


def upsampled(state, name, spec: Spec, x):
    def adapter(y):
        hidden = gained_lrelu(on_pixels(dense, state, f"{name}.adapter.0", y))
        return on_pixels(dense, state, f"{name}.adapter.1", hidden)

    if spec.upsampling == "nn_cat":
        return fir(nearest(x) + adapter(torch.cat([nearest(x), corner_neighbours(x)])))
    return fir(nearest(x) + torch.nn.functional.pixel_shuffle(adapter(x), 2))


@dataclasses.dataclass
class Magnitudes:
    """The running means of squares, per layer. In training each pass over all videos updates them before use."""

    values: dict[str, torch.Tensor]
    training: bool

    @classmethod
    def of(cls, state, training):
        return cls(
            {name: value.clone() for name, value in state.items() if "conv" in name and "w_avg" in name}, training
        )

    def normalize(self, name, xs):
        key = f"{name}.w_avg"
        if self.training:
            current = torch.cat([x.detach().flatten() for x in xs]).square().mean()
            self.values[key] = 0.999 * self.values[key] + 0.001 * current
        return [x / self.values[key].sqrt() for x in xs]


def upsample_images(state, spec: Spec, magnitudes: Magnitudes, xs, images, ws):
    """Features and rgb of every frame (lists of [C, h, w]) to images; ws: a frame's styles [num_ws, w_dim] each."""
    at = spec.layers + 2
    for r in spec.block_resolutions():
        for k, layer in enumerate(("conv0", "conv1")):
            name = f"synthesis.b{r}.{layer}"
            xs = magnitudes.normalize(name, xs)
            xs = [on_pixels(modulated, state, name, x, w[at + k]) for x, w in zip(xs, ws)]
            if layer == "conv0":
                xs = [upsampled(state, name, spec, x) for x in xs]
            bias = state[f"{name}.bias"][:, None, None]
            xs = [gained_lrelu(x + bias).clamp(-spec.clamp, spec.clamp) for x in xs]
        name = f"synthesis.b{r}.torgb"
        rgbs = [on_pixels(colours, state, name, x, w[at + 2]) for x, w in zip(xs, ws)]
        images = [doubled(image) + rgb.clamp(-spec.clamp, spec.clamp) for image, rgb in zip(images, rgbs)]
        at += 2  # the colours' style is the next block's first
    return images


def upsample_points(state, spec: Spec, magnitudes: Magnitudes, xs, rgbs, ws):
    """The same layers without any resampling on rows [P, F] and [P, 3]."""
    at = spec.layers + 2
    for r in spec.block_resolutions():
        for k, layer in enumerate(("conv0", "conv1")):
            name = f"synthesis.b{r}.{layer}"
            xs = magnitudes.normalize(name, xs)
            xs = [modulated_lrelu(state, name, x, w[at + k]).clamp(-spec.clamp, spec.clamp) for x, w in zip(xs, ws)]
        added = [colours(state, f"synthesis.b{r}.torgb", x, w[at + 2]) for x, w in zip(xs, ws)]
        rgbs = [rgb + more.clamp(-spec.clamp, spec.clamp) for rgb, more in zip(rgbs, added)]
        at += 2
    return rgbs
