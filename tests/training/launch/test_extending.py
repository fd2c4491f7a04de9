"""The examples of docs/extending.md: networks of a user's own classes train, resume, load and are never imposed."""

import importlib
import json
import math
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import run_train
from dnnlib import UserError
from renderer.cameras import camera_angles
from tests.small_network import SIZES, save_small_network, small_generator
from tests.training.tiny import OVERRIDES, write_frames
from torch_utils.rng import RandomStream
from training.checkpoints.network_classes import network_class
from training.checkpoints.snapshot import load_average_generator, load_snapshot, save_snapshot
from training.export.frame_function import FrameFunction
from training.inference.frame_renderer import FrameRenderer
from training.inference.latents import seed_latents
from training.inference.model_card import model_card
from training.inference.point_query import PointField
from training.inference.video_discriminators import load_discriminators
from training.inference.video_generator import VideoGenerator, load_generator
from training.launch import config
from training.launch.build import STEPS
from training.launch.checkpoint_rules import check_snapshot
from training.launch.validate import plan
from training.networks.discriminator import TimeAwareDiscriminators, time_plane
from training.networks.generator import Generator
from training.networks.model_summary import size_report
from training.published.__main__ import describe_snapshot

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
NAME = "my_models.LoopingGenerator"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """A working folder as the page describes it, with a copy of conf/."""
    (tmp_path / "my_models.py").write_text("\n\n".join(blocks("python")))
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "model" / "looping.yaml").write_text(*blocks("yaml"))
    monkeypatch.setattr(config, "CONFIG_DIR", tmp_path / "conf")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for kind in ("GENERATOR", "DISCRIMINATOR"):
        monkeypatch.delenv(f"{kind}_CLASS", raising=False)
    monkeypatch.chdir(tmp_path)
    write_frames(tmp_path / "data")
    yield tmp_path
    sys.modules.pop("my_models", None)


def train(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["run_train.py", "outdir=runs", *words])
    run_train.main()


def test_own_generator_trains_resumes_and_renders(work, monkeypatch):
    own = [word for word in OVERRIDES if not word.startswith(("model=", "kimg="))]
    train(monkeypatch, "data=data", "model=looping", *own, "kimg=0.008", "imgsnap=null")
    (folder,) = Path("runs").iterdir()
    assert run_train.train(["outdir=runs", "resume_run=0", "kimg=0.016"]).resolve() == folder.resolve()
    content = load_snapshot(folder)
    assert content["progress"]["cur_nimg"] == 16
    assert content["generator"]["class"] == NAME and content["generator"]["config"]["periods"] == 1

    # The weights fit a generator that does not repeat.
    notes = plan([f"resume={folder}", "outdir=others", "data=data", *OVERRIDES]).notes
    expected = (
        f"resume: the snapshot's generator is '{NAME}', here it is that of this program: its weights fit, but may"
    )
    assert any(note.startswith(expected) for note in notes)

    # A command that was not asked to run the class stops; nothing is imported.
    del sys.modules["my_models"]
    with pytest.raises(UserError, match="GENERATOR_CLASS to this name .* give generator_class") as caught:
        load_average_generator(folder)
    assert NAME in str(caught.value) and "\n" not in str(caught.value) and "my_models" not in sys.modules
    monkeypatch.setenv("GENERATOR_CLASS", "os.path")
    with pytest.raises(UserError, match=f"{NAME}.* set the environment variable GENERATOR_CLASS to this name"):
        load_average_generator(folder)
    assert "my_models" not in sys.modules

    monkeypatch.setenv("GENERATOR_CLASS", NAME)
    generator = load_average_generator(folder)
    assert type(generator).__name__ == "LoopingGenerator"
    codes = seed_latents(0, 0, z_dim=8, motion_dim=8, background_dim=4)
    renderer = FrameRenderer(generator, generator.mapping(codes.z), z_motion=codes.z_motion, z_bg=codes.z_bg)
    front = generator.camera_prior.at()
    first, quarter, last = (renderer.render(time, front) for time in (0.0, 0.25, 1.0))
    torch.testing.assert_close(first, last, rtol=0, atol=1e-5)
    assert (first - quarter).abs().max() > 1e-4

    monkeypatch.delenv("GENERATOR_CLASS")
    assert type(load_average_generator(folder, generator_class=type(generator))) is type(generator)
    other = type("Other", (type(generator),), {"__module__": "my_models"})
    with pytest.raises(UserError) as caught:
        load_average_generator(folder, generator_class=other)
    assert str(caught.value) == (
        f"{folder} holds a generator of another class, {NAME}, than generator_class, my_models.Other."
    )


