"""The training loop: the order of an iteration, ticks and what they write, continuing to the bit."""

import gc
import itertools
import json
import math
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import weakref
from multiprocessing.process import BaseProcess

import pytest
import torch
from PIL import Image

from dnnlib import UserError
from tests.training.tiny import make_loop, spoil_gradients
from training.checkpoints.snapshot_files import STATE_FILE
from training.checkpoints.training_state import read_state
from training.data.sampler import InfiniteSampler
from training.monitoring.run_logger import FIELDS
from training.networks.generator import Generator
from training.phases import LOSS_SCALE, GradientGuard


def state_of(loop) -> dict[str, torch.Tensor]:
    """Every number that decides how a training goes on."""
    state = {}
    for name in ("generator", "generator_ema", "discriminator", "augment"):
        module = getattr(loop.networks, name)
        if module is not None:
            state.update({f"{name}.{key}": value for key, value in module.state_dict().items()})
    for phase in loop.phases[::2]:
        for index, entry in phase.optimizer.state_dict()["state"].items():
            state.update({f"{phase.name}.{index}.{key}": value for key, value in entry.items()})
    state["pl_mean"] = loop.loss.pl_mean
    state["stream"] = loop.stream.state_dict()["generator"]
    state["position"] = torch.tensor([loop.loader.position, loop.counters.cur_nimg, loop.counters.iteration])
    state.update({f"statistics.{key}": value for key, value in loop.statistics.state_dict().items()})
    if loop.ada is not None:
        state["signs"] = loop.ada.state_dict()["signs"]
    return {name: value.clone() for name, value in state.items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def rows(loop) -> list[dict]:
    return [json.loads(line) for line in (loop.folder / "stats.jsonl").read_text().splitlines()]


# ----------------------------------------------------------------------------------------------------------------------
# An iteration


def test_phases_run_in_order_over_micro_batches(tmp_path):
    loop = make_loop(tmp_path, "spec.g_reg_interval=2", "spec.d_reg_interval=4", "spec.mb=8", "spec.mbstd=2")
    calls = []
    accumulate = loop.loss.accumulate

    def record(phase, *, batch, gain, stream):
        assert stream is loop.stream
        calls.append((phase, len(batch), gain))
        accumulate(phase, batch=batch, gain=gain, stream=stream)

    loop.loss.accumulate = record
    for iteration in range(3):
        calls.clear()
        loop.iterate()
        expected = [("Gmain", 2, 1 * LOSS_SCALE)] * 4
        expected += [("Greg", 2, 2 * LOSS_SCALE)] * 4 if iteration % 2 == 0 else []
        expected += [("Dmain", 2, 1 * LOSS_SCALE)] * 4
        expected += [("Dreg", 2, 4 * LOSS_SCALE)] * 4 if iteration % 4 == 0 else []
        assert calls == expected
    assert (loop.counters.iteration, loop.counters.cur_nimg, loop.loader.position) == (3, 24, 24)


def test_an_iteration_trains_everything(tmp_path):
    loop = make_loop(tmp_path)
    before = {name: p.clone() for name, p in [*loop.networks.generator.named_parameters()]}
    before_d = {name: p.clone() for name, p in [*loop.networks.discriminator.named_parameters()]}
    for _ in range(2):
        loop.iterate()
    same = [name for name, p in loop.networks.generator.named_parameters() if torch.equal(p, before[name])]
    same += [name for name, p in loop.networks.discriminator.named_parameters() if torch.equal(p, before_d[name])]
    assert same == ["motion.input.weight", "motion.input.bias"]  # the frequencies of waves are not trained
    assert not torch.equal(loop.networks.generator.mapping.w_avg, torch.zeros(8))


def test_the_density_grows(tmp_path):
    """By the videos so far, in the generator and its average; passes of the batch leave it as it is."""
    ramp = "model.generator.foreground.density_ramp={factor:3,start:0.004,end:0.012}"
    loop = make_loop(tmp_path, ramp, "spec.mb=6", "spec.mbstd=2")  # three passes, whose running means are averaged
    scales = []
    for _ in range(4):
        loop.iterate()
        for network in (loop.networks.generator, loop.networks.generator_ema):
            scales.append(network.foreground.density_scale.item())
    assert scales == [1, 1, 1.5, 1.5, 3, 3, 3, 3]  # after 0, 6, 12 and 18 videos


def test_the_learning_rate_falls(tmp_path):
    """By the videos shown, for both networks; not with the length of the run."""
    loop = make_loop(tmp_path, "spec.lrate=0.01", "spec.lrate_decay=0.006", "kimg=1")
    rates = {"Gmain": [], "Dmain": []}
    for _ in range(7):
        loop.iterate()
        for phase in loop.phases[::2]:
            rates[phase.name] += [group["lr"] for group in phase.optimizer.param_groups]
    factors = [1, 1, (6 / 8) ** 0.5, (6 / 12) ** 0.5, (6 / 16) ** 0.5, (6 / 20) ** 0.5, 0.5]  # after 0, 4, 8 … videos
    assert rates["Gmain"] == pytest.approx([0.01 * 2 / 3 * factor for factor in factors])
    assert rates["Dmain"] == pytest.approx([0.01 * 3 / 4 * factor for factor in factors])


def test_real_frames_arrive_in_range(tmp_path):
    loop = make_loop(tmp_path, "spec.mb=4", "spec.mbstd=2")
    batches = loop._next_batch()
    dataset_pixels = torch.cat([b.frames for b in batches])
    assert [tuple(b.frames.shape) for b in batches] == [(2, 2, 3, 16, 16)] * 2
    assert -1 <= dataset_pixels.min() < -0.9 and 0.9 < dataset_pixels.max() <= 1
    # n/127.5 − 1 is a whole number of levels.
    levels = (dataset_pixels + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    assert all(((b.dt >= 0) & (b.dt <= 1)).all() for b in batches)


def test_adaptive_augmentation_adapts(tmp_path):
    loop = make_loop(tmp_path, "aug=ada", "p=0.1", "target=0.21")  # a mean that no count of signs has
    signs, report = [], loop.statistics.report

    def listen(name, value):
        if name == "Loss/signs/real":
            signs.extend(value.flatten().tolist())
        report(name, value)

    loop.statistics.report = listen
    p = 0.1
    for iteration in range(1, 13):
        loop.iterate()
        if iteration % 4 == 0:  # 16 videos later
            direction = 1 if sum(signs) / len(signs) > 0.21 else -1
            p += direction * 16 / 500_000
            signs.clear()
        assert float(loop.networks.augment.p) == pytest.approx(p, abs=1e-7)


def test_fixed_augmentation_stays(tmp_path):
    loop = make_loop(tmp_path, "aug=fixed", "p=0.3", "augpipe=color")
    assert loop.ada is None and loop.loss.augment is loop.networks.augment
    for _ in range(4):
        loop.iterate()
    assert float(loop.networks.augment.p) == pytest.approx(0.3)


def test_an_iteration_never_waits_for_the_device(tmp_path, monkeypatch):
    """No value of a tensor reaches the host: with a GPU each would make the host wait for all that is queued so far."""
    loop = make_loop(tmp_path, "diffaugment=color")
    monkeypatch.setattr(GradientGuard, "_alone", False)  # as with a GPU
    batch = loop._next_batch()  # the data comes from the host
    monkeypatch.setattr(loop, "_next_batch", lambda: batch)
    waits = []
    for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "nonzero", "equal"):
        original = getattr(torch.Tensor, name)

        def spy(tensor, *args, name=name, original=original, **kwargs):
            caller = sys._getframe(1).f_code
            file, function = caller.co_filename, caller.co_name
            # Branches for the CPU: there Adam counts its steps on the host, looks at values may save work, and the
            # values of frames are checked.
            if "optim" not in file and not file.endswith("point_linear_ref.py") and function != "check_range":
                waits.append((name, file, function))
            return original(tensor, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, spy)
    assert torch.zeros(1).item() == 0 and len(waits) == 1  # the spy works
    waits.clear()
    loop.iterate()
    assert waits == []


# ----------------------------------------------------------------------------------------------------------------------
# Ticks


def test_a_run_and_what_it_writes(tmp_path, capsys):
    seen = []

    def callback(snapshot):
        seen.append((snapshot.path.name, snapshot.cur_nimg, snapshot.path.exists()))
        assert snapshot.generator is loop.networks.generator_ema
        return {"fvd": 12.5}

    loop = make_loop(tmp_path, "imgsnap=2", "snap=3", "previews.videos=2", callbacks=[callback])
    loop.run()
    # One iteration, then ticks of two, until 8 iterations are full.
    kimg = [0.004, 0.012, 0.02, 0.028, 0.032]
    assert [row["kimg"] for row in rows(loop)] == kimg
    assert [row["tick"] for row in rows(loop)] == [0, 1, 2, 3, 4]
    for row in rows(loop):
        assert (
            list(row)[: len(FIELDS)]
            == list(FIELDS)
            == (
                ["tick", "kimg", "time", "sec/tick", "sec/kimg", "maintenance", "cpumem", "gpumem", "augment"]
                + ["videos/s", "left"]
            )
        )
        assert row["Loss/D/loss"]["num"] > 0 and math.isfinite(row["Loss/D/loss"]["mean"])
        assert row["Progress/nonfinite_gradients"]["mean"] == 0
        assert 0 < row["cpumem"] < 100 and row["gpumem"] == 0
    assert "Loss/G/reg" in rows(loop)[0] and "Loss/D/reg" in rows(loop)[0]

    first, *others = rows(loop)
    assert first["sec/kimg"] is first["videos/s"] is first["left"] is None and first["sec/tick"] > 0
    for row in others:
        assert row["videos/s"] * row["sec/kimg"] == pytest.approx(1000)
        assert row["videos/s"] * row["sec/tick"] == pytest.approx(8 if row["tick"] < 4 else 4)
    assert others[-1]["left"] == 0 < others[0]["left"]
    # From 4 to 12 videos: the 20 that are missing take 20 / 8 of the time since.
    assert others[0]["left"] == pytest.approx(others[0]["sec/tick"] * 20 / 8, rel=0.01)

    lines = capsys.readouterr().out.splitlines()
    status = [line for line in lines if line.startswith("tick")]
    assert len(status) == 5
    pattern = r"\s+".join(re.escape(name) + r" +\S+( \d\ds)?" for name in FIELDS)
    assert all(re.fullmatch(pattern, line) for line in status)

    names = {str(path.relative_to(loop.folder)) for path in loop.folder.rglob("*") if path.is_file()}
    events = {name for name in names if name.startswith("events.out.tfevents")}
    assert len(events) == 1
    images = {f"images/{name}_000000.png" for name in ("fakes_random", "fakes_frontal", "depth_frontal")}
    videos = {f"videos/000000/{p}_seed000{i}.mp4" for p in ("front", "rotation_camera_yaw") for i in (0, 1)}
    files = {"stats.jsonl", "reals.png", "network-snapshot-000000.pt", "latest-network-snapshot.pt", STATE_FILE}
    assert names - events == images | videos | files
    assert Image.open(loop.folder / "reals.png").size == (32, 32)
    assert Image.open(loop.folder / "images/fakes_random_000000.png").size == (32, 32)
    # Ticks 0 and 3, and the last.
    assert seen == [("network-snapshot-000000.pt", n, True) for n in (4, 28, 32)]
    assert "fvd 12.5" in "\n".join(lines)


def test_a_finished_training_leaves_nothing_in_memory(tmp_path):
    """At once, not only when the garbage collector runs: the next training of the same process needs the memory."""
    loop = make_loop(tmp_path, "kimg=0.008")
    loop.run()
    loop.loader.close()
    networks = loop.networks
    parts = [loop, loop.loss, networks.generator, networks.generator_ema, networks.discriminator, loop.loader]
    left = [weakref.ref(part) for part in [*parts, loop.phases[0].optimizer]]
    gc.disable()
    try:
        del loop, networks, parts
        assert [type(each()) for each in left if each() is not None] == []
    finally:
        gc.enable()


def test_previews_change_nothing(tmp_path):
    plain, shown = make_loop(tmp_path, "imgsnap=null", "snap=null"), make_loop(tmp_path, "imgsnap=1", "snap=1")
    plain.run()
    shown.run()
    assert_same(state_of(plain), state_of(shown))
    assert not (plain.folder / "images").exists() and not (plain.folder / "reals.png").exists()
    assert (plain.folder / "network-snapshot-000000.pt").exists()  # there is always one at the end


def test_previews_show_the_same_contents_every_time(tmp_path):
    loop = make_loop(tmp_path, "previews.images=4")
    images = []
    for kimg in (1, 2):
        loop.previews.write(kimg)
        images.append((loop.folder / f"images/fakes_random_{kimg:06d}.png").read_bytes())
        torch.rand(5)
    assert images[0] == images[1]
    assert (loop.folder / "images/fakes_frontal_000001.png").read_bytes() != images[0]


def test_a_continued_run_says_that_there_was_nothing_to_train(tmp_path, capsys):
    loop = make_loop(tmp_path, "kimg=0.004")
    loop.run()
    assert "Nothing to train" not in capsys.readouterr().out
    loop.run()
    said = "Nothing to train: kimg=0.004, which the run has reached. Give a larger kimg= to go on.\nDone: 0.004 kimg"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("name", ["images", "videos"])
def test_a_folder_of_previews_that_cannot_be_made(name, tmp_path, capsys):
    loop = make_loop(tmp_path, "previews.videos=1", "kimg=0.004")
    (loop.folder / name).touch()
    loop.run()
    said = capsys.readouterr().out
    assert f"preview left out: Cannot write {loop.folder / name}" in said and "Done: 0.004 kimg" in said
    assert (loop.folder / STATE_FILE).exists()


def test_persisting_non_finite_gradients_end_the_run(tmp_path):
    loop = make_loop(tmp_path, "spec.nonfinite_limit=4", "imgsnap=1", "snap=1")
    accumulate = loop.loss.accumulate

    def spoil(phase, **arguments):
        accumulate(phase, **arguments)
        if loop.counters.cur_nimg >= 4:
            spoil_gradients(loop, phase)

    loop.loss.accumulate = spoil
    with pytest.raises(UserError, match=r"broken down at 0.02 kimg: 4 steps of a phase in a row"):
        loop.run()
    # What was saved is from before, or from so shortly after that it might have been nothing.
    state = read_state(loop.folder)
    assert state["shared"]["counters"]["cur_nimg"] == 12
    assert rows(loop)[-1]["Progress/nonfinite_gradients"]["mean"] > 0
    assert all(value.isfinite().all() for value in state["modules"]["generator"].values())


def test_a_few_non_finite_gradients_do_not(tmp_path):
    loop = make_loop(tmp_path, "spec.nonfinite_limit=4", "imgsnap=null", "snap=null")
    accumulate = loop.loss.accumulate

    def spoil(phase, **arguments):
        accumulate(phase, **arguments)
        if loop.counters.iteration == 3 and phase == "Gmain":
            spoil_gradients(loop, phase)

    loop.loss.accumulate = spoil
    loop.run()
    assert all(p.isfinite().all() for p in loop.networks.generator.parameters())
    assert sum(row["Progress/nonfinite_gradients"]["mean"] > 0 for row in rows(loop)) == 1


# ----------------------------------------------------------------------------------------------------------------------
# Continuing


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["aug=ada", "p=0.4", "mirror=true"],
        ["workers=1"],
        ["model.generator.foreground.density_ramp={factor:3,start:0.004,end:0.02}"],
        ["spec.lrate_decay=0.008"],
    ],
    ids=["plain", "ada", "worker", "ramp", "decay"],
)
def test_a_continued_run_is_the_uninterrupted_one(tmp_path, words):
    whole = make_loop(tmp_path, *words)
    for _ in range(7):
        whole.iterate()
    first = make_loop(tmp_path, *words)
    for _ in range(3):
        first.iterate()
    first.save_state()
    second = make_loop(tmp_path, *words, folder=first.folder)
    assert_same(state_of(first), state_of(second))
    for _ in range(4):
        second.iterate()
    assert_same(state_of(whole), state_of(second))
    for loop in (whole, first, second):
        loop.loader.close()


