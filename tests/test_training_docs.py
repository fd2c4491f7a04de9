"""The training commands in the documentation: their options exist, and their batch can be shared by the processes.

So do the options and messages of docs/troubleshooting.md.
"""

import pathlib
import re
import shlex

import pytest

from training.launch.config import CHANGEABLE, compose_options
from training.launch.devices import _processes

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = ["README.md", "assets/heads/README.md"]
PAGES += [f"docs/{name}.md" for name in ("training", "scaling", "tracking", "datasets")]


def commands(page: str) -> list[list[str]]:
    """The options of every training command on a page that starts one run anew."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```bash$(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("python run_train.py")]
    found = [shlex.split(line, comments=True)[2:] for line in lines]
    return [
        [word for word in words if "…" not in word]
        for words in found
        if "-m" not in words and not any(word.startswith("resume_run=") for word in words)
    ]


@pytest.mark.parametrize("page", PAGES)
def test_documented_commands_train_on_a_machine_with_several_devices(page):
    found = commands(page)
    assert found
    for words in found:
        options = compose_options(words)
        assert _processes(options, 8) == options["gpus"], words


@pytest.fixture(scope="module")
def troubleshooting() -> str:
    return (ROOT / "docs/troubleshooting.md").read_text()


def test_options_that_solve_problems_exist(troubleshooting):
    spans = re.findall(r"`([a-z][\w.]*=[^`]+)`", troubleshooting)
    found = [span.split() for span in spans if span != "resume_run=N"]
    assert len(found) > 15
    for words in found:
        compose_options(["outdir=.", "data=.", *words])


def test_options_of_a_continued_run_can_be_changed_in_it(troubleshooting):
    spans = re.findall(r"`([^`]+)` \(c\)", troubleshooting)
    names = {word.partition("=")[0] for span in spans for word in span.split()}
    assert len(names) > 8
    assert {name for name in names if name not in CHANGEABLE and name.split(".")[0] not in CHANGEABLE} == set()


def test_quoted_messages_are_printed(troubleshooting):
    quoted = {words for row in re.findall(r"^\| ([^|]+) \|", troubleshooting, re.MULTILINE)
              for words in re.findall(r'"([^"]+)"', row)}  # fmt: skip
    assert len(quoted) > 5
    paths = [path for room in ("training", "torch_utils") for path in (ROOT / room).rglob("*.py")]
    sources = "\n".join(path.read_text() for path in paths).replace("{kind}", "faces")
    sources = re.sub(r'"\n\s*f?"', "", sources)  # a message on two lines
    assert {words for words in quoted if words not in sources} == set()
