"""The mapping and motion networks, and the two fields."""

import torch

from tests.goldens.reference.layers import (
    colours,
    dense,
    encode,
    gained_lrelu,
    lrelu,
    modulated_lrelu,
    normalized,
    plain,
)
from tests.goldens.reference.spec import Spec


def mapping(state, spec: Spec, z, c=None):
    """[B, z_dim] → w [B, w_dim], before truncation."""
    x = normalized(z)
    if spec.c_dim:
        x = torch.cat([x, normalized(dense(state, "mapping.embed", c))], dim=1)
    for i in range(spec.mapping_layers):
        x = gained_lrelu(dense(state, f"mapping.fc{i}", x, lr=0.01))
    return x


def motion_vector(state, spec: Spec, z_motion, t, w):
    prefix = "synthesis.fg_nerf.motion_generator"
    code = torch.cat([z_motion, w]) if spec.motion_content else z_motion
    a = lrelu(dense(state, f"{prefix}.affine", code[None]) * t, 0.01)
    for i in range(spec.motion_blocks):
        a = gained_lrelu(dense(state, f"{prefix}.motion_mlp.{i}", a))
    return dense(state, f"{prefix}.motion_mlp.{spec.motion_blocks}", a)[0]


# Fields: points [P, 3 or 4] → raw density [P] and [rgb | features] [P, 3 + F].


def foreground_field(state, spec: Spec, ws, points, view, t, motion, prefix="synthesis.fg_nerf"):
    dynamic = prefix == "synthesis.fg_nerf"
    x = encode(points, spec.octaves)
    time = torch.full([len(points), 1], float(t), dtype=x.dtype)
    if dynamic and spec.time_input == "raw":
        x = torch.cat([x, time], dim=1)
    if dynamic and spec.time_input == "encoded":
        x = torch.cat([x, encode(time, spec.octaves)], dim=1)
    h = modulated_lrelu(state, f"{prefix}.fc_in", x, ws[0])
    if dynamic and spec.motion == "add":
        h = h + motion
    if dynamic and spec.motion == "concat":
        h = torch.cat([h, motion.expand(len(h), -1)], dim=1)
    for i in range(spec.layers - 1):
        h = modulated_lrelu(state, f"{prefix}.blocks.{i}", h, ws[i + 1])
    density = colours(state, f"{prefix}.sigma_out", h, ws[spec.layers])[:, 0]
    features = colours(state, f"{prefix}.feat_out", h, ws[spec.layers + 1])
    if spec.view:
        seen = features + dense(state, f"{prefix}.from_ray", encode(view, spec.view_octaves))
        rgb = dense(state, f"{prefix}.to_rgb", lrelu(seen, 0.01))
    else:
        rgb = dense(state, f"{prefix}.to_rgb", features)
    both = torch.cat([rgb, features], dim=1)
    if not dynamic or spec.static == "none":
        return density, both
    static_density, static = foreground_field(state, spec, ws, points, view, t, None, "synthesis.static_nerf")
    mask = torch.full([len(points), 1], 0.5, dtype=x.dtype)
    if spec.static == "mask":
        mask = 1 / (1 + torch.exp(-dense(state, f"{prefix}.mask", h)))
    return mask[:, 0] * density + (1 - mask[:, 0]) * static_density, mask * both + (1 - mask) * static


def background_field(state, spec: Spec, points, code):
    prefix = "synthesis.bg_nerf"
    x = torch.cat([encode(points, spec.octaves), code.expand(len(points), -1)], dim=1)
    x = plain(state, f"{prefix}.fc_in", x).clamp(min=0)
    for i in range(spec.background_layers - 1):
        x = plain(state, f"{prefix}.blocks.{i}", x).clamp(min=0)
    features = plain(state, f"{prefix}.feat_out", x)
    rgb = dense(state, f"{prefix}.to_rgb", features)
    return plain(state, f"{prefix}.sigma_out", x)[:, 0], torch.cat([rgb, features], dim=1)
