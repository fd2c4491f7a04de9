"""`python -m metrics` and evaluate.sh from end to end, with a tiny generator."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click.testing
import numpy as np
import pytest
import torch
from PIL import Image

import run_train
import video3d
from dnnlib import UserError, run_cli
from dnnlib.downloads import sha256_of
from metrics import __main__ as command
from metrics.comparison import comparison_lines
from metrics.distances import frechet_distance_of_features
from metrics.generated_videos import GeneratedClips, GeneratedVideos
from metrics.random_features import RandomFeatures
from metrics.real_videos import StoredVideos
from metrics.registry import ONE_YAW
from renderer.video import VideoWriter
from tests.full_memory import fill_gpu, loading_message
from tests.metrics.detector_files import SmallClips, save_i3d, save_inception, save_torchscript
from tests.small_network import save_small_network, small_generator
from tests.training.tiny import OVERRIDES, make_plan, write_frames
from training.checkpoints import snapshot as snapshots
from training.checkpoints.archive import read_archive, save_archive
from training.checkpoints.snapshot import SNAPSHOT_FORMAT, load_average_generator, load_snapshot, save_snapshot
from training.data.annotations import FRAMES_FORMAT
from training.launch.build import build_networks
from training.networks.discriminator import TimeAwareDiscriminators

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a dataset of 16-frame videos, and a run folder with an untrained tiny snapshot."""
    folder = tmp_path_factory.mktemp("command")
    write_frames(folder / "data", videos=6, frames=18)
    job = make_plan(folder, "nframes=16")
    generator, discriminator = build_networks(job.options, c_dim=0)
    (folder / "runs" / "00000-tiny").mkdir(parents=True)
    save_snapshot(
        folder / "runs" / "00000-tiny",
        generator=generator,
        generator_ema=generator,
        discriminator=discriminator,
        augment=None,
        dataset=job.dataset.describe(),
        progress={"cur_nimg": 0, "tick": 0, "iteration": 0},
    )
    return folder


