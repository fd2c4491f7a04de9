"""The files of conf/: every model builds with every schedule, and states the published values."""

import re
from pathlib import Path

import hydra
import pytest
import yaml
from hydra import compose, initialize
from hydra.core.global_hydra import GlobalHydra

from dnnlib import UserError
from training.augment.ada import PIPELINES
from training.launch.build import build_networks
from training.launch.config import CONFIG_DIR, compose_options, continued_options, hydra_override, plain_override
from training.launch.option_rules import NETWORK_RULES, RULES, check_values

MODELS, SPECS = (sorted(path.stem for path in (CONFIG_DIR / group).glob("[!_]*.yaml")) for group in ("model", "spec"))


def options(*words):
    return compose_options(["outdir=a", "data=b", *words])


def build(*words, c_dim=0):
    return build_networks(options(*words), c_dim=c_dim, device="meta")


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("model", MODELS)
def test_models_build(model, spec):
    words = [f"model={model}", f"spec={spec}"]
    composed = options(*words)
    check_values(composed)
    assert composed["names"] == {"model": model, "spec": spec}
    generator, discriminator = build(*words)
    assert generator.resolution == discriminator.resolution == composed["resolution"]
    # The configurations mention every argument, so that a user finds it and Hydra knows it. A class of the user's own
    # need not have those of `_base`.
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        own = {key: value for key, value in composed["model"][name].items() if key in network.config}
        assert own and own == {key: network.config[key] for key in own}


@pytest.mark.parametrize(
    "model, resolution, stride, fov, yaw, features, mode, directions, num_ws",
    [
        ("faceforensics", 256, 1, 18, 0.8, 256, "nn_cat", True, 17),
        ("mead", 256, 1, 12, 0.3, 64, "pixelshuffle", False, 17),
        ("taichi", 128, 4, 18, 0.8, 128, "nn_cat", True, 15),
    ],
)
def test_published_models(model, resolution, stride, fov, yaw, features, mode, directions, num_ws):
    words = [f"model=stylenerf_{model}", "spec=paper"]
    composed = options(*words)
    generator, discriminator = build(*words)
    assert (composed["resolution"], composed["frame_stride"]) == (resolution, stride)
    prior = generator.camera_prior
    assert (prior.fov, prior.yaw, prior.radius) == (fov, (-yaw, yaw), (1.0, 1.0))
    assert prior.pitch == pytest.approx((1.4158, 1.7258), abs=1e-4) and prior.distribution == "gaussian"
    assert generator.num_ws == num_ws
    assert (generator.z_dim, generator.motion_dim, generator.w_dim, generator.background_dim) == (512, 512, 512, 32)
    foreground = {
        "width": 128,
        "num_layers": 8,
        "position_frequencies": 10,
        "direction_frequencies": 4,
        "feature_dim": features,
        "view_directions": directions,
        "time_input": "none",
        "static": "none",
        "density_bias": 0,
        "density_prior": None,
        "density_ramp": None,
        "encoding": "octaves",
    }
    assert {name: generator.config["foreground"][name] for name in foreground} == foreground
    assert generator.config["background"]["width"] == 64 and generator.config["background"]["num_layers"] == 4
    assert generator.config["upsampler"]["mode"] == mode
    assert generator.config["upsampler"]["channel_max"] == (1024 if model == "mead" else 512)
    mapping = {"num_layers": 8, "lr_multiplier": 0.01, "w_avg_beta": 0.995}
    assert {name: generator.config["mapping"][name] for name in mapping} == mapping
    settings = generator.settings
    assert (settings.resolution, settings.num_samples, settings.num_importance, settings.num_background) == (
        32,
        14,
        14,
        4,
    )
    assert (settings.near, settings.far, settings.background_start, settings.path_lattice) == (0.88, 1.12, 0.5, 16)
    assert settings.sampling_multiplier == 1
    assert discriminator.image is not None and discriminator.config["channel_max"] == 512
    assert discriminator.config["mbstd_group"] == 8 and discriminator.config["fp16_resolutions"] == 4


