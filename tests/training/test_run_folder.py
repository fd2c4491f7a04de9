"""Run folders: numbers, names, finding them again."""

import errno
import fcntl
import multiprocessing
import re

import pytest

from dnnlib import UserError
from training.run_folder import create_run_folder, find_run_folder, lock_run_folder, slug


def test_numbers_go_on_from_the_highest(tmp_path):
    out = tmp_path / "a" / "b"  # is made
    assert create_run_folder(out, "x").name == "00000-x"
    assert create_run_folder(out, "y").name == "00001-y"
    (out / "00007-z").mkdir()
    (out / "00009").mkdir()  # not a run
    (out / "notes-00020").mkdir()
    assert create_run_folder(out, "x").name == "00008-x"


def make_some(out, results):
    for _ in range(10):
        results.put(create_run_folder(out, f"p{multiprocessing.current_process().name[-1]}").name)


def test_processes_get_different_numbers(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=make_some, args=(tmp_path, results)) for _ in range(4)]
    for process in processes:
        process.start()
    names = [results.get(timeout=60) for _ in range(40)]
    for process in processes:
        process.join()
    assert sorted(int(name[:5]) for name in names) == list(range(40))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)  # and no lock file


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot make a run folder in outdir="):
        create_run_folder(tmp_path / "file" / "runs", "x")


def test_finding_a_run(tmp_path):
    folder = create_run_folder(tmp_path, "x")
    assert find_run_folder(tmp_path, "0") == find_run_folder(tmp_path, 0) == folder
    assert find_run_folder(tmp_path, "00000") == folder
    assert find_run_folder(None, str(folder)) == folder
    with pytest.raises(UserError, match=re.escape("no run folder 00003-*")):
        find_run_folder(tmp_path, "3")
    with pytest.raises(UserError, match="no run folder"):
        find_run_folder(tmp_path / "nowhere", "3")
    with pytest.raises(UserError, match="needs outdir="):
        find_run_folder(None, "0")
    (tmp_path / "00000-y").mkdir()
    with pytest.raises(UserError, match="several folders"):
        find_run_folder(tmp_path, "0")


def test_a_folder_has_one_owner(tmp_path):
    with lock_run_folder(tmp_path):
        with pytest.raises(UserError, match="Another process is training"):
            with lock_run_folder(tmp_path):
                raise AssertionError("not reached")
    with lock_run_folder(tmp_path):  # given back
        assert list(tmp_path.iterdir()) == []


def test_an_error_inside_stays_what_it_is(tmp_path):
    with pytest.raises(BlockingIOError, match="something else"):
        with lock_run_folder(tmp_path):
            raise BlockingIOError("something else")


def test_slug():
    assert slug("my faces (2)/ü.zip") == "my_faces_2_.zip"
    assert slug("/") == ""
    assert len(slug("x" * 500)) == 60


def test_file_systems_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock_run_folder(create_run_folder(tmp_path, "x")):
        assert (tmp_path / "00000-x").is_dir()
