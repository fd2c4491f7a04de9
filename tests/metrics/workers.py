"""Functions of test_command's worker processes; importable, because the processes are spawned."""

import json
from pathlib import Path

from dnnlib import UserError
from metrics.evaluator import Evaluator
from metrics.features import compute_features
from metrics.registry import METRICS
from tests.metrics.memory_videos import MemoryClips, MemoryVideos
from tests.metrics.synthetic import waves
from torch_utils import distributed


def evaluate(folder: str) -> None:
    """Every process writes the row that it got, and the number of clips requested from it."""
    fake = MemoryVideos(waves(11, size=16, seed=1))
    evaluator = Evaluator(fake=fake, real=MemoryVideos(waves(14, size=16)), batch_size=2, replicates=3)
    row = evaluator.evaluate("rfvd64_16f")
    Path(folder, f"{distributed.world_size()}-{distributed.rank()}.json").write_text(json.dumps([row, fake.loads]))


def evaluate_together(folder: str) -> None:
    """Three metrics of the same clips; the network of the second fails in the second process."""
    names = ["motion32_16f", "ridentity32_16f", "flicker32_16f"]
    fake, real = MemoryVideos(waves(11, size=16, seed=1)), MemoryVideos(waves(14, size=16))
    evaluator, found = Evaluator(fake=fake, real=real, batch_size=2, replicates=3), []
    network = evaluator._network(METRICS[names[1]])
    if distributed.rank() == 1:
        evaluator._networks[METRICS[names[1]].network] = Failing(network.key)
    for name in names:
        try:
            row = evaluator.evaluate(name, together=names)
            found.append([row["value"], row["real"]])
        except UserError as error:
            found.append(str(error))
        found.append(fake.loads)
    Path(folder, f"{distributed.world_size()}-{distributed.rank()}.json").write_text(json.dumps(found))


class Failing:
    def __init__(self, key: str):
        self.key = key

    def __call__(self, samples):
        raise UserError("it does not fit")


def damaged(folder: str) -> None:
    """A clip that only the second process reads cannot be read."""

    def network(clips):
        if distributed.rank() == 1:
            raise UserError("clip 5 is damaged")
        return clips.float().mean(dim=[2, 3, 4])

    clips = MemoryClips(waves(8, size=8, frames=2))
    compute_features(clips, {Path(folder, "x.npy"): network}, batch_size=2)
