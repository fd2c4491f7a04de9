"""The training commands in the documentation: their options exist, and their batch can be shared by the processes."""

import pathlib
import re
import shlex

import pytest

from training.launch.config import compose_options
from training.launch.validate import _processes

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
