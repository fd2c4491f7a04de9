"""Paths, modules and links in the documentation: each of them exists."""

import pathlib
import re

import pytest

from metrics.registry import METRICS
from renderer.trajectories import FORWARD_PROGRAMS
from training.networks.layers import ENCODINGS
from training.networks.upsampler import UPSAMPLINGS

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md")), "CONTRIBUTING.md"]
PAGES += ["assets/heads/README.md"]
PAGES = [page for page in PAGES if (ROOT / page).exists()]
SOURCES = ["benchmarks/learning/notes.md"]  # becomes a part of docs/learning.md
OTHERS = ["CHANGELOG.md", "tests/data/README.md"]  # with names of earlier versions and patterns
FOLDERS = "assets|benchmarks|conf|dnnlib|docs|metrics|renderer|tests|torch_utils|training|video3d"
PATH = re.compile(rf"(?<![\w./$-])(?:\./)?((?:{FOLDERS})/[\w./<>*-]*|(?!-)[\w-]+\.sh\b)")
SCRIPT = re.compile(r"\bpython (\w[\w/]*\.py)\b")
COMMAND = re.compile(r"\bpython -m ([\w.]+)")
MODULE = re.compile(rf"(?<![\w./-])((?:{FOLDERS})(?:\.[a-z_]\w*)+)\b(?![(/])")
LINK = re.compile(r"\]\(([^)\s]+)\)")
NOT_OURS = {"pip", "venv", "pytest"}
EXAMPLES = {"conf/model/looping.yaml"}  # of a user: docs/extending.md shows how to write them


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def without_addresses(text: str) -> str:
    return re.sub(r"https?://\S+", "", text)


def module_exists(name: str) -> bool:
    """True for a module or package of this repository."""
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def can_be_run(name: str) -> bool:
    """True if `python -m name` finds a module of this repository, or a package with a __main__."""
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def slugs(page: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def missing_paths(text: str) -> set[str]:
    """Paths below the folders of the repository that match no file; `<name>` stands for any name."""
    found = [path.rstrip(".") for path in PATH.findall(without_addresses(text))] + SCRIPT.findall(text)
    return {path for path in found if not any(ROOT.glob(re.sub(r"<[^>]*>?", "*", path)))} - EXAMPLES


def missing_modules(text: str) -> set[str]:
    """Commands `python -m name` that cannot be run, and dotted names that are no module of this repository."""
    commands = {name for name in COMMAND.findall(text) if name.split(".")[0] not in NOT_OURS and not can_be_run(name)}
    named = MODULE.findall(LINK.sub("]", without_addresses(text)))  # training.md is a page
    return commands | {name for name in named if not module_exists(name)}


def broken_links(page: str) -> set[str]:
    """Relative links to no file, or to no heading of it."""
    broken = set()
    for link in LINK.findall(text_of(page)):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        if not target.exists() or (anchor and anchor not in slugs(str(target.resolve().relative_to(ROOT)))):
            broken.add(link)
    return broken


@pytest.mark.parametrize("page", PAGES + SOURCES)
def test_paths_exist(page):
    assert missing_paths(text_of(page)) == set()


@pytest.mark.parametrize("page", PAGES + SOURCES)
def test_modules_exist(page):
    assert missing_modules(text_of(page)) == set()


@pytest.mark.parametrize("page", PAGES + OTHERS)
def test_links_lead_somewhere(page):
    assert broken_links(page) == set()


@pytest.mark.parametrize(
    "page, names",
    [
        ("README.md", {rf"^\| `{name}` \|" for name in FORWARD_PROGRAMS}),
        ("docs/evaluation.md", {f"`{re.match('[a-z]+', name)[0]}[0-9]" for name in METRICS}),
        ("conf/model/_base.yaml", {rf"# (\w+ \| )*{name}\b" for name in (*ENCODINGS, *UPSAMPLINGS)}),
    ],
)
def test_names_to_choose_from_are_documented(page, names):
    """Where they are listed: words such as front, is and motion are everywhere."""
    assert {name for name in names if not re.search(name, text_of(page), re.MULTILINE)} == set()


def test_what_is_missing_is_found():
    assert missing_paths("`training/networks/generator.py`, (renderer/none.py), `conf/model/<name>.yaml`.") == {
        "renderer/none.py"
    }
    assert missing_paths("run `./evaluate.sh` and ./nothing.sh, https://a.b/training/x, OUT/training/y") == {
        "nothing.sh"
    }
    assert missing_paths("python generate.py --seeds 0; python missing.py") == {"missing.py"}
    assert missing_modules("python -m metrics; python -m renderer; `training.loss` and training.loss_of_time") == {
        "renderer",
        "training.loss_of_time",
    }
