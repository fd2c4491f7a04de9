"""One discriminator, written out formula by formula in double precision, on parameters under published names."""

import math

import torch
from torch.nn.functional import conv2d, pad

from tests.goldens.reference.layers import dense, gained_lrelu, normalized
from tests.goldens.reference.upsampler import fir


def discriminator_shapes(prefix, *, resolution, img_channels, channels=32768, max_channels=512, c_dim=0):
    """Published name → shape of every parameter, of 'videoD' or 'imageD'."""
    shapes = {}

    def add(name, *weight_shape):
        shapes[f"{prefix}.{name}.weight"], shapes[f"{prefix}.{name}.bias"] = weight_shape, weight_shape[:1]

    def width(r):
        return min(channels // r, max_channels)

    r = resolution
    while r > 4:
        add(f"b{r}.fromrgb", width(r), img_channels, 1, 1)
        add(f"b{r}.conv0", width(r), width(r), 3, 3)
        add(f"b{r}.conv1", width(r // 2), width(r), 3, 3)
        r //= 2
    add("b4.fromrgb", width(4), img_channels, 1, 1)
    add("b4.conv", width(4), width(4) + 1, 3, 3)
    add("b4.fc", width(4), width(4) * 16)
    outputs = width(4) if c_dim else 1
    add("b4.out", outputs, width(4))
    if c_dim:
        add("mapping.embed", outputs, c_dim)
        for i in range(8):
            add(f"mapping.fc{i}", outputs, outputs)
    return shapes


def convolution(state, name, x, *, down=False, clamp=None):
    """Equalised convolution; with downsampling: pad by k // 2 + 1, filter, stride 2. Then bias, leaky ReLU, clamp."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    k = weight.shape[2]
    weight = weight / math.sqrt(weight.shape[1] * k * k)
    if down:
        x = torch.stack([fir(sample, k // 2 + 1, k // 2 + 1) for sample in x])
        x = conv2d(x, weight, stride=2)
    else:
        x = conv2d(pad(x, [k // 2] * 4), weight)
    x = gained_lrelu(x + bias[:, None, None])
    return x if clamp is None else x.clamp(-clamp, clamp)


def halved(image):
    return torch.stack([fir(sample, 1, 1)[:, ::2, ::2] for sample in image])


def deviation(x, group):
    """[N, 1, H, W]: per sample the standard deviation within its group, averaged over everything else."""
    n = len(x)
    group = min(group, n)
    groups = n // group
    planes = []
    for i in range(n):
        members = x[[j for j in range(n) if j % groups == i % groups]]
        variance = ((members - members.mean(dim=0)) ** 2).mean(dim=0)
        planes.append((variance + 1e-8).sqrt().mean().expand(1, *x.shape[2:]))
    return torch.stack(planes)


def discriminate(state, prefix, image, *, group=8, clamp=256.0, c=None):
    """Images [N, C, H, H] to logits [N, 1]."""
    x, r = None, image.shape[-1]
    while r > 4:
        y = convolution(state, f"{prefix}.b{r}.fromrgb", image, clamp=clamp)
        x = y if x is None else x + y
        x = convolution(state, f"{prefix}.b{r}.conv0", x, clamp=clamp)
        x = convolution(state, f"{prefix}.b{r}.conv1", x, down=True, clamp=clamp)
        image = halved(image)
        r //= 2
    x = x + convolution(state, f"{prefix}.b4.fromrgb", image)
    x = convolution(state, f"{prefix}.b4.conv", torch.cat([x, deviation(x, group)], dim=1), clamp=clamp)
    x = gained_lrelu(dense(state, f"{prefix}.b4.fc", x.flatten(1)))
    x = dense(state, f"{prefix}.b4.out", x)
    if c is None:
        return x
    y = normalized(dense(state, f"{prefix}.mapping.embed", c))
    for i in range(8):
        y = gained_lrelu(dense(state, f"{prefix}.mapping.fc{i}", y, lr=0.01))
    return (x * y).sum(dim=1, keepdim=True) / math.sqrt(x.shape[1])