@pytest.fixture
def evaluate(trained, tmp_path, monkeypatch):
    """Run the command in this process; its rows."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))

    def run(names, *arguments, fake=None, real=True):
        base = ["--metrics", names, "--outdir", str(tmp_path / "out"), "--device", "cpu"]
        base += ["--fake", str(fake or next((trained / "runs").iterdir()))]
        base += ["--real", str(trained / "data")] if real else []
        result = click.testing.CliRunner().invoke(command.main, [*base, *map(str, arguments)])
        if result.exception is not None:
            raise result.exception
        run.output = result.output
        paths = [tmp_path / "out" / f"metric-{name}.jsonl" for name in names.split(",")]
        return [json.loads(path.read_text().splitlines()[-1]) for path in paths]

    return run


def test_a_model_folder(evaluate, trained, tmp_path):
    video3d.load_generator(next((trained / "runs").iterdir())).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "samples.png").touch()  # it is no folder of frames
    (of_run,) = evaluate("flatness32_1v", real=False)
    (of_model,) = evaluate("flatness32_1v", fake=tmp_path / "model", real=False)
    assert of_model["value"] == of_run["value"] and of_model["fake_name"] == "model"


def test_a_snapshot(evaluate, trained, tmp_path):
    row, flatness = evaluate("rfvd64_16f,flatness32_1v", "--bootstrap", 3)
    snapshot = next((trained / "runs").iterdir()) / "latest-network-snapshot.pt"
    real = StoredVideos(trained / "data", resolution=16).clips(count=64, frames=16)
    fake = GeneratedVideos(load_average_generator(snapshot), nframes=16).clips(count=64, frames=16)
    features = [RandomFeatures()(clips.load(range(len(clips)))).numpy() for clips in (real, fake)]
    assert row["value"] == pytest.approx(frechet_distance_of_features(*features), rel=1e-9)
    assert (row["num_real"], row["num_fake"]) == (18, 64)  # three windows of 16 in each video of 18
    assert row["real_data"]["num_videos"] == 6 and row["frame_stride"] == 1 and row["real_name"] == "data"
    assert row["checkpoint"] == "latest-network-snapshot.pt" and len(row["checkpoint_sha256"]) == 64
    assert row["cur_nimg"] == 0 and row["interval"][0] < row["value"] < row["interval"][1]
    assert 0 < flatness["value"] <= 1 and flatness["interval"] is not None
    assert (
        "NOT FVD" in row["warning"]
        and "NOT FVD" in evaluate.output
        and "only: the metric asks for 64" in evaluate.output
    )
    assert [path.name for path in (tmp_path / "user-cache" / "video-3d-gan" / "metrics").iterdir()]


def test_a_snapshot_that_is_replaced_while_it_is_read(evaluate, trained, tmp_path, monkeypatch):
    """The row names the snapshot that was measured."""
    run = shutil.copytree(next((trained / "runs").iterdir()), tmp_path / "run")
    latest = run / "latest-network-snapshot.pt"
    newer = read_archive(latest, format=SNAPSHOT_FORMAT, what="a snapshot")
    newer["progress"]["cur_nimg"] = 5000

    def load_and_replace(path, **options):
        content = load_snapshot(path, **options)
        if content["progress"]["cur_nimg"] == 0:
            save_archive(latest, newer)
        return content

    monkeypatch.setattr(snapshots, "load_snapshot", load_and_replace)
    (row,) = evaluate("flatness32_1v", "--bootstrap", 0, fake=run, real=False)
    assert row["cur_nimg"] == 5000 and row["checkpoint_sha256"] == sha256_of(latest)


def test_a_snapshot_that_never_stays_the_same(evaluate, trained, tmp_path, monkeypatch):
    run = shutil.copytree(next((trained / "runs").iterdir()), tmp_path / "run")
    latest = run / "latest-network-snapshot.pt"

    def load_and_replace(path, **options):
        content = load_snapshot(path, **options)
        shutil.copy(latest, tmp_path / "copy")
        os.replace(tmp_path / "copy", latest)
        return content

    monkeypatch.setattr(snapshots, "load_snapshot", load_and_replace)
    with pytest.raises(UserError, match=f"--fake: '{run}' keeps changing, or differs between the processes"):
        evaluate("flatness32_1v", "--bootstrap", 0, fake=run, real=False)


@pytest.mark.parametrize("place", ["run", ""])
def test_previews_of_a_run_are_not_measured(evaluate, trained, tmp_path, place):
    """A run without a snapshot yet, or the folder of several runs."""
    images = tmp_path / "runs" / "run" / "images"
    images.mkdir(parents=True)
    for number in range(16):
        Image.new("RGB", (16, 16)).save(images / f"fakes_random_{number:06d}.png")
    (images.parent / "training_options.yaml").touch()
    reason = "There is no network snapshot .* in the folder .*run." if place else "run' is the folder of a training run"
    with pytest.raises(UserError, match=reason):
        evaluate("motion32_16f", fake=tmp_path / "runs" / place)
    with pytest.raises(UserError, match="run' is the folder of a training run"):
        evaluate("motion32_16f", "--real", tmp_path / "runs" / place, fake=trained / "data", real=False)


def test_frames_are_spaced_as_in_the_training(tmp_path):
    """Unless the command says otherwise: real frames by their stride, generated ones by the length of a clip."""
    data = write_frames(tmp_path / "data", videos=1, frames=8)
    generator = small_generator()
    discriminator = TimeAwareDiscriminators(resolution=generator.resolution, channel_max=8)
    networks = {"generator": generator, "generator_ema": generator, "discriminator": discriminator}
    trained = {"dataset": {"nframes": 5, "frame_stride": 2}, "progress": {"cur_nimg": 0}}
    save_snapshot(tmp_path, **networks, augment=None, **trained)
    options = {"fake": str(tmp_path / "latest-network-snapshot.pt"), "real": str(data)}
    options |= {"frame_stride": None, "nframes": None, "resolution": None}
    fake, real, about = command.open_videos(options, "cpu")
    assert fake.clips(count=1, frames=3).describe()["last_time"] == 2 / 4
    assert len(real.images(count=None)) == 4 and about["frame_stride"] == 2
    # Data of the dataset tool with every second frame, all of which were used.
    trained["dataset"] |= {"frame_stride": 1, "source_stride": 2}
    save_snapshot(tmp_path, **networks, augment=None, **trained)
    assert len(command.open_videos(options, "cpu")[1].images(count=None)) == 4
    given = {"frame_stride": 4, "nframes": 9, "resolution": 8}
    fake, real, about = command.open_videos(options | given, "cpu")
    assert fake.clips(count=1, frames=3).describe()["last_time"] == 2 / 8
    assert len(real.images(count=None)) == 2 and about["frame_stride"] == 4
    assert fake.resolution == real.resolution == 8 and real.notes == []


def test_times_beyond_the_training_are_noted(evaluate, trained):
    note = "rfvd64_16f: generated clips show times from 0 to 5. Training clips of 4 frames covered 0 to 1, the rest is"
    words = ["--bootstrap", 0]
    evaluate("rfvd64_16f", "--nframes", 4, *words)
    assert evaluate.output.count(f"{note} extrapolated.\n") == 1
    evaluate("rfvd64_16f", *words)
    assert "extrapolated" not in evaluate.output
    evaluate("flicker32_16f", *words, fake=trained / "data")  # videos of files have the times that they have
    assert "extrapolated" not in evaluate.output


def test_frames_of_an_unknown_training_are_noted(tmp_path):
    """As with published checkpoints, unless the data or the command say which frames are used."""
    generator = small_generator()
    data = write_frames(tmp_path / "data", videos=1, frames=8, size=generator.resolution)
    discriminator = TimeAwareDiscriminators(resolution=generator.resolution, channel_max=8)
    networks = {"generator": generator, "generator_ema": generator, "discriminator": discriminator}
    save_snapshot(tmp_path, **networks, augment=None, dataset={}, progress={"cur_nimg": 0})
    options = {"fake": str(tmp_path / "latest-network-snapshot.pt"), "real": str(data)}
    options |= {"frame_stride": None, "nframes": None, "resolution": None}
    [note] = command.open_videos(options, "cpu")[1].notes
    assert "does not say which frames it was trained on" in note and "give --frame-stride n" in note
    assert command.open_videos(options | {"frame_stride": 1}, "cpu")[1].notes == []
    (data / "manifest.json").write_text(json.dumps({"format": FRAMES_FORMAT, "stride": 4}))
    assert command.open_videos(options, "cpu")[1].notes == []


def test_rows_are_added_and_the_cache_serves(evaluate, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = evaluate("motion32_16f", "--bootstrap", 0, "--cache", cache)[0]
    monkeypatch.setattr(StoredVideos, "read", None)  # nothing is decoded again
    second = evaluate("motion32_16f", "--bootstrap", 0, "--cache", cache, "--batch-size", 3)[0]
    assert (second["value"], second["real"]) == (first["value"], first["real"]) and first["interval"] is None
    assert len((tmp_path / "out" / "metric-motion32_16f.jsonl").read_text().splitlines()) == 2


def test_editing_one_frame_invalidates_the_cache(evaluate, trained, tmp_path):
    shutil.copytree(trained / "data", tmp_path / "data")
    arguments = ["--bootstrap", 0, "--cache", tmp_path / "cache", "--real", tmp_path / "data"]
    values = [evaluate("motion32_16f", *arguments, real=False)[0]["real"]]
    frame = tmp_path / "data" / "split" / "video_2" / "9.png"
    Image.fromarray(255 - np.array(Image.open(frame))).save(frame)
    values.append(evaluate("motion32_16f", *arguments, real=False)[0]["real"])
    assert values[0] != values[1] and len(list((tmp_path / "cache").iterdir())) == 2


def test_generated_videos_from_files(evaluate, trained, tmp_path):
    """Losslessly written frames give the value of the generator itself; a video file comes close to it."""
    snapshot = next((trained / "runs").iterdir()) / "latest-network-snapshot.pt"
    clips = GeneratedVideos(load_average_generator(snapshot), nframes=16).clips(count=32, frames=16).load(range(32))
    for number, clip in enumerate(clips):
        (tmp_path / "frames" / f"{number:02d}").mkdir(parents=True)
        for t in range(16):
            pixels = clip[:, t].permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(tmp_path / "frames" / f"{number:02d}" / f"{t:02d}.png")
    direct = evaluate("motion32_16f", "--bootstrap", 0)[0]
    row = evaluate("motion32_16f", "--bootstrap", 0, "--resolution", 16, fake=tmp_path / "frames")[0]
    assert row["value"] == pytest.approx(direct["value"], rel=1e-9)
    assert row["fake"]["from"] == "files" and row["fake_name"] == "frames" and "checkpoint" not in row

    (tmp_path / "movies").mkdir()
    for number, clip in enumerate(clips[:5]):
        with VideoWriter(tmp_path / "movies" / f"{number}.mp4", fps=8) as video:
            for t in range(16):
                video.add(clip[:, t])
    row = evaluate("motion32_16f", "--bootstrap", 0, "--resolution", 16, fake=tmp_path / "movies")[0]
    assert row["num_fake"] == 5 and row["value"] > 0


def test_videos_in_files_are_measured_at_their_own_size(evaluate, trained):
    """Enlarged, the same motion is longer in pixels."""
    (row,) = evaluate("motion32_16f", "--bootstrap", 0, fake=trained / "data")
    assert row["fake"]["resolution"] == row["real_data"]["resolution"] == 16 and "enlarged" not in evaluate.output
    (large,) = evaluate("motion32_16f", "--bootstrap", 0, "--resolution", 32, fake=trained / "data")
    assert large["value"] > 1.5 * row["value"]
    assert evaluate.output.count("data': frames of 16×16 pixels are enlarged to 32×32, which changes values: ") == 2


def test_a_stride_leaves_out_real_frames_only(evaluate, trained, tmp_path):
    data = write_frames(tmp_path / "data", videos=2, frames=32)
    words = ["--bootstrap", 0, "--frame-stride", 2, "--real", data]
    (row,) = evaluate("flicker32_16f", *words, fake=data, real=False)
    assert (row["num_fake"], row["num_real"]) == (32, 2)
    note = f"--frame-stride 2 leaves out real frames only: of '{data}' every frame is measured.\n"
    assert note in evaluate.output
    evaluate("flicker32_16f", *words, real=False)  # of a generator
    assert "leaves out" not in evaluate.output


def test_real_videos_of_one_name_are_told_apart(evaluate, trained, tmp_path):
    for name, level in (("a", 0), ("b", 100)):
        data = write_frames(tmp_path / name / "data", videos=6, frames=18)
        for frame in data.rglob("*.png"):
            Image.fromarray(np.array(Image.open(frame)) // 4 + level).save(frame)
    words = ["rfvd64_16f", "--bootstrap", 2, "--real"]
    for name in "ab":
        (row,) = evaluate(*words, tmp_path / name / "data", real=False)
        assert len(row["real_data"]["fingerprint"]) == 64 and row["real_name"] == "data"
        (tmp_path / "out").rename(tmp_path / f"out-{name}")
    compared = [*comparison_lines(tmp_path / "out-a", tmp_path / "out-b")]
    assert compared[-1] == "rfvd64_16f: A and B differ in the real videos: the values cannot be compared."
    assert [*comparison_lines(tmp_path / "out-a", tmp_path / "out-a")][-1].endswith("undecided")


def test_depth_of_generated_videos_is_left_out(evaluate, trained, tmp_path):
    for name in ("a", "b", "a_depth", "b_depth"):
        shutil.copytree(next((trained / "data").glob("**/*.png")).parent, tmp_path / "fake" / name)
    (row,) = evaluate("flicker256_16f", fake=tmp_path / "fake")
    assert row["num_fake"] == 6  # windows of 16 in two videos of 18 frames
    assert "fake': 2 of 4 videos, such as a_depth, are left out: they are outputs" in evaluate.output


@pytest.mark.parametrize("name", ["set.zip", "set"])
def test_the_kind_of_a_file_is_that_of_its_content(trained, tmp_path, name):
    shutil.make_archive(tmp_path / "packed", "zip", trained / "data")
    (tmp_path / "packed.zip").rename(tmp_path / name)
    assert command.find_snapshot(str(tmp_path / name)) is None
    snapshot = next((trained / "runs").iterdir()) / "latest-network-snapshot.pt"
    (tmp_path / "model").symlink_to(snapshot)
    for path in (snapshot, tmp_path / "model"):
        assert command.find_snapshot(str(path)) == path


def test_a_single_video_is_no_snapshot(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"^--fake: '.*/a\.mp4' is a single video: give the folder that holds it\.$"):
        command.find_snapshot(str(tmp_path / "a.mp4"))


def test_an_extractor_of_the_users(evaluate, tmp_path):
    """A user's extractor gives a metric named after it, on the command line and in training."""
    path = save_torchscript(SmallClips(), tmp_path / "mae.pt")
    name = "fvd64_16f_videomae"
    for given in (f"videomae={path}", path):
        row = evaluate(name, "--detector", given, "--bootstrap", 0)[0]
        assert row["metric"] == name and row["detector"]["network"] == "videomae"
    assert "not I3D" in evaluate.output and "SHA-256" in evaluate.output
    with pytest.raises(UserError, match="needs a feature extractor 'videomae'"):
        evaluate(name)
    job = run_train.make_plan(
        [f"outdir={tmp_path / 'runs'}", f"data={write_frames(tmp_path / 'data', videos=6, frames=18)}", *OVERRIDES,
         "nframes=16", f"metrics={name}", f"detectors.videomae={path}"]
    )  # fmt: skip
    assert job.options["metrics"] == [name] and job.options["detectors"]["videomae"] == str(path)
    assert job.inspected["detectors"]["videomae"].path == path and not job.notes


