"""Model folders and their cards: what the command writes, from where, and what it refuses."""

import ast
import json
import re
import shlex
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from dnnlib import UserError
from dnnlib.downloads import sha256_of
from tests.full_memory import REASON, fill_gpu, loading_message, no_memory
from tests.small_network import save_small_network, save_small_run, small_generator
from training.inference.cli_options import LABEL
from training.inference.latents import class_label
from training.inference.model_card import model_card
from training.inference.video_discriminators import load_discriminators
from training.inference.video_generator import VideoGenerator, load_generator
from training.sharing.__main__ import check_out, main, rows_of_snapshot

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


def test_a_full_memory_is_one_line(run_folder, tmp_path, monkeypatch):
    words = [str(run_folder), str(tmp_path / "model"), "--device", "cpu"]
    with monkeypatch.context() as patch:
        fill_gpu(patch)
        with pytest.raises(UserError) as caught:
            main(words, standalone_mode=False)
    assert str(caught.value) == loading_message(run_folder) and not (tmp_path / "model").exists()
    monkeypatch.setattr(VideoGenerator, "video", no_memory)
    with pytest.raises(UserError) as caught:
        main(words, standalone_mode=False)
    assert str(caught.value) == (
        f"The memory is full ({REASON}). Samples are rendered on cpu: end other programs, or give another --device."
    )


def test_parts_are_of_one_snapshot(run_folder, tmp_path, monkeypatch):
    """A run in progress may have a newer one when the discriminators are written."""
    before = load_discriminators(run_folder).network.state_dict()
    write = VideoGenerator.save_pretrained

    def replace(*arguments):
        write(*arguments)
        save_small_network(run_folder, small_generator())  # with other discriminators

    monkeypatch.setattr(VideoGenerator, "save_pretrained", replace)
    main([str(run_folder), str(tmp_path / "model"), "--discriminators"], standalone_mode=False)
    after = load_discriminators(tmp_path / "model").network.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)


def test_without_discriminators_to_write_nothing_is_written(run_folder, tmp_path):
    main([str(run_folder), str(tmp_path / "model")], standalone_mode=False)
    with pytest.raises(UserError, match="model holds a generator without discriminators"):
        main([str(tmp_path / "model"), str(tmp_path / "copy"), "--discriminators"], standalone_mode=False)
    assert not (tmp_path / "copy").exists()


def test_figures_of_other_models_are_left_out(run_folder, tmp_path):
    """`python -m metrics` may have measured several models of equal progress, or of an unknown one, into one folder."""
    snapshot = run_folder / "latest-network-snapshot.pt"
    rows = {
        "own": {"value": 5.0, "cur_nimg": 2000, "checkpoint_sha256": sha256_of(snapshot)},
        "other": {"value": 6.0, "cur_nimg": 2000, "checkpoint_sha256": "0" * 64},
        "files": {"value": 7.0, "fake_name": "videos"},
    }
    for name, row in rows.items():
        (run_folder / f"metric-{name}.jsonl").write_text(json.dumps({"metric": name, **row}) + "\n")
    assert [row["metric"] for row in rows_of_snapshot(snapshot, 2000)] == ["own", "rfvd8_4f"]
    assert rows_of_snapshot(snapshot, None) == []


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


@pytest.mark.parametrize("name", [None, 3, "heads"])
def test_uploads_have_a_name(name):
    with pytest.raises(UserError) as error:
        VideoGenerator(small_generator()).push_to_hub(name)
    assert str(error.value) == f"'{name}' is not the name of a model on the Hugging Face Hub; write user/name."


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"name": None}, "name must be a string, got None."),
        ({"data": 3}, "data must be a string, got 3."),
        ({"licence": ["mit"]}, "licence must be a string, got ['mit']."),
        *(
            (
                {"metrics": rows},
                "metrics must be a list of rows with 'metric' and 'value', as Evaluator.evaluate returns them, got "
                f"{rows}.",
            )
            for rows in ({"metric": "m", "value": 1.0}, [{"value": 1.0}], [{"metric": "m", "value": None}], 3)
        ),
    ],
)
def test_cards_name_the_wrong_argument(tmp_path, wrong, message):
    with pytest.raises(ValueError) as error:
        VideoGenerator(small_generator()).save_card(tmp_path, **{"name": "me/x", **wrong})
    assert str(error.value) == message and not list(tmp_path.iterdir())


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


