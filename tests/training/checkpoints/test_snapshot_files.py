"""Names of snapshots, those of earlier versions included, and the snapshots that are kept."""

import filecmp

import pytest

from dnnlib import UserError
from training.checkpoints.snapshot_files import (
    existing_snapshot,
    keep_as_best,
    keep_as_latest,
    latest_snapshot,
    listed_snapshots,
    numbered_snapshots,
    prune_snapshots,
    snapshot_name,
)
from training.checkpoints.training_state import read_state


def touch(folder, *names):
    for name in names:
        (folder / name).touch()


def names(paths):
    return [path.name for path in paths]


def test_the_newest_stay_and_other_names(tmp_path):
    for kimg in (5, 100, 20, 1):
        (tmp_path / snapshot_name(kimg * 1000)).touch()
    for name in ("best-fvd2048_16f.pt", "latest-network-snapshot.pt", "network-snapshot-x.pt", "training-state.pt"):
        (tmp_path / name).touch()
    prune_snapshots(tmp_path, 2)
    kept = {path.name for path in tmp_path.iterdir()}
    assert {name for name in kept if name[:7] == "network"} == {
        "network-snapshot-000020.pt", "network-snapshot-000100.pt", "network-snapshot-x.pt"
    }  # fmt: skip
    assert {"best-fvd2048_16f.pt", "latest-network-snapshot.pt", "training-state.pt"} < kept
    prune_snapshots(tmp_path, 5)
    assert {path.name for path in tmp_path.iterdir()} == kept
    (tmp_path / "latest-network-snapshot.pt").unlink()
    assert latest_snapshot(tmp_path).name == snapshot_name(100_000)


def test_a_snapshot_under_both_names_counts_once(tmp_path):
    touch(tmp_path, *(f"network-snapshot-{number:06d}.pkl" for number in (1, 2, 3)))
    touch(tmp_path, snapshot_name(3000), snapshot_name(10_000), "network-snapshot-000004.pth", "training-state.pt")
    expected = [
        "network-snapshot-000001.pkl", "network-snapshot-000002.pkl", "network-snapshot-000003.pt",
        "network-snapshot-000010.pt",
    ]  # fmt: skip
    numbered = numbered_snapshots(tmp_path)
    assert list(numbered) == [1, 2, 3, 10] and names(numbered.values()) == expected
    assert names(listed_snapshots(tmp_path)) == expected
    assert existing_snapshot(tmp_path, 2500).name == expected[1]
    assert existing_snapshot(tmp_path, 3999).name == expected[2]
    assert existing_snapshot(tmp_path, 4000) is None


def test_pruning_counts_both_names(tmp_path):
    touch(tmp_path, *(f"network-snapshot-{number:06d}.pkl" for number in (1, 2, 3)))
    touch(tmp_path, snapshot_name(3000), snapshot_name(4000), "best-fvd.pkl")
    prune_snapshots(tmp_path, 3)
    assert names(sorted(tmp_path.iterdir())) == [
        "best-fvd.pkl", "network-snapshot-000002.pkl", "network-snapshot-000003.pkl", "network-snapshot-000003.pt",
        "network-snapshot-000004.pt",
    ]  # fmt: skip
    prune_snapshots(tmp_path, 1)
    assert names(sorted(tmp_path.iterdir())) == ["best-fvd.pkl", "network-snapshot-000004.pt"]


def test_the_latest_is_listed_unless_it_is_another_name_of_a_snapshot(tmp_path):
    touch(tmp_path, "best-fvd.pt", snapshot_name(7000))
    assert names(listed_snapshots(tmp_path)) == ["best-fvd.pt", snapshot_name(7000)]
    latest = keep_as_latest(tmp_path / snapshot_name(7000))
    assert names(listed_snapshots(tmp_path)) == ["best-fvd.pt", snapshot_name(7000)]
    latest.unlink()
    latest.write_bytes((tmp_path / snapshot_name(7000)).read_bytes())  # where there are no hard links
    assert names(listed_snapshots(tmp_path)) == ["best-fvd.pt", snapshot_name(7000)]
    latest.write_text("of a stop, within the same thousand videos")
    assert names(listed_snapshots(tmp_path)) == ["best-fvd.pt", snapshot_name(7000), latest.name]
    (tmp_path / snapshot_name(7000)).unlink()
    (tmp_path / "best-fvd.pt").unlink()
    assert names(listed_snapshots(tmp_path)) == [latest.name]


