"""The render commands in the documentation: their options exist, their lists can be read; the gallery is complete."""

import functools
import pathlib
import re
import shlex

import pytest

import generate
from dnnlib import parse_int_list
from renderer.outputs import parse_outputs
from training.inference.cli_options import check_combinations, parse_style_mix, parse_time_range

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = ["README.md", "docs/rendering.md", "docs/gallery.md"]
SEEDS = functools.partial(parse_int_list, name="seeds")
READ = {"seeds": SEEDS, "motion_seeds": SEEDS, "outputs": parse_outputs,
        "time_range": parse_time_range, "render_program": generate.parse_programs}  # fmt: skip


def commands(page: str) -> list[list[str]]:
    """The words of every render command on a page."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```bash$(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("python generate.py")]
    return [shlex.split(line, comments=True)[2:] for line in lines]


@pytest.mark.parametrize("page", PAGES)
def test_documented_commands_can_be_given(page):
    found = commands(page)
    assert len(found) > 2
    for words in found:
        parser = generate.main.make_parser(generate.main.context_class(generate.main))
        values, rest, _ = parser.parse_args(args=list(words))
        assert rest == [] and {"outdir", "network_pkl"} < set(values), words
        for name, value in values.items():
            if name in READ:
                READ[name](value)
        for mix in values.get("style_mix", []):
            parse_style_mix(mix)
        check_combinations(values)


def test_the_gallery_shows_what_its_commands_make():
    page = (ROOT / "docs/gallery.md").read_text()
    shown = set(re.findall(r"\]\(gallery/([\w.-]+)\)", page))
    made = set(re.findall(r"docs/gallery/([\w-]+\.(?:png|mp4))$", page, re.MULTILINE))
    made |= set(re.findall(r"docs/gallery/([\w-]+\.png) out/", page))
    assert shown == made | {"tour.json"}
    for name in shown:
        path = ROOT / "docs/gallery" / name
        assert 0 < path.stat().st_size < 300_000, name
