"""Snapshots that are kept."""

from training.checkpoints.snapshot import latest_snapshot, prune_snapshots, snapshot_name


def test_the_newest_stay_and_other_names(tmp_path):
    for kimg in (5, 100, 20, 1):
        (tmp_path / snapshot_name(kimg * 1000)).touch()
    for name in ("best-fvd2048_16f.pkl", "latest-network-snapshot.pkl", "network-snapshot-x.pkl", "training-state.pt"):
        (tmp_path / name).touch()
    prune_snapshots(tmp_path, 2)
    kept = {path.name for path in tmp_path.iterdir()}
    assert {name for name in kept if name[:7] == "network"} == {
        "network-snapshot-000020.pkl", "network-snapshot-000100.pkl", "network-snapshot-x.pkl"
    }  # fmt: skip
    assert {"best-fvd2048_16f.pkl", "latest-network-snapshot.pkl", "training-state.pt"} < kept
    prune_snapshots(tmp_path, 5)
    assert {path.name for path in tmp_path.iterdir()} == kept
    (tmp_path / "latest-network-snapshot.pkl").unlink()
    assert latest_snapshot(tmp_path).name == snapshot_name(100_000)