@pytest.mark.usefixtures("hear_hangups")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_heard_while_the_next_batch_does_not_come(tmp_path, capsys, number):
    loop = make_loop(tmp_path, "imgsnap=null", "snap=1")
    start = loop.loader._start

    def hanging(position):
        yield from itertools.islice(start(position), 3)
        threading.Timer(0.3, os.kill, [os.getpid(), number]).start()
        time.sleep(20)
        raise AssertionError("nobody has asked to stop")

    loop.loader._start = hanging
    loop.run()
    assert "Stopped as asked at 0.012 kimg" in capsys.readouterr().out
    state = read_state(loop.folder)["shared"]["counters"]
    assert (state["iteration"], state["cur_nimg"]) == (3, 12)
    # The batch that never came is the first one of the continued run.
    second, whole = make_loop(tmp_path, "imgsnap=null", folder=loop.folder), make_loop(tmp_path, "imgsnap=null")
    second.iterate()
    for _ in range(4):
        whole.iterate()
    assert_same(whole.networks.generator.state_dict(), second.networks.generator.state_dict())
    assert_same(whole.networks.discriminator.state_dict(), second.networks.discriminator.state_dict())


def test_a_signal_while_data_workers_start(tmp_path, monkeypatch, capsys):
    before, handler = multiprocessing.active_children(), signal.getsignal(signal.SIGCHLD)
    start, started = BaseProcess.start, []

    def start_and_stop(process):
        start(process)
        started.append(process)
        if len(started) == 1:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(BaseProcess, "start", start_and_stop)
    loop = make_loop(tmp_path, "imgsnap=null", "workers=2")
    loop.run()
    loop.loader.close()
    left = [child for child in multiprocessing.active_children() if child not in before]
    for child in left:
        child.kill()  # otherwise waited for at the end of the tests, for ever
    assert left == [] and len(started) == 2
    assert "Stopped as asked at 0 kimg" in capsys.readouterr().out
    signal.signal(signal.SIGCHLD, handler)


