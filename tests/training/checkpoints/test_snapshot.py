"""Network snapshots: what is in them, what comes out of them, and what is said about files that are none."""

import math
import os
import pickle
import re
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
import torch

import dnnlib.util
from dnnlib import UserError
from tests.small_network import small_generator
from tests.training.tiny import make_plan
from training.augment.ada import AdaAugment
from training.checkpoints import archive
from training.checkpoints.archive import plain
from training.checkpoints.network_state import check_state
from training.checkpoints.snapshot import (
    average_generator,
    load_average_generator,
    load_snapshot,
    save_snapshot,
    stored_discriminators,
)
from training.checkpoints.snapshot_files import check_output, latest_snapshot
from training.checkpoints.training_state import STATE_FORMAT, read_state
from training.launch.build import build_networks
from training.networks.generator import Generator


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    options = make_plan(tmp_path_factory.mktemp("networks")).options
    generator, discriminator = build_networks(options, c_dim=0)
    average, _ = build_networks(dict(options, seed=1), c_dim=0)
    return generator, average, discriminator


def save(folder, networks, *, cur_nimg=12_345, augment=None):
    generator, average, discriminator = networks
    return save_snapshot(
        folder,
        generator=generator,
        generator_ema=average,
        discriminator=discriminator,
        augment=augment,
        dataset={"name": "faces", "num_clips": 3},
        progress={"cur_nimg": cur_nimg, "tick": 2, "iteration": 7},
    )


def same_state(module, state):
    own = module.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], state[name]) for name in own)


def kinds(value) -> set:
    if isinstance(value, dict):
        return set().union({dict}, *(kinds(x) for pair in value.items() for x in pair))
    if isinstance(value, list):
        return set().union({list}, *(kinds(x) for x in value))
    return {type(value)}


def test_content(tmp_path, networks):
    augment = AdaAugment(pipeline="blit")
    augment.p.fill_(0.25)
    path = save(tmp_path, networks, augment=augment)
    assert path.name == "network-snapshot-000012.pt"
    content = torch.load(path, weights_only=True)
    assert kinds(content) <= {dict, list, str, int, float, bool, type(None), torch.Tensor}
    generator, average, discriminator = networks
    assert same_state(generator, content["generator"]["state"])
    assert same_state(average, content["generator"]["ema"])
    assert same_state(discriminator, content["discriminator"]["state"])
    assert type(generator)(**content["generator"]["config"]).config == generator.config
    assert type(discriminator)(**content["discriminator"]["config"]).config == discriminator.config
    assert content["augment"]["state"]["p"] == 0.25
    assert AdaAugment(**content["augment"]["config"]).config == augment.config
    assert content["dataset"] == {"name": "faces", "num_clips": 3}
    assert content["progress"] == {"cur_nimg": 12_345, "tick": 2, "iteration": 7}


def test_latest_is_the_newest_and_takes_no_space(tmp_path, networks):
    save(tmp_path, networks, cur_nimg=1000)
    newest = save(tmp_path, networks, cur_nimg=2000)
    assert latest_snapshot(tmp_path).name == "latest-network-snapshot.pt"
    assert latest_snapshot(tmp_path).samefile(newest)
    latest_snapshot(tmp_path).unlink()
    assert latest_snapshot(tmp_path) == newest  # by number, should only those be copied
    assert sorted(p.name for p in tmp_path.iterdir()) == ["network-snapshot-000001.pt", "network-snapshot-000002.pt"]


