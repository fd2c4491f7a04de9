"""Output of a run: the log file, the status line, the bar, TensorBoard."""

import errno
import io
import json
import logging
import sys

import pytest

from dnnlib import UserError
from torch_utils.training_stats import Moments
from training.monitoring.run_logger import FIELDS, LogFile, RunLogger, status_line

VALUES = {
    "tick": 3, "kimg": 12.5, "time": 3725.0, "sec/tick": 10.04, "sec/kimg": 2.5, "maintenance": 0.25, "cpumem": 1.5,
    "gpumem": 7.25, "augment": 0.125, "videos/s": 400.0, "left": 7384.0,
}  # fmt: skip


def reports(folder, *, next_tick=0, cur_nimg=0, active=True):
    position = {"next_tick": next_tick, "cur_nimg": cur_nimg, "total_nimg": 2000}
    return RunLogger(folder, **position, active=active, trackers=["tensorboard"], options={})


def test_status_line():
    line = (
        "tick 3 kimg 12.50 time 1h 02m 05s sec/tick 10.0 sec/kimg 2.50 maintenance 0.2 cpumem 1.50 gpumem 7.25 "
        "augment 0.125 videos/s 400.00 left 2h 03m 04s"
    )
    assert " ".join(status_line(VALUES).split()) == line
    nothing = dict.fromkeys(("sec/kimg", "videos/s", "left"), float("nan"))
    unknown = line.replace("kimg 2.50", "kimg -").replace("400.00", "-").replace("2h 03m 04s", "-")
    assert " ".join(status_line(VALUES | nothing).split()) == unknown


def test_a_row_is_valid_json_whatever_was_measured(tmp_path):
    report = reports(tmp_path)
    report.tick(VALUES, {"Loss/x": Moments(mean=float("nan"), std=1.0, count=4)})
    report.close()

    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    row = json.loads((tmp_path / "stats.jsonl").read_text(), parse_constant=refuse)
    assert {name: row[name] for name in FIELDS} == VALUES
    assert row["Loss/x"] == {"mean": None, "std": 1.0, "num": 4}


def test_events_for_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    report = reports(tmp_path)
    report.tick(VALUES, {"Loss/x": Moments(mean=2.0, std=1.0, count=4)})
    report.metrics(12_500, {"fvd": 99.0})
    report.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found["Loss/x"] == [(12_500, 2.0)]
    assert found["Progress/sec/kimg"] == [(12_500, 2.5)]
    assert found["Metrics/fvd"] == [(12_500, 99.0)]


def test_damaged_rows_do_not_keep_a_run_from_going_on(tmp_path):
    good = b'{"tick": 0, "kimg": 1.0}\n'
    damaged = b'{"tick": 0, \xff\xfe}\n' + b"\0" * 9 + b"\n[1]\n" + b"[" * 100_000 + b"\n"
    (tmp_path / "stats.jsonl").write_bytes(good + damaged + b'{"tick": 1}\n{"tick": 2}\n{"ti')
    RunLogger(tmp_path, next_tick=2, cur_nimg=8, total_nimg=16, active=True, trackers=(), options={}).close()
    assert (tmp_path / "stats.jsonl").read_bytes() == good + b'{"tick": 1}\n'


def test_statistics_that_cannot_be_read(tmp_path):
    (tmp_path / "stats.jsonl").mkdir()
    with pytest.raises(UserError, match="^Cannot write .*stats.jsonl: Is a directory; check that"):
        RunLogger(tmp_path, next_tick=2, cur_nimg=8, total_nimg=16, active=True, trackers=(), options={})


