"""The training loop when things go wrong: nothing sound is overwritten, and the end is clear."""

import itertools
import json
import math

import pytest
import torch

from dnnlib import UserError
from tests.training.tiny import make_loop, spoil_gradients, write_frames
from torch_utils.stop_signal import StopSignal
from torch_utils.training_stats import Statistics
from training.augment.ada import AdaAugment, AdaController, AdaFeedback
from training.checkpoints.saver import planned_snapshots
from training.checkpoints.snapshot import load_snapshot
from training.checkpoints.snapshot_files import keep_as_best
from training.checkpoints.training_state import read_state
from training.data.sampler import InfiniteSampler
from training.dataset_tool import __main__ as dataset_tool


def spoil_from(loop, iteration, until=math.inf):
    """Let all gradients be NaN from an iteration on."""
    accumulate = loop.loss.accumulate

    def spoilt(phase, **arguments):
        accumulate(phase, **arguments)
        if iteration <= loop.counters.iteration < until:
            spoil_gradients(loop, phase)

    loop.loss.accumulate = spoilt


def saved(loop) -> int:
    return read_state(loop.folder)["shared"]["counters"]["cur_nimg"]


def test_nothing_is_saved_in_a_streak_and_something_after_it(tmp_path, capsys):
    loop = make_loop(tmp_path, "kimg=0.06", "snap=1", "imgsnap=null")
    spoil_from(loop, 3, until=8)
    save, states = loop.save_state, []
    loop.save_state = lambda: (save(), states.append(loop.counters.cur_nimg))
    loop.run()
    # Ticks end at 4, 12, 20, 28, …; the streak begins after 12: two iterations at 20, four at 28.
    assert 12 in states and 28 not in states and states[-1] == 60 == saved(loop)
    out = capsys.readouterr().out
    assert "Not saved, because the last" in out and "The last saved state is that of 0.02 kimg" in out
    assert len(list(loop.folder.glob("network-snapshot-*.pt"))) == 1  # all in the same thousand


def test_a_stop_in_a_streak_keeps_what_was_saved(tmp_path, capsys):
    loop = make_loop(tmp_path, "kimg=0.06", "snap=1", "imgsnap=null")
    spoil_from(loop, 3)
    for _ in range(3):
        loop.iterate()
    loop._end_tick(Silent(), StopSignal())
    for _ in range(4):
        loop.iterate()
    logger = Silent()
    loop._stop(logger, problem="")
    assert saved(loop) == 12 and "not saved, because the last" in logger.lines[-1]


class Silent:
    """A run logger that only records its lines."""

    def __init__(self):
        self.lines = []

    def print(self, text):
        self.lines.append(text)

    def tick(self, fields, statistics):
        pass

    metrics = tick


def test_a_broken_running_mean_ends_the_run_at_once(tmp_path):
    loop = make_loop(tmp_path, "snap=1", "imgsnap=null")
    for _ in range(2):
        loop.iterate()
    loop._end_tick(Silent(), StopSignal())
    loop.iterate()
    loop.networks.generator.mapping.w_avg[0] = math.inf
    with pytest.raises(UserError, match=r"1 of its tensors is not finite any more \(mapping.w_avg\)"):
        loop._end_tick(Silent(), StopSignal())
    assert saved(loop) == 8


def test_too_many_unreadable_items_end_the_run_with_its_state_saved(tmp_path, capsys):
    loop = make_loop(tmp_path, "unreadable_limit=3", "imgsnap=null", "kimg=0.2")
    for _ in range(2):
        loop.iterate()
    for video in (0, 1, 2):
        for path in (tmp_path / "data" / "split" / f"video_{video}").iterdir():
            path.write_bytes(b"")
    with pytest.raises(UserError, match=r"3 items of the data could not be read \(unreadable_limit\).*video_[012]/"):
        loop.run()
    assert 3 <= loop.loader.unreadable < 7 and saved(loop) == loop.counters.cur_nimg < 40
    assert f"The last saved state is that of {saved(loop) / 1000:g} kimg" in capsys.readouterr().out


def stopped(loop, before, *, after) -> str:
    """The error of a run that does something before the iteration with number `after`."""
    iterate = loop.iterate

    def iterate_after():
        if loop.counters.iteration == after:
            before()
        iterate()

    loop.iterate = iterate_after
    with pytest.raises(UserError) as caught:
        loop.run()
    loop.loader.close()
    return str(caught.value)