def test_a_signal_interrupts_a_callback_and_the_continued_run_calls_it_again(tmp_path, capsys):
    calls = []

    def measure(snapshot):
        calls.append(snapshot.cur_nimg)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the signal has not interrupted this")

    stopped = make_loop(tmp_path, "snap=1", callbacks=[measure])
    stopped.run()
    assert calls == [4, 12] and stopped.counters.cur_nimg == 12
    printed = capsys.readouterr().out
    assert (
        f"Stopped while network-snapshot-000000.pt was measured; resume_run={stopped.folder} measures it again."
        in printed
    )
    assert "Stopped as asked at 0.012 kimg" in printed
    make_loop(tmp_path, "snap=1", callbacks=[measure], folder=stopped.folder).run()
    assert calls[:3] == [4, 12, 12] and calls[-1] == 32


def test_existing_snapshots_are_loaded_as_the_class_before_parametrizations(tmp_path):
    """Which PyTorch replaces by one that no snapshot names."""
    whole, asked = make_loop(tmp_path, "snap=1"), []
    whole.run()
    again = make_loop(
        tmp_path,
        "snap=1",
        callbacks=[lambda snapshot: asked.append(snapshot.load.keywords["generator_class"])],
        folder=whole.folder,
    )
    average = again.networks.generator_ema
    average.register_parameter("gain", torch.nn.Parameter(torch.ones([])))
    torch.nn.utils.parametrize.register_parametrization(average, "gain", torch.nn.Identity())
    again.run()
    assert set(asked) == {Generator} and type(average) is not Generator