def test_latest_without_hard_links(tmp_path, networks, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    path = save(tmp_path, networks)
    assert (tmp_path / "latest-network-snapshot.pt").read_bytes() == path.read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_load_average_generator_gives_the_moving_average(tmp_path, networks):
    save(tmp_path, networks)
    before = torch.random.get_rng_state()
    for source in (tmp_path, tmp_path / "network-snapshot-000012.pt", str(tmp_path)):
        generator = load_average_generator(source)
        assert same_state(generator, networks[1].state_dict())
        assert not generator.training and not any(p.requires_grad for p in generator.parameters())
    assert torch.equal(before, torch.random.get_rng_state())


def test_labels_are_known_to_be_classes_only_where_the_data_say_so():
    """Descriptions of earlier versions do not tell; their labels may be numbers."""
    generator = small_generator(c_dim=2)
    part = {"config": generator.config, "ema": generator.state_dict()}
    for about, known in (({"label_examples": None}, True), ({"label_examples": [[0.5, 2.0]]}, False), ({}, False)):
        assert average_generator({"generator": part, "dataset": about}, source="it").one_hot_labels is known


def test_load_average_generator_reads_no_discriminator(tmp_path, networks):
    """The discriminator's values may be garbage: they are not looked at."""
    path = save(tmp_path, networks)
    weight = networks[2].video.epilogue.fc.weight.detach().numpy().tobytes()
    data = bytearray(path.read_bytes())
    start = data.index(weight)
    data[start : start + len(weight)] = bytes(len(weight))
    path.write_bytes(data)
    assert same_state(load_average_generator(path), networks[1].state_dict())


@pytest.mark.parametrize("part, kind", [("generator", "generator"), ("discriminator", "discriminator")])
def test_networks_that_are_not_finite_are_refused(tmp_path, networks, part, kind):
    content = load_snapshot(save(tmp_path, networks))
    state = content[part]["ema" if part == "generator" else "state"]
    name = next(name for name, tensor in state.items() if tensor.ndim == 2)
    state[name][0, 0] = math.nan
    built = {"generator": average_generator, "discriminator": stored_discriminators}[part]
    with pytest.raises(UserError, match=f"^a.pt: {name} of the {kind} holds nan or inf, its training has diverged"):
        built(content, source="a.pt")


def test_results_do_not_replace_checkpoints(tmp_path):
    for name in (
        "network-snapshot-000012.pt",
        "best-fvd64_16f.pkl",
        "training-state.pt",
        "latest-network-snapshot.pt",
    ):
        check_output(tmp_path / name)
        (tmp_path / name).touch()
        with pytest.raises(UserError, match=f"{name} is a checkpoint, which the result would replace"):
            check_output(tmp_path / name)
    for name in ("stats.jsonl", "training_options.yaml", "log.txt", "metric-fvd2048_16f.jsonl"):
        check_output(tmp_path / name)
        (tmp_path / name).touch()
        with pytest.raises(UserError, match=f"{name} is a record of a training run, which the result would replace"):
            check_output(tmp_path / name)
    for name in ("frame.onnx", "config.json", "model.safetensors"):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / name).touch()
    check_output(tmp_path / "other" / "frame.onnx", source=tmp_path / "other")
    with pytest.raises(UserError, match="model.safetensors is a checkpoint"):
        check_output(tmp_path / "other" / "model.safetensors")
    with pytest.raises(UserError, match="is a folder; give the name of a file"):
        check_output(tmp_path)


def test_interrupted_write_leaves_the_old_file(tmp_path, networks, monkeypatch):
    path = save(tmp_path, networks)
    before = path.read_bytes()

    def die(content, file):
        file.write(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, networks)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_every_byte_is_on_the_disk_before_the_name(tmp_path, networks, monkeypatch):
    events = []
    monkeypatch.setattr(dnnlib.util.os, "fsync", lambda _: events.append("fsync"))
    replace = os.replace
    monkeypatch.setattr(dnnlib.util.os, "replace", lambda *names: (events.append("replace"), replace(*names)))
    save(tmp_path, networks)
    assert events[:2] == ["fsync", "replace"]


# ----------------------------------------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL_FOLDER"],)


def lfs(path, _):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 5\n")


def html(path, _):
    path.write_text("\n <!DOCTYPE html><html>Quota exceeded</html>")


def truncated(path, snapshot):
    path.write_bytes(snapshot.read_bytes()[:-100])


def head_only(path, snapshot):
    path.write_bytes(snapshot.read_bytes()[:1000])


def foreign_pickle(path, _):
    path.write_bytes(pickle.dumps({"G_ema": Evil()}))