def test_a_class_of_a_script_is_loaded_from_its_module(work, monkeypatch):
    """While the script runs, its module is called __main__."""
    monkeypatch.setattr(sys, "path", [str(work), *sys.path])
    my_models = importlib.import_module("my_models")
    network = my_models.LoopingGenerator(**small_generator().config)
    monkeypatch.setattr(my_models.LoopingGenerator, "__module__", "__main__")
    (work / "run").mkdir()
    save_small_network(work / "run", network)
    VideoGenerator(network).save_pretrained(work / "model")
    monkeypatch.setattr(my_models.LoopingGenerator, "__module__", "my_models")
    assert load_snapshot(work / "run")["generator"]["class"] == "__main__.LoopingGenerator"
    options = {"resume": work / "run", "freezed": 0, "aug": "noaug", "p": None, "spec": {"ramp": None}}
    parts = [network, load_discriminators(work / "run").network]
    assert check_snapshot(options, *parts, given=[]) == []
    (note,) = check_snapshot(options, my_models.ShellGenerator(**small_generator().config), parts[1], given=[])
    assert note == (
        "resume: the snapshot's generator is '__main__.LoopingGenerator', here it is 'my_models.ShellGenerator': its "
        "weights fit, but may mean something else."
    )
    for folder in (work / "run", work / "model"):
        with pytest.raises(UserError, match=r"GENERATOR_CLASS to this name \(with the name of its module in place of"):
            load_generator(folder)
        loaded = load_generator(folder, generator_class=my_models.LoopingGenerator)
        assert type(loaded.network) is my_models.LoopingGenerator
        with pytest.raises(
            UserError, match="another class, __main__.LoopingGenerator, than generator_class, my_models."
        ):
            load_generator(folder, generator_class=my_models.ShellGenerator)
        monkeypatch.setenv("GENERATOR_CLASS", NAME)
        assert type(load_average_generator(folder)) is my_models.LoopingGenerator
        monkeypatch.delenv("GENERATOR_CLASS")


def test_the_commands_of_a_card_ask_for_an_own_class(work):
    """The lines of Python are run."""
    network_class(NAME)
    model = VideoGenerator(sys.modules["my_models"].LoopingGenerator(**small_generator().config).eval())
    model.save_pretrained("model")
    model.save_card("model", "model")
    card = Path("model/README.md").read_text(encoding="utf-8")
    needed = "Its class, `LoopingGenerator` of the module `my_models`, is not part of the package: it is needed, too."
    assert f"\n{needed}\n" in card
    assert f"\nGENERATOR_CLASS={NAME} video3d-generate --outdir out --network_pkl model --seeds 0-3\n" in card
    found = {}
    exec(card.partition("```python\n")[2].partition("```")[0], found)
    assert type(found["G"].network) is found["LoopingGenerator"] and found["video"].shape[1:] == (3, 32, 32)
    assert "from MODULE import Own\n" in model_card("a", about={}, resolution=64, network_class="__main__.Own")


