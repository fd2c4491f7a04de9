"""Training phases as CUDA graphs: the same training, and what cannot be recorded."""

import contextlib
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch

from dnnlib import UserError
from tests.goldens.checks import assert_near
from tests.training.tiny import make_plan
from training.cuda_graphs import PhaseGraphs
from training.launch.run_dir import create_run_folder
from training.launch.setup import build_loop
from training.networks.discriminator import time_plane

ITERATIONS = 9  # Greg, every second one, is recorded in the fifth, Dreg, every third one, in the seventh


def on_gpu(test):
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")(test))


def trained(tmp_path, *words):
    """A loop after some iterations on a GPU, and what it reported."""
    options = make_plan(tmp_path, "device=cuda", "imgsnap=null", "workers=0", *words).options
    folder = Path(create_run_folder(options["outdir"], "graphs"))
    loop = build_loop(options, folder, device=torch.device("cuda"), resuming=False)
    for _ in range(ITERATIONS):
        loop.iterate()
    return loop, loop.statistics.reduce()


@on_gpu
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


@on_gpu
def test_a_phase_that_waits_for_the_device_cannot_be_recorded(tmp_path, monkeypatch):
    def waiting(frames, dt):
        assert not dt.isnan().any()
        return time_plane(frames, dt)

    monkeypatch.setattr("training.loss.time_plane", waiting)
    with pytest.raises(UserError, match="cuda_graphs=true: the phase Gmain cannot be recorded .* cuda_graphs=false"):
        trained(tmp_path, "cuda_graphs=true")


@pytest.mark.parametrize(
    "text, told",
    [
        ("CUDA error: out of memory", None),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", None),
        (
            "CUDA error: operation not permitted when stream is capturing\n…",
            "cuda_graphs=true: the phase Gmain cannot be recorded (CUDA error: operation not permitted when stream is "
            "capturing). Continue with resume_run= and cuda_graphs=false.",
        ),
    ],
)
def test_a_full_memory_is_no_fault_of_a_phase(monkeypatch, text, told):
    """The command gives its own advice then. Also without a GPU: nothing is recorded."""
    for name in ("Stream", "CUDAGraph", "graph_pool_handle"):
        monkeypatch.setattr(torch.cuda, name, lambda *args: MagicMock())
    monkeypatch.setattr(torch.cuda, "graph", lambda *args, **kwargs: contextlib.nullcontext())
    error = RuntimeError(text)
    graphs = PhaseGraphs(stream=MagicMock(), statistics=MagicMock(), device=torch.device("cpu"))
    phase = MagicMock(optimizer=torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))]))
    phase.name = "Gmain"
    with pytest.raises(RuntimeError if told is None else UserError) as caught:
        graphs._record(phase, [], MagicMock(side_effect=error))
    assert caught.value is error if told is None else str(caught.value) == told
    assert phase.optimizer.param_groups[0]["capturable"] is False