def test_a_killed_command_can_be_repeated(tmp_path):
    """Wherever it died: what it leaves neither stops the next one, nor stays in the folder, which is uploaded."""
    partial, own = ".config.json.77-abcd1234.tmp", json.dumps({"format": "video-3d-gan/generator"})

    def left(*names):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in names:
            (folder / name).write_text(own if name == "config.json" else "{")
        return folder

    every = ("config.json", "model.safetensors", "samples.png", "README.md")
    for names in ((), ("config.json",), every[:2], every, (*every, "discriminator.safetensors")):
        folder = left(*names, partial)
        (folder / ".views.77-abcd1234.tmp").mkdir()
        (folder / ".views.77-abcd1234.tmp" / "0.png").write_bytes(b"")
        check_out(folder, discriminators=True)
        assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    with pytest.raises(UserError, match="model' holds discriminators, which need not belong to this generator"):
        check_out(folder, discriminators=False)
    for name in ("README.md", "notes.tmp", "model.safetensors"):  # of somebody else
        with pytest.raises(UserError, match="model' holds files of something else"):
            check_out(left(name, partial), discriminators=True)
        assert sorted(path.name for path in folder.iterdir()) == [partial, name]


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


@pytest.mark.parametrize("label_examples, option", [(None, "0"), ([[0.1, -2.5]], "0.1,-2.5")])
def test_commands_of_a_card_give_a_label(tmp_path, label_examples, option):
    """Classes, and labels that are numbers; the commands are run."""
    network = small_generator(c_dim=2)
    if label_examples is not None:
        network.label_examples = torch.tensor(label_examples)
    folder = tmp_path / "model"
    model = VideoGenerator(network)
    model.save_pretrained(folder)
    model.save_card(folder, "model")
    card = (folder / "README.md").read_text(encoding="utf-8")
    code = card.partition("```python\n")[2].partition("```")[0]
    code = re.sub(r'load_generator\(".*?"', f'load_generator("{folder}"', code)
    found = {}
    exec(code, found)
    assert found["video"].shape[1:] == (3, 32, 32)
    words = shlex.split(card.partition("```bash\n")[2].partition("\n")[0])
    assert words[-1] == f"--class_idx={option}"
    label = LABEL.convert(option, None, None)
    assert torch.equal(class_label(found["G"].network, label), torch.tensor(label_examples or [[1.0, 0.0]]))


@pytest.mark.parametrize(
    "interval, cell", [([1, 2.5], "1 to 2.5"), (None, ""), ([1, None], ""), ("ab", ""), ([1], ""), ({"low": 1}, "")]
)
def test_intervals_of_a_card(interval, cell):
    card = model_card("a", about={}, resolution=64, metrics=[{"metric": "m", "value": 3.0, "interval": interval}])
    assert f"| m | 3 | {cell} |" in card


def test_recall_in_a_card(run_folder, tmp_path):
    row = {"metric": "pr50k3_full", "value": 0.5, "recall": 0.25, "interval": [0.4, 0.6], "recall_interval": None}
    (run_folder / "metric-pr50k3_full.jsonl").write_text(json.dumps({**row, "cur_nimg": 2000}) + "\n")
    main([str(run_folder), str(tmp_path / "model")], standalone_mode=False)
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    expected = "| pr50k3_full precision | 0.5 | 0.4 to 0.6 |\n| pr50k3_full recall | 0.25 |  |\n"
    assert expected in card
    load_generator(run_folder).save_card(tmp_path, "a", metrics=[row | {"figures": ["precision", "recall"]}])
    assert expected in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_numbers_of_numpy_in_a_card(run_folder, tmp_path):
    row = {"metric": "a", "value": np.float32(0.5), "interval": [np.float64(0.25), np.int64(1)]}
    row |= {"figures": ["precision", "recall"], "recall": np.float16(0.125), "recall_interval": None}
    generator = load_generator(run_folder)
    generator.save_card(tmp_path, "a", metrics=[row])
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| a precision | 0.5 | 0.25 to 1 |\n| a recall | 0.125 |  |\n" in card
    for wrong in (True, np.bool_(True), "0.5", None):
        with pytest.raises(ValueError, match="^metrics must be a list of rows with 'metric' and 'value'"):
            generator.save_card(tmp_path, "a", metrics=[row | {"value": wrong}])


@pytest.mark.parametrize("figures", [None, [], "ab", ["precision"], ["precision", "gone"], {"precision": 1}])
def test_a_card_of_rows_without_two_figures(figures):
    row = {"metric": "m", "value": 3.0, "interval": [1, 2], "figures": figures}
    assert "| m | 3 | 1 to 2 |\n\n" in model_card("a", about={}, resolution=64, metrics=[row])


def test_a_card_without_label_vectors_and_damaged_progress():
    dataset = {"name": "clips", "label_examples": [[0.1234567, 2.5]] * 64}
    card = model_card("a", about={"dataset": dataset, "progress": {"cur_nimg": "24k"}}, resolution=64)
    assert "| training data: name | clips |" in card
    assert "label_examples" not in card and "0.1234567" not in card and "trained for" not in card


def test_a_card_with_little_to_say():
    card = model_card("a", about={}, resolution=64)
    assert "license" not in card.partition("# a")[0] and "| licence of the weights | not stated |" in card
    assert "Training data: not described." in card and "metric" not in card
    assert "\nA generator of videos of three-dimensional scenes, 64×64 pixels, [3D-Aware Video Generation](" in card