def test_own_priors_are_rendered_as_they_are_trained(work):
    """And saved: a folder names the class, which builds them again."""
    network_class("my_models.ShellGenerator")
    my_models = sys.modules["my_models"]
    network = small_generator()
    generator = my_models.ShellGenerator(**network.config).eval()
    generator.load_state_dict(network.state_dict())
    codes = seed_latents(0, 0, **SIZES)
    ws, parts = generator.mapping(codes.z), {"z_motion": codes.z_motion, "z_bg": codes.z_bg}
    front, time = generator.camera_prior.at(), torch.tensor([[0.5]])
    trained = generator.synthesize(ws, times=time, cameras=front, **parts)
    without = network.synthesize(ws, times=time, cameras=front, **parts)
    rendered = FrameRenderer(generator, ws, **parts).output(0.5, front)
    torch.testing.assert_close(rendered.opacity, trained.opacity, rtol=0, atol=1e-5)
    assert (trained.opacity - without.opacity).abs().max() > 0.1

    sides = camera_angles(generator.camera_prior.sample(8, RandomStream(0)))[:, 0]
    assert set(sides.tolist()) == set(torch.tensor(generator.camera_prior.yaw).tolist())
    far = my_models.TwoSided(radius=(2, 2), pitch=(1.0, 1.2)).sample(3, RandomStream(0))
    torch.testing.assert_close(camera_angles(far)[:, 1], torch.full([3], 1.1))
    torch.testing.assert_close(far.cam2world[:, :3, 3].norm(dim=1), torch.full([3], 2.0))
    VideoGenerator(generator).save_pretrained("model")
    again = load_generator("model", generator_class=my_models.ShellGenerator).network
    assert isinstance(again.foreground.density_prior, my_models.Shell)
    assert isinstance(again.camera_prior, my_models.TwoSided)


def test_own_field_is_rendered_as_it_is_trained(work):
    """It is built from the same arguments as this program's, those of the generator (`static`) left out."""
    network_class("my_models.BallGenerator")
    network = small_generator(foreground={"static": "none", "density_bias": 5.0})
    generator = sys.modules["my_models"].BallGenerator(**network.config).eval()
    generator.load_state_dict(network.state_dict())
    codes = seed_latents(0, 0, **SIZES)
    ws, parts = generator.mapping(codes.z), {"z_motion": codes.z_motion, "z_bg": codes.z_bg}
    camera, time = generator.camera_prior.at(), torch.tensor([[0.5]])
    trained = generator.synthesize(ws, times=time, cameras=camera, **parts)
    rendered = FrameRenderer(generator, ws, **parts).output(0.5, camera)
    torch.testing.assert_close(rendered.opacity, trained.opacity, rtol=0, atol=1e-5)
    without = network.synthesize(ws, times=time, cameras=camera, **parts)
    assert (trained.opacity[..., 0, 0] == 0).all() and (without.opacity[..., 0, 0] > 0.5).all()  # a corner
    assert trained.opacity.max() > 0.5


NO_RANGES = """

class Turntable:
    def __init__(self):
        self.prior = CameraPrior()
        self.at, self.sample, self.depth_offsets = self.prior.at, self.prior.sample, self.prior.depth_offsets


class Turned(Generator):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.camera_prior = Turntable()
"""


def test_a_prior_without_ranges_trains(work):
    """With previews and metrics; camera labels are in units of the ranges."""
    with open("my_models.py", "a") as file:
        file.write(NO_RANGES)
    cameras = [[f"split/video_{video}", [0.1, 1.5]] for video in range(5)]
    Path("data", "dataset.json").write_text(json.dumps({"cameras": cameras}))
    words = ["outdir=runs", "data=data", *OVERRIDES, "model.generator._target_=my_models.Turned", "kimg=0.004"]
    folder = run_train.train([*words, "previews.images=1", "previews.videos=1", "metrics=flatness32_1v"])
    videos = {path.name for path in (folder / "videos" / "000000").iterdir()}
    assert videos == {"front_seed0000.mp4", "rotation_camera_yaw_seed0000.mp4"}
    assert (folder / "metric-flatness32_1v.jsonl").exists()

    with pytest.raises(UserError) as caught:
        plan([*words, "camera_condition=true"])
    assert str(caught.value) == (
        "camera_condition=true gives the discriminators angles in units of the ranges of yaw and pitch, which the "
        "camera_prior of model.generator lacks; add them, or leave camera_condition= out."
    )


OWN_D = "my_models.PairDiscriminator"
SELECTED = [f"model.discriminator._target_={OWN_D}", "+model.discriminator.width=16"]


