"""The Python interface to trained discriminators (docs/python.md).

D = load_discriminators("runs/00000-clips-stylenerf_small-small-res32-mb4")
logits = D(frames, dt).video                      # [B, 1]
"""

import os
from typing import Any, NamedTuple

import torch
from torch import nn

from torch_utils.argument_checks import check_network, check_placement, check_tensors
from torch_utils.caller_settings import without_autocast, without_defaults
from training.checkpoints.network_classes import check_class, own_class
from training.checkpoints.network_state import check_rebuilt
from training.checkpoints.pretrained import write_discriminators
from training.checkpoints.snapshot import load_snapshot, stored_discriminators
from training.inference.arguments import SOURCES, check_path, label_shape
from training.networks.discriminator import TimeAwareDiscriminators, check_groups, check_pairs, time_plane

__all__ = ["DiscriminatorLogits", "VideoDiscriminators", "load_discriminators"]


@without_defaults()
def load_discriminators(
    source: str | os.PathLike,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    discriminator_class: type[nn.Module] | None = None,
) -> "VideoDiscriminators":
    """The video and the image discriminator of a snapshot; arguments and errors as for `video3d.load_generator`."""
    check_path("source", source, SOURCES)
    check_placement(device, dtype)
    if discriminator_class is not None and not isinstance(discriminator_class, type):
        raise ValueError(f"discriminator_class must be a class, got {type(discriminator_class).__name__}.")
    content = load_snapshot(source)
    network = stored_discriminators(content, source=source, device=device, discriminator_class=discriminator_class)
    check_class("discriminator", network, discriminator_class, source=source)
    return VideoDiscriminators(network).to(dtype)


class DiscriminatorLogits(NamedTuple):
    """Logits of the video discriminator [B, 1], and of the image discriminator for every frame [B, 2] (or None)."""

    video: torch.Tensor
    image: torch.Tensor | None


class VideoDiscriminators(nn.Module):
    """The discriminators of a 4D GAN (3D-Aware Video Generation, section 3.2): of pairs of frames, and of single ones.

    Args:
        network: The two networks, `network.video` and `network.image`.

    Raises:
        ValueError: No network.
    """

    def __init__(self, network: TimeAwareDiscriminators):
        super().__init__()
        check_network("network", network, "video_logits", such_as="D.network")
        self.network = network
        self.training = network.training  # for callers that restore the mode that they found

    @property
    def resolution(self) -> int:
        """Width of the images in pixels."""
        return self.network.resolution

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write the discriminators beside a generator's files, so that training can start from the folder (`resume=`).

        Raises:
            UserError: The folder cannot be written to, safetensors is missing, or the network's config would give
                another network.
            ValueError: No path.
        """
        check_path("folder", folder)
        check_rebuilt(self.network, what="the discriminator")
        own = own_class(self.network).get("class")
        write_discriminators(folder, config=self.network.config, state=self.network.state_dict(), network_class=own)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, **options: Any) -> "VideoDiscriminators":
        """`load_discriminators` with an object of this class, which may be derived."""
        loaded = load_discriminators(source, **options)
        return loaded if cls is VideoDiscriminators else cls(loaded.network)

    @without_autocast()
    def forward(self, frames: torch.Tensor, dt: torch.Tensor, c: torch.Tensor | None = None) -> DiscriminatorLogits:
        """Logits of pairs of frames; above 0: classified as real.

        The logits of a pair depend on the rest of the batch (minibatch standard deviation, Progressive GAN, section 3).

        Args:
            frames: [B, 2, 3, H, W] in [-1, 1], the earlier one first. B is a multiple of `mbstd_group`, the group size
                of the minibatch standard deviation (in `network.config`), or at most half of it.
            dt: Time between them [B] in [0, 1], as a fraction of a training clip.
            c: Labels [B, c_dim] if it was trained with them; after `camera_condition=true` with
                `training.loss.camera_label` at their end.

        Returns:
            video [B, 1] and image [B, 2] (None without an image discriminator).

        Raises:
            ValueError: Tensors of other shapes or types, of different batches or on another device, a missing label, or
                another number of pairs. On a CPU also frames far outside of [-1, 1] and times outside of [0, 1]: on a
                GPU, reading values would wait for it.
        """
        size, device = self.resolution, next(self.network.parameters()).device
        shapes = {"frames": (frames, ("B", 2, 3, size, size)), "dt": (dt, ("B",))}
        check_tensors(shapes | label_shape(c, self.network.c_dim), device=device)
        check_pairs(frames, dt)
        check_groups(self.network, len(frames))
        video = self.network.video_logits(frames, time_plane(frames, dt), c)
        if self.network.image is None:
            return DiscriminatorLogits(video, None)
        return DiscriminatorLogits(video, self.network.image_logits(frames, c).unflatten(0, (-1, 2))[..., 0])