def test_fvd_with_a_detector_of_the_users(evaluate, tmp_path):
    path = save_i3d(tmp_path / "mine.pt")
    fvd, kvd = evaluate("fvd64_16f,kvd64_16f", "--detector", path, "--bootstrap", 2)
    assert fvd["detector"]["file"] == "mine.pt" and fvd["detector"]["published_file"] is False
    assert fvd["value"] > 0 and kvd["interval"] is not None
    assert "mine.pt IS NOT THE PUBLISHED FILE" in evaluate.output
    inception = save_inception(tmp_path / "inception.pt")
    row = evaluate(
        "fvd64_16f,is1k", "--detector", f"i3d={path}", "--detector", f"inception={inception}", "--bootstrap", 0
    )[1]
    assert row["num_fake"] == 1000 and row["value"] >= 1
    assert f"SHA-256 {row['detector']['sha256']}" in evaluate.output
    with pytest.raises(UserError, match="--detector: there are two files for i3d, .*mine.pt and other.pt: give one of"):
        evaluate("fvd64_16f", "--detector", f"i3d={path}", "--detector", "other.pt")
    with pytest.raises(UserError, match="--detector .*mine.pt: say which network it is: i3d=PATH or inception=PATH"):
        evaluate("fvd64_16f,is1k", "--detector", path)


