"""The documentation as a site (mkdocs.yml, docs/mkdocs_hooks.py); skipped without MkDocs: `make test-extras`."""

import html
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("material", reason="the extra `docs` is not installed")
pytest.importorskip("mkdocstrings_handlers.python", reason="the extra `docs` is not installed")

ROOT = Path(__file__).resolve().parent.parent


def build(config: Path, site: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", site]
    return subprocess.run(command, cwd=config.parent, capture_output=True, encoding="utf-8", timeout=300)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    result = build(ROOT / "mkdocs.yml", folder)
    assert result.returncode == 0, result.stderr
    return folder


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_every_page_is_on_the_site(site):
    sources = {f"docs/{path.stem}.html": path for path in ROOT.glob("docs/*.md")}
    sources |= {f"{name}.html": ROOT / f"{name}.md" for name in ("CONTRIBUTING", "CHANGELOG")}
    sources |= {"index.html": ROOT / "README.md"}
    sources |= {f"{folder}/index.html": ROOT / folder / "README.md" for folder in ("tests/data", "assets/heads")}
    built = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert {page for page in built if not page.startswith("api/")} == {*sources, "404.html"}
    for page, source in sources.items():
        title = re.search(r"^# (.+)$", read(source), re.MULTILINE)[1].replace("`", "")
        heading = re.search(r"<h1[^>]*>(.*?)<a class=\"headerlink\"", read(site / page), re.DOTALL)[1]
        assert html.unescape(re.sub(r"<[^>]*>", "", heading)) == title, page


def test_linked_files_are_at_the_places_of_the_repository(site):
    for name in ("conf/config.yaml", "notebooks/explore.ipynb", "assets/demo.png", "docs/gallery/grid.mp4", "LICENSE"):
        assert (site / name).read_bytes() == (ROOT / name).read_bytes(), name
    python = read(site / "docs" / "python.html")
    assert 'href="../index.html#install"' in python and 'href="../notebooks/explore.ipynb"' in python
    home = read(site / "index.html")
    assert 'href="docs/gpu.html#speed-and-memory-of-the-papers-model"' in home and 'href="conf/config.yaml"' in home


def test_the_api_is_made_from_docstrings(site):
    page = read(site / "api" / "training.inference.video_generator.html")
    assert 'id="training.inference.video_generator.load_generator"' in page
    assert 'id="training.inference.video_generator.VideoGenerator.video"' in page
    assert "The moving-average generator of a snapshot, in evaluation mode" in page
    modules = {path.stem for path in site.glob("api/*.html")}
    assert {"training.networks.generator", "training.loss", "renderer.volume_rendering", "metrics.evaluator"} <= modules
    for module in modules:
        assert f'id="{module}.' in read(site / "api" / f"{module}.html"), module


def test_nothing_is_fetched_from_elsewhere(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="?([^" >]+)|<link[^>]* href="?([^" >]+)', read(page))
        assert [name for pair in loaded for name in pair if name.startswith(("http", "//"))] == [], page


@pytest.mark.parametrize(
    "line, nav, message",
    [
        ("[gone](gone.md)", "[README.md, docs/a.md]", "'gone.md', but the target 'docs/gone.md' is not found"),
        ("[options](../conf/gone.yaml)", "[README.md, docs/a.md]", "the target 'conf/gone.yaml' is not found"),
        ("[install](../README.md#gone)", "[README.md, docs/a.md]", "does not contain an anchor '#gone'"),
        ("[install](../README.md#install)", "[README.md]", "- docs/a.md"),
        ("[install](../README.md#install)", "[README.md, docs/a.md]", ""),
    ],
    ids=["page", "file", "anchor", "page outside of the navigation", "none"],
)
def test_mistakes_in_pages_are_errors(tmp_path, line, nav, message):
    """On a site with the home page and one other page."""
    (tmp_path / "docs").mkdir()
    settings = re.sub(r"^nav:\n.*?\n\n", f"nav: {nav}\n\n", read(ROOT / "mkdocs.yml"), flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "mkdocs.yml").write_text(settings, encoding="utf-8")
    shutil.copy(ROOT / "docs" / "mkdocs_hooks.py", tmp_path / "docs")
    (tmp_path / "README.md").write_text("# Home\n\n## Install\n", encoding="utf-8")
    (tmp_path / "docs" / "a.md").write_text(f"# A\n\n{line}\n", encoding="utf-8")
    result = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert result.returncode == (1 if message else 0) and message in result.stderr, result.stderr