def test_own_discriminator_trains_resumes_and_loads(work, monkeypatch):
    own = [word for word in OVERRIDES if not word.startswith("kimg=")]
    train(monkeypatch, "data=data", *own, *SELECTED, "kimg=0.008", "imgsnap=null", "fp32=true")
    (folder,) = Path("runs").iterdir()
    train(monkeypatch, "resume_run=0", "kimg=0.016", *SELECTED)
    entry = load_snapshot(folder)["discriminator"]
    assert entry["class"] == OWN_D and entry["config"] == {"resolution": 16, "c_dim": 0, "width": 16}

    del sys.modules["my_models"]
    with pytest.raises(UserError, match="DISCRIMINATOR_CLASS to this name .* give discriminator_class"):
        load_discriminators(folder)
    assert "my_models" not in sys.modules
    network_class(OWN_D)
    my_models = sys.modules["my_models"]
    D = load_discriminators(folder, discriminator_class=my_models.PairDiscriminator)
    pairs, dt = torch.rand(2, 2, 3, 16, 16), torch.rand(2)
    logits = D(pairs, dt)
    assert logits.video.shape == (2, 1) and logits.image is None
    load_generator(folder).save_pretrained("model")
    D.save_pretrained("model")
    with pytest.raises(UserError, match="DISCRIMINATOR_CLASS"):
        load_discriminators("model")
    monkeypatch.setenv("DISCRIMINATOR_CLASS", OWN_D)
    assert torch.equal(load_discriminators("model")(pairs, dt).video, logits.video)
    description = "\n".join(describe_snapshot("model", load_snapshot("model")))
    assert f"class       discriminator {OWN_D}" in description and "width: 16" in description

    train(monkeypatch, "data=data", *own, *SELECTED, "kimg=0.004", "resume=model", "imgsnap=null")
    assert len(list(Path("runs").iterdir())) == 2

    with pytest.raises(UserError, match="does not fit the discriminators") as caught:
        plan(["outdir=runs", "data=data", *own, f"resume={folder}"])
    hint = "These options differ: it was trained with model.discriminator._target_="
    assert str(caught.value).endswith(f"{hint}{OWN_D}")
    Path("standard").mkdir()
    save_small_network(Path("standard"), load_average_generator(folder))
    with pytest.raises(UserError, match="does not fit") as caught:
        plan(["outdir=runs", "data=data", *own, *SELECTED, "resume=standard"])
    assert str(caught.value).endswith(f"{hint}training.networks.discriminator.TimeAwareDiscriminators")

    # How many layers can be frozen is said by the class.
    with open("my_models.py", "a") as file:
        file.write("\n\nclass Deep(PairDiscriminator):\n    def freeze(self, num_layers):\n        pass\n")
    del sys.modules["my_models"]
    frozen = ["outdir=runs", "data=data", *own, SELECTED[1], f"resume={folder}", "freezed=20"]
    assert plan([*frozen, "model.discriminator._target_=my_models.Deep"]).options["freezed"] == 20
    with pytest.raises(UserError, match=r"^model\.discriminator: this discriminator has no layers to freeze\.$"):
        plan([*frozen, SELECTED[0]])


def test_a_class_that_takes_the_arguments_of_another_is_not_loaded_as_that(tmp_path):
    """Its tensors would fit, and its logits be silently different."""

    class Negative(TimeAwareDiscriminators):
        def video_logits(self, frames, plane, c):
            return -super().video_logits(frames, plane, c)

    network = Negative(resolution=16, channel_max=8)
    generator = small_generator()
    save_snapshot(
        tmp_path,
        generator=generator,
        generator_ema=generator,
        discriminator=network,
        augment=None,
        dataset={},
        progress={"cur_nimg": 0},
    )
    with pytest.raises(UserError, match="discriminator of another class"):
        load_discriminators(tmp_path)
    pairs, dt = torch.rand(2, 2, 3, 16, 16), torch.rand(2)
    found = load_discriminators(tmp_path, discriminator_class=Negative)(pairs, dt)
    standard = TimeAwareDiscriminators(**network.config)
    standard.load_state_dict(network.state_dict())
    assert torch.equal(found.video, -standard.video_logits(pairs, time_plane(pairs, dt), None))
    with pytest.raises(ValueError, match="discriminator_class must be a class, got str"):
        load_discriminators(tmp_path, discriminator_class="Negative")