@pytest.mark.parametrize("unreadable", [False, True])
def test_stopping_by_signal_and_continuing(tmp_path, capsys, unreadable):
    whole = make_loop(tmp_path)
    if unreadable:  # the first item of the tick in which the run is stopped
        *_, (_, video) = itertools.islice(InfiniteSampler(dataset_size=5), 13)
        for path in (tmp_path / "data" / "split" / f"video_{video}").iterdir():
            path.write_bytes(b"")
    whole.run()
    errors = [row["Progress/unreadable_items"]["mean"] for row in rows(whole)]
    assert errors[1] > 0 if unreadable else sum(errors) == 0
    capsys.readouterr()

    stopped = make_loop(tmp_path)
    iterate = stopped.iterate

    def interrupted():
        if stopped.counters.iteration == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        iterate()
        assert stopped.counters.iteration <= 4  # this iteration is finished, none is begun

    stopped.iterate = interrupted
    before = signal.getsignal(signal.SIGTERM)
    stopped.run()
    assert signal.getsignal(signal.SIGTERM) is before
    assert stopped.counters.iteration == 4
    assert (stopped.counters.tick_unreadable > 0) == unreadable  # in the middle of a tick
    assert f"Stopped as asked at 0.016 kimg; continue with resume_run={stopped.folder}" in capsys.readouterr().out

    # Rows and files that are newer than the state, as a kill between two writes leaves them.
    with open(stopped.folder / "stats.jsonl", "a") as file:
        file.write(json.dumps({"tick": 2, "kimg": 99}) + "\n" + '{"tick": 3, "ki')
    continued = make_loop(tmp_path, folder=stopped.folder)
    continued.run()
    assert_same(state_of(whole), state_of(continued))
    expected, found = rows(whole), rows(continued)
    assert [row["tick"] for row in found] == [row["tick"] for row in expected]
    for a, b in zip(expected, found):
        assert a["kimg"] == b["kimg"]
        assert {k: v for k, v in a.items() if "/" in k and k not in FIELDS} == {
            k: v for k, v in b.items() if "/" in k and k not in FIELDS
        }
    assert found[-1]["time"] >= found[1]["time"]


