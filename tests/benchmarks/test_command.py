"""`python -m benchmarks`: sections become one summary, one file; profiles become traces."""

import json

import pytest
from click.testing import CliRunner

from benchmarks import data_loading, sections
from benchmarks.__main__ import chosen, main
from benchmarks.sections import BenchmarkSettings, Report, Row, summary_table
from dnnlib import UserError


def test_the_summary_shows_what_is_known():
    rows = [Row("a frame", 0.125, multiple=256.4, fraction=0.512, peak=1.25e9), Row("a distance", 2.0)]
    lines = summary_table(rows).splitlines()
    assert lines[2] == "| a frame | 0.125 | 256 | 51% | 1.25 |"
    assert lines[3] == "| a distance | 2 |  |  |  |"


def test_sections_are_chosen_by_name_and_keep_their_order():
    names = list(sections.SECTIONS)
    assert chosen(None) == names and chosen(f"{names[2]},{names[0]}") == [names[0], names[2]]
    with pytest.raises(UserError, match="there is no section 'speed'; choose from "):
        chosen("speed,data")


def test_a_quick_run_prints_tables_and_writes_figures(tmp_path, monkeypatch):
    monkeypatch.setitem(
        sections.SECTIONS,
        "data",
        lambda settings: settings.tell("read fast") or Report({"rounds": settings.rounds}, [Row("pair", 0.5)]),
    )
    words = ["--quick", "--only", "metrics,data", "--json", str(tmp_path / "b.json")]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0 and "read fast" in result.output and "| pair | 0.5 |" in result.output
    assert "| Fréchet distance, 64 × " in result.output
    content = json.loads((tmp_path / "b.json").read_text())
    assert content["data"] == {"rounds": 1} and content["facts"]["quick"] is True and "torch" in content["facts"]
    assert all(row["seconds"] > 0 for row in content["metrics"].values())


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setitem(sections.SECTIONS, "data", None)
    (tmp_path / "file").touch()
    for option, path, message in (
        ("--json", tmp_path / "new" / "b.json", f"--json: there is no folder for '{tmp_path}/new/b.json': make it, or"),
        ("--json", tmp_path, f"Invalid value for '--json': File '{tmp_path}' is a directory."),
        ("--profile", tmp_path / "file", f"Invalid value for '--profile': Directory '{tmp_path}/file' is a file."),
    ):
        result = CliRunner().invoke(main, ["--only", "data", option, str(path)])
        assert message in (str(result.exception) if isinstance(result.exception, UserError) else result.output)


def test_data_is_compared_with_pillow_alone(monkeypatch):
    rates = {"PNG 256²": {"limit": 100.0, "folder": 80.0}}
    listing = {"frames": 320, "first": 2.0, "again": 0.5}
    monkeypatch.setattr(data_loading, "measure", lambda **_: {"pairs per second": rates, "listing": listing})
    told = []
    report = sections.data_section(BenchmarkSettings(quick=True, rounds=1, tell=told.append))
    assert list(report.rows) == [Row("a pair of frames, PNG 256², folder", 1 / 80, fraction=0.8)]
    (text,) = told
    assert "80 ( 80%)" in text and "listing 320 frames: 2.00 s, again 0.50 s" in text


def test_profiles_are_traces_and_tables(tmp_path):
    result = CliRunner().invoke(
        main, ["--quick", "--only", "rendering", "--profile", str(tmp_path)], catch_exceptions=False
    )
    assert result.exit_code == 0
    rows = [line for line in result.output.splitlines() if line.startswith("| `")]
    assert len(rows) == 10
    assert json.loads((tmp_path / "render.json").read_text())["traceEvents"]
