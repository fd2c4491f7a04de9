"""Run folders: numbers, names, finding them again."""

import errno
import fcntl
import multiprocessing
import re
from pathlib import Path

import pytest

from dnnlib import UserError
from training.launch.run_dir import (
    create_run_folder,
    find_run_folder,
    launcher_names,
    lock_run_folder,
    overrides_to_continue,
    remove_unfinished,
    slug,
    write_launcher_names,
)


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


def test_a_number_is_taken_once_without_locks(tmp_path, monkeypatch):
    """On some network file systems; here another process makes its folder after this one has looked for a number."""

    def flock(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    look, others = Path.iterdir, ["00000-other", "00001-other", ".00002.claim"]

    def iterdir(folder):
        found = list(look(folder))
        for name in others:
            (folder / name).mkdir()
        others.clear()
        return found

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert create_run_folder(tmp_path, "x").name == "00003-x"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".00002.claim", "00000-other", "00001-other", "00003-x",
    ]  # fmt: skip


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot make a run folder in outdir="):
        create_run_folder(tmp_path / "file" / "runs", "x")


def test_finding_a_run(tmp_path):
    folder = create_run_folder(tmp_path, "x")
    assert find_run_folder(tmp_path, "0") == find_run_folder(tmp_path, 0) == folder
    assert find_run_folder(tmp_path, "00000") == folder
    assert find_run_folder(None, str(folder)) == folder
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert find_run_folder(None, ".") == folder
        (folder / "images").mkdir()
        assert find_run_folder(None, "images/..") == folder
    with pytest.raises(UserError, match=re.escape("no run folder 00003-*")):
        find_run_folder(tmp_path, "3")
    with pytest.raises(UserError, match="no run folder"):
        find_run_folder(tmp_path / "nowhere", "3")
    with pytest.raises(UserError, match="needs outdir="):
        find_run_folder(None, "0")
    (tmp_path / "00000-x.zip").touch()  # the run, packed
    assert find_run_folder(tmp_path, "0") == folder
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


# ----------------------------------------------------------------------------------------------------------------------
# Commands that are started again


def names(monkeypatch, words, job_name=None, **environment):
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return launcher_names(words, job_name)


def begun_run(outdir, begun):
    folder = create_run_folder(outdir, "x")
    write_launcher_names(folder, begun)
    return folder


@pytest.mark.parametrize(
    "first, again",
    [
        (dict(TORCHELASTIC_RUN_ID="none", TORCHELASTIC_RESTART_COUNT="0"), dict(TORCHELASTIC_RESTART_COUNT="1")),
        (dict(TORCHELASTIC_RUN_ID="x1", TORCHELASTIC_RESTART_COUNT="0"), {}),  # new members are no restart
        (dict(SLURM_JOB_ID="7"), dict(SLURM_RESTART_COUNT="1")),
    ],
)
def test_a_command_that_is_started_again_finds_its_run(tmp_path, monkeypatch, first, again):
    words = [f"outdir={tmp_path}", "data=d", "resume=old.pkl", "seed=1"]
    begun = names(monkeypatch, words, **first)
    assert overrides_to_continue(words, begun) == words
    folder = begun_run(tmp_path, begun)
    begun_run(tmp_path, {"torchrun other": True})
    expected = [f"outdir={tmp_path}", "data=d", "seed=1", f"resume_run={folder}"]
    assert overrides_to_continue(words, names(monkeypatch, words, **(first | again))) == expected
    # Another command of the same job, another job, and no job at all begin runs of their own.
    other = [*words, "gpus=2"]
    assert overrides_to_continue(other, names(monkeypatch, other, **(first | again))) == other
    changed = {**first, **again, **{key: value + "0" for key, value in first.items() if key.endswith("_ID")}}
    assert overrides_to_continue(words, names(monkeypatch, words, **changed)) == words
    assert names(monkeypatch, words) == {} and overrides_to_continue(words, {}) == words


def test_two_commands_in_one_slurm_job_are_two_runs(tmp_path, monkeypatch):
    words = [f"outdir={tmp_path}"]
    begun_run(tmp_path, names(monkeypatch, words, SLURM_JOB_ID="7"))
    assert overrides_to_continue(words, names(monkeypatch, words, SLURM_JOB_ID="7")) == words


def test_a_submitted_job_is_known_by_its_name(tmp_path, monkeypatch):
    words = [f"outdir='{tmp_path}'"]
    begun = names(monkeypatch, words, "jobs/0")
    folder = begun_run(tmp_path, begun)
    assert overrides_to_continue(words, begun) == [*words, f"resume_run={folder}"]
    assert overrides_to_continue([*words, "resume_run=3"], begun) == [*words, "resume_run=3"]


def test_folders_of_others_do_not_disturb(tmp_path):
    words = [f"outdir={tmp_path}"]
    folder = begun_run(tmp_path, {"job 1": True})
    (create_run_folder(tmp_path, "unreadable") / "job.txt").mkdir()
    (create_run_folder(tmp_path, "damaged") / "job.txt").write_bytes(b"job \xff\n")
    assert overrides_to_continue(words, {"job 1": True}) == [*words, f"resume_run={folder}"]


def test_unfinished_files_are_removed_and_no_others(tmp_path):
    (tmp_path / "images").mkdir()
    unfinished = [".a.pkl.12-0a1b2c3d.tmp", "images/.b.png.7-ffffffff.tmp", ".latest-network-snapshot.pt.99.tmp"]
    others = ["a.pkl", ".hidden", "notes.tmp", ".notes.tmp", "images/x.12-0a1b2c3d.tmp"]
    for name in unfinished + others:
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == set(others)
