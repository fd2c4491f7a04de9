"""Generators as config.json and model.safetensors: what is written is read again, and nothing else is."""

import dataclasses
import functools
import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import generate
from dnnlib import UserError
from dnnlib.downloads import sha256_of
from renderer.cameras import CameraPrior
from tests.small_network import small_generator
from training.checkpoints.pretrained import is_pretrained
from training.checkpoints.snapshot import load_average_generator, load_snapshot
from training.inference.video_discriminators import VideoDiscriminators, load_discriminators
from training.inference.video_generator import VideoGenerator, load_generator
from training.networks.density import DensityPrior
from training.networks.discriminator import TimeAwareDiscriminators
from training.networks.generator import Generator
from training.networks.layers import IsotropicEncoding
from training.networks.mixed_precision import half_precision
from training.networks.upsampler import ToRGB

safetensors = pytest.importorskip("safetensors.torch")


class OwnGenerator(Generator):
    """A class of a user's own."""


@pytest.fixture
def model(run_folder, tmp_path):
    load_generator(run_folder).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def same(first, second) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_it_is_read_again(run_folder, model):
    assert sorted(path.name for path in model.iterdir()) == ["config.json", "model.safetensors"]
    G, loaded = load_generator(run_folder), VideoGenerator.from_pretrained(model)
    assert same(G, loaded) and loaded.about == G.about
    assert same(load_average_generator(model / "model.safetensors"), G.network), "the file stands for the folder"
    assert torch.equal(loaded.video(seed=3, frames=2), G.video(seed=3, frames=2))


def test_commands_render_it(model, tmp_path):
    words = ["--outdir", str(tmp_path / "out"), "--network_pkl", str(model), "--time_steps", "1", "--n_steps", "1"]
    generate.main(words, standalone_mode=False)
    assert (tmp_path / "out" / "rotation_camera_yaw_seed0000_motion0000.mp4").exists()


def test_the_viewer_shows_it(model):
    pytest.importorskip("viser")
    from renderer.viewer.__main__ import start

    server = start(model, host="127.0.0.1", port=0, device="cpu")
    assert server.port > 0
    server.stop()


def test_training_needs_the_discriminators(run_folder, model):
    with pytest.raises(UserError, match="holds a generator without discriminators"):
        load_snapshot(model)
    D = load_discriminators(run_folder)
    D.save_pretrained(model)
    assert same(load_discriminators(model), D)
    content = load_snapshot(model)
    assert content["generator"]["state"] is content["generator"]["ema"]
    assert content["progress"]["cur_nimg"] == 2000


def test_the_hubs_own_class_reads_it(run_folder, model):
    hub = pytest.importorskip("huggingface_hub")

    class HubGenerator(Generator, hub.PyTorchModelHubMixin):
        pass

    assert same(HubGenerator.from_pretrained(model), load_generator(run_folder).network)


def test_classes_of_their_own_are_named(tmp_path):
    config = small_generator().config
    VideoGenerator(OwnGenerator(**config)).save_pretrained(tmp_path / "own")
    name = json.loads((tmp_path / "own" / "config.json").read_text())["class"]
    assert name.endswith("test_pretrained.OwnGenerator")
    with pytest.raises(UserError, match="Its code is run only if asked for"):
        load_generator(tmp_path / "own")
    assert type(load_generator(tmp_path / "own", generator_class=OwnGenerator).network) is OwnGenerator


def test_other_entries_of_about_are_left_out(run_folder, tmp_path):
    """The reader would take them for arguments of the network, or for its own."""
    G = load_generator(run_folder)
    expected = dict(G.about)
    G.about |= {"note": "mine", "format": "another"}
    G.save_pretrained(tmp_path / "model")
    assert load_generator(tmp_path / "model").about == expected


class Adjustable(Generator):
    """A class of a user's own with an argument of any type."""

    def __init__(self, *, scale=1, **config):
        super().__init__(**config)
        self.config |= {"scale": scale}


@pytest.mark.parametrize("value, kind", [(torch.tensor(5), "Tensor"), (np.int64(5), "int64"), ({5}, "set")])
def test_values_that_are_none_of_json(tmp_path, value, kind):
    G = VideoGenerator(small_generator(), about={"progress": {"cur_nimg": value}})
    own = VideoGenerator(Adjustable(**small_generator().config, scale=value))
    for saved, entry in ((G, "progress.cur_nimg"), (own, "scale")):
        with pytest.raises(UserError) as error:
            saved.save_pretrained(tmp_path / "model")
        assert str(error.value) == (
            f"config.json.{entry} is a {kind}; a checkpoint holds only plain data: numbers, strings, lists and "
            "dictionaries."
        )
    assert not (tmp_path / "model").exists()