def test_data_that_are_gone_end_the_run_with_its_state_saved(tmp_path, capsys):
    """Such as those of a file server that does not answer any more."""
    loop = make_loop(tmp_path, "imgsnap=null", "kimg=0.2")
    error = stopped(loop, lambda: (tmp_path / "data").rename(tmp_path / "gone"), after=5)
    assert error.startswith("Stopped at 0.024 kimg: Cannot read the frame ")
    assert error.endswith(" The 15 others tried in its place failed too.")
    assert saved(loop) == loop.counters.cur_nimg == 24 and loop.loader.unreadable == 0
    assert "The last saved state is that of 0.024 kimg" in capsys.readouterr().out
    # When they are back, the run goes on with the batch that could not be read.
    (tmp_path / "gone").rename(tmp_path / "data")
    continued = make_loop(tmp_path, "imgsnap=null", "kimg=0.032", folder=loop.folder)
    continued.run()
    whole = make_loop(tmp_path, "imgsnap=null", "kimg=0.032")
    whole.run()
    weights = [each.networks.generator.mapping.w_avg for each in (whole, continued)]
    assert torch.equal(*weights) and continued.loader.position == 32


def test_shards_that_are_gone_end_the_run_with_its_state_saved(tmp_path):
    words = ["--resolution", "16", "--nframes", "4", "--format", "shards", "--shard-clips", "1", "--workers", "1"]
    source = write_frames(tmp_path / "frames") / "split"
    dataset_tool.main([str(source), str(tmp_path / "data"), *words], standalone_mode=False)
    loop = make_loop(tmp_path, "imgsnap=null", "kimg=0.2")
    error = stopped(loop, lambda: (tmp_path / "data").rename(tmp_path / "gone"), after=5)
    assert error.startswith("Stopped at 0.0") and error.endswith(" No other clip can be read either.")
    assert saved(loop) == loop.counters.cur_nimg >= 24


def test_dead_workers_end_the_run_with_its_state_saved(tmp_path):
    loop = make_loop(tmp_path, "imgsnap=null", "kimg=0.2")
    start = loop.loader._start

    def dying(position):
        if position < 12:
            yield from itertools.islice(start(position), 3)
        raise RuntimeError("DataLoader worker (pid(s) 12) exited unexpectedly")

    loop.loader._start = dying
    with pytest.raises(UserError, match=r"^Stopped at 0.012 kimg: Data workers have ended unexpectedly 4 times in a r"):
        loop.run()
    assert saved(loop) == 12


def test_replaced_items_are_counted_in_the_statistics(tmp_path, capsys):
    loop = make_loop(tmp_path, "imgsnap=null")
    for path in (tmp_path / "data" / "split" / "video_0").iterdir():
        path.unlink()
    loop.run()
    rows = [json.loads(line) for line in (loop.folder / "stats.jsonl").read_text().splitlines()]
    counts = [row["Progress/unreadable_items"]["mean"] for row in rows]
    order = itertools.islice(InfiniteSampler(dataset_size=5), 32)
    assert sum(counts) == loop.loader.unreadable == sum(index == 0 for _, index in order) >= 6
    assert "could not be read and were replaced" in capsys.readouterr().out


def test_old_snapshots_go_when_the_new_one_is_there(tmp_path, monkeypatch):
    loop = make_loop(tmp_path, "kimg=5", "snap=1", "imgsnap=null", "keep=2")
    (loop.folder / "best-fvd.pt").touch()
    for kimg in range(4):
        loop.counters.cur_nimg = kimg * 1000
        loop._saver.save_snapshot()
    names = sorted(path.name for path in loop.folder.glob("*-*.p*"))
    assert names == [
        "best-fvd.pt", "latest-network-snapshot.pt", "network-snapshot-000002.pt", "network-snapshot-000003.pt"
    ]  # fmt: skip
    loop.counters.cur_nimg = 4000
    monkeypatch.setattr(
        "training.checkpoints.saver.save_snapshot", lambda *_, **__: (_ for _ in ()).throw(UserError("full"))
    )
    with pytest.raises(UserError, match="full"):
        loop._saver.save_snapshot()
    assert sorted(path.name for path in loop.folder.glob("*-*.p*")) == names


