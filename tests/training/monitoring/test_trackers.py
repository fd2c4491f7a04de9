"""Trackers: what each of them gets, ids that outlive a run, failures; fakes, and the real ones where installed."""

import errno
import importlib.util
import io
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import torch
from PIL import Image

from dnnlib import UserError
from renderer.video import VideoWriter, save_png
from tests.training.tiny import make_loop, make_plan
from training.monitoring import run_logger
from training.monitoring.trackers import TRACKERS, Trackers, check_trackers, flat_options

ROOT = Path(__file__).resolve().parents[3]
OPTIONS = {"kimg": 1, "spec": {"mb": 4, "betas": [0, 0.99]}, "data": None}


@pytest.fixture
def said():
    return []


@pytest.fixture
def start(tmp_path, said):
    """Opens the trackers of the run folder `run` of `tmp_path`."""
    (tmp_path / "run").mkdir()

    def start(*names, first_step=1):
        return Trackers(names, tmp_path / "run", first_step=first_step, options=OPTIONS, say=said.append)

    start.folder = tmp_path / "run"
    return start


def preview_files(folder):
    """An image of 6×4 pixels and a video of three frames, in the folders of previews."""
    image, video = folder / "images" / "fakes_random_000001.png", folder / "videos" / "000001" / "front_seed0000.mp4"
    for path in (image, video):
        path.parent.mkdir(parents=True, exist_ok=True)
    save_png(torch.full([3, 4, 6], 200, dtype=torch.uint8), image)
    with VideoWriter(video, 8) as writer:
        for level in (0, 100, 200):
            writer.add(torch.full([3, 8, 8], level, dtype=torch.uint8))
    return {"Previews/fakes_random": image, "Previews/front_seed0000": video}


def ids(folder):
    return json.loads((folder / "trackers.json").read_text())


# ----------------------------------------------------------------------------------------------------------------------
# Stand-ins that record the calls


class Recorder:
    """A fake package: its calls as (name, arguments, keyword arguments)."""

    def __init__(self):
        self.calls = []

    def call(self, name, result=None):
        def run(*arguments, **named):
            self.calls.append((name, arguments, named))
            return result

        return run

    def of(self, name):
        return [(arguments, named) for called, arguments, named in self.calls if called == name]


@pytest.fixture
def wandb(monkeypatch):
    fake, module = Recorder(), types.ModuleType("wandb")

    def init(**named):
        fake.calls.append(("init", (), named))
        run = types.SimpleNamespace(id=named["id"] or "id-of-wandb")
        run.log, run.finish, run.define_metric = fake.call("log"), fake.call("finish"), fake.call("define_metric")
        return run

    module.init, module.Settings = init, dict
    module.Image, module.Video = lambda path: ("image", path), lambda path, format: ("video", path, format)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return fake


@pytest.fixture
def trackio(monkeypatch):
    fake, module = Recorder(), types.ModuleType("trackio")
    run = types.SimpleNamespace(log=fake.call("log"))
    module.init, module.finish = fake.call("init", run), fake.call("finish")
    module.Image, module.Video = lambda path: ("image", path), lambda path: ("video", path)
    monkeypatch.setitem(sys.modules, "trackio", module)
    monkeypatch.delenv("TRACKIO_PROJECT", raising=False)
    return fake


@pytest.fixture
def mlflow(monkeypatch):
    fake, module, entities = Recorder(), types.ModuleType("mlflow"), types.ModuleType("mlflow.entities")
    client = types.SimpleNamespace(
        get_experiment_by_name=fake.call("get_experiment_by_name"),
        create_experiment=fake.call("create_experiment", "7"),
        create_run=fake.call("create_run", types.SimpleNamespace(info=types.SimpleNamespace(run_id="id-of-mlflow"))),
        **{name: fake.call(name) for name in ("update_run", "log_batch", "log_artifact", "set_terminated")},
    )
    fake.client, module.MlflowClient = client, fake.call("MlflowClient", client)
    entities.Metric = lambda key, value, timestamp, step: (key, value, step)
    entities.Param = lambda key, value: (key, value)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return fake


