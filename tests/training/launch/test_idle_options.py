"""Options without effect are reported or refused; every rule of it, and silence where they have an effect."""

import copy
import functools
import re

import pytest
import torch
import yaml

from dnnlib import UserError
from tests.training.tiny import OVERRIDES, make_loop, make_plan, write_frames
from training.data.annotations import SHARDS_FORMAT
from training.dataset_tool.archives import pack_shards
from training.launch import devices, notes, validate
from training.launch.config import CONFIG_DIR, FOLLOWERS, given_options
from training.launch.idle_options import (
    Devices,
    check_cuda_graphs,
    check_precision,
    idle_notes,
)

# Overrides, the note on them, and overrides with which the same option has an effect.
IDLE = [
    (["allow_tf32=true"], "allow_tf32= has no effect: TensorFloat-32 is for GPUs", ["allow_tf32=false"]),
    (["fp32=true"], "fp32= has no effect: a CPU has no half precision", ["fp32=false"]),
    (["cuda_graphs=true"], "cuda_graphs= has no effect: a CPU launches no kernels", ["cuda_graphs=false"]),
    (["nobench=true"], "nobench= has no effect: cuDNN is for GPUs", ["nobench=false"]),
    (
        ["model.discriminator.fp16_resolutions=2"],
        "model.discriminator.fp16_resolutions= has no effect: nothing runs in half precision",
        ["model.discriminator.fp16_resolutions=2", "precision=bf16"],
    ),
    (
        ["aug=fixed", "p=0", "augpipe=geom"],
        "augpipe= has no effect: p=0 augments nothing",
        ["aug=fixed", "p=0.1", "augpipe=geom"],
    ),
    (
        ["model.discriminator.image=true", "spec.image_weight=0"],
        "model.discriminator.image= has no effect: spec.image_weight=0",
        ["model.discriminator.image=true", "spec.image_weight=0.1"],
    ),
    (
        ["model.generator.camera.distribution=uniform", "model.generator.camera.yaw=[0,0]",
         "model.generator.camera.pitch=[1.5,1.5]"],
        "model.generator.camera.distribution= has no effect: all cameras look from one direction",
        ["model.generator.camera.distribution=uniform", "model.generator.camera.yaw=[0,0]"],
    ),
    (
        ["model.generator.foreground.density_bias=1", "resume=x"],
        "model.generator.foreground.density_bias= has no effect: it is an initial value",
        ["model.generator.foreground.density_bias=1"],
    ),
    (
        ["model.generator.foreground.density_ramp={factor: 4, start: 0.032, end: 1}"],
        "model.generator.foreground.density_ramp= has no effect: the run ends before the density begins to grow",
        ["model.generator.foreground.density_ramp={factor: 4, start: 0.03, end: 1}"],
    ),
    (["previews.videos=4"], "previews.videos= has no effect: there are at most as many", ["previews.videos=3"]),
    (["timeout=3"], "timeout= has no effect: a single process", []),
    (
        ["spec.lrate_decay=0.032"],
        "spec.lrate_decay= has no effect: the run ends before the learning rate begins to fall",
        ["spec.lrate_decay=0.031"],
    ),
    (["spec.gamma=2", "spec.d_reg_interval=null"], "spec.gamma= has no effect", ["spec.gamma=2"]),
    (["spec.gamma=0"], "spec.d_reg_interval= has no effect: spec.gamma=0", ["spec.gamma=0.1"]),
    (
        ["spec.pl_decay=0.1", "spec.pl_weight=1", "spec.g_reg_interval=null"],
        "spec.pl_decay=, spec.pl_weight= have no effect: spec.g_reg_interval=null",
        ["spec.pl_decay=0.1"],
    ),
    (["spec.pl_batch_shrink=1", "spec.pl_weight=0"], "spec.pl_weight=0 leaves", ["spec.pl_batch_shrink=1"]),
    (["spec.pl_batch_shrink=2", "spec.microbatch=1"], "has no effect: a pass is a single", ["spec.pl_batch_shrink=2"]),
    (["spec.ramp=0.1", "spec.ema=0"], "spec.ramp= has no effect: spec.ema=0", ["spec.ramp=0.1"]),
    (
        ["spec.image_weight=2", "model.discriminator.image=false"],
        "spec.image_weight= has no effect: model.discriminator.image=false",
        ["spec.image_weight=2"],
    ),
    (
        ["spec.path_weight=0", "spec.distortion_weight=0"],
        "model.generator.rendering.path_lattice= has no effect: spec.path_weight=0 and spec.distortion_weight=0",
        ["spec.path_weight=0"],  # spec=small has the distortion loss on the same rays
    ),
    (
        ["model.discriminator.mapping_layers=3"],
        "model.discriminator.mapping_layers= has no effect: the discriminators are conditioned on nothing",
        [],
    ),
    (
        ["model.generator.background_dim=4", "model.generator.foreground.direction_frequencies=2"],
        "model.generator.foreground.direction_frequencies= has no effect",
        ["model.generator.foreground.direction_frequencies=2", "model.generator.foreground.view_directions=true"],
    ),
    (["imgsnap=null"], "previews.images=, previews.columns=, previews.videos= have no effect", ["imgsnap=2"]),
    (["keep=2", "snap=null"], "keep= has no effect: snap=null", ["keep=2"]),
    (["cache_metrics_dir=x"], "cache_metrics_dir= has no effect: no metrics=", []),
    (["detectors.i3d=x"], "detectors.i3d= has no effect: no metrics=", []),
    (["spec.kimg=1"], "spec.kimg= has no effect: kimg= take its place", []),
    (["model.resolution=32"], "model.resolution= has no effect: resolution= take its place", []),
    (["spec.imgsnap=3", "imgsnap=2"], "spec.imgsnap= has no effect", ["spec.imgsnap=3"]),
    (["model.generator.mapping.num_layers=2"], "spec.map= has no effect", []),
    (["spec.diffaugment=color", "diffaugment=cutout"], "spec.diffaugment= has no effect", ["spec.diffaugment=color"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    return make_plan(tmp_path_factory.mktemp("plain")).options


def notes_on(options, words) -> list[str]:
    """Notes on the overrides of tiny.OVERRIDES and these, on one CPU process."""
    options, given = copy.deepcopy(options), {}
    for word in [*OVERRIDES, *words]:
        name, _, text = word.partition("=")
        given[name] = yaml.safe_load(text)
        if name not in ("model", "spec"):
            *parents, last = name.split(".")
            functools.reduce(dict.__getitem__, parents, options)[last] = given[name]
    return idle_notes(given, options, Devices("cpu", 1))


@pytest.mark.parametrize("words, told, silent", IDLE, ids=[words[0] for words, *_ in IDLE])
def test_options_in_vain_are_told(words, told, silent, options):
    assert any(told in note for note in notes_on(options, words))
    if silent:
        assert not any(told in note for note in notes_on(options, silent))


def test_a_command_tells_them(tmp_path):
    words = ["allow_tf32=true", "spec.kimg=1", "subset=100", "detectors={i3d:x}"]
    assert make_plan(tmp_path, *words).notes == [
        "allow_tf32= has no effect: TensorFloat-32 is for GPUs.",
        "detectors.i3d= has no effect: no metrics= are computed.",
        "spec.kimg= has no effect: kimg= take its place.",
        "subset=100 has no effect: there are 5 clips.",
    ]
    assert make_plan(tmp_path, "subset=5").notes == []


def test_nothing_is_told_of_what_was_not_given(tmp_path):
    plan = make_plan(tmp_path)
    given = ["outdir", "data", "spec.mb", "spec.lrate", "metrics", "seed", "mirror"]
    assert idle_notes(given, plan.options, Devices("cpu", 1)) == [] and plan.notes == []


def test_a_value_within_a_group_is_told(tmp_path):
    assert make_plan(tmp_path, "model.generator.foreground.density_ramp={factor:4,start:40,end:60}").notes == [
        "model.generator.foreground.density_ramp.factor=, model.generator.foreground.density_ramp.start=, "
        "model.generator.foreground.density_ramp.end= have no effect: the run ends before the density begins to grow."
    ]


def test_options_within_values_are_told_as_well(tmp_path):
    assert given_options(["previews={videos:2,images:3}", "data=a,b", "+model.generator.x={a:{b:1}}", "seed=1"]) == [
        "previews.videos", "previews.images", "data", "model.generator.x.a.b", "seed",
    ]  # fmt: skip
    assert make_plan(tmp_path, "imgsnap=null", "previews={videos:2}").notes == [
        "previews.images=, previews.columns=, previews.videos= have no effect: imgsnap=null makes no previews."
    ]


def test_every_option_that_another_takes_over_is_told():
    """Those that conf/ refers to by ${…}; spec.mbstd has a use of its own, the smallest pass."""
    references = {
        name
        for path in CONFIG_DIR.glob("*/*.yaml")
        for name in re.findall(r"\$\{(\w[\w.]*)\}", path.read_text(encoding="utf-8"))
    } | set(re.findall(r"\$\{([a-z]\w+\.\w+)\}", (CONFIG_DIR / "config.yaml").read_text(encoding="utf-8")))
    assert references == {*FOLLOWERS, "spec.mbstd"}


def test_snapshots_that_replace_each_other_are_told(tmp_path):
    def notes(*words):
        made = ["spec.kimg_per_tick=0.45", "spec.mb=100", "spec.microbatch=100", *words]
        return make_plan(tmp_path, "model.generator.foreground.density_ramp=null", *made).notes

    assert notes("kimg=24", "snap=1", "imgsnap=1") == [
        "snap=1: snapshots are due every 0.5 kimg, but are named by whole kimg, and later ones replace earlier ones of "
        "the same name; snap=2 keeps all.",
        "imgsnap=1: previews are due every 0.5 kimg, but are named by whole kimg, and later ones replace earlier ones "
        "of the same name; imgsnap=2 keeps all.",
    ]
    assert notes("kimg=24", "snap=2", "imgsnap=2") == notes("kimg=24", "snap=null", "imgsnap=3") == []
    assert notes("kimg=0.9", "snap=1") == []  # a trial
    assert notes("kimg=20.4", "snap=8", "imgsnap=3") == [
        "kimg=20.4: snapshots at the end replace those of 20.1 kimg (snap=8), as they are named by whole kimg; kimg=21 "
        "keeps both."
    ]
    assert notes("kimg=20", "snap=8", "imgsnap=8") == notes("kimg=21.4", "snap=8", "imgsnap=8") == []
    assert notes("kimg=2.4", "snap=8", "imgsnap=8") == notes("kimg=0.9", "snap=8", "imgsnap=8") == []
    # The first tick is one iteration, from which the others are counted.
    kilo = ["spec.kimg_per_tick=1", "snap=1", "imgsnap=99"]
    assert notes(*kilo, "kimg=12.3", "spec.mb=32", "spec.microbatch=32") == []
    assert notes(*kilo, "kimg=18.6", "spec.mb=96", "spec.microbatch=96") == [
        "kimg=18.6: snapshots at the end replace those of 18.048 kimg (snap=1), as they are named by whole kimg; "
        "kimg=19 keeps both."
    ]
    assert notes(*kilo, "kimg=19", "spec.mb=96", "spec.microbatch=96") == []


def test_a_run_shorter_than_its_density_ramp_is_told(tmp_path):
    ramp = "model.generator.foreground.density_ramp"

    def notes(*words):
        return make_plan(tmp_path, "spec.kimg_per_tick=1", "imgsnap=99999", "snap=99999", *words).notes

    for kimg, factor in ((8, "2"), (3, "1"), (15, "3.75")):
        assert notes(f"kimg={kimg}") == [
            f"kimg={kimg}: the density ramp ends at 16 kimg, so this run ends at a factor of {factor} of 4, in fog; "
            f"give a {ramp} with end below kimg."
        ]
    for words in (["kimg=32"], ["kimg=16"], ["kimg=0.9"], ["kimg=8", f"{ramp}.start=1", f"{ramp}.end=6"]):
        assert notes(*words) == []
    assert notes("kimg=8", f"{ramp}=null") == notes("kimg=8", f"{ramp}.factor=1") == []
    (late,) = notes("kimg=3", f"{ramp}.start=4")
    assert late.endswith("has no effect: the run ends before the density begins to grow.")


def test_adaptive_augmentation_that_stays_weak_is_told(tmp_path):
    def notes(*words):
        return make_plan(tmp_path, "spec.kimg_per_tick=1", "imgsnap=99999", "snap=99999", "kimg=32", *words).notes

    assert notes("aug=ada") == [
        "aug=ada: p reaches at most 0.064 in this run; begin with p=0.2, or use aug=fixed p=0.2."
    ]
    for words in (["aug=ada", "p=0.3"], ["aug=ada", "p=0.2"], ["aug=ada", "kimg=25000"], ["aug=fixed", "p=0.1"], []):
        assert notes(*words) == []
    assert notes("aug=ada", "kimg=0.9") == []  # a trial


def test_passes_of_another_size_are_told(tmp_path):
    assert make_plan(tmp_path, "spec.microbatch=3").notes == [
        "spec.microbatch=3: a pass takes 2 videos, whole groups of spec.mbstd=2 that divide a process's share of 4."
    ]
    assert make_plan(tmp_path, "spec.microbatch=4").notes == []


def test_a_continued_run_is_told_that_its_passes_change(tmp_path):
    """The smaller number is stored: with fewer processes again, the passes would stay smaller."""
    options = make_plan(tmp_path, "spec.microbatch=4", "spec.mb=8").options
    assert options["spec"]["microbatch"] == 4
    assert devices._share_batch(options, 2, given=[], continued=True) == []
    (note,) = devices._share_batch(options, 4, given=[], continued=True)
    assert note == (
        "spec.microbatch=4: a pass takes 2 videos, whole groups of spec.mbstd=2 that divide a process's share of 2. "
        "Later, with fewer processes, spec.microbatch=4 restores it."
    )
    assert options["spec"]["microbatch"] == 2


def test_metrics_are_named_once(tmp_path):
    words = [f"outdir={tmp_path / 'runs'}", f"data={write_frames(tmp_path / 'data')}", *OVERRIDES, "metrics=[b,a,b]"]
    planned = validate.plan(words, metrics=["a", "b"])
    assert planned.options["metrics"] == ["b", "a"]


def test_workers_beyond_the_shards_are_told(tmp_path):
    manifest = {"format": SHARDS_FORMAT, "nframes": 4}
    pack_shards(str(write_frames(tmp_path / "frames")), str(tmp_path / "data"), manifest=manifest, clips_per_shard=3)
    assert make_plan(tmp_path, "workers=3").notes == ["workers=3: 2 are used, one for each shard of a process."]
    plan = make_plan(tmp_path, "workers=2")
    assert plan.notes == make_plan(tmp_path).notes == []
    assert notes.size_notes(plan.options, plan.dataset, 2) == [
        "workers=2: 1 are used, one for each shard of a process."
    ]


@pytest.mark.parametrize("words", [[], ["dry_run=true"]])
def test_processes_beyond_the_shards_are_an_error(tmp_path, monkeypatch, words):
    monkeypatch.setattr(devices, "cores", lambda: 2)
    manifest = {"format": SHARDS_FORMAT, "nframes": 4}
    pack_shards(str(write_frames(tmp_path / "frames")), str(tmp_path / "data"), manifest=manifest, clips_per_shard=9)
    message = (
        "1 shard cannot be split over 2 processes: use fewer (gpus=), or write more and smaller shards (--shard-clips)."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        make_plan(tmp_path, "gpus=2", *words)
    assert make_plan(tmp_path, "gpus=1", *words).processes == 1


@pytest.mark.parametrize("word", ["generator.resolution=64", "discriminator.c_dim=3"])
def test_arguments_that_come_from_elsewhere_are_refused(tmp_path, word):
    with pytest.raises(UserError, match=rf"model\.{word.partition('=')[0]} would be ignored: it comes from"):
        make_plan(tmp_path, f"+model.{word}")
    with pytest.raises(UserError, match=r"There is no option 'model\.field\.x'"):
        make_plan(tmp_path, "+model.field.x=1")


def test_what_a_gpu_makes_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    options = make_plan(tmp_path).options | {"allow_tf32": True, "nobench": True, "fp32": False}
    unclamped, options["model"] = options["model"], copy.deepcopy(options["model"])
    options["model"]["generator"]["upsampler"]["conv_clamp"] = 256
    keys = ["allow_tf32", "nobench", "timeout", "model.generator.upsampler.fp16_min_resolution"]
    assert idle_notes(keys, options, Devices("cuda", 2)) == []
    told = idle_notes(keys, options | {"fp32": True}, Devices("cuda", 2))
    assert len(told) == 1 and "nothing runs in half precision" in told[0]
    told = idle_notes(keys, options | {"model": unclamped}, Devices("cuda", 2))
    assert len(told) == 1 and "nothing runs in half precision" in told[0]
    assert idle_notes(keys, options | {"model": unclamped, "precision": "bf16"}, Devices("cuda", 2)) == []
    # Clamps of the discriminators alone: the upsampler's option has no effect.
    unclamped["discriminator"]["conv_clamp"] = 256
    told = idle_notes(keys, options | {"model": unclamped}, Devices("cuda", 2))
    assert len(told) == 1 and told[0].startswith("model.generator.upsampler.fp16_min_resolution= has no effect")
    assert idle_notes(["fp32"], options | {"model": unclamped, "fp32": True}, Devices("cuda", 1)) == []
    told = idle_notes(["precision"], options | {"model": unclamped}, Devices("cuda", 1))
    assert told == [
        "precision= has no effect: a GPU takes float16 where the model has conv_clamp; fp32=true forbids it."
    ]
    assert idle_notes(["precision"], options | {"model": unclamped}, Devices("cpu", 1)) == []
    unclamped["discriminator"]["fp16_resolutions"] = 0
    told = idle_notes(["fp32"], options | {"model": unclamped, "fp32": True}, Devices("cuda", 1))
    assert told == [
        "fp32= has no effect: this model runs in float32 anyway (half precision on a GPU needs conv_clamp)."
    ]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    told = idle_notes(["allow_tf32"], options, Devices("cuda", 1))
    assert told == ["allow_tf32= has no effect: GPUs have TensorFloat-32 from Ampere on."]


def test_the_ramp_is_told_to_be_without_effect_after_resume(tmp_path):
    loop = make_loop(tmp_path, "kimg=0.008")
    loop.run()
    notes = make_plan(tmp_path, f"resume={loop.folder}", "spec.ramp=0.1").notes
    note = "spec.ramp= has no effect: with resume= there is no ramp-up, which would overwrite the snapshot's average, "
    assert notes == [note + "unless growing loses what the upsampler has learnt."]
    assert make_plan(tmp_path, f"resume={loop.folder}", "freezed=6").options["freezed"] == 6
    with pytest.raises(UserError) as error:
        make_plan(tmp_path, f"resume={loop.folder}", "freezed=7")
    assert str(error.value) == (
        "model.discriminator: freezed=7: the discriminators have 6 layers at this resolution; use 0 to 6."
    )


def test_layers_are_not_frozen_at_random(tmp_path):
    with pytest.raises(UserError, match="freezed=2 freezes trained layers .* needs resume="):
        make_plan(tmp_path, "freezed=2")


def test_layers_are_not_frozen_where_growing_makes_new_ones(tmp_path):
    """The first ones frozen are those of the highest resolution: new blocks would add zero for ever."""
    loop = make_loop(tmp_path, "kimg=0.004", "spec.g_reg_interval=null", "spec.d_reg_interval=null", "imgsnap=null")
    loop.run()
    grown = [f"resume={loop.folder}", "resolution=32"]
    with pytest.raises(UserError, match=r"freezed=1: .* has 16×16 pixels, so .* layers for 32×32 are new .* leave it"):
        make_plan(tmp_path, *grown, "freezed=1")
    assert make_plan(tmp_path, *grown).options["freezed"] == 0


def test_bf16_on_a_gpu(tmp_path, monkeypatch):
    options = make_plan(tmp_path, "precision=bf16").options
    check_precision(options, "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for words in (["device=cuda"], ["device=null"]):  # what device= is by itself here
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
        assert make_plan(tmp_path, "precision=bf16", *words).options["precision"] == "bf16"
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
        with pytest.raises(UserError, match="precision=bf16 needs a GPU with bfloat16 matrix products"):
            make_plan(tmp_path, "precision=bf16", *words)
    monkeypatch.undo()
    with pytest.raises(UserError, match="no layers in half precision"):
        make_plan(tmp_path, "precision=bf16", "model.discriminator.fp16_resolutions=0")


@pytest.mark.parametrize("capability, count", [("AVX2", 1), ("AVX512", 0)])
def test_bf16_on_a_processor_without_its_products(tmp_path, monkeypatch, capability, count):
    """There PyTorch's convolutions of bfloat16 take several times as long as in float32, and round their sums."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    notes = make_plan(tmp_path, "precision=bf16").notes
    assert sum("this processor has no bfloat16 matrix products" in note for note in notes) == count
    assert not any("bfloat16" in note for note in make_plan(tmp_path).notes)


@pytest.mark.parametrize("word", ["camera.fov=nan", "foreground.density_bias=inf", "camera.yaw=[-0.3,nan]"])
def test_numbers_of_the_networks_are_finite(word, tmp_path):
    name = "model.generator." + word.partition("=")[0]
    with pytest.raises(UserError, match=rf"{name}(\[1\])? must be a finite number"):
        make_plan(tmp_path, f"model.generator.{word}")


def test_a_run_goes_on_in_its_own_folder(tmp_path):
    loop, plan = make_loop(tmp_path), make_plan(tmp_path)
    (loop.folder / validate.RUN_OPTIONS).write_text(validate.dump_options(plan.options))
    loop.save_state()
    notes = make_plan(tmp_path, f"resume_run={loop.folder}", f"outdir={tmp_path / 'other'}").notes
    assert notes == [f"outdir= has no effect: the run goes on in its own folder, {loop.folder}."]
    assert make_plan(tmp_path, f"resume_run={loop.folder}").notes == []
    # Mistakes that were made before they were refused do not keep a run from being continued.
    (loop.folder / validate.RUN_OPTIONS).write_text(validate.dump_options(plan.options | {"freezed": 2}))
    assert make_plan(tmp_path, f"resume_run={loop.folder}").options["freezed"] == 2


def test_cuda_graphs_of_phases_that_differ_from_call_to_call_are_refused(tmp_path):
    options = make_plan(tmp_path, "cuda_graphs=true").options
    check_cuda_graphs(options, Devices("cuda", 1))
    check_cuda_graphs(options | {"aug": "ada", "cuda_graphs": False}, Devices("cuda", 2))
    check_cuda_graphs(options | {"aug": "ada"}, Devices("cpu", 2))
    check_cuda_graphs(options | {"diffaugment": "color,translation,cutout"}, Devices("cuda", 1))
    with pytest.raises(UserError, match="cuda_graphs=true is for a single GPU, not 2 processes"):
        check_cuda_graphs(options, Devices("cuda", 2))
    check_cuda_graphs(options | {"aug": "fixed"}, Devices("cuda", 1))
    with pytest.raises(UserError, match="cuda_graphs=true cannot go with aug=ada, whose probability changes"):
        check_cuda_graphs(options | {"aug": "ada"}, Devices("cuda", 1))
