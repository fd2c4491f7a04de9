"""Specification of a model: its free numbers, and the published names and shapes of its tensors."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """Free numbers of the formulas. The defaults are the FaceForensics model; half of them name ablations."""

    resolution: int = 256
    c_dim: int = 0
    z_dim: int = 512
    motion_dim: int = 512
    w_dim: int = 512
    code_dim: int = 32
    mapping_layers: int = 8
    width: int = 128
    layers: int = 8
    octaves: int = 10
    view_octaves: int = 4
    features: int = 256
    view: bool = True
    motion: str | None = "add"  # or concat, None
    motion_width: int = 128
    motion_blocks: int = 1
    motion_content: bool = False
    time_input: str = "none"  # or raw, encoded
    static: str = "none"  # or mask, equal
    background: bool = True
    background_width: int = 64
    background_layers: int = 4
    upsampling: str = "nn_cat"  # or pixelshuffle
    channels: int = 32768  # at resolution 1, so to say
    max_channels: int = 512
    clamp: float = 256.0
    volume: int = 32
    samples: int = 14
    importance: int = 14
    far_samples: int = 4
    lattice: int = 16

    def block_resolutions(self) -> list[int]:
        return [r for r in (2**i for i in range(12)) if self.volume < r <= self.resolution]

    def block_channels(self, resolution: int) -> int:
        return min(self.channels // resolution, self.max_channels)

    @property
    def num_ws(self) -> int:
        return self.layers + 2 + 2 * len(self.block_resolutions()) + 1


SPECS = {
    "faceforensics": Spec(),
    "mead": Spec(features=64, view=False, upsampling="pixelshuffle", max_channels=1024),
    "taichi": Spec(resolution=128, features=128),
}


def generator_shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Published name → shape of every parameter and of the running means (constant filters are left out)."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(name, *weight_shape, affine=False):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = weight_shape, weight_shape[:1]
        if affine:
            add(f"{name}.affine", weight_shape[1], spec.w_dim)

    def add_foreground(prefix, motion, time_input):
        time_inputs = {"none": 0, "raw": 1, "encoded": 2 * spec.octaves}[time_input]
        add(f"{prefix}.fc_in", spec.width, 6 * spec.octaves + time_inputs, 1, 1, affine=True)
        for i in range(spec.layers - 1):
            inputs = spec.width * (2 if motion == "concat" and i == 0 else 1)
            add(f"{prefix}.blocks.{i}", spec.width, inputs, 1, 1, affine=True)
        add(f"{prefix}.sigma_out", 1, spec.width, 1, 1, affine=True)
        add(f"{prefix}.feat_out", spec.features, spec.width, 1, 1, affine=True)
        add(f"{prefix}.to_rgb", 3, spec.features, 1, 1)
        if spec.view:
            add(f"{prefix}.from_ray", spec.features, 6 * spec.view_octaves, 1, 1)

    add_foreground("synthesis.fg_nerf", spec.motion, spec.time_input)
    if spec.static != "none":
        add_foreground("synthesis.static_nerf", None, "none")
    if spec.static == "mask":
        add("synthesis.fg_nerf.mask", 1, spec.width, 1, 1)
    if spec.motion:
        prefix = "synthesis.fg_nerf.motion_generator"
        add(f"{prefix}.affine", spec.motion_width, spec.motion_dim + (spec.w_dim if spec.motion_content else 0))
        for i in range(spec.motion_blocks):
            add(f"{prefix}.motion_mlp.{i}", spec.motion_width, spec.motion_width)
        add(f"{prefix}.motion_mlp.{spec.motion_blocks}", spec.width, spec.motion_width)
    if spec.background:
        prefix, width = "synthesis.bg_nerf", spec.background_width
        add(f"{prefix}.fc_in", width, 8 * spec.octaves + spec.code_dim)
        for i in range(spec.background_layers - 1):
            add(f"{prefix}.blocks.{i}", width, width)
        add(f"{prefix}.sigma_out", 1, width)
        add(f"{prefix}.feat_out", spec.features, width)
        add(f"{prefix}.to_rgb", 3, spec.features, 1, 1)
    inputs = spec.features
    for r in spec.block_resolutions():
        channels = spec.block_channels(r)
        add(f"synthesis.b{r}.conv0", channels, inputs, 1, 1, affine=True)
        add(f"synthesis.b{r}.conv1", channels, channels, 1, 1, affine=True)
        shapes[f"synthesis.b{r}.conv0.w_avg"] = shapes[f"synthesis.b{r}.conv1.w_avg"] = ()
        both, out = (2 * channels, channels) if spec.upsampling == "nn_cat" else (channels, 4 * channels)
        add(f"synthesis.b{r}.conv0.adapter.0", channels // 4, both, 1, 1)
        add(f"synthesis.b{r}.conv0.adapter.1", out, channels // 4, 1, 1)
        add(f"synthesis.b{r}.torgb", 3, channels, 1, 1, affine=True)
        inputs = channels
    shapes["mapping.w_avg"] = (spec.w_dim,)
    if spec.c_dim:
        add("mapping.embed", spec.w_dim, spec.c_dim)
    for i in range(spec.mapping_layers):
        first = spec.z_dim + (spec.w_dim if spec.c_dim else 0)
        add(f"mapping.fc{i}", spec.w_dim, first if i == 0 else spec.w_dim)
    return shapes