def test_the_published_sizes():
    """Weights of the published networks, as in the original's checkpoints."""
    count = {
        model: [
            sum(p.numel() for p in network.parameters()) for network in build(f"model=stylenerf_{model}", "spec=paper")
        ]
        for model in ("faceforensics", "mead", "taichi")
    }
    assert count == {
        "faceforensics": [5_369_837, 55_337_730],
        "mead": [5_302_957, 55_337_730],
        "taichi": [4_884_938, 54_450_690],
    }


def test_the_sky_has_a_wide_background():
    sky, faces = (build(f"model=stylenerf_{model}", "spec=paper")[0] for model in ("sky", "faceforensics"))
    assert sky.resolution == 256 and sky.config["foreground"] == faces.config["foreground"]
    assert sky.config["upsampler"] == faces.config["upsampler"]
    assert sky.config["background"]["width"] == sky.config["foreground"]["width"] == 128
    assert sky.settings.num_background == 8


def test_the_published_schedule():
    spec = options("spec=paper")["spec"]
    expected = {
        "ref_gpus": 4, "kimg": 25_000, "mb": 32, "mbstd": 8, "microbatch": 8, "fmaps": 1.0, "map": 8,
        "lrate": 0.0025, "lrate_decay": None, "betas": [0, 0.99], "eps": 1e-8, "ema": 20, "ramp": None,
        "gamma": 0.5, "d_reg_interval": 16,
        "pl_weight": 2, "pl_decay": 0.01, "pl_batch_shrink": 2, "g_reg_interval": 4, "style_mixing": 0.9,
        "image_weight": 1, "path_weight": 1, "kimg_per_tick": 4, "imgsnap": 25, "snap": 50,
        "distortion_weight": 0, "diffaugment": "color,translation", "nonfinite_limit": 100,
    }  # fmt: skip
    assert spec == expected


@pytest.mark.parametrize("resolution", [32, 64])
def test_the_small_model_is_small(resolution):
    generator, discriminator = build(f"resolution={resolution}")
    assert sum(p.numel() for p in generator.parameters()) < 500_000
    assert sum(p.numel() for p in discriminator.parameters()) < 4_000_000


def test_options_follow_the_spec():
    composed = options("spec=paper", "model=stylenerf_taichi")
    assert (composed["kimg"], composed["snap"], composed["imgsnap"], composed["gpus"]) == (25_000, 50, 25, 4)
    assert (composed["resolution"], composed["frame_stride"]) == (128, 4)
    composed = options("spec=paper", "spec.mbstd=4", "spec.ref_gpus=2", "spec.fmaps=0.5", "spec.map=2", "nhwc=false")
    generator, discriminator = composed["model"]["generator"], composed["model"]["discriminator"]
    assert composed["spec"]["microbatch"] == 4 and composed["gpus"] == 2
    assert generator["upsampler"]["channel_base"] == discriminator["channel_base"] == 0.5
    assert generator["mapping"]["num_layers"] == 2
    assert discriminator["mbstd_group"] == 4 and discriminator["channels_last"] is False


def test_full_precision_reaches_the_networks():
    half = build("model=stylenerf_faceforensics", "spec=paper")
    full = build("model=stylenerf_faceforensics", "spec=paper", "fp32=true")
    assert half[0].config["upsampler"]["fp16_min_resolution"] == 128
    assert full[0].config["upsampler"]["fp16_min_resolution"] is None
    assert full[1].config["fp16_resolutions"] == 0


def test_labels_reach_the_networks():
    generator, discriminator = build(c_dim=3)
    assert generator.c_dim == discriminator.c_dim == 3


def test_ablations_are_options():
    generator, discriminator = build(
        "model.generator.motion=null", "model.generator.background=null", "model.discriminator.image=false",
        "model.generator.foreground.time_input=encoded", "model.generator.foreground.static=mask",
    )  # fmt: skip
    assert generator.motion is None and generator.background is None and discriminator.image is None


def test_every_option_is_checked_and_explained():
    """No option without a rule, no rule without an option, a comment on every line of conf/config.yaml."""
    composed = options()

    def leaves(tree, prefix=""):
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{key}.")
            else:
                yield prefix + key

    names = {key for key in leaves(composed) if not key.startswith(("model.", "names."))}
    assert names == set(RULES)
    for line in (CONFIG_DIR / "config.yaml").read_text().splitlines():
        if re.match(r" *\w+:", line) and not line.startswith(("defaults:", "previews:")):
            assert "#" in line, line