def test_previews_do_not_count_as_training_in_a_continued_run(tmp_path, monkeypatch):
    loop = make_loop(tmp_path, "kimg=0.004")
    monkeypatch.setattr(loop.previews, "write", lambda kimg: time.sleep(0.5) or {})
    loop.run()
    counters = read_state(loop.folder)["shared"]["counters"]
    assert counters["tick_seconds"] < 0.5 < counters["seconds"]


def test_a_clock_that_is_set_in_the_middle(tmp_path, monkeypatch):
    clock, real = itertools.count(4e9, -1e6), time.time
    monkeypatch.setattr(time, "time", lambda: next(clock))
    loop = make_loop(tmp_path)
    began = time.monotonic()
    loop.run()
    took = time.monotonic() - began
    monkeypatch.setattr(time, "time", real)
    for row in rows(loop):
        assert 0 <= row["time"] <= took and 0 <= row["sec/tick"] <= took and (row["left"] or 0) <= 100 * took


def test_a_finished_run_has_nothing_to_do_but_can_go_on(tmp_path, capsys):
    loop = make_loop(tmp_path)
    loop.run()
    again = make_loop(tmp_path, folder=loop.folder)
    capsys.readouterr()
    again.run()
    assert again.counters.iteration == 8
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("tick")] == []
    longer = make_loop(tmp_path, "kimg=0.04", folder=loop.folder)
    longer.run()
    assert longer.counters.cur_nimg == 40 and rows(longer)[-1]["tick"] == 5