# ----------------------------------------------------------------------------------------------------------------------
# Each tracker


def test_tensorboard_shows_previews(start):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = start("tensorboard")
    files = preview_files(start.folder)
    trackers.scalars({"Loss/x": 2.0}, 12_500)
    trackers.media(files, 12_500)
    trackers.close()
    events = EventAccumulator(str(start.folder))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("Loss/x")] == [(12_500, 2.0)]
    (image,), (video,) = (events.Images(name) for name in files)
    assert (image.step, image.width, image.height) == (12_500, 6, 4)
    assert image.encoded_image_string == files["Previews/fakes_random"].read_bytes()
    with Image.open(io.BytesIO(video.encoded_image_string)) as gif:
        assert (gif.format, gif.size, gif.n_frames) == ("GIF", (8, 8), 3)
    assert not (start.folder / "trackers.json").exists()


def test_tensorboard_on_a_full_disk(start, said, monkeypatch, capsys):
    """One line, without the traceback of TensorBoard's thread; errors of other threads are shown as before."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    before = threading.excepthook
    trackers = start("tensorboard")

    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "write", full)
        for step in range(1, 100):
            trackers.scalars({"Loss/x": 2.0}, step)
            if said:
                break
            time.sleep(0.05)
    assert said == [
        "No more TensorBoard events are written: [Errno 28] No space left on device (stats.jsonl has the same figures)."
    ]
    assert "Traceback" not in capsys.readouterr().err and threading.excepthook == before
    seen = []
    monkeypatch.setattr(threading, "excepthook", lambda error: seen.append(error.exc_type))
    trackers = start("tensorboard")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    assert seen == [ZeroDivisionError]
    trackers.close()


def test_tensorboard_discards_what_a_continued_run_repeats(start):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first_step, value in ((1, 1.0), (21, 2.0)):
        trackers = start("tensorboard", first_step=first_step)
        for step in range(first_step + 9, 41, 10):
            trackers.scalars({"x": value}, step)
        trackers.close()
        time.sleep(1)  # TensorBoard reads files in the order of their names, which hold the second they were made in
    events = EventAccumulator(str(start.folder))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("x")] == [(10, 1), (20, 1), (30, 2), (40, 2)]


def test_wandb(start, wandb, monkeypatch):
    trackers = start("wandb")
    files = preview_files(start.folder)
    trackers.scalars({"Loss/x": 2.0, "Loss/y": float("nan")}, 100)
    trackers.media(files, 100)
    trackers.close()
    ((_, made),) = wandb.of("init")
    assert made["project"] == "video-3d-gan" and made["name"] == "run" and made["dir"] == str(start.folder)
    assert made["config"] == OPTIONS and made["id"] is made["resume"] is None
    assert (("*",), {"step_metric": "cur_nimg"}) in wandb.of("define_metric")
    image, video = (str(path) for path in files.values())
    shown = {"Previews/fakes_random": ("image", image), "Previews/front_seed0000": ("video", video, "mp4")}
    assert wandb.of("log") == [(({"Loss/x": 2.0, "cur_nimg": 100},), {}), (({**shown, "cur_nimg": 100},), {})]
    assert len(wandb.of("finish")) == 1 and ids(start.folder) == {"wandb": "id-of-wandb"}

    monkeypatch.setenv("WANDB_PROJECT", "mine")
    start("wandb", first_step=101)
    made = wandb.of("init")[1][1]
    assert (made["id"], made["resume"], made["project"]) == ("id-of-wandb", "allow", "mine")


def test_trackio(start, trackio):
    trackers = start("trackio")
    files = preview_files(start.folder)
    trackers.scalars({"Loss/x": 2.0, "Loss/y": float("inf")}, 100)
    trackers.media(files, 100)
    trackers.close()
    ((_, made),) = trackio.of("init")
    assert made["name"].startswith("run-") and made["resume"] == "never" and made["config"]["spec.mb"] == 4
    image, video = files.values()
    shown = {"Previews/fakes_random": ("image", image), "Previews/front_seed0000": ("video", video)}
    assert trackio.of("log") == [(({"Loss/x": 2.0},), {"step": 100}), ((shown,), {"step": 100})]
    assert len(trackio.of("finish")) == 1

    start("trackio", first_step=101)
    again = trackio.of("init")[1][1]
    assert (again["name"], again["resume"]) == (made["name"], "allow")
    assert ids(start.folder) == {"trackio": made["name"]}


def test_mlflow(start, mlflow, monkeypatch):
    trackers = start("mlflow")
    files = preview_files(start.folder)
    trackers.scalars({"Loss/x": 2.0, "Loss/y": float("nan")}, 100)
    trackers.media({**files, "Previews/reals": start.folder / "reals.png"}, 100)
    trackers.close()
    outdir = start.folder.parent
    assert mlflow.of("MlflowClient") == [((), {"tracking_uri": f"sqlite:///{outdir}/mlflow.db"})]
    artifacts = {"artifact_location": (outdir / "mlartifacts").as_uri()}
    assert mlflow.of("create_experiment") == [(("video-3d-gan",), artifacts)]
    assert mlflow.of("create_run") == [(("7",), {"run_name": "run"})]
    params, metrics = (named for _, named in mlflow.of("log_batch"))
    assert ("spec.mb", "4") in params["params"] and metrics == {"metrics": [("Loss/x", 2.0, 100)]}
    placed = [arguments[2] for arguments, _ in mlflow.of("log_artifact")]
    assert placed == ["images", "videos/000001", None]
    assert mlflow.of("set_terminated") == [(("id-of-mlflow", "FINISHED"), {})]

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    start("mlflow", first_step=101)
    assert mlflow.of("MlflowClient")[1][1] == {"tracking_uri": "http://tracking:5000"}
    assert mlflow.of("update_run") == [(("id-of-mlflow",), {"status": "RUNNING"})]
    assert len(mlflow.of("create_run")) == 1


def test_mlflow_makes_no_folder_where_a_moved_run_was(start, mlflow):
    start("mlflow")
    infos = [types.SimpleNamespace(artifact_uri=f"{place.as_uri()}/mlartifacts/1/artifacts") for place in
             (start.folder.parent, start.folder.parent.parent / "old place")]  # fmt: skip
    for info, written in zip(infos, (3, 0)):
        mlflow.client.get_run = lambda run_id, info=info: types.SimpleNamespace(info=info)
        mlflow.calls.clear()
        trackers = start("mlflow", first_step=101)
        trackers.scalars({"Loss/x": 2.0}, 101)
        trackers.media({**preview_files(start.folder), "Previews/reals": start.folder / "reals.png"}, 101)
        assert len(mlflow.of("log_batch")) == 1 and len(mlflow.of("log_artifact")) == written


@pytest.mark.parametrize("name", ["what?x=1", "50%20"])
def test_mlflow_writes_no_database_elsewhere(tmp_path, mlflow, name):
    said, folder = [], tmp_path / name / "00000-run"
    folder.mkdir(parents=True)
    Trackers(["mlflow"], folder, first_step=1, options=OPTIONS, say=said.append)
    assert len(said) == 1 and f"a database cannot lie in {folder.parent} ('?', '%'); set MLFLOW_TRACKING" in said[0]
    assert mlflow.calls == []


def test_dotted_names_of_options():
    assert flat_options(OPTIONS) == {"kimg": 1, "spec.mb": 4, "spec.betas": [0, 0.99], "data": None}


# ----------------------------------------------------------------------------------------------------------------------
# Failures


class Failing:
    """A tracker that fails from the second record on."""

    run_id = "id"

    def __init__(self, folder, **_):
        self.count = 0

    def scalars(self, values, step):
        self.count += 1
        if self.count > 1:
            raise ConnectionError("no route\nto host")

    media = close = scalars


def test_a_tracker_that_fails_is_left_out(start, said, monkeypatch, wandb):
    monkeypatch.setitem(TRACKERS, "trackio", Failing)
    trackers = start("trackio", "wandb")
    for step in (1, 2, 3):
        trackers.scalars({"x": 1.0}, step)
    trackers.close()
    assert said == ["No more trackio records are written: no route to host (stats.jsonl has the same figures)."]
    assert len(wandb.of("log")) == 3 and len(wandb.of("finish")) == 1


@pytest.mark.parametrize("method", ["scalars", "media", "close"])
def test_a_tracker_that_fails_is_closed_once(start, said, monkeypatch, method):
    calls = []

    class Broken:
        run_id = None

        def __init__(self, folder, **_):
            pass

        def __getattr__(self, name):
            def call(*arguments):
                calls.append(name)
                if name in (method, "close"):  # closing what is broken fails, too
                    raise OSError("broken")

            return call

    monkeypatch.setitem(TRACKERS, "trackio", Broken)
    trackers = start("trackio")
    trackers.scalars({"x": 1.0}, 1)
    trackers.media({"x": Path("x.png")}, 1)
    trackers.close()
    before = {"scalars": [], "media": ["scalars"], "close": ["scalars", "media"]}[method]
    assert calls == before + [method] * (method != "close") + ["close"]
    assert said == ["No more trackio records are written: broken (stats.jsonl has the same figures)."]


def test_a_tracker_that_does_not_start_is_left_out(start, said, monkeypatch, wandb):
    def init(**_):
        raise RuntimeError("api_key not configured")

    monkeypatch.setattr(sys.modules["wandb"], "init", init)
    start("wandb").scalars({"x": 1.0}, 1)
    assert said == ["No wandb records are written: api_key not configured (stats.jsonl has the same figures)."]
    assert not (start.folder / "trackers.json").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"wandb": 3, "other": "x"}'])
def test_ids_that_cannot_be_read_begin_new_records(start, wandb, content):
    (start.folder / "trackers.json").write_text(content)
    start("wandb")
    assert wandb.of("init")[0][1]["id"] is None and ids(start.folder) == {"wandb": "id-of-wandb"}


def test_a_missing_package_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match="logger=mlflow needs the package mlflow .*`pip install mlflow`"):
        make_plan(tmp_path, "logger=tensorboard,mlflow")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    check_trackers(["tensorboard"])  # a run does without


def test_names_are_checked(tmp_path, wandb):
    with pytest.raises(UserError, match="logger: there is no tracker 'wadnb'; .* Did you mean wandb"):
        make_plan(tmp_path, "logger=wadnb")
    assert make_plan(tmp_path).options["logger"] == ["tensorboard"]
    assert make_plan(tmp_path, "logger=wandb,tensorboard,wandb").options["logger"] == ["wandb", "tensorboard"]
    assert make_plan(tmp_path, "logger=null").options["logger"] == []


# ----------------------------------------------------------------------------------------------------------------------
# In a training


def test_a_training_and_its_continuation_go_to_one_record(tmp_path, wandb, monkeypatch):
    """Which is closed, also after an error."""
    first_steps = []
    monkeypatch.setattr(
        run_logger,
        "Trackers",
        lambda *names, **named: first_steps.append(named["first_step"]) or Trackers(*names, **named),
    )
    arguments = ("logger=wandb", "imgsnap=1", "snap=1", "previews.videos=1")
    loop = make_loop(tmp_path, *arguments, "kimg=0.012")
    loop.run()
    assert len(wandb.of("finish")) == 1
    second = make_loop(tmp_path, *arguments, "kimg=0.028", folder=loop.folder)
    iterate = second.iterate

    def fail_late():
        if second.counters.cur_nimg == 20:
            raise RuntimeError("out of luck")
        iterate()

    second.iterate = fail_late
    with pytest.raises(RuntimeError, match="out of luck"):
        second.run()
    assert len(wandb.of("finish")) == 2 and first_steps == [1, 13]
    made = [named for _, named in wandb.of("init")]
    assert [(named["id"], named["config"]["kimg"]) for named in made] == [(None, 0.012), ("id-of-wandb", 0.028)]
    logged = [arguments[0] for arguments, _ in wandb.of("log")]
    assert [row["cur_nimg"] for row in logged if "Progress/tick" in row] == [4, 12, 20]
    rows = [json.loads(line) for line in (loop.folder / "stats.jsonl").read_text().splitlines()]
    losses = [row["Loss/G/loss"] for row in logged if "Loss/G/loss" in row]
    assert losses == [row["Loss/G/loss"]["mean"] for row in rows]
    previews = [row for row in logged if "Previews/fakes_frontal" in row]
    assert [row["cur_nimg"] for row in previews] == [4, 12, 20]
    names = {"fakes_random", "fakes_frontal", "depth_frontal", "front_seed0000", "rotation_camera_yaw_seed0000"}
    assert set(previews[0]) == {f"Previews/{name}" for name in names} | {"cur_nimg"}
    assert [row["cur_nimg"] for row in logged if "Previews/reals" in row] == [0]
    with Image.open(loop.folder / "images" / "depth_frontal_000000.png") as depth:
        assert depth.size == (32, 32) and depth.getextrema() != ((0, 0),) * 3


def test_a_broken_tracker_does_not_stop_a_training(tmp_path, wandb, monkeypatch, capsys):
    def init(**_):
        raise OSError("the service did not start")

    monkeypatch.setattr(sys.modules["wandb"], "init", init)
    loop = make_loop(tmp_path, "logger=wandb", "kimg=0.012")
    loop.run()
    assert loop.counters.cur_nimg == 12
    assert "No wandb records are written: the service did not start" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------------------------------
# The packages themselves, where they are installed


def installed(*names):
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def record(folder, name):
    """Two processes of a run, and the lines that they say."""
    files, said = preview_files(folder), []
    for first_step in (1, 101):
        trackers = Trackers([name], folder, first_step=first_step, options=OPTIONS, say=said.append)
        trackers.scalars({"Loss/x": float(first_step), "Progress/sec/kimg": 1.0}, first_step)
        trackers.media(files, first_step)
        trackers.close()
    assert said == []


@installed("wandb")
def test_wandb_offline(start, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    record(start.folder, "wandb")
    kept = [path.name.rpartition("-")[2] for path in (start.folder / "wandb").glob("offline-run-*")]
    assert set(kept) == {ids(start.folder)["wandb"]}
    media = list((start.folder / "wandb").glob("offline-run-*/files/media/*/Previews/*"))
    assert {path.suffix for path in media} == {".png", ".mp4"}


@installed("trackio")
def test_trackio_in_local_files(start):
    """In a process of its own: the package reads the name of its folder when it is imported."""
    run, place = start.folder, start.folder.parent / "trackio"
    program = (
        "import pathlib, sys; from tests.training.monitoring.test_trackers import record; "
        "record(pathlib.Path(sys.argv[1]), 'trackio')"
    )
    environment = {**os.environ, "TRACKIO_DIR": str(place), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program, str(run)], env=environment, check=True, timeout=120)
    with sqlite3.connect(place / "video-3d-gan.db") as base:
        rows = base.execute("select run_name, step from metrics order by id").fetchall()
    name = ids(run)["trackio"]
    assert rows == [(name, 1), (name, 1), (name, 101), (name, 101)]


@installed("mlflow", "sqlalchemy", "alembic")
def test_mlflow_in_local_files(start, monkeypatch):
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(variable, raising=False)
    record(start.folder, "mlflow")
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{start.folder.parent}/mlflow.db")
    run = client.get_run(ids(start.folder)["mlflow"])
    assert run.info.status == "FINISHED" and run.data.params["spec.mb"] == "4"
    history = client.get_metric_history(run.info.run_id, "Loss/x")
    assert [(entry.step, entry.value) for entry in history] == [(1, 1.0), (101, 101.0)]
    assert {entry.path for entry in client.list_artifacts(run.info.run_id)} == {"images", "videos"}
