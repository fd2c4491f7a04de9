"""Reading of run folders: sound, broken and malicious ones."""

import json
import math
import os

import pytest

from training.report.run_reader import (
    MAX_CURVES,
    MAX_METRIC_ROWS,
    MAX_POINTS,
    Curve,
    image_grids,
    log_lines,
    metric_rows,
    number,
    read_bytes,
    read_statistics,
    read_text,
    videos,
)


def write(path, *rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def test_statistics_are_read_by_name_with_gaps_and_whatever_else_is_in_the_file(tmp_path):
    path = write(
        tmp_path / "stats.jsonl",
        {"tick": 0, "kimg": 0.5, "Loss/b": {"mean": 1.0}, "Loss/a": {"mean": 4}, "augment": 0.25, "timestamp": 9},
        {"tick": 1, "kimg": 1.0, "Loss/b": {"mean": None}, "Loss/c": {"mean": "x"}, "augment": True},
        "[1, 2]\n",
        "[" * 100_000 + "\n",
        "\n",
        {"kimg": "many"},
        {"kimg": 0.75, "Loss/b": {"mean": 77}},  # goes back
        '{"kimg": 2.0, "Loss/b": {"mean": 1e400}, "Loss/a": {"mean": NaN}, "big": 1' + "0" * 400 + "}\n",
        {"kimg": 3.0, "Loss/b": {"mean": 5}, "Loss/a": 6, "x" * 1000: 1},
        '{"kimg": 4.0, "Loss/b": {"me',
    )
    curves, last, damaged = read_statistics(path)
    assert [curve.name for curve in curves] == ["Loss/a", "Loss/b", "augment"] and damaged == 4
    a, b, augment = ([(k, mean if math.isfinite(mean) else None) for k, mean, _, _ in c.points] for c in curves)
    assert a == [(0.5, 4), (2.0, None), (3.0, 6)]
    assert b == [(0.5, 1), (1.0, None), (2.0, None), (3.0, 5)]
    assert augment == [(0.5, 0.25), (1.0, None)]
    assert (curves[1].first, curves[1].last) == (1, 5) and math.isnan(curves[2].last)
    assert last["kimg"] == 3.0


def test_a_long_curve_keeps_its_mean_and_its_spikes_in_few_points():
    count = 10_000
    values = [math.sin(i / 500) for i in range(count)]
    values[7777] = 40.0
    curve = Curve.of("x", range(count), values)
    points = curve.points
    assert MAX_POINTS / 2 < len(points) <= MAX_POINTS
    assert max(high for _, _, _, high in points) == 40 and min(low for _, _, low, _ in points) == min(values)
    size = 2 ** math.ceil(math.log2(count / MAX_POINTS))
    for i in (0, 5, len(points) - 2):
        part = values[i * size : (i + 1) * size]
        assert points[i][0] == pytest.approx(i * size + (size - 1) / 2)
        assert points[i][1] == pytest.approx(sum(part) / size)
    assert (curve.first, curve.last) == (values[0], values[-1])


def test_numbers():
    assert number(3) == 3.0 and number(0.5) == 0.5
    assert all(math.isnan(number(x)) for x in (None, "1", True, [1], {}, 10**400))


def test_links_pipes_and_folders_are_not_read(tmp_path):
    (tmp_path / "secret").write_text("secret")
    os.symlink(tmp_path / "secret", tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", ".", "missing"):
        assert read_bytes(tmp_path / name, 10) is None and read_text(tmp_path / name) is None
    assert read_statistics(tmp_path / "pipe") == ([], {}, 0)
    assert read_text(tmp_path / "secret", limit=3) == "sec"
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    assert read_text(tmp_path / "latin") == "caf\ufffd"


def test_metrics(tmp_path):
    write(tmp_path / "metric-fvd.jsonl", {"value": 3}, {"value": None}, "{\n", {"value": 2, "cur_nimg": 4000})
    write(tmp_path / "metric-none.jsonl", {"value": "x"})
    (tmp_path / "metric-folder.jsonl").mkdir()
    assert metric_rows(tmp_path) == {"fvd": [{"value": 3}, {"value": 2, "cur_nimg": 4000}]}


def test_only_so_many_rows_and_curves_are_kept(tmp_path):
    """The newest rows of a metric, and the first statistics, of a file of any length."""
    write(tmp_path / "metric-fvd.jsonl", *({"value": i} for i in range(MAX_METRIC_ROWS + 2)))
    assert [row["value"] for row in metric_rows(tmp_path)["fvd"]] == list(range(2, MAX_METRIC_ROWS + 2))
    names = [f"{i:04d}" for i in range(MAX_CURVES + 2)]
    path = write(tmp_path / "stats.jsonl", *({"kimg": kimg, **dict.fromkeys(names, 1.0)} for kimg in (1, 2)))
    curves, last, _ = read_statistics(path)
    assert [curve.name for curve in curves] == names[:MAX_CURVES] and last["kimg"] == 2


def test_metrics_are_found_among_many_other_files(tmp_path):
    for i in range(MAX_CURVES + 1):
        (tmp_path / f"a{i}").touch()
    (tmp_path / "metric-fvd.jsonl").write_text('{"value": 3}\n')
    assert metric_rows(tmp_path) == {"fvd": [{"value": 3}]}


def test_log(tmp_path):
    lines = [f"tick {i}" for i in range(30)]
    lines[3], lines[4], lines[20] = "warning: flat", "Not saved, because x", "preview left out: disk"
    path = tmp_path / "log.txt"
    path.write_text("\n".join(lines) + "\n\n" + "y" * 3000)
    trouble, count, end = log_lines(path, most=2)
    assert trouble == ["Not saved, because x", "preview left out: disk"] and count == 3
    assert end[:-1] == lines[-14:] and end[-1] == "y" * 500
    assert log_lines(tmp_path / "missing", most=2) == ([], 0, [])


def test_media_by_kimg(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("fakes_random_000010.png", "fakes_random_000002.png", "fakes_frontal_000002.png", "x.png", "a_b.png"):
        (images / name).write_bytes(b"12")
    os.symlink(images / "x.png", images / "fakes_random_000003.png")
    (images / ".fakes_random_000004.png.12-ab.tmp").touch()
    grids = image_grids(tmp_path)
    assert {name: [(m.kimg, m.size) for m in grids[name]] for name in grids} == {
        "fakes_frontal": [(2, 2)], "fakes_random": [(2, 2), (10, 2)],
    }  # fmt: skip
    assert videos(tmp_path) == [] and image_grids(tmp_path / "missing") == {}
    for folder, names in (("000002", ["old.mp4"]), ("000010", ["b.mp4", "a.mp4", ".c.mp4.1.tmp"]), ("000020", [])):
        (tmp_path / "videos" / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / "videos" / folder / name).touch()
    assert [(media.name, media.kimg) for media in videos(tmp_path)] == [("a", 10), ("b", 10)]