def test_transfer_starts_from_the_weights_alone(tmp_path):
    old = make_loop(tmp_path, "kimg=0.008")
    old.run()
    new = make_loop(tmp_path, f"resume={old.folder}", "seed=5")
    for name in ("generator", "generator_ema", "discriminator"):
        expected, found = getattr(old.networks, name).state_dict(), getattr(new.networks, name).state_dict()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert new.counters.cur_nimg == 0 and new.loss.pl_mean == 0
    assert new.phases[0].optimizer.state_dict()["state"] == {}


def test_transfer_keeps_the_average_of_the_snapshot(tmp_path):
    """No ramp-up, which would overwrite it with the first step; nor when the run is continued."""
    old = make_loop(tmp_path, "kimg=0.016")
    old.run()
    new = make_loop(tmp_path, f"resume={old.folder}", "spec.ema=2", "spec.ramp=0.05", "spec.lrate=0.1", "seed=5")
    before = {name: value.clone() for name, value in new.networks.generator_ema.named_parameters()}
    new.iterate()
    beta = 0.5 ** (4 / 2000)
    for name, value in new.networks.generator.named_parameters():
        found = new.networks.generator_ema.get_parameter(name)
        torch.testing.assert_close(found, before[name] * beta + value * (1 - beta), rtol=1e-4, atol=1e-6)
    new.run()
    continued = make_loop(tmp_path, f"resume={old.folder}", "spec.ramp=0.05", folder=new.folder)
    assert continued.counters.cur_nimg > 0 and not continued.ema.ramps_up
    fresh = make_loop(tmp_path, "spec.ramp=0.05").ema
    assert fresh.ramps_up and fresh.ramp == 0.05


def test_two_seeds_are_two_trainings(tmp_path):
    first, second = make_loop(tmp_path, "seed=1"), make_loop(tmp_path, "seed=2")
    assert not torch.equal(
        first.networks.generator.mapping.layers[0].weight, second.networks.generator.mapping.layers[0].weight
    )
    assert not torch.equal(first.stream.uniform("x", [4]), second.stream.uniform("x", [4]))


def test_the_average_ramps_up_with_the_videos_so_far(tmp_path):
    loop = make_loop(tmp_path, "spec.ema=2", "spec.ramp=10", "spec.lrate=0.1")
    for shown in (0, 4, 8):
        before = {name: value.clone() for name, value in loop.networks.generator_ema.named_parameters()}
        loop.iterate()
        beta = 0.5 ** (4 / max(10 * shown, 1e-8))
        for name, value in loop.networks.generator.named_parameters():
            found = loop.networks.generator_ema.get_parameter(name)
            torch.testing.assert_close(found, before[name] * beta + value * (1 - beta), rtol=1e-4, atol=1e-6)
