"""Published checkpoints as whole files: read, converted, rendered, trained from; and files that are none."""

import copy
import dataclasses
import functools
import io
import pickle
import re
import subprocess
import sys
from pathlib import Path

import click.testing
import numpy as np
import pytest
import torch
import yaml

import generate
import run_train
from dnnlib import UserError
from tests.goldens.networks import build_generator, map_state
from tests.small_network import save_small_network, small_generator
from tests.training.published.published_files import (
    SPEC,
    Call,
    Name,
    as_tensors,
    dumps,
    options_of,
    persistent,
    small_arrays,
    small_file,
    storage,
    storage_bytes,
    tensor,
)
from tests.training.tiny import OVERRIDES, make_plan, write_frames
from training.checkpoints.snapshot import load_average_generator, load_snapshot
from training.inference.video_generator import load_generator
from training.launch.build import build_networks
from training.networks.discriminator import TimeAwareDiscriminators
from training.published import __main__ as command
from training.published import loader
from training.published.state_dict import (
    map_discriminator_name,
    map_generator_name,
    published_discriminator_name,
    published_generator_name,
)

ROOT = Path(__file__).resolve().parents[3]
CAMERA = {"fov": 30.0, "yaw": (-0.4, 0.6)}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "small.pkl"
    path.write_bytes(small_file())
    return path


def same(state, expected):
    return state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)


# ----------------------------------------------------------------------------------------------------------------------
# What is in a file


def test_every_tensor_arrives(path):
    content, arrays = load_snapshot(path), small_arrays()
    generator = build_generator(SPEC)
    assert same(content["generator"]["ema"], generator.state_dict())
    assert same(content["generator"]["state"], {k: v * 0.5 for k, v in generator.state_dict().items()})
    discriminators = TimeAwareDiscriminators(**content["discriminator"]["config"])
    assert same(
        content["discriminator"]["state"], map_state(as_tensors(arrays["D"]), discriminators, map_discriminator_name)
    )
    assert content["augment"] is None
    assert content["progress"] == {"cur_nimg": 1500, "tick": 0, "iteration": 0}
    assert content["dataset"] == {
        "c_dim": 0, "resolution": 16, "name": "clips", "nframes": 16, "mirror": True, "num_videos": 7,
    }  # fmt: skip


@torch.no_grad()
def test_it_renders_what_it_was_trained_for(path):
    """The same frames as a network that was given the same options and weights by other means."""
    generator, expected = load_average_generator(path), build_generator(SPEC, camera=CAMERA)
    assert not generator.training and not any(p.requires_grad for p in generator.parameters())
    frames = []
    for network in (generator, expected):
        near, far = 0.8, 1.2
        network.settings = type(network.settings)(**(vars(network.settings) | {"near": near, "far": far}))
        stream = np.random.RandomState(0)
        z, z_motion, z_bg = (
            torch.from_numpy(stream.randn(1, size)).float() for size in (SPEC.z_dim, SPEC.motion_dim, SPEC.code_dim)
        )
        frames.append(
            network.synthesize(
                network.mapping(z, truncation_psi=0.7),
                z_motion=z_motion,
                z_bg=z_bg,
                times=torch.tensor([[0.0, 0.6]]),
                cameras=network.camera_prior.at(0.2, 0.7),
            ).image
        )
    assert torch.equal(*frames)
    assert float(frames[0].std()) > 0.1


def test_only_the_average_is_read_for_rendering(path, tmp_path):
    """A file whose other networks are damaged still renders."""
    damaged = tmp_path / "x.pkl"
    damaged.write_bytes(small_file(G=5, D=None))
    assert same(load_average_generator(damaged).state_dict(), load_average_generator(path).state_dict())
    with pytest.raises(UserError, match="has no network 'G'"):
        load_snapshot(damaged)