def test_snapshots_of_earlier_versions_are_pruned_with_the_present_ones(tmp_path):
    loop = make_loop(tmp_path, "kimg=5", "snap=1", "imgsnap=null", "keep=2")
    for kimg in range(4):
        loop.counters.cur_nimg = kimg * 1000
        loop._saver.save_snapshot()
        if kimg < 2:
            for path in loop.folder.glob("*network-snapshot*.pt"):
                path.rename(path.with_suffix(".pkl"))
        if kimg == 1:  # a stop at the same place writes no second file
            loop._saver.save_snapshot(planned=False)
            assert not list(loop.folder.glob("*network-snapshot*.pt"))
        if kimg == 2:
            assert {path.name for path in loop.folder.glob("*network-snapshot*")} == {
                "latest-network-snapshot.pt", "network-snapshot-000001.pkl", "network-snapshot-000002.pt"
            }  # fmt: skip
    assert {path.name for path in loop.folder.glob("*network-snapshot*")} == {
        "latest-network-snapshot.pt", "network-snapshot-000002.pt", "network-snapshot-000003.pt"
    }  # fmt: skip


def test_a_stop_replaces_no_scheduled_snapshot(tmp_path):
    loop = make_loop(tmp_path, "kimg=50", "snap=1", "imgsnap=null")

    def save(cur_nimg, planned):
        loop.counters.cur_nimg = cur_nimg
        loop._saver.save_snapshot(planned=planned)

    def stored():
        return {
            path.name.removesuffix(".pt"): (progress["cur_nimg"], progress["planned"])
            for path in loop.folder.glob("*network-snapshot*")
            if (progress := load_snapshot(path)["progress"])
        }

    def scheduled():
        return [cur_nimg for _, cur_nimg, _ in planned_snapshots(loop.folder, until=50_000)]

    latest, twentieth, next_one = "latest-network-snapshot", "network-snapshot-000020", "network-snapshot-000021"
    save(20_000, True)
    keep_as_best(loop.folder / f"{twentieth}.pt", "fvd")
    save(20_400, False)
    assert stored() == {twentieth: (20_000, True), latest: (20_400, False)} and scheduled() == [20_000]
    assert (loop.folder / "best-fvd.pt").samefile(loop.folder / f"{twentieth}.pt")
    assert load_snapshot(loop.folder)["progress"]["cur_nimg"] == 20_400  # as resume= and --network_pkl read it
    save(20_800, False)
    save(21_100, False)  # nothing scheduled has this name
    assert stored() == {twentieth: (20_000, True), next_one: (21_100, False), latest: (21_100, False)}
    save(21_500, True)
    assert stored() == {twentieth: (20_000, True), next_one: (21_500, True), latest: (21_500, True)}
    assert scheduled() == [20_000, 21_500]
    assert (loop.folder / f"{latest}.pt").samefile(loop.folder / f"{next_one}.pt")
    (loop.folder / f"{next_one}.pt").write_text("damaged")
    save(21_900, False)
    assert stored() == {twentieth: (20_000, True), next_one: (21_900, False), latest: (21_900, False)}


# ----------------------------------------------------------------------------------------------------------------------
# Another number of processes


def test_statistics_of_several_processes_go_to_the_main_one():
    first, second, other = Statistics(), Statistics(), Statistics()
    first.report("x", 1.0)
    second.report("x", 3.0)
    second.report("y", 5.0)
    states = [first.state_dict(), second.state_dict()]
    other.load_state_dicts(states, main=False)
    assert other.reduce() == {}
    other.load_state_dicts(states)
    moments = other.reduce()
    assert moments["x"] == (2.0, 1.0, 2) and moments["y"] == (5.0, 0.0, 1)


def test_feedback_of_several_processes_is_summed_up():
    def make():
        controller, augment = AdaController(p=0.1, target=0.6), AdaAugment(pipeline="blit")
        return AdaFeedback(augment=augment, controller=controller, statistics=Statistics(), device="cpu")

    parts = [make(), make()]
    for part, values in zip(parts, ([1.0, 1.0, -1.0], [-1.0])):
        part.report("Loss/signs/real", torch.tensor(values))
        part.controller.p = 0.3
    states = [part.state_dict() for part in parts]
    main, other = make(), make()
    main.load_state_dicts(states)
    other.load_state_dicts(states, main=False)
    assert main.state_dict()["signs"].tolist() == [0.0, 4.0] and other.state_dict()["signs"].tolist() == [0.0, 0.0]
    assert main.controller.p == other.controller.p == 0.3


def test_data_that_cannot_be_read_at_all_leave_no_snapshot(tmp_path, capsys):
    loop = make_loop(tmp_path, "kimg=0.2")
    (tmp_path / "data").rename(tmp_path / "gone")
    with pytest.raises(UserError, match=r"^Stopped at 0 kimg: Cannot read the frame "):
        loop.run()
    loop.loader.close()
    assert "Nothing was saved yet" in capsys.readouterr().out
    assert [path.name for path in loop.folder.iterdir() if path.suffix == ".pt"] == []
