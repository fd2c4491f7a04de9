"""Gradient accumulation: a batch in passes trains as one pass over all of it does, with the same videos and draws."""

import zlib

import torch

from tests.training.tiny import make_loop
from torch_utils.rng import RandomStream
from training.augment.ada import INTERVAL
from training.loss import VideoBatch

# R1 is ill-conditioned in groups of two: see tests/torch_utils/phase_gradients.py.
BATCH, PASS, GROUP, ITERATIONS = 8, 4, 4, 2
PHASES = ["Gmain", "Greg", "Dmain", "Dreg"]
WORDS = [
    f"spec.mb={BATCH}", f"spec.mbstd={GROUP}", "spec.g_reg_interval=1", "spec.d_reg_interval=1",
    "diffaugment='color,translation,cutout'", "aug=ada", "p=0.5", "augpipe=bgc", "target=-1", "spec.style_mixing=1",
    "spec.distortion_weight=0.5",
    # A pass uses running means that include itself: they would differ a little.
    "model.generator.upsampler.magnitude_beta=1", "spec.pl_decay=0",
]  # fmt: skip


class VideoStream(RandomStream):
    """Draws that belong to the videos of the whole batch; draws without videos are those of all passes."""

    def __init__(self):
        super().__init__(0)
        self.place, self.videos = "", []

    def _of_the_videos(self, draw, name, shape):
        self.generator.manual_seed(zlib.crc32(f"{self.place} {name}".encode()))
        if not shape:
            return draw(shape)
        videos = self.videos[: shape[0]]  # path lengths are those of the first half
        assert len(videos) == shape[0]
        return draw([BATCH, *shape[1:]])[videos]

    def uniform(self, name, shape):
        return self._of_the_videos(lambda size: super(VideoStream, self).uniform(name, size), name, shape)

    def normal(self, name, shape):
        return self._of_the_videos(lambda size: super(VideoStream, self).normal(name, size), name, shape)

    def integers(self, name, low, high, shape):
        return self._of_the_videos(lambda size: super(VideoStream, self).integers(name, low, high, size), name, shape)


def train(tmp_path, size: int):
    """Some iterations in passes of `size` videos, and the gradients as the optimisers see them, by phase."""
    loop = make_loop(tmp_path, *WORDS, f"spec.microbatch={size}")
    # In double precision: in float32, rounding may decide the sign of an activation, and so change its gradient.
    for network in (loop.networks.generator, loop.networks.discriminator, loop.networks.generator_ema):
        for tensor in (*network.parameters(), *network.buffers()):  # the same objects, which others refer to
            tensor.data = tensor.data.double()
    generator = torch.Generator().manual_seed(3)
    frames = torch.rand(BATCH, 2, 3, 16, 16, generator=generator).double() * 2 - 1
    dt = torch.rand(BATCH, generator=generator).double()
    # Sample i of a pass is in group i mod (size / group), so that the groups of the whole batch are v, v + 4.
    passes = BATCH // size
    videos = [list(range(first, BATCH, passes)) for first in range(passes)]
    loop.stream, numbers, seen = VideoStream(), dict.fromkeys(PHASES, 0), []
    accumulate, clean = loop.loss.accumulate, loop.guard.clean

    def accumulate_pass(phase, *, batch, gain, stream):
        stream.place, stream.videos = f"{loop.counters.iteration} {phase}", videos[numbers[phase] % passes]
        numbers[phase] += 1
        accumulate(phase, batch=batch, gain=gain, stream=stream)

    def clean_and_keep(parameters, phase, *, divisor):
        clean(parameters, phase, divisor=divisor)
        seen.append((phase, torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).clone()))

    loop._next_batch = lambda: [VideoBatch(frames=frames[v], dt=dt[v], c=torch.zeros(size, 0)) for v in videos]
    loop.loss.accumulate, loop.guard.clean = accumulate_pass, clean_and_keep
    for phase in loop.phases:  # optimisers would blow the last bits of gradients up to a learning rate
        phase.optimizer.step = lambda: None
    loop.counters.iteration = INTERVAL - ITERATIONS  # the last one adapts the augmentation
    for _ in range(ITERATIONS):
        loop.iterate()
    loop.loader.close()
    return loop, seen


def test_passes_add_up_to_the_whole_batch(tmp_path):
    (whole, expected), (divided, found) = (train(tmp_path, size) for size in (BATCH, PASS))
    assert [phase for phase, _ in found] == [phase for phase, _ in expected] == PHASES * ITERATIONS
    for (phase, gradient), (_, wanted) in zip(found, expected):
        error = float((gradient - wanted).norm() / wanted.norm())
        print(f"{phase}: {error:.1e}")
        assert wanted.norm() > 0 and error < 1e-6, (phase, error)
    assert divided.ada.augment.p == whole.ada.augment.p > 0.5  # above the target
    w_avg = (loop.networks.generator.mapping.w_avg for loop in (divided, whole))
    torch.testing.assert_close(*w_avg, rtol=1e-5, atol=1e-7)
    assert divided.counters.cur_nimg == whole.counters.cur_nimg == BATCH * ITERATIONS
