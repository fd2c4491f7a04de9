"""Functions of test_command's worker processes; importable, because the processes are spawned."""

import json
from pathlib import Path

from dnnlib import UserError
from metrics.evaluator import Evaluator
from metrics.features import compute_features
from tests.metrics.memory_videos import MemoryClips, MemoryVideos
from tests.metrics.synthetic import waves
from torch_utils import distributed


def evaluate(folder: str) -> None:
    """Every process writes the row that it got, and the number of clips requested from it."""
    fake = MemoryVideos(waves(11, size=16, seed=1))
    evaluator = Evaluator(fake=fake, real=MemoryVideos(waves(14, size=16)), batch_size=2, replicates=3)
    row = evaluator.evaluate("rfvd64_16f")
    Path(folder, f"{distributed.world_size()}-{distributed.rank()}.json").write_text(json.dumps([row, fake.loads]))


def damaged(folder: str) -> None:
    """A clip that only the second process reads cannot be read."""

    def network(clips):
        if distributed.rank() == 1:
            raise UserError("clip 5 is damaged")
        return clips.float().mean(dim=[2, 3, 4])

    clips = MemoryClips(waves(8, size=8, frames=2))
    compute_features(clips, network, Path(folder, "x.npy"), batch_size=2)
