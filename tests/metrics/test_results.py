"""Result files and the best snapshot."""

import dataclasses
import json
import math
import os
import resource

import pytest

from dnnlib import UserError
from metrics.metric_functions import STATISTICS
from metrics.results import append_row, differences, figures, is_best, read_metric_rows, result_path, row_summary
from training.checkpoints.snapshot_files import keep_as_best


def row(value, *, metric="fvd64_16f", higher=False, **more):
    return {"metric": metric, "value": value, "higher_is_better": higher, **more}


def test_rows(tmp_path):
    append_row(tmp_path, row(3.5, interval=(3, 4), further={"name": "a\u2028b"}))
    append_row(tmp_path, row(math.nan, further={"x": [math.inf, 1.0]}))
    path = result_path(tmp_path, "fvd64_16f")
    assert path.name == "metric-fvd64_16f.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert lines[0]["value"] == 3.5 and lines[0]["interval"] == [3, 4]
    assert lines[1]["value"] is None and lines[1]["further"] == {"x": [None, 1.0]}
    assert read_metric_rows(tmp_path, "fvd64_16f") == lines
    with open(path, "a") as file:
        file.write('{"metric": "fvd64_16f", "val')  # cut off while it was written
    assert read_metric_rows(tmp_path, "fvd64_16f") == lines
    assert read_metric_rows(tmp_path, "kvd64_16f") == []
    with pytest.raises(UserError, match="Cannot write .*metric-fvd64_16f.jsonl"):
        append_row(tmp_path / "nowhere", row(1.0))


def test_a_row_that_does_not_fit_leaves_nothing(tmp_path, monkeypatch):
    append_row(tmp_path, row(3.5))
    path = result_path(tmp_path, "fvd64_16f")
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))  # the system takes ten bytes
    try:
        with pytest.raises(UserError) as caught:
            append_row(tmp_path, row(4.5))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value) == f"Cannot write {path}: File too large."
    assert path.read_bytes() == before


def test_rows_that_cannot_be_read(tmp_path):
    result_path(tmp_path, "kvd64_16f").mkdir()
    with pytest.raises(UserError, match="^Cannot read .*metric-kvd64_16f.jsonl: Is a directory; repair or remove it.$"):
        read_metric_rows(tmp_path, "kvd64_16f")
    append_row(tmp_path, row(3.5))
    with open(result_path(tmp_path, "fvd64_16f"), "a") as file:
        file.write("[" * 100_000)
    assert [found["value"] for found in read_metric_rows(tmp_path, "fvd64_16f")] == [3.5]


def best_of(folder, values, **options):
    """Evaluate snapshots 'a', 'b', …; what best-….pt holds after each."""
    contents = []
    for letter, value in zip("abcdef", values):
        snapshot = folder / f"snapshot-{letter}.pt"
        snapshot.write_text(letter)
        entry = row(value, **options)
        append_row(folder, entry)
        if is_best(folder, entry):
            keep_as_best(snapshot, entry["metric"])
        best = folder / f"best-{entry['metric']}.pt"
        contents.append(best.read_text() if best.exists() else None)
    return contents


def test_best(tmp_path):
    assert best_of(tmp_path, [5.0, 3.0, 4.0, math.nan, 2.5, 2.6]) == ["a", "b", "b", "b", "e", "e"]
    assert best_of(tmp_path, [1.0, 3.0, 2.0], metric="is1k", higher=True) == ["a", "b", "b"]
    assert best_of(tmp_path, [1.0, 3.0], metric="motion32_16f", higher=None) == [None, None]
    assert best_of(tmp_path, [math.nan, 7.0], metric="warping32_2v") == [None, "b"]
    assert not list(tmp_path.glob(".*"))


def test_best_is_no_copy_and_outlives_the_snapshot(tmp_path):
    best_of(tmp_path, [5.0])
    snapshot, best = tmp_path / "snapshot-a.pt", tmp_path / "best-fvd64_16f.pt"
    assert os.stat(snapshot).st_ino == os.stat(best).st_ino
    snapshot.unlink()
    assert best.read_text() == "a"


def test_the_best_of_an_earlier_version_stays_until_one_is_better(tmp_path):
    old = tmp_path / "best-fvd64_16f.pkl"
    old.write_text("old")
    append_row(tmp_path, row(4.0))
    assert best_of(tmp_path, [5.0]) == [None] and old.read_text() == "old"
    assert best_of(tmp_path, [5.0, 3.0]) == [None, "b"] and not old.exists()


def test_best_without_hard_links(tmp_path, monkeypatch):
    def no_links(source, target):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert best_of(tmp_path, [5.0, 3.0, 4.0]) == ["a", "b", "b"]
    assert not list(tmp_path.glob(".*"))


def test_the_best_is_one_of_comparable_rows(tmp_path):
    """A run folder may also hold rows of other models, real videos, and feature extractors."""
    own = {"real_data": {"fingerprint": "1"}, "detector": {"file": "a.pt", "sha256": "1"}, "num_fake": 64}
    append_row(tmp_path, row(5.0, **own))
    others = [
        {"real_data": {"fingerprint": "2"}},
        {"detector": {"file": "a.pt", "sha256": "2"}},
        {"num_fake": 32},
        {"fake_name": "another-run"},
    ]
    for other in others:
        append_row(tmp_path, row(1.0, **own | other))
    assert is_best(tmp_path, row(4.0, **own)) and not is_best(tmp_path, row(6.0, **own))
    renamed = own | {"detector": {"file": "b.pt", "sha256": "1"}}
    assert is_best(tmp_path, row(4.0, **renamed)) and not is_best(tmp_path, row(6.0, **renamed))


