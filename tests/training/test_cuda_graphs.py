"""Training phases as CUDA graphs: the same training, and what cannot be recorded."""

from pathlib import Path

import pytest
import torch

from dnnlib import UserError
from tests.goldens.checks import assert_near
from tests.training.tiny import make_plan
from training.launch.run_dir import create_run_folder
from training.launch.setup import build_loop
from training.networks.discriminator import time_plane

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ITERATIONS = 9  # Greg, every second one, is recorded in the fifth, Dreg, every third one, in the seventh


def trained(tmp_path, *words):
    """A loop after some iterations on a GPU, and what it reported."""
    options = make_plan(tmp_path, "device=cuda", "imgsnap=null", "workers=0", *words).options
    folder = Path(create_run_folder(options["outdir"], "graphs"))
    loop = build_loop(options, folder, device=torch.device("cuda"), resuming=False)
    for _ in range(ITERATIONS):
        loop.iterate()
    return loop, loop.statistics.reduce()


@pytest.mark.parametrize(
    "words",
    [
        ["fp32=true", "spec.lrate_decay=0.012"],
        ["fp32=false", "spec.microbatch=4"],
        ["aug=fixed", "p=0.5", "augpipe=bgc", "allow_tf32=true"],
    ],
)
def test_replayed_phases_are_the_same_training(tmp_path, monkeypatch, words):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    plain, expected = trained(tmp_path, *words, "nobench=true")
    loop, reported = trained(tmp_path, *words, "nobench=true", "cuda_graphs=true")
    assert loop.graphs is not None and sorted(loop.graphs._recorded) == ["Dmain", "Dreg", "Gmain", "Greg"]
    assert torch.equal(loop.stream.generator.get_state(), plain.stream.generator.get_state())
    assert reported.keys() == expected.keys()
    for name, moments in expected.items():
        assert reported[name].count == moments.count, name
        assert reported[name].mean == pytest.approx(moments.mean, rel=1e-3, abs=1e-4), name
    for network in ("generator", "generator_ema", "discriminator"):
        before = getattr(plain.networks, network).state_dict()
        for name, tensor in getattr(loop.networks, network).state_dict().items():
            assert_near(tensor.cpu(), before[name].cpu(), relative=1e-3, absolute=1e-4)


def test_a_phase_that_waits_for_the_device_cannot_be_recorded(tmp_path, monkeypatch):
    def waiting(frames, dt):
        assert not dt.isnan().any()
        return time_plane(frames, dt)

    monkeypatch.setattr("training.loss.time_plane", waiting)
    with pytest.raises(UserError, match="cuda_graphs=true: the phase Gmain cannot be recorded .* cuda_graphs=false"):
        trained(tmp_path, "cuda_graphs=true")
