"""Within an iteration the host never waits for the device: everything is queued until the end of a tick.

Tensors on the 'meta' device have no values. Whatever would have to look at one, and so would wait for a GPU (`item`,
`bool`, `cpu`, `nonzero`, masks as indices), raises an error there.
"""

from pathlib import Path

import pytest
import torch

from benchmarks.scaling import Shapes
from tests.training.tiny import make_plan
from training.run_folder import create_run_folder
from training.session import build_loop

META = torch.device("meta")


def make_loop(tmp_path, monkeypatch, *words):
    """A loop whose networks, statistics and draws are on the meta device."""
    monkeypatch.setattr("training.session.RandomStream", lambda *_: Shapes())
    options = make_plan(tmp_path, *words, "imgsnap=null").options
    return build_loop(options, Path(create_run_folder(options["outdir"], "meta")), device=META, resuming=False)


@pytest.mark.parametrize(
    "words",
    [
        ["diffaugment='color,translation,cutout'", "aug=fixed", "p=0.5", "augpipe=bgc"],
        ["model.generator.rendering.num_importance=4", "model.generator.foreground.view_directions=true"],
        ["model.generator.background=null", "model.generator.upsampler.mode=pixelshuffle", "recompute=true"],
    ],
    ids=["augmentation", "two passes", "without background"],
)
def test_an_iteration_never_waits(tmp_path, monkeypatch, words):
    loop = make_loop(tmp_path, monkeypatch, *words, "spec.g_reg_interval=1", "spec.d_reg_interval=1")
    ran = []
    monkeypatch.setattr(loop.loss, "_report", lambda name, value: ran.append((name, value.device)))
    loop.iterate()
    loop.iterate()
    assert loop.counters.iteration == 2 and loop.counters.cur_nimg == 8
    assert {"G/loss", "pl_penalty", "D/loss", "r1_penalty"} <= {name for name, _ in ran}
    assert {device for _, device in ran} == {META}
    for network in (loop.networks.generator, loop.networks.generator_ema, loop.networks.discriminator):
        assert all(tensor.device == META for tensor in network.state_dict().values())


def test_statistics_and_the_guard_stay_on_the_device(tmp_path, monkeypatch):
    loop = make_loop(tmp_path, monkeypatch)
    loop.iterate()
    assert {sums.device for sums in loop.statistics._sums.values()} == {META}
    assert loop.guard.state_dict()["streaks"]["Gmain"].device == META
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        loop.statistics.reduce()
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        loop.guard.longest_streak()
