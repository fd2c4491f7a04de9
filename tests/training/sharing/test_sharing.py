"""Model folders and their cards: what the command writes, from where, and what it refuses."""

import ast
import json
import shlex
import sys

import pytest
from PIL import Image

from dnnlib import UserError
from tests.small_network import save_small_run
from training.inference.model_card import model_card
from training.inference.video_discriminators import load_discriminators
from training.inference.video_generator import load_generator
from training.sharing.__main__ import main

pytest.importorskip("safetensors")


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "runs" / "00000-clips"
    folder.mkdir(parents=True)
    save_small_run(folder)
    rows = [
        {"metric": "rfvd8_4f", "value": 9.0, "interval": [8, 10], "cur_nimg": 1000},
        {"metric": "rfvd8_4f", "value": 7.25, "interval": [6.5, 8], "cur_nimg": 2000},
    ]
    (folder / "metric-rfvd8_4f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "metric-old.jsonl").write_text(json.dumps({"metric": "old", "value": 3.0, "cur_nimg": 1000}) + "\n")
    return folder


def test_a_model_folder(run_folder, tmp_path, capsys):
    out = tmp_path / "heads"
    words = [str(run_folder), str(out), "--licence", "cc-by-4.0", "--data", "Synthetic | heads.", "--discriminators"]
    main(words, standalone_mode=False)
    assert capsys.readouterr().out == f"{out}\n"
    assert load_generator(out).resolution == load_discriminators(out).resolution == 32
    card = (out / "README.md").read_text(encoding="utf-8")
    assert card.startswith('---\nlicense: "cc-by-4.0"\nlibrary_name: video-3d-gan\n')
    assert "| rfvd8_4f | 7.25 | 6.5 to 8 |" in card and "old" not in card
    assert "| trained for | 2 thousand videos |" in card and "| training data: name | clips |" in card
    assert "\nSynthetic | heads.\n" in card
    assert "--network_pkl heads --seeds 0-3" in card
    assert Image.open(out / "samples.png").size == (6 * 32, 4 * 32)
    main([str(run_folder), str(out), "--discriminators"], standalone_mode=False)  # a second time
    with pytest.raises(UserError, match="heads' holds discriminators, which need not belong to this generator"):
        main([str(run_folder), str(out)], standalone_mode=False)


def test_the_hub_gets_the_folder(run_folder, tmp_path, monkeypatch, capsys):
    from training.checkpoints import sources

    calls = []

    def upload(folder, name, *, private, message):
        calls.append((folder, name, private))
        return f"https://huggingface.co/{name}"

    monkeypatch.setattr(sources, "upload_folder", upload)
    monkeypatch.setattr(sources, "check_upload", lambda name: calls.append(name))
    out = str(tmp_path / "model")
    main([str(run_folder), out, "--push", "me/heads", "--private"], standalone_mode=False)
    assert calls == ["me/heads", (out, "me/heads", True)]
    assert capsys.readouterr().out.splitlines()[-1] == "https://huggingface.co/me/heads"
    assert "--network_pkl hf://me/heads" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


def test_what_is_refused(run_folder, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="00000-clips' holds files of something else"):
        main([str(run_folder), str(run_folder)], standalone_mode=False)
    with pytest.raises(UserError, match="--private belongs to an upload"):
        main([str(run_folder), str(tmp_path / "model"), "--private"], standalone_mode=False)
    with pytest.raises(UserError, match="'heads' is not the name of a model on the Hugging Face Hub; write user/name"):
        main([str(run_folder), str(tmp_path / "model"), "--push", "heads"], standalone_mode=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="An upload needs one more package"):
        main([str(run_folder), str(tmp_path / "model"), "--push", "me/heads"], standalone_mode=False)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ["README.md", ".env", "config.json"])
def test_files_of_something_else_are_neither_replaced_nor_uploaded(run_folder, tmp_path, name):
    project = tmp_path / "project"
    project.mkdir()
    (project / name).write_text("{}")
    (project / "model.safetensors").write_text("another model")
    with pytest.raises(UserError, match="project' holds files of something else"):
        main([str(run_folder), str(project)], standalone_mode=False)
    assert sorted(path.name for path in project.iterdir()) == sorted([name, "model.safetensors"])
    assert (project / name).read_text() == "{}" and (project / "model.safetensors").read_text() == "another model"


def test_without_safetensors(run_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UserError, match="pip install safetensors"):
        main([str(run_folder), str(tmp_path / "model")], standalone_mode=False)


def test_names_in_the_commands_of_a_card():
    card = model_card('my "first" é', about={}, resolution=64)
    command = next(line for line in card.splitlines() if line.startswith("video3d-generate"))
    assert shlex.split(command)[4] == 'my "first" é'
    code = next(line for line in card.splitlines() if line.startswith("G = "))
    assert ast.literal_eval(code.partition("(")[2].rstrip(")")) == 'my "first" é'
    assert 'load_generator("hf://me/a")' in model_card("me/a", about={}, resolution=64)


@pytest.mark.parametrize(
    "interval, cell", [([1, 2.5], "1 to 2.5"), (None, ""), ([1, None], ""), ("ab", ""), ([1], ""), ({"low": 1}, "")]
)
def test_intervals_of_a_card(interval, cell):
    card = model_card("a", about={}, resolution=64, metrics=[{"metric": "m", "value": 3.0, "interval": interval}])
    assert f"| m | 3 | {cell} |" in card


def test_a_card_with_little_to_say():
    card = model_card("a", about={}, resolution=64, picture=False)
    assert "license" not in card.partition("# a")[0] and "| licence of the weights | not stated |" in card
    assert "Training data: not described." in card and "samples" not in card and "metric" not in card
