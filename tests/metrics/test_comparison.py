"""`python -m metrics --compare`: two models side by side."""

import json
import math

import click.testing
import pytest

from dnnlib import UserError
from metrics import __main__ as command
from metrics.comparison import comparison_lines, newest_rows


def write(folder, *rows):
    folder.mkdir(exist_ok=True)
    for row in rows:
        with open(folder / f"metric-{row['metric']}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"protocol": {"count": 2048}, "higher_is_better": False, **row}) + "\n")
    return folder


def lines(*folders):
    return [" ".join(line.split()) for line in comparison_lines(*folders)]


def test_side_by_side(tmp_path):
    similar = {"metric": "identity256_5v", "higher_is_better": True}
    pair = {"metric": "pr50k3_full", "higher_is_better": None, "value": 0.5, "interval": [0.4, 0.6]}
    a = write(
        tmp_path / "a",
        {"metric": "fvd2048_16f", "value": 1.0, "interval": [0.0, 2.0]},  # an older row
        {"metric": "fvd2048_16f", "value": 100.0, "interval": [97.0, 103.0], "checkpoint": "n.pkl", "cur_nimg": 2000},
        {**similar, "value": 0.9, "interval": [0.85, 0.95]},
        {**pair, "recall": 0.2, "recall_interval": [0.1, 0.3]},
        {"metric": "motion256_16f", "higher_is_better": None, "value": 1.0, "interval": None},
        {"metric": "kvd2048_16f", "value": 3.0, "interval": None},
    )
    b = write(
        tmp_path / "b",
        {"metric": "fvd2048_16f", "value": 90.0, "interval": [86.0, 94.0]},
        {**similar, "value": 0.88, "interval": [0.83, 0.93]},
        {**pair, "value": 0.8, "interval": [0.7, 0.9], "recall": 0.1, "recall_interval": [0.0, 0.2]},
        {"metric": "motion256_16f", "higher_is_better": None, "value": None, "interval": None},
    )
    reach = math.hypot(0.05, 0.05)
    assert lines(a, b) == [
        f"A: {a} (n.pkl, 2 kimg)",
        f"B: {b}",
        "metric A B B − A",
        "fvd2048_16f 100 (97 to 103) 90 (86 to 94) -10 ± 5 B is better",  # √(3² + 4²)
        f"identity256_5v 0.9 (0.85 to 0.95) 0.88 (0.83 to 0.93) -0.02 ± {reach:.2g} undecided",
        "motion256_16f 1 - -",
        "pr50k3_full precision 0.5 (0.4 to 0.6) 0.8 (0.7 to 0.9) +0.3 ± 0.14 B is better",
        "pr50k3_full recall 0.2 (0.1 to 0.3) 0.1 (0 to 0.2) -0.1 ± 0.14 undecided",
        f"Only in {a}: kvd2048_16f",
    ]
    reversed_lines = lines(b, a)
    assert "fvd2048_16f 90 (86 to 94) 100 (97 to 103) +10 ± 5 A is better" in reversed_lines


def test_damaged_entries_are_left_out(tmp_path):
    row = {"metric": "fvd2048_16f", "value": 1.0, "checkpoint": "n.pt"}
    a = write(tmp_path / "a", {**row, "cur_nimg": "24k", "interval": 3})
    b = write(tmp_path / "b", {**row, "cur_nimg": 24_000, "interval": [1.0]})
    assert lines(a, b)[:2] == [f"A: {a} (n.pt)", f"B: {b} (n.pt, 24 kimg)"]
    assert lines(a, b)[-1] == "fvd2048_16f 1 1 +0"


def test_columns_are_aligned(tmp_path):
    a = write(tmp_path / "a", {"metric": "fvd2048_16f", "value": 100.0, "interval": None})
    header, row = list(comparison_lines(a, a))[2:4]
    assert header.index("A") == row.index("100") and header.index("B − A") == row.index("+0")


def test_an_interval_that_ends_at_zero_is_as_wide_as_before(tmp_path):
    """A Fréchet distance of 1 ± 3 has the interval 0 to 4."""
    a = write(tmp_path / "a", {"metric": "fvd2048_16f", "value": 1.0, "interval": [0.0, 4.0]})
    b = write(tmp_path / "b", {"metric": "fvd2048_16f", "value": 4.0, "interval": [3.0, 5.0]})
    assert lines(a, b)[-1] == "fvd2048_16f 1 (0 to 4) 4 (3 to 5) +3 ± 3.2 undecided"  # √(3² + 1²)


def test_what_cannot_be_compared_is_said(tmp_path):
    row = {"metric": "fvd2048_16f", "value": 100.0, "interval": [99.0, 101.0]}
    a = write(tmp_path / "a", {**row, "detector": {"sha256": "1"}, "real_data": {"num_videos": 3}})
    other = {"value": 50.0, "interval": [49.0, 51.0], "detector": {"sha256": "2"}, "real_data": {"num_videos": 4}}
    b = write(tmp_path / "b", row | other)
    *_, line, note = lines(a, b)
    assert line.endswith("-50 ± 1.4")  # without a verdict
    assert (
        note
        == "fvd2048_16f: A and B differ in the feature extractor and the real videos: the values cannot be compared."
    )


def test_numbers_and_sizes_of_generated_samples_have_to_agree(tmp_path):
    """A Fréchet distance of few samples is larger, whatever the model."""
    row = {"metric": "fvd2048_16f", "value": 100.0, "interval": [99.0, 101.0], "num_fake": 2048}
    a = write(tmp_path / "a", row | {"fake": {"resolution": 64}})
    few = write(tmp_path / "few", row | {"value": 500.0, "num_fake": 64, "fake": {"resolution": 64}})
    large = write(tmp_path / "large", row | {"value": 50.0, "interval": [49.0, 51.0], "fake": {"resolution": 256}})
    same = write(tmp_path / "same", row | {"value": 50.0, "interval": [49.0, 51.0], "fake": {"resolution": 64}})
    assert "differ in the number of generated samples: the" in lines(a, few)[-1]
    assert "differ in the resolution of the generated videos: the" in lines(a, large)[-1]
    assert lines(a, same)[-1].endswith("B is better")


def test_real_videos_of_different_names_are_said(tmp_path):
    row = {
        "metric": "fvd2048_16f",
        "value": 100.0,
        "interval": [99.0, 101.0],
        "num_real": 2048,
        "real_data": {"num_videos": 9},
    }
    a, b = (write(tmp_path / x, {**row, "real_name": name}) for x, name in (("a", "train.zip"), ("b", "held-out.zip")))
    c = write(tmp_path / "c", row)  # of a training by an earlier version, which does not say
    assert "compared with the real videos 'train.zip', B with 'held-out.zip'" in lines(a, b)[-1]
    assert not any("real videos" in line for folders in ((a, a), (a, c)) for line in lines(*folders))


def test_numbers_of_real_samples_have_to_agree(tmp_path):
    row = {"metric": "fvd2048_16f", "value": 100.0, "interval": [99.0, 101.0], "num_real": 64}
    a, b = write(tmp_path / "a", row), write(tmp_path / "b", row | {"value": 50.0, "num_real": 8})
    line, note = lines(a, b)[-2:]
    assert line == "fvd2048_16f 100 (99 to 101) 50 (99 to 101) -50 ± 51"
    assert note == "fvd2048_16f: A and B differ in the number of real samples: the values cannot be compared."


def test_real_videos_are_known_by_their_content(tmp_path):
    def results(name, *, content, real_name):
        real = {"num_videos": 9, "fingerprint": content}
        more = {"num_real": 9, "real_data": real, "real_name": real_name}
        return write(tmp_path / name, {"metric": "fvd2048_16f", "value": 1.0, "interval": [0.0, 2.0], **more})

    a = results("a", content="1", real_name="train")
    renamed = results("renamed", content="1", real_name="clips.zip")
    other = results("other", content="2", real_name="train")
    assert lines(a, renamed)[-1] == "fvd2048_16f 1 (0 to 2) 1 (0 to 2) +0 ± 1.4 undecided"
    assert lines(a, other)[-1] == "fvd2048_16f: A and B differ in the real videos: the values cannot be compared."


def test_models_are_compared_by_what_does_not_depend_on_the_real_videos(tmp_path):
    def results(name, *, value, real_name, **more):
        row = {"metric": "ridentity32_16f", "higher_is_better": True, "value": value, "num_fake": 32, "num_real": 9}
        row |= {"interval": [value - 0.1, value + 0.1], "real_data": {"num_videos": 9}, "real_name": real_name}
        return write(tmp_path / name, row | more)

    a = results("a", value=0.5, real_name="train.zip")
    b = results("b", value=0.9, real_name="held-out.zip", num_real=8, real_data={"fingerprint": "2"}, frame_stride=4)
    assert lines(a, b)[3:] == ["ridentity32_16f 0.5 (0.4 to 0.6) 0.9 (0.8 to 1) +0.4 ± 0.14 B is better"]
    c = results("c", value=0.9, real_name="held-out.zip", fake={"labelled": True})
    assert lines(a, c)[-1].startswith("ridentity32_16f: A was compared with the real videos 'train.zip', B with ")


def test_one_extractor_under_two_names(tmp_path):
    row = {"metric": "fvd2048_16f", "value": 1.0, "interval": [0.0, 2.0]}
    a, b = (write(tmp_path / x, {**row, "detector": {"file": f"{x}.pt", "sha256": "1"}}) for x in "ab")
    assert lines(a, b)[-1].endswith("undecided")


def test_several_samples_of_one_video_allow_no_verdict(tmp_path):
    """They are resampled as if they were independent. The real samples are the same for both models."""
    row = {"metric": "fvd64_16f", "value": 9.0, "interval": [8.0, 10.0], "num_fake": 64, "num_real": 64}
    row |= {"protocol": {"count": 64, "samples": "clips"}, "real_data": {"num_videos": 4}}
    a = write(tmp_path / "a", row | {"fake": {"num_videos": 64}})
    b = write(tmp_path / "b", row | {"value": 90.0, "interval": [89.0, 91.0], "fake": {"num_videos": 4}})
    c = write(tmp_path / "c", row | {"value": 90.0, "interval": [89.0, 91.0], "fake": {}})
    line, note = lines(a, b)[-2:]
    assert line == "fvd64_16f 9 (8 to 10) 90 (89 to 91) +81 ± 1.4"
    assert note == (
        "fvd64_16f: the 64 generated clips of B are from 4 videos: those of one video are alike, so the interval is "
        "too narrow for a verdict."
    )
    assert lines(a, c)[-1].endswith("A is better")
    plain = write(tmp_path / "plain", row | {"interval": None, "fake": {"num_videos": 4}})
    assert lines(a, plain)[3:] == ["fvd64_16f 9 (8 to 10) 9 +0"]  # no interval, no verdict
    other = write(tmp_path / "other", row | {"num_real": 8, "fake": {"num_videos": 4}})
    assert lines(a, other)[4:] == [
        "fvd64_16f: A and B differ in the number of real samples: the values cannot be compared."
    ]


def test_means_over_different_numbers_of_samples_allow_no_verdict(tmp_path):
    row = {"metric": "warping256_2v", "value": 0.1, "interval": [0.09, 0.11], "num_fake": 256, "num_measured": 256}
    a = write(tmp_path / "a", row)
    b = write(tmp_path / "b", row | {"value": 0.01, "interval": [0.01, 0.01], "num_measured": 3})
    assert lines(a, b)[-1] == (
        "warping256_2v: A and B differ in the number of samples that have a value: the values cannot be compared."
    )


def test_metrics_of_other_checkpoints_than_the_first_are_said(tmp_path):
    row = {"value": 1.0, "checkpoint": "network-snapshot-020000.pt", "cur_nimg": 20_000_000}
    old = {"value": 1.0, "checkpoint": "network-snapshot-005000.pt", "cur_nimg": 5_000_000}
    kvd = {"metric": "kvd2048_16f"}
    a = write(tmp_path / "a", {"metric": "fvd2048_16f", **row}, {**kvd, **old})
    b = write(tmp_path / "b", {"metric": "fvd2048_16f", **row}, {**kvd, **row})
    assert lines(a, b)[-1] == (
        "kvd2048_16f: A is another model here than in the line above: network-snapshot-005000.pt, 5000 kimg."
    )
    assert lines(b, b)[-1] == "kvd2048_16f 1 1 +0"
    named = {**row, "fake_name": "run", "checkpoint": "latest.pt"}  # by python -m metrics
    c = write(tmp_path / "c", {"metric": "fvd2048_16f", **named, "checkpoint_sha256": "0" * 64}, {**kvd, **row})
    assert lines(c, c)[-1] == "kvd2048_16f 1 1 +0"
    write(c, {**kvd, **named, "checkpoint_sha256": "1" * 64})
    assert lines(c, b)[-1] == (
        "kvd2048_16f: A is another model here than in the line above: run, latest.pt, 20000 kimg, SHA-256 111111111111."
    )


def test_only_strides_of_frames_that_were_compared_with_have_to_agree(tmp_path):
    row = {"metric": "fvd2048_16f", "value": 100.0, "interval": [99.0, 101.0], "num_real": 2048}
    a, b = (write(tmp_path / f"{stride}", {**row, "frame_stride": stride}) for stride in (1, 4))
    assert lines(a, b)[-1] == "fvd2048_16f: A and B differ in the frame stride: the values cannot be compared."
    unknown = write(tmp_path / "unknown", row)  # of a training by an earlier version
    assert lines(a, unknown)[-1] == "fvd2048_16f 100 (99 to 101) 100 (99 to 101) +0 ± 1.4 undecided"
    # Given with --real, but not used by this metric.
    geometry = {"metric": "warping256_2v", "value": 0.5, "interval": None, "num_real": None, "real_data": None}
    c, d = (
        write(tmp_path / f"w{stride}", {**geometry, "frame_stride": stride, "real_name": f"data{stride}"})
        for stride in (1, 4)
    )
    assert lines(c, d)[-1] == "warping256_2v 0.5 0.5 +0"


def test_rows_without_a_figure(tmp_path):
    """Rows of the StyleGANs, whose files have these names; intervals without finite ends; rows cut mid-character."""
    a = write(tmp_path / "a", {"metric": "fid50k_full", "value": 3.0, "interval": [2, 4]})
    with open(a / "metric-fid50k_full.jsonl", "ab") as file:
        file.write(b'{"results": {"fid50k_full": 12.3}, "metric": "fid50k_full"}\n{"fake_name": "\xc3')
    b = write(tmp_path / "b", {"metric": "fid50k_full", "value": 5.0, "interval": [None, None]})
    assert lines(a, b)[-1] == "fid50k_full 3 (2 to 4) 5 +2"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "metric-fid50k_full.jsonl").write_text('{"results": {"fid50k_full": 12.3}, "metric": "fid50k_full"}\n')
    with pytest.raises(UserError, match="--compare: .*foreign holds no results"):
        newest_rows(foreign)


def test_mistakes(tmp_path):
    (tmp_path / "empty").mkdir()
    a = write(tmp_path / "a", {"metric": "fvd2048_16f", "value": 1.0})
    b = write(tmp_path / "b", {"metric": "kvd2048_16f", "value": 1.0})
    with pytest.raises(UserError, match="--compare: there is no folder .*none; give two that hold metric-<name>.jsonl"):
        newest_rows(tmp_path / "none")
    with pytest.raises(UserError, match="--compare: .*empty holds no results: evaluate its model with --outdir"):
        list(comparison_lines(a, tmp_path / "empty"))
    with pytest.raises(UserError, match=r"a \(fvd2048_16f\) and .*b \(kvd2048_16f\) share no metric"):
        list(comparison_lines(a, b))


def test_the_command_needs_no_other_option(tmp_path):
    a = write(tmp_path / "a", {"metric": "fvd2048_16f", "value": 1.0})
    result = click.testing.CliRunner().invoke(command.main, ["--compare", str(a), str(a)])
    assert result.exit_code == 0 and result.output.splitlines()[0] == f"A: {a}"
    assert "fvd2048_16f" in result.output