def evil_archive(path, _):
    torch.save({"format": "video-3d-gan/network-snapshot", "G": Evil()}, path)


def evil_legacy_file(path, _):
    content = {"format": "video-3d-gan/network-snapshot", "G": Evil()}
    torch.save(content, path, _use_new_zipfile_serialization=False)


def legacy_tensors(path, _):
    torch.save({"a": torch.zeros(1)}, path, _use_new_zipfile_serialization=False)


def truncated_legacy_file(path, snapshot):
    torch.save(torch.load(snapshot), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-100])


def other_archive(path, _):
    torch.save({"state_dict": {"a": torch.zeros(1)}}, path)


def a_zip(path, _):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.png", b"x")


def compressed(path, snapshot):
    with zipfile.ZipFile(snapshot) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for entry in source.infolist():
            file.writestr(entry.filename, source.read(entry))


def hole(path, snapshot):
    """Blocks of zeros among the weights, as an incomplete download leaves it."""
    data = bytearray(snapshot.read_bytes())
    with zipfile.ZipFile(snapshot) as file:
        tensors = [entry for entry in file.infolist() if "/data/" in entry.filename and entry.file_size > 256]
    for entry in tensors:
        middle = entry.header_offset + entry.file_size // 2  # behind the header, of some 64 bytes
        data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)


def torchscript(path, _):
    with zipfile.ZipFile(path, "w") as file:
        for name in ("x/data.pkl", "x/code/__torch__.py", "x/constants.pkl"):
            file.writestr(name, b"")


def future(path, snapshot):
    torch.save(dict(torch.load(snapshot), version=99), path)


def version_of_tensors(path, snapshot):
    torch.save(dict(torch.load(snapshot), version=torch.ones(2)), path)


def class_that_is_no_name(path, snapshot):
    content = torch.load(snapshot)
    content["generator"]["class"] = 3
    torch.save(content, path)


def no_rays(path, snapshot):
    content = torch.load(snapshot)
    content["generator"]["config"]["rendering"]["resolution"] = 0
    torch.save(content, path)


def no_average(path, snapshot):
    content = torch.load(snapshot)
    del content["generator"]["ema"]
    torch.save(content, path)


def wrong_arguments(path, snapshot):
    content = torch.load(snapshot)
    content["generator"]["config"]["hair"] = "long"
    torch.save(content, path)


def too_wide(path, snapshot):
    content = torch.load(snapshot)
    content["generator"]["config"]["foreground"]["width"] = 2**40
    torch.save(content, path)


def wider(path, snapshot):
    """Terabytes, if they were made."""
    content = torch.load(snapshot)
    content["generator"]["config"]["foreground"]["width"] = 2**16
    content["generator"]["config"]["w_dim"] = 2**16
    content["generator"]["config"]["foreground"]["num_layers"] = 100
    torch.save(content, path)


def empty(path, _):
    path.touch()


def text(path, _):
    path.write_text("hello")


def missing(path, _):
    pass


def a_folder(path, _):
    path.mkdir()


@pytest.mark.parametrize(
    "make, words",
    [
        (missing, "no file"),
        (empty, "empty"),
        (text, "known format"),
        (lfs, "git lfs pull"),
        (html, "web page"),
        (truncated, "damaged or incomplete"),
        (head_only, "damaged or incomplete"),
        (hole, "damaged or incomplete"),
        (a_zip, "a zip file of something else"),
        (compressed, "is a compressed zip, as which a network snapshot is never saved; take the original file"),
        (torchscript, "a TorchScript file, not a network snapshot"),
        (foreign_pickle, "pickle"),
        (evil_archive, r"other Python objects \(\S+\); it may be malicious. Nothing in it was run"),
        (evil_legacy_file, r"other Python objects \(\S+\); it may be malicious. Nothing in it was run"),
        (legacy_tensors, "format is None"),
        (truncated_legacy_file, "damaged or incomplete"),
        (other_archive, "format is None"),
        (future, "version 99"),
        (version_of_tensors, "has version tensor"),
        (class_that_is_no_name, "a generator of another class, 3"),
        (no_rays, "cannot be built: rendering needs resolution >= 1, got 0"),
        (no_average, "generator.ema"),
        (wrong_arguments, "hair"),
        (too_wide, "cannot be built: an argument is 1099511627776"),
        (wider, "does not fit the generator that it describes"),
        (a_folder, "no network snapshot"),
    ],
)
def test_files_that_are_no_snapshots(make, words, tmp_path, networks, monkeypatch):
    monkeypatch.setenv("EVIL_FOLDER", str(tmp_path / "evil"))
    path = tmp_path / "x.pkl"
    (tmp_path / "good").mkdir()
    make(path, save(tmp_path / "good", networks))
    with pytest.raises(UserError, match=words) as caught:
        load_average_generator(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "evil").exists()  # nothing in the file was executed


