"""One side of a comparison whose clips are in memory."""

import torch


class MemoryClips:
    """Samples that count the requests for them."""

    def __init__(self, clips: torch.Tensor, key: str | None = None):
        self.clips, self._key, self.loads, self.largest = clips, key, 0, 0

    def __len__(self) -> int:
        return len(self.clips)

    def load(self, indices) -> torch.Tensor:
        self.loads += len(indices)
        self.largest = max(self.largest, len(indices))
        return self.clips[list(indices)]

    def key(self) -> str | None:
        return self._key

    def describe(self) -> dict:
        return {"from": "memory"}


class MemoryVideos:
    """Clips uint8 [N, 3, T, H, W], cut as a metric requires; `asked` are the samples that were returned."""

    def __init__(self, clips: torch.Tensor, *, key: str | None = None):
        self._clips, self._key, self.asked = clips, key, []
        self.resolution = clips.shape[-1]

    def clips(self, *, count: int, frames: int, subsample: int) -> MemoryClips:
        return self._hand_out(self._clips[:count, :, :frames:subsample])

    def images(self, *, count: int | None) -> MemoryClips:
        images = self._clips.transpose(1, 2).flatten(0, 1)[:, :, None]
        return self._hand_out(images[:count])

    def views(self, *, count: int, views: int) -> MemoryClips:
        return self._hand_out(self._clips[:count, :, :views])

    def _hand_out(self, clips: torch.Tensor) -> MemoryClips:
        self.asked.append(MemoryClips(clips, self._key))
        return self.asked[-1]

    @property
    def loads(self) -> int:
        return sum(samples.loads for samples in self.asked)
