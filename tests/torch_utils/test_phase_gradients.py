"""The gradients of several processes are those of one that has the whole batch, for every phase of the training."""

import pytest
import torch

from tests.torch_utils import phase_gradients
from tests.torch_utils.phase_gradients import ITERATIONS, relative_error
from tests.training.tiny import write_frames
from torch_utils.launch import launch

OVERRIDES = ["spec.g_reg_interval=1", "spec.d_reg_interval=1", "imgsnap=null", "aug=fixed", "p=0.5", "spec.mbstd=2"]
PHASES = ["Gmain", "Greg", "Dmain", "Dreg"]


def gradients(tmp_path, name, *words, processes):
    folder = tmp_path / name
    folder.mkdir()
    arguments = (str(tmp_path / "data"), str(folder), [*OVERRIDES, *words])
    if processes == 1:
        threads = torch.get_num_threads()
        try:
            phase_gradients.record(*arguments)
        finally:
            torch.set_num_threads(threads)
    else:
        launch(phase_gradients.record, args=arguments, processes=processes, device_type="cpu")
    return torch.load(folder / "gradients.pt")


@pytest.mark.parametrize("batch, passes", [(4, 1), (8, 2)], ids=["one pass each", "accumulated"])
def test_two_processes_have_the_gradients_of_one(tmp_path, batch, passes):
    write_frames(tmp_path / "data")
    sizes = [f"spec.mb={batch}", "spec.microbatch=2"]
    one = gradients(tmp_path, "one", *sizes, "gpus=1", processes=1)
    two = gradients(tmp_path, "two", *sizes, "gpus=2", processes=2)
    assert [key.split()[:2] for key in one["gradients"]] == [[str(i), p] for i in range(ITERATIONS) for p in PHASES]
    for key, expected in one["gradients"].items():
        error = relative_error(two["gradients"][key], expected)
        print(f"{passes} passes, {key}: {error:.1e}")
        assert expected.norm() > 0 and error < 1e-6, (key, error)
    for name, expected in one["means"].items():
        torch.testing.assert_close(two["means"][name], expected, rtol=1e-6, atol=1e-8, msg=name)
    assert one["means"]["pl_mean"] > 0