def test_arguments_that_an_own_class_does_not_have(work):
    """Those of conf/ are left out; one that the command gives would be ignored, and is an error."""
    start = ["outdir=runs", "data=data", *OVERRIDES, *SELECTED]
    made = plan([*start, "dry_run=true"])
    assert made.discriminator.config["width"] == 16
    lines = size_report(made.generator, made.discriminator, options=made.options, processes=1, snapshots=1)
    assert "memory of a process: no estimate for a network of your own class" in lines
    with pytest.raises(
        UserError, match=r"^model\.discriminator\.channel_max: PairDiscriminator has no argument channel_max"
    ):
        plan([*start, "model.discriminator.channel_max=5"])
    with pytest.raises(UserError, match=r"^model\.discriminator: .*hair"):
        plan([*start, "+model.discriminator.hair=1"])


def test_an_argument_that_snapshots_would_lose_is_named(work):
    """They rebuild a network from its `config`: without, it would be rendered with the argument's default."""
    text = Path("my_models.py").read_text()
    Path("my_models.py").write_text("".join(line for line in text.splitlines(True) if "self.config" not in line))
    message = r"^model\.generator: LoopingGenerator leaves periods out .* add self\.config\[.periods.\] = periods"
    with pytest.raises(UserError, match=message):
        plan(["outdir=runs", "data=data", "model=looping", *OVERRIDES[1:]])


def test_an_option_of_a_field_that_snapshots_would_lose_is_named(work):
    """Also one that they would hold with another value; with the page's lines it is theirs."""
    option = ["model.generator._target_=my_models.BallGenerator", "+model.generator.foreground.extent=0.1"]
    words = ["outdir=runs", "data=data", *OVERRIDES, *option]
    generator = plan(words).generator
    assert generator.foreground.extent == generator.config["foreground"]["extent"] == 0.1
    assert type(generator)(**generator.config).foreground.extent == 0.1

    line, text = 'self.config["foreground"]["extent"] = extent', Path("my_models.py").read_text()
    advice = (
        "its config, from which snapshots rebuild it: add self.config['foreground']['extent'] = "
        "foreground['extent'] to its constructor."
    )
    for instead, problem in (("pass", "leaves extent out of"), (f"{line} / 2", "has extent=0.05 instead of 0.1 in")):
        Path("my_models.py").write_text(text.replace(line, instead))
        del sys.modules["my_models"]
        with pytest.raises(UserError) as caught:
            plan(words)
        assert str(caught.value) == f"model.generator: BallGenerator {problem} {advice}"


SAME = """

class Filtered(Generator):
    def __init__(self, *, motion, **arguments):
        super().__init__(motion={key: motion[key] for key in ("width", "combine", "frequency")}, **arguments)


class Normalised(Generator):
    def __init__(self, *, periods=2, **arguments):
        super().__init__(**arguments)
        self.config["periods"] = self.periods = max(periods, 1)


class WeightNormed(Normalised):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        nn.utils.parametrizations.weight_norm(self.foreground.layers[0].affine)
"""


@pytest.mark.parametrize(
    "words",
    [["Filtered"], ["Normalised", "+model.generator.periods=0"], ["WeightNormed", "+model.generator.periods=0"]],
)
def test_arguments_that_rebuild_the_same_network_need_not_be_kept(work, words):
    with open("my_models.py", "a") as file:
        file.write(SAME)
    name, *option = words
    made = plan(["outdir=runs", "data=data", *OVERRIDES, f"model.generator._target_=my_models.{name}", *option])
    assert type(made.generator).__name__ == name and made.generator.config.get("periods", 1) == 1


