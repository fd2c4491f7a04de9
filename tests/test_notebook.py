"""The notebook runs from its first to its last cell, on a small network."""

import os
import re
import sys
from pathlib import Path

import pytest
import torch

from tests.training.inversion.small_inversion import inversion_generator
from training.checkpoints.snapshot import save_snapshot
from training.networks.discriminator import TimeAwareDiscriminators

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "explore.ipynb"
KERNEL = "python3"  # named in the notebook


def read_notebook():
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture
def run_folder(tmp_path) -> Path:
    """A run whose generator has surfaces."""
    folder = tmp_path / "run"
    folder.mkdir()
    generator = inversion_generator()
    with torch.random.fork_rng(devices=[]):
        discriminators = TimeAwareDiscriminators(resolution=generator.resolution, channel_max=8)
    parts = {"generator": generator, "generator_ema": generator, "discriminator": discriminators}
    progress = {"cur_nimg": 0, "tick": 0, "iteration": 0}
    save_snapshot(folder, **parts, augment=None, dataset={"name": "heads"}, progress=progress)
    return folder


@pytest.mark.slow
def test_the_notebook_runs(run_folder, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("skimage")
    pytest.importorskip("trimesh")
    notebook = read_notebook()
    # The kernel is this Python, whatever kernels the user has: the test's folder has a kernel specification of its own.
    kernels = tmp_path / "jupyter" / "kernels" / KERNEL
    kernels.mkdir(parents=True)
    command = f'{{"argv": ["{sys.executable}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"]'
    (kernels / "kernel.json").write_text(f'{command}, "display_name": "here", "language": "python"}}')
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    for name, value in {
        "JUPYTER_PATH": str(tmp_path / "jupyter"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "IPYTHONDIR": str(tmp_path / "ipython"), "NETWORK_PKL": str(run_folder), "STEPS": "24", "CELLS": "24",
        "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    work = tmp_path / "work"
    work.mkdir()
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(work)}})
    client.execute()

    text, kinds = "", []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text += output.get("text", "") if output.get("name") == "stdout" else ""
            kinds += list(output.get("data", {}))
    assert "16×16 pixels" in text and "trained on heads" in text
    quality = re.search(r"^(-?[\d.]+) dB$", text, re.MULTILINE)
    assert quality is not None and float(quality[1]) > 15
    assert int(re.search(r"(\d+) vertices", text)[1]) > 20
    assert kinds.count("image/png") == 5 and kinds.count("text/html") == 1
    assert {path.name for path in work.iterdir()} == {"clip.mp4", "inversion", "seed0003.glb"}
    assert [path.name for path in (work / "inversion").iterdir()] == ["codes.npz"]


def test_the_notebook_is_kept_without_outputs():
    notebook = read_notebook()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) >= 8
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    titles = [line for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("#")]
    assert [t for t in titles if t.startswith("## ")] == [
        "## Load", "## Look", "## Mix and interpolate", "## Invert a short clip", "## A mesh",
    ]  # fmt: skip