def test_content_of_the_real_videos_decides_where_it_is_known():
    """The same clips, from frames that the dataset tool has thinned or not; rows of earlier versions say less."""
    thinned = row(1.0, num_real=9, frame_stride=1, real_data={"num_videos": 3, "fingerprint": "1"})
    assert differences(thinned, thinned | {"frame_stride": 4}) == []
    old = row(1.0, num_real=9, frame_stride=1, real_data={"num_videos": 3})
    assert differences(old, thinned) == differences(thinned, old) == []
    assert differences(old | {"frame_stride": 4}, thinned) == ["the frame stride"]
    other = thinned | {"real_data": {"num_videos": 3, "fingerprint": "2"}}
    assert differences(thinned, other) == ["the real videos"]
    assert differences(thinned, thinned | {"num_real": 8}) == ["the number of real samples"]


def test_real_videos_do_not_matter_to_what_is_not_compared_with_them():
    a = row(0.5, metric="ridentity32_16f", num_real=9, frame_stride=1, real_data={"fingerprint": "1"})
    b = a | {"num_real": 8, "frame_stride": 4, "real_data": {"fingerprint": "2"}}
    assert differences(a, b) == []
    found = ["the real videos", "the number of real samples"]
    assert differences(a | {"fake": {"labelled": True}}, b) == found  # the labels are theirs
    for name in ("rfvd64_16f", "rpr64k3_16f", "fvd64_16f_own", "removed_16f"):
        assert differences(a | {"metric": name}, b | {"metric": name}) == found
    assert differences(a | {"num_fake": 32}, b | {"num_fake": 16}) == ["the number of generated samples"]


@pytest.mark.parametrize("damaged", ["x", True, None, [1]])
def test_rows_with_damaged_entries_are_compared(damaged):
    entries = {"fake": damaged, "real_data": damaged, "detector": damaged, "protocol": damaged}
    assert differences(row(1.0, **entries), row(2.0, **entries)) == []
    assert figures("m", row(1.0, recall=damaged, interval=damaged))["m"] == (1.0, None, False)


def test_summary():
    entry = row(
        12.345,
        interval=[11.0, 13.0],
        num_fake=10,
        num_real=64,
        real_data={"num_short_videos": 3},
        protocol={"count": 64, "samples": "clips"},
        detector={"network": "i3d", "file": "x.pt", "sha256": "ab", "published_file": False},
        warning="NOT FVD",
    )
    text = row_summary(entry)
    for part in (
        "fvd64_16f 12.35 (95 %: 11 to 13)",
        "10 generated clips (only: the metric asks for 64)",
        "64 real",
        "3 real videos too short and left out",
        "x.pt IS NOT THE PUBLISHED FILE",
        "NOT FVD",
    ):
        assert part in text
    entry["detector"]["published_file"] = None
    assert "SHA-256 ab" in row_summary(entry)


def test_two_figures_are_named_by_the_measure(monkeypatch):
    own = dataclasses.replace(STATISTICS["precision_recall"], figures=("density", "coverage"))
    monkeypatch.setitem(STATISTICS, "precision_recall", own)
    name = "rpr64k3_16f"
    entry = row(0.75, metric=name, higher=None, interval=[0.5, 1.0], coverage=0.25, coverage_interval=[0.125, 0.375])
    entry |= {"num_fake": 64, "num_real": None, "protocol": {"count": 64, "samples": "clips"}, "detector": {}}
    assert row_summary(entry) == (
        f"{name} density 0.75 (95 %: 0.5 to 1), coverage 0.25 (95 %: 0.125 to 0.375); 64 generated clips"
    )
    assert figures(name, entry) == {
        f"{name} density": (0.75, [0.5, 1.0], True),
        f"{name} coverage": (0.25, [0.125, 0.375], True),
    }
    assert figures("fvd64_16f", entry) == {"fvd64_16f": (0.75, [0.5, 1.0], None)}
    assert figures("removed_16f", entry) == {"removed_16f": (0.75, [0.5, 1.0], None)}


def test_a_summary_says_how_many_samples_are_behind_a_value():
    entry = row(
        0.01,
        interval=None,
        num_fake=64,
        fake={"num_videos": 4},
        num_real=64,
        real_data={"num_videos": 1},
        num_measured=3,
        protocol={"count": 64, "samples": "clips"},
        detector={},
    )
    text = "fvd64_16f 0.01; 64 generated clips of 4 videos (only 3 have a value), 64 real of 1 video"
    assert row_summary(entry) == text
    complete = {"fake": {"num_videos": 64}, "num_measured": 64, "real_data": {"num_videos": 64}}
    assert row_summary(entry | complete) == "fvd64_16f 0.01; 64 generated clips, 64 real"
    complete["fake"] = {"num_videos": 64, "resolution": 32}
    assert row_summary(entry | complete) == "fvd64_16f 0.01; 64 generated clips, 64 real, 32×32 pixels"
    images = {"protocol": {"count": 64, "samples": "images"}}  # the real ones are the whole dataset
    assert row_summary(entry | images).endswith("; 64 generated images of 4 videos (only 3 have a value), 64 real")
