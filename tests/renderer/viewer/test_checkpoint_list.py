"""The checkpoints of a run folder whose training may be in progress."""

import os

import pytest

from dnnlib import UserError
from renderer.viewer import checkpoint_list as module
from renderer.viewer.checkpoint_list import CheckpointList
from training.checkpoints.snapshot_files import keep_as_latest, listed_snapshots


class Records:
    """Checkpoints are text files here: 'good', or what is wrong with them."""

    def __init__(self):
        self.loaded, self.checked, self.reports = [], [], []

    def load(self, path):
        self.loaded.append(path.name)
        return f"source of {self._text(path)}"

    def check(self, path):
        self.checked.append(path.name)
        self._text(path)

    def open(self, path):
        return CheckpointList(path, find=listed_snapshots, load=self.load, check=self.check, report=self.reports.append)

    @staticmethod
    def _text(path):
        text = path.read_text()
        if not text.startswith("good"):
            raise UserError(f"{path.name} is {text}.")
        return text


@pytest.fixture
def records():
    return Records()


def put(folder, number, text="good"):
    path = folder / f"network-snapshot-{number:06d}.pt"
    path.write_text(text)
    return path.name


def test_a_file_is_a_shelf_of_one(tmp_path, records):
    (tmp_path / "a.pkl").write_text("good")
    checkpoints = records.open(tmp_path / "a.pkl")
    assert checkpoints.names == ["a.pkl"] and checkpoints.newest == "a.pkl" and not checkpoints.refresh()
    assert checkpoints.source("a.pkl") == "source of good"


def test_snapshots_are_sorted_and_other_files_are_left_out(tmp_path, records):
    first, tenth = put(tmp_path, 1), put(tmp_path, 10)
    for name in ("best-fvd.pt", "training-state.pt", "x-network-snapshot-000001.pt"):
        (tmp_path / name).write_text("good")
    huge = put(tmp_path, 1_000_000)
    latest = keep_as_latest(tmp_path / huge)
    assert records.open(tmp_path).names == ["best-fvd.pt", first, tenth, huge]
    assert records.open(tmp_path).newest == huge
    latest.unlink()
    latest.write_text("good, and of a stop in the same thousand videos")
    assert records.open(tmp_path).newest == latest.name


def test_snapshots_of_earlier_versions_are_listed_once(tmp_path, records):
    first, third = put(tmp_path, 1), put(tmp_path, 3)
    for name in ("network-snapshot-000001", "network-snapshot-000002", "best-fvd", "best-kvd"):
        (tmp_path / f"{name}.pkl").write_text("good")
    (tmp_path / "best-kvd.pt").write_text("good")
    expected = ["best-fvd.pkl", "best-kvd.pt", first, "network-snapshot-000002.pkl", third]
    assert records.open(tmp_path).names == expected


def test_a_folder_that_is_gone_keeps_its_names(tmp_path, records):
    folder = tmp_path / "run"
    folder.mkdir()
    name = put(folder, 1)
    checkpoints = records.open(folder)
    folder.rename(tmp_path / "elsewhere")
    assert not checkpoints.refresh() and checkpoints.names == [name]


def test_new_ones_appear_and_deleted_ones_go(tmp_path, records):
    first = put(tmp_path, 1)
    checkpoints = records.open(tmp_path)
    assert not checkpoints.refresh()
    second = put(tmp_path, 2)
    assert checkpoints.refresh() and checkpoints.names == [first, second]
    (tmp_path / first).unlink()
    assert checkpoints.refresh() and checkpoints.names == [second]
    (tmp_path / second).unlink()
    assert not checkpoints.refresh() and checkpoints.names == [second], "what is in memory can still be looked at"
    with pytest.raises(UserError, match="no checkpoint .*1.pt any more"):
        checkpoints.source(first)