def test_a_snapshot_in_the_format_before_zip_archives(tmp_path, networks):
    path, content = tmp_path / "legacy.pt", torch.load(save(tmp_path, networks))
    torch.save(content, path, _use_new_zipfile_serialization=False)
    loaded = load_average_generator(path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), networks[1].state_dict().values()))


def test_tensors_that_do_not_fit_are_named(networks):
    generator = networks[0]
    state = dict(generator.state_dict())
    check_state(generator, state, what="the generator", source="a.pkl")
    del state["mapping.w_avg"]
    state["extra"] = torch.zeros(1)
    state["motion.input.weight"] = torch.zeros(3, 5)
    state["mapping.layers.0.bias"] = "text"
    state[7] = torch.zeros(1)
    with pytest.raises(UserError) as caught:
        check_state(generator, state, what="the generator", source="a.pkl")
    message = str(caught.value)
    assert message.startswith("a.pkl does not fit the generator: mapping.w_avg is missing; extra is left over;")
    assert "motion.input.weight is 3×5 instead of 8×8" in message
    assert "mapping.layers.0.bias is str instead of 8" not in message and message.count("; and 1 more.") == 1
    del state[7]
    with pytest.raises(UserError, match="mapping.layers.0.bias is str instead of 8"):
        check_state(generator, state, what="the generator", source="a.pkl")


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, torch.Tensor.cfloat, lambda x: x.to("meta")])
def test_tensors_of_other_kinds_are_named(networks, change):
    state = dict(networks[0].state_dict())
    state["mapping.layers.0.bias"] = change(state["mapping.layers.0.bias"])
    with pytest.raises(UserError, match="mapping.layers.0.bias is not a dense tensor of real numbers instead of 8"):
        check_state(networks[0], state, what="the generator", source="a.pkl")


@pytest.mark.parametrize("about", [None, "text", [1, 2], torch.ones(2)])
def test_descriptions_that_are_none_count_as_missing(tmp_path, networks, about):
    content = torch.load(save(tmp_path, networks))
    torch.save(content | {"dataset": about, "progress": about}, tmp_path / "a.pt")
    loaded = load_snapshot(tmp_path / "a.pt")
    assert loaded["dataset"] == loaded["progress"] == {}


def test_a_path_that_is_not_utf8_is_no_damage(tmp_path):
    path = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9"), "a")
    try:
        path.parent.mkdir()
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    archive.save_archive(path, {"format": "x", "version": archive.VERSION})
    with pytest.raises(UserError) as caught:
        archive.read_archive(path, format="x", what="a file")
    assert str(caught.value) == f"{path} cannot be read: the path is not valid UTF-8; rename it."
    path.parent.rename(tmp_path / "renamed")
    assert archive.read_archive(tmp_path / "renamed" / "a", format="x", what="a file")["format"] == "x"


def test_plain_data():
    base = torch.arange(10.0)
    value = plain({"view": base[2:4], "tuple": (1, None, True), 3: {"x": "y"}})
    assert value["tuple"] == [1, None, True] and value[3] == {"x": "y"}
    assert value["view"].tolist() == [2.0, 3.0]
    assert value["view"].untyped_storage().nbytes() == 8  # not the ten numbers behind it