def test_a_hard_link_is_not_read(tmp_path, monkeypatch):
    touch(tmp_path, "best-fvd.pt", snapshot_name(6000), snapshot_name(7000))
    keep_as_latest(tmp_path / snapshot_name(7000))
    monkeypatch.setattr(filecmp, "cmp", None)
    assert names(listed_snapshots(tmp_path)) == ["best-fvd.pt", snapshot_name(6000), snapshot_name(7000)]


def test_a_snapshot_that_is_deleted_meanwhile(tmp_path):
    for deleted in (3000, 7000):  # a link to nothing is listed in its folder, but cannot be looked at
        (tmp_path / snapshot_name(deleted)).symlink_to("nothing")
    latest = tmp_path / "latest-network-snapshot.pt"
    latest.write_text("of a stop, within the same thousand videos")
    assert names(listed_snapshots(tmp_path)) == [snapshot_name(3000), snapshot_name(7000), latest.name]


def test_a_folder_of_runs_is_told_from_a_run(tmp_path):
    for run in ("00000-clips", "00001-clips", "00002-clips"):
        (tmp_path / run).mkdir()
    touch(tmp_path / "00000-clips", snapshot_name(7000))
    touch(tmp_path / "00001-clips", snapshot_name(0))
    touch(tmp_path / "00002-clips", "log.txt")  # has not written a snapshot yet
    with pytest.raises(UserError) as error:
        latest_snapshot(tmp_path)
    assert str(error.value) == (
        f"There is no network snapshot (network-snapshot-*.pt) in the folder {tmp_path}, but in folders inside it, "
        f"such as {tmp_path / '00001-clips'}: name one of them."
    )
    with pytest.raises(UserError) as error:
        latest_snapshot(tmp_path / "00002-clips")
    folder = tmp_path / "00002-clips"
    assert str(error.value) == f"There is no network snapshot (network-snapshot-*.pt) in the folder {folder}."


def test_the_latest_under_either_name(tmp_path):
    with pytest.raises(UserError, match=r"no network snapshot \(network-snapshot-\*\.pt\) in the folder"):
        latest_snapshot(tmp_path)
    touch(tmp_path, "network-snapshot-000007.pkl")
    assert latest_snapshot(tmp_path).name == "network-snapshot-000007.pkl"
    touch(tmp_path, "latest-network-snapshot.pkl")
    assert latest_snapshot(tmp_path).name == "latest-network-snapshot.pkl"
    touch(tmp_path, "latest-network-snapshot.pt")
    assert latest_snapshot(tmp_path).name == "latest-network-snapshot.pt"


def test_a_better_snapshot_replaces_the_best_of_an_earlier_version(tmp_path):
    touch(tmp_path, "best-fvd.pkl", "best-kvd.pkl")
    (tmp_path / "network-snapshot-000007.pkl").write_text("seven")
    assert keep_as_best(tmp_path / "network-snapshot-000007.pkl", "fvd").name == "best-fvd.pt"
    assert (tmp_path / "best-fvd.pt").read_text() == "seven"
    assert names(listed_snapshots(tmp_path)) == ["best-fvd.pt", "best-kvd.pkl", "network-snapshot-000007.pkl"]


@pytest.mark.parametrize("suffix", [".pt", ".pkl"])
def test_a_run_that_has_come_further_needs_its_state(tmp_path, suffix):
    touch(tmp_path, f"network-snapshot-000000{suffix}", f"latest-network-snapshot{suffix}")
    assert read_state(tmp_path) is None
    touch(tmp_path, f"network-snapshot-000001{suffix}")
    with pytest.raises(UserError, match="its training-state.pt is missing"):
        read_state(tmp_path)