def test_samples_of_several_metrics_are_rendered_once(evaluate, monkeypatch):
    loads, load = [], GeneratedClips.load
    monkeypatch.setattr(GeneratedClips, "load", lambda self, indices: loads.extend(indices) or load(self, indices))
    names = "motion32_16f,warping32_2v,flicker32_16f,ridentity32_16f,flatness32_1v"
    rows = evaluate(names, "--bootstrap", 0)
    tried = [0, 1, 0, 1]  # two clips and two pairs of views, to try the networks
    assert loads == [*tried, *range(32), *range(32)]
    assert [row["metric"] for row in rows] == names.split(",")


def test_two_processes(evaluate, trained, tmp_path):
    alone = evaluate("motion32_16f", "--bootstrap", 0)[0]
    both = evaluate("motion32_16f", "--bootstrap", 0, "--gpus", 2, "--cache", tmp_path / "other")[0]
    assert both["value"] == alone["value"]


def test_two_processes_that_fail_say_one_line_and_leave_nothing(tmp_path):
    data = write_frames(tmp_path / "data", videos=2, frames=16)
    (data / "split" / "video_1" / "7.png").write_bytes(b"no image")
    (tmp_path / "temporary").mkdir()
    words = ["--metrics", "motion32_16f", "--real", data, "--fake", data, "--outdir", tmp_path / "out", "--gpus", 2]
    words += ["--cache", tmp_path / "cache", "--device", "cpu", "--resolution", 16, "--batch-size", 1]
    done = subprocess.run(
        [sys.executable, "-m", "metrics", *map(str, words)],
        cwd=ROOT,
        env=dict(os.environ, TMPDIR=str(tmp_path / "temporary")),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: Cannot read the frame ") and "7.png" in line
    assert [*(tmp_path / "temporary").iterdir(), *(tmp_path / "cache").iterdir()] == []
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------------------------------------------
# Mistakes


MISTAKES = {
    "unknown metric": (["--metrics", "fvd"], "no metric 'fvd'"),
    "no metric": (["--metrics", " ,"], "name at least one"),
    "no such data": (["--real", "nowhere"], "--real: there is no file or folder 'nowhere'"),
    "no such snapshot": (["--fake", "nowhere.pkl"], "--fake: there is no file or folder 'nowhere.pkl'"),
    "one resampling": (["--bootstrap", "1"], "at least 2 resamplings"),
    "long clips": (["--metrics", "rfvd2048_32f", "--nframes", "32"], "shorter than 32 frames: the longest has 18"),
    "no such detector": (["--metrics", "fvd64_16f", "--detector", "x.pt"], "detector i3d=x.pt: there is no such file"),
    "a stride of nothing": (["--frame-stride", "2"], "--frame-stride says which real frames are kept: add --real"),
    "the rate of files": (["--nframes", "16"], "--nframes says how a generator's times are spread: leave it out"),
    "no number": (["--batch-size", "many"], "'many' is not a valid integer"),
}


@pytest.mark.parametrize("words, message", MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes(words, message, trained, tmp_path, monkeypatch, capsys):
    run = next((trained / "runs").iterdir())
    base = [
        "--metrics",
        "rfvd64_16f",
        "--real",
        str(trained / "data"),
        "--fake",
        str(run),
        "--outdir",
        str(tmp_path / "out"),
    ]
    if "--frame-stride" in words:
        base = base[:2] + base[4:]
        base[1] = "flatness32_1v"
    if message.startswith("--nframes"):
        base[base.index("--fake") + 1] = str(trained / "data")
    with pytest.raises(SystemExit) as caught:
        run_cli(lambda: command.main([*base, *words], standalone_mode=False))
    assert caught.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1 and message in text
    assert list((tmp_path / "out").glob("*")) == []


def test_a_full_memory_is_one_line(evaluate, trained, tmp_path, monkeypatch):
    class Insatiable(torch.nn.Module):
        def forward(self, x: torch.Tensor):
            return torch.zeros([1 << 40])[:, None]

    path = save_torchscript(Insatiable(), tmp_path / "large.pt")
    pattern = r"^The memory is full \(.*can't allocate memory.*\)\. A batch holds --batch-size=2 videos: lower it\.$"
    with pytest.raises(UserError, match=pattern):
        evaluate("identity32_16f", "--batch-size", 2, "--detector", f"identity={path}")

    def render(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(GeneratedVideos, "clips", render)
    with pytest.raises(UserError) as caught:
        evaluate("flicker32_16f")
    assert str(caught.value) == "The memory is full. A batch holds --batch-size=8 videos: lower it."
    fill_gpu(monkeypatch)
    with pytest.raises(UserError) as caught:
        evaluate("flicker32_16f")
    assert str(caught.value) == loading_message(next((trained / "runs").iterdir()) / "latest-network-snapshot.pt")


def test_what_needs_a_generator_or_real_videos(evaluate, trained):
    with pytest.raises(UserError, match="Depth can only be rendered by a generator"):
        evaluate("warping32_2v", fake=trained / "data")
    with pytest.raises(UserError, match="--real: rfvd64_16f compares with real videos"):
        evaluate("flatness32_1v,rfvd64_16f", real=False)
    for name in ("flicker32_16f", "motion32_16f", "ridentity32_16f"):  # no comparison
        with pytest.raises(UserError, match=rf"^--real: {name} measures real videos, too; give their folder or zip\.$"):
            evaluate(name, real=False)
    assert evaluate("flatness32_1v", "--bootstrap", 0, real=False)[0]["num_real"] is None


def test_options_without_effect_are_told(evaluate, tmp_path, monkeypatch):
    evaluate("flatness32_1v", "--bootstrap", 7, "--cache", tmp_path / "cache")
    for told in ("--cache has no effect", "--bootstrap has no effect: these metrics take", "--real has no effect"):
        assert told in evaluate.output
    evaluate("rfvd64_16f", "--bootstrap", 3, "--cache", tmp_path / "cache")
    assert "no effect" not in evaluate.output and "--bootstrap" not in evaluate.output
    paths = {"i3d": "x.pt"}
    context = command.main.make_context("metrics", ["--fake", "x", "--outdir", "y", "--gpus", "2"])
    with context:
        options = {**context.params, "cache": None}
        told = command.idle_notes(["rfvd64_16f"], paths, options, gpus=2)
        assert told == ["--detector i3d= has no effect: no metric uses it."]
        assert command.idle_notes(["fvd64_16f"], paths, options, gpus=2) == []
    with command.main.make_context("metrics", ["--fake", "x", "--outdir", "y", "--bootstrap", "9"]) as given:
        unsampled = ("kid1k_full", "rpr64k3_16f", "motion32_16f", "ridentity32_5v")
        sampled = ("rfvd64_16f", "fid1k_full", "kvd64_16f", "is1k")

        def told_of(*names):
            return command.idle_notes([*names], {}, {**given.params, "cache": None}, gpus=1)

        note = "--bootstrap has no effect: these metrics take their interval from the spread of the samples."
        assert all(told_of(name) == [note] for name in unsampled)
        assert not any(told_of(name) for name in sampled)
        assert told_of(*unsampled) == [note] and told_of(*unsampled, "is1k") == []
    with context:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "3")
        monkeypatch.setenv("MASTER_ADDR", "localhost")
        monkeypatch.setenv("MASTER_PORT", "29500")
        assert command.idle_notes(["rfvd64_16f"], {}, options, gpus=2) == [
            "--gpus has no effect: 3 processes have been started."
        ]


def test_sizes_and_lengths_without_effect_are_told():
    with command.main.make_context(
        "metrics", ["--fake", "x", "--outdir", "y", "--resolution", "8", "--nframes", "3"]
    ) as given:

        def told_of(*names):
            return command.idle_notes([*names], {}, given.params, gpus=1)

        assert told_of("rfvd64_16f", "fid1k_full") == []
        assert told_of("warping32_2v", "rfvd64_16f", "ridentity32_5v", "flatness32_1v") == [
            "--resolution has no effect on warping32_2v, flatness32_1v, which are rendered at the generator's.",
            "--nframes has no effect on warping32_2v, ridentity32_5v, flatness32_1v, which show a single time step.",
        ]


@pytest.mark.parametrize(
    "names, message",
    [
        ("rfvd64_16f,flatness32_1v", "Depth can only be rendered by a generator"),
        ("flatness32_1v,rfvd2048_128f", "are shorter than 128 frames"),
        ("rfvd64_16f,warping32_2v", f"The warping error {ONE_YAW}."),
        ("rfvd64_16f,ridentity32_5v", f"The similarity of views {ONE_YAW}."),
        ("rfvd64_16f,identity32_16f", "text.pt cannot be loaded as TorchScript"),
        ("rfvd64_16f,fid1k_full", "i3d.pt cannot be used as inception: its call failed"),
        ("flatness32_1v,rfvd64_16f", "Cannot use the cache folder"),
    ],
)
def test_what_cannot_be_measured_is_told_before_anything_is(evaluate, trained, tmp_path, names, message):
    (tmp_path / "text.pt").write_text("text")
    (tmp_path / "yaw").mkdir()
    save_small_network(tmp_path / "yaw", small_generator(camera={"yaw": (0.1, 0.1)}))
    words = ["--detector", f"inception={save_i3d(tmp_path / 'i3d.pt')}", "--detector", f"identity={tmp_path}/text.pt"]
    words += ["--cache", tmp_path / "text.pt" / "cache"] if "cache" in message else []
    fakes = {"Depth": trained / "data", "The": tmp_path / "yaw"}
    with pytest.raises(UserError, match=re.escape(message)):
        evaluate(names, *words, fake=fakes.get(message.split()[0]))
    assert not (tmp_path / "out").exists()


def test_list():
    result = click.testing.CliRunner().invoke(command.main, ["--list"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].startswith("fvd2048_16f ") and any("NOT FVD" in line for line in lines if line.startswith("rfvd"))


def test_evaluate_sh_from_a_folder_with_modules_of_the_same_names(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    (tmp_path / "metrics").mkdir()
    for name in ("metrics/__init__.py", "metrics/__main__.py", "dnnlib.py", "runpy.py"):
        (tmp_path / name).write_text("raise SystemExit('foreign code')\n")
    (tmp_path / "linked").symlink_to(ROOT / "evaluate.sh")
    words = ["./linked", "data", "run", "out", "--list"]
    answer = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("fvd2048_16f ")


def test_evaluate_sh(trained, tmp_path, monkeypatch):
    """From another folder, with paths relative to it."""
    script = str(ROOT / "evaluate.sh")
    assert subprocess.run([script, "a", "b"], capture_output=True).returncode == 2
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    run = next((trained / "runs").iterdir()).relative_to(trained)
    path = save_i3d(tmp_path / "mine.pt")
    words = [script, "data", str(run), str(tmp_path / "out"), "16", "--detector", "nowhere.pt", "--device", "cpu"]
    answer = subprocess.run(words, cwd=trained, capture_output=True, text=True)
    assert answer.returncode == 2 and answer.stderr == "error: detector i3d=nowhere.pt: there is no such file.\n"
    words = [script, "data", str(run), str(tmp_path / "out"), "--detector", str(path), "--bootstrap", "0"]
    answer = subprocess.run([*words, "--metrics", "fvd64_16f"], cwd=trained, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert torch.isfinite(torch.tensor(json.loads((tmp_path / "out" / "metric-fvd64_16f.jsonl").read_text())["value"]))