@pytest.mark.parametrize("value", [object(), {1.5: 0}, {"a": [set()]}, torch.float32])
def test_other_objects_are_no_plain_data(value):
    with pytest.raises(TypeError):
        plain(value)


def test_formats_are_told_apart(tmp_path):
    archive.save_archive(tmp_path / "a", {"format": "one", "version": archive.VERSION})
    assert archive.read_archive(tmp_path / "a", format="one", what="a one")["format"] == "one"
    with pytest.raises(UserError, match="is not a two of this program"):
        archive.read_archive(tmp_path / "a", format="two", what="a two")
    with pytest.raises(UserError, match="'one'"):
        load_snapshot(tmp_path / "a")


@pytest.mark.parametrize(
    "error, detail",
    [
        (MemoryError(), ""),
        (
            RuntimeError("unable to mmap 9 bytes from file <x>: Cannot allocate memory (12)"),
            " (unable to mmap 9 bytes from file <x>: Cannot allocate memory (12))",
        ),
        (  # PyTorch 2.4
            pickle.UnpicklingError("Weights only load failed. …\nDefaultCPUAllocator: can't allocate memory"),
            " (DefaultCPUAllocator: can't allocate memory)",
        ),
    ],
)
def test_a_full_memory_is_no_damage(tmp_path, networks, monkeypatch, error, detail):
    def load(*args, **kwargs):
        raise error

    def message(path):
        return f"The memory is full{detail}. Loading {path} needs more: end other programs, or use a larger machine."

    path = save(tmp_path, networks)
    state = tmp_path / "training-state.pt"
    archive.save_archive(state, {"format": STATE_FORMAT, "version": archive.VERSION})
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", load)
        with pytest.raises(UserError) as caught:
            load_average_generator(path)
        assert str(caught.value) == message(path)
        with pytest.raises(UserError) as caught:
            read_state(tmp_path)
        assert str(caught.value) == message(state)
    monkeypatch.setattr(Generator, "__init__", load)  # while the network is built
    with pytest.raises(UserError) as caught:
        load_average_generator(path)
    assert str(caught.value) == message(path)


def test_a_full_memory_is_no_damage_of_a_published_checkpoint(tmp_path, monkeypatch):
    def read(path, *, average_only):
        raise MemoryError

    (tmp_path / "x.pkl").write_bytes(b"\x80\x02")
    monkeypatch.setattr("training.published.loader.read_published", read)
    with pytest.raises(UserError) as caught:
        load_snapshot(tmp_path / "x.pkl")
    assert str(caught.value) == (
        f"The memory is full. Loading {tmp_path / 'x.pkl'} needs more: end other programs, or use a larger machine."
    )


def test_a_snapshot_that_a_run_replaces_while_it_is_read(tmp_path, monkeypatch):
    for name, value in (("a", 1.0), ("b", 2.0)):
        archive.save_archive(
            tmp_path / name, {"format": "x", "version": archive.VERSION, "tensor": torch.full([99], value)}
        )
    check, latest = archive._check_zip, tmp_path / "a"

    def replaced(path, what):
        found = check(path, what)
        if (tmp_path / "b").exists():
            os.replace(tmp_path / "b", latest)
        return found

    monkeypatch.setattr(archive, "_check_zip", replaced)
    assert archive.read_archive(latest, format="x", what="a file")["tensor"].tolist() == [2.0] * 99


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_snapshot_in_the_private_folder_of_another_user(tmp_path):
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "private" / "x.pt").write_bytes(b"x")
    script = f"""
        import os, sys
        from dnnlib import UserError
        from training.checkpoints.snapshot import checkpoint_file
        checkpoint_file("assets/heads")  # imports the rest
        os.setresuid(65534, 65534, 65534)
        try:
            checkpoint_file({str(tmp_path / "private" / "x.pt")!r})
        except UserError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, cwd=Path(__file__).parents[3]
    )
    assert re.fullmatch(r"Cannot read /.*private/x.pt.*: you have no permission.\n", done.stdout), done