def test_other_number_types(tmp_path):
    """Half and double precision become single precision."""
    arrays = small_arrays()
    arrays["G_ema"] = {name: array.astype(np.float64) for name, array in arrays["G_ema"].items()}
    (tmp_path / "x.pkl").write_bytes(small_file(arrays=arrays))
    state = load_snapshot(tmp_path / "x.pkl")["generator"]["ema"]
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert same(state, build_generator(SPEC).state_dict())


@pytest.mark.parametrize("arguments", [None, 5, {"path": 3, "nframes": "x", "xflip": 1}])
def test_descriptions_of_data_may_be_anything(arguments, tmp_path):
    (tmp_path / "x.pkl").write_bytes(small_file(training_set_kwargs=arguments, extra=[1, 2]))
    assert load_snapshot(tmp_path / "x.pkl")["dataset"] == {"c_dim": 0, "resolution": 16}


@pytest.mark.parametrize("steps, count", [(None, 0), ("x", 0), (-1, 0), (float("nan"), 0), (25_000.0, 25_000_000)])
def test_progress(steps, count, tmp_path):
    (tmp_path / "x.pkl").write_bytes(small_file(attributes={"steps": steps}))
    assert load_snapshot(tmp_path / "x.pkl")["progress"]["cur_nimg"] == count


def test_names_both_ways():
    generator = build_generator(SPEC)
    for name in generator.state_dict():
        assert map_generator_name(published_generator_name(name)) == name
    for name in ("video.epilogue.fc.weight", "image.blocks.64.conv1.bias", "video.mapping.layers.3.bias"):
        assert map_discriminator_name(published_discriminator_name(name)) == name
    assert published_generator_name("motion.output.bias", motion_layers=4).endswith("motion_mlp.3.bias")
    assert published_generator_name("foreground.mask.weight") is None


# ----------------------------------------------------------------------------------------------------------------------
# Tensors that do not fit


def without(name):
    return lambda arrays: arrays.pop(name)