def test_every_pipeline_of_augpipe_is_explained():
    page = (Path(__file__).resolve().parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    assert [name for name in PIPELINES if f"`{name}`" not in page] == []


def test_an_option_without_a_rule_is_not_ignored():
    """A new one of conf/, or one of a run of a later version. Users may name further files of extractors."""
    composed = options("detectors.videomae=a.pt")
    check_values(composed)
    composed["spec"]["depth_tv_weight"] = -5
    with pytest.raises(
        UserError, match=r"^There is no option spec\.depth_tv_weight .* RULES in training/launch/option_"
    ):
        check_values(composed)


@pytest.mark.parametrize("name", ["nframes", "frame_stride", "spec.mb", "model.generator.z_dim", "snap"])
@pytest.mark.parametrize("digits", [20, 400])
def test_integers_that_overflow_are_refused(name, digits):
    got = {20: r"1e\+20", 400: "one of more than 300 digits"}[digits]
    with pytest.raises(UserError, match=rf"^{name} is too large: use at most 2147483647, got {got}\.$"):
        check_values(options(f"{name}=1{'0' * digits}"))


@pytest.mark.parametrize(
    "word, message",
    [
        ("keep={a: 1}", "keep must be an integer of at least 1 or null, got {'a': 1}."),
        ("previews.images={a: 1}", "previews.images must be an integer of at least 1, got {'a': 1}."),
        ("seed={}", "seed must be an integer of at least 0 and at most 9223372036854775807, got {}."),
        ("spec.gamma={}", "spec.gamma must be a number of at least 0, got {}."),
        ("spec.ref_gpus={a: 1}", "spec.ref_gpus must be an integer of at least 1, got {'a': 1}."),
        ("model.resolution={}", "model.resolution must be an integer of at least 8, got {}."),
        ("spec.eps=1e-300", "spec.eps must be a number of at least 1e-37, got 1e-300."),  # 0 in float32
        (
            "model.discriminator._target_=[[tensorboard]]",
            "model.discriminator._target_ must be a string, got [['tensorboard']].",
        ),
    ],
)
def test_values_that_an_option_cannot_have_are_named_with_it(word, message):
    with pytest.raises(UserError) as error:
        check_values(options(word))
    assert str(error.value) == message


def test_numbers_that_no_float_holds_are_refused():
    with pytest.raises(UserError, match="^kimg must be a number of at least 0.001 and at most 1000000000, got 1000"):
        check_values(options(f"kimg=1{'0' * 400}"))


def test_an_entry_of_a_model_that_nothing_reads_is_not_ignored():
    composed = options()
    composed["model"]["frame_strid"] = 4
    with pytest.raises(UserError, match=r"^There is no option model\.frame_strid in this version"):
        check_values(composed)


def test_every_option_of_the_schedule_is_used():
    """Each is read where a run is built or planned, or other options refer to it: none is checked and then ignored."""
    folder = CONFIG_DIR.parent / "training" / "launch"
    tables = ("option_rules.py", "idle_options.py")
    code = "".join(path.read_text() for path in folder.glob("*.py") if path.name not in tables)
    files = "".join(path.read_text() for path in CONFIG_DIR.rglob("*.yaml"))
    unused = [
        name
        for name in options("spec=paper")["spec"]
        if f'spec["{name}"]' not in code and f'["spec"]["{name}"]' not in code and f"${{spec.{name}}}" not in files
    ]
    assert unused == []


def test_files_hold_no_duplicate_of_their_base():
    """A model's file names only what differs from the base."""
    base = yaml.safe_load((CONFIG_DIR / "model/_base.yaml").read_text())

    def same(tree, reference):
        for key, value in tree.items():
            if key == "defaults":
                continue
            if isinstance(value, dict) and reference.get(key) is not None:
                yield from same(value, reference[key])
            elif key in reference and reference[key] == value:  # a class of the user's own has further ones
                yield key

    for path in Path(CONFIG_DIR / "model").glob("[!_]*.yaml"):
        assert list(same(yaml.safe_load(path.read_text()), base)) == [], path


# ----------------------------------------------------------------------------------------------------------------------
# The words of the command line


@pytest.mark.parametrize(
    "value",
    ["/a b/c=d,e", "it's", "x[1]{y}(z)", "back\\", "back\\'quote", "a#b:c;d", "ünï", "12", "~/x", "true", "a$b",
     "/a/${b}", "${", "a\\${b}", "${oc.env:HOME}\\", "${a${b}}", "'x", "'a' and 'b'", '"x', "???", " a ", "a\nb", "+x",
     "{a:b}", "[1,2]", "choice(a,b)"],
)  # fmt: skip
def test_paths_are_taken_as_typed(value):
    keys = ("outdir", "data", "resume", "resume_run", "cache_metrics_dir", "diffaugment")
    networks = ("i3d", "inception", "identity")
    words = [f"{key}={value}" for key in keys] + [f"detectors.{network}={value}" for network in networks]
    composed = compose_options(words)
    assert {key: composed[key] for key in keys} == dict.fromkeys(keys, value)
    assert {network: composed["detectors"][network] for network in networks} == dict.fromkeys(networks, value)
    for sweep in (False, True):  # as Hydra hands the words of a job on
        if not (sweep and value.startswith("choice")):
            assert plain_override(hydra_override(f"data={value}", sweep=sweep)) == f"data={value}"


def test_quotes_around_a_path_are_hydra_s():
    assert options("outdir='a, ${b}'")["outdir"] == options('outdir="a, ${b}"')["outdir"] == "a, ${b}"
    assert plain_override(hydra_override("outdir='a, ${b}'")) == "outdir=a, ${b}"


def test_a_program_that_uses_hydra_itself():
    """Its own options can be composed before, and afterwards as before."""
    with initialize(config_path=None, version_base="1.2"):
        assert compose_options(["outdir=a"])["outdir"] == "a"
        with pytest.raises(UserError, match="There is no option 'nonsense'"):
            compose_options(["nonsense=1"])
        assert compose(overrides=["+own=2"]) == {"own": 2}
        assert str(hydra.version.getbase()) == "1.2"
    assert not GlobalHydra.instance().is_initialized()


def test_texts_and_lists():
    assert options("diffaugment=color,cutout")["diffaugment"] == "color,cutout"
    assert options("diffaugment=null")["diffaugment"] is None
    assert options("spec=small")["diffaugment"] == "translation"
    assert options("spec=paper")["diffaugment"] == "color,translation"
    assert options("metrics=a,b")["metrics"] == options("metrics=[a,b]")["metrics"] == ["a", "b"]
    assert options("resume_run=3")["resume_run"] == "3"


@pytest.mark.parametrize(
    "word, message",
    [
        ("nframse=3", "There is no option 'nframse'; did you mean nframes?"),
        ("mb=3", "There is no option 'mb'; did you mean spec.mb?"),
        ("fov=12", "There is no option 'fov'; did you mean model.generator.camera.fov?"),
        ("spec.mb.x=3", "There is no option 'spec.mb.x'"),
        ("+surprise=3", "There is no option 'surprise'"),
        ("+spec.surprise=3", "There is no option 'spec.surprise'"),
        ("+mirror=true", "'+mirror': only arguments of a network may be added with '+'; write mirror=VALUE."),
        ("++spec.mb=3", "'+spec.mb': only arguments of a network may be added with '+'; write spec.mb=VALUE."),
        ("hydra.run.dir=x", "There is no option 'hydra.run.dir'"),
        ("~spec.mb", "'~spec.mb' is not an option; write options as name=value"),
        ("outdir", "'outdir' is not an option"),
        ("--multirun", "'--multirun' is not an option"),
        (
            "model=stylenerf_cats",
            f"There is no model 'stylenerf_cats' in conf/model; choose from {MODELS[0]},",
        ),
        ("model=_base", "There is no model '_base'"),
        ("spec=", f"There is no spec '' in conf/spec; choose from {', '.join(SPECS)}."),
        ("kimg=1,2", "Cannot read the option 'kimg=1,2': it has several values; add -m to train once with each"),
        ("outdir=/a/\udcff", "outdir=/a/?: this is not valid UTF-8"),
        ("gpus=[", "Cannot read the option 'gpus=['"),
        ("kimg=${nothing}", "Cannot read the option 'kimg=${nothing}'"),
    ],
)
def test_words_that_are_no_options(word, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        compose_options([word])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "word, message",
    [
        ("model.discriminator.channel_max=nan", "model.discriminator.channel_max must be a finite number, got nan."),
        ("model.generator.camera.radius=inf", "model.generator.camera.radius must be a finite number, got inf."),
        ("model.generator.camera.yaw=[0,1e999]", "model.generator.camera.yaw[1] must be a finite number, got inf."),
        ("+model.generator.upsampler.surprise=nan", "surprise must be a finite number, got nan."),
        ("spec.lrate_decay=0", "spec.lrate_decay must be a number above 0 or null, got 0."),
        ("spec.lrate=nan", "spec.lrate must be a number above 0, got nan."),
        ("spec.betas=[0,nan]", "spec.betas must be two numbers"),
        ("kimg=inf", "kimg must be a number of at least 0.001 and at most 1000000000, got inf."),
        ("kimg=0.0005", "kimg must be a number of at least 0.001 and at most 1000000000, got 0.0005."),
        ("spec.kimg_per_tick=1e308", "spec.kimg_per_tick must be a number above 0 and at most 1000000000, got 1e+308."),
        ("timeout=1e300", "timeout must be a number above 0 and at most 1000000, got 1e+300."),
    ],
)
def test_numbers_are_finite(word, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check_values(options(word))


@pytest.mark.parametrize(
    "word, message",
    [
        ("generator.mapping.num_layers=0", "must be an integer of at least 1, got 0."),
        ("generator.mapping.w_avg_beta=null", "must be a number of at least 0 and at most 1, got None."),
        ("generator.upsampler.conv_clamp=-1", "must be a number above 0 or null, got -1."),
        ("generator.upsampler.magnitude_beta=2", "must be a number of at least 0 and at most 1, got 2."),
        ("generator.foreground.position_frequencies=0", "must be an integer of at least 1, got 0."),
        ("generator.background.num_layers=0", "must be an integer of at least 1, got 0."),
        ("generator.rendering.num_samples=14.5", "must be an integer of at least 3, got 14.5."),
        ("generator.rendering.sampling_multiplier=0", "must be an integer of at least 1, got 0."),
        ("generator.rendering.background_start=-0.5", "must be a number above 0 and at most 1, got -0.5."),
        ("generator.rendering.background_start=2", "must be a number above 0 and at most 1, got 2."),
        ("generator.rendering.path_lattice=-4", "must be an integer of at least 1, got -4."),
        (
            "generator.camera.yaw=[-45,45]",
            "must be [low,high] in radians, each of at least -12.5664 and at most 12.5664",
        ),
        ("generator.camera.pitch=[80,100]", "must be [low,high] in radians, each of at least -12.5664 and at most"),
        ("generator.camera.radius=[0,1]", "must be [low,high] in scene units, each above 0, got [0, 1]."),
        ("generator.camera.radius=1", "must be [low,high] in scene units, each above 0, got 1."),
        ("generator.rendering=null", "must be a group of options like {resolution: …}, got None."),
        ("generator=null", "must be a group of options like {_target_: …}, got None."),
        ("discriminator.conv_clamp=0", "must be a number above 0 or null, got 0."),
        ("discriminator.mbstd_group=2.0", "must be an integer of at least 1, got 2.0."),
        ("discriminator.image=null", "must be true or false, got None."),
    ],
)
def test_arguments_of_networks_are_checked(word, message):
    """Constructors accept these values unchecked, and fail or compute nonsense when they are used."""
    name = word.partition("=")[0]
    with pytest.raises(UserError, match=re.escape(f"model.{name} {message}")):
        check_values(options(f"model.{word}"))


def test_the_rules_are_those_of_the_arguments():
    """Every argument of a network has a rule, or its constructor checks it."""
    composed = options("model=stylenerf_mead")["model"]
    for part in ("generator", "discriminator"):
        rules = set(NETWORK_RULES[composed[part]["_target_"]])
        names = set(_names({key: value for key, value in composed[part].items() if not key.startswith("_")}))
        checked = {
            "motion.combine", "motion.frequency", "foreground.encoding", "foreground.density_prior",
            "foreground.density_ramp", "foreground.time_input", "foreground.static", "upsampler.mode",
            "camera.distribution",
        }  # fmt: skip
        assert names - rules - checked == set(), (
            "neither in NETWORK_RULES nor, if the constructor checks it, listed here"
        )
        assert rules <= names
    check_values(options("model.generator.motion=null", "model.generator.background=null"))
    check_values(options("model.generator._target_=mine.Generator", "model.generator.z_dim=many"))  # a user's class


def _names(arguments):
    for key, value in arguments.items():
        yield from (f"{key}.{name}" for name in _names(value)) if isinstance(value, dict) else [key]


def test_networks_without_channels_are_refused():
    few = "model.generator: upsampler.channel_base=0.01 (spec.fmaps) with channel_max=512 leaves 2 channels at 128×128"
    with pytest.raises(UserError, match=re.escape(few)):
        build("model=stylenerf_taichi", "spec.fmaps=0.01")
    none = "model.discriminator: channel_base=0.001 (spec.fmaps) with channel_max=512 leaves no channels at 128×128."
    with pytest.raises(UserError, match=re.escape(none)):
        build("model=stylenerf_taichi", "model.discriminator.channel_base=0.001")


def test_the_nearest_model_is_suggested():
    with pytest.raises(UserError, match=f"choose from {', '.join(MODELS)}. Did you mean stylenerf_small.$"):
        options("model=stylenerf_smal")


def test_continuing_keeps_the_options_of_the_run():
    stored = options("spec=paper", "kimg=7", "seed=3", "workers=2")
    assert continued_options(stored, ["resume_run=0"]) == dict(stored, resume_run="0")
    # The same command again, with resume_run=.
    words = ["outdir=a", "data=b", "spec=paper", "kimg=7", "seed=3", "model=stylenerf_small", "resume_run=0"]
    assert continued_options(stored, words) == dict(stored, resume_run="0")


def test_continuing_may_change_length_and_place():
    stored = options("seed=3")
    changed = continued_options(stored, ["spec.kimg=99", "outdir=x", "data=y", "previews.videos=1", "snap=null"])
    assert (changed["kimg"], changed["spec"]["kimg"], changed["outdir"], changed["data"]) == (99, 99, "x", "y")
    assert changed["previews"]["videos"] == 1 and changed["snap"] is None
    assert stored["previews"]["videos"] == 4  # the original is not touched
    assert continued_options(stored, ["spec.kimg=99", "kimg=5"])["kimg"] == 5
    channels_last = [
        continued_options(stored, words)["model"]["discriminator"]["channels_last"] for words in ([], ["nhwc=false"])
    ]
    assert channels_last == [True, False]


def test_continuing_with_options_within_a_group():
    stored = options("previews.videos=1", "previews.columns=3", "detectors.i3d=i3d.pt", "spec.lrate=1")
    changed = continued_options(stored, ["previews={images:5,columns:2}", "detectors={vgg16:vgg16.pt}"])
    assert changed == stored | {
        "previews": {"images": 5, "columns": 2, "videos": 1},
        "detectors": stored["detectors"] | {"vgg16": "vgg16.pt"},
    }
    assert continued_options(stored, ["previews={}", "detectors={}"]) == stored
    fov = "model.generator.camera.fov"
    with pytest.raises(UserError, match=f"^resume_run: {fov} is .* in that run and cannot be changed to 3; "):
        continued_options(stored, ["model.generator.camera={fov:3}"])


@pytest.mark.parametrize(
    "word",
    ["model=stylenerf_taichi", "spec=paper", "seed=4", "spec.lrate=1", "model.generator.camera.fov=3", "mirror=true"],
)
def test_continuing_may_not_change_what_is_computed(word):
    with pytest.raises(UserError, match=f"resume_run: .*{word.split('=')[0]}"):
        continued_options(options(), [word])


def test_augmentations_of_the_schedule_are_taken_as_typed():
    options = compose_options(["outdir=o", "data=d", "spec.diffaugment=color,cutout"])
    assert options["spec"]["diffaugment"] == options["diffaugment"] == "color,cutout"
    options = compose_options(["outdir=o", "data=d", "diffaugment=color", "spec.diffaugment=null"])
    assert (options["spec"]["diffaugment"], options["diffaugment"]) == (None, "color")
