"""Within an iteration the host never waits for the device: everything is queued until the end of a tick.

Tensors on the 'meta' device have no values. Whatever would have to look at one, and so would wait for a GPU (`item`,
`bool`, `cpu`, `nonzero`, masks as indices), raises an error there.
"""

from pathlib import Path

import pytest
import torch

from benchmarks.scaling import Shapes
from tests.training.tiny import make_plan
from training.launch.run_dir import create_run_folder
from training.launch.setup import build_loop

META = torch.device("meta")


def make_loop(tmp_path, monkeypatch, *words):
    """A loop whose networks, statistics and draws are on the meta device."""
    monkeypatch.setattr("training.launch.setup.RandomStream", lambda *_: Shapes())
    options = make_plan(tmp_path, *words, "imgsnap=null").options
    return build_loop(options, Path(create_run_folder(options["outdir"], "meta")), device=META, resuming=False)


ALL_OPTIONS = [
    "diffaugment='color,translation,cutout'", "aug=fixed", "p=0.5", "augpipe=bgc",
    "model.generator.rendering.num_importance=4", "model.generator.foreground.view_directions=true",
]  # fmt: skip
OTHER_PARTS = [
    "model.generator.background=null", "model.generator.upsampler.mode=pixelshuffle", "activation_checkpointing=true",
]  # fmt: skip


CORRUPTIONS = ["resolution=32", "aug=fixed", "p=0.5", "augpipe=bgcfnc", "diffaugment=null"]


@pytest.mark.parametrize(
    "words", [ALL_OPTIONS, OTHER_PARTS, CORRUPTIONS], ids=["all options", "other parts", "corruptions"]
)
def test_an_iteration_never_waits(tmp_path, monkeypatch, words):
    if "activation_checkpointing=true" in words and torch.__version__ < (2, 5):
        pytest.skip("PyTorch 2.4 has no checkpoints on the meta device")
    loop = make_loop(tmp_path, monkeypatch, *words, "spec.g_reg_interval=1", "spec.d_reg_interval=1")
    loop.iterate()
    assert loop.counters.iteration == 1 and loop.counters.cur_nimg == 4
    for network in (loop.networks.generator, loop.networks.generator_ema, loop.networks.discriminator):
        assert all(tensor.device == META for tensor in network.state_dict().values())

    # What was measured is still on the device, and reading it would wait.
    assert {f"Loss/{name}" for name in ("G/loss", "pl_penalty", "D/loss", "r1_penalty")} <= loop.statistics._sums.keys()
    assert {sums.device for sums in loop.statistics._sums.values()} == {META}
    assert {streak.device for streak in loop.guard.state_dict()["streaks"].values()} == {META}
    for read in (loop.statistics.reduce, loop.guard.longest_streak):
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            read()
