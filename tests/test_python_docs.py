"""The Python code in the documentation runs, block after block, on a small network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import video3d
from tests.small_network import save_small_run

ROOT = Path(__file__).resolve().parent.parent


def python_blocks(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def run_folder(tmp_path, monkeypatch) -> Path:
    """The working folder, with the run that the documentation refers to."""
    folder = tmp_path / "runs" / "00000-clips"
    folder.mkdir(parents=True)
    prior = {"peak": 60, "radius": 0.06}  # a surface, for depth and mesh
    save_small_run(folder, foreground={"density_prior": prior, "density_ramp": {"factor": 4, "start": 1, "end": 4}})
    for video in range(4):
        frames = tmp_path / "clips" / "train" / f"video_{video}"
        frames.mkdir(parents=True)
        for frame in range(16):
            Image.new("RGB", (8, 8), (video * 60, frame * 15, 0)).save(frames / f"{frame:04d}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def execute(page: str, blocks: list[str]) -> dict:
    names: dict = {}
    for i, block in enumerate(blocks):
        exec(compile(block, f"{page}, block {i}", "exec"), names)
    return names


def test_the_page_on_python(run_folder):
    blocks = python_blocks("docs/python.md")
    assert len(blocks) >= 6
    names = execute("docs/python.md", blocks)
    size = names["G"].resolution
    shapes = {
        "video": (16, 3, size, size),
        "picture": (3, size, size),
        "pixels": (3, size, size),
        "videos": (2, 4, 3, size, size),
        "moved": (3, 3, size, size),
        "between": (1, 4, 3, size, size),
        "sweep": (3, 3, size, size),
        "still": (8, 3, size, size),
    }
    assert {name: tuple(names[name].shape) for name in shapes} == shapes
    assert {names[name].dtype for name in shapes} == {torch.uint8}
    G, path = names["G"], names["path"]
    assert torch.equal(G.video(seed=3, cameras=path), G.video(seed=3, frames=8))
    assert torch.equal(names["back"].cam2world, path.cam2world)
    assert names["depths"].shape[:3] == (3, 6, 1)
    start = video3d.load_generator("runs/00000-clips")
    alone = torch.stack([start.frame(seed=3 + i, camera=names["circle"][i]) for i in range(3)])
    assert (names["pixels_of_views"].int() - alone.int()).abs().max() <= 1
    assert all(parameter.grad is not None for parameter in names["D"].network.parameters())
    # The loop trains, with the density ramp after the 2000 videos of the run, and G follows its generator.
    assert names["nimg"] == 2004 and names["generator"].foreground.density_scale == pytest.approx(2.002)
    assert G.network.foreground.density_scale == names["generator"].foreground.density_scale
    trained, average = (
        [(a - b).abs().max() for a, b in zip(network.parameters(), start.parameters(), strict=True)]
        for network in (names["generator"], G)
    )
    assert all(0 < a < b / 1000 for a, b in zip(average, trained, strict=True))
    assert names["flickers"].shape == (4,) and names["distance"] > 0
    assert names["row"]["metric"] == "flatness32_1v" and names["row"]["num_fake"] == 32
    assert not torch.equal(names["pictures"], G.frame(codes=names["first"]))
    assert torch.equal(start.load_codes("edited.npz").ws, names["edited"].ws)
    assert len(names["cloud"]) == len(names["colours"]) > 0 and names["density"].max() > 0
    assert (run_folder / "mesh.glb").stat().st_size > 0 and (run_folder / "mesh.obj").stat().st_size > 0
    assert names["ws"].grad.abs().max() > 0 and abs(names["yaw"].grad) > 0
    assert names["pairs"].frames.shape == (4, 2, 3, size, size) and len(names["real"]) == 4
    seen = names["ball"].transmittance.unflatten(2, (32, 32))[0, 0]
    assert seen[16, 16] < 0.01 and seen[0, 0] == 1
    assert names["augmented"].shape == (4, 1, 3, 32, 32) and not torch.equal(names["augmented"], names["images"])
    assert names["activated"].shape == (4, 3, 64, 64)
    assert names["z"].grad is not None and names["z"].grad.abs().max() > 0
    assert (run_folder / "video.mp4").stat().st_size > 0
    assert torch.equal(names["again"].frame(seed=3), names["G"].frame(seed=3))


def test_examples_define_what_they_use(tmp_path):
    """Also on pages that are not run here, such as the one for an ONNX file."""
    for page in ("README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))):
        (tmp_path / f"{Path(page).name}.py").write_text("\n".join(python_blocks(page)), encoding="utf-8")
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--quiet", "--output-format=concise", "--select=F821"]
    found = subprocess.run([*ruff, "."], cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")  # F821: undefined name


def test_imported_modules_are_in_the_api_reference():
    imported = re.findall(r"^from ([\w.]+) import", "\n".join(python_blocks("docs/python.md")), re.MULTILINE)
    pages = re.findall(r"- api/([\w.]+)\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert len(imported) > 20 and set(imported) - set(pages) == set()


def test_the_five_lines_of_the_readme(tmp_path, monkeypatch):
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    monkeypatch.chdir(tmp_path)
    [block] = python_blocks("README.md")
    assert len([line for line in block.splitlines() if line]) == 5
    above = (ROOT / "README.md").read_text(encoding="utf-8").partition(block)[0]
    assert len(above.splitlines()) < 40, "near the top"
    names = execute("README.md", [block])
    assert names["video"].dtype == torch.uint8 and names["video"].shape == (16, 3, 64, 64)
    assert (tmp_path / "video.mp4").stat().st_size > 0
