"""Layers, on rows of features [P, C]. `state` maps published names to tensors."""

import math

import torch


def lrelu(x, slope=0.2):
    return torch.where(x > 0, x, slope * x)


def gained_lrelu(x):
    return lrelu(x) * math.sqrt(2)


def dense(state, name, x, lr=1.0):
    """Equalised learning rate: weight · lr / √in, bias · lr. For 1×1 convolutions too."""
    weight = state[f"{name}.weight"].flatten(1)
    return x @ (weight * (lr / math.sqrt(weight.shape[1]))).T + state[f"{name}.bias"] * lr


def plain(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def modulated(state, name, x, w):
    """Weight w_oi s_i / √(Σ_i (w_oi s_i)² + 1e-8), where s is a dense function of the style; no bias yet."""
    weight = state[f"{name}.weight"].flatten(1)
    style = dense(state, f"{name}.affine", w[None])[0]
    rows = []
    for row in weight:
        scaled = row * style
        rows.append(scaled / ((scaled**2).sum() + 1e-8).sqrt())
    return x @ torch.stack(rows).T


def modulated_lrelu(state, name, x, w):
    return gained_lrelu(modulated(state, name, x, w) + state[f"{name}.bias"])


def colours(state, name, x, w):
    """The "ToRGB" kind of modulated layer: not demodulated, style / √in."""
    weight = state[f"{name}.weight"].flatten(1)
    style = dense(state, f"{name}.affine", w[None])[0] / math.sqrt(weight.shape[1])
    return x @ (weight * style).T + state[f"{name}.bias"]


def encode(p, octaves):
    parts = []
    for i in range(octaves):
        parts += [torch.sin(2**i * math.pi * p), torch.cos(2**i * math.pi * p)]
    return torch.cat(parts, dim=-1)


def normalized(x):
    return x / ((x**2).mean(dim=-1, keepdim=True) + 1e-8).sqrt()