def changed(model, **entries) -> None:
    config = json.loads((model / "config.json").read_text()) | entries
    (model / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"format": "other"}, "describes no generator of this program"),
        ({"version": 2}, "version 2, not 'video-3d-gan/generator' version 1"),
        ({"typo": 1}, "describes a generator that cannot be built"),
        ({"resolution": "large"}, "describes a generator that cannot be built"),
        ({"w_dim": 1 << 40}, "cannot be built: an argument is 1099511627776"),
        ({"w_dim": 24}, "does not fit the generator that it describes"),
        ({"mapping": [1]}, "describes a generator that cannot be built"),
        ({"class": {"a": 1}}, "holds a generator of another class"),
    ],
)
def test_a_wrong_description_is_refused(model, entries, message):
    changed(model, **entries)
    with pytest.raises(UserError, match=message):
        load_generator(model)


def test_large_numbers_that_are_no_sizes_are_read(model):
    upsampler = json.loads((model / "config.json").read_text())["upsampler"]
    changed(model, upsampler=upsampler | {"conv_clamp": 1e6})
    assert load_generator(model).network.config["upsampler"]["conv_clamp"] == 1e6


def test_damaged_files_are_refused(model):
    good = (model / "model.safetensors").read_bytes()
    config = json.loads((model / "config.json").read_text())
    without = {key: value for key, value in config.items() if key != "sha256"}
    message = (
        f"{model / 'model.safetensors'} is damaged, or was not written with the JSON file beside it: copy or download "
        "both again."
    )
    for content, description in (
        (good[: len(good) // 2], config),
        (good[:-4096] + bytes(4096), config),
        (good, without),
    ):
        (model / "model.safetensors").write_bytes(content)
        (model / "config.json").write_text(json.dumps(description))
        with pytest.raises(UserError) as caught:
            load_generator(model)
        assert str(caught.value) == message
    # Sound, but not of this format.
    (model / "model.safetensors").write_bytes(good[: len(good) // 2])
    changed(model, sha256=sha256_of(model / "model.safetensors"))
    with pytest.raises(UserError, match="model.safetensors is damaged or incomplete"):
        load_generator(model)
    for content in (b"{", b"[1]", b"\xff\xfe", b"[" * 100_000):
        (model / "config.json").write_bytes(content)
        with pytest.raises(UserError, match="config.json (is damaged|describes no network)"):
            load_generator(model)


@pytest.mark.parametrize("error", [MemoryError("Cannot allocate memory (os error 12)"), RuntimeError("out of memory")])
def test_a_full_memory_is_no_damage(model, monkeypatch, error):
    def load(*args, **kwargs):
        raise error

    monkeypatch.setattr(safetensors, "load_file", load)
    with pytest.raises(UserError) as caught:
        load_generator(model)
    assert str(caught.value) == (
        f"The memory is full ({error}). Loading {model / 'model.safetensors'} needs more: end other programs, or use a "
        "larger machine."
    )


def test_a_path_that_is_not_utf8_is_no_damage(model, tmp_path):
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9"))
    try:
        shutil.copytree(model, folder)
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    with pytest.raises(UserError) as caught:
        load_generator(folder)
    path = folder / "model.safetensors"
    assert str(caught.value) == f"{path} cannot be read: the path is not valid UTF-8; rename it."


def test_tensors_of_others_are_refused(model):
    safetensors.save_file({"weight": torch.zeros(3)}, model / "model.safetensors")
    changed(model, sha256=sha256_of(model / "model.safetensors"))
    with pytest.raises(UserError, match="does not fit the generator that it describes.*is missing"):
        load_generator(model)


@pytest.mark.parametrize("content", ['{"model_type": "bert"}', "[]", "no JSON"])
def test_the_config_of_another_program_stays(tmp_path, run_folder, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="holds a config.json of something else"):
        load_generator(run_folder).save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_text() == content and not (tmp_path / "model.safetensors").exists()


def test_tensors_of_another_program_stay(tmp_path, run_folder):
    (tmp_path / "model.safetensors").write_text("another model")
    with pytest.raises(UserError) as error:
        load_generator(run_folder).save_pretrained(tmp_path)
    assert str(error.value) == f"'{tmp_path}' holds a model.safetensors of something else; choose another folder."
    assert [path.read_text() for path in tmp_path.iterdir()] == ["another model"]


def test_a_killed_process_leaves_no_tensors_without_a_config(tmp_path, run_folder, monkeypatch):
    """Those of another program could not be told from them."""
    found, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (found.append(os.path.basename(new)), replace(old, new)))
    load_generator(run_folder).save_pretrained(tmp_path)
    assert found == ["config.json", "model.safetensors"] and is_pretrained(tmp_path)


def test_a_full_disk_leaves_the_earlier_model(model, run_folder):
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    G, limits = load_generator(run_folder), resource.getrlimit(resource.RLIMIT_FSIZE)
    G.about["progress"] = {"cur_nimg": 1}
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["model.safetensors"]) // 2, limits[1]))
    try:
        with pytest.raises(UserError, match="there is no space left"):
            G.save_pretrained(model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def test_a_run_folder_is_refused(run_folder):
    """Of a folder with both, the model would be loaded instead of the run's newest snapshot."""
    with pytest.raises(UserError, match="holds the snapshots of a run, and this model would be loaded instead"):
        load_generator(run_folder).save_pretrained(run_folder)
    assert not is_pretrained(run_folder)


def test_a_folder_that_cannot_be_made(tmp_path, run_folder):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot make the folder"):
        load_generator(run_folder).save_pretrained(tmp_path / "file" / "model")
    assert not is_pretrained(tmp_path / "file")


class Added(torch.nn.Module):
    """A parametrization, such as those of low-rank adaptation."""

    def __init__(self):
        super().__init__()
        self.delta = torch.nn.Parameter(torch.zeros([]))

    def forward(self, weight):
        return weight + self.delta


def _parametrize(G):
    torch.nn.utils.parametrize.register_parametrization(G.network.foreground.layers[0], "weight", Added())


def _other_settings(G):
    G.network.settings = dataclasses.replace(G.network.settings, sampling_multiplier=3)


def _other_cameras(G):
    G.network.camera_prior = CameraPrior(fov=30)


def _cameras_of_another_class(G):
    G.network.camera_prior = type("OtherPrior", (CameraPrior,), {})(**G.network.config["camera"])


def _other_density(G):
    G.network.foreground.density_prior = DensityPrior(peak=60, radius=0.06)


def _other_motion(G):
    G.network.motion.frequency = 0.5


def _other_encoding(G):
    G.network.foreground.encoding = IsotropicEncoding(G.network.foreground.encoding.frequencies)


def _other_clamp(G):
    G.network.upsampler.blocks["16"].conv1.clamp = 1.0


def _other_layer(G):
    G.network.upsampler.blocks["16"].rgb.__class__ = type("Sepia", (ToRGB,), {})


@pytest.mark.parametrize(
    "change, message",
    [
        (_parametrize, "foreground.layers.0.weight is missing; foreground.layers.0.parametrizations.weight.original"),
        (_other_settings, "rebuild a different network: settings differs. Change the config as well"),
        (_other_cameras, "rebuild a different network: camera_prior differs. Change the config as well"),
        (_cameras_of_another_class, "rebuild a different network: camera_prior differs. Change"),
        (_other_density, "rebuild a different network: foreground.density_prior differs. Change"),
        (_other_motion, "rebuild a different network: motion.frequency differs. Change"),
        (_other_encoding, "rebuild a different network: foreground.encoding differs. Change"),
        (_other_clamp, "rebuild a different network: upsampler.blocks.16.conv1.clamp differs. Change"),
        (_other_layer, "rebuild a different network: upsampler.blocks.16.rgb is another class. Change"),
    ],
)
def test_what_would_not_be_read_again_is_refused(run_folder, tmp_path, change, message):
    """Until now it was written, and could not be loaded, or was another generator then."""
    G = load_generator(run_folder)
    change(G)
    with pytest.raises(UserError, match=f"^the generator cannot be saved, .*{message}"):
        G.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_what_is_a_state_of_the_moment_is_saved(run_folder, tmp_path):
    G = load_generator(run_folder).train()
    network = G.network.train()
    network.activation_checkpointing = True
    network.label_examples = torch.zeros(1, 0)
    with half_precision(torch.bfloat16, network):
        G.save_pretrained(tmp_path / "model")
    assert same(load_generator(tmp_path / "model"), G)


class Rig(CameraPrior):
    """Cameras with attributes that are not numbers."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.places, self.weights = np.arange(3.0), torch.ones(3)
        self.names, self.step = {"left": (0, 1)}, lambda x: x + 1

    @functools.cached_property
    def middle(self):
        return float(self.places.mean())


class RigGenerator(Generator):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.camera_prior = Rig(**arguments["camera"])


def test_arrays_of_a_prior_are_compared(tmp_path):
    G = VideoGenerator(RigGenerator(**small_generator().config))
    prior = G.camera_prior
    assert prior.middle == 1  # computed once, then kept
    G.save_pretrained(tmp_path / "model")
    for name, value in (("places", np.zeros(3)), ("weights", torch.ones(4)), ("names", {"left": (0, 2)})):
        kept = getattr(prior, name)
        setattr(prior, name, value)
        with pytest.raises(UserError, match="rebuild a different network: camera_prior differs. Change"):
            G.save_pretrained(tmp_path / "other")
        setattr(prior, name, kept)
    G.save_pretrained(tmp_path / "other")


class SizedGenerator(Generator):
    """With a tuple where JSON has a list, and attributes that rendering fills."""

    def __init__(self, *, sizes=(1, 2), **arguments):
        super().__init__(**arguments)
        self.sizes, self.config["sizes"] = tuple(sizes), list(sizes)
        self.last_times, self._calls = None, 0

    def motion_vectors(self, ws, z_motion, times):
        self.last_times, self._calls = times, self._calls + 1
        return super().motion_vectors(ws, z_motion, times)


def test_caches_of_a_class_of_the_users_own_are_saved_without(tmp_path):
    G = VideoGenerator(SizedGenerator(**small_generator().config).eval())
    G.frame(seed=3)
    assert G.network._calls > 0 and G.network.last_times is not None
    G.save_pretrained(tmp_path / "model")
    G.network.sizes = (1, 3)
    with pytest.raises(UserError, match="rebuild a different network: sizes differs. Change"):
        G.save_pretrained(tmp_path / "other")


def test_changed_discriminators_are_refused(run_folder, tmp_path):
    D = load_discriminators(run_folder)
    D.network.video.epilogue.mbstd_group = 3
    with pytest.raises(UserError) as caught:
        D.save_pretrained(tmp_path)
    assert str(caught.value) == (
        "the discriminator cannot be saved, since its config would rebuild a different network: "
        "video.epilogue.mbstd_group differs. Change the config as well, remove parametrizations, or derive a class of "
        "your own."
    )


def test_parametrizations_can_be_made_permanent(run_folder, tmp_path):
    G = load_generator(run_folder)
    _parametrize(G)
    layer = G.network.foreground.layers[0]
    layer.parametrizations.weight[0].delta.data.fill_(0.1)
    frame = G.frame(seed=3)
    torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")
    G.save_pretrained(tmp_path / "model")
    assert torch.equal(load_generator(tmp_path / "model").frame(seed=3), frame)


class WeightNormed(Generator):
    """With a parametrized layer, which a list holds, too."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.normed = [weight_norm(self.foreground.layers[0].affine)]


class SpectrallyNormed(TimeAwareDiscriminators):
    """With a parametrized layer and a parametrized tensor of its own."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        spectral_norm(self.video.epilogue.fc)
        self.gain = torch.nn.Parameter(torch.ones(2, 2))
        spectral_norm(self, "gain")


class Doubled(torch.nn.Module):
    """A parametrization without tensors."""

    def forward(self, weight):
        return 2 * weight


def test_parametrizations_of_a_constructor_are_saved(tmp_path):
    G = VideoGenerator(WeightNormed(**small_generator().config).eval())
    D = VideoDiscriminators(SpectrallyNormed(resolution=16, channel_max=8).eval())
    G.save_pretrained(tmp_path / "model")
    D.save_pretrained(tmp_path / "model")
    loaded = load_generator(tmp_path / "model", generator_class=WeightNormed)
    assert same(G, loaded) and torch.equal(G.frame(seed=3), loaded.frame(seed=3))
    pairs, dt = torch.rand(2, 2, 3, 16, 16), torch.rand(2)
    found = load_discriminators(tmp_path / "model", discriminator_class=SpectrallyNormed)
    assert same(D, found) and torch.equal(D(pairs, dt).video, found.eval()(pairs, dt).video)

    layer = G.network.foreground.layers[0].affine
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", Doubled())
    with pytest.raises(UserError) as caught:
        G.save_pretrained(tmp_path / "other")
    assert str(caught.value) == (
        "the generator cannot be saved, since its config would rebuild a different network: "
        "foreground.layers.0.affine.parametrizations.weight.1 is left over. Change the config as well, remove "
        "parametrizations, or derive a class of your own."
    )