FREE = """

class Bare(nn.Module):
    def __init__(self, *, resolution, c_dim):
        super().__init__()
        self.config, self.resolution = {"resolution": resolution, "c_dim": c_dim}, resolution
        self.weight = nn.Parameter(torch.zeros([]))


class Free(Bare):
    def __init__(self, *, resolution, c_dim, **arguments):
        super().__init__(resolution=resolution, c_dim=c_dim)
        self.config.update(arguments)
"""


@pytest.fixture
def free(work) -> list[str]:
    """The command of a training whose generator has none of the parts of this program's; the data have cameras."""
    with open("my_models.py", "a") as file:
        file.write(FREE)
    cameras = [[f"split/video_{video}", [0.1, 1.5]] for video in range(5)]
    Path("data", "dataset.json").write_text(json.dumps({"cameras": cameras}))
    return ["outdir=runs", "data=data", *OVERRIDES, "model.generator._target_=my_models.Free"]


@pytest.mark.parametrize(
    "words",
    [
        ["model.generator.camera.radius=2.7"],
        ["model.generator.camera.radius=[2.7]"],
        ["model.generator.camera.fov=wide"],
        ["model.generator.camera.yaw=2.7", "model.generator.camera.distribution=uniform"],
        ["model.generator.camera=null", "camera_condition=true"],
        ["model.generator.rendering.near=null"],
        ["model.generator.upsampler=null", "fp32=true"],
        ["model.generator.upsampler=5", "precision=bf16"],
        ["model.generator.upsampler.fp16_min_resolution=all", "precision=bf16"],
    ],
)
def test_options_that_mean_something_else_to_an_own_class(free, words):
    """They are not judged as those of this program's generator, whatever their form."""
    made = plan([*free, *words])
    assert [note for note in made.notes if "model.generator" in note] == []
    for word in words:
        if word.startswith("model.generator.upsampler="):
            assert made.generator.config["upsampler"] == made.options["model"]["generator"]["upsampler"]


def test_cameras_and_depths_are_those_of_the_generator_that_was_built(work):
    """An own class may replace the priors that the options describe."""
    near = "model.generator.rendering.near=0.95"
    with open("my_models.py", "a") as file:
        file.write(
            "\n\nclass Farther(Generator):\n    def __init__(self, **arguments):\n"
            "        super().__init__(**arguments)\n        self.camera_prior = CameraPrior(radius=(2, 2.5), fov=0.5)\n"
        )
    words = ["outdir=runs", "data=data", *OVERRIDES, near, "model.generator._target_=my_models.Farther"]
    assert plan(words).notes == [
        "model.generator.camera.radius=[2,2.5]: rays are sampled from model.generator.rendering.near=0.95 to far=1.2, "
        "which leaves out the origin, where cameras look and a density prior lies.",
        "model.generator.camera.fov=0.5 is tiny: it is in degrees, other angles in radians.",
    ]


SAMPLED = """

class Humps(CameraPrior):
    def sample(self, n, stream):
        return self.at_angles(torch.where(stream.uniform("camera/side", [n]) < 0.5, -0.6, 0.6), math.pi / 2)


class Narrow(Generator):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.camera_prior = CameraPrior(yaw=(0.4, 0.5))


class HumpedNarrow(Narrow):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.camera_prior = Humps(yaw=(0.4, 0.5))
"""