def with_extra(name, *shape):
    return lambda arrays: arrays.update({name: np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    "network, change, words",
    [
        ("G_ema", without("mapping.fc1.bias"), r"generator \(G_ema\) .*1 missing \('mapping.fc1.bias'\)"),
        ("G_ema", without("synthesis.b16.conv0.w_avg"), r"1 missing \('synthesis.b16.conv0.w_avg'\)"),
        ("G_ema", without("synthesis.fg_nerf.fc_in.weight"), "synthesis.fg_nerf.fc_in.weight is missing"),
        ("G_ema", with_extra("synthesis.b16.noise"), r"1 left over \('synthesis.b16.noise'\)"),
        ("G_ema", with_extra("synthesis.b32.torgb.bias", 3), r"1 left over \('synthesis.b32.torgb.bias'\)"),
        ("G_ema", with_extra("mapping.fc1.bias", 17), r"mapping.fc1.bias has shape \[17\], but mapping.layers.1.bias"),
        ("G_ema", with_extra("mapping.fc1.bias", 16, 1, 1), r"mapping.fc1.bias has shape \[16, 1, 1\]"),
        ("G_ema", with_extra("synthesis.alpha", 2), r"1 left over \('synthesis.alpha'\)"),
        ("G_ema", with_extra("synthesis.b016.torgb.bias", 3), r"1 left over \('synthesis.b016.torgb.bias'\)"),
        ("G", without("mapping.w_avg"), r"generator \(G\) .*1 missing \('mapping.w_avg'\)"),
        ("G", with_extra("extra", 3), r"generator \(G\) .*1 left over \('extra'\)"),
        ("D", without("videoD.b8.conv0.weight"), r"discriminators \(D\) .*1 missing \('videoD.b8.conv0.weight'\)"),
        ("D", with_extra("imageD.b4.out.bias", 2), r"imageD.b4.out.bias has shape \[2\], but image.epilogue.out.bias"),
        ("D", with_extra("audioD.b4.out.bias", 1), r"1 left over \('audioD.b4.out.bias'\)"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(network, change, words, tmp_path):
    arrays = small_arrays()
    change(arrays[network])
    path = tmp_path / "x.pkl"
    path.write_bytes(small_file(arrays=arrays))
    with pytest.raises(UserError, match=words) as caught:
        load_snapshot(path)
    message = str(caught.value)
    assert message.startswith(f"{path} does not fit the ") and "\n" not in message


def test_many_tensors_that_do_not_fit(tmp_path):
    arrays = small_arrays()
    heads = re.compile(r"synthesis\.fg_nerf\.(sigma_out|feat_out|to_rgb)\.")
    arrays["G_ema"] = {("x." if heads.match(name) else "") + name: array for name, array in arrays["G_ema"].items()}
    (tmp_path / "x.pkl").write_bytes(small_file(arrays=arrays))
    with pytest.raises(UserError, match=r"10 missing \(.*, …\); 10 left over \('x.synthesis.*, …\)\.$") as caught:
        load_snapshot(tmp_path / "x.pkl")
    assert len(str(caught.value)) < 700


# ----------------------------------------------------------------------------------------------------------------------
# Hostile and broken files


class Run:
    """Unpickled, it would write a file."""

    def __init__(self, folder, function="exec"):
        self.code, self.function = f"open({str(folder / 'evil')!r}, 'w')", function

    def __reduce__(self):
        return {"exec": exec, "eval": eval}[self.function], (self.code,)


def in_tensor_data(folder):
    return tensor(np.zeros(3, np.float32), storage=storage(pickle.dumps(Run(folder), 2)))


def in_zip_in_tensor_data(folder):
    file = io.BytesIO()
    torch.save(Run(folder), file)
    return tensor(np.zeros(3, np.float32), storage=storage(file.getvalue()))


def call(module, name, *arguments):
    return Call(Name(module, name), arguments)


HOSTILE = {
    "os.system": lambda folder: small_file(x=call("os", "system", f"touch {folder / 'evil'}")),
    "posix.system": lambda folder: small_file(x=call("posix", "system", f"touch {folder / 'evil'}")),
    "subprocess.Popen": lambda folder: small_file(x=call("subprocess", "Popen", ["touch", str(folder / "evil")])),
    "builtins.eval": lambda folder: pickle.dumps({"G_ema": Run(folder, "eval")}, 4),
    "builtins.exec": lambda folder: pickle.dumps({"G_ema": Run(folder)}, 3),
    "torch.hub.load": lambda folder: small_file(x=call("torch.hub", "load", "a/b", "model")),
    "torch.load": lambda folder: small_file(x=call("torch", "load", str(folder / "x"))),
    "builtins.__import__": lambda folder: small_file(x=call("builtins", "__import__", "antigravity")),
    "importlib.import_module": lambda folder: small_file(x=call("importlib", "import_module", "antigravity")),
    "training.networks.Generator": lambda folder: small_file(x=call("training.networks", "Generator")),
    "numpy.load": lambda folder: small_file(x=call("numpy", "load", str(folder / "x"))),
    "__builtin__.exec in tensor data": lambda folder: small_file(x=in_tensor_data(folder)),
    "__builtin__.exec in a zip in tensor data": lambda folder: small_file(x=in_zip_in_tensor_data(folder)),
    "torch_utils.persistence.exec": lambda folder: small_file(x=call("torch_utils.persistence", "exec", "1")),
    "os.system, oldest protocol": lambda folder: f"cos\nsystem\n(S'touch {folder / 'evil'}'\ntR.".encode(),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("load", [load_snapshot, load_average_generator])
def test_hostile_files_are_refused_and_run_nothing(name, load, tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(HOSTILE[name](tmp_path))
    modules = set(sys.modules)
    with pytest.raises(UserError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path} ") and "\n" not in message
    assert f"asks for {name.split()[0].rstrip(',')}, which" in message and "nothing in it was run" in message
    assert not (tmp_path / "evil").exists()
    assert "antigravity" not in set(sys.modules) - modules


def test_the_original_s_source_text_is_not_run(path):
    assert b"raise SystemExit" in path.read_bytes()
    load_snapshot(path)


def huge_tensor():
    return tensor(np.zeros(3, np.float32), storage=storage(storage_bytes(np.zeros(3, np.float32), count=2**60)))


def stretched():
    """A layer of three numbers that says it has 3 × 2^40."""
    return tensor(np.zeros(3, np.float32), shape=(3, 2**40), strides=(1, 0))


def shared_by_many():
    """Ten thousand layers of one megabyte that are one and the same."""
    x = tensor(np.zeros(250_000, np.float32))
    return persistent("Generator", {"_parameters": {f"p{i}": x for i in range(9_000)}})


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def image_pickle():
    synthesis = persistent("SynthesisNetwork", {"_modules": {"b4": persistent("SynthesisBlock", {})}})
    generator = persistent("Generator", {"_modules": {"synthesis": synthesis}, "_init_kwargs": {"z_dim": 512}})
    return dumps({"G": generator, "D": persistent("Discriminator", {}), "G_ema": generator})


def image_field_pickle():
    """A relative with fields but without videos."""
    return small_file(D=persistent("Discriminator", {"_modules": {"b4": persistent("Block", {})}}))


BROKEN = {
    "deep": (lambda: small_file(x=nested(150)), "nested more than 100 deep"),
    "deep_elsewhere": (lambda: b"\x80\x03" + b"]" * 50_000 + b"a" * 49_999 + b".", "nested more than 100 deep"),
    "huge_tensor": (lambda: small_file(x=huge_tensor()), "claims 1152921504606846976 numbers"),
    "stretched": (lambda: small_file(x=stretched()), r"shape \[3, 1099511627776\] with only 3 numbers"),
    "shared": (lambda: small_file(G=shared_by_many()), "holds fewer bytes than the tensors of 'G' have"),
    "huge_text": (lambda: b"\x80\x03X\xff\xff\xff\xffabc", "a string of 4294967295 bytes"),
    "huge_bytes": (lambda: b"\x80\x03B\xff\xff\xff\xffabc", "is cut off"),
    "endless": (lambda: b"\x80\x03" + b"N0" * 250_000 + b"N.", "far more work"),
    "head_only": (lambda: small_file()[:5000], "is cut off: it ends after 5000 bytes"),
    "one_byte_less": (lambda: small_file()[:-1], "is cut off"),
    "more_at_the_end": (lambda: small_file() + b"xy", "goes on for 2 bytes after its end"),
    "lfs": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 264671066\n", "Git-LFS pointer"),
    "html": (lambda: b"<!DOCTYPE html><html>Google Drive - Virus scan warning</html>", "is a web page"),
    "empty": (lambda: b"", "is empty"),
    "text": (lambda: b"hello there", "belong to no known format"),
    "gzip": (lambda: b"\x1f\x8b\x08\x00" + bytes(20), "is compressed"),
    "image_pickle": (image_pickle, r"image pickle of StyleGAN2 or a relative of it \(SynthesisNetwork\)"),
    "tensorflow_pickle": (lambda: dumps((Call(Name("dnnlib.tflib.network", "Network"), new=True),) * 3),
                          "pickle of the TensorFlow version of StyleGAN"),
    "image_field_pickle": (image_field_pickle, "has no network 'D.videoD'"),
    "no_synthesis": (lambda: small_file(G_ema=persistent("Generator", {})), "without a synthesis network"),
    "state_dict": (lambda: dumps({"state_dict": {"a": tensor(np.zeros(3, np.float32))}}), "it holds state_dict"),
    "list": (lambda: pickle.dumps([1, 2]), "it holds a list"),
    "no_average": (lambda: pickle.dumps({"G": 1, "D": 2}), "without a network G_ema .it holds G, D."),
    "wrong_styles": (lambda: dumps_with_styles(99), r"a generator of 9 styles, but says it has 99"),
}  # fmt: skip


def dumps_with_styles(count):
    """A file that contradicts itself about the number of styles."""

    class Other(type(SPEC)):
        num_ws = count

    return small_file(Other(**dataclasses.asdict(SPEC)))


@pytest.mark.parametrize("name", BROKEN)
def test_broken_and_foreign_files(name, tmp_path):
    make, words = BROKEN[name]
    path = tmp_path / "x.pkl"
    path.write_bytes(make())
    with pytest.raises(UserError, match=words) as caught:
        load_snapshot(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and message.isprintable() and len(message) < 400


def test_every_twentieth_truncation(tmp_path, path):
    data = path.read_bytes()
    for length in range(1, len(data), len(data) // 20):
        (tmp_path / "x.pkl").write_bytes(data[:length])
        with pytest.raises(UserError, match="cut off|known format"):
            load_snapshot(tmp_path / "x.pkl")


def test_files_that_are_too_large(path, monkeypatch):
    monkeypatch.setattr(loader, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match="no published checkpoint is that large"):
        load_snapshot(path)


# ----------------------------------------------------------------------------------------------------------------------
# Commands


def convert(*arguments):
    result = click.testing.CliRunner().invoke(command.main, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_conversion(path, tmp_path):
    out = tmp_path / "own.pt"
    assert convert(path, out).split() == [str(out)]
    torch.load(out, weights_only=True)
    before, after = load_snapshot(path), load_snapshot(out)
    for network, part in (("generator", "ema"), ("generator", "state"), ("discriminator", "state")):
        assert same(after[network][part], before[network][part])
        assert after[network]["config"] == before[network]["config"]
    assert {k: after[k] for k in ("progress", "dataset", "augment")} == {
        k: before[k] for k in ("progress", "dataset", "augment")
    }
    assert same(load_average_generator(out).state_dict(), load_average_generator(path).state_dict())


def test_info(path, tmp_path):
    convert(path, tmp_path / "own.pt")
    output = convert("--info", path)
    assert output.splitlines()[1:] == convert("--info", tmp_path / "own.pt").splitlines()[1:]
    assert "kimg        1.5\n" in output and "name clips" in output
    config = yaml.safe_load(output[output.index("generator:") : output.index("\nparameters")])
    assert config["generator"] == load_snapshot(path)["generator"]["config"]
    state = load_snapshot(path)["generator"]["ema"]
    count = sum(t.numel() for name, t in state.items() if not name.endswith(("w_avg", "mean_square")))
    assert f"generator {count:,}" in " ".join(output.split())
    row = next(line for line in output.splitlines() if line.startswith("mapping.w_avg "))
    x = state["mapping.w_avg"]
    assert row.split()[1] == "16"
    assert [float(word) for word in row.split()[2:]] == pytest.approx(
        [float(x.mean()), float(x.std(correction=0)), float(x.min()), float(x.max())], rel=1e-3
    )


ESCAPE = "\x1b]0;title\x07\x1b[31m"  # sets a terminal's title and colour


@pytest.fixture(scope="module")
def own_content(tmp_path_factory):
    """The content of a snapshot of this program."""
    folder = tmp_path_factory.mktemp("own")
    save_small_network(folder, small_generator(resolution=16))
    return torch.load(folder / "network-snapshot-000000.pt", weights_only=True)


@pytest.mark.parametrize(
    "keys, value, line",
    [
        (("progress", "cur_nimg"), "24k", "kimg        unknown"),
        (("progress", "cur_nimg"), None, "kimg        unknown"),
        (("progress", "cur_nimg"), 10**400, "kimg        unknown"),
        (("progress", "cur_nimg"), 24_500, "kimg        24.5"),
        (("dataset", "name"), f"{ESCAPE}a\nb", "dataset     name ?]0;title??[31ma?b"),
        (("generator", "state", f"{ESCAPE}x"), torch.zeros(2), f"{'?]0;title??[31mx':60} {2:16}{'           0' * 4}"),
        (("generator", "state", "x"), 3, f"{'x':60} not a dense tensor"),
        (("generator", "state", 5), torch.eye(2).to_sparse(), f"{'5':60} not a dense tensor"),
        (("generator", "ema", "x"), torch.zeros(2, dtype=torch.complex64), f"{'x':60} not a tensor of real numbers"),
    ],
    ids=["text", "none", "huge", "sound", "dataset", "name", "number", "sparse", "complex"],
)  # fmt: skip
def test_info_of_damaged_and_hostile_entries(own_content, tmp_path, keys, value, line):
    content = copy.deepcopy(own_content)
    content["generator"]["state"] = dict(content["generator"]["state"])
    *parents, last = keys
    functools.reduce(dict.__getitem__, parents, content)[last] = value
    torch.save(content, tmp_path / "a.pt")
    output = convert("--info", tmp_path / "a.pt")
    assert line in output.splitlines()
    assert all(character.isprintable() for character in output.replace("\n", ""))


@pytest.mark.parametrize(
    "config, named, message",
    [
        ({f"{ESCAPE}x": 1}, {}, r"describes a generator that cannot be built: .*'\?\]0;title\?\?\[31mx'"),
        ({"x": torch.zeros(2)}, {"class": "my.Own"}, "is damaged: arguments of its networks are not plain values"),
    ],
    ids=["unknown", "tensor"],
)
def test_info_of_arguments_that_are_none(own_content, tmp_path, config, named, message):
    content = copy.deepcopy(own_content)
    content["generator"] |= {"config": content["generator"]["config"] | config, **named}
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match=message):
        convert("--info", tmp_path / "a.pt")


def test_info_of_a_generator_alone(path, tmp_path):
    load_generator(path).save_pretrained(tmp_path / "model")
    config = load_snapshot(path)["generator"]["config"]
    for source in (tmp_path / "model", tmp_path / "model" / "model.safetensors"):
        output = convert("--info", source)
        shown = yaml.safe_load(output[output.index("generator:") : output.index("\nparameters")])
        assert shown == {"generator": config}
        heads = [line.split()[0] for line in output.splitlines() if line.endswith(" max")]
        assert heads == ["G_ema"]
    with pytest.raises(UserError, match="without discriminators"):
        convert(tmp_path / "model", tmp_path / "own.pt")


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda path, tmp: [path], "--info"),
        (lambda path, tmp: [path, path], "itself"),
        (lambda path, tmp: [path, tmp], "is a folder"),
        (lambda path, tmp: [path, tmp / "no" / "x.pkl"], "Cannot write"),
        (lambda path, tmp: [tmp / "nothing.pkl", tmp / "x.pkl"], "no file"),
        (lambda path, tmp: ["--info", tmp / "nothing.pkl"], "no file"),
    ],
)
def test_mistakes_of_the_converter(make, words, path, tmp_path):
    before = path.read_bytes()
    with pytest.raises(UserError, match=words):
        convert(*make(path, tmp_path))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == []


def test_a_missing_file_is_told_whatever_its_result_would_replace(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"old")
    with pytest.raises(UserError, match="no file"):
        convert(tmp_path / "nothing.pkl", tmp_path / "x.pt")
    assert (tmp_path / "x.pt").read_bytes() == b"old"


def test_the_converter_as_a_command(tmp_path):
    (tmp_path / "x.pkl").write_bytes(HOSTILE["os.system"](tmp_path))
    command = [sys.executable, "-m", "training.published", str(tmp_path / "x.pkl"), str(tmp_path / "out.pkl")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and "os.system" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["x.pkl"]


def test_rendering(path, tmp_path):
    arguments = ["--outdir", str(tmp_path / "out"), "--network_pkl", str(path), "--device", "cpu", "--seeds", "3",
                 "--n_steps", "2", "--time_steps", "2", "--save_frames"]  # fmt: skip
    result = click.testing.CliRunner().invoke(generate.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    names = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*"))
    stem = "rotation_camera_yaw_seed0003_motion0003"
    assert names == [f"{stem}.mp4", f"{stem}/0000.png", f"{stem}/0001.png"]


def published_arrays(module, restore):
    return {restore(name): array.numpy() for name, array in module.state_dict().items()}


def options_of_config(config):
    """The original's arguments of one of our generators."""
    upsampler, rendering = config["upsampler"], config["rendering"]
    spec = dataclasses.replace(
        SPEC,
        resolution=config["resolution"], z_dim=config["z_dim"], motion_dim=config["motion_dim"], w_dim=config["w_dim"],
        code_dim=config["background_dim"], mapping_layers=config["mapping"]["num_layers"],
        width=config["foreground"]["width"], layers=config["foreground"]["num_layers"],
        features=config["foreground"]["feature_dim"], view=config["foreground"]["view_directions"],
        motion_width=config["motion"]["width"], background_width=config["background"]["width"],
        background_layers=config["background"]["num_layers"], upsampling=upsampler["mode"],
        channels=upsampler["channel_base"] * 32768, max_channels=upsampler["channel_max"],
        volume=rendering["resolution"], samples=rendering["num_samples"], lattice=rendering["path_lattice"],
    )  # fmt: skip
    return spec, copy.deepcopy(options_of(spec))


def test_training_starts_from_a_published_checkpoint(tmp_path, monkeypatch):
    # Those of published models.
    foreground = "model.generator.foreground"
    parts = [
        f"{foreground}.encoding=octaves",
        f"{foreground}.density_prior=null",
        f"{foreground}.density_ramp=null",
        "model.generator.motion.frequency=null",
    ]
    options = make_plan(tmp_path, *parts).options
    generator, discriminator = build_networks(options, c_dim=0)
    spec, original = options_of_config(generator.config)
    average = published_arrays(generator, published_generator_name)
    arrays = {
        "G": {name: array + np.float32(0.01) for name, array in average.items()},
        "D": published_arrays(discriminator, published_discriminator_name),
        "G_ema": average,
    }
    about = {"channel_base": discriminator.config["channel_base"], "channel_max": discriminator.config["channel_max"]}
    source = tmp_path / "published.pkl"
    source.write_bytes(small_file(spec, arrays=arrays, options=original, discriminator=about))
    words = [
        f"outdir={tmp_path / 'runs'}",
        f"data={write_frames(tmp_path / 'frames')}",
        *OVERRIDES,
        *parts,
        "imgsnap=null",
    ]
    # So little is trained that the networks are still those of the file, to within a step of the optimiser.
    words += ["kimg=0.004", "spec.lrate=1e-9", "spec.ema=1000000", "spec.ramp=null", f"resume={source}"]
    monkeypatch.setattr(sys, "argv", ["run_train.py", *words])
    run_train.main()
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.endswith("-resume")
    before, after = load_snapshot(source), load_snapshot(run)
    for network, part in (("generator", "ema"), ("generator", "state"), ("discriminator", "state")):
        for name, x in before[network][part].items():
            if not name.endswith(("w_avg", "mean_square")):
                assert torch.allclose(after[network][part][name], x, atol=1e-5), name
    name = "motion.input.bias"  # the average and the generator are told apart
    assert not torch.allclose(after["generator"]["ema"][name], after["generator"]["state"][name], atol=1e-3)
    # A model of other width is refused in one line, before anything is made.
    monkeypatch.setattr(sys, "argv", ["run_train.py", *words, "model.generator.foreground.width=16"])
    with pytest.raises(UserError, match=r"foreground\.\S+ is \S+ instead of"):
        run_train.main()
    assert len(list((tmp_path / "runs").iterdir())) == 1