def test_without_tensorboard(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    report = reports(tmp_path)
    report.tick(VALUES, {})
    report.close()
    assert "TensorBoard is not installed" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["stats.jsonl"]


def test_other_processes_write_nothing(tmp_path, capsys):
    report = reports(tmp_path, active=False)
    report.tick(VALUES, {})
    report.metrics(1, {"fvd": 1.0})
    report.print("hello")
    report.close()
    assert capsys.readouterr() == ("", "") and list(tmp_path.iterdir()) == []


def test_the_bar_is_for_terminals(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def __init__(self, terminal):
            super().__init__()
            self.terminal = terminal

        def isatty(self):
            return self.terminal

    shown = {}
    for terminal in (True, False):
        stderr = Terminal(terminal)
        monkeypatch.setattr(sys, "stderr", stderr)
        report = reports(tmp_path, cur_nimg=500)
        report.advance(1000)
        report.close()
        shown[terminal] = stderr.getvalue()
    assert "1.50/2 kimg" in shown[True] and shown[False] == ""


@pytest.mark.parametrize("cur_nimg, more", [(30_000, 0), (0, 3000)])
def test_a_run_beyond_its_length_has_a_bar(cur_nimg, more, tmp_path, monkeypatch):
    """Its kimg= was lowered below what it has seen, or the last batch is large."""
    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", stderr)
    report = reports(tmp_path, cur_nimg=cur_nimg)
    report.advance(more)
    report.print("Done")
    report.close()
    assert f"{(cur_nimg + more) / 1000:.2f}/2 kimg" in stderr.getvalue()


def test_the_log_file_has_what_is_printed_and_the_error(tmp_path, capsys):
    path = tmp_path / "log.txt"
    path.write_text("from before\n")
    stdout = sys.stdout
    with pytest.raises(ValueError):
        with LogFile(path):
            print("hello")
            assert path.read_text() == "from before\nhello\n"  # at once
            raise ValueError("it broke")
    assert sys.stdout is stdout and capsys.readouterr().out == "hello\n"
    assert path.read_text().endswith("ValueError: it broke\n") and "Traceback" in path.read_text()


@pytest.fixture
def logged_from_warnings_on():
    """Python's default level of messages, which Hydra changes in a test that calls a command."""
    level = logging.root.level
    logging.root.setLevel(logging.WARNING)
    yield
    logging.root.setLevel(level)


@pytest.mark.usefixtures("logged_from_warnings_on")
@pytest.mark.parametrize("by", [None, "", "torch_utils", "torch_utils.custom_ops"])
def test_the_log_file_has_logged_warnings(tmp_path, capsys, monkeypatch, by):
    """They are on the terminal once, also where a logger of the calling program prints them itself."""
    for name in ("", "torch_utils", "torch_utils.custom_ops"):
        handlers = [logging.StreamHandler(sys.stderr)] if name == by else []
        monkeypatch.setattr(logging.getLogger(name), "handlers", handlers)
    with LogFile(tmp_path / "log.txt"):
        logging.getLogger("torch_utils.custom_ops").warning("Native operators are %s", "not available")
        logging.getLogger("torch_utils.custom_ops").info("unimportant")
    logging.getLogger("torch_utils.custom_ops").warning("after the run")
    assert (tmp_path / "log.txt").read_text() == "Native operators are not available\n"
    assert capsys.readouterr().err == "Native operators are not available\nafter the run\n"


def test_what_other_libraries_log_does_not_stop_the_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    with LogFile(tmp_path / "log.txt"):
        logging.getLogger("another").warning("%d frames", "many")
        monkeypatch.setattr(logging, "lastResort", None)  # as documented: nothing is printed
        logging.getLogger("another").warning("unseen")
    assert (tmp_path / "log.txt").read_text() == "unseen\n"
    said = capsys.readouterr().err
    assert said.count("--- Logging error ---") == 1 and "unseen" not in said


def test_names_that_are_no_text(tmp_path, monkeypatch):
    """Half a character, of a folder's name in another encoding."""
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with LogFile(folder / "log.txt"):
        logger = reports(folder)
        logger.print(f"Run folder: {folder.name}")
        logger.close()
    said = (folder / "log.txt").read_text(encoding="utf-8")
    assert "Run folder: caf\\udce9\n" in said
    assert "The folder's name is not UTF-8: no events for TensorBoard are written" in said


class Full(io.StringIO):
    """A file on a disk that is full."""

    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    flush = close = lambda self: self.write("")


def test_a_log_on_a_full_disk_hides_no_error(tmp_path, capsys, monkeypatch):
    log = LogFile(tmp_path / "log.txt")
    with pytest.raises(KeyError), log:
        monkeypatch.setattr(log, "_file", Full())
        print("still said")
        sys.stdout.flush()
        raise KeyError
    assert "still said" in capsys.readouterr().out


def test_a_log_that_cannot_be_opened(tmp_path):
    with (
        pytest.raises(UserError, match=r"Cannot write .*no/log.txt: No such file"),
        LogFile(tmp_path / "no" / "log.txt"),
    ):
        pass


def test_a_full_disk_ends_the_run_in_one_line_but_not_for_tensorboard(tmp_path, monkeypatch, capsys):
    report = reports(tmp_path)

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(report.trackers["tensorboard"].events, "add_scalar", fail)
    report.tick(VALUES, {})
    assert "No more TensorBoard events are written" in capsys.readouterr().out
    report.tick(VALUES, {})
    assert len((tmp_path / "stats.jsonl").read_text().splitlines()) == 2
    (tmp_path / "stats.jsonl").unlink()
    (tmp_path / "stats.jsonl").mkdir()
    with pytest.raises(UserError, match=r"Cannot write .*stats.jsonl: Is a directory"):
        report.tick(VALUES, {})
    report.close()