def test_ranges_of_a_prior_that_samples_otherwise_are_not_judged(work, monkeypatch, tmp_path):
    """They neither say which cameras the data may have, nor which mirrored views there are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with open("my_models.py", "a") as file:
        file.write(SAMPLED)
    cameras = [[f"split/video_{video}", [0.6 * (-1) ** video, math.pi / 2]] for video in range(5)]
    Path("data", "dataset.json").write_text(json.dumps({"cameras": cameras}))

    def noted(name, *words):
        words = ["outdir=runs", *OVERRIDES, f"model.generator._target_=my_models.{name}", *words]
        return [note for note in plan(words).notes if "camera" in note]

    for words, start in (
        ("mirror=true", "mirror=true: 100% of the mirrored views lie outside of what model.generator.camera.yaw="),
        (
            "camera_condition=true",
            "The data's cameras lie outside of what model.generator.camera samples (gaussian): yaw",
        ),
    ):
        (note,) = noted("Narrow", "data=data", words)
        assert note.startswith(start) and noted("HumpedNarrow", "data=data", words) == []
    assert noted("Narrow", "dry_run=true") == []
    assert noted("HumpedNarrow", "dry_run=true") == [
        "No data= was given: the cameras of synthetic heads are sampled from the ranges of model.generator.camera, not "
        "by Humps as those of the generator."
    ]


def test_synthetic_heads_for_an_own_class(free, monkeypatch, tmp_path):
    """They have the cameras of the options, or the usual ones."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = [word for word in free if word != "data=data"] + ["dry_run=true"]
    assert plan([*words, "model.generator.camera=null"]).options["data"].startswith(str(tmp_path / "cache"))
    with pytest.raises(UserError) as caught:
        plan([*words, "model.generator.camera.radius=2.7"])
    same = "Synthetic heads have the same cameras: give data= for cameras of another kind."
    assert str(caught.value) == f"model.generator: camera.radius must be [low, high], got 2.7. {same}"
    with pytest.raises(UserError) as caught:
        plan([*words, "+model.generator.camera.hump=0.1"])
    unknown = "CameraPrior.__init__() got an unexpected keyword argument 'hump'"
    assert str(caught.value) == f"model.generator: {unknown}. {same}"


def test_a_snapshot_of_an_own_class_without_a_field(free):
    words = [word for word in free if not word.startswith("model.generator.")]  # it has no such options
    words.append("model.generator._target_=my_models.Bare")
    made = plan(words)
    generator = sys.modules["my_models"].Bare(**made.generator.config)
    discriminator = TimeAwareDiscriminators(**made.discriminator.config)
    networks = {"generator": generator, "generator_ema": generator, "discriminator": discriminator}
    Path("old").mkdir()
    save_snapshot("old", **networks, augment=None, dataset={}, progress={"cur_nimg": 0})
    assert plan([*words, "resume=old"]).notes == []


def test_memory_is_estimated_for_the_networks_of_this_program_only(work):
    """A derived class may compute something else."""
    with open("my_models.py", "a") as file:
        file.write("\n\nfrom training.networks.discriminator import TimeAwareDiscriminators\n")
        file.write("class Derived(TimeAwareDiscriminators):\n    pass\n")
    none = "memory of a process: no estimate for a network of your own class"
    own = "generator._target_=my_models.LoopingGenerator", "discriminator._target_=my_models.Derived"
    for words in ([], [f"model.{own[0]}"], [f"model.{own[1]}"]):
        made = plan(["outdir=runs", "data=data", *OVERRIDES, *words])
        lines = size_report(made.generator, made.discriminator, options=made.options, processes=1, snapshots=1)
        assert (none in lines) == bool(words)


SYNTHESES = """

class Negative(Generator):
    def synthesize(self, *arguments, **options):
        output = super().synthesize(*arguments, **options)
        output.image = -output.image
        return output


class Both(Negative):
    def upsample(self, *arguments, **options):
        return super().upsample(*arguments, **options)
"""


def test_a_synthesis_by_which_no_frame_is_rendered_is_a_note(work):
    """`synthesize` trains; frames are rendered by its steps."""
    with open("my_models.py", "a") as file:
        file.write(SYNTHESES)
    start = ["outdir=runs", "data=data", *OVERRIDES, "dry_run=true"]
    notes = {
        name: [note for note in plan([*start, f"model.generator._target_=my_models.{name}"]).notes if "synth" in note]
        for name in ("Negative", "Both", "LoopingGenerator")
    }
    expected = (
        "model.generator: Negative.synthesize is for losses only. Previews, metrics and videos are rendered by its "
        "steps (modulate, motion_vectors, condition, depth_offsets, pixels, upsample), of which it overrides none."
    )
    assert notes == {"Negative": [expected], "Both": [], "LoopingGenerator": []}