def test_broken_ones_are_skipped_with_one_message_until_they_change(tmp_path, records):
    good, bad = put(tmp_path, 1), put(tmp_path, 2, "damaged")
    checkpoints = records.open(tmp_path)
    for _ in range(3):
        checkpoints.refresh()
    assert checkpoints.names == [good] and records.reports == [f"skipped: {bad} is damaged."]
    assert sorted(records.checked) == [good, bad], "each was looked at once"
    put(tmp_path, 2, "good now")
    assert checkpoints.refresh() and checkpoints.newest == bad


def test_one_that_cannot_be_loaded_after_all_is_taken_away(tmp_path, records):
    put(tmp_path, 1)
    name = put(tmp_path, 2)
    checkpoints = records.open(tmp_path)
    os.utime(tmp_path / name)

    def fail(path):
        raise UserError("it does not fit.")

    checkpoints._load = fail
    with pytest.raises(UserError, match="does not fit"):
        checkpoints.source(name)
    assert checkpoints.refresh() and name not in checkpoints.names


def test_the_newest_that_can_be_loaded(tmp_path, records):
    first, second = put(tmp_path, 1), put(tmp_path, 2)
    checkpoints = records.open(tmp_path)
    assert checkpoints.newest_source() == (second, "source of good")
    put(tmp_path, 2, "damaged")
    assert checkpoints.newest_source() == (first, "source of good")
    assert records.reports == [f"skipped: {second} is damaged."]
    put(tmp_path, 1, "damaged")
    with pytest.raises(UserError, match="000001.pt is damaged"):
        checkpoints.newest_source()


def test_networks_stay_in_memory_but_not_many(tmp_path, records):
    names = [put(tmp_path, i) for i in range(module.KEPT + 1)]
    checkpoints = records.open(tmp_path)
    checkpoints.source(names[0])
    checkpoints.source(names[0])
    assert records.loaded == [names[0]]
    for name in names:
        checkpoints.source(name)
    checkpoints.source(names[0])
    assert records.loaded == [*names, names[0]]


def test_a_file_that_was_replaced_is_loaded_again(tmp_path, records):
    name = put(tmp_path, 1)
    checkpoints = records.open(tmp_path)
    assert checkpoints.source(name) == "source of good"
    put(tmp_path, 1, "good as new")
    assert checkpoints.source(name) == "source of good as new"
    (tmp_path / name).unlink()
    assert checkpoints.source(name) == "source of good as new", "it is in memory"


def replace(path, text):
    """As a training replaces its best snapshot."""
    path.with_name("new").write_text(text)
    os.replace(path.with_name("new"), path)


def test_a_file_that_is_replaced_is_noticed_once(tmp_path, records):
    name = put(tmp_path, 1)
    (tmp_path / "best-fvd.pt").write_text("good")
    checkpoints = records.open(tmp_path)
    before = dict(checkpoints.states)
    replace(tmp_path / "best-fvd.pt", "good as new")
    assert checkpoints.refresh() and not checkpoints.refresh()
    assert checkpoints.names == ["best-fvd.pt", name]
    assert checkpoints.states[name] == before[name] and checkpoints.states["best-fvd.pt"] != before["best-fvd.pt"]
    assert checkpoints.source("best-fvd.pt") == "source of good as new"


def test_a_single_file_that_is_replaced(tmp_path, records):
    path = tmp_path / "a.pt"
    path.write_text("good")
    checkpoints = records.open(path)
    assert checkpoints.newest_source() == ("a.pt", "source of good") and not checkpoints.refresh()
    assert records.checked == [], "it has been loaded"
    replace(path, "damaged")
    assert not checkpoints.refresh() and not checkpoints.refresh() and records.reports == ["skipped: a.pt is damaged."]
    replace(path, "good as new")
    assert checkpoints.refresh() and checkpoints.source("a.pt") == "source of good as new"
    path.unlink()
    assert not checkpoints.refresh() and checkpoints.names == ["a.pt"]


def test_a_folder_with_nothing_to_look_at(tmp_path, records):
    put(tmp_path, 1, "damaged")
    with pytest.raises(UserError, match="no network snapshot .* to look at"):
        records.open(tmp_path)
    assert len(records.reports) == 1