class Slower(Generator):
    """Its scenes are those of half the time."""

    def motion_vectors(self, ws, z_motion, times):
        return super().motion_vectors(ws, z_motion, times / 2)

    def condition(self, weights, *, times, **others):
        return super().condition(weights, times=times / 2, **others)


class Wrapped(nn.Module):
    """The same, not derived from `Generator`: steps, attributes of rendering, and nothing else."""

    SIZES = ("num_ws", "w_dim", "motion_dim", "background_dim")

    def __init__(self, generator):
        super().__init__()
        for name in ("synthesize", "background", "upsampler", "camera_prior", "settings", *self.SIZES, *STEPS):
            setattr(self, name, getattr(generator, name))


@pytest.mark.parametrize("wrapped", [False, True])
@torch.no_grad()
def test_own_motion_and_fields_are_those_of_all_frames_and_points(generator, wrapped):
    plain = generator
    own = Slower(**plain.config)
    own.load_state_dict(plain.state_dict())
    own = (Wrapped(own) if wrapped else own).eval()
    latents, camera = seed_latents(0, 0, **SIZES), plain.camera_prior.at()
    ws, codes = plain.mapping(latents.z), {"z_motion": latents.z_motion, "z_bg": latents.z_bg}
    points = torch.linspace(-0.05, 0.05, 12).unflatten(0, (4, 3))
    view = {"cam2world": camera.cam2world, "fov": camera.fov}

    def shown(generator, time):
        return {
            "synthesize": generator.synthesize(ws, times=torch.tensor([[time]]), cameras=camera, **codes).image,
            "frame": FrameRenderer(generator, ws, **codes).render(time, camera),
            "points": PointField(generator, ws, time=time, **codes).emission(points),
            "export": FrameFunction(generator)(ws, **codes, time=torch.tensor([time]), **view)[0],
        }

    expected, other = shown(plain, 0.4), shown(plain, 0.8)
    for name, values in shown(own, 0.8).items():
        assert torch.equal(values, expected[name]), name
        assert (values - other[name]).abs().max() > 1e-4, name


def test_a_class_that_does_not_exist_or_is_no_network_is_one_line(work):
    for name, message in (("my_models.Nothing", "there is no class"), ("os.getcwd", "is not a torch.nn.Module")):
        with pytest.raises(UserError, match=rf"^model\.generator: .*{message}"):
            plan(["outdir=runs", "data=data", *OVERRIDES, f"model.generator._target_={name}"])
    with pytest.raises(UserError, match="model.generator: .*hair"):
        plan(["outdir=runs", "data=data", "model=looping", *OVERRIDES[1:], "+model.generator.hair=1"])


def test_a_file_that_an_installed_package_does_not_read(work, monkeypatch):
    monkeypatch.setattr(config, "CONFIG_DIR", ROOT / "conf")
    Path("conf/model/looping.yaml").rename("conf/model/only_here.yaml")  # looping may be in the checkout
    expected = f" conf/model/only_here.yaml in this folder is not read; the files are in {ROOT / 'conf' / 'model'}."
    with pytest.raises(UserError, match=rf"^There is no model 'only_here' .*{re.escape(expected)}$"):
        plan(["outdir=runs", "data=data", "model=only_here"])
    with pytest.raises(UserError, match=r"^There is no model 'cats' [^/]*/model; choose from [^/]*$"):
        plan(["outdir=runs", "data=data", "model=cats"])
    [command] = re.findall(r"^`(model\.generator\._target_=\S+ \+\S+)`", PAGE, re.MULTILINE)
    options = plan(["outdir=runs", "data=data", *OVERRIDES, *command.split()]).options
    assert (options["model"]["generator"]["_target_"], options["model"]["generator"]["periods"]) == (NAME, 1)


def test_the_page_names_files_that_exist():
    named = re.findall(r"`((?:training|metrics|torch_utils|tests|conf|benchmarks)/[\w/.]+)`", PAGE)
    assert len(set(named)) > 12
    missing = [name for name in set(named) if not (ROOT / name).exists() and name != "conf/model/looping.yaml"]
    assert missing == []
